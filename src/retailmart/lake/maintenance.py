"""What keeps a table small and quick to open: what to merge, what is dead, what its log needs.

Nothing here changes rows. What is decided here is a list; `operations/maintain.py` acts on it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from retailmart.lake import Lake
from retailmart.lake.places import Stored
from retailmart.tables import DataFile, TableState

# A file of this size is read at full speed: merging it would cost more than it gains.
_LARGE: Final = 64 << 20
# So much is merged into one file at most: some writers hold a partition in memory.
_MOST: Final = 256 << 20
# Measured on two cores: a file costs each later run 0.24 ms, and to merge a megabyte costs 0.2 s.
# So in a month that grows only tiny files are worth it; all others wait for its end.
_TINY: Final = 256 << 10
# How many files of a size come together in the month that grows, and in one that has ended.
_WHILE_IT_GROWS: Final = 8
_ONCE_IT_ENDED: Final = 2
# A file joins smaller ones if it is at most so many times as large as they are together. So a row
# is written again about log2(days) times while its month grows, and then once more.
_GROWING_RATIO: Final = 1
_ENDED_RATIO: Final = 8
# Files of days differ by this much without one being of another size.
_ALIKE: Final = 4
_MONTH: Final = re.compile(r"\d{4}-\d\d")
_LOG: Final = "_delta_log/"
_ENTRY: Final = re.compile(r"_delta_log/(\d{20})\.(json|crc|checkpoint(\.[0-9.]+)?\.parquet)")
_COMPACTED: Final = re.compile(r"_delta_log/\d{20}\.(\d{20})\.compacted\.json")
# A table is opened from its last checkpoint on, but the store lists all that its log has.
_LOG_KEPT: Final = 200
# So many commits after the last checkpoint, another one is worth its writing.
_CHECKPOINT_AFTER: Final = 10


@dataclass(frozen=True)
class Merge:
    """Files of one partition of a table, to be written as one; `partition` are its values."""

    partition: tuple[str | None, ...]
    files: tuple[DataFile, ...]

    @property
    def size(self) -> int:
        """The bytes that are read, and about as many are written."""
        return sum(file.size for file in self.files)

    @property
    def gain(self) -> float:
        """How many files fewer there are for each byte written."""
        return (len(self.files) - 1) / max(1, self.size)


def merges(state: TableState) -> list[Merge]:
    """What to merge in a table; empty if it is as it should be.

    Only within a partition: two partitions never share a file. Tables that are partitioned in
    another way than by month are written whole by each batch, or know base and delta files: there
    is nothing to merge.
    """
    groups: dict[tuple[str | None, ...], list[DataFile]] = {}
    for file in state.files:
        key = tuple(file.partition.get(name) for name in state.partition_by)
        groups.setdefault(key, []).append(file)
    if state.partition_by and not all(_MONTH.fullmatch(key[0] or "") for key in groups):
        return []
    newest = max((key[0] or "" for key in groups if key), default="")
    found = []
    for key, files in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        ended = bool(key) and (key[0] or "") < newest
        if chosen := _chosen(files, ended=ended):
            found.append(Merge(key, chosen))
    return found


def _chosen(files: Sequence[DataFile], *, ended: bool) -> tuple[DataFile, ...]:
    """The small files to merge, smallest first: none that is much larger than all before it.

    What was merged is so left alone until as much has come again.
    """
    ratio = _ENDED_RATIO if ended else _GROWING_RATIO
    fewest = _ONCE_IT_ENDED if ended else _WHILE_IT_GROWS
    largest = _LARGE if ended else _TINY
    small = sorted((file for file in files if file.size < largest), key=lambda f: (f.size, f.path))
    chosen: list[DataFile] = []
    total = 0
    for file in small:
        is_alike = file.size <= _ALIKE * small[0].size
        if total >= _MOST or (file.size > ratio * total and not is_alike):
            break
        chosen.append(file)
        total += file.size
    return tuple(chosen) if len(chosen) >= fewest else ()


def are_worth_a_commit(found: Iterable[Merge]) -> bool:
    """Whether a run that changed the table had better merge at once than leave it to later ones.

    Late sales bring a small file to each of some months; a commit for each would be worth less than
    it costs.
    """
    return sum(len(merge.files) - 1 for merge in found) >= _WHILE_IT_GROWS - 1


def only_some(found: Iterable[Merge], most: float) -> list[Merge]:
    """The merges that gain most for their bytes, of at most so many bytes together.

    Of one that is too large the smallest files are merged, if they are several.
    """
    taken, total = [], 0.0
    for merge in sorted(found, key=lambda one: -one.gain):
        fits: list[DataFile] = []
        for file in merge.files:  # from small to large
            if total + file.size > most:
                break
            fits.append(file)
            total += file.size
        if len(fits) == len(merge.files) or len(fits) >= _WHILE_IT_GROWS:
            taken.append(Merge(merge.partition, tuple(fits)))
        else:
            total -= sum(file.size for file in fits)
    return taken


def by_month(found: Iterable[Merge]) -> Mapping[str | None, tuple[DataFile, ...]]:
    """The files to merge by their month; by None for a table without partitions."""
    months: dict[str | None, list[DataFile]] = {}
    for merge in found:
        months.setdefault(merge.partition[0] if merge.partition else None, []).extend(merge.files)
    return {month: tuple(files) for month, files in months.items()}


def dead_files(
    lake: Lake,
    table: str,
    hours: float,
    kept: Iterable[TableState],
    stored: Iterable[Stored],
    *,
    logged: bool = False,
) -> list[Stored]:
    """The data files that no version within the last `hours` needs, and no version of `kept`.

    With `logged` only those of which the log still says that they left the table.
    """
    needed = {file.path for state in kept for file in state.files}
    there = {one.path: one for one in stored}
    dead: dict[str, Stored] = {}
    for path in lake.dead_files(table, hours, logged=logged):
        name = path if path in there else unquote(path)  # the log escapes what stores do not
        if name in there and name not in needed and not name.startswith(_LOG):
            dead[name] = there[name]
    return list(dead.values())


def wants_checkpoint(version: int, stored: Iterable[Stored]) -> bool:
    """Whether a table at `version` is better opened from a new checkpoint."""
    return version - max(_checkpoints(stored), default=-1) > _CHECKPOINT_AFTER


def old_log(
    version: int,
    stored: Sequence[Stored],
    before: float,
    needed: int,
    checkpoints: Collection[int] = (),
) -> tuple[int, list[Stored]]:
    """The checkpoint that a log can begin with, and the entries before it, oldest first.

    `version` is the table's, `needed` the oldest one that something relies on, `before` the time
    from which all versions stay, in seconds since 1970; of many, the last few hundred.
    `checkpoints` are at versions that are about to get one.
    """
    entries = [(one, _ENTRY.fullmatch(one.path)) for one in stored]
    written = {int(match[1]): one for one, match in entries if match and match[2] == "json"}
    first = -1
    for at in (*_checkpoints(stored), *checkpoints):
        aged = at in written and written[at].modified <= before
        if at <= needed and (aged or at <= version - _LOG_KEPT):
            first = max(first, at)
    found = []
    for one in stored:
        match = _ENTRY.fullmatch(one.path) or _COMPACTED.fullmatch(one.path)
        if match and int(match[1]) < first:
            found.append((int(match[1]), one))
    return first, [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _checkpoints(stored: Iterable[Stored]) -> list[int]:
    """The versions that have a checkpoint in one file."""
    matches = (_ENTRY.fullmatch(one.path) for one in stored)
    return [int(match[1]) for match in matches if match and match[2] == "checkpoint.parquet"]


def missing_files(state: TableState, stored: Iterable[Stored]) -> list[DataFile]:
    """The files that a version names and the store lacks, or has in another size."""
    there = {one.path: one.size for one in stored}
    return [file for file in state.files if there.get(file.path) != file.size]
