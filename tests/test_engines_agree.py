"""Both engines make the same of everything: the same project lives twice, once on each."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import RetailmartError
from retailmart.operations.verify.compare import compare, side_of
from retailmart.report import RunReport
from retailmart.tables import TableState
from retailmart.template import write_project
from tests import test_real_data as grocer
from tests.feeds.test_replay import only_origin, replay_of
from tests.files import test_hostile_files as hostile_files
from tests.files import test_hostile_json as hostile_json
from tests.support import hostile_files as hostile
from tests.support.amount import SEED, tries
from tests.support.backends import choose_engine, shop_tables
from tests.support.shop import AS_OF, HEADER, Shop, sale

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark_session")]

ENGINES = ("duckdb", "spark")
T = TypeVar("T")
# How many projects dice make: some more before a release.
_SEEDS = tries(1, 10)
# How many files dice make beside those made by hand.
_HOSTILE = tries(20, 150)
# What the ledger says of rows and money, beside the run's report.
_COUNTED = ("retailmart_file_months", "retailmart_table_months", "retailmart_replays")


@dataclass(frozen=True)
class Twins:
    """One project in two folders, on another engine in each; what is done to one is done to both.

    Each has its own landing, lake, archive and databases.
    """

    shops: Mapping[str, Shop]

    @property
    def folder(self) -> Path:
        """Where both lie."""
        return self.shops["duckdb"].folder.parent

    def each(self, do: Callable[[Shop], object]) -> None:
        """Do something to both."""
        for shop in self.shops.values():
            do(shop)

    def run(self, as_of: datetime = AS_OF) -> RunReport:
        """Run both; they must tell the same, and leave the same behind."""
        reports = {name: shop.run(as_of) for name, shop in self.shops.items()}
        assert told(reports["spark"]) == told(reports["duckdb"])
        self.assert_alike()
        return reports["spark"]

    def end_alike(self, as_of: datetime) -> bool:
        """Run both; whether they end well, which they do both or neither."""
        ends = {}
        for name, shop in self.shops.items():
            try:
                ends[name] = told(shop.run(as_of))
            except RetailmartError as error:
                ends[name] = {"error": type(error)}
        assert ends["spark"] == ends["duckdb"]
        self.assert_alike()
        return "error" not in ends["spark"]

    def assert_alike(self) -> None:
        """Each table of the lake, of the database and each archived file is the same."""
        assert differences(self.folder, *(self.shops[name] for name in ENGINES)) == {}


def twins_of(folder: Path) -> Twins:
    """The project in `folder` twice; only the engine differs."""
    shops = {}
    for name in ENGINES:
        shops[name] = Shop(shutil.copytree(folder, folder.with_name(name)))
        choose_engine(shops[name].folder, name)
    return Twins(shops)


def told(report: RunReport) -> dict[str, Any]:
    """A report without what is of one run only: times, places and the files of its engine."""
    plain = report.to_dict()
    for key in ("seconds", "lake", "database", "maintenance"):
        del plain[key]
    plain["marts_file"] = plain["marts_file"] and plain["marts_file"]["marts"]
    for batch in plain["batches"]:
        del batch["archived_to"]
        batch["exports"] = batch["exports"] and batch["exports"]["marts"]
    return plain


def differences(folder: Path, one: Shop, other: Shop) -> dict[str, object]:
    """Everything in which two projects differ, by what it is; small, as failures are read."""
    found: dict[str, object] = {}
    lakes = [shop.open().lake.place for shop in (one, other)]
    with closing(DuckDBEngine(lakes, folder / "scratch")) as engine:
        for table, states in both(one, other, lake_of):
            if (unlike := _unlike(engine, table, *states)) is not None:
                found[f"lake: {table}"] = unlike
    for table, (rows, other_rows) in both(one, other, database_of):
        if rows != other_rows:
            found[f"database: {table}"] = _few(rows, other_rows)
    for path, (content, other_content) in both(one, other, archive_of):
        if content != other_content:
            found[f"archive: {path}"] = (content, other_content)
    return found


def both(
    one: Shop, other: Shop, read: Callable[[Shop], Mapping[str, T]]
) -> Iterator[tuple[str, tuple[T | None, T | None]]]:
    """What two projects have by name, side by side."""
    left, right = read(one), read(other)
    for name in sorted({*left, *right}):
        yield name, (left.get(name), right.get(name))


def lake_of(shop: Shop) -> dict[str, TableState]:
    """Every table of the lake that has been committed to."""
    lake = shop.open().lake
    states = ((name, lake.state(name)) for name in lake.place.tables())
    return {name: state for name, state in states if state is not None}


def database_of(shop: Shop) -> dict[str, list[str]]:
    """The rows of the published tables, and of what the ledger counts, with their types."""
    with closing(sqlite3.connect(shop.folder / "retail.db")) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in connection.execute(query)]
        shown = [name for name in names if not name.startswith("retailmart_") or name in _COUNTED]
        return {
            name: sorted(map(repr, connection.execute(f'SELECT * FROM "{name}"'))) for name in shown
        }


def archive_of(shop: Shop) -> dict[str, list[bytes]]:
    """What every archived file held, by its path without its batch's time."""
    found: dict[str, list[bytes]] = {}
    for path, content in shop.backend.archived().items():
        found.setdefault(re.sub(r"/\d{8}_\d{6}/", "/", f"/{path}"), []).append(content)
    return {path: sorted(contents) for path, contents in found.items()}


def _unlike(
    engine: DuckDBEngine, table: str, one: TableState | None, other: TableState | None
) -> object:
    if one is None or other is None:
        return "is on one engine only"
    if (one.fields, one.partition_by) != (other.fields, other.partition_by):
        return (one.fields, one.partition_by), (other.fields, other.partition_by)
    sides = [
        side_of(engine, name, state) for name, state in zip(ENGINES, (one, other), strict=True)
    ]
    if not (found := compare(engine, table, sides, (), None)).equal:
        return found.rows, found.contrasts
    figures = [_statistics(state) for state in (one, other)]
    return None if figures[0] == figures[1] else tuple(figures)


def _statistics(state: TableState) -> tuple[object, ...]:
    """What all files together say of their rows: by it files are passed over."""
    least: dict[str, Any] = {}
    most: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for file in state.files:
        least |= {k: min(v, least.get(k, v)) for k, v in file.minimum.items()}
        most |= {k: max(v, most.get(k, v)) for k, v in file.maximum.items()}
        nulls |= {k: v + nulls.get(k, 0) for k, v in file.nulls.items()}
    partitions = {tuple(file.partition.values()) for file in state.files}
    return sum(file.rows for file in state.files), least, most, nulls, partitions


def _few(one: list[str] | None, other: list[str] | None) -> object:
    """The first rows that one has and the other has not."""
    if one is None or other is None:
        return "is on one engine only"
    return _first(row for row in one if row not in other), _first(
        row for row in other if row not in one
    )


def _first(rows: Iterable[str]) -> list[str]:
    return list(rows)[:3]


@pytest.mark.long
def test_the_sample_is_the_same(tmp_path: Path) -> None:
    """Three stories of a retailer: each row of each table, and each proven balance."""
    write_project(tmp_path / "sample", sample=True)
    twins = twins_of(tmp_path / "sample")
    report = twins.run()
    (batch,) = report.batches
    assert (len(batch.balance), report.rows("quarantined"), len(batch.marts)) == (3, 10, 20)


def _begins(shop: Shop) -> object:
    lines = [sale(), sale(2, price="0.10", quantity=3, total="0.30"), REFUSED, sale(77, person=8)]
    shop.sales("sales_1.csv", [*lines, sale(3, 2, "2024-02-29", 3, total='"10.00"')])
    return shop.run()


def _brings_a_column(shop: Shop) -> object:
    shop.backend.execute_in_shop("UPDATE store SET store_manager_name = 'New' WHERE id = 1")
    shop.sales("sales_2.csv", [sale(day="2024-02-01") + ",@UPI"], HEADER + ",Payment Mode")
    return shop.run(AS_OF + timedelta(days=1))


def _brings_a_refused_row_back_and_a_late_customer(shop: Shop) -> object:
    late = "(77, 'Late', 'Comer', 'x', '1', '2', '2024-01-01')"
    shop.backend.execute_in_shop(f"INSERT INTO customer VALUES {late}")
    shop.drop("sales_back.csv", replay_of({only_origin(shop): sale(2, price="5.00")}))
    return shop.run(AS_OF + timedelta(days=2))


def _corrects_a_file(shop: Shop) -> object:
    shop.sales("sales_2.csv", [sale(day="2024-03-01", total="9.99"), sale(day="x")])
    shop.sales("again.csv", [sale(day="2024-03-01", total="9.99"), sale(day="x")])
    return shop.run(AS_OF + timedelta(days=3))


def _brings_a_number_too_large(shop: Shop) -> object:
    shop.sales("sales_3.csv", [sale(quantity=3_000_000_000, price="0.125", total="0.13")])
    return shop.run(AS_OF + timedelta(days=4))


def _is_taken_back(shop: Shop) -> object:
    shop.sales("sales_4.csv", [sale(4, 2, "2024-02-02", 4)])
    wrong = shop.run(AS_OF + timedelta(days=5))
    return wrong, shop.open().undo(wrong.run_id, AS_OF + timedelta(days=5))


def _has_new_marts(shop: Shop) -> object:
    (shop.folder / "functions.py").write_text(FUNCTIONS)
    (shop.folder / "marts" / "loud.sql").write_text(LOUD)
    return shop.run(AS_OF + timedelta(days=6))


REFUSED = sale(2, day="2024-02-31", price="5.00")
FUNCTIONS = """\
import pyarrow.compute as pc
from tests.support.amount import SEED, tries
from tests.support import hostile_files as hostile


def shout(word: "STRING") -> "STRING":
    return pc.utf8_upper(word)
"""
LOUD = """\
-- refresh: months
-- partitions: [_month]
-- key: [_month, product]
-- publish: true
SELECT _month, shout(product_name) AS product, sum(total_cost) AS total
FROM sales GROUP BY ALL
"""
LIFE = (
    _begins,
    _brings_a_column,
    _brings_a_refused_row_back_and_a_late_customer,
    _corrects_a_file,
    _brings_a_number_too_large,
    _is_taken_back,
    _has_new_marts,
)


@pytest.mark.long
@pytest.mark.parametrize(
    "engines",
    [("spark",), ("duckdb", "spark"), ("spark", "duckdb", "duckdb")],
    ids=["all on spark", "every other run", "two of three on duckdb"],
)
def test_a_life_is_the_same_however_often_the_engine_is_changed(
    tmp_path: Path, engines: tuple[str, ...]
) -> None:
    """One lake, written by both by turns, is what DuckDB alone would have written.

    Rows are refused, repaired, corrected and taken back, columns come and grow, customers are late.
    """
    plain = shop_in(tmp_path / "duckdb")
    switched = shop_in(tmp_path / "switched")
    turns = itertools.cycle(engines)
    for happens in LIFE:
        choose_engine(switched.folder, next(turns))
        assert plainly(happens(switched)) == plainly(happens(plain)), happens.__name__
        assert differences(tmp_path, plain, switched) == {}, happens.__name__


def shop_in(folder: Path) -> Shop:
    """A small shop in which columns may come and grow."""
    write_project(folder, sample=False)
    shop = Shop(folder)
    shop.backend.execute_in_shop(*shop_tables())
    feed = folder / "feeds" / "sales.yml"
    feed.write_text(feed.read_text() + "schema: {columns: evolve, types: evolve}\n")
    return shop


def plainly(done: object) -> object:
    """What runs tell, without their times and places."""
    if isinstance(done, RunReport):
        return told(done)
    return [told(report) for report in done] if isinstance(done, tuple) else done


@pytest.mark.long
def test_hostile_files_are_taken_and_refused_alike(tmp_path: Path) -> None:
    """The same files are refused for the same reason, the same rows for the same rule.

    Everything that is known to be hostile in CSV and JSON, and some more that dice have made, in
    one run: line, column, rule, message and text of each refused row, each value of each other.
    """
    shop = hostile_files.new_shop(tmp_path / "hostile")
    feed = hostile_json.FEED.replace("users*", "users_*")  # others are the markets'
    (shop.folder / "feeds" / "users.yml").write_text(feed)
    files = {case.name: case.content for case in hostile.REFUSED.values()}
    files |= {case.name: case.content for case in hostile.TAKEN.values()}
    files |= {name: hostile_files.named(name) for name in hostile.NAMES.values()}
    files |= {f"s_{n}.csv": content for n, content in enumerate(generated_csv(_HOSTILE))}
    told_json = [content.encode() for content in hostile_json.FILES.values()]
    each_value = [file for files in hostile_json.each_value().values() for file in files]
    told_json += random.Random(SEED).sample(each_value, _HOSTILE)
    told_json += hostile_json.mutated(0)
    files |= {f"users_{n}.json": content for n, content in enumerate(told_json)}
    for name, content in files.items():
        shop.drop(name, content)
    twins = twins_of(shop.folder)
    report = twins.run()
    assert len(report.files) == len(files)
    assert {"loaded", "refused"} <= {line.state for line in report.files}
    assert report.rows("quarantined") > 100


def generated_csv(count: int) -> list[bytes]:
    """Files as the tests of one engine draw them, from the seed of this session."""
    found: list[bytes] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        found.append(data.draw(hostile_files.delivered_files(data.draw(hostile_files.headers()))))

    draw()
    return found


# What any column may be delivered; engines' own casts and blanks differ in much of it.
NASTY = (
    *("", " ", "\t", "\u00a0", "\u3000", "-", "n/a", "NULL", "null", "\\N", "\\", "'", '"', '""'),
    *("0", "1", "-0", "+1", "007", " 7", "7 ", "\t7\t", "\x0b7", "\x0c7", "\u00a07", "7\u2003"),
    *("٣", "７", "1_000", "1,5", "1.000,50", "0x1F", "1e3", "1E3", "1e-3", "1e400", "1.5e2"),
    *("1.5", "1.0", "1.", ".5", ".", "1.005", "0.125", "2.675", "-2.5", "12.500", "1.0000000001"),
    *("2147483647", "2147483648", "-2147483648", "9223372036854775807", "9223372036854775808"),
    *("9" * 40, "0" * 40 + "1", "1." + "0" * 40, "0." + "0" * 40 + "1", "12345678901234567.89"),
    *("NaN", "nan", "inf", "-Infinity", "true", "TRUE ", "\ttrue", "yes", "N", "on", "t", "0.0"),
    *("2024-02-29", "2023-02-29", "2024-13-01", "2024-00-10", "2024-01-32", "2024-1-5"),
    *(" 2024-01-05 ", "\x0b2024-01-05", "20240105", "05.01.2024", "12024-01-05", "-2024-01-05"),
    *("0000-01-01", "0001-01-01", "9999-12-31", "1582-10-10", "1500-02-29", "today", "epoch"),
    *("2024-01-05T10:00", "2024-01-05 10:00:00", "2024-01-05 24:00", "2024-01-05 23:59:60"),
    *("2024-01-05 10:00:00.123456", "2024-01-05 10:00:00.1234567", "2024-01-05T10:00:00.5Z"),
    *("2024-01-05T10:00:00+05:30", "2024-01-05 10:00:00 +0100", "2024-01-05 10:00:00-1400"),
    *("0001-01-01 00:00+14:00", "9999-12-31 23:59:59-14:00", "2024-03-31 02:30 Europe/Berlin"),
    *("it's", 'say "x"', "a,b;c|d", "two\nlines", "two\r\nlines", "\r", "tea ", "$1", "%41", "{}"),
    *("é", "e\u0301", "ß", "İ", "ı", "🫖", "\u2028", "\ufeff7", "\x1f", "\x7f", "日本", "٣٤", "ǅ"),
    *("12 kg", "USD 5.50", "usd 7", "5%", "(7)", "a\nb 9", "x" * 300, "1" * 300, "[1]", '{"a":1}'),
)
KINDS = {
    "INT": ("1", "-7", "0", "42"),
    "BIGINT": ("1", "5000000000", "-3"),
    "STRING": ("tea", "coffee", "green tea", "12 kg"),
    "DATE": ("2024-01-05", "2024-02-29", "2023-12-31"),
    "TIMESTAMP": ("2024-01-05T10:00:00Z", "2024-01-05 10:00:00.25", "2024-02-01T00:30+05:30"),
    "BOOLEAN": ("true", "no", "1", "Y"),
    "DOUBLE": ("0.1", "-7", "1e3", "2.5"),
    "DECIMAL(12,2)": ("1.50", "-0.01", "7"),
    "DECIMAL(5,0)": ("1", "99999"),
    "DECIMAL(38,10)": ("1.0000000001", "12345678901234567890.5"),
}
PATTERNS = (
    r"([0-9.]+) kg",
    r"(?i)usd ([0-9.]+)",
    r"\s*(.*?)\s*",
    r"[^0-9]*([0-9]+).*",
    r"\(?(-?\d+)\)?%?",
    r"(\w+)",
    r"(.)+",
    r"(?s)a.(b.*)",
    r"(x*)1*",
    r"(^tea$)",
)
CHECKS = (
    "note <> 'tea'",
    "length(note) < 6",
    "note NOT LIKE '%e%'",
    "lower(note) = note",
    "trim(note) = note",
    "money >= 0.5",
    "money = round(money, 1)",
    "day <= CAST(getvariable('as_of') AS DATE)",
    "year(day) BETWEEN 2000 AND 2100",
    "v0 IS NOT NULL OR v1 IS NOT NULL",
    "coalesce(CAST(v0 AS VARCHAR), '') <> coalesce(CAST(v1 AS VARCHAR), '')",
    "regexp_matches(note, '^[a-z ]*$')",
    "place IN (1, 2, 3)",
    "v0 IS NULL OR CAST(v0 AS VARCHAR) NOT IN ('1', '7', 'true')",
)
ROWS_MART = """\
-- refresh: months
-- partitions: [_month]
SELECT t.*, p.name, p.rate, round(t.money * p.rate, 2) AS worth, t.note || '/' || p.name AS both
FROM till t
LEFT JOIN place_history p ON p.id = t.place AND t.day >= p._valid_from AND t.day < p._valid_to
"""
SUMS_MART = """\
-- refresh: full
-- key: [_month, place]
-- publish: true
SELECT
    _month, coalesce(place, -99) AS place, count(*) AS lines, count(DISTINCT note) AS notes,
    sum(money) AS money, CAST(sum(money) / count(money) AS DECIMAL(18, 2)) AS mean_cents,
    min(note) AS first_note, max(length(note)) AS longest, count(v2) AS v2,
    max(v0) AS v0, min(v1) AS v1,
    rank() OVER (PARTITION BY _month ORDER BY sum(money) DESC) AS rank_in_month,
    sum(sum(money)) OVER (PARTITION BY coalesce(place, -99) ORDER BY _month) AS so_far
FROM till
GROUP BY _month, coalesce(place, -99)
"""


@dataclass(frozen=True)
class Dice:
    """A project and its deliveries, all thrown by one dice."""

    seed: random.Random

    def some(self, values: Sequence[T], share: float = 0.5) -> list[T]:
        """Some of these values, in their order."""
        return [value for value in values if self.seed.random() < share]

    def project(self, folder: Path) -> Shop:
        """A feed of odd types, rules, patterns and nulls; two marts; a table with a history."""
        write_project(folder, sample=False)
        for path in (
            path for room in ("feeds", "marts", "tables") for path in (folder / room).iterdir()
        ):
            path.unlink()
        (folder / "feeds" / "till.yml").write_text(yaml.safe_dump(self.feed(), sort_keys=False))
        (folder / "tables" / "place.yml").write_text("key: [id]\nhistory: true\n")
        (folder / "marts" / "every_row.sql").write_text(ROWS_MART)
        (folder / "marts" / "sums.sql").write_text(SUMS_MART)
        shop = Shop(folder)
        shop.backend.execute_in_shop(
            "CREATE TABLE place (id INTEGER PRIMARY KEY, name TEXT, rate DECIMAL(8,3))",
            "INSERT INTO place VALUES (1, 'one', 1.005), (2, 'two', 0.125), (3, '', NULL)",
        )
        return shop

    def feed(self) -> dict[str, Any]:
        """A feed's file."""
        throw = self.seed
        columns: dict[str, dict[str, Any]] = {
            "place": {"type": "INT", "references": "place.id"},
            "day": {"type": "DATE", "mandatory": True},
            "money": {"type": "DECIMAL(12,2)", "mandatory": True},
            "note": {"type": "STRING"},
        }
        columns |= {f"v{n}": {"type": throw.choice([*KINDS])} for n in range(3)}
        for name in self.some(["place", "note", "v0", "v1"], 0.2):
            columns[name]["mandatory"] = True
        for name in self.some(["note", "v0", "v1", "v2"], 0.3) + self.some(["day", "money"], 0.05):
            columns[name]["pattern"] = throw.choice(PATTERNS)
        checks = throw.sample(CHECKS, throw.randint(0, 3))
        feed: dict[str, Any] = {
            "files": ["*.csv"],
            "delimiter": throw.choice(",,;|\t"),
            "columns": columns,
            "nulls": self.some(["-", "n/a", "NULL", "0", "", "٣"], 0.3),
            "month": "day",
            "balance": "money",
            "rules": [
                {
                    "name": f"rule_{n}",
                    "action": throw.choice(["warn", "quarantine"]),
                    "check": check,
                }
                for n, check in enumerate(checks)
            ],
            "schema": {
                "columns": throw.choice(["evolve", "discard_row", "discard_value"]),
                "types": throw.choice(["discard_row", "discard_row", "discard_value", "evolve"]),
                "date_to_timestamp": throw.random() < 0.5,
            },
        }
        if throw.random() < 0.5:
            feed["extra_columns"] = "more"
            feed["schema"].pop("columns")
        return feed

    def delivery(self, feed: Mapping[str, Any]) -> bytes:
        """A file: mostly good cells, columns in any order, some lacking, one that nobody knows."""
        throw = self.seed
        columns = feed["columns"]
        names = [n for n in columns if columns[n].get("mandatory") or throw.random() < 0.9]
        names += self.some(["Further One"], 0.3)
        throw.shuffle(names)
        text = io.StringIO(newline="")
        writer = csv.writer(
            text,
            delimiter=feed["delimiter"],
            quoting=csv.QUOTE_ALL if throw.random() < 0.3 else csv.QUOTE_MINIMAL,
            lineterminator=throw.choice(["\n", "\r\n"]),
        )
        writer.writerow(names)
        for _ in range(throw.randint(1, 40)):
            share = throw.choice([0.02, 0.1, 0.4])
            writer.writerow([self.cell(columns.get(name), share) for name in names])
        return text.getvalue().encode()

    def cell(self, column: Mapping[str, Any] | None, share: float) -> str:
        """A cell, nasty in that share of cases."""
        if column is None or self.seed.random() < share:
            return self.seed.choice(NASTY)
        return self.seed.choice(KINDS[column["type"]])

    def change(self) -> list[str]:
        """What happens to the table between two runs."""
        name = self.seed.choice(NASTY).replace("'", "''").replace("%", "")
        changes = [
            f"UPDATE place SET name = '{name}' WHERE id = 1",
            "UPDATE place SET rate = 2.675 WHERE id = 2",
            "DELETE FROM place WHERE id = 3",
            f"INSERT OR REPLACE INTO place VALUES ({self.seed.randint(-7, 42)}, '{name}', 0.005)",
        ]
        return self.some(changes, 0.4)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(_SEEDS))
def test_whatever_dice_deliver_is_the_same(tmp_path: Path, seed: int) -> None:
    """Any feed, any rows, any changes of a table: the same rows, reasons, marts and figures.

    What is refused as a whole, as a sum that no type holds, is refused on both.
    """
    dice = Dice(random.Random(f"{SEED} {seed}"))
    shop = dice.project(tmp_path / "project")
    feed = yaml.safe_load((shop.folder / "feeds" / "till.yml").read_text())
    twins = twins_of(shop.folder)
    for day in range(3):
        for name in dice.some(["a.csv", "b.csv", "c.csv"], 0.7):
            content = dice.delivery(feed)
            twins.each(lambda shop, name=name, content=content: shop.drop(name, content))  # type: ignore[misc]
        changes = dice.change()
        twins.each(lambda shop, changes=changes: shop.backend.execute_in_shop(*changes))  # type: ignore[misc]
        if not twins.end_alike(AS_OF + timedelta(days=day)):
            return


@pytest.mark.long
def test_real_tills_are_the_same_day_by_day(tmp_path: Path) -> None:
    """A grocer's receipts around the end of a month, and the next morning's decline."""
    days = [date(2017, 2, 12), date(2017, 2, 28), date(2017, 3, 1)]
    lines = [line for line in grocer._till_lines() if line.day in days]
    write_project(tmp_path / "grocer", sample=False)
    grocer._write_shop_db(tmp_path / "grocer" / "shop.db", lines)
    twins = twins_of(tmp_path / "grocer")
    for file in grocer._write_daily_files(lines, tmp_path / "delivered"):
        twins.each(lambda shop, file=file: grocer._land(file, shop))  # type: ignore[misc]
        report = twins.run(grocer._morning_after(file))
        assert report.rows("loaded") > 3000
        assert report.batches[0].unmatched
