"""Load source tables into the lake: whole or by cursor, with or without versions of their rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from retailmart.engines import Engine, Relation
from retailmart.lake import Lake
from retailmart.lake.layout import LAYER, raw_table
from retailmart.sources.detect import SourceChange
from retailmart.sources.form import (
    BASE,
    DELTA,
    EVER,
    files_in,
    layers_of,
    relations_of,
    same_key,
)
from retailmart.sources.history import FIRST_VERSION, add_versions
from retailmart.sources.incoming import Incoming, incoming
from retailmart.sources.loaded import SINCE, LoadedTable, TableWriter
from retailmart.tables import TableState

# Above this share of a table, rewriting it costs less than reading around its changes.
_DELTA_SHARE = 0.2


def load_table(
    engine: Engine,
    lake: Lake,
    found: SourceChange,
    whole: Callable[[], SourceChange],
    as_of: date,
    batch_id: int,
    is_used: Callable[[str], bool] = lambda _: True,
) -> LoadedTable:
    """Write a table to the lake as far as any value differs from the lake's.

    `whole` reads all of it, in case the lake lacks what was read before or has other columns.
    Raises RetailmartError if its key does not distinguish rows, or if a column that marts use
    (`is_used`) is gone or of another kind.
    """
    before = lake.state(raw_table(found.table.name))
    if found.rows is None and before is not None:
        return LoadedTable(found.table, found.record, before, before)
    if found.rows is None:
        found = whole()
    read = incoming(engine, found.fetched(engine), before, is_used)
    if read.since_cursor and not read.continues(before):
        read = incoming(engine, whole().fetched(engine), before, is_used)
    return _merged(TableWriter(engine, lake, read, before, batch_id), as_of)


def _merged(writer: TableWriter, as_of: date) -> LoadedTable:
    """Merge what was read with what the lake holds."""
    engine, read, before = writer.engine, writer.incoming, writer.before
    table = read.table
    if table.history or layers_of(table):
        read.expect_key(engine)
    if before is None or not read.continues(before):
        first = FIRST_VERSION if table.history else _base(read)
        return writer.write(f"SELECT *{first} FROM {read.rows}", everything=True)
    if table.history:
        return add_versions(writer, before, as_of)
    old = relations_of(engine, table, before)[table.name]
    return _add_delta(writer, before, old) if read.since_cursor else _replace(writer, old)


def _base(read: Incoming) -> str:
    """What puts rows into the base, if there are base and delta files."""
    return f", '{BASE}' AS {LAYER}" if layers_of(read.table) else ""


def _replace(writer: TableWriter, old: Relation) -> LoadedTable:
    """Write all rows again. The rows that are on one side only are the changed ones."""
    read = writer.incoming
    new, gone = (
        f"(SELECT {read.columns} FROM {one} EXCEPT SELECT {read.columns} FROM {other})"
        for one, other in ((read.rows, old), (old, read.rows))
    )
    affected = writer.engine.query(f"SELECT *, {EVER} AS {SINCE} FROM ({new} UNION ALL {gone})")
    return writer.write(f"SELECT *{_base(read)} FROM {read.rows}", affected=affected)


def _add_delta(writer: TableWriter, before: TableState, old: Relation) -> LoadedTable:
    """Add changed rows in delta files, which take precedence over the base key by key."""
    engine, read = writer.engine, writer.incoming
    table, columns = read.table, read.columns
    known = (
        f"SELECT {columns} FROM {old} o WHERE EXISTS"
        f" (SELECT 1 FROM {read.rows} i WHERE {same_key(table, 'i', 'o')})"
    )
    changed = writer.rows(f"SELECT {columns} FROM {read.rows} EXCEPT {known}")
    if changed is None:
        return LoadedTable(table, read.record, before, before)
    delta = engine.values(changed)
    affected = engine.query(
        f"SELECT *, {EVER} AS {SINCE} FROM (SELECT {columns} FROM {delta} UNION ALL {known})"
    )
    base, layer = files_in(before, BASE), files_in(before, DELTA)
    size = changed.num_rows + sum(file.rows for file in layer)
    small = size <= _DELTA_SHARE * sum(file.rows for file in base)
    kept = engine.define(before.only(layer)) if small else old
    return writer.write(
        f"SELECT *, '{DELTA if small else BASE}' AS {LAYER} FROM"
        f" (SELECT {columns} FROM {delta} UNION ALL SELECT {columns} FROM {kept} k"
        f" WHERE NOT EXISTS (SELECT 1 FROM {delta} d WHERE {same_key(table, 'd', 'k')}))",
        layer if small else None,
        affected=affected,
    )
