"""Published tables on real databases: exact to the last cent, by key and by month."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from sqlalchemy import Connection, event
from sqlalchemy import Engine as SqlEngine

from retailmart.database import open_database
from retailmart.database.dialect import Read, dialect_of
from retailmart.database.target import Target, drop_table
from retailmart.errors import KeyClash
from retailmart.project.types import parse_type
from retailmart.tables import Field, quoted, text_literal

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


DATABASES = ("sqlite", "mysql", "mysql without LOCAL")


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlEngine]:
    """A new database of each kind."""
    with ExitStack() as stack:
        url = "sqlite:///retail.db"
        if request.param != "sqlite":
            server = request.getfixturevalue("mariadb")
            url = request.getfixturevalue("database").url
            if request.param == "mysql without LOCAL":
                stack.enter_context(server.setting(local_infile=0))
        opened = open_database(url, tmp_path)
        stack.callback(opened.dispose)
        yield opened


@pytest.fixture
def connection(engine: SqlEngine) -> Iterator[Connection]:
    """A transaction in a new database."""
    with engine.begin() as opened:
        yield opened


def given(fields: Sequence[Field], rows: Sequence[str], size: int = 1000) -> Read:
    """Rows as the engine hands them over: `rows` are lists of SQL literals."""
    names = ", ".join(quoted(field.name) for field in fields)
    kinds = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}
    values = ", ".join(f"({row})" for row in rows)
    cast = ", ".join(
        f"CAST({quoted(f.name)} AS {kinds.get(f.type.name, f.type)}) AS {quoted(f.name)}"
        for f in fields
    )
    source = f"(SELECT {cast} FROM (VALUES {values}) AS v({names}))"

    def read(columns: str) -> Generator[pa.RecordBatch, None, None]:
        with duckdb.connect() as engine:
            engine.execute("SET TimeZone = 'UTC'")
            yield from engine.sql(f"SELECT {columns} FROM {source}").to_arrow_reader(size)

    return read


def keys(*pairs: tuple[str, int]) -> Read:
    """Keys to delete."""
    fields = (FIELDS[0], FIELDS[1])
    return given(fields, [f"'{month}', {number}" for month, number in pairs])


def selected(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as plain tuples."""
    return [tuple(line) for line in connection.exec_driver_sql(query)]


def row(
    month: str, number: int, total: str, rest: str = "NULL, NULL, NULL, NULL, NULL, NULL"
) -> str:
    """A row of TARGET as SQL literals."""
    return f"'{month}', {number}, {total}, {rest}"


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
    assert TARGET.insert(connection, given(FIELDS, rows)) == len(amounts)
    expected = sum((Decimal(a) for a in amounts if a != "NULL"), Decimal(0))
    count, sums = TARGET.totals(connection, None)
    assert count == len(amounts)
    assert sums == {"total": expected, "rate": Decimal(0)}


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_every_row_arrives_once(connection: Connection, count: int) -> None:
    """However rows fall into statements and batches, each is there once with its own values."""
    TARGET.recreate(connection)
    rows = [row("2024-01", number, f"{number}.25") for number in range(count)]
    assert TARGET.insert(connection, given(FIELDS, rows, size=64)) == count
    found = selected(connection, "SELECT id, total FROM monthly ORDER BY id")
    assert found == [(n, n + 0.25) for n in range(count)]


def test_values_are_readable_by_others(connection: Connection) -> None:
    """Dates, times, texts and truths stand there as any client of the database reads them."""
    TARGET.recreate(connection)
    rest = "0.0125, DATE '2024-02-29', TIMESTAMPTZ '2024-02-29 12:30:00+02', 'it''s ₦', true, 0.5"
    TARGET.insert(connection, given(FIELDS, [row("2024-02", 1, "12.50", rest)]))
    (found,) = selected(connection, "SELECT * FROM monthly")
    assert (*found[:2], float(found[2]), float(found[3])) == ("2024-02", 1, 12.5, 0.0125)
    assert (str(found[4]), str(found[5])[:19]) == ("2024-02-29", "2024-02-29 10:30:00")
    assert found[6:] == ("it's ₦", 1, 0.5)


TEXTS = [
    "",
    "NULL",
    "\\N",
    'a "quoted" word',
    '"',
    '""',
    '","',
    "a,b",
    "line\nend",
    "line\r\nend\n",
    "back\\slash\\",
    "\\",
    "'",
    "tab\tthere",
    "nul\0byte",
    "end\x1aof file",
    "₦ 😀 é",
    "e\u0301",
    " padded ",
    "%s %d %%",
    'ends with \\"',
    "x" * 70_000,
]


def test_any_text_arrives_as_it_is(connection: Connection) -> None:
    """Quotes, line ends, backslashes and the word NULL are text; a NULL is none."""
    fields = (FIELDS[1], Field("name", parse_type("STRING")))
    target = Target("texts", fields, ("id",), None)
    target.recreate(connection)
    rows = [f"{n}, {literal(value)}" for n, value in enumerate(TEXTS)]
    assert target.insert(connection, given(fields, [*rows, "99, NULL"])) == len(TEXTS) + 1
    found = selected(connection, "SELECT id, name FROM texts ORDER BY id")
    assert found == [*enumerate(TEXTS), (99, None)]


@pytest.mark.parametrize("value", ["a", "A", "a ", "ä", "", "NULL", "😀", '"', "\\", "x" * 700])
def test_texts_in_a_key_are_told_apart_byte_by_byte(connection: Connection, value: str) -> None:
    """Neither letter case nor accents nor blanks at the end make two keys one."""
    fields = (Field("name", parse_type("STRING")), Field("total", parse_type("DECIMAL(18,2)")))
    target = Target("named", fields, ("name",), None)
    target.recreate(connection)
    others = [text for text in ("a", "A", "a ", "á", "aa", "null", "z") if text != value]
    rows = [f"{literal(text)}, 1.00" for text in [*others, value]]
    assert target.insert(connection, given(fields, rows)) == len(rows)
    assert target.delete_keys(connection, given(fields[:1], [literal(value)])) == 1
    found = [name for (name,) in selected(connection, "SELECT name FROM named")]
    assert sorted(found) == sorted(others)


EXTREMES = [
    ("INT", ["-2147483648", "2147483647", "0"]),
    ("BIGINT", ["-9223372036854775808", "9223372036854775807"]),
    ("DECIMAL(38,10)", ["-1234567890123456789012345678.0123456789", "0.0000000001"]),
    ("DECIMAL(38,0)", ["99999999999999999999999999999999999999"]),
    ("DECIMAL(5,5)", ["-0.99999", "0.00001"]),
    ("DATE", ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"]),
    ("TIMESTAMP", ["'1000-01-01 00:00:00+00'", "'9999-12-31 23:59:59.999999+00'"]),
    ("TIMESTAMP", ["'2024-02-29 10:00:00.000001+00'", "'1969-12-31 23:59:59.5+00'"]),
    ("BOOLEAN", ["true", "false"]),
    ("DOUBLE", ["0.1", "1e300", "-2.2250738585072014e-308", "1e-5", "123456789.123456789"]),
]


@pytest.mark.parametrize(("kind", "values"), EXTREMES)
@pytest.mark.parametrize("engine", DATABASES[1:], indirect=True)
def test_the_longest_values_are_exact(connection: Connection, kind: str, values: list[str]) -> None:
    """The widest values of each type come back digit by digit, and NULL beside them."""
    fields = (FIELDS[1], Field("v", parse_type(kind)))
    target = Target("extremes", fields, ("id",), None)
    target.recreate(connection)
    rows = [f"{n}, {value}" for n, value in enumerate(values)]
    target.insert(connection, given(fields, [*rows, "99, NULL"]))
    found = selected(connection, "SELECT v FROM extremes ORDER BY id")
    shown = [None if v is None else as_literal(v) for (v,) in found]
    assert shown == [*(as_literal(plain(value, kind)) for value in values), None]


def plain(value: str, kind: str) -> object:
    """The Python value of one of our SQL literals."""
    if kind == "BOOLEAN":
        return int(value == "true")
    if kind == "TIMESTAMP":
        return datetime.fromisoformat(value.strip("'")).replace(tzinfo=None)
    if kind == "DATE":
        return date.fromisoformat(value.strip("'"))
    return float(value) if kind == "DOUBLE" else Decimal(value)


def as_literal(value: object) -> str:
    """A value as text with all its digits."""
    return f"{Decimal(value):f}" if isinstance(value, int | Decimal) else repr(value)


def literal(value: str) -> str:
    """A text as an SQL literal, whatever is in it."""
    parts = value.split("\0")
    return " || chr(0) || ".join(text_literal(part) for part in parts)


def test_rows_leave_by_key(connection: Connection) -> None:
    """Deleting takes just the rows with these keys; one that is not there takes none."""
    TARGET.recreate(connection)
    rows = [row(month, number, "1.00") for month in ("2024-01", "2024-02") for number in (1, 2)]
    TARGET.insert(connection, given(FIELDS, rows))
    TARGET.delete_keys(connection, keys(("2024-01", 2), ("2024-02", 9)))
    found = selected(connection, "SELECT _month, id FROM monthly ORDER BY 1, 2")
    assert found == [("2024-01", 1), ("2024-02", 1), ("2024-02", 2)]


def test_months_are_cleared_and_summed_alone(connection: Connection) -> None:
    """A month's rows can be counted and removed without touching another's."""
    TARGET.recreate(connection)
    rows = [row("2024-01", 1, "1.10"), row("2024-02", 1, "2.20"), row("2024-03", 1, "3.30")]
    TARGET.insert(connection, given(FIELDS, rows))
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
    target.insert(connection, given(FIELDS, [row("2024-01", 1, "1.10")]))
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
        "back`tick",
        "back\\slash",
        "größe ₦",
        "a; DROP TABLE monthly; --",
    ],
)
def test_any_name_is_quoted(connection: Connection, name: str) -> None:
    """Quotes, blanks, reserved words and placeholders in table and column names are names."""
    fields = (Field(name, parse_type("INT")), Field("total", parse_type("DECIMAL(18,2)")))
    target = Target(name, fields, (name,), None)
    target.recreate(connection)
    rows = [f"{number}, 0.10" for number in range(120)]
    assert target.insert(connection, given(fields, rows)) == 120
    assert target.exists_as_defined(connection)
    assert target.delete_keys(connection, given(fields[:1], ["7"])) == 1
    assert target.totals(connection, None) == (119, {"total": Decimal("11.90")})
    grown = replace(target, fields=(*fields, Field(f"{name} 2", parse_type("STRING"))))
    grown.add_columns(connection, [f"{name} 2"])
    assert grown.exists_as_defined(connection)
    assert sum(len(batch) for batch, _ in grown.read_back(connection)) == 119
    drop_table(connection, name)
    assert target.columns(connection) == {}


def test_a_key_twice_is_refused(connection: Connection) -> None:
    """Two rows of one key are an error that names the key, never one row."""
    TARGET.recreate(connection)
    with pytest.raises(
        KeyClash, match=r"(?i)the table monthly refuses a row: .*(unique|dupl)"
    ) as caught:
        TARGET.insert(connection, given(FIELDS, [row("2024-01", 1, "1.00")] * 2))
    assert "_month, id" in str(caught.value)


def test_thousands_of_keys_leave_at_once(connection: Connection) -> None:
    """However keys fall into statements, just theirs go."""
    TARGET.recreate(connection)
    rows = [row("2024-01", number, "1.00") for number in range(2_500)]
    TARGET.insert(connection, given(FIELDS, rows))
    assert TARGET.delete_keys(connection, keys(*(("2024-01", n) for n in range(1, 2_500)))) == 2_499
    assert selected(connection, "SELECT id FROM monthly") == [(0,)]


def test_columns_that_are_not_filled_are_told_with_the_others(engine: SqlEngine) -> None:
    """By the statements that read the columns anyway: each run asks for each published table.

    Where a column is added in the transaction that fills it, there is never such a column.
    """
    added = Field("note", parse_type("STRING"))
    target = Target(TARGET.name, (*FIELDS, added), TARGET.key, TARGET.month)
    with engine.begin() as connection:
        TARGET.recreate(connection)
        before = statements_of(connection, lambda: target.columns(connection))
        target.add_columns(connection, ["note"])
    with engine.begin() as connection:
        found = target.columns(connection)
        assert statements_of(connection, lambda: target.columns(connection)) == before
        assert list(found) == [field.name for field in target.fields]
        alone = not dialect_of(connection).ddl_in_transaction
        assert {name for name, is_filled in found.items() if not is_filled} == (
            {"note"} if alone else set()
        )
        assert before == 1 or not alone
        assert target.taken(connection, ()) == [f.name for f in FIELDS] + ["note"] * (not alone)
        target.settle(connection)
        assert all(target.columns(connection).values())


def statements_of(connection: Connection, work: Callable[[], object]) -> int:
    """How many statements some work takes."""
    seen: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        seen.append(statement)

    event.listen(connection, "before_cursor_execute", hear)
    try:
        work()
    finally:
        event.remove(connection, "before_cursor_execute", hear)
    return len(seen)
