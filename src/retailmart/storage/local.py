"""Objects in a folder on this machine's disk.

Links are never followed and only regular files are ever opened: a link in landing could point at
any file of the machine, and reading a FIFO would wait for ever.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, ClassVar

from retailmart.storage.entries import Entry, EntryKind, Store, printable

# A separate name: the target's may already be as long as a name can be.
_PARTIAL = ".retailmart.part"
_CHUNK = 1 << 20


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
    """A folder on this machine's disk."""

    root: Path
    appears_whole: ClassVar[bool] = False

    def __str__(self) -> str:
        return str(self.root)

    def is_there(self) -> bool:
        """Whether the folder exists."""
        return self.root.is_dir()

    def entries(self) -> list[Entry]:
        """Everything below the folder except folders, sorted by path."""
        return sorted(self._walk(str(self.root), ""), key=lambda entry: entry.path)

    def entries_after(self, key: str) -> list[Entry]:
        """Everything: a folder lists in no order."""
        return self.entries()

    def entry(self, key: str) -> Entry | None:
        """The entry as it is now, or None."""
        try:
            return _entry(key, os.lstat(self.root / key))
        except FileNotFoundError:
            return None

    def open(self, entry: Entry, start: int = 0, end: int | None = None) -> BinaryIO:
        """Open a regular file; OSError if a link has replaced it, which is never followed.

        Reading begins at `start`; a caller that wants bytes only up to `end` stops there.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.root / entry.key, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", entry.path)
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.fdopen(descriptor, "rb", buffering=0)

    def exists(self, path: str) -> bool:
        """Whether something exists there, including a dangling link."""
        return os.path.lexists(self.root / path)

    def move_in(self, source: Store, entry: Entry, path: str) -> None:
        """Move an entry of `source` to `path` here; atomic on one disk, else copied and synced."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(source, LocalFolder):
            with source.open(entry) as content:
                self._write(target, content)
            source.remove(entry)
            return
        origin = source.root / entry.key
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
        """Copy a local file to `path` here, as a whole or not at all."""
        with source.open("rb") as content:
            self._write(self.root / path, content)

    def put(self, path: str, content: bytes) -> None:
        """Write a small file as a whole or not at all."""
        self._write(self.root / path, BytesIO(content))

    def remove(self, entry: Entry) -> None:
        """Remove an entry; one that no longer exists is ignored."""
        (self.root / entry.key).unlink(missing_ok=True)

    def remove_empty_folders(self, paths: Iterable[str]) -> None:
        """Remove the folders of these files, and those around them, as far as they are empty."""
        folders = {above for path in paths for above in (self.root / path).parents}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            if folder != self.root and folder.is_relative_to(self.root):
                with suppress(OSError):  # something is in it
                    folder.rmdir()

    def _write(self, target: Path, content: BinaryIO) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(_PARTIAL)
        with partial.open("wb") as written:
            shutil.copyfileobj(content, written, _CHUNK)
        sync_file(partial)
        os.rename(partial, target)
        sync_folder(target.parent)

    def _walk(self, folder: str, above: str) -> Iterator[Entry]:
        # Names as texts: there may be very many.
        try:
            children = os.scandir(folder)
        except FileNotFoundError:
            return
        with children:
            for child in children:
                key = f"{above}{child.name}"
                if child.is_dir(follow_symlinks=False):
                    yield from self._walk(child.path, f"{key}/")
                    continue
                try:
                    yield _entry(key, child.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue  # removed between the listing and this call


def _entry(key: str, status: os.stat_result) -> Entry:
    kind = EntryKind.SPECIAL
    if stat.S_ISREG(status.st_mode):
        kind = EntryKind.FILE
    elif stat.S_ISLNK(status.st_mode):
        kind = EntryKind.LINK
    version = f"{status.st_size}-{status.st_mtime_ns}"
    return Entry(printable(key), key, kind, status.st_size, status.st_mtime_ns, version)
