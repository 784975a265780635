"""Conversion to Arrow's decimals, without the silent overflow of Arrow's own casts."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING, Any

from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = 38
_EXACT = Context(prec=1000, traps=[Inexact, InvalidOperation])


def as_decimals(values: Any, kind: ColumnType) -> pa.Array:
    """Convert decimals, or texts of them, to decimals of `kind`; Array or ChunkedArray, as given.

    Raises ArithmeticError or ArrowInvalid for a value with more digits than `kind` has. If digits
    and scale together exceed 38, Arrow's cast to 128 bits returns wrong numbers instead (seen with
    pyarrow 26). So the cast goes through 256 bits, which hold both; longer texts are read one by
    one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    target = pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_decimal(values.type):
        longest = values.type.precision
    else:
        longest = pc.max(pc.utf8_length(values)).as_py() or 0
    if longest + kind.scale <= _DIGITS:
        return values.cast(target)
    if longest <= _DIGITS:
        return values.cast(pa.decimal256(2 * _DIGITS, kind.scale)).cast(target)
    unit = Decimal(1).scaleb(-kind.scale)
    found = (
        None if v is None else Decimal(v).quantize(unit, context=_EXACT) for v in values.to_pylist()
    )
    return pa.array(list(found), target)
