"""What tests share: a small shop in a project folder of its own, and ways to drop files and run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

import retailmart
from retailmart.cli import main
from retailmart.report import RunReport
from retailmart.template import write_project
from tests.amount import SEED, SEED_NAME
from tests.backends import (
    Backend,
    LocalBackend,
    PostgresBackend,
    RemoteBackend,
    SparkBackend,
    shop_tables,
)

pytest_plugins = ["tests.services.fixtures", "tests.services.spark"]

AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"


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
        return self.open()._relation(table, table).order("ALL").fetchall()

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


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Called:
    """The command line without the second that a process takes to start."""

    def call(at: Path, *words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(at)
        monkeypatch.setattr(sys, "argv", ["retailmart", *words])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as done:
            code = done.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call


_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 4 << 30


def pytest_configure() -> None:
    """Keep the tests' files in memory where there is room: syncing them to disk proves nothing.

    What survives a power cut is shown on disk images of their own (tests/chaos/test_power.py).
    """
    if _MEMORY.is_dir():
        status = os.statvfs(_MEMORY)
        if status.f_bavail * status.f_frsize >= _MEMORY_NEEDED:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


# What takes minutes; begun last, it would leave one of two workers without work.
_LONG = (
    "tests/test_spark_apart.py",
    "tests/test_engines_agree.py",
    "tests/test_pipeline.py",
    "tests/feeds/test_replay.py",
    "tests/chaos/test_kills.py",
    "tests/test_spark_cluster.py",
    "tests/test_schema_policies.py",
    "tests/test_verify.py",
    "tests/test_real_data.py",
    "tests/test_quarantine_cli.py",
    "tests/test_random_marts.py",
    "tests/chaos/test_files.py",
    "tests/chaos/test_stores.py",
    "tests/test_tables.py",
    "tests/files/test_hostile_json.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, long ones go first; else fast ones do."""
    ranks = {name: len(_LONG) - number for number, name in enumerate(_LONG)}
    sign = -1 if hasattr(config, "workerinput") else 1
    items.sort(key=lambda item: sign * ranks.get(item.nodeid.partition("::")[0], 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Tell of a failure what generates the same again."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.write_line(f"What was generated comes again with {SEED_NAME}={SEED}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `every_backend` or `every_engine` runs once on each, in the long run.

    One marked `every_database` is about what differs between databases: it always runs on each.
    """
    if "backend" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        names = [pytest.param("local")]
        if marked("every_database"):
            names += [pytest.param("remote"), pytest.param("postgres")]
        elif marked("every_backend"):
            names += [pytest.param(name, marks=pytest.mark.long) for name in ("remote", "postgres")]
        if marked("every_engine"):
            names.append(pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.long]))
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """What the shop stands on; the servers are started when a test first asks for them."""
    if request.param == "local":
        return LocalBackend(tmp_path / "shop")
    if request.param == "spark":
        request.getfixturevalue("spark_session")
        return SparkBackend(tmp_path / "shop")
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres")
        return PostgresBackend(tmp_path / "shop", postgres.database(), postgres.database())
    mariadb, s3 = request.getfixturevalue("mariadb"), request.getfixturevalue("s3")
    return RemoteBackend(s3.look(s3.bucket()), mariadb.database(), mariadb.database())


@pytest.fixture
def shop(tmp_path: Path, backend: Backend) -> Shop:
    """A new project of a small shop, nothing landed."""
    folder = tmp_path / "shop"
    write_project(folder, sample=False)
    backend.settle(folder)
    backend.execute_in_shop(*shop_tables())
    return Shop(folder, backend)
