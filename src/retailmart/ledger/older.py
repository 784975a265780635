"""A ledger of an earlier release, shown as today's without being changed.

Only a run updates a ledger in its place. Until then, its tables are copied into memory and updated
there, so that whatever reads a ledger need not know how each release has kept it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Engine, MetaData, Table, create_engine, inspect
from sqlalchemy import types as sql
from sqlalchemy.pool import StaticPool

from retailmart.ledger import tables as t
from retailmart.ledger.migrations import migrate

_ROWS_AT_ONCE = 10_000


def in_memory() -> Engine:
    """A ledger without a row, in memory."""
    return _updated(None)


def copied(older: Connection) -> Engine:
    """The rows of an older ledger, in today's tables, in memory."""
    return _updated(older)


def copy_into(empty: Engine, ledger: Connection) -> None:
    """Copy the rows of a ledger of any release into today's tables of an empty database."""
    with empty.begin() as connection:
        _copy(ledger, connection)
        migrate(connection)


def _updated(older: Connection | None) -> Engine:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    with engine.begin() as connection:
        if older is not None:
            _copy(older, connection)
        migrate(connection)
    return engine


def _copy(older: Connection, memory: Connection) -> None:
    look = inspect(older)
    copies = MetaData()
    for table in t.metadata.sorted_tables:
        if not look.has_table(table.name):
            continue
        known = {column.name: column.type for column in table.columns}
        names = [column["name"] for column in look.get_columns(table.name)]
        keys = set(look.get_pk_constraint(table.name)["constrained_columns"])
        # A column that is gone today is of numbers, or of texts, which SQLite takes as they are.
        columns: list[Column[Any]] = [
            Column(name, known.get(name, sql.Text()), primary_key=name in keys, quote=True)
            for name in names
        ]
        copy = Table(table.name, copies, *columns)
        copy.create(memory)
        rows = older.execution_options(stream_results=True).execute(copy.select())
        for some in rows.mappings().partitions(_ROWS_AT_ONCE):
            memory.execute(copy.insert(), [dict(row) for row in some])
