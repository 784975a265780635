"""How a sender writes values: number marks, date and time formats, defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pydantic import Field

from retailmart.project.documents import Document
from retailmart.project.types import ColumnType

NUMBERS = ("INT", "BIGINT", "DECIMAL", "DOUBLE")
TIMES = ("DATE", "TIMESTAMP")
_DIRECTIVE = re.compile(r"%-?(.)", re.DOTALL)
_DAY, _MONTH, _YEAR = set("d"), set("mbB"), set("Yy")
_CLOCK = set("HIMSfpz")
_KNOWN = _DAY | _MONTH | _YEAR | _CLOCK
_BOUNDS = {"INT": 2**31, "BIGINT": 2**63}


@dataclass(frozen=True)
class Marks:
    """How a sender writes numbers; None or empty means not declared.

    A blank in `thousands` also means no-break spaces.
    """

    decimal: str | None = None
    thousands: str | None = None
    currency: tuple[str, ...] = ()
    parentheses: bool = False

    @property
    def point(self) -> str:
        """The character before the decimals."""
        return self.decimal or "."


PLAIN = Marks()


class MarksDocument(Document):
    """The number marks that a feed declares for all its columns, or a column for itself."""

    decimal: Literal[".", ","] | None = Field(
        None, description="What stands before the decimals; without it, a point."
    )
    thousands: Literal[".", ",", " ", "'", "’", "_"] | None = Field(
        None, description="What may stand between groups of three digits; without it, nothing."
    )
    currency: str | list[str] | None = Field(
        None, description="Signs that may stand before or after a number, as in €, $ or EUR."
    )
    parentheses: bool | None = Field(None, description="true: (1.50) means -1.50.")


def marks_of(column: MarksDocument, feed: MarksDocument) -> Marks:
    """The marks of a column's numbers; the feed's apply where the column has none."""

    def said(key: str) -> Any:
        own = getattr(column, key)
        return getattr(feed, key) if own is None else own

    signs = said("currency") or []
    return Marks(
        said("decimal"),
        said("thousands"),
        tuple([signs] if isinstance(signs, str) else signs),
        bool(said("parentheses")),
    )


def directives(format_: str) -> list[str]:
    """The letters after the % of a format, in its order."""
    return _DIRECTIVE.findall(format_)


def as_list(value: object) -> list[Any]:
    """A single value or a list of them, as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def mark_mistakes(column: Mapping[str, Any], feed: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in the marks of a column's numbers, or in those of a feed."""
    both = {**{k: v for k, v in feed.items() if v is not None}, **column}
    decimal, thousands = both.get("decimal") or ".", both.get("thousands")
    if thousands == decimal:
        fix = f'say `decimal: "{"," if decimal == "." else "."}"` too'
        yield f"thousands: {thousands!r} stands before the decimals already; {fix}"
    for sign in as_list(both.get("currency")):
        if not isinstance(sign, str) or not sign.strip() or re.search(r"[0-9()+-]", sign):
            yield f"currency: {sign!r} is no sign; digits, + - ( ) are parts of numbers"


def format_mistakes(formats: object, kind: str) -> Iterator[str]:
    """Mistakes in the `format` of a column of a type."""
    if kind not in TIMES:
        yield f"format: is for DATE and TIMESTAMP, not for {kind}"
        return
    for text in as_list(formats):
        if problem := _format_problem(str(text), kind):
            yield f"format: {text!r} {problem}"


def _format_problem(text: str, kind: str) -> str | None:
    letters = directives(text)
    if text.count("%") != len(letters):
        return "ends with a %"
    if strange := next((letter for letter in letters if letter not in _KNOWN), None):
        known = " ".join(f"%{letter}" for letter in "YymbBdHIMSfpz")
        return f"has %{strange}, which is unknown; known: {known}"
    if len(set(letters)) < len(letters):
        return "says a part twice"
    for part, needed in (("day", _DAY), ("month", _MONTH), ("year", _YEAR)):
        if len(needed & set(letters)) != 1:
            return f"needs one {' or '.join(sorted(f'%{one}' for one in needed))}, for the {part}"
    clock = set(letters) & _CLOCK
    if clock and kind == "DATE":
        return (
            "tells a time, which a DATE has not: make the column a TIMESTAMP, or write a time"
            " that is always the same as it is, as in '%m/%d/%Y 0:00'"
        )
    if ("I" in clock) != ("p" in clock) or {"H", "I"} <= clock:
        return "needs %H, or %I with %p, for the hour"
    if clock and not clock & {"H", "I"}:
        return "needs an hour, %H or %I with %p, for its other parts of a time"
    return None


def default_problem(value: object, kind: ColumnType) -> str | None:
    """Why a value cannot be the default of a column of a type."""
    text = plain_text(value)
    if text is None or not text.strip():
        return "is no single value"
    if kind.name == "BOOLEAN":
        return None if text in ("true", "false") else "should be true or false"
    try:
        fits = _fits(text, kind)
    except (ValueError, InvalidOperation, OverflowError):
        fits = False
    return None if fits else f"is no {kind}"


def _fits(text: str, kind: ColumnType) -> bool:
    if kind.name in _BOUNDS:
        return -_BOUNDS[kind.name] <= int(text) < _BOUNDS[kind.name]
    if kind.is_decimal:
        number = Decimal(text)
        whole = number.scaleb(kind.scale)
        fits = number.is_finite() and abs(whole) < Decimal(10) ** kind.precision
        return fits and whole == whole.to_integral_value()
    if kind.name == "DOUBLE":
        return Decimal(text).is_finite()
    if kind.name == "DATE":
        return date.fromisoformat(text).isoformat() == text
    if kind.name == "TIMESTAMP":
        return "T" in text and bool(datetime.fromisoformat(text))
    return True


def plain_text(value: object) -> str | None:
    """A YAML value as a cell in plain form; None for lists and the like."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, int | float | str) else None


def as_sent(text: str, kind: ColumnType, formats: tuple[str, ...], marks: Marks) -> str:
    """A plain value as the sender would have written it; other text stays unchanged."""
    if kind.name in NUMBERS:
        return text.replace(".", marks.point)
    if not formats or kind.name not in TIMES:
        return text
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    # On some systems, strftime writes the year 44 without zeros.
    written = formats[0].replace("%-", "%").replace("%Y", f"{moment.year:04d}")
    return moment.strftime(written)
