"""An engine parses, joins, sums and writes Parquet. It is a handful of primitives; the rest of the
pipeline is written once above them, in DuckDB's SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retailmart.tables import Field, TableState, Written

if TYPE_CHECKING:
    import pyarrow as pa

    from retailmart.project.settings import Settings

Fetch = Callable[[TableState], None]
VariableValue = Decimal | int | bool | str | datetime | None


@dataclass(frozen=True)
class CsvShape:
    """How the records of a group of files are laid out. The first line of each file is skipped.

    `multiline` tells that quoted cells may hold line ends.
    """

    columns: int
    delimiter: str
    quoted: bool
    multiline: bool = False


class Engine(Protocol):
    """What an engine must be able to do. Queries are DuckDB's SQL."""

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        """Make `getvariable('name')` give these values."""

    def tables_in(self, query: str) -> frozenset[str]:
        """The names a single SELECT reads from. ValueError with the parser's words otherwise."""

    def csv(self, files: Mapping[int, Path], shape: CsvShape) -> str:
        """A relation of `c0`, `c1`, … as text and `_file_id`, the key of each file in `files`."""

    def numbered_csv(self, file: Path, shape: CsvShape) -> str:
        """As `csv` for one file, with `_row`: the record's number from 1, in the file's order."""

    def define(self, name: str, table: TableState) -> None:
        """Give a table's files a name that queries can use."""

    def define_rows(self, name: str, rows: pa.Table) -> None:
        """Give rows in memory a name that queries can use."""

    def fields(self, query: str) -> tuple[Field, ...]:
        """The columns a query would give."""

    def write(
        self, query: str, root: Path, prefix: str, partition_by: Sequence[str], month: str | None
    ) -> Written:
        """Write a query's rows as Parquet files named `prefix…` below `root`.

        With `month`, every row's first partition column must hold that month, else GateFailed.
        Without it, rows that have NULL there are left out and counted.
        Raises CsvBroken when a file the query parses is not as regular as its shape says.
        """

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result, as Python values; decimals are Decimal."""

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        """A large result in the query's order, in record batches of about `size` rows."""

    def close(self) -> None:
        """Free what the engine holds."""


def open_engine(
    settings: Settings, readable: Sequence[Path], scratch: Path, fetch: Fetch
) -> Engine:
    """The engine that the settings name. It can read and write below `readable` and `scratch`.

    `fetch` is called with each table before it is read: it makes the table's files readable.
    """
    from retailmart.engines.duckdb import DuckDBEngine

    return DuckDBEngine(readable, scratch, settings.memory_limit, settings.threads, fetch)
