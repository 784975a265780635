"""Adding a mart's numbers up again, by Python's own exact decimals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from math import isclose, isnan
from typing import Any

# More than any sum of decimals has.
_DIGITS = 100


def together(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The number of one row; of several the sum, where they are numbers."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if len(rows) == 1:
        return values[0] if values else None
    if values and all(isinstance(one, int | Decimal) for one in values):
        return summed(values)
    return None


def summed(values: Sequence[Any]) -> Any:
    """The exact sum of whole numbers and decimals; that of floats is a float."""
    if any(isinstance(one, float) for one in values):
        return sum(values)
    with localcontext(prec=_DIGITS):
        return sum((Decimal(one) for one in values), Decimal(0))


def less(one: Any, other: Any) -> Any:
    """The difference of two numbers; None if they are none. No number is 0."""
    numbers = [0 if value is None else value for value in (one, other)]
    if not all(isinstance(value, int | Decimal) for value in numbers):
        return None
    with localcontext(prec=_DIGITS):
        return numbers[0] - numbers[1]


def of_aggregate(adds: str, amounts: Sequence[Any]) -> Any:
    """What an aggregate makes of amounts, computed here: exact decimals for money."""
    kind, _, distinct = adds.partition(" ")
    values = list(dict.fromkeys(amounts)) if distinct else list(amounts)
    if kind == "count":
        return len(values)
    if not values:
        return 0 if kind == "sum" else None
    if kind == "sum":
        return summed(values)
    return min(values) if kind == "min" else max(values)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; floats but for what the order of a sum changes."""
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-12) or (isnan(one) and isnan(other))
    return bool(one == other)
