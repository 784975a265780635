"""Load some files, or a part of one: parse, write accepted and refused rows, and count.

All of it is one pass over the files on one machine, which need not be the run's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from retailmart.engines import CsvShape, Engine, JsonShape, Relation
from retailmart.errors import CsvBroken, GateFailed, NotComputed
from retailmart.feeds.casts import expected, likely_causes
from retailmart.feeds.evolve import Need, can_widen, needs
from retailmart.feeds.quarantine import (
    REFUSED_FIELDS,
    JsonPlace,
    Origin,
    Place,
    RefusedRow,
    places_of,
    read_origin,
    seek,
    to_arrow,
)
from retailmart.feeds.rows import RowSql, Violation, raw_fields, raw_partitions, said_by
from retailmart.feeds.sums import exact, exact_sum
from retailmart.files.check import clean
from retailmart.files.checked import CheckedFile, ErrorFolder, Refusal
from retailmart.files.staged import drop_part, here
from retailmart.lake.layout import MONTH, ORIGIN
from retailmart.ledger.values import LedgerFile, Totals
from retailmart.project.feed import Action, Column, Feed, Policy
from retailmart.project.types import ColumnType
from retailmart.tables import (
    FILE_ID,
    ROW,
    DataFile,
    Field,
    TableState,
    Written,
    quoted,
    text_literal,
)

_REFUSED_AT_ONCE = 50_000
# Bytes of small files whose refused rows are looked for together.
_READ_AT_ONCE = 16 << 20


@dataclass(frozen=True, slots=True)
class FileToLoad:
    """A staged file and how it is read."""

    file: LedgerFile
    checked: CheckedFile


@dataclass(frozen=True, slots=True)
class Sum:
    """A file's rows and money in a month, and how many rows break each rule that is reported."""

    file_id: int
    month: str
    totals: Totals
    broken: tuple[int, ...]


@dataclass(frozen=True)
class LoadedPart:
    """The result of some files. `irregular` are files whose parts can't be read separately.

    `origins` are those of the rows that files brought back; `again` counts the quarantined rows of
    each that were refused before. `needs` is what values need that are not of their column's type.
    """

    raw: tuple[DataFile, ...] = ()
    refused: tuple[DataFile, ...] = ()
    records: dict[int, int] = field(default_factory=dict)
    quarantined: dict[int, int] = field(default_factory=dict)
    sums: tuple[Sum, ...] = ()
    origins: dict[int, list[Origin]] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    irregular: frozenset[int] = frozenset()
    again: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Some files of one shape; `number` keeps the names of what is written of them distinct."""

    number: int
    files: tuple[FileToLoad, ...]

    @property
    def size(self) -> int:
        """About how many bytes are read; 0 if only the run's own machine has them."""
        if any(item.checked.landed is None for item in self.files):
            return 0
        return sum(_size(item.checked) for item in self.files)


def _size(checked: CheckedFile) -> int:
    span = checked.span
    if span is not None:
        return span.end - span.start
    return checked.size or (checked.landed.entry.size if checked.landed else 0)


@dataclass(frozen=True)
class LoadPart:
    """Loads parts of one feed: rows below `raw`, refused ones below `quarantine`."""

    feed: Feed
    has_table: bool
    raw: Path
    quarantine: Path
    prefix: str
    scratch: Path

    def __call__(self, engine: Engine, part: Part) -> LoadedPart:
        """Load the part. Raises GateFailed if a file's records do not add up."""
        items = [
            replace(item, checked=here(item.checked, self.scratch, engine)) for item in part.files
        ]
        try:
            return _Loader(engine, self, part.number).load(items)
        finally:
            for item in items:
                drop_part(item.checked)


@dataclass(frozen=True)
class SumFiles:
    """Sums the rows in data files of a feed's raw table."""

    feed: Feed

    def __call__(self, engine: Engine, table: TableState) -> list[Sum]:
        """Rows, money and broken rules by file and month."""
        return sums(engine, self.feed, table)


def sums(engine: Engine, feed: Feed, table: TableState) -> list[Sum]:
    """Rows, money and broken rules by file and month, read from the written files."""
    if not table.files:
        return []
    added = engine.define(table)
    month = MONTH if feed.month else "''"
    kind = next((f.type for f in table.fields if f.name == feed.balance), ColumnType("INT"))
    money = exact_sum(quoted(feed.balance), kind) if feed.balance else "0"
    rules = feed.rules_that(Action.WARN, Action.FAIL)

    def counted(conditions: Iterable[str]) -> list[tuple[Any, ...]]:
        counts = "".join(f", count(*) FILTER ({broken})" for broken in conditions)
        return engine.rows(
            f"SELECT {FILE_ID}, {month}, count(*), {money}{counts} FROM {added} GROUP BY ALL"
        )

    try:
        rows = counted(rule.broken for rule in rules)
    except NotComputed:
        rows = counted(f"NOT coalesce({rule.tried}, false)" for rule in rules)
    return [
        Sum(file_id, month, Totals(count, exact(amount, kind)), tuple(broken))
        for file_id, month, count, amount, *broken in rows
    ]


def csv_shape(checked: CheckedFile) -> CsvShape:
    """How the engine reads a CSV file."""
    delimiter = "," if checked.cleaned else checked.feed.delimiter
    width, skip = len(checked.layout.columns), checked.skip
    return CsvShape(width, delimiter, checked.quoted, checked.cleaned, skip)


def first_mismatch(engine: Engine, checked: CheckedFile) -> Refusal | None:
    """Why a file of a feed with frozen types is refused: the first value that is not of its type.

    Files of other feeds are not examined.
    """
    if checked.feed.schema.types is not Policy.FREEZE:
        return None
    try:
        return _first_mismatch(engine, checked)
    except CsvBroken:
        cleaned = clean(checked.delivered, checked.feed, checked.layout)
        return cleaned if isinstance(cleaned, Refusal) else _first_mismatch(engine, cleaned)


def _first_mismatch(engine: Engine, checked: CheckedFile) -> Refusal | None:
    feed = checked.feed
    columns = [
        (number, f"{quoted(column.name)} IS NULL AND trim(_t{number}) <> ''")
        for number, column in enumerate(feed.columns)
        if column.type.name != "STRING" and checked.layout.gives(column.name)
    ]
    if not columns:
        return None
    cases = " ".join(f"WHEN {wrong} THEN [{n}::VARCHAR, _t{n}]" for n, wrong in columns)
    relation = RowSql(feed, has_table=True).typed(numbered(engine, {0: checked}), checked.layout)
    found = engine.rows(
        f"SELECT * FROM (SELECT {ROW}, CASE {cases} END AS mismatch FROM {relation})"
        f" WHERE mismatch IS NOT NULL ORDER BY {ROW} LIMIT 1"
    )
    for row, (number, text) in found:
        column = feed.columns[int(number)]
        causes = "".join(f"; {message}" for message in _causes(engine, column, text))
        line = seek(places_of(checked), row).line
        kind = "line" if checked.json is None else "record"
        return Refusal(
            ErrorFolder.BAD_SCHEMA,
            f"has {text!r} in {kind} {line}, column {column.name}, which should be"
            f" {expected(column.type, column)}{causes}; the types of feeds/{feed.name}.yml are"
            " frozen",
        )
    return None


def _causes(engine: Engine, column: Column, text: str) -> list[str]:
    """Why a text may not be one of a column's values."""
    known = likely_causes(column, "t")
    if not known:
        return []
    fits = ", ".join(condition for _, condition in known)
    row = engine.rows(f"SELECT {fits} FROM (SELECT {text_literal(text)} AS t)")[0]
    return [message for (message, _), is_so in zip(known, row, strict=True) if is_so]


def numbered(engine: Engine, files: Mapping[int, CheckedFile]) -> Relation:
    """The records of files of one shape, numbered in each."""
    checked = next(iter(files.values()))
    paths = {file_id: one.readable for file_id, one in files.items()}
    return engine.records(paths, checked.json or csv_shape(checked), numbered=True)


def warned_rows(engine: Engine, feed: Feed, item: FileToLoad) -> Iterator[RefusedRow]:
    """The accepted rows of a file that break a rule which warns, each with its place.

    Raises CsvBroken if the file can't be read again as it was.
    """
    checked = item.checked
    rules, sql = feed.rules_that(Action.WARN), RowSql(feed, True, careful=True)
    if not rules:
        return
    broken = [f"coalesce(NOT ({rule.tried}), true)" for rule in rules]
    flags = ", ".join(f"CASE WHEN {one} THEN {number} END" for number, one in enumerate(broken))
    relation = numbered(engine, {item.file.file_id: checked})
    query = (
        f"SELECT {ROW}, list_filter([{flags}], lambda x: x IS NOT NULL)"
        f" FROM {sql.typed(relation, checked.layout)}"
        f" WHERE NOT ({sql.refused(checked.layout)}) AND ({' OR '.join(broken)}) ORDER BY {ROW}"
    )
    places = places_of(checked)
    with closing(engine.batches(query, _REFUSED_AT_ONCE)) as chunks:
        for chunk in chunks:
            for row, numbers in zip(*(part.to_pylist() for part in chunk.columns), strict=True):
                place = seek(places, row)
                for rule in (rules[number] for number in numbers):
                    message = f"{rule.message}{place.at(rule.column)}"
                    yield RefusedRow(
                        place.line, rule.column, rule.name, message, place.raw, place.cells
                    )


class _Loader:
    """One part's load on one machine."""

    def __init__(self, engine: Engine, work: LoadPart, number: int) -> None:
        self.engine = engine
        self.work = work
        self.feed = work.feed
        self.sql = RowSql(work.feed, work.has_table)
        self._prefix = f"{work.prefix}{number:04d}"
        self._writes = 0
        self._read: list[Relation] = []
        self._cleaned: dict[int, CheckedFile] = {}

    def load(self, items: Sequence[FileToLoad]) -> LoadedPart:
        """Write accepted and refused rows and account for every record."""
        try:
            return self._load(items)
        finally:
            for relation in self._read:
                self.engine.forget(relation)

    def _load(self, items: Sequence[FileToLoad]) -> LoadedPart:
        irregular = frozenset(i.file.file_id for i in items if i.checked.span is not None)
        try:
            written = self._write_group(items)
        except CsvBroken:
            if not irregular:
                raise
            return LoadedPart(irregular=irregular)
        as_read = [replace(i, checked=self._cleaned.get(i.file.file_id, i.checked)) for i in items]
        state = TableState(
            str(self.work.raw), raw_fields(self.feed), raw_partitions(self.feed), written.files
        )
        counted = sums(self.engine, self.feed, state)
        records = {item.file.file_id: item.checked.records for item in as_read}
        loaded = dict.fromkeys(records, 0)
        for one in counted:
            loaded[one.file_id] += one.totals.rows
        quarantined = {key: records[key] - loaded[key] for key in records if records[key]}
        needed = tuple(self._needs(as_read)) if any(quarantined.values()) else ()
        refused: list[DataFile] = []
        again = Counter[int]()
        for group in _read_together(i for i in as_read if quarantined.get(i.file.file_id)):
            refused += self._write_refused(group, quarantined, again)
        return LoadedPart(
            written.files,
            tuple(refused),
            records,
            quarantined,
            tuple(counted),
            self._brought_back(as_read, state),
            needed,
            again=dict(again),
        )

    def _write_group(self, group: Sequence[FileToLoad]) -> Written:
        """Write the accepted rows of files of one shape.

        The engine's strict reader decides whether a file is regular. If it objects, the files are
        tried one by one, and the irregular file is cleaned and read again.
        """
        try:
            return self._write(group)
        except CsvBroken:
            if len(group) > 1:
                parts = [self._write_group([item]) for item in group]
                files = tuple(file for part in parts for file in part.files)
                return Written(parts[0].fields, files)
            item = group[0]
            if item.checked.cleaned or item.checked.span is not None:
                raise
        cleaned = clean(item.checked.delivered, self.feed, item.checked.layout)
        if isinstance(cleaned, Refusal):
            raise GateFailed(f"{item.file.shown} {cleaned.message}")
        self._cleaned[item.file.file_id] = cleaned
        return self._write([FileToLoad(item.file, cleaned)])

    def _write(self, group: Sequence[FileToLoad]) -> Written:
        written = self._write_accepted(group)
        expected_rows = sum(item.checked.records - len(item.checked.malformed) for item in group)
        if self.feed.month and written.rows + written.left_out != expected_rows:
            # The engine saw other records than the count of lines says, as with blank lines.
            self.engine.discard(self.work.raw, written.files)
            raise CsvBroken(f"{written.rows + written.left_out} rows for {expected_rows} records")
        return written

    def _write_accepted(self, group: Sequence[FileToLoad]) -> Written:
        fields, by = raw_fields(self.feed), raw_partitions(self.feed)
        relation, layout = self._relation(group), group[0].checked.layout
        try:
            return self._to(self.work.raw, fields, self.sql.accepted(relation, layout), by)
        except NotComputed:
            self.sql = replace(self.sql, careful=True)
            return self._to(self.work.raw, fields, self.sql.accepted(relation, layout), by)

    def _relation(self, group: Sequence[FileToLoad]) -> Relation:
        files = {item.file.file_id: item.checked.readable for item in group}
        checked = group[0].checked
        relation = self.engine.records(files, checked.json or csv_shape(checked))
        self._read.append(relation)
        return relation

    def _to(
        self, root: Path, fields: Sequence[Field], query: str, partition_by: Sequence[str]
    ) -> Written:
        self._writes += 1
        types = ", ".join(f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in fields)
        prefix = f"{self._prefix}-{self._writes:04d}"
        return self.engine.write(f"SELECT {types} FROM ({query})", root, prefix, partition_by)

    def _needs(self, items: Sequence[FileToLoad]) -> Iterator[Need]:
        """What values need that are not of their column's type, by file in the order given."""
        if self.feed.schema.types is not Policy.EVOLVE or self.sql.is_closed:
            return
        paths = {item.file.file_id: item.file.path for item in items}
        columns = [
            (number, column)
            for number, column in enumerate(self.feed.columns)
            if can_widen(self.feed, column)
        ]
        figures = "".join(
            f", {needs(column, said_by(column, number), doubts=self.sql.doubts(column))}"
            for number, column in columns
        )
        rows: list[tuple[Any, ...]] = []
        for group in grouped(items):
            typed = self.sql.typed(self._relation(group), group[0].checked.layout)
            rows += self.engine.rows(f"SELECT {FILE_ID}{figures} FROM {typed} GROUP BY 1")
        order = {file_id: number for number, file_id in enumerate(paths)}
        for file_id, *found in sorted(rows, key=lambda row: order[row[0]]):
            for number, (_, column) in enumerate(columns):
                yield Need(column.name, paths[file_id], *found[4 * number : 4 * number + 4])

    def _brought_back(
        self, items: Sequence[FileToLoad], added: TableState
    ) -> dict[int, list[Origin]]:
        """The origins of the rows that files brought back, read from the written files."""
        replays = {i.file.file_id: i.file.path for i in items if i.checked.layout.is_replay}
        origins: dict[int, list[Origin]] = {}
        if not replays or not added.files:
            return origins
        seen: set[Origin] = set()
        ids = ", ".join(map(str, replays))
        for file_id, text in self.engine.rows(
            f"SELECT {FILE_ID}, {ORIGIN} FROM {self.engine.define(added)}"
            f" WHERE {FILE_ID} IN ({ids}) ORDER BY ALL"
        ):
            origin = read_origin(str(text))
            if origin is None or origin in seen:
                raise GateFailed(f"{replays[file_id]} would count the row {text} twice")
            seen.add(origin)
            origins.setdefault(file_id, []).append(origin)
        return origins

    def _write_refused(
        self, group: Sequence[FileToLoad], expected: Mapping[int, int], again: Counter[int]
    ) -> list[DataFile]:
        """Write the refused rows of files of one shape, with place and raw text.

        There must be as many of each file as `expected`. Those that were refused before are counted
        in `again`.
        """
        written: list[DataFile] = []
        counts = Counter[int]()
        rows = chain(self._malformed(group), self._broken(group))
        while chunk := list(islice(rows, _REFUSED_AT_ONCE)):
            counts.update(file.file_id for file, _ in chunk)
            again.update(file.file_id for file, row in chunk if row.origin)  # "" is no known row
            values = self.engine.values(to_arrow(chunk))
            query = f"SELECT * FROM {values}"
            written += self._to(self.work.quarantine, REFUSED_FIELDS, query, ()).files
            self.engine.forget(values)
        for item in group:
            count, wanted = counts[item.file.file_id], expected[item.file.file_id]
            if count != wanted:
                raise GateFailed(
                    f"{item.file.shown}: {item.checked.records} records, but"
                    f" {item.checked.records - wanted} loaded and {count} quarantined"
                )
        return written

    def _malformed(self, group: Sequence[FileToLoad]) -> Iterator[tuple[LedgerFile, RefusedRow]]:
        """The records that cannot be rows."""
        for item in group:
            for malformed in item.checked.malformed:
                parse_error = malformed.parse_error
                yield (
                    item.file,
                    RefusedRow(
                        malformed.line,
                        ORIGIN if parse_error.rule == "replay" else None,
                        parse_error.rule,
                        parse_error.message,
                        malformed.raw,
                        malformed.cells,
                        malformed.origin,
                    ),
                )

    def _broken(self, group: Sequence[FileToLoad]) -> Iterator[tuple[LedgerFile, RefusedRow]]:
        """The rows that break a type or a rule."""
        files = {item.file.file_id: item for item in group}
        layout = group[0].checked.layout
        violations = self.sql.violations(layout)
        flags = ", ".join(
            f"CASE WHEN {violation.condition} THEN {number} END"
            for number, violation in enumerate(violations)
        )
        relation = numbered(self.engine, {key: one.checked for key, one in files.items()})
        self._read.append(relation)
        query = (
            f"SELECT {FILE_ID}, {ROW}, list_filter([{flags}], lambda x: x IS NOT NULL)"
            f" FROM {self.sql.typed(relation, layout)}"
            f" WHERE {self.sql.refused(layout)} ORDER BY {FILE_ID}, {ROW}"
        )
        of = -1
        places: Iterator[Place | JsonPlace] = iter(())
        with closing(self.engine.batches(query, _REFUSED_AT_ONCE)) as chunks:
            for chunk in chunks:
                columns = (part.to_pylist() for part in chunk.columns)
                for file_id, row, numbers in zip(*columns, strict=True):
                    if file_id != of:
                        of, places = file_id, places_of(files[file_id].checked)
                    place = seek(places, row)
                    yield files[file_id].file, _refused_at(place, [violations[n] for n in numbers])


def _refused_at(place: Place | JsonPlace, broken: Sequence[Violation]) -> RefusedRow:
    first = broken[0]
    message = "; ".join(violation.message for violation in broken) + place.at(first.column)
    return RefusedRow(
        place.line, first.column, first.rule, message, place.raw, place.cells, place.origin
    )


def _read_together(items: Iterable[FileToLoad]) -> Iterator[list[FileToLoad]]:
    """Files of one shape in groups that fit into memory; a large file is alone."""
    for group in grouped(items):
        together: list[FileToLoad] = []
        size = 0
        for item in group:
            own = item.checked.readable.stat().st_size
            if together and size + own > _READ_AT_ONCE:
                yield together
                together, size = [], 0
            together.append(item)
            size += own
        yield together


def grouped(files: Iterable[FileToLoad]) -> list[list[FileToLoad]]:
    """Files of one layout and shape, which are parsed together."""
    groups: dict[tuple[object, CsvShape | JsonShape], list[FileToLoad]] = {}
    for item in files:
        checked = item.checked
        groups.setdefault((checked.layout, checked.json or csv_shape(checked)), []).append(item)
    return list(groups.values())
