"""The webshop's marts against plain Python: scores, windows, averages, and odd tables."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from tests.support.amount import SEED
from tests.support.judge_shop import KEYS, ShopRules, webshop_marts
from tests.support.shop import AS_OF, Shop, sale
from tests.template.looking import differences, mart, one

MARTS = [name for name in KEYS if not name.startswith("market_")]
_TABLES = {
    "customers": "customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT, email TEXT,"
    " created_at DATETIME",
    "products": "product_id INTEGER PRIMARY KEY, name TEXT, description TEXT,"
    " price DECIMAL(12,2), stock_quantity INTEGER, created_at DATETIME",
    "orders": "order_id INTEGER PRIMARY KEY, customer_id INTEGER, order_date DATETIME,"
    " total_amount DECIMAL(12,2), status VARCHAR(20)",
    "order_items": "item_id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER,"
    " quantity INTEGER, unit_price DECIMAL(12,2), created_at DATETIME",
    "inventory_locations": "location_id INTEGER PRIMARY KEY, warehouse_code TEXT, city TEXT,"
    " country TEXT, capacity INTEGER, created_at DATETIME",
    "product_inventory": "inventory_id INTEGER PRIMARY KEY, product_id INTEGER,"
    " location_id INTEGER, quantity INTEGER, last_updated DATETIME",
}
_OPENED = "2023-01-01 00:00:00"


@pytest.fixture
def stories() -> Collection[str]:
    """No other story's marts are looked at."""
    return ("webshop",)


@dataclass
class Webshop:
    """Rows of a webshop's tables, to be written into a shop's database."""

    own_capacity: bool = True
    rows: dict[str, list[tuple[Any, ...]]] = field(
        default_factory=lambda: {table: [] for table in _TABLES}
    )

    def customer(self, number: int) -> None:
        self._add("customers", number, f"First{number}", f"Last{number}", "", _OPENED)

    def product(self, number: int, stock: int | None = 0) -> None:
        self._add("products", number, f"Product {number}", "", "10.00", stock, _OPENED)

    def location(self, number: int, capacity: int | None) -> None:
        self._add("inventory_locations", number, f"W-{number}", "Pune", "India", capacity, _OPENED)

    def slot(
        self,
        product: int | None,
        place: int | None,
        quantity: int | None,
        days: float | None = 0,
        capacity: int | None = None,
    ) -> None:
        """What lies where; it was counted `days` before AS_OF."""
        counted = None if days is None else _text(AS_OF - timedelta(days=days))
        own = (capacity,) if self.own_capacity else ()
        number = len(self.rows["product_inventory"]) + 1
        self._add("product_inventory", number, product, place, quantity, counted, *own)

    def order(
        self,
        customer: int | None,
        at: datetime | None,
        amount: str | None = "10.00",
        status: str | None = "completed",
        items: Mapping[int, int | None] | None = None,
    ) -> None:
        """An order; `items` are pieces by product."""
        number = len(self.rows["orders"]) + 1
        placed = None if at is None else _text(at)
        self._add("orders", number, customer, placed, amount, status)
        for product, pieces in (items or {}).items():
            item = len(self.rows["order_items"]) + 1
            self._add("order_items", item, number, product, pieces, "1.00", placed)

    def _add(self, table: str, *values: Any) -> None:
        self.rows[table].append(values)

    def write(self, shop: Shop) -> None:
        """Make the tables in the shop's database, and let something land."""
        for table, columns in _TABLES.items():
            own = ", capacity INTEGER" if table == "product_inventory" and self.own_capacity else ""
            shop.backend.execute_in_shop(f"CREATE TABLE {table} ({columns}{own})")
            if self.rows[table]:
                listed = ", ".join(f"({', '.join(map(_literal, row))})" for row in self.rows[table])
                shop.backend.execute_in_shop(f"INSERT INTO {table} VALUES {listed}")
        shop.sales("sales_1.csv", [sale()])


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _literal(value: Any) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def random_webshop(seed: int) -> Webshop:
    """Small and full of the oddities that a shop's tables have."""
    rng = random.Random(f"{SEED} {seed}")
    webshop = Webshop(own_capacity=seed % 2 == 0)
    for number in range(1, 15):
        if number != 9:
            webshop.customer(number)
    for number in range(1, 9):
        webshop.product(number, rng.choice((None, -3, 0, 1, 7, 40)))
    for number in range(1, 5):
        webshop.location(number, rng.choice((None, 0, -1, 90, 100)))
    for _ in range(30):
        webshop.slot(
            rng.choice((None, *range(1, 11))),
            rng.choice((None, *range(1, 6))),
            rng.choice((None, -2, 0, 3, 17, 45, 200)),
            rng.choice((None, -4, 0, 0.4, 1, 3.7, 60)),
            rng.choice((None, 0, 30, 64, 100)),
        )
    for _ in range(120):
        at = AS_OF - timedelta(seconds=rng.randrange(-200_000, 6_000_000))
        webshop.order(
            rng.choice((None, *range(1, 15))),
            rng.choice((None, *[at] * 9)),
            rng.choice((None, "0.01", "19.99", "33.35", "100.00", "-5.55")),
            rng.choice((None, "completed", "shipped", "cancelled", " Cancelled", "CANCELED")),
            {rng.randrange(1, 11): rng.choice((None, -1, 1, 2, 5)) for _ in range(3)},
        )
    return webshop


@pytest.mark.parametrize("seed", range(4))
def test_any_webshop_is_what_the_judge_makes_of_it(shop: Shop, seed: int) -> None:
    """Random shops of missing, negative, future and unknown values; no number is infinite."""
    random_webshop(seed).write(shop)
    shop.run()
    assert differences(shop, webshop_marts(shop.folder / "shop.db", AS_OF)) == []
    values = [v for name in MARTS for row in mart(shop, name) for v in row.values()]
    assert all(math.isfinite(v) for v in values if isinstance(v, float | Decimal))


def test_settings_move_the_bounds(shop: Shop) -> None:
    """The window, the statuses' bounds and the segments' quintiles follow retailmart.yml."""
    random_webshop(2).write(shop)
    settings = shop.folder / "retailmart.yml"
    settings.write_text(
        settings.read_text() + "variables: {restock_below: 0.4, overstocked_above: 0.6,"
        " turnover_window_days: 7, vip_from_quintile: 2, active_from_quintile: 2}\n"
    )
    shop.run()
    rules = ShopRules(Fraction(4, 10), Fraction(6, 10), 7, 2, 2)
    expected = webshop_marts(shop.folder / "shop.db", AS_OF, rules)
    assert differences(shop, expected) == []
    assert expected != webshop_marts(shop.folder / "shop.db", AS_OF)


def test_scores_of_places_for_a_hundred(shop: Shop) -> None:
    """The score falls with the distance from half full and with age, never below 0."""
    cases: list[tuple[int | None, float | None, int | None, str, int | None]] = [
        (50, 0, 100, "ok", 0),
        (50, 10, 80, "ok", 0),
        (50, 10.9, 80, "ok", 0),
        (50, 70, 0, "ok", 0),
        (50, -3, 100, "ok", 0),
        (20, 0, 40, "ok", 30),
        (19, 0, 38, "restock", 31),
        (80, 1, 38, "ok", 0),
        (81, 0, 38, "overstocked", 0),
        (100, 0, 0, "overstocked", 0),
        (5000, 0, 0, "overstocked", 0),
        (0, 0, 0, "restock", 50),
        (-10, 0, 0, "restock", 60),
        (None, 0, None, "no quantity", None),
        (50, None, None, "ok", 0),
    ]
    webshop = Webshop()
    webshop.location(1, 5)
    for product, (quantity, days, *_) in enumerate(cases, 1):
        webshop.slot(product, 1, quantity, days, capacity=100)
    webshop.write(shop)
    shop.run()
    for case, row in zip(cases, mart(shop, "inventory_analytics"), strict=True):
        _, _, score, status, suggested = case
        assert (row["inventory_score"], row["status"]) == (score, status), case
        assert (row["suggested_quantity"], row["capacity"]) == (suggested, 100), case


@pytest.mark.parametrize("own_capacity", [True, False])
def test_a_place_without_room_has_no_score(shop: Shop, own_capacity: bool) -> None:
    """No capacity, none at all and less than none: no score, said so, and nothing to suggest."""
    webshop = Webshop(own_capacity=own_capacity)
    for place, capacity in enumerate((None, 0, -5, 80), 1):
        webshop.location(place, capacity)
        webshop.slot(1, place, 40)
    webshop.slot(1, 99, 40)
    webshop.write(shop)
    shop.run()
    found = {row["location_id"]: row for row in mart(shop, "inventory_analytics")}
    for place in (1, 2, 3, 99):
        row = found[place]
        assert (row["inventory_score"], row["utilization"]) == (None, None)
        assert (row["status"], row["suggested_quantity"]) == ("no capacity", None)
    assert found[4]["inventory_score"] == 100
    assert found[99]["warehouse_code"] is None


def test_a_capacity_that_comes_later_counts(shop: Shop) -> None:
    """A column that is added to product_inventory goes before the location's from then on."""
    webshop = Webshop(own_capacity=False)
    webshop.location(1, 400)
    webshop.slot(1, 1, 100)
    webshop.write(shop)
    shop.run()
    assert one(shop, "inventory_analytics", product_id=1)["capacity"] == 400
    shop.backend.execute_in_shop(
        "ALTER TABLE product_inventory ADD COLUMN capacity INTEGER",
        "UPDATE product_inventory SET capacity = 200",
    )
    shop.sales("sales_2.csv", [sale(2)])
    shop.run()
    row = one(shop, "inventory_analytics", product_id=1)
    assert (row["capacity"], row["inventory_score"]) == (200, 100)


def test_scores_follow_as_of_alone(shop: Shop) -> None:
    """A run of another day counts the days anew; the wall clock is never asked."""
    webshop = Webshop()
    webshop.location(1, 100)
    webshop.slot(1, 1, 50, days=2)
    webshop.write(shop)
    shop.run()
    assert one(shop, "inventory_analytics", product_id=1)["days_since_update"] == 2
    shop.run(AS_OF + timedelta(days=5))
    row = one(shop, "inventory_analytics", product_id=1)
    assert (row["days_since_update"], row["inventory_score"]) == (7, 86)


def test_cancelled_orders_count_nowhere(shop: Shop) -> None:
    """However the shop spells it; an order without a status counts."""
    webshop = Webshop()
    webshop.product(1, 10)
    spellings = ("cancelled", "CANCELLED", " Canceled ", "completed", None)
    for number, status in enumerate(spellings, 1):
        webshop.order(number, AS_OF - timedelta(days=1), status=status, items={1: 1})
    webshop.write(shop)
    shop.run()
    assert [row["customer_id"] for row in mart(shop, "order_analytics")] == [4, 5]
    assert [row["customer_id"] for row in mart(shop, "customer_segments")] == [4, 5]
    assert sum(row["orders"] for row in mart(shop, "peak_hours")) == 2
    assert one(shop, "inventory_turnover", product_id=1)["units_sold"] == 2


def test_the_peak_hour_is_the_earliest_of_equals(shop: Shop) -> None:
    """Two orders at 9 and two at 17 make 9; days between orders are those between their moments."""
    webshop = Webshop()
    webshop.customer(1)
    for at in ("2024-03-01T17:10", "2024-03-02T09:30", "2024-03-03T17:20", "2024-03-04T09:10"):
        webshop.order(1, day(at), "0.25")
    webshop.order(2, day("2024-03-05T23:59"), "7.77")
    webshop.write(shop)
    shop.run()
    first, second = mart(shop, "order_analytics")
    assert (first["first_name"], first["peak_order_hour"]) == ("First1", 9)
    assert first["avg_days_between_orders"] == Decimal("0.8889")  # 64 hours between four orders
    assert first["first_order_at"] == day("2024-03-01T17:10")
    assert (second["first_name"], second["avg_days_between_orders"]) == (None, 0)


def test_averages_are_half_up_to_the_cent(shop: Shop) -> None:
    """In decimals: half a cent goes up, and away from nothing where money goes back."""
    cases: list[tuple[tuple[str | None, ...], str]] = [
        (("0.01", "0.02"), "0.02"),
        (("-0.01", "-0.02"), "-0.02"),
        (("10.00", "0.00", "0.00"), "3.33"),
        (("20.00", "0.00", "0.00"), "6.67"),
        (("9999999999.99", "9999999999.98"), "9999999999.99"),
        ((None, "0.05"), "0.03"),
    ]
    webshop = Webshop()
    for customer, (amounts, _) in enumerate(cases, 1):
        for amount in amounts:
            webshop.order(customer, AS_OF, amount)
    webshop.write(shop)
    shop.run()
    found = [row["avg_order_value"] for row in mart(shop, "order_analytics")]
    assert found == [Decimal(average) for _, average in cases]


def test_ratios_are_half_up_to_four_digits(shop: Shop) -> None:
    """In decimals: half of the last digit goes up, in each mart that tells how full a place is."""
    webshop = Webshop(own_capacity=False)
    for place in range(1, 200):
        webshop.location(place, 20_000)
        webshop.slot(1, place, place)
    webshop.write(shop)
    shop.run()
    unit = Decimal("0.0001")
    wanted = [(Decimal(n) / 20_000).quantize(unit, "ROUND_HALF_UP") for n in range(1, 200)]
    for name in ("inventory_analytics", "warehouse_utilization"):
        found = {row["location_id"]: row["utilization"] for row in mart(shop, name)}
        assert [found[place] for place in range(1, 200)] == wanted, name


def test_the_largest_values_of_columns_overflow_in_no_mart(shop: Shop) -> None:
    """Whole numbers of 64 bits and amounts of 18 digits are computed with, not only stored."""
    webshop = Webshop(own_capacity=False)
    webshop.product(1, 2**31 - 1)
    webshop.location(1, 1)
    webshop.location(2, 2**31 - 1)
    for place in (1, 2):
        webshop.slot(1, place, 2**31 - 1)
    webshop.order(1, AS_OF, "9999999999.99", items={1: 2**31 - 1})
    webshop.order(1, AS_OF, "9999999999.99", items={1: 2**31 - 1})
    webshop.write(shop)
    shop.run()
    found = {row["location_id"]: row["utilization"] for row in mart(shop, "warehouse_utilization")}
    assert found == {1: Decimal("2147483647.0000"), 2: Decimal("1.0000")}
    assert one(shop, "order_analytics")["total_spent"] == Decimal("19999999999.98")
    assert one(shop, "inventory_turnover")["turnover"] == Decimal("2.0000")


def test_turnover_looks_at_the_window_alone(shop: Shop) -> None:
    """What was sold 30 days ago to the second is out, what is dated into the future too."""
    webshop = Webshop()
    webshop.product(1, 6)
    webshop.product(2, 0)
    webshop.product(3, 5)
    second = timedelta(seconds=1)
    for at in (AS_OF, AS_OF - timedelta(days=30) + second):
        webshop.order(1, at, items={1: 1, 2: 4, 7: 1})
    for at in (AS_OF + second, AS_OF - timedelta(days=30)):
        webshop.order(1, at, items={1: 100})
    webshop.write(shop)
    shop.run()
    found = {
        row["product_id"]: (row["units_sold"], row["turnover"], row["days_of_cover"])
        for row in mart(shop, "inventory_turnover")
    }
    assert found[1] == (2, Decimal("0.3333"), 90)
    assert found[2] == (8, None, 0)
    assert found[3] == (0, 0, None)
    assert found[7] == (2, None, None)


def test_a_warehouse_without_stock_and_stock_without_a_warehouse(shop: Shop) -> None:
    """Both are shown: nothing that lies anywhere is left out of the sum."""
    webshop = Webshop()
    webshop.location(1, 100)
    webshop.slot(1, 2, 30)
    webshop.slot(2, 2, 0)
    webshop.slot(3, 2, None)
    webshop.write(shop)
    shop.run()
    empty, unknown = mart(shop, "warehouse_utilization")
    assert (empty["stock"], empty["utilization"], empty["products"]) == (0, 0, 0)
    assert (unknown["warehouse_code"], unknown["stock"], unknown["utilization"]) == (None, 30, None)
    assert (unknown["products"], unknown["out_of_stock_products"]) == (3, 2)


def test_equal_customers_are_of_one_segment(shop: Shop) -> None:
    """A fifth never parts those who bought as lately, as often and for as much."""
    webshop = Webshop()
    for number in range(1, 12):
        webshop.order(number, AS_OF - timedelta(days=3))
    webshop.order(12, AS_OF - timedelta(days=90))
    for _ in range(2):
        webshop.order(13, AS_OF)
    webshop.write(shop)
    shop.run()
    rows = mart(shop, "customer_segments")
    names = ("recency_quintile", "frequency_quintile", "monetary_quintile", "segment")
    assert len({tuple(row[name] for name in names) for row in rows[:11]}) == 1
    assert [row["segment"] for row in rows[11:]] == ["lapsed", "VIP"]


@pytest.mark.every_backend
def test_every_mart_is_in_the_database(shop: Shop) -> None:
    """Published under its own name, with as many rows as the lake has."""
    random_webshop(0).write(shop)
    shop.run()
    for name in MARTS:
        assert shop.published(name, "count(*)") == [(len(mart(shop, name)),)]
