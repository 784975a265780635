"""Databases: source tables in, marts out. Each kind is a package that the registry lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from retailmart.check_results import CheckResult
from retailmart.database.errors import translate_errors
from retailmart.database.registry import Kind, kind_of, kinds, shown_url
from retailmart.errors import SettingsError
from retailmart.tables import DatabaseAddress

__all__ = [
    "database_file",
    "dataset_of",
    "examine_database",
    "interrupt",
    "is_same_database",
    "look_at_database",
    "open_address",
    "open_database",
    "shown_url",
    "translate_errors",
]

_MOST_STATEMENTS = 1000
# The driver's connections that are in use, by engine.
_AT_WORK: WeakKeyDictionary[Engine, set[Any]] = WeakKeyDictionary()


def open_database(url: str, folder: Path, *, must_exist: bool = False) -> Engine:
    """Connect to a database; a relative path of a file is below `folder`.

    With `must_exist` it is a source, and only read. Raises SettingsError for a URL that does not
    name a database, RetailmartError if a file is missing. A server is contacted on first use.
    """
    kind, parsed = known(url)
    engine = kind.open(parsed, folder, read_only=must_exist)
    _keep_what_works(engine)
    engine.update_execution_options(compiled_cache=_statements_of(parsed.set(database=None)))
    return engine


def interrupt(engine: Engine) -> None:
    """Break off what the connections of an engine from `open_database` do now.

    Called from another thread than theirs, which gets an error and whose transaction is rolled
    back, as after a lost connection.
    """
    kind = kind_of(engine.dialect.name)
    for connection in list(_AT_WORK.get(engine, ())):
        with suppress(Exception):  # it may be closed meanwhile
            kind.interrupt(connection)


def _keep_what_works(engine: Engine) -> None:
    """Remember the driver's connections while somebody works with them."""
    at_work: set[Any] = set()
    _AT_WORK[engine] = at_work
    event.listen(engine, "checkout", lambda raw, _record, _proxy: at_work.add(raw))
    event.listen(engine, "checkin", lambda raw, _record: at_work.discard(raw))


class _Statements:
    """Statements in a server's words, for all engines of one server.

    SQLAlchemy's own cache ends with its engine, and each run opens one: to put its statements into
    words would take a fifth of a small run.
    """

    def __init__(self) -> None:
        self._known: dict[object, Any] = {}

    def get(self, key: tuple[Any, ...]) -> Any:
        return self._known.get(key[1:])

    def __setitem__(self, key: tuple[Any, ...], statement: Any) -> None:
        if len(self._known) >= _MOST_STATEMENTS:
            self._known.clear()
        self._known[key[1:]] = statement  # the first part is the engine's own dialect


@cache
def _statements_of(server: URL) -> _Statements:
    return _Statements()


def look_at_database(url: str, folder: Path) -> Engine:
    """Connect to look for a moment: nothing is written, not even next to a file.

    Raises SettingsError for a URL that does not name a database. A file must be there.
    """
    kind, parsed = known(url)
    return kind.look(parsed, folder)


def known(url: str) -> tuple[Kind, URL]:
    """The kind of database that a URL names. Raises SettingsError if it names none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # A URL that cannot be parsed is not shown: its password could be anywhere in it.
        raise SettingsError([f"what is given is no database URL; {_advice()}"]) from None
    with suppress(KeyError):
        kind = kind_of(parsed.get_backend_name())
        driver = parsed.drivername.partition("+")[2]
        is_named = kind.variables is not None or bool(parsed.database)
        if is_named and (not driver or driver in kind.libraries):
            return kind, parsed
    titles = ", ".join(kind.title for kind in kinds())
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    raise SettingsError([f"{shown}: only these are supported: {titles}; {_advice()}"])


def _advice() -> str:
    return f"write it as in {' or '.join(kind.example for kind in kinds())}"


def examine_database(url: str, folder: Path, name: str, *, writes: bool) -> Iterator[CheckResult]:
    """Check what a database allows; `name` begins each check result.

    `writes` means that the ledger and the marts are in it; otherwise it is only read.
    """
    kind, parsed = known(url)
    yield from kind.examine(parsed, folder, name, writes=writes)


def database_file(url: str, folder: Path) -> Path | None:
    """The file of a database; None if it is on a server, or the URL names nothing."""
    try:
        kind, parsed = known(url)
    except SettingsError:
        return None
    return kind.file(parsed, folder)


def dataset_of(url: str, folder: Path, table: str) -> tuple[str, str]:
    """How OpenLineage names a table of a database: a namespace, and a name in it."""
    kind, parsed = known(url)
    return kind.dataset(parsed, folder, table)


def is_same_database(one: str, other: str, folder: Path) -> bool:
    """Whether two URLs name the same database, whichever account connects."""
    files = database_file(one, folder), database_file(other, folder)
    if files[0] and files[1]:
        return files[0].resolve() == files[1].resolve()
    return not any(files) and _place(one) == _place(other)


def _place(url: str) -> tuple[object, ...]:
    kind, parsed = known(url)
    return kind.title, *kind.place(parsed)


def open_address(address: DatabaseAddress) -> Engine:
    """Connect to the address from `Dialect.address`, on any machine."""
    return kind_of(address.kind).open_address(address, read_only=False)
