"""Errors of databases as ours: what happened, in the server's words, and what to do next."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retailmart.errors import RetailmartError, Unavailable

_LATER = "Run again; if it stays so, look whether the database is up and reachable"
_SPACE = "Make room where the database keeps its data, then run again"
_GRANTS = "Grant the account what it needs on this database, as in GRANT ALL ON db.* TO user"

# Server and driver numbers after which the same may work a moment later.
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
    1205,  # a lock was waited for in vain
    1213,  # deadlock
    1226,  # as many queries or connections as the account may have in an hour
    1317,  # the query was interrupted
    1412,  # the table was changed by somebody else
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
_CURES = {
    1044: _GRANTS,
    1045: "Check user and password of the database",
    1142: _GRANTS,
    1143: _GRANTS,
    1227: _GRANTS,
    1698: "Check user and password of the database",
    1049: "Create the database, or correct its name in the URL",
    1021: _SPACE,
    1114: _SPACE,
    28: _SPACE,
    1026: _SPACE,
    1290: "The server takes no writes, as a replica does not: name the server that does",
    1836: "The server takes no writes, as a replica does not: name the server that does",
    1153: "Raise max_allowed_packet on the server: a value is longer than it takes",
    1406: "Shorten the value, or leave the column out of the key: keys hold so much and no more",
    1059: "Give the table or column a shorter name: 64 characters at most",
    1071: "Leave a column out of the mart's key: keys hold so much and no more",
}
_CERTIFICATE = (
    "Name the certificate authority in the URL, as in ?ssl_ca=ca.pem; the server's certificate must"
    " be for the host the URL names"
)
_ACCOUNT = re.compile(r"(?:for|to) user '.*'@('[^']*')", re.DOTALL)
_SQLITE_PASSING = ("database is locked", "database table is locked", "disk I/O error")


@contextmanager
def told(name: str = "the database") -> Iterator[None]:
    """Let a database's errors out as Unavailable or RetailmartError; `name` says which it is.

    Neither statements nor values nor passwords are shown, only the server's own words.
    """
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable(f"{name} gave no connection in time", _LATER) from error
    except DBAPIError as error:
        raise _ours(name, error.orig or error, broken=error.connection_invalidated) from error
    except SQLAlchemyError as error:
        raise RetailmartError(f"{name}: {error}") from error
    except sqlite3.Error as error:
        raise _ours(name, error, broken=False) from error
    except Exception as error:
        if not type(error).__module__.startswith("pymysql"):
            raise
        raise _ours(name, error, broken=False) from error


def error_code(error: BaseException | None) -> int | None:
    """The number a server or the MySQL driver gave an error."""
    code = error.args[0] if error is not None and error.args else None
    return code if isinstance(code, int) else None


def words(error: BaseException) -> str:
    """What the server said, without the number.

    An account's name is not repeated: a secret may have been given in its place.
    """
    if error_code(error) is not None and len(error.args) > 1:
        return _ACCOUNT.sub(r"for this account at \1", str(error.args[1]))
    return str(error) or type(error).__name__


def _ours(name: str, error: BaseException, *, broken: bool) -> RetailmartError:
    code, said = error_code(error), words(error)
    shown = f"{name}: {said}" + (f" ({code})" if code else "")
    if "CERTIFICATE_VERIFY_FAILED" in said or code == 2026:
        return RetailmartError(shown, _CERTIFICATE)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(shown, said)
    if code in _CURES:
        return RetailmartError(shown, _CURES[code])
    # The driver raises InterfaceError(0, '') for a connection that is closed already.
    if broken or code in _PASSING or code == 0 or type(error).__name__ == "InterfaceError":
        return Unavailable(shown, _LATER)
    return RetailmartError(shown)


def _of_sqlite(shown: str, said: str) -> RetailmartError:
    if any(passing in said for passing in _SQLITE_PASSING):
        return Unavailable(shown, "Run again; another program holds the database's file")
    if "disk is full" in said:
        return RetailmartError(shown, _SPACE)
    if "readonly database" in said or "unable to open" in said:
        return RetailmartError(shown, "Let this account write to the database's file and folder")
    if "not a database" in said:
        return RetailmartError(shown, "Check `database` and `sources` in retailmart.yml")
    return RetailmartError(shown)
