"""Build marts: of each mart, only the months that the batch affects."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from retailmart.engines import Cut, Engine, Relation, Write
from retailmart.engines.parsing import tree_of
from retailmart.engines.together import sent
from retailmart.errors import EngineFailed, NotComputed, RetailmartError, SettingsError
from retailmart.feeds.load import LoadedFeed
from retailmart.lake import Lake
from retailmart.lake.layout import MONTH, mart_table
from retailmart.marts.held import HeldBack
from retailmart.marts.splitting import Lookup, lookups, row_by_row, split_problem
from retailmart.project.feed import Feed
from retailmart.project.mart import Mart, Refresh
from retailmart.sources.loaded import SINCE, LoadedTable
from retailmart.tables import DataFile, Field, TableChange, TableState, quoted

# The columns of relations, in their order, and their types; by the names that queries use for them.
Fields = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Inputs:
    """What marts read in this batch: tables as they will be once it is committed.

    `unchanged` holds the feeds that the batch does not change and their raw tables; `tables` holds
    the source tables by each name that marts may use. `functions` are the names of the user's.
    """

    feeds: Mapping[str, LoadedFeed]
    unchanged: Mapping[str, tuple[Feed, TableState]]
    tables: Mapping[str, LoadedTable]
    functions: frozenset[str] = frozenset()

    def raw(self, name: str) -> tuple[Feed, TableState]:
        """A feed and its raw table."""
        if name in self.feeds:
            return self.feeds[name].feed, self.feeds[name].after
        return self.unchanged[name]


@dataclass(frozen=True)
class BuiltMart:
    """What a batch does to a mart. `months` are those rebuilt or added to; None is all of them.

    Nothing is kept of what it held in the months `rewritten`; if `rebuilt`, nothing of any month.
    `is_first` means that the lake does not hold it yet.
    """

    mart: Mart
    change: TableChange
    after: TableState
    months: frozenset[str] | None
    rebuilt: bool
    rewritten: frozenset[str] = frozenset()
    is_first: bool = False


def build_order(marts: Mapping[str, Mart], reads: Mapping[str, frozenset[str]]) -> tuple[Mart, ...]:
    """The marts, each after those it reads. Raises SettingsError, which names a circle."""
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


def by_month(
    order: Iterable[Mart], reads: Mapping[str, frozenset[str]], feeds: Iterable[Feed]
) -> frozenset[str]:
    """The feeds and marts that are read and written month by month; `order` is of `build_order`.

    A mart is among them only if it reads one of them: otherwise all of it would be built for each
    month, or for none.
    """
    found = {feed.name for feed in feeds if feed.month is not None}
    for mart in order:
        if mart.month is not None and reads[mart.name] & found:
            found.add(mart.name)
    return frozenset(found)


def without_input(
    order: Iterable[Mart],
    reads: Mapping[str, frozenset[str]],
    nowhere: Mapping[str, str],
    undelivered: Mapping[str, str],
    feeds: Iterable[str],
) -> dict[str, str]:
    """The marts that have nothing to be built from, and why. `order` is as of `build_order`.

    A mart needs each table and mart that it reads; of its feeds it needs one. `nowhere` are tables
    that no source has, `undelivered` are feeds without any file yet; both with messages.
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
    progress: Callable[[str], None],
    held: HeldBack | None = None,
    moments: Mapping[str, datetime] | None = None,
) -> list[BuiltMart]:
    """Build what the batch changes. `stale` marts are rebuilt from all rows.

    `progress` is called with each mart's name before it is built. If a mart can't be computed,
    `held` holds it back; without `held`, the error is raised. With `moments`, each mart is built as
    of its own moment.
    """
    built: dict[str, BuiltMart] = {}
    effects = Effects(engine, inputs)
    marts = {mart.name: mart for mart in order}
    feeds = [inputs.raw(name)[0] for name in (*inputs.feeds, *inputs.unchanged)]
    others = _Others(by_month(marts.values(), reads, feeds), built)
    for level in _levels(marts, reads, moments or {}):
        if moments:
            engine.set_variables({"as_of": moments[level[0].name]})
        building: list[tuple[Mart, _Building]] = []
        writes: list[Write] = []
        for mart in level:
            if held is not None and held.holds_reader(mart):
                continue
            own = reads[mart.name]
            with held.building(mart) if held is not None else nullcontext():
                builder = _Builder(engine, lake, mart, own, inputs, others, batch_id, effects)
                if mart.name in stale or builder.is_concerned():
                    progress(mart.name)
                    steps = builder.build(rebuilt=mart.name in stale)
                    writes.append(next(steps))
                    building.append((mart, steps))
        for (mart, steps), written in zip(building, engine.write_each(writes), strict=True):
            with held.building(mart) if held is not None else nullcontext():
                built[mart.name] = sent(steps, written)
    return [built[name] for name in marts if name in built]


def _levels(
    marts: Mapping[str, Mart], reads: Mapping[str, frozenset[str]], moments: Mapping[str, datetime]
) -> Iterator[list[Mart]]:
    """The marts in groups that do not read each other, each group after those it reads.

    The marts of a group are built as of one moment.
    """
    waiting = dict(marts)
    while waiting:
        level = [mart for mart in waiting.values() if not reads[mart.name] & waiting.keys()]
        groups: dict[datetime | None, list[Mart]] = {}
        for mart in level:
            del waiting[mart.name]
            groups.setdefault(moments.get(mart.name), []).append(mart)
        yield from groups.values()


def mart_fields(engine: Engine, mart: Mart, relations: Mapping[str, Relation]) -> tuple[Field, ...]:
    """The columns of a mart's query. Raises RetailmartError if its header names others."""
    fields = engine.fields(mart.query, relations)
    agreeing = (column for columns in mart.agrees.values() for column in columns)
    missing = {*mart.partitions, *mart.key, *mart.balance.values(), *agreeing}
    missing -= {field.name for field in fields}
    if missing:
        listed = ", ".join(sorted(missing))
        raise RetailmartError(f"its header names {listed}, which it does not select")
    return fields


@dataclass
class Effects:
    """The months in which marts show source table rows that have changed."""

    engine: Engine
    inputs: Inputs
    _months: dict[tuple[Lookup, str], frozenset[str] | None] = field(default_factory=dict)

    def months(self, query: str, tables: Iterable[str], fields: Fields) -> frozenset[str] | None:
        """The months in which a query shows changed rows of its tables. None is every month.

        A table's row shows in the months in which a feed has its key, if the query finds it by that
        key alone. Versions matter from the day on which they begin to differ; the latest row
        matters everywhere.
        """
        months = frozenset[str]()
        for name in sorted(tables):
            table = self.inputs.tables[name]
            if table.affected is None and not table.everything:
                continue
            if table.affected is None:
                return None
            found = self._lookups(query, name, fields)
            known = {column.name.lower() for column in table.affected.fields}
            if found is None or not known.issuperset(lookup.key for lookup in found):
                return None
            for lookup in sorted(found, key=str):
                shown = self._of(lookup, table)
                if shown is None:
                    return None
                months |= shown
        return months

    def _lookups(self, query: str, table: str, fields: Fields) -> frozenset[Lookup] | None:
        days = {
            feed: self.inputs.raw(feed)[0].month
            for feed in fields
            if feed in self.inputs.feeds or feed in self.inputs.unchanged
        }
        monthly = {feed: day for feed, day in days.items() if day is not None}
        return lookups(tree_of(query), table, fields, monthly)

    def _of(self, lookup: Lookup, table: LoadedTable) -> frozenset[str] | None:
        key = (lookup, table.table.name)
        if key not in self._months:
            feeds = [*self.inputs.feeds, *self.inputs.unchanged]
            (feed,) = (name for name in feeds if name.lower() == lookup.relation)
            rows_of_feed = self.engine.define(self.inputs.raw(feed)[1])
            own = table.compared(f"t.{quoted(lookup.key)}", lookup.key)
            match = f"{own} = r.{quoted(lookup.column)}"
            if lookup.day is not None:
                match += f" AND r.{quoted(lookup.day)} >= t.{SINCE}"
            try:
                rows = self.engine.rows(
                    f"SELECT DISTINCT r.{MONTH} FROM {rows_of_feed} r WHERE EXISTS"
                    f" (SELECT 1 FROM {table.affected} t WHERE {match})"
                )
                self._months[key] = frozenset(str(month) for (month,) in rows)
            except NotComputed:
                # Rows that are gone are asked for here, too: the mart itself may well be computed.
                self._months[key] = None
        return self._months[key]


@dataclass(frozen=True)
class _Others:
    """What a builder knows of other tables: those split by month, and the marts built so far."""

    by_month: frozenset[str]
    built: Mapping[str, BuiltMart]


# Yields what is to be written, receives its files, and returns what the mart becomes.
_Building = Generator[Write, tuple[DataFile, ...], BuiltMart]


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
        self.built = others.built
        self.batch_id = batch_id
        self.root = lake.folder(mart_table(mart.name))
        self.before = lake.state(mart_table(mart.name))
        self.effects = effects
        self.others = reads - inputs.tables.keys()
        self.by_month = self.others & others.by_month if mart.month is not None else frozenset()

    def is_concerned(self) -> bool:
        """Whether the batch changes anything this mart shows."""
        if self.before is None or self.reads & (self.inputs.feeds.keys() | self.built.keys()):
            return True
        if not self.by_month:
            return any(self.inputs.tables[n].change for n in self.reads - self.others)
        return self._changed != frozenset()

    @cached_property
    def _changed(self) -> frozenset[str] | None:
        """The months in which anything that it reads has changed. None is every month."""
        return _union([*map(self._changed_of, self.others), self._affected])

    @cached_property
    def _affected(self) -> frozenset[str] | None:
        """The months in which changed source tables show. None is every month."""
        tables = self.reads - self.others
        if not any(
            self.inputs.tables[n].affected or self.inputs.tables[n].everything for n in tables
        ):
            return frozenset()
        own = {name: self._table(name).fields for name in self.others}
        own |= {name: relation.fields for name, relation in self._source_tables.items()}
        fields = {name: {f.name: str(f.type) for f in known} for name, known in own.items()}
        return self.effects.months(self.mart.query, tables, fields)

    def _changed_of(self, name: str) -> frozenset[str] | None:
        """The months in which a feed or mart has changed. None is every month."""
        if (part := self.built.get(name)) is not None:
            whole = part.rebuilt or part.months is None or name not in self.by_month
            return None if whole else part.months
        feed = self.inputs.feeds.get(name)
        if feed is None:
            return frozenset()
        # In its first batch, or when it gets a month column, marts have not seen it like this yet.
        known = feed.before is not None and feed.before.partition_by == feed.after.partition_by
        return feed.affected if known and name in self.by_month else None

    def build(self, *, rebuilt: bool) -> _Building:
        """Yield what is to be written; given the files, decide what becomes of the old ones."""
        with self._placed():
            fields = self._fields()
        if not self.by_month:
            return (yield from self._build_full(fields))
        rebuilt = rebuilt or self.before is None or self.before.fields != fields
        # Months that are built for several moments would not make one table.
        rebuilt = rebuilt or self.mart.looks_at_as_of
        return (yield from self._build_months(fields, None if rebuilt else self._changed))

    def _build_full(self, fields: tuple[Field, ...]) -> _Building:
        mart = self.mart
        names = {name: self.engine.define(self._table(name)) for name in self.others}
        prefix = f"{self.lake.prefix(self.batch_id)}0001"
        with self._placed():
            names |= self._source_tables
            files = yield Write(
                mart.query, self.root, prefix, mart.partitions, names, columns=fields
            )
        return self._built(fields, files, None, None)

    def _build_months(self, fields: tuple[Field, ...], changed: frozenset[str] | None) -> _Building:
        """`changed` are the months that have changed; None is all, for a full rebuild."""
        there = frozenset[str]().union(*(self._table(name).months for name in self.by_month))
        months = there if changed is None else changed
        grown = None if changed is None else self._grown
        rewritten = months
        if grown is not None:
            other = _union([*map(self._changed_of, self.others - {grown}), self._affected])
            rewritten = self.inputs.feeds[grown].replaced | (other or frozenset())
        # A month without any rows left is gone, whatever the query would give for no rows.
        parts = {
            month: {
                n: self._part(n, month, n == grown and month not in rewritten) for n in self.others
            }
            for month in sorted(months & there)
        }
        prefix = self.lake.prefix(self.batch_id)
        with self._placed():
            cut = self._cut(parts.values())
            files = yield Write(
                self.mart.query,
                self.root,
                prefix,
                self.mart.partitions,
                self._source_tables,
                parts,
                cut,
                fields,
            )
        return self._built(fields, files, months, None if changed is None else rewritten)

    @cached_property
    def _grown(self) -> str | None:
        """The feed whose new rows alone can be added, as the query takes each row by itself."""
        came = sorted(self.by_month & self.inputs.feeds.keys())
        if self.mart.refresh is not Refresh.APPEND or not came:
            return None
        return row_by_row(tree_of(self.mart.query), came, self.inputs.functions)

    def _cut(self, parts: Iterable[Mapping[str, TableState]]) -> Cut | None:
        """How a month may be divided between tasks. RetailmartError if `split_by` is wrong."""
        size = sum(f.size for tables in parts for table in tables.values() for f in table.files)
        if not self.mart.split_by and self.engine.parts(size) == 1:
            return None  # nothing would divide it: the query need not be examined
        tables = {name: self._table(name) for name in self.by_month}
        columns = {name: [f.name for f in table.fields] for name, table in tables.items()}
        tree, by = tree_of(self.mart.query), self.mart.split_by
        if not by:
            by_files = row_by_row(tree, tables, self.inputs.functions)
            return None if by_files is None else Cut(by_files=by_files)
        if problem := split_problem(tree, by, columns):
            raise RetailmartError(
                f"split_by: {problem}",
                "Remove `split_by`, or name columns whose values never meet in the query",
            )
        kinds = {
            (column, str(field.type))
            for table in tables.values()
            for field in table.fields
            for column in by
            if field.name.lower() == column.lower()
        }
        # Equal values of different types would go to different shares.
        return Cut(by_columns=by, tables=frozenset(tables)) if len(kinds) == len(by) else None

    def _fields(self) -> tuple[Field, ...]:
        """The mart's columns, found without any row: there may be no month to build."""
        empty = {name: self.engine.define(self._table(name).only(())) for name in self.others}
        return mart_fields(self.engine, self.mart, {**empty, **self._source_tables})

    @cached_property
    def _source_tables(self) -> dict[str, Relation]:
        """The source tables that the mart reads, by its names for them."""
        tables = self.inputs.tables
        return {n: tables[n].relations(self.engine)[n] for n in self.reads - self.others}

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Add the place of the mart's SELECT to its errors."""
        try:
            yield
        except EngineFailed:
            raise  # the SELECT is not to blame
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
        """`gone` are the months whose old files are removed; None is all of them."""
        mart = self.mart
        before = self.before
        old = before.files if before else ()
        if gone is not None and before:
            old = before.in_months(gone).files
        change = TableChange(
            mart_table(mart.name), fields, mart.partitions, files, tuple(f.path for f in old)
        )
        after = change.applied_to(str(self.root), before)
        return BuiltMart(
            mart, change, after, months, gone is None, gone or frozenset(), before is None
        )

    def _part(self, name: str, month: str, only_added: bool) -> TableState:
        """What the mart sees of a table for one month; a table without months is seen whole."""
        table = self.inputs.feeds[name].added if only_added else self._table(name)
        return table.in_months([month]) if name in self.by_month else table

    def _table(self, name: str) -> TableState:
        if name in self.built:
            return self.built[name].after
        if name in self.inputs.feeds or name in self.inputs.unchanged:
            return self.inputs.raw(name)[1]
        state = self.lake.state(mart_table(name))
        if state is None:
            raise RetailmartError(f"mart {name!r} is not built yet")
        return state


def _union(found: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """The union of months; None, which is every month, if any of them is None."""
    months = list(found)
    known = [part for part in months if part is not None]
    return None if len(known) < len(months) else frozenset().union(*known)
