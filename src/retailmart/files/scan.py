"""One pass over a file's bytes while they are read: whether the engine may read it as it is."""

from __future__ import annotations

import codecs
import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_RECORD = 1 << 20
_HEAD = 16
# The distance between the places at which a large file may be cut.
CUT_EVERY = 16 << 20
_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Scan:
    """Counts of what matters in a file, fed chunk by chunk in constant memory.

    `newlines` and the like are of the whole file, `head` is its first bytes. `cuts` are some places
    after line ends: how many bytes, and how many lines, come before each.
    No chunk may be larger than a record may be long. A file that is not `delimited` is not CSV;
    only its head and its lines are counted.
    """

    head: bytes = b""
    size: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)
    newlines: int = 0
    quotes: int = 0
    returns: int = 0
    pairs: int = 0
    nul: bool = False
    long: bool = False
    utf8: bool = True
    delimited: bool = True
    _last: bytes = b""
    _since_newline: int = 0
    # Most files need none, and there may be very many files.
    _decoder: codecs.IncrementalDecoder | None = field(default=None, repr=False)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.head = self.head or chunk[:_HEAD]
        newlines = chunk.count(b"\n")
        if newlines and self.size + len(chunk) >= CUT_EVERY * (len(self.cuts) + 1):
            behind = chunk.find(b"\n") + 1
            self.cuts.append((self.size + behind, self.newlines + 1))
        self.size += len(chunk)
        self.newlines += newlines
        if not self.delimited:
            self._last = chunk[-1:]
            return
        self._watch_length(chunk, newlines)
        self.nul = self.nul or b"\0" in chunk
        if b"\r" in chunk:
            self.returns += chunk.count(b"\r")
            self.pairs += chunk.count(b"\r\n")
        self.pairs += self._last == b"\r" and chunk[:1] == b"\n"
        self.quotes += chunk.count(b'"')
        if self.utf8 and (not chunk.isascii() or self._is_within_a_character):
            self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")("strict")
            try:
                self._decoder.decode(chunk)
            except UnicodeDecodeError:
                self.utf8 = False
        self._last = chunk[-1:]

    @property
    def lines(self) -> int:
        """How many lines there are, the last one without its end included."""
        return self.newlines + (self._last not in (b"", b"\n"))

    @property
    def is_regular(self) -> bool:
        """Whether each line is a record, unless a quote says otherwise (`has_plain_quotes`).

        Blank lines are not checked here: the engine's count of rows shows them.
        """
        one_ending = self.returns == self.pairs and self.pairs in (0, self.newlines)
        whole = self.utf8 and not self._is_within_a_character
        return one_ending and whole and not (self.nul or self.long)

    @property
    def _is_within_a_character(self) -> bool:
        return self._decoder is not None and bool(self._decoder.getstate()[0])

    def _watch_length(self, chunk: bytes, newlines: int) -> None:
        """Lines that begin and end within one chunk are no longer than the chunk."""
        self._since_newline += chunk.find(b"\n") if newlines else len(chunk)
        self.long = self.long or self._since_newline > LONGEST_RECORD
        if newlines:
            self._since_newline = len(chunk) - chunk.rfind(b"\n") - 1


def has_plain_quotes(content: Path, delimiter: str) -> bool:
    """Whether every quote of a regular file is around a cell of one line, or doubled within it.

    Then any reader sees the same cells. A quote within a bare cell is not a mistake, but readers
    differ on it.
    """
    if not delimiter.isascii():
        return False
    d = re.escape(delimiter.encode())
    bare, inner = rb'[^"]*+', rb'[^"\r\n]*+(?:""[^"\r\n]*+)*+'
    plain = re.compile(
        rb'%s(?:(?:\A|(?<=[\n%s]))"%s"(?=[\r\n%s]|\Z)%s)*+' % (bare, d, inner, d, bare)
    )
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = len(codecs.BOM_UTF8) if text[:3] == codecs.BOM_UTF8 else 0
        # In a line that it skips, the engine takes a quote after the byte order mark for text.
        begin = text.find(b'"', start + 1)
        if (
            start
            and text[start : start + 1] == b'"'
            and (delimiter.encode() in text[start:begin] or text[begin + 1 : begin + 2] == b'"')
        ):
            return False
        # Piece by piece: no other thread can run within one.
        while start < len(text):
            end = text.find(b"\n", start + _AT_ONCE) + 1 or len(text)
            piece = text[start:end]
            found = plain.match(piece)
            if found is None or found.end() < len(piece):
                return False
            start = end
    return True
