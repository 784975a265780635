"""Tables of marts that are gone: named by check, doctor and run, dropped by a command only."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from retailmart.database.target import drop_table
from retailmart.errors import ProjectBusy, RetailmartError
from retailmart.ledger import acquire_lease
from retailmart.report import LeftTable
from tests.support.shop import Called, Shop, keep_only, sale

_MART = "customer_monthly_purchase"
_PLAIN = """-- refresh: full
-- key: [customer_id]
-- publish: {}
SELECT customer_id, count(*) AS n FROM sales GROUP BY ALL
"""


@pytest.fixture(autouse=True)
def small_shop(shop: Shop) -> None:
    """One published mart, and one day's sales in it."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_mart"])
    define(shop, "true")
    shop.sales("sales_1.csv", [sale(), sale(2)])
    shop.run()


def define(shop: Shop, publish: str, name: str = "counts") -> Path:
    """Write the mart, published so."""
    path = shop.folder / "marts" / f"{name}.sql"
    path.write_text(_PLAIN.format(publish))
    return path


def tables(shop: Shop) -> set[str]:
    """The tables that the database has, without the ledger's."""
    listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = "
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "mysql": f"{listed} DATABASE()",
        "postgres": f"{listed} current_schema()",
    }[shop.backend.speaks]
    names = {name for (name,) in shop.backend.query(query)}
    return {name for name in names if not name.startswith(("retailmart_", "sqlite_"))}


def left(shop: Shop) -> list[LeftTable]:
    """What a run says is left over."""
    return list(shop.run().left_tables)


@pytest.mark.every_database
def test_a_table_without_its_mart_is_named_and_dropped(shop: Shop, called: Called) -> None:
    """By run, check and doctor, with the next command; the lake keeps what the table showed."""
    path = shop.folder / "marts" / "counts.sql"
    rows = shop.mart("counts")
    path.unlink()
    for command in ("run", "check", "doctor"):
        done = called(shop.folder, command)
        assert done.returncode == 0, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert "table counts belongs to mart counts, which is no longer published" in said
        assert "retailmart marts drop counts" in said
    assert tables(shop) == {"counts"}
    report = json.loads(called(shop.folder, "run", "-o", "json").stdout)
    assert report["left_tables"] == [{"name": "counts", "mart": "counts"}]
    done = called(shop.folder, "marts", "drop", "counts", "--yes")
    assert (done.returncode, tables(shop)) == (0, set()), done.stderr
    assert left(shop) == []
    assert shop.open().lake.state("marts/counts") is not None
    define(shop, "true")
    shop.run()
    assert (shop.mart("counts"), shop.published("counts", "customer_id, n")) == (rows, rows)


@pytest.mark.parametrize("case", ["not published", "renamed", "moved"])
def test_a_mart_may_leave_its_table_in_other_ways(shop: Shop, case: str) -> None:
    """It is published no more, or under another name, or its file has another name."""
    path = shop.folder / "marts" / "counts.sql"
    other = set()
    if case == "moved":
        path.rename(shop.folder / "marts" / "others.sql")
        other = {"others"}
    else:
        define(shop, "tallies" if case == "renamed" else "false")
        other = {"tallies"} if case == "renamed" else set()
    for _ in range(2):
        assert left(shop) == [LeftTable("counts", "counts")]
        assert tables(shop) == {"counts"} | other
    assert shop.open().drop_table("counts") is True
    assert (left(shop), tables(shop)) == ([], other)


def test_the_command_asks(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a yes, nothing happens."""
    (shop.folder / "marts" / "counts.sql").unlink()
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", StringIO(answer))
        done = called(shop.folder, "marts", "drop", "counts")
        assert (done.returncode, tables(shop)) == (1, {"counts"})
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    assert called(shop.folder, "marts", "drop", "counts").returncode == 0
    assert tables(shop) == set()


@pytest.mark.every_database
def test_what_is_not_left_over_is_not_dropped(shop: Shop) -> None:
    """A mart's table, one of others, the ledger's own, and a view in the place of ours."""
    drop = shop.open().drop_table
    with pytest.raises(RetailmartError, match="mart counts is published as table counts"):
        drop("counts")
    shop.backend.execute("CREATE TABLE others (id INTEGER)")
    for name in ("others", "retailmart_files", "nothing"):
        with pytest.raises(RetailmartError, match=f"knows no table '{name}'"):
            drop(name)
    (shop.folder / "marts" / "counts.sql").unlink()
    shop.backend.execute("DROP TABLE counts", "CREATE VIEW counts AS SELECT 1 AS id")
    assert left(shop) == []
    with pytest.raises(RetailmartError, match="counts is a view"):
        shop.open().drop_table("counts")
    shop.backend.execute("DROP VIEW counts")
    assert shop.open().drop_table("counts") is False
    with pytest.raises(RetailmartError, match="knows no table 'counts'"):
        shop.open().drop_table("counts")
    assert tables(shop) == {"others"}


BUILT = (
    ("CREATE VIEW top AS SELECT n FROM counts", "DROP VIEW top", "view top"),
    ("CREATE TABLE notes (id INTEGER PRIMARY KEY, customer INTEGER,"
     " FOREIGN KEY (customer) REFERENCES counts (customer_id))", "DROP TABLE notes", "foreign key"),
    ("CREATE TRIGGER seen AFTER DELETE ON counts FOR EACH ROW {}", "DROP TRIGGER seen",
     "trigger seen"),
    ("CREATE TRIGGER seen AFTER DELETE ON log FOR EACH ROW {}", "DROP TRIGGER seen",
     "trigger seen"),
    ("ALTER TABLE counts ADD COLUMN note VARCHAR(9)", "ALTER TABLE counts DROP COLUMN note",
     "column note"),
)  # fmt: skip


@pytest.mark.every_database
def test_what_people_built_on_it_goes_first(shop: Shop) -> None:
    """A view, key, trigger or column of others is named, and nothing is dropped."""
    postgres = shop.backend.speaks == "postgres"
    does = "BEGIN DELETE FROM counts WHERE customer_id = 7; END"
    if postgres:
        shop.backend.execute(
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NULL; END $$"
        )
        does = "EXECUTE FUNCTION forget()"
    shop.backend.execute("CREATE TABLE log (id INTEGER)")
    shop.backend.execute("CREATE VIEW no_reader AS SELECT 'counts' AS said FROM log")
    (shop.folder / "marts" / "counts.sql").unlink()
    for made, taken, named in BUILT:
        if postgres and "ON log" in made:
            continue  # a trigger there is a function that it calls: what that does is not seen
        shop.backend.execute(made.format(does))
        expected = f"table counts is not dropped: people added .*{named}"
        with pytest.raises(RetailmartError, match=expected):
            shop.open().drop_table("counts")
        assert "counts" in tables(shop)
        of_table = " ON counts" if postgres and "TRIGGER" in taken else ""
        shop.backend.execute(taken + of_table)
    assert shop.open().drop_table("counts") is True


def test_a_table_that_is_read_as_a_source_stays(shop: Shop) -> None:
    """It is nobody's to drop then, and is not called left over."""
    (shop.folder / "marts" / "counts.sql").unlink()
    settings = shop.folder / "retailmart.yml"
    lines = settings.read_text().splitlines()
    url = next(line.removeprefix("database:") for line in lines if line.startswith("database:"))
    kept = [line for line in lines if not line.startswith("sources:")]
    settings.write_text("\n".join([*kept, f"sources: {{shop: '{url.strip()}'}}"]))
    (shop.folder / "tables" / "counts.yml").write_text("key: [customer_id]\n")
    with pytest.raises(RetailmartError, match="counts is a source table"):
        shop.open().drop_table("counts")


@pytest.mark.every_database
def test_a_drop_that_was_cut_off_is_repeated(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its COMMIT: the ledger still knows the table, whether it is there or not."""
    (shop.folder / "marts" / "counts.sql").unlink()

    def cut_off(*given: Any) -> None:
        drop_table(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr("retailmart.marts.ownership.drop_from", cut_off)
    with pytest.raises(KeyboardInterrupt):
        shop.open().drop_table("counts")
    monkeypatch.undo()
    rolled_back = shop.backend.speaks != "mysql"
    assert tables(shop) == ({"counts"} if rolled_back else set())
    shop.sales("sales_2.csv", [sale(3)])
    shop.run()
    assert shop.open().drop_table("counts") is rolled_back
    define(shop, "true")
    shop.run()
    assert shop.published("counts", "customer_id, n") == [(1, 1), (2, 1), (3, 1)]


def test_a_run_goes_first(shop: Shop) -> None:
    """Who holds the project holds its tables."""
    (shop.folder / "marts" / "counts.sql").unlink()
    opened, lock = shop.open(), shop.folder / ".retailmart" / "lock"
    with opened.ledger() as ledger, acquire_lease(ledger.engine, lock), pytest.raises(ProjectBusy):
        opened.drop_table("counts")
    assert tables(shop) == {"counts"}


@pytest.mark.every_database
def test_a_ledger_of_an_earlier_release_knows_its_marts(shop: Shop, called: Called) -> None:
    """Which mart a table shows is found out from what the ledger has of the marts."""
    for column in ("mart", "version"):
        shop.backend.execute(f"ALTER TABLE retailmart_published DROP COLUMN {column}")
    shop.backend.execute("DELETE FROM retailmart_migrations WHERE name >= 'm008'")
    (shop.folder / "marts" / "counts.sql").unlink()
    assert "table counts belongs to mart counts" in called(shop.folder, "check").stderr
    assert left(shop) == [LeftTable("counts", "counts")]
    with shop.open().ledger() as ledger:
        (known,) = ledger.marts.published()
    assert (known.mart, known.version) == ("counts", shop.open().lake.version("marts/counts"))


def test_a_table_shows_one_mart_only(shop: Shop) -> None:
    """A mart that gave its table to another, and comes back to it, is published whole."""
    other = shop.folder / "marts" / "sums.sql"
    (shop.folder / "marts" / "counts.sql").unlink()
    other.write_text(_PLAIN.format("counts").replace("count(*)", "2 * count(*)"))
    shop.run()
    assert shop.published("counts", "customer_id, n") == [(1, 2), (2, 2)]
    with shop.open().ledger() as ledger:
        assert ledger.marts.all()["counts"].published_as is None
    other.unlink()
    define(shop, "true")
    shop.run()
    assert shop.published("counts", "customer_id, n") == [(1, 1), (2, 1)]
