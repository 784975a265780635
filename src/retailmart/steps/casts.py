"""SQL that turns a cell's text into a typed value, or NULL where it is not exactly one.

Engines' own casts are generous in different ways: they read '1.5' as the integer 2, '1e3' as
1000, '1.005' as 1.01 and a timestamp as its date. A value is taken only where it reads back as it
was written, or where its text has the plain form of its type.
"""

from __future__ import annotations

from retailmart.engines import PLAIN
from retailmart.project.types import ColumnType

_WHOLE = r"\s*[+-]?[0-9]+\s*"
# There is no year 0000; engines take it for 1 BC.
_CALENDAR = r"([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-[0-9]{2}-[0-9]{2}"
_DAY = rf"\s*{_CALENDAR}\s*"
_MOMENT = (
    rf"\s*{_CALENDAR}[T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,6}})?)?"
    r"(Z|[+-](0[0-9]|1[0-4]):?[0-5][0-9])?\s*"
)
# More digits than any number has would become infinity.
_FLOATING = r"\s*[+-]?[0-9]{1,100}(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?\s*"
_YES, _NO = "'true', 'yes', 'y', '1'", "'false', 'no', 'n', '0'"
_BLANKS = r"E' \t\n\f\r'"
_TRUTH = r"\s*(?i:true|false|yes|no|y|n|1|0)\s*"


def attempt(text: str, kind: ColumnType) -> str:
    """The engine's own generous cast of a text expression: the first half of `typed`."""
    name = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}.get(kind.name)
    return f"TRY_CAST({PLAIN}({text}) AS {name or kind})"


def typed(text: str, attempted: str, kind: ColumnType) -> str:
    """An SQL expression of type `kind`: what `attempt` gave, where `text` says exactly that."""
    if kind.name == "STRING":
        return f"CASE WHEN trim({text}) <> '' THEN {text} END"
    if kind.name == "BOOLEAN":
        # The first two branches take nearly all; patterns cost five times as much.
        word = f"lower({text})"
        padded = f"CASE WHEN regexp_full_match({text}, '{_TRUTH}') THEN trim({word}, {_BLANKS})"
        return (
            f"CASE WHEN {word} IN ({_YES}) THEN true WHEN {word} IN ({_NO}) THEN false"
            f" ELSE {padded} IN ({_YES}) END END"
        )
    plain = f"regexp_full_match({text}, '{_plain_form(kind)}')"
    if kind.name in ("TIMESTAMP", "DOUBLE"):
        return f"CASE WHEN {plain} THEN {attempted} END"
    # The first branch is fast and takes nearly all; the pattern is for '007', ' 7' or '12.5'.
    same = f"CAST({attempted} AS VARCHAR) = {text}"
    if kind.name == "DATE":  # 'infinity', '12024-01-05' and '0044-03-15 (BC)' read back as well
        same = f"length({text}) = 10 AND {same}"
    return f"CASE WHEN {same} THEN {attempted} WHEN {plain} THEN {attempted} END"


def _plain_form(kind: ColumnType) -> str:
    if kind.is_decimal:
        digits = f"{{0,{kind.scale}}}"
        bare = rf"\.[0-9]{{1,{kind.scale}}}0*" if kind.scale else r"\.0+"
        return rf"\s*[+-]?([0-9]+(\.[0-9]{digits}0*)?|{bare})\s*"
    if kind.name == "DATE":
        return _DAY
    if kind.name == "TIMESTAMP":
        return _MOMENT
    if kind.name == "DOUBLE":
        return _FLOATING
    return _WHOLE


def expected(kind: ColumnType) -> str:
    """What a cell of this type should look like, for people."""
    if kind.is_decimal:
        return f"an amount such as 1234.50, with at most {kind.scale} decimals"
    return {
        "INT": "a whole number such as 42",
        "BIGINT": "a whole number such as 42",
        "DATE": "a date such as 2024-01-31",
        "TIMESTAMP": "a time such as 2024-01-31T18:30:00Z",
        "BOOLEAN": "true or false",
        "DOUBLE": "a number such as 3.14",
        "STRING": "a text",
    }[kind.name]
