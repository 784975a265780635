"""Where a query says that its month can be cut, the parts together give what the whole gives."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

import retailmart.template
from retailmart.engines import Cut
from retailmart.engines.duckdb.sql import share
from retailmart.marts.splitting import row_by_row, split_problem
from retailmart.marts.splitting.tree import AGGREGATES, ROW_FUNCTIONS
from tests.support.amount import SEED

PROJECT = Path(retailmart.template.__file__).parent / "project"
# t and u are cut by month and have the split column, s; v is, and has not. w is read whole.
FIELDS = {"t": ("s", "a", "x"), "u": ("s", "a", "x"), "v": ("a", "x")}
PARTS = 3
# Of a DOUBLE: 0.0 equals -0.0, and NaN itself.
VALUES = [1, 1, 2, 2, 3, 0.0, "-0.0", "'NaN'", "NULL"]
_ROWS = 7

BY_ROWS = {
    "FROM t": "t",
    "SELECT a + 1 AS b, upper(a::VARCHAR) FROM T WHERE x > 2 AND s IS NOT NULL ORDER BY a": "t",
    "SELECT * EXCLUDE (x) REPLACE (a + 1 AS a), COLUMNS('a|x') FROM t": "t",
    "SELECT t FROM t": "t",
    "SELECT unnest([a, x]) AS y, #1 FROM t": "t",
    "SELECT CASE WHEN x BETWEEN 1 AND 3 THEN x END, list_transform([a], lambda y: y + 1) FROM t": (
        "t"
    ),
    "SELECT k FROM (SELECT a, x FROM t) AS p(k)": "t",
    "SELECT t.a, name FROM t LEFT JOIN w ON w.a = t.a": "t",
    "SELECT t.a, name FROM w RIGHT JOIN t USING (a)": "t",
    "SELECT t.a, name FROM w, t WHERE w.a = t.a": "t",
    "SELECT * FROM t NATURAL JOIN w": "t",
    "SELECT * FROM t SEMI JOIN w USING (a)": "t",
    "SELECT * FROM t ANTI JOIN w USING (a)": "t",
    "SELECT * FROM t CROSS JOIN w": "t",
    "SELECT t.a, n FROM t JOIN (SELECT a, max(name) AS n FROM w GROUP BY a) AS m USING (a)": "t",
    "SELECT t.a, r FROM t JOIN (SELECT a, rank() OVER (ORDER BY a) AS r FROM w) AS m USING (a)": (
        "t"
    ),
    "SELECT t.a, y FROM t, unnest([t.a, t.x]) AS l(y)": "t",
    "SELECT t.a, y FROM t, LATERAL (SELECT t.a + w.a AS y FROM w WHERE w.a > t.x) AS l": "t",
    "SELECT t.a, y FROM w, LATERAL (SELECT a + w.a AS y FROM t WHERE t.x > 1) AS l, t AS v": None,
    "SELECT a FROM t WHERE x > (SELECT avg(w.a) FROM w)": "t",
    "SELECT a FROM t WHERE a IN (SELECT a FROM w ORDER BY a LIMIT 2)": "t",
    "SELECT a, EXISTS (SELECT 1 FROM w WHERE w.a = t.a), (SELECT count(*) FROM w) FROM t": "t",
    "WITH p AS (SELECT a FROM t WHERE x > 1), q AS (SELECT sum(x) AS x FROM u) FROM p": "t",
    "WITH t AS (SELECT a FROM t) SELECT t.a FROM t": "t",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION SELECT a + 1 FROM r WHERE a < 3)"
    " SELECT x FROM t JOIN r USING (a)": "t",
    "SELECT u.a, m.y FROM u JOIN (SELECT a, sum(x) AS y FROM t GROUP BY a) AS m USING (a)": "u",
    "SELECT t.a FROM t JOIN u USING (a)": "t",
    "SELECT t.a FROM t RIGHT JOIN u USING (a)": "u",
    "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a)": "t",
}
NOT_BY_ROWS = {
    "it is read twice": "SELECT p.a FROM t AS p JOIN t AS q USING (a)",
    "a subquery reads it again": "SELECT a FROM t WHERE x > (SELECT avg(x) FROM t)",
    "it is read twice by WITH": "WITH p AS (FROM t) SELECT p.a FROM p JOIN p AS q USING (a)",
    "only a subquery reads it": "SELECT a FROM w WHERE a IN (SELECT a FROM t)",
    "only a selected subquery reads it": "SELECT (SELECT max(x) FROM t WHERE t.a = w.a) FROM w",
    "an aggregate": "SELECT sum(x) FROM t",
    "a group": "SELECT a FROM t GROUP BY a",
    "a group of all columns": "SELECT a FROM t GROUP BY ALL",
    "an aggregate as a macro": "SELECT weighted_avg(x, a) FROM t",
    "an aggregate of the outer rows": "SELECT (SELECT sum(t.x)) FROM t",
    "perhaps an aggregate of the outer rows": "SELECT (SELECT sum(x) FROM w) FROM t",
    "the same behind WITH": "SELECT (WITH q AS (SELECT sum(t.x) AS y) SELECT y FROM q) FROM t",
    "the same in HAVING": "SELECT (SELECT count(*) FROM w HAVING sum(t.x) > 0) FROM t",
    "a window": "SELECT a, rank() OVER (PARTITION BY s ORDER BY x) FROM t",
    "a window in QUALIFY": "SELECT a FROM t QUALIFY row_number() OVER (ORDER BY x) = 1",
    "a window in ORDER BY": "SELECT a FROM t ORDER BY row_number() OVER (ORDER BY x)",
    "DISTINCT": "SELECT DISTINCT a FROM t",
    "DISTINCT ON": "SELECT DISTINCT ON (a) a, x FROM t ORDER BY x",
    "LIMIT": "SELECT a FROM t ORDER BY a LIMIT 2",
    "OFFSET": "SELECT a FROM t ORDER BY a OFFSET 2",
    "LIMIT inside": "SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 2)",
    "a sample": "SELECT a FROM t USING SAMPLE 2 ROWS",
    "a sample of the relation": "SELECT a FROM t TABLESAMPLE 50%",
    "UNION ALL": "SELECT a FROM t UNION ALL SELECT a FROM w",
    "EXCEPT": "SELECT a FROM t EXCEPT SELECT a FROM w",
    "rows that a join adds": "SELECT w.a FROM w LEFT JOIN t USING (a)",
    "rows that a FULL JOIN adds": "SELECT w.a FROM t FULL JOIN w USING (a)",
    "a join that only filters by it": "SELECT a FROM w SEMI JOIN t USING (a)",
    "a join that only excludes by it": "SELECT a FROM w ANTI JOIN t USING (a)",
    "an ASOF join may choose among equals": "SELECT t.a FROM t ASOF JOIN w ON t.a >= w.a",
    "a POSITIONAL join": "SELECT t.a FROM t POSITIONAL JOIN w",
    "UNPIVOT": "FROM t UNPIVOT (y FOR name IN (a, x))",
    "the place of a row": "SELECT rowid FROM t",
    "a random value": "SELECT random() FROM t",
    "the clock": "SELECT current_timestamp FROM t",
    "the clock by a function": "SELECT now() FROM t",
    "a sequence": "SELECT nextval('numbers') FROM t",
    "an unknown function": "SELECT digest_of(a) FROM t",
    "a random value elsewhere": "SELECT a FROM t WHERE x > (SELECT max(random()) FROM w)",
    "any rows of another relation": "SELECT t.a FROM t JOIN (FROM w LIMIT 2) AS w USING (a)",
    "a number for any order": (
        "SELECT t.a FROM t JOIN (SELECT a, row_number() OVER () AS n FROM w) AS w USING (a)"
    ),
    "a recursion over it": (
        "WITH RECURSIVE r AS (SELECT a FROM t UNION SELECT a + 1 FROM r WHERE a < 3) FROM r"
    ),
    "a numbered UNNEST": "SELECT n FROM t, unnest([t.a]) WITH ORDINALITY AS l(y, n)",
    "another schema's": "SELECT a FROM main.t",
    "none of them is read": "SELECT a FROM w",
    "the description of it": "DESCRIBE t",
    "not a SELECT": "PIVOT t ON a USING sum(x)",
    "two statements": "SELECT 1; SELECT 2",
}

BY_COLUMN = [
    "FROM t",
    "SELECT s, sum(x) FROM t GROUP BY s",
    "SELECT S, sum(x) FROM T GROUP BY s",
    "SELECT s AS shop, count(*) FROM t GROUP BY shop, a",
    "SELECT p.s, count(*) FROM t AS p GROUP BY 1",
    "SELECT s, sum(x) FROM t GROUP BY ALL",
    "SELECT s::VARCHAR AS shop, sum(x) FROM t GROUP BY ALL",
    "SELECT shop, sum(x) FROM (SELECT s AS shop, x FROM t) GROUP BY shop",
    "SELECT b, sum(c) FROM (FROM t) AS p(b, y, c) GROUP BY b",
    "SELECT b, sum(c) FROM t AS p(b, y, c) GROUP BY b",
    "WITH p(shop) AS (SELECT s, x FROM t) SELECT shop, max(x) FROM p GROUP BY shop",
    "SELECT s, a, count(*) FROM t GROUP BY GROUPING SETS ((s), (s, a))",
    "SELECT DISTINCT s, a FROM t",
    "SELECT DISTINCT * FROM t JOIN w USING (a)",
    "SELECT DISTINCT ON (s) s, a, x FROM t ORDER BY s, a, x",
    "SELECT DISTINCT COLUMNS('s|a') FROM t",
    "SELECT s, rank() OVER (PARTITION BY s ORDER BY x) FROM t",
    "SELECT s AS shop, sum(x) OVER (PARTITION BY shop) FROM t",
    "SELECT s, a FROM t QUALIFY dense_rank() OVER (PARTITION BY s ORDER BY x) = 1",
    "SELECT s, sum(x), rank() OVER (PARTITION BY s ORDER BY sum(x), a) FROM t GROUP BY s, a",
    "SELECT t.a, u.x FROM t JOIN u USING (s, a)",
    "SELECT t.a, u.x FROM t LEFT JOIN u ON t.s = u.s AND t.x < u.x",
    "SELECT t.a, u.x FROM t FULL JOIN u USING (s)",
    "SELECT t.a, u.x FROM t, u WHERE t.s = u.s",
    "SELECT t.a, u.x FROM t NATURAL JOIN u",
    "SELECT t.a, u.x FROM t JOIN w ON w.a = t.s JOIN u ON u.s = w.a",
    "SELECT t.a FROM t SEMI JOIN u ON t.s = u.s AND t.a = u.a",
    "SELECT t.a FROM t ANTI JOIN u USING (s)",
    "SELECT t.a, u.x FROM t ASOF JOIN u ON t.s = u.s AND t.x >= u.x",
    "SELECT w.a, sum(x) FROM w JOIN t ON w.a = t.s GROUP BY w.a",
    "SELECT w.a, x FROM w LEFT JOIN t ON w.a = t.s WHERE t.x > 0",
    "SELECT t.a, name FROM t LEFT JOIN w USING (a)",
    "SELECT t.a, n FROM t LEFT JOIN (SELECT a, count(*) AS n FROM w GROUP BY a) AS m USING (a)",
    "WITH p AS (SELECT s, sum(x) AS x FROM t GROUP BY s), q AS (SELECT s, a FROM u)"
    " SELECT p.x, q.a FROM p JOIN q USING (s)",
    "SELECT a FROM t WHERE x > (SELECT avg(x) FROM u WHERE u.s = t.s)",
    "SELECT a, (SELECT max(y) FROM (SELECT x AS y FROM u WHERE u.s = t.s)) FROM t",
    "SELECT a FROM t WHERE x = (SELECT x FROM u WHERE u.s = t.s ORDER BY x LIMIT 1)",
    "SELECT a FROM t WHERE s IN (SELECT s FROM u WHERE x > 2)",
    "SELECT a FROM t WHERE (s, a) IN (SELECT (s, a) FROM u)",
    "SELECT a FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.s = t.s AND u.a = t.a)",
    "SELECT a FROM t WHERE a > (SELECT avg(w.a) FROM w)",
    "SELECT a FROM t WHERE a IN (SELECT a FROM w ORDER BY a LIMIT 2)",
    "SELECT a FROM w WHERE EXISTS (SELECT 1 FROM t WHERE t.s = w.a)",
    "SELECT t.a, y FROM t, LATERAL (SELECT max(x) AS y FROM u WHERE u.s = t.s) AS l",
    "SELECT a FROM t UNION ALL SELECT x FROM u",
    "SELECT s, a FROM t UNION SELECT s, x FROM u",
    "SELECT a, s FROM t UNION BY NAME SELECT s, a FROM u",
    "SELECT s FROM t EXCEPT SELECT a FROM w",
    "SELECT s, a FROM t INTERSECT SELECT s, a FROM u",
    "SELECT a, count(*) FROM t WHERE s = 2 GROUP BY a",
    "WITH unused AS (SELECT sum(x) FROM t) SELECT a FROM t",
    "SELECT CASE WHEN s IS NOT NULL THEN s END AS shop, sum(x) FROM t GROUP BY shop",
    "SELECT * FROM t PIVOT (sum(x) FOR a IN (1, 2) GROUP BY s)",
    "SELECT * FROM (PIVOT (SELECT s, a, x FROM t) ON a IN (1, 2) USING sum(x))",
    "SELECT s, y FROM t UNPIVOT (y FOR name IN (a, x))",
    "SELECT a FROM t WHERE s IN (SELECT s FROM u) OR x > 2",
    "SELECT CASE WHEN s IN (SELECT s FROM u) THEN 1 ELSE 0 END AS b FROM t",
    "SELECT t.a, u.x FROM t JOIN u ON t.s IS NOT DISTINCT FROM u.s",
    "SELECT t.a FROM t JOIN u ON (t.s, t.a) = (u.s, u.a)",
    "SELECT t.a FROM t JOIN u USING (a) WHERE t.x > 1 AND (t.a = 1 OR u.x > 1) AND t.s = u.s",
    "SELECT a, count(*) FROM t WHERE s::VARCHAR = '2.0' GROUP BY a",
    "SELECT a FROM w WHERE w.a IN (SELECT s FROM t)",
]
NOT_BY_COLUMN = {
    "SELECT a, sum(x) FROM t GROUP BY a": "GROUP BY a does not contain s",
    "SELECT t.a, sum(x) FROM t GROUP BY 1": "GROUP BY 1 does not contain s",
    "SELECT a, sum(x) FROM t GROUP BY ALL": "GROUP BY ALL groups by no column that contains s",
    "SELECT s, sum(n) FROM (SELECT a AS s, x AS n FROM t) GROUP BY s": (
        "GROUP BY s does not contain"
    ),
    "WITH p AS (SELECT a, sum(x) AS n FROM t GROUP BY a) SELECT a, n FROM p": (
        "in p: GROUP BY a does"
    ),
    "SELECT s, sum(x) FROM t GROUP BY ROLLUP (s)": "ROLLUP, CUBE or GROUPING SETS gives a total",
    "SELECT s, a, sum(x) FROM t GROUP BY CUBE (s, a)": "gives a total of all rows",
    "SELECT count(*) FROM t": "count() puts rows of all values of s together",
    "SELECT sum(x) FROM t GROUP BY ()": "sum() puts rows of all values of s together",
    "SELECT count(*) FROM t WHERE s = 2": "count() puts rows of all values of s together",
    "SELECT 1 FROM t HAVING count(*) > 0": "count() puts rows of all values of s together",
    "SELECT DISTINCT a FROM t": "DISTINCT compares rows that do not contain s",
    "SELECT DISTINCT * EXCLUDE (s) FROM t": "DISTINCT compares rows that do not contain s",
    "SELECT DISTINCT ON (a) a, s, x FROM t ORDER BY ALL": "DISTINCT ON does not contain s",
    "SELECT a, rank() OVER (ORDER BY x) FROM t": "the window of rank() is not partitioned by s",
    "SELECT a, sum(x) OVER (PARTITION BY a) FROM t": "the window of sum() is not partitioned by s",
    "SELECT a FROM t QUALIFY row_number() OVER (ORDER BY s, a, x) = 1": (
        "the window of row_number() is not partitioned by s"
    ),
    "SELECT a FROM t ORDER BY ALL LIMIT 2": "LIMIT or OFFSET counts rows of all values of s",
    "SELECT a FROM t ORDER BY ALL OFFSET 2": "LIMIT or OFFSET counts rows of all values of s",
    "SELECT a FROM t UNION ALL SELECT a FROM u ORDER BY a LIMIT 2": "LIMIT or OFFSET counts rows",
    "SELECT a FROM t USING SAMPLE 2 ROWS": "USING SAMPLE chooses among rows of all values of s",
    "SELECT a FROM t TABLESAMPLE RESERVOIR (2)": (
        "TABLESAMPLE chooses among rows of all values of s"
    ),
    "SELECT t.a FROM t JOIN u USING (a)": "the join of t and u has no condition on s",
    "SELECT t.a FROM t CROSS JOIN u": "the join of t and u has no condition on s",
    "SELECT t.a FROM t JOIN u ON t.s <> u.s": "the join of t and u has no condition on s",
    "SELECT t.a FROM t JOIN u ON t.s = u.a": "the join of t and u has no condition on s",
    "SELECT a.x FROM t AS a JOIN t AS b USING (a)": "the join of t and t has no condition on s",
    "SELECT t.a FROM t JOIN u USING (a) WHERE EXISTS (SELECT 1 FROM u AS t WHERE t.s = u.s)": (
        "the join of t and u has no condition on s"
    ),
    "SELECT t.a FROM t POSITIONAL JOIN w": "a POSITIONAL join depends on the order of all rows",
    "SELECT w.a, x FROM w LEFT JOIN t ON w.a = t.s": "the LEFT JOIN keeps rows of w, which is not",
    "SELECT w.a, x FROM t RIGHT JOIN w ON w.a = t.s": "the RIGHT JOIN keeps rows of w",
    "SELECT w.a, x FROM t FULL JOIN w USING (a)": "the FULL JOIN keeps rows of w",
    "SELECT a FROM w ANTI JOIN t ON w.a = t.s": "the ANTI JOIN keeps rows of w",
    "SELECT a FROM w SEMI JOIN t USING (a)": "the SEMI JOIN keeps rows of w",
    "SELECT a FROM t WHERE x > (SELECT avg(u.x) FROM u)": "avg() puts rows of all values",
    "SELECT a FROM t WHERE x > (SELECT max(x) FROM u WHERE u.a = t.a)": "max() puts rows of all",
    "SELECT a FROM t WHERE a IN (SELECT a FROM u)": "the subquery in IN reads rows of all values",
    "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a)": (
        "the subquery in EXISTS reads"
    ),
    "SELECT a, (SELECT x FROM u ORDER BY ALL LIMIT 1) FROM t": "LIMIT or OFFSET counts rows",
    "SELECT w.a, (SELECT sum(x) FROM t WHERE t.s = w.a) FROM w": (
        "FROM reads nothing that can be cut"
    ),
    "SELECT sum(y) FROM t, LATERAL (SELECT max(x) AS y FROM u WHERE u.s = t.s) AS l": "sum() puts",
    "SELECT a FROM t UNION ALL SELECT a FROM w": "a part of the UNION reads no relation",
    "SELECT a FROM w EXCEPT SELECT s FROM t": "a part of the EXCEPT reads no relation",
    "SELECT a FROM t UNION SELECT x FROM u": "UNION compares rows that do not contain s",
    "SELECT s FROM t UNION SELECT x FROM u": "UNION compares rows that do not contain s",
    "SELECT a FROM t EXCEPT SELECT a FROM u": "EXCEPT compares rows that do not contain s",
    "SELECT a FROM v": "v has no column s to cut it by",
    "SELECT a FROM t WHERE a IN (SELECT a FROM v)": "v has no column s to cut it by",
    "SELECT a FROM w": "the query reads no relation that can be cut by s",
    "SELECT * FROM t PIVOT (sum(x) FOR a IN (1, 2) GROUP BY x)": "PIVOT groups by x, without s",
    "SELECT * FROM (PIVOT (SELECT a, x FROM t) ON a IN (1, 2) USING sum(x))": "PIVOT groups by no",
    "WITH p AS (PIVOT t ON s IN (1, 2) USING sum(x) GROUP BY a) FROM p": "PIVOT groups by a",
    "SELECT a FROM t WHERE s NOT IN (SELECT s FROM u)": "NOT IN, or IN as a value, depends on",
    "SELECT a FROM t WHERE NOT (x > 1 AND s IN (SELECT s FROM u))": "NOT IN, or IN as a value",
    "SELECT s IN (SELECT s FROM u) AS b FROM t": "NOT IN, or IN as a value",
    "SELECT a FROM t WHERE s > ANY (SELECT s FROM u)": "the subquery in IN reads rows of all",
    "SELECT t.a FROM t JOIN u ON t.s = u.s OR t.a = u.a": "the join of t and u has no condition",
    "SELECT t.a FROM t JOIN u ON NOT (t.s = u.s)": "the join of t and u has no condition on s",
    "SELECT t.a FROM t JOIN u ON (t.s = u.s) IS NULL": "the join of t and u has no condition on s",
    "SELECT t.a FROM t JOIN u ON t.s >= u.s": "the join of t and u has no condition on s",
    "SELECT t.a FROM t JOIN u USING (a) LEFT JOIN w ON t.s = u.s": "the join of t and u has no",
    "SELECT t.a, count(*) FROM t LEFT JOIN w ON t.s = 2 GROUP BY t.a": "GROUP BY t.a does not",
    "SELECT a, rank() OVER (ORDER BY x) FROM t QUALIFY s = 2": "the window of rank() is not",
    "SELECT a, count(*) FROM t WHERE s::BOOLEAN = true GROUP BY a": "GROUP BY a does not contain",
    "SELECT a, count(*) FROM t WHERE (s, a) IN (SELECT (s, a) FROM u) GROUP BY a": "GROUP BY a",
    "SELECT a, (SELECT sum(x) FROM u WHERE u.s = t.s OR u.a = 1) FROM t": "sum() puts rows of all",
    "SELECT a FROM w WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.s = w.a)": "FROM reads nothing",
    "SELECT a FROM w WHERE a > 1 OR EXISTS (SELECT 1 FROM t WHERE t.s = w.a)": "FROM reads nothing",
    "SELECT a FROM w WHERE EXISTS (SELECT count(*) FROM t WHERE t.s = w.a)": "FROM reads nothing",
    "SELECT w.a FROM w LEFT JOIN t ON w.a = t.s WHERE t.x IS NULL": "the LEFT JOIN keeps rows of w",
}


def fill(connection: duckdb.DuckDBPyConnection, seed: int) -> None:
    """New rows; `_part` numbers the part of a row where a relation is cut anywhere."""
    values = random.Random(seed)
    for name in FIELDS:
        found = ", ".join(
            f"({values.choice(VALUES)}::DOUBLE, {values.choice([1, 2, 3, 'NULL'])},"
            f" {values.randrange(5)}, {values.randrange(PARTS)})"
            for _ in range(10)
        )
        connection.execute(
            f"CREATE OR REPLACE TABLE all_{name} AS FROM (VALUES {found}) v(s, a, x, _part)"
        )


@pytest.fixture(scope="module")
def rows() -> Iterator[duckdb.DuckDBPyConnection]:
    """The relations t, u, v and w, of which the first three can be cut."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.execute("CREATE TABLE w AS FROM VALUES (1, 'x'), (1, 'y'), (3, 'z') v(a, name)")
        fill(connection, _ROWS)
        yield connection


def tree(query: str) -> dict[str, Any]:
    """A query as DuckDB's parser sees it."""
    found = duckdb.connect().execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed: dict[str, Any] = json.loads(found[0][0])
    return parsed


def result(
    connection: duckdb.DuckDBPyConnection, query: str, cuts: Mapping[str, str]
) -> Counter[str]:
    """The rows of a query, some of whose relations hold only what a condition selects."""
    for name, fields in FIELDS.items():
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT {', '.join(fields)}"
            f" FROM all_{name} WHERE {cuts.get(name, 'true')}"
        )
    return Counter(map(told, connection.execute(query).fetchall()))


def told(row: tuple[Any, ...]) -> str:
    """A row as text; of equal values any may show, so -0.0 is told as 0.0."""
    return repr(tuple(value + 0.0 if isinstance(value, float) else value for value in row))


def by_rows(connection: duckdb.DuckDBPyConnection, query: str, relation: str) -> Counter[str]:
    """What the parts of one relation give, put together."""
    parts = [result(connection, query, {relation: f"_part = {n}"}) for n in range(PARTS)]
    return sum(parts, Counter())


def by_column(connection: duckdb.DuckDBPyConnection, query: str) -> Counter[str]:
    """What the parts give that are cut by a hash of s, put together."""
    cuts = [Cut(by_columns=("s",), tables=frozenset("t"), share=(n, PARTS)) for n in range(PARTS)]
    conditions = [share("t", "FROM all", cut).rpartition(" WHERE ")[2] for cut in cuts]
    parts = [result(connection, query, dict.fromkeys(FIELDS, each)) for each in conditions]
    return sum(parts, Counter())


@pytest.mark.parametrize("query", BY_ROWS)
def test_a_query_that_takes_rows_one_by_one_can_be_cut_anywhere(
    rows: duckdb.DuckDBPyConnection, query: str
) -> None:
    """The first relation that can be cut is named, and its parts give the rows of the whole."""
    relation = row_by_row(tree(query), ["t", "u"])
    assert relation == BY_ROWS[query]
    if relation:
        assert by_rows(rows, query, relation) == result(rows, query, {})


@pytest.mark.parametrize("why", NOT_BY_ROWS)
def test_what_is_more_than_a_row_is_not_cut(why: str) -> None:
    """A query that could give other rows for the parts than for the whole is refused."""
    assert row_by_row(tree(NOT_BY_ROWS[why]), ["t"]) is None


def test_the_users_functions_take_rows_one_by_one() -> None:
    """A function of the user is known when it is named, in any letter case."""
    assert row_by_row(tree("SELECT digest_of(a) FROM t"), ["t"], ["Digest_Of"]) == "t"
    assert row_by_row(tree("SELECT digest_of(DISTINCT a) FROM t"), ["t"], ["digest_of"]) is None


@pytest.mark.parametrize("query", BY_COLUMN)
def test_a_promise_that_holds_is_accepted(rows: duckdb.DuckDBPyConnection, query: str) -> None:
    """The parts of equal hashes give the rows of the whole, and no problem is found."""
    assert split_problem(tree(query), ["S"], FIELDS) is None
    seeds = iter(range(20))
    while not (whole := result(rows, query, {})):
        fill(rows, next(seeds))
    assert by_column(rows, query) == whole


@pytest.mark.parametrize("query", NOT_BY_COLUMN)
def test_a_promise_that_does_not_hold_is_refused(
    rows: duckdb.DuckDBPyConnection, query: str
) -> None:
    """The sentence names the part of the query, and the parts do give other rows."""
    problem = split_problem(tree(query), ["s"], FIELDS)
    assert problem is not None
    assert NOT_BY_COLUMN[query] in problem
    if "has no column" not in problem:
        seeds = iter(range(20))
        while by_column(rows, query) == result(rows, query, {}):
            fill(rows, next(seeds))
        fill(rows, _ROWS)


def test_each_column_of_a_promise_counts() -> None:
    """Rows are cut by all columns together, so each group must have them all."""
    query = tree("SELECT s, sum(x) FROM t GROUP BY s")
    assert split_problem(query, ["s", "a"], FIELDS) == "GROUP BY s does not contain a"
    assert split_problem(query, [], FIELDS) is None


@pytest.mark.parametrize(
    "query",
    [
        "SELECT s // 2 AS region, sum(x) FROM t GROUP BY region",
        "SELECT t.a FROM t JOIN u ON t.s = u.s + 1",
        "SELECT u.s, count(*) FROM t LEFT JOIN u USING (s) GROUP BY u.s",
        "WITH RECURSIVE r AS (SELECT a FROM t UNION SELECT a + 1 FROM r WHERE a < 3) FROM r",
        "SELECT a, sum(y) FROM t UNPIVOT (y FOR name IN (s, x)) GROUP BY a",
        "PIVOT t ON a USING sum(x)",
    ],
)
def test_what_cannot_be_known_is_the_users_promise(query: str) -> None:
    """Where the query does not show whether rows meet, nothing is refused."""
    assert split_problem(tree(query), ["s"], FIELDS) is None


@pytest.mark.parametrize(
    ("mart", "relation", "problem"),
    [
        ("customer_mart", "sales", None),
        ("sales_mart", "sales", None),
        ("customer_monthly_purchase", None, "in totals: GROUP BY _month, customer_id does not"),
        # Its variable can ask for one winner of all stores.
        ("sales_team_incentive", None, "in reach: the window of sum() is not partitioned by"),
    ],
)
def test_the_marts_of_the_template(mart: str, relation: str | None, problem: str | None) -> None:
    """Those of single sales can be cut anywhere; the totals of customers cross stores."""
    query = tree((PROJECT / "marts" / f"{mart}.sql").read_text())
    fields = {"sales": ("store_id", "customer_id", "sales_person_id", "total_cost", "_month")}
    assert row_by_row(query, fields) == relation
    found = split_problem(query, ["store_id"], fields)
    assert (found or "").startswith(problem or "")
    assert bool(found) is bool(problem)


def test_the_lists_of_functions_are_duckdbs() -> None:
    """Each aggregate is known, and each row function depends on its arguments alone.

    `variable_on` is ours; it takes a variable's value of a day, which is the same in a whole query.
    """
    found = (
        duckdb.connect()
        .execute(
            "SELECT function_name, function_type, stability, coalesce(macro_definition, '')"
            " FROM duckdb_functions() WHERE function_type IN ('aggregate', 'scalar', 'macro')"
        )
        .fetchall()
    )
    aggregates = {name for name, kind, *_ in found if kind == "aggregate"}
    called = re.compile(rf"\b({'|'.join(aggregates)})\(")
    aggregates |= {name for name, kind, _, body in found if kind == "macro" and called.search(body)}
    unstable = {name for name, kind, how, _ in found if kind == "scalar" and how != "CONSISTENT"}
    assert aggregates - AGGREGATES == set()
    assert ROW_FUNCTIONS - {name for name, *_ in found} == {"unnest", "variable_on"}
    not_by_row = ROW_FUNCTIONS & (AGGREGATES | unstable)
    assert sorted(not_by_row) == ["getvariable"]


def test_random_queries_cut_by_rows_give_the_same(rows: duckdb.DuckDBPyConnection) -> None:
    """Whatever a query is put together from, the parts of the named relation give the whole."""
    choices = random.Random(f"{SEED} rows")
    cut = 0
    for number in range(400):
        query = random_query(choices, 2)
        if (relation := row_by_row(tree(query), ["t", "u"])) is not None:
            cut += 1
            fill(rows, number)
            assert by_rows(rows, query, relation) == result(rows, query, {}), query
    fill(rows, _ROWS)
    assert cut > 15


def test_random_queries_cut_by_a_column_give_the_same(rows: duckdb.DuckDBPyConnection) -> None:
    """What is accepted gives the same when it is cut: these queries compute nothing from the
    column, so that nothing rests on the user's promise alone.
    """
    choices = random.Random(f"{SEED} column")
    accepted = 0
    for number in range(400):
        query = random_query(choices, 2)
        if split_problem(tree(query), ["s"], FIELDS) is None:
            accepted += 1
            fill(rows, number)
            assert by_column(rows, query) == result(rows, query, {}), query
    fill(rows, _ROWS)
    assert accepted > 50


def random_query(choices: random.Random, depth: int) -> str:
    """A SELECT of the columns s, a and x, from relations or other such SELECTs."""
    kind = choices.random()
    if depth and kind < 0.12:
        word = choices.choice(["UNION ALL", "UNION", "EXCEPT", "INTERSECT", "UNION ALL BY NAME"])
        one, other = random_query(choices, depth - 1), random_query(choices, depth - 1)
        return f"(({one}) {word} ({other}))"
    if depth and kind < 0.25:
        inner, main = random_query(choices, depth - 1), random_query(choices, depth - 1)
        name = choices.choice(["t", "u", "c"])
        return f"(WITH {name} AS ({inner}) {main})"
    source, sides = random_from(choices, depth)
    one, other = choices.choice(sides), choices.choice(sides)
    where = random_condition(choices, one, depth)
    columns = f"{one}.s AS s, {other}.a AS a, {one}.x AS x"
    if choices.random() < 0.1:
        columns = f"{other}.a AS s, {one}.s AS a, {one}.x AS x"
    return random_step(choices, columns, one, f"FROM {source}{where}")


def random_step(choices: random.Random, columns: str, one: str, rest: str) -> str:
    """What a SELECT does with its rows: mostly nothing more."""
    s, a, x = (column.split(" AS ")[0] for column in columns.split(", "))
    kind = choices.random()
    if kind < 0.15:
        by = choices.choice([f"{s}, {a}", "ALL", "1, 2"])
        return f"SELECT {s} AS s, {a} AS a, sum({x})::INT AS x {rest} GROUP BY {by}"
    if kind < 0.2:
        return f"SELECT NULL::INT AS s, {a} AS a, max({x}) AS x {rest} GROUP BY {a}"
    if kind < 0.23:
        return f"SELECT max({s}) AS s, count(*)::INT AS a, min({x}) AS x {rest}"
    if kind < 0.33:
        over = choices.choice(["", f"PARTITION BY {one}.s", f"PARTITION BY {one}.a, {one}.s"])
        return f"SELECT {s} AS s, {a} AS a, sum({x}) OVER ({over})::INT AS x {rest}"
    if kind < 0.38:
        return (
            f"SELECT {columns} {rest} QUALIFY rank() OVER (PARTITION BY {one}.s ORDER BY {x}) = 1"
        )
    if kind < 0.44:
        return f"SELECT DISTINCT {columns} {rest}"
    if kind < 0.47:
        return f"SELECT {columns} {rest} ORDER BY s, a, x LIMIT 3"
    return f"SELECT {columns} {rest}"


def random_from(choices: random.Random, depth: int) -> tuple[str, list[str]]:
    """What a SELECT reads, and the names of the sides that it can use."""
    source, sides = random_side(choices, depth, "p"), ["p"]
    if choices.random() < 0.5:
        form = choices.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "SEMI JOIN", "ANTI JOIN"])
        how = choices.choice(
            [
                *["ON p.s = q.s", "USING (s)", "ON p.a = q.a", "ON q.s = p.s AND q.x > 1"],
                *["ON p.s = q.s OR p.a = q.a", "ON NOT (p.s = q.s)", "ON p.s >= q.s"],
                *["ON p.s IS NOT DISTINCT FROM q.s", "ON (p.s, p.a) = (q.s, q.a)", "ON p.s = 2"],
            ]
        )
        source = f"{source} {form} {random_side(choices, depth, 'q')} {how}"
        sides = {"JOIN": ["p", "q"], "RIGHT JOIN": ["q"]}.get(form, ["p"])
    return source, sides


def random_side(choices: random.Random, depth: int, name: str) -> str:
    """A relation, one that is not cut, or another SELECT."""
    if depth and choices.random() < 0.35:
        return f"({random_query(choices, depth - 1)}) AS {name}"
    if depth and choices.random() < 0.1:
        source, s, a = f"({random_query(choices, depth - 1)})", "s", choices.choice(["a", "x"])
        if choices.random() < 0.4:
            s = "NULL::INT AS s"
        groups = f"{'' if 'NULL' in s else 's, '}{a}"
        pivot = f"PIVOT {source} ON a IN (1, 2) USING sum(x)::INT GROUP BY {groups}"
        return f'(SELECT {s}, {a} AS a, "1" AS x FROM ({pivot})) AS {name}'
    whole = "(SELECT a AS s, a + 1 AS a, length(name) AS x FROM w)"
    return f"{choices.choice(['t', 't', 'u', whole])} AS {name}"


def random_condition(choices: random.Random, one: str, depth: int) -> str:
    """No condition, one of the row, or one with a subquery."""
    inner = random_side(choices, depth - 1 if depth else 0, "i")
    return choices.choice(
        [
            "",
            "",
            "",
            f" WHERE {one}.x > 1",
            f" WHERE {one}.a IN (SELECT a FROM w)",
            f" WHERE {one}.s IN (SELECT i.s FROM {inner})",
            f" WHERE {one}.s NOT IN (SELECT i.s FROM {inner})",
            f" WHERE {one}.s IN (SELECT i.s FROM {inner}) OR {one}.x > 2",
            f" WHERE NOT EXISTS (SELECT 1 FROM {inner} WHERE i.s = {one}.s)",
            f" WHERE EXISTS (SELECT 1 FROM {inner} WHERE i.s = {one}.s OR i.a = {one}.a)",
            f" WHERE {one}.x <= (SELECT count(*) FROM {inner} WHERE i.s = {one}.s)",
            f" WHERE EXISTS (SELECT 1 FROM {inner} WHERE i.s = {one}.s AND i.a <> {one}.a)",
            f" WHERE {one}.x <= (SELECT avg(i.x) FROM {inner} WHERE i.s = {one}.s)",
            f" WHERE {one}.x <= (SELECT avg(i.x) FROM {inner})",
        ]
    )
