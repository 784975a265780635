"""tables/*.yml: a table in one of the shop's own databases, and how to read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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


class ZeroDates(Enum):
    """What becomes of a date like 0000-00-00: it is refused, or read as NULL."""

    REFUSE = "refuse"
    EMPTY = "empty"


class Unit(Enum):
    """What a number counts that stands for a moment, from 1970 on."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MICROSECONDS = "microseconds"


@dataclass(frozen=True)
class ReadRules:
    """How to read values of a table that are ambiguous by themselves.

    `file` is where this is declared, for messages. `times` pairs columns with their units. `key`
    identifies rows, for a table whose database does not declare a key.
    """

    file: str = "the table's file in tables/"
    key: tuple[str, ...] = ()
    zero_dates: ZeroDates = ZeroDates.REFUSE
    times: tuple[tuple[str, Unit], ...] = ()

    def unit(self, column: str) -> Unit | None:
        """The unit of a column's numbers; None if it is not declared."""
        return dict(self.times).get(column)


class TableDocument(Document):
    """The file tables/NAME.yml: a table of one of the shop's databases, and how it is read."""

    source: str | None = Field(
        None, description="Which of `sources` it is in; without it, the first that has the table."
    )
    table: str | None = Field(None, description="Its name there; without it, this file's name.")
    key: list[str] = Field(default_factory=list, description="The columns that identify a row.")
    refresh: Reading = Field(
        Reading.FULL,
        description="What a run reads. full: all rows; incremental: rows at or after the watermark,"
        " the highest value of `cursor` that was read before.",
    )
    cursor: str | None = Field(
        None, description="A column that grows with every insert and update, as in updated_at."
    )
    history: bool = Field(
        False,
        description="Whether all versions of each row are kept; marts read them as NAME_history.",
    )
    aliases: dict[str, list[str]] = Field(
        default_factory=dict,
        description="By a column's name in marts: the other names that the source has for it.",
    )
    shrinks_by: str = Field(
        "50%",
        pattern=r"^(100|[1-9]?[0-9])%$",
        description="If a table has lost more of its rows than this, its marts are held back; 100%:"
        " never.",
    )
    zero_dates: ZeroDates = Field(
        ZeroDates.REFUSE,
        description="What a date like 0000-00-00 does. refuse: it holds the table's marts back;"
        " empty: it is read as NULL.",
    )
    times: dict[str, Unit] = Field(
        default_factory=dict,
        description="SQLite: columns whose numbers are moments, and the unit that they count from"
        " 1970.",
    )


@dataclass(frozen=True)
class Table:
    """A table that is read from a source. `name` is its name in marts, `table` its name there.

    `aliases` are other names of its columns in the source. A table that has lost more than
    `shrinks_by` percent of its rows is refused. With `history`, `NAME_history` has all versions of
    its rows and `NAME` the latest.
    """

    name: str
    table: str
    source: str | None = None
    key: tuple[str, ...] = ()
    reading: Reading = Reading.FULL
    cursor: str | None = None
    history: bool = False
    declared: bool = True
    zero_dates: ZeroDates = ZeroDates.REFUSE
    times: tuple[tuple[str, Unit], ...] = ()
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shrinks_by: int = 50

    @property
    def rules(self) -> ReadRules:
        """How to read its values."""
        return ReadRules(f"tables/{self.name}.yml", self.key, self.zero_dates, self.times)

    def own_names(self, offered: Sequence[str]) -> list[str]:
        """The columns that the source has, by their names in marts."""
        aliases = {
            alias: name
            for name, others in self.aliases
            if name not in offered
            for alias in reversed(others)
        }
        return [aliases.get(name, name) for name in offered]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that marts may read."""
        return (self.name, self.name + HISTORY) if self.history else (self.name,)

    @property
    def definition(self) -> str:
        """A text that changes when data that was read before must be read again."""
        said: tuple[object, ...] = (
            self.source,
            self.table,
            self.key,
            self.reading.value,
            self.cursor,
            self.history,
        )
        # An absent setting leaves the digest as it was before the setting existed.
        if self.zero_dates is not ZeroDates.REFUSE:
            said += (self.zero_dates.value,)
        if self.aliases:
            said += self.aliases
        if self.times:
            said += tuple((column, unit.value) for column, unit in self.times)
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
        zero_dates=document.zero_dates,
        times=tuple(document.times.items()),
        aliases=tuple((name, tuple(others)) for name, others in document.aliases.items()),
        shrinks_by=int(document.shrinks_by.rstrip("%")),
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
