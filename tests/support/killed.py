"""Commands that are killed: children of one warm process, each ended at a moment of its own work.

What commands import is paid for once: a process forks a child for each order. The child's clock is
the processor time that it has used, so that a busy machine does not move the moment. When it is up,
the system ends the child at once (a timer's signal that nothing handles), as SIGKILL would: no
`finally` runs, no file is closed, the database sees a connection that is gone.

The fault campaign kills at each single outside effect (chaos/kills.py). Here kills are one of the
many things that happen to a shop.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from tests.support.forking import ForkingProcess, end_as_main_does, serve


class Killer(ForkingProcess):
    """Forks the children that are killed; close it at the end."""

    def __init__(self) -> None:
        super().__init__("tests.support.killed")

    def runs(self, words: Sequence[str], seconds: float) -> bool:
        """Run `retailmart WORDS` for so many seconds of processor time; whether that killed it."""
        return bool(self.ask([words, seconds]))


def _answer(order: tuple[Sequence[str], float]) -> bool:
    words, seconds = order
    child = os.fork()
    if child == 0:
        _work(words, seconds)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _work(words: Sequence[str], seconds: float) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(silent, output)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    end_as_main_does(words)


if __name__ == "__main__":
    serve(_answer)
