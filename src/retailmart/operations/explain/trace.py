"""Find the rows that rows of a mart are made of, down to raw, by asking the mart's own query."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from retailmart.engines.duckdb.sql import sql_type
from retailmart.engines.duckdb.tracing import KEY, TracingEngine, first_key, hashed, tag_of
from retailmart.lake.layout import mart_table
from retailmart.marts.build import by_month
from retailmart.marts.tracing import ADDENDS, WHY, Traced, traced
from retailmart.operations.verify.pin import Pinned
from retailmart.operations.verify.rebuild import Plan
from retailmart.project import Mart, Project
from retailmart.tables import FILE_ID, TableState, quoted, text_literal

_CHOSEN: Final = "keys that were chosen"
# Stands for a refused row, as if it were repaired.
_AS_IF: Final = 255
Months = Collection[str] | None


@dataclass(frozen=True)
class MadeRow:
    """A row of a mart as its query makes it: its columns, and the keys of the rows it is made of.

    `addends` are pairs of keys and an amount, empty where the column is not added up.
    """

    values: Mapping[str, Any]
    keys: frozenset[int]
    addends: tuple[tuple[frozenset[int], Any], ...] = ()


@dataclass
class BaseRows:
    """The rows of feeds and source tables behind some keys, at most so many.

    `rows` maps keys to the table and the row, `counts` are all of them by table; `behind` maps the
    key of a mart's row to the keys of those that it is made of, `through` counts a mart's rows.
    """

    most: int
    rows: dict[int, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    keys: dict[str, set[int]] = field(default_factory=dict)
    behind: dict[int, frozenset[int]] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)

    def under(self, keys: Iterable[int]) -> frozenset[int]:
        """The keys of feeds' and source tables' rows behind keys that may be marts' rows."""
        found: set[int] = set()
        for key in keys:
            below = self.behind.get(key)
            found |= {key} if below is None else self.under(below)
        return frozenset(found)


@dataclass
class Tracing:
    """Traces the marts of a pinned lake. Names of tables stand for what the last call needed."""

    engine: TracingEngine
    project: Project
    pinned: Pinned
    work: Plan
    _tags: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        feeds = [feed for feed, _ in self.work.inputs.unchanged.values()]
        self._by_month = by_month(self.work.order, self.work.reads, feeds)

    # what marts are

    def state(self, mart: Mart) -> TableState:
        """A mart's table in the lake."""
        return self.pinned.tables[mart_table(mart.name)]

    def is_monthly(self, mart: Mart) -> bool:
        """Whether a mart is built month by month."""
        return mart.month is not None and bool(self.work.reads[mart.name] & self._by_month)

    def feeds_below(self, mart: Mart) -> frozenset[str]:
        """The feeds that a mart reads, itself or through other marts."""
        found: set[str] = set()
        for name in self.work.reads[mart.name]:
            if name in self.project.marts:
                found |= self.feeds_below(self.project.marts[name])
            elif name in self.project.feeds:
                found.add(name)
        return frozenset(found)

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns of what a mart reads."""
        if name in self.work.inputs.unchanged:
            fields = self.work.inputs.raw(name)[1].fields
        elif name in self.project.marts:
            fields = self.state(self.project.marts[name]).fields
        else:
            fields = self.work.inputs.tables[name].relations(self.engine)[name].fields
        return tuple(one.name for one in fields)

    def of(self, mart: Mart, column: str | None = None) -> Traced:
        """A mart's query with the keys of rows. Raises Untraceable."""
        tables = {name: self.columns(name) for name in self.work.reads[mart.name]}
        return traced(mart.query, tables, column)

    # what names stand for

    def tag(self, name: str) -> int:
        """The tag in the keys of a table's rows."""
        return self._tags.setdefault(name, len(self._tags) + 1)

    def _name_of(self, tag: int) -> str:
        return next(name for name, one in self._tags.items() if one == tag)

    def _key_of_mart(self, mart: Mart) -> str:
        kinds = {one.name: sql_type(one.type) for one in self.state(mart).fields}
        names = mart.key or tuple(kinds)
        # As the lake has them: a query may count in another type, and equal numbers of two types
        # have two hashes.
        return hashed(self.tag(mart.name), [f"CAST({quoted(n)} AS {kinds[n]})" for n in names])

    def show_rows(self, mart: Mart, month: str | None) -> None:
        """Let `rows of NAME` stand for the rows of all that a mart reads, with their keys.

        Variables are those for which it was built.
        """
        self.engine.set_variables({**self.project.variables, "as_of": self.work.moments[mart.name]})
        for name in self.work.reads[mart.name]:
            rows = rows_of(name)
            months = None if month is None or name not in self._by_month else (month,)
            tag = self.tag(name)
            if name in self.work.inputs.unchanged:
                state = self.work.inputs.raw(name)[1]
                numbers = {file.path: number for number, file in enumerate(state.files)}
                seen = state if months is None else state.in_months(months)
                of_files = [numbers[file.path] for file in seen.files]
                self.engine.keyed(rows, seen, tag, of_files)
                continue
            if name in self.project.marts:
                other = self.project.marts[name]
                state = self.state(other)
                seen = state if months is None else state.in_months(months)
                relation, key = self.engine.define(seen), self._key_of_mart(other)
            else:
                relation = self.work.inputs.tables[name].relations(self.engine)[name]
                key = hashed(tag, [quoted(one.name) for one in relation.fields])
            self.engine.view(rows, f"SELECT *, {key} AS {quoted(KEY)} FROM {relation}")

    def _show(self, mart: Mart, month: str | None) -> None:
        """Let the names that a mart reads stand for rows with WHY, as they were for it."""
        self.show_rows(mart, month)
        key = quoted(KEY)
        for name in self.work.reads[mart.name]:
            text = (
                f"SELECT * EXCLUDE ({key}), [{key}] AS {quoted(WHY)} FROM {quoted(rows_of(name))}"
            )
            self.engine.view(name, text)

    # what rows are made of

    def made(
        self,
        mart: Mart,
        query: Traced,
        month: str | None,
        where: str,
        most: int | None = None,
    ) -> list[MadeRow]:
        """The rows of a mart for which `where` is true, as its query makes them.

        Of more than `most`, the first in the order of the mart's columns.
        """
        self._show(mart, month)
        text = f"SELECT * FROM ({query.query.rstrip('; ')}) AS made WHERE {where}"
        if most is not None:
            order = ", ".join(quoted(one.name) for one in self.state(mart).fields)
            text += f" ORDER BY {order} LIMIT {most:d}"
        return [_made(row) for row in self.engine.dicts(text)]

    def again(self, mart: Mart, month: str | None, keys: Collection[int], where: str) -> list[Any]:
        """The rows that a mart's own query makes of the rows with these keys alone."""
        self.engine.hold(_CHOSEN, keys)
        self.show_rows(mart, month)
        key = quoted(KEY)
        for name in self.work.reads[mart.name]:
            chosen = f"{key} IN (SELECT {key} FROM {quoted(_CHOSEN)})"
            rows = quoted(rows_of(name))
            text = f"SELECT * EXCLUDE ({key}) FROM {rows} WHERE {chosen}"
            self.engine.view(name, text)
        return self.engine.dicts(f"SELECT * FROM (\n{mart.query}\n) AS made WHERE {where}")

    def without_file(self, mart: Mart, month: str | None, feed: str, file: int, where: str) -> Any:
        """The rows that a mart's own query makes without the rows of one file."""
        self.show_rows(mart, month)
        key = quoted(KEY)
        for name in self.work.reads[mart.name]:
            condition = f" WHERE {FILE_ID} <> {file:d}" if name == feed else ""
            text = f"SELECT * EXCLUDE ({key}) FROM {quoted(rows_of(name))}{condition}"
            self.engine.view(name, text)
        return self.engine.dicts(f"SELECT * FROM (\n{mart.query}\n) AS made WHERE {where}")

    def descend(self, mart: Mart, month: str | None, keys: Collection[int], into: BaseRows) -> None:
        """Find the rows behind keys of what a mart reads, through other marts down to raw.

        Raises Untraceable if another mart's rows can't be told apart.
        """
        by_name: dict[str, set[int]] = {}
        for key in keys:
            by_name.setdefault(self._name_of(tag_of(key)), set()).add(key)
        self.show_rows(mart, month)
        inner = {n: k for n, k in by_name.items() if n in self.project.marts}
        for name, wanted in by_name.items():
            if name not in inner:
                self._fetch(name, wanted, into)
        for name, wanted in inner.items():
            new = wanted - into.behind.keys()
            into.through[name] = into.through.get(name, 0) + len(new)
            if new:
                self.show_rows(mart, month)
                self._into(self.project.marts[name], new, into)

    def _fetch(self, name: str, wanted: set[int], into: BaseRows) -> None:
        known = into.keys.setdefault(name, set())
        new = wanted - known
        known |= new
        room = into.most - len(into.rows)
        if not new or room <= 0:
            return
        self.engine.hold(_CHOSEN, new)
        key = quoted(KEY)
        rows, chosen = quoted(rows_of(name)), f"{key} IN (SELECT {key} FROM {quoted(_CHOSEN)})"
        found = self.engine.dicts(
            f"SELECT * FROM {rows} WHERE {chosen} ORDER BY {key} LIMIT {room:d}"
        )
        for row in found:
            into.rows[row.pop(KEY)] = (name, row)

    def _into(self, mart: Mart, wanted: set[int], into: BaseRows) -> None:
        query, own = self.of(mart), self._key_of_mart(mart)
        months: list[str | None] = [None]
        chosen = f"IN (SELECT {quoted(KEY)} FROM {quoted(_CHOSEN)})"
        self.engine.hold(_CHOSEN, wanted)
        if self.is_monthly(mart) and mart.month is not None:
            found = self.engine.rows(
                f"SELECT DISTINCT {quoted(mart.month)} FROM {quoted(rows_of(mart.name))}"
                f" WHERE {quoted(KEY)} {chosen} ORDER BY 1"
            )
            months = [str(month) for (month,) in found]
        for month in months:
            self.engine.hold(_CHOSEN, wanted)
            self._show(mart, month)
            text = (
                f"SELECT {own} AS {quoted(KEY)}, {quoted(WHY)}"
                f" FROM ({query.query.rstrip('; ')}) AS made WHERE {own} {chosen}"
            )
            below: set[int] = set()
            for row in self.engine.dicts(text):
                keys = frozenset(row[WHY])
                into.behind[row[KEY]] = into.behind.get(row[KEY], frozenset()) | keys
                below |= keys
            self.descend(mart, month, below, into)

    # what would count

    def would_count(
        self, mart: Mart, months: Months, query: Traced, as_if: Mapping[str, str], where: str
    ) -> list[MadeRow]:
        """The rows of a mart if refused rows counted, with their keys only.

        `as_if` are queries of such rows by feed: the columns of raw, and KEY from 0 on. Raises
        Untraceable.
        """
        self.engine.set_variables({**self.project.variables, "as_of": self.work.moments[mart.name]})
        self._show_as_if(mart, months, as_if, set())
        text = f"SELECT * FROM ({query.query.rstrip('; ')}) AS made WHERE {where}"
        return [_made(row) for row in self.engine.dicts(text)]

    def _show_as_if(
        self, mart: Mart, months: Months, as_if: Mapping[str, str], shown: set[str]
    ) -> None:
        none, why, key = f"CAST([] AS UBIGINT[]) AS {quoted(WHY)}", quoted(WHY), quoted(KEY)
        for name in self.work.reads[mart.name] - shown:
            shown.add(name)
            if name in self.project.marts:
                other = self.project.marts[name]
                self._show_as_if(other, months, as_if, shown)
                self.engine.view(name, self.of(other).query.rstrip("; "))
                continue
            if name in self.work.inputs.tables:
                relation = self.work.inputs.tables[name].relations(self.engine)[name]
                self.engine.view(name, f"SELECT *, {none} FROM {relation}")
                continue
            state = self.work.inputs.raw(name)[1]
            if months is not None and name in self._by_month:
                state = state.in_months(months)
            text = f"SELECT *, {none} FROM {self.engine.define(state)}"
            if name in as_if:
                tagged = f"[CAST({first_key(_AS_IF)} AS UBIGINT) + {key}] AS {why}"
                text += (
                    f" UNION ALL BY NAME SELECT * EXCLUDE ({key}), {tagged} FROM ({as_if[name]})"
                )
            self.engine.view(name, text)


def as_if_numbers(keys: Iterable[int]) -> set[int]:
    """The numbers of refused rows among keys."""
    return {key - first_key(_AS_IF) for key in keys if tag_of(key) == _AS_IF}


def rows_of(name: str) -> str:
    """The name of a table's rows with their keys."""
    return f"rows of {name}"


def condition(values: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    """SQL of `made` rows whose columns have these values; `kinds` are their types in SQL."""
    parts = ["true"]
    for name, value in values.items():
        column = f"made.{quoted(name)}"
        if value is None:
            parts.append(f"{column} IS NULL")
        else:
            parts.append(f"{column} = CAST({text_literal(text_of(value))} AS {kinds[name]})")
    return " AND ".join(parts)


def text_of(value: Any) -> str:
    """A value as text that a cast reads back."""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _made(row: dict[str, Any]) -> MadeRow:
    keys = frozenset(row.pop(WHY) or ())
    added: Sequence[Mapping[str, Any]] = row.pop(ADDENDS, None) or ()
    addends = tuple((frozenset(one["w"] or ()), one["a"]) for one in added)
    return MadeRow(row, keys, addends)
