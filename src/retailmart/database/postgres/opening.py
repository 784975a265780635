"""Connects to a PostgreSQL server: address, TLS, session, pool."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from retailmart.database.pool import ADDRESS, is_here, parameters_of, pool_of
from retailmart.errors import MissingExtra, SettingsError
from retailmart.tables import DatabaseAddress

KIND = "postgresql"
_PORT = 5432
# In seconds, except the last, which libpq takes in milliseconds. A wait for a dead server ends; a
# wait for a long statement does not.
_NUMBERS = {"connect_timeout": 10, "keepalives_idle": 60, "tcp_user_timeout": 900_000}
_FILES = ("sslrootcert", "sslcert", "sslkey")
_PARAMETERS = (*_NUMBERS, *_FILES, "sslmode", "host", "schema")
_VERIFIED, _OFF = "verify-full", "disable"
# Waiting for locks is short, because the run is repeated from its ledger. Texts of values must not
# depend on the settings of a server or account, and a commit is on disk before its answer.
SESSION = (
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601';"
    " SET bytea_output = 'hex'; SET extra_float_digits = 1; SET lock_timeout = '20s';"
    " SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;"
    " SET synchronous_commit = on"
)


@dataclass(frozen=True)
class Address:
    """A server's address and connection settings; the password is never printed.

    `socket` is the folder of a local socket. `ssl` are libpq's parameters.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    socket: str | None = None
    schema: str | None = None
    ssl: Mapping[str, str] = field(default_factory=dict)
    timeouts: Mapping[str, int] = field(default_factory=dict)


def open_postgres(url: URL, folder: Path, *, read_only: bool) -> Engine:
    """A pool of connections; the first is opened on first use."""
    return _pool(_address(url, folder), SESSION, read_only=read_only)


def open_address(address: DatabaseAddress, *, read_only: bool) -> Engine:
    """A pool of connections to an address that another machine also uses."""
    ssl = {"sslmode": _OFF}
    if address.tls:
        ssl = {"sslmode": _VERIFIED, "sslrootcert": _authority(address.authority)}
    known = Address(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        ssl=ssl,
        timeouts={**_NUMBERS, **address.timeouts},
    )
    return _pool(known, address.session, read_only=read_only)


def _authority(certificate: str | None) -> str:
    """A local file with a certificate authority; libpq accepts it only as a file."""
    if certificate is None:
        return "system"
    digest = hashlib.sha256(certificate.encode()).hexdigest()
    path = Path(tempfile.gettempdir()) / f"retailmart-authority-{os.getuid()}-{digest[:16]}.pem"
    if not path.is_file() or path.read_text() != certificate:
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(certificate)
        new.replace(path)
    return str(path)


def session_of(address: Address) -> str:
    """The settings that each connection applies first."""
    if address.schema is None:
        return SESSION
    quoted = '"' + address.schema.replace('"', '""') + '"'
    return f"{SESSION}; SET search_path = {quoted}"


def _pool(address: Address, session: str, *, read_only: bool) -> Engine:
    try:
        import psycopg
    except ImportError as error:  # without libpq the package itself raises ImportError
        raise MissingExtra(
            "postgres",
            f"PostgreSQL needs the package psycopg: {str(error).partition(chr(10))[0]}",
        ) from None
    shown = URL.create(
        "postgresql+psycopg", address.user, None, address.host, address.port, address.database
    )
    session = session if session != SESSION else session_of(address)
    parameters: dict[str, Any] = {
        "host": address.socket or address.host,
        "port": address.port,
        "user": address.user or None,
        "password": address.password or None,
        "dbname": address.database,
        "application_name": "retailmart",
        "client_encoding": "UTF8",
        **address.ssl,
        **address.timeouts,
    }

    def connect() -> Any:
        return psycopg.connect(**parameters)

    def set_up(connection: Any) -> None:
        before, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute(session)
            if read_only:
                cursor.execute("SET default_transaction_read_only = on")
        connection.autocommit = before

    return pool_of(shown, address, connect, set_up)


def address_of(engine: Engine) -> Address:
    """The address of an engine from `open_postgres`."""
    return cast(Address, engine.get_execution_options()[ADDRESS])


def _address(url: URL, folder: Path) -> Address:
    given, label, problems = parameters_of(url, _PARAMETERS, "postgresql://user@host/db")
    host = url.host or "localhost"
    if given.get("sslmode", _VERIFIED) not in (_VERIFIED, _OFF):
        problems.append(f"{label}: sslmode is {_VERIFIED} or {_OFF}")
    timeouts = dict(_NUMBERS)
    for name, usual in _NUMBERS.items():
        if name in given:
            if given[name].isdecimal() and 0 < int(given[name]) <= max(86_400, usual):
                timeouts[name] = int(given[name])
            else:
                problems.append(f"{label}: {name} is a whole number above 0")
    files = {name: folder / given[name] for name in _FILES if name in given}
    problems += [
        f"{label}: cannot read the certificates {path}"
        for path in files.values()
        if not os.access(path, os.R_OK)
    ]
    if problems:
        raise SettingsError(problems)
    return Address(
        host=host,
        port=url.port or _PORT,
        user=url.username or "",
        password=url.password or "",
        database=url.database or "",
        socket=given.get("host"),
        schema=given.get("schema"),
        ssl=_ssl(host, given, {name: str(path) for name, path in files.items()}),
        timeouts=timeouts,
    )


def _ssl(host: str, given: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """TLS with a verified host name, unless the connection is local or the URL opts out."""
    if given.get("sslmode") == _OFF:
        return {"sslmode": _OFF}
    is_asked_for = bool(files) or "sslmode" in given
    if not is_asked_for and ("host" in given or is_here(host)):
        return {"sslmode": _OFF}
    return {"sslmode": _VERIFIED, "sslrootcert": "system", **files}


def is_verified(address: Address) -> bool:
    """Whether the connection is encrypted and the server's name is verified."""
    return address.ssl.get("sslmode") == _VERIFIED
