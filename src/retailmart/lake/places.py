"""Where a lake's tables lie: on this machine's disk, or in a bucket with a workspace here.

Engines read and write local files only; a place brings them here and takes them home.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        return sorted(path.relative_to(self.root).as_posix() for path in folders)

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
        return sorted({"/".join(name.split("/")[:2]) for name in self.store.names("")})

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


def _parents(files: Iterable[Path], root: Path) -> list[Path]:
    """The folders that hold the files' names, those above them included, up to `root`."""
    folders = {parent for file in files for parent in file.parents if parent.is_relative_to(root)}
    return sorted(folders, reverse=True)
