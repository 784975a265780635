"""Texts, and JSON, which is a text to Spark."""

from __future__ import annotations

import json
import re
from contextlib import closing
from functools import cache

from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.translator import Translator, empty_duckdb
from retailmart.engines.spark.dialect.values import AT_HAND, TEXTS, Value, refuse, string

FUNCTIONS = Functions()

_SPACES = "".join(map(chr, (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))


@FUNCTIONS.tells("||")
def _joined(t: Translator, call: Call) -> Value:
    if call.type.endswith("[]"):
        raise refuse("|| of lists", AT_HAND)
    parts = ", ".join(t.cast(arg, "VARCHAR").sql for arg in call.args)
    return Value(f"concat({parts})", "VARCHAR")


@FUNCTIONS.tells("concat")
def _concat(t: Translator, call: Call) -> Value:
    parts = ", ".join(f"coalesce({t.cast(arg, 'VARCHAR').sql}, '')" for arg in call.args)
    return Value(f"concat({parts})", "VARCHAR")


@FUNCTIONS.tells("concat_ws")
def _concat_ws(t: Translator, call: Call) -> Value:
    parts = ", ".join(t.cast(arg, "VARCHAR").sql for arg in call.args)
    return Value(f"concat_ws({parts})", "VARCHAR")


@FUNCTIONS.tells("trim", "ltrim", "rtrim")
def _trim(t: Translator, call: Call) -> Value:
    side = {"trim": "BOTH", "ltrim": "LEADING", "rtrim": "TRAILING"}[call.name]
    chars = call.text(1) if len(call.args) > 1 else string(_SPACES)
    return Value(f"trim({side} {chars} FROM {call.text(0)})", "VARCHAR")


@FUNCTIONS.tells("length", "len", "strlen", "char_length", "character_length")
def _length(t: Translator, call: Call) -> Value:
    if call.args[0].type.endswith("[]"):
        return t.typed(f"array_size({call.text(0)})", call.type)
    word = "octet_length" if call.name == "strlen" else "char_length"
    return t.typed(f"{word}({call.text(0)})", call.type)


@FUNCTIONS.tells("md5", "sha1", "sha256")
def _digest(t: Translator, call: Call) -> Value:
    if call.args[0].type != "VARCHAR":
        raise refuse(f"{call.name}() of {call.args[0].type}", "cast it to VARCHAR")
    text = f"CAST({call.text(0)} AS BINARY)"
    return Value(
        f"sha2({text}, 256)" if call.name == "sha256" else f"{call.name}({text})", "VARCHAR"
    )


@FUNCTIONS.tells("upper", "lower", "ucase", "lcase")
def _letters(t: Translator, call: Call) -> Value:
    word = {"ucase": "upper", "lcase": "lower"}.get(call.name, call.name)
    return Value(t.let(call.text(0), lambda value: _in_letters(word, value)), "VARCHAR")


def _in_letters(word: str, value: str) -> str:
    """Letter by letter, by DuckDB's own table: Java makes SS of ß, and its tables have an age."""
    letters, others = _letter_table(word)
    return (
        f"CASE WHEN octet_length({value}) = char_length({value}) THEN {word}({value})"
        f" ELSE translate({value}, {string(letters)}, {string(others)}) END"
    )


@cache
def _letter_table(word: str) -> tuple[str, str]:
    """All letters that upper() or lower() changes, and what becomes of each."""
    with closing(empty_duckdb().cursor()) as connection:
        found = connection.execute(
            f"SELECT string_agg(c, '' ORDER BY c), string_agg({word}(c), '' ORDER BY c) FROM"
            # The numbers left out stand for no letters, and chr() refuses them.
            " (SELECT chr(CASE WHEN n BETWEEN 55296 AND 57343 THEN 1 ELSE n END::INTEGER) AS c"
            f" FROM range(1, 1114112) t(n)) WHERE {word}(c) <> c"
        ).fetchall()
    return str(found[0][0]), str(found[0][1])


@FUNCTIONS.tells("contains", "starts_with", "ends_with", "prefix", "suffix", "^@")
def _holds(t: Translator, call: Call) -> Value:
    if call.args[0].type.endswith("[]"):
        raise refuse("contains() of a list", "use list_filter")
    word = {"contains": "contains", "ends_with": "endswith", "suffix": "endswith"}.get(
        call.name, "startswith"
    )
    return Value(f"{word}({call.text(0)}, {call.text(1)})", "BOOLEAN")


@FUNCTIONS.tells("replace")
def _replace(t: Translator, call: Call) -> Value:
    return Value(f"replace({call.text(0)}, {call.text(1)}, {call.text(2)})", "VARCHAR")


@FUNCTIONS.tells("lpad", "rpad")
def _pad(t: Translator, call: Call) -> Value:
    if call.args[2].literal in (None, "''"):
        raise refuse(f"{call.name}() with a computed text", "write the text to fill with")
    told = f"{call.text(0)}, {t.cast(call.args[1], 'INTEGER').sql}, {call.text(2)}"
    return Value(f"{call.name}({told})", "VARCHAR")


@FUNCTIONS.tells("repeat")
def _repeat(t: Translator, call: Call) -> Value:
    return Value(f"repeat({call.text(0)}, {t.cast(call.args[1], 'INTEGER').sql})", "VARCHAR")


@FUNCTIONS.tells("instr", "strpos", "position")
def _place(t: Translator, call: Call) -> Value:
    return t.typed(f"instr({call.text(0)}, {call.text(1)})", call.type)


@FUNCTIONS.tells("ascii", "unicode", "ord")
def _code(t: Translator, call: Call) -> Value:
    return t.typed(f"ascii({call.text(0)})", call.type)


@FUNCTIONS.tells("translate")
def _translate(t: Translator, call: Call) -> Value:
    if call.args[1].literal is None or call.args[2].literal is None:
        raise refuse("translate() of computed letters", "write the letters")
    return Value(f"translate({', '.join(arg.sql for arg in call.args)})", "VARCHAR")


@FUNCTIONS.tells("left", "right")
def _end(t: Translator, call: Call) -> Value:
    value, count = call.args
    number = t.cast(count, "INTEGER").sql
    if count.literal is None or count.literal.startswith("-"):
        size = f"char_length({value.sql})"
        number = f"CASE WHEN {number} < 0 THEN {size} + {number} ELSE {number} END"
    return Value(f"{call.name}({value.sql}, {number})", "VARCHAR")


@FUNCTIONS.tells("substr", "substring")
def _substr(t: Translator, call: Call) -> Value:
    value, start, *size = (
        call.args[0],
        *(t.cast(arg, "INTEGER") for arg in call.args[1:]),
    )
    plain = [t.whole(arg) for arg in call.args[1:]]
    if (plain[0] or 0) > 0 and (not size or (plain[1] is not None and plain[1] >= 0)):
        return Value(f"substr({', '.join(v.sql for v in (value, start, *size))})", "VARCHAR")
    told = t.let(value.sql, lambda text: _cut(text, start.sql, size[0].sql if size else None))
    return Value(told, "VARCHAR")


def _cut(text: str, start: str, size: str | None) -> str:
    """A part of a text from anywhere: from the end, from before it, backwards."""
    length = f"char_length({text})"
    first = (
        f"CASE WHEN {start} > 0 THEN {start} - 1 WHEN {start} = 0 THEN -1"
        f" ELSE {length} + {start} END"
    )
    low, high = first, length
    if size is not None:
        low = f"(({first}) + least({size}, 0))"
        high = f"(({first}) + greatest({size}, 0))"
    low = f"greatest({low}, 0)"
    nothing = f"{start} IS NULL" + (f" OR {size} IS NULL" if size is not None else "")
    return (
        f"CASE WHEN {nothing} THEN NULL"
        f" ELSE substr({text}, {low} + 1, greatest({high} - {low}, 0)) END"
    )


@FUNCTIONS.tells("split_part")
def _split_part(t: Translator, call: Call) -> Value:
    if call.args[1].literal in (None, "''"):
        raise refuse("split_part() by a computed or empty text", "write the text to split by")
    number = t.cast(call.args[2], "INTEGER").sql
    told = f"split_part({call.text(0)}, {call.text(1)}, {number})"
    if not t.whole(call.args[2]):
        told = f"CASE WHEN {number} = 0 AND {call.text(0)} IS NOT NULL THEN '' ELSE {told} END"
    return Value(told, "VARCHAR")


@FUNCTIONS.tells("string_split", "str_split", "split", "string_to_array")
def _string_split(t: Translator, call: Call) -> Value:
    if call.args[1].literal in (None, "''"):
        raise refuse(f"{call.name}() by a computed or empty text", "write the text to split by")
    pattern = re.sub(r"(\W)", r"\\\1", str(t.evaluated(call.args[1].literal or "")))
    return Value(f"split({call.text(0)}, {string(pattern)}, -1)", "VARCHAR[]")


@FUNCTIONS.tells("~~", "!~~", "~~*", "!~~*")
@FUNCTIONS.tells("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape")
def _like(t: Translator, call: Call) -> Value:
    value, pattern = call.text(0), f"replace({call.text(1)}, '\\\\', '\\\\\\\\')"
    escape = t.evaluated(call.args[2].literal or "''") if len(call.args) > 2 else ""
    if call.args[1].literal is not None:
        pattern = string(_like_pattern(str(t.evaluated(call.args[1].literal)), str(escape)))
    elif len(call.args) > 2:
        raise refuse("LIKE with a computed pattern and ESCAPE", "write the pattern as a text")
    if "*" in call.name or "ilike" in call.name:
        value, pattern = (
            t.let(one, lambda text: _in_letters("lower", text)) for one in (value, pattern)
        )
    word = "NOT LIKE" if call.name.startswith(("!", "not")) else "LIKE"
    return Value(f"({value} {word} {pattern})", "BOOLEAN")


def _like_pattern(pattern: str, escape: str) -> str:
    """A pattern in which a backslash escapes, as Spark wants it."""
    told, letters = "", iter(pattern)
    for letter in letters:
        if escape and letter == escape:
            letter = next(letters, "")  # noqa: PLW2901 the one that it makes plain
            told += f"\\{letter}" if letter in "%_\\" and letter else letter
        else:
            told += "\\\\" if letter == "\\" else letter
    return told


@FUNCTIONS.tells("json_object")
def _json_object(t: Translator, call: Call) -> Value:
    keys, values = call.args[::2], call.args[1::2]
    parts = []
    for key, value in zip(keys, values, strict=True):
        if key.literal is None or value.type not in TEXTS:
            raise refuse("json_object() of anything but texts", "cast the values to VARCHAR")
        told = json.dumps(str(t.evaluated(key.literal)), ensure_ascii=False) + ":"
        parts.append(f"{string(told)}, coalesce({_json_text(value.sql)}, 'null')")
    inside = ", ',', ".join(parts)
    return Value(f"concat('{{', {inside}, '}}')" if parts else "'{}'", "JSON")


def _json_text(value: str) -> str:
    return f"substr(to_json(array({value})), 2, length(to_json(array({value}))) - 2)"


@FUNCTIONS.tells("json_extract_string")
def _json_extract(t: Translator, call: Call) -> Value:
    if call.args[1].literal != "'$.*'":
        raise refuse("json_extract_string()", AT_HAND)
    return Value(f"map_values(from_json({call.text(0)}, 'MAP<STRING,STRING>'))", "VARCHAR[]")


@FUNCTIONS.tells("json_keys")
def _json_keys(t: Translator, call: Call) -> Value:
    return Value(f"json_object_keys({call.text(0)})", "VARCHAR[]")
