"""The default engine: DuckDB, in this process."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from retailmart.engines import PLAIN, CsvShape, Fetch, JsonShape, VariableValue
from retailmart.engines.told import WRONG_MONTH, ours
from retailmart.errors import CsvBroken, RetailmartError, SettingsError
from retailmart.project.functions import FILE, Function, Vectorised, guarded
from retailmart.project.types import ColumnType, parse_type
from retailmart.tables import (
    DatabaseAddress,
    DataFile,
    Extract,
    Field,
    Statistic,
    TableState,
    Written,
    quoted,
    text_literal,
)

if TYPE_CHECKING:
    import pyarrow as pa

# No cell holds a NUL byte, as records with one are set apart: a NULL in the parsed rows would hide
# what was delivered.
_NO_NULL = "chr(0)"
_LONGEST_LINE = 4_000_000
_SORTED_ROWS = 100_000
# Measured on 20 M sales: version 2 encodings with light zstd give the smallest files in the least
# time, and giving up early on dictionaries of names that hardly repeat saves a fifth of the write.
_PARQUET = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1,"
    " DICTIONARY_SIZE_LIMIT 4000, RETURN_STATS"
)
_SQL_NAMES = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}


def sql_type(kind: ColumnType) -> str:
    """DuckDB's name of a column type."""
    return _SQL_NAMES.get(kind.name, str(kind))


class DuckDBEngine:
    """DuckDB over local files, fenced in: nothing outside the given folders can be read."""

    def __init__(
        self,
        readable: Sequence[Path],
        scratch: Path,
        memory_limit: str | None = None,
        threads: int | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._fetch = fetch or (lambda _: None)
        self._connection = duckdb.connect()
        self._defined: dict[str, str] = {}
        self._variables: dict[str, VariableValue] = {}
        self._rows: dict[str, pa.Table] = {}
        # The connection refuses a second thread instead of letting it wait.
        self._lock = threading.RLock()
        self._sorting = threading.Lock()
        self._ordered = 0
        execute = self._connection.execute
        execute("SET GLOBAL TimeZone = 'UTC'")
        execute("SET preserve_insertion_order = false")
        execute(f"SET temp_directory = {text_literal(str(scratch / 'spill'))}")
        execute("SET autoinstall_known_extensions = false")
        execute("SET autoload_known_extensions = false")
        execute(f"CREATE MACRO {PLAIN}(text) AS text")
        if memory_limit:
            execute(f"SET memory_limit = {text_literal(memory_limit)}")
        if threads:
            execute(f"SET threads = {threads:d}")
        fence = {text for path in (*readable, scratch) for text in (str(path), _escaped(path))}
        folders = ", ".join(text_literal(f"{path}/") for path in sorted(fence))
        execute(f"SET allowed_directories = [{folders}]")
        execute("SET enable_external_access = false")
        execute("SET allowed_configs = ['preserve_insertion_order']")
        execute("SET lock_configuration = true")

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        with self._lock:
            self._variables.update(values)
            _set_variables(self._connection, values)

    def add_functions(self, functions: Mapping[Function, Vectorised]) -> None:
        if problems := [
            f"{FILE}:{function.line}: {function.name} is a word of SQL's own"
            for function in functions
            if self._is_own(function.name)
        ]:
            raise SettingsError(problems, f"Give the function another name in {FILE}")
        for function, code in functions.items():
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
        return frozenset(_tables(tree, frozenset()))

    def csv(self, files: Mapping[int, Path], shape: CsvShape) -> str:
        return _with_file_ids(files, _read_csv(files.values(), shape))

    def numbered_csv(self, file: Path, shape: CsvShape) -> str:
        return f"(SELECT *, row_number() OVER () AS _row FROM {_read_csv([file], shape)})"

    def json(self, files: Mapping[int, Path], shape: JsonShape) -> str:
        return _with_texts(shape, _with_file_ids(files, _read_json(files.values(), shape)))

    def numbered_json(self, file: Path, shape: JsonShape) -> str:
        numbered = f"(SELECT *, row_number() OVER () AS _row FROM {_read_json([file], shape)})"
        return _with_texts(shape, numbered)

    def define(self, name: str, table: TableState) -> None:
        columns = _cast_list(table.fields)
        if not table.files:
            nothing = ", ".join(
                f"CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in table.fields
            )
            self._view(name, f"SELECT {nothing} WHERE false")
            return
        self._fetch(table)
        types = {f.name: sql_type(f.type) for f in table.fields if f.name in table.partition_by}
        hive = ", ".join(f"{text_literal(key)}: {kind}" for key, kind in types.items())
        options = (
            f"hive_partitioning = true, hive_types = {{{hive}}}"
            if hive
            else ("hive_partitioning = false")
        )
        files = ", ".join(path_literal(Path(table.root) / file.path) for file in table.files)
        self._view(name, f"SELECT {columns} FROM read_parquet([{files}], {options})")

    def define_query(self, name: str, query: str) -> None:
        self._view(name, query)

    def define_rows(self, name: str, rows: pa.Table) -> None:
        with self._lock:
            self._rows[name] = rows
            self._connection.register(name, rows)

    def fields(self, query: str) -> tuple[Field, ...]:
        described = self.rows(f"DESCRIBE {query}")
        folded = [str(name).lower() for name, *_ in described]
        if twice := sorted({name for name in folded if folded.count(name) > 1}):
            raise RetailmartError(
                f"names the column {twice[0]!r} more than once; letter case tells none apart",
                "Give each column of the mart's SELECT a name of its own, with AS",
            )
        return tuple(Field(name, _type(name, kind)) for name, kind, *_ in described)

    def write(self, query: str, root: Path, prefix: str, partition_by: Sequence[str]) -> Written:
        return self._write(query, root, prefix, partition_by, None)

    def write_months(
        self,
        query: str,
        months: Mapping[str, Mapping[str, TableState]],
        root: Path,
        prefix: str,
        partition_by: Sequence[str],
    ) -> tuple[DataFile, ...]:
        files: list[DataFile] = []
        for number, (month, tables) in enumerate(months.items(), 1):
            for name, table in tables.items():
                self.define(name, table)
            files += self._write(query, root, f"{prefix}{number:04d}", partition_by, month).files
        return tuple(files)

    def _write(
        self, query: str, root: Path, prefix: str, partition_by: Sequence[str], month: str | None
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
        nowhere = [f for f in placed if partition_by and f.partition[partition_by[0]] is None]
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
        """Many small partitions of one month: sorted by DuckDB, cut and written by Arrow.

        COPY … PARTITION_BY spends two thirds of its time on telling rows apart; on 200 stores a
        month this way takes 60 % of the processor time (20 M sales, 2,400 files).
        """
        from retailmart.engines.partitions import write_partitions

        listed = ", ".join(quoted(name) for name in rest)
        kinds = {field.name: field.type for field in fields}
        with closing(self.batches(f"{query} ORDER BY {listed}", _SORTED_ROWS)) as batches:
            return write_partitions(batches, folder, f"{prefix}.parquet", rest, kinds)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._lock, _told():
            return self._connection.execute(query).fetchall()

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        # A connection of its own: others are used while the batches are still coming.
        with self._lock:
            cursor = self._connection.cursor()
            _set_variables(cursor, self._variables)
            for name, rows in self._rows.items():
                cursor.register(name, rows)
            self._keep_order(+1)
        try:
            with _told():
                # One at a time: sorts that run side by side take each other's memory, and each
                # has all threads anyway.
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

    def hand_over(self, query: str, address: DatabaseAddress, table: str, rows: int) -> bool:
        return False

    def take_over(self, extract: Extract) -> str | None:
        return None

    def relation(self, name: str) -> duckdb.DuckDBPyRelation:
        """A defined table as a relation of this engine's connection."""
        return self._connection.view(name)

    def close(self) -> None:
        self._connection.close()

    def _parsed(self, query: str) -> dict[str, Any]:
        with self._lock:
            rows = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        tree: dict[str, Any] = json.loads(rows[0][0])
        return tree

    def _is_own(self, name: str) -> bool:
        """Whether SQL means something by `name(…)` already, if only a cast or a syntax error."""
        statements = self._parsed(f"SELECT {name}(x)").get("statements")
        if not statements or statements[0]["node"]["select_list"][0]["class"] != "FUNCTION":
            return True
        found = f"FROM duckdb_functions() WHERE function_name = {text_literal(name.lower())}"
        return bool(self.rows(f"SELECT 1 {found} LIMIT 1"))

    def _view(self, name: str, query: str) -> None:
        with self._lock:
            if self._defined.get(name) != query:
                self._connection.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS {query}")
                self._defined[name] = query

    def _keep_order(self, more: int) -> None:
        """Let scans give rows as they lie, while any result needs it: it numbers a file's records.

        The setting is one for all connections.
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
def _told() -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except (duckdb.Error, OSError) as error:  # OSError: what breaks a stream half way
        words = str(error)
        if (known := ours(words)) is not None:
            raise known from error
        if "CSV Error" in words:
            raise CsvBroken(words.splitlines()[0]) from error
        raise RetailmartError(_first_lines(words)) from error


def _of_month(query: str, fields: Sequence[Field], column: str, month: str) -> str:
    """A query without its month column, of which every row must hold this month."""
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


def _read_csv(files: Any, shape: CsvShape) -> str:
    columns = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(shape.columns))
    quote = '"' if shape.quoted else ""
    paths = ", ".join(path_literal(path) for path in files)
    return (
        f"read_csv([{paths}], columns = {{{columns}}}, auto_detect = false, header = false,"
        f" skip = 1, delim = {text_literal(shape.delimiter)}, quote = '{quote}',"
        f" escape = '{quote}', nullstr = {_NO_NULL}, strict_mode = true,"
        f" max_line_size = {_LONGEST_LINE}, hive_partitioning = false,"
        f" parallel = {str(not shape.multiline).lower()})"
    )


def _read_json(files: Any, shape: JsonShape) -> str:
    kind = "VARCHAR" if shape.of_texts else "JSON"
    # A feed may know none of a file's keys; its records count nevertheless.
    columns = ", ".join(f"{text_literal(key)}: '{kind}'" for key in shape.keys or ("_",))
    paths = ", ".join(path_literal(path) for path in files)
    form = "array" if shape.array else "newline_delimited"
    return (
        f"read_json([{paths}], columns = {{{columns}}}, format = '{form}',"
        f" compression = 'uncompressed', hive_partitioning = false)"
    )


def _with_file_ids(files: Mapping[int, Path], reader: str) -> str:
    """What a reader of many files gives, with the key of each row's file in `files`."""
    ids = list(files)
    index = "CAST(file_index AS BIGINT)"
    key = f"[{', '.join(map(str, ids))}][{index} + 1]"
    if ids == list(range(ids[0], ids[0] + len(ids))):
        key = f"{index} + {ids[0]}"  # an addition costs a tenth of a look-up, row by row
    return (
        f"(SELECT * EXCLUDE (file_index), CAST({key} AS INTEGER) AS _file_id"
        f" FROM (SELECT *, file_index FROM {reader}))"
    )


def _with_texts(shape: JsonShape, relation: str) -> str:
    """A relation of JSON texts, each key's also as what it says."""
    keys = shape.keys or ("_",)
    named = ", ".join(f"CAST({quoted(key)} AS VARCHAR) AS j{n}" for n, key in enumerate(keys))
    plain = ", ".join(f"{_plain(f'j{n}')} AS c{n}" for n, _ in enumerate(keys))
    dropped = ", ".join(map(quoted, keys))
    return f"(SELECT *, {plain} FROM (SELECT * EXCLUDE ({dropped}), {named} FROM {relation}))"


def _plain(json: str) -> str:
    """What a JSON text says: a text without its quotes and escapes, nothing for null."""
    text = (
        f"CASE WHEN contains({json}, '\\') THEN json_extract_string({json}, '$')"
        f" ELSE substr({json}, 2, length({json}) - 2) END"
    )
    # Whether it begins with a quote: a comparison costs a tenth of `starts_with`.
    is_text = f"{json} >= '\"' AND {json} < '#'"
    return f"CASE WHEN {is_text} THEN {text} WHEN {json} <> 'null' THEN {json} ELSE '' END"


def path_literal(path: Path) -> str:
    """A path as a literal that names one file, whatever glob characters its folders hold."""
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
    if kind == "HUGEINT":  # what sum() of integers gives; a sum over 2^63 fails aloud
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
    """A file written below `folder` as the table at `root` sees it."""
    path = (folder / file.path).relative_to(root).as_posix()
    return replace(file, path=path, partition={**known, **file.partition})


def _copied_file(row: tuple[Any, ...], folder: Path, kinds: Mapping[str, ColumnType]) -> DataFile:
    """What COPY returns of a file it wrote."""
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


# Decimals and strings carry no bounds: a bound that is a hair off would hide rows from readers.
_STATISTICS = {"INT": int, "BIGINT": int, "DATE": str}


def _tables(node: Any, bound: frozenset[str]) -> Iterator[str]:
    """The table names in a parsed query that are none of its own WITH names, `bound` so far.

    A WITH name is known to what follows it, not to its own body: WITH sales AS (… FROM sales)
    reads the real sales.
    """
    if isinstance(node, list):
        for item in node:
            yield from _tables(item, bound)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE" and node["table_name"] not in bound:
            yield str(node["table_name"])
        if node.get("type") == "TABLE_FUNCTION":
            function = node.get("function", {}).get("function_name", "a table function")
            if function not in ("unnest", "range", "generate_series"):
                raise ValueError(f"reads with {function}(); a mart reads feeds, tables and marts")
        for entry in node.get("cte_map", {}).get("map", []):
            body = entry["value"]
            name = frozenset([str(entry["key"])])
            recursive = body["query_node"].get("type") == "RECURSIVE_CTE_NODE"
            yield from _tables(body, bound | name if recursive else bound)
            bound |= name
        for key, value in node.items():
            if key != "cte_map":
                yield from _tables(value, bound)


def _first_lines(words: str) -> str:
    return "\n".join(words.strip().splitlines()[:6])
