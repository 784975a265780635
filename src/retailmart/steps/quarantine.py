"""Refused rows on their way into quarantine: what is kept of each, and where it stood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retailmart.errors import GateFailed
from retailmart.project.types import ColumnType
from retailmart.steps.check import CheckedFile
from retailmart.steps.records import flaw_of, readable, records
from retailmart.tables import Field

if TYPE_CHECKING:
    import pyarrow as pa


def quarantine_table(feed: str) -> str:
    """Where a feed's refused rows lie in the lake."""
    return f"quarantine/{feed}"


@dataclass(frozen=True)
class RefusedRow:
    """A row that is kept out: its line from 1, what is wrong where, and its text as delivered."""

    line: int
    column: str | None
    rule: str
    message: str
    raw: str


_TEXT, _NUMBER = ColumnType("STRING"), ColumnType("BIGINT")
REFUSED_FIELDS = (
    Field("batch_id", _NUMBER),
    Field("file_id", _NUMBER),
    Field("file", _TEXT),
    Field("line", _NUMBER),
    Field("column", _TEXT),
    Field("rule", _TEXT),
    Field("message", _TEXT),
    Field("raw", _TEXT),
)


def to_arrow(rows: Sequence[RefusedRow], batch_id: int, file_id: int, path: str) -> pa.Table:
    """The rows of one file, in the columns of REFUSED_FIELDS."""
    import pyarrow as pa

    count = len(rows)
    return pa.table(
        {
            "batch_id": pa.array([batch_id] * count, pa.int64()),
            "file_id": pa.array([file_id] * count, pa.int64()),
            "file": pa.array([path] * count, pa.string()),
            "line": pa.array([row.line for row in rows], pa.int64()),
            "column": pa.array([row.column for row in rows], pa.string()),
            "rule": pa.array([row.rule for row in rows], pa.string()),
            "message": pa.array([row.message for row in rows], pa.string()),
            "raw": pa.array([row.raw for row in rows], pa.string()),
        }
    )


def places_of(checked: CheckedFile) -> Iterator[tuple[int, int, str]]:
    """Row number from 1, line and raw text of each record that `readable` holds."""
    number = 0
    reader = records(checked.delivered, checked.feed)
    next(reader)
    for record in reader:
        if flaw_of(record, len(checked.layout.columns)) is None:
            number += 1
            yield number, record.line, readable(record.raw)


def seek(places: Iterator[tuple[int, int, str]], row: int) -> tuple[int, str]:
    """Go on to a row of `places_of`; its line and raw text. Rows are asked for in order."""
    for number, line, raw in places:
        if number == row:
            return line, raw
    raise GateFailed(f"row {row} of a file is not to be found again; it changed while it was read")


def in_chunks(rows: Iterable[RefusedRow], size: int) -> Iterator[list[RefusedRow]]:
    """Cut rows into lists of at most `size`."""
    chunk: list[RefusedRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
