"""Two runs at once: one works, the other leaves with exit code 4, and all counts once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from retailmart import LeaseLost, ProjectBusy, RetailmartError
from retailmart.database import open_database
from retailmart.ledger import Ledger, acquire_lease
from tests.support.shop import AS_OF, Shop, sale

# A run that says when it holds the project, and then waits until it is told to go on.
_HELD = """
import sys
from pathlib import Path
import retailmart
from retailmart.report import Silent

class Waits(Silent):
    def ended(self, step, seconds):
        if step == "stage":
            print("held", flush=True)
            sys.stdin.readline()

retailmart.open_project(Path(sys.argv[1])).run(progress=Waits())
"""


@pytest.fixture
def marts() -> Collection[str]:
    """One mart, so that runs are short."""
    return ("customer_mart",)


def command(shop: Shop, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "retailmart", *words],
        cwd=shop.folder,
        capture_output=True,
        text=True,
        check=False,
    )


def held(shop: Shop) -> subprocess.Popen[str]:
    """A run in a process of its own that stands still after it has staged its files."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HELD, str(shop.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_of_two_runs_exits_4_and_all_counts_once(shop: Shop) -> None:
    """The second says who is in the way, even while the first is stopped; nothing is lost."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    with held(shop) as first:
        os.kill(first.pid, signal.SIGSTOP)
        shop.sales("sales_b.csv", [sale(3)])
        second = command(shop, "run")
        os.kill(first.pid, signal.SIGCONT)
        first.communicate("go on\n")
    assert second.returncode == 4
    assert "holds this project" in second.stderr
    assert first.returncode == 0
    assert command(shop, "run").returncode == 0
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 2, 3]


def test_many_runs_at_once_count_once(shop: Shop) -> None:
    """Started together, each run either works or exits 4, and one works for certain."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "retailmart", "run"],
                    cwd=shop.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        told = [run.communicate()[1] for run in runs]
    codes = sorted(run.returncode for run in runs)
    assert codes[0] == 0, told
    assert set(codes) <= {0, 4}, told
    assert len(shop.mart("customer_mart")) == 2


def test_a_killed_holder_is_followed_at_once(shop: Shop) -> None:
    """Nobody waits for a dead run's lease to expire; the next run finishes its batch."""
    shop.sales("sales_a.csv", [sale()])
    with held(shop) as first:
        first.kill()
    began = time.monotonic()
    report = shop.run()
    assert time.monotonic() - began < 30
    assert report.batches[0].recovered
    assert len(shop.mart("customer_mart")) == 1


def test_a_file_of_an_unfinished_batch_that_was_sent_again(shop: Shop) -> None:
    """What was staged was never loaded and is no more: the batch is let go, the new file counts."""
    shop.sales("sales_a.csv", [sale()])
    with held(shop) as first:
        first.kill()
    shutil.rmtree(shop.folder / ".retailmart" / "scratch")
    shop.sales("sales_a.csv", [sale(2), sale(3)])
    report = shop.run()
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [2, 3]
    assert [batch.recovered for batch in report.batches] == [False]


def test_a_file_of_an_unfinished_batch_that_is_gone_is_asked_for(shop: Shop) -> None:
    """Nothing is dropped in silence: put back, it is loaded."""
    path = shop.sales("sales_a.csv", [sale()])
    with held(shop) as first:
        first.kill()
    shutil.rmtree(shop.folder / ".retailmart" / "scratch")
    path.rename(shop.folder / "kept.csv")
    with pytest.raises(RetailmartError, match=r"sales_a\.csv of the unfinished batch 1 is gone"):
        shop.run()
    (shop.folder / "kept.csv").rename(path)
    shop.run()
    assert len(shop.mart("customer_mart")) == 1


def test_what_a_late_waker_left_is_swept(shop: Shop) -> None:
    """Files of another attempt than the deciding one go with the day's look; others stay."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    raw = shop.folder / "lake" / "raw" / "sales" / "_month=2024-01"
    stray, foreign = raw / "b00000001-f0009-0001.parquet", raw / "mine.parquet"
    for path in (stray, foreign):
        path.write_bytes(b"x")
    shop.run()
    assert stray.exists(), "the day's look was taken already"
    shop.backend.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")
    shop.run()
    assert not stray.exists()
    assert foreign.exists()
    assert len(shop.mart("customer_mart")) == 1


@pytest.fixture
def ledger(shop: Shop) -> Ledger:
    """The shop's ledger, its tables made."""
    ledger = Ledger(open_database("sqlite:///retail.db", shop.folder))
    ledger.migrate()
    return ledger


def holds_elsewhere(engine: Engine, expires: timedelta) -> None:
    """A run on another machine, whose lease ends that far from now, fence 7."""
    moment = (datetime.now(UTC) + expires).isoformat()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO retailmart_lease (name, holder, fence, expires_at)"
            " VALUES ('run', 'other-host:/srv/shop/lock', 7, ?)",
            (moment,),
        )


def test_a_run_on_another_machine_is_respected(shop: Shop, ledger: Ledger) -> None:
    """Its lease has not expired: ProjectBusy names the machine, exit code 4, nothing is touched."""
    holds_elsewhere(ledger.engine, timedelta(seconds=50))
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(ProjectBusy, match="other-host") as caught:
        shop.run()
    assert caught.value.exit_code == 4
    assert (shop.folder / "landing" / "sales_a.csv").exists()
    assert ledger.batches.unfinished() is None
    ledger.engine.dispose()


def test_an_expired_lease_is_taken_over(shop: Shop, ledger: Ledger) -> None:
    """The next run works, under a higher fence."""
    holds_elsewhere(ledger.engine, timedelta(seconds=-1))
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    with ledger.engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT holder, fence FROM retailmart_lease WHERE name = 'run'"
        ).one()
    assert tuple(row) == (None, 8)
    ledger.engine.dispose()


def test_a_run_that_lost_its_lease_stages_nothing(
    shop: Shop, ledger: Ledger, tmp_path: Path
) -> None:
    """Whoever slept through its lease meets LeaseLost in its next ledger transaction."""
    with acquire_lease(ledger.engine, tmp_path / "lock") as lease:
        sleeper = Ledger(ledger.engine, lease)
        run = sleeper.runs.begin(AS_OF)
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE retailmart_lease SET fence = fence + 1")
        with pytest.raises(LeaseLost):
            sleeper.batches.stage(run, AS_OF, [])
    assert ledger.batches.unfinished() is None
    ledger.engine.dispose()
