"""Published tables on a real SQLite database: exact to the last cent, by key and by month."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from sqlalchemy import Connection

from retailmart.database import open_database
from retailmart.database.target import Target, as_bound
from retailmart.project.types import parse_type
from retailmart.tables import Field, quoted

FIELDS = tuple(
    Field(name, parse_type(kind))
    for name, kind in [
        ("_month", "STRING"),
        ("id", "INT"),
        ("total", "DECIMAL(18,2)"),
        ("rate", "DECIMAL(9,4)"),
        ("day", "DATE"),
        ("at", "TIMESTAMP"),
        ("name", "STRING"),
        ("sure", "BOOLEAN"),
        ("score", "DOUBLE"),
    ]
)
TARGET = Target("monthly", FIELDS, ("_month", "id"), "_month")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A transaction in a new database."""
    engine = open_database("sqlite:///retail.db", tmp_path)
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def bound(fields: Sequence[Field], rows: Sequence[str], size: int = 1000) -> list[pa.RecordBatch]:
    """Rows as the engine hands them over: `rows` are lists of SQL literals."""
    columns = ", ".join(as_bound(field) for field in fields)
    names = ", ".join(quoted(field.name) for field in fields)
    kinds = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}
    values = ", ".join(f"({row})" for row in rows)
    cast = ", ".join(
        f"CAST({quoted(f.name)} AS {kinds.get(f.type.name, f.type)}) AS {quoted(f.name)}"
        for f in fields
    )
    query = f"SELECT {columns} FROM (SELECT {cast} FROM (VALUES {values}) AS v({names}))"
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        return list(engine.sql(query).to_arrow_reader(size))


def row(
    month: str, number: int, total: str, rest: str = "NULL, NULL, NULL, NULL, NULL, NULL"
) -> str:
    """A row of TARGET as SQL literals."""
    return f"'{month}', {number}, {total}, {rest}"


def key(*pairs: tuple[str, int]) -> list[pa.RecordBatch]:
    """Keys to delete."""
    months, ids = zip(*pairs, strict=True)
    return [pa.RecordBatch.from_pydict({"_month": list(months), "id": list(ids)})]


@pytest.mark.parametrize(
    "amounts",
    [
        ["0.10", "0.20", "-0.30"],
        ["9999999999999.99", "-9999999999999.99", "0.01"],
        ["9999999999999.99"] * 50,
        ["1234567890123.45", "0.07", "-0.01", "NULL"],
        ["NULL", "NULL"],
        ["-0.01"] * 333,
        ["1000000000000.15", "1000000000000.25", "1000000000000.35"],
    ],
)
def test_sums_are_exact_to_the_cent(connection: Connection, amounts: list[str]) -> None:
    """Thirteen digits and cents, negative and NULL, add up in the database as on paper."""
    TARGET.recreate(connection)
    rows = [row("2024-01", number, amount) for number, amount in enumerate(amounts)]
    assert TARGET.insert(connection, bound(FIELDS, rows)) == len(amounts)
    expected = sum((Decimal(a) for a in amounts if a != "NULL"), Decimal(0))
    count, sums = TARGET.totals(connection, None)
    assert count == len(amounts)
    assert sums == {"total": expected, "rate": Decimal(0)}


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_every_row_arrives_once(connection: Connection, count: int) -> None:
    """However rows fall into statements and batches, each is there once with its own values."""
    TARGET.recreate(connection)
    rows = [row("2024-01", number, f"{number}.25") for number in range(count)]
    assert TARGET.insert(connection, bound(FIELDS, rows, size=64)) == count
    found = connection.exec_driver_sql("SELECT id, total FROM monthly ORDER BY id").fetchall()
    assert [tuple(line) for line in found] == [(n, n + 0.25) for n in range(count)]


def test_values_are_readable_by_others(connection: Connection) -> None:
    """Dates, times, texts and truths stand there as any client of the database reads them."""
    TARGET.recreate(connection)
    rest = "0.0125, DATE '2024-02-29', TIMESTAMPTZ '2024-02-29 12:30:00+02', 'it''s ₦', true, 0.5"
    TARGET.insert(connection, bound(FIELDS, [row("2024-02", 1, "12.50", rest)]))
    (found,) = connection.exec_driver_sql("SELECT * FROM monthly").fetchall()
    assert tuple(found)[:5] == ("2024-02", 1, 12.5, 0.0125, "2024-02-29")
    assert str(found[5]).startswith("2024-02-29 10:30:00")
    assert tuple(found)[6:] == ("it's ₦", 1, 0.5)


def test_rows_leave_by_key(connection: Connection) -> None:
    """Deleting takes just the rows with these keys; one that is not there takes none."""
    TARGET.recreate(connection)
    rows = [row(month, number, "1.00") for month in ("2024-01", "2024-02") for number in (1, 2)]
    TARGET.insert(connection, bound(FIELDS, rows))
    TARGET.delete_keys(connection, key(("2024-01", 2), ("2024-02", 9)))
    found = connection.exec_driver_sql("SELECT _month, id FROM monthly ORDER BY 1, 2").fetchall()
    assert [tuple(line) for line in found] == [("2024-01", 1), ("2024-02", 1), ("2024-02", 2)]


def test_months_are_cleared_and_summed_alone(connection: Connection) -> None:
    """A month's rows can be counted and removed without touching another's."""
    TARGET.recreate(connection)
    rows = [row("2024-01", 1, "1.10"), row("2024-02", 1, "2.20"), row("2024-03", 1, "3.30")]
    TARGET.insert(connection, bound(FIELDS, rows))
    count, sums = TARGET.totals(connection, ["2024-01", "2024-03"])
    assert (count, sums["total"]) == (2, Decimal("4.40"))
    assert TARGET.totals(connection, [])[0] == 0
    TARGET.clear(connection, ["2024-01"])
    assert TARGET.totals(connection, None)[0] == 2
    TARGET.clear(connection, [])
    assert TARGET.totals(connection, None)[0] == 2
    TARGET.clear(connection, None)
    assert TARGET.totals(connection, None) == (0, {"total": Decimal(0), "rate": Decimal(0)})


def test_a_table_without_months_is_cleared_whole(connection: Connection) -> None:
    """A mart that is rebuilt whole has no month to cut by."""
    target = Target("whole", FIELDS, ("_month", "id"), None)
    target.recreate(connection)
    target.insert(connection, bound(FIELDS, [row("2024-01", 1, "1.10")]))
    assert target.totals(connection, ["2024-09"])[0] == 1
    target.clear(connection, ["2024-09"])
    assert target.totals(connection, None)[0] == 0


def test_the_definition_is_compared_by_columns(connection: Connection) -> None:
    """A table that lacks a column, or has one more, is not the one that is published."""
    assert not TARGET.exists_as_defined(connection)
    TARGET.recreate(connection)
    assert TARGET.exists_as_defined(connection)
    connection.exec_driver_sql("ALTER TABLE monthly ADD COLUMN mine TEXT")
    assert not TARGET.exists_as_defined(connection)
    TARGET.recreate(connection)
    assert TARGET.exists_as_defined(connection)
    assert TARGET.totals(connection, None)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        'or"der',
        "select",
        "a b",
        "it's",
        "per%cent",
        "co:lon",
        "que?",
        "my VALUES here",
    ],
)
def test_any_name_is_quoted(connection: Connection, name: str) -> None:
    """Quotes, blanks, reserved words and placeholders in table and column names are names."""
    fields = (Field(name, parse_type("INT")), Field("total", parse_type("DECIMAL(18,2)")))
    target = Target(name, fields, (name,), None)
    target.recreate(connection)
    rows = [f"{number}, 0.10" for number in range(120)]
    assert target.insert(connection, bound(fields, rows)) == 120
    assert target.exists_as_defined(connection)
    keys = [pa.RecordBatch.from_pydict({name: [7]})]
    target.delete_keys(connection, keys)
    assert target.totals(connection, None) == (119, {"total": Decimal("11.90")})


def test_a_key_twice_is_refused(connection: Connection) -> None:
    """Two rows of one key are an error, never one row."""
    TARGET.recreate(connection)
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        TARGET.insert(connection, bound(FIELDS, [row("2024-01", 1, "1.00")] * 2))
