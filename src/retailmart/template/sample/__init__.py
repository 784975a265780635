"""An invented retailer: tills, a webshop and two markets, with the oddities of real data.

Each module describes its data. The output is the same, byte for byte, at each call.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retailmart.template.sample import markets, till, webshop
from retailmart.template.stories import STORIES, stories_named


def write_sample(folder: Path, stories: Iterable[str] = tuple(STORIES)) -> None:
    """Write `shop.db` and `landing/*` of the sample's stories into a project folder.

    Files of these names are replaced, others stay. A story that has no tables needs no `shop.db`.
    OSError if the folder cannot be written, SettingsError for an unknown story.
    """
    schema = ""
    tables: dict[str, Sequence[tuple[Any, ...]]] = {}
    files: dict[str, bytes] = {}
    for story in stories_named(stories):
        made = _MAKERS[story.name]()
        schema += made.schema
        tables |= made.tables
        files |= made.files
    if tables:
        (folder / "shop.db").write_bytes(_database(schema, tables))
    for name, content in files.items():
        path = folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@dataclass(frozen=True)
class _Made:
    """A story's part of the sample: its tables in SQL and their rows, and its files."""

    schema: str = ""
    tables: Mapping[str, Sequence[tuple[Any, ...]]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


# A separate generator for each: a story is the same with and without the others.


def _tills() -> _Made:
    tables, files = till.make(random.Random(2024))  # noqa: S311 a sample is random, not secret
    return _Made(till.SCHEMA, tables, files)


def _webshop() -> _Made:
    return _Made(webshop.SCHEMA, webshop.make(random.Random(2025)))  # noqa: S311


def _markets() -> _Made:
    return _Made(files=markets.make(random.Random(2026)))  # noqa: S311


_MAKERS: Mapping[str, Callable[[], _Made]] = {
    "tills": _tills,
    "webshop": _webshop,
    "markets": _markets,
}


def _database(schema: str, tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> bytes:
    """The shop's SQLite database; built in memory, so that its bytes do not depend on the disk."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        for table, rows in tables.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        connection.commit()
        return connection.serialize()
