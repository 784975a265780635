"""Checks that DuckDB's JSON reader changes no value of a file, by a round trip.

The reader turns numbers into floats, hides the last blank and skips keys that it was not asked for.
This module rebuilds each record from the values that the reader returned. Where the result equals
the delivered text to the byte, every value is the delivered one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retailmart.tables import text_literal

# The reader accepts these, but they are not JSON, or not text that a database can hold.
_STRANGE = ("NaN", "Infinity", "\\u0000")


@dataclass(frozen=True)
class JsonForm:
    """The form that all records of a file share, except for values and absent keys.

    `before` is the text in front of each key's value, `after` the text after the last. Values of
    `exact` keys may not be null, because their null is kept. Values of `scales` (key → DECIMAL's
    precision and scale) may be written with all decimals. `longest` is in bytes. `brackets` are
    those that may be opened in a record.
    """

    keys: tuple[str, ...]
    before: tuple[str, ...]
    after: str
    array: bool
    longest: int
    brackets: int
    exact: frozenset[str] = frozenset()
    scales: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def count_alike(file: Path, form: JsonForm) -> int | None:
    """The number of records in a JSON file whose values `Engine.records` reads unchanged.

    None if any record is written differently, or if the file is not JSON: a float, a repeated or
    unknown key, or an escape or blank elsewhere would be lost.
    """
    import duckdb

    connection = duckdb.connect()
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"SET threads = {min(os.cpu_count() or 1, 4)}")
        rows, alike = connection.execute(_query(file, form)).fetchall()[0]
    except duckdb.Error:
        return None
    finally:
        connection.close()
    return int(rows) if rows == alike else None


def _query(file: Path, form: JsonForm) -> str:
    from retailmart.engines.duckdb.sql import path_literal

    paths = ", ".join(text_literal(_json_path(key)) for key in form.keys)
    kind = "array" if form.array else "newline_delimited"
    options = f"format = '{kind}', compression = 'uncompressed'"
    reader = f"read_json_objects([{path_literal(file)}], {options})"
    values = f"SELECT CAST(json AS VARCHAR) AS r, json_extract(json, [{paths}]) AS e FROM {reader}"
    as_written = [f"e[{n}]" for n, _ in enumerate(form.keys, 1)]
    alike = f"r = {_together(form, as_written)}"
    if form.scales:
        padded = [_padded(f"e[{n}]", form, key) for n, key in enumerate(form.keys, 1)]
        alike = f"CASE WHEN {alike} THEN true ELSE r = {_together(form, padded)} END"
    strange = [f"contains(r, {text_literal(word)})" for word in _STRANGE]
    strange += [f"e[{n}] = 'null'" for n, key in enumerate(form.keys, 1) if key in form.exact]
    opened = [f"strlen(r) - strlen(replace(r, '{bracket}', ''))" for bracket in "{["]
    strange.append(f"{' + '.join(opened)} > {form.brackets}")
    strange.append(f"strlen(r) > {form.longest}")
    bad = " OR ".join(f"coalesce({word}, false)" for word in strange)
    return f"SELECT count(*), count(*) FILTER ({alike} AND NOT ({bad})) FROM ({values})"


def _json_path(key: str) -> str:
    return f'$."{key}"'


def _together(form: JsonForm, values: list[str]) -> str:
    """A record's text, built from the values that are present."""
    parts = [text_literal(form.before[0]), values[0]]
    for before, value in zip(form.before[1:], values[1:], strict=True):
        parts += [f"CASE WHEN {value} IS NOT NULL THEN {text_literal(before)} ELSE '' END", value]
    return f"concat({', '.join(parts)}, {text_literal(form.after)})"


def _padded(value: str, form: JsonForm, key: str) -> str:
    """A DECIMAL column's number with all its decimals; any other value unchanged."""
    if key not in form.scales:
        return value
    precision, scale = form.scales[key]
    number = f"CAST(TRY_CAST(CAST({value} AS VARCHAR) AS DECIMAL({precision},{scale})) AS VARCHAR)"
    return (
        f"""CASE WHEN starts_with({value}, '"') THEN {value} ELSE coalesce({number}, {value}) END"""
    )
