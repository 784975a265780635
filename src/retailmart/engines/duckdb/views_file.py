"""A DuckDB file that holds no rows: only views over the current files of tables."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb

from retailmart.engines.duckdb.connection import translate_errors
from retailmart.engines.duckdb.sql import read_table
from retailmart.tables import TableState, quoted, text_literal

# The oldest format that this DuckDB writes: every DuckDB since 1.0 opens it.
STORAGE: Final = "v1.0.0"
# The view that says of what the others are. By it a file is known as one that was written here.
ABOUT: Final = ("retailmart", "marts")
_ABOUT_TYPES: Final = {
    "mart": "VARCHAR",
    "rows": "BIGINT",
    "version": "BIGINT",
    "as_of": "TIMESTAMP",
    "written_at": "TIMESTAMP",
}
# One thread: it reads a footer a view. None of its extensions comes from the network.
_CONFIG: Final = {
    "threads": "1",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


@dataclass(frozen=True)
class Viewed:
    """A table that becomes a view: its state at `version`, computed for `as_of` (UTC)."""

    table: TableState
    version: int
    as_of: datetime | None = None


def write_views(path: Path, views: Mapping[str, Viewed], written_at: datetime) -> None:
    """Write a new file with a view for each table, and `retailmart.marts`, which describes them.

    A table's files are named by its `root`. Raises RetailmartError if a table cannot be read, or
    the file not be written.
    """
    with translate_errors(), closing(duckdb.connect(config=dict(_CONFIG))) as connection:
        file = text_literal(str(path))
        options = f"STORAGE_VERSION {text_literal(STORAGE)}, RECOVERY_MODE no_wal_writes"
        connection.execute(f"ATTACH {file} AS file ({options})")
        connection.execute("BEGIN")
        for name, viewed in views.items():
            connection.execute(
                f"CREATE VIEW file.main.{quoted(name)} AS {read_table(viewed.table)}"
            )
        schema, about = ABOUT
        connection.execute(f"CREATE SCHEMA file.{quoted(schema)}")
        connection.execute(
            f"CREATE VIEW file.{quoted(schema)}.{quoted(about)} AS {_about(views, written_at)}"
        )
        connection.execute("COMMIT")
        connection.execute("DETACH file")


def is_of_views(path: Path) -> bool:
    """Whether `write_views` wrote a file. Nobody else's is one, nor is one that cannot be read."""
    schema, about = map(text_literal, ABOUT)
    try:
        with closing(duckdb.connect(config=dict(_CONFIG))) as connection:
            connection.execute(f"ATTACH {text_literal(str(path))} AS file (READ_ONLY)")
            found = connection.execute(
                "SELECT 1 FROM duckdb_views() WHERE database_name = 'file'"
                f" AND schema_name = {schema} AND view_name = {about}"
            )
            return found.fetchone() is not None
    except duckdb.Error:
        return False


def _about(views: Mapping[str, Viewed], written_at: datetime) -> str:
    rows = ", ".join(
        f"({text_literal(name)}, {sum(file.rows for file in one.table.files):d}, {one.version:d},"
        f" {_moment(one.as_of)}, {_moment(written_at)})"
        for name, one in views.items()
    )
    casts = ", ".join(
        f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in _ABOUT_TYPES.items()
    )
    return f"SELECT {casts} FROM (VALUES {rows}) AS _({', '.join(map(quoted, _ABOUT_TYPES))})"


def _moment(moment: datetime | None) -> str:
    """A moment in UTC; without its zone, as every tool can show it."""
    return "NULL" if moment is None else text_literal(f"{moment:%Y-%m-%d %H:%M:%S}")
