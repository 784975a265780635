"""Bring the database's tables from the lake version they show to the newest, and prove it."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from retailmart.database.target import Target, as_bound
from retailmart.engines import Engine
from retailmart.errors import GateFailed, KeyClash
from retailmart.lake import Lake
from retailmart.ledger.values import MartRecord
from retailmart.project.mart import Mart
from retailmart.steps.build import mart_table
from retailmart.tables import TableState, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

_CHUNK = 50_000


@dataclass(frozen=True)
class Published:
    """A mart as the database now shows it. `changed` counts rows deleted and inserted."""

    record: MartRecord
    rows: int
    changed: int


def publish(
    engine: Engine,
    lake: Lake,
    mart: Mart,
    fingerprint: str,
    shown: MartRecord,
    connection: Connection,
) -> Published | None:
    """Publish one mart inside the caller's transaction; None where there is nothing new to show.

    Only rows that differ between the two versions travel. Whatever then does not add up (somebody
    else wrote to the table) is replaced by months, and must add up then: else GateFailed.
    """
    version = lake.version(mart_table(mart.name))
    new = lake.state(mart_table(mart.name), version) if version is not None else None
    if version is None or new is None or mart.publish_as is None:
        return None
    target = Target(mart.publish_as, new.fields, mart.key, mart.month)
    record = MartRecord(mart.name, fingerprint, mart.publish_as, version, fingerprint)
    same = (shown.published_as, shown.published_fingerprint) == (mart.publish_as, fingerprint)
    old = lake.state(mart_table(mart.name), shown.published_version) if same else None
    rewrite = old is None or not target.exists_as_defined(connection)
    if not rewrite and shown.published_version == version:
        return None
    change = _Change(engine, target, new, None if rewrite else old)
    if rewrite:
        target.recreate(connection)
    changed, agrees = 0, False
    with suppress(KeyClash):  # somebody else has put rows there: they are replaced below
        changed = change.apply(connection)
        agrees = change.problem(connection) is None
    if not agrees:
        target.clear(connection, change.months)
        changed += change.insert_all(connection)
        if problem := change.problem(connection):
            raise GateFailed(f"published table {mart.publish_as}: {problem}; nothing was published")
    return Published(record, sum(file.rows for file in new.files), changed)


class _Change:
    """The rows that differ between two versions of a mart, found through the files that do."""

    def __init__(
        self, engine: Engine, target: Target, new: TableState, old: TableState | None
    ) -> None:
        self.engine = engine
        self.target = target
        had = {file.path for file in old.files} if old else set()
        has = {file.path for file in new.files}
        self.arrived = new.only(file for file in new.files if file.path not in had)
        self.left = old.only(f for f in old.files if f.path not in has) if old else None
        self.months: frozenset[str] | None = None
        if target.month is not None and old is not None and self.left is not None:
            self.months = self.arrived.months | self.left.months
        whole = self.months is None
        self.scope = new if whole else new.in_months(self.months or ())

    def apply(self, connection: Connection) -> int:
        """Delete what left, insert what arrived; return how many rows that were."""
        if self.left is None or not self.left.files:
            return self._insert(connection, self.arrived, "_arrived")
        self.engine.define("_arrived", self.arrived)
        self.engine.define("_left", self.left)
        keys = [field for field in self.target.fields if field.name in self.target.key]
        keys.sort(key=lambda field: self.target.key.index(field.name))
        bound = ", ".join(as_bound(field) for field in keys)
        gone = f"SELECT {bound} FROM (FROM _left EXCEPT ALL FROM _arrived)"
        with closing(self.engine.batches(gone, _CHUNK)) as keys_gone:
            deleted = self.target.delete_keys(connection, keys_gone)
        return deleted + self._insert_from(connection, "(FROM _arrived EXCEPT ALL FROM _left)")

    def insert_all(self, connection: Connection) -> int:
        """Insert every row of the changed months, or of the mart."""
        return self._insert(connection, self.scope, "_scope")

    def problem(self, connection: Connection) -> str | None:
        """What does not agree between the database and the mart, in the changed months."""
        count, sums = self.target.totals(connection, self.months)
        self.engine.define("_scope", self.scope)
        money = [field.name for field in self.target.fields if field.type.is_decimal]
        columns = "".join(f", sum({quoted(name)})" for name in money)
        expected_count, *values = self.engine.rows(f"SELECT count(*){columns} FROM _scope")[0]
        if count != expected_count:
            return f"holds {count} rows, the mart {expected_count}"
        for name, value in zip(money, values, strict=True):
            if sums[name] != Decimal(value or 0):
                return f"{name} adds up to {sums[name]}, in the mart to {value}"
        return None

    def _insert(self, connection: Connection, table: TableState, view: str) -> int:
        self.engine.define(view, table)
        return self._insert_from(connection, view)

    def _insert_from(self, connection: Connection, source: str) -> int:
        """Rows go in by key order: the table only ever grows at its end."""
        bound = ", ".join(as_bound(field) for field in self.target.fields)
        keys = ", ".join(f"_s.{quoted(name)}" for name in self.target.key)
        query = f"SELECT {bound} FROM {source} AS _s ORDER BY {keys}"
        with closing(self.engine.batches(query, _CHUNK)) as rows:
            return self.target.insert(connection, rows)
