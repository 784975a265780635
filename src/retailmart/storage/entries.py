"""What lies in a store, whatever kind of store it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol


class EntryKind(Enum):
    """What an entry of a folder is."""

    FILE = "file"
    LINK = "link"
    SPECIAL = "special"
    # It is there, but has a name that it can't be asked for by.
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Entry:
    """One thing that lies in a folder.

    `path` is relative with forward slashes, and printable: bytes that are no UTF-8 are shown as
    `\\xNN`. `key` is the name as the system knows it. `size` is in bytes, `mtime_ns` in ns.
    `version` is another whenever the content is written again.
    """

    path: str
    key: str
    kind: EntryKind
    size: int
    mtime_ns: int
    version: str


class Store(Protocol):
    """Where files lie. `path` arguments are relative, with forward slashes.

    `appears_whole` tells that nobody can see a file of it half written.
    """

    appears_whole: ClassVar[bool]

    def is_there(self) -> bool: ...
    def entries(self) -> list[Entry]: ...
    def entry(self, key: str) -> Entry | None: ...
    def open(self, entry: Entry) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def move_in(self, source: Store, entry: Entry, path: str) -> None: ...
    def copy_in(self, source: Path, path: str) -> None: ...
    def put(self, path: str, content: bytes) -> None: ...
    def remove(self, entry: Entry) -> None: ...


def printable(key: str) -> str:
    """A file name as text that every database and terminal can hold; no two names look the same."""
    raw = key.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"{raw.decode('utf-8', 'backslashreplace')}~{hashlib.sha256(raw).hexdigest()[:8]}"
