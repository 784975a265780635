"""The engine that computes in this process."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from retailmart.engines import Cut, Files, Item, Result, VariableValue, Work, Write
from retailmart.engines.duckdb.connection import Connection
from retailmart.engines.duckdb.sql import read_files, read_table, share
from retailmart.engines.duckdb.writing import Writer, place_of
from retailmart.engines.relations import (
    CsvShape,
    Definition,
    JsonShape,
    OfFiles,
    OfQuery,
    OfRows,
    OfTable,
    Relation,
)
from retailmart.errors import RetailmartError
from retailmart.project.functions import Functions
from retailmart.project.types import ColumnType, parse_type
from retailmart.tables import DataFile, Field, TableState, Written, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Contains a blank, so that no table of a user has this name.
_RELATION = "relation "


class DuckDBEngine:
    """DuckDB over local files, in a sandbox: it reads nothing outside the given folders.

    Beyond `Engine` it is what a task works with: relations of another engine can be added by their
    names, and `writer` has the files that were written here. `attempt` makes their names unique.
    """

    parallelism = 1
    retried = False

    def __init__(
        self,
        places: Sequence[Files],
        scratch: Path,
        memory_limit: str | None = None,
        threads: int | None = None,
        *,
        attempt: str = "",
        readable: Sequence[Path] = (),
    ) -> None:
        self.scratch = scratch
        self._exchange = scratch / f"exchange-{uuid.uuid4().hex}"
        self._places = tuple(places)
        folders = (*readable, *(place.workspace for place in self._places))
        self._connection = Connection(folders, scratch, memory_limit, threads)
        self.writer = Writer(self._connection, self._places, attempt)
        # Relations of several engines meet in one engine, so their names must differ.
        self._named, self._tag, self._naming = 0, uuid.uuid4().hex[:8], Lock()
        # A run defines most tables several times, and DuckDB opens their files each time.
        self._tables: dict[str, Relation] = {}
        self._fields: dict[object, tuple[Field, ...]] = {}

    # what queries can name

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        self._connection.set_variables(values)

    def add_functions(self, functions: Functions) -> None:
        self._connection.add_functions(functions)

    def records(
        self, files: Mapping[int, Path], shape: CsvShape | JsonShape, *, numbered: bool = False
    ) -> Relation:
        return self.added(OfFiles(files, shape, numbered))

    def define(self, table: TableState) -> Relation:
        text = read_table(self._here(table))
        if (known := self._tables.get(text)) is None:
            known = self._tables[text] = Relation(self._new_name(), table.fields)
            self._connection.view(known.name, text)
        return known

    def query(self, text: str) -> Relation:
        return self.added(OfQuery(text))

    def values(self, rows: pa.Table) -> Relation:
        return self.added(OfRows(rows))

    def forget(self, relation: Relation) -> None:
        self._connection.release(relation.name)

    def added(self, definition: Definition) -> Relation:
        """A new relation, even where there is one just like it."""
        name = self._new_name()
        self.add(name, definition)
        if isinstance(definition, OfTable):
            return Relation(name, definition.table.fields)
        return Relation(name, self.fields(f"SELECT * FROM {quoted(name)}"))

    def _new_name(self) -> str:
        with self._naming:
            self._named += 1
            return f"{_RELATION}{self._tag} {self._named}"

    def add(self, name: str, definition: Definition) -> None:
        """Give a relation the name that it has in another engine."""
        if isinstance(definition, OfRows):
            self._connection.hold(name, definition.rows)
        elif isinstance(definition, OfQuery):
            self._connection.view(name, definition.text)
        elif isinstance(definition, OfTable):
            self._connection.view(name, read_table(self._here(definition.table)))
        else:
            self._connection.view(name, f"SELECT * FROM {read_files(definition)}")

    def relation(self, found: Relation) -> duckdb.DuckDBPyRelation:
        """A relation as an object of this engine's connection."""
        return self._connection.relation(found.name)

    def fields(self, query: str, names: Mapping[str, Relation] | None = None) -> tuple[Field, ...]:
        if not names:
            return self._described(query)
        # The columns depend on those of what is read, which a run gives several times.
        asked = (query, *((name, names[name].fields) for name in sorted(names)))
        if (known := self._fields.get(asked)) is None:
            self._bind(names)
            known = self._fields[asked] = self._described(query)
        return known

    def _described(self, query: str) -> tuple[Field, ...]:
        described = self.rows(f"DESCRIBE {query}")
        folded = [str(name).lower() for name, *_ in described]
        if twice := sorted({name for name in folded if folded.count(name) > 1}):
            raise RetailmartError(
                f"names the column {twice[0]!r} more than once; letter case tells none apart",
                "Give each column of the mart's SELECT a name of its own, with AS",
            )
        return tuple(Field(name, _type(name, kind)) for name, kind, *_ in described)

    def _bind(self, names: Mapping[str, Relation] | None) -> None:
        """Let a user's query find relations by the names that it uses for them."""
        for name, relation in (names or {}).items():
            if name != relation.name:
                self._connection.view(name, f"SELECT * FROM {relation}")

    def _here(self, table: TableState) -> TableState:
        place = place_of(self._places, table.root)
        return place.here(table) if place else table

    # results

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.rows(query)

    def rows_of(self, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        return [self.rows(query) for query in queries]

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        return self._connection.batches(query, size)

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
        fields = self.fields(query, names)
        self._bind(names)
        return self.writer.write(query, fields, root, prefix, partition_by, all_rows=all_rows)

    def write_ordered(self, query: str, root: Path, prefix: str) -> Written:
        """Write a query's rows into one file, in the query's order."""
        with self._connection.ordered():
            return self.write(query, root, prefix, ())

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
        return self._written(Write(query, root, prefix, partition_by, names or {}, months, cut))

    def write_each(
        self, writes: Sequence[Write]
    ) -> Iterator[tuple[DataFile, ...] | RetailmartError]:
        for write in writes:
            try:
                yield self._written(write)
            except RetailmartError as error:
                yield error

    def _written(self, write: Write) -> tuple[DataFile, ...]:
        self._bind(write.names)
        columns = write.columns
        if write.months is None:
            columns = columns or self.fields(write.query)
            to = (write.root, write.prefix, write.partition_by)
            return self.writer.write(write.query, columns, *to, all_rows=True).files
        files: list[DataFile] = []
        for number, (month, tables) in enumerate(write.months.items(), 1):
            for name, table in tables.items():
                rows = read_table(self._here(table))
                self._connection.view(name, share(name, rows, write.cut))
            columns = columns or self.fields(write.query)  # of all months: their tables are alike
            own = (write.root, f"{write.prefix}{number:04d}", write.partition_by)
            files += self.writer.write(write.query, columns, *own, month=month).files
        return tuple(files)

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        self.writer.discard(root, files)

    # work

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        return [work(self, item) for item in items]

    def parts(self, size: int) -> int:
        return 1

    def exchange(self) -> Path:
        return self._exchange / uuid.uuid4().hex

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()
        shutil.rmtree(self._exchange, ignore_errors=True)


def _type(name: str, kind: str) -> ColumnType:
    if kind == "HUGEINT":  # the type of sum() over integers; a sum over 2^63 raises an error
        return ColumnType("BIGINT")
    if kind == '"NULL"':
        return ColumnType("STRING")
    try:
        return parse_type(kind)
    except ValueError as error:
        raise RetailmartError(
            f"column {name!r} is of type {kind}, which tables do not hold",
            "Cast it in the mart's SELECT, as in CAST(x AS VARCHAR)",
        ) from error
