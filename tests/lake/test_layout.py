"""The paths of the lake's tables: people and programs read the lake by them."""

from __future__ import annotations

import pytest

from retailmart.lake.layout import (
    is_known,
    is_mart,
    is_system_column,
    mart_table,
    quarantine_table,
    raw_name,
    raw_table,
)

_NAMES = ("sales", "raw", "marts", "Order lines", "größe")


@pytest.mark.parametrize("name", _NAMES)
def test_paths(name: str) -> None:
    """Each kind of table has its own folder; only marts are marts."""
    assert raw_table(name) == f"raw/{name}"
    assert quarantine_table(name) == f"quarantine/{name}"
    assert mart_table(name) == f"marts/{name}"
    assert raw_name(raw_table(name)) == name
    paths = (raw_table(name), quarantine_table(name), mart_table(name))
    assert [is_known(path) for path in paths] == [True, True, True]
    assert [is_mart(path) for path in paths] == [False, False, True]


@pytest.mark.parametrize("path", ["business_insights/2024-04-01", "scratch/sales", "raw", "marts"])
def test_other_folders_are_left_alone(path: str) -> None:
    """What somebody else puts into the lake's folder is no table of ours."""
    assert not is_known(path)


def test_system_columns() -> None:
    """A column whose name begins with an underscore describes the row."""
    assert [is_system_column(name) for name in ("_month", "_x", "month", "a_")] == [
        True,
        True,
        False,
        False,
    ]
