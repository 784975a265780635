"""The ledger's record of the columns of raw tables."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.values import Schema, SchemaRecord, read_schema


class Schemas(Access):
    """The columns of raw tables, with what changed them."""

    def current(self, table: str) -> Schema | None:
        """A raw table's current columns; None if no batch has recorded them."""
        query = (
            select(t.schemas)
            .where(t.schemas.c.table_name == table)
            .order_by(t.schemas.c.batch_id.desc())
            .limit(1)
        )
        with self.reading() as connection:
            row = connection.execute(query).first()
        return schema_of(row) if row else None

    def all(self) -> list[SchemaRecord]:
        """The history of the columns of all raw tables, oldest first."""
        joined = t.schemas.join(t.batches, t.schemas.c.batch_id == t.batches.c.batch_id)
        query = (
            select(t.schemas, t.batches.c.run_id)
            .select_from(joined)
            .order_by(t.schemas.c.batch_id, t.schemas.c.table_name)
        )
        with self.reading() as connection:
            return [
                SchemaRecord(schema_of(row), row.batch_id, row.run_id, row.changed_at)
                for row in connection.execute(query)
            ]


def schema_of(row: Any) -> Schema:
    return read_schema(row.table_name, json.loads(row.fields), json.loads(row.causes))
