"""What a shop of the tests stands on: files here and SQLite, S3 and MySQL, or Spark. All alike."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from tests.support.services.mariadb import Database
    from tests.support.services.postgres import PostgresDatabase
    from tests.support.services.s3 import S3Bucket


class Backend(Protocol):
    """Where a shop's files and tables are, and how tests look at them from outside."""

    @property
    def speaks(self) -> str:
        """Whose SQL the database of the published tables takes: sqlite, mysql or postgres."""

    def settle(self, folder: Path) -> None:
        """Make a new project in `folder` use it."""

    def drop(self, name: str, content: bytes) -> None:
        """Put a file into landing."""

    def landed(self) -> list[str]:
        """What lies in landing."""

    def archived(self) -> dict[str, bytes]:
        """Everything in the archive, by path."""

    def forget(self, path: str) -> None:
        """Somebody takes away a file, as in archive/processed/…"""

    def execute(self, *statements: str) -> None:
        """Somebody writes to the database of the ledger and the published tables."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of that database; dates as text, decimals as numbers."""

    def execute_in_shop(self, *statements: str) -> None:
        """Somebody writes to the shop's own database."""


@dataclass(frozen=True)
class LocalBackend:
    """Folders of this machine and two SQLite files, as `init` writes a project."""

    folder: Path
    speaks: ClassVar[str] = "sqlite"

    def settle(self, folder: Path) -> None:
        """Nothing is to be set."""

    def drop(self, name: str, content: bytes) -> None:
        path = self.folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        # A run looks twice at what was written just now, a quarter of a second apart.
        hour_ago = path.stat().st_mtime_ns - 3_600_000_000_000
        os.utime(path, ns=(hour_ago, hour_ago))

    def landed(self) -> list[str]:
        return sorted(_files(self.folder / "landing"))

    def archived(self) -> dict[str, bytes]:
        return _files(self.folder / "archive")

    def forget(self, path: str) -> None:
        (self.folder / path).unlink()

    def execute(self, *statements: str) -> None:
        self._execute("retail.db", statements)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "retail.db")) as connection:
            return [tuple(row) for row in connection.execute(statement)]

    def execute_in_shop(self, *statements: str) -> None:
        self._execute("shop.db", statements)

    def _execute(self, name: str, statements: Iterable[str]) -> None:
        with closing(sqlite3.connect(self.folder / name)) as connection, connection:
            for statement in statements:
                connection.execute(statement)


@dataclass(frozen=True)
class SparkBackend(LocalBackend):
    """The same, and runs are on Spark: in the session of this process."""

    def settle(self, folder: Path) -> None:
        choose_engine(folder, "spark")


@dataclass(frozen=True)
class MariaDBBackend(LocalBackend):
    """Files and the shop's own tables here; the ledger and what is published in MariaDB."""

    database: Database
    speaks: ClassVar[str] = "mysql"

    def execute(self, *statements: str) -> None:
        self.database.execute(*statements)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(map(_plain, row)) for row in self.database.query(statement)]


def on_mariadb(folder: Path, database: Database) -> MariaDBBackend:
    """Move a project that was never run to MariaDB; the shop's own tables stay where they are."""
    path = folder / "retailmart.yml"
    address = f"database: {_address(database, 'RETAIL_PASSWORD')}"
    path.write_text(re.sub(r"(?m)^database: .*$", lambda _: address, path.read_text()))
    (folder / ".env").write_text(f"RETAIL_PASSWORD={database.password}\n")
    return MariaDBBackend(folder, database)


@dataclass(frozen=True)
class _ServerBackend(LocalBackend):
    """Files here; a server's databases for the shop, the ledger and what is shown."""

    database: Database | PostgresDatabase
    shop: Database | PostgresDatabase

    def settle(self, folder: Path) -> None:
        path = folder / "retailmart.yml"
        kept = [
            line
            for line in path.read_text().splitlines()
            if not line.startswith(("database:", "sources:"))
        ]
        lines = [
            f"database: {_address(self.database, 'RETAIL_PASSWORD')}",
            f"sources: {{shop: '{_address(self.shop, 'SHOP_PASSWORD')}'}}",
        ]
        path.write_text("\n".join([*lines, *kept]) + "\n")
        words = {"RETAIL_PASSWORD": self.database.password, "SHOP_PASSWORD": self.shop.password}
        (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in words.items()))

    def execute(self, *statements: str) -> None:
        self.database.execute(*statements)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(map(_plain, row)) for row in self.database.query(statement)]

    def execute_in_shop(self, *statements: str) -> None:
        self.shop.execute(*statements)


class MySQLBackend(_ServerBackend):
    """Files here, and MySQL."""

    speaks: ClassVar[str] = "mysql"


class PostgresBackend(_ServerBackend):
    """Files here, and PostgreSQL."""

    speaks: ClassVar[str] = "postgres"

    def execute_in_shop(self, *statements: str) -> None:
        super().execute_in_shop(*(one.replace(" DATETIME", " TIMESTAMP") for one in statements))


@dataclass(frozen=True)
class RemoteBackend:
    """A bucket for landing, lake and archive; MySQL for the shop, the ledger and what is shown."""

    bucket: S3Bucket
    database: Database
    shop: Database
    speaks: ClassVar[str] = "mysql"

    def settle(self, folder: Path) -> None:
        path = folder / "retailmart.yml"
        replaced = ("landing:", "lake:", "archive:", "database:", "sources:")
        kept = [line for line in path.read_text().splitlines() if not line.startswith(replaced)]
        settings = {
            "landing": f"s3://{self.bucket.name}/to_process",
            "lake": f"s3://{self.bucket.name}/lake",
            "archive": f"s3://{self.bucket.name}/archive",
            "database": _address(self.database, "RETAIL_PASSWORD"),
            "sources": f"{{shop: '{_address(self.shop, 'SHOP_PASSWORD')}'}}",
            "s3": f"{{endpoint: '{self.bucket.server.endpoint}'}}",
        }
        lines = [f"{key}: {value}" for key, value in settings.items()]
        path.write_text("\n".join([*lines, *kept]) + "\n")
        variables = {
            **self.bucket.server.environment,
            "RETAIL_PASSWORD": self.database.password,
            "SHOP_PASSWORD": self.shop.password,
        }
        (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in variables.items()))

    def drop(self, name: str, content: bytes) -> None:
        self.bucket.put(f"to_process/{name}", content)

    def landed(self) -> list[str]:
        return [key.removeprefix("to_process/") for key in self.bucket.keys("to_process/")]

    def archived(self) -> dict[str, bytes]:
        keys = self.bucket.keys("archive/")
        return {key.removeprefix("archive/"): self.bucket.get(key) for key in keys}

    def forget(self, path: str) -> None:
        self.bucket.remove(path)

    def execute(self, *statements: str) -> None:
        self.database.execute(*statements)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(map(_plain, row)) for row in self.database.query(statement)]

    def execute_in_shop(self, *statements: str) -> None:
        self.shop.execute(*statements)


def choose_engine(folder: Path, engine: str) -> None:
    """Change the lines of retailmart.yml that name the engine; all is then left to it."""
    path = folder / "retailmart.yml"
    lines = f"engine: {engine}" + ("\nspark: {driver_reads: 0MB}" if engine == "spark" else "")
    known = r"^engine: .*$(?:\nspark: \{driver_reads: 0MB\}$)?"
    text, found = re.subn(known, lines, path.read_text(), flags=re.M)
    assert found == 1
    path.write_text(text)


def _address(database: Database | PostgresDatabase, password: str) -> str:
    scheme = database.url.partition(":")[0]
    place = f"{database.host}:{database.port}/{database.name}"
    return f"{scheme}://{database.user}:${{{password}}}@{place}"


def _plain(value: Any) -> Any:
    """As SQLite shows it: dates as text, decimals as the number they look like."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value


def _files(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if not path.is_dir())
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in paths
    }


def shop_tables() -> list[str]:
    """Statements that make the small shop's own tables, in any SQL."""
    customers = ", ".join(
        f"({n}, 'First{n}', 'Last{n}', '{n} Road', '60000{n}', '90000{n}', '2020-01-01')"
        for n in range(1, 10)
    )
    return [
        "CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,"
        " address TEXT, pincode TEXT, phone_number TEXT, customer_joining_date DATE)",
        "CREATE TABLE store (id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT,"
        " store_manager_name TEXT, store_opening_date DATE, reviews TEXT)",
        "CREATE TABLE sales_team (id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,"
        " manager_id INTEGER, is_manager CHAR(1), address TEXT, pincode TEXT, joining_date DATE)",
        "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, current_price DECIMAL(12,2),"
        " old_price DECIMAL(12,2), created_date DATE, updated_date DATE, expiry_date DATE)",
        f"INSERT INTO customer VALUES {customers}",
        "INSERT INTO store VALUES (1, 'High Street', '600001', 'Meera', '2019-01-01', ''),"
        " (2, 'Low Street', '600002', 'Ravi', '2019-01-01', '')",
        "INSERT INTO sales_team VALUES"
        " (1, 'Anu', 'A', 10, 'N', '1 Lane', '600001', '2020-01-01'),"
        " (2, 'Bala', 'B', 10, 'N', '2 Lane', '600001', '2020-01-01'),"
        " (3, 'Chitra', 'C', 11, 'N', '3 Lane', '600002', '2020-01-01'),"
        " (4, 'Dev', 'D', 11, 'Y', '4 Lane', '600002', '2020-01-01')",
    ]
