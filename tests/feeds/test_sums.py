"""Sums of money are exact, also where they have more digits than the engine's decimals."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import reduce
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.feeds.sums import exact, exact_sum
from retailmart.project.types import ColumnType
from tests.support.backends import on_mariadb
from tests.support.services.mariadb import Database
from tests.support.shop import Shop, keep_only

_WIDE = Context(prec=100)
_FEED = """files: ['entries*.csv']
month: day
balance: amount
columns:
  id: INT
  day: {type: DATE, mandatory: true}
  amount: {type: "DECIMAL(38,2)", mandatory: true}
  part: STRING
"""
_MART = """-- refresh: append
-- partitions: [_month]
-- key: [_month, id]
-- balance: {entries: amount}
-- publish: true
SELECT id, amount, _month FROM entries
"""
_BY_MONTH = """-- refresh: months
-- partitions: [_month]
-- agrees: {listed: {amount: amount}}
SELECT id, amount, _month FROM entries
"""
_MOST = "999999999999999999999999999999999999.99"


@settings(deadline=None)
@given(
    precision=st.sampled_from((18, 28, 29, 38)),
    scale=st.integers(0, 38),
    units=st.lists(st.integers(-(10**38) + 1, 10**38 - 1), max_size=20),
)
def test_any_decimals_add_up_as_on_paper(precision: int, scale: int, units: list[int]) -> None:
    """Signs, digits and scales of all kinds; 0 where there is no row."""
    scale = min(scale, precision)
    kind = ColumnType("DECIMAL", precision, scale)
    values = [Decimal(f"{int(str(unit)[:precision])}E-{scale}") for unit in units]
    rows = ", ".join(f"(CAST('{value:f}' AS {kind}))" for value in values) or "(NULL)"
    with duckdb.connect() as engine:
        query = f"SELECT {exact_sum('x', kind)} FROM (VALUES {rows}) t(x)"
        (found,) = engine.execute(query).fetchall()[0]
    assert exact(found, kind) == reduce(_WIDE.add, values, Decimal(0))


@pytest.fixture
def entries(shop: Shop) -> Shop:
    """A feed of entries with as many digits as there are."""
    keep_only(shop.folder, marts=(), feeds=(), tables=())
    (shop.folder / "feeds" / "entries.yml").write_text(_FEED)
    (shop.folder / "marts" / "listed.sql").write_text(_MART)
    return shop


def deliver(shop: Shop, name: str, *amounts: str) -> Path:
    """A file of entries of one month."""
    first = int(name[len("entries_")]) * 1000
    lines = "".join(f"{first + n},2024-01-05,{text},x\n" for n, text in enumerate(amounts))
    return shop.drop(name, f"id,day,amount,part\n{lines}")


def test_a_month_whose_sum_has_39_digits_balances(entries: Shop, database: Database) -> None:
    """In raw, in the mart, in the ledger and in the database, over several runs and an undo."""
    shop = Shop(entries.folder, on_mariadb(entries.folder, database))
    deliver(shop, "entries_1.csv", *[_MOST] * 11)
    (line,) = shop.run().batches[0].balance
    assert line.amount == Decimal("10999999999999999999999999999999999999.89")
    deliver(shop, "entries_2.csv", "0.01", _MOST)
    report = shop.run()
    assert report.held == ()
    assert report.batches[0].balance[0].amount == Decimal(
        "11999999999999999999999999999999999999.89"
    )
    ((total,),) = database.query("SELECT sum(amount) FROM listed")
    assert total == report.batches[0].balance[0].amount
    deliver(shop, "entries_1.csv", *[_MOST] * 10)
    (difference,) = shop.run().batches[0].differences
    assert difference.amount == Decimal(f"-{_MOST}")
    assert shop.open().undo(3).batches[0].balance[0].amount == total


def test_marts_whose_sums_have_too_many_digits_to_compare_are_held_back(
    entries: Shop, database: Database
) -> None:
    """It is told, and the run goes on."""
    shop = Shop(entries.folder, on_mariadb(entries.folder, database))
    (shop.folder / "marts" / "again.sql").write_text(
        _BY_MONTH.replace("agrees: {listed: {amount: amount}}", "agrees: {months: {amount: n}}")
    )
    (shop.folder / "marts" / "months.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\n-- key: [_month]\n"
        "SELECT _month, CAST(0 AS DECIMAL(38,2)) AS n FROM entries GROUP BY 1"
    )
    deliver(shop, "entries_1.csv", *[_MOST] * 200)
    held = {one.mart: one.message for one in shop.run().held}
    assert held.keys() == {"again", "months"}
    assert "do not agree" in held["again"]
    assert len(shop.published("listed")) == 200
