"""Names that differ in letter case alone are one name, and none begins anew unseen."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import retailmart
from retailmart.errors import SettingsError
from tests.support.shop import bare_project

_FEED = """files: ["sales*.csv"]
month: day
columns: {id: {type: INT, mandatory: true}, day: {type: DATE, mandatory: true}}
"""
_MART = (
    "-- refresh: months\n-- partitions: [_month]\n-- key: [_month, id]\n-- publish: true\n"
    "SELECT s._month, s.id, c.name FROM sales s LEFT JOIN customer c ON c.id = s.id\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose mart `daily` is published, after a run."""
    bare_project(tmp_path, "sources: {shop: 'sqlite:///shop.db'}\n")
    (tmp_path / "feeds" / "sales.yml").write_text(_FEED)
    (tmp_path / "tables" / "customer.yml").write_text("key: [id]\nhistory: true\n")
    (tmp_path / "marts" / "daily.sql").write_text(_MART)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection, connection:
        connection.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
    deliver(tmp_path, 1)
    retailmart.open_project(tmp_path).run()
    return tmp_path


def deliver(folder: Path, number: int) -> None:
    """A file of one sale."""
    text = f"id,day\n{number},2024-01-15\n"
    (folder / "landing" / f"sales_{number}.csv").write_text(text)


def published(folder: Path) -> list[int]:
    """The keys in the published table."""
    with closing(sqlite3.connect(folder / "retail.db")) as connection:
        return [key for (key,) in connection.execute("SELECT id FROM daily ORDER BY id")]


@pytest.mark.parametrize(
    ("old", "new"),
    [("feeds/sales.yml", "feeds/Sales.yml"), ("tables/customer.yml", "tables/CUSTOMER.yml")],
)
def test_a_feed_or_table_keeps_the_letters_of_its_name(folder: Path, old: str, new: str) -> None:
    """By others its rows would begin anew, and marts would lose those of before."""
    (folder / old).rename(folder / new)
    deliver(folder, 2)
    project = retailmart.open_project(folder)
    for attempt in (project.check, project.run):
        with pytest.raises(SettingsError, match=f"rename the file to {Path(old).name}"):
            attempt()
    (folder / new).rename(folder / old)
    retailmart.open_project(folder).run()
    assert published(folder) == [1, 2]


def test_a_published_table_keeps_the_letters_of_its_name(folder: Path) -> None:
    """SQLite takes both for one: it is told, nothing is begun, and undoing works afterwards."""
    mart = folder / "marts" / "daily.sql"
    deliver(folder, 2)
    mart.write_text(_MART.replace("publish: true", "publish: DAILY"))
    project = retailmart.open_project(folder)
    for attempt in (project.check, project.run):
        with pytest.raises(SettingsError, match="write `publish: daily`"):
            attempt()
    mart.write_text(_MART)
    project = retailmart.open_project(folder)
    project.run()
    assert published(folder) == [1, 2]
    mart.write_text(_MART.replace("publish: true", "publish: DAILY"))
    with pytest.raises(SettingsError, match="write `publish: daily`"):
        retailmart.open_project(folder).undo(2)
    mart.write_text(_MART)
    retailmart.open_project(folder).undo(2)
    assert published(folder) == [1]


def test_decimals_of_many_places_are_told_before_they_are_published(folder: Path) -> None:
    """SQLite proves 15 digits; a sum of more than 18 places stops neither a run nor those after."""
    (folder / "marts" / "wide.sql").write_text(
        _MART.replace("c.name", "CAST(s.id AS DECIMAL(38,20)) AS x, 0::DECIMAL(30,25) AS y")
    )
    for number in (2, 3):
        deliver(folder, number)
        (held,) = retailmart.open_project(folder).run().held
        assert "column x" in held.message
        assert "more digits than SQLite can prove" in held.message
    text = "CAST(s.id AS DECIMAL(18,0)) * 0.00000000000000000001::DECIMAL(20,20) AS x"
    (folder / "marts" / "wide.sql").write_text(_MART.replace("c.name", text))
    assert retailmart.open_project(folder).run().held == ()
    with closing(sqlite3.connect(folder / "retail.db")) as connection:
        rows = connection.execute("SELECT id, x FROM wide ORDER BY id").fetchall()
    assert rows == [(1, 1e-20), (2, 2e-20), (3, 3e-20)]
