"""SQLite: the database in a file, which needs nobody to run it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Engine,
    Float,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    bindparam,
    cast,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal_column,
    select,
)
from sqlalchemy import types as sql
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchTableError

from retailmart.database.dialect import Read, Since
from retailmart.database.values import record_batch, rows_of, schema_of
from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 50_000
# A statement of a hundred rows costs the driver half of what a hundred statements do.
_ROWS_A_STATEMENT = 100


def open_sqlite(path: Path, *, must_exist: bool) -> Engine:
    """Connect to a file; with `must_exist` it is only read."""
    if must_exist and not path.is_file():
        raise RetailmartError(
            f"the source database {path} is not there",
            "Check `sources` in retailmart.yml",
        )
    if must_exist:
        query = {"mode": "ro", "uri": "true"}
        url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": 30})

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN comes late and never before DDL; ours makes all of it one unit.
        connection.isolation_level = None
        if not must_exist:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -65536")

    def begin(connection: Connection) -> None:
        reads = must_exist or connection.get_execution_options().get("retailmart_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


class SQLite:
    """Marts and sources in a file. Creating a table is part of a transaction here."""

    ddl_in_transaction: ClassVar[bool] = True
    loads_at_once: ClassVar[int] = 1
    # Rows lie in key order: with the month first, a month is replaced and summed as one range.
    table_options: ClassVar[Mapping[str, Any]] = {"sqlite_with_rowid": False}

    def column_types(self, fields: Sequence[Field], key: Sequence[str]) -> list[Any]:
        return [_sql_type(field.type) for field in fields]

    def bound(self, field: Field) -> str:
        """SQLite knows no decimals. Its NUMERIC columns hold what a text says to 15 digits, so
        cents come back as they were; the sums that are compared are of whole cents.
        """
        name = quoted(field.name)
        if field.type.name in ("DECIMAL", "DATE", "TIMESTAMP"):
            return f"CAST({name} AS VARCHAR) AS {name}"
        return name

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        one = str(insert(table).compile(dialect=connection.dialect))
        many = _with_values(one, _ROWS_A_STATEMENT)
        count = 0
        with closing(read(", ".join(self.bound(field) for field in fields))) as batches:
            for batch in batches:
                values = rows_of(batch)
                whole = len(values) - len(values) % _ROWS_A_STATEMENT
                for start in range(0, whole, _ROWS_A_STATEMENT):
                    part = values[start : start + _ROWS_A_STATEMENT]
                    connection.exec_driver_sql(many, tuple(chain.from_iterable(part)))
                if whole < len(values):
                    connection.exec_driver_sql(one, values[whole:])
                count += len(values)
        return count

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        matches = [table.c[name] == bindparam(f"k{n}") for n, name in enumerate(key)]
        statement = str(delete(table).where(*matches).compile(dialect=connection.dialect))
        if values := list(rows):
            connection.exec_driver_sql(statement, values)

    def exact_sum(self, column: Any, kind: ColumnType) -> Any:
        """In units of the last digit, as whole numbers."""
        return func.sum(cast(func.round(column * 10**kind.scale), BigInteger))

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        return Decimal(int(value or 0)).scaleb(-kind.scale)

    def columns_of(self, connection: Connection, table: str) -> list[str]:
        inspector = inspect(connection)
        if not inspector.has_table(table):
            return []
        return [column["name"] for column in inspector.get_columns(table)]

    def mark_of(self, connection: Connection, table: str) -> str | None:
        return None

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        raise NotImplementedError("tables are created anew in the transaction itself")

    def read_table(self, engine: Engine, name: str, since: Since | None = None) -> pa.Table:
        import pyarrow as pa

        table = _table(engine, name)
        kinds = [_column_type(column.type) for column in table.columns]
        schema = schema_of([column.name for column in table.columns], kinds)
        order = list(table.primary_key.columns) or list(table.columns)
        # Values come as the driver gives them: SQLAlchemy's own conversions pass money through
        # float.
        wanted = select(*table.columns).order_by(*order)
        values: tuple[Any, ...] = ()
        if since is not None:
            cursor = _column_of(table, since.column)
            wanted = wanted.where((cursor >= literal_column("?")) | cursor.is_(None))
            values = (since.value,)
        query = str(wanted.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
        with engine.connect() as connection:
            chunks = _chunks(connection.exec_driver_sql(query, values))
            batches = [record_batch(name, rows, kinds, schema) for rows in chunks]
        return pa.Table.from_batches(batches, schema)

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        cursor = _column_of(_table(engine, name), column)
        query = str(select(func.max(cursor)).compile(dialect=engine.dialect))
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar()

    def address(self, engine: Engine) -> DatabaseAddress | None:
        return None

    def extract(self, engine: Engine, name: str, least: int) -> Extract | None:
        return None

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        return None

    def version(self, engine: Engine) -> str | None:
        """Of the file and its journal: size, time and the counter in the file's header."""
        name = str(engine.url.database)
        path = Path(unquote(name.removeprefix("file:")) if name.startswith("file:") else name)
        told = []
        for file in (path, Path(f"{path}-wal")):
            try:
                found = file.stat()
            except OSError:
                continue
            told.append(f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}")
        try:
            with path.open("rb") as database:
                told.append(database.read(28)[24:].hex())
        except OSError:
            return None
        return "/".join(told)


def _table(engine: Engine, name: str) -> Table:
    try:
        return Table(name, MetaData(), autoload_with=engine)
    except NoSuchTableError as error:
        raise RetailmartError(f"the source has no table {name!r} any more") from error


def _column_of(table: Table, name: str) -> Column[Any]:
    if name not in table.columns:
        raise RetailmartError(
            f"source table {table.name!r} has no column {name!r}",
            "Correct `cursor` in the table's file in tables/",
        )
    return table.columns[name]


def _chunks(result: Any) -> Iterator[Sequence[Any]]:
    while rows := result.cursor.fetchmany(_CHUNK):
        yield rows


def _with_values(statement: str, count: int) -> str:
    """An INSERT of one row, written for many."""
    head, _, values = statement.rpartition(" VALUES ")
    return f"{head} VALUES {', '.join([values] * count)}"


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


def _column_type(kind: sql.TypeEngine[Any]) -> ColumnType:
    """The type of a database's column. A decimal without digits keeps ten after the point."""
    if isinstance(kind, sql.BigInteger):
        return ColumnType("BIGINT")
    if isinstance(kind, sql.Boolean):
        return ColumnType("BOOLEAN")
    if isinstance(kind, sql.Integer):
        return ColumnType("INT")
    if isinstance(kind, sql.Float):
        return ColumnType("DOUBLE")
    if isinstance(kind, sql.Numeric):
        scale = kind.scale if kind.scale is not None else (0 if kind.precision else 10)
        return ColumnType("DECIMAL", min(kind.precision or 38, 38), min(scale, 38))
    if isinstance(kind, sql.DateTime):
        return ColumnType("TIMESTAMP")
    if isinstance(kind, sql.Date):
        return ColumnType("DATE")
    return ColumnType("STRING")
