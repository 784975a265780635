"""What workers do with a table's rows: write them as Parquet files, and tell of each file.

Hadoop's own writer needs a process of its own for each local file's permissions, and renames each
twice. Here only files that a finished task tells of count, so a task that was tried twice is no
matter. This module's code travels to the workers: they need pyarrow, not this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retailmart.engines.footers import described
from retailmart.engines.partitions import Partition, make_folder, partition_folder, runs
from retailmart.engines.told import WRONG_MONTH
from retailmart.errors import GateFailed
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile

# Of a row's memory in Arrow; so many are written as one row group.
_GROUP_BYTES = 32 << 20
# The column that tells which month a row was computed for.
OF_MONTH = "_of_month"
TOLD = "file STRING"


@dataclass(frozen=True)
class Writer:
    """How a query's rows become files below `root`, named `prefix…`; `columns` are its names.

    Rows come sorted by `partition_by`. Those without the first are not written but counted. `kinds`
    are the columns' types. A file ends once it is `file_bytes` large.
    """

    root: str
    prefix: str
    partition_by: tuple[str, ...]
    kinds: dict[str, ColumnType]
    file_bytes: int
    columns: tuple[str, ...] = ()

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One task's rows; gives a JSON text for each file."""
        from pyspark import TaskContext

        task = TaskContext.get()
        # Attempts are counted anew where a stage is tried again while its tasks still run: only
        # the id is no other's.
        number = (task.partitionId(), task.taskAttemptId()) if task else (0, 0)
        name = "{}-{:06d}-{}".format(self.prefix, *number)
        for file in self._files(batches, name):
            yield pa.RecordBatch.from_arrays([pa.array([json.dumps(vars(file))])], ["file"])

    def _files(self, batches: Iterable[pa.RecordBatch], name: str) -> Iterator[DataFile]:
        current: _Open | None = None
        count = left_out = 0
        for partition, rows in self._partitions(batches):
            if partition and partition[0][1] is None:
                left_out += rows.num_rows
                continue
            if current and (current.partition != partition or current.size > self.file_bytes):
                yield current.closed()
                current = None
            if current is None:
                current = _Open(self, partition, f"{name}-{count:04d}.parquet")
                count += 1
            current.add(rows)
        if current:
            yield current.closed()
        if left_out:
            yield DataFile("", 0, left_out, dict.fromkeys(self.partition_by))

    def _partitions(
        self, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[Partition, pa.RecordBatch]]:
        for batch in batches:
            checked = self._checked(batch.rename_columns(list(self.columns)))
            if not self.partition_by:
                yield (), checked
            elif checked.num_rows:
                yield from runs(checked, self.partition_by)

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch without the column that tells its month, which the first partition must be."""
        if OF_MONTH not in batch.schema.names:
            return batch
        months, own = batch.column(OF_MONTH), batch.column(self.partition_by[0])
        for month, said in set(zip(months.to_pylist(), own.to_pylist(), strict=True)):
            if month != said:
                raise GateFailed(f"{WRONG_MONTH}{month}")
        return batch.drop_columns([OF_MONTH])


@dataclass
class _Open:
    """A file that is being written."""

    writer: Writer
    partition: Partition
    name: str
    _rows: list[pa.RecordBatch] = field(default_factory=list)
    _bytes: int = 0
    _file: pq.ParquetWriter | None = None
    _written: list[Any] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return partition_folder(self.partition) / self.name

    @property
    def size(self) -> int:
        """About how large the file is by now."""
        return self._file.file_handle.tell() if self._file else 0

    def add(self, rows: pa.RecordBatch) -> None:
        self._rows.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= min(_GROUP_BYTES, self.writer.file_bytes):
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._rows)
        if self._file is None:
            path = Path(self.writer.root) / self.path
            make_folder(path.parent, self.partition)
            self._file = pq.ParquetWriter(
                path,
                table.schema,
                compression="zstd",
                compression_level=1,
                metadata_collector=self._written,
            )
        self._file.write_table(table, row_group_size=max(table.num_rows, 1))
        self._rows, self._bytes = [], 0

    def closed(self) -> DataFile:
        if self._rows:
            self._flush()
        assert self._file is not None  # noqa: S101 - a file is opened for rows only
        self._file.close()
        path = self.path.as_posix()
        size = (Path(self.writer.root) / path).stat().st_size
        kinds = self.writer.kinds
        return described(self._written[0], path, size, dict(self.partition), kinds)


def told(text: str) -> DataFile:
    """The file that a task has told of; its path is '' for rows that are in no file."""
    said: dict[str, Any] = json.loads(text)
    return DataFile(**said)


def left_out(files: Sequence[DataFile]) -> int:
    """How many rows are in no file."""
    return sum(file.rows for file in files if not file.path)
