"""One pass over a file's bytes as they go by: whether the engine may read it as it is."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

LONGEST_RECORD = 1 << 20
_HEAD = 16
# Blanks between a quote and the end of its cell are text to Python's csv and nothing to the
# engine's. Only a letter or digit is surely no delimiter; the rest is left to the careful reader.
_SPACED_QUOTE = re.compile(
    rb'" +(?![0-9A-Za-z \x80-\xff])|(?<![0-9A-Za-z \x80-\xff]) +"',
)


@dataclass
class Scan:
    """Counts of what matters in a file, fed chunk by chunk in constant memory.

    `newlines` and the like are of the whole file, `head` is its first bytes.
    No chunk may be larger than a record may be long. A file that is not `delimited` is no CSV, and
    only its head is told.
    """

    head: bytes = b""
    newlines: int = 0
    quotes: int = 0
    quoted_newlines: int = 0
    spaced_quotes: bool = False
    returns: int = 0
    pairs: int = 0
    nul: bool = False
    long: bool = False
    utf8: bool = True
    delimited: bool = True
    _last: bytes = b""
    _since_newline: int = 0
    _inside: bool = False
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("strict"), repr=False
    )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.head = self.head or chunk[:_HEAD]
        if not self.delimited:
            return
        newlines = chunk.count(b"\n")
        self.newlines += newlines
        self._watch_length(chunk, newlines)
        self.nul = self.nul or b"\0" in chunk
        if b"\r" in chunk:
            self.returns += chunk.count(b"\r")
            self.pairs += chunk.count(b"\r\n")
        self.pairs += self._last == b"\r" and chunk[:1] == b"\n"
        quoted = b'"' in chunk
        if self._inside or quoted:
            self._watch_quotes(chunk)
        if not self.spaced_quotes and (quoted or self._last == b'"'):
            self._watch_blanks(chunk)
        if self.utf8 and (not chunk.isascii() or self._decoder.getstate()[0]):
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
        """Whether each line is a record for the engine's strict reader and for Python's csv alike.

        Blank lines are not looked for here: the engine's count of rows tells them.
        """
        one_ending = self.returns == self.pairs and self.pairs in (0, self.newlines)
        whole = self.utf8 and not self._decoder.getstate()[0]
        odd_quotes = self.quotes % 2 or self.quoted_newlines or self.spaced_quotes
        return one_ending and whole and not (self.nul or self.long or odd_quotes)

    def _watch_length(self, chunk: bytes, newlines: int) -> None:
        """Lines that begin and end within one chunk are no longer than the chunk."""
        self._since_newline += chunk.find(b"\n") if newlines else len(chunk)
        self.long = self.long or self._since_newline > LONGEST_RECORD
        if newlines:
            self._since_newline = len(chunk) - chunk.rfind(b"\n") - 1

    def _watch_blanks(self, chunk: bytes) -> None:
        """Look for blanks at a quote; where a chunk ends in one, the next begins with a doubt."""
        if self._last + chunk[:1] in (b'" ', b' "'):
            self.spaced_quotes = True
        elif b'" ' in chunk or b' "' in chunk:
            self.spaced_quotes = _SPACED_QUOTE.search(chunk) is not None

    def _watch_quotes(self, chunk: bytes) -> None:
        """Between quotes is every second part of the text, whatever a doubled quote means."""
        parts = chunk.split(b'"')
        self.quotes += len(parts) - 1
        between = parts[0 if self._inside else 1 :: 2]
        self.quoted_newlines += sum(part.count(b"\n") for part in between)
        self._inside ^= len(parts) % 2 == 0
