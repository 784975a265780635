"""Translates the errors of PostgreSQL's servers and of their driver to ours, by SQLSTATE."""

from __future__ import annotations

import re

from retailmart.database.errors import LATER, WITH_NAMES, NotThisTable
from retailmart.errors import RetailmartError, Unavailable

_SPACE = "Make room where the database keeps its data, then run again"
_GRANTS = (
    "Grant the account what runs need: GRANT USAGE, CREATE ON SCHEMA schema TO account; tables of"
    f" this project must belong to it. {WITH_NAMES}"
)
_GRANT_OF_A_SOURCE = (
    f"Let the account read it: GRANT SELECT ON ALL TABLES IN SCHEMA schema TO account. {WITH_NAMES}"
)
_ACCOUNT = "Check user and password: PGUSER and PGPASSWORD, or the database's URL"
NOT_SUPPLIED = (
    "Give the account's password as PGPASSWORD, in the environment or in .env, or write"
    " ${secret:NAME} for it in the URL: postgresql://USER:${secret:NAME}@HOST/DB"
)
_PRIMARY = "The server takes no writes, as a standby does not: name the server that does"
_CERTIFICATE = (
    "Name the certificate authority in the URL, as in ?sslrootcert=ca.pem; the server's certificate"
    " must be for the host the URL names"
)
# States after which a retry may succeed a moment later; a class is its first two characters.
_PASSING = {
    "08",  # the connection
    "40",  # the transaction was rolled back: a deadlock, a conflict
    "53300",  # too many connections
    "55P03",  # a wait for a lock timed out
    "55006",  # the object is in use
    "57014",  # the statement was cancelled
    "57P01",  # the server shuts down
    "57P02",
    "57P03",  # it cannot take connections now
    "57P05",  # it has hung up on an idle connection
    "25P03",
    "25P04",
}
_NO_RIGHT = "42501"
_HELD = ("55P03", "40P01", "40001")
_FIXES = {
    "28": _ACCOUNT,
    "3D000": "Create the database, or correct its name in the URL",
    "3F000": "Create the schema, or correct its name in the URL",
    _NO_RIGHT: _GRANTS,
    "53100": _SPACE,
    "53200": "Give the server more memory, or the mart fewer rows at a time",
    "25006": _PRIMARY,
    "54000": "Shorten the value, or leave the column out of the key: keys hold so much and no more",
    "54011": "Give the mart fewer columns: a table holds 1,600 at most",
    "42622": "Give the table or column a shorter name: 63 bytes at most",
    "22021": "Take the character out in the SELECT: PostgreSQL's texts hold no NUL",
}
# These refusals are not specific to a table: all others would fail, too.
_OF_ALL = {_SPACE, _GRANTS, _PRIMARY, _ACCOUNT}
_NAMED_ACCOUNT = re.compile(r'(user|role) "[^"]*"')


def state_of(error: BaseException | None) -> str | None:
    """The SQLSTATE of a server's error; None if the driver itself raised it."""
    state: str | None = getattr(error, "sqlstate", None)
    return state


def message_of(error: BaseException) -> str:
    """The first line of the server's message, without an account's name or a row's values.

    An account's name is left out: a secret may have been given in its place.
    """
    diagnosis = getattr(getattr(error, "diag", None), "message_primary", None)
    said = diagnosis or str(error).strip().partition("\n")[0] or type(error).__name__
    return _NAMED_ACCOUNT.sub("this account", said)


def is_contention(error: BaseException) -> bool:
    """Whether another transaction held a lock that was needed."""
    return state_of(error) in _HELD


def is_denied(error: BaseException) -> bool:
    """Whether the account lacks the right to do this."""
    return state_of(error) == _NO_RIGHT


def translate(name: str, error: BaseException, *, broken: bool) -> RetailmartError:
    """Translate a server's or driver's error to one of ours."""
    state, said = state_of(error), message_of(error)
    shown = f"{name}: {said}" + (f" ({state})" if state else "")
    if state is None:
        return _of_the_driver(shown, said, error, broken=broken)
    fix = _FIXES.get(state) or _FIXES.get(state[:2])
    if fix is not None:
        of_all = fix in _OF_ALL
        if fix == _GRANTS and "source" in name:  # a source is only read
            fix = _GRANT_OF_A_SOURCE
        return NotThisTable(shown, fix) if of_all else RetailmartError(shown, fix)
    if broken or state in _PASSING or state[:2] in _PASSING:
        return Unavailable(shown, LATER)
    return RetailmartError(shown)


def _of_the_driver(shown: str, said: str, error: BaseException, *, broken: bool) -> RetailmartError:
    """Translate an error before a session exists, or of a broken connection: it has no state."""
    lower = said.lower()
    if "certificate" in lower or "ssl" in lower:
        return RetailmartError(shown, _CERTIFICATE)
    if "no password supplied" in lower:
        return NotThisTable(shown, NOT_SUPPLIED)
    if "password authentication failed" in lower:
        return NotThisTable(shown, _ACCOUNT)
    if "does not exist" in lower and "database" in lower:
        return RetailmartError(shown, _FIXES["3D000"])
    if broken or type(error).__name__ in ("OperationalError", "InterfaceError"):
        return Unavailable(shown, LATER)
    return RetailmartError(shown)
