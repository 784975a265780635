"""Deliveries: a batch of an earlier run is read from what was staged, and from nothing else."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from retailmart.operations import batch
from tests.support.shop import Shop, sale


@pytest.fixture
def marts() -> Collection[str]:
    """One mart, so that runs are short."""
    return ("customer_mart",)


def test_a_staged_copy_that_a_power_cut_has_torn_is_not_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are not synced: what is left of one is compared with what was staged."""
    shop.sales("sales_a.csv", [sale(), sale(2), sale(3)])

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch, "load", cut_off)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    (copy,) = (shop.folder / ".retailmart" / "scratch").glob("*.csv")
    content = copy.read_bytes()
    copy.write_bytes(content[: content.rindex(b"3,1,tea")])
    (recovered,) = shop.run().batches
    assert recovered.recovered
    assert shop.mart("customer_mart", "customer_id") == [(1,), (2,), (3,)]
