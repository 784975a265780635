"""The records of a delimited file, one by one with line and raw text, however irregular the file.

The engine reads regular files many times faster; this reader cuts irregular ones and finds the
raw text of refused rows. It reads strictly, as RFC 4180 says: a record may span lines only if a
quoted cell opens and closes properly. If one does not, its first line is a parse error, and
reading continues at the next line, so that no quote can take in rows that follow it.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from retailmart.files.scan import LONGEST_RECORD
from retailmart.project.feed import Feed

# A record that spans lines may take this many characters; each line of it is held in memory.
_LONGEST_SPAN = 16 << 20
_WIDEST = 2 * LONGEST_RECORD
_UNDECODED = re.compile("[\udc80-\udcff]")
# How Excel states its own delimiter: in a separate line before the header.
_SEP = re.compile('\ufeff?"?sep=(?P<delimiter>.)"?', re.IGNORECASE)


@dataclass(frozen=True)
class ParseError:
    """A parse error: why a record cannot be a row, whatever its cells mean."""

    rule: str
    message: str


@dataclass(frozen=True)
class Record:
    """One record: the line it begins on (from 1), its text as delivered, its cells.

    `parse_error` says why its text can't be cut into cells; then it is one line and has no cells.
    """

    line: int
    raw: str
    cells: tuple[str, ...]
    parse_error: ParseError | None = None


def records(path: Path, feed: Feed) -> Iterator[Record]:
    """All records except blank lines and comments, the header's first if the feed has one.

    Undecodable bytes come as surrogates. Raises UnicodeError for text that is not in the feed's
    encoding at all (such as UTF-16 cut in the middle).
    """
    encoding = "utf-8-sig" if feed.encoding in ("utf-8", "utf8") else feed.encoding
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:
        yield from _Reader(_bounded(text, feed), feed).records()


def data_records(path: Path, feed: Feed) -> Iterator[Record]:
    """The records below the header."""
    found = records(path, feed)
    if feed.header:
        next(found, None)
    return found


def told_delimiter(line: str) -> str | None:
    """The delimiter that a `sep=` line states; None for any other line."""
    found = _SEP.fullmatch(line.rstrip("\r\n"))
    return found["delimiter"] if found else None


def parse_error_of(record: Record, columns: int) -> ParseError | None:
    """What makes a record unreadable as a row of so many columns."""
    if _is_too_long(record.raw):
        return ParseError("too_long", f"the row is longer than {LONGEST_RECORD:,} bytes")
    if "\0" in record.raw or any("\0" in cell for cell in record.cells):
        return ParseError("nul_byte", "the row holds NUL bytes; the file was damaged on its way")
    if not record.raw.isascii() and _UNDECODED.search(record.raw):
        return ParseError(
            "encoding",
            "the row is not UTF-8; export the file as CSV UTF-8, or set the feed's `encoding`",
        )
    if record.parse_error:
        return record.parse_error
    if len(record.cells) != columns:
        swallowed = "\n" in record.raw or "\r" in record.raw
        hint = "; a quote is opened and not closed where it should be" if swallowed else ""
        more = f"the row has {len(record.cells)} values, the header {columns}{hint}"
        return ParseError("columns", more)
    return None


def readable(raw: str) -> str:
    """Raw text that can be stored as UTF-8; bytes that were not UTF-8 are shown as `\\xNN`."""
    return raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_too_long(raw: str) -> bool:
    # No character takes more than four bytes, and nearly all rows are far below the limit.
    return 4 * len(raw) > LONGEST_RECORD < len(raw.encode("utf-8", "surrogateescape"))


class _Reader:
    """Cuts lines into records. Lines read ahead for an open quote wait in `_ahead`."""

    def __init__(self, lines: Iterator[str], feed: Feed) -> None:
        csv.field_size_limit(2 * _LONGEST_SPAN)
        self._lines = lines
        self._feed = feed
        self._grammar = _grammar(feed.delimiter, feed.quote, feed.escape)
        self._ahead: deque[str] = deque()
        self._size = 0
        self._number = 0
        # If the next line begins within a quote, so do all lines from the current one up to here.
        # So no line is examined twice, however many quotes are opened.
        self._within = 0
        # A quote that is open at the end of a line before this one is known to fail, and why.
        self._doomed: tuple[int, ParseError] | None = None

    def records(self) -> Iterator[Record]:
        feed = self._feed
        # A line end replaces a character that is not set: no text here contains one.
        mark, other, *_ = (*self._grammar.marks, "\n", "\n")
        first = self._next()
        if told_delimiter(first) is None:
            self._put_back(first)
        for _ in range(feed.skip_lines):
            self._next()
        comment = feed.comment or "\n"
        delimiter = feed.delimiter
        while line := self._next():
            text = line.rstrip("\r\n")
            if not text or text.startswith(comment):
                continue
            if mark not in text and other not in text:
                yield Record(self._number, text, tuple(text.split(delimiter)))
            else:
                yield self._record(line, text)

    def _next(self) -> str:
        """The next line, or an empty text at the end."""
        if self._ahead:
            line = self._ahead.popleft()
            self._size -= len(line)
        else:
            line = next(self._lines, "")
        self._number += 1
        return line

    def _put_back(self, line: str) -> None:
        self._ahead.appendleft(line)
        self._size += len(line)
        self._number -= 1

    def _record(self, line: str, text: str) -> Record:
        number = self._number
        found = self._grammar.cells_from(text, 0)
        if found is _OPEN:
            found = self._follow(len(line))
        if isinstance(found, ParseError):
            return Record(number, text, (), found)
        lines = [line]
        lines += (self._next() for _ in range(found))
        raw = "".join(lines).rstrip("\r\n") if found else text
        return Record(number, raw, self._grammar.cut(lines, raw))

    def _follow(self, size: int) -> int | ParseError:
        """How many more lines belong to a record with an open quote, or what is wrong."""
        number = self._number
        if self._doomed and number < self._doomed[0]:
            return self._doomed[1]
        grammar, most = self._grammar, self._feed.max_record_lines
        at = max(1, self._within - number)
        while True:
            if at >= most:
                message = f" within {most:,} lines (max_record_lines of the feed)"
                return ParseError("quote", _UNENDING.format(within=message))
            if size + self._size > _LONGEST_SPAN and at > len(self._ahead):
                message = f" within {_LONGEST_SPAN:,} characters"
                return ParseError("quote", _UNENDING.format(within=message))
            if at > len(self._ahead):
                line = next(self._lines, "")
                if not line:
                    parse_error = ParseError("quote", _UNENDING.format(within=""))
                    self._doomed = number + at, parse_error
                    return parse_error
                self._ahead.append(line)
                self._size += len(line)
            self._within = number + at
            found = grammar.cells_within(self._ahead[at - 1].rstrip("\r\n"))
            if isinstance(found, ParseError):
                self._doomed = number + at, found
                return found
            if found is not _OPEN:
                return at
            at += 1


_OPEN = -1
_UNENDING = "a quote is opened in this row and never closed{within}; its line is kept out alone"
_TEXT_BEHIND = (
    "text follows a closing quote; a quote within a quoted value is written twice, as in"
    ' "24"" TV"{hint}'
)
# What letters mean after a backslash, besides `\\N`, which means no value.
_MYSQL_SIGNS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "Z": "\x1a", "0": "\0"}
_BARE_END = "the row ends in an escape sign outside quotes"


@dataclass(frozen=True)
class _Grammar:
    """How cells are written: patterns of a line, and how a whole record is cut."""

    marks: tuple[str, ...]
    whole: re.Pattern[str]
    begin: re.Pattern[str]
    within: re.Pattern[str]
    quote: str
    delimiter: str
    escape: str | None
    cut: Callable[[list[str], str], tuple[str, ...]]

    def cells_from(self, text: str, start: int) -> int | ParseError:
        """0 if a line's cells are complete from a cell's start on, _OPEN if a quote is open."""
        if self.whole.match(text, start):
            return 0
        found = self.begin.match(text, start)
        at = found.end() if found else start
        if not self.quote or text[at : at + 1] != self.quote:
            return ParseError("quote", _BARE_END)
        inner = self.within.match(text, at + 1)
        end = inner.end() if inner else at + 1
        return _OPEN if end == len(text) else self._text_behind(text, end)

    def cells_within(self, text: str) -> int | ParseError:
        """The same for a line that begins within a quoted cell."""
        found = self.within.match(text)
        end = found.end() if found else 0
        if end == len(text):
            return _OPEN
        behind = text[end + 1 : end + 2]
        if not behind:
            return 0
        if behind != self.delimiter:
            return self._text_behind(text, end)
        return self.cells_from(text, end + 2)

    def _text_behind(self, text: str, quote: int) -> ParseError:
        hint = ""
        if self.escape is None and text[quote - 1 : quote] == "\\":
            hint = '; this one has a backslash before it: set `escape: "\\\\"` of the feed'
        return ParseError("quote", _TEXT_BEHIND.format(hint=hint))


@lru_cache(maxsize=16)
def _grammar(delimiter: str, quote: str, escape: str | None) -> _Grammar:
    d, q, e = re.escape(delimiter), re.escape(quote), re.escape(escape or "")
    others = f"[^{q}{e}]*+"
    pair = f"{q}{q}|{e}(?:.|\\Z)" if escape else f"{q}{q}"
    inner = f"{others}(?:(?:{pair}){others})*+"
    blanks = "[ ]*+" if delimiter == "\t" else "[ \t]*+"
    bare = f"(?:[^{d}{e}]|{e}.)*+" if escape else f"[^{d}]*+"
    cell = f"(?:{q}{inner}{q}{blanks}|(?!{q}){bare})" if quote else f"(?:{bare})"
    begin = f"(?:{cell}{d})*+"
    cut: Callable[[list[str], str], tuple[str, ...]]
    if escape is None:
        cut = _csv_cutter(delimiter, quote)
    else:
        quoted = f"{q}(?P<quoted>{inner}){q}{blanks}" if quote else "(?P<quoted>(?!))"
        wanted = re.compile(f"(?:{quoted}|(?P<bare>{bare}))", re.DOTALL)
        pairs = f"{q}{q}|{e}." if quote else f"{e}."
        cut = _EscapeCutter(wanted, re.compile(pairs, re.DOTALL), escape)
    return _Grammar(
        tuple(mark for mark in (quote, escape) if mark),
        re.compile(f"{begin}{cell}\\Z"),
        re.compile(begin),
        re.compile(inner if quote else "(?!)"),
        quote,
        delimiter,
        escape,
        cut,
    )


def _csv_cutter(delimiter: str, quote: str) -> Callable[[list[str], str], tuple[str, ...]]:
    def cut(lines: list[str], raw: str) -> tuple[str, ...]:
        return tuple(next(csv.reader(lines, delimiter=delimiter, quotechar=quote)))

    return cut


@dataclass(frozen=True)
class _EscapeCutter:
    """Cuts a valid record whose cells contain escape characters."""

    cell: re.Pattern[str]
    pair: re.Pattern[str]
    escape: str

    def __call__(self, _lines: list[str], raw: str) -> tuple[str, ...]:
        cells: list[str] = []
        at = 0
        while at <= len(raw):
            found = self.cell.match(raw, at)
            assert found is not None  # noqa: S101 - the record's grammar was looked at
            text = found["quoted"] if found["quoted"] is not None else found["bare"]
            is_null = text == f"{self.escape}N"
            cells.append("" if is_null else self.pair.sub(self._meant, text))
            at = found.end() + 1
        return tuple(cells)

    def _meant(self, found: re.Match[str]) -> str:
        sign = found[0][-1]
        is_mysql = self.escape == "\\" == found[0][0]
        return _MYSQL_SIGNS.get(sign, sign) if is_mysql else sign


def _bounded(text: TextIO, feed: Feed) -> Iterator[str]:
    """The lines of a file. The text past a line's 2 MB is squeezed, so that memory is bounded.

    Quotes and delimiters stay: a quote lost in the cut would swallow, or free, what follows.
    """
    kept = re.escape(f"\r\n{feed.quote}{feed.delimiter}{feed.escape or ''}")
    others = re.compile(f"[^{kept}]+")
    line = text.readline(_WIDEST)
    while line:
        following = ""
        if len(line) >= _WIDEST and not line.endswith("\n"):
            parts = [line]
            while not parts[-1].endswith(("\n", "\r")) and (rest := text.readline(_WIDEST)):
                parts.append(others.sub("…", rest))
            if parts[-1].endswith("\r"):
                # The cut may be between the two characters of one line end.
                following = text.readline(_WIDEST)
                if following == "\n":
                    parts.append(following)
                    following = ""
            line = "".join(parts)
        yield line
        line = following or text.readline(_WIDEST)
