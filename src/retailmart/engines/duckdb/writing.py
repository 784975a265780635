"""Writes queries' rows as Parquet files, and accounts for the files of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from retailmart.engines import Files
from retailmart.engines.duckdb.connection import Connection
from retailmart.engines.duckdb.sql import cast_list, of_month
from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Field, Statistic, Written, quoted, text_literal

_SORTED_ROWS = 100_000
# Measured on 20 M sales: version 2 encodings with light zstd give the smallest files in the least
# time. Giving up early on dictionaries of names that rarely repeat saves a fifth of the write.
_PARQUET = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1,"
    " DICTIONARY_SIZE_LIMIT 4000, RETURN_STATS"
)
# Decimals and strings have no bounds: a slightly wrong bound would hide rows from readers.
# Python has no date after 9999, and writes some decimals with an exponent.
_AS_TEXT = ("DECIMAL", "DATE", "TIMESTAMP")
_DAYS = {
    "DATE": re.compile(r"\d{4}-\d\d-\d\d"),
    "TIMESTAMP": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00"),
}
_STATISTICS = {"INT": int, "BIGINT": int, "DATE": str}


def place_of(places: Sequence[Files], root: Path | str) -> Files | None:
    """The location of a table's root; None for a root that only this machine knows."""
    return next((place for place in places if place.holds(str(root))), None)


class Writer:
    """Writes what `connection` computes; `attempt` makes the names of the files unique.

    `written` lists the files by their root. They are this machine's until they are sent.
    """

    def __init__(self, connection: Connection, places: Sequence[Files], attempt: str) -> None:
        self.written: list[tuple[Path, DataFile]] = []
        self._connection = connection
        self._places = places
        self._attempt = attempt

    def write(
        self,
        query: str,
        fields: tuple[Field, ...],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        *,
        month: str | None = None,
        all_rows: bool = False,
    ) -> Written:
        """Write a query's rows below `root`. With `month`, all of them must be of that month.

        Rows with NULL in the first partition column are left out and counted, unless `all_rows`.
        """
        place = place_of(self._places, root)
        folder = place.folder(root) if place else root
        files = self._write(query, fields, folder, f"{prefix}{self._attempt}", partition_by, month)
        first = None if all_rows else next(iter(partition_by), None)
        nowhere = [f for f in files if first is not None and f.partition[first] is None]
        for file in (*nowhere, *(file for file in files if not file.rows)):
            (folder / file.path).unlink()
        kept = tuple(file for file in files if file.rows and file not in nowhere)
        self.written += [(root, file) for file in kept]
        return Written(fields, kept, sum(file.rows for file in nowhere))

    def _write(
        self,
        query: str,
        fields: Sequence[Field],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        month: str | None,
    ) -> list[DataFile]:
        query = f"SELECT {cast_list(fields)} FROM ({query})"
        known: dict[str, str | None] = {}
        folder, rest = root, list(partition_by)
        if month is not None:
            column = rest.pop(0)
            known[column] = month
            folder = root / f"{column}={month}"
            query = of_month(query, fields, column, month)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if month is not None and rest:
                files = self._write_sorted(query, fields, folder, prefix, rest)
            else:
                files = self._copy(query, fields, folder, prefix, rest)
        except RetailmartError:
            for unfinished in folder.rglob(f"{prefix}*.parquet"):
                unfinished.unlink()
            raise
        return [_placed(file, folder, root, known) for file in files]

    def _copy(
        self, query: str, fields: Sequence[Field], folder: Path, prefix: str, rest: Sequence[str]
    ) -> list[DataFile]:
        options, target = _PARQUET, folder / f"{prefix}.parquet"
        if rest:
            listed = ", ".join(quoted(name) for name in rest)
            options += f", PARTITION_BY ({listed}), APPEND"
            options += f", FILENAME_PATTERN {text_literal(prefix + '-{uuid}')}"
            target = folder
        copy = f"COPY ({query}) TO {text_literal(str(target))} ({options})"
        kinds = {field.name: field.type for field in fields}
        return [_copied_file(row, folder, kinds) for row in self._connection.rows(copy)]

    def _write_sorted(
        self, query: str, fields: Sequence[Field], folder: Path, prefix: str, rest: Sequence[str]
    ) -> list[DataFile]:
        """Write many small partitions of one month: DuckDB sorts, Arrow cuts and writes.

        COPY … PARTITION_BY spends two thirds of its time on assigning rows to partitions. With 200
        stores a month, this method takes 60 % of that processor time (20 M sales, 2,400 files).
        """
        from retailmart.engines.partitions import write_partitions

        listed = ", ".join(quoted(name) for name in rest)
        kinds = {field.name: field.type for field in fields}
        texts = [quoted(name) for name in rest if kinds[name].name in _AS_TEXT]
        replaced = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in texts)
        if replaced:
            query = f"SELECT * REPLACE ({replaced}) FROM ({query})"
        query = f"{query} ORDER BY {listed}"
        with closing(self._connection.batches(query, _SORTED_ROWS)) as batches:
            files = write_partitions(batches, folder, f"{prefix}.parquet", rest, kinds)
        return [replace(file, partition=_logged(file.partition, kinds)) for file in files]

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        """Remove files that were just written below a root."""
        self.written = [one for one in self.written if one[0] != root or one[1] not in files]
        if (place := place_of(self._places, root)) is not None:
            place.remove(root, files)
        else:
            for file in files:
                (root / file.path).unlink()

    def discard_all(self) -> None:
        """Remove everything that was written."""
        for root, files in self._by_root().items():
            self.discard(root, files)

    def send(self) -> None:
        """Make the files written on this machine visible to all machines."""
        for root, files in self._by_root().items():
            if (place := place_of(self._places, root)) is not None:
                place.send(root, files)

    def _by_root(self) -> dict[Path, list[DataFile]]:
        found: dict[Path, list[DataFile]] = {}
        for root, file in self.written:
            found.setdefault(root, []).append(file)
        return found


def _placed(file: DataFile, folder: Path, root: Path, known: Mapping[str, str | None]) -> DataFile:
    """A file written below `folder`, as the table at `root` sees it."""
    path = (folder / file.path).relative_to(root).as_posix()
    return replace(file, path=path, partition={**known, **file.partition})


def _logged(
    partition: Mapping[str, str | None], kinds: Mapping[str, ColumnType]
) -> dict[str, str | None]:
    return {name: _in_log(name, text, kinds[name]) for name, text in partition.items()}


def _in_log(name: str, text: str | None, kind: ColumnType) -> str | None:
    """A partition's value as the table's log has it. RetailmartError if the log can't hold it."""
    if text is None or kind.name not in _DAYS:
        return text
    if not _DAYS[kind.name].fullmatch(text):
        raise RetailmartError(
            f"{name} is {text}, and a table is partitioned by days of the years 1 to 9999 only",
            "Partition by another column, or let the SELECT give such rows another value",
        )
    return text.removesuffix("+00")  # times in the log are UTC, and say so by no offset


def _copied_file(row: tuple[Any, ...], folder: Path, kinds: Mapping[str, ColumnType]) -> DataFile:
    """The DataFile for a row that COPY returns."""
    path, count, size, _, statistics, in_folders, *_ = row
    partition: Mapping[str, str | None] = in_folders or {}
    lowest: dict[str, Statistic] = {}
    highest: dict[str, Statistic] = {}
    nulls: dict[str, int] = {}
    for key, values in (statistics or {}).items():
        name = key[1:-1].replace('""', '"')
        nulls[name] = int(values["null_count"])
        if "min" in values and (convert := _STATISTICS.get(kinds[name].name)):
            lowest[name] = convert(values["min"])
            highest[name] = convert(values["max"])
    return DataFile(
        path=Path(path).relative_to(folder).as_posix(),
        size=int(size),
        rows=int(count),
        partition=_logged(partition, kinds),
        minimum=lowest,
        maximum=highest,
        nulls=nulls,
    )
