"""Converts a driver's single values to a column's type: to the same value, or not at all.

Each function raises one of `values.WRONG` for a value that it would have to change.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from typing import Any

from retailmart.project.table import Unit

# Any decimal of so many digits is the shortest text of its own float; a text of 16 characters has
# no more, because the point or the exponent is one of them.
PROVEN_DIGITS = 15
_PROVEN_LENGTH = PROVEN_DIGITS + 1
# Up to this many units of a decimal's last digit, no two decimals have the same float.
MOST_UNITS = 2**51
# Whole numbers up to here are each a float of their own.
_WHOLE_FLOATS = 2**53
# Sums of a few floats differ by so many of their last binary digits from the decimal's float.
_MOST_DRIFT = 4
# Decimals of 38 digits need more than the usual context's 28.
_WIDE = Context(prec=80, rounding=ROUND_HALF_EVEN)
_EXACT = Context(prec=80, traps=[Inexact, InvalidOperation])
# ASCII only, without the blanks, underscores and words that Python's own conversions accept.
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
# Python takes any character between day and time, so that a zone after a day becomes a time.
_MOMENT = re.compile(r"[0-9W-]{7,10}([Tt ].*)?")
_BELOW_MICROSECONDS = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")
# A text with digits below the microseconds is longer than this.
_LONGEST_WITHOUT = 21
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = {Unit.SECONDS: 1_000_000, Unit.MILLISECONDS: 1_000, Unit.MICROSECONDS: 1}
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def to_decimal(value: Any, unit: Decimal) -> Decimal:
    """A decimal whose last digit is a `unit`, such as 0.01.

    A float stands for its shortest decimal text if this has 15 digits or less, or so few units that
    no other decimal has this float. It may lie beside a decimal's float by what sums leave.
    """
    if isinstance(value, float):
        said = repr(value)
        if len(said) <= _PROVEN_LENGTH:
            return Decimal(said).quantize(unit, context=_EXACT)
        return _from_long_float(value, said, unit)
    if isinstance(value, str):
        expect(_DECIMAL.fullmatch(value) is not None)
    else:
        expect(isinstance(value, int | Decimal))
    return Decimal(value).quantize(unit, context=_EXACT)


def _from_long_float(value: float, said: str, unit: Decimal) -> Decimal:
    try:
        exact = Decimal(said).quantize(unit, context=_EXACT)
    except Inexact:
        stored = Decimal(value)
        exact = stored.quantize(unit, context=_WIDE)
        drift = abs(_WIDE.subtract(stored, exact))
        # From a tenth of a unit on it could be a further digit that somebody wrote.
        expect(drift <= _MOST_DRIFT * Decimal(math.ulp(value)) and drift * 10 < unit)
    expect(is_proven(exact, unit))
    return exact


def is_proven(exact: Decimal, unit: Decimal) -> bool:
    """Whether a float shows that this decimal was stored and no other."""
    digits = exact.normalize(_WIDE).as_tuple().digits
    return len(digits) <= PROVEN_DIGITS or abs(exact) <= _WIDE.multiply(Decimal(MOST_UNITS), unit)


def to_whole(value: Any) -> int:
    """A whole number; a float counts as far as floats hold each one."""
    if isinstance(value, float):
        expect(value.is_integer() and abs(value) < _WHOLE_FLOATS)
    elif isinstance(value, str):
        expect(_WHOLE.fullmatch(value) is not None)
    else:
        expect(isinstance(value, int | Decimal) and int(value) == value)
    return int(value)


def to_float(value: Any) -> float:
    """A float; a whole number or a decimal only if it is exactly one."""
    expect(isinstance(value, int | float | Decimal) and float(value) == value)
    return float(value)


def to_text(value: Any) -> str:
    """Any value as text; bytes that are not UTF-8 become escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def to_truth(value: Any) -> bool:
    """A truth value: 1, 0, true or false."""
    if (word := str(value).strip().lower()) not in _TRUTH:
        raise ValueError
    return _TRUTH[word]


def to_date(value: Any) -> date:
    """A date; midnight counts as its day, another time does not, and neither does a zone.

    A number counts only with eight digits, because others could mean anything.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, datetime):
        moment = value
    else:
        said = str(value)
        expect(not said.isdigit() or len(said) == len("20240131"))
        moment = _parsed(said)
    expect(moment.time() == time.min and not moment.utcoffset())
    return moment.date()


def to_timestamp(value: Any) -> datetime:
    """A timestamp. A bare number is not one, because its unit is unknown."""
    if isinstance(value, datetime):
        moment = value
    else:
        said = str(value)
        expect(not said.isdigit())
        moment = _parsed(said)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    # Python's own years end at 9999; Arrow would count on.
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _parsed(said: str) -> datetime:
    usual = said[4:5] == "-" == said[7:8] and said[10:11] in ("", " ", "T")
    expect(usual or _MOMENT.fullmatch(said) is not None)
    if len(said) > _LONGEST_WITHOUT:
        expect(_BELOW_MICROSECONDS.search(said) is None)
    return datetime.fromisoformat(said)


def from_count(value: Any, unit: Unit) -> datetime:
    """The timestamp that many seconds, milliseconds or microseconds after the start of 1970.

    A float stands for a whole microsecond beside it, as in `to_decimal`.
    """
    factor = Decimal(_MICROSECONDS[unit])
    if isinstance(value, float):
        stored = _WIDE.multiply(Decimal(value), factor)
        whole = stored.quantize(Decimal(1), context=_WIDE)
        drift = abs(_WIDE.subtract(stored, whole))
        expect(drift <= _MOST_DRIFT * Decimal(math.ulp(value)) * factor)
    else:
        whole = _EXACT.multiply(Decimal(str(value)), factor)
        expect(whole == int(whole))
    return _EPOCH + timedelta(microseconds=int(whole))


def expect(holds: bool) -> None:
    """Refuse a value for which this does not hold."""
    if not holds:
        raise ValueError
