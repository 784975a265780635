"""A shadow of a project: a run works in it as in the project itself, and none of it stays.

The ledger is a copy. The lake's tables begin as they are; files are written beside them, and
commits are kept in memory. What has landed, the archive, the shop's own tables and the database are
read.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database import database_file, look_at_database, open_database
from retailmart.lake import Lake
from retailmart.ledger import Lease, Ledger, acquire_lease, give_back
from retailmart.ledger.lease import is_locked
from retailmart.ledger.older import copy_into
from retailmart.project import Project
from retailmart.report import Progress
from retailmart.session import LOCK, PRIVATE, SafePoints, Session, open_lake, open_sources, store_at
from retailmart.stopping import current_stop
from retailmart.tables import DataFile, TableChange, TableState

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

    from retailmart.lake.places import Place

# What the names of data files that belong to a shadow begin with.
_SHADOW = "plan-"


@dataclass(frozen=True)
class ShadowFiles:
    """The files of tables that begin as they are in `real`; what is written is in `beside`.

    Tables' roots are below `root`, on the machine where the plan is made. Those in `real` are below
    `real_root` there.
    """

    real: Place
    beside: Place
    root: Path
    real_root: Path

    @property
    def workspace(self) -> Path:
        """The folder below which engines write."""
        return self.beside.workspace

    def on(self, workspace: Path) -> ShadowFiles:
        """The same files as another machine sees them."""
        return replace(self, real=self.real.on(workspace), beside=self.beside.on(workspace))

    def holds(self, root: str) -> bool:
        """Whether a table's root is below these locations."""
        return Path(root).is_relative_to(self.root)

    def here(self, table: TableState) -> TableState:
        """A table with all its files readable on this machine, each by its whole path."""
        own = [file for file in table.files if _is_shadow(file.path)]
        others = [file for file in table.files if not _is_shadow(file.path)]
        there = str(self.real_root / Path(table.root).relative_to(self.root))
        parts = (
            self.beside.here(table.only(own)),
            self.real.here(replace(table, root=there, files=tuple(others))),
        )
        files = [
            replace(file, path=str(Path(part.root) / file.path))
            for part in parts
            for file in part.files
        ]
        return table.only(files)

    def folder(self, root: Path) -> Path:
        """Where this machine writes the files that belong below a root."""
        return self.beside.folder(root)

    def remove(self, root: Path, files: Sequence[DataFile]) -> None:
        """Remove files that were written."""
        self.beside.remove(root, files)

    def send(self, root: Path, files: Sequence[DataFile]) -> None:
        """Let all machines see files that were written on this one."""
        self.beside.send(root, files)

    def forget(self, root: Path) -> None:
        """Remove all files that were written below a root."""
        self.beside.forget(root)


@dataclass(frozen=True, kw_only=True)
class ShadowLake(Lake):
    """A lake whose commits change what it shows, and nothing else."""

    files: ShadowFiles
    _committed: dict[str, TableState] = field(default_factory=dict, compare=False, repr=False)

    def folder(self, table: str) -> Path:
        return self.files.root / table

    def state(self, table: str, version: int | None = None) -> TableState | None:
        if version is None and (committed := self._committed.get(table)) is not None:
            return committed
        return super().state(table, version)

    def before(self, table: str) -> TableState | None:
        """A table as it is in the project's lake."""
        return super().state(table)

    def has_files(self, table: str, state: TableState) -> bool:
        return Lake(self.place).has_files(table, state)

    def persist(self, change: TableChange) -> None:
        """Nothing to do: none of the files stays."""

    def commit(self, change: TableChange, batch_id: int) -> int:
        before = self.state(change.table)
        adds = {file.path for file in change.adds}  # a run may have been killed amid its commits
        gone = (*change.removes, *adds)
        root = str(self.folder(change.table))
        whole = replace(change, removes=tuple(gone))
        self._committed[change.table] = whole.applied_to(root, before)
        return self.version(change.table) or 0

    def repair(self, table: str) -> None:
        """Nothing to do: the next run repairs what it finishes."""

    def prefix(self, batch_id: int) -> str:
        return f"{_SHADOW}{batch_id:08d}-"


def _is_shadow(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_SHADOW)


@contextmanager
def open_shadow(project: Project, progress: Progress) -> Iterator[tuple[Session, ShadowLake]]:
    """Open a shadow of a project, and remove it at the end."""
    settings, folder = project.settings, project.folder
    with ExitStack() as stack:
        private = stack.enter_context(_private(folder / PRIVATE))
        lake = _shadow_of(open_lake(project), private)
        stack.callback(lake.place.forget, lake.place.workspace / _beside(private))
        published = stack.enter_context(_published(project))
        ledger = _copied(project.folder, private, published, stack)
        sources = open_sources(project)
        stack.callback(sources.close)
        stop = current_stop()
        stack.enter_context(stop.breaking_off(sources.interrupt))
        session = Session(
            project,
            ledger,
            lake,
            store_at(project, settings.landing),
            store_at(project, settings.archive),
            sources,
            private,
            SafePoints(progress, stop),
            stop,
            stack,
            (lake.files, lake.place),
        )
        try:
            yield session, lake
        except Exception as error:
            meant = stop.meaning(error)
            if meant is error:
                raise
            raise meant from error


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    """A folder of one's own, on the project's disk: there is room for what a run writes."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    remove_left(folder)
    own = Path(tempfile.mkdtemp(prefix=_SHADOW, dir=folder))
    try:
        with (own / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_SH)
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        if not existed:
            with suppress(OSError):  # somebody has files there
                folder.rmdir()


def remove_left(folder: Path) -> None:
    """Remove the shadows that killed commands left in a private folder: nobody has their lock."""
    for left in folder.glob(f"{_SHADOW}*"):
        with suppress(OSError), (left / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


def _shadow_of(lake: Lake, private: Path) -> ShadowLake:
    root = private / "lake"
    root.mkdir()
    # Files of a bucket are fetched to the shadow: the project's own copies stay as they are.
    real = lake.place.on(private / "fetched")
    beside = lake.place.beside(_beside(private), root)
    return ShadowLake(lake.place, files=ShadowFiles(real, beside, root, lake.place.workspace))


def _beside(private: Path) -> str:
    """Where a bucket has the files that other machines write for the shadow."""
    return f".{private.name}"


@contextmanager
def _published(project: Project) -> Iterator[Database | None]:
    """The database that marts are published to; None if it does not exist yet."""
    url, folder = project.database_url(), project.folder
    file = database_file(url, folder)
    if file is not None and not file.exists():
        yield None
        return
    database = look_at_database(url, folder)
    try:
        yield database
    finally:
        database.dispose()


def _copied(folder: Path, private: Path, published: Database | None, stack: ExitStack) -> Ledger:
    """A copy of the ledger, with a lease of its own. ProjectBusy while a run is at work."""
    database = open_database("sqlite:///ledger.db", private)
    stack.callback(database.dispose)
    if published is not None and (there := Ledger(published)).is_there():
        with there.reading() as connection:
            copy_into(database, connection)
    else:
        Ledger(database).migrate()
    _free_of_the_dead(Ledger(database), folder / PRIVATE / LOCK)
    lease = stack.enter_context(acquire_lease(database, private / LOCK))
    return Ledger(database, lease, published)


def _free_of_the_dead(copy: Ledger, lock_file: Path) -> None:
    """Take the copied lease from a run of this folder that was killed: nobody has its lock file."""
    held = copy.leases.now()
    own = f"{socket.gethostname()}:{lock_file.resolve()}"
    if held.holder == own and not is_locked(lock_file):
        give_back(copy.engine, Lease(own, held.fence))
