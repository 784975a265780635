"""Update the database's tables from the lake version they show to the newest, and verify them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from retailmart.database import open_address, translate_errors
from retailmart.database.dialect import dialect_of
from retailmart.database.errors import refusals
from retailmart.database.shadow import Load, ShadowTables
from retailmart.database.target import Target, version_of, version_tag
from retailmart.engines import Engine
from retailmart.engines.dividing import over_files
from retailmart.errors import OF_THE_RUN, GateFailed, KeyClash, RetailmartError, TableRefused
from retailmart.feeds.sums import exact, exact_sum
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.ledger import READS, Ledger
from retailmart.ledger.values import Batch, MartRecord, PublishedTable
from retailmart.marts.build import BuiltMart
from retailmart.marts.held import HeldBack
from retailmart.project.mart import Mart
from retailmart.report import number_of
from retailmart.tables import DatabaseAddress, DataFile, Field, TableState, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

_CHUNK = 50_000
# At most this many rows of the changed months are read back and compared one by one.
_COMPARED_ROWS = 20_000
# A table with fewer rows is filled before several machines would have started.
_PARALLEL_ROWS = 200_000
# Connections that fill a table in parallel: a cluster has more cores than a server should serve.
_PARALLEL_PARTS = 8
# Records in the ledger what was published, in the transaction that publishes it.
RecordPublished = Callable[["Connection", Sequence[MartRecord]], None]


@dataclass(frozen=True)
class Wanted:
    """A mart that is to be published: its definition, and what the database shows of it.

    With `searched`, its new text columns take the database's own collation.
    """

    mart: Mart
    definition: str
    shown: MartRecord
    searched: bool = False


@dataclass(frozen=True)
class Published:
    """A mart as the database now shows it. `changed` is as in `MartLine`.

    `restored` are columns that its table had lost, and that have their values again.
    """

    record: MartRecord
    rows: int
    changed: int
    restored: tuple[str, ...] = ()


class _UnexpectedRows(Exception):
    """A table that is not split by months holds unexpected rows: it must be replaced whole."""

    def __init__(self, mart: str) -> None:
        super().__init__(mart)
        self.mart = mart


def publish(
    ledger: Ledger,
    lake: Lake,
    engine: Callable[[], Engine],
    batch: Batch,
    wanted: Sequence[Wanted],
    record_published: RecordPublished,
    progress: Callable[[str], None],
    held: HeldBack,
) -> list[Published]:
    """Publish marts and record that in the ledger, in one step; up-to-date marts are left out.

    Only rows that differ between two versions are sent, within the ledger's transaction. A table
    that is replaced whole (it is new, or its definition changed) is loaded into a shadow table,
    which is renamed into place when all else is proven: readers see the old rows or the new ones.
    What does not add up (somebody else wrote to a table) is replaced by months or whole, and must
    add up then. A mart whose table the database refuses is `held` back, and all others are
    published without it.
    """
    rebuilt: set[str] = set()
    while True:
        try:
            return _attempt(
                ledger, lake, engine, batch, wanted, record_published, progress, rebuilt
            )
        except _UnexpectedRows as found:
            rebuilt.add(found.mart)
        except TableRefused as refused:
            name = next(one.mart.name for one in wanted if one.mart.publish_as == refused.table)
            held.add(name, refused)
            held.spread(one.mart for one in wanted)
            wanted = [one for one in wanted if one.mart.name not in held.held]


def _attempt(
    ledger: Ledger,
    lake: Lake,
    engine: Callable[[], Engine],
    batch: Batch,
    wanted: Sequence[Wanted],
    record_published: RecordPublished,
    progress: Callable[[str], None],
    rebuilt: set[str],
) -> list[Published]:
    with ShadowTables(ledger.engine, ledger.lease.fence if ledger.lease else 0) as shadow:
        tables = ledger.marts.published()
        with ledger.engine.execution_options(**{READS: True}).connect() as connection:
            found = (_plan(connection, lake, batch, one, rebuilt, tables) for one in wanted)
            plans = [plan for plan in found if plan is not None]
        if dialect_of(ledger.engine).sizes_texts:
            for plan in plans:
                plan.measure(engine)
        if whole := [plan for plan in plans if plan.whole]:
            opened = engine()
            loads = [
                Load(plan.target, plan.mark, partial(plan.fill, opened, shadow.go_on))
                for plan in whole
            ]
            shadow.load_all(loads, progress)
        alone = not dialect_of(ledger.engine).ddl_in_transaction
        if alone and any(not plan.whole for plan in plans):
            # If a run fails from here on, it leaves only a column without values, or a wider one.
            with ledger.engine.begin() as connection:
                _grow(connection, plans)
        with ledger.transaction() as connection:
            if not alone:
                _grow(connection, plans)
            shadow.join(connection)
            for plan in plans:
                if not plan.whole:
                    progress(plan.target.name)
                    with refusals(plan.target.name, plan.target.name):
                        plan.apply(engine(), connection)
            record_published(connection, [plan.record for plan in plans])
            # Last of all: from here on only the ledger's COMMIT can fail, and the version tag shows
            # the next run that the table has this batch already.
            shadow.show(connection)
        if alone:
            _settle(ledger, plans)
    return [Published(plan.record, plan.rows, plan.changed, plan.lost) for plan in plans]


@dataclass
class _Plan:
    """What is to be done for one mart. `old` is the version its table shows, if it is known.

    `there` means that the table shows `new` already: a run whose COMMIT was lost has renamed it.
    `has` says whether files of the lake still exist: somebody may have vacuumed those of an old
    version. `lacks` are the columns that the table must get first. Those of them that it had at the
    old version are `lost`: all its rows get their values again. With `in_place`, people have added
    to the table: its rows are changed in place, and it is never replaced.
    """

    target: Target
    record: MartRecord
    mark: str
    new: TableState
    old: TableState | None
    whole: bool
    there: bool
    has: Callable[[TableState], bool]
    lacks: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    in_place: bool = False
    changed: int = field(default=0, init=False)

    @property
    def rows(self) -> int:
        """How many rows the mart has."""
        return sum(file.rows for file in self.new.files)

    def measure(self, engine: Callable[[], Engine]) -> None:
        """Measure the longest texts that the table gets."""
        if self.target.texts:
            opened = engine()
            old = None if self.whole or self.there else self.old
            scope = _Change(opened, self.target, self.new, old, lost=self.lost).scope
            longest = _longest_texts(opened, self.target.texts, scope)
            self.target = replace(self.target, longest=longest)

    def fill(
        self, engine: Engine, go_on: Callable[[], None], target: Target, connection: Connection
    ) -> None:
        """Load the whole mart into an empty table, and verify it.

        `go_on` is called with each part of the rows: it raises if they are no longer needed.
        """
        change = _Change(engine, target, self.new, None, go_on)
        address = dialect_of(connection).address(connection.engine)
        parts = self._parts(engine) if address else []
        if address and parts:
            go_on()
            work = FillPart(address, target, self.new.only(()))
            if _fill_parts(engine, work, parts) and change.problem(connection) is None:
                self.changed = self.rows
                return
            target.recreate(connection, self.mark)
        self.changed = change.insert_all(connection)
        self._expect(change, connection)

    def _parts(self, engine: Engine) -> list[tuple[DataFile, ...]]:
        """The mart's files in groups for several machines to load; empty if one loads all."""
        # Rows first: to report its parallelism, an engine may have to start a cluster's session.
        if self.rows < _PARALLEL_ROWS or engine.parallelism == 1:
            return []
        parts = _groups(self.new.files, min(engine.parallelism, _PARALLEL_PARTS))
        return parts if len(parts) > 1 else []

    def apply(self, engine: Engine, connection: Connection) -> None:
        """Update the table from the version it shows to the newest, and verify it."""
        old = None if self.there else self.old
        change = _Change(engine, self.target, self.new, old, lost=self.lost, in_place=self.in_place)
        agrees = False
        if self.there or change.left is None or self.has(change.left):
            with suppress(KeyClash):  # somebody else has added rows: they are replaced below
                self.changed = 0 if self.there else change.apply(connection)
                agrees = change.problem(connection) is None and change.is_shown(connection)
        if agrees:
            return
        if change.months is None and not (self.in_place and old is None):
            raise _UnexpectedRows(self.record.name)
        self.target.clear(connection, change.months)
        self.changed = change.insert_all(connection)
        self._expect(change, connection)

    def _expect(self, change: _Change, connection: Connection) -> None:
        if problem := change.problem(connection):
            raise GateFailed(
                f"published table {self.record.published_as}: {problem}; nothing was published"
            )


@dataclass(frozen=True)
class FillPart:
    """Loads some of a mart's files into its published table, in one transaction.

    It opens a connection for that on the machine where it runs. `table` is the mart without files.
    """

    address: DatabaseAddress
    target: Target
    table: TableState

    def __call__(self, engine: Engine, files: Sequence[DataFile]) -> int:
        """Returns how many rows were added. Raises KeyClash if the table refuses one."""
        database = open_address(self.address)
        rows = engine.define(self.table.only(files))
        read = partial(_in_key_order, engine, self.target.key, str(rows))
        try:
            message = f"the table {self.target.name} cannot be written to"
            with translate_errors(message), database.begin() as connection:
                return self.target.insert(connection, read)
        finally:
            database.dispose()


@dataclass(frozen=True)
class LongestTexts:
    """Measures text columns of data files."""

    columns: tuple[str, ...]

    def __call__(self, engine: Engine, table: TableState) -> list[int]:
        """The length of each column's longest value, in characters."""
        had = {field.name for field in table.fields}
        most = ", ".join(
            f"coalesce(max(length({quoted(name)})), 0)" if name in had else "0"
            for name in self.columns
        )
        return [
            int(length) for length in engine.rows(f"SELECT {most} FROM {engine.define(table)}")[0]
        ]


def _longest_texts(engine: Engine, columns: Sequence[str], table: TableState) -> dict[str, int]:
    found = over_files(engine, LongestTexts(tuple(columns)), table)
    return {name: max((part[n] for part in found), default=0) for n, name in enumerate(columns)}


def _fill_parts(engine: Engine, work: FillPart, parts: Sequence[tuple[DataFile, ...]]) -> bool:
    """Load groups of files in parallel. Returns whether all of them are loaded.

    A part that is tried twice meets its own rows, and some machine may not reach the database.
    The load over one connection that follows reports anything else.
    """
    try:
        engine.spread(work, parts, [sum(file.size for file in part) for part in parts])
    except RetailmartError:
        return False
    return True


def _groups(files: Sequence[DataFile], count: int) -> list[tuple[DataFile, ...]]:
    """Files in at most `count` groups of about the same size, each of neighbours by path."""
    total = sum(file.size for file in files)
    groups: dict[int, list[DataFile]] = {}
    before = 0
    for file in sorted(files, key=lambda file: file.path):
        middle = before + file.size / 2
        groups.setdefault(int(middle * count / total), []).append(file)
        before += file.size
    return [tuple(group) for group in groups.values()]


def _in_key_order(
    engine: Engine, key: Sequence[str], source: str, columns: str
) -> Generator[pa.RecordBatch, None, None]:
    """All rows in the order of their keys: the table only ever grows at its end."""
    keys = ", ".join(f"_s.{quoted(name)}" for name in key)
    query = f"SELECT {columns} FROM {source} AS _s ORDER BY {keys}"
    with closing(engine.batches(query, _CHUNK)) as batches:
        yield from batches


def _plan(
    connection: Connection,
    lake: Lake,
    batch: Batch,
    wanted: Wanted,
    rebuilt: set[str],
    tables: Sequence[PublishedTable],
) -> _Plan | None:
    """Plan the work for one mart. None if the database shows the newest version.

    TableRefused if the table cannot be changed without losing what people added.
    """
    mart, shown, definition = wanted.mart, wanted.shown, wanted.definition
    version = lake.version(mart_table(mart.name))
    new = lake.state(mart_table(mart.name), version) if version is not None else None
    if version is None or new is None or mart.publish_as is None:
        return None
    target = Target(mart.publish_as, new.fields, mart.key, mart.month, searched=wanted.searched)
    record = MartRecord(mart.name, definition, mart.publish_as, version, definition)
    mark = version_tag(batch.batch_id, version, definition)
    before = _shown(lake, mart, shown)
    old = before if shown.published_fingerprint == definition else None
    has, kept = target.columns(connection), partial(lake.has_files, mart_table(mart.name))
    is_shown = old is not None and shown.published_version == version
    lacks, lost = _lacking(target, before, has)
    if is_shown and has and mart.name not in rebuilt and not lacks and not lost:
        return None
    is_loaded = target.mark(connection) == mark
    own = None if is_loaded else _own_columns(connection, lake, tables, mart, before)
    if problem := _problem(connection, target, before, own):
        raise TableRefused(target.name, problem.message, problem.hint)
    if target.additions(connection, _names(before)):
        old = None if mart.name in rebuilt else before
        return _Plan(target, record, mark, new, old, False, False, kept, lacks, lost, in_place=True)
    untouched = mart.name not in rebuilt and target.exists_as_defined(connection)
    there = untouched and is_loaded
    grows = bool(old and not lost and _can_grow(target, old, has))
    whole = not there and (not grows or mart.name in rebuilt)
    lost = () if there else lost
    return _Plan(target, record, mark, new, old, whole, there, kept, () if whole else lacks, lost)


def _lacking(
    target: Target, before: TableState | None, has: Mapping[str, bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that a table must get, and those that it had and that have no values any more.

    A column that a broken-off attempt added is there without values.
    """
    names = [field.name for field in target.fields]
    had = set(_names(before)) if before else set(names)
    lacks = tuple(name for name in names if has and name not in has)
    return lacks, tuple(name for name in names if has and name in had and not has.get(name))


_TOO_LONG_FIX = (
    "Take it away, run again and put it back; an index may have to hold the beginning of the column"
    " alone, as in ({column}(255)). Or shorten the value in the SELECT, as in left({column}, 255)"
)
_IN_PLACE_FIX = (
    "Take them away and put them back after the run; or publish the mart as another table:"
    " `publish: NAME` in its header"
)


def unpublishable(
    engine: Engine, ledger: Ledger, lake: Lake, built: Iterable[BuiltMart]
) -> Iterator[tuple[str, RetailmartError]]:
    """The marts whose table cannot take its new form without losing people's additions."""
    records = ledger.marts.all()
    tables = ledger.marts.published()
    with ledger.database.execution_options(**{READS: True}).connect() as connection:
        for part in built:
            shown = records.get(part.mart.name, MartRecord(part.mart.name))
            try:
                found = _unpublishable(engine, connection, lake, part, shown, tables)
            except OF_THE_RUN:
                raise
            except RetailmartError as error:
                found = error
            if found is not None:
                yield part.mart.name, found


def _unpublishable(
    engine: Engine,
    connection: Connection,
    lake: Lake,
    part: BuiltMart,
    shown: MartRecord,
    tables: Sequence[PublishedTable],
) -> RetailmartError | None:
    mart = part.mart
    if mart.publish_as is None:
        return None
    target = Target(mart.publish_as, part.after.fields, mart.key, mart.month)
    before = _shown(lake, mart, shown)
    own = _own_columns(connection, lake, tables, mart, before)
    if problem := _problem(connection, target, before, own):
        return problem
    if not target.additions(connection, _names(before)):
        return None
    return _too_long(engine, connection, target, part)


def _own_columns(
    connection: Connection,
    lake: Lake,
    tables: Iterable[PublishedTable],
    mart: Mart,
    before: TableState | None,
) -> frozenset[str] | None:
    """The columns of ours in a mart's table; None if nothing tells.

    Beside the version that it is known to show there may be one of a run whose COMMIT was lost.
    """
    dialect, name = dialect_of(connection), str(mart.publish_as)
    fold = str.lower if dialect.folds_names(connection) else str
    known = next((one for one in tables if fold(one.name) == fold(name)), None)
    versions = {(known.mart, known.version)} if known else set()
    if (tagged := version_of(dialect.mark_of(connection, name))) is not None:
        versions |= {(mart.name, tagged), (known.mart if known else None, tagged)}
    found = [lake.state(mart_table(of), v) for of, v in versions if of and v is not None]
    states = [state for state in (before, *found) if state is not None]
    return frozenset(name for state in states for name in _names(state)) if states else None


def taken_columns(
    connection: Connection,
    lake: Lake,
    tables: Iterable[PublishedTable],
    mart: Mart,
    fields: tuple[Field, ...],
) -> RetailmartError | None:
    """Why a mart cannot have these columns: people have added one of them to its table."""
    if mart.publish_as is None:
        return None
    target = Target(mart.publish_as, fields, mart.key, mart.month)
    own = _own_columns(connection, lake, tables, mart, None)
    return _taken(connection, target, own)


def _taken(
    connection: Connection, target: Target, own: frozenset[str] | None
) -> RetailmartError | None:
    taken = target.taken(connection, own) if own is not None else []
    if not taken:
        return None
    quote = connection.dialect.identifier_preparer.quote
    column, table, theirs = taken[0], quote(target.name), quote(taken[0])
    return RetailmartError(
        f"published table {target.name}: people added the column {column}, and the mart has a"
        " column of this name now; its values would overwrite theirs",
        f"Rename theirs, as in ALTER TABLE {table} RENAME COLUMN {theirs} TO another_name; or ours,"
        f" in the mart's SELECT, as in {quoted(column)} AS another_name",
    )


def _problem(
    connection: Connection,
    target: Target,
    before: TableState | None,
    own: frozenset[str] | None,
) -> RetailmartError | None:
    """Why a table cannot take its new form without losing what people added to it."""
    if taken := _taken(connection, target, own):
        return taken
    if added := target.additions(connection, _names(before)):
        return _in_place_problem(connection, target, before, added)
    return None


def _too_long(
    engine: Engine, connection: Connection, target: Target, part: BuiltMart
) -> RetailmartError | None:
    """Why a column that people have indexed can't be made long enough for its new texts."""
    if not (dialect_of(connection).sizes_texts and target.texts):
        return None
    longest = _longest_texts(engine, target.texts, part.after.only(part.change.adds))
    found = replace(target, longest=longest).in_the_way(connection)
    if found is None:
        return None
    column, added = found
    return RetailmartError(
        f"published table {target.name}: column {column} gets a text of {longest[column]}"
        f" characters and can't be made longer, as people added: {added}",
        _TOO_LONG_FIX.format(column=column),
    )


def _shown(lake: Lake, mart: Mart, record: MartRecord) -> TableState | None:
    """The version of a mart that its table shows; None if it was not published by this name."""
    if record.published_as != mart.publish_as:
        return None
    return lake.state(mart_table(mart.name), record.published_version)


def _names(state: TableState | None) -> list[str]:
    return [field.name for field in state.fields] if state else []


def _in_place_problem(
    connection: Connection, target: Target, before: TableState | None, added: Sequence[str]
) -> RetailmartError | None:
    """Why a table with people's additions would have to be replaced; None if it need not be."""
    kinds = {field.name: field.type for field in before.fields} if before else {}
    retyped = [f.name for f in target.fields if kinds.get(f.name, f.type) != f.type]
    names, has = {field.name for field in target.fields}, set(target.columns(connection))
    gone = sorted((kinds.keys() - names) & has)
    lost = [name for name in target.key if name not in has]
    fix = _IN_PLACE_FIX
    if lost:
        why = f"it has no column {lost[0]} any more, which is in the mart's key"
        fix = f"If the column has another name now, rename it to {lost[0]} again. {fix}"
    elif retyped:
        why = f"the mart's column {retyped[0]} is of another type now"
    elif gone:
        why = f"the mart has no column {gone[0]} any more"
    elif not target.has_key(connection):
        why = f"the mart's key is {', '.join(target.key)} now"
    elif wanting := target.needs_a_value(connection):
        return RetailmartError(
            f"published table {target.name}: people added the column {wanting[0]}, which must have"
            " a value in each row, and new rows have none",
            fix,
        )
    else:
        return None
    return RetailmartError(
        f"published table {target.name} would have to be replaced, as {why};"
        f" people added: {', '.join(added)}",
        fix,
    )


def _can_grow(target: Target, old: TableState, has: Collection[str]) -> bool:
    """Whether new columns are all that a table showing `old` needs to get."""
    kinds = {field.name: field.type for field in old.fields}
    retyped = any(kinds.get(field.name, field.type) != field.type for field in target.fields)
    strange = set(has) - {field.name for field in target.fields}
    return bool(has) and not (retyped or strange or set(target.key) - set(has))


def _grow(connection: Connection, plans: Sequence[_Plan]) -> None:
    for plan in plans:
        if not plan.whole:
            with refusals(plan.target.name, plan.target.name):
                plan.target.add_columns(connection, plan.lacks)
                plan.target.widen(connection)


def _settle(ledger: Ledger, plans: Sequence[_Plan]) -> None:
    """Count the columns that were added before the transaction as filled.

    If that fails, the next run fills them once more.
    """
    for plan in plans:
        if not plan.whole:
            with suppress(RetailmartError), translate_errors(), ledger.engine.begin() as connection:
                plan.target.settle(connection)


class _Change:
    """The rows that differ between two versions of a mart, found through the files that differ."""

    def __init__(
        self,
        engine: Engine,
        target: Target,
        new: TableState,
        old: TableState | None,
        go_on: Callable[[], None] = lambda: None,
        *,
        lost: Collection[str] = (),
        in_place: bool = False,
    ) -> None:
        self.engine = engine
        self.in_place = in_place
        self.target = target
        self.go_on = go_on
        self.lost = lost
        # Rows of all files differ from what the table shows if it has lost a column.
        had = {file.path for file in old.files} if old and not lost else set()
        has = {file.path for file in new.files} if not lost else set()
        self.arrived = new.only(file for file in new.files if file.path not in had)
        self.left = old.only(f for f in old.files if f.path not in has) if old else None
        self.months: frozenset[str] | None = None
        cut_alike = not lost and old is not None and old.partition_by[:1] == new.partition_by[:1]
        if target.month is not None and cut_alike and self.left is not None:
            changed = (*self.arrived.files, *self.left.files)
            # Rows without a month are in none of the months that could be compared.
            if all(file.partition[target.month] for file in changed):
                self.months = self.arrived.months | self.left.months
        whole = self.months is None
        self.scope = new if whole else new.in_months(self.months or ())

    def apply(self, connection: Connection) -> int:
        """Delete rows that left, insert rows that arrived. Returns how many rows changed."""
        if self.left is None or not self.left.files:
            return self._insert(connection, self.arrived)
        arrived = self._as_shown(self.arrived)
        left = self._as_shown(self.left, self.lost)
        if self.in_place:
            keys = ", ".join(map(quoted, self.target.key))
            gone = f"(SELECT {keys} FROM ({left}) EXCEPT SELECT {keys} FROM ({arrived}))"
            deleted = self.target.delete_keys(connection, partial(self._read, gone))
            return deleted + self._insert_from(connection, f"({arrived} EXCEPT ALL {left})")
        differing = partial(self._read, f"({left} EXCEPT ALL {arrived})")
        deleted = self.target.delete_keys(connection, differing)
        # A changed row is in both; to find out which are would cost another comparison.
        return max(deleted, self._insert_from(connection, f"({arrived} EXCEPT ALL {left})"))

    def _as_shown(self, table: TableState, lost: Collection[str] = ()) -> str:
        """A version's rows in the columns of the newest; those that it lacks or lost are NULL."""
        had = {field.name for field in table.fields}.difference(lost)
        columns = ", ".join(
            quoted(field.name) if field.name in had else f"NULL AS {quoted(field.name)}"
            for field in self.target.fields
        )
        return f"SELECT {columns} FROM {self.engine.define(table)}"

    def insert_all(self, connection: Connection) -> int:
        """Insert every row of the changed months, or of the mart."""
        return self._insert(connection, self.scope)

    def problem(self, connection: Connection) -> str | None:
        """What differs between the database and the mart, in the changed months."""
        count, sums = self.target.totals(connection, self.months)
        scope = self.engine.define(self.scope)
        money = [field for field in self.target.fields if field.type.is_decimal]
        columns = "".join(f", {exact_sum(quoted(field.name), field.type)}" for field in money)
        expected_count, *values = self.engine.rows(f"SELECT count(*){columns} FROM {scope}")[0]
        if count != expected_count:
            return f"holds {number_of(count, 'row')}, the mart {expected_count:,}"
        for column, value in zip(money, values, strict=True):
            found, expected = sums[column.name], exact(value, column.type)
            if found != expected:
                return f"{column.name} adds up to {found}, in the mart to {expected}"
        return None

    def is_shown(self, connection: Connection) -> bool:
        """Whether the database has exactly the mart's rows in the changed months.

        Totals do not show that somebody has changed a text. If there are many rows, only totals are
        compared here; `verify` compares the rest.
        """
        if sum(file.rows for file in self.scope.files) > _COMPARED_ROWS:
            return True
        try:
            rows = self.target.rows(connection, self.months)
        except RetailmartError:
            return False  # a value that is not of its column's type
        names = ", ".join(quoted(field.name) for field in self.target.fields)
        shown, scope = self.engine.values(rows), self.engine.define(self.scope)
        one, other = f"SELECT {names} FROM {shown}", f"SELECT {names} FROM {scope}"
        query = f"({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one})"
        differing = self.engine.rows(f"SELECT 1 FROM ({query}) LIMIT 1")
        self.engine.forget(shown)
        return not differing

    def _insert(self, connection: Connection, table: TableState) -> int:
        return self._insert_from(connection, str(self.engine.define(table)))

    def _insert_from(self, connection: Connection, source: str) -> int:
        add = self.target.upsert if self.in_place else self.target.insert
        return add(connection, partial(self._read, source))

    def _read(self, source: str, columns: str) -> Generator[pa.RecordBatch, None, None]:
        with closing(_in_key_order(self.engine, self.target.key, source, columns)) as batches:
            for batch in batches:
                self.go_on()
                yield batch
