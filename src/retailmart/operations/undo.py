"""Undo a run in raw, marts, database and archive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import PurePosixPath

from retailmart.errors import RetailmartError
from retailmart.feeds.replay import repaired_in
from retailmart.feeds.undoing import expect_archived, plan_undo
from retailmart.ledger.values import Batch, LedgerFile
from retailmart.monitoring.events import Observer
from retailmart.operations.monitor import monitored
from retailmart.operations.run import run_with
from retailmart.operations.work import Run
from retailmart.project import Project
from retailmart.project.given import digests
from retailmart.report import Progress, RunReport, UndoneAlready


def undo(
    project: Project,
    run_id: int,
    as_of: datetime | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> RunReport:
    """Undo a run in raw, marts, database and archive: all is as if the run had never been.

    `as_of` is by default that of the newest run that stays. Raises RetailmartError, which says why
    it can't be done; then nothing has changed.
    """
    with monitored(project.monitoring(), "undo", observers, progress, project) as monitor:
        run_with(
            project,
            as_of,
            monitor,
            lambda run: take_back(run, run_id),
            lambda ledger: ledger.batches.moment_without(run_id),
        )
    return monitor.report_of_run()


def take_back(run: Run, undone: int) -> Batch | None:
    """Stage a batch with which a run's files leave, and the files that they replaced return."""
    session = run.session
    with session.step("discover"):
        plan = plan_undo(run.ledger, run.project.feeds, undone)
    if plan is None:
        run.undone_already = _undone_already(run, undone)
        return None
    _expect_unrepaired(run, undone, plan.reread)
    if plan.reread and not (plan.only_leaving or plan.only_returning):
        _expect_other_feeds(run, undone, {str(file.feed) for file in plan.reread})
    with session.step("copy"):
        engine, returning = session.engine(run.as_of), plan.returning
        keep = run.project.settings.keep.archive
        expect_archived(engine, run.ledger, session.archive, returning, session.scratch, keep)
    with session.step("stage"):
        return run.ledger.batches.stage(run.run_id, run.as_of, (), undoes=undone)


def _expect_unrepaired(run: Run, undone: int, reread: Iterable[LedgerFile]) -> None:
    """Raise RetailmartError if rows of a file that is read again came back in a sheet since."""
    feeds: dict[str, dict[int, LedgerFile]] = {}
    for file in reread:
        feed = str(file.feed)
        if feed not in feeds:
            engine = run.session.engine(run.as_of)
            feeds[feed] = repaired_in(engine, run.session.lake, run.ledger, feed)
        if (sheet := feeds[feed].get(file.file_id)) is not None:
            first = run.ledger.batches.get(sheet.batch_id).run_id
            raise RetailmartError(
                f"run {undone} can't be taken back: rows that {file.shown} had refused came back"
                f" repaired since, in {sheet.shown}",
                f"Run: retailmart undo {first}, then retailmart undo {undone}",
            )


def _expect_other_feeds(run: Run, undone: int, feeds: Collection[str]) -> None:
    """Raise RetailmartError if the feeds would read the files just as the undone run did.

    Then the undo would say that it is done, and change nothing.
    """
    then: dict[str, str | None] = {}
    for change in run.ledger.settings.changes():
        if change.run_id <= undone:
            then[change.name] = change.after
    now = {name: digest for name, digest in digests(run.project).items() if _feed_of(name) in feeds}
    if all(then.get(name) == digest for name, digest in now.items()):
        files = " and ".join(now)
        raise RetailmartError(
            f"the undo of run {undone} would read the files just as run {undone} did: {files}"
            f" {'is as it was' if len(now) == 1 else 'are as they were'} for it",
            f"Put {files} back as before run {undone}; then: retailmart undo {undone}",
        )


def _feed_of(name: str) -> str | None:
    path = PurePosixPath(name)
    return path.stem if path.parent.name == "feeds" else None


def _undone_already(run: Run, undone: int) -> UndoneAlready:
    by = run.ledger.batches.undone_by(undone)
    return UndoneAlready(undone, by, run.ledger.runs.began(by) if by is not None else None)
