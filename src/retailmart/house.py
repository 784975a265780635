"""One project's stores, database and engine, opened for one run and closed behind it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from retailmart.database import open_database
from retailmart.engines import Engine, open_engine
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.ledger import Ledger, claim
from retailmart.ledger.values import Batch, LedgerFile, MartRecord
from retailmart.project import Feed, Mart, Project
from retailmart.project.settings import Variable
from retailmart.report import BatchReport, RunReport, Watch
from retailmart.steps.build import build_order
from retailmart.steps.check import CheckedFile, Refusal, check_content
from retailmart.steps.discover import scan_again, snapshot
from retailmart.steps.load import FileToLoad, raw_fields, raw_table
from retailmart.steps.sources import LoadedSource, load_source, locate
from retailmart.storage import LocalFolder
from retailmart.tables import TableState


@dataclass(frozen=True)
class Plan:
    """The marts in an order in which each finds what it reads, and what each reads."""

    order: tuple[Mart, ...]
    reads: Mapping[str, frozenset[str]]


def definition_of(fingerprint: str | None) -> str | None:
    """A fingerprint without its day: what decides how a published table is laid out."""
    return fingerprint.partition("@")[0] if fingerprint else None


@dataclass
class House:
    """Everything of one project that a run works with. Use `House.open`."""

    project: Project
    ledger: Ledger
    lake: Lake
    landing: LocalFolder
    archive: LocalFolder
    private: Path
    watch: Watch
    _stack: ExitStack
    waiting: tuple[str, ...] = ()
    checked: dict[str, CheckedFile] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _engine: Engine | None = None

    @classmethod
    @contextmanager
    def open(cls, project: Project, watch: Watch) -> Iterator[House]:
        """Open the project's stores and its database, and close them in the end."""
        settings, folder = project.settings, project.folder
        with ExitStack() as stack:
            database = open_database(settings.database, folder)
            stack.callback(database.dispose)
            yield cls(
                project,
                Ledger(database),
                Lake(folder / settings.lake),
                LocalFolder(folder / settings.landing),
                LocalFolder(folder / settings.archive),
                folder / ".retailmart",
                watch,
                stack,
            )

    @property
    def scratch(self) -> Path:
        """Where the open batch's snapshots lie."""
        return self.private / "scratch"

    def expect_landing(self) -> None:
        """SettingsError where there is no landing: an empty one is no mistake, a missing one is."""
        if not self.landing.root.is_dir():
            raise SettingsError(
                [f"the landing folder {self.landing.root} is not there"],
                "Create it, or correct `landing` in retailmart.yml",
            )

    def claim(self) -> None:
        """Take the project's lease until the house is closed."""
        lease = self._stack.enter_context(claim(self.ledger.engine, self.private / "lock"))
        self.ledger = replace(self.ledger, lease=lease)

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
        variables = self.variables()
        found = {}
        for mart in self.project.marts.values():
            day = f"@{as_of:%Y-%m-%d}" if mart.looks_at_as_of else ""
            found[mart.name] = mart.fingerprint(variables) + day
        return found

    def stale_marts(self, as_of: datetime) -> frozenset[str]:
        """Marts that are new, or were built by another definition or for another day."""
        known = self.ledger.marts()
        return frozenset(
            name
            for name, fingerprint in self.fingerprints(as_of).items()
            if known.get(name, MartRecord(name)).fingerprint != fingerprint
        )

    def has_stale_marts(self, as_of: datetime) -> bool:
        """Whether marts must be built although nothing has landed."""
        return bool(self.stale_marts(as_of)) and bool(self.ledger.count_files().get("loaded"))

    def plan(self, engine: Engine) -> Plan:
        """Find out what each mart reads. RetailmartError names the mart that cannot be parsed."""
        own = {name.lower(): name for name in (*self.project.feeds, *self.project.marts)}
        reads = {}
        for mart in self.project.marts.values():
            try:
                named = engine.tables_in(mart.query)
                reads[mart.name] = frozenset(own.get(name.lower(), name) for name in named)
            except ValueError as error:
                place = f"marts/{mart.name}.sql:{mart.first_line}"
                raise RetailmartError(f"{place}: {error}", "Correct the mart's SELECT") from error
        return Plan(build_order(self.project.marts, reads), reads)

    # opened late: a run with nothing to do pays for none of these

    def engine(self, as_of: datetime) -> Engine:
        """The engine, with the marts' variables set."""
        if self._engine is None:
            self.lake.root.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(self.project.settings, [self.lake.root], self.private)
            self._stack.callback(self._engine.close)
        self._engine.set_variables({**self.variables(), "as_of": as_of})
        return self._engine

    def load_sources(self, engine: Engine, plan: Plan, batch: Batch) -> list[LoadedSource]:
        """Read the source tables that marts and feeds name."""
        wanted = self._wanted_tables(plan)
        if not wanted:
            return []
        from retailmart.database.source import read_table, table_names

        with ExitStack() as stack:
            databases = {}
            for name, url in self.project.settings.sources.items():
                databases[name] = open_database(url, self.project.folder, must_exist=True)
                stack.callback(databases[name].dispose)
            offered = {name: table_names(database) for name, database in databases.items()}
            found = locate(wanted, offered, {*self.project.feeds, *self.project.marts})
            digests = self.ledger.source_digests()
            return [
                load_source(
                    engine,
                    self.lake,
                    table,
                    read_table(databases[source], table),
                    digests.get(table),
                    batch.batch_id,
                )
                for table, source in found.items()
            ]

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
        checked = self.checked.get(file.sha256)
        return FileToLoad(file, checked or self._check_again(file))

    # behind a batch

    def clear_scratch(self) -> None:
        """Forget the snapshots of a batch that has ended."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def sweep(self, batch: Batch, tables: Iterable[str] | None = None) -> None:
        """Remove what attempts at a batch wrote and no commit holds; by default in all tables."""
        for table in self._all_tables() if tables is None else tables:
            for path in self.lake.orphans(table, batch.batch_id):
                path.unlink(missing_ok=True)

    def report(self, run_id: int, as_of: datetime, batches: Sequence[BatchReport]) -> RunReport:
        """What the run did."""
        return RunReport(
            run_id=run_id,
            as_of=as_of,
            batches=tuple(batches),
            waiting=self.waiting,
            seconds={name: round(took, 3) for name, took in self.seconds.items()},
            lake=str(self.lake.root),
            database=self.ledger.engine.url.render_as_string(hide_password=True),
        )

    def close_run(
        self, run_id: int, state: str, message: str | None, report: RunReport | None = None
    ) -> None:
        """Record the run's end; a run that lost its lease can't, and need not."""
        text = json.dumps(report.to_dict(), default=str) if report else None
        try:
            self.ledger.record_steps(run_id, None, list(self.seconds.items()))
            self.ledger.close_run(run_id, state, message, text)
        except RetailmartError:
            if state == "done":
                raise

    def _wanted_tables(self, plan: Plan) -> list[tuple[str, str]]:
        """Tables that must come from sources, with the place that names each."""
        own = {*self.project.feeds, *self.project.marts}
        wanted = {
            table: f"marts/{mart}.sql"
            for mart, names in plan.reads.items()
            for table in names - own
        }
        for feed in self.project.feeds.values():
            for column in feed.columns:
                if column.references and column.references[0] not in own:
                    wanted.setdefault(column.references[0], f"feeds/{feed.name}.yml")
        return sorted(wanted.items())

    def _check_again(self, file: LedgerFile) -> CheckedFile:
        content = self.scratch / f"{file.sha256}.csv"
        entry = next((e for e in self.landing.entries() if e.path == file.path), None)
        if not content.exists() and entry is not None:
            list(snapshot(self.landing, (entry,), self.scratch))
        if not content.exists():
            raise RetailmartError(
                f"{file.path} of the unfinished batch {file.batch_id} is gone: neither landing nor"
                " the run's own copy has what was staged",
                f"Put the file back into {self.landing.root} as it was, and run again",
            )
        feed = self.project.feeds.get(str(file.feed))
        if feed is None:
            raise RetailmartError(
                f"{file.path} of the unfinished batch {file.batch_id} is of feed {file.feed!r},"
                " which the project no longer has",
                f"Put feeds/{file.feed}.yml back and run again",
            )
        verdict = check_content(content, scan_again(content), feed)
        if isinstance(verdict, Refusal):
            raise RetailmartError(
                f"{file.path} of the unfinished batch {file.batch_id} {verdict.message}",
                f"It was good when it was staged: undo the change to feeds/{feed.name}.yml",
            )
        return verdict

    def _all_tables(self) -> list[str]:
        return [
            path.relative_to(self.lake.root).as_posix()
            for path in self.lake.root.glob("*/*")
            if path.is_dir()
        ]
