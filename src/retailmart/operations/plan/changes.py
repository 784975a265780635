"""What a plan changes in marts: rows and money by month, and rows by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from retailmart.engines import Engine
from retailmart.feeds.sums import exact, exact_sum
from retailmart.lake.layout import mart_table
from retailmart.operations.plan.shadow import ShadowLake
from retailmart.project import Mart
from retailmart.tables import Field, TableState, quoted

# Digits after the point of what is taken for money, though no `balance` names it.
_CENTS = 2
# So many rows of a mart are shown with their values before and after.
_SHOWN = 20


@dataclass(frozen=True)
class MonthChange:
    """A month of a mart, or all of a mart without months: `month` is None then.

    `money_before` and `money_after` are the sums of its columns of money, by name.
    """

    month: str | None
    rows_before: int
    rows_after: int
    money_before: Mapping[str, Decimal] = field(default_factory=dict)
    money_after: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether rows or money differ."""
        return (self.rows_before, self.money_before) != (self.rows_after, self.money_after)


@dataclass(frozen=True)
class RowChange:
    """A row that comes, goes or changes, values as text; a side that has no such row is None.

    Of a row that changes, both sides have the columns that do.
    """

    key: Mapping[str, str | None]
    before: Mapping[str, str | None] | None
    after: Mapping[str, str | None] | None


@dataclass(frozen=True)
class MartChange:
    """What a plan changes in a mart.

    `money` are its columns of money: those of its `balance`, then decimals with two digits after
    the point. `months` are those that are rebuilt or added to, also if they end up as they were.
    `added`, `removed` and `changed` count rows by key, None for a mart without one; `rows` are the
    first of them, those with the largest change of money first. `is_first` means that the lake does
    not hold the mart yet.
    """

    mart: str
    published_as: str | None
    money: tuple[str, ...]
    months: tuple[MonthChange, ...]
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    rows: tuple[RowChange, ...] = ()
    is_first: bool = False
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether any row or column differs."""
        counts = (self.added, self.removed, self.changed)
        of_columns = self.columns_added or self.columns_removed
        return bool(any(counts) or of_columns or any(one.changes for one in self.months))


def changes_of(engine: Engine, lake: ShadowLake, marts: Iterable[Mart]) -> Iterator[MartChange]:
    """What differs between the project's marts and those of its shadow."""
    for mart in marts:
        before, after = lake.before(mart_table(mart.name)), lake.state(mart_table(mart.name))
        if after is not None and after != before:
            yield _Compared(engine, mart, before or after.only(()), after).change(before is None)


class _Compared:
    """A mart before and after, cut down to the files that only one of them has."""

    def __init__(self, engine: Engine, mart: Mart, before: TableState, after: TableState) -> None:
        self.engine = engine
        self.mart = mart
        self.before = before
        self.after = after
        there, then = ({file.path for file in state.files} for state in (before, after))
        self.gone = before.only(file for file in before.files if file.path not in then)
        self.new = after.only(file for file in after.files if file.path not in there)
        self.kinds = {one.name: one for one in (*before.fields, *after.fields)}

    def change(self, is_first: bool) -> MartChange:
        mart = self.mart
        names, old = ({one.name for one in state.fields} for state in (self.after, self.before))
        added = removed = changed = None
        rows: tuple[RowChange, ...] = ()
        if mart.key and names >= {*mart.key} and old >= {*mart.key}:
            added, removed, changed, rows = self._rows()
        return MartChange(
            mart.name,
            mart.publish_as,
            self.money,
            tuple(self._months()),
            added,
            removed,
            changed,
            rows,
            is_first,
            tuple(sorted(names - old)) if not is_first else (),
            tuple(sorted(old - names)),
        )

    @property
    def money(self) -> tuple[str, ...]:
        """The mart's columns of money."""
        decimals = (one.name for one in self.after.fields if one.type.scale == _CENTS)
        return tuple(dict.fromkeys((*self.mart.balance.values(), *decimals)))

    def _months(self) -> Iterator[MonthChange]:
        month = self.mart.month
        if month is None or month != next(iter(self.after.partition_by), None):
            before, after = self._totals(self.before), self._totals(self.after)
            yield MonthChange(None, *_both(before.get(None), after.get(None)))
            return
        months = self.gone.months | self.new.months
        before = self._totals(self.before.in_months(months), month)
        after = self._totals(self.after.in_months(months), month)
        for one in sorted(months):
            yield MonthChange(one, *_both(before.get(one), after.get(one)))

    def _totals(
        self, state: TableState, month: str | None = None
    ) -> dict[str | None, tuple[int, dict[str, Decimal]]]:
        """Rows and sums of money by month, or under None for all of it."""
        if not state.files:
            return {}
        fields = {one.name: one.type for one in state.fields}
        money = [name for name in self.money if name in fields]
        sums = "".join(f", {exact_sum(quoted(name), fields[name])}" for name in money)
        of = quoted(month) if month else "NULL"
        rows = self.engine.rows(
            f"SELECT {of} AS _of, count(*){sums} FROM {self.engine.define(state)} GROUP BY 1"
        )
        return {
            one: (
                count,
                {name: exact(said, fields[name]) for name, said in zip(money, found, strict=True)},
            )
            for one, count, *found in rows
        }

    def _rows(self) -> tuple[int, int, int, tuple[RowChange, ...]]:
        """How many rows are added, removed and changed, and the first of them."""
        key = self.mart.key
        both = [one for one in self.after.fields if one in self.before.fields]
        values = [one.name for one in both if one.name not in key]
        joined = self._joined(key)
        differ = " OR ".join(f"o.{quoted(n)} IS DISTINCT FROM n.{quoted(n)}" for n in values)
        changed = f"o._there AND n._there AND ({differ or 'false'})"
        counts = self.engine.rows(
            "SELECT count(*) FILTER (o._there IS NULL), count(*) FILTER (n._there IS NULL),"
            f" count(*) FILTER ({changed}) FROM {joined}"
        )[0]
        added, removed, number = map(int, counts)
        shown = self._shown(joined, both, f"o._there IS NULL OR n._there IS NULL OR ({changed})")
        return added, removed, number, tuple(shown)

    def _joined(self, key: Sequence[str]) -> str:
        old, new = (
            f"(SELECT *, true AS _there FROM {self.engine.define(state)})"
            for state in (self.gone, self.new)
        )
        on = " AND ".join(f"o.{quoted(name)} IS NOT DISTINCT FROM n.{quoted(name)}" for name in key)
        return f"{old} o FULL JOIN {new} n ON {on}"

    def _shown(self, joined: str, both: Sequence[Field], condition: str) -> Iterator[RowChange]:
        key = self.mart.key
        names = [one.name for one in both if one.name not in key]
        money = [name for name in self.money if name in names]
        keys = ", ".join(f"CAST(coalesce(n.{quoted(k)}, o.{quoted(k)}) AS VARCHAR)" for k in key)
        sides = "".join(
            f", CAST({side}.{quoted(name)} AS VARCHAR)" for side in "on" for name in names
        )
        weight = " + ".join(
            f"abs(CAST(coalesce(n.{quoted(name)}, 0) AS DOUBLE)"
            f" - CAST(coalesce(o.{quoted(name)}, 0) AS DOUBLE))"
            for name in money
        )
        order = f"{weight} DESC, {keys}" if weight else keys
        rows = self.engine.rows(
            f"SELECT o._there, n._there, {keys}{sides} FROM {joined} WHERE {condition}"
            f" ORDER BY {order} LIMIT {_SHOWN}"
        )
        for was, is_, *told in rows:
            found = dict(zip(key, told, strict=False))
            before = dict(zip(names, told[len(key) :], strict=False))
            after = dict(zip(names, told[len(key) + len(names) :], strict=True))
            differing = [n for n in names if not (was and is_) or before[n] != after[n]]
            yield RowChange(
                found,
                {name: before[name] for name in differing} if was else None,
                {name: after[name] for name in differing} if is_ else None,
            )


def _both(before: Any, after: Any) -> tuple[int, int, Mapping[str, Decimal], Mapping[str, Decimal]]:
    (rows_before, money_before), (rows_after, money_after) = before or (0, {}), after or (0, {})
    nothing = dict.fromkeys({**money_before, **money_after}, Decimal(0))
    return rows_before, rows_after, {**nothing, **money_before}, {**nothing, **money_after}
