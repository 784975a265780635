"""A source's table of items, and the lake it is brought to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from retailmart.database import open_database
from retailmart.engines import Engine, Relation
from retailmart.lake import Lake
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Reading, Table
from retailmart.sources.databases import Sources
from retailmart.sources.detect import probe
from retailmart.sources.load import load_table
from retailmart.sources.loaded import LoadedTable

# Each example stands in a real database; the table is emptied by the test itself.
patiently = partial(
    settings,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DAY = date(2024, 1, 1)
WHOLE = Table("item", "item", key=("item_id",))
BY_CURSOR = replace(WHOLE, reading=Reading.INCREMENTAL, cursor="changed")


@dataclass
class Items:
    """A source's table `item`, and the lake it is brought to."""

    url: str
    execute: Callable[..., object]
    query: Callable[[str], list[tuple[Any, ...]]]
    engine: Engine
    lake: Lake
    table: Table = WHOLE
    record: SourceRecord | None = None
    batches: Iterator[int] = field(default_factory=lambda: count(1))
    relations: dict[str, Relation] = field(default_factory=dict)

    def load(self, day: date = DAY, *, kept: bool = True) -> LoadedTable:
        """One batch. Without `kept`, nobody hears of it, as after a crash."""
        sources = Sources(("shop",), lambda _: open_database(self.url, Path(), must_exist=True))
        try:
            found = probe(sources, "shop", self.table, self.record)
            whole = partial(probe, sources, "shop", self.table, None)
            batch_id = next(self.batches)
            loaded = load_table(self.engine, self.lake, found, whole, day, batch_id)
        finally:
            sources.close()
        if kept:
            if loaded.change:
                self.lake.commit(loaded.change, batch_id)
            self.record = loaded.record
            self.relations = loaded.relations(self.engine)
        return loaded

    def seen(self) -> list[tuple[Any, ...]]:
        """What marts see."""
        item = self.relations["item"]
        rows = self.engine.rows(
            f"SELECT item_id, name, price, changed FROM {item} ORDER BY item_id"
        )
        return [(key, name, float(price), at) for key, name, price, at in rows]

    def there(self) -> list[tuple[Any, ...]]:
        """What the source has."""
        rows = self.query("SELECT item_id, name, price, changed FROM item ORDER BY item_id")
        return [(key, name, float(price), at) for key, name, price, at in rows]

    def versions(self) -> list[tuple[Any, ...]]:
        """The versions of all items."""
        return self.engine.rows(
            "SELECT item_id, name, _valid_from, _valid_to"
            f" FROM {self.relations['item_history']} ORDER BY ALL"
        )

    def fill(self, rows: int) -> None:
        """Items 1 to `rows`, changed at 1 to `rows`."""
        values = ", ".join(f"({n}, 'item {n}', {n}.50, {n})" for n in range(1, rows + 1))
        self.execute(f"INSERT INTO item VALUES {values}")
