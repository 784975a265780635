"""What the database scenario needs to know of MariaDB and PostgreSQL, each in its own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.support.backends import shop_tables
from tests.support.services.mariadb import MariaDB
from tests.support.services.postgres import Postgres

from chaos.stores import Patches

_PAUSES = {"retailmart.operations.run._PAUSES": (0.1, 0.3, 1.0, 2.0)}
_BATCHES = "SELECT * FROM retailmart_batches FOR UPDATE"


class System(Protocol):
    """A database system: its faults, and how a reader looks at its tables.

    `patches` make a run give up soon. `bulk_write` and `rename` begin the statements that do this.
    """

    @property
    def name(self) -> str: ...
    @property
    def patches(self) -> Patches: ...
    @property
    def bulk_write(self) -> str: ...
    @property
    def rename(self) -> str: ...
    @property
    def quote(self) -> str: ...
    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What a reader meets when the server is away."""

    def server(self, folder: Path) -> AbstractContextManager[Any]:
        """A new server of its own, started."""

    def setting(self, database: Any, variable: str) -> str:
        """The database as retailmart.yml names it; the password is in `.env`."""

    def fill_source(self, database: Any) -> None:
        """Make the small shop's own tables."""

    def connect(self, database: Any) -> Any:
        """A reader's connection, autocommit."""

    def is_unknown_table(self, error: Exception) -> bool:
        """Whether an error says that a table was never made."""

    def locked(self, database: Any, *, strong: bool = False) -> AbstractContextManager[Any]:
        """Lock all batches; what the lock's cursor does next may fail. Of two transactions that
        block each other, a `strong` one survives.
        """

    def waiting(self) -> str:
        """A query that counts the transactions that wait for a lock."""

    def tables(self) -> str:
        """A query for the names of a database's tables."""

    def read_only(self, server: Any) -> AbstractContextManager[None]:
        """The server refuses writes for a while."""


class _MariaDB:
    name = "MariaDB"
    bulk_write, rename, quote = "LOAD DATA", "RENAME TABLE", "`"

    @property
    def patches(self) -> Patches:
        return {
            **_PAUSES,
            "retailmart.database.mysql.opening.SESSION": (
                "sql_mode = 'STRICT_ALL_TABLES', time_zone = '+00:00',"
                " innodb_lock_wait_timeout = 1, lock_wait_timeout = 2"
            ),
            "retailmart.database.mysql.opening._NUMBERS": {
                "connect_timeout": 2,
                "read_timeout": 3,
                "write_timeout": 3,
            },
            "retailmart.database.mysql.infile._PACKET": 64,
        }

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        import pymysql

        return (pymysql.err.MySQLError, OSError)

    @contextmanager
    def server(self, folder: Path) -> Iterator[MariaDB]:
        server = MariaDB(folder, tls=False)
        try:
            server.start()
            yield server
        finally:
            server.close()

    def setting(self, database: Any, variable: str) -> str:
        return _setting("mysql", database, variable)

    def fill_source(self, database: Any) -> None:
        database.execute(*shop_tables())

    def connect(self, database: Any) -> Any:
        return database.connect(autocommit=True, read_timeout=5)

    def is_unknown_table(self, error: Exception) -> bool:
        return bool(error.args[0] == 1146)

    @contextmanager
    def locked(self, database: Any, *, strong: bool = False) -> Iterator[Any]:
        with database.connect() as other, other.cursor() as cursor:
            if strong:  # it would lose more than the run
                cursor.execute("CREATE TABLE IF NOT EXISTS junk (n INT) ENGINE=InnoDB")
                cursor.execute("INSERT INTO junk SELECT seq FROM seq_1_to_20000")
            cursor.execute(_BATCHES)
            yield cursor
            other.rollback()

    def waiting(self) -> str:
        return "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"

    def tables(self) -> str:
        return "SHOW TABLES"

    def read_only(self, server: Any) -> AbstractContextManager[None]:
        setting: AbstractContextManager[None] = server.setting(read_only=1)
        return setting


class _Postgres:
    name = "PostgreSQL"
    bulk_write, rename, quote = "COPY", "ALTER TABLE", '"'

    @property
    def patches(self) -> Patches:
        from retailmart.database.postgres.opening import SESSION

        assert "lock_timeout = '20s'" in SESSION
        return {
            **_PAUSES,
            "retailmart.database.postgres.opening.SESSION": SESSION.replace(
                "lock_timeout = '20s'", "lock_timeout = '2s'"
            ),
            "retailmart.database.postgres.opening._NUMBERS": {
                "connect_timeout": 2,
                "keepalives_idle": 60,
                "tcp_user_timeout": 3_000,
            },
        }

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        import psycopg

        return (psycopg.Error, OSError)

    @contextmanager
    def server(self, folder: Path) -> Iterator[Postgres]:
        del folder  # the server's account may not enter it
        server = Postgres()
        try:
            server.start()
            yield server
        finally:
            server.close()

    def setting(self, database: Any, variable: str) -> str:
        return _setting("postgresql", database, variable)

    def fill_source(self, database: Any) -> None:
        database.execute(*(text.replace(" DATETIME", " TIMESTAMP") for text in shop_tables()))

    def connect(self, database: Any) -> Any:
        return database.connect()

    def is_unknown_table(self, error: Exception) -> bool:
        return getattr(error, "sqlstate", None) == "42P01"

    @contextmanager
    def locked(self, database: Any, *, strong: bool = False) -> Iterator[Any]:
        with database.server.admin(database.name) as other, other.cursor() as cursor:
            if strong:  # the one that first sees that they block each other gives up
                cursor.execute("SET deadlock_timeout = '1min'")
            cursor.execute("BEGIN")
            cursor.execute(_BATCHES)
            yield cursor
            cursor.execute("ROLLBACK")

    def waiting(self) -> str:
        return "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    def tables(self) -> str:
        return (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema"
        )

    @contextmanager
    def read_only(self, server: Any) -> Iterator[None]:
        def say(how: str) -> None:
            with server.admin() as connection:
                connection.execute(f"ALTER SYSTEM {how}".encode())
                connection.execute("SELECT pg_reload_conf()")

        say("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            server.ensure()
            say("RESET default_transaction_read_only")


def _setting(scheme: str, database: Any, variable: str) -> str:
    place = f"{database.host}:{database.port}/{database.name}"
    return f"{scheme}://{database.user}:${{{variable}}}@{place}"


MARIADB: System = _MariaDB()
POSTGRES: System = _Postgres()
