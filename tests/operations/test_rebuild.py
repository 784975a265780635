"""Marts are built again from all rows, as a batch without files."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from retailmart.errors import SettingsError
from retailmart.operations import batch
from tests.support.digests import digests
from tests.support.shop import AS_OF, Called, Shop, sale


def fill(shop: Shop) -> dict[str, str]:
    """Two months of sales; what all tables hold then."""
    shop.sales("sales_a.csv", [sale(1), sale(2, day="2024-02-01")])
    shop.sales("sales_b.csv", [sale(3), sale(1, day="2024-02-02", price="0.05")])
    shop.run()
    return digests(shop)


def damage(shop: Shop, mart: str, column: str) -> None:
    """Another program writes other values into a mart's table, in as many rows."""
    path = shop.folder / "lake" / "marts" / mart
    table = DeltaTable(path).to_pyarrow_table()
    place = table.column_names.index(column)
    field = table.schema.field(place)
    nothing = Decimal(0) if pa.types.is_decimal(field.type) else 0
    by = DeltaTable(path).metadata().partition_columns
    damaged = table.set_column(place, field, pa.array([nothing] * table.num_rows, field.type))
    write_deltalake(path, damaged, mode="overwrite", partition_by=by)


@pytest.mark.parametrize("mart", ["customer_mart", "customer_monthly_purchase"])
def test_what_another_program_has_damaged_is_repaired(shop: Shop, mart: str) -> None:
    """Raw is right: the mart and its published table are as they were, to the digest."""
    before = fill(shop)
    damage(shop, mart, "customer_id")
    assert digests(shop) != before
    assert shop.run().nothing_to_do
    report = shop.open().rebuild([mart], AS_OF)
    assert digests(shop) == before
    assert report.batches[0].rebuilt == (mart,)
    assert [line.name for line in report.batches[0].marts] == [mart]
    assert report.files == ()
    assert shop.run().nothing_to_do


def test_marts_that_read_it_are_built_again(shop: Shop) -> None:
    """What was computed from wrong rows is computed again."""
    (shop.folder / "marts" / "best.sql").write_text(
        "-- refresh: full\nSELECT max(monthly_total) AS best FROM customer_monthly_purchase\n"
    )
    before = fill(shop)
    damage(shop, "customer_monthly_purchase", "monthly_total")
    shop.open().rebuild(["best"], AS_OF)
    assert shop.mart("best") == [(0,)]
    shop.open().rebuild(["customer_monthly_purchase"], AS_OF)
    assert digests(shop) == before


def test_all_are_built_again(shop: Shop, called: Called) -> None:
    """By one word, with the summary of a run; what was right stays as it was."""
    before = fill(shop)
    done = called(shop.folder, "rebuild", "--all", "--as-of", "2024-04-01")
    assert done.returncode == 0
    assert "rebuilt" in done.stderr
    assert "customer_mart, customer_monthly_purchase" in done.stderr
    assert digests(shop) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("customer_mrt",), "there is no mart 'customer_mrt'; did you mean 'customer_mart'?"),
        ((), "name marts, or give --all"),
        (("customer_mart", "--all"), "name marts, or give --all"),
    ],
)
def test_mistakes_are_told(
    shop: Shop, called: Called, words: tuple[str, ...], message: str
) -> None:
    """A mart that does not exist, or none at all, is a mistake in what was typed."""
    done = called(shop.folder, "rebuild", *words)
    assert done.returncode == SettingsError.exit_code
    assert message in done.stderr


@pytest.mark.parametrize("step", ["build", "publish"])
def test_the_next_run_finishes_what_was_cut_off(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever was done of it, a plain run ends it."""
    before = fill(shop)
    damage(shop, "customer_mart", "customer_id")

    def cut_off(*_: Any, **__: Any) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(batch, step, cut_off)
        with pytest.raises(OSError, match="cut off"):
            shop.open().rebuild(["customer_mart"], AS_OF)
    (report,) = shop.run().batches
    assert (report.recovered, report.rebuilt) == (True, ("customer_mart",))
    assert digests(shop) == before
