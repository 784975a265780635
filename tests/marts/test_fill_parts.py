"""Large marts published in parts: proven like any other, and filled whole where that fails."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Published

from retailmart import session
from retailmart.database import open_database
from retailmart.database.dialect import dialect_of
from retailmart.database.target import Target
from retailmart.engines import Engine, Files
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import KeyClash, RetailmartError, Unavailable
from retailmart.lake.places import LocalPlace
from retailmart.marts import publish
from retailmart.marts.publish import FillPart
from retailmart.project.settings import Settings
from retailmart.project.types import parse_type
from retailmart.tables import DatabaseAddress, DataFile, Field, TableState
from retailmart.template import write_project
from tests.support.backends import shop_tables
from tests.support.services.mariadb import Database, DatabaseServer
from tests.support.shop import HEADER, Shop
from tests.support.side_by_side import SideBySide

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
_KEPT = {
    "marts": {"customer_monthly_purchase"},
    "feeds": {"sales"},
    "tables": {"customer", "store", "sales_team"},
}


@dataclass(frozen=True)
class MySQLShop:
    """A project in a folder of this machine and two databases of a server."""

    folder: Path
    database: Database
    shop: Database

    def settle(self) -> Shop:
        """Write the project: sales, their lines as a mart, and who bought by month."""
        write_project(self.folder, sample=False)
        for kind, names in _KEPT.items():
            for path in (self.folder / kind).iterdir():
                if path.stem not in names:
                    path.unlink()
        (self.folder / "marts" / "line.sql").write_text(LINES)
        path = self.folder / "retailmart.yml"
        own = [
            f"database: {_url(self.database, 'RETAIL')}",
            f"sources: {{shop: '{_url(self.shop, 'SHOP')}'}}",
        ]
        kept = path.read_text().splitlines()
        kept = [line for line in kept if not line.startswith(("database:", "sources:"))]
        path.write_text("\n".join([*own, *kept]) + "\n")
        secrets = {"RETAIL": self.database.password, "SHOP": self.shop.password}
        text = "".join(f"{name}={value}\n" for name, value in secrets.items())
        (self.folder / ".env").write_text(text)
        return Shop(self.folder)

    def published(self, table: str = "line") -> list[tuple[Any, ...]]:
        """All rows of a published table, each value as the database has it."""
        return self.database.query(f"SELECT * FROM `{table}` ORDER BY 1, 2")

    def tables(self) -> set[str]:
        """The names of all tables of the database."""
        return {name for (name,) in self.database.query("SHOW TABLES")}


def _url(database: Database, secret: str) -> str:
    place = f"{database.host}:{database.port}/{database.name}"
    return f"mysql://{database.user}:${{{secret}}}@{place}"


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


def rebuild(shop: Shop) -> None:
    """Change the mart's definition, so that its table is replaced whole."""
    path = shop.folder / "marts" / "line.sql"
    path.write_text(path.read_text().replace("/ 7 AS", "/ 9 AS"))


@pytest.fixture
def made(mariadb: DatabaseServer, tmp_path: Path) -> Iterator[Callable[[str], MySQLShop]]:
    """Makes a project's databases; the shop's tables are in one of them."""
    shops: list[MySQLShop] = []

    def make(name: str = "shop") -> MySQLShop:
        shop = MySQLShop(tmp_path / name, mariadb.database(), mariadb.database())
        shop.shop.execute(*shop_tables())
        shops.append(shop)
        return shop

    yield make
    for shop in shops:
        shop.database.drop()
        shop.shop.drop()


Around = Callable[[Callable[[Any], Any], Any], Any]


@dataclass
class Parallel:
    """How runs work on parts: `around` is what happens instead of each part of a table."""

    around: Around | None = None
    fills: int = 0


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> Parallel:
    """Runs spread their work, and tables of any size are filled in parts."""
    told = Parallel()

    class Counted(SideBySide):
        def spread(self, work: Any, items: Any, sizes: Any) -> Any:
            fills = isinstance(work, FillPart)
            told.fills += fills
            known, self.around = self.around, (fills and told.around) or self.around
            try:
                return super().spread(work, items, sizes)
            finally:
                self.around = known

    def opened(settings: Settings, places: Sequence[Files], scratch: Path) -> Engine:
        return Counted(places, scratch, settings.memory_limit, settings.threads)

    monkeypatch.setattr(session, "open_engine", opened)
    monkeypatch.setattr(publish, "_PARALLEL_ROWS", 1)
    return told


# whole runs


def test_what_parts_write_is_what_one_connection_writes(
    made: Callable[..., MySQLShop], parallel: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 rows of every type; a day's rows go by keys, as ever: not in parts."""
    one = made("one")
    shop = one.settle()
    drop(shop, 20_000)
    shop.run(AS_OF)
    assert parallel.fills == 2
    monkeypatch.undo()
    other = made("other")
    twin = other.settle()
    drop(twin, 20_000)
    twin.run(AS_OF)
    for table in ("line", "customer_monthly_purchase"):
        found = one.published(table)
        assert len(found) >= 9
        assert found == other.published(table), table
    assert len(one.published()) == 20_000


def test_a_day_of_changes_is_not_filled_in_parts(
    made: Callable[..., MySQLShop], parallel: Parallel
) -> None:
    """Only a table that is replaced whole is."""
    at = made()
    shop = at.settle()
    drop(shop, 9)
    shop.run(AS_OF)
    assert parallel.fills == 2
    shop.drop("sales_b.csv", "\n".join([HEADER, *lines(12)[9:]]) + "\n")
    shop.run(AS_OF)
    assert parallel.fills == 2
    assert len(at.published()) == 12


def test_a_key_that_does_not_tell_rows_apart_is_told_in_the_same_words(
    made: Callable[..., MySQLShop], parallel: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row, and how often its key stands there, before any row is written."""
    words = {}
    for name in ("parts", "whole"):
        if name == "whole":
            monkeypatch.undo()
        at = made(name)
        shop = at.settle()
        shop.drop("sales_a.csv", "\n".join([HEADER, *lines(9), *lines(9)[:1]]) + "\n")
        words[name] = [one.message for one in shop.run(AS_OF).held if one.cause is None]
        assert not [name for name in at.tables() if "retailmart_new" in name]
        assert at.published("line") == []
    assert "2 rows have this key" in words["parts"][0]
    assert words["parts"] == words["whole"]


def test_a_run_that_dies_while_parts_are_written_leaves_the_old_table(
    made: Callable[..., MySQLShop], parallel: Parallel
) -> None:
    """Readers see the old rows until the next run has all of the new ones."""
    at = made()
    shop = at.settle()
    drop(shop, 99)
    shop.run(AS_OF)
    before = at.published()
    rebuild(shop)

    def dying(fill: Callable[[Any], Any], files: Any) -> Any:
        fill(files)
        raise KeyboardInterrupt

    parallel.around = dying
    with pytest.raises(KeyboardInterrupt):
        shop.run(AS_OF)
    assert at.published() == before
    assert not [name for name in at.tables() if "retailmart_new" in name]
    parallel.around = None
    shop.run(AS_OF)
    after = at.published()
    assert [row[:6] for row in after] == [row[:6] for row in before]
    assert after != before


def _too_few(fill: Callable[[Any], Any], files: Any) -> Any:
    return 0


def _twice(fill: Callable[[Any], Any], files: Any) -> Any:
    fill(files)
    return fill(files)


def _unreachable(fill: Callable[[Any], Any], files: Any) -> Any:
    raise Unavailable("the database gave no answer")


def _refused(fill: Callable[[Any], Any], files: Any) -> Any:
    raise RetailmartError("Access denied for this account at 'worker-7'")


@pytest.mark.parametrize("wrong", [_too_few, _twice, _unreachable, _refused])
def test_what_parts_did_not_write_right_one_connection_does(
    made: Callable[..., MySQLShop], parallel: Parallel, wrong: Around
) -> None:
    """Rows that lack, a part that is tried twice, machines that don't reach the database."""
    at = made()
    shop = at.settle()
    drop(shop, 99)
    parallel.around = wrong
    shop.run(AS_OF)
    assert parallel.fills == 2
    assert len(at.published()) == 99
    assert sum(row[8] for row in at.published()) == sum(
        Decimal(line.rsplit(",", 1)[1]) for line in lines(99)
    )


def test_what_does_not_add_up_in_the_end_is_not_shown(
    made: Callable[..., MySQLShop], parallel: Parallel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what parts wrote nor what one connection wrote is shown without its proof."""
    at = made()
    shop = at.settle()
    drop(shop, 99)
    shop.run(AS_OF)
    before = at.published()
    rebuild(shop)
    totals = Target.totals

    def one_more(self: Target, *given: Any) -> Any:
        count, sums = totals(self, *given)
        return count + 1, sums

    with monkeypatch.context() as patch:
        patch.setattr(Target, "totals", one_more)
        held = shop.run(AS_OF).held
    assert any("holds 100 rows, the mart 99" in one.message for one in held), held
    assert at.published() == before


# one part


@pytest.fixture
def target(database: Database, tmp_path: Path) -> Iterator[Published]:
    """A database for published tables."""
    opened = open_database(database.url, tmp_path)
    yield opened
    opened.dispose()


_FIELDS = (Field("id", parse_type("INT")), Field("v", parse_type("STRING")))
_TARGET = Target("numbers", _FIELDS, ("id",), None)


def address_of(target: Published) -> DatabaseAddress:
    """Where parts connect to."""
    address = dialect_of(target).address(target)
    assert address is not None
    return address


def numbers(engine: DuckDBEngine, lake: Path, start: int, count: int) -> TableState:
    """Numbers and texts, written as a table's file."""
    query = (
        f"SELECT CAST(i AS INTEGER) AS id, 'n' || i AS v FROM range({start}, {start + count}) t(i)"
    )
    written = engine.write(query, lake / "numbers", f"{start}-", ())
    return TableState(str(lake / "numbers"), written.fields, (), written.files)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBEngine]:
    """The engine of a machine that fills a part."""
    lake = LocalPlace(tmp_path / "lake")
    with closing(DuckDBEngine([lake], tmp_path / "private")) as engine:
        yield engine


def test_a_part_adds_its_rows(
    engine: DuckDBEngine, target: Published, database: Database, tmp_path: Path
) -> None:
    """It knows all it needs, wherever it is unpacked; the second time it meets its own rows."""
    with target.begin() as connection:
        _TARGET.recreate(connection)
    tables = [numbers(engine, tmp_path / "lake", start, 1000) for start in (0, 5000)]
    work = pickle.loads(pickle.dumps(FillPart(address_of(target), _TARGET, tables[0].only(()))))
    assert [work(engine, table.files) for table in tables] == [1000, 1000]
    totals = "SELECT COUNT(*), MIN(id), MAX(id), MAX(v) FROM numbers"
    assert database.query(totals) == [(2000, 0, 5999, "n999")]
    with pytest.raises(KeyClash, match="Duplicate entry"):
        work(engine, tables[0].files)
    assert database.query(totals) == [(2000, 0, 5999, "n999")]


def test_a_part_that_fails_adds_nothing(
    engine: DuckDBEngine, target: Published, database: Database, tmp_path: Path
) -> None:
    """Its rows are one transaction."""
    with target.begin() as connection:
        _TARGET.recreate(connection)
    database.execute("INSERT INTO numbers VALUES (1500, 'is there')")
    table = numbers(engine, tmp_path / "lake", 0, 2000)
    work = FillPart(address_of(target), _TARGET, table.only(()))
    with pytest.raises(KeyClash):
        work(engine, table.files)
    assert database.query("SELECT * FROM numbers") == [(1500, "is there")]


@pytest.mark.parametrize("wrong", [{"password": "hunter2-wrong"}, {"port": 9}])
def test_an_error_shows_no_password(
    engine: DuckDBEngine, target: Published, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    """Whatever goes wrong on the way, and however the work is shown."""
    table = numbers(engine, tmp_path / "lake", 0, 9)
    work = FillPart(replace(address_of(target), **wrong), _TARGET, table.only(()))
    with pytest.raises(RetailmartError, match="the table numbers cannot be written to") as caught:
        work(engine, table.files)
    assert isinstance(caught.value, Unavailable) == ("port" in wrong)
    shown = "".join(traceback.format_exception(caught.value)) + repr(work)
    assert work.address.password not in shown


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([1, 1, 1, 1], [[1], [1], [1], [1]]),
        ([1] * 8, [[1, 1]] * 4),
        ([10, 1, 1, 1, 1], [[10], [1, 1, 1, 1]]),
        ([1, 1, 1, 1, 12], [[1, 1, 1, 1], [12]]),
        ([7], [[7]]),
        ([], []),
    ],
)
def test_files_are_divided_into_parts_of_about_a_size(
    sizes: list[int], groups: list[list[int]]
) -> None:
    """Neighbours stay together, as their keys often are neighbours too."""
    files = [DataFile(f"{n:02d}.parquet", size, 1) for n, size in enumerate(sizes)]
    found = publish._groups(list(reversed(files)), 4)
    assert [[file.size for file in group] for group in found] == groups
    assert [file for group in found for file in group] == files
