"""The Spark engine: a task carries a description of a query's input, and DuckDB computes there.

On the driver every relation exists without rows, so that queries can be parsed and typed. The
driver computes small work itself. Everything else becomes tasks: a query with the relations that it
reads, or a piece of work with an item. Rows do not pass through the driver.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException

import retailmart.errors
from retailmart.engines import (
    EXCHANGE,
    Cut,
    Engine,
    Files,
    Item,
    Result,
    VariableValue,
    Work,
    Write,
)
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
from retailmart.engines.spark.session import first_words, open_session
from retailmart.engines.spark.tasks import (
    MEMORY_HINT,
    RESULT,
    Context,
    Outcome,
    Tasks,
    packed,
    unpacked,
    version_of,
)
from retailmart.errors import EngineFailed, RetailmartError
from retailmart.project.functions import Functions
from retailmart.tables import DataFile, Field, TableState, Written

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from retailmart.project.settings import SparkSettings

# The packages whose versions must match for pickled work to mean the same.
_SAME = ("retailmart", "duckdb", "pyarrow")
# A task that reads less is not worth starting; more than a few tasks a core gain nothing.
_LEAST, _TASKS_A_CORE = 16 << 20, 2
# For a table's files, which are compressed; a mart's query produces more than it reads.
_LEAST_OF_TABLES = 2 << 20
# Files already on this machine are processed here, up to this many bytes at a time.
_MOST_HERE = 32 << 20
# Larger rows in memory are sent as a file instead of within the task.
_ROWS_IN_TASK = 4 << 20
_MEMORY_HERE = "2GB"
_OUR_ERROR = re.compile(r"retailmart\.errors\.(\w+): ([^\n]*)(?:\n  ([^\n]*))?")


@dataclass(frozen=True)
class _Reads:
    """All relations that a query reads, each after those that it is built from.

    `names` maps names in a user's query to relations.
    """

    defined: tuple[tuple[str, Definition], ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(definition.size for _, definition in self.defined)

    def on(self, engine: Engine) -> dict[str, Relation]:
        """Define the relations in another engine; returns the query's names there."""
        assert isinstance(engine, DuckDBEngine)  # noqa: S101 - tasks and the driver have no other
        for name, definition in self.defined:
            engine.add(name, definition)
        return {name: Relation(meant) for name, meant in self.names.items()}


@dataclass(frozen=True)
class _Question:
    """A query with a small result."""

    query: str
    reads: _Reads


def _answers(engine: Engine, questions: Sequence[_Question]) -> list[list[tuple[Any, ...]]]:
    answers = []
    for question in questions:
        question.reads.on(engine)
        answers.append(engine.rows(question.query))
    return answers


@dataclass(frozen=True)
class _Ordered:
    """Writes a query's rows in its order, so that the driver can read them."""

    query: str
    root: Path

    def __call__(self, engine: Engine, reads: _Reads) -> Written:
        assert isinstance(engine, DuckDBEngine)  # noqa: S101
        reads.on(engine)
        return engine.write_ordered(self.query, self.root, "rows")


@dataclass(frozen=True)
class _Write:
    """Writes a query's rows."""

    query: str
    root: Path
    prefix: str
    partition_by: tuple[str, ...]
    all_rows: bool = False

    def __call__(self, engine: Engine, reads: _Reads) -> Written:
        names = reads.on(engine)
        return engine.write(
            self.query, self.root, self.prefix, self.partition_by, names, all_rows=self.all_rows
        )


@dataclass(frozen=True)
class _Months:
    """Some months of a mart, or a share of one; `number` makes its file names unique."""

    number: int
    months: Mapping[str, Mapping[str, TableState]]
    cut: Cut | None = None

    @property
    def size(self) -> int:
        tables = (table for tables in self.months.values() for table in tables.values())
        whole = sum(file.size for table in tables for file in table.files)
        return whole // (self.cut.share[1] if self.cut else 1)


@dataclass(frozen=True)
class _WriteMonths:
    """Writes a query's rows for some months."""

    query: str
    root: Path
    prefix: str
    partition_by: tuple[str, ...]
    reads: _Reads

    def __call__(self, engine: Engine, item: _Months) -> tuple[DataFile, ...]:
        prefix = f"{self.prefix}{item.number:04d}-"
        names = self.reads.on(engine)
        return engine.write_months(
            self.query, item.months, self.root, prefix, self.partition_by, names, cut=item.cut
        )


@dataclass(frozen=True)
class _Part:
    """A part of one query's rows, written together with those of other queries."""

    work: _Write | _WriteMonths
    item: Any


def _write_part(engine: Engine, part: _Part) -> tuple[DataFile, ...]:
    if isinstance(part.work, _Write):
        return part.work(engine, part.item).files
    return part.work(engine, part.item)


class SparkEngine:
    """One run's use of Spark; a session is opened when the first task needs it."""

    retried = False

    def __init__(self, settings: SparkSettings, places: Sequence[Files], scratch: Path) -> None:
        self.scratch = scratch
        self._settings = settings
        self._places = tuple(places)
        self._stack = ExitStack()
        self._types = DuckDBEngine(places, scratch)
        self._stack.callback(self._types.close)
        self._here = DuckDBEngine(places, scratch, _MEMORY_HERE)
        self._stack.callback(self._here.close)
        self._left_here = _bytes(settings.driver_reads)
        # Files that this machine has read or written, by the roots of their tables.
        self._known_here: set[tuple[str, str]] = set()
        self._defined: dict[str, Definition] = {}
        self._variables: dict[str, VariableValue] = {}
        self._functions = Functions()
        self._exchanges: list[Path] = []
        self._lock = threading.RLock()

    # queries: the relations that they can name

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        self._variables.update(values)
        self._types.set_variables(values)
        self._here.set_variables(values)

    def add_functions(self, functions: Functions) -> None:
        self._functions = functions
        self._types.add_functions(functions)
        self._here.add_functions(functions)

    def tables_in(self, query: str) -> frozenset[str]:
        return self._types.tables_in(query)

    def tree(self, query: str) -> Mapping[str, Any]:
        return self._types.tree(query)

    def csv(
        self, files: Mapping[int, Path], shape: CsvShape, *, numbered: bool = False
    ) -> Relation:
        definition = OfFiles(files, shape, numbered)
        return self._added(self._types.csv(files, shape, numbered=numbered), definition)

    def json(
        self, files: Mapping[int, Path], shape: JsonShape, *, numbered: bool = False
    ) -> Relation:
        definition = OfFiles(files, shape, numbered)
        return self._added(self._types.json(files, shape, numbered=numbered), definition)

    def define(self, table: TableState) -> Relation:
        return self._added(self._types.define(table.only(())), OfTable(table))

    def query(self, text: str) -> Relation:
        return self._added(self._types.query(text), OfQuery(text))

    def values(self, rows: pa.Table) -> Relation:
        return self._added(self._types.values(rows.slice(0, 0)), OfRows(rows))

    def forget(self, values: Relation) -> None:
        with self._lock:
            self._defined.pop(values.name, None)
        self._types.forget(values)
        self._here.forget(values)

    def _added(self, relation: Relation, definition: Definition) -> Relation:
        with self._lock:
            self._defined[relation.name] = definition
        return relation

    def fields(self, query: str, names: Mapping[str, Relation] | None = None) -> tuple[Field, ...]:
        return self._types.fields(query, names)

    # queries: their results

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
        reads = self._reads(query, names)
        work = _Write(query, root, prefix, tuple(partition_by), all_rows)
        return self.spread(work, [reads], [self._size(reads)])[0]

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
        if self._takes(sum(sizes)):
            sizes = [0] * len(sizes)
        items = [part for some in parts for part, _ in some]
        outcomes = iter(self._worked(_write_part, items, sizes))
        for some in parts:
            own = [next(outcomes) for _ in some]
            error = next((outcome.error for outcome in own if outcome.error is not None), None)
            yield error or tuple(file for outcome in own for file in outcome.value)

    def _parts_of(self, write: Write) -> Iterator[tuple[_Part, int]]:
        """The tasks for one write, each with the size that it reads."""
        to = (write.query, write.root, write.prefix, tuple(write.partition_by))
        if write.months is None:
            reads = self._reads(write.query, write.names)
            yield _Part(_Write(*to, all_rows=True), reads), self._size(reads)
            return
        monthly = frozenset().union(*(tables.keys() for tables in write.months.values()))
        reads = self._reads(write.query, write.names, monthly)
        common = self._size(reads)
        for item in self._divided(write.months, write.cut):
            yield _Part(_WriteMonths(*to, reads), item), item.size + common

    def _divided(
        self, months: Mapping[str, Mapping[str, TableState]], cut: Cut | None
    ) -> list[_Months]:
        """Small months grouped, large months alone, or divided where that is allowed."""
        whole = {month: _Months(0, {month: tables}) for month, tables in months.items()}
        total = sum(one.size for one in whole.values())
        share = max(total // max(self._tasks_for(total), 1), 1)
        items: list[_Months] = []
        together: dict[str, Mapping[str, TableState]] = {}
        size = 0
        for month, one in whole.items():
            if cut is not None and one.size > 2 * max(share, _LEAST_OF_TABLES):
                items += _shares(one, cut, one.size // max(share, _LEAST_OF_TABLES))
                continue
            together[month] = months[month]
            size += one.size
            if size >= share:
                items.append(_Months(0, together))
                together, size = {}, 0
        if together:
            items.append(_Months(0, together))
        return [replace(item, number=number) for number, item in enumerate(items, 1)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.rows_of([query])[0]

    def rows_of(self, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        questions = [_Question(query, self._reads(query)) for query in queries]
        groups, sizes = self._grouped(questions)
        found = self.spread(_answers, groups, sizes)
        answers = {
            id(question): rows
            for group, some in zip(groups, found, strict=True)
            for question, rows in zip(group, some, strict=True)
        }
        return [answers[id(question)] for question in questions]

    def _grouped(self, questions: Sequence[_Question]) -> tuple[list[list[_Question]], list[int]]:
        """Questions in groups of about the same size, with these sizes; apart if they have none."""
        sizes = [self._size(question.reads) for question in questions]
        total = sum(sizes)
        share = max(total // max(self._tasks_for(total), 1), 1)
        groups: list[list[_Question]] = []
        filled: list[int] = []
        for question, size in sorted(zip(questions, sizes, strict=True), key=lambda one: one[1]):
            if not groups or filled[-1] >= share or (size and not filled[-1]):
                groups.append([])
                filled.append(0)
            groups[-1].append(question)
            filled[-1] += size
        return groups, filled

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        reads = self._reads(query)
        read = self._size(reads)
        # The rows come to this machine in any case, so it may also read a small input.
        if read <= _LEAST_OF_TABLES or self._takes(read):
            self._knows(reads)
            reads.on(self._here)
            yield from self._here.batches(query, size)
            return
        import pyarrow.parquet as pq

        root = self.exchange()
        written = self.spread(_Ordered(query, root), [reads], [read])[0]
        table = TableState(str(root), written.fields, (), written.files)
        place = self._places[0]
        for file in place.here(table).files:
            with pq.ParquetFile(place.folder(root) / file.path) as opened:
                yield from opened.iter_batches(size)
        place.forget(root)

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        self._here.discard(root, files)

    def exchange(self) -> Path:
        if not self._places:
            return self._here.exchange()
        root = self._places[0].workspace / EXCHANGE / uuid.uuid4().hex
        self._exchanges.append(root)
        return root

    def close(self) -> None:
        for root in self._exchanges:
            self._places[0].forget(root)
        self._stack.close()

    def _reads(
        self,
        query: str,
        names: Mapping[str, Relation] | None = None,
        monthly: Iterable[str] = (),
    ) -> _Reads:
        """The relations that a query reads, without `monthly` names, which differ by month."""
        meant = {name.lower(): relation for name, relation in (names or {}).items()}
        skipped = {name.lower() for name in monthly}
        found: dict[str, Definition] = {}
        used: dict[str, str] = {}
        for name in sorted(self._named(query)):
            if (relation := meant.get(name.lower())) is not None:
                used[name] = relation.name
                self._collect(relation.name, found)
            elif name.lower() not in skipped:
                self._collect(name, found)
        return _Reads(tuple(found.items()), used)

    def _size(self, reads: _Reads) -> int:
        """The bytes to read that are not on this machine yet; if those are many, all bytes."""
        here = sum(
            definition.size
            if isinstance(definition, OfRows)
            else sum(file.size for file in self._read_here(definition))
            for _, definition in reads.defined
        )
        return reads.size - here if here <= _MOST_HERE else reads.size

    def _read_here(self, definition: Definition) -> list[DataFile]:
        if not isinstance(definition, OfTable):
            return []
        table = definition.table
        return [file for file in table.files if (table.root, file.path) in self._known_here]

    def _knows(self, reads: _Reads) -> None:
        """Remember that this machine now has the files that it reads."""
        for _, definition in reads.defined:
            if isinstance(definition, OfTable):
                table = definition.table
                self._known_here |= {(table.root, file.path) for file in table.files}

    def _collect(self, name: str, found: dict[str, Definition]) -> None:
        if name in found or name not in self._defined:
            return
        definition = self._defined[name]
        if isinstance(definition, OfQuery):
            for inner in sorted(self._named(definition.text)):
                self._collect(inner, found)
        found[name] = definition

    def _named(self, query: str) -> frozenset[str]:
        try:
            return self._types.tables_in(query)
        except ValueError:  # it runs here, where DuckDB reports the error
            return frozenset()

    # tasks

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        if self._takes(sum(sizes)):
            return [self._work_here(work, item) for item in items]
        outcomes = self._worked(work, items, sizes)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes]

    def _worked(self, work: Any, items: Sequence[Any], sizes: Sequence[int]) -> list[Outcome]:
        """The outcome of each item; an item of size 0 reads only local data and runs here."""
        away = sorted((n for n, size in enumerate(sizes) if size), key=lambda n: -sizes[n])
        found = dict(zip(away, self._run(work, [items[n] for n in away]), strict=True))
        for number, size in enumerate(sizes):
            if not size:
                try:
                    found[number] = Outcome(self._work_here(work, items[number]), None, 0)
                except RetailmartError as error:
                    found[number] = Outcome(None, error, 0)
        return [found[number] for number in range(len(items))]

    def _work_here(self, work: Work[Item, Result], item: Item) -> Result:
        before = len(self._here.written)
        result = work(self._here, item)
        written = self._here.written[before:]
        self._known_here |= {(str(root), file.path) for root, file in written}
        return result

    def _is_little(self, size: int) -> bool:
        """Whether the driver may read this much itself; a limit applies to the total."""
        return size <= self._left_here

    def _takes(self, size: int) -> bool:
        """Whether the driver does the work itself; what it reads then counts towards its limit."""
        if not self._is_little(size):
            return False
        self._left_here -= size
        return True

    @property
    def parallelism(self) -> int:
        return self._cores

    def parts(self, size: int) -> int:
        return max(1, min(size // _LEAST, _TASKS_A_CORE * self._cores_for(size)))

    def _tasks_for(self, size: int) -> int:
        """The best number of tasks for this many bytes of tables' files."""
        return min(size // _LEAST_OF_TABLES, _TASKS_A_CORE * self._cores_for(size))

    def _cores_for(self, size: int) -> int:
        """How many tasks run at once for this size; opens no session for small work."""
        return 1 if self._is_little(size) else self._cores

    @cached_property
    def _session(self) -> SparkSession:
        return self._stack.enter_context(open_session(self._settings))

    @cached_property
    def _cores(self) -> int:
        """How many tasks run at once; a remote server shows it by how it splits a range."""
        with self._lock:
            session = self._session
        if not _is_remote(session):
            return max(int(session.sparkContext.defaultParallelism), 1)
        from pyspark.sql import functions as sf

        with translate_errors():
            parts = session.range(0, 1 << 20).select(sf.spark_partition_id().alias("part"))
            return max(parts.distinct().count(), 1)

    def _run(self, work: Any, items: Sequence[Any]) -> list[Outcome]:
        """Run each item in its own task; the driver sees only descriptions and results."""
        if not items:
            return []
        with self._lock:
            session = self._session
            self._here.send()  # tasks may read what was written on this machine
            self._here.written = []
        context = Context(
            self._places,
            dict(self._variables),
            self._functions,
            (self.scratch,),
            self._settings.task_memory,
        )
        tasks = Tasks(
            packed(self._travelling(work)),
            tuple(packed(self._travelling(item)) for item in items),
            packed(context),
            {package: version_of(package) for package in _SAME},
        )
        count = len(items)
        rows: Iterable[Any]
        with translate_errors():
            if _is_remote(session):
                rows = session.range(0, count, 1, count).mapInArrow(tasks.batches, RESULT).collect()
            else:  # makes files written on this machine visible to tasks
                rows = session.sparkContext.parallelize(range(count), count).map(tasks).collect()
        outcomes: dict[int, Outcome] = {row[0]: unpacked(bytes(row[1])) for row in rows}
        if len(outcomes) != count:
            raise RetailmartError(f"Spark gave {len(outcomes)} results for {count} tasks")
        tried = any(outcome.attempt for outcome in outcomes.values())
        self.retried = self.retried or tried or self._speculates
        return [outcomes[number] for number in range(count)]

    @cached_property
    def _speculates(self) -> bool:
        return str(self._session.conf.get("spark.speculation", "false")).lower() == "true"

    def _travelling(self, item: Any) -> Any:
        """Work or an item ready to send: many rows in memory go by a file that all machines see."""
        if isinstance(item, list):
            return [self._travelling(one) for one in item]
        if isinstance(item, _Part):
            return _Part(self._travelling(item.work), self._travelling(item.item))
        if isinstance(item, _WriteMonths | _Question):
            return replace(item, reads=self._travelling(item.reads))
        if not isinstance(item, _Reads):
            return item
        return replace(item, defined=tuple((n, self._filed(d)) for n, d in item.defined))

    def _filed(self, definition: Definition) -> Definition:
        if not isinstance(definition, OfRows) or definition.size <= _ROWS_IN_TASK:
            return definition
        root = self.exchange()
        values = self._here.values(definition.rows)
        written = self._here.write(f"SELECT * FROM {values}", root, "rows", ())
        self._here.forget(values)
        self._places[0].send(root, written.files)
        return OfTable(TableState(str(root), written.fields, (), written.files))


def _shares(whole: _Months, cut: Cut, count: int) -> list[_Months]:
    """A large month in `count` shares: by files of one of its tables, or by values of columns."""
    ((month, tables),) = whole.months.items()
    if cut.by_files is not None:
        table = tables[cut.by_files]
        files = sorted(table.files, key=lambda file: -file.size)
        groups = [files[number::count] for number in range(min(count, len(files)))]
        return [
            _Months(0, {month: {**tables, cut.by_files: table.only(group)}}) for group in groups
        ]
    if not cut.by_columns:
        return [whole]
    return [
        _Months(0, whole.months, replace(cut, share=(number, count))) for number in range(count)
    ]


def _is_remote(session: SparkSession) -> bool:
    """Whether this is a Connect client, which can send only SQL plans."""
    return type(session).__module__.startswith("pyspark.sql.connect")


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit[0].upper()))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate Spark's errors to ours."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise translated(str(error), error) from error


def translated(words: str, error: BaseException) -> RetailmartError:
    """Our error in the text of a Spark error, or a new one with that text."""
    if lacking := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", words):
        package = lacking[1].partition(".")[0]
        return EngineFailed(
            f"the Python of Spark's workers has no {package}",
            "Install retailmart there as here, or let PYSPARK_PYTHON name a Python that has it;"
            " docs/spark.md says how",
        )
    if own := _OUR_ERROR.search(words):
        kind = getattr(retailmart.errors, own[1], RetailmartError)
        if kind is not retailmart.errors.SettingsError and issubclass(kind, RetailmartError):
            found: RetailmartError = kind(own[2].strip(), own[3] and own[3].strip())
            return found
    if "Python worker exited unexpectedly" in words or "MemoryError" in words:
        return RetailmartError("a worker's Python was ended, as by too little memory", MEMORY_HINT)
    return EngineFailed(first_words(error))  # queries run in tasks, whose errors are ours
