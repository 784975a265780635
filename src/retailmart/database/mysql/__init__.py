"""MySQL and MariaDB: SQL that both take."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Date, Integer, Numeric, func, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError

from retailmart.database.dialect import Read, Since
from retailmart.database.told import error_code
from retailmart.database.values import rows_of
from retailmart.errors import KeyClash, RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine, Table

# What a server says that takes no LOAD DATA LOCAL.
_REFUSED = (1148, 1235, 1290, 3948, 4166)
_DUPLICATE = 1062
_KEY_BYTES = 3072
_KEYS_A_STATEMENT = 1000
_STATEMENT_BYTES = 1_000_000
_AHEAD = 4
_FIXED_BYTES = {"INT": 4, "BIGINT": 8, "DATE": 3, "TIMESTAMP": 8, "BOOLEAN": 1, "DOUBLE": 8}
_COLUMNS = text(
    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
    " AND table_name = :name ORDER BY ordinal_position"
)
_COMMENT = text(
    "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE()"
    " AND table_name = :name"
)


@dataclass(frozen=True)
class MySQL:
    """Marts in MySQL or MariaDB. Creating a table ends a transaction here, and renaming too."""

    is_mariadb: bool

    ddl_in_transaction: ClassVar[bool] = False
    # The server has one thread a connection; more than these wait for the engine's rows.
    loads_at_once: ClassVar[int] = 4

    @property
    def table_options(self) -> Mapping[str, Any]:
        """Texts are compared byte by byte, as the lake does: 'a', 'A' and 'a ' are three keys."""
        return {
            "mysql_engine": "InnoDB",
            "mysql_row_format": "DYNAMIC",
            "mysql_charset": "utf8mb4",
            "mysql_collate": "utf8mb4_nopad_bin" if self.is_mariadb else "utf8mb4_0900_bin",
        }

    def column_types(self, fields: Sequence[Field], key: Sequence[str]) -> list[Any]:
        """Texts in the key share what an index entry can hold; others may be of any length."""
        in_key = [field.type for field in fields if field.name in key]
        texts = sum(kind.name == "STRING" for kind in in_key)
        fixed = sum(_bytes(kind) for kind in in_key if kind.name != "STRING")
        length = (_KEY_BYTES - fixed) // (4 * texts) if texts else 0
        return [_sql_type(field, length if field.name in key else None) for field in fields]

    def bound(self, field: Field) -> str:
        name = quoted(field.name)
        if field.type.name == "TIMESTAMP":
            return f"CAST({name} AT TIME ZONE 'UTC' AS VARCHAR) AS {name}"
        if field.type.name in ("DECIMAL", "DATE"):
            return f"CAST({name} AS VARCHAR) AS {name}"
        return name

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        """By LOAD DATA LOCAL where the server takes it, else by statements of many rows."""
        if connection.exec_driver_sql("SELECT @@local_infile").scalar_one():
            try:
                return _load(connection, table, fields, read)
            except DBAPIError as error:
                if error_code(error.orig) not in _REFUSED:
                    raise
        return self._insert(connection, table, fields, read)

    def _insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        quote = connection.dialect.identifier_preparer.quote_identifier
        columns = ", ".join(quote(field.name) for field in fields)
        marks = ", ".join(["%s"] * len(fields))
        statement = f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({marks})"
        allowed = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
        # The driver writes many rows into one statement, up to this size.
        _driver(connection).statement_bytes = min(_STATEMENT_BYTES, allowed // 2)
        count = 0
        with closing(read(", ".join(self.bound(field) for field in fields))) as batches:
            for batch in batches:
                connection.exec_driver_sql(statement, rows_of(batch))
                count += batch.num_rows
        return count

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        """As a list of whole keys, which both servers look up in the key itself."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        one = "(" + " AND ".join(f"{quote(name)} = %s" for name in key) + ")"
        remaining = iter(rows)
        while part := list(islice(remaining, _KEYS_A_STATEMENT)):
            if len(key) == 1:
                condition = f"{quote(key[0])} IN ({', '.join(['%s'] * len(part))})"
            else:
                condition = " OR ".join([one] * len(part))
            statement = f"DELETE FROM {quote(table.name)} WHERE {condition}"
            connection.exec_driver_sql(statement, tuple(chain.from_iterable(part)))

    def exact_sum(self, column: Any, kind: ColumnType) -> Any:
        """The server adds decimals as decimals."""
        return func.sum(column)

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        return Decimal(value or 0)

    def columns_of(self, connection: Connection, table: str) -> list[str]:
        # SQLAlchemy's own look at a table fails where its name holds a backtick.
        return list(connection.scalars(_COLUMNS, {"name": table}))

    def mark_of(self, connection: Connection, table: str) -> str | None:
        comment: str | None = connection.scalar(_COMMENT, {"name": table})
        return comment

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        steps = []
        for new, shown, old in renames:
            if self.columns_of(connection, shown):
                steps.append(f"{quote(shown)} TO {quote(old)}")
            steps.append(f"{quote(new)} TO {quote(shown)}")
        connection.exec_driver_sql(f"RENAME TABLE {', '.join(steps)}")

    def read_table(self, engine: Engine, name: str, since: Since | None = None) -> pa.Table:
        from retailmart.database.mysql.reading import read_since, read_table

        return read_table(engine, name) if since is None else read_since(engine, name, since)

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        from retailmart.database.mysql.reading import newest

        return newest(engine, name, column)

    def address(self, engine: Engine) -> DatabaseAddress | None:
        """None for a socket of this machine, and where it takes a certificate of the client's."""
        from retailmart.database.mysql.opening import SESSION, address_of

        here = address_of(engine)
        if here.unix_socket is not None or "ssl_cert" in here.files:
            return None
        authority = here.files.get("ssl_ca") if here.verified is not None else None
        return DatabaseAddress(
            host=here.host,
            port=here.port,
            database=here.database,
            user=here.user,
            password=here.password,
            session=SESSION,
            tls=here.verified is not None,
            authority=None if authority is None else Path(authority).read_text(),
        )

    def extract(self, engine: Engine, name: str, least: int) -> Extract | None:
        from retailmart.database.mysql.reading import extract

        address = self.address(engine)
        return None if address is None else extract(engine, address, name, least)

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        from retailmart.database.mysql.reading import fingerprint

        return fingerprint(engine, name)

    def version(self, engine: Engine) -> str | None:
        """None: what the server knows of a table's changes is lost when it restarts."""
        return None


def _load(connection: Connection, table: Table, fields: Sequence[Field], read: Read) -> int:
    from retailmart.database.mysql.infile import Feeding, text_of

    driver: Feeding = _driver(connection)
    sent = 0

    def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[memoryview]:
        nonlocal sent
        for batch in batches:
            sent += batch.num_rows
            yield text_of(batch)

    with closing(_ahead(read(_line(fields)))) as batches:
        first = next(batches, None)  # before the server waits for it: a sort can take minutes
        if first is None:
            return 0
        with driver.feeding(chunks(chain([first], batches))):
            loaded = connection.exec_driver_sql(_statement(connection, table, fields))
    if driver.warning_count:
        raise _warned(connection, table)
    if loaded.rowcount != sent:
        raise RetailmartError(f"the table {table.name} took {loaded.rowcount} of {sent} rows")
    return sent


def _statement(connection: Connection, table: Table, fields: Sequence[Field]) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    columns = ", ".join(quote(field.name) for field in fields)
    return (
        f"LOAD DATA LOCAL INFILE 'retailmart' INTO TABLE {quote(table.name)} CHARACTER SET utf8mb4"
        " FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY ''"
        f" LINES TERMINATED BY '\\n' ({columns})"
    )


def _line(fields: Sequence[Field]) -> str:
    """A row as the line that LOAD DATA takes: the engine writes it, no Python touches a row."""
    cells = [f"coalesce({_cell(field)}, 'NULL')" for field in fields]
    joined = ", ',', ".join(cells)
    return f"concat({joined}, chr(10)) AS line"


def _cell(field: Field) -> str:
    name = quoted(field.name)
    match field.type.name:
        case "STRING":
            return f"""'"' || replace({name}, '"', '""') || '"'"""
        case "BOOLEAN":
            return f"CAST(CAST({name} AS TINYINT) AS VARCHAR)"
        case "TIMESTAMP":
            return f"CAST({name} AT TIME ZONE 'UTC' AS VARCHAR)"
        case _:
            return f"CAST({name} AS VARCHAR)"


def _warned(connection: Connection, table: Table) -> RetailmartError:
    """What LOAD DATA LOCAL only warns of: a key that is there already, a value that was bent."""
    found = connection.exec_driver_sql("SHOW WARNINGS").fetchall()
    clash = next((message for _, code, message in found if code == _DUPLICATE), None)
    if clash is not None:
        return KeyClash(f"the table {table.name} refuses a row: {clash}")
    message = found[0][2] if found else "a warning without words"
    return RetailmartError(f"the table {table.name} does not take a value as it is: {message}")


def _ahead(batches: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
    """The same batches, some made while the one before is being sent."""
    with closing(batches), ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _bytes(kind: ColumnType) -> int:
    return _FIXED_BYTES.get(kind.name, 4 * (kind.precision // 9 + 2))


def _sql_type(field: Field, key_length: int | None) -> Any:
    kind = field.type
    if kind.is_decimal:
        if kind.scale > 30:
            raise RetailmartError(
                f"column {field.name!r} is {kind}: MySQL keeps 30 digits after the point",
                "Cast it in the mart's SELECT, as in CAST(x AS DECIMAL(38,10))",
            )
        return Numeric(kind.precision, kind.scale)
    if kind.name == "STRING":
        if key_length is None:
            return mysql.LONGTEXT()
        return mysql.VARCHAR(key_length)
    simple: dict[str, Any] = {
        "INT": Integer(),
        "BIGINT": BigInteger(),
        "DATE": Date(),
        "TIMESTAMP": mysql.DATETIME(fsp=6),
        "BOOLEAN": mysql.TINYINT(1),
        "DOUBLE": mysql.DOUBLE(),
    }
    return simple[kind.name]
