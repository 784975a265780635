"""The sample's two markets: orders and deliveries as CSV, users as JSON, January to March 2024.

Some 3,200 orders of 6,900 lines in Nairobi (market1, KSh) and Lagos (market2, ₦). As with real
exports, the two differ, and change:

- market2 calls the Payment Method `Payment Mode` and writes `Distance(in km)`, has no Debt Amount,
  its columns in another order, and milliseconds in its times. From March on market1 adds `Delivery
  Slot`, and market2 leaves out the Pickup Time.
- `-` is null. An order's totals are on each of its lines. Some orders have no user.
- One file delivers 40 orders of March again: completed since, corrected, or cancelled.
- A delivery's order number is a part of its text (`YR-11262518,0`). An order has up to three tasks,
  some tasks have no order, and market1's files carry two columns without a name.
- market1's users are one JSON array with `Number of employees`, market2's are JSON lines with
  `Number of Employees` and a nested address.
- Rows that cannot be read: an order number, an amount and a date in the orders; a user without
  a number, and one who joined `yesterday`.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

_CENT = Decimal("0.01")
_START = datetime(2024, 1, 1, tzinfo=UTC)
_MONTHS = (1, 2, 3)
_TOTALS = ("Order Total", "Sub Total")
_DRIFT_SINCE = 3  # the month in which both exports change
_ADDED, _DROPPED = "Delivery Slot", "Pickup Time"
_REPEATED = 40
_REDELIVERED_ON = datetime(2024, 4, 1, tzinfo=UTC)

_HEADER = (
    "Order ID,Order Status,Category Name,SKU,Product Name,Quantity,Unit Price,Cost Price,"
    "Total Price,Order Total,Sub Total,Tax,Delivery Charge,Service Charge,Packaging Charge,Tip,"
    "Discount,Promo Code,Promo Type,Payment Method,Wallet Amount,Loyalty Points Used,"
    "Currency Symbol,Customer ID,Merchant ID,Merchant Earning,Commission Amount,Agent Earning,"
    "Debt Amount,Refund Amount,Platform,App Version,Order Type,Delivery Mode,Is Scheduled,"
    "Preparation Time (min),Distance (in km),Zone,Ratings,Remarks,Cancel Reason,Order Time,"
    "Accepted Time,Pickup Time,Delivery Time"
)
_TASK_HEADER = (
    "Task_ID,Order_ID,Task_Type,Agent_ID,Agent_Name,Distance(m),Total_Time_Taken(min),"
    "Task_Status,Rating,Latitude,Longitude,Subtotal,Payment_Type,Notes"
)
_CATEGORIES = """Groceries=Maize flour 2 kg:210,Rice 5 kg:980,Cooking oil 2 l:640,Sugar 1 kg:165
Fresh produce=Tomatoes 1 kg:120,Onions 1 kg:95,Bananas, bunch:140,Plantain, bunch:180
Drinks=Water 6 x 1.5 l:420,Orange juice 1 l:260,Cola 2 l:190,Tea 100 bags:330
Bakery=Bread 600 g:75,Chapati, pack of 5:110,Cake, vanilla:850
Household=Soap, 3 bars:240,Bleach 1 l:150,Candles, pack of 6:130
Pharmacy=Plasters, box:175,Vitamin C, 30 tablets:520,Thermometer:690"""
_CATALOGUE = [
    (category, f"{category[:2].upper()}{number:03}", name, Decimal(price))
    for category, _, listed in (line.partition("=") for line in _CATEGORIES.splitlines())
    for number, (name, _, price) in enumerate(
        (entry.rpartition(":") for entry in listed.replace(", ", "\t").split(",")), 1
    )
]


@dataclass(frozen=True)
class _Market:
    """One market and the form of its exports. `renamed` maps our header to its own."""

    name: str
    currency: str
    rate: Decimal
    first_order: int
    orders: int
    users: range
    merchants: range
    payments: Sequence[str]
    place: tuple[float, float]
    renamed: Mapping[str, str]


_NAIROBI = _Market(
    *("market1", "KSh", Decimal(1), 11_262_500, 1_800, range(52_001, 52_601), range(301, 341)),
    ("M-Pesa", "M-Pesa", "Cash", "Card"),
    (-1.28, 36.82),
    {},
)
_LAGOS = _Market(
    *("market2", "₦", Decimal("6.4"), 7_480_100, 1_400, range(8_001, 8_451), range(71, 99)),
    ("Card", "Transfer", "Cash", "USSD"),
    (6.52, 3.37),
    {"Payment Method": "Payment Mode", "Distance (in km)": "Distance(in km)"},
)
Record = dict[str, str]


@dataclass(frozen=True)
class _Order:
    """An order: the values that all its lines share, and those of each line."""

    number: int
    placed: datetime
    heads: Record
    lines: Sequence[Record]

    @property
    def records(self) -> list[Record]:
        return [{**self.heads, **line} for line in self.lines]

    def with_heads(self, **said: str) -> _Order:
        return replace(self, heads={**self.heads, **said})


def make(rng: random.Random) -> dict[str, bytes]:
    """The content of each file, by its path below landing."""
    files: dict[str, bytes] = {}
    for market in (_NAIROBI, _LAGOS):
        numbers = range(market.first_order, market.first_order + market.orders)
        orders = [_order(rng, market, number) for number in numbers]
        for month in _MONTHS:
            records = [r for order in orders if order.placed.month == month for r in order.records]
            _spoil(market, month, records)
            path = f"{market.name}/orders_2024-{month:02}.csv"
            files[path] = _csv(_header(market, month), records, market.renamed)
        files |= _deliveries(rng, market, orders)
        files |= _users(rng, market)
        if market is _NAIROBI:
            again = [order for order in orders if order.placed.month == _MONTHS[-1]][-_REPEATED:]
            records = [r for order in again for r in _told_again(order).records]
            path = f"{market.name}/orders_2024-03_again.csv"
            files[path] = _csv(_header(market, _MONTHS[-1]), records, market.renamed)
    return files


def _order(rng: random.Random, market: _Market, number: int) -> _Order:
    minutes = (number - market.first_order) * 91 * 1440 // market.orders
    placed = _START + timedelta(minutes=minutes + rng.randrange(40), seconds=rng.randrange(60))
    status = rng.choices(("COMPLETED", "ORDERED", "CANCELLED"), weights=(86, 6, 8))[0]
    user = str(rng.choice(market.users)) if rng.random() < 0.99 else "-"
    lines = [_line(rng, market) for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 4)))]
    sub_total = sum((Decimal(line["Total Price"]) for line in lines), Decimal(0))
    fee, tax = _money(market.rate * rng.randrange(50, 200)), _money(sub_total * Decimal("0.02"))
    discount = _money(sub_total / 10) if rng.random() < 0.15 else _money(0)
    total = sub_total + fee + tax - discount
    done = status == "COMPLETED"
    fetched = placed + timedelta(minutes=rng.randrange(10, 45), seconds=rng.randrange(60))
    brought = fetched + timedelta(minutes=rng.randrange(8, 70), seconds=rng.randrange(60))
    heads = {
        "Order ID": str(number),
        "Order Status": status,
        "Order Total": str(total),
        "Sub Total": str(sub_total),
        "Tax": str(tax),
        "Delivery Charge": str(fee),
        "Discount": str(discount),
        "Promo Code": "SAVE10" if discount else "-",
        "Payment Method": rng.choice(market.payments),
        "Currency Symbol": market.currency,
        "Customer ID": user,
        "Merchant ID": str(rng.choice(market.merchants)),
        "Merchant Earning": str(_money(sub_total * Decimal("0.85"))),
        "Platform": rng.choice(("ANDROID", "ANDROID", "IOS", "WEB")),
        "Order Type": "DELIVERY",
        "Distance (in km)": f"{rng.uniform(0.4, 14):.2f}" if rng.random() < 0.97 else "-",
        "Ratings": str(rng.randrange(2, 6)) if done and rng.random() < 0.4 else "-",
        "Order Time": _time(market, placed),
        "Accepted Time": _time(market, placed + timedelta(minutes=2)) if done else "-",
        "Pickup Time": _time(market, fetched) if done else "-",
        "Delivery Time": _time(market, brought) if done else "-",
        _ADDED: rng.choice(("morning", "noon", "evening")),
    }
    return _Order(number, placed, heads, lines)


def _line(rng: random.Random, market: _Market) -> Record:
    category, sku, name, price = rng.choice(_CATALOGUE)
    unit = _money(price * market.rate)
    pieces = rng.choice((1, 1, 1, 2, 3))
    return {
        "Category Name": category,
        "SKU": sku,
        "Product Name": name.replace("\t", ", "),
        "Quantity": str(pieces),
        "Unit Price": str(unit),
        "Cost Price": str(_money(unit * Decimal("0.8"))),
        "Total Price": str(unit * pieces),
    }


def _told_again(order: _Order) -> _Order:
    """An order in the later export: completed meanwhile, cancelled, or without a line."""
    if order.heads["Order Status"] == "ORDERED":
        delivered = _time(_NAIROBI, _REDELIVERED_ON)
        return order.with_heads(**{"Order Status": "COMPLETED", "Delivery Time": delivered})
    if order.number % 13 == 0:
        return order.with_heads(**{"Order Status": "CANCELLED"})
    if order.number % 5 == 0 and len(order.lines) > 1:
        gone, *kept = order.lines
        less = Decimal(gone["Total Price"])
        totals = {name: str(Decimal(order.heads[name]) - less) for name in _TOTALS}
        return replace(order.with_heads(**totals), lines=kept)
    return order


def _spoil(market: _Market, month: int, records: list[Record]) -> None:
    """Damage three lines, for quarantine."""
    if (market, month) == (_NAIROBI, 1):
        records.insert(60, {**records[60], "Order ID": "N/A"})
        records.insert(90, {**records[90], "Total Price": "1,240.00"})
    if (market, month) == (_LAGOS, 2):
        records.insert(30, {**records[30], "Order Time": "2024-02-30T09:15:00.000Z"})


def _header(market: _Market, month: int) -> list[str]:
    """The columns of one month's export, in our spelling."""
    names = _HEADER.split(",")
    if market is _LAGOS:
        names = [name for name in (*names[10:], *names[:10]) if name != "Debt Amount"]
    if month >= _DRIFT_SINCE:
        if market is _NAIROBI:
            names.insert(12, _ADDED)
        else:
            names.remove(_DROPPED)
    return names


def _csv(names: Sequence[str], records: Iterable[Record], renamed: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(renamed.get(name, name) for name in names)
    writer.writerows([record.get(name, "-") for name in names] for record in records)
    return text.getvalue().encode()


def _deliveries(rng: random.Random, market: _Market, orders: Sequence[_Order]) -> dict[str, bytes]:
    """A file a month: a pickup and a delivery for most orders, sometimes a second try."""
    files: dict[str, bytes] = {}
    number = market.first_order * 3
    for month in _MONTHS:
        records = []
        for order in orders:
            if order.placed.month != month or rng.random() < 0.2:
                continue
            for kind in ("PICKUP", "DELIVERY", "DELIVERY")[: rng.choice((1, 2, 2, 2, 2, 2, 3))]:
                number += 1
                # Tasks of parcels and of other apps have numbers, but no order here.
                known = order.number if rng.random() < 0.9 else 90_000_000 + number
                records.append(_task(rng, market, number, known, kind, order))
        names = _TASK_HEADER.split(",") + (["", ""] if market is _NAIROBI else [])
        files[f"{market.name}/deliveries_2024-{month:02}.csv"] = _csv(names, records, {})
    return files


def _task(
    rng: random.Random, market: _Market, number: int, known: int, kind: str, order: _Order
) -> Record:
    north, east = market.place
    done = order.heads["Order Status"] != "CANCELLED"
    return {
        "Task_ID": str(number),
        "Order_ID": f"YR-{known},0",
        "Task_Type": kind,
        "Agent_ID": str(rng.randrange(400, 460)),
        "Agent_Name": rng.choice(("Achieng", "Baraka", "Chidi", "Eze", "Folake", "Wanjiru")),
        "Distance(m)": str(rng.randrange(300, 14_000)) if done else "-",
        "Total_Time_Taken(min)": f"{rng.uniform(4, 75):.1f}" if done else "-",
        "Task_Status": "COMPLETED" if done else "FAILED",
        "Rating": str(rng.randrange(1, 6)) if rng.random() < 0.3 else "-",
        "Latitude": f"{north + rng.uniform(-0.1, 0.1):.5f}",
        "Longitude": f"{east + rng.uniform(-0.1, 0.1):.5f}",
        "Subtotal": order.heads["Sub Total"],
        "Payment_Type": order.heads["Payment Method"],
        "": "",
    }


def _users(rng: random.Random, market: _Market) -> dict[str, bytes]:
    """Nine of ten users who may order; the others joined after the export."""
    known = market.users[: len(market.users) * 9 // 10]
    users = [_user(rng, market, number) for number in known]
    users[100]["Customer ID"] = None
    users[200]["Created At"] = "yesterday"
    if market is _NAIROBI:
        text = json.dumps(users, ensure_ascii=False, indent=1) + "\n"
        return {f"{market.name}/users.json": text.encode()}
    lines = "".join(json.dumps(user, ensure_ascii=False) + "\n" for user in users)
    return {f"{market.name}/users.jsonl": lines.encode()}


def _user(rng: random.Random, market: _Market, number: int) -> dict[str, Any]:
    joined = _START - timedelta(minutes=rng.randrange(500_000))
    user: dict[str, Any] = {
        "Customer ID": number,
        "Last Used Platform": rng.choice(("ANDROID", "ANDROID", "IOS", "WEB")),
        "Is Blocked": rng.random() < 0.02,
        "Created At": _time(market, joined),
        "Language": rng.choice(("en", "sw") if market is _NAIROBI else ("en", "ha", "yo")),
        "Outstanding Amount": float(rng.randrange(0, 40_000)) / 4 if rng.random() < 0.1 else 0,
        "Loyalty Points": rng.randrange(0, 900),
    }
    staff = rng.choice((None, None, 1, 3, 12))
    if market is _NAIROBI:
        return {**user, "Number of employees": staff}
    home = {"City": "Lagos", "Area": rng.choice(("Ikeja", "Lekki", "Surulere", "Yaba"))}
    return {**user, "Number of Employees": staff, "Address": home}


def _money(amount: Decimal | int) -> Decimal:
    return Decimal(amount).quantize(_CENT, ROUND_HALF_UP)


def _time(market: _Market, moment: datetime) -> str:
    """A time as the market writes it, in UTC."""
    unit = "seconds" if market is _NAIROBI else "milliseconds"
    return moment.isoformat(timespec=unit).replace("+00:00", "Z")
