"""Commands that are asked to stop: children of one warm process, each signalled in a step.

As in `killed`, what commands import is paid for once. The child's own thread sends it the signal,
so that it comes in whatever the step is doing then, a long call of a library included.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from signal import SIGTERM
from tempfile import TemporaryFile
from typing import Any

from tests.support.forking import ForkingProcess, end_as_main_does, serve

# What a run does, in order; `maintain` comes when it is done.
STEPS = (
    *("lease", "recover", "discover", "copy", "check", "stage", "load", "build", "reconcile"),
    *("persist", "commit", "publish", "export", "archive"),
)


@dataclass(frozen=True)
class Signal:
    """A signal that comes `delay` seconds after a step began; `again`: the second comes so late.

    `counts` is what was begun of the step before: 1 lets its first time pass.
    """

    step: str
    delay: float = 0
    number: int = SIGTERM
    again: float | None = None
    counts: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended: `seconds` after its signal came, None if none did."""

    code: int
    output: str
    seconds: float | None


class Stopper(ForkingProcess):
    """Forks the children that get signals; close it at the end."""

    def __init__(self) -> None:
        super().__init__("tests.support.stopped")

    def runs(self, words: Sequence[str], signal: Signal | None = None) -> Ended:
        """Run `retailmart WORDS`, and send it the signal."""
        return Ended(*self.ask([list(words), asdict(signal) if signal else None]))


def _answer(order: tuple[Sequence[str], dict[str, Any] | None]) -> tuple[int, str, float | None]:
    words, asked = order
    with TemporaryFile() as output:
        sent, tells = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(sent)
            _work(words, Signal(**asked) if asked else None, output.fileno(), tells)
        os.close(tells)
        _, status = os.waitpid(child, 0)
        ended = time.monotonic()
        moment = os.read(sent, 100)
        os.close(sent)
        output.seek(0)
        took = ended - float(moment) if moment else None
        text = output.read().decode("utf-8", "replace")
    return os.waitstatus_to_exitcode(status), text, took


def _work(words: Sequence[str], signal: Signal | None, output: int, tells: int) -> None:
    for stream in (1, 2):
        os.dup2(output, stream)
    if signal is not None:
        _send_in_step(signal, tells)
    end_as_main_does(words)


def _send_in_step(signal: Signal, tells: int) -> None:
    from retailmart.session import Session

    step: Callable[..., Any] = Session.step
    begun = [0]

    def send() -> None:
        time.sleep(signal.delay)
        os.write(tells, f"{time.monotonic()}".encode())
        os.kill(os.getpid(), signal.number)
        if signal.again is not None:
            time.sleep(signal.again)
            os.kill(os.getpid(), signal.number)

    @contextmanager
    def watched(self: Session, name: str) -> Any:
        with step(self, name) as progress:
            if name == signal.step:
                begun[0] += 1
                if begun[0] == signal.counts + 1:
                    threading.Thread(target=send, daemon=True).start()
                    for _ in range(20_000 if not signal.delay else 0):
                        if self.stop.requested:  # it came at the step's beginning
                            break
                        time.sleep(0.001)
            yield progress

    setattr(Session, "step", watched)  # noqa: B010 - for this process alone


if __name__ == "__main__":
    serve(_answer)
