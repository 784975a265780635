"""An undone run leaves everything as it was before it, to the digest, or says what goes first."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from retailmart import RetailmartError
from retailmart.lake import Lake
from retailmart.ledger import Ledger, acquire_lease
from retailmart.ledger.batches import Batches
from retailmart.ledger.values import FileState, NewFile
from retailmart.operations import batch
from tests.support.digests import digests
from tests.support.shop import AS_OF, HEADER, Shop, keep_only, sale

_ORDERS = (
    "Order ID,Order Status,Category Name,SKU,Quantity,Unit Price,Total Price,Order Total,Sub Total,"
    "Payment Method,Currency Symbol,Customer ID,Merchant ID,Distance (in km),Order Time,Pickup Time"
    ",Delivery Time"
)


_MARKETS = ("market_orders", "market_order_totals", "market_metrics", "market_users")
_WITH_MARKETS = [
    pytest.param(
        ("tills", "markets"),
        ("customer_mart", "customer_monthly_purchase", *_MARKETS),
        id="markets, too",
    )
]


def order(shop: Shop, name: str, *totals: str) -> None:
    """A file of market 1 with one order, number 7, of so many lines."""
    lines = (
        f"7,COMPLETED,Food,A,1,{t},{t},{t},{t},Card,KSh,1,5,1.5,2024-01-05T10:00:00Z,-,-"
        for t in totals
    )
    shop.drop(f"market1/{name}", "\n".join([_ORDERS, *lines]) + "\n")


def revenue(shop: Shop) -> str:
    """The market's revenue: of each order its newest file counts."""
    return ", ".join(str(amount) for (amount,) in shop.mart("market_metrics", "revenue"))


def undo(shop: Shop, run_id: int) -> None:
    """Undo it as people do, without saying for which moment."""
    shop.open().undo(run_id)


@pytest.mark.parametrize(("stories", "marts"), _WITH_MARKETS)
def test_undoing_the_newest_run_restores_every_table(shop: Shop) -> None:
    """Corrections, copies, refused rows and files of several feeds: all is as before, in place."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-01"), sale(3, day="x"), sale(3)])
    order(shop, "orders_a.csv", "10.00")
    shop.drop("market1/users.json", '[{"Customer ID":1,"Loyalty Points":9}]')
    shop.run()
    order(shop, "orders_b.csv", "20.00")
    shop.sales("sales_b.csv", [sale(5), ",1,tea,2024-01-15,1,10.00,1,10.00"])
    shop.run()
    before = digests(shop)
    assert "quarantine/sales" in before
    order(shop, "orders_a.csv", "11.00", "5.00")
    shop.sales("sales_a.csv", [sale(), sale(9, day="2024-03-01"), sale(day="y"), sale(day="z")])
    shop.sales("sales_c.csv", [sale(5), ",1,tea,2024-01-15,1,10.00,1,10.00"])
    shop.drop("market1/users.json", '[{"Customer ID":1,"Loyalty Points":5}]')
    third = shop.run(datetime(2024, 6, 1, tzinfo=UTC))
    assert digests(shop) != before
    undo(shop, third.run_id)
    assert digests(shop) == before
    assert shop.run().nothing_to_do


def test_source_tables_are_as_before_the_run(shop: Shop) -> None:
    """What an undone run took of the sources goes too, versions included, and comes again."""
    shop.sales("sales_a.csv", [sale(1), sale(2, day="2024-03-20")])
    shop.run()
    first = digests(shop)
    _rename(shop, "Ann")
    shop.sales("sales_b.csv", [sale(2)])
    shop.run(datetime(2024, 4, 2, tzinfo=UTC))
    second = digests(shop)
    _rename(shop, "Bea")
    shop.sales("sales_a.csv", [sale(1)])
    shop.run(datetime(2024, 4, 3, tzinfo=UTC))
    _rename(shop, "Cleo")
    assert digests(shop) != second
    undo(shop, 3)
    assert digests(shop) == second
    undo(shop, 2)
    assert digests(shop) == first
    assert not shop.run().nothing_to_do
    assert "Cleo" in str(shop.rows_of("raw/customer"))


def _rename(shop: Shop, name: str) -> None:
    shop.backend.execute_in_shop(f"UPDATE customer SET first_name = '{name}' WHERE customer_id = 1")


@pytest.mark.parametrize(("stories", "marts"), _WITH_MARKETS)
def test_a_delivery_after_an_undo_is_newer(shop: Shop) -> None:
    """A file that an undo brought back counts in its old place, and the next one after it."""
    order(shop, "orders_a.csv", "10.00")
    shop.run()
    order(shop, "orders_b.csv", "20.00")
    shop.run()
    order(shop, "orders_a.csv", "11.00")
    undo(shop, shop.run().run_id)
    assert revenue(shop) == "20.00"
    order(shop, "orders_a.csv", "12.00")
    fifth = shop.run()
    assert revenue(shop) == "12.00"
    undo(shop, fifth.run_id)
    assert revenue(shop) == "20.00"
    undo(shop, 2)
    assert revenue(shop) == "10.00"


def test_what_stands_on_a_run_goes_first_in_order(shop: Shop) -> None:
    """The refusal names the runs to undo first, each of which can then be undone."""
    first, second, third = ([HEADER, sale(price=f"{n}.00")] for n in (1, 2, 3))
    for name, lines in (
        *(("sales_a.csv", first), ("sales_a.csv", second), ("sales_c.csv", first)),
        *(("sales_d.csv", third), ("sales_b.csv", first)),
    ):
        shop.drop(name, "\n".join(lines) + "\n")
        shop.run()
    with pytest.raises(RetailmartError) as told:
        undo(shop, 1)
    assert "sales_a.csv was replaced by run 2; undo that first" in told.value.message
    commands = "retailmart undo 5, then retailmart undo 3, then retailmart undo 2"
    assert told.value.hint == f"Run: {commands}"
    for run_id in (5, 3, 2, 1):
        undo(shop, run_id)
    assert [row[0] for row in shop.mart("customer_mart", "total_cost")] == [3]


def test_what_stands_on_what_stands_on_a_run_goes_before_it(shop: Shop) -> None:
    """The second run's other file, of which the first knows nothing, holds the third run."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.sales("sales_a.csv", [sale(2)])
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()
    shop.sales("sales_c.csv", [sale(3)])
    shop.run()
    with pytest.raises(RetailmartError) as refusal:
        undo(shop, 1)
    assert refusal.value.hint == "Run: retailmart undo 3, then retailmart undo 2"
    for run_id in (3, 2, 1):
        undo(shop, run_id)
    assert shop.mart("customer_mart") == []


def test_the_same_file_delivered_again_counts_instead(shop: Shop) -> None:
    """As if the run had never been: its duplicate is the first delivery then, and can be undone."""
    shop.sales("sales_a.csv", [sale(1), sale(2, day="x")])
    shop.run()
    marts = shop.mart("customer_mart", "customer_id, total_cost")
    shop.sales("sales_a.csv", [sale(1), sale(2, day="x")])
    assert shop.run().count("duplicate") == 1
    report = shop.open().undo(1)
    assert [(line.path, line.rows) for line in report.batches[0].differences] == [
        ("sales_a.csv", -1),
        ("sales_a.csv", 1),
    ]
    (line,) = report.files
    assert (line.state, line.message, line.quarantined) == ("loaded", None, 1)
    assert shop.mart("customer_mart", "customer_id, total_cost") == marts
    assert len(shop.refused()) == 1
    assert shop.run().nothing_to_do
    undo(shop, 2)
    assert shop.mart("customer_mart") == shop.refused() == []


@pytest.mark.parametrize("number", [2, 3])
def test_a_batch_that_a_later_run_finished_goes_by_either_number(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A run was cut off, the next one finished its batch: whichever one names, it is undone."""
    shop.sales("sales_a.csv", [sale(1)])
    shop.run()
    before = digests(shop)

    def cut_off(*_: Any) -> None:
        raise OSError("cut off")

    shop.sales("sales_a.csv", [sale(2)])
    monkeypatch.setattr(batch, "archive", cut_off)
    with pytest.raises(OSError, match="cut off"):
        shop.run()
    monkeypatch.undo()
    shop.run()
    undo(shop, number)
    assert digests(shop) == before
    again = shop.open().undo(5 - number)
    assert again.nothing_to_do
    assert again.undone_already is not None
    assert again.undone_already.message.startswith(
        f"run {5 - number} is undone already by run 4, 2"
    )


def test_undo_is_computed_for_the_moment_that_one_names(shop: Shop) -> None:
    """`--as-of` goes before the moment of the newest run that stays."""
    shop.sales("sales_a.csv", [sale(day="2024-02-10", price="9.00")])
    shop.run()
    shop.sales("sales_b.csv", [sale(day="2024-03-10", price="1.00")])
    second = shop.run(datetime(2024, 5, 1, tzinfo=UTC))
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    assert shop.open().undo(second.run_id, moment).as_of == moment


def test_an_archived_version_that_was_changed_by_hand_is_told(shop: Shop) -> None:
    """Nothing is undone with a content that nobody delivered: the file and the fix are named."""
    shop.sales("sales_a.csv", [sale(1)])
    stamp = shop.run().batches[0].archived_to
    shop.sales("sales_a.csv", [sale(2)])
    shop.run()
    before = digests(shop)
    path = shop.folder / "archive" / stamp / "sales_a.csv"
    delivered = path.read_bytes()
    path.write_bytes(delivered + b"1,1,tea,2024-01-15,1,9.00,1,9.00\n")
    with pytest.raises(RetailmartError, match=f"changed by hand: {stamp}/sales_a.csv in") as told:
        undo(shop, 2)
    assert "as it was delivered" in str(told.value.hint)
    assert digests(shop) == before
    path.write_bytes(delivered)
    undo(shop, 2)
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1]


def _of_an_earlier_release(shop: Shop) -> None:
    """Make the ledger what it was before the fourth migration."""
    shop.backend.execute(
        "DROP INDEX retailmart_files_by_name",
        "ALTER TABLE retailmart_files DROP COLUMN name_hash",
        "ALTER TABLE retailmart_batches DROP COLUMN finished_by",
        "ALTER TABLE retailmart_sources DROP COLUMN collation",
        "DROP TABLE retailmart_published",
        "DELETE FROM retailmart_migrations WHERE name >= 'm004'",
    )


def _begin_an_old_undo(shop: Shop, run_id: int, version: int) -> None:
    """Stage what takes a run back as earlier releases did.

    What comes back was a delivery of its own: file `version` again, under its name.
    """
    lock = shop.folder / ".retailmart" / "lock"
    with shop.open().ledger() as known, acquire_lease(known.engine, lock) as lease:
        ledger = Ledger(known.engine, lease)
        old = ledger.files.get(version)
        back = NewFile(old.path, old.sha256, old.size, "", FileState.ACTIVE, old.feed)
        ledger.batches.stage(ledger.runs.begin(AS_OF), AS_OF, [back], undoes=run_id)


@pytest.mark.parametrize("reached", ["active", "prepared", "committed", "published"])
def test_an_undo_that_an_earlier_release_began_is_finished(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    """Wherever it was cut off; the run is back then, and is not taken back once more."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_mart", "customer_monthly_purchase"])
    shop.sales("sales_a.csv", [sale(1), sale(2)])
    shop.run()
    bought = "customer_id, total_cost"
    before = shop.mart("customer_mart", bought), shop.published("customer_monthly_purchase")
    shop.sales("sales_a.csv", [sale(1, price="99.00")])
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()
    _begin_an_old_undo(shop, run_id=2, version=1)

    def cut_off(*_: Any) -> None:
        raise OSError("cut off")

    steps = {
        "prepared": (Lake, "commit"),
        "committed": (Batches, "mark_published"),
        "published": (batch, "archive"),
    }
    if reached in steps:
        monkeypatch.setattr(*steps[reached], cut_off)
        with pytest.raises(OSError, match="cut off"):
            shop.run()
        monkeypatch.undo()
    _of_an_earlier_release(shop)
    with closing(sqlite3.connect(shop.folder / "retail.db")) as connection:
        states = connection.execute("SELECT state FROM retailmart_batches ORDER BY batch_id")
        assert [state for (state,) in states] == ["done", "done", reached]
    report = shop.run()
    assert [(batch.undoes, batch.recovered) for batch in report.batches] == [(2, True)]
    after = shop.mart("customer_mart", bought), shop.published("customer_monthly_purchase")
    assert after == before
    assert not shop.open().verify_database().different
    assert any(path.startswith("undone/") for path in shop.archived())
    assert shop.run().nothing_to_do
    assert shop.open().undo(2).nothing_to_do
    # What came back belongs to the run that delivered it first, and leaves with it.
    undo(shop, 1)
    assert shop.mart("customer_mart") == shop.published("customer_monthly_purchase") == []


def test_a_file_that_old_undos_brought_back_twice_leaves_with_its_run(shop: Shop) -> None:
    """Each earlier undo staged it again; it can be corrected, return and leave like any other."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_mart"])
    shop.sales("sales_a.csv", [sale(1), sale(2)])
    shop.run()
    for version in (1, 3):
        shop.sales("sales_a.csv", [sale(version, price="99.00")])
        _begin_an_old_undo(shop, run_id=shop.run().run_id, version=version)
        shop.run()
    assert len(shop.mart("customer_mart")) == 2
    shop.sales("sales_a.csv", [sale(9)])
    last = shop.run().run_id
    with pytest.raises(RetailmartError, match=f"replaced by run {last}"):
        undo(shop, 1)
    undo(shop, last)
    assert len(shop.mart("customer_mart")) == 2
    undo(shop, 1)
    assert shop.mart("customer_mart") == []


def test_an_old_undo_whose_file_is_gone_says_what_to_do(shop: Shop) -> None:
    """The archive lacks what comes back: it is named, and the undo can be let go instead."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_mart"])
    shop.sales("sales_a.csv", [sale(1), sale(2)])
    shop.run()
    shop.sales("sales_a.csv", [sale(1, price="99.00")])
    shop.run()
    _begin_an_old_undo(shop, run_id=2, version=1)
    _of_an_earlier_release(shop)
    (old, *_) = (path for path in shop.archived() if path.endswith("sales_a.csv"))
    content = (shop.folder / "archive" / old).read_bytes()
    (shop.folder / "archive" / old).unlink()
    with pytest.raises(RetailmartError, match=r"sales_a.csv of the unfinished batch 3"):
        shop.run()
    assert "abandoned" in shop.open().abandon()
    (shop.folder / "archive" / old).write_bytes(content)
    undo(shop, 2)
    assert len(shop.mart("customer_mart")) == 2


def test_an_old_undo_that_would_be_refused_today_says_what_to_do(shop: Shop) -> None:
    """Its release knew fewer rules: it is let go, and the runs to undo first are named."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_mart"])
    for price in ("1.00", "2.00"):
        shop.sales("sales_a.csv", [sale(1, price=price)])
        shop.run()
    _begin_an_old_undo(shop, run_id=1, version=1)
    _of_an_earlier_release(shop)
    words = r"unfinished batch 3 can't be finished: run 1 can't be taken back(.|\n)*was replaced by"
    for _ in range(2):
        with pytest.raises(RetailmartError, match=words) as refused:
            shop.run()
        assert refused.value.hint is not None
        assert "retailmart abandon. Run: retailmart undo 2" in refused.value.hint
    shop.open().abandon()
    undo(shop, 2)
    undo(shop, 1)
    assert shop.mart("customer_mart") == []
