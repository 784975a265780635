"""Functions over windows that are no aggregates, and the frames of windows."""

from __future__ import annotations

from collections.abc import Callable

from retailmart.engines.spark.dialect.calls import Call
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node, whole
from retailmart.engines.spark.dialect.values import refuse


def _shifted(t: Translator, call: Call) -> str:
    value, *others = call.args
    told = [t.cast(value, call.type).sql]
    if others:
        number = t.whole(others[0])
        if number is None:
            raise refuse(f"{call.name}() by a computed number", "write the number")
        told.append(str(number))
    if len(others) > 1:
        told.append(t.cast(others[1], call.type).sql)
    return f"{call.name}({', '.join(told)})"


UNFRAMED = {
    "row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead",
}  # fmt: skip
WINDOWS: dict[str, Callable[[Translator, Call], str]] = {
    **{
        name: lambda _, call: f"{call.name}()"
        for name in ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist")
    },
    "ntile": lambda t, call: f"ntile({t.cast(call.args[0], 'INTEGER').sql})",
    "first_value": lambda _, call: f"first_value({call.text(0)})",
    "first": lambda _, call: f"first_value({call.text(0)})",
    "last_value": lambda _, call: f"last_value({call.text(0)})",
    "last": lambda _, call: f"last_value({call.text(0)})",
    "nth_value": lambda _, call: f"nth_value({call.text(0)}, {call.text(1)})",
    "lag": _shifted,
    "lead": _shifted,
}


def frame(node: Node) -> str:
    """Which rows around its own a window function sees; '' where it is the usual."""
    start, end = node["start"], node["end"]
    if (start, end) == ("UNBOUNDED_PRECEDING", "CURRENT_ROW_RANGE") and not node["orders"]:
        return ""
    if "GROUPS" in start + end:
        raise refuse("a window frame of GROUPS", "use ROWS or RANGE")
    unit = "ROWS" if "ROWS" in start + end else "RANGE"
    bounds = []
    for bound, key in ((start, "start_expr"), (end, "end_expr")):
        if bound.startswith("EXPR"):
            if unit == "RANGE":
                raise refuse("a window frame of RANGE with an offset", "use ROWS, or a join")
            number = whole(node[key])
            if number is None:
                raise refuse("a computed window frame", "write a number")
            bounds.append(f"{number} {'PRECEDING' if 'PRECEDING' in bound else 'FOLLOWING'}")
        elif bound.startswith("UNBOUNDED"):
            bounds.append(bound.replace("_", " "))
        else:
            bounds.append("CURRENT ROW")
    return f"{unit} BETWEEN {bounds[0]} AND {bounds[1]}"
