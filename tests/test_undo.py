"""A run that is taken back leaves nothing behind but its files in undone/, or says why it can't."""

from __future__ import annotations

from typing import Any

import pytest

from retailmart import RetailmartError
from tests.support.shop import Shop, all_marts, sale

pytestmark = pytest.mark.every_backend

_MARTS = ("customer_mart", "sales_mart", "customer_monthly_purchase", "sales_team_incentive")
_PUBLISHED = ("customer_monthly_purchase", "sales_team_incentive", "declining_customers")


def figures(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """All that people see of the sales; which file a row came from does not matter."""
    money = {"customer_mart": "total_cost", "sales_mart": "total_cost"}
    seen = {mart: shop.mart(mart, money.get(mart, "*")) for mart in _MARTS}
    return seen | {f"published {name}": shop.published(name) for name in _PUBLISHED}


def files(shop: Shop) -> dict[str, str]:
    """The state of each path's newest delivery."""
    query = "SELECT path, state FROM retailmart_files ORDER BY file_id"
    return dict(shop.backend.query(query))


def states(shop: Shop) -> list[str]:
    """The states of all deliveries, in the order they came."""
    rows = shop.backend.query("SELECT file_id, state FROM retailmart_files ORDER BY file_id")
    return [state for _, state in rows]


@all_marts
@pytest.mark.every_backend
@pytest.mark.every_engine
def test_a_run_is_taken_back_everywhere(shop: Shop) -> None:
    """Raw, marts and published tables are what they were; its files lie in undone/."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-01")])
    shop.run()
    before = figures(shop)
    shop.sales("day/sales_b.csv", [sale(price="5.00"), sale(3, day="2024-03-01"), sale(day="x")])
    second = shop.run()
    assert figures(shop) != before
    report = shop.open().undo(second.run_id)
    assert figures(shop) == before
    assert files(shop) == {"sales_a.csv": "loaded", "day/sales_b.csv": "undone"}
    stamp = second.batches[0].archived_to.removeprefix("processed/")
    assert f"undone/{stamp}/day/sales_b.csv" in shop.archived()
    assert not [path for path in shop.archived() if path.startswith(f"processed/{stamp}")]
    (gone,) = report.batches[0].differences
    assert (gone.path, gone.rows, str(gone.amount)) == ("day/sales_b.csv", -2, "-15.00")
    assert report.batches[0].undoes == second.run_id


@all_marts
def test_its_files_can_come_again(shop: Shop) -> None:
    """What was taken back counts as never seen: delivered again, it is loaded and no duplicate."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    before = figures(shop)
    shop.open().undo(first.run_id)
    assert shop.mart("customer_mart") == []
    shop.sales("sales_a.csv", [sale()])
    assert shop.run().count("loaded") == 1
    assert figures(shop) == before


@pytest.mark.every_engine
def test_its_files_can_come_again_where_a_table_had_changed_too(shop: Shop) -> None:
    """The undo rebuilds the marts, from no row at all; what they then hold counts from nothing."""
    shop.drop("market1/deliveries_a.csv", "Task_ID,Order_ID,Task_Type,Rating\nt1,YR-6,PICKUP,3\n")
    shop.run()
    shop.backend.execute_in_shop(
        "INSERT INTO customer VALUES (10, 'Late', 'L', 'r', '6', '9', '2020-01-01')"
    )
    shop.sales("sales_a.csv", [sale()])
    shop.open().undo(shop.run().run_id)
    shop.sales("sales_a.csv", [sale()])
    assert shop.run().held == ()
    assert len(shop.mart("customer_mart")) == 1


@all_marts
def test_the_version_that_it_replaced_counts_again(shop: Shop) -> None:
    """A correction that is taken back brings the older version back from the archive."""
    shop.sales("sales_a.csv", [sale(price="1.00"), sale(2)])
    shop.run()
    before = figures(shop)
    shop.sales("sales_a.csv", [sale(price="7.00")])
    wrong = shop.run()
    shop.open().undo(wrong.run_id)
    assert figures(shop) == before
    assert states(shop) == ["loaded", "undone"]
    shop.sales("sales_a.csv", [sale(price="7.00")])
    shop.run()
    assert [row[0] for row in shop.mart("customer_mart", "total_cost")] == [7]


@all_marts
def test_a_table_goes_back_with_a_run_whose_file_counts_already(shop: Shop) -> None:
    """No row of a file leaves; what the run took over from a changed table does."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    before = figures(shop), shop.rows_of("raw/customer")
    shop.backend.execute_in_shop("UPDATE customer SET first_name = 'Changed'")
    shop.sales("sales_b.csv", [sale()])
    second = shop.run()
    assert shop.rows_of("raw/customer") != before[1]
    shop.open().undo(second.run_id)
    assert (figures(shop), shop.rows_of("raw/customer")) == before


def test_a_second_undo_has_nothing_to_do(shop: Shop) -> None:
    """Said twice, done once."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    shop.open().undo(first.run_id)
    assert shop.open().undo(first.run_id).nothing_to_do
    assert shop.mart("customer_mart") == []


@all_marts
def test_what_a_later_run_stands_on_is_not_taken_back(shop: Shop) -> None:
    """The reason names the later run, and nothing has changed."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    shop.sales("sales_a.csv", [sale(2)])
    second = shop.run()
    shop.sales("sales_b.csv", [sale(2)])
    third = shop.run()
    before = figures(shop)
    with pytest.raises(RetailmartError, match=f"replaced by run {second.run_id}; undo that first"):
        shop.open().undo(first.run_id)
    with pytest.raises(RetailmartError, match=f"sales_b.csv of run {third.run_id} is counted thr"):
        shop.open().undo(second.run_id)
    assert figures(shop) == before


@pytest.mark.parametrize("case", ["unknown", "empty", "undo"])
def test_what_is_no_run_of_files_is_told(shop: Shop, case: str) -> None:
    """A run that is not there, one without files, and one that took another back."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    run_id, words = 99, "there is no run 99"
    if case == "empty":
        run_id, words = shop.run().run_id, "brought no file"
    if case == "undo":
        run_id, words = shop.open().undo(first.run_id).run_id, "took another run back"
    with pytest.raises(RetailmartError, match=words):
        shop.open().undo(run_id)


def test_an_older_version_that_is_gone_from_the_archive(shop: Shop) -> None:
    """It can't come back, so nothing is taken back; the message says where it is missed."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    shop.sales("sales_a.csv", [sale(2)])
    second = shop.run()
    shop.backend.forget(f"archive/{first.batches[0].archived_to}/sales_a.csv")
    with pytest.raises(RetailmartError, match="no longer in"):
        shop.open().undo(second.run_id)
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [2]
