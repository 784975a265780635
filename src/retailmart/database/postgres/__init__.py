"""PostgreSQL: creating, filling and renaming a table are all part of one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from retailmart.check_results import CheckResult
from retailmart.project.addresses import Variables

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from retailmart.database.dialect import Dialect
    from retailmart.database.registry import Errors
    from retailmart.tables import DatabaseAddress, Extract


@dataclass(frozen=True)
class PostgresKind:
    """Servers with PostgreSQL 13 or newer."""

    title: ClassVar[str] = "PostgreSQL"
    example: ClassVar[str] = "postgresql://user@host/db"
    libraries: ClassVar[tuple[str, ...]] = ("psycopg",)
    variables: ClassVar[Variables] = Variables("postgresql", "PG", socket="host")

    def open(self, url: URL, folder: Path, *, read_only: bool) -> Engine:
        from retailmart.database.postgres.opening import open_postgres

        return open_postgres(url, folder, read_only=read_only)

    def open_address(self, address: DatabaseAddress, *, read_only: bool) -> Engine:
        from retailmart.database.postgres.opening import open_address

        return open_address(address, read_only=read_only)

    def file(self, url: URL, folder: Path) -> Path | None:
        return None

    def place(self, url: URL) -> tuple[object, ...]:
        host = url.query.get("host") or url.host or "localhost"
        return host, url.port or 5432, url.database, url.query.get("schema")

    def dialect(self, engine: Engine) -> Dialect:
        from retailmart.database.postgres.dialect import Postgres

        return Postgres()

    @property
    def errors(self) -> Errors:
        from retailmart.database.postgres import errors

        return errors

    def examine(self, url: URL, folder: Path, name: str, *, writes: bool) -> Iterator[CheckResult]:
        from retailmart.database.postgres.health import examine

        engine = self.open(url, folder, read_only=not writes)
        try:
            yield from examine(engine, name, writes=writes)
        finally:
            engine.dispose()

    def read_part(self, extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
        from retailmart.database.postgres.reading import read_part

        return read_part(extract.address, query, extract.decode)


KIND = PostgresKind()
