"""The shop's own tables: read with their types, and a digest that sees every change."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retailmart.database import open_database
from retailmart.database.source import SourceTable, read_table, table_names
from retailmart.errors import RetailmartError
from retailmart.project.table import ReadRules, Unit, ZeroDates


def read(
    tmp_path: Path,
    script: str,
    name: str = "t",
    rows: Sequence[Any] = (),
    rules: ReadRules = ReadRules(),  # noqa: B008
) -> SourceTable:
    """A table of a new SQLite database; `rows` are inserted as given."""
    path = tmp_path / "shop.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows)
        connection.commit()
    engine = open_database("sqlite:///shop.db", tmp_path, must_exist=True)
    try:
        return read_table(engine, name, rules)
    finally:
        engine.dispose()


def column(tmp_path: Path, kind: str, *values: object) -> list[Any]:
    """The values of a column of this type, as they are read."""
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})"
    table = read(tmp_path, script, rows=[(n, value) for n, value in enumerate(values)])
    return list(table.rows.column("v").to_pylist())


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("INTEGER", pa.int32()),
        ("BIGINT", pa.int64()),
        ("TEXT", pa.string()),
        ("VARCHAR(20)", pa.string()),
        ("CHAR(1)", pa.string()),
        ("DATE", pa.date32()),
        ("DATETIME", pa.timestamp("us", tz="UTC")),
        ("TIMESTAMP", pa.timestamp("us", tz="UTC")),
        ("BOOLEAN", pa.bool_()),
        ("REAL", pa.float64()),
        ("DECIMAL(12,2)", pa.decimal128(12, 2)),
        ("NUMERIC(8)", pa.decimal128(8, 0)),
        ("NUMERIC", pa.decimal128(38, 10)),
        ("DECIMAL(65,4)", pa.decimal128(38, 4)),
    ],
)
def test_types_are_kept(tmp_path: Path, kind: str, arrow: pa.DataType) -> None:
    """A column has the type of its declaration, also in a table without a single row."""
    table = read(tmp_path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})")
    assert table.rows.schema.field("v").type == arrow
    assert table.rows.num_rows == 0


@pytest.mark.parametrize(
    ("kind", "stored", "values"),
    [
        ("DECIMAL(12,2)", (0.1, 1.1, -0.0, 1e9), ("0.10", "1.10", "0.00", "1000000000.00")),
        ("DECIMAL(12,2)", (30.000000000000004, 0.1 + 0.2), ("30.00", "0.30")),
        ("DECIMAL(16,2)", (22517998136852.47, 0.5), ("22517998136852.47", "0.50")),
        ("DECIMAL(20,0)", (2**62 + 1, "1e3"), ("4611686018427387905", "1000")),
        ("DECIMAL(12,2)", (9999999999.99, "1234.5", 7), ("9999999999.99", "1234.50", "7.00")),
        ("NUMERIC", ("1e20", 0.1, 123456789.123456), ("1e20", "0.1", "123456789.123456")),
    ],
)
def test_money_is_what_was_stored(
    tmp_path: Path, kind: str, stored: tuple[object, ...], values: tuple[str, ...]
) -> None:
    """SQLite's floats become the decimals people typed, and what sums leave of them is no digit."""
    assert column(tmp_path, kind, *stored) == [Decimal(value) for value in values]


@pytest.mark.parametrize(
    ("kind", "stored", "value"),
    [
        ("DATE", "2024-02-29", date(2024, 2, 29)),
        ("DATE", "2024-02-29 00:00:00", date(2024, 2, 29)),
        ("DATE", "2024-02-29T00:00:00.000Z", date(2024, 2, 29)),
        ("DATE", "20240229", date(2024, 2, 29)),
        ("TIMESTAMP", "2024-02-29 10:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("TIMESTAMP", "2024-02-29 10:00:00.12345600", datetime(2024, 2, 29, 10, 0, 0, 123456, UTC)),
        ("TIMESTAMP", "2024-02-29 10:00:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("TIMESTAMP", "2024-02-29T10:00:00+02:00", datetime(2024, 2, 29, 8, tzinfo=UTC)),
        ("TIMESTAMP", "2024-02-29T10:00:00.123456Z", datetime(2024, 2, 29, 10, 0, 0, 123456, UTC)),
        ("BOOLEAN", 1, True),
        ("BOOLEAN", 0, False),
        ("BOOLEAN", "false", False),
        ("BOOLEAN", "TRUE", True),
        ("TEXT", "₦ \n'", "₦ \n'"),
        ("TEXT", "", ""),
        ("CHAR(1)", "N", "N"),
        ("INTEGER", -2147483648, -2147483648),
        ("BIGINT", 2**63 - 1, 2**63 - 1),
        ("INTEGER", 7.0, 7),
        ("REAL", 1, 1.0),
        ("BLOB", "café".encode(), "café"),
    ],
)
def test_values_arrive_beside_nulls(
    tmp_path: Path, kind: str, stored: object, value: object
) -> None:
    """Each value is what was stored, and NULL stays NULL."""
    assert column(tmp_path, kind, None, stored, None) == [None, value, None]


@pytest.mark.parametrize(
    ("kind", "stored", "shown"),
    [
        ("DECIMAL(12,2)", "abc", "'abc'"),
        ("DECIMAL(4,2)", 1234.5, "1234.5"),
        ("DECIMAL(10)", 1.25, "1.25"),
        ("DECIMAL(12,2)", 1.005, "1.005"),
        ("DECIMAL(12,2)", "1.005", "1.005"),
        ("DECIMAL(5,2)", -0.001, "-0.001"),
        ("DECIMAL(12,2)", 0.1 + 0.2 - 0.3, "5.551115123125783e-17"),
        ("DECIMAL(18,2)", 1234567890123456.78, "1234567890123456.8"),
        ("DECIMAL(15,0)", 999999999999998.6, "999999999999998.6"),
        ("NUMERIC", "12345678901234567890", "1.2345678901234567e+19"),
        ("NUMERIC", 1 / 3, "0.3333333333333333"),
        ("DECIMAL(12,2)", b"1.5", "b'1.5'"),
        ("DECIMAL(12,2)", "1_0", "'1_0'"),
        ("BIGINT", 2**63 * 1.0, "9.223372036854776e+18"),
        ("INTEGER", b"12", "b'12'"),
        ("INTEGER", "abc", "'abc'"),
        ("INTEGER", 1.5, "1.5"),
        ("INTEGER", 1e19, "1e+19"),
        ("TIMESTAMP", 1710123012345, "1710123012345"),
        ("TIMESTAMP", 20240131, "20240131"),
        ("TIMESTAMP", 2460380.5, "2460380.5"),
        ("DATE", 1710123012345, "1710123012345"),
        ("DATE", "0000-00-00", "'0000-00-00'"),
        ("DATE", "31.01.2024", "'31.01.2024'"),
        ("DATE", "2024-01-31 rubbish", "'2024-01-31 rubbish'"),
        ("DATE", "", "''"),
        ("DATE", "2024-01-31 23:30:00", "'2024-01-31 23:30:00'"),
        ("DATE", "2024-01-31T00:00:00.0000001", "'2024-01-31T00:00:00.0000001'"),
        ("DATE", "2024-01-31T00:00:00+02:00", "'2024-01-31T00:00:00+02:00'"),
        ("DATE", "0000-01-01", "'0000-01-01'"),
        ("TIMESTAMP", "2024-01-31T10:00:00.1234567Z", "'2024-01-31T10:00:00.1234567Z'"),
        ("TIMESTAMP", "2024-01-31+02:00", "'2024-01-31+02:00'"),
        ("TIMESTAMP", "0001-01-01T00:00:00+02:00", "'0001-01-01T00:00:00+02:00'"),
        ("TIMESTAMP", "soon", "'soon'"),
        ("BOOLEAN", "maybe", "'maybe'"),
        ("BOOLEAN", 5, "5"),
        ("BOOLEAN", "yes", "'yes'"),
        ("REAL", "nan", "'nan'"),
        ("REAL", b"1.5", "b'1.5'"),
        ("REAL", "abc", "'abc'"),
    ],
)
def test_a_wrong_value_is_shown(tmp_path: Path, kind: str, stored: object, shown: str) -> None:
    """A value that is not of its column's type names table, column, row and a fix."""
    with pytest.raises(RetailmartError) as caught:
        column(tmp_path, kind, None, stored)
    words = f"source table 't', column 'v', row id = 1: {shown} is no "
    assert caught.value.message.startswith(words)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["INTEGER", "INT", "SMALLINT", "BIGINT"])
def test_whole_numbers_of_64_bits_are_kept(tmp_path: Path, kind: str) -> None:
    """SQLite keeps 64 bits in any column of whole numbers; one that needs them is a BIGINT."""
    assert column(tmp_path, kind, -(2**63), None, 2**63 - 1) == [-(2**63), None, 2**63 - 1]
    table = read(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY)", rows=[(2**31,)])
    assert table.rows.schema.field("id").type == pa.int64()


MOMENT = datetime(2024, 3, 11, 2, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["TIMESTAMP", "INTEGER", "TEXT"])
@pytest.mark.parametrize(
    ("unit", "stored"),
    [
        (Unit.SECONDS, 1710123012),
        (Unit.MILLISECONDS, 1710123012000),
        (Unit.MICROSECONDS, 1710123012000000),
    ],
)
def test_numbers_are_moments_where_it_is_said_what_they_count(
    tmp_path: Path, kind: str, unit: Unit, stored: int
) -> None:
    """Whatever the column was declared as; texts beside them are read as before."""
    rules = ReadRules(times=(("v", unit),))
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})"
    rows = [(1, stored), (2, None), (3, "2024-03-11 02:10:12"), (4, -stored)]
    found = read(tmp_path, script, rows=rows, rules=rules).rows.column("v").to_pylist()
    wanted: list[Any] = [MOMENT, None, MOMENT, datetime(1915, 10, 23, 21, 49, 48, tzinfo=UTC)]
    assert found == wanted


def test_counted_days_are_dates(tmp_path: Path) -> None:
    """In a column of dates a count is one if it ends at midnight; it would lose another time."""
    rules = ReadRules(times=(("v", Unit.SECONDS),))
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, v DATE)"
    rows = [(1, 1710115200)]
    found = read(tmp_path, script, rows=rows, rules=rules).rows.column("v").to_pylist()
    assert found == [date(2024, 3, 11)]
    with pytest.raises(RetailmartError, match="row id = 2: 1710123012 is no DATE") as caught:
        read(tmp_path, script, rows=[*rows, (2, 1710123012)], rules=rules)
    assert "casts the column to a text" in str(caught.value)


def test_a_part_of_a_second_is_kept(tmp_path: Path) -> None:
    """Milliseconds, and seconds with a point."""
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, ms TIMESTAMP, s TIMESTAMP)"
    rules = ReadRules(times=(("ms", Unit.MILLISECONDS), ("s", Unit.SECONDS)))
    table = read(tmp_path, script, rows=[(1, 1710123012345, 1710123012.345)], rules=rules)
    moment = MOMENT.replace(microsecond=345_000)
    assert table.rows.to_pylist() == [{"id": 1, "ms": moment, "s": moment}]


def test_a_part_of_a_microsecond_is_not_cut(tmp_path: Path) -> None:
    """A float has the microsecond beside it; a digit below that is told."""
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, s TIMESTAMP)"
    rules = ReadRules(times=(("s", Unit.SECONDS),))
    (row,) = read(tmp_path, script, rows=[(1, 1710123012.3456783)], rules=rules).rows.to_pylist()
    assert row["s"] == MOMENT.replace(microsecond=345_678)
    with pytest.raises(RetailmartError, match=r"12\.3456789 is no TIMESTAMP"):
        read(tmp_path, script, rows=[(1, 12.3456789)], rules=rules)


def test_the_cure_of_a_decimal_works(tmp_path: Path) -> None:
    """What is said to be typed lets the table be read, and so does a view of texts."""
    script = (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v DECIMAL(12,2)); INSERT INTO t VALUES (1, 1.005);"
    )
    with pytest.raises(RetailmartError) as caught:
        read(tmp_path, script)
    statement = str(caught.value.hint).removeprefix("Round it in the source: ").split(";")[0]
    (row,) = read(tmp_path, f"{script} {statement};").rows.to_pylist()
    assert abs(row["v"] - Decimal("1.005")) <= Decimal("0.005")
    view = "CREATE VIEW w AS SELECT id, CAST(v AS TEXT) AS v FROM t;"
    assert read(tmp_path, f"{script} {view}", "w").rows.to_pylist() == [{"id": 1, "v": "1.005"}]


def test_a_column_that_is_not_there_counts_nothing(tmp_path: Path) -> None:
    """A misspelled name in `times` is told, with the file."""
    rules = ReadRules("tables/t.yml", times=(("at", Unit.SECONDS),))
    with pytest.raises(RetailmartError, match="has no column 'at'") as caught:
        read(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY)", rules=rules)
    assert "tables/t.yml" in str(caught.value)


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP"])
@pytest.mark.parametrize("stored", ["0000-00-00", "2024-00-00", "0000-00-00 00:00:00"])
def test_zero_dates_are_null_where_that_is_said(tmp_path: Path, kind: str, stored: str) -> None:
    """And only they."""
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})"
    rules = ReadRules(zero_dates=ZeroDates.EMPTY)
    rows = [(1, stored), (2, "2024-01-31")]
    first, second = read(tmp_path, script, rows=rows, rules=rules).rows.column("v").to_pylist()
    assert first is None
    assert str(second).startswith("2024-01-31")


def test_text_in_another_encoding_is_no_traceback(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 in a text column are an error of ours, not of the driver."""
    script = """
        CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
        INSERT INTO t VALUES (1, CAST(x'636166e9' AS TEXT));
    """
    with pytest.raises(RetailmartError, match="source table 't' cannot be read"):
        read(tmp_path, script)


BASE = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT, s TEXT, m DECIMAL(12,2), d DATE, b BOOLEAN)"
ROW = (1, 5, "a", 1.5, "2024-01-01", 1)
CHANGES: list[list[tuple[Any, ...]]] = [
    [],
    [ROW],
    [ROW, (2, *ROW[1:])],
    [(2, *ROW[1:])],
    [(1, 6, *ROW[2:])],
    [(1, 0, *ROW[2:])],
    [(1, None, *ROW[2:])],
    [(1, 5, "", *ROW[3:])],
    [(1, 5, None, *ROW[3:])],
    [(1, 5, "b", *ROW[3:])],
    [(1, 5, "a", 1.51, *ROW[4:])],
    [(1, 5, "a", None, *ROW[4:])],
    [(1, 5, "a", 1.5, "2024-01-02", 1)],
    [(1, 5, "a", 1.5, "2024-01-01", 0)],
    [(1, 5, "a", 1.5, "2024-01-01", None)],
    [(1, 0, "", 0, "1970-01-01", 0)],
    [(1, None, None, None, None, None)],
]


def test_the_digest_changes_with_any_value(tmp_path: Path) -> None:
    """NULL is not 0 and not empty; a row more or less counts; each variant differs from all."""
    digests = [read(tmp_path, BASE, rows=rows).digest for rows in CHANGES]
    assert len(set(digests)) == len(CHANGES)


def test_the_digest_tells_columns_apart(tmp_path: Path) -> None:
    """Text that moves from one column to the next is a change, and so is a column's name."""
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, {} TEXT)"
    variants = [("b", "xy", "z"), ("b", "x", "yz"), ("b", "", "xyz"), ("c", "xy", "z")]
    digests = {
        read(tmp_path, script.format(name), rows=[(1, *values)]).digest
        for name, *values in variants
    }
    assert len(digests) == len(variants)


def test_the_digest_tells_where_a_null_stands(tmp_path: Path) -> None:
    """A NULL that changes places with a 0 leaves the same bytes in another order of columns."""
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b INT)"
    rows = [(1, None, 0), (1, 0, None), (1, 0, 0), (1, None, None)]
    assert len({read(tmp_path, script, rows=[row]).digest for row in rows}) == len(rows)


def test_the_digest_changes_with_nothing_else(tmp_path: Path) -> None:
    """The order of insertion and rows that came and went leave it alone."""
    rows = [(n, n * 3 % 7, f"s{n}", n / 4, "2024-01-01", n % 2) for n in range(1, 50)]
    digest = read(tmp_path, BASE, rows=rows).digest
    script = f"{BASE}; INSERT INTO t (id) VALUES (99), (98); DELETE FROM t; VACUUM;"
    assert read(tmp_path, script, rows=rows[::-1]).digest == digest


def test_a_table_without_key_is_read_in_a_fixed_order(tmp_path: Path) -> None:
    """Without a primary key the values themselves give the order, equal rows included."""
    rows = [(2, "b"), (1, None), (1, "a"), (2, "b")]
    script = "CREATE TABLE t (n INT, s TEXT)"
    first = read(tmp_path, script, rows=rows)
    assert first.rows.to_pylist() == [
        {"n": 1, "s": None},
        {"n": 1, "s": "a"},
        {"n": 2, "s": "b"},
        {"n": 2, "s": "b"},
    ]
    assert read(tmp_path, script, rows=rows[::-1]).digest == first.digest


def test_a_large_table_is_read_whole(tmp_path: Path) -> None:
    """Chunks meet without a gap: every row, in key order, and a change in the last is seen."""
    rows: list[tuple[Any, ...]] = [
        (n, n, f"name {n}", n / 100, "2024-01-01", n % 2) for n in range(100_001)
    ]
    table = read(tmp_path, BASE, rows=rows)
    assert table.rows.num_rows == 100_001
    assert table.rows.column("id").to_pylist() == list(range(100_001))
    assert sum(table.rows.column("m").to_pylist()) == Decimal("50000500.00")
    rows[-1] = (100_000, None, *rows[-1][2:])
    assert read(tmp_path, BASE, rows=rows).digest != table.digest


def test_any_name_is_quoted(tmp_path: Path) -> None:
    """Quotes, spaces, reserved words and placeholders in names are names."""
    name = 'or"der by; --'
    columns = ["select", 'a"b', "per%cent", "co:lon", "que?stion", "back\\slash", "ü n"]
    listed = ", ".join('"' + column.replace('"', '""') + '" INT' for column in columns)
    quoted = '"' + name.replace('"', '""') + '"'
    script = f"CREATE TABLE {quoted} ({listed}); INSERT INTO {quoted} VALUES (1,2,3,4,5,6,7);"
    table = read(tmp_path, script, name)
    assert table.rows.to_pylist() == [dict(zip(columns, range(1, 8), strict=True))]


def test_views_are_offered_too(tmp_path: Path) -> None:
    """A source's views are tables to us."""
    script = "CREATE TABLE t (id INT); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT * FROM t"
    assert read(tmp_path, script, "v").rows.to_pylist() == [{"id": 1}]
    engine = open_database("sqlite:///shop.db", tmp_path, must_exist=True)
    assert table_names(engine) == {"t", "v"}
    engine.dispose()


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    """A table that went away between listing and reading is told by name."""
    with pytest.raises(RetailmartError, match="the source has no table 'gone' any more"):
        read(tmp_path, "CREATE TABLE t (id INT)", "gone")


def test_a_missing_database_is_named_and_not_made(tmp_path: Path) -> None:
    """A misspelt path of a source must not become an empty database."""
    with pytest.raises(RetailmartError, match=r"none\.db is not there"):
        open_database("sqlite:///none.db", tmp_path, must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """Any other file under a source's name is an error of ours, with the place to look."""
    (tmp_path / "shop.db").write_text("customer_id,first_name\n" * 100)
    engine = open_database("sqlite:///shop.db", tmp_path, must_exist=True)
    with pytest.raises(RetailmartError, match="cannot be read") as caught:
        table_names(engine)
    assert "sources" in str(caught.value)
    engine.dispose()


def test_a_source_is_only_read(tmp_path: Path) -> None:
    """Nothing is written into the shop's own database, not even a journal beside it."""
    read(tmp_path, "CREATE TABLE t (id INT)")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]
