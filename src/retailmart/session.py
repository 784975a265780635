"""One project's stores, database and engine, opened for one run and closed after it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from retailmart.database import (
    database_file,
    interrupt,
    look_at_database,
    open_database,
    translate_errors,
)
from retailmart.engines import Engine, Files
from retailmart.engines.registry import open_engine, parallel_from
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake, place_of
from retailmart.ledger import Ledger, acquire_lease
from retailmart.ledger.migrations import is_current
from retailmart.ledger.older import copied, in_memory
from retailmart.project import Project
from retailmart.project.mart import AS_OF
from retailmart.project.uses import tables_by_source
from retailmart.report import Progress
from retailmart.shortages import shortages_told
from retailmart.sources.databases import Sources
from retailmart.stopping import Stop, current_stop
from retailmart.storage import Store, open_store
from retailmart.storage.s3 import S3Access

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

# The pipeline's own folder in a project: nothing in it is needed when no batch is open.
PRIVATE = ".retailmart"
# In it, the file that a run on this machine locks.
LOCK = "lock"
# How often the ledger is read again that was written meanwhile.
_LOOKS = 3

_Read = TypeVar("_Read")


def who() -> str:
    """Who is at work here, as the ledger records it: the account and the machine."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's account may have no name
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


def store_at(project: Project, place: str) -> Store:
    """A folder or bucket that the project's settings name."""
    s3 = project.settings.s3
    access = S3Access(project.environment, s3.endpoint, s3.region, project.s3_keys)
    return open_store(place, project.folder, access)


def open_lake(project: Project) -> Lake:
    """The project's lake, for reading."""
    workspace = project.folder / PRIVATE / "lake"
    return Lake(place_of(store_at(project, project.settings.lake), workspace))


class LedgerAge(Enum):
    """Whether a ledger is of this release, of an older one, or does not exist yet."""

    CURRENT = "current"
    OLDER = "older"
    NONE = "none"


@dataclass(frozen=True)
class LedgerView:
    """A ledger to look at, and what it was before it was made readable."""

    ledger: Ledger
    age: LedgerAge


@contextmanager
def open_ledger(project: Project) -> Iterator[Ledger]:
    """The project's ledger, for reading."""
    database = open_database(project.database_url(), project.folder)
    try:
        ledger = Ledger(database)
        with translate_errors():
            ledger.migrate()
        yield ledger
    finally:
        database.dispose()


def view_ledger(project: Project, read: Callable[[LedgerView], _Read]) -> _Read:
    """What `read` makes of the project's ledger as it is; nothing is written.

    A full disk and an account that may only read are therefore enough. An older ledger is shown as
    today's; one that does not exist is shown without rows.
    """
    url, folder = project.database_url(), project.folder
    file = database_file(url, folder)
    for again in reversed(range(_LOOKS)):
        before = _stamp(file)
        if file is not None and before is None:
            return read(LedgerView(Ledger(in_memory()), LedgerAge.NONE))
        database = look_at_database(url, folder)
        try:
            with translate_errors():
                found = read(_view_of(Ledger(database)))
        except RetailmartError:
            if not again or before == _stamp(file):
                raise
            continue
        finally:
            database.dispose()
        if before == _stamp(file):
            break
    return found


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """What shows that a database's file was written; None if there is no file."""
    try:
        status = file.stat() if file else None
    except FileNotFoundError:
        return None
    return (status.st_size, status.st_mtime_ns) if status else None


def _view_of(ledger: Ledger) -> LedgerView:
    with ledger.reading() as connection:
        if is_current(connection):
            return LedgerView(ledger, LedgerAge.CURRENT)
        if not ledger.is_there():
            return LedgerView(Ledger(in_memory()), LedgerAge.NONE)
        return LedgerView(Ledger(copied(connection)), LedgerAge.OLDER)


def open_sources(project: Project) -> Sources:
    """The shop's own databases, each opened on its first use."""

    def opened(name: str) -> Database:
        try:
            return open_database(project.source_url(name), project.folder, must_exist=True)
        except SettingsError:
            raise
        except RetailmartError as error:
            tables = [table.table for table in tables_by_source(project).get(name, ())]
            read = f"; from it are read: {', '.join(tables)}" if tables else ""
            fix = f"Put it there, or correct `{name}` under `sources` in retailmart.yml{read}"
            raise RetailmartError(f"source {name}: {error.message}", fix) from error

    settings = project.settings
    return Sources(tuple(settings.sources), opened, parallel_from(settings))


@dataclass(frozen=True)
class SafePoints:
    """Progress that raises Stopped once somebody has asked to stop."""

    shown: Progress
    stop: Stop

    def began(self, step: str) -> None:
        self.stop.check()
        self.shown.began(step)

    def message(self, step: str, message: str) -> None:
        self.stop.check()
        self.shown.message(step, message)

    def ended(self, step: str, seconds: float) -> None:
        self.shown.ended(step, seconds)


@dataclass
class Session:
    """A project opened for work: its stores, ledger, lake and engine. Use `Session.open`.

    `seconds` has the time that each step took; `failed_step` is the one that failed last, unless
    another one began after it. The beginning of a step and each message of one are safe points, at
    which the session's `stop` is checked. `places` are where the engine finds the tables' files, if
    that is not just the lake.
    """

    project: Project
    ledger: Ledger
    lake: Lake
    landing: Store
    archive: Store
    sources: Sources
    private: Path
    progress: Progress
    stop: Stop
    _stack: ExitStack
    places: tuple[Files, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    failed_step: str | None = None
    _engine: Engine | None = None

    @classmethod
    @contextmanager
    def open(cls, project: Project, progress: Progress) -> Iterator[Session]:
        """Open the project's stores and its database, and close them at the end."""
        settings, folder = project.settings, project.folder
        with ExitStack() as stack:
            database = open_database(project.database_url(), folder)
            stack.callback(database.dispose)
            sources = open_sources(project)
            stack.callback(sources.close)
            stop = current_stop()
            stack.enter_context(stop.breaking_off(lambda: interrupt(database)))
            stack.enter_context(stop.breaking_off(sources.interrupt))
            session = cls(
                project,
                Ledger(database),
                open_lake(project),
                store_at(project, settings.landing),
                store_at(project, settings.archive),
                sources,
                folder / PRIVATE,
                SafePoints(progress, stop),
                stop,
                stack,
            )
            try:
                yield session
            except Exception as error:
                meant = stop.meaning(error)
                if meant is error:
                    raise
                raise meant from error

    @property
    def scratch(self) -> Path:
        """Where the open batch's staged copies are."""
        return self.private / "scratch"

    def acquire_lease(self) -> None:
        """Acquire the project's lease until this object is closed."""
        lease = self._stack.enter_context(acquire_lease(self.ledger.engine, self.private / LOCK))
        self.ledger = replace(self.ledger, lease=lease)
        self.lake = replace(self.lake, fence=lease.fence)
        # Where the process is ended in the middle of the work, the next run need not wait.
        self._stack.enter_context(self.stop.ending(self.ledger.give_back_lease))

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step and report it to `progress`; yields a function that reports a detail.

        A step that fails is timed, too, and remembered; the error tells people of it.
        """
        self.failed_step = None
        start = time.perf_counter()
        try:
            self.progress.began(name)
            with shortages_told():
                yield lambda message: self.progress.message(name, message)
        except BaseException:
            self.failed_step = name
            raise
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.progress.ended(name, took)

    def engine(self, as_of: datetime | None = None) -> Engine:
        """The engine, opened on its first use: a run with nothing to do needs none.

        The marts' variables are set for a moment; without `as_of`, they are as they were.
        """
        if self._engine is None:
            places = self.places or (self.lake.place,)
            for place in places:
                place.workspace.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(self.project.settings, places, self.private)
            self._stack.callback(self._engine.close)
            self._stack.enter_context(self.stop.interrupting(self._engine.interrupt))
            for message in self.project.settings.spark.retired:
                self.progress.message("settings", message)
            self._engine.add_functions(self.project.functions)
        if as_of is not None:
            self._engine.set_variables({**self.project.variables, AS_OF: as_of})
        return self._engine

    @property
    def has_retried(self) -> bool:
        """Whether the engine had to try work again, which may leave orphaned files."""
        return self._engine is not None and self._engine.retried

    def clear_scratch(self) -> None:
        """Remove the staged copies of a batch that has ended."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        # The next batch of this run needs it: by this folder a task recognizes the run's machine.
        self.scratch.mkdir(exist_ok=True)
