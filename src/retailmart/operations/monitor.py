"""Tells of a run: its observers while it works, and the targets outside once it has ended.

Nothing of this can fail a run, or delay it by more than the setting `notify_within`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.monitoring.events import (
    Event,
    Failure,
    ObservedProgress,
    Observer,
    Observers,
    RunBegan,
    RunEnded,
    failure_of,
    state_of,
)
from retailmart.project import Monitoring, Project
from retailmart.project.monitoring import shown_target
from retailmart.report import Progress, RunReport, Silent
from retailmart.session import PRIVATE
from retailmart.stopping import current_stop

if TYPE_CHECKING:
    from retailmart.ledger import Ledger
    from retailmart.operations.alerts import Outbox

# The part of the bound that targets may use up; what they leave is for the file with metrics.
_FOR_TARGETS = 0.5


class Monitor:
    """What tells of one run. Use `monitored`."""

    def __init__(
        self,
        known: Monitoring,
        command: str,
        observers: Iterable[Observer] = (),
        progress: Progress | None = None,
        project: Project | None = None,
    ) -> None:
        self._known = known
        self._project = project
        self._command = command
        self._began = datetime.now(UTC)
        self._seconds_left = known.settings.notify_within
        self._run_id: int | None = None
        self._end: RunEnded | None = None
        self.report: RunReport | None = None
        self._until_closed = ExitStack()
        self._observers = Observers([*observers, *_logs(known)])
        try:
            self._observers.add(_lineage(known, project))
        except Exception as error:
            self._not_told("OpenLineage", error)
        self.progress = ObservedProgress(progress or Silent(), self.see)

    def see(self, event: Event) -> None:
        """Tell the observers of an event."""
        self._observers.see(event)

    def began(self, run_id: int, as_of: datetime, cut_off: Sequence[int] = ()) -> None:
        """The run has the lease, and a number."""
        self._run_id = run_id
        self.see(RunBegan(self._command, run_id, as_of, tuple(cut_off)))

    def ended(self, report: RunReport, ledger: Ledger, steps: Mapping[str, float]) -> None:
        """The run is done; `ledger` has its lease."""
        self._until_closed.enter_context(current_stop().coming_late())
        self.report = report
        self._tell_end(None, report, ledger, steps)
        messages = tuple(problem.message for problem in self._observers.problems)
        self.report = replace(report, not_told=messages)

    def failed(
        self,
        error: BaseException,
        ledger: Ledger | None = None,
        step: str | None = None,
        steps: Mapping[str, float] | None = None,
    ) -> None:
        """The run failed; `ledger` has its lease, if there was one. Only the first error counts."""
        if self._end is None:
            self._tell_end(failure_of(error, step or self.progress.step), None, ledger, steps or {})
            for problem in self._observers.problems:
                error.add_note(problem.message)

    def report_of_run(self) -> RunReport:
        """What the run did, with the targets that could not be told."""
        assert self.report is not None  # noqa: S101, a run without a report raises
        return self.report

    def close(self) -> None:
        """Write the metrics, now that nobody holds the project, and end the observers."""
        if (
            self._end is not None
            and self._end.state != "busy"
            and self._known.settings.metrics.file
        ):
            told = len(self._observers.problems)
            self._tell({"the metrics file": self._write_metrics}, self._seconds_left)
            if self.report is not None and self._observers.problems[told:]:
                more = (problem.message for problem in self._observers.problems[told:])
                self.report = replace(self.report, not_told=(*self.report.not_told, *more))
        self._observers.close()
        self._until_closed.close()

    def _tell_end(
        self,
        failure: Failure | None,
        report: RunReport | None,
        ledger: Ledger | None,
        steps: Mapping[str, float],
    ) -> None:
        code = failure.exit_code if failure else report.exit_code if report else 0
        state = state_of(failure, report)
        end = RunEnded(
            self._command, self._run_id, state, code, self._began, dict(steps), failure, report
        )
        self._end = end
        self.see(end)
        if state == "busy":  # the run that holds the project reports
            return
        outbox = self._alerts(end, ledger)
        jobs = self._jobs(end) | (outbox.jobs() if outbox else {})
        failed = self._tell(jobs, self._seconds_left * _FOR_TARGETS)
        if outbox:
            try:
                outbox.record(failed)
            except Exception as error:
                self._not_told("alerts", error)
        with suppress(OSError):  # a full disk, say: the log and the exit code still tell
            self._remember(end)

    def _tell(self, jobs: Mapping[str, Callable[[], None]], seconds: float) -> Mapping[str, str]:
        """Do all jobs; returns the reasons of those that failed."""
        if not jobs:
            return {}
        from retailmart.monitoring.targets import tell_all

        began = time.monotonic()
        failed = tell_all(jobs, seconds)
        self._seconds_left -= time.monotonic() - began
        for target, reason in failed.items():
            self._observers.not_told(target, reason)
        return failed

    def _not_told(self, target: str, error: Exception) -> None:
        from retailmart.monitoring.targets import reason_of

        self._observers.not_told(target, reason_of(error))

    def _jobs(self, end: RunEnded) -> dict[str, Callable[[], None]]:
        jobs: dict[str, Callable[[], None]] = {}
        if (url := self._known.settings.ping.url) is not None and end.state != "stopped":
            jobs[f"the ping ({shown_target(url)})"] = lambda: self._ping(url, end)
        return jobs | self._observers.unfinished()

    def _ping(self, target: str, end: RunEnded) -> None:
        from retailmart.monitoring.log import entry_of
        from retailmart.monitoring.targets import post

        url = self._known.url(target)
        if end.state != "success":
            address, mark, query = url.partition("?")
            url = f"{address.rstrip('/')}/fail{mark}{query}"
        post(url, entry_of(end, end.run_id, None).to_text(), self._known.settings.notify_within)

    def _alerts(self, end: RunEnded, ledger: Ledger | None) -> Outbox | None:
        """What each target is to be told, recorded already."""
        if not self._known.settings.alerts.targets:
            return None
        from retailmart.operations.alerts import collect

        try:
            return collect(self._known, self._project, end, ledger)
        except Exception as error:
            self._not_told("alerts", error)
            return None

    def _remember(self, end: RunEnded) -> None:
        """Keep how the run ended beside the ledger, if anybody will ask for it."""
        settings = self._known.settings
        is_lost = end.run_id is None and end.failure is not None
        if settings.metrics.file or settings.alerts.targets or is_lost:
            from retailmart.monitoring.attempts import LastAttempt, read_attempts, write_attempts

            private = self._known.folder / PRIVATE
            names = [problem.target for problem in self._observers.problems]
            write_attempts(private, read_attempts(private).after(LastAttempt.of(end, names)))

    def _write_metrics(self) -> None:
        if (file := self._known.settings.metrics.file) is None:
            return
        from retailmart.monitoring.attempts import replace_file
        from retailmart.operations.metrics import render_metrics, render_unread

        path = self._known.folder / file
        old = ""
        with suppress(OSError, ValueError):
            old = path.read_text(encoding="utf-8")
        if self._end is not None and self._end.failure is not None:
            # At once: the ledger may be what is away, and not answer in time.
            replace_file(path, render_unread(self._known.folder / PRIVATE, old))
        if self._project is not None:
            replace_file(path, render_metrics(self._project, old=old))


@contextmanager
def monitored(
    known: Monitoring,
    command: str,
    observers: Iterable[Observer] = (),
    progress: Progress | None = None,
    project: Project | None = None,
) -> Iterator[Monitor]:
    """Tell of a run, whatever becomes of it."""
    monitor = Monitor(known, command, observers, progress, project)
    try:
        yield monitor
    except BaseException as error:
        monitor.failed(error)
        raise
    finally:
        monitor.close()


def tell_unopened(
    folder: Path,
    overrides: Mapping[str, object] | None,
    command: str,
    error: BaseException,
    observers: Iterable[Observer] = (),
) -> None:
    """Tell of a run that could not begin, because the project's files have mistakes."""
    from retailmart.project import load_monitoring

    known = load_monitoring(folder, overrides)
    if known is None:
        for observer in observers:
            with suppress(Exception):
                observer.see(_unbegun(command, error))
                observer.close()
        return
    with suppress(type(error)), monitored(known, command, observers):
        raise error


def _unbegun(command: str, error: BaseException) -> RunEnded:
    failure = failure_of(error)
    now = datetime.now(UTC)
    return RunEnded(command, None, state_of(failure, None), failure.exit_code, now, {}, failure)


def _logs(known: Monitoring) -> Iterator[Observer]:
    """The log that the settings ask for."""
    log = known.settings.log
    if log.file is not None:
        from retailmart.monitoring.log import log_to_file

        yield log_to_file(
            known.folder / log.file,
            as_json=log.format == "json",
            level=log.level,
            max_bytes=log.max_bytes,
            keep=log.keep,
        )


def _lineage(known: Monitoring, project: Project | None) -> Iterator[Observer]:
    """The observers for OpenLineage that the settings ask for."""
    lineage = known.settings.lineage
    if lineage.file is not None or lineage.url is not None:
        from retailmart.operations.lineage import lineage_observers

        yield from lineage_observers(known, project)
