"""A small shop in a separate project folder, and ways to deliver files and run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

import retailmart
from retailmart.operations.read import rows_of
from retailmart.report import RunReport
from tests.support.backends import Backend, LocalBackend

AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"

# For a test whose module keeps only some of the marts (fixture `marts`).
all_marts = pytest.mark.parametrize("marts", [None], ids=["all marts"])


@dataclass(frozen=True)
class Shop:
    """A project with two stores (1, 2), four salespeople (1, 2 in store 1) and customers 1 to 9."""

    folder: Path
    stands_on: Backend | None = None

    @property
    def backend(self) -> Backend:
        """Where its files and tables are: in its own folder, unless told otherwise."""
        return self.stands_on or LocalBackend(self.folder)

    def drop(self, name: str, content: str | bytes) -> Path:
        """Put a file into landing; where that is a folder, the path is the file's."""
        self.backend.drop(name, content.encode() if isinstance(content, str) else content)
        return self.folder / "landing" / name

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

    def rows_of(self, table: str) -> list[tuple[Any, ...]]:
        """The rows of any table of the lake, sorted."""
        relation = rows_of(self.open().project, table, table)
        if relation is None:
            raise LookupError(f"the lake has no table {table}")
        return relation.order("ALL").fetchall()

    def refused(self, feed: str = "sales") -> list[tuple[Any, ...]]:
        """The quarantined rows as (file, line, column, rule, message, raw)."""
        relation = self.open().quarantine(feed)
        if relation is None:
            return []
        columns = 'file, line, "column", rule, message, raw'
        return relation.project(columns).order("ALL").fetchall()

    def published(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """The rows of a published table, sorted."""
        return sorted(self.backend.query(f"SELECT {columns} FROM {table}"))

    def archived(self) -> list[str]:
        """Everything below the archive, relative."""
        return sorted(self.backend.archived())


def bare_project(folder: Path, settings: str = "") -> None:
    """The folders of a project, and its settings on local files and SQLite, with these added."""
    for name in ("feeds", "marts", "tables", "landing"):
        (folder / name).mkdir()
    places = "landing: landing\nlake: lake\narchive: archive\ndatabase: sqlite:///retail.db\n"
    (folder / "retailmart.yml").write_text(places + settings)


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


def keep_only(folder: Path, **kept: Iterable[str]) -> None:
    """Remove what a new project has below `feeds`, `marts` or `tables` but for these names."""
    for kind, names in kept.items():
        known = set(names)
        for path in (folder / kind).iterdir():
            if path.stem not in known:
                path.unlink()


class Called(Protocol):
    """The command line, called in this process."""

    def __call__(self, at: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `retailmart WORDS` in the folder `at`."""


class Typed(Protocol):
    """Commands as people type them, called in this process."""

    def __call__(self, line: str, at: Path) -> subprocess.CompletedProcess[str]:
        """Run the command line in the folder `at`."""
