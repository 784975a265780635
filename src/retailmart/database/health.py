"""Whether a database can do what runs ask of it, found out by doing it on a table of our own."""

from __future__ import annotations

import re
import shlex
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from retailmart.database import open_database
from retailmart.database.told import error_code, words
from retailmart.findings import Finding, clock, ok, problem, warning

_PREFIX = "retailmart_doctor_"
# From here on a statement takes as many values as bulk inserts bring.
_SQLITE = (3, 32)
# MySQL compares texts byte by byte, trailing spaces too, from 8.0.17 on.
_MYSQL, _MARIADB = (8, 0, 17), (10, 6, 0)
_RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
_DENIED = (1044, 1142, 1143, 1227, 1370)
_NO_TABLE = 1146
_TOO_LONG = 1406
_PACKET, _SMALLEST_PACKET = 16 << 20, 4 << 20
_ACCOUNT = re.compile(r"'[^']*'@'[^']*'")
_TABLES_TRIED = 500
_EMOJI = "🧾 ₦ é"
_FAST_SECONDS = 2
_SQLITE_TABLES = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')"


def sqlite_file(url: str, folder: Path) -> Path | None:
    """The file of a SQLite database; None for any other."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database
    return folder / str(parsed.database) if is_file else None


def examine_target(url: str, folder: Path, name: str) -> Iterator[Finding]:
    """Check the database of the ledger and the published marts. `name` begins each finding."""
    if path := sqlite_file(url, folder):
        yield from _sqlite_folder(path, name)
        yield _sqlite_target(path, name)
        return
    with _opened(url, folder, must_exist=False) as engine:
        yield from examine_engine(engine, name, writes=True)


def examine_source(url: str, folder: Path, name: str) -> Iterator[Finding]:
    """Check a database that is only read."""
    with _opened(url, folder, must_exist=True) as engine:
        yield from examine_engine(engine, name, writes=False)


def examine_engine(engine: Engine, name: str, *, writes: bool) -> Iterator[Finding]:
    """Check what a database allows; `writes` where the ledger and the marts live in it."""
    sqlite = engine.dialect.name == "sqlite"
    checks = _sqlite_source(engine, name) if sqlite else _mysql(engine, name, writes=writes)
    try:
        yield from checks
    except DBAPIError as error:
        yield _trouble(engine, name, error)
    except RuntimeError as error:
        if "cryptography" not in str(error):
            raise
        yield problem(
            f"{name}: server",
            "the account's kind of password needs a Python package that is missing",
            "Type: pip install cryptography",
        )


@contextmanager
def _opened(url: str, folder: Path, *, must_exist: bool) -> Iterator[Engine]:
    engine = open_database(url, folder, must_exist=must_exist)
    try:
        yield engine
    finally:
        engine.dispose()


# SQLite


def _sqlite_folder(path: Path, name: str) -> Iterator[Finding]:
    """The database's journal lies beside it: the folder must take files, shared memory too."""
    version = sqlite3.sqlite_version_info
    check, words = f"{name}: version", f"SQLite {sqlite3.sqlite_version}"
    if version < _SQLITE:
        wanted = ".".join(map(str, _SQLITE))
        yield problem(check, words, f"Use a Python that comes with SQLite {wanted} or newer")
    else:
        yield ok(check, words)
    folder = next(parent for parent in path.parents if parent.is_dir())
    probe = folder / f".retailmart-doctor-{uuid.uuid4().hex}.db"
    try:
        connection = sqlite3.connect(probe, isolation_level=None)
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("CREATE TABLE probe (i INTEGER)")
        finally:
            connection.close()
    except sqlite3.Error as error:
        cure = f"Let {_me()} write in it: chown {_me()} {shlex.quote(str(folder))}; or make room"
        yield problem(f"{name}: folder", f"{folder}: {error}", cure)
        return
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                probe.with_name(probe.name + suffix).unlink()
    if mode != "wal":
        cure = "Move the database to a local disk: `database` in retailmart.yml"
        yield problem(f"{name}: folder", f"{folder} takes no write-ahead log", cure)
        return
    yield ok(f"{name}: folder", f"{folder} is writable and takes a write-ahead log")


def _sqlite_target(path: Path, name: str) -> Finding:
    """Write to the database itself, and take it back. It is not waited for while a run has it."""
    check = f"{name}: file"
    if not path.is_file():
        return ok(check, f"{path} is not there yet, the first run makes it")
    try:
        connection = sqlite3.connect(path, timeout=_FAST_SECONDS, isolation_level=None)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"CREATE TABLE {_name()} (i INTEGER)")
            connection.execute("ROLLBACK")
            count = connection.execute(_SQLITE_TABLES).fetchone()[0]
    except sqlite3.Error as error:
        if "locked" in str(error):
            return ok(check, f"{path} is busy: a run or another program writes to it")
        return problem(check, f"{path}: {error}", _wrong_file(name))
    return ok(check, f"{path} is writable, {count} tables")


def _sqlite_source(engine: Engine, name: str) -> Iterator[Finding]:
    with engine.connect() as connection:
        count = connection.exec_driver_sql(_SQLITE_TABLES).scalar_one()
    path = _sqlite_path(engine)
    if count:
        yield ok(f"{name}: tables", f"{count} in {path}")
    else:
        yield problem(f"{name}: tables", f"{path} holds no table", _wrong_source(name))


def _sqlite_path(engine: Engine) -> str:
    return unquote(str(engine.url.database).removeprefix("file:"))


# MySQL and MariaDB


@dataclass(frozen=True)
class _Server:
    """One session with a server; statements are committed as they come."""

    name: str
    connection: Connection
    account: str
    schema: str

    def run(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        result = self.connection.exec_driver_sql(statement, values)
        return [tuple(row) for row in result] if result.returns_rows else []

    def value(self, statement: str) -> Any:
        return self.run(statement)[0][0]

    def setting(self, variable: str) -> Any:
        return self.value(f"SELECT @@GLOBAL.{variable}")

    def refusal(self, statement: str, values: tuple[Any, ...] = ()) -> int | None:
        """The number of the error that the server answers with, if it does."""
        try:
            self.run(statement, values)
        except DBAPIError as error:
            number = _number(error)
            if number is None or error.connection_invalidated:
                raise
            return number
        return None

    def grant(self, rights: str) -> str:
        """A grant on this schema's very name goes before those by pattern, where `_` is any letter.

        Where rights can be taken back in part, names are no patterns.
        """
        rows = self.run("SHOW GLOBAL VARIABLES LIKE 'partial_revokes'")
        by_name = bool(rows) and rows[0][1] == "ON"
        schema = self.schema if by_name else _escaped(self.schema)
        return _as_admin(f"GRANT {rights} ON {_quoted(schema)}.* TO {self.account};")


def _mysql(engine: Engine, name: str, *, writes: bool) -> Iterator[Finding]:
    with engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("SET SESSION lock_wait_timeout = 5")
        row = connection.exec_driver_sql("SELECT CURRENT_USER(), DATABASE()").one()
        user, _, host = str(row[0]).rpartition("@")
        account = f"{_literal(user)}@{_literal(host)}"
        server = _Server(name, connection, account, str(row[1]))
        yield _version(engine, server)
        yield _tls(engine, server)
        if not writes:
            yield _readable(server)
            yield _connection_charset(server)
            return
        table = _name()
        try:
            missing = _missing_rights(server, table)
            yield _grants(server, missing)
            if not missing:
                yield _storage(server, table)
                yield _charset(server, table)
                yield _strict(server, table)
        finally:
            for each in (f"{table}_child", table):
                with suppress(DBAPIError):
                    server.run(f"DROP TABLE IF EXISTS {_quoted(each)}")
        yield from _narrow_tables(server)
        yield _local_infile(server)
        yield _packet(server)
        yield _flush(server)
        yield _clock(server)


def _version(engine: Engine, server: _Server) -> Finding:
    text = str(server.value("SELECT VERSION()"))
    is_mariadb = "mariadb" in text.lower()
    product, oldest = ("MariaDB", _MARIADB) if is_mariadb else ("MySQL", _MYSQL)
    number = text.partition("-")[0]
    found = f"{product} {number} at {_address(engine)}, as {server.account}"
    parts = tuple(int(part) for part in number.split(".")[:3] if part.isdigit())
    if parts < oldest:
        wanted = ".".join(map(str, oldest))
        cure = f"Upgrade it to {product} {wanted} or newer; older ones are not tested"
        return problem(f"{server.name}: server", found, cure)
    return ok(f"{server.name}: server", found)


def _tls(engine: Engine, server: _Server) -> Finding:
    check = f"{server.name}: TLS"
    rows = server.run("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    if rows and rows[0][1]:
        return ok(check, f"encrypted ({rows[0][1]})")
    if _is_this_machine(engine):
        return ok(check, "not encrypted, the server is on this machine")
    cure = "Take ssl_disabled out of the database's URL, and let the server offer TLS"
    return problem(check, "passwords and rows cross the network in the clear", cure)


def _missing_rights(server: _Server, table: str) -> list[str]:
    """The rights the account lacks. Each is used, on a table that is dropped in the end.

    Where there is no table, for want of a right, the server still tells which others it lacks.
    """
    target, child = _quoted(table), _quoted(f"{table}_child")
    statements = {
        "CREATE": f"CREATE TABLE {target} (i INT PRIMARY KEY, word VARCHAR(10), other INT)",
        "INSERT": f"INSERT INTO {target} (i, word) VALUES (1, 'one')",
        "SELECT": f"SELECT * FROM {target}",
        "UPDATE": f"UPDATE {target} SET word = 'two'",
        "DELETE": f"DELETE FROM {target}",
        "INDEX": f"CREATE INDEX {_quoted(table)} ON {target} (word)",
        "ALTER": f"ALTER TABLE {target} DROP COLUMN other",
        "REFERENCES": f"CREATE TABLE {child} (i INT PRIMARY KEY,"
        f" FOREIGN KEY (i) REFERENCES {target} (i))",
    }
    # What could not be dropped is not created: each visit would leave a table behind.
    missing = ["DROP"] if server.refusal(f"DROP TABLE {target}") in _DENIED else []
    for right, statement in statements.items():
        if missing and right in ("CREATE", "REFERENCES"):
            continue
        if right == "ALTER" and {"CREATE", "INSERT"} & set(missing):
            continue  # it takes these rights too, and the refusal would not tell which
        number = server.refusal(statement)
        if number in _DENIED:
            missing.append(right)
        elif number is not None and not (missing and number == _NO_TABLE):
            server.run(statement)  # not a matter of rights: let the server's words be told
    return missing


def _grants(server: _Server, missing: list[str]) -> Finding:
    check = f"{server.name}: grants"
    if missing:
        found = f"{server.account} lacks {', '.join(missing)} on {server.schema}"
        return problem(check, found, server.grant(_RIGHTS))
    return ok(check, f"{server.account} may do all that runs do in {server.schema}")


def _storage(server: _Server, table: str) -> Finding:
    """Rolling back must take rows away again: half of all promises rest on it."""
    check, target = f"{server.name}: engine", _quoted(table)
    server.run("START TRANSACTION")
    server.run(f"INSERT INTO {target} (i, word) VALUES (2, 'two')")
    server.run("ROLLBACK")
    kept = server.value(f"SELECT count(*) FROM {target}")
    query = "SELECT engine FROM information_schema.tables WHERE table_schema = %s"
    kind = server.run(f"{query} AND table_name = %s", (server.schema, table))[0][0]
    if kept or kind != "InnoDB":
        cure = "SET GLOBAL default_storage_engine = InnoDB;"
        return problem(check, f"new tables are {kind}, without transactions", _lasting(cure))
    return ok(check, "InnoDB, and it rolls back")


def _charset(server: _Server, table: str) -> Finding:
    """An emoji that goes in and comes out proves connection and schema at once."""
    check, target = f"{server.name}: charset", _quoted(table)
    statement = f"INSERT INTO {target} (i, word) VALUES (3, %s)"
    refused = server.refusal(statement, (_EMOJI,))
    rows = server.run(f"SELECT word FROM {target} WHERE i = 3")
    session = _session_charset(server)
    query = (
        "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = %s"
    )
    schema = str(server.run(query, (server.schema,))[0][0])
    if refused is None and rows == [(_EMOJI,)]:
        return ok(check, f"{schema}, an emoji comes back as it went in")
    cure = f"ALTER DATABASE {_quoted(server.schema)} CHARACTER SET utf8mb4;"
    found = f"{server.schema} is {schema}, the connection {session}: names would be spoilt"
    return problem(check, found, _as_admin(cure))


def _connection_charset(server: _Server) -> Finding:
    session = _session_charset(server)
    if session == "utf8mb4":
        return ok(f"{server.name}: charset", "the connection is utf8mb4")
    cure = "Put ?charset=utf8mb4 behind the database's URL"
    return problem(f"{server.name}: charset", f"the connection is {session}", cure)


def _session_charset(server: _Server) -> str:
    return str(server.value("SELECT @@SESSION.character_set_connection"))


def _narrow_tables(server: _Server) -> Iterator[Finding]:
    """Tables keep the charset they were made with, whatever the schema's is by now."""
    rows = server.run(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
        " AND table_name LIKE %s AND table_collation NOT LIKE %s ORDER BY table_name",
        (server.schema, r"retailmart\_%", r"utf8mb4\_%"),
    )
    if rows:
        names = [str(row[0]) for row in rows]
        cure = " ".join(
            f"ALTER TABLE {_quoted(server.schema)}.{_quoted(name)}"
            " CONVERT TO CHARACTER SET utf8mb4;"
            for name in names
        )
        found = f"older tables are not utf8mb4: {', '.join(names)}"
        yield problem(f"{server.name}: tables", found, _as_admin(cure))


def _strict(server: _Server, table: str) -> Finding:
    check = f"{server.name}: strict mode"
    statement = f"INSERT INTO {_quoted(table)} (i, word) VALUES (4, %s)"
    if server.refusal(statement, ("x" * 11,)) == _TOO_LONG:
        return ok(check, "a value that is too long is refused")
    cure = "SET GLOBAL sql_mode = CONCAT('STRICT_ALL_TABLES,', @@GLOBAL.sql_mode);"
    return problem(check, "a value that is too long is cut off silently", _lasting(cure))


def _local_infile(server: _Server) -> Finding:
    check = f"{server.name}: local_infile"
    if server.setting("local_infile"):
        return ok(check, "on: rows are loaded in bulk")
    cure = "SET GLOBAL local_infile = 1;"
    return warning(check, "off: large marts are published more slowly", _lasting(cure))


def _packet(server: _Server) -> Finding:
    size = int(server.setting("max_allowed_packet"))
    check, found = f"{server.name}: max_allowed_packet", f"{size / (1 << 20):g} MiB"
    if size >= _PACKET:
        return ok(check, found)
    tell = problem if size < _SMALLEST_PACKET else warning
    cure = "SET GLOBAL max_allowed_packet = 67108864;"
    return tell(check, f"{found}: a large batch's record may not fit", _lasting(cure))


def _flush(server: _Server) -> Finding:
    check = f"{server.name}: durability"
    value = int(server.setting("innodb_flush_log_at_trx_commit"))
    found = f"innodb_flush_log_at_trx_commit = {value}"
    if value == 1:
        return ok(check, found)
    cure = "SET GLOBAL innodb_flush_log_at_trx_commit = 1;"
    return warning(check, f"{found}: a power cut can take a finished batch", _lasting(cure))


def _clock(server: _Server) -> Finding:
    before = datetime.now(UTC)
    there = server.value("SELECT UTC_TIMESTAMP(6)").replace(tzinfo=UTC)
    here = before + (datetime.now(UTC) - before) / 2
    return clock(
        f"{server.name}: clock",
        (there - here).total_seconds(),
        problem_from=30,
        why="two machines could take each other's work over",
        cure="Synchronise both machines' clocks: timedatectl set-ntp true",
    )


def _readable(server: _Server) -> Finding:
    """A table that may only be seen is listed too; reading its columns tells."""
    check = f"{server.name}: grants"
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s LIMIT %s"
    names = [str(row[0]) for row in server.run(query, (server.schema, _TABLES_TRIED))]
    closed = [
        name
        for name in names
        if server.refusal(f"SELECT * FROM {_quoted(name)} LIMIT 0".replace("%", "%%")) in _DENIED
    ]
    if not names:
        found = f"{server.account} sees no table in {server.schema}"
        return problem(check, found, server.grant("SELECT"))
    if closed:
        found = f"{server.account} may not read {', '.join(closed)}"
        return problem(check, found, server.grant("SELECT"))
    return ok(check, f"{len(names)} tables in {server.schema} can be read")


# what goes wrong before there is a session


def _trouble(engine: Engine, name: str, error: DBAPIError) -> Finding:
    """An error as a finding. The server's words hold no password; the URL is never shown."""
    check = f"{name}: server"
    number, said = _number(error), " ".join(words(error.orig or error).split())
    if engine.dialect.name == "sqlite":
        found = f"{_sqlite_path(engine)}: {said}"
        return problem(f"{name}: file", found, _wrong_file(name))
    address = _address(engine)
    named = _ACCOUNT.search(said)
    account = named[0] if named else f"{_literal(engine.url.username or '')}@'%'"
    schema = _quoted(engine.url.database or "")
    pattern = _quoted(_escaped(engine.url.database or ""))
    cures = {
        1040: "Raise it: SET GLOBAL max_connections = 300;",
        1044: _as_admin(f"GRANT {_RIGHTS} ON {pattern}.* TO {account};"),
        1045: "Check user and password: MYSQL_USER and MYSQL_PASSWORD, or the database's URL",
        1049: _as_admin(f"CREATE DATABASE {schema} CHARACTER SET utf8mb4;"),
        1129: _as_admin("FLUSH HOSTS;"),
        1130: _as_admin(
            f"CREATE USER {account} IDENTIFIED BY '…'; GRANT {_RIGHTS} ON {pattern}.* TO {account};"
        ),
        1290: "Use the primary, not a replica, or switch read_only off",
        1836: "Use the primary, not a replica, or switch read_only off",
        1698: "Give the account a password: ALTER USER … IDENTIFIED BY '…';",
    }
    if number in cures:
        return problem(check, f"{address}: {said}", cures[number])
    if "certificate" in said.lower() or "ssl" in said.lower():
        cure = (
            "Name the certificate's host in the URL, and its authority with ?ssl_ca=/path/ca.pem;"
            " or let the server offer TLS"
        )
        return problem(f"{name}: TLS", f"{address}: {said}", cure)
    if number in (2002, 2003, 2005, 2006, 2013) or number is None:
        cure = "Start it, or check host and port: MYSQL_HOST and MYSQL_PORT, or the database's URL"
        return problem(check, f"{address} cannot be reached: {said}", cure)
    cure = f"The server refuses what runs need; look up its error {number}"
    return problem(check, f"{address}: {said}", cure)


def _number(error: DBAPIError) -> int | None:
    return error_code(error.orig)


def _address(engine: Engine) -> str:
    url = engine.url
    host = url.query.get("unix_socket") or f"{url.host or 'localhost'}:{url.port or 3306}"
    return f"{host}/{url.database}"


def _is_this_machine(engine: Engine) -> bool:
    host = engine.url.host
    if host in (None, "", "localhost") or "unix_socket" in engine.url.query:
        return True
    try:
        return ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _name() -> str:
    return f"{_PREFIX}{uuid.uuid4().hex[:12]}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _escaped(schema: str) -> str:
    return schema.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _as_admin(statement: str) -> str:
    return f"As the server's administrator: {statement}"


def _lasting(statement: str) -> str:
    """A setting that a restart would forget."""
    return f"{_as_admin(statement)} (and in the server's own settings file, to last)"


def _wrong_source(name: str) -> str:
    key = name.removeprefix("source ")
    return f"Correct `sources: {key}` in retailmart.yml"


def _wrong_file(name: str) -> str:
    setting = "`database`" if name == "database" else f"`sources: {name.removeprefix('source ')}`"
    return f"Let {_me()} read and write it, or correct {setting} in retailmart.yml"


def _me() -> str:
    import getpass

    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "this user"
