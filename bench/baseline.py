"""The yardstick: the five marts as a good engineer writes them by hand in DuckDB, with no checks at
all.

It knows nothing of retailmart. No file is hashed, no row refused, nothing counted, nothing
balanced, nothing synced to disk: whatever retailmart does on top of this must be paid for by being
quicker elsewhere.

Tuned where tuning is one word: no sniffing of the CSV, only the five columns that the marts need,
row order not kept, published rows inserted in key order into tables without a row id. Writing the
2,400 partitions sorted, with more open files, without bloom filters or with other compression made
no difference beyond the noise.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

SALES_COLUMNS: Final = {
    "customer_id": "INTEGER",
    "store_id": "INTEGER",
    "product_name": "VARCHAR",
    "sales_date": "DATE",
    "sales_person_id": "INTEGER",
    "price": "DECIMAL(12,2)",
    "quantity": "INTEGER",
    "total_cost": "DECIMAL(14,2)",
}

DIMENSIONS: Final = {
    "customer": "customer_id, first_name, last_name, address, pincode, phone_number",
    "store": "id, store_manager_name",
    "sales_team": "id, first_name, last_name, manager_id, is_manager, address, pincode",
}

MONTHLY: Final = """
    SELECT customer_id, date_trunc('month', sales_date)::DATE AS first_day,
        sum(total_cost)::DECIMAL(18,2) AS total
    FROM sales
    GROUP BY ALL
"""

CUSTOMER_MART: Final = """
    SELECT customer_id, first_name, last_name, address, pincode, phone_number,
        sales_date, total_cost, NULL::VARCHAR AS additional_column
    FROM sales LEFT JOIN customer USING (customer_id)
"""

SALES_MART: Final = """
    SELECT sales.store_id, sales.sales_person_id,
        seller.first_name AS sales_person_first_name, seller.last_name AS sales_person_last_name,
        store.store_manager_name, seller.manager_id, seller.is_manager,
        seller.address AS sales_person_address, seller.pincode AS sales_person_pincode,
        sales.sales_date, sales.total_cost, NULL::VARCHAR AS additional_column,
        strftime(sales.sales_date, '%Y-%m') AS sales_month
    FROM sales
    LEFT JOIN store ON store.id = sales.store_id
    LEFT JOIN sales_team AS seller ON seller.id = sales.sales_person_id
"""

CUSTOMER_MONTHLY_PURCHASE: Final = """
    SELECT customer_id, first_name, last_name,
        year(first_day)::INTEGER AS year, month(first_day)::INTEGER AS month, total AS monthly_total
    FROM monthly LEFT JOIN customer USING (customer_id)
"""

SALES_TEAM_INCENTIVE: Final = """
    WITH sold AS (
        SELECT store_id, sales_person_id, date_trunc('month', sales_date)::DATE AS first_day,
            sum(total_cost)::DECIMAL(18,2) AS total
        FROM sales
        GROUP BY ALL
    )
    SELECT store_id, sales_person_id, first_name, last_name,
        year(first_day)::INTEGER AS year, month(first_day)::INTEGER AS month, total AS total_sales,
        CASE WHEN total = max(total) OVER (PARTITION BY store_id, first_day)
            THEN round(total * 0.01, 2) ELSE 0 END::DECIMAL(18,2) AS incentive
    FROM sold LEFT JOIN sales_team ON sales_team.id = sold.sales_person_id
"""

# A division of decimals is a float in DuckDB, so the percentage is worked out in whole cents: half
# up, away from zero. Every customer of `fallen` gets a row for each month of the calendar, 0 where
# there is none in `monthly`; before the first purchase 0 follows 0, which is no fall, and so the
# count ends there by itself.
DECLINING_CUSTOMERS: Final = """
    WITH span AS (
        SELECT min(first_day) AS first_month,
            max(first_day) FILTER (first_day + INTERVAL 1 MONTH <= DATE '{as_of}') AS last_month
        FROM monthly
    ), fallen AS (
        SELECT customer_id,
            coalesce(sum(total) FILTER (first_day = last_month), 0)::DECIMAL(18,2) AS monthly_total,
            coalesce(sum(total) FILTER (first_day < last_month), 0)::DECIMAL(18,2) AS previous_total
        FROM monthly, span
        WHERE first_day BETWEEN last_month - INTERVAL 1 MONTH AND last_month
        GROUP BY customer_id
        HAVING monthly_total < previous_total
    ), calendar AS (
        SELECT unnest(generate_series(first_month, last_month, INTERVAL 1 MONTH))::DATE AS first_day
        FROM span
    ), steps AS (
        SELECT customer_id, first_day, coalesce(total, 0) AS reached,
            lag(reached, 1, 0) OVER (PARTITION BY customer_id ORDER BY first_day) AS before
        FROM (SELECT customer_id, first_day FROM fallen, calendar)
        LEFT JOIN monthly USING (customer_id, first_day)
    ), streaks AS (
        SELECT customer_id, max(first_day) FILTER (reached >= before) AS not_fallen
        FROM steps
        GROUP BY customer_id
    ), counted AS (
        SELECT customer_id,
            count(*) FILTER (not_fallen IS NULL OR first_day > not_fallen) AS months_falling
        FROM steps JOIN streaks USING (customer_id)
        GROUP BY customer_id
    ), changed AS (
        SELECT *, (monthly_total - previous_total)::DECIMAL(18,2) AS change,
            (change * 100)::HUGEINT AS change_cents,
            nullif(abs(previous_total * 100)::HUGEINT, 0) AS base_cents
        FROM fallen
    )
    SELECT customer_id, first_name, last_name,
        year(last_month)::INTEGER AS year, month(last_month)::INTEGER AS month,
        monthly_total, previous_total, change,
        (((change_cents * 20000 - base_cents) // (2 * base_cents))::DECIMAL(16,0) * 0.01)
            ::DECIMAL(18,2) AS change_percent,
        months_falling::INTEGER AS months_falling
    FROM changed JOIN counted USING (customer_id)
    CROSS JOIN span
    LEFT JOIN customer USING (customer_id)
"""

PUBLISHED: Final = {
    "customer_monthly_purchase": """
        customer_id INTEGER NOT NULL, first_name TEXT, last_name TEXT,
        year INTEGER NOT NULL, month INTEGER NOT NULL,
        monthly_total DECIMAL(18,2) NOT NULL, PRIMARY KEY (customer_id, year, month)
    """,
    "sales_team_incentive": """
        store_id INTEGER NOT NULL, sales_person_id INTEGER NOT NULL,
        first_name TEXT, last_name TEXT,
        year INTEGER NOT NULL, month INTEGER NOT NULL, total_sales DECIMAL(18,2) NOT NULL,
        incentive DECIMAL(18,2) NOT NULL, PRIMARY KEY (store_id, sales_person_id, year, month)
    """,
    "declining_customers": """
        customer_id INTEGER NOT NULL, first_name TEXT, last_name TEXT,
        year INTEGER NOT NULL, month INTEGER NOT NULL,
        monthly_total DECIMAL(18,2) NOT NULL, previous_total DECIMAL(18,2) NOT NULL,
        change DECIMAL(18,2) NOT NULL, change_percent DECIMAL(18,2),
        months_falling INTEGER NOT NULL, PRIMARY KEY (customer_id)
    """,
}

KEYS: Final = {
    "customer_monthly_purchase": "customer_id, year, month",
    "sales_team_incentive": "store_id, sales_person_id, year, month",
    "declining_customers": "customer_id",
}


def main() -> None:
    """Command line: `baseline.py FOLDER OUT [--as-of DATE] [--memory-limit 2GB]`."""
    parser = argparse.ArgumentParser(description="The five marts in bare DuckDB.")
    parser.add_argument("folder", type=Path, help="a generated shop: landing/*.csv and shop.db")
    parser.add_argument("out", type=Path, help="emptied first")
    parser.add_argument("--as-of", default="2024-01-01", help="a date, YYYY-MM-DD")
    parser.add_argument("--memory-limit", help="DuckDB's, such as 2GB")
    options = parser.parse_args()
    build(options.folder, options.out, options.as_of, options.memory_limit)


def build(folder: Path, out: Path, as_of: str, memory_limit: str | None = None) -> None:
    """Read the shop in `folder` and write the five marts and `marts.db` into `out`.

    A mart is `<mart>.parquet`, save for `sales_mart/` in Hive folders.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with closing(duckdb.connect()) as con:
        con.execute("SET preserve_insertion_order = false")
        con.execute(f"SET temp_directory = '{_quoted(out / 'spill')}'")
        if memory_limit:
            con.execute(f"SET memory_limit = '{memory_limit}'")
        _read_sales(con, folder / "landing")
        _read_dimensions(con, folder / "shop.db")
        con.execute(f"CREATE TABLE monthly AS {MONTHLY}")
        for mart in PUBLISHED:
            con.execute(f"CREATE TABLE {mart} AS {_query(mart, as_of)}")
            con.execute(f"COPY {mart} TO '{_quoted(out / f'{mart}.parquet')}' (FORMAT parquet)")
        con.execute(
            f"COPY ({CUSTOMER_MART}) TO '{_quoted(out / 'customer_mart.parquet')}' (FORMAT parquet)"
        )
        con.execute(
            f"COPY ({SALES_MART}) TO '{_quoted(out / 'sales_mart')}' "
            "(FORMAT parquet, PARTITION_BY (sales_month, store_id))"
        )
        _publish(con, out / "marts.db")


def _query(mart: str, as_of: str) -> str:
    """The SELECT of a published mart."""
    queries = {
        "customer_monthly_purchase": CUSTOMER_MONTHLY_PURCHASE,
        "sales_team_incentive": SALES_TEAM_INCENTIVE,
        "declining_customers": DECLINING_CUSTOMERS.format(as_of=as_of),
    }
    return queries[mart]


def _read_sales(con: duckdb.DuckDBPyConnection, landing: Path) -> None:
    con.execute(f"""
        CREATE TABLE sales AS
        SELECT customer_id, store_id, sales_date, sales_person_id, total_cost
        FROM read_csv('{_quoted(landing)}/*.csv', columns = {SALES_COLUMNS},
            auto_detect = false, header = true, delim = ',', quote = '', escape = '')
    """)


def _read_dimensions(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        for table, columns in DIMENSIONS.items():
            values = zip(*database.execute(f"SELECT {columns} FROM {table}"), strict=True)
            arrow = pa.table(dict(zip(columns.split(", "), map(list, values), strict=True)))
            con.register("incoming", arrow)
            con.execute(f"CREATE TABLE {table} AS FROM incoming")
            con.unregister("incoming")


def _publish(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Copy the monthly marts into SQLite in one transaction.

    Money is bound as a float because SQLite's DECIMAL columns hold nothing else; a total below
    10^13 keeps its cents.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN")
        for mart, columns in PUBLISHED.items():
            database.execute(f"CREATE TABLE {mart} ({columns}) WITHOUT ROWID")
            rows = con.sql(f"SELECT {_bindable(con, mart)} FROM {mart} ORDER BY {KEYS[mart]}")
            marks = ", ".join("?" * len(rows.columns))
            for batch in rows.to_arrow_reader(100_000):
                values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                database.executemany(f"INSERT INTO {mart} VALUES ({marks})", values)
        database.execute("COMMIT")


def _bindable(con: duckdb.DuckDBPyConnection, mart: str) -> str:
    """The mart's columns, decimals as floats: sqlite3 binds no Decimal."""
    described = con.execute(f"DESCRIBE {mart}").fetchall()
    return ", ".join(
        f"{name}::DOUBLE" if kind.startswith("DECIMAL") else name for name, kind, *_ in described
    )


def _quoted(path: Path) -> str:
    """The path as it stands inside a SQL string."""
    return str(path).replace("'", "''")


if __name__ == "__main__":
    main()
