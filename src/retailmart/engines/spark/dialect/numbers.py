"""Numbers: arithmetic, rounding, and what floats make of nothing and of no number."""

from __future__ import annotations

from dataclasses import replace

from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.casts import half_away
from retailmart.engines.spark.dialect.dates import calendar
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.values import (
    AT_HAND,
    DAYS,
    FLOATS,
    INTEGERS,
    Value,
    exact,
    refuse,
)

FUNCTIONS = Functions()


@FUNCTIONS.tells("+", "-", "*", "%", "mod", "add", "subtract", "multiply")
def _arithmetic(t: Translator, call: Call) -> Value:
    sign = {"mod": "%", "add": "+", "subtract": "-", "multiply": "*"}.get(call.name, call.name)
    kinds = [arg.type for arg in call.args]
    if len(call.args) == 1:
        return t.typed(f"({sign} {call.text(0)})", call.type)
    if any(kind in (*DAYS, "INTERVAL") for kind in kinds):
        return calendar(t, call, sign)
    if call.type in FLOATS:
        one, other = (t.cast(arg, call.type).sql for arg in call.args)
        if sign == "%":
            return Value(_remainder(t, one, other), call.type)
        return Value(f"({one} {sign} {other})", call.type)
    if not exact(call.type):
        raise refuse(f"{' '.join(kinds)} with {sign}", "cast to numbers")
    if call.type in INTEGERS or sign != "*":
        args = [t.cast(arg, call.type) for arg in call.args]
    else:
        args = [t.cast(a, "HUGEINT") if a.type == "HUGEINT" else a for a in call.args]
    return t.typed(f"({args[0].sql} {sign} {args[1].sql})", call.type)


def _remainder(t: Translator, one: str, other: str) -> str:
    return t.let(
        other,
        lambda by: f"CASE WHEN {by} = 0 THEN {one} * CAST('NaN' AS DOUBLE) ELSE {one} % {by} END",
    )


@FUNCTIONS.tells("/")
def _divide(t: Translator, call: Call) -> Value:
    one, other = (t.cast(arg, "DOUBLE") for arg in call.args)
    if other.literal is not None and float(t.evaluated(other.literal) or 0):
        return Value(f"({one.sql} / {other.sql})", "DOUBLE")
    return Value(
        t.let(one.sql, lambda top: t.let(other.sql, lambda by: _quotient(top, by))),
        "DOUBLE",
    )


def _quotient(top: str, by: str) -> str:
    """What floats give: a number through nothing is infinite, and nothing through it is none."""
    sign = f"CASE WHEN CAST({by} AS STRING) LIKE '-%' THEN -1D ELSE 1D END"
    nothing = "CAST('NaN' AS DOUBLE)"
    return (
        f"CASE WHEN {by} <> 0 THEN {top} / {by}"
        f" WHEN {by} = 0 AND ({top} = 0 OR {top} = {nothing}) THEN {nothing}"
        f" WHEN {by} = 0 AND {top} IS NOT NULL"
        f" THEN signum({top}) * {sign} * CAST('Infinity' AS DOUBLE) END"
    )


@FUNCTIONS.tells("//", "divide")
def _whole_quotient(t: Translator, call: Call) -> Value:
    if call.type not in INTEGERS:
        return _divide(t, replace(call, type="DOUBLE"))
    one, other = (t.cast(arg, call.type) for arg in call.args)
    if call.type != "HUGEINT":
        return t.typed(f"({one.sql} div {other.sql})", call.type)
    told = t.let(
        one.sql,
        lambda top: t.let(other.sql, lambda by: f"(({top} - {top} % {by}) / {by})"),
    )
    return t.typed(told, call.type)


@FUNCTIONS.tells("abs")
def _abs(t: Translator, call: Call) -> Value:
    return t.typed(f"abs({call.text(0)})", call.type)


@FUNCTIONS.tells("sign")
def _sign(t: Translator, call: Call) -> Value:
    told = f"signum({call.text(0)})"
    if call.args[0].type in FLOATS:
        told = t.let(
            call.text(0),
            lambda v: f"CASE WHEN {v} = CAST('NaN' AS DOUBLE) THEN 0D ELSE signum({v}) END",
        )
    return t.typed(told, call.type)


@FUNCTIONS.tells("isnan", "isinf", "isfinite")
def _kind_of_float(t: Translator, call: Call) -> Value:
    value = t.cast(call.args[0], "DOUBLE").sql
    told = {
        "isnan": f"({value} = CAST('NaN' AS DOUBLE))",
        "isinf": f"(abs({value}) = CAST('Infinity' AS DOUBLE))",
        "isfinite": f"(abs({value}) < CAST('Infinity' AS DOUBLE))",
    }
    return Value(told[call.name], "BOOLEAN")


@FUNCTIONS.tells("round", "ceil", "ceiling", "floor", "trunc")
def _round(t: Translator, call: Call) -> Value:
    value = call.args[0]
    if call.name == "round" and exact(call.type):
        digits = _places(t, call)
        if call.type in INTEGERS and digits >= 0:
            return t.cast(value, call.type)
        return t.typed(f"round({value.sql}, {digits})", call.type)
    if exact(call.type) and value.type in INTEGERS:
        return t.cast(value, call.type)
    if exact(call.type) and call.name != "trunc":
        return t.typed(f"{call.name.removesuffix('ing')}({value.sql})", call.type)
    if call.type in FLOATS:
        return Value(
            t.let(t.cast(value, call.type).sql, lambda v: _float_round(t, call, v)),
            call.type,
        )
    raise refuse(f"{call.name}()", AT_HAND)


def _places(t: Translator, call: Call) -> int:
    """To how many places round() rounds."""
    if len(call.args) == 1:
        return 0
    places = t.whole(call.args[1])
    if places is None:
        raise refuse("round() to a computed number of places", "write the number")
    return places


def _float_round(t: Translator, call: Call, value: str) -> str:
    if call.name == "floor":
        return f"(rint({value}) - CASE WHEN rint({value}) > {value} THEN 1D ELSE 0D END)"
    if call.name in ("ceil", "ceiling"):
        return (
            f"CASE WHEN {value} > -1 AND {value} < 0 THEN -0D ELSE"
            f" rint({value}) - CASE WHEN rint({value}) < {value} THEN -1D ELSE 0D END END"
        )
    if call.name == "round":
        digits = _places(t, call)
        scaled = value
        if digits:
            scaled = f"({value} {'*' if digits > 0 else '/'} 1E{abs(digits)}D)"
        whole = t.let(scaled, half_away)
        if digits:
            whole = f"({whole} {'/' if digits > 0 else '*'} 1E{abs(digits)}D)"
        return whole
    raise refuse(f"{call.name}() of a {call.type}", AT_HAND)


@FUNCTIONS.tells("sqrt")
def _sqrt(t: Translator, call: Call) -> Value:
    return Value(f"sqrt({t.cast(call.args[0], 'DOUBLE').sql})", "DOUBLE")
