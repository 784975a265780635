"""Hold the marts that retailmart wrote against the baseline's: a ratio means nothing unless both
made the same tables.

Tables are compared as multisets on the columns that the domain names; lineage columns, which begin
with an underscore, are retailmart's own affair. Each side is read once and digested by bucket
(rows, sum and xor of row hashes); only where a bucket differs are its rows compared one with
another, to name some of them.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import duckdb
from deltalake import DeltaTable

MONEY: Final = "DECIMAL(38,2)"
BUCKETS: Final = 256
SHOWN: Final = 3

MARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "customer_mart": {
        "customer_id": "BIGINT",
        "first_name": "VARCHAR",
        "last_name": "VARCHAR",
        "address": "VARCHAR",
        "pincode": "VARCHAR",
        "phone_number": "VARCHAR",
        "sales_date": "DATE",
        "total_cost": MONEY,
        "additional_column": "VARCHAR",
    },
    "sales_mart": {
        "store_id": "BIGINT",
        "sales_person_id": "BIGINT",
        "sales_person_first_name": "VARCHAR",
        "sales_person_last_name": "VARCHAR",
        "store_manager_name": "VARCHAR",
        "manager_id": "BIGINT",
        "is_manager": "VARCHAR",
        "sales_person_address": "VARCHAR",
        "sales_person_pincode": "VARCHAR",
        "sales_date": "DATE",
        "total_cost": MONEY,
        "additional_column": "VARCHAR",
        "sales_month": "VARCHAR",
    },
    "customer_monthly_purchase": {
        "customer_id": "BIGINT",
        "first_name": "VARCHAR",
        "last_name": "VARCHAR",
        "year": "INTEGER",
        "month": "INTEGER",
        "monthly_total": MONEY,
    },
    "sales_team_incentive": {
        "store_id": "BIGINT",
        "sales_person_id": "BIGINT",
        "first_name": "VARCHAR",
        "last_name": "VARCHAR",
        "year": "INTEGER",
        "month": "INTEGER",
        "total_sales": MONEY,
        "incentive": MONEY,
    },
    "declining_customers": {
        "customer_id": "BIGINT",
        "first_name": "VARCHAR",
        "last_name": "VARCHAR",
        "year": "INTEGER",
        "month": "INTEGER",
        "monthly_total": MONEY,
        "previous_total": MONEY,
        "change": MONEY,
        "change_percent": MONEY,
        "months_falling": "INTEGER",
    },
}
"""Each mart's columns and the type both sides are brought to; money alone must have it before."""

PUBLISHED: Final = ("customer_monthly_purchase", "sales_team_incentive", "declining_customers")


def compare(retailmart_lake: Path, retailmart_db: Path, baseline_out: Path) -> list[str]:
    """What differs between retailmart's marts and published tables and the baseline's, in words."""
    differences: list[str] = []
    # Rows that differ are sorted out on disk where they are many: twenty million wide ones fit no
    # small memory.
    with tempfile.TemporaryDirectory() as spill, closing(duckdb.connect()) as con:
        con.execute("SET preserve_insertion_order = false")
        con.execute("SET temp_directory = ?", [spill])
        for mart, columns in MARTS.items():
            differences += _compare_mart(con, mart, columns, retailmart_lake, baseline_out)
    for mart in PUBLISHED:
        differences += _compare_published(
            mart, MARTS[mart], retailmart_db, baseline_out / "marts.db"
        )
    return differences


def _compare_mart(
    con: duckdb.DuckDBPyConnection,
    mart: str,
    columns: Mapping[str, str],
    lake: Path,
    baseline_out: Path,
) -> list[str]:
    """Differences of one mart between the lake and the baseline's Parquet."""
    folder = lake / "marts" / mart
    if not DeltaTable.is_deltatable(str(folder)):
        return [f"{mart}: no Delta table at {folder}"]
    baseline = baseline_out / mart
    sides = {
        "lake": DeltaTable(str(folder)).file_uris(),
        "baseline": [f"{baseline}/**/*.parquet" if baseline.is_dir() else f"{baseline}.parquet"],
    }
    if not sides["lake"]:
        return [f"{mart}: the Delta table at {folder} has no files"]
    for side, files in sides.items():
        listed = ", ".join(map(_quoted, files))
        # Folder names are read as text and brought to their type with the rest: nothing guesses
        # that 2023-01 is a date.
        con.execute(f"""
            CREATE OR REPLACE TEMP VIEW {side} AS FROM read_parquet([{listed}],
                hive_partitioning = true, hive_types_autocast = false, union_by_name = true)
        """)
    unfit = _unfit_columns(con, mart, columns)
    return unfit or _compare_rows(con, mart, columns)


def _unfit_columns(
    con: duckdb.DuckDBPyConnection, mart: str, columns: Mapping[str, str]
) -> list[str]:
    """Columns of the lake that are missing, not in the domain, or money that is not decimal."""
    found = {str(name): str(kind) for name, kind, *_ in con.execute("DESCRIBE lake").fetchall()}
    missing = [f"{mart}.{name}: not in the lake" for name in columns if name not in found]
    unknown = [
        f"{mart}.{name}: not a column of the domain"
        for name in found
        if name not in columns and not name.startswith("_")
    ]
    inexact = [
        f"{mart}.{name}: is {found[name]}, money must be DECIMAL with 2 decimals"
        for name, kind in columns.items()
        if kind == MONEY and name in found and not _keeps_cents(found[name])
    ]
    return missing + unknown + inexact


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _keeps_cents(kind: str) -> bool:
    return kind.startswith("DECIMAL") and kind.endswith(",2)")


def _compare_rows(
    con: duckdb.DuckDBPyConnection, mart: str, columns: Mapping[str, str]
) -> list[str]:
    """Differences in row count, sums of money, and rows."""
    lake, baseline = _digests(con, "lake", columns), _digests(con, "baseline", columns)
    if lake == baseline:
        return []
    totals = ["count(*)", *(f"sum({name})" for name, kind in columns.items() if kind == MONEY)]
    ours = _one(con, f"SELECT {', '.join(totals)} FROM lake")
    theirs = _one(con, f"SELECT {', '.join(totals)} FROM baseline")
    differences = [
        f"{mart}: {total} is {our} in the lake, {their} in the baseline"
        for total, our, their in zip(totals, ours, theirs, strict=True)
        if our != their
    ]
    bucket = min(
        number
        for number in lake.keys() | baseline.keys()
        if lake.get(number) != baseline.get(number)
    )
    differences += _rows_only_in(con, mart, columns, bucket, "lake", "baseline")
    return differences + _rows_only_in(con, mart, columns, bucket, "baseline", "lake")


def _digests(
    con: duckdb.DuckDBPyConnection, side: str, columns: Mapping[str, str]
) -> dict[int, tuple[object, ...]]:
    """For each bucket of row hashes: rows, sum and xor of the hashes, whatever their order."""
    rows = con.execute(f"""
        SELECT hashed % {BUCKETS}, count(*), sum(hashed::HUGEINT), bit_xor(hashed)
        FROM (SELECT {_hash(columns)} AS hashed FROM {side})
        GROUP BY ALL
    """).fetchall()
    return {bucket: tuple(digest) for bucket, *digest in rows}


def _rows_only_in(
    con: duckdb.DuckDBPyConnection,
    mart: str,
    columns: Mapping[str, str],
    bucket: int,
    side: str,
    other: str,
) -> list[str]:
    """A few rows of one differing bucket that `side` has more often than `other`."""
    chosen = f"WHERE {_hash(columns)} % {BUCKETS} = {bucket}"
    rows = con.execute(f"""
        SELECT {_typed(columns)} FROM {side} {chosen}
        EXCEPT ALL
        SELECT {_typed(columns)} FROM {other} {chosen}
        ORDER BY ALL LIMIT {SHOWN}
    """).fetchall()
    return [f"{mart}: only in the {side}: {_shown(columns, row)}" for row in rows]


def _typed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name}::{kind} AS {name}" for name, kind in columns.items())


def _hash(columns: Mapping[str, str]) -> str:
    return f"hash({', '.join(f'{name}::{kind}' for name, kind in columns.items())})"


def _shown(columns: Mapping[str, str], row: tuple[object, ...]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(columns, row, strict=True))


def _one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[object, ...]:
    """The only row of a query."""
    row: tuple[object, ...] = con.execute(query).fetchall()[0]
    return row


def _compare_published(
    mart: str, columns: Mapping[str, str], retailmart_db: Path, baseline_db: Path
) -> list[str]:
    """Differences of one published table, as sets: its key makes rows unique.

    Both databases are opened read-only, money is compared in whole cents, as SQLite may hold it as
    text or number.
    """
    with closing(sqlite3.connect(f"file:{baseline_db}?mode=ro", uri=True)) as database:
        database.execute("ATTACH ? AS retailmart", [f"file:{retailmart_db}?mode=ro"])
        if not database.execute(
            "SELECT 1 FROM retailmart.sqlite_master WHERE name = ?", [mart]
        ).fetchone():
            return [f"published {mart}: no such table in {retailmart_db}"]
        sides = {"database": f"retailmart.{mart}", "baseline": f"main.{mart}"}
        counts = {
            side: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for side, table in sides.items()
        }
        queries = {
            side: f"SELECT {_in_cents(columns)} FROM {table}" for side, table in sides.items()
        }
        differences = []
        if counts["database"] != counts["baseline"]:
            differences.append(
                f"published {mart}: {counts['database']} rows, {counts['baseline']} in the baseline"
            )
        for side, other in (("database", "baseline"), ("baseline", "database")):
            rows = database.execute(f"{queries[side]} EXCEPT {queries[other]} LIMIT {SHOWN}")
            differences += [
                f"published {mart}: only in the {side} (money in cents): {_shown(columns, row)}"
                for row in rows
            ]
    return differences


def _in_cents(columns: Mapping[str, str]) -> str:
    return ", ".join(
        f"CAST(round({name} * 100) AS INTEGER)" if kind == MONEY else name
        for name, kind in columns.items()
    )


def main() -> None:
    """Command line: `compare.py LAKE DATABASE BASELINE_OUT`; exit code 1 where they differ."""
    parser = argparse.ArgumentParser(description="Compare retailmart's marts with the baseline's.")
    parser.add_argument("lake", type=Path)
    parser.add_argument("database", type=Path)
    parser.add_argument("baseline_out", type=Path)
    options = parser.parse_args()
    differences = compare(options.lake, options.database, options.baseline_out)
    for difference in differences:
        print(difference)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
