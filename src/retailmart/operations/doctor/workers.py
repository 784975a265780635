"""Checks Spark's workers with a task on each: versions, memory, disk, access."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from retailmart.check_results import CheckResult, ok, problem, warning
from retailmart.database import database_file, open_database
from retailmart.engines import Engine
from retailmart.engines.registry import open_engine
from retailmart.errors import RetailmartError
from retailmart.lake.places import Place
from retailmart.project import Project
from retailmart.report import number_of
from retailmart.session import PRIVATE, open_lake, store_at
from retailmart.storage import Store
from retailmart.tables import TableState

# More than the cores, so that every worker gets a task; too large for the driver itself.
_ASKED_A_CORE, _SIZE = 4, 1 << 50
_LITTLE_DISK = 1 << 30
_ROWS = 100


@dataclass(frozen=True)
class Seen:
    """The observations of one task: its machine and executor, and what it cannot reach, as text.

    `memory` is the limit of its DuckDB, `free` are bytes of its local disk. `written` are rows that
    it wrote into the lake's exchange.
    """

    worker: str
    memory: str
    free: int
    problems: tuple[str, ...]
    written: TableState


@dataclass(frozen=True)
class LookAround:
    """Inspects a worker's machine. The database's URL holds its password and is never shown."""

    stores: tuple[tuple[str, Store], ...]
    database: str | None = field(repr=False)
    root: Path

    def __call__(self, engine: Engine, number: int) -> Seen:
        """What this worker has and can reach."""
        reaches: list[tuple[str, Callable[[], object]]] = [
            (f"{name} ({store})", partial(_is_reached, name, store)) for name, store in self.stores
        ]
        if self.database is not None:
            reaches.append(("the database", self._connect))
        problems = [f"{name}: {message}" for name, reach in reaches if (message := _fails(reach))]
        query = f"SELECT i FROM range({_ROWS}) r(i)"
        written = engine.write(query, self.root / str(number), "probe", ())
        return Seen(
            f"{socket.gethostname()}, {engine.scratch}",
            str(engine.rows("SELECT current_setting('memory_limit')")[0][0]),
            shutil.disk_usage(engine.scratch).free,
            tuple(problems),
            TableState(str(self.root / str(number)), written.fields, (), written.files),
        )

    def _connect(self) -> bool:
        database = open_database(str(self.database), Path(os.devnull))
        try:
            with database.connect():
                return True
        finally:
            database.dispose()


def examine_workers(project: Project) -> Iterator[CheckResult]:
    """Inspect each worker; files that workers write must be visible here."""
    settings, private = project.settings, project.folder / PRIVATE
    place = open_lake(project).place
    names = ("landing", "lake", "archive")
    stores = tuple((name, store_at(project, getattr(settings, name))) for name in names)
    url = project.database_url()
    # A local file belongs to this machine; workers do not write to it.
    database = None if database_file(url, project.folder) else url
    with (
        _folders(private, place.workspace),
        closing(open_engine(settings, [place], private)) as engine,
    ):
        root = engine.exchange()
        count = _ASKED_A_CORE * engine.parallelism
        work = LookAround(stores, database, root)
        seen = engine.spread(work, list(range(count)), [_SIZE] * count)
        came = sum(_rows_here(place, one.written) for one in seen)
        place.forget(root)
    where = settings.spark.remote or settings.spark.master or "Spark"
    workers = {one.worker: one for one in seen}
    yield ok("spark: versions", f"retailmart and DuckDB are the same on all workers of {where}")
    if came != count * _ROWS:
        yield problem(
            "spark: rows",
            f"what workers of {where} write is not found here: {came} of {count * _ROWS} rows",
            "Let all of them see the project's folder, or put the lake into a bucket",
        )
    else:
        yield ok(
            "spark: rows",
            f"what {number_of(len(workers), 'worker')} of {where} wrote is found here",
        )
    memory = ", ".join(sorted({one.memory for one in seen}))
    yield ok("spark: memory", f"{memory} for a task's DuckDB; `spark: task_memory` sets it")
    yield _disk(workers)
    yield from _reach(workers)


@contextmanager
def _folders(*folders: Path) -> Iterator[None]:
    """The run's own folders; folders that did not exist before are removed again."""
    new = [folder for folder in folders if not folder.is_dir()]
    for folder in new:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for top in new:
            for below, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # a run has begun in the meantime
                    Path(below).rmdir()


def _rows_here(place: Place, written: TableState) -> int:
    try:
        found = place.here(written)
    except (RetailmartError, OSError):
        return 0
    return sum(file.rows for file in found.files if (Path(found.root) / file.path).is_file())


def _disk(workers: dict[str, Seen]) -> CheckResult:
    free, worker = min((one.free, name) for name, one in workers.items())
    message = f"{free / (1 << 30):,.1f} GB free, at least ({worker})"
    if free < _LITTLE_DISK:
        fix = "Free some, or let Spark's spark.local.dir name a larger disk"
        return warning("spark: disk", message, fix)
    return ok("spark: disk", message)


def _reach(workers: dict[str, Seen]) -> Iterator[CheckResult]:
    lacking = {message: name for name, one in workers.items() for message in one.problems}
    for message, worker in sorted(lacking.items()):
        yield problem(
            "spark: reach",
            f"a worker ({worker}) can't reach {message}",
            "Let its network and its account get there, as this machine does",
        )
    if not lacking:
        yield ok("spark: reach", "all workers reach landing, lake, archive and the database")


def _is_reached(name: str, store: Store) -> bool:
    """Whether a store is there, or a run will create it; an unreachable bucket raises."""
    return store.is_there() or name != "landing"


def _fails(reach: Callable[[], object]) -> str | None:
    try:
        return None if reach() else "is not there"
    except RetailmartError as error:
        return error.message.splitlines()[0]
    except Exception as error:
        return type(error).__name__  # its message could hold a password
