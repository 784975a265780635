"""Checks what could prevent runs, on the project's real database, stores and machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retailmart.check_results import CheckResult, DoctorReport, Level, ok, problem, warning
from retailmart.errors import MissingExtra, RetailmartError, SettingsError
from retailmart.operations.doctor.machine import examine_machine, examine_scratch
from retailmart.operations.doctor.monitoring import examine_monitoring
from retailmart.project import Project
from retailmart.report import number_of
from retailmart.session import PRIVATE, LedgerView, open_lake, store_at, view_ledger
from retailmart.storage import LocalFolder, Store
from retailmart.tables import Field

# Of threads; an area that hangs holds what must not be torn down under it at the program's end.
THREADS = "retailmart-doctor"
# Tables with this many rows or more are not read for a check.
_LARGE = 1_000_000
# Areas that ask what others are about.
_WAIT_FOR_OTHERS = ("project", "published tables")
Check = Callable[[], Iterator[CheckResult]]


def doctor(
    project: Project,
    *,
    spark: bool = False,
    seconds: float = 25.0,
    each: Callable[[CheckResult], None] | None = None,
) -> DoctorReport:
    """Check everything that runs rely on, as `examine`. `each` gets a result once it is known."""
    found = []
    for result in examine(project, spark=spark, seconds=seconds):
        found.append(result)
        if each is not None:
            each(result)
    return DoctorReport(tuple(found))


def examine(
    project: Project, *, spark: bool = False, seconds: float = 25.0
) -> Iterator[CheckResult]:
    """Check everything that runs rely on; check results come in a fixed order.

    `spark` checks Spark in any case. Nothing that exists is changed. An area that does not answer
    in `seconds` is a check result too. This limit is longer than any connection's timeout, so that
    the reason is shown and not only the silence.
    """
    definitions = _Definitions(project)
    areas: dict[str, Check] = {
        "project": lambda: _project(project, definitions),
        "machine": lambda: examine_machine(project.settings.memory_limit),
        "scratch": lambda: examine_scratch(project.folder / PRIVATE),
        "disk": lambda: _disks(project),
        "database": lambda: _database(project),
        "published tables": lambda: _published(project, definitions),
    }
    for name in project.settings.sources:
        areas[f"source {name}"] = lambda name=name: _source(project, name)  # type: ignore[misc]
    for use in ("landing", "lake", "archive"):
        areas[use] = lambda use=use: _store(project, use)  # type: ignore[misc]
    areas["lake: files"] = lambda: _lake_files(project)
    areas["lake: rows"] = lambda: _lake_rows(project)
    areas["archive: way"] = lambda: _way(project)
    if any(place.startswith("s3://") for place in _places(project).values()):
        areas["S3"] = lambda: _s3(project)
    areas["monitoring"] = lambda: examine_monitoring(project)
    areas["spark"] = lambda: _spark(project, spark)
    until = time.monotonic() + seconds
    visits = [_Visit(name, check) for name, check in areas.items()]
    for visit in visits:
        visit.start()
    silent: list[str] = []
    waited: list[CheckResult] = []
    for visit in visits:
        found = visit.results(max(0.0, until - time.monotonic()), seconds)
        if visit.is_silent:
            silent.append(visit.name)
            if visit.name in _WAIT_FOR_OTHERS:
                waited.append(found.pop())
        yield from found
    # These ask sources, database and stores, too: what does not answer is told once, by its area.
    if not set(silent) - set(_WAIT_FOR_OTHERS):
        yield from waited


@dataclass
class _Visit:
    """One area's checks in a separate thread, so that a hanging area delays no other."""

    name: str
    check: Check
    _found: list[CheckResult] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        # The program does not wait for it at its end.
        threading.Thread(target=self._ask, name=THREADS, daemon=True).start()

    @property
    def is_silent(self) -> bool:
        """Whether it has not ended in time."""
        return not self._ended.is_set()

    def results(self, wait: float, patience: float) -> list[CheckResult]:
        """The check results that arrived in time."""
        if self._ended.wait(wait):
            return self._found
        fix = "See whether it is overloaded, or what stands between: firewall, proxy, VPN"
        return [
            *self._found,
            problem(f"{self.name}: answer", f"none within {patience:g} s", fix),
        ]

    def _ask(self) -> None:
        check = f"{self.name}: check"
        try:
            for result in self.check():
                self._found.append(result)
        except RetailmartError as error:
            message = "; ".join(error.message.splitlines())
            fix = error.hint or "Correct retailmart.yml, then look with: retailmart check"
            self._found.append(problem(check, message, fix))
        except OSError as error:
            fix = f"See whether {error.filename or 'it'} can be read and written by this account"
            self._found.append(problem(check, error.strerror or type(error).__name__, fix))
        except Exception as error:
            # Its message is unknown and could hold a password.
            fix = "See what a run says: retailmart run"
            self._found.append(problem(check, f"failed with {type(error).__name__}", fix))
        finally:
            self._ended.set()


@dataclass
class _Definitions:
    """What `check` finds in the project's files, found once for the areas that show it."""

    project: Project
    mistakes: tuple[str, ...] = ()
    hint: str | None = None
    columns: Mapping[str, tuple[Field, ...]] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_checked: bool = False

    def checked(self) -> _Definitions:
        """The same once it is checked; the first area that asks does it."""
        with self._lock:
            if not self._is_checked:
                self._check()
            self._is_checked = True
        return self

    def _check(self) -> None:
        from retailmart.operations.check import Unasked, check_definitions, expect_one_feed

        unasked = Unasked()
        try:
            expect_one_feed(self.project, unasked=unasked)
            self.columns = check_definitions(self.project, unasked)
        except SettingsError as error:
            self.mistakes, self.hint = error.problems, error.hint
        self.unasked = tuple(unasked.reasons)


def _project(project: Project, definitions: _Definitions) -> Iterator[CheckResult]:
    found = definitions.checked()
    fix = found.hint or "Correct it, then look with: retailmart check"
    yield from (problem("project: files", mistake, fix) for mistake in found.mistakes)
    if not found.mistakes:
        feeds, marts = number_of(len(project.feeds), "feed"), number_of(len(project.marts), "mart")
        # Their own areas say why they do not answer.
        where = f" without asking {', '.join(found.unasked)}" if found.unasked else ""
        yield ok("project: files", f"{feeds} and {marts}, no mistake found{where}")
    try:
        project.check_secrets()
    except SettingsError as error:
        told = "; ".join(error.problems)
        fix = error.hint or "Correct retailmart.yml, then look with: retailmart check"
        yield problem("project: secrets", told, "; ".join(map(str.strip, fix.splitlines())))


def _published(project: Project, definitions: _Definitions) -> Iterator[CheckResult]:
    from retailmart.operations.check import check_published_names

    check = "database: published tables"
    try:
        project.database_url()
    except SettingsError:
        return  # the project's area says what it lacks
    try:
        for table in check_published_names(project, definitions.checked().columns):
            yield warning(check, table.message, table.fix)
    except SettingsError as error:
        for message in error.problems:
            yield problem(check, message, str(error.hint))


def _disks(project: Project) -> Iterator[CheckResult]:
    from retailmart.database import database_file
    from retailmart.storage.health import examine_disks

    folders = {
        name: store.root
        for name, place in _places(project).items()
        if not place.startswith("s3://")
        and isinstance(store := store_at(project, place), LocalFolder)
    }
    folders["scratch"] = project.folder / PRIVATE
    file = database_file(project.database_url(), project.folder)
    if file:
        folders["database"] = file.parent
    yield from examine_disks(folders)


def _database(project: Project) -> Iterator[CheckResult]:
    from retailmart.database import database_file, examine_database

    url = project.database_url()
    file = database_file(url, project.folder)
    if file:
        yield from _local_disk(file)
    yield from examine_database(url, project.folder, "database", writes=True)


def _local_disk(file: Path) -> Iterator[CheckResult]:
    """SQLite's log needs memory that all its users share; a network file system has none."""
    from retailmart.storage.health import network_file_system

    if kind := network_file_system(file.parent):
        fix = "Put it on a local disk, or use a server: `database` in retailmart.yml"
        found = f"{file} is on a network file system ({kind}), where SQLite can break it"
        yield problem("database: disk", found, fix)


def _source(project: Project, name: str) -> Iterator[CheckResult]:
    from retailmart.database import examine_database

    answers = True
    url = project.source_url(name)
    for result in examine_database(url, project.folder, f"source {name}", writes=False):
        answers = answers and result.level is not Level.PROBLEM
        yield result
    if answers:
        yield from _values(project, name)


def _values(project: Project, name: str) -> Iterator[CheckResult]:
    """Read the tables that marts read, as a run would; report a value that no type holds."""
    from retailmart.database import open_database
    from retailmart.database.source import extract_of, read_table, table_names
    from retailmart.project.table import undeclared
    from retailmart.project.uses import is_mentioned

    check = f"source {name}: values"
    database = open_database(project.source_url(name), project.folder, must_exist=True)
    wrong = read = large = 0
    try:
        offered = table_names(database)
        declared = {table.table: table for table in project.tables.values()}
        for found in sorted(offered):
            table = declared.get(found) or undeclared(found)
            if table.source not in (None, name) or not is_mentioned(project, table.name):
                continue
            try:
                if extract_of(database, found, _LARGE) is not None:
                    large += 1
                    continue
                read_table(database, found, table.rules)
                read += 1
            except RetailmartError as error:
                wrong += 1
                yield problem(check, error.message, error.hint or "Correct it in the source")
    finally:
        database.dispose()
    if not wrong:
        left = f"; {number_of(large, 'large table')} not tried" if large else ""
        yield ok(check, f"all values of {number_of(read, 'table')} can be read{left}")


def _store(project: Project, use: str) -> Iterator[CheckResult]:
    from retailmart.storage.health import Use, examine_store

    yield from examine_store(store_at(project, _places(project)[use]), Use(use))


def _lake_files(project: Project) -> Iterator[CheckResult]:
    """Whether all files that the tables' current versions name are there, as they were written."""
    from retailmart.lake.layout import is_known, is_mart
    from retailmart.lake.maintenance import missing_files

    check = "lake: files"
    lake, files, tables, right = open_lake(project), 0, 0, True
    try:
        for table in filter(is_known, lake.place.tables()):
            # First its version, then what is there: a run adds files before it names them.
            state, stored = lake.state(table), lake.place.stored(table)
            if state is None:
                continue
            files, tables = files + len(state.files), tables + 1
            if missing := missing_files(state, stored):
                right = False
                folder = f"{lake.place}/{table}"
                found = (
                    f"{number_of(len(missing), 'file')} of {table} not there as written, first"
                    f" {missing[0].path}"
                )
                fix = f"Put back what is missing in {folder}, as from a backup"
                if is_mart(table):
                    fix += "; or remove that folder: the next run that brings files builds it whole"
                yield problem(check, found, fix)
    except RetailmartError:
        return  # the lake's own area says why it does not answer
    if right and tables:
        yield ok(check, f"all {number_of(files, 'file')} of {number_of(tables, 'table')} are there")


def _lake_rows(project: Project) -> Iterator[CheckResult]:
    """Whether raw tables have the rows that the ledger counts."""
    from retailmart.feeds.lost import LOST, lost_rows

    check, lake = "lake: rows", open_lake(project)

    def read(view: LedgerView) -> list[str] | None:
        # While a batch is on its way, the lake is ahead of the ledger.
        ledger = view.ledger
        busy = ledger.batches.unfinished() is not None
        return None if busy else lost_rows(ledger, lake, project.feeds)

    try:
        lost = view_ledger(project, read)
    except RetailmartError:
        return  # the areas of database and lake say why they do not answer
    for found in lost or ():
        yield problem(check, found, LOST)
    if lost == []:
        yield ok(check, "raw tables hold the rows that count")


def _way(project: Project) -> Iterator[CheckResult]:
    from retailmart.storage.health import examine_move

    try:
        stores = _stores(project)
    except MissingExtra:
        return  # the checks of landing, lake and archive report it
    yield examine_move(stores["landing"], stores["archive"])


def _s3(project: Project) -> Iterator[CheckResult]:
    from retailmart.storage.health import examine_s3_clock
    from retailmart.storage.s3 import S3Folder

    try:
        stores = _stores(project).values()
    except MissingExtra:
        return  # the checks of landing, lake and archive report it
    access = next(store.access for store in stores if isinstance(store, S3Folder))
    yield examine_s3_clock(access)


def _spark(project: Project, asked: bool) -> Iterator[CheckResult]:
    from retailmart.engines.registry import has_workers

    uses = has_workers(project.settings)
    if not (uses or asked):
        return
    from retailmart.engines.spark.health import examine_spark

    found = []
    for result in examine_spark(project.settings.spark):
        found.append(result)
        yield result
    if uses and all(result.level is Level.OK for result in found):
        from retailmart.operations.doctor.workers import examine_workers

        yield from examine_workers(project)


def _places(project: Project) -> dict[str, str]:
    settings = project.settings
    return {"landing": settings.landing, "lake": settings.lake, "archive": settings.archive}


def _stores(project: Project) -> dict[str, Store]:
    return {name: store_at(project, place) for name, place in _places(project).items()}
