"""The text of what DuckDB is asked: how it reads files and tables, and what each row must hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from retailmart.engines import Cut, VariableValue
from retailmart.engines.errors import WRONG_MONTH
from retailmart.engines.relations import CsvShape, JsonShape, OfFiles
from retailmart.project.by_date import ByDate
from retailmart.project.types import ColumnType
from retailmart.tables import FILE_ID, ROW, Field, TableState, quoted, text_literal

# No cell holds a NUL byte, because records with one are set aside earlier. A NULL here would hide
# what was delivered.
_NO_NULL = "chr(0)"
_LONGEST_LINE = 4_000_000
_SQL_NAMES = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}


# Of a variable, the values by date are in a variable of this further name.
BY_DATE = " by date"
# What of them counts on a day; NULL for no day. They are few: a list is as quick as a join.
VARIABLE_ON = (
    "CREATE MACRO variable_on(name, day) AS"
    f" [one.value FOR one IN getvariable(name || '{BY_DATE}') IF one.since <= day][-1]"
)


def sql_type(kind: ColumnType) -> str:
    """DuckDB's name of a column type."""
    return _SQL_NAMES.get(kind.name, str(kind))


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
    return of_days(value) if isinstance(value, ByDate) else text_literal(value)


def of_days(value: VariableValue) -> str:
    """A variable's values as a list of structs: each value, and the day from which it counts.

    The first value counts from the beginning of time.
    """
    values = value.values if isinstance(value, ByDate) else ((date.min, value),)
    days = ["-infinity", *(day.isoformat() for day, _ in values[1:])]
    listed = (
        f"{{'since': DATE {text_literal(day)}, 'value': {literal(one)}}}"
        for day, (_, one) in zip(days, values, strict=True)
    )
    return f"[{', '.join(listed)}]"


def path_literal(path: Path) -> str:
    """A path as a literal that names one file, even if its folders contain glob characters."""
    return text_literal(escaped(path))


def escaped(path: Path) -> str:
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def read_numbered(table: TableState, numbers: Sequence[int], key: str) -> str:
    """The rows of a table, and a column `key` of type UBIGINT that no two of them share.

    `numbers` are those of the table's files, below 2^20; a file has fewer than 2^36 rows.
    """
    place = "0"
    if table.files:
        listed = ", ".join(map(str, numbers))
        number = f"CAST([{listed}][CAST(file_index AS BIGINT) + 1] AS UBIGINT)"
        place = f"{number} * {1 << 36} + CAST(file_row_number AS UBIGINT)"
    return read_table(table, f", CAST({place} AS UBIGINT) AS {quoted(key)}")


def read_table(table: TableState, further: str = "") -> str:
    if not table.files:
        nothing = ", ".join(
            f"CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in table.fields
        )
        return f"SELECT {nothing}{further} WHERE false"
    kinds = {f.name: f.type for f in table.fields if f.name in table.partition_by}
    # DuckDB does not parse a decimal's type here; its text is cast below.
    types = {name: "VARCHAR" if k.is_decimal else sql_type(k) for name, k in kinds.items()}
    hive = ", ".join(f"{text_literal(name)}: {kind}" for name, kind in types.items())
    options = (
        f"hive_partitioning = true, hive_types = {{{hive}}}"
        if hive
        else "hive_partitioning = false"
    )
    files = ", ".join(path_literal(Path(table.root) / file.path) for file in table.files)
    return f"SELECT {cast_list(table.fields)}{further} FROM read_parquet([{files}], {options})"


def read_files(found: OfFiles) -> str:
    paths, shape = found.files.values(), found.shape
    if isinstance(shape, CsvShape):
        return _with_keys(found, _read_csv(paths, shape))
    return _with_texts(shape, _with_keys(found, _read_json(paths, shape)))


def _with_keys(found: OfFiles, reader: str) -> str:
    keyed = _with_file_ids(found.files, reader)
    if not found.numbered:
        return keyed
    numbered = f"(SELECT *, row_number() OVER () AS {ROW} FROM {keyed})"
    if len(found.files) == 1:
        return numbered
    first = f"min({ROW}) OVER (PARTITION BY {FILE_ID})"
    return f"(SELECT * REPLACE ({ROW} - {first} + 1 AS {ROW}) FROM {numbered})"


def _read_csv(files: Iterable[Path], shape: CsvShape) -> str:
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


def _read_json(files: Iterable[Path], shape: JsonShape) -> str:
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
        f"(SELECT * EXCLUDE (file_index), CAST({key} AS INTEGER) AS {FILE_ID}"
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


def cast_list(fields: Sequence[Field]) -> str:
    return ", ".join(
        f"CAST({quoted(f.name)} AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in fields
    )


def share(name: str, query: str, cut: Cut | None) -> str:
    """The rows of a table that belong to one share of a month; all if the table is not divided."""
    if cut is None or name not in cut.tables or cut.share[1] < 2:
        return query
    number, count = cut.share
    # Of the values, not of their texts: 0.0 equals -0.0. DuckDB gives equal values equal hashes.
    values = ", ".join(quoted(name) for name in cut.by_columns)
    return f"SELECT * FROM ({query}) WHERE hash({values}) % {count} = {number}"


def of_month(query: str, fields: Sequence[Field], column: str, month: str) -> str:
    """A query without its month column; every row must hold this month."""
    columns = ", ".join(quoted(f.name) for f in fields if f.name != column)
    wrong = text_literal(WRONG_MONTH + month)
    return (
        f"SELECT {columns} FROM ({query}) WHERE CASE WHEN {quoted(column)} ="
        f" {text_literal(month)} THEN true ELSE error({wrong}) END"
    )
