"""Whether a query takes the rows of one relation one by one, so that it can be cut anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from retailmart.marts.splitting.tree import (
    AGGREGATES,
    ROW_FUNCTIONS,
    Node,
    common_tables,
    function_name,
    nodes,
    parts,
    statement,
    words,
)

# Of these joins, each row of the result belongs to one row of the left side.
_LEFT_IS_KEPT: Final = ("INNER", "LEFT", "SEMI", "ANTI")
_RIGHT_IS_KEPT: Final = ("INNER", "RIGHT")
_PLAIN_JOINS: Final = ("REGULAR", "CROSS", "NATURAL")
_ROW_CLASSES: Final = words(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR"
    " POSITIONAL_REFERENCE STAR SUBQUERY TYPE"
)
# A scan gives these without a column of that name; they depend on its file, or on the clock.
_NOT_COLUMNS: Final = words(
    "rowid filename file_index file_row_number current_date current_time current_timestamp"
    " current_localtime current_localtimestamp localtime localtimestamp"
)
_SELECT_KEYS: Final = words(
    "type modifiers cte_map select_list from_table where_clause group_expressions group_sets"
    " aggregate_handling having sample qualify"
)
# Not among them, as they are never read: `sample`, `at_clause`, a `ranking_expression`.
_SOURCE_KEYS: Final = words(
    "type alias column_name_alias query_location query_location_length qualified_name table_name"
    " catalog_name schema_name subquery function with_ordinality values expected_types"
    " expected_names left right condition join_type ref_type using_columns is_implicit"
    " nearest_count nearest_order_type"
)


class _NotCertain(Exception):
    """The parts might not give what the whole gives."""


def row_by_row(
    tree: Mapping[str, Any], splittable: Collection[str], functions: Collection[str] = ()
) -> str | None:
    """The relation whose rows can be cut into any parts, as the query takes each row by itself.

    The queries of the parts, put together, give the rows of the whole. `tree` is what
    json_serialize_sql gives of one SELECT. The first of `splittable` that can be cut is returned,
    so put the largest first. `functions` are those of the user. None if it is not certain.
    """
    query = statement(tree)
    known = ROW_FUNCTIONS | {name.lower() for name in functions}
    for relation in splittable if query else ():
        try:
            if query and _Reader(relation.lower(), known).query(query, {}):
                return relation
        except (_NotCertain, KeyError):  # a KeyError: another DuckDB's tree
            continue
    return None


@dataclass(frozen=True)
class _Reader:
    """Whether each part of a query takes the rows of `relation` one by one, or reads none.

    Two parts cannot both read it: whatever joins them is refused. Anything unknown is refused, as a
    later DuckDB may have more kinds of nodes.
    """

    relation: str
    functions: frozenset[str]

    def query(self, node: Node, outer: Mapping[str, bool], selected: bool = False) -> bool:
        """Whether a query takes the relation's rows one by one; False if it reads none.

        `outer` says the same of each WITH name. `selected`: it is within a list of selected
        values, where an aggregate of outer columns would be one of the outer query's rows.
        """
        names = dict(outer)
        for name, inner, _ in common_tables(node):
            body_names = names
            if inner["type"] == "RECURSIVE_CTE_NODE":
                body_names = {**names, name: False}
            names[name] = self.query(inner, body_names, selected)
        if node["type"] == "SELECT_NODE":
            return self._select(node, names, selected)
        if node["type"] not in ("SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"):
            raise _NotCertain
        if any(self.query(part, names, selected) for part in parts(node)):
            raise _NotCertain  # the other part's rows would come once for each cut
        self._modifiers(node, names, selected)
        return False

    def _select(self, node: Node, names: Mapping[str, bool], selected: bool) -> bool:
        if node["sample"] or any(node[key] for key in node.keys() - _SELECT_KEYS):
            raise _NotCertain
        reads = self._source(node["from_table"], names, selected)
        if reads and (node["group_sets"] or node["having"] or node["qualify"]):
            raise _NotCertain
        if reads and node["aggregate_handling"] != "STANDARD_HANDLING":  # GROUP BY ALL
            raise _NotCertain
        if reads and any(each["type"] != "ORDER_MODIFIER" for each in node["modifiers"]):
            raise _NotCertain
        self._modifiers(node, names, selected or reads, reads)
        self._expressions(node["select_list"], names, selected or reads, reads)
        for part in ("where_clause", "group_expressions", "having", "qualify"):
            self._expressions(node[part], names, selected, reads)
        return reads

    def _modifiers(
        self, node: Node, names: Mapping[str, bool], selected: bool, reads: bool = False
    ) -> None:
        """What follows a query: an order, DISTINCT, or a limit that needs an order."""
        kinds = [modifier["type"] for modifier in node["modifiers"]]
        cuts = "LIMIT_MODIFIER" in kinds or any(
            modifier.get("distinct_on_targets") for modifier in node["modifiers"]
        )
        if cuts and "ORDER_MODIFIER" not in kinds:
            raise _NotCertain  # each task could choose other rows
        if set(kinds) - {"ORDER_MODIFIER", "DISTINCT_MODIFIER", "LIMIT_MODIFIER"}:
            raise _NotCertain
        self._expressions(node["modifiers"], names, selected, reads)

    # The sources in FROM.

    def _source(self, node: Node, names: Mapping[str, bool], selected: bool) -> bool:
        if any(node[key] for key in node.keys() - _SOURCE_KEYS):
            raise _NotCertain
        kind = node["type"]
        if kind == "BASE_TABLE":
            return self._table(node, names)
        if kind == "SUBQUERY":
            return self.query(node["subquery"]["node"], names, selected)
        if kind == "JOIN":
            return self._join(node, names, selected)
        if kind == "TABLE_FUNCTION":
            if function_name(node["function"]) not in ("unnest", "range", "generate_series"):
                raise _NotCertain
            if node["with_ordinality"] != "WITHOUT_ORDINALITY":
                raise _NotCertain
        elif kind not in ("EMPTY", "EXPRESSION_LIST"):
            raise _NotCertain
        self._expressions([node.get("function"), node.get("values")], names, selected, False)
        return False

    def _table(self, node: Node, names: Mapping[str, bool]) -> bool:
        name = node["table_name"].lower()
        if node["schema_name"] or node["catalog_name"]:
            if name == self.relation:
                raise _NotCertain
            return False
        return bool(names.get(name, name == self.relation))

    def _join(self, node: Node, names: Mapping[str, bool], selected: bool) -> bool:
        left = self._source(node["left"], names, selected)
        right = self._source(node["right"], names, selected)
        self._expressions(node["condition"], names, selected, True)
        # An ASOF join may choose among equals, and a POSITIONAL one depends on the order of rows.
        if node["ref_type"] not in _PLAIN_JOINS or (left and right):
            raise _NotCertain
        if left and node["join_type"] not in _LEFT_IS_KEPT:
            raise _NotCertain
        if right and node["join_type"] not in _RIGHT_IS_KEPT:
            raise _NotCertain
        return left or right

    # Expressions.

    def _expressions(
        self, found: Any, names: Mapping[str, bool], selected: bool, reads: bool
    ) -> None:
        """Refuse what needs more than a single row; rows of other relations may be combined."""
        for node in nodes(found):
            kind = node.get("class")
            if "cte_map" in node or "table_name" in node:
                raise _NotCertain  # a query in an unknown place
            if kind == "WINDOW":
                self._window(node, reads)
            elif kind is not None and kind not in _ROW_CLASSES:
                raise _NotCertain
            elif kind == "FUNCTION":
                self._function(node, selected, reads)
            elif kind == "SUBQUERY":
                if self.query(node["subquery"]["node"], names, selected):
                    raise _NotCertain
            elif kind == "COLUMN_REF" and node["column_names"][-1].lower() in _NOT_COLUMNS:
                raise _NotCertain

    def _function(self, node: Node, selected: bool, reads: bool) -> None:
        name = function_name(node)
        if node["schema"] or node["catalog"]:
            raise _NotCertain
        if name in self.functions:
            if node["distinct"] or node["filter"] or node["order_bys"]["orders"]:
                raise _NotCertain
            return
        of_columns = any(inner.get("class") == "COLUMN_REF" for inner in nodes(node))
        # (SELECT sum(x) FROM w) sums up the outer query's rows, if w has no column x.
        if name not in AGGREGATES or reads or (selected and of_columns):
            raise _NotCertain

    def _window(self, node: Node, reads: bool) -> None:
        """A window over other relations' rows must state their order where the order matters."""
        by_row = "ROWS" in f"{node['start']} {node['end']}" or node["type"] != "WINDOW_AGGREGATE"
        known = node["type"] != "WINDOW_AGGREGATE" or function_name(node) in AGGREGATES
        if reads or not known or (by_row and not node["orders"]):
            raise _NotCertain
