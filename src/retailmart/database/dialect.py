"""What differs between databases: one small interface, chosen once a connection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine, Table


@dataclass(frozen=True)
class Since:
    """The rows of a table whose `column` is `value` or larger, or has no value."""

    column: str
    value: Any


# Gives the rows that are to be written, for a SELECT list in the engine's SQL.
Read = Callable[[str], "Generator[pa.RecordBatch, None, None]"]


class Dialect(Protocol):
    """How one kind of database is written to and read."""

    @property
    def ddl_in_transaction(self) -> bool:
        """Whether a table that is created can be rolled back."""

    @property
    def loads_at_once(self) -> int:
        """How many tables can be filled at the same time, each on a connection of its own."""

    @property
    def table_options(self) -> Mapping[str, Any]:
        """How tables are laid out, as SQLAlchemy's options."""

    def column_types(self, fields: Sequence[Field], key: Sequence[str]) -> list[Any]:
        """The SQL type of each column; texts in the key are compared byte by byte."""

    def bound(self, field: Field) -> str:
        """The engine's expression of a column as the driver takes it: exact, never a float."""

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        """Add rows; return how many. IntegrityError or KeyClash where a key is there already."""

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        """Remove rows by the values of their key columns."""

    def exact_sum(self, column: Any, kind: ColumnType) -> Any:
        """The SQL expression of a decimal column's sum, in which no float ever adds money."""

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        """What `exact_sum` gave, as a decimal."""

    def columns_of(self, connection: Connection, table: str) -> list[str]:
        """The names of a table's columns in their order; none where there is no such table."""

    def mark_of(self, connection: Connection, table: str) -> str | None:
        """The comment of a table; None where there is none."""

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        """In one step: (new, shown, old) → shown becomes old, where it exists, and new is shown."""

    def read_table(self, engine: Engine, name: str, since: Since | None = None) -> pa.Table:
        """A table, whole or `since`, in an order that depends on its rows alone."""

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        """The largest value of a column as the driver gives it; None where there is none."""

    def address(self, engine: Engine) -> DatabaseAddress | None:
        """Where others can connect to; None where there is no such way."""

    def extract(self, engine: Engine, name: str, least: int) -> Extract | None:
        """How others can read a table; None where it has less than about `least` rows, or a view.

        How many there are is the server's estimate, which costs nothing.
        """

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        """A text that changes with any column or value of a table, found out by the server.

        All rows are seen as at one moment. None where the server can't tell.
        """

    def version(self, engine: Engine) -> str | None:
        """A text that changes with anything in the database, where that costs next to nothing."""


def dialect_of(database: Connection | Engine) -> Dialect:
    """The dialect a database speaks."""
    if database.dialect.name == "sqlite":
        from retailmart.database.sqlite import SQLite

        return SQLite()
    from retailmart.database.mysql import MySQL

    return MySQL(bool(getattr(database.dialect, "is_mariadb", False)))
