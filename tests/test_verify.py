"""`retailmart verify`: the marts and refused rows of every engine against those in the lake."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pytest
from pydantic import BaseModel, ConfigDict, Field

import retailmart.engines
import retailmart.engines.registry
from retailmart.engines import CsvShape, Engine, Files, JsonShape, Relation, Write
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.operations.verify import marts as verify
from retailmart.operations.verify import pin
from retailmart.operations.verify.rebuild import scratch_lake
from retailmart.project.settings import Settings
from retailmart.tables import DataFile, TableState
from retailmart.template import STORIES, write_project
from tests.support.pages import commands
from tests.support.shop import AS_OF, Called, Shop, Typed, all_marts, sale

Verify = Callable[..., subprocess.CompletedProcess[str]]

Pairs = dict[str, tuple[str | None, str | None]]


class Shape(BaseModel):
    """An object of these keys and no other."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ContrastShape(Shape):
    """Where two groups of sides part."""

    sides: list[str]
    others: list[str]
    columns: list[str]
    row: dict[str, str | None]
    values: Pairs
    only_in: list[str]
    types: Pairs


class ComparisonShape(Shape):
    """A table as each side has it."""

    table: str
    rows: dict[str, int]
    digests: dict[str, dict[str, Annotated[str, Field(pattern="^[0-9a-f]{32}$")]]]
    contrasts: list[ContrastShape]
    as_of: datetime | None
    left_out: str | None
    equal: bool


class DeliveryShape(ComparisonShape):
    """The rows of a run's files."""

    run: int


class ReportShape(Shape):
    """What `--output json` prints."""

    equal: bool
    engines: list[str]
    marts: list[ComparisonShape]
    deliveries: list[DeliveryShape]
    skipped: dict[str, str]
    unavailable: dict[str, str]
    seconds: dict[str, float]


@pytest.fixture
def verified(shop: Shop, called: Called) -> Verify:
    """The command, in the shop's folder."""

    def run(*words: str, engines: str = "duckdb") -> subprocess.CompletedProcess[str]:
        return called(shop.folder, "verify", "--engines", engines, *words)

    return run


def told(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON that the command printed, of the shape that is documented."""
    ReportShape.model_validate_json(result.stdout)
    report = json.loads(result.stdout)
    assert result.returncode == (0 if report["equal"] else 3), result.stderr
    assert isinstance(report, dict)
    return report


def marts(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The marts of a report by name."""
    return {one["table"]: one for one in report["marts"]}


def line_of(result: subprocess.CompletedProcess[str], table: str) -> str:
    """The line that a table has in the result."""
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"{table} "))
    return line


def files_of(folder: Path) -> dict[str, str]:
    """Every file of a project but those of its private folder, by path, and its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".retailmart" not in path.parts
    }


def tamper(shop: Shop, table: str, replaced: str, where: str = "true") -> None:
    """Somebody writes other values into one of a table's data files."""
    folder = shop.folder / "lake" / table
    names = sorted(path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)
    file, other = names[0], shop.folder / "other.parquet"
    value, column = replaced.rsplit(" AS ", 1)
    rows = f"read_parquet('{file}', hive_partitioning = false)"
    case = f"CASE WHEN {where} THEN {value} ELSE {column} END"
    changed = f"SELECT * REPLACE ({case} AS {column}) FROM {rows}"
    duckdb.connect().execute(f"COPY ({changed}) TO '{other}'")
    other.replace(file)


class OffByACent(DuckDBEngine):
    """An engine that makes a cent too much of a customer's month, and of a price."""

    def write_each(
        self, writes: Sequence[Write]
    ) -> Iterator[tuple[DataFile, ...] | RetailmartError]:
        more = "CAST(monthly_total + 0.01 AS DECIMAL(18, 2)) AS monthly_total"
        return super().write_each(
            [
                replace(one, query=f"SELECT * REPLACE ({more}) FROM ({one.query})")
                if "AS monthly_total" in one.query
                else one
                for one in writes
            ]
        )

    def records(
        self, files: Mapping[int, Path], shape: CsvShape | JsonShape, *, numbered: bool = False
    ) -> Relation:
        found = super().records(files, shape, numbered=numbered)
        if isinstance(shape, JsonShape):
            return found
        dearer = "replace(c5, '10.00', '10.01') AS c5"
        return self.query(f"SELECT * REPLACE ({dearer}) FROM {found}")


@pytest.fixture
def off_by_a_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the name `spark` is one that errs."""
    right = retailmart.engines.registry.open_engine

    def opened(settings: Settings, places: Sequence[Files], scratch: Path) -> Engine:
        if settings.engine == "spark":
            return OffByACent(places, scratch)
        return right(settings, places, scratch)

    monkeypatch.setattr(verify, "open_engine", opened)


@pytest.mark.parametrize("stories", [tuple(STORIES)], ids=["whole"])
@pytest.mark.every_backend
def test_marts_that_are_as_they_should_be(shop: Shop, verified: Verify) -> None:
    """A line a mart, exit code 0; nothing of the project is written to, and no trace is left."""
    shop.sales("sales_1.csv", [sale(), sale(2, day="2024-02-01"), sale(day="2024-02-31")])
    shop.run()
    before = files_of(shop.folder)
    ledger = shop.backend.query("SELECT * FROM retailmart_runs")
    result = verified("--files", "all")
    assert result.returncode == 0, result.stderr
    assert line_of(result, "sales_mart").split()[1:] == ["2", "rows", "14", "columns", "equal"]
    assert line_of(result, "run 1: quarantine/sales").endswith("1 row  9 columns equal")
    assert "not available: " in line_of(result, "market_users")
    assert "duckdb: sales_mart" in result.stderr
    assert files_of(shop.folder) == before
    assert shop.backend.query("SELECT * FROM retailmart_runs") == ledger
    assert not (shop.folder / ".retailmart" / "verify").exists()


def test_what_many_runs_have_made_is_what_one_would_make(shop: Shop, verified: Verify) -> None:
    """Appended months, a corrected and an undone file, a changed dimension and a late key."""
    shop.sales("sales_1.csv", [sale(), sale(2), sale(11, total="12.34"), sale(day="2024-02-02")])
    shop.run()
    shop.sales("sales_2.csv", [sale(3, day="2024-02-03"), sale(1, 2, person=3)])
    shop.run()
    shop.sales("sales_1.csv", [sale(total="11.00"), sale(11, total="12.34")])
    shop.run(AS_OF + timedelta(days=1))
    shop.backend.execute_in_shop(
        "UPDATE customer SET first_name = 'Zoe' WHERE customer_id = 1",
        "INSERT INTO customer VALUES (11, 'Late', 'Key', '', '', '', '2020-01-01')",
    )
    shop.run(AS_OF + timedelta(days=2))
    shop.sales("sales_3.csv", [sale(4, day="2024-03-03")])
    shop.run(AS_OF + timedelta(days=3))
    shop.open().undo(2)
    report = told(verified("--files", "all", "--output", "json"))
    assert report["equal"] is True
    assert {one["table"]: one["rows"] for one in report["deliveries"] if one["rows"]["lake"]} == {
        "raw/sales": {"lake": 2, "duckdb": 2}
    }


def test_a_changed_value_is_told_with_its_row(shop: Shop, verified: Verify) -> None:
    """The mart, the column, the first row by the key, and both values; exit code 3."""
    shop.sales("sales_1.csv", [sale(3), sale(2, price="7.00"), sale(5)])
    shop.run()
    tamper(shop, "marts/customer_monthly_purchase", "monthly_total + 1 AS monthly_total",
           where="customer_id > 2")  # fmt: skip
    result = verified()
    assert result.returncode == 3
    lines = [line.strip() for line in result.stdout.splitlines()]
    start = next(n for n, line in enumerate(lines) if "DIFFERENT" in line)
    assert lines[start].startswith("customer_monthly_purchase")
    assert lines[start].endswith("3 rows  DIFFERENT in 1 of 7 columns: monthly_total")
    assert lines[start + 1].startswith("first row that differs: customer_id 3")
    assert lines[start + 2] == "monthly_total: 11.00 in lake, 10.00 in duckdb"
    assert "1 table is not the same: customer_monthly_purchase" in result.stderr
    found = marts(told(verified("-o", "json")))
    assert found["customer_monthly_purchase"]["contrasts"][0]["values"] == {
        "monthly_total": ["11.00", "10.00"]
    }
    assert [name for name, one in found.items() if not one["equal"]] == [
        "customer_monthly_purchase"
    ]


def test_changed_raw_rows_show_in_the_marts(shop: Shop, verified: Verify) -> None:
    """Marts are built from what raw holds now; the files tell that raw is not what they said."""
    shop.sales("sales_1.csv", [sale(), sale(2)])
    shop.run()
    tamper(shop, "raw/sales", "CAST(9 AS DECIMAL(14, 2)) AS total_cost", where="customer_id = 2")
    report = told(verified("--files", "1", "-o", "json"))
    assert marts(report)["customer_mart"]["contrasts"][0]["values"] == {
        "total_cost": ["10.00", "9.00"]
    }
    raw, refused = report["deliveries"]
    assert (raw["table"], raw["contrasts"][0]["values"]) == (
        "raw/sales",
        {"total_cost": ["9.00", "10.00"]},
    )
    assert refused["equal"] is True


@all_marts
@pytest.mark.usefixtures("off_by_a_cent")
def test_the_engine_that_differs_stands_alone(shop: Shop, verified: Verify) -> None:
    """Each is compared with each: the lake and the engine that agree are told together."""
    shop.sales("sales_1.csv", [sale(3), sale(2, price="7.00")])
    shop.run()
    report = told(verified("--files", "1", "-o", "json", engines="duckdb,spark"))
    found = marts(report)["customer_monthly_purchase"]
    (contrast,) = found["contrasts"]
    assert (contrast["sides"], contrast["others"]) == (["lake", "duckdb"], ["spark"])
    assert contrast["row"] | {"customer_id": "2"} == contrast["row"]
    assert contrast["values"] == {"monthly_total": ["7.00", "7.01"]}
    assert found["rows"] == {"lake": 2, "duckdb": 2, "spark": 2}
    assert marts(report)["sales_mart"]["equal"] is True
    (raw,) = (one for one in report["deliveries"] if not one["equal"])
    assert (raw["table"], raw["contrasts"][0]["columns"]) == ("raw/sales", ["price"])
    assert marts(told(verified("-o", "json", engines="spark")))["customer_mart"]["equal"] is True


def test_each_refused_row_is_compared(shop: Shop, verified: Verify) -> None:
    """Line, column, rule and message of each, and whether there is one at all."""
    shop.sales("sales_1.csv", [sale(), sale(day="2024-02-31"), "x,1,tea,2024-01-05,1,1,1,1"])
    shop.run()
    tamper(shop, "quarantine/sales", "'no day' AS message", where="line = 3")
    report = told(verified("--files", "all", "-o", "json"))
    (found,) = (one for one in report["deliveries"] if not one["equal"])
    assert found["table"] == "quarantine/sales"
    (contrast,) = found["contrasts"]
    assert (contrast["columns"], contrast["row"]) == (["message"], {"file_id": "1", "line": "3"})
    assert contrast["values"]["message"][0] == "no day"
    assert all(one["equal"] for one in report["marts"])
    tamper(shop, "quarantine/sales", "CAST(44 AS BIGINT) AS line", where="line = 4")
    text = verified("--files", "all").stdout
    assert "first row that differs: file_id 1, line 3" in text


def test_only_the_last_runs_files_are_parsed(shop: Shop, verified: Verify) -> None:
    """Those of so many runs that brought any; what can't be parsed again is told."""
    for name in ("sales_1.csv", "sales_2.csv", "sales_3.csv"):
        shop.sales(name, [sale(total=f"{name[6]}.00")])
        shop.run()
    shop.run()
    assert told(verified("-o", "json"))["deliveries"] == []
    report = told(verified("--files", "2", "-o", "json"))
    assert [one["run"] for one in report["deliveries"]] == [3, 3, 2, 2]
    (archived,) = (shop.folder / "archive").rglob("sales_3.csv")
    archived.unlink()
    report = told(verified("--files", "2", "-o", "json"))
    assert report["skipped"] == {"sales_3.csv": "is no longer in the archive"}
    assert [one["run"] for one in report["deliveries"]] == [2, 2]
    assert (
        "sales_3.csv was not parsed again: is no longer in the archive"
        in verified("--files", "1").stdout
    )


def test_files_that_brought_refused_rows_back_are_left_alone(
    shop: Shop, verified: Verify, called: Called
) -> None:
    """A refused row may come back once; that it has come is no difference."""
    shop.sales("sales_1.csv", [sale(), sale(day="2024-02-31")])
    shop.run()
    sheet = shop.folder / "repair.csv"
    assert called(shop.folder, "quarantine", "export", "--to", str(sheet)).returncode == 0
    sheet.write_text(sheet.read_text().replace("2024-02-31", "2024-02-29"))
    assert called(shop.folder, "quarantine", "replay", str(sheet)).returncode == 0
    shop.run()
    report = told(verified("--files", "all", "-o", "json"))
    assert (report["equal"], [one["run"] for one in report["deliveries"]]) == (True, [1, 1])
    (why,) = report["skipped"].values()
    assert why.startswith("brought refused rows back")


MOMENT = "-- refresh: full\nSELECT getvariable('as_of') AS moment, count(*) AS n FROM {}\n"


def test_each_mart_is_built_for_the_moment_it_was_built_for(shop: Shop, verified: Verify) -> None:
    """A mart that a later run of the day had no reason to build is still as of the earlier."""
    (shop.folder / "marts" / "stores.sql").write_text(MOMENT.format("store"))
    (shop.folder / "marts" / "days.sql").write_text(MOMENT.format("sales"))
    shop.sales("sales_1.csv", [sale()])
    shop.run(AS_OF)
    shop.sales("sales_2.csv", [sale(2)])
    later = AS_OF + timedelta(hours=5)
    shop.run(later)
    found = marts(told(verified("-o", "json")))
    assert all(one["equal"] and not one["left_out"] for one in found.values())
    assert found["stores"]["as_of"] == AS_OF.isoformat()
    assert found["days"]["as_of"] == later.isoformat()


@all_marts
@pytest.mark.usefixtures("off_by_a_cent")
def test_what_the_lake_shows_otherwise_for_good_reason(shop: Shop, verified: Verify) -> None:
    """Another moment, another definition, and what reads these, is compared between engines."""
    folder = shop.folder / "marts"
    (folder / "moment.sql").write_text(MOMENT.format("store"))
    months = "-- refresh: months\n-- partitions: [_month]\n"
    (folder / "each.sql").write_text(
        f"{months}SELECT _month, getvariable('as_of') AS moment FROM sales"
    )
    (folder / "after.sql").write_text("-- refresh: full\nSELECT * FROM moment\n")
    (folder / "mine.sql").write_text(f"{months}SELECT _month, price FROM sales")
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    (folder / "mine.sql").write_text(f"{months}SELECT _month, price + 1 AS price FROM sales")
    (folder / "new.sql").write_text(f"{months}SELECT _month, price FROM sales")
    words = ["--as-of", "2024-04-02", "-o", "json"]
    report = told(verified(*words, engines="duckdb,spark"))
    found = {name: one["left_out"] for name, one in marts(report).items() if one["left_out"]}
    assert found == {
        "moment": "the lake's is as of 2024-04-01 00:00 UTC",
        "after": "the lake's is as of 2024-04-01 00:00 UTC",
        "each": "the lake's is as of 2024-04-01 00:00 UTC",
        "declining_customers": "the lake's is as of 2024-04-01 00:00 UTC",
        "mine": "it was defined otherwise when the lake's was built",
        "new": "the lake does not hold it yet",
    }
    assert marts(report)["mine"]["rows"] == {"duckdb": 1, "spark": 1}
    assert marts(report)["moment"]["as_of"] == datetime(2024, 4, 2, tzinfo=UTC).isoformat()
    alone = verified()
    assert "columns equal" in line_of(alone, "each")
    assert "columns equal" in line_of(alone, "moment")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "duckdb,sprak"], "there is no engine 'sprak'; did you mean 'spark'?"),
        (["--engines", ","], "names no engine"),
        (["--files", "some"], "write a number of runs, or all"),
        (["--files", "0"], "write a number of runs, or all"),
        (["--as-of", "soon"], "write it as 2024-01-31"),
    ],
)
def test_what_is_written_wrong(shop: Shop, called: Called, words: list[str], message: str) -> None:
    """Exit code 2 and a sentence, before anything is done."""
    result = called(shop.folder, "verify", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr


def test_nothing_to_verify(shop: Shop, verified: Verify) -> None:
    """Before the first run; and no ledger is made for it."""
    result = verified()
    assert (result.returncode, result.stdout) == (1, "")
    assert "no mart is built yet\n  Build them with: retailmart run" in result.stderr
    assert not (shop.folder / "retail.db").exists()


def test_an_engine_that_is_not_installed(
    shop: Shop, verified: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told with its fix before any mart is built."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    for name in [name for name in sys.modules if name.startswith("retailmart.engines.spark")]:
        monkeypatch.delitem(sys.modules, name)
    # The package keeps the module it has imported, and a second one without pyspark would stay.
    monkeypatch.setattr(retailmart.engines, "spark", None, raising=False)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    result = verified(engines="duckdb,spark")
    assert result.returncode in (1, 2)
    assert "pip install 'pyspark[connect]>=3.5'" in result.stderr
    assert "customer_mart" not in result.stderr


def test_a_batch_that_is_half_in_the_lake_is_not_read(
    shop: Shop, verified: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was cut off while it committed is to be finished first."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.sales("sales_2.csv", [sale(2)])
    commit = Lake.commit

    def cut_off(lake: Lake, change: Any, batch_id: int) -> int:
        if change.table.startswith("marts/"):
            raise KeyboardInterrupt
        return commit(lake, change, batch_id)

    monkeypatch.setattr(Lake, "commit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        shop.run()
    monkeypatch.undo()
    monkeypatch.setattr(pin, "_PAUSES", ())
    monkeypatch.chdir(shop.folder)
    result = verified()
    assert result.returncode == 4
    assert "a batch is on its way into the lake" in result.stderr
    shop.run()
    assert told(verified("-o", "json"))["equal"] is True


@all_marts
def test_a_run_that_commits_while_the_lake_is_pinned(
    shop: Shop, verified: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is seen again until all of it is of one moment; the run is not held up."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.sales("sales_2.csv", [sale(2)])
    state = Lake.state
    seen: list[str] = []

    def meanwhile(lake: Lake, table: str, version: int | None = None) -> TableState | None:
        found = state(lake, table, version)
        if table == "raw/customer" and lake.place.workspace == shop.folder / "lake" and not seen:
            seen.append(table)
            shop.run()
        return found

    monkeypatch.setattr(Lake, "state", meanwhile)
    report = told(verified("-o", "json"))
    assert (seen, report["equal"]) == (["raw/customer"], True)
    assert marts(report)["sales_mart"]["rows"] == {"lake": 2, "duckdb": 2}


def test_what_a_killed_verify_left_is_cleared_and_two_do_not_meet(
    shop: Shop, verified: Verify
) -> None:
    """The folder of the work is one verify's own."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    left = shop.folder / ".retailmart" / "verify" / "duckdb" / "left"
    left.mkdir(parents=True)
    with scratch_lake(shop.folder / ".retailmart") as folder:
        assert list(folder.iterdir()) == []
        result = verified()
        assert result.returncode == 4
        assert "another verify is at work" in result.stderr
    assert verified().returncode == 0


@pytest.mark.long
def test_the_commands_of_the_page_work(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/verify.md that names no Spark, on the sample shop."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    for line in commands("docs/verify.md"):
        if line == "retailmart verify":  # needs Spark
            continue
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.spark
@pytest.mark.long
@pytest.mark.usefixtures("spark_session")
def test_both_engines_make_the_same_of_the_sample(tmp_path: Path, called: Called) -> None:
    """Every mart of the three stories, and every row that was taken or refused."""
    write_project(tmp_path / "shop", sample=True)
    shop = Shop(tmp_path / "shop")
    shop.run()
    report = told(called(shop.folder, "verify", "--files", "all", "--output", "json"))
    assert report["engines"] == ["duckdb", "spark"]
    assert [one["contrasts"] for one in report["marts"] if not one["equal"]] == []
    assert [one["contrasts"] for one in report["deliveries"] if not one["equal"]] == []
    assert (report["skipped"], report["unavailable"]) == ({}, {})
    assert all(len(one["rows"]) == 3 for one in report["marts"])
