"""The forms in which the lake keeps a source's table.

A table has its rows as they are, all versions of its rows, or, if it is read by cursor, base and
delta files, which are merged on read.
"""

from __future__ import annotations

from typing import Final

from retailmart.engines import Engine, Relation
from retailmart.lake.layout import LAYER, VALID_FROM, VALID_TO
from retailmart.project.table import HISTORY, Reading, Table
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Field, TableState, quoted

# A version without a predecessor reaches back for ever, and the latest one has no end.
EVER: Final = "DATE '0001-01-01'"
OPEN: Final = "DATE '9999-12-31'"
BASE: Final = "base"
DELTA: Final = "changes"
_SPAN: Final = (Field(VALID_FROM, ColumnType("DATE")), Field(VALID_TO, ColumnType("DATE")))


def layers_of(table: Table) -> tuple[str, ...]:
    """How a table is partitioned: one that is read by cursor has its delta files apart."""
    return (LAYER,) if table.reading is Reading.INCREMENTAL and not table.history else ()


def stored_fields(table: Table, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The columns of the lake's table, for a source's table with these `fields`."""
    if table.history:
        return (*fields, *_SPAN)
    return (*fields, *(Field(layer, ColumnType("STRING")) for layer in layers_of(table)))


def own_fields(state: TableState) -> tuple[Field, ...]:
    """The columns that a table has in its source."""
    return tuple(f for f in state.fields if f.name not in (VALID_FROM, VALID_TO, LAYER))


def has_versions(state: TableState) -> bool:
    """Whether a table was written with all versions of its rows.

    Its source may have columns of these names, too: ours are the last ones, and two.
    """
    return state.fields[-2:] == _SPAN


def files_in(state: TableState, layer: str) -> list[DataFile]:
    """The files of one layer: BASE or DELTA."""
    return [file for file in state.files if file.partition.get(LAYER) == layer]


def relations_of(engine: Engine, table: Table, state: TableState) -> dict[str, Relation]:
    """A table's state by each of its names: the latest versions; base and delta merged by key."""
    columns = _columns(state)
    if table.history:
        versions = engine.define(state)
        latest = engine.query(f"SELECT {columns} FROM {versions} WHERE {VALID_TO} = {OPEN}")
        return {table.name: latest, table.name + HISTORY: versions}
    if state.partition_by != (LAYER,) or not files_in(state, DELTA):
        return {table.name: engine.define(state)}
    base = engine.define(state.only(files_in(state, BASE)))
    changes = engine.define(state.only(files_in(state, DELTA)))
    merged = engine.query(
        f"SELECT {columns} FROM {changes} UNION ALL SELECT {columns} FROM {base} b"
        f" WHERE NOT EXISTS (SELECT 1 FROM {changes} c WHERE {same_key(table, 'c', 'b')})"
    )
    return {table.name: merged}


def _columns(state: TableState) -> str:
    return ", ".join(quoted(column.name) for column in own_fields(state))


def same_key(table: Table, one: str, other: str) -> str:
    """SQL for whether rows of two relations have the same key."""
    return " AND ".join(f"{one}.{quoted(k)} = {other}.{quoted(k)}" for k in table.key)
