"""Translates errors inside an engine to ours. Engines pass errors on as texts."""

from __future__ import annotations

import re

from retailmart.errors import EngineFailed, NotComputed, RetailmartError, WrongMonth
from retailmart.project.functions import FILE, FunctionFailed

WRONG_MONTH = "retailmart: a row outside month "
_IN_WORKER = f"{RetailmartError.__module__}.{RetailmartError.__name__}: "
# A table's version names its files one by one.
_GONE = re.compile(r'No files found that match the pattern "([^"]+\.parquet)"')
_IN_FUNCTION = f"{FunctionFailed.__name__}: "


def ours(words: str) -> RetailmartError | None:
    """Our error in an engine's error text; None if the text holds none."""
    if WRONG_MONTH in words:
        month = words.split(WRONG_MONTH, 1)[1][:7]
        return WrongMonth(
            f"a row does not belong to the month it was computed from, {month}",
            "The mart's first partition must be the month of its rows: select s._month",
        )
    if (gone := _GONE.search(words)) is not None:
        return EngineFailed(
            f"a file of the lake that a table names is not there: {gone[1]}",
            "Put it back, as from a backup: retailmart doctor lists all that are missing",
        )
    if _IN_FUNCTION in words:
        return NotComputed(
            words.split(_IN_FUNCTION, 1)[1].splitlines()[0], f"Correct {FILE} and run again"
        )
    if _IN_WORKER in words:
        message, *hint = words.split(_IN_WORKER, 1)[1].splitlines()
        own_hint = hint[0].strip() if hint and hint[0].startswith("  ") else None
        return RetailmartError(message, own_hint)
    return None
