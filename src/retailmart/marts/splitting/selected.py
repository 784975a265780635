"""The columns that a select list gives, and which of them may hold the split column."""

from __future__ import annotations

from collections.abc import Iterable

from retailmart.marts.splitting.rows import Rows
from retailmart.marts.splitting.scope import Scope
from retailmart.marts.splitting.tree import Node, nodes


def selected(items: Iterable[Node], scope: Scope, cut: bool) -> Rows:
    """What a SELECT gives whose expressions use the names of `scope`."""
    rows = Rows(cut, complete=True, ordered=True)
    for item in items:
        more = _star(item, scope) if item.get("class") == "STAR" else _value(item, scope)
        rows = rows.with_columns(more)
    return rows


def _value(item: Node, scope: Scope) -> Rows:
    many = item.get("function_name") == "unnest" or any(
        node.get("class") == "STAR" for node in nodes(item)
    )
    holds = scope.holds(item)
    if many:
        return Rows(False, others=holds)
    name = item.get("alias") or (item.get("column_names") or [""])[-1]
    return Rows(False, ((name.lower(), holds),), complete=True, ordered=True)


def _star(star: Node, scope: Scope) -> Rows:
    named = star["relation_name"].lower()
    leaves = [leaf for leaf in scope.leaves if not leaf.hidden and named in ("", leaf.alias)]
    if star["columns"] or star["rename_list"] or star["replace_list"]:
        return Rows(False, others=any(leaf.may_hold for leaf in leaves))
    excluded = {name.lower() for name in star["exclude_list"]}
    excluded |= {each["column"].lower() for each in star["qualified_exclude_list"]}
    rows = Rows(False, complete=True, ordered=len(leaves) == 1)
    for leaf in leaves:
        rows = rows.with_columns(leaf.without(excluded))
    return rows
