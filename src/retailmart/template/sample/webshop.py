"""The sample's webshop: six tables of the shop's database.

240 products, 320 customers and some 2,000 orders of January to March 2024, four warehouses:

- Some 6 % of the orders are cancelled. Three customers in ten left in January or February,
  one in ten was new in March.
- Most slots have their own capacity; a few use their warehouse's. The newest warehouse has no
  capacity either.
- One slot has no capacity, one holds more than fits, one less than nothing, one was never counted,
  one was counted in the future, and a few have not been counted for half a year.
- Two products are in no slot, and two have run out everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, product

Row = tuple[int | str | None, ...]

SCHEMA = """
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    email TEXT, created_at DATETIME);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, name TEXT, description TEXT,
    price DECIMAL(12,2), stock_quantity INTEGER, created_at DATETIME);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INTEGER, order_date DATETIME,
    total_amount DECIMAL(12,2), status TEXT);
CREATE TABLE order_items (item_id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER,
    quantity INTEGER, unit_price DECIMAL(12,2), created_at DATETIME);
CREATE TABLE inventory_locations (location_id INTEGER PRIMARY KEY, warehouse_code TEXT, city TEXT,
    country TEXT, capacity INTEGER, created_at DATETIME);
CREATE TABLE product_inventory (inventory_id INTEGER PRIMARY KEY, product_id INTEGER,
    location_id INTEGER, quantity INTEGER, last_updated DATETIME, capacity INTEGER);
"""

_FIRST_DAY, _LAST_DAY = date(2024, 1, 1), date(2024, 3, 31)
_OPENED = datetime(2021, 8, 2, 9, 0)
_WAREHOUSES = (
    (1, "BLR-1", "Bengaluru", "India", 30_000),
    (2, "MAA-1", "Chennai", "India", 22_000),
    (3, "PNQ-1", "Pune", "India", 18_000),
    (4, "CCU-1", "Kolkata", "India", None),
)
_CUSTOMERS = range(1, 321)
_ORDERS = 2_000
_FORGOTTEN = (239, 240)  # products that are in no warehouse
_SOLD_OUT = (17, 118)
_MATERIALS = "Brass Copper Steel Teak Bamboo Cotton Linen Jute Silk Clay Marble Glass"
_THINGS = """lamp=1450|bowl, set of 4=680|tray=540|bottle 1 l=620|vase=890|photo frame=375
wall clock=1290|storage box=460|lunch box=720|candle holder=310|jewellery case=1150|spice rack=990
serving spoon=185|mug=240|key holder=150|plant pot=330|book end=420|mirror=1850
coaster, set of 6=275|incense stand=120"""
_FIRST_NAMES = """Aarti Abhay Anika Arnav Bhaskar Charu Devika Esha Faisal Gauri Harsha Ishaan
Jaya Kabir Leela Mohan Nandini Omkar Pallavi Rahul Sana Tarun Uma Varun Yasmin Zoya"""
_LAST_NAMES = """Acharya Bose Chawla Dutta Fernandes Gill Hegde Issac Jadhav Kapoor Lal Mathur
Nambiar Oberoi Pandey Qureshi Rathore Sen Thakur Unni Varghese Wagle"""
# How many of a hundred orders arrive in each hour, from midnight (UTC) on.
_HOURS = (1, 1, 0, 0, 1, 2, 4, 6, 5, 4, 4, 5, 6, 5, 6, 9, 11, 10, 7, 5, 3, 2, 2, 1)


@dataclass(frozen=True)
class _Order:
    """An order and its lines: product, pieces, price of one."""

    customer: int
    placed: datetime
    status: str
    lines: Sequence[tuple[int, int, Decimal]]

    @property
    def total(self) -> Decimal:
        return sum((pieces * price for _, pieces, price in self.lines), Decimal(0))


def make(rng: random.Random) -> dict[str, list[Row]]:
    """The rows of each table."""
    articles = list(_articles(rng))
    prices = [Decimal(price) for _, price in articles]
    slots = _slots(rng, len(articles))
    orders = sorted((_order(rng, prices) for _ in range(_ORDERS)), key=lambda order: order.placed)
    return {
        "customers": [_customer(rng, number) for number in _CUSTOMERS],
        "products": [
            (number, name, f"{name}, made by hand", price, _stock(slots, number), str(_OPENED))
            for number, (name, price) in enumerate(articles, 1)
        ],
        "orders": [
            (number, order.customer, str(order.placed), str(order.total), order.status)
            for number, order in enumerate(orders, 1)
        ],
        "order_items": _items(orders),
        "inventory_locations": [(*place, str(_OPENED)) for place in _WAREHOUSES],
        "product_inventory": [(number, *slot) for number, slot in enumerate(slots, 1)],
    }


def _articles(rng: random.Random) -> list[tuple[str, str]]:
    """Name and price of each product."""
    articles = []
    for material, thing in product(_MATERIALS.split(), _THINGS.replace("\n", "|").split("|")):
        name, _, amount = thing.partition("=")
        price = Decimal(amount) * rng.randrange(80, 140) / 100
        articles.append((f"{material} {name}", f"{price:.2f}"))
    return articles


def _customer(rng: random.Random, number: int) -> Row:
    first, last = rng.choice(_FIRST_NAMES.split()), rng.choice(_LAST_NAMES.split())
    joined = _OPENED + timedelta(days=rng.randrange(850), minutes=rng.randrange(600))
    if _habit(number) == "new":
        joined = datetime(2024, 2, 26, 8, 0) + timedelta(minutes=number)
    return number, first, last, f"{first}.{last}.{number}@example.com".lower(), str(joined)


def _habit(customer: int) -> str:
    """Every tenth customer is new, three of ten have gone, the others keep ordering."""
    return {0: "new", 3: "gone", 6: "gone", 9: "gone"}.get(customer % 10, "regular")


def _days(customer: int) -> tuple[date, date]:
    """The first and last day on which a customer orders."""
    if _habit(customer) == "new":
        return date(2024, 3, 1), _LAST_DAY
    if _habit(customer) == "gone":
        return _FIRST_DAY, date(2024, 1, 14) + timedelta(customer % 40)
    return _FIRST_DAY, _LAST_DAY


_EAGERNESS = list(
    accumulate(
        1 + 40 // (1 + number % 23) if _habit(number) == "regular" else 2 for number in _CUSTOMERS
    )
)


def _order(rng: random.Random, prices: Sequence[Decimal]) -> _Order:
    [customer] = rng.choices(_CUSTOMERS, cum_weights=_EAGERNESS)
    first, last = _days(customer)
    day = first + timedelta(rng.randrange((last - first).days + 1))
    [hour] = rng.choices(range(24), weights=_HOURS)
    placed = datetime(day.year, day.month, day.day, hour, rng.randrange(60), rng.randrange(60))
    status = rng.choices(("completed", "shipped", "pending", "cancelled"), weights=(80, 9, 5, 6))[0]
    if placed < datetime(2024, 3, 20) and status in ("shipped", "pending"):
        status = "completed"
    sold = rng.sample(range(1, len(prices) + 1), rng.choice((1, 1, 2, 2, 3, 4)))
    lines = [(number, rng.choice((1, 1, 1, 2, 3)), prices[number - 1]) for number in sold]
    return _Order(customer, placed, status, lines)


def _items(orders: Sequence[_Order]) -> list[Row]:
    items = [
        (number, article, pieces, str(price), str(order.placed))
        for number, order in enumerate(orders, 1)
        for article, pieces, price in order.lines
    ]
    return [(number, *item) for number, item in enumerate(items, 1)]


def _slots(rng: random.Random, products: int) -> list[list[int | str | None]]:
    """Product, location, quantity, time of the last count, capacity."""
    slots: list[list[int | str | None]] = []
    for number in range(1, products + 1):
        if number in _FORGOTTEN:
            continue
        for place in sorted(rng.sample(range(1, 5), rng.choice((1, 2, 2, 3)))):
            capacity = rng.choice((40, 60, 80, 120, 200))
            quantity = 0 if number in _SOLD_OUT else rng.randrange(1, capacity + 1)
            age = timedelta(days=rng.randrange(25), minutes=rng.randrange(1440))
            counted = datetime(2024, 3, 31, 21, 0) - age
            slots.append([number, place, quantity, str(counted), capacity])
    _add_oddities(slots)
    return slots


def _add_oddities(slots: list[list[int | str | None]]) -> None:
    quantity, counted, capacity = 2, 3, 4
    for slot in slots[40::90]:  # as large as its warehouse, which may have no size either
        slot[capacity] = None
    next(slot for slot in slots if slot[1] == 4)[capacity] = None
    for slot in slots[25::100]:
        slot[counted] = "2023-09-28 10:00:00"
    slots[50][capacity] = 0
    slots[60][quantity] = 333
    slots[70][quantity] = -4
    slots[80][quantity] = None
    slots[90][counted] = "2024-04-02 06:00:00"


def _stock(slots: Sequence[Sequence[int | str | None]], article: int) -> int:
    return sum(int(slot[2] or 0) for slot in slots if slot[0] == article)
