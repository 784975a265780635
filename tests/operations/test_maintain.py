"""Maintenance changes files, and no row: whatever is read is the same before and after."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from sqlalchemy import update

import retailmart
from retailmart.errors import GateFailed, RetailmartError
from retailmart.lake import Lake
from retailmart.ledger import tables
from retailmart.operations import maintain as at_work
from tests.support.shop import Called, Shop, sale

_MONTHLY = "customer_monthly_purchase"
_NOW = {"maintenance": {"retention_days": 0, "after_run": False}}
_LATER = {"maintenance": {"after_run": False}}


@pytest.fixture
def marts() -> tuple[str, ...]:
    """What the tests look at: marts that grow, are built by month, and whole."""
    return ("customer_mart", _MONTHLY, "sales_mart", "sales_team_incentive", "declining_customers")


def opened(shop: Shop, settings: dict[str, Any] | None = None) -> retailmart.OpenProject:
    """The project with settings laid over its own."""
    return retailmart.open_project(shop.folder, settings or _LATER)


def days(shop: Shop, count: int, month: str = "2024-02", first: int = 1) -> None:
    """A delivery and a run for each day; with the first one, a later month begins."""
    for day in range(first, first + count):
        later = [sale(5, day="2024-03-01")] if first == day == 1 else []
        date = f"{month}-{day:02d}"
        rows = [sale(1 + day % 9, store=1 + n % 2, day=date) for n in range(3)]
        shop.sales(f"sales_{date}.csv", [*later, *rows])
        opened(shop).run()


def read(shop: Shop) -> dict[str, Any]:
    """All rows of the lake and of the published tables."""
    lake = shop.open().lake
    rows = {table: shop.rows_of(table) for table in lake.place.tables()}
    rows["published"] = shop.published(_MONTHLY)
    return rows


def files(lake: Lake, table: str) -> int:
    """How many files a table has now."""
    state = lake.state(table)
    assert state is not None
    return len(state.files)


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_small_files_become_one_and_no_row_changes(shop: Shop) -> None:
    """A month's files of days are merged, also by store; everything reads as before."""
    days(shop, 5)
    before, lake = read(shop), shop.open().lake
    assert files(lake, "raw/sales") == 6
    report = opened(shop).maintain()
    done = {one.table: one for one in report.tables}
    assert (done["raw/sales"].merged, done["raw/sales"].into) == (5, 1)
    assert (done["marts/sales_mart"].merged, done["marts/sales_mart"].into) == (10, 2)
    assert read(shop) == before
    assert files(shop.open().lake, "raw/sales") == 2
    assert opened(shop).maintain().merged == 0


def test_days_after_maintenance_end_as_without_it(shop: Shop, tmp_path: Path) -> None:
    """Corrections, undone runs and verification are right over merged files."""
    days(shop, 3)
    opened(shop, _NOW).maintain()
    days(shop, 2, first=4)
    before = read(shop)
    shop.sales("sales_2024-02-02.csv", [sale(9, price="77.00", day="2024-02-02")])
    opened(shop).run()
    opened(shop, _NOW).maintain()
    assert opened(shop).verify(["duckdb"], None).different == ()
    assert opened(shop).verify_database().different == ()
    opened(shop).undo(6)
    assert read(shop) == before
    opened(shop, _NOW).maintain()
    assert read(shop) == before
    assert opened(shop).verify(["duckdb"], None).different == ()


def test_a_merge_is_no_change_to_publish(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published table shows the merged version at once: the next run has nothing to compare."""
    days(shop, 5)
    opened(shop).maintain()
    lake = shop.open().lake
    with shop.open().ledger() as ledger:
        shown = ledger.marts.all()["sales_team_incentive"]
        tables = {one.mart: one.version for one in ledger.marts.published()}
    assert shown.published_version == lake.version("marts/sales_team_incentive")
    assert tables["sales_team_incentive"] == shown.published_version


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_dead_files_go_after_the_retention_and_no_sooner(shop: Shop) -> None:
    """By default what left a table stays a week; without a retention nothing but the rows stays."""
    days(shop, 5)
    opened(shop).maintain()
    before, lake = read(shop), shop.open().lake
    assert len(list(lake.place.data_files("raw/sales"))) == 7
    report = opened(shop, _NOW).maintain()
    assert report.removed > 0
    assert report.freed > 0
    assert sorted(lake.place.data_files("raw/sales")) == [
        file.path for file in opened_state(shop, "raw/sales").files
    ]
    assert read(shop) == before
    days(shop, 1, first=6)
    opened(shop).undo(6)
    assert read(shop) == before


def opened_state(shop: Shop, table: str) -> Any:
    """A table as a new reader sees it."""
    return shop.open().lake.state(table)


def test_what_the_database_shows_is_kept(shop: Shop) -> None:
    """A mart that is not published any more for a while keeps the version that its table shows."""
    days(shop, 2)
    path = shop.folder / "marts" / f"{_MONTHLY}.sql"
    text = path.read_text()
    path.write_text(text.replace("publish: true", "publish: false"))
    days(shop, 3, first=3)
    report = opened(shop, _NOW).maintain()
    kept = {one.table: one.kept for one in report.tables}[f"marts/{_MONTHLY}"]
    assert kept is not None
    assert f"{_MONTHLY} in the database shows it" in kept
    with shop.open().ledger() as ledger:
        version = ledger.marts.all()[_MONTHLY].published_version
    lake = shop.open().lake
    old = lake.state(f"marts/{_MONTHLY}", version)
    assert old is not None
    assert lake.has_files(f"marts/{_MONTHLY}", old)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(shop: Shop) -> None:
    """Its figures are those of the maintenance that follows."""
    days(shop, 5)
    before = sorted(path for path in shop.folder.rglob("*") if "lake" in path.parts)
    would = opened(shop, _NOW).maintain(dry_run=True)
    after = sorted(path for path in shop.folder.rglob("*") if "lake" in path.parts)
    assert after == before
    did = opened(shop, _NOW).maintain()
    assert would.dry_run
    assert would.merged == did.merged > 0
    assert [one.into for one in would.tables] == [one.into for one in did.tables]
    assert 0 < would.removed < did.removed  # what is merged now leaves its table only then


def test_only_the_tables_that_are_named(shop: Shop) -> None:
    """A table is named by its path or its name; an unknown one is an error that helps."""
    days(shop, 5)
    report = opened(shop).maintain(tables=["sales_mart"])
    assert [one.table for one in report.tables] == ["marts/sales_mart"]
    assert files(shop.open().lake, "raw/sales") == 6
    with pytest.raises(RetailmartError, match="no table 'sails'"):
        opened(shop).maintain(tables=["sails"])


def test_an_unfinished_batch_is_finished_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance says which command does that, and changes nothing."""
    days(shop, 1)
    shop.sales("sales_2.csv", [sale(2)])
    monkeypatch.setattr(Lake, "commit", broken)
    with pytest.raises(RuntimeError):
        opened(shop).run()
    monkeypatch.undo()
    with pytest.raises(RetailmartError, match="batch 2 is unfinished") as caught:
        opened(shop).maintain()
    assert "retailmart run" in str(caught.value.hint)
    would = opened(shop).maintain(dry_run=True)
    assert would.problem == "batch 2 is unfinished (prepared)"
    opened(shop).run()
    assert opened(shop).maintain().problem is None


def broken(*_: object, **__: object) -> Any:
    """What fails whatever it is asked."""
    raise RuntimeError("out of order")


@pytest.mark.parametrize("when", ["before", "after"])
def test_merged_files_with_other_rows_change_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A digest that differs stops it, before the commit or after: the table holds its old files."""
    days(shop, 5)
    before, there = read(shop), [f.path for f in opened_state(shop, "raw/sales").files]
    told = iter(range(1000))
    wrong = {1} if when == "before" else {2}
    true = at_work._digest

    def digest(*arguments: Any) -> Any:
        found = true(*arguments)
        return None if next(told) in wrong else found

    monkeypatch.setattr(at_work, "_digest", digest)
    with pytest.raises(GateFailed, match="raw/sales"):
        opened(shop).maintain(tables=["raw/sales"])
    monkeypatch.undo()
    assert [file.path for file in opened_state(shop, "raw/sales").files] == there
    assert read(shop) == before
    with shop.open().ledger() as ledger:
        (last,) = ledger.maintenance.last(1)
    assert last.state == "failed"
    opened(shop, _NOW).maintain()
    assert read(shop) == before


def test_a_little_of_it_happens_after_a_run(shop: Shop) -> None:
    """A run merges what it has changed, if that is worth it; else it waits for more files."""
    days(shop, 7)
    shop.sales("sales_8.csv", [sale(day="2024-02-08")])
    assert files(shop.open().lake, "raw/sales") == 8
    report = shop.run()
    assert report.maintenance is not None
    assert report.maintenance.merged > 0
    assert files(shop.open().lake, "raw/sales") == 2
    shop.sales("sales_9.csv", [sale(day="2024-02-09")])
    assert shop.run().maintenance is None


def test_a_ledger_of_some_days_is_cleaned_once_a_day(shop: Shop) -> None:
    """A new project has nothing old; later the first run of a day looks after all tables."""
    days(shop, 2)
    built = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    with shop.open().ledger() as ledger, ledger.engine.begin() as connection:
        connection.execute(update(tables.migrations).values(applied_at=built))
    for day, is_cleaned in ((3, True), (4, False)):
        shop.sales(f"sales_{day}.csv", [sale(day=f"2024-02-0{day}")])
        assert (shop.run().maintenance is not None) is is_cleaned
    assert files(shop.open().lake, "raw/sales") == 3


def test_its_failure_fails_no_run(
    shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is done and right; what went wrong is told, and stored."""
    days(shop, 7)
    shop.sales("sales_8.csv", [sale(day="2024-02-08")])
    monkeypatch.setattr(Lake, "merge", broken)
    done = called(shop.folder, "run", "--as-of", "2024-04-01", "--output", "json")
    assert done.returncode == 0
    assert "out of order" in done.stderr
    assert "out of order" in json.loads(done.stdout)["maintenance"]["problem"]
    with shop.open().ledger() as ledger:
        (last,) = ledger.maintenance.last(1)
        assert ledger.runs.last(1)[0].state == "done"
    assert (last.state, last.message, last.run_id) == ("failed", "out of order", 8)


def test_without_budget_nothing_is_begun(shop: Shop) -> None:
    """A run whose budget is spent leaves the rest for the next maintenance."""
    days(shop, 7)
    shop.sales("sales_8.csv", [sale(day="2024-02-08")])
    report = opened(shop, {"maintenance": {"budget": 0}}).run()
    assert report.maintenance is not None
    assert report.maintenance.merged == 0
    assert files(shop.open().lake, "raw/sales") == 9


def test_the_command_says_what_it_did(shop: Shop, called: Called) -> None:
    """A line a table, and what it freed; with nothing to do it says so."""
    days(shop, 4)
    would = called(shop.folder, "maintain", "--dry-run")
    assert "raw/sales" in would.stdout
    assert "would be merged into 1" in would.stdout
    assert "Nothing was changed" in would.stdout
    done = called(shop.folder, "maintain", "--set", "maintenance.retention_days=0")
    assert "merged into 1" in done.stdout
    assert "removed" in done.stdout
    assert " freed in " in done.stdout
    again = called(shop.folder, "maintain")
    assert again.stdout.startswith("Nothing to do")


def test_the_log_begins_at_a_checkpoint(shop: Shop) -> None:
    """Entries that nothing needs are gone; another reader of Delta tables sees the same rows."""
    days(shop, 11)
    before = read(shop)
    opened(shop, _NOW).maintain()
    log = shop.folder / "lake" / "raw" / "sales" / "_delta_log"
    assert len(list(log.glob("*.json"))) < 10
    newest = max(log.glob("*.checkpoint.parquet"))
    removed = pq.read_table(newest, columns=["remove"]).column("remove").to_pylist()
    assert not any(removed), "a reader would read what left the table long ago"
    assert DeltaTable(str(log.parent)).to_pyarrow_table().num_rows == 3 * 11 + 1
    assert read(shop) == before
    days(shop, 1, first=12)
    assert opened(shop).verify(["duckdb"], None).different == ()
