"""Versions of rows: each day shows what the source had then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from retailmart.lake import Lake
from tests.sources.items import DAY, WHOLE, Items, patiently
from tests.support.amount import tries

_EVER, _OPEN = date(1, 1, 1), date(9999, 12, 31)


def test_versions_begin_on_the_day_of_the_run(items: Items) -> None:
    """The first reaches back for ever, the last has no end, a deleted row's ends."""
    items.table = replace(WHOLE, history=True)
    items.execute("INSERT INTO item VALUES (1, 'a', 1, 1), (2, 'z', 1, 1)")
    items.load(date(2024, 1, 10))
    items.execute("UPDATE item SET name = 'b' WHERE item_id = 1")
    items.load(date(2024, 2, 1))
    items.execute("DELETE FROM item WHERE item_id = 2")
    items.load(date(2024, 3, 1))
    assert items.versions() == [
        (1, "a", _EVER, date(2024, 2, 1)),
        (1, "b", date(2024, 2, 1), _OPEN),
        (2, "z", _EVER, date(2024, 3, 1)),
    ]
    assert items.seen() == items.there()
    items.execute("INSERT INTO item VALUES (2, 'again', 1, 1)")
    items.load(date(2024, 4, 1))
    assert (2, "again", date(2024, 4, 1), _OPEN) in items.versions()


def test_a_second_change_on_a_day_corrects_the_first(items: Items) -> None:
    """As does a run for an earlier day: no version begins before the one it follows."""
    items.table = replace(WHOLE, history=True)
    items.execute("INSERT INTO item VALUES (1, 'a', 1, 1)")
    items.load(date(2024, 1, 10))
    for name, day in (("b", 5), ("c", 5), ("d", 2)):
        items.execute(f"UPDATE item SET name = '{name}'")
        items.load(date(2024, 2, day))
    assert items.versions() == [
        (1, "a", _EVER, date(2024, 2, 5)),
        (1, "d", date(2024, 2, 5), _OPEN),
    ]


@patiently(max_examples=tries(4, 10))
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
    items: Items, rounds: list[tuple[int, list[tuple[int, str | None]]]]
) -> None:
    """And days before an item was first seen show what was seen then."""
    items.table, items.record = replace(WHOLE, history=True), None
    items.execute("DELETE FROM item")
    shutil.rmtree(items.lake.folder("raw/item"), ignore_errors=True)
    items.lake = Lake(items.lake.place)
    expected: dict[int, dict[date, str | None]] = {}
    day = DAY
    for days, changes in rounds:
        day += timedelta(days)
        for key, name in changes:
            items.execute(f"DELETE FROM item WHERE item_id = {key}")
            if name is not None:
                items.execute(f"INSERT INTO item VALUES ({key}, '{name}', 1, 1)")
        items.load(day)
        now = {key: name for key, name, *_ in items.there()}
        for key in {*expected, *now}:
            expected.setdefault(key, {})[day] = now.get(key)
    for key, known in expected.items():
        for at in known:
            rows = items.engine.rows(
                f"SELECT name FROM {items.relations['item_history']} WHERE item_id = {key}"
                f" AND _valid_from <= DATE '{at}' AND _valid_to > DATE '{at}'"
            )
            assert [name for (name,) in rows] == ([known[at]] if known[at] is not None else [])


def test_a_new_column_keeps_the_versions_so_far(items: Items) -> None:
    """Older versions have no value in it; the change is seen from the day of the run."""
    items.table = replace(WHOLE, history=True)
    items.execute("INSERT INTO item VALUES (1, 'a', 1, 1), (2, 'z', 1, 1)")
    items.load(date(2024, 1, 10))
    items.execute("UPDATE item SET name = 'b' WHERE item_id = 1")
    items.load(date(2024, 2, 1))
    items.execute("ALTER TABLE item ADD COLUMN note VARCHAR(9)")
    items.execute("UPDATE item SET note = 'n' WHERE item_id = 2")
    items.load(date(2024, 3, 1))
    rows = items.engine.rows(
        "SELECT item_id, name, note, _valid_from"
        f" FROM {items.relations['item_history']} ORDER BY ALL"
    )
    assert rows == [
        (1, "a", None, _EVER),
        (1, "b", None, date(2024, 2, 1)),
        (2, "z", "n", date(2024, 3, 1)),
        (2, "z", None, _EVER),
    ]
