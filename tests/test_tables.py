"""The shop's own tables through whole runs: history, late keys, cursors, missing tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retailmart import RetailmartError, SettingsError
from retailmart.report import BatchReport
from retailmart.template import write_project
from tests.support.amount import tries
from tests.support.backends import LocalBackend, shop_tables
from tests.support.shop import Called, Shop, keep_only, sale

pytestmark = pytest.mark.every_backend

_ROWS = "customer_id, first_name, sales_date, total_cost"


@pytest.fixture
def marts() -> Collection[str]:
    """Those that show source tables' columns."""
    return ("customer_mart", "sales_mart", "customer_monthly_purchase")


def on(day: str) -> datetime:
    """Noon of a day."""
    return datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)


def rename(shop: Shop, name: str, customer: int = 1) -> None:
    """Somebody changes a customer at the source."""
    shop.backend.execute_in_shop(
        f"UPDATE customer SET first_name = '{name}' WHERE customer_id = {customer}"
    )


def only(batches: Sequence[BatchReport]) -> BatchReport:
    """The one batch of a run."""
    (batch,) = batches
    return batch


def months_written(batch: BatchReport) -> dict[str, int | None]:
    """How many months of each mart a batch wrote; None is all of the mart."""
    return {line.name: line.months for line in batch.marts}


@pytest.mark.every_engine
def test_a_sale_keeps_the_customer_of_its_day(shop: Shop) -> None:
    """The old name before the change was seen, the new one from that day on, whatever came when."""
    shop.sales("sales_1.csv", [sale(day="2024-01-15")])
    shop.run(on("2024-02-01"))
    rename(shop, "Zoe")
    shop.run(on("2024-02-10"))
    shop.sales("sales_2.csv", [sale(day="2024-02-09"), sale(day="2024-02-10")])
    shop.run(on("2024-02-11"))
    names = {str(day): name for _, name, day, _ in shop.mart("customer_mart", _ROWS)}
    assert names == {"2024-01-15": "First1", "2024-02-09": "First1", "2024-02-10": "Zoe"}
    monthly = shop.mart("customer_monthly_purchase", "_month, first_name")
    assert monthly == [("2024-01", "Zoe"), ("2024-02", "Zoe")], "months show the latest name"


@pytest.mark.every_engine
def test_a_change_rewrites_only_what_shows_it(shop: Shop) -> None:
    """Of four months, the one with a sale behind the change; of other customers none."""
    days = ["2024-01-15", "2024-02-15", "2024-03-15"]
    shop.sales("sales_1.csv", [sale(day=day) for day in days] + [sale(2, day="2023-12-01")])
    shop.run(on("2024-03-01"))
    rename(shop, "Zoe")
    batch = only(shop.run(on("2024-03-02")).batches)
    months = months_written(batch)
    assert months["customer_mart"] == 1
    assert months["customer_monthly_purchase"] == 3
    assert "sales_mart" not in months


@pytest.mark.every_engine
def test_a_key_that_comes_late_heals_its_months(shop: Shop) -> None:
    """Only those that missed it, and the run tells the money that left unknown."""
    shop.sales("sales_1.csv", [sale(77, day="2024-01-15", price="12.50"), sale(day="2024-02-15")])
    shop.run(on("2024-03-01"))
    shop.backend.execute_in_shop(
        "INSERT INTO customer (customer_id, first_name) VALUES (77, 'Late')"
    )
    batch = only(shop.run(on("2024-03-02")).batches)
    (healed,) = batch.healed
    assert (healed.column, healed.keys, healed.rows) == ("customer_id", 1, 1)
    assert healed.amount == Decimal("12.50")
    assert months_written(batch)["customer_mart"] == 1
    assert [name for _, name, *_ in shop.mart("customer_mart", _ROWS)] == ["First1", "Late"]
    assert shop.run(on("2024-03-02")).nothing_to_do


def test_a_run_of_the_same_day_sees_no_change(shop: Shop) -> None:
    """A run after which nothing was touched finds nothing to do, tables included."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert shop.run().nothing_to_do


def test_a_mart_without_its_table_is_named_and_the_rest_runs(shop: Shop) -> None:
    """The table is declared, but the shop has none; once it has, the mart is built."""
    (shop.folder / "tables" / "gift.yml").write_text("key: [id]\n")
    (shop.folder / "marts" / "gifts.sql").write_text(
        "-- refresh: full\n-- key: [id]\n-- publish: true\nSELECT id, name FROM gift"
    )
    shop.sales("sales_1.csv", [sale()])
    batch = only(shop.run().batches)
    assert batch.unavailable["gifts"] == "no source has the table gift"
    assert shop.mart("customer_mart", "customer_id") == [(1,)]
    assert shop.run().nothing_to_do
    shop.backend.execute_in_shop(
        "CREATE TABLE gift (id INTEGER PRIMARY KEY, name VARCHAR(9))",
        "INSERT INTO gift VALUES (1, 'mug')",
    )
    assert "gifts" not in only(shop.run().batches).unavailable
    assert shop.published("gifts") == [(1, "mug")]
    shop.backend.execute_in_shop("DROP TABLE gift")
    report = shop.run()
    assert "no table 'gift' any more" in report.unreadable["gift"]
    assert shop.published("gifts") == [(1, "mug")]


# What a column of dates may hold that is no day.
_NO_DAY = {"sqlite": "0000-00-00", "mysql": "0000-00-00", "postgres": "infinity"}


def test_a_table_that_cannot_be_read_holds_back_its_marts_alone(shop: Shop) -> None:
    """They stay as they were and miss nothing: when the value is cured, they catch up."""
    shop.backend.execute_in_shop(
        "CREATE TABLE gift (id INTEGER PRIMARY KEY, given DATE)",
        "INSERT INTO gift VALUES (1, '2024-01-31')",
    )
    (shop.folder / "marts" / "gifts.sql").write_text(
        "-- refresh: full\n-- key: [n]\n-- publish: true\n"
        "SELECT count(*) AS n, (SELECT count(*) FROM gift) AS gifts FROM sales"
    )
    (shop.folder / "marts" / "more.sql").write_text("-- refresh: full\nSELECT n FROM gifts")
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    odd = _NO_DAY[shop.backend.speaks]
    wrong = f"INSERT INTO gift VALUES (2, '{odd}')"
    shop.backend.execute_in_shop(*_without_strict_mode(shop), wrong)
    report = shop.run()
    assert report.nothing_to_do
    words = report.unreadable["gift"]
    assert f"table 'gift', column 'given', row id = 2: '{odd}' is no DATE" in words
    assert "tables/gift.yml: zero_dates: empty" in words or odd == "infinity"
    shop.sales("sales_2.csv", [sale(2)])
    batch = only(shop.run().batches)
    assert [name for name, why in batch.unavailable.items() if why == words] == ["gifts", "more"]
    assert shop.published("gifts") == [(1, 1)]
    assert len(shop.mart("customer_mart", "customer_id")) == 2
    shop.backend.execute_in_shop("DELETE FROM gift WHERE id = 2")
    report = shop.run()
    assert not report.unreadable
    assert shop.published("gifts") == [(2, 1)]
    assert shop.mart("more") == [(2,)]
    assert shop.run().nothing_to_do


def _without_strict_mode(shop: Shop) -> list[str]:
    return ["SET SESSION sql_mode = ''"] if shop.backend.speaks == "mysql" else []


def test_a_run_that_holds_something_back_says_so(shop: Shop, called: Called) -> None:
    """In words and in its exit code, also when there is nothing else to do; status says it, too."""
    shop.backend.execute_in_shop(
        *_without_strict_mode(shop),
        "CREATE TABLE gift (id INTEGER PRIMARY KEY, given DATE)",
        f"INSERT INTO gift VALUES (1, '{_NO_DAY[shop.backend.speaks]}')",
    )
    (shop.folder / "marts" / "gifts.sql").write_text("-- refresh: full\nSELECT id FROM gift")
    done = called(shop.folder, "run")
    assert done.returncode == 5
    words = "held back  the marts that read gift: source table 'gift', column 'given'"
    assert words in done.stderr
    assert words in called(shop.folder, "status").stdout
    shop.backend.execute_in_shop("DELETE FROM gift")
    shop.run()
    assert "held back" not in called(shop.folder, "status").stdout


def test_keys_meet_as_the_shop_compares_them(shop: Shop) -> None:
    """Letter case tells no two keys apart in the shop, so it does not here; changes reach them."""
    keep_only(shop.folder, marts=(), feeds=(), tables=())
    kind = {
        "sqlite": "TEXT COLLATE NOCASE",
        "mysql": "VARCHAR(20) COLLATE utf8mb4_general_ci",
        "postgres": "TEXT COLLATE no_case",
    }[shop.backend.speaks]
    if shop.backend.speaks == "postgres":
        shop.backend.execute_in_shop(
            "CREATE COLLATION no_case"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    shop.backend.execute_in_shop(
        f"CREATE TABLE gift (sku {kind} PRIMARY KEY, name VARCHAR(9))",
        "INSERT INTO gift VALUES ('abc-1', 'mug')",
    )
    (shop.folder / "feeds" / "given.yml").write_text(
        "files: [given*.csv]\nmonth: day\ncolumns:\n  day: {type: DATE, mandatory: true}\n"
        "  sku: {type: STRING, references: gift.sku}\n"
    )
    (shop.folder / "marts" / "gifts.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\nSELECT g.day, p.name, g._month FROM given g"
        " LEFT JOIN gift p ON g.sku = p.sku"
    )
    shop.drop("given_1.csv", "day,sku\n2024-01-05,ABC-1\n2024-02-05,abc-2\n")
    batch = only(shop.run().batches)
    assert [(line.column, line.keys) for line in batch.unmatched] == [("sku", 1)]
    shop.backend.execute_in_shop(
        "UPDATE gift SET name = 'cup'", "INSERT INTO gift VALUES ('Abc-2', 'pen')"
    )
    batch = only(shop.run().batches)
    assert [line.rows for line in batch.healed] == [1]
    assert [name for _, name, _ in shop.mart("gifts")] == ["cup", "pen"]


def test_marts_of_a_feed_that_never_came_are_named(shop: Shop) -> None:
    """A shop without this kind of files runs the rest."""
    (shop.folder / "feeds" / "visits.yml").write_text("files: [visits*.csv]\ncolumns: {n: INT}\n")
    (shop.folder / "marts" / "visitors.sql").write_text(
        "-- refresh: full\nSELECT count(*) AS n FROM visits"
    )
    shop.sales("sales_1.csv", [sale()])
    batch = only(shop.run().batches)
    assert batch.unavailable["visitors"] == "no file of feed visits has come yet"
    shop.drop("visits.csv", "n\n1\n2\n")
    shop.run()
    assert shop.mart("visitors") == [(2,)]


@pytest.mark.every_engine
def test_tables_alone_are_a_shop(shop: Shop) -> None:
    """Without a single file: what reads only tables is built, and again when they change."""
    (shop.folder / "marts" / "people.sql").write_text(
        "-- refresh: full\nSELECT count(*) AS n FROM customer"
    )
    shop.run()
    assert shop.mart("people") == [(9,)]
    shop.backend.execute_in_shop("DELETE FROM customer WHERE customer_id > 5")
    shop.run()
    assert shop.mart("people") == [(5,)]
    assert shop.run().nothing_to_do


def test_an_undeclared_table_that_is_nowhere_is_a_mistake(shop: Shop) -> None:
    """A mistyped name must not pass for a table that the shop has not got."""
    (shop.folder / "marts" / "oops.sql").write_text("-- refresh: full\nSELECT 1 AS n FROM custmer")
    shop.sales("sales_1.csv", [sale()])
    with pytest.raises(SettingsError, match="'custmer' is no feed, mart or table"):
        shop.run()


def test_a_table_that_nothing_reads_any_more_brings_no_batch(shop: Shop) -> None:
    """Else each run would stage a batch in which nothing is done, for ever."""
    shop.backend.execute_in_shop(
        "CREATE TABLE visit (id INTEGER PRIMARY KEY)", "INSERT INTO visit VALUES (1)"
    )
    mart = shop.folder / "marts" / "visits.sql"
    mart.write_text("-- refresh: full\nSELECT count(*) AS n FROM visit")
    shop.run()
    mart.unlink()
    shop.backend.execute_in_shop("INSERT INTO visit VALUES (2)")
    assert shop.run().nothing_to_do
    shop.backend.execute_in_shop("DROP TABLE visit")
    assert shop.run().nothing_to_do


@pytest.mark.every_engine
def test_a_cursor_moves_with_the_data(shop: Shop) -> None:
    """A run that fails behind the read reads the same rows again."""
    shop.backend.execute_in_shop(
        "CREATE TABLE visit (id INTEGER PRIMARY KEY, moved INTEGER)",
        "INSERT INTO visit VALUES (1, 1)",
    )
    table = "key: [id]\nrefresh: incremental\ncursor: moved\n"
    (shop.folder / "tables" / "visit.yml").write_text(table)
    mart = shop.folder / "marts" / "visits.sql"
    mart.write_text("-- refresh: full\nSELECT id, moved FROM visit")
    shop.run()
    shop.backend.execute_in_shop(
        "INSERT INTO visit VALUES (2, 2)", "UPDATE visit SET moved = 3 WHERE id = 1"
    )
    good = mart.read_text()
    mart.write_text(good + " WHERE id / 0 = wat")
    with pytest.raises(RetailmartError, match="wat"):
        shop.run()
    mart.write_text(good)
    shop.run()
    assert shop.mart("visits") == [(1, 3), (2, 2)]


@pytest.mark.every_engine
def test_marts_that_should_agree_and_do_not_are_held_back(shop: Shop) -> None:
    """Both stay as they were, the numbers that are off are named, and all others go on."""
    (shop.folder / "marts" / "stores.sql").write_text(
        "-- refresh: full\n-- key: [store_id]\n"
        "SELECT store_id, sum(total_cost) AS revenue FROM sales GROUP BY 1"
    )
    people = shop.folder / "marts" / "people.sql"
    select = "SELECT store_id, sales_person_id, sum({}) AS total FROM sales GROUP BY ALL"
    head = "-- refresh: full\n-- agrees: {stores: {total: revenue}}\n"
    people.write_text(head + select.format("price"))
    shop.sales("sales_1.csv", [sale(), sale(store=2, person=3)])
    agreed = only(shop.run().batches).agreed
    assert [(line.mart, line.other, line.groups) for line in agreed] == [("people", "stores", 2)]
    people.write_text(head + select.format("price * 2"))
    shop.sales("sales_2.csv", [sale(day="2024-01-16")])
    before = shop.mart("people"), shop.mart("stores")
    held = {one.mart: one for one in shop.run().held}
    assert held.keys() == {"people", "stores"}
    assert (
        "store_id 1: people.total adds up to 40.00, stores.revenue to 20" in held["people"].message
    )
    assert (shop.mart("people"), shop.mart("stores")) == before
    assert len(shop.mart("sales_mart")) == 3
    people.write_text(head + select.format("price"))
    assert shop.run().held == ()
    assert shop.mart("stores") == [(1, Decimal("20.00")), (2, Decimal("10.00"))]


# any order


@dataclass(frozen=True)
class _Day:
    """What the shop's customers are called from a day on."""

    names: tuple[str | None, ...]


_DAYS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["a", "b", None])),
    min_size=2,
    max_size=4,
)


@settings(
    max_examples=tries(2, 20),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(days=_DAYS, data=st.data())
def test_sales_may_come_before_or_after_what_they_refer_to(
    tmp_path_factory: pytest.TempPathFactory,
    days: list[tuple[str | None, ...]],
    data: st.DataObject,
) -> None:
    """The marts end the same, in whatever runs the files come."""
    start = datetime(2024, 1, 30, tzinfo=UTC)
    lines = [
        sale(customer, day=f"{start + timedelta(at):%Y-%m-%d}", price=f"{at + 1}.25")
        for at in range(len(days))
        for customer in (31, 32)
    ]
    whens = [data.draw(st.integers(0, len(days) - 1)) for _ in lines]
    ends = []
    for arrival in (whens, [len(days) - 1] * len(lines)):
        shop = _new_shop(tmp_path_factory.mktemp("shop"))
        for at, names in enumerate(days):
            _set_names(shop, names)
            for number, line in enumerate(lines):
                if arrival[number] == at:
                    shop.sales(f"sales_{number}.csv", [line])
            shop.run(start + timedelta(at))
        ends.append(_end_of(shop))
    assert ends[0] == ends[1]


def _new_shop(folder: Path) -> Shop:
    write_project(folder / "shop", sample=False, stories=["tills"])
    backend = LocalBackend(folder / "shop")
    backend.execute_in_shop(*shop_tables())
    return Shop(folder / "shop", backend)


def _set_names(shop: Shop, names: Iterable[str | None]) -> None:
    for customer, name in enumerate(names, 31):
        shop.backend.execute_in_shop(f"DELETE FROM customer WHERE customer_id = {customer}")
        if name is not None:
            shop.backend.execute_in_shop(
                f"INSERT INTO customer (customer_id, first_name) VALUES ({customer}, '{name}')"
            )


def _end_of(shop: Shop) -> list[object]:
    return [
        shop.mart("customer_mart", _ROWS),
        shop.mart("customer_monthly_purchase", "customer_id, first_name, _month, monthly_total"),
        shop.mart("sales_mart", "store_id, sales_person_id, sales_date, total_cost"),
    ]


@pytest.mark.every_engine
def test_a_column_that_a_table_gets_is_told(shop: Shop) -> None:
    """In the run's report, and in the history of its columns from then on."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.backend.execute_in_shop("ALTER TABLE customer ADD COLUMN email VARCHAR(40)")
    (change,) = only(shop.run().batches).columns
    assert (change.column, change.after, change.cause) == ("email", "STRING", "table customer")
    with shop.open().ledger() as ledger:
        last = ledger.schemas.all()[-1]
    assert (last.schema.table, len(last.schema.changes)) == ("raw/customer", 1)


def _visits(shop: Shop, select: str = "id, name", table: str = "key: [id]\n") -> None:
    keep_only(shop.folder, marts=(), tables=())
    (shop.folder / "tables" / "visit.yml").write_text(table)
    (shop.folder / "marts" / "visits.sql").write_text(
        f"-- refresh: full\nSELECT {select} FROM visit"
    )
    shop.backend.execute_in_shop(
        "CREATE TABLE visit (id INTEGER PRIMARY KEY, name VARCHAR(9), note VARCHAR(9))",
        "INSERT INTO visit VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'c', 'z')",
    )
    shop.run()


def test_a_table_that_lost_most_of_its_rows_waits_for_somebody(shop: Shop) -> None:
    """Its marts stay as they were, until its file says that it is right."""
    _visits(shop)
    shop.backend.execute_in_shop("DELETE FROM visit WHERE id = 3")
    assert not shop.run().unreadable
    assert shop.mart("visits") == [(1, "a"), (2, "b")]
    shop.backend.execute_in_shop("DELETE FROM visit")
    for _ in range(2):
        words = shop.run().unreadable["visit"]
        assert words.startswith("source table 'visit' has 0 rows of the 2 that it had")
        assert "tables/visit.yml: shrinks_by: 100%" in words
        assert shop.mart("visits") == [(1, "a"), (2, "b")]
    (shop.folder / "tables" / "visit.yml").write_text("key: [id]\nshrinks_by: 100%\n")
    assert not shop.run().unreadable
    assert shop.mart("visits") == []
    assert shop.run().nothing_to_do


def test_a_column_that_no_mart_uses_may_go(shop: Shop) -> None:
    """One that is used holds back its marts, until it is back or has its new name as an alias."""
    _visits(shop)
    shop.backend.execute_in_shop("ALTER TABLE visit DROP COLUMN note")
    assert not shop.run().unreadable
    shop.backend.execute_in_shop("ALTER TABLE visit RENAME COLUMN name TO title")
    words = shop.run().unreadable["visit"]
    assert "has no column 'name' any more" in words
    assert "aliases: {NAME: [NEW_NAME]}" in words
    (shop.folder / "tables" / "visit.yml").write_text("key: [id]\naliases: {name: [title]}\n")
    shop.backend.execute_in_shop("INSERT INTO visit VALUES (4, 'd')")
    assert not shop.run().unreadable
    assert shop.mart("visits") == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_column_in_a_comment_or_a_text_is_not_used(shop: Shop) -> None:
    """Nor by a mart that only speaks of the table: neither reads what would be lost."""
    _visits(shop, "id, name /* note, visit.* */, 'note' AS said")
    (shop.folder / "marts" / "other.sql").write_text(
        "-- refresh: full\nSELECT store_id AS note, 'visit' AS about FROM sales -- FROM visit\n"
    )
    shop.backend.execute_in_shop("ALTER TABLE visit DROP COLUMN note")
    assert not shop.run().unreadable
    assert shop.mart("visits")[0] == (1, "a", "note")


def test_every_column_of_a_star_is_used(shop: Shop) -> None:
    """Whatever a mart takes without naming it is not dropped silently."""
    _visits(shop, "*")
    shop.backend.execute_in_shop("ALTER TABLE visit DROP COLUMN note")
    assert "has no column 'note' any more" in shop.run().unreadable["visit"]
