"""Values of variables that change with the day: an incentive's rate from a day on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

Plain = Decimal | int | bool | str


@dataclass(frozen=True)
class ByDate:
    """A variable's values, each from its day on, in the order of the days.

    The first one also counts before its day, so that every day has a value.
    """

    values: tuple[tuple[date, Plain], ...]

    def __str__(self) -> str:
        return ", ".join(f"{day}: {value}" for day, value in self.values)


def by_date(written: Mapping[object, object]) -> ByDate:
    """The values of a mapping from day to value. Raises ValueError, which names the mistake."""
    if not written:
        raise ValueError("holds no value; write a value, or days with values as in 2024-01-01: 1")
    values: list[tuple[date, Plain]] = []
    for key, value in written.items():
        day = _day(key)
        plain = Decimal(str(value)) if isinstance(value, float) else value
        if not isinstance(plain, Decimal | int | bool | str):
            raise ValueError(f"{day}: {value!r} is no number, text, true or false")
        if isinstance(plain, Decimal) and not plain.is_finite():
            raise ValueError(f"{day}: {value!r} is no number that money can be multiplied by")
        if values and day <= values[-1][0]:
            raise ValueError(f"{day} stands after {values[-1][0]}; write the days in their order")
        if values and kind_of(plain) != kind_of(values[0][1]):
            first, known = values[0]
            raise ValueError(
                f"{day} has {kind_of(plain)} and {first} {kind_of(known)}; write one kind of value"
            )
        values.append((day, plain))
    return ByDate(tuple(values))


def kind_of(value: Plain | ByDate) -> str:
    """What kind of value it is, in words; all values by date are of one kind."""
    if isinstance(value, ByDate):
        return kind_of(value.values[0][1])
    if isinstance(value, bool):
        return "true or false"
    return "a text" if isinstance(value, str) else "a number"


def _day(key: object) -> date:
    """The day that a key means; Python code may give a date."""
    if isinstance(key, date):
        return date(key.year, key.month, key.day)
    try:
        return date.fromisoformat(str(key))
    except ValueError:
        raise ValueError(f"{key!r} is no day; write it as in 2024-01-31: 0.015") from None
