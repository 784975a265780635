"""Load source tables into the lake: whole or by cursor, with or without versions of their rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

from retailmart.database.source import (
    digest_of,
    extract_of,
    fields_of,
    fingerprint_of,
    key_collation_of,
    position_of,
    read_part,
    read_since,
    read_table,
    table_names,
    version_of,
)
from retailmart.engines import Engine, Relation
from retailmart.errors import RetailmartError, SettingsError, Unavailable
from retailmart.feeds.evolve import joined
from retailmart.lake import Lake
from retailmart.lake.layout import LAYER, VALID_FROM, VALID_TO, raw_table
from retailmart.ledger.values import ColumnChange, Schema, SchemaColumn, SourceRecord
from retailmart.project.documents import did_you_mean
from retailmart.project.table import HISTORY, Reading, ReadRules, Table
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Extract, Field, TableChange, TableState, Written, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine as Database

# A version without a predecessor reaches back for ever, and the latest one has no end.
_EVER: Final = "DATE '0001-01-01'"
_OPEN: Final = "DATE '9999-12-31'"
_SPAN: Final = (Field(VALID_FROM, ColumnType("DATE")), Field(VALID_TO, ColumnType("DATE")))
_BASE, _CHANGES = "base", "changes"
# Above this share of a table, rewriting it costs less than reading around its changes.
_CHANGES_SHARE = 0.2
_AT_ONCE = 50_000
# How often a table is read that changes meanwhile.
_TRIES = 3
_ROWS_A_FILE = 500_000
# A source's table becomes a folder: its name must not lead elsewhere, and the lake's library takes
# `%41` for A.
_FOLDER_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f-\x9f/\\%]{1,100}")


# in the source


@dataclass
class Sources:
    """The shop's own databases in one run, each opened on its first use.

    The engine reads tables of `large` rows and more, in parts; with None, it reads no table.
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
        """A text that changes with anything in a source; None if only reading would show it."""
        if source not in self._versions:
            version = version_of(self.database(source))
            self._versions[source] = None if version is None else f"{source}={version}"
        return self._versions[source]

    def is_as_it_was(self, source: str | None, table: Table, known: SourceRecord) -> bool:
        """Whether a table's source has not changed at all, found without asking for its tables."""
        if known.version is None or known.definition != table.definition:
            return False
        return source in self.names and self.version(str(source)) == known.version

    def has(self, table: Table) -> str | None:
        """The source that has a table; None if none has."""
        asked = (table.source,) if table.source is not None else self.names
        return next((source for source in asked if table.table in self.offered(source)), None)

    def fields(self, source: str, table: Table) -> tuple[Field, ...]:
        """The columns of a source's table by their names in marts, found without reading a row."""
        found = fields_of(self.database(source), table.table, table.rules)
        names = table.own_names([field.name for field in found])
        return tuple(replace(f, name=name) for f, name in zip(found, names, strict=True))

    def deferred(self, source: str, table: Table) -> Deferred | None:
        """The deferred scan of a table that is large enough for the engine; None for any other."""
        if self.large is None:
            return None
        database = self.database(source)
        extract = extract_of(database, table.table, self.large, table.rules)
        return None if extract is None else Deferred(database, extract, table.rules)

    def close(self) -> None:
        """Close the databases; the next run opens them again."""
        for database in self._opened.values():
            database.dispose()


@dataclass(frozen=True)
class Deferred:
    """A deferred scan: the engine reads the rows later, by `extract`."""

    database: Database
    extract: Extract
    rules: ReadRules

    def as_it_is_now(self) -> Deferred:
        """The same for the table as it is now, which may have other columns."""
        extract = extract_of(self.database, self.extract.name, 0, self.rules)
        return self if extract is None else replace(self, extract=extract)


@dataclass(frozen=True)
class ReadPart:
    """Reads a part of a database's table and writes its rows as files below `root`.

    It opens a connection for that on the machine where it runs. A part is a query and its number.
    """

    extract: Extract
    root: Path

    def __call__(self, engine: Engine, part: tuple[int, str]) -> Written:
        number, query = part
        files: list[DataFile] = []
        for chunk, rows in enumerate(_tables(read_part(self.extract, query), _ROWS_A_FILE)):
            values, prefix = engine.values(rows), f"{number:04d}-{chunk:04d}-"
            files += engine.write(f"SELECT * FROM {values}", self.root, prefix, ()).files
            engine.forget(values)
        return Written(self.extract.fields, tuple(files))


def _tables(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Batches combined until there are about `size` rows."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= size:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def fetch_parts(engine: Engine, extract: Extract) -> Relation:
    """Read a database's table in parts, in parallel if the engine has several machines."""
    parts = list(enumerate(extract.queries))
    root = engine.exchange()
    work = ReadPart(replace(extract, queries=()), root)
    try:
        written = engine.spread(work, parts, [extract.size // len(parts)] * len(parts))
    except Unavailable as error:
        raise Unavailable(
            error.message,
            "Run again; if it stays so, see that the database is up and that all machines of the"
            " engine reach it",
        ) from error
    files = tuple(file for one in written for file in one.files)
    return engine.define(TableState(str(root), extract.fields, (), files))


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
        return _look_behind_cursor(sources, source, table, known)
    deferred = sources.deferred(source, table)
    if deferred and (digest := fingerprint_of(database, table.table)) is not None:
        record = SourceRecord(table.name, digest, table.definition, version)
        return SourceChange(table, record, None if known and known.digest == digest else deferred)
    read = read_table(database, table.table, table.rules)
    record = SourceRecord(table.name, read.digest, table.definition, version)
    unmoved = known is not None and known.digest == read.digest
    return SourceChange(table, record, None if unmoved else read.rows)


def _look_behind_cursor(
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


def locate(
    wanted: Iterable[tuple[Table, str]], sources: Sources, known: Iterable[str], taken: set[str]
) -> tuple[dict[str, tuple[str, Table]], tuple[Table, ...]]:
    """Find each wanted table: its name → the source that has it; and those that are nowhere.

    `wanted` pairs a table with the place that names it, `known` are those that were read before,
    `taken` are the project's own names. Raises SettingsError, which names those that are nowhere,
    were never read and are not declared.
    """
    found: dict[str, tuple[str, Table]] = {}
    missing: list[Table] = []
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
        elif table.declared or table.name in known:
            missing.append(table)
        else:
            names = {*taken, *(n for source in sources.names for n in sources.offered(source))}
            hint = did_you_mean(table.name, names)
            problems.append(f"{place}: {table.name!r} is no feed, mart or table of a source{hint}")
    if problems:
        raise SettingsError(problems, "Sources are named under `sources` in retailmart.yml")
    return found, tuple(missing)


def gone(table: Table) -> RetailmartError:
    """The error for a table that was read before and is in no source now."""
    return RetailmartError(
        f"the source has no table {table.table!r} any more",
        f"Bring it back, or remove the marts that read it and tables/{table.name}.yml",
    )


# in the lake


@dataclass(frozen=True)
class LoadedTable:
    """A source table as marts will see it; `change` is None if the lake holds exactly that.

    `touched` are the changed rows, with `_since`, the first day for which a version differs. It is
    None if nothing, or `everything`, differs.
    """

    table: Table
    record: SourceRecord
    before: TableState | None
    after: TableState
    change: TableChange | None = None
    affected: Relation | None = None
    everything: bool = False

    @property
    def schema(self) -> Schema | None:
        """The columns of the table, if they have changed."""
        now = own_fields(self.after)
        if self.before is not None and own_fields(self.before) == now:
            return None
        known = (
            {column.name: str(column.type) for column in own_fields(self.before)}
            if self.before
            else {}
        )
        columns = tuple(SchemaColumn(f.name, str(f.type), str(f.type)) for f in now)
        changes = tuple(
            ColumnChange(f.name, known.get(f.name), str(f.type), f"table {self.table.table}")
            for f in now
            if known and known.get(f.name) != str(f.type)
        )
        return Schema(raw_table(self.table.name), columns, changes)

    def relations(self, engine: Engine) -> dict[str, Relation]:
        """The relation for each name by which marts read the table.

        A key is compared there as its own database compares it.
        """
        relations = _relations(engine, self.table, self.after)
        if (collated := self.record.key_collation) is None:
            return relations
        column, _ = collated
        if column not in {field.name for field in self.after.fields}:
            return relations
        own = f"{self.compared(quoted(column), column)} AS {quoted(column)}"
        return {
            name: engine.query(f"SELECT * REPLACE ({own}) FROM {relation}")
            for name, relation in relations.items()
        }

    def compared(self, expression: str, column: str) -> str:
        """A column's expression, compared as the table's own database compares it."""
        collated = self.record.key_collation
        if collated is None or collated[0].lower() != column.lower():
            return expression
        return f"{expression} COLLATE {collated[1]}"

    def relation_before(self, engine: Engine) -> Relation | None:
        """The table as it was, with all versions of its rows; None if it did not exist."""
        return None if self.before is None else engine.define(self.before)


def load_table(
    engine: Engine,
    lake: Lake,
    found: SourceChange,
    whole: Callable[[], SourceChange],
    as_of: date,
    batch_id: int,
    is_used: Callable[[str], bool] = lambda _: True,
) -> LoadedTable:
    """Write a table to the lake as far as any value differs from the lake's.

    `whole` reads all of it, in case the lake lacks what was read before or has other columns.
    Raises RetailmartError if its key does not distinguish rows, or if a column that marts use
    (`is_used`) is gone or of another kind.
    """
    before = lake.state(raw_table(found.table.name))
    if found.rows is None and before is not None:
        return LoadedTable(found.table, found.record, before, before)
    if found.rows is None:
        found = whole()
    loader = _Loader(engine, lake, found.fetched(engine), before, as_of, batch_id, is_used)
    if found.since_cursor and not loader.continues:
        read = whole().fetched(engine)
        loader = _Loader(engine, lake, read, before, as_of, batch_id, is_used)
    return loader.load()


def restored_table(
    lake: Lake,
    table: Table,
    record: SourceRecord,
    undo: int,
    stood: Mapping[int, int],
    record_of: Callable[[int], SourceRecord | None],
) -> LoadedTable | None:
    """A table for an undo's batch: as left by the newest batch that stands after the undo.

    Its source is not asked: changes there come with the next run. `stood` gives that newest batch
    for each undo, `record_of` gives what the ledger knew of the table by a batch.
    None if the lake does not have the table as it is defined now.
    """
    name = raw_table(table.name)
    before = lake.state(name)
    if before is None or record.definition != table.definition:
        return None
    as_it_is = LoadedTable(table, record, before, before)
    versions = _versions_of(lake.batches(name), stood)
    standing = [one for one in versions if one[1] <= stood[undo]]
    if not standing or standing == versions:
        return as_it_is
    version, batch_id = standing[-1]
    old, known = lake.state(name, version), record_of(batch_id)
    if old is None or known is None or known.definition != table.definition:
        return as_it_is
    if old.partition_by != before.partition_by or not lake.has_files(name, old):
        return as_it_is
    # With other columns, all files are added again: Delta's log accepts them in no other way.
    kept = {file.path for file in old.files if old.fields == before.fields}
    kept &= {file.path for file in before.files}
    adds = tuple(file for file in old.files if file.path not in kept)
    removes = tuple(file.path for file in before.files if file.path not in kept)
    change = TableChange(name, old.fields, old.partition_by, adds, removes)
    return LoadedTable(table, known, before, old, change, everything=True)


def _versions_of(
    commits: Iterable[tuple[int, int | None]], stood: Mapping[int, int]
) -> list[tuple[int, int]]:
    """The versions of a table and the batches that made them, without what undos removed."""
    versions: list[tuple[int, int]] = []
    for version, batch_id in commits:
        if batch_id is None:  # the same rows in other files: somebody has compacted them
            versions[-1:] = [(version, of_batch) for _, of_batch in versions[-1:]]
        elif batch_id in stood:
            versions = [one for one in versions if one[1] <= stood[batch_id]]
        else:
            versions.append((version, batch_id))
    return versions


def expect_not_shrunk(engine: Engine, loaded: LoadedTable, known: SourceRecord | None) -> None:
    """Raise RetailmartError if a table has lost more of its rows than is accepted silently.

    `known` is what the ledger said of it before.
    """
    table = loaded.table
    if loaded.before is None or loaded.change is None:
        return
    after = _count(engine, _relations(engine, table, loaded.after)[table.name])
    if known is not None and known.definition == table.definition:
        before = _count(engine, _relations(engine, table, loaded.before)[table.name])
    else:
        before = _rows_by_form(engine, loaded.before)
    if (before - after) * 100 > table.shrinks_by * before:
        raise RetailmartError(
            f"source table {table.table!r} has {after:,} rows of the {before:,} that it had",
            f"If that is right, write in tables/{table.name}.yml: shrinks_by: 100%, and run",
        )


def _count(engine: Engine, relation: Relation) -> int:
    return int(engine.rows(f"SELECT count(*) FROM {relation}")[0][0])


def _rows_by_form(engine: Engine, state: TableState) -> int:
    """How many rows a table had, whatever definition it was read by: its form alone shows that.

    If its delta files were merged by a key, nobody knows that key any more, and the result is the
    least that it can have had.
    """
    if _has_versions(state):
        versions = engine.define(state)
        latest = f"SELECT 1 FROM {versions} WHERE {VALID_TO} = {_OPEN}"
        return _count(engine, engine.query(latest))
    layers = (_in_layer(state, layer) for layer in (_BASE, _CHANGES))
    if state.partition_by == (LAYER,):
        return max(sum(file.rows for file in files) for files in layers)
    return sum(file.rows for file in state.files)


def _has_versions(state: TableState) -> bool:
    """Whether a table was written with all versions of its rows.

    Its source may have columns of these names, too: ours are the last ones, and two.
    """
    return state.fields[-2:] == _SPAN


def _layers(table: Table) -> tuple[str, ...]:
    """How a table is partitioned: one that is read by cursor has its delta files apart."""
    return (LAYER,) if table.reading is Reading.INCREMENTAL and not table.history else ()


def _relations(engine: Engine, table: Table, state: TableState) -> dict[str, Relation]:
    """A table's state by each of its names: the latest versions; base and delta merged by key."""
    columns = _columns(state)
    if table.history:
        versions = engine.define(state)
        latest = engine.query(f"SELECT {columns} FROM {versions} WHERE {VALID_TO} = {_OPEN}")
        return {table.name: latest, table.name + HISTORY: versions}
    if state.partition_by != (LAYER,) or not _in_layer(state, _CHANGES):
        return {table.name: engine.define(state)}
    base = engine.define(state.only(_in_layer(state, _BASE)))
    changes = engine.define(state.only(_in_layer(state, _CHANGES)))
    merged = engine.query(
        f"SELECT {columns} FROM {changes} UNION ALL SELECT {columns} FROM {base} b"
        f" WHERE NOT EXISTS (SELECT 1 FROM {changes} c WHERE {_match(table, 'c', 'b')})"
    )
    return {table.name: merged}


def _in_layer(state: TableState, layer: str) -> list[DataFile]:
    return [file for file in state.files if file.partition.get(LAYER) == layer]


def own_fields(state: TableState) -> tuple[Field, ...]:
    """The columns that a table has in its source."""
    return tuple(f for f in state.fields if f.name not in (VALID_FROM, VALID_TO, LAYER))


def _columns(state: TableState) -> str:
    return ", ".join(quoted(column.name) for column in own_fields(state))


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
        found: SourceChange,
        before: TableState | None,
        as_of: date,
        batch_id: int,
        is_used: Callable[[str], bool],
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.is_used = is_used
        self.table = found.table
        self.record = found.record
        self.since_cursor = found.since_cursor
        self.before = before
        self.today = f"DATE '{as_of:%Y-%m-%d}'"
        self.batch_id = batch_id
        self.layers = _layers(self.table)
        self.root = lake.folder(raw_table(self.table.name))
        rows = found.rows
        self.delivered = self._named(rows if isinstance(rows, Relation) else engine.values(rows))
        self.fields = self._kept(self.delivered.fields)
        self._check_key_columns(self.fields)
        self.incoming = self._incoming(found.again)
        self.own = ", ".join(quoted(column.name) for column in self.fields)

    def _named(self, rows: Relation) -> Relation:
        """The same with columns by their names in marts, if the source has an alias."""
        names = [column.name for column in rows.fields]
        own = self.table.own_names(names)
        if own == names:
            return rows
        columns = ", ".join(
            f"{quoted(name)} AS {quoted(meant)}" for name, meant in zip(names, own, strict=True)
        )
        return self.engine.query(f"SELECT {columns} FROM {rows}")

    def _incoming(self, again: pa.Table | None) -> Relation:
        """What was read; of a key that was read twice, the later row counts."""
        columns, query = _cast(self.fields), f"SELECT {_cast(self.fields)} FROM {self.delivered}"
        if again is None:
            return self.engine.query(query)
        later = self._named(self.engine.values(again))
        match = _match(self.table, "a", "f")
        return self.engine.query(
            f"SELECT {columns} FROM {later} UNION ALL {query} f"
            f" WHERE NOT EXISTS (SELECT 1 FROM {later} a WHERE {match})"
        )

    @property
    def continues(self) -> bool:
        """Whether the lake's table has this form and these columns."""
        if self.before is None:
            return False
        if self.table.history:  # older versions have no value in columns that came later
            return _has_versions(self.before)
        if not self.since_cursor and _in_layer(self.before, _CHANGES):
            return False  # they were merged by a key that may have been another one
        known = (self.before.fields, self.before.partition_by)
        return known == (self._lake_fields(), self.layers)

    def load(self) -> LoadedTable:
        """Merge what was read with what the lake holds."""
        if self.table.history or self.layers:
            self._check_key()
        if self.before is None or not self.continues:
            return self._rebuild()
        if self.table.history:
            return self._add_versions(self.before)
        old = _relations(self.engine, self.table, self.before)[self.table.name]
        return self._add_changes(self.before, old) if self.since_cursor else self._replace(old)

    def _kept(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        """The table's columns, with the wider type of both if the source has changed one.

        Raises RetailmartError if a declared table has lost a column that marts use, or has one of
        another kind.
        """
        if self.before is None or not self.table.declared:
            return fields
        here = {column.name: column.type for column in fields}
        kept = dict(here)
        for known in own_fields(self.before):
            if not self.is_used(known.name):
                continue
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
            f"source table {self.table.table!r} {words}; {raw_table(name)} holds what was there"
            " before",
            f"Bring the column back as it was; or write its new name in tables/{name}.yml, as in"
            " aliases: {NAME: [NEW_NAME]}; or read the table under another name: a new file in"
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
        (twice,) = self.engine.rows(
            f"SELECT (SELECT count(*) FROM (SELECT 1 FROM {self.delivered} GROUP BY {keys}"
            f" HAVING count(*) > 1)) + (SELECT count(*) FROM {self.delivered} WHERE {empty})"
        )[0]
        if twice:
            raise RetailmartError(
                f"source table {self.table.table!r}: ({keys}) does not tell its rows apart, in"
                f" {twice} cases",
                f"Correct `key` in tables/{self.table.name}.yml",
            )

    def _lake_fields(self) -> tuple[Field, ...]:
        if self.table.history:
            return (*self.fields, *_SPAN)
        return (*self.fields, *(Field(layer, ColumnType("STRING")) for layer in self.layers))

    def _rebuild(self) -> LoadedTable:
        extra = self._base
        if self.table.history:
            extra = f", {_EVER} AS {VALID_FROM}, {_OPEN} AS {VALID_TO}"
        written = self._write(f"SELECT *{extra} FROM {self.incoming}")
        return self._loaded(written, None, everything=True)

    @property
    def _base(self) -> str:
        """What puts rows into the base, if there are base and delta files."""
        return f", '{_BASE}' AS {LAYER}" if self.layers else ""

    def _replace(self, old: Relation) -> LoadedTable:
        """Write all rows again. The rows that are on one side only are the changed ones."""
        written = self._write(f"SELECT *{self._base} FROM {self.incoming}")
        new, gone = (
            f"(SELECT {self.own} FROM {one} EXCEPT SELECT {self.own} FROM {other})"
            for one, other in ((self.incoming, old), (old, self.incoming))
        )
        affected = self.engine.query(f"SELECT *, {_EVER} AS _since FROM ({new} UNION ALL {gone})")
        return self._loaded(written, None, affected=affected)

    def _add_changes(self, before: TableState, old: Relation) -> LoadedTable:
        """Add changed rows in delta files, which take precedence over the base key by key."""
        known = (
            f"SELECT {self.own} FROM {old} o WHERE EXISTS"
            f" (SELECT 1 FROM {self.incoming} i WHERE {_match(self.table, 'i', 'o')})"
        )
        changed = self._computed(f"SELECT {self.own} FROM {self.incoming} EXCEPT {known}")
        if changed is None:
            return LoadedTable(self.table, self.record, before, before)
        delta = self.engine.values(changed)
        affected = self.engine.query(
            f"SELECT *, {_EVER} AS _since FROM (SELECT {self.own} FROM {delta} UNION ALL {known})"
        )
        base, layer = _in_layer(before, _BASE), _in_layer(before, _CHANGES)
        size = changed.num_rows + sum(file.rows for file in layer)
        small = size <= _CHANGES_SHARE * sum(file.rows for file in base)
        kept = self.engine.define(before.only(layer)) if small else old
        written = self._write(
            f"SELECT *, '{_CHANGES if small else _BASE}' AS {LAYER} FROM"
            f" (SELECT {self.own} FROM {delta} UNION ALL SELECT {self.own} FROM {kept} k"
            f" WHERE NOT EXISTS (SELECT 1 FROM {delta} d WHERE {_match(self.table, 'd', 'k')}))"
        )
        return self._loaded(written, layer if small else None, affected=affected)

    def _add_versions(self, before: TableState) -> LoadedTable:
        """Give a changed row a version from today on; if its latest is as new, correct that one."""
        versions = self._versions(before)
        latest = f"SELECT {self.own} FROM {versions} WHERE {VALID_TO} = {_OPEN}"
        moved = self._computed(self._changed_keys(versions, self.engine.query(latest)))
        if moved is None:
            if before.fields == self._lake_fields():
                return LoadedTable(self.table, self.record, before, before)
            return self._loaded(self._write(f"SELECT * FROM {versions}"), None)
        affected = self.engine.values(moved)
        same = _match(self.table, "t", "v")
        prefixed = ", ".join(f"v.{quoted(column.name)}" for column in self.fields)
        written = self._write(
            f"SELECT v.* FROM {versions} v WHERE v.{VALID_TO} <> {_OPEN}"
            f" OR NOT EXISTS (SELECT 1 FROM {affected} t WHERE {same})"
            f" UNION ALL SELECT {prefixed}, v.{VALID_FROM}, t._since FROM {versions} v"
            f" JOIN {affected} t ON {same} WHERE v.{VALID_TO} = {_OPEN}"
            f" AND t._since > v.{VALID_FROM}"
            f" UNION ALL SELECT {prefixed}, t._since, {_OPEN} FROM {self.incoming} v"
            f" JOIN {affected} t ON {same}"
        )
        return self._loaded(written, None, affected=affected)

    def _versions(self, before: TableState) -> Relation:
        """The versions so far, in today's columns."""
        had = {column.name for column in before.fields}
        own = ", ".join(
            f"CAST({quoted(f.name) if f.name in had else 'NULL'} AS {f.type}) AS {quoted(f.name)}"
            for f in self.fields
        )
        stored = self.engine.define(before)
        return self.engine.query(f"SELECT {own}, {VALID_FROM}, {VALID_TO} FROM {stored}")

    def _changed_keys(self, versions: Relation, old: Relation) -> str:
        """Keys of rows that differ from the latest version, and the day `_since` when each does."""
        keys = ", ".join(map(quoted, self.table.key))
        gone = (
            f" UNION SELECT {keys} FROM {old} o WHERE NOT EXISTS"
            f" (SELECT 1 FROM {self.incoming} i WHERE {_match(self.table, 'i', 'o')})"
        )
        return (
            f"WITH changed AS (SELECT {self.own} FROM {self.incoming} EXCEPT SELECT {self.own}"
            f" FROM {old}),"
            f" moved AS (SELECT {keys} FROM changed{'' if self.since_cursor else gone}),"
            f" latest AS (SELECT {keys}, max({VALID_FROM}) AS began, max({VALID_TO}) AS ended"
            f" FROM {versions} GROUP BY ALL)"
            f" SELECT m.*, CASE WHEN l.began IS NULL THEN {_EVER} ELSE greatest({self.today},"
            f" CASE WHEN l.ended = {_OPEN} THEN l.began ELSE l.ended END) END AS _since"
            f" FROM moved m LEFT JOIN latest l ON {_match(self.table, 'l', 'm')}"
        )

    def _computed(self, query: str) -> pa.Table | None:
        """The rows of a query, computed once; None if there are none."""
        import pyarrow as pa

        fields = self.engine.fields(query)
        batches = list(self.engine.batches(query, _AT_ONCE))
        if not batches:
            return None
        rows = pa.Table.from_batches(batches).rename_columns([column.name for column in fields])
        return rows if rows.num_rows else None

    def _write(self, query: str) -> Written:
        prefix = f"{self.lake.prefix(self.batch_id)}0001"
        return self.engine.write(query, self.root, prefix, self.layers)

    def _loaded(
        self,
        written: Written,
        gone: list[DataFile] | None,
        *,
        affected: Relation | None = None,
        everything: bool = False,
    ) -> LoadedTable:
        """`gone` are the files that are removed; None is all of them."""
        old = (self.before.files if self.before else ()) if gone is None else gone
        removes = tuple(file.path for file in old)
        name = raw_table(self.table.name)
        change = TableChange(name, written.fields, self.layers, written.files, removes)
        after = change.applied_to(str(self.root), self.before)
        return LoadedTable(
            self.table, self.record, self.before, after, change, affected, everything
        )
