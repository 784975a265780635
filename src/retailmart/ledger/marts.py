"""The ledger's record of marts and of the tables that show them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, inspect, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import sum_months
from retailmart.ledger.values import MartRecord, PublishedTable, Totals


class Marts(Access):
    """Marts, by what they were built and published, and each table's totals by month."""

    def all(self) -> dict[str, MartRecord]:
        """The ledger's record of each mart."""
        with self.reading() as connection:
            rows = connection.execute(select(t.marts))
            return {row.name: _record_of(*row) for row in rows}

    def published(self) -> list[PublishedTable]:
        """The tables that belong to this project: all names under which marts were ever published.

        A ledger of an earlier release, which only a run migrates, returns what it knows.
        """
        with self.reading() as connection:
            look, name = inspect(connection), t.published.name
            has = look.get_columns(name) if look.has_table(name) else []
            if "mart" in {column["name"] for column in has}:
                rows = connection.execute(select(t.published).order_by(t.published.c.name))
                return [PublishedTable(*row) for row in rows]
            names = list(connection.scalars(select(t.published.c.name))) if has else []
        known = {one: PublishedTable(one) for one in names}
        for record in self.all().values():
            if shown_as := record.published_as:
                known[shown_as] = PublishedTable(shown_as, record.name, record.published_version)
        return list(known.values())

    def forget_published(self, connection: Connection, name: str) -> None:
        """Stop managing a published table, in the transaction that drops it.

        Its mart counts as never built. If the mart is published again, a run has work to do, even
        if nothing has landed.
        """
        connection.execute(delete(t.published).where(t.published.c.name == name))
        shown = t.marts.c.published_as == name
        connection.execute(shows_nothing().values(fingerprint=None).where(shown))

    def move_on(self, connection: Connection, mart: str, since: int, version: int) -> None:
        """A mart's table shows `version` as it showed `since`: both hold the same rows."""
        shown = t.marts.c
        connection.execute(
            update(t.marts)
            .where(shown.name == mart, shown.published_version == since)
            .values(published_version=version)
        )
        tables = t.published.c
        connection.execute(
            update(t.published)
            .where(tables.mart == mart, tables.version == since)
            .values(version=version)
        )

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has whose rows are known by month."""
        columns = t.table_months.c
        query = select(columns.table_name, func.sum(columns.row_count)).group_by(columns.table_name)
        with self.reading() as connection:
            return {str(table): int(rows) for table, rows in connection.execute(query)}

    def months_of(self, table: str) -> dict[str, Totals]:
        """Rows and money by month that a table last held."""
        columns = t.table_months.c
        query = select(columns.month, columns.row_count, columns.amount).where(
            columns.table_name == table
        )
        with self.reading() as connection:
            return sum_months(connection.execute(query))


def _record_of(*values: Any) -> MartRecord:
    record = MartRecord(*values)
    as_of = values[5]
    return replace(record, built_as_of=datetime.fromisoformat(as_of)) if as_of else record


def shows_nothing() -> Any:
    """Marts that no table shows (any more)."""
    return update(t.marts).values(
        published_as=None, published_version=None, published_fingerprint=None
    )
