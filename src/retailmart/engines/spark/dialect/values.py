"""Values on their way from DuckDB to Spark, and how Spark's SQL writes types, names and constants.

All other parts of the dialect stand on this one; it knows no query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from retailmart.engines.duckdb import sql_type
from retailmart.errors import RetailmartError
from retailmart.project.functions import FILE
from retailmart.project.types import ColumnType

TZ = "TIMESTAMP WITH TIME ZONE"
NULL = '"NULL"'
RAISE = "raise_error("
_SPARK_TYPES = {
    "BOOLEAN": "BOOLEAN",
    "TINYINT": "TINYINT",
    "SMALLINT": "SMALLINT",
    "INTEGER": "INT",
    "BIGINT": "BIGINT",
    "HUGEINT": "DECIMAL(38,0)",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "VARCHAR": "STRING",
    "JSON": "STRING",
    "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP",
    TZ: "TIMESTAMP",
    NULL: "INT",
}
INTEGERS = {"TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "HUGEINT": 38}
FLOATS = ("FLOAT", "DOUBLE")
TEXTS = ("VARCHAR", "JSON")
MOMENTS = ("TIMESTAMP", TZ)
DAYS = ("DATE", *MOMENTS)
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
AT_HAND = f"write a function in {FILE}: its Python gives the same on both engines"


@dataclass(frozen=True)
class Value:
    """An expression in Spark's SQL and its type in DuckDB; of Spark it has the type that fits it.

    `literal` is how DuckDB was given a constant, where it was.
    """

    sql: str
    type: str
    literal: str | None = None


def refuse(what: str, instead: str) -> RetailmartError:
    """The error for what has no exact equal, with a way out."""
    return RetailmartError(
        f"{what} cannot be told to Spark exactly", instead[:1].upper() + instead[1:]
    )


def duck_type(kind: ColumnType) -> str:
    """A column's type, as DuckDB itself calls it."""
    told = sql_type(kind)
    return TZ if told == "TIMESTAMPTZ" else told


def written(kind: str) -> bool:
    """Whether a constant of this type of DuckDB's can be written down in Spark's SQL."""
    return kind in _SPARK_TYPES or _DECIMAL.fullmatch(kind) is not None


def spark_type(kind: str) -> str:
    """Spark's type for one of DuckDB's."""
    if kind.endswith("[]"):
        return f"ARRAY<{spark_type(kind[:-2])}>"
    if _DECIMAL.fullmatch(kind):
        return kind
    if kind not in _SPARK_TYPES:
        raise refuse(
            f"the type {kind}",
            "cast to a type that tables hold, as in CAST(x AS BIGINT)",
        )
    return _SPARK_TYPES[kind]


def identifier(name: str) -> str:
    """A name as Spark's SQL writes it; `${` would be taken for a setting's."""
    if "${" in name:
        raise refuse(f"the name {name!r}", "give it a name with AS that has no ${")
    return "`" + name.replace("`", "``") + "`"


def string(text: str) -> str:
    """A text as a literal; `${` would be taken for a setting's name."""
    plain = text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\u0024{")
    return "'" + "".join(c if ord(c) >= 32 else f"\\u{ord(c):04x}" for c in plain) + "'"


def digits(kind: str) -> tuple[int, int] | None:
    """Precision and scale of an exact number's type."""
    if match := _DECIMAL.fullmatch(kind):
        return int(match[1]), int(match[2])
    return (INTEGERS[kind], 0) if kind in INTEGERS else None


def exact(kind: str) -> bool:
    """Whether a type's numbers are exact."""
    return digits(kind) is not None


def spark_literal(value: Any, kind: str) -> str:
    """A Python value as a literal of Spark's for a type of DuckDB's."""
    if value is None:
        return f"CAST(NULL AS {spark_type(kind)})"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if kind not in TEXTS:
            raise refuse(f"the {kind} {value}", "stay between the years 1 and 9999")
        return string(value)
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return f"TIMESTAMP'{moment.replace(tzinfo=None).isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE'{value.isoformat()}'"
    if kind == "INTEGER":
        return f"{value}" if value >= 0 else f"({value})"
    text = f"{value:f}" if isinstance(value, Decimal) else repr(value)
    return f"CAST('{text}' AS {spark_type(kind)})"
