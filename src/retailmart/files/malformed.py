"""Malformed rows (records that cannot be rows), kept on disk: a file may hold millions of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from retailmart.files.records import ParseError


@dataclass(frozen=True)
class MalformedRecord:
    """A record that cannot be a row, and its place.

    `cells` are its columns' texts if it can be cut; `origin` is where a replayed one came from.
    """

    line: int
    raw: str
    parse_error: ParseError
    cells: Mapping[str, str] | None = None
    origin: str | None = None


@dataclass(frozen=True)
class MalformedRecords:
    """The malformed rows of one file in the order of their lines, read as often as needed."""

    path: Path | None = None
    count: int = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[MalformedRecord]:
        if self.path is None or not self.count:
            return
        with self.path.open(encoding="ascii") as text:
            for told in text:
                line, raw, rule, message, cells, origin = json.loads(told)
                yield MalformedRecord(line, raw, ParseError(rule, message), cells, origin)


class MalformedWriter:
    """Takes malformed rows one by one. Use it as a context manager, then ask for `records`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, record: MalformedRecord) -> None:
        """Keep one record."""
        if self._file is None:
            self._file = self._stack.enter_context(self._path.open("w", encoding="ascii"))
        parse_error, cells = record.parse_error, record.cells
        told = (
            record.line,
            record.raw,
            parse_error.rule,
            parse_error.message,
            cells,
            record.origin,
        )
        self._file.write(json.dumps(told, separators=(",", ":")) + "\n")
        self._count += 1

    @property
    def records(self) -> MalformedRecords:
        """What was kept; complete after the context has ended."""
        return MalformedRecords(self._path, self._count)
