"""Translates database errors to ours: what happened, in the server's words, and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retailmart.database.registry import kind_of_error
from retailmart.errors import LeaseLost, RetailmartError, TableRefused, Unavailable

# A run's error does not know the account as the server does; the doctor asks the server.
WITH_NAMES = "With the names to type, look with: retailmart doctor"
LATER = "Run again; if it stays so, look whether the database is up and reachable"


@contextmanager
def translate_errors(name: str = "the database") -> Iterator[None]:
    """Raise a database's errors as Unavailable or RetailmartError; `name` names the database.

    Messages contain only the server's own words, no statements, values or passwords.
    """
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable(f"{name} gave no connection in time", LATER) from error
    except DBAPIError as error:
        broken = error.connection_invalidated
        raise _translated(name, error.orig or error, broken=broken) from error
    except SQLAlchemyError as error:
        raise RetailmartError(f"{name}: {error}") from error
    except Exception as error:
        if kind_of_error(error) is None:
            raise
        raise _translated(name, error, broken=False) from error


@contextmanager
def refusals(table: str, shown: str) -> Iterator[None]:
    """Raise as TableRefused, by its public name, what the database refuses for one table only.

    Errors that would meet every other table, such as a full disk or a lost connection, pass
    unchanged.
    """
    try:
        with translate_errors(f"the table {shown}"):
            yield
    except (Unavailable, NotThisTable, LeaseLost, TableRefused):
        raise
    except RetailmartError as error:
        message = error.message.replace(table, shown)
        raise TableRefused(shown, message, error.hint) from error


class NotThisTable(RetailmartError):
    """A refusal for a reason that all tables share: no space, or no right to write."""


def message_of(error: BaseException) -> str:
    """The server's message, in a form that can be shown."""
    kind = kind_of_error(error)
    return kind.errors.message_of(error) if kind else str(error) or type(error).__name__


def _translated(name: str, error: BaseException, *, broken: bool) -> RetailmartError:
    kind = kind_of_error(error)
    if kind is None:
        return RetailmartError(f"{name}: {error}")
    return kind.errors.translate(name, error, broken=broken)
