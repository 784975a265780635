"""Source tables of MySQL and MariaDB, read into Arrow by ConnectorX, or by the driver.

Both ways give the same rows. What one of the two would bend (a zero date, a long decimal, a bit
field) is asked of the server as text or as a whole number. Others read a large table as texts
alone, and make of them the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import text

from retailmart.database.dialect import Since
from retailmart.database.mysql.opening import Address, address_of
from retailmart.database.values import arrow_type, record_batch, schema_of, wrong_value
from retailmart.database.values import text as as_text
from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine

_CHUNK = 50_000
_PARTITIONS = 2
# For readers that have a connection for each part: not more than a server spares.
_PARTITIONS_AT_MOST = 8
_WORTH_PARTS = 50_000
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
# Their own forms differ between servers and drivers; the server's text does not.
_AS_TEXT = frozenset(("date", "datetime", "timestamp", "time", "json", "uuid", "inet4", "inet6"))
_WHOLE = frozenset(("tinyint", "smallint", "mediumint", "int", "bigint"))
_LONGEST_WHOLE = 18
# Stands for a row that is longer than what the server takes for one text, and shows in any sum.
_NO_DIGEST = -(10**38)
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?")


@dataclass(frozen=True)
class _Column:
    """A column as the server describes it. `data_type` is its type without length or sign."""

    name: str
    data_type: str
    kind: ColumnType

    @property
    def in_units(self) -> bool:
        """Whether it is a decimal that fits a whole number of its last digit."""
        return self.kind.is_decimal and self.kind.precision <= _LONGEST_WHOLE

    def expression(self, *, units: bool) -> str:
        """What is asked of the server: a decimal as text, or in units of its last digit."""
        name = f"t.{_quoted(self.name)}"
        if self.kind.is_decimal:
            if units and self.in_units:
                return f"CAST({name} * {10**self.kind.scale} AS SIGNED)"
            return f"CAST({name} AS CHAR)"
        if self.data_type in _AS_TEXT:
            return f"CAST({name} AS CHAR)"
        if self.data_type == "bit":
            return f"CAST({name} AS UNSIGNED)"
        if self.data_type == "float":
            return f"({name} + 0e0)"  # else one driver gives its text, the other its value
        return name

    @property
    def as_text(self) -> str:
        """What is asked of the server where all is to come as text; bytes as hexadecimal digits."""
        if self.data_type in _BYTES:
            return f"HEX(t.{_quoted(self.name)})"
        # Texts, too: of what is CHAR or SET a reader may make one that is padded with blanks.
        return f"CAST({self.expression(units=False)} AS CHAR)"

    @property
    def told_apart(self) -> tuple[str, ...]:
        """Texts that are the same for the same value only, NULL among them."""
        if self.data_type in (*_LETTERS, *_BYTES):
            name = f"t.{_quoted(self.name)}"
            return (f"COALESCE(LENGTH({name}), 'N')", f"CAST({name} AS BINARY)")
        return (f"COALESCE({self.as_text}, 'N')",)


@dataclass(frozen=True)
class _Described:
    """A table or view: its columns, its key, and about how many rows it has."""

    name: str
    columns: tuple[_Column, ...]
    key: tuple[str, ...]
    rows: int

    @property
    def kinds(self) -> list[ColumnType]:
        return [column.kind for column in self.columns]

    @property
    def schema(self) -> pa.Schema:
        return schema_of([column.name for column in self.columns], self.kinds)

    @property
    def whole_key(self) -> str | None:
        """The first column of the key where it is a whole number: partitions are ranges of it."""
        kinds = {column.name: column.data_type for column in self.columns}
        return self.key[0] if self.key and kinds[self.key[0]] in _WHOLE else None

    def column(self, name: str) -> str:
        """A column as conditions name it. RetailmartError where there is none of this name."""
        if name not in {column.name for column in self.columns}:
            raise RetailmartError(
                f"source table {self.name!r} has no column {name!r}",
                "Correct `cursor` in the table's file in tables/",
            )
        return f"t.{_quoted(name)}"

    def query(self, condition: str = "", *, units: bool) -> str:
        """All columns of the rows that meet a condition, in key order where there is a key."""
        columns = ", ".join(
            f"{column.expression(units=units)} AS {_quoted(column.name)}" for column in self.columns
        )
        order = ", ".join(f"t.{_quoted(name)}" for name in self.key)
        return (
            f"SELECT {columns} FROM {_quoted(self.name)} AS t"
            + (f" WHERE {condition}" if condition else "")
            + (f" ORDER BY {order}" if order else "")
        )


def read_table(engine: Engine, name: str) -> pa.Table:
    """A whole table in key order; without a key, in the order of its values."""
    with engine.connect() as connection:
        described = _describe(connection, name)
        ranges = _ranges(connection, described)
    rows = _read_fast(address_of(engine), described, ranges)
    if rows is None:
        rows = read_by_driver(engine, described)
    if described.key or not rows.num_rows:
        return rows
    return rows.sort_by([(column.name, "ascending") for column in described.columns])


def read_since(engine: Engine, name: str, since: Since) -> pa.Table:
    """The rows whose cursor is at or behind a value, in key order."""
    with engine.connect() as connection:
        described = _describe(connection, name)
    cursor = described.column(since.column)

    def behind(value: str) -> str:
        return f"({cursor} >= {value} OR {cursor} IS NULL)"

    if (literal := _literal(since.value)) is not None:
        rows = _read_fast(address_of(engine), described, [behind(literal)])
        if rows is not None:
            return rows
    return read_by_driver(engine, described, behind("%s"), (since.value,))


def _literal(value: Any) -> str | None:
    """A number or a moment as SQL, for the reader that can't bind; None for any other text."""
    if isinstance(value, int | Decimal):
        return f"{value}"
    return f"'{value}'" if isinstance(value, str) and _MOMENT.fullmatch(value) else None


def newest(engine: Engine, name: str, column: str) -> Any:
    """The largest value of a column; moments as the server's text, so that nothing bends them."""
    with engine.connect() as connection:
        described = _describe(connection, name)
        kinds = {found.name: found.data_type for found in described.columns}
        largest = f"MAX({described.column(column)})"
        if kinds[column] in _AS_TEXT:
            largest = f"CAST({largest} AS CHAR)"
        query = f"SELECT {largest} FROM {_quoted(name)} AS t"
        return connection.exec_driver_sql(query.replace("%", "%%")).scalar()


def extract(engine: Engine, address: DatabaseAddress, name: str, least: int) -> Extract | None:
    """How to read a table as texts, in parts of about the same size; None for a smaller one."""
    with engine.connect() as connection:
        described = _describe(connection, name)
        if described.rows < least:
            return None
        parts = min(described.rows // _WORTH_PARTS, _PARTITIONS_AT_MOST)
        ranges = _ranges(connection, described, parts)
    columns = ", ".join(f"{c.as_text} AS c{n}" for n, c in enumerate(described.columns))
    query = f"SELECT {columns} FROM {_quoted(name)} AS t"
    return Extract(
        address=address,
        name=name,
        fields=tuple(Field(column.name, column.kind) for column in described.columns),
        queries=tuple(f"{query} WHERE {part}" if part else query for part in ranges),
        decode=_Texts(name, described.columns),
    )


@dataclass(frozen=True)
class _Texts:
    """Makes of texts what the columns of a table are; readers elsewhere take it with them."""

    table: str
    columns: tuple[_Column, ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """RetailmartError names the column of a wrong value."""
        import pyarrow as pa

        arrays = []
        for values, column in zip(batch.columns, self.columns, strict=True):
            try:
                arrays.append(_cast(_bytes_of(values, column), column, arrow_type(column.kind)))
            except (pa.ArrowException, ValueError) as error:
                raise wrong_value(self.table, column.name, column.kind, error) from error
        return pa.RecordBatch.from_arrays(arrays, [column.name for column in self.columns])


def _bytes_of(values: pa.Array, column: _Column) -> pa.Array:
    """What hexadecimal digits stand for; any other column as it is."""
    import pyarrow as pa

    if column.data_type not in _BYTES:
        return values
    found = (None if value is None else bytes.fromhex(value) for value in values.to_pylist())
    return pa.array(list(found), pa.binary())


def fingerprint(engine: Engine, name: str) -> str | None:
    """A digest of a table's columns and rows, which the server works out in one statement.

    CHECKSUM TABLE would be three times as fast. But it adds up CRCs, which are blind to some pairs
    of rows that have swapped their values.
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
    """Row by row: for servers that the fast reader cannot reach safely, and for its errors.

    `condition` has a %s for each of `values`.
    """
    import pyarrow as pa
    from pymysql.cursors import SSCursor

    with engine.connect() as connection:
        # The driver's own cursor, which holds a few rows at a time: SQLAlchemy's result keeps the
        # first ones back for itself.
        driver: Any = connection.connection.driver_connection
        with closing(driver.cursor(SSCursor)) as cursor:
            query = described.query("\0" if condition else "", units=False)
            if values:  # only then does the driver take a % for a place of a value
                query = query.replace("%", "%%")
            cursor.execute(query.replace("\0", condition), values or None)
            batches = [
                record_batch(described.name, rows, described.kinds, described.schema)
                for rows in _chunks(cursor)
            ]
    return pa.Table.from_batches(batches, described.schema)


def _chunks(cursor: Any) -> Iterator[Sequence[Any]]:
    while rows := cursor.fetchmany(_CHUNK):
        yield rows


def _describe(connection: Connection, name: str) -> _Described:
    found = connection.execute(_COLUMNS, {"name": name}).all()
    if not found:
        raise RetailmartError(f"the source has no table {name!r} any more")
    columns = tuple(
        _Column(
            column,
            data_type.lower(),
            _kind(name, column, data_type.lower(), column_type.lower(), precision, scale),
        )
        for column, data_type, column_type, precision, scale in found
    )
    key = tuple(connection.scalars(_KEY, {"name": name}))
    rows = connection.scalar(_ROWS, {"name": name})
    return _Described(name, columns, key, int(rows or 0))


_COLUMNS = text(
    "SELECT column_name, data_type, column_type, numeric_precision, numeric_scale"
    " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = :name"
    " ORDER BY ordinal_position"
)
_KEY = text(
    "SELECT column_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    " AND table_name = :name AND index_name = 'PRIMARY' ORDER BY seq_in_index"
)
_ROWS = text(
    "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE()"
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
    """Conditions that cut the table into parts of about the same size; one if it is small."""
    key = described.whole_key
    if key is None or described.rows < _WORTH_PARTS:
        return [""]
    name = f"t.{_quoted(key)}"
    query = f"SELECT MIN({name}), MAX({name}) FROM {_quoted(described.name)} AS t"
    lowest, highest = connection.exec_driver_sql(query.replace("%", "%%")).one()
    if lowest is None:
        return [""]
    step = (int(highest) - int(lowest)) // parts + 1
    cuts = [int(lowest) + step * number for number in range(1, parts)]
    # Open at both ends: rows may arrive while the table is read.
    above = ["", *(f"{name} >= {cut}" for cut in cuts)]
    below = [*(f"{name} < {cut}" for cut in cuts), ""]
    return [" AND ".join(filter(None, ends)) for ends in zip(above, below, strict=True)]


def _read_fast(address: Address, described: _Described, ranges: Sequence[str]) -> pa.Table | None:
    """By ConnectorX, a connection a range; None where it cannot be used or objects."""
    if address.verified is not None or address.unix_socket is not None:
        return None  # it cannot be told which certificate to trust
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
        return None  # the driver says in its own words what is wrong
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
    return _as_described(rows, described)


def _as_described(rows: pa.Table, described: _Described) -> pa.Table:
    import pyarrow as pa

    batches = rows.to_batches()
    if key := described.whole_key:
        # Parts arrive mixed, each in its own order: a batch's first key tells where it belongs.
        index = [column.name for column in described.columns].index(key)
        batches = [batch for batch in batches if batch.num_rows]
        batches.sort(key=lambda batch: batch.column(index)[0].as_py())

    def column(index: int) -> pa.ChunkedArray:
        wanted = described.columns[index]
        kind = arrow_type(wanted.kind)
        try:
            chunks = [_cast(batch.column(index), wanted, kind) for batch in batches]
        except (pa.ArrowException, ValueError) as error:
            raise wrong_value(described.name, wanted.name, wanted.kind, error) from error
        return pa.chunked_array(chunks, kind)

    with ThreadPoolExecutor(_PARTITIONS) as pool:
        columns = list(pool.map(column, range(len(described.columns))))
    return pa.Table.from_arrays(columns, schema=described.schema)


def _cast(values: pa.Array, column: _Column, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if column.in_units and not is_text:
        units = values.cast(pa.int64()).cast(pa.decimal128(19, 0))
        return _scaled(units, kind)
    if pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
        try:
            return values.cast(pa.binary()).cast(kind)
        except pa.ArrowInvalid:
            texts = [None if value is None else as_text(value) for value in values.to_pylist()]
            return pa.array(texts, kind)
    if column.kind.name == "TIMESTAMP":
        return values.cast(pa.timestamp("us")).cast(kind)
    return values.cast(kind)


def _scaled(units: pa.Array, kind: pa.DataType) -> pa.Array:
    """Whole numbers read as decimals: the same bytes, with a point in them."""
    import pyarrow as pa

    scaled = pa.Array.from_buffers(
        kind, len(units), units.buffers(), units.null_count, units.offset
    )
    scaled.validate(full=True)
    return scaled


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
