"""Stopping on request: work ends at its next safe point, or its process is ended.

Every moment of a run is safe for the data: the next run goes on from there. A safe point is one at
which the run also says so, closes its record and gives the lease back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from retailmart.errors import Interrupted, LeaseLost, NewerLedger, Stopped

# Seconds after the request: connections to databases are broken off; the process is ended; and
# the longest that it then takes to say so in the ledger. Together less than the ten seconds that
# container engines wait before they kill.
BREAKS_OFF = 3.0
ENDS = 5.0
SAYS_SO = 2.0
SECONDS = ENDS + SAYS_SO
# What computes is interrupted this often: an interrupt that comes between two queries is lost.
_EVERY = 0.1
# Errors that no interruption causes. A mart or a file that seems to be at fault may be: its query
# was interrupted.
_MEANT = (LeaseLost, NewerLedger)
_SHOW_CURSOR = b"\x1b[?25h"

Action = Callable[[], None]
_current: ContextVar[Stop | None] = ContextVar("stop", default=None)


class Stop:
    """A way to stop the work that runs in its `with`, from another thread or by a signal.

    With `ends_process`, the process is ended if the work has not ended by itself in `ENDS` seconds.
    """

    def __init__(self, *, ends_process: bool = False) -> None:
        self._requested = threading.Event()
        self._over = threading.Event()
        self._ends_process = ends_process
        self._is_late = False
        self._error: Stopped | None = None
        self._lock = threading.Lock()
        self._interrupts: list[Action] = []
        self._breaks: list[Action] = []
        self._farewells: list[Action] = []

    @property
    def requested(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._requested.is_set()

    def request(self, reason: str = "it was asked to stop", *, interrupted: bool = False) -> None:
        """Ask the work to stop; returns at once. `interrupted` tells a person at the keyboard."""
        with self._lock:
            if self._error is not None:
                return
            kind = Interrupted if interrupted else Stopped
            self._error = kind(
                f"stopped: {reason}", "Nothing is lost; run again to go on: retailmart run"
            )
        self._requested.set()
        try:
            threading.Thread(target=self._press, name="stop", daemon=True).start()
        except RuntimeError:  # the system gives no more threads: then the one that heard of it
            self._press()

    @property
    def error(self) -> Stopped:
        """What `check` raises."""
        if self._error is None:
            raise LookupError("nobody has asked to stop")
        # A new one each time: notes are added to it, and the step may be another.
        return type(self._error)(self._error.message, self._error.hint)

    def meaning(self, error: BaseException) -> BaseException:
        """The error that people are told of where `error` ended the work.

        What a stop interrupts fails with errors of its own: it was stopped. What is wrong apart
        from that, the next run finds again.
        """
        was_meant = isinstance(error, (Stopped, *_MEANT)) or not isinstance(error, Exception)
        if was_meant or not self.requested:
            return error
        stopped = self.error
        stopped.__cause__ = error
        for note in getattr(error, "__notes__", ()):
            stopped.add_note(note)
        return stopped

    def check(self) -> None:
        """A safe point: raise Stopped if somebody has asked to stop."""
        if self.requested:
            raise self.error

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until somebody asks to stop; then raise Stopped."""
        self._requested.wait(seconds)
        self.check()

    @contextmanager
    def coming_late(self) -> Iterator[None]:
        """Meanwhile the work is done and only reports it: a stop breaks nothing off.

        How long that takes is bounded elsewhere. Else work that is done would be called stopped.
        """
        self._is_late = True
        try:
            yield
        finally:
            self._is_late = False

    @contextmanager
    def interrupting(self, interrupt: Action) -> Iterator[None]:
        """Meanwhile, `interrupt` is called again and again once a stop was requested."""
        with self._kept(self._interrupts, interrupt):
            yield

    @contextmanager
    def breaking_off(self, break_off: Action) -> Iterator[None]:
        """Meanwhile, `break_off` is called if the work has not ended after `BREAKS_OFF` seconds."""
        with self._kept(self._breaks, break_off):
            yield

    @contextmanager
    def ending(self, farewell: Action) -> Iterator[None]:
        """Meanwhile, `farewell` is called before the process is ended in the middle of the work."""
        with self._kept(self._farewells, farewell):
            yield

    @contextmanager
    def _kept(self, actions: list[Action], action: Action) -> Iterator[None]:
        with self._lock:
            actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                actions.remove(action)

    def __enter__(self) -> Stop:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        self._over.set()

    def _press(self) -> None:
        """Interrupt what computes, break off what waits, and end what still does not end."""
        began = time.monotonic()
        broken_off = False
        while not self._over.wait(_EVERY):
            if self._is_late:
                continue
            passed = time.monotonic() - began
            self._all(self._interrupts)
            if passed >= BREAKS_OFF and not broken_off:
                broken_off = True
                self._all(self._breaks)
            if passed >= ENDS and self._ends_process:
                self._all(self._breaks)  # what was opened since holds locks, too
                self._end()

    def _all(self, actions: list[Action]) -> None:
        with self._lock:
            known = actions[::-1]  # what was begun last ends first
        for action in known:
            with suppress(Exception):  # it may have ended meanwhile; nothing depends on it
                action()

    def _end(self) -> None:
        """End the process: every moment is safe for the data."""
        last = threading.Thread(target=lambda: self._all(self._farewells), daemon=True)
        with suppress(RuntimeError):  # without a thread for it, nothing is said
            last.start()
            last.join(SAYS_SO)
        _exit(self.error)


def current_stop() -> Stop:
    """The stop in whose `with` this thread works; one that nobody requests, if there is none."""
    return _current.get() or Stop()


def check_stop() -> None:
    """A safe point: raise Stopped if somebody has asked this work to stop."""
    found = _current.get()
    if found is not None:
        found.check()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Meanwhile, SIGTERM and SIGINT stop the work inside at a safe point, in bounded time.

    The work raises Stopped within `SECONDS`, or the process ends with the same exit code. A second
    signal ends it at once. What ignores a signal goes on ignoring it (`nohup`, a job in the
    background). Signals reach the main thread only: elsewhere nothing but `Stop.request` stops.
    """
    stop = Stop(ends_process=threading.current_thread() is threading.main_thread())
    if threading.current_thread() is not threading.main_thread():
        with stop:
            yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # A handler in Python runs between two of its instructions, so not in a long call of a library:
    # this thread sees the signal at once.
    listener = threading.Thread(target=_listen, args=(reader, stop), daemon=True)
    listener.start()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _noticed) for number in numbers}
    try:
        with stop:
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        listener.join()
        os.close(reader)


def _noticed(_number: int, _frame: FrameType | None) -> None:
    """The listener does what is to be done."""


def _listen(reader: int, stop: Stop) -> None:
    while received := os.read(reader, 16):
        for number in received:
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue  # the program has a handler for it
            if stop.requested:
                _exit(stop.error)
            name = signal.Signals(number).name
            stop.request(f"{name} came", interrupted=number == signal.SIGINT)


def _exit(error: Stopped) -> None:
    """End this process without another word to anybody but the person who waits for it."""
    message = f"retailmart: {error}\n".encode()
    with suppress(OSError):
        if sys.stderr.isatty():
            message = _SHOW_CURSOR + message  # a progress bar has hidden it
        os.write(2, message)
    os._exit(error.exit_code)
