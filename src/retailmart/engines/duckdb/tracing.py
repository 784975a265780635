"""DuckDB for explaining numbers: rows that have keys, so that it can be said which ones were used.

A key is a UBIGINT. Its highest byte is the tag of the table, the rest tells the table's rows apart:
the place in its files, or a hash of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from retailmart.engines.duckdb.asking import AskingEngine
from retailmart.engines.duckdb.connection import translate_errors
from retailmart.engines.duckdb.sql import read_numbered
from retailmart.tables import TableState, quoted

# Contains blanks, so that no column of a user has this name.
KEY: Final = "key of row"
_TAG_AT: Final = 56


def tag_of(key: int) -> int:
    """The tag of the table that a key's row is in."""
    return key >> _TAG_AT


def first_key(tag: int) -> int:
    """The lowest key of a table's rows."""
    return tag << _TAG_AT


def hashed(tag: int, expressions: Sequence[str]) -> str:
    """SQL of a key from values: rows of equal values share it."""
    return f"(CAST({first_key(tag)} AS UBIGINT) + (hash({', '.join(expressions)}) >> 8))"


class TracingEngine(AskingEngine):
    """A DuckDB in which names stand for rows with keys."""

    def keyed(self, name: str, table: TableState, tag: int, numbers: Sequence[int]) -> None:
        """Let a name stand for a table's rows, each with its key in a column KEY.

        `numbers` are those of the table's files: the keys depend on them.
        """
        key = quoted(KEY)
        text = read_numbered(self._here(table), numbers, KEY)
        tagged = f"CAST({first_key(tag)} AS UBIGINT) + {key}"
        self.view(name, f"SELECT * REPLACE ({tagged} AS {key}) FROM ({text})")

    def view(self, name: str, text: str) -> None:
        """Let a name stand for the rows of a query."""
        self._connection.view(name, text)

    def hold(self, name: str, keys: Iterable[int]) -> None:
        """Let a name stand for these keys, in a column KEY."""
        import pyarrow as pa

        self._connection.release(name)
        self._connection.hold(name, pa.table({KEY: pa.array(sorted(keys), pa.uint64())}))

    def hold_texts(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Let a name stand for rows of texts, each with its number from 0 in a column KEY."""
        import pyarrow as pa

        self._connection.release(name)
        table = {
            column: pa.array([row[n] for row in rows], pa.string())
            for n, column in enumerate(columns)
        }
        table[KEY] = pa.array(range(len(rows)), pa.uint64())
        self._connection.hold(name, pa.table(table))

    def dicts(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query that fit into memory, each by the names of its columns."""
        with translate_errors():
            found = self._connection.sql(query)
            names = found.columns
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
