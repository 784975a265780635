"""The ledger's record of what is held back, and why, until a run gets it right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.report import Held

_MART, _TABLE = "mart", "table"


class HeldBack(Access):
    """Marts that are held back, and source tables that cannot be read correctly."""

    def marts(self) -> dict[str, Held]:
        """Why each mart is held back. A run of an earlier release has not recorded it."""
        return {row.name: Held(*row[1:]) for row in self._of(_MART)}

    def tables(self) -> dict[str, str]:
        """Why each source table cannot be read, and what to do: the marts that read it wait."""
        return {row.name: row.message for row in self._of(_TABLE)}

    def record_tables(self, unreadable: Mapping[str, str]) -> None:
        """Record the tables that a run, which has looked at all of them, cannot read correctly."""
        if self.tables() == dict(unreadable):
            return
        rows = [
            {"kind": _TABLE, "name": name, "message": why, "hint": None, "cause": None}
            for name, why in unreadable.items()
        ]
        with self.transaction() as connection:
            connection.execute(delete(t.held).where(t.held.c.kind == _TABLE))
            if rows:
                connection.execute(insert(t.held), rows)

    def _of(self, kind: str) -> list[Any]:
        query = select(t.held).where(t.held.c.kind == kind).order_by(t.held.c.name)
        with self.reading() as connection:
            return list(connection.execute(query))


def put_held(connection: Connection, marts: Iterable[str], held: Iterable[Held]) -> None:
    """Record which of the marts that a batch concerns are held back; the others no longer are."""
    names = list(marts)
    column = t.held.c
    connection.execute(delete(t.held).where(column.kind == _MART, column.name.in_(names)))
    rows = {
        one.mart: {
            "kind": _MART,
            "name": one.mart,
            "message": one.message,
            "hint": one.hint,
            "cause": one.cause,
        }
        for one in held
        if one.mart in names
    }
    if rows:
        connection.execute(insert(t.held), list(rows.values()))
