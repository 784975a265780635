"""Translates the errors of MySQL's and MariaDB's servers, and of their driver, to ours."""

from __future__ import annotations

import re

from retailmart.database.errors import LATER, WITH_NAMES, NotThisTable
from retailmart.errors import RetailmartError, Unavailable

_SPACE = "Make room where the database keeps its data, then run again"
_USER = "Check user and password: MYSQL_USER and MYSQL_PASSWORD, or the database's URL"
_GRANTS = (
    "Grant the account what runs need: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP,"
    f" INDEX, REFERENCES, CREATE VIEW, SHOW VIEW ON db.* TO user. {WITH_NAMES}"
)
_GRANT_OF_A_SOURCE = f"Let the account read it: GRANT SELECT ON db.* TO user. {WITH_NAMES}"

# Server and driver error numbers after which a retry may succeed a moment later.
_PASSING = {
    1040,  # too many connections
    1053,  # the server shuts down
    1077,
    1079,
    1129,
    1152,
    1158,
    1159,
    1160,
    1161,
    1180,  # the commit failed: unknown, not refused
    1203,
    1205,  # a wait for a lock timed out
    1213,  # deadlock
    1226,  # the account has used up its hourly queries or connections
    1317,  # the query was interrupted
    1412,  # another session changed the table
    1792,
    1836,
    1927,  # the connection was killed
    1969,
    2002,
    2003,
    2006,
    2013,
    2055,
    3024,
    3168,
    4031,  # the server has hung up on an idle connection
}
_FIXES = {
    1044: _GRANTS,
    1045: _USER,
    1142: _GRANTS,
    1143: _GRANTS,
    1227: _GRANTS,
    1698: _USER,
    1049: "Create the database, or correct its name in the URL",
    1021: _SPACE,
    1114: _SPACE,
    28: _SPACE,
    1026: _SPACE,
    1290: "The server takes no writes, as a replica does not: name the server that does",
    1836: "The server takes no writes, as a replica does not: name the server that does",
    1153: "Raise max_allowed_packet on the server: a value is longer than it takes",
    1406: "Shorten the value, or leave the column out of the key: keys hold so much and no more",
    1118: "Give the mart fewer columns: a row of a table holds so many bytes and no more",
    1059: "Give the table or column a shorter name: 64 characters at most",
    1071: "Leave a column out of the mart's key: keys hold so much and no more",
}
# These refusals are not specific to a table: all others would fail, too.
_OF_ALL = {_SPACE, _GRANTS}
# The account lacks a right.
DENIED = (1044, 1142, 1143, 1227, 1370)
# Another transaction holds the row: the wait timed out, or a deadlock.
_HELD = (1205, 1213)
_CERTIFICATE = (
    "Name the certificate authority in the URL, as in ?ssl_ca=ca.pem; the server's certificate must"
    " be for the host the URL names"
)
_ACCOUNT = re.compile(r"(?:for|to) user '.*'@('[^']*')", re.DOTALL)


def error_code(error: BaseException | None) -> int | None:
    """The error number from the server or the driver."""
    code = error.args[0] if error is not None and error.args else None
    return code if isinstance(code, int) else None


def message_of(error: BaseException) -> str:
    """The server's message, without the number.

    An account's name is left out: a secret may have been given in its place.
    """
    if error_code(error) is not None and len(error.args) > 1:
        return _ACCOUNT.sub(r"for this account at \1", str(error.args[1]))
    return str(error) or type(error).__name__


def is_contention(error: BaseException) -> bool:
    """Whether another transaction held a lock that was needed."""
    return error_code(error) in _HELD


def is_denied(error: BaseException) -> bool:
    """Whether the account lacks the right to do this."""
    return error_code(error) in DENIED


def translate(name: str, error: BaseException, *, broken: bool) -> RetailmartError:
    """Translate a server's or driver's error to one of ours."""
    code, said = error_code(error), message_of(error)
    shown = f"{name}: {said}" + (f" ({code})" if code else "")
    if "CERTIFICATE_VERIFY_FAILED" in said or code == 2026:
        return RetailmartError(shown, _CERTIFICATE)
    if code in _FIXES:
        fix = _FIXES[code]
        of_all = fix in _OF_ALL
        if fix == _GRANTS and "source" in name:  # a source is only read
            fix = _GRANT_OF_A_SOURCE
        return NotThisTable(shown, fix) if of_all else RetailmartError(shown, fix)
    # The driver raises InterfaceError(0, '') for a connection that is already closed.
    if broken or code in _PASSING or code == 0 or type(error).__name__ == "InterfaceError":
        return Unavailable(shown, LATER)
    return RetailmartError(shown)
