"""Where a lake's tables lie: on this machine's disk, or in a bucket with a workspace here.

Engines read and write local files only; a place brings them here and takes them home.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from retailmart.storage import LocalFolder, Store, sync_file, sync_folder
from retailmart.tables import DataFile

if TYPE_CHECKING:
    from retailmart.storage.s3 import S3Folder

_AT_ONCE = 8
_KEPT_HERE = 4 << 30
_LOG = "_delta_log"
_LAST_CHECKPOINT = "_last_checkpoint"
_INSIGHTS = "business_insights"
_MARK = "_SUCCESS"
# Beside the dates, and out of the way of whoever reads them all.
_HALF = ".half"


@dataclass(frozen=True)
class Showing:
    """Data files of a table as they are shown for plain readers, all of them or nothing.

    `folder` is a date and a name, `parts` maps paths in it to the table's files, `files` to
    contents. `mark` tells one showing from another.
    """

    folder: str
    table: str
    parts: Mapping[str, DataFile]
    files: Mapping[str, bytes]
    mark: str = field(repr=False)


class Place(Protocol):
    """What the lake needs to know of where its tables lie. `table` is a path like raw/sales."""

    def __str__(self) -> str: ...

    @property
    def workspace(self) -> Path:
        """The folder below which engines read and write."""

    def address(self, table: str) -> str:
        """What the Delta library opens."""

    def options(self) -> Mapping[str, str]:
        """How the Delta library gets there."""

    def has(self, table: str) -> bool:
        """Whether the table has a log."""

    def tables(self) -> list[str]:
        """Every table that has a folder."""

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        """Make data files readable in the workspace."""

    def keep(self, table: str, paths: Iterable[str]) -> None:
        """Make data files that an engine wrote survive this machine's next power cut."""

    def keep_log(self, table: str, version: int) -> None:
        """Make a log entry survive, and what the Delta library wrote behind it."""

    def mend_log(self, table: str) -> None:
        """Take away what a power cut has torn of the log; nothing relies on it yet."""

    def data_files(self, table: str) -> Iterator[str]:
        """The paths of all Parquet files of a table, committed or not."""

    def discard(self, table: str, path: str) -> None:
        """Take a data file away."""

    def tidy(self) -> None:
        """Give back what only helps to be fast, where it has grown large."""

    def shown(self, folder: str) -> str | None:
        """The mark of what is shown in a folder; None where nothing is, or not all of it."""

    def show(self, showing: Showing, fence: int, prove: Callable[[], None]) -> None:
        """Show it in the place of what its folder held. Can be repeated after a crash.

        `prove` is called before anything can be seen; where it raises, nothing is.
        """

    def sweep_shown(self, fence: int) -> None:
        """Take away what writers up to this one have shown half."""


@dataclass(frozen=True)
class LocalPlace:
    """Tables below a folder of this machine; the workspace is the place itself."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def workspace(self) -> Path:
        return self.root

    def address(self, table: str) -> str:
        return str(self.root / table)

    def options(self) -> Mapping[str, str]:
        return {}

    def has(self, table: str) -> bool:
        return (self.root / table / _LOG).is_dir()

    def tables(self) -> list[str]:
        folders = (path for path in self.root.glob("*/*") if path.is_dir())
        names = (path.relative_to(self.root).as_posix() for path in folders)
        return sorted(name for name in names if not name.startswith(f"{_INSIGHTS}/"))

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        """They are here."""

    def keep(self, table: str, paths: Iterable[str]) -> None:
        folder = self.root / table
        files = [folder / path for path in paths]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync_file, files))
            list(pool.map(sync_folder, _parents(files, self.root)))

    def keep_log(self, table: str, version: int) -> None:
        log = self.root / table / _LOG
        sync_file(log / f"{version:020d}.json")
        if (checkpoint := log / f"{version:020d}.checkpoint.parquet").exists():
            sync_file(checkpoint)
            sync_file(log / _LAST_CHECKPOINT)
        for folder in (log, *_parents([log], self.root)):
            sync_folder(folder)

    def mend_log(self, table: str) -> None:
        # The Delta library gives a file its name before its content is on the disk.
        log = self.root / table / _LOG
        for entry in sorted(log.glob("*.json"), reverse=True):
            if _is_whole(entry):
                break
            entry.unlink()
        for checkpoint in sorted(log.glob("*.checkpoint.parquet"), reverse=True):
            if _is_readable(checkpoint) and _is_whole(log / _LAST_CHECKPOINT):
                break
            checkpoint.unlink()
            (log / _LAST_CHECKPOINT).unlink(missing_ok=True)
        if log.is_dir():
            sync_folder(log)

    def data_files(self, table: str) -> Iterator[str]:
        folder = self.root / table
        for path in folder.rglob("*.parquet"):
            if (relative := path.relative_to(folder)).parts[0] != _LOG:
                yield relative.as_posix()

    def discard(self, table: str, path: str) -> None:
        (self.root / table / path).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Nothing is kept twice."""

    def shown(self, folder: str) -> str | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / _INSIGHTS / folder / _MARK).read_text(encoding="utf-8")
        return None

    def show(self, showing: Showing, fence: int, prove: Callable[[], None]) -> None:
        """Written beside as links, and renamed."""
        target = self.root / _INSIGHTS / showing.folder
        half = self.root / _INSIGHTS / _HALF / f"{fence:04d}"
        new, old = half / "new", half / "old"
        self.sweep_shown(fence)
        for folder in {(new / path).parent for path in (*showing.parts, _MARK)}:
            folder.mkdir(parents=True, exist_ok=True)
        for path, file in showing.parts.items():
            _link(self.root / showing.table / file.path, new / path)
        for path, content in {**showing.files, _MARK: showing.mark.encode()}.items():
            (new / path).write_bytes(content)
            sync_file(new / path)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync_folder, _parents((new / path for path in showing.parts), new)))
        sync_folder(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        prove()
        if os.path.lexists(target):
            os.rename(target, old)
        os.rename(new, target)
        for folder in _parents([target], self.root):
            sync_folder(folder)
        shutil.rmtree(half)

    def sweep_shown(self, fence: int) -> None:
        half = self.root / _INSIGHTS / _HALF
        for folder in half.glob("*"):
            if not folder.name.isdecimal() or int(folder.name) <= fence:
                shutil.rmtree(folder)


@dataclass(frozen=True)
class RemotePlace:
    """Tables in a bucket. Their files are immutable, so those that were here once may stay here.

    What an engine wrote is sent home before the ledger relies on it.
    """

    store: S3Folder
    workspace: Path

    def __str__(self) -> str:
        return str(self.store)

    def address(self, table: str) -> str:
        return f"{self.store}/{table}"

    def options(self) -> Mapping[str, str]:
        return self.store.delta_options()

    def has(self, table: str) -> bool:
        return self.store.any_below(f"{table}/{_LOG}")

    def tables(self) -> list[str]:
        rooms = (room for room in self.store.folders("") if room != _INSIGHTS)
        return sorted(table for room in rooms for table in self.store.folders(room))

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        folder = self.workspace / table
        missing = [file for file in files if not _is_here(folder / file.path, file.size)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self._fetch, table), missing))

    def keep(self, table: str, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self._send, table), paths))

    def keep_log(self, table: str, version: int) -> None:
        """The store has it for good once it answered."""

    def mend_log(self, table: str) -> None:
        """An object is there as a whole or not at all."""

    def data_files(self, table: str) -> Iterator[str]:
        for name in self.store.names(table):
            path = name.removeprefix(f"{table}/")
            if path.endswith(".parquet") and not path.startswith(f"{_LOG}/"):
                yield path

    def discard(self, table: str, path: str) -> None:
        self.store.discard(f"{table}/{path}")
        (self.workspace / table / path).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Keep what was used last, up to a few gigabytes."""
        here = [path for path in self.workspace.rglob("*.parquet") if path.is_file()]
        seen = sorted(((path.stat(), path) for path in here), key=lambda item: -item[0].st_atime)
        total = 0
        for status, path in seen:
            total += status.st_size
            if total > _KEPT_HERE:
                path.unlink()

    def shown(self, folder: str) -> str | None:
        if (mark := self.store.entry(f"{_INSIGHTS}/{folder}/{_MARK}")) is None:
            return None
        with suppress(FileNotFoundError), self.store.open(mark) as content:
            return content.read().decode()
        return None

    def show(self, showing: Showing, fence: int, prove: Callable[[], None]) -> None:
        """Copied by the store. Nothing can be renamed: the mark goes first and comes last."""
        base, note = f"{_INSIGHTS}/{showing.folder}", f"{_INSIGHTS}/{_HALF}/{showing.folder}"
        prove()
        self.store.put(note, f"{fence}".encode())
        self.store.discard(f"{base}/{_MARK}")
        there = {name.removeprefix(f"{base}/") for name in self.store.names(base)}
        # A part that has the name has the content: data files never change.
        missing = [item for item in showing.parts.items() if item[0] not in there]
        gone = there - {*showing.parts, *showing.files, _MARK}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self._show_part, showing.table, base), missing))
            list(pool.map(lambda path: self.store.discard(f"{base}/{path}"), gone))
        for path, content in showing.files.items():
            self.store.put(f"{base}/{path}", content)
        prove()
        self.store.put(f"{base}/{_MARK}", showing.mark.encode())
        self.store.discard(note)

    def sweep_shown(self, fence: int) -> None:
        for note in self.store.names(f"{_INSIGHTS}/{_HALF}"):
            base = note.replace(f"{_HALF}/", "", 1)
            if self.store.entry(f"{base}/{_MARK}") is None:
                for name in self.store.names(base):
                    self.store.discard(name)
            self.store.discard(note)

    def _show_part(self, table: str, base: str, part: tuple[str, DataFile]) -> None:
        path, file = part
        self.store.repeat(f"{table}/{file.path}", f"{base}/{path}", file.size)

    def _fetch(self, table: str, file: DataFile) -> None:
        self.store.fetch(f"{table}/{file.path}", self.workspace / table / file.path)

    def _send(self, table: str, path: str) -> None:
        self.store.copy_in(self.workspace / table / path, f"{table}/{path}")


def place_of(store: Store, workspace: Path) -> Place:
    """The place of a lake that lies in `store`; `workspace` is used where that is not here."""
    if isinstance(store, LocalFolder):
        return LocalPlace(store.root)
    return RemotePlace(cast("S3Folder", store), workspace)


def _is_whole(entry: Path) -> bool:
    """Whether every line of a log entry is JSON."""
    try:
        return bool([json.loads(line) for line in entry.read_bytes().splitlines()])
    except (ValueError, FileNotFoundError):
        return False


def _is_readable(checkpoint: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_table(checkpoint).num_rows)
    except (pa.ArrowException, OSError):
        return False


def _is_here(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _link(file: Path, name: Path) -> None:
    """Give a data file another name, or where the file system has no links, a copy."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOSPC):
            raise
        shutil.copyfile(file, name)
        sync_file(name)


def _parents(files: Iterable[Path], root: Path) -> list[Path]:
    """The folders that hold the files' names, those above them included, up to `root`."""
    folders = {parent for file in files for parent in file.parents if parent.is_relative_to(root)}
    return sorted(folders, reverse=True)
