"""Marts and sources on a server of MySQL or MariaDB."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Date, Integer, Numeric, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError

from retailmart.database.bulk import insert_rows, limit_of_years, line_of
from retailmart.database.common import Reading, ServerDialect
from retailmart.database.dialect import LEDGER_VIEWS, NO_TEXTS, UNFILLED, Limit, Read, Texts
from retailmart.database.mysql.errors import error_code
from retailmart.database.mysql.texts import collation_of, in_the_way, lengths_for, settle, widen
from retailmart.database.values import text_of
from retailmart.errors import KeyClash, RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Field, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine, Table

# Errors of a server that does not accept LOAD DATA LOCAL.
_REFUSED = (1148, 1235, 1290, 3948, 4166)
_DUPLICATE = 1062
_KEY_BYTES = 3072
_KEYS_A_STATEMENT = 1000
_STATEMENT_BYTES = 1_000_000
_AHEAD = 4
_ROWS_AT_ONCE = 50_000
_FIXED_BYTES = {"INT": 4, "BIGINT": 8, "DATE": 3, "TIMESTAMP": 8, "BOOLEAN": 1, "DOUBLE": 8}
_HANGING_ON = text(
    "SELECT CONCAT('trigger ', trigger_name) FROM information_schema.triggers"
    " WHERE event_object_schema = DATABASE() AND event_object_table = :name"
    " UNION ALL SELECT DISTINCT CONCAT('foreign key ', constraint_name, ' of table ', table_name)"
    " FROM information_schema.key_column_usage"
    " WHERE referenced_table_schema = DATABASE() AND referenced_table_name = :name"
)
# The server stores a view's query with quoted names, and hides it from unprivileged accounts.
_VIEWS = text(
    "SELECT CASE view_definition WHEN '' THEN CONCAT('perhaps view ', table_name,"
    " ' (to see its query, this account needs SHOW VIEW)') ELSE CONCAT('view ', table_name) END"
    " FROM information_schema.views WHERE table_schema = DATABASE()"
    f" AND table_name NOT LIKE '{LEDGER_VIEWS}%'"
    " AND (view_definition = '' OR LOCATE(CONCAT('`', :name, '`'), view_definition) > 0)"
    " OR LOCATE(CONCAT('`', DATABASE(), '`.`', :name, '`'), view_definition) > 0"
)
_OTHER_TRIGGERS = text(
    "SELECT CONCAT('trigger ', trigger_name, ' of table ', event_object_table), action_statement"
    " FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
    " AND event_object_table <> :name"
)
_COLUMNS = text(
    "SELECT column_name, column_comment <> :comment FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = :name ORDER BY ordinal_position"
)
_COMMENT = text(
    "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE()"
    " AND table_name = :name"
)


@dataclass(frozen=True)
class MySQL(ServerDialect):
    """Marts in MySQL or MariaDB. Creating or renaming a table ends a transaction here."""

    is_mariadb: bool

    ddl_in_transaction: ClassVar[bool] = False
    sizes_texts: ClassVar[bool] = True

    @property
    def table_options(self) -> Mapping[str, Any]:
        """Texts are compared byte by byte, as in the lake: 'a', 'A' and 'a ' are three keys."""
        return {
            "mysql_engine": "InnoDB",
            "mysql_row_format": "DYNAMIC",
            "mysql_charset": "utf8mb4",
            "mysql_collate": "utf8mb4_nopad_bin" if self.is_mariadb else "utf8mb4_0900_bin",
        }

    def column_types(
        self, fields: Sequence[Field], key: Sequence[str], texts: Texts = NO_TEXTS
    ) -> list[Any]:
        """Texts in the key share the size of an index entry; others are as long as they need."""
        lengths = lengths_for({n: size for n, size in texts.longest.items() if n not in key})
        lengths |= dict.fromkeys(key, _key_length(fields, key))
        return [_sql_type(field, lengths.get(field.name), texts) for field in fields]

    def collation(self, connection: Connection) -> str | None:
        return collation_of(connection)

    def widen(self, connection: Connection, table: str, longest: Mapping[str, int]) -> None:
        widen(connection, table, longest)

    def in_the_way(
        self, connection: Connection, table: str, longest: Mapping[str, int]
    ) -> tuple[str, str] | None:
        return in_the_way(connection, table, longest)

    def limits(self, fields: Sequence[Field], key: Sequence[str]) -> Iterator[Limit]:
        length = _key_length(fields, key)
        for field in fields:
            name, kind = quoted(field.name), field.type.name
            if kind == "STRING" and field.name in key:
                yield Limit(
                    field.name,
                    f"length({name}) > {length}",
                    f"is longer than the {length} letters that this key can hold in MySQL",
                    f"Shorten it in the SELECT, as in left({field.name}, {length}), or leave the"
                    " column out of the key",
                )
            if kind == "DOUBLE":
                yield Limit(
                    field.name,
                    f"NOT isfinite({name})",
                    "is a number that MySQL does not hold",
                    f"Let the SELECT say what it means, as in CASE WHEN isfinite({name}) THEN"
                    f" {name} END",
                )
            if years := limit_of_years(field, "MySQL holds"):
                yield years

    def as_read(self, field: Field) -> tuple[str, ColumnType]:
        """Booleans are small numbers here."""
        if field.type.name == "BOOLEAN":
            return f"CAST({quoted(field.name)} AS INTEGER)", ColumnType("INT")
        return quoted(field.name), field.type

    def read_back(self, connection: Connection, query: str) -> Iterator[Sequence[tuple[Any, ...]]]:
        from pymysql.cursors import SSCursor

        with closing(_driver(connection).cursor(SSCursor)) as cursor:
            cursor.execute(query, ())  # SQLAlchemy has doubled the percent signs of names
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield rows

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        """Use LOAD DATA LOCAL if the server accepts it, otherwise statements of many rows."""
        if connection.exec_driver_sql("SELECT @@local_infile").scalar_one():
            try:
                return _load(connection, table, fields, read)
            except DBAPIError as error:
                if error_code(error.orig) not in _REFUSED:
                    raise
        return self._insert(connection, table, fields, read)

    def upsert(
        self,
        connection: Connection,
        table: Table,
        fields: Sequence[Field],
        key: Sequence[str],
        read: Read,
    ) -> int:
        quote = connection.dialect.identifier_preparer.quote_identifier
        # For a row that consists of its key only, the update sets the key to itself.
        names = [quote(field.name) for field in fields if field.name not in key] or [quote(key[0])]
        changes = ", ".join(f"{name} = VALUES({name})" for name in names)
        return self._insert(connection, table, fields, read, f" ON DUPLICATE KEY UPDATE {changes}")

    def _insert(
        self,
        connection: Connection,
        table: Table,
        fields: Sequence[Field],
        read: Read,
        clash: str = "",
    ) -> int:
        allowed = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
        # The driver writes many rows into one statement, up to this size.
        _driver(connection).statement_bytes = min(_STATEMENT_BYTES, allowed // 2)
        return insert_rows(connection, table, fields, read, clash)

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        """Delete by a list of whole keys, which both servers look up in the key's index."""
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

    def columns_of(self, connection: Connection, table: str) -> dict[str, bool]:
        # SQLAlchemy's own inspection fails if a table's name holds a backtick.
        found = connection.execute(_COLUMNS, {"name": table, "comment": UNFILLED})
        return {name: bool(is_filled) for name, is_filled in found}

    def settle(self, connection: Connection, table: str) -> None:
        columns = self.columns_of(connection, table)
        settle(connection, table, [name for name, is_filled in columns.items() if not is_filled])

    def mark_of(self, connection: Connection, table: str) -> str | None:
        comment: str | None = connection.scalar(_COMMENT, {"name": table})
        return comment

    def folds_names(self, connection: Connection) -> bool:
        return bool(connection.exec_driver_sql("SELECT @@lower_case_table_names").scalar_one())

    def hanging_on(self, connection: Connection, table: str) -> list[str]:
        return list(connection.scalars(_HANGING_ON, {"name": table}))

    def readers_of(self, connection: Connection, table: str) -> list[str]:
        views = connection.scalars(_VIEWS, {"name": table}).all()
        # Backslash escapes hide where a text ends, so the search includes texts, too.
        named = re.compile(rf"\b{re.escape(table)}\b", re.IGNORECASE)
        triggers = connection.execute(_OTHER_TRIGGERS, {"name": table})
        return [*views, *(message for message, query in triggers if named.search(query))]

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        steps = []
        for new, shown, old in renames:
            if self.columns_of(connection, shown):
                steps.append(f"{quote(shown)} TO {quote(old)}")
            steps.append(f"{quote(new)} TO {quote(shown)}")
        connection.exec_driver_sql(f"RENAME TABLE {', '.join(steps)}")

    @property
    def reading(self) -> Reading:
        from retailmart.database.mysql import reading

        return reading

    def address(self, engine: Engine) -> DatabaseAddress | None:
        """None for a local socket, and for a connection that needs a client certificate."""
        from retailmart.database.mysql.opening import SESSION, address_of

        here = address_of(engine)
        if here.unix_socket is not None or "ssl_cert" in here.files:
            return None
        authority = here.files.get("ssl_ca") if here.verified is not None else None
        return DatabaseAddress(
            kind="mysql",
            host=here.host,
            port=here.port,
            database=here.database,
            user=here.user,
            password=here.password,
            session=SESSION,
            tls=here.verified is not None,
            authority=None if authority is None else Path(authority).read_text(),
            timeouts=here.timeouts,
        )

    def version(self, engine: Engine) -> str | None:
        """None: the server's data about a table's changes is lost when it restarts."""
        return None


def _load(connection: Connection, table: Table, fields: Sequence[Field], read: Read) -> int:
    from retailmart.database.mysql.infile import Feeding

    driver: Feeding = _driver(connection)
    sent = 0

    def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[memoryview]:
        nonlocal sent
        for batch in batches:
            sent += batch.num_rows
            yield text_of(batch)

    with closing(_ahead(read(line_of(fields)))) as batches:
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


def _warned(connection: Connection, table: Table) -> RetailmartError:
    """The error for a LOAD DATA LOCAL warning: an existing key, or a value changed in storage."""
    found = connection.exec_driver_sql("SHOW WARNINGS").fetchall()
    clash = next((message for _, code, message in found if code == _DUPLICATE), None)
    if clash is not None:
        return KeyClash(f"the table {table.name} refuses a row: {clash}")
    message = found[0][2] if found else "a warning without words"
    return RetailmartError(f"the table {table.name} does not take a value as it is: {message}")


def _ahead(batches: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
    """The same batches; some are made while the one before is being sent."""
    with closing(batches), ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _key_length(fields: Sequence[Field], key: Sequence[str]) -> int:
    """The maximum length of each text in a key, in characters."""
    in_key = [field.type for field in fields if field.name in key]
    texts = sum(kind.name == "STRING" for kind in in_key)
    fixed = sum(_bytes(kind) for kind in in_key if kind.name != "STRING")
    return (_KEY_BYTES - fixed) // (4 * texts) if texts else 0


def _bytes(kind: ColumnType) -> int:
    return _FIXED_BYTES.get(kind.name, 4 * (kind.precision // 9 + 2))


def _sql_type(field: Field, length: int | None, texts: Texts) -> Any:
    kind = field.type
    if kind.is_decimal:
        if kind.scale > 30:
            raise RetailmartError(
                f"column {field.name!r} is {kind}: MySQL keeps 30 digits after the point",
                "Cast it in the mart's SELECT, as in CAST(x AS DECIMAL(38,10))",
            )
        return Numeric(kind.precision, kind.scale)
    if kind.name == "STRING":
        collated: dict[str, str | None] = {}
        if field.name in texts.searched:
            collated = {"charset": "utf8mb4", "collation": texts.collation}
        return mysql.VARCHAR(length, **collated) if length else mysql.LONGTEXT(**collated)
    simple: dict[str, Any] = {
        "INT": Integer(),
        "BIGINT": BigInteger(),
        "DATE": Date(),
        "TIMESTAMP": mysql.DATETIME(fsp=6),
        "BOOLEAN": mysql.TINYINT(1),
        "DOUBLE": mysql.DOUBLE(),
    }
    return simple[kind.name]
