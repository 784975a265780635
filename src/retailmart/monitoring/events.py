"""What happens in a run, as frozen values, and who is told of it.

A run tells its observers what it does, and asks none of them which one it is. No observer can fail
or change a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol, runtime_checkable

from retailmart.errors import Interrupted, ProjectBusy, RetailmartError, Stopped
from retailmart.report import Progress, RunReport

# success: all of what was there is in the marts. incomplete: done, but something is held back or
# refused as a whole (exit code 5). busy: another run holds the project, and this one did nothing.
# stopped: somebody asked it to stop, at a safe point.
State = Literal["success", "incomplete", "failed", "busy", "stopped"]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class RunBegan:
    """A run has the lease, and a number. `cut_off` are the runs that were killed before it."""

    command: str
    run_id: int
    as_of: datetime
    cut_off: tuple[int, ...] = ()
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class BatchBegan:
    """The run works on a batch from now on; `recovered` if an earlier run staged it."""

    batch_id: int
    recovered: bool
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class StepBegan:
    """A step began."""

    step: str
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class StepMessage:
    """A step has a message for people."""

    step: str
    message: str
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class StepEnded:
    """A step ended well. One that fails does not end: the run's end names it."""

    step: str
    seconds: float
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class Failure:
    """Why a run failed. `kind` is the error's name, `step` the step in which it arose."""

    kind: str
    message: str
    hint: str | None = None
    step: str | None = None
    exit_code: int = 1


@dataclass(frozen=True)
class RunEnded:
    """How a run ended. `run_id` is None if it failed before it had one.

    `steps` are the seconds by step. Exactly one of `failure` and `report` is given.
    """

    command: str
    run_id: int | None
    state: State
    exit_code: int
    began: datetime
    steps: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    report: RunReport | None = None
    at: datetime = field(default_factory=_now)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.at - self.began).total_seconds()


@dataclass(frozen=True)
class NotTold:
    """A target was not told of the run, and why. The run itself is as it is."""

    target: str
    reason: str
    at: datetime = field(default_factory=_now)

    @property
    def message(self) -> str:
        """A message that says so."""
        return f"could not tell {self.target} of this run: {self.reason}"


Event = RunBegan | BatchBegan | StepBegan | StepMessage | StepEnded | RunEnded | NotTold


class Observer(Protocol):
    """Is told what happens in a run."""

    def see(self, event: Event) -> None:
        """Take notice of an event. What it raises is told, and does not reach the run."""

    def close(self) -> None:
        """End; nothing comes any more."""


def failure_of(error: BaseException, step: str | None = None) -> Failure:
    """An error as a value; its message is one that people may see."""
    kind = type(error).__name__
    if isinstance(error, RetailmartError):
        return Failure(kind, error.message, error.hint, step, error.exit_code)
    if isinstance(error, OSError):
        return Failure(kind, str(error) or kind, "Run again to go on: retailmart run", step)
    if isinstance(error, KeyboardInterrupt):
        hint = "Run again to go on: retailmart run"
        return Failure(kind, "interrupted", hint, step, Interrupted.exit_code)
    return Failure(kind, str(error) or kind, None, step)


def state_of(failure: Failure | None, report: RunReport | None) -> State:
    """How a run went, by its error or its report."""
    if failure is not None:
        named: dict[str, State] = {
            ProjectBusy.__name__: "busy",
            Stopped.__name__: "stopped",
            Interrupted.__name__: "stopped",
            KeyboardInterrupt.__name__: "stopped",
        }
        return named.get(failure.kind, "failed")
    return "incomplete" if report and report.exit_code else "success"


@runtime_checkable
class Unfinished(Protocol):
    """An observer that still has something to send when the run has ended."""

    name: str

    def finish(self) -> None:
        """Send it, and return when it is sent; called in a thread, which is given up in time."""


class ObservedProgress:
    """Hands a run's progress on, and tells observers of it, too. `step` has begun, not ended."""

    def __init__(self, progress: Progress, tell: Callable[[Event], None]) -> None:
        self._progress = progress
        self._tell = tell
        self.step: str | None = None

    def began(self, step: str) -> None:
        self.step = step
        self._tell(StepBegan(step))
        self._progress.began(step)

    def message(self, step: str, message: str) -> None:
        self._tell(StepMessage(step, message))
        self._progress.message(step, message)

    def ended(self, step: str, seconds: float) -> None:
        self.step = None
        self._tell(StepEnded(step, seconds))
        self._progress.ended(step, seconds)


class Observers:
    """Several observers as one. What one of them raises is told to the others."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers: Sequence[Observer] = tuple(observers)
        self.problems: list[NotTold] = []

    def add(self, observers: Iterable[Observer]) -> None:
        """Tell more observers of what comes."""
        self._observers = (*self._observers, *observers)

    def see(self, event: Event) -> None:
        """Tell all of them of an event."""
        for observer in self._observers:
            try:
                observer.see(event)
            except Exception as error:
                self._fails(observer, error)

    def not_told(self, target: str, reason: str) -> None:
        """Tell all of them that a target was not told, once for each target."""
        if any(one.target == target for one in self.problems):
            return
        problem = NotTold(target, reason)
        self.problems.append(problem)
        self.see(problem)

    def unfinished(self) -> dict[str, Callable[[], None]]:
        """What observers still have to send, by the name of each."""
        waiting = [one for one in self._observers if isinstance(one, Unfinished)]
        return {one.name: one.finish for one in waiting}

    def close(self) -> None:
        """End all of them."""
        for observer in self._observers:
            try:
                observer.close()
            except Exception as error:
                self._fails(observer, error)

    def _fails(self, observer: Observer, error: Exception) -> None:
        name = str(getattr(observer, "name", type(observer).__name__))
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or (str(error) if isinstance(error, RetailmartError) else None)
        self.not_told(name, reason or type(error).__name__)
