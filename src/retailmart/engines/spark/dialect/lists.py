"""Lists, and functions that take a lambda."""

from __future__ import annotations

from collections.abc import Sequence

from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.values import Value, refuse

FUNCTIONS = Functions()


LAMBDAS = {
    "list_filter": "filter",
    "array_filter": "filter",
    "filter": "filter",
    "list_transform": "transform",
    "array_transform": "transform",
    "list_apply": "transform",
    "apply": "transform",
}


@FUNCTIONS.tells("list_value")
def _list(t: Translator, call: Call) -> Value:
    inner = call.type.removesuffix("[]")
    told = ", ".join(t.cast(arg, inner).sql for arg in call.args)
    return Value(f"array({told})", call.type)


@FUNCTIONS.tells("range", "generate_series")
def _range(t: Translator, call: Call) -> Value:
    if call.type != "BIGINT[]":
        raise refuse("a range of anything but whole numbers", "add the numbers to the date")
    args = [t.cast(arg, "BIGINT") for arg in call.args]
    if len(args) == 1:
        args.insert(0, Value("0L", "BIGINT", "0"))
    step = t.whole(args.pop()) if len(args) == 3 else 1
    if not step:
        raise refuse(f"{call.name}() with a computed step", "write the step as a number")
    start, stop = (arg.sql for arg in args)
    last = stop if call.name == "generate_series" else f"({stop} {'-' if step > 0 else '+'} 1L)"
    told = f"sequence({start}, {last}, {step}L)"
    return Value(
        f"CASE WHEN {start} IS NULL OR {stop} IS NULL THEN NULL"
        f" WHEN {start} {'<=' if step > 0 else '>='} {last}"
        f" THEN {told} ELSE CAST(array() AS ARRAY<BIGINT>) END",
        "BIGINT[]",
    )


@FUNCTIONS.tells("list_contains", "array_contains", "list_has", "array_has")
def _list_contains(t: Translator, call: Call) -> Value:
    rows, value = call.args
    inner = t.common([Value("", rows.type.removesuffix("[]")), value])
    listed, one = t.cast(rows, f"{inner}[]").sql, t.cast(value, inner).sql
    return Value(
        f"CASE WHEN {listed} IS NOT NULL AND {one} IS NOT NULL"
        f" THEN coalesce(array_contains({listed}, {one}), false) END",
        "BOOLEAN",
    )


@FUNCTIONS.tells("array_to_string", "list_to_string")
def _list_text(t: Translator, call: Call) -> Value:
    return Value(
        f"array_join({t.cast(call.args[0], 'VARCHAR[]').sql}, {call.text(1)})",
        "VARCHAR",
    )


@FUNCTIONS.tells("list_sort", "array_sort")
def _list_sort(t: Translator, call: Call) -> Value:
    if len(call.args) > 1:
        raise refuse(f"{call.name}() with a direction", "sort upwards")
    return Value(f"array_sort({call.text(0)})", call.type)


@FUNCTIONS.tells("list_max", "list_min", "array_max", "array_min")
def _list_bound(t: Translator, call: Call) -> Value:
    return Value(f"array_{call.name[-3:]}({call.text(0)})", call.type)


@FUNCTIONS.tells("unnest")
def _unnest(t: Translator, call: Call) -> Value:
    rows = call.args[0]
    return Value(f"explode({rows.sql})", rows.type.removesuffix("[]"))


def element(t: Translator, values: Sequence[Value]) -> Value:
    """What stands at a place of a list."""
    rows, index = values
    number = t.whole(index)
    if not number:
        raise refuse("a computed place in a list", "write the place as a number: list[1]")
    return Value(f"try_element_at({rows.sql}, {number})", rows.type.removesuffix("[]"))
