"""Reads a file's rows, bounds and NULLs from its Parquet footer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Statistic

# Decimals and strings have no bounds: a slightly wrong bound would hide rows from readers.
_BOUNDED = ("INT", "BIGINT", "DATE")


def described(
    metadata: Any,
    path: str,
    size: int,
    partition: Mapping[str, str | None],
    kinds: Mapping[str, ColumnType],
) -> DataFile:
    """A file of `size` bytes as the lake sees it; `kinds` maps columns to types."""
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            found, name = column.statistics, column.path_in_schema
            if found is None:
                continue
            nulls[name] = nulls.get(name, 0) + found.null_count
            kind = kinds.get(name)
            if found.has_min_max and kind and kind.name in _BOUNDED:
                lowest[name] = min(found.min, lowest.get(name, found.min))
                highest[name] = max(found.max, highest.get(name, found.max))
    return DataFile(
        path=path,
        size=size,
        rows=metadata.num_rows,
        partition=partition,
        minimum=_plain(lowest),
        maximum=_plain(highest),
        nulls=nulls,
    )


def _plain(bounds: Mapping[str, Any]) -> dict[str, Statistic]:
    return {k: v.isoformat() if isinstance(v, date) else v for k, v in bounds.items()}
