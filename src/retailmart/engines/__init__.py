"""An engine parses, joins, sums and writes Parquet. It is a handful of primitives; the rest of the
pipeline is written once above them, in DuckDB's SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from retailmart.tables import (
    DatabaseAddress,
    DataFile,
    Extract,
    Field,
    TableState,
    Written,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from retailmart.project.functions import Function, Vectorised
    from retailmart.project.settings import Settings

# TRY_CAST(_plain(text) AS …) may give anything for a text that is not of a plain form: it is for
# who looks at the text, too, and spares an engine what another's cast takes beside that.
PLAIN: Final = "_plain"
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


@dataclass(frozen=True)
class JsonShape:
    """How the records of a group of JSON files are laid out: an array, or one object a line.

    `keys` are read, each as a column. In a file `of_texts` every value is JSON text within a text.
    """

    keys: tuple[str, ...]
    array: bool
    of_texts: bool = False


@dataclass(frozen=True)
class JsonForm:
    """How every record of a file is written, but for its values and for keys that it lacks.

    `before` is the text in front of each key's value, `after` the text behind the last. Values of
    `exact` keys may not be null, as theirs is kept; those of `scales` (key → DECIMAL's precision
    and scale) may be written with all decimals. `longest` is in bytes, `brackets` are those that
    may be opened in a record.
    """

    keys: tuple[str, ...]
    before: tuple[str, ...]
    after: str
    array: bool
    longest: int
    brackets: int
    exact: frozenset[str] = frozenset()
    scales: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Engine(Protocol):
    """What an engine must be able to do. Queries are DuckDB's SQL."""

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        """Make `getvariable('name')` give these values."""

    def add_functions(self, functions: Mapping[Function, Vectorised]) -> None:
        """Let queries call the user's functions; SettingsError where SQL has such a name itself.

        They see NULLs, and may be called from several threads. What they give is checked and cast.
        """

    def tables_in(self, query: str) -> frozenset[str]:
        """The names a single SELECT reads from. ValueError with the parser's words otherwise."""

    def csv(self, files: Mapping[int, Path], shape: CsvShape) -> str:
        """A relation of `c0`, `c1`, … as text and `_file_id`, the key of each file in `files`."""

    def numbered_csv(self, file: Path, shape: CsvShape) -> str:
        """As `csv` for one file, with `_row`: the record's number from 1, in the file's order."""

    def json(self, files: Mapping[int, Path], shape: JsonShape) -> str:
        """A relation of the keys' values: `c0`, … as text, `j0`, … as JSON text, and `_file_id`.

        What is not there or null is '' as text, and NULL as JSON text unless files are of texts.
        """

    def numbered_json(self, file: Path, shape: JsonShape) -> str:
        """As `json` for one file, with `_row`: the record's number from 1, in the file's order."""

    def define(self, name: str, table: TableState) -> None:
        """Give a table's files a name that queries can use."""

    def define_query(self, name: str, query: str) -> None:
        """Give a query a name that others can use; it is run where they are."""

    def define_rows(self, name: str, rows: pa.Table) -> None:
        """Give rows in memory a name that queries can use."""

    def fields(self, query: str) -> tuple[Field, ...]:
        """The columns a query would give."""

    def write(self, query: str, root: Path, prefix: str, partition_by: Sequence[str]) -> Written:
        """Write a query's rows as Parquet files named `prefix…` below `root`.

        Rows that have NULL in the first partition column are left out and counted.
        Raises CsvBroken when a file the query parses is not as regular as its shape says.
        """

    def write_months(
        self,
        query: str,
        months: Mapping[str, Mapping[str, TableState]],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
    ) -> tuple[DataFile, ...]:
        """Write a query's rows once for each month, the tables being to it what `months` says.

        The first partition column of every row must hold that row's month, else GateFailed.
        """

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result, as Python values; decimals are Decimal."""

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        """A large result in the query's order, in record batches of about `size` rows."""

    def hand_over(self, query: str, address: DatabaseAddress, table: str, rows: int) -> bool:
        """Write a query's about `rows` rows into an empty table of a database, in parallel.

        False where the engine has no way of its own there, or so few rows are not worth it.
        KeyClash where some were refused: others may be in the table.
        """

    def take_over(self, extract: Extract) -> str | None:
        """A relation of all rows of a database's table, which are read once, in parallel.

        None where the engine has no way of its own there.
        """

    def close(self) -> None:
        """Free what the engine holds."""


def open_engine(
    settings: Settings, readable: Sequence[Path], scratch: Path, fetch: Fetch | None = None
) -> Engine:
    """The engine that the settings name. It can read and write below `readable` and `scratch`.

    `fetch` is called with each table before it is read: it makes the table's files readable.
    """
    if settings.engine == "spark":
        from retailmart.engines.spark import open_spark

        return open_spark(settings.spark, readable, scratch, fetch)
    from retailmart.engines.duckdb import DuckDBEngine

    return DuckDBEngine(readable, scratch, settings.memory_limit, settings.threads, fetch)


def takes_over_from(settings: Settings) -> int | None:
    """From how many rows on the engine is to take a database's table over; None for none."""
    if settings.engine == "spark" and settings.spark.jdbc_jar is not None:
        return settings.spark.jdbc_from
    return None


def count_alike(file: Path, form: JsonForm) -> int | None:
    """How many records a JSON file has if `Engine.json` gives each of their values as delivered.

    None where any is written otherwise, and where the file is no JSON: a float, a repeated or an
    unknown key, an escape or a blank elsewhere would be lost.
    """
    from retailmart.engines.alike import count

    return count(file, form)
