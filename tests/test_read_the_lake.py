"""What docs/read-the-lake.md says about reading tables from outside."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
from deltalake import DeltaTable

from tests.support.pages import blocks
from tests.support.services.s3 import S3Server
from tests.support.shop import Shop, all_marts, keep_only, sale

_PAGE = "docs/read-the-lake.md"
_MARTS = ["sales_mart", "customer_monthly_purchase"]


def total(folder: Path) -> Decimal:
    """What plain Parquet readers make of a folder."""
    return sum(pd.read_parquet(folder)["total_cost"], Decimal(0))


@all_marts
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_snippets_of_the_page_run(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block that is marked as tried reads what a run has written."""
    keep_only(shop.folder, feeds=["sales"], marts=_MARTS)
    shop.sales("sales_1.csv", [sale(), sale(day="2024-03-01", price="20.50"), sale(price="x")])
    shop.run()
    monkeypatch.chdir(shop.folder)
    found: dict[str, dict[str, object]] = {}
    here = [code for code in blocks(_PAGE, "python") if "s3://" not in code]
    for number, code in enumerate(here):
        found[str(number)] = {}
        exec(compile(code, f"{_PAGE}, block {number}", "exec"), found[str(number)])
    frames = [value for names in found.values() for value in names.values()]
    lengths = [len(frame) for frame in frames if isinstance(frame, pd.DataFrame)]
    assert sorted(lengths) == [1, 2, 2, 2, 2]


@all_marts
def test_a_table_read_as_plain_parquet_counts_dead_versions(shop: Shop) -> None:
    """The page warns of it; the Delta table and the export have the money once."""
    keep_only(shop.folder, feeds=["sales"], marts=_MARTS)
    for price in ("10.00", "10.01", "10.02"):
        shop.sales("sales_1.csv", [sale(price=price)])
        shop.run()
    mart = shop.folder / "lake" / "marts" / "sales_mart"
    assert DeltaTable(mart).to_pandas()["total_cost"].sum() == Decimal("10.02")
    assert total(shop.folder / "lake" / "business_insights" / "2024-04-01" / "sales_mart") == (
        Decimal("10.02")
    )
    files = [pd.read_parquet(path) for path in mart.rglob("*.parquet")]
    assert sum(frame["total_cost"].sum() for frame in files) == Decimal("30.03")


@all_marts
def test_a_table_in_a_bucket_is_read_with_the_options_of_the_page(
    shop: Shop, s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block for S3 runs with another bucket and the store's endpoint."""
    keep_only(shop.folder, feeds=["sales"], marts=_MARTS)
    bucket = s3.bucket()
    settings = shop.folder / "retailmart.yml"
    place = f"lake: s3://{bucket}/lake\ns3: {{endpoint: '{s3.endpoint}'}}"
    settings.write_text(settings.read_text().replace("lake: lake", place))
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    shop.sales("sales_1.csv", [sale(price="20.50")])
    shop.run()
    (code,) = (code for code in blocks(_PAGE, "python") if "s3://" in code)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    exec(compile(code.replace("our-retail", bucket), _PAGE, "exec"), {})
    assert "20.50" in capsys.readouterr().out
