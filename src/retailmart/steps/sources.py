"""Read the source tables that marts and feeds name; write to the lake what has changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from retailmart.engines import Engine
from retailmart.errors import SettingsError
from retailmart.lake import Lake
from retailmart.project.documents import did_you_mean
from retailmart.steps.load import raw_table
from retailmart.tables import TableChange, TableState, quoted

if TYPE_CHECKING:
    import pyarrow as pa


class SourceRows(Protocol):
    """A whole source table; `digest` changes with any value in it."""

    @property
    def rows(self) -> pa.Table: ...
    @property
    def digest(self) -> str: ...


# A source's table becomes a folder: nothing may lead elsewhere, and the lake's library takes `%41`
# for A.
_FOLDER_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f-\x9f/\\%]{1,100}")


@dataclass(frozen=True)
class LoadedSource:
    """A source table as marts will see it; `change` is None where the lake holds just that."""

    name: str
    after: TableState
    digest: str
    change: TableChange | None


def locate(
    wanted: Iterable[tuple[str, str]], offered: Mapping[str, frozenset[str]], taken: Iterable[str]
) -> dict[str, str]:
    """Find each wanted table: its name → the source that has it.

    `wanted` pairs a table with the place that names it, `offered` lists each source's tables,
    `taken` are the project's own names. SettingsError names all that are nowhere.
    """
    found: dict[str, str] = {}
    problems = []
    names = {*taken, *(name for tables in offered.values() for name in tables)}
    for table, place in wanted:
        source = next((key for key, tables in offered.items() if table in tables), None)
        if source is None:
            hint = did_you_mean(table, names)
            problems.append(f"{place}: {table!r} is no feed, mart or table of a source{hint}")
        elif not _FOLDER_NAME.fullmatch(table):
            problems.append(
                f"{place}: the table {table!r} cannot be a folder of the lake by this name; make a"
                " view of it under a plain one"
            )
        else:
            found[table] = source
    if problems:
        raise SettingsError(problems, "Sources are named under `sources` in retailmart.yml")
    return found


def load_source(
    engine: Engine,
    lake: Lake,
    name: str,
    table: SourceRows,
    known_digest: str | None,
    batch_id: int,
) -> LoadedSource:
    """Write a source table to the lake where any value differs from what lies there."""
    before = lake.state(raw_table(name))
    if before is not None and table.digest == known_digest:
        return LoadedSource(name, before, table.digest, None)
    view = f"_source_{name}"
    engine.define_rows(view, table.rows)
    root = lake.folder(raw_table(name))
    query = f"SELECT * FROM {quoted(view)}"
    written = engine.write(query, root, f"{lake.prefix(batch_id)}0001", (), None)
    removes = tuple(file.path for file in before.files) if before else ()
    change = TableChange(raw_table(name), written.fields, (), written.files, removes)
    return LoadedSource(name, change.applied_to(str(root), before), table.digest, change)
