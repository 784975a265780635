"""`retailmart` without what makes it durable: what syncs, hashes and a safe ledger cost.

Never of use but to measure: nothing is synced, contents are told apart by their order, and SQLite
neither syncs nor keeps a journal on disk.
"""

from __future__ import annotations

import os
import sqlite3
from itertools import count
from types import SimpleNamespace
from typing import Any

from retailmart.cli import main
from retailmart.files import discover

_numbers = count(1)


class _Unhashed:
    """A digest of nothing: another one each time."""

    def __init__(self, *_: object) -> None:
        self._text = f"{next(_numbers):064x}"

    def update(self, _: bytes) -> None:
        """Look at nothing."""

    def hexdigest(self) -> str:
        """64 hexadecimal digits, as of SHA-256."""
        return self._text


class _Unsynced(sqlite3.Connection):
    """Takes no order to be safe."""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement.startswith("PRAGMA synchronous"):
            statement = "PRAGMA synchronous = OFF"
        if statement.startswith("PRAGMA journal_mode"):
            statement = "PRAGMA journal_mode = MEMORY"
        return super().execute(statement, *arguments)


def unsafe() -> None:
    """Switch durability off in this process."""
    os.fsync = lambda _: None
    discover.hashlib = SimpleNamespace(sha256=_Unhashed)  # type: ignore[assignment]
    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **k: connect(*a, **{**k, "factory": _Unsynced})  # type: ignore
    sqlite3.dbapi2.connect = sqlite3.connect  # type: ignore[attr-defined]


if __name__ == "__main__":
    unsafe()
    main()
