"""Translates SQLite's errors to ours."""

from __future__ import annotations

from retailmart.database.errors import NotThisTable
from retailmart.errors import RetailmartError, Unavailable

_PASSING = ("database is locked", "database table is locked")
_IO = "disk I/O error"
_IO_FIX = (
    "See whether the database's disk is full, or is broken or away: df -h; then run again:"
    " retailmart run"
)


def message_of(error: BaseException) -> str:
    """The library's message."""
    return str(error) or type(error).__name__


def is_contention(error: BaseException) -> bool:
    """Never: SQLite waits for its lock, and then says that the file is busy."""
    return False


def is_denied(error: BaseException) -> bool:
    """Never: SQLite has no accounts."""
    return False


def translate(name: str, error: BaseException, *, broken: bool) -> RetailmartError:
    """Translate an error of the library to one of ours."""
    said = message_of(error)
    shown = f"{name}: {said}"
    if _IO in said:
        # The library says so of a full disk, too, where it creates files next to the database.
        return NotThisTable(shown, _IO_FIX)
    if any(passing in said for passing in _PASSING):
        return Unavailable(shown, "Run again; another program holds the database's file")
    if "disk is full" in said:
        fix = "Make room where the database keeps its data, then run again"
        return NotThisTable(shown, fix)
    if "readonly database" in said or "unable to open" in said:
        fix = "Let this account write to the database's file and folder"
        return NotThisTable(shown, fix)
    if "not a database" in said:
        return RetailmartError(shown, "Check `database` and `sources` in retailmart.yml")
    return RetailmartError(shown)
