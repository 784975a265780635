"""tables/*.yml: a table of one of the shop's own databases, and how it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pydantic import Field

from retailmart.project.documents import Document, Location, read_document

HISTORY = "_history"


class Reading(Enum):
    """How much of a table a run reads: all of it, or what lies at or behind its cursor."""

    FULL = "full"
    INCREMENTAL = "incremental"


class TableDocument(Document):
    """The file tables/NAME.yml."""

    source: str | None = Field(
        None, description="Which of `sources`; without it, the first one that has the table."
    )
    table: str | None = Field(None, description="Its name there; without it, this file's name.")
    key: list[str] = Field(default_factory=list, description="Columns that tell rows apart.")
    refresh: Reading = Field(
        Reading.FULL,
        description="full: all rows, each run; incremental: rows whose cursor has moved.",
    )
    cursor: str | None = Field(
        None, description="A column that grows with every insert and update, as updated_at."
    )
    history: bool = Field(
        False, description="Keep each row's versions; marts read them as NAME_history."
    )


@dataclass(frozen=True)
class Table:
    """A table that is read from a source. `name` is what marts call it, `table` the source.

    With `history`, `NAME_history` has all versions of its rows and `NAME` the latest.
    """

    name: str
    table: str
    source: str | None = None
    key: tuple[str, ...] = ()
    reading: Reading = Reading.FULL
    cursor: str | None = None
    history: bool = False
    declared: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """What marts may read."""
        return (self.name, self.name + HISTORY) if self.history else (self.name,)

    @property
    def definition(self) -> str:
        """Changes when what was read before must be read anew."""
        said = (self.source, self.table, self.key, self.reading.value, self.cursor, self.history)
        return hashlib.sha256(repr(said).encode()).hexdigest()


def undeclared(name: str) -> Table:
    """A table that a mart names and no file declares: read whole each time, without history."""
    return Table(name, name, declared=False)


def read_table_file(path: Path, folder: Path, problems: list[str]) -> Table | None:
    """Read one tables/NAME.yml; mistakes go to `problems`."""
    document = read_document(path, folder, "table", TableDocument, _mistakes, problems)
    if document is None:
        return None
    return Table(
        path.stem,
        document.table or path.stem,
        document.source,
        tuple(document.key),
        document.refresh,
        document.cursor,
        document.history,
    )


def _mistakes(data: object) -> Iterator[tuple[Location, str]]:
    if not isinstance(data, Mapping):
        return
    incremental = data.get("refresh") == Reading.INCREMENTAL.value
    if incremental and not data.get("cursor"):
        yield ("refresh",), "refresh: incremental needs `cursor`, a column that grows with changes"
    if incremental and not data.get("key"):
        yield ("refresh",), "refresh: incremental needs `key`: a changed row replaces the old one"
    if data.get("cursor") and not incremental:
        yield ("cursor",), "cursor: is of use with refresh: incremental only"
    if data.get("history") is True and not data.get("key"):
        yield ("history",), "history: needs `key`, the columns that tell rows apart"
