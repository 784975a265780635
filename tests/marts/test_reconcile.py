"""Reconcile: every number that is off is named with its difference, and nothing is kept."""

from __future__ import annotations

import pytest

from retailmart import GateFailed
from tests.support.shop import Shop, all_marts, sale

pytestmark = pytest.mark.every_backend


def script(shop: Shop, statement: str) -> None:
    """A statement in the ledger's database."""
    shop.backend.execute(statement)


def edit_mart(shop: Shop, name: str, old: str, new: str) -> None:
    """Change a text in a mart's file."""
    path = shop.folder / "marts" / f"{name}.sql"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE retailmart_file_months SET amount = '9.99'", r"raw has 15\.00.*14\.99.*-0\.01"),
        ("UPDATE retailmart_file_months SET row_count = 2", r"2 rows, the files 3, off by 1"),
        ("UPDATE retailmart_table_months SET row_count = 2", r"raw has 3 rows"),
    ],
    ids=["a file's money", "a file's rows", "raw's rows"],
)
@pytest.mark.every_engine
def test_a_number_that_is_off_by_the_least_stops_the_run(
    shop: Shop, statement: str, words: str
) -> None:
    """A month whose history does not add up is not built upon, and the message says by how much."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    script(shop, statement)
    shop.sales("sales_b.csv", [sale(2, price="5.00")])
    shown = shop.published("customer_monthly_purchase")
    with pytest.raises(GateFailed, match=words):
        shop.run()
    assert shop.published("customer_monthly_purchase") == shown
    assert len(shop.mart("customer_mart")) == 1
    assert "sales_b.csv" in shop.backend.landed()


def held_by(shop: Shop) -> dict[str, str]:
    """The marts that a run holds back for reasons of their own, and why."""
    return {one.mart: one.message for one in shop.run().held if one.cause is None}


@all_marts
@pytest.mark.every_engine
def test_a_mart_whose_history_is_off_is_built_again(shop: Shop) -> None:
    """Raw is right, so files are taken in; the mart waits, and the next run builds all of it."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    script(
        shop,
        "UPDATE retailmart_table_months SET amount = '10.01' WHERE table_name = 'marts/sales_mart'",
    )
    shop.sales("sales_b.csv", [sale(2, price="5.00")])
    held = held_by(shop)
    assert held.keys() == {"sales_mart"}
    assert "marts/sales_mart 15.01, off by 0.01" in held["sales_mart"]
    assert shop.backend.landed() == []
    assert len(shop.mart("sales_mart")) == 1
    shop.sales("sales_c.csv", [sale(3)])
    assert held_by(shop) == {}
    assert len(shop.mart("sales_mart")) == len(shop.mart("customer_mart")) == 3


@all_marts
@pytest.mark.every_engine
def test_all_marts_that_are_off_are_named_at_once(shop: Shop) -> None:
    """A report that names one mart of two would cost a run for each."""
    edit_mart(
        shop, "customer_mart", "FROM sales s", "FROM (FROM sales ORDER BY customer_id LIMIT 1) s"
    )
    edit_mart(shop, "sales_mart", "s.total_cost", "s.total_cost + 1 AS total_cost")
    shop.sales("sales_a.csv", [sale(), sale(2)])
    held = held_by(shop)
    assert "marts/customer_mart 10.00, off by -10.00" in held["customer_mart"]
    assert "raw has 2 rows, marts/customer_mart 1, off by -1" in held["customer_mart"]
    assert "marts/sales_mart 22.00, off by 2.00" in held["sales_mart"]


@pytest.mark.every_engine
def test_a_join_that_doubles_rows_is_found(shop: Shop) -> None:
    """A dimension with two rows a key would count sales twice."""
    edit_mart(
        shop,
        "customer_mart",
        "LEFT JOIN customer_history c",
        "LEFT JOIN (FROM customer_history UNION ALL FROM customer_history) c",
    )
    shop.sales("sales_a.csv", [sale()])
    assert "customer_mart 20.00, off by 10.00" in held_by(shop)["customer_mart"]


@pytest.mark.every_engine
def test_rows_that_cancel_out_in_money_still_count(shop: Shop) -> None:
    """A mart that drops a sale and its return has the right money and the wrong rows."""
    edit_mart(
        shop,
        "customer_mart",
        "-- which is for ever",
        "WHERE s.customer_id <> 2",
    )
    back = sale(2, price="10.00", quantity=-1, total="-10.00")
    shop.sales("sales_a.csv", [sale(), sale(2), back])
    assert "raw has 3 rows, marts/customer_mart 1, off by -2" in held_by(shop)["customer_mart"]
