"""Tables that are replaced whole: loaded as shadow tables, then swapped in atomically."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from retailmart.database.dialect import dialect_of
from retailmart.database.errors import refusals
from retailmart.database.target import Target

_NEW, _OLD = "retailmart_new_", "retailmart_old_"
_OURS = re.compile(r"retailmart_(?:new|old)_(\d+)_\d+")
# Fills an empty table and checks it.
Fill = Callable[[Target, Connection], None]


class Stopped(Exception):
    """The load of another table has failed, so this one is no longer needed."""


@dataclass(frozen=True)
class Load:
    """A table to load; `mark` is the version tag that `Target.mark` will return."""

    target: Target
    mark: str
    fill: Fill


@dataclass
class ShadowTables:
    """The shadow tables of one attempt to publish. Use it as a context manager.

    If the database allows several connections, tables are loaded under separate names. These hold
    the run's fencing token, so that a run that resumes late cannot write into another run's tables.
    They are renamed in one step, in the caller's transaction if renaming can be part of it. In
    other databases the transaction that publishes them creates them again.
    """

    engine: Engine
    fence: int
    _waiting: list[Callable[[Connection], None]] = field(default_factory=list)
    _renames: list[tuple[str, str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        if self._loads_beside:
            with self.engine.begin() as connection:
                self._drop(connection, self._left_over(connection))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop unused shadow tables; the next attempt drops what cannot be dropped now."""
        names = [name for new, _, old in self._renames for name in (new, old)]
        if names:
            with suppress(SQLAlchemyError), self.engine.begin() as connection:
                self._drop(connection, names)

    @property
    def _loads_beside(self) -> bool:
        return dialect_of(self.engine).loads_beside

    def load_all(self, loads: Sequence[Load], progress: Callable[[str], None]) -> None:
        """Load tables, several at a time if the database allows it; `progress` hears of each.

        If one load fails, the running ones end at their next `go_on`, and its error is raised.
        """
        if not self._loads_beside:
            for load in loads:
                self.load(load.target, load.mark, load.fill)
            return
        with ExitStack() as stack:
            free: SimpleQueue[Connection] = SimpleQueue()
            granted = self._connections(stack, len(loads))
            for connection in granted:
                free.put(connection)

            def work(load: Load) -> str:
                connection = free.get()
                try:
                    self.go_on()
                    self.load(load.target, load.mark, load.fill, connection)
                except BaseException:
                    self._stop.set()
                    raise
                finally:
                    free.put(connection)
                return load.target.name

            pool = stack.enter_context(ThreadPoolExecutor(max(len(granted), 1)))
            jobs = [pool.submit(work, load) for load in loads]
            try:
                for job in as_completed(jobs):
                    if job.exception() is None:
                        progress(job.result())
            except BaseException:
                self._stop.set()
                raise
            if failed := [error for job in jobs if (error := job.exception()) is not None]:
                raise min(failed, key=lambda error: isinstance(error, Stopped))

    def go_on(self) -> None:
        """Raise Stopped if the load of another table has failed."""
        if self._stop.is_set():
            raise Stopped

    def load(
        self, target: Target, mark: str, fill: Fill, connection: Connection | None = None
    ) -> None:
        """Create an empty table and fill it; `mark` is the version tag for `Target.mark`."""
        if not self._loads_beside:

            def work(connection: Connection) -> None:
                with refusals(target.name, target.name):
                    _filled(target, mark, fill, connection)

            self._waiting.append(work)
            return
        with self._lock:
            number = len(self._renames)
            new = replace(target, name=f"{_NEW}{self.fence}_{number}")
            self._renames.append((new.name, target.name, f"{_OLD}{self.fence}_{number}"))
        with ExitStack() as stack:
            connection = connection or stack.enter_context(self.engine.connect())
            with refusals(new.name, target.name), connection.begin():
                _filled(new, mark, fill, connection)

    def join(self, connection: Connection) -> None:
        """Fill the tables that are part of the caller's transaction."""
        for work in self._waiting:
            work(connection)

    def show(self, connection: Connection | None = None) -> None:
        """Swap in all tables in one step; the caller's transaction must not have used them.

        The swap is part of that transaction if the database can rename within one.
        """
        if not self._renames:
            return
        dialect = dialect_of(self.engine)
        if connection is not None and dialect.ddl_in_transaction:
            dialect.swap(connection, self._renames)
        else:
            with self.engine.begin() as alone:
                dialect.swap(alone, self._renames)

    def _connections(self, stack: ExitStack, count: int) -> list[Connection]:
        """Up to `count` connections, as the server grants; the lease's heartbeat needs one, too."""
        granted: list[Connection] = []
        for _ in range(min(count, dialect_of(self.engine).loads_at_once)):
            try:
                granted.append(stack.enter_context(self.engine.connect()))
            except SQLAlchemyError:
                if not granted:
                    raise
                if len(granted) > 1:
                    granted.pop().close()
                break
        return granted

    def _left_over(self, connection: Connection) -> list[str]:
        """Shadow tables of attempts that did not finish; those of a later run are left alone."""
        found = ((name, _OURS.fullmatch(name)) for name in inspect(connection).get_table_names())
        return [name for name, match in found if match and int(match[1]) <= self.fence]

    def _drop(self, connection: Connection, names: list[str]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for name in names:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(name)}")


def _filled(target: Target, mark: str, fill: Fill, connection: Connection) -> None:
    target.recreate(connection, mark)
    fill(target, connection)
