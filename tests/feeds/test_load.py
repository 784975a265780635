"""Load: every record of a file is accounted for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from retailmart.errors import GateFailed
from retailmart.feeds import load
from retailmart.feeds.load_part import LoadedPart
from tests.support.shop import Shop, sale


@pytest.fixture
def marts() -> Collection[str]:
    """One mart, so that runs are short."""
    return ("customer_mart",)


@pytest.mark.parametrize("lost", ["quarantined", "sums"])
def test_records_that_do_not_add_up_stop_the_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A refused or an accepted row that is nowhere is an error, and the file stays in landing."""
    spread = load._Loader._spread

    def losing(self: load._Loader, *given: Any) -> list[LoadedPart]:
        return [
            replace(part, **{lost: type(getattr(part, lost))()}) for part in spread(self, *given)
        ]

    shop.sales("sales_a.csv", [sale(), sale(2, day="x")])
    with monkeypatch.context() as patch:
        patch.setattr(load._Loader, "_spread", losing)
        with pytest.raises(GateFailed, match=r"sales_a\.csv: 2 records, but"):
            shop.run()
    assert shop.backend.landed() == ["sales_a.csv"]
    report = shop.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (1, 1)
