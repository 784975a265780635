"""Check each staged copy: format, encoding, header, mandatory columns; decide how to read it."""

from __future__ import annotations

import codecs
import csv
import json
import mmap
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from retailmart.files.check_json import check_json
from retailmart.files.checked import CheckedFile, ErrorFolder, Layout, Refusal, own_path, with_cuts
from retailmart.files.discover import StagedCopy
from retailmart.files.header import folded, frozen, known_names, read_header
from retailmart.files.malformed import MalformedRecord, MalformedWriter
from retailmart.files.records import (
    Record,
    data_records,
    parse_error_of,
    readable,
    records,
    told_delimiter,
)
from retailmart.files.scan import Scan, has_plain_quotes
from retailmart.lake.layout import ORIGIN
from retailmart.project.feed import ENDINGS, Feed

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
# Up to this size, a file is read twice at no cost.
_SMALL = 1 << 16
_NAMES_OF_DELIMITERS = {"\t": "tabs", ";": ";", "|": "|", ",": ","}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check(copy: StagedCopy, feeds: Iterable[Feed]) -> CheckedFile | Refusal:
    """Decide whether and how a file is loaded."""
    path = copy.entry.path
    if copy.content is None:
        damaged = path.lower().endswith(".gz") and "archive" in (copy.refusal or "")
        folder = ErrorFolder.BAD_SCHEMA if damaged else ErrorFolder.WRONG_TYPE
        return Refusal(folder, copy.refusal or "cannot be read")
    for magic, message in _MAGIC.items():
        if copy.scan.head.startswith(magic):
            return Refusal(ErrorFolder.WRONG_TYPE, f"is {message}")
    known = tuple(feeds)
    claiming = [feed for feed in known if feed.matches(path)]
    form = format_of(path)
    if form == "csv" and not claiming and not _is_named(path, (".csv",)):
        form = None  # a text like others; its ending means nothing
    if form is None or (form != "csv" and all(feed.format != form for feed in known)):
        message = "is no CSV file, and no feed takes other formats"
        if any(feed.format == "json" for feed in known):
            message = "is neither a CSV nor a JSON file, and no feed takes other formats"
        if claiming:
            listed = ", ".join(ENDINGS[claiming[0].format])
            message = f"{message}; feed {claiming[0].name} claims it, but its files end in {listed}"
        return Refusal(ErrorFolder.WRONG_TYPE, message)
    if not claiming:
        return Refusal(
            ErrorFolder.UNKNOWN, "fits no feed; add its name to `files` of one in feeds/"
        )
    feed = next((feed for feed in claiming if feed.format == form), None)
    if feed is None:
        message = f"is a {form.upper()} file, but feed {claiming[0].name}, which claims it, takes"
        return Refusal(ErrorFolder.WRONG_TYPE, f"{message} {claiming[0].format.upper()}")
    return check_content(copy.content, copy.scan, feed, path)


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
        message = f"; say `empty: allowed` in feeds/{feed.name}.yml if that is a day without any"
        return Refusal(ErrorFolder.BAD_SCHEMA, f"has a header but not a single row{message}")
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
        message = f"begins with a header, which {place} says it has not (`header: false`)"
        return Refusal(ErrorFolder.BAD_SCHEMA, message)
    for delimiter, sign in _NAMES_OF_DELIMITERS.items():
        if len(first.cells) == 1 < len(names) == len(first.raw.split(delimiter)):
            message = f"seems to be separated by {sign}"
            return Refusal(ErrorFolder.BAD_SCHEMA, f"{message} {_also(delimiter, feed)}")
    return frozen(feed, (), {}) or Layout(names)


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
    if scan.size <= _SMALL and not scan.quotes and not _is_even(content, first, feed):
        return False
    # Where rows go by month, the engine's count shows blank lines; no second pass is needed.
    return feed.month is not None or not _has_blank_line(content)


def _is_even(content: Path, first: Record, feed: Feed) -> bool:
    """Whether all lines of a small file without quotes have as many cells as its first record.

    The engine would find out, too: but it reads files of one form together, and one that is not
    even makes it read each of them again.
    """
    lines = content.read_bytes().splitlines()[first.line - 1 :]
    delimiter = feed.delimiter.encode()
    return len({line.count(delimiter) for line in lines}) == 1


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


def _cause(content: Path, first: Record, feed: Feed) -> str:
    """A message about what is likely wrong with a file whose header does not fit its feed."""
    if not feed.header:
        return ""
    known, place = known_names(feed), f"feeds/{feed.name}.yml"
    found = sum(folded(cell) in known for cell in first.cells)
    for delimiter, message in _NAMES_OF_DELIMITERS.items():
        cells = first.raw.split(delimiter)
        if sum(folded(cell.strip('"')) in known for cell in cells) > max(found, 1):
            return f"; it seems to be separated by {message} {_also(delimiter, feed)}"
    if first.parse_error:
        return ""
    asked = [column for column in feed.columns if column.folder is None]
    mandatory = {column.name for column in asked if column.mandatory}
    for record in islice(records(content, feed), 1, _LOOKED_AT):
        if mandatory <= {known.get(folded(cell)) for cell in record.cells}:
            message = f"; its header seems to be line {record.line}"
            return f"{message} (set `skip_lines: {record.line - 1}` in {place})"
    figures = sum(any(sign.isdigit() for sign in cell) for cell in first.cells)
    if not found and len(first.cells) == len(asked) and 2 * figures >= len(asked):
        return f"; its first line seems to be a row (set `header: false` in {place})"
    return ""


def _also(delimiter: str, feed: Feed) -> str:
    """The setting that accepts another delimiter; the feed's other files keep theirs."""
    several = json.dumps(list(dict.fromkeys([*(feed.delimiters or feed.delimiter), delimiter])))
    place = f"feeds/{feed.name}.yml"
    return f"(set `delimiter: {several}` in {place}: each file has one of these)"


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
