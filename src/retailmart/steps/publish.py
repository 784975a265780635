"""Bring the database's tables from the lake version they show to the newest, and prove it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from retailmart.database.beside import Beside, Load
from retailmart.database.dialect import dialect_of
from retailmart.database.target import Target
from retailmart.engines import Engine
from retailmart.errors import GateFailed, KeyClash
from retailmart.lake import Lake
from retailmart.ledger import READS, Ledger
from retailmart.ledger.values import Batch, MartRecord
from retailmart.project.mart import Mart
from retailmart.steps.build import mart_table
from retailmart.tables import TableState, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

_CHUNK = 50_000
# The ledger's word for what was published, said in the transaction that publishes it.
Seal = Callable[["Connection", Sequence[MartRecord]], None]


@dataclass(frozen=True)
class Wanted:
    """A mart that is to be published: by which definition, and what the database shows of it."""

    mart: Mart
    definition: str
    shown: MartRecord


@dataclass(frozen=True)
class Published:
    """A mart as the database now shows it. `changed` counts rows deleted and inserted."""

    record: MartRecord
    rows: int
    changed: int


class _Astray(Exception):
    """A table that is not cut by months holds what it should not: it must be replaced whole."""

    def __init__(self, mart: str) -> None:
        super().__init__(mart)
        self.mart = mart


def publish(
    ledger: Ledger,
    lake: Lake,
    engine: Callable[[], Engine],
    batch: Batch,
    wanted: Sequence[Wanted],
    seal: Seal,
    tell: Callable[[str], None],
) -> list[Published]:
    """Publish marts and let the ledger say so, all in one step; what shows the newest is left out.

    Only rows that differ between two versions travel, within the ledger's transaction. A table
    that is replaced whole (it is new, or defined anew) is loaded beside and shown by a rename when
    all else is proven: readers see the old rows or the new ones. What does not add up (somebody
    else wrote to a table) is replaced by months or whole, and must add up then: else GateFailed.
    """
    anew: set[str] = set()
    while True:
        try:
            return _attempt(ledger, lake, engine, batch, wanted, seal, tell, anew)
        except _Astray as found:
            anew.add(found.mart)


def _attempt(
    ledger: Ledger,
    lake: Lake,
    engine: Callable[[], Engine],
    batch: Batch,
    wanted: Sequence[Wanted],
    seal: Seal,
    tell: Callable[[str], None],
    anew: set[str],
) -> list[Published]:
    with Beside(ledger.engine, ledger.lease.fence if ledger.lease else 0) as beside:
        with ledger.engine.execution_options(**{READS: True}).connect() as connection:
            found = (_plan(connection, lake, batch, one, anew) for one in wanted)
            plans = [plan for plan in found if plan is not None]
        if whole := [plan for plan in plans if plan.whole]:
            opened = engine()
            loads = [
                Load(plan.target, plan.mark, partial(plan.fill, opened, beside.go_on))
                for plan in whole
            ]
            beside.load_all(loads, tell)
        alone = not dialect_of(ledger.engine).ddl_in_transaction
        if alone and any(plan.lacks for plan in plans):
            # What a run that fails from here on leaves is a column without values.
            with ledger.engine.begin() as connection:
                _grow(connection, plans)
        with ledger.transaction() as connection:
            if not alone:
                _grow(connection, plans)
            beside.join(connection)
            for plan in plans:
                if not plan.whole:
                    tell(plan.target.name)
                    plan.apply(engine(), connection)
            seal(connection, [plan.record for plan in plans])
            # Last of all: from here on nothing but the ledger's COMMIT can fail, and the mark
            # tells the next run that the table shows this batch already.
            beside.show()
    return [Published(plan.record, plan.rows, plan.changed) for plan in plans]


@dataclass
class _Plan:
    """What is to be done for one mart. `old` is the version its table shows, if it is known.

    `there` tells that the table shows `new` already: it was renamed by a run whose COMMIT got lost.
    `lacks` are the columns that the table must get first.
    """

    target: Target
    record: MartRecord
    mark: str
    new: TableState
    old: TableState | None
    whole: bool
    there: bool
    lacks: tuple[str, ...] = ()
    changed: int = field(default=0, init=False)

    @property
    def rows(self) -> int:
        """How many rows the mart has."""
        return sum(file.rows for file in self.new.files)

    def fill(
        self, engine: Engine, go_on: Callable[[], None], target: Target, connection: Connection
    ) -> None:
        """Load the whole mart into a table that stands empty, and prove it.

        `go_on` is called with each part of the rows: it raises where they are not needed any more.
        """
        change = _Change(engine, target, self.new, None, go_on)
        try:
            self.changed = self.rows if change.hand_over(connection, self.rows) else 0
        except KeyClash:  # a task that was tried twice, or the mart's key: what follows tells
            target.recreate(connection, self.mark)
        if not self.changed:
            self.changed = change.insert_all(connection)
        self._expect(change, connection)

    def apply(self, engine: Engine, connection: Connection) -> None:
        """Bring the table from the version it shows to the newest, and prove it."""
        change = _Change(engine, self.target, self.new, None if self.there else self.old)
        agrees = False
        with suppress(KeyClash):  # somebody else has put rows there: they are replaced below
            self.changed = 0 if self.there else change.apply(connection)
            agrees = change.problem(connection) is None
        if agrees:
            return
        if change.months is None:
            raise _Astray(self.record.name)
        self.target.clear(connection, change.months)
        self.changed += change.insert_all(connection)
        self._expect(change, connection)

    def _expect(self, change: _Change, connection: Connection) -> None:
        if problem := change.problem(connection):
            raise GateFailed(
                f"published table {self.record.published_as}: {problem}; nothing was published"
            )


def _plan(
    connection: Connection, lake: Lake, batch: Batch, wanted: Wanted, anew: set[str]
) -> _Plan | None:
    """None where the database shows the newest version."""
    mart, shown, definition = wanted.mart, wanted.shown, wanted.definition
    version = lake.version(mart_table(mart.name))
    new = lake.state(mart_table(mart.name), version) if version is not None else None
    if version is None or new is None or mart.publish_as is None:
        return None
    target = Target(mart.publish_as, new.fields, mart.key, mart.month)
    record = MartRecord(mart.name, definition, mart.publish_as, version, definition)
    mark = f"retailmart: batch {batch.batch_id}, version {version}, {definition[:16]}"
    same = (shown.published_as, shown.published_fingerprint) == (mart.publish_as, definition)
    old = lake.state(mart_table(mart.name), shown.published_version) if same else None
    untouched = mart.name not in anew and target.exists_as_defined(connection)
    if untouched and old and shown.published_version == version:
        return None
    there = untouched and target.mark(connection) == mark
    lacks = _lacks(target, old, target.columns(connection)) if old else None
    whole = not there and (lacks is None or mart.name in anew)
    return _Plan(target, record, mark, new, old, whole, there, () if whole else lacks or ())


def _lacks(target: Target, old: TableState, has: Sequence[str]) -> tuple[str, ...] | None:
    """The columns that a table which shows `old` must get; None where that is not all it takes."""
    kinds = {field.name: field.type for field in old.fields}
    retyped = any(kinds.get(field.name, field.type) != field.type for field in target.fields)
    lacks = tuple(field.name for field in target.fields if field.name not in has)
    strange = set(has) - {field.name for field in target.fields}
    if retyped or strange or set(lacks) & {*kinds, *target.key}:
        return None
    return lacks


def _grow(connection: Connection, plans: Sequence[_Plan]) -> None:
    for plan in plans:
        if plan.lacks:
            plan.target.add_columns(connection, plan.lacks)


class _Change:
    """The rows that differ between two versions of a mart, found through the files that do."""

    def __init__(
        self,
        engine: Engine,
        target: Target,
        new: TableState,
        old: TableState | None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.target = target
        self.go_on = go_on
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
        arrived, left = self._as_shown("_arrived", self.arrived), self._as_shown("_left", self.left)
        gone = partial(self._read, f"({left} EXCEPT ALL {arrived})")
        deleted = self.target.delete_keys(connection, gone)
        return deleted + self._insert_from(connection, f"({arrived} EXCEPT ALL {left})")

    def _as_shown(self, view: str, table: TableState) -> str:
        """A version's rows in the columns of the newest; what it has not got yet is NULL."""
        had = {field.name for field in table.fields}
        columns = ", ".join(
            quoted(field.name) if field.name in had else f"NULL AS {quoted(field.name)}"
            for field in self.target.fields
        )
        return f"SELECT {columns} FROM {self._defined(view, table)}"

    def _defined(self, view: str, table: TableState) -> str:
        """A name for some of the mart's rows; several tables are filled at a time, each by its."""
        name = f"{view}_{self.target.name}"
        self.engine.define(name, table)
        return quoted(name)

    def insert_all(self, connection: Connection) -> int:
        """Insert every row of the changed months, or of the mart."""
        return self._insert(connection, self.scope, "_scope")

    def hand_over(self, connection: Connection, rows: int) -> bool:
        """Let the engine write about so many rows itself; whether it did. KeyClash as it says."""
        dialect = dialect_of(connection)
        address = dialect.address(connection.engine)
        if address is None:
            return False
        self.go_on()
        columns = ", ".join(dialect.bound(field) for field in self.target.fields)
        query = self._in_key_order(self._defined("_scope", self.scope), columns)
        return self.engine.hand_over(query, address, self.target.name, rows)

    def problem(self, connection: Connection) -> str | None:
        """What does not agree between the database and the mart, in the changed months."""
        count, sums = self.target.totals(connection, self.months)
        scope = self._defined("_scope", self.scope)
        money = [field.name for field in self.target.fields if field.type.is_decimal]
        columns = "".join(f", sum({quoted(name)})" for name in money)
        expected_count, *values = self.engine.rows(f"SELECT count(*){columns} FROM {scope}")[0]
        if count != expected_count:
            return f"holds {count} rows, the mart {expected_count}"
        for name, value in zip(money, values, strict=True):
            if sums[name] != Decimal(value or 0):
                return f"{name} adds up to {sums[name]}, in the mart to {value}"
        return None

    def _insert(self, connection: Connection, table: TableState, view: str) -> int:
        return self._insert_from(connection, self._defined(view, table))

    def _insert_from(self, connection: Connection, source: str) -> int:
        return self.target.insert(connection, partial(self._read, source))

    def _read(self, source: str, columns: str) -> Generator[pa.RecordBatch, None, None]:
        query = self._in_key_order(source, columns)
        with closing(self.engine.batches(query, _CHUNK)) as batches:
            for batch in batches:
                self.go_on()
                yield batch

    def _in_key_order(self, source: str, columns: str) -> str:
        """All rows by their keys: the table only ever grows at its end."""
        keys = ", ".join(f"_s.{quoted(name)}" for name in self.target.key)
        return f"SELECT {columns} FROM {source} AS _s ORDER BY {keys}"
