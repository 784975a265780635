"""What counts, as the rules decide it, without any file or ledger."""

from __future__ import annotations

from itertools import count

import pytest

from retailmart.feeds.standings import Content, Decision, Standings, live_through
from retailmart.ledger.values import FileState, LedgerFile


def history(*batches: str) -> list[LedgerFile]:
    """Files of batches such as `a=X b=Y`: a path, and the content delivered under it."""
    keys = count(1)
    return [
        LedgerFile(
            *(next(keys), batch, path, content, 1, "", FileState.LOADED, "sales", None, None, None)
        )
        for batch, text in enumerate(batches, 1)
        for path, _, content in (word.partition("=") for word in text.split())
    ]


@pytest.mark.parametrize(
    ("batches", "counted"),
    [
        (("a=X", "a=Y"), {2}),
        (("a=X", "b=X", "a=Y"), {1, 3}),
        (("a=X", "b=X", "a=Y", "b=Y"), {3}),
        (("a=X", "a=Y", "a=X"), {3}),
        (("a=X b=Y", "a=Y b=X"), {1, 2}),
        (("a=X b=Y", "a=Y c=X"), {1, 2}),
        (("a=X b=X", "b=Z"), {1, 3}),
        (("a=X", "a=Y", "c=X"), {2, 3}),
    ],
)
def test_a_name_stands_for_its_newest_content(batches: tuple[str, ...], counted: set[int]) -> None:
    """A content counts once, through its first delivery, as long as any name stands for it."""
    assert live_through({}, history(*batches))[1] == counted


def test_a_content_counts_once_in_its_feed() -> None:
    """The same bytes in two feeds are two deliveries, and in two folders that tell a column."""
    decided = Standings().decide(
        {
            "a": Content("sales", "X"),
            "b": Content("orders", "X"),
            "m1/c": Content("orders", "X", (("market", "m1"),)),
            "d": Content("sales", "X"),
        }
    )
    assert decided == {"a": Decision(), "b": Decision(), "m1/c": Decision(), "d": Decision("a")}
