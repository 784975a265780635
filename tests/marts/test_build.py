"""Build: marts in the order they need, only touched months, mistakes told with their place."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from retailmart import RetailmartError, SettingsError
from retailmart.marts.build import build_order
from retailmart.project.mart import Mart, read_mart
from tests.support.shop import AS_OF, Shop, all_marts, keep_only, sale

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


@all_marts
@pytest.mark.every_engine
def test_a_mart_that_answers_for_another_month_is_held_back(shop: Shop) -> None:
    """Rows outside their month would be lost or doubled later; all other marts go on."""
    write(shop, f"{_HEAD}SELECT '2024-02' AS _month, total_cost FROM sales")
    shop.sales("sales_a.csv", [sale()])
    (held,) = shop.run().held
    assert re.search(r"marts/mine\.sql:.*month.*2024-01", held.message)
    assert len(shop.mart("sales_mart")) == 1
    write(shop, f"{_HEAD}SELECT _month, total_cost FROM sales")
    assert shop.run().held == ()
    assert shop.mart("mine", "_month") == [("2024-01",)]


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


def change(shop: Shop, statements: str) -> None:
    """Change the shop's own tables."""
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection:
        connection.executescript(statements)


def test_two_feeds_in_one_appended_mart_are_rebuilt_by_months(shop: Shop) -> None:
    """A file of one feed must not bring the other's rows a second time."""
    sales = (shop.folder / "feeds" / "sales.yml").read_text()
    (shop.folder / "feeds" / "kiosk.yml").write_text(sales.replace("sales*", "kiosk*"))
    write(
        shop,
        "-- refresh: append\n-- partitions: [_month]\n"
        "SELECT 'till' AS origin, total_cost, _month FROM sales"
        " UNION ALL SELECT 'kiosk', total_cost, _month FROM kiosk",
    )
    for day, name in enumerate(("sales_1.csv", "kiosk_1.csv", "sales_2.csv", "kiosk_2.csv"), 1):
        shop.sales(name, [sale(day=f"2024-01-0{day}")])
        shop.run()
    assert [origin for (origin,) in shop.mart("mine", "origin")] == [
        "kiosk",
        "kiosk",
        "till",
        "till",
    ]


def test_rows_of_an_appended_mart_that_reads_a_mart_are_not_added_twice(shop: Shop) -> None:
    """What a mart gives of old sales changes with new ones, so its months are built again."""
    write(
        shop,
        "-- refresh: append\n-- partitions: [_month]\n"
        "SELECT s.customer_id, s._month, c.monthly_total FROM sales s"
        " JOIN customer_monthly_purchase c ON c.customer_id = s.customer_id"
        " AND c._month = s._month",
    )
    for day, name in enumerate(("sales_1.csv", "sales_2.csv"), 1):
        shop.sales(name, [sale(day=f"2024-01-0{day}")])
        shop.run()
    assert [f"{total}" for (total,) in shop.mart("mine", "monthly_total")] == ["20.00", "20.00"]


def test_a_table_that_is_counted_or_joined_through_another_shows_in_all_months(shop: Shop) -> None:
    """Only rows that are looked up by a feed's own column can be told by that."""
    change(shop, "UPDATE sales_team SET manager_id = 2 WHERE id = 1")
    write(
        shop,
        f"{_HEAD}SELECT s._month, max(m.first_name) AS boss,"
        " (SELECT count(*) FROM customer) AS customers FROM sales s"
        " LEFT JOIN sales_team t ON t.id = s.sales_person_id"
        " LEFT JOIN sales_team m ON m.id = t.manager_id GROUP BY s._month",
    )
    shop.sales("sales_a.csv", [sale(), sale(day="2024-02-01")])
    shop.run()
    change(shop, "UPDATE sales_team SET first_name = 'Zoe' WHERE id = 2")
    change(shop, "INSERT INTO customer (customer_id) VALUES (77)")
    (before, _) = shop.mart("mine", "customers")
    shop.run()
    assert shop.mart("mine", "_month, boss, customers") == [
        ("2024-01", "Zoe", before[0] + 1),
        ("2024-02", "Zoe", before[0] + 1),
    ]


@pytest.mark.parametrize("refresh", ["append", "months"])
def test_a_mart_whose_inputs_have_no_months_is_built_whole(shop: Shop, refresh: str) -> None:
    """There is no month to build it for; rows without one are kept like any other."""
    write(
        shop,
        f"-- refresh: {refresh}\n-- partitions: [opened]\n"
        "SELECT id, CASE WHEN id = 2 THEN '2024-01' END AS opened FROM store",
    )
    (shop.folder / "marts" / "reader.sql").write_text(
        "-- refresh: months\n-- partitions: [opened]\nSELECT id, opened FROM mine"
    )
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    stores = [(1, None), (2, "2024-01")]
    assert shop.mart("mine", "id, opened") == shop.mart("reader", "id, opened") == stores
    change(shop, "DELETE FROM store WHERE id = 2")
    shop.run()
    assert shop.mart("mine", "id, opened") == shop.mart("reader", "id, opened") == [(1, None)]


def test_rows_without_a_value_in_a_partition_column_are_kept(shop: Shop) -> None:
    """A mart that is written whole may be partitioned by a column with NULLs, or empty texts."""
    write(
        shop,
        "-- refresh: full\n-- partitions: [p]\n"
        "SELECT customer_id, [NULL, '', 'c'][customer_id] AS p FROM sales",
    )
    shop.sales("sales_a.csv", [sale(number) for number in (1, 2, 3)])
    shop.run()
    assert shop.mart("mine", "customer_id, p") == [(1, None), (2, ""), (3, "c")]


def test_a_month_that_lost_all_its_rows_is_gone_from_a_mart(shop: Shop) -> None:
    """Also where the query gives a row of no rows: a rebuild would not know of the month."""
    write(
        shop,
        f"{_HEAD}SELECT coalesce(max(s._month), '2024-02') AS _month, count(*) AS n FROM sales s",
    )
    shop.sales("sales_a.csv", [sale(), sale(day="2024-02-01")])
    shop.run()
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    assert shop.mart("mine", "_month, n") == [("2024-01", 1)]


@all_marts
def test_a_mart_that_was_away_for_a_run_is_built_from_the_whole_history(shop: Shop) -> None:
    """It has missed that run's rows, and its months must balance again."""
    away, mart = shop.folder / "away", shop.folder / "marts" / "sales_team_incentive.sql"
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    mart.rename(away)
    shop.sales("sales_b.csv", [sale(day="2024-02-01")])
    shop.run()
    away.rename(mart)
    shop.run()
    months = shop.mart("sales_team_incentive", "_month")
    assert months == [("2024-01",), ("2024-02",)]
    assert not shop.run().batches


@all_marts
def test_a_variable_of_another_marts_header_changes_what_reads_it(shop: Shop) -> None:
    """What a mart reads is what counts, not what its own header says."""
    settings = shop.folder / "retailmart.yml"
    before = settings.read_text()
    write(shop, "-- refresh: full\nSELECT DISTINCT GETVARIABLE('Incentive_rate') AS r FROM sales")
    shop.sales("sales_a.csv", [sale()])
    for rate in ("0.20", "0.30"):
        settings.write_text(f"{before}\nvariables: {{incentive_rate: {rate}}}\n")
        shop.run()
        assert [f"{found}" for (found,) in shop.mart("mine")] == [rate]


def test_each_row_has_the_value_of_its_day(shop: Shop) -> None:
    """A mart that grows by row reads values by date, and a changed value builds it whole."""
    body = "SELECT _month, sales_date, variable_on('rate', sales_date) AS rate FROM sales"
    head = "-- refresh: append\n-- partitions: [_month]\n"
    write(shop, f"{head}-- variables: {{rate: {{2024-01-01: 1, 2024-01-20: 2}}}}\n{body}")
    shop.sales("sales_a.csv", [sale(), sale(day="2024-02-01")])
    shop.run()
    shop.sales("sales_b.csv", [sale(day="2024-01-19"), sale(day="2024-01-20")])
    shop.run()
    assert [rate for (rate,) in shop.mart("mine", "rate")] == [1, 1, 2, 2]
    write(shop, f"{head}-- variables: {{rate: {{2024-01-01: 1, 2024-01-19: 3}}}}\n{body}")
    shop.run()
    assert [rate for (rate,) in shop.mart("mine", "rate")] == [1, 3, 3, 3]


def test_a_month_is_never_of_another_moment_than_the_rest_of_its_mart(shop: Shop) -> None:
    """A mart that looks at as_of is built whole by the first run of another day."""
    write(
        shop,
        f"{_HEAD}SELECT _month, CAST(CAST(getvariable('as_of') AS DATE) AS VARCHAR) AS day"
        " FROM sales",
    )
    shop.sales("sales_a.csv", [sale(), sale(day="2024-02-01")])
    shop.run()
    shop.run(AS_OF + timedelta(days=1))
    assert shop.mart("mine", "day") == [("2024-04-02",)] * 2


def test_a_tables_name_in_a_comment_is_no_use_of_it(shop: Shop) -> None:
    """A run with nothing new stays one with nothing to do, whatever the table does meanwhile."""
    change(shop, "CREATE TABLE extra (a INTEGER)")
    write(shop, "-- refresh: full\nSELECT count(*) AS n FROM extra")
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    write(shop, "-- refresh: full\nSELECT count(*) AS extra, 'extra' AS b FROM sales -- extra")
    shop.run()
    change(shop, "INSERT INTO extra VALUES (1)")
    assert not shop.run().batches


def test_a_mart_over_an_undeclared_table_needs_no_file(shop: Shop) -> None:
    """The first run builds it, though nothing has landed; the next one has nothing to do."""
    keep_only(shop.folder, feeds=(), tables=(), marts=())
    write(shop, "-- refresh: full\nSELECT count(*) AS n FROM store")
    shop.run()
    assert shop.mart("mine") == [(2,)]
    assert not shop.run().batches


def test_a_mart_is_given_other_partitions(shop: Shop) -> None:
    """The lake's table is laid out anew, whatever it was partitioned by."""
    keep_only(shop.folder, marts=())
    shop.sales("sales_a.csv", [sale()])
    for refresh, partitions in (
        ("full", "[product_name]"),
        ("full", "[_month]"),
        ("full", "[]"),
        ("months", "[_month, product_name]"),
    ):
        write(
            shop,
            f"-- refresh: {refresh}\n-- partitions: {partitions}\n"
            "SELECT customer_id, product_name, _month FROM sales",
        )
        shop.run()
        assert shop.mart("mine") == [(1, "tea", "2024-01")]
    state = shop.open().lake.state("marts/mine")
    assert state is not None
    assert state.partition_by == ("_month", "product_name")
