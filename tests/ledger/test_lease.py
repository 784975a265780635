"""The lease: one holder at a time, fenced."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from retailmart.database import open_database
from retailmart.errors import LeaseLost, ProjectBusy
from retailmart.ledger import Ledger, acquire_lease


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with the ledger's tables."""
    engine = open_database("sqlite:///retail.db", tmp_path)
    Ledger(engine).migrate()
    yield engine
    engine.dispose()


def row(engine: Engine) -> tuple[object, ...]:
    """The lease as it stands: holder, fence, expiry."""
    with engine.connect() as connection:
        query = "SELECT holder, fence, expires_at FROM retailmart_lease"
        return tuple(connection.exec_driver_sql(query).one())


def expire(engine: Engine) -> None:
    """Let the lease run out."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE retailmart_lease SET expires_at = ?", (past,))


def test_each_holder_has_a_higher_fence(engine: Engine, tmp_path: Path) -> None:
    """The fence rises with every claim, and a released lease names nobody."""
    fences = []
    for _ in range(3):
        with acquire_lease(engine, tmp_path / "lock") as lease:
            fences.append(lease.fence)
            assert row(engine)[:2] == (lease.holder, lease.fence)
        assert row(engine)[0] is None
    assert fences == [1, 2, 3]


def test_one_folder_has_one_holder(engine: Engine, tmp_path: Path) -> None:
    """A second claim on the same machine is refused at once and leaves the first as it is."""
    with acquire_lease(engine, tmp_path / "lock") as lease:
        with (
            pytest.raises(ProjectBusy, match="on this machine"),
            acquire_lease(engine, tmp_path / "lock"),
        ):
            pass
        with engine.begin() as connection:
            lease.verify(connection)


def test_two_folders_of_one_database_have_one_holder(engine: Engine, tmp_path: Path) -> None:
    """Another checkout of the project is like another machine: the lease in the ledger counts."""
    with (
        acquire_lease(engine, tmp_path / "lock"),
        pytest.raises(ProjectBusy),
        acquire_lease(engine, tmp_path / "elsewhere" / "lock"),
    ):
        pass


def test_a_dead_holder_of_this_folder_is_followed_before_its_lease_expires(
    engine: Engine, tmp_path: Path
) -> None:
    """The file lock proves that it is gone."""
    with acquire_lease(engine, tmp_path / "lock") as lease:
        holder = lease.holder
    later = (datetime.now(UTC) + timedelta(seconds=50)).isoformat()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE retailmart_lease SET holder = ?, expires_at = ?", (holder, later)
        )
    with acquire_lease(engine, tmp_path / "lock") as lease:
        assert lease.fence == 2


def test_whoever_was_taken_over_cannot_write(engine: Engine, tmp_path: Path) -> None:
    """An old holder's transaction raises LeaseLost and is rolled back; the new one's goes on."""
    with acquire_lease(engine, tmp_path / "lock") as old:
        expire(engine)
        with acquire_lease(engine, tmp_path / "elsewhere" / "lock") as new:
            assert new.fence > old.fence
            with pytest.raises(LeaseLost), Ledger(engine, old).transaction():
                pytest.fail("the old holder wrote")
            with pytest.raises(LeaseLost):
                Ledger(engine, old).runs.begin(datetime.now(UTC))
            assert Ledger(engine, new).runs.begin(datetime.now(UTC)) == 1


def test_the_old_holder_s_end_leaves_the_new_lease_alone(engine: Engine, tmp_path: Path) -> None:
    """Giving back is fenced too."""
    with acquire_lease(engine, tmp_path / "elsewhere" / "lock"):
        expire(engine)
        with acquire_lease(engine, tmp_path / "lock"):
            pass
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE retailmart_lease SET holder = 'new', fence = 9")
    assert row(engine)[:2] == ("new", 9)


def test_each_ledger_transaction_extends_the_lease(engine: Engine, tmp_path: Path) -> None:
    """A run that writes is alive."""
    with acquire_lease(engine, tmp_path / "lock") as lease:
        expire(engine)
        with Ledger(engine, lease).transaction():
            pass
        assert str(row(engine)[2]) > datetime.now(UTC).isoformat()


def test_the_ledger_says_who_holds_the_lease(engine: Engine, tmp_path: Path) -> None:
    """Host, folder, process and times; nobody after its end."""
    leases = Ledger(engine).leases
    assert leases.now().is_held is False
    with acquire_lease(engine, tmp_path / "lock"):
        found = leases.now()
        assert (found.host, found.folder) == (socket.gethostname(), str(tmp_path))
        assert (found.pid, found.is_fresh) == (os.getpid(), True)
        assert str(found.since) <= datetime.now(UTC).isoformat() < str(found.until)
    assert leases.now().is_held is False


def test_a_broken_lease_fences_its_holder_and_is_recorded(engine: Engine, tmp_path: Path) -> None:
    """The old holder writes nothing more, the next one goes on, and the ledger says who did it."""
    leases, lock = Ledger(engine).leases, tmp_path / "lock"
    with acquire_lease(engine, lock) as old:
        seen = leases.now()
        leases.break_from(seen, "ann@shopbox", lock)
        with pytest.raises(LeaseLost), Ledger(engine, old).transaction():
            pytest.fail("the old holder wrote")
        # Here the old one still has its lock file, as a process has that is stopped.
        with acquire_lease(engine, lock) as new:
            assert new.fence == old.fence + 2
            assert Ledger(engine, new).runs.begin(datetime.now(UTC)) == 1
            with pytest.raises(ProjectBusy), acquire_lease(engine, lock):
                pass
    (one,) = leases.broken()
    assert (one.pid, one.fence, one.broken_by) == (os.getpid(), old.fence, "ann@shopbox")


def test_a_lease_that_has_changed_hands_is_not_broken(engine: Engine, tmp_path: Path) -> None:
    """Its holder now is not the one that was looked at."""
    leases, lock = Ledger(engine).leases, tmp_path / "lock"
    with acquire_lease(engine, lock):
        seen = leases.now()
    with acquire_lease(engine, lock) as new:
        with pytest.raises(ProjectBusy):
            leases.break_from(seen, "ann@shopbox", lock)
        with Ledger(engine, new).transaction():
            pass
    assert leases.broken() == []
