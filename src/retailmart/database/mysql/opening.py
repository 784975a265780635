"""Connects to a MySQL or MariaDB server: address, TLS, session, pool."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from retailmart.database.pool import ADDRESS, is_here, parameters_of, pool_of
from retailmart.errors import MissingExtra, SettingsError
from retailmart.tables import DatabaseAddress

_CONNECT_SECONDS = 10
# A LOAD or DELETE may take minutes; a server that is silent for longer has hung.
_READ_SECONDS = 900
_WRITE_SECONDS = 300
_NUMBERS = {
    "connect_timeout": _CONNECT_SECONDS,
    "read_timeout": _READ_SECONDS,
    "write_timeout": _WRITE_SECONDS,
}
_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
_PARAMETERS = (*_NUMBERS, *_FILES, "ssl_disabled", "unix_socket", "charset")
# Waiting for locks is short, because the run is repeated from its ledger. Waiting for rows is long,
# because a mart's sort must finish first. A pooled connection survives a pause.
SESSION = (
    "sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00',"
    " innodb_lock_wait_timeout = 20, lock_wait_timeout = 30, wait_timeout = 28800,"
    " net_read_timeout = 900, net_write_timeout = 900"
)


@dataclass(frozen=True)
class Address:
    """A server's address and connection settings; the password is never printed.

    `files` are the certificate files that `verified` was made from, by the URL's parameters.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    unix_socket: str | None
    verified: ssl.SSLContext | None = field(repr=False)
    timeouts: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def open_mysql(url: URL, folder: Path, *, read_only: bool) -> Engine:
    """A pool of connections; the first is opened on first use."""
    return _pool(_address(url, folder), SESSION, read_only=read_only)


def open_address(address: DatabaseAddress, *, read_only: bool) -> Engine:
    """A pool of connections to an address that another machine also uses."""
    verified = _context(cadata=address.authority) if address.tls else None
    known = Address(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        unix_socket=None,
        verified=verified,
        timeouts={**_NUMBERS, **address.timeouts},
    )
    return _pool(known, address.session, read_only=read_only)


def _pool(address: Address, session: str, *, read_only: bool) -> Engine:
    try:
        from retailmart.database.mysql import infile
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "mysql", f"MySQL needs the package {error.name}, which is not installed"
        ) from None
    shown = URL.create(
        "mysql+pymysql", address.user, None, address.host, address.port, address.database
    )

    def connect() -> Any:
        return infile.connect(address)

    def set_up(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION {session}")
            if read_only:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")

    return pool_of(shown, address, connect, set_up)


def address_of(engine: Engine) -> Address:
    """The address of an engine from `open_mysql`."""
    return cast(Address, engine.get_execution_options()[ADDRESS])


def _address(url: URL, folder: Path) -> Address:
    given, label, problems = parameters_of(url, _PARAMETERS, "mysql://user@host/db")
    host = url.host or "localhost"
    if given.get("charset", "utf8mb4") != "utf8mb4":
        problems.append(f"{label}: charset is always utf8mb4")
    timeouts = dict(_NUMBERS)
    for name in _NUMBERS:
        if name in given:
            if given[name].isdecimal() and 0 < int(given[name]) <= 86_400:
                timeouts[name] = int(given[name])
            else:
                problems.append(f"{label}: {name} is a number of seconds")
    if problems:
        raise SettingsError(problems)
    files = {name: str(folder / given[name]) for name in _FILES if name in given}
    return Address(
        host=host,
        port=url.port or 3306,
        user=url.username or "",
        password=url.password or "",
        database=url.database or "",
        unix_socket=given.get("unix_socket"),
        verified=_verified(host, given, files, label),
        timeouts=timeouts,
        files=files,
    )


def _verified(
    host: str, given: dict[str, str], files: dict[str, str], label: str
) -> ssl.SSLContext | None:
    """TLS with a verified host name, unless the connection is local or the URL opts out."""
    if given.get("ssl_disabled", "").lower() in ("true", "1", "yes"):
        return None
    if not files and ("unix_socket" in given or is_here(host)):
        return None
    try:
        context = _context(cafile=files.get("ssl_ca"))
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(files.values())
        raise SettingsError([f"{label}: cannot read the certificates {named}: {error}"]) from error
    return context


def _context(*, cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    # Certificate authorities that servers create themselves lack extensions for the strict check.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
