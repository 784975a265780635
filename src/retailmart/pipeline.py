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

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from retailmart.engines import Engine
from retailmart.errors import GateFailed
from retailmart.house import House, definition_of
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileState,
    LedgerFile,
    MartRecord,
    Outcome,
)
from retailmart.project import Project
from retailmart.report import BatchReport, MartLine, RunReport, Silent, Watch
from retailmart.steps.archive import archive
from retailmart.steps.build import Inputs, build
from retailmart.steps.discover import discover, snapshot
from retailmart.steps.load import LoadedFeed, load
from retailmart.steps.outcome import Prepared, batch_report, count_unmatched, differences
from retailmart.steps.publish import publish
from retailmart.steps.reconcile import reconcile
from retailmart.steps.sources import LoadedSource
from retailmart.steps.stage import judge
from retailmart.tables import TableChange


def run(project: Project, as_of: datetime | None = None, watch: Watch | None = None) -> RunReport:
    """Bring everything that has landed into the marts, exactly once.

    `as_of` (UTC, default now) is the moment the marts are computed for; an unfinished batch keeps
    its own. Raises GateFailed, ProjectBusy, SettingsError or RetailmartError.
    """
    moment = (as_of or datetime.now(UTC)).astimezone(UTC)
    with House.open(project, watch or Silent()) as house:
        house.expect_landing()
        with house.step("claim"):
            house.ledger.migrate()
            house.claim()
        run_id = house.ledger.open_run(moment)
        try:
            report = house.report(run_id, moment, list(_batches(house, run_id, moment)))
        except BaseException as error:
            house.close_run(run_id, "failed", str(error) or type(error).__name__)
            raise
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
    if not landed.ready and not house.has_stale_marts(as_of):
        return None
    with house.step("snapshot"):
        snapshots = list(snapshot(house.landing, landed.ready, house.scratch))
    with house.step("check"):
        verdicts = judge(house.ledger, snapshots, house.project.feeds.values())
        house.checked = {v.file.sha256: v.checked for v in verdicts if v.checked}
    with house.step("stage"):
        return house.ledger.stage(run_id, as_of, [verdict.file for verdict in verdicts])


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
    published: list[MartLine] = []
    if batch.state is not BatchState.PUBLISHED:
        with house.step("publish"):
            published = publish_all(house, batch, outcome)
    with house.step("archive"):
        files = house.ledger.files_of(batch.batch_id)
        archive(house.landing, house.archive, house.scratch, batch, files)
        if recovered:
            house.sweep(batch)
        house.clear_scratch()
        house.ledger.mark_done(batch)
    return batch_report(batch, files, outcome, published, recovered=recovered)


def prepare(house: House, batch: Batch) -> None:
    """Load, build and reconcile a batch, and record what is to be committed.

    A gate that fails lets the batch go: its files stay in landing, nothing of it is kept.
    """
    staged = house.ledger.files_of(batch.batch_id)
    try:
        prepared = _load_build_reconcile(house, batch, staged)
    except GateFailed:
        house.sweep(batch)  # first: an abandoned batch is never looked at again
        house.ledger.abandon(batch)
        house.clear_scratch()
        raise
    changes = {
        change.table: change.to_json()
        for change in prepared.changes()
        if change.adds or change.removes or house.lake.state(change.table) is None
    }
    house.ledger.prepare(batch, changes, prepared.outcome(house.fingerprints(batch.as_of)))


def _load_build_reconcile(house: House, batch: Batch, staged: Sequence[LedgerFile]) -> Prepared:
    stale = house.stale_marts(batch.as_of)
    leaving = _leaving(house, staged)
    active = [file for file in staged if file.state is FileState.ACTIVE]
    if not active and not leaving and not stale:
        return Prepared()
    engine = house.engine(batch.as_of)
    plan = house.plan(engine)
    with house.step("load"):
        loaded = _load(house, engine, batch, active, leaving)
        sources = house.load_sources(engine, plan, batch)
    with house.step("build") as tell:
        inputs = _inputs(house, loaded, sources)
        built = build(
            engine, house.lake, plan.order, plan.reads, inputs, stale, batch.batch_id, tell
        )
    with house.step("reconcile"):
        feeds = house.project.feeds.values()
        proven = reconcile(engine, house.ledger, feeds, loaded, leaving, built)
        unmatched = count_unmatched(engine, loaded, inputs.dimensions)
        changed = differences(house.ledger, loaded, staged)
    return Prepared(loaded, sources, built, proven, unmatched, changed)


def _leaving(house: House, staged: Sequence[LedgerFile]) -> dict[str, list[LedgerFile]]:
    """The superseded files, whose rows leave with this batch, by feed."""
    leaving: dict[str, list[LedgerFile]] = {}
    for file in staged:
        if file.supersedes is not None:
            old = house.ledger.file(file.supersedes)
            leaving.setdefault(str(old.feed), []).append(old)
    return leaving


def _load(
    house: House,
    engine: Engine,
    batch: Batch,
    active: Sequence[LedgerFile],
    leaving: Mapping[str, Sequence[LedgerFile]],
) -> list[LoadedFeed]:
    loaded = []
    for feed in house.project.feeds.values():
        files = [house.to_load(file) for file in active if file.feed == feed.name]
        if not files and feed.name not in leaving:
            continue
        house.watch.note("load", f"{feed.name}, {len(files)} files")
        months = {
            old.file_id: house.ledger.months_of_files([old.file_id])
            for old in leaving.get(feed.name, ())
        }
        loaded.append(load(engine, house.lake, feed, files, months, batch.batch_id))
    return loaded


def _inputs(house: House, loaded: Sequence[LoadedFeed], sources: Sequence[LoadedSource]) -> Inputs:
    """What the marts read: tables as they will be once the batch is committed."""
    feeds = {part.feed.name: part for part in loaded}
    others = (feed for feed in house.project.feeds.values() if feed.name not in feeds)
    return Inputs(
        feeds=feeds,
        unchanged={feed.name: house.raw_state(feed) for feed in others},
        dimensions={part.name: part.after for part in sources},
        changed_dimensions=frozenset(part.name for part in sources if part.change),
    )


def publish_all(house: House, batch: Batch, outcome: Outcome) -> list[MartLine]:
    """Publish all marts and let the ledger say so, in one transaction."""
    known, today = house.ledger.marts(), house.fingerprints(batch.as_of)
    lines: list[MartLine] = []
    records: list[MartRecord] = []
    with house.ledger.transaction() as connection:
        for mart in house.project.marts.values():
            shown = known.get(mart.name, MartRecord(mart.name))
            built = definition_of(outcome.marts.get(mart.name, shown.fingerprint))
            definition = definition_of(today[mart.name])
            if mart.publish_as is None or definition is None or built != definition:
                continue  # not built yet, or not by today's definition: a batch of its own does it
            house.watch.note("publish", mart.publish_as)
            engine = house.engine(batch.as_of)
            done = publish(engine, house.lake, mart, definition, shown, connection)
            if done:
                records.append(done.record)
                lines.append(
                    MartLine(mart.name, done.rows, None, mart.publish_as, done.rows, done.changed)
                )
        house.ledger.mark_published(connection, batch, outcome, records)
    return lines
