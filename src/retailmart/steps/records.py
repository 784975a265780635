"""The records of a delimited file, one by one with their line and raw text, however odd the file.

The engine reads regular files many times faster; this reader takes what is odd apart, finds the
raw text of refused rows, and agrees with Python's csv module on what a record is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retailmart.project.feed import Feed

LONGEST_RECORD = 1 << 20
_SWALLOWED = 64 << 20


@dataclass(frozen=True)
class Record:
    """One record: the line it begins on (from 1), its text as delivered, its cells."""

    line: int
    raw: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Flaw:
    """Why a record cannot be a row, whatever its cells mean."""

    rule: str
    message: str


class UnclosedQuote(Exception):
    """A quote that is never closed swallows the file; `line` is where its record begins."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def records(path: Path, feed: Feed) -> Iterator[Record]:
    """All records but blank lines, the header's first. Undecodable bytes come as surrogates.

    Raises UnclosedQuote when one record grows past 64 MB, UnicodeError for text that is not of
    the feed's encoding at all (as UTF-16 cut in the middle).
    """
    csv.field_size_limit(_SWALLOWED * 2)
    encoding = "utf-8-sig" if feed.encoding in ("utf-8", "utf8") else feed.encoding
    tape: list[str] = []
    start = 1
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:

        def lines() -> Iterator[str]:
            size = 0
            for line in _bounded(text):
                size = size + len(line) if tape else len(line)
                if size > _SWALLOWED:
                    raise UnclosedQuote(start)
                tape.append(line)
                yield line

        for cells in csv.reader(lines(), delimiter=feed.delimiter):
            raw = "".join(tape)
            taken = len(tape)
            tape.clear()
            if cells:
                yield Record(start, raw.rstrip("\r\n"), tuple(cells))
            start += taken


def flaw_of(record: Record, columns: int) -> Flaw | None:
    """What makes a record unreadable as a row of so many columns."""
    if len(record.raw) > LONGEST_RECORD:
        return Flaw("too_long", f"the row is longer than {LONGEST_RECORD:,} characters")
    if "\0" in record.raw:
        return Flaw("nul_byte", "the row holds NUL bytes; the file was damaged on its way")
    if any("\udc80" <= character <= "\udcff" for character in record.raw):
        return Flaw(
            "encoding",
            "the row is not UTF-8; export the file as CSV UTF-8, or set the feed's `encoding`",
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


def _bounded(text: Iterator[str]) -> Iterator[str]:
    """The lines of a file; the rest of one over the limit is dropped, so that memory is bounded."""
    read = text.readline  # type: ignore[attr-defined]
    while line := read(2 * LONGEST_RECORD):
        if not line.endswith(("\n", "\r")) and len(line) == 2 * LONGEST_RECORD:
            ending = ""
            while rest := read(2 * LONGEST_RECORD):
                if rest.endswith(("\n", "\r")):
                    ending = rest[-1]
                    break
            # A quote left open by the cut would swallow what follows.
            line = line.replace('"', "'") + ending
        yield line
