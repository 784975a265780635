"""Marts and sources in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

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
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy import types as sql
from sqlalchemy.exc import NoSuchTableError

from retailmart.database.common import TransactionalTables, UnlimitedTexts
from retailmart.database.conversions import MOST_UNITS, PROVEN_DIGITS
from retailmart.database.dialect import (
    LEDGER_VIEWS,
    NO_TEXTS,
    Limit,
    Read,
    Since,
    Texts,
    on_conflict,
)
from retailmart.database.values import record_batch, rows_of, schema_of
from retailmart.errors import RetailmartError
from retailmart.project.lexer import words_of
from retailmart.project.table import ReadRules
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa

_KEY_COLLATION = (
    "SELECT x.name, x.coll FROM pragma_index_list(?) l, pragma_index_xinfo(l.name) x"
    " WHERE l.origin = 'pk' AND x.key = 1"
)
# In any letter case, as SQLite finds a table; without the hidden ones of virtual tables.
_COLUMNS = text("SELECT name FROM pragma_table_xinfo(:name, 'main') WHERE hidden <> 1 ORDER BY cid")
_HANGING_ON = text("""
    SELECT 'trigger ' || name FROM sqlite_master
    WHERE type = 'trigger' AND lower(tbl_name) = lower(:name)
    UNION ALL
    SELECT DISTINCT 'a foreign key of table ' || t.name
    FROM sqlite_master t, pragma_foreign_key_list(t.name) f
    WHERE t.type = 'table' AND lower(f."table") = lower(:name)
""")
_NAMING = text(f"""
    SELECT type || ' ' || name, sql FROM sqlite_master
    WHERE type = 'view' AND name NOT LIKE '{LEDGER_VIEWS}%'
        OR type = 'trigger' AND lower(tbl_name) <> lower(:name)
""")
_NO_RULES = ReadRules()
_INT, _BIGINT, _STRING = ColumnType("INT"), ColumnType("BIGINT"), ColumnType("STRING")
_CHUNK = 50_000
_PART = "1000000000"
# Files up to this size are written again within a second.
_SMALL = 64 << 20
# A statement with a hundred rows takes half the driver's time of a hundred statements.
_ROWS_A_STATEMENT = 100


class SQLite(TransactionalTables, UnlimitedTexts):
    """Marts and sources in a file. Creating a table is part of a transaction here."""

    loads_beside: ClassVar[bool] = False
    loads_at_once: ClassVar[int] = 1
    # Rows are in key order: with the month first, a month is replaced and summed as one range.
    table_options: ClassVar[Mapping[str, Any]] = {"sqlite_with_rowid": False}

    def column_types(
        self, fields: Sequence[Field], key: Sequence[str], texts: Texts = NO_TEXTS
    ) -> list[Any]:
        return [_sql_type(field.type) for field in fields]

    def compact(self, engine: Engine) -> None:
        with closing(engine.raw_connection()) as connection, suppress(sqlite3.OperationalError):
            # What is locked, or has no room for a copy, waits for the next time.
            ((pages,),) = connection.execute("PRAGMA page_count")
            ((size,),) = connection.execute("PRAGMA page_size")
            if pages * size <= _SMALL:
                connection.execute("VACUUM")  # into the log; the last one to close moves it over

    def limits(self, fields: Sequence[Field], key: Sequence[str]) -> Iterator[Limit]:
        for field in fields:
            name = quoted(field.name)
            if field.type.is_decimal and field.type.precision > PROVEN_DIGITS:
                most = Decimal(MOST_UNITS).scaleb(-field.type.scale)
                yield Limit(
                    field.name,
                    f"abs({name}) > {most:f}",
                    f"has more digits than SQLite can prove: {PROVEN_DIGITS}, decimals included",
                    "Correct it where it comes from, or publish to MySQL or MariaDB, which hold all"
                    " digits; where a column has needless decimals, cast it in the SELECT",
                )
            if field.type.name == "DOUBLE":
                yield Limit(
                    field.name,
                    f"isnan({name})",
                    "is not a number, which SQLite takes for NULL",
                    f"Let the SELECT say what it means, as in CASE WHEN NOT isnan({name}) THEN"
                    f" {name} END",
                )

    def bound(self, field: Field) -> str:
        """A decimal as text, because SQLite has no decimals.

        Its NUMERIC columns hold a text's value to 15 digits, so cents are read back unchanged. The
        sums that are compared are sums of whole cents.
        """
        name = quoted(field.name)
        if field.type.name in ("DECIMAL", "DATE", "TIMESTAMP"):
            return f"CAST({name} AS VARCHAR) AS {name}"
        return name

    def as_read(self, field: Field) -> tuple[str, ColumnType]:
        """Dates and timestamps are read as the texts that were written, booleans as numbers."""
        if field.type.name == "BOOLEAN":
            return f"CAST({quoted(field.name)} AS INTEGER)", _INT
        if field.type.name in ("DATE", "TIMESTAMP"):
            return f"CAST({quoted(field.name)} AS VARCHAR)", _STRING
        return quoted(field.name), field.type

    def read_back(self, connection: Connection, query: str) -> Iterator[Sequence[tuple[Any, ...]]]:
        """A text that is not UTF-8 has surrogates for its odd bytes; valid texts never do."""
        driver: Any = connection.connection.driver_connection
        driver.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        try:
            yield from _chunks(connection.exec_driver_sql(query))
        finally:
            driver.text_factory = str

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        return self._add(connection, table, fields, read, "")

    def upsert(
        self,
        connection: Connection,
        table: Table,
        fields: Sequence[Field],
        key: Sequence[str],
        read: Read,
    ) -> int:
        quote = connection.dialect.identifier_preparer.quote_identifier
        clash = f" {on_conflict(quote, fields, key)}"
        return self._add(connection, table, fields, read, clash)

    def _add(
        self,
        connection: Connection,
        table: Table,
        fields: Sequence[Field],
        read: Read,
        clash: str,
    ) -> int:
        one = str(insert(table).compile(dialect=connection.dialect))
        many = _with_values(one, _ROWS_A_STATEMENT) + clash
        one += clash
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
        """In units of the last digit, as integers; in two parts, because a sum has 63 bits."""
        # No integer of SQLite's holds 10^19. A float does: what is published has 15 digits in all.
        unit: Any = literal_column(str(10**kind.scale) if kind.scale < 19 else f"1e{kind.scale}")
        units = cast(func.round(column * unit), BigInteger)
        part: Any = literal_column(_PART)
        high, low = func.sum(units.op("/")(part)), func.sum(units.op("%")(part))
        return cast(high, Text) + literal_column("' '") + cast(low, Text)

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        high, low = (int(part) for part in str(value or "0 0").split())
        return Decimal(high * int(_PART) + low).scaleb(-kind.scale)

    def columns_of(self, connection: Connection, table: str) -> dict[str, bool]:
        return dict.fromkeys(connection.scalars(_COLUMNS, {"name": table}), True)

    def folds_names(self, connection: Connection) -> bool:
        return True

    def hanging_on(self, connection: Connection, table: str) -> list[str]:
        return list(connection.scalars(_HANGING_ON, {"name": table}))

    def readers_of(self, connection: Connection, table: str) -> list[str]:
        found = connection.execute(_NAMING, {"name": table})
        return [message for message, query in found if table.lower() in words_of(query or "")]

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        raise NotImplementedError("tables are created anew in the transaction itself")

    def fields(self, engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]:
        return tuple(Field(c.name, _kind(c, rules)) for c in _table(engine, name).columns)

    def read_table(
        self, engine: Engine, name: str, rules: ReadRules, since: Since | None = None
    ) -> pa.Table:
        import pyarrow as pa

        table = _table(engine, name)
        kinds = [_kind(column, rules) for column in table.columns]
        names = [column.name for column in table.columns]
        for column, _ in rules.times:
            _column_of(table, column, "times", rules)
        # Every INTEGER holds 64 bits here, regardless of the declared type.
        schema = schema_of(names, [_BIGINT if kind == _INT else kind for kind in kinds])
        key = [column.name for column in table.primary_key.columns]
        order = list(table.primary_key.columns) or list(table.columns)
        # Values as the driver returns them: SQLAlchemy's own conversions pass money through float.
        wanted = select(*table.columns).order_by(*order)
        values: tuple[Any, ...] = ()
        if since is not None:
            cursor = _column_of(table, since.column)
            wanted = wanted.where((cursor >= literal_column("?")) | cursor.is_(None))
            values = (since.value,)
        query = str(wanted.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
        with engine.connect() as connection:
            chunks = _chunks(connection.exec_driver_sql(query, values))
            batches = [record_batch(name, rows, kinds, schema, key, rules) for rows in chunks]
        return _narrowed(pa.Table.from_batches(batches, schema), kinds)

    def key_collation(self, engine: Engine, name: str, rules: ReadRules) -> tuple[str, str] | None:
        with engine.connect() as connection:
            key = connection.exec_driver_sql(_KEY_COLLATION, (name,)).all()
        if len(key) != 1 or key[0][1] != "NOCASE":
            return None
        return str(key[0][0]), "NOCASE"

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        cursor = _column_of(_table(engine, name), column)
        query = str(select(func.max(cursor)).compile(dialect=engine.dialect))
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).scalar()

    def address(self, engine: Engine) -> DatabaseAddress | None:
        return None

    def extract(self, engine: Engine, name: str, rules: ReadRules, least: int) -> Extract | None:
        return None

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        return None

    def version(self, engine: Engine) -> str | None:
        """Size and time of the file and its journal, and the counter in the file's header."""
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
    """A table's columns and its key; nothing else of it is asked for."""
    try:
        with engine.connect() as connection:
            found = inspect(connection)
            columns = found.get_columns(name)
            key = found.get_pk_constraint(name)["constrained_columns"]
    except NoSuchTableError as error:
        raise RetailmartError(f"the source has no table {name!r} any more") from error
    return Table(
        name,
        MetaData(),
        *(Column(one["name"], one["type"]) for one in columns),
        *([PrimaryKeyConstraint(*key)] if key else []),
    )


def _column_of(
    table: Table, name: str, said: str = "cursor", rules: ReadRules = _NO_RULES
) -> Column[Any]:
    """A column that the table's file names as its `said`."""
    if name not in table.columns:
        raise RetailmartError(
            f"source table {table.name!r} has no column {name!r}",
            f"Correct `{said}` in {rules.file}",
        )
    return table.columns[name]


def _kind(column: Column[Any], rules: ReadRules) -> ColumnType:
    """A column's type; numbers that mean timestamps are timestamps, however declared."""
    kind = _column_type(column.type)
    counts = rules.unit(column.name) is not None and kind.name != "DATE"
    return ColumnType("TIMESTAMP") if counts else kind


def _narrowed(rows: pa.Table, kinds: Sequence[ColumnType]) -> pa.Table:
    """The same with INT for INTEGER columns, unless one of their values needs more."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, kind in enumerate(kinds):
        if kind != _INT:
            continue
        ends = pc.min_max(rows.column(index)).as_py()
        if ends["min"] is None or (ends["min"] >= -(2**31) and ends["max"] < 2**31):
            narrow = rows.column(index).cast(pa.int32())
            rows = rows.set_column(index, rows.schema.field(index).name, narrow)
    return rows


def _chunks(result: Any) -> Iterator[Sequence[Any]]:
    while rows := result.cursor.fetchmany(_CHUNK):
        yield rows


def _with_values(statement: str, count: int) -> str:
    """An INSERT for one row, rewritten for many."""
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
    """The type of a database's column; a decimal without a scale keeps ten decimals."""
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
