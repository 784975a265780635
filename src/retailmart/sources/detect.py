"""Detect what has changed in a source since it was last read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retailmart.database.source import (
    digest_of,
    fingerprint_of,
    key_collation_of,
    position_of,
    read_since,
    read_table,
)
from retailmart.engines import Engine, Relation
from retailmart.errors import RetailmartError
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Reading, Table
from retailmart.sources.databases import Sources
from retailmart.sources.parts import Deferred, fetch_parts

if TYPE_CHECKING:
    import pyarrow as pa

# How often a table is read that changes meanwhile.
_TRIES = 3


@dataclass(frozen=True)
class SourceChange:
    """What a source's table has. `rows` is None if nothing has changed since it was last read.

    The rows are in memory, a relation of the engine, or a deferred scan. `since_cursor` means that
    they are not all rows but those at or after the watermark; `again` are those at its new
    position, read once more and later.
    """

    table: Table
    record: SourceRecord
    rows: pa.Table | Deferred | Relation | None
    again: pa.Table | None = None
    since_cursor: bool = False

    def fetched(self, engine: Engine) -> SourceChange:
        """The same with the deferred rows read, and with what shows whether they change.

        They are read in several transactions, but by what the server reports before and after, they
        are those of one moment. Raises RetailmartError if the table changes whenever it is read.
        """
        deferred, record = self.rows, self.record
        if not isinstance(deferred, Deferred):
            return self
        if record.position is not None:  # what changes meanwhile is at the watermark or after it
            rows = fetch_parts(engine, deferred.extract)
            again = read_since(
                deferred.database,
                self.table.table,
                str(self.table.cursor),
                record.position,
                self.table.rules,
            )
            return replace(
                self, record=replace(record, digest=digest_of(again)), rows=rows, again=again
            )
        for _ in range(_TRIES):
            rows = fetch_parts(engine, deferred.extract)
            digest = fingerprint_of(deferred.database, self.table.table)
            if digest == record.digest:
                return replace(self, record=record, rows=rows)
            record = replace(record, digest=str(digest))
            deferred = deferred.as_it_is_now()
        raise RetailmartError(
            f"source table {self.table.table!r} was changed {_TRIES} times while it was read",
            "Run when nobody writes to it, or read it by a cursor, as docs/tables.md says",
        )


def probe(sources: Sources, source: str, table: Table, known: SourceRecord | None) -> SourceChange:
    """Probe a table: read it if it may have changed. `known` is what the ledger says of it."""
    if known is not None and sources.is_as_it_was(source, table, known):
        return SourceChange(table, known, None)
    collation = key_collation_of(sources.database(source), table.table, table.rules)
    found = _probe(sources, source, table, known)
    said = " ".join(collation) if collation else None
    return replace(found, record=replace(found.record, collation=said))


def _probe(sources: Sources, source: str, table: Table, known: SourceRecord | None) -> SourceChange:
    if known is not None and known.definition != table.definition:
        known = None  # that was another definition: what is known does not apply to this one
    database, version = sources.database(source), sources.version(source)
    if table.reading is Reading.INCREMENTAL:
        return _probe_since_watermark(sources, source, table, known)
    deferred = sources.deferred(source, table)
    if deferred and (digest := fingerprint_of(database, table.table)) is not None:
        record = SourceRecord(table.name, digest, table.definition, version)
        return SourceChange(table, record, None if known and known.digest == digest else deferred)
    read = read_table(database, table.table, table.rules)
    record = SourceRecord(table.name, read.digest, table.definition, version)
    unmoved = known is not None and known.digest == read.digest
    return SourceChange(table, record, None if unmoved else read.rows)


def _probe_since_watermark(
    sources: Sources, source: str, table: Table, known: SourceRecord | None
) -> SourceChange:
    """Read rows at the watermark again each time: some of them may have come late.

    The digest is that of the rows at the watermark: if they stay the same, nothing has changed.
    """
    name, cursor = table.table, str(table.cursor)
    database, version = sources.database(source), sources.version(source)
    position = position_of(database, name, cursor)
    before = known.position if known else None
    if before is None:
        if position is not None and (deferred := sources.deferred(source, table)) is not None:
            record = SourceRecord(table.name, "", table.definition, version, position)
            return SourceChange(table, record, deferred)
        rows = read_table(database, name, table.rules).rows
    else:
        rows = read_since(database, name, cursor, before, table.rules)
        if known and known.digest == digest_of(rows):
            record = SourceRecord(table.name, known.digest, table.definition, version, before)
            return SourceChange(table, record, None)
    if position is None:
        record = SourceRecord(table.name, digest_of(rows), table.definition, version)
        return SourceChange(table, record, rows)
    again = rows
    if position != before:
        again = read_since(database, name, cursor, position, table.rules)
    record = SourceRecord(table.name, digest_of(again), table.definition, version, position)
    twice = None if again is rows else again
    return SourceChange(table, record, rows, twice, since_cursor=before is not None)
