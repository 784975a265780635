"""The sample: the same at each call; its tills believable, with each flaw that they promise."""

from __future__ import annotations

import csv
import gzip
import io
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from retailmart.template.sample import write_sample

MANDATORY = [
    *("customer_id", "store_id", "product_name", "sales_date"),
    *("sales_person_id", "price", "quantity", "total_cost"),
]
COPY, LACKING = "sales_2024-02-12 (1).csv", "sales_2024-03-31_till_9.csv"
Record = dict[str, str]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the sample in it."""
    folder = tmp_path_factory.mktemp("shop")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def files(shop: Path) -> dict[str, list[Record]]:
    """The records of each sales file to be loaded, by name; columns in their plain spelling."""
    paths = sorted((shop / "landing").glob("sales*"))
    return {p.name: records(p) for p in paths if p.name not in (COPY, LACKING)}


@pytest.fixture(scope="module")
def sales(files: dict[str, list[Record]]) -> list[Record]:
    """All records that can be read."""
    return [r for rows in files.values() for r in rows if is_readable(r)]


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def header(path: Path) -> list[str]:
    return next(csv.reader(io.StringIO(content(path).decode("utf-8-sig"), newline="")))


def records(path: Path) -> list[Record]:
    text = io.StringIO(content(path).decode("utf-8-sig"), newline="")
    rows = csv.DictReader(text, strict=True)
    return [{name.strip().lower(): value for name, value in row.items()} for row in rows]


def is_readable(record: Record) -> bool:
    try:
        date.fromisoformat(record["sales_date"])
        Decimal(record["price"])
    except (ValueError, ArithmeticError):
        return False
    return record["customer_id"] != ""


def month(record: Record) -> int:
    return date.fromisoformat(record["sales_date"]).month


def query(shop: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(shop / "shop.db")) as connection:
        return connection.execute(sql).fetchall()


def test_each_call_writes_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    """A second call, in another folder or over the first, changes nothing."""

    def everything(folder: Path) -> dict[str, bytes]:
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    for _ in range(2):
        write_sample(tmp_path)
        assert everything(tmp_path) == everything(shop)


def test_the_gzip_file_carries_no_time(shop: Path) -> None:
    """Its header's clock is zero, or tomorrow's sample would be another file to the ledger."""
    packed = (shop / "landing" / "sales_2024-01-29.csv.gz").read_bytes()
    assert packed[4:8] == bytes(4)


def test_other_files_of_the_project_stay(tmp_path: Path) -> None:
    """A user's own files in the project are left alone."""
    (tmp_path / "landing").mkdir()
    own = [tmp_path / "retailmart.yml", tmp_path / "landing" / "sales_mine.csv"]
    for path in own:
        path.write_text("mine")
    write_sample(tmp_path)
    assert [path.read_text() for path in own] == ["mine", "mine"]


def test_landing_holds_the_promised_files(shop: Path) -> None:
    """Thirteen weeks, a copy, a file without totals and two files that are no sales."""
    names = sorted(path.name for path in (shop / "landing").iterdir() if path.is_file())
    assert len(names) == 13 + 4
    assert {COPY, LACKING, "stocklist.xlsx", "notes.csv"} < set(names)
    assert [name for name in names if name.endswith(".gz")] == ["sales_2024-01-29.csv.gz"]


def test_the_database_has_the_shops_tables(shop: Path) -> None:
    """Each table has its primary key and the promised number of rows."""
    counts = {"customer": 400, "store": 6, "product": 60, "sales_team": 30}
    for table, count in counts.items():
        assert query(shop, f"SELECT count(*) FROM {table}") == [(count,)]
        keys = query(shop, f"SELECT name FROM pragma_table_info('{table}') WHERE pk")
        assert keys == [("customer_id",) if table == "customer" else ("id",)]
    assert query(shop, "SELECT count(DISTINCT name) FROM product") == [(60,)]


def test_each_store_is_led_by_one_of_its_five(shop: Path) -> None:
    """A manager has no manager; the other four have theirs, whom the store names."""
    named = query(
        shop,
        "SELECT s.store_manager_name, count(*) FROM sales_team t JOIN sales_team m"
        " ON m.id = t.manager_id AND m.is_manager = 'Y' AND m.manager_id IS NULL"
        " JOIN store s ON s.store_manager_name = m.first_name || ' ' || m.last_name"
        " WHERE t.is_manager = 'N' GROUP BY s.id",
    )
    assert [count for _, count in named] == [4] * 6


def test_people_cannot_be_called(shop: Path) -> None:
    """Phone numbers are of a form that no subscriber has; pincodes have six digits."""
    for phone, pincode in query(shop, "SELECT phone_number, pincode FROM customer"):
        assert str(phone).startswith("+91 00000 ")
        assert len(str(pincode)) == 6
        assert str(pincode).isdigit()


def test_some_8000_sales_of_three_months(sales: list[Record]) -> None:
    """Every store and salesperson sells in each month, and each person in one store."""
    assert 7_800 <= len(sales) <= 8_300
    assert len({(r["store_id"], month(r)) for r in sales}) == 6 * 3
    assert len({(r["sales_person_id"], month(r)) for r in sales}) == 30 * 3
    assert len({(r["store_id"], r["sales_person_id"]) for r in sales}) == 30


def test_sold_products_stores_and_sellers_are_known(shop: Path, sales: list[Record]) -> None:
    """Only customers are unknown; all else is found in the shop's database."""
    for column, sql in {
        "product_name": "SELECT name FROM product",
        "store_id": "SELECT id FROM store",
        "sales_person_id": "SELECT id FROM sales_team",
    }.items():
        assert {r[column] for r in sales} <= {str(value) for (value,) in query(shop, sql)}


def test_fields_are_quoted_where_they_must(files: dict[str, list[Record]], shop: Path) -> None:
    """Names with commas and with quotes come through a CSV reader whole."""
    name = "sales_2024-01-08.csv"
    sold = {r["product_name"] for r in files[name]}
    assert {'Roti tawa, 11"', "Notebook, 200 pages"} < sold
    assert b'"Roti tawa, 11"""' in content(shop / "landing" / name)


def test_march_carries_the_payment_mode(files: dict[str, list[Record]]) -> None:
    """The tills add a column from 4 March on, and none before."""
    modes = {name: {r.get("payment_mode") for r in rows} for name, rows in files.items()}
    for name, found in modes.items():
        assert found == ({"UPI", "cash", "card"} if name >= "sales_2024-03-04" else {None})


def test_one_header_is_padded_and_in_other_order(shop: Path) -> None:
    """One file names the same columns in another order, case and width."""
    odd = header(shop / "landing" / "sales_2024-02-19.csv")
    plain = [name.strip().lower() for name in odd]
    assert plain != MANDATORY
    assert sorted(plain) == sorted(MANDATORY)
    assert not set(odd) & set(MANDATORY)


def test_one_file_comes_from_windows(shop: Path) -> None:
    """Exactly one file begins with a BOM, and all its lines end in CRLF."""
    found = {p.name: content(p) for p in (shop / "landing").glob("sales*")}
    marked = {name for name, text in found.items() if text.startswith(b"\xef\xbb\xbf")}
    assert marked == {name for name, text in found.items() if b"\r" in text}
    [text] = [found[name] for name in marked]
    assert text.count(b"\r\n") == text.count(b"\n") == text.count(b"\r")


def test_three_rows_cannot_be_read(files: dict[str, list[Record]]) -> None:
    """An empty customer, a price with a comma and a day that never was, in three files."""
    refused = [(name, r) for name, rows in files.items() for r in rows if not is_readable(r)]
    assert len({name for name, _ in refused}) == len(refused) == 3
    first, second, third = (record for _, record in refused)
    assert first["customer_id"] == ""
    assert second["price"] == "1.234,50"
    assert third["sales_date"] == "2024-02-31"


def test_five_customers_are_unknown(shop: Path, sales: list[Record]) -> None:
    """A handful of sales name a customer that the customer table lacks."""
    known = {str(value) for (value,) in query(shop, "SELECT customer_id FROM customer")}
    assert Counter(r["customer_id"] for r in sales if r["customer_id"] not in known) == {
        str(customer): 1 for customer in range(1401, 1406)
    }


def test_one_total_is_a_cent_off(sales: list[Record]) -> None:
    """All totals are price × quantity to the cent, but one."""
    gaps = (Decimal(r["total_cost"]) - Decimal(r["price"]) * int(r["quantity"]) for r in sales)
    assert [gap for gap in gaps if gap] == [Decimal("0.01")]


def test_some_two_percent_come_back(sales: list[Record]) -> None:
    """Returns have a negative quantity and a negative total."""
    returns = [r for r in sales if int(r["quantity"]) < 0]
    assert 0.015 <= len(returns) / len(sales) <= 0.025
    assert all(Decimal(r["total_cost"]) < 0 for r in returns)


def test_two_equal_rows_are_in_one_file(files: dict[str, list[Record]]) -> None:
    """One pair of equal rows, which a loader must not merge."""
    pairs = [
        name
        for name, rows in files.items()
        for count in Counter(tuple(r.items()) for r in rows).values()
        if count > 1
    ]
    assert pairs == ["sales_2024-03-04.csv"]


def test_one_file_is_there_twice(shop: Path) -> None:
    """Two names share their bytes; no other content is repeated."""
    names: dict[bytes, list[str]] = defaultdict(list)
    for path in sorted(path for path in (shop / "landing").rglob("*") if path.is_file()):
        names[content(path)].append(path.name)
    assert [same for same in names.values() if len(same) > 1] == [[COPY, "sales_2024-02-12.csv"]]


def test_three_files_are_to_be_refused(shop: Path) -> None:
    """A sales file without total_cost, a workbook, and a CSV of no known feed."""
    landing = shop / "landing"
    assert header(landing / LACKING) == MANDATORY[:-1]
    assert records(landing / LACKING)
    assert (landing / "stocklist.xlsx").read_bytes().startswith(b"PK")
    assert not set(header(landing / "notes.csv")) & set(MANDATORY)


def test_one_month_of_one_store_has_two_top_sellers(sales: list[Record]) -> None:
    """In store 123 two people share February's lead to the cent; elsewhere one leads."""
    exact: dict[tuple[str, int], dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for r in sales:
        exact[r["store_id"], month(r)][r["sales_person_id"]] += Decimal(r["total_cost"])
    ties = {key for key, people in exact.items() if len(leaders(people)) > 1}
    assert ties == {("123", 2)}
    assert len(leaders(exact["123", 2])) == 2


def leaders(people: dict[str, Decimal]) -> list[str]:
    return [person for person, total in people.items() if total == max(people.values())]


def test_customers_decline_from_month_to_month(sales: list[Record]) -> None:
    """Dozens of customers buy less in March than in February than in January."""
    totals: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for r in sales:
        totals[r["customer_id"]][month(r) - 1] += Decimal(r["total_cost"])
    declining = {c for c, (first, second, third) in totals.items() if first > second > third}
    assert len(declining) >= 40
    assert len([c for c in declining if int(c) % 7 == 0]) >= 20
