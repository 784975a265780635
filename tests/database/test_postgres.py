"""PostgreSQL as a source and as a target: exact values, one transaction, verified TLS."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from psycopg import OperationalError
from sqlalchemy import Engine

from retailmart.check_results import CheckResult, Level
from retailmart.database import examine_database, is_same_database, open_database, translate_errors
from retailmart.database.dialect import Read
from retailmart.database.errors import NotThisTable, refusals
from retailmart.database.postgres.dialect import Postgres as Dialect
from retailmart.database.postgres.errors import translate
from retailmart.database.shadow import ShadowTables
from retailmart.database.source import (
    extract_of,
    fields_of,
    fingerprint_of,
    key_collation_of,
    position_of,
    read_part,
    read_since,
    read_table,
    table_names,
)
from retailmart.database.target import Target
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import KeyClash, RetailmartError, SettingsError, TableRefused, Unavailable
from retailmart.project.types import parse_type
from retailmart.tables import Field
from tests.support.services.postgres import Postgres, PostgresDatabase

_CANARY = "canary-9d2c"
# A column's type, a value as SQL, our type of the column, and the value that must arrive.
TYPES: tuple[tuple[str, str, str, Any], ...] = (
    ("smallint", "-32768", "INT", -32768),
    ("integer", "2147483647", "INT", 2147483647),
    ("bigint", "-9223372036854775808", "BIGINT", -(2**63)),
    ("numeric(12,2)", "1234567890.05", "DECIMAL(12,2)", Decimal("1234567890.05")),
    ("numeric(38,10)", "1e27", "DECIMAL(38,10)", Decimal(10**27)),
    ("numeric(5,-2)", "12345", "DECIMAL(7,0)", Decimal(12300)),
    ("numeric(2,4)", "0.0012", "DECIMAL(4,4)", Decimal("0.0012")),
    ("numeric", "0.1", "DECIMAL(38,10)", Decimal("0.1")),
    ("numeric", "0.12345678901234567891", "DECIMAL(38,20)", Decimal("0.12345678901234567891")),
    ("money", "'12345.67'", "DECIMAL(19,2)", Decimal("12345.67")),
    ("real", "0.1", "DOUBLE", 0.10000000149011612),
    ("double precision", "1e308", "DOUBLE", 1e308),
    ("double precision", "'-Infinity'", "DOUBLE", float("-inf")),
    ("boolean", "true", "BOOLEAN", True),
    ("date", "'0001-01-01'", "DATE", date(1, 1, 1)),
    ("date", "'9999-12-31'", "DATE", date(9999, 12, 31)),
    ("timestamp", "'2024-03-31 02:30:00.123456'", "TIMESTAMP", "2024-03-31T02:30:00.123456"),
    ("timestamptz", "'2024-03-31 02:30:00+05:30'", "TIMESTAMP", "2024-03-30T21:00:00"),
    ("text", "''", "STRING", ""),
    ("text", "'NULL'", "STRING", "NULL"),
    ("text", r"E'a,\"b\"\n\\.\r\n'", "STRING", 'a,"b"\n\\.\r\n'),
    ("char(4)", "'a'", "STRING", "a"),
    ("varchar(9)", "'🧾 ₦ é'", "STRING", "🧾 ₦ é"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "STRING", None),
    ("jsonb", """'{"b": 1, "a": 12345678901234567.89}'""", "STRING", None),
    ("integer[]", "'{1,2}'", "STRING", "{1,2}"),
    ("bytea", r"'\x61ff'", "STRING", "a\\xff"),
    ("time", "'10:00:01'", "STRING", "10:00:01"),
    ("interval", "'1 day 2 hours'", "STRING", "P1DT2H"),
    ("price", "1.50", "DECIMAL(8,2)", Decimal("1.50")),
    ("mood", "'happy'", "STRING", "happy"),
)


@pytest.fixture
def source(postgres_database: PostgresDatabase, tmp_path: Path) -> Iterator[Engine]:
    """An empty source."""
    engine = open_database(postgres_database.url, tmp_path, must_exist=True)
    yield engine
    engine.dispose()


@pytest.fixture
def target(postgres_database: PostgresDatabase, tmp_path: Path) -> Iterator[Engine]:
    """An empty database for marts."""
    engine = open_database(postgres_database.url, tmp_path)
    yield engine
    engine.dispose()


# a source


def test_every_type_arrives_as_it_is(postgres_database: PostgresDatabase, source: Engine) -> None:
    """Exactly, NULL included; of a type of one's own, too; whole and in parts alike."""
    postgres_database.execute(
        "CREATE DOMAIN price AS numeric(8,2)", "CREATE TYPE mood AS ENUM ('happy')"
    )
    for number, (kind, value, ours, expected) in enumerate(TYPES):
        name, wanted = f"t{number}", expected
        postgres_database.execute(
            f'CREATE TABLE {name} (id integer PRIMARY KEY, "a value" {kind})',
            f"INSERT INTO {name} VALUES (2, NULL), (1, {value})",
            f"ANALYZE {name}",
        )
        rows = read_table(source, name).rows
        assert rows.column("id").to_pylist() == [1, 2]
        found, nothing = rows.column("a value").to_pylist()
        assert nothing is None, kind
        if isinstance(wanted, str) and ours == "TIMESTAMP":
            wanted = datetime.fromisoformat(wanted).replace(tzinfo=UTC)
        if wanted is None:
            wanted = postgres_database.query(f'SELECT "a value"::text FROM {name}')[1][0]
        assert found == wanted, (kind, value)
        extract = extract_of(source, name, 0)
        assert extract is not None
        assert extract.fields[1].type == parse_type(ours), kind
        parts = [batch for query in extract.queries for batch in read_part(extract, query)]
        assert pa.Table.from_batches(parts).sort_by("id").equals(rows), kind


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("date", "'infinity'", "'infinity' is no DATE"),
        ("date", "'0044-03-15 BC'", "'0044-03-15 BC' is no DATE"),
        ("timestamptz", "'infinity'", "'infinity' is no TIMESTAMP"),
        ("numeric", "'NaN'", "'NaN' is no DECIMAL(38,10)"),
        ("numeric(60,0)", "1e45", "is no DECIMAL(38,0)"),
    ],
)
def test_a_value_that_is_none_of_ours_is_named(
    postgres_database: PostgresDatabase, source: Engine, kind: str, value: str, said: str
) -> None:
    """With its table, column and row; and the connection can be used again."""
    postgres_database.execute(
        f"CREATE TABLE odd (id text PRIMARY KEY, v {kind})",
        f"INSERT INTO odd VALUES ('a', NULL), ('k', {value}), ('z', NULL)",
        "CREATE TABLE good (id integer PRIMARY KEY)",
    )
    with pytest.raises(RetailmartError, match="table 'odd', column 'v', row id = k") as caught:
        read_table(source, "odd")
    assert said in caught.value.message
    assert read_table(source, "good").rows.num_rows == 0


def test_views_and_partitioned_tables_are_sources_too(
    postgres_database: PostgresDatabase, source: Engine
) -> None:
    """Without a key, rows are in the order of their values; names may hold anything."""
    postgres_database.execute(
        'CREATE TABLE "Odd % ""name""" ("%s" integer, b text)',
        """INSERT INTO "Odd % ""name\""" VALUES (2, 'x'), (1, NULL), (1, 'a')""",
        'CREATE VIEW seen AS SELECT * FROM "Odd % ""name"""',
        'CREATE MATERIALIZED VIEW kept AS SELECT * FROM "Odd % ""name"""',
        "CREATE TABLE parts (id integer) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO parts VALUES (5)",
    )
    wanted = [(1, "a"), (1, None), (2, "x")]
    for name in ('Odd % "name"', "seen", "kept"):
        assert name in table_names(source)
        assert [tuple(row.values()) for row in read_table(source, name).rows.to_pylist()] == wanted
    assert read_table(source, "parts").rows.to_pylist() == [{"id": 5}]
    with pytest.raises(RetailmartError, match="no table 'gone' any more"):
        read_table(source, "gone")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", ("1", "2", "3")),
        ("numeric(12,2)", ("0.01", "0.10", "99.99")),
        ("real", ("0.1", "0.2", "0.3")),
        ("timestamptz", ("'2024-01-01 00:00:00.000001'", "'2024-01-01 01:00'", "'2024-02-01'")),
        ("date", ("'2024-01-01'", "'2024-01-02'", "'2024-02-01'")),
        ("text", ("'a'", "'b'", "'it''s %s'")),
    ],
)
def test_a_cursor_moves_with_the_data(
    postgres_database: PostgresDatabase, source: Engine, kind: str, values: tuple[str, ...]
) -> None:
    """Rows at the cursor's place and after it, and those without a value; none before it."""
    postgres_database.execute(f"CREATE TABLE moving (id integer PRIMARY KEY, at {kind})")
    assert position_of(source, "moving", "at") is None
    first, second, third = values
    postgres_database.execute(f"INSERT INTO moving VALUES (1, {first}), (2, {second}), (3, NULL)")
    place = position_of(source, "moving", "at")
    assert place is not None
    assert read_since(source, "moving", "at", place).column("id").to_pylist() == [2, 3]
    postgres_database.execute(f"INSERT INTO moving VALUES (4, {third})")
    assert read_since(source, "moving", "at", place).column("id").to_pylist() == [2, 3, 4]
    newest = position_of(source, "moving", "at")
    assert newest is not None
    assert read_since(source, "moving", "at", newest).column("id").to_pylist() == [3, 4]


def test_the_fingerprint_changes_with_any_value(
    postgres_database: PostgresDatabase, source: Engine
) -> None:
    """Also where rows swap their values, NULL becomes empty, or a column is renamed."""
    postgres_database.execute(
        "CREATE TABLE seen (id integer PRIMARY KEY, a text, b text)",
        "INSERT INTO seen VALUES (1, 'x', NULL), (2, 'y', '')",
    )
    prints = [fingerprint_of(source, "seen")]
    for change in (
        "UPDATE seen SET a = CASE id WHEN 1 THEN 'y' ELSE 'x' END",
        "UPDATE seen SET b = '' WHERE id = 1",
        "UPDATE seen SET a = NULL, b = 'y' WHERE id = 1",
        "INSERT INTO seen VALUES (3, NULL, NULL)",
        "ALTER TABLE seen RENAME COLUMN b TO c",
    ):
        assert fingerprint_of(source, "seen") == prints[-1]
        postgres_database.execute(change)
        prints.append(fingerprint_of(source, "seen"))
    assert len(set(prints)) == len(prints)


def test_keys_without_letter_case_are_told(
    postgres_database: PostgresDatabase, source: Engine
) -> None:
    """Of a collation that takes 'a' and 'A' for one; by default bytes decide."""
    postgres_database.execute(
        "CREATE COLLATION no_case"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE COLLATION no_accent"
        " (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
        "CREATE TABLE plain (sku text PRIMARY KEY)",
        "CREATE TABLE folded (sku text COLLATE no_case PRIMARY KEY)",
        "CREATE TABLE bare (sku text COLLATE no_accent PRIMARY KEY)",
    )
    assert key_collation_of(source, "plain") is None
    assert key_collation_of(source, "folded") == ("sku", "NOCASE")
    assert key_collation_of(source, "bare") == ("sku", "NOCASE.NOACCENT")


def test_a_source_is_never_written(postgres_database: PostgresDatabase, source: Engine) -> None:
    """The session itself refuses it."""
    postgres_database.execute("CREATE TABLE t (id integer)")
    with pytest.raises(RetailmartError, match="read-only"), translate_errors("the source"):
        _run(source, "INSERT INTO t VALUES (1)")


def _run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


# a target

Reading = Callable[[str], Read]
FIELDS = (
    Field("id", parse_type("BIGINT")),
    Field("word", parse_type("STRING")),
    Field("total", parse_type("DECIMAL(38,2)")),
    Field("day", parse_type("DATE")),
    Field("moment", parse_type("TIMESTAMP")),
    Field("flag", parse_type("BOOLEAN")),
    Field("rate", parse_type("DOUBLE")),
)
TABLE = Target("mart", FIELDS, ("id",), None)
ROWS = (
    "SELECT * FROM (VALUES"
    " (1::BIGINT, 'NULL', 99999999999999999999999999999999999.99::DECIMAL(38,2),"
    " DATE '0001-01-01', TIMESTAMPTZ '2024-03-31 02:30:00.123456+00', true, 'nan'::DOUBLE),"
    """ (2, E'a,"b"\\n\\\\.\\n', -0.01, DATE '9999-12-31', NULL, false, 1e-320),"""
    " (3, '', NULL, NULL, TIMESTAMPTZ '0001-01-01 00:00:00+00', NULL, 'inf'::DOUBLE),"
    " (4, NULL, 0, NULL, NULL, NULL, NULL)) t(id, word, total, day, moment, flag, rate)"
)


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    """Rows as the engine gives them."""
    with closing(DuckDBEngine([], tmp_path / "engine")) as engine:

        def of(query: str) -> Read:
            def read(columns: str) -> Generator[pa.RecordBatch, None, None]:
                yield from engine.batches(f"SELECT {columns} FROM ({query})", 2)

            return read

        yield of


def test_rows_come_back_as_they_went_in(target: Engine, reading: Reading, tmp_path: Path) -> None:
    """Added, changed by key and removed: all types, at their edges."""
    with target.begin() as connection:
        TABLE.recreate(connection)
        assert TABLE.insert(connection, reading(ROWS)) == 4
        first = TABLE.rows(connection, None).sort_by("id")
        with closing(DuckDBEngine([], tmp_path / "second")) as engine:
            wanted = engine.rows(f"{ROWS} ORDER BY id")
        found = [tuple(row.values()) for row in first.to_pylist()]
        assert [repr(row[:4]) for row in found] == [repr(row[:4]) for row in wanted]
        assert [row[5:] for row in found[1:]] == [row[5:] for row in wanted[1:]]
        assert [row[4] and row[4].isoformat() for row in found] == [
            "2024-03-31T02:30:00.123456+00:00",
            None,
            "0001-01-01T00:00:00+00:00",
            None,
        ]
        assert str(found[0][6]) == "nan"
        assert TABLE.upsert(connection, reading(f"{ROWS} WHERE id > 2")) == 2
        assert str(TABLE.rows(connection, None).sort_by("id")) == str(first)
        count, sums = TABLE.totals(connection, None)
        assert (count, sums["total"]) == (4, Decimal("99999999999999999999999999999999999.98"))
        assert TABLE.delete_keys(connection, reading(f"{ROWS} WHERE id > 1")) == 3
        assert TABLE.rows(connection, None).column("id").to_pylist() == [1]


def test_a_repeated_key_leaves_the_transaction_usable(target: Engine, reading: Reading) -> None:
    """It is told as such, and what was done before it stays."""
    with target.begin() as connection:
        TABLE.recreate(connection)
        TABLE.insert(connection, reading(f"{ROWS} WHERE id = 1"))
        with pytest.raises(KeyClash, match=r"Key \(id\)=\(1\) already exists"):
            TABLE.insert(connection, reading(ROWS))
        assert TABLE.totals(connection, None)[0] == 1


@pytest.mark.parametrize(
    ("value", "is_broken"),
    [
        ("'a' || chr(0) || max('b')", True),
        ("string_agg(chr(200 + CAST(hash(i) % 9000 AS INTEGER)), '')", True),
        ("left(string_agg(chr(200 + CAST(hash(i) % 9000 AS INTEGER)), ''), 650)", False),
    ],
)
def test_what_a_table_cannot_hold_is_known_before(
    target: Engine, reading: Reading, tmp_path: Path, value: str, is_broken: bool
) -> None:
    """The limits that are checked are those of the server, and it takes what keeps to them."""
    table = Target("keyed", FIELDS[:2], ("word",), None)
    query = f"SELECT 1::BIGINT AS id, {value} AS word FROM range(1400) r(i)"
    limits = Dialect().limits(FIELDS[:2], ("word",))
    with closing(DuckDBEngine([], tmp_path / "second")) as engine:
        (broken,) = engine.rows(
            f"SELECT {' OR '.join(f'({one.condition})' for one in limits)} FROM ({query})"
        )
    assert broken == (is_broken,)
    with target.begin() as connection:
        table.recreate(connection)
    with nullcontext() if not is_broken else pytest.raises(TableRefused):
        _insert(target, table, reading(query))


def _insert(target: Engine, table: Target, read: Read) -> None:
    with refusals(table.name, table.name), target.begin() as connection:
        table.insert(connection, read)


def test_tables_are_shown_by_the_ledger_s_own_commit(
    postgres_database: PostgresDatabase, target: Engine, reading: Reading
) -> None:
    """Readers see the old table until then; what is rolled back was never shown."""
    for word, commits in (("one", True), ("two", False), ("three", True)):
        with ShadowTables(target, 1) as beside:

            def fill(table: Target, connection: Any, word: str = word) -> None:
                table.insert(connection, reading(f"SELECT 1::BIGINT AS id, '{word}' AS word"))

            beside.load(Target("shown", FIELDS[:2], ("id",), None), "", fill)
            with target.connect() as connection:
                beside.show(connection)
                before = postgres_database.query("SELECT to_regclass('shown')::text")[0][0]
                assert (before is None) == (word == "one")
                connection.commit() if commits else connection.rollback()
        seen = postgres_database.query("SELECT word FROM shown")
        assert seen == [(word if commits else "one",)]
    tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'retailmart_%'"
    assert postgres_database.query(tables) == [(0,)]


def test_what_hangs_on_a_table_is_named(
    postgres_database: PostgresDatabase, target: Engine
) -> None:
    """All that would go with the table if it were replaced."""
    with target.begin() as connection:
        TABLE.recreate(connection)
    postgres_database.execute(
        "CREATE INDEX by_word ON mart (word)",
        "CREATE VIEW looks AS SELECT id FROM mart",
        "CREATE TABLE refers (id bigint REFERENCES mart)",
        "ALTER TABLE mart ADD CONSTRAINT positive CHECK (id > 0)",
        "GRANT SELECT ON mart TO PUBLIC",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "CREATE TRIGGER looks_on AFTER INSERT ON mart EXECUTE FUNCTION f()",
    )
    with target.connect() as connection:
        found = TABLE.additions(connection, ())
    assert set(found) >= {
        "index by_word",
        "view looks",
        "check positive",
        "grant to PUBLIC",
        "trigger looks_on",
        "foreign key refers_id_fkey of table refers",
    }


# the way there


def test_a_password_is_in_no_message(postgres: Postgres, tmp_path: Path) -> None:
    """Neither in errors nor in what is shown of an engine."""
    url = f"postgresql://nobody:{_CANARY}@127.0.0.1:{postgres.port}/none"
    engine = open_database(url, tmp_path)
    with pytest.raises(RetailmartError) as caught, translate_errors("the database"):
        engine.connect()
    assert _CANARY not in "".join(traceback.format_exception(caught.value))
    assert "Check user and password" in str(caught.value.hint)
    shown = [engine, engine.url, engine.pool, engine.pool.__dict__]
    assert _CANARY not in " ".join(f"{one!r} {one}" for one in shown)


def test_a_server_that_is_away_may_come_back(postgres: Postgres, tmp_path: Path) -> None:
    """It is not the project's fault, and passes; so does a connection that is killed."""
    engine = open_database("postgresql://u@127.0.0.1:1/db", tmp_path)
    with pytest.raises(Unavailable, match="refused"), translate_errors("the database"):
        engine.connect()
    database = postgres.database()
    engine = open_database(database.url, tmp_path)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
    with engine.connect() as connection:
        with postgres.admin() as admin:
            admin.execute(f"{kill}'{database.name}'".encode())
        with pytest.raises(Unavailable), translate_errors("the database"):
            connection.exec_driver_sql("SELECT 1")
    engine.dispose()
    database.drop()


def test_tls_is_verified_by_name(postgres: Postgres, tmp_path: Path) -> None:
    """By the certificate's own name it is trusted, by another it is not."""
    database = postgres.database()
    with_authority = f"?sslrootcert={postgres.ca}"
    good = open_database(database.at(host="localhost").url + with_authority, tmp_path)
    with good.connect() as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.exec_driver_sql(query).scalar_one() is True
    address = Dialect().address(good)
    assert address is not None
    assert address.tls
    assert "BEGIN CERTIFICATE" in str(address.authority)
    wrong = open_database(database.url + with_authority, tmp_path)
    with (
        pytest.raises(RetailmartError, match="certificate") as caught,
        translate_errors("the database"),
    ):
        wrong.connect()
    assert "sslrootcert" in str(caught.value.hint)
    for engine in (good, wrong):
        engine.dispose()
    database.drop()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u@h/d?sslmode=prefer", "sslmode is verify-full or disable"),
        ("postgresql://u@h/d?nonsense=1", "'nonsense' is not known"),
        ("postgresql://u@h", "names no database"),
        ("postgresql://u@h/d?sslrootcert=gone.pem", "cannot read the certificates"),
        ("postgresql+asyncpg://u@h/d", "only these are supported"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(tmp_path: Path, url: str, said: str) -> None:
    """Before anything is connected to."""
    with pytest.raises(SettingsError, match=said):
        open_database(url, tmp_path)


def test_two_urls_of_one_database(tmp_path: Path) -> None:
    """The usual port may be left out; another schema is another place."""
    one = "postgresql://a@h/d"
    assert is_same_database(one, "postgresql://b@h:5432/d", tmp_path)
    assert not is_same_database(one, "postgresql://a@h/d?schema=x", tmp_path)
    assert not is_same_database(one, "mysql://a@h:5432/d", tmp_path)


def test_a_schema_of_the_url_holds_the_tables(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """Tables are created in it and found in it."""
    postgres_database.execute('CREATE SCHEMA "my marts"')
    engine = open_database(f"{postgres_database.url}?schema=my%20marts", tmp_path)
    with engine.begin() as connection:
        TABLE.recreate(connection)
        assert list(TABLE.columns(connection)) == [field.name for field in FIELDS]
    assert postgres_database.query("SELECT schemaname FROM pg_tables WHERE tablename = 'mart'") == [
        ("my marts",)
    ]
    assert fields_of(engine, "mart")[0] == FIELDS[0]
    engine.dispose()


# the doctor


def test_a_good_server_has_no_ailment(postgres_database: PostgresDatabase, tmp_path: Path) -> None:
    """And nothing that was tried is left behind."""
    found = list(examine_database(postgres_database.url, tmp_path, "database", writes=True))
    assert {one.level for one in found} == {Level.OK}, found
    assert postgres_database.query(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    ) == [(0,)]


def test_what_is_missing_is_named_with_its_fix(
    postgres: Postgres, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """The statement it gives is the one that helps."""
    name = postgres_database.name
    with postgres.admin() as admin:
        admin.execute(f"CREATE ROLE \"{name}_r\" LOGIN PASSWORD '{_CANARY}'".encode())
    reader = f"postgresql://{name}_r:{_CANARY}@127.0.0.1:{postgres.port}/{name}"
    postgres_database.execute("CREATE TABLE t (id integer)")

    def problem(check: str, *, writes: bool) -> str | None:
        found = examine_database(reader, tmp_path, "database", writes=writes)
        return next((one.fix for one in found if one.check == f"database: {check}"), None)

    for check, writes in (("schema", True), ("grants", False)):
        fix = problem(check, writes=writes)
        assert fix is not None
        statement = fix.partition("administrator: ")[2].rstrip(";")
        with postgres.admin(name) as admin:
            admin.execute(statement.encode())
        assert problem(check, writes=writes) is None
    with postgres.admin(name) as admin:
        admin.execute(f'DROP OWNED BY "{name}_r"'.encode())
        admin.execute(f'DROP ROLE "{name}_r"'.encode())
    assert "Check user and password" in next(
        one.fix or ""
        for one in examine_database(reader, tmp_path, "database", writes=True)
        if one.level is Level.PROBLEM
    )


def test_the_doctor_creates_and_opens_the_schema_of_the_url(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """The schema that is named is not asked for again; its statement, typed, ends the problem."""
    named = f"{postgres_database.url}?schema=my%20marts"

    def schema() -> CheckResult:
        found = examine_database(named, tmp_path, "database", writes=True)
        return next(one for one in found if one.check == "database: schema")

    assert "there is no schema my marts" in schema().found
    statement = (schema().fix or "").partition("administrator: ")[2]
    assert statement.startswith('CREATE SCHEMA "my marts" AUTHORIZATION ')
    with postgres_database.server.admin(postgres_database.name) as admin:
        admin.execute(b'CREATE SCHEMA "my marts"')
    assert "lacks USAGE on the schema my marts" in schema().found
    statement = (schema().fix or "").partition("administrator: ")[2]
    with postgres_database.server.admin(postgres_database.name) as admin:
        admin.execute(statement.encode())
    assert schema().fix is None


def test_a_missing_password_is_told_its_variable() -> None:
    """A server that asks for one says so before there is a session."""
    error = OperationalError("connection failed: fe_sendauth: no password supplied")
    told = translate("the database", error, broken=False)
    assert "PGPASSWORD" in (told.hint or "")


def test_only_this_table_is_refused(target: Engine) -> None:
    """What would meet all tables is told as such."""
    with pytest.raises(NotThisTable, match="read-only"), refusals("t", "t"):
        _run(target, "SET TRANSACTION READ ONLY", "CREATE TABLE t (id integer)")
    with pytest.raises(TableRefused, match="does not exist"), refusals("t", "t"):
        _run(target, "INSERT INTO t VALUES (1)")
