"""Tables that are replaced whole: loaded beside those that are shown, and shown in one step."""

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
from retailmart.database.target import Target

_NEW, _OLD = "retailmart_new_", "retailmart_old_"
_OURS = re.compile(r"retailmart_(?:new|old)_(\d+)_\d+")
# What fills and proves a table that stands empty.
Fill = Callable[[Target, Connection], None]


class Stopped(Exception):
    """The load of another table has failed; this one is not needed any more."""


@dataclass(frozen=True)
class Load:
    """A table that is to be loaded; `mark` is what `Target.mark` will say of it."""

    target: Target
    mark: str
    fill: Fill


@dataclass
class Beside:
    """The tables of one attempt to publish. Use it as a context manager.

    Where creating a table ends a transaction, tables are loaded under names of their own that hold
    the run's fence, so that a run that wakes late cannot write into another's; a single RENAME
    shows them all. Elsewhere they are created anew within the transaction that shows them.
    """

    engine: Engine
    fence: int
    _waiting: list[Callable[[Connection], None]] = field(default_factory=list)
    _renames: list[tuple[str, str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        if not self._in_transaction:
            with self.engine.begin() as connection:
                self._drop(connection, self._left_over(connection))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What is not shown (any more) goes; what can't be dropped now goes next time."""
        names = [name for new, _, old in self._renames for name in (new, old)]
        if names:
            with suppress(SQLAlchemyError), self.engine.begin() as connection:
                self._drop(connection, names)

    @property
    def _in_transaction(self) -> bool:
        return dialect_of(self.engine).ddl_in_transaction

    def load_all(self, loads: Sequence[Load], tell: Callable[[str], None]) -> None:
        """Load tables, several at a time where the database takes that; `tell` hears who is done.

        Where one fails, those that are under way end at their next `go_on`; its error is raised.
        """
        if self._in_transaction:
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
                        tell(job.result())
            except BaseException:
                self._stop.set()
                raise
            if failed := [error for job in jobs if (error := job.exception()) is not None]:
                raise min(failed, key=lambda error: isinstance(error, Stopped))

    def go_on(self) -> None:
        """Stopped where the load of another table has failed."""
        if self._stop.is_set():
            raise Stopped

    def load(
        self, target: Target, mark: str, fill: Fill, connection: Connection | None = None
    ) -> None:
        """Create a table empty and fill it; `mark` is what `Target.mark` will say of it."""
        if self._in_transaction:
            self._waiting.append(lambda connection: _filled(target, mark, fill, connection))
            return
        with self._lock:
            number = len(self._renames)
            new = replace(target, name=f"{_NEW}{self.fence}_{number}")
            self._renames.append((new.name, target.name, f"{_OLD}{self.fence}_{number}"))
        with ExitStack() as stack:
            connection = connection or stack.enter_context(self.engine.connect())
            with connection.begin():
                _filled(new, mark, fill, connection)

    def join(self, connection: Connection) -> None:
        """Fill what is part of the caller's transaction."""
        for work in self._waiting:
            work(connection)

    def show(self) -> None:
        """Show all tables in one step; the caller's transaction must not have touched them."""
        if self._renames:
            with self.engine.begin() as connection:
                dialect_of(connection).swap(connection, self._renames)

    def _connections(self, stack: ExitStack, count: int) -> list[Connection]:
        """As many as are wanted, or as the server grants; the lease's heartbeat needs one, too."""
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
        """Tables of attempts that ended half way; those of a later run are its own business."""
        found = ((name, _OURS.fullmatch(name)) for name in inspect(connection).get_table_names())
        return [name for name, match in found if match and int(match[1]) <= self.fence]

    def _drop(self, connection: Connection, names: list[str]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for name in names:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {quote(name)}")


def _filled(target: Target, mark: str, fill: Fill, connection: Connection) -> None:
    target.recreate(connection, mark)
    fill(target, connection)
