"""The Python door: a project opened, run and read."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

import retailmart
from retailmart.errors import SettingsError
from tests.support.shop import Shop, all_marts, sale


def test_a_run_returns_its_report(shop: Shop) -> None:
    """What the command prints is a value here."""
    shop.sales("sales.csv", [sale(), sale(customer=2, price="2.50")])
    report = shop.run()
    assert isinstance(report, retailmart.RunReport)
    assert (report.rows("loaded"), report.count("loaded")) == (2, 1)
    assert report.as_of == datetime(2024, 4, 1, tzinfo=UTC)
    assert shop.run().nothing_to_do


def test_a_mart_comes_as_rows_arrow_and_pandas(shop: Shop) -> None:
    """One relation serves all three, with dates and decimals as they are."""
    shop.sales("sales.csv", [sale(), sale(customer=2, price="2.50")])
    shop.run()
    relation = shop.open().mart("customer_mart").order("customer_id")
    assert relation.project("sales_date, total_cost").fetchall() == [
        (date(2024, 1, 15), Decimal("10.00")),
        (date(2024, 1, 15), Decimal("2.50")),
    ]
    arrow = relation.to_arrow_table()
    assert arrow.schema.field("total_cost").type == pa.decimal128(14, 2)
    frame = relation.df()
    assert list(frame["first_name"]) == ["First1", "First2"]


def test_moments_come_as_rows(shop: Shop) -> None:
    """A mart with a TIMESTAMP column is read in Python like any other."""
    (shop.folder / "marts" / "moments.sql").write_text(
        "-- refresh: full\nSELECT count(*) AS n, TIMESTAMPTZ '2024-01-01' AS at FROM sales\n"
    )
    shop.sales("sales.csv", [sale()])
    shop.run()
    assert shop.mart("moments") == [(1, datetime(2024, 1, 1, tzinfo=UTC))]


@all_marts
def test_relations_of_one_project_live_side_by_side(shop: Shop) -> None:
    """Reading one mart does not close another that is being read."""
    shop.sales("sales.csv", [sale()])
    shop.run()
    project = shop.open()
    first, second = project.mart("customer_mart"), project.mart("sales_mart")
    assert len(first.fetchall()) == len(second.fetchall()) == 1


@all_marts
def test_an_unknown_mart_has_a_hint(shop: Shop) -> None:
    """A misspelt mart is an error with the nearest name."""
    with pytest.raises(retailmart.RetailmartError, match="did you mean 'sales_mart'"):
        shop.open().mart("sales_mrat")


@all_marts
def test_a_mart_before_its_first_run(shop: Shop) -> None:
    """A mart that no run has built says how to build it."""
    with pytest.raises(retailmart.MartNotBuilt, match="retailmart run"):
        shop.open().mart("sales_mart")
    assert shop.open().quarantine("sales") is None


def test_refused_rows_are_a_relation(shop: Shop) -> None:
    """The quarantine of a feed is read like a mart."""
    shop.sales("sales.csv", [sale(), sale(day="soon")])
    shop.run()
    relation = shop.open().quarantine("sales")
    assert relation is not None
    assert relation.project("line, raw").fetchall() == [(3, sale(day="soon"))]


@all_marts
def test_settings_can_be_given(shop: Shop) -> None:
    """Settings given in Python go before the file's; a float rate is taken as it is shown."""
    project = retailmart.open_project(
        str(shop.folder), {"lake": "pond", "variables": {"incentive_rate": 0.1}}
    )
    shop.sales("sales.csv", [sale()])
    project.run(datetime(2024, 4, 1, tzinfo=UTC))
    assert (shop.folder / "pond" / "marts").is_dir()
    assert not (shop.folder / "lake").exists()
    assert project.mart("sales_team_incentive").project("incentive").fetchall() == [
        (Decimal("1.00"),)
    ]


def test_mistakes_raise_all_at_once(shop: Shop) -> None:
    """SettingsError carries each mistake, and is a RetailmartError with exit code 2."""
    with pytest.raises(retailmart.SettingsError) as caught:
        retailmart.open_project(shop.folder, {"lak": "x", "threads": 0})
    assert len(caught.value.problems) == 2
    assert caught.value.exit_code == 2
    with pytest.raises(retailmart.NotAProject):
        retailmart.open_project(shop.folder / "landing")


def test_a_new_project_and_its_secrets(tmp_path: Path) -> None:
    """A project begins in Python, too; its secrets are there before its settings are right."""
    folder = tmp_path / "new"
    written = retailmart.create_project(folder, parts=["tills"])
    assert folder / "retailmart.yml" in written
    with pytest.raises(retailmart.SettingsError, match="is there already"):
        retailmart.create_project(str(folder), parts=["tills"])
    with pytest.raises(retailmart.SettingsError, match="no part of a shop is named"):
        retailmart.create_project(tmp_path / "other", parts=[])
    (folder / "retailmart.yml").write_text("lak: x\n")
    assert retailmart.open_secrets(str(folder)).names() == []


def test_unknown_engines_are_named(shop: Shop) -> None:
    """A misspelt engine is an error with the nearest name before anything is opened."""
    with pytest.raises(retailmart.SettingsError, match="'sprak'; did you mean 'spark'"):
        shop.open().verify(["duckdb", "sprak"])
    with pytest.raises(retailmart.SettingsError, match="names no engine"):
        shop.open().verify([])


def test_the_package_offers_what_it_names() -> None:
    """Everything in __all__ is there, and nothing else pretends to be."""
    for name in retailmart.__all__:
        assert getattr(retailmart, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'opne_project'"):
        retailmart.opne_project  # noqa: B018 the access is the test


@all_marts
def test_reading_ends_cleanly(shop: Shop) -> None:
    """A script that reads a mart into Arrow leaves the interpreter without a crash."""
    shop.sales("sales.csv", [sale()])
    shop.run()
    code = (
        "import retailmart, sys\n"
        "project = retailmart.open_project(sys.argv[1])\n"
        "print(project.mart('sales_mart').to_arrow_table().num_rows)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(shop.folder)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


@pytest.mark.parametrize("command", ["run", "verify"])
def test_a_moment_that_is_none_is_refused_in_words(shop: Shop, command: str) -> None:
    """A text as `as_of` says what to write, before anything is done."""
    with pytest.raises(SettingsError, match="as_of is '2024-04-01', and no datetime"):
        getattr(shop.open(), command)(as_of="2024-04-01")
