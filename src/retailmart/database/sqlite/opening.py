"""Opens an SQLite file: journal, durability, transactions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from retailmart.errors import RetailmartError


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
    engine = create_engine(url, connect_args={"timeout": 30})

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
