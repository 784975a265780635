"""The ledger's schema, grown by named functions; each is recorded once it is applied."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, inspect, select

from retailmart.ledger import tables

Migration = Callable[[Connection], None]


def m001_first_tables(connection: Connection) -> None:
    """All tables of the first release."""
    tables.metadata.create_all(connection)


def m002_versions_undo_and_replays(connection: Connection) -> None:
    """Files by their store's version, batches that undo a run, refused rows that came back.

    A ledger that the first migration has just made has them already.
    """
    tables.metadata.create_all(connection)
    columns = {column["name"] for column in inspect(connection).get_columns(tables.files.name)}
    if "version" in columns:
        return
    for statement in (
        f"ALTER TABLE {tables.files.name} ADD COLUMN version VARCHAR(150) NOT NULL DEFAULT ''",
        f"UPDATE {tables.files.name} SET version = size || '-' || mtime_ns",
        f"ALTER TABLE {tables.files.name} DROP COLUMN mtime_ns",
        f"ALTER TABLE {tables.batches.name} ADD COLUMN undoes INTEGER",
        f"ALTER TABLE {tables.batches.name} ADD COLUMN fence BIGINT",
    ):
        connection.exec_driver_sql(statement)


def m003_sources_that_move_and_schemas(connection: Connection) -> None:
    """Source tables with a cursor, by their source's version; the history of columns."""
    tables.metadata.create_all(connection)
    columns = {column["name"] for column in inspect(connection).get_columns(tables.sources.name)}
    if "version" in columns:
        return
    for column in ("definition VARCHAR(64)", "version VARCHAR(200)", "cursor_at TEXT"):
        connection.exec_driver_sql(f"ALTER TABLE {tables.sources.name} ADD COLUMN {column}")


MIGRATIONS: tuple[Migration, ...] = (
    m001_first_tables,
    m002_versions_undo_and_replays,
    m003_sources_that_move_and_schemas,
)


def is_current(connection: Connection) -> bool:
    """Whether nothing is missing."""
    return {migration.__name__ for migration in MIGRATIONS} <= _applied(connection)


def _applied(connection: Connection) -> set[str]:
    if not inspect(connection).has_table(tables.migrations.name):
        return set()
    return set(connection.scalars(select(tables.migrations.c.name)))


def migrate(connection: Connection) -> None:
    """Apply what is missing, in order."""
    applied = _applied(connection)
    for migration in MIGRATIONS:
        if migration.__name__ not in applied:
            migration(connection)
            connection.execute(
                insert(tables.migrations).values(
                    name=migration.__name__, applied_at=datetime.now(UTC).isoformat()
                )
            )
