"""The tills' marts on values that are rare: the last day there is, rates with many digits."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from tests.support.shop import Shop, all_marts, sale


@all_marts
def test_a_sale_of_the_last_day_there_is_has_its_customer(shop: Shop) -> None:
    """9999-12-31, a usual "no date", is within a version that is valid for ever."""
    days = ["0001-01-01", "9999-12-30", "9999-12-31"]
    shop.sales("sales.csv", [sale(day=day) for day in days])
    shop.run()
    for mart, column in (("customer_mart", "first_name"), ("sales_mart", "store_manager_name")):
        found = shop.mart(mart, f"sales_date, {column} IS NOT NULL")
        assert found == [(date.fromisoformat(day), True) for day in days], mart


@all_marts
@pytest.mark.parametrize(
    ("rate", "total"),
    [
        ("0.01234567890123", "123456.78"),
        ("0.0000000000000001", "999999999999.99"),
        ("9", "999999999999.99"),
        ("0.005", "-1.00"),
    ],
)
def test_an_incentive_is_exact_for_any_rate(shop: Shop, rate: str, total: str) -> None:
    """The product has more digits than either factor, and is rounded once, half-up."""
    settings = shop.folder / "retailmart.yml"
    settings.write_text(f"{settings.read_text()}\nvariables: {{incentive_rate: {rate}}}\n")
    shop.sales("sales.csv", [sale(total=total)])
    shop.run()
    wanted = (Decimal(total) * Decimal(rate)).quantize(Decimal("0.01"), "ROUND_HALF_UP")
    assert shop.mart("sales_team_incentive", "incentive") == [(wanted,)]
