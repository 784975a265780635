"""Marts in the database: rows out and in by key, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    delete,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateColumn, CreateTable, DropTable

from retailmart.database.dialect import Dialect, Read, dialect_of
from retailmart.database.told import words
from retailmart.database.values import rows_of
from retailmart.errors import KeyClash
from retailmart.tables import Field


@dataclass(frozen=True)
class Target:
    """One published table. `key` columns are its primary key; `month` is where it is cut."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    month: str | None

    def columns(self, connection: Connection) -> list[str]:
        """The names of the columns that the database's table has; none where there is no table."""
        return dialect_of(connection).columns_of(connection, self.name)

    def exists_as_defined(self, connection: Connection) -> bool:
        """Whether the database's table has exactly these columns, in any order."""
        return sorted(self.columns(connection)) == sorted(field.name for field in self.fields)

    def add_columns(self, connection: Connection, names: Iterable[str]) -> None:
        """Give the table columns that it lacks, with no value in any row."""
        table = self._table(dialect_of(connection))
        quote = connection.dialect.identifier_preparer.quote_identifier
        for name in names:
            column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {quote(self.name)} ADD COLUMN {column}")

    def mark(self, connection: Connection) -> str | None:
        """What the table was marked with when it was loaded, where the database keeps that."""
        return dialect_of(connection).mark_of(connection, self.name)

    def recreate(self, connection: Connection, mark: str | None = None) -> None:
        """Drop what is there and create the table empty."""
        table = self._table(dialect_of(connection), mark)
        connection.execute(DropTable(table, if_exists=True))
        connection.execute(CreateTable(table))

    def delete_keys(self, connection: Connection, read: Read) -> int:
        """Remove rows by their key values, of which `read` gives the rows; return how many."""
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
        """Add the rows that `read` gives; return how many.

        Raises KeyClash where a row's key is there already.
        """
        dialect = dialect_of(connection)
        try:
            return dialect.insert(connection, self._table(dialect), self.fields, read)
        except KeyClash as error:
            raise self._clash(error.message) from error
        except IntegrityError as error:
            raise self._clash(
                f"the table {self.name} refuses a row: {words(error.orig or error)}"
            ) from error

    def _clash(self, message: str) -> KeyClash:
        hint = f"Its key is {', '.join(self.key)}: does it tell all rows of the mart apart?"
        return KeyClash(message, hint)

    def totals(
        self, connection: Connection, months: Iterable[str] | None
    ) -> tuple[int, dict[str, Decimal]]:
        """Rows and exact sums of the decimal columns, of some months or all."""
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

    def _table(self, dialect: Dialect, mark: str | None = None) -> Table:
        types = dialect.column_types(self.fields, self.key)
        columns = [
            Column(field.name, kind, nullable=field.name not in self.key, autoincrement=False)
            for field, kind in zip(self.fields, types, strict=True)
        ]
        key = PrimaryKeyConstraint(*self.key)
        return Table(self.name, MetaData(), *columns, key, comment=mark, **dialect.table_options)
