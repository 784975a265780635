"""A lease is broken by somebody who knows that its holder is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retailmart.errors import ProjectBusy
from tests.support.shop import Called, Shop, sale

# A run that stops itself in the middle of a step, as a machine does that is put to sleep.
_STOPS = """
import os, signal, sys
from datetime import UTC, datetime
import retailmart
from retailmart.report import Silent

class Stops(Silent):
    def began(self, step):
        if step == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGSTOP)

try:
    retailmart.open_project(sys.argv[1]).run(datetime(2024, 4, 1, tzinfo=UTC), Stops())
except retailmart.RetailmartError as error:
    print(type(error).__name__, error.message)
"""


class Stopped:
    """A run in a process of its own that stands still in a step, until it is woken."""

    def __init__(self, folder: Path, step: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _STOPS, str(folder), step], stdout=subprocess.PIPE, text=True
        )
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def wake(self) -> str:
        """Let it go on to its end. Returns what it says."""
        os.kill(self.process.pid, signal.SIGCONT)
        return self.process.communicate(timeout=60)[0]


@pytest.fixture(params=["load", "commit", "publish"])
def stopped(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Stopped]:
    """A run over one file, stopped before or after its batch is decided."""
    shop.sales("sales_1.csv", [sale(), sale(2)])
    found = Stopped(shop.folder, request.param)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.wait()


def expire(shop: Shop) -> None:
    """Let a minute pass."""
    shop.backend.execute("UPDATE retailmart_lease SET expires_at = '2024-01-01T00:00:00+00:00'")


@pytest.mark.every_backend
def test_a_stopped_holder_that_wakes_commits_nothing(
    shop: Shop, stopped: Stopped, called: Called
) -> None:
    """It is refused to break at first, then broken by force; the file counts once."""
    words = ("lease", "break", "--yes")
    with pytest.raises(ProjectBusy, match="on this machine"):
        shop.run()
    alive = called(shop.folder, *words)
    assert (alive.returncode, "it is alive" in alive.stderr) == (4, True)
    expire(shop)
    there = called(shop.folder, *words)
    assert there.returncode == 4
    assert f"kill -9 {stopped.process.pid}" in there.stderr
    broken = called(shop.folder, *words, "--force")
    assert broken.returncode == 0, broken.stderr
    shop.run()
    assert shop.published("customer_monthly_purchase", "count(*)") == [(2,)]
    told = stopped.wake()
    assert told.startswith("LeaseLost "), told
    shop.run()
    assert shop.published("customer_monthly_purchase", "count(*)") == [(2,)]
    assert len(shop.mart("customer_mart")) == 2
    (line,) = shop.open().lease_show().broken
    assert line.pid == stopped.process.pid
    assert f"process {line.pid}" in called(shop.folder, "lease", "show").stdout


def test_a_dead_holder_elsewhere_is_broken(shop: Shop, called: Called) -> None:
    """The lease of another machine keeps runs away until it expires, or somebody knows better."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 40))
    shop.backend.execute(
        "UPDATE retailmart_lease SET holder = 'till7:/srv/shop/.retailmart/lock', pid = 4711,"
        f" since = '2024-04-01T06:00:00+00:00', expires_at = '{later}+00:00' WHERE name = 'run'"
    )
    shop.sales("sales_2.csv", [sale(2)])
    with pytest.raises(ProjectBusy, match="a run on till7"):
        shop.run()
    shown = called(shop.folder, "lease", "show").stdout
    assert shown.startswith(
        "a run on till7 in /srv/shop/.retailmart, process 4711, since 2024-04-01"
    )
    assert called(shop.folder, "lease", "break", "--yes").returncode == 4
    assert called(shop.folder, "lease", "break", "--yes", "--force").returncode == 0
    assert shop.run().count("loaded") == 1


def test_nobody_s_lease_is_not_broken(shop: Shop, called: Called) -> None:
    """It says so, before the first run too, and records nothing."""
    assert called(shop.folder, "lease", "show").stdout == "nobody holds the project\n"
    done = called(shop.folder, "lease", "break")
    assert done.returncode == 0
    assert "there is no lease to break" in done.stderr
    assert shop.open().lease_show().broken == ()
