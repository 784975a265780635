"""Converts values between databases and Arrow: exactly as the column's type, or not at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

from retailmart.database.conversions import (
    PROVEN_DIGITS,
    expect,
    from_count,
    to_date,
    to_decimal,
    to_float,
    to_text,
    to_timestamp,
    to_truth,
    to_whole,
)
from retailmart.errors import RetailmartError
from retailmart.project.decimals import as_decimals
from retailmart.project.table import ReadRules, Unit, ZeroDates
from retailmart.project.types import ColumnType
from retailmart.tables import quoted

if TYPE_CHECKING:
    import pyarrow as pa

# Errors for a value that is not of its column's type; Arrow's are ValueErrors or these.
WRONG = (ArithmeticError, ValueError, TypeError, NotImplementedError)
_NO_RULES = ReadRules()
# Columns that identify a row without a key, and the maximum length of a value in messages.
_SHOWN, _LONGEST = 3, 60
# Money has no more decimals.
_USUAL_SCALE = 4
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
_ZERO_DATE = re.compile(r"(?=.{4,7}-00)[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]*)?")


def rows_of(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """A batch as Python tuples."""
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def text_of(batch: pa.RecordBatch) -> memoryview:
    """The bytes of a batch of one text column, all rows together, without a copy."""
    (column,) = batch.columns
    if column.null_count:
        raise RetailmartError("a row that was to be loaded has no text")
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return memoryview(b"")
    bounds = memoryview(offsets).cast("B").cast("q" if str(column.type) == "large_string" else "i")
    first, last = bounds[column.offset], bounds[column.offset + len(column)]
    return memoryview(data).cast("B")[first:last]


def schema_of(names: Sequence[str], kinds: Sequence[ColumnType]) -> pa.Schema:
    """The Arrow schema of these columns."""
    import pyarrow as pa

    return pa.schema([pa.field(n, arrow_type(k)) for n, k in zip(names, kinds, strict=True)])


def record_batch(
    table: str,
    rows: Sequence[Any],
    kinds: Sequence[ColumnType],
    schema: pa.Schema,
    key: Sequence[str] = (),
    rules: ReadRules = _NO_RULES,
) -> pa.RecordBatch:
    """A driver's rows in Arrow.

    Raises RetailmartError that names the column of a wrong value, and its row by `key`.
    """
    import pyarrow as pa

    arrays = []
    for field, kind, values in zip(schema, kinds, zip(*rows, strict=True), strict=True):
        wanted = _Wanted(kind, field.type, rules, rules.unit(field.name))
        try:
            arrays.append(_array(values, wanted))
        except WRONG:
            number = next(n for n, value in enumerate(values) if _is_wrong(value, wanted))
            row = row_words(schema.names, rows[number], key)
            raise wrong_value(table, field.name, row, kind, values[number], rules) from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _is_wrong(value: Any, wanted: _Wanted) -> bool:
    try:
        _array([value], wanted)
    except WRONG:
        return True
    return False


def exact_batch(
    rows: Sequence[Sequence[Any]], kinds: Sequence[ColumnType], schema: pa.Schema
) -> tuple[pa.RecordBatch, list[int]]:
    """A driver's rows in Arrow, without those that hold a value of another type.

    Also returns the positions of these. Nothing is rounded. A value that is not written as its type
    is written is not accepted.
    """
    import pyarrow as pa

    def columns(some: Sequence[Sequence[Any]]) -> list[pa.Array]:
        given = zip(*some, strict=True) if some else ((),) * len(kinds)
        return [
            _exact_array(values, kind, field.type)
            for values, kind, field in zip(given, kinds, schema, strict=True)
        ]

    wrong: list[int] = []
    try:
        arrays = columns(rows)
    except WRONG:
        for number, row in enumerate(rows):
            try:
                columns([row])
            except WRONG:
                wrong.append(number)
        left_out = set(wrong)
        arrays = columns([row for number, row in enumerate(rows) if number not in left_out])
    return pa.RecordBatch.from_arrays(arrays, schema=schema), wrong


def _exact_array(values: Sequence[Any], kind: ColumnType, arrow: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if set(map(type, values)) - {type(None)} <= {_EXACT[kind.name]}:
        with suppress(*WRONG):
            return pa.array(values, type=arrow)
    convert = _EXACTLY[kind.name]
    exact = [None if value is None else convert(value, kind) for value in values]
    return pa.array(exact, type=arrow)


def _exact_decimal(value: Any, kind: ColumnType) -> Decimal:
    """Convert to a decimal; a float must be within one float step of the decimal."""
    expect(isinstance(value, int | float | Decimal))
    shortest = value if isinstance(value, Decimal) else Decimal(str(value))
    exact = shortest.quantize(Decimal(1).scaleb(-kind.scale), ROUND_HALF_UP, _WIDE)
    if isinstance(value, float):
        expect(abs(Decimal(value) - exact) <= Decimal(math.ulp(value)))
    else:
        expect(exact == value)
    return exact


def _exact_whole(value: Any, _kind: ColumnType) -> int:
    expect(isinstance(value, int | float | Decimal) and int(value) == value)
    return int(value)


def _exact_float(value: Any, _kind: ColumnType) -> float:
    return to_float(value)


def _none_other(_value: Any, _kind: ColumnType) -> Any:
    raise ValueError


def row_words(names: Sequence[str], values: Sequence[Any], key: Sequence[str]) -> str:
    """A text that identifies a row by its key or, without one, by its first values."""
    shown = key or names[:_SHOWN]
    pairs = (
        f"{name} = {_cut(str(value))}"  # readers that get everything as text show the same
        for name, value in zip(names, values, strict=True)
        if name in shown
    )
    return ", ".join(pairs)


def wrong_value(
    table: str, column: str, row: str, kind: ColumnType, value: Any, rules: ReadRules = _NO_RULES
) -> RetailmartError:
    """The error for a value that is not of its column's type, with possible fixes."""
    is_time = kind.name in ("DATE", "TIMESTAMP")
    if is_time and _is_zero_date(value):
        fix = f"Correct it in the source, or write in {rules.file}: zero_dates: empty"
    elif (
        is_time
        and rules.unit(column) is None
        and (isinstance(value, int | float) or str(value).isdigit())
    ):
        fix = (
            f"Write in {rules.file} what it counts, as in times: {{{column}: milliseconds}};"
            " or seconds, microseconds"
        )
    elif kind.is_decimal and isinstance(value, float):
        fix = _cure_of_float(table, column, kind, value)
    elif kind.name == "DATE":
        fix = (
            "Correct it in the source; or, if its time counts, read the table through a view that"
            " casts the column to a text, and cast this to TIMESTAMP in the marts"
        )
    else:
        fix = "Correct it in the source, or read the table through a view that casts the column"
    return RetailmartError(
        f"source table {table!r}, column {column!r}, row {row}: {_short(value)} is no {kind}", fix
    )


def _cure_of_float(table: str, column: str, kind: ColumnType, value: float) -> str:
    """Rounding helps if the float has too many decimals, but not if it has too many digits."""
    if len(Decimal(f"{value:.{PROVEN_DIGITS}g}").as_tuple().digits) < PROVEN_DIGITS or (
        abs(value) < 10 ** (PROVEN_DIGITS - kind.scale)
    ):
        rounded = f"round({quoted(column)}, {kind.scale})"
        return (
            f"Round it in the source: UPDATE {quoted(table)} SET {quoted(column)} = {rounded}; or"
            " read the table through a view that casts the column to a text, and round this in the"
            " marts"
        )
    return (
        f"The source keeps {PROVEN_DIGITS} digits of such a number: write it there as a text, in a"
        " column of type TEXT, and cast this in the marts"
    )


def _short(value: Any) -> str:
    return _cut(repr(value) if isinstance(value, str | bytes) else str(value))


def _cut(said: str) -> str:
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def _is_zero_date(value: Any) -> bool:
    """A date whose month or day is 0, which MySQL uses for a missing date."""
    return isinstance(value, str) and _ZERO_DATE.fullmatch(value) is not None


def in_calendar(values: pa.Array) -> pa.Array:
    """Dates or timestamps, unchanged; ValueError if one is before the year 1, which Arrow takes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    earliest = pc.min(values)
    if earliest.is_valid and earliest.value < pa.scalar(date.min).cast(values.type).value:
        raise ValueError("before the year 1")
    return values


@dataclass(frozen=True)
class _Wanted:
    """The target of a column's conversion."""

    kind: ColumnType
    arrow: pa.DataType
    rules: ReadRules
    unit: Unit | None


def _array(values: Sequence[Any], wanted: _Wanted) -> pa.Array:
    """Convert a column: Arrow takes most of them directly, others go value by value.

    The code here decides about odd values: Arrow itself would convert 1.5 to the integer 1.
    """
    import pyarrow as pa

    kind, arrow = wanted.kind, wanted.arrow
    found = set(map(type, values)) - {type(None)}
    if found <= _AS_IS.get(kind.name, set()):
        return pa.array(values, type=arrow)
    if kind.name in ("DATE", "TIMESTAMP") and found == {str}:
        with suppress(ValueError):
            return _moments(pa.array(values, type=pa.string()), arrow)
    if kind.is_decimal and found and found <= {float, int}:
        with suppress(*WRONG):
            return _proven_decimals(pa.array(values, type=pa.float64()), kind)
    convert = _conversion(wanted)
    return pa.array([None if v is None else convert(v) for v in values], type=arrow)


def _moments(texts: pa.Array, arrow: pa.DataType) -> pa.Array:
    """Arrow takes the usual forms only, without a zone, and cuts nothing off."""
    import pyarrow as pa

    if pa.types.is_timestamp(arrow):
        texts = texts.cast(pa.timestamp("us"))
    return in_calendar(texts.cast(arrow))


def _proven_decimals(values: pa.Array, kind: ColumnType) -> pa.Array:
    """Floats that are each the nearest one to a decimal of 15 digits; ValueError for others.

    Few decimals are tried first: a large number has no room for many.
    """
    import pyarrow as pa

    for scale in sorted({min(kind.scale, _USUAL_SCALE), kind.scale}):
        if (units := _units(values, scale)) is not None:
            whole = units.cast(pa.int64()).cast(pa.decimal128(19, 0))
            return as_decimals(scaled(whole, pa.decimal128(19, scale)), kind)
    raise ValueError


def _units(values: pa.Array, scale: int) -> pa.Array | None:
    """Floats in units of a decimal's last digit, if they are whole ones and floats prove them.

    A quotient of two whole floats is the float nearest to it: so the last step misses nothing.
    """
    import pyarrow.compute as pc

    if scale > PROVEN_DIGITS:
        return None
    factor = float(10**scale)
    units = pc.round(pc.multiply(values, factor))
    few = pc.less_equal(pc.abs(units), float(10**PROVEN_DIGITS))
    same = pc.equal(pc.divide(units, factor), values)
    return units if pc.all(pc.and_(few, same)).as_py() is not False else None


def scaled(units: pa.Array, kind: pa.DataType) -> pa.Array:
    """Integers read as decimals: the same bytes, with a decimal point."""
    import pyarrow as pa

    found = pa.Array.from_buffers(kind, len(units), units.buffers(), units.null_count, units.offset)
    found.validate(full=True)
    return found


def _conversion(wanted: _Wanted) -> Callable[[Any], Any]:
    kind, unit = wanted.kind, Decimal(1).scaleb(-wanted.kind.scale)
    if kind.is_decimal:
        return lambda value: to_decimal(value, unit)
    convert = _CONVERSIONS[kind.name]
    if kind.name not in ("DATE", "TIMESTAMP"):
        return convert

    def moment(value: Any) -> Any:
        if wanted.rules.zero_dates is ZeroDates.EMPTY and _is_zero_date(value):
            return None
        if wanted.unit and _NUMBER.fullmatch(str(value)):
            value = from_count(value, wanted.unit)
        return convert(value)

    return moment


# Decimals of 38 digits are rounded; the usual context stops at 28.
_WIDE = Context(prec=80)
_AS_IS: dict[str, set[type]] = {
    "INT": {int},
    "BIGINT": {int},
    "DOUBLE": {float, int},
    "STRING": {str},
    "BOOLEAN": {bool},
}
# The Python types that drivers return; Arrow takes exactly these without conversion.
_EXACT: dict[str, type] = {
    "INT": int,
    "BIGINT": int,
    "DECIMAL": Decimal,
    "DOUBLE": float,
    "STRING": str,
    "DATE": date,
    "TIMESTAMP": datetime,
    "BOOLEAN": bool,
}
_EXACTLY: dict[str, Callable[[Any, ColumnType], Any]] = {
    "INT": _exact_whole,
    "BIGINT": _exact_whole,
    "DECIMAL": _exact_decimal,
    "DOUBLE": _exact_float,
    "STRING": _none_other,
    "DATE": _none_other,
    "TIMESTAMP": _none_other,
    "BOOLEAN": _none_other,
}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": to_whole,
    "BIGINT": to_whole,
    "DOUBLE": to_float,
    "STRING": to_text,
    "BOOLEAN": to_truth,
    "DATE": to_date,
    "TIMESTAMP": to_timestamp,
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
