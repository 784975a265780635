"""The Spark engine: a task carries a description of a query's input, and DuckDB computes there.

On the driver every relation exists without rows, so that queries can be parsed and typed. The
driver computes small work itself. Everything else becomes tasks: a query with the relations that it
reads, or a piece of work with an item. Rows do not pass through the driver.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from retailmart.engines import EXCHANGE, Cut, Files, Item, Result, VariableValue, Work, Write
from retailmart.engines.duckdb import DuckDBEngine
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
from retailmart.engines.spark import sharing
from retailmart.engines.spark.catalog import Catalog
from retailmart.engines.spark.driver import Driver
from retailmart.engines.spark.jobs import Jobs
from retailmart.engines.spark.tasks import Outcome
from retailmart.engines.spark.work import (
    Question,
    Reads,
    WriteMonths,
    WriteOrdered,
    WritePart,
    WriteRows,
    answers,
    write_part,
)
from retailmart.errors import RetailmartError
from retailmart.project.functions import Functions
from retailmart.tables import DataFile, Field, TableState, Written

if TYPE_CHECKING:
    import pyarrow as pa

    from retailmart.project.settings import SparkSettings

# Larger rows in memory are sent as a file instead of within the task.
_ROWS_IN_TASK = 4 << 20
_MEMORY_HERE = "2GB"


class SparkEngine:
    """One run's use of Spark: `Engine`, divided between the driver and jobs.

    What a query reads is known to the catalog, what is little is the driver's own work, and jobs
    run the rest. The methods beyond those of `Engine` decide which of them does what.
    """

    def __init__(self, settings: SparkSettings, places: Sequence[Files], scratch: Path) -> None:
        self.scratch = scratch
        self._places = tuple(places)
        self._catalog = Catalog(DuckDBEngine(places, scratch))
        self._driver = Driver(DuckDBEngine(places, scratch, _MEMORY_HERE), settings.driver_reads)
        self._jobs = Jobs(settings, places, scratch)
        self._exchanges: list[Path] = []
        self._sending = Lock()

    # what queries can name

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        self._jobs.variables.update(values)
        self._catalog.types.set_variables(values)
        self._driver.engine.set_variables(values)

    def add_functions(self, functions: Functions) -> None:
        self._jobs.functions = functions
        self._catalog.types.add_functions(functions)
        self._driver.engine.add_functions(functions)

    def records(
        self, files: Mapping[int, Path], shape: CsvShape | JsonShape, *, numbered: bool = False
    ) -> Relation:
        return self._catalog.add(OfFiles(files, shape, numbered))

    def define(self, table: TableState) -> Relation:
        return self._catalog.add(OfTable(table))

    def query(self, text: str) -> Relation:
        return self._catalog.add(OfQuery(text))

    def values(self, rows: pa.Table) -> Relation:
        return self._catalog.add(OfRows(rows))

    def forget(self, relation: Relation) -> None:
        self._catalog.forget(relation)
        self._driver.engine.forget(relation)

    def fields(self, query: str, names: Mapping[str, Relation] | None = None) -> tuple[Field, ...]:
        return self._catalog.types.fields(query, names)

    # results

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.rows_of([query])[0]

    def rows_of(self, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        questions = [Question(query, self._catalog.reads(query)) for query in queries]
        sizes = [self._driver.size(question.reads) for question in questions]
        groups, filled = sharing.shared_questions(questions, sizes, self._cores_for(sum(sizes)))
        found = self.spread(answers, groups, filled)
        by_question = {
            id(question): rows
            for group, some in zip(groups, found, strict=True)
            for question, rows in zip(group, some, strict=True)
        }
        return [by_question[id(question)] for question in questions]

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        reads = self._catalog.reads(query)
        read = self._driver.size(reads)
        # The rows come to this machine in any case, so it may also read a small input.
        if read <= sharing.LEAST_OF_TABLES or self._driver.takes(read):
            self._driver.read(reads)
            reads.on(self._driver.engine)
            yield from self._driver.engine.batches(query, size)
            return
        import pyarrow.parquet as pq

        root = self.exchange()
        written = self.spread(WriteOrdered(query, root), [reads], [read])[0]
        table = TableState(str(root), written.fields, (), written.files)
        place = self._places[0]
        for file in place.here(table).files:
            with pq.ParquetFile(place.folder(root) / file.path) as opened:
                yield from opened.iter_batches(size)
        place.forget(root)

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
        reads = self._catalog.reads(query, names)
        work = WriteRows(query, root, prefix, tuple(partition_by), all_rows)
        return self.spread(work, [reads], [self._driver.size(reads)])[0]

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
        write = Write(query, root, prefix, partition_by, names or {}, months, cut)
        (found,) = self.write_each([write])
        if isinstance(found, RetailmartError):
            raise found
        return found

    def write_each(
        self, writes: Sequence[Write]
    ) -> Iterator[tuple[DataFile, ...] | RetailmartError]:
        parts = [list(self._parts_of(write)) for write in writes]
        sizes = [size for some in parts for _, size in some]
        if self._driver.takes(sum(sizes)):
            sizes = [0] * len(sizes)
        items = [part for some in parts for part, _ in some]
        outcomes = iter(self._outcomes(write_part, items, sizes))
        for some in parts:
            own = [next(outcomes) for _ in some]
            error = next((outcome.error for outcome in own if outcome.error is not None), None)
            yield error or tuple(file for outcome in own for file in outcome.value)

    def _parts_of(self, write: Write) -> Iterator[tuple[WritePart, int]]:
        """The tasks for one write, each with the size that it reads."""
        to = (write.query, write.root, write.prefix, tuple(write.partition_by))
        if write.months is None:
            reads = self._catalog.reads(write.query, write.names)
            yield WritePart(WriteRows(*to, all_rows=True), reads), self._driver.size(reads)
            return
        monthly = frozenset().union(*(tables.keys() for tables in write.months.values()))
        reads = self._catalog.reads(write.query, write.names, monthly)
        common = self._driver.size(reads)
        cores = self._cores_for(sharing.size_of(write.months))
        for item in sharing.shared_months(write.months, write.cut, cores):
            yield WritePart(WriteMonths(*to, reads), item), item.size + common

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        self._driver.engine.discard(root, files)

    # work

    @property
    def parallelism(self) -> int:
        return self._jobs.cores

    @property
    def retried(self) -> bool:
        return self._jobs.retried

    def parts(self, size: int) -> int:
        return sharing.tasks_for_files(size, self._cores_for(size))

    def _cores_for(self, size: int) -> int:
        """How many tasks run at once for this size; opens no session for small work."""
        return 1 if self._driver.is_little(size) else self._jobs.cores

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        if self._driver.takes(sum(sizes)):
            return [self._driver.work(work, item) for item in items]
        outcomes = self._outcomes(work, items, sizes)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes]

    def _outcomes(self, work: Any, items: Sequence[Any], sizes: Sequence[int]) -> list[Outcome]:
        """The outcome of each item; an item of size 0 reads only local data and runs here."""
        away = sorted((n for n, size in enumerate(sizes) if size), key=lambda n: -sizes[n])
        found: dict[int, Outcome] = {}
        if away:
            with self._sending:  # tasks may read what was written on this machine
                self._driver.engine.writer.send()
                self._driver.engine.writer.written.clear()
            travelling = [self._travelling(items[n]) for n in away]
            done = self._jobs.run(self._travelling(work), travelling)
            found = dict(zip(away, done, strict=True))
        for number, size in enumerate(sizes):
            if not size:
                try:
                    found[number] = Outcome(self._driver.work(work, items[number]), None, 0)
                except RetailmartError as error:
                    found[number] = Outcome(None, error, 0)
        return [found[number] for number in range(len(items))]

    def _travelling(self, item: Any) -> Any:
        """Work or an item ready to send: many rows in memory go by a file that all machines see."""
        if isinstance(item, list):
            return [self._travelling(one) for one in item]
        if isinstance(item, WritePart):
            return WritePart(self._travelling(item.work), self._travelling(item.item))
        if isinstance(item, WriteMonths | Question):
            return replace(item, reads=self._travelling(item.reads))
        if not isinstance(item, Reads):
            return item
        return replace(item, defined=tuple((n, self._filed(d)) for n, d in item.defined))

    def _filed(self, definition: Definition) -> Definition:
        if not isinstance(definition, OfRows) or definition.size <= _ROWS_IN_TASK:
            return definition
        root, here = self.exchange(), self._driver.engine
        values = here.values(definition.rows)
        written = here.write(f"SELECT * FROM {values}", root, "rows", ())
        here.forget(values)
        self._places[0].send(root, written.files)
        return OfTable(TableState(str(root), written.fields, (), written.files))

    def exchange(self) -> Path:
        if not self._places:
            return self._driver.engine.exchange()
        root = self._places[0].workspace / EXCHANGE / uuid.uuid4().hex
        self._exchanges.append(root)
        return root

    def interrupt(self) -> None:
        self._jobs.interrupt()
        self._driver.engine.interrupt()
        self._catalog.types.interrupt()

    def close(self) -> None:
        for root in self._exchanges:
            self._places[0].forget(root)
        self._jobs.close()
        self._driver.engine.close()
        self._catalog.types.close()
