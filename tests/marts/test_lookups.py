"""Which rows of a table a query looks up, and where it may show any of them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

import retailmart.template
from retailmart.marts.splitting import Lookup, lookups

MARTS = Path(retailmart.template.__file__).parent / "project" / "marts"
# s and o are feeds whose rows have the day `d` and a person `p`; t is the table, w another one.
FIELDS = {
    "s": {"d": "DATE", "p": "INT", "boss": "INT", "x": "DOUBLE", "m": "STRING"},
    "o": {"d": "TIMESTAMP", "p": "INT"},
    "t": dict.fromkeys(("id", "name", "boss", "_valid_from", "_valid_to"), "STRING"),
    "w": dict.fromkeys(("k", "p", "name"), "INT"),
}
BY_P = Lookup("s", "p", "id")
OF_DAY = Lookup("s", "p", "id", "d")
_AT = "t.id = s.p AND s.d >= t._valid_from AND s.d < t._valid_to"

FOUND = {
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id = s.p": {BY_P},
    "SELECT s.x, T.name FROM S JOIN T ON S.P = T.ID AND t.name > 'a'": {BY_P},
    "SELECT s.x, t.name FROM t RIGHT JOIN s ON t.id = s.p": {BY_P},
    "SELECT s.x, t.name FROM s, t WHERE s.x > 1 AND t.id = s.p": {BY_P},
    "SELECT s.x FROM s SEMI JOIN t ON t.id = s.p": {BY_P},
    "SELECT s.x FROM s ANTI JOIN t ON t.id = s.p": {BY_P},
    "WITH g AS (SELECT m, p AS q, sum(x) AS x FROM s GROUP BY ALL), h AS (SELECT *, rank() OVER"
    " (ORDER BY x) AS r FROM g) SELECT h.*, name FROM h LEFT JOIN t ON t.id = h.q": {BY_P},
    "SELECT (SELECT count(*) FROM t WHERE t.id = s.p) FROM s": {BY_P},
    "SELECT x FROM s WHERE EXISTS (SELECT 1 FROM t WHERE id = s.p)": {BY_P},
    "SELECT a.name, b.name FROM s LEFT JOIN t a ON a.id = s.p LEFT JOIN t b ON b.id = s.boss": {
        BY_P,
        Lookup("s", "boss", "id"),
    },
    "SELECT u.p, name FROM (SELECT p FROM s UNION ALL SELECT p FROM o) u JOIN t ON t.id = u.p": {
        BY_P,
        Lookup("o", "p", "id"),
    },
    "SELECT s.x, w.name FROM s JOIN w USING (p) JOIN t ON t.id = s.p": {BY_P},
    f"SELECT s.x, t.name FROM s LEFT JOIN t ON {_AT}": {OF_DAY},
    f"SELECT s.x, t._valid_from FROM s LEFT JOIN t ON {_AT}": {OF_DAY},
    # What tells when a version ends changes for the days before it.
    f"SELECT s.x, t._valid_to FROM s LEFT JOIN t ON {_AT}": {BY_P},
    f"SELECT * FROM s LEFT JOIN t ON {_AT}": {BY_P},
    f"SELECT s.x, t FROM s LEFT JOIN t ON {_AT}": {BY_P},
    "SELECT t.name FROM s LEFT JOIN t ON t.id = s.p AND t._valid_to > DATE '2024-01-01'": {BY_P},
    "SELECT t.name FROM s LEFT JOIN t ON t.id = s.p AND s.d - 30 >= t._valid_from": {BY_P},
}
ANY_ROW = [
    "SELECT x FROM s",
    "SELECT name FROM t",
    "SELECT s.x, (SELECT count(*) FROM t) AS n FROM s",
    "SELECT s.x, t.name FROM s FULL JOIN t ON t.id = s.p",
    "SELECT s.x, t.name FROM t LEFT JOIN s ON t.id = s.p",
    "SELECT t.name FROM t ANTI JOIN s ON t.id = s.p",
    "SELECT s.x, t.name FROM s CROSS JOIN t",
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id = s.p OR t.name = 'x'",
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id = s.p + 1",
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id IS NOT DISTINCT FROM s.p",
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id > s.p",
    "SELECT s.x, b.name FROM s LEFT JOIN t a ON a.id = s.p LEFT JOIN t b ON b.id = a.boss",
    "SELECT s.x, t.name FROM s LEFT JOIN w ON w.p = s.p LEFT JOIN t ON t.id = w.k",
    "SELECT s.x, t.name FROM s LEFT JOIN t ON t.id = s.p, (SELECT max(id) FROM t)",
    "SELECT s.x, t.name FROM s LEFT JOIN (SELECT id, name, rank() OVER (ORDER BY name) AS r"
    " FROM t) t ON t.id = s.p",
    "WITH t AS (SELECT * FROM t) SELECT s.x, t.name FROM s LEFT JOIN t ON t.id = s.p",
    "SELECT q.x, t.name FROM (SELECT x, max(p) AS p FROM s GROUP BY x) q JOIN t ON t.id = q.p",
    "SELECT q.x, t.name FROM (SELECT x, p + 0 AS p FROM s) q JOIN t ON t.id = q.p",
    "SELECT s.x, t.name FROM s ASOF JOIN t ON t.id = s.p AND s.d >= t._valid_from",
    "SELECT s.x, a.name FROM s LEFT JOIN t AS a(k, n) ON a.k = s.p",
    "SELECT s.x FROM s UNION ALL SELECT id FROM t",
    "SELECT s.x FROM s WHERE s.p IN (SELECT id FROM t)",
    # A set operation casts what has different types: other values are equal then.
    "SELECT name FROM (SELECT p FROM s UNION ALL SELECT x FROM s) u JOIN t ON t.id = u.p",
    "SELECT name FROM (SELECT m AS p FROM s UNION SELECT p FROM o) u JOIN t ON t.id = u.p",
    "WITH u AS (SELECT d FROM s INTERSECT SELECT d FROM o) SELECT name FROM u JOIN t ON id = d",
]


def found(query: str, table: str = "t") -> frozenset[Lookup] | None:
    """The lookups of a query's parsed tree."""
    (text,) = duckdb.connect().execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0]
    return lookups(json.loads(text), table, FIELDS, {"s": "d", "o": "d"})


@pytest.mark.parametrize("query", FOUND)
def test_a_row_is_looked_up_by_a_feeds_column(query: str) -> None:
    """Through WITH, groups and unions, as long as the value is copied as it is."""
    assert found(query) == frozenset(FOUND[query])


@pytest.mark.parametrize("query", ANY_ROW)
def test_any_row_of_the_table_may_show(query: str) -> None:
    """Counted, ranked, joined by what is no copy, through another table, or not at all."""
    assert found(query) is None


@pytest.mark.parametrize(
    ("mart", "table", "key", "day"),
    [
        ("customer_mart", "customer_history", "customer_id", "sales_date"),
        ("sales_mart", "sales_team_history", "sales_person_id", "sales_date"),
        ("sales_mart", "store_history", "store_id", "sales_date"),
        ("customer_monthly_purchase", "customer", "customer_id", None),
        ("sales_team_incentive", "sales_team", "sales_person_id", None),
    ],
)
def test_the_templates_marts_look_up_their_tables(
    mart: str, table: str, key: str, day: str | None
) -> None:
    """A day's change of a customer must not build each month again."""
    (text,) = (
        duckdb.connect()
        .execute(
            "SELECT json_serialize_sql(?)",
            [(MARTS / f"{mart}.sql").read_text().rstrip().removesuffix(";")],
        )
        .fetchall()[0]
    )
    fields = {
        "sales": ("customer_id", "store_id", "sales_person_id", "sales_date", "total_cost"),
        "customer": ("customer_id", "first_name"),
        "sales_team": ("id", "first_name"),
    }
    for name in ("customer", "sales_team", "store"):
        columns = fields.get(name, ("id",))
        fields[f"{name}_history"] = (*columns, "_valid_from", "_valid_to")
    typed = {name: dict.fromkeys(columns, "INT") for name, columns in fields.items()}
    looked_up = lookups(json.loads(text), table, typed, {"sales": "sales_date"})
    assert looked_up is not None
    (lookup,) = looked_up
    assert (lookup.relation, lookup.column, lookup.day) == ("sales", key, day)
