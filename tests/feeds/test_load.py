"""Load: every record of a file is accounted for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
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


def test_the_month_of_a_moment_is_that_of_its_day_in_utc(shop: Shop) -> None:
    """A feed whose senders deliver no date alone has months, from its first file or later."""
    feed = (
        'files: ["visits*.csv"]\ncolumns:\n'
        "  at: {type: TIMESTAMP, mandatory: true}\n"
        '  paid: {type: "DECIMAL(9,2)", mandatory: true}\n'
    )
    path = shop.folder / "feeds" / "visits.yml"
    path.write_text(feed)
    shop.drop("visits_1.csv", "at,paid\n2024-02-01T00:30:00+02:00,1.50\n2024-02-01 00:00:00,2.00\n")
    shop.run()
    path.write_text(f"{feed}month: at\n")
    shop.drop(
        "visits_2.csv", "at,paid\n2024-02-29T23:30:00-05:00,4.00\n2024-03-01T00:00:00Z,8.00\n"
    )
    shop.run()
    assert [(row[1], row[-1]) for row in shop.rows_of("raw/visits")] == [
        (Decimal("1.50"), "2024-01"),
        (Decimal("2.00"), "2024-02"),
        (Decimal("8.00"), "2024-03"),
        (Decimal("4.00"), "2024-03"),
    ]
