"""A source table as marts will see it, and how it gets there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from retailmart.engines import Engine, Relation
from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import LAYER, VALID_TO, raw_table
from retailmart.ledger.values import ColumnChange, Schema, SchemaColumn, SourceRecord
from retailmart.project.table import Table
from retailmart.sources.form import (
    BASE,
    DELTA,
    OPEN,
    files_in,
    has_versions,
    layers_of,
    own_fields,
    relations_of,
)
from retailmart.sources.incoming import Incoming
from retailmart.tables import DataFile, TableChange, TableState, quoted

if TYPE_CHECKING:
    import pyarrow as pa

# In the affected rows of a table: from which day on a mart's look-up may find another version.
SINCE: Final = "_since"
_AT_ONCE = 50_000


@dataclass(frozen=True)
class LoadedTable:
    """A source table as marts will see it; `change` is None if the lake holds exactly that.

    `affected` are the changed rows, with SINCE, the first day for which a version differs. It is
    None if nothing, or `everything`, differs.
    """

    table: Table
    record: SourceRecord
    before: TableState | None
    after: TableState
    change: TableChange | None = None
    affected: Relation | None = None
    everything: bool = False

    @property
    def schema(self) -> Schema | None:
        """The columns of the table, if they have changed."""
        now = own_fields(self.after)
        if self.before is not None and own_fields(self.before) == now:
            return None
        known = (
            {column.name: str(column.type) for column in own_fields(self.before)}
            if self.before
            else {}
        )
        columns = tuple(SchemaColumn(f.name, str(f.type), str(f.type)) for f in now)
        changes = tuple(
            ColumnChange(f.name, known.get(f.name), str(f.type), f"table {self.table.table}")
            for f in now
            if known and known.get(f.name) != str(f.type)
        )
        return Schema(raw_table(self.table.name), columns, changes)

    def relations(self, engine: Engine) -> dict[str, Relation]:
        """The relation for each name by which marts read the table.

        A key is compared there as its own database compares it.
        """
        relations = relations_of(engine, self.table, self.after)
        if (collated := self.record.key_collation) is None:
            return relations
        column, _ = collated
        if column not in {field.name for field in self.after.fields}:
            return relations
        own = f"{self.compared(quoted(column), column)} AS {quoted(column)}"
        return {
            name: engine.query(f"SELECT * REPLACE ({own}) FROM {relation}")
            for name, relation in relations.items()
        }

    def compared(self, expression: str, column: str) -> str:
        """A column's expression, compared as the table's own database compares it."""
        collated = self.record.key_collation
        if collated is None or collated[0].lower() != column.lower():
            return expression
        return f"{expression} COLLATE {collated[1]}"

    def relation_before(self, engine: Engine) -> Relation | None:
        """The table as it was, with all versions of its rows; None if it did not exist."""
        return None if self.before is None else engine.define(self.before)


@dataclass(frozen=True)
class TableWriter:
    """Writes one table's files in one batch."""

    engine: Engine
    lake: Lake
    incoming: Incoming
    before: TableState | None
    batch_id: int

    def write(
        self,
        query: str,
        replaced: Collection[DataFile] | None = None,
        *,
        affected: Relation | None = None,
        everything: bool = False,
    ) -> LoadedTable:
        """Write a query's rows in the place of the files `replaced`; None stands for all files."""
        table, record = self.incoming.table, self.incoming.record
        name, layers = raw_table(table.name), layers_of(table)
        root, prefix = self.lake.folder(name), f"{self.lake.prefix(self.batch_id)}0001"
        written = self.engine.write(query, root, prefix, layers)
        if replaced is None:
            replaced = self.before.files if self.before else ()
        removes = tuple(file.path for file in replaced)
        change = TableChange(name, written.fields, layers, written.files, removes)
        after = change.applied_to(str(root), self.before)
        return LoadedTable(table, record, self.before, after, change, affected, everything)

    def rows(self, query: str) -> pa.Table | None:
        """The rows of a query, computed once; None if there are none."""
        import pyarrow as pa

        fields = self.engine.fields(query)
        batches = list(self.engine.batches(query, _AT_ONCE))
        if not batches:
            return None
        rows = pa.Table.from_batches(batches).rename_columns([column.name for column in fields])
        return rows if rows.num_rows else None


def expect_not_shrunk(engine: Engine, loaded: LoadedTable, known: SourceRecord | None) -> None:
    """Raise RetailmartError if a table has lost more of its rows than is accepted silently.

    `known` is what the ledger said of it before.
    """
    table = loaded.table
    if loaded.before is None or loaded.change is None:
        return
    after = _count(engine, relations_of(engine, table, loaded.after)[table.name])
    if known is not None and known.definition == table.definition:
        before = _count(engine, relations_of(engine, table, loaded.before)[table.name])
    else:
        before = _rows_by_form(engine, loaded.before)
    if (before - after) * 100 > table.shrinks_by * before:
        raise RetailmartError(
            f"source table {table.table!r} has {after:,} rows of the {before:,} that it had",
            f"If that is right, write in tables/{table.name}.yml: shrinks_by: 100%, and run",
        )


def _rows_by_form(engine: Engine, state: TableState) -> int:
    """How many rows a table had, whatever definition it was read by: its form alone shows that.

    If its delta files were merged by a key, nobody knows that key any more, and the result is the
    least that it can have had.
    """
    if has_versions(state):
        versions = engine.define(state)
        latest = f"SELECT 1 FROM {versions} WHERE {VALID_TO} = {OPEN}"
        return _count(engine, engine.query(latest))
    layers = (files_in(state, layer) for layer in (BASE, DELTA))
    if state.partition_by == (LAYER,):
        return max(sum(file.rows for file in files) for files in layers)
    return sum(file.rows for file in state.files)


def _count(engine: Engine, relation: Relation) -> int:
    """How many rows a relation has."""
    return int(engine.rows(f"SELECT count(*) FROM {relation}")[0][0])
