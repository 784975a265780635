"""A digest of everything that people and programs can read of a project's tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from retailmart.engines.duckdb import DuckDBEngine
from tests.support.shop import Shop


def digests(shop: Shop) -> dict[str, str]:
    """Of each table of the lake and each published table that has rows, by name."""
    opened = shop.open()
    lake = opened.lake
    found = {}
    with closing(DuckDBEngine([lake.place], shop.folder / ".retailmart", None, None)) as engine:
        for table in lake.place.tables():
            state = lake.state(table)
            if state is None or not state.files:
                continue
            if rows := engine.rows(f"SELECT * FROM {engine.define(state)}"):
                found[table] = digest(rows)
    with opened.ledger() as ledger:
        shown = [mart.published_as for mart in ledger.marts.all().values()]
    for name in filter(None, shown):
        if rows := shop.published(name):
            found[f"published {name}"] = digest(rows)
    return found


def digest(rows: Iterable[tuple[Any, ...]]) -> str:
    """Of rows in whatever order."""
    text = "\n".join(sorted(repr(row) for row in rows))
    return hashlib.sha256(text.encode()).hexdigest()
