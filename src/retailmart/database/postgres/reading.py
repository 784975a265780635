"""Reads source tables of PostgreSQL into Arrow, from the text that COPY sends.

Each value is requested as an exact text, and Arrow converts it to the column's type. No value
passes through a float or a driver's own types.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from retailmart.database.conversions import to_text
from retailmart.database.dialect import Since
from retailmart.database.parts import Described, parts_of, ranges
from retailmart.database.postgres.opening import open_address
from retailmart.database.values import arrow_type
from retailmart.errors import RetailmartError
from retailmart.project.decimals import as_decimals
from retailmart.project.table import ReadRules
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine

_NO_RULES = ReadRules()
_KINDS = {
    "smallint": ColumnType("INT"),
    "integer": ColumnType("INT"),
    "bigint": ColumnType("BIGINT"),
    "real": ColumnType("DOUBLE"),
    "double precision": ColumnType("DOUBLE"),
    "boolean": ColumnType("BOOLEAN"),
    "date": ColumnType("DATE"),
    "timestamp without time zone": ColumnType("TIMESTAMP"),
    "timestamp with time zone": ColumnType("TIMESTAMP"),
    "money": ColumnType("DECIMAL", 19, 2),
}
_NUMERIC = re.compile(r"numeric(?:\((\d+),(-?\d+)\))?")
_WHOLE = ("smallint", "integer", "bigint")
_DIGITS = 38
# A numeric without a declared scale keeps ten digits after the point, or as many as needed.
_USUAL_SCALE = 10
# Bytes of COPY's text that are parsed at a time; a row must fit into them.
_BLOCK = 64 << 20
_MOST_COLUMNS = 1600


@dataclass(frozen=True)
class _Column:
    """A column as the server describes it. `declared` is its type, or a domain's base type.

    `may_exceed` says that its values may have more digits after the point than its type.
    """

    name: str
    declared: str
    kind: ColumnType
    may_exceed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return self.declared in _WHOLE

    @property
    def as_text(self) -> str:
        """The SQL to request the value as an exact text."""
        name = f"t.{quoted(self.name)}"
        match self.declared:
            case "real":
                return f"CAST(CAST({name} AS double precision) AS text)"
            case "money":
                return f"CAST(CAST({name} AS numeric) AS text)"
            case "timestamp with time zone":
                return f"CAST({name} AT TIME ZONE 'UTC' AS text)"
            case "bytea":
                return f"encode({name}, 'hex')"
        return f"CAST({name} AS text)"


class _Described(Described[_Column]):
    """A table or view, and its query."""

    def query(self, condition: str = "", *, ordered: bool = True) -> str:
        """All columns of the rows that meet a condition, in key order if there is a key."""
        columns = ", ".join(f"{c.as_text} AS c{n}" for n, c in enumerate(self.columns))
        order = ", ".join(f"t.{quoted(name)}" for name in self.key)
        return (
            f"SELECT {columns} FROM {quoted(self.name)} AS t"
            + (f" WHERE {condition}" if condition else "")
            + (f" ORDER BY {order}" if order and ordered else "")
        )


def fields(engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]:
    """The columns of a table, with the types that they are read as."""
    with engine.connect() as connection:
        return _describe(connection, name, rules).fields


def read_table(engine: Engine, name: str, rules: ReadRules, since: Since | None = None) -> pa.Table:
    """A table, whole or since a value, in key order; without a key, in the order of its values."""
    import pyarrow as pa

    with engine.connect() as connection:
        described = _describe(connection, name, rules)
        condition = ""
        values: tuple[Any, ...] = ()
        if since is not None:
            cursor = f"t.{quoted(described.column(since.column).name)}".replace("%", "%%")
            condition, values = f"({cursor} >= %s OR {cursor} IS NULL)", (since.value,)
        described = _widened(connection, described)
        query = described.query("\0" if condition else "")
        if condition:  # only then does the driver treat a % as a placeholder
            query = query.replace("%", "%%").replace("\0", condition)
        decode = described.texts(_cast)
        with closing(_copied(connection, query, values)) as copied:
            batches = [decode(batch) for batch in copied]
    rows = pa.Table.from_batches(batches, described.schema)
    if described.key or not rows.num_rows:
        return rows
    return rows.sort_by([(column.name, "ascending") for column in described.columns])


def newest(engine: Engine, name: str, column: str) -> Any:
    """The largest value of a column: a number, or the server's text for it."""
    with engine.connect() as connection:
        found = _describe(connection, name).column(column)
        largest = f"MAX(t.{quoted(column)})"
        if found.declared == "real":
            largest = f"CAST({largest} AS double precision)"
        elif not found.kind.is_decimal and found.kind.name not in ("INT", "BIGINT", "DOUBLE"):
            largest = f"CAST({largest} AS text)"
        elif found.declared == "money":
            largest = f"CAST({largest} AS numeric)"
        query = f"SELECT {largest} FROM {quoted(name)} AS t"
        return connection.exec_driver_sql(query.replace("%", "%%")).scalar()


def key_collation(engine: Engine, name: str, rules: ReadRules) -> tuple[str, str] | None:
    """A single text key that the server compares without letter case, and DuckDB's collation."""
    with engine.connect() as connection:
        described = _describe(connection, name, rules)
        key = described.key or rules.key
        if len(key) != 1:
            return None
        if described.column(key[0]).declared.endswith("citext"):
            return key[0], "NOCASE"
        locale = connection.scalar(_COLLATION, {"name": name, "column": key[0]})
    if locale is None:  # compared by its bytes
        return None
    return key[0], "NOCASE.NOACCENT" if "ks-level1" in locale else "NOCASE"


def extract(
    engine: Engine, address: DatabaseAddress, name: str, rules: ReadRules, least: int
) -> Extract | None:
    """How to read a table as texts, in parts of about equal size; None for a smaller one."""
    with engine.connect() as connection:
        described = _describe(connection, name, rules)
        if described.rows < least:
            return None
        described = _widened(connection, described)
        parts, key = parts_of(described.rows), described.whole_key
        conditions = [""]
        if key is not None and parts > 1:
            table = f"{quoted(name)} AS t"
            conditions = ranges(connection, table, f"t.{quoted(key)}", parts)
    queries = (described.query(part, ordered=False) for part in conditions)
    return described.extract(address, queries, _cast)


def read_part(
    address: DatabaseAddress, query: str, decode: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The rows of one of an extract's queries, over a connection of its own."""
    engine = open_address(address, read_only=True)
    try:
        with engine.connect() as connection, closing(_copied(connection, query)) as copied:
            for batch in copied:
                yield decode(batch)
    finally:
        engine.dispose()


def fingerprint(engine: Engine, name: str) -> str | None:
    """A digest of a table's columns and rows, which the server computes in one statement.

    Each row becomes the text of all its columns, hashed twice to 64 bits. The hashes are added, so
    that their order does not matter.
    """
    with engine.connect() as connection:
        described = _describe(connection, name)
        row = ", ".join(column.as_text for column in described.columns)
        hashes = ", ".join(
            f"SUM(CAST(hashtextextended(CAST(ROW({row}) AS text), {seed}) AS numeric))"
            for seed in (0, 1)
        )
        query = f"SELECT COUNT(*), {hashes} FROM {quoted(name)} AS t"
        found = connection.exec_driver_sql(query.replace("%", "%%")).one()
    said = [[column.name, column.declared, str(column.kind)] for column in described.columns]
    return hashlib.sha256(repr([said, *map(str, found)]).encode()).hexdigest()


def _cast(values: pa.Array, column: _Column) -> pa.Array:
    import pyarrow as pa

    kind = arrow_type(column.kind)
    if column.declared == "bytea":
        found = [None if v is None else to_text(bytes.fromhex(v)) for v in values.to_pylist()]
        return pa.array(found, kind)
    if column.kind.name == "TIMESTAMP":
        return values.cast(pa.timestamp("us")).cast(kind)
    if column.kind.is_decimal:
        return as_decimals(values, column.kind)
    return values.cast(kind)


def _copied(
    connection: Connection, query: str, values: Sequence[Any] = ()
) -> Generator[pa.RecordBatch, None, None]:
    """A query's rows from COPY, all columns as texts named c0, c1, …; NULL stays NULL.

    Close the generator: a connection does nothing else before its COPY has ended. Raises
    RetailmartError for a row that is longer than a block.
    """
    import pyarrow as pa
    from pyarrow import csv

    statement = f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *, ENCODING 'UTF8')"
    convert = csv.ConvertOptions(
        column_types={f"c{number}": pa.string() for number in range(_MOST_COLUMNS)},
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=False,
    )
    read = csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    driver: Any = connection.connection.driver_connection
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(statement, values or None) as copy,
            closing(csv.open_csv(_Stream(copy), read, parse, convert)) as reader,
        ):
            yield from reader
    except pa.ArrowInvalid as error:
        raise RetailmartError(
            f"what the server sends can't be read: {error}",
            "Read the table through a view that leaves out its largest texts",
        ) from error


class _Stream(io.RawIOBase):
    """The bytes of a COPY as a file that can be read once."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _describe(connection: Connection, name: str, rules: ReadRules = _NO_RULES) -> _Described:
    found = connection.execute(_COLUMNS, {"name": name}).all()
    if not found:
        raise RetailmartError(f"the source has no table {name!r} any more")
    columns = tuple(_column(column, declared) for column, declared in found)
    key = tuple(connection.scalars(_KEY, {"name": name}))
    rows, size = connection.execute(_SIZE, {"name": name}).one()
    return _Described(name, columns, key, max(int(rows), 0), int(size), rules)


def _column(name: str, declared: str) -> _Column:
    if declared in _KINDS:
        return _Column(name, declared, _KINDS[declared])
    if (digits := _NUMERIC.fullmatch(declared)) is None:
        return _Column(name, declared, ColumnType("STRING"))
    if digits[1] is None:
        kind = ColumnType("DECIMAL", _DIGITS, _USUAL_SCALE)
        return _Column(name, declared, kind, may_exceed=True)
    precision, scale = int(digits[1]), int(digits[2])
    # A scale may be negative, or larger than the precision.
    precision, scale = max(precision, scale, precision - min(scale, 0)), max(scale, 0)
    return _Column(
        name, declared, ColumnType("DECIMAL", min(precision, _DIGITS), min(scale, _DIGITS))
    )


def _widened(connection: Connection, described: _Described) -> _Described:
    """The same, with more digits after the point for numbers declared without a scale."""
    wide = [column.name for column in described.columns if column.may_exceed]
    if not wide:
        return described
    scales = ", ".join(f"MAX(scale(trim_scale(t.{quoted(name)})))" for name in wide)
    query = f"SELECT {scales} FROM {quoted(described.name)} AS t"
    found = connection.exec_driver_sql(query.replace("%", "%%")).one()
    larger = {
        name: ColumnType("DECIMAL", _DIGITS, min(int(scale), _DIGITS))
        for name, scale in zip(wide, found, strict=True)
        if (scale or 0) > _USUAL_SCALE
    }
    columns = tuple(
        replace(column, kind=larger.get(column.name, column.kind)) for column in described.columns
    )
    return described.with_columns(columns)


_COLUMNS = text("""
    WITH RECURSIVE base AS (
      SELECT a.attnum, a.attname, a.atttypid AS type, a.atttypmod AS mod
      FROM pg_attribute a
      WHERE a.attrelid = to_regclass(quote_ident(:name)) AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL
      SELECT b.attnum, b.attname, t.typbasetype, t.typtypmod
      FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
    )
    SELECT b.attname, format_type(b.type, b.mod)
    FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd' ORDER BY b.attnum
""")
_KEY = text("""
    SELECT a.attname FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = to_regclass(quote_ident(:name)) AND i.indisprimary ORDER BY k.place
""")
_COLLATION = text("""
    SELECT coalesce(to_jsonb(c) ->> 'colliculocale', to_jsonb(c) ->> 'colllocale', '')
    FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
    WHERE a.attrelid = to_regclass(quote_ident(:name)) AND a.attname = :column
      AND NOT c.collisdeterministic
""")
# The server's estimate; for a table that was never analysed, from its size.
_SIZE = text("""
    SELECT CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE pg_relation_size(c.oid) / 100 END,
           pg_relation_size(c.oid)
    FROM pg_class c WHERE c.oid = to_regclass(quote_ident(:name))
""")
