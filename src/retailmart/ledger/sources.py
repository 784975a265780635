"""The ledger's record of source tables as they were last seen."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import put
from retailmart.ledger.values import SourceRecord


class Sources(Access):
    """Source tables: digest, version and cursor of each."""

    def all(self) -> dict[str, SourceRecord]:
        """The ledger's record of each source table."""
        with self.reading() as connection:
            return {row.name: SourceRecord(*row) for row in connection.execute(select(t.sources))}

    def saw(self, sources: Iterable[SourceRecord]) -> None:
        """Record sources that were probed and have not changed."""
        with self.transaction() as connection:
            for source in sources:
                put_source(connection, source)


def put_source(connection: Connection, source: SourceRecord) -> None:
    values = {
        "digest": source.digest,
        "definition": source.definition,
        "version": source.version,
        "cursor_at": source.position,
        "collation": source.collation,
    }
    put(connection, t.sources, {"name": source.name}, values)
