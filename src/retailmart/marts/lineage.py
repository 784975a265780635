"""Which columns of which tables each column of a mart is made of, by the parsed query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from retailmart.engines.parsing import tree_of
from retailmart.marts.splitting.tree import (
    AGGREGATES,
    Node,
    common_tables,
    function_name,
    nodes,
    parts,
    statement,
)

How = Literal["IDENTITY", "TRANSFORMATION", "AGGREGATION", "FILTER", "JOIN", "GROUP_BY", "SORT"]
# From the weakest: a column of a column is as its strongest step.
_STRENGTH = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")


@dataclass(frozen=True, order=True)
class Origin:
    """A column of a table, and what a query does with it."""

    table: str
    column: str
    how: How


@dataclass(frozen=True)
class ColumnOrigins:
    """Of what each column is made; and what decides which rows there are, for all columns."""

    columns: Mapping[str, frozenset[Origin]] = field(default_factory=dict)
    rows: frozenset[Origin] = frozenset()


def origins_of(query: str, tables: Mapping[str, Sequence[str]]) -> ColumnOrigins:
    """The origins of a query's columns. `tables` are the columns of what it reads, by name.

    What the tree does not show, as the columns of a table function, has no origin.
    """
    node = statement(tree_of(query))
    if node is None:
        return ColumnOrigins()
    known = {name.lower(): _table(name, names) for name, names in tables.items()}
    found = _Query(known).read(node)
    columns = {one.name: one.origins for one in found.columns}
    return ColumnOrigins(columns, found.rows)


@dataclass(frozen=True)
class _Column:
    name: str
    origins: frozenset[Origin]


@dataclass(frozen=True)
class _Relation:
    """What can be selected from: its columns, and what decided its rows."""

    columns: tuple[_Column, ...] = ()
    rows: frozenset[Origin] = frozenset()

    def named(self, names: Sequence[str]) -> _Relation:
        """The same with other names for its first columns."""
        renamed = [
            replace(column, name=names[n]) if n < len(names) else column
            for n, column in enumerate(self.columns)
        ]
        return replace(self, columns=tuple(renamed))


def _table(name: str, columns: Sequence[str]) -> _Relation:
    return _Relation(
        tuple(_Column(one, frozenset({Origin(name, one, "IDENTITY")})) for one in columns)
    )


class _Query:
    """Reads queries; `known` are the relations that FROM can name, `outer` an outer query's."""

    def __init__(
        self, known: Mapping[str, _Relation], outer: Sequence[tuple[str, _Relation]] = ()
    ) -> None:
        self._known = dict(known)
        self._outer = tuple(outer)

    def read(self, node: Node) -> _Relation:
        """The columns and rows that a query gives."""
        inner = _Query(self._known, self._outer)
        for name, query, aliases in common_tables(node):
            inner._known[name] = inner.read(query).named(aliases)
        if node["type"] != "SELECT_NODE":
            return inner._united([inner.read(part) for part in parts(node)])
        return inner._select(node)

    def _united(self, found: Sequence[_Relation]) -> _Relation:
        """The rows of several queries, column by column."""
        first = found[0]
        columns = tuple(
            _Column(
                column.name,
                frozenset().union(
                    *(one.columns[n].origins for one in found if n < len(one.columns))
                ),
            )
            for n, column in enumerate(first.columns)
        )
        return _Relation(columns, frozenset().union(*(one.rows for one in found)))

    def _select(self, node: Node) -> _Relation:
        rows: set[Origin] = set()
        sources = list(self._sources(node["from_table"], rows))
        for _, relation in sources:
            rows |= relation.rows
        given: dict[str, frozenset[Origin]] = {}
        columns: list[_Column] = []
        for number, item in enumerate(node["select_list"]):
            if item.get("class") == "STAR":
                columns += self._star(item, sources, given)
                continue
            name = item.get("alias") or _name_of(item) or f"column {number}"
            origins = self._of(item, sources, given)
            columns.append(_Column(name, origins))
            if item.get("alias"):
                given.setdefault(name.lower(), origins)
        for clause, how in (
            ("where_clause", "FILTER"),
            ("having", "FILTER"),
            ("qualify", "FILTER"),
            ("group_expressions", "GROUP_BY"),
        ):
            rows |= _as(self._of(node.get(clause), sources, given), how)
        return _Relation(tuple(columns), frozenset(rows))

    def _sources(self, source: Node, rows: set[Origin]) -> Iterator[tuple[str, _Relation]]:
        """The relations of a FROM, by the names that expressions use."""
        kind = source["type"]
        alias = str(source.get("alias") or source.get("table_name") or "").lower()
        names = source.get("column_name_alias") or ()
        if kind == "JOIN":
            both = [
                *self._sources(source["left"], rows),
                *self._sources(source["right"], rows),
            ]
            rows |= _as(self._of(source.get("condition"), both, {}), "JOIN")
            for name in source.get("using_columns") or ():
                for _, relation in both:
                    for column in relation.columns:
                        if column.name.lower() == name.lower():
                            rows |= _as(column.origins, "JOIN")
            yield from both
        elif kind == "BASE_TABLE":
            name = str(source["table_name"]).lower()
            yield alias, self._known.get(name, _Relation()).named(names)
        elif kind == "SUBQUERY":
            query = source["subquery"]["node"]
            yield alias, self.read(query).named(names)
        elif source.get("source"):  # PIVOT and others around one relation
            inner = list(self._sources(source["source"], rows))
            yield alias, _Relation(tuple(c for _, one in inner for c in one.columns))

    def _star(
        self,
        item: Node,
        sources: Sequence[tuple[str, _Relation]],
        given: Mapping[str, frozenset[Origin]],
    ) -> Iterator[_Column]:
        """The columns that `*` gives; those that USING makes one are given once."""
        left_out = {str(name).lower() for name in item.get("exclude_list") or ()}
        replaced = {str(one["key"]).lower(): one["value"] for one in item.get("replace_list") or ()}
        renamed = {_renamed(one["key"]): str(one["value"]) for one in item.get("rename_list") or ()}
        of = str(item.get("relation_name") or "").lower()
        seen: set[str] = set()
        for alias, relation in sources:
            if of and alias != of:
                continue
            for column in relation.columns:
                low = column.name.lower()
                if low in left_out or low in seen:
                    continue
                seen.add(low)
                origins = column.origins
                if low in replaced:
                    origins = self._of(replaced[low], sources, given)
                yield _Column(renamed.get(low, column.name), origins)

    def _of(
        self,
        found: Any,
        sources: Sequence[tuple[str, _Relation]],
        given: Mapping[str, frozenset[Origin]],
    ) -> frozenset[Origin]:
        """The origins of an expression, those of the queries in it too."""
        if not found:
            return frozenset()
        origins: set[Origin] = set()
        direct = isinstance(found, dict) and found.get("class") == "COLUMN_REF"
        how: How = "IDENTITY" if direct else "TRANSFORMATION"
        if any(_is_aggregate(node) for node in nodes(found)):
            how = "AGGREGATION"
        for node in nodes(found):
            if node.get("class") == "COLUMN_REF":
                origins |= self._column(node["column_names"], sources, given)
            elif node.get("class") == "STAR":
                for _, relation in sources:
                    for column in relation.columns:
                        origins |= column.origins
            elif node.get("class") == "SUBQUERY":
                inner = _Query(self._known, (*sources, *self._outer)).read(node["subquery"]["node"])
                for column in inner.columns:
                    origins |= column.origins
        return frozenset(_stronger(origin, how) for origin in origins)

    def _column(
        self,
        path: Sequence[str],
        sources: Sequence[tuple[str, _Relation]],
        given: Mapping[str, frozenset[Origin]],
    ) -> frozenset[Origin]:
        names = [name.lower() for name in path]
        found: set[Origin] = set()
        for scope in (sources, self._outer):
            for alias, relation in scope:
                wanted = names[1] if len(names) > 1 and names[0] == alias else names[0]
                if len(names) > 1 and names[0] != alias and any(a == names[0] for a, _ in scope):
                    continue
                for column in relation.columns:
                    if column.name.lower() == wanted:
                        found |= column.origins
            if found:
                return frozenset(found)
            if scope is sources and names[0] in given:
                return given[names[0]]
        return frozenset()


def _renamed(key: Any) -> str:
    """The column of a RENAME, with or without its table."""
    return str(key["column"] if isinstance(key, dict) else key).lower()


def _name_of(item: Node) -> str | None:
    return str(item["column_names"][-1]) if item.get("class") == "COLUMN_REF" else None


def _is_aggregate(node: Node) -> bool:
    return node.get("class") == "WINDOW" or (
        node.get("class") == "FUNCTION" and function_name(node) in AGGREGATES
    )


def _stronger(origin: Origin, how: How) -> Origin:
    if origin.how in _STRENGTH and how in _STRENGTH:
        return replace(origin, how=max(origin.how, how, key=_STRENGTH.index))
    return replace(origin, how=how)


def _as(origins: Iterable[Origin], how: str) -> frozenset[Origin]:
    return frozenset(Origin(one.table, one.column, how) for one in origins)  # type: ignore[arg-type]
