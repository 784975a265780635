"""What one query gives for all months is what the months' own queries give together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import duckdb
import pytest

from retailmart.engines.spark.files import OF_MONTH
from retailmart.engines.spark.months import all_at_once

MONTHS = ("2024-01", "2024-02", "2024-03", "2024-04")
# Of these relations, t, u and v have months, and w has not; months may lack rows of any.
MONTHLY = ("t", "u", "v")

AT_ONCE = [
    "SELECT a, sum(x) AS s FROM t GROUP BY a",
    "SELECT a % 2, b, count(*), max(x) FROM t GROUP BY 1, b HAVING sum(x) > 3",
    "SELECT b, count(*) AS n FROM t GROUP BY ALL",
    "FROM t",
    "SELECT t.* FROM t WHERE x > 2 ORDER BY a",
    "SELECT * EXCLUDE (x) REPLACE (a + 1 AS a) FROM t",
    "SELECT DISTINCT a FROM t",
    "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b",
    "SELECT a, rank() OVER (PARTITION BY b ORDER BY x, a) AS r FROM t",
    "SELECT a, sum(x) OVER () AS all_of_month FROM t",
    "SELECT a, sum(sum(x)) OVER (ORDER BY a) AS running FROM t GROUP BY a",
    "SELECT a, x FROM t QUALIFY row_number() OVER (ORDER BY x DESC, a, b) <= 2",
    "SELECT t.a, w.name FROM t LEFT JOIN w ON t.a = w.a",
    "SELECT a, name FROM w JOIN t USING (a)",
    "SELECT a, name FROM w RIGHT JOIN t USING (a)",
    "SELECT * FROM t JOIN w USING (a)",
    "SELECT t.*, w.name FROM t, w WHERE t.a = w.a",
    "SELECT t.a, u.x FROM t JOIN u ON t.a = u.a AND t.b = u.b",
    "SELECT t.a, u.x FROM t LEFT JOIN u ON t.a = u.a",
    "SELECT t.a, u.x FROM t, u WHERE t.a = u.a",
    "SELECT t.a, u.x FROM t CROSS JOIN u",
    "SELECT t.a, u.x, v.b FROM t JOIN u ON t.a = u.a LEFT JOIN v ON v.a = u.a",
    "SELECT a, t.x AS one, u.x AS other FROM t JOIN u USING (a)",
    "SELECT a, t.x AS one, u.x AS other FROM t FULL JOIN u USING (a)",
    "SELECT a, t.x AS one, u.x AS other FROM t RIGHT JOIN u USING (a, b)",
    "SELECT * FROM t SEMI JOIN u USING (a)",
    "SELECT * FROM t ANTI JOIN u ON t.a = u.a",
    "SELECT a FROM t NATURAL JOIN (SELECT a, b FROM u) AS n",
    "SELECT a FROM t UNION ALL SELECT b FROM u",
    "SELECT a FROM t UNION SELECT a FROM u",
    "SELECT a FROM t EXCEPT SELECT a FROM u",
    "SELECT a FROM t INTERSECT ALL SELECT a FROM u",
    "SELECT a, b FROM t UNION ALL BY NAME SELECT b, a FROM u",
    "SELECT a FROM t WHERE a IN (SELECT a FROM w)",
    "SELECT a, (SELECT max(name) FROM w WHERE w.a = t.a) AS name FROM t",
    "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM w WHERE w.a = t.a)",
    "SELECT s.a, count(*) AS n FROM (SELECT a FROM t WHERE x > 1) AS s GROUP BY s.a",
    "SELECT * FROM (SELECT a, b FROM t)",
    "SELECT k, y FROM (SELECT a, b FROM t) AS s(k, y)",
    "SELECT k FROM t AS renamed(k)",
    "WITH s AS (SELECT a, sum(x) AS x FROM t GROUP BY a)"
    " SELECT s.a, s.x, u.b FROM s JOIN u USING (a)",
    "WITH s(k) AS (SELECT a FROM t) SELECT k, count(*) AS n FROM s GROUP BY k",
    "WITH t AS (SELECT a FROM t WHERE x > 1) SELECT a FROM t",
    "WITH names AS (SELECT DISTINCT a FROM w) SELECT t.a FROM t JOIN names USING (a)",
    "WITH one AS (SELECT a FROM t), two AS (SELECT a FROM u) FROM one UNION ALL FROM two",
    "SELECT a, list_transform([a, b], lambda y: y + 1) AS l, unnest([1, 2]) AS n FROM t",
    'SELECT "T".a FROM T',
]
APART = {
    "a month without rows gives a row": "SELECT count(*) FROM t",
    "the same, in a group of nothing": "SELECT count(*) FROM t GROUP BY ()",
    "the same, grouped by all": "SELECT count(*) FROM t GROUP BY ALL",
    "the same, by HAVING": "SELECT 1 AS one FROM t HAVING count(*) > 0",
    "a sum of all is among the groups": "SELECT a, count(*) FROM t GROUP BY ROLLUP (a)",
    "so many rows of each month": "SELECT a FROM t ORDER BY a LIMIT 3",
    "a sample of each month": "SELECT a FROM t USING SAMPLE 3 ROWS",
    "rows of no month are kept": "SELECT w.a, t.x FROM w LEFT JOIN t ON w.a = t.a",
    "rows of no month are kept by a full join": "SELECT w.a, t.x FROM t FULL JOIN w USING (a)",
    "rows of no month, and of months": "SELECT a FROM t UNION ALL SELECT a FROM w",
    "a value of each month": "SELECT a FROM t WHERE x > (SELECT avg(x) FROM u)",
    "a value of each month, behind WITH": (
        "WITH m AS (SELECT a, max(x) AS x FROM u GROUP BY a)"
        " SELECT a FROM t WHERE x IN (SELECT x FROM m)"
    ),
    "a value of each month, in a query without": "SELECT a FROM w WHERE a IN (SELECT a FROM t)",
    "a value of each month, in a join": (
        "SELECT t.a FROM t JOIN w ON t.a = w.a AND t.x IN (SELECT x FROM u)"
    ),
    "a whole row": "SELECT t FROM t",
    "a column by its place": "SELECT #1 FROM t",
    "columns by a pattern": "SELECT COLUMNS('a|b') FROM t",
    "no month at all": "SELECT a FROM w",
    "no SELECT": "PIVOT t ON b USING sum(x)",
    "a query about itself": (
        "WITH RECURSIVE r AS (SELECT a FROM t UNION SELECT a + 1 FROM r WHERE a < 3) FROM r"
    ),
    "the month's own name": f"SELECT a AS {OF_MONTH} FROM t",
}


@pytest.fixture(scope="module")
def rows() -> Iterator[duckdb.DuckDBPyConnection]:
    """The relations, as `all_NAME`, with the month behind all columns."""
    dice = random.Random(5)
    with duckdb.connect() as connection:
        for number, name in enumerate(MONTHLY):
            connection.execute(f"CREATE TABLE all_{name}(a INT, b INT, x INT, {OF_MONTH} VARCHAR)")
            months = [month for n, month in enumerate(MONTHS) if n != number]
            found = [
                (dice.choice([1, 2, 3, 4, None]), dice.randrange(3), dice.randrange(6), month)
                for month in months
                for _ in range(7)
            ]
            connection.executemany(f"INSERT INTO all_{name} VALUES (?, ?, ?, ?)", found)
        connection.execute("CREATE TABLE w AS FROM VALUES (1, 'x'), (1, 'y'), (3, 'z') v(a, name)")
        yield connection


def told(connection: duckdb.DuckDBPyConnection, query: str) -> Counter[str]:
    return Counter(map(repr, connection.execute(query).fetchall()))


def month_by_month(connection: duckdb.DuckDBPyConnection, query: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for month in MONTHS:
        for name in MONTHLY:
            connection.execute(
                f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * EXCLUDE ({OF_MONTH})"
                f" FROM all_{name} WHERE {OF_MONTH} = '{month}'"
            )
        found += Counter(repr((*row, month)) for row in connection.execute(query).fetchall())
    return found


def at_once(connection: duckdb.DuckDBPyConnection, query: str) -> Counter[str]:
    for name in MONTHLY:
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM all_{name}")
    return told(connection, query)


@pytest.mark.parametrize("query", AT_ONCE)
def test_all_months_at_once_are_the_months_together(
    rows: duckdb.DuckDBPyConnection, query: str
) -> None:
    """Every row comes as often as the month's own query gives it, with its month."""
    expected = month_by_month(rows, query)
    lifted = all_at_once(query, MONTHLY)
    assert lifted is not None
    assert at_once(rows, lifted) == expected
    assert expected


@pytest.mark.parametrize("why", APART)
def test_what_months_give_only_apart_is_left_to_each_month(why: str) -> None:
    """A query that could give other rows for all months at once is not told so."""
    assert all_at_once(APART[why], MONTHLY) is None


def test_queries_of_dice_are_the_same(rows: duckdb.DuckDBPyConnection) -> None:
    """Whatever forms a query is put together from, all months at once give what they give alone."""
    dice = random.Random(11)
    lifted = 0
    for _ in range(400):
        query = of_dice(dice, 2)
        expected = month_by_month(rows, query)
        if (together := all_at_once(query, MONTHLY)) is not None:
            lifted += 1
            assert at_once(rows, together) == expected, query
    assert lifted > 100


def of_dice(dice: random.Random, depth: int) -> str:
    """A SELECT of the columns a, b and x, from relations or other such SELECTs."""
    if depth and dice.random() < 0.2:
        word = dice.choice(["UNION ALL", "UNION", "EXCEPT", "INTERSECT ALL", "UNION ALL BY NAME"])
        one, other = of_dice(dice, depth - 1), of_dice(dice, depth - 1)
        return f"({one}) {word} ({other})"
    source, sides = side(dice, depth, "p"), ["p"]
    if dice.random() < 0.5:
        form = dice.choice(
            ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"]
        )
        how = dice.choice(["ON p.a = q.a", "USING (a)", "ON p.a = q.a AND q.x > 1"])
        source = f"{source} {form} {side(dice, depth, 'q')} {how}"
        if form not in ("SEMI JOIN", "ANTI JOIN"):
            sides.append("q")
    one, other = dice.choice(sides), dice.choice(sides)
    where = dice.choice(["", "", f" WHERE {one}.x > 1", f" WHERE {one}.a IN (SELECT a FROM w)"])
    where = f" WHERE {one}.a IN (SELECT a FROM u)" if dice.random() < 0.05 else where
    if dice.random() < 0.3:
        return (
            f"SELECT {one}.a AS a, {other}.b AS b, sum({one}.x)::INT AS x FROM {source}{where}"
            f" GROUP BY {one}.a, {other}.b"
        )
    if dice.random() < 0.3:
        over = dice.choice(["", f"PARTITION BY {other}.b", f"PARTITION BY {one}.a"])
        return (
            f"SELECT {one}.a AS a, {other}.b AS b, sum({one}.x) OVER ({over})::INT AS x"
            f" FROM {source}{where}"
        )
    distinct = dice.choice(["", "DISTINCT "])
    return f"SELECT {distinct}{one}.a AS a, {other}.b AS b, {one}.x AS x FROM {source}{where}"


def side(dice: random.Random, depth: int, name: str) -> str:
    if depth and dice.random() < 0.4:
        return f"({of_dice(dice, depth - 1)}) AS {name}"
    whole = "(SELECT a, a + 1 AS b, length(name) AS x FROM w)"
    return f"{dice.choice([*MONTHLY, *MONTHLY, whole])} AS {name}"
