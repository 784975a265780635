"""What a check finds: a file that can be loaded and how it is read, or why it is refused."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from retailmart.engines import JsonShape
from retailmart.files.malformed import MalformedRecords
from retailmart.files.scan import Scan
from retailmart.project.feed import Feed
from retailmart.storage import Entry, Store


class ErrorFolder(Enum):
    """Where a refused file goes, below the archive's error_files/."""

    WRONG_TYPE = "wrong_file_types"
    BAD_SCHEMA = "bad_schema"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    malformed: MalformedRecords = MalformedRecords()  # noqa: RUF009 - frozen, and without state
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


def with_cuts(checked: CheckedFile, scan: Scan) -> CheckedFile:
    """A file in which each line is a record, with the places at which it may be divided."""
    cuts = tuple(cut for cut in scan.cuts if cut[0] < scan.size)
    return replace(checked, size=scan.size, lines=scan.lines, cuts=cuts, crlf=scan.pairs > 0)


def own_path(content: Path, suffix: str) -> Path:
    """A new file next to a copy: another task may write the same at the same time."""
    return content.with_name(f"{content.stem}.{uuid.uuid4().hex}{suffix}")
