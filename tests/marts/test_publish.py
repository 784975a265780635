"""Publish: only rows that differ travel, and the ledger's word is in the same transaction."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from retailmart.database import open_database, shadow
from retailmart.database.mysql.dialect import MySQL
from retailmart.database.shadow import Load, ShadowTables, Stopped
from retailmart.database.target import Target
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import RetailmartError
from retailmart.ledger.batches import Batches
from retailmart.project.types import parse_type
from retailmart.tables import Field
from tests.support.services.mariadb import Database, DatabaseServer
from tests.support.shop import Called, Shop, all_marts, keep_only, sale

pytestmark = pytest.mark.every_database

_PURCHASES = "customer_monthly_purchase"
_COLUMNS = "customer_id, first_name, monthly_total, _month"


@pytest.fixture
def marts() -> Collection[str]:
    """One that is published; tests about several say so."""
    return (_PURCHASES,)


def changed(shop: Shop) -> dict[str, int | None]:
    """Run, and tell how many published rows of each mart have changed."""
    (batch,) = shop.run().batches
    return {line.name: line.changed for line in batch.marts if line.published_as}


@pytest.mark.every_engine
def test_only_rows_that_differ_travel(shop: Shop) -> None:
    """A file that changes one customer of many changes one row, which counts once."""
    shop.sales("sales_a.csv", [sale(n) for n in range(1, 10)])
    assert changed(shop)[_PURCHASES] == 9
    shop.sales("sales_b.csv", [sale(4)])
    assert changed(shop)[_PURCHASES] == 1
    shop.sales("sales_c.csv", [sale(4, day="2024-02-01")])
    assert changed(shop)[_PURCHASES] == 1
    columns = "customer_id, monthly_total"
    assert shop.published(_PURCHASES, columns).count((4, 20)) == 1


@pytest.mark.every_engine
def test_rows_of_untouched_months_stay_as_they_lie(shop: Shop) -> None:
    """What somebody wrote into January is not looked at by a run of March."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    shop.backend.execute(f"UPDATE {_PURCHASES} SET first_name = 'noted' WHERE customer_id = 1")
    shop.sales("sales_b.csv", [sale(day="2024-03-01")])
    shop.run()
    assert (1, "noted", 10, "2024-01") in shop.published(_PURCHASES, _COLUMNS)


@all_marts
def test_a_table_that_takes_no_row_is_held_back_with_those_it_must_balance_with(
    shop: Shop,
) -> None:
    """They stay as they were and the run says why; the next run after the fix shows all."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    tables = (_PURCHASES, "sales_team_incentive", "declining_customers")
    before = {table: shop.published(table) for table in tables}
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON sales_team_incentive "
    refuse += {
        "sqlite": "BEGIN SELECT RAISE(ABORT, 'no room'); END",
        "mysql": "FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no room'",
        "postgres": "EXECUTE FUNCTION refuse()",
    }[shop.backend.speaks]
    if shop.backend.speaks == "postgres":
        shop.backend.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no room'; END $$"
        )
    shop.backend.execute(refuse)
    shop.sales("sales_b.csv", [sale(2), sale(store=2, person=3)])
    for _ in range(2):  # "nothing to do" must not hide it
        held = {one.mart: one for one in shop.run().held}
        assert held.keys() == set(tables)
        assert "no room" in held["sales_team_incentive"].message
        assert held[_PURCHASES].cause == "sales_team_incentive"
        assert {table: shop.published(table) for table in tables} == before
        with shop.open().ledger() as ledger:
            assert ledger.batches.unfinished() is None
            assert ledger.files.count() == {"loaded": 2}
    on = " ON sales_team_incentive" if shop.backend.speaks == "postgres" else ""
    shop.backend.execute(f"DROP TRIGGER refuse{on}")
    assert shop.run().held == ()
    assert shop.run().nothing_to_do
    assert len(shop.published("sales_team_incentive")) == 2
    columns = "customer_id, monthly_total"
    assert shop.published(_PURCHASES, columns) == [(1, 20), (2, 10)]


@pytest.mark.every_engine
def test_published_money_is_exact(shop: Shop) -> None:
    """Cents of large and negative totals come back as they are in the mart."""
    prices = ["99999999.99", "-0.01", "0.10", "0.20"]
    shop.sales("sales_a.csv", [sale(n, price=price) for n, price in enumerate(prices, 1)])
    shop.run()
    mart = [(n, f"{total:.2f}") for n, total in shop.mart(_PURCHASES, "customer_id, monthly_total")]
    columns = "customer_id, monthly_total"
    shown = [(n, f"{total:.2f}") for n, total in shop.published(_PURCHASES, columns)]
    assert shown == mart
    assert [total for _, total in mart] == prices


def test_rows_and_the_ledgers_record_come_together(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ledger can't record what is published, readers see none of it."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    before = shop.published(_PURCHASES)

    def refused(*_: object) -> None:
        raise OSError("cut off")

    shop.sales("sales_b.csv", [sale()])
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "mark_published", refused)
        with pytest.raises(OSError, match="cut off"):
            shop.run()
    assert shop.published(_PURCHASES) == before
    shop.run()
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 20), (2, 10)]


def test_a_table_that_is_shown_but_not_known_is_not_loaded_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between the rename and the ledger's COMMIT leaves a table that tells so."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    show = shadow.ShadowTables.show

    def dying(self: shadow.ShadowTables, connection: Connection | None = None) -> None:
        show(self, connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(shadow.ShadowTables, "show", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.run()
    monkeypatch.undo()
    loaded = []
    load = shadow.ShadowTables.load

    def counting(self: shadow.ShadowTables, target: Any, *rest: Any) -> None:
        loaded.append(target.name)
        load(self, target, *rest)

    monkeypatch.setattr(shadow.ShadowTables, "load", counting)
    (batch,) = shop.run().batches
    assert batch.recovered
    # Where tables are shown in the ledger's own transaction, they are gone with it.
    assert bool(loaded) == (shop.backend.speaks != "mysql")
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 10), (2, 10)]
    shop.sales("sales_b.csv", [sale()])
    assert changed(shop)[_PURCHASES] == 1
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 20), (2, 10)]


def test_a_shown_table_that_was_changed_since_is_loaded_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark is not believed: its rows and sums are."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    show = shadow.ShadowTables.show

    def dying(self: shadow.ShadowTables, connection: Connection | None = None) -> None:
        show(self, connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(shadow.ShadowTables, "show", dying)
    with pytest.raises(KeyboardInterrupt):
        shop.run()
    monkeypatch.undo()
    if shop.backend.speaks == "mysql":
        shop.backend.execute(f"DELETE FROM {_PURCHASES} WHERE customer_id = 1")
    shop.run()
    assert shop.published(_PURCHASES, "customer_id, monthly_total") == [(1, 10), (2, 10)]


@all_marts
def test_a_table_without_months_that_somebody_changed_is_replaced_whole(shop: Shop) -> None:
    """What is not cut by months goes in again, and readers see all of it or none."""
    shop.sales(
        "sales_a.csv",
        [
            sale(n, day=f"2024-0{month}-05", price=f"{30 - month * 10}.00")
            for n in (1, 2)
            for month in (1, 2)
        ],
    )
    shop.run()
    assert len(shop.published("declining_customers", "customer_id")) == 2
    shop.backend.execute("DELETE FROM declining_customers WHERE customer_id = 2")
    shop.sales("sales_b.csv", [sale(1, day="2024-02-06", price="1.00")])
    shop.run()
    after = shop.published("declining_customers", "customer_id, monthly_total")
    assert after == [(1, 11), (2, 10)]


@pytest.mark.every_engine
def test_another_key_makes_another_table(shop: Shop) -> None:
    """A new definition is loaded whole, whatever the table was before."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    path = shop.folder / "marts" / f"{_PURCHASES}.sql"
    text = path.read_text()
    path.write_text(text.replace("last_name,", "last_name, 'x' AS added,", 1))
    assert text != path.read_text()
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    columns = "customer_id, monthly_total, added"
    assert shop.published(_PURCHASES, columns) == [(1, 10, "x"), (2, 20, "x")]


_ID = (Field("id", parse_type("INT")),)


def target(name: str) -> Target:
    """A table of one column."""
    return Target(name, _ID, ("id",), None)


@pytest.fixture
def mysql(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """A new database of the server."""
    engine = open_database(database.url, tmp_path)
    yield engine
    engine.dispose()


def tables(database: Database) -> set[str]:
    """The names of all tables."""
    return {name for (name,) in database.query("SHOW TABLES")}


@all_marts
@pytest.mark.every_engine
def test_new_tables_are_loaded_side_by_side(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server takes several loads at once, two are under way at the same time."""
    shop.sales("sales_a.csv", [sale(n, store=1 + n % 2, person=1) for n in range(1, 10)])
    both = threading.Barrier(2)
    fill = Target.recreate

    def meeting(self: Target, *arguments: Any) -> None:
        fill(self, *arguments)
        if shop.backend.speaks != "sqlite" and self.name.endswith(("_0", "_1")):
            both.wait(30)

    monkeypatch.setattr(Target, "recreate", meeting)
    published = {line.name: line.published_rows for line in shop.run().batches[0].marts}
    assert published[_PURCHASES] == 9
    assert published["sales_team_incentive"] == 2
    assert len(shop.published(_PURCHASES)) == 9


def test_a_load_that_fails_stops_the_others(
    mysql: Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those under way end at their next rows, those that wait never begin, and nothing is left."""
    monkeypatch.setattr(MySQL, "loads_at_once", 2)
    under_way = threading.Barrier(2)
    began: list[str] = []
    stopped: list[str] = []

    def endless(table: Target, connection: Connection) -> None:
        began.append(table.name)
        under_way.wait(30)
        try:
            for _ in range(1000):
                connection.exec_driver_sql("SELECT SLEEP(0.01)")
                publishing.go_on()
        except Stopped:
            stopped.append(table.name)
            raise

    def failing(table: Target, _: Connection) -> None:
        began.append(table.name)
        under_way.wait(30)
        raise ValueError("no room")

    def filled(table: Target, _: Connection) -> None:
        began.append(table.name)

    fills = [endless, failing, *[filled] * 6]
    loads = [Load(target(f"mart_{n}"), "new", fill) for n, fill in enumerate(fills)]
    done: list[str] = []
    with pytest.raises(ValueError, match="no room"), ShadowTables(mysql, 7) as publishing:
        publishing.load_all(loads, done.append)
    assert (len(began), len(stopped), done) == (2, 1, [])
    assert tables(database) == set()


def test_an_account_of_few_connections_loads_with_those(
    mariadb: DatabaseServer, mysql: Engine, database: Database
) -> None:
    """What the server does not grant is done without; one is left for the lease."""
    mariadb.require_ours("limits an account")
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER '{database.user}'@'%' WITH MAX_USER_CONNECTIONS 3")
    at_once: list[int] = []
    most = []

    def fill(_: Target, connection: Connection) -> None:
        at_once.append(1)
        most.append(len(at_once))
        connection.exec_driver_sql("SELECT SLEEP(0.02)")
        at_once.pop()

    done: list[str] = []
    with ShadowTables(mysql, 1) as publishing:
        loads = [Load(target(f"mart_{n}"), "new", fill) for n in range(6)]
        publishing.load_all(loads, done.append)
        publishing.show()
    mysql.dispose()
    assert max(most) <= 2
    assert set(done) == tables(database) == {f"mart_{n}" for n in range(6)}


def test_the_engine_bears_several_readers(tmp_path: Path) -> None:
    """Rows come in order and records keep their numbers while other results begin and end."""
    engine = DuckDBEngine([], tmp_path / "private", threads=4)
    wrong: list[str] = []

    def read(number: int) -> None:
        for turn in range(5):
            query = f"SELECT (i * 7919) % 100003 AS k FROM range({20_000 + number}) t(i) ORDER BY k"
            with closing(engine.batches(query, 1000)) as batches:
                keys = [key for batch in batches for key in batch.column(0).to_pylist()]
            if keys != sorted(keys) or len(keys) != 20_000 + number:
                wrong.append(f"reader {number}, turn {turn}")
            if engine.rows(f"SELECT {number}") != [(number,)]:
                wrong.append(f"rows of {number}")

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    with closing(engine):
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        setting = "SELECT current_setting('preserve_insertion_order')"
        with closing(engine.batches("SELECT 1", 10)) as one:
            next(one)
            with closing(engine.batches("SELECT 2", 10)) as other:
                next(other)
            assert engine.rows(setting) == [(True,)], "the first is still being read"
        assert engine.rows(setting) == [(False,)]
    assert wrong == []


def _total(shop: Shop, select: str, key: str = "customer_id") -> None:
    (shop.folder / "marts" / "totals.sql").write_text(
        f"-- refresh: full\n-- key: [{key}]\n-- publish: true\n"
        f"SELECT {select} FROM sales GROUP BY customer_id"
    )


def test_what_people_add_to_a_published_table_is_kept(shop: Shop) -> None:
    """A column with notes, an index, a foreign key: rows change, come and go around them."""
    keep_only(shop.folder, marts=())
    _total(shop, "customer_id, sum(total_cost) AS total")
    shop.sales("sales_1.csv", [sale(1), sale(2)])
    shop.run()
    shop.backend.execute(
        "ALTER TABLE totals ADD COLUMN remark VARCHAR(50)",
        "UPDATE totals SET remark = 'a friend' WHERE customer_id = 1",
        "CREATE INDEX by_total ON totals (total)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, customer INTEGER,"
        " FOREIGN KEY (customer) REFERENCES totals (customer_id))",
        "INSERT INTO child VALUES (1, 1)",
    )
    shop.sales("sales_2.csv", [sale(1, day="2024-02-01"), sale(3)])
    shop.sales("sales_1.csv", [sale(1)])
    shop.run()
    columns = "customer_id, total, remark"
    assert shop.published("totals", columns) == [(1, 20, "a friend"), (3, 10, None)]
    _total(shop, "customer_id, sum(total_cost) * 2 AS total, count(*) AS sales")
    shop.run()
    columns += ", sales"
    assert shop.published("totals", columns) == [(1, 40, "a friend", 2), (3, 20, None, 1)]
    shop.backend.execute("INSERT INTO totals VALUES (9, 0, 'made up', 1)")
    shop.sales("sales_3.csv", [sale(3, day="2024-03-01")])
    shop.backend.execute("DELETE FROM child")
    shop.run()
    assert [row[:2] for row in shop.published("totals", columns)] == [(1, 40), (3, 40)]


@pytest.mark.parametrize(
    ("select", "key", "why"),
    [
        ("customer_id, count(*) AS sales", "customer_id", "has no column total any more"),
        ("customer_id, count(*) AS total", "customer_id", "total is of another type now"),
        ("sum(total_cost) AS total, customer_id", "total", "key is total now"),
    ],
)
def test_what_people_added_is_never_lost(shop: Shop, select: str, key: str, why: str) -> None:
    """Where the table would have to be replaced, the mart is held back before anything happens."""
    keep_only(shop.folder, marts=())
    _total(shop, "customer_id, sum(total_cost) AS total")
    shop.sales("sales_1.csv", [sale(1), sale(2, price="20.00")])
    shop.run()
    shop.backend.execute("CREATE INDEX by_total ON totals (total)")
    _total(shop, select, key)
    (held,) = shop.run().held
    assert f"{why}; people added: index by_total" in held.message
    assert "publish: NAME" in str(held.hint)
    assert shop.published("totals", "customer_id, total") == [(1, 10), (2, 20)]
    shop.backend.execute(
        "DROP INDEX by_total" + (" ON totals" if shop.backend.speaks == "mysql" else "")
    )
    shop.run()
    assert len(shop.published("totals")) == 2


def test_a_column_that_new_rows_must_fill_is_refused(shop: Shop) -> None:
    """It is told before the database would say so."""
    keep_only(shop.folder, marts=())
    _total(shop, "customer_id, sum(total_cost) AS total")
    shop.run()
    shop.sales("sales_1.csv", [sale(1)])
    shop.run()
    if shop.backend.speaks == "sqlite":
        pytest.skip("SQLite adds no such column to a table")
    add = "ALTER TABLE totals ADD COLUMN rank_ INT NOT NULL"
    if shop.backend.speaks == "postgres":  # which asks for a value of the rows that are there
        drop = "ALTER TABLE totals ALTER COLUMN rank_ DROP DEFAULT"
        shop.backend.execute(f"{add} DEFAULT 0", drop)
    else:
        shop.backend.execute(add)
    shop.sales("sales_2.csv", [sale(2)])
    (held,) = shop.run().held
    assert "column rank_, which must have a value" in held.message


def _monthly(shop: Shop, name: str, more: str = "") -> None:
    (shop.folder / "marts" / f"{name}.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\n-- key: [_month, store_id]\n"
        "-- publish: true\n"
        f"SELECT _month, store_id, sum(total_cost) AS total{more} FROM sales GROUP BY ALL"
    )


_MONTHS = [("2024-01", 10), ("2024-02", 20)]


def _two_months(shop: Shop, *marts: str) -> None:
    """Marts of two months are published, each with a row of store 1 a month."""
    keep_only(shop.folder, marts=())
    for name in marts:
        _monthly(shop, name)
    shop.sales("sales_1.csv", [sale(), sale(day="2024-02-01", price="20.00")])
    shop.run()


def test_a_column_that_a_table_lost_gets_all_its_values_back(shop: Shop, called: Called) -> None:
    """Renamed or dropped, beside people's own columns or not; another letter case is no loss."""
    _two_months(shop, "renamed", "dropped", "alone", "spelled", "left_as_it_is")
    shop.backend.execute(
        "ALTER TABLE renamed RENAME COLUMN total TO amount",
        "ALTER TABLE dropped DROP COLUMN total",
        "ALTER TABLE dropped ADD COLUMN note VARCHAR(9)",
        "UPDATE dropped SET note = 'mine'",
        "ALTER TABLE alone DROP COLUMN total",
        'ALTER TABLE spelled RENAME COLUMN total TO "Total"'.replace(
            '"', "`" if shop.backend.speaks == "mysql" else '"'
        ),
    )
    shop.sales("sales_2.csv", [sale(store=2)])
    (batch,) = shop.run().batches
    folds = shop.backend.speaks != "postgres"
    lost = {"renamed", "dropped", "alone"} if folds else {"renamed", "dropped", "alone", "spelled"}
    assert {one.table: one.columns for one in batch.restored} == dict.fromkeys(lost, ("total",))
    for table in ("renamed", "dropped", "alone", "spelled", "left_as_it_is"):
        rows = shop.published(table, "_month, total, store_id")
        assert [row[:2] for row in rows if row[2] == 1] == _MONTHS, table
        assert len(rows) == 3
    amounts = shop.published("renamed", "store_id, coalesce(amount, 0)")
    assert amounts == [(1, 10), (1, 20), (2, 0)]
    notes = shop.published("dropped", "store_id, coalesce(note, 'none')")
    assert notes == [(1, "mine"), (1, "mine"), (2, "none")]
    assert called(shop.folder, "verify", "--database").returncode == 0
    shop.sales("sales_3.csv", [sale(store=3)])
    (batch,) = shop.run().batches
    assert batch.restored == ()
    if shop.backend.speaks == "mysql":
        shown = shop.backend.query("SHOW CREATE TABLE dropped")[0][1]
        assert "COMMENT 'retailmart: not" not in shown


def test_a_run_that_breaks_off_before_it_fills_a_column_is_made_good(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it added is ours and without values, not people's and not full."""
    _two_months(shop, "dropped", "wider")
    for table in ("dropped", "wider"):
        shop.backend.execute(f"ALTER TABLE {table} ADD COLUMN note VARCHAR(9)")
    shop.backend.execute("ALTER TABLE dropped DROP COLUMN total")
    _monthly(shop, "wider", ", count(*) AS sales")
    shop.sales("sales_2.csv", [sale(store=2)])
    add = Target.upsert

    def refuse(self: Target, connection: Connection, read: Any) -> int:
        raise RetailmartError("not today")

    monkeypatch.setattr(Target, "upsert", refuse)
    assert {one.mart for one in shop.run().held} == {"dropped", "wider"}
    monkeypatch.setattr(Target, "upsert", add)
    assert shop.run().held == ()
    for table, columns in (("dropped", "_month, total"), ("wider", "_month, total * sales")):
        rows = shop.published(table, f"{columns}, store_id")
        assert [row[:2] for row in rows if row[2] == 1] == _MONTHS


def test_a_column_of_peoples_is_not_overwritten(shop: Shop, called: Called) -> None:
    """By an edited SELECT, in whatever letter case: the mart waits, `check` says so, and why."""
    _two_months(shop, "totals")
    shop.backend.execute(
        "ALTER TABLE totals ADD COLUMN Sales VARCHAR(9)", "UPDATE totals SET sales = 'mine'"
    )
    _monthly(shop, "totals", ", count(*) AS sales")
    told = "published table totals: people added the column"
    done = called(shop.folder, "check")
    assert done.returncode == 2
    assert told in done.stderr
    assert "marts/totals.sql:5: " in done.stderr
    assert "ALTER TABLE totals RENAME COLUMN" in done.stderr
    (held,) = shop.run().held
    assert told in held.message
    assert "AS another_name" in str(held.hint)
    assert shop.published("totals", "_month, sales") == [("2024-01", "mine"), ("2024-02", "mine")]
    shop.backend.execute("ALTER TABLE totals RENAME COLUMN sales TO remark")
    assert called(shop.folder, "check").returncode == 0
    assert shop.run().held == ()
    rows = shop.published("totals", "_month, sales, remark")
    assert rows == [("2024-01", 1, "mine"), ("2024-02", 1, "mine")]


def test_a_delivered_column_does_not_overwrite_one_of_peoples(shop: Shop) -> None:
    """No definition tells that it comes: it is found when the mart is built."""
    keep_only(shop.folder, marts=())
    feed = "files: ['till*.csv']\nmonth: day\nschema: {columns: evolve}\ncolumns:\n"
    feed += "  k: {type: INT}\n  day: {type: DATE, mandatory: true}\n"
    (shop.folder / "feeds" / "till.yml").write_text(feed)
    (shop.folder / "marts" / "tills.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\n-- key: [_month, k]\n-- publish: true\n"
        "SELECT * EXCLUDE (_file_id, _origin) FROM till"
    )
    shop.drop("till_1.csv", "k,day\n1,2024-01-05\n")
    shop.run()
    shop.backend.execute("ALTER TABLE tills ADD COLUMN color INT", "UPDATE tills SET color = 5")
    shop.drop("till_2.csv", "k,day,color\n2,2024-01-05,red\n")
    (held,) = shop.run().held
    assert "people added the column color" in held.message
    assert shop.published("tills", "k, color") == [(1, 5)]
