"""Source tables of servers, read in parts as texts: how a table is divided, and texts decoded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from retailmart.database.values import WRONG, row_words, wrong_value
from retailmart.errors import RetailmartError
from retailmart.project.table import ReadRules
from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

_MOST = 8
# A table with fewer rows is read at once.
WORTH_PARTS = 50_000


class Column(Protocol):
    """A column of a source table, as its server describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> ColumnType:
        """The type that its values are read as."""


# Makes of values what a column holds; raises one of `WRONG` for a value of another type.
Cast = Callable[["pa.Array", Any], "pa.Array"]


@dataclass(frozen=True)
class Texts:
    """Converts texts to a table's column types; a value, so that it can be pickled."""

    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rules: ReadRules
    cast: Cast

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Convert a batch. RetailmartError names the column of a wrong value, and its row."""
        import pyarrow as pa

        names = [column.name for column in self.columns]
        arrays = []
        for values, column in zip(batch.columns, self.columns, strict=True):
            try:
                arrays.append(self.cast(values, column))
            except WRONG:
                raise self.wrong(batch.rename_columns(names), column) from None
        return pa.RecordBatch.from_arrays(arrays, names)

    def wrong(self, batch: pa.RecordBatch, column: Column) -> RetailmartError:
        """The error for the first value of a batch that is not of its column's type."""
        values = batch.column(column.name)

        def fails(length: int) -> bool:
            try:
                self.cast(values.slice(0, length), column)
            except WRONG:
                return True
            return False

        number = bisect_left(range(len(values) + 1), True, key=fails) - 1
        row = [one[number].as_py() for one in batch.columns]
        words = row_words(batch.schema.names, row, self.key)
        value = values[number].as_py()
        return wrong_value(self.table, column.name, words, column.kind, value, self.rules)


def parts_of(rows: int) -> int:
    """How many parts a table of about so many rows is worth, for readers with a connection each.

    Not more than a server can spare connections.
    """
    return min(rows // WORTH_PARTS, _MOST)


def ranges(connection: Connection, table: str, key: str, parts: int) -> list[str]:
    """Conditions that divide a table into parts of about equal size; one if it has no row.

    `table` and `key`, a column of whole numbers, are as SQL names them.
    """
    query = f"SELECT MIN({key}), MAX({key}) FROM {table}"
    lowest, highest = connection.exec_driver_sql(query.replace("%", "%%")).one()
    if lowest is None:
        return [""]
    step = (int(highest) - int(lowest)) // parts + 1
    cuts = [int(lowest) + step * number for number in range(1, parts)]
    # Open at both ends: rows may arrive while the table is read.
    above = ["", *(f"{key} >= {cut}" for cut in cuts)]
    below = [*(f"{key} < {cut}" for cut in cuts), ""]
    return [" AND ".join(filter(None, ends)) for ends in zip(above, below, strict=True)]
