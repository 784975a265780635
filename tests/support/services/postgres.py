"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.support.services.account import Account
from tests.support.services.debian import install as install_package
from tests.support.services.mariadb import Certificates, make_certificates
from tests.support.services.process import HOST, Served

if TYPE_CHECKING:
    from psycopg import Connection


_ADMIN = "keeper"
# PostgreSQL refuses to run as root; Debian's package makes this account.
_ACCOUNT = "postgres"


@dataclass(frozen=True)
class PostgresDatabase(Account):
    """An empty database and the account that owns it."""

    scheme: ClassVar[str] = "postgresql"

    server: Postgres = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": self.name,
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
        }

    def connect(self) -> Connection[Any]:
        """A new connection as the account, autocommit, in UTC; the caller closes it."""
        return _connect(self.host, self.port, self.user, self.password, self.name)

    def execute(self, *statements: str) -> None:
        """Run statements one by one, committed, as the account."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a query, in the order they come."""
        with self.connect() as connection:
            return connection.execute(statement.encode()).fetchall()

    def drop(self) -> None:
        """Remove the database and its account, if the server still knows them."""
        with self.server.admin() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)'.encode())
            connection.execute(f'DROP ROLE IF EXISTS "{self.user}"'.encode())


class Postgres(Served):
    """A private server on a free loopback port, its data in a folder of its own.

    Each commit is on disk before it is acknowledged. The certificate is for `localhost` and signed
    by `ca`: by that name it verifies, by 127.0.0.1 it does not.
    """

    def __init__(self, *, options: Sequence[str] = (), folder: Path | None = None) -> None:
        self.host, self.port = HOST, 0
        self._password = secrets.token_urlsafe(12)
        self._options = tuple(options)
        self._programs = _programs()
        # Not below the tests' folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="retailmart-postgres-", dir=folder))
        self.log = self.folder / "log"
        self.certificates: Certificates = make_certificates(self.folder / "tls")
        self._create_data()

    @property
    def ca(self) -> Path:
        """The authority that signed the server's certificate."""
        return self.certificates.ca

    @property
    def environment(self) -> dict[str, str]:
        """Who may do everything, as environment variables."""
        return {
            "PGHOST": HOST,
            "PGPORT": str(self.port),
            "PGUSER": _ADMIN,
            "PGPASSWORD": self._password,
        }

    def admin(self, database: str = "postgres") -> Connection[Any]:
        """A new connection with every right, autocommit; the caller closes it."""
        return _connect(self.host, self.port, _ADMIN, self._password, database)

    def database(self, *, encoding: str = "UTF8") -> PostgresDatabase:
        """A new empty database with an account of its own that owns it."""
        self.ensure()
        name, password = f"shop_{os.getpid()}_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
        with self.admin() as connection:
            connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'".encode())
            connection.execute(
                f'CREATE DATABASE "{name}" OWNER "{name}" TEMPLATE template0'
                f" ENCODING '{encoding}' LOCALE 'C'".encode()
            )
        return PostgresDatabase(name, name, password, self.host, self.port, self)

    def close(self) -> None:
        """End of the session."""
        self._end(clean=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def _create_data(self) -> None:
        word = self.folder / "password"
        word.write_text(self._password)
        self.log.touch()
        tls = self.folder / "tls"
        for path in (self.folder, word, self.log, tls, *tls.rglob("*")):
            self._own(path)
        self.certificates.key.chmod(0o600)
        options = ("--auth=scram-sha-256", f"--pwfile={word}", "--no-locale", "--encoding=UTF8")
        command = [*self._as_account(), str(self._programs / "initdb"), f"--pgdata={self._data}"]
        made = subprocess.run(
            [*command, f"--username={_ADMIN}", "--no-sync", *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if made.returncode:
            _fail(f"initdb failed:\n{made.stdout}{made.stderr}")
        word.unlink()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam(_ACCOUNT)
            os.chown(path, account.pw_uid, account.pw_gid)

    def _as_account(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--clear-groups", "--"]

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": 60,
            # Below the data, so that a server that is killed leaves nothing elsewhere.
            "dynamic_shared_memory_type": "mmap",
            "ssl": "on",
            "ssl_ca_file": self.certificates.ca,
            "ssl_cert_file": self.certificates.server,
            "ssl_key_file": self.certificates.key,
        }
        chosen = [f"--{name}={value}" for name, value in settings.items()]
        # The kernel forgets the wish to die with the parent when the account changes.
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if self._as_account() else []
        server = [str(self._programs / "postgres"), "-D", str(self._data), *chosen, *self._options]
        return [*self._as_account(), *guard, *server]


def _connect(host: str, port: int, user: str, password: str, name: str) -> Connection[Any]:
    import psycopg

    return psycopg.connect(
        host=host,
        port=port,
        user=user,
        password=password,
        dbname=name,
        autocommit=True,
        connect_timeout=10,
        options="-c TimeZone=UTC",
    )


def _programs() -> Path:
    """Where the server's programs are; installed if they are missing and we may."""

    def newest() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        named = shutil.which("initdb")
        return found[-1].parent if found else Path(named).parent if named else None

    failed = install_package("postgresql", lambda: newest() is not None)
    if failed:
        _fail(failed)
    programs = newest()
    if programs is None:
        _fail("PostgreSQL is needed: apt-get install postgresql")
    assert programs is not None
    return programs


def _fail(message: str) -> None:
    import pytest

    pytest.fail(message, pytrace=False)
