"""Pools of connections to servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from retailmart.database.registry import shown_url

ADDRESS = "retailmart_address"


def pool_of(
    shown: URL, address: object, connect: Callable[[], Any], set_up: Callable[[Any], None]
) -> Engine:
    """A pool whose connections `connect` makes, and `set_up` prepares before they are used.

    `shown` is the URL without a password. `address` is kept as the option `ADDRESS`.
    """
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
        execution_options={ADDRESS: address},
    )
    event.listen(engine, "connect", lambda connection, _record: set_up(connection))
    return engine


def parameters_of(
    url: URL, known: Sequence[str], example: str
) -> tuple[dict[str, str], str, list[str]]:
    """A URL's parameters, its text for messages, and what is wrong with it so far.

    `known` are the parameters that it may have, `example` is a right URL of its kind.
    """
    given = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    scheme = example.partition(":")[0]
    host = url.host or "localhost"
    label = shown_url(URL.create(scheme, url.username, None, host, url.port, url.database))
    problems = [
        f"{label}: the URL's parameter {name!r} is not known; known are {', '.join(known)}"
        for name in given
        if name not in known
    ]
    if not url.database:
        problems.append(f"{label}: names no database; write it as in {example}")
    return given, label, problems


def is_here(host: str | None) -> bool:
    """Whether a host is this machine, so that what is sent to it crosses no network."""
    if not host or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
