"""Apache Spark as an engine: DuckDB types each query, Spark runs it.

Every relation is known twice: to Spark with its rows, and to a catalogue, which is a DuckDB in this
process, without any. So users' SQL is read, typed and refused by the same parser on both engines,
and what Spark gives is cast to what DuckDB says. Rows travel through Parquet files in a folder that
driver and workers both see: the driver's memory does not grow with them.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException
from pyspark.sql import types as st

from retailmart.engines import CsvShape, Fetch, JsonShape, VariableValue
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.engines.spark.dialect import to_spark
from retailmart.engines.spark.files import OF_MONTH, TOLD, Writer, left_out, told
from retailmart.engines.spark.functions import register, travel_by_value
from retailmart.engines.spark.jdbc import WRITERS, driver_in, open_jdbc
from retailmart.engines.spark.months import all_at_once
from retailmart.engines.spark.session import first_words, open_session
from retailmart.engines.told import ours
from retailmart.errors import CsvBroken, RetailmartError
from retailmart.project.functions import Function, Vectorised
from retailmart.project.types import ColumnType, parse_type
from retailmart.tables import (
    DatabaseAddress,
    DataFile,
    Extract,
    Field,
    TableState,
    Written,
    quoted,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from retailmart.project.settings import SparkSettings

_MANY_FILES = 16
# Spark joins parts that are small; many of them keep a small month from a large one's part, which
# is cut among tasks.
_PARTS_A_CORE = 8
_READERS_MEMORY = "1GB"
_ROWS_AT_ONCE = 100_000
_PARTS, _PART_BYTES = (
    "spark.sql.shuffle.partitions",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes",
)
# How much larger rows are in a shuffle than in a table's files.
_SHUFFLED = 2
# What one task is to shuffle, and how much larger rows are there than in a table's files.
_PART, _GROWTH = 64 << 20, 8
_STALE = timedelta(days=1)
_BROKEN_CSV = ("MALFORMED_CSV_RECORD", "MALFORMED_RECORD_IN_PARSING", "TextParsingException")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Frame:
    """A relation that Spark has already, read from files of so many bytes.

    `table` is there where those are Parquet with just the relation's rows.
    """

    frame: DataFrame
    size: int
    table: TableState | None = None


@dataclass(frozen=True)
class _Query:
    """A relation that is a query over others, run where it is used."""

    text: str


@dataclass
class _Output:
    """The files named `prefix-…` below `root`. Those count that a finished task has told of.

    Others are there where a task failed or was tried twice: no commit would ever name them.
    """

    root: Path
    prefix: str
    counting: set[Path] = field(default_factory=set)
    uncertain: bool = False

    def settle(self, files: Iterable[DataFile]) -> None:
        """These count. Whoever else tried the same task wrote to the same folders."""
        self.counting.update(self.root / file.path for file in files if file.path)
        for folder in {path.parent for path in self.counting}:
            self._forget(folder.glob(f"{self.prefix}-*.parquet"))

    def forget_others(self) -> None:
        """Remove what does not count, wherever it is."""
        self._forget(self.root.rglob(f"{self.prefix}-*.parquet"))

    def _forget(self, found: Iterable[Path]) -> None:
        for path in set(found) - self.counting:
            path.unlink(missing_ok=True)
            self.uncertain = True


# What a name stands for: files, rows of Spark's, a query.
_Relation = TableState | _Frame | _Query


class SparkEngine:
    """One run's use of Spark."""

    def __init__(
        self,
        settings: SparkSettings,
        readable: Sequence[Path],
        scratch: Path,
        fetch: Fetch | None = None,
    ) -> None:
        self._fetch = fetch or (lambda _: None)
        self._stack = ExitStack()
        self._outputs: dict[tuple[Path, str], _Output] = {}
        self._stack.callback(self._forget_late)  # behind the session's end
        driver = driver_in(settings)
        self._session: SparkSession = self._stack.enter_context(open_session(settings))
        self._jdbc = open_jdbc(self._session, settings, driver)
        self._jdbc_from = settings.jdbc_from
        self._handing_over = threading.Lock()
        self._file_bytes = _bytes(settings.file_size)
        self._catalogue = DuckDBEngine(readable, scratch)
        self._stack.callback(self._catalogue.close)
        travel_by_value("retailmart")
        place = Path(settings.exchange) if settings.exchange else scratch / "exchange"
        self._driver_reads = _bytes(settings.driver_reads)
        self._reader = DuckDBEngine([*readable, place], scratch, _READERS_MEMORY)
        self._stack.callback(self._reader.close)
        _forget_stale(place)
        self._exchange = place / uuid.uuid4().hex
        self._stack.callback(shutil.rmtree, self._exchange, ignore_errors=True)
        self._before = {key: self._session.conf.get(key) for key in (_PARTS, _PART_BYTES)}
        self._parts = int(self._before[_PARTS] or 200)
        self._stack.callback(self._set_back)
        self._session.conf.set(_PART_BYTES, str(_SHUFFLED * self._file_bytes))
        self._cores = _cores(self._session, self._parts)
        self._relations: dict[str, _Relation] = {}
        self._views: dict[str, tuple[object, ...]] = {}
        self._variables: dict[str, VariableValue] = {}
        self._functions: dict[str, ColumnType] = {}
        self._named = 0
        # Views are one for all threads: what a query means is settled before another changes them.
        self._lock = threading.RLock()

    # what queries may name

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        with self._lock:
            self._variables.update(values)
            self._catalogue.set_variables(values)
            self._reader.set_variables(values)

    def add_functions(self, functions: Mapping[Function, Vectorised]) -> None:
        self._catalogue.add_functions(functions)
        self._reader.add_functions(functions)
        for function, code in functions.items():
            self._functions[function.name] = function.returns
            register(self._session, function, code)

    def tables_in(self, query: str) -> frozenset[str]:
        return self._catalogue.tables_in(query)

    def csv(self, files: Mapping[int, Path], shape: CsvShape) -> str:
        names = {path.name: file_id for file_id, path in files.items()}
        frame = self._read_csv(files.values(), shape)
        columns = ", ".join(f"c{n}" for n in range(shape.columns))
        parsed = frame.selectExpr(*_texts(shape), "_metadata.file_name AS _file_name")
        if len(names) <= _MANY_FILES:
            cases = " ".join(f"WHEN {_literal(n)} THEN {i}" for n, i in names.items())
            numbered = parsed.selectExpr("*", f"CASE _file_name {cases} END AS _file_id")
        else:
            rows = ", ".join(f"({_literal(n)}, {i})" for n, i in names.items())
            ids = self._session.sql(f"SELECT * FROM VALUES {rows} AS v(_file_name, _file_id)")
            numbered = parsed.join(ids.hint("broadcast"), "_file_name")
        kept = numbered.selectExpr(*columns.split(", "), "CAST(_file_id AS INT) AS _file_id")
        return self._relation(kept, [*_text_fields("c", shape.columns), _FILE_ID], files.values())

    def numbered_csv(self, file: Path, shape: CsvShape) -> str:
        """Each part of the file numbers its own records; the parts before it say from where on."""
        part = "_metadata.file_block_start AS _part"
        frame = self._read_csv([file], shape).selectExpr(*_texts(shape), part)
        placed = frame.selectExpr("*", "monotonically_increasing_id() AS _place")
        counts = sorted(frame.groupBy("_part").count().collect())
        starts, before = [], 0
        for start, count in counts:
            starts.append(f"WHEN {start} THEN {before}")
            before += count
        start = f"CASE _part {' '.join(starts)} END" if starts else "0"
        within = "row_number() OVER (PARTITION BY _part ORDER BY _place)"
        columns = [f"c{n}" for n in range(shape.columns)]
        numbered = placed.selectExpr(*columns, f"CAST({start} + {within} AS BIGINT) AS _row")
        return self._relation(numbered, [*_text_fields("c", shape.columns), _ROW], [file])

    def json(self, files: Mapping[int, Path], shape: JsonShape) -> str:
        return self._through_duckdb(self._catalogue.json(files, shape))

    def numbered_json(self, file: Path, shape: JsonShape) -> str:
        return self._through_duckdb(self._catalogue.numbered_json(file, shape))

    def define(self, name: str, table: TableState) -> None:
        with self._lock:
            self._catalogue.define(name, table.only(()))
            self._relations[name.lower()] = table

    def define_query(self, name: str, query: str) -> None:
        with self._lock:
            self._catalogue.define_query(name, query)
            self._relations[name.lower()] = _Query(query)

    def define_rows(self, name: str, rows: pa.Table) -> None:
        """Rows in memory become a file: how frames are made of them differs between Sparks."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        plain = _readable_by_spark(rows)
        path = self._new_path().with_suffix(".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(plain, path, compression="zstd", compression_level=1)
        fields, size = tuple(_fields_of(plain)), _size_of([path])
        frame = self._session.read.schema(_schema(fields)).parquet(_uri(path))
        file = DataFile(path.name, size, plain.num_rows)
        with self._lock:
            self._catalogue.define_rows(name, pa.Table.from_batches([], rows.schema))
            table = TableState(str(path.parent), fields, (), (file,))
            self._relations[name.lower()] = _Frame(frame, size, table)

    # what queries give

    def fields(self, query: str) -> tuple[Field, ...]:
        return self._catalogue.fields(query)

    def write(self, query: str, root: Path, prefix: str, partition_by: Sequence[str]) -> Written:
        fields = self.fields(query)
        frame = self._frame(query, [field.type for field in fields])
        self._expect(query)
        files = self._write(frame, fields, root, prefix, partition_by, partition_by)
        return Written(fields, tuple(file for file in files if file.path), left_out(files))

    def write_months(
        self,
        query: str,
        months: Mapping[str, Mapping[str, TableState]],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
    ) -> tuple[DataFile, ...]:
        """All months in one job: each of its own would cost more than most months' rows."""
        if not months:
            return ()
        with self._lock:
            together, of_several = self._all_at_once(query, months), True
            if together is None:
                together, of_several = self._one_by_one(query, months), False
            fields = self.fields(query)
        self._expect(query)
        # Where a task has rows of one month only, those need no shuffle.
        gathered = partition_by if of_several else partition_by[1:]
        return tuple(self._write(together, fields, root, prefix, partition_by, gathered))

    def _all_at_once(
        self, query: str, months: Mapping[str, Mapping[str, TableState]]
    ) -> DataFrame | None:
        """The rows of all months by one query, where there is one that gives just those."""
        monthly = _monthly(months)
        lifted = all_at_once(query, monthly) if len(months) > 1 else None
        if lifted is None:
            return None
        for name, table in {**next(iter(months.values())), **monthly}.items():
            self.define(name, table)
        kinds = [field.type for field in self.fields(query)]
        for name, table in monthly.items():
            base = f"_all_{name}"
            self.define(base, table)
            month = f"{quoted(table.partition_by[0])} AS {OF_MONTH}"
            self.define_query(name, f"SELECT *, {month} FROM {quoted(base)}")
        try:
            return self._frame(lifted, [*kinds, ColumnType("STRING")])
        finally:
            for name, table in monthly.items():
                self.define(name, table)

    def _one_by_one(self, query: str, months: Mapping[str, Mapping[str, TableState]]) -> DataFrame:
        parts = []
        for month, tables in months.items():
            for name, table in tables.items():
                self.define(name, table)
            frame = self._frame(query, [field.type for field in self.fields(query)])
            parts.append(frame.selectExpr("*", f"{_literal(month)} AS {OF_MONTH}"))
        return reduce(lambda one, other: one.union(other), parts)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self._is_read_here(query):
            return self._reader.rows(query)
        frame = self._frame(query, self._kinds(query))
        moments = [f.name for f in frame.schema.fields if isinstance(f.dataType, st.TimestampType)]
        if moments:  # Python's times of the machine's own zone would be ambiguous once a year
            frame = frame.selectExpr(
                *(
                    f"unix_micros({_named(name)}) AS {_named(name)}"
                    if name in moments
                    else _named(name)
                    for name in frame.columns
                )
            )
        at = [frame.columns.index(name) for name in moments]
        self._expect(query)
        with _told():
            found = [tuple(row) for row in frame.collect()]
        return [_with_times(row, at) for row in found] if at else found

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        """The query's order is that of the tasks that write its rows: Spark sorts into ranges."""
        import pyarrow.parquet as pq

        if self._is_read_here(query):
            yield from self._reader.batches(query, size)
            return
        frame = self._frame(query, self._kinds(query))
        self._expect(query)
        target = self._new_path()
        try:
            files = self._run(frame, Writer(str(target), "rows", (), {}, self._file_bytes))
            for file in sorted(files, key=lambda file: file.path):
                with pq.ParquetFile(target / file.path) as opened:
                    yield from opened.iter_batches(size)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def hand_over(self, query: str, address: DatabaseAddress, table: str, rows: int) -> bool:
        kinds = self._kinds(query)
        names = [field.name for field in self.fields(query)]
        # Spark does not write a name that holds its own quotes.
        if self._jdbc is None or rows < self._jdbc_from or "`" in "".join(names):
            return False
        frame = self._frame(query, kinds)
        with self._handing_over:  # else tables that are filled at a time would each have so many
            self._session.conf.set(_PARTS, str(WRITERS))
            self._jdbc.write(frame, address, table)
        return True

    def take_over(self, extract: Extract) -> str | None:
        if self._jdbc is None:
            return None
        target = self._new_path()
        writer = Writer(str(target), "rows", (), {}, self._file_bytes)
        paths = [target / file.path for file in self._jdbc.fetch(extract, writer)]
        schema = _schema(extract.fields)
        if paths:
            frame = self._session.read.schema(schema).parquet(*map(_uri, paths))
        else:
            frame = self._session.createDataFrame([], schema)
        return self._relation(frame, extract.fields, paths)

    def close(self) -> None:
        self._stack.close()

    # reading

    def _is_read_here(self, query: str) -> bool:
        """Whether so little is read for a query that to ask Spark would take longer than to read.

        Its relations are then known to the reader.
        """
        with self._lock:
            try:
                names = {name.lower() for name in self._catalogue.tables_in(query)}
            except ValueError:  # no SELECT: Spark's side says what is wrong with it
                return False
            if self._driver_reads <= sum(map(self._size, names)):
                return False
            return all(map(self._show_here, sorted(names)))

    def _show_here(self, name: str) -> bool:
        """Make a name mean to the reader what it means here; whether that can be."""
        relation = self._relations.get(name)
        if isinstance(relation, _Query):
            inner = {inner.lower() for inner in self._catalogue.tables_in(relation.text)}
            if not all(map(self._show_here, sorted(inner))):
                return False
            self._reader.define_query(name, relation.text)
            return True
        if isinstance(relation, TableState) and relation.files:
            self._fetch(relation)
        table = relation.table if isinstance(relation, _Frame) else relation
        if table is not None:
            self._reader.define(name, table)
        return table is not None

    def _read_csv(self, files: Iterable[Path], shape: CsvShape) -> DataFrame:
        columns = st.StructType(
            [st.StructField(f"c{n}", st.StringType()) for n in range(shape.columns)]
        )
        reader = self._session.read.schema(columns).options(
            header=True,
            sep=shape.delimiter,
            quote='"' if shape.quoted else "",
            escape='"' if shape.quoted else "",
            # Strict: what is not as regular as its shape says must not be read in one way here and
            # in another there.
            mode="FAILFAST",
            unescapedQuoteHandling="RAISE_ERROR",
            enforceSchema=True,
            ignoreLeadingWhiteSpace=False,
            ignoreTrailingWhiteSpace=False,
            maxCharsPerColumn=-1,
            maxColumns=max(shape.columns, 1) + 1,
            encoding="UTF-8",
        )
        if shape.multiline:
            reader = reader.options(multiLine=True, lineSep="\n")
        with _told():
            return reader.csv([_uri(path) for path in files])

    def _through_duckdb(self, relation: str) -> str:
        """A relation that DuckDB reads, as Parquet for Spark.

        JSON numbers are exact only in DuckDB's reader and the check that goes with it; it streams.
        """
        import pyarrow.parquet as pq

        path = self._new_path().with_suffix(".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        query = f"SELECT * FROM {relation}"
        fields = self._catalogue.fields(query)
        # By batches, not by COPY: only they keep a file's order, in which records are numbered.
        with closing(self._catalogue.batches(query, _ROWS_AT_ONCE)) as batches:
            first = next(batches, None)
            if first is None:
                return self._relation(
                    self._session.createDataFrame([], _schema(fields)), fields, []
                )
            with pq.ParquetWriter(path, first.schema, compression="zstd") as file:
                for batch in chain([first], batches):
                    file.write_batch(batch)
        frame = self._session.read.schema(_schema(fields)).parquet(_uri(path))
        return self._relation(frame, fields, [path])

    def _relation(self, frame: DataFrame, fields: Sequence[Field], files: Iterable[Path]) -> str:
        with self._lock:
            self._named += 1
            name = f"_relation_{self._named}"
            self._catalogue.define(name, TableState("", tuple(fields), (), ()))
            self._relations[name] = _Frame(frame, _size_of(files))
            return name

    def _frame(self, query: str, kinds: Sequence[ColumnType | None]) -> DataFrame:
        """What Spark gives for a query, its columns cast to these types, by their places."""
        with self._lock, _told():
            frame = self._session.sql(self._translated(query))
            columns = []
            for given, kind in zip(frame.columns, kinds, strict=True):
                name = _named(given)
                columns.append(name if kind is None else f"CAST({name} AS {kind}) AS {name}")
            return self._pinned(frame.selectExpr(*columns))

    def _translated(self, query: str) -> str:
        """A query in Spark's SQL, all that it names being there."""
        named: set[str] = set()

        def fields(name: str) -> Sequence[Field] | None:
            if name.lower() not in self._relations:
                return None
            named.add(name.lower())
            return self._catalogue.fields(f"SELECT * FROM {quoted(name)}")

        translated = to_spark(query, fields, self._variables, self._functions)
        for name in sorted(named):
            self._show(name)
        return translated

    def _set_back(self) -> None:
        from py4j.protocol import Py4JError

        with suppress(PySparkException, Py4JError):  # a Spark that is gone must not hide why
            for key, value in self._before.items():
                self._session.conf.set(key, str(value))

    def _expect(self, query: str) -> None:
        """Tell Spark into how many parts to cut what a query shuffles.

        It plans for a cluster's amounts: on a day's rows most of its time went into empty parts.
        """
        size = sum(map(self._size, self._catalogue.tables_in(query)))
        parts = min(max(1, size * _GROWTH // _PART), self._parts)
        self._session.conf.set(_PARTS, str(parts))

    def _size(self, name: str) -> int:
        relation = self._relations.get(name.lower())
        if isinstance(relation, TableState):
            return sum(file.size for file in relation.files)
        if isinstance(relation, _Query):
            return sum(map(self._size, self._catalogue.tables_in(relation.text)))
        return relation.size if relation else 0

    def _show(self, name: str) -> tuple[object, ...]:
        """Make a name mean to Spark what it means here; what it has been told it by."""
        relation = self._relations[name]
        stamp: tuple[object, ...] = (relation,)
        if isinstance(relation, _Query):
            inner = sorted(n.lower() for n in self._catalogue.tables_in(relation.text))
            stamp += tuple(self._show(n) for n in inner if n in self._relations)
        if self._views.get(name) != stamp:
            self._frame_of(relation).createOrReplaceTempView(_named(name))
            self._views[name] = stamp
        return stamp

    def _frame_of(self, relation: _Relation) -> DataFrame:
        if isinstance(relation, _Frame):
            return relation.frame
        if isinstance(relation, _Query):
            return self._frame(relation.text, self._kinds(relation.text))
        return self._read(relation)

    def _read(self, table: TableState) -> DataFrame:
        schema = _schema(table.fields)
        if not table.files:
            return self._session.createDataFrame([], schema)
        self._fetch(table)
        root = Path(table.root)
        plain = [file for file in table.files if all(map(_reads_back, file.partition.values()))]
        frames = []
        if plain:
            reader = self._session.read.schema(schema)
            if table.partition_by:
                reader = reader.option("basePath", _uri(root, glob=False))
            frames.append(reader.parquet(*(_uri(root / file.path) for file in plain)))
        odd: dict[tuple[str | None, ...], list[str]] = {}
        for file in table.files:
            if not all(map(_reads_back, file.partition.values())):
                values = tuple(file.partition[name] for name in table.partition_by)
                odd.setdefault(values, []).append(_uri(root / file.path))
        inner = _schema([f for f in table.fields if f.name not in table.partition_by])
        for values, paths in odd.items():
            told_values = dict(zip(table.partition_by, values, strict=True))
            frame = self._session.read.schema(inner).parquet(*paths)
            frames.append(frame.selectExpr(*(_column(f, told_values) for f in table.fields)))
        return reduce(lambda one, other: one.unionByName(other), frames)

    def _kinds(self, query: str) -> list[ColumnType | None]:
        """The types of a query's columns; None for one that is none of ours and stays as it is."""
        kinds: list[ColumnType | None] = []
        for _, kind, *_ in self._catalogue.rows(f"DESCRIBE {query}"):
            try:
                kinds.append(parse_type(kind))
            except ValueError:
                kinds.append(None)
        return kinds

    # writing

    def _write(
        self,
        frame: DataFrame,
        fields: Sequence[Field],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        gathered: Sequence[str],
    ) -> list[DataFile]:
        """Write rows below `root`; where that fails, none of it is left.

        `gathered` are the partition columns of which a task may have several values.
        """
        if gathered:
            columns = [_named(name) for name in partition_by]
            frame = self._rebalanced(frame, columns).sortWithinPartitions(*columns)
        kinds = {field.name: field.type for field in fields}
        writer = Writer(str(root), prefix, tuple(partition_by), kinds, self._file_bytes)
        root.mkdir(parents=True, exist_ok=True)
        output = self._outputs.setdefault((root, prefix), _Output(root, prefix))
        try:
            files = self._run(frame, writer)
        except RetailmartError:
            output.uncertain = True
            output.forget_others()
            raise
        output.settle(files)
        return files

    def _forget_late(self) -> None:
        """A task that is told to stop may go on for seconds; by now none does."""
        for output in self._outputs.values():
            if output.uncertain:
                output.forget_others()

    def _rebalanced(self, frame: DataFrame, columns: Sequence[str]) -> DataFrame:
        """Rows of a partition together, and a partition that is too large for one file cut.

        Spark sees the sizes once the rows are shuffled. The hint is told in SQL: frames take its
        columns in another form in each version.
        """
        view = f"_rebalanced_{uuid.uuid4().hex}"
        frame.createOrReplaceTempView(view)
        try:
            words = ", ".join((str(self._cores * _PARTS_A_CORE), *columns))
            return self._pinned(
                self._session.sql(f"SELECT /*+ REBALANCE({words}) */ * FROM {view}")
            )
        finally:
            self._session.catalog.dropTempView(view)

    def _pinned(self, frame: DataFrame) -> DataFrame:
        """A frame that names views, as they are now.

        A Connect client looks names up when a frame is run; what a view is made of, at once.
        """
        if not type(frame).__module__.startswith("pyspark.sql.connect"):
            return frame
        view = f"_pinned_{uuid.uuid4().hex}"
        frame.createOrReplaceTempView(view)
        return self._session.table(view)

    def _run(self, frame: DataFrame, writer: Writer) -> list[DataFile]:
        """Let the workers write; the driver sees a line for each file, and no row."""
        # By their places: pyspark takes the dots in a column's name for steps into it.
        writer = replace(writer, columns=tuple(frame.columns))
        plain = frame.toDF(*(f"c{n}" for n, _ in enumerate(frame.columns)))
        with _told():
            told_files = plain.mapInArrow(writer, TOLD).collect()
        return [told(text) for (text,) in told_files]

    def _new_path(self) -> Path:
        return self._exchange / uuid.uuid4().hex


def _monthly(months: Mapping[str, Mapping[str, TableState]]) -> dict[str, TableState]:
    """The tables of which each month sees its own part, with all parts together."""

    def is_of(month: str, table: TableState) -> bool:
        first = table.partition_by[:1]
        return bool(first) and all(file.partition[first[0]] == month for file in table.files)

    names = next(iter(months.values()))
    return {
        name: table.only(chain.from_iterable(tables[name].files for tables in months.values()))
        for name, table in names.items()
        if all(is_of(month, tables[name]) for month, tables in months.items())
    }


_FILE_ID = Field("_file_id", ColumnType("INT"))
_ROW = Field("_row", ColumnType("BIGINT"))


def _texts(shape: CsvShape) -> list[str]:
    """The cells of a record; what Spark takes for NULL is an empty cell."""
    return [f"coalesce(c{n}, '') AS c{n}" for n in range(shape.columns)]


def _text_fields(letter: str, count: int) -> list[Field]:
    return [Field(f"{letter}{n}", ColumnType("STRING")) for n in range(count)]


def _reads_back(value: str | None) -> bool:
    """Whether Spark finds a partition's value in the name of its folder."""
    return value is None or (value != "" and value.isascii())


def _column(field: Field, values: Mapping[str, str | None]) -> str:
    name = _named(field.name)
    if field.name not in values:
        return name
    value = values[field.name]
    literal = "NULL" if value is None else _literal(value)
    return f"CAST({literal} AS {field.type}) AS {name}"


def _literal(value: str) -> str:
    """A text of Spark's SQL."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _schema(fields: Sequence[Field]) -> st.StructType:
    return st.StructType([st.StructField(f.name, _spark_type(f.type)) for f in fields])


def _spark_type(kind: ColumnType) -> st.DataType:
    if kind.is_decimal:
        return st.DecimalType(kind.precision, kind.scale)
    simple: dict[str, type[st.DataType]] = {
        "INT": st.IntegerType,
        "BIGINT": st.LongType,
        "STRING": st.StringType,
        "DATE": st.DateType,
        "TIMESTAMP": st.TimestampType,
        "BOOLEAN": st.BooleanType,
        "DOUBLE": st.DoubleType,
    }
    return simple[kind.name]()


def _named(name: str) -> str:
    """An identifier of Spark's SQL."""
    return "`" + name.replace("`", "``") + "`"


def _uri(path: Path, *, glob: bool = True) -> str:
    """A path as Spark names it, whatever glob characters its folders hold."""
    text = re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path)) if glob else str(path)
    return f"file://{text}"


def _fields_of(rows: pa.Table) -> list[Field]:
    import duckdb

    described_rows = duckdb.from_arrow(rows.slice(0, 0))
    return [
        Field(name, parse_type(str(kind)))
        for name, kind in zip(described_rows.columns, described_rows.types, strict=True)
    ]


def _readable_by_spark(rows: pa.Table) -> pa.Table:
    """Rows in the types that Spark reads from Parquet."""
    import pyarrow as pa

    def plain(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_timestamp(kind):
            return pa.timestamp("us", tz="UTC")
        if pa.types.is_decimal(kind):
            return pa.decimal128(kind.precision, kind.scale)
        if pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            return pa.string()
        return kind

    schema = pa.schema([field.with_type(plain(field.type)) for field in rows.schema])
    return rows if schema == rows.schema else rows.cast(schema)


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit[0].upper()))


def _size_of(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _cores(session: SparkSession, otherwise: int) -> int:
    """How many tasks run at once."""
    try:
        return int(session.sparkContext.defaultParallelism)
    except (AttributeError, PySparkException):  # a Connect client does not know
        return otherwise


def _with_times(row: tuple[Any, ...], at: Sequence[int]) -> tuple[Any, ...]:
    values = list(row)
    for index in at:
        if values[index] is not None:
            values[index] = _EPOCH + timedelta(microseconds=values[index])
    return tuple(values)


def _forget_stale(place: Path) -> None:
    """Remove what engines left behind that were killed."""
    if not place.is_dir():
        return
    for folder in place.iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE.total_seconds():
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told() -> Iterator[None]:
    """Spark's errors as ours."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (PySparkException, Py4JError) as error:
        words = str(error)
        if (known := ours(words)) is not None:
            raise known from error
        if lacking := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", words):
            raise RetailmartError(
                f"the Python of Spark's workers has no {lacking[1]}",
                "Install it there, or let PYSPARK_PYTHON name a Python that has it",
            ) from error
        if any(word in words for word in _BROKEN_CSV):
            raise CsvBroken(first_words(error)) from error
        raise RetailmartError(first_words(error)) from error
