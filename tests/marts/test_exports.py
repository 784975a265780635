"""Exports: a mart under the run's date as plain Parquet, all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

from retailmart import console
from retailmart.errors import LeaseLost, SettingsError, Shortage
from retailmart.lake import exports
from retailmart.ledger.access import Access
from retailmart.ledger.values import BatchState
from retailmart.marts.exports import (
    ExpiredExports,
    _block,
    _expired,
    _Merging,
    _months,
    _part,
    _put_together,
    expire_exports,
    export_marts,
)
from retailmart.project.settings import KeepSettings
from retailmart.report import RunReport, Silent
from retailmart.session import Session
from retailmart.storage.s3 import S3Folder
from retailmart.tables import DataFile, TableState
from tests.support.backends import RemoteBackend
from tests.support.shop import AS_OF, Shop, all_marts, sale

_TODAY, _NEXT = "2024-04-01", datetime(2024, 4, 2, 23, 30, tzinfo=UTC)
_SHOWN = {
    "customer_monthly_purchase",
    "declining_customers",
    "sales_mart",
    "sales_team_incentive",
}
_PURCHASES = "customer_monthly_purchase"
_IS_LATEST = re.compile(r"(\.half/)?latest/")


class Listening(Silent):
    """Somebody who notes which marts are shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def message(self, step: str, words: str) -> None:
        if step == "export":
            self.shown.append(words)


def run(shop: Shop, as_of: datetime = AS_OF) -> list[str]:
    """Run, and tell which marts were shown."""
    progress = Listening()
    shop.open().run(as_of, progress)
    return sorted(progress.shown)


def insights(shop: Shop) -> dict[str, bytes]:
    """Everything below business_insights but what `latest` shows, by path."""
    every = everything(shop).items()
    return {path: content for path, content in every if not _IS_LATEST.match(path)}


def everything(shop: Shop) -> dict[str, bytes]:
    """Everything below business_insights, by path."""
    if isinstance(shop.backend, RemoteBackend):
        bucket, above = shop.backend.bucket, "lake/business_insights/"
        return {key.removeprefix(above): bucket.get(key) for key in bucket.keys(above)}
    root = shop.folder / "lake" / "business_insights"
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def fetched(shop: Shop, tmp_path: Path, folder: str) -> Path:
    """A snapshot on this machine's disk, whatever it lies on."""
    target = tmp_path / "fetched" / folder
    for path, content in insights(shop).items():
        if path.startswith(f"{folder}/"):
            file = tmp_path / "fetched" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return target


def rows(folder: Path, columns: str = "*") -> list[tuple[Any, ...]]:
    """A snapshot's rows as DuckDB reads them without Delta, sorted."""
    files = f"read_parquet('{folder}/**/part-*.parquet', hive_partitioning = true)"
    with duckdb.connect() as connection:
        return connection.sql(f"SELECT {columns} FROM {files}").order("ALL").fetchall()


def add_mart(shop: Shop, name: str, header: str, query: str) -> None:
    """A mart of its own that is shown."""
    text = f"-- refresh: full\n-- snapshot: true\n{header}\n{query}\n"
    (shop.folder / "marts" / f"{name}.sql").write_text(text, encoding="utf-8")


@all_marts
@pytest.mark.every_backend
@pytest.mark.every_engine
def test_marts_are_shown_under_the_run_s_date(shop: Shop, tmp_path: Path) -> None:
    """Only those that ask for it; plain readers find the mart's own rows, without Delta."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-03"), sale(3, store=2, person=3)])
    assert set(run(shop)) == _SHOWN
    found = insights(shop)
    assert {tuple(path.split("/")[:2]) for path in found} == {(_TODAY, name) for name in _SHOWN}
    names = {path.rpartition("/")[2] for path in found}
    assert all(n == "_SUCCESS" or (n.startswith("part-") and n.endswith(".parquet")) for n in names)
    folders = {path.rpartition("/")[0].removeprefix(f"{_TODAY}/") for path in found}
    assert folders == _SHOWN
    columns = "store_id, sales_person_id, total_cost, sales_month"
    here = fetched(shop, tmp_path, f"{_TODAY}/sales_mart")
    assert rows(here, columns) == shop.mart("sales_mart", columns)
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    columns = "customer_id, first_name, last_name, year, month, monthly_total"
    assert rows(here, columns) == shop.mart(_PURCHASES, columns)
    frame = pd.read_parquet(here)
    assert list(frame.columns) == columns.split(", ")
    assert frame.monthly_total.sum() == 30


@all_marts
@pytest.mark.every_backend
def test_what_is_shown_already_costs_nothing(shop: Shop, tmp_path: Path) -> None:
    """On the same date only marts that changed are shown again, whole; nothing older stays."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    run(shop)
    before = insights(shop)
    shop.sales("sales_b.csv", [sale(), sale(2)])  # a twin of the first: nothing changes
    assert run(shop) == []
    assert insights(shop) == before
    shop.sales("sales_c.csv", [sale(3)])
    assert set(run(shop)) == _SHOWN - {"declining_customers"}, "which was empty and still is"
    after = insights(shop)
    kept = {path for path in before if "sales_mart/" in path and path.endswith(".parquet")}
    gone = {path for path in before if f"{_PURCHASES}/part" in path}
    assert kept
    assert kept <= after.keys()
    assert gone
    assert not gone & after.keys()
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    assert rows(here, "customer_id") == [(1,), (2,), (3,)]
    assert sum(path.endswith("_SUCCESS") for path in after) == len(_SHOWN)
    assert not [path for path in after if path.startswith(".half")]


@all_marts
@pytest.mark.every_backend
@pytest.mark.every_engine
def test_an_earlier_date_stays_as_it_was(shop: Shop, tmp_path: Path) -> None:
    """The next day's run shows every mart again, and touches nothing of the day before."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    run(shop)
    before = insights(shop)
    shop.sales("sales_a.csv", [sale(), sale(2, price="7.00")])  # the file is corrected
    assert set(run(shop, _NEXT)) == _SHOWN
    after = insights(shop)
    assert {path: after[path] for path in before} == before
    totals = [
        rows(fetched(shop, tmp_path, f"{day}/sales_mart"), "sum(total_cost)")
        for day in (_TODAY, "2024-04-02")
    ]
    assert totals == [[(20,)], [(17,)]]


@all_marts
@pytest.mark.every_backend
def test_a_run_that_dies_while_showing_shows_nothing_half(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mart has no _SUCCESS, nothing at all on disk; the next run finishes, and sweeps."""
    days = [sale(n, day=f"2024-0{month}-05") for n in (1, 2) for month in (1, 2, 3)]
    shop.sales("sales_a.csv", days)
    calls = []

    def dying(real: Any) -> Any:
        def call(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            real(*arguments)

        return call

    remote = isinstance(shop.backend, RemoteBackend)
    if remote:
        monkeypatch.setattr(S3Folder, "repeat", dying(S3Folder.repeat))
    else:
        monkeypatch.setattr(exports, "_link", dying(exports._link))
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    monkeypatch.undo()
    found = insights(shop)
    assert not [path for path in found if path.endswith("_SUCCESS") and ".half" not in path]
    assert remote or not [path for path in found if path.startswith("2024")]
    with shop.open().ledger() as ledger:
        batch = ledger.batches.unfinished()
        assert batch is not None
        assert batch.state is BatchState.PUBLISHED
    assert set(run(shop, _NEXT)) == _SHOWN
    after = insights(shop)
    marks = {path for path in after if path.endswith("_SUCCESS")}
    assert {f"{_TODAY}/{name}/_SUCCESS" for name in _SHOWN} <= marks, "the batch's own date"
    assert not [path for path in after if path.startswith(".half")]
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    assert rows(here, "count(*), sum(monthly_total)") == [(6, 60)]


@pytest.mark.every_store
def test_a_run_that_dies_while_replacing_never_mixes_two_versions(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disk the older snapshot stays whole; in a bucket no _SUCCESS vouches for the mixture."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    run(shop)
    before = insights(shop)
    monkeypatch.setattr(S3Folder, "discard", dying_at(f"{_PURCHASES}/part", S3Folder.discard))
    monkeypatch.setattr(os, "rename", dying_at(f"{_TODAY}/{_PURCHASES}", os.rename))
    shop.sales("sales_b.csv", [sale(3)])
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    monkeypatch.undo()
    found = insights(shop)
    mark = f"{_TODAY}/{_PURCHASES}/_SUCCESS"
    if isinstance(shop.backend, RemoteBackend):
        assert mark in before
        assert mark not in found
    else:
        assert {path: found[path] for path in found if ".half" not in path} == before
    run(shop)
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    assert rows(here, "customer_id") == [(1,), (2,), (3,)]
    assert not [path for path in insights(shop) if path.startswith(".half")]


def dying_at(place: str, real: Any) -> Any:
    """A function that is cut off when it is called for a place."""

    def call(*arguments: Any, **options: Any) -> Any:
        if any(place in str(argument) for argument in arguments):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    return call


@pytest.mark.every_backend
def test_a_half_snapshot_that_nobody_finishes_is_swept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mart that is shown no more leaves nothing half behind."""
    shop.sales("sales_a.csv", [sale()])
    (shop.folder / "marts" / "customer_mart.sql").write_text(
        (shop.folder / "marts" / "customer_mart.sql")
        .read_text()
        .replace("-- publish: false", "-- publish: false\n-- snapshot: true")
    )

    def dying(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(S3Folder, "repeat", dying)
    monkeypatch.setattr(exports, "sync_folder", dying)
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    monkeypatch.undo()
    for path in (shop.folder / "marts").iterdir():
        path.write_text(path.read_text().replace("-- snapshot: true\n", ""))
    assert run(shop) == []
    assert insights(shop) == {}


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_any_text_can_be_a_folder(shop: Shop, tmp_path: Path) -> None:
    """Odd partition values are folders that Hive's readers understand; `_` columns are none."""
    values = ["a/b", "x y", "ü₦", "50%", "a=b", "it''s", "[x]*?", "%41"]
    listed = ", ".join(f"('{value}', {n})" for n, value in enumerate(values))
    query = f"SELECT k, n, 'u' || (n % 2) AS _u FROM (VALUES {listed}, (NULL, 99)) t(k, n)"
    header = "-- partitions: [_u, k]"
    add_mart(shop, "sales_mar", header, f"{query} WHERE EXISTS (SELECT 1 FROM sales)")
    shop.sales("sales_a.csv", [sale()])
    assert "sales_mar" in run(shop)
    here = fetched(shop, tmp_path, f"{_TODAY}/sales_mar")
    plain = sorted((value.replace("''", "'"), n) for n, value in enumerate(values))
    assert rows(here, "k, n") == [*plain, (None, 99)]
    with duckdb.connect() as connection:
        found = connection.sql(f"FROM read_parquet('{here}/**/*.parquet', hive_partitioning=true)")
        assert set(found.columns) == {"k", "n"}


@pytest.mark.every_engine
def test_an_empty_mart_is_an_empty_table(shop: Shop, tmp_path: Path) -> None:
    """Readers find its columns and no row, rather than nothing to read."""
    header = "-- partitions: [store_id, _month]"
    query = "SELECT store_id, total_cost, sales_date, _month FROM sales WHERE false"
    add_mart(shop, "none_sold", header, query)
    shop.sales("sales_a.csv", [sale()])
    run(shop)
    here = fetched(shop, tmp_path, f"{_TODAY}/none_sold")
    frame = pd.read_parquet(here)
    assert (list(frame.columns), len(frame)) == (["store_id", "total_cost", "sales_date"], 0)
    assert rows(here) == []


@all_marts
def test_files_are_linked_not_copied(shop: Shop) -> None:
    """What is not put together takes no room; what is, is linked by later dates."""
    shop.sales("sales_a.csv", [sale(), sale(2, store=2, person=3)])
    run(shop)
    top = shop.folder / "lake" / "business_insights"
    (purchases,) = (top / _TODAY / _PURCHASES).glob("part-*.parquet")
    assert purchases.stat().st_nlink == 2
    (first,) = (top / _TODAY / "sales_mart").rglob("part-*.parquet")
    assert first.stat().st_nlink == 1
    shop.sales("sales_b.csv", [sale(3)])
    run(shop, _NEXT)
    again = list((top / "2024-04-02" / "sales_mart").rglob("part-*.parquet"))
    assert len(again) == 2
    assert first.name in {path.name for path in again}
    assert first.stat().st_nlink == 2


@all_marts
@pytest.mark.every_backend
def test_what_is_shown_is_no_table_of_the_lake(shop: Shop) -> None:
    """Sweeps and looks at all tables find these, and none by the name of a date."""
    shop.sales("sales_a.csv", [sale(), sale(2, total="no money")])
    run(shop)
    tables = shop.open().lake.place.tables()
    marts = {f"marts/{path.stem}" for path in (shop.folder / "marts").iterdir()}
    assert {"raw/sales", "quarantine/sales", "marts/sales_mart"} <= set(tables)
    assert {table for table in tables if table.startswith("marts/")} <= marts
    assert not [table for table in tables if "business_insights" in table]


@all_marts
def test_where_links_are_not_possible_files_are_copied(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without hard links shows the same."""

    def refuses(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuses)
    shop.sales("sales_a.csv", [sale(), sale(2)])
    assert set(run(shop)) == _SHOWN
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    assert rows(here, "customer_id") == [(1,), (2,)]


@pytest.mark.every_backend
def test_a_run_that_lost_its_lease_shows_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another run has shown meanwhile is not replaced by older rows."""
    shop.sales("sales_a.csv", [sale()])
    run(shop)
    before = insights(shop)
    shop.sales("sales_b.csv", [sale(2)])
    transaction = Access.transaction

    def lost(ledger: Access) -> Any:
        raise LeaseLost("another run has taken the project over")

    show = export_marts

    def late(*arguments: Any) -> list[str]:
        monkeypatch.setattr(Access, "transaction", lost)
        try:
            return show(*arguments)
        finally:
            monkeypatch.setattr(Access, "transaction", transaction)

    monkeypatch.setattr("retailmart.operations.batch.export_marts", late)
    with pytest.raises(LeaseLost):
        run(shop)
    visible = {path: content for path, content in insights(shop).items() if ".half" not in path}
    assert visible == before


@all_marts
def test_a_file_system_that_is_full_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown half, and the next run goes on from there."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(Shortage, match="the disk is full"):
        run(shop)
    assert not [path for path in insights(shop) if path.startswith("2024")]
    monkeypatch.undo()
    assert set(run(shop)) == _SHOWN


def test_a_project_that_shows_nothing_has_no_such_folder(shop: Shop) -> None:
    """The step is left out where no mart asks for it."""
    for path in (shop.folder / "marts").iterdir():
        path.write_text(path.read_text().replace("-- snapshot: true\n", ""))
    shop.sales("sales_a.csv", [sale()])
    report = shop.run()
    assert "export" not in report.seconds
    assert insights(shop) == {}
    assert not (shop.folder / "lake" / "business_insights").exists()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("b1-f1-0001.parquet", "part-b1-f1-0001.parquet"),
        ("_month=2024-03/b1-f1-0001.parquet", "part-2024-03-b1-f1-0001.parquet"),
        (
            "sales_month=2024-03/store_id=121/b1.parquet",
            "sales_month=2024-03/store_id=121/part-b1.parquet",
        ),
        ("_month=2024-03/k=a%2Fb/b1.parquet", "k=a%2Fb/part-2024-03-b1.parquet"),
        ("k=1/_u=x y/b1.parquet", "k=1/part-x y-b1.parquet"),
    ],
)
def test_a_part_is_named_by_what_its_folders_leave_out(path: str, shown: str) -> None:
    """Hive's folders stay, those of technical columns become part of the name."""
    assert _part(path) == shown


def test_a_part_s_name_is_never_too_long() -> None:
    """A long value is kept by its digest; two of them are still two names."""
    names = {_part(f"_u={'x' * 240}{n}/b1-f1-0001.parquet") for n in range(2)}
    assert len(names) == 2
    assert all(len(name) < 256 and name.endswith(".parquet") for name in names)


@pytest.mark.every_store
def test_one_path_shows_the_newest(shop: Shop, tmp_path: Path) -> None:
    """`latest` follows each run, but a run for an earlier date; pandas and DuckDB read it."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    run(shop, _NEXT)
    assert latest(shop, tmp_path / "1") == [(1,), (2,)]
    shop.sales("sales_b.csv", [sale(3)])
    run(shop, _NEXT)
    assert latest(shop, tmp_path / "2") == [(1,), (2,), (3,)]
    shop.sales("sales_c.csv", [sale(4)])
    run(shop, AS_OF)
    assert latest(shop, tmp_path / "3") == [(1,), (2,), (3,)]
    shop.sales("sales_d.csv", [sale(5)])
    run(shop, datetime(2024, 4, 3, tzinfo=UTC))
    assert latest(shop, tmp_path / "4") == [(1,), (2,), (3,), (4,), (5,)]


def latest(shop: Shop, tmp_path: Path, mart: str = _PURCHASES) -> list[tuple[Any, ...]]:
    """The customers of what `latest` shows; both readers agree on them."""
    folder = shop.folder / "lake" / "business_insights" / "latest" / mart
    if isinstance(shop.backend, RemoteBackend):
        folder = tmp_path / "latest" / mart
        for path, content in everything(shop).items():
            if path.startswith(f"latest/{mart}/"):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(content)
    assert (folder / "_SUCCESS").exists()
    found = rows(folder, "customer_id")
    frame = pd.read_parquet(folder)
    assert sorted(frame.customer_id) == [customer for (customer,) in found]
    return found


def test_a_file_system_without_symbolic_links_shows_the_newest(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest` is a folder of links there, replaced as a whole."""

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuses)
    shop.sales("sales_a.csv", [sale()])
    run(shop)
    shop.sales("sales_b.csv", [sale(2)])
    run(shop, _NEXT)
    assert not (
        shop.folder / "lake/business_insights/latest/customer_monthly_purchase"
    ).is_symlink()
    assert latest(shop, tmp_path) == [(1,), (2,)]
    monkeypatch.undo()
    shop.sales("sales_c.csv", [sale(3)])
    run(shop, _NEXT)
    assert (shop.folder / "lake/business_insights/latest/customer_monthly_purchase").is_symlink()
    assert latest(shop, tmp_path) == [(1,), (2,), (3,)]


@pytest.mark.every_backend
def test_a_run_that_dies_before_the_newest_is_shown_is_finished(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The date is there already; the next run shows it as the latest."""
    shop.sales("sales_a.csv", [sale()])
    monkeypatch.setattr(os, "replace", dying_at(f"latest/{_PURCHASES}", os.replace))
    monkeypatch.setattr(S3Folder, "repeat", dying_at(f"latest/{_PURCHASES}", S3Folder.repeat))
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    monkeypatch.undo()
    assert f"{_TODAY}/{_PURCHASES}/_SUCCESS" in insights(shop)
    run(shop)
    assert latest(shop, tmp_path) == [(1,)]


@all_marts
@pytest.mark.every_backend
def test_what_an_earlier_date_has_is_not_written_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days add files to an export; only those are put together, the others are taken over."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-03"), sale(3, store=2, person=3)])
    run(shop)
    wrote = []
    write = _Merging.write

    def noting(self: _Merging, folder: Path, files: Sequence[DataFile], target: Path) -> None:
        wrote.append(target.name)
        write(self, folder, files, target)

    monkeypatch.setattr(_Merging, "write", noting)
    shop.sales("sales_b.csv", [sale(4), sale(5, store=2, person=3)])
    run(shop, _NEXT)
    assert len(wrote) == 1
    names = {p.rpartition("/")[2] for p in insights(shop) if p.startswith("2024-04-02/sales_mart/")}
    assert len(names) == 3, "the month that ended as one file, the other as it was, and _SUCCESS"


def test_a_put_together_export_has_the_rows_and_types_of_its_mart(
    shop: Shop, tmp_path: Path
) -> None:
    """Partition columns below the first are columns, odd texts and NULL included."""
    values = (
        "('a/b', 1, DATE '2024-01-31', 0.10), ('x=y', NULL, NULL, NULL),"
        " ('ü', -7, DATE '1999-12-31', 12345678.99)"
    )
    query = (
        "SELECT 'm' AS m, k, CAST(n AS INTEGER) AS n, d, CAST(a AS DECIMAL(10, 2)) AS a"
        f" FROM (VALUES {values}) t(k, n, d, a) WHERE EXISTS (SELECT 1 FROM sales)"
    )
    add_mart(shop, "odd", "-- partitions: [m, k, n, d]", query)
    shop.sales("sales_a.csv", [sale()])
    run(shop)
    here = fetched(shop, tmp_path, f"{_TODAY}/odd")
    assert [path.parent.name for path in here.rglob("*.parquet")] == ["m=m"]
    assert rows(here, "k, n, d, a") == shop.mart("odd", "k, n, d, a")
    frame = pq.read_table(here)
    kinds = {field.name: str(field.type) for field in frame.schema}
    assert {name: kinds[name] for name in "knda"} == {
        "k": "string",
        "n": "int32",
        "d": "date32[day]",
        "a": "decimal128(10, 2)",
    }


@all_marts
def test_large_files_are_exported_as_they_are(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep the folders of their partitions, until they are much smaller."""
    monkeypatch.setattr("retailmart.marts.exports._SMALL", 1)
    shop.sales("sales_a.csv", [sale(), sale(2, store=2, person=3)])
    run(shop)
    month = shop.folder / "lake/business_insights" / _TODAY / "sales_mart" / "sales_month=2024-01"
    assert sorted(path.name for path in month.iterdir()) == ["store_id=1", "store_id=2"]
    monkeypatch.setattr("retailmart.marts.exports._SMALL", 10_000)
    shop.sales("sales_b.csv", [sale(3)])
    run(shop, _NEXT)
    assert list(month.parents[2].rglob("2024-04-02/**/store_id=1")), "not so much smaller"
    shown = month.parents[2] / "latest" / "sales_mart"
    assert rows(shown, "count(*), sum(store_id)") == [(3, 4)]
    monkeypatch.undo()
    shop.sales("sales_c.csv", [sale(4)])
    run(shop, datetime(2024, 4, 3, tzinfo=UTC))
    assert not list(month.parents[2].rglob("2024-04-03/**/store_id=1"))
    assert rows(shown, "count(*), sum(store_id)") == [(4, 5)]


def test_batches_form_blocks_that_do_not_change() -> None:
    """A batch is alone until its block is full; its row is written again once for each size."""
    assert [_block(3, newest) for newest in (3, 15, 16, 255, 256)] == [
        "b00000003",
        "b00000003",
        "b00000000-00000015",
        "b00000000-00000015",
        "b00000000-00000255",
    ]
    for newest in range(1, 2000, 7):
        assert len({_block(batch, newest) for batch in range(newest + 1)}) <= 16 * 3


def test_a_date_names_few_files_however_many_months_there_are() -> None:
    """Ended months are put together; what a day adds leaves all names of the day before."""

    def named(months: int, days: int, more: Sequence[DataFile] = ()) -> dict[str, set[str]]:
        ended = [f"{2022 + n // 12}-{1 + n % 12:02d}" for n in range(months)]
        files = [
            DataFile(f"sales_month={month}/store_id={store}/m00000001-{month}-{store}", 9, 1)
            for month in ended[:-1]
            for store in (1, 2)
        ]
        files += [
            DataFile(f"sales_month={ended[-1]}/store_id=1/b{batch:08d}-f0001-0001.parquet", 9, 1)
            for batch in range(1000, 1000 + days)
        ]
        files = [
            replace(file, partition={"sales_month": file.path[12:19], "store_id": file.path[29]})
            for file in (*files, *more)
        ]
        state = TableState("", (), ("sales_month", "store_id"), tuple(files))
        parts, merged = _put_together(state, _months(state), f"{ended[-1]}-28")
        assert parts == {}
        assert sorted(f.path for group in merged.values() for f in group) == sorted(
            file.path for file in files
        )
        return {name: {file.path for file in group} for name, group in merged.items()}

    before, after = named(36, 5), named(36, 6)
    assert len(before) == 2 + 3 + 2 + 5, "two years, three quarters, two months, five days"
    assert before.keys() < after.keys()
    assert max(len(named(months, 20)) for months in range(1, 100)) < 40
    # A sale that is dated in a year to come ends no month.
    far = DataFile("sales_month=2099-01/store_id=1/b00001005-f0001-0001.parquet", 9, 1)
    assert before.keys() < named(36, 5, [far]).keys()


def _days(first: str, count: int) -> list[str]:
    start = date.fromisoformat(first)
    return [(start + timedelta(days=n)).isoformat() for n in range(count)]


def test_the_last_days_month_ends_and_the_newest_are_kept() -> None:
    """Days count back from the newest export of any mart."""
    known = {"a": _days("2024-01-01", 100), "b": ["2023-05-01", "2023-05-02"]}
    gone = set(_expired(known, 31, month_ends=True))
    kept = {f"{day}/a" for day in known["a"]} - gone
    assert kept == {f"{day}/a" for day in [*_days("2024-01-31", 1), *_days("2024-02-29", 1)]} | {
        f"{day}/a" for day in _days("2024-03-10", 31)
    }
    assert "2023-05-01/b" in gone
    assert "2023-05-02/b" not in gone, "the newest of its mart"
    assert "2024-01-31/a" in set(_expired(known, 31, month_ends=False))
    assert _expired({}, 1, month_ends=True) == []


def settings(shop: Shop, text: str) -> None:
    """Add to the project's settings."""
    with (shop.folder / "retailmart.yml").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def dates(shop: Shop) -> set[str]:
    """The dates that have exports."""
    return {path.partition("/")[0] for path in insights(shop) if path[0].isdigit()}


def days_of(shop: Shop, *days: str) -> list[RunReport]:
    """A run on each of these days, each with a sale."""
    reports = []
    for number, day in enumerate(days):
        shop.sales(f"sales_{day}.csv", [sale(number % 9 + 1)])
        reports.append(shop.run(datetime.fromisoformat(f"{day}T06:00:00+00:00")))
    return reports


@all_marts
@pytest.mark.every_backend
def test_old_exports_are_removed_by_a_chosen_retention(shop: Shop, tmp_path: Path) -> None:
    """A run of a new date removes them and says so; what stays reads the same to the byte."""
    settings(shop, "keep: {exports: 2}")
    days_of(shop, "2024-03-30", "2024-03-31", "2024-04-01")
    before = insights(shop)
    assert dates(shop) == {"2024-03-31", "2024-04-01"}
    (*_, report) = days_of(shop, "2024-04-02", "2024-04-03")
    assert dates(shop) == {"2024-03-31", "2024-04-02", "2024-04-03"}, "the month's end stays"
    after = insights(shop)
    assert all(after[path] == before[path] for path in before if path.startswith("2024-03-31"))
    exports = report.batches[0].exports
    assert exports is not None
    assert set(exports.removed) == {f"2024-04-01/{name}" for name in _SHOWN}
    assert exports.freed > 0
    assert exports.folder.endswith("business_insights/2024-04-03")
    assert latest(shop, tmp_path)


@all_marts
def test_the_default_announces_before_it_first_removes(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has collected exports for a year learns of it a day before any goes."""
    days_of(shop, "2023-01-02", "2023-01-03", "2024-04-01")
    assert len(dates(shop)) == 3
    (again,) = days_of(shop, "2024-04-01")
    exports = again.batches[0].exports
    assert exports is not None
    assert exports.removed == ()
    console.summary(again)
    (report,) = days_of(shop, "2024-04-02")
    assert dates(shop) == {"2023-01-03", "2024-04-01", "2024-04-02"}
    console.summary(report)
    told = " ".join(capsys.readouterr().err.split())
    assert "removed 4 old exports (2023-01-02/customer_monthly_purchase …)" in told
    assert "exported " in told


@all_marts
def test_the_announcement_says_how_to_keep_them(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the setting."""
    (*_, report) = days_of(shop, "2023-01-02", "2023-01-03", "2024-04-01")
    console.summary(report)
    told = " ".join(capsys.readouterr().err.split())
    assert "keep 4 exports (2023-01-02/customer_monthly_purchase …) are older" in told
    assert "keep: {exports: for ever}" in told
    settings(shop, "keep: {exports: for ever}")
    days_of(shop, "2024-04-02", "2024-04-03")
    assert len(dates(shop)) == 5


@pytest.mark.every_backend
def test_a_dry_run_removes_nothing_and_tells_what_it_frees(shop: Shop) -> None:
    """Bytes count once the last name of a file is gone."""
    settings(shop, "keep: {exports: for ever}")
    days_of(shop, "2024-04-01", "2024-04-02", "2024-04-03")
    before = everything(shop)
    keep = KeepSettings(exports=1)
    with Session.open(shop.open().project, Silent()) as session:
        session.acquire_lease()
        told = expire_exports(session.ledger, session.lake, keep, dry_run=True)
        assert everything(shop) == before
        none = expire_exports(session.ledger, session.lake, keep, seconds=-1)
        assert none == ExpiredExports()
        assert everything(shop) == before
        done = expire_exports(session.ledger, session.lake, keep)
    assert (done.folders, done.size) == (told.folders, told.size)
    after = everything(shop)
    assert {path: after[path] for path in after} == {
        path: content for path, content in before.items() if path[:10] not in _days("2024-04-01", 2)
    }
    assert done.size.files == len(before) - len(after)


@all_marts
@pytest.mark.every_store
def test_a_removal_that_is_cut_off_is_finished(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No export without all of its files has _SUCCESS, and the next run sweeps the rest."""
    settings(shop, "keep: {exports: 1}")
    days_of(shop, "2024-04-01")
    monkeypatch.setattr(
        S3Folder, "discard", dying_at(f"{_TODAY}/sales_mart/part", S3Folder.discard)
    )
    remove = shutil.rmtree

    def dying(path: Any, **options: Any) -> None:
        if (Path(path) / "old").exists():
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        days_of(shop, "2024-04-02")
    monkeypatch.undo()
    left = {path for path in insights(shop) if path.startswith(_TODAY)}
    for name in {path.split("/")[1] for path in left}:
        whole = f"{_TODAY}/{name}/_SUCCESS" in left
        assert whole or isinstance(shop.backend, RemoteBackend)
    days_of(shop, "2024-04-03")
    assert dates(shop) == {"2024-04-03"}
    assert not [path for path in everything(shop) if path.startswith(".half")]


@pytest.mark.every_backend
def test_who_lost_the_lease_removes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention of another run may be another one."""
    settings(shop, "keep: {exports: for ever}")
    days_of(shop, "2024-04-01", "2024-04-02")
    before = everything(shop)

    def lost(ledger: Access) -> Any:
        raise LeaseLost("another run has taken the project over")

    with Session.open(shop.open().project, Silent()) as session:
        session.acquire_lease()
        monkeypatch.setattr(Access, "transaction", lost)
        with pytest.raises(LeaseLost):
            expire_exports(session.ledger, session.lake, KeepSettings(exports=1))
        monkeypatch.undo()
    assert {p: c for p, c in everything(shop).items() if ".half" not in p} == before


def test_exports_of_earlier_releases_stay_right_and_expire(shop: Shop) -> None:
    """Their version tags have no date, and no `latest` shows them."""
    settings(shop, "keep: {exports: 2}")
    days_of(shop, "2024-04-01", "2024-04-02")
    top = shop.folder / "lake/business_insights"
    shutil.rmtree(top / "latest")
    for mark in top.rglob("_SUCCESS"):
        said = json.loads(mark.read_text())
        mark.write_text(json.dumps({k: said[k] for k in said if k not in ("date", "layout")}))
    before = {p: c for p, c in insights(shop).items() if p.startswith("2024-04-02")}
    days_of(shop, "2024-04-03")
    assert dates(shop) == {"2024-04-02", "2024-04-03"}
    assert before == {p: c for p, c in insights(shop).items() if p.startswith("2024-04-02")}
    assert latest(shop, shop.folder)


def test_a_wrong_retention_is_told(shop: Shop) -> None:
    """A number of days, or for ever."""
    settings(shop, "keep: {exports: 0}")
    with pytest.raises(SettingsError, match="keep"):
        shop.open()


@all_marts
def test_maintenance_removes_old_exports_and_a_dry_run_says_which(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run does, for who has shortened the time that they stay."""
    settings(shop, "keep: {exports: for ever}")
    days_of(shop, "2024-04-01", "2024-04-02")
    text = (shop.folder / "retailmart.yml").read_text()
    (shop.folder / "retailmart.yml").write_text(text.replace("for ever", "1"))
    told = shop.open().maintain(dry_run=True)
    assert set(told.exports) == {f"2024-04-01/{name}" for name in _SHOWN}
    assert dates(shop) == {"2024-04-01", "2024-04-02"}
    done = shop.open().maintain()
    assert done.exports == told.exports
    assert dates(shop) == {"2024-04-02"}
    console.maintenance(done)
    assert "exports: 4 exports removed, the oldest is 2024-04-01/" in capsys.readouterr().out
