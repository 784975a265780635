"""A mart's query so changed that each row also says which rows it was made of.

Each relation that the query reads has a column WHY: a list of the keys of rows. A join puts the
lists of its sides together, a GROUP BY those of a group's rows, so the result has the rows that
went into each of its rows. Rows that were only compared with (those of a window, of an EXISTS, of
one total over all rows) are not among them: `compares` tells of them in words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from retailmart.engines.parsing import text_of, tree_of
from retailmart.marts.splitting.tree import (
    AGGREGATES,
    Node,
    common_tables,
    function_name,
    nodes,
    parts,
    statement,
)
from retailmart.tables import quoted

# Both contain a blank, so that no column of a user has such a name.
WHY: Final = "why it is"
ADDENDS: Final = "what was added"
_KEYS: Final = "UBIGINT[]"
_NONE: Final = f"CAST([] AS {_KEYS})"
_HIDDEN_RIGHT: Final = ("SEMI", "ANTI")
_ADDING: Final = {
    "sum": "sum",
    "count": "count",
    "count_star": "count",
    "min": "min",
    "max": "max",
}


class Untraceable(Exception):
    """The query does something after which its rows can't be told apart; the text says what."""


@dataclass(frozen=True)
class Traced:
    """A query whose rows have the column WHY, and ADDENDS if `adds` is not None.

    ADDENDS is a list of `{w: keys, a: amount}`, one for each row that an aggregate took; `adds` is
    the aggregate: sum, count, count distinct, min or max. `compares` says with what else the column
    is compared.
    """

    query: str
    column: str = ""
    adds: str | None = None
    compares: tuple[str, ...] = ()


def traced(query: str, tables: Mapping[str, Sequence[str]], column: str | None = None) -> Traced:
    """The query with the rows that each of its rows is made of. Raises Untraceable.

    `tables` are the columns of all that it reads, by name; each has WHY besides. `column` is the
    one whose addends are wanted.
    """
    node = statement(tree_of(query))
    if node is None:
        raise Untraceable("it is not one SELECT")
    known = {name.lower(): tuple(columns) for name, columns in tables.items()}
    plain = _Tracer(known).query(copy.deepcopy(node), frozenset())
    if column is None:
        return Traced(_text(plain))
    adding = copy.deepcopy(plain)
    adds = _Adder(known).add(adding, column, {})
    compares = tuple(dict.fromkeys(_Reader(known).compares(node, column, {})))
    return Traced(_text(adding if adds else plain), column, adds, compares)


def _text(node: Node) -> str:
    return text_of({"error": False, "statements": [{"node": node, "named_param_map": []}]})


def _expression(text: str, **placed: Node) -> Node:
    """The tree of an expression; a column named as one of `placed` is replaced by that tree."""
    found = statement(tree_of(f"SELECT {text}"))
    if found is None:
        raise Untraceable(f"{text} is not understood")
    made: Node = _with(copy.deepcopy(found["select_list"][0]), placed)
    return made


def _with(found: Any, placed: Mapping[str, Node]) -> Any:
    if isinstance(found, list):
        return [_with(one, placed) for one in found]
    if not isinstance(found, dict):
        return found
    names: Sequence[str] = found.get("column_names") or ()
    if found.get("class") == "COLUMN_REF" and len(names) == 1 and names[0] in placed:
        return copy.deepcopy(placed[names[0]])
    return {name: _with(value, placed) for name, value in found.items()}


def _is_aggregated(node: Node) -> bool:
    """Whether a SELECT puts rows together."""
    if node["group_expressions"] or node["aggregate_handling"] == "FORCE_AGGREGATES":
        return True
    return _is_total(node)


def _is_total(node: Node) -> bool:
    """Whether a SELECT aggregates all rows into one."""
    if node["group_expressions"] or node["aggregate_handling"] == "FORCE_AGGREGATES":
        return False
    places = (node["select_list"], node["having"], node["qualify"], node["modifiers"])
    return any(
        one.get("class") == "FUNCTION" and function_name(one) in AGGREGATES
        for one in nodes(list(places))
    )


def _alias(leaf: Node) -> str:
    return str(leaf.get("alias") or leaf.get("table_name") or "")


def _inner(entry: Node) -> Node:
    value: Node = entry["value"]
    inner: Node = value.get("query_node") or value["query"]["node"]
    return inner


@dataclass(frozen=True)
class _Tracer:
    """Changes a query in place. `known` are the relations that have WHY."""

    known: Mapping[str, Sequence[str]]
    _numbers: Iterator[int] = field(default_factory=count)

    def query(self, node: Node, outer: frozenset[str]) -> Node:
        """The query with WHY as its last column. `outer` are the WITH names it can read."""
        names = outer
        for entry in node["cte_map"]["map"]:
            made = self.query(_inner(entry), names)
            value = entry["value"]
            if value.get("query_node"):
                value["query_node"] = made
            else:
                value["query"]["node"] = made
            names |= {str(entry["key"]).lower()}
        if node["type"] == "SELECT_NODE":
            return self._select(node, names)
        if node["type"] == "SET_OPERATION_NODE" and node["setop_type"].startswith("UNION"):
            return self._union(node, names)
        word = str(node.get("setop_type") or node["type"]).partition("_")[0]
        raise Untraceable(f"it uses {word}")

    def _union(self, node: Node, names: frozenset[str]) -> Node:
        made = [self.query(part, names) for part in parts(node)]
        if node.get("children"):
            node["children"] = made
        else:
            node["left"], node["right"] = made
        if node["setop_all"]:
            return node
        node["setop_all"] = True
        return self._distinct(node)

    def _distinct(self, node: Node) -> Node:
        """One row of equal ones, made of the rows of all of them."""
        if node["modifiers"]:
            raise Untraceable("it sorts or cuts off what DISTINCT leaves")
        name = quoted(WHY)
        text = (
            f"SELECT * EXCLUDE ({name}), list_distinct(flatten(list({name}))) AS {name}"
            " FROM (SELECT 1) AS each_row GROUP BY ALL"
        )
        outer = copy.deepcopy(statement(tree_of(text)))
        if outer is None:
            raise Untraceable("it uses DISTINCT")
        outer["from_table"]["subquery"]["node"] = node
        outer["cte_map"], node["cte_map"] = node["cte_map"], {"map": []}
        return outer

    def _select(self, node: Node, names: frozenset[str]) -> Node:
        leaves = list(self._sources(node["from_table"], names))
        for one in nodes([node["select_list"], node["having"], node["qualify"]]):
            if one.get("class") == "STAR" and (one.get("columns") or one.get("expr")):
                raise Untraceable("it uses COLUMNS(…)")
        for item in node["select_list"]:
            if item.get("class") == "STAR":
                of = str(item["relation_name"]).lower()
                if any(of in ("", leaf.lower()) for leaf in leaves):
                    item["exclude_list"] = [*item["exclude_list"], WHY]
        node["select_list"].append(self._why(node, leaves))
        distinct = [one for one in node["modifiers"] if one["type"] == "DISTINCT_MODIFIER"]
        if any(not one["distinct_on_targets"] for one in distinct):
            node["modifiers"] = [one for one in node["modifiers"] if one not in distinct]
            return self._distinct(node)
        return node

    def _why(self, node: Node, leaves: Sequence[str]) -> Node:
        name = quoted(WHY)
        # One total over all rows would give each row that it is compared with the keys of all.
        if not leaves or _is_total(node):
            return _expression(f"{_NONE} AS {name}")
        lists = ", ".join(f"{quoted(leaf)}.{name}" for leaf in leaves)
        own = f"coalesce({f'list_concat({lists})' if len(leaves) > 1 else lists}, {_NONE})"
        if _is_aggregated(node):
            own = f"list_distinct(flatten(list({own})))"
        return _expression(f"{own} AS {name}")

    def _sources(self, source: Node, names: frozenset[str]) -> Iterator[str]:
        """The aliases in FROM that have WHY."""
        kind = source["type"]
        if source.get("sample"):
            raise Untraceable("it uses TABLESAMPLE")
        if kind == "JOIN":
            if source["ref_type"] == "NATURAL":
                raise Untraceable("it uses NATURAL JOIN")
            yield from self._sources(source["left"], names)
            right = list(self._sources(source["right"], names))
            yield from right if source["join_type"] not in _HIDDEN_RIGHT else ()
        elif kind == "BASE_TABLE":
            if str(source["table_name"]).lower() not in names | self.known.keys():
                raise Untraceable(f"it reads {source['table_name']}")
            yield _alias(source)
        elif kind == "SUBQUERY":
            inner = source["subquery"]
            inner["node"] = self.query(inner["node"], names)
            if not source.get("alias"):
                source["alias"] = f"subquery {next(self._numbers)}"
            yield _alias(source)
        elif kind not in ("EMPTY", "TABLE_FUNCTION", "EXPRESSION_LIST"):
            raise Untraceable(f"it uses {kind}")


@dataclass(frozen=True)
class _Reader:
    """Finds columns by name through the queries of a query."""

    known: Mapping[str, Sequence[str]]

    def within(self, node: Node, ctes: Mapping[str, Node]) -> dict[str, Node]:
        """The WITH names that a query's parts can read."""
        return {**ctes, **{name: inner for name, inner, _ in common_tables(node)}}

    def leaves(self, source: Node) -> Iterator[Node]:
        """The sources in FROM."""
        if source["type"] == "JOIN":
            yield from self.leaves(source["left"])
            yield from self.leaves(source["right"])
        elif source["type"] in ("BASE_TABLE", "SUBQUERY"):
            yield source

    def query_of(self, leaf: Node, ctes: Mapping[str, Node]) -> Node | None:
        """The query that a source is; None for a table."""
        if leaf["type"] == "SUBQUERY":
            inner: Node = leaf["subquery"]["node"]
            return inner
        return ctes.get(str(leaf["table_name"]).lower())

    def names(self, node: Node, ctes: Mapping[str, Node]) -> list[str]:
        """The columns that a query gives, in lower case."""
        if node["type"] != "SELECT_NODE":
            return self.names(parts(node)[0], self.within(node, ctes))
        ctes = self.within(node, ctes)
        found: list[str] = []
        for item in node["select_list"]:
            if item.get("class") == "STAR":
                left_out = {str(name).lower() for name in item["exclude_list"]}
                for leaf in self._covered(item, node):
                    found += [n for n in self.of_leaf(leaf, ctes) if n not in left_out]
            else:
                found.append(_name(item))
        return found

    def of_leaf(self, leaf: Node, ctes: Mapping[str, Node]) -> list[str]:
        """The columns of a source, in lower case."""
        if leaf.get("column_name_alias"):
            return []
        inner = self.query_of(leaf, ctes)
        if inner is not None:
            # A WITH name is not visible in its own body.
            own = {k: v for k, v in ctes.items() if v is not inner}
            return self.names(inner, own)
        return [name.lower() for name in self.known.get(str(leaf["table_name"]).lower(), ())]

    def _covered(self, star: Node, node: Node) -> Iterator[Node]:
        of = str(star["relation_name"]).lower()
        for leaf in self.leaves(node["from_table"]):
            if of in ("", _alias(leaf).lower()):
                yield leaf

    def leaf_with(
        self, path: Sequence[str], node: Node, ctes: Mapping[str, Node]
    ) -> tuple[Node, str] | None:
        """The source that a column's name means, and its name there; None if that is not known."""
        name = str(path[-1]).lower()
        for leaf in self.leaves(node["from_table"]):
            if len(path) > 1 and _alias(leaf).lower() != str(path[-2]).lower():
                continue
            if name in self.of_leaf(leaf, ctes):
                return leaf, name
        return None

    def item(
        self, node: Node, column: str, ctes: Mapping[str, Node]
    ) -> Node | tuple[Node, str] | None:
        """What a SELECT gives as a column: an expression, or a column of a source by `*`."""
        low = column.lower()
        for one in node["select_list"]:
            if one.get("class") != "STAR" and _name(one) == low:
                found: Node = one
                return found
        for one in node["select_list"]:
            if one.get("class") != "STAR":
                continue
            if low in {str(name).lower() for name in one["exclude_list"]}:
                continue
            for leaf in self._covered(one, node):
                if low in self.of_leaf(leaf, ctes):
                    return leaf, low
        return None

    def compares(self, node: Node, column: str, ctes: Mapping[str, Node]) -> Iterator[str]:
        """With what rows a column is compared besides those that it is made of, in SQL."""
        if node["type"] != "SELECT_NODE":
            for part in parts(node) if node["type"] == "SET_OPERATION_NODE" else ():
                yield from self.compares(part, column, self.within(node, ctes))
            return
        ctes = self.within(node, ctes)
        found = self.item(node, column, ctes)
        if isinstance(found, tuple):
            yield from self._of_leaf(found, ctes)
        elif found is not None:
            yield from self._of(found, node, ctes)

    def _of(self, expression: Node, node: Node, ctes: Mapping[str, Node]) -> Iterator[str]:
        for one in nodes(expression):
            if one.get("class") == "WINDOW" or one.get("class") == "SUBQUERY":
                shown = copy.deepcopy(one)
                shown["alias"] = ""
                yield _said(shown)
            if one.get("class") == "COLUMN_REF":
                meant = self.leaf_with(one["column_names"], node, ctes)
                if meant is not None:
                    yield from self._of_leaf(meant, ctes)

    def _of_leaf(self, meant: tuple[Node, str], ctes: Mapping[str, Node]) -> Iterator[str]:
        leaf, name = meant
        inner = self.query_of(leaf, ctes)
        if inner is None:
            return
        own = {k: v for k, v in ctes.items() if v is not inner}
        if inner["type"] == "SELECT_NODE" and _is_total(inner):
            found = self.item(inner, name, self.within(inner, own))
            if isinstance(found, dict):
                yield _said({**copy.deepcopy(found), "alias": ""})
        yield from self.compares(inner, name, own)


@dataclass(frozen=True)
class _Adder(_Reader):
    """Lets a traced query also give the addends of one column."""

    def add(self, node: Node, column: str, ctes: Mapping[str, Node]) -> str | None:
        """Append ADDENDS, and say what adds them; None where the column is not a sum or count."""
        if node["type"] != "SELECT_NODE":
            return None
        ctes = self.within(node, ctes)
        found = self.item(node, column, ctes)
        if found is None:
            return None
        if isinstance(found, tuple):
            return self._through(found, node, ctes)
        inner = _stripped(found)
        if inner.get("class") == "COLUMN_REF":
            meant = self.leaf_with(inner["column_names"], node, ctes)
            return None if meant is None else self._through(meant, node, ctes)
        if inner.get("class") != "FUNCTION" or function_name(inner) not in _ADDING:
            return None
        return self._aggregate(inner, node)

    def _through(self, meant: tuple[Node, str], node: Node, ctes: Mapping[str, Node]) -> str | None:
        """The addends of a column that is another query's, row by row."""
        leaf, name = meant
        inner = self.query_of(leaf, ctes)
        if inner is None or _is_aggregated(node):
            return None
        own = {k: v for k, v in ctes.items() if v is not inner}
        adds = self.add(inner, name, own)
        if adds is not None:
            for item in node["select_list"]:
                if item.get("class") == "STAR":
                    of = str(item["relation_name"]).lower()
                    if of in ("", _alias(leaf).lower()):
                        item["exclude_list"] = [*item["exclude_list"], ADDENDS]
            name_of = f"{quoted(_alias(leaf))}.{quoted(ADDENDS)}"
            node["select_list"].append(_expression(f"{name_of} AS {quoted(ADDENDS)}"))
        return adds

    def _aggregate(self, call: Node, node: Node) -> str | None:
        if _is_total(node):
            return None
        kind = _ADDING[function_name(call)]
        arguments = [one["expression"] for one in call["arguments"]]
        if len(arguments) != (function_name(call) != "count_star"):
            return None
        lists = _own_why(node["select_list"][-1])
        if lists is None:
            return None
        if call["distinct"]:
            kind = f"{kind} distinct"
        # A row counts as 1, if the value that is counted is not NULL.
        made = _expression(
            f"list({{'w': w, 'a': {'1' if kind == 'count' else 'a'}}})"
            f" FILTER (WHERE a IS NOT NULL) AS {quoted(ADDENDS)}",
            w=lists,
            a=arguments[0] if arguments else _expression("1"),
        )
        if call["filter"] is not None:
            both = _expression("a AND b", a=call["filter"], b=made["filter"])
            made["filter"] = both
        node["select_list"].append(made)
        return kind


def _own_why(item: Node) -> Node | None:
    """The list of one row, of the expression that puts the lists of a group together."""
    for one in nodes(item):
        if one.get("class") == "FUNCTION" and function_name(one) == "list":
            own: Node = one["arguments"][0]["expression"]
            return own
    return None


def _stripped(item: Node) -> Node:
    """An expression without casts, and without what stands for a missing value."""
    found = item
    while True:
        if found.get("class") == "CAST":
            found = found["child"]
        elif found.get("type") == "OPERATOR_COALESCE" and all(
            one.get("class") in ("CONSTANT", "CAST") for one in found["children"][1:]
        ):
            found = found["children"][0]
        else:
            return found


def _name(item: Node) -> str:
    if item.get("alias"):
        return str(item["alias"]).lower()
    if item.get("class") == "COLUMN_REF":
        return str(item["column_names"][-1]).lower()
    return ""


def _said(expression: Node) -> str:
    """An expression as SQL."""
    node = copy.deepcopy(statement(tree_of("SELECT 1")))
    if node is None:
        return ""
    node["select_list"] = [expression]
    return _text(node).removeprefix("SELECT ").removesuffix(";").strip()
