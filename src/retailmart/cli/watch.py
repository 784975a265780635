"""`retailmart watch`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    LogOption,
    ProjectOption,
    QuietOption,
    SetOption,
    open_at,
    say,
    talk,
)
from retailmart.cli.runs import log_on_stderr, with_log
from retailmart.errors import RetailmartError, SettingsError
from retailmart.stopping import stop_on_signals

if TYPE_CHECKING:
    from retailmart.report import RunReport


def watch(
    project: ProjectOption = Path(),
    runs: Annotated[
        int | None,
        typer.Option("--runs", min=1, metavar="N", help="End after so many runs; default: never."),
    ] = None,
    log: LogOption = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run whenever something lands or may have changed, until SIGTERM or SIGINT comes.

    SIGHUP reads the project's files again at once. Asked to stop while it waits, it ends with 0;
    with --runs, with the exit code of the last run.
    """
    from retailmart import console

    with stop_on_signals(), _reloading() as reload:
        opened = open_at(project, with_log(settings, log))
        observers = log_on_stderr(opened, quiet)
        report = opened.watch(
            _Shown(quiet), console.QuietProgress(), observers, runs=runs, reload=reload
        )
    if runs is not None and report.exit_code:
        raise typer.Exit(report.exit_code)


@contextmanager
def _reloading() -> Iterator[threading.Event]:
    """An event that SIGHUP sets meanwhile."""
    reload = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield reload
        return
    before = signal.signal(signal.SIGHUP, lambda *_: reload.set())
    try:
        yield reload
    finally:
        signal.signal(signal.SIGHUP, before)


class _Shown:
    """Tells people what a watch does: a line for a run that did something."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def message(self, message: str) -> None:
        say(message, unless=self._quiet)

    def ran(self, report: RunReport) -> None:
        from retailmart import console

        say(console.run_line(report), unless=self._quiet or report.nothing_to_do)
        if not talk.as_json:
            console.summary(report, quiet=True)

    def failed(self, error: RetailmartError, pause: float) -> None:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        say(f"retailmart: {error}{notes}\n  Trying again in {pause:.0f} s")

    def kept(self, error: SettingsError) -> None:
        say(f"retailmart: {error}\n  The project's files as they were last good stay in use")
