"""Source tables in the lake: whatever happens at the source, marts see what it has."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from itertools import count, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retailmart.database import open_database
from retailmart.engines import Engine, Relation
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import RetailmartError
from retailmart.lake import Lake, place_of
from retailmart.lake.places import LocalPlace
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Reading, Table, ZeroDates
from retailmart.sources.databases import Sources
from retailmart.sources.detect import probe
from retailmart.sources.load import load_table
from retailmart.sources.loaded import LoadedTable, expect_not_shrunk
from retailmart.storage.local import LocalFolder
from tests.support.services.mariadb import Database

# Each example stands in a real database; the room is emptied by the test itself.
patiently = partial(
    settings,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_DAY = date(2024, 1, 1)
_WHOLE = Table("item", "item", key=("item_id",))
_BY_CURSOR = replace(_WHOLE, reading=Reading.INCREMENTAL, cursor="changed")


@dataclass
class Room:
    """A source's table `item`, and the lake it is brought to."""

    url: str
    execute: Callable[..., object]
    query: Callable[[str], list[tuple[Any, ...]]]
    engine: Engine
    lake: Lake
    table: Table = _WHOLE
    record: SourceRecord | None = None
    batches: Iterator[int] = field(default_factory=lambda: count(1))
    relations: dict[str, Relation] = field(default_factory=dict)

    def load(self, day: date = _DAY, *, kept: bool = True) -> LoadedTable:
        """One batch. Without `kept`, nobody hears of it, as after a crash."""
        sources = Sources(("shop",), lambda _: open_database(self.url, Path(), must_exist=True))
        try:
            found = probe(sources, "shop", self.table, self.record)
            whole = partial(probe, sources, "shop", self.table, None)
            batch_id = next(self.batches)
            loaded = load_table(self.engine, self.lake, found, whole, day, batch_id)
        finally:
            sources.close()
        if kept:
            if loaded.change:
                self.lake.commit(loaded.change, batch_id)
            self.record = loaded.record
            self.relations = loaded.relations(self.engine)
        return loaded

    def seen(self) -> list[tuple[Any, ...]]:
        """What marts see."""
        item = self.relations["item"]
        rows = self.engine.rows(
            f"SELECT item_id, name, price, changed FROM {item} ORDER BY item_id"
        )
        return [(key, name, float(price), at) for key, name, price, at in rows]

    def there(self) -> list[tuple[Any, ...]]:
        """What the source has."""
        rows = self.query("SELECT item_id, name, price, changed FROM item ORDER BY item_id")
        return [(key, name, float(price), at) for key, name, price, at in rows]

    def versions(self) -> list[tuple[Any, ...]]:
        """The versions of all items."""
        return self.engine.rows(
            "SELECT item_id, name, _valid_from, _valid_to"
            f" FROM {self.relations['item_history']} ORDER BY ALL"
        )

    def fill(self, rows: int) -> None:
        """Items 1 to `rows`, changed at 1 to `rows`."""
        values = ", ".join(f"({n}, 'item {n}', {n}.50, {n})" for n in range(1, rows + 1))
        self.execute(f"INSERT INTO item VALUES {values}")


@pytest.fixture(params=["sqlite", "mysql"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """An empty table of items."""
    folder = tmp_path / "lake"
    folder.mkdir()
    engine = DuckDBEngine([LocalPlace(folder)], tmp_path)
    lake = Lake(place_of(LocalFolder(folder), tmp_path / "workspace"))
    if request.param == "mysql":
        database: Database = request.getfixturevalue("database")
        room = Room(database.url, database.execute, database.query, engine, lake)
    else:
        path = tmp_path / "shop.db"

        def execute(*statements: str) -> None:
            with closing(sqlite3.connect(path)) as connection, connection:
                for statement in statements:
                    connection.execute(statement)

        def query(statement: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(path)) as connection:
                return connection.execute(statement).fetchall()

        room = Room(f"sqlite:///{path}", execute, query, engine, lake)
    room.execute(
        "CREATE TABLE item (item_id INTEGER PRIMARY KEY, name VARCHAR(20), price DECIMAL(8,2),"
        " changed INTEGER)"
    )
    yield room
    engine.close()


# from one definition to another

_FORMS = {
    "no key": replace(_WHOLE, key=()),
    "full": _WHOLE,
    "cursor": _BY_CURSOR,
    "cursor, other key": replace(_BY_CURSOR, key=("name",)),
    "history": replace(_WHOLE, history=True),
    "history by cursor": replace(_BY_CURSOR, history=True),
}


@pytest.mark.parametrize("room", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("first", "then"), [*permutations(_FORMS, 2)])
def test_a_table_is_taken_over_by_another_definition(room: Room, first: str, then: str) -> None:
    """The state before is read by what it was: nothing breaks, and nothing seems to be lost.

    By then it has several versions of its rows, or delta files.
    """
    room.table = _FORMS[first]
    room.fill(20)
    room.load()
    for at in (31, 32, 33):
        room.execute(f"UPDATE item SET name = 'later {at}', changed = {at} WHERE item_id = 7")
        room.load(_DAY + timedelta(days=at))
    room.execute("DELETE FROM item WHERE item_id > 12")
    room.table, known = _FORMS[then], room.record
    loaded = room.load(_DAY + timedelta(days=40))
    assert room.seen() == room.there()
    expect_not_shrunk(room.engine, loaded, known)
    room.execute("DELETE FROM item WHERE item_id > 3")
    room.table, known = replace(_WHOLE, zero_dates=ZeroDates.EMPTY), room.record
    with pytest.raises(RetailmartError, match=r"3 rows of the (12|20) that it had"):
        expect_not_shrunk(room.engine, room.load(_DAY + timedelta(days=41)), known)


@pytest.mark.parametrize("room", ["sqlite"], indirect=True)
def test_another_key_does_not_hide_what_has_changed(room: Room) -> None:
    """Delta files were merged by the old key: by the new one, a row would seem never to have been
    there, and marts would keep what they show of it."""
    room.table = _BY_CURSOR
    room.fill(20)
    room.load()
    room.execute("UPDATE item SET name = 'item 2', changed = 31 WHERE item_id = 7")
    room.load()
    room.execute("DELETE FROM item WHERE item_id = 2")
    room.table = replace(_BY_CURSOR, key=("name",))
    assert room.load().everything
    assert room.seen() == room.there()


# whole or by cursor

_OPERATIONS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "insert", "update", "late", "same", "timeless", "crash"]),
            st.integers(0, 40),
        ),
        max_size=8,
    ),
    min_size=1,
    max_size=6,
)


@patiently(max_examples=12)
@given(rounds=_OPERATIONS, filled=st.sampled_from([0, 3, 60]))
def test_reading_behind_the_cursor_equals_reading_all(
    room: Room, rounds: list[list[tuple[str, int]]], filled: int
) -> None:
    """Inserts, updates, rows that come late at the cursor, rows without one, runs cut off."""
    room.table, room.record = _BY_CURSOR, None
    room.execute("DELETE FROM item")
    if filled:
        room.fill(filled)
    at = filled
    for operations in rounds:
        for what, number in operations:
            keys = [row[0] for row in room.there()]
            new = max(keys, default=0) + 1
            if what == "crash":
                room.load(kept=False)
            elif what == "insert":
                at += 1
                room.execute(f"INSERT INTO item VALUES ({new}, 'new', 1.25, {at})")
            elif what == "late":  # its clock says no more than the last one's
                room.execute(f"INSERT INTO item VALUES ({new}, 'late', 2.25, {at})")
            elif what == "timeless":
                room.execute(f"INSERT INTO item VALUES ({new}, 'odd', {number}, NULL)")
            elif keys:
                key = keys[number % len(keys)]
                at += what == "update"
                room.execute(
                    f"UPDATE item SET name = '{what} {number}', changed = {at}"
                    f" WHERE item_id = {key}"
                )
        room.load()
        assert room.seen() == room.there()


@patiently(max_examples=10)
@given(
    rounds=st.lists(
        st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["a", "b", None])), max_size=4),
        max_size=5,
    )
)
def test_a_full_refresh_finds_deletes(
    room: Room, rounds: list[list[tuple[int, str | None]]]
) -> None:
    """None takes a row away, a name writes it."""
    room.table, room.record = _WHOLE, None
    for changes in rounds:
        for key, name in changes:
            room.execute(f"DELETE FROM item WHERE item_id = {key}")
            if name is not None:
                room.execute(f"INSERT INTO item VALUES ({key}, '{name}', 1, 1)")
        room.load()
        assert room.seen() == room.there()


def test_a_day_of_changes_writes_only_them(room: Room) -> None:
    """The base stays as it is until changes are a fifth of it."""
    room.table = _BY_CURSOR
    room.fill(100)
    room.load()
    room.execute("UPDATE item SET name = 'x', changed = 101 WHERE item_id <= 5")
    change = room.load().change
    assert change is not None
    assert sum(file.rows for file in change.adds) == 5
    assert change.removes == ()
    room.execute("UPDATE item SET name = 'y', changed = 102 WHERE item_id BETWEEN 6 AND 30")
    change = room.load().change
    assert change is not None
    assert sum(file.rows for file in change.adds) == 100, "now the base is written anew"
    assert room.seen() == room.there()


@pytest.mark.parametrize("table", [_WHOLE, _BY_CURSOR, replace(_WHOLE, history=True)])
def test_what_has_not_moved_is_not_written(room: Room, table: Table) -> None:
    """The second look finds nothing to do."""
    room.table = table
    room.fill(3)
    assert room.load().change is not None
    again = room.load()
    assert again.change is None
    assert again.affected is None


def test_another_definition_reads_all_again(room: Room) -> None:
    """A table that was read whole and is read by its cursor now, and back."""
    room.fill(5)
    for table in (_WHOLE, _BY_CURSOR, replace(_WHOLE, history=True), _WHOLE):
        room.table = table
        room.load()
        assert room.seen() == room.there()


def test_a_new_column_at_the_source_is_taken(room: Room) -> None:
    """Rows that have not moved get it too."""
    room.table = _BY_CURSOR
    room.fill(5)
    room.load()
    room.execute("ALTER TABLE item ADD COLUMN note VARCHAR(9)")
    room.execute("UPDATE item SET note = 'n' WHERE item_id = 1")
    room.execute("INSERT INTO item VALUES (6, 'six', 6, 6, 'm')")
    room.load()
    item = room.relations["item"]
    notes = room.engine.rows(f"SELECT item_id, note FROM {item} ORDER BY item_id")
    assert notes == [(1, "n"), (2, None), (3, None), (4, None), (5, None), (6, "m")]


def test_a_key_that_tells_nothing_apart_is_told(room: Room) -> None:
    """Rows would replace each other without a word."""
    room.table = replace(_BY_CURSOR, key=("name",))
    room.execute("INSERT INTO item VALUES (1, 'same', 1, 1), (2, 'same', 2, 2)")
    with pytest.raises(RetailmartError, match="does not tell its rows apart"):
        room.load()


def test_a_cursor_that_is_not_there_is_told(room: Room) -> None:
    """With the file in which it stands."""
    room.table = replace(_BY_CURSOR, cursor="wat")
    room.fill(1)
    with pytest.raises(RetailmartError, match="no column 'wat'"):
        room.load()


# versions

_EVER, _OPEN = date(1, 1, 1), date(9999, 12, 31)


def test_versions_begin_on_the_day_of_the_run(room: Room) -> None:
    """The first reaches back for ever, the last has no end, a deleted row's ends."""
    room.table = replace(_WHOLE, history=True)
    room.execute("INSERT INTO item VALUES (1, 'a', 1, 1), (2, 'z', 1, 1)")
    room.load(date(2024, 1, 10))
    room.execute("UPDATE item SET name = 'b' WHERE item_id = 1")
    room.load(date(2024, 2, 1))
    room.execute("DELETE FROM item WHERE item_id = 2")
    room.load(date(2024, 3, 1))
    assert room.versions() == [
        (1, "a", _EVER, date(2024, 2, 1)),
        (1, "b", date(2024, 2, 1), _OPEN),
        (2, "z", _EVER, date(2024, 3, 1)),
    ]
    assert room.seen() == room.there()
    room.execute("INSERT INTO item VALUES (2, 'again', 1, 1)")
    room.load(date(2024, 4, 1))
    assert (2, "again", date(2024, 4, 1), _OPEN) in room.versions()


def test_a_second_change_on_a_day_corrects_the_first(room: Room) -> None:
    """As does a run for an earlier day: no version begins before the one it follows."""
    room.table = replace(_WHOLE, history=True)
    room.execute("INSERT INTO item VALUES (1, 'a', 1, 1)")
    room.load(date(2024, 1, 10))
    for name, day in (("b", 5), ("c", 5), ("d", 2)):
        room.execute(f"UPDATE item SET name = '{name}'")
        room.load(date(2024, 2, day))
    assert room.versions() == [
        (1, "a", _EVER, date(2024, 2, 5)),
        (1, "d", date(2024, 2, 5), _OPEN),
    ]


@patiently(max_examples=10)
@given(
    rounds=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "b", None])), max_size=3),
        ),
        max_size=6,
    )
)
def test_a_day_shows_what_the_last_run_until_then_saw(
    room: Room, rounds: list[tuple[int, list[tuple[int, str | None]]]]
) -> None:
    """And days before an item was first seen show what was seen then."""
    room.table, room.record = replace(_WHOLE, history=True), None
    room.execute("DELETE FROM item")
    shutil.rmtree(room.lake.folder("raw/item"), ignore_errors=True)
    room.lake = Lake(room.lake.place)
    expected: dict[int, dict[date, str | None]] = {}
    day = _DAY
    for days, changes in rounds:
        day += timedelta(days)
        for key, name in changes:
            room.execute(f"DELETE FROM item WHERE item_id = {key}")
            if name is not None:
                room.execute(f"INSERT INTO item VALUES ({key}, '{name}', 1, 1)")
        room.load(day)
        now = {key: name for key, name, *_ in room.there()}
        for key in {*expected, *now}:
            expected.setdefault(key, {})[day] = now.get(key)
    for key, known in expected.items():
        for at in known:
            rows = room.engine.rows(
                f"SELECT name FROM {room.relations['item_history']} WHERE item_id = {key}"
                f" AND _valid_from <= DATE '{at}' AND _valid_to > DATE '{at}'"
            )
            assert [name for (name,) in rows] == ([known[at]] if known[at] is not None else [])


def test_a_new_column_keeps_the_versions_so_far(room: Room) -> None:
    """Older versions have no value in it; the change is seen from the day of the run."""
    room.table = replace(_WHOLE, history=True)
    room.execute("INSERT INTO item VALUES (1, 'a', 1, 1), (2, 'z', 1, 1)")
    room.load(date(2024, 1, 10))
    room.execute("UPDATE item SET name = 'b' WHERE item_id = 1")
    room.load(date(2024, 2, 1))
    room.execute("ALTER TABLE item ADD COLUMN note VARCHAR(9)")
    room.execute("UPDATE item SET note = 'n' WHERE item_id = 2")
    room.load(date(2024, 3, 1))
    rows = room.engine.rows(
        "SELECT item_id, name, note, _valid_from"
        f" FROM {room.relations['item_history']} ORDER BY ALL"
    )
    assert rows == [
        (1, "a", None, _EVER),
        (1, "b", None, date(2024, 2, 1)),
        (2, "z", "n", date(2024, 3, 1)),
        (2, "z", None, _EVER),
    ]


@pytest.mark.parametrize("table", [_WHOLE, replace(_WHOLE, history=True)])
def test_a_lost_column_is_refused(room: Room, table: Table) -> None:
    """What raw holds would be gone; a table that nobody declared just shows what is there."""
    room.table = table
    room.fill(2)
    room.load()
    room.execute("ALTER TABLE item RENAME COLUMN name TO title")
    with pytest.raises(RetailmartError, match="has no column 'name' any more"):
        room.load()
    room.table = replace(_WHOLE, declared=False)
    room.record = None
    room.load()


def test_a_wider_type_at_the_source_is_taken_and_a_narrower_one_kept_wide(room: Room) -> None:
    """Values stay what they were."""
    room.table = replace(_WHOLE, history=True)
    room.execute("DROP TABLE item", "CREATE TABLE item (item_id INTEGER PRIMARY KEY, n INTEGER)")
    room.execute("INSERT INTO item VALUES (1, 7)")
    room.load(date(2024, 1, 1))
    for day, kind, value in ((2, "DECIMAL(12,2)", "7.25"), (3, "INTEGER", "8")):
        room.execute(
            "DROP TABLE item", f"CREATE TABLE item (item_id INTEGER PRIMARY KEY, n {kind})"
        )
        room.execute(f"INSERT INTO item VALUES (1, {value})")
        room.load(date(2024, 1, day))
    versions = room.relations["item_history"]
    rows = room.engine.rows(f"SELECT n FROM {versions} ORDER BY _valid_from")
    assert [str(n) for (n,) in rows] == ["7.00", "7.25", "8.00"]
