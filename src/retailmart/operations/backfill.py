"""Read archived files of a feed again, as the feed is now, in one batch.

Files keep their keys in the ledger: a backfill changes how files are read, and not which files
there are. So the order in which they count, what is a duplicate, what was dismissed and what an
undo of their runs means stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from retailmart.errors import RetailmartError, SettingsError
from retailmart.feeds.lost import expect_raw_tables
from retailmart.feeds.replay import repaired_in
from retailmart.files.archive import archive_path, archived_copies, kept_for
from retailmart.files.checked import CheckedFile, Refusal
from retailmart.ledger.values import Again, Batch, LedgerFile
from retailmart.monitoring.events import Observer
from retailmart.operations.monitor import monitored
from retailmart.operations.run import TakeIn, expect_good_rules, run_with
from retailmart.operations.work import Run
from retailmart.project import Feed, Project
from retailmart.project.documents import did_you_mean
from retailmart.report import LeftOut, Progress, RunReport, number_of

# So many files are listed one by one.
_LISTED = 20


def backfill(
    project: Project,
    feed: str,
    start: date | None = None,
    end: date | None = None,
    as_of: datetime | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
    *,
    skip_missing: bool = False,
) -> RunReport:
    """Read the counted files of a feed again from the archive, as the feed is now.

    `start` and `end` (both inclusive) are days in UTC on which files came, as in the names of the
    archive's folders; without them, all files are read. Files whose refused rows came back repaired
    are left out, and so are the sheets that brought them; with `skip_missing`, also those that the
    archive no longer has. Raises SettingsError for an unknown feed, RetailmartError for files that
    the archive lacks or the feed refuses; then nothing has changed.
    """
    intake = reading_again(project, feed, start, end, skip_missing=skip_missing)
    with monitored(project.monitoring(), "backfill", observers, progress, project) as monitor:
        run_with(project, as_of, monitor, intake)
    return monitor.report_of_run()


def reading_again(
    project: Project,
    feed: str,
    start: date | None = None,
    end: date | None = None,
    *,
    skip_missing: bool = False,
) -> TakeIn:
    """What stages such a batch. SettingsError if there is no such feed, or the days are none."""
    if feed not in project.feeds:
        raise SettingsError([f"there is no feed {feed!r}{did_you_mean(feed, project.feeds)}"])
    for day in (start, end):
        if day is not None and (not isinstance(day, date) or isinstance(day, datetime)):
            raise SettingsError([f"{day!r} is no day"], "Write it as in date(2024, 3, 1)")
    if start is not None and end is not None and start > end:
        raise SettingsError([f"the first day, {start}, is after the last, {end}"])
    return lambda run: _stage(run, feed, start, end, skip_missing)


def _stage(
    run: Run, name: str, start: date | None, end: date | None, skip_missing: bool
) -> Batch | None:
    """Stage the batch, if there is anything to read again. Nothing has changed before that."""
    session = run.session
    with session.step("discover"):
        expect_raw_tables(run.ledger, session.lake, run.project.feeds)
        chosen = run.ledger.files.counted_of(name, start, end)
    if not chosen:
        run.idle = f"no file of feed {name} counts{_that_came(start, end)}"
        return None
    expect_good_rules(run)
    with session.step("copy") as progress:
        progress(f"{name}, {number_of(len(chosen), 'archived file')}")
        read, run.left_out = _examined(run, run.feeds()[name], chosen, skip_missing)
    if not read:
        run.idle = "every file is left out"
        return None
    with session.step("stage"):
        session.stop.check()  # nothing is left out because its reading was interrupted
        run.deliveries.keep_read_again(read)
        again = Again(tuple(file.file_id for file in read))
        return run.ledger.batches.stage(run.run_id, run.as_of, (), again=again)


def _that_came(start: date | None, end: date | None) -> str:
    if start and end:
        return f" that came from {start} to {end}"
    if start:
        return f" that came on {start} or later"
    return f" that came on {end} or earlier" if end else ""


def _examined(
    run: Run, feed: Feed, chosen: Sequence[LedgerFile], skip_missing: bool
) -> tuple[dict[LedgerFile, CheckedFile], tuple[LeftOut, ...]]:
    """How each file is read, and the files that are left out.

    Raises RetailmartError, which names every file that the archive lacks or the feed refuses.
    """
    engine = run.session.engine(run.as_of)
    repaired = repaired_in(engine, run.session.lake, run.ledger, feed.name)
    read: dict[LedgerFile, CheckedFile] = {}
    left_out: list[LeftOut] = []
    missing: list[LeftOut] = []
    refused: list[str] = []
    for file in chosen:
        run.session.stop.check()
        if (sheet := repaired.get(file.file_id)) is not None:
            message = f"rows that it had refused came back repaired, in {sheet.shown}"
            left_out.append(LeftOut(file.path, message, _without(run, sheet)))
            continue
        checked = run.deliveries.check_archived(file, feed, engine)
        if checked is None:
            missing.append(LeftOut(file.path, _why_missing(run, file)))
        elif isinstance(checked, Refusal):
            refused.append(f"{file.shown} {checked.message}")
        elif not feed.matches(file.path):
            refused.append(f"{file.shown} is not named as `files` in feeds/{feed.name}.yml says")
        elif checked.layout.is_replay:
            message = "brings rows back that were refused, as somebody repaired them"
            left_out.append(LeftOut(file.path, message, _without(run, file)))
        else:
            read[file] = checked
    if refused:
        raise RetailmartError(
            f"feeds/{feed.name}.yml can't read {_listed(refused)}",
            f"Nothing was changed. Correct feeds/{feed.name}.yml, or name other days",
        )
    if missing and not skip_missing:
        told = [f"{one.path}: {one.message}" for one in missing]
        raise RetailmartError(
            f"{number_of(len(missing), 'file')} can't be read again: {_listed(told)}",
            "Nothing was changed. Put them back as they were, name other days, or leave them as"
            " they are with --skip-missing",
        )
    return read, (*left_out, *missing)


def _listed(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return lines[0]
    more = [f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
    return "".join(f"\n  {line}" for line in (*lines[:_LISTED], *more))


def _without(run: Run, sheet: LedgerFile) -> str:
    """How to have a file read again that is left out because of a sheet of repaired rows."""
    undone = run.ledger.batches.get(sheet.batch_id).run_id
    return f"To read it again, first: retailmart undo {undone}; rows still refused open again"


def _why_missing(run: Run, file: LedgerFile) -> str:
    archived = run.session.archive
    place = archive_path(run.ledger.batches.get(file.batch_id), file)
    if next(archived_copies(run.ledger, archived, file.sha256), None) is not None:
        return f"{place} in {archived} is not what was delivered"
    return f"{place} is no longer in {archived}{kept_for(run.project.settings.keep.archive)}"
