"""Tests on a probe table whether a MySQL or MariaDB server can do what runs need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from retailmart.check_results import CheckResult, ok, problem, warning
from retailmart.database.health import EMOJI, as_admin, clock_of, lasting, probe_name
from retailmart.database.mysql.errors import DENIED, error_code, message_of
from retailmart.database.pool import is_here
from retailmart.report import number_of

# From 8.0.17 on MySQL can compare texts byte by byte, including trailing spaces.
_MYSQL, _MARIADB = (8, 0, 17), (10, 6, 0)
_OF_VIEWS = "CREATE VIEW, SHOW VIEW"
_RIGHTS = f"SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, {_OF_VIEWS}"
_NO_TABLE = 1146
_TOO_LONG = 1406
_PACKET, _SMALLEST_PACKET = 16 << 20, 4 << 20
_ACCOUNT = re.compile(r"'[^']*'@'[^']*'")
_TABLES_TRIED = 500


def examine(engine: Engine, name: str, *, writes: bool) -> Iterator[CheckResult]:
    """Check what a database allows; `writes` means that the ledger and the marts are in it."""
    try:
        yield from _server(engine, name, writes=writes)
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


@dataclass(frozen=True)
class _Server:
    """One session with a server; each statement is committed at once."""

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
        """The server's error number for a statement, if it fails."""
        try:
            self.run(statement, values)
        except DBAPIError as error:
            number = _number(error)
            if number is None or error.connection_invalidated:
                raise
            return number
        return None

    def grant(self, rights: str) -> str:
        """The GRANT statement for this schema.

        A grant on the exact schema name takes precedence over one by pattern, in which `_` matches
        any letter. Where partial revokes are on, names are not patterns.
        """
        rows = self.run("SHOW GLOBAL VARIABLES LIKE 'partial_revokes'")
        by_name = bool(rows) and rows[0][1] == "ON"
        schema = self.schema if by_name else _escaped(self.schema)
        return as_admin(f"GRANT {rights} ON {_quoted(schema)}.* TO {self.account};")


def _server(engine: Engine, name: str, *, writes: bool) -> Iterator[CheckResult]:
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
        table = probe_name()
        try:
            missing = _missing_rights(server, table)
            yield _grants(server, missing)
            if not missing:
                yield from _views(server, table)
                yield _storage(server, table)
                yield _charset(server, table)
                yield _strict(server, table)
        finally:
            for kind, each in (
                ("VIEW", f"{table}_view"),
                ("TABLE", f"{table}_child"),
                ("TABLE", table),
            ):
                with suppress(DBAPIError):
                    server.run(f"DROP {kind} IF EXISTS {_quoted(each)}")
        yield from _narrow_tables(server)
        yield _local_infile(server)
        yield _packet(server)
        yield _flush(server)
        yield _clock(server)


def _version(engine: Engine, server: _Server) -> CheckResult:
    text = str(server.value("SELECT VERSION()"))
    is_mariadb = "mariadb" in text.lower()
    product, oldest = ("MariaDB", _MARIADB) if is_mariadb else ("MySQL", _MYSQL)
    number = text.partition("-")[0]
    found = f"{product} {number} at {_address(engine)}, as {server.account}"
    parts = tuple(int(part) for part in number.split(".")[:3] if part.isdigit())
    if parts < oldest:
        wanted = ".".join(map(str, oldest))
        fix = f"Upgrade it to {product} {wanted} or newer; older ones are not tested"
        return problem(f"{server.name}: server", found, fix)
    return ok(f"{server.name}: server", found)


def _tls(engine: Engine, server: _Server) -> CheckResult:
    check = f"{server.name}: TLS"
    rows = server.run("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    if rows and rows[0][1]:
        return ok(check, f"encrypted ({rows[0][1]})")
    if "unix_socket" in engine.url.query or is_here(engine.url.host):
        return ok(check, "not encrypted, the server is on this machine")
    fix = "Take ssl_disabled out of the database's URL, and let the server offer TLS"
    return problem(check, "passwords and rows cross the network in the clear", fix)


def _missing_rights(server: _Server, table: str) -> list[str]:
    """The rights that the account lacks. Each is tried, on a table that is dropped at the end.

    Even without a table, for lack of a right, the server names the other missing rights.
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
    # A table that could not be dropped is not created: each visit would leave one behind.
    missing = ["DROP"] if server.refusal(f"DROP TABLE {target}") in DENIED else []
    for right, statement in statements.items():
        if missing and right in ("CREATE", "REFERENCES"):
            continue
        if right == "ALTER" and {"CREATE", "INSERT"} & set(missing):
            continue  # it needs these rights too, and the refusal would not say which
        number = server.refusal(statement)
        if number in DENIED:
            missing.append(right)
        elif number is not None and not (missing and number == _NO_TABLE):
            server.run(statement)  # not a matter of rights: raise the server's own error
    return missing


def _grants(server: _Server, missing: list[str]) -> CheckResult:
    check = f"{server.name}: grants"
    if missing:
        found = f"{server.account} lacks {', '.join(missing)} on {server.schema}"
        return problem(check, found, server.grant(_RIGHTS))
    return ok(check, f"{server.account} may do all that runs do in {server.schema}")


def _views(server: _Server, table: str) -> Iterator[CheckResult]:
    """Without these rights runs work, but people have no views of the ledger."""
    view = _quoted(f"{table}_view")
    if server.refusal(f"CREATE VIEW {view} AS SELECT i FROM {_quoted(table)}") in DENIED:
        found = f"{server.account} may not create the views of the ledger"
        yield warning(f"{server.name}: views", found, server.grant(_OF_VIEWS))


def _storage(server: _Server, table: str) -> CheckResult:
    """A rollback must remove rows: half of all promises depend on it."""
    check, target = f"{server.name}: engine", _quoted(table)
    server.run("START TRANSACTION")
    server.run(f"INSERT INTO {target} (i, word) VALUES (2, 'two')")
    server.run("ROLLBACK")
    kept = server.value(f"SELECT count(*) FROM {target}")
    query = "SELECT engine FROM information_schema.tables WHERE table_schema = %s"
    kind = server.run(f"{query} AND table_name = %s", (server.schema, table))[0][0]
    if kept or kind != "InnoDB":
        fix = "SET GLOBAL default_storage_engine = InnoDB;"
        return problem(check, f"new tables are {kind}, without transactions", lasting(fix))
    return ok(check, "InnoDB, and it rolls back")


def _charset(server: _Server, table: str) -> CheckResult:
    """Write and read an emoji, which tests connection and schema at once."""
    check, target = f"{server.name}: charset", _quoted(table)
    statement = f"INSERT INTO {target} (i, word) VALUES (3, %s)"
    refused = server.refusal(statement, (EMOJI,))
    rows = server.run(f"SELECT word FROM {target} WHERE i = 3")
    session = _session_charset(server)
    query = (
        "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = %s"
    )
    schema = str(server.run(query, (server.schema,))[0][0])
    if refused is None and rows == [(EMOJI,)]:
        return ok(check, f"{schema}, an emoji comes back as it went in")
    fix = f"ALTER DATABASE {_quoted(server.schema)} CHARACTER SET utf8mb4;"
    found = f"{server.schema} is {schema}, the connection {session}: names would be spoilt"
    return problem(check, found, as_admin(fix))


def _connection_charset(server: _Server) -> CheckResult:
    session = _session_charset(server)
    if session == "utf8mb4":
        return ok(f"{server.name}: charset", "the connection is utf8mb4")
    fix = "Put ?charset=utf8mb4 behind the database's URL"
    return problem(f"{server.name}: charset", f"the connection is {session}", fix)


def _session_charset(server: _Server) -> str:
    return str(server.value("SELECT @@SESSION.character_set_connection"))


def _narrow_tables(server: _Server) -> Iterator[CheckResult]:
    """Tables keep the charset that they were created with, even if the schema's has changed."""
    rows = server.run(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
        " AND table_name LIKE %s AND table_collation NOT LIKE %s ORDER BY table_name",
        (server.schema, r"retailmart\_%", r"utf8mb4\_%"),
    )
    if rows:
        names = [str(row[0]) for row in rows]
        fix = " ".join(
            f"ALTER TABLE {_quoted(server.schema)}.{_quoted(name)}"
            " CONVERT TO CHARACTER SET utf8mb4;"
            for name in names
        )
        found = f"older tables are not utf8mb4: {', '.join(names)}"
        yield problem(f"{server.name}: tables", found, as_admin(fix))


def _strict(server: _Server, table: str) -> CheckResult:
    check = f"{server.name}: strict mode"
    statement = f"INSERT INTO {_quoted(table)} (i, word) VALUES (4, %s)"
    if server.refusal(statement, ("x" * 11,)) == _TOO_LONG:
        return ok(check, "a value that is too long is refused")
    fix = "SET GLOBAL sql_mode = CONCAT('STRICT_ALL_TABLES,', @@GLOBAL.sql_mode);"
    return problem(check, "a value that is too long is cut off silently", lasting(fix))


def _local_infile(server: _Server) -> CheckResult:
    check = f"{server.name}: local_infile"
    if server.setting("local_infile"):
        return ok(check, "on: rows are loaded in bulk")
    fix = "SET GLOBAL local_infile = 1;"
    return warning(check, "off: large marts are published more slowly", lasting(fix))


def _packet(server: _Server) -> CheckResult:
    size = int(server.setting("max_allowed_packet"))
    check, found = f"{server.name}: max_allowed_packet", f"{size / (1 << 20):g} MiB"
    if size >= _PACKET:
        return ok(check, found)
    progress = problem if size < _SMALLEST_PACKET else warning
    fix = "SET GLOBAL max_allowed_packet = 67108864;"
    return progress(check, f"{found}: a large batch's record may not fit", lasting(fix))


def _flush(server: _Server) -> CheckResult:
    check = f"{server.name}: durability"
    value = int(server.setting("innodb_flush_log_at_trx_commit"))
    found = f"innodb_flush_log_at_trx_commit = {value}"
    if value == 1:
        return ok(check, found)
    fix = "SET GLOBAL innodb_flush_log_at_trx_commit = 1;"
    return warning(check, f"{found}: a power cut can take a finished batch", lasting(fix))


def _clock(server: _Server) -> CheckResult:
    return clock_of(
        server.name, lambda: server.value("SELECT UTC_TIMESTAMP(6)").replace(tzinfo=UTC)
    )


def _readable(server: _Server) -> CheckResult:
    """Read the columns of tables: one that the account may only see is listed, too."""
    check = f"{server.name}: grants"
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s LIMIT %s"
    names = [str(row[0]) for row in server.run(query, (server.schema, _TABLES_TRIED))]
    closed = [
        name
        for name in names
        if server.refusal(f"SELECT * FROM {_quoted(name)} LIMIT 0".replace("%", "%%")) in DENIED
    ]
    if not names:
        found = f"{server.account} sees no table in {server.schema}"
        return problem(check, found, server.grant("SELECT"))
    if closed:
        found = f"{server.account} may not read {', '.join(closed)}"
        return problem(check, found, server.grant("SELECT"))
    return ok(check, f"{number_of(len(names), 'table')} in {server.schema} can be read")


# errors before a session exists


def _trouble(engine: Engine, name: str, error: DBAPIError) -> CheckResult:
    """An error as a check result. The server's words hold no password; the URL is never shown."""
    check = f"{name}: server"
    number, said = _number(error), " ".join(message_of(error.orig or error).split())
    address = _address(engine)
    named = _ACCOUNT.search(said)
    account = named[0] if named else f"{_literal(engine.url.username or '')}@'%'"
    schema = _quoted(engine.url.database or "")
    pattern = _quoted(_escaped(engine.url.database or ""))
    rights = "SELECT" if name.startswith("source ") else _RIGHTS
    fixes = {
        1040: "Raise it: SET GLOBAL max_connections = 300;",
        1044: as_admin(f"GRANT {rights} ON {pattern}.* TO {account};"),
        1045: "Check user and password: MYSQL_USER and MYSQL_PASSWORD, or the database's URL",
        1049: as_admin(f"CREATE DATABASE {schema} CHARACTER SET utf8mb4;"),
        1129: as_admin("FLUSH HOSTS;"),
        1130: as_admin(
            f"CREATE USER {account} IDENTIFIED BY '…'; GRANT {rights} ON {pattern}.* TO {account};"
        ),
        1290: "Use the primary, not a replica, or switch read_only off",
        1836: "Use the primary, not a replica, or switch read_only off",
        1698: "Give the account a password: ALTER USER … IDENTIFIED BY '…';",
    }
    if number in fixes:
        return problem(check, f"{address}: {said}", fixes[number])
    if "certificate" in said.lower() or "ssl" in said.lower():
        fix = (
            "Name the certificate's host in the URL, and its authority with ?ssl_ca=/path/ca.pem;"
            " or let the server offer TLS"
        )
        return problem(f"{name}: TLS", f"{address}: {said}", fix)
    if number in (2002, 2003, 2005, 2006, 2013) or number is None:
        fix = "Start it, or check host and port: MYSQL_HOST and MYSQL_PORT, or the database's URL"
        return problem(check, f"{address} cannot be reached: {said}", fix)
    fix = f"The server refuses what runs need; look up its error {number}"
    return problem(check, f"{address}: {said}", fix)


def _number(error: DBAPIError) -> int | None:
    return error_code(error.orig)


def _address(engine: Engine) -> str:
    url = engine.url
    host = url.query.get("unix_socket") or f"{url.host or 'localhost'}:{url.port or 3306}"
    return f"{host}/{url.database}"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _escaped(schema: str) -> str:
    return schema.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
