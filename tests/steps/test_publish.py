"""Publish: only rows that differ travel, and the ledger's word is in the same transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy.exc import DBAPIError

from retailmart import RetailmartError
from retailmart.ledger.values import BatchState
from tests.conftest import Shop, sale

_PURCHASES = "customer_monthly_purchase"
_COLUMNS = "customer_id, first_name, monthly_total, _month"


def changed(shop: Shop) -> dict[str, int | None]:
    """Run, and tell how many published rows of each mart were deleted and inserted."""
    (batch,) = shop.run().batches
    return {line.name: line.changed for line in batch.marts if line.published_as}


def script(shop: Shop, statements: str) -> None:
    """Statements in the published database."""
    with closing(sqlite3.connect(shop.folder / "retail.db")) as connection:
        connection.executescript(statements)


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


def test_rows_of_untouched_months_stay_as_they_lie(shop: Shop) -> None:
    """What somebody wrote into January is not looked at by a run of March."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    script(shop, f"UPDATE {_PURCHASES} SET first_name = 'noted' WHERE customer_id = 1")
    shop.sales("sales_b.csv", [sale(day="2024-03-01")])
    shop.run()
    assert (1, "noted", 10, "2024-01") in shop.published(_PURCHASES, _COLUMNS)


def test_a_publish_that_fails_half_way_shows_nothing_of_the_batch(shop: Shop) -> None:
    """All tables and the ledger stay as they were; the next run finishes the batch."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    tables = (_PURCHASES, "sales_team_incentive", "declining_customers")
    before = {table: shop.published(table) for table in tables}
    script(
        shop,
        "CREATE TRIGGER refuse BEFORE INSERT ON sales_team_incentive"
        " BEGIN SELECT RAISE(ABORT, 'no room'); END",
    )
    shop.sales("sales_b.csv", [sale(2), sale(store=2, person=3)])
    with pytest.raises((RetailmartError, DBAPIError, sqlite3.Error), match="no room"):
        shop.run()
    assert {table: shop.published(table) for table in tables} == before
    with shop.open().ledger() as ledger:
        batch = ledger.open_batch()
        assert batch is not None
        assert batch.state is BatchState.COMMITTED
        assert "active" in ledger.count_files()
    script(shop, "DROP TRIGGER refuse")
    assert [batch.recovered for batch in shop.run().batches] == [True]
    assert len(shop.published("sales_team_incentive")) == 2
    columns = "customer_id, monthly_total"
    assert shop.published(_PURCHASES, columns) == [(1, 20), (2, 10)]


def test_published_money_is_exact(shop: Shop) -> None:
    """Cents of large and negative totals come back as they are in the mart."""
    prices = ["99999999.99", "-0.01", "0.10", "0.20"]
    shop.sales("sales_a.csv", [sale(n, price=price) for n, price in enumerate(prices, 1)])
    shop.run()
    mart = [(n, f"{total:.2f}") for n, total in shop.mart(_PURCHASES, "customer_id, monthly_total")]
    columns = "customer_id, printf('%.2f', monthly_total)"
    assert shop.published(_PURCHASES, columns) == mart
    assert [total for _, total in mart] == prices
