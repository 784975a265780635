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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from retailmart.database import shown_url, translate_errors
from retailmart.engines import EXCHANGE
from retailmart.errors import (
    DeliveryReplaced,
    GateFailed,
    LeaseLost,
    RetailmartError,
    SettingsError,
    Stopped,
    Unavailable,
)
from retailmart.feeds.classify import classify
from retailmart.feeds.lost import expect_raw_tables
from retailmart.files.archive import expire_archive
from retailmart.files.checked import CheckedFile, Refusal
from retailmart.files.discover import StagedCopy, discover
from retailmart.lake.orphans import sweep_merges, sweep_others
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, BatchState
from retailmart.marts.bind import Binding, expect_none
from retailmart.marts.definitions import changed_definitions
from retailmart.marts.ownership import expect_known_spelling, expect_own_tables
from retailmart.monitoring.events import Observer
from retailmart.operations.batch import abandon_in, finish
from retailmart.operations.check import expect_one_feed
from retailmart.operations.maintain import maintain_after
from retailmart.operations.marts_file import keep_marts_file
from retailmart.operations.monitor import Monitor, monitored
from retailmart.operations.plan.promise import Promise, basis_of
from retailmart.operations.plan.shadow import remove_left
from retailmart.operations.status import expected_inputs
from retailmart.operations.work import Run, begin, expect_moment, work_for
from retailmart.project import Project
from retailmart.report import ArchiveReport, BatchReport, Progress, RunReport
from retailmart.session import Session

# Seconds to wait before each new try; what does not work after that needs a person.
_PAUSES = (0.2, 1.0, 3.0, 8.0, 20.0)
# How often a batch is started again because its files were replaced while they were read.
_TRIES = 3
# How long a run may look for old files in the archive; the next day's goes on.
_EXPIRE_SECONDS = 5.0


TakeIn = Callable[[Run], Batch | None]


class Finish(Protocol):
    """What moves a batch from its current state to done."""

    def __call__(self, run: Run, batch: Batch, *, recovered: bool) -> BatchReport:
        """Finish a batch; `recovered` means that an earlier run began it."""


def run(
    project: Project,
    as_of: datetime | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> RunReport:
    """Bring everything that has landed into the marts, exactly once.

    `as_of` (UTC, default now) is the moment the marts are computed for; an unfinished batch keeps
    its own. `observers` are told what happens, besides those that the settings name. Raises
    GateFailed, ProjectBusy, SettingsError or RetailmartError.
    """
    with monitored(project.monitoring(), "run", observers, progress, project) as monitor:
        run_with(project, as_of, monitor, take_in)
    return monitor.report_of_run()


def run_with(
    project: Project,
    as_of: datetime | None,
    monitor: Monitor,
    intake: TakeIn,
    usual: Callable[[Ledger], datetime | None] = lambda _: None,
    promise: Promise | None = None,
) -> None:
    """A run whose new batch, if any, is staged by `intake`; `monitor` gets its report.

    `usual` gives the moment if `as_of` is not given; if it gives none, it is now. With a `promise`
    it does what was planned, or raises GateFailed.
    """
    expect_moment(as_of)
    with Session.open(project, monitor.progress) as session:
        expect_landing(session)
        with translate_errors():
            with session.step("lease"):
                session.ledger.migrate()
                session.acquire_lease()
            try:
                expect_known_spelling(project, session.ledger)
                left = expect_own_tables(project, session.ledger)
                moment = (as_of or usual(session.ledger) or datetime.now(UTC)).astimezone(UTC)
                cut_off = session.ledger.runs.running()
                one = begin(session, moment)
            except RetailmartError as error:
                monitor.failed(error, session.ledger, session.failed_step, session.seconds)
                raise
            one.left_tables, one.promise = left, promise
        monitor.began(one.run_id, moment, cut_off)
        one.tell = monitor.see
        with session.stop.ending(lambda: _leave(one)):
            try:
                if promise is not None:
                    with translate_errors():
                        promise.expect_basis(basis_of(session.ledger, session.lake, project))
                batches = list(_despite_faults(one, intake))
                session.stop.check()
                if intake is take_in:  # an undo does not look at all tables
                    with translate_errors():
                        session.ledger.held.record_tables(one.tables.unreadable)
                archived = _sweep_when_due(session)
                views = keep_marts_file(session)
                report = replace(report_of(one, batches), archive=archived, marts_file=views)
            except BaseException as error:
                _end_early(one, error, monitor)
            _close(one, "done", None, report)
        # Last of all: the run is done and right, whatever becomes of this.
        tidied = maintain_after(session, one.run_id)
        monitor.ended(replace(report, maintenance=tidied), session.ledger, session.seconds)
    if project.settings.report.write == "always":
        from retailmart.operations.report import write_after

        if written := write_after(project, report):
            monitor.progress.message("report", written)


def _end_early(run: Run, error: BaseException, monitor: Monitor) -> NoReturn:
    """Record why a run ends early, and raise it."""
    session = run.session
    error = session.stop.meaning(error)
    was = "was stopped" if isinstance(error, Stopped) else "failed"
    if step := session.failed_step:
        took = session.seconds[step]
        error.add_note(f"Run {run.run_id} {was} in step {step}, {took:.2f} s")
    state = "stopped" if isinstance(error, Stopped) else "failed"
    message = error.message if isinstance(error, Stopped) else str(error)
    _close(run, state, message or type(error).__name__, failure=error)
    monitor.failed(error, session.ledger, session.failed_step, session.seconds)
    raise error


def _leave(run: Run) -> None:
    """Say in the ledger that this run was stopped where it is: its process is about to end."""
    stop = run.session.stop.error
    name, code = type(stop).__name__, stop.exit_code
    run.ledger.runs.close(run.run_id, "stopped", stop.message, code, name)


def expect_landing(session: Session) -> None:
    """Raise SettingsError if landing does not exist; an empty one is not a mistake."""
    if not session.landing.is_there():
        raise SettingsError(
            [f"the landing folder {session.landing} is not there"],
            "Create it, or correct `landing` in retailmart.yml",
        )


def _despite_faults(run: Run, intake: TakeIn) -> Iterator[BatchReport]:
    """Continue work that broke off from where the ledger says it is, as after a crash."""
    for pause in (*_PAUSES, None):
        try:
            with translate_errors():
                yield from batches_of(run, intake, finish)
            return
        except Unavailable as error:
            if pause is None:
                raise
            run.session.progress.message("retry", f"in {pause:.0f} s: {error.message}")
            run.deliveries.forget_landed()
            run.session.stop.wait(pause)


def batches_of(run: Run, intake: TakeIn, finish: Finish) -> Iterator[BatchReport]:
    """The batches of a run: one that is unfinished, then the one that `intake` stages."""
    session = run.session
    with session.step("recover"):
        unfinished = run.ledger.batches.unfinished()
    if unfinished is None or unfinished.state is BatchState.ACTIVE:
        _expect_definitions(run)
    if unfinished:
        try:
            yield finish(run, unfinished, recovered=True)
        except DeliveryReplaced as error:
            session.progress.message("recover", error.message)
            abandon_in(run, unfinished)
    for left in reversed(range(_TRIES)):
        batch = intake(run)
        if run.promise is not None:
            _expect_promised(run, run.promise, batch)
        if batch is None:
            return
        try:
            yield finish(run, batch, recovered=False)
            return
        except DeliveryReplaced as error:  # files that have landed since are taken in instead
            session.progress.message("copy", error.message)
            abandon_in(run, batch)
            run.deliveries.forget_landed()
            if not left:
                raise


def _expect_promised(run: Run, promise: Promise, batch: Batch | None) -> None:
    """Abandon a batch that is another one than was planned, and raise GateFailed."""
    try:
        promise.expect_staged(None if batch is None else run.ledger.files.of_batch(batch.batch_id))
    except GateFailed:
        if batch is not None:
            abandon_in(run, batch)
        raise


def take_in(run: Run) -> Batch | None:
    """Discover, copy, check and stage what has landed. None if there is nothing to do."""
    session = run.session
    with session.step("discover"):
        landed = discover(session.landing)
        ready = [one for one in landed.ready if (one.path, one.version) not in run.taken]
        run.waiting, run.unreachable = landed.waiting, landed.unreachable
        expect_one_feed(run.project, (entry.path for entry in ready))
        expect_raw_tables(run.ledger, session.lake, run.project.feeds)
    work = work_for(run, run.as_of, files=bool(ready))
    if work.seen:
        run.ledger.sources.saw(work.seen)
    if not work.is_needed:
        return None
    if ready:
        expect_good_rules(run)
    with session.step("copy"):
        found: list[tuple[StagedCopy, CheckedFile | Refusal]] = []
        if ready:
            found = run.deliveries.stage(session.engine(run.as_of), run.feeds(), ready)
    with session.step("check"):
        classified = classify(run.ledger, run.project.feeds, found)
        run.deliveries.keep_checked(classified)
    with session.step("stage"):
        session.stop.check()  # nothing is refused because its reading was interrupted
        files = [one.file for one in classified]
        return run.ledger.batches.stage(run.run_id, run.as_of, files)


def expect_good_rules(run: Run) -> None:
    """Raise SettingsError if the rules of feeds have mistakes; done before files are read."""
    expect_none(_binding(run).of_rules(thorough=False))


def _expect_definitions(run: Run) -> None:
    """Raise SettingsError if marts whose definition changed since their build have mistakes.

    Only these are checked: others were found good, and binding them each day takes time.
    """
    changed = changed_definitions(run.project, run.ledger.marts.all(), run.as_of)
    if changed:
        expect_none(_binding(run).of_marts(changed, thorough=False))


def _binding(run: Run) -> Binding:
    session = run.session
    return Binding(session.engine(run.as_of), run.project, session.sources, session.lake)


def _sweep_when_due(session: Session) -> ArchiveReport | None:
    """Remove orphaned files of runs that were stopped, outlived their batch and woke again.

    This is done after a run was killed, and once a day: no orphaned file gets older than that.
    """
    cut_off = session.ledger.maintenance.was_cut_off()
    if not cut_off and not session.ledger.runs.sweep_is_due():
        return None
    place = session.lake.place
    sweep_merges(session.lake)
    if cut_off:
        session.ledger.maintenance.mark_cut_off()
    sweep_others(session.lake, session.ledger.batches.decided_fences())
    place.forget(place.workspace / EXCHANGE)
    place.tidy()
    remove_left(session.private)
    archived = _expire_archive(session)
    session.ledger.runs.mark_swept()
    return archived


def _expire_archive(session: Session) -> ArchiveReport | None:
    """Remove from the archive what is older than the project wants to keep."""
    days = session.project.settings.keep.archive
    if days == "for ever":
        return None
    gone = expire_archive(
        session.ledger, session.archive, days, datetime.now(UTC), seconds=_EXPIRE_SECONDS
    )
    return ArchiveReport(gone.files, gone.bytes, gone.needed) if gone.files else None


def report_of(run: Run, batches: Sequence[BatchReport]) -> RunReport:
    """What the run did."""
    session = run.session
    return RunReport(
        run_id=run.run_id,
        as_of=run.as_of,
        batches=tuple(batches),
        waiting=run.waiting,
        unreachable=run.unreachable,
        unreadable=dict(run.tables.unreadable),
        left_tables=run.left_tables,
        undone_already=run.undone_already,
        idle=run.idle,
        left_out=run.left_out,
        seconds={name: round(took, 3) for name, took in session.seconds.items()},
        lake=str(session.lake.place),
        database=shown_url(session.ledger.database.url),
        expected=()
        if batches or run.undone_already or run.idle
        else expected_inputs(run.project, session.ledger),
    )


def _close(
    run: Run,
    state: str,
    message: str | None,
    report: RunReport | None = None,
    failure: BaseException | None = None,
) -> None:
    """Record the run's end; a run that lost its lease can't, and need not."""
    session = run.session
    failed = session.failed_step if state != "done" else None
    try:
        with translate_errors():
            seconds = list(session.seconds.items())
            session.ledger.runs.record_steps(run.run_id, None, seconds, failed)
            code = report.exit_code if report else getattr(failure, "exit_code", 1)
            error = type(failure).__name__ if failure else None
            session.ledger.runs.close(run.run_id, state, message, code, error)
    except RetailmartError as lost:
        # Whatever error a run met after it lost its lease: the lost lease is the reason.
        if state == "done" or isinstance(lost, LeaseLost):
            raise
