"""Build marts: of each, only the months that the batch touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from retailmart.engines import Engine
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.project.feed import Column, Feed
from retailmart.project.mart import Mart, Refresh
from retailmart.steps.load import MONTH, LoadedFeed
from retailmart.steps.sources import LoadedTable
from retailmart.tables import DataFile, Field, TableChange, TableState, quoted


@dataclass(frozen=True)
class Inputs:
    """What marts read in this batch: tables as they will be once it is committed.

    `unchanged` holds the feeds that the batch does not touch and their raw tables, `tables` the
    source tables by each name that marts may give them.
    """

    feeds: Mapping[str, LoadedFeed]
    unchanged: Mapping[str, tuple[Feed, TableState]]
    tables: Mapping[str, LoadedTable]

    def raw(self, name: str) -> tuple[Feed, TableState]:
        """A feed and its raw table."""
        if name in self.feeds:
            return self.feeds[name].feed, self.feeds[name].after
        return self.unchanged[name]


@dataclass(frozen=True)
class BuiltMart:
    """What a batch does to a mart. `months` are those written anew or added to; None is all.

    Of what it held in the months `rewritten` nothing is kept; `anew` tells that of all months.
    """

    mart: Mart
    change: TableChange
    after: TableState
    months: frozenset[str] | None
    anew: bool
    rewritten: frozenset[str] = frozenset()


def mart_table(name: str) -> str:
    """Where a mart lies in the lake."""
    return f"marts/{name}"


def build_order(marts: Mapping[str, Mart], reads: Mapping[str, frozenset[str]]) -> tuple[Mart, ...]:
    """The marts, each after those it reads. SettingsError names a circle."""
    ordered: dict[str, Mart] = {}
    waiting = dict(marts)
    while waiting:
        ready = [n for n in waiting if not (reads[n] - {n}) & waiting.keys() and n not in reads[n]]
        if not ready:
            circle = ", ".join(sorted(waiting))
            raise SettingsError([f"marts read each other in a circle: {circle}"])
        for name in ready:
            ordered[name] = waiting.pop(name)
    return tuple(ordered.values())


def without_input(
    order: Iterable[Mart],
    reads: Mapping[str, frozenset[str]],
    nowhere: Mapping[str, str],
    undelivered: Mapping[str, str],
    feeds: Iterable[str],
) -> dict[str, str]:
    """The marts that have nothing to be built from, and why. `order` is as of `build_order`.

    A mart needs each table and mart that it reads; of its feeds it needs one. `nowhere` are tables
    that no source has, `undelivered` are feeds of which no file came yet, with words for people.
    """
    found: dict[str, str] = {}
    inputs = {*feeds, *(mart.name for mart in order)}
    for mart in order:
        names = reads[mart.name]
        if tables := sorted(names & nowhere.keys()):
            found[mart.name] = nowhere[tables[0]]
        elif marts := sorted(names & found.keys()):
            found[mart.name] = found[marts[0]]
        elif (own := sorted(names & inputs)) and undelivered.keys() >= set(own):
            found[mart.name] = undelivered[own[0]]
    return found


def build(
    engine: Engine,
    lake: Lake,
    order: Iterable[Mart],
    reads: Mapping[str, frozenset[str]],
    inputs: Inputs,
    stale: frozenset[str],
    batch_id: int,
    told: Callable[[str], None],
) -> list[BuiltMart]:
    """Build what the batch changes. `stale` marts are built anew from all rows.

    `told` is called with each mart's name before it is built.
    """
    built: dict[str, BuiltMart] = {}
    effects = Effects(engine, inputs)
    marts = {mart.name: mart for mart in order}
    for mart in marts.values():
        others = _Others(marts, built)
        builder = _Builder(engine, lake, mart, reads[mart.name], inputs, others, batch_id, effects)
        if mart.name in stale or builder.is_concerned():
            told(mart.name)
            built[mart.name] = builder.build(anew=mart.name in stale)
    return list(built.values())


@dataclass
class Effects:
    """The months in which marts show the rows of source tables that are not what they were."""

    engine: Engine
    inputs: Inputs
    _months: dict[tuple[str, str, str, bool], frozenset[str]] = field(default_factory=dict)

    def months(self, reads: frozenset[str]) -> frozenset[str] | None:
        """Of a mart that reads these names. None is every month.

        Feeds tell by `references` which of their rows a table's row belongs to. Versions matter
        from the day on which they begin to differ, the latest row matters everywhere.
        """
        months = frozenset[str]()
        feeds = reads & (self.inputs.feeds.keys() | self.inputs.unchanged.keys())
        for name in sorted(reads & self.inputs.tables.keys()):
            table = self.inputs.tables[name]
            if table.touched is None and not table.everything:
                continue
            columns = [
                (feed, column)
                for feed in sorted(feeds)
                for column in self.inputs.raw(feed)[0].columns
                if column.references and column.references[0] == table.table.name
            ]
            if table.everything or not columns:
                return None
            for feed, column in columns:
                if self.inputs.raw(feed)[0].month is None:
                    return None
                by_day = name != table.table.name
                months |= self._of(feed, column, table, by_day=by_day)
        return months

    def _of(self, feed: str, column: Column, table: LoadedTable, *, by_day: bool) -> frozenset[str]:
        key = (feed, column.name, table.table.name, by_day)
        if key not in self._months:
            definition, raw = self.inputs.raw(feed)
            self.engine.define("_affected", raw)
            match = f"t.{quoted(_referenced(column))} = r.{quoted(column.name)}"
            if by_day:
                match += f" AND r.{quoted(str(definition.month))} >= t._since"
            rows = self.engine.rows(
                f"SELECT DISTINCT r.{MONTH} FROM _affected r WHERE EXISTS"
                f" (SELECT 1 FROM {quoted(str(table.touched))} t WHERE {match})"
            )
            self._months[key] = frozenset(str(month) for (month,) in rows)
        return self._months[key]


def _referenced(column: Column) -> str:
    return column.references[1] if column.references else ""


@dataclass(frozen=True)
class _Others:
    """All marts of a batch, and what became of those that were built so far."""

    marts: Mapping[str, Mart]
    built: Mapping[str, BuiltMart]


class _Builder:
    """One mart in one batch."""

    def __init__(
        self,
        engine: Engine,
        lake: Lake,
        mart: Mart,
        reads: frozenset[str],
        inputs: Inputs,
        others: _Others,
        batch_id: int,
        effects: Effects,
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.mart = mart
        self.reads = reads
        self.inputs = inputs
        self.marts = others.marts
        self.built = others.built
        self.batch_id = batch_id
        self.root = lake.folder(mart_table(mart.name))
        self.before = lake.state(mart_table(mart.name))
        self.effects = effects
        self.others = reads - inputs.tables.keys()

    def is_concerned(self) -> bool:
        """Whether the batch changes anything this mart shows."""
        if self.before is None or self.reads & (self.inputs.feeds.keys() | self.built.keys()):
            return True
        if self.mart.refresh is Refresh.FULL:
            return any(self.inputs.tables[n].change for n in self.reads - self.others)
        return self._affected() != frozenset()

    def _affected(self) -> frozenset[str] | None:
        """The months that changed source tables show in; None is every month."""
        return self.effects.months(self.reads)

    def build(self, *, anew: bool) -> BuiltMart:
        """Write the mart's files and say what becomes of the old ones."""
        for name in self.reads - self.others:
            self.inputs.tables[name].define(self.engine)
        with self._placed():
            fields = self._fields()
        anew = anew or self.before is None or self.before.fields != fields
        anew = anew or self._affected() is None
        if self.mart.refresh is Refresh.FULL:
            return self._build_full(fields)
        return self._build_months(fields, anew=anew)

    def _build_full(self, fields: tuple[Field, ...]) -> BuiltMart:
        mart = self.mart
        for name in self.others:
            self.engine.define(name, self._table(name))
        prefix = f"{self.lake.prefix(self.batch_id)}0001"
        with self._placed():
            written = self.engine.write(mart.query, self.root, prefix, mart.partitions)
        return self._built(fields, written.files, None, None)

    def _build_months(self, fields: tuple[Field, ...], *, anew: bool) -> BuiltMart:
        affected = self._affected() or frozenset()
        months = self._all_months() if anew else self._months_touched() | affected
        rewritten = months
        if self.mart.refresh is Refresh.APPEND and not anew:
            rewritten = self._months_replaced() | affected
        parts = {
            month: {n: self._part(n, month, month not in rewritten) for n in self.others}
            for month in sorted(months)
        }
        prefix = self.lake.prefix(self.batch_id)
        with self._placed():
            files = self.engine.write_months(
                self.mart.query, parts, self.root, prefix, self.mart.partitions
            )
        return self._built(fields, files, months, None if anew else rewritten)

    def _fields(self) -> tuple[Field, ...]:
        """The mart's columns, told without any row: there may be no month to build."""
        mart = self.mart
        for name in self.others:
            self.engine.define(name, self._table(name).only(()))
        fields = self.engine.fields(mart.query)
        agreeing = (column for columns in mart.agrees.values() for column in columns)
        missing = {*mart.partitions, *mart.key, *mart.balance.values(), *agreeing}
        missing -= {field.name for field in fields}
        if missing:
            listed = ", ".join(sorted(missing))
            raise RetailmartError(f"its header names {listed}, which it does not select")
        return fields

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Errors of the mart's SELECT, with the place where it stands."""
        try:
            yield
        except RetailmartError as error:
            place = f"marts/{self.mart.name}.sql:{self.mart.first_line}"
            raise type(error)(f"{place}: {error.message}", error.hint) from error

    def _built(
        self,
        fields: tuple[Field, ...],
        files: tuple[DataFile, ...],
        months: frozenset[str] | None,
        gone: frozenset[str] | None,
    ) -> BuiltMart:
        """`gone` are the months whose old files go; None is all of them."""
        mart = self.mart
        before = self.before
        old = before.files if before else ()
        if gone is not None and before:
            old = before.in_months(gone).files
        change = TableChange(
            mart_table(mart.name), fields, mart.partitions, files, tuple(f.path for f in old)
        )
        after = change.applied_to(str(self.root), before)
        return BuiltMart(mart, change, after, months, gone is None, gone or frozenset())

    def _part(self, name: str, month: str, only_added: bool) -> TableState:
        """What the mart sees of a table for one month; a table without months is seen whole."""
        feed = self.inputs.feeds.get(name)
        table = feed.added if feed and only_added else self._table(name)
        return table.in_months([month]) if self._has_months(name) else table

    def _has_months(self, name: str) -> bool:
        if name in self.marts:  # one that is written whole may be cut by what is no month
            return self.marts[name].month is not None
        return self.inputs.raw(name)[0].month is not None

    def _table(self, name: str) -> TableState:
        if name in self.built:
            return self.built[name].after
        if name in self.inputs.feeds or name in self.inputs.unchanged:
            return self.inputs.raw(name)[1]
        state = self.lake.state(mart_table(name))
        if state is None:
            raise RetailmartError(f"mart {name!r} is not built yet")
        return state

    def _all_months(self) -> frozenset[str]:
        months = frozenset[str]()
        for name in self.others:
            months |= self._table(name).months
        return months

    def _months_touched(self) -> frozenset[str]:
        months = frozenset[str]()
        for name in self.reads & self.inputs.feeds.keys():
            months |= self.inputs.feeds[name].touched
        for name in self.reads & self.built.keys():
            part = self.built[name]
            months |= part.after.months if part.months is None else part.months
        return months

    def _months_replaced(self) -> frozenset[str]:
        months = frozenset[str]()
        for name in self.reads & self.inputs.feeds.keys():
            months |= self.inputs.feeds[name].replaced
        return months
