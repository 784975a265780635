"""Exact sums of money, however many digits it has and however many rows there are."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from retailmart.project.types import ColumnType

# The engine adds decimals of any length in 38 digits: it takes ten thousand million rows of so many
# digits to go beyond that. Longer ones are added in two parts, as whole numbers of the last digit.
_SAFE_DIGITS = 28
_PART = 10**19


def exact_sum(expression: str, kind: ColumnType) -> str:
    """SQL of a sum that never overflows and loses no digit; `exact` reads its result."""
    if kind.precision <= _SAFE_DIGITS:  # it is 0 for types that are not decimal
        return f"sum({expression})"
    units = f"CAST(replace(CAST({expression} AS VARCHAR), '.', '') AS HUGEINT)"
    return f"sum({units} // {_PART}) || ' ' || sum({units} % {_PART})"


def exact(value: Any, kind: ColumnType) -> Decimal:
    """The value of what `exact_sum` gave; 0 if there was no value."""
    if not isinstance(value, str):
        return Decimal(value or 0)
    high, low = map(int, value.split())
    return Decimal(f"{high * _PART + low}E-{kind.scale}")
