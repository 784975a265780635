"""Refused rows as if they were repaired: typed as their feed reads cells, as far as that goes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from retailmart.engines import Relation
from retailmart.engines.duckdb.sql import sql_type
from retailmart.engines.duckdb.tracing import KEY, TracingEngine
from retailmart.feeds.evolve import effective
from retailmart.feeds.quarantine import Item, Quarantine
from retailmart.feeds.rows import RowSql
from retailmart.files.checked import Layout
from retailmart.lake.layout import FURTHER, MONTH, ORIGIN, quarantine_table, raw_table
from retailmart.ledger import Ledger
from retailmart.operations.verify.pin import Pinned
from retailmart.project.feed import Feed
from retailmart.tables import FILE_ID, Field, quoted, text_literal

# So many refused rows of a feed are looked at: their texts are held in memory.
MOST: Final = 100_000
_TEXTS: Final = "texts of refused rows of"
_FILE: Final = "file of row"


@dataclass(frozen=True)
class AsRepaired:
    """The open refused rows of a feed; `query` gives them typed, by their numbers in KEY.

    `amounts` are those of the column that the feed is balanced by; None is one that can't be read.
    `unreadable` counts the rows of which nobody can tell which month they belong to.
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


def held(feed: Feed, pinned: Pinned) -> Feed:
    """A feed with all columns that its raw table holds; as it is while there is none."""
    state = pinned.tables.get(raw_table(feed.name))
    return effective(feed, state.fields if state else None, pinned.columns[feed.name])


def as_repaired(
    engine: TracingEngine,
    feed: Feed,
    fields: Sequence[Field],
    items: tuple[Item, ...],
    months: Collection[str] | None,
) -> AsRepaired:
    """A feed's refused rows as rows of raw, of some months or all. What can't be read is NULL.

    `fields` are raw's columns.
    """
    # They are read as a repaired sheet is: it has the same texts.
    layout = Layout((*(column.name for column in feed.columns), FURTHER, ORIGIN), is_replay=True)
    name = f"{_TEXTS} {feed.name}"
    cells = [f"c{n}" for n in range(len(layout.columns))]
    engine.hold_texts(name, [_FILE, *cells], [tuple(_texts(feed, item)) for item in items])
    typed = RowSql(feed, has_table=True).typed(Relation(name), layout)
    known = {column.name for column in feed.columns}
    columns = [quoted(KEY)]
    for field in fields:
        kind = sql_type(field.type)
        value = "NULL"
        if field.name == FILE_ID:
            value = quoted(_FILE)
        elif field.name == MONTH and feed.month is not None:
            value = f"left(CAST({quoted(feed.month)} AS VARCHAR), 7)"
        elif field.name in known:
            value = quoted(field.name)
        columns.append(f"CAST({value} AS {kind}) AS {quoted(field.name)}")
    query = f"SELECT {', '.join(columns)} FROM {typed}"
    amounts: dict[int, Any] = {}
    if feed.balance is not None:
        rows = engine.rows(f"SELECT {quoted(KEY)}, {quoted(feed.balance)} FROM ({query})")
        amounts = dict(rows)
    unreadable = sum(item.row.cells is None for item in items)
    if feed.month is not None:
        lacking = f"SELECT count(*) FROM ({query}) WHERE {MONTH} IS NULL"
        unreadable = int(engine.rows(lacking)[0][0])
        if months is not None:
            listed = ", ".join(map(text_literal, sorted(months))) or "NULL"
            query = f"SELECT * FROM ({query}) WHERE {MONTH} IN ({listed})"
        else:
            query = f"SELECT * FROM ({query}) WHERE {MONTH} IS NOT NULL"
    return AsRepaired(items, query, amounts, unreadable)


def _texts(feed: Feed, item: Item) -> Iterator[str | None]:
    cells = item.row.cells or {}
    from_path = dict(feed.from_path(item.file))
    yield str(item.origin[0] if item.origin else item.file_id)
    for column in feed.columns:
        absent = "" if item.row.cells is None else column.default or ""
        yield from_path.get(column.name, cells.get(column.name, absent))
    yield ""
    yield None
