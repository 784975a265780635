"""The webshop's and the markets' marts computed apart: plain Python and Decimal, from the rules.

Nothing here imports retailmart or a database engine, so that an error in one of them cannot agree
with itself. A mart is a list of rows, each a dict of the columns that the rules name.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Marts = dict[str, list[Row]]

KEYS: Mapping[str, tuple[str, ...]] = {
    "inventory_analytics": ("product_id", "location_id"),
    "warehouse_utilization": ("location_id",),
    "inventory_turnover": ("product_id",),
    "order_analytics": ("customer_id",),
    "peak_hours": ("weekday", "hour"),
    "customer_segments": ("customer_id",),
    "market_orders": ("market", "order_id", "_line"),
    "market_order_totals": ("market", "order_id", "currency"),
    "market_users": ("market", "user_id"),
    "market_metrics": ("market", "currency"),
    "market_user_totals": ("market", "user_id", "currency"),
    "market_category_metrics": ("market", "currency", "category"),
    "market_merchant_metrics": ("market", "currency", "merchant_id"),
    "market_payment_metrics": ("market", "currency", "payment_method"),
    "market_deliveries": ("market", "task_id"),
}
_CENT = Decimal("0.01")
_DAY = timedelta(days=1)
_UNKNOWN = "unknown"


def same(found: Any, expected: Any) -> bool:
    """Whether a mart's value is the expected one; a Fraction is told to four digits."""
    if isinstance(expected, Fraction) and found is not None:
        return abs(Fraction(found) - expected) <= Fraction(1, 10_000)
    return bool(found == expected)


# the webshop


@dataclass(frozen=True)
class ShopRules:
    """The settings of the webshop's marts."""

    restock_below: Fraction = Fraction(2, 10)
    overstocked_above: Fraction = Fraction(8, 10)
    turnover_window_days: int = 30
    vip_from_quintile: int = 4
    active_from_quintile: int = 3


def webshop_marts(shop_db: Path, as_of: datetime, rules: ShopRules | None = None) -> Marts:
    """Every mart of the webshop, from the tables of its database."""
    rules = rules or ShopRules()
    shop = _Webshop(shop_db)
    return {
        "inventory_analytics": list(_inventory(shop, as_of, rules)),
        "warehouse_utilization": list(_warehouses(shop)),
        "inventory_turnover": list(_turnover(shop, as_of, rules)),
        "order_analytics": list(_customers(shop)),
        "peak_hours": list(_peaks(shop)),
        "customer_segments": list(_segments(shop, as_of, rules)),
    }


class _Webshop:
    """The tables as lists of rows; `counted` are the orders that were not cancelled."""

    def __init__(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row

            def read(table: str) -> list[Row]:
                return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]

            self.slots, self.locations = read("product_inventory"), read("inventory_locations")
            self.products, self.customers = read("products"), read("customers")
            self.orders, self.items = read("orders"), read("order_items")
        self.counted = [order for order in self.orders if not _cancelled(order["status"])]

    def named(self, customer: int) -> Row:
        found = [row for row in self.customers if row["customer_id"] == customer]
        return {name: found[0][name] if found else None for name in ("first_name", "last_name")}


def _inventory(shop: _Webshop, as_of: datetime, rules: ShopRules) -> Iterator[Row]:
    locations = {row["location_id"]: row for row in shop.locations}
    names = {row["product_id"]: row["name"] for row in shop.products}
    for (product, place), slots in _by(shop.slots, "product_id", "location_id").items():
        if product is None or place is None:
            continue
        location = locations.get(place, {})
        own: list[int] = [s["capacity"] for s in slots if s.get("capacity") is not None]
        capacity = sum(own) if len(own) == len(slots) else location.get("capacity")
        quantities: list[int] = [s["quantity"] for s in slots if s["quantity"] is not None]
        quantity = sum(quantities) if quantities else None
        counted = [_moment(slot["last_updated"]) for slot in slots if slot["last_updated"]]
        days = _whole_days(max(counted), as_of) if counted else None
        room: int = max(capacity or 0, 0)
        part = Fraction(quantity, room) if room and quantity is not None else None
        yield {
            "product_id": product,
            "location_id": place,
            "product": names.get(product),
            "warehouse_code": location.get("warehouse_code"),
            "city": location.get("city"),
            "country": location.get("country"),
            "quantity": quantity,
            "capacity": capacity,
            "utilization": part,
            "days_since_update": days,
            "inventory_score": _score(part, days),
            "status": _status(part, room, rules),
            "suggested_quantity": None
            if part is None or quantity is None
            else max(ceil(Fraction(room, 2)) - quantity, 0),
        }


def _score(part: Fraction | None, days: int | None) -> Fraction | None:
    if part is None or days is None:
        return None
    score = (1 - abs(part - Fraction(1, 2)) * 2) * 100 - 2 * days
    return min(max(score, Fraction(0)), Fraction(100))


def _status(part: Fraction | None, room: int, rules: ShopRules) -> str:
    if not room:
        return "no capacity"
    if part is None:
        return "no quantity"
    if part < rules.restock_below:
        return "restock"
    return "overstocked" if part > rules.overstocked_above else "ok"


def _warehouses(shop: _Webshop) -> Iterator[Row]:
    places = {row["location_id"]: row for row in shop.locations}
    there = _by((s for s in shop.slots if s["location_id"] is not None), "location_id")
    for place in places.keys() | {key for (key,) in there}:
        location, slots = places.get(place, {}), there.get((place,), [])
        stocks: Counter[int] = Counter()
        for slot in slots:
            if slot["product_id"] is not None:
                stocks[slot["product_id"]] += slot["quantity"] or 0
        stock, capacity = sum(slot["quantity"] or 0 for slot in slots), location.get("capacity")
        yield {
            "location_id": place,
            "warehouse_code": location.get("warehouse_code"),
            "city": location.get("city"),
            "country": location.get("country"),
            "capacity": capacity,
            "stock": stock,
            "utilization": Fraction(stock, capacity) if capacity and capacity > 0 else None,
            "products": len(stocks),
            "out_of_stock_products": sum(count <= 0 for count in stocks.values()),
        }


def _turnover(shop: _Webshop, as_of: datetime, rules: ShopRules) -> Iterator[Row]:
    window = timedelta(days=rules.turnover_window_days)
    recent = {
        order["order_id"]
        for order in shop.counted
        if order["order_date"] and timedelta(0) <= as_of - _moment(order["order_date"]) < window
    }
    sold: Counter[int] = Counter()
    for item in shop.items:
        if item["order_id"] in recent and item["product_id"] is not None:
            sold[item["product_id"]] += item["quantity"] or 0
    products = {row["product_id"]: row for row in shop.products}
    for product in products.keys() | sold.keys():
        known = products.get(product, {})
        stock, units = known.get("stock_quantity"), sold[product]
        yield {
            "product_id": product,
            "product": known.get("name"),
            "units_sold": units,
            "stock": stock,
            "turnover": Fraction(units, stock) if stock is not None and stock > 0 else None,
            "days_of_cover": Fraction(max(stock, 0) * rules.turnover_window_days, units)
            if stock is not None and units > 0
            else None,
        }


def _customers(shop: _Webshop) -> Iterator[Row]:
    for (customer,), orders in _by(shop.counted, "customer_id").items():
        if customer is None:
            continue
        times = sorted(_moment(order["order_date"]) for order in orders if order["order_date"])
        hours = Counter(moment.hour for moment in times)
        spent = sum((_money(order["total_amount"]) for order in orders), Decimal("0.00"))
        apart = (times[-1] - times[0]) / timedelta(microseconds=1) if times else 0
        gaps = Fraction(round(apart), 86_400_000_000) / max(len(orders) - 1, 1)
        yield {
            "customer_id": customer,
            **shop.named(customer),
            "total_orders": len(orders),
            "total_spent": spent,
            "avg_order_value": _average(spent, len(orders)),
            "peak_order_hour": min(hours, key=lambda hour: (-hours[hour], hour), default=None),
            "first_order_at": times[0] if times else None,
            "last_order_at": times[-1] if times else None,
            "avg_days_between_orders": gaps if times else None,
        }


def _peaks(shop: _Webshop) -> Iterator[Row]:
    found: dict[tuple[int, int], list[Decimal]] = defaultdict(list)
    for order in shop.counted:
        if order["order_date"]:
            moment = _moment(order["order_date"])
            found[moment.isoweekday(), moment.hour].append(_money(order["total_amount"]))
    for (weekday, hour), amounts in found.items():
        revenue = sum(amounts, Decimal("0.00"))
        yield {"weekday": weekday, "hour": hour, "orders": len(amounts), "revenue": revenue}


def _segments(shop: _Webshop, as_of: datetime, rules: ShopRules) -> Iterator[Row]:
    rows = []
    for (customer,), orders in _by(shop.counted, "customer_id").items():
        if customer is None:
            continue
        times = [_moment(order["order_date"]) for order in orders if order["order_date"]]
        rows.append(
            {
                "customer_id": customer,
                **shop.named(customer),
                "recency": _whole_days(max(times), as_of) if times else None,
                "frequency": len(orders),
                "monetary": sum((_money(o["total_amount"]) for o in orders), Decimal("0.00")),
            }
        )
    never = 10**9
    fifths = {
        "recency": _quintiles([-(never if r["recency"] is None else r["recency"]) for r in rows]),
        "frequency": _quintiles([r["frequency"] for r in rows]),
        "monetary": _quintiles([r["monetary"] for r in rows]),
    }
    for number, row in enumerate(rows):
        quintiles = {f"{name}_quintile": values[number] for name, values in fifths.items()}
        yield {**row, **quintiles, "segment": _segment(row, quintiles, rules)}


def _quintiles(values: Sequence[Any]) -> list[int]:
    """The fifth of each value, 5 the largest: of equals, that of the first in line."""
    line = sorted(values)
    size, more = divmod(len(line), 5)
    ends = [0]
    for fifth in range(5):
        ends.append(ends[-1] + size + (fifth < more))
    return [max(n for n in range(5) if ends[n] <= line.index(value)) + 1 for value in values]


def _segment(row: Row, quintiles: Mapping[str, int], rules: ShopRules) -> str:
    if min(quintiles.values()) >= rules.vip_from_quintile:
        return "VIP"
    recency = quintiles["recency_quintile"]
    if recency >= rules.active_from_quintile:
        return "new" if row["frequency"] == 1 else "loyal"
    return "at risk" if recency > 1 else "lapsed"


# the markets


_ORDERS = {
    "order id": "order_id",
    "order status": "order_status",
    "category name": "category",
    "sku": "sku",
    "quantity": "quantity",
    "unit price": "unit_price",
    "total price": "total_price",
    "order total": "order_total",
    "sub total": "sub_total",
    "payment method": "payment_method",
    "payment mode": "payment_method",
    "currency symbol": "currency",
    "customer id": "user_id",
    "merchant id": "merchant_id",
    "distance (in km)": "distance_km",
    "distance(in km)": "distance_km",
    "order time": "order_time",
    "pickup time": "pickup_time",
    "delivery time": "delivery_time",
}
_TASKS = {
    "task_id": "task_id",
    "order_id": "order_id",
    "task_type": "task_type",
    "agent_id": "agent_id",
    "distance(m)": "distance_m",
    "total_time_taken(min)": "total_time_taken_min",
    "task_status": "task_status",
    "rating": "rating",
    "latitude": "latitude",
    "longitude": "longitude",
    "subtotal": "subtotal",
    "payment_type": "payment_type",
}
_USERS = {
    "customer id": "user_id",
    "last used platform": "last_used_platform",
    "is blocked": "is_blocked",
    "created at": "created_at",
    "language": "language",
    "outstanding amount": "outstanding_amount",
    "loyalty points": "loyalty_points",
    "number of employees": "number_of_employees",
}
_MANDATORY = {"order_id", "order_status"}


class _Misfit(Exception):
    """A cell is not of its column's type."""


def market_marts(landing: Path, delivered: Iterable[str]) -> Marts:
    """Every mart of the markets. `delivered` are paths below landing, in the order they came.

    The lines of an order are told apart by `_line`, in the order of what they say.
    """
    lines, tasks, users = _Newest(), _Newest(), _Newest()
    for path in delivered:
        market, _, name = path.partition("/")
        content = (landing / path).read_text(encoding="utf-8-sig")
        if name.startswith("orders"):
            lines.take(_rows(_csv(content), _ORDERS, market, "order_id", _MANDATORY))
        elif name.startswith("deliveries"):
            tasks.take(_rows(_csv(content), _TASKS, market, "task_id", {"task_id"}))
        elif name.startswith("users"):
            users.take(_rows(_objects(content), _USERS, market, "user_id", {"user_id"}))
    orders = {key: _completed(rows) for key, rows in lines.groups.items()}
    heads = [head for rows in orders.values() for head in _heads(rows)]
    people = {key: rows[-1] for key, rows in users.groups.items()}
    counted = [line for rows in orders.values() for line in rows if not line["_cancelled"]]
    return {
        "market_orders": [line for rows in orders.values() for line in rows],
        "market_order_totals": heads,
        "market_users": list(people.values()),
        "market_metrics": list(_metrics(heads, counted)),
        "market_user_totals": list(_user_totals(heads)),
        "market_category_metrics": list(_categories(counted)),
        "market_merchant_metrics": list(_order_metrics(heads, "merchant_id", None)),
        "market_payment_metrics": list(_order_metrics(heads, "payment_method", _UNKNOWN)),
        "market_deliveries": [
            _delivery(rows[-1], orders, people) for rows in tasks.groups.values()
        ],
    }


class _Newest:
    """Rows by their key; those of a later file replace all that an earlier one said of a key."""

    def __init__(self) -> None:
        self.groups: dict[tuple[Any, ...], list[Row]] = {}

    def take(self, rows: Mapping[tuple[Any, ...], list[Row]]) -> None:
        self.groups |= rows


def _rows(
    records: Iterable[Mapping[str, Any]],
    names: Mapping[str, str],
    market: str,
    key: str,
    mandatory: set[str],
) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of one file that are not for quarantine, by market and key."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for record in records:
        row: Row = {"market": market, **dict.fromkeys(names.values())}
        with suppress(_Misfit):
            for header, cell in record.items():
                name = names.get(" ".join(header.split()).lower())
                if name is not None:
                    row[name] = _cell(name, cell)
            if all(row[name] is not None for name in mandatory):
                found[market, row[key]].append(row)
    return found


def _csv(content: str) -> Iterator[Mapping[str, Any]]:
    yield from csv.DictReader(io.StringIO(content, newline=""), strict=True)


def _objects(content: str) -> Iterator[Mapping[str, Any]]:
    if content.lstrip().startswith("["):
        yield from json.loads(content, parse_float=Decimal)
    else:
        for line in content.splitlines():
            yield json.loads(line, parse_float=Decimal)


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        raise _Misfit(text)
    return int(text)


def _decimal(digits: int) -> Callable[[str], Decimal]:
    unit = Decimal(1).scaleb(-digits)

    def read(text: str) -> Decimal:
        if not re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", text, re.ASCII):
            raise _Misfit(text)
        value = Decimal(text)
        if value != value.quantize(unit):
            raise _Misfit(text)
        return value.quantize(unit)

    return read


def _time(text: str) -> datetime:
    try:
        return _moment(text)
    except ValueError as error:
        raise _Misfit(text) from error


def _order_number(text: str) -> int:
    found = re.fullmatch(r"(?:[A-Za-z]+-)?([0-9]+)(?:,[0-9]*)?", text)
    return _number(found[1] if found else text)


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("user_id", "merchant_id", "number_of_employees"), _number),
    "order_id": _order_number,
    "quantity": _decimal(3),
    **dict.fromkeys(
        (
            *("unit_price", "total_price", "order_total", "sub_total", "subtotal"),
            *("outstanding_amount", "loyalty_points"),
        ),
        _decimal(2),
    ),
    **dict.fromkeys(
        (
            *("distance_km", "distance_m", "total_time_taken_min"),
            *("rating", "latitude", "longitude"),
        ),
        float,
    ),
    **dict.fromkeys(("order_time", "pickup_time", "delivery_time", "created_at"), _time),
    "is_blocked": lambda text: {"true": True, "false": False}[text.lower()],
}


def _cell(name: str, cell: Any) -> Any:
    """What a cell says: `-` is no value, but in a text."""
    if cell is None:
        return None
    text = str(cell)
    read = _READ.get(name)
    if read is None:
        return text if text.strip() else None
    return None if text.strip() in ("", "-") else read(text.strip())


def _completed(rows: Sequence[Row]) -> list[Row]:
    """The lines of an order with the currency and the cancelling that are the order's."""
    currency = _any(rows, "currency")
    cancelled = any(_cancelled(row["order_status"]) for row in rows)
    about = ("sku", "category", "quantity", "unit_price", "total_price", "currency")
    return [
        {
            **row,
            "currency": row["currency"] or currency or _UNKNOWN,
            "_cancelled": cancelled,
            "_line": number,
        }
        for number, row in enumerate(sorted(rows, key=lambda row: _last(row, *about)), 1)
    ]


def _last(row: Row, *names: str) -> tuple[Any, ...]:
    """A row's place in line by these columns; what it does not say comes last."""
    return tuple((row[name] is None, row[name] or 0) for name in names)


def _heads(rows: Sequence[Row]) -> Iterator[Row]:
    """An order that counts, once for each currency its lines name."""
    for (currency,), lines in _by(rows, "currency").items():
        if lines[0]["_cancelled"]:
            continue
        about = ("user_id", "merchant_id", "payment_method", "order_status")
        times = ("order_time", "pickup_time", "delivery_time")
        yield {
            "market": lines[0]["market"],
            "order_id": lines[0]["order_id"],
            "currency": currency,
            **{name: _any(lines, name) for name in (*about, *times)},
            "order_total": _any(lines, "order_total") or Decimal("0.00"),
            "sub_total": _any(lines, "sub_total") or Decimal("0.00"),
            "lines": len(lines),
            "quantity": _sum(lines, "quantity", "0.000"),
            "lines_total": _sum(lines, "total_price", "0.00"),
        }


def _metrics(heads: Iterable[Row], counted: Iterable[Row]) -> Iterator[Row]:
    lines = _by(counted, "market", "currency")
    for (market, currency), orders in _by(heads, "market", "currency").items():
        took = [
            order["delivery_time"] - order["order_time"]
            for order in orders
            if order["delivery_time"] and order["order_time"]
        ]
        hours = [Fraction(round(t / timedelta(microseconds=1)), 3_600_000_000) for t in took]
        revenue = _sum(orders, "order_total", "0.00")
        yield {
            "market": market,
            "currency": currency,
            "orders": len(orders),
            "users": len({order["user_id"] for order in orders} - {None}),
            "revenue": revenue,
            "avg_order_value": _average(revenue, len(orders)),
            "avg_hours_to_deliver": sum(hours, Fraction(0)) / len(hours) if hours else None,
            "_lines": len(lines[market, currency]),
            "_lines_revenue": _sum(lines[market, currency], "total_price", "0.00"),
        }


def _user_totals(heads: Iterable[Row]) -> Iterator[Row]:
    for (market, user, currency), orders in _by(heads, "market", "user_id", "currency").items():
        total = _sum(orders, "order_total", "0.00")
        times = [order["order_time"] for order in orders if order["order_time"]]
        yield {
            "market": market,
            "user_id": user,
            "currency": currency,
            "orders": len(orders),
            "total_amount": total,
            "avg_order_value": _average(total, len(orders)),
            "first_order_at": min(times, default=None),
            "last_order_at": max(times, default=None),
        }


def _categories(counted: Iterable[Row]) -> Iterator[Row]:
    named = ({**line, "category": (line["category"] or _UNKNOWN).strip()} for line in counted)
    for (market, currency, category), lines in _by(named, "market", "currency", "category").items():
        yield {
            "market": market,
            "currency": currency,
            "category": category,
            "lines": len(lines),
            "quantity": _sum(lines, "quantity", "0.000"),
            "revenue": _sum(lines, "total_price", "0.00"),
        }


def _order_metrics(heads: Iterable[Row], by: str, otherwise: Any) -> Iterator[Row]:
    for (market, currency, value), orders in _by(heads, "market", "currency", by).items():
        yield {
            "market": market,
            "currency": currency,
            by: otherwise if value is None else value,
            "orders": len(orders),
            "quantity": _sum(orders, "quantity", "0.000"),
            "revenue": _sum(orders, "order_total", "0.00"),
        }


def _delivery(
    task: Row,
    orders: Mapping[tuple[Any, ...], Sequence[Row]],
    people: Mapping[tuple[Any, ...], Row],
) -> Row:
    lines = orders.get((task["market"], task["order_id"]), ())
    about = ("order_status", "order_time", "pickup_time", "delivery_time", "payment_method")
    order = {name: _any(lines, name) for name in (*about, "currency", "merchant_id", "user_id")}
    cancelled = any(line["_cancelled"] for line in lines)
    order["order_total"] = None if cancelled else _any(lines, "order_total")
    if order["currency"] == _UNKNOWN:
        order["currency"] = None
    user = people.get((task["market"], order["user_id"]), {})
    seen = ("last_used_platform", "is_blocked", "created_at", "language", "loyalty_points")
    return {**task, **order, **{f"user_{name}": user.get(name) for name in seen}}


# both


def _cancelled(status: str | None) -> bool:
    return (status or "").strip().upper() in ("CANCELLED", "CANCELED")


def _any(rows: Iterable[Row], name: str) -> Any:
    """What the lines of an order say of it: the largest, should they differ."""
    said = (row[name] for row in rows if row[name] is not None)
    if name in ("currency", "payment_method"):
        said = (text.strip() for text in said)
    return max(said, default=None)


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return found


def _sum(rows: Iterable[Row], name: str, zero: str) -> Decimal:
    return sum((row[name] for row in rows if row[name] is not None), Decimal(zero))


def _average(total: Decimal, count: int) -> Decimal:
    return (total / count).quantize(_CENT, ROUND_HALF_UP)


def _money(value: Any) -> Decimal:
    """SQLite gives a float; its shortest text is what was stored."""
    return Decimal(str(value or 0)).quantize(_CENT)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _whole_days(moment: datetime, as_of: datetime) -> int:
    return max((as_of - moment) // _DAY, 0)
