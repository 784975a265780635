"""The five sales marts computed apart: plain Python, csv and Decimal, written from the rules alone.

Nothing here imports retailmart or a database engine, so that an error in one of them cannot agree
with itself. Slow and simple on purpose: every mart is made from all sales at once.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

Marts = dict[str, Counter[tuple[Any, ...]]]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "customer_mart": (
        "customer_id",
        "first_name",
        "last_name",
        "address",
        "pincode",
        "phone_number",
        "sales_date",
        "total_cost",
        "additional_column",
    ),
    "sales_mart": (
        "store_id",
        "sales_person_id",
        "sales_person_first_name",
        "sales_person_last_name",
        "store_manager_name",
        "manager_id",
        "is_manager",
        "sales_person_address",
        "sales_person_pincode",
        "sales_date",
        "total_cost",
        "additional_column",
        "sales_month",
    ),
    "customer_monthly_purchase": (
        "customer_id",
        "first_name",
        "last_name",
        "year",
        "month",
        "monthly_total",
    ),
    "sales_team_incentive": (
        "store_id",
        "sales_person_id",
        "first_name",
        "last_name",
        "year",
        "month",
        "total_sales",
        "incentive",
    ),
    "declining_customers": (
        "customer_id",
        "first_name",
        "last_name",
        "year",
        "month",
        "monthly_total",
        "previous_total",
        "change",
        "change_percent",
        "months_falling",
    ),
}
"""The columns that each mart must have; tables may carry more that begin with an underscore."""

MONEY = frozenset(
    {
        "total_cost",
        "monthly_total",
        "total_sales",
        "incentive",
        "previous_total",
        "change",
        "change_percent",
    }
)
PUBLISHED = ("customer_monthly_purchase", "sales_team_incentive", "declining_customers")

_MANDATORY = (
    "customer_id",
    "store_id",
    "product_name",
    "sales_date",
    "sales_person_id",
    "price",
    "quantity",
    "total_cost",
)
_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Rules:
    """The settings that marts depend on. `incentive_scope` is store or company."""

    incentive_rate: Decimal = Decimal("0.01")
    incentive_scope: str = "store"
    declining_threshold_percent: Decimal = Decimal(0)


@dataclass(frozen=True)
class Sale:
    """A row that counts; `month` numbers calendar months, so that the one before is - 1."""

    customer_id: int
    store_id: int
    sales_person_id: int
    sales_date: date
    total_cost: Decimal
    additional_column: str | None

    @property
    def month(self) -> int:
        return self.sales_date.year * 12 + self.sales_date.month - 1


def expected_marts(
    files: Iterable[Path], shop_db: Path, as_of: datetime, rules: Rules | None = None
) -> Marts:
    """Every mart as a multiset of rows, in the order of COLUMNS.

    `files` are deliveries as they landed: those that are no readable sales file or repeat another's
    content count nothing, and so do rows that are not valid. Which versions of a corrected file
    were superseded is the caller's to know.
    """
    rules = rules or Rules()
    sales = [sale for content in _contents(files) for sale in valid_sales(content)]
    customers = _dimension(shop_db, "customer", "customer_id")
    stores = _dimension(shop_db, "store", "id")
    team = _dimension(shop_db, "sales_team", "id")
    return {
        "customer_mart": Counter(_customer_rows(sales, customers)),
        "sales_mart": Counter(_sales_rows(sales, stores, team)),
        "customer_monthly_purchase": Counter(_monthly_rows(sales, customers)),
        "sales_team_incentive": Counter(_incentive_rows(sales, team, rules)),
        "declining_customers": Counter(_declining_rows(sales, customers, as_of, rules)),
    }


def in_cents(mart: str, rows: Iterable[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """The rows with money in cents, to compare with a database that knows no decimals.

    A float's shortest text is what was stored: it gives back the cents without an error.
    """
    money = [column in MONEY for column in COLUMNS[mart]]
    return Counter(
        tuple(
            Decimal(str(value)) * 100 if is_money and value is not None else value
            for value, is_money in zip(row, money, strict=True)
        )
        for row in rows
    )


def is_refused(file: Path) -> bool:
    """Whether the delivery is no sales file that can be loaded."""
    content = _unpacked(file)
    return content is None or not _is_readable(content)


def valid_sales(content: str) -> Iterator[Sale]:
    """The rows of a sales file that are not for quarantine."""
    records = list(_records(content))
    names = [_column(cell) for cell in records[0]]
    position = {name: names.index(name) for name in _MANDATORY}
    further = [(n, cell.strip()) for n, cell in enumerate(records[0]) if names[n] not in position]
    for cells in records[1:]:
        if len(cells) != len(names):
            continue
        text = {name: cells[position[name]] for name in _MANDATORY}
        customer, store = _integer(text["customer_id"]), _integer(text["store_id"])
        person, quantity = _integer(text["sales_person_id"]), _integer(text["quantity"])
        day = _day(text["sales_date"])
        price, total = _money(text["price"], 12), _money(text["total_cost"], 14)
        if customer is None or store is None or person is None or day is None or total is None:
            continue
        if quantity is None or price is None or not text["product_name"].strip():
            continue
        extra = {name: cells[n] for n, name in further}
        told = json.dumps(extra, ensure_ascii=False, separators=(",", ":")) if extra else None
        yield Sale(customer, store, person, day, total, told)


# what is delivered


def _contents(files: Iterable[Path]) -> Iterator[str]:
    seen = set[str]()
    for file in files:
        content = _unpacked(file)
        if content is None:
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digest not in seen and _is_readable(content):
            seen.add(digest)
            yield content.decode("utf-8-sig")


def _unpacked(file: Path) -> bytes | None:
    """The bytes of what is by its name a sales file."""
    if not any(fnmatchcase(file.name.lower(), form) for form in ("sales*.csv", "sales*.csv.gz")):
        return None
    content = file.read_bytes()
    return gzip.decompress(content) if file.name.lower().endswith(".gz") else content


def _is_readable(content: bytes) -> bool:
    records = list(_records(content.decode("utf-8-sig")))
    if len(records) < 2:
        return False
    names = [_column(cell) for cell in records[0]]
    return len(set(names)) == len(names) and set(_MANDATORY) <= set(names)


def _records(content: str) -> Iterator[list[str]]:
    """The records of a CSV text, blank lines left out."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    return (cells for cells in reader if cells and any(cell.strip() for cell in cells))


def _column(cell: str) -> str:
    return cell.strip().lower()


@lru_cache(maxsize=200_000)
def _integer(text: str) -> int | None:
    if not re.fullmatch(r"[+-]?[0-9]+", text.strip(), re.ASCII):
        return None
    value = int(text)
    return value if -(2**31) <= value < 2**31 else None


@lru_cache(maxsize=200_000)
def _money(text: str, digits: int) -> Decimal | None:
    """A DECIMAL(digits,2) if the text is exactly one."""
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", text.strip(), re.ASCII):
        return None
    value = Decimal(text.strip())
    exact = value.quantize(_CENT)
    return exact if exact == value and abs(value) < Decimal(10) ** (digits - 2) else None


@lru_cache(maxsize=10_000)
def _day(text: str) -> date | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip(), re.ASCII):
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None


# what the shop's database says


class _Dimension:
    """A table by its key; an unknown key has None in every column."""

    def __init__(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        self._rows = rows

    def values(self, key: int, *columns: str) -> tuple[Any, ...]:
        row = self._rows.get(key, {})
        return tuple(row.get(column) for column in columns)


def _dimension(shop_db: Path, table: str, key: str) -> _Dimension:
    with closing(sqlite3.connect(shop_db)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    return _Dimension({row[key]: dict(row) for row in rows})


# the marts


def _customer_rows(sales: Iterable[Sale], customers: _Dimension) -> Iterator[tuple[Any, ...]]:
    about = ("first_name", "last_name", "address", "pincode", "phone_number")
    for sale in sales:
        yield (
            sale.customer_id,
            *customers.values(sale.customer_id, *about),
            sale.sales_date,
            sale.total_cost,
            sale.additional_column,
        )


def _sales_rows(
    sales: Iterable[Sale], stores: _Dimension, team: _Dimension
) -> Iterator[tuple[Any, ...]]:
    for sale in sales:
        yield (
            sale.store_id,
            sale.sales_person_id,
            *team.values(sale.sales_person_id, "first_name", "last_name"),
            *stores.values(sale.store_id, "store_manager_name"),
            *team.values(sale.sales_person_id, "manager_id", "is_manager", "address", "pincode"),
            sale.sales_date,
            sale.total_cost,
            sale.additional_column,
            f"{sale.sales_date:%Y-%m}",
        )


def _monthly_rows(sales: Iterable[Sale], customers: _Dimension) -> Iterator[tuple[Any, ...]]:
    for (customer, month), total in _customer_months(sales).items():
        names = customers.values(customer, "first_name", "last_name")
        yield customer, *names, *_year_and_month(month), total


def _incentive_rows(
    sales: Iterable[Sale], team: _Dimension, rules: Rules
) -> Iterator[tuple[Any, ...]]:
    """In the scope of the company it is the seller's total over all stores that counts."""
    totals: dict[tuple[int, int, int], Decimal] = defaultdict(Decimal)
    contest: dict[tuple[int, int | None], dict[int, Decimal]] = {}
    for sale in sales:
        seller = sale.sales_person_id
        totals[sale.month, sale.store_id, seller] += sale.total_cost
        field = contest.setdefault((sale.month, _scope(sale.store_id, rules)), {})
        field[seller] = field.get(seller, Decimal(0)) + sale.total_cost
    for (month, store, seller), total in totals.items():
        rivals = contest[month, _scope(store, rules)]
        wins = rivals[seller] == max(rivals.values())
        incentive = _to_the_cent(total * rules.incentive_rate) if wins else Decimal("0.00")
        names = team.values(seller, "first_name", "last_name")
        yield store, seller, *names, *_year_and_month(month), total, incentive


def _scope(store: int, rules: Rules) -> int | None:
    return None if rules.incentive_scope == "company" else store


def _declining_rows(
    sales: Sequence[Sale], customers: _Dimension, as_of: datetime, rules: Rules
) -> Iterator[tuple[Any, ...]]:
    ended = {month for month in {sale.month for sale in sales} if _end(month) <= as_of}
    if not ended:
        return
    last = max(ended)
    totals = _customer_months(sales)

    def total(customer: int, month: int) -> Decimal:
        return totals.get((customer, month), Decimal("0.00"))

    for customer in {customer for customer, _ in totals}:
        now, before = total(customer, last), total(customer, last - 1)
        change = now - before
        threshold = abs(before) * rules.declining_threshold_percent / 100
        if change >= 0 or -change <= threshold:
            continue
        percent = _to_the_cent(change * 100 / abs(before)) if before else None
        falling = 0
        while total(customer, last - falling) < total(customer, last - falling - 1):
            falling += 1
        names = customers.values(customer, "first_name", "last_name")
        yield customer, *names, *_year_and_month(last), now, before, change, percent, falling


def _customer_months(sales: Iterable[Sale]) -> dict[tuple[int, int], Decimal]:
    totals: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
    for sale in sales:
        totals[sale.customer_id, sale.month] += sale.total_cost
    return dict(totals)


def _year_and_month(month: int) -> tuple[int, int]:
    return month // 12, month % 12 + 1


def _end(month: int) -> datetime:
    """The moment a month is over."""
    year, number = _year_and_month(month + 1)
    return datetime(year, number, 1, tzinfo=UTC)


def _to_the_cent(value: Decimal) -> Decimal:
    return value.quantize(_CENT, ROUND_HALF_UP)
