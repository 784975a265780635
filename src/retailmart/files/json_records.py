"""The records of a JSON file, one by one with number and raw text, however irregular the file.

A file is an array of objects, or one object a line; its content shows which. Or, if the feed says
so, it is an array within an object (`records`). Python's json module decides what JSON is. Numbers
stay the text that was delivered: no amount goes through a float.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, BinaryIO

from retailmart.files.records import ParseError
from retailmart.files.scan import LONGEST_RECORD

# Engines differ in how deep they follow; no real row is nested like this.
DEEPEST = 64
_CHUNK = 1 << 20
# The text around a list of records is short; it is held in memory to be skipped.
_LONGEST_BESIDE = 1 << 25
_BLANK = " \t\r\n"
_BLANKS = re.compile(f"[{_BLANK}]*")
_BRACKET = re.compile(r'["{}\[\]]')
_QUOTE = re.compile(r'"|\\.', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_LONG = ParseError("too_long", f"the record is longer than {LONGEST_RECORD:,} bytes")
_TOO_DEEP = ParseError("too_deep", f"the record is nested more than {DEEPEST} levels deep")


class Number(str):
    """A number as it was delivered."""

    __slots__ = ()


class NotFinite(str):
    """NaN or Infinity: many programs write them, but JSON does not have them."""

    __slots__ = ()


class Repeated(dict[str, Any]):
    """An object in which a key occurs more than once."""

    key: str = ""


@dataclass(frozen=True)
class JsonRecord:
    """One record: its number from 1, its text as delivered, its members.

    `members` is None if it is not a readable object. With a `parse_error`, it is not a row.
    """

    number: int
    raw: str
    members: dict[str, Any] | None
    parse_error: ParseError | None = None

    def pointer(self, *keys: str) -> str:
        """The JSON pointer of a member in the file's list of records, which counts from 0."""
        escaped = (key.replace("~", "~0").replace("/", "~1") for key in keys)
        return "/".join(("", str(self.number - 1), *escaped))


class BrokenJson(Exception):
    """A file that can't be cut into records; the message says where and why."""


def is_array(path: Path) -> bool:
    """Whether a file's first character that is not blank opens a list."""
    with path.open("rb") as file:
        _skip_mark(file)
        while chunk := file.read(_CHUNK):
            if text := chunk.lstrip(_BLANK.encode()):
                return text.startswith(b"[")
    return False


def json_records(path: Path, inside: str | None = None) -> Iterator[JsonRecord]:
    """All records. Raises BrokenJson if a list is broken; a broken line is one malformed record.

    `inside` is the key of the list in the object around it; dots separate nested keys.
    """
    array = is_array(path)
    with path.open("rb") as file:
        begin = _skip_mark(file)
        if inside is not None:
            yield from _wrapped(_Tape(file, begin), inside)
        else:
            yield from _elements(_Tape(file, begin)) if array else _lines(file)


def text_of(value: Any) -> str:
    """A value as JSON text without blanks, its numbers as delivered."""
    if isinstance(value, Number | NotFinite):
        return value + ""
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        inner = (f"{encode_basestring(key)}:{text_of(item)}" for key, item in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return {True: "true", False: "false", None: "null"}[value]


def plain_of(value: Any) -> str:
    """The text of a cell with this value: a text without its quotes, nothing for null."""
    if isinstance(value, str):
        return value + ""
    return "" if value is None else text_of(value)


def parse_error_of_members(record: JsonRecord, members: dict[str, Any]) -> ParseError | None:
    """What makes the members of an object unfit for a row, and where."""
    return _parse_error(members, record, ())


def _parse_error(value: Any, record: JsonRecord, place: tuple[str, ...]) -> ParseError | None:
    if isinstance(value, dict):
        if len(place) >= DEEPEST:
            return _TOO_DEEP
        if isinstance(value, Repeated):
            message = f"names the key {value.key!r} more than once"
            return ParseError("duplicate_key", f"{message}, at {record.pointer(*place, value.key)}")
        for key, item in value.items():
            if parse_error := _text_error(key, record, place) or _parse_error(
                item, record, (*place, key)
            ):
                return parse_error
    elif isinstance(value, list):
        if len(place) >= DEEPEST:
            return _TOO_DEEP
        for number, item in enumerate(value):
            if parse_error := _parse_error(item, record, (*place, str(number))):
                return parse_error
    elif isinstance(value, NotFinite):
        message = f"{value} is no number of JSON's, at {record.pointer(*place)}"
        return ParseError("not_finite", message)
    elif isinstance(value, str):
        return _text_error(value, record, place)
    return None


def _text_error(text: str, record: JsonRecord, place: tuple[str, ...]) -> ParseError | None:
    if "\0" in text:
        return ParseError("nul_byte", f"a text holds a NUL character, at {record.pointer(*place)}")
    if not text.isascii() and _SURROGATE.search(text):
        message = f"a text holds one half of a character, at {record.pointer(*place)}"
        return ParseError("encoding", message)
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated, seen = Repeated(found), set()
    for key, _ in pairs:
        if key in seen:
            repeated.key = key
            break
        seen.add(key)
    return repeated


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=NotFinite
)


def _skip_mark(file: BinaryIO) -> int:
    """Skip a byte order mark. Returns its length in bytes."""
    size = len(codecs.BOM_UTF8)
    if file.read(size) == codecs.BOM_UTF8:
        return size
    file.seek(0)
    return 0


def _record(number: int, raw: str, value: Any) -> JsonRecord:
    if len(raw) > LONGEST_RECORD or (not raw.isascii() and len(raw.encode()) > LONGEST_RECORD):
        return _too_long(number, raw)
    if isinstance(value, dict):
        return JsonRecord(number, raw, value)
    word = "a list" if isinstance(value, list) else "a single value"
    parse_error = ParseError("no_object", f"the record is {word}, not an object, at /{number - 1}")
    return JsonRecord(number, raw, None, parse_error)


def _too_long(number: int, raw: str) -> JsonRecord:
    return JsonRecord(number, f"{raw[:LONGEST_RECORD]}…", None, _TOO_LONG)


# one object a line


def _lines(file: BinaryIO) -> Iterator[JsonRecord]:
    number = 0
    blanks = _BLANK.encode()
    while line := file.readline(_CHUNK + 2 * LONGEST_RECORD):
        if not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(_CHUNK)
        if text := line.strip(blanks):
            number += 1
            yield _line(number, text)


def _line(number: int, line: bytes) -> JsonRecord:
    if len(line) > LONGEST_RECORD:
        return _too_long(number, line.decode(errors="backslashreplace"))
    try:
        raw = line.decode()
    except UnicodeDecodeError as error:
        shown = line.decode(errors="backslashreplace")
        message = f"the record is not UTF-8, from its byte {error.start + 1} on"
        return JsonRecord(number, shown, None, ParseError("encoding", message))
    try:
        value, end = _DECODER.raw_decode(raw)
    except json.JSONDecodeError as error:
        message = f"the line is no JSON: {_why(error)} at its character {error.pos + 1}"
        return JsonRecord(number, raw, None, ParseError("json", message))
    except RecursionError:
        return JsonRecord(number, raw, None, _TOO_DEEP)
    if end < len(raw):
        message = f"the line is no JSON: something follows the object at its character {end + 1}"
        return JsonRecord(number, raw, None, ParseError("json", message))
    return _record(number, raw, value)


def _why(error: json.JSONDecodeError) -> str:
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" at")


# a list


class _Tape:
    """The text of a file; a window of it is in memory."""

    def __init__(self, file: BinaryIO, begin: int) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._bytes = begin
        self._line = 1
        self.text = ""
        self.ended = False

    def fill(self, keep_from: int) -> None:
        """Drop the text before `keep_from`, which becomes position 0, and read one more chunk."""
        gone = self.text[:keep_from]
        self._bytes += len(gone) if gone.isascii() else len(gone.encode())
        self._line += gone.count("\n")
        chunk = self._file.read(_CHUNK)
        self.ended = not chunk
        try:
            more = self._decoder.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            at = self._file.tell() - len(error.object) + error.start + 1
            raise BrokenJson(f"is not UTF-8, from byte {at:,} on") from error
        self.text = self.text[keep_from:] + more

    def broken(self, position: int, why: str) -> BrokenJson:
        """The error that the file is not JSON at a position of the text."""
        before = self.text[:position]
        place = f"byte {self._bytes + len(before.encode()) + 1:,}"
        line = self._line + before.count("\n")
        return BrokenJson(f"is no JSON: {why} at {place}, line {line:,}")

    def after_blanks(self, position: int) -> int:
        """The position of the next character that is not blank; the text's length at the end."""
        while True:
            position = _blank_end(self.text, position)
            if position < len(self.text) or self.ended:
                return position
            self.fill(position)
            position = 0


def _elements(tape: _Tape) -> Iterator[JsonRecord]:
    position = yield from _list(tape, tape.after_blanks(0))
    position = tape.after_blanks(position)
    if position < len(tape.text):
        raise tape.broken(position, "something follows the list")


def _list(tape: _Tape, position: int) -> Generator[JsonRecord, None, int]:
    """The elements of the list that begins at a position. Returns the position of its end."""
    position = tape.after_blanks(position + 1)
    number = 0
    if tape.text[position : position + 1] == "]":
        position += 1
    else:
        while True:
            number += 1
            record, position = _element(tape, position, number)
            yield record
            position = tape.after_blanks(position)
            mark = tape.text[position : position + 1]
            if mark == "]":
                position += 1
                break
            if mark != ",":
                why = "the list is not closed" if not mark else "expecting ',' or ']'"
                raise tape.broken(position, why)
            position = tape.after_blanks(position + 1)
            if tape.text[position : position + 1] == "]":
                raise tape.broken(position, "a comma stands before the end of the list")
    return position


# a list in an object


def _wrapped(tape: _Tape, inside: str) -> Iterator[JsonRecord]:
    position = tape.after_blanks(0)
    if tape.text[position : position + 1] != "{":
        raise BrokenJson(f"is no object with a list of records in {inside!r}")
    position = yield from _within(tape, position, tuple(inside.split(".")), inside)
    position = tape.after_blanks(position)
    if position < len(tape.text):
        raise tape.broken(position, "something follows the object")


def _within(
    tape: _Tape, position: int, keys: tuple[str, ...], inside: str
) -> Generator[JsonRecord, None, int]:
    """The records in the object that begins at a position. Returns the position of its end.

    All of the object is read: otherwise a second list of the same name would be lost silently.
    """
    found = False
    position = tape.after_blanks(position + 1)
    while tape.text[position : position + 1] != "}":
        key, position = _value(tape, position)
        if not isinstance(key, str) or isinstance(key, Number | NotFinite):
            raise tape.broken(position, "expecting a key")
        position = _after(tape, position, ":")
        mark = tape.text[position : position + 1]
        if key == keys[0]:
            if found:
                raise BrokenJson(f"names the key {key!r} more than once")
            found = True
            if mark != ("{" if keys[1:] else "["):
                raise BrokenJson(f"has no list of records in {inside!r}")
            if keys[1:]:
                position = yield from _within(tape, position, keys[1:], inside)
            else:
                position = yield from _list(tape, position)
        else:
            _, position = _value(tape, position)
        position = tape.after_blanks(position)
        if tape.text[position : position + 1] != "}":
            position = _after(tape, position, ",")
            if tape.text[position : position + 1] == "}":
                raise tape.broken(position, "a comma stands before the end of the object")
    if not found:
        raise BrokenJson(f"has no key {keys[0]!r}, in which the feed's records should be")
    return position + 1


def _after(tape: _Tape, position: int, mark: str) -> int:
    """The position after the character `mark` and the blanks that follow it."""
    position = tape.after_blanks(position)
    if tape.text[position : position + 1] != mark:
        raise tape.broken(position, f"expecting {mark!r}")
    return tape.after_blanks(position + 1)


def _value(tape: _Tape, position: int) -> tuple[Any, int]:
    """A value next to the records, and the position of its end."""
    while True:
        try:
            value, end = _DECODER.raw_decode(tape.text, position)
        except RecursionError as error:
            raise tape.broken(position, "a value is nested too deeply") from error
        except json.JSONDecodeError as error:
            if tape.ended or len(tape.text) - position > _LONGEST_BESIDE:
                raise tape.broken(error.pos, _why(error)) from error
        else:
            if end < len(tape.text) or tape.ended:
                return value, end
        tape.fill(position)
        position = 0


def _element(tape: _Tape, position: int, number: int) -> tuple[JsonRecord, int]:
    """The element that begins at a position, and the position of its end."""
    while True:
        enough = tape.ended or len(tape.text) - position > 2 * LONGEST_RECORD
        try:
            value, end = _DECODER.raw_decode(tape.text, position)
        except RecursionError:
            return _skipped(tape, position, number, _TOO_DEEP)
        except json.JSONDecodeError as error:
            if not enough:
                tape.fill(position)
                position = 0
                continue
            if tape.ended or tape.text[position] not in "{[":
                raise tape.broken(error.pos, _why(error)) from error
            return _skipped(tape, position, number, None, error)
        # If the text ends within a number, its first digits look like all of it.
        if end == len(tape.text) and not tape.ended:
            tape.fill(position)
            position = 0
            continue
        return _record(number, tape.text[position:end], value), end


def _skipped(
    tape: _Tape,
    position: int,
    number: int,
    parse_error: ParseError | None,
    error: json.JSONDecodeError | None = None,
) -> tuple[JsonRecord, int]:
    """Skip an element by its brackets alone, which takes no memory.

    An element that is not too long and has no other error is broken; BrokenJson says why.
    """
    broken = tape.broken(error.pos, _why(error)) if error else None
    head: list[str] = []
    size = depth = 0
    inside = False
    while True:
        found = (_QUOTE if inside else _BRACKET).search(tape.text, position)
        # A backslash at the end of the text belongs to the next character.
        waits = inside and position < len(tape.text) and tape.text[-1] == "\\"
        end = found.end() if found else len(tape.text) - waits
        passed = tape.text[position:end]
        if size <= LONGEST_RECORD:
            head.append(passed)
        size += len(passed) if passed.isascii() else len(passed.encode())
        position = end
        if not found:
            if tape.ended:
                raise broken or tape.broken(position, "the list is not closed")
            tape.fill(position)
            position = 0
            continue
        mark = found[0]
        if mark == '"':
            inside = not inside
        elif mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
            if depth == 0:
                break
    if size > LONGEST_RECORD:
        return _too_long(number, "".join(head)), position
    if broken:
        raise broken
    return JsonRecord(number, "".join(head), None, parse_error), position


def written(raw: str) -> tuple[tuple[str, ...], tuple[str, ...], str] | None:
    """How an object is written: its keys, the text before each value, the text after the last."""
    keys: list[str] = []
    before: list[str] = []
    mark = position = 0
    end = raw.find("{") + 1
    while (position := _blank_end(raw, end)) < len(raw) and raw[position] in ',"':
        position = _blank_end(raw, position + (raw[position] == ","))
        key, position = _DECODER.raw_decode(raw, position)
        position = _blank_end(raw, _blank_end(raw, position) + 1)
        keys.append(key)
        before.append(raw[mark:position])
        _, mark = _DECODER.raw_decode(raw, position)
        end = mark
    return (tuple(keys), tuple(before), raw[mark:]) if keys else None


def _blank_end(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position
