"""Mistakes in marts and rules are told with their line, before anything is done."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from retailmart import SettingsError
from retailmart.marts.splitting.tree import CLOCKS, VOLATILE
from retailmart.operations.check import check_definitions
from retailmart.project import load_project
from tests.support.shop import Called, Shop, all_marts, keep_only, sale

_FULL = "-- refresh: full\n"
_WRONG = {
    "SELECT customer_id\nFROM sales\nWHRE 1": r"mine\.sql:4: syntax error",
    "SELECT\n  custmer_id\nFROM sales": r'mine\.sql:3: Binder Error: .*"custmer_id" not found',
    "SELECT frist_name FROM customer": r'mine\.sql:2: Binder Error: .*"frist_name" not found',
    "SELECT uper(product_name) AS a FROM sales": r"mine\.sql:2: .*uper does not exist",
    "SELECT 1 AS a\nFROM slaes": r"mine\.sql:3: 'slaes' is no feed, mart or table.*'sales'",
    "SELECT sum(product_name) AS a FROM sales": r"mine\.sql:2: Binder Error: .*sum",
    "SELECT monthly_totl FROM customer_monthly_purchase": r"mine\.sql:2: .*monthly_totl",
    "SELECT\n random() AS a FROM sales": r"mine\.sql:3: random\(\): it differs from run to run",
    "SELECT now() AS a FROM sales": r"mine\.sql:2: now\(\): .*getvariable\('as_of'\)",
    "SELECT 1 AS a FROM sales WHERE sales_date < CURRENT_DATE": r"mine\.sql:2: current_date: ",
    "SELECT age(sales_date) AS a FROM sales": r"mine\.sql:2: age\(\): ",
    "SELECT customer_id FROM sales USING SAMPLE 3 ROWS": r"mine\.sql:2: a sample of rows",
    "SELECT 1 AS a,\n any_value(price) AS b FROM sales": r"mine\.sql:3: any_value\(\): .*order",
    "SELECT DISTINCT ON (store_id) price FROM sales": r"mine\.sql:2: DISTINCT ON: .*ORDER BY",
    "SELECT price\nFROM sales\nLIMIT 1": r"mine\.sql:4: LIMIT: .*ORDER BY",
    "SELECT getvariable('rate') AS a FROM sales": r"mine\.sql:2: no header declares .*'rate'",
    "SELECT getvariable(product_name) AS a FROM sales": r"mine\.sql:2: a variable is read by",
    "SELECT 1 AS a FROM (SELECT (SELECT getvariable('rate')) FROM store)": r":2: no header",
    "SELECT sum(total_cost) * getvariable('incentive_scope') AS a FROM sales": r"mine\.sql:2: ",
}


def write(shop: Shop, text: str) -> None:
    """A mart of the user's."""
    (shop.folder / "marts" / "mine.sql").write_text(text)


@pytest.mark.parametrize("query", _WRONG)
def test_each_mistake_in_a_mart_has_its_line(shop: Shop, query: str) -> None:
    """`check` binds each mart to the columns of feeds, tables and other marts."""
    write(shop, _FULL + query)
    with pytest.raises(SettingsError, match=_WRONG[query]):
        check_definitions(load_project(shop.folder))


_LACKING = {
    "SELECT c.surname FROM customer c": r"source table 'customer' has customer_id, .*: correct"
    r" marts/mine\.sql, or write in tables/customer\.yml: aliases: \{surname: \[",
    "SELECT surname FROM customer_history": r"source table 'customer' has customer_id, .*tables/",
    "SELECT x.tip FROM (SELECT s.tip FROM sales s) x": r"feed 'sales' has customer_id, .*"
    r", total_cost, additional_column: .*or add the column to feeds/sales\.yml$",
    "SELECT m.tip FROM customer_monthly_purchase m, sales": r"mart 'customer_monthly_purchase' has",
    "WITH c AS (SELECT 1 AS a) SELECT c.surname FROM c, customer": r'named "surname"$',
    "SELECT surname FROM customer, sales": r'"surname" not found .*"$',
}


@pytest.mark.parametrize("query", _LACKING)
def test_a_column_that_an_input_lacks_has_a_next_step(shop: Shop, query: str) -> None:
    """The message has the input's columns and the file to correct, if it shows the input."""
    write(shop, _FULL + query)
    with pytest.raises(SettingsError, match=_LACKING[query]):
        check_definitions(load_project(shop.folder))


def test_a_run_does_nothing_where_a_mart_has_a_mistake(shop: Shop) -> None:
    """It is told before a file is staged; corrected, the same run goes through."""
    shop.sales("sales_a.csv", [sale()])
    write(shop, f"{_FULL}SELECT custmer_id FROM sales")
    with pytest.raises(SettingsError, match=r"mine\.sql:2: .*custmer_id"):
        shop.run()
    assert not list((shop.folder / "lake").rglob("*.parquet"))
    with shop.open().ledger() as ledger:
        assert ledger.batches.unfinished() is None
    write(shop, f"{_FULL}SELECT customer_id FROM sales")
    shop.run()
    assert shop.mart("mine") == [(1,)]
    write(shop, f"{_FULL}SELECT customer_id FROM sales WHERE total_cost > now()")
    with pytest.raises(SettingsError, match=r"mine\.sql:2: now\(\)"):
        shop.run()


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("total_cost = price * quantty", r"feeds/sales\.yml:17: rule .*quantty"),
        ("total_cost = ", r"feeds/sales\.yml:17: rule .*syntax error"),
        ("total_cost < price * random()", r"feeds/sales\.yml:17: rule .*random\(\)"),
        ("total_cost < getvariable('most')", r"feeds/sales\.yml:17: rule .*'most'"),
        (
            "store_id IN (SELECT unnest([1, 2]))",
            r"feeds/sales\.yml:17: rule .*cannot be tried row by row.*without SELECT",
        ),
        ("(SELECT total_cost > 0)", r"feeds/sales\.yml:17: rule .*cannot be tried row by row"),
    ],
)
def test_each_mistake_in_a_rule_has_its_line(shop: Shop, condition: str, problem: str) -> None:
    """Rules are bound to the feed's columns."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("total_cost = price * quantity", condition))
    with pytest.raises(SettingsError, match=problem):
        check_definitions(load_project(shop.folder))


def test_a_run_does_nothing_where_a_rule_has_a_mistake(shop: Shop) -> None:
    """Files stay in landing until it is corrected."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("price * quantity", "price * quantty"))
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(SettingsError, match=r"feeds/sales\.yml:17: rule .*quantty"):
        shop.run()
    with shop.open().ledger() as ledger:
        assert ledger.batches.unfinished() is None


@all_marts
def test_variables_must_be_declared_where_they_are_read(shop: Shop) -> None:
    """Once, with one default for all marts; the settings give values of the same type."""
    write(shop, f"{_FULL}SELECT getvariable('incentive_rate') AS a FROM sales")
    with pytest.raises(SettingsError, match=r"mine\.sql:2: .*marts/sales_team_incentive\.sql"):
        check_definitions(load_project(shop.folder))
    for header in ("{Incentive_Rate: 0.02}", "{incentive_rate: '0.01'}"):
        write(shop, f"{_FULL}-- variables: {header}\nSELECT 1 AS a FROM sales")
        problem = r"sales_team_incentive\.sql:8: variables: incentive_rate is 0\.01 here and .*mine"
        with pytest.raises(SettingsError, match=problem):
            load_project(shop.folder)
    write(shop, f"{_FULL}-- variables: {{incentive_rate: 0.01}}\nSELECT 1 AS a FROM sales")
    check_definitions(load_project(shop.folder))
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("variables:\n  incentive_rate: much\n")
    with pytest.raises(SettingsError, match=r"retailmart\.yml:\d+: variables: incentive_rate is a"):
        load_project(shop.folder)


def test_values_by_date_are_read_by_day(shop: Shop) -> None:
    """A query that reads them as one value, or without the variable's name, has a mistake."""
    header = "-- variables: {rate: {2024-01-01: 1, 2024-03-01: 2}}\n"
    for query, problem in (
        ("getvariable('rate')", "'rate' has values by date; read that of a day with variable_on"),
        ("variable_on('rate')", "read by name and day, as in variable_on('rate', sales_date)"),
        ("variable_on('rat', sales_date)", "no header declares the variable 'rat'; did you mean"),
        ("variable_on(product_name, sales_date)", "read by name and day"),
    ):
        write(shop, f"{_FULL}{header}SELECT {query} AS a FROM sales")
        with pytest.raises(SettingsError) as told:
            check_definitions(load_project(shop.folder))
        assert problem in str(told.value), query
    write(shop, f"{_FULL}{header}SELECT variable_on('rate', sales_date) AS a FROM sales")
    check_definitions(load_project(shop.folder))


def test_what_cannot_be_asked_is_no_mistake(shop: Shop) -> None:
    """A new project's tables may come later; a column that is called as a clock is a column."""
    keep_only(shop.folder, feeds=["sales"], tables=["customer"], marts=())
    write(shop, f"{_FULL}SELECT c.whatever, o.a FROM customer c, other o")
    (shop.folder / "shop.db").unlink()
    check_definitions(load_project(shop.folder))
    write(shop, f"{_FULL}SELECT localtime FROM other")
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection:
        connection.execute("CREATE TABLE other (localtime TEXT)")
    check_definitions(load_project(shop.folder))


def test_what_depends_on_the_order_of_rows_is_refused(shop: Shop, called: Called) -> None:
    """By `check` and by the run that would build it, with what to write; ordered, it is built."""
    text = f"{_FULL}SELECT store_id, first(price%s) AS price FROM sales GROUP BY store_id"
    write(shop, text % "")
    shop.sales("sales_a.csv", [sale(), sale(2, price="5.00")])
    for command in (["check"], ["run"]):
        done = called(shop.folder, *command)
        assert done.returncode == 2
        assert "marts/mine.sql:2: first(): it depends on the order" in done.stderr
        assert "first(x ORDER BY y)" in done.stderr
    write(shop, text % " ORDER BY price")
    assert called(shop.folder, "check").returncode == 0
    assert called(shop.folder, "run").returncode == 0
    assert called(shop.folder, "verify", "--engines", "duckdb").returncode == 0


def test_the_lists_of_volatile_functions_are_the_engines() -> None:
    """A later DuckDB's clock or chance must not be overlooked."""
    import duckdb

    found = (
        duckdb.connect()
        .execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        )
        .fetchall()
    )
    # They fail, or say the same in every run of a project.
    same = {"current_database", "current_schema", "current_schemas", "current_setting", "error"}
    same |= {"getvariable", "in_search_path"}
    assert {name for (name,) in found} - same <= CLOCKS | VOLATILE
