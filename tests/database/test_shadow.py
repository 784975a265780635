"""Tables replaced whole in MySQL: loaded under another name, shown in one step, fenced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pymysql.err import OperationalError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from retailmart.database import open_database
from retailmart.database.dialect import Read
from retailmart.database.shadow import ShadowTables
from retailmart.database.target import Target, drop_table
from retailmart.project.types import parse_type
from retailmart.tables import Field
from tests.support.services.mariadb import Database, DatabaseServer

FIELDS = (Field("id", parse_type("INT")), Field("total", parse_type("DECIMAL(18,2)")))
ONE = Target("mart_one", FIELDS, ("id",), None)
TWO = Target("mart_two", FIELDS, ("id",), None)


@pytest.fixture
def engine(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """A new database."""
    engine = open_database(database.url, tmp_path)
    yield engine
    engine.dispose()


def rows(*totals: str) -> Read:
    """Rows as the engine writes them for LOAD DATA."""

    def read(columns: str) -> Generator[pa.RecordBatch, None, None]:
        assert columns.startswith("concat(")
        lines = [f"{number},{total}\n" for number, total in enumerate(totals)]
        yield pa.RecordBatch.from_pydict({"line": lines})

    return read


def filling(*totals: str) -> Callable[[Target, Connection], None]:
    """Fill a table with these totals."""

    def fill(target: Target, connection: Connection) -> None:
        target.insert(connection, rows(*totals))

    return fill


def shown(database: Database, table: str) -> list[str]:
    """The totals that a reader sees."""
    return [str(total) for (total,) in database.query(f"SELECT total FROM {table} ORDER BY id")]


def tables(database: Database) -> set[str]:
    """The names of all tables."""
    return {name for (name,) in database.query("SHOW TABLES")}


def publish(engine: Engine, fence: int, **totals: str) -> None:
    """Replace tables by ones that hold a single total each."""
    with ShadowTables(engine, fence) as beside:
        for name, total in totals.items():
            beside.load(Target(name, FIELDS, ("id",), None), f"mark {fence}", filling(total))
        beside.show()


def test_readers_see_the_old_rows_until_all_tables_are_shown(
    engine: Engine, database: Database
) -> None:
    """Nothing of a table that is being loaded can be seen under its name."""
    publish(engine, 1, mart_one="1.10", mart_two="2.20")
    with ShadowTables(engine, 2) as beside:
        beside.load(ONE, "new", filling("10.00", "0.01"))
        beside.load(TWO, "new", filling("20.00"))
        assert (shown(database, "mart_one"), shown(database, "mart_two")) == (["1.10"], ["2.20"])
        beside.show()
        assert shown(database, "mart_one") == ["10.00", "0.01"]
        assert shown(database, "mart_two") == ["20.00"]
    assert tables(database) == {"mart_one", "mart_two"}
    with engine.connect() as connection:
        assert ONE.mark(connection) == "new"
        assert Target("none", FIELDS, ("id",), None).mark(connection) is None


def test_tables_are_shown_while_the_ledger_s_transaction_is_open(
    engine: Engine, database: Database
) -> None:
    """A transaction that wrote to other tables neither waits for the rename nor makes it wait."""
    publish(engine, 1, mart_one="1.10", mart_two="2.20")
    with ShadowTables(engine, 2) as beside:
        beside.load(ONE, "new", filling("10.00"))
        with engine.begin() as connection:
            connection.exec_driver_sql("SET SESSION lock_wait_timeout = 1")
            TWO.clear(connection, None)
            TWO.insert(connection, rows("20.00", "30.00"))
            assert TWO.totals(connection, None)[0] == 2
            beside.show()
            assert shown(database, "mart_two") == ["2.20"], "not before the commit"
    assert (shown(database, "mart_one"), shown(database, "mart_two")) == (
        ["10.00"],
        ["20.00", "30.00"],
    )


def test_readers_never_see_a_half_table(engine: Engine, database: Database) -> None:
    """A reader that looks all the time sees the old total or the new, of both tables together."""
    publish(engine, 1, mart_one="0.00", mart_two="0.00")
    over, seen, wrong = threading.Event(), set(), []

    def look() -> None:
        with database.connect(autocommit=True) as connection, connection.cursor() as cursor:
            while not over.is_set():
                cursor.execute("SELECT (SELECT SUM(total) FROM mart_one), COUNT(*) FROM mart_two")
                total, count = cursor.fetchone()
                seen.add(total)
                if count != 1 or total is None:
                    wrong.append((total, count))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(1, 15):
            publish(engine, number + 1, mart_one=f"{number}.00", mart_two=f"{number}.00")
    finally:
        over.set()
        reader.join()
    assert wrong == []
    assert len(seen) > 1


def test_what_attempts_left_over_is_dropped(engine: Engine, database: Database) -> None:
    """Tables of earlier fences go when publishing begins; others' tables stay."""
    for name in ("new_1_0", "old_2_7", "new_3_0", "new_9_0", "new_x_0", "files"):
        database.execute(f"CREATE TABLE retailmart_{name} (id INT)")
    with ShadowTables(engine, 3):
        assert tables(database) == {
            "retailmart_new_9_0",  # of a run that took over: this one will be told
            "retailmart_new_x_0",
            "retailmart_files",
        }


def test_a_run_that_wakes_late_shows_nothing(engine: Engine, database: Database) -> None:
    """Its tables are gone once the next holder publishes, and its rename fails as a whole."""
    publish(engine, 1, mart_one="1.10", mart_two="2.20")
    with (  # noqa: PT012
        pytest.raises(DBAPIError, match=r"1146|1017|doesn't exist"),
        ShadowTables(engine, 2) as late,
    ):
        late.load(ONE, "late", filling("666.00"))
        late.load(TWO, "late", filling("666.00"))
        publish(engine, 3, mart_one="3.30", mart_two="4.40")
        late.show()
    assert (shown(database, "mart_one"), shown(database, "mart_two")) == (["3.30"], ["4.40"])
    assert tables(database) == {"mart_one", "mart_two"}


def test_a_table_that_cannot_be_filled_leaves_nothing(engine: Engine, database: Database) -> None:
    """The old one stays as it is, and no other name is left behind."""
    publish(engine, 1, mart_one="1.10")
    with pytest.raises(Exception, match="does not take a value"), ShadowTables(engine, 2) as beside:
        beside.load(ONE, "new", filling("10.00", "a lot"))
    assert shown(database, "mart_one") == ["1.10"]
    assert tables(database) == {"mart_one"}


def test_a_reader_s_long_transaction_is_waited_for_and_then_told(
    engine: Engine, database: Database
) -> None:
    """The rename gives up after its time, nothing is shown, and the old table is as it was."""
    publish(engine, 1, mart_one="1.10")
    with database.connect() as reader, reader.cursor() as cursor:
        cursor.execute("SELECT * FROM mart_one")
        with ShadowTables(engine, 2) as beside:
            beside.load(ONE, "new", filling("10.00"))
            with engine.begin() as connection:
                connection.exec_driver_sql("SET SESSION lock_wait_timeout = 1")
                # The pool hands the same connection out again: it is the one that renames.
            with pytest.raises(DBAPIError, match="1205"):
                beside.show()
    assert shown(database, "mart_one") == ["1.10"]


def test_a_server_that_asks_for_a_file_gets_nothing(
    engine: Engine, mariadb: DatabaseServer, tmp_path: Path
) -> None:
    """The name in LOAD DATA is never opened, even where such a file is there."""
    secret = tmp_path / "secret"
    secret.write_text("1,1.00\n")
    with engine.begin() as connection:
        ONE.recreate(connection)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="nobody offered"):
        connection.exec_driver_sql(
            f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE mart_one FIELDS TERMINATED BY ','"
        )
    with engine.connect() as connection:
        assert ONE.totals(connection, None)[0] == 0


def test_rows_that_stop_coming_are_not_a_whole_file(engine: Engine, database: Database) -> None:
    """Where the engine fails half way, nothing of what was sent stays."""

    def read(columns: str) -> Generator[pa.RecordBatch, None, None]:
        yield pa.RecordBatch.from_pydict({"line": ["1,1.00\n"]})
        raise RuntimeError("the engine broke")

    with engine.begin() as connection:
        ONE.recreate(connection)
    with pytest.raises(RuntimeError, match="the engine broke"), engine.begin() as connection:
        ONE.insert(connection, read)
    assert shown(database, "mart_one") == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,abc\n", "Incorrect|truncated"),
        ("1,1.005\n", "truncated"),
        ("1,99999999999999999999.00\n", "(?i)out of range"),
        ("NULL,1.00\n", "NULL"),
        ("1,\n", "Incorrect|truncated"),
        ("1\n", "contain data"),
        ("1,1.00,5\n", "more data|truncated"),
    ],
)
def test_what_the_server_only_warns_of_is_an_error(
    engine: Engine, database: Database, line: str, said: str
) -> None:
    """LOAD DATA LOCAL bends values with a warning; here none goes in bent."""

    def read(columns: str) -> Generator[pa.RecordBatch, None, None]:
        yield pa.RecordBatch.from_pydict({"line": ["9,0.50\n", line]})

    with engine.begin() as connection:
        ONE.recreate(connection)
    with pytest.raises(Exception, match=said), engine.begin() as connection:
        ONE.insert(connection, read)
    assert shown(database, "mart_one") == []


@pytest.fixture
def reader(mariadb: DatabaseServer, database: Database) -> Iterator[Database]:
    """An account that was granted nothing but parts of the published tables."""
    mariadb.require_ours("makes an account")
    account = replace(database, user=f"reader_{database.name}"[:32], password="r3ad")
    mariadb.ask(f"CREATE USER `{account.user}`@`%` IDENTIFIED BY 'r3ad'")
    yield account
    mariadb.ensure()
    mariadb.ask(f"DROP USER `{account.user}`@`%`")


def test_what_people_granted_on_a_table_outlives_its_replacement(
    engine: Engine, database: Database, mariadb: DatabaseServer, reader: Database
) -> None:
    """The server grants on names: the new table has the old one's readers, of columns too."""
    publish(engine, 1, mart_one="1.10", mart_two="2.20")
    for grant in ("SELECT, UPDATE ON {}.mart_one", "SELECT (id) ON {}.mart_two"):
        mariadb.ask(f"GRANT {grant.format(f'`{database.name}`')} TO `{reader.user}`@`%`")
    granted = sorted(mariadb.ask(f"SHOW GRANTS FOR `{reader.user}`@`%`"))
    assert len(granted) == 3
    for fence in (2, 3):
        publish(engine, fence, mart_one=f"{fence}.00", mart_two="9.00")
        assert shown(reader, "mart_one") == [f"{fence}.00"]
        assert reader.query("SELECT id FROM mart_two") == [(0,)]
        with pytest.raises(OperationalError, match="SELECT command denied"):
            reader.query("SELECT total FROM mart_two")
        assert sorted(mariadb.ask(f"SHOW GRANTS FOR `{reader.user}`@`%`")) == granted
    # A table that comes back after it was dropped has them as well: people revoke what is too much.
    with engine.begin() as connection:
        drop_table(connection, "mart_one")
    publish(engine, 4, mart_one="4.00")
    assert shown(reader, "mart_one") == ["4.00"]
    assert sorted(mariadb.ask(f"SHOW GRANTS FOR `{reader.user}`@`%`")) == granted


def test_a_column_that_goes_and_returns_has_its_readers(
    engine: Engine, database: Database, mariadb: DatabaseServer, reader: Database
) -> None:
    """What was granted on other columns stays in force meanwhile, and no error comes of it."""
    publish(engine, 1, mart_one="1.10")
    mariadb.ask(f"GRANT SELECT (id, total) ON `{database.name}`.mart_one TO `{reader.user}`@`%`")

    def only_ids(target: Target, connection: Connection) -> None:
        connection.exec_driver_sql(f"INSERT INTO {target.name} VALUES (7)")

    with ShadowTables(engine, 2) as beside:
        beside.load(Target("mart_one", FIELDS[:1], ("id",), None), "mark", only_ids)
        beside.show()
    assert reader.query("SELECT id FROM mart_one") == [(7,)]
    publish(engine, 3, mart_one="3.00")
    assert shown(reader, "mart_one") == ["3.00"]
