"""Databases: source tables in, marts out. What differs between them lives behind `Dialect`."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from retailmart.errors import RetailmartError, SettingsError

_KNOWN = "sqlite:///retail.db"


def open_database(url: str, folder: Path, *, must_exist: bool = False) -> Engine:
    """Connect to a database; a relative SQLite path is below `folder`.

    Raises SettingsError for a URL that names no database, RetailmartError where it is missing.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError([f"{url!r} is no database URL; write it as in {_KNOWN}"]) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        shown = parsed.render_as_string(hide_password=True)
        raise SettingsError([f"{shown}: only SQLite files are supported; write it as in {_KNOWN}"])
    path = folder / parsed.database
    if must_exist and not path.is_file():
        raise RetailmartError(
            f"the source database {path} is not there",
            "Check `sources` in retailmart.yml",
        )
    return _open_sqlite(path, read_only=must_exist)


def _open_sqlite(path: Path, *, read_only: bool) -> Engine:
    if read_only:
        query = {"mode": "ro", "uri": "true"}
        url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": 30})

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN comes late and never before DDL; ours makes all of it one unit.
        connection.isolation_level = None
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -65536")

    def begin(connection: Connection) -> None:
        reads = read_only or connection.get_execution_options().get("retailmart_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine
