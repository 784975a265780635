"""Check each snapshot: its format, encoding, header and mandatory columns; then how it is read."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from retailmart.project.documents import did_you_mean
from retailmart.project.feed import Feed
from retailmart.steps.discover import Snapshot
from retailmart.steps.records import (
    Flaw,
    Record,
    UnclosedQuote,
    flaw_of,
    readable,
    records,
)
from retailmart.steps.scan import Scan


class ErrorFolder(Enum):
    """Where a refused file goes, below the archive's error_files/."""

    WRONG_TYPE = "wrong_file_types"
    BAD_SCHEMA = "bad_schema"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layout:
    """Which feed column, or which extra name, stands in each position of a file."""

    columns: tuple[str, ...]


@dataclass(frozen=True)
class FlawedRecord:
    """A record that cannot be a row, with where it stands."""

    line: int
    raw: str
    flaw: Flaw


@dataclass(frozen=True)
class Refusal:
    """A file that is not loaded, where it goes and why, in words for people."""

    folder: ErrorFolder
    message: str


@dataclass(frozen=True)
class CheckedFile:
    """A file that can be loaded. `readable` holds exactly the records that are rows by shape.

    `records` counts all records of the delivery, `flawed` those of them that `readable` lacks.
    `cleaned` tells that `readable` was written anew because the delivery is odd.
    """

    feed: Feed
    delivered: Path
    readable: Path
    layout: Layout
    quoted: bool
    records: int
    cleaned: bool = False
    flawed: tuple[FlawedRecord, ...] = field(default=(), repr=False)


_MAGIC = {
    b"PK\x03\x04": "an Excel or zip file; save it as CSV",
    b"PK\x05\x06": "an empty zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as CSV",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip archive; name it .csv.gz",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check(snapshot: Snapshot, feeds: Iterable[Feed]) -> CheckedFile | Refusal:
    """Decide whether and how a file is loaded."""
    path = snapshot.entry.path
    if snapshot.content is None:
        damaged = path.lower().endswith(".gz") and "archive" in (snapshot.refusal or "")
        folder = ErrorFolder.BAD_SCHEMA if damaged else ErrorFolder.WRONG_TYPE
        return Refusal(folder, snapshot.refusal or "cannot be read")
    for magic, words in _MAGIC.items():
        if snapshot.scan.head.startswith(magic):
            return Refusal(ErrorFolder.WRONG_TYPE, f"is {words}")
    if not path.lower().removesuffix(".gz").endswith(".csv"):
        return Refusal(ErrorFolder.WRONG_TYPE, "is no CSV file, and no feed takes other formats")
    feed = next((feed for feed in feeds if feed.claims(path)), None)
    if feed is None:
        return Refusal(
            ErrorFolder.UNKNOWN, "fits no feed; add its name to `files` of one in feeds/"
        )
    return check_content(snapshot.content, snapshot.scan, feed)


def check_content(content: Path, scan: Scan, feed: Feed) -> CheckedFile | Refusal:
    """Check what is in a file that `feed` claims; `scan` is what its bytes told."""
    if scan.head.startswith(_UTF16) and "16" not in feed.encoding:
        return Refusal(
            ErrorFolder.BAD_SCHEMA,
            f"is UTF-16 text; export it as CSV UTF-8, or set `encoding: utf-16` in feeds/"
            f"{feed.name}.yml",
        )
    if not content.stat().st_size:
        return Refusal(ErrorFolder.BAD_SCHEMA, "is empty")
    try:
        first = next(records(content, feed), None)
    except (UnclosedQuote, csv.Error):
        return Refusal(ErrorFolder.BAD_SCHEMA, "has a quote in its header that is never closed")
    except UnicodeError:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"is not {feed.encoding} text")
    if first is None:
        return Refusal(ErrorFolder.BAD_SCHEMA, "holds nothing but blank lines")
    layout = read_header(first, feed)
    if isinstance(layout, Refusal):
        return layout
    if feed.encoding in ("utf-8", "utf8") and scan.is_regular and "\n" not in first.raw:
        count = scan.lines - 1
        checked = CheckedFile(feed, content, content, layout, scan.quotes > 0, count)
    else:
        cleaned = clean(content, feed, layout)
        if isinstance(cleaned, Refusal):
            return cleaned
        checked = cleaned
    if not checked.records:
        return Refusal(ErrorFolder.BAD_SCHEMA, "has a header but not a single row")
    return checked


def read_header(header: Record, feed: Feed) -> Layout | Refusal:
    """Match a header with the feed's columns: any order, letter case and padding, aliases."""
    flaw = flaw_of(header, len(header.cells))
    if flaw:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header is broken: {flaw.message}")
    known = {
        _folded(name): column.name
        for column in feed.columns
        for name in (column.name, *column.aliases)
    }
    names: list[str] = []
    for position, cell in enumerate(header.cells, 1):
        folded = _folded(cell)
        names.append(known.get(folded) or cell.strip() or f"unnamed_{position}")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        listed = ", ".join(sorted(twice))
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header names {listed} more than once")
    missing = [c.name for c in feed.columns if c.mandatory and c.name not in names]
    if missing:
        return Refusal(ErrorFolder.BAD_SCHEMA, _missing(missing, names, feed, header))
    return Layout(tuple(names))


def _missing(missing: Sequence[str], names: Sequence[str], feed: Feed, header: Record) -> str:
    others = [name for name in names if name not in {c.name for c in feed.columns}]
    words = "lacks the column " if len(missing) == 1 else "lacks the columns "
    message = words + ", ".join(missing)
    if len(header.cells) == 1 and ";" in header.raw:
        return f"{message}; it seems to be separated by ; (set `delimiter` of the feed)"
    hint = did_you_mean(missing[0], others)
    return message + (hint if "mean" in hint else "")


def _folded(name: str) -> str:
    return " ".join(name.strip().casefold().split())


def clean(content: Path, feed: Feed, layout: Layout) -> CheckedFile | Refusal:
    """Write an odd file anew: UTF-8, all cells quoted, one record a row, flawed records apart."""
    target = content.with_suffix(".clean.csv")
    flawed: list[FlawedRecord] = []
    count = 0
    try:
        reader = records(content, feed)
        next(reader)
        with target.open("w", encoding="utf-8", newline="") as clean_file:
            writer = csv.writer(clean_file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(layout.columns)
            for record in reader:
                count += 1
                if flaw := flaw_of(record, len(layout.columns)):
                    flawed.append(FlawedRecord(record.line, readable(record.raw), flaw))
                else:
                    writer.writerow(record.cells)
    except UnclosedQuote as error:
        return Refusal(
            ErrorFolder.BAD_SCHEMA, f"opens a quote in line {error.line} that is never closed"
        )
    except (UnicodeError, csv.Error) as error:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"cannot be read as {feed.encoding} text: {error}")
    return CheckedFile(feed, content, target, layout, True, count, True, tuple(flawed))
