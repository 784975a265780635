"""What names mean at one place of a query: its columns, those around it, its WITH names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retailmart.engines.spark.dialect.tree import Node
from retailmart.engines.spark.dialect.values import Value


@dataclass(frozen=True)
class Relation:
    """A SELECT in Spark's SQL and the columns it gives: name and DuckDB's type."""

    sql: str
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Column:
    """A column that names may stand for. One merged by USING is behind `relation` only."""

    relation: str
    name: str
    value: Value
    merged: bool = False


@dataclass
class Scope:
    """What names mean at one place of a query. `reached` tells that an inner place used one.

    `relations` are the WITH names that are known there, `within` is what an aggregate's arguments
    mean where that is not the same.
    """

    columns: list[Column] = field(default_factory=list)
    parent: Scope | None = None
    aliases: dict[str, Node] = field(default_factory=dict)
    relations: Mapping[str, Relation] = field(default_factory=dict)
    lambdas: dict[str, Value] = field(default_factory=dict)
    within: Scope | None = None
    reached: bool = False

    def lookup(self, relation: str | None, name: str) -> Value | None:
        """The column of a name, here only."""
        name = name.lower()
        if relation is None and name in self.lambdas:
            return self.lambdas[name]
        for column in self.columns:
            if column.name.lower() == name and (
                not column.merged if relation is None else column.relation.lower() == relation
            ):
                return column.value
        return None


def renamed(
    columns: Sequence[tuple[str, str]], names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Columns by other names, as many as there are."""
    given = [*names, *(name for name, _ in columns[len(names) :])]
    return tuple((name, kind) for name, (_, kind) in zip(given, columns, strict=True))
