"""Rows of the ledger's tables as values, and values as rows."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.values import Batch, BatchState, FileState, LedgerFile, Totals

_IDS_AT_ONCE = 1000
_ROWS_AT_ONCE = 5000
_Value = TypeVar("_Value", int, str)
# A delivery in one of these states could be read.
READABLE = tuple(
    state.value for state in (FileState.LOADED, FileState.DUPLICATE, FileState.SUPERSEDED)
)


def file_of(row: Any) -> LedgerFile:
    return LedgerFile(
        row.file_id,
        row.batch_id,
        row.path,
        row.sha256,
        row.size,
        row.version,
        FileState(row.state),
        row.feed,
        row.folder,
        row.message,
        row.supersedes,
        row.records,
        row.loaded,
        row.quarantined,
    )


def files_where(connection: Connection, condition: Any) -> list[LedgerFile]:
    """The files that a condition holds for, oldest first."""
    query = select(t.files).where(condition).order_by(t.files.c.file_id)
    return [file_of(row) for row in connection.execute(query)]


def due_at(connection: Connection, name: str) -> str | None:
    """When work is due that a row next to the lease has the time of; None if there is no row."""
    return connection.scalar(select(t.lease.c.expires_at).where(t.lease.c.name == name))


def is_due(connection: Connection, name: str) -> bool:
    """Whether it is time for such work."""
    due = due_at(connection, name)
    return due is None or due <= now()


def put_due(connection: Connection, name: str, every: timedelta) -> None:
    """Record that such work was done; it is due again after some time."""
    due = (datetime.now(UTC) + every).isoformat()
    put(connection, t.lease, {"name": name}, {"fence": 0, "expires_at": due})


def batch_of(row: Any) -> Batch:
    return Batch(
        row.batch_id,
        row.run_id,
        datetime.fromisoformat(row.as_of),
        row.stamp,
        BatchState(row.state),
        row.undoes,
    )


def sum_months(rows: Iterable[Any]) -> dict[str, Totals]:
    months: dict[str, Totals] = {}
    for month, row_count, amount in rows:
        months[month] = months.get(month, Totals()) + Totals(row_count, Decimal(amount))
    return months


def put(
    connection: Connection, table: Any, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    matches = [table.c[name] == value for name, value in key.items()]
    if connection.execute(select(table).where(*matches)).first() is None:
        connection.execute(insert(table).values(**key, **values))
    elif values:
        connection.execute(update(table).where(*matches).values(**values))


def chunks(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    """Lists no longer than every database accepts."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _IDS_AT_ONCE):
        yield ordered[start : start + _IDS_AT_ONCE]


def execute_many(connection: Connection, statement: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Execute a statement for each of the rows, of which there may be very many."""
    left = iter(rows)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        connection.execute(statement, some)


def key_of(result: Any) -> int:
    return int(result.inserted_primary_key[0])


def hash_of(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def pack(text: str) -> bytes:
    return zlib.compress(text.encode(), 1)


def unpack(packed: bytes) -> str:
    return zlib.decompress(packed).decode()


def now() -> str:
    return datetime.now(UTC).isoformat()
