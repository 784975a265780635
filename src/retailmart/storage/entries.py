"""The entries of a store, for every kind of store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol


class EntryKind(Enum):
    """The kind of an entry in a folder."""

    FILE = "file"
    LINK = "link"
    SPECIAL = "special"
    # It exists, but its name cannot be used in a request.
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder.

    `path` is relative with forward slashes, and printable: bytes that are not UTF-8 are shown as
    `\\xNN`. `key` is the name as the system knows it. `size` is in bytes, `mtime_ns` in ns.
    `version` changes whenever the content is written again.
    """

    path: str
    key: str
    kind: EntryKind
    size: int
    mtime_ns: int
    version: str


class Store(Protocol):
    """Where files are. `path` arguments are relative, with forward slashes.

    `appears_whole` says that nobody can see one of its files half written. `entries_after` lists
    what comes after a key in the order of bytes, which costs a store that lists in this order no
    more than what is new; a folder lists everything.
    """

    appears_whole: ClassVar[bool]

    def is_there(self) -> bool: ...
    def entries(self) -> list[Entry]: ...
    def entries_after(self, key: str) -> list[Entry]: ...
    def entry(self, key: str) -> Entry | None: ...
    def open(self, entry: Entry, start: int = 0, end: int | None = None) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def move_in(self, source: Store, entry: Entry, path: str) -> None: ...
    def copy_in(self, source: Path, path: str) -> None: ...
    def put(self, path: str, content: bytes) -> None: ...
    def remove(self, entry: Entry) -> None: ...
    def remove_empty_folders(self, paths: Iterable[str]) -> None: ...


def printable(key: str) -> str:
    """A file name as text that every database and terminal can hold; no two names look the same."""
    raw = key.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"{raw.decode('utf-8', 'backslashreplace')}~{hashlib.sha256(raw).hexdigest()[:8]}"
