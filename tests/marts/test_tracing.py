"""A traced query gives the same rows, and of each row which rows it was made of."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from retailmart.marts.tracing import ADDENDS, WHY, Traced, Untraceable, traced

# Keys of the rows of `a` are 1 to 5, of `b` 11 to 13.
A = "(VALUES (1, 'x', 10), (1, 'x', 20), (1, 'y', 30), (2, 'x', 40), (2, NULL, NULL)) t(g, n, v)"
B = "(VALUES ('x', 7), ('y', 8), ('z', 9)) t(n, w)"
TABLES = {"a": ("g", "n", "v"), "b": ("n", "w")}

# Each with the keys of its rows, by the first column.
MADE: dict[str, dict[Any, set[int]]] = {
    "SELECT g, sum(v) AS s FROM a GROUP BY g": {1: {1, 2, 3}, 2: {4, 5}},
    "SELECT g, sum(v) AS s FROM a WHERE v > 10 GROUP BY ALL": {1: {2, 3}, 2: {4}},
    "SELECT DISTINCT g FROM a": {1: {1, 2, 3}, 2: {4, 5}},
    "SELECT DISTINCT ON (g) g, v FROM a ORDER BY g, v DESC NULLS LAST": {1: {3}, 2: {4}},
    "SELECT g, v FROM a QUALIFY row_number() OVER (PARTITION BY g ORDER BY v) = 1": {
        1: {1},
        2: {4},
    },
    "SELECT v, w FROM a LEFT JOIN b USING (n) WHERE v IN (10, 30)": {10: {1, 11}, 30: {3, 12}},
    "SELECT n, count(v) AS c FROM b LEFT JOIN a USING (n) GROUP BY n": {
        "x": {11, 1, 2, 4},
        "y": {12, 3},
        "z": {13},
    },
    "SELECT n, w FROM b SEMI JOIN a USING (n)": {"x": {11}, "y": {12}},
    "SELECT n, w FROM b WHERE EXISTS (SELECT 1 FROM a WHERE a.n = b.n)": {"x": {11}, "y": {12}},
    "SELECT what, sum(v) AS s FROM (SELECT 'a' AS what, v FROM a UNION ALL SELECT 'b', w FROM b)"
    " GROUP BY what": {"a": {1, 2, 3, 4, 5}, "b": {11, 12, 13}},
    "SELECT n FROM a WHERE n IS NOT NULL UNION SELECT n FROM b": {
        "x": {1, 2, 4, 11},
        "y": {3, 12},
        "z": {13},
    },
    "WITH t(g, s) AS (SELECT g, sum(v) FROM a GROUP BY g) SELECT * FROM t WHERE s > 50": {
        1: {1, 2, 3}
    },
    "WITH t AS (SELECT max(v) AS top FROM a) SELECT v FROM a, t WHERE v = top": {40: {4}},
    "SELECT v, l.w FROM a CROSS JOIN LATERAL (SELECT w FROM b WHERE b.n = a.n) l WHERE v < 30": {
        10: {1, 11},
        20: {2, 11},
    },
    "SELECT x.v FROM a AS x JOIN a AS y ON y.v = x.v + 10 WHERE x.v < 20": {10: {1, 2}},
    "SELECT * FROM (SELECT * FROM a) WHERE g = 2 AND v IS NOT NULL": {2: {4}},
}


def rows(query: str, *, traced_too: bool = True) -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        why = ', [start + row_number() OVER ()]::UBIGINT[] AS "why it is"' if traced_too else ""
        for name, values, start in (("a", A, 0), ("b", B, 10)):
            text = f"SELECT *{why.replace('start', str(start))} FROM {values}"
            connection.execute(f"CREATE TEMP TABLE {name} AS {text}")
        found = connection.sql(query)
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize("query", MADE)
def test_each_row_says_what_it_is_made_of(query: str) -> None:
    """The keys are right, and without them the rows are those of the query itself."""
    found = rows(traced(query, TABLES).query)
    why = [set(row.pop(WHY)) for row in found]
    firsts = [next(iter(row.values())) for row in found]
    assert dict(zip(firsts, why, strict=True)) == MADE[query]
    own = rows(query, traced_too=False)
    assert sorted(map(repr, found)) == sorted(map(repr, own))


@pytest.mark.parametrize(
    ("query", "adds", "amounts"),
    [
        ("SELECT g, sum(v) AS s FROM a GROUP BY g", "sum", {10, 20, 30}),
        (
            "SELECT g, coalesce(CAST(sum(v) AS BIGINT), 0) AS s FROM a GROUP BY g",
            "sum",
            {10, 20, 30},
        ),
        ("SELECT g, count(*) AS s FROM a GROUP BY g", "count", {1}),
        ("SELECT g, count(DISTINCT n) AS s FROM a GROUP BY g", "count distinct", {"x", "y"}),
        ("SELECT g, sum(v) FILTER (WHERE v > 10) AS s FROM a GROUP BY g", "sum", {20, 30}),
        ("SELECT g, max(v) AS s FROM a GROUP BY g", "max", {10, 20, 30}),
        (
            "WITH t AS (SELECT g, sum(v) AS s FROM a GROUP BY g), u AS (SELECT * FROM t)"
            " SELECT u.g, u.s FROM u LEFT JOIN b ON b.w = u.s",
            "sum",
            {10, 20, 30},
        ),
        ("SELECT g, sum(v) + 1 AS s FROM a GROUP BY g", None, set()),
        ("SELECT g, sum(v) OVER (PARTITION BY g) AS s FROM a", None, set()),
    ],
)
def test_the_addends_of_a_sum_are_there(query: str, adds: str | None, amounts: set[Any]) -> None:
    """Through casts, defaults, WITH and `*`; what is computed from a sum has none."""
    made = traced(query, TABLES, "s")
    assert made.adds == adds
    first = next(row for row in rows(made.query) if row["g"] == 1)
    assert {one["a"] for one in first.get(ADDENDS) or ()} == amounts


def test_it_is_said_with_what_a_column_is_compared() -> None:
    """A window, and one total over all rows; a plain column depends on nothing else."""
    query = (
        "WITH t AS (SELECT max(v) AS top FROM a)"
        " SELECT g, v, rank() OVER (PARTITION BY g ORDER BY v) AS place, v / top AS part FROM a, t"
    )
    said = {one: compared(query, one).compares for one in ("v", "place", "part")}
    assert said["v"] == ()
    assert "PARTITION BY g" in said["place"][0]
    assert said["part"] == ("max(v)",)


def compared(query: str, column: str) -> Traced:
    return traced(query, TABLES, column)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT n FROM a EXCEPT SELECT n FROM b",
        "SELECT n FROM a INTERSECT SELECT n FROM b",
        "SELECT * FROM a NATURAL JOIN b",
        "SELECT max(COLUMNS(*)) FROM a",
        "SELECT * FROM a TABLESAMPLE 50%",
        "SELECT DISTINCT g FROM a ORDER BY g LIMIT 1",
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t WHERE i < 3) FROM t",
        "PIVOT a ON n USING sum(v)",
    ],
)
def test_what_cannot_be_traced_is_said(query: str) -> None:
    """Never a wrong list: an error that says why."""
    with pytest.raises(Untraceable, match=r"\w"):
        traced(query, TABLES)
