"""Databases: source tables in, marts out. What differs between them lives behind `Dialect`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from retailmart.database.told import told
from retailmart.errors import SettingsError

__all__ = ["open_database", "told"]

_KNOWN = "write it as in sqlite:///retail.db or mysql://user@host/db"
_MYSQL = ("mysql", "mariadb")


def open_database(url: str, folder: Path, *, must_exist: bool = False) -> Engine:
    """Connect to a database; a relative SQLite path is below `folder`.

    With `must_exist` it is a source, and only read. Raises SettingsError for a URL that names no
    database, RetailmartError where a file is missing. A server is asked for on first use.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # A URL that cannot be taken apart is not shown: its password could be anywhere in it.
        raise SettingsError([f"what is given is no database URL; {_KNOWN}"]) from None
    backend, driver = parsed.get_backend_name(), parsed.drivername.partition("+")[2]
    if backend == "sqlite" and parsed.database:
        from retailmart.database.sqlite import open_sqlite

        return open_sqlite(folder / parsed.database, must_exist=must_exist)
    if backend in _MYSQL and driver in ("", "pymysql"):
        from retailmart.database.mysql.opening import open_mysql

        return open_mysql(parsed, folder, read_only=must_exist)
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    raise SettingsError(
        [f"{shown}: only SQLite files and MySQL or MariaDB are supported; {_KNOWN}"]
    )
