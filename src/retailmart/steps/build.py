"""Build marts: of each, only the months that the batch touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from retailmart.engines import Engine
from retailmart.errors import RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.project.mart import Mart, Refresh
from retailmart.steps.load import LoadedFeed
from retailmart.tables import DataFile, Field, TableChange, TableState


@dataclass(frozen=True)
class Inputs:
    """What marts read in this batch: tables as they will be once it is committed.

    `unchanged` holds raw tables that the batch does not touch, by name, as `dimensions` holds
    source tables; `changed_dimensions` are those whose rows are not what they were.
    """

    feeds: Mapping[str, LoadedFeed]
    unchanged: Mapping[str, TableState]
    dimensions: Mapping[str, TableState]
    changed_dimensions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BuiltMart:
    """What a batch does to a mart. `months` are those written anew or added to; None is all.

    `anew` tells that nothing of what it held before is kept.
    """

    mart: Mart
    change: TableChange
    after: TableState
    months: frozenset[str] | None
    anew: bool


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
    for mart in order:
        builder = _Builder(engine, lake, mart, reads[mart.name], inputs, built, batch_id)
        if mart.name in stale or builder.is_concerned():
            told(mart.name)
            built[mart.name] = builder.build(anew=mart.name in stale)
    return list(built.values())


class _Builder:
    """One mart in one batch."""

    def __init__(
        self,
        engine: Engine,
        lake: Lake,
        mart: Mart,
        reads: frozenset[str],
        inputs: Inputs,
        built: Mapping[str, BuiltMart],
        batch_id: int,
    ) -> None:
        self.engine = engine
        self.lake = lake
        self.mart = mart
        self.reads = reads
        self.inputs = inputs
        self.built = built
        self.batch_id = batch_id
        self.root = lake.folder(mart_table(mart.name))
        self.before = lake.state(mart_table(mart.name))

    def is_concerned(self) -> bool:
        """Whether the batch changes anything this mart shows."""
        if self.before is None or self.reads & (self.inputs.feeds.keys() | self.built.keys()):
            return True
        changed = self.reads & self.inputs.changed_dimensions
        return self.mart.refresh is Refresh.FULL and bool(changed)

    def build(self, *, anew: bool) -> BuiltMart:
        """Write the mart's files and say what becomes of the old ones."""
        self._define_dimensions()
        with self._placed():
            fields = self._fields()
        anew = anew or self.before is None or self.before.fields != fields
        if self.mart.refresh is Refresh.FULL:
            return self._build_full(fields)
        return self._build_months(fields, anew=anew)

    def _build_full(self, fields: tuple[Field, ...]) -> BuiltMart:
        for name in self.reads - self.inputs.dimensions.keys():
            self.engine.define(name, self._table(name))
        files = self._write(f"{self.lake.prefix(self.batch_id)}0001", None)
        return self._built(fields, files, None, None)

    def _build_months(self, fields: tuple[Field, ...], *, anew: bool) -> BuiltMart:
        months = self._all_months() if anew else self._months_touched()
        append = self.mart.refresh is Refresh.APPEND
        files: list[DataFile] = []
        for number, month in enumerate(sorted(months), 1):
            for name in self.reads - self.inputs.dimensions.keys():
                self.engine.define(name, self._part(name, month, append and not anew))
            files += self._write(f"{self.lake.prefix(self.batch_id)}{number:04d}", month)
        gone = self._months_replaced() if append else months
        return self._built(fields, tuple(files), months, None if anew else gone)

    def _write(self, prefix: str, month: str | None) -> tuple[DataFile, ...]:
        mart = self.mart
        with self._placed():
            return self.engine.write(mart.query, self.root, prefix, mart.partitions, month).files

    def _fields(self) -> tuple[Field, ...]:
        """The mart's columns, told without any row: there may be no month to build."""
        mart = self.mart
        for name in self.reads - self.inputs.dimensions.keys():
            self.engine.define(name, self._table(name).only(()))
        fields = self.engine.fields(mart.query)
        missing = {*mart.partitions, *mart.key, *mart.balance.values()}
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
        return BuiltMart(mart, change, after, months, gone is None)

    def _define_dimensions(self) -> None:
        for name in self.reads & self.inputs.dimensions.keys():
            self.engine.define(name, self.inputs.dimensions[name])

    def _part(self, name: str, month: str, only_added: bool) -> TableState:
        """What the mart sees of a table for one month; a table without months is seen whole."""
        feed = self.inputs.feeds.get(name)
        table = feed.added if feed and only_added else self._table(name)
        cut = feed.feed.month if feed else self._has_months(name)
        return table.in_months([month]) if cut else table

    def _has_months(self, name: str) -> bool:
        mart = self.built[name].mart if name in self.built else None
        table = self._table(name)
        if mart:
            return mart.month is not None
        return bool(table.partition_by)

    def _table(self, name: str) -> TableState:
        if name in self.inputs.feeds:
            return self.inputs.feeds[name].after
        if name in self.built:
            return self.built[name].after
        if name in self.inputs.unchanged:
            return self.inputs.unchanged[name]
        state = self.lake.state(mart_table(name))
        if state is None:
            raise RetailmartError(f"mart {name!r} is not built yet")
        return state

    def _all_months(self) -> frozenset[str]:
        months = frozenset[str]()
        for name in self.reads - self.inputs.dimensions.keys():
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
