"""Run whenever something lands, tables may have changed or the project's files have.

One run at a time, in this process. What fails is tried again later and later. The project's files
are read again when they change; if they have mistakes, the last good ones stay in use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from retailmart.errors import ProjectBusy, RetailmartError, SettingsError, Stopped
from retailmart.monitoring.events import Observer as RunObserver
from retailmart.operations.monitor import monitored
from retailmart.operations.run import run
from retailmart.operations.watch.arrivals import Arrivals
from retailmart.operations.watch.health import Health, HealthServer, Signs, now
from retailmart.operations.watch.systemd import notify, watchdog_seconds
from retailmart.project import Project
from retailmart.project.settings import WatchSettings, seconds_of
from retailmart.report import Progress, RunReport, Silent, number_of
from retailmart.session import store_at
from retailmart.stopping import Stop, current_stop

# While nothing is to be done, the project's files and the clock are looked at this often.
_TICK = 0.5
# Seconds until a run that failed is tried again: twice as many each time. What arrives meanwhile,
# or a change of the project's files, does not wait for longer than the first of them.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0


class Observer(Protocol):
    """Learns what a watch does; a method that raises ends the watch."""

    def message(self, message: str) -> None:
        """What is watched, and what was read again."""

    def ran(self, report: RunReport) -> None:
        """A run has ended well; perhaps there was nothing to do."""

    def failed(self, error: RetailmartError, pause: float) -> None:
        """A run has failed; the next one begins after `pause` seconds, or when something lands."""

    def kept(self, error: SettingsError) -> None:
        """The project's files have mistakes: the last good ones stay in use."""


class Unobserved:
    """An Observer that ignores all."""

    def message(self, message: str) -> None: ...
    def ran(self, report: RunReport) -> None: ...
    def failed(self, error: RetailmartError, pause: float) -> None: ...
    def kept(self, error: SettingsError) -> None: ...


@dataclass(frozen=True)
class WatchReport:
    """What a watch did until it was asked to stop: its runs, and how many of them failed.

    `last_error` is why the last one failed, None if it did not. `exit_code` is that of the last
    run: 5 if it was done but for something.
    """

    runs: int
    failures: int
    last_error: RetailmartError | None = None
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        error = self.last_error.one_line if self.last_error else None
        plain = asdict(replace(self, last_error=None))
        return plain | {"last_error": error}


def watch(
    project: Project,
    observer: Observer | None = None,
    progress: Progress | None = None,
    observers: Sequence[RunObserver] = (),
    *,
    runs: int | None = None,
    reload: threading.Event | None = None,
) -> WatchReport:
    """Run whenever there may be something to do, until somebody asks to stop.

    With `runs`, until so many have ended. `reload`, once set, has the project's files read again at
    once. Raises Stopped if it is asked to stop within a run, RetailmartError if it can't listen.
    """
    observer, progress = observer or Unobserved(), progress or Silent()
    with ExitStack() as stack:
        reload = reload or threading.Event()
        watcher = _Watcher(project, observer, progress, runs, reload, stack, tuple(observers))
        try:
            watcher.work()
        except Stopped:
            if watcher.health.busy:
                raise
        finally:
            notify("STOPPING=1")
        done = watcher.health
        return WatchReport(done.runs, done.failures, watcher.last_error, watcher.exit_code)


@dataclass
class _Watcher:
    """A watch at work."""

    project: Project
    observer: Observer
    progress: Progress
    wanted: int | None
    reload: threading.Event
    stack: ExitStack
    observers: tuple[RunObserver, ...] = ()
    stop: Stop = field(default_factory=current_stop)
    last_error: RetailmartError | None = None
    exit_code: int = 0
    _before: Project | None = None
    _is_incomplete: bool = False
    _wake: threading.Event = field(default_factory=threading.Event)
    _resources: ExitStack = field(default_factory=ExitStack)
    _pause: float = 0.0
    _not_before: float = 0.0
    _next_run: float = 0.0
    _is_read_again: bool = False

    def __post_init__(self) -> None:
        self.health = Health(seconds_of(self._settings.stuck_after))
        self._refused: tuple[object, ...] | None = None
        self._unsettled: tuple[object, ...] | None = None

    @property
    def _settings(self) -> WatchSettings:
        return self.project.settings.watch

    def work(self) -> None:
        """Watch until the wanted runs have ended, or Stopped is raised."""
        self.stack.enter_context(self.stop.interrupting(self._wake.set))
        self.stack.callback(self._close)
        self._open()
        notify("READY=1", "STATUS=watching")
        self.stack.enter_context(self._telling_systemd())
        while self.wanted is None or self.health.runs < self.wanted:
            self.stop.check()
            self.health.show_sign()
            self._read_again()
            if (why := self._why_now()) is not None:
                self._run(why)
            else:
                self._wake.wait(_TICK)
                self._wake.clear()

    def _close(self) -> None:
        self._resources.close()

    def _open(self) -> None:
        """Watch the landing that the settings name, and listen where they say."""
        settings = self._settings
        self.health.stuck_after = seconds_of(settings.stuck_after)
        landing = store_at(self.project, self.project.settings.landing)
        self.arrivals = Arrivals(
            landing,
            seconds_of(settings.poll),
            seconds_of(settings.settle),
            seconds_of(settings.every),
            self._wake.set,
        )
        self._resources.callback(self.arrivals.close)
        if settings.address is not None:
            server = HealthServer(settings.address, self.health, self._metrics)
            self._resources.callback(server.close)
            host = settings.address[0]
            self.observer.message(f"health and metrics: http://{host}:{server.port}/healthz")
        every = f"a run at least every {settings.every}"
        self.observer.message(f"watching {landing}: {self.arrivals.how}; {every}")

    def _metrics(self) -> str:
        from retailmart.operations.metrics import render_metrics

        try:
            return self.health.metrics() + render_metrics(self.project)
        except (RetailmartError, OSError):  # the ledger is away: what the watch knows still counts
            return self.health.metrics()

    # the project's files

    def _read_again(self) -> None:
        """Take over the project's files if they have changed and are good."""
        asked = self.reload.is_set()
        stamp = self.project.stamp_now()
        if not asked:
            if stamp == self.project.stamp and self._refused is not None:  # the mistake is gone
                self._refused, self.health.mistakes = None, None
            if stamp in (self.project.stamp, self._refused):
                return
            if stamp != self._unsettled:  # an editor may write several files, one by one
                self._unsettled = stamp
                return
        self.reload.clear()
        before = self.project
        try:
            project = before.read_again()
        except SettingsError as error:
            self._refused = stamp
            self.health.mistakes = error.one_line
            self.observer.kept(error)
            with suppress(SettingsError), monitored(before.monitoring(), "watch", self.observers):
                raise error
            return
        self._refused, self.health.mistakes = None, None
        self.observer.message("the project's files were read again")
        self._work_with(project, before)

    def _take_back(self, before: Project, error: SettingsError) -> None:
        """Go on with the files before: a run has found mistakes in those of today."""
        self._refused, self.health.mistakes = self.project.stamp, error.one_line
        self.observer.kept(error)
        self._work_with(before, None)

    def _work_with(self, project: Project, before: Project | None) -> None:
        """Run with another reading of the project's files; `before` is the last good one."""
        changed = project.settings != self.project.settings
        self.project, self._before = project, before
        self._is_read_again = True
        if changed:
            self._resources.close()
            self._resources = ExitStack()
            try:
                self._open()
            except RetailmartError as error:  # it goes on without what it can't open
                self._fail(error)

    # when to run

    def _why_now(self) -> str | None:
        """Why a run is due now; None if none is."""
        moment = time.monotonic()
        if self._is_read_again:
            return "the project's files have changed"
        if self.last_error is not None and moment < self._not_before:
            return None
        if moment >= self._next_run:
            return "it is time"
        landed = self._landed()
        return f"{number_of(landed, 'file')} landed" if landed else None

    def _landed(self) -> int:
        try:
            return self.arrivals.landed()
        except (RetailmartError, OSError) as error:
            self._fail(_ours(error))
            return 0

    # a run

    def _run(self, why: str) -> None:
        self.health.doing, self.health.busy = f"running: {why}", True
        self.health.runs += 1
        notify(f"STATUS=running: {why}")
        self._is_read_again = False
        before = None
        try:
            before = self.arrivals.before_run()
            report = run(self.project, None, Signs(self.progress, self.health), self.observers)
        except Stopped:
            raise
        except (RetailmartError, OSError) as error:
            if self._before is not None and isinstance(error, SettingsError):
                self._take_back(self._before, error)
            else:
                self._fail(_ours(error))
        else:
            self._succeed(report)
        if before is not None:
            self.arrivals.after_run(before)
        self.health.busy = False
        self.health.show_sign()

    def _succeed(self, report: RunReport) -> None:
        self._pause, self.last_error = 0.0, None
        self.exit_code = report.exit_code
        self._before = None
        if report.exit_code:
            self.health.problem, self._is_incomplete = "; ".join(report.problems), True
        else:
            self.health.last_success = now()
            # A run that found nothing to do has brought nothing in order.
            self._is_incomplete = self._is_incomplete and report.nothing_to_do
            if not self._is_incomplete:
                self.health.problem = None
        self._next_run = time.monotonic() + seconds_of(self._settings.every)
        self._say("waiting")
        self.observer.ran(report)

    def _fail(self, error: RetailmartError) -> None:
        """Try again later: each time after twice as long."""
        if not isinstance(error, ProjectBusy):  # another run does the work
            self.health.failures += 1
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self.last_error, self.health.problem = error, error.one_line
        self.exit_code = error.exit_code
        moment = time.monotonic()
        self._not_before = moment + _FIRST_PAUSE
        self._next_run = moment + self._pause
        self._say(f"waiting after a failure: {error.message}")
        self.observer.failed(error, self._pause)

    def _say(self, doing: str) -> None:
        self.health.doing = doing
        notify(f"STATUS={doing}")

    @contextmanager
    def _telling_systemd(self) -> Iterator[None]:
        """Tell systemd's watchdog that all goes on, as long as it does."""
        seconds = watchdog_seconds()
        over = threading.Event()

        def tell() -> None:
            while not over.wait((seconds or 0) / 3):
                if self.health.is_alive:
                    notify("WATCHDOG=1")

        thread = threading.Thread(target=tell, name="watchdog", daemon=True)
        if seconds is not None:
            notify("WATCHDOG=1")
            thread.start()
        try:
            yield
        finally:
            over.set()


def _ours(error: RetailmartError | OSError) -> RetailmartError:
    """An error of the operating system, as on a full disk, as one of ours."""
    if isinstance(error, RetailmartError):
        return error
    return RetailmartError(str(error))
