"""Make a retail shop to measure with: a landing folder of till exports and the shop's own database.

Every value is arithmetic on a hash of its row number and the seed, never `random()`: the same
arguments write the same bytes, with any number of threads, so that two measurements a month apart
read the same sales.
"""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import duckdb

YEAR: Final = 2023
DAY: Final = date(YEAR, 12, 30)
PRODUCTS: Final = 500


def _split(text: str, by: str | None = None) -> list[str]:
    return text.split(by)


FIRST_NAMES: Final = _split("""
    Aarav Aditi Amina Anil Asha Carlos Chen Daniel Deepa Elena Fatima Grace Hana Ibrahim Ines Ivan
    James Kavya Kwame Laila Leon Maria Meera Mohan Nadia Nikhil Olga Omar Peter Pooja Priya Rahul
    Ravi Rosa Samuel Sara Sunita Tomas Vikram Yuki
""")
LAST_NAMES: Final = _split("""
    Achieng Agarwal Banerjee Becker Chaudhary Costa Das Desai Fernandes Ferreira Garcia Ghosh Gupta
    Hansen Iyer Jackson Joshi Kapoor Khan Kim Kumar Lopez Malhotra Mehta Mensah Menon Moreau Nair
    Novak Okafor Patel Pillai Rao Reddy Santos Sharma Silva Singh Tanaka Verma
""")
STREETS: Final = _split("Station Road,Gandhi Marg,Temple Street,Lake View Road,Market Lane", ",")
QUARTERS: Final = _split("Andheri East,Banjara Hills,Civil Lines,Koramangala,Vasant Kunj", ",")
ADJECTIVES: Final = _split("""
    Basmati Brown Classic Crunchy Dark Dried Family Fresh Frozen Golden Green Herbal Large Light
    Mild Natural Organic Premium Quick Roasted Salted Smooth Spicy Sweet Whole
""")
GOODS: Final = _split("""
    Rice Lentils Tea Coffee Biscuits Flour Sugar Butter Cheese Yoghurt Almonds Honey Noodles Soap
    Shampoo Detergent Chocolate Juice Peanuts Crackers
""")

SCHEMA: Final = """
CREATE TABLE customer (
    customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT, address TEXT, pincode TEXT,
    phone_number TEXT, customer_joining_date DATE);
CREATE TABLE store (
    id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT, store_manager_name TEXT,
    store_opening_date DATE, reviews TEXT);
CREATE TABLE product (
    id INTEGER PRIMARY KEY, name TEXT, current_price DECIMAL(12,2), old_price DECIMAL(12,2),
    created_date DATE, updated_date DATE, expiry_date DATE);
CREATE TABLE sales_team (
    id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT, manager_id INTEGER, is_manager CHAR(1),
    address TEXT, pincode TEXT, joining_date DATE);
"""


@dataclass(frozen=True)
class Shop:
    """How large a shop is; `months` counts from January, all within one year."""

    customers: int
    stores: int
    salespeople: int
    months: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse sizes that no sales can be drawn from."""
        if not 1 <= self.months <= 12:
            raise ValueError(f"months is {self.months}: sales lie within {YEAR}, so give 1 to 12")
        if not 1 <= self.stores <= self.salespeople:
            raise ValueError(
                f"{self.stores} stores with {self.salespeople} salespeople: each store needs one"
            )

    @property
    def days(self) -> int:
        """Days from 1 January to the end of the last month."""
        end = date(YEAR + self.months // 12, self.months % 12 + 1, 1)
        return (end - date(YEAR, 1, 1)).days


def generate(
    folder: Path,
    rows: int,
    files: int = 20,
    customers: int = 200_000,
    stores: int = 200,
    salespeople: int = 2_000,
    months: int = 12,
    seed: int = 7,
) -> None:
    """Write `folder/landing/sales_0001.csv …` (`rows` in all, spread evenly) and `folder/shop.db`.

    Dates rise from file to file as tills export them, save for one row in ten, which bears any date
    of the year: so every file touches every month, and a loader that trusts the order of files gets
    months wrong.
    """
    shop = Shop(customers, stores, salespeople, months, seed)
    landing = folder / "landing"
    landing.mkdir(parents=True, exist_ok=True)
    with closing(_connect(shop)) as con:
        _write_database(con, folder / "shop.db", shop)
        for number in range(files):
            start, stop = number * rows // files, (number + 1) * rows // files
            sales_date = f"""
                DATE '{YEAR}-01-01' + (CASE WHEN pick(i, 1, 10) = 0 THEN pick(i, 2, {shop.days})
                    ELSE i * {shop.days} // {rows} END)::INTEGER
            """
            _write_sales(con, landing / f"sales_{number + 1:04}.csv", start, stop, sales_date, shop)


def day(
    folder: Path,
    rows: int = 50_000,
    customers: int = 200_000,
    stores: int = 200,
    salespeople: int = 2_000,
    months: int = 12,
    seed: int = 7,
) -> Path:
    """Write one day's sales of the same shop to `folder/sales_day.csv`, beside landing."""
    shop = Shop(customers, stores, salespeople, months, seed)
    path = folder / "sales_day.csv"
    beyond = 10**12  # Row numbers that no full load reaches: the day's sales are its own.
    with closing(_connect(shop)) as con:
        _write_sales(con, path, beyond, beyond + rows, f"DATE '{DAY}'", shop)
    return path


def _connect(shop: Shop) -> duckdb.DuckDBPyConnection:
    """A connection that knows the shop's arithmetic; `pick(i, salt, n)` is one of 0 … n-1."""
    con = duckdb.connect()
    con.execute(f"""
        CREATE MACRO pick(i, salt, n) AS
            (hash(i::BIGINT, (salt * 1000003 + {shop.seed})::BIGINT) % n)::BIGINT;
        CREATE MACRO one_of(words, i, salt) AS words[1 + pick(i, salt, len(words))];
        CREATE MACRO digits(i, salt, low, high) AS (low + pick(i, salt, high - low))::VARCHAR;
        CREATE MACRO street(i, salt) AS (1 + pick(i, salt, 299)) || ' '
            || one_of({STREETS}, i, salt + 1) || ', ' || one_of({QUARTERS}, i, salt + 2);
        CREATE MACRO past(i, salt) AS DATE '{YEAR}-01-01' - (1 + pick(i, salt, 3000))::INTEGER;
        CREATE MACRO product_name(p) AS {ADJECTIVES}[1 + p % {len(ADJECTIVES)}] || ' '
            || {GOODS}[1 + p // {len(ADJECTIVES)} % {len(GOODS)}];
        -- 9.99 to 509.98: cents times 0.01 stays a decimal, a division would be a float.
        CREATE MACRO list_price(p) AS ((999 + pick(p, 90, 50000)) * 0.01)::DECIMAL(12,2);
    """)
    return con


def _write_sales(
    con: duckdb.DuckDBPyConnection, path: Path, start: int, stop: int, sales_date: str, shop: Shop
) -> None:
    """Write the sales numbered `start` to `stop` - 1; 0.1 % of customers unknown, 2 % returns."""
    con.execute(f"""
        COPY (
            WITH drawn AS (
                SELECT i,
                    pick(i, 3, {PRODUCTS}) AS product,
                    1 + pick(i, 4, {shop.salespeople}) AS sales_person_id,
                    (1 + pick(i, 5, 9)) * if(pick(i, 6, 50) = 0, -1, 1) AS quantity
                FROM range({start}, {stop}) AS numbers (i)
            ), priced AS (
                SELECT *, product_name(product) AS product_name, list_price(product) AS price
                FROM drawn
            )
            SELECT
                CASE WHEN pick(i, 7, 1000) = 0 THEN {shop.customers} ELSE 0 END
                    + 1 + pick(i, 8, {shop.customers}) AS customer_id,
                1 + (sales_person_id - 1) % {shop.stores} AS store_id,
                product_name,
                {sales_date} AS sales_date,
                sales_person_id,
                price,
                quantity,
                (price * quantity::INTEGER)::DECIMAL(14,2) AS total_cost
            FROM priced
        ) TO '{_quoted(path)}' (FORMAT csv, HEADER)
    """)


def _write_database(con: duckdb.DuckDBPyConnection, path: Path, shop: Shop) -> None:
    """Write the four dimension tables of the shop's own database, replacing an earlier one."""
    path.unlink(missing_ok=True)
    tables = {
        "customer": _customers(shop),
        "store": _stores(shop),
        "product": _products(),
        "sales_team": _sales_team(shop),
    }
    with closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA)
        for table, query in tables.items():
            rows = con.execute(query).fetchall()
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        database.commit()


def _customers(shop: Shop) -> str:
    return f"""
        SELECT i, one_of({FIRST_NAMES}, i, 20), one_of({LAST_NAMES}, i, 21), street(i, 22),
            digits(i, 25, 100000, 1000000), digits(i, 26, 6000000000, 10000000000),
            past(i, 27)::VARCHAR
        FROM range(1, {shop.customers + 1}) AS numbers (i)
    """


def _stores(shop: Shop) -> str:
    return f"""
        SELECT i, street(i, 30), digits(i, 33, 100000, 1000000),
            one_of({FIRST_NAMES}, i, 34) || ' ' || one_of({LAST_NAMES}, i, 35),
            past(i, 36)::VARCHAR,
            one_of(['good', 'busy at weekends', 'friendly staff', 'long queues'], i, 37)
        FROM range(1, {shop.stores + 1}) AS numbers (i)
    """


def _products() -> str:
    """Prices go out as text: SQLite's DECIMAL columns turn it into its own numbers."""
    return f"""
        SELECT i + 1, product_name(i), list_price(i)::VARCHAR, (list_price(i) + 1)::VARCHAR,
            past(i, 40)::VARCHAR, '{YEAR}-01-01', '{YEAR + 3}-12-31'
        FROM range(0, {PRODUCTS}) AS numbers (i)
    """


def _sales_team(shop: Shop) -> str:
    """The first salesperson of each store manages it; the others answer to them."""
    return f"""
        SELECT i, one_of({FIRST_NAMES}, i, 50), one_of({LAST_NAMES}, i, 51),
            CASE WHEN i > {shop.stores} THEN 1 + (i - 1) % {shop.stores} END,
            CASE WHEN i > {shop.stores} THEN 'N' ELSE 'Y' END,
            street(i, 52), digits(i, 55, 100000, 1000000), past(i, 56)::VARCHAR
        FROM range(1, {shop.salespeople + 1}) AS numbers (i)
    """


def _quoted(path: Path) -> str:
    """The path as it stands inside a SQL string."""
    return str(path).replace("'", "''")


def main() -> None:
    """Command line: `generate.py FOLDER --rows N [--files N] [--day-rows N]`."""
    parser = argparse.ArgumentParser(description="Make a retail shop to measure with.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--day-rows", type=int, default=50_000, help="0 writes no day file")
    options = parser.parse_args()
    generate(options.folder, options.rows, options.files)
    if options.day_rows:
        day(options.folder, options.day_rows)


if __name__ == "__main__":
    main()
