"""One mart, table or reference at fault: it is told and waits, and all others go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import retailmart
from retailmart.errors import OF_THE_RUN, NotComputed, RetailmartError, SettingsError, WrongMonth
from retailmart.marts.held import HeldBack
from retailmart.project.mart import Mart
from tests.support.shop import Called, bare_project

_FEED = """files: ['{name}*.csv']
month: day
columns:
  k: {{type: {kind}}}
  code: {{type: STRING}}
  day: {{type: DATE, mandatory: true}}
  amount: {{type: 'DECIMAL(12,2)'}}
"""
_GOOD = (
    "-- refresh: full\n-- key: [k]\n-- publish: true\n"
    "SELECT k, count(*) AS n FROM other GROUP BY k\n"
)
_MONTHS = "-- refresh: months\n-- partitions: [_month]\n-- publish: false\n"


class Small:
    """A project of a few files; its source `shop` is a file of SQLite."""

    def __init__(self, folder: Path, called: Called) -> None:
        self.folder = folder
        self._called = called
        bare_project(folder, "sources: {shop: 'sqlite:///shop.db'}\n")
        for name in ("sales", "other"):
            self.write(f"feeds/{name}.yml", _FEED.format(name=name, kind="BIGINT"))
        self.shop("CREATE TABLE empty (x INTEGER)")
        self.write("marts/good.sql", _GOOD)

    def write(self, path: str, text: str) -> None:
        """A file of the project."""
        (self.folder / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        """Change a text in a file."""
        text = (self.folder / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def land(self, name: str, *rows: str) -> None:
        """A file of a feed; a row is `k,code,day,amount`."""
        self.write(f"landing/{name}.csv", "\n".join(["k,code,day,amount", *rows, ""]))

    def shop(self, *statements: str) -> None:
        """Statements in the source's database."""
        with closing(sqlite3.connect(self.folder / "shop.db")) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def call(self, *words: str) -> tuple[int, str]:
        """The exit code, and all that was said."""
        day = ("--as-of", "2024-04-01") if words[0] == "run" else ()
        done = self._called(self.folder, *words, *day)
        return done.returncode, done.stdout + done.stderr

    def mart(self, name: str) -> list[str]:
        """A mart's rows as texts, sorted."""
        rows = retailmart.open_project(self.folder).mart(name).fetchall()
        return sorted("|".join(map(str, row)) for row in rows)


@pytest.fixture
def small(tmp_path: Path, called: Called) -> Small:
    """Two feeds, and a mart of the second one that nothing may stop."""
    return Small(tmp_path, called)


def the_rest_goes_on(small: Small, code: int, words: str) -> None:
    """A run says `words`, takes all files in, and builds the good mart."""
    small.land("other9", "9,a,2024-01-06,1.00")
    found, said = small.call("run")
    assert (found, words in said) == (code, True), said
    assert not list((small.folder / "landing").iterdir())
    assert "9|1" in small.mart("good")


_U = (
    _MONTHS + "SELECT u._month, u.k, c.name FROM (SELECT _month, {column} AS k FROM sales UNION ALL"
    " SELECT _month, k FROM returns) u LEFT JOIN customer c ON c.id = u.k\n"
)


@pytest.mark.parametrize(
    "kind",
    [
        "BIGINT",
        pytest.param("DOUBLE", marks=pytest.mark.long),
        pytest.param("STRING", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    ("column", "own", "ids"),
    [
        ("k", "INTEGER", ("9007199254740992", "2")),
        ("code", "TEXT", ("'A1'", "'2'")),
    ],
)
def test_a_union_of_any_types_shows_a_tables_new_row(
    small: Small, kind: str, column: str, own: str, ids: tuple[str, str]
) -> None:
    """What the months show is what a rebuild of all of them shows, or the mart says why not."""
    small.write("feeds/returns.yml", _FEED.format(name="returns", kind=kind))
    small.shop(f"CREATE TABLE customer (id {own} PRIMARY KEY, name TEXT)")
    small.shop(f"INSERT INTO customer VALUES ({ids[0]}, 'Ann'), ({ids[1]}, 'Bob')")
    small.write("tables/customer.yml", "key: [id]\n")
    small.write("marts/u.sql", _U.format(column=column))
    small.land("sales1", "9007199254740993,A1,2024-01-05,1.00", "2,2,2024-02-05,2.00")
    small.land("returns1", "2,2,2024-03-05,1.00")
    small.land("other1", "1,a,2024-01-05,1.00")
    small.call("run")
    for change in ("UPDATE customer SET name = name || 'a'", "DELETE FROM customer WHERE id = "):
        small.shop(change + (ids[0] if change.endswith("= ") else ""))
        code, said = small.call("run")
        if code:  # the mart itself compares a text with a number
            assert code == 5, said
            assert "marts/u.sql:4" in said
        else:
            code, said = small.call("verify", "--engines", "duckdb")
            assert code == 0, said
    the_rest_goes_on(small, code, "files loaded")


def test_a_key_that_cannot_be_asked_for_does_not_stop_the_run(small: Small) -> None:
    """A row that is gone was a text that is no number: the mart can be computed without it."""
    small.shop("CREATE TABLE customer (id TEXT PRIMARY KEY, name TEXT)")
    small.shop("INSERT INTO customer VALUES ('1', 'Ann')")
    small.write("tables/customer.yml", "key: [id]\n")
    small.write(
        "marts/u.sql",
        _MONTHS + "SELECT s._month, c.name FROM sales s LEFT JOIN customer c ON c.id = s.k\n",
    )
    small.land("sales1", "1,A1,2024-01-05,1.00")
    assert small.call("run")[0] == 0
    small.shop("INSERT INTO customer VALUES ('A1', 'Zoe')")
    code, said = small.call("run")
    assert (code, "marts/u.sql:4" in said) == (5, True), said
    small.shop("DELETE FROM customer WHERE id = 'A1'", "UPDATE customer SET name = 'Anna'")
    the_rest_goes_on(small, 0, "files loaded")
    assert [row for row in small.mart("u") if "Anna" in row]


def test_a_month_that_is_taken_away_is_told_and_stops_one_mart(small: Small) -> None:
    """The lake's raw table still has `_month`; the feed does not."""
    small.write("marts/m.sql", _MONTHS + "SELECT _month, k, amount FROM sales\n")
    small.land("sales1", "1,a,2024-01-05,1.00")
    small.land("other1", "1,a,2024-01-05,1.00")
    assert small.call("run")[0] == 0
    small.edit("feeds/sales.yml", "month: day\n", "")
    code, said = small.call("check")
    assert (code, "marts/m.sql:4" in said, "_month" in said) == (2, True, True), said
    small.land("sales2", "3,a,2024-01-05,1.00")
    the_rest_goes_on(small, 5, "marts/m.sql:4")
    assert len(small.mart("m")) == 1
    small.edit("feeds/sales.yml", "columns:", "month: day\ncolumns:")
    small.land("sales3", "4,a,2024-01-05,1.00")
    code, said = small.call("run")
    assert code == 0, said
    assert len(small.mart("m")) == 3


@pytest.mark.parametrize(
    ("mart", "words"),
    [
        (
            "-- balance: {sales: code}\n-- key: [_month]\nSELECT _month, max(code) AS code",
            "balance",
        ),
        ("-- agrees: {good: {code: n}}\n-- key: [k]\nSELECT k, code", "do not agree"),
        ("-- agrees: {good: {n: n}}\n-- key: [k]\nSELECT DATE '2024-01-01' AS k, 1 AS n", "agree"),
    ],
)
def test_columns_that_cannot_be_added_up_or_compared_hold_the_mart_back(
    small: Small, mart: str, words: str
) -> None:
    """Texts as money, or dates as the other mart's numbers."""
    header = "-- refresh: months\n-- partitions: [_month]\n-- publish: false\n"
    if "balance" in mart:
        small.edit("feeds/sales.yml", "columns:", "balance: amount\ncolumns:")
    else:
        header = "-- refresh: full\n-- publish: false\n"
    group = " GROUP BY _month" if "max(" in mart else ""
    small.write("marts/odd.sql", f"{header}{mart} FROM sales{group}\n")
    small.land("sales1", "1,a,2024-01-05,1.00")
    small.land("other1", "1,a,2024-01-05,1.00")
    code, said = small.call("run")
    assert (code, words in said, "odd" in said) == (5, True, True), said
    assert not list((small.folder / "landing").iterdir())


@pytest.mark.parametrize(
    ("column", "own", "key", "unknown"),
    [
        ("code", "INTEGER", "1", "2 keys in 2 rows"),
        ("k", "TEXT", "'A1'", "2 keys in 3 rows"),
        ("day", "INTEGER", "1", "1 key in 3 rows"),
    ],
)
def test_a_reference_to_a_key_of_another_type_is_counted(
    small: Small, column: str, own: str, key: str, unknown: str
) -> None:
    """A text that is no number is an unknown key; it does not stop the run."""
    small.edit("feeds/sales.yml", f"{column}: {{type", f"{column}: {{references: c.id, type")
    small.shop(f"CREATE TABLE c (id {own} PRIMARY KEY)", f"INSERT INTO c VALUES ({key})")
    small.write("tables/c.yml", "key: [id]\n")
    small.land("sales1", "1,1,2024-01-05,1.00", "2,b,2024-01-05,1.00", "2,c,2024-01-05,1.00")
    assert small.call("check")[0] == 0
    the_rest_goes_on(small, 0, unknown)
    small.shop("DELETE FROM c", "INSERT INTO c VALUES (2)")
    assert small.call("run")[0] == 0


def test_a_reference_to_a_column_that_is_not_there_is_told_by_check(small: Small) -> None:
    """A run goes on without it, also when the column comes later."""
    small.edit("feeds/sales.yml", "k: {type", "k: {references: c.id, type")
    small.shop("CREATE TABLE c (cid INTEGER PRIMARY KEY)", "INSERT INTO c VALUES (1)")
    small.write("tables/c.yml", "key: [cid]\n")
    code, said = small.call("check")
    assert (code, "feeds/sales.yml:4: c has no column 'id'" in said) == (2, True), said
    small.land("sales1", "1,1,2024-01-05,1.00")
    the_rest_goes_on(small, 0, "good")
    small.shop("ALTER TABLE c ADD COLUMN id INTEGER", "UPDATE c SET id = cid")
    assert small.call("check")[0] == 0
    assert small.call("run")[0] == 0


def test_verify_compares_the_others_of_a_mart_that_was_never_built(small: Small) -> None:
    """Neither the lake nor an engine has it, nor a new mart that reads it."""
    header = "-- refresh: full\n-- publish: false\n"
    small.write("marts/bad.sql", header + "SELECT k, code::INT AS x FROM other\n")
    small.land("other1", "1,a,2024-01-05,1.00")
    assert small.call("run")[0] == 5
    small.write("marts/reader.sql", header + "SELECT count(*) AS n FROM bad\n")
    small.write("marts/wrong.sql", header + "SELECT code::DATE AS d FROM other\n")
    code, said = small.call("verify", "--engines", "duckdb")
    assert code == 0, said
    for name in ("bad", "reader", "wrong"):
        assert any(f"{name} " in line and "not available" in line for line in said.splitlines())
    assert "columns equal" in said


@pytest.mark.parametrize("kind", [RetailmartError, NotComputed, WrongMonth, *OF_THE_RUN])
def test_only_errors_of_the_whole_run_end_it(kind: Callable[..., RetailmartError]) -> None:
    """All others hold back the mart that was built, with its place."""
    mart = Mart.__new__(Mart)
    object.__setattr__(mart, "name", "m")
    object.__setattr__(mart, "first_line", 3)
    held = HeldBack({"m": mart}, dict)
    error = kind(["wrong"]) if kind is SettingsError else kind("wrong")
    if kind in OF_THE_RUN:
        with pytest.raises(RetailmartError, match="wrong"), held.building(mart):
            raise error
        assert not held.held
    else:
        with held.building(mart):
            raise error
        assert "wrong" in held.held["m"].message
