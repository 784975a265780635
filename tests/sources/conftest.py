"""A source's table of items in SQLite and in MySQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.lake import Lake, place_of
from retailmart.lake.places import LocalPlace
from retailmart.storage.local import LocalFolder
from tests.sources.items import Items
from tests.support.services.mariadb import Database


@pytest.fixture(params=["sqlite", "mysql"])
def items(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Items]:
    """An empty table of items."""
    folder = tmp_path / "lake"
    folder.mkdir()
    engine = DuckDBEngine([LocalPlace(folder)], tmp_path)
    lake = Lake(place_of(LocalFolder(folder), tmp_path / "workspace"))
    if request.param == "mysql":
        database: Database = request.getfixturevalue("database")
        items = Items(database.url, database.execute, database.query, engine, lake)
    else:
        path = tmp_path / "shop.db"

        def execute(*statements: str) -> None:
            with closing(sqlite3.connect(path)) as connection, connection:
                for statement in statements:
                    connection.execute(statement)

        def query(statement: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(path)) as connection:
                return connection.execute(statement).fetchall()

        items = Items(f"sqlite:///{path}", execute, query, engine, lake)
    items.execute(
        "CREATE TABLE item (item_id INTEGER PRIMARY KEY, name VARCHAR(20), price DECIMAL(8,2),"
        " changed INTEGER)"
    )
    yield items
    engine.close()
