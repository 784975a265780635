"""Texts read as values: the forms that DuckDB takes, and what each says.

Spark's own casts take others, so a text is first compared with these forms.
"""

from __future__ import annotations

from retailmart.engines.spark.dialect.values import (
    FLOATS,
    INTEGERS,
    MOMENTS,
    TEXTS,
    TZ,
    exact,
    spark_type,
    string,
)

_BLANK = r"[ \t-\r]*"
_WHITE = " \t\n\v\f\r"
_FIGURES = r"[0-9]+(?:_[0-9]+)*"
_POWER = rf"(?:[eE][+-]?{_FIGURES})?"
_NUMBER = rf"{_BLANK}[+-]?(?:{_FIGURES}(?:\.(?:{_FIGURES})?)?|\.{_FIGURES}){_POWER}{_BLANK}"
_WHOLE = rf"{_BLANK}[+-]?[0-9]{{1,18}}{_BLANK}"
_FLOATING = _NUMBER.replace("[+-]?", r"(?:\+?-|\+)?", 1)
_CODED = r"0[xX][0-9a-fA-F]{1,16}|0[bB][01]{1,64}"
_NO_NUMBER = rf"{_BLANK}(?:\+?-|\+)?(?i:nan|inf|infinity){_BLANK}"
_DAY = (
    "(?:"
    + "|".join(rf"[0-9]{{1,6}}{x}[0-9]{{1,2}}{x}[0-9]{{1,2}}" for x in ("-", "/", " ", r"\\"))
    + ")"
)
_PLAIN_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_PLAIN_MOMENT = (
    rf"{_PLAIN_DAY}[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-7]):[0-5][0-9])?"
)
_TIME = r"[0-9]{1,2}:[0-9]{0,2}(?::(?:[0-9]{1,2}(?:\.[0-9]*)?)?)?"
_ZONE = rf"(?:(?:Z|[+-][0-9]{{2}}(?::?[0-9]{{2}}(?::[0-9]{{2}})?)?| +(?i:utc)){_BLANK}| *)"
# Microseconds since 1970 reach further than the year 99999, but not by much.
_ITS_DAY = _DAY.replace("{1,6}", "{1,5}")
_BEHIND = rf"(?:T|[ \t-\r]){_BLANK}"
_MOMENT = rf"{_BLANK}{_ITS_DAY}{_BEHIND}{_TIME}{_ZONE}"


def read(value: str, kind: str) -> str:
    """What a text says, NULL where it says nothing of this type.

    The first case of each takes nearly all, and is cheap: what Spark itself would write so needs
    no pattern.
    """
    if kind == "BOOLEAN":
        return (
            f"CASE WHEN lower({value}) IN ('true', 't', 'yes', 'y', '1') THEN true"
            f" WHEN lower({value}) IN ('false', 'f', 'no', 'n', '0') THEN false END"
        )
    told = spark_type(kind)
    bare = f"trim(BOTH {string(_WHITE)} FROM {value})"
    number = f"replace({bare}, '_', '')"
    if kind == "DATE":
        return (
            f"CASE WHEN length({value}) = 10 AND {_as_written(value, told)}"
            f" WHEN {_matches(value, _PLAIN_DAY)} THEN try_cast({value} AS DATE)"
            f" WHEN {_matches(value, _BLANK + _DAY + _BLANK)} THEN {_read_day(value)}"
            f" WHEN {_matches(value, _MOMENT)} AND {_read_moment(value)} IS NOT NULL"
            f" THEN {_read_day(value)} END"
        )
    if kind in MOMENTS:
        cases = [
            f"WHEN {_matches(value, _BLANK + _ITS_DAY)} THEN CAST({_read_day(value)} AS TIMESTAMP)"
        ]
        moment = _read_moment(value)
        if kind == TZ:
            plain = _matches(value, _PLAIN_MOMENT)
            cases.insert(0, f"WHEN {plain} THEN try_cast({value} AS TIMESTAMP)")
            offset = _offset(value)
            moment = f"timestamp_micros(unix_micros({moment}) - {offset})"
        cases.append(f"WHEN {_matches(value, _MOMENT)} THEN {moment}")
        return f"CASE {' '.join(cases)} END"
    if kind in FLOATS:
        number = f"replace({number}, '+-', '-')"
        word = f"replace(replace(lower({bare}), '+', ''), '-nan', 'nan')"
        return (
            f"CASE WHEN {_matches(value, _FLOATING)} THEN try_cast({number} AS {told})"
            f" WHEN {_matches(value, _NO_NUMBER)} THEN try_cast({word} AS {told}) END"
        )
    if kind in INTEGERS and kind != "HUGEINT":
        base = f"CASE WHEN lower({value}) LIKE '0x%' THEN 16 ELSE 2 END"
        forms = {
            _WHOLE: f"try_cast({value} AS BIGINT)",
            _NUMBER: f"try_cast({number} AS DECIMAL(38,0))",
            _CODED: f"try_cast(conv(substr({number}, 3), {base}, 10) AS DECIMAL(38,0))",
        }
        others = " ".join(
            f"WHEN {_matches(value, form)} THEN try_cast({found} AS {told})"
            for form, found in forms.items()
        )
        return f"CASE WHEN {_as_written(value, told)} {others} END"
    return (
        f"CASE WHEN {_as_written(value, told)}"
        f" WHEN {_matches(value, _NUMBER)} THEN try_cast({number} AS {told}) END"
    )


def read_plain(value: str, kind: str) -> str:
    """What a text of a plain form says; another may give anything. Spark's own cast is fastest.

    Plain is what is no more than signs, digits, a point, a day, and blanks around.
    """
    if kind == "DATE" or exact(kind):
        return f"try_cast({value} AS {spark_type(kind)})"
    return value if kind in TEXTS else read(value, kind)


def _as_written(value: str, kind: str) -> str:
    """What is behind WHEN for a text that is just what Spark would write for its value."""
    read = f"try_cast({value} AS {kind})"
    return f"CAST({read} AS STRING) = {value} THEN {read}"


def _read_day(value: str) -> str:
    """A day in any of the forms that count; what comes behind it does not matter here."""
    parts = [
        _found(value, rf"\A{_BLANK}([0-9]+)[-/ \\]([0-9]+)[-/ \\]([0-9]+)", group)
        for group in (1, 2, 3)
    ]
    year = f"lpad({parts[0]}, greatest(4, length({parts[0]})), '0')"
    return f"try_cast(concat({year}, '-', {parts[1]}, '-', {parts[2]}) AS DATE)"


def _read_moment(value: str) -> str:
    """A day and a time of it, whatever its zone: fractions are cut to microseconds."""
    clock = rf"\A{_BLANK}{_DAY}{_BEHIND}([0-9]+):([0-9]*):?([0-9]*)\.?([0-9]{{0,6}})"
    hour, minute, second = (
        f"CAST(concat('0', {_found(value, clock, group)}) AS BIGINT)" for group in (1, 2, 3)
    )
    micros = f"CAST(rpad({_found(value, clock, 4)}, 6, '0') AS BIGINT)"
    whole = f"({hour} * 3600 + {minute} * 60 + {second})"
    return (
        f"CASE WHEN {minute} < 60 AND {second} < 60 AND ({hour} < 24 OR ({hour} = 24"
        f" AND {minute} + {second} + {micros} = 0))"
        f" THEN timestamp_micros(unix_micros(CAST({_read_day(value)} AS TIMESTAMP))"
        f" + {whole} * 1000000L + {micros}) END"
    )


def _offset(value: str) -> str:
    """The microseconds by which a zone is ahead."""
    zone = r"([+-])([0-9]{2}):?([0-9]{0,2}):?([0-9]{0,2})[ \t-\r]*\z"
    zone = rf":[0-9.:]*{zone}"
    sign = f"CASE WHEN {_found(value, zone)} = '-' THEN -1L ELSE 1L END"
    hours, minutes, seconds = (
        f"CAST(concat('0', {_found(value, zone, group)}) AS BIGINT)" for group in (2, 3, 4)
    )
    return f"({sign}) * ({hours} * 3600 + {minutes} * 60 + {seconds}) * 1000000L"


def _matches(value: str, pattern: str) -> str:
    return f"{value} RLIKE " + string(rf"\A(?:{pattern})\z")


def _found(value: str, pattern: str, group: int = 1) -> str:
    return f"regexp_extract({value}, {string(pattern)}, {group})"
