"""Aggregates, over groups and over windows. Those whose answer hangs on a plan are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retailmart.engines.spark.dialect.calls import Call
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node, direction
from retailmart.engines.spark.dialect.values import FLOATS, INTEGERS, Value, exact, refuse


@dataclass(frozen=True)
class Summary:
    """An aggregate with all that belongs to it. `test` is its FILTER, `over` its window."""

    t: Translator
    call: Call
    test: str | None
    distinct: bool
    over: str | None
    orders: Sequence[tuple[Value, Node]]

    def of(self, function: str, told: str) -> str:
        """An aggregate of Spark's over the rows that count."""
        distinct = "DISTINCT " if self.distinct else ""
        if self.over is not None:
            if self.distinct:
                raise refuse("DISTINCT in a window", "count in a query of its own, and join it")
            if self.test is not None:
                told = f"CASE WHEN {self.test} THEN {told} END"
            return f"{function}({told}) OVER ({self.over})"
        filtered = f" FILTER (WHERE {self.test})" if self.test is not None else ""
        return f"{function}({distinct}{told}){filtered}"

    def rows(self, told: str, instead: str, test: str | None = None) -> str:
        """The values of all rows that count, as a list in the order asked for."""
        if not self.orders or self.over is not None:
            raise refuse(
                f"{self.call.name}() without an ORDER BY of its own",
                f"say which row comes first, as in {self.call.name}(x ORDER BY y), {instead}",
            )
        keys = [f"'k{n}', {value.sql}" for n, (value, _) in enumerate(self.orders)]
        tests = " AND ".join(filter(None, (self.test, test)))
        filtered = f" FILTER (WHERE {tests})" if tests else ""
        listed = f"collect_list(named_struct({', '.join(keys)}, 'v', {told})){filtered}"
        steps = []
        for n, (_, order) in enumerate(self.orders):
            down, nulls = direction(order).split(" NULLS ")
            last, less = (1 if nulls == "LAST" else -1), (-1 if down == "ASC" else 1)
            a, b = f"a_.k{n}", f"b_.k{n}"
            steps.append(
                f"WHEN {a} IS NULL AND {b} IS NOT NULL THEN {last}"
                f" WHEN {a} IS NOT NULL AND {b} IS NULL THEN {-last}"
                f" WHEN {a} < {b} THEN {less} WHEN {a} > {b} THEN {-less}"
            )
        ordered = f"array_sort({listed}, (a_, b_) -> CASE {' '.join(steps)} ELSE 0 END)"
        values = f"transform({ordered}, x_ -> x_.v)"
        return f"array_distinct({values})" if self.distinct else values


_Aggregate = Callable[[Summary], Value]
AGGREGATES: dict[str, _Aggregate] = {}


def _summing(*names: str) -> Callable[[_Aggregate], _Aggregate]:
    def registered(handler: _Aggregate) -> _Aggregate:
        for name in names:
            AGGREGATES[name] = handler
        return handler

    return registered


@_summing("count", "count_star")
def _count(s: Summary) -> Value:
    if not s.call.args:
        return Value(s.of("count", "1"), "BIGINT")
    return Value(s.of("count", s.call.text(0)), "BIGINT")


@_summing("sum")
def _sum(s: Summary) -> Value:
    value = s.call.args[0]
    if value.type in FLOATS:
        raise refuse(
            f"a sum of {value.type}",
            "it hangs on the order of the rows, on DuckDB too; sum exact numbers:"
            " sum(CAST(x AS DECIMAL(18,4)))",
        )
    return s.t.typed(s.of("sum", _summed(s, value)), s.call.type)


def _summed(s: Summary, value: Value) -> str:
    if value.type == "BOOLEAN":
        return s.t.cast(value, "INTEGER").sql
    return f"CAST({value.sql} AS DECIMAL(20,0))" if value.type == "BIGINT" else value.sql


@_summing("avg", "mean")
def _avg(s: Summary) -> Value:
    value = s.call.args[0]
    if value.type not in INTEGERS:
        raise refuse(
            f"avg() of {value.type}",
            "its last digit hangs on the plan, on DuckDB too; write sum(x) / count(x) of an exact"
            " number, as in CAST(x AS DECIMAL(18,4))",
        )
    total = s.t.typed(s.of("sum", _summed(s, value)), "HUGEINT")
    count = s.of("count", value.sql)
    return Value(f"({s.t.cast(total, 'DOUBLE').sql} / nullif({count}, 0))", "DOUBLE")


@_summing("min", "max")
def _bound(s: Summary) -> Value:
    if len(s.call.args) > 1:
        raise refuse(f"{s.call.name}() of several rows", "number the rows with row_number()")
    return Value(s.of(s.call.name, s.call.text(0)), s.call.type)


@_summing("bool_or", "bool_and")
def _bools(s: Summary) -> Value:
    return Value(s.of(s.call.name, s.t.cast(s.call.args[0], "BOOLEAN").sql), "BOOLEAN")


@_summing("count_if", "countif")
def _count_if(s: Summary) -> Value:
    test = s.t.cast(s.call.args[0], "BOOLEAN").sql
    return s.t.typed(s.of("count", f"CASE WHEN {test} THEN 1 END"), s.call.type)


@_summing("arg_max", "arg_min", "max_by", "min_by", "argmax", "argmin")
def _arg(s: Summary) -> Value:
    if len(s.call.args) > 2:
        raise refuse(f"{s.call.name}() of several rows", "number the rows with row_number()")
    value, by = s.call.args
    word = "max_by" if "max" in s.call.name else "min_by"
    key = f"CASE WHEN {value.sql} IS NOT NULL THEN {by.sql} END"
    return Value(s.of(word, f"{value.sql}, {key}"), s.call.type)


@_summing("string_agg", "group_concat", "listagg")
def _string_agg(s: Summary) -> Value:
    separator = s.call.text(1) if len(s.call.args) > 1 else "','"
    value = s.t.cast(s.call.args[0], "VARCHAR")
    rows = s.rows(
        value.sql,
        "its text must not hang on the order of rows",
        f"{value.sql} IS NOT NULL",
    )
    told = s.t.let(
        rows,
        lambda v: f"CASE WHEN array_size({v}) > 0 THEN array_join({v}, {separator}) END",
    )
    return Value(told, "VARCHAR")


@_summing("list", "array_agg")
def _list_agg(s: Summary) -> Value:
    rows = s.rows(s.call.text(0), "its list must not hang on the order of rows")
    return Value(
        s.t.let(rows, lambda v: f"CASE WHEN array_size({v}) > 0 THEN {v} END"),
        s.call.type,
    )


@_summing("first", "last", "any_value", "arbitrary")
def _first(s: Summary) -> Value:
    test = f"{s.call.text(0)} IS NOT NULL" if s.call.name == "any_value" else None
    rows = s.rows(s.call.text(0), "or use min() or max()", test)
    return Value(f"try_element_at({rows}, {-1 if s.call.name == 'last' else 1})", s.call.type)


@_summing("median")
def _median(s: Summary) -> Value:
    value = s.call.args[0]
    if s.call.type != "DOUBLE" or not exact(value.type):
        raise refuse(
            f"median() of {value.type}",
            "number the rows with row_number(), and take the middle",
        )
    rows = f"array_sort({s.of('collect_list', s.t.cast(value, 'DOUBLE').sql)})"
    return Value(s.t.let(rows, _middle), "DOUBLE")


def _middle(rows: str) -> str:
    low, high = (
        f"try_element_at({rows}, CAST((array_size({rows}) + {more}) div 2 AS INT))"
        for more in (1, 2)
    )
    return f"CASE WHEN array_size({rows}) = 0 THEN NULL ELSE {low} + ({high} - {low}) * 0.5D END"


def holds_aggregate(node: Any) -> bool:
    """Whether an expression sums up rows; what is over a window or in a subquery does not."""
    if isinstance(node, list):
        return any(holds_aggregate(one) for one in node)
    if not isinstance(node, dict) or node.get("class") == "SUBQUERY":
        return False
    if node.get("class") == "FUNCTION" and node["function_name"].lower() in AGGREGATES:
        return True
    if node.get("class") == "WINDOW":
        return any(holds_aggregate(one) for one in (node["arguments"], node["partitions"]))
    return any(holds_aggregate(one) for one in node.values())
