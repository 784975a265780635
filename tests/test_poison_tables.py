"""A poison sweep of the template's source tables: the edges of every type, in every column."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from retailmart.database import open_database
from retailmart.database.source import read_table
from retailmart.errors import GateFailed, RetailmartError
from retailmart.report import RunReport
from retailmart.template import STORIES
from retailmart.template.sample import till, webshop
from tests.support.amount import tries
from tests.support.backends import Backend, on_mariadb
from tests.support.digests import lake_tables
from tests.support.services.mariadb import Database
from tests.support.shop import Shop, sale

_ROWS = 9
_SCHEMA = (till.SCHEMA + webshop.SCHEMA).replace(" PRIMARY KEY", "")
TABLES = {
    name: dict(re.findall(r"(\w+) ([A-Z]+(?:\(\d+(?:,\d+)?\))?)", columns))
    for name, columns in re.findall(r"CREATE TABLE (\w+) \((.*?)\);", _SCHEMA, re.DOTALL)
}
_TEXTS = (
    *("NULL", "''", "' '", "'NULL'", "'nan'", f"'{'x' * 300}'", f"'{'x' * 60_000}'"),
    *(f"'{chr(0x1F375) * 300}'", "'a,b \"c\"'", "'0'", "'''; DROP TABLE store;'"),
)
# An SQLite column takes all of them, whatever its type.
_ANYTHING = (
    *_TEXTS,
    *("0", "-1", "2147483647", "2147483648", "-2147483649", "9223372036854775807"),
    *("-9223372036854775808", "9e999", "-9e999", "1e308", "1e-308", "-0.0", "0.005", "1.5"),
    *("9999999999.99", "99999999999.99", "99999999999999.99", f"'{'9' * 17}'", f"'{'9' * 39}'"),
    *("x'00ff'", "'0000-00-00'", "'0001-01-01'", "'1582-10-10'", "'2023-02-29'", "'9999-12-31'"),
    *("'10000-01-01'", "'9999-12-31 23:59:59.999999'", "'2024-01-01 25:00:00'", "1704067200000"),
    *("'2024-03-31T02:30:00+14:00'", "'0001-01-01T00:00:00+14:00'", "'infinity'", "'today'"),
)
_OF_MARIADB = {
    "INTEGER": ("NULL", "0", "-1", "2147483647", "-2147483648"),
    "BIGINT": ("9223372036854775807", "-9223372036854775808", "2147483648", "NULL"),
    "DECIMAL(12,2)": ("NULL", "0", "-0.01", "9999999999.99", "-9999999999.99"),
    "DECIMAL(38,10)": (f"{'9' * 28}.{'9' * 10}", f"-{'9' * 28}.{'9' * 10}", "0.0000000001"),
    "DECIMAL(65,30)": (f"{'9' * 35}.{'9' * 30}", f"0.{'0' * 29}1", "12.345"),
    "DOUBLE": ("1.7976931348623157e308", "-1e308", "5e-324", "0.1", "NULL"),
    "TEXT": (*_TEXTS, "'\\0'", "'line\\nend'"),
    "CHAR(1)": ("NULL", "''", "'é'", "'y'", f"'{chr(0x1F375)}'"),
    "DATE": (
        "NULL",
        "'0000-00-00'",
        "'2024-00-00'",
        "'1582-10-10'",
        "'9999-12-31'",
        "'0001-01-01'",
    ),
    "DATETIME": (
        *("NULL", "'0000-00-00 00:00:00'", "'2024-01-00 10:00:00'", "'9999-12-31 23:59:59'"),
        *("'0001-01-01 00:00:00'", "'2024-03-31 02:30:00'"),
    ),
}
# What columns of MariaDB may have been declared as instead.
_WIDER = {"INTEGER": ("BIGINT",), "DECIMAL(12,2)": ("DECIMAL(38,10)", "DECIMAL(65,30)", "DOUBLE")}


@pytest.fixture
def stories() -> Collection[str]:
    """All that a project can begin with."""
    return tuple(STORIES)


def good(name: str, kind: str, number: int) -> str:
    """A value that a column may have, of which all rows of a number belong together."""
    if name == "status":
        return "'completed'"
    if name == "is_manager":
        return "'N'"
    if kind == "INTEGER":
        return str(100 if name in ("quantity", "stock_quantity", "capacity") else number)
    values = {"DATE": "'2023-01-05'", "DATETIME": "'2024-02-05 10:00:00'", "DECIMAL(12,2)": "10.00"}
    return values.get(kind, f"'{name[0]}{number}'")


@dataclass(frozen=True)
class Source:
    """The shop's own database, and the types that its columns are declared with."""

    shop: Shop
    engine: Engine
    kinds: Mapping[tuple[str, str], str]
    is_mariadb: bool

    def fill(self, table: str) -> None:
        """Make a table of good rows."""
        columns = TABLES[table]
        declared = ", ".join(
            f"{name} {self.kinds.get((table, name), kind)}" + (" PRIMARY KEY" if not n else "")
            for n, (name, kind) in enumerate(columns.items())
        )
        rows = ", ".join(
            "(" + ", ".join(good(name, kind, number) for name, kind in columns.items()) + ")"
            for number in range(1, _ROWS + 1)
        )
        self.execute(
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE TABLE {table} ({declared})",
            f"INSERT INTO {table} VALUES {rows}",
        )

    def poison(self, table: str, column: str, value: str) -> None:
        """Give a column another value in the row that is its own."""
        key = next(iter(TABLES[table]))
        number = list(TABLES[table]).index(column)
        self.execute(f"UPDATE {table} SET {column} = {value} WHERE {key} = {number}")

    def restore(self, table: str, column: str) -> None:
        """Give it back its good value."""
        number = list(TABLES[table]).index(column)
        self.poison(table, column, good(column, TABLES[table][column], number))

    def execute(self, *statements: str) -> None:
        """As a program of old that the server lets write what is no date."""
        lenient = ("SET sql_mode = ''",) if self.is_mariadb else ()
        self.shop.backend.execute_in_shop(*lenient, *statements)

    def poisons(self, table: str, column: str) -> tuple[str, ...]:
        """The values to be tried in a column."""
        if not self.is_mariadb:
            return _ANYTHING
        return _OF_MARIADB[self.kinds.get((table, column), TABLES[table][column])]

    def cells(self) -> Iterator[tuple[str, str]]:
        """All tables' columns but for the keys."""
        for table, columns in TABLES.items():
            for column in list(columns)[1:]:
                yield table, column

    def problem(self, table: str) -> RetailmartError | None:
        """Why a table can't be read; None where it can."""
        try:
            read_table(self.engine, table)
        except RetailmartError as error:
            return error
        return None


@dataclass(frozen=True)
class _OnMariaDB:
    """All as of another backend, but for the shop's own tables."""

    other: Backend
    tables: Database

    def execute_in_shop(self, *statements: str) -> None:
        self.tables.execute(*statements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other, name)


# Wider columns hold all that others do, but where a type is what its values are read as.
_ON_SERVERS = [pytest.param(name, marks=pytest.mark.long) for name in ("mariadb, wider", "mariadb")]
_SOURCES = ["sqlite", *_ON_SERVERS]


@pytest.fixture(params=_SOURCES)
def source(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Source]:
    """A shop whose tables are those of the template, with good rows."""
    kinds: dict[tuple[str, str], str] = {}
    url, is_mariadb = "sqlite:///shop.db", request.param != "sqlite"
    if is_mariadb:
        server = request.getfixturevalue("mariadb")
        published, tables = server.database(), server.database()
        url = tables.url
        backend = _OnMariaDB(on_mariadb(shop.folder, published), tables)
        shop = Shop(shop.folder, backend)
        path = shop.folder / "retailmart.yml"
        address = url.replace(f":{tables.password}@", ":${SHOP_PASSWORD}@")
        text = re.sub(r"(?m)^sources: .*$", f"sources: {{shop: '{address}'}}", path.read_text())
        path.write_text(text)
        with (shop.folder / ".env").open("a") as variables:
            variables.write(f"SHOP_PASSWORD={tables.password}\n")
    if request.param == "mariadb, wider":
        count = 0
        for table, columns in TABLES.items():
            for column, kind in list(columns.items())[1:]:
                if choices := _WIDER.get(kind):
                    kinds[table, column] = choices[count % len(choices)]
                    count += 1
    engine = open_database(url, shop.folder, must_exist=True)
    made = Source(shop, engine, kinds, is_mariadb)
    for table in TABLES:
        made.fill(table)
    yield made
    engine.dispose()


def marts(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """All that people see."""
    seen, tables = {}, lake_tables(shop)
    for mart in shop.open().project.marts.values():
        if table := tables.get(f"marts/{mart.name}"):
            seen[mart.name] = sorted(table.rows, key=repr)
            if mart.publish_as:
                seen[f"published {mart.publish_as}"] = shop.published(mart.publish_as)
    return seen


def run(shop: Shop) -> RunReport | None:
    """One run; None where a gate refused it, which is exit code 3."""
    try:
        return shop.run()
    except GateFailed:
        return None


def start(source: Source) -> dict[str, list[tuple[Any, ...]]]:
    """Sell something of each row, and see the marts."""
    days = [(number, month) for number in range(1, _ROWS + 1) for month in ("02", "03")]
    source.shop.sales(
        "sales_1.csv",
        [sale(n, n, f"2024-{month}-05", n, price=f"{n}.25") for n, month in days],
    )
    report = source.shop.run()
    assert (report.held, report.unreadable) == ((), {})
    seen = marts(source.shop)
    assert len(seen["customer_mart"]) == 2 * _ROWS
    assert seen["order_analytics"]
    return seen


def named(words: str, table: str, column: str) -> bool:
    """Whether a message says where a value is."""
    return re.search(rf"source table '{table}', column '{column}', row .* = ", words) is not None


def some(items: Iterable[tuple[str, str, str]], few: int) -> list[tuple[str, str, str]]:
    """About so many of them, from all places; all of them where everything is tested."""
    listed = list(items)
    step = max(len(listed) // tries(few, len(listed)), 1)
    return listed[::step]


def test_each_value_is_read_or_named(source: Source) -> None:
    """With its table, column and row, and what to do; the other rows are no matter."""
    cells = [
        (table, column, value)
        for table, column in source.cells()
        for value in source.poisons(table, column)
    ]
    read = 0
    for table, column, value in some(cells, 150):
        source.poison(table, column, value)
        if (problem := source.problem(table)) is None:
            read += 1
        else:
            assert named(problem.message, table, column), f"{value[:50]}: {problem}"
            assert problem.hint, value
        source.restore(table, column)
    assert read > 0
    assert [table for table in TABLES if source.problem(table)] == []


def test_no_value_of_a_table_stops_the_shop(source: Source) -> None:
    """Marts are built or held back, with the reason; good rows bring all of them back."""
    before = start(source)
    widest = max(len(source.poisons(*cell)) for cell in source.cells())
    for turn in range(tries(1, widest)):
        story = {}
        for number, (table, column) in enumerate(source.cells()):
            values = source.poisons(table, column)
            story[table, column] = value = values[(number + turn) % len(values)]
            source.poison(table, column, value)
            if source.problem(table) is not None:
                source.restore(table, column)
        report = run(source.shop)
        if report is not None:
            assert report.unreadable == {}
            for one in report.held:
                # A sum may be beyond what a mart's column holds, of which no single row is guilty.
                place = "row" in one.message or f"marts/{one.mart}.sql:" in one.message
                assert one.cause or (one.hint and place), (one, story)
        for table in TABLES:
            source.fill(table)
        after = run(source.shop)
        assert after is not None
        assert (after.held, after.unreadable) == ((), {}), story
        assert marts(source.shop) == before, story
    source.shop.sales("sales_2.csv", [sale(1, 1, "2024-03-09")])
    assert source.shop.run().held == ()


def test_a_table_that_cannot_be_read_holds_its_marts_back_alone(source: Source) -> None:
    """In each table one value that no type holds: it is named, and sales are taken in."""
    before = start(source)
    bad = {}
    for table, column in source.cells():
        if table in bad:
            continue
        for value in source.poisons(table, column):
            source.poison(table, column, value)
            if source.problem(table) is not None:
                bad[table] = column
                break
            source.restore(table, column)
    assert {"customer", "orders"} <= bad.keys()
    source.shop.sales("sales_2.csv", [sale(1, 1, "2024-03-09")])
    report = source.shop.run()
    assert report.unreadable.keys() == bad.keys()
    for table, column in bad.items():
        assert named(report.unreadable[table], table, column)
    assert {file.state for file in report.files} == {"loaded"}
    assert len(source.shop.mart("customer_mart")) == len(before["customer_mart"])
    for table in TABLES:
        source.fill(table)
    after = source.shop.run()
    assert (after.held, after.unreadable) == ((), {})
    assert len(source.shop.mart("customer_mart")) == len(before["customer_mart"]) + 1
    seen = marts(source.shop)
    assert {n: rows for n, rows in seen.items() if "order" in n} == {
        n: rows for n, rows in before.items() if "order" in n
    }
