"""`retailmart verify --database`: published tables, whole, against the marts that they show."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from retailmart import MartNotBuilt, ProjectBusy
from retailmart.database.target import Target
from retailmart.errors import RetailmartError
from retailmart.ledger.batches import Batches
from retailmart.report import TableComparison
from tests.support.shop import Called, Shop, all_marts, keep_only, sale

_MONTHLY = "customer_monthly_purchase"
Verify = Callable[..., subprocess.CompletedProcess[str]]

# Every type, at its ends and with NULL; texts that collations take for one another.
_TYPES = """-- refresh: full
-- key: [id]
-- publish: true
SELECT * FROM (VALUES
  (1, 'tea', 9007199254740993, 0.01::DECIMAL(14, 2), 0.1::DOUBLE, DATE '0001-01-01',
   TIMESTAMPTZ '2024-01-31 23:59:59.999999+00', true),
  (2, 'Tea ', -9007199254740993, 999999999999.99, 1e300, DATE '9999-12-31',
   TIMESTAMPTZ '2024-02-29 00:00:00+00', false),
  (3, '', 0, -0.01, -0.0, DATE '2024-02-29', TIMESTAMPTZ '1969-12-31 23:59:59.5+00', NULL),
  (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (5, 'té"\\''%s' || chr(10) || '日本', 1, 1.10, 1.5, DATE '2024-01-01',
   TIMESTAMPTZ '2024-01-01 12:00:00.120000+00', true)
) AS v(id, name, "100 %", amount, ratio, day, moment, good)
"""


@pytest.fixture(autouse=True)
def small_shop(shop: Shop) -> None:
    """Only the sales and what is made of them here."""
    marts = ("customer_mart", "sales_mart", _MONTHLY, "declining_customers")
    keep_only(shop.folder, feeds=["sales"], marts=marts)


@pytest.fixture
def verified(shop: Shop, called: Called) -> Verify:
    """The command, in the shop's folder."""
    return lambda *words: called(shop.folder, "verify", "--database", *words)


def compared(shop: Shop, mart: str = _MONTHLY) -> TableComparison:
    """One mart's comparison."""
    (found,) = shop.open().verify_database([mart]).tables
    return found


def deliver(shop: Shop) -> None:
    """Three customers' sales of two months, all published."""
    shop.sales("sales_1.csv", [sale(3), sale(2, price="7.00"), sale(5, day="2024-02-01")])
    shop.run()


@all_marts
@pytest.mark.every_database
def test_each_published_mart_has_a_line(shop: Shop, verified: Verify) -> None:
    """What runs have published is equal; only a name narrows it; the JSON says the same."""
    deliver(shop)
    done = verified()
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["customer_monthly_purchase", "3", "rows", "equal"],
        ["declining_customers", "2", "rows", "equal"],
    ]
    report = json.loads(verified(_MONTHLY, "-o", "json").stdout)
    (table,) = report["tables"]
    assert (report["equal"], table["mart"], table["rows"], table["mart_rows"]) == (
        True, _MONTHLY, 3, 3,
    )  # fmt: skip


@pytest.mark.every_database
def test_every_value_is_compared_as_it_is(shop: Shop) -> None:
    """No type, NULL, letter case or blank makes a difference where there is none."""
    (shop.folder / "marts" / "types.sql").write_text(_TYPES)
    deliver(shop)
    found = compared(shop, "types")
    assert (found.equal, found.rows, found.mart_rows) == (True, 5, 5), found


_CHANGES = [
    ("name = 'Tea'", 2),
    ("name = 'TEA'", 1),
    ("name = NULL", 3),
    ("name = ''", 4),
    ("amount = 0", 4),
    ("amount = 0.02", 1),
    ("ratio = 0.10000001", 1),
    ("day = '2024-02-28'", 3),
    ("moment = '2024-01-31 23:59:59.999998'", 1),
    ("good = NOT good", 1),
    ("good = 2", 1),
    ("good = 0", 3),
]
# SQLite holds any value in any column.
_STRANGE = [
    ("amount = 1.005", 1),
    ("ratio = 'half'", 1),
    ("name = CAST(x'ff' AS TEXT)", 1),
    ("name = x'746561'", 1),
    ("day = 20240229", 3),
    ("day = '20240229'", 3),
    ("\"100 %\" = 'many'", 1),
]


@pytest.mark.every_database
def test_one_changed_value_is_found(shop: Shop) -> None:
    """In every type, to the last digit, letter and blank; the row is named by its key."""
    (shop.folder / "marts" / "types.sql").write_text(_TYPES)
    deliver(shop)
    strange = _STRANGE if shop.backend.speaks == "sqlite" else []
    # Truth values are numbers in the other two.
    numbers = {"good = 2", "good = 0"} if shop.backend.speaks == "postgres" else set()
    for change, row in _CHANGES + strange:
        if change in numbers:
            continue
        shop.backend.execute(
            f"CREATE TABLE kept AS SELECT * FROM types WHERE id = {row}",
            f"UPDATE types SET {change} WHERE id = {row}",
        )
        found = compared(shop, "types")
        assert (found.table_only, found.mart_only) == (1, 1), change
        assert [one["id"] for one in (*found.table_first, *found.mart_first)] == [str(row)] * 2
        shop.backend.execute(
            f"DELETE FROM types WHERE id = {row}",
            "INSERT INTO types SELECT * FROM kept",
            "DROP TABLE kept",
        )
    assert compared(shop, "types").equal


# What somebody does, what takes it back, and what verify says of it.
_EDITS = [
    (f"UPDATE {_MONTHLY} SET monthly_total = monthly_total + 1 WHERE customer_id = 3",
     f"UPDATE {_MONTHLY} SET monthly_total = monthly_total - 1 WHERE customer_id = 3",
     ["DIFFERENT: 1 row only in the table, 1 row only in the mart",
      "_month 2024-01, customer_id 3: monthly_total 11.00 in the table, 10.00 in the mart"]),
    (f"DELETE FROM {_MONTHLY} WHERE customer_id > 2",
     f"INSERT INTO {_MONTHLY} SELECT * FROM kept WHERE customer_id > 2",
     ["DIFFERENT: 2 rows only in the mart", "_month 2024-01, customer_id 3: only in the mart",
      "_month 2024-02, customer_id 5: only in the mart"]),
    (f"UPDATE {_MONTHLY} SET customer_id = 9 WHERE customer_id = 5",
     f"UPDATE {_MONTHLY} SET customer_id = 5 WHERE customer_id = 9",
     ["DIFFERENT: 1 row only in the table, 1 row only in the mart",
      "_month 2024-02, customer_id 9: only in the table",
      "_month 2024-02, customer_id 5: only in the mart"]),
    (f"ALTER TABLE {_MONTHLY} RENAME COLUMN first_name TO called",
     f"ALTER TABLE {_MONTHLY} RENAME COLUMN called TO first_name",
     ["DIFFERENT: the table has no column first_name"]),
    (f"DROP TABLE {_MONTHLY}", None, [f"DIFFERENT: the database has no table {_MONTHLY}"]),
]  # fmt: skip


@pytest.mark.every_database
def test_what_differs_is_listed_by_key(shop: Shop, verified: Verify) -> None:
    """Counts of both sides, the first rows, and exit code 3, until it is taken back."""
    deliver(shop)
    shop.backend.execute(f"CREATE TABLE kept AS SELECT * FROM {_MONTHLY}")
    for edit, back, expected in _EDITS:
        assert compared(shop).equal
        shop.backend.execute(edit)
        done = verified(_MONTHLY)
        assert done.returncode == 3
        first, *more = (line.strip() for line in done.stdout.splitlines())
        assert [first[first.index("DIFFERENT") :], *more] == expected
        assert f"1 table does not show what the mart holds: {_MONTHLY}" in done.stderr
        assert json.loads(verified("-o", "json").stdout)["equal"] is False
        if back:
            shop.backend.execute(back)
    shop.sales("sales_2.csv", [sale(4)])
    shop.run()
    assert compared(shop).equal


def test_what_people_add_is_no_difference(shop: Shop) -> None:
    """Columns and indexes of theirs are not the mart's."""
    deliver(shop)
    shop.backend.execute(
        f"ALTER TABLE {_MONTHLY} ADD COLUMN note VARCHAR(20)",
        f"UPDATE {_MONTHLY} SET note = 'vip'",
        f"CREATE INDEX by_total ON {_MONTHLY} (monthly_total)",
    )
    assert compared(shop).equal


@pytest.mark.every_backend
def test_a_mart_that_is_held_back_is_compared_with_what_is_published(
    shop: Shop, verified: Verify
) -> None:
    """Its table shows an older version of the lake, or the same that the lake still holds."""
    mart = shop.folder / "marts" / "ratio.sql"
    mart.write_text(
        "-- refresh: full\n-- key: [customer_id]\n-- publish: true\n"
        "SELECT customer_id, CAST(max(12345678 // price) AS INTEGER) AS n,"
        " CASE WHEN customer_id = 9 THEN CAST('x' AS INTEGER) END AS m FROM sales GROUP BY ALL\n"
    )
    deliver(shop)
    shop.sales("sales_2.csv", [sale(9)])
    assert [one.mart for one in shop.run().held] == ["ratio"]
    found = compared(shop, "ratio")
    assert (found.equal, found.held, found.rows) == (True, True, 3)
    assert "held back: compared with the version that is published" in verified("ratio").stdout


@all_marts
def test_what_cannot_be_compared_is_said(shop: Shop, verified: Verify) -> None:
    """Nothing is published yet; no such mart; one that is not published; options that don't fit."""
    with pytest.raises(MartNotBuilt, match="no mart is published yet"):
        shop.open().verify_database()
    deliver(shop)
    with pytest.raises(RetailmartError, match=r"there is no mart 'sales_martt'.*sales_mart"):
        shop.open().verify_database(["sales_martt"])
    with pytest.raises(RetailmartError, match="mart sales_mart is not published"):
        shop.open().verify_database(["sales_mart"])
    assert verified("--files", "all").returncode == 2
    (shop.folder / "marts" / "types.sql").write_text(_TYPES)
    done = verified("types")
    assert done.returncode == 0
    assert "it is not published yet; the next run publishes it" in done.stdout


def test_a_mart_that_was_never_published_says_what_it_waits_for(
    shop: Shop, verified: Verify
) -> None:
    """A feed of which no file came, a table that no source has, or what holds it back."""
    header = "-- refresh: full\n-- key: [n]\n-- publish: true\n"
    for name, select in {
        "visitors": "SELECT count(*) AS n FROM visits",
        "gifts": "SELECT count(*) AS n FROM gift",
        "given": "SELECT count(*) AS n FROM odd",
    }.items():
        (shop.folder / "marts" / f"{name}.sql").write_text(header + select)
    (shop.folder / "feeds" / "visits.yml").write_text("files: [visits*.csv]\ncolumns: {n: INT}\n")
    (shop.folder / "tables" / "gift.yml").write_text("key: [id]\n")
    shop.backend.execute_in_shop(
        "CREATE TABLE odd (id INTEGER PRIMARY KEY, day DATE)", "INSERT INTO odd VALUES (1, 'x')"
    )
    deliver(shop)
    done = verified("visitors", "gifts", "given")
    assert done.returncode == 0, done.stderr
    why = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "not published yet: no file of feed visits has come yet" in why["visitors"]
    assert "not published yet: no source has the table gift" in why["gifts"]
    assert "not published yet: source table 'odd', column 'day'" in why["given"]


@pytest.mark.every_backend
def test_a_run_that_publishes_meanwhile_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is changed while it is read is read again, and found equal."""
    deliver(shop)
    right, runs = Target.read_back, [0]

    def read_back(self: Target, connection: Any) -> Any:
        yield from right(self, connection)
        if not runs[0]:
            runs[0] += 1
            connection.rollback()
            shop.sales("sales_2.csv", [sale(3, price="1.00")])
            shop.run()

    monkeypatch.setattr(Target, "read_back", read_back)
    found = compared(shop)
    assert (found.equal, found.rows, runs) == (True, 3, [1])


@pytest.mark.every_backend
def test_a_batch_that_was_cut_off_while_it_was_published(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the table shows is not known then: finish it first."""
    deliver(shop)

    def cut_off(*_: Any) -> None:
        raise OSError("cut off")

    shop.sales("sales_2.csv", [sale(4)])
    monkeypatch.setattr(Batches, "mark_published", cut_off)
    with pytest.raises(OSError, match="cut off"):
        shop.run()
    monkeypatch.undo()
    monkeypatch.setattr("retailmart.operations.verify.published._PAUSES", (0.0,))
    with pytest.raises(ProjectBusy, match="was cut off"):
        shop.open().verify_database()
    shop.run()
    assert not shop.open().verify_database().different
