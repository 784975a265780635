"""Tests by use whether an SQLite file and its folder can do what runs need."""

from __future__ import annotations

import shlex
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from retailmart.check_results import CheckResult, ok, problem
from retailmart.database.health import me, probe_name, setting_of
from retailmart.errors import RetailmartError
from retailmart.report import number_of

# From this version on a statement takes as many values as bulk inserts pass.
_OLDEST = (3, 32)
_FAST_SECONDS = 2
_TABLES = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')"


def examine_target(path: Path, name: str) -> Iterator[CheckResult]:
    """Check the database of the ledger and the published marts."""
    yield from _folder(path, name)
    yield _target(path, name)


def examine_source(path: Path, name: str) -> Iterator[CheckResult]:
    """Check a file that is only read."""
    if not path.is_file():
        raise RetailmartError(
            f"the source database {path} is not there", "Check `sources` in retailmart.yml"
        )
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            count = connection.execute(_TABLES).fetchone()[0]
    except sqlite3.Error as error:
        yield problem(f"{name}: file", f"{path}: {error}", _wrong_file(name))
        return
    if count:
        yield ok(f"{name}: tables", f"{count} in {path}")
    else:
        fix = f"Correct {setting_of(name)} in retailmart.yml"
        yield problem(f"{name}: tables", f"{path} holds no table", fix)


def _folder(path: Path, name: str) -> Iterator[CheckResult]:
    """The database's journal is next to it: the folder must accept files and shared memory."""
    version = sqlite3.sqlite_version_info
    check, message = f"{name}: version", f"SQLite {sqlite3.sqlite_version}"
    if version < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        yield problem(check, message, f"Use a Python that comes with SQLite {wanted} or newer")
    else:
        yield ok(check, message)
    folder = next(parent for parent in path.parents if parent.is_dir())
    probe = folder / f".retailmart-doctor-{uuid.uuid4().hex}.db"
    try:
        connection = sqlite3.connect(probe, isolation_level=None)
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("CREATE TABLE probe (i INTEGER)")
        finally:
            connection.close()
    except sqlite3.Error as error:
        fix = f"Let {me()} write in it: chown {me()} {shlex.quote(str(folder))}; or make room"
        yield problem(f"{name}: folder", f"{folder}: {error}", fix)
        return
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                probe.with_name(probe.name + suffix).unlink()
    if mode != "wal":
        fix = "Move the database to a local disk: `database` in retailmart.yml"
        yield problem(f"{name}: folder", f"{folder} takes no write-ahead log", fix)
        return
    yield ok(f"{name}: folder", f"{folder} is writable and takes a write-ahead log")


def _target(path: Path, name: str) -> CheckResult:
    """Write to the database itself, and roll back. It does not wait while a run has the file."""
    check = f"{name}: file"
    if not path.is_file():
        return ok(check, f"{path} is not there yet, the first run makes it")
    try:
        connection = sqlite3.connect(path, timeout=_FAST_SECONDS, isolation_level=None)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"CREATE TABLE {probe_name()} (i INTEGER)")
            connection.execute("ROLLBACK")
            count = connection.execute(_TABLES).fetchone()[0]
    except sqlite3.Error as error:
        if "locked" in str(error):
            return ok(check, f"{path} is busy: a run or another program writes to it")
        return problem(check, f"{path}: {error}", _wrong_file(name))
    return ok(check, f"{path} is writable, {number_of(count, 'table')}")


def _wrong_file(name: str) -> str:
    return f"Let {me()} read and write it, or correct {setting_of(name)} in retailmart.yml"
