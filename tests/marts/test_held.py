"""Marts that can't be built or published stay at their last good state; all others go on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from retailmart.errors import RetailmartError
from retailmart.operations import batch
from tests.support.shop import Called, Shop, keep_only, sale

RATIO = """-- about: what a piece costs in a month
-- refresh: months
-- partitions: [_month]
-- key: [_month, store_id]
-- publish: true
SELECT store_id, _month, CAST(sum(total_cost) * 100 AS DECIMAL(8, 2)) AS cents
FROM sales GROUP BY ALL
"""
READER = """-- about: months
-- refresh: full
-- key: [months]
-- publish: true
SELECT count(*) AS months FROM cents
"""


@pytest.fixture
def small(shop: Shop) -> Shop:
    """A shop with a mart of its own, one that reads it, and one that does not."""
    keep_only(shop.folder, marts=["customer_monthly_purchase"], feeds=["sales"])
    (shop.folder / "marts" / "cents.sql").write_text(RATIO)
    (shop.folder / "marts" / "months.sql").write_text(READER)
    return shop


def test_a_mart_that_overflows_is_held_back_with_its_readers(small: Shop) -> None:
    """Its months stay as they were, in lake and database, until a good file comes."""
    small.sales("sales_a.csv", [sale()])
    small.run()
    small.sales("sales_b.csv", [sale(day="2024-02-01", price="99999.99")])
    for _ in range(2):
        held = {one.mart: one for one in small.run().held}
        assert held.keys() == {"cents", "months"}
        assert "marts/cents.sql:6" in held["cents"].message
        assert held["cents"].hint
        assert held["months"].cause == "cents"
        assert small.mart("cents", "cents") == [(Decimal(1000),)]
        assert small.published("months") == [(1,)]
        assert len(small.published("customer_monthly_purchase")) == 2
    small.sales("sales_b.csv", [sale(day="2024-02-01", price="0.99")])
    assert small.run().held == ()
    assert small.published("months") == [(2,)]
    assert small.run().nothing_to_do


def test_a_held_mart_is_told_by_exit_code_5(small: Shop, called: Called) -> None:
    """The message names the mart, the place and a fix; status says so, too, until it is right."""
    small.sales("sales.csv", [sale(price="99999.99")])
    done = called(small.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 5
    assert "retailmart: the run is done, but:\n  2 marts are held back" in done.stderr
    assert "cents: marts/cents.sql:6" in done.stderr
    listed = called(small.folder, "status").stdout
    assert "held back  cents: marts/cents.sql:6" in listed
    assert "           Widen the expression in the SELECT" in listed
    assert "held back  months: it reads cents" in listed
    cents, months = json.loads(called(small.folder, "status", "-o", "json").stdout)["held"]
    assert (cents["mart"], cents["cause"], months["cause"]) == ("cents", None, "cents")
    small.sales("sales.csv", [sale(price="0.99")])
    small.run()
    assert small.open().status().held == ()


def test_status_says_what_the_database_refuses(shop: Shop) -> None:
    """Two rows with one key are found before, a trigger's refusal by the server: both are kept."""
    keep_only(shop.folder, marts=[], feeds=["sales"])
    header = "-- refresh: full\n-- key: [n]\n-- publish: true\n"
    for name, select in {"twice": "SELECT 1 AS n FROM sales", "blocked": "SELECT 1 AS n"}.items():
        (shop.folder / "marts" / f"{name}.sql").write_text(header + select)
    shop.sales("sales.csv", [sale(), sale(2)])
    shop.run()
    (shop.folder / "marts" / "blocked.sql").write_text(f"{header}SELECT 2 AS n")
    shop.backend.execute(
        "CREATE TRIGGER no_more BEFORE INSERT ON blocked BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    told = {one.mart: (one.message, one.hint) for one in shop.run().held}
    assert told.keys() == {"twice", "blocked"}
    assert {one.mart: (one.message, one.hint) for one in shop.open().status().held} == told


def test_status_of_an_older_ledger_says_that_the_reason_is_not_recorded(small: Shop) -> None:
    """What an earlier release has held back is listed until the next run, which tells why."""
    small.sales("sales.csv", [sale(price="99999.99")])
    small.run()
    small.backend.execute(
        "DROP TABLE retailmart_held",
        "DELETE FROM retailmart_migrations WHERE name >= 'm012'",
    )
    cents, _ = small.open().status().held
    assert "has not recorded why" in cents.message
    small.run()
    assert "marts/cents.sql:6" in small.open().status().held[0].message


@pytest.mark.parametrize(
    ("select", "words"),
    [
        (
            "9999999999999999::DECIMAL(38, 2) AS v",
            "column v, row _month 2024-01: '9999999999999999",
        ),
        ("'nan'::DOUBLE AS v", "column v, row _month 2024-01: 'nan'"),
        ("1 AS v UNION ALL SELECT '2024-01', 2", "row _month 2024-01: 2 rows have this key"),
    ],
)
def test_what_the_database_cannot_hold_is_found_before_anything_is_decided(
    shop: Shop, select: str, words: str
) -> None:
    """The row and the value are told; the table stands there without rows."""
    keep_only(shop.folder, marts=[], feeds=["sales"])
    header = "-- refresh: full\n-- key: [_month]\n-- publish: true\n"
    (shop.folder / "marts" / "odd.sql").write_text(
        f"{header}SELECT '2024-01' AS _month, {select}\n"
    )
    (shop.folder / "marts" / "even.sql").write_text(
        f"{header}SELECT _month, count(*) AS n FROM sales GROUP BY ALL\n"
    )
    shop.sales("sales.csv", [sale()])
    [held] = shop.run().held
    assert held.mart == "odd"
    assert words in held.message
    assert shop.published("odd") == []
    assert len(shop.published("even")) == 1


def test_a_batch_that_is_not_prepared_can_be_abandoned(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files count as never seen; where there is none, that is said."""
    shop.sales("sales.csv", [sale()])
    assert "no open batch" in shop.open().abandon()

    def cut_off(*_: object, **__: object) -> None:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "load", cut_off)
        with pytest.raises(RuntimeError, match="cut off"):
            shop.run()
    with shop.open().ledger() as ledger:
        assert ledger.batches.unfinished() is not None
    assert "abandoned; its 1 file stays" in shop.open().abandon()
    assert shop.run(datetime(2024, 4, 2, tzinfo=UTC)).count("loaded") == 1


def test_an_unfinished_batch_of_a_feed_that_is_gone_waits_for_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are not dropped in silence: the run names the feed, and what can be done."""
    keep_only(shop.folder, feeds=("sales", "users_export"), marts=(), tables=())
    shop.sales("sales.csv", [sale()])

    def cut_off(*_: object, **__: object) -> None:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "load", cut_off)
        with pytest.raises(RuntimeError, match="cut off"):
            shop.run()
    feed = shop.folder / "feeds" / "sales.yml"
    definition = feed.read_text()
    feed.unlink()
    with pytest.raises(RetailmartError, match="of feed 'sales', which the project no longer has"):
        shop.run()
    feed.write_text(definition)
    assert shop.run().rows("loaded") == 1
