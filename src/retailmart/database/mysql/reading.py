"""Reads MySQL's and MariaDB's source tables into Arrow with ConnectorX, or with the driver.

Both ways return the same rows. A value that one of the two would change (a zero date, a long
decimal, a bit field) is requested from the server as text or as an integer. A large table can be
read in parts, as texts only, which are then converted to the same rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import text

from retailmart.database.conversions import to_text
from retailmart.database.dialect import Since
from retailmart.database.mysql.opening import Address, address_of, open_address
from retailmart.database.parts import WORTH_PARTS, Described, parts_of, ranges
from retailmart.database.values import (
    WRONG,
    arrow_type,
    in_calendar,
    record_batch,
    scaled,
)
from retailmart.errors import RetailmartError
from retailmart.project.decimals import as_decimals
from retailmart.project.table import ReadRules, ZeroDates
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine

_NO_RULES = ReadRules()
_CHUNK = 50_000
_PARTITIONS = 2
_KINDS = {
    "tinyint": "INT",
    "smallint": "INT",
    "mediumint": "INT",
    "int": "INT",
    "bigint": "BIGINT",
    "year": "INT",
    "float": "DOUBLE",
    "double": "DOUBLE",
    "date": "DATE",
    "datetime": "TIMESTAMP",
    "timestamp": "TIMESTAMP",
    "bit": "BIGINT",
}
_LETTERS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
# The native forms differ between servers and drivers; the server's text does not.
_AS_TEXT = frozenset(
    ("date", "datetime", "timestamp", "time", "json", "uuid", "inet4", "inet6", "null")
)
_DATES = frozenset(("date", "datetime", "timestamp"))
_WHOLE = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint"))
_LONGEST_WHOLE = 18
_LARGEST_BIGINT = 2**63 - 1
# Holds every unsigned integer of 64 bits.
_UNSIGNED = ColumnType("DECIMAL", 20, 0)
# Replaces the digest of a row beyond the server's limit for one text; it shows in any sum.
_NO_DIGEST = -(10**38)
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?")


@dataclass(frozen=True)
class _Column:
    """A column as the server describes it. `data_type` is its type without length or sign.

    `may_exceed` says that it may hold integers above BIGINT's. With `zero_as_null` a date like
    0000-00-00 is read as NULL. `is_padded` marks a key for which the server ignores blanks at the
    end: it is read without them.
    """

    name: str
    data_type: str
    kind: ColumnType
    may_exceed: bool = False
    zero_as_null: bool = False
    is_padded: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers that fit an integer."""
        return self.data_type in _WHOLE and not self.kind.is_decimal

    @property
    def sql(self) -> str:
        """Its SQL name for conditions."""
        return f"t.{_quoted(self.name)}"

    @property
    def in_units(self) -> bool:
        """Whether it is a decimal that fits an integer, in units of its last digit."""
        return self.kind.is_decimal and self.kind.precision <= _LONGEST_WHOLE

    def expression(self, *, units: bool) -> str:
        """The SQL to request: a decimal as text, or in units of its last digit."""
        name = self.sql
        if self.data_type == "bit":
            number = f"CAST({name} AS UNSIGNED)"
            return f"CAST({number} AS CHAR)" if self.kind.is_decimal else number
        if self.kind.is_decimal:
            if units and self.in_units:
                return f"CAST({name} * {10**self.kind.scale} AS SIGNED)"
            return f"CAST({name} AS CHAR)"
        if self.data_type in _AS_TEXT:
            text = f"CAST({name} AS CHAR)"
            if self.zero_as_null and self.data_type in _DATES:
                return f"IF(LOCATE('-00', LEFT({text}, 10)) > 0, NULL, {text})"
            return text
        if self.data_type == "float":
            return f"({name} + 0e0)"  # else one driver returns its text, the other its value
        return f"RTRIM({name})" if self.is_padded else name

    @property
    def as_text(self) -> str:
        """The SQL to request everything as text; bytes as hexadecimal digits."""
        if self.data_type in _BYTES:
            return f"HEX({self.sql})"
        # Texts are cast too: a reader may pad a CHAR or SET with blanks.
        return f"CAST({self.expression(units=False)} AS CHAR)"

    @property
    def told_apart(self) -> tuple[str, ...]:
        """SQL texts that are equal only for equal values; NULL counts as a value."""
        if self.data_type in (*_LETTERS, *_BYTES):
            return (f"COALESCE(LENGTH({self.sql}), 'N')", f"CAST({self.sql} AS BINARY)")
        return (f"COALESCE({self.as_text}, 'N')",)


class _Described(Described[_Column]):
    """A table or view, and its query."""

    def query(self, condition: str = "", *, units: bool) -> str:
        """All columns of the rows that meet a condition, in key order if there is a key."""
        columns = ", ".join(
            f"{column.expression(units=units)} AS {_quoted(column.name)}" for column in self.columns
        )
        order = ", ".join(f"t.{_quoted(name)}" for name in self.key)
        return (
            f"SELECT {columns} FROM {_quoted(self.name)} AS t"
            + (f" WHERE {condition}" if condition else "")
            + (f" ORDER BY {order}" if order else "")
        )


def fields(engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]:
    """The columns of a table, with the types that they are read as."""
    with engine.connect() as connection:
        return _describe(connection, name, rules).fields


def read_table(engine: Engine, name: str, rules: ReadRules, since: Since | None = None) -> pa.Table:
    """A table, whole or since a value, in key order; without a key, in the order of its values."""
    if since is not None:
        return _read_since(engine, name, rules, since)
    with engine.connect() as connection:
        described = _widened(connection, _describe(connection, name, rules))
        conditions = _ranges(connection, described)
    rows = _read_fast(address_of(engine), described, conditions)
    if rows is None:
        rows = read_by_driver(engine, described)
    if described.key or not rows.num_rows:
        return rows
    return rows.sort_by([(column.name, "ascending") for column in described.columns])


def _read_since(engine: Engine, name: str, rules: ReadRules, since: Since) -> pa.Table:
    """The rows whose cursor is at or after a value, in key order."""
    with engine.connect() as connection:
        described = _describe(connection, name, rules)
        cursor = described.column(since.column).sql

        def behind(value: str) -> str:
            return f"({cursor} >= {value} OR {cursor} IS NULL)"

        described = _widened(connection, described, behind("%s"), (since.value,))
    if (literal := _literal(since.value)) is not None:
        rows = _read_fast(address_of(engine), described, [behind(literal)])
        if rows is not None:
            return rows
    return read_by_driver(engine, described, behind("%s"), (since.value,))


def _widened(
    connection: Connection,
    described: _Described,
    condition: str = "",
    values: tuple[Any, ...] = (),
) -> _Described:
    """The same, with a wider type for columns that hold integers above BIGINT's."""
    wide = [column.name for column in described.columns if column.may_exceed]
    if not wide:
        return described
    largest = ", ".join(f"MAX(t.{_quoted(name)} + 0)" for name in wide)
    query = f"SELECT {largest} FROM {_quoted(described.name)} AS t".replace("%", "%%")
    if condition:
        query += f" WHERE {condition}"
    found = connection.exec_driver_sql(query, values).one()
    beyond = {n for n, value in zip(wide, found, strict=True) if int(value or 0) > _LARGEST_BIGINT}
    columns = tuple(
        replace(column, kind=_UNSIGNED) if column.name in beyond else column
        for column in described.columns
    )
    return described.with_columns(columns)


def _literal(value: Any) -> str | None:
    """A number or a timestamp as SQL, for the reader without parameters; None for other text."""
    if isinstance(value, int | Decimal):
        return f"{value}"
    return f"'{value}'" if isinstance(value, str) and _MOMENT.fullmatch(value) else None


def newest(engine: Engine, name: str, column: str) -> Any:
    """The largest value of a column; timestamps as the server's text, which changes nothing."""
    with engine.connect() as connection:
        described = _describe(connection, name)
        found = described.column(column)
        largest = f"MAX({found.sql})"
        if found.data_type == "float":
            largest += " + 0e0"  # its text has fewer digits and would sort too early
        if found.data_type in _AS_TEXT:
            largest = f"CAST({largest} AS CHAR)"
        query = f"SELECT {largest} FROM {_quoted(name)} AS t"
        return connection.exec_driver_sql(query.replace("%", "%%")).scalar()


def extract(
    engine: Engine, address: DatabaseAddress, name: str, rules: ReadRules, least: int
) -> Extract | None:
    """How to read a table as texts, in parts of about equal size; None for a smaller one."""
    with engine.connect() as connection:
        described = _describe(connection, name, rules)
        if described.rows < least:
            return None
        described = _widened(connection, described)
        conditions = _ranges(connection, described, parts_of(described.rows))
    columns = ", ".join(f"{c.as_text} AS c{n}" for n, c in enumerate(described.columns))
    query = f"SELECT {columns} FROM {_quoted(name)} AS t"
    queries = (f"{query} WHERE {part}" if part else query for part in conditions)
    return described.extract(address, queries, _from_text)


def read_part(
    address: DatabaseAddress, query: str, decode: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The rows of one of an extract's queries, over a connection of its own."""
    import pyarrow as pa
    from pymysql.cursors import SSCursor

    engine = open_address(address, read_only=True)
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            with closing(driver.cursor(SSCursor)) as cursor:
                cursor.execute(query)
                for rows in _chunks(cursor):
                    texts = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
                    names = [f"c{n}" for n, _ in enumerate(texts)]
                    yield decode(pa.RecordBatch.from_arrays(texts, names))
    finally:
        engine.dispose()


def _from_text(values: pa.Array, column: _Column) -> pa.Array:
    return _cast(_bytes_of(values, column), column)


def _bytes_of(values: pa.Array, column: _Column) -> pa.Array:
    """Decode hexadecimal digits to bytes; any other column stays unchanged."""
    import pyarrow as pa

    if column.data_type not in _BYTES:
        return values
    found = (None if value is None else bytes.fromhex(value) for value in values.to_pylist())
    return pa.array(list(found), pa.binary())


def fingerprint(engine: Engine, name: str) -> str | None:
    """A digest of a table's columns and rows, which the server computes in one statement.

    CHECKSUM TABLE would be three times as fast. But it adds CRCs, which miss some pairs of rows
    that have exchanged their values.
    """
    with engine.connect() as connection:
        described = _describe(connection, name)
        texts = ", ".join(text for column in described.columns for text in column.told_apart)
        digest = f"CAST(CONV(LEFT(MD5(CONCAT_WS(',', {texts})), 16), 16, 10) AS UNSIGNED)"
        query = f"SELECT COUNT(*), SUM(COALESCE({digest}, {_NO_DIGEST})) FROM {_quoted(name)} AS t"
        rows, total = connection.exec_driver_sql(query.replace("%", "%%")).one()
    if rows and total < 0:
        return None
    said = [[column.name, column.data_type, str(column.kind)] for column in described.columns]
    return hashlib.sha256(repr([said, rows, total]).encode()).hexdigest()


def read_by_driver(
    engine: Engine, described: _Described, condition: str = "", values: tuple[Any, ...] = ()
) -> pa.Table:
    """Read row by row: for servers that the fast reader cannot reach safely, and for its errors.

    `condition` has a %s for each of `values`.
    """
    import pyarrow as pa
    from pymysql.cursors import SSCursor

    with engine.connect() as connection:
        # The driver's own cursor holds a few rows at a time; SQLAlchemy's result buffers the first
        # ones.
        driver: Any = connection.connection.driver_connection
        with closing(driver.cursor(SSCursor)) as cursor:
            query = described.query("\0" if condition else "", units=False)
            if values:  # only then does the driver treat a % as a placeholder
                query = query.replace("%", "%%")
            cursor.execute(query.replace("\0", condition), values or None)
            batches = [
                record_batch(
                    described.name,
                    rows,
                    [column.kind for column in described.columns],
                    described.schema,
                    described.key,
                    described.rules,
                )
                for rows in _chunks(cursor)
            ]
    return pa.Table.from_batches(batches, described.schema)


def _chunks(cursor: Any) -> Iterator[Sequence[Any]]:
    while rows := cursor.fetchmany(_CHUNK):
        yield rows


def _describe(connection: Connection, name: str, rules: ReadRules = _NO_RULES) -> _Described:
    found = connection.execute(_COLUMNS, {"name": name}).all()
    if not found:
        raise RetailmartError(f"the source has no table {name!r} any more")
    columns = tuple(
        _column(name, column, _data_type(kind, full), full.lower(), (precision, scale), rules)
        for column, kind, full, precision, scale in found
    )
    key = tuple(connection.scalars(_KEY, {"name": name}))
    if len(only := key or rules.key) == 1 and _pads(_collation(connection, name, only[0])):
        columns = tuple(
            replace(column, is_padded=True) if column.name == only[0] else column
            for column in columns
        )
    rows, size = connection.execute(_SIZE, {"name": name}).one()
    return _Described(name, columns, key, int(rows or 0), int(size or 0), rules)


def key_collation(engine: Engine, name: str, rules: ReadRules) -> tuple[str, str] | None:
    """A single text key that the server compares without letter case, and DuckDB's collation."""
    with engine.connect() as connection:
        key = tuple(connection.scalars(_KEY, {"name": name})) or rules.key
        collation = _collation(connection, name, key[0]) if len(key) == 1 else None
    if collation is None or "_ci" not in collation:
        return None
    return key[0], "NOCASE" if "_as_ci" in collation else "NOCASE.NOACCENT"


def _collation(connection: Connection, name: str, column: str) -> str | None:
    found: str | None = connection.scalar(_COLLATION, {"name": name, "column": column})
    return found


def _pads(collation: str | None) -> bool:
    return collation is not None and "nopad" not in collation and "_0900_" not in collation


def _data_type(data_type: str, column_type: str) -> str:
    """A view's NULL is declared binary(0) but sent without a type; the fast reader panics."""
    return "null" if column_type.lower() == "binary(0)" else data_type.lower()


def _column(
    table: str,
    name: str,
    data_type: str,
    column_type: str,
    digits: tuple[int, int],
    rules: ReadRules,
) -> _Column:
    is_unsigned = data_type == "bigint" and "unsigned" in column_type
    return _Column(
        name,
        data_type,
        _kind(table, name, data_type, column_type, *digits),
        may_exceed=is_unsigned or column_type == "bit(64)",
        zero_as_null=rules.zero_dates is ZeroDates.EMPTY,
    )


_COLUMNS = text(
    "SELECT column_name, data_type, column_type, numeric_precision, numeric_scale"
    " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = :name"
    " ORDER BY ordinal_position"
)
_KEY = text(
    "SELECT column_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    " AND table_name = :name AND index_name = 'PRIMARY' ORDER BY seq_in_index"
)
_COLLATION = text(
    "SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE()"
    " AND table_name = :name AND column_name = :column"
)
_SIZE = text(
    "SELECT table_rows, data_length FROM information_schema.tables WHERE table_schema = DATABASE()"
    " AND table_name = :name"
)


def _kind(
    table: str, column: str, data_type: str, column_type: str, precision: int, scale: int
) -> ColumnType:
    """Our type of a column. TINYINT(1) stays a number: tables keep more than 0 and 1 in it."""
    if data_type in ("decimal", "numeric"):
        return ColumnType("DECIMAL", min(int(precision), 38), min(int(scale), 38))
    if data_type == "int" and "unsigned" in column_type:
        return ColumnType("BIGINT")
    if data_type in _KINDS:
        return ColumnType(_KINDS[data_type])
    if data_type in (*_LETTERS, *_BYTES, *_AS_TEXT):
        return ColumnType("STRING")
    raise RetailmartError(
        f"source table {table!r}, column {column!r} is of type {data_type}, which tables do not"
        " hold",
        "Read it through a view that casts the column, or leaves it out",
    )


def _ranges(connection: Connection, described: _Described, parts: int = _PARTITIONS) -> list[str]:
    """Conditions that divide the table into parts of about equal size; one if it is small."""
    key = described.whole_key
    if key is None or described.rows < WORTH_PARTS:
        return [""]
    return ranges(connection, f"{_quoted(described.name)} AS t", f"t.{_quoted(key)}", parts)


def _read_fast(address: Address, described: _Described, ranges: Sequence[str]) -> pa.Table | None:
    """Read with ConnectorX, a connection a range; None if it cannot be used or fails."""
    if address.verified is not None or address.unix_socket is not None:
        return None  # ConnectorX has no option for which certificate to trust
    try:
        import connectorx
    except ModuleNotFoundError:
        return None
    user, password = quote(address.user, safe=""), quote(address.password, safe="")
    host = f"[{address.host}]" if ":" in address.host else address.host
    database = quote(address.database, safe="")
    url = f"mysql://{user}:{password}@{host}:{address.port}/{database}"
    try:
        rows = connectorx.read_sql(
            url,
            [described.query(condition, units=True) for condition in ranges],
            return_type="arrow",
            pre_execution_query=["SET SESSION time_zone = '+00:00'", "SET NAMES utf8mb4"],
        )
    except Exception:
        return None  # the driver reports the error in its own words
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
    return _as_described(rows, described)


def _as_described(rows: pa.Table, described: _Described) -> pa.Table:
    import pyarrow as pa

    batches = rows.to_batches()
    decode = described.texts(_cast)
    if key := described.whole_key:
        # Parts arrive mixed, each in order; a batch's first key shows which part it belongs to.
        index = [column.name for column in described.columns].index(key)
        batches = [batch for batch in batches if batch.num_rows]
        batches.sort(key=lambda batch: batch.column(index)[0].as_py())

    def column(index: int) -> pa.ChunkedArray:
        wanted, chunks = described.columns[index], []
        for batch in batches:
            try:
                chunks.append(_cast(batch.column(index), wanted))
            except WRONG:
                raise decode.wrong(batch, wanted) from None
        return pa.chunked_array(chunks, arrow_type(wanted.kind))

    with ThreadPoolExecutor(_PARTITIONS) as pool:
        columns = list(pool.map(column, range(len(described.columns))))
    return pa.Table.from_arrays(columns, schema=described.schema)


def _cast(values: pa.Array, column: _Column) -> pa.Array:
    import pyarrow as pa

    kind = arrow_type(column.kind)
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if column.in_units and not is_text:
        units = values.cast(pa.int64()).cast(pa.decimal128(19, 0))
        return scaled(units, kind)
    if pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
        try:
            return values.cast(pa.binary()).cast(kind)
        except pa.ArrowInvalid:
            texts = [None if value is None else to_text(value) for value in values.to_pylist()]
            return pa.array(texts, kind)
    if column.kind.name == "TIMESTAMP":
        return in_calendar(values.cast(pa.timestamp("us")).cast(kind))
    if column.kind.name == "DATE":
        return in_calendar(values.cast(kind))
    if column.kind.is_decimal:
        return as_decimals(values, column.kind)
    return values.cast(kind)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
