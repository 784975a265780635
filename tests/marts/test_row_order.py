"""What a query leaves to the order of rows is seen, wherever it stands, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import duckdb
import pytest

from retailmart.marts.row_order import unordered

# Each with what is told of it, and the text that it is told at.
LEFT_TO_CHANCE = {
    "SELECT DISTINCT ON (k) k, x FROM t": ("DISTINCT ON", "k) k"),
    "SELECT DISTINCT ON (t.k) k, x FROM t ORDER BY K": ("DISTINCT ON", "t.k"),
    "SELECT k, any_value(x) FROM t GROUP BY k": (r"any_value\(\).*min\(\)", "any"),
    "SELECT first(x) FILTER (x > 1) FROM t": (r"first\(\).*ORDER BY", "first"),
    "SELECT x.FIRST() FROM t": (r"first\(\)", "x.F"),
    "SELECT main.last(x) FROM t": (r"last\(\)", "main"),
    "SELECT list(DISTINCT x) FROM t": (r"list\(\).*list_sort", "list"),
    "SELECT list(x ORDER BY NULL) FROM t": (r"list\(\)", "list"),
    "SELECT list_sort(list_transform(list(x), lambda y, i: y + i)) FROM t": ("list", "list(x)"),
    "SELECT list(x)[1] FROM t": (r"list\(\)", "list"),
    "SELECT list_first(list(x)) FROM t": (r"list\(\)", "list(x)"),
    "SELECT [y FOR y IN array_agg(x) IF y > 1] FROM t": (r"array_agg\(\)", "array_agg"),
    "SELECT ARRAY(SELECT x FROM t) AS a": (r"ARRAY\(SELECT", "ARRAY"),
    "SELECT string_agg(DISTINCT k, ',') FROM t": ("string_agg.*', ' ORDER BY x", "string"),
    "SELECT contains(group_concat(k), 'a') FROM t": ("group_concat", "group"),
    "SELECT json_group_array(x) FROM t": (r"to_json\(list\(x ORDER BY", "json"),
    "SELECT max(x, j) FROM t": (r"max\(\).*number", "max"),
    "SELECT arg_min(k, x, j + 1) FROM t": ("number", "arg_min"),
    "SELECT mode(x) FROM t": (r"mode\(\), where values tie: ", "mode"),
    "SELECT approx_quantile(x, 0.5) FROM t": ("quantile_cont", "approx"),
    "SELECT approx_quantile(x, 0.5) OVER (ORDER BY x) FROM t": ("quantile_cont", "approx"),
    "PIVOT t ON k IN ('a') USING first(x)": (r"first\(\)", "first"),
    "SELECT x FROM t LIMIT 1": ("LIMIT", "1"),
    "SELECT x FROM t OFFSET 1": ("OFFSET", "1"),
    "SELECT x FROM t LIMIT 10 PERCENT": ("LIMIT", ""),
    "SELECT x FROM t ORDER BY (SELECT NULL) LIMIT 1": ("LIMIT", "1"),
    "FROM (FROM t ORDER BY x) LIMIT 1": ("LIMIT", "1"),
    "(SELECT x FROM t) UNION ALL (SELECT x FROM t) LIMIT 2": ("LIMIT", "2"),
    "SELECT (SELECT x FROM t u WHERE u.k = t.k LIMIT 1) FROM t": ("LIMIT", "1"),
    "SELECT 1 FROM t WHERE EXISTS (FROM t LIMIT 1 OFFSET 2)": ("LIMIT", "1 OFFSET"),
    "SELECT row_number() OVER () FROM t": (r"row_number\(\) OVER", "row"),
    "SELECT row_number() OVER w FROM t WINDOW w AS (PARTITION BY k)": ("row_number", "row"),
    "SELECT lag(x) OVER (PARTITION BY k ORDER BY t.k) FROM t": ("lag.*ORDER BY", "lag"),
    "SELECT ntile(2) OVER (ORDER BY 1) FROM t": ("ntile", "ntile"),
    "SELECT list(x) OVER (PARTITION BY k) FROM t": (r"list\(\) OVER", "list"),
    "SELECT sum(x) OVER (ROWS 1 PRECEDING) FROM t": (r"ROWS .*sum\(\)", "sum"),
    "SELECT max(x) OVER (ROWS UNBOUNDED PRECEDING) FROM t": ("ROWS", "max"),
    "SELECT x FROM t QUALIFY row_number() OVER () = 1": ("row_number", "row"),
    "SELECT t.x FROM t POSITIONAL JOIN t u": ("POSITIONAL", "POS"),
    "WITH RECURSIVE r(a, b) USING KEY (a) AS (SELECT 1, 2 UNION SELECT a, b + 1 FROM r WHERE b < 5)"
    " FROM r": ("USING KEY", "a) AS"),
    "WITH a AS (SELECT any_value(x) AS y FROM t) FROM a": ("any_value", "any"),
    "SELECT list_transform([1], lambda y: y + (SELECT first(x) FROM t)) FROM t": ("first", "first"),
}
ORDERED = """
SELECT DISTINCT ON (k) k, x FROM t ORDER BY k, x DESC
SELECT DISTINCT ON (k) k, x FROM t ORDER BY ALL
SELECT DISTINCT k, x FROM t
SELECT any_value(x ORDER BY x), k.first(ORDER BY x) FROM t
SELECT list_sort(list(x)), x.list().list_sort(), array_sort(CAST(array_agg(x) AS VARCHAR[])) FROM t
SELECT list_reverse_sort(list_distinct(list_filter(list(x), lambda y: y > 1))) FROM t
SELECT len(list(x)), list_sum(list(x)), list_contains(list(DISTINCT x), 3) FROM t
SELECT list_sort(list(x) OVER (PARTITION BY k)) FROM t
SELECT list_first(list_sort(list(x))), array_to_string(list_sort(list(k)), ', ') FROM t
SELECT ARRAY(SELECT x FROM t ORDER BY x) AS a
SELECT string_agg(k, ',' ORDER BY k), mode(x ORDER BY x), arg_max(x, (k, x)), max(x, 1 + 1) FROM t
SELECT x FROM t ORDER BY x LIMIT 1
SELECT x FROM t ORDER BY 1 LIMIT 1 OFFSET 2
(SELECT x FROM t ORDER BY x LIMIT 1) UNION ALL (SELECT x FROM t) ORDER BY x LIMIT 2
SELECT x FROM t WHERE EXISTS (SELECT 1 FROM t LIMIT 1)
SELECT rank() OVER (), dense_rank() OVER (PARTITION BY k), sum(x) OVER (), avg(x) OVER () FROM t
SELECT count(*) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM t
SELECT row_number() OVER (PARTITION BY k ORDER BY x), lag(x) OVER (ORDER BY lower(k), x) FROM t
SELECT sum(x) OVER (ORDER BY x ROWS 1 PRECEDING), last_value(x) OVER (ORDER BY k.lower(), x) FROM t
SELECT list(x) OVER (PARTITION BY k ORDER BY x), first(x ORDER BY x) OVER () FROM t
SELECT t.x FROM t ASOF JOIN t u ON u.k = t.k AND u.x <= t.x
SELECT first, "list" FROM (SELECT k AS first, x AS "list" FROM t)
SELECT k, stddev(x), histogram(k), median(x), approx_count_distinct(k), avg(x) FROM t GROUP BY k
"""


# Rows with ties in each column but `x`, and their orders.
_ROWS = """
(1, 'a', 1, 1.5), (2, 'b', 1, 2.5), (3, 'b', 2, 3.5), (4, 'a', 2, 4.5), (5, 'c', 2, 2.5),
(6, 'c', 1, NULL), (7, NULL, 2, 0.25), (8, 'd', 3, 8)
"""
_ORDERS = ("x", "x DESC", "k, x DESC")
# What the functions of the engine may take, and more.
_ARGUMENTS = (
    *("", "x", "d", "k", "j", "x > 4", "{'j': j}"),
    *("k, x", "x, j", "k, ','", "d, 0.5", "j, 2", "x, [1, 2, 4]"),
    "CAST(x AS DOUBLE), CAST(j AS DOUBLE), 3",
)


_RESTS = ("", "_null", "_nulls_last")


class Shuffled:
    """The rows of `t` in several orders, each read by one thread from first to last."""

    def __init__(self) -> None:
        self.engines = [duckdb.connect(config={"threads": 1}) for _ in _ORDERS]
        for engine, order in zip(self.engines, _ORDERS, strict=True):
            engine.execute(
                f"CREATE TABLE t AS FROM (VALUES {_ROWS}) v(x, k, j, d) ORDER BY {order}"
            )

    def results(self, query: str) -> list[str]:
        """The rows of a query by each order: without their own order, and without last digits."""
        results = []
        for engine in self.engines:
            rows = engine.execute(query).fetchall()
            results.append(repr(sorted(repr(_rounded(row)) for row in rows)))
        return results


def _rounded(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_rounded(each) for each in value]
    return round(value, 9) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def shuffled() -> Iterator[Shuffled]:
    """The engines of all orders."""
    found = Shuffled()
    yield found
    for engine in found.engines:
        engine.close()


def told(query: str) -> list[tuple[str, int | None]]:
    """What is found in a query: words and offsets."""
    row = duckdb.connect().execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    assert row is not None
    tree = json.loads(row[0])
    assert not tree["error"], tree
    return [(found.message, found.at) for found in unordered(tree, {"my_own"})]


@pytest.mark.parametrize("query", LEFT_TO_CHANCE)
def test_what_depends_on_the_order_of_rows_is_found_once_in_its_place(query: str) -> None:
    """As a function or a method, in lambdas, in WITH, in subqueries and in the parts of a UNION."""
    words, place = LEFT_TO_CHANCE[query]
    ((found, at),) = told(query)
    assert re.search(words, found), found
    assert at is None if not place else query[at:].startswith(place)


@pytest.mark.parametrize("query", ORDERED.strip().splitlines())
def test_what_is_the_same_in_any_order_is_accepted(shuffled: Shuffled, query: str) -> None:
    """An order of its own, or one that is sorted or counted away. The engine agrees."""
    assert told(query) == []
    assert len({*shuffled.results(query)}) == 1


def test_functions_of_the_project_are_its_own() -> None:
    """They compute each row from its values, whatever they are called."""
    assert told("SELECT my_own(x), MY_OWN(k) FROM t") == []


def test_no_function_of_the_engine_is_overlooked(shuffled: Shuffled) -> None:
    """Whatever of a later DuckDB, too, gives something else in another order is told."""
    query = (
        "SELECT DISTINCT function_name, function_type = 'window' FROM duckdb_functions()"
        " WHERE function_type = 'aggregate'"
        " OR function_type = 'window' OR (function_type = 'macro' AND function_name LIKE '%group%')"
    )
    overlooked, called = [], set()
    # An order in these is believed.
    by_argument = {f"{which}{rest}" for which in ("arg_max", "arg_min") for rest in _RESTS}
    by_argument |= {"max_by", "min_by", "argmax", "argmin"}
    for name, window in duckdb.connect().execute(query).fetchall():
        over = " OVER (PARTITION BY j)" if window else ""
        for call in (f"{name}({arguments}){over}" for arguments in _ARGUMENTS):
            asked = f"SELECT {call} FROM t"
            try:
                different = len({*shuffled.results(asked)}) > 1
            except duckdb.Error:
                continue
            called.add(name)
            if different and not told(asked) and name not in by_argument:
                overlooked.append(call)
    assert overlooked == []
    assert {"any_value", "list", "mode", "json_group_array", "row_number", "lag"} <= called
