"""The way to a MySQL or MariaDB server: address, TLS, session, pool."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from retailmart.errors import SettingsError

_CONNECT_SECONDS = 10
# A LOAD or DELETE of minutes is no hang; a server that says nothing for longer is.
_READ_SECONDS = 900
_WRITE_SECONDS = 300
_NUMBERS = {
    "connect_timeout": _CONNECT_SECONDS,
    "read_timeout": _READ_SECONDS,
    "write_timeout": _WRITE_SECONDS,
}
_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
_PARAMETERS = (*_NUMBERS, *_FILES, "ssl_disabled", "unix_socket", "charset")
_ADDRESS = "retailmart_address"
# Waiting for locks is short: the run is repeated from its ledger. Waiting for rows that a mart's
# sort must give first is long; and a pooled connection outlives a pause.
SESSION = (
    "sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00',"
    " innodb_lock_wait_timeout = 20, lock_wait_timeout = 30, wait_timeout = 28800,"
    " net_read_timeout = 900, net_write_timeout = 900"
)


@dataclass(frozen=True)
class Address:
    """Where a server is and how it is spoken to; never shown with its password.

    `files` are those that `verified` was made from, by the URL's parameters.
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
    """A pool of connections; the first is made on first use.

    Raises SettingsError for a URL or a certificate file that cannot be used.
    """
    try:
        from retailmart.database.mysql import infile
    except ModuleNotFoundError as error:
        raise SettingsError(
            [f"MySQL needs the package {error.name}, which is not installed"],
            "Install it with: pip install 'retailmart[mysql]'",
        ) from None
    address = _address(url, folder)
    shown = URL.create(
        "mysql+pymysql", address.user, None, address.host, address.port, address.database
    )

    def connect() -> Any:
        return infile.connect(address)

    engine = create_engine(
        shown,
        creator=connect,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_size=4,
        max_overflow=8,
        pool_timeout=30,
        hide_parameters=True,
        execution_options={_ADDRESS: address},
    )

    def configure(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION {SESSION}")
            if read_only:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")

    event.listen(engine, "connect", configure)
    return engine


def address_of(engine: Engine) -> Address:
    """Where an engine of `open_mysql` connects to."""
    return cast(Address, engine.get_execution_options()[_ADDRESS])


def _address(url: URL, folder: Path) -> Address:
    given = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    host = url.host or "localhost"
    shown = URL.create("mysql", url.username, None, host, url.port, url.database)
    label = shown.render_as_string(hide_password=True)
    problems = [
        f"{label}: the URL's parameter {name!r} is not known; known are {', '.join(_PARAMETERS)}"
        for name in given
        if name not in _PARAMETERS
    ]
    if not url.database:
        problems.append(f"{label}: names no database; write it as in mysql://user@host/db")
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
    """TLS with a verified host name, unless the way is this machine's own or the URL opts out."""
    if given.get("ssl_disabled", "").lower() in ("true", "1", "yes"):
        return None
    if not files and ("unix_socket" in given or _is_here(host)):
        return None
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca"))
        # Authorities that servers make for themselves lack extensions the strict check asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(files.values())
        raise SettingsError([f"{label}: cannot read the certificates {named}: {error}"]) from error
    return context


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
