"""What commands that run share: the log on stderr, what a run did, and why one can't begin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.cli.common import LogFormat, Output, print_json, talk
from retailmart.errors import NotAllDone, RetailmartError
from retailmart.report import Silent

if TYPE_CHECKING:
    from retailmart.api import OpenProject
    from retailmart.monitoring.events import Observer
    from retailmart.report import Progress, RunReport

# So many files are listed at a time.
_LISTED = 10


@dataclass(frozen=True)
class Runnable:
    """A project opened to run a command: the progress and the observers to hand to it."""

    opened: OpenProject
    progress: Progress
    observers: tuple[Observer, ...] = ()


@contextmanager
def opened_to_run(
    project: Path, settings: list[str] | None, command: str, log: LogFormat | None, quiet: bool
) -> Iterator[Runnable]:
    """Open a project for a command that runs; if that fails, its targets are notified."""
    from retailmart import api, console
    from retailmart.project.settings import read_pairs

    talk.as_json = log is LogFormat.JSON
    overrides = read_pairs(with_log(settings, log))
    try:
        opened = api.open_project(project, overrides)
    except RetailmartError as error:
        known = api.log_settings(project, overrides)
        talk.as_json = known.format == "json"
        stderr = [api.json_log(sys.stderr, known.level)] if talk.as_json else []
        talk.is_told = talk.as_json
        api.tell_unopened(project, overrides, command, error, stderr)
        raise
    if observers := log_on_stderr(opened, quiet):
        talk.is_told = True  # the log has what is said of errors, and of what a run did
        yield Runnable(opened, Silent(), observers)
        return
    with console.progress(quiet) as progress:
        yield Runnable(opened, progress)


def with_log(settings: list[str] | None, log: LogFormat | None) -> list[str]:
    """The `--set` flags, and what `--log-format` says."""
    return [*(settings or []), *([f"log.format={log}"] if log else [])]


def log_on_stderr(opened: OpenProject, quiet: bool) -> tuple[Observer, ...]:
    """The log on stderr, if the settings want it as JSON; then all talk is JSON, too."""
    from retailmart import api

    said = opened.project.settings.log
    talk.as_json = said.format == "json"
    level = "warning" if quiet and said.level in ("debug", "info") else said.level
    return (api.json_log(sys.stderr, level),) if talk.as_json else ()


def tell_run(report: RunReport, output: Output, quiet: bool) -> None:
    """Print what a run did; NotAllDone where it is done but for something."""
    from retailmart import console

    if not talk.as_json:  # else the log has it
        console.summary(report, quiet)
    if output is Output.JSON:
        print_json(report.to_dict())
    problems = [*_held(report), *_all_refused(report), *_all_files_refused(report)]
    problems += _left_out(report)
    if problems:
        message = "the run is done, but:\n  " + "\n  ".join(problems)
        hint = "Nothing is lost: the next run tries again what is held back"
        if report.left_out and not (report.held or report.unreadable):
            hint = "Nothing is lost: what is left out counts as before"
        elif report.took_none and not (report.held or report.unreadable):
            hint = "Nothing is lost: see retailmart quarantine list; deliver them again, corrected"
        raise NotAllDone(message, hint)


def _held(report: RunReport) -> Iterator[str]:
    if count := len(report.held):
        marts = f"{count} marts are" if count > 1 else "1 mart is"
        yield f"{marts} held back at the last good state"
    for one in sorted(report.held, key=lambda one: one.cause is not None):
        yield f"{one.mart}: {one.message}"
        if one.hint:
            yield f"  {one.hint}"
    for table, why in report.unreadable.items():
        yield f"table {table}: {why}"


def _all_files_refused(report: RunReport) -> Iterator[str]:
    """The files of a run in which not one was taken in: it has done nothing of what was there."""
    refused = report.not_taken if report.took_none else ()
    if refused:
        yield "nothing of the files that landed could be taken in"
    for line in refused[:_LISTED]:
        yield f"{line.path}: {line.problem}"
    if len(refused) > _LISTED:
        yield f"{len(refused) - _LISTED:,} more files: retailmart quarantine list"


def _all_refused(report: RunReport) -> Iterator[str]:
    for path in report.all_refused if not report.took_none else ():
        yield f"{path}: all of its rows are refused"
        yield f"  See: retailmart quarantine show {path}; then deliver it again, corrected"


def _left_out(report: RunReport) -> Iterator[str]:
    """The files that a backfill left out, and what to do about each."""
    found = [one for one in report.left_out if one.hint]
    for one in found[:_LISTED]:
        yield f"{one.path} is left out: {one.message}"
        yield f"  {one.hint}"
    if len(found) > _LISTED:
        yield f"{len(found) - _LISTED:,} more files are left out: see --output json"
