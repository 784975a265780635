"""Refused rows: what is kept of each, where it was, and whether it is still open.

A row is identified by its origin: the file and line in which it was first refused. It may come
back repaired and be refused again: all its rows in quarantine then have one origin, and at most
one is open.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from retailmart.errors import GateFailed
from retailmart.files.check_json import Cutter
from retailmart.files.checked import CheckedFile
from retailmart.files.json_records import JsonRecord, json_records
from retailmart.files.records import ParseError, Record, data_records, parse_error_of, readable
from retailmart.lake.layout import FURTHER, ORIGIN
from retailmart.ledger import Ledger
from retailmart.ledger.refusals import Dismissal
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.project.types import ColumnType
from retailmart.tables import Field, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# The key of the file and the line in it.
Origin = tuple[int, int]
# What is kept as the origin of a replayed row that does not say which row it is.
UNKNOWN_ORIGIN = ""
_ORIGIN_TEXT = re.compile(r"([0-9]{1,18})#([0-9]{1,18})", re.ASCII)
_AT_ONCE = 10_000
_Found = TypeVar("_Found")


def origin_text(origin: Origin) -> str:
    """`17#42` for line 42 of file 17. With a colon, spreadsheets would take it for a time."""
    return f"{origin[0]}#{origin[1]}"


def read_origin(text: str) -> Origin | None:
    """Parse an origin from a text; None if it is not an origin."""
    found = _ORIGIN_TEXT.fullmatch(text.strip())
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class RefusedRow:
    """A row that is kept out: its line from 1, what is wrong where, and its text as delivered.

    `cells` are its columns' texts, None if it cannot be cut. `origin` is None for a row that was
    never refused before, UNKNOWN_ORIGIN for a replayed row of unknown origin.
    """

    line: int
    column: str | None
    rule: str
    message: str
    raw: str
    cells: Mapping[str, str] | None = None
    origin: str | None = None


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
    Field("cells", _TEXT),
    Field("origin", _TEXT),
)


def refused_columns(found: Collection[str]) -> str:
    """SQL of the columns of REFUSED_FIELDS, for a table that may be older and lack some."""
    return ", ".join(
        quoted(kept.name) if kept.name in found else f"NULL AS {quoted(kept.name)}"
        for kept in REFUSED_FIELDS
    )


def to_arrow(refused: Sequence[tuple[LedgerFile, RefusedRow]]) -> pa.Table:
    """Rows and the file of each, in the columns of REFUSED_FIELDS."""
    import pyarrow as pa

    files, rows = [file for file, _ in refused], [row for _, row in refused]
    return pa.table(
        {
            # The file's own batch: a file that an undo counts again came with an earlier batch.
            "batch_id": pa.array([file.batch_id for file in files], pa.int64()),
            "file_id": pa.array([file.file_id for file in files], pa.int64()),
            "file": pa.array([file.path for file in files], pa.string()),
            "line": pa.array([row.line for row in rows], pa.int64()),
            "column": pa.array([row.column for row in rows], pa.string()),
            "rule": pa.array([row.rule for row in rows], pa.string()),
            "message": pa.array([row.message for row in rows], pa.string()),
            "raw": pa.array([row.raw for row in rows], pa.string()),
            "cells": pa.array([_object(row.cells) for row in rows], pa.string()),
            "origin": pa.array([row.origin for row in rows], pa.string()),
        }
    )


def _object(cells: Mapping[str, str] | None) -> str | None:
    return None if cells is None else json.dumps(cells, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Place:
    """A record that `readable` holds: where it is in the delivery, and what it says."""

    row: int
    record: Record
    names: Sequence[str]
    read: Sequence[str]

    @property
    def line(self) -> int:
        """The line it begins on, from 1."""
        return self.record.line

    @property
    def raw(self) -> str:
        """Its text as delivered."""
        return readable(self.record.raw)

    @property
    def cells(self) -> dict[str, str]:
        """Its columns' texts."""
        cells = dict(zip(self.names, self.read, strict=True))
        cells.pop(ORIGIN, None)
        further = cells.pop(FURTHER, "")
        return {**cells, **(json.loads(further) if further else {})}

    @property
    def origin(self) -> str | None:
        """Where a replayed row first came from."""
        return self.read[self.names.index(ORIGIN)] if ORIGIN in self.names else None

    def at(self, column: str | None) -> str:
        """Where in the record a column is, for messages; in CSV, line and column say it."""
        return ""


@dataclass(frozen=True)
class JsonPlace:
    """A `Place` in a JSON file. Its record is cut on demand: only refused records are cut."""

    row: int
    record: JsonRecord
    cutter: Cutter
    origin: ClassVar[None] = None

    @property
    def line(self) -> int:
        """The record's number, from 1."""
        return self.record.number

    @property
    def raw(self) -> str:
        """Its text as delivered."""
        return readable(self.record.raw)

    @property
    def cells(self) -> dict[str, str]:
        """The texts of the columns that it has."""
        return self.cutter(self.record).cells

    def at(self, column: str | None) -> str:
        """The JSON pointer of a column's value, or of the record if it has none."""
        place = self.cutter(self.record).places.get(column or "", ())
        return f", at {self.record.pointer(*place)}"


def delivered(checked: CheckedFile) -> Iterator[tuple[Record, ParseError | None]]:
    """The records of a file, with a cell for each of the layout's columns, and what is wrong."""
    names = checked.layout.columns
    if checked.feed.format == "csv":
        for record in data_records(checked.delivered, checked.feed):
            yield record, parse_error_of(record, len(names))
        return
    cutter = Cutter(checked.feed, is_replay=checked.layout.is_replay)
    for found in json_records(checked.delivered, checked.feed.records):
        cut = cutter(found)
        cells = cut.cells
        texts = (*(cells.pop(name, "") for name in names), *cells.values())
        yield Record(found.number, found.raw, texts), found.parse_error or cut.parse_error


def places_of(checked: CheckedFile) -> Iterator[Place | JsonPlace]:
    """The places of the records that `readable` holds, in order."""
    names = checked.layout.columns
    apart = (malformed.line for malformed in checked.malformed)
    if checked.layout.is_json and not checked.layout.is_replay:
        cutter, before = Cutter(checked.feed), checked.lines_before
        all_of_it = (
            replace(found, number=found.number + before) if before else found
            for found in json_records(checked.delivered, checked.feed.records)
        )
        for number, found in enumerate(_without(all_of_it, apart, lambda one: one.number), 1):
            yield JsonPlace(number, found, cutter)
        return
    reader: Iterator[Record]
    if checked.feed.format == "json":
        reader = (record for record, _ in delivered(checked))
    else:
        reader = data_records(checked.delivered, checked.feed)
        if before := checked.lines_before:
            reader = (replace(record, line=record.line + before) for record in reader)
    kept = _without(reader, apart, lambda record: record.line)
    if not checked.layout.is_replay:
        for number, record in enumerate(kept, 1):
            yield Place(number, record, names, record.cells)
        return
    with checked.readable.open(encoding="utf-8", newline="") as text:
        read = csv.reader(text)
        next(read)
        kept = (record for record in kept if not is_blank(record))
        for number, (record, cells) in enumerate(zip(kept, read, strict=True), 1):
            yield Place(number, record, names, cells)


def _without(
    reader: Iterator[_Found], apart: Iterator[int], line: Callable[[_Found], int]
) -> Iterator[_Found]:
    """The records except those in the lines `apart`; both come in order."""
    next_apart = next(apart, None)
    for record in reader:
        if line(record) == next_apart:
            next_apart = next(apart, None)
        else:
            yield record


def is_blank(record: Record) -> bool:
    """Whether a record says nothing: a spreadsheet's blank lines are full of commas."""
    return not any(cell.strip() for cell in record.cells)


def seek(places: Iterator[Place | JsonPlace], row: int) -> Place | JsonPlace:
    """Go on to a row of `places_of`. Rows must be asked for in order."""
    for place in places:
        if place.row == row:
            return place
    raise GateFailed(f"row {row} of a file is not to be found again; it changed while it was read")


def counted_among(ledger: Ledger, file_ids: Iterable[int]) -> frozenset[int]:
    """Those of the files whose rows are counted now."""
    return _counted(ledger.files.among(file_ids))


def _counted(files: Iterable[LedgerFile]) -> frozenset[int]:
    return frozenset(file.file_id for file in files if file.state is FileState.LOADED)


class ItemState(Enum):
    """What has become of a refused row.

    open: it can be repaired and replayed. astray: a replayed row that named no origin; its file
    can be corrected. closed: it is counted, through the replayed file `by`. replaced: refused again
    in `by`. left: its file does not count any more. dismissed: somebody has said that nobody will
    repair it.
    """

    OPEN = "open"
    UNKNOWN_ORIGIN = "astray"
    CLOSED = "closed"
    REPLACED = "replaced"
    LEFT = "left"
    DISMISSED = "dismissed"


@dataclass(frozen=True)
class Item:
    """A refused row as users see it. `origin` is None for a row of unknown origin.

    `file` and `line` are where it was first refused, as in the till's file; `again` is the repaired
    file in which it was refused again, if that is where this refusal is from, and `row` what was
    read there. `file_id` is the key of the file that holds it.
    """

    file_id: int
    file: str
    line: int
    row: RefusedRow
    origin: Origin | None
    state: ItemState
    by: str | None = None
    again: str | None = None
    dismissal: Dismissal | None = None

    @property
    def key(self) -> Origin:
        """By what it is dismissed: the file and line where it was first refused."""
        return self.origin or (self.file_id, self.row.line)

    @property
    def needs_work(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.state in (ItemState.OPEN, ItemState.UNKNOWN_ORIGIN)


@dataclass
class Quarantine:
    """A feed's refused rows, with what the ledger says of their files.

    `refused` is the feed's quarantine table, None if it has none.
    """

    refused: duckdb.DuckDBPyRelation | None
    ledger: Ledger
    _counted: frozenset[int] = frozenset()
    _brought: Mapping[Origin, str] = field(default_factory=dict)
    _newest: Mapping[Origin, tuple[int, int, str]] = field(default_factory=dict)
    _paths: Mapping[int, str] = field(default_factory=dict)
    _dismissed: Mapping[Origin, Dismissal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.refused is None:
            return
        self.refused = self.refused.project(refused_columns(self.refused.columns))
        again = self.refused.filter("origin <> ''").project("file_id, line, file, origin")
        rows = [(*row[:3], read_origin(row[3])) for row in again.fetchall()]
        ids = {row[0] for row in self.refused.aggregate("file_id", "file_id").fetchall()}
        ids |= {origin[0] for *_, origin in rows if origin}
        files = self.ledger.files.among(ids)
        self._counted = _counted(files)
        self._paths = {file.file_id: file.path for file in files}
        self._dismissed = self.ledger.refusals.dismissed()
        self._brought = {
            origin: file.path for origin, file in self.ledger.replays.brought_back(ids).items()
        }
        newest: dict[Origin, tuple[int, int, str]] = {}
        for file_id, line, path, origin in rows:
            if origin and file_id in self._counted:
                newest[origin] = max(newest.get(origin, (0, 0, "")), (file_id, line, path))
        self._newest = newest

    def items(self, file_id: int | None = None, *, texts: bool = True) -> Iterator[Item]:
        """The refused rows, of one file or all, in the files' order; `texts` adds raw and cells.

        Those of a file include its rows that were refused again in other files.
        """
        if self.refused is None:
            return
        found = self.refused
        if file_id is not None:
            found = found.filter(f"file_id = {file_id:d} OR origin LIKE '{file_id:d}#%'")
        text = "raw, cells" if texts else "'' AS raw, NULL AS cells"
        found = found.order("file_id, line").project(
            f'file_id, file, line, "column", rule, message, {text}, origin'
        )
        for batch in found.to_arrow_reader(_AT_ONCE):
            for row in zip(*(part.to_pylist() for part in batch.columns), strict=True):
                yield self._item(*row)

    def _item(self, file_id: int, file: str, *row: Any) -> Item:
        line, column, rule, message, raw, cells, said = row
        refused = RefusedRow(
            line, column, rule, message, raw, json.loads(cells) if cells else None, said
        )
        if said == UNKNOWN_ORIGIN:
            state = ItemState.UNKNOWN_ORIGIN if file_id in self._counted else ItemState.LEFT
            dismissal = self._dismissed.get((file_id, line))
            if dismissal and state is ItemState.UNKNOWN_ORIGIN:
                state = ItemState.DISMISSED
            return Item(file_id, file, line, refused, None, state, dismissal=dismissal)
        origin = (file_id, line) if said is None else read_origin(said)
        state, by = self._state(file_id, line, origin or (file_id, line))
        if origin is None or origin == (file_id, line):
            first, again = (file, line), None
        else:
            first, again = (self._paths.get(origin[0], file), origin[1]), file
        key = origin or (file_id, line)
        dismissal = self._dismissed.get(key)
        return Item(file_id, *first, refused, origin, state, by, again, dismissal)

    def _state(self, file_id: int, line: int, origin: Origin) -> tuple[ItemState, str | None]:
        if not {file_id, origin[0]} <= self._counted:
            return ItemState.LEFT, None
        if by := self._brought.get(origin):
            return ItemState.CLOSED, by
        newest = self._newest.get(origin)
        if newest and newest[:2] != (file_id, line):
            return ItemState.REPLACED, newest[2]
        return ItemState.DISMISSED if origin in self._dismissed else ItemState.OPEN, None
