"""The shop's tables in MySQL: both readers give the same rows, whatever the type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from retailmart.database import open_database
from retailmart.database.mysql import reading
from retailmart.database.mysql.opening import address_of
from retailmart.database.source import (
    SourceTable,
    fingerprint_of,
    key_collation_of,
    position_of,
    read_since,
    read_table,
    table_names,
)
from retailmart.errors import RetailmartError
from retailmart.project.table import ReadRules, ZeroDates
from tests.support.services.mariadb import Database, DatabaseServer

READERS = ("fast", "driver")


@pytest.fixture(params=READERS)
def source(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    """An empty source, read by ConnectorX alone or by the driver alone."""
    if request.param == "driver":
        monkeypatch.setattr(reading, "_read_fast", lambda *_: None)
    else:
        monkeypatch.setattr(reading, "read_by_driver", _no_driver)
    engine = open_database(database.url, tmp_path, must_exist=True)
    yield engine
    engine.dispose()


@pytest.fixture
def either(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """An empty source, read as a project reads it."""
    engine = open_database(database.url, tmp_path, must_exist=True)
    yield engine
    engine.dispose()


def _no_driver(*_: object) -> pa.Table:
    raise AssertionError("ConnectorX did not read this")


def filled(database: Database, engine: Engine, kind: str, *values: str) -> SourceTable:
    """A table of one column of this type, its values given as SQL, as it is read."""
    rows = ", ".join(f"({n}, {value})" for n, value in enumerate(values))
    database.execute(
        "SET SESSION sql_mode = ''",
        f"CREATE TABLE t (id INT PRIMARY KEY, v {kind})",
        *([f"INSERT INTO t VALUES {rows}"] if rows else ()),
    )
    return read_table(engine, "t")


def insert(database: Database, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Many rows, committed."""
    with database.connect(autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(statement, rows)


TYPES: list[tuple[str, pa.DataType, list[tuple[str, object]]]] = [
    ("TINYINT", pa.int32(), [("-128", -128), ("127", 127)]),
    ("TINYINT(1)", pa.int32(), [("1", 1), ("0", 0), ("5", 5)]),
    ("BOOLEAN", pa.int32(), [("TRUE", 1)]),
    ("TINYINT UNSIGNED", pa.int32(), [("255", 255)]),
    ("SMALLINT", pa.int32(), [("-32768", -32768)]),
    ("MEDIUMINT UNSIGNED", pa.int32(), [("16777215", 16777215)]),
    ("INT", pa.int32(), [("-2147483648", -(2**31)), ("2147483647", 2**31 - 1)]),
    ("INT UNSIGNED", pa.int64(), [("4294967295", 2**32 - 1)]),
    ("BIGINT", pa.int64(), [("-9223372036854775808", -(2**63))]),
    ("BIGINT UNSIGNED", pa.int64(), [("9223372036854775807", 2**63 - 1)]),
    ("INT ZEROFILL", pa.int64(), [("7", 7)]),
    ("YEAR", pa.int32(), [("2024", 2024), ("0", 0)]),
    ("BIT(1)", pa.int64(), [("b'1'", 1), ("b'0'", 0)]),
    ("BIT(17)", pa.int64(), [("b'10000000000000001'", 65537)]),
    ("FLOAT", pa.float64(), [("0.5", 0.5), ("0.1", 0.10000000149011612)]),
    ("DOUBLE", pa.float64(), [("0.1", 0.1), ("-1e300", -1e300), ("1e-5", 1e-5)]),
    ("DECIMAL(12,2)", pa.decimal128(12, 2), [("-9999999999.99", Decimal("-9999999999.99"))]),
    ("DECIMAL(18,0)", pa.decimal128(18, 0), [("999999999999999999", Decimal(10**18 - 1))]),
    ("DECIMAL(18,18)", pa.decimal128(18, 18), [("0.000000000000000001", Decimal("1e-18"))]),
    ("DECIMAL(19,2)", pa.decimal128(19, 2), [("-0.01", Decimal("-0.01"))]),
    (
        "DECIMAL(38,10)",
        pa.decimal128(38, 10),
        [("1234567890123456789012345678.0123456789",) * 2],
    ),
    ("DECIMAL(30,20)", pa.decimal128(30, 20), [("-1234567890.01234567890123456789",) * 2]),
    ("DECIMAL(65,4)", pa.decimal128(38, 4), [("12345678901234567890.1234",) * 2]),
    ("DATE", pa.date32(), [("'2024-02-29'", date(2024, 2, 29)), ("'0001-01-01'", date(1, 1, 1))]),
    (
        "DATETIME",
        pa.timestamp("us", tz="UTC"),
        [("'9999-12-31 23:59:59'", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))],
    ),
    (
        "DATETIME(6)",
        pa.timestamp("us", tz="UTC"),
        [("'2024-02-29 10:00:00.000001'", datetime(2024, 2, 29, 10, 0, 0, 1, UTC))],
    ),
    (
        "TIMESTAMP(3) NULL",
        pa.timestamp("us", tz="UTC"),
        [("FROM_UNIXTIME(1.5)", datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC))],
    ),
    ("TIME", pa.string(), [("'12:30:00'", "12:30:00"), ("'-838:59:59'", "-838:59:59")]),
    ("TIME(3)", pa.string(), [("'-120:30:15.5'", "-120:30:15.500")]),
    ("CHAR(5)", pa.string(), [("'ab'", "ab"), ("''", "")]),
    ("VARCHAR(20)", pa.string(), [("'₦ 😀'", "₦ 😀"), ("' a '", " a "), ("'%s'", "%s")]),
    ("VARCHAR(20) CHARACTER SET latin1", pa.string(), [("'café'", "café")]),
    ("LONGTEXT", pa.string(), [("REPEAT('ab\\n', 30000)", "ab\n" * 30_000)]),
    ("ENUM('a','b''c')", pa.string(), [("'b''c'", "b'c")]),
    ("SET('a','b')", pa.string(), [("'a,b'", "a,b"), ("''", "")]),
    ("JSON", pa.string(), [("'{\"a\": [1, null]}'", '{"a": [1, null]}')]),
    ("BINARY(4)", pa.string(), [("x'6162'", "ab\0\0")]),
    ("BLOB", pa.string(), [("x'636166c3a9'", "café")]),
    ("VARBINARY(9)", pa.string(), [("x'636166e900ff'", "caf\\xe9\0\\xff")]),
]


@pytest.mark.parametrize(("kind", "arrow", "values"), TYPES, ids=[kind for kind, *_ in TYPES])
def test_every_type_is_kept(
    database: Database,
    source: Engine,
    kind: str,
    arrow: pa.DataType,
    values: list[tuple[str, object]],
) -> None:
    """Each value is what was stored, NULL stays NULL, and the type is that of the column."""
    table = filled(database, source, kind, "NULL", *(given for given, _ in values), "NULL")
    assert table.rows.schema.field("v").type == arrow
    found = table.rows.column("v").to_pylist()
    wanted = [Decimal(v) if arrow != pa.string() and type(v) is str else v for _, v in values]
    assert found == [None, *wanted, None]


@pytest.mark.parametrize("kind", [kind for kind, *_ in TYPES])
def test_both_readers_agree(database: Database, either: Engine, kind: str) -> None:
    """The same rows have the same digest, whichever reader brought them."""
    values = next(values for name, _, values in TYPES if name == kind)
    fast = filled(database, either, kind, "NULL", *(given for given, _ in values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_read_fast", lambda *_: None)
        slow = read_table(either, "t")
    assert slow.rows.equals(fast.rows)
    assert slow.digest == fast.digest


@pytest.mark.parametrize("kind", ["INT", "DECIMAL(12,2)", "VARCHAR(9)", "DATE", "BLOB", "TIME"])
def test_a_table_without_rows_keeps_its_types(
    database: Database, source: Engine, kind: str
) -> None:
    """An empty table is a table."""
    table = filled(database, source, kind)
    assert table.rows.num_rows == 0
    assert table.rows.schema == read_table(source, "t").rows.schema


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("DATE", "'0000-00-00'", "'0000-00-00' is no DATE"),
        ("DATE", "'2024-00-00'", "'2024-00-00' is no DATE"),
        ("DATETIME", "'0000-00-00 00:00:00'", "'0000-00-00 00:00:00' is no TIMESTAMP"),
        ("DECIMAL(65,30)", "12345678901234567890123456789012345.5", "is no DECIMAL(38,30)"),
        ("DECIMAL(65,0)", "1" + "0" * 39, "is no DECIMAL(38,0)"),
        ("DECIMAL(65,2)", "9" * 39 + ".99", "is no DECIMAL(38,2)"),
    ],
)
def test_a_value_that_fits_no_type_is_told(
    database: Database, source: Engine, kind: str, value: str, shown: str
) -> None:
    """A zero date or a number that is too large names table, column and row, and is never bent."""
    with pytest.raises(RetailmartError) as caught:
        filled(database, source, kind, "NULL", value)
    assert caught.value.message.startswith("source table 't', column 'v', row id = 1: ")
    assert shown in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["DATE", "DATETIME", "DATETIME(6)", "TIMESTAMP NULL"])
def test_zero_dates_are_null_where_that_is_said(
    database: Database, source: Engine, kind: str
) -> None:
    """By both readers, and other dates stay as they are."""
    values = ["'0000-00-00'", "'2024-01-31'", "NULL"]
    if kind.startswith("DATE"):
        values.append("'2024-10-00'")
    rows = ", ".join(f"({n}, {value})" for n, value in enumerate(values))
    database.execute(
        "SET SESSION sql_mode = ''",
        f"CREATE TABLE t (id INT PRIMARY KEY, v {kind})",
        f"INSERT INTO t VALUES {rows}",
    )
    table = read_table(source, "t", ReadRules(zero_dates=ZeroDates.EMPTY))
    found = table.rows.column("v").to_pylist()
    assert [value and str(value)[:10] for value in found][:3] == [None, "2024-01-31", None]
    assert found[3:] in ([], [None])


@pytest.mark.parametrize("kind", ["BIGINT UNSIGNED", "BIT(64)"])
def test_whole_numbers_without_a_sign_are_kept(
    database: Database, source: Engine, kind: str
) -> None:
    """A column that needs all 64 bits becomes a decimal; any other stays a BIGINT."""
    table = filled(database, source, kind, "NULL", "18446744073709551615", "1")
    assert table.rows.column("v").to_pylist() == [None, Decimal(2**64 - 1), Decimal(1)]
    database.execute("DELETE FROM t WHERE id = 1")
    assert read_table(source, "t").rows.schema.field("v").type == pa.int64()


def test_a_key_without_a_sign_is_kept(database: Database, source: Engine) -> None:
    """Also where rows would be read in parts of it."""
    database.execute(
        "CREATE TABLE t (id BIGINT UNSIGNED PRIMARY KEY)",
        "INSERT INTO t VALUES (2), (10), (18446744073709551615)",
    )
    assert [int(n) for n in read_table(source, "t").rows.column(0).to_pylist()] == [
        2,
        10,
        2**64 - 1,
    ]


@pytest.mark.parametrize(
    ("collation", "engines", "read"),
    [
        ("utf8mb4_general_ci", "NOCASE.NOACCENT", "Abc"),
        ("utf8mb4_bin", None, "Abc"),
        ("utf8mb4_nopad_bin", None, "Abc  "),
        ("utf8mb4_uca1400_as_ci", "NOCASE", "Abc"),
    ],
)
def test_a_key_of_text_is_told_with_its_collation(
    database: Database, source: Engine, collation: str, engines: str | None, read: str
) -> None:
    """Blanks at the end go where the server takes no notice of them, in the key alone."""
    database.execute(
        f"CREATE TABLE t (sku VARCHAR(9) COLLATE {collation} PRIMARY KEY, name VARCHAR(9))",
        "INSERT INTO t VALUES ('Abc  ', 'mug ')",
    )
    assert read_table(source, "t").rows.to_pylist() == [{"sku": read, "name": "mug "}]
    assert key_collation_of(source, "t") == (engines and ("sku", engines))


def test_a_column_of_nothing_is_null(
    database: Database, source: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """A view's NULL has no type; the fast reader must not panic on the terminal."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "CREATE VIEW v AS SELECT id, NULL AS later FROM t",
    )
    capfd.readouterr()
    assert read_table(source, "v").rows.to_pylist() == [{"id": 1, "later": None}]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "DECIMAL(4,1)", "DATETIME(6)", "VARCHAR(9)"])
def test_rows_at_the_place_of_a_cursor_are_read_again(
    database: Database, either: Engine, kind: str
) -> None:
    """Its position is a text that stands for the very value, of whatever type."""
    value = "'2024-01-31 10:00:00.7'" if kind.startswith("DATETIME") else "0.7"
    filled(database, either, kind, value, value)
    position = position_of(either, "t", "v")
    assert position is not None
    assert read_since(either, "t", "v", position).num_rows == 2


def test_a_type_that_tables_do_not_hold_is_told(database: Database, source: Engine) -> None:
    """A point on the map is no column of a mart; the error names column and way out."""
    with pytest.raises(RetailmartError, match="column 'v' is of type point") as caught:
        filled(database, source, "POINT")
    assert "view" in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind, *_ in TYPES])
def test_the_server_tells_whether_a_value_moved(
    database: Database, either: Engine, kind: str
) -> None:
    """Its digest is the same for the same values, and another for each other one or none."""
    values = [given for given, _ in next(values for name, _, values in TYPES if name == kind)]
    filled(database, either, kind, "NULL")
    told = {fingerprint_of(either, "t")}
    for value in values:
        database.execute("SET SESSION sql_mode = ''", f"UPDATE t SET v = {value}")
        told.add(fingerprint_of(either, "t"))
    assert len(told) == len(values) + 1
    database.execute("UPDATE t SET v = NULL")
    assert fingerprint_of(either, "t") in told
    database.execute("ALTER TABLE t RENAME COLUMN v TO w")
    assert fingerprint_of(either, "t") not in told


@pytest.mark.parametrize(
    "rows",
    [
        "(1, 'b', NULL), (2, 'a', NULL)",
        "(1, 'a', ''), (2, 'b', NULL)",
        "(1, 'a', 'N'), (2, 'b', NULL)",
        "(1, 'a,1,b', NULL), (2, 'b', NULL)",
        "(1, NULL, 'a'), (2, 'b', NULL)",
        "(1, 'A', NULL), (2, 'b', NULL)",
        "(1, 'a ', NULL), (2, 'b', NULL)",
        "(1, 'a', NULL), (2, 'b', NULL), (3, 'a', NULL), (4, 'a', NULL)",
        "(1, 'a', NULL)",
    ],
)
def test_the_server_is_not_taken_in_by_rows_that_look_alike(
    database: Database, either: Engine, rows: str
) -> None:
    """Swapped values, NULLs, blanks, letter case and separators within a text all show."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET latin1,"
        " b VARCHAR(9) COLLATE utf8mb4_bin)",
        "INSERT INTO t VALUES (1, 'a', NULL), (2, 'b', NULL)",
    )
    before = fingerprint_of(either, "t")
    database.execute("DELETE FROM t", f"INSERT INTO t VALUES {rows}")
    assert fingerprint_of(either, "t") != before
    database.execute("DELETE FROM t", "INSERT INTO t VALUES (2, 'b', NULL), (1, 'a', NULL)")
    assert fingerprint_of(either, "t") == before


def test_a_row_too_long_for_the_server_is_not_told(
    database: Database, either: Engine, mariadb: DatabaseServer
) -> None:
    """Where a row is more than the server puts into one text, it says nothing of any row."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, a LONGTEXT, b LONGTEXT)",
        "INSERT INTO t VALUES (1, REPEAT('a', 600000), REPEAT('b', 600000)), (2, 'a', 'b')",
    )
    assert fingerprint_of(either, "t") is not None
    with mariadb.setting(max_allowed_packet=1_048_576):
        either.dispose()
        assert fingerprint_of(either, "t") is None


def test_partitions_meet_without_a_gap(
    database: Database, either: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table read in parts is whole, in key order, and has the digest of one read in one piece."""
    database.execute(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, m DECIMAL(12,2), s VARCHAR(20))",
        "INSERT INTO t VALUES (-9000000, NULL, NULL), (90000000, 0, '')",
    )
    rows = [(n * 7 - 300_000, n / 100, f"s{n}") for n in range(70_000)]
    insert(database, "INSERT INTO t VALUES (%s, %s, %s)", rows)
    database.execute("ANALYZE TABLE t")
    parts: list[int] = []
    ranges = reading._ranges

    def counted(*given: Any) -> list[str]:
        found = ranges(*given)
        parts.append(len(found))
        return found

    monkeypatch.setattr(reading, "_ranges", counted)
    table = read_table(either, "t")
    monkeypatch.setattr(reading, "_ranges", lambda *_: [""])
    whole = read_table(either, "t")
    assert parts == [2]
    assert table.digest == whole.digest
    ids = table.rows.column("id").to_pylist()
    assert ids == sorted(ids)
    assert (len(ids), ids[0], ids[-1]) == (70_002, -9_000_000, 90_000_000)


@pytest.mark.parametrize(
    "key", ["a, b", "b, a", "d", "m", "s"], ids=["whole", "text first", "date", "decimal", "text"]
)
def test_rows_come_in_key_order(database: Database, either: Engine, key: str) -> None:
    """In the server's order of the key's own values, not of their texts, by both readers."""
    database.execute(
        "CREATE TABLE t (a INT, b VARCHAR(9), d DATE, m DECIMAL(12,2), s VARCHAR(9),"
        f" PRIMARY KEY ({key}))",
    )
    start = date(2020, 1, 1)
    rows = [(n, str(n % 7), start + timedelta(n), n - 40, f"x{n}") for n in range(99)]
    insert(database, "INSERT INTO t VALUES (%s, %s, %s, %s, %s)", rows)
    fast = read_table(either, "t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_read_fast", lambda *_: None)
        slow = read_table(either, "t")
    assert fast.digest == slow.digest
    if key == "m":
        values = fast.rows.column("m").to_pylist()
        assert values == sorted(values)


def test_a_table_without_key_is_in_a_fixed_order(database: Database, source: Engine) -> None:
    """Neither the order of insertion nor the server's letter case decides."""
    rows = ["(2, 'b')", "(1, NULL)", "(1, 'a')", "(1, 'A')", "(2, 'b')"]
    database.execute(
        "CREATE TABLE t (n INT, s VARCHAR(9))", f"INSERT INTO t VALUES {', '.join(rows)}"
    )
    first = read_table(source, "t")
    database.execute("TRUNCATE t", f"INSERT INTO t VALUES {', '.join(rows[::-1])}")
    assert read_table(source, "t").digest == first.digest
    assert first.rows.num_rows == 5


NAMES = ['or"der', "back`tick", "select", "a b", "per%cent", "%s", "co:lon", "größe ₦", "a\\b"]


@pytest.mark.parametrize("name", [*NAMES, "x`; DROP TABLE t; --"])
def test_any_name_is_quoted(database: Database, source: Engine, name: str) -> None:
    """Quotes, backticks, blanks and placeholders in table and column names are names."""
    quoted = "`" + name.replace("`", "``") + "`"
    database.execute(
        f"CREATE TABLE {quoted} ({quoted} INT PRIMARY KEY)", f"INSERT INTO {quoted} VALUES (7)"
    )
    assert name in table_names(source)
    assert read_table(source, name).rows.to_pylist() == [{name: 7}]


def test_views_are_offered_too(database: Database, source: Engine) -> None:
    """A source's views are tables to us."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, m DECIMAL(12,2))",
        "INSERT INTO t VALUES (1, 1.50), (2, 0.25)",
        "CREATE VIEW v AS SELECT SUM(m) AS total FROM t",
    )
    assert table_names(source) == {"t", "v"}
    assert read_table(source, "v").rows.to_pylist() == [{"total": Decimal("1.75")}]


def test_a_missing_table_is_named(source: Engine) -> None:
    """A table that went away between listing and reading is told by name."""
    with pytest.raises(RetailmartError, match="the source has no table 'gone' any more"):
        read_table(source, "gone")


def test_a_source_is_only_read(database: Database, either: Engine) -> None:
    """The session itself refuses to write into the shop's own database."""
    database.execute("CREATE TABLE t (id INT)")
    with either.connect() as connection, pytest.raises(Exception, match=r"(?i)read.only"):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("password", ["p@ss/w:rd", "₦ %41?#&=+", "'\"`\\$"])
def test_any_password_opens_the_source(mariadb: Any, tmp_path: Path, password: str) -> None:
    """Both readers take it, and no error shows it."""
    database = mariadb.database(password=password)
    database.execute("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    engine = open_database(database.url, tmp_path, must_exist=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_by_driver", _no_driver)
        assert read_table(engine, "t").rows.num_rows == 1
    assert password not in f"{engine!r}{engine.url}{address_of(engine)!r}"
    engine.dispose()
    database.drop()
