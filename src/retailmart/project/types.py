"""The column types of feeds and tables: the same few on every engine and in every database."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

_DECIMAL = re.compile(r"DECIMAL\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)", re.IGNORECASE)
_SIMPLE = ("INT", "BIGINT", "STRING", "DATE", "TIMESTAMP", "BOOLEAN", "DOUBLE")
_OTHER_NAMES = {
    "INTEGER": "INT",
    "VARCHAR": "STRING",
    "TEXT": "STRING",
    "BOOL": "BOOLEAN",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIMESTAMPTZ": "TIMESTAMP",
    "TINYINT": "INT",
    "SMALLINT": "INT",
    "UTINYINT": "INT",
    "USMALLINT": "INT",
    "UINTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
}


@dataclass(frozen=True)
class ColumnType:
    """INT (32 bit), BIGINT (64 bit), STRING, DATE, TIMESTAMP (UTC), BOOLEAN, DOUBLE or DECIMAL."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})" if self.is_decimal else self.name

    @property
    def is_decimal(self) -> bool:
        """Whether it holds money or other exact fractions."""
        return self.name == "DECIMAL"


def parse_type(text: str) -> ColumnType:
    """Parse a type as users or engines write it; ValueError names the known types."""
    word = " ".join(text.upper().split())
    if match := _DECIMAL.fullmatch(word):
        precision, scale = int(match[1]), int(match[2])
        if not 1 <= precision <= 38 or scale > precision:
            raise ValueError(f"{text}: a decimal has 1 to 38 digits, and no more after the point")
        return ColumnType("DECIMAL", precision, scale)
    word = _OTHER_NAMES.get(word, word)
    if word not in _SIMPLE:
        raise ValueError(f"{text!r} is no column type; {_hint(word)}")
    return ColumnType(word)


def _hint(word: str) -> str:
    if word.startswith("DECIMAL(") and ")" not in word:
        return 'put it in quotes within {}, where a comma ends a value: "DECIMAL(12,2)"'
    if near := difflib.get_close_matches(word, _SIMPLE, n=1):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(_SIMPLE)}, DECIMAL(12,2)"
