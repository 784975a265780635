"""Snapshots: a mart under the run's date as plain Parquet, all of it or nothing."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import pytest

from retailmart.errors import LeaseLost
from retailmart.lake import places
from retailmart.ledger.access import Access
from retailmart.ledger.values import BatchState
from retailmart.marts.exports import _part
from retailmart.report import Silent
from retailmart.storage.s3 import S3Folder
from tests.support.backends import RemoteBackend
from tests.support.shop import AS_OF, Shop, sale

_TODAY, _NEXT = "2024-04-01", datetime(2024, 4, 2, 23, 30, tzinfo=UTC)
_SHOWN = {
    "customer_monthly_purchase",
    "declining_customers",
    "sales_mart",
    "sales_team_incentive",
}
_PURCHASES = "customer_monthly_purchase"


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
    assert folders == _SHOWN | {
        f"sales_mart/sales_month={month}{store}"
        for month, store in (
            ("2024-01", "/store_id=1"),
            ("2024-01", "/store_id=2"),
            ("2024-02", "/store_id=1"),
        )
    }
    columns = "store_id, sales_person_id, total_cost, sales_month"
    here = fetched(shop, tmp_path, f"{_TODAY}/sales_mart")
    assert rows(here, columns) == shop.mart("sales_mart", columns)
    here = fetched(shop, tmp_path, f"{_TODAY}/{_PURCHASES}")
    columns = "customer_id, first_name, last_name, year, month, monthly_total"
    assert rows(here, columns) == shop.mart(_PURCHASES, columns)
    frame = pd.read_parquet(here)
    assert list(frame.columns) == columns.split(", ")
    assert frame.monthly_total.sum() == 30


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
        monkeypatch.setattr(places, "_link", dying(places._link))
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

    def call(*arguments: Any) -> Any:
        if any(place in str(argument) for argument in arguments):
            raise KeyboardInterrupt
        return real(*arguments)

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
    monkeypatch.setattr(places, "sync_folder", dying)
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


def test_files_are_linked_not_copied(shop: Shop) -> None:
    """A day's snapshot takes no room of its own; it outlives what leaves the lake."""
    shop.sales("sales_a.csv", [sale()])
    run(shop)
    lake = shop.folder / "lake"
    parts = (lake / "business_insights").rglob("part-*.parquet")
    linked = [path for path in parts if "part-empty" not in path.name]
    assert linked
    assert {path.stat().st_nlink for path in linked} == {2}


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


@pytest.mark.every_store
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

    from retailmart.marts import exports

    show = exports.export_marts

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(Access, "transaction", lost)
        try:
            show(*arguments)
        finally:
            monkeypatch.setattr(Access, "transaction", transaction)

    monkeypatch.setattr("retailmart.operations.batch.export_marts", late)
    with pytest.raises(LeaseLost):
        run(shop)
    visible = {path: content for path, content in insights(shop).items() if ".half" not in path}
    assert visible == before


def test_a_file_system_that_is_full_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown half, and the next run goes on from there."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(OSError, match="No space left"):
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
