"""MySQL and MariaDB, with SQL that both accept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any, ClassVar

from retailmart.check_results import CheckResult
from retailmart.database.names import Names, without_case
from retailmart.project.addresses import Variables

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from retailmart.database.dialect import Dialect
    from retailmart.database.registry import Errors
    from retailmart.tables import DatabaseAddress, Extract


@dataclass(frozen=True)
class MySQLKind:
    """Servers that speak MySQL's protocol."""

    title: ClassVar[str] = "MySQL or MariaDB"
    example: ClassVar[str] = "mysql://user@host/db"
    libraries: ClassVar[tuple[str, ...]] = ("pymysql",)
    variables: ClassVar[Variables] = Variables("mysql", "MYSQL_", socket="unix_socket")
    names: ClassVar[Names] = Names(
        "MySQL",
        without_case,
        longest=64,
        is_plain=True,
        # InnoDB's own columns, and the one of its full-text indexes.
        own_columns=frozenset({"db_row_id", "db_trx_id", "db_roll_ptr", "fts_doc_id"}),
        own_schemas=frozenset({"mysql", "information_schema", "performance_schema", "sys"}),
    )

    def open(self, url: URL, folder: Path, *, read_only: bool) -> Engine:
        from retailmart.database.mysql.opening import open_mysql

        return open_mysql(url, folder, read_only=read_only)

    def look(self, url: URL, folder: Path) -> Engine:
        return self.open(url, folder, read_only=True)

    def open_address(self, address: DatabaseAddress, *, read_only: bool) -> Engine:
        from retailmart.database.mysql.opening import open_address

        return open_address(address, read_only=read_only)

    def file(self, url: URL, folder: Path) -> Path | None:
        return None

    def place(self, url: URL) -> tuple[object, ...]:
        host = url.query.get("unix_socket") or url.host or "localhost"
        return host, url.port or 3306, url.database

    def schema(self, url: URL) -> str | None:
        return url.database

    def dataset(self, url: URL, folder: Path, table: str) -> tuple[str, str]:
        host, port, database = self.place(url)
        return f"mysql://{host}:{port}", f"{database}.{table}"

    def dialect(self, engine: Engine) -> Dialect:
        from retailmart.database.mysql.dialect import MySQL

        return MySQL(bool(getattr(engine.dialect, "is_mariadb", False)))

    @property
    def errors(self) -> Errors:
        from retailmart.database.mysql import errors

        return errors

    def examine(self, url: URL, folder: Path, name: str, *, writes: bool) -> Iterator[CheckResult]:
        from retailmart.database.mysql.health import examine

        engine = self.open(url, folder, read_only=not writes)
        try:
            yield from examine(engine, name, writes=writes)
        finally:
            engine.dispose()

    def interrupt(self, connection: Any) -> None:
        # `close` would wait for the other thread's buffer; this ends what it waits for.
        connection._sock.shutdown(SHUT_RDWR)

    def read_part(self, extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
        from retailmart.database.mysql.reading import read_part

        return read_part(extract.address, query, extract.decode)


KIND = MySQLKind()
