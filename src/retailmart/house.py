"""One project's stores, database and engine, opened for one run and closed behind it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database import open_database, told
from retailmart.engines import Engine, open_engine, takes_over_from
from retailmart.errors import DeliveryReplaced, LeaseLost, RetailmartError, SettingsError
from retailmart.lake import Lake, place_of
from retailmart.ledger import Ledger, claim
from retailmart.ledger.values import Batch, LedgerFile, MartRecord, SourceRecord
from retailmart.project import Feed, Mart, Project
from retailmart.project.settings import Variable
from retailmart.project.table import Table, undeclared
from retailmart.report import BatchReport, RunReport, Watch
from retailmart.steps.archive import snapshot_archived
from retailmart.steps.build import build_order, without_input
from retailmart.steps.check import CheckedFile, Refusal, check_content
from retailmart.steps.discover import is_whole, scan_again, snapshot
from retailmart.steps.evolve import effective
from retailmart.steps.load import FileToLoad, raw_fields, raw_table
from retailmart.steps.sources import Found, LoadedTable, Sources, load_table, locate, look
from retailmart.storage import Entry, Store, open_store
from retailmart.storage.s3 import S3Access
from retailmart.tables import TableChange, TableState

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database

# The pipeline's own folder in a project: nothing in it is needed once no batch is open.
PRIVATE = ".retailmart"


@dataclass(frozen=True)
class Plan:
    """The marts in an order in which each finds what it reads, and what each reads.

    `tables` are the source tables that are read, and the source that has each; `unavailable` the
    marts that lack something, and what.
    """

    order: tuple[Mart, ...]
    reads: Mapping[str, frozenset[str]]
    tables: Mapping[str, tuple[str, Table]]
    unavailable: Mapping[str, str]


# Before the fingerprint of a mart that could not be built: there was nothing to build it from.
_UNAVAILABLE = "-"


def definition_of(fingerprint: str | None) -> str | None:
    """A fingerprint without its day: what decides how a published table is laid out."""
    if not fingerprint or fingerprint.startswith(_UNAVAILABLE):
        return None
    return fingerprint.partition("@")[0]


def store_at(project: Project, place: str) -> Store:
    """A folder or bucket that the project's settings name."""
    s3 = project.settings.s3
    access = S3Access(project.environment, s3.endpoint, s3.region)
    return open_store(place, project.folder, access)


def open_lake(project: Project) -> Lake:
    """The project's lake, for reading."""
    workspace = project.folder / PRIVATE / "lake"
    return Lake(place_of(store_at(project, project.settings.lake), workspace))


def check_functions(project: Project) -> None:
    """SettingsError where functions.py can't be imported, or names a function of SQL's own."""
    if loaded := project.functions.load():
        with closing(open_engine(project.settings, [], project.folder / PRIVATE)) as engine:
            engine.add_functions(loaded)


@dataclass
class House:
    """Everything of one project that a run works with. Use `House.open`."""

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
    _engine: Engine | None = None
    _found: dict[str, Found] = field(default_factory=dict)
    _feeds: dict[str, Feed] | None = None

    @classmethod
    @contextmanager
    def open(cls, project: Project, watch: Watch) -> Iterator[House]:
        """Open the project's stores and its database, and close them in the end."""
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
        """Where the open batch's snapshots lie."""
        return self.private / "scratch"

    def expect_landing(self) -> None:
        """SettingsError where there is no landing: an empty one is no mistake, a missing one is."""
        if not self.landing.is_there():
            raise SettingsError(
                [f"the landing folder {self.landing} is not there"],
                "Create it, or correct `landing` in retailmart.yml",
            )

    def claim(self) -> None:
        """Take the project's lease until the house is closed."""
        lease = self._stack.enter_context(claim(self.ledger.engine, self.private / "lock"))
        self.ledger = replace(self.ledger, lease=lease)
        self.lake = replace(self.lake, fence=lease.fence)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step and tell the watch; yields what tells it a detail."""
        self.watch.began(name)
        start = time.perf_counter()
        yield lambda words: self.watch.note(name, words)
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.watch.ended(name, took)

    # the marts' definitions

    def variables(self) -> dict[str, Variable]:
        """The values marts read: their headers' defaults under the project's settings."""
        defaults: dict[str, Variable] = {}
        for mart in self.project.marts.values():
            defaults |= mart.variables
        return defaults | self.project.settings.variables

    def fingerprints(self, as_of: datetime) -> dict[str, str]:
        """What each mart is built by: its definition, and the day where it looks at `as_of`."""
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
        known, can_be_built = self.ledger.marts(), set(available)
        stale = set()
        for name, fingerprint in self.fingerprints(as_of).items():
            built = known.get(name, MartRecord(name)).fingerprint
            if built != fingerprint and (
                built != _UNAVAILABLE + fingerprint or name in can_be_built
            ):
                stale.add(name)
        return frozenset(stale)

    def has_stale_marts(self, as_of: datetime) -> bool:
        """Whether marts must be built although nothing has landed."""
        if not self.stale_marts(as_of):
            return False
        return bool(self.ledger.count_files().get("loaded") or self.ledger.sources())

    def built_by(self, as_of: datetime, unavailable: Iterable[str]) -> dict[str, str]:
        """The fingerprints that a batch leaves behind; those of `unavailable` marts are marked."""
        lacking = set(unavailable)
        return {
            name: _UNAVAILABLE + fingerprint if name in lacking else fingerprint
            for name, fingerprint in self.fingerprints(as_of).items()
        }

    def plan(self, engine: Engine, arriving: Iterable[str]) -> Plan:
        """Find out what each mart reads, and whether it is there.

        `arriving` are the feeds of which this batch brings files. RetailmartError names the mart
        that cannot be parsed, SettingsError what no source has and no file declares.
        """
        reads = self._reads(engine)
        taken = {*self.project.feeds, *self.project.marts}
        tables, nowhere = locate(
            self._wanted_tables(reads), self.sources, self.ledger.sources(), taken
        )
        delivered = self.ledger.feeds_delivered() | set(arriving)
        absent = {
            name: f"no source has the table {table.table}"
            for table in map(self.project.tables.__getitem__, sorted(nowhere))
            for name in table.names
        }
        undelivered = {
            feed: f"no file of feed {feed} has come yet"
            for feed in self.project.feeds
            if feed not in delivered
        }
        order = build_order(self.project.marts, reads)
        unavailable = without_input(order, reads, absent, undelivered, self.project.feeds)
        available = tuple(mart for mart in order if mart.name not in unavailable)
        return Plan(available, reads, tables, unavailable)

    def _reads(self, engine: Engine) -> dict[str, frozenset[str]]:
        tables = (name for table in self.project.tables.values() for name in table.names)
        own = {name.lower(): name for name in (*self.project.feeds, *self.project.marts, *tables)}
        reads = {}
        for mart in self.project.marts.values():
            try:
                named = engine.tables_in(mart.query)
                reads[mart.name] = frozenset(own.get(name.lower(), name) for name in named)
            except ValueError as error:
                place = f"marts/{mart.name}.sql:{mart.first_line}"
                raise RetailmartError(f"{place}: {error}", "Correct the mart's SELECT") from error
        return reads

    # opened late: a run with nothing to do pays for none of these

    def engine(self, as_of: datetime) -> Engine:
        """The engine, with the marts' variables set."""
        if self._engine is None:
            workspace = self.lake.place.workspace
            workspace.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(
                self.project.settings, [workspace], self.private, self.lake.fetch
            )
            self._stack.callback(self._engine.close)
            self._engine.add_functions(self.project.functions.load())
        self._engine.set_variables({**self.variables(), "as_of": as_of})
        return self._engine

    @cached_property
    def sources(self) -> Sources:
        """The shop's own databases."""

        def opened(name: str) -> Database:
            url = self.project.source_url(name)
            return open_database(url, self.project.folder, must_exist=True)

        settings = self.project.settings
        sources = Sources(tuple(settings.sources), opened, takes_over_from(settings))
        self._stack.callback(sources.close)
        return sources

    def tables_moved(self) -> bool:
        """Whether source tables have other rows than they had, or are there for the first time."""
        known = self.ledger.sources()
        seen = []
        for name in sorted({*self.project.tables, *filter(self._is_mentioned, known)}):
            table, before = self.project.tables.get(name, undeclared(name)), known.get(name)
            try:
                if before and self.sources.is_as_it_was(before.source, table, before):
                    continue
                source = self.sources.has(table)
            except RetailmartError:
                if before is None:
                    continue  # a new project may name sources that are not there yet
                raise
            if source is None:
                if before is not None:
                    return True  # the batch tells that it is gone
                continue
            found = self._look(table, source, before)
            if found.rows is not None:
                return True
            if found.record != before:
                seen.append(found.record)
        if seen:
            self.ledger.saw_sources(seen)
        return False

    def _is_mentioned(self, table: str) -> bool:
        """Whether a mart or a feed may read a table.

        A word is enough, and spares the engine that would tell more: a table that nothing reads any
        more would bring a batch in which nothing is done, again and again.
        """
        texts = (mart.query.lower() for mart in self.project.marts.values())
        columns = (column for feed in self.project.feeds.values() for column in feed.columns)
        referenced = {column.references[0] for column in columns if column.references}
        return table in referenced or any(table.lower() in text for text in texts)

    def _look(self, table: Table, source: str, known: SourceRecord | None) -> Found:
        """What a source's table has, read once a run however often it is asked for."""
        if table.name not in self._found:
            self._found[table.name] = look(self.sources, source, table, known)
        return self._found[table.name]

    def load_tables(self, engine: Engine, plan: Plan, batch: Batch) -> list[LoadedTable]:
        """Bring the source tables of a plan into the lake."""
        known = self.ledger.sources()
        loaded = []
        for source, table in plan.tables.values():
            found = self._look(table, source, known.get(table.name))
            whole = partial(look, self.sources, source, table, None)
            day = batch.as_of.astimezone(UTC).date()
            loaded.append(load_table(engine, self.lake, found, whole, day, batch.batch_id))
        self._found.clear()
        return loaded

    def feeds(self) -> dict[str, Feed]:
        """The feeds with all columns that their raw tables hold, found out once a batch.

        SettingsError where a definition would take away any of them.
        """
        if self._feeds is None:
            found = {}
            for name, feed in self.project.feeds.items():
                state = self.lake.state(raw_table(name))
                known = self.ledger.schema(raw_table(name)) if state else None
                fields = state.fields if state else None
                found[name] = effective(feed, fields, known.columns if known else ())
            self._feeds = found
        return self._feeds

    def raw_state(self, feed: Feed) -> TableState:
        """A feed's raw table as it is, empty where nothing was loaded yet."""
        state = self.lake.state(raw_table(feed.name))
        if state is not None:
            return state
        partitions = ("_month",) if feed.month else ()
        root = str(self.lake.folder(raw_table(feed.name)))
        return TableState(root, raw_fields(feed), partitions, ())

    def to_load(self, file: LedgerFile) -> FileToLoad:
        """A staged file and how it is read, found out again for a batch of an earlier run."""
        checked = self.checked.get((file.path, file.sha256))
        return FileToLoad(file, checked or self._check_again(file))

    # behind a batch

    def clear_scratch(self) -> None:
        """Forget the snapshots of a batch that has ended, and the feeds as it found them."""
        self._feeds = None
        shutil.rmtree(self.scratch, ignore_errors=True)

    def sweep(self, batch: Batch) -> None:
        """Remove what attempts at a batch wrote and no commit holds."""
        for table in self.lake.place.tables():
            for path in self.lake.orphans(table, batch.batch_id):
                self.lake.place.discard(table, path)

    def discard(self, changes: Iterable[TableChange]) -> None:
        """Remove the files of changes that were never decided."""
        for change in changes:
            for file in change.adds:
                self.lake.place.discard(change.table, file.path)

    def sweep_when_due(self) -> None:
        """Remove what runs wrote that were stopped, outlived their batch and woke again.

        Looked for after a run was killed, and once a day: no stray file gets older than that.
        """
        if not self.ledger.sweep_is_due():
            return
        decided = self.ledger.decided_fences()
        for table in self.lake.place.tables():
            for path in self.lake.strays(table, decided):
                self.lake.place.discard(table, path)
        self.lake.place.sweep_shown(self.lake.fence)
        self.lake.place.tidy()
        self.ledger.mark_swept()

    def report(self, run_id: int, as_of: datetime, batches: Sequence[BatchReport]) -> RunReport:
        """What the run did."""
        return RunReport(
            run_id=run_id,
            as_of=as_of,
            batches=tuple(batches),
            waiting=self.waiting,
            unreachable=self.unreachable,
            seconds={name: round(took, 3) for name, took in self.seconds.items()},
            lake=str(self.lake.place),
            database=self.ledger.engine.url.render_as_string(hide_password=True),
        )

    def close_run(
        self, run_id: int, state: str, message: str | None, report: RunReport | None = None
    ) -> None:
        """Record the run's end; a run that lost its lease can't, and need not."""
        text = json.dumps(report.to_dict(), default=str) if report else None
        try:
            with told():
                self.ledger.record_steps(run_id, None, list(self.seconds.items()))
                self.ledger.close_run(run_id, state, message, text)
        except RetailmartError as lost:
            # Whatever a run stumbled over that had lost its lease: that it lost it is the reason.
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

    def _check_again(self, file: LedgerFile) -> CheckedFile:
        content = self.scratch / f"{file.sha256}.csv"
        if not is_whole(content, file.sha256):  # a power cut may have left a part of it
            content.unlink(missing_ok=True)
            self._snapshot_again(file)
        if not content.exists() and file.path in self._landed:
            raise DeliveryReplaced(
                f"{file.shown} of the unfinished batch {file.batch_id} was delivered again"
            )
        if not content.exists():
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is gone: neither landing nor"
                " the run's own copy has what was staged",
                f"Put the file back into {self.landing} as it was, and run again",
            )
        feed = self.feeds().get(str(file.feed))
        if feed is None:
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is of feed {file.feed!r},"
                " which the project no longer has",
                f"Put feeds/{file.feed}.yml back and run again",
            )
        verdict = check_content(content, scan_again(content), feed, file.path)
        if isinstance(verdict, Refusal):
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} {verdict.message}",
                f"It was good when it was staged: undo the change to feeds/{feed.name}.yml",
            )
        return verdict

    def _snapshot_again(self, file: LedgerFile) -> None:
        """Take a staged file's content anew: from landing, or what an undo brings back."""
        if (landed := self._landed.get(file.path)) is not None:
            list(snapshot(self.landing, (landed,), self.scratch))
        else:
            snapshot_archived(self.ledger, self.archive, file.sha256, self.scratch)

    def forget_landed(self) -> None:
        """List landing anew when it is asked for next."""
        self.__dict__.pop("_landed", None)

    @cached_property
    def _landed(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.landing.entries()}
