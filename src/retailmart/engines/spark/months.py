"""A query that is run once for each month, told as one query over all months.

Each relation that has months gets one more column, the month; every step of the query keeps it:
rows meet only rows of their month, groups and windows are of one month. To plan, compile and start
a query's parts costs more than most months' rows, so Spark must not do it a month at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from retailmart.engines.spark.files import OF_MONTH

if TYPE_CHECKING:
    import duckdb

Node = dict[str, Any]
_ONE_SIDE = ("SEMI", "ANTI")
# Of these joins, each row that is there belongs to one of the left side.
_LEFT_STAYS = ("INNER", "LEFT", *_ONE_SIDE)
# Nodes as DuckDB tells them.
_ANY: Final = {"alias": "", "query_location": 0}
_COLUMN: Final = {**_ANY, "class": "COLUMN_REF", "type": "COLUMN_REF"}
_EQUAL: Final = {**_ANY, "class": "COMPARISON", "type": "COMPARE_EQUAL"}
_AND: Final = {**_ANY, "class": "CONJUNCTION", "type": "CONJUNCTION_AND"}


class _NotAtOnce(Exception):
    """All months at once might not give what each gives alone."""


@dataclass(frozen=True)
class _Month:
    """How a FROM tells a row's month: the column's path, and the names of the sides that have it.

    The path is only the column's name where sides share it, or theirs is not known.
    """

    path: tuple[str, ...]
    sources: frozenset[str]


def all_at_once(query: str, monthly: Collection[str]) -> str | None:
    """A SELECT that gives for all months what `query` gives for each, and the month, OF_MONTH.

    `monthly` are the relations that have months; they have that column, as their last. None where
    the query is not of a form for which that is certain: then each month needs its own.
    """
    with closing(_duckdb().cursor()) as connection:
        found = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        tree: Node = json.loads(found[0][0])
        if tree.get("error") or len(tree["statements"]) != 1:
            return None
        try:
            names = {name.lower(): True for name in monthly}
            has_month = _Query(_aggregates()).node(tree["statements"][0]["node"], names)
        except _NotAtOnce:
            return None
        if not has_month:
            return None
        told = connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()
        return str(told[0][0])


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config={"threads": 1})


@cache
def _aggregates() -> frozenset[str]:
    found = _duckdb().execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'"
    )
    return frozenset(str(name) for (name,) in found.fetchall())


@dataclass(frozen=True)
class _Query:
    """The parts of one query; each method changes its node in place.

    What is not known here is refused: a new kind of node must not lose its month in silence.
    """

    aggregates: frozenset[str]

    def node(self, node: Node, known: Mapping[str, bool]) -> bool:
        """Give a SELECT its month as its last column, where it has one; whether it has.

        `known` tells of each relation's name whether it has months.
        """
        names = dict(known)
        for entry in node["cte_map"]["map"]:
            inner = entry["value"].get("query_node") or entry["value"]["query"]["node"]
            names[entry["key"].lower()] = self.node(inner, names)
        if node["type"] == "SELECT_NODE":
            return self._select(node, names)
        if node["type"] == "SET_OPERATION_NODE":
            return self._set_operation(node, names)
        raise _NotAtOnce

    def _set_operation(self, node: Node, names: Mapping[str, bool]) -> bool:
        parts = node.get("children") or [node["left"], node["right"]]
        having = {self.node(part, names) for part in parts}
        if having == {False}:
            return False
        self._modifiers(node, None)
        if len(having) > 1:
            raise _NotAtOnce
        return True

    def _select(self, node: Node, names: Mapping[str, bool]) -> bool:
        month = self._source(node["from_table"], names)
        if month is None:
            self._without(node, names, past=("from_table", "cte_map"))
            return False
        if node["sample"] or any(item.get("alias") == OF_MONTH for item in node["select_list"]):
            raise _NotAtOnce
        column = _column(month.path)
        self._modifiers(node, column)
        self._group(node, column)
        for part in ("select_list", "where_clause", "group_expressions", "having", "qualify"):
            self._expressions(node[part], month, names)
        node["select_list"].append({**column, "alias": OF_MONTH})
        return True

    def _group(self, node: Node, column: Node) -> None:
        """Where nothing is grouped by, a month without rows gives one row: not so all at once."""
        sets, items = node["group_sets"], node["select_list"]
        if sets:
            if len(sets) > 1 or not sets[0]:
                raise _NotAtOnce
            sets[0].append(len(node["group_expressions"]))
            node["group_expressions"].append(column)
        elif node["aggregate_handling"] == "FORCE_AGGREGATES":  # GROUP BY ALL
            if all(map(self._aggregates, items)):
                raise _NotAtOnce
        elif node["having"] or any(map(self._aggregates, items)):
            raise _NotAtOnce

    def _aggregates(self, item: Node) -> bool:
        return any(
            node.get("class") == "FUNCTION" and node["function_name"].lower() in self.aggregates
            for node in _nodes(item)
        )

    def _modifiers(self, node: Node, column: Node | None) -> None:
        for modifier in node["modifiers"]:
            if modifier["type"] == "DISTINCT_MODIFIER":
                if modifier["distinct_on_targets"]:
                    if column is None:
                        raise _NotAtOnce
                    modifier["distinct_on_targets"].append(column)
            elif modifier["type"] != "ORDER_MODIFIER":
                raise _NotAtOnce

    def _expressions(self, found: Any, month: _Month, names: Mapping[str, bool]) -> None:
        """Windows are of one month; subqueries may not have months; no row is taken as a value."""
        for node in list(_nodes(found)):
            kind = node.get("class")
            if kind == "WINDOW":
                node["partitions"].append(_column(month.path))
            elif kind == "SUBQUERY":
                if self.node(node["subquery"]["node"], names):
                    raise _NotAtOnce
            elif kind == "STAR":
                self._star(node, month)
            elif kind == "POSITIONAL_REFERENCE" or (
                kind == "COLUMN_REF"
                and len(node["column_names"]) == 1
                and node["column_names"][0].lower() in {*month.sources, OF_MONTH}
            ):
                raise _NotAtOnce

    def _star(self, star: Node, month: _Month) -> None:
        """The month is told once, behind all other columns."""
        if star["columns"]:
            raise _NotAtOnce
        if not star["relation_name"] or star["relation_name"].lower() in month.sources:
            star["exclude_list"].append(OF_MONTH)

    def _without(self, node: Node, names: Mapping[str, bool], past: Collection[str]) -> None:
        """A SELECT that has no month of its own; its expressions must not have any either."""
        parts = {name: part for name, part in node.items() if name not in past}
        for inner in _nodes(parts):
            if inner.get("class") == "SUBQUERY" and self.node(inner["subquery"]["node"], names):
                raise _NotAtOnce

    # what stands behind FROM

    def _source(self, node: Node | None, names: Mapping[str, bool]) -> _Month | None:
        if node is None or node["type"] == "EMPTY":
            return None
        if node.get("sample"):
            raise _NotAtOnce
        if node["type"] == "BASE_TABLE":
            if not names.get(node["table_name"].lower()):
                return None
            return _of(node.get("alias") or node["table_name"])
        if node["type"] == "SUBQUERY":
            if not self.node(node["subquery"]["node"], names):
                return None
            return _of(node.get("alias"))
        if node["type"] == "JOIN":
            return self._join(node, names)
        if node["type"] in ("TABLE_FUNCTION", "EXPRESSION_LIST", "COLUMN_DATA"):
            self._without(node, names, past=())
            return None
        raise _NotAtOnce

    def _join(self, node: Node, names: Mapping[str, bool]) -> _Month | None:
        left, right = self._source(node["left"], names), self._source(node["right"], names)
        self._without(node, names, past=("left", "right"))
        if left is None and right is None:
            return None
        kind, form = node["join_type"], node["ref_type"]
        if form not in ("REGULAR", "CROSS", "NATURAL"):
            raise _NotAtOnce
        if left and right:
            return self._both(node, left, right)
        if kind == "INNER" or (left and kind in _LEFT_STAYS) or (right and kind == "RIGHT"):
            return left or right
        raise _NotAtOnce

    def _both(self, node: Node, left: _Month, right: _Month) -> _Month:
        """Rows meet only rows of their month."""
        if len(left.path) == 1 or len(right.path) == 1:
            raise _NotAtOnce
        together = left.sources | right.sources
        if node["using_columns"] or node["ref_type"] == "NATURAL":
            if node["using_columns"]:
                node["using_columns"].append(OF_MONTH)
            return left if node["join_type"] in _ONE_SIDE else _Month((OF_MONTH,), together)
        if node["join_type"] not in _LEFT_STAYS:
            raise _NotAtOnce
        same = {**_EQUAL, "left": _column(left.path), "right": _column(right.path)}
        if node["condition"] is not None:
            same = {**_AND, "children": [node["condition"], same]}
        node["condition"] = same
        node["ref_type"], node["is_implicit"] = "REGULAR", False
        return left if node["join_type"] in _ONE_SIDE else _Month(left.path, together)


def _of(name: str | None) -> _Month:
    """The month that one relation gives."""
    return (
        _Month((name, OF_MONTH), frozenset([name.lower()]))
        if name
        else _Month((OF_MONTH,), frozenset())
    )


def _column(path: tuple[str, ...]) -> Node:
    return {**_COLUMN, "column_names": list(path)}


def _nodes(found: Any) -> Iterator[Node]:
    """The nodes of an expression and of all within, but not those of the queries it holds."""
    if isinstance(found, list):
        for part in found:
            yield from _nodes(part)
    elif isinstance(found, dict):
        yield found
        for name, part in found.items():
            if name != "subquery":
                yield from _nodes(part)
