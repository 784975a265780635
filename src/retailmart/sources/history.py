"""Keep all versions of a table's rows, each with the days on which it was valid."""

from __future__ import annotations

from datetime import date

from retailmart.engines import Relation
from retailmart.lake.layout import VALID_FROM, VALID_TO
from retailmart.sources.form import EVER, OPEN, same_key, stored_fields
from retailmart.sources.incoming import Incoming
from retailmart.sources.loaded import SINCE, LoadedTable, TableWriter
from retailmart.tables import TableState, quoted

# What makes a row the only version that is known of it.
FIRST_VERSION = f", {EVER} AS {VALID_FROM}, {OPEN} AS {VALID_TO}"


def add_versions(writer: TableWriter, before: TableState, as_of: date) -> LoadedTable:
    """Give a changed row a version from today on; if its latest is as new, correct that one."""
    engine, read = writer.engine, writer.incoming
    versions = _versions(writer, before)
    latest = engine.query(f"SELECT {read.columns} FROM {versions} WHERE {VALID_TO} = {OPEN}")
    changed = writer.rows(_changed_keys(read, versions, latest, as_of))
    if changed is None:
        if before.fields == stored_fields(read.table, read.fields):
            return LoadedTable(read.table, read.record, before, before)
        return writer.write(f"SELECT * FROM {versions}")
    affected = engine.values(changed)
    same = same_key(read.table, "t", "v")
    columns = ", ".join(f"v.{quoted(column.name)}" for column in read.fields)
    return writer.write(
        f"SELECT v.* FROM {versions} v WHERE v.{VALID_TO} <> {OPEN}"
        f" OR NOT EXISTS (SELECT 1 FROM {affected} t WHERE {same})"
        f" UNION ALL SELECT {columns}, v.{VALID_FROM}, t.{SINCE} FROM {versions} v"
        f" JOIN {affected} t ON {same} WHERE v.{VALID_TO} = {OPEN}"
        f" AND t.{SINCE} > v.{VALID_FROM}"
        f" UNION ALL SELECT {columns}, t.{SINCE}, {OPEN} FROM {read.rows} v"
        f" JOIN {affected} t ON {same}",
        affected=affected,
    )


def _versions(writer: TableWriter, before: TableState) -> Relation:
    """The versions so far, in today's columns."""
    had = {column.name for column in before.fields}
    own = ", ".join(
        f"CAST({quoted(f.name) if f.name in had else 'NULL'} AS {f.type}) AS {quoted(f.name)}"
        for f in writer.incoming.fields
    )
    stored = writer.engine.define(before)
    return writer.engine.query(f"SELECT {own}, {VALID_FROM}, {VALID_TO} FROM {stored}")


def _changed_keys(read: Incoming, versions: Relation, old: Relation, as_of: date) -> str:
    """Keys of rows that differ from the latest version, and the day SINCE when each does."""
    keys, today = ", ".join(map(quoted, read.table.key)), f"DATE '{as_of:%Y-%m-%d}'"
    gone = (
        f" UNION SELECT {keys} FROM {old} o WHERE NOT EXISTS"
        f" (SELECT 1 FROM {read.rows} i WHERE {same_key(read.table, 'i', 'o')})"
    )
    return (
        f"WITH differing AS (SELECT {read.columns} FROM {read.rows} EXCEPT SELECT {read.columns}"
        f" FROM {old}),"
        f" changed AS (SELECT {keys} FROM differing{'' if read.since_cursor else gone}),"
        f" latest AS (SELECT {keys}, max({VALID_FROM}) AS began, max({VALID_TO}) AS ended"
        f" FROM {versions} GROUP BY ALL)"
        f" SELECT c.*, CASE WHEN l.began IS NULL THEN {EVER} ELSE greatest({today},"
        f" CASE WHEN l.ended = {OPEN} THEN l.began ELSE l.ended END) END AS {SINCE}"
        f" FROM changed c LEFT JOIN latest l ON {same_key(read.table, 'l', 'c')}"
    )
