"""Bring source tables into the lake: whole or by cursor, with the versions of their rows or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Final

from retailmart.database.source import (
    digest_of,
    extract_of,
    fingerprint_of,
    position_of,
    read_since,
    read_table,
    table_names,
    version_of,
)
from retailmart.engines import Engine
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.ledger.values import ColumnChange, Schema, SchemaColumn, SourceRecord
from retailmart.project.documents import did_you_mean
from retailmart.project.table import HISTORY, Reading, Table
from retailmart.project.types import ColumnType
from retailmart.steps.evolve import joined
from retailmart.steps.load import raw_table
from retailmart.tables import (
    DataFile,
    Extract,
    Field,
    TableChange,
    TableState,
    Written,
    quoted,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine as Database

VALID_FROM, VALID_TO = "_valid_from", "_valid_to"
# A version that nothing came before reaches back for ever, and the latest one has no end.
_EVER: Final = "DATE '0001-01-01'"
_OPEN: Final = "DATE '9999-12-31'"
_LAYER, _BASE, _CHANGES = "_layer", "base", "changes"
# Past this share of a table, writing it anew costs less than reading around its changes.
_CHANGES_SHARE = 0.2
_AT_ONCE = 50_000
# So often is a table read that changes meanwhile.
_TRIES = 3
# A source's table becomes a folder: nothing may lead elsewhere, and the lake's library takes `%41`
# for A.
_FOLDER_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f-\x9f/\\%]{1,100}")


# in the source


@dataclass
class Sources:
    """The shop's own databases in one run, each opened when it is first asked for.

    Tables of `large` rows and more are left to the engine; of None, no table is.
    """

    names: tuple[str, ...]
    open: Callable[[str], Database]
    large: int | None = None
    _opened: dict[str, Database] = field(default_factory=dict)
    _offered: dict[str, frozenset[str]] = field(default_factory=dict)
    _versions: dict[str, str | None] = field(default_factory=dict)

    def database(self, source: str) -> Database:
        """A source's database."""
        if source not in self._opened:
            self._opened[source] = self.open(source)
        return self._opened[source]

    def offered(self, source: str) -> frozenset[str]:
        """The tables and views of a source."""
        if source not in self._offered:
            self._offered[source] = table_names(self.database(source))
        return self._offered[source]

    def version(self, source: str) -> str | None:
        """A text that changes with anything in a source; None where only reading would tell."""
        if source not in self._versions:
            version = version_of(self.database(source))
            self._versions[source] = None if version is None else f"{source}={version}"
        return self._versions[source]

    def is_as_it_was(self, source: str | None, table: Table, known: SourceRecord) -> bool:
        """Whether a table's source has not changed at all, told without asking for its tables."""
        if known.version is None or known.definition != table.definition:
            return False
        return source in self.names and self.version(str(source)) == known.version

    def has(self, table: Table) -> str | None:
        """The source that has a table; None where none has."""
        asked = (table.source,) if table.source is not None else self.names
        return next((source for source in asked if table.table in self.offered(source)), None)

    def left(self, source: str, table: Table) -> Left | None:
        """How the engine is to read a table, where that is large."""
        if self.large is None:
            return None
        database = self.database(source)
        extract = extract_of(database, table.table, self.large)
        return None if extract is None else Left(database, extract)

    def close(self) -> None:
        """Let the databases go; the next run looks anew."""
        for database in self._opened.values():
            database.dispose()


@dataclass(frozen=True)
class Left:
    """Rows that are still where they were: the engine will read them, by `extract`."""

    database: Database
    extract: Extract

    def fetched(self, engine: Engine) -> pa.Table | str:
        """The rows as a relation of the engine, or in memory where it has no way there."""
        relation = engine.take_over(self.extract)
        return read_table(self.database, self.extract.name).rows if relation is None else relation

    def anew(self) -> Left:
        """The same for the table as it is by now, which may have other columns."""
        extract = extract_of(self.database, self.extract.name, 0)
        return self if extract is None else replace(self, extract=extract)


@dataclass(frozen=True)
class Found:
    """What a source's table has. `rows` is None where nothing has moved since it was last read.

    They are in memory, a relation of the engine, or left to it. `since_cursor` tells that they are
    not all rows but those at or behind the cursor; `again` are those at the cursor's new place,
    read once more and later.
    """

    table: Table
    record: SourceRecord
    rows: pa.Table | str | Left | None
    again: pa.Table | None = None
    since_cursor: bool = False

    def fetched(self, engine: Engine) -> Found:
        """The same with the rows that were left to the engine, and what tells whether they move.

        They are read in several transactions, but by what the server tells before and behind they
        are those of one moment. RetailmartError where the table changes whenever it is read.
        """
        left, record = self.rows, self.record
        if not isinstance(left, Left):
            return self
        if record.position is not None:  # what moves meanwhile is at the cursor's place or behind
            rows = left.fetched(engine)
            again = read_since(
                left.database, self.table.table, str(self.table.cursor), record.position
            )
            return replace(
                self, record=replace(record, digest=digest_of(again)), rows=rows, again=again
            )
        for _ in range(_TRIES):
            rows = left.fetched(engine)
            digest = fingerprint_of(left.database, self.table.table)
            if digest == record.digest:
                return replace(self, record=record, rows=rows)
            record = replace(record, digest=str(digest))
            left = left.anew()
        raise RetailmartError(
            f"source table {self.table.table!r} was changed {_TRIES} times while it was read",
            "Run when nobody writes to it, or read it by a cursor, as docs/tables.md says",
        )


def look(sources: Sources, source: str, table: Table, known: SourceRecord | None) -> Found:
    """Read a table as far as it may have moved. `known` is what the ledger says of it."""
    if known is not None and sources.is_as_it_was(source, table, known):
        return Found(table, known, None)
    if known is not None and known.definition != table.definition:
        known = None  # what it was read by then says nothing of what it would be now
    database, version = sources.database(source), sources.version(source)
    if table.reading is Reading.INCREMENTAL:
        return _look_behind_cursor(sources, source, table, known)
    left = sources.left(source, table)
    if left and (digest := fingerprint_of(database, table.table)) is not None:
        record = SourceRecord(table.name, digest, table.definition, version)
        return Found(table, record, None if known and known.digest == digest else left)
    read = read_table(database, table.table)
    record = SourceRecord(table.name, read.digest, table.definition, version)
    unmoved = known is not None and known.digest == read.digest
    return Found(table, record, None if unmoved else read.rows)


def _look_behind_cursor(
    sources: Sources, source: str, table: Table, known: SourceRecord | None
) -> Found:
    """Rows at the cursor are read again each time: some of them may have come late.

    The digest is that of the rows at the cursor: as long as they stay the same, nothing has moved.
    """
    name, cursor = table.table, str(table.cursor)
    database, version = sources.database(source), sources.version(source)
    position = position_of(database, name, cursor)
    before = known.position if known else None
    if before is None:
        if position is not None and (left := sources.left(source, table)) is not None:
            record = SourceRecord(table.name, "", table.definition, version, position)
            return Found(table, record, left)
        rows = read_table(database, name).rows
    else:
        rows = read_since(database, name, cursor, before)
        if known and known.digest == digest_of(rows):
            record = SourceRecord(table.name, known.digest, table.definition, version, before)
            return Found(table, record, None)
    if position is None:
        record = SourceRecord(table.name, digest_of(rows), table.definition, version)
        return Found(table, record, rows)
    again = rows if position == before else read_since(database, name, cursor, position)
    record = SourceRecord(table.name, digest_of(again), table.definition, version, position)
    twice = None if again is rows else again
    return Found(table, record, rows, twice, since_cursor=before is not None)


def locate(
    wanted: Iterable[tuple[Table, str]], sources: Sources, known: Iterable[str], taken: set[str]
) -> tuple[dict[str, tuple[str, Table]], frozenset[str]]:
    """Find each wanted table: its name → the source that has it; and those that are nowhere.

    `wanted` pairs a table with the place that names it, `known` are those that were read before,
    `taken` are the project's own names. SettingsError names the undeclared that are nowhere,
    RetailmartError one that was there and is gone.
    """
    found: dict[str, tuple[str, Table]] = {}
    missing: set[str] = set()
    problems = []
    for table, place in wanted:
        if not _FOLDER_NAME.fullmatch(table.name):
            problems.append(
                f"{place}: the table {table.name!r} cannot be a folder of the lake by this name;"
                " make a view of it under a plain one"
            )
            continue
        if (source := sources.has(table)) is not None:
            found[table.name] = (source, table)
        elif table.declared and table.name in known:
            raise RetailmartError(
                f"the source has no table {table.table!r} any more, which {place} names",
                "Bring it back, or remove that file and the marts that read it",
            )
        elif table.declared:
            missing.add(table.name)
        else:
            names = {*taken, *(n for source in sources.names for n in sources.offered(source))}
            hint = did_you_mean(table.name, names)
            problems.append(f"{place}: {table.name!r} is no feed, mart or table of a source{hint}")
    if problems:
        raise SettingsError(problems, "Sources are named under `sources` in retailmart.yml")
    return found, frozenset(missing)


# in the lake


@dataclass(frozen=True)
class LoadedTable:
    """A source table as marts will see it; `change` is None where the lake holds just that.

    `touched` is a relation of the engine: the rows that are not what they were, with `_since`, the
    first day for which a version differs. It is None where nothing, or `everything`, differs.
    """

    table: Table
    record: SourceRecord
    before: TableState | None
    after: TableState
    change: TableChange | None = None
    touched: str | None = None
    everything: bool = False

    @property
    def schema(self) -> Schema | None:
        """Its columns, where they are not what they were."""
        now = _own(self.after)
        if self.before is not None and _own(self.before) == now:
            return None
        known = (
            {column.name: str(column.type) for column in _own(self.before)} if self.before else {}
        )
        columns = tuple(SchemaColumn(f.name, str(f.type), str(f.type)) for f in now)
        changes = tuple(
            ColumnChange(f.name, known.get(f.name), str(f.type), f"table {self.table.table}")
            for f in now
            if known and known.get(f.name) != str(f.type)
        )
        return Schema(raw_table(self.table.name), columns, changes)

    def define(self, engine: Engine) -> None:
        """Give the table its names in the engine."""
        _define(engine, self.table, self.after, self.table.name)

    def define_before(self, engine: Engine) -> str | None:
        """The table as it was, all versions of its rows; None where it was not."""
        if self.before is None:
            return None
        name = f"_before_{self.table.name}"
        engine.define(name, self.before)
        return name


def load_table(
    engine: Engine,
    lake: Lake,
    found: Found,
    whole: Callable[[], Found],
    as_of: date,
    batch_id: int,
) -> LoadedTable:
    """Write a table to the lake as far as any value differs from what lies there.

    `whole` reads all of it, for where the lake lacks what was read before or has other columns.
    Raises RetailmartError where its key does not tell rows apart.
    """
    before = lake.state(raw_table(found.table.name))
    if found.rows is None and before is not None:
        return LoadedTable(found.table, found.record, before, before)
    loader = _Loader(engine, lake, found.fetched(engine), before, as_of, batch_id)
    if not loader.continues and (found.rows is None or found.since_cursor):
        loader = _Loader(engine, lake, whole().fetched(engine), before, as_of, batch_id)
    return loader.load()


def _layers(table: Table) -> tuple[str, ...]:
    """How a table is partitioned: what is read by cursor has its changes in a layer apart."""
    return (_LAYER,) if table.reading is Reading.INCREMENTAL and not table.history else ()


def _define(engine: Engine, table: Table, state: TableState, name: str) -> None:
    """Name a table's state: of versions the latest, of layers each key once."""
    columns = _columns(state)
    if table.history:
        engine.define(name + HISTORY, state)
        latest = f"SELECT {columns} FROM {quoted(name + HISTORY)} WHERE {VALID_TO} = {_OPEN}"
        engine.define_query(name, latest)
    elif state.partition_by == (_LAYER,) and _in_layer(state, _CHANGES):
        base, changes = f"_base_{name}", f"_changes_{name}"
        engine.define(base, state.only(_in_layer(state, _BASE)))
        engine.define(changes, state.only(_in_layer(state, _CHANGES)))
        match = _match(table, "c", "b")
        engine.define_query(
            name,
            f"SELECT {columns} FROM {quoted(changes)} UNION ALL SELECT {columns} FROM"
            f" {quoted(base)} b WHERE NOT EXISTS (SELECT 1 FROM {quoted(changes)} c WHERE {match})",
        )
    else:
        engine.define(name, state)


def _in_layer(state: TableState, layer: str) -> list[DataFile]:
    return [file for file in state.files if file.partition.get(_LAYER) == layer]


def _own(state: TableState) -> tuple[Field, ...]:
    """The columns that a table has in its source."""
    return tuple(f for f in state.fields if f.name not in (VALID_FROM, VALID_TO, _LAYER))


def _columns(state: TableState) -> str:
    return ", ".join(quoted(column.name) for column in _own(state))


def _cast(fields: Iterable[Field]) -> str:
    return ", ".join(f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in fields)


def _match(table: Table, one: str, other: str) -> str:
    return " AND ".join(f"{one}.{quoted(k)} = {other}.{quoted(k)}" for k in table.key)


class _Loader:
    """One table in one batch."""

    def __init__(
        self,
        engine: Engine,
        lake: Lake,
        found: Found,
        before: TableState | None,
        as_of: date,
        batch_id: int,
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.table = found.table
        self.record = found.record
        self.rows, self.again = found.rows, found.again
        self.since_cursor = found.since_cursor
        self.before = before
        self.today = f"DATE '{as_of:%Y-%m-%d}'"
        self.batch_id = batch_id
        self.layers = _layers(self.table)
        self.root = lake.folder(raw_table(self.table.name))
        self.delivered = f"_delivered_{self.table.name}"
        self.incoming = f"_incoming_{self.table.name}"
        self.old = f"_old_{self.table.name}"
        self.touched = f"_touched_{self.table.name}"
        self.fields = self._deliver()
        self.own = ", ".join(quoted(column.name) for column in self.fields)

    def _deliver(self) -> tuple[Field, ...]:
        """Name what was read; of a key that was read twice, the later row counts."""
        if self.rows is None:
            return ()
        engine, first = self.engine, self.delivered
        if isinstance(self.rows, str):
            engine.define_query(first, f"SELECT * FROM {self.rows}")
        else:
            engine.define_rows(first, self.rows)
        fields = self._kept(engine.fields(f"SELECT * FROM {quoted(first)}"))
        self._check_key_columns(fields)
        query = f"SELECT {_cast(fields)} FROM {quoted(first)}"
        if self.again is not None:
            again = f"_again_{self.table.name}"
            engine.define_rows(again, self.again)
            match = _match(self.table, "a", "f")
            query = (
                f"SELECT {_cast(fields)} FROM {quoted(again)}"
                f" UNION ALL SELECT {_cast(fields)} FROM {quoted(first)} f"
                f" WHERE NOT EXISTS (SELECT 1 FROM {quoted(again)} a WHERE {match})"
            )
        engine.define_query(self.incoming, query)
        return fields

    @property
    def continues(self) -> bool:
        """Whether the lake's table is of this form and these columns."""
        if self.before is None:
            return False
        if self.table.history:  # of columns that came later, older versions have no value
            return VALID_FROM in {column.name for column in self.before.fields}
        known = (self.before.fields, self.before.partition_by)
        return known == (self._lake_fields(), self.layers)

    def load(self) -> LoadedTable:
        """Merge what was read with what lies in the lake."""
        if self.table.history or self.layers:
            self._check_key()
        if self.before is None or not self.continues:
            return self._anew()
        if self.table.history:
            return self._add_versions(self.before)
        _define(self.engine, self.table, self.before, self.old)
        if self.since_cursor:
            return self._add_changes(self.before)
        return self._replace()

    def _kept(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        """The table's columns, of the wider type of both where the source has changed one.

        RetailmartError where a declared table has lost a column, or got one of another kind.
        """
        if self.before is None or not self.table.declared:
            return fields
        here = {column.name: column.type for column in fields}
        kept = dict(here)
        for known in _own(self.before):
            if known.name not in here:
                raise self._unlike(f"has no column {known.name!r} any more")
            new = here[known.name]
            wider = joined(known.type, new)
            if wider is None or wider.name not in (known.type.name, "BIGINT", "DECIMAL"):
                raise self._unlike(f"has {new} in {known.name!r}, which was {known.type}")
            kept[known.name] = wider
        return tuple(Field(name, kind) for name, kind in kept.items())

    def _unlike(self, words: str) -> RetailmartError:
        name = self.table.name
        return RetailmartError(
            f"source table {self.table.table!r} {words}; raw/{name} holds what was there before",
            "Bring the column back as it was, or read the table under another name: a new file in"
            f" tables/ with `table: {self.table.table}`",
        )

    def _check_key_columns(self, fields: tuple[Field, ...]) -> None:
        names = {column.name for column in fields}
        lacking = sorted({*self.table.key} - names)
        if lacking:
            raise RetailmartError(
                f"source table {self.table.table!r} has no column {lacking[0]!r}",
                f"Correct `key` in tables/{self.table.name}.yml",
            )

    def _check_key(self) -> None:
        keys = ", ".join(map(quoted, self.table.key))
        empty = " OR ".join(f"{quoted(key)} IS NULL" for key in self.table.key)
        delivered = quoted(self.delivered)
        (twice,) = self.engine.rows(
            f"SELECT (SELECT count(*) FROM (SELECT 1 FROM {delivered} GROUP BY {keys}"
            f" HAVING count(*) > 1)) + (SELECT count(*) FROM {delivered} WHERE {empty})"
        )[0]
        if twice:
            raise RetailmartError(
                f"source table {self.table.table!r}: ({keys}) does not tell its rows apart, in"
                f" {twice} cases",
                f"Correct `key` in tables/{self.table.name}.yml",
            )

    def _lake_fields(self) -> tuple[Field, ...]:
        if self.table.history:
            day = ColumnType("DATE")
            return (*self.fields, Field(VALID_FROM, day), Field(VALID_TO, day))
        return (*self.fields, *(Field(layer, ColumnType("STRING")) for layer in self.layers))

    def _anew(self) -> LoadedTable:
        extra = self._base
        if self.table.history:
            extra = f", {_EVER} AS {VALID_FROM}, {_OPEN} AS {VALID_TO}"
        written = self._write(f"SELECT *{extra} FROM {quoted(self.incoming)}")
        return self._loaded(written, None, everything=True)

    @property
    def _base(self) -> str:
        """What puts rows into the base, where there are layers."""
        return f", '{_BASE}' AS {_LAYER}" if self.layers else ""

    def _replace(self) -> LoadedTable:
        """All rows anew. Rows are touched that are on one side only."""
        written = self._write(f"SELECT *{self._base} FROM {quoted(self.incoming)}")
        sides = (quoted(self.incoming), quoted(self.old))
        new, gone = (
            f"(SELECT {self.own} FROM {one} EXCEPT SELECT {self.own} FROM {other})"
            for one, other in (sides, sides[::-1])
        )
        self.engine.define_query(
            self.touched, f"SELECT *, {_EVER} AS _since FROM ({new} UNION ALL {gone})"
        )
        return self._loaded(written, None, touched=self.touched)

    def _add_changes(self, before: TableState) -> LoadedTable:
        """Changed rows in a layer of their own, which goes before the base key by key."""
        known = (
            f"SELECT {self.own} FROM {quoted(self.old)} o WHERE EXISTS"
            f" (SELECT 1 FROM {quoted(self.incoming)} i WHERE {_match(self.table, 'i', 'o')})"
        )
        delta = f"_delta_{self.table.name}"
        changed = self._in_memory(
            delta, f"SELECT {self.own} FROM {quoted(self.incoming)} EXCEPT {known}"
        )
        if not changed:
            return LoadedTable(self.table, self.record, before, before)
        self.engine.define_query(
            self.touched,
            f"SELECT *, {_EVER} AS _since FROM (SELECT {self.own} FROM {quoted(delta)}"
            f" UNION ALL {known})",
        )
        base, layer = _in_layer(before, _BASE), _in_layer(before, _CHANGES)
        size = changed + sum(file.rows for file in layer)
        small = size <= _CHANGES_SHARE * sum(file.rows for file in base)
        kept = f"_kept_{self.table.name}"
        if small:
            self.engine.define(kept, before.only(layer))
        else:
            self.engine.define_query(kept, f"SELECT {self.own} FROM {quoted(self.old)}")
        written = self._write(
            f"SELECT *, '{_CHANGES if small else _BASE}' AS {_LAYER} FROM"
            f" (SELECT {self.own} FROM {quoted(delta)} UNION ALL SELECT {self.own} FROM"
            f" {quoted(kept)} k WHERE NOT EXISTS (SELECT 1 FROM {quoted(delta)} d"
            f" WHERE {_match(self.table, 'd', 'k')}))"
        )
        return self._loaded(written, layer if small else None, touched=self.touched)

    def _add_versions(self, before: TableState) -> LoadedTable:
        """A changed row gets a version from today on; one that is no newer is corrected instead."""
        self._define_versions(before)
        keys = ", ".join(map(quoted, self.table.key))
        versions, incoming = quoted(self.old + HISTORY), quoted(self.incoming)
        match = _match(self.table, "i", "o")
        gone = (
            f" UNION SELECT {keys} FROM {quoted(self.old)} o WHERE NOT EXISTS"
            f" (SELECT 1 FROM {incoming} i WHERE {match})"
        )
        touched = self._in_memory(
            self.touched,
            f"WITH changed AS (SELECT {self.own} FROM {incoming} EXCEPT SELECT {self.own}"
            f" FROM {quoted(self.old)}),"
            f" moved AS (SELECT {keys} FROM changed{'' if self.since_cursor else gone}),"
            f" latest AS (SELECT {keys}, max({VALID_FROM}) AS began, max({VALID_TO}) AS ended"
            f" FROM {versions} GROUP BY ALL)"
            f" SELECT m.*, CASE WHEN l.began IS NULL THEN {_EVER} ELSE greatest({self.today},"
            f" CASE WHEN l.ended = {_OPEN} THEN l.began ELSE l.ended END) END AS _since"
            f" FROM moved m LEFT JOIN latest l ON {_match(self.table, 'l', 'm')}",
        )
        if not touched:
            if before.fields == self._lake_fields():
                return LoadedTable(self.table, self.record, before, before)
            return self._loaded(self._write(f"SELECT * FROM {versions}"), None)
        same = _match(self.table, "t", "v")
        prefixed = ", ".join(f"v.{name}" for name in self.own.split(", "))
        moves = f"{quoted(self.touched)} t"
        written = self._write(
            f"SELECT v.* FROM {versions} v WHERE v.{VALID_TO} <> {_OPEN}"
            f" OR NOT EXISTS (SELECT 1 FROM {moves} WHERE {same})"
            f" UNION ALL SELECT {prefixed}, v.{VALID_FROM}, t._since FROM {versions} v"
            f" JOIN {moves} ON {same} WHERE v.{VALID_TO} = {_OPEN} AND t._since > v.{VALID_FROM}"
            f" UNION ALL SELECT {prefixed}, t._since, {_OPEN} FROM {incoming} v"
            f" JOIN {moves} ON {same}"
        )
        return self._loaded(written, None, touched=self.touched)

    def _define_versions(self, before: TableState) -> None:
        """Name the versions so far and the latest of them, in the columns of today."""
        stored = f"_stored_{self.table.name}"
        self.engine.define(stored, before)
        had = {column.name for column in before.fields}
        own = ", ".join(
            f"CAST({quoted(f.name) if f.name in had else 'NULL'} AS {f.type}) AS {quoted(f.name)}"
            for f in self.fields
        )
        versions = self.old + HISTORY
        self.engine.define_query(
            versions, f"SELECT {own}, {VALID_FROM}, {VALID_TO} FROM {quoted(stored)}"
        )
        self.engine.define_query(
            self.old, f"SELECT {self.own} FROM {quoted(versions)} WHERE {VALID_TO} = {_OPEN}"
        )

    def _in_memory(self, name: str, query: str) -> int:
        """Run a query once and name its rows; how many there are."""
        import pyarrow as pa

        fields = self.engine.fields(query)
        batches = list(self.engine.batches(query, _AT_ONCE))
        if not batches:
            return 0
        rows = pa.Table.from_batches(batches).rename_columns([column.name for column in fields])
        self.engine.define_rows(name, rows)
        return int(rows.num_rows)

    def _write(self, query: str) -> Written:
        prefix = f"{self.lake.prefix(self.batch_id)}0001"
        return self.engine.write(query, self.root, prefix, self.layers)

    def _loaded(
        self,
        written: Written,
        gone: list[DataFile] | None,
        *,
        touched: str | None = None,
        everything: bool = False,
    ) -> LoadedTable:
        """`gone` are the files that leave; None is all of them."""
        old = (self.before.files if self.before else ()) if gone is None else gone
        removes = tuple(file.path for file in old)
        name = raw_table(self.table.name)
        change = TableChange(name, written.fields, self.layers, written.files, removes)
        after = change.applied_to(str(self.root), self.before)
        return LoadedTable(self.table, self.record, self.before, after, change, touched, everything)
