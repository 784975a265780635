"""Values between databases and Arrow: each exactly as its column's type says, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa


def rows_of(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """A batch as Python tuples."""
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def schema_of(names: Sequence[str], kinds: Sequence[ColumnType]) -> pa.Schema:
    """The Arrow schema of these columns."""
    import pyarrow as pa

    return pa.schema([pa.field(n, arrow_type(k)) for n, k in zip(names, kinds, strict=True)])


def record_batch(
    table: str, rows: Sequence[Any], kinds: Sequence[ColumnType], schema: pa.Schema
) -> pa.RecordBatch:
    """Rows as a driver gives them, in Arrow. RetailmartError names the column of a wrong value."""
    import pyarrow as pa

    arrays = []
    for field, kind, values in zip(schema, kinds, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(_array(values, kind, field.type))
        except (pa.ArrowException, ArithmeticError, ValueError, TypeError) as error:
            raise wrong_value(table, field.name, kind, error) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def wrong_value(table: str, column: str, kind: ColumnType, error: Exception) -> RetailmartError:
    """The error for a value that is not of its column's type."""
    return RetailmartError(
        f"source table {table!r}, column {column!r}: a value is no {kind}: {error}",
        "Correct it in the source, or give the column a type that fits",
    )


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


def text(value: Any) -> str:
    """Anything as text; bytes that are no UTF-8 as escapes."""
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
    "STRING": text,
    "BOOLEAN": _truth,
    "DATE": _date,
    "TIMESTAMP": _timestamp,
}


def arrow_type(kind: ColumnType) -> pa.DataType:
    """The Arrow type of a column."""
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
