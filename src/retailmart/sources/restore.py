"""Restore a table as the newest batch left it that stands after an undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from retailmart.lake import Lake
from retailmart.lake.layout import raw_table
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Table
from retailmart.sources.loaded import LoadedTable
from retailmart.tables import TableChange


def restored_table(
    lake: Lake,
    table: Table,
    record: SourceRecord,
    undo: int,
    stood: Mapping[int, int],
    record_of: Callable[[int], SourceRecord | None],
    tell: Callable[[str], None] = lambda message: None,
) -> LoadedTable | None:
    """A table for an undo's batch: as left by the newest batch that stands after the undo.

    Its source is not asked: changes there come with the next run. `stood` gives that newest batch
    for each undo, `record_of` gives what the ledger knew of the table by a batch.
    None if the lake does not have the table as it is defined now. `tell` is called if the version
    to go back to is gone.
    """
    name = raw_table(table.name)
    before = lake.state(name)
    if before is None or record.definition != table.definition:
        return None
    as_it_is = LoadedTable(table, record, before, before)
    commits = lake.batches(name)
    versions = standing_versions(commits, stood)
    standing = [one for one in versions if one[1] <= stood[undo]]
    if not standing and commits[0][0] > 0:  # somebody has cleaned up its log
        tell(_gone(name, "the version"))
    if not standing or standing == versions:
        return as_it_is
    version, batch_id = standing[-1]
    old, known = lake.state(name, version), record_of(batch_id)
    if known is None or known.definition != table.definition:
        return as_it_is
    if old is None or not lake.has_files(name, old):
        tell(_gone(name, f"version {version}"))
        return as_it_is
    if old.partition_by != before.partition_by:
        return as_it_is
    # With other columns, all files are added again: Delta's log accepts them in no other way.
    kept = {file.path for file in old.files if old.fields == before.fields}
    kept &= {file.path for file in before.files}
    adds = tuple(file for file in old.files if file.path not in kept)
    removes = tuple(file.path for file in before.files if file.path not in kept)
    change = TableChange(name, old.fields, old.partition_by, adds, removes)
    return LoadedTable(table, known, before, old, change, everything=True)


def _gone(name: str, version: str) -> str:
    return (
        f"{name} stays as it is: {version} to which the undo would go back has left the lake; the"
        " next run reads the table as its source has it"
    )


def standing_versions(
    commits: Iterable[tuple[int, int | None]], stood: Mapping[int, int]
) -> list[tuple[int, int]]:
    """The versions of a table and the batches that made them, without what undos removed.

    `stood` gives for each undo's batch the newest batch that remained after it.
    """
    versions: list[tuple[int, int]] = []
    for version, batch_id in commits:
        if batch_id is None:  # the same rows in other files
            versions[-1:] = [(version, of_batch) for _, of_batch in versions[-1:]]
        elif batch_id in stood:
            versions = [one for one in versions if one[1] <= stood[batch_id]]
        else:
            versions.append((version, batch_id))
    return versions
