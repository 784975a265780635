"""What an engine must do: parse, join, sum and write Parquet.

An engine is a handful of primitives. The rest of the pipeline is written once above them, in
DuckDB's SQL. DuckDB computes on every engine: in this process, or in the tasks of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from retailmart.engines.relations import CsvShape, JsonShape, Relation
from retailmart.errors import RetailmartError
from retailmart.project.by_date import ByDate
from retailmart.tables import DataFile, Field, TableState, Written

if TYPE_CHECKING:
    import pyarrow as pa

    from retailmart.project.functions import Functions

__all__ = [
    "EXCHANGE",
    "CsvShape",
    "Cut",
    "Engine",
    "Files",
    "JsonShape",
    "Relation",
    "VariableValue",
    "Work",
    "Write",
]

# A folder below a lake's root that holds no table: files on their way between machines.
EXCHANGE = ".exchange"
VariableValue = Decimal | int | bool | str | datetime | ByDate | None
Item = TypeVar("Item")
Result = TypeVar("Result")
# The work on each item of a `spread`, done by the engine of the machine that runs it. It is
# pickled, so it is a function of a module or a frozen dataclass of values.
Work = Callable[["Engine", Item], Result]


class Files(Protocol):
    """Where tables' data files are, as one machine sees them.

    A table's root and the folder that files are written to carry the names that they have on the
    machine where the run began. Each machine has its own folder for them, or all see the same one.
    """

    @property
    def workspace(self) -> Path:
        """The folder of this machine below which files are read and written."""

    def on(self, workspace: Path) -> Files:
        """The same files as another machine sees them, which has `workspace` as its folder."""

    def holds(self, root: str) -> bool:
        """Whether a table's root is below these locations."""

    def here(self, table: TableState) -> TableState:
        """The table with all its files readable on this machine."""

    def folder(self, root: Path) -> Path:
        """Where this machine writes the files that belong below a root."""

    def remove(self, root: Path, files: Sequence[DataFile]) -> None:
        """Remove files, here and where all machines see them."""

    def send(self, root: Path, files: Sequence[DataFile]) -> None:
        """Store files written on this machine so that they survive it and all machines see them."""

    def forget(self, root: Path) -> None:
        """Remove everything below a root."""


class Engine(Protocol):
    """What an engine must be able to do. Queries are written in DuckDB's SQL.

    They name a relation by its `str(relation)`. For a query that a user wrote, `names` maps its
    table names to relations.
    """

    @property
    def parallelism(self) -> int:
        """How many items of a `spread` run at a time."""

    def parts(self, size: int) -> int:
        """The best number of items for a `spread` that reads `size` bytes."""

    @property
    def retried(self) -> bool:
        """Whether work was tried more than once. Files of lost tries may then still be there."""

    @property
    def scratch(self) -> Path:
        """A folder of this machine for temporary files."""

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        """Make `getvariable('name')` return these values, and `variable_on('name', day)` a day's.

        A value that is not by date is that of every day. Of values by date, `getvariable` returns a
        list of structs, which is no value: a query that reads it as one fails.
        """

    def add_functions(self, functions: Functions) -> None:
        """Register the user's functions for queries.

        Raises SettingsError if SQL already has a function of that name. The functions receive NULLs
        and may be called from several threads. Their results are checked and cast.
        """

    def records(
        self, files: Mapping[int, Path], shape: CsvShape | JsonShape, *, numbered: bool = False
    ) -> Relation:
        """The rows of files of one shape, and `_file_id`, the key of each file in `files`.

        Of CSV: `c0`, `c1`, … as text. Of JSON: each key's value, `c0`, … as text and `j0`, … as
        JSON text. A value that is absent or null is '' as text. As JSON text it is NULL, unless the
        files are of texts. With `numbered` also `_row`: the record's number, from 1, in the order
        of its file; of several files, all must fit into memory.
        """

    def define(self, table: TableState) -> Relation:
        """The rows of a table's files."""

    def query(self, text: str) -> Relation:
        """The rows of a query, which runs when they are read."""

    def values(self, rows: pa.Table) -> Relation:
        """Rows in memory, held until they are forgotten or the engine is closed."""

    def forget(self, relation: Relation) -> None:
        """Free what a relation holds in memory; no later query reads it."""

    def fields(self, query: str, names: Mapping[str, Relation] | None = None) -> tuple[Field, ...]:
        """The columns that a query returns."""

    def write(
        self,
        query: str,
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        names: Mapping[str, Relation] | None = None,
        *,
        all_rows: bool = False,
    ) -> Written:
        """Write a query's rows as Parquet files named `prefix…` below `root`.

        Rows with NULL in the first partition column are left out and counted; `all_rows` keeps
        them.

        Raises CsvBroken when a file that the query parses is less regular than its shape says.
        """

    def write_months(
        self,
        query: str,
        months: Mapping[str, Mapping[str, TableState]],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        names: Mapping[str, Relation] | None = None,
        *,
        cut: Cut | None = None,
    ) -> tuple[DataFile, ...]:
        """Write a query's rows once for each month; `months` maps each month to its tables.

        Raises WrongMonth unless the first partition column of every row holds that row's month.
        `cut` says how a month's work may be divided further.
        """

    def write_each(
        self, writes: Sequence[Write]
    ) -> Iterator[tuple[DataFile, ...] | RetailmartError]:
        """Write queries that do not read each other. Yields each one's files, or its error.

        They run in parallel where the engine has several machines.
        """

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        """Remove files that were just written below a root."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result, as Python values; decimals are Decimal."""

    def rows_of(self, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        """The small results of several queries, which run together on several machines."""

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        """A large result in the query's order, as record batches of about `size` rows."""

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        """Do the work for each item, in parallel where the engine has several machines.

        `sizes` say about how many bytes each item reads; small work runs on this machine. What
        `work` writes through its engine counts once, however often an item is tried.
        """

    def exchange(self) -> Path:
        """A new root that all machines see, for files in transit; removed on close."""

    def interrupt(self) -> None:
        """Make what the engine computes now fail, with an error of the whole run.

        Called from any thread, several times; without effect while nothing is computed.
        """

    def close(self) -> None:
        """Free what the engine holds."""


@dataclass(frozen=True)
class Cut:
    """How to divide a month's rows between tasks without changing a query's result.

    Either by the files of one table: `by_files` names the one that the query takes row by row. Or
    by the values of columns of `tables`. Each task sees all other tables whole.
    """

    by_files: str | None = None
    by_columns: tuple[str, ...] = ()
    tables: frozenset[str] = frozenset()
    # Part number and number of parts, when divided by columns; an engine sets this.
    share: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Write:
    """Rows to write: all rows of a query, or its rows for each of some months.

    The fields are the arguments of `Engine.write` and `Engine.write_months`. `columns` are those of
    the query, where they are known: then it need not be parsed and typed once more.
    """

    query: str
    root: Path
    prefix: str
    partition_by: Sequence[str]
    names: Mapping[str, Relation]
    months: Mapping[str, Mapping[str, TableState]] | None = None
    cut: Cut | None = None
    columns: tuple[Field, ...] | None = None
