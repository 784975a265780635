"""Tests on a probe table whether a PostgreSQL server can do what runs need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from retailmart.check_results import CheckResult, ok, problem, warning
from retailmart.database.health import EMOJI, as_admin, clock_of, lasting, probe_name
from retailmart.database.pool import is_here
from retailmart.database.postgres.errors import NOT_SUPPLIED, message_of, state_of
from retailmart.database.postgres.opening import address_of
from retailmart.report import number_of
from retailmart.tables import quoted, text_literal

_OLDEST = 130_000
_DENIED = "42501"
_TABLES_TRIED = 500


@dataclass(frozen=True)
class _Server:
    """One session with a server; each statement is committed at once."""

    name: str
    connection: Connection
    account: str
    database: str
    schema: str | None

    def value(self, statement: str) -> Any:
        return self.connection.exec_driver_sql(statement).scalar_one()

    def refusal(self, statement: str) -> str | None:
        """The server's SQLSTATE, if it refuses a statement."""
        try:
            self.connection.exec_driver_sql(statement)
        except DBAPIError as error:
            state = state_of(error.orig)
            if state is None or error.connection_invalidated:
                raise
            return state
        return None


def examine(engine: Engine, name: str, *, writes: bool) -> Iterator[CheckResult]:
    """Check what a database allows; `writes` means that the ledger and the marts are in it."""
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            row = connection.exec_driver_sql(
                "SELECT current_user, current_database(), current_schema()"
            ).one()
            server = _Server(name, connection, str(row[0]), str(row[1]), row[2])
            yield _version(engine, server)
            yield _tls(engine, server)
            yield _encoding(server)
            if writes:
                yield from _writable(server, address_of(engine).schema)
            else:
                yield _readable(server)
    except DBAPIError as error:
        yield _trouble(engine, name, error)


def _writable(server: _Server, wanted: str | None) -> Iterator[CheckResult]:
    """Whether runs can write; `wanted` is the schema that the URL names, if it names one."""
    if server.value("SELECT pg_is_in_recovery()"):
        yield problem(
            f"{server.name}: primary",
            "the server is a standby and takes no writes",
            "Name the primary in the database's URL",
        )
        return
    schema = _schema(server, wanted)
    yield schema
    if schema.fix is None:
        yield from _table(server)
    yield _durability(server)
    yield _clock(server)


def _version(engine: Engine, server: _Server) -> CheckResult:
    number = int(server.value("SHOW server_version_num"))
    version = server.value("SHOW server_version")
    found = f"PostgreSQL {version} at {_where(engine)}, as {server.account}"
    if number < _OLDEST:
        fix = f"Upgrade it to PostgreSQL {_OLDEST // 10_000} or newer; older ones are not tested"
        return problem(f"{server.name}: server", found, fix)
    return ok(f"{server.name}: server", found)


def _tls(engine: Engine, server: _Server) -> CheckResult:
    check = f"{server.name}: TLS"
    rows = server.connection.exec_driver_sql(
        "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"
    ).all()
    if rows:
        return ok(check, f"encrypted ({rows[0][0]})")
    address = address_of(engine)
    if address.socket or is_here(address.host):
        return ok(check, "not encrypted, the server is on this machine")
    fix = "Take sslmode out of the database's URL, and let the server offer TLS"
    return problem(check, "passwords and rows cross the network in the clear", fix)


def _encoding(server: _Server) -> CheckResult:
    """Check that the server's encoding holds an emoji; otherwise names would be refused."""
    check = f"{server.name}: encoding"
    encoding = str(server.value("SHOW server_encoding"))
    if encoding == "UTF8" and server.value(f"SELECT {text_literal(EMOJI)}") == EMOJI:
        return ok(check, "UTF8, an emoji comes back as it went in")
    fix = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; a database keeps its encoding"
    return problem(check, f"the database is {encoding}, which does not hold all letters", fix)


def _schema(server: _Server, wanted: str | None) -> CheckResult:
    check, account = f"{server.name}: schema", _account(server)
    if server.schema is None and wanted is not None:
        # A schema that the account may not use is as hidden from its session as a missing one.
        name = quoted(wanted)
        query = f"SELECT count(*) FROM pg_namespace WHERE nspname = {text_literal(wanted)}"
        if server.value(query):
            found = f"{server.account} lacks USAGE on the schema {wanted}"
            fix = f"GRANT USAGE, CREATE ON SCHEMA {name} TO {account};"
        else:
            found = f"there is no schema {wanted}, which the URL names"
            fix = f"CREATE SCHEMA {name} AUTHORIZATION {account};"
        return problem(check, found, as_admin(fix))
    if server.schema is None:
        fix = f"CREATE SCHEMA …, and name it in the URL as ?schema=…, or as {server.account}'s own"
        return problem(check, "there is no schema that tables can be created in", fix)
    name = text_literal(server.schema)
    missing = [
        right
        for right in ("USAGE", "CREATE")
        if not server.value(f"SELECT has_schema_privilege({name}, '{right}')")
    ]
    if missing:
        grant = f"GRANT USAGE, CREATE ON SCHEMA {quoted(server.schema)} TO {_account(server)};"
        found = f"{server.account} lacks {', '.join(missing)} on the schema {server.schema}"
        return problem(check, found, as_admin(grant))
    return ok(check, f"{server.account} may create tables in {server.schema}")


def _table(server: _Server) -> Iterator[CheckResult]:
    """Create, fill, change, rename and drop a table; a rollback must remove it again."""
    check, name = f"{server.name}: tables", quoted(probe_name())
    other = quoted(probe_name())
    statements = (
        f"CREATE TABLE {name} (i INT PRIMARY KEY, word TEXT)",
        f"INSERT INTO {name} VALUES (1, {text_literal(EMOJI)})",
        f"UPDATE {name} SET word = 'two'",
        f"ALTER TABLE {name} ADD COLUMN other INT",
        f"ALTER TABLE {name} RENAME TO {other}",
        f"DELETE FROM {other}",
        f"DROP TABLE {other}",
    )
    try:
        for statement in statements:
            if state := server.refusal(statement):
                verb = " ".join(statement.split()[:2])
                fix = f"The server refuses {verb}; look up its SQLSTATE {state}"
                yield problem(check, f"{verb} is refused ({state})", fix)
                return
    finally:
        for each in (name, other):
            with suppress(DBAPIError):
                server.connection.exec_driver_sql(f"DROP TABLE IF EXISTS {each}")
    yield ok(check, "tables can be created, filled, changed, renamed and dropped")


def _durability(server: _Server) -> CheckResult:
    check = f"{server.name}: durability"
    off = [name for name in ("fsync", "full_page_writes") if server.value(f"SHOW {name}") != "on"]
    if not off:
        return ok(check, "fsync and full_page_writes are on")
    fix = " ".join(f"ALTER SYSTEM SET {name} = on;" for name in off)
    found = f"{' and '.join(off)} off: a power cut can take a finished batch"
    return warning(check, found, lasting(fix))


def _clock(server: _Server) -> CheckResult:
    return clock_of(server.name, lambda: server.value("SELECT clock_timestamp()"))


def _readable(server: _Server) -> CheckResult:
    """Ask for rights on tables: one that the account may only see is listed, too."""
    check = f"{server.name}: grants"
    rows = server.connection.exec_driver_sql(
        "SELECT relname, has_table_privilege(oid, 'SELECT') FROM pg_class"
        " WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))"
        f" AND relkind IN ('r', 'p', 'v', 'm') ORDER BY 1 LIMIT {_TABLES_TRIED}"
    ).all()
    schema = quoted(server.schema or "public")
    grant = f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {_account(server)};"
    if not rows:
        found = f"{server.account} sees no table in {server.schema or server.database}"
        return problem(check, found, as_admin(f"GRANT USAGE ON SCHEMA {schema} …; {grant}"))
    if closed := [str(name) for name, readable in rows if not readable]:
        found = f"{server.account} may not read {', '.join(closed)}"
        return problem(check, found, as_admin(grant))
    return ok(check, f"{number_of(len(rows), 'table')} in {server.schema} can be read")


def _trouble(engine: Engine, name: str, error: DBAPIError) -> CheckResult:
    """An error before a session exists. The server's words hold no password."""
    check, address = f"{name}: server", _where(engine)
    state, said = state_of(error.orig), " ".join(message_of(error.orig or error).split())
    lower, account = said.lower(), address_of(engine).user
    database = quoted(address_of(engine).database)
    if "no password supplied" in lower:
        return problem(check, f"{address}: {said}", NOT_SUPPLIED)
    if "password" in lower or (state or "").startswith("28"):
        fix = "Check user and password: PGUSER and PGPASSWORD, or the database's URL"
        return problem(check, f"{address}: {said}", fix)
    if state == "3D000" or ("database" in lower and "does not exist" in lower):
        fix = as_admin(f"CREATE DATABASE {database} ENCODING 'UTF8' TEMPLATE template0;")
        return problem(check, f"{address}: {said}", fix)
    if state == _DENIED:
        fix = as_admin(f"GRANT CONNECT ON DATABASE {database} TO {quoted(account)};")
        return problem(check, f"{address}: {said}", fix)
    if "certificate" in lower or "ssl" in lower:
        fix = (
            "Name the certificate's host in the URL, and its authority with"
            " ?sslrootcert=/path/ca.pem; or let the server offer TLS"
        )
        return problem(f"{name}: TLS", f"{address}: {said}", fix)
    if state is None or state.startswith(("08", "57")):
        fix = "Start it, or check host and port: PGHOST and PGPORT, or the database's URL"
        return problem(check, f"{address} cannot be reached: {said}", fix)
    fix = f"The server refuses what runs need; look up its SQLSTATE {state}"
    return problem(check, f"{address}: {said}", fix)


def _account(server: _Server) -> str:
    return quoted(server.account)


def _where(engine: Engine) -> str:
    address = address_of(engine)
    return f"{address.socket or f'{address.host}:{address.port}'}/{address.database}"
