"""Publish: only rows that differ travel, and the ledger's word is in the same transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from retailmart import RetailmartError
from retailmart.database import beside, open_database
from retailmart.database.beside import Beside, Load, Stopped
from retailmart.database.mysql import MySQL
from retailmart.database.target import Target
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.ledger.values import BatchState
from retailmart.project.types import parse_type
from retailmart.tables import Field
from tests.backends import LocalBackend
from tests.conftest import Shop, sale
from tests.services.mariadb import Database, DatabaseServer

pytestmark = pytest.mark.every_backend

_PURCHASES = "customer_monthly_purchase"
_COLUMNS = "customer_id, first_name, monthly_total, _month"


def changed(shop: Shop) -> dict[str, int | None]:
    """Run, and tell how many published rows of each mart were deleted and inserted."""
    (batch,) = shop.run().batches
    return {line.name: line.changed for line in batch.marts if line.published_as}


@pytest.mark.every_engine
def test_only_rows_that_differ_travel(shop: Shop) -> None:
    """A file that changes one customer of many deletes and inserts one row."""
    shop.sales("sales_a.csv", [sale(n) for n in range(1, 10)])
    assert changed(shop)[_PURCHASES] == 9
    shop.sales("sales_b.csv", [sale(4)])
    assert changed(shop)[_PURCHASES] == 2
    shop.sales("sales_c.csv", [sale(4, day="2024-02-01")])
    assert changed(shop)[_PURCHASES] == 1
    columns = "customer_id, monthly_total"
    assert shop.published(_PURCHASES, columns).count((4, 20)) == 1


@pytest.mark.every_engine
def test_rows_of_untouched_months_stay_as_they_lie(shop: Shop) -> None:
    """What somebody wrote into January is not looked at by a run of March."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    shop.backend.execute(f"UPDATE {_PURCHASES} SET first_name = 'noted' WHERE customer_id = 1")
    shop.sales("sales_b.csv", [sale(day="2024-03-01")])
    shop.run()
    assert (1, "noted", 10, "2024-01") in shop.published(_PURCHASES, _COLUMNS)


def test_a_publish_that_fails_half_way_shows_nothing_of_the_batch(shop: Shop) -> None:
    """All tables and the ledger stay as they were; the next run finishes the batch."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    tables = (_PURCHASES, "sales_team_incentive", "declining_customers")
    before = {table: shop.published(table) for table in tables}
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON sales_team_incentive "
    if isinstance(shop.backend, LocalBackend):
        refuse += "BEGIN SELECT RAISE(ABORT, 'no room'); END"
    else:
        refuse += "FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no room'"
    shop.backend.execute(refuse)
    shop.sales("sales_b.csv", [sale(2), sale(store=2, person=3)])
    with pytest.raises(RetailmartError, match="no room"):
        shop.run()
    assert {table: shop.published(table) for table in tables} == before
    with shop.open().ledger() as ledger:
        batch = ledger.open_batch()
        assert batch is not None
        assert batch.state is BatchState.COMMITTED
        assert "active" in ledger.count_files()
    shop.backend.execute("DROP TRIGGER refuse")
    assert [batch.recovered for batch in shop.run().batches] == [True]
    assert len(shop.published("sales_team_incentive")) == 2
    columns = "customer_id, monthly_total"
    assert shop.published(_PURCHASES, columns) == [(1, 20), (2, 10)]


@pytest.mark.every_engine
def test_published_money_is_exact(shop: Shop) -> None:
    """Cents of large and negative totals come back as they are in the mart."""
    prices = ["99999999.99", "-0.01", "0.10", "0.20"]
    shop.sales("sales_a.csv", [sale(n, price=price) for n, price in enumerate(prices, 1)])
    shop.run()
    mart = [(n, f"{total:.2f}") for n, total in shop.mart(_PURCHASES, "customer_id, monthly_total")]
    columns = "customer_id, monthly_total"
    shown = [(n, f"{total:.2f}") for n, total in shop.published(_PURCHASES, columns)]
    assert shown == mart
    assert [total for _, total in mart] == prices


def test_a_table_that_is_shown_but_not_known_is_not_loaded_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between the rename and the ledger's COMMIT leaves a table that tells so."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    show = beside.Beside.show

    def dying(self: beside.Beside) -> None:
        show(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(beside.Beside, "show", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.run()
    monkeypatch.undo()
    loaded = []
    load = beside.Beside.load

    def counting(self: beside.Beside, target: Any, *rest: Any) -> None:
        loaded.append(target.name)
        load(self, target, *rest)

    monkeypatch.setattr(beside.Beside, "load", counting)
    (batch,) = shop.run().batches
    assert batch.recovered
    assert bool(loaded) == isinstance(shop.backend, LocalBackend)
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 10), (2, 10)]
    shop.sales("sales_b.csv", [sale()])
    assert changed(shop)[_PURCHASES] == 2
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 20), (2, 10)]


def test_a_shown_table_that_was_changed_since_is_loaded_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark is not believed: its rows and sums are."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    show = beside.Beside.show

    def dying(self: beside.Beside) -> None:
        show(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(beside.Beside, "show", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.run()
    monkeypatch.undo()
    if not isinstance(shop.backend, LocalBackend):
        shop.backend.execute(f"DELETE FROM {_PURCHASES} WHERE customer_id = 1")
    shop.run()
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 10), (2, 10)]


def test_a_table_without_months_that_somebody_changed_is_replaced_whole(shop: Shop) -> None:
    """What is not cut by months goes in again, and readers see all of it or none."""
    shop.sales(
        "sales_a.csv",
        [
            sale(n, day=f"2024-0{month}-05", price=f"{30 - month * 10}.00")
            for n in (1, 2)
            for month in (1, 2)
        ],
    )
    shop.run()
    assert len(shop.published("declining_customers", "customer_id")) == 2
    shop.backend.execute("DELETE FROM declining_customers WHERE customer_id = 2")
    shop.sales("sales_b.csv", [sale(1, day="2024-02-06", price="1.00")])
    shop.run()
    after = shop.published("declining_customers", "customer_id, monthly_total")
    assert after == [(1, 11), (2, 10)]


@pytest.mark.every_engine
def test_another_key_makes_another_table(shop: Shop) -> None:
    """A new definition is loaded whole, whatever the table was before."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    path = shop.folder / "marts" / f"{_PURCHASES}.sql"
    text = path.read_text()
    path.write_text(text.replace("last_name,", "last_name, 'x' AS added,", 1))
    assert text != path.read_text()
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    columns = "customer_id, monthly_total, added"
    assert shop.published(_PURCHASES, columns) == [(1, 10, "x"), (2, 20, "x")]


_ID = (Field("id", parse_type("INT")),)


def target(name: str) -> Target:
    """A table of one column."""
    return Target(name, _ID, ("id",), None)


@pytest.fixture
def mysql(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """A new database of the server."""
    engine = open_database(database.url, tmp_path)
    yield engine
    engine.dispose()


def tables(database: Database) -> set[str]:
    """The names of all tables."""
    return {name for (name,) in database.query("SHOW TABLES")}


@pytest.mark.every_engine
def test_new_tables_are_loaded_side_by_side(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server takes several loads at once, two are under way at the same time."""
    shop.sales("sales_a.csv", [sale(n, store=1 + n % 2, person=1) for n in range(1, 10)])
    both = threading.Barrier(2)
    fill = Target.recreate

    def meeting(self: Target, *arguments: Any) -> None:
        fill(self, *arguments)
        if not isinstance(shop.backend, LocalBackend) and self.name.endswith(("_0", "_1")):
            both.wait(30)

    monkeypatch.setattr(Target, "recreate", meeting)
    published = {line.name: line.published_rows for line in shop.run().batches[0].marts}
    assert published[_PURCHASES] == 9
    assert published["sales_team_incentive"] == 2
    assert len(shop.published(_PURCHASES)) == 9


def test_a_load_that_fails_stops_the_others(
    mysql: Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those under way end at their next rows, those that wait never begin, and nothing is left."""
    monkeypatch.setattr(MySQL, "loads_at_once", 2)
    under_way = threading.Barrier(2)
    began: list[str] = []
    stopped: list[str] = []

    def endless(table: Target, connection: Connection) -> None:
        began.append(table.name)
        under_way.wait(30)
        try:
            for _ in range(1000):
                connection.exec_driver_sql("SELECT SLEEP(0.01)")
                publishing.go_on()
        except Stopped:
            stopped.append(table.name)
            raise

    def failing(table: Target, _: Connection) -> None:
        began.append(table.name)
        under_way.wait(30)
        raise ValueError("no room")

    def filled(table: Target, _: Connection) -> None:
        began.append(table.name)

    fills = [endless, failing, *[filled] * 6]
    loads = [Load(target(f"mart_{n}"), "new", fill) for n, fill in enumerate(fills)]
    done: list[str] = []
    with pytest.raises(ValueError, match="no room"), Beside(mysql, 7) as publishing:
        publishing.load_all(loads, done.append)
    assert (len(began), len(stopped), done) == (2, 1, [])
    assert tables(database) == set()


def test_an_account_of_few_connections_loads_with_those(
    mariadb: DatabaseServer, mysql: Engine, database: Database
) -> None:
    """What the server does not grant is done without; one is left for the lease."""
    mariadb.require_ours("limits an account")
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER '{database.user}'@'%' WITH MAX_USER_CONNECTIONS 3")
    at_once: list[int] = []
    most = []

    def fill(_: Target, connection: Connection) -> None:
        at_once.append(1)
        most.append(len(at_once))
        connection.exec_driver_sql("SELECT SLEEP(0.02)")
        at_once.pop()

    done: list[str] = []
    with Beside(mysql, 1) as publishing:
        loads = [Load(target(f"mart_{n}"), "new", fill) for n in range(6)]
        publishing.load_all(loads, done.append)
        publishing.show()
    mysql.dispose()
    assert max(most) <= 2
    assert set(done) == tables(database) == {f"mart_{n}" for n in range(6)}


def test_the_engine_bears_several_readers(tmp_path: Path) -> None:
    """Rows come in order and records keep their numbers while other results begin and end."""
    engine = DuckDBEngine([tmp_path], tmp_path / "private", threads=4)
    wrong: list[str] = []

    def read(number: int) -> None:
        for turn in range(5):
            query = f"SELECT (i * 7919) % 100003 AS k FROM range({20_000 + number}) t(i) ORDER BY k"
            with closing(engine.batches(query, 1000)) as batches:
                keys = [key for batch in batches for key in batch.column(0).to_pylist()]
            if keys != sorted(keys) or len(keys) != 20_000 + number:
                wrong.append(f"reader {number}, turn {turn}")
            if engine.rows(f"SELECT {number}") != [(number,)]:
                wrong.append(f"rows of {number}")

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    with closing(engine):
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        setting = "SELECT current_setting('preserve_insertion_order')"
        with closing(engine.batches("SELECT 1", 10)) as one:
            next(one)
            with closing(engine.batches("SELECT 2", 10)) as other:
                next(other)
            assert engine.rows(setting) == [(True,)], "the first is still being read"
        assert engine.rows(setting) == [(False,)]
    assert wrong == []
