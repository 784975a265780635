"""What a query leaves to the order in which rows are scanned, which is another in each rebuild.

An ORDER BY is believed: whether it tells all rows apart can't be seen in the query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retailmart.marts.splitting.tree import Node, function_name, words

# The engine's place of what it has added by itself, such as the aggregate of ARRAY(SELECT …).
_NOWHERE: Final = 2**64 - 1

# One of several values, as the rows come.
_CHOOSING: Final = words("any_value arbitrary first last")
_LISTS: Final = words("array_agg list")
_TEXTS: Final = words("group_concat listagg string_agg")
# They are macros of the engine, which take no ORDER BY. Each with what does.
_OF_JSON: Final = {
    "json_group_array": "to_json(list(x ORDER BY x))",
    "json_group_object": "to_json(map_from_entries(list((k, v) ORDER BY k)))",
    "json_group_structure": "json_structure(to_json(list(x ORDER BY x)))",
    "variant_group_array": "list(x ORDER BY x)",
    "variant_group_object": "map_from_entries(list((k, v) ORDER BY k))",
}
# At which place they may be told how many values to give.
_NUMBERED_BY: Final = {
    **dict.fromkeys(("max", "min"), 1),
    **dict.fromkeys(("arg_max", "arg_min", "argmax", "argmin", "max_by", "min_by"), 2),
    **dict.fromkeys(("arg_max_nulls_last", "arg_min_nulls_last"), 2),
}
# They keep a part of what they read, or draw from it.
_APPROXIMATE: Final = words("approx_quantile approx_top_k reservoir_quantile")
# Equal for all rows where a window has no order, unlike the other functions of windows.
_RANKS: Final = words("cume_dist dense_rank percent_rank rank rank_dense")
_PLACES: Final = words("fill first_value lag last_value lead nth_value ntile row_number")
# What they make of a list does not depend on its order.
_ORDER_FREE: Final = words(
    """
    array_contains array_has array_has_all array_has_any array_length array_reverse_sort array_sort
    array_unique contains len length list_avg list_bit_and list_bit_or list_bit_xor list_bool_and
    list_bool_or list_contains list_count list_has list_has_all list_has_any list_max list_median
    list_min list_reverse_sort list_sort list_sum list_unique
    """
)
# What they make of a list has the same elements, whatever its order.
_EACH: Final = words(
    """
    apply array_apply array_distinct array_filter array_reverse array_transform filter list_apply
    list_distinct list_filter list_reverse list_transform
    """
)
_CHANCE: Final = "it depends on the order in which rows are read, which no run promises"


@dataclass(frozen=True)
class Unordered:
    """A part of a query that depends on the order of rows: its byte offset, and the message."""

    at: int | None
    message: str


def unordered(tree: Any, defined: Collection[str]) -> Iterator[Unordered]:
    """The parts of a query's tree that depend on the order of rows, each once.

    `defined` are the names of the project's own functions, in lower case.
    """
    told: set[Unordered] = set()
    order_free: set[int] = set()  # ids of nodes whose order of elements, or of rows, is the same
    left: list[tuple[Any, int | None]] = [(tree, None)]
    while left:
        part, place = left.pop()
        if isinstance(part, list):
            left += [(each, place) for each in reversed(part)]
            continue
        if not isinstance(part, dict):
            continue
        place = _place(part, place)
        order_free |= {id(each) for each in _order_free(part, id(part) in order_free)}
        for at, why in _of_node(part, id(part) in order_free, defined):
            found = Unordered(place if at is None else _place(at, place), why)
            if found not in told:
                told.add(found)
                yield found
        left += [(value, place) for value in reversed(part.values())]


def _place(node: Node, outer: int | None) -> int | None:
    """Where a node begins; what the engine has added by itself is where its outer node is."""
    found = int(node.get("query_location", _NOWHERE))
    return outer if found == _NOWHERE else found


def _order_free(node: Node, free: bool) -> Iterator[Node]:
    """The nodes below whose order does not matter, as this one does not tell of it."""
    if node.get("class") == "FUNCTION" and node["arguments"]:
        name = function_name(node)
        if name in _ORDER_FREE or (free and name in _EACH and not _numbered(node)):
            yield node["arguments"][0]["expression"]
    elif node.get("class") == "CAST" and free:
        yield node["child"]
    elif node.get("class") == "SUBQUERY" and str(node["subquery_type"]).endswith("EXISTS"):
        yield node["subquery"]["node"]


def _numbered(node: Node) -> bool:
    """Whether a lambda also takes the number of the element."""
    return any(
        each["expression"].get("class") == "LAMBDA"
        and each["expression"]["lhs"].get("class") != "COLUMN_REF"
        for each in node["arguments"]
    )


def _of_node(node: Node, free: bool, defined: Collection[str]) -> Iterator[tuple[Node | None, str]]:
    """What one node leaves to the order of rows, with the node below that it is about, if any."""
    if node.get("class") == "FUNCTION":
        name = function_name(node)
        ordered = _decides(node["order_bys"]["orders"])
        if name not in defined and not ordered and (why := _of_aggregate(name, node, free)):
            yield None, why
    elif node.get("class") == "WINDOW":
        if why := _of_window(node, free):
            yield None, why
    elif "modifiers" in node:
        yield from _of_query(node, free)
    elif node.get("ref_type") == "POSITIONAL":
        yield None, f"POSITIONAL JOIN: {_CHANCE}; join by a column"
    if node.get("type") == "RECURSIVE_CTE_NODE" and node.get("key_targets"):
        why = f"USING KEY, where rows have one key: {_CHANCE}; group the rows after it"
        yield node["key_targets"][0], why


def _of_aggregate(name: str, node: Node, free: bool) -> str | None:
    """Why an aggregate without an order depends on that of the rows; None if it does not."""
    if name in _APPROXIMATE:
        exact = "count(*) for each value" if name == "approx_top_k" else "quantile_cont(x, 0.5)"
        return f"{name}(): {_CHANCE}; take {exact}"
    if name in _LISTS and not free:
        if node.get("query_location") == _NOWHERE:
            return f"ARRAY(SELECT …): {_CHANCE}; give its query an ORDER BY"
        return (
            f"{name}(): {_CHANCE}; write {name}(x ORDER BY x), or sort it, as in"
            f" list_sort({name}(x))"
        )
    if name in _CHOOSING:
        return f"{name}(): {_CHANCE}; take min() or max(), or write {name}(x ORDER BY y)"
    if name in _TEXTS:
        return f"{name}(): {_CHANCE}; write {name}(x, ', ' ORDER BY x)"
    if name in _OF_JSON:
        return f"{name}(): {_CHANCE}; write {_OF_JSON[name]}"
    number = [each["expression"] for each in node["arguments"][_NUMBERED_BY.get(name, 9) :]]
    if number and _varies(number[0], positions=False):
        return f"{name}(): {_CHANCE}, as it takes the first row's number; give the same to all rows"
    if name in ("mode", "lttb"):
        arguments = "x" if name == "mode" else "x, y, n"
        return f"{name}(), where values tie: {_CHANCE}; write {name}({arguments} ORDER BY x)"
    return None


def _of_window(node: Node, free: bool) -> str | None:
    """Why a window depends on the order of rows; None if it does not."""
    name = function_name(node)
    alike = node["partitions"]
    if name in _APPROXIMATE:
        return _of_aggregate(name, node, free)
    if _decides(node["orders"], alike):
        return None
    ends = str(node["start"]), str(node["end"])
    fix = "ORDER BY columns that tell its rows apart, as in OVER (PARTITION BY k ORDER BY x)"
    if any(end.endswith("_ROWS") for end in ends):
        return f"the ROWS of the window of {name}(): {_CHANCE}; {fix}"
    if name in _RANKS or _decides(node["arg_orders"], alike):
        return None
    if name in _PLACES or _of_aggregate(name, node, free):
        return f"{name}() OVER: {_CHANCE}; {fix}"
    return None


def _of_query(node: Node, free: bool) -> Iterator[tuple[Node | None, str]]:
    """DISTINCT ON and LIMIT choose among rows by the order of their query."""
    orders = [
        order
        for modifier in node["modifiers"]
        if modifier["type"] == "ORDER_MODIFIER"
        for order in modifier["orders"]
    ]
    for modifier in node["modifiers"]:
        targets = modifier.get("distinct_on_targets")
        if targets and not _decides(orders, targets, positions=True):
            fix = "ORDER BY further columns, which tell its rows apart"
            yield targets[0], f"DISTINCT ON: {_CHANCE}; {fix}"
        asked = [(word, modifier.get(word)) for word in ("limit", "offset")]
        said = [(word, found) for word, found in asked if found]
        # Whether there is any row does not depend on which one is taken.
        if said and not (free and not modifier["offset"]) and not _decides(orders, positions=True):
            word, found = said[0]
            fix = "ORDER BY columns that tell rows apart, in the same query"
            yield found, f"{word.upper()}: {_CHANCE}; {fix}"


def _decides(
    orders: Sequence[Node], alike: Sequence[Node] = (), *, positions: bool = False
) -> bool:
    """Whether an ORDER BY tells apart any rows that are the same in the columns `alike`.

    `positions`: a whole number is the place of a column.
    """
    return any(
        _varies(order["expression"], positions)
        and not any(_same_column(order["expression"], one) for one in alike)
        for order in orders
    )


def _varies(expression: Node, positions: bool) -> bool:
    if positions and (expression.get("literal") or {}).get("kind") == "INTEGER":
        return True
    left: list[Any] = [expression]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            # A method's column is the schema of its function: name.upper().
            named = part.get("class") == "FUNCTION" and part["schema"]
            if named or part.get("class") in ("COLUMN_REF", "STAR", "POSITIONAL_REFERENCE"):
                return True
            left += part.values()
    return False


def _same_column(one: Node, other: Node) -> bool:
    names = [[name.lower() for name in each.get("column_names") or ()] for each in (one, other)]
    depth = min(map(len, names))
    return depth > 0 and names[0][-depth:] == names[1][-depth:]
