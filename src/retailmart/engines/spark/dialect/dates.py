"""Days, moments and spans of time: parts, differences, and times as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.values import DAYS, INTEGERS, Value, refuse, string

FUNCTIONS = Functions()

_PARTS = {
    "year": ("year", "years", "y", "yr", "yrs"),
    "quarter": ("quarter", "quarters"),
    "month": ("month", "months", "mon", "mons"),
    "week": ("week", "weeks", "w"),
    "day": ("day", "days", "d", "dayofmonth"),
    "hour": ("hour", "hours", "h", "hr", "hrs"),
    "minute": ("minute", "minutes", "m", "min", "mins"),
    "second": ("second", "seconds", "s", "sec", "secs"),
    "millisecond": ("millisecond", "milliseconds", "ms", "msec", "msecs"),
    "microsecond": ("microsecond", "microseconds", "us", "usec", "usecs"),
}
_PART_OF = {alias: part for part, aliases in _PARTS.items() for alias in aliases}
_MICROS = {
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}
_SPANS = {
    "to_years": "make_ym_interval({}, 0)",
    "to_quarters": "make_ym_interval(0, 3 * {})",
    "to_months": "make_ym_interval(0, {})",
    "to_weeks": "make_dt_interval(7 * {}, 0, 0, 0)",
    "to_days": "make_dt_interval({}, 0, 0, 0)",
    "to_hours": "make_dt_interval(0, {}, 0, 0)",
    "to_minutes": "make_dt_interval(0, 0, {}, 0)",
}
_EXTRACTS = {
    **{part: f"{part}({{}})" for part in ("year", "month", "quarter", "hour", "minute", "second")},
    "day": "dayofmonth({})",
    "week": "weekofyear({})",
    "weekofyear": "weekofyear({})",
    "doy": "dayofyear({})",
    "dayofyear": "dayofyear({})",
    "dow": "(dayofweek({}) - 1)",
    "dayofweek": "(dayofweek({}) - 1)",
    "weekday": "(dayofweek({}) - 1)",
    "isodow": "(weekday({}) + 1)",
    "isoyear": "extract(YEAROFWEEK FROM {})",
    "millisecond": "(pmod(unix_micros({}), 60000000L) div 1000L)",
    "microsecond": "pmod(unix_micros({}), 60000000L)",
}
_TIMES = ("hour", "minute", "second", "millisecond", "microsecond")
_CODES = {
    "Y": "yyyy", "m": "MM", "d": "dd", "H": "HH", "M": "mm", "S": "ss", "y": "yy", "j": "DDD",
    "b": "MMM", "B": "MMMM", "a": "EEE", "A": "EEEE", "p": "a", "I": "hh", "f": "SSSSSS",
    "-d": "d", "-m": "M", "-H": "H", "-M": "m", "-S": "s", "-I": "h", "-j": "D",
}  # fmt: skip
_COUNTED = {
    "u": "CAST(weekday({}) + 1 AS STRING)",
    "w": "CAST(dayofweek({}) - 1 AS STRING)",
    "V": "lpad(CAST(weekofyear({}) AS STRING), 2, '0')",
    "G": "lpad(CAST(extract(YEAROFWEEK FROM {}) AS STRING), 4, '0')",
}


def calendar(t: Translator, call: Call, sign: str) -> Value:
    """Days and spans, added or taken away."""
    one, other = call.args
    if one.type == other.type == "DATE" and sign == "-":
        return t.typed(f"datediff({one.sql}, {other.sql})", call.type)
    if one.type == "DATE" and other.type in INTEGERS and sign in "+-":
        word = "date_add" if sign == "+" else "date_sub"
        return Value(f"{word}({one.sql}, {t.cast(other, 'INTEGER').sql})", "DATE")
    if other.type == "DATE" and one.type in INTEGERS and sign == "+":
        return Value(f"date_add({other.sql}, {t.cast(one, 'INTEGER').sql})", "DATE")
    if one.type == "INTERVAL" and sign == "+":
        one, other = other, one
    if one.type in DAYS and other.type == "INTERVAL" and sign in "+-":
        moment = t.cast(one, call.type).sql
        for span in _spans(t, other):
            moment = f"({moment} {sign} {span})"
        return Value(moment, call.type)
    told = f"{one.type} {sign} {other.type}"
    raise refuse(told, "count with date_diff(), or add to_days(n) or to_months(n) to a date")


def _spans(t: Translator, value: Value) -> list[str]:
    """An interval as Spark's kinds of it: months first, as DuckDB adds them."""
    if value.literal is None:
        return [value.sql]
    parts = ("year", "month", "day", "hour", "minute", "microsecond")
    told = ", ".join(f"date_part('{part}', {value.literal})" for part in parts)
    years, months, days, hours, minutes, micros = t.evaluated(f"[{told}]")
    months += 12 * years
    seconds = Decimal((hours * 60 + minutes) * 60) + Decimal(micros) / 1_000_000
    spans = [f"make_ym_interval(0, {months})"] if months else []
    if days or seconds or not months:
        spans.append(f"make_dt_interval({days}, 0, 0, CAST('{seconds:f}' AS DECIMAL(18,6)))")
    return spans


@FUNCTIONS.tells(*_SPANS)
def _span(t: Translator, call: Call) -> Value:
    number = t.cast(call.args[0], "INTEGER").sql
    return Value(_SPANS[call.name].format(number), "INTERVAL")


def _part(t: Translator, call: Call, value: Value) -> str:
    if value.literal is None:
        raise refuse(f"{call.name}() with a computed part", "write the part, as in 'month'")
    word = str(t.evaluated(value.literal)).lower()
    if word not in _PART_OF:
        raise refuse(f"{call.name}() with {word!r}", f"use one of {', '.join(_PARTS)}")
    return _PART_OF[word]


def _as_days(t: Translator, values: Sequence[Value]) -> list[Value]:
    return [v if v.type in DAYS else t.cast(v, "TIMESTAMP") for v in values]


@FUNCTIONS.tells("date_trunc", "datetrunc")
def _date_trunc(t: Translator, call: Call) -> Value:
    part = _part(t, call, call.args[0])
    value = _as_days(t, call.args[1:])[0]
    return Value(f"date_trunc('{part}', {t.cast(value, 'TIMESTAMP').sql})", call.type)


@FUNCTIONS.tells("date_diff", "datediff")
def _date_diff(t: Translator, call: Call) -> Value:
    part = _part(t, call, call.args[0])
    one, other = _as_days(t, call.args[1:])
    if part in _MICROS:
        size = _MICROS[part]
        counted = [
            f"unix_micros({t.cast(v, 'TIMESTAMP').sql})"
            if v.type == "DATE"
            else f"unix_micros({v.sql})"
            for v in (other, one)
        ]
        if size > 1:
            counted = [f"CAST(floor({c} / {size}BD) AS BIGINT)" for c in counted]
        return t.typed(f"({counted[0]} - {counted[1]})", call.type)
    first, second = (t.cast(v, "DATE").sql for v in (one, other))
    if part == "day":
        return t.typed(f"datediff({second}, {first})", call.type)
    if part == "week":
        return t.typed(f"(datediff({second}, {first}) div 7)", call.type)
    size = {"month": 1, "quarter": 3, "year": 12}[part]
    counted = [f"((year({v}) * 12 + month({v}) - 1) div {size})" for v in (second, first)]
    return t.typed(f"({counted[0]} - {counted[1]})", call.type)


@FUNCTIONS.tells(
    "year",
    "month",
    "quarter",
    "day",
    "dayofmonth",
    "hour",
    "minute",
    "second",
    "week",
    "weekofyear",
    "dayofyear",
    "doy",
    "dow",
    "dayofweek",
    "weekday",
    "isodow",
    "isoyear",
)
def _extract(t: Translator, call: Call) -> Value:
    return _extracted(t, call.name, call.args[0], call.type)


@FUNCTIONS.tells("date_part", "datepart")
def _date_part(t: Translator, call: Call) -> Value:
    if call.args[0].literal is None:
        raise refuse("date_part() with a computed part", "write the part, as in 'month'")
    part = str(t.evaluated(call.args[0].literal)).lower()
    return _extracted(t, part, call.args[1], "DOUBLE" if part == "epoch" else "BIGINT")


def _extracted(t: Translator, part: str, value: Value, kind: str) -> Value:
    part = part if part in _EXTRACTS else _PART_OF.get(part, part)
    if part == "epoch":
        return _epoch(t, Call("epoch", {}, (value,), kind, ""))
    if part not in _EXTRACTS:
        raise refuse(f"date_part({part!r})", f"use one of {', '.join(_EXTRACTS)}")
    value = _as_days(t, [value])[0]
    if value.type == "DATE" and part in _TIMES:
        value = t.cast(value, "TIMESTAMP")
    return t.typed(_EXTRACTS[part].format(value.sql), kind)


@FUNCTIONS.tells("epoch", "epoch_ms", "epoch_us")
def _epoch(t: Translator, call: Call) -> Value:
    if call.args[0].type not in DAYS:
        raise refuse(f"{call.name}() of a {call.args[0].type}", "cast to TIMESTAMPTZ")
    micros = f"unix_micros({t.cast(call.args[0], 'TIMESTAMP').sql})"
    told = {
        "epoch": f"(CAST({micros} AS DOUBLE) / 1E6D)",
        "epoch_ms": f"round({micros} / 1000BD)",
        "epoch_us": micros,
    }
    return t.typed(told[call.name], call.type)


@FUNCTIONS.tells("to_timestamp")
def _to_timestamp(t: Translator, call: Call) -> Value:
    if call.args[0].type not in INTEGERS:
        raise refuse("to_timestamp() of fractions", "count in whole seconds")
    return Value(f"timestamp_micros({t.cast(call.args[0], 'BIGINT').sql} * 1000000L)", call.type)


@FUNCTIONS.tells("timezone")
def _in_zone(t: Translator, call: Call) -> Value:
    if len(call.args) == 1:
        raise refuse("timezone() of a moment", "it is 0, as all moments are in UTC")
    zone, value = call.args
    if zone.literal is None or str(t.evaluated(zone.literal)).upper() != "UTC":
        raise refuse("AT TIME ZONE of anything but 'UTC'", "add the hours: ts + INTERVAL 1 HOUR")
    return Value(t.cast(value, call.type).sql, call.type)


@FUNCTIONS.tells("last_day")
def _last_day(t: Translator, call: Call) -> Value:
    return Value(f"last_day({t.cast(call.args[0], 'DATE').sql})", "DATE")


@FUNCTIONS.tells("make_date")
def _make_date(t: Translator, call: Call) -> Value:
    told = ", ".join(t.cast(arg, "INTEGER").sql for arg in call.args)
    return Value(f"make_date({told})", "DATE")


@FUNCTIONS.tells("monthname", "dayname")
def _day_name(t: Translator, call: Call) -> Value:
    letters = "MMMM" if call.name == "monthname" else "EEEE"
    return Value(f"date_format({t.cast(call.args[0], 'TIMESTAMP').sql}, '{letters}')", "VARCHAR")


@FUNCTIONS.tells("strftime")
def _strftime(t: Translator, call: Call) -> Value:
    value, shape = call.args
    if shape.type in DAYS:
        value, shape = shape, value
    if shape.literal is None:
        raise refuse("strftime() with a computed form", "write the form, as in '%Y-%m'")
    moment = t.cast(value, "TIMESTAMP").sql
    parts = [_letters_of(moment, code) for code in _format_parts(str(t.evaluated(shape.literal)))]
    return Value(f"concat({', '.join(parts)})" if parts else "''", "VARCHAR")


def _format_parts(text: str) -> Iterator[str]:
    """A form of strftime's as Java's forms, each for one call, and codes that Java has not."""
    run: list[str] = []
    words = ""
    for code, plain in [*re.findall(r"%(-?[a-zA-Z%])|([^%]+|%)", text), ("", "")]:
        if plain or code == "%":
            words += plain or code
            continue
        if words:
            run.append("'" + words.replace("'", "''") + "'")
            words = ""
        if code in _CODES:
            run.append(_CODES[code])
            continue
        if run:
            yield "".join(run)
            run = []
        if code in _COUNTED:
            yield code
        elif code:
            known = ", %".join((*_CODES, *_COUNTED))
            raise refuse(f"strftime() with %{code}", f"use one of %{known}")


def _letters_of(moment: str, part: str) -> str:
    if part in _COUNTED:
        return _COUNTED[part].format(moment)
    return f"date_format({moment}, {string(part)})"
