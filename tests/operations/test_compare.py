"""Comparing tables: what a digest tells apart, and the first row that differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.operations.verify.compare import Side, compare, digest
from retailmart.report import Comparison, Contrast


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    """The engine that compares."""
    with closing(DuckDBEngine([], tmp_path_factory.mktemp("scratch"))) as engine:
        yield engine


def side(engine: DuckDBEngine, name: str, query: str) -> Side:
    """A query's rows as a side."""
    return Side(name, engine.query(query))


def compared(
    engine: DuckDBEngine, *queries: str, key: Sequence[str] = (), month: str | None = None
) -> Comparison:
    """These rows compared: the first query is side `a`, the second `b`, …"""
    sides = [side(engine, name, query) for name, query in zip("abcd", queries, strict=False)]
    return compare(engine, "t", sides, key, month)


def only(found: Comparison) -> Contrast:
    """The one contrast that was found."""
    (contrast,) = found.contrasts
    return contrast


def rows(*values: str, columns: str = "k, v") -> str:
    """A query that gives these rows."""
    return f"SELECT * FROM (VALUES {', '.join(values)}) AS t({columns})"


def test_the_order_of_rows_does_not_matter_and_each_of_equals_counts(engine: DuckDBEngine) -> None:
    """Two equal rows are two, wherever they stand."""
    one = rows("(1, 'a')", "(2, 'b')", "(1, 'a')")
    assert compared(engine, one, rows("(1, 'a')", "(1, 'a')", "(2, 'b')")).equal
    found = compared(engine, one, rows("(1, 'a')", "(2, 'b')", "(2, 'b')"))
    assert found.rows == {"a": 3, "b": 3}
    assert only(found).row == {"k": "1", "v": "a"}
    assert only(found).only_in == ("a",)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NULL::VARCHAR", "''"),
        ("NULL::VARCHAR", "'NULL'"),
        ("'a'", "'a '"),
        ("'a'", "'A'"),
        ("1.10::DECIMAL(18,2)", "1.11::DECIMAL(18,2)"),
        ("99999999999999999999999999999999999.999::DECIMAL(38,3)",
         "99999999999999999999999999999999999.998::DECIMAL(38,3)"),
        ("0.1::DOUBLE + 0.2::DOUBLE", "0.3::DOUBLE"),
        ("0.0::DOUBLE", "-0.0::DOUBLE"),
        ("NULL::INTEGER", "0"),
        ("NULL::BOOLEAN", "false"),
        ("DATE '2024-01-01'", "DATE '2024-01-02'"),
        ("TIMESTAMPTZ '2024-01-01 00:00:00.000001Z'", "TIMESTAMPTZ '2024-01-01 00:00:00Z'"),
    ],
)  # fmt: skip
def test_a_value_is_only_equal_to_itself(engine: DuckDBEngine, one: str, other: str) -> None:
    """Also where SQL's `=` would take one for the other; the difference is told with both."""
    query = "SELECT 7 AS k, {} AS v"
    assert compared(engine, query.format(one), query.format(one)).equal
    found = only(compared(engine, query.format(one), query.format(other), key=["k"]))
    assert found.columns == ("v",)
    assert found.row == {"k": "7"}
    left, right = found.values["v"]
    assert left != right


def test_the_same_values_in_other_rows_are_not_the_same_table(engine: DuckDBEngine) -> None:
    """Column by column the two are equal; the row that is not is told."""
    found = compared(engine, rows("(1, 'a')", "(2, 'b')"), rows("(1, 'b')", "(2, 'a')"), key=["k"])
    assert only(found).columns == ()
    assert only(found).row == {"k": "1"}
    assert only(found).values == {"v": ("a", "b")}
    assert only(compared(engine, rows("(1, 'a')", "(2, 'b')"), rows("(1, 'b')", "(2, 'a')")))


def test_the_first_row_is_that_of_the_key(engine: DuckDBEngine) -> None:
    """By the key's own order, numbers as numbers; without a key by the columns that are alike."""
    numbers = "SELECT range AS k, range % 7 AS m, {} AS v FROM range(3000)"
    odd = numbers.format("CASE WHEN range IN (9, 10, 2000) THEN 1 ELSE 0 END")
    for key in (["k"], []):
        found = only(compared(engine, numbers.format("0"), odd, key=key))
        assert found.columns == ("v",)
        assert found.row["k"] == "9"
        assert found.values == {"v": ("0", "1")}


def test_a_row_that_one_side_lacks(engine: DuckDBEngine) -> None:
    """It is told whole where nothing tells rows apart, else by its key."""
    one, other = rows("(1, 'a')", "(2, NULL)"), rows("(1, 'a')")
    found = only(compared(engine, one, other, key=["k"]))
    assert (found.only_in, found.row) == (("a",), {"k": "2"})
    found = only(compared(engine, other, one))
    assert (found.only_in, found.row) == (("b",), {"k": "2", "v": None})
    nothing = "SELECT 1 AS k, 'a' AS v WHERE false"
    assert compared(engine, nothing, nothing).equal
    assert only(compared(engine, nothing, one, key=["k"])).row == {"k": "1"}


def test_only_the_first_month_that_differs_is_looked_through(engine: DuckDBEngine) -> None:
    """Months are digested apart; rows without one come last."""
    one = rows("('2024-01', 5, 1)", "('2024-02', 4, 1)", "('2024-03', 3, 1)", columns="m, k, v")
    other = rows("('2024-01', 5, 1)", "('2024-02', 4, 2)", "('2024-03', 3, 2)", columns="m, k, v")
    found = only(compared(engine, one, other, key=["k"], month="m"))
    assert found.row == {"k": "4"}
    gone = rows("('2024-01', 5, 1)", "('2024-02', 4, 1)", "(NULL, 3, 1)", columns="m, k, v")
    assert only(compared(engine, one, gone, key=["k"], month="m")).only_in == ("a",)
    assert compared(engine, gone, gone, month="m").equal


def test_columns_of_other_types_or_names(engine: DuckDBEngine) -> None:
    """They are told as such; no row is looked for. The order of columns does not matter."""
    one = "SELECT 1 AS k, 1.5::DECIMAL(4,2) AS v"
    found = only(compared(engine, one, "SELECT 1 AS k, 1.5::DOUBLE AS v"))
    assert found.types == {"v": ("DECIMAL(4,2)", "DOUBLE")}
    found = only(compared(engine, one, "SELECT 1 AS k, 1.5::DECIMAL(4,2) AS w"))
    assert found.types == {"v": ("DECIMAL(4,2)", None), "w": (None, "DECIMAL(4,2)")}
    assert compared(engine, one, "SELECT 1.5::DECIMAL(4,2) AS v, 1 AS k").equal


def test_each_side_is_compared_with_each(engine: DuckDBEngine) -> None:
    """Sides that are alike stand together, whichever they are."""
    one, other = rows("(1, 'a')"), rows("(1, 'b')")
    found = only(compared(engine, one, other, one, key=["k"]))
    assert (found.sides, found.others) == (("a", "c"), ("b",))
    third = rows("(1, 'c')")
    told = compared(engine, one, other, third, other, key=["k"]).contrasts
    assert [(c.sides, c.others) for c in told] == [(("a",), ("b", "d")), (("a",), ("c",))]


def test_any_column_names_do(engine: DuckDBEngine) -> None:
    """Those of the comparison's own too."""
    one = (
        "SELECT 1 AS h, 2 AS _h0, 3 AS c0, 5 AS in_one, '2024-01' AS _part,"
        ' 6 AS "a ""b", 7 AS side'
    )
    assert compared(engine, one, one, key=["h"], month="_part").equal
    found = only(compared(engine, one, one.replace("6", "8"), key=["h", 'a "b']))
    assert found.columns == ('a "b',)
    found = only(compared(engine, one, one.replace("7", "8"), key=["h"], month="_part"))
    assert found.values == {"side": ("7", "8")}


TABLE = st.lists(
    st.tuples(st.sampled_from(["NULL", "0", "1"]), st.sampled_from(["NULL", "''", "'x'"])),
    min_size=1,
    max_size=6,
)


@given(one=TABLE, other=TABLE)
@settings(deadline=None, max_examples=150)
def test_digests_are_equal_where_the_rows_are(
    engine: DuckDBEngine, one: list[str], other: list[str]
) -> None:
    """And only there: rows as often in one as in the other."""
    query = "SELECT k::INTEGER AS k, v::VARCHAR AS v FROM ({})"
    digests = []
    for table in (one, other):
        values = rows(*(f"({', '.join(row)})" for row in table))
        digests.append(digest(engine, side(engine, "a", query.format(values)), None))
    assert (digests[0] == digests[1]) == (Counter(one) == Counter(other))
