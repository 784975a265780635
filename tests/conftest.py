"""What tests share: a small shop in a project folder of its own, and ways to drop files and run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import retailmart
from retailmart.report import RunReport
from retailmart.template import write_project

AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"


@dataclass(frozen=True)
class Shop:
    """A project with two stores (1, 2), four salespeople (1, 2 in store 1) and customers 1 to 9."""

    folder: Path

    def drop(self, name: str, content: str | bytes) -> Path:
        """Put a file into landing."""
        path = self.folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def sales(self, name: str, rows: Iterable[str], header: str = HEADER) -> Path:
        """Put a sales file with these lines into landing."""
        return self.drop(name, "\n".join([header, *rows]) + "\n")

    def open(self) -> retailmart.OpenProject:
        """The project through the Python door."""
        return retailmart.open_project(self.folder)

    def run(self, as_of: datetime = AS_OF) -> RunReport:
        """One run."""
        return self.open().run(as_of)

    def mart(self, name: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """The rows of a mart, sorted."""
        return self.open().mart(name).project(columns).order("ALL").fetchall()

    def refused(self, feed: str = "sales") -> list[tuple[Any, ...]]:
        """The quarantined rows as (file, line, column, rule, message, raw)."""
        relation = self.open().quarantine(feed)
        if relation is None:
            return []
        columns = 'file, line, "column", rule, message, raw'
        return relation.project(columns).order("ALL").fetchall()

    def published(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """The rows of a published table, sorted."""
        with sqlite3.connect(self.folder / "retail.db") as connection:
            return sorted(connection.execute(f"SELECT {columns} FROM {table}").fetchall())

    def archived(self) -> list[str]:
        """Everything below the archive, relative."""
        root = self.folder / "archive"
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())


def sale(
    customer: int = 1,
    store: int = 1,
    day: str = "2024-01-15",
    person: int = 1,
    price: str = "10.00",
    quantity: int = 1,
    total: str | None = None,
) -> str:
    """A line of a sales file."""
    return f"{customer},{store},tea,{day},{person},{price},{quantity},{total or price}"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A new project of a small shop, nothing landed."""
    folder = tmp_path / "shop"
    write_project(folder, sample=False)
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.executescript(_SHOP)
    return Shop(folder)


_SHOP = """
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    address TEXT, pincode TEXT, phone_number TEXT, customer_joining_date DATE);
CREATE TABLE store (id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT,
    store_manager_name TEXT, store_opening_date DATE, reviews TEXT);
CREATE TABLE sales_team (id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    manager_id INTEGER, is_manager CHAR(1), address TEXT, pincode TEXT, joining_date DATE);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, current_price DECIMAL(12,2),
    old_price DECIMAL(12,2), created_date DATE, updated_date DATE, expiry_date DATE);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
INSERT INTO customer SELECT i, 'First' || i, 'Last' || i, i || ' Road', '60000' || i, '90000' || i,
    '2020-01-01' FROM n;
INSERT INTO store VALUES (1, 'High Street', '600001', 'Meera', '2019-01-01', ''),
    (2, 'Low Street', '600002', 'Ravi', '2019-01-01', '');
INSERT INTO sales_team VALUES (1, 'Anu', 'A', 10, 'N', '1 Lane', '600001', '2020-01-01'),
    (2, 'Bala', 'B', 10, 'N', '2 Lane', '600001', '2020-01-01'),
    (3, 'Chitra', 'C', 11, 'N', '3 Lane', '600002', '2020-01-01'),
    (4, 'Dev', 'D', 11, 'Y', '4 Lane', '600002', '2020-01-01');
"""
