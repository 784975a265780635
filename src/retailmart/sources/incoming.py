"""Bring what was read into the columns of the lake's table, and check its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retailmart.engines import Engine, Relation
from retailmart.errors import RetailmartError
from retailmart.feeds.evolve import joined
from retailmart.lake.layout import raw_table
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Table
from retailmart.sources.detect import SourceChange
from retailmart.sources.form import (
    DELTA,
    files_in,
    has_versions,
    layers_of,
    own_fields,
    same_key,
    stored_fields,
)
from retailmart.tables import Field, TableState, quoted

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Incoming:
    """What was read of a table: `rows` with the columns and types that the lake's table will have.

    `delivered` are the rows as they were read. With `since_cursor` they are not all rows, but those
    at or after the watermark.
    """

    table: Table
    record: SourceRecord
    fields: tuple[Field, ...]
    delivered: Relation
    rows: Relation
    since_cursor: bool

    @property
    def columns(self) -> str:
        """SQL of the source's columns."""
        return ", ".join(quoted(column.name) for column in self.fields)

    def continues(self, before: TableState | None) -> bool:
        """Whether the lake's table has this form and these columns."""
        if before is None:
            return False
        if self.table.history:  # older versions have no value in columns that came later
            return has_versions(before)
        if not self.since_cursor and files_in(before, DELTA):
            return False  # they were merged by a key that may have been another one
        known = (before.fields, before.partition_by)
        return known == (stored_fields(self.table, self.fields), layers_of(self.table))

    def expect_key(self, engine: Engine) -> None:
        """Raise RetailmartError if the table's key does not distinguish its rows."""
        keys = ", ".join(map(quoted, self.table.key))
        empty = " OR ".join(f"{quoted(key)} IS NULL" for key in self.table.key)
        (twice,) = engine.rows(
            f"SELECT (SELECT count(*) FROM (SELECT 1 FROM {self.delivered} GROUP BY {keys}"
            f" HAVING count(*) > 1)) + (SELECT count(*) FROM {self.delivered} WHERE {empty})"
        )[0]
        if twice:
            raise RetailmartError(
                f"source table {self.table.table!r}: ({keys}) does not tell its rows apart, in"
                f" {twice} cases",
                f"Correct `key` in tables/{self.table.name}.yml",
            )


def incoming(
    engine: Engine, found: SourceChange, before: TableState | None, is_used: Callable[[str], bool]
) -> Incoming:
    """What was read, for a table that was `before` in the lake.

    Raises RetailmartError if its key names a column that it lacks, or if a column that marts use
    (`is_used`) is gone or of another kind.
    """
    table, rows = found.table, found.rows
    delivered = _named(engine, table, rows if isinstance(rows, Relation) else engine.values(rows))
    fields = _kept(table, delivered.fields, before, is_used)
    _expect_key_columns(table, fields)
    columns = _cast(fields)
    query = f"SELECT {columns} FROM {delivered}"
    if found.again is not None:  # of a key that was read twice, the later row counts
        later = _named(engine, table, engine.values(found.again))
        query = (
            f"SELECT {columns} FROM {later} UNION ALL {query} f"
            f" WHERE NOT EXISTS (SELECT 1 FROM {later} a WHERE {same_key(table, 'a', 'f')})"
        )
    read = engine.query(query)
    return Incoming(table, found.record, fields, delivered, read, found.since_cursor)


def _named(engine: Engine, table: Table, rows: Relation) -> Relation:
    """The same with columns by their names in marts, if the source has an alias."""
    names = [column.name for column in rows.fields]
    own = table.own_names(names)
    if own == names:
        return rows
    columns = ", ".join(
        f"{quoted(name)} AS {quoted(meant)}" for name, meant in zip(names, own, strict=True)
    )
    return engine.query(f"SELECT {columns} FROM {rows}")


def _kept(
    table: Table,
    fields: tuple[Field, ...],
    before: TableState | None,
    is_used: Callable[[str], bool],
) -> tuple[Field, ...]:
    """The table's columns, with the wider type of both if the source has changed one.

    Raises RetailmartError if a declared table has lost a column that marts use, or has one of
    another kind.
    """
    if before is None or not table.declared:
        return fields
    here = {column.name: column.type for column in fields}
    kept = dict(here)
    for known in own_fields(before):
        if not is_used(known.name):
            continue
        if known.name not in here:
            raise _unlike(table, f"has no column {known.name!r} any more")
        new = here[known.name]
        wider = joined(known.type, new)
        if wider is None or wider.name not in (known.type.name, "BIGINT", "DECIMAL"):
            raise _unlike(table, f"has {new} in {known.name!r}, which was {known.type}")
        kept[known.name] = wider
    return tuple(Field(name, kind) for name, kind in kept.items())


def _unlike(table: Table, message: str) -> RetailmartError:
    return RetailmartError(
        f"source table {table.table!r} {message}; {raw_table(table.name)} holds what was there"
        " before",
        f"Bring the column back as it was; or write its new name in tables/{table.name}.yml, as in"
        " aliases: {NAME: [NEW_NAME]}; or read the table under another name: a new file in"
        f" tables/ with `table: {table.table}`",
    )


def _expect_key_columns(table: Table, fields: tuple[Field, ...]) -> None:
    lacking = sorted({*table.key} - {column.name for column in fields})
    if lacking:
        raise RetailmartError(
            f"source table {table.table!r} has no column {lacking[0]!r}",
            f"Correct `key` in tables/{table.name}.yml",
        )


def _cast(fields: Iterable[Field]) -> str:
    return ", ".join(f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in fields)
