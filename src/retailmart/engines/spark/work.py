"""What travels to tasks: a query with all relations that it reads, and what is done with its rows.

Everything here is a value, or a function of this module: it is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retailmart.engines import Cut, Engine
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.engines.relations import Definition, Relation
from retailmart.tables import DataFile, TableState, Written


@dataclass(frozen=True)
class Reads:
    """All relations that a query reads, each after those that it is built from.

    `names` maps names in a user's query to relations.
    """

    defined: tuple[tuple[str, Definition], ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """About how many bytes are read."""
        return sum(definition.size for _, definition in self.defined)

    def on(self, engine: Engine) -> dict[str, Relation]:
        """Define the relations in another engine; returns the query's names there."""
        assert isinstance(engine, DuckDBEngine)  # noqa: S101 - tasks and the driver have no other
        for name, definition in self.defined:
            engine.add(name, definition)
        return {name: Relation(meant) for name, meant in self.names.items()}


@dataclass(frozen=True)
class Question:
    """A query with a small result."""

    query: str
    reads: Reads


def answers(engine: Engine, questions: Sequence[Question]) -> list[list[tuple[Any, ...]]]:
    """The rows of each query."""
    found = []
    for question in questions:
        question.reads.on(engine)
        found.append(engine.rows(question.query))
    return found


@dataclass(frozen=True)
class WriteOrdered:
    """Writes a query's rows in its order, so that the driver can read them."""

    query: str
    root: Path

    def __call__(self, engine: Engine, reads: Reads) -> Written:
        assert isinstance(engine, DuckDBEngine)  # noqa: S101
        reads.on(engine)
        return engine.write_ordered(self.query, self.root, "rows")


@dataclass(frozen=True)
class WriteRows:
    """Writes a query's rows."""

    query: str
    root: Path
    prefix: str
    partition_by: tuple[str, ...]
    all_rows: bool = False

    def __call__(self, engine: Engine, reads: Reads) -> Written:
        names = reads.on(engine)
        return engine.write(
            self.query, self.root, self.prefix, self.partition_by, names, all_rows=self.all_rows
        )


@dataclass(frozen=True)
class Months:
    """Some months of a mart, or a share of one; `number` makes its file names unique."""

    number: int
    months: Mapping[str, Mapping[str, TableState]]
    cut: Cut | None = None

    @property
    def size(self) -> int:
        """About how many bytes of the months' own tables are read."""
        tables = (table for tables in self.months.values() for table in tables.values())
        whole = sum(file.size for table in tables for file in table.files)
        return whole // (self.cut.share[1] if self.cut else 1)


@dataclass(frozen=True)
class WriteMonths:
    """Writes a query's rows for some months."""

    query: str
    root: Path
    prefix: str
    partition_by: tuple[str, ...]
    reads: Reads

    def __call__(self, engine: Engine, item: Months) -> tuple[DataFile, ...]:
        prefix = f"{self.prefix}{item.number:04d}-"
        names = self.reads.on(engine)
        return engine.write_months(
            self.query, item.months, self.root, prefix, self.partition_by, names, cut=item.cut
        )


@dataclass(frozen=True)
class WritePart:
    """A part of one query's rows, written together with those of other queries."""

    work: WriteRows | WriteMonths
    item: Any


def write_part(engine: Engine, part: WritePart) -> tuple[DataFile, ...]:
    """Write one part."""
    if isinstance(part.work, WriteRows):
        return part.work(engine, part.item).files
    return part.work(engine, part.item)
