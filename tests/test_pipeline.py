"""The story of a run, from landed files to marts, as its user sees it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from retailmart.errors import GateFailed
from retailmart.operations import batch
from retailmart.report import Difference, RunReport
from tests.support.shop import AS_OF, HEADER, Shop, all_marts, sale

_MONEY = {"customer_mart": "total_cost", "sales_mart": "total_cost"}
_MONTHLY = {"customer_monthly_purchase": "monthly_total", "sales_team_incentive": "total_sales"}


def cents(text: str) -> Decimal:
    """Money."""
    return Decimal(text)


def assert_total(shop: Shop, rows: int, amount: str) -> None:
    """Raw and all sales marts that the shop has hold just this many sales and this money."""
    known = shop.open().project.marts.keys()
    for table, column in _held(_MONEY, known):
        assert len(shop.mart(table)) == rows, table
        assert sum(r[0] for r in shop.mart(table, column)) == cents(amount), table
    for table, column in _held(_MONTHLY, known):
        assert sum(r[0] for r in shop.mart(table, column)) == cents(amount), table
        shown = sum(cents(str(r[0])) for r in shop.published(table, column))
        assert shown == cents(amount), f"published {table}"
    state = shop.open().lake.state("raw/sales")
    assert state is not None
    assert sum(file.rows for file in state.files) == rows, "raw"


def _held(columns: Mapping[str, str], known: Collection[str]) -> list[tuple[str, str]]:
    held = [(table, column) for table, column in columns.items() if table in known]
    assert held
    return held


def states(shop: Shop) -> list[tuple[str, str]]:
    """Each delivery's path and state, in the order they came."""
    with shop.open().ledger() as ledger, ledger.engine.connect() as connection:
        query = "SELECT path, state FROM retailmart_files ORDER BY file_id"
        return [(path, state) for path, state in connection.exec_driver_sql(query)]


def edit_mart(shop: Shop, name: str, old: str, new: str) -> None:
    """Change a text in a mart's file."""
    path = shop.folder / "marts" / f"{name}.sql"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_mart(shop: Shop, name: str, text: str) -> Path:
    """Write a new mart's file."""
    path = shop.folder / "marts" / f"{name}.sql"
    path.write_text(text)
    return path


def set_variables(shop: Shop, words: str) -> None:
    """Set the project's variables."""
    path = shop.folder / "retailmart.yml"
    kept = [x for x in path.read_text().splitlines() if not x.startswith("variables:")]
    path.write_text("\n".join([*kept, f"variables: {words}"]) + "\n")


def everything(shop: Shop) -> dict[str, object]:
    """What people see: marts, published tables, landing."""
    project = shop.open().project
    seen: dict[str, object] = {}
    for mart in project.marts.values():
        seen[mart.name] = shop.mart(mart.name)
        if mart.publish_as:
            seen[f"published {mart.publish_as}"] = shop.published(mart.publish_as)
    seen["landing"] = shop.backend.landed()
    return seen


# files: duplicates and new versions


@pytest.mark.every_backend
def test_same_content_under_another_name_is_a_duplicate(shop: Shop) -> None:
    """A file sent twice under two names counts once, in one run and across runs."""
    rows = [sale(), sale(2, total="5.00")]
    shop.sales("sales_a.csv", rows)
    shop.sales("sales_b.csv", rows)
    assert shop.run().count("duplicate") == 1
    shop.sales("sales_c.csv", rows)
    report = shop.run()
    assert report.count("duplicate") == 1
    assert "sales_a.csv" in str(report.files[0].message)
    assert_total(shop, 2, "15.00")


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_equal_lines_are_two_sales(shop: Shop) -> None:
    """Rows have no identity: two equal lines count twice."""
    shop.sales("sales_a.csv", [sale(), sale()])
    shop.run()
    assert_total(shop, 2, "20.00")


@all_marts
@pytest.mark.every_engine
@pytest.mark.every_database
def test_new_content_under_a_name_supersedes(shop: Shop) -> None:
    """Old rows leave every table, other files of the month stay, the difference is told."""
    shop.sales("sales_a.csv", [sale(), sale(2), sale(3)])
    shop.sales("sales_b.csv", [sale(4, price="1.00")])
    shop.run()
    shop.sales("sales_a.csv", [sale(1, price="12.50"), sale(5, price="2.50")])
    report = shop.run()
    assert report.batches[0].differences == (Difference("sales_a.csv", -1, cents("-15.00")),)
    assert report.to_dict()["files"]["superseded"] == 1
    assert_total(shop, 3, "16.00")
    assert [r[0] for r in shop.mart("customer_mart", "customer_id")] == [1, 4, 5]
    assert [r[0] for r in shop.published("customer_monthly_purchase", "customer_id")] == [1, 4, 5]
    assert states(shop) == [
        ("sales_a.csv", "superseded"),
        ("sales_b.csv", "loaded"),
        ("sales_a.csv", "loaded"),
    ]


@all_marts
@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_new_version_that_moves_rows_to_another_month(shop: Shop) -> None:
    """Months of both versions are rebuilt, and a month left empty is gone everywhere."""
    shop.sales("sales_a.csv", [sale(1, day="2024-01-31"), sale(2, day="2024-02-01")])
    shop.run()
    shop.sales("sales_a.csv", [sale(1, day="2024-03-01"), sale(2, day="2024-02-01", price="9.00")])
    report = shop.run()
    assert [line.month for line in report.batches[0].balance] == ["2024-01", "2024-02", "2024-03"]
    assert report.batches[0].balance[0].rows == 0
    months = [(2024, 2, 2, cents("9.00")), (2024, 3, 1, cents("10.00"))]
    columns = "year, month, customer_id, monthly_total"
    assert shop.mart("customer_monthly_purchase", columns) == months
    assert [r[:3] for r in shop.published("customer_monthly_purchase", columns)] == [
        m[:3] for m in months
    ]
    assert {r[0] for r in shop.mart("sales_mart", "sales_month")} == {"2024-02", "2024-03"}
    assert_total(shop, 2, "19.00")


@pytest.mark.every_backend
def test_an_old_version_delivered_again_supersedes_again(shop: Shop) -> None:
    """A, B, A: the last delivery counts, though its content was known once."""
    first, second = [sale(price="1.00")], [sale(price="2.00"), sale(2, price="4.00")]
    for rows in (first, second, first):
        shop.sales("sales_a.csv", rows)
        report = shop.run()
    assert report.batches[0].differences == (Difference("sales_a.csv", -1, cents("-5.00")),)
    assert_total(shop, 1, "1.00")
    assert [state for _, state in states(shop)] == ["superseded", "superseded", "loaded"]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "a day later"])
@pytest.mark.every_backend
def test_content_of_a_superseded_version_counts_under_another_name(
    shop: Shop, at_once: bool
) -> None:
    """What no longer counts under its own name is no duplicate of anything."""
    old = [sale(price="1.00")]
    shop.sales("sales_a.csv", old)
    shop.run()
    shop.sales("sales_a.csv", [sale(price="2.00")])
    if not at_once:
        shop.run()
    shop.sales("sales_b.csv", old)
    shop.run()
    assert_total(shop, 2, "3.00")


@pytest.mark.every_backend
def test_two_files_that_swap_their_contents_count_once_each(shop: Shop) -> None:
    """Each name leaves with its old content and comes with the other's."""
    one, two = [sale(price="1.00")], [sale(2, price="2.00"), sale(3, price="4.00")]
    shop.sales("sales_a.csv", one)
    shop.sales("sales_b.csv", two)
    shop.run()
    shop.sales("sales_a.csv", two)
    shop.sales("sales_b.csv", one)
    shop.run()
    assert_total(shop, 3, "7.00")


@pytest.mark.every_backend
def test_content_is_not_counted_twice_when_its_name_became_a_duplicate(shop: Shop) -> None:
    """A file that brings a twin of another does not free its old content for a third name."""
    old, new = [sale(price="1.00")], [sale(2, price="2.00")]
    shop.sales("sales_b.csv", old)
    shop.run()
    shop.sales("sales_a.csv", new)
    shop.sales("sales_b.csv", new)
    shop.sales("sales_c.csv", old)
    shop.run()
    assert_total(shop, 2, "3.00")


@pytest.mark.every_backend
def test_a_refused_new_version_does_not_supersede(shop: Shop) -> None:
    """A broken correction leaves the good version counted."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.drop("sales_a.csv", "customer_id,store_id\n1,1\n")
    report = shop.run()
    assert report.count("refused") == 1
    assert report.batches[0].differences == ()
    assert_total(shop, 1, "10.00")


@pytest.mark.every_backend
def test_a_first_run_that_refuses_everything_does_not_hinder_the_next(shop: Shop) -> None:
    """A project may begin with nothing but a broken file."""
    shop.drop("sales_a.csv", "customer_id,store_id\n1,1\n")
    assert shop.run().count("refused") == 1
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    assert_total(shop, 1, "10.00")


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_correction_whose_rows_are_all_quarantined_empties_the_file(shop: Shop) -> None:
    """A loadable new version supersedes although none of its rows is good."""
    shop.sales("sales_a.csv", [sale()])
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    shop.sales("sales_a.csv", [sale(day="2024-02-30")])
    report = shop.run()
    assert (report.rows("records"), report.rows("loaded"), report.rows("quarantined")) == (1, 0, 1)
    assert report.batches[0].differences == (Difference("sales_a.csv", -1, cents("-10.00")),)
    assert_total(shop, 1, "10.00")


# marts


@all_marts
@pytest.mark.every_engine
def test_january_s_second_file_leaves_one_top_seller_a_store(shop: Shop) -> None:
    """The incentive of a month is that of all its files; who was top may be top no more."""
    shop.sales("sales_a.csv", [sale(person=1, price="100.00"), sale(person=2, price="60.00")])
    shop.run()
    shop.sales("sales_b.csv", [sale(person=2, price="60.00"), sale(store=2, person=3)])
    shop.run()
    found = shop.mart("sales_team_incentive", "store_id, sales_person_id, total_sales, incentive")
    assert found == [
        (1, 1, cents("100.00"), cents("0.00")),
        (1, 2, cents("120.00"), cents("1.20")),
        (2, 3, cents("10.00"), cents("0.10")),
    ]
    assert [r[0] for r in shop.published("sales_team_incentive", "incentive")] == [0, 0.1, 1.2]


@all_marts
@pytest.mark.every_engine
def test_tied_tops_each_earn_the_full_rate(shop: Shop) -> None:
    """Nobody loses by a tie."""
    shop.sales("sales_a.csv", [sale(person=1, price="50.00"), sale(person=2, price="50.00")])
    shop.run()
    assert shop.mart("sales_team_incentive", "incentive") == [(cents("0.50"),)] * 2


@all_marts
@pytest.mark.every_engine
def test_the_incentive_is_rounded_half_up(shop: Shop) -> None:
    """Half a cent goes to the salesperson, whether the cent before is odd or even."""
    totals = {"0.50": "0.01", "0.49": "0.00", "1.50": "0.02", "2.50": "0.03", "100.50": "1.01"}
    lines = [sale(day=f"2023-{n:02d}-05", price=total) for n, total in enumerate(totals, 1)]
    shop.sales("sales_a.csv", lines)
    shop.run()
    assert shop.mart("sales_team_incentive", "month, incentive") == [
        (number, cents(incentive)) for number, incentive in enumerate(totals.values(), 1)
    ]


@all_marts
@pytest.mark.every_engine
def test_scope_and_rate_of_the_incentive_are_settings(shop: Shop) -> None:
    """A changed variable rebuilds and republishes the mart without any new file."""
    shop.sales("sales_a.csv", [sale(person=1, price="50.00"), sale(store=2, person=3)])
    shop.sales("sales_b.csv", [sale(day="2024-02-01", store=2, person=3)])
    shop.run()
    set_variables(shop, "{incentive_rate: 0.02, incentive_scope: company}")
    shop.run()
    columns = "month, sales_person_id, incentive"
    expected = [(1, 1, cents("1.00")), (1, 3, cents("0.00")), (2, 3, cents("0.20"))]
    assert shop.mart("sales_team_incentive", columns) == expected
    assert shop.published("sales_team_incentive", columns) == [
        (1, 1, 1.0),
        (1, 3, 0),
        (2, 3, 0.2),
    ]
    assert shop.run().nothing_to_do


@all_marts
@pytest.mark.every_engine
def test_a_rate_that_changes_counts_from_its_day_on(shop: Shop) -> None:
    """A new rate restates the months from its day on and no other; verify reads the same."""
    months = ("2023-12-05", "2024-01-05", "2024-02-05", "2024-03-05")
    shop.sales("sales_a.csv", [sale(day=day) for day in months])
    shop.run()
    set_variables(shop, "{incentive_rate: {2024-01-01: 0.01, 2024-02-01: 0.02}}")
    shop.run()
    expected = [(1, cents("0.10")), (2, cents("0.20")), (3, cents("0.20")), (12, cents("0.10"))]
    assert shop.mart("sales_team_incentive", "month, incentive") == expected
    assert not shop.open().verify(["duckdb"]).different
    set_variables(shop, "{incentive_rate: {2024-01-01: 0.01, 2024-02-01: 0.02, 2024-03-01: 0.03}}")
    shop.run()
    assert shop.mart("sales_team_incentive", "month, incentive")[2] == (3, cents("0.30"))
    assert shop.run().nothing_to_do


def test_unknown_keys_are_counted_in_the_rows_of_the_batchs_own_files(shop: Shop) -> None:
    """Whether a file is new, a correction or comes back: not in other files' rows of its month."""

    def unknown(report: RunReport) -> list[tuple[str, int, int]]:
        return [(u.column, u.keys, u.rows) for u in report.batches[0].unmatched]

    shop.sales("sales_a.csv", [sale(77)])
    assert unknown(shop.run()) == [("customer_id", 1, 1)]
    shop.sales("sales_b.csv", [sale(), sale(78)])
    assert unknown(shop.run()) == [("customer_id", 1, 1)]
    shop.sales("sales_b.csv", [sale()])
    assert unknown(shop.run()) == []
    assert unknown(shop.open().undo(3)) == [("customer_id", 1, 1)]


@all_marts
@pytest.mark.every_engine
@pytest.mark.every_backend
def test_unknown_keys_keep_their_sales_and_are_counted(shop: Shop) -> None:
    """A sale of an unknown customer, store or salesperson stays, with NULLs, and is told."""
    unknown = sale(77, 9, person=8)
    shop.sales("sales_a.csv", [sale(), unknown, unknown, sale(78)])
    report = shop.run()
    told = {(u.column, u.table): (u.keys, u.rows) for u in report.batches[0].unmatched}
    assert told == {
        ("customer_id", "customer"): (2, 3),
        ("store_id", "store"): (1, 2),
        ("sales_person_id", "sales_team"): (1, 2),
    }
    assert_total(shop, 4, "40.00")
    assert (77, None, None, None, None, None) in shop.mart(
        "customer_mart", "customer_id, first_name, last_name, address, pincode, phone_number"
    )
    assert (9, 8, None, None, None, None) in shop.mart(
        "sales_mart",
        "store_id, sales_person_id, store_manager_name, sales_person_first_name, manager_id,"
        " is_manager",
    )
    columns = "customer_id, first_name, monthly_total"
    assert (77, None, 20) in shop.published("customer_monthly_purchase", columns)


@all_marts
@pytest.mark.every_engine
@pytest.mark.every_backend
def test_an_extra_column_reaches_raw_and_both_row_marts(shop: Shop) -> None:
    """payment_mode travels as JSON by its name; files without it have NULL."""
    shop.sales("sales_a.csv", [sale() + ",UPI"], f"{HEADER},payment_mode")
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    expected = [(1, '{"payment_mode":"UPI"}'), (2, None)]
    assert shop.mart("customer_mart", "customer_id, additional_column") == expected
    assert {r[0] for r in shop.mart("sales_mart", "additional_column")} == {e[1] for e in expected}
    state = shop.open().lake.state("raw/sales")
    assert state is not None
    assert "additional_column" in {field.name for field in state.fields}


# declining customers: small histories by hand

_DECLINING = "customer_id, year, month, monthly_total, previous_total, change, change_percent"


def purchases(shop: Shop, *lines: tuple[int, str, str]) -> None:
    """One file of (customer, month, total)."""
    shop.sales("sales_a.csv", [sale(c, day=f"{m}-10", price=total) for c, m, total in lines])


@all_marts
@pytest.mark.every_engine
def test_declining_customers_by_hand(shop: Shop) -> None:
    """Gap months are 0, falls in a row are counted, who did not fall is not there."""
    purchases(
        shop,
        (1, "2023-11", "40.00"),  # falls in each month
        (1, "2023-12", "30.00"),
        (1, "2024-01", "20.00"),
        (1, "2024-02", "10.00"),
        (1, "2024-03", "6.67"),
        (2, "2024-02", "10.00"),  # rises
        (2, "2024-03", "11.00"),
        (3, "2024-02", "10.00"),  # same
        (3, "2024-03", "10.00"),
        (4, "2024-02", "10.00"),  # stops: 0 in March
        (5, "2024-01", "90.00"),  # 0 in February already: not a fall of March
        (6, "2023-12", "50.00"),  # a gap, up again, then down: one fall
        (6, "2024-02", "30.00"),
        (6, "2024-03", "10.00"),
        (7, "2024-03", "10.00"),  # new
    )
    shop.run()
    columns = f"{_DECLINING}, months_falling"
    assert shop.mart("declining_customers", columns) == [
        (1, 2024, 3, *map(cents, ("6.67", "10.00", "-3.33", "-33.30")), 4),
        (4, 2024, 3, *map(cents, ("0.00", "10.00", "-10.00", "-100.00")), 1),
        (6, 2024, 3, *map(cents, ("10.00", "30.00", "-20.00", "-66.67")), 1),
    ]
    assert [r[0] for r in shop.published("declining_customers", "customer_id")] == [1, 4, 6]


@all_marts
@pytest.mark.every_engine
def test_change_percent_is_rounded_half_up(shop: Shop) -> None:
    """Half a hundredth is rounded away from zero, as on paper."""
    cases = [
        ("8.00", "7.99", "-0.13"),  # -0.125
        ("800.00", "797.00", "-0.38"),  # -0.375
        ("200.00", "199.99", "-0.01"),  # -0.005
        ("300.00", "299.99", "0.00"),
    ]
    months = [
        line
        for customer, (before, now, _) in enumerate(cases, 1)
        for line in ((customer, "2024-02", before), (customer, "2024-03", now))
    ]
    purchases(shop, *months)
    shop.run()
    assert shop.mart("declining_customers", "customer_id, change_percent") == [
        (customer, cents(percent)) for customer, (_, _, percent) in enumerate(cases, 1)
    ]


@all_marts
def test_the_threshold_is_a_setting_and_must_be_exceeded(shop: Shop) -> None:
    """A fall of just the threshold does not count."""
    purchases(
        shop,
        (1, "2024-02", "100.00"),
        (1, "2024-03", "90.00"),
        (2, "2024-02", "100.00"),
        (2, "2024-03", "89.99"),
    )
    set_variables(shop, "{declining_threshold_percent: 10}")
    shop.run()
    assert shop.mart("declining_customers", "customer_id") == [(2,)]


@all_marts
@pytest.mark.parametrize(
    ("as_of", "month"),
    [
        (datetime(2024, 4, 1, tzinfo=UTC), 3),
        (datetime(2024, 3, 31, 23, 59, 59, tzinfo=UTC), 2),
        (datetime(2024, 7, 1, tzinfo=UTC), 4),
    ],
)
def test_the_month_is_the_last_that_ended_before_as_of_and_has_sales(
    shop: Shop, as_of: datetime, month: int
) -> None:
    """A month that runs still is not compared; months without any sale are passed over."""
    purchases(
        shop,
        *((1, f"2024-0{m}", f"{50 - m}.00") for m in (1, 2, 3, 4)),
    )
    shop.run(as_of)
    assert shop.mart("declining_customers", "year, month, previous_total - monthly_total") == [
        (2024, month, cents("1.00"))
    ]


# the user changes marts


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_new_mart_is_built_over_all_history(shop: Shop) -> None:
    """A mart's file added after runs is built and published from all months, without new files."""
    shop.sales("sales_a.csv", [sale(), sale(2, 2, "2024-02-01", 3)])
    shop.run()
    add_mart(shop, "store_days", _STORE_DAYS)
    report = shop.run()
    expected = [(1, "2024-01-15", 10), (2, "2024-02-01", 10)]
    assert shop.published("store_days", "store_id, sales_date, total") == expected
    assert [line.name for line in report.batches[0].marts] == ["store_days"]
    shop.sales("sales_b.csv", [sale(3, price="5.00")])
    shop.run()
    assert shop.published("store_days", "total") == [(10,), (15,)]


_STORE_DAYS = """-- about: takings of each store and day
-- refresh: months
-- partitions: [_month]
-- key: [_month, store_id, sales_date]
-- balance: {sales: total}
-- publish: true
SELECT store_id, sales_date, CAST(sum(total_cost) AS DECIMAL(18, 2)) AS total, _month
FROM sales GROUP BY ALL
"""

_COPY = """-- refresh: append
-- partitions: [_month]
-- balance: {sales: total_cost}
SELECT customer_id, total_cost, _file_id, _month FROM sales
"""


@pytest.mark.every_backend
def test_a_new_row_mart_takes_the_next_file_of_a_known_month(shop: Shop) -> None:
    """Its balance includes the history it was built over, though no file came with it then."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    add_mart(shop, "sales_copy", _COPY)
    shop.run()
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    assert len(shop.mart("sales_copy")) == 2


@pytest.mark.every_database
def test_an_edited_mart_is_rebuilt_and_republished(shop: Shop) -> None:
    """New columns and rules reach all months and the database's table."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-01")])
    shop.run()
    edit_mart(
        shop, "customer_monthly_purchase", "m._month\nFROM", "'yes' AS mine,\n m._month\nFROM"
    )
    shop.run()
    assert shop.published("customer_monthly_purchase", "customer_id, mine") == [
        (1, "yes"),
        (2, "yes"),
    ]
    assert_total(shop, 2, "20.00")


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_publish_can_be_switched_off_and_on_under_another_name(shop: Shop) -> None:
    """After each switch the table of that name shows the mart as it is."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    name = "customer_monthly_purchase"
    edit_mart(shop, name, "publish: true", "publish: purchases")
    shop.run()
    assert shop.published("purchases", "customer_id") == [(1,)]
    edit_mart(shop, name, "publish: purchases", "publish: false")
    shop.sales("sales_b.csv", [sale(2)])
    shop.run()
    edit_mart(shop, name, "publish: false", "publish: true")
    shop.run()
    assert shop.published(name, "customer_id") == [(1,), (2,)]


@pytest.mark.every_backend
def test_a_row_mart_is_published_by_one_word(shop: Shop) -> None:
    """The word needs a key beside it; then every sale is in the database."""
    path = shop.folder / "marts" / "customer_mart.sql"
    text = path.read_text().replace("-- publish: false", "-- publish: true\n-- key: [_row]")
    path.write_text(
        text.replace("s._file_id,", "s._file_id, row_number() OVER (ORDER BY s._file_id) AS _row,")
    )
    shop.sales("sales_a.csv", [sale(), sale()])
    shop.run()
    assert shop.published("customer_mart", "customer_id, total_cost") == [(1, 10), (1, 10)]


@pytest.mark.every_engine
def test_a_mart_reads_another_mart(shop: Shop) -> None:
    """It is built after the mart it reads, and follows it when that one alone is edited."""
    top = """-- refresh: months
-- partitions: [_month]
-- key: [_month]
-- publish: true
SELECT _month, max(monthly_total) AS best FROM customer_monthly_purchase GROUP BY _month
"""
    add_mart(shop, "best_months", top)
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-01", price="30.00")])
    shop.run()
    shop.sales("sales_b.csv", [sale(price="5.00")])
    shop.run()
    assert shop.published("best_months", "_month, best") == [("2024-01", 15), ("2024-02", 30)]
    edit_mart(
        shop, "customer_monthly_purchase", "CAST(sum(total_cost) AS", "CAST(sum(total_cost + 0) AS"
    )
    edit_mart(shop, "best_months", "max(monthly_total)", "max(monthly_total + 1)")
    shop.run()
    assert shop.published("best_months", "_month, best") == [("2024-01", 16), ("2024-02", 31)]


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_column_added_to_the_feed_keeps_history(shop: Shop) -> None:
    """Raw takes a new schema without losing the files that were loaded under the old one."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    path = shop.folder / "feeds" / "sales.yml"
    text = path.read_text()
    path.write_text(text.replace("extra_columns:", "  till: {type: INT}\nextra_columns:"))
    shop.sales("sales_b.csv", [sale(2, day="2024-02-01") + ",7"], f"{HEADER},till")
    shop.run()
    shop.sales("sales_c.csv", [sale(3) + ",8"], f"{HEADER},till")
    shop.run()
    assert_total(shop, 3, "30.00")
    assert len(shop.mart("customer_monthly_purchase")) == 3


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_source_column_of_another_type_keeps_history(shop: Shop) -> None:
    """The shop's database turns a text column into numbers; row marts keep their old months."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.backend.execute_in_shop(
        "CREATE TABLE c2 (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,"
        " address TEXT, pincode INTEGER, phone_number TEXT, customer_joining_date DATE)",
        "INSERT INTO c2 SELECT customer_id, first_name, last_name, address,"
        " CAST(pincode AS DECIMAL(9, 0)), phone_number, customer_joining_date FROM customer",
        "DROP TABLE customer",
        "ALTER TABLE c2 RENAME TO customer",
    )
    shop.sales("sales_b.csv", [sale(2, day="2024-02-01")])
    shop.run()
    shop.sales("sales_c.csv", [sale(3)])
    shop.run()
    assert_total(shop, 3, "30.00")


# gates


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_fail_rule_stops_the_run_and_the_next_one_works(shop: Shop) -> None:
    """Nothing of the run is kept, files stay in landing; a corrected file then loads."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(
        path.read_text()
        + "  - {name: not_free, check: total_cost > 0, action: fail, message: is for free}\n"
    )
    shop.sales("sales_b.csv", [sale(2), sale(3, price="0.00")])
    before = everything(shop)
    for _ in range(2):
        with pytest.raises(GateFailed, match=r"sales_b\.csv: 1 row breaks.*'not_free'") as caught:
            shop.run()
        assert caught.value.exit_code == 3
        assert everything(shop) == before
    shop.sales("sales_b.csv", [sale(2), sale(3, price="1.00")])
    assert shop.run().batches[0].differences == ()
    assert_total(shop, 3, "21.00")
    assert [state for path_, state in states(shop) if path_ == "sales_b.csv"] == [
        "released",
        "released",
        "loaded",
    ]


_LOSES = ("LEFT JOIN customer", "INNER JOIN customer")


@all_marts
@pytest.mark.parametrize("mart", ["customer_mart", "customer_monthly_purchase"])
@pytest.mark.every_engine
@pytest.mark.every_backend
def test_a_mart_that_loses_rows_of_new_files_is_held_back(shop: Shop, mart: str) -> None:
    """The message names mart, month and difference; it and what must tell the same stay."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    edit_mart(shop, mart, *_LOSES)
    shop.sales("sales_b.csv", [sale(2), sale(77, price="3.21")])
    before = everything(shop)
    held = {one.mart: one for one in shop.run().held}
    assert re.search(rf"2024-01.*23\.21.*{mart} 20\.00.*-3\.21", held[mart].message)
    assert held.keys() > {"customer_mart", "sales_mart", "customer_monthly_purchase"}
    assert everything(shop) == {**before, "landing": []}
    edit_mart(shop, mart, *reversed(_LOSES))
    assert shop.run().held == ()
    assert_total(shop, 3, "23.21")


@pytest.mark.parametrize("mart", ["customer_mart", "customer_monthly_purchase"])
@pytest.mark.parametrize("with_file", [False, True], ids=["no file", "a file of another month"])
def test_a_mart_edited_to_lose_old_rows_is_held_back(
    shop: Shop, mart: str, with_file: bool
) -> None:
    """A mart built anew is proven over all its months, not only those of today's files."""
    shop.sales("sales_a.csv", [sale(), sale(77, price="3.21")])
    shop.run()
    edit_mart(shop, mart, *_LOSES)
    if with_file:
        shop.sales("sales_b.csv", [sale(2, day="2024-02-01")])
    before = everything(shop)
    held = {one.mart: one for one in shop.run().held}
    assert re.search(r"2024-01.*13\.21.*10\.00.*-3\.21", held[mart].message)
    assert everything(shop)[mart] == before[mart]


@pytest.mark.every_engine
def test_a_mart_with_broken_sql_fails_and_works_once_corrected(shop: Shop) -> None:
    """An error in a mart names its file, before anything is taken in; then all of it is."""
    shop.sales("sales_a.csv", [sale()])
    edit_mart(shop, "customer_mart", "c.pincode", "c.pin_code")
    with pytest.raises(Exception, match=r"marts/customer_mart\.sql:.*pin_code"):
        shop.run()
    edit_mart(shop, "customer_mart", "c.pin_code", "c.pincode")
    (batch,) = shop.run(datetime(2024, 5, 1, tzinfo=UTC)).batches
    assert (batch.batch_id, batch.recovered) == (1, False)
    assert_total(shop, 1, "10.00")


# hands on the published tables


def by_hand(shop: Shop, statement: str) -> None:
    """Somebody writes to the database."""
    shop.backend.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE customer_monthly_purchase SET monthly_total = 99 WHERE customer_id = 1",
        "DELETE FROM customer_monthly_purchase WHERE customer_id = 1",
        "DELETE FROM customer_monthly_purchase",
        "INSERT INTO customer_monthly_purchase VALUES (55, 'x', 'y', 2024, 1, 5, '2024-01')",
        "INSERT INTO customer_monthly_purchase VALUES (3, 'x', 'y', 2024, 1, 5, '2024-01')",
        "DROP TABLE customer_monthly_purchase",
    ],
    ids=["changed", "deleted", "emptied", "stranger", "the row that is to come", "dropped"],
)
@pytest.mark.every_backend
def test_a_published_table_changed_by_hand_is_repaired(shop: Shop, statement: str) -> None:
    """The next run that touches the month makes the table equal to the mart."""
    shop.sales("sales_a.csv", [sale(), sale(2), sale(2, day="2024-02-01")])
    shop.run()
    by_hand(shop, statement)
    shop.sales("sales_b.csv", [sale(3, price="1.00"), sale(2, day="2024-02-01")])
    shop.run()
    columns = "customer_id, first_name, year, month, monthly_total"
    expected = [(*row[:-1], float(row[-1])) for row in shop.mart(_PURCHASES, columns)]
    assert shop.published(_PURCHASES, columns) == expected


_PURCHASES = "customer_monthly_purchase"


# the report


@all_marts
@pytest.mark.every_engine
@pytest.mark.every_backend
def test_the_report_tells_the_run_s_figures(shop: Shop) -> None:
    """Files, rows, warnings, balance, marts and archive are those of the run."""
    shop.sales("sales_a.csv", [sale(), sale(2, total="9.99"), sale(day="2024-02-30")])
    shop.sales("sales_b.csv", [sale(day="2024-02-01", price="2.00")])
    shop.sales("sales_c.csv", [sale(day="2024-02-01", price="2.00")])
    shop.drop("notes.txt", "x")
    shop.drop("sales_d.csv.part", "half")
    report = shop.run()
    assert report.as_of == AS_OF
    assert report.waiting == ("sales_d.csv.part",)
    assert not report.nothing_to_do
    plain = report.to_dict()
    assert plain["files"] == {"loaded": 2, "duplicate": 1, "refused": 1, "superseded": 0}
    assert plain["rows"] == {"read": 4, "loaded": 3, "quarantined": 1}
    (batch,) = report.batches
    (first,) = [line for line in batch.files if line.path == "sales_a.csv"]
    assert (first.records, first.loaded, first.quarantined) == (3, 2, 1)
    assert first.warned == {"total_is_price_times_quantity": 1}
    balance = {line.month: (line.rows, line.amount) for line in batch.balance}
    assert balance == {"2024-01": (2, cents("19.99")), "2024-02": (1, cents("2.00"))}
    assert set(batch.balance[0].tables) == {
        "raw/sales",
        *(f"marts/{name}" for name in (*_MONEY, *_MONTHLY)),
    }
    marts = {line.name: line for line in batch.marts}
    assert (marts["sales_mart"].rows, marts["sales_mart"].months) == (3, 2)
    assert marts["sales_mart"].published_as is None
    assert (marts[_PURCHASES].published_as, marts[_PURCHASES].published_rows) == (_PURCHASES, 3)
    assert f"{batch.archived_to}/sales_a.csv" in shop.archived()
    idle = shop.run()
    assert idle.nothing_to_do
    assert idle.waiting == ("sales_d.csv.part",)


@pytest.mark.every_engine
@pytest.mark.every_backend
def test_only_touched_months_are_written(shop: Shop) -> None:
    """A day of March leaves January's files of every month's mart as they are."""
    shop.sales("sales_a.csv", [sale(), sale(day="2024-03-01")])
    shop.run()

    def january() -> set[str]:
        lake = shop.open().lake
        found = [lake.state(f"marts/{name}") for name in (*_MONEY, *_MONTHLY)]
        return {f.path for state in found if state for f in state.in_months(["2024-01"]).files}

    before = january()
    shop.sales("sales_b.csv", [sale(day="2024-03-02")])
    report = shop.run()
    assert january() == before
    assert {line.name: line.months for line in report.batches[0].marts}[_PURCHASES] == 1


@pytest.mark.every_engine
def test_sql_does_not_care_for_the_case_of_names(shop: Shop) -> None:
    """A mart that writes FROM SALES reads the feed sales."""
    (shop.folder / "marts" / "loud.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\n"
        "SELECT COUNT(*) AS N, _MONTH FROM SALES GROUP BY ALL\n"
    )
    shop.sales("sales_1.csv", [sale(), sale()])
    shop.run()
    assert shop.mart("loud", "n") == [(2,)]


@all_marts
def test_a_published_mart_is_reported_as_such_by_a_run_that_finds_it_published(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that finishes a published batch names the tables, though it has written none."""
    shop.sales("sales_a.csv", [sale()])

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(batch, "archive", full)
    with pytest.raises(OSError, match="disk is full") as failure:
        shop.run()
    assert re.match(r"Run 1 failed in step archive, \d+\.\d\d s", failure.value.__notes__[0])
    monkeypatch.undo()
    (finished,) = shop.run().batches
    assert finished.recovered
    lines = {line.name: (line.published_as, line.changed) for line in finished.marts}
    assert lines["customer_monthly_purchase"] == ("customer_monthly_purchase", None)
    assert lines["sales_mart"] == (None, None)
