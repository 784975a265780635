"""The ledger's views: what people with a SQL client read of files, runs and steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymysql.err import MySQLError

from retailmart.check_results import Level
from retailmart.database import open_database
from retailmart.errors import GateFailed, SettingsError
from retailmart.ledger import Ledger
from retailmart.ledger.views import NAMES
from retailmart.template import write_project
from tests.operations.test_doctor import RIGHTS, statement, visit
from tests.support.backends import on_mariadb, shop_tables
from tests.support.pages import blocks
from tests.support.services.mariadb import DatabaseServer
from tests.support.shop import AS_OF, Shop, keep_only, sale

ROOT = Path(__file__).parents[2]
_VISITS = """files: ["visits*.csv"]
columns: {visit: {type: INT, mandatory: true}, day: {type: DATE, mandatory: true}}
month: day
"""


def rows(shop: Shop, view: str, columns: str, order: str) -> list[tuple[Any, ...]]:
    """Rows of a view in an order."""
    return shop.backend.query(f"SELECT {columns} FROM retailmart_v_{view} ORDER BY {order}")


def small(shop: Shop) -> Shop:
    """A shop with one mart, and a feed without money."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_monthly_purchase"])
    (shop.folder / "feeds" / "visits.yml").write_text(_VISITS)
    return shop


@pytest.mark.every_database
def test_views_tell_what_became_of_each_file(shop: Shop) -> None:
    """Loaded, superseded, duplicate and refused files, with rows, money, months and reasons."""
    small(shop)
    shop.sales("sales_1.csv", [sale(), sale(price="20.50", day="2024-02-01"), sale(price="x")])
    shop.drop("sales_2.csv", "id\n")
    shop.drop("visits_1.csv", "visit,day\n1,2024-03-01\n")
    shop.run()
    shop.sales("sales_1.csv", [sale(price="0.10"), sale(price="0.20")])
    shop.drop("visits_2.csv", "visit,day\n1,2024-03-01\n")
    shop.run()
    columns = "path, feed, state, rows_read, rows_accepted, rows_quarantined, amount, run"
    assert rows(shop, "files", f"{columns}, first_month, last_month", "run, path") == [
        ("sales_1.csv", "sales", "superseded", 3, 2, 1, 30.5, 1, "2024-01", "2024-02"),
        ("sales_2.csv", None, "refused", None, None, None, None, 1, None, None),
        ("visits_1.csv", "visits", "loaded", 1, 1, 0, None, 1, "2024-03", "2024-03"),
        ("sales_1.csv", "sales", "loaded", 2, 2, 0, 0.3, 2, "2024-01", "2024-01"),
        ("visits_2.csv", "visits", "duplicate", None, None, None, None, 2, None, None),
    ]
    found = rows(shop, "files", "path, state, reason, archive_folder, replaces_file_id", "file_id")
    reasons = {(path, state): reason for path, state, reason, *_ in found}
    assert reasons["sales_1.csv", "loaded"] is None
    assert "customer_id" in reasons["sales_2.csv", "refused"]
    assert "visits_1.csv" in reasons["visits_2.csv", "duplicate"]
    folders = {folder for *_, folder, _ in found}
    assert "error_files/bad_schema" in folders
    assert {path.rsplit("/", 1)[0] for path in shop.archived() if "reason" not in path} == folders
    assert [bool(replaced) for *_, replaced in found].count(True) == 1


@pytest.mark.every_database
def test_views_tell_how_each_run_went(shop: Shop) -> None:
    """A run that failed, in which step, and why; one that undid another; times in UTC."""
    small(shop)
    shop.sales("sales_1.csv", [sale(), sale(price="x")])
    shop.run()
    feed = shop.folder / "feeds" / "sales.yml"
    kept = feed.read_text()
    feed.write_text(kept.replace("action: warn", "action: fail", 1))
    shop.sales("sales_2.csv", [sale(price="1.00", total="2.00")])
    with pytest.raises(GateFailed) as failure:
        shop.run()
    assert failure.value.__notes__[0].startswith("Run 2 failed in step load, ")
    feed.write_text(kept)
    shop.open().undo(1)
    columns = "run, outcome, exit_code, failed_step, undid_run, files, files_refused, rows_read"
    assert rows(shop, "runs", f"{columns}, rows_accepted, rows_quarantined", "run") == [
        (1, "done", 0, None, None, 1, 0, 2, 1, 1),
        (2, "failed", 3, "load", None, 0, 0, 0, 0, 0),
        (3, "done", 0, None, 1, 0, 0, 0, 0, 0),
    ]
    times = rows(shop, "runs", "as_of, began, ended, error", "run")
    assert str(times[0][0]).replace("T", " ") == f"{AS_OF:%Y-%m-%d %H:%M:%S}"
    assert all(str(began)[:19] <= str(ended)[:19] for _, began, ended, _ in times)
    assert [error and "total_is_price_times_quantity" in error for *_, error in times] == [
        None,
        True,
        None,
    ]
    steps = rows(shop, "steps", "run, step, outcome, seconds", "step_id")
    assert [step for run, step, *_ in steps if run == 2][-1] == "load"
    assert {(run, step) for run, step, outcome, _ in steps if outcome == "failed"} == {(2, "load")}
    assert all(0 <= float(seconds) < 60 for *_, seconds in steps)
    with shop.open().ledger() as ledger:
        assert [run.failed_step for run in ledger.runs.last(3)] == [None, "load", None]


def test_views_and_status_call_states_alike(shop: Shop) -> None:
    """One word for one thing, also for files of a batch that was abandoned and a run cut off."""
    small(shop)
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.sales("sales_1.csv", [sale(2)])
    shop.run()
    shop.backend.execute(
        "UPDATE retailmart_runs SET state = 'killed' WHERE run_id = 1",
        "INSERT INTO retailmart_files (batch_id, path, path_hash, sha256, size, version, state)"
        " SELECT batch_id, path, '', '', 1, '', 'released' FROM retailmart_files LIMIT 1",
        "DROP VIEW retailmart_v_files",
        "CREATE VIEW retailmart_v_files AS SELECT 'counted' AS state",
        "DELETE FROM retailmart_migrations WHERE name >= 'm013'",
    )
    with shop.open().ledger():
        pass  # updates it
    status = shop.open().status()
    assert dict(status.files) == {"loaded": 1, "superseded": 1, "abandoned": 1}
    assert {state for (state,) in rows(shop, "files", "state", "state")} == status.files.keys()
    told = [run.state for run in reversed(status.runs)]
    assert told == ["cut off", "done"]
    assert [state for (state,) in rows(shop, "runs", "outcome", "run")] == told


@pytest.mark.every_database
def test_a_ledger_of_an_earlier_release_gets_the_views(shop: Shop) -> None:
    """Its files get their money from their months; its steps ended well."""
    small(shop)
    shop.sales("sales_1.csv", [sale(), sale(price="20.50", day="2024-02-01")])
    shop.drop("visits_1.csv", "visit,day\n1,2024-03-01\n")
    shop.run()
    shop.backend.execute(
        *(f"DROP VIEW {name}" for name in NAMES),
        "ALTER TABLE retailmart_files DROP COLUMN amount",
        "ALTER TABLE retailmart_steps DROP COLUMN state",
        "DELETE FROM retailmart_migrations WHERE name >= 'm009'",
    )
    shop.run()
    assert rows(shop, "files", "path, amount", "path") == [
        ("sales_1.csv", 30.5),
        ("visits_1.csv", None),
    ]
    assert {outcome for (outcome,) in rows(shop, "steps", "outcome", "run")} == {"done"}


@pytest.mark.every_database
def test_a_mart_is_not_published_over_a_view(shop: Shop) -> None:
    """The views are the ledger's: a mart that would take the name of one is refused."""
    small(shop)
    mart = shop.folder / "marts" / "customer_monthly_purchase.sql"
    mart.write_text(mart.read_text().replace("publish: true", f"publish: {NAMES[0]}"))
    with pytest.raises(SettingsError, match=NAMES[0]):
        shop.run()


@pytest.mark.every_database
def test_the_views_are_in_the_way_of_no_dropped_table(shop: Shop) -> None:
    """A mart called like a word of theirs can be dropped: they read the ledger only."""
    small(shop)
    mart = shop.folder / "marts" / "customer_monthly_purchase.sql"
    mart.write_text(mart.read_text().replace("publish: true", "publish: path"))
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    mart.write_text(mart.read_text().replace("publish: path", "publish: false"))
    assert shop.open().drop_table("path")


def test_an_account_that_may_not_create_views_runs_without(
    tmp_path: Path, mariadb: DatabaseServer
) -> None:
    """The grants of an older release are enough for runs; with one more the views come."""
    folder = tmp_path / "shop"
    write_project(folder, sample=False)
    database = mariadb.database(grants=", ".join(sorted(RIGHTS)))
    shop = small(Shop(folder, on_mariadb(folder, database)))
    shop.backend.execute_in_shop(*shop_tables())
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert database.query("SHOW FULL TABLES WHERE table_type = 'VIEW'") == []
    finding = visit(shop)["database: views"]
    assert finding.level is Level.WARNING
    mariadb.ask(statement(finding))
    assert "database: views" not in visit(shop)
    engine = open_database(database.url, folder)
    Ledger(engine).migrate()
    engine.dispose()
    assert rows(shop, "files", "path, state", "path") == [("sales_1.csv", "loaded")]
    database.drop()


def test_the_page_lists_each_column_of_the_views(tmp_path: Path) -> None:
    """docs/ledger.md has a table for each view, with its columns in their order."""
    engine = open_database("sqlite:///retail.db", tmp_path)
    Ledger(engine).migrate()
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    with engine.connect() as connection:
        for name in NAMES:
            _, _, part = text.partition(f"## `{name}`")
            part = part.partition("\n## ")[0]
            told = [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")]
            assert told == list(connection.exec_driver_sql(f"SELECT * FROM {name}").keys())
    engine.dispose()


@pytest.mark.every_database
def test_the_queries_of_the_page_are_answered(shop: Shop) -> None:
    """The SQL of docs/ledger.md is each database's SQL."""
    small(shop)
    shop.sales("sales_1.csv", [sale(), sale(price="20.50", day="2024-02-01")])
    shop.drop("sales_2.csv", "id\n")
    shop.run()
    (sql,) = blocks("docs/ledger.md", "sql")
    refused, months, steps = map(shop.backend.query, filter(None, map(str.strip, sql.split(";"))))
    assert [path for path, *_ in refused] == ["sales_2.csv"]
    assert months == [("sales", "2024-01", 1, 2, 30.5)]
    assert "load" in {step for step, _ in steps}


def test_a_reader_needs_the_views_alone(tmp_path: Path, mariadb: DatabaseServer) -> None:
    """A BI tool's account reads a view without any right to the ledger's tables."""
    mariadb.require_ours("grants rights")
    database, other = mariadb.database(), mariadb.database()
    engine = open_database(database.url, tmp_path)
    Ledger(engine).migrate()
    engine.dispose()
    mariadb.ask(f"GRANT SELECT ON `{database.name}`.retailmart_v_runs TO `{other.user}`@`%`")
    reader = replace(database, user=other.user, password=other.password)
    assert reader.query("SELECT count(*) FROM retailmart_v_runs") == [(0,)]
    with pytest.raises(MySQLError, match="denied"):
        reader.query("SELECT count(*) FROM retailmart_runs")
    database.drop()
    other.drop()
