"""An invented retailer: tills, a webshop and two markets, with the oddities of real data.

Each module describes its data. The output is the same, byte for byte, at each call.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from retailmart.template.sample import markets, till, webshop


def write_sample(folder: Path) -> None:
    """Write `shop.db` and `landing/*` of the sample into a project folder.

    Files of these names are replaced, others stay. OSError if the folder cannot be written.
    """
    # A separate generator for each: a change to one part leaves the others as they are.
    tables, files = till.make(random.Random(2024))  # noqa: S311 a sample is random, not secret
    tables |= webshop.make(random.Random(2025))  # noqa: S311
    files |= markets.make(random.Random(2026))  # noqa: S311
    (folder / "shop.db").write_bytes(_database(tables))
    for name, content in files.items():
        path = folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _database(tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> bytes:
    """The shop's SQLite database; built in memory, so that its bytes do not depend on the disk."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(till.SCHEMA + webshop.SCHEMA)
        for table, rows in tables.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        connection.commit()
        return connection.serialize()
