"""A project's tables as deltalake and sqlite3 read them: nothing here imports retailmart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

Tables = dict[str, list[str]]


def tables_of(project: Path) -> Tables:
    """Each table of the lake and of the published database: its rows as JSON lines, sorted."""
    found: Tables = {}
    lake = project / "lake"
    for log in sorted(lake.rglob("_delta_log")):
        table = DeltaTable(log.parent).to_pyarrow_table()
        found[log.parent.relative_to(lake).as_posix()] = _lines(table.to_pylist())
    with closing(sqlite3.connect(project / "retail.db")) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        names = [row["name"] for row in connection.execute(query)]
        for name in names:
            if not name.startswith(("retailmart_", "sqlite_")):
                rows = connection.execute(f'SELECT * FROM "{name}"')
                found[f"published {name}"] = _lines(map(dict, rows))
    return found


def _lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, default=str, sort_keys=True, ensure_ascii=False) for row in rows)
