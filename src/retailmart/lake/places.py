"""Where a lake's tables are: on this machine's disk, or in a bucket with a local workspace.

Engines read and write local files only. A `Place` fetches files to this machine and stores them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from retailmart.errors import GateFailed
from retailmart.lake.exports import EXPORTS, Exports, LocalExports, RemoteExports, parents
from retailmart.storage import LocalFolder, Store, sync_file, sync_folder
from retailmart.tables import DataFile, TableState

if TYPE_CHECKING:
    from retailmart.storage.s3 import S3Folder

_AT_ONCE = 8
_KEPT_HERE = 4 << 30
_LOG = "_delta_log"
_LAST_CHECKPOINT = "_last_checkpoint"


@dataclass(frozen=True)
class Stored:
    """A file of a table as it is stored: its path below the table, `size` in bytes.

    `modified` is in seconds since 1970. With `linked` it has another name, such as in an export:
    to remove this one frees nothing.
    """

    path: str
    size: int
    modified: float
    linked: bool = False


class Place(Protocol):
    """What the lake needs to know about its location. `table` is a path like raw/sales."""

    def __str__(self) -> str: ...

    @property
    def workspace(self) -> Path:
        """The folder below which engines read and write."""

    def on(self, workspace: Path) -> Place:
        """The same location as another machine sees it, which has this workspace."""

    def holds(self, root: str) -> bool:
        """Whether it holds a table's root, as named on the machine that opened the location."""

    def here(self, table: TableState) -> TableState:
        """A table with its files readable on this machine."""

    def folder(self, root: Path) -> Path:
        """Where this machine works on the files that belong below a root."""

    def send(self, root: Path, files: Sequence[DataFile]) -> None:
        """Store files that were written on this machine, under the root that they belong to."""

    def remove(self, root: Path, files: Sequence[DataFile]) -> None:
        """Remove data files that belong below a root."""

    def forget(self, root: Path) -> None:
        """Remove all data files below a root."""

    def beside(self, name: str, workspace: Path) -> Place:
        """A separate location for other tables, seen by all machines that see this one."""

    def address(self, table: str) -> str:
        """The address that the Delta library opens."""

    def options(self) -> Mapping[str, str]:
        """The Delta library's options for access."""

    def has(self, table: str) -> bool:
        """Whether the table has a log."""

    def tables(self) -> list[str]:
        """Every table that has a folder."""

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        """Make data files readable in the workspace."""

    def persist(self, table: str, files: Iterable[DataFile]) -> None:
        """Make data files that an engine wrote survive a power cut of this machine."""

    def persist_log(self, table: str, version: int) -> None:
        """Make a log entry survive, and the files that the Delta library wrote after it."""

    def repair_log(self, table: str) -> None:
        """Remove the part of the log that a power cut has torn; nothing depends on it yet."""

    def data_files(self, table: str) -> Iterator[str]:
        """The paths of all Parquet files of a table, committed or not."""

    def stored(self, table: str) -> list[Stored]:
        """All files of a table, those of its log (below `_delta_log`) included."""

    def newest_entry(self, table: str, version: int) -> str | None:
        """What tells this version's log entry from all others, if it is the newest; else None.

        Nothing is read.
        """

    def discard(self, table: str, path: str) -> None:
        """Remove a data file."""

    def discard_all(self, table: str, paths: Sequence[str]) -> None:
        """Remove files of a table or its log; those that are gone already do not matter."""

    def tidy(self) -> None:
        """Shrink the local cache where it has grown large."""

    @property
    def exports(self) -> Exports:
        """The exports of its marts."""


@dataclass(frozen=True)
class LocalPlace:
    """Tables below a folder of this machine; the workspace is that same folder."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def workspace(self) -> Path:
        return self.root

    def on(self, workspace: Path) -> LocalPlace:
        """A folder that machines share has one path."""
        return self

    def holds(self, root: str) -> bool:
        return Path(root).is_relative_to(self.root)

    def here(self, table: TableState) -> TableState:
        return table

    def folder(self, root: Path) -> Path:
        return root

    def send(self, root: Path, files: Sequence[DataFile]) -> None:
        self.persist(root.relative_to(self.root).as_posix(), files)

    def remove(self, root: Path, files: Sequence[DataFile]) -> None:
        for file in files:
            (root / file.path).unlink(missing_ok=True)

    def forget(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        for folder in root.parents:
            if folder == self.root or not folder.is_relative_to(self.root):
                break
            with suppress(OSError):  # someone else has files there
                folder.rmdir()

    def beside(self, name: str, workspace: Path) -> LocalPlace:
        return LocalPlace(workspace)

    def address(self, table: str) -> str:
        return str(self.root / table)

    def options(self) -> Mapping[str, str]:
        return {}

    def has(self, table: str) -> bool:
        return (self.root / table / _LOG).is_dir()

    def tables(self) -> list[str]:
        folders = (path for path in self.root.glob("[!.]*/*") if path.is_dir())
        names = (path.relative_to(self.root).as_posix() for path in folders)
        return sorted(name for name in names if not name.startswith(f"{EXPORTS}/"))

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        """Nothing to do: they are on this machine."""

    def persist(self, table: str, files: Iterable[DataFile]) -> None:
        folder = self.root / table
        paths = [folder / file.path for file in files]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync_file, paths))
            list(pool.map(sync_folder, parents(paths, self.root)))

    def persist_log(self, table: str, version: int) -> None:
        log = self.root / table / _LOG
        sync_file(log / _entry(version))
        if (checkpoint := log / f"{version:020d}.checkpoint.parquet").exists():
            sync_file(checkpoint)
            sync_file(log / _LAST_CHECKPOINT)
        for folder in (log, *parents([log], self.root)):
            sync_folder(folder)

    def repair_log(self, table: str) -> None:
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

    def stored(self, table: str) -> list[Stored]:
        folder = str(self.root / table)
        found = ((entry.path, _status(entry)) for entry in _files_below(folder))
        return [
            Stored(path[len(folder) + 1 :], known.st_size, known.st_mtime, known.st_nlink > 1)
            for path, known in found
            if known is not None
        ]

    def newest_entry(self, table: str, version: int) -> str | None:
        log = self.root / table / _LOG
        if (log / _entry(version + 1)).exists():
            return None
        try:
            status = (log / _entry(version)).stat()
        except FileNotFoundError:
            return None
        return f"{version}-{status.st_mtime_ns}-{status.st_size}"

    def discard(self, table: str, path: str) -> None:
        (self.root / table / path).unlink(missing_ok=True)

    def discard_all(self, table: str, paths: Sequence[str]) -> None:
        for path in paths:
            self.discard(table, path)

    def tidy(self) -> None:
        """Nothing to do: no file is stored twice."""

    @property
    def exports(self) -> LocalExports:
        return LocalExports(self.root)


@dataclass(frozen=True)
class RemotePlace:
    """Tables in a bucket. Their files are immutable, so fetched files may stay in the workspace.

    An engine's files are uploaded before the ledger relies on them. `home` is the workspace of the
    machine that opened the location; tables' roots are named by it.
    """

    store: S3Folder
    workspace: Path
    home: Path | None = None

    def __str__(self) -> str:
        return str(self.store)

    def on(self, workspace: Path) -> RemotePlace:
        return replace(self, workspace=workspace, home=self._home)

    def holds(self, root: str) -> bool:
        return Path(root).is_relative_to(self._home)

    def here(self, table: TableState) -> TableState:
        self.fetch(self._table(Path(table.root)), table.files)
        return replace(table, root=str(self.folder(Path(table.root))))

    def folder(self, root: Path) -> Path:
        return self.workspace / self._table(root)

    def send(self, root: Path, files: Sequence[DataFile]) -> None:
        self.persist(self._table(root), files)

    def remove(self, root: Path, files: Sequence[DataFile]) -> None:
        for file in files:
            self.discard(self._table(root), file.path)

    def forget(self, root: Path) -> None:
        table = self._table(root)
        for name in self.store.names(table):
            self.store.discard(name)
        shutil.rmtree(self.folder(root), ignore_errors=True)

    def beside(self, name: str, workspace: Path) -> RemotePlace:
        return RemotePlace(self.store.below(name), workspace)

    def _table(self, root: Path) -> str:
        return root.relative_to(self._home).as_posix()

    @property
    def _home(self) -> Path:
        return self.home or self.workspace

    def address(self, table: str) -> str:
        return f"{self.store}/{table}"

    def options(self) -> Mapping[str, str]:
        return self.store.delta_options()

    def has(self, table: str) -> bool:
        return self.store.any_below(f"{table}/{_LOG}")

    def tables(self) -> list[str]:
        rooms = (r for r in self.store.folders("") if r != EXPORTS and not r.startswith("."))
        return sorted(table for room in rooms for table in self.store.folders(room))

    def fetch(self, table: str, files: Iterable[DataFile]) -> None:
        folder = self.workspace / table
        missing = [file for file in files if not _is_here(folder / file.path, file.size)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self._fetch, table), missing))

    def persist(self, table: str, files: Iterable[DataFile]) -> None:
        """Upload the files on this machine; other machines have sent theirs."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self._send, table), files))

    def persist_log(self, table: str, version: int) -> None:
        """Nothing to do: what the store has acknowledged is durable."""

    def repair_log(self, table: str) -> None:
        """Nothing to do: an object exists as a whole or not at all."""

    def data_files(self, table: str) -> Iterator[str]:
        for name in self.store.names(table):
            path = name.removeprefix(f"{table}/")
            if path.endswith(".parquet") and not path.startswith(f"{_LOG}/"):
                yield path

    def stored(self, table: str) -> list[Stored]:
        return [
            Stored(entry.key, entry.size, entry.mtime_ns / 1e9)
            for entry in self.store.below(table).entries()
        ]

    def newest_entry(self, table: str, version: int) -> str | None:
        log = f"{table}/{_LOG}"
        if self.store.entry(f"{log}/{_entry(version + 1)}") is not None:
            return None
        found = self.store.entry(f"{log}/{_entry(version)}")
        return f"{version}-{found.version}-{found.mtime_ns}" if found else None

    def discard(self, table: str, path: str) -> None:
        self.store.discard(f"{table}/{path}")
        (self.workspace / table / path).unlink(missing_ok=True)

    def discard_all(self, table: str, paths: Sequence[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(self.discard, table), paths))

    def tidy(self) -> None:
        """Keep the most recently used files, up to a few gigabytes."""
        here = [path for path in self.workspace.rglob("*.parquet") if path.is_file()]
        seen = sorted(((path.stat(), path) for path in here), key=lambda item: -item[0].st_atime)
        total = 0
        for status, path in seen:
            total += status.st_size
            if total > _KEPT_HERE:
                path.unlink()

    @property
    def exports(self) -> RemoteExports:
        return RemoteExports(self.store, self.workspace, self.fetch)

    def _fetch(self, table: str, file: DataFile) -> None:
        self.store.fetch(f"{table}/{file.path}", self.workspace / table / file.path)

    def _send(self, table: str, file: DataFile) -> None:
        key, here = f"{table}/{file.path}", self.workspace / table / file.path
        if _is_here(here, file.size):
            self.store.copy_in(here, key)
        elif (there := self.store.entry(key)) is None or there.size != file.size:
            raise GateFailed(
                f"{self.store}/{key} is not there as it was written; nothing was committed",
                "Run again: retailmart run",
            )


def place_of(store: Store, workspace: Path) -> Place:
    """The location of a lake in `store`; `workspace` is used if the store is remote."""
    if isinstance(store, LocalFolder):
        return LocalPlace(store.root)
    return RemotePlace(cast("S3Folder", store), workspace)


def _entry(version: int) -> str:
    return f"{version:020d}.json"


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


def _files_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """All files at any depth; what vanishes meanwhile is left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path)
            else:
                yield entry


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_here(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
