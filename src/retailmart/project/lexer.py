"""Finds the words of a query and the variables that it reads, without an engine.

Comments and texts are ignored. `check` verifies with the engine's parser that nothing was
overlooked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

# A project's marts and rules are requested again at each step.
_QUERIES: Final = 1_000
_TOKEN = re.compile(
    r"""--[^\n]*
    | (?P<comment>/\*)
    | (?P<dollar>\$(?P<tag>[A-Za-z_]\w*)?\$ .*? \$(?P=tag)?\$)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<text>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*")
    | (?P<word>\w+)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
# Tokens before a `*` that means all columns; otherwise it multiplies or counts.
_BEFORE_STAR = {"select", "distinct", "all", ",", "."}
# Tokens after a `*` of this kind that a bracket precedes, as in DISTINCT ON (a) *.
_BEHIND_STAR = {"from", ",", ")", "exclude", "replace", "rename", ""}
_ALL_COLUMNS = {"columns", "natural", "pivot", "unpivot", "summarize", "describe", "table"}
_SETS = {"union", "except", "intersect"}
# The functions that read a variable, and what stands after its name.
_READS_VARIABLE: Final = {"getvariable": ")", "variable_on": ","}
_COMMENT = re.compile(r"/\*|\*/")

Token = tuple[str, str]


def tokens(query: str) -> Iterator[Token]:
    """The kinds and values of a query's tokens: word, text, other. Quoted names are words."""
    at = 0
    while (found := _TOKEN.search(query, at)) is not None:
        at = found.end()
        kind, text = found.lastgroup, found[0]
        if kind == "comment":
            at = _end_of_comment(query, at)
        elif kind in ("text", "escaped"):
            yield "text", text[text.index("'") + 1 : -1].replace("''", "'")
        elif found["dollar"] is not None:
            mark = len(found["tag"] or "") + 2
            yield "text", text[mark:-mark]
        elif kind == "name":
            yield "word", text[1:-1].replace('""', '"')
        elif kind is not None:
            yield kind, text


def _end_of_comment(query: str, at: int) -> int:
    """The end of a comment that has begun; comments can be nested."""
    depth = 1
    for mark in _COMMENT.finditer(query, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(query)


@lru_cache(_QUERIES)
def words_of(query: str) -> frozenset[str]:
    """All words and quoted names of a query, in lower case."""
    return frozenset(text.lower() for kind, text in tokens(query) if kind == "word")


@lru_cache(_QUERIES)
def variables_of(query: str) -> frozenset[str]:
    """The names in `getvariable('name')` and `variable_on('name', day)`, in lower case.

    The engine ignores case.
    """
    listed = list(tokens(query))
    return frozenset(
        name[1].lower()
        for call, bracket, name, end in zip(
            listed, listed[1:], listed[2:], listed[3:], strict=False
        )
        if call[0] == "word" and (after := _READS_VARIABLE.get(call[1].lower()))
        if (bracket, name[0], end) == (("other", "("), "text", ("other", after))
    )


def takes_all_columns(query: str) -> bool:
    """Whether a query may read unnamed columns: by `*`, NATURAL, or FROM without SELECT.

    If words alone cannot decide, for example because one is a column's name, the answer is True.
    """
    listed = ["", *("'" if kind == "text" else text.lower() for kind, text in tokens(query)), ""]
    chosen = [False]  # for each open bracket: whether it contains a SELECT
    for before, word, behind in zip(listed, listed[1:], listed[2:], strict=False):
        if word == "*" and (before in _BEFORE_STAR or (before == ")" and behind in _BEHIND_STAR)):
            return True
        if word in _ALL_COLUMNS:
            return True
        if word == "from" and not chosen[-1] and before in {"", "(", ")", *_SETS, "all", "name"}:
            return True
        if word == "(":
            chosen.append(False)
        elif word == ")" and len(chosen) > 1:
            chosen.pop()
        elif word == "select" or word in _SETS:
            chosen[-1] = word == "select"
    return False
