"""The kinds of database by the scheme of their URLs. Each is imported on request.

A new kind is a package with a `KIND`, and a line here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from retailmart.check_results import CheckResult
from retailmart.database.names import Names
from retailmart.errors import RetailmartError
from retailmart.project.addresses import Variables
from retailmart.tables import DatabaseAddress

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from retailmart.database.dialect import Dialect
    from retailmart.tables import Extract

_PACKAGES = {
    "sqlite": "retailmart.database.sqlite",
    "mysql": "retailmart.database.mysql",
    "mariadb": "retailmart.database.mysql",
    "postgresql": "retailmart.database.postgres",
}


class Errors(Protocol):
    """The errors of one kind of database, translated to ours; its module `errors` is one."""

    def message_of(self, error: BaseException) -> str:
        """The message of the server or library, without what must not be shown."""

    def translate(self, name: str, error: BaseException, *, broken: bool) -> RetailmartError:
        """Translate a driver's error to one of ours; `name` names the database or table."""

    def is_contention(self, error: BaseException) -> bool:
        """Whether another transaction held a needed lock: the wait timed out, or a deadlock."""

    def is_denied(self, error: BaseException) -> bool:
        """Whether the account lacks the right to do this."""


class Kind(Protocol):
    """One kind of database: everything that the rest of the package needs from it."""

    @property
    def title(self) -> str:
        """The database's usual name."""

    @property
    def example(self) -> str:
        """An example URL."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages whose errors belong to this database."""

    @property
    def variables(self) -> Variables | None:
        """The environment variables that replace missing parts of its URL."""

    @property
    def names(self) -> Names:
        """The names that it can hold."""

    def schema(self, url: URL) -> str | None:
        """The schema, or the database on a server, in which a URL places tables."""

    def open(self, url: URL, folder: Path, *, read_only: bool) -> Engine:
        """Connect. SettingsError for a URL or a file in it that cannot be used."""

    def look(self, url: URL, folder: Path) -> Engine:
        """Connect to look for a moment: nothing is written, not even next to a file.

        What changes meanwhile may be missed. A file must be there.
        """

    def open_address(self, address: DatabaseAddress, *, read_only: bool) -> Engine:
        """Connect to the address from `Dialect.address`, on any machine."""

    def file(self, url: URL, folder: Path) -> Path | None:
        """The database's file; None if it is on a server."""

    def place(self, url: URL) -> tuple[object, ...]:
        """Values that are equal for two URLs of one database, whichever account connects."""

    def dataset(self, url: URL, folder: Path, table: str) -> tuple[str, str]:
        """How OpenLineage names a table: a namespace, and a name in it."""

    def dialect(self, engine: Engine) -> Dialect:
        """How to write to and read from it."""

    @property
    def errors(self) -> Errors:
        """What its errors mean."""

    def examine(self, url: URL, folder: Path, name: str, *, writes: bool) -> Iterator[CheckResult]:
        """Check whether it can do what runs need; `name` begins each check result.

        `writes` means that the ledger and the marts are in it; otherwise it is only read.
        """

    def interrupt(self, connection: Any) -> None:
        """Make what a driver's connection does now fail; called from another thread than its own.

        The connection need not be of use afterwards, but its transaction is rolled back.
        """

    def read_part(self, extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of one of an extract's queries, over a connection of its own."""


def shown_url(url: URL, *, account: bool = True) -> str:
    """A database's URL for people: without driver, password, parameters and percent signs."""
    # A file that is only read is opened by a URI within the URL.
    place = unquote((url.database or "").removeprefix("file:"))
    if url.host is None:
        return f"{url.get_backend_name()}:///{place}"
    user = f"{url.username}@" if account and url.username else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{user}{host}{port}/{place}"


def kind_of(scheme: str) -> Kind:
    """The kind for a URL's scheme or SQLAlchemy's dialect. KeyError for any other."""
    kind: Kind = import_module(_PACKAGES[scheme.lower().partition("+")[0]]).KIND
    return kind


def kinds() -> list[Kind]:
    """All kinds, each once."""
    found: list[Kind] = [import_module(name).KIND for name in dict.fromkeys(_PACKAGES.values())]
    return found


def kind_of_error(error: BaseException) -> Kind | None:
    """The kind whose driver raised an error; None for any other error."""
    library = type(error).__module__.partition(".")[0]
    return next((kind for kind in kinds() if library in kind.libraries), None)
