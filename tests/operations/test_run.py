"""A run: what breaks off in the middle is continued by the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Connection

from retailmart.errors import RetailmartError, Unavailable
from retailmart.ledger.access import Access
from retailmart.ledger.batches import Batches
from retailmart.operations import run
from tests.support.shop import Shop, sale


def lose_reply(monkeypatch: pytest.MonkeyPatch, moment: str) -> list[str]:
    """Let the ledger's first transaction of a kind succeed, and its reply be lost.

    Returns a list that has the moment once that has happened.
    """
    transaction = Access.transaction
    inner: Callable[..., Any] = getattr(Batches, moment)
    at_work: list[str] = []
    lost: list[str] = []

    def called(*given: Any, **named: Any) -> Any:
        at_work.append(moment)
        return inner(*given, **named)

    @contextmanager
    def unheard(self: Access) -> Iterator[Connection]:
        with transaction(self) as connection:
            yield connection
        if at_work and not lost:
            lost.append(moment)
            raise Unavailable("the reply was lost")

    monkeypatch.setattr(Batches, moment, called)
    monkeypatch.setattr(Access, "transaction", unheard)
    monkeypatch.setattr(run, "_PAUSES", (0.0,))
    return lost


@pytest.mark.parametrize(
    "moment", ["stage", "prepare", "mark_committed", "mark_published", "mark_done"]
)
def test_a_lost_reply_to_a_commit_is_neither_a_failure_nor_a_second_count(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whether the ledger has it is unknown: the run looks, and goes on from there."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    shop.sales("sales_b.csv", [sale()])
    with monkeypatch.context() as patch:
        lost = lose_reply(patch, moment)
        shop.run()
        assert lost == [moment]
    assert shop.run().nothing_to_do
    assert shop.mart("customer_mart", "customer_id") == [(1,), (1,), (2,)]
    columns = "customer_id, monthly_total"
    assert shop.published("customer_monthly_purchase", columns) == [(1, 20), (2, 10)]
    assert shop.backend.landed() == []


def test_a_decided_batch_is_finished_whatever_a_mart_says_since(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in a mart stops what is new, and nothing that can only be finished."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    shop.sales("sales_a.csv", [sale()])
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "mark_committed", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    mart = shop.folder / "marts" / "customer_mart.sql"
    mart.write_text(mart.read_text().replace("c.pincode", "c.pin_code"))
    with suppress(RetailmartError):
        shop.run()
    columns = "customer_id, monthly_total"
    assert shop.published("customer_monthly_purchase", columns) == [(1, 10)]
    assert shop.backend.landed() == []
