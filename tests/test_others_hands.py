"""What others did to our files and tables is healed by the next run, or told with a fix."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from retailmart.errors import NewerLedger
from tests.support.shop import Called, Shop, all_marts, keep_only, sale

_MONTHLY = "customer_monthly_purchase"
_UNBALANCED = (
    "-- refresh: full\n-- publish: true\n-- key: [store_id]\n"
    "SELECT store_id, count(*) AS n FROM sales GROUP BY store_id\n"
)
_LEDGER = {
    "runs": "run_id, state",
    "batches": "batch_id, state",
    "files": "file_id, state",
    "lease": "name, fence",
    "migrations": "name, applied_at",
}


def shown(shop: Shop, table: str) -> bool:
    """Whether the database shows just what the mart holds."""
    columns = {
        _MONTHLY: "customer_id, first_name, year, month, CAST(monthly_total * 100 AS INTEGER)",
        "declining_customers": "customer_id, first_name, CAST(change * 100 AS INTEGER)",
    }[table]
    return shop.published(table, columns) == sorted(shop.mart(table, columns))


def deliver(shop: Shop, number: int) -> None:
    """Another file of the months that have some already."""
    days = ("2024-01-20", "2024-02-20", "2024-03-20")
    rows = [sale(number, day=day, price=f"{9 - n}.00") for n, day in enumerate(days)]
    shop.sales(f"sales_{number}.csv", rows)


def ledger_of(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """What the ledger records of runs, batches and files, and of the lease."""
    found = {name: shop.published(f"retailmart_{name}", listed) for name, listed in _LEDGER.items()}
    assert all(found.values())
    return found


@all_marts
@pytest.mark.parametrize("compacted", [False, True])
def test_old_versions_that_somebody_vacuumed_are_not_needed(shop: Shop, compacted: bool) -> None:
    """The files of the versions that the database shows are gone: it is published all the same."""
    for number in (1, 2):
        deliver(shop, number)
        shop.run()
    deliver(shop, 3)
    # The database must be behind: what it shows is what the vacuum takes.
    marts = shop.folder / "marts"
    texts = {name: (marts / f"{name}.sql").read_text() for name in (_MONTHLY,)}
    for name, text in texts.items():
        (marts / f"{name}.sql").write_text(text.replace("publish: true", "publish: false"))
    shop.run()
    for name, text in texts.items():
        (marts / f"{name}.sql").write_text(text)
    lake = shop.open().lake
    for table in lake.place.tables():
        handle = DeltaTable(lake.place.address(table))
        if compacted:
            handle.optimize.compact()
        handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with shop.open().ledger() as ledger:
        version = ledger.marts.all()[_MONTHLY].published_version
    known = lake.state(f"marts/{_MONTHLY}", version)
    assert known is not None
    assert not lake.has_files(f"marts/{_MONTHLY}", known)
    deliver(shop, 4)
    shop.run()
    assert shown(shop, _MONTHLY)
    assert shown(shop, "declining_customers")
    shop.open().undo(4)
    assert shown(shop, _MONTHLY)


@all_marts
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET first_name = 'Zoe'",
        "UPDATE {} SET customer_id = customer_id + 100 WHERE customer_id = 1",
        "DELETE FROM {} WHERE customer_id = 1",
        "UPDATE {} SET year = 'soon' WHERE customer_id = 1",
    ],
)
def test_a_published_table_that_was_edited_is_healed(shop: Shop, statement: str) -> None:
    """In the months that a run writes, the database ends with the mart's very rows."""
    deliver(shop, 1)
    deliver(shop, 2)
    shop.run()
    for table in (_MONTHLY, "declining_customers"):
        if "year" not in statement or table == _MONTHLY:
            shop.backend.execute(statement.format(table))
    deliver(shop, 3)
    shop.run()
    assert shown(shop, _MONTHLY)
    assert shown(shop, "declining_customers")


@pytest.mark.every_database
def test_an_older_program_leaves_a_newer_ledger_alone(shop: Shop, called: Called) -> None:
    """It says so in a sentence, in every command that opens the ledger, and writes nothing."""
    keep_only(shop.folder, marts=["customer_mart", _MONTHLY])
    deliver(shop, 1)
    shop.run()
    shop.backend.execute(
        "INSERT INTO retailmart_migrations VALUES ('m999_of_tomorrow', '2030-01-01')"
    )
    deliver(shop, 2)
    before = ledger_of(shop)
    for command in (
        *("run", "check", "status", "undo 1", "abandon", "verify --database", "quarantine list"),
        *("schema history sales", "marts drop gone --yes"),
    ):
        done = called(shop.folder, *command.split())
        assert done.returncode == 1, command
        said = [line for line in done.stderr.splitlines() if line.startswith("retailmart: ")]
        assert said == [
            "retailmart: the ledger was changed by a newer retailmart than this one, which does not"
            " know m999_of_tomorrow"
        ], command
        assert "update its checkout, and there: pip install ." in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(NewerLedger, match="m999_of_tomorrow"):
        shop.run()
    found = [line for line in called(shop.folder, "doctor").stdout.splitlines() if "newer" in line]
    assert len(found) == 1
    assert found[0].startswith("problem")
    assert ledger_of(shop) == before
    assert "sales_2.csv" in shop.backend.landed()


def vacuum(shop: Shop, *tables: str) -> None:
    """What another program may do to any Delta table: nothing but its newest version stays."""
    lake = shop.open().lake
    for table in tables or lake.place.tables():
        handle = DeltaTable(lake.place.address(table))
        handle.optimize.compact()
        handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
        handle.create_checkpoint()
        handle.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
        handle.cleanup_metadata()


def test_an_undo_says_which_tables_it_cannot_take_back(shop: Shop, called: Called) -> None:
    """The rows of a source table before the run are gone: it stays, and a line says so."""
    keep_only(shop.folder, marts=["customer_mart", _MONTHLY])
    deliver(shop, 1)
    shop.run()
    shop.backend.execute_in_shop("UPDATE customer SET first_name = 'Renamed' WHERE customer_id = 2")
    deliver(shop, 2)
    shop.run()
    vacuum(shop)
    done = called(shop.folder, "undo", "2")
    assert done.returncode == 0
    assert "load: raw/customer stays as it is: the version to which" in done.stderr
    assert "Traceback" not in done.stderr
    shop.run()
    assert shown(shop, _MONTHLY)
    assert shop.open().verify(["duckdb"], None).different == ()


@all_marts
@pytest.mark.long
def test_a_published_version_whose_log_is_gone_too_is_not_needed(
    shop: Shop, called: Called
) -> None:
    """The database is compared as it is: nothing tells any more which rows its version had."""
    deliver(shop, 1)
    shop.run()
    path = shop.folder / "marts" / f"{_MONTHLY}.sql"
    path.write_text(path.read_text().replace("publish: true", "publish: false"))
    for number in range(2, 14):  # more than one checkpoint
        deliver(shop, number)
        shop.run()
    vacuum(shop)
    with shop.open().ledger() as ledger:
        version = ledger.marts.all()[_MONTHLY].published_version
    assert shop.open().lake.state(f"marts/{_MONTHLY}", version) is None
    path.write_text(path.read_text().replace("publish: false", "publish: true"))
    deliver(shop, 14)
    done = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert shown(shop, _MONTHLY)
    assert called(shop.folder, "verify", "--database").returncode == 0


def remove_raw(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "lake" / "raw" / "sales")


def remove_log(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "lake" / "raw" / "sales" / "_delta_log")


def empty_the_lake(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "lake")
    (shop.folder / "lake").mkdir()


def restore_raw(shop: Shop) -> None:
    DeltaTable(str(shop.folder / "lake" / "raw" / "sales")).restore(0)


def delete_rows(shop: Shop) -> None:
    DeltaTable(str(shop.folder / "lake" / "raw" / "sales")).delete("customer_id = 1")


@pytest.mark.parametrize("harm", [remove_raw, remove_log, empty_the_lake, restore_raw, delete_rows])
def test_rows_that_raw_has_lost_stop_the_run(
    shop: Shop, called: Called, harm: Callable[[Shop], None], tmp_path: Path
) -> None:
    """Nothing is published of what is left; once the lake is back, the run goes on as judged.

    The marts say nothing of a balance, so nothing but the count of raw's rows can tell.
    """
    (shop.folder / "marts" / "by_store.sql").write_text(_UNBALANCED)
    keep_only(shop.folder, marts=["by_store"])
    for number in (1, 2):
        deliver(shop, number)
        shop.run()
    before = shop.published("by_store")
    saved = shutil.copytree(shop.folder / "lake", tmp_path / "saved")
    harm(shop)
    deliver(shop, 3)
    refused = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert refused.returncode == 3, refused.stderr
    assert "raw/sales" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert shop.published("by_store") == before
    assert shop.backend.landed() == ["sales_3.csv"]
    found = called(shop.folder, "doctor")
    assert "raw/sales" in found.stdout
    shutil.rmtree(shop.folder / "lake")
    saved.rename(shop.folder / "lake")
    assert shop.run().rows("loaded") == 3
    assert shop.published("by_store", "n") == [(9,)]


def test_an_empty_lake_is_told_even_if_nothing_has_landed(shop: Shop, called: Called) -> None:
    """As where a disk is not mounted: "nothing to do" would be said of a project without rows."""
    deliver(shop, 1)
    shop.run()
    (shop.folder / "lake").rename(shop.folder / "away")
    (shop.folder / "lake").mkdir()
    done = called(shop.folder, "run")
    assert done.returncode == 3
    assert "raw/sales is not there, the files that count brought 3" in done.stderr
    (shop.folder / "lake").rmdir()
    (shop.folder / "away").rename(shop.folder / "lake")
    assert called(shop.folder, "run", "--as-of", "2024-04-01").returncode == 0


def test_a_mart_that_somebody_set_back_is_built_again(shop: Shop) -> None:
    """Its rows are those of all files, not of its older version and the newest file."""
    for number in (1, 2):
        deliver(shop, number)
        shop.run()
    DeltaTable(str(shop.folder / "lake" / "marts" / "customer_mart")).restore(0)
    deliver(shop, 3)
    assert shop.run().exit_code == 0
    assert len(shop.mart("customer_mart")) == 9


def test_data_files_that_are_gone_are_named_with_a_cure(shop: Shop, called: Called) -> None:
    """No SELECT is blamed, and no text of the engine's is shown."""
    deliver(shop, 1)
    shop.run()
    for file in (shop.folder / "lake" / "raw" / "sales").rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            file.unlink()
    deliver(shop, 2)
    done = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 1
    assert "a file of the lake that a table names is not there" in done.stderr
    assert "retailmart doctor" in done.stderr
    assert "read_parquet" not in done.stderr
