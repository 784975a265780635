"""Refused rows as if they were repaired: typed as far as their texts can be read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from retailmart.engines.duckdb.sql import sql_type
from retailmart.engines.duckdb.tracing import KEY, TracingEngine
from retailmart.feeds.quarantine import Item, Quarantine
from retailmart.lake.layout import MONTH, ORIGIN, quarantine_table
from retailmart.ledger import Ledger
from retailmart.operations.verify.pin import Pinned
from retailmart.project.feed import Feed
from retailmart.tables import FILE_ID, TableState, quoted, text_literal

# So many refused rows of a feed are looked at: their texts are held in memory.
MOST: Final = 100_000
_TEXTS: Final = "texts of refused rows of"
_FILE: Final = "file of row"


@dataclass(frozen=True)
class AsIf:
    """The open refused rows of a feed; `query` gives them typed, by their numbers in KEY.

    `unreadable` counts those of which nobody can tell which month they belong to.
    """

    items: tuple[Item, ...]
    query: str
    amounts: Mapping[int, Any]
    unreadable: int


def open_items(
    engine: TracingEngine, ledger: Ledger, pinned: Pinned, feeds: Collection[str]
) -> dict[str, tuple[Item, ...]]:
    """The refused rows that need work, by feed: of each the first MOST."""
    found = {}
    for name in sorted(feeds):
        state = pinned.tables.get(quarantine_table(name))
        if state is None:
            continue
        refused = Quarantine(engine.relation(engine.define(state)), ledger)
        needing = (item for item in refused.items() if item.needs_work)
        if items := tuple(islice(needing, MOST)):
            found[name] = items
    return found


def as_if(
    engine: TracingEngine,
    feed: Feed,
    state: TableState,
    items: tuple[Item, ...],
    months: Collection[str] | None,
) -> AsIf:
    """A feed's refused rows as rows of raw. A value that can't be read is NULL."""
    names = [column.name for column in feed.columns]
    name = f"{_TEXTS} {feed.name}"
    engine.hold_texts(name, [_FILE, *names], [tuple(_texts(feed, item)) for item in items])
    kinds = {column.name: sql_type(column.type) for column in feed.columns}
    columns = [f"{quoted(KEY)}"]
    for field in state.fields:
        kind = sql_type(field.type)
        value = f"CAST(NULL AS {kind})"
        if field.name == FILE_ID:
            value = f"CAST({quoted(_FILE)} AS {kind})"
        elif field.name == MONTH and feed.month is not None:
            day = f"TRY_CAST({quoted(feed.month)} AS {kinds[feed.month]})"
            value = f"left(CAST({day} AS VARCHAR), 7)"
        elif field.name in kinds and field.name != ORIGIN:
            value = f"TRY_CAST({quoted(field.name)} AS {kind})"
        columns.append(f"{value} AS {quoted(field.name)}")
    query = f"SELECT {', '.join(columns)} FROM {quoted(name)}"
    unreadable = sum(item.row.cells is None for item in items)
    if feed.month is not None:
        lacking = f"SELECT count(*) FROM ({query}) WHERE {MONTH} IS NULL"
        unreadable = int(engine.rows(lacking)[0][0])
        if months is not None:
            listed = ", ".join(map(text_literal, sorted(months))) or "NULL"
            query = f"SELECT * FROM ({query}) WHERE {MONTH} IN ({listed})"
        else:
            query = f"SELECT * FROM ({query}) WHERE {MONTH} IS NOT NULL"
    amounts: dict[int, Any] = {}
    if feed.balance is not None:
        rows = engine.rows(f"SELECT {quoted(KEY)}, {quoted(feed.balance)} FROM ({query})")
        amounts = dict(rows)
    return AsIf(items, query, amounts, unreadable)


def _texts(feed: Feed, item: Item) -> Iterator[str | None]:
    cells = item.row.cells or {}
    from_path = dict(feed.from_path(item.file))
    yield str(item.origin[0] if item.origin else item.file_id)
    for column in feed.columns:
        text = from_path.get(column.name, cells.get(column.name, ""))
        plain = text.strip()
        yield None if not plain or plain in feed.nulls_of(column) else plain
