"""The ledger in MySQL or MariaDB: every test of the ledger and the lease again, and races."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from retailmart.database import open_database
from retailmart.errors import LeaseLost, ProjectBusy
from retailmart.ledger import Ledger, acquire_lease
from retailmart.ledger import lease as leases
from retailmart.ledger import tables as t
from retailmart.ledger.values import Outcome
from tests.ledger import test_lease, test_ledger
from tests.support.services.mariadb import Database


def _of(module: Any, *without: str) -> Iterator[tuple[str, Callable[..., None]]]:
    return (
        (f"{name}_on_mysql", test)
        for name, test in vars(module).items()
        if name.startswith("test_") and callable(test) and name not in without
    )


# Their own words are SQLite's; what they say is said again below.
_IN_OTHER_WORDS = ("test_a_dead_holder_of_this_folder_is_followed_before_its_lease_expires",)
globals().update(_of(test_ledger))
globals().update(_of(test_lease, *_IN_OTHER_WORDS))


@pytest.fixture
def engine(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """A database with the ledger's tables."""
    engine = open_database(database.url, tmp_path)
    Ledger(engine).migrate()
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine, tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger, held by this test."""
    with acquire_lease(engine, tmp_path / "lock") as lease:
        yield Ledger(engine, lease)


@pytest.fixture(autouse=True)
def _expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_lease, "expire", expire)


def expire(engine: Engine) -> None:
    """Let the lease run out."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with engine.begin() as connection:
        connection.execute(update(t.lease).values(expires_at=past))


def test_a_dead_holder_is_followed_before_its_lease_expires(engine: Engine, tmp_path: Path) -> None:
    """The file lock proves that it is gone."""
    with acquire_lease(engine, tmp_path / "lock") as lease:
        holder = lease.holder
    later = (datetime.now(UTC) + timedelta(seconds=50)).isoformat()
    with engine.begin() as connection:
        connection.execute(update(t.lease).values(holder=holder, expires_at=later))
    with acquire_lease(engine, tmp_path / "lock") as lease:
        assert lease.fence == 2


@pytest.mark.parametrize("known", [False, True], ids=["the first claim", "a later claim"])
def test_of_many_claims_at_once_one_wins(engine: Engine, tmp_path: Path, known: bool) -> None:
    """All others are told that the project is busy; none sees an error of the database."""
    if known:
        with acquire_lease(engine, tmp_path / "lock"):
            pass
    together, over = threading.Barrier(4), threading.Event()

    def attempt(number: int) -> int | None:
        together.wait()
        try:
            with acquire_lease(engine, tmp_path / str(number) / "lock") as lease:
                over.wait(30)
                return lease.fence
        except ProjectBusy:
            return None
        finally:
            results.append(number)
            if len(results) == 3:
                over.set()

    results: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        fences = list(pool.map(attempt, range(4)))
    assert sorted(fence or 0 for fence in fences) == [0, 0, 0, 1 + known]


def test_a_lease_that_another_run_acquires_meanwhile_is_not_acquired_again(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    """Both runs saw it free: the second of them gets nothing, not even the same fencing token."""
    with acquire_lease(engine, tmp_path / "lock"):
        pass
    overtaken: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def overtake(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE retailmart_lease") and not overtaken:
            overtaken.append(statement)
            database.execute("UPDATE retailmart_lease SET fence = fence + 1, holder = 'other'")

    with (
        pytest.raises(ProjectBusy, match="a moment faster"),
        acquire_lease(engine, tmp_path / "lock"),
    ):
        pytest.fail("both hold the project")
    assert overtaken


def test_two_first_claims_at_once_are_one(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    """Both saw that there was no lease; the one whose row comes second is told so."""

    def faster(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO retailmart_lease"):
            database.execute(
                "INSERT INTO retailmart_lease (name, holder, fence, expires_at)"
                " VALUES ('run', 'else', 1, '2999')"
            )

    event.listen(engine, "before_cursor_execute", faster)
    with (
        pytest.raises(ProjectBusy, match="a moment faster"),
        acquire_lease(engine, tmp_path / "lock"),
    ):
        pytest.fail("claimed")


def test_a_claim_gives_way_to_a_transaction(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    """A holder whose lease has run out while it writes still holds the project."""
    impatient = open_database(database.url, tmp_path)

    def soon(connection: Connection) -> None:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")

    event.listen(impatient, "begin", soon)
    with acquire_lease(engine, tmp_path / "lock") as lease:
        expire(engine)
        with (
            Ledger(engine, lease).transaction(),
            pytest.raises(ProjectBusy, match="writing just now"),
            acquire_lease(impatient, tmp_path / "elsewhere" / "lock"),
        ):
            pytest.fail("claimed")
    impatient.dispose()


def test_a_beat_outlives_a_database_that_is_away(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failed heartbeat ends neither the run nor the thread: the next is heard again."""
    monkeypatch.setattr(leases, "_BEAT_SECONDS", 0.01)
    heard, failures = threading.Event(), iter([OperationalError("", {}, Exception("away"))])
    verify = leases.Lease.verify

    def failing(self: leases.Lease, connection: Any) -> None:
        for failure in failures:
            raise failure
        verify(self, connection)
        heard.set()

    monkeypatch.setattr(leases.Lease, "verify", failing)
    with acquire_lease(engine, tmp_path / "lock"):
        assert heard.wait(30)


def test_a_transaction_that_the_server_ended_is_fenced_off(engine: Engine, tmp_path: Path) -> None:
    """A holder that wakes within it can't write another word."""
    with acquire_lease(engine, tmp_path / "lock") as old:
        ledger = Ledger(engine, old)

        def asleep() -> None:
            with ledger.transaction() as connection:
                number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
                with engine.connect() as other:
                    other.exec_driver_sql(f"KILL CONNECTION {number:d}")
                expire(engine)
                with acquire_lease(engine, tmp_path / "elsewhere" / "lock"):
                    connection.execute(update(t.lease).values(fence=99))

        with pytest.raises(DBAPIError):
            asleep()
        with pytest.raises(LeaseLost), ledger.transaction():
            pytest.fail("the old holder wrote")
        with engine.connect() as connection:
            assert connection.scalar(select(t.lease.c.fence)) == 2


def test_paths_of_any_letters_are_kept(mariadb: Any, tmp_path: Path) -> None:
    """Whatever character set the database itself was made with."""
    database = mariadb.database(charset="latin1")
    engine = open_database(database.url, tmp_path)
    Ledger(engine).migrate()
    with acquire_lease(engine, tmp_path / "lock") as lease:
        ledger = Ledger(engine, lease)
        path = "märkte/😀 ₦.csv"
        batch = test_ledger.staged(ledger, test_ledger.new_file(path))
        found = ledger.files.of_batch(batch.batch_id)
        assert [file.path for file in found] == [path]
        assert ledger.files.find(path) == found[0]
        assert ledger.files.find("😀 ₦.csv") == found[0]
    engine.dispose()
    database.drop()


def test_a_large_outcome_is_kept(ledger: Ledger) -> None:
    """More than the 64 KB of a plain text or blob column."""
    batch = test_ledger.staged(ledger, test_ledger.new_file("sales.csv"))
    noise = "".join(chr(32 + (n * 7919 + n // 3) % 90) for n in range(2_000_000))
    ledger.batches.prepare(batch, {"raw/sales": noise}, Outcome())
    assert ledger.batches.prepared(batch)[1] == {"raw/sales": noise}


def test_names_differ_by_case(engine: Engine) -> None:
    """Two marts whose names differ by a capital letter are two marts."""
    with engine.begin() as connection:
        connection.execute(t.marts.insert(), [{"name": "sales"}, {"name": "Sales"}])
        found = connection.execute(select(t.marts.c.name).where(t.marts.c.name == "Sales")).all()
        assert [tuple(row) for row in found] == [("Sales",)]
        layout = connection.execute(text("SHOW CREATE TABLE retailmart_marts")).one()[1]
    assert "utf8mb4_bin" in layout
