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

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from retailmart.database import told
from retailmart.engines import Engine
from retailmart.errors import DeliveryReplaced, GateFailed, LeaseLost, Unavailable
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
from retailmart.steps.agree import agree
from retailmart.steps.archive import archive, take_out
from retailmart.steps.build import Inputs, build
from retailmart.steps.discover import discover, snapshot
from retailmart.steps.load import LoadedFeed, load, misfit
from retailmart.steps.outcome import Prepared, batch_report, count_unmatched, differences, heal
from retailmart.steps.publish import Wanted, publish
from retailmart.steps.reconcile import reconcile
from retailmart.steps.replay import resolve
from retailmart.steps.snapshots import show_marts
from retailmart.steps.sources import LoadedTable
from retailmart.steps.stage import judge
from retailmart.steps.undo import bring_back, plan_undo, taken_back
from retailmart.tables import TableChange

# Seconds to wait before each new try; what is not back by then is a matter for people.
_PAUSES = (0.2, 1.0, 3.0, 8.0, 20.0)


TakeIn = Callable[[House, int, datetime], Batch | None]


def run(project: Project, as_of: datetime | None = None, watch: Watch | None = None) -> RunReport:
    """Bring everything that has landed into the marts, exactly once.

    `as_of` (UTC, default now) is the moment the marts are computed for; an unfinished batch keeps
    its own. Raises GateFailed, ProjectBusy, SettingsError or RetailmartError.
    """
    return _run(project, as_of, watch, take_in)


def undo(
    project: Project, run_id: int, as_of: datetime | None = None, watch: Watch | None = None
) -> RunReport:
    """Take a run back out of raw, marts, database and archive: a batch that only takes away.

    RetailmartError says why it can't be done; nothing has changed then.
    """
    return _run(
        project, as_of, watch, lambda house, by, moment: take_back(house, by, moment, run_id)
    )


def _run(
    project: Project, as_of: datetime | None, watch: Watch | None, intake: TakeIn
) -> RunReport:
    moment = (as_of or datetime.now(UTC)).astimezone(UTC)
    with House.open(project, watch or Silent()) as house:
        house.expect_landing()
        with told():
            with house.step("claim"):
                house.ledger.migrate()
                house.claim()
            run_id = house.ledger.open_run(moment)
        try:
            batches = list(_despite_faults(house, run_id, moment, intake))
            house.sweep_when_due()
            report = house.report(run_id, moment, batches)
        except BaseException as error:
            house.close_run(run_id, "failed", str(error) or type(error).__name__)
            raise
        house.close_run(run_id, "done", None, report)
        return report


def _despite_faults(
    house: House, run_id: int, as_of: datetime, intake: TakeIn
) -> Iterator[BatchReport]:
    """What breaks off is taken up again where the ledger says it stands, as after a crash."""
    for pause in (*_PAUSES, None):
        try:
            with told():
                yield from _batches(house, run_id, as_of, intake)
            return
        except Unavailable as error:
            if pause is None:
                raise
            house.watch.note("retry", f"in {pause:.0f} s: {error.message}")
            house.forget_landed()
            time.sleep(pause)


def _batches(house: House, run_id: int, as_of: datetime, intake: TakeIn) -> Iterator[BatchReport]:
    with house.step("recover"):
        unfinished = house.ledger.open_batch()
    if unfinished:
        try:
            yield finish(house, unfinished, recovered=True)
        except DeliveryReplaced as error:
            house.watch.note("recover", error.message)
            _let_go(house, unfinished)
    if batch := intake(house, run_id, as_of):
        yield finish(house, batch)


def take_in(house: House, run_id: int, as_of: datetime) -> Batch | None:
    """Discover, snapshot, check and stage what has landed; None when there is nothing to do."""
    with house.step("discover"):
        landed = discover(house.landing)
        house.waiting, house.unreachable = landed.waiting, landed.unreachable
    if not landed.ready and not house.has_stale_marts(as_of) and not house.tables_moved():
        return None
    with house.step("snapshot"):
        snapshots = list(snapshot(house.landing, landed.ready, house.scratch))
    with house.step("check"):
        verdicts = judge(
            house.ledger,
            snapshots,
            house.feeds().values(),
            lambda checked: misfit(lambda: house.engine(as_of), house.lake, checked),
        )
        house.checked = {(v.file.path, v.file.sha256): v.checked for v in verdicts if v.checked}
    with house.step("stage"):
        return house.ledger.stage(run_id, as_of, [verdict.file for verdict in verdicts])


def take_back(house: House, run_id: int, as_of: datetime, undone: int) -> Batch | None:
    """Stage a batch with which the files of a run leave, and what they had replaced returns."""
    with house.step("discover"):
        plan = plan_undo(house.ledger, undone)
    if plan is None:
        return None
    with house.step("snapshot"):
        back = bring_back(house.ledger, house.archive, plan.returning, house.scratch)
    with house.step("stage"):
        return house.ledger.stage(run_id, as_of, back, undoes=undone)


def finish(house: House, batch: Batch, *, recovered: bool = False) -> BatchReport:
    """Move a batch from wherever it stands to done."""
    if batch.state is BatchState.ACTIVE:
        prepare(house, batch)
    outcome, changes = house.ledger.prepared(batch)
    if batch.state in (BatchState.ACTIVE, BatchState.PREPARED):
        with house.step("commit"):
            for table, change in changes.items():
                if recovered:
                    house.lake.mend(table)
                house.lake.commit(TableChange.from_json(change), batch.batch_id)
            house.ledger.mark_committed(batch)
    published: list[MartLine] = []
    if batch.state is not BatchState.PUBLISHED:
        with house.step("publish"):
            published = publish_all(house, batch, outcome)
    if shown := [mart for mart in house.project.marts.values() if mart.snapshot]:
        with house.step("insights") as tell:
            show_marts(house.ledger, house.lake, shown, batch.as_of, tell)
    with house.step("archive"):
        files = house.ledger.files_of(batch.batch_id)
        archive(house.landing, house.archive, house.scratch, batch, files)
        if batch.undoes is not None:
            take_out(house.archive, house.ledger, batch.undoes)
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
        _let_go(house, batch)
        raise
    changes = {
        change.table: change.to_json()
        for change in prepared.changes()
        if change.adds or change.removes or house.lake.state(change.table) is None
    }
    with house.step("keep"):
        for change in prepared.changes():
            house.lake.keep(change)
    try:
        house.ledger.prepare(
            batch, changes, prepared.outcome(house.built_by(batch.as_of, prepared.unavailable))
        )
    except LeaseLost:
        house.discard(prepared.changes())  # our fence is in their names: nobody else needs them
        raise


def _let_go(house: House, batch: Batch) -> None:
    house.sweep(batch)  # first: an abandoned batch is never looked at again
    house.ledger.abandon(batch)
    house.clear_scratch()


def _load_build_reconcile(house: House, batch: Batch, staged: Sequence[LedgerFile]) -> Prepared:
    leaving = _leaving(house, batch, staged)
    active = [file for file in staged if file.state is FileState.ACTIVE]
    if not (active or leaving or house.stale_marts(batch.as_of) or house.tables_moved()):
        return Prepared()
    engine = house.engine(batch.as_of)
    plan = house.plan(engine, {str(file.feed) for file in active})
    stale = house.stale_marts(batch.as_of, (mart.name for mart in plan.order))
    with house.step("load"):
        loaded = _load(house, engine, batch, active, leaving)
        tables = house.load_tables(engine, plan, batch)
    with house.step("build") as tell:
        inputs = _inputs(house, loaded, tables)
        built = build(
            engine, house.lake, plan.order, plan.reads, inputs, stale, batch.batch_id, tell
        )
    with house.step("reconcile"):
        feeds = house.project.feeds.values()
        proven = reconcile(engine, house.ledger, feeds, loaded, leaving, built)
        agreed = agree(engine, house.lake, house.project.marts, built)
        unmatched = count_unmatched(engine, loaded, inputs.tables)
        healed = heal(engine, inputs)
        changed = differences(house.ledger, loaded, staged)
        changed += taken_back(house.ledger, _undone(house, batch))
    return Prepared(
        loaded, tables, built, proven, unmatched, healed, plan.unavailable, agreed, changed
    )


def _leaving(
    house: House, batch: Batch, staged: Sequence[LedgerFile]
) -> dict[str, list[LedgerFile]]:
    """The superseded and undone files, whose rows leave with this batch, by feed."""
    gone = [house.ledger.file(file.supersedes) for file in staged if file.supersedes is not None]
    gone += _undone(house, batch)
    leaving: dict[str, list[LedgerFile]] = {}
    for old in gone:
        leaving.setdefault(str(old.feed), []).append(old)
    return leaving


def _undone(house: House, batch: Batch) -> list[LedgerFile]:
    if batch.undoes is None:
        return []
    of_run = house.ledger.files_of_run(batch.undoes)
    return [file for file in of_run if file.state is FileState.LOADED]


def _load(
    house: House,
    engine: Engine,
    batch: Batch,
    active: Sequence[LedgerFile],
    leaving: Mapping[str, Sequence[LedgerFile]],
) -> list[LoadedFeed]:
    loaded = []
    for feed in house.feeds().values():
        files = [house.to_load(file) for file in active if file.feed == feed.name]
        if not files and feed.name not in leaving:
            continue
        house.watch.note("load", f"{feed.name}, {len(files)} files")
        months = {
            old.file_id: house.ledger.months_of_files([old.file_id])
            for old in leaving.get(feed.name, ())
        }
        files = resolve(engine, house.lake, house.ledger, feed, files, list(months))
        loaded.append(load(engine, house.lake, feed, files, months, batch.batch_id))
    return loaded


def _inputs(house: House, loaded: Sequence[LoadedFeed], tables: Sequence[LoadedTable]) -> Inputs:
    """What the marts read: tables as they will be once the batch is committed."""
    feeds = {part.feed.name: part for part in loaded}
    others = (feed for feed in house.project.feeds.values() if feed.name not in feeds)
    return Inputs(
        feeds=feeds,
        unchanged={feed.name: (feed, house.raw_state(feed)) for feed in others},
        tables={name: part for part in tables for name in part.table.names},
    )


def publish_all(house: House, batch: Batch, outcome: Outcome) -> list[MartLine]:
    """Publish all marts and let the ledger say so, in one transaction."""
    known, today = house.ledger.marts(), house.fingerprints(batch.as_of)
    wanted = []
    for mart in house.project.marts.values():
        shown = known.get(mart.name, MartRecord(mart.name))
        built = definition_of(outcome.marts.get(mart.name, shown.fingerprint))
        definition = definition_of(today[mart.name])
        if mart.publish_as is None or definition is None or built != definition:
            continue  # not built yet, or not by today's definition: a batch of its own does it
        wanted.append(Wanted(mart, definition, shown))
    published = publish(
        house.ledger,
        house.lake,
        lambda: house.engine(batch.as_of),
        batch,
        wanted,
        lambda connection, done: house.ledger.mark_published(connection, batch, outcome, done),
        lambda table: house.watch.note("publish", table),
    )
    return [
        MartLine(
            done.record.name, done.rows, None, done.record.published_as, done.rows, done.changed
        )
        for done in published
    ]
