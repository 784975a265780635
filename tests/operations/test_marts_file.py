"""`marts.duckdb` shows what is committed, to any reader, and costs no run that doesn't want it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

import retailmart
from retailmart.errors import LeaseLost, SettingsError
from retailmart.ledger import Ledger
from retailmart.report import RunReport
from tests.support.disks import fill, mounted, only_read
from tests.support.shop import AS_OF, Called, Shop, sale

_FILE = "marts.duckdb"
_RECORD = Path(".retailmart", "marts-file.json")
_SETTINGS: dict[str, Any] = {"marts_file": _FILE}
_MARTS = ("customer_mart", "customer_monthly_purchase", "sales_mart", "sales_team_incentive")
# What a reader asks: marts that must hold the same money, in one answer.
_SUMS = """
    SELECT (SELECT sum(total_cost) FROM sales_mart),
           (SELECT sum(monthly_total) FROM customer_monthly_purchase),
           (SELECT sum(total_sales) FROM sales_team_incentive)
"""
# Opens the file again and again, as a dashboard does; a last time after it is told to end.
_READER = f"""
import select, sys
import duckdb
print("ready", flush=True)
ends = False
while not ends:
    ends = bool(select.select([sys.stdin], [], [], 0)[0])
    with duckdb.connect(sys.argv[1], read_only=True) as views:
        for _ in range(3):
            print(*views.execute('''{_SUMS}''').fetchone(), flush=True)
"""


@pytest.fixture
def marts() -> tuple[str, ...]:
    """Marts of one row a sale, by month and by store."""
    return _MARTS


def run(shop: Shop, **settings: Any) -> RunReport:
    """A run of the project with the file."""
    return retailmart.open_project(shop.folder, _SETTINGS | settings).run(AS_OF)


def ask(file: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query in the file."""
    with closing(duckdb.connect(file, read_only=True)) as views:
        return views.execute(query).fetchall()


def identity(file: Path) -> tuple[int, int]:
    """What is another once the file was written again."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def test_each_mart_is_a_view_with_the_marts_rows(shop: Shop) -> None:
    """Names, types and rows are the marts', those of unknown stores and months to come included."""
    shop.sales("sales_1.csv", [sale(), sale(2, store=99, person=98), sale(3, day="2031-12-31")])
    done = run(shop).marts_file
    file = shop.folder / _FILE
    assert (done and done.path, done and done.marts) == (str(file), len(_MARTS))
    for name in _MARTS:
        mart = shop.open().mart(name)
        with closing(duckdb.connect(file, read_only=True)) as views:
            view = views.table(name)
            assert (view.columns, view.types) == (mart.columns, mart.types)
            assert view.order("ALL").fetchall() == mart.order("ALL").fetchall()
    told = ask(file, "SELECT mart, rows, as_of FROM retailmart.marts ORDER BY mart")
    assert [name for name, _, _ in told] == sorted(_MARTS)
    assert {rows for _, rows, _ in told} == {3}
    assert {at for _, _, at in told} == {AS_OF.replace(tzinfo=None)}


def test_a_reader_in_another_process_sees_one_committed_state_at_a_time(shop: Shop) -> None:
    """While runs go on, each answer is what some run has left: no error, no mix of two runs."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    command = [sys.executable, "-c", _READER, str(shop.folder / _FILE)]
    sums = [10]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for price in (20, 30, 15, 40, 25):
            # A correction: the rows before it leave all marts, and no sum grows by itself.
            shop.sales("sales_1.csv", [sale(price=f"{price}.00"), sale(2, day="2024-02-01")])
            run(shop)
            sums.append(price + 10)
        seen, errors = reader.communicate("\n", timeout=60)
    assert (reader.returncode, errors) == (0, "")
    answers = [line.split() for line in seen.splitlines()]
    assert {len(set(answer)) for answer in answers} == {1}
    found = [float(answer[0]) for answer in answers]
    assert set(found) <= set(map(float, sums))
    assert found[-1] == sums[-1]
    assert len(set(found)) > 1


def test_who_has_the_file_open_reads_on_in_it(shop: Shop) -> None:
    """It is replaced, and never written: an open connection shows what it showed."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    with closing(duckdb.connect(shop.folder / _FILE, read_only=True)) as views:
        before = views.execute(_SUMS).fetchall()
        inode = (shop.folder / _FILE).stat().st_ino
        shop.sales("sales_1.csv", [sale(price="99.00")])
        run(shop)
        assert views.execute(_SUMS).fetchall() == before
        assert (shop.folder / _FILE).stat().st_ino != inode


def test_a_run_without_work_leaves_a_current_file_alone(shop: Shop) -> None:
    """It is written only if a mart's table has changed; the file is not even opened."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    before = identity(shop.folder / _FILE)
    done = run(shop)
    assert (done.nothing_to_do, done.marts_file) == (True, None)
    assert "views" not in done.seconds
    assert identity(shop.folder / _FILE) == before


def test_the_next_run_makes_good_what_a_crash_has_left(shop: Shop) -> None:
    """Whatever is missing, torn or old, one more run has the file current, also without work."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    file, record = shop.folder / _FILE, shop.folder / _RECORD
    old = {path: path.read_bytes() for path in (file, record)}
    shop.sales("sales_2.csv", [sale(2)])
    run(shop)

    def put_back(paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink()
            path.write_bytes(old[path])

    for lost in (
        file.unlink,
        record.unlink,
        lambda: record.write_bytes(record.read_bytes()[:40]),
        lambda: put_back([file]),
        lambda: put_back([file, record]),
    ):
        lost()
        done = run(shop)
        assert done.nothing_to_do
        assert done.marts_file is not None
        assert ask(file, "SELECT sum(total_cost) FROM sales_mart") == [(20,)]


def test_the_lake_put_back_to_an_older_state_is_shown(shop: Shop) -> None:
    """A restored lake may reach the same version again: other files count then."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    shutil.copytree(shop.folder, shop.folder.parent / "backup")
    shop.sales("sales_2.csv", [sale(2)])
    run(shop)
    for name in ("lake", "archive", "landing"):
        shutil.rmtree(shop.folder / name)
        shutil.copytree(shop.folder.parent / "backup" / name, shop.folder / name)
    shutil.copy2(shop.folder.parent / "backup" / "retail.db", shop.folder / "retail.db")
    for end in ("-wal", "-shm"):
        (shop.folder / f"retail.db{end}").unlink(missing_ok=True)
    shop.sales("sales_3.csv", [sale(3, day="2024-02-10", price="70.00")])
    run(shop)
    assert ask(shop.folder / _FILE, _SUMS) == [(80, 80, 80)]


def test_a_project_that_was_moved_gets_a_new_file_with_its_next_run(shop: Shop) -> None:
    """The views name files by absolute paths, so that a reader's folder does not matter."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    moved = Shop(shop.folder.with_name("it's [moved]"))
    shop.folder.rename(moved.folder)
    assert run(moved).marts_file is not None
    assert ask(moved.folder / _FILE, _SUMS) == [(10, 10, 10)]


def test_what_can_not_be_written_fails_no_run_and_is_told(shop: Shop, called: Called) -> None:
    """Without its folder: exit code 0, a line for people, a field for programs; later it heals."""
    shop.sales("sales_1.csv", [sale()])
    words = ("run", "--as-of", "2024-04-01", "--set", "marts_file=views/marts.duckdb")
    done = called(shop.folder, *words, "--output", "json")
    assert done.returncode == 0
    assert "views/marts.duckdb is not current" in done.stderr
    assert json.loads(done.stdout)["marts_file"]["problem"]
    with shop.open().ledger() as ledger:
        assert ledger.runs.last(1)[0].state == "done"
    (shop.folder / "views").mkdir()
    assert called(shop.folder, *words).returncode == 0
    assert ask(shop.folder / "views" / _FILE, _SUMS) == [(10, 10, 10)]


def test_a_full_or_read_only_disk_fails_no_run(shop: Shop, tmp_path: Path) -> None:
    """The file stays what it was, nothing half written beside it; with room, it is current."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m"):
        file = disk / _FILE
        shop.sales("sales_1.csv", [sale()])
        assert run(shop, marts_file=str(file)).marts_file is not None
        filler = fill(disk)
        shop.sales("sales_2.csv", [sale(2)])
        done = run(shop, marts_file=str(file))
        assert done.exit_code == 0
        assert done.marts_file is not None
        assert done.marts_file.problem
        assert ask(file, "SELECT rows FROM retailmart.marts WHERE mart = 'sales_mart'") == [(1,)]
        assert sorted(path.name for path in disk.iterdir()) == [filler.name, _FILE]
        filler.unlink()
        assert run(shop, marts_file=str(file)).marts_file is not None
        assert ask(file, _SUMS) == [(20, 20, 20)]
        only_read(disk)
        shop.sales("sales_3.csv", [sale(3)])
        done = run(shop, marts_file=str(file))
        assert (done.exit_code, bool(done.marts_file and done.marts_file.problem)) == (0, True)


def test_somebody_elses_file_of_that_name_stays(shop: Shop) -> None:
    """A database of people's own is not replaced: the run says so, and names the setting."""
    with closing(duckdb.connect(shop.folder / _FILE)) as own:
        own.execute("CREATE TABLE notes AS SELECT 1 AS n")
    shop.sales("sales_1.csv", [sale()])
    done = run(shop).marts_file
    assert done is not None
    assert "`marts_file` in retailmart.yml" in (done.problem or "")
    assert ask(shop.folder / _FILE, "SELECT n FROM notes") == [(1,)]


def test_a_file_that_the_settings_no_longer_name_goes(shop: Shop) -> None:
    """Nobody would keep it current; one of another name takes its place, or none."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    run(shop, marts_file="other.duckdb")
    assert not (shop.folder / _FILE).exists()
    assert ask(shop.folder / "other.duckdb", _SUMS) == [(10, 10, 10)]
    shop.run()
    assert not (shop.folder / "other.duckdb").exists()
    assert not (shop.folder / _RECORD).exists()


def test_maintenance_that_merges_files_swaps_it_too(shop: Shop) -> None:
    """Nothing in the file names a file that has gone, even where dead files go at once."""
    at_once = {"maintenance": {"retention_days": 0, "after_run": False}}
    shop.sales("sales_0.csv", [sale(5, day="2024-03-01")])
    for day in range(1, 5):
        shop.sales(f"sales_{day}.csv", [sale(day, day=f"2024-02-0{day}")])
        run(shop, **at_once)
    report = retailmart.open_project(shop.folder, _SETTINGS | at_once).maintain()
    assert report.merged
    assert report.removed
    assert report.marts_file is not None
    assert ask(shop.folder / _FILE, _SUMS) == [(50, 50, 50)]
    before = identity(shop.folder / _FILE)
    assert run(shop, **at_once).marts_file is None
    assert identity(shop.folder / _FILE) == before


def test_a_mart_that_leaves_the_project_leaves_the_file(shop: Shop) -> None:
    """Its table stays in the lake, and no view shows it any more."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    (shop.folder / "marts" / "sales_team_incentive.sql").unlink()
    run(shop)
    views = ask(shop.folder / _FILE, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert "sales_team_incentive" not in {name for (name,) in views}


def test_a_run_that_lost_its_lease_swaps_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped and wakes late can't put an older file in a newer one's place."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    before = identity(shop.folder / _FILE)
    (shop.folder / _RECORD).unlink()

    def lost(_: Ledger) -> None:
        raise LeaseLost("another run has it")

    monkeypatch.setattr(Ledger, "transaction", lost)
    with pytest.raises(LeaseLost):
        run(shop)
    assert identity(shop.folder / _FILE) == before
    assert not list(shop.folder.glob(".marts*"))


def test_nobody_writes_into_it_and_old_duckdbs_open_it(shop: Shop) -> None:
    """It is read-only, of the oldest storage version, and one file."""
    shop.sales("sales_1.csv", [sale()])
    run(shop)
    file = shop.folder / _FILE
    assert file.stat().st_mode & 0o222 == 0
    told = ask(file, "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal")
    assert told[0][0].startswith("v1.0.0")
    assert [path.name for path in shop.folder.glob("*marts.duckdb*")] == [_FILE]


def test_without_the_setting_there_is_no_file(shop: Shop) -> None:
    """It costs a run that does not want it nothing."""
    shop.sales("sales_1.csv", [sale()])
    done = shop.run()
    assert done.marts_file is None
    assert "views" not in done.seconds
    assert not (shop.folder / _FILE).exists()
    assert not (shop.folder / _RECORD).exists()


def test_a_lake_in_a_bucket_has_no_such_file(shop: Shop) -> None:
    """The settings say so at once, not a run."""
    with pytest.raises(SettingsError, match="the lake is in a bucket"):
        retailmart.open_project(shop.folder, _SETTINGS | {"lake": "s3://bucket/lake"})
