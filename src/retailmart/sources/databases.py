"""The shop's own databases: opened on first use, and which of them has a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from retailmart.database import interrupt
from retailmart.database.source import extract_of, fields_of, table_names, version_of
from retailmart.errors import RetailmartError, SettingsError
from retailmart.ledger.values import SourceRecord
from retailmart.project.documents import did_you_mean
from retailmart.project.table import Table
from retailmart.sources.parts import Deferred
from retailmart.tables import Field

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

# A source's table becomes a folder: its name must not lead elsewhere, and the lake's library takes
# `%41` for A.
_FOLDER_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f-\x9f/\\%]{1,100}")


@dataclass
class Sources:
    """The shop's own databases in one run, each opened on its first use.

    The engine reads tables of `large` rows and more, in parts; with None, it reads no table.
    """

    names: tuple[str, ...]
    open: Callable[[str], Database]
    large: int | None = None
    _opened: dict[str, Database] = field(default_factory=dict)
    _offered: dict[str, frozenset[str]] = field(default_factory=dict)
    _versions: dict[str, str | None] = field(default_factory=dict)

    def interrupt(self) -> None:
        """Break off what is read from the sources now; another thread's call."""
        for opened in list(self._opened.values()):
            interrupt(opened)

    def database(self, source: str) -> Database:
        """A source's database."""
        if source not in self._opened:
            self._opened[source] = self.open(source)
        return self._opened[source]

    def offered(self, source: str) -> frozenset[str]:
        """The tables and views of a source."""
        if source not in self._offered:
            self._offered[source] = table_names(self.database(source))
        return self._offered[source]

    def version(self, source: str) -> str | None:
        """A text that changes with anything in a source; None if only reading would show it."""
        if source not in self._versions:
            version = version_of(self.database(source))
            self._versions[source] = None if version is None else f"{source}={version}"
        return self._versions[source]

    def is_as_it_was(self, source: str | None, table: Table, known: SourceRecord) -> bool:
        """Whether a table's source has not changed at all, found without asking for its tables."""
        if known.version is None or known.definition != table.definition:
            return False
        return source in self.names and self.version(str(source)) == known.version

    def has(self, table: Table) -> str | None:
        """The source that has a table; None if none has."""
        asked = (table.source,) if table.source is not None else self.names
        return next((source for source in asked if table.table in self.offered(source)), None)

    def fields(self, source: str, table: Table) -> tuple[Field, ...]:
        """The columns of a source's table by their names in marts, found without reading a row."""
        found = fields_of(self.database(source), table.table, table.rules)
        names = table.own_names([field.name for field in found])
        return tuple(replace(f, name=name) for f, name in zip(found, names, strict=True))

    def deferred(self, source: str, table: Table) -> Deferred | None:
        """The deferred scan of a table that is large enough for the engine; None for any other."""
        if self.large is None:
            return None
        database = self.database(source)
        extract = extract_of(database, table.table, self.large, table.rules)
        return None if extract is None else Deferred(database, extract, table.rules)

    def close(self) -> None:
        """Close the databases; the next run opens them again."""
        for database in self._opened.values():
            database.dispose()


def locate(
    wanted: Iterable[tuple[Table, str]], sources: Sources, known: Iterable[str], taken: set[str]
) -> tuple[dict[str, tuple[str, Table]], tuple[Table, ...]]:
    """Find each wanted table: its name → the source that has it; and those that are nowhere.

    `wanted` pairs a table with the place that names it, `known` are those that were read before,
    `taken` are the project's own names. Raises SettingsError, which names those that are nowhere,
    were never read and are not declared.
    """
    found: dict[str, tuple[str, Table]] = {}
    missing: list[Table] = []
    problems = []
    for table, place in wanted:
        if not _FOLDER_NAME.fullmatch(table.name):
            problems.append(
                f"{place}: the table {table.name!r} cannot be a folder of the lake by this name;"
                " make a view of it under a plain one"
            )
            continue
        if (source := sources.has(table)) is not None:
            found[table.name] = (source, table)
        elif table.declared or table.name in known:
            missing.append(table)
        else:
            names = {*taken, *(n for source in sources.names for n in sources.offered(source))}
            hint = did_you_mean(table.name, names)
            problems.append(f"{place}: {table.name!r} is no feed, mart or table of a source{hint}")
    if problems:
        raise SettingsError(problems, "Sources are named under `sources` in retailmart.yml")
    return found, tuple(missing)


def gone(table: Table) -> RetailmartError:
    """The error for a table that was read before and is in no source now."""
    return RetailmartError(
        f"the source has no table {table.table!r} any more",
        f"Bring it back, or remove the marts that read it and tables/{table.name}.yml",
    )
