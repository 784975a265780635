"""Orphaned files: what attempts at a batch wrote and no commit holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from retailmart.lake import Lake
from retailmart.tables import TableChange


def sweep(lake: Lake, batch_id: int) -> None:
    """Remove what attempts at a batch wrote and no commit holds."""
    for table in lake.place.tables():
        for path in lake.orphaned_files(table, batch_id):
            lake.place.discard(table, path)


def sweep_others(lake: Lake, decided: Mapping[int, int | None]) -> None:
    """Remove files of attempts other than the deciding one (batch → fencing token).

    They are of runs that were stopped, outlived their batch and woke again.
    """
    for table in lake.place.tables():
        for path in lake.orphaned_by_others(table, decided):
            lake.place.discard(table, path)
    lake.place.exports.sweep(lake.fence)


def sweep_merges(lake: Lake) -> None:
    """Remove what maintenance that was cut off wrote and no commit ever named."""
    for table in lake.place.tables():
        for path in lake.orphaned_merges(table):
            lake.place.discard(table, path)


def discard(lake: Lake, changes: Iterable[TableChange]) -> None:
    """Remove the files of changes that were never decided."""
    for change in changes:
        for file in change.adds:
            lake.place.discard(change.table, file.path)
