"""Marts in the database: rows out and in by key, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Float,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable, DropTable

from retailmart.errors import KeyClash
from retailmart.project.types import ColumnType
from retailmart.tables import Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Target:
    """One published table. `key` columns are its primary key; `month` is where it is cut."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    month: str | None

    def exists_as_defined(self, connection: Connection) -> bool:
        """Whether the database's table has exactly these columns."""
        inspector = inspect(connection)
        if not inspector.has_table(self.name):
            return False
        names = [column["name"] for column in inspector.get_columns(self.name)]
        return names == [field.name for field in self.fields]

    def recreate(self, connection: Connection) -> None:
        """Drop what is there and create the table empty."""
        table = self._table()
        connection.execute(DropTable(table, if_exists=True))
        connection.execute(CreateTable(table))

    def delete_keys(self, connection: Connection, keys: Iterable[pa.RecordBatch]) -> int:
        """Remove rows by their key values, given in the order of `key`; return how many."""
        table = self._table()
        matches = [table.c[name] == bindparam(f"k{n}") for n, name in enumerate(self.key)]
        statement = str(delete(table).where(*matches).compile(dialect=connection.dialect))
        count = 0
        for batch in keys:
            connection.exec_driver_sql(statement, _rows(batch))
            count += batch.num_rows
        return count

    def clear(self, connection: Connection, months: Iterable[str] | None) -> None:
        """Remove the rows of some months, or all."""
        table = self._table()
        statement = delete(table)
        if months is not None and self.month:
            statement = statement.where(table.c[self.month].in_(list(months)))
        connection.execute(statement)

    def insert(self, connection: Connection, rows: Iterable[pa.RecordBatch]) -> int:
        """Add rows, given in the order of `fields` and as `as_bound` says; return how many.

        Raises KeyClash where a row's key is there already.
        """
        try:
            return self._insert(connection, rows)
        except IntegrityError as error:
            raise KeyClash(
                f"the table {self.name} refuses a row: {error.orig}",
                f"Its key is {', '.join(self.key)}: does it tell all rows of the mart apart?",
            ) from error

    def _insert(self, connection: Connection, rows: Iterable[pa.RecordBatch]) -> int:
        one = str(insert(self._table()).compile(dialect=connection.dialect))
        many = _with_values(one, _ROWS_A_STATEMENT)
        count = 0
        for batch in rows:
            values = _rows(batch)
            whole = len(values) - len(values) % _ROWS_A_STATEMENT
            for start in range(0, whole, _ROWS_A_STATEMENT):
                part = values[start : start + _ROWS_A_STATEMENT]
                connection.exec_driver_sql(many, tuple(chain.from_iterable(part)))
            if whole < len(values):
                connection.exec_driver_sql(one, values[whole:])
            count += len(values)
        return count

    def totals(
        self, connection: Connection, months: Iterable[str] | None
    ) -> tuple[int, dict[str, Decimal]]:
        """Rows and exact sums of the decimal columns, of some months or all."""
        table = self._table()
        money = [field for field in self.fields if field.type.is_decimal]
        sums = [_exact_sum(connection, table.c[field.name], field.type) for field in money]
        query = select(func.count(), *sums).select_from(table)
        if months is not None and self.month:
            query = query.where(table.c[self.month].in_(list(months)))
        count, *values = connection.execute(query).one()
        exact = {
            field.name: Decimal(int(value or 0)).scaleb(-field.type.scale)
            for field, value in zip(money, values, strict=True)
        }
        return int(count), exact

    def _table(self) -> Table:
        columns = [
            Column(f.name, _sql_type(f.type), nullable=f.name not in self.key, autoincrement=False)
            for f in self.fields
        ]
        # Rows lie in key order: with the month first, a month is replaced and summed as one range.
        key = PrimaryKeyConstraint(*self.key)
        return Table(self.name, MetaData(), *columns, key, sqlite_with_rowid=False)


def as_bound(field: Field) -> str:
    """The SQL expression of a column as the driver takes it: exact texts instead of floats.

    SQLite knows no decimals. Its NUMERIC columns hold what a text says to 15 digits, so cents come
    back as they were; the sums that are compared are of whole cents.
    """
    name = quoted(field.name)
    if field.type.name in ("DECIMAL", "DATE", "TIMESTAMP"):
        return f"CAST({name} AS VARCHAR) AS {name}"
    return name


# A statement of a hundred rows costs the driver half of what a hundred statements do.
_ROWS_A_STATEMENT = 100


def _with_values(statement: str, count: int) -> str:
    """An INSERT of one row, written for many."""
    head, _, values = statement.rpartition(" VALUES ")
    return f"{head} VALUES {', '.join([values] * count)}"


def _rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _exact_sum(connection: Connection, column: Any, kind: ColumnType) -> Any:
    """A sum in units of the last digit, so that no float ever adds money."""
    return func.sum(cast(func.round(column * 10**kind.scale), BigInteger))


def _sql_type(kind: ColumnType) -> Any:
    if kind.is_decimal:
        return Numeric(kind.precision, kind.scale)
    simple: dict[str, Any] = {
        "INT": Integer(),
        "BIGINT": BigInteger(),
        "STRING": Text(),
        "DATE": Date(),
        "TIMESTAMP": DateTime(),
        "BOOLEAN": Boolean(),
        "DOUBLE": Float(),
    }
    return simple[kind.name]
