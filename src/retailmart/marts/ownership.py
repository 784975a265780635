"""Replace only what this project has published: tables of others are named and left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retailmart.database import is_same_database, known
from retailmart.database.added import dependents, standing
from retailmart.database.dialect import dialect_of, names_in
from retailmart.database.target import drop_table as drop_from
from retailmart.database.target import is_marked
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.ledger import READS, Ledger
from retailmart.ledger.values import PublishedTable
from retailmart.marts.fit import NAME_FIX
from retailmart.marts.publish import taken_columns
from retailmart.project import Mart, Project
from retailmart.report import LeftTable
from retailmart.tables import Field

if TYPE_CHECKING:
    from sqlalchemy import Connection


_TABLE_FIX = "Publish the mart as another table: `publish: NAME` in its header"
_STANDING_FIX = "Rename it there, or publish the mart as another: `publish: NAME` in its header"


@dataclass(frozen=True)
class _Look:
    """The tables of the database and what is known of them, by their folded names.

    `there` maps each to "table" or "view"; `ours` are those that were ever published; `read` are
    the source tables in this database; `shown` maps the tables of today's marts → the mart.
    """

    fold: Callable[[str], str]
    there: Mapping[str, str]
    ours: Mapping[str, PublishedTable]
    read: frozenset[str]
    shown: Mapping[str, str]

    @classmethod
    def at(cls, connection: Connection, project: Project, ledger: Ledger) -> _Look:
        """The state of a connected database."""
        fold = str.lower if dialect_of(connection).folds_names(connection) else str
        marts = project.marts.values()
        known = ledger.marts.published() if ledger.is_there() else ()
        return cls(
            fold,
            {fold(table): kind for table, kind in standing(connection).items()},
            {fold(table.name): table for table in known},
            frozenset(map(fold, _read_from_there(project, ledger))),
            {fold(mart.publish_as): mart.name for mart in marts if mart.publish_as},
        )

    def left_over(self) -> tuple[LeftTable, ...]:
        """Published tables that no mart is published as any more."""
        return tuple(
            LeftTable(table.name, table.mart)
            for name, table in self.ours.items()
            if self.there.get(name) == "table" and name not in (*self.shown, *self.read)
        )


def expect_fit_names(project: Project, columns: Mapping[str, Sequence[Field]]) -> None:
    """Raise SettingsError if the database cannot hold what it is told to, by its names alone.

    Nothing is asked of it. `columns` are those of marts, as far as they are known.
    """
    kind, url = known(project.database_url())
    problems, hints = [], []
    if why := kind.names.wrong_schema(kind.schema(url)):
        problems.append(f"{project.source.at(('database',))}: database: {why}")
        hints.append("Name a database, or a schema, of your own")
    for mart in project.marts.values():
        if mart.publish_as is None:
            continue
        if kind.file(url, project.folder) and (why := kind.names.wrong_table(mart.publish_as)):
            problems.append(_of_table(mart, why))
            hints.append(_TABLE_FIX)
        names = [field.name for field in columns.get(mart.name, ())]
        for name, why in kind.names.wrong_columns(names):
            problems.append(f"{_query_of(mart)}: the column {name!r}: {why}")
            hints.append(NAME_FIX.format(column=name))
    if problems:
        raise SettingsError(problems, "\n  ".join(dict.fromkeys(hints)))


def expect_own_columns(
    project: Project, ledger: Ledger, lake: Lake, columns: Mapping[str, tuple[Field, ...]]
) -> None:
    """Raise SettingsError if marts would get columns that people have added to their tables."""
    tables = ledger.marts.published() if ledger.is_there() else ()
    marts = [mart for name, mart in project.marts.items() if name in columns]
    with ledger.database.execution_options(**{READS: True}).connect() as connection:
        found = [
            (mart, taken)
            for mart in marts
            if (taken := taken_columns(connection, lake, tables, mart, columns[mart.name]))
        ]
    if found:
        problems = [f"{_query_of(mart)}: {taken.message}" for mart, taken in found]
        raise SettingsError(problems, "\n  ".join(str(taken.hint) for _, taken in found))


def _of_table(mart: Mart, why: str) -> str:
    return f"{mart.header.at(('publish',))}: publish: {mart.publish_as!r}: {why}"


def _query_of(mart: Mart) -> str:
    return f"marts/{mart.name}.sql:{mart.first_line}"


def expect_own_tables(project: Project, ledger: Ledger) -> tuple[LeftTable, ...]:
    """Raise SettingsError if marts would be published over tables of others, and name these.

    Returns the published tables that no longer belong to a mart.
    """
    problems, stands = [], False
    dialect = dialect_of(ledger.database)
    with ledger.database.execution_options(**{READS: True}).connect() as connection:
        look = _Look.at(connection, project, ledger)
        for mart in project.marts.values():
            if mart.publish_as is None:
                continue
            name, place = mart.publish_as, mart.header.at(("publish",))
            folded = look.fold(name)
            kind = look.there.get(folded)
            # A run interrupted just before its COMMIT has left its version tag, nothing else.
            ours = folded in look.ours or is_marked(dialect.mark_of(connection, name))
            was = look.ours[folded].name if folded in look.ours else name
            if was != name:
                same = f"the table is {was!r}, and letter case makes no other one of it"
                problems.append(f"{_of_table(mart, same)}; write `publish: {was}`")
            elif folded in look.read:
                stands = True
                problems.append(f"{place}: publish: {name!r} is a source table, which is only read")
            elif not ours and (why := names_in(connection).wrong_table(name)):
                problems.append(_of_table(mart, why))
            elif kind == "view" or (kind and not ours):
                stands = True
                problems.append(
                    f"{place}: publish: the database has a {kind} {name!r} that this project did"
                    " not publish"
                )
    if problems:
        raise SettingsError(problems, _STANDING_FIX if stands else _TABLE_FIX)
    return look.left_over()


def expect_known_spelling(project: Project, ledger: Ledger) -> None:
    """Raise SettingsError if a feed's or table's name differs only in letter case from before.

    What was loaded by the old name would be left behind: to SQL, both are one.
    """
    if not ledger.is_there():
        return
    problems = []
    for folder, names, loaded in (
        ("feeds", project.feeds.keys(), ledger.files.feeds_delivered()),
        ("tables", project.tables.keys(), ledger.sources.all().keys()),
    ):
        before = {name.lower(): name for name in loaded}
        problems += [
            f"{folder}/{name}.yml: its rows were loaded as {old}; rename the file to {old}.yml"
            for name in names - loaded
            if (old := before.get(name.lower())) is not None
        ]
    if problems:
        raise SettingsError(problems, "In SQL, letter case tells no names apart")


def drop_table(project: Project, ledger: Ledger, lake: Lake, name: str) -> bool:
    """Drop a published table that no longer belongs to a mart. Returns whether it still existed.

    Raises RetailmartError, which says why it is not dropped; then nothing has changed.
    """
    with ledger.database.execution_options(**{READS: True}).connect() as connection:
        look = _Look.at(connection, project, ledger)
        folded = look.fold(name)
        kind, table = look.there.get(folded), look.ours.get(folded)
        if table is None:
            raise RetailmartError(*_unknown(look, name))
        if folded in look.shown:
            mart = look.shown[folded]
            raise RetailmartError(
                f"mart {mart} is published as table {name}, so that the next run would write it",
                f"Remove marts/{mart}.sql, or `publish` from its header; then drop the table",
            )
        if folded in look.read:
            raise RetailmartError(f"table {name} is a source table, which is only read")
        if kind == "view":
            raise RetailmartError(f"{name} is a view, which this project did not publish")
        added = _added(connection, lake, table) if kind else ()
    if added:
        raise RetailmartError(
            f"table {table.name} is not dropped: people added {', '.join(added)}",
            f"Take these away, then run again: retailmart marts drop {table.name}",
        )
    with ledger.transaction() as connection:
        ledger.marts.forget_published(connection, table.name)
        if dialect_of(connection).ddl_in_transaction:
            drop_from(connection, table.name)
        else:
            # Before the COMMIT: if that is lost, the ledger still knows the table as ours, and the
            # command can be repeated. The transaction holds the lease meanwhile.
            with ledger.database.begin() as other:
                drop_from(other, table.name)
    return kind is not None


def _added(connection: Connection, lake: Lake, table: PublishedTable) -> tuple[str, ...]:
    """What people have added to a table that would be lost or broken without it."""
    columns: list[str] = []
    if table.mart is not None and table.version is not None:
        state = lake.state(mart_table(table.mart), table.version)
        fold = names_in(connection).fold
        own = {fold(field.name) for field in state.fields} if state else None
        has = dialect_of(connection).columns_of(connection, table.name)
        columns = [f"column {name}" for name in has if own is not None and fold(name) not in own]
    return (*columns, *dependents(connection, table.name))


def _unknown(look: _Look, name: str) -> tuple[str, str]:
    """The message and the hint for a name that the ledger does not know."""
    left = look.left_over()
    tables = ", ".join(table.name for table in left) or "none"
    return (
        f"the ledger knows no table {name!r} that this project has published",
        f"Tables of marts that are gone: {tables}",
    )


def _read_from_there(project: Project, ledger: Ledger) -> set[str]:
    """The source tables that are read from the same database to which marts are published."""
    target = project.database_url()
    same = [
        name
        for name in project.settings.sources
        if is_same_database(project.source_url(name), target, project.folder)
    ]
    if not same:
        return set()
    tables = project.tables.values()
    declared = {table.table for table in tables if table.source in (None, *same)}
    read = ledger.sources.all() if ledger.is_there() else {}
    return declared | (read.keys() - project.tables.keys())
