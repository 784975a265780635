"""Check each staged copy: format, encoding, header, mandatory columns; decide how to read it."""

from __future__ import annotations

import codecs
import csv
import json
import mmap
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from pathlib import Path

from retailmart.engines import JsonShape
from retailmart.files.discover import StagedCopy
from retailmart.files.malformed import MalformedRecord, MalformedRecords, MalformedWriter
from retailmart.files.records import (
    Record,
    data_records,
    parse_error_of,
    readable,
    records,
    told_delimiter,
)
from retailmart.files.scan import Scan, has_plain_quotes
from retailmart.project.documents import did_you_mean
from retailmart.project.feed import ENDINGS, Feed, Policy
from retailmart.sheets import armed
from retailmart.storage import Entry, Store


class ErrorFolder(Enum):
    """Where a refused file goes, below the archive's error_files/."""

    WRONG_TYPE = "wrong_file_types"
    BAD_SCHEMA = "bad_schema"
    UNKNOWN = "unknown"


# The columns of an exported sheet that are not data. A file with `_origin` brings refused rows
# back.
ORIGIN = "_origin"
NO_DATA = (ORIGIN, "_file", "_line", "_rule", "_message", "_raw")


@dataclass(frozen=True)
class Layout:
    """Which feed column, or which extra name, is in each position of a file.

    `is_replay` means that one of them is `_origin`: the file brings refused rows back.
    `from_path` are columns that the file's path gives, and their values. With `is_json`, each cell
    also has its JSON text.
    """

    columns: tuple[str, ...]
    is_replay: bool = False
    from_path: tuple[tuple[str, str], ...] = ()
    is_json: bool = False

    def gives(self, column: str) -> bool:
        """Whether the file gives a column at all."""
        return column in self.columns or any(name == column for name, _ in self.from_path)


@dataclass(frozen=True)
class Refusal:
    """A file that is not loaded: where it goes, and why, as a message."""

    folder: ErrorFolder
    message: str


@dataclass(frozen=True)
class LandedCopy:
    """Where any machine gets exactly the content that was checked, and the content's digest."""

    store: Store
    entry: Entry
    sha256: str


@dataclass(frozen=True)
class Span:
    """Some lines of a file: its bytes from `start` to `end`, after the first `before` lines."""

    start: int
    end: int
    before: int
    lines: int


@dataclass(frozen=True)
class CheckedFile:
    """A file that can be loaded. `readable` holds exactly the records that are rows by shape.

    `records` counts all records of the delivery, `malformed` the ones that `readable` lacks.
    `cleaned` means that `readable` was rewritten because the delivery is irregular. `json` is how a
    JSON file is read. The paths are those of the machine that checked the file; another machine
    finds the content by `landed`. If each line is a record, the file may be divided at its `cuts`,
    and `span` says which part this is. All its lines end alike, in CRLF if `crlf`. The first `skip`
    lines of `readable` are not rows.
    """

    feed: Feed
    delivered: Path
    readable: Path
    layout: Layout
    quoted: bool
    records: int
    cleaned: bool = False
    malformed: MalformedRecords = field(default_factory=MalformedRecords)
    json: JsonShape | None = None
    landed: LandedCopy | None = None
    size: int = 0
    lines: int = 0
    cuts: tuple[tuple[int, int], ...] = ()
    crlf: bool = False
    span: Span | None = None
    skip: int = 1

    @property
    def lines_before(self) -> int:
        """The distance from a record's line in `delivered` to its line in the delivery."""
        if self.span is None or not self.span.before:
            return 0
        return self.span.before - (self.skip if self.json is None else 0)

    def part(self, span: Span) -> CheckedFile:
        """Some lines of a file in which each line is a record."""
        if self.json is not None:
            return replace(self, records=span.lines, span=span)
        if not span.before:
            return replace(self, records=span.lines - self.skip, span=span)
        # As many lines as the reader of records skips come before the part's own lines.
        skip = self.feed.skip_lines + self.feed.header
        return replace(self, records=span.lines, span=span, skip=skip)


_MAGIC = {
    b"PK\x03\x04": "an Excel or zip file; save it as CSV",
    b"PK\x05\x06": "an empty zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as CSV",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip archive; add .gz to its name",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
_LONGEST_LOOK = 1 << 16
_LOOKED_AT = 50
_NAMES_OF_DELIMITERS = {"\t": "tabs", ";": ";", "|": "|", ",": ","}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check(snapshot: StagedCopy, feeds: Iterable[Feed]) -> CheckedFile | Refusal:
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
    claiming = [feed for feed in known if feed.claims(path)]
    form = format_of(path)
    if form == "csv" and not claiming and not _is_named(path, (".csv",)):
        form = None  # a text like others; its ending means nothing
    if form is None or (form != "csv" and all(feed.format != form for feed in known)):
        words = "is no CSV file, and no feed takes other formats"
        if any(feed.format == "json" for feed in known):
            words = "is neither a CSV nor a JSON file, and no feed takes other formats"
        if claiming:
            listed = ", ".join(ENDINGS[claiming[0].format])
            words = f"{words}; feed {claiming[0].name} claims it, but its files end in {listed}"
        return Refusal(ErrorFolder.WRONG_TYPE, words)
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
    """The format that a file's name shows, packed or not."""
    return next((form for form, endings in ENDINGS.items() if _is_named(path, endings)), None)


def _is_named(path: str, endings: tuple[str, ...]) -> bool:
    return path.lower().removesuffix(".gz").endswith(endings)


def check_content(content: Path, scan: Scan, feed: Feed, path: str) -> CheckedFile | Refusal:
    """Check a file at `path` below landing that `feed` matches; `scan` is the scan of its bytes."""
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
        # Imported here, as it depends on what this module defines.
        from retailmart.files.check_json import check_json

        return check_json(content, scan, feed, from_path)
    return _check_csv(content, scan, feed, from_path)


def _check_csv(
    content: Path, scan: Scan, feed: Feed, from_path: tuple[tuple[str, str], ...]
) -> CheckedFile | Refusal:
    try:
        feed = as_written(content, feed)
        reader = records(content, feed)
        first = next(reader, None)
        has_more = next(reader, None) is not None
    except UnicodeError:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"is not {feed.encoding} text")
    if first is None:
        return Refusal(ErrorFolder.BAD_SCHEMA, "holds nothing but blank lines")
    layout = read_header(first, feed) if feed.header else _headerless(first, feed)
    if isinstance(layout, Refusal):
        cause = _cause(content, first, feed)
        return replace(layout, message=layout.message + cause)
    layout = replace(layout, from_path=from_path)
    skip = first.line if feed.header else first.line - 1
    if _is_regular(content, scan, feed, first) and (has_more or not feed.header):
        count = scan.lines - skip
        quoted = feed.is_plain and scan.quotes > 0
        checked = CheckedFile(feed, content, content, layout, quoted, count, skip=skip)
        checked = with_cuts(checked, scan)
    else:
        cleaned = clean(content, feed, layout)
        if isinstance(cleaned, Refusal):
            return cleaned
        checked = cleaned
    if not checked.records and not feed.takes_empty:
        words = f"; say `empty: allowed` in feeds/{feed.name}.yml if that is a day without any"
        return Refusal(ErrorFolder.BAD_SCHEMA, f"has a header but not a single row{words}")
    return checked


def as_written(content: Path, feed: Feed) -> Feed:
    """The feed in the dialect of one of its files: with the delimiter that the file has.

    A sheet of repaired rows is written as CSV even if the feed's own files are not.
    """
    line = _first_line(content, feed)
    if ORIGIN in line.casefold() and ORIGIN not in known_names(feed):
        plain = replace(feed, header=True, skip_lines=0, comment=None, quote='"', escape=None)
        for delimiter in feed.delimiters or (feed.delimiter,):
            sheet = replace(plain, delimiter=delimiter)
            found = next(records(content, sheet))
            if any(folded(cell) == ORIGIN for cell in found.cells):
                return sheet
    if told := told_delimiter(line):
        return replace(feed, delimiter=told)
    if len(feed.delimiters) < 2:
        return feed
    dialects = [replace(feed, delimiter=delimiter) for delimiter in feed.delimiters]
    return max(dialects, key=lambda dialect: _fit(next(records(content, dialect), None), dialect))


def _fit(first: Record | None, feed: Feed) -> int:
    """How well a file's first record is cut; of several equal results, the first is used."""
    if first is None:
        return 0
    if feed.header:
        known = known_names(feed)
        return sum(folded(cell) in known for cell in first.cells)
    return -abs(len(first.cells) - len(_in_order(feed)))


def _first_line(content: Path, feed: Feed) -> str:
    encoding = "utf-8-sig" if feed.encoding in ("utf-8", "utf8") else feed.encoding
    with content.open(encoding=encoding, errors="replace", newline="") as text:
        return text.readline(_LONGEST_LOOK)


def _in_order(feed: Feed) -> tuple[str, ...]:
    return tuple(column.name for column in feed.columns if column.folder is None)


def _headerless(first: Record, feed: Feed) -> Layout | Refusal:
    """The layout of a file without a header, or why its first record does not fit that layout."""
    names, known, place = _in_order(feed), known_names(feed), f"feeds/{feed.name}.yml"
    if first.cells and all(folded(cell) in known for cell in first.cells):
        words = f"begins with a header, which {place} says it has not (`header: false`)"
        return Refusal(ErrorFolder.BAD_SCHEMA, words)
    for delimiter, sign in _NAMES_OF_DELIMITERS.items():
        if len(first.cells) == 1 < len(names) == len(first.raw.split(delimiter)):
            words = f"seems to be separated by {sign}"
            said = f"(set `delimiter: {json.dumps(delimiter)}` in {place})"
            return Refusal(ErrorFolder.BAD_SCHEMA, f"{words} {said}")
    return frozen(feed, (), {}) or Layout(names)


def with_cuts(checked: CheckedFile, scan: Scan) -> CheckedFile:
    """A file in which each line is a record, with the places at which it may be divided."""
    cuts = tuple(cut for cut in scan.cuts if cut[0] < scan.size)
    return replace(checked, size=scan.size, lines=scan.lines, cuts=cuts, crlf=scan.pairs > 0)


def _is_utf16(head: bytes) -> bool:
    """Whether a byte order mark says so, or every second byte is zero as in plain text."""
    zeros = sorted((any(head[::2]), any(head[1::2])))
    return head.startswith(_UTF16) or (len(head) > 3 and zeros == [False, True])


def _is_regular(content: Path, scan: Scan, feed: Feed, first: Record) -> bool:
    """Whether the engine may read the file as it is: each line after the skipped ones a record."""
    if feed.encoding not in ("utf-8", "utf8") or not scan.is_regular:
        return False
    begin = 1 + feed.skip_lines
    is_told = told_delimiter(_first_line(content, feed)) if first.line == begin + 1 else None
    if first.line != begin + (is_told is not None):
        return False
    if "\n" in first.raw or not _is_plain(content, scan, feed):
        return False
    # Where rows go by month, the engine's count shows blank lines; no second pass is needed.
    return feed.month is not None or not _has_blank_line(content)


def _is_plain(content: Path, scan: Scan, feed: Feed) -> bool:
    """Whether no character in a file can be read in two ways."""
    if feed.comment and _has(content, feed.comment, at_line_start=True):
        return False
    if not feed.is_plain:
        return not any(_has(content, sign) for sign in (feed.quote, feed.escape) if sign)
    return not scan.quotes or has_plain_quotes(content, feed.delimiter)


def _has(content: Path, sign: str, *, at_line_start: bool = False) -> bool:
    """Whether a character is in a file, or at a line's start (the first line's, too)."""
    wanted = sign.encode()
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if not at_line_start:
            return text.find(wanted) >= 0
        begin = text[: len(wanted) + len(codecs.BOM_UTF8)].removeprefix(codecs.BOM_UTF8)
        return begin.startswith(wanted) or text.find(b"\n" + wanted) >= 0


def _has_blank_line(content: Path) -> bool:
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(b"\n\n") >= 0 or text.find(b"\n\r\n") >= 0


def read_header(header: Record, feed: Feed) -> Layout | Refusal:
    """Match a header with the feed's columns: in any order, letter case and padding, by aliases."""
    parse_error = parse_error_of(header, len(header.cells))
    if parse_error and parse_error == header.parse_error and "never closed" in parse_error.message:
        words = "has a quote in its header that is never closed"
        return Refusal(ErrorFolder.BAD_SCHEMA, words)
    if parse_error:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header is broken: {parse_error.message}")
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
    missing = [column.name for column in asked if column.is_expected and column.name not in names]
    if missing:
        return Refusal(ErrorFolder.BAD_SCHEMA, _missing(missing, names, feed))
    evolves = feed.schema.columns is Policy.EVOLVE
    seen = [folded(name) for name in names] if evolves else names
    twice = {name for name, word in zip(names, seen, strict=True) if seen.count(word) > 1}
    if twice:
        listed = ", ".join(sorted(twice))
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header names {listed} more than once")
    return frozen(feed, names, known) or Layout(tuple(names), is_replay)


def frozen(feed: Feed, names: Iterable[str], known: Mapping[str, str]) -> Refusal | None:
    """Why a file with columns of these names must not be loaded, if the feed's schema is frozen.

    The values of `known` are names that are allowed besides those of the feed's columns.
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
    """The feed's columns by all names that a header may use for them, folded.

    The feed's own definition takes precedence over names under which files added columns.
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


def _missing(missing: Sequence[str], names: Sequence[str], feed: Feed) -> str:
    others = [name for name in names if name not in {c.name for c in feed.columns}]
    words = "lacks the column " if len(missing) == 1 else "lacks the columns "
    hint = did_you_mean(missing[0], others)
    is_one = len(names) == 1  # cells with another delimiter look like one name
    return words + ", ".join(missing) + (hint if "mean" in hint and not is_one else "")


def _cause(content: Path, first: Record, feed: Feed) -> str:
    """A message about what is likely wrong with a file whose header does not fit its feed."""
    if not feed.header:
        return ""
    known, place = known_names(feed), f"feeds/{feed.name}.yml"
    found = sum(folded(cell) in known for cell in first.cells)
    for delimiter, words in _NAMES_OF_DELIMITERS.items():
        cells = first.raw.split(delimiter)
        if sum(folded(cell.strip('"')) in known for cell in cells) > max(found, 1):
            said = json.dumps(delimiter)
            return f"; it seems to be separated by {words} (set `delimiter: {said}` in {place})"
    if first.parse_error:
        return ""
    asked = [column for column in feed.columns if column.folder is None]
    mandatory = {column.name for column in asked if column.mandatory}
    for record in islice(records(content, feed), 1, _LOOKED_AT):
        if mandatory <= {known.get(folded(cell)) for cell in record.cells}:
            words = f"; its header seems to be line {record.line}"
            return f"{words} (set `skip_lines: {record.line - 1}` in {place})"
    figures = sum(any(sign.isdigit() for sign in cell) for cell in first.cells)
    if not found and len(first.cells) == len(asked) and 2 * figures >= len(asked):
        return f"; its first line seems to be a row (set `header: false` in {place})"
    return ""


def folded(name: str) -> str:
    """A header's name without what senders vary: letter case and padding."""
    return " ".join(name.strip().casefold().split())


def own_path(content: Path, suffix: str) -> Path:
    """A new file next to a copy: another task may write the same at the same time."""
    return content.with_name(f"{content.stem}.{uuid.uuid4().hex}{suffix}")


def clean(content: Path, feed: Feed, layout: Layout) -> CheckedFile | Refusal:
    """Rewrite an irregular file: UTF-8, cells quoted, one record a row, malformed rows apart."""
    target = own_path(content, ".clean.csv")
    malformed = MalformedWriter(own_path(content, ".flawed"))
    count = 0
    try:
        with target.open("w", encoding="utf-8", newline="") as clean_file, malformed:
            writer = csv.writer(clean_file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            # Delivered names may hold line ends, and the engine skips exactly one line.
            writer.writerow(f"c{n}" for n in range(len(layout.columns)))
            for record in data_records(content, feed):
                count += 1
                if parse_error := parse_error_of(record, len(layout.columns)):
                    malformed.add(MalformedRecord(record.line, readable(record.raw), parse_error))
                else:
                    writer.writerow(record.cells)
    except UnicodeError as error:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"cannot be read as {feed.encoding} text: {error}")
    return CheckedFile(feed, content, target, layout, True, count, True, malformed.records)
