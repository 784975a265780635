"""A run from start to end.

Every step can be repeated: a crash anywhere, then one more run, gives the same result as no crash.

A batch moves through states, each reached in one ledger transaction:

    active     the files are staged; what is written now is not in any table yet
    prepared   all files are written and proven; the commits are decided and can only be finished
    committed  the lake holds the batch
    published  the database holds it, and the ledger says so in the same transaction
    done       the files are archived
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from retailmart.database import translate_errors
from retailmart.database.dialect import dialect_of, names_in
from retailmart.engines import Engine
from retailmart.engines.together import together
from retailmart.errors import DeliveryReplaced, GateFailed, LeaseLost, RetailmartError, Unavailable
from retailmart.feeds.classify import classify
from retailmart.feeds.load import LoadedFeed, load
from retailmart.feeds.replay import resolve
from retailmart.feeds.undoing import Undoing, came_back, expect_archived, plan_undo
from retailmart.files.archive import archive, take_out
from retailmart.files.discover import discover
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileState,
    LedgerFile,
    MartRecord,
    Outcome,
)
from retailmart.marts.build import Inputs, build
from retailmart.marts.cross_checks import agree
from retailmart.marts.exports import export_marts
from retailmart.marts.fit import hold_unfit
from retailmart.marts.held import HeldBack
from retailmart.marts.outcome import (
    Prepared,
    batch_report,
    count_unknown_keys,
    differences,
    late_keys,
)
from retailmart.marts.publish import Wanted, publish, unpublishable
from retailmart.marts.reconcile import reconcile
from retailmart.project import Project
from retailmart.report import (
    BatchReport,
    Held,
    MartLine,
    Restored,
    RunReport,
    Silent,
    Watch,
    number_of,
)
from retailmart.session import Session, definition_of, expect_one_feed, held_marts
from retailmart.sources.load import LoadedTable
from retailmart.tables import TableChange

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Seconds to wait before each new try; what does not work after that needs a person.
_PAUSES = (0.2, 1.0, 3.0, 8.0, 20.0)
# How often a batch is started again because its files were replaced while they were read.
_TRIES = 3

TakeIn = Callable[[Session, int, datetime], Batch | None]


def run(project: Project, as_of: datetime | None = None, watch: Watch | None = None) -> RunReport:
    """Bring everything that has landed into the marts, exactly once.

    `as_of` (UTC, default now) is the moment the marts are computed for; an unfinished batch keeps
    its own. Raises GateFailed, ProjectBusy, SettingsError or RetailmartError.
    """
    return _run(project, as_of, watch, take_in)


def undo(
    project: Project, run_id: int, as_of: datetime | None = None, watch: Watch | None = None
) -> RunReport:
    """Undo a run in raw, marts, database and archive: all is as if the run had never been.

    `as_of` is by default that of the newest run that stays. Raises RetailmartError, which says why
    it can't be done; then nothing has changed.
    """
    return _run(
        project,
        as_of,
        watch,
        lambda session, by, moment: take_back(session, by, moment, run_id),
        lambda session: session.ledger.batches.moment_without(run_id),
    )


def abandon(project: Project, watch: Watch | None = None) -> str:
    """Abandon an open batch that is not prepared yet, and say so: its files count as never seen.

    Raises RetailmartError if it is prepared: then it can only be finished.
    """
    with Session.open(project, watch or Silent()) as session, translate_errors():
        session.ledger.migrate()
        session.acquire_lease()
        batch = session.ledger.batches.unfinished()
        if batch is None:
            return "There is no open batch: nothing to abandon"
        if batch.state is not BatchState.ACTIVE:
            raise RetailmartError(
                f"batch {batch.batch_id} is {batch.state.value}: its figures are decided, and it"
                " can only be finished",
                f"Finish it with: retailmart run; then: retailmart undo {batch.run_id}",
            )
        count = len(session.ledger.files.of_batch(batch.batch_id))
        _abandon(session, batch)
        stay = "stays where it landed" if count == 1 else "stay where they landed"
        return f"Batch {batch.batch_id} is abandoned; its {number_of(count, 'file')} {stay}"


def _run(
    project: Project,
    as_of: datetime | None,
    watch: Watch | None,
    intake: TakeIn,
    usual: Callable[[Session], datetime | None] = lambda _: None,
) -> RunReport:
    """`usual` gives the moment if `as_of` is not given; if it gives none, it is now."""
    with Session.open(project, watch or Silent()) as session:
        session.expect_landing()
        with translate_errors():
            with session.step("lease"):
                session.ledger.migrate()
                session.acquire_lease()
            session.expect_own_tables()
            moment = (as_of or usual(session) or datetime.now(UTC)).astimezone(UTC)
            run_id = session.ledger.runs.begin(moment)
        try:
            batches = list(_despite_faults(session, run_id, moment, intake))
            session.sweep_when_due()
            report = session.report(run_id, moment, batches)
        except BaseException as error:
            if step := session.failed_step:
                error.add_note(f"Run {run_id} failed in step {step}, {session.seconds[step]:.2f} s")
            session.close_run(run_id, "failed", str(error) or type(error).__name__)
            raise
        session.close_run(run_id, "done", None, report)
        return report


def _despite_faults(
    session: Session, run_id: int, as_of: datetime, intake: TakeIn
) -> Iterator[BatchReport]:
    """Continue work that broke off from where the ledger says it is, as after a crash."""
    for pause in (*_PAUSES, None):
        try:
            with translate_errors():
                yield from _batches(session, run_id, as_of, intake)
            return
        except Unavailable as error:
            if pause is None:
                raise
            session.watch.note("retry", f"in {pause:.0f} s: {error.message}")
            session.forget_landed()
            time.sleep(pause)


def _batches(
    session: Session, run_id: int, as_of: datetime, intake: TakeIn
) -> Iterator[BatchReport]:
    with session.step("recover"):
        unfinished = session.ledger.batches.unfinished()
    if unfinished is None or unfinished.state is BatchState.ACTIVE:
        session.expect_definitions(as_of)
    if unfinished:
        try:
            yield finish(session, unfinished, run_id, recovered=True)
        except DeliveryReplaced as error:
            session.watch.note("recover", error.message)
            _abandon(session, unfinished)
    for left in reversed(range(_TRIES)):
        batch = intake(session, run_id, as_of)
        if batch is None:
            return
        try:
            yield finish(session, batch, run_id)
            return
        except DeliveryReplaced as error:  # files that have landed since are taken in instead
            session.watch.note("copy", error.message)
            _abandon(session, batch)
            session.forget_landed()
            if not left:
                raise


def take_in(session: Session, run_id: int, as_of: datetime) -> Batch | None:
    """Discover, copy, check and stage what has landed. None if there is nothing to do."""
    with session.step("discover"):
        landed = discover(session.landing)
        session.waiting, session.unreachable = landed.waiting, landed.unreachable
        expect_one_feed(session.project, (entry.path for entry in landed.ready))
    if not landed.ready and not session.has_stale_marts(as_of) and not session.tables_changed():
        return None
    if landed.ready:
        session.expect_rules(as_of)
    with session.step("copy"):
        found = session.stage_files(as_of, landed.ready)
    with session.step("check"):
        classified = classify(session.ledger, session.project.feeds, found)
        session.checked = {(v.file.path, v.file.sha256): v.checked for v in classified if v.checked}
    with session.step("stage"):
        return session.ledger.batches.stage(run_id, as_of, [one.file for one in classified])


def take_back(session: Session, run_id: int, as_of: datetime, undone: int) -> Batch | None:
    """Stage a batch with which a run's files leave, and the files that they replaced return."""
    with session.step("discover"):
        plan = plan_undo(session.ledger, session.project.feeds, undone)
    if plan is None:
        return None
    with session.step("copy"):
        engine, returning = session.engine(as_of), plan.returning
        expect_archived(engine, session.ledger, session.archive, returning, session.scratch)
    with session.step("stage"):
        return session.ledger.batches.stage(run_id, as_of, (), undoes=undone)


def finish(session: Session, batch: Batch, run_id: int, *, recovered: bool = False) -> BatchReport:
    """Move a batch from its current state to done, for a run."""
    if batch.state is BatchState.ACTIVE:
        prepare(session, batch)
    outcome, changes = session.ledger.batches.prepared(batch)
    if batch.state in (BatchState.ACTIVE, BatchState.PREPARED):
        with session.step("commit"):
            for table, change in changes.items():
                if recovered:
                    session.lake.repair(table)
                session.lake.commit(TableChange.from_json(change), batch.batch_id)
            session.ledger.batches.mark_committed(batch)
    published: list[MartLine] = []
    held: Collection[Held] = ()
    restored: tuple[Restored, ...] = ()
    if batch.state is not BatchState.PUBLISHED:
        with session.step("publish"):
            published, held, restored = publish_all(session, batch, outcome)
    if exported := [mart for mart in session.project.marts.values() if mart.snapshot]:
        behind = held_marts(session.ledger)
        with session.step("export") as tell:
            # A day's export shows what was known that day: a mart that is held back is left out.
            exported = [mart for mart in exported if mart.name not in behind]
            export_marts(session.ledger, session.lake, exported, batch.as_of, tell)
    with session.step("archive"):
        files = session.ledger.files.of_batch(batch.batch_id)
        archive(session.landing, session.archive, session.scratch, batch, files)
        if batch.undoes is not None:
            take_out(session.archive, session.ledger, batch.undoes)
        if recovered or session.has_retried or outcome.notes.get("held"):
            session.sweep(batch)
        session.clear_scratch()
        session.ledger.batches.mark_done(batch, run_id)
        files += session.ledger.files.among(outcome.returned)
    marts = session.project.marts.values()
    names = {mart.name: mart.publish_as for mart in marts if mart.publish_as}
    report = batch_report(batch, files, outcome, published, held, names, recovered=recovered)
    return replace(report, restored=restored)


def prepare(session: Session, batch: Batch) -> None:
    """Load, build and reconcile a batch, and record what is to be committed.

    If a gate fails, the batch is abandoned: its files stay in landing, nothing of it is kept.
    """
    staged = session.ledger.files.of_batch(batch.batch_id)
    try:
        prepared = _load_build_reconcile(session, batch, staged)
    except GateFailed:
        _abandon(session, batch)
        raise
    changes = {
        change.table: change.to_json()
        for change in prepared.changes()
        if change.adds or change.removes or session.lake.state(change.table) is None
    }
    with session.step("persist"):
        for change in prepared.changes():
            session.lake.keep(change)
        session.expect_archivable(staged)
    try:
        session.ledger.batches.prepare(
            batch,
            changes,
            prepared.outcome(
                session.built_by(batch.as_of, prepared.unavailable, prepared.held),
                session.marts_away(),
            ),
        )
    except LeaseLost:
        session.discard(prepared.changes())  # named by our token: nobody else needs them
        raise


def _abandon(session: Session, batch: Batch) -> None:
    session.sweep(batch)  # first: an abandoned batch is never checked again
    session.ledger.batches.abandon(batch)
    session.clear_scratch()


def _load_build_reconcile(session: Session, batch: Batch, staged: Sequence[LedgerFile]) -> Prepared:
    undoing = _undoing(session, batch, staged)
    leaving = _leaving(session, staged, undoing)
    active = [file for file in staged if file.state is FileState.ACTIVE]
    active += undoing.returning
    idle = not (active or leaving or session.stale_marts(batch.as_of))
    if idle and (batch.undoes is not None or not session.tables_changed()):
        return Prepared()
    engine = session.engine(batch.as_of)
    plan = session.plan(engine, {str(file.feed) for file in active})
    with session.step("load"):
        loaded = _load(session, engine, batch, active, leaving, undoing)
        tables, plan = session.load_tables(engine, plan, batch)
    stale = session.stale_marts(batch.as_of, (mart.name for mart in plan.order))
    held = HeldBack(session.project.marts, lambda: plan.reads)
    with session.step("build") as tell:
        inputs = _inputs(session, loaded, tables)
        built = build(
            engine, session.lake, plan.order, plan.reads, inputs, stale, batch.batch_id, tell, held
        )
    with session.step("reconcile"):
        for name, error in unpublishable(engine, session.ledger, session.lake, built):
            held.add(name, error)
        database = session.ledger.engine
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
        changed += came_back(session.ledger, undoing.leaving, -1)
        changed += came_back(session.ledger, undoing.returning, 1)
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
        unread=session.unread(),
        held=held.held,
        firsts=held.firsts,
    )


def _undoing(session: Session, batch: Batch, staged: Sequence[LedgerFile]) -> Undoing:
    """What an undo does to files. Nothing changes before it is published, so it stays the same.

    An undo that an earlier release began has staged the files that come back as new files.
    """
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
    session: Session,
    engine: Engine,
    batch: Batch,
    active: Sequence[LedgerFile],
    leaving: Mapping[str, Sequence[LedgerFile]],
    undoing: Undoing,
) -> list[LoadedFeed]:
    returning = {file.file_id for file in undoing.returning}
    # Their refused rows leave quarantine, too; those of a file that returns come again.
    refused = [file for file in (*undoing.leaving, *undoing.returning) if file.quarantined]
    loaded = []
    for feed in session.feeds().values():
        files = [session.to_load(file, engine) for file in active if file.feed == feed.name]
        if not files and feed.name not in leaving:
            continue
        session.watch.note("load", f"{feed.name}, {number_of(len(files), 'file')}")
        months = {
            old.file_id: session.ledger.files.months_of([old.file_id])
            for old in leaving.get(feed.name, ())
        }
        files = resolve(engine, session.lake, session.ledger, feed, files, list(months), returning)
        own, scratch = batch.batch_id, session.scratch
        forgotten = [file.file_id for file in refused if file.feed == feed.name]
        loaded.append(load(engine, session.lake, feed, files, months, own, scratch, forgotten))
    return loaded


def _inputs(
    session: Session, loaded: Sequence[LoadedFeed], tables: Sequence[LoadedTable]
) -> Inputs:
    """What the marts read: tables as they will be once the batch is committed."""
    feeds = {part.feed.name: part for part in loaded}
    others = (feed for feed in session.project.feeds.values() if feed.name not in feeds)
    return Inputs(
        feeds=feeds,
        unchanged={feed.name: (feed, session.raw_state(feed)) for feed in others},
        tables={name: part for part in tables for name in part.table.names},
        functions=frozenset(session.project.functions.defined),
    )


def publish_all(
    session: Session, batch: Batch, outcome: Outcome
) -> tuple[list[MartLine], Collection[Held], tuple[Restored, ...]]:
    """Publish all marts and record that in the ledger, in one transaction.

    Marts whose tables the database refuses are held back: the next run builds them again.
    """
    known, today = session.ledger.marts.all(), session.fingerprints(batch.as_of)
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
    held = HeldBack(session.project.marts, lambda: session.reads(session.engine(batch.as_of)))

    def record_published(connection: Connection, done: Sequence[MartRecord]) -> None:
        marked = session.built_by(batch.as_of, held=held.held)
        behind = {name: marked[name] for name in held.held}
        said = replace(outcome, marts={**outcome.marts, **behind})
        session.ledger.batches.mark_published(connection, batch, said, done)

    published = publish(
        session.ledger,
        session.lake,
        lambda: session.engine(batch.as_of),
        batch,
        wanted,
        record_published,
        lambda table: session.watch.note("publish", table),
        held,
    )
    lines = [
        MartLine(
            done.record.name, done.rows, None, done.record.published_as, done.rows, done.changed
        )
        for done in published
    ]
    restored = [Restored(str(one.record.published_as), one.restored) for one in published]
    # What the build has held back is told once, also where not even an empty table can be made.
    found = [one for one in held.held.values() if one.mart not in firsts]
    return lines, found, tuple(one for one in restored if one.columns)
