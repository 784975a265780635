"""The shop's tables in one run: which have changed, and what they bring into the lake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import partial

from retailmart.engines import Engine
from retailmart.errors import GateFailed, ProjectBusy, RetailmartError, Unavailable
from retailmart.lake import Lake
from retailmart.lake.orphans import discard
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, SourceRecord
from retailmart.project import Project
from retailmart.project.table import Table, undeclared
from retailmart.project.uses import is_mentioned, referenced, uses_column
from retailmart.sources.databases import Sources, gone
from retailmart.sources.detect import SourceChange, probe
from retailmart.sources.load import load_table
from retailmart.sources.loaded import LoadedTable, expect_not_shrunk
from retailmart.sources.restore import restored_table

# Errors that do not concern one table only: the run ends, or tries again.
_STOPS = (Unavailable, ProjectBusy, GateFailed)


@dataclass(frozen=True)
class Work:
    """Whether there is anything to do.

    `seen` are records for the ledger of unchanged tables, which are recognized faster next time.
    """

    is_needed: bool
    seen: tuple[SourceRecord, ...] = ()


@dataclass
class ShopTables:
    """The shop's tables, as a run works with them. `reads` gives what each mart reads.

    `tell` is called with what a person should know.

    `unreadable` are the tables that cannot be read correctly: the marts that read them wait. Each
    comes with the reason and what to do.
    """

    project: Project
    sources: Sources
    ledger: Ledger
    lake: Lake
    reads: Callable[[], Mapping[str, frozenset[str]]]
    tell: Callable[[str], None] = lambda message: None
    unreadable: dict[str, str] = field(default_factory=dict)
    _found: dict[str, SourceChange] = field(default_factory=dict)

    def work(self) -> Work:
        """Whether tables that marts or feeds read have changed rows, or are new."""
        known = self.ledger.sources.all()
        mentioned = filter(partial(is_mentioned, self.project), known)
        seen = []
        for name in sorted({*self.project.tables, *mentioned}):
            table = self.project.tables.get(name, undeclared(name))
            found = self._change_of(table, known.get(name))
            if found is None:
                continue
            if found.rows is None:
                seen += [found.record] if found.record != known.get(name) else []
            elif self._is_read(table):
                return Work(True)
        return Work(False, tuple(seen))

    def _change_of(self, table: Table, known: SourceRecord | None) -> SourceChange | None:
        """What the source has of a table; None if it was not read, or can't be."""
        try:
            if known and self.sources.is_as_it_was(known.source, table, known):
                return None
            source = self.sources.has(table)
        except RetailmartError:
            if known is None:
                return None  # a new project may name sources that do not exist yet
            raise
        if source is None:
            if known is not None and self._is_read(table):
                self.hold_back(table.name, gone(table))
            return None
        try:
            return self._probe(table, source, known)
        except RetailmartError as error:
            self.hold_back(table.name, error)
            return None

    def _is_read(self, table: Table) -> bool:
        """Whether a batch would read a table that has changed.

        A word that names no table would cause batches in which nothing is done, again and again.
        """
        if table.declared or table.name in referenced(self.project):
            return True
        return any(table.name in names for names in self.reads().values())

    def _probe(self, table: Table, source: str, known: SourceRecord | None) -> SourceChange:
        """What a source's table has, read once a run however often this is called."""
        if table.name not in self._found:
            self._found[table.name] = probe(self.sources, source, table, known)
        return self._found[table.name]

    def hold_back(self, name: str, error: RetailmartError) -> None:
        """Remember that a table cannot be read correctly. Raises errors of more than this table."""
        if isinstance(error, _STOPS):
            raise error
        self.unreadable[name] = error.one_line

    def load(
        self, engine: Engine, wanted: Mapping[str, tuple[str, Table]], batch: Batch
    ) -> tuple[list[LoadedTable], dict[str, str]]:
        """Load tables into the lake; `wanted` gives the source of each.

        Also returns the names of those that cannot be read correctly, with the reason: the lake
        keeps what it has of them.
        """
        known = self.ledger.sources.all()
        loaded: list[LoadedTable] = []
        held: dict[str, str] = {}
        restored = self._restored(wanted, batch, known) if batch.undoes is not None else {}
        for source, table in wanted.values():
            if table.name in restored:
                loaded.append(restored[table.name])
                continue
            try:
                loaded.append(self._loaded(engine, source, table, known.get(table.name), batch))
            except RetailmartError as error:
                self.hold_back(table.name, error)
                held |= dict.fromkeys(table.names, self.unreadable[table.name])
        self._found.clear()
        return loaded, held

    def _loaded(
        self, engine: Engine, source: str, table: Table, known: SourceRecord | None, batch: Batch
    ) -> LoadedTable:
        day = batch.as_of.astimezone(UTC).date()
        whole = partial(probe, self.sources, source, table, None)
        found = self._probe(table, source, known)
        used = partial(uses_column, self.project, table)
        one = load_table(engine, self.lake, found, whole, day, batch.batch_id, used)
        try:
            expect_not_shrunk(engine, one, known)
        except RetailmartError:
            discard(self.lake, [one.change] if one.change else [])
            raise
        return one

    def unread(self) -> list[SourceRecord]:
        """The ledger's records for tables that cannot be read: whatever comes next is a change.

        The marts that read them miss what this batch brings, so they are built when that change
        comes.
        """
        known = self.ledger.sources.all()
        names = (name for name in self.unreadable if name in known)
        return [replace(known[name], digest="", version=None) for name in names]

    def _restored(
        self,
        wanted: Mapping[str, tuple[str, Table]],
        batch: Batch,
        known: Mapping[str, SourceRecord],
    ) -> dict[str, LoadedTable]:
        """The source tables as an undo leaves them, by name."""
        batches = self.ledger.batches
        stood = batches.stood_after_undos()

        def record_of(name: str, batch_id: int) -> SourceRecord | None:
            return batches.prepared(batches.get(batch_id))[0].sources.get(name)

        found = {}
        for _, table in wanted.values():
            if (record := known.get(table.name)) is None:
                continue
            own = partial(record_of, table.name)
            tell = self.tell
            one = restored_table(self.lake, table, record, batch.batch_id, stood, own, tell)
            if one is not None:
                found[table.name] = one
        return found
