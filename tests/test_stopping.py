"""Asked to stop, work ends at a safe point in bounded time, and the next run is right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from retailmart.errors import LeaseLost, SettingsError, Stopped, Unavailable
from retailmart.report import Silent
from retailmart.session import Session
from retailmart.stopping import SECONDS, Stop, check_stop, stop_on_signals
from retailmart.template import write_project
from tests.support.amount import SEED, tries
from tests.support.backends import RemoteBackend, on_mariadb, shop_tables
from tests.support.project_state import compare, state_of
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.proxy import Fault, S3Faults
from tests.support.services.s3 import S3Server
from tests.support.shop import Shop, keep_only, sale
from tests.support.stopped import STEPS, Ended, Signal, Stopper

# Of a busy machine, which may also start the timers late.
WITHIN = SECONDS + 3
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
    return ("sales_mart", "customer_monthly_purchase")


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


def expect_stopped(shop: Shop, ended: Ended, code: int = 143, *, step: str = "") -> None:
    """The command ended as one that was asked to: code, sentence, ledger, lease.

    In its step `lease`, there may be no ledger yet.
    """
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    name = {143: "SIGTERM", 130: "SIGINT"}[code]
    assert f"retailmart: stopped: {name} came\n  Nothing is lost; run again" in ended.output
    assert ended.seconds is not None
    assert ended.seconds < WITHIN
    if step != "lease":
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


@pytest.mark.every_backend
def test_a_signal_in_any_step_ends_the_run_and_the_next_is_right(
    shop: Shop, stopper: Stopper, undisturbed: dict[str, Any]
) -> None:
    """Each run is stopped a step later than the last; the last one finishes what they began.

    Each time it is said, recorded, and the lease is free; in the end all is as if nobody had come.
    """
    deliver(shop)
    for step in STEPS:
        expect_stopped(shop, stopper.runs(words(shop), Signal(step)), step=step)
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
    for _ in range(tries(4, 20)):
        step = random.choice(STEPS)
        ended = stopper.runs(
            words(shop), Signal(step, random.choice([0.001, 0.004, 0.01, 0.03]), number)
        )
        # A signal that comes when all is said and done finds a program that ends.
        assert ended.code in (0, 128 + number, -number), ended.output
        assert "Traceback" not in ended.output
        if ended.code > 0:
            expect_stopped(shop, ended, 128 + number, step=step)
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
    expect_stopped(shop, ended)
    assert "was stopped in step build" in ended.output
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert state_of(shop.folder)["orphans"] == []


def hang(shop: Shop) -> None:
    """A mart that calls a function which does not return."""
    code = "    time.sleep(600)\n    return price\n"
    (shop.folder / "functions.py").write_text(
        f"import time\n\ndef slow(price: 'DOUBLE') -> 'DOUBLE':\n{code}"
    )
    (shop.folder / "marts" / "endless.sql").write_text(
        "-- refresh: full\nSELECT store_id, slow(CAST(price AS DOUBLE)) AS n FROM sales\n"
    )


def test_a_function_that_does_not_return_is_left(shop: Shop, stopper: Stopper) -> None:
    """What nothing can interrupt ends with its process, and the ledger knows of the stop."""
    shop.sales("sales_1.csv", [sale()])
    hang(shop)
    ended = stopper.runs(words(shop), Signal("build", 1))
    expect_stopped(shop, ended)
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert state_of(shop.folder)["orphans"] == []


def test_a_second_signal_ends_at_once(shop: Shop, stopper: Stopper) -> None:
    """Whoever can't wait need not; the next run goes on all the same."""
    shop.sales("sales_1.csv", [sale()])
    hang(shop)
    ended = stopper.runs(words(shop), Signal("build", 1, signal.SIGINT, again=0.2))
    assert ended.code == 130
    assert ended.seconds is not None
    assert ended.seconds < 2
    assert "retailmart: stopped: SIGINT came" in ended.output
    (shop.folder / "marts" / "endless.sql").unlink()
    assert stopper.runs(words(shop)).code == 0
    assert [state for state, _ in runs(shop)] == ["killed", "done"]


def test_a_lock_of_the_database_is_not_waited_for(
    shop: Shop, stopper: Stopper, mariadb: DatabaseServer
) -> None:
    """A person's transaction holds the published table; the connection that waits is broken off."""
    backend = on_mariadb(shop.folder, mariadb.database())
    moved = Shop(shop.folder, backend)
    moved.sales("sales_1.csv", [sale()])
    assert stopper.runs(words(moved)).code == 0
    moved.sales("sales_2.csv", [sale(2)])
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {backend.database.name}.customer_monthly_purchase WRITE")
        ended = stopper.runs(words(moved), Signal("publish", 1))
        cursor.execute("UNLOCK TABLES")
    expect_stopped(moved, ended)
    assert stopper.runs(words(moved)).code == 0
    assert len(moved.published("customer_monthly_purchase")) == 2


def test_a_store_that_does_not_answer_is_not_waited_for(
    shop: Shop, stopper: Stopper, mariadb: DatabaseServer, s3: S3Server
) -> None:
    """A request that hangs ends with the process; the ledger knows of the stop."""
    backend = RemoteBackend(s3.look(s3.bucket()), mariadb.database(), mariadb.database())
    moved = Shop(shop.folder, backend)
    backend.settle(shop.folder)
    backend.execute_in_shop(*shop_tables())
    with S3Faults(s3.port, hang_seconds=60) as faults:
        path = shop.folder / "retailmart.yml"
        path.write_text(path.read_text().replace(s3.endpoint, faults.endpoint))
        moved.sales("sales_1.csv", [sale()])
        faults.inject(Fault.HANG, "PUT", "lake/")
        ended = stopper.runs(words(moved), Signal("persist", 0.3))
        expect_stopped(moved, ended)
        assert stopper.runs(words(moved)).code == 0
    assert len(moved.published("customer_monthly_purchase")) == 1


# in Python


def test_whoever_works_in_a_stop_can_be_asked_to_end() -> None:
    """From another thread; `check_stop` is the safe point, and outside of it nothing happens."""
    check_stop()
    with Stop() as stop:
        check_stop()
        threading.Timer(0.05, stop.request, ["the shop closes"]).start()
        with pytest.raises(Stopped, match="stopped: the shop closes") as caught:
            stop.wait(30)
        assert caught.value.exit_code == 143
        with pytest.raises(Stopped):
            check_stop()
    check_stop()


def test_what_computes_is_interrupted_until_it_ends() -> None:
    """An interrupt that comes between two queries would else be lost."""
    called = []
    with Stop() as stop, stop.interrupting(lambda: called.append(1)):
        stop.request()
        end = time.monotonic() + 10
        while len(called) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_stop_that_comes_too_late_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done and only tells of it is not called stopped; what works after it, is."""
    ended: list[str] = []
    monkeypatch.setattr("retailmart.stopping.ENDS", 0.1)
    monkeypatch.setattr("retailmart.stopping._exit", lambda error: ended.append(error.message))
    interrupted: list[int] = []
    with Stop(ends_process=True) as stop, stop.interrupting(lambda: interrupted.append(1)):
        with stop.coming_late():
            stop.request("SIGTERM came")
            time.sleep(0.5)
            assert (ended, interrupted) == ([], [])
            assert stop.requested
        end = time.monotonic() + 5
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
    assert ended
    assert interrupted


def test_handlers_of_signals_are_given_back() -> None:
    """A program that calls a run has its own; what it ignores stays ignored."""
    mine = signal.getsignal(signal.SIGTERM)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopped, match="SIGTERM came"):
                stop.wait(30)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_in_python_is_stopped_from_another_thread(shop: Shop) -> None:
    """The same process can go on."""
    shop.sales("sales_1.csv", [sale()])
    with Stop() as stop:
        stop.request("the shop closes")
        with pytest.raises(Stopped, match="the shop closes"):
            shop.run()
    assert shop.run().count("loaded") == 1


def test_an_undo_is_stopped_as_a_run_is(shop: Shop, stopper: Stopper) -> None:
    """The next run finishes it."""
    shop.sales("sales_1.csv", [sale()])
    assert stopper.runs(words(shop)).code == 0
    undo = ["undo", "1", "--project", str(shop.folder)]
    expect_stopped(shop, stopper.runs(undo, Signal("publish")))
    assert stopper.runs(words(shop)).code == 0
    assert shop.published("customer_monthly_purchase") == []


def test_what_a_stop_breaks_off_is_told_as_the_stop(shop: Shop) -> None:
    """Whatever failed may have been interrupted; a lost lease was lost in any case."""
    project = shop.open().project

    def fail(error: Exception) -> None:
        with Session.open(project, Silent()):
            raise error

    with pytest.raises(Unavailable):
        fail(Unavailable("the server has gone away"))
    with Stop() as stop:
        stop.request()
        with pytest.raises(Stopped):
            fail(Unavailable("the server has gone away"))
        with pytest.raises(Stopped):
            fail(SettingsError(["marts/a.sql:1: INTERRUPT Error: Interrupted!"]))
        with pytest.raises(LeaseLost):
            fail(LeaseLost("another run has taken the project over"))


def test_maintenance_is_stopped_as_a_run_is(shop: Shop, stopper: Stopper) -> None:
    """The lease is free, and the next one does the rest."""
    shop.sales("sales_1.csv", [sale()])
    assert stopper.runs(words(shop)).code == 0
    maintain = ["maintain", "--project", str(shop.folder)]
    ended = stopper.runs(maintain, Signal("maintain"))
    assert ended.code == 143, ended.output
    assert "retailmart: stopped: SIGTERM came" in ended.output
    assert "Traceback" not in ended.output
    assert holders(shop) == []
    assert stopper.runs(maintain).code == 0
