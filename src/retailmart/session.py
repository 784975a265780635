"""One project's stores, database and engine, opened for one run and closed after it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database import database_file, open_database, translate_errors
from retailmart.engines import Engine
from retailmart.engines.registry import open_engine, parallel_from
from retailmart.errors import NewerLedger, RetailmartError, SettingsError
from retailmart.lake import Lake, place_of
from retailmart.ledger import Ledger, acquire_lease
from retailmart.marts.bind import Binding
from retailmart.marts.ownership import expect_fit_names, expect_own_columns, expect_own_tables
from retailmart.project import Project
from retailmart.project.feed import matched_twice
from retailmart.project.mart import AS_OF
from retailmart.project.uses import is_mentioned
from retailmart.report import LeftTable, Watch
from retailmart.sources.load import Sources
from retailmart.storage import Store, open_store
from retailmart.storage.s3 import S3Access
from retailmart.tables import Field

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

# The pipeline's own folder in a project: nothing in it is needed when no batch is open.
PRIVATE = ".retailmart"


def expected_inputs(project: Project, ledger: Ledger) -> tuple[str, ...]:
    """What a project without any input yet can start with, a line each; nothing once it has some.

    Only the definitions are asked: a source that does not answer must not make people wait.
    """
    if ledger.files.count() or ledger.sources.all():
        return ()
    lines = []
    if patterns := [feed.files[0] for feed in project.feeds.values()]:
        lines.append(f"files in {project.settings.landing}: {', '.join(patterns)}")
    tables: dict[str | None, list[str]] = {}
    sources = project.settings.sources
    for table in project.tables.values():
        if is_mentioned(project, table.name):
            source = table.source or next(iter(sources), None) if len(sources) < 2 else table.source
            tables.setdefault(source, []).append(table.table)
    for source, names in tables.items():
        where = f"{source} ({sources[source]})" if source else "a database that `sources` names"
        lines.append(f"tables in {where}: {', '.join(names)}")
    return tuple(lines)


def store_at(project: Project, place: str) -> Store:
    """A folder or bucket that the project's settings name."""
    s3 = project.settings.s3
    access = S3Access(project.environment, s3.endpoint, s3.region, project.s3_keys)
    return open_store(place, project.folder, access)


def open_lake(project: Project) -> Lake:
    """The project's lake, for reading."""
    workspace = project.folder / PRIVATE / "lake"
    return Lake(place_of(store_at(project, project.settings.lake), workspace))


def check_published_names(
    project: Project, columns: Mapping[str, tuple[Field, ...]] | None = None
) -> tuple[LeftTable, ...]:
    """Raise SettingsError if a mart would be published over what this project did not publish.

    Also if the database cannot hold a name. `columns` are those of marts, as far as they are known.
    NewerLedger if the ledger is one that this program does not know.

    Returns the published tables that no longer belong to a mart. Nothing is found if the database
    cannot be asked: one that does not exist yet holds nothing of others.
    """
    url = project.database_url()
    expect_fit_names(project, columns or {})
    file = database_file(url, project.folder)
    if file and not file.is_file():
        return ()
    database = open_database(url, project.folder)
    try:
        with translate_errors():
            ledger = Ledger(database)
            ledger.expect_known()
            left = expect_own_tables(project, ledger)
            expect_own_columns(project, ledger, open_lake(project), columns or {})
            return left
    except (SettingsError, NewerLedger):
        raise
    except RetailmartError:
        return ()  # it does not answer: runs and the doctor report this
    finally:
        database.dispose()


def check_definitions(project: Project) -> Mapping[str, tuple[Field, ...]]:
    """Raise SettingsError with every mistake in functions.py, in marts and in rules.

    Returns the columns of each mart whose inputs' columns are known.
    They are bound to the columns of what they read, as far as sources and lake can be asked.
    """
    # They mean the same on each engine, and DuckDB opens at once.
    settings = project.settings.model_copy(update={"engine": "duckdb"})
    with ExitStack() as stack:
        engine = stack.enter_context(closing(open_engine(settings, [], project.folder / PRIVATE)))
        engine.add_functions(project.functions)
        engine.set_variables({**project.variables, AS_OF: datetime.now(UTC)})
        sources = open_sources(project)
        stack.callback(sources.close)
        lake: Lake | None = None
        with suppress(RetailmartError):  # the doctor reports what can't be asked
            lake = open_lake(project)
        found = Binding(engine, project, sources, lake)
        if problems := found.problems(project.marts.keys(), thorough=True):
            raise SettingsError(problems)
        return found.marts


def open_sources(project: Project) -> Sources:
    """The shop's own databases, each opened on its first use."""

    def opened(name: str) -> Database:
        return open_database(project.source_url(name), project.folder, must_exist=True)

    settings = project.settings
    return Sources(tuple(settings.sources), opened, parallel_from(settings))


def expect_one_feed(project: Project, paths: Iterable[str] | None = None) -> None:
    """Raise SettingsError if two feeds match one of these files in landing; by default, of all."""
    if paths is None:
        try:
            paths = [entry.path for entry in store_at(project, project.settings.landing).entries()]
        except (RetailmartError, OSError):
            return  # the run and the doctor report what is wrong with landing
    if problems := matched_twice(project.feeds.values(), paths):
        raise SettingsError(problems, "Narrow `files` of one of them; nothing was taken in")


@dataclass
class Session:
    """A project opened for work: its stores, ledger, lake and engine. Use `Session.open`.

    `seconds` has the time that each step took; `failed_step` is the one that failed last, unless
    another one began after it.
    """

    project: Project
    ledger: Ledger
    lake: Lake
    landing: Store
    archive: Store
    sources: Sources
    private: Path
    watch: Watch
    _stack: ExitStack
    seconds: dict[str, float] = field(default_factory=dict)
    failed_step: str | None = None
    _engine: Engine | None = None

    @classmethod
    @contextmanager
    def open(cls, project: Project, watch: Watch) -> Iterator[Session]:
        """Open the project's stores and its database, and close them at the end."""
        settings, folder = project.settings, project.folder
        with ExitStack() as stack:
            database = open_database(project.database_url(), folder)
            stack.callback(database.dispose)
            sources = open_sources(project)
            stack.callback(sources.close)
            yield cls(
                project,
                Ledger(database),
                open_lake(project),
                store_at(project, settings.landing),
                store_at(project, settings.archive),
                sources,
                folder / PRIVATE,
                watch,
                stack,
            )

    @property
    def scratch(self) -> Path:
        """Where the open batch's staged copies are."""
        return self.private / "scratch"

    def acquire_lease(self) -> None:
        """Acquire the project's lease until this object is closed."""
        lease = self._stack.enter_context(acquire_lease(self.ledger.engine, self.private / "lock"))
        self.ledger = replace(self.ledger, lease=lease)
        self.lake = replace(self.lake, fence=lease.fence)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step and report it to `watch`; yields a function that reports a detail.

        A step that fails is timed, too, and remembered; the error tells people of it.
        """
        self.watch.began(name)
        self.failed_step = None
        start = time.perf_counter()
        try:
            yield lambda words: self.watch.note(name, words)
        except BaseException:
            self.failed_step = name
            raise
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.watch.ended(name, took)

    def engine(self, as_of: datetime | None = None) -> Engine:
        """The engine, opened on its first use: a run with nothing to do needs none.

        The marts' variables are set for a moment; without `as_of`, they are as they were.
        """
        if self._engine is None:
            self.lake.place.workspace.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(self.project.settings, [self.lake.place], self.private)
            self._stack.callback(self._engine.close)
            for words in self.project.settings.spark.retired:
                self.watch.note("settings", words)
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
