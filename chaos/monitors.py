"""Runs of all kinds of ends, with everybody who tells of them watched.

Good files, refused rows, refused files, a broken mart, nothing at all; runs that end by themselves,
are asked to stop, or are killed in some step. After each run exit code, ledger, log, metrics,
lineage, alerts and ping must agree, and a run that left something undone is no success.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.backends import LocalBackend, shop_tables
from tests.support.monitors import Monitors
from tests.support.services.listener import Listener, listening
from tests.support.shop import Shop, keep_only, sale
from tests.support.stopped import STEPS, Signal, Stopper

from chaos.result import Result, Tell
from retailmart.template import write_project

FAULTS = ("disagreements", "false successes")
RUNS_A_SHOP = 25
_MARTS = ("customer_mart", "customer_monthly_purchase", "sales_mart")
_WORDS = ("run", "--as-of", "2024-04-01")
_NOTES = 20


def run(seed: int, size: int, work: Path, tell: Tell) -> Result:
    """`size` runs, in shops of some runs each."""
    started = time.monotonic()
    tries, faults, notes = Counter[str](), Counter[str](dict.fromkeys(FAULTS, 0)), list[str]()
    stopper = Stopper()
    try:
        with listening() as listener:
            for number in range(0, size, RUNS_A_SHOP):
                shop = _Watched(seed + number, work / f"shop{number}", listener, stopper)
                for words in shop.lives(min(RUNS_A_SHOP, size - number), tries):
                    faults[words.partition(":")[0]] += 1
                    notes.append(f"seed {seed + number}: {words}")
                tell(f"{tries['runs']} of {size} runs")
    finally:
        stopper.close()
    last = f"{seed}..{seed + size}"
    seconds = time.monotonic() - started
    return Result("monitors", tries, faults, last, seconds, tuple(notes[:_NOTES]))


class _Watched:
    """A shop that tells everything there is of its runs."""

    def __init__(self, seed: int, folder: Path, listener: Listener, stopper: Stopper) -> None:
        self._chance, self._stopper = random.Random(seed), stopper
        write_project(folder, sample=False, stories=("tills",))
        keep_only(folder, marts=_MARTS)
        backend = LocalBackend(folder)
        backend.settle(folder)
        backend.execute_in_shop(*shop_tables())
        self._shop = Shop(folder, backend)
        listener.heard.clear()
        self._monitors = Monitors.of(folder, listener)
        self._serial = 0

    def lives(self, runs: int, tries: Counter[str]) -> Iterator[str]:
        """Live through some runs, the last one undisturbed; what was wrong, in words."""
        kinds: Sequence[Callable[[], str]] = (
            self._good,
            self._good,
            self._flawed,
            self._refused,
            self._nothing,
            self._broken,
        )
        for number in range(runs):
            what = self._chance.choice(kinds)()
            sent = self._signal() if number < runs - 1 else None
            tries["runs"] += 1
            tries[what] += 1
            self._monitors.mark()
            ended = self._stopper.runs((*_WORDS, "--project", str(self._shop.folder)), sent)
            code = None if ended.code == -signal.SIGKILL else ended.code
            tries["killed" if code is None else f"exit code {code}"] += 1
            story = f"{what}, {sent or 'no signal'}, exit code {ended.code}"
            for found in self._monitors.disagreements(code):
                yield f"disagreements: {story}: {found}"
            left = sorted(os.listdir(self._shop.folder / "landing"))
            if code == 0 and left:
                yield f"false successes: {story}: {left} are still in landing"
            self._mend()

    def _signal(self) -> Signal | None:
        numbers = (None, None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGKILL)
        number = self._chance.choice(numbers)
        delay = self._chance.choice((0.0, 0.001, 0.004, 0.01, 0.03))
        step = self._chance.choice(STEPS)
        return None if number is None else Signal(step, delay, number)

    def _day(self) -> str:
        self._serial += 1
        return f"2024-0{1 + self._serial % 3}-{1 + self._serial % 28:02d}"

    def _deliver(self, *rows: str) -> None:
        self._shop.sales(f"sales_{self._serial}.csv", rows)

    def _good(self) -> str:
        day = self._day()
        self._deliver(sale(day=day), sale(2, store=2, person=3, day=day))
        return "a good file"

    def _flawed(self) -> str:
        self._deliver(sale(day=self._day()), sale(day="soon"))
        return "a file with a refused row"

    def _refused(self) -> str:
        self._day()
        self._shop.drop(f"sales_{self._serial}.csv", b"what,is,this\n1,2,3\n")
        return "a refused file"

    def _nothing(self) -> str:
        return "nothing new"

    def _broken(self) -> str:
        self._deliver(sale(day=self._day()))
        path = self._shop.folder / "marts" / "sales_mart.sql"
        path.write_text(path.read_text().replace("SELECT", "SELEKT", 1))
        return "a broken mart"

    def _mend(self) -> None:
        path = self._shop.folder / "marts" / "sales_mart.sql"
        path.write_text(path.read_text().replace("SELEKT", "SELECT", 1))
