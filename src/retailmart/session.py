"""One project's stores, database and engine, opened for one run and closed after it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database import database_file, open_database, shown_url, translate_errors
from retailmart.engines import EXCHANGE, Engine, open_engine, parallel_from
from retailmart.errors import (
    DeliveryReplaced,
    GateFailed,
    LeaseLost,
    NewerLedger,
    ProjectBusy,
    RetailmartError,
    SettingsError,
    Unavailable,
)
from retailmart.feeds.evolve import effective
from retailmart.feeds.load import FileToLoad, raw_fields, raw_table
from retailmart.feeds.load_part import first_mismatch
from retailmart.files.archive import archived_copies
from retailmart.files.check import CheckedFile, LandedCopy, Refusal, check_content
from retailmart.files.discover import StagedCopy, is_whole, scan_again
from retailmart.files.staged import CheckCopy, StageFiles, here, stage_files
from retailmart.lake import Lake, place_of
from retailmart.ledger import Ledger, acquire_lease
from retailmart.ledger.values import Batch, LedgerFile, MartRecord, SourceRecord
from retailmart.marts.bind import Binding, names_read
from retailmart.marts.build import build_order, without_input
from retailmart.marts.ownership import expect_fit_names, expect_own_columns, expect_own_tables
from retailmart.project import Feed, Mart, Project
from retailmart.project.feed import matched_twice
from retailmart.project.mart import AS_OF
from retailmart.project.settings import Variable
from retailmart.project.table import Table, undeclared
from retailmart.report import BatchReport, LeftTable, RunReport, Watch
from retailmart.sources.load import (
    LoadedTable,
    SourceChange,
    Sources,
    expect_not_shrunk,
    gone,
    load_table,
    locate,
    probe,
    restored_table,
)
from retailmart.storage import Entry, Store, open_store
from retailmart.storage.s3 import S3Access
from retailmart.tables import Field, TableChange, TableState

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

# The pipeline's own folder in a project: nothing in it is needed when no batch is open.
PRIVATE = ".retailmart"


@dataclass(frozen=True)
class Plan:
    """The marts in an order in which each follows what it reads, and what each reads.

    `tables` are the source tables that are read, and the source that has each; `unavailable` are
    the marts that lack something, and what they lack.
    """

    order: tuple[Mart, ...]
    reads: Mapping[str, frozenset[str]]
    tables: Mapping[str, tuple[str, Table]]
    unavailable: Mapping[str, str]

    def without(self, tables: Mapping[str, str]) -> Plan:
        """The same without marts that read these names, and what reads those; with reasons."""
        held = without_input(self.order, self.reads, tables, {}, ())
        order = tuple(mart for mart in self.order if mart.name not in held)
        return replace(self, order=order, unavailable={**self.unavailable, **held})


# Errors that do not concern one table only: the run ends, or tries again.
_STOPS = (Unavailable, ProjectBusy, GateFailed)
# Prefix of the fingerprint of a mart that could not be built: it had nothing to be built from.
_UNAVAILABLE = "-"
# Prefix of the fingerprint of a mart that is held back: it is not what this definition makes of
# today's rows, so each batch builds it again, from all of them.
_HELD = "!"


def definition_of(fingerprint: str | None) -> str | None:
    """A fingerprint without its day: what decides how a published table is laid out."""
    if not fingerprint or fingerprint.startswith((_UNAVAILABLE, _HELD)):
        return None
    return fingerprint.partition("@")[0]


def held_marts(ledger: Ledger) -> list[str]:
    """The marts that are held back at their last good state."""
    known = ledger.marts.all().values()
    return sorted(one.name for one in known if (one.fingerprint or "").startswith(_HELD))


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


def is_mentioned(project: Project, table: str) -> bool:
    """Whether a mart or a feed may read a table.

    A word is enough, and spares the engine that would know more: a table that nothing reads any
    more would cause a batch in which nothing is done, again and again.
    """
    words = (mart.words for mart in project.marts.values())
    return table in referenced(project) or any(table.lower() in each for each in words)


def referenced(project: Project) -> frozenset[str]:
    """The tables that columns of feeds refer to."""
    columns = (column for feed in project.feeds.values() for column in feed.columns)
    return frozenset(column.references[0] for column in columns if column.references)


def uses_column(project: Project, table: Table, column: str) -> bool:
    """Whether a mart or a feed may use a column of a table.

    Each mart that reads the table uses what it names, and all columns if it has a `*`. A name in a
    comment or a text is not a use.
    """
    if column in table.key or column == table.cursor:
        return True
    references = {c.references for feed in project.feeds.values() for c in feed.columns}
    if (table.name, column) in references:
        return True
    names = {name.lower() for name in table.names}
    return any(
        column.lower() in mart.words or mart.takes_all_columns
        for mart in project.marts.values()
        if names & mart.words
    )


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
        engine.set_variables({**variables_of(project), AS_OF: datetime.now(UTC)})
        sources = open_sources(project)
        stack.callback(sources.close)
        lake: Lake | None = None
        with suppress(RetailmartError):  # the doctor reports what can't be asked
            lake = open_lake(project)
        found = Binding(engine, project, sources, lake)
        if problems := found.problems(project.marts.keys(), thorough=True):
            raise SettingsError(problems)
        return found.marts


def variables_of(project: Project) -> dict[str, Variable]:
    """The values that marts read: their headers' defaults under the project's settings."""
    defaults: dict[str, Variable] = {}
    for mart in project.marts.values():
        defaults |= mart.variables
    return defaults | project.settings.variables


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
    """Everything of one project that a run works with. Use `Session.open`."""

    project: Project
    ledger: Ledger
    lake: Lake
    landing: Store
    archive: Store
    private: Path
    watch: Watch
    _stack: ExitStack
    waiting: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    checked: dict[tuple[str, str], CheckedFile] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    # The step that failed last, unless another one began after it.
    failed_step: str | None = None
    # Source tables that cannot be read correctly: the marts that read them wait. Table → why, fix.
    unreadable: dict[str, str] = field(default_factory=dict)
    # Published tables of marts that are gone.
    left_tables: tuple[LeftTable, ...] = ()
    _engine: Engine | None = None
    _found: dict[str, SourceChange] = field(default_factory=dict)
    _feeds: dict[str, Feed] | None = None

    @classmethod
    @contextmanager
    def open(cls, project: Project, watch: Watch) -> Iterator[Session]:
        """Open the project's stores and its database, and close them at the end."""
        settings, folder = project.settings, project.folder
        with ExitStack() as stack:
            database = open_database(project.database_url(), folder)
            stack.callback(database.dispose)
            yield cls(
                project,
                Ledger(database),
                open_lake(project),
                store_at(project, settings.landing),
                store_at(project, settings.archive),
                folder / PRIVATE,
                watch,
                stack,
            )

    @property
    def scratch(self) -> Path:
        """Where the open batch's staged copies are."""
        return self.private / "scratch"

    def expect_landing(self) -> None:
        """Raise SettingsError if landing does not exist; an empty one is not a mistake."""
        if not self.landing.is_there():
            raise SettingsError(
                [f"the landing folder {self.landing} is not there"],
                "Create it, or correct `landing` in retailmart.yml",
            )

    def acquire_lease(self) -> None:
        """Acquire the project's lease until this object is closed."""
        lease = self._stack.enter_context(acquire_lease(self.ledger.engine, self.private / "lock"))
        self.ledger = replace(self.ledger, lease=lease)
        self.lake = replace(self.lake, fence=lease.fence)

    def expect_own_tables(self) -> None:
        """Raise SettingsError if a mart would be published over tables that are not ours."""
        with translate_errors():
            self.left_tables = expect_own_tables(self.project, self.ledger)

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

    # the marts' definitions

    def variables(self) -> dict[str, Variable]:
        """The values that marts read."""
        return variables_of(self.project)

    def fingerprints(self, as_of: datetime) -> dict[str, str]:
        """What each mart is built by: its definition, and the day if it reads `as_of`."""
        variables, functions = self.variables(), self.project.functions
        found = {}
        for mart in self.project.marts.values():
            day = f"@{as_of:%Y-%m-%d}" if mart.looks_at_as_of else ""
            found[mart.name] = mart.fingerprint(variables, functions.used_in(mart.query)) + day
        return found

    def stale_marts(self, as_of: datetime, available: Iterable[str] = ()) -> frozenset[str]:
        """Marts that are new, or were built by another definition or for another day.

        A mart that could not be built is stale once it is `available`.
        """
        known, can_be_built = self.ledger.marts.all(), set(available)
        stale = set()
        for name, fingerprint in self.fingerprints(as_of).items():
            built = known.get(name, MartRecord(name)).fingerprint
            if built != fingerprint and (
                built != _UNAVAILABLE + fingerprint or name in can_be_built
            ):
                stale.add(name)
        return frozenset(stale)

    def expect_definitions(self, as_of: datetime) -> None:
        """Raise SettingsError if marts whose definition changed since their build have mistakes.

        Only these are checked: others were found good, and binding them each day takes time.
        """
        known = self.ledger.marts.all()
        changed = [
            name
            for name, fingerprint in self.fingerprints(as_of).items()
            if definition_of(fingerprint)
            != definition_of((known.get(name, MartRecord(name)).fingerprint or "").lstrip("-"))
        ]
        if changed:
            binding = Binding(self.engine(as_of), self.project, self.sources, self.lake)
            self._expect_none(binding.of_marts(changed, thorough=False))

    def expect_rules(self, as_of: datetime) -> None:
        """Raise SettingsError if a feed's rule can't be computed."""
        binding = Binding(self.engine(as_of), self.project, self.sources, self.lake)
        self._expect_none(binding.of_rules(thorough=False))

    def _expect_none(self, problems: Iterable[str]) -> None:
        if found := list(problems):
            raise SettingsError(found, "Nothing was done; correct it and run again")

    def has_stale_marts(self, as_of: datetime) -> bool:
        """Whether marts must be built although nothing has landed."""
        stale = self.stale_marts(as_of)
        if not stale:
            return False
        if self.ledger.files.count().get("loaded") or self.ledger.sources.all():
            return True
        words = frozenset().union(*(self.project.marts[name].words for name in stale))
        return any(table.lower() in words for table in self._offered())

    def _offered(self) -> Iterator[str]:
        """The tables of the sources, as far as the sources exist."""
        for source in self.project.settings.sources:
            with suppress(RetailmartError):  # a new project may name sources that do not exist yet
                yield from self.sources.offered(source)

    def built_by(
        self, as_of: datetime, unavailable: Iterable[str] = (), held: Iterable[str] = ()
    ) -> dict[str, str]:
        """The fingerprints that a batch leaves behind; those of marts it lacks get a prefix."""
        marks = {**dict.fromkeys(held, _HELD), **dict.fromkeys(unavailable, _UNAVAILABLE)}
        return {
            name: marks.get(name, "") + fingerprint
            for name, fingerprint in self.fingerprints(as_of).items()
        }

    def marts_away(self) -> dict[str, str]:
        """What a batch records for marts whose files are missing.

        They miss the batch, so they no longer match any definition: if they come back, they are
        built from the whole history.
        """
        known = self.ledger.marts.all().keys()
        return dict.fromkeys(known - self.project.marts.keys(), _UNAVAILABLE)

    def plan(self, engine: Engine, arriving: Iterable[str]) -> Plan:
        """Find what each mart reads, and whether it exists.

        `arriving` are the feeds of which this batch brings files. RetailmartError names the mart
        that cannot be parsed, SettingsError names what no source has and no file declares.
        """
        reads = self.reads(engine)
        taken = {*self.project.feeds, *self.project.marts}
        tables, nowhere = locate(
            self._wanted_tables(reads), self.sources, self.ledger.sources.all(), taken
        )
        delivered = self.ledger.files.feeds_delivered() | set(arriving)
        absent: dict[str, str] = {}
        for table in nowhere:
            why = f"no source has the table {table.table}"
            if table.name in self.ledger.sources.all():
                self.hold_back(table, gone(table))
                why = self.unreadable[table.name]
            absent |= dict.fromkeys(table.names, why)
        undelivered = {
            feed: f"no file of feed {feed} has come yet"
            for feed in self.project.feeds
            if feed not in delivered
        }
        order = build_order(self.project.marts, reads)
        unavailable = without_input(order, reads, absent, undelivered, self.project.feeds)
        available = tuple(mart for mart in order if mart.name not in unavailable)
        return Plan(available, reads, tables, unavailable)

    def reads(self, engine: Engine) -> dict[str, frozenset[str]]:
        """What each mart reads, by the names that the project has for it."""
        reads = {}
        for mart in self.project.marts.values():
            try:
                reads[mart.name] = names_read(engine, self.project, mart)
            except ValueError as error:
                place = f"marts/{mart.name}.sql:{mart.first_line}"
                raise RetailmartError(f"{place}: {error}", "Correct the mart's SELECT") from error
        return reads

    # Opened late: a run with nothing to do needs none of these.

    def engine(self, as_of: datetime) -> Engine:
        """The engine, with the marts' variables set."""
        engine = self._opened_engine
        engine.set_variables({**self.variables(), "as_of": as_of})
        return engine

    @property
    def _opened_engine(self) -> Engine:
        if self._engine is None:
            self.lake.place.workspace.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(self.project.settings, [self.lake.place], self.private)
            self._stack.callback(self._engine.close)
            for words in self.project.settings.spark.retired:
                self.watch.note("settings", words)
            self._engine.add_functions(self.project.functions)
        return self._engine

    @cached_property
    def sources(self) -> Sources:
        """The shop's own databases."""
        sources = open_sources(self.project)
        self._stack.callback(sources.close)
        return sources

    def tables_changed(self) -> bool:
        """Whether source tables have changed rows, or exist for the first time."""
        known = self.ledger.sources.all()
        seen = []
        for name in sorted(
            {*self.project.tables, *filter(partial(is_mentioned, self.project), known)}
        ):
            table, before = self.project.tables.get(name, undeclared(name)), known.get(name)
            try:
                if before and self.sources.is_as_it_was(before.source, table, before):
                    continue
                source = self.sources.has(table)
            except RetailmartError:
                if before is None:
                    continue  # a new project may name sources that do not exist yet
                raise
            if source is None:
                if before is not None and self._is_read(table):
                    self.hold_back(table, gone(table))
                continue
            try:
                found = self._probe(table, source, before)
            except RetailmartError as error:
                self.hold_back(table, error)
                continue
            if found.rows is not None:
                if self._is_read(table):
                    return True
                continue
            if found.record != before:
                seen.append(found.record)
        if seen:
            self.ledger.sources.saw(seen)
        return False

    def _is_read(self, table: Table) -> bool:
        """Whether a batch would read a table that has changed.

        A word that names no table would cause batches in which nothing is done, again and again.
        """
        if table.declared or table.name in referenced(self.project):
            return True
        return any(table.name in names for names in self.reads(self._opened_engine).values())

    def _probe(self, table: Table, source: str, known: SourceRecord | None) -> SourceChange:
        """What a source's table has, read once a run however often this is called."""
        if table.name not in self._found:
            self._found[table.name] = probe(self.sources, source, table, known)
        return self._found[table.name]

    def hold_back(self, table: Table, error: RetailmartError) -> None:
        """Remember that a table cannot be read correctly. Raises errors of more than this table."""
        if isinstance(error, _STOPS):
            raise error
        self.unreadable[table.name] = ". ".join(filter(None, (error.message, error.hint)))

    def load_tables(
        self, engine: Engine, plan: Plan, batch: Batch
    ) -> tuple[list[LoadedTable], Plan]:
        """Load a plan's source tables into the lake. Also returns the plan without those that fail.

        If a table cannot be read correctly, the lake keeps what it has.
        """
        known = self.ledger.sources.all()
        loaded: list[LoadedTable] = []
        held: dict[str, str] = {}
        day = batch.as_of.astimezone(UTC).date()
        restored = self._restored(plan, batch, known) if batch.undoes is not None else {}
        for source, table in plan.tables.values():
            if table.name in restored:
                loaded.append(restored[table.name])
                continue
            whole = partial(probe, self.sources, source, table, None)
            try:
                found = self._probe(table, source, known.get(table.name))
                used = partial(uses_column, self.project, table)
                one = load_table(engine, self.lake, found, whole, day, batch.batch_id, used)
                try:
                    expect_not_shrunk(engine, one, known.get(table.name))
                except RetailmartError:
                    self.discard([one.change] if one.change else [])
                    raise
                loaded.append(one)
            except RetailmartError as error:
                self.hold_back(table, error)
                held |= dict.fromkeys(table.names, self.unreadable[table.name])
        self._found.clear()
        return loaded, plan.without(held)

    def unread(self) -> list[SourceRecord]:
        """The ledger's records for tables that cannot be read: whatever comes next is a change.

        The marts that read them miss what this batch brings, so they are built when that change
        comes.
        """
        known = self.ledger.sources.all()
        return [
            replace(known[name], digest="", version=None)
            for name in self.unreadable
            if name in known
        ]

    def _restored(
        self, plan: Plan, batch: Batch, known: Mapping[str, SourceRecord]
    ) -> dict[str, LoadedTable]:
        """The source tables as an undo leaves them, by name."""
        ledger = self.ledger
        stood = ledger.batches.stood_after_undos()

        def record_of(name: str, batch_id: int) -> SourceRecord | None:
            return ledger.batches.prepared(ledger.batches.get(batch_id))[0].sources.get(name)

        tables = [table for _, table in plan.tables.values() if table.name in known]
        found = {
            table.name: restored_table(
                self.lake,
                table,
                known[table.name],
                batch.batch_id,
                stood,
                partial(record_of, table.name),
            )
            for table in tables
        }
        return {name: table for name, table in found.items() if table is not None}

    def feeds(self) -> dict[str, Feed]:
        """The feeds with all columns that their raw tables hold, found once a batch.

        Raises SettingsError if a definition would remove any of them.
        """
        if self._feeds is None:
            found = {}
            for name, feed in self.project.feeds.items():
                state = self.lake.state(raw_table(name))
                known = self.ledger.schemas.current(raw_table(name)) if state else None
                fields = state.fields if state else None
                found[name] = effective(feed, fields, known.columns if known else ())
            self._feeds = found
        return self._feeds

    def raw_state(self, feed: Feed) -> TableState:
        """A feed's raw table as it is, empty if nothing was loaded yet."""
        state = self.lake.state(raw_table(feed.name))
        if state is not None:
            return state
        partitions = ("_month",) if feed.month else ()
        root = str(self.lake.folder(raw_table(feed.name)))
        return TableState(root, raw_fields(feed), partitions, ())

    def stage_files(
        self, as_of: datetime, entries: Sequence[Entry]
    ) -> list[tuple[StagedCopy, CheckedFile | Refusal]]:
        """Copy and check what has landed."""
        if not entries:
            return []
        feeds = tuple(self.feeds().values())
        work = StageFiles(self.landing, feeds, self.scratch, first_mismatch)
        return stage_files(self.engine(as_of), work, entries)

    def to_load(self, file: LedgerFile, engine: Engine) -> FileToLoad:
        """A staged file and how it is read, found again for a batch of an earlier run."""
        checked = self.checked.get((file.path, file.sha256)) or self._check_again(file, engine)
        if checked.layout.is_replay:  # how its rows are read depends on the ledger
            checked = replace(here(checked, self.scratch, engine), landed=None)
        return FileToLoad(file, checked)

    def expect_archivable(self, files: Iterable[LedgerFile]) -> None:
        """Raise DeliveryReplaced if a file that only landing has was replaced there."""
        for file in files:
            checked = self.checked.get((file.path, file.sha256))
            landed = checked.landed if checked else None
            if landed is None or (self.scratch / f"{file.sha256}.csv").exists():
                continue
            now = landed.store.entry(landed.entry.key)
            if now is None or now.version != landed.entry.version:
                raise DeliveryReplaced(f"{file.shown} was delivered again while it was loaded")

    @property
    def has_retried(self) -> bool:
        """Whether the engine had to try work again, which may leave orphaned files."""
        return self._engine is not None and self._engine.retried

    # After a batch.

    def clear_scratch(self) -> None:
        """Remove the staged copies of a batch that has ended, and the feeds as it found them."""
        self._feeds = None
        shutil.rmtree(self.scratch, ignore_errors=True)
        # The next batch of this run needs it: by this folder a task recognizes the run's machine.
        self.scratch.mkdir(exist_ok=True)

    def sweep(self, batch: Batch) -> None:
        """Remove what attempts at a batch wrote and no commit holds."""
        for table in self.lake.place.tables():
            for path in self.lake.orphaned_files(table, batch.batch_id):
                self.lake.place.discard(table, path)

    def discard(self, changes: Iterable[TableChange]) -> None:
        """Remove the files of changes that were never decided."""
        for change in changes:
            for file in change.adds:
                self.lake.place.discard(change.table, file.path)

    def sweep_when_due(self) -> None:
        """Remove orphaned files of runs that were stopped, outlived their batch and woke again.

        This is done after a run was killed, and once a day: no orphaned file gets older than that.
        """
        if not self.ledger.runs.sweep_is_due():
            return
        decided = self.ledger.batches.decided_fences()
        for table in self.lake.place.tables():
            for path in self.lake.orphaned_by_others(table, decided):
                self.lake.place.discard(table, path)
        self.lake.place.sweep_shown(self.lake.fence)
        self.lake.place.forget(self.lake.place.workspace / EXCHANGE)
        self.lake.place.tidy()
        self.ledger.runs.mark_swept()

    def report(self, run_id: int, as_of: datetime, batches: Sequence[BatchReport]) -> RunReport:
        """What the run did."""
        return RunReport(
            run_id=run_id,
            as_of=as_of,
            batches=tuple(batches),
            waiting=self.waiting,
            unreachable=self.unreachable,
            unreadable=dict(self.unreadable),
            left_tables=self.left_tables,
            seconds={name: round(took, 3) for name, took in self.seconds.items()},
            lake=str(self.lake.place),
            database=shown_url(self.ledger.engine.url),
            expected=() if batches else expected_inputs(self.project, self.ledger),
        )

    def close_run(
        self, run_id: int, state: str, message: str | None, report: RunReport | None = None
    ) -> None:
        """Record the run's end; a run that lost its lease can't, and need not."""
        text = json.dumps(report.to_dict(), default=str) if report else None
        failed = self.failed_step if state == "failed" else None
        try:
            with translate_errors():
                seconds = list(self.seconds.items())
                self.ledger.runs.record_steps(run_id, None, seconds, failed)
                self.ledger.runs.close(run_id, state, message, text)
        except RetailmartError as lost:
            # Whatever error a run met after it lost its lease: the lost lease is the reason.
            if state == "done" or isinstance(lost, LeaseLost):
                raise

    def _wanted_tables(self, reads: Mapping[str, frozenset[str]]) -> list[tuple[Table, str]]:
        """Tables that must come from sources, with the place that names each."""
        tables = self.project.tables
        own = {*self.project.feeds, *self.project.marts}
        own |= {name for table in tables.values() for name in table.names}
        wanted = {
            table: f"marts/{mart}.sql" for mart, names in reads.items() for table in names - own
        }
        for feed in self.project.feeds.values():
            for column in feed.columns:
                if column.references and column.references[0] not in own:
                    wanted.setdefault(column.references[0], f"feeds/{feed.name}.yml")
        declared = [(table, f"tables/{name}.yml") for name, table in tables.items()]
        return [*declared, *((undeclared(name), place) for name, place in sorted(wanted.items()))]

    def _check_again(self, file: LedgerFile, engine: Engine) -> CheckedFile:
        feed = self.feeds().get(str(file.feed))
        if feed is None:
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is of feed {file.feed!r},"
                " which the project no longer has",
                f"Put feeds/{file.feed}.yml back and run again",
            )
        checked = self._checked_copy(file, feed, engine)
        if checked is None and file.path in self._landed:
            raise DeliveryReplaced(
                f"{file.shown} of the unfinished batch {file.batch_id} was delivered again"
            )
        if checked is None:
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is gone: neither landing nor"
                " the run's own copy has what was staged",
                f"Put the file back into {self.landing} as it was, and run again",
            )
        if isinstance(checked, Refusal):
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} {checked.message}",
                f"It was good when it was staged: undo the change to feeds/{feed.name}.yml",
            )
        return checked

    def _checked_copy(
        self, file: LedgerFile, feed: Feed, engine: Engine
    ) -> CheckedFile | Refusal | None:
        """A staged file from the run's own copy, landing, or the archive; None if all lack it.

        The archive has what an undo brings back.
        """
        content = self.scratch / f"{file.sha256}.csv"
        if is_whole(content, file.sha256):
            return check_content(content, scan_again(content), feed, file.path)
        content.unlink(missing_ok=True)  # a power cut may have left a part of it
        work = CheckCopy(feed, file.path, self.scratch)
        for copy in self._copies(file):
            found = engine.spread(work, [copy], [copy.entry.size])[0]
            if found is not None:
                return found
        return None

    def _copies(self, file: LedgerFile) -> Iterator[LandedCopy]:
        if (landed := self._landed.get(file.path)) is not None:
            yield LandedCopy(self.landing, landed, file.sha256)
        yield from archived_copies(self.ledger, self.archive, file.sha256)

    def forget_landed(self) -> None:
        """Make the next request for landing list it again."""
        self.__dict__.pop("_landed", None)

    @cached_property
    def _landed(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.landing.entries()}
