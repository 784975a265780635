"""Marts in the database: replaces and reads rows by key, inside the caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    ColumnClause,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateColumn, CreateTable, DropTable

from retailmart.database.added import additions, key_of, needs_a_value
from retailmart.database.dialect import (
    NO_TEXTS,
    UNFILLED,
    Dialect,
    Read,
    Texts,
    dialect_of,
    names_in,
)
from retailmart.database.errors import message_of
from retailmart.database.values import exact_batch, record_batch, rows_of, schema_of
from retailmart.errors import KeyClash
from retailmart.tables import Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa

_MARK = "retailmart: batch "
_VERSION = re.compile(rf"{_MARK}\d+, version (\d+),")


def version_tag(batch_id: int, version: int, definition: str) -> str:
    """The version tag for a table when it is loaded: the ledger next to it has this batch."""
    return f"{_MARK}{batch_id}, version {version}, {definition[:16]}"


def version_of(mark: str | None) -> int | None:
    """The version that a version tag names."""
    found = _VERSION.match(mark or "")
    return int(found[1]) if found else None


def is_marked(mark: str | None) -> bool:
    """Whether a table's comment is such a version tag."""
    return mark is not None and mark.startswith(_MARK)


def drop_table(connection: Connection, name: str) -> None:
    """Drop a table if it exists."""
    connection.execute(DropTable(Table(name, MetaData()), if_exists=True))


@dataclass(frozen=True)
class Target:
    """One published table. `key` columns are its primary key; `month` is how it is divided.

    `longest` gives the length of the longest value of text columns, in characters. With `searched`
    new text columns take the database's own collation. Those of key and month never do, because
    rows are found by them.
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    month: str | None
    longest: Mapping[str, int] = field(default_factory=dict)
    searched: bool = False

    @property
    def texts(self) -> list[str]:
        """The text columns that are not in the key."""
        return [f.name for f in self.fields if f.type.name == "STRING" and f.name not in self.key]

    def columns(self, connection: Connection) -> dict[str, bool]:
        """The columns of the database's table; empty if it does not exist.

        A column of the mart has the mart's spelling where letter case does not matter. False for a
        column that an attempt has added, in the database, and perhaps has not filled.
        """
        fold = names_in(connection).fold
        ours = {fold(field.name): field.name for field in self.fields}
        has = dialect_of(connection).columns_of(connection, self.name)
        return {ours.get(fold(name), name): is_filled for name, is_filled in has.items()}

    def taken(self, connection: Connection, own: Iterable[str]) -> list[str]:
        """The mart's columns that are users' in the table: it has them, and they are not `own`."""
        fold = names_in(connection).fold
        known = {fold(name) for name in own}
        columns = dialect_of(connection).columns_of(connection, self.name)
        has = {fold(name): name for name, is_filled in columns.items() if is_filled}
        names = [fold(field.name) for field in self.fields]
        return [has[name] for name in names if name in has and name not in known]

    def exists_as_defined(self, connection: Connection) -> bool:
        """Whether the database's table has exactly these columns, in any order."""
        return sorted(self.columns(connection)) == sorted(field.name for field in self.fields)

    def add_columns(self, connection: Connection, names: Iterable[str]) -> None:
        """Add missing columns to the table, without a value in any row."""
        table = self._table(dialect_of(connection), texts=self._texts(connection))
        quote = connection.dialect.identifier_preparer.quote_identifier
        for name in names:
            # Shown only by databases that do not add it within a transaction.
            table.c[name].comment = UNFILLED
            column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {quote(self.name)} ADD COLUMN {column}")

    def settle(self, connection: Connection) -> None:
        """Count the columns that were added as filled."""
        dialect_of(connection).settle(connection, self.name)

    def widen(self, connection: Connection) -> None:
        """Lengthen text columns that are too short for their longest values."""
        dialect_of(connection).widen(connection, self.name, self._longest(connection))

    def in_the_way(self, connection: Connection) -> tuple[str, str] | None:
        """A text column that cannot be lengthened as needed, and what forbids it."""
        return dialect_of(connection).in_the_way(connection, self.name, self._longest(connection))

    def additions(self, connection: Connection, own: Iterable[str]) -> tuple[str, ...]:
        """Users' additions to the table: columns that are not in `own`, indexes, triggers, keys."""
        has = self.columns(connection)
        if not has:
            return ()
        fold = names_in(connection).fold
        known = {fold(name) for name in (*own, *(field.name for field in self.fields))}
        columns = (f"column {name}" for name in has if fold(name) not in known)
        return (*columns, *additions(connection, self.name))

    def needs_a_value(self, connection: Connection) -> list[str]:
        """Columns that others added and for which a new row would need a value."""
        own = {field.name for field in self.fields}
        return needs_a_value(connection, self.name, self.columns(connection).keys() - own)

    def has_key(self, connection: Connection) -> bool:
        """Whether the database's table has exactly this key."""
        fold = names_in(connection).fold
        has = key_of(connection, self.name)
        return [*map(fold, has)] == [*map(fold, self.key)]

    def mark(self, connection: Connection) -> str | None:
        """The version tag of the loaded table, where the database keeps one."""
        return dialect_of(connection).mark_of(connection, self.name)

    def recreate(self, connection: Connection, mark: str | None = None) -> None:
        """Drop the existing table and create it empty."""
        table = self._table(dialect_of(connection), mark, self._texts(connection))
        connection.execute(DropTable(table, if_exists=True))
        connection.execute(CreateTable(table))

    def delete_keys(self, connection: Connection, read: Read) -> int:
        """Remove rows by their key values, which `read` returns; return how many."""
        dialect = dialect_of(connection)
        fields = {field.name: field for field in self.fields}
        columns = ", ".join(dialect.bound(fields[name]) for name in self.key)
        table, count = self._table(dialect), 0
        with closing(read(columns)) as batches:
            for batch in batches:
                dialect.delete_keys(connection, table, self.key, rows_of(batch))
                count += batch.num_rows
        return count

    def clear(self, connection: Connection, months: Iterable[str] | None) -> None:
        """Remove the rows of some months, or all."""
        table = self._table(dialect_of(connection))
        statement = delete(table)
        if months is not None and self.month:
            statement = statement.where(table.c[self.month].in_(list(months)))
        connection.execute(statement)

    def insert(self, connection: Connection, read: Read) -> int:
        """Add the rows that `read` returns; return how many.

        Raises KeyClash if a row's key already exists.
        """
        dialect = dialect_of(connection)
        try:
            return dialect.insert(connection, self._table(dialect), self.fields, read)
        except KeyClash as error:
            raise self._clash(error.message) from error
        except IntegrityError as error:
            raise self._clash(
                f"the table {self.name} refuses a row: {message_of(error.orig or error)}"
            ) from error

    def upsert(self, connection: Connection, read: Read) -> int:
        """Add the rows that `read` returns, or change those with their keys; return how many.

        The values in users' own columns stay.
        """
        dialect = dialect_of(connection)
        try:
            return dialect.upsert(connection, self._table(dialect), self.fields, self.key, read)
        except IntegrityError as error:
            raise self._clash(
                f"the table {self.name} refuses a row: {message_of(error.orig or error)}"
            ) from error

    def _clash(self, message: str) -> KeyClash:
        hint = f"Its key is {', '.join(self.key)}: does it tell all rows of the mart apart?"
        return KeyClash(message, hint)

    def totals(
        self, connection: Connection, months: Iterable[str] | None
    ) -> tuple[int, dict[str, Decimal]]:
        """Row count and exact sums of the decimal columns, for some months or all."""
        dialect = dialect_of(connection)
        table = self._table(dialect)
        money = [field for field in self.fields if field.type.is_decimal]
        sums = [dialect.exact_sum(table.c[field.name], field.type) for field in money]
        query = select(func.count(), *sums).select_from(table)
        if months is not None and self.month:
            query = query.where(table.c[self.month].in_(list(months)))
        count, *values = connection.execute(query).one()
        exact = {
            field.name: dialect.exact(value, field.type)
            for field, value in zip(money, values, strict=True)
        }
        return int(count), exact

    def rows(self, connection: Connection, months: Iterable[str] | None) -> pa.Table:
        """The database's rows, for some months or all, in the types of the mart's columns.

        Raises RetailmartError for a value that is not of its column's type and so cannot be the
        mart's.
        """
        import pyarrow as pa

        quote = connection.dialect.identifier_preparer.quote_identifier
        # Without types: SQLAlchemy's own conversions pass money through float.
        columns: list[ColumnClause[Any]] = [
            literal_column(quote(field.name)) for field in self.fields
        ]
        table = self._table(dialect_of(connection))
        query = select(*columns).select_from(table)
        if months is not None and self.month:
            query = query.where(table.c[self.month].in_(list(months)))
        kinds = [field.type for field in self.fields]
        schema = schema_of([field.name for field in self.fields], kinds)
        found = connection.execute(query).fetchall()
        batches = [record_batch(self.name, found, kinds, schema)] if found else []
        return pa.Table.from_batches(batches, schema)

    def as_read(self, dialect: Dialect) -> tuple[str, tuple[Field, ...]]:
        """The engine's SELECT list and types for the mart's columns as they are read back."""
        forms = [dialect.as_read(field) for field in self.fields]
        listed = zip(self.fields, forms, strict=True)
        columns = ", ".join(f"{form[0]} AS {quoted(field.name)}" for field, form in listed)
        fields = zip(self.fields, forms, strict=True)
        return columns, tuple(Field(field.name, form[1]) for field, form in fields)

    def read_back(
        self, connection: Connection
    ) -> Iterator[tuple[pa.RecordBatch, list[tuple[Any, ...]]]]:
        """All rows of the database, some at a time, in the types of `as_read`.

        Rows with a value that is not of these types are returned as the driver gives them.
        """
        dialect = dialect_of(connection)
        _, fields = self.as_read(dialect)
        kinds = [field.type for field in fields]
        schema = schema_of([field.name for field in fields], kinds)
        quote = connection.dialect.identifier_preparer.quote_identifier
        columns = ", ".join(quote(field.name) for field in fields)
        query = f"SELECT {columns} FROM {quote(self.name)}"
        for rows in dialect.read_back(connection, query):
            batch, wrong = exact_batch(rows, kinds, schema)
            yield batch, [tuple(rows[number]) for number in wrong]

    def _longest(self, connection: Connection) -> dict[str, int]:
        """`longest` with the names that the columns have in the database."""
        if not self.longest:
            return {}
        spelled = dialect_of(connection).columns_of(connection, self.name)
        names = zip(self.columns(connection), spelled, strict=True)
        return {its: self.longest[ours] for ours, its in names if ours in self.longest}

    def _texts(self, connection: Connection) -> Texts:
        if not self.searched:
            return Texts(self.longest)
        collation = dialect_of(connection).collation(connection)
        return Texts(self.longest, frozenset(self.texts) - {self.month or ""}, collation)

    def _table(self, dialect: Dialect, mark: str | None = None, texts: Texts = NO_TEXTS) -> Table:
        types = dialect.column_types(self.fields, self.key, texts)
        columns = [
            Column(one.name, kind, nullable=one.name not in self.key, autoincrement=False)
            for one, kind in zip(self.fields, types, strict=True)
        ]
        key = PrimaryKeyConstraint(*self.key)
        return Table(self.name, MetaData(), *columns, key, comment=mark, **dialect.table_options)
