"""Asked to stop, work ends at a safe point in bounded time, and the next run is right."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from retailmart.stopping import BREAKS_OFF, SECONDS
from retailmart.template import write_project
from tests.support.amount import SEED, tries
from tests.support.backends import shop_tables
from tests.support.project_state import compare, state_of
from tests.support.shop import Shop, keep_only, sale
from tests.support.stopped import Ended, Signal, Stopper

STEPS = (
    "lease",
    "recover",
    "discover",
    "copy",
    "check",
    "stage",
    "load",
    "build",
    "reconcile",
    "persist",
    "commit",
    "publish",
    "export",
    "archive",
)
# What ends by itself, however busy the machine is, needs none of the seconds that are left to it.
AT_ONCE = BREAKS_OFF
MONTHS = ("2024-01", "2024-02", "2024-03")


@pytest.fixture(scope="module")
def stopper() -> Iterator[Stopper]:
    """The process of this module's children."""
    stopper = Stopper()
    yield stopper
    stopper.close()


@pytest.fixture
def marts() -> tuple[str, ...]:
    """Two marts cost less than five."""
    return ("sales_mart", "customer_mart")


def words(shop: Shop, *more: str) -> list[str]:
    """The words of a run of this shop."""
    return ["run", "--project", str(shop.folder), "--as-of", "2024-04-01", *more]


def deliver(shop: Shop) -> None:
    """Two files, one with a refused row, and a mart that is exported."""
    path = shop.folder / "marts" / "sales_mart.sql"
    if "snapshot" not in path.read_text():
        path.write_text("-- snapshot: true\n" + path.read_text())
    shop.sales("sales_1.csv", [sale(day=f"{month}-15") for month in MONTHS])
    shop.sales("sales_2.csv", [sale(2, day="2024-02-31"), sale(3, price="7.50")])


def runs(shop: Shop) -> list[tuple[Any, ...]]:
    """The state and message of each run, oldest first."""
    return shop.backend.query("SELECT state, message FROM retailmart_runs ORDER BY run_id")


def holders(shop: Shop) -> list[tuple[Any, ...]]:
    """Who holds the lease."""
    return shop.backend.query(
        "SELECT holder FROM retailmart_lease WHERE name = 'run' AND holder IS NOT NULL"
    )


def expect_stopped(shop: Shop, ended: Ended, within: float, code: int = 143) -> None:
    """The command ended as one that was asked to: code, sentence, ledger, lease."""
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    name = {143: "SIGTERM", 130: "SIGINT"}[code]
    assert f"retailmart: stopped: {name} came\n  Nothing is lost; run again" in ended.output
    assert ended.seconds is not None
    assert ended.seconds < within
    assert runs(shop)[-1] == ("stopped", f"stopped: {name} came")
    assert holders(shop) == []


@pytest.fixture
def undisturbed(tmp_path: Path, marts: tuple[str, ...]) -> dict[str, Any]:
    """The same shop on files of this machine, after its delivery was run without a signal."""
    other = Shop(tmp_path / "other")
    write_project(other.folder, sample=False, stories=("tills",))
    keep_only(other.folder, marts=marts)
    other.backend.execute_in_shop(*shop_tables())
    deliver(other)
    other.run()
    return state_of(other.folder)


@pytest.mark.every_database
def test_a_signal_in_any_step_ends_the_run_and_the_next_is_right(
    shop: Shop, stopper: Stopper, undisturbed: dict[str, Any]
) -> None:
    """Each run is stopped a step later than the last; the last one finishes what they began.

    Each time it is said, recorded, and the lease is free; in the end all is as if nobody had come.
    """
    deliver(shop)
    for step in STEPS:
        expect_stopped(shop, stopper.runs(words(shop), Signal(step)), AT_ONCE)
    ended = stopper.runs(words(shop))
    assert ended.code == 0, ended.output
    found = state_of(shop.folder)
    assert compare(undisturbed, found, only=("raw", "quarantine", "marts")) is None
    assert [found[part] for part in ("landing", "orphans", "left lying")] == [[], [], []]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_random_moments_leave_what_no_signal_leaves(
    shop: Shop, stopper: Stopper, undisturbed: dict[str, Any], number: int
) -> None:
    """Signals at random moments of random steps, in several runs; then all is as without any."""
    random = Random(SEED + number)
    deliver(shop)
    for _ in range(tries(4, 60)):
        step = random.choice(STEPS)
        ended = stopper.runs(
            words(shop), Signal(step, random.choice([0.001, 0.004, 0.01, 0.03]), number)
        )
        # A signal that comes when all is said and done finds a program that ends.
        assert ended.code in (0, 128 + number, -number), ended.output
        assert "Traceback" not in ended.output
        if ended.code > 0:
            expect_stopped(shop, ended, AT_ONCE, 128 + number)
    assert stopper.runs(words(shop)).code == 0
    parts = ("raw", "quarantine", "marts", "published", "orphans", "left lying", "landing")
    assert compare(undisturbed, state_of(shop.folder), only=parts) is None


def test_an_endless_query_is_interrupted(shop: Shop, stopper: Stopper) -> None:
    """DuckDB computes in a call that no signal handler of Python can enter."""
    shop.sales("sales_1.csv", [sale()])
    (shop.folder / "marts" / "endless.sql").write_text(
        "-- refresh: full\n"
        "SELECT count(*) AS n FROM sales, range(10_000_000) a, range(10_000_000) b"
        " WHERE a.range + b.range + price > 1e19\n"
    )
    ended = stopper.runs(words(shop), Signal("build", 0.5))
    expect_stopped(shop, ended, AT_ONCE)
    assert "was stopped in step build" in ended.output
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert state_of(shop.folder)["orphans"] == []


def test_a_function_that_does_not_return_is_left(shop: Shop, stopper: Stopper) -> None:
    """What nothing can interrupt ends with its process, and the ledger knows of the stop."""
    shop.sales("sales_1.csv", [sale()])
    (shop.folder / "functions.py").write_text(
        "import time\n\ndef slow(price: 'DOUBLE') -> 'DOUBLE':\n    time.sleep(600)\n    return price\n"
    )
    (shop.folder / "marts" / "endless.sql").write_text(
        "-- refresh: full\nSELECT store_id, slow(CAST(price AS DOUBLE)) AS n FROM sales\n"
    )
    ended = stopper.runs(words(shop), Signal("build", 1))
    expect_stopped(shop, ended, SECONDS)
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert state_of(shop.folder)["orphans"] == []


def test_a_second_signal_ends_at_once(shop: Shop, stopper: Stopper) -> None:
    """Whoever can't wait need not; the next run goes on all the same."""
    shop.sales("sales_1.csv", [sale()])
    (shop.folder / "functions.py").write_text(
        "import time\n\ndef slow(price: 'DOUBLE') -> 'DOUBLE':\n    time.sleep(600)\n    return price\n"
    )
    (shop.folder / "marts" / "endless.sql").write_text(
        "-- refresh: full\nSELECT store_id, slow(CAST(price AS DOUBLE)) AS n FROM sales\n"
    )
    ended = stopper.runs(words(shop), Signal("build", 1, signal.SIGINT, again=0.2))
    assert ended.code == 130
    assert ended.seconds is not None
    assert ended.seconds < 2
    assert "retailmart: stopped: SIGINT came" in ended.output
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert [state for state, _ in runs(shop)] == ["killed", "done"]
