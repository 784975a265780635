"""Exports: marts as plain Parquet below the lake, a folder for each date, and the latest ones.

A file that an earlier export has is linked from there (in a bucket: copied by the store), as is
each data file of the lake that is exported as it is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from retailmart.storage import sync_file, sync_folder
from retailmart.tables import DataFile

if TYPE_CHECKING:
    from retailmart.storage.s3 import S3Folder

EXPORTS = "business_insights"
LATEST = "latest"
_AT_ONCE = 8
_MARK = "_SUCCESS"
# Next to the date folders, but outside any path that reads all of them.
_HALF = ".half"
_NOTE = ".retention"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Export:
    """An export: a table for plain Parquet readers, all of it or nothing.

    `parts` maps paths in its folder to files of the table, and `merged` to files that are put
    together by `write(folder of the table, files, target)`; the path says which files. `files` maps
    paths to contents. `mark` is the version tag that identifies the export; it is JSON.
    """

    date: str
    name: str
    table: str
    parts: Mapping[str, DataFile]
    merged: Mapping[str, tuple[DataFile, ...]]
    files: Mapping[str, bytes]
    mark: str = field(repr=False)
    write: Callable[[Path, Sequence[DataFile], Path], None] = field(compare=False, repr=False)

    @property
    def folder(self) -> str:
        """Its folder below all exports."""
        return f"{self.date}/{self.name}"


@dataclass(frozen=True)
class Size:
    """How much is in exports: files, and the bytes that their removal frees."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.files + other.files, self.bytes + other.bytes)


class Exports(Protocol):
    """The exports of a lake. A folder is a date and a name, as in 2024-04-01/sales_mart."""

    def __str__(self) -> str: ...

    def mark(self, folder: str) -> str | None:
        """The version tag of a folder's export; None if there is none, or it is incomplete."""

    def newest(self, name: str) -> str | None:
        """The date of the export that `latest` shows."""

    def is_whole(self, export: Export) -> bool:
        """Whether an export is there, and `latest` shows it or a newer one."""

    def put(self, export: Export, fence: int, prove: Callable[[], None]) -> None:
        """Export in place of the folder's old content. It can be repeated after a crash.

        `prove` verifies the lease before anything becomes visible; if it raises, nothing does.
        """

    def dates(self) -> dict[str, list[str]]:
        """The dates of all exports by name, oldest first."""

    def size(self, folders: Iterable[str]) -> Size:
        """What the removal of these folders together frees."""

    def remove(self, folder: str, fence: int, prove: Callable[[], None]) -> Size:
        """Remove an export, all of it or (until `sweep`) without its version tag."""

    def sweep(self, fence: int) -> None:
        """Remove incomplete exports of writers up to this one."""

    def note(self) -> str | None:
        """What `put_note` wrote."""

    def put_note(self, text: str) -> None:
        """Keep a short text next to the exports."""


@dataclass(frozen=True)
class LocalExports:
    """Exports in a folder of this machine, whose tables are below `root`."""

    root: Path

    def __str__(self) -> str:
        return str(self._top)

    @property
    def _top(self) -> Path:
        return self.root / EXPORTS

    def mark(self, folder: str) -> str | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._top / folder / _MARK).read_text(encoding="utf-8")
        return None

    def newest(self, name: str) -> str | None:
        link = self._top / LATEST / name
        if link.is_symlink():
            date = link.readlink().parent.name
            return date if (self._top / date / name / _MARK).exists() else None
        return _date_of(self.mark(f"{LATEST}/{name}"))

    def is_whole(self, export: Export) -> bool:
        if self.mark(export.folder) != export.mark or (latest := self.newest(export.name)) is None:
            return False
        return latest > export.date or self.mark(f"{LATEST}/{export.name}") == export.mark

    def put(self, export: Export, fence: int, prove: Callable[[], None]) -> None:
        """Write links in a separate folder, then rename it."""
        target = self._top / export.folder
        half = self._top / _HALF / f"{fence:04d}"
        new, old = half / "new", half / "old"
        self.sweep(fence)
        newest = self.newest(export.name)
        earlier = [target, *([self._top / newest / export.name] if newest else [])]
        names = (*export.parts, *export.merged, *export.files)
        for folder in {(new / path).parent for path in (*names, _MARK)}:
            folder.mkdir(parents=True, exist_ok=True)
        table = self.root / export.table
        for path, file in export.parts.items():
            _link(table / file.path, new / path)
        for path, files in export.merged.items():
            there = next((one / path for one in earlier if (one / path).exists()), None)
            if there is not None:
                _link(there, new / path)
            else:
                export.write(table, files, new / path)
                sync_file(new / path)
        for path, content in {**export.files, _MARK: export.mark.encode()}.items():
            (new / path).write_bytes(content)
            sync_file(new / path)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync_folder, parents((new / path for path in names), new)))
        sync_folder(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        prove()
        if os.path.lexists(target):
            os.rename(target, old)
        os.rename(new, target)
        for folder in parents([target], self.root):
            sync_folder(folder)
        if newest is None or newest <= export.date:
            self._show(export, half, prove)
        shutil.rmtree(half)

    def _show(self, export: Export, half: Path, prove: Callable[[], None]) -> None:
        """Let `latest` show an export: by a link, which one rename replaces."""
        shown, new = self._top / LATEST / export.name, half / LATEST
        shown.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.symlink_to(Path("..", export.folder), target_is_directory=True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOSPC):
                raise
            # A file system without symbolic links gets the files again.
            shutil.copytree(self._top / export.folder, new, copy_function=_link_at)
        prove()
        if shown.is_dir() and not shown.is_symlink():
            os.rename(shown, half / "shown")
        os.replace(new, shown)
        for folder in parents([shown], self.root):
            sync_folder(folder)

    def dates(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for date in sorted(filter(_DATE.fullmatch, _folders(self._top))):
            for name in _folders(self._top / date):
                found.setdefault(name, []).append(date)
        return found

    def size(self, folders: Iterable[str]) -> Size:
        # Files have several names: bytes are free once the last one is gone.
        files, freed, names = 0, 0, dict[tuple[int, int], int]()
        for folder in folders:
            for path in (self._top / folder).rglob("*"):
                if (status := path.lstat()) and path.is_dir():
                    continue
                files += 1
                inode = (status.st_dev, status.st_ino)
                names[inode] = names.get(inode, 0) + 1
                freed += status.st_size if names[inode] == status.st_nlink else 0
        return Size(files, freed)

    def remove(self, folder: str, fence: int, prove: Callable[[], None]) -> Size:
        """Take it away by a rename, then remove what is nobody's any more."""
        size = self.size([folder])
        half = self._top / _HALF / f"{fence:04d}"
        self.sweep(fence)
        half.mkdir(parents=True)
        prove()
        os.rename(self._top / folder, half / "old")
        date = (self._top / folder).parent
        sync_folder(date)
        with suppress(OSError):  # other marts have exports of that date
            date.rmdir()
        shutil.rmtree(half)
        return size

    def sweep(self, fence: int) -> None:
        half = self._top / _HALF
        for folder in half.glob("*"):
            if not folder.name.isdecimal() or int(folder.name) <= fence:
                shutil.rmtree(folder)

    def note(self) -> str | None:
        with suppress(FileNotFoundError):
            return (self._top / _NOTE).read_text(encoding="utf-8")
        return None

    def put_note(self, text: str) -> None:
        partial = self._top / f"{_NOTE}.part"
        partial.write_text(text, encoding="utf-8")
        sync_file(partial)
        os.replace(partial, self._top / _NOTE)


@dataclass(frozen=True)
class RemoteExports:
    """Exports in a bucket. `fetch` makes files of a table readable in the workspace."""

    store: S3Folder
    workspace: Path
    fetch: Callable[[str, Iterable[DataFile]], None] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.store}/{EXPORTS}"

    def mark(self, folder: str) -> str | None:
        if (mark := self.store.entry(f"{EXPORTS}/{folder}/{_MARK}")) is None:
            return None
        with suppress(FileNotFoundError), self.store.open(mark) as content:
            return content.read().decode()
        return None

    def newest(self, name: str) -> str | None:
        return _date_of(self.mark(f"{LATEST}/{name}"))

    def is_whole(self, export: Export) -> bool:
        if self.mark(export.folder) != export.mark:
            return False
        shown = self.mark(f"{LATEST}/{export.name}")
        return shown == export.mark or (_date_of(shown) or "") > export.date

    def put(self, export: Export, fence: int, prove: Callable[[], None]) -> None:
        """Let the store copy it. It cannot rename: remove the version tag first, write it last."""
        newest = self.newest(export.name)
        base = f"{EXPORTS}/{export.folder}"
        prove()
        self.store.put(self._half(export.folder), f"{fence}".encode())
        self.store.discard(f"{base}/{_MARK}")
        there = self._names(base)
        earlier = f"{EXPORTS}/{newest}/{export.name}"
        known = self._names(earlier) if newest and earlier != base else set()
        copies = {
            path: (f"{export.table}/{file.path}", file.size) for path, file in export.parts.items()
        }
        for path, files in export.merged.items():
            if path in known:
                copies[path] = (f"{earlier}/{path}", 0)
            elif path not in there:
                self._merge(export, path, files)
        whole = {*copies, *export.merged}
        # A part with that name has that content: files never change.
        self._copy(base, {path: copies[path] for path in copies.keys() - there})
        self._finish(base, there - whole, export, prove)
        self.store.discard(self._half(export.folder))
        if newest is None or newest <= export.date:
            self._show(export, whole, prove)

    def _show(self, export: Export, whole: set[str], prove: Callable[[], None]) -> None:
        """Copy what is new to `latest`, and remove what an older export had."""
        base, note = f"{EXPORTS}/{LATEST}/{export.name}", self._half(f"{LATEST}/{export.name}")
        prove()
        self.store.put(note, b"")
        self.store.discard(f"{base}/{_MARK}")
        there = self._names(base)
        dated = f"{EXPORTS}/{export.folder}"
        sizes = {path: file.size for path, file in export.parts.items()}
        new = whole - there
        self._copy(base, {path: (f"{dated}/{path}", sizes.get(path, 0)) for path in new})
        self._finish(base, there - whole, export, prove)
        self.store.discard(note)

    def _finish(self, base: str, old: set[str], export: Export, prove: Callable[[], None]) -> None:
        self._discard(base, old - {*export.files, _MARK})
        for path, content in export.files.items():
            self.store.put(f"{base}/{path}", content)
        prove()
        self.store.put(f"{base}/{_MARK}", export.mark.encode())

    def _merge(self, export: Export, path: str, files: Sequence[DataFile]) -> None:
        self.fetch(export.table, files)
        target = self.workspace / _HALF / path.rpartition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            export.write(self.workspace / export.table, files, target)
            self.store.copy_in(target, f"{EXPORTS}/{export.folder}/{path}")
        finally:
            target.unlink(missing_ok=True)
            target.parent.rmdir()

    def dates(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        dates = (path.rpartition("/")[2] for path in self.store.folders(EXPORTS))
        for date in sorted(filter(_DATE.fullmatch, dates)):
            for path in self.store.folders(f"{EXPORTS}/{date}"):
                found.setdefault(path.rpartition("/")[2], []).append(date)
        return found

    def size(self, folders: Iterable[str]) -> Size:
        sizes = [self.store.sizes(f"{EXPORTS}/{folder}") for folder in folders]
        return Size(sum(map(len, sizes)), sum(sum(one.values()) for one in sizes))

    def remove(self, folder: str, fence: int, prove: Callable[[], None]) -> Size:
        base, size = f"{EXPORTS}/{folder}", self.size([folder])
        prove()
        self.store.put(self._half(folder), f"{fence}".encode())
        self.store.discard(f"{base}/{_MARK}")
        self._discard(base, self._names(base))
        self.store.discard(self._half(folder))
        return size

    def sweep(self, fence: int) -> None:
        for note in self.store.names(f"{EXPORTS}/{_HALF}"):
            base = note.replace(f"{_HALF}/", "", 1)
            if self.store.entry(f"{base}/{_MARK}") is None:
                self._discard(base, self._names(base))
            self.store.discard(note)

    def note(self) -> str | None:
        if (entry := self.store.entry(f"{EXPORTS}/{_NOTE}")) is None:
            return None
        with self.store.open(entry) as content:
            return content.read().decode()

    def put_note(self, text: str) -> None:
        self.store.put(f"{EXPORTS}/{_NOTE}", text.encode())

    def _half(self, folder: str) -> str:
        return f"{EXPORTS}/{_HALF}/{folder}"

    def _names(self, base: str) -> set[str]:
        return {name.removeprefix(f"{base}/") for name in self.store.names(base)}

    def _copy(self, base: str, copies: Mapping[str, tuple[str, int]]) -> None:
        def copy(item: tuple[str, tuple[str, int]]) -> None:
            path, (source, size) = item
            self.store.repeat(source, f"{base}/{path}", size)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(copy, sorted(copies.items())))

    def _discard(self, base: str, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda path: self.store.discard(f"{base}/{path}"), sorted(paths)))


def _date_of(mark: str | None) -> str | None:
    """The date in a version tag."""
    with suppress(ValueError):
        date = json.loads(mark or "{}").get("date")
        return date if isinstance(date, str) else None
    return None


def _folders(folder: Path) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as children:
        yield from (child.name for child in children if child.is_dir(follow_symlinks=False))


def _link_at(file: str, name: str) -> None:
    _link(Path(file), Path(name))


def _link(file: Path, name: Path) -> None:
    """Give a data file a second name, or copy it if the file system has no links."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOSPC):
            raise
        shutil.copyfile(file, name)
        sync_file(name)


def parents(files: Iterable[Path], root: Path) -> list[Path]:
    """The folders that hold the files, and their parents, up to `root`."""
    # As texts: a table of some thousand files would take seconds with paths as objects.
    top = str(root)
    folders: set[str] = set()
    for file in files:
        folder = str(file).rpartition("/")[0]
        while folder not in folders and (folder == top or folder.startswith(f"{top}/")):
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return [Path(folder) for folder in sorted(folders, reverse=True)]
