"""Everything that people and programs can read of a project's tables, and digests of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from retailmart.engines.duckdb import DuckDBEngine
from tests.support.shop import Shop


@dataclass(frozen=True)
class Seen:
    """A table's rows in whatever order. `files` are those that hold them; none in a database."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    files: tuple[str, ...] = ()

    def named(self) -> list[dict[str, Any]]:
        """The rows by the names of their columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def of(self, columns: Iterable[str]) -> list[tuple[Any, ...]]:
        """The rows with these columns only."""
        places = [self.columns.index(name) for name in columns]
        return [tuple(row[place] for place in places) for row in self.rows]


def lake_tables(shop: Shop, known: Mapping[str, Seen] | None = None) -> dict[str, Seen]:
    """Each table of the lake that has rows, by name; those still in `known` files aren't read."""
    lake = shop.open().lake
    found = {}
    with closing(DuckDBEngine([lake.place], shop.folder / ".retailmart", None, None)) as engine:
        for table in lake.place.tables():
            state = lake.state(table)
            if state is None or not state.files:
                continue
            files = tuple(sorted(file.path for file in state.files))
            seen = (known or {}).get(table)
            if seen is None or seen.files != files:
                columns = tuple(field.name for field in state.fields)
                listed = ", ".join(f'"{name}"' for name in columns)
                rows = engine.rows(f"SELECT {listed} FROM {engine.define(state)}")
                seen = Seen(columns, tuple(map(tuple, rows)), files)
            if seen.rows:
                found[table] = seen
    return found


def digests(shop: Shop, tables: Mapping[str, Seen] | None = None) -> dict[str, str]:
    """Of each table of the lake and each published table that has rows, by name."""
    tables = lake_tables(shop) if tables is None else tables
    found = {name: digest(seen.rows) for name, seen in tables.items()}
    with shop.open().ledger() as ledger:
        shown = [mart.published_as for mart in ledger.marts.all().values()]
    for name in filter(None, shown):
        if rows := shop.published(name):
            found[f"published {name}"] = digest(rows)
    return found


def digest(rows: Iterable[tuple[Any, ...]]) -> str:
    """Of rows in whatever order."""
    text = "\n".join(sorted(repr(row) for row in rows))
    return hashlib.sha256(text.encode()).hexdigest()
