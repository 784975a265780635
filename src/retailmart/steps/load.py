"""Parse a batch's files into accepted and refused rows; write both as tables' data files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from retailmart.engines import CsvShape, Engine
from retailmart.errors import CsvBroken, GateFailed
from retailmart.lake import Lake
from retailmart.ledger.values import FileOutcome, LedgerFile, Schema, Totals
from retailmart.project.feed import Action, Column, Feed, Policy
from retailmart.project.types import ColumnType
from retailmart.steps.casts import attempt, expected, typed
from retailmart.steps.check import ORIGIN, CheckedFile, ErrorFolder, Layout, Refusal, clean
from retailmart.steps.evolve import (
    Need,
    as_known,
    can_widen,
    changes,
    effective,
    needs,
    remembered,
    unknown,
    widened,
    with_brought,
)
from retailmart.steps.quarantine import (
    FURTHER,
    REFUSED_FIELDS,
    Origin,
    RefusedRow,
    in_chunks,
    places_of,
    quarantine_table,
    read_origin,
    refused_columns,
    seek,
    to_arrow,
)
from retailmart.tables import (
    DataFile,
    Field,
    TableChange,
    TableState,
    Written,
    quoted,
    text_literal,
)

MONTH = "_month"
FILE_ID = "_file_id"
_REFUSED_AT_ONCE = 50_000


@dataclass(frozen=True)
class FileToLoad:
    """A staged file and how it is read."""

    file: LedgerFile
    checked: CheckedFile


@dataclass(frozen=True)
class LoadedFeed:
    """What a batch does to one feed's raw and quarantine tables.

    `after` is the raw table as it will be; `replaced` are the months that lose rows of superseded
    versions and are written anew.
    """

    feed: Feed
    raw: TableChange
    before: TableState | None
    after: TableState
    replaced: frozenset[str]
    outcomes: tuple[FileOutcome, ...]
    quarantine: TableChange | None = None
    months: Mapping[str, Totals] = field(default_factory=dict)
    schema: Schema | None = None

    @property
    def has_table(self) -> bool:
        """Whether there is a raw table, or this batch makes it."""
        return self.before is not None or self.feed.schema.table is Policy.EVOLVE

    @property
    def added(self) -> TableState:
        """The rows this batch wrote: new ones, and kept ones of replaced months."""
        return self.after.only(self.raw.adds)

    @property
    def touched(self) -> frozenset[str]:
        """The months whose rows are not what they were."""
        return self.added.months | self.replaced


def raw_table(name: str) -> str:
    """Where a feed's or source table's rows lie in the lake."""
    return f"raw/{name}"


def load(
    engine: Engine,
    lake: Lake,
    feed: Feed,
    files: Sequence[FileToLoad],
    superseded: Mapping[int, Mapping[str, Totals]],
    batch_id: int,
) -> LoadedFeed:
    """Load a feed's files. `superseded` maps the file ids that leave → their months.

    Files that bring refused rows back come as `replay.resolve` gives them. `feed` has all columns
    that its raw table holds (`evolve.effective`); the answer's feed has those that files brought.
    Raises GateFailed where a `fail` rule is broken or a file's records do not add up,
    SettingsError where the raw table holds more than the feed says.
    """
    before = lake.state(raw_table(feed.name))
    feed, files, causes = _with_brought(feed, before, files)
    loader = _Loader(engine, lake, feed, batch_id, has_table=before is not None)
    written = [loader.write_group(group) for group in _groups(files)]
    if loader.has_misfits(files, written):
        feed, wider = widened(feed, list(loader.needs(files)))
        causes |= wider
    if feed != loader.feed:
        loader.discard(written)
        loader.feed = feed
        written = [loader.write_group(group) for group in _groups(files)]
    checked = {item.file.file_id: item for item in loader.files_as_read(files)}
    losing = frozenset(month for months in superseded.values() for month in months)
    rewritten = _rewritten(before, feed, losing, any_leaves=bool(superseded))
    if rewritten and rewritten.files:
        written.append(loader.keep(rewritten, list(superseded)))
    replaced = losing | (rewritten.months if rewritten else frozenset())
    adds = tuple(file for part in written for file in part.files)
    removes = tuple(file.path for file in rewritten.files) if rewritten else ()
    change = TableChange(raw_table(feed.name), raw_fields(feed), _partitions(feed), adds, removes)
    after = change.applied_to(str(lake.folder(change.table)), before)
    sums = loader.sums(after.only(adds))
    brought = loader.brought_back(checked, after.only(adds))
    outcomes, quarantined = loader.outcomes(checked, sums, brought)
    months = _totals_by(sums, lambda row: row.month)
    schema = Schema(
        raw_table(feed.name),
        remembered(feed),
        changes(feed, before.fields if before else None, causes),
    )
    return LoadedFeed(feed, change, before, after, replaced, outcomes, quarantined, months, schema)


def misfit(engine: Callable[[], Engine], lake: Lake, checked: CheckedFile) -> Refusal | None:
    """Why a file is refused whose feed freezes its types: the first value that is not of its type.

    Other feeds' files are not looked at, and no engine is opened for them.
    """
    if checked.feed.schema.types is not Policy.FREEZE:
        return None
    return _Loader(engine(), lake, checked.feed, 0, has_table=True).first_misfit(checked)


def _with_brought(
    feed: Feed, before: TableState | None, files: Sequence[FileToLoad]
) -> tuple[Feed, Sequence[FileToLoad], dict[str, str]]:
    """The feed with what raw holds and what files bring, and the files' layouts in its names."""
    feed = effective(feed, before.fields if before else None, ())
    causes: dict[str, str] = {}
    if feed.schema.columns is Policy.EVOLVE and feed.schema.table is Policy.EVOLVE:
        feed, causes = with_brought(feed, ((i.file.path, i.checked.layout) for i in files))
    known = [
        replace(item, checked=replace(item.checked, layout=as_known(item.checked.layout, feed)))
        for item in files
    ]
    return feed, known, causes


def _rewritten(
    before: TableState | None, feed: Feed, losing: frozenset[str], *, any_leaves: bool
) -> TableState | None:
    """The part of the raw table that is written anew: months that lose rows, or all of it.

    All of it where the feed has other columns now, or where rows leave a table without months.
    """
    if before is None:
        return None
    as_defined = (before.fields, before.partition_by) == (raw_fields(feed), _partitions(feed))
    if not as_defined or (any_leaves and not feed.month):
        return before
    return before.in_months(losing) if feed.month else before.only(())


def _partitions(feed: Feed) -> tuple[str, ...]:
    return (MONTH,) if feed.month else ()


def raw_fields(feed: Feed) -> tuple[Field, ...]:
    """The columns of a feed's raw table, lineage included."""
    fields = [Field(column.name, column.type) for column in feed.columns]
    if feed.extra_columns:
        fields.append(Field(feed.extra_columns, ColumnType("STRING")))
    fields += [Field(FILE_ID, ColumnType("INT")), Field(ORIGIN, ColumnType("STRING"))]
    if feed.month:
        fields.append(Field(MONTH, ColumnType("STRING")))
    return tuple(fields)


@dataclass(frozen=True)
class _Sum:
    file_id: int
    month: str
    totals: Totals
    broken: tuple[int, ...]


@dataclass(frozen=True)
class _Violation:
    column: str | None
    rule: str
    message: str
    condition: str


class _Loader:
    """One feed's load in one batch."""

    def __init__(
        self, engine: Engine, lake: Lake, feed: Feed, batch_id: int, *, has_table: bool
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.feed = feed
        self.batch_id = batch_id
        self.has_table = has_table
        self._writes = 0
        self._cleaned: dict[int, CheckedFile] = {}

    def write_group(self, group: Sequence[FileToLoad]) -> Written:
        """Write the accepted rows of files of one shape.

        The engine's strict reader has the last word on whether a file is regular. Where it
        objects, the files are tried one by one, and the culprit is cleaned and read again.
        """
        try:
            return self._write(group)
        except CsvBroken:
            if len(group) > 1:
                parts = [self.write_group([item]) for item in group]
                files = tuple(file for part in parts for file in part.files)
                return Written(parts[0].fields, files)
            item = group[0]
            if item.checked.cleaned:
                raise
        cleaned = clean(item.checked.delivered, self.feed, item.checked.layout)
        if isinstance(cleaned, Refusal):
            raise GateFailed(f"{item.file.shown} {cleaned.message}")
        self._cleaned[item.file.file_id] = cleaned
        return self._write([FileToLoad(item.file, cleaned)])

    def first_misfit(self, checked: CheckedFile) -> Refusal | None:
        """Why the file is refused, if any value is not of its column's type."""
        try:
            return self._first_misfit(checked)
        except CsvBroken:
            cleaned = clean(checked.delivered, self.feed, checked.layout)
            return cleaned if isinstance(cleaned, Refusal) else self._first_misfit(cleaned)

    def _first_misfit(self, checked: CheckedFile) -> Refusal | None:
        columns = [
            (number, f"{quoted(column.name)} IS NULL AND trim(_t{number}) <> ''")
            for number, column in enumerate(self.feed.columns)
            if column.type.name != "STRING" and checked.layout.gives(column.name)
        ]
        if not columns:
            return None
        cases = " ".join(f"WHEN {wrong} THEN [{n}::VARCHAR, _t{n}]" for n, wrong in columns)
        relation = self._typed(self._numbered(checked), checked.layout)
        found = self.engine.rows(
            f"SELECT * FROM (SELECT _row, CASE {cases} END AS misfit FROM {relation})"
            " WHERE misfit IS NOT NULL ORDER BY _row LIMIT 1"
        )
        for row, (number, text) in found:
            column = self.feed.columns[int(number)]
            line = seek(places_of(checked), row).line
            kind = "line" if checked.json is None else "record"
            return Refusal(
                ErrorFolder.BAD_SCHEMA,
                f"has {text!r} in {kind} {line}, column {column.name}, which should be"
                f" {expected(column.type)}; the types of feeds/{self.feed.name}.yml are frozen",
            )
        return None

    def has_misfits(self, files: Sequence[FileToLoad], written: Sequence[Written]) -> bool:
        """Whether rows were refused for which a wider type may have room."""
        if self.feed.schema.types is not Policy.EVOLVE or self._is_closed:
            return False
        rows = sum(item.checked.records - len(item.checked.flawed) for item in files)
        return sum(part.rows for part in written) < rows

    def needs(self, files: Sequence[FileToLoad]) -> Iterator[Need]:
        """What values need that are not of their column's type, by file in the order given."""
        as_read = list(self.files_as_read(files))
        paths = {item.file.file_id: item.file.path for item in as_read}
        columns = [
            (number, column)
            for number, column in enumerate(self.feed.columns)
            if can_widen(self.feed, column)
        ]
        figures = "".join(f", {needs(column, f'_t{number}')}" for number, column in columns)
        rows = []
        for group in _groups(as_read):
            typed = self._typed(self._relation(group), group[0].checked.layout)
            rows += self.engine.rows(f"SELECT {FILE_ID}{figures} FROM {typed} GROUP BY 1")
        order = list(paths)
        for file_id, *found in sorted(rows, key=lambda row: order.index(row[0])):
            for number, (_, column) in enumerate(columns):
                yield Need(column.name, paths[file_id], *found[4 * number : 4 * number + 4])

    def files_as_read(self, files: Iterable[FileToLoad]) -> Iterator[FileToLoad]:
        """The files with how they were read in the end."""
        for item in files:
            yield FileToLoad(item.file, self._cleaned.get(item.file.file_id, item.checked))

    def keep(self, table: TableState, leaving: Sequence[int]) -> Written:
        """Write the rows that stay of what is replaced; columns they never had are NULL."""
        self.engine.define("_replaced", table)
        had = {field.name for field in table.fields}
        columns = ", ".join(
            quoted(field.name) if field.name in had else f"NULL AS {quoted(field.name)}"
            for field in raw_fields(self.feed)
        )
        ids = ", ".join(str(file_id) for file_id in (*leaving, -1))
        kept = f"SELECT {columns} FROM _replaced WHERE {FILE_ID} NOT IN ({ids})"
        return self._to_lake(kept)

    def sums(self, added: TableState) -> list[_Sum]:
        """Rows, money and broken rules by file and month, read from the written files."""
        feed = self.feed
        self.engine.define("_added", added)
        month = MONTH if feed.month else "''"
        money = f"sum({quoted(feed.balance)})" if feed.balance else "0"
        told = feed.rules_that(Action.WARN, Action.FAIL)
        counts = "".join(f", count(*) FILTER (NOT ({rule.condition}))" for rule in told)
        rows = self.engine.rows(
            f"SELECT {FILE_ID}, {month}, count(*), {money}{counts} FROM _added GROUP BY ALL"
        )
        return [
            _Sum(file_id, month, Totals(count, Decimal(amount or 0)), tuple(broken))
            for file_id, month, count, amount, *broken in rows
        ]

    def brought_back(
        self, files: Mapping[int, FileToLoad], added: TableState
    ) -> dict[int, list[Origin]]:
        """The origins of the rows that files brought back, read from the written files."""
        replays = [n for n, item in files.items() if item.checked.layout.is_replay]
        origins: dict[int, list[Origin]] = {}
        if not replays:
            return origins
        seen: set[Origin] = set()
        self.engine.define("_added", added)
        ids = ", ".join(map(str, replays))
        for file_id, text in self.engine.rows(
            f"SELECT {FILE_ID}, {ORIGIN} FROM _added WHERE {FILE_ID} IN ({ids}) ORDER BY ALL"
        ):
            origin = read_origin(str(text))
            if origin is None or origin in seen:
                raise GateFailed(f"{files[file_id].file.path} would count the row {text} twice")
            seen.add(origin)
            origins.setdefault(file_id, []).append(origin)
        return origins

    def outcomes(
        self,
        files: Mapping[int, FileToLoad],
        sums: Sequence[_Sum],
        brought: Mapping[int, Sequence[Origin]],
    ) -> tuple[tuple[FileOutcome, ...], TableChange | None]:
        """Account for every record of every file, and write the refused rows."""
        by_file: dict[int, list[_Sum]] = {file_id: [] for file_id in files}
        for part in sums:
            if part.file_id in by_file:
                by_file[part.file_id].append(part)
        outcomes: list[FileOutcome] = []
        adds: list[DataFile] = []
        for file_id, item in files.items():
            loaded = sum(part.totals.rows for part in by_file[file_id])
            refused = item.checked.records - loaded
            if refused:
                adds += self._write_refused(item, refused)
            origins = tuple(brought.get(file_id, ()))
            outcomes.append(self._outcome(item, loaded, by_file[file_id], origins))
        return tuple(outcomes), self._quarantined(adds) if adds else None

    def _quarantined(self, adds: Sequence[DataFile]) -> TableChange:
        """The change of the quarantine table; one of other columns is written anew."""
        table = quarantine_table(self.feed.name)
        before = self.lake.state(table)
        if before is None or before.fields == REFUSED_FIELDS or not before.files:
            return TableChange(table, REFUSED_FIELDS, (), tuple(adds))
        self.engine.define("_quarantined", before)
        columns = refused_columns([field.name for field in before.fields])
        kept = self._to_quarantine(f"SELECT {columns} FROM _quarantined")
        gone = tuple(file.path for file in before.files)
        return TableChange(table, REFUSED_FIELDS, (), (*kept.files, *adds), gone)

    def _outcome(
        self, item: FileToLoad, loaded: int, parts: Sequence[_Sum], origins: tuple[Origin, ...]
    ) -> FileOutcome:
        told = self.feed.rules_that(Action.WARN, Action.FAIL)
        broken = {rule.name: sum(part.broken[n] for part in parts) for n, rule in enumerate(told)}
        for rule in self.feed.rules_that(Action.FAIL):
            if broken[rule.name]:
                raise GateFailed(
                    f"{item.file.shown}: {broken[rule.name]} rows break rule {rule.name!r}:"
                    f" {rule.message}",
                    f"Correct the file, or change the rule in feeds/{self.feed.name}.yml",
                )
        return FileOutcome(
            file_id=item.file.file_id,
            records=item.checked.records,
            loaded=loaded,
            quarantined=item.checked.records - loaded,
            warned={name: count for name, count in broken.items() if count},
            months=_totals_by(parts, lambda part: part.month) if self.feed.month else {},
            origins=origins,
        )

    def _write(self, group: Sequence[FileToLoad]) -> Written:
        checked = group[0].checked
        written = self._to_lake(self._accepted(self._relation(group), checked.layout))
        expected_rows = sum(item.checked.records - len(item.checked.flawed) for item in group)
        if self.feed.month and written.rows + written.left_out != expected_rows:
            # The engine saw other records than the count of lines says, as with blank lines.
            self.discard([written])
            raise CsvBroken(f"{written.rows + written.left_out} rows for {expected_rows} records")
        return written

    def _relation(self, group: Sequence[FileToLoad]) -> str:
        files = {item.file.file_id: item.checked.readable for item in group}
        checked = group[0].checked
        if checked.json is not None:
            return self.engine.json(files, checked.json)
        return self.engine.csv(files, _shape(checked))

    def _numbered(self, checked: CheckedFile) -> str:
        if checked.json is not None:
            return self.engine.numbered_json(checked.readable, checked.json)
        return self.engine.numbered_csv(checked.readable, _shape(checked))

    def discard(self, parts: Iterable[Written]) -> None:
        """Take away what was written, before anybody relies on it."""
        root = self.lake.folder(raw_table(self.feed.name))
        for written in parts:
            for file in written.files:
                (root / file.path).unlink()

    def _to_lake(self, query: str) -> Written:
        self._writes += 1
        root = self.lake.folder(raw_table(self.feed.name))
        prefix = f"{self.lake.prefix(self.batch_id)}{self._writes:04d}"
        types = ", ".join(
            f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in raw_fields(self.feed)
        )
        typed_query = f"SELECT {types} FROM ({query})"
        return self.engine.write(typed_query, root, prefix, _partitions(self.feed))

    def _accepted(self, relation: str, layout: Layout) -> str:
        """The raw table's columns. A refused row has no month, so that no file takes it.

        A WHERE would say the same, but engines push it below the casts and compute them twice.
        """
        feed = self.feed
        names = [quoted(column.name) for column in feed.columns]
        if feed.extra_columns:
            names.append(quoted(feed.extra_columns))
        names += [FILE_ID, ORIGIN]
        source, refused = self._typed(relation, layout), self._refused(layout)
        if not feed.month:
            return f"SELECT {', '.join(names)} FROM {source} WHERE NOT ({refused})"
        month = f"left(CAST({quoted(feed.month)} AS VARCHAR), 7)"
        names.append(f"CASE WHEN NOT ({refused}) THEN {month} END AS {MONTH}")
        return f"SELECT {', '.join(names)} FROM {source}"

    def _typed(self, relation: str, layout: Layout) -> str:
        """A relation of typed columns, the texts they came from beside them (`_t0`, `_t1`, …)."""
        columns = list(enumerate(self.feed.columns))
        said = [self._text(column, layout) for column in self.feed.columns]
        texts = [f"{said[n]} AS _t{n}" for n, _ in columns]
        tried = [f"{attempt(said[n], column.type)} AS _a{n}" for n, column in columns]
        parts = [f"{_value(c, f'_t{n}', f'_a{n}')} AS {quoted(c.name)}" for n, c in columns]
        extra = f", {self._extras(layout)} AS _extra, {_origin(layout)} AS {ORIGIN}"
        if strange := self._strange(layout):
            cases = " ".join(f"WHEN {given} THEN {text_literal(name)}" for name, given in strange)
            extra += f", CASE {cases} END AS _strange"
        if self.feed.extra_columns:
            parts.append(f"_extra AS {quoted(self.feed.extra_columns)}")
        inner = f"SELECT * EXCLUDE ({_cells(layout)}), {', '.join(texts + tried)}{extra}"
        tries = ", ".join(f"_a{n}" for n, _ in columns)
        outer = f"SELECT * EXCLUDE ({tries}, _extra), {', '.join(parts)}"
        return f"({outer} FROM ({inner} FROM {relation}))"

    def _text(self, column: Column, layout: Layout) -> str:
        """What a cell says: without what stands for nothing, and cut out of its text."""
        from_path = dict(layout.from_path)
        if column.name in from_path:
            return text_literal(from_path[column.name])
        if column.name not in layout.columns:
            return "NULL::VARCHAR"
        text = f"c{layout.columns.index(column.name)}"
        if self.feed.nulls and column.type.name != "STRING":
            nulls = ", ".join(map(text_literal, self.feed.nulls))
            text = f"CASE WHEN trim({text}) NOT IN ({nulls}) THEN {text} END"
        if column.pattern is not None:
            pattern = text_literal(column.pattern)
            cut = f"regexp_extract({text}, {pattern}, 1)"
            text = f"CASE WHEN regexp_full_match({text}, {pattern}) THEN {cut} ELSE {text} END"
        return text

    @property
    def _is_closed(self) -> bool:
        """Whether there is no raw table yet, and the feed's schema lets none be made."""
        return not self.has_table and self.feed.schema.table is not Policy.EVOLVE

    def _strange(self, layout: Layout) -> list[tuple[str, str]]:
        """The columns that no row may say anything of, and in SQL whether one does.

        The further columns of a repaired sheet come as one; it makes no columns.
        """
        policy = self.feed.schema.columns
        nowhere = policy is Policy.EVOLVE and not self.feed.extra_columns
        if layout.is_replay and (policy is Policy.DISCARD_ROW or nowhere):
            cell = f"nullif(c{layout.columns.index(FURTHER)}, '')"
            further = f"json_extract_string({cell}, '$.*')"
            says = f"len(list_filter({further}, lambda x: trim(x) <> '')) > 0"
            return [(f"a column that feeds/{self.feed.name}.yml does not name", says)]
        if policy is not Policy.DISCARD_ROW:
            return []
        cells = unknown(self.feed, layout)
        return [(name, f"trim(c{position}) <> ''") for position, name in cells]

    def _extras(self, layout: Layout) -> str:
        if self.feed.schema.columns not in (None, Policy.EVOLVE):
            return "NULL::VARCHAR"
        if layout.is_replay:
            return f"nullif(c{layout.columns.index(FURTHER)}, '')"
        known = {column.name for column in self.feed.columns}
        further = [(n, name) for n, name in enumerate(layout.columns) if name not in known]
        if layout.is_json:
            return _object(further)
        pairs = [f"{text_literal(name)}, c{position}" for position, name in further]
        return f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)" if pairs else "NULL::VARCHAR"

    def _violations(self, layout: Layout) -> list[_Violation]:
        """Everything that sends a row to quarantine, in the order it is told."""
        violations = []
        if self._is_closed:
            said = f"feeds/{self.feed.name}.yml says `table: {self.feed.schema.table.value}`"
            words = f"there is no raw table yet, and {said} under `schema`"
            return [_Violation(None, "schema", words, "true")]
        for strange, _ in self._strange(layout):
            named = None if layout.is_replay else strange
            words = f"has a value in {strange}" + (
                "" if layout.is_replay else f", which feeds/{self.feed.name}.yml does not name"
            )
            condition = f"_strange = {text_literal(strange)}"
            violations.append(_Violation(named, "schema", words, condition))
        for number, column in enumerate(self.feed.columns):
            name, text = quoted(column.name), f"_t{number}"
            if column.mandatory:
                empty = f"coalesce(trim({text}), '') = ''"
                message = f"{column.name} is empty"
                violations.append(_Violation(column.name, "mandatory", message, empty))
            if self._refuses_misfits(column) and layout.gives(column.name):
                wrong = f"{name} IS NULL AND trim({text}) <> ''"
                message = f"{column.name} should be {expected(column.type)}"
                violations.append(_Violation(column.name, "type", message, wrong))
        for rule in self.feed.rules_that(Action.QUARANTINE):
            broken = f"NOT ({rule.condition})"
            violations.append(_Violation(rule.column, rule.name, rule.message, broken))
        return violations

    def _refused(self, layout: Layout) -> str:
        """One condition for all violations, in its cheapest form: a typed value proves its text."""
        if self._is_closed:
            return "true"
        parts = ["_strange IS NOT NULL"] if self._strange(layout) else []
        for number, column in enumerate(self.feed.columns):
            if column.mandatory:
                parts.append(f"{quoted(column.name)} IS NULL")
            elif self._refuses_misfits(column) and layout.gives(column.name):
                # A text is NULL where it is one of the feed's nulls, which no row is refused for.
                said = f"coalesce(trim(_t{number}) <> '', false)"
                parts.append(f"({quoted(column.name)} IS NULL AND {said})")
        for rule in self.feed.rules_that(Action.QUARANTINE):
            parts.append(f"coalesce(NOT ({rule.condition}), false)")
        return " OR ".join(parts) or "false"

    def _refuses_misfits(self, column: Column) -> bool:
        """Whether a value that is not of the column's type sends its row to quarantine."""
        discards = self.feed.schema.types is Policy.DISCARD_VALUE and not column.mandatory
        return column.type.name != "STRING" and not discards

    def _write_refused(self, item: FileToLoad, expected_count: int) -> list[DataFile]:
        """Write a file's refused rows with their place and raw text; they must be all of them."""
        written: list[DataFile] = []
        count = 0
        for rows in in_chunks(self._refused_rows(item), _REFUSED_AT_ONCE):
            count += len(rows)
            self.engine.define_rows(
                "_refused", to_arrow(rows, self.batch_id, item.file.file_id, item.file.path)
            )
            written += self._to_quarantine("SELECT * FROM _refused").files
        if count != expected_count:
            raise GateFailed(
                f"{item.file.shown}: {item.checked.records} records, but"
                f" {item.checked.records - expected_count} loaded and {count} quarantined"
            )
        return written

    def _to_quarantine(self, query: str) -> Written:
        self._writes += 1
        root = self.lake.folder(quarantine_table(self.feed.name))
        prefix = f"{self.lake.prefix(self.batch_id)}{self._writes:04d}"
        types = ", ".join(
            f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in REFUSED_FIELDS
        )
        return self.engine.write(f"SELECT {types} FROM ({query})", root, prefix, ())

    def _refused_rows(self, item: FileToLoad) -> Iterator[RefusedRow]:
        checked = item.checked
        for flawed in checked.flawed:
            flaw = flawed.flaw
            column = ORIGIN if flaw.rule == "replay" else None
            yield RefusedRow(
                flawed.line,
                column,
                flaw.rule,
                flaw.message,
                flawed.raw,
                flawed.cells,
                flawed.origin,
            )
        violations = self._violations(checked.layout)
        relation = self._numbered(checked)
        flags = ", ".join(
            f"CASE WHEN {violation.condition} THEN {number} END"
            for number, violation in enumerate(violations)
        )
        query = (
            f"SELECT _row, list_filter([{flags}], lambda x: x IS NOT NULL)"
            f" FROM {self._typed(relation, checked.layout)}"
            f" WHERE {self._refused(checked.layout)} ORDER BY _row"
        )
        places = places_of(checked)
        with closing(self.engine.batches(query, _REFUSED_AT_ONCE)) as chunks:
            for chunk in chunks:
                for row, numbers in zip(*(part.to_pylist() for part in chunk.columns), strict=True):
                    place = seek(places, row)
                    broken = [violations[number] for number in numbers]
                    first = broken[0]
                    message = "; ".join(violation.message for violation in broken)
                    message += place.at(first.column)
                    yield RefusedRow(
                        place.line,
                        first.column,
                        first.rule,
                        message,
                        place.raw,
                        place.cells,
                        place.origin,
                    )


def _value(column: Column, text: str, attempted: str) -> str:
    """What a cell is worth. A DATE that was widened to TIMESTAMP still takes days."""
    value = typed(text, attempted, column.type)
    if column.defined is None or (column.defined.name, column.type.name) != ("DATE", "TIMESTAMP"):
        return value
    day = typed(text, attempt(text, column.defined), column.defined)
    return f"coalesce({value}, CAST({day} AS TIMESTAMPTZ))"


def _shape(checked: CheckedFile) -> CsvShape:
    delimiter = "," if checked.cleaned else checked.feed.delimiter
    return CsvShape(len(checked.layout.columns), delimiter, checked.quoted, checked.cleaned)


def _object(members: Sequence[tuple[int, str]]) -> str:
    """One JSON object of the cells in these positions that are there, their values as delivered.

    It is put together as text: to the engine's own functions, numbers are floats.
    """
    if not members:
        return "NULL::VARCHAR"
    keys = [(n, text_literal(f"{json.dumps(name, ensure_ascii=False)}:")) for n, name in members]
    inner = f"concat_ws(',', {', '.join(f'{key} || j{n}' for n, key in keys)})"
    return f"nullif('{{' || {inner} || '}}', '{{}}')"


def _origin(layout: Layout) -> str:
    return f"c{layout.columns.index(ORIGIN)}" if layout.is_replay else "NULL::VARCHAR"


def _cells(layout: Layout) -> str:
    return ", ".join(f"c{position}" for position in range(len(layout.columns)))


def _groups(files: Sequence[FileToLoad]) -> list[list[FileToLoad]]:
    """Files of one layout and shape are parsed in one go."""
    groups: dict[Any, list[FileToLoad]] = {}
    for item in files:
        checked = item.checked
        groups.setdefault((checked.layout, checked.json or _shape(checked)), []).append(item)
    return list(groups.values())


def _totals_by(parts: Iterable[_Sum], key: Any) -> dict[str, Totals]:
    totals: dict[str, Totals] = {}
    for part in parts:
        totals[key(part)] = totals.get(key(part), Totals()) + part.totals
    return totals
