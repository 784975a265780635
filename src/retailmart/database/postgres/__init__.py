"""PostgreSQL: creating, filling and renaming a table are all part of one transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, ClassVar

from retailmart.check_results import CheckResult
from retailmart.database.names import Names, as_it_is
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
    names: ClassVar[Names] = Names(
        "PostgreSQL",
        as_it_is,
        longest=63,
        in_bytes=True,
        own_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
        own_prefixes=("pg_",),
        own_schemas=frozenset({"information_schema"}),
    )

    def open(self, url: URL, folder: Path, *, read_only: bool) -> Engine:
        from retailmart.database.postgres.opening import open_postgres

        return open_postgres(url, folder, read_only=read_only)

    def look(self, url: URL, folder: Path) -> Engine:
        return self.open(url, folder, read_only=True)

    def open_address(self, address: DatabaseAddress, *, read_only: bool) -> Engine:
        from retailmart.database.postgres.opening import open_address

        return open_address(address, read_only=read_only)

    def file(self, url: URL, folder: Path) -> Path | None:
        return None

    def place(self, url: URL) -> tuple[object, ...]:
        host = url.query.get("host") or url.host or "localhost"
        return host, url.port or 5432, url.database, url.query.get("schema")

    def schema(self, url: URL) -> str | None:
        return str(given) if (given := url.query.get("schema")) else None

    def dataset(self, url: URL, folder: Path, table: str) -> tuple[str, str]:
        host, port, database, schema = self.place(url)
        return f"postgres://{host}:{port}", f"{database}.{schema or 'public'}.{table}"

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

    def interrupt(self, connection: Any) -> None:
        # A polite cancel needs an answer of the server, which may be what is missing.
        with socket(fileno=os.dup(connection.fileno())) as wire:
            wire.shutdown(SHUT_RDWR)

    def read_part(self, extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
        from retailmart.database.postgres.reading import read_part

        return read_part(extract.address, query, extract.decode)


KIND = PostgresKind()
