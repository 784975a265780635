"""Source tables of servers, read in parts as texts: how a table is divided, and texts decoded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from retailmart.database.values import WRONG, row_words, schema_of, wrong_value
from retailmart.errors import RetailmartError
from retailmart.project.table import ReadRules
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field

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

    @property
    def is_whole(self) -> bool:
        """Whether the server keeps whole numbers in it, of which ranges can be read."""


AColumn = TypeVar("AColumn", bound=Column)
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
        shown = row_words(batch.schema.names, row, self.key)
        value = values[number].as_py()
        return wrong_value(self.table, column.name, shown, column.kind, value, self.rules)


@dataclass(frozen=True)
class Described(Generic[AColumn]):
    """A table or view: its columns, its key, and its approximate rows and bytes."""

    name: str
    columns: tuple[AColumn, ...]
    key: tuple[str, ...]
    rows: int
    size: int
    rules: ReadRules

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns with the types that they are read as."""
        return tuple(Field(column.name, column.kind) for column in self.columns)

    @property
    def schema(self) -> pa.Schema:
        """The same as Arrow's schema."""
        return schema_of([c.name for c in self.columns], [c.kind for c in self.columns])

    @property
    def whole_key(self) -> str | None:
        """The key's first column, if it is an integer; partitions are ranges of it."""
        whole = {column.name for column in self.columns if column.is_whole}
        return self.key[0] if self.key and self.key[0] in whole else None

    def column(self, name: str) -> AColumn:
        """A column by its name. RetailmartError if there is no such column."""
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise RetailmartError(
                f"source table {self.name!r} has no column {name!r}",
                f"Correct `cursor` in {self.rules.file}",
            )
        return found

    def with_columns(self, columns: tuple[AColumn, ...]) -> Self:
        """The same with its columns described in another way."""
        return replace(self, columns=columns)

    def texts(self, cast: Cast) -> Texts:
        """What converts texts to its columns, each by `cast`."""
        return Texts(self.name, self.columns, self.key, self.rules, cast)

    def extract(self, address: DatabaseAddress, queries: Iterable[str], cast: Cast) -> Extract:
        """How others read all of it: each of `queries` gives a part, as texts."""
        decode = self.texts(cast)
        return Extract(address, self.name, self.fields, tuple(queries), decode, self.size)


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
