"""Casts: what becomes of a value of one type as another, rounded and refused as DuckDB does it."""

from __future__ import annotations

from collections.abc import Callable

from retailmart.engines.spark.dialect.readings import read
from retailmart.engines.spark.dialect.values import (
    DAYS,
    FLOATS,
    INTEGERS,
    MOMENTS,
    TEXTS,
    TZ,
    Value,
    digits,
    exact,
    refuse,
    spark_type,
    string,
)

Let = Callable[[str, Callable[[str], str]], str]

_LARGE = "a whole number of more than 15 digits, a sum perhaps, as DOUBLE"


class Cast:
    """One cast. `tried` gives NULL where the other form fails. `let` names what is used again."""

    def __init__(self, let: Let, *, tried: bool) -> None:
        self._let = let
        self._tried = tried
        self._word = "try_cast" if tried else "CAST"

    def sql(self, value: Value, kind: str) -> str:
        """A value of one type as of another."""
        one, was = value.sql, value.type
        if was.endswith("[]") and kind.endswith("[]"):
            inner = self.sql(Value("x_", was[:-2]), kind[:-2])
            return f"transform({one}, x_ -> {inner})"
        if was in TEXTS and kind in TEXTS:
            return one
        if kind in TEXTS:
            return self._to_text(one, was)
        if was in TEXTS:
            return self._from_text(one, kind)
        if kind == "BOOLEAN" and (exact(was) or was in FLOATS):
            return f"({one} <> 0)"
        if was == "BOOLEAN" and (exact(kind) or kind in FLOATS):
            return f"CAST({one} AS {spark_type(kind)})"
        if kind in FLOATS and (exact(was) or was in FLOATS):
            return self._to_float(one, was, kind)
        if exact(kind) and (exact(was) or was in FLOATS):
            return self._to_exact(one, was, kind)
        if was in DAYS and kind in DAYS:
            return f"CAST({one} AS {spark_type(kind)})"
        raise refuse(f"a cast of {was} to {kind}", "cast by way of a type that tables hold")

    def _to_exact(self, one: str, was: str, kind: str) -> str:
        told = spark_type(kind)
        if was in INTEGERS:
            return f"{self._word}({one} AS {told})"
        if exact(was):
            if kind in INTEGERS and (digits(was) or (0, 0))[1]:
                one = f"round({one}, 0)"
            return f"{self._word}({one} AS {told})"
        if kind in INTEGERS and kind != "HUGEINT":
            return f"{self._word}(rint({one}) AS {told})"
        return self._let(one, lambda value: self._decimal_of(value, kind))

    def _decimal_of(self, value: str, kind: str) -> str:
        """DuckDB multiplies and rounds halves away from zero; to a HUGEINT it rounds to even."""
        precision, scale = digits(kind) or (38, 0)
        if kind == "HUGEINT":
            whole = f"rint({value})"
        else:
            scaled = f"{value} * 1E{scale}D" if scale else value
            whole = self._let(scaled, half_away)
        number = f"CAST({self._word}({whole} AS BIGINT) AS DECIMAL(38,0))"
        if precision > 18:  # in two halves of 63 bits, either of which is exact
            number = self._let(whole, self._wide)
        if scale:
            number = f"({number} * CAST('1E-{scale}' AS DECIMAL({scale + 1},{scale})))"
        return f"{self._word}({number} AS DECIMAL({precision},{scale}))"

    def _wide(self, whole: str) -> str:
        high = f"floor(abs({whole}) / 9223372036854775808D)"
        low = f"CAST(abs({whole}) - {high} * 9223372036854775808D AS BIGINT)"
        sign = f"CASE WHEN {whole} < 0 THEN -1BD ELSE 1BD END"
        told = string("retailmart: a DOUBLE of more than 37 digits as an exact number")
        fails = f"WHEN {whole} IS NOT NULL THEN CAST(raise_error({told}) AS DECIMAL(38,0))"
        if self._tried:
            fails = f"WHEN abs({whole}) < 1E38D THEN CAST(raise_error({told}) AS DECIMAL(38,0))"
        return (
            f"CASE WHEN abs({whole}) < 8.5E37D THEN CAST({sign} * (CAST({high} AS DECIMAL(38,0))"
            f" * 9223372036854775808BD + CAST({low} AS DECIMAL(38,0))) AS DECIMAL(38,0))"
            f" {fails} END"
        )

    def _to_float(self, one: str, was: str, kind: str) -> str:
        if was != "HUGEINT":
            return f"CAST({one} AS {kind})"
        told = string(f"retailmart: {_LARGE}; cast to DECIMAL(38,0) first")
        return self._let(
            one,
            lambda value: (
                f"CASE WHEN abs({value}) > 9007199254740992 THEN"
                f" CAST(raise_error({told}) AS {kind}) ELSE CAST({value} AS {kind}) END"
            ),
        )

    def _to_text(self, one: str, was: str) -> str:
        if was == "BOOLEAN" or exact(was):
            return f"CAST({one} AS STRING)"
        if was == "DATE":
            return self._let(one, _day_text)
        if was in MOMENTS:
            zone = "+00" if was == TZ else ""
            return self._let(one, lambda value: _moment_text(value, zone))
        if was in FLOATS:
            raise refuse(
                f"a {was} as text",
                "cast it to DECIMAL first, as in CAST(CAST(x AS DECIMAL(18,4)) AS VARCHAR)",
            )
        raise refuse(f"a {was} as text", "take its parts apart first")

    def _from_text(self, one: str, kind: str) -> str:
        if kind not in ("BOOLEAN", "DATE", "DOUBLE", *MOMENTS) and not exact(kind):
            raise refuse(f"a cast of text to {kind}", "cast to a type that tables hold")
        found = self._let(one, lambda value: read(value, kind))
        if self._tried:
            return found
        return self._let(
            one,
            lambda value: (
                f"CASE WHEN {value} IS NULL THEN NULL ELSE coalesce({read(value, kind)},"
                f" CAST(raise_error(concat('retailmart: ', {string(f'no {kind}: ')}, {value}))"
                f" AS {spark_type(kind)})) END"
            ),
        )


def _day_text(value: str) -> str:
    year = f"CAST(1 - year({value}) AS STRING)"
    return (
        f"CASE WHEN {value} >= DATE'0001-01-01' THEN ltrim('+', CAST({value} AS STRING))"
        f" ELSE concat(lpad({year}, greatest(4, length({year})), '0'),"
        f" date_format({value}, '-MM-dd'), ' (BC)') END"
    )


def _moment_text(value: str, zone: str) -> str:
    return (
        f"CASE WHEN {value} >= TIMESTAMP'0001-01-01 00:00:00'"
        f" THEN concat(ltrim('+', CAST({value} AS STRING)), '{zone}')"
        f" ELSE concat({_day_text(f'CAST({value} AS DATE)')},"
        f" substr(CAST({value} AS STRING), locate(' ', CAST({value} AS STRING))), '{zone}') END"
    )


def half_away(value: str) -> str:
    """A float rounded to a whole one, halves away from zero."""
    low = f"CAST(floor(abs({value})) AS DOUBLE)"
    return (
        f"CASE WHEN abs({value}) < 4503599627370496D THEN signum({value}) *"
        f" ({low} + CASE WHEN abs({value}) - {low} >= 0.5D THEN 1D ELSE 0D END)"
        f" ELSE {value} END"
    )
