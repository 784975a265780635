"""Regular expressions: RE2's, which DuckDB takes, in the words of Java, which Spark takes."""

from __future__ import annotations

import re
from typing import ClassVar

from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.values import Value, refuse, string
from retailmart.errors import RetailmartError

FUNCTIONS = Functions()


@FUNCTIONS.tells("regexp_full_match", "regexp_matches")
def _regexp(t: Translator, call: Call) -> Value:
    pattern = _pattern(t, call, 2)
    if call.name == "regexp_full_match":
        pattern = rf"\A(?:{pattern})\z"
    return Value(f"({call.text(0)} RLIKE {string(pattern)})", "BOOLEAN")


@FUNCTIONS.tells("regexp_extract")
def _regexp_extract(t: Translator, call: Call) -> Value:
    group = t.whole(call.args[2]) if len(call.args) > 2 else 0
    if group is None:
        raise refuse("regexp_extract() of named or computed groups", "write the group's number")
    pattern = string(_pattern(t, call, 3))
    return Value(f"regexp_extract({call.text(0)}, {pattern}, {group})", "VARCHAR")


@FUNCTIONS.tells("regexp_replace")
def _regexp_replace(t: Translator, call: Call) -> Value:
    if call.args[2].literal is None:
        raise refuse("regexp_replace() with a computed text", "write the text to put there")
    pattern = _pattern(t, call, 3)
    if r"(?<" in pattern or t.evaluated(f"regexp_matches('', {call.args[1].literal})"):
        raise refuse("regexp_replace() of what may be empty", "let the pattern take a letter")
    shift = 0
    if "g" not in _flags(t, call, 3):  # all before the first is put back as it was
        pattern, shift = rf"\A([\s\S]*?)(?:{pattern})", 1
    told = "$1" if shift else ""
    text = str(t.evaluated(call.args[2].literal))
    for number, slash, plain in re.findall(r"\\(\d)|(\\.?)|([^\\]+)", text):
        if slash and slash != "\\\\":
            raise refuse(f"the replacement {text!r}", "use \\1 to \\9 and plain text")
        plain = "\\" if slash else plain  # noqa: PLW2901 what the slash stands for
        told += f"${int(number) + shift}" if number else ""
        told += re.sub(r"([\\$0-9])", r"\\\1", plain)  # a figure would belong to a group's
    return Value(
        f"regexp_replace({call.text(0)}, {string(pattern)}, {string(told)})",
        "VARCHAR",
    )


def _pattern(t: Translator, call: Call, options: int) -> str:
    """A pattern of RE2 in Java's words."""
    if any(arg.literal is None for arg in call.args[1:2] + call.args[options:]):
        raise refuse(f"{call.name}() with a computed pattern", "write the pattern as a text")
    flags = _flags(t, call, options)
    if strange := set(flags) - set("gcis"):
        raise refuse(f"{call.name}() with the options {sorted(strange)}", "use i, s or g")
    pattern = str(t.evaluated(call.args[1].literal or "''"))
    return _JavaPattern(pattern, ignoring_case="i" in flags, dot_all="s" in flags).told()


def _flags(t: Translator, call: Call, options: int) -> str:
    return str(t.evaluated(call.args[options].literal or "''")) if len(call.args) > options else ""


_ANY, _ANY_OF_A_LINE = r"[\s\S]", r"[^\n]"


class _JavaPattern:
    """RE2's pattern in the words of Java: letter by letter, and refused where they differ."""

    _CLASSES: ClassVar = {
        "d": "0-9",
        "w": "0-9A-Za-z_",
        "s": r"\t\n\f\r ",
        "alpha": "A-Za-z",
        "digit": "0-9",
        "alnum": "0-9A-Za-z",
        "upper": "A-Z",
        "lower": "a-z",
        "space": r"\t-\r ",
        "blank": r"\t ",
        "word": "0-9A-Za-z_",
        "xdigit": "0-9A-Fa-f",
        "punct": r"!-/:-@\[-`{-~",
    }
    _WORD = "[0-9A-Za-z_]"
    _BOUND = rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"

    def __init__(self, pattern: str, *, ignoring_case: bool, dot_all: bool) -> None:
        self._pattern = pattern
        self._at = 0
        # What a dot means in each of the groups that are open.
        self._dots = [_ANY if dot_all else _ANY_OF_A_LINE]
        self._start = "(?iu)" if ignoring_case else ""

    def told(self) -> str:
        """The whole pattern."""
        parts = [self._start]
        while self._at < len(self._pattern):
            parts.append(self._next())
        return "".join(parts)

    def _refuse(self, what: str) -> RetailmartError:
        return refuse(f"{what} in the pattern {self._pattern!r}", "write it in plainer signs")

    def _take(self, pattern: str) -> str | None:
        match = re.compile(pattern).match(self._pattern, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _next(self) -> str:
        if self._take(r"\["):
            return self._set()
        if self._take(r"\\"):
            return self._escaped(within=False)
        if opened := self._take(r"\((?:\?(?:P?<\w+>|[imsU]*(?:-[imsU]+)?[:)]))?"):
            return self._group(opened)
        if repeated := self._take(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??"):
            return repeated
        letter = self._pattern[self._at]
        self._at += 1
        if letter == ".":
            return self._dots[-1]
        if letter == "$":
            return r"\z"
        if letter == "^":
            return r"\A"
        if letter == ")" and len(self._dots) > 1:
            self._dots.pop()
        return letter if letter in "|()" else _plain_letter(letter)

    def _group(self, opened: str) -> str:
        """A group's beginning, or flags for the rest of the one that is open."""
        flags = "" if "<" in opened else opened[2:-1]
        if strange := set(flags) - {"i", "s"}:
            raise self._refuse(f"the flags {''.join(sorted(strange))}")
        if not opened.endswith(")"):
            self._dots.append(self._dots[-1])
        if "s" in flags:
            self._dots[-1] = _ANY
        if not flags:
            return "(" if "<" in opened else opened
        if "i" in flags:
            return f"(?iu{opened[-1]}"
        return "" if opened.endswith(")") else "(?:"

    def _escaped(self, *, within: bool) -> str:
        if code := self._take(r"x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}"):
            return _plain_letter(chr(int(code.strip("x{}"), 16)))
        letter = self._take(r"[\s\S]") or ""
        if letter in "dws":
            return self._CLASSES[letter] if within else f"[{self._CLASSES[letter]}]"
        if letter in "DWS" and not within:
            return f"[^{self._CLASSES[letter.lower()]}]"
        if letter in "tnfrv":
            return {"v": r"\x0b"}.get(letter, f"\\{letter}")
        if letter in "bAz" and not within:
            return self._BOUND if letter == "b" else f"\\{letter}"
        if letter and not letter.isalnum():
            return _plain_letter(letter)
        raise self._refuse(f"\\{letter}")

    def _set(self) -> str:
        told = "[^" if self._take(r"\^") else "["
        first = True
        while first or not self._take(r"\]"):
            first = False
            if self._at >= len(self._pattern):
                raise self._refuse("an open [")
            if name := self._take(r"\[:\w+:\]"):
                if name[2:-2] not in self._CLASSES:
                    raise self._refuse(name)
                told += self._CLASSES[name[2:-2]]
            elif self._take(r"\\"):
                told += self._escaped(within=True)
            elif self._take(r"-(?=[^\]])") and not told.endswith(("[", "^")):
                told += "-"
            else:
                told += _plain_letter(self._take(r"[\s\S]") or "")
        return told + "]"


def _plain_letter(letter: str) -> str:
    """One letter that means itself, in a set and elsewhere."""
    if letter.isalnum() or ord(letter) > 127:
        return letter
    return f"\\x{ord(letter):02x}"
