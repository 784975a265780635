"""Opens an SQLite file: journal, durability, transactions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from retailmart.errors import RetailmartError

# Seconds for which a connection waits for another's lock.
_WAITS = 30


def open_sqlite(path: Path, *, must_exist: bool) -> Engine:
    """Connect to a file; with `must_exist` it is only read."""
    if must_exist and not path.is_file():
        raise RetailmartError(
            f"the source database {path} is not there",
            "Check `sources` in retailmart.yml",
        )
    if must_exist:
        query = {"mode": "ro", "uri": "true"}
        url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": _WAITS})

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN comes late and never before DDL; ours makes all of it one unit.
        connection.isolation_level = None
        if not must_exist:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -65536")

    def begin(connection: Connection) -> None:
        reads = must_exist or connection.get_execution_options().get("retailmart_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def look_at(path: Path) -> Engine:
    """Connect to a file to look for a moment, also where nothing can be written."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, creator=lambda: _only_read(path))

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _only_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing.

    Who uses a file with a write-ahead log shares an index of it, in a file of its own, which also a
    reader would create and leave behind. Where there is no log, all is in the database's own file,
    and that is read as if it never changed.
    """
    place = f"file:{quote(str(path))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        return _connected(f"{place}&immutable=1")
    connection = _connected(place)
    try:
        with closing(connection.execute("SELECT count(*) FROM sqlite_master")):
            return connection
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" in str(error) or (log.exists() and log.stat().st_size):
            raise
    return _connected(f"{place}&immutable=1")


def _connected(place: str) -> sqlite3.Connection:
    # The pool gives a connection to one thread at a time, which need not be the one that made it.
    return sqlite3.connect(place, uri=True, timeout=_WAITS, check_same_thread=False)
