"""DuckDB's tree of a query: the questions that its nodes answer by themselves."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]


def modifier(node: Node, kind: str) -> Node | None:
    """A query's ORDER BY, LIMIT or DISTINCT, where it has it."""
    return next((one for one in node["modifiers"] if one["type"] == kind), None)


def direction(order: Node) -> str:
    """NULLs come last in DuckDB, whichever way it sorts."""
    down = "DESC" if order["type"] == "DESCENDING" else "ASC"
    return f"{down} NULLS {'FIRST' if 'FIRST' in order['null_order'] else 'LAST'}"


def whole(node: Node | None) -> int | None:
    """The number that a node is, if it is a constant one."""
    if node is None or node["class"] != "CONSTANT" or node["literal"]["kind"] != "INTEGER":
        return None
    return int(node["literal"]["text"])


def bare(node: Any) -> Any:
    """A node without what tells where it stood and how it is called."""
    if isinstance(node, dict):
        left_out = ("query_location", "query_location_length", "alias")
        return {key: bare(value) for key, value in node.items() if key not in left_out}
    return [bare(one) for one in node] if isinstance(node, list) else node
