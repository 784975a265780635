"""Tables of the shop's own databases, read into Arrow with their types kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, MetaData, Table, inspect, select
from sqlalchemy import types as sql
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 50_000


@dataclass(frozen=True)
class SourceTable:
    """A whole table; `digest` changes with any value in it. Rows are in key order."""

    name: str
    rows: pa.Table
    digest: str


def table_names(engine: Engine) -> frozenset[str]:
    """The tables and views a source offers."""
    try:
        inspector = inspect(engine)
        return frozenset(inspector.get_table_names()) | frozenset(inspector.get_view_names())
    except DBAPIError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise RetailmartError(
            f"the source database {shown} cannot be read: {error.orig}",
            "Check `sources` in retailmart.yml",
        ) from error


def read_table(engine: Engine, name: str) -> SourceTable:
    """Read a whole table. Raises RetailmartError where a value is not of its column's type."""
    import pyarrow as pa

    try:
        table = Table(name, MetaData(), autoload_with=engine)
    except NoSuchTableError as error:
        raise RetailmartError(f"the source has no table {name!r} any more") from error
    kinds = [_column_type(column.type) for column in table.columns]
    fields = [pa.field(c.name, _arrow_type(k)) for c, k in zip(table.columns, kinds, strict=True)]
    schema = pa.schema(fields)
    order = list(table.primary_key.columns) or list(table.columns)
    # Values come as the driver gives them: SQLAlchemy's own conversions pass money through float.
    query = str(
        select(*table.columns)
        .order_by(*order)
        .compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
    )
    digest = hashlib.sha256(repr(schema).encode())
    batches = []
    try:
        with engine.connect() as connection:
            for rows in _chunks(connection.exec_driver_sql(query)):
                batch = _record_batch(name, rows, kinds, schema)
                for column in batch.columns:
                    for buffer in column.buffers():
                        # With its size: else NULL and 0 differ in no byte where a table is short.
                        digest.update(str(buffer.size if buffer else None).encode())
                        digest.update(buffer or b"")
                batches.append(batch)
    except (DBAPIError, engine.dialect.loaded_dbapi.Error) as error:
        # Rows come from the driver's own cursor, whose errors SQLAlchemy does not see.
        cause = getattr(error, "orig", error)
        raise RetailmartError(f"source table {name!r} cannot be read: {cause}") from error
    return SourceTable(name, pa.Table.from_batches(batches, schema), digest.hexdigest())


def _chunks(result: Any) -> Iterator[Sequence[Any]]:
    while rows := result.cursor.fetchmany(_CHUNK):
        yield rows


def _record_batch(
    name: str, rows: Sequence[Any], kinds: Sequence[ColumnType], schema: pa.Schema
) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = []
    for field, kind, values in zip(schema, kinds, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(_array(values, kind, field.type))
        except (pa.ArrowException, ArithmeticError, ValueError, TypeError) as error:
            raise RetailmartError(
                f"source table {name!r}, column {field.name!r}: a value is no {kind}: {error}",
                "Correct it in the source, or give the column a type that fits",
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], kind: ColumnType, arrow: pa.DataType) -> pa.Array:
    """Arrow takes most columns as they come; only an odd one is looked at value by value.

    What is odd is decided here: Arrow itself would take 1.5 into whole numbers, as 1.
    """
    import pyarrow as pa

    found = set(map(type, values)) - {type(None)}
    if found <= _AS_IS.get(kind.name, set()):
        return pa.array(values, type=arrow)
    if kind.name == "DATE" and found == {str}:
        with suppress(pa.ArrowInvalid):
            return pa.array(values, type=pa.string()).cast(arrow)
    unit = Decimal(1).scaleb(-kind.scale)
    convert = _CONVERSIONS.get(kind.name) or (lambda value: _decimal(value, unit))
    return pa.array([None if v is None else _converted(v, convert) for v in values], type=arrow)


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ValueError(repr(value)) from error


def _decimal(value: Any, unit: Decimal) -> Decimal:
    """SQLite hands money out as float; its shortest decimal text is what was stored."""
    exact = value if isinstance(value, Decimal) else Decimal(str(value))
    return exact.quantize(unit, ROUND_HALF_UP, _WIDE)


def _whole(value: Any) -> int:
    whole = int(value)
    if whole != value and str(whole) != str(value).strip():
        raise ValueError
    return whole


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _truth(value: Any) -> bool:
    if (word := str(value).strip().lower()) not in _TRUTH:
        raise ValueError
    return _TRUTH[word]


def _date(value: Any) -> date:
    if isinstance(value, date):
        return value.date() if isinstance(value, datetime) else value
    return datetime.fromisoformat(str(value)).date()


def _timestamp(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# Decimals of 38 digits are rounded; the usual context gives up at 28.
_WIDE = Context(prec=80)
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_AS_IS: dict[str, set[type]] = {
    "INT": {int},
    "BIGINT": {int},
    "DOUBLE": {float, int},
    "STRING": {str},
    "BOOLEAN": {bool},
}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": _whole,
    "BIGINT": _whole,
    "DOUBLE": float,
    "STRING": _text,
    "BOOLEAN": _truth,
    "DATE": _date,
    "TIMESTAMP": _timestamp,
}


def _column_type(kind: sql.TypeEngine[Any]) -> ColumnType:
    """The type of a database's column. A decimal without digits keeps ten after the point."""
    if isinstance(kind, sql.BigInteger):
        return ColumnType("BIGINT")
    if isinstance(kind, sql.Boolean):
        return ColumnType("BOOLEAN")
    if isinstance(kind, sql.Integer):
        return ColumnType("INT")
    if isinstance(kind, sql.Float):
        return ColumnType("DOUBLE")
    if isinstance(kind, sql.Numeric):
        scale = kind.scale if kind.scale is not None else (0 if kind.precision else 10)
        return ColumnType("DECIMAL", min(kind.precision or 38, 38), min(scale, 38))
    if isinstance(kind, sql.DateTime):
        return ColumnType("TIMESTAMP")
    if isinstance(kind, sql.Date):
        return ColumnType("DATE")
    return ColumnType("STRING")


def _arrow_type(kind: ColumnType) -> pa.DataType:
    import pyarrow as pa

    if kind.is_decimal:
        return pa.decimal128(kind.precision, kind.scale)
    return {
        "INT": pa.int32(),
        "BIGINT": pa.int64(),
        "STRING": pa.string(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
        "BOOLEAN": pa.bool_(),
        "DOUBLE": pa.float64(),
    }[kind.name]
