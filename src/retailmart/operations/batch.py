"""One batch of a run, from its current state to done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from retailmart.database.dialect import dialect_of, names_in
from retailmart.engines import Engine
from retailmart.engines.together import together
from retailmart.errors import GateFailed, LeaseLost, RetailmartError
from retailmart.feeds.deliveries import raw_state
from retailmart.feeds.load import LoadedFeed, counted_by, load
from retailmart.feeds.lost import expect_raw
from retailmart.feeds.replay import resolve
from retailmart.feeds.undoing import (
    Undoing,
    came_back,
    changed_by_reading,
    plan_undo,
    taken_back,
)
from retailmart.files.archive import archive, take_out
from retailmart.lake import Lake
from retailmart.lake.layout import raw_table
from retailmart.lake.orphans import discard, sweep
from retailmart.ledger.values import (
    Again,
    Batch,
    BatchState,
    FileState,
    LedgerFile,
    MartRecord,
    Outcome,
    definition_of,
)
from retailmart.marts.build import Inputs, build
from retailmart.marts.cross_checks import agree
from retailmart.marts.definitions import (
    built_by,
    changed_by_others,
    fingerprints,
    held_marts,
    marts_away,
)
from retailmart.marts.exports import (
    ExpiredExports,
    expire_exports,
    export_marts,
    exported_to,
    latest_exports,
)
from retailmart.marts.fit import hold_unfit
from retailmart.marts.held import HeldBack
from retailmart.marts.outcome import (
    Prepared,
    batch_report,
    count_unknown_keys,
    differences,
    late_keys,
)
from retailmart.marts.plan import Plan, plan_marts
from retailmart.marts.publish import Wanted, publish, unpublishable
from retailmart.marts.reconcile import reconcile
from retailmart.monitoring.events import BatchBegan
from retailmart.operations.work import Run, work_for
from retailmart.report import BatchReport, ExportReport, Held, MartLine, Restored, number_of
from retailmart.session import Session
from retailmart.sources.loaded import LoadedTable
from retailmart.tables import TableChange

if TYPE_CHECKING:
    from sqlalchemy import Connection

# How long a run may remove old exports; the next one goes on.
_EXPIRE_SECONDS = 2.0


def finish(run: Run, batch: Batch, *, recovered: bool) -> BatchReport:
    """Move a batch from its current state to done, for a run."""
    session = run.session
    run.tell(BatchBegan(batch.batch_id, recovered))
    if batch.state is BatchState.ACTIVE:
        prepare(run, batch)
    outcome, changes = session.ledger.batches.prepared(batch)
    if batch.state in (BatchState.ACTIVE, BatchState.PREPARED):
        with session.step("commit"):
            for table, change in changes.items():
                session.stop.check()
                if recovered:
                    session.lake.repair(table)
                session.lake.commit(TableChange.from_json(change), batch.batch_id)
            session.ledger.batches.mark_committed(batch)
    published: list[MartLine] = []
    held: Collection[Held] = ()
    restored: tuple[Restored, ...] = ()
    if batch.state is not BatchState.PUBLISHED:
        with session.step("publish"):
            published, held, restored = publish_all(run, batch, outcome)
    exports = _export(session, batch)
    with session.step("archive"):
        files = session.ledger.files.of_batch(batch.batch_id)
        listed = run.deliveries.listed
        archive(session.landing, session.archive, session.scratch, batch, files, listed)
        if batch.undoes is not None:
            take_out(session.archive, session.ledger, batch.undoes)
        if recovered or session.has_retried or outcome.notes.get("held"):
            sweep(session.lake, batch.batch_id)
        run.end_batch()
        committed = [name for name in outcome.sources if raw_table(name) in changes]
        session.ledger.batches.mark_done(batch, outcome.of_done(committed), run.run_id)
        files += session.ledger.files.among(outcome.returned)
    report = report_of_batch(run, batch, files, outcome, published, held, recovered=recovered)
    return replace(report, restored=restored, exports=exports)


def report_of_batch(
    run: Run,
    batch: Batch,
    files: Sequence[LedgerFile],
    outcome: Outcome,
    published: Sequence[MartLine] = (),
    held: Collection[Held] = (),
    *,
    recovered: bool,
) -> BatchReport:
    """The report of a batch that is done. `held` are marts held back while publishing."""
    marts = run.project.marts.values()
    names = {mart.name: mart.publish_as for mart in marts if mart.publish_as}
    report = batch_report(batch, files, outcome, published, held, names, recovered=recovered)
    again = run.ledger.batches.again(batch.batch_id)
    return replace(report, read_again=len(again.files), rebuilt=again.marts)


def _export(session: Session, batch: Batch) -> ExportReport | None:
    """Export the marts that ask for it; a new date lets old ones expire."""
    exported = [mart for mart in session.project.marts.values() if mart.snapshot]
    if not exported:
        return None
    behind = held_marts(session.ledger.marts.all())
    with session.step("export") as progress:
        # A day's export shows what was known that day: a mart that is held back is left out.
        exported = [mart for mart in exported if mart.name not in behind]
        done = export_marts(session.ledger, session.lake, exported, batch.as_of, progress)
        expired = ExpiredExports()
        if done:
            keep = session.project.settings.keep
            expired = expire_exports(session.ledger, session.lake, keep, seconds=_EXPIRE_SECONDS)
    return ExportReport(
        exported_to(session.lake, batch.as_of),
        latest_exports(session.lake),
        tuple(done),
        () if expired.announced else expired.folders,
        0 if expired.announced else expired.size.bytes,
        expired.folders if expired.announced else (),
    )


def prepare(run: Run, batch: Batch) -> None:
    """Load, build and reconcile a batch, and record what is to be committed.

    If a gate fails, the batch is abandoned: its files stay in landing, nothing of it is kept.
    """
    session = run.session
    staged = session.ledger.files.of_batch(batch.batch_id)
    again = session.ledger.batches.again(batch.batch_id)
    try:
        prepared = _load_build_reconcile(run, batch, staged, again)
        outcome = prepared.outcome(
            built_by(run.project, batch.as_of, prepared.unavailable, prepared.held),
            marts_away(run.project, run.ledger.marts.all()),
        )
        if run.promise is not None:
            run.promise.expect_outcome(outcome, staged)
    except GateFailed:
        abandon_in(run, batch)
        raise
    changes = {
        change.table: change.to_json()
        for change in prepared.changes()
        if change.adds or change.removes or _is_of_columns(change, session.lake)
    }
    with session.step("persist"):
        for change in prepared.changes():
            session.stop.check()
            session.lake.persist(change)
        run.deliveries.expect_archivable(staged)
        session.stop.check()  # nothing is held back because its query was interrupted
    try:
        session.ledger.batches.prepare(batch, changes, outcome)
    except LeaseLost:
        discard(session.lake, prepared.changes())  # named by our token: nobody else needs them
        raise
    run.deliveries.forget_checked()


def _is_of_columns(change: TableChange, lake: Lake) -> bool:
    """Whether a change without files makes a table, or gives an empty one other columns."""
    state = lake.state(change.table)
    wanted = (change.fields, change.partition_by)
    return state is None or (not state.files and (state.fields, state.partition_by) != wanted)


def abandon_batch(session: Session, batch: Batch) -> None:
    """Abandon an active batch: nothing of it is kept, its files count as never seen."""
    sweep(session.lake, batch.batch_id)  # first: an abandoned batch is never checked again
    session.ledger.batches.abandon(batch)


def abandon_in(run: Run, batch: Batch) -> None:
    """Abandon an active batch within a run, which goes on."""
    abandon_batch(run.session, batch)
    run.end_batch()


def _load_build_reconcile(
    run: Run, batch: Batch, staged: Sequence[LedgerFile], again: Again
) -> Prepared:
    session = run.session
    undoing = _undoing(session, batch, staged, again)
    leaving = _leaving(session, staged, undoing)
    active = [file for file in staged if file.state is FileState.ACTIVE]
    active += undoing.returning
    # An undo gives tables back what they were, even if no row of a file leaves with it.
    files = bool(active or leaving)
    usual = batch.undoes is None and not again
    if usual and not work_for(run, batch.as_of, files=files).is_needed:
        return Prepared()
    expect_raw(session.ledger, session.lake, session.project.feeds)
    engine = session.engine(batch.as_of)
    plan = _plan(run, engine, {str(file.feed) for file in active})
    with session.step("load"):
        loaded = _load(run, engine, batch, active, leaving, undoing)
        tables, unreadable = run.tables.load(engine, plan.tables, batch)
        plan = plan.without(unreadable)
    stale = run.stale_marts(batch.as_of, (mart.name for mart in plan.order))
    stale |= changed_by_others(session.ledger, session.lake, session.project.marts)
    stale |= frozenset(again.marts)
    held = HeldBack(session.project.marts, lambda: plan.reads)
    with session.step("build") as progress:
        inputs = _inputs(session, loaded, tables)
        built = build(
            engine,
            session.lake,
            plan.order,
            plan.reads,
            inputs,
            stale,
            batch.batch_id,
            progress,
            held,
        )
    with session.step("reconcile"):
        for name, error in unpublishable(engine, session.ledger, session.lake, built):
            held.add(name, error)
        database = session.ledger.database
        built = hold_unfit(engine, dialect_of(database), names_in(database), built, held)
        feeds = session.project.feeds.values()
        proven, agreed, unmatched, healed = together(
            engine,
            reconcile(engine, session.ledger, feeds, loaded, leaving, built, held),
            agree(engine, session.lake, session.project.marts, built, held),
            count_unknown_keys(engine, loaded, inputs.tables),
            late_keys(engine, inputs),
        )
        built = held.release(built)
        proven = proven.without(held.held)
        agreed = [line for line in agreed if not {line.mart, line.other} & held.held.keys()]
        changed = differences(session.ledger, loaded, staged)
        outcomes = {one.file_id: one for part in loaded for one in part.outcomes}
        changed += changed_by_reading(session.ledger, undoing.reread, outcomes)
        changed += taken_back(session.ledger, undoing.only_leaving)
        changed += came_back(undoing.only_returning, outcomes)
    return Prepared(
        loaded,
        tables,
        built,
        proven,
        unmatched,
        healed,
        plan.unavailable,
        agreed,
        changed,
        returned=tuple(file.file_id for file in undoing.returning),
        unread=run.tables.unread(),
        held=held.held,
        firsts=held.firsts,
    )


def _plan(run: Run, engine: Engine, arriving: Iterable[str]) -> Plan:
    """Plan the marts; `arriving` are the feeds of which this batch brings files."""
    known = run.ledger.sources.all()
    delivered = run.ledger.files.feeds_delivered() | set(arriving)
    plan = plan_marts(run.project, run.session.sources, known, delivered)
    for name, error in plan.gone.items():
        run.tables.hold_back(name, error)
    return plan


def _undoing(session: Session, batch: Batch, staged: Sequence[LedgerFile], again: Again) -> Undoing:
    """What an undo or a backfill does to files. Until it is published, it stays the same.

    An undo that an earlier release began has staged the files that come back as new files.
    """
    if again.files:
        files = tuple(session.ledger.files.among(again.files))
        return Undoing(files, files)
    if batch.undoes is None:
        return Undoing()
    try:
        plan = plan_undo(session.ledger, session.project.feeds, batch.undoes) or Undoing()
    except RetailmartError as error:  # its release took back what this one does not
        raise RetailmartError(
            f"the unfinished batch {batch.batch_id} can't be finished: {error.message}",
            ". ".join(filter(None, ("Let it go first: retailmart abandon", error.hint))),
        ) from error
    return Undoing(plan.leaving) if staged else plan


def _leaving(
    session: Session, staged: Sequence[LedgerFile], undoing: Undoing
) -> dict[str, list[LedgerFile]]:
    """The superseded and undone files, whose rows leave with this batch, by feed."""
    gone = [
        session.ledger.files.get(file.supersedes) for file in staged if file.supersedes is not None
    ]
    leaving: dict[str, list[LedgerFile]] = {}
    for old in (*gone, *undoing.leaving):
        leaving.setdefault(str(old.feed), []).append(old)
    return leaving


def _load(
    run: Run,
    engine: Engine,
    batch: Batch,
    active: Sequence[LedgerFile],
    leaving: Mapping[str, Sequence[LedgerFile]],
    undoing: Undoing,
) -> list[LoadedFeed]:
    session = run.session
    for file in active:
        if file.feed not in run.project.feeds:
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is of feed {file.feed!r},"
                " which the project no longer has",
                f"Put feeds/{file.feed}.yml back and run again, or let the batch go with:"
                " retailmart abandon",
            )
    returning = {file.file_id for file in undoing.returning}
    # Their refused rows leave quarantine, too; those of a file that returns come again.
    refused = {file for file in (*undoing.leaving, *undoing.returning) if file.quarantined}
    known = session.ledger.files.counted_by()
    loaded = []
    for feed in run.feeds().values():
        files = [
            run.deliveries.to_load(file, feed, engine) for file in active if file.feed == feed.name
        ]
        has_table = session.lake.state(raw_table(feed.name)) is not None
        stays = not has_table or counted_by(feed).is_as(known.get(raw_table(feed.name)))
        if not files and feed.name not in leaving and stays:
            continue
        session.progress.message("load", f"{feed.name}, {number_of(len(files), 'file')}")
        months = {
            old.file_id: session.ledger.files.months_of([old.file_id])
            for old in leaving.get(feed.name, ())
        }
        files = resolve(engine, session.lake, session.ledger, feed, files, list(months), returning)
        own, scratch = batch.batch_id, session.scratch
        forgotten = [file.file_id for file in refused if file.feed == feed.name]
        loaded.append(
            load(
                engine,
                session.lake,
                feed,
                files,
                months,
                own,
                scratch,
                forgotten,
                known.get(raw_table(feed.name)),
            )
        )
    return loaded


def _inputs(
    session: Session, loaded: Sequence[LoadedFeed], tables: Sequence[LoadedTable]
) -> Inputs:
    """What the marts read: tables as they will be once the batch is committed."""
    feeds = {part.feed.name: part for part in loaded}
    others = (feed for feed in session.project.feeds.values() if feed.name not in feeds)
    return Inputs(
        feeds=feeds,
        unchanged={feed.name: (feed, raw_state(session.lake, feed)) for feed in others},
        tables={name: part for part in tables for name in part.table.names},
        functions=frozenset(session.project.functions.defined),
    )


def publish_all(
    run: Run, batch: Batch, outcome: Outcome
) -> tuple[list[MartLine], Collection[Held], tuple[Restored, ...]]:
    """Publish all marts and record that in the ledger, in one transaction.

    Marts whose tables the database refuses are held back: the next run builds them again.
    """
    session = run.session
    known, today = session.ledger.marts.all(), fingerprints(run.project, batch.as_of)
    # A mart that is held back and was never published begins as a table without rows.
    firsts = {line["mart"] for line in outcome.notes.get("held", ())}
    wanted = []
    for mart in session.project.marts.values():
        shown = known.get(mart.name, MartRecord(mart.name))
        built = definition_of(outcome.marts.get(mart.name, shown.fingerprint))
        definition = definition_of(today[mart.name])
        empty = mart.name in firsts and shown.published_as is None
        if mart.publish_as is None or definition is None or (built != definition and not empty):
            continue  # not built yet, or not by today's definition: a separate batch does it
        searched = session.project.settings.publish.collation == "database"
        wanted.append(Wanted(mart, definition, shown, searched))
    held = HeldBack(session.project.marts, run.tables.reads)

    def found() -> list[Held]:
        # What the build has held back is told once, also where not even an empty table can be made.
        return [one for one in held.held.values() if one.mart not in firsts]

    def record_published(connection: Connection, done: Sequence[MartRecord]) -> None:
        session.stop.check()
        marked = built_by(run.project, batch.as_of, held=held.held)
        behind = {name: marked[name] for name in held.held}
        notes = {**outcome.notes, "held": [*outcome.notes.get("held", ()), *map(asdict, found())]}
        said = replace(outcome, marts={**outcome.marts, **behind}, notes=notes)
        session.ledger.batches.mark_published(connection, batch, said, done)

    published = publish(
        session.ledger,
        session.lake,
        lambda: session.engine(batch.as_of),
        batch,
        wanted,
        record_published,
        lambda table: session.progress.message("publish", table),
        held,
    )
    lines = [
        MartLine(
            done.record.name, done.rows, None, done.record.published_as, done.rows, done.changed
        )
        for done in published
    ]
    restored = [Restored(str(one.record.published_as), one.restored) for one in published]
    return lines, found(), tuple(one for one in restored if one.columns)
