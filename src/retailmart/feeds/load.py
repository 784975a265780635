"""Load a batch's files into raw and quarantine: the changes to both, and each file's outcome.

The files are processed in parts, on one machine or several (`load_part`); here they are added up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from retailmart.engines import Engine
from retailmart.engines.dividing import divided, over_files
from retailmart.errors import GateFailed, SettingsError
from retailmart.feeds.evolve import (
    Need,
    as_known,
    changes,
    effective,
    remembered,
    widened,
    with_brought,
)
from retailmart.feeds.load_part import (
    FileToLoad,
    LoadedPart,
    LoadPart,
    Part,
    Sum,
    SumFiles,
    grouped,
)
from retailmart.feeds.quarantine import REFUSED_FIELDS, Origin, refused_columns
from retailmart.feeds.rows import raw_fields, raw_partitions
from retailmart.files.staged import spans
from retailmart.lake import Lake
from retailmart.lake.layout import MONTH, quarantine_table, raw_table
from retailmart.ledger.values import CountedBy, FileOutcome, Schema, Totals
from retailmart.project.feed import Action, Feed, Policy
from retailmart.report import number_of
from retailmart.tables import FILE_ID, DataFile, TableChange, TableState, Written, quoted

# Files of one shape that the engine reads together: it needs some memory for each of them.
_FILES_AT_ONCE = 5_000


@dataclass(frozen=True)
class LoadedFeed:
    """What a batch does to one feed's raw and quarantine tables.

    `after` is the raw table as it will be; `replaced` are the months that lose rows of superseded
    versions and are rewritten, `kept` the files with the other rows of these months. `counted` says
    by which columns files are counted; if these are others than before, `is_recounted`, and it has
    the files that stay: `months` then are those of the whole table, else those of what was written.
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
    kept: tuple[DataFile, ...] = ()
    counted: CountedBy | None = None
    is_recounted: bool = False

    @property
    def has_table(self) -> bool:
        """Whether there is a raw table, or this batch creates it."""
        return self.before is not None or self.feed.schema.table is Policy.EVOLVE

    @property
    def added(self) -> TableState:
        """The rows this batch wrote: new rows, and kept rows of replaced months."""
        return self.after.only(self.raw.adds)

    @property
    def brought(self) -> TableState:
        """The rows of this batch's own files."""
        kept = {file.path for file in self.kept}
        return self.after.only(file for file in self.raw.adds if file.path not in kept)

    @property
    def affected(self) -> frozenset[str]:
        """The months whose rows have changed."""
        return self.added.months | self.replaced


def load(
    engine: Engine,
    lake: Lake,
    feed: Feed,
    files: Sequence[FileToLoad],
    superseded: Mapping[int, Mapping[str, Totals]],
    batch_id: int,
    scratch: Path,
    forgotten: Collection[int] = (),
    known: CountedBy | None = None,
) -> LoadedFeed:
    """Load a feed's files. `superseded` maps the file ids that leave → their months.

    `forgotten` are files whose refused rows leave quarantine first. `known` says by which columns
    the ledger has counted the feed's files; if these are not the feed's, raw is counted again, and
    written again if its months are others.

    Files that bring refused rows back must be as `replay.resolve` returns them. `feed` has all
    columns that its raw table holds (`evolve.effective`); the feed in the result also has those
    that files added. `scratch` is where the run's copies of the files are.
    Raises GateFailed if a `fail` rule is broken or a file's records do not add up, SettingsError
    if the raw table holds more than the feed says.
    """
    before = lake.state(raw_table(feed.name))
    feed, files, causes = _with_brought(feed, before, files)
    loader = _Loader(engine, lake, feed, batch_id, scratch, has_table=before is not None)
    loaded = loader.load(files)
    if any(part.needs for part in loaded):
        wide, wider = widened(feed, _in_order(files, loaded))
        causes |= wider
        if wide != feed:
            loader.discard(loaded)
            feed = loader.feed = wide
            loaded = loader.load(files)
    losing = frozenset(month for months in superseded.values() for month in months)
    counted = counted_by(feed)
    recounts = before is not None and not counted.is_as(known)
    moves = recounts and known is not None and known.month != feed.month
    rewritten = _rewritten(before, feed, losing, all_of_it=moves, any_leaves=bool(superseded))
    kept: tuple[DataFile, ...] = ()
    if rewritten and rewritten.files:
        kept = loader.keep(rewritten, list(superseded), moves=moves)
    replaced = losing | (rewritten.months if rewritten else frozenset())
    adds = (*(file for part in loaded for file in part.raw), *kept)
    removes = tuple(file.path for file in rewritten.files) if rewritten else ()
    change = TableChange(
        raw_table(feed.name), raw_fields(feed), raw_partitions(feed), adds, removes
    )
    after = change.applied_to(str(lake.folder(change.table)), before)
    sums = [one for part in loaded for one in part.sums]
    outcomes = tuple(_outcomes(feed, files, loaded, sums))
    refused = [file for part in loaded for file in part.refused]
    stays = kept
    if recounts:
        brought = {file.path for part in loaded for file in part.raw}
        stays = tuple(file for file in after.files if file.path not in brought)
    sums_of_stays = loader.sums(after.only(stays))
    if recounts:
        by_file = _by_file(sums_of_stays)
        counted = replace(counted, files={key: _by_month(own) for key, own in by_file.items()})
    schema = Schema(
        raw_table(feed.name),
        remembered(feed),
        changes(feed, before.fields if before else None, causes),
    )
    return LoadedFeed(
        feed,
        change,
        before,
        after,
        replaced,
        outcomes,
        loader.quarantined(refused, forgotten) if refused or forgotten else None,
        _by_month([*sums, *sums_of_stays]),
        schema,
        tuple(kept),
        counted,
        recounts,
    )


def counted_by(feed: Feed) -> CountedBy:
    """The columns that say a row's month and money, as the feed names them now."""
    return CountedBy(raw_table(feed.name), feed.month, feed.balance)


def _by_file(sums: Iterable[Sum]) -> dict[int, list[Sum]]:
    found: dict[int, list[Sum]] = {}
    for one in sums:
        found.setdefault(one.file_id, []).append(one)
    return found


def _with_brought(
    feed: Feed, before: TableState | None, files: Sequence[FileToLoad]
) -> tuple[Feed, Sequence[FileToLoad], dict[str, str]]:
    """The feed with raw's and the files' columns, the files in its names, each column's cause."""
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
    before: TableState | None,
    feed: Feed,
    losing: frozenset[str],
    *,
    all_of_it: bool,
    any_leaves: bool,
) -> TableState | None:
    """The part of the raw table that is rewritten: months that lose rows, or all of it.

    It is all of it if the feed has other columns or months now, or if rows leave a table without
    months.
    """
    if before is None:
        return None
    as_defined = (before.fields, before.partition_by) == (raw_fields(feed), raw_partitions(feed))
    if all_of_it or not as_defined or (any_leaves and not feed.month):
        return before
    return before.in_months(losing) if feed.month else before.only(())


def _in_order(files: Sequence[FileToLoad], loaded: Sequence[LoadedPart]) -> list[Need]:
    """What values need, in the order of the files: the first that needs a type is its cause."""
    order = {item.file.path: number for number, item in enumerate(files)}
    return sorted((n for part in loaded for n in part.needs), key=lambda need: order[need.path])


class _Loader:
    """One feed's load in one batch."""

    def __init__(
        self,
        engine: Engine,
        lake: Lake,
        feed: Feed,
        batch_id: int,
        scratch: Path,
        *,
        has_table: bool,
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.feed = feed
        self.batch_id = batch_id
        self.scratch = scratch
        self.has_table = has_table
        self.raw = lake.folder(raw_table(feed.name))
        self.quarantine = lake.folder(quarantine_table(feed.name))
        self._numbered = 0

    def load(self, files: Sequence[FileToLoad]) -> list[LoadedPart]:
        """Load the files in parts; those that can't be read in parts are then read whole."""
        loaded = self._spread(files, self._parts(files))
        irregular = frozenset[int]().union(*(part.irregular for part in loaded))
        if not irregular:
            return loaded
        done = [part for part in loaded if not irregular & part.records.keys()]
        self.discard(part for part in loaded if irregular & part.records.keys())
        again = [item for item in files if item.file.file_id in irregular]
        return done + self._spread(again, [self._part([item]) for item in again])

    def _spread(self, files: Sequence[FileToLoad], parts: Sequence[Part]) -> list[LoadedPart]:
        work = LoadPart(
            self.feed,
            self.has_table,
            self.raw,
            self.quarantine,
            self.lake.prefix(self.batch_id),
            self.scratch,
        )
        return self.engine.spread(work, parts, [part.size for part in parts])

    def _parts(self, files: Sequence[FileToLoad]) -> list[Part]:
        """The files by their shapes, divided as suits the engine best."""
        parts = []
        for group in grouped(files):
            pieces = [
                item if span is None else replace(item, checked=item.checked.part(span))
                for item in group
                for span in spans(item.checked, self.engine.parts)
            ]
            whole = [item for item in pieces if item.checked.span is None]
            parts += [self._part([item]) for item in pieces if item.checked.span is not None]
            size = lambda item: Part(0, (item,)).size  # noqa: E731
            for start in range(0, len(whole), _FILES_AT_ONCE):
                some = whole[start : start + _FILES_AT_ONCE]
                parts += [self._part(part) for part in divided(some, size, self.engine.parts)]
        return parts

    def _part(self, items: Sequence[FileToLoad]) -> Part:
        self._numbered += 1
        return Part(self._numbered, tuple(items))

    def discard(self, loaded: Iterable[LoadedPart]) -> None:
        """Remove what was written, before anything relies on it."""
        for part in loaded:
            self.engine.discard(self.raw, part.raw)
            self.engine.discard(self.quarantine, part.refused)

    def keep(
        self, table: TableState, leaving: Sequence[int], *, moves: bool
    ) -> tuple[DataFile, ...]:
        """Write the rows that stay of what is replaced; columns they never had are NULL.

        If the feed has a month only now, or another one (it `moves`), it is that of their day.
        Raises SettingsError if a row has no day: it would be in no month.
        """
        had = {field.name for field in table.fields}
        stored = str(self.engine.define(table))
        moves = bool(self.feed.month) and (moves or MONTH not in had)
        if moves:
            rest = "* EXCLUDE " + MONTH if MONTH in had else "*"
            had.add(MONTH)
            day = quoted(str(self.feed.month)) if self.feed.month in had else "NULL"
            stored = f"(SELECT {rest}, left(CAST({day} AS VARCHAR), 7) AS {MONTH} FROM {stored})"
        columns = ", ".join(
            f"CAST({quoted(f.name) if f.name in had else 'NULL'} AS {f.type}) AS {quoted(f.name)}"
            for f in raw_fields(self.feed)
        )
        ids = ", ".join(str(file_id) for file_id in (*leaving, -1))
        stays = f"WHERE {FILE_ID} NOT IN ({ids})"
        self._numbered += 1
        prefix = f"{self.lake.prefix(self.batch_id)}{self._numbered:04d}-"
        by = raw_partitions(self.feed)
        if by and table.partition_by == by and not moves:
            months = {m: {"replaced": table.in_months([m])} for m in sorted(table.months)}
            query = f"SELECT {columns} FROM replaced {stays}"
            return self.engine.write_months(query, months, self.raw, prefix, by)
        written = self.engine.write(f"SELECT {columns} FROM {stored} {stays}", self.raw, prefix, by)
        if written.left_out:
            raise SettingsError(
                [
                    f"feeds/{self.feed.name}.yml: month: {number_of(written.left_out, 'row')} of"
                    f" {raw_table(self.feed.name)} without {self.feed.month} would be in no month"
                ],
                "Take `month` away again, or name a column that every row has",
            )
        return written.files

    def sums(self, table: TableState) -> list[Sum]:
        """Sums of what the files hold, by file and month."""
        found = over_files(self.engine, SumFiles(self.feed), table)
        return [one for part in found for one in part]

    def quarantined(self, adds: Sequence[DataFile], forgotten: Collection[int]) -> TableChange:
        """The change of the quarantine table, which is rewritten if rows leave it.

        It is also rewritten if it has other columns.
        """
        table = quarantine_table(self.feed.name)
        before = self.lake.state(table)
        as_it_is = before is None or (before.fields == REFUSED_FIELDS and not forgotten)
        if before is None or as_it_is or not before.files:
            return TableChange(table, REFUSED_FIELDS, (), tuple(adds))
        columns = refused_columns([field.name for field in before.fields])
        ids = ", ".join(str(file_id) for file_id in (*sorted(forgotten), -1))
        held = self.engine.define(before)
        kept = self._requarantined(f"SELECT {columns} FROM {held} WHERE file_id NOT IN ({ids})")
        gone = tuple(file.path for file in before.files)
        return TableChange(table, REFUSED_FIELDS, (), (*kept.files, *adds), gone)

    def _requarantined(self, query: str) -> Written:
        self._numbered += 1
        prefix = f"{self.lake.prefix(self.batch_id)}{self._numbered:04d}-"
        types = ", ".join(
            f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in REFUSED_FIELDS
        )
        return self.engine.write(f"SELECT {types} FROM ({query})", self.quarantine, prefix, ())


def _outcomes(
    feed: Feed,
    files: Sequence[FileToLoad],
    loaded: Sequence[LoadedPart],
    sums: Sequence[Sum],
) -> Iterator[FileOutcome]:
    """Account for every record of every file."""
    origins = _origins(files, loaded)
    sums_of = _by_file(sums)
    for item in files:
        file_id = item.file.file_id
        parts = sums_of.get(file_id, [])
        records = sum(part.records.get(file_id, 0) for part in loaded)
        quarantined = sum(part.quarantined.get(file_id, 0) for part in loaded)
        rows = sum(one.totals.rows for one in parts)
        if rows + quarantined != records:
            raise GateFailed(
                f"{item.file.shown}: {records} records, but {rows} loaded and {quarantined}"
                " quarantined"
            )
        money = sum((one.totals for one in parts), Totals()).amount
        yield FileOutcome(
            file_id=file_id,
            records=records,
            loaded=rows,
            quarantined=quarantined,
            warned=_warned(feed, item, parts),
            months=_by_month(parts) if feed.month else {},
            origins=tuple(origins.get(file_id, ())),
            amount=money if feed.balance else None,
            again=sum(part.again.get(file_id, 0) for part in loaded),
        )


def _warned(feed: Feed, item: FileToLoad, parts: Sequence[Sum]) -> dict[str, int]:
    """How many rows break each rule that warns. Raises GateFailed if a `fail` rule is broken."""
    rules = feed.rules_that(Action.WARN, Action.FAIL)
    broken = {rule.name: sum(part.broken[n] for part in parts) for n, rule in enumerate(rules)}
    for rule in feed.rules_that(Action.FAIL):
        if broken[rule.name]:
            raise GateFailed(
                f"{item.file.shown}: {number_of(broken[rule.name], 'row')}"
                f" {'breaks' if broken[rule.name] == 1 else 'break'} rule {rule.name!r}:"
                f" {rule.message}",
                f"Correct the file, or change the rule in feeds/{feed.name}.yml",
            )
    return {name: count for name, count in broken.items() if count}


def _origins(files: Sequence[FileToLoad], loaded: Sequence[LoadedPart]) -> dict[int, list[Origin]]:
    """The origins of the rows that each file brought back, each of them once."""
    paths = {item.file.file_id: item.file.path for item in files}
    found: dict[int, list[Origin]] = {}
    seen: set[Origin] = set()
    for part in loaded:
        for file_id, origins in part.origins.items():
            if twice := seen.intersection(origins):
                raise GateFailed(f"{paths[file_id]} would count the row {min(twice)} twice")
            seen.update(origins)
            found.setdefault(file_id, []).extend(origins)
    return found


def _by_month(sums: Iterable[Sum]) -> dict[str, Totals]:
    totals: dict[str, Totals] = {}
    for one in sums:
        totals[one.month] = totals.get(one.month, Totals()) + one.totals
    return totals
