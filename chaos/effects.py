"""Outside effects of a run: found by watching it, counted, and one of them its last.

An audit hook sees every file opened for writing and every change of a folder. Wrappers see what
Python's audit does not, or only from one side: the system calls in `os`, DuckDB's COPY, Arrow's
Parquet writer, whatever of the Delta library and the object store is not known to only read,
database statements and commits. What is new in one of them is an effect until it is known to read.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import isfunction
from pathlib import Path
from typing import Any

Arguments = tuple[Any, ...]
Named = Mapping[str, Any]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDITED_READS = frozenset(
    {
        "os.add_dll_directory",
        "os.fork",
        "os.fwalk",
        "os.getxattr",
        "os.listdir",
        "os.listxattr",
        "os.putenv",
        "os.scandir",
        "os.unsetenv",
        "os.walk",
    }
)
# No audit event tells that these are over, or (fsync) that they happen at all.
_CALLS = ("fsync", "fdatasync", "link", "mkdir", "remove", "rename", "replace", "rmdir", "unlink")
_DELTA_READS = frozenset(
    {
        "version",
        "partitions",
        "file_uris",
        "load_as_version",
        "load_cdf",
        "scan",
        "deletion_vectors",
        "schema",
        "metadata",
        "protocol",
        "history",
        "count",
        "to_pyarrow_dataset",
        "to_pyarrow_table",
        "to_pandas",
        "update_incremental",
        "get_add_actions",
        "transaction_version",
        "is_deltatable",
    }
)
_STORE_READS = ("get", "head", "list", "open_reader", "parse_scheme", "sign")
_SQL_READS = ("SELECT", "PRAGMA", "BEGIN", "SHOW", "DESCRIBE", "SET", "START", "WITH", "EXPLAIN")
_PARQUET_WRITES = ("write_table", "write_batch", "write", "close")
_NUMBERS = re.compile(r"\d+")


def kind_of(effect: str) -> str:
    """What sort of effect it is: the words without names and numbers of one run."""
    what, _, place = effect.partition(" /")
    if not place:
        return what
    top, _, below = place.partition("/")
    ending = Path(place).suffix if below else ""
    return f"{what} {top}" + ("" if _NUMBERS.search(ending) else ending)


def call_of(effect: str) -> str:
    """Which call has the effect, whatever it changes: `os.rename`, `sql UPDATE`, `open`.

    Of a kind, this is also the call.
    """
    words = effect.removeprefix("before ").removeprefix("after ").split()
    return " ".join(words[: 2 if words[0] in ("sql", "audited") else 1])


class Effects:
    """Counts outside effects of this process, and kills it at one of them.

    An effect reads like `before os.rename /archive/x.csv`, its place below the project's folder.
    `witness` is where it is written down which one was the last. With `call`, `kill_at` counts
    only the effects of that call.
    """

    def __init__(
        self,
        folder: str,
        kill_at: int | None = None,
        delay: float = 0,
        witness: str | None = None,
        call: str | None = None,
    ) -> None:
        self.seen: list[str] = []
        self._counted = -1
        self._call = call
        self._folder = folder
        self._kill_at = kill_at
        self._delay = delay
        self._witness = witness
        self._lock = threading.Lock()
        self._inside = threading.local()

    def watch(self) -> None:
        """See every effect from now on; there is no way back."""
        import deltalake
        import deltalake.transaction
        import duckdb
        import pyarrow.parquet
        from sqlalchemy import Engine, event
        from sqlalchemy.engine.default import DefaultDialect

        sys.addaudithook(self._audited)
        for name in _CALLS:
            self._wrap(os, name, self._place, f"os.{name}")
        self._wrap(duckdb.DuckDBPyConnection, "execute", _copy, "COPY")
        for name in _PARQUET_WRITES:
            self._wrap(pyarrow.parquet.ParquetWriter, name, _always, f"parquet.{name}")
        for name, call in vars(deltalake.DeltaTable).items():
            if isfunction(call) and not name.startswith("_") and name not in _DELTA_READS:
                self._wrap(deltalake.DeltaTable, name, _always, f"delta.{name}")
        name = "create_table_with_add_actions"
        self._wrap(deltalake.transaction, name, _always, f"delta.{name}")
        self._watch_stores()
        self._watch_postgres()
        event.listen(Engine, "before_cursor_execute", self._before_statement)
        event.listen(Engine, "after_cursor_execute", self._after_statement)
        self._wrap(DefaultDialect, "do_commit", _always, "sql.do_commit")

    def _watch_stores(self) -> None:
        try:
            import obstore
        except ModuleNotFoundError:
            return
        for name in dir(obstore):
            known = name.startswith(("_", *_STORE_READS)) or not name.islower()
            if not known and callable(getattr(obstore, name)):
                self._wrap(obstore, name, _key, f"store.{name}")

    def _watch_postgres(self) -> None:
        """COPY from a client: no statement, but writes and an end."""
        try:
            import psycopg
        except ModuleNotFoundError:
            return
        for name in ("write", "finish"):
            self._wrap(psycopg.Copy, name, _always, f"psycopg.{name}")

    def _happens(self, what: str) -> None:
        with self._lock:
            self.seen.append(what)
            self._counted += self._call in (None, call_of(what))
            if self._counted != self._kill_at:
                return
            self._kill_at = None  # with a delay, effects that do not count follow
        if self._witness:
            # Not by a call that is watched itself.
            descriptor = os.open(self._witness, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, what.encode("utf-8", "backslashreplace"))
            os.close(descriptor)
        if self._delay:
            threading.Timer(self._delay, _die).start()
        else:
            _die()

    def _audited(self, event: str, arguments: Arguments) -> None:
        if getattr(self._inside, "call", False):
            return
        if event == "open":
            flags = arguments[2]
            place = self._place(arguments) if flags & _WRITING else None
            if place is not None:
                self._happens(f"open {place}")
        elif event.startswith("os.") and event not in _AUDITED_READS:
            last = arguments[-1] if isinstance(arguments[-1], int) else -1
            place = self._place(arguments, {"dir_fd": last if last >= 0 else None})
            if place is not None:
                self._happens(f"audited {event} {place}")

    def _place(self, arguments: Arguments, named: Named | None = None) -> str | None:
        """The first argument as a path below the project's folder, None where it is elsewhere."""
        path = arguments[0] if arguments else None
        if isinstance(path, int):
            path = _opened(path)
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.fsdecode(path)
        if not text.startswith("/") and named and isinstance(named.get("dir_fd"), int):
            text = f"{_opened(named['dir_fd'])}/{text}"
        if text == self._folder:
            return "/."
        return text.removeprefix(self._folder) if text.startswith(f"{self._folder}/") else None

    def _wrap(
        self, owner: Any, name: str, tell: Callable[[Arguments, Named], str | None], what: str
    ) -> None:
        inner = getattr(owner, name, None)
        if inner is None:
            return

        @wraps(inner)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nested = getattr(self._inside, "call", False)
            detail = None if nested else tell(arguments, named)
            if detail is None:
                return inner(*arguments, **named)
            words = f"{what} {detail}".rstrip()
            self._happens(f"before {words}")
            self._inside.call = True
            try:
                result = inner(*arguments, **named)
            finally:
                self._inside.call = False
            self._happens(f"after {words}")
            return result

        setattr(owner, name, wrapper)

    def _before_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip(" (\n").upper().startswith(_SQL_READS):
            self._happens(f"before sql {_summary(statement)}")

    def _after_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip(" (\n").upper().startswith(_SQL_READS):
            self._happens(f"after sql {_summary(statement)}")


def _summary(statement: str) -> str:
    """A statement's verb and table."""
    words = statement.replace("(", " ").replace("`", "").split()[:7]
    names = [word for word in words if word.isupper() or "_" in word or word.islower()]
    return _NUMBERS.sub("N", " ".join(names[:3]))


def _opened(descriptor: int) -> str | None:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None


def _always(_arguments: Arguments, _named: Named) -> str:
    return ""


def _copy(arguments: Arguments, _named: Named) -> str | None:
    return "" if str(arguments[1]).startswith("COPY") else None


def _key(arguments: Arguments, _named: Named) -> str:
    """The key of an object."""
    key = arguments[1] if len(arguments) > 1 else ""
    return f"/{key}" if isinstance(key, str) else ""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
