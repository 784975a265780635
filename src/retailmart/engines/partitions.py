"""Cuts rows that are sorted by their partition columns, and writes one Parquet file for each."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retailmart.engines.footers import described
from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile

_WRITERS = 2
_PENDING = 16
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"

Partition = tuple[tuple[str, str | None], ...]


def write_partitions(
    batches: Iterable[pa.RecordBatch],
    folder: Path,
    name: str,
    partition_by: Sequence[str],
    kinds: Mapping[str, ColumnType],
) -> list[DataFile]:
    """Write each partition's rows to `folder/column=value/…/name`.

    A whole partition is held in memory while it is written. `kinds` maps columns to types.
    """
    files: list[DataFile] = []
    pending: deque[Future[DataFile]] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for partition, rows in _partitions(batches, partition_by):
            pending.append(pool.submit(_write, rows, folder, name, partition, kinds))
            if len(pending) > _PENDING:
                files.append(pending.popleft().result())
        files += [job.result() for job in pending]
    return files


def _partitions(
    batches: Iterable[pa.RecordBatch], partition_by: Sequence[str]
) -> Iterator[tuple[Partition, pa.Table]]:
    """The runs of equal partition values in sorted batches, joined across batches."""
    current: Partition | None = None
    parts: list[pa.RecordBatch] = []
    for batch in batches:
        for partition, run in runs(batch, partition_by):
            if partition != current and current is not None:
                yield current, pa.Table.from_batches(parts)
                parts = []
            current = partition
            parts.append(run)
    if current is not None:
        yield current, pa.Table.from_batches(parts)


def runs(
    batch: pa.RecordBatch, partition_by: Sequence[str]
) -> Iterator[tuple[Partition, pa.RecordBatch]]:
    """A batch cut where partition values change, each part without these columns."""
    ends: set[int] = set()
    for name in partition_by:
        encoded = pc.run_end_encode(batch.column(name))
        ends.update(encoded.run_ends.to_pylist())
    others = batch.drop_columns(list(partition_by))
    start = 0
    for end in sorted(ends):
        values = (batch.column(name)[start].as_py() for name in partition_by)
        texts = (None if value is None else str(value) for value in values)
        yield tuple(zip(partition_by, texts, strict=True)), others.slice(start, end - start)
        start = end


def _write(
    rows: pa.Table,
    folder: Path,
    name: str,
    partition: Partition,
    kinds: Mapping[str, ColumnType],
) -> DataFile:
    relative = partition_folder(partition) / name
    path = folder / relative
    make_folder(path.parent, partition)
    written: list[Any] = []
    pq.write_table(rows, path, compression="zstd", compression_level=1, metadata_collector=written)
    size = path.stat().st_size
    return described(written[0], relative.as_posix(), size, dict(partition), kinds)


def partition_folder(partition: Partition) -> Path:
    """The folder of a partition's files, relative to their table."""
    return Path(*(f"{key}={_encoded(value)}" for key, value in partition))


def _encoded(value: str | None) -> str:
    if value is None:
        return NULL_FOLDER
    # A text that reads like the folder of NULL is written as DuckDB writes it.
    return quote(value, safe=" ") if value != NULL_FOLDER else f"%5F{NULL_FOLDER[1:]}"


def make_folder(folder: Path, partition: Partition) -> None:
    """Create a partition's folder; RetailmartError if its values are too long for a name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        column, value = max(partition, key=lambda item: len(quote(item[1] or "")))
        raise RetailmartError(
            f"{column} {(value or '')[:40]!r}… is too long for the name of a partition's folder",
            "Partition by a column of short values, such as a key",
        ) from error
