"""Check each snapshot: its format, encoding, header and mandatory columns; then how it is read."""

from __future__ import annotations

import codecs
import csv
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from retailmart.engines import JsonShape
from retailmart.project.documents import did_you_mean
from retailmart.project.feed import Feed, Policy
from retailmart.sheets import armed
from retailmart.steps.discover import Snapshot
from retailmart.steps.flawed import FlawedRecord, FlawedRecords, FlawedWriter
from retailmart.steps.records import (
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


# The columns of an exported sheet that are no data; `_origin` makes a file one that brings refused
# rows back.
ORIGIN = "_origin"
NO_DATA = (ORIGIN, "_file", "_line", "_rule", "_message", "_raw")


@dataclass(frozen=True)
class Layout:
    """Which feed column, or which extra name, stands in each position of a file.

    `is_replay` tells that one of them is `_origin`: the file brings refused rows back.
    `from_path` are columns that the file's path gives, and their values. With `is_json`, cells
    have their JSON text beside them.
    """

    columns: tuple[str, ...]
    is_replay: bool = False
    from_path: tuple[tuple[str, str], ...] = ()
    is_json: bool = False

    def gives(self, column: str) -> bool:
        """Whether the file says anything of a column."""
        return column in self.columns or any(name == column for name, _ in self.from_path)


@dataclass(frozen=True)
class Refusal:
    """A file that is not loaded, where it goes and why, in words for people."""

    folder: ErrorFolder
    message: str


@dataclass(frozen=True)
class CheckedFile:
    """A file that can be loaded. `readable` holds exactly the records that are rows by shape.

    `records` counts all records of the delivery, `flawed` those of them that `readable` lacks.
    `cleaned` tells that `readable` was written anew because the delivery is odd. `json` is how a
    JSON file is read.
    """

    feed: Feed
    delivered: Path
    readable: Path
    layout: Layout
    quoted: bool
    records: int
    cleaned: bool = False
    flawed: FlawedRecords = field(default_factory=FlawedRecords)
    json: JsonShape | None = None


_MAGIC = {
    b"PK\x03\x04": "an Excel or zip file; save it as CSV",
    b"PK\x05\x06": "an empty zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as CSV",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip archive; add .gz to its name",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
ENDINGS = {"csv": (".csv",), "json": (".json", ".jsonl", ".ndjson")}
_OPEN_HEADER = "has a quote in its header that is never closed"
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
    known = tuple(feeds)
    form = format_of(path)
    if form is None or (form != "csv" and all(feed.format != form for feed in known)):
        words = "is no CSV file, and no feed takes other formats"
        if any(feed.format == "json" for feed in known):
            words = "is neither a CSV nor a JSON file, and no feed takes other formats"
        return Refusal(ErrorFolder.WRONG_TYPE, words)
    claiming = [feed for feed in known if feed.claims(path)]
    if not claiming:
        return Refusal(
            ErrorFolder.UNKNOWN, "fits no feed; add its name to `files` of one in feeds/"
        )
    feed = next((feed for feed in claiming if feed.format == form), None)
    if feed is None:
        words = f"is a {form.upper()} file, but feed {claiming[0].name}, which claims it, takes"
        return Refusal(ErrorFolder.WRONG_TYPE, f"{words} {claiming[0].format.upper()}")
    return check_content(snapshot.content, snapshot.scan, feed, path)


def format_of(path: str) -> str | None:
    """The format that a file's name tells, packed or not."""
    name = path.lower().removesuffix(".gz")
    return next((form for form, endings in ENDINGS.items() if name.endswith(endings)), None)


def check_content(content: Path, scan: Scan, feed: Feed, path: str) -> CheckedFile | Refusal:
    """Check a file at `path` below landing that `feed` claims; `scan` is what its bytes told."""
    from_path = feed.from_path(path)
    for column in feed.columns:
        if column.folder is not None and column.name not in dict(from_path):
            return Refusal(
                ErrorFolder.BAD_SCHEMA,
                f"lies in no folder that tells its {column.name}: put it into one of landing's"
                f" folders, as feeds/{feed.name}.yml says",
            )
    if _is_utf16(scan.head) and "16" not in feed.encoding:
        return Refusal(
            ErrorFolder.BAD_SCHEMA,
            "is UTF-16 text; export it as UTF-8"
            if feed.format == "json"
            else f"is UTF-16 text; export it as CSV UTF-8, or set `encoding: utf-16` in feeds/"
            f"{feed.name}.yml",
        )
    if not content.stat().st_size:
        return Refusal(ErrorFolder.BAD_SCHEMA, "is empty")
    if feed.format == "json":
        # Here, as it stands on what this module defines.
        from retailmart.steps.check_json import check_json

        return check_json(content, feed, from_path)
    return _check_csv(content, scan, feed, from_path)


def _check_csv(
    content: Path, scan: Scan, feed: Feed, from_path: tuple[tuple[str, str], ...]
) -> CheckedFile | Refusal:
    reader = records(content, feed)
    try:
        first = next(reader, None)
    except (UnclosedQuote, csv.Error):
        return Refusal(ErrorFolder.BAD_SCHEMA, _OPEN_HEADER)
    except UnicodeError:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"is not {feed.encoding} text")
    if first is None:
        return Refusal(ErrorFolder.BAD_SCHEMA, "holds nothing but blank lines")
    if first.unclosed:
        return Refusal(ErrorFolder.BAD_SCHEMA, _OPEN_HEADER)
    layout = read_header(first, feed)
    if isinstance(layout, Refusal):
        return layout
    layout = replace(layout, from_path=from_path)
    if _is_regular(content, scan, feed, first) and _has_more(reader):
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


def _is_utf16(head: bytes) -> bool:
    """Whether a byte order mark says so, or every second byte is zero as in plain words."""
    zeros = sorted((any(head[::2]), any(head[1::2])))
    return head.startswith(_UTF16) or (len(head) > 3 and zeros == [False, True])


def _is_regular(content: Path, scan: Scan, feed: Feed, header: Record) -> bool:
    """Whether the engine may read the file as it is, its first line being the header."""
    in_first_line = header.line == 1 and "\n" not in header.raw
    if feed.encoding not in ("utf-8", "utf8") or not scan.is_regular or not in_first_line:
        return False
    # Where rows go by month, the engine's count tells of blank lines, and no second look is due.
    return feed.month is not None or not _has_blank_line(content)


def _has_blank_line(content: Path) -> bool:
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(b"\n\n") >= 0 or text.find(b"\n\r\n") >= 0


def _has_more(reader: Iterator[Record]) -> bool:
    try:
        return next(reader, None) is not None
    except UnclosedQuote:
        return False


def read_header(header: Record, feed: Feed) -> Layout | Refusal:
    """Match a header with the feed's columns: any order, letter case and padding, aliases."""
    flaw = flaw_of(header, len(header.cells))
    if flaw:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header is broken: {flaw.message}")
    known = known_names(feed)
    is_replay = any(folded(cell) == ORIGIN for cell in header.cells) and ORIGIN not in known
    if is_replay:
        known |= {name: name for name in NO_DATA if name not in known}
    names: list[str] = []
    for position, delivered in enumerate(header.cells, 1):
        cell = armed(delivered) if is_replay else delivered
        names.append(known.get(folded(cell)) or cell.strip() or f"unnamed_{position}")
    # First, because a file without a header may have equal values in its first row.
    asked = (column for column in feed.columns if column.folder is None)
    missing = [column.name for column in asked if column.mandatory and column.name not in names]
    if missing:
        return Refusal(ErrorFolder.BAD_SCHEMA, _missing(missing, names, feed, header))
    evolves = feed.schema.columns is Policy.EVOLVE
    seen = [folded(name) for name in names] if evolves else names
    twice = {name for name, word in zip(names, seen, strict=True) if seen.count(word) > 1}
    if twice:
        listed = ", ".join(sorted(twice))
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header names {listed} more than once")
    return frozen(feed, names, known) or Layout(tuple(names), is_replay)


def frozen(feed: Feed, names: Iterable[str], known: Mapping[str, str]) -> Refusal | None:
    """Why a file with columns of these names must not be loaded, where the feed's schema is frozen.

    `known` are the columns that are none of the feed's and may be there, among others.
    """
    place = f"feeds/{feed.name}.yml"
    if feed.schema.table is Policy.FREEZE:
        words = f"would make the raw table of feed {feed.name}, which is frozen"
        return Refusal(
            ErrorFolder.BAD_SCHEMA, f"{words}: {place} says `table: freeze` under `schema`"
        )
    own = {*known.values(), *(column.name for column in feed.columns)}
    strange = [name for name in names if name not in own]
    if strange and feed.schema.columns is Policy.FREEZE:
        words = "the column" if len(strange) == 1 else "the columns"
        return Refusal(
            ErrorFolder.BAD_SCHEMA,
            f"brings {words} {', '.join(strange)}, which {place} does not name; its columns are"
            " frozen",
        )
    return None


def known_names(feed: Feed) -> dict[str, str]:
    """The feed's columns by all names that a header may give them, folded.

    What the feed's file says goes before the names under which files brought columns.
    """
    asked = [column for column in feed.columns if column.folder is None]
    brought = {
        folded(name): column.name
        for column in asked
        for name in (*column.delivered, *([column.name] if column.evolved else ()))
    }
    return brought | {
        folded(name): column.name
        for column in asked
        if not column.evolved
        for name in (column.name, *column.aliases)
    }


def _missing(missing: Sequence[str], names: Sequence[str], feed: Feed, header: Record) -> str:
    others = [name for name in names if name not in {c.name for c in feed.columns}]
    words = "lacks the column " if len(missing) == 1 else "lacks the columns "
    message = words + ", ".join(missing)
    if len(header.cells) == 1 and ";" in header.raw:
        return f"{message}; it seems to be separated by ; (set `delimiter` of the feed)"
    hint = did_you_mean(missing[0], others)
    return message + (hint if "mean" in hint else "")


def folded(name: str) -> str:
    """A name of a header without what senders vary: letter case and padding."""
    return " ".join(name.strip().casefold().split())


def clean(content: Path, feed: Feed, layout: Layout) -> CheckedFile | Refusal:
    """Write an odd file anew: UTF-8, all cells quoted, one record a row, flawed records apart."""
    target = content.with_suffix(".clean.csv")
    flawed = FlawedWriter(content.with_suffix(".flawed"))
    count = 0
    try:
        reader = records(content, feed)
        next(reader)
        with target.open("w", encoding="utf-8", newline="") as clean_file, flawed:
            writer = csv.writer(clean_file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            # Delivered names may hold line ends, and one line is what the engine skips.
            writer.writerow(f"c{n}" for n in range(len(layout.columns)))
            for record in reader:
                count += 1
                if flaw := flaw_of(record, len(layout.columns)):
                    flawed.add(FlawedRecord(record.line, readable(record.raw), flaw))
                else:
                    writer.writerow(record.cells)
    except UnclosedQuote as error:
        return Refusal(
            ErrorFolder.BAD_SCHEMA, f"opens a quote in line {error.line} that is never closed"
        )
    except (UnicodeError, csv.Error) as error:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"cannot be read as {feed.encoding} text: {error}")
    return CheckedFile(feed, content, target, layout, True, count, True, flawed.records)
