"""What one looks at in the morning: how the project is, and what to do. It never writes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from retailmart.errors import RetailmartError
from retailmart.operations.status import HealthState
from retailmart.session import LedgerAge
from tests.support.disks import fill, mounted, only_read
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres
from tests.support.shop import Called, Shop, sale

# What the migrations since then have added, so that a ledger becomes one of before.
_YOUNGER = (
    "DROP TABLE retailmart_dismissed",
    "DROP TABLE retailmart_held",
    "DROP VIEW retailmart_v_files",
    "DROP VIEW retailmart_v_runs",
    "DROP VIEW retailmart_v_steps",
    "ALTER TABLE retailmart_files DROP COLUMN amount",
    "ALTER TABLE retailmart_files DROP COLUMN refused_again",
    "ALTER TABLE retailmart_steps DROP COLUMN state",
    "ALTER TABLE retailmart_lease DROP COLUMN pid",
    "ALTER TABLE retailmart_lease DROP COLUMN since",
    "DELETE FROM retailmart_migrations WHERE name >= 'm010'",
)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder, with their sizes and times."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def command(at: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`retailmart WORDS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "retailmart", *words],
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_told_with_its_files_rows_and_money(shop: Shop, called: Called) -> None:
    """Duration, slowest step, files by what became of them, rows and money, in one line."""
    shop.sales("sales_1.csv", [sale(price="10.25"), sale(2, day="2024-02-31")])
    shop.drop("notes.csv", "a,b\n1,2\n")
    shop.run()
    found = shop.open().status()
    (run,) = found.runs
    assert run.files == {"loaded": 1, "refused": 1}
    assert (run.records, run.loaded, run.quarantined) == (2, 1, 1)
    assert run.money == {"sales": Decimal("10.25")}
    assert run.seconds is not None
    assert run.slowest is not None
    assert 0 < run.slowest.seconds <= run.seconds
    first, line, *_ = called(shop.folder, "status").stdout.splitlines()
    assert first == "needs a person: 1 refused row of 1 file is open; 1 refused file is open"
    assert "  done  " in line
    assert f" s ({run.slowest.step} " in line
    assert "  files: 1 loaded, 1 refused  rows: 1 loaded, 1 quarantined  money: sales 10.25" in line


def test_a_run_that_could_not_do_all_is_told_with_its_exit_code(shop: Shop, called: Called) -> None:
    """It is done, but who reads `done` alone would take it for a success."""
    shop.drop("notes.csv", "a,b\n1,2\n")
    assert shop.run().exit_code == 5
    (run,) = shop.open().status().runs
    assert (run.state, run.exit_code) == ("done", 5)
    assert "  done with exit code 5  " in called(shop.folder, "status").stdout


def test_a_good_project_is_ok(shop: Shop, called: Called) -> None:
    """One word; with --quiet none."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert called(shop.folder, "status").stdout.splitlines()[0] == "ok"
    assert called(shop.folder, "status", "-q").stdout.splitlines()[0].startswith("run 1 ")


def test_a_failed_run_is_failing_until_one_is_done(shop: Shop, called: Called) -> None:
    """The first line says which, where and why; the second what to type."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("action: warn", "action: fail", 1))
    shop.sales("sales_1.csv", [sale(price="10.00", total="11.00")])
    with pytest.raises(RetailmartError):
        shop.run()
    first, second, *_ = called(shop.folder, "status").stdout.splitlines()
    assert first.startswith("failing: run 1 of ")
    assert " failed in load: sales_1.csv: 1 row breaks rule" in first
    assert "retailmart status --run 1" in second
    whole = called(shop.folder, "status", "--run", "1").stdout
    assert "step       load" in whole
    assert "s  failed\n" in whole
    assert "error      sales_1.csv: 1 row breaks rule" in whole
    assert "file       sales_1.csv  abandoned" in whole
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert shop.open().status().health.state is HealthState.OK


def test_a_run_that_was_cut_off_is_failing(shop: Shop) -> None:
    """A run that nobody does any more says so before another one has found it."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.backend.execute(
        "UPDATE retailmart_runs SET state = 'running', finished_at = NULL",
        "UPDATE retailmart_batches SET state = 'prepared'",
        "UPDATE retailmart_lease SET holder = 'till7:/srv/.retailmart/lock', pid = 4711,"
        " since = '2024-04-01T06:00:00', expires_at = '2024-04-01T06:01:00'",
    )
    found = shop.open().status()
    assert found.health.state is HealthState.FAILING
    assert "was cut off" in found.health.reasons[0].message
    assert found.lease is not None
    assert (found.lease.host, found.lease.pid, found.lease.fresh) == ("till7", 4711, False)
    assert found.open_batch is not None
    shop.backend.execute("UPDATE retailmart_lease SET expires_at = '2124-04-01T06:01:00'")
    assert shop.open().status().health.state is HealthState.OK  # it is at work


def test_one_run_is_told_whole(shop: Shop, called: Called) -> None:
    """Files with fate, rows, money and reason; marts; what a corrected file changed; an undo."""
    shop.sales("sales_1.csv", [sale(), sale(2, price="5.00")])
    shop.run()
    shop.sales("sales_1.csv", [sale(price="12.00")])
    shop.sales("sales_2.csv", [sale(3, price="1.00", total="2.00")])
    shop.run()
    found = shop.open().run_status(2)
    one, two = found.files
    assert (one.state, one.loaded, one.amount, one.replaces) == ("loaded", 1, Decimal(12), True)
    assert two.warned == {"total_is_price_times_quantity": 1}
    assert str(one.archived).startswith("processed/")
    (batch,) = found.batches
    assert {mart.name for mart in batch.marts} == {"customer_mart", "customer_monthly_purchase"}
    (line,) = batch.differences
    assert (line.path, line.rows, line.amount) == ("sales_1.csv", -1, Decimal("-3.00"))
    told = called(shop.folder, "status", "--run", "2").stdout
    assert "corrected  sales_1.csv  -1 row, -3.00" in told
    assert "1 row warned by total_is_price_times_quantity" in told
    (old,) = shop.open().run_status(1).files
    assert old.state == "superseded"
    shop.open().undo(2)
    assert shop.open().run_status(3).run.undoes == 2
    assert "undoes run 2" in called(shop.folder, "status", "--run", "3").stdout
    done = called(shop.folder, "status", "--run", "9")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "retailmart: there is no run 9")


def test_landing_is_listed_only_when_asked(shop: Shop, called: Called) -> None:
    """A bucket may not answer; without the option nothing asks it."""
    shop.sales("sales_1.csv", [sale()])
    assert shop.open().status().landing is None
    assert shop.open().status(landing=True).landing == ("sales_1.csv",)
    told = called(shop.folder, "status", "--landing").stdout.splitlines()
    assert [line.strip() for line in told][1:3] == ["landing    1 file", "sales_1.csv"]
    shutil.rmtree(shop.folder / "landing")
    assert called(shop.folder, "status").returncode == 0


# it never writes


def test_status_changes_nothing(shop: Shop, called: Called) -> None:
    """Neither before the first run, when there is no ledger, nor later."""
    for runs in range(2):
        before = contents(shop.folder)
        found = shop.open().status()
        assert found.ledger is (LedgerAge.CURRENT if runs else LedgerAge.NONE)
        assert called(shop.folder, "status").returncode == 0
        assert contents(shop.folder) == before
        shop.sales("sales_1.csv", [sale()])
        shop.run()


def test_status_on_a_full_disk(shop: Shop, tmp_path: Path) -> None:
    """Status answers where not a byte can be written; so does `status --run`."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    disk = tmp_path / "disk"
    with mounted(disk, "size=16M"):
        full = disk / "shop"
        shutil.copytree(shop.folder, full, symlinks=True)
        fill(disk)
        before = contents(disk)
        for words in (["status"], ["status", "--run", "1"], ["status", "-o", "json"]):
            done = command(full, *words)
            assert (done.returncode, done.stderr) == (0, "")
            assert "1" in done.stdout
        assert contents(disk) == before


def test_status_on_a_disk_that_is_only_read(shop: Shop, tmp_path: Path) -> None:
    """Where even the file beside the database cannot be created."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    disk = tmp_path / "disk"
    with mounted(disk, "size=16M"):
        shutil.copytree(shop.folder, disk / "shop", symlinks=True)
        only_read(disk)
        done = command(disk / "shop", "status")
        assert (done.returncode, done.stderr) == (0, "")
        assert "  files: 1 loaded" in done.stdout


def test_status_while_a_run_has_the_database_open(shop: Shop) -> None:
    """What a run has committed is seen although it is still in the write-ahead log."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    with closing(sqlite3.connect(shop.folder / "retail.db")) as writer:
        writer.execute("UPDATE retailmart_runs SET message = 'committed just now'")
        writer.commit()
        writer.execute("BEGIN IMMEDIATE")
        (run,) = shop.open().status().runs
    assert run.message == "committed just now"


@pytest.mark.every_database
def test_an_older_ledger_is_shown_and_left_alone(shop: Shop, called: Called) -> None:
    """All of it that is known; the next run updates it, and status says so."""
    shop.sales("sales_1.csv", [sale(), sale(2, day="2024-02-31")])
    shop.run()
    today = shop.open().status()
    shop.backend.execute(*_YOUNGER)
    found = shop.open().status()
    assert (found.ledger, today.ledger) == (LedgerAge.OLDER, LedgerAge.CURRENT)
    assert found.runs == today.runs
    assert found.refused == today.refused
    assert "ledger     of an earlier release: retailmart run will update it" in (
        called(shop.folder, "status").stdout
    )
    assert not shop.backend.query("SELECT name FROM retailmart_migrations WHERE name >= 'm010'")
    shop.run()
    assert shop.open().status().ledger is LedgerAge.CURRENT


def test_an_account_of_mariadb_that_may_only_read(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SELECT is all that status needs, also on an older ledger and on none."""
    mariadb.require_ours("makes an account of its own")
    database = mariadb.database()
    _point(shop, database.url)
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER reader@'%' IDENTIFIED BY 'only-reads'")
        cursor.execute(f"GRANT SELECT ON {database.name}.* TO reader@'%'")
    try:
        read = f"mysql://reader:only-reads@{mariadb.host}:{mariadb.port}/{database.name}"
        _assert_reads(shop, read, monkeypatch)
    finally:
        with mariadb.admin() as connection, connection.cursor() as cursor:
            cursor.execute("DROP USER reader@'%'")


def test_an_account_of_postgresql_that_may_only_read(
    shop: Shop, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SELECT is all that status needs, also on an older ledger and on none."""
    database = postgres.database()
    _point(shop, database.url)
    with postgres.admin(database.name) as connection:
        connection.execute(b"CREATE ROLE reader LOGIN PASSWORD 'only-reads'")
        connection.execute(b"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader")
        account = database.user.encode()
        connection.execute(
            b"ALTER DEFAULT PRIVILEGES FOR ROLE " + account + b" GRANT SELECT ON TABLES TO reader"
        )
    try:
        read = f"postgresql://reader:only-reads@{postgres.host}:{postgres.port}/{database.name}"
        _assert_reads(shop, read, monkeypatch)
    finally:
        with postgres.admin(database.name) as connection:
            connection.execute(b"DROP OWNED BY reader")
            connection.execute(b"DROP ROLE reader")


def _point(shop: Shop, url: str) -> None:
    path = shop.folder / "retailmart.yml"
    path.write_text(
        path.read_text().replace("sqlite:///retail.db", url.split("://", maxsplit=1)[0] + "://")
    )
    path = shop.folder / ".env"
    path.write_text(f"RETAILMART__DATABASE={url}\n")


def _assert_reads(shop: Shop, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_reader() -> str:
        with monkeypatch.context() as patched:
            patched.setenv("RETAILMART__DATABASE", url)
            done = command(shop.folder, "status", "-o", "json")
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        return f"{found['ledger']} {len(found['runs'])}"

    assert as_reader() == "none 0"
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert as_reader() == "current 1"
    with shop.open().ledger() as ledger, ledger.engine.begin() as connection:
        for statement in _YOUNGER:
            connection.exec_driver_sql(statement)
    assert as_reader() == "older 1"
