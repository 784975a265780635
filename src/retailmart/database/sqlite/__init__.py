"""SQLite: the database in a file, which needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from retailmart.check_results import CheckResult
from retailmart.database.names import Names, without_ascii_case

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from retailmart.database.dialect import Dialect
    from retailmart.database.registry import Errors
    from retailmart.tables import DatabaseAddress, Extract


@dataclass(frozen=True)
class SQLiteKind:
    """Local files: nobody else can connect to them, and they have no account."""

    title: ClassVar[str] = "SQLite files"
    example: ClassVar[str] = "sqlite:///retail.db"
    libraries: ClassVar[tuple[str, ...]] = ("sqlite3",)
    variables: ClassVar[None] = None
    names: ClassVar[Names] = Names("SQLite", without_ascii_case, own_prefixes=("sqlite_",))

    def open(self, url: URL, folder: Path, *, read_only: bool) -> Engine:
        from retailmart.database.sqlite.opening import open_sqlite

        return open_sqlite(folder / str(url.database), must_exist=read_only)

    def look(self, url: URL, folder: Path) -> Engine:
        from retailmart.database.sqlite.opening import look_at

        return look_at(folder / str(url.database))

    def open_address(self, address: DatabaseAddress, *, read_only: bool) -> Engine:
        raise NotImplementedError("nobody else connects to a file")

    def file(self, url: URL, folder: Path) -> Path | None:
        return folder / str(url.database) if url.database else None

    def place(self, url: URL) -> tuple[object, ...]:
        return (str(url.database),)

    def schema(self, url: URL) -> str | None:
        return None

    def dataset(self, url: URL, folder: Path, table: str) -> tuple[str, str]:
        return f"sqlite://{self.file(url, folder)}", table

    def dialect(self, engine: Engine) -> Dialect:
        from retailmart.database.sqlite.dialect import SQLite

        return SQLite()

    @property
    def errors(self) -> Errors:
        from retailmart.database.sqlite import errors

        return errors

    def examine(self, url: URL, folder: Path, name: str, *, writes: bool) -> Iterator[CheckResult]:
        from retailmart.database.sqlite.health import examine_source, examine_target

        file = folder / str(url.database)
        return examine_target(file, name) if writes else examine_source(file, name)

    def interrupt(self, connection: Any) -> None:
        connection.interrupt()

    def read_part(self, extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError("nobody else connects to a file")


KIND = SQLiteKind()
