"""What has landed since the last run, noticed soon and taken for whole only when it is still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec

from retailmart.files.discover import sort_out
from retailmart.storage import Store
from retailmart.storage.local import LocalFolder

# A folder that never gets still does not keep what lies there waiting for longer than this.
_LONGEST_SETTLING = 60.0
# Above this many objects, a bucket is listed behind the last known key only, but for now and then.
_ONE_PAGE = 1_000
# The watch of a folder is told to look up this often, so that it ends soon.
_LOOKS_UP_MS = 1_000

Ready = Mapping[str, str]


class Arrivals:
    """Watches one landing: by the operating system's notices, or by listing it.

    `wake` is called when the operating system tells of a change. What a run has left there, as it
    was, is no arrival.
    """

    def __init__(
        self, landing: Store, poll: float, settle: float, every: float, wake: Callable[[], None]
    ) -> None:
        self._landing = landing
        self._poll, self._settle, self._every = poll, settle, every
        self._wake = wake
        self._left: Ready = {}
        self._candidates: Ready | None = None
        self._since = self._first = 0.0
        self._next_look = 0.0
        self._next_whole_look = 0.0
        self._known: dict[str, str] = {}
        self._last_key = ""
        self._told = threading.Event()
        self._over = threading.Event()
        self._watching = self._begin_to_watch()

    @property
    def how(self) -> str:
        """How arrivals are noticed, in words."""
        if self._watching:
            return "the operating system tells of changes"
        at_once = isinstance(self._landing, LocalFolder) and find_spec("watchfiles") is None
        cure = "; at once with the extra watch: pip install '.[watch]'" if at_once else ""
        return f"listed every {self._poll:g} s{cure}"

    def is_told(self) -> None:
        """Look at landing at the next chance."""
        self._told.set()

    def landed(self) -> int:
        """How many files have landed and are still; 0 while there are none, or some arrive."""
        now = time.monotonic()
        if now < self._next_look and not self._told.is_set():
            return 0
        self._told.clear()  # first: what changes while landing is listed is looked at again
        found = self._look(now)
        arrived = {path: v for path, v in found.items() if self._left.get(path) != v}
        if not arrived:
            self._candidates = None
            self._next_look = now + (self._every if self._watching else self._poll)
            return 0
        if arrived != self._candidates:
            if self._candidates is None:
                self._first = now
            self._candidates, self._since = arrived, now
        self._next_look = now + min(self._settle, self._poll)
        is_still = now - self._since >= self._settle
        return len(arrived) if is_still or now - self._first >= _LONGEST_SETTLING else 0

    def before_run(self) -> Ready:
        """What lies in landing before a run; give it to `after_run`."""
        self._next_whole_look = 0.0
        return self._look(time.monotonic())

    def after_run(self, before: Ready) -> None:
        """What was there before a run, and still is as it was, is no arrival any more."""
        self._left = before
        self._candidates = None
        self._next_look = 0.0
        self._next_whole_look = 0.0

    def _look(self, now: float) -> Ready:
        """What can be read in landing now: its paths, each with its version."""
        if now >= self._next_whole_look or len(self._known) <= _ONE_PAGE:
            self._next_whole_look = now + self._every
            self._known, entries = {}, self._landing.entries()
        else:
            entries = self._landing.entries_after(self._last_key)
        ready = sort_out(self._landing, entries).ready
        self._known |= {entry.path: entry.version for entry in ready}
        # S3 sorts keys as bytes.
        keys = (entry.key for entry in entries)
        self._last_key = max([*keys, self._last_key], key=lambda key: key.encode(errors="replace"))
        self._left = {path: v for path, v in self._left.items() if path in self._known}
        return dict(self._known)

    def _begin_to_watch(self) -> threading.Thread | None:
        if not isinstance(self._landing, LocalFolder) or not self._landing.is_there():
            return None
        try:
            from watchfiles import watch
        except ImportError:
            return None
        folder = self._landing.root

        def listen() -> None:
            with suppress(FileNotFoundError):  # the folder was removed; runs tell of it
                for changes in watch(
                    folder,
                    watch_filter=None,
                    debounce=200,
                    stop_event=self._over,
                    rust_timeout=_LOOKS_UP_MS,
                    yield_on_timeout=True,
                    raise_interrupt=False,
                ):
                    if changes:
                        self.is_told()
                        self._wake()

        thread = threading.Thread(target=listen, name="arrivals", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._watching:
            self._watching.join(2 * _LOOKS_UP_MS / 1_000)
