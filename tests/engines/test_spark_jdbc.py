"""Large tables by JDBC: what workers read and write is what passes the driver elsewhere."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine as Source

from retailmart.database import open_database
from retailmart.database.dialect import dialect_of
from retailmart.database.source import extract_of, read_table
from retailmart.engines.spark.engine import SparkEngine
from retailmart.engines.spark.jdbc import Jdbc
from retailmart.errors import GateFailed, KeyClash, RetailmartError, SettingsError, Unavailable
from retailmart.lake import Lake, place_of
from retailmart.ledger.values import SourceRecord
from retailmart.project.settings import SparkSettings
from retailmart.project.table import Reading, Table
from retailmart.steps.sources import LoadedTable, Sources, load_table, look
from retailmart.storage.local import LocalFolder
from retailmart.tables import DatabaseAddress
from retailmart.template import write_project
from tests.backends import shop_tables
from tests.conftest import HEADER, Shop
from tests.database.test_source_on_mysql import TYPES, insert
from tests.services.mariadb import Database, DatabaseServer, MariaDB, make_certificates
from tests.services.spark import SparkConnect, environment

pytestmark = pytest.mark.spark

AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
LINES = """-- about: each sale, in columns of every type
-- refresh: months
-- partitions: [_month]
-- key: [customer_id, words_of_key]
-- publish: true
SELECT
    customer_id,
    CAST(customer_id AS VARCHAR) || ' of ' || product_name AS words_of_key,
    CAST(customer_id AS BIGINT) * 1000000007 AS large,
    sales_date,
    CAST(sales_date AS TIMESTAMP) AS moment,
    customer_id % 2 = 0 AS is_even,
    CAST(customer_id AS DOUBLE) / 7 AS share,
    CASE WHEN customer_id % 3 = 0 THEN NULL ELSE product_name END AS words,
    total_cost,
    CAST(total_cost AS DECIMAL(38,10)) AS exact,
    _month
FROM sales
"""


@pytest.fixture
def engine(spark_session: object, jdbc_jar: str, tmp_path: Path) -> Iterator[SparkEngine]:
    """Spark in the session that is there, which learns of the driver by the setting alone."""
    opened = SparkEngine(
        SparkSettings(jdbc_jar=jdbc_jar, jdbc_from=1), [tmp_path], tmp_path / "private"
    )
    yield opened
    opened.close()


@pytest.fixture
def source(database: Database, tmp_path: Path) -> Iterator[Source]:
    """A database that is only read."""
    opened = open_database(database.url, tmp_path, must_exist=True)
    yield opened
    opened.dispose()


@pytest.fixture
def target(database: Database, tmp_path: Path) -> Iterator[Source]:
    """The same database, written to."""
    opened = open_database(database.url, tmp_path)
    yield opened
    opened.dispose()


def taken(engine: SparkEngine, source: Source, name: str) -> pa.Table:
    """A table as the workers read it."""
    extract = extract_of(source, name, 0)
    assert extract is not None
    relation = engine.take_over(extract)
    assert engine.fields(f"SELECT * FROM {relation}") == extract.fields
    batches = list(engine.batches(f"SELECT * FROM {relation}", 50_000))
    wanted = read_table(source, name).rows.schema
    return pa.Table.from_batches(batches, wanted) if batches else wanted.empty_table()


def sorted_by_all(rows: pa.Table) -> pa.Table:
    """Rows in an order of their own."""
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


# reading


def test_every_type_is_what_the_driver_reads(
    engine: SparkEngine, database: Database, source: Source
) -> None:
    """Each value of each type is the same, and so are NULL and the columns' types."""
    columns = ", ".join(f"`v {n}'` {kind}" for n, (kind, _, _) in enumerate(TYPES))
    database.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
    longest = max(len(values) for _, _, values in TYPES)
    for row in range(longest + 1):
        given = (values[row][0] if row < len(values) else "NULL" for _, _, values in TYPES)
        database.execute(
            "SET SESSION sql_mode = ''", f"INSERT INTO t VALUES ({row}, {', '.join(given)})"
        )
    found = taken(engine, source, "t").sort_by("id")
    wanted = read_table(source, "t").rows
    assert found.num_rows == longest + 1
    for name in wanted.column_names:
        assert found.column(name).to_pylist() == wanted.column(name).to_pylist(), name


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("PRIMARY KEY (id)", 2),
        ("PRIMARY KEY (id, s)", 2),
        ("PRIMARY KEY (s, id)", 1),
        ("KEY (m)", 1),
    ],
)
def test_parts_of_a_table_meet_without_a_gap(
    engine: SparkEngine, database: Database, source: Source, key: str, parts: int
) -> None:
    """Whatever the key, each row comes once: with gaps, below zero and twice the same."""
    database.execute(f"CREATE TABLE t (id BIGINT, m DECIMAL(12,2), s VARCHAR(20), {key})")
    rows: list[tuple[Any, ...]] = [
        (n * 7 - 300_000, n / 100, f"s{n} 😀\\'") for n in range(110_000)
    ]
    rows += [(9_000_000_000, 0, "")] if "PRIMARY" in key else [(1, None, None), (1, None, None)]
    insert(database, "INSERT INTO t VALUES (%s, %s, %s)", rows)
    database.execute("ANALYZE TABLE t")
    extract = extract_of(source, "t", 1)
    assert extract is not None
    assert len(extract.queries) == parts
    found = taken(engine, source, "t")
    assert sorted_by_all(found).equals(sorted_by_all(read_table(source, "t").rows))


def test_a_table_without_rows_keeps_its_types(
    engine: SparkEngine, database: Database, source: Source
) -> None:
    """An empty table is a table."""
    database.execute("CREATE TABLE t (id INT PRIMARY KEY, m DECIMAL(12,2), b BLOB, d DATE)")
    assert taken(engine, source, "t").num_rows == 0


@pytest.mark.parametrize(
    ("kind", "value"),
    [("DATE", "'0000-00-00'"), ("BIGINT UNSIGNED", "18446744073709551615")],
)
def test_a_value_that_fits_no_type_is_told_in_the_same_words(
    engine: SparkEngine, database: Database, source: Source, kind: str, value: str
) -> None:
    """Table, column and cure, whoever has read the value."""
    database.execute(
        "SET SESSION sql_mode = ''",
        f"CREATE TABLE t (id INT PRIMARY KEY, v {kind})",
        f"INSERT INTO t VALUES (1, {value})",
    )
    extract = extract_of(source, "t", 0)
    assert extract is not None
    with pytest.raises(RetailmartError) as told:
        engine.take_over(extract)
    with pytest.raises(RetailmartError) as wanted:
        read_table(source, "t")
    assert told.value.message.split(": a value")[0] == wanted.value.message.split(": a value")[0]
    assert told.value.hint == wanted.value.hint


def test_small_tables_and_views_are_left_to_the_driver(database: Database, source: Source) -> None:
    """What has fewer rows than the setting says, by the server's estimate, and what has none."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE VIEW v AS SELECT * FROM t",
        "ANALYZE TABLE t",
    )
    assert extract_of(source, "t", 2) is not None
    assert extract_of(source, "t", 3) is None
    assert extract_of(source, "v", 1) is None


# source tables in the lake


@dataclass
class Room:
    """A source's table `t`, and the lake it is brought to."""

    source: Source
    engine: SparkEngine
    lake: Lake
    table: Table
    record: SourceRecord | None = None
    batches: list[int] = field(default_factory=list)

    def load(self) -> LoadedTable:
        """One batch."""
        sources = Sources(("shop",), lambda _: self.source, large=1)
        found = look(sources, "shop", self.table, self.record)
        self.batches.append(len(self.batches) + 1)
        whole = partial(look, sources, "shop", self.table, None)
        day, batch = date(2024, 1, 1), self.batches[-1]
        loaded = load_table(self.engine, self.lake, found, whole, day, batch)
        if loaded.change:
            self.lake.commit(loaded.change, batch)
        self.record = loaded.record
        loaded.define(self.engine)
        return loaded

    def seen(self, columns: str = "id, v") -> list[tuple[Any, ...]]:
        """What marts see."""
        return self.engine.rows(f"SELECT {columns} FROM t ORDER BY id")

    def meanwhile(self, patch: pytest.MonkeyPatch, *work: Callable[[], None]) -> list[int]:
        """Let something happen each time that the workers have read; how often they have."""
        read, waiting, times = self.engine.take_over, list(work), [0]

        def busy(extract: Any) -> str | None:
            relation = read(extract)
            times[0] += 1
            if waiting:
                waiting.pop(0)()
            return relation

        patch.setattr(self.engine, "take_over", busy)
        return times


@pytest.fixture
def room(engine: SparkEngine, database: Database, source: Source, tmp_path: Path) -> Room:
    """A table of three rows, nothing of it in the lake yet."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9), changed DATETIME(6))",
        "INSERT INTO t VALUES (1, 'a', '2024-01-01'), (2, 'b', '2024-01-01'),"
        " (3, 'c', '2024-01-02')",
        "ANALYZE TABLE t",
    )
    lake = Lake(place_of(LocalFolder(tmp_path / "lake"), tmp_path / "workspace"))
    return Room(source, engine, lake, Table("t", "t", key=("id",)))


def test_an_unmoved_table_is_not_read_again(
    room: Room, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server tells by itself that nothing has moved, and what has moved is seen."""
    times = room.meanwhile(monkeypatch)
    assert room.load().change is not None
    assert room.load().change is None
    assert times == [1]
    database.execute("UPDATE t SET v = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3")
    loaded = room.load()
    assert times == [2]
    assert room.seen() == [(1, "b"), (2, "a"), (3, "c")]
    assert loaded.touched is not None
    assert len(room.engine.rows(f"SELECT * FROM {loaded.touched}")) == 4


def test_a_table_that_changes_while_it_is_read_is_read_again(
    room: Room, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, and a column, that come meanwhile are there; the next look finds nothing moved."""
    times = room.meanwhile(
        monkeypatch,
        lambda: database.execute("ALTER TABLE t ADD COLUMN w INT DEFAULT 7"),
        lambda: database.execute("UPDATE t SET v = 'z' WHERE id = 2"),
    )
    room.load()
    assert times == [3]
    assert room.seen("id, v, w") == [(1, "a", 7), (2, "z", 7), (3, "c", 7)]
    assert room.load().change is None
    assert times == [3]


def test_a_table_that_never_rests_is_told(
    room: Room, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three tries the run says so, with what to do."""

    def change() -> None:
        database.execute("UPDATE t SET v = CONCAT(v, 'x') WHERE id = 2")

    room.meanwhile(monkeypatch, change, change, change)
    with pytest.raises(RetailmartError, match="'t' was changed 3 times while it was read") as told:
        room.load()
    assert "cursor" in str(told.value.hint)


def test_by_cursor_only_the_first_read_is_by_the_workers(
    room: Room, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes and changes while they read is not missed, now or by the next run."""
    room.table = Table("t", "t", key=("id",), reading=Reading.INCREMENTAL, cursor="changed")

    def change() -> None:
        database.execute(
            "INSERT INTO t VALUES (4, 'd', '2024-01-02')",
            "UPDATE t SET v = 'z', changed = '2024-01-03' WHERE id = 1",
        )

    times = room.meanwhile(monkeypatch, change)
    room.load()
    assert room.seen() == [(1, "z"), (2, "b"), (3, "c"), (4, "d")]
    database.execute("UPDATE t SET v = 'y' WHERE id = 4", "INSERT INTO t VALUES (5, 'e', NULL)")
    room.load()
    assert room.seen() == [(1, "z"), (2, "b"), (3, "c"), (4, "y"), (5, "e")]
    assert room.load().change is None
    assert times == [1]


# publishing


@dataclass(frozen=True)
class MySQLBackend:
    """Folders of this machine, two databases of a server, large tables by JDBC."""

    folder: Path
    database: Database
    shop: Database
    jar: str
    more: str = ""
    engine: str = "spark"

    def settle(self) -> Shop:
        """Write the project: sales, their lines as a mart, and who bought by month."""
        write_project(self.folder, sample=False)
        keep = {"marts": {"customer_monthly_purchase"}, "feeds": {"sales"}, "tables": set(_TABLES)}
        for kind, names in keep.items():
            for path in (self.folder / kind).iterdir():
                if path.stem not in names:
                    path.unlink()
        (self.folder / "marts" / "line.sql").write_text(LINES)
        path = self.folder / "retailmart.yml"
        kept = [
            line
            for line in path.read_text().splitlines()
            if not line.startswith(("database:", "sources:", "engine:"))
        ]
        own = [
            f"database: {_named(self.database, 'RETAIL')}",
            f"sources: {{shop: '{_named(self.shop, 'SHOP')}'}}",
            f"engine: {self.engine}",
            f"spark: {{jdbc_jar: {self.jar}, jdbc_from: 1{self.more}}}",
        ]
        path.write_text("\n".join([*own, *kept]) + "\n")
        secrets = {"RETAIL": self.database.password, "SHOP": self.shop.password}
        text = "".join(f"{name}={value}\n" for name, value in secrets.items())
        (self.folder / ".env").write_text(text)
        return Shop(self.folder)

    def tables(self) -> set[str]:
        """The names of all tables beside the published ones and the ledger's."""
        return {name for (name,) in self.database.query("SHOW TABLES")}


_TABLES = ("customer", "store", "sales_team")


def _named(database: Database, secret: str) -> str:
    place = f"{database.host}:{database.port}/{database.name}"
    return f"mysql://{database.user}:${{{secret}}}@{place}"


def published(database: Database, table: str) -> list[tuple[Any, ...]]:
    """All rows of a published table, each value as the database has it."""
    return database.query(f"SELECT * FROM `{table}` ORDER BY 1, 2")


def lines(count: int) -> list[str]:
    """Sales of as many customers, in three months."""
    return [
        f"{n},1,te'a\\ ₦😀 {n % 5},2024-0{1 + n % 3}-15,1,{n % 977}.{n % 100:02d},1,"
        f"{n % 977}.{n % 100:02d}"
        for n in range(1, count + 1)
    ]


def drop(shop: Shop, count: int, name: str = "sales_a.csv") -> None:
    """Put a sales file into landing."""
    shop.drop(name, "\n".join([HEADER, *lines(count)]) + "\n")


@pytest.fixture
def backend_of(
    mariadb: DatabaseServer, jdbc_jar: str, tmp_path: Path
) -> Iterator[Callable[..., MySQLBackend]]:
    """Makes a project's folder and databases; the shop's tables are in them."""
    made: list[MySQLBackend] = []

    def make(name: str = "shop", more: str = "") -> MySQLBackend:
        backend = MySQLBackend(
            tmp_path / name, mariadb.database(), mariadb.database(), jdbc_jar, more
        )
        backend.shop.execute(*shop_tables())
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.database.drop()
        backend.shop.drop()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often workers wrote and read a table."""
    times = {"write": 0, "fetch": 0}

    def counting(name: str) -> Callable[..., Any]:
        work = getattr(Jdbc, name)

        def count(*given: Any) -> Any:
            times[name] += 1
            return work(*given)

        return count

    for name in times:
        monkeypatch.setattr(Jdbc, name, counting(name))
    return times


def test_what_workers_read_and_write_is_what_duckdb_publishes(
    spark_session: object,
    backend_of: Callable[..., MySQLBackend],
    counted: dict[str, int],
    tmp_path: Path,
) -> None:
    """200,000 rows of every type, from a table of as many customers, in a whole run."""
    count = 200_000
    by_jdbc = backend_of()
    customers = [
        (n, f"F{n}", f"L\\'{n}", "", "60000", "9000", date(2020, 1, 1))
        for n in range(10, count + 1)
    ]
    insert(by_jdbc.shop, "INSERT INTO customer VALUES (%s, %s, %s, %s, %s, %s, %s)", customers)
    shop = by_jdbc.settle()
    drop(shop, count)
    shop.run()
    assert counted == {"write": 2, "fetch": len(_TABLES)}
    other = replace(
        by_jdbc,
        folder=tmp_path / "duckdb",
        database=backend_of("other").database,
        engine="duckdb",
    )
    twin = other.settle()
    drop(twin, count)
    twin.run()
    for table in ("line", "customer_monthly_purchase"):
        found = published(by_jdbc.database, table)
        assert len(found) == count
        assert found == published(other.database, table), table
    drop(shop, 2, "sales_b.csv")
    with pytest.raises(KeyClash):  # a day's rows go by keys, as ever: not by the workers
        shop.run()
    assert counted["write"] == 2


def test_a_key_that_does_not_tell_rows_apart_is_told_in_the_same_words(
    spark_session: object, backend_of: Callable[..., MySQLBackend]
) -> None:
    """What the server says, and which key it is, whoever wrote the rows; nothing is left behind."""
    told = {}
    for engine in ("spark", "duckdb"):
        backend = replace(backend_of(engine), engine=engine)
        shop = backend.settle()
        shop.drop("sales_a.csv", "\n".join([HEADER, *lines(9), *lines(9)[:1]]) + "\n")
        with pytest.raises(KeyClash) as caught:
            shop.run(AS_OF)
        told[engine] = str(caught.value)
        assert not [name for name in backend.tables() if "retailmart_new" in name]
        assert "line" not in backend.tables()
    assert "Duplicate entry" in told["spark"]
    assert "Its key is customer_id, words_of_key" in told["spark"]
    assert told["spark"] == told["duckdb"]


def again(shop: Shop) -> None:
    """Define the mart anew, so that its table is replaced whole."""
    path = shop.folder / "marts" / "line.sql"
    path.write_text(path.read_text().replace("/ 7 AS", "/ 9 AS"))


def test_a_run_that_dies_while_workers_write_leaves_the_old_table(
    spark_session: object,
    backend_of: Callable[..., MySQLBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers see the old rows until the next run has all of the new ones."""
    backend = backend_of()
    shop = backend.settle()
    drop(shop, 100)
    shop.run()
    before = published(backend.database, "line")
    again(shop)
    write = Jdbc.write

    def dying(self: Jdbc, frame: Any, *rest: Any) -> None:
        write(self, frame.limit(40), *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Jdbc, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    assert published(backend.database, "line") == before
    assert not [name for name in backend.tables() if "retailmart_new" in name]
    shop.run()
    after = published(backend.database, "line")
    assert len(after) == 100
    assert [row[:6] for row in after] == [row[:6] for row in before]
    assert after != before


def test_rows_too_many_or_too_few_are_not_shown(
    spark_session: object,
    backend_of: Callable[..., MySQLBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What workers wrote is proven like anything else: a run that does not add up shows nothing."""
    backend = backend_of()
    shop = backend.settle()
    drop(shop, 100)
    shop.run()
    before = published(backend.database, "line")
    again(shop)
    write = Jdbc.write

    def too_few(self: Jdbc, frame: Any, *rest: Any) -> None:
        write(self, frame.limit(99), *rest)

    def too_many(self: Jdbc, frame: Any, *rest: Any) -> None:
        write(self, frame, *rest)
        others = "customer_id + 1000 AS customer_id"
        write(self, frame.selectExpr(others, *frame.columns[1:]), *rest)

    for wrong, words in ((too_few, "holds 99 rows, the mart 100"), (too_many, "holds 200 rows")):
        with monkeypatch.context() as patch:
            patch.setattr(Jdbc, "write", wrong)
            with pytest.raises(GateFailed, match=words):
                shop.run()
        assert published(backend.database, "line") == before


def test_a_task_that_was_tried_twice_doubles_no_row(
    spark_session: object,
    backend_of: Callable[..., MySQLBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key refuses what is there already; the table is then filled the other way, and right."""
    backend = backend_of()
    shop = backend.settle()
    drop(shop, 100)
    write, tried = Jdbc.write, []

    def twice(self: Jdbc, *given: Any) -> None:
        write(self, *given)
        tried.append(given)
        write(self, *given)

    monkeypatch.setattr(Jdbc, "write", twice)
    shop.run()
    assert len(tried) == 2
    assert len(published(backend.database, "line")) == 100


# the way there


def address_of(target: Source) -> DatabaseAddress:
    """Where workers connect to."""
    address = dialect_of(target).address(target)
    assert address is not None
    return address


def test_a_few_rows_and_names_that_spark_cannot_write_pass_the_driver(
    spark_session: object, jdbc_jar: str, target: Source, tmp_path: Path
) -> None:
    """Below the setting's count, without a driver's jar, and for a name with its own quotes."""
    for settings, query in (
        (SparkSettings(jdbc_jar=jdbc_jar, jdbc_from=6), "SELECT 1 AS id"),
        (SparkSettings(jdbc_from=1), "SELECT 1 AS id"),
        (SparkSettings(jdbc_jar=jdbc_jar, jdbc_from=1), 'SELECT 1 AS "i`d"'),
    ):
        engine = SparkEngine(settings, [], tmp_path / "private")
        assert not engine.hand_over(query, address_of(target), "t", 5)
        engine.close()


@pytest.mark.parametrize("trusted", [True, False])
def test_the_way_is_as_safe_as_the_drivers(
    engine: SparkEngine, mariadb: DatabaseServer, tmp_path: Path, trusted: bool
) -> None:
    """By TLS where the URL names an authority, and only to a server which that has signed for."""
    mariadb.require_ours("needs the server's authority")
    assert isinstance(mariadb, MariaDB)
    database = mariadb.database(require_tls=True)
    ca = mariadb.ca if trusted else make_certificates(tmp_path / "other").ca
    there = database.at(host="localhost")
    opened = open_database(f"{there.url}?ssl_ca={ca}", tmp_path)
    with there.connect(ssl={"ca": str(mariadb.ca)}, autocommit=True) as connection:
        connection.cursor().execute("CREATE TABLE t (id INT PRIMARY KEY)")
    address = address_of(opened)
    if trusted:
        assert engine.hand_over("SELECT 1 AS id", address, "t", 1)
        assert taken(engine, opened, "t").to_pylist() == [{"id": 1}]
    else:
        with pytest.raises(RetailmartError, match="the table t cannot be written to by JDBC"):
            engine.hand_over("SELECT 1 AS id", address, "t", 1)
    opened.dispose()
    database.drop()


@pytest.mark.parametrize("wrong", [{"password": "hunter2-wrong"}, {"port": 9}])
def test_an_error_shows_no_password(
    engine: SparkEngine, target: Source, source: Source, database: Database, wrong: dict[str, Any]
) -> None:
    """Whatever goes wrong on the way, no part of what is told holds it, and the cure is told."""
    database.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    address = replace(address_of(target), **wrong)
    extract = extract_of(source, "t", 0)
    assert extract is not None
    for work in (
        lambda: engine.hand_over("SELECT 1 AS id", address, "t", 1),
        lambda: engine.take_over(replace(extract, address=address)),
    ):
        with pytest.raises(RetailmartError, match="by JDBC: ") as told:
            work()
        assert isinstance(told.value, Unavailable) == ("port" in wrong)
        assert "jdbc_jar" in str(told.value.hint)
        assert address.user not in str(told.value)
        shown = "".join(traceback.format_exception(told.value)) + repr(extract) + repr(address)
        assert address.password not in shown


def run_apart(shop: Shop) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "retailmart", "run", "--as-of", "2024-04-01"],
        cwd=shop.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_connect_server_gets_the_driver_from_here(
    spark_connect: SparkConnect, backend_of: Callable[..., MySQLBackend]
) -> None:
    """Reads, writes and a key that is refused, which such a server can't tell by itself."""
    backend = backend_of("remote", f", remote: '{spark_connect.remote}'")
    shop = backend.settle()
    drop(shop, 100)
    done = run_apart(shop)
    assert done.returncode == 0, done.stderr
    before = published(backend.database, "line")
    assert len(before) == 100
    again(shop)
    drop(shop, 1, "sales_b.csv")
    done = run_apart(shop)
    assert done.returncode == 1, done.stderr
    assert "Duplicate entry" in done.stderr
    assert published(backend.database, "line") == before


def test_a_run_shows_no_password(backend_of: Callable[..., MySQLBackend]) -> None:
    """Neither run nor Spark says it, in a session of its own, on a good day or a bad one."""
    more = ", master: 'local[1]', conf: {spark.driver.memory: 1g, spark.log.level: INFO}"
    backend = backend_of("own", more)
    shop = backend.settle()
    drop(shop, 9)
    told = ""
    for file in (None, "sales_b.csv"):
        if file:
            again(shop)
            drop(shop, 1, file)  # the same key once more: refused
        done = run_apart(shop)
        told += done.stdout + done.stderr
        assert done.returncode == (1 if file else 0), told
    assert len(published(backend.database, "line")) == 9
    assert "Duplicate entry" in told
    for database in (backend.database, backend.shop):
        assert database.password not in told


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"PK", "is no JDBC driver of MariaDB's or MySQL's")],
)
def test_a_jar_that_is_not_there_is_told_with_the_cure(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """Before anything of Spark is started."""
    jar = tmp_path / "driver.jar"
    if content is not None:
        jar.write_bytes(content)
    with pytest.raises(SettingsError, match=words) as told:
        SparkEngine(SparkSettings(jdbc_jar=str(jar)), [], tmp_path)
    assert "apt install libmariadb-java" in str(told.value.hint)
