"""Explaining numbers: right rows with their lines, what is missing of them, and clear answers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.operations.explain.values import Explanation
from retailmart.template import write_project
from tests.support.amount import SEED, tries
from tests.support.backends import shop_tables
from tests.support.judge_shop import KEYS, market_marts, same, webshop_marts
from tests.support.shop import AS_OF, HEADER, Called, Shop, keep_only, sale

# How many random cells are judged: RETAILMART_CELLS=10000 takes more than an hour.
CELLS = int(os.environ.get("RETAILMART_CELLS") or tries(7, 200))
INCENTIVE, MONTHLY = "sales_team_incentive", "customer_monthly_purchase"
_MARTS = (INCENTIVE, MONTHLY, "customer_mart", "declining_customers", "odd", "different", "united")
ODD = """-- about: what was sold, but for the last store's
-- refresh: months
-- partitions: [_month]
-- key: [_month, store_id]
SELECT _month, store_id, sum(total_cost) AS total FROM (
    SELECT _month, store_id, customer_id, total_cost FROM sales
    EXCEPT ALL SELECT _month, store_id, customer_id, total_cost FROM sales WHERE store_id = 9
) GROUP BY _month, store_id
"""
DIFFERENT = """-- refresh: full
-- key: [store_id]
SELECT store_id, count(*) AS customers, max(customer_id) AS last_one
FROM (SELECT DISTINCT store_id, customer_id FROM sales) GROUP BY store_id
"""
UNITED = """-- refresh: full
-- key: [what]
SELECT what, sum(amount) AS amount FROM (
    SELECT 'sold' AS what, total_cost AS amount FROM sales WHERE quantity > 0
    UNION ALL SELECT 'returned', total_cost FROM sales WHERE quantity < 0
) GROUP BY what
"""


@pytest.fixture
def marts() -> Collection[str]:
    """What a shop of one test needs."""
    return (MONTHLY, "declining_customers")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with two months, a file that was replaced, one that was undone, and refused rows."""
    shop = Shop(tmp_path_factory.mktemp("explained") / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    for name, text in (("odd", ODD), ("different", DIFFERENT), ("united", UNITED)):
        (shop.folder / "marts" / f"{name}.sql").write_text(text)
    keep_only(shop.folder, marts=_MARTS)
    shop.backend.execute_in_shop(*shop_tables())
    first = [sale(2, price="12.30"), sale(1, day="2024-02-01", price="7.00"), sale(1), sale(1)]
    shop.sales("sales_1.csv", [*first, "", sale(3, day="2024-02-31"), sale(2, store=2, person=3)])
    shop.run()
    shop.sales("sales_2.csv", [sale(1, price="99.99")])
    shop.run()
    shop.sales("sales_2.csv", [sale(1, price="-4.00", quantity=-1), sale(2, person=2, price="50")])
    shop.run()
    shop.sales("sales_3.csv", [sale(1, price="1000.00")])
    run = shop.run().run_id
    shop.open().undo(run)
    refused = [f"1,1,tea,2024-01-15,1,10.00,one,{price}" for price in ("3.00", "4.50")]
    shop.sales("sales_4.csv", [sale(7), *refused, "8,1,tea,2024-01-15,1,1.00,one,1.00"])
    shop.run()
    return shop


def explain(shop: Shop, mart: str, column: str | None = None, **key: object) -> Explanation:
    return shop.open().explain(mart, key, column=column)


def places(found: Explanation) -> list[tuple[str | None, int | None]]:
    """The files and lines of the delivered rows."""
    return [(row.file, row.line) for row in found.rows if row.file is not None]


def test_a_number_is_made_of_delivered_lines(asked: Shop) -> None:
    """Two equal sales are two lines; a return counts; the amounts add up to the number."""
    found = explain(asked, INCENTIVE, _month="2024-01", store_id=1, sales_person_id=1)
    assert found.number == Decimal("38.30")
    assert found.column == "total_sales"
    assert places(found) == [
        ("sales_1.csv", 2),
        ("sales_1.csv", 4),
        ("sales_1.csv", 5),
        ("sales_2.csv", 2),
        ("sales_4.csv", 2),
    ]
    assert [one.amount for one in found.addends] == [
        Decimal(text) for text in ("12.30", "10.00", "10.00", "-4.00", "10.00")
    ]
    assert found.rows[0].raw == "2,1,tea,2024-01-15,1,12.30,1,12.30"
    assert (found.check.added, found.check.agrees) == (Decimal("38.30"), True)
    assert found.used == {"sales": 5, "sales_team": 1}
    assert [(one.file, one.run, one.rows, one.amount) for one in found.deliveries] == [
        ("sales_1.csv", 1, 3, Decimal("32.30")),
        ("sales_2.csv", 3, 1, Decimal("-4.00")),
        ("sales_4.csv", 6, 1, Decimal("10.00")),
    ]
    assert found.limits == ()


def test_refused_rows_that_would_count_are_told_with_their_money(asked: Shop) -> None:
    """Those of this key only, as far as they can be read; of the others nobody can tell."""
    found = explain(asked, MONTHLY, month="2024-01", customer_id="1")
    assert [(one.file, one.line, one.column, one.amount) for one in found.refused] == [
        ("sales_4.csv", 3, "quantity", Decimal("3.00")),
        ("sales_4.csv", 4, "quantity", Decimal("4.50")),
    ]
    assert found.repaired == Decimal("23.50")
    assert found.unreadable == 1  # 31 February


def test_refused_rows_are_read_as_their_feed_reads_cells(shop: Shop) -> None:
    """Decimal commas, days in the feed's form, and no more decimals than the type holds."""
    feed = shop.folder / "feeds" / "sales.yml"
    text = feed.read_text().replace("columns:", 'decimal: ","\ndelimiter: ";"\ncolumns:', 1)
    feed.write_text(text.replace("{type: DATE,", '{type: DATE, format: "%d.%m.%Y",'))
    assert "%d.%m.%Y" in feed.read_text()
    lines = [sale(day="15#01#2024")]
    lines += [
        sale(day="16#01#2024", price=price).replace(",tea,", f",{name},").replace(",1,1", ",x,1")
        for name, price in (("tea", "12.50"), ("milk", "1.005"))
    ]
    shop.sales(
        "sales_a.csv",
        [row.replace(",", ";").replace(".", ",").replace("#", ".") for row in lines],
        HEADER.replace(",", ";"),
    )
    shop.run()
    found = explain(shop, MONTHLY, month="2024-01", customer_id="1")
    assert [(one.line, one.amount) for one in found.refused] == [
        (3, Decimal("12.50")),
        (4, None),
    ]
    assert found.repaired == Decimal("22.50")


def test_corrections_and_undos_are_told(asked: Shop) -> None:
    """A file that was replaced and a run that was undone once counted in this month."""
    found = explain(asked, MONTHLY, _month="2024-01", customer_id=1)
    assert [(one.file, one.run, one.state) for one in found.corrections] == [
        ("sales_2.csv", 2, "superseded"),
        ("sales_3.csv", 4, "undone"),
    ]
    assert "run 3" in found.corrections[0].message
    assert "by run 5" in found.corrections[1].message


def test_a_number_that_depends_on_others_says_with_whom_it_is_compared(asked: Shop) -> None:
    """The incentive of whom is not the top is not to be had from their own sales."""
    key = {"_month": "2024-01", "store_id": 1, "sales_person_id": 1}
    found = explain(asked, INCENTIVE, "incentive", **key)
    assert found.number == 0
    assert found.check.rerun == Decimal("0.38")
    assert not found.check.rerun_agrees
    assert found.compared is not None
    assert found.compared.by == ("_month", "store_id")
    totals = {row["sales_person_id"]: row["total_sales"] for row in found.compared.rows}
    assert totals == {1: Decimal("38.30"), 2: Decimal("50.00")}
    assert found.check.agrees
    assert any("PARTITION BY" in text for text in found.compares)
    assert found.variables["incentive_rate"] == Decimal("0.01")


def test_a_mart_of_marts_is_explained_down_to_raw(asked: Shop) -> None:
    """Who bought less: the sales of both months are there."""
    found = explain(asked, "declining_customers", "previous_total", customer_id=1)
    assert found.number == Decimal("16.00")
    assert found.check.added_agrees
    assert found.through == {MONTHLY: 2}
    assert places(found) == [
        ("sales_1.csv", 3),
        ("sales_1.csv", 4),
        ("sales_1.csv", 5),
        ("sales_2.csv", 2),
    ]
    assert "customer" in found.used


def test_a_mart_of_single_sales_takes_any_column(asked: Shop) -> None:
    """The number of rows, their sum, and the version of the customer that each shows."""
    found = explain(asked, "customer_mart", customer_id=1, sales_date="2024-01-15")
    assert (found.matches, found.number) == (3, Decimal("16.00"))
    assert places(found) == [("sales_1.csv", 4), ("sales_1.csv", 5), ("sales_2.csv", 2)]
    (version,) = [row for row in found.rows if row.table == "customer_history"]
    assert version.valid_from is not None
    assert version.valid_to == date(9999, 12, 31)
    assert found.check.agrees


def test_users_marts_are_explained(asked: Shop) -> None:
    """DISTINCT and UNION tell rows apart; each different one is made of all equal ones."""
    found = explain(asked, "different", store_id=1)
    assert found.number == 3
    assert len(places(found)) == 7
    assert found.check.agrees
    found = explain(asked, "united", what="returned")
    assert (found.number, places(found)) == (Decimal("-4.00"), [("sales_2.csv", 2)])


def test_where_rows_cannot_be_told_apart_files_can(asked: Shop) -> None:
    """The query is asked without each file; the answer says that this is as far as it goes."""
    found = explain(asked, "odd", _month="2024-01", store_id=1)
    assert found.number == Decimal("88.30")
    assert found.rows == ()
    assert [(one.file, one.amount) for one in found.deliveries] == [
        ("sales_1.csv", Decimal("32.30")),
        ("sales_2.csv", Decimal("46.00")),
        ("sales_4.csv", Decimal("10.00")),
    ]
    assert found.check.agrees
    assert any("EXCEPT" in limit for limit in found.limits)


def test_a_number_that_is_not_there_is_a_clear_answer(asked: Shop, called: Called) -> None:
    """Even then it is said which refused rows would make it."""
    found = explain(asked, MONTHLY, _month="2024-01", customer_id=8)
    assert not found.is_there
    assert [one.amount for one in found.refused] == [Decimal("1.00")]
    done = called(asked.folder, "explain", MONTHLY, "--month", "2020-01", "--customer-id", "1")
    assert done.returncode == 0
    assert "has no such row" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "--a", "1"), "there is no mart 'nothing'"),
        ((MONTHLY,), "name the row"),
        ((MONTHLY, "--shop", "1"), "no column 'shop'"),
        ((MONTHLY, "--customer_id", "one"), "'one' is no INTEGER"),
        ((MONTHLY, "--customer_id", "1"), "2 rows of customer_monthly_purchase"),
        ((MONTHLY, "--customer_id", "1"), "Add --month; see"),
        ((MONTHLY, "--month", "2024-13", "--customer_id", "1"), "'2024-13' is no month"),
        ((MONTHLY, "--customer_id"), "has no value"),
        ((MONTHLY, "customer_id", "1"), "is no column's name"),
        ((MONTHLY, "--key", "customer_id"), "NAME=VALUE"),
        ((MONTHLY, "--month", "2024-01", "--customer_id", "1", "--column", "x"), "no column 'x'"),
    ],
)
def test_mistakes_are_told(
    asked: Shop, called: Called, words: tuple[str, ...], message: str
) -> None:
    """Each with what to do next, and without a trace of the program."""
    done = called(asked.folder, "explain", *words)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_before_the_first_run_there_is_nothing(shop: Shop) -> None:
    """MartNotBuilt, as for all that look."""
    with pytest.raises(MartNotBuilt):
        explain(shop, MONTHLY, _month="2024-01", customer_id=1)


def test_a_mart_that_was_changed_is_built_first(shop: Shop) -> None:
    """What it would say now is not why the number is what it is."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    file = shop.folder / "marts" / f"{MONTHLY}.sql"
    file.write_text(file.read_text().replace("sum(total_cost)", "sum(total_cost + 1)"))
    with pytest.raises(RetailmartError, match="defined otherwise"):
        explain(shop, MONTHLY, _month="2024-01", customer_id=1)


@pytest.mark.every_backend
def test_a_repaired_row_names_where_it_was_refused(shop: Shop) -> None:
    """Its line is that of the repaired sheet."""
    shop.sales("sales_1.csv", [sale(2), "1,1,tea,2024-01-15,1,10.00,one,3.00"])
    shop.run()
    sheet = shop.folder / "refused.csv"
    shop.open().quarantine_export(sheet)
    text = sheet.read_text(encoding="utf-8-sig")
    sheet.write_text(text.replace(",one,", ",1,"), encoding="utf-8-sig")
    shop.open().quarantine_replay(sheet)
    shop.run()
    found = explain(shop, MONTHLY, _month="2024-01", customer_id=1)
    (row,) = [row for row in found.rows if row.file is not None]
    assert row.origin is not None
    assert row.origin.endswith("#3")
    assert row.line == 2
    assert any("repaired" in one.message for one in found.corrections)


def test_text_json_and_page(asked: Shop, called: Called) -> None:
    """The three forms say the same number; the page holds no script and names no other place."""
    words = ["explain", INCENTIVE, "--month", "2024-01", "--store-id=1"]
    words += ["--key", "sales_person_id=1"]
    text = called(asked.folder, *words).stdout
    assert text.startswith("sales_team_incentive.total_sales, ")
    assert "38.30" in text.splitlines()[0]
    assert "sales_1.csv:2 (run 1)  12.30" in text
    answer = json.loads(called(asked.folder, *words, "-o", "json").stdout)
    assert answer["number"] == "38.30"
    assert answer["rows"][0]["line"] == 2
    page = called(asked.folder, *words, "--output", "html").stdout
    reader = _Page()
    reader.feed(page)
    assert reader.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert not re.search(r"https?://|url\(", page)
    assert "38.30" in page


class _Page(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag begins."""
        self.tags.add(tag)


def test_others_text_is_escaped(shop: Shop, called: Called) -> None:
    """What a till wrote neither becomes a part of the page nor moves a terminal's cursor."""
    shop.sales("sales_<b>.csv", ['1,1,"<script>\x1b[31m",2024-01-15,1,10.00,1,10.00'])
    shop.run()
    words = ("explain", MONTHLY, "--month", "2024-01", "--customer_id", "1")
    page = called(shop.folder, *words, "-o", "html").stdout
    assert "<script" not in page
    assert "<b>" not in page
    assert "\x1b" not in page + called(shop.folder, *words).stdout


def test_nothing_is_written(asked: Shop) -> None:
    """The lake, the database and the archive are as before, and no folder is left."""
    before = _content(asked.folder)
    explain(asked, INCENTIVE, _month="2024-01", store_id=1, sales_person_id=1)
    assert _content(asked.folder) == before


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_commands_that_do_not_explain_do_not_load_it() -> None:
    """The program starts without it, and a run does not import it."""
    code = (
        "import sys, retailmart.cli, retailmart.api, retailmart.operations.run;"
        "print([m for m in sys.modules if 'explain' in m and 'operations' in m or 'tracing' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The judge: it reads the delivered bytes and the shop's database by itself.


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Mapping[str, list[str]]]:
    """The sample shop after its first run, and the lines of each file as they landed."""
    folder = tmp_path_factory.mktemp("judged") / "shop"
    write_project(folder, sample=True)
    lines = {}
    for path in sorted((folder / "landing").rglob("*")):
        if path.is_file() and path.suffix in (".csv", ".gz"):
            name = path.relative_to(folder / "landing").as_posix()
            content = path.read_bytes()
            text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(
                "utf-8-sig"
            )
            lines[name] = text.splitlines()
    shop = Shop(folder)
    as_landed = folder.parent / "landed"
    subprocess.run(["cp", "-r", str(folder / "landing"), str(as_landed)], check=True)
    shop.run()
    return shop, lines


def test_random_cells_are_added_again_from_the_delivered_bytes(
    sample: tuple[Shop, Mapping[str, list[str]]],
) -> None:
    """Each number is the judge's, and so is what the judge adds up of the lines that are named."""
    shop, lines = sample
    judge = _Judge(shop.folder, lines)
    chance = Random(SEED)
    cells = list(judge.cells())
    marts = sorted({mart for mart, *_ in cells})
    assert set(marts) == _SUMS.keys()
    for mart in chance.sample(marts, min(CELLS, len(marts))):
        own = [cell for cell in cells if cell[0] == mart]
        for _, key, column, expected in chance.choices(own, k=CELLS // len(marts) + 1):
            found = shop.open().explain(mart, key, column=column)
            assert same(found.number, expected), (mart, key, column)
            assert found.check.agrees, (mart, key, column, found.check)
            judge.expect_lines(found)


# The columns that are a sum or a count, and the column of the delivered file that is added.
_SUMS: Mapping[str, Mapping[str, str | None]] = {
    INCENTIVE: {"total_sales": "total_cost"},
    MONTHLY: {"monthly_total": "total_cost"},
    "market_metrics": {"revenue": "Order Total", "orders": None},
    "market_user_totals": {"total_amount": "Order Total", "orders": None},
    "market_merchant_metrics": {"revenue": "Order Total", "orders": None},
    "market_payment_metrics": {"revenue": "Order Total", "orders": None},
    "market_category_metrics": {"revenue": "Total Price", "lines": None},
    "market_order_totals": {"lines_total": "Total Price", "lines": None},
    "order_analytics": {"total_spent": "total_amount", "total_orders": None},
    "peak_hours": {"revenue": "total_amount", "orders": None},
    "customer_segments": {"monetary": "total_amount", "frequency": None},
    "warehouse_utilization": {"stock": "quantity"},
    "inventory_turnover": {"units_sold": "quantity"},
    "inventory_analytics": {"quantity": "quantity"},
}
# What the judge of the other marts calls the columns of their keys.
_KEYS: Mapping[str, Mapping[str, str]] = {
    "market_user_totals": {"user_id": "_user"},
    "market_category_metrics": {"category": "_category"},
    "market_merchant_metrics": {"merchant_id": "_merchant"},
    "market_payment_metrics": {"payment_method": "_payment_method"},
}


class _Judge:
    """Knows the numbers and the delivered lines, without any code of the program."""

    def __init__(self, folder: Path, lines: Mapping[str, list[str]]) -> None:
        self.folder, self.lines = folder, lines
        self.landed = folder.parent / "landed"

    def cells(self) -> Iterator[tuple[str, dict[str, object], str, Any]]:
        """Every cell that is a sum or a count: mart, key, column and number."""
        names = (path.relative_to(self.landed).as_posix() for path in self.landed.rglob("*.*"))
        delivered = sorted(name for name in names if name.startswith("market"))
        marts = {
            **webshop_marts(self.folder / "shop.db", AS_OF),
            **market_marts(self.landed, delivered),
        }
        for mart, columns in _SUMS.items():
            for row in marts.get(mart, ()):
                named = _KEYS.get(mart, {})
                key = {named.get(one, one): row[one] for one in KEYS[mart]}
                if any(value is None for value in key.values()):
                    key = {n: "unknown" if v is None else v for n, v in key.items()}
                for column in columns:
                    if row.get(column) is not None:
                        yield mart, key, column, row[column]
        yield from self._of_tills()

    def _of_tills(self) -> Iterator[tuple[str, dict[str, object], str, Any]]:
        """The tills' cells as the database shows them; their money comes from the lines."""
        with closing(sqlite3.connect(self.folder / "retail.db")) as database:
            database.row_factory = sqlite3.Row
            for mart, column in ((INCENTIVE, "total_sales"), (MONTHLY, "monthly_total")):
                keys = ["_month", "customer_id"]
                if mart == INCENTIVE:
                    keys = ["_month", "store_id", "sales_person_id"]
                for row in database.execute(f"SELECT * FROM {mart}"):
                    yield mart, {n: row[n] for n in keys}, column, Decimal(str(row[column]))

    def expect_lines(self, found: Explanation) -> None:
        """Each amount stands in a line that is named, and all of them are the number."""
        money = _SUMS[found.mart][found.column]
        total = Decimal(0)
        assert len(found.addends) > 0 or found.number == 0, found.key
        for addend in found.addends:
            assert addend.rows, found.key
            rows = [found.rows[number] for number in addend.rows]
            total += Decimal(addend.amount)
            if money is None:
                continue
            said = [value for row in rows for value in self._said(row, money)]
            # Several slots of a product at a place are one amount.
            right = {*said, sum(said, Decimal(0)), Decimal(0)}
            assert Decimal(addend.amount) in right, (found.mart, found.key, said)
        assert total == found.number, (found.mart, found.key)
        lines = [(row.file, row.line) for row in found.rows if row.file is not None]
        assert len(lines) == len(set(lines)), "a line is named twice"

    def _said(self, row: Any, money: str) -> Iterator[Decimal]:
        """What a delivered line, or a row of the shop's database, says in a column."""
        if row.file is None:
            if row.values.get(money) is not None:
                yield Decimal(str(self._in_shop(row, money)))
            return
        assert row.line is not None, row.file
        lines = self.lines[row.file]
        header = next(csv.reader(io.StringIO(lines[0])))
        cells = next(csv.reader(io.StringIO("\n".join(lines[row.line - 1 :]))))
        for name, cell in zip(header, cells, strict=False):
            if name.strip().lower().replace("_", " ") == money.lower().replace("_", " "):
                try:
                    yield Decimal(cell.strip())
                except InvalidOperation:
                    continue

    def _in_shop(self, row: Any, money: str) -> Any:
        """The value in the shop's own database, by the first column, which is the key."""
        key = next(iter(row.values))
        with closing(sqlite3.connect(self.folder / "shop.db")) as shop:
            query = f'SELECT "{money}" FROM "{row.table}" WHERE "{key}" = ?'
            (value,) = shop.execute(query, (row.values[key],)).fetchone()
        return value


def test_it_may_be_asked_for_a_later_day(shop: Shop) -> None:
    """A mart that looks at as_of is explained as of the moment that it was built for."""
    shop.sales("sales_1.csv", [sale(1), sale(1, day="2024-02-01", price="1.00")])
    shop.run(datetime(2024, 3, 2, tzinfo=UTC))
    shop.run(datetime(2024, 3, 2, tzinfo=UTC) + timedelta(days=90))
    found = explain(shop, "declining_customers", customer_id=1)
    assert found.as_of.month == 5
    assert found.number == Decimal("1.00")
