"""One pass over a file's bytes as they go by: whether the engine may read it as it is."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

_LONGEST_STRETCH = 1 << 20
_HEAD = 16


@dataclass
class Scan:
    """Counts of what matters in a file, fed chunk by chunk in constant memory.

    `newlines` and the like are of the whole file, `head` is its first bytes.
    """

    head: bytes = b""
    newlines: int = 0
    quotes: int = 0
    quoted_newlines: int = 0
    returns: int = 0
    pairs: int = 0
    nul: bool = False
    long: bool = False
    utf8: bool = True
    _last: bytes = b""
    _since_newline: int = 0
    _inside: bool = False
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("strict"), repr=False
    )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.head = self.head or chunk[:_HEAD]
        newlines = chunk.count(b"\n")
        self.newlines += newlines
        self._watch_length(chunk, newlines)
        self.nul = self.nul or b"\0" in chunk
        if b"\r" in chunk:
            self.returns += chunk.count(b"\r")
            self.pairs += chunk.count(b"\r\n")
        self.pairs += self._last == b"\r" and chunk[:1] == b"\n"
        if self._inside or b'"' in chunk:
            self._watch_quotes(chunk)
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
        odd = self.nul or self.long or self.quotes % 2 or self.quoted_newlines
        return one_ending and whole and not odd

    def _watch_length(self, chunk: bytes, newlines: int) -> None:
        if newlines:
            self._since_newline = len(chunk) - chunk.rfind(b"\n")
        else:
            self._since_newline += len(chunk)
        self.long = self.long or self._since_newline > _LONGEST_STRETCH

    def _watch_quotes(self, chunk: bytes) -> None:
        """Between quotes is every second part of the text, whatever a doubled quote means."""
        parts = chunk.split(b'"')
        self.quotes += len(parts) - 1
        between = parts[0 if self._inside else 1 :: 2]
        self.quoted_newlines += sum(part.count(b"\n") for part in between)
        self._inside ^= len(parts) % 2 == 0
