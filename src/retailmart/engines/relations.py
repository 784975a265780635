"""Relations that queries read from, as values, and their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.tables import Field, TableState, quoted

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Relation:
    """Rows that queries of one engine can read: a unique name, and the columns.

    In an f-string it is its quoted name, so it can be written where SQL expects a table.
    """

    name: str
    fields: tuple[Field, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return quoted(self.name)


@dataclass(frozen=True)
class CsvShape:
    """The layout of the records in a group of files.

    `multiline` says that quoted cells may hold line ends. The first `skip` lines are not rows.
    """

    columns: int
    delimiter: str
    quoted: bool
    multiline: bool = False
    skip: int = 1


@dataclass(frozen=True)
class JsonShape:
    """The layout of records in a group of JSON files: an array, or one object a line.

    Each of `keys` is read as a column. In a file `of_texts` every value is JSON text within a text.
    """

    keys: tuple[str, ...]
    array: bool
    of_texts: bool = False


@dataclass(frozen=True)
class OfTable:
    """The rows of a table's data files."""

    table: TableState

    @property
    def size(self) -> int:
        """About how many bytes are read for it."""
        return sum(file.size for file in self.table.files)


@dataclass(frozen=True)
class OfRows:
    """Rows in memory."""

    rows: pa.Table

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return int(self.rows.nbytes)


@dataclass(frozen=True)
class OfQuery:
    """A query over other relations, which runs when it is used."""

    text: str

    @property
    def size(self) -> int:
        """Always 0: the relations that it reads have their own sizes."""
        return 0


@dataclass(frozen=True)
class OfFiles:
    """The records of CSV or JSON files, with the key of each file in `files`.

    `numbered` adds each record's number in the file's order.
    """

    files: Mapping[int, Path]
    shape: CsvShape | JsonShape
    numbered: bool = False

    @property
    def size(self) -> int:
        """The size of the files in bytes."""
        return sum(path.stat().st_size for path in self.files.values())


# A relation's definition. It is made of values, so that it can be sent to a task elsewhere.
Definition = OfTable | OfRows | OfQuery | OfFiles
