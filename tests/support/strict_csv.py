"""A strict reading of CSV, character by character, that shares nothing with the package.

A record spans lines only where a quoted cell opens and closes as RFC 4180 says. Where one does not,
the record's first line is malformed, and the next line begins a record. Two liberties are taken:
a quote within a bare cell is text, and so are blanks behind a closing quote, if the cell is of one
line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_LINES = 1000


@dataclass(frozen=True)
class StrictRecord:
    """A record: the line it begins on (from 1), how many it takes, and its text and cells.

    `cells` is None where the line is malformed.
    """

    line: int
    count: int
    raw: str
    cells: tuple[str, ...] | None


def physical_lines(text: str) -> list[str]:
    """The lines with their ends: LF, CRLF or CR."""
    return io.StringIO(text, newline="").readlines()


def strict_records(text: str, delimiter: str = ",") -> Iterator[StrictRecord]:
    """All records of a text but blank lines, the header's first."""
    lines = physical_lines(text)
    at = 0
    while at < len(lines):
        if not lines[at].rstrip("\r\n"):
            at += 1
            continue
        found = _record(lines, at, delimiter)
        count, cells = found or (1, None)
        raw = "".join(lines[at : at + count]).rstrip("\r\n")
        yield StrictRecord(at + 1, count, raw, cells)
        at += count


def _record(lines: Sequence[str], begin: int, delimiter: str) -> tuple[int, tuple[str, ...]] | None:
    """How many lines a record takes and its cells; None where it is malformed."""
    cells: list[str] = []
    cell, state = "", "start"
    spans = False
    for number in range(begin, min(len(lines), begin + MOST_LINES)):
        line = lines[number]
        body = line.rstrip("\r\n")
        at = 0
        while at < len(body):
            sign = body[at]
            at += 1
            if state == "quoted":
                if sign != '"':
                    cell += sign
                elif body[at : at + 1] == '"':
                    cell += sign
                    at += 1
                else:
                    state = "closed"
            elif sign == delimiter:
                cells.append(cell)
                cell, state, spans = "", "start", False
            elif state == "start" and sign == '"':
                state = "quoted"
            elif state == "closed" and (spans or sign not in " \t"):
                return None
            else:
                cell += sign
                state = "closed" if state == "closed" else "bare"
        if state != "quoted":
            return number - begin + 1, (*cells, cell)
        cell += line[len(body) :]
        spans = True
    return None
