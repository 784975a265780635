"""Source tables in the lake: whatever happens at the source, marts see what it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retailmart.errors import RetailmartError
from retailmart.project.table import Table, ZeroDates
from retailmart.sources.loaded import expect_not_shrunk
from tests.sources.items import BY_CURSOR, DAY, WHOLE, Items, patiently
from tests.support.amount import tries

# from one definition to another

_FORMS = {
    "no key": replace(WHOLE, key=()),
    "full": WHOLE,
    "cursor": BY_CURSOR,
    "cursor, other key": replace(BY_CURSOR, key=("name",)),
    "history": replace(WHOLE, history=True),
    "history by cursor": replace(BY_CURSOR, history=True),
}


@pytest.mark.parametrize("items", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("first", "then"), [*permutations(_FORMS, 2)])
def test_a_table_is_taken_over_by_another_definition(items: Items, first: str, then: str) -> None:
    """The state before is read by what it was: nothing breaks, and nothing seems to be lost.

    By then it has several versions of its rows, or delta files.
    """
    items.table = _FORMS[first]
    items.fill(20)
    items.load()
    for at in (31, 32, 33):
        items.execute(f"UPDATE item SET name = 'later {at}', changed = {at} WHERE item_id = 7")
        items.load(DAY + timedelta(days=at))
    items.execute("DELETE FROM item WHERE item_id > 12")
    items.table, known = _FORMS[then], items.record
    loaded = items.load(DAY + timedelta(days=40))
    assert items.seen() == items.there()
    expect_not_shrunk(items.engine, loaded, known)
    items.execute("DELETE FROM item WHERE item_id > 3")
    items.table, known = replace(WHOLE, zero_dates=ZeroDates.EMPTY), items.record
    with pytest.raises(RetailmartError, match=r"3 rows of the (12|20) that it had"):
        expect_not_shrunk(items.engine, items.load(DAY + timedelta(days=41)), known)


@pytest.mark.parametrize("items", ["sqlite"], indirect=True)
def test_another_key_does_not_hide_what_has_changed(items: Items) -> None:
    """Delta files were merged by the old key: by the new one, a row would seem never to have been
    there, and marts would keep what they show of it."""
    items.table = BY_CURSOR
    items.fill(20)
    items.load()
    items.execute("UPDATE item SET name = 'item 2', changed = 31 WHERE item_id = 7")
    items.load()
    items.execute("DELETE FROM item WHERE item_id = 2")
    items.table = replace(BY_CURSOR, key=("name",))
    assert items.load().everything
    assert items.seen() == items.there()


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


@patiently(max_examples=tries(4, 10))
@given(rounds=_OPERATIONS, filled=st.sampled_from([0, 3, 60]))
def test_reading_behind_the_cursor_equals_reading_all(
    items: Items, rounds: list[list[tuple[str, int]]], filled: int
) -> None:
    """Inserts, updates, rows that come late at the cursor, rows without one, runs cut off."""
    items.table, items.record = BY_CURSOR, None
    items.execute("DELETE FROM item")
    if filled:
        items.fill(filled)
    at = filled
    for operations in rounds:
        for what, number in operations:
            keys = [row[0] for row in items.there()]
            new = max(keys, default=0) + 1
            if what == "crash":
                items.load(kept=False)
            elif what == "insert":
                at += 1
                items.execute(f"INSERT INTO item VALUES ({new}, 'new', 1.25, {at})")
            elif what == "late":  # its clock says no more than the last one's
                items.execute(f"INSERT INTO item VALUES ({new}, 'late', 2.25, {at})")
            elif what == "timeless":
                items.execute(f"INSERT INTO item VALUES ({new}, 'odd', {number}, NULL)")
            elif keys:
                key = keys[number % len(keys)]
                at += what == "update"
                items.execute(
                    f"UPDATE item SET name = '{what} {number}', changed = {at}"
                    f" WHERE item_id = {key}"
                )
        items.load()
        assert items.seen() == items.there()


@patiently(max_examples=tries(4, 10))
@given(
    rounds=st.lists(
        st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["a", "b", None])), max_size=4),
        max_size=5,
    )
)
def test_a_full_refresh_finds_deletes(
    items: Items, rounds: list[list[tuple[int, str | None]]]
) -> None:
    """None takes a row away, a name writes it."""
    items.table, items.record = WHOLE, None
    for changes in rounds:
        for key, name in changes:
            items.execute(f"DELETE FROM item WHERE item_id = {key}")
            if name is not None:
                items.execute(f"INSERT INTO item VALUES ({key}, '{name}', 1, 1)")
        items.load()
        assert items.seen() == items.there()


def test_a_day_of_changes_writes_only_them(items: Items) -> None:
    """The base stays as it is until changes are a fifth of it."""
    items.table = BY_CURSOR
    items.fill(100)
    items.load()
    items.execute("UPDATE item SET name = 'x', changed = 101 WHERE item_id <= 5")
    change = items.load().change
    assert change is not None
    assert sum(file.rows for file in change.adds) == 5
    assert change.removes == ()
    items.execute("UPDATE item SET name = 'y', changed = 102 WHERE item_id BETWEEN 6 AND 30")
    change = items.load().change
    assert change is not None
    assert sum(file.rows for file in change.adds) == 100, "now the base is written anew"
    assert items.seen() == items.there()


@pytest.mark.parametrize("table", [WHOLE, BY_CURSOR, replace(WHOLE, history=True)])
def test_what_has_not_moved_is_not_written(items: Items, table: Table) -> None:
    """The second look finds nothing to do."""
    items.table = table
    items.fill(3)
    assert items.load().change is not None
    again = items.load()
    assert again.change is None
    assert again.affected is None


def test_another_definition_reads_all_again(items: Items) -> None:
    """A table that was read whole and is read by its cursor now, and back."""
    items.fill(5)
    for table in (WHOLE, BY_CURSOR, replace(WHOLE, history=True), WHOLE):
        items.table = table
        items.load()
        assert items.seen() == items.there()


def test_a_new_column_at_the_source_is_taken(items: Items) -> None:
    """Rows that have not moved get it too."""
    items.table = BY_CURSOR
    items.fill(5)
    items.load()
    items.execute("ALTER TABLE item ADD COLUMN note VARCHAR(9)")
    items.execute("UPDATE item SET note = 'n' WHERE item_id = 1")
    items.execute("INSERT INTO item VALUES (6, 'six', 6, 6, 'm')")
    items.load()
    item = items.relations["item"]
    notes = items.engine.rows(f"SELECT item_id, note FROM {item} ORDER BY item_id")
    assert notes == [(1, "n"), (2, None), (3, None), (4, None), (5, None), (6, "m")]


def test_a_key_that_tells_nothing_apart_is_told(items: Items) -> None:
    """Rows would replace each other without a word."""
    items.table = replace(BY_CURSOR, key=("name",))
    items.execute("INSERT INTO item VALUES (1, 'same', 1, 1), (2, 'same', 2, 2)")
    with pytest.raises(RetailmartError, match="does not tell its rows apart"):
        items.load()


def test_a_cursor_that_is_not_there_is_told(items: Items) -> None:
    """With the file in which it stands."""
    items.table = replace(BY_CURSOR, cursor="wat")
    items.fill(1)
    with pytest.raises(RetailmartError, match="no column 'wat'"):
        items.load()


@pytest.mark.parametrize("table", [WHOLE, replace(WHOLE, history=True)])
def test_a_lost_column_is_refused(items: Items, table: Table) -> None:
    """What raw holds would be gone; a table that nobody declared just shows what is there."""
    items.table = table
    items.fill(2)
    items.load()
    items.execute("ALTER TABLE item RENAME COLUMN name TO title")
    with pytest.raises(RetailmartError, match="has no column 'name' any more"):
        items.load()
    items.table = replace(WHOLE, declared=False)
    items.record = None
    items.load()


def test_a_wider_type_at_the_source_is_taken_and_a_narrower_one_kept_wide(items: Items) -> None:
    """Values stay what they were."""
    items.table = replace(WHOLE, history=True)
    items.execute("DROP TABLE item", "CREATE TABLE item (item_id INTEGER PRIMARY KEY, n INTEGER)")
    items.execute("INSERT INTO item VALUES (1, 7)")
    items.load(date(2024, 1, 1))
    for day, kind, value in ((2, "DECIMAL(12,2)", "7.25"), (3, "INTEGER", "8")):
        items.execute(
            "DROP TABLE item", f"CREATE TABLE item (item_id INTEGER PRIMARY KEY, n {kind})"
        )
        items.execute(f"INSERT INTO item VALUES (1, {value})")
        items.load(date(2024, 1, day))
    versions = items.relations["item_history"]
    rows = items.engine.rows(f"SELECT n FROM {versions} ORDER BY _valid_from")
    assert [str(n) for (n,) in rows] == ["7.00", "7.25", "8.00"]
