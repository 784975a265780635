"""Export marts as plain Parquet under the run's date, for tools that do not know Delta.

Data files never change, so they are exported as they are where they are large. Small ones of a
month are put together: an export of many stores and days would else have many thousands.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.lake import Lake
from retailmart.lake.exports import EXPORTS, LATEST, Export, Size
from retailmart.lake.layout import mart_table
from retailmart.ledger import Ledger
from retailmart.project.mart import Mart
from retailmart.project.settings import KeepSettings
from retailmart.tables import DataFile, Field, TableState

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_NAME = 255  # bytes, on every file system in use
_EMPTY = "part-empty.parquet"
# Files of this mean size are put together; an export stays as it is until they are much smaller or
# larger, so that a mart does not get another layout each day.
_SMALL = 64 << 10
_NOT_ANY_MORE = 4
# A month's files are put together once their batches fill a block of this many, then one of its
# square, and so on: each row is written again once for each power.
_BLOCK = 16
# Ended months are put together by quarters and years: else each date would name all of them.
_MONTH = re.compile(r"\d{4}-\d\d")
_BATCH = re.compile(r"b(\d{8})-f\d{4,}-")
_ROWS_AT_ONCE = 100_000


def export_marts(
    ledger: Ledger,
    lake: Lake,
    marts: Iterable[Mart],
    as_of: datetime,
    progress: Callable[[str], None],
) -> list[str]:
    """Export each built mart as it is, all of it or nothing; a current export is left alone.

    `progress` is called with each mart's name. Returns the names of the marts that were exported.
    """
    exports, done = lake.place.exports, []
    for mart in marts:
        table = mart_table(mart.name)
        version, state = lake.version(table), lake.state(table)
        if version is None or state is None:
            continue
        merge = _is_of_small_files(state, _layout(lake, mart.name))
        export = _export_of(mart, table, version, state, f"{as_of:%Y-%m-%d}", merge=merge)
        if not exports.is_whole(export):
            progress(mart.name)
            exports.put(export, lake.fence, _prove(ledger))
            done.append(mart.name)
    return done


@dataclass(frozen=True)
class ExpiredExports:
    """The exports that retention has removed, or would: folders as in 2024-04-01/sales_mart.

    `size` counts the bytes that are free afterwards: a file that the lake or another export also
    has takes room still. With `announced`, these are not removed yet: the first exports that the
    default would remove stay until a run of a later date.
    """

    folders: tuple[str, ...] = ()
    size: Size = field(default_factory=Size)
    announced: bool = False


def expire_exports(
    ledger: Ledger,
    lake: Lake,
    keep: KeepSettings,
    *,
    dry_run: bool = False,
    seconds: float | None = None,
) -> ExpiredExports:
    """Remove exports by retention, oldest first, for at most some `seconds`; the lease is needed.

    Days count back from the newest export of any mart. A mart's newest export always stays.
    """
    exports = lake.place.exports
    if keep.exports == "for ever":
        return ExpiredExports()
    old = _expired(exports.dates(), keep.exports, keep.month_ends)
    if not old:
        return ExpiredExports()
    if not keep.is_chosen and (note := exports.note() or "") in ("", _newest(exports.dates())):
        if not note and not dry_run:
            exports.put_note(_newest(exports.dates()))
        return ExpiredExports(tuple(old), exports.size(old), announced=True)
    if dry_run:
        return ExpiredExports(tuple(old), exports.size(old))
    end = None if seconds is None else time.monotonic() + seconds
    removed, size = [], Size()
    for folder in old:
        if end is not None and time.monotonic() > end:
            break
        size += exports.remove(folder, lake.fence, _prove(ledger))
        removed.append(folder)
    return ExpiredExports(tuple(removed), size)


def _newest(dates: Mapping[str, Sequence[str]]) -> str:
    return max(days[-1] for days in dates.values())


def _expired(dates: Mapping[str, Sequence[str]], days: int, month_ends: bool) -> list[str]:
    """The folders that are not kept, oldest first."""
    if not dates:
        return []
    first = date.fromisoformat(_newest(dates)) - timedelta(days=days - 1)
    found = []
    for name, known in dates.items():
        last_of = {day[:7]: day for day in known}  # sorted: the last one of each month stays
        for day in known[:-1]:
            is_month_end = month_ends and last_of[day[:7]] == day
            if day < first.isoformat() and not is_month_end:
                found.append(f"{day}/{name}")
    return sorted(found)


def exported_to(lake: Lake, as_of: datetime) -> str:
    """Where people find the exports of a date."""
    return f"{lake.place}/{EXPORTS}/{as_of:%Y-%m-%d}"


def latest_exports(lake: Lake) -> str:
    """Where people find the newest export of each mart."""
    return f"{lake.place}/{EXPORTS}/{LATEST}"


def _prove(ledger: Ledger) -> Callable[[], None]:
    def prove() -> None:
        # A run that was stopped and wakes late must not replace new rows with old ones.
        with ledger.transaction():
            pass

    return prove


def _layout(lake: Lake, mart: str) -> str | None:
    """How the mart's newest export is laid out: `merged` or `linked`; None if there is none."""
    newest = lake.place.exports.newest(mart)
    mark = lake.place.exports.mark(f"{newest}/{mart}") if newest else None
    layout = json.loads(mark).get("layout") if mark else None
    return layout if isinstance(layout, str) else None


def _is_of_small_files(state: TableState, before: str | None) -> bool:
    """Whether files are put together: linking one takes as long as reading a small one."""
    if not state.partition_by or not state.files:
        return False
    mean = sum(file.size for file in state.files) / len(state.files)
    if before == "merged":
        return mean < _SMALL * _NOT_ANY_MORE
    return mean < (_SMALL if before is None else _SMALL / _NOT_ANY_MORE)


def _export_of(
    mart: Mart, table: str, version: int, state: TableState, day: str, *, merge: bool
) -> Export:
    parts: dict[str, DataFile] = {}
    merged: dict[str, tuple[DataFile, ...]] = {}
    months = _months(state) if merge else {}
    if merge:
        parts, merged = _put_together(state, months, day)
    else:
        parts = {_part(file.path): file for file in state.files}
    names = "\n".join(sorted(_part(file.path) for file in state.files))
    said = {
        "mart": mart.name,
        "date": day,
        "version": version,
        "rows": sum(file.rows for file in state.files),
        "parts": len(parts) + len(merged),
        "layout": "merged" if merge else "linked",
        "digest": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
    }
    return Export(
        date=day,
        name=mart.name,
        table=table,
        parts=parts,
        merged=merged,
        # A folder without any Parquet is an error to most readers; an empty table is not.
        files={} if state.files else {_EMPTY: _no_rows(state)},
        mark=json.dumps(said) + "\n",
        write=_Merging(
            state.fields, state.partition_by, () if months else state.partition_by[:1]
        ).write,
    )


def _put_together(
    state: TableState, months: Mapping[str, str], today: str
) -> tuple[dict[str, DataFile], dict[str, tuple[DataFile, ...]]]:
    """The files that are exported as they are, and those that are put together, by path.

    Files of one value of the first partition column are put together by the batch that wrote them,
    later by blocks of batches; `months` (by path) that ended before `today` by month, quarter and
    year. So a day adds files, and changes none of an earlier day.
    """
    batches = {file.path: _batch_of(file.path) for file in state.files}
    newest = max(batches.values())
    # Sales of a month to come, by mistake or not, end no month.
    growing = max((one for one in months.values() if one <= today[:7]), default="")
    groups: dict[tuple[str, str], list[DataFile]] = {}
    for file in sorted(state.files, key=lambda file: file.path):
        block = _block(batches[file.path], newest)
        if months:
            month = months[file.path]
            key = ("", _period(month, growing) or f"{month}-{block}")
        else:
            key = (file.path.partition("/")[0], block)
        groups.setdefault(key, []).append(file)
    in_files = state.partition_by if months else state.partition_by[1:]
    are_whole = all(name.startswith("_") for name in in_files)
    parts: dict[str, DataFile] = {}
    merged: dict[str, tuple[DataFile, ...]] = {}
    for (folder, block), files in groups.items():
        if len(files) == 1 and are_whole:
            parts[_part(files[0].path)] = files[0]
            continue
        members = "\n".join(file.path for file in files).encode("utf-8", "surrogateescape")
        name = f"{block}-{hashlib.sha256(members).hexdigest()[:24]}.parquet"
        merged[_part(f"{folder}/{name}" if folder else name)] = tuple(files)
    return parts, merged


def _months(state: TableState) -> dict[str, str]:
    """The month of each file by its path, if a table is partitioned by months; else empty."""
    values = {file.path: file.partition[state.partition_by[0]] or "" for file in state.files}
    return values if all(map(_MONTH.fullmatch, values.values())) else {}


def _period(month: str, growing: str) -> str | None:
    """The longest period around a month that ended before another began; None if it has not."""
    if month[:4] < growing[:4]:
        return month[:4]
    if month < growing and (quarter := _quarter(month)) < _quarter(growing):
        return f"{month[:4]}-q{quarter}"
    return month if month < growing else None


def _quarter(month: str) -> int:
    return (int(month[5:]) + 2) // 3


def _batch_of(path: str) -> int:
    match = _BATCH.match(path.rpartition("/")[2])
    return int(match[1]) if match else 0


def _block(batch: int, newest: int) -> str:
    """The largest block of batches around this one to which no batch can be added any more."""
    size, name = _BLOCK, f"b{batch:08d}"
    while (first := batch // size * size) + size <= newest:
        name = f"b{first:08d}-{first + size - 1:08d}"
        size *= _BLOCK
    return name


@dataclass(frozen=True)
class _Merging:
    """Puts files of a table together; what no folder's name says is in their columns."""

    fields: tuple[Field, ...]
    partition_by: tuple[str, ...]
    in_folders: tuple[str, ...]

    def write(self, folder: Path, files: Sequence[DataFile], target: Path) -> None:
        """Write the rows of files of a table into one file, in the files' order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self._schema()
        waiting: list[pa.Table] = []
        with pq.ParquetWriter(target, schema, compression="zstd", store_schema=False) as writer:
            for file in files:
                for rows in self._rows(folder, file, schema):
                    waiting.append(rows)
                    if sum(part.num_rows for part in waiting) >= _ROWS_AT_ONCE:
                        writer.write_table(pa.concat_tables(waiting))
                        waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))

    def _rows(self, folder: Path, file: DataFile, schema: pa.Schema) -> Iterable[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(folder / file.path) as content:
            for batch in content.iter_batches(_ROWS_AT_ONCE):
                columns = [
                    pa.array([file.partition[field.name]] * len(batch), pa.string()).cast(
                        field.type
                    )
                    if field.name in self.partition_by
                    else batch.column(field.name).cast(field.type)
                    for field in schema
                ]
                yield pa.Table.from_arrays(columns, schema=schema)

    def _schema(self) -> pa.Schema:
        from retailmart.database.values import schema_of

        fields = [
            field
            for field in self.fields
            if field.name not in self.in_folders
            and not (field.name in self.partition_by and field.name.startswith("_"))
        ]
        return schema_of([field.name for field in fields], [field.type for field in fields])


def _part(path: str) -> str:
    """Where a data file is exported: in its partitions' folders, except those that begin with `_`.

    What the folders leave out is in the name, so that no two files get the same name.
    """
    *folders, file = path.split("/")
    kept = [folder for folder in folders if not folder.startswith("_")]
    values = [folder.partition("=")[2] for folder in folders if folder.startswith("_")]
    name = "-".join(["part", *values, file])
    if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        name = f"part-{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()}.parquet"
    return "/".join([*kept, name])


def _no_rows(state: TableState) -> bytes:
    import pyarrow.parquet as pq

    from retailmart.database.values import schema_of

    fields = [
        field
        for field in state.fields
        if not (field.name in state.partition_by and field.name.startswith("_"))
    ]
    content = BytesIO()
    schema = schema_of([field.name for field in fields], [field.type for field in fields])
    pq.write_table(schema.empty_table(), content)
    return content.getvalue()
