"""The story of a run. Every step can be repeated: a crash anywhere, then one more run, gives the
same result as no crash.

A batch moves through states, each reached in one ledger transaction:

    active     the files are staged; whatever is written now is not in any table yet
    prepared   all files are written and proven; the commits are decided and can only be finished
    committed  the lake holds the batch
    published  the database holds it, and the ledger says so in the same transaction
    done       the files are archived
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retailmart.database import open_database
from retailmart.engines import Engine, open_engine
from retailmart.errors import GateFailed, RetailmartError
from retailmart.lake import Lake
from retailmart.ledger import Ledger, claim
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileState,
    LedgerFile,
    MartRecord,
    NewFile,
    Outcome,
    Totals,
)
from retailmart.project import Feed, Mart, Project
from retailmart.project.settings import Variable
from retailmart.report import (
    BalanceLine,
    BatchReport,
    Difference,
    FileLine,
    MartLine,
    RunReport,
    Silent,
    Unmatched,
    Watch,
)
from retailmart.steps.archive import archive
from retailmart.steps.build import BuiltMart, Inputs, build, build_order
from retailmart.steps.check import CheckedFile, Refusal, check, check_content
from retailmart.steps.discover import Snapshot, discover, scan_again, snapshot
from retailmart.steps.load import FileToLoad, LoadedFeed, load, raw_fields, raw_table
from retailmart.steps.publish import publish
from retailmart.steps.reconcile import Reconciled, reconcile
from retailmart.steps.sources import LoadedSource, load_source, locate
from retailmart.storage import LocalFolder
from retailmart.tables import TableChange, TableState, quoted

if TYPE_CHECKING:
    from sqlalchemy import Engine as Database


def run(project: Project, as_of: datetime | None = None, watch: Watch | None = None) -> RunReport:
    """Bring everything that has landed into the marts, exactly once.

    `as_of` (UTC, default now) is the moment the marts are computed for; an unfinished batch keeps
    its own. Raises GateFailed, ProjectBusy, SettingsError or RetailmartError.
    """
    moment = (as_of or datetime.now(UTC)).astimezone(UTC)
    with House.open(project, watch or Silent()) as house:
        with house.step("claim"):
            house.ledger.migrate()
            house.claim()
        run_id = house.ledger.open_run(moment)
        try:
            reports = list(_batches(house, run_id, moment))
        except BaseException as error:
            house.close_run(run_id, "failed", str(error) or type(error).__name__)
            raise
        report = house.report(run_id, moment, reports)
        house.close_run(run_id, "done", None, report)
        return report


def _batches(house: House, run_id: int, as_of: datetime) -> Iterator[BatchReport]:
    with house.step("recover"):
        unfinished = house.ledger.open_batch()
    if unfinished:
        yield finish(house, unfinished, recovered=True)
    if batch := take_in(house, run_id, as_of):
        yield finish(house, batch)


def take_in(house: House, run_id: int, as_of: datetime) -> Batch | None:
    """Discover, snapshot, check and stage what has landed; None when there is nothing to do."""
    with house.step("discover"):
        landed = discover(house.landing)
        house.waiting = landed.waiting
    if not landed.ready and not house.has_stale_marts():
        return None
    with house.step("snapshot"):
        snapshots = list(snapshot(house.landing, landed.ready, house.scratch))
    with house.step("check"):
        files = house.judge(snapshots)
    with house.step("stage"):
        return house.ledger.stage(run_id, as_of, files)


def finish(house: House, batch: Batch, *, recovered: bool = False) -> BatchReport:
    """Move a batch from wherever it stands to done."""
    if batch.state is BatchState.ACTIVE:
        prepare(house, batch)
    outcome, changes = house.ledger.prepared(batch)
    if batch.state in (BatchState.ACTIVE, BatchState.PREPARED):
        with house.step("commit"):
            for change in changes.values():
                house.lake.commit(TableChange.from_json(change), batch.batch_id)
            house.ledger.mark_committed(batch)
    published: tuple[MartLine, ...] = ()
    if batch.state is not BatchState.PUBLISHED:
        with house.step("publish"):
            published = house.publish(batch, outcome)
    with house.step("archive"):
        files = house.ledger.files_of(batch.batch_id)
        archive(house.landing, house.archive, house.scratch, batch, files)
        if recovered:
            house.sweep(batch, changes)
        shutil.rmtree(house.scratch, ignore_errors=True)
        house.ledger.mark_done(batch)
    return _batch_report(batch, files, outcome, published, recovered=recovered)


def prepare(house: House, batch: Batch) -> None:
    """Load, build and reconcile a batch, and record what is to be committed.

    A gate that fails lets the batch go: its files stay in landing, nothing of it is kept.
    """
    staged = house.ledger.files_of(batch.batch_id)
    try:
        with ExitStack() as stack:
            changes, outcome = _Preparation(house, batch, staged, stack).run()
        house.ledger.prepare(batch, changes, outcome)
    except GateFailed:
        house.ledger.abandon(batch)
        house.sweep(batch, house.all_tables())
        shutil.rmtree(house.scratch, ignore_errors=True)
        raise


class _Preparation:
    """The work between staged files and proven, uncommitted tables."""

    def __init__(
        self, house: House, batch: Batch, staged: Sequence[LedgerFile], stack: ExitStack
    ) -> None:
        self.house = house
        self.batch = batch
        self.active = [file for file in staged if file.state is FileState.ACTIVE]
        self.stack = stack
        self.stale = house.stale_marts()

    def run(self) -> tuple[dict[str, str], Outcome]:
        """The changes by table, as JSON, and what they will have made true."""
        if not self.active and not self.stale:
            return {}, Outcome()
        house = self.house
        engine = house.engine(self.batch.as_of)
        reads = {m.name: house.tables_of(engine, m) for m in house.project.marts.values()}
        order = build_order(house.project.marts, reads)
        with house.step("load"):
            superseded = self._superseded()
            loaded = self._load(engine, superseded)
            sources = self._load_sources(engine, reads)
        with house.step("build"):
            inputs = self._inputs(loaded, sources)
            built = build(
                engine,
                house.lake,
                order,
                reads,
                inputs,
                self.stale,
                self.batch.batch_id,
                lambda name: house.watch.note("build", name),
            )
        with house.step("reconcile"):
            proven = reconcile(engine, house.ledger, loaded, superseded, built)
            unmatched = _unmatched(engine, loaded, inputs)
        changes = {
            change.table: change.to_json()
            for change in _changes(loaded, sources, built)
            if change.adds or change.removes or house.lake.state(change.table) is None
        }
        return changes, self._outcome(loaded, sources, built, proven, superseded, unmatched)

    def _superseded(self) -> dict[str, list[LedgerFile]]:
        leaving: dict[str, list[LedgerFile]] = {}
        for file in self.active:
            if file.supersedes is not None:
                old = self.house.ledger.file(file.supersedes)
                leaving.setdefault(str(old.feed), []).append(old)
        return leaving

    def _load(
        self, engine: Engine, superseded: Mapping[str, Sequence[LedgerFile]]
    ) -> list[LoadedFeed]:
        house = self.house
        loaded = []
        for feed in house.project.feeds.values():
            files = [self._to_load(file) for file in self.active if file.feed == feed.name]
            if not files:
                continue
            house.watch.note("load", f"{feed.name}, {len(files)} files")
            leaving = {
                old.file_id: house.ledger.months_of_files([old.file_id])
                for old in superseded.get(feed.name, ())
            }
            loaded.append(load(engine, house.lake, feed, files, leaving, self.batch.batch_id))
        return loaded

    def _to_load(self, file: LedgerFile) -> FileToLoad:
        checked = self.house.checked.get(file.sha256) or self.house.check_again(file)
        return FileToLoad(file, checked)

    def _load_sources(
        self, engine: Engine, reads: Mapping[str, frozenset[str]]
    ) -> list[LoadedSource]:
        house = self.house
        wanted = house.wanted_tables(reads)
        if not wanted:
            return []
        from retailmart.database.source import read_table, table_names

        databases = house.sources(self.stack)
        offered = {name: table_names(database) for name, database in databases.items()}
        own = {*house.project.feeds, *house.project.marts}
        found = locate(wanted, offered, own)
        digests = house.ledger.source_digests()
        return [
            load_source(
                engine,
                house.lake,
                table,
                lambda name, source=source: read_table(databases[source], name),  # type: ignore[misc]
                digests.get(table),
                self.batch.batch_id,
            )
            for table, source in found.items()
        ]

    def _inputs(self, loaded: Sequence[LoadedFeed], sources: Sequence[LoadedSource]) -> Inputs:
        feeds = {part.feed.name: part for part in loaded}
        unchanged = {
            feed.name: self.house.raw_state(feed)
            for feed in self.house.project.feeds.values()
            if feed.name not in feeds
        }
        changed = frozenset(part.name for part in sources if part.change)
        return Inputs(feeds, unchanged, {part.name: part.after for part in sources}, changed)

    def _outcome(
        self,
        loaded: Sequence[LoadedFeed],
        sources: Sequence[LoadedSource],
        built: Sequence[BuiltMart],
        proven: Reconciled,
        superseded: Mapping[str, Sequence[LedgerFile]],
        unmatched: Sequence[Unmatched],
    ) -> Outcome:
        files = tuple(outcome for feed in loaded for outcome in feed.outcomes)
        notes = {
            "differences": [
                {"path": d.path, "rows": d.rows, "amount": str(d.amount)}
                for d in self._differences(loaded, superseded)
            ],
            "unmatched": [vars(line) for line in unmatched],
            "balance": [
                {
                    "feed": line.feed,
                    "month": line.month,
                    "rows": line.totals.rows,
                    "amount": str(line.totals.amount),
                    "tables": line.tables,
                }
                for line in proven.lines
            ],
            "marts": [
                {
                    "name": part.mart.name,
                    "rows": sum(file.rows for file in part.after.files),
                    "months": None if part.months is None else len(part.months),
                }
                for part in built
            ],
        }
        return Outcome(
            files=files,
            balances=proven.months,
            marts={part.mart.name: self.house.fingerprint(part.mart) for part in built},
            sources={part.name: part.digest for part in sources if part.change},
            notes=notes,
        )

    def _differences(
        self, loaded: Sequence[LoadedFeed], superseded: Mapping[str, Sequence[LedgerFile]]
    ) -> list[Difference]:
        ledger = self.house.ledger
        outcomes = {outcome.file_id: outcome for feed in loaded for outcome in feed.outcomes}
        old_rows = {f.file_id: f.loaded or 0 for files in superseded.values() for f in files}
        differences = []
        for file in self.active:
            if file.supersedes is None:
                continue
            new = outcomes[file.file_id]
            before = _sum(ledger.months_of_files([file.supersedes]))
            money = _sum(new.months).amount - before.amount
            rows = new.loaded - old_rows[file.supersedes]
            differences.append(Difference(file.path, rows, money))
        return differences


@dataclass
class House:
    """Everything of one project that a run works with."""

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

    def claim(self) -> None:
        """Take the project's lease until the house is closed."""
        lease = self._stack.enter_context(claim(self.ledger.engine, self.private / "lock"))
        self.ledger = replace(self.ledger, lease=lease)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and tell the watch."""
        self.watch.began(name)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.watch.ended(name, took)

    # marts and their variables

    def variables(self) -> dict[str, Variable]:
        """The values marts read: their headers' defaults under the project's settings."""
        defaults: dict[str, Variable] = {}
        for mart in self.project.marts.values():
            defaults |= mart.variables
        return defaults | self.project.settings.variables

    def fingerprint(self, mart: Mart) -> str:
        """Tells whether the mart in the lake was built by today's definition."""
        return mart.fingerprint(self.variables())

    def stale_marts(self) -> frozenset[str]:
        """Marts that are new, or whose definition has changed since they were built."""
        known = self.ledger.marts()
        return frozenset(
            mart.name
            for mart in self.project.marts.values()
            if known.get(mart.name, MartRecord(mart.name)).fingerprint != self.fingerprint(mart)
        )

    def has_stale_marts(self) -> bool:
        """Whether marts must be built although nothing has landed."""
        return bool(self.stale_marts()) and bool(self.ledger.count_files().get("loaded"))

    def tables_of(self, engine: Engine, mart: Mart) -> frozenset[str]:
        """What a mart reads."""
        try:
            return engine.tables_in(mart.query)
        except ValueError as error:
            place = f"marts/{mart.name}.sql:{mart.first_line}"
            raise RetailmartError(f"{place}: {error}", "Correct the mart's SELECT") from error

    def wanted_tables(self, reads: Mapping[str, frozenset[str]]) -> list[tuple[str, str]]:
        """Tables that must come from sources, with the place that names each."""
        own = {*self.project.feeds, *self.project.marts}
        wanted = {
            table: f"marts/{mart}.sql" for mart, names in reads.items() for table in names - own
        }
        for feed in self.project.feeds.values():
            for column in feed.columns:
                if column.references and column.references[0] not in own:
                    wanted.setdefault(column.references[0], f"feeds/{feed.name}.yml")
        return sorted(wanted.items())

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

    def sources(self, stack: ExitStack) -> dict[str, Database]:
        """The source databases, until `stack` is closed."""
        opened = {}
        for name, url in self.project.settings.sources.items():
            opened[name] = open_database(url, self.project.folder, must_exist=True)
            stack.callback(opened[name].dispose)
        return opened

    def raw_state(self, feed: Feed) -> TableState:
        """A feed's raw table as it is, empty where nothing was loaded yet."""
        state = self.lake.state(raw_table(feed.name))
        if state is not None:
            return state
        partitions = ("_month",) if feed.month else ()
        root = str(self.lake.folder(raw_table(feed.name)))
        return TableState(root, raw_fields(feed), partitions, ())

    # steps that need more than one room

    def judge(self, snapshots: Sequence[Snapshot]) -> list[NewFile]:
        """Decide what each file is: to be loaded, a duplicate, or refused."""
        feeds = self.project.feeds.values()
        verdicts = {shot.entry.path: check(shot, feeds) for shot in snapshots}
        loadable = [s for s in snapshots if isinstance(verdicts[s.entry.path], CheckedFile)]
        old = {s.entry.path: self.ledger.counted_by_path(s.entry.path) for s in loadable}
        leaving = {
            file.file_id
            for s in loadable
            if (file := old[s.entry.path]) and file.sha256 != s.sha256
        }
        taken: dict[str, str] = {}
        files = []
        for shot in snapshots:
            path, verdict = shot.entry.path, verdicts[shot.entry.path]
            if isinstance(verdict, Refusal):
                files.append(_refused(shot, verdict))
                continue
            counted = self.ledger.counted_by_content(shot.sha256)
            same = next((f.path for f in counted if f.file_id not in leaving), None)
            if twin := same or taken.get(shot.sha256):
                files.append(_duplicate(shot, verdict, twin))
                continue
            taken[shot.sha256] = path
            self.checked[shot.sha256] = verdict
            before = old[path]
            files.append(_to_load(shot, verdict, before.file_id if before else None))
        return files

    def check_again(self, file: LedgerFile) -> CheckedFile:
        """How a staged file of an unfinished batch is read; taken from landing again if need be."""
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
        feed = self.project.feeds[str(file.feed)]
        verdict = check_content(content, scan_again(content), feed)
        if isinstance(verdict, Refusal):
            raise GateFailed(f"{file.path} {verdict.message}")
        return verdict

    def publish(self, batch: Batch, outcome: Outcome) -> tuple[MartLine, ...]:
        """Publish all marts and let the ledger say so, in one transaction."""
        known = self.ledger.marts()
        lines = []
        with self.ledger.transaction() as connection:
            records = []
            for mart in self.project.marts.values():
                if mart.publish_as is None or not (known.get(mart.name) or outcome.marts):
                    continue
                fingerprint = outcome.marts.get(mart.name) or known[mart.name].fingerprint or ""
                shown = known.get(mart.name, MartRecord(mart.name))
                self.watch.note("publish", mart.publish_as)
                engine = self.engine(batch.as_of)
                done = publish(engine, self.lake, mart, fingerprint, shown, connection)
                if done:
                    records.append(replace(done.record, fingerprint=fingerprint))
                    lines.append(
                        MartLine(
                            mart.name, done.rows, None, mart.publish_as, done.rows, done.changed
                        )
                    )
            self.ledger.mark_published(connection, batch, outcome, records)
        return tuple(lines)

    def sweep(self, batch: Batch, tables: Sequence[str] | Mapping[str, str]) -> None:
        """Remove what earlier attempts at a batch wrote and no commit holds."""
        for table in tables:
            for path in self.lake.orphans(table, batch.batch_id):
                path.unlink(missing_ok=True)

    def all_tables(self) -> list[str]:
        """Every table folder of the lake."""
        return [
            path.relative_to(self.lake.root).as_posix()
            for path in self.lake.root.glob("*/*")
            if path.is_dir()
        ]

    def report(self, run_id: int, as_of: datetime, batches: Sequence[BatchReport]) -> RunReport:
        """What the run did."""
        settings, folder = self.project.settings, self.project.folder
        return RunReport(
            run_id=run_id,
            as_of=as_of,
            batches=tuple(batches),
            waiting=self.waiting,
            seconds={name: round(took, 3) for name, took in self.seconds.items()},
            lake=str(folder / settings.lake),
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


def _refused(shot: Snapshot, verdict: Refusal) -> NewFile:
    entry = shot.entry
    return NewFile(
        entry.path,
        shot.sha256,
        entry.size,
        entry.mtime_ns,
        FileState.REFUSED,
        folder=verdict.folder.value,
        message=verdict.message,
    )


def _duplicate(shot: Snapshot, verdict: CheckedFile, twin: str) -> NewFile:
    entry = shot.entry
    message = f"has the same content as {twin}, which is counted already"
    return NewFile(
        entry.path,
        shot.sha256,
        entry.size,
        entry.mtime_ns,
        FileState.DUPLICATE,
        verdict.feed.name,
        message=message,
    )


def _to_load(shot: Snapshot, verdict: CheckedFile, supersedes: int | None) -> NewFile:
    entry = shot.entry
    return NewFile(
        entry.path,
        shot.sha256,
        entry.size,
        entry.mtime_ns,
        FileState.ACTIVE,
        verdict.feed.name,
        supersedes=supersedes,
    )


def _changes(
    loaded: Sequence[LoadedFeed], sources: Sequence[LoadedSource], built: Sequence[BuiltMart]
) -> Iterator[TableChange]:
    for feed in loaded:
        yield feed.raw
        if feed.quarantine:
            yield feed.quarantine
    for source in sources:
        if source.change:
            yield source.change
    for mart in built:
        if mart.change:
            yield mart.change


def _unmatched(engine: Engine, loaded: Sequence[LoadedFeed], inputs: Inputs) -> list[Unmatched]:
    """Count rows whose key its dimension does not have."""
    lines = []
    for part in loaded:
        engine.define("_added", part.added)
        for column in part.feed.columns:
            if column.references is None or column.references[0] not in inputs.dimensions:
                continue
            table, key = column.references
            engine.define(table, inputs.dimensions[table])
            name = quoted(column.name)
            found = engine.rows(
                f"SELECT count(*), sum(n) FROM (SELECT {name} AS k, count(*) AS n FROM _added"
                f" WHERE {name} IS NOT NULL GROUP BY 1) a"
                f" WHERE NOT EXISTS (SELECT 1 FROM {quoted(table)} d WHERE d.{quoted(key)} = a.k)"
            )
            keys, rows = found[0]
            if keys:
                lines.append(Unmatched(column.name, table, int(keys), int(rows)))
    return lines


def _sum(months: Mapping[str, Totals]) -> Totals:
    return sum(months.values(), Totals())


def _batch_report(
    batch: Batch,
    files: Sequence[LedgerFile],
    outcome: Outcome,
    published: Sequence[MartLine],
    *,
    recovered: bool,
) -> BatchReport:
    warned = {file.file_id: file.warned for file in outcome.files}
    notes: Mapping[str, Any] = outcome.notes
    shown = {line.name: line for line in published}
    marts = []
    for line in notes.get("marts", ()):
        other = shown.get(line["name"])
        more = (other.published_as, other.published_rows, other.changed) if other else ()
        marts.append(MartLine(line["name"], line["rows"], line["months"], *more))
    return BatchReport(
        batch_id=batch.batch_id,
        recovered=recovered,
        archived_to=f"processed/{batch.stamp}",
        files=tuple(
            FileLine(
                file.path,
                file.state.value,
                file.message,
                file.records,
                file.loaded,
                file.quarantined,
                warned.get(file.file_id, {}),
            )
            for file in files
        ),
        differences=tuple(
            Difference(d["path"], d["rows"], Decimal(d["amount"]))
            for d in notes.get("differences", ())
        ),
        unmatched=tuple(Unmatched(**line) for line in notes.get("unmatched", ())),
        balance=tuple(
            BalanceLine(**{**b, "amount": Decimal(b["amount"]), "tables": tuple(b["tables"])})
            for b in notes.get("balance", ())
        ),
        marts=tuple(marts),
    )
