"""What leaves the ledger of runs that ended long ago, and that nothing people ask for changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retailmart.database import open_database
from retailmart.database.dialect import dialect_of
from retailmart.report import Silent
from retailmart.session import Session
from tests.support.shop import HEADER, Shop, sale

_TOMORROW = timedelta(days=1)


def remove(shop: Shop, before: datetime) -> int:
    """Remove runs without work that began before a moment; as many as were said to be."""
    with Session.open(shop.open().project, Silent()) as session:
        session.acquire_lease()
        known = session.ledger.maintenance
        expected = known.idle_runs(before)
        assert known.remove_idle_runs(before) == expected
        assert known.idle_runs(before) == 0
        return expected


def test_a_small_file_is_written_again_without_the_room_that_rows_left(tmp_path: Path) -> None:
    """Its rows stay, and who reads meanwhile reads on; a reader of old rows holds nothing up."""
    engine = open_database("sqlite:///retail.db", tmp_path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")
        rows = ", ".join(f"({n}, '{'x' * 500}')" for n in range(4_000))
        connection.exec_driver_sql(f"INSERT INTO t VALUES {rows}")
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM t WHERE k % 10 > 0")
    size = (tmp_path / "retail.db").stat().st_size
    with closing(sqlite3.connect(tmp_path / "retail.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (400,)
        dialect_of(engine).compact(engine)
        assert reader.execute("SELECT sum(k) FROM t").fetchone() == (798_000,)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*), sum(k) FROM t").one() == (400, 798_000)
    engine.dispose()
    assert (tmp_path / "retail.db").stat().st_size < size / 5


def _told(shop: Shop, run: int) -> dict[str, Any]:
    """All that is told of a run but how long its steps took, which the ledger forgets."""
    told = shop.open().run_status(run).to_dict()
    del told["steps"], told["run"]["slowest"]
    return told


@pytest.mark.every_backend
def test_old_runs_without_work_leave_and_all_that_is_asked_for_stays(shop: Shop) -> None:
    """Runs with nothing to do leave; of others, status, verification and undo are as before."""
    feed = shop.folder / "feeds" / "sales.yml"
    own = "  additional_column: {type: STRING}\nschema: {columns: evolve}"
    feed.write_text(feed.read_text().replace("extra_columns: additional_column", own))
    shop.sales("sales_1.csv", [sale(), sale(2, day="2024-02-31"), sale(3, total="11.00")])
    shop.run()
    shop.run()
    shop.sales("sales_2.csv", [sale(4, day="2024-03-01")])
    shop.run()
    shop.run()
    wide = f"{HEADER},card"
    shop.sales("sales_1.csv", [f"{sale(1, price='12.00')},a", f"{sale(2)},b"], wide)
    shop.run()
    shop.run()
    opened = shop.open()
    runs = {run: _told(shop, run) for run in (1, 3, 5)}
    assert runs[5]["batches"][0]["differences"]
    assert runs[5]["batches"][0]["columns"]
    assert remove(shop, datetime.now(UTC) - _TOMORROW) == 0
    assert remove(shop, datetime.now(UTC) + _TOMORROW) == 2
    with opened.ledger() as ledger:
        assert [run.run_id for run in ledger.runs.last(9)] == [6, 5, 3, 1]
    assert {run: _told(shop, run) for run in runs} == runs
    kept = shop.backend.query("SELECT DISTINCT run_id FROM retailmart_steps ORDER BY 1")
    assert kept == [(6,)]
    assert opened.verify(["duckdb"], None).different == ()
    before = shop.mart("customer_mart")
    opened.undo(3)
    assert opened.verify(["duckdb"], None).different == ()
    shop.sales("sales_3.csv", [sale(4, day="2024-03-01")])
    shop.run()
    assert len(shop.mart("customer_mart")) == len(before)
