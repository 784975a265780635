"""Simulated years: a day costs what it did, and what is kept grows with the data only."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from statistics import fmean

import pytest

from tests.support.amount import SEED
from tests.support.shop import Shop
from tests.support.years import simulate, write


@pytest.fixture
def marts() -> Collection[str]:
    """One that adds files each day, one that is built by month."""
    return ("sales_mart", "customer_monthly_purchase")


def expect_right(shop: Shop) -> None:
    """Every number is that of a full rebuild, and of the files parsed again."""
    report = shop.open().verify(["duckdb"], runs=0)
    assert report.marts
    assert report.different == ()
    assert shop.open().verify_database().different == ()


def exports(shop: Shop) -> dict[str, bytes]:
    """The exports that there are, by path."""
    top = shop.folder / "lake" / "business_insights"
    return {
        path.relative_to(top).as_posix(): path.read_bytes()
        for path in top.rglob("*.parquet")
        if not path.is_relative_to(top / "latest")
    }


def test_some_days(shop: Shop) -> None:
    """The short form: all kinds of days, right at the end; what is exported stays as it is."""
    days = list(simulate(shop, 6, SEED, look_every=1))
    assert [day.day for day in days] == list(range(6))
    before = exports(shop)
    list(simulate(shop, 2, SEED, start=9))
    after = exports(shop)
    # A correction may be of an earlier day, but it is exported under the day it came.
    assert {path: after.get(path) for path in before} == before
    expect_right(shop)


@pytest.mark.long
def test_two_years(shop: Shop) -> None:
    """Cost, files and bytes at the end against those of the first two months."""
    days = list(simulate(shop, 731, SEED, look_every=1))
    if out := os.environ.get("RETAILMART_YEARS_OUT"):
        write(days, Path(out))
    expect_right(shop)
    # A week has one day on which files are merged: means of some weeks.
    at_30 = fmean(day.seconds for day in days if 14 <= day.day < 49)
    at_end = fmean(day.seconds for day in days if day.day >= 696)
    sixty = next(day for day in days if day.day >= 60)
    assert at_end <= 1.2 * at_30
    assert days[-1].files <= 3 * sixty.files
    assert days[-1].bytes <= 4 * days[-1].live
