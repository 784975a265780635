"""Work on many files, divided into groups of about the same size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from retailmart.engines import Engine, Relation, Work
from retailmart.tables import TableState

Sized = TypeVar("Sized")
Result = TypeVar("Result")


def divided(
    items: Sequence[Sized], size: Callable[[Sized], int], parts: Callable[[int], int]
) -> list[list[Sized]]:
    """Items in groups of about the same size, as many as `parts` says for their total size."""
    if not items:
        return []
    wanted = min(parts(sum(map(size, items))), len(items))
    groups: list[list[Sized]] = [[] for _ in range(wanted)]
    filled = [0] * wanted
    for item in sorted(items, key=size, reverse=True) if wanted > 1 else items:
        least = filled.index(min(filled))
        groups[least].append(item)
        filled[least] += size(item)
    return groups


def groups_of_files(engine: Engine, table: TableState) -> list[TableState]:
    """A table in parts of about the same size; none where it has no files."""
    return [table.only(group) for group in divided(table.files, lambda f: f.size, engine.parts)]


def relations_of_files(engine: Engine, table: TableState) -> list[Relation]:
    """The rows of a table in parts, to be queried in parallel."""
    return [engine.define(part) for part in groups_of_files(engine, table)]


def over_files(engine: Engine, work: Work[TableState, Result], table: TableState) -> list[Result]:
    """Do the work for groups of a table's files; none where it has no files."""
    parts = groups_of_files(engine, table)
    return engine.spread(work, parts, [sum(file.size for file in part.files) for part in parts])
