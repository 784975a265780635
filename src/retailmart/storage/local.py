"""Objects in a folder: the landing, the archive. Local disk now; one small interface for others.

Links are never followed and nothing but regular files is ever opened: a link in landing could
point at any file of the machine, and reading a FIFO would wait for ever.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol


class EntryKind(Enum):
    """What an entry of a folder is."""

    FILE = "file"
    LINK = "link"
    SPECIAL = "special"


@dataclass(frozen=True)
class Entry:
    """One thing that lies in a folder.

    `path` is relative with forward slashes, and printable: bytes that are no UTF-8 are shown as
    `\\xNN`. `key` is the name as the system knows it. `size` is in bytes, `mtime_ns` in ns.
    """

    path: str
    key: str
    kind: EntryKind
    size: int
    mtime_ns: int

    @property
    def version(self) -> tuple[int, int]:
        """Changes when the content is written again."""
        return self.size, self.mtime_ns


class Store(Protocol):
    """Where files lie. `path` arguments are relative, with forward slashes."""

    def entries(self) -> list[Entry]: ...
    def entry(self, key: str) -> Entry | None: ...
    def open(self, entry: Entry) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def move_in(self, source: LocalFolder, key: str, path: str) -> None: ...
    def put(self, path: str, content: bytes) -> None: ...


# A name of its own: the target's may be as long as a name can be.
_PARTIAL = ".retailmart.part"


def printable(key: str) -> str:
    """A file name as text that every database and terminal can hold; no two names look the same."""
    raw = key.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"{raw.decode('utf-8', 'backslashreplace')}~{hashlib.sha256(raw).hexdigest()[:8]}"


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut (a rename or ledger row may follow)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's names survive a power cut."""
    sync_file(path)


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine's disk."""

    root: Path

    def entries(self) -> list[Entry]:
        """Everything below the folder but the folders themselves, sorted by path."""
        return sorted(self._walk(self.root), key=lambda entry: entry.path)

    def entry(self, key: str) -> Entry | None:
        """The entry as it is now, or None."""
        try:
            return self._entry(self.root / key)
        except FileNotFoundError:
            return None

    def open(self, entry: Entry) -> BinaryIO:
        """Open a regular file; a link put in its place meanwhile is an OSError, never followed."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.root / entry.key, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", entry.path)
        return os.fdopen(descriptor, "rb", buffering=0)

    def exists(self, path: str) -> bool:
        """Whether something lies there, a dangling link included."""
        return os.path.lexists(self.root / path)

    def move_in(self, source: LocalFolder, key: str, path: str) -> None:
        """Move an entry of `source` to `path` here; atomic on one disk, else copied and synced."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        origin = source.root / key
        try:
            os.rename(origin, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            partial = target.with_name(_PARTIAL)
            if origin.is_fifo():
                os.mkfifo(partial)
            else:
                shutil.copy2(origin, partial, follow_symlinks=False)
            if partial.is_file() and not partial.is_symlink():
                sync_file(partial)
            os.rename(partial, target)
            origin.unlink()
        sync_folder(target.parent)

    def copy_in(self, source: Path, path: str) -> None:
        """Copy a file of this machine to `path` here, as a whole or not at all."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(_PARTIAL)
        shutil.copyfile(source, partial)
        sync_file(partial)
        os.rename(partial, target)

    def put(self, path: str, content: bytes) -> None:
        """Write a small file as a whole or not at all."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(_PARTIAL)
        partial.write_bytes(content)
        sync_file(partial)
        os.rename(partial, target)

    def _walk(self, folder: Path) -> Iterator[Entry]:
        try:
            children = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for child in children:
            if child.is_dir(follow_symlinks=False):
                yield from self._walk(Path(child.path))
                continue
            try:
                yield self._entry(Path(child.path))
            except FileNotFoundError:
                continue  # taken away between the listing and the look

    def _entry(self, path: Path) -> Entry:
        status = os.lstat(path)
        kind = EntryKind.SPECIAL
        if stat.S_ISREG(status.st_mode):
            kind = EntryKind.FILE
        elif stat.S_ISLNK(status.st_mode):
            kind = EntryKind.LINK
        key = path.relative_to(self.root).as_posix()
        return Entry(printable(key), key, kind, status.st_size, status.st_mtime_ns)
