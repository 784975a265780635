"""A MariaDB server of the tests' own, or the one that RETAILMART_TEST_MYSQL names."""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import unquote, urlsplit

from tests.support.services.account import Account
from tests.support.services.debian import install as install_package
from tests.support.services.process import HOST, Served

if TYPE_CHECKING:
    from pymysql.connections import Connection


GIVEN = "RETAILMART_TEST_MYSQL"
# Where Debian keeps servers; not on everybody's path.
SBIN = ("/usr/sbin", "/usr/local/sbin")
_ADMIN = "keeper"


@dataclass(frozen=True)
class Database(Account):
    """An empty database and the account that may use it, and nothing else."""

    scheme: ClassVar[str] = "mysql"

    server: DatabaseServer = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "MYSQL_HOST": self.host,
            "MYSQL_PORT": str(self.port),
            "MYSQL_DATABASE": self.name,
            "MYSQL_USER": self.user,
            "MYSQL_PASSWORD": self.password,
        }

    def connect(self, **options: Any) -> Connection:
        """A new PyMySQL connection as the account; the caller closes it."""
        return _connect(self.host, self.port, self.user, self.password, self.name, **options)

    def execute(self, *statements: str) -> None:
        """Run statements one by one, committed, as the account."""
        with self.connect(autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, in the order they come."""
        with self.connect(autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def copy_to(self, other: Database) -> None:
        """Make another database of the server hold the same tables, and none besides."""
        listed = (
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE'"
        )
        with self.server.admin() as connection, connection.cursor() as cursor:
            cursor.execute("SET foreign_key_checks = 0")
            cursor.execute(f"USE `{other.name}`")
            cursor.execute(listed, (other.name,))
            for (table,) in cursor.fetchall():
                cursor.execute(f"DROP TABLE `{table}`")
            cursor.execute(listed, (self.name,))
            for (table,) in cursor.fetchall():
                cursor.execute(f"SHOW CREATE TABLE `{self.name}`.`{table}`")
                cursor.execute(cursor.fetchone()[1])
                cursor.execute(f"INSERT INTO `{table}` SELECT * FROM `{self.name}`.`{table}`")

    def drop(self) -> None:
        """Remove the database and its account, if the server still knows them."""
        self.server.drop(self)


class DatabaseServer:
    """A server that makes databases for tests. What needs a server of our own skips the test."""

    is_ours = False

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        self.host = host
        self.port = port
        self._user = user
        self._password = password

    def admin(self, **options: Any) -> Connection:
        """A new PyMySQL connection with every right, autocommit; the caller closes it."""
        return _connect(
            self.host, self.port, self._user, self._password, autocommit=True, **options
        )

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a statement run as admin."""
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def database(
        self,
        *,
        password: str | None = None,
        grants: str = "ALL PRIVILEGES",
        charset: str = "utf8mb4",
        require_tls: bool = False,
    ) -> Database:
        """A new empty database with an account of its own that has `grants` on it alone."""
        self.ensure()
        name = f"shop_{os.getpid()}_{secrets.token_hex(4)}"
        with self.admin() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET {charset}")
            user, password = self._account(cursor, name, password, grants, require_tls)
        return Database(name, user, password, self.host, self.port, self)

    def drop(self, database: Database) -> None:
        """Remove a database and what belongs to it."""
        with self.admin() as connection, connection.cursor() as cursor:
            # A connection the test left open may hold a lock that the drop would wait for.
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE db = %s", (database.name,)
            )
            for (thread,) in cursor.fetchall():
                _kill(cursor, thread)
            cursor.execute(f"DROP DATABASE IF EXISTS `{database.name}`")
            if database.user == database.name:
                cursor.execute(f"DROP USER IF EXISTS `{database.user}`@`%`")

    @contextmanager
    def setting(self, **values: str | int) -> Iterator[None]:
        """Global server variables changed for a while, for connections made from now on."""
        self.require_ours("changes the server's settings")
        with self.admin() as connection, connection.cursor() as cursor:
            before = {}
            for name, value in values.items():
                cursor.execute(f"SELECT @@GLOBAL.{name}")
                before[name] = cursor.fetchone()[0]
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))
        try:
            yield
        finally:
            self.ensure()
            with self.admin() as connection, connection.cursor() as cursor:
                for name, value in before.items():
                    cursor.execute(f"SET GLOBAL {name} = %s", (value,))

    def require_ours(self, need: str) -> None:
        """Skip a test that must not be run against somebody's server."""
        if not self.is_ours:
            import pytest

            pytest.skip(f"this test {need}, and {GIVEN} names a server that is not ours")

    def ensure(self) -> None:
        """Bring the server back if a test left it down."""

    def stop(self) -> None:
        """Shut down cleanly."""
        self.require_ours("stops the server")

    def kill(self) -> None:
        """SIGKILL: what was not on disk is lost."""
        self.require_ours("kills the server")

    def start(self) -> None:
        """Start again, on the same port and the same data."""
        self.require_ours("starts the server")

    def restart(self) -> None:
        """Stop if running, then start on the same port."""
        self.require_ours("restarts the server")

    def close(self) -> None:
        """End of the session."""

    def _account(
        self, cursor: Any, name: str, password: str | None, grants: str, require_tls: bool
    ) -> tuple[str, str]:
        if password is not None or grants != "ALL PRIVILEGES" or require_tls:
            self.require_ours("needs an account of its own")
        return self._user, self._password


class MariaDB(Served, DatabaseServer):
    """A private `mariadbd` on a free loopback port, its data in a folder of its own.

    Each commit is on disk before it is acknowledged, as in a shop. The certificate is for
    `localhost` and signed by `ca`: by that name it verifies, by 127.0.0.1 it does not.
    """

    is_ours = True

    def __init__(
        self,
        folder: Path,
        *,
        local_infile: bool = True,
        tls: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(HOST, 0, _ADMIN, secrets.token_urlsafe(12))
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "mariadbd.log"
        self._local_infile = local_infile
        self._options = tuple(options)
        self._daemon, self._install = _programs()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # the start file below holds the admin's password
        self.certificates = make_certificates(folder / "tls") if tls else None
        self._create_data()

    @property
    def ca(self) -> Path:
        """The authority that signed the server's certificate."""
        assert self.certificates is not None, "this server was made with tls=False"
        return self.certificates.ca

    def close(self) -> None:
        self._end(clean=False)
        shutil.rmtree(self.data, ignore_errors=True)

    def _account(
        self, cursor: Any, name: str, password: str | None, grants: str, require_tls: bool
    ) -> tuple[str, str]:
        password = secrets.token_urlsafe(12) if password is None else password
        cursor.execute(f"CREATE USER `{name}`@`%%` IDENTIFIED BY %s", (password,))
        tls = "REQUIRE SSL" if require_tls else ""
        # In a grant an underscore stands for any letter, unless it is escaped.
        pattern = name.replace("_", "\\_")
        cursor.execute(f"GRANT {grants} ON `{pattern}`.* TO `{name}`@`%` {tls}")
        return name, password

    def _answers(self) -> bool:
        import pymysql

        try:
            self.admin(connect_timeout=5).close()
        except pymysql.err.OperationalError:
            return False
        return True

    def _create_data(self) -> None:
        made = subprocess.run(
            [
                self._install,
                *self._common(),
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            _fail(f"mariadb-install-db failed:\n{made.stdout}{made.stderr}")
        self._start_file.write_text(
            f"CREATE USER IF NOT EXISTS {_ADMIN}@'{HOST}' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO {_ADMIN}@'{HOST}' WITH GRANT OPTION;\n"
        )

    @property
    def _start_file(self) -> Path:
        return self.folder / "start.sql"

    def _common(self) -> list[str]:
        common = [
            "--no-defaults",
            f"--datadir={self.data}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
        ]
        return [*common, "--user=root"] if os.geteuid() == 0 else common

    def _command(self) -> list[str]:
        tls = self.certificates
        return [
            self._daemon,
            *self._common(),
            f"--port={self.port}",
            f"--bind-address={HOST}",
            "--socket=mariadb.sock",  # within the data; a full path may be too long for a socket
            f"--pid-file={self.folder / 'pid'}",
            f"--init-file={self._start_file}",
            f"--tmpdir={self.folder}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--character-set-server=utf8mb4",
            f"--local-infile={int(self._local_infile)}",
            *([f"--ssl-ca={tls.ca}", f"--ssl-cert={tls.server}"] if tls else ()),
            *([f"--ssl-key={tls.key}"] if tls else ()),
            *self._options,
        ]


class GivenServer(DatabaseServer):
    """A server somebody runs: databases are made in it and dropped, nothing else is touched."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "mysql" or not parts.hostname or not parts.username:
            _fail(f"{GIVEN} is not of the form mysql://user:password@host:port/name")
        super().__init__(
            parts.hostname,
            parts.port or 3306,
            unquote(parts.username),
            unquote(parts.password or ""),
        )


def open_server(folder: Path) -> DatabaseServer:
    """The server tests use: the given one, else a new one of our own, started."""
    url = os.environ.get(GIVEN)
    if url:
        return GivenServer(url)
    server = MariaDB(folder)
    server.start()
    return server


@dataclass(frozen=True)
class Certificates:
    """An authority, and a server certificate for `localhost` that it signed; PEM files."""

    ca: Path
    server: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A client's context that trusts this authority only and checks the host name."""
        return ssl.create_default_context(cafile=str(self.ca))


def make_certificates(folder: Path, *hosts: str) -> Certificates:
    """A new authority and a server certificate for `hosts` (default: localhost)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def builder(name: str, key: ec.EllipticCurvePrivateKey, signs: bool) -> x509.CertificateBuilder:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=signs,
            crl_sign=signs,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("Test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
                critical=False,
            )
        )

    authority = ec.generate_private_key(ec.SECP256R1())
    server = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in hosts or ("localhost",)]
    certificate = (
        builder(hosts[0] if hosts else "localhost", server, signs=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    root = builder("Test authority", authority, signs=True).sign(authority, hashes.SHA256())
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    made.ca.write_bytes(root.public_bytes(Encoding.PEM))
    made.server.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.key.chmod(0o600)
    return made


def _general_name(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _connect(
    host: str, port: int, user: str, password: str, name: str | None = None, **options: Any
) -> Connection:
    import pymysql

    options.setdefault("connect_timeout", 10)
    secret = password.encode()  # of text, PyMySQL would send Latin-1
    return pymysql.connect(
        host=host, port=port, user=user, password=secret, database=name, **options
    )


def _kill(cursor: Any, thread: int) -> None:
    import pymysql

    try:
        cursor.execute(f"KILL {int(thread)}")
    except pymysql.err.MySQLError as error:
        if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
            raise


def _programs() -> tuple[str, str]:
    """Paths of mariadbd and mariadb-install-db, installed if missing and we may."""
    if failed := install_package("mariadb-server", lambda: _find("mariadbd") is not None):
        _fail(failed)
    daemon, maker = _find("mariadbd"), _find("mariadb-install-db")
    if daemon is None or maker is None:
        _missing()
    return daemon, maker


def _missing() -> NoReturn:
    _fail(
        "These tests need MariaDB's server and found no mariadbd. Install it (Debian, Ubuntu: "
        f"apt-get install mariadb-server), or set {GIVEN}=mysql://user:password@host:port/name "
        "to an account that may create databases."
    )


def _find(program: str) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    return shutil.which(program, path=path)


def _fail(words: str) -> NoReturn:
    import pytest  # here: the bench starts a server too, where nothing of the tests is installed

    pytest.fail(words, pytrace=False)
