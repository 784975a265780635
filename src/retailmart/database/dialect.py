"""What differs between databases: one small interface, chosen once a connection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from retailmart.database.names import Names
from retailmart.database.registry import kind_of
from retailmart.project.table import ReadRules
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


@dataclass(frozen=True)
class Limit:
    """Values that a published column cannot hold: `condition` is engine SQL, true for such a row.

    `reason` continues a message that has shown the value; `fix` says what to do.
    """

    column: str
    condition: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Texts:
    """How to create the text columns outside the key.

    `longest` gives the length of each column's longest value, in characters; a column that it does
    not name holds any text. Columns in `searched` are compared by the database's own `collation`,
    or by its default if that is None. All others are compared byte by byte.
    """

    longest: Mapping[str, int] = field(default_factory=dict)
    searched: frozenset[str] = frozenset()
    collation: str | None = None


# The beginning of the ledger's views: they read nothing that is published.
LEDGER_VIEWS = "retailmart_v_"
# The comment of a column that a run has added and not filled, where that takes two transactions.
UNFILLED = "retailmart: not filled yet"
# Columns that hold any text, compared byte by byte.
NO_TEXTS = Texts()
# Returns the rows to write, for a SELECT list in the engine's SQL.
Read = Callable[[str], "Generator[pa.RecordBatch, None, None]"]


class Dialect(Protocol):
    """How to write to and read from one kind of database."""

    @property
    def ddl_in_transaction(self) -> bool:
        """Whether creating, changing or renaming a table is part of a transaction."""

    @property
    def loads_beside(self) -> bool:
        """Whether other connections can fill shadow tables before the swap."""

    @property
    def loads_at_once(self) -> int:
        """How many tables can be filled at the same time, each over a separate connection."""

    @property
    def table_options(self) -> Mapping[str, Any]:
        """Storage options of tables, as SQLAlchemy's options."""

    @property
    def sizes_texts(self) -> bool:
        """Whether a text column has a length, which lets it be indexed."""

    def column_types(
        self, fields: Sequence[Field], key: Sequence[str], texts: Texts = NO_TEXTS
    ) -> list[Any]:
        """The SQL type of each column; texts in the key are compared byte by byte."""

    def collation(self, connection: Connection) -> str | None:
        """The database's own collation for texts; None for its default."""

    def widen(self, connection: Connection, table: str, longest: Mapping[str, int]) -> None:
        """Lengthen text columns that are too short for their longest values."""

    def in_the_way(
        self, connection: Connection, table: str, longest: Mapping[str, int]
    ) -> tuple[str, str] | None:
        """A text column that cannot be lengthened as needed, and what forbids it."""

    def compact(self, engine: Engine) -> None:
        """Give back the room that rows have left, if the database doesn't so itself and soon."""

    def limits(self, fields: Sequence[Field], key: Sequence[str]) -> Iterable[Limit]:
        """The values that columns of these types cannot hold unchanged."""

    def bound(self, field: Field) -> str:
        """The engine's expression for a column in the driver's form: exact, never a float."""

    def as_read(self, field: Field) -> tuple[str, ColumnType]:
        """The engine's expression and type for a column as it is read back."""

    def read_back(self, connection: Connection, query: str) -> Iterator[Sequence[tuple[Any, ...]]]:
        """A query's rows as the driver returns them, some rows at a time."""

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        """Add rows; return how many. IntegrityError or KeyClash if a key already exists."""

    def upsert(
        self,
        connection: Connection,
        table: Table,
        fields: Sequence[Field],
        key: Sequence[str],
        read: Read,
    ) -> int:
        """Add rows, or change those with the same key; other columns keep their values."""

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        """Remove rows by the values of their key columns."""

    def exact_sum(self, column: Any, kind: ColumnType) -> Any:
        """The SQL expression that sums a decimal column without floats."""

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        """The result of `exact_sum` as a decimal."""

    def columns_of(self, connection: Connection, table: str) -> dict[str, bool]:
        """A table's columns in their order; empty if the table does not exist.

        False for a column that a run added outside of its transaction, and perhaps did not fill:
        never where `ddl_in_transaction`.
        """

    def settle(self, connection: Connection, table: str) -> None:
        """Count all columns of a table as filled from now on."""

    def mark_of(self, connection: Connection, table: str) -> str | None:
        """The comment of a table, which holds its version tag; None if there is none."""

    def folds_names(self, connection: Connection) -> bool:
        """Whether table names that differ only in letter case mean the same table."""

    def hanging_on(self, connection: Connection, table: str) -> list[str]:
        """A table's triggers, and other tables' foreign keys to it, each described as text."""

    def readers_of(self, connection: Connection, table: str) -> list[str]:
        """Views and other tables' triggers that name a table, each described as text.

        Those that the account may not read also count; the ledger's own do not.
        """

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        """Rename each (new, shown, old) in one step: shown to old, if it exists, and new to shown.

        Part of the caller's transaction where `ddl_in_transaction`.
        """

    def fields(self, engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]:
        """The columns of a table, with the types that `read_table` returns."""

    def read_table(
        self, engine: Engine, name: str, rules: ReadRules, since: Since | None = None
    ) -> pa.Table:
        """A table, whole or `since` a value, in an order that depends on its rows alone."""

    def key_collation(self, engine: Engine, name: str, rules: ReadRules) -> tuple[str, str] | None:
        """A table's single text key and its collation in the engine; None if bytes are compared.

        With such a collation the shop's database treats 'a' and 'A' as one key, and so must a join.
        """

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        """The largest value of a column as the driver returns it; None if there is none."""

    def address(self, engine: Engine) -> DatabaseAddress | None:
        """The address for connections from other machines; None if they cannot connect."""

    def extract(self, engine: Engine, name: str, rules: ReadRules, least: int) -> Extract | None:
        """How others can read a table; None for a view, or below about `least` rows.

        The row count is the server's estimate, which costs nothing.
        """

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        """A text that changes with any column or value of a table, computed by the server.

        It sees all rows as of one moment. None if the server cannot compute it.
        """

    def version(self, engine: Engine) -> str | None:
        """A text that changes with anything in the database, if it is nearly free to read."""


def names_in(database: Connection | Engine) -> Names:
    """The names that a database can hold."""
    return kind_of(database.dialect.name).names


def dialect_of(database: Connection | Engine) -> Dialect:
    """The dialect of a database."""
    return kind_of(database.dialect.name).dialect(database.engine)


def on_conflict(quote: Callable[[str], str], fields: Sequence[Field], key: Sequence[str]) -> str:
    """The clause of an INSERT that updates rows whose key is there, as PostgreSQL and SQLite do."""
    names = [quote(field.name) for field in fields if field.name not in key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    does = f"UPDATE SET {changes}" if changes else "NOTHING"
    return f"ON CONFLICT ({', '.join(map(quote, key))}) DO {does}"
