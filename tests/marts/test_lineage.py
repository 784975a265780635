"""Of which columns each column of a mart is made, found in its query alone."""

from __future__ import annotations

import pytest

from retailmart.marts.lineage import origins_of

TABLES = {
    "sales": ("id", "customer", "amount", "day"),
    "customers": ("customer", "name", "city"),
}


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("SELECT amount, amount + id AS both FROM sales", {
            "amount": "sales.amount IDENTITY",
            "both": "sales.amount TRANSFORMATION, sales.id TRANSFORMATION",
        }),
        ("SELECT c.name AS who, sum(s.amount) AS total FROM sales s"
         " JOIN customers c USING (customer) GROUP BY ALL", {
            "who": "customers.name IDENTITY",
            "total": "sales.amount AGGREGATION",
        }),
        ("WITH big(x) AS (SELECT amount * 2 FROM sales WHERE amount > 1)"
         " SELECT x, x + 1 AS y FROM big",
         {"x": "sales.amount TRANSFORMATION", "y": "sales.amount TRANSFORMATION"}),
        ("SELECT * EXCLUDE (id) REPLACE (upper(customer) AS customer) RENAME (day AS on_day)"
         " FROM sales", {
            "customer": "sales.customer TRANSFORMATION",
            "amount": "sales.amount IDENTITY",
            "on_day": "sales.day IDENTITY",
        }),
        ("SELECT customer FROM sales UNION ALL SELECT name FROM customers",
         {"customer": "customers.name IDENTITY, sales.customer IDENTITY"}),
        ("SELECT (SELECT max(name) FROM customers c WHERE c.customer = s.customer) AS n"
         " FROM sales s",
         {"n": "customers.name AGGREGATION"}),
        ("SELECT amount AS a, a * 2 AS b FROM sales",
         {"a": "sales.amount IDENTITY", "b": "sales.amount TRANSFORMATION"}),
        ("SELECT sum(amount) OVER (PARTITION BY customer) AS w FROM sales",
         {"w": "sales.amount AGGREGATION, sales.customer AGGREGATION"}),
        ("SELECT 1 AS one, s.n FROM (SELECT id AS n FROM sales) s",
         {"one": "", "n": "sales.id IDENTITY"}),
    ],
)  # fmt: skip
def test_columns_of_columns(query: str, columns: dict[str, str]) -> None:
    """Through aliases, CTEs, stars, unions, subqueries and windows."""
    found = origins_of(query, TABLES).columns
    shown = {
        name: ", ".join(f"{o.table}.{o.column} {o.how}" for o in sorted(origins))
        for name, origins in found.items()
    }
    assert shown == columns


def test_what_decides_which_rows_there_are() -> None:
    """Filters, joins and groups concern all columns."""
    query = (
        "SELECT c.city, count(*) AS n FROM sales s JOIN customers c ON s.customer = c.customer"
        " WHERE s.day > DATE '2024-01-01' GROUP BY c.city HAVING sum(s.amount) > 0"
    )
    rows = origins_of(query, TABLES).rows
    assert {(o.table, o.column, o.how) for o in rows} == {
        ("customers", "city", "GROUP_BY"),
        ("customers", "customer", "JOIN"),
        ("sales", "customer", "JOIN"),
        ("sales", "day", "FILTER"),
        ("sales", "amount", "FILTER"),
    }


def test_what_is_no_select_has_no_origins() -> None:
    """A query with a mistake, or a table that nobody knows, is not a reason to fail."""
    assert origins_of("SELEC", TABLES).columns == {}
    assert origins_of("SELECT x FROM nobody", TABLES).columns == {"x": frozenset()}
