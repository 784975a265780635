"""Refused rows that would be in a number if they counted, and what the number would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retailmart.engines.duckdb.tracing import KEY
from retailmart.errors import RetailmartError
from retailmart.feeds.quarantine import Item
from retailmart.marts.tracing import Traced, Untraceable
from retailmart.operations.as_repaired import MOST, as_repaired, held
from retailmart.operations.explain.adding import less, same, summed, together
from retailmart.operations.explain.asked import Asked
from retailmart.operations.explain.trace import Tracing, as_if_numbers, condition
from retailmart.operations.explain.values import RefusedCell
from retailmart.tables import quoted

_LISTED = 200


@dataclass(frozen=True)
class Missing:
    """Refused rows that would count, what the number would be, and how many can't be read."""

    cells: tuple[RefusedCell, ...] = ()
    repaired: Any = None
    unreadable: int = 0


def missing_rows(
    tracing: Tracing,
    asked: Asked,
    chosen: Mapping[str, Any],
    query: Traced,
    items: Mapping[str, tuple[Item, ...]],
    number: Any,
    limits: list[str],
) -> Missing:
    """The refused rows that would be in the chosen rows; what is not known is added to `limits`."""
    if not items:
        return Missing()
    mart, month = asked.mart, asked.mart.month
    is_of_month = month is not None and tracing.is_monthly(mart)
    months = [str(chosen[month])] if is_of_month and month and chosen.get(month) else None
    shown: dict[str, str] = {}
    numbered: list[tuple[str, Item, Any]] = []
    unreadable = 0
    for name, of_feed in items.items():
        if len(of_feed) == MOST:
            limits.append(f"of {name}'s refused rows the first {MOST:,} were looked at")
        fields = tracing.work.inputs.raw(name)[1].fields
        feed = held(tracing.project.feeds[name], tracing.pinned)
        found = as_repaired(tracing.engine, feed, fields, of_feed, months)
        start = len(numbered)
        numbered += [(name, one, found.amounts.get(n)) for n, one in enumerate(of_feed)]
        key = quoted(KEY)
        shown[name] = f"SELECT * REPLACE ({key} + {start} AS {key}) FROM ({found.query})"
        unreadable += found.unreadable
    try:
        made = tracing.would_count(mart, months, query, shown, condition(chosen, asked.kinds))
    except (Untraceable, RetailmartError) as why:
        limits.append(f"whether refused rows would count is not known: {why}")
        return Missing(unreadable=unreadable)
    amounts = {
        number: amount
        for one in made
        for keys, amount in one.addends
        for number in as_if_numbers(keys)
    }
    numbers = {n for one in made for n in as_if_numbers(one.keys)}
    repaired = together(query.column, [one.values for one in made]) if numbers else None
    if query.adds != "sum" or not same(summed(list(amounts.values())), less(repaired, number)):
        amounts = {}  # some add nothing of their own
    cells = [
        RefusedCell(
            feed,
            item.file,
            item.line,
            item.row.column,
            item.row.rule,
            item.row.message,
            item.row.raw,
            amounts.get(place, balanced),
        )
        for place, (feed, item, balanced) in enumerate(numbered)
        if place in numbers
    ]
    if len(cells) > _LISTED:
        limits.append(f"{len(cells):,} refused rows would count; the first {_LISTED} are listed")
    return Missing(tuple(cells[:_LISTED]), repaired, unreadable)
