"""Build: marts in the order they need, only touched months, mistakes told with their place."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from retailmart import GateFailed, RetailmartError, SettingsError
from retailmart.project.mart import Mart, read_mart
from retailmart.steps.build import build_order
from tests.conftest import Shop, sale

_HEAD = "-- refresh: months\n-- partitions: [_month]\n"


def marts(folder: Path, names: str) -> dict[str, Mart]:
    """Marts of these names."""
    (folder / "marts").mkdir()
    found = {}
    for name in names:
        path = folder / "marts" / f"{name}.sql"
        path.write_text(f"{_HEAD}SELECT 1 AS _month")
        problems: list[str] = []
        mart = read_mart(path, folder, problems)
        assert mart, problems
        found[name] = mart
    return found


def order(folder: Path, reads: Mapping[str, str]) -> str:
    """The names in the order they are built."""
    found = marts(folder, "".join(reads))
    sets = {name: frozenset(others) for name, others in reads.items()}
    return "".join(mart.name for mart in build_order(found, sets))


def test_each_mart_is_built_after_those_it_reads(tmp_path: Path) -> None:
    """Whatever order the files have, and whatever else a mart reads."""
    assert order(tmp_path, {"a": "bz", "b": "cd", "c": "d", "d": "z"}) == "dcba"


@pytest.mark.parametrize("reads", [{"a": "a"}, {"a": "b", "b": "a", "c": ""}, {"a": "b", "b": "b"}])
def test_a_circle_of_marts_is_named(tmp_path: Path, reads: Mapping[str, str]) -> None:
    """Marts that wait for each other are an error of the project's files."""
    with pytest.raises(SettingsError, match=r"circle: .*b|circle: a"):
        order(tmp_path, reads)


def write(shop: Shop, text: str) -> None:
    """A mart of the user."""
    (shop.folder / "marts" / "mine.sql").write_text(text)


def test_a_header_that_names_an_unselected_column(shop: Shop) -> None:
    """The message has the mart's file and the column."""
    write(shop, f"{_HEAD}-- key: [_month, wat]\n-- publish: true\nSELECT _month FROM sales")
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(RetailmartError, match=r"marts/mine\.sql:\d+: .*wat"):
        shop.run()


@pytest.mark.every_engine
def test_a_mart_that_answers_for_another_month_is_stopped(shop: Shop) -> None:
    """Rows outside the month they were computed from would be lost or doubled later."""
    write(shop, f"{_HEAD}SELECT '2024-02' AS _month, total_cost FROM sales")
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(GateFailed, match=r"marts/mine\.sql:.*month.*2024-01"):
        shop.run()


@pytest.mark.every_engine
def test_a_changed_dimension_shows_in_all_its_months(shop: Shop) -> None:
    """Monthly marts show the latest name everywhere, also where no sale is new."""
    shop.sales("sales_a.csv", [sale(), sale(day="2024-02-01")])
    shop.run()
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection, connection:
        connection.execute("UPDATE customer SET first_name = 'Zoe' WHERE customer_id = 1")
    shop.sales("sales_b.csv", [sale(day="2024-02-02")])
    shop.run()
    assert shop.mart("customer_monthly_purchase", "_month, first_name") == [
        ("2024-01", "Zoe"),
        ("2024-02", "Zoe"),
    ]


@pytest.mark.every_engine
def test_variables_and_as_of_reach_the_marts(shop: Shop) -> None:
    """A mart reads its own variable and the run's moment."""
    write(
        shop,
        "-- refresh: full\n-- variables: {word: tea}\n"
        "SELECT getvariable('word') AS word, CAST(getvariable('as_of') AS DATE) AS day,"
        " count(*) AS n FROM sales",
    )
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    ((word, day, count),) = shop.mart("mine")
    assert (word, f"{day}", count) == ("tea", "2024-04-01", 2)


@pytest.mark.every_engine
def test_a_mart_that_is_written_whole_is_read_whole(shop: Shop) -> None:
    """However it is partitioned: by values that are no months, it has none to be cut by."""
    (shop.folder / "marts" / "places.sql").write_text(
        "-- refresh: full\n-- partitions: [name]\nSELECT id, store_manager_name AS name FROM store"
    )
    write(
        shop,
        f"{_HEAD}SELECT s._month, s.customer_id, p.name FROM sales s"
        " LEFT JOIN places p ON p.id = s.store_id",
    )
    for number, month in enumerate(("2024-01", "2024-02"), 1):
        shop.sales(f"sales_{number}.csv", [sale(day=f"{month}-15")])
        shop.run()
    names = shop.mart("mine", "_month, name")
    assert [month for month, _ in names] == ["2024-01", "2024-02"]
    assert None not in [name for _, name in names]
