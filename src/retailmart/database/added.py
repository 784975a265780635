"""What others keep in the database: their own tables, and their additions to published ones."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, inspect

from retailmart.database.dialect import dialect_of


def standing(connection: Connection) -> dict[str, str]:
    """The tables and views of a database: name → "table" or "view"."""
    found = inspect(connection)
    kinds = dict.fromkeys(found.get_table_names(), "table")
    return {**kinds, **dict.fromkeys(found.get_view_names(), "view")}


def additions(connection: Connection, table: str) -> tuple[str, ...]:
    """Indexes, triggers and foreign keys of a published table: all were added by users."""
    indexes = [f"index {index['name']}" for index in inspect(connection).get_indexes(table)]
    return (*indexes, *_bonds(connection, table))


def dependents(connection: Connection, table: str) -> tuple[str, ...]:
    """What users have made that would break or be lost if a published table were dropped."""
    readers = dialect_of(connection).readers_of(connection, table)
    return (*_bonds(connection, table), *readers)


def _bonds(connection: Connection, table: str) -> tuple[str, ...]:
    """Foreign keys from and to a table, and its triggers."""
    keys = [
        f"foreign key {key['name'] or 'to'} {key['referred_table']}"
        for key in inspect(connection).get_foreign_keys(table)
    ]
    return (*keys, *dialect_of(connection).hanging_on(connection, table))


def key_of(connection: Connection, table: str) -> tuple[str, ...]:
    """The columns of a table's primary key, in their order."""
    return tuple(inspect(connection).get_pk_constraint(table)["constrained_columns"])


def needs_a_value(connection: Connection, table: str, columns: Iterable[str]) -> list[str]:
    """The given columns of a table for which a new row must have a value."""
    wanted = set(columns)
    return [
        str(column["name"])
        for column in inspect(connection).get_columns(table)
        if column["name"] in wanted
        and not column["nullable"]
        and column["default"] is None
        and not column.get("computed")
        and column.get("autoincrement") is not True
    ]
