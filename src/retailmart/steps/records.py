"""The records of a delimited file, one by one with their line and raw text, however odd the file.

The engine reads regular files many times faster; this reader takes what is odd apart, finds the
raw text of refused rows, and agrees with Python's csv module on what a record is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TextIO

from retailmart.project.feed import Feed
from retailmart.steps.scan import LONGEST_RECORD

_SWALLOWED = 16 << 20
_WIDEST = 2 * LONGEST_RECORD
_UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Record:
    """One record: the line it begins on (from 1), its text as delivered, its cells.

    `unclosed` tells that one of its quotes is still open where the file ends.
    """

    line: int
    raw: str
    cells: tuple[str, ...]
    unclosed: bool = False


@dataclass(frozen=True)
class Flaw:
    """Why a record cannot be a row, whatever its cells mean."""

    rule: str
    message: str


class UnclosedQuote(Exception):
    """A quote that is not closed for 16 MB swallows the file; its record begins in `line`."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def records(path: Path, feed: Feed) -> Iterator[Record]:
    """All records but blank lines, the header's first. Undecodable bytes come as surrogates.

    Raises UnclosedQuote when one record grows past 16 MB, UnicodeError for text that is not of
    the feed's encoding at all (as UTF-16 cut in the middle).
    """
    csv.field_size_limit(_SWALLOWED * 2)
    encoding = "utf-8-sig" if feed.encoding in ("utf-8", "utf8") else feed.encoding
    # One text, not a list: millions of short lines would take thirty times their size.
    tape = StringIO(newline="")
    taken = 0
    start = 1
    ended = False
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:

        def lines() -> Iterator[str]:
            nonlocal ended, taken
            size = 0
            for line in _bounded(text, feed.delimiter):
                size = size + len(line) if taken else len(line)
                if size > _SWALLOWED:
                    raise UnclosedQuote(start)
                tape.write(line)
                taken += 1
                yield line
            ended = True

        for cells in csv.reader(lines(), delimiter=feed.delimiter):
            raw = tape.getvalue()
            tape.seek(0)
            tape.truncate()
            if cells:
                # The csv module asks for a line more only where a quote is open.
                yield Record(start, raw.rstrip("\r\n"), tuple(cells), ended)
            start += taken
            taken = 0


def flaw_of(record: Record, columns: int) -> Flaw | None:
    """What makes a record unreadable as a row of so many columns."""
    if _is_too_long(record.raw):
        return Flaw("too_long", f"the row is longer than {LONGEST_RECORD:,} bytes")
    if "\0" in record.raw:
        return Flaw("nul_byte", "the row holds NUL bytes; the file was damaged on its way")
    if not record.raw.isascii() and _UNDECODED.search(record.raw):
        return Flaw(
            "encoding",
            "the row is not UTF-8; export the file as CSV UTF-8, or set the feed's `encoding`",
        )
    if record.unclosed:
        return Flaw(
            "quote",
            "a quote is opened in this row and never closed, so that it takes in all that follows",
        )
    if len(record.cells) != columns:
        swallowed = "\n" in record.raw or "\r" in record.raw
        hint = "; a quote is opened and not closed where it should be" if swallowed else ""
        more = f"the row has {len(record.cells)} values, the header {columns}{hint}"
        return Flaw("columns", more)
    return None


def readable(raw: str) -> str:
    """Raw text that can be stored as UTF-8; bytes that were none are shown as `\\xNN`."""
    return raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_too_long(raw: str) -> bool:
    # No character takes more than four bytes, and nearly all rows are far from the limit.
    return 4 * len(raw) > LONGEST_RECORD < len(raw.encode("utf-8", "surrogateescape"))


def _bounded(text: TextIO, delimiter: str) -> Iterator[str]:
    """The lines of a file. The text past a line's 2 MB is squeezed, so that memory is bounded.

    Quotes and delimiters stay: a quote lost in the cut would swallow, or free, what follows.
    """
    words = re.compile(f'[^"\r\n{re.escape(delimiter)}]+')
    while line := text.readline(_WIDEST):
        if len(line) < _WIDEST or line.endswith(("\n", "\r")):
            yield line
            continue
        parts = [line]
        while rest := text.readline(_WIDEST):
            parts.append(words.sub("…", rest))
            if rest.endswith(("\n", "\r")):
                break
        yield "".join(parts)
