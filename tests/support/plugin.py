"""Fixtures and hooks of all tests: those of the package and those of the fault campaign."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
import zlib
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from retailmart.cli import main
from retailmart.template import write_project
from tests.support.amount import ALL, SEED, SEED_NAME
from tests.support.backends import (
    Backend,
    LocalBackend,
    MySQLBackend,
    PostgresBackend,
    RemoteBackend,
    SparkBackend,
    shop_tables,
)
from tests.support.shop import Called, Shop, Typed, keep_only


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


@pytest.fixture
def typed(called: Called, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs a documented command line in a folder, its leading environment settings included."""

    def run(line: str, at: Path) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        start = words.index("retailmart")
        with monkeypatch.context() as around:
            for setting in words[:start]:
                around.setenv(*setting.split("=", 1))
            return called(at, *words[start + 1 :])

    return run


if not ALL:
    # Several workers share two cores. With all tests, runs take every core, as they do for people.
    os.environ.setdefault("RETAILMART__THREADS", "1")
# The collector looks at what every test leaves behind, again and again, and finds little.
gc.set_threshold(50_000, 20, 50)

_REPEAT = f"The seed of generated data: {SEED_NAME}={SEED} generates the same again"
_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 4 << 30


# No deadline: a fresh seed must not fail because the machine is busy. No database: what is tried
# follows from the seed alone, not from what earlier sessions have found.
settings.register_profile(
    "ci",
    deadline=None,
    database=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("all", settings.get_profile("ci"), max_examples=100)
settings.load_profile("all" if ALL else "ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis follow the seed, too. Keep the tests' files in memory where there is room.

    Syncing files to disk proves nothing here: what survives a power cut is shown on disk images
    (chaos/tests/test_power.py).
    """
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(SEED)
    if _MEMORY.is_dir():
        status = os.statvfs(_MEMORY)
        if status.f_bavail * status.f_frsize >= _MEMORY_NEEDED:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


# What takes minutes; begun last, it would leave the other workers without work.
_LONG = (
    "tests/test_spark_apart.py",
    "tests/test_engines_agree.py",
    "tests/marts/test_publish.py",
    "tests/files/test_hostile_json.py",
    "chaos/tests/test_kills.py",
    "tests/test_pipeline.py",
    "tests/test_spark_cluster.py",
    "tests/marts/test_left_tables.py",
    "tests/test_cli.py",
    "tests/test_real_data.py",
    "tests/feeds/test_replay.py",
    "tests/database/test_source_on_mysql.py",
    "tests/files/test_hostile_files.py",
    "tests/test_docs.py",
    "tests/test_random_marts.py",
    "chaos/tests/test_files.py",
    "chaos/tests/test_stores.py",
    "tests/test_upgrades.py",
    "tests/test_verify.py",
    "tests/test_schema_policies.py",
    "tests/test_quarantine_cli.py",
    "tests/test_tables.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, long ones go first; else fast ones do."""
    ranks = {name: len(_LONG) - number for number, name in enumerate(_LONG)}
    sign = -1 if hasattr(config, "workerinput") else 1
    items.sort(key=lambda item: sign * ranks.get(item.nodeid.partition("::")[0], 0))


def pytest_report_header() -> str:
    """Say at the start what repeats this session: a session that is killed tells it, too."""
    return _REPEAT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Say after a failure how to generate the same data again."""
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        terminalreporter.write_line(_REPEAT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `every_backend` or `every_engine` runs once on each, in the long run.

    One marked `every_database` is about what differs between databases: the short run has it on
    SQLite and on one server, every other test on the same one. One marked `every_store` is about
    what differs between a folder and a bucket: it always runs on each.
    """
    if "backend" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        databases = marked("every_database")
        always = {"local"} | ({_server_of(metafunc.definition.nodeid)} if databases else set())
        always |= {"remote"} if marked("every_store") else set()
        more = {"remote", "postgres"} if marked("every_backend") or databases else set()
        more |= {"mysql"} if databases else set()
        names = [
            pytest.param(name, marks=[] if name in always else [pytest.mark.long])
            for name in ("local", "mysql", "postgres", "remote")
            if name in always | more
        ]
        if marked("every_engine"):
            names.append(pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.long]))
        metafunc.parametrize("backend", names, indirect=True)


def _server_of(test: str) -> str:
    return ("mysql", "postgres")[zlib.crc32(test.encode()) % 2]


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
    if request.param == "mysql":
        mariadb = request.getfixturevalue("mariadb")
        return MySQLBackend(tmp_path / "shop", mariadb.database(), mariadb.database())
    mariadb, s3 = request.getfixturevalue("mariadb"), request.getfixturevalue("s3")
    return RemoteBackend(s3.look(s3.bucket()), mariadb.database(), mariadb.database())


@pytest.fixture
def stories() -> Collection[str]:
    """What the small shop has; a module that is about more says so, as each makes runs longer."""
    return ("tills",)


@pytest.fixture
def marts(stories: Collection[str]) -> Collection[str] | None:
    """The only marts of the small shop: two cost half of what five do. None: all of its stories."""
    return ("customer_mart", "customer_monthly_purchase") if stories == ("tills",) else None


@pytest.fixture
def shop(
    tmp_path: Path, backend: Backend, stories: Collection[str], marts: Collection[str] | None
) -> Shop:
    """A new project of a small shop, nothing landed."""
    folder = tmp_path / "shop"
    write_project(folder, sample=False, stories=stories)
    if marts is not None:
        keep_only(folder, marts=marts)
    backend.settle(folder)
    backend.execute_in_shop(*shop_tables())
    return Shop(folder, backend)
