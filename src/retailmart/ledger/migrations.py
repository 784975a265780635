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


MIGRATIONS: tuple[Migration, ...] = (m001_first_tables,)


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
