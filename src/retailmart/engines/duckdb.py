"""DuckDB in this process: the default engine, and the one that computes in every cluster task."""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from retailmart.engines import Cut, Files, Item, Result, VariableValue, Work, Write
from retailmart.engines.errors import WRONG_MONTH, ours
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
from retailmart.errors import CsvBroken, EngineFailed, NotComputed, RetailmartError, SettingsError
from retailmart.project.functions import FILE, Functions, guarded
from retailmart.project.types import ColumnType, parse_type
from retailmart.tables import DataFile, Field, Statistic, TableState, Written, quoted, text_literal

if TYPE_CHECKING:
    import pyarrow as pa

Value = TypeVar("Value")

# No cell holds a NUL byte, because records with one are set aside earlier. A NULL here would hide
# what was delivered.
_NO_NULL = "chr(0)"
_LONGEST_LINE = 4_000_000
_SORTED_ROWS = 100_000
# A query's parse tree depends only on the installed DuckDB: all engines of a process share it.
_MOST_PARSED = 500
_TREES: dict[str, dict[str, Any]] = {}
_TABLES: dict[str, frozenset[str]] = {}
# Measured on 20 M sales: version 2 encodings with light zstd give the smallest files in the least
# time. Giving up early on dictionaries of names that rarely repeat saves a fifth of the write.
_PARQUET = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1,"
    " DICTIONARY_SIZE_LIMIT 4000, RETURN_STATS"
)
# Errors caused by values in rows, not by the query or the machine. They are recognised by text,
# because an error in the middle of a stream has no DuckDB error class.
_OF_VALUES = ("Out of Range Error", "Conversion Error", "Invalid Input Error")
# After the last two, it answers nothing any more.
_OF_ENGINE = ("IO Error", "INTERRUPT Error", "INTERNAL Error", "FATAL Error")
_SQL_NAMES = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}
# Contains a blank, so that no table of a user has this name.
_RELATION = "relation "


def sql_type(kind: ColumnType) -> str:
    """DuckDB's name of a column type."""
    return _SQL_NAMES.get(kind.name, str(kind))


class DuckDBEngine:
    """DuckDB over local files, in a sandbox: it reads nothing outside the given folders.

    `attempt` makes the names of the files that it writes unique. `written` lists these files by
    root.
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
        self.written: list[tuple[Path, DataFile]] = []
        self._attempt = attempt
        self._exchange = scratch / f"exchange-{uuid.uuid4().hex}"
        self._places = tuple(places)
        self._connection = duckdb.connect()
        # Relations of several engines meet in one engine, so their names must differ.
        self._named, self._tag = 0, uuid.uuid4().hex[:8]
        self._views: dict[str, str] = {}
        self._variables: dict[str, VariableValue] = {}
        self._rows: dict[str, pa.Table] = {}
        # The connection refuses a second thread instead of making it wait.
        self._lock = threading.RLock()
        self._sorting = threading.Lock()
        self._ordered = 0
        execute = self._connection.execute
        execute("SET GLOBAL TimeZone = 'UTC'")
        execute("SET preserve_insertion_order = false")
        # A separate folder: two DuckDBs that spill into one folder overwrite each other's files.
        self._spill = scratch / f"spill-{uuid.uuid4().hex}"
        execute(f"SET temp_directory = {text_literal(str(self._spill))}")
        execute("SET autoinstall_known_extensions = false")
        execute("SET autoload_known_extensions = false")
        if memory_limit:
            execute(f"SET memory_limit = {text_literal(memory_limit)}")
        if threads:
            execute(f"SET threads = {threads:d}")
        folders = (scratch, *readable, *(place.workspace for place in self._places))
        sandbox = {text for path in folders for text in (str(path), _escaped(path))}
        listed = ", ".join(text_literal(f"{path}/") for path in sorted(sandbox))
        execute(f"SET allowed_directories = [{listed}]")
        execute("SET enable_external_access = false")
        execute("SET allowed_configs = ['preserve_insertion_order']")
        execute("SET lock_configuration = true")

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        with self._lock:
            self._variables.update(values)
            _set_variables(self._connection, values)

    def add_functions(self, functions: Functions) -> None:
        loaded = functions.load()
        if problems := [
            f"{FILE}:{function.line}: {function.name} is a word of SQL's own"
            for function in loaded
            if self._is_own(function.name)
        ]:
            raise SettingsError(problems, f"Give the function another name in {FILE}")
        for function, code in loaded.items():
            takes: list[Any] = [sql_type(parameter) for parameter in function.parameters]
            kind = sql_type(function.returns)
            with self._lock:
                empty = self._connection.sql(f"SELECT CAST(NULL AS {kind})").to_arrow_table()
                self._connection.create_function(
                    function.name,
                    guarded(function, code, empty.schema.field(0).type),
                    takes,
                    kind,
                    type=PythonUDFType.ARROW,
                    null_handling=FunctionNullHandling.SPECIAL,
                )

    def tables_in(self, query: str) -> frozenset[str]:
        tree = self._parsed(query)
        if tree.get("error"):
            raise ValueError(str(tree.get("error_message", "is no SELECT")))
        if len(tree["statements"]) != 1:
            raise ValueError("holds more than one statement; a mart is one SELECT")
        tables = _TABLES.get(query)
        if tables is None:
            tables = frozenset(_tables(tree, frozenset()))
            _remember(_TABLES, query, tables)
        return tables

    def tree(self, query: str) -> Mapping[str, Any]:
        return self._parsed(query)

    def csv(
        self, files: Mapping[int, Path], shape: CsvShape, *, numbered: bool = False
    ) -> Relation:
        return self._added(OfFiles(files, shape, numbered))

    def json(
        self, files: Mapping[int, Path], shape: JsonShape, *, numbered: bool = False
    ) -> Relation:
        return self._added(OfFiles(files, shape, numbered))

    def define(self, table: TableState) -> Relation:
        return self._added(OfTable(table))

    def query(self, text: str) -> Relation:
        return self._added(OfQuery(text))

    def values(self, rows: pa.Table) -> Relation:
        return self._added(OfRows(rows))

    def forget(self, values: Relation) -> None:
        with self._lock:
            if self._rows.pop(values.name, None) is not None:
                self._connection.unregister(values.name)

    def add(self, name: str, definition: Definition) -> None:
        """Give a relation the name that it has in another engine."""
        if isinstance(definition, OfRows):
            with self._lock:
                self._rows[name] = definition.rows
                self._connection.register(name, definition.rows)
        elif isinstance(definition, OfQuery):
            self._view(name, definition.text)
        elif isinstance(definition, OfTable):
            self._view(name, _read_table(self._here(definition.table)))
        else:
            self._view(name, f"SELECT * FROM {_read_files(definition)}")

    def _added(self, definition: Definition) -> Relation:
        with self._lock:
            self._named += 1
            name = f"{_RELATION}{self._tag} {self._named}"
            self.add(name, definition)
        if isinstance(definition, OfTable):
            return Relation(name, definition.table.fields)
        return Relation(name, self.fields(f"SELECT * FROM {quoted(name)}"))

    def fields(self, query: str, names: Mapping[str, Relation] | None = None) -> tuple[Field, ...]:
        self._bind(names)
        described = self.rows(f"DESCRIBE {query}")
        folded = [str(name).lower() for name, *_ in described]
        if twice := sorted({name for name in folded if folded.count(name) > 1}):
            raise RetailmartError(
                f"names the column {twice[0]!r} more than once; letter case tells none apart",
                "Give each column of the mart's SELECT a name of its own, with AS",
            )
        return tuple(Field(name, _type(name, kind)) for name, kind, *_ in described)

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
        self._bind(names)
        return self._write(query, root, prefix, partition_by, None, all_rows=all_rows)

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
        self._bind(names)
        files: list[DataFile] = []
        for number, (month, tables) in enumerate(months.items(), 1):
            for name, table in tables.items():
                self._view(name, _share(name, _read_table(self._here(table)), cut))
            files += self._write(query, root, f"{prefix}{number:04d}", partition_by, month).files
        return tuple(files)

    def write_each(
        self, writes: Sequence[Write]
    ) -> Iterator[tuple[DataFile, ...] | RetailmartError]:
        for write in writes:
            try:
                yield self._written_by(write)
            except RetailmartError as error:
                yield error

    def _written_by(self, write: Write) -> tuple[DataFile, ...]:
        to = (write.root, write.prefix, write.partition_by, write.names)
        if write.months is None:
            return self.write(write.query, *to, all_rows=True).files
        return self.write_months(write.query, write.months, *to, cut=write.cut)

    def _bind(self, names: Mapping[str, Relation] | None) -> None:
        """Let a user's query find relations by the names that it uses for them."""
        for name, relation in (names or {}).items():
            if name != relation.name:
                self._view(name, f"SELECT * FROM {relation}")

    def _here(self, table: TableState) -> TableState:
        place = self._place(table.root)
        return place.here(table) if place else table

    def _place(self, root: Path | str) -> Files | None:
        """The location of a root; None for a root that only this machine knows."""
        return next((place for place in self._places if place.holds(str(root))), None)

    def _write(
        self,
        query: str,
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        month: str | None,
        *,
        all_rows: bool = False,
    ) -> Written:
        place = self._place(root)
        folder = place.folder(root) if place else root
        prefix = f"{prefix}{self._attempt}"
        written = self._write_here(query, folder, prefix, partition_by, month, all_rows=all_rows)
        self.written += [(root, file) for file in written.files]
        return written

    def _write_here(
        self,
        query: str,
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
        month: str | None,
        *,
        all_rows: bool,
    ) -> Written:
        fields = self.fields(query)
        checked = f"SELECT {_cast_list(fields)} FROM ({query})"
        known: dict[str, str | None] = {}
        folder, rest = root, list(partition_by)
        if month is not None:
            column = rest.pop(0)
            known[column] = month
            folder = root / f"{column}={month}"
            checked = _of_month(checked, fields, column, month)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if month is not None and rest:
                files = self._write_sorted(checked, fields, folder, prefix, rest)
            else:
                files = self._copy(checked, fields, folder, prefix, rest)
        except RetailmartError:
            for unfinished in folder.rglob(f"{prefix}*.parquet"):
                unfinished.unlink()
            raise
        placed = [_placed(file, folder, root, known) for file in files]
        first = None if all_rows else next(iter(partition_by), None)
        nowhere = [f for f in placed if first is not None and f.partition[first] is None]
        for file in (*nowhere, *(file for file in placed if not file.rows)):
            (root / file.path).unlink()
        kept = tuple(file for file in placed if file.rows and file not in nowhere)
        return Written(fields, kept, sum(file.rows for file in nowhere))

    def _copy(
        self, query: str, fields: Sequence[Field], folder: Path, prefix: str, rest: Sequence[str]
    ) -> list[DataFile]:
        options, target = _PARQUET, folder / f"{prefix}.parquet"
        if rest:
            listed = ", ".join(quoted(name) for name in rest)
            options += f", PARTITION_BY ({listed}), APPEND"
            options += f", FILENAME_PATTERN {text_literal(prefix + '-{uuid}')}"
            target = folder
        copied = self.rows(f"COPY ({query}) TO {text_literal(str(target))} ({options})")
        kinds = {field.name: field.type for field in fields}
        return [_copied_file(row, folder, kinds) for row in copied]

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
        with closing(self.batches(f"{query} ORDER BY {listed}", _SORTED_ROWS)) as batches:
            return write_partitions(batches, folder, f"{prefix}.parquet", rest, kinds)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._lock, _translate_errors():
            return self._connection.execute(query).fetchall()

    def rows_of(self, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        return [self.rows(query) for query in queries]

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        # A separate connection: others are in use while the batches still arrive.
        with self._lock:
            cursor = self._connection.cursor()
            _set_variables(cursor, self._variables)
            for name, rows in self._rows.items():
                cursor.register(name, rows)
            self._keep_order(+1)
        try:
            with _translate_errors():
                # One at a time: parallel sorts compete for memory, and each one uses all threads
                # anyway.
                with self._sorting:
                    reader = cursor.sql(query).to_arrow_reader(size)
                    first = next(reader, None)
                if first is not None:
                    yield first
                    yield from reader
        finally:
            cursor.close()
            with self._lock:
                self._keep_order(-1)

    def spread(
        self, work: Work[Item, Result], items: Sequence[Item], sizes: Sequence[int]
    ) -> list[Result]:
        return [work(self, item) for item in items]

    def relation(self, found: Relation) -> duckdb.DuckDBPyRelation:
        """A relation as an object of this engine's connection."""
        return self._connection.view(found.name)

    def parts(self, size: int) -> int:
        return 1

    def discard(self, root: Path, files: Sequence[DataFile]) -> None:
        self.written = [one for one in self.written if one[0] != root or one[1] not in files]
        if (place := self._place(root)) is not None:
            place.remove(root, files)
        else:
            for file in files:
                (root / file.path).unlink()

    def write_ordered(self, query: str, root: Path, prefix: str) -> Written:
        """Write a query's rows into one file, in the query's order."""
        with self._lock:
            self._keep_order(+1)
        try:
            return self._write(query, root, prefix, (), None)
        finally:
            with self._lock:
                self._keep_order(-1)

    def send(self) -> None:
        """Make the files written on this machine visible to all machines."""
        for root, files in self._written_by_root().items():
            if (place := self._place(root)) is not None:
                place.send(root, files)

    def discard_all(self) -> None:
        """Remove everything that was written."""
        for root, files in self._written_by_root().items():
            self.discard(root, files)

    def _written_by_root(self) -> dict[Path, list[DataFile]]:
        found: dict[Path, list[DataFile]] = {}
        for root, file in self.written:
            found.setdefault(root, []).append(file)
        return found

    def exchange(self) -> Path:
        return self._exchange / uuid.uuid4().hex

    def close(self) -> None:
        self._connection.close()
        for folder in (self._exchange, self._spill):
            shutil.rmtree(folder, ignore_errors=True)

    def _parsed(self, query: str) -> dict[str, Any]:
        """A query's parse tree, computed once however often a step reads it."""
        tree = _TREES.get(query)
        if tree is None:
            with self._lock:
                rows = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
            tree = json.loads(rows[0][0])
            _remember(_TREES, query, tree)
        return tree

    def _is_own(self, name: str) -> bool:
        """Whether SQL already gives `name(…)` a meaning, even if only a cast or a syntax error."""
        statements = self._parsed(f"SELECT {name}(x)").get("statements")
        if not statements or statements[0]["node"]["select_list"][0]["class"] != "FUNCTION":
            return True
        found = f"FROM duckdb_functions() WHERE function_name = {text_literal(name.lower())}"
        return bool(self.rows(f"SELECT 1 {found} LIMIT 1"))

    def _view(self, name: str, query: str) -> None:
        with self._lock:
            if self._views.get(name) != query:
                self._connection.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS {query}")
                self._views[name] = query

    def _keep_order(self, more: int) -> None:
        """Make scans keep the order of rows while any result needs it to number a file's records.

        One setting applies to all connections.
        """
        before, self._ordered = self._ordered, self._ordered + more
        if bool(before) != bool(self._ordered):
            wanted = str(bool(self._ordered)).lower()
            self._connection.execute(f"SET preserve_insertion_order = {wanted}")


def _set_variables(
    connection: duckdb.DuckDBPyConnection, values: Mapping[str, VariableValue]
) -> None:
    for name, value in values.items():
        connection.execute(f"SET VARIABLE {quoted(name)} = {literal(value)}")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translate DuckDB's errors to ours."""
    try:
        yield
    except (duckdb.Error, OSError) as error:  # OSError: an error in the middle of a stream
        words = str(error)
        if (known := ours(words)) is not None:
            raise known from error
        if "CSV Error" in words:
            raise CsvBroken(words.splitlines()[0]) from error
        if "CSV Parser" in words:  # mixed line ends; what DuckDB advises would hide flawed rows
            raise CsvBroken("the file's lines are not as regular as its scan says") from error
        raise _kind(words, error)(_first_lines(words)) from error


def _kind(words: str, error: Exception) -> type[RetailmartError]:
    """Whether values, the engine or the query is to blame."""
    if words.startswith(_OF_VALUES):
        return NotComputed
    own = getattr(error, "errno", None) is not None  # of the system, as on a full disk
    return EngineFailed if own or words.startswith(_OF_ENGINE) else RetailmartError


def _of_month(query: str, fields: Sequence[Field], column: str, month: str) -> str:
    """A query without its month column; every row must hold this month."""
    columns = ", ".join(quoted(f.name) for f in fields if f.name != column)
    wrong = text_literal(WRONG_MONTH + month)
    return (
        f"SELECT {columns} FROM ({query}) WHERE CASE WHEN {quoted(column)} ="
        f" {text_literal(month)} THEN true ELSE error({wrong}) END"
    )


def _cast_list(fields: Sequence[Field]) -> str:
    return ", ".join(
        f"CAST({quoted(f.name)} AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in fields
    )


def _share(name: str, query: str, cut: Cut | None) -> str:
    """The rows of a table that belong to one share of a month; all if the table is not divided."""
    if cut is None or name not in cut.tables or cut.share[1] < 2:
        return query
    number, count = cut.share
    # Of the values, not of their texts: 0.0 equals -0.0. DuckDB gives equal values equal hashes.
    values = ", ".join(quoted(name) for name in cut.by_columns)
    return f"SELECT * FROM ({query}) WHERE hash({values}) % {count} = {number}"


def _read_table(table: TableState) -> str:
    if not table.files:
        nothing = ", ".join(
            f"CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in table.fields
        )
        return f"SELECT {nothing} WHERE false"
    types = {f.name: sql_type(f.type) for f in table.fields if f.name in table.partition_by}
    hive = ", ".join(f"{text_literal(key)}: {kind}" for key, kind in types.items())
    options = (
        f"hive_partitioning = true, hive_types = {{{hive}}}"
        if hive
        else "hive_partitioning = false"
    )
    files = ", ".join(path_literal(Path(table.root) / file.path) for file in table.files)
    return f"SELECT {_cast_list(table.fields)} FROM read_parquet([{files}], {options})"


def _read_files(found: OfFiles) -> str:
    paths, shape = found.files.values(), found.shape
    if isinstance(shape, CsvShape):
        return _with_keys(found, _read_csv(paths, shape))
    return _with_texts(shape, _with_keys(found, _read_json(paths, shape)))


def _with_keys(found: OfFiles, reader: str) -> str:
    if found.numbered:
        return f"(SELECT *, row_number() OVER () AS _row FROM {reader})"
    return _with_file_ids(found.files, reader)


def _read_csv(files: Any, shape: CsvShape) -> str:
    columns = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(shape.columns))
    quote = '"' if shape.quoted else ""
    paths = ", ".join(path_literal(path) for path in files)
    return (
        f"read_csv([{paths}], columns = {{{columns}}}, auto_detect = false, header = false,"
        f" skip = {shape.skip:d}, delim = {text_literal(shape.delimiter)}, quote = '{quote}',"
        f" escape = '{quote}', nullstr = {_NO_NULL}, strict_mode = true,"
        f" max_line_size = {_LONGEST_LINE}, hive_partitioning = false,"
        f" parallel = {str(not shape.multiline).lower()})"
    )


def _read_json(files: Any, shape: JsonShape) -> str:
    kind = "VARCHAR" if shape.of_texts else "JSON"
    # A feed may know none of a file's keys; its records still count.
    columns = ", ".join(f"{text_literal(key)}: '{kind}'" for key in shape.keys or ("_",))
    paths = ", ".join(path_literal(path) for path in files)
    form = "array" if shape.array else "newline_delimited"
    return (
        f"read_json([{paths}], columns = {{{columns}}}, format = '{form}',"
        f" compression = 'uncompressed', hive_partitioning = false)"
    )


def _with_file_ids(files: Mapping[int, Path], reader: str) -> str:
    """The rows of a reader of many files, with the key in `files` of each row's file."""
    ids = list(files)
    index = "CAST(file_index AS BIGINT)"
    key = f"[{', '.join(map(str, ids))}][{index} + 1]"
    if ids == list(range(ids[0], ids[0] + len(ids))):
        key = f"{index} + {ids[0]}"  # an addition costs a tenth of a look-up, for every row
    return (
        f"(SELECT * EXCLUDE (file_index), CAST({key} AS INTEGER) AS _file_id"
        f" FROM (SELECT *, file_index FROM {reader}))"
    )


def _with_texts(shape: JsonShape, relation: str) -> str:
    """A relation of JSON texts with each key's plain text added."""
    keys = shape.keys or ("_",)
    named = ", ".join(f"CAST({quoted(key)} AS VARCHAR) AS j{n}" for n, key in enumerate(keys))
    plain = ", ".join(f"{_plain(f'j{n}')} AS c{n}" for n, _ in enumerate(keys))
    dropped = ", ".join(map(quoted, keys))
    return f"(SELECT *, {plain} FROM (SELECT * EXCLUDE ({dropped}), {named} FROM {relation}))"


def _plain(json: str) -> str:
    """The plain value of a JSON text: a text without quotes and escapes, and '' for null."""
    text = (
        f"CASE WHEN contains({json}, '\\') THEN json_extract_string({json}, '$')"
        f" ELSE substr({json}, 2, length({json}) - 2) END"
    )
    # Whether it begins with a quote: this comparison costs a tenth of `starts_with`.
    is_text = f"{json} >= '\"' AND {json} < '#'"
    return f"CASE WHEN {is_text} THEN {text} WHEN {json} <> 'null' THEN {json} ELSE '' END"


def path_literal(path: Path) -> str:
    """A path as a literal that names one file, even if its folders contain glob characters."""
    return text_literal(_escaped(path))


def _escaped(path: Path) -> str:
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def literal(value: VariableValue) -> str:
    """A variable's value in DuckDB's SQL; decimals are exact, times are UTC."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ {text_literal(value.isoformat())}"
    if isinstance(value, int | Decimal):
        return f"{value}" if isinstance(value, int) else f"{value:f}"
    return text_literal(value)


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


def _placed(file: DataFile, folder: Path, root: Path, known: Mapping[str, str | None]) -> DataFile:
    """A file written below `folder`, as the table at `root` sees it."""
    path = (folder / file.path).relative_to(root).as_posix()
    return replace(file, path=path, partition={**known, **file.partition})


def _copied_file(row: tuple[Any, ...], folder: Path, kinds: Mapping[str, ColumnType]) -> DataFile:
    """The DataFile for a row that COPY returns."""
    path, count, size, _, statistics, partition, *_ = row
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
        partition=partition or {},
        minimum=lowest,
        maximum=highest,
        nulls=nulls,
    )


# Decimals and strings have no bounds: a slightly wrong bound would hide rows from readers.
_STATISTICS = {"INT": int, "BIGINT": int, "DATE": str}


def _tables(node: Any, bound: frozenset[str]) -> Iterator[str]:
    """The table names in a parsed query that are not WITH names; `bound` holds those so far.

    A WITH name is visible to what follows it, but not in its own body: WITH sales AS (… FROM sales)
    reads the real sales.
    """
    if isinstance(node, list):
        for item in node:
            yield from _tables(item, bound)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            qualified = node["schema_name"] or node["catalog_name"]
            if qualified or node["table_name"].lower() not in bound:
                yield str(node["table_name"])
        if node.get("type") == "TABLE_FUNCTION":
            function = node.get("function", {}).get("function_name", "a table function")
            if function not in ("unnest", "range", "generate_series"):
                raise ValueError(f"reads with {function}(); a mart reads feeds, tables and marts")
        for entry in node.get("cte_map", {}).get("map", []):
            body = entry["value"]
            name = frozenset([str(entry["key"]).lower()])
            recursive = body["query_node"].get("type") == "RECURSIVE_CTE_NODE"
            yield from _tables(body, bound | name if recursive else bound)
            bound |= name
        for key, value in node.items():
            if key != "cte_map":
                yield from _tables(value, bound)


def _remember(known: dict[str, Value], query: str, value: Value) -> None:
    """Remember a value for a query; engines of other threads may do so at the same time."""
    if len(known) >= _MOST_PARSED:
        known.clear()
    known[query] = value


def _first_lines(words: str) -> str:
    return "\n".join(words.strip().splitlines()[:6])
