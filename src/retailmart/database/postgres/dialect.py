"""Marts and sources on a server of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Integer,
    Numeric,
    Text,
    text,
)

from retailmart.database.bulk import insert_rows, limit_of_years, line_of
from retailmart.database.common import (
    Reading,
    ServerDialect,
    TransactionalTables,
    UnlimitedTexts,
)
from retailmart.database.dialect import NO_TEXTS, Limit, Read, Texts, on_conflict
from retailmart.database.values import text_of
from retailmart.errors import KeyClash, RetailmartError
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Field, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

# An entry of a btree index holds a third of an 8 kB page.
_KEY_BYTES = 2600
_FIXED_BYTES = {"INT": 4, "BIGINT": 8, "DATE": 4, "TIMESTAMP": 8, "BOOLEAN": 1, "DOUBLE": 8}
_DECIMAL_BYTES = 24
_COLUMNS = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(:name))"
    " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
# Objects bound to a table itself, and not to its name: they would be dropped with the table.
_HANGING_ON = text("""
    WITH this AS (SELECT to_regclass(quote_ident(:name))::oid AS oid)
    SELECT 'trigger ' || t.tgname FROM pg_trigger t, this
    WHERE t.tgrelid = this.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'foreign key ' || c.conname || ' of table ' || c.conrelid::regclass
    FROM pg_constraint c, this WHERE c.contype = 'f' AND c.confrelid = this.oid
    UNION ALL
    SELECT 'check ' || c.conname FROM pg_constraint c, this
    WHERE c.contype = 'c' AND c.conrelid = this.oid
    UNION ALL
    SELECT DISTINCT 'view ' || r.ev_class::regclass
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid, this
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = this.oid AND r.ev_class <> this.oid
    UNION ALL
    SELECT 'policy ' || p.polname FROM pg_policy p, this WHERE p.polrelid = this.oid
    UNION ALL
    SELECT DISTINCT 'grant to ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE g.rolname END
    FROM this JOIN pg_class c ON c.oid = this.oid
    CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE a.grantee <> c.relowner
    UNION ALL
    SELECT DISTINCT 'grant on column ' || t.attname
    FROM pg_attribute t, this WHERE t.attrelid = this.oid AND t.attacl IS NOT NULL
    ORDER BY 1
""")
# The server stores a function's body as text: it may name the table, or something similar.
_FUNCTIONS = text("""
    SELECT 'function ' || oid::regprocedure FROM pg_proc
    WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND strpos(lower(prosrc), lower(:name)) > 0 ORDER BY 1
""")
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Postgres(ServerDialect, TransactionalTables, UnlimitedTexts):
    """Marts in PostgreSQL. Texts are equal here if their bytes are."""

    table_options: ClassVar[Mapping[str, Any]] = {}

    def column_types(
        self, fields: Sequence[Field], key: Sequence[str], texts: Texts = NO_TEXTS
    ) -> list[Any]:
        """Texts sort by their bytes, or by the database's collation where that is requested."""
        return [
            Text(collation="C")
            if field.type.name == "STRING" and field.name not in texts.searched
            else _sql_type(field.type)
            for field in fields
        ]

    def limits(self, fields: Sequence[Field], key: Sequence[str]) -> Iterator[Limit]:
        """Texts in the key share the size of an index entry, in bytes of UTF-8."""
        length = _key_bytes(fields, key)
        for field in fields:
            name, kind = quoted(field.name), field.type.name
            if kind == "STRING":
                yield Limit(
                    field.name,
                    f"contains({name}, chr(0))",
                    "holds the character NUL, which PostgreSQL's texts can't",
                    f"Take it out in the SELECT, as in replace({name}, chr(0), '')",
                )
            if kind == "STRING" and field.name in key:
                yield Limit(
                    field.name,
                    f"strlen({name}) > {length}",
                    f"is longer than the {length} bytes that this key can hold in PostgreSQL",
                    f"Shorten it in the SELECT, as in left({field.name}, {length // 4}), or leave"
                    " the column out of the key",
                )
            if years := limit_of_years(field, "can be published"):
                yield years

    def as_read(self, field: Field) -> tuple[str, ColumnType]:
        return quoted(field.name), field.type

    def read_back(self, connection: Connection, query: str) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Use a server-side cursor, which returns a few rows at a time."""
        driver: Any = connection.connection.driver_connection
        with driver.cursor(name="retailmart_read_back") as cursor:
            # SQLAlchemy has doubled the percent signs of names.
            cursor.execute(query, ())
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield rows

    def insert(
        self, connection: Connection, table: Table, fields: Sequence[Field], read: Read
    ) -> int:
        """Use COPY with lines that the engine writes; Python never handles a row."""
        from psycopg import errors

        columns = ", ".join(quoted(field.name) for field in fields)
        statement = (
            f"COPY {quoted(table.name)} ({columns}) FROM STDIN (FORMAT csv, NULL 'NULL',"
            " ENCODING 'UTF8')"
        )
        sent = 0
        # A savepoint: after an error, the transaction would accept nothing else.
        with closing(read(line_of(fields))) as batches, connection.begin_nested():
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor:
                try:
                    with cursor.copy(statement) as copy:
                        for batch in batches:
                            sent += batch.num_rows
                            copy.write(text_of(batch))
                except errors.UniqueViolation as error:
                    message = error.diag.message_detail or error.diag.message_primary
                    raise KeyClash(f"the table {table.name} refuses a row: {message}") from error
                taken = cursor.rowcount
        if taken != sent:
            raise RetailmartError(f"the table {table.name} took {taken} of {sent} rows")
        return sent

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
        # A savepoint: after an error, the transaction would accept nothing else.
        with connection.begin_nested():
            return insert_rows(connection, table, fields, read, clash)

    def delete_keys(
        self,
        connection: Connection,
        table: Table,
        key: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
    ) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        matches = " AND ".join(f"{quote(name)} = %s" for name in key)
        statement = f"DELETE FROM {quote(table.name)} WHERE {matches}"
        if values := list(rows):
            connection.exec_driver_sql(statement, values)

    def columns_of(self, connection: Connection, table: str) -> dict[str, bool]:
        return dict.fromkeys(connection.scalars(_COLUMNS, {"name": table}), True)

    def folds_names(self, connection: Connection) -> bool:
        return False

    def hanging_on(self, connection: Connection, table: str) -> list[str]:
        return list(connection.scalars(_HANGING_ON, {"name": table}))

    def readers_of(self, connection: Connection, table: str) -> list[str]:
        """Functions only: views depend on the table itself here."""
        return list(connection.scalars(_FUNCTIONS, {"name": table}))

    def swap(self, connection: Connection, renames: Sequence[tuple[str, str, str]]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for new, shown, old in renames:
            if self.columns_of(connection, shown):
                connection.exec_driver_sql(f"ALTER TABLE {quote(shown)} RENAME TO {quote(old)}")
            connection.exec_driver_sql(f"ALTER TABLE {quote(new)} RENAME TO {quote(shown)}")

    @property
    def reading(self) -> Reading:
        from retailmart.database.postgres import reading

        return reading

    def address(self, engine: Engine) -> DatabaseAddress | None:
        """None for a local socket, and for a connection that needs a client certificate."""
        from retailmart.database.postgres.opening import KIND, address_of, is_verified, session_of

        here = address_of(engine)
        if here.socket is not None or "sslcert" in here.ssl:
            return None
        authority = here.ssl.get("sslrootcert", "system")
        return DatabaseAddress(
            kind=KIND,
            host=here.host,
            port=here.port,
            database=here.database,
            user=here.user,
            password=here.password,
            session=session_of(here),
            tls=is_verified(here),
            authority=None if authority == "system" else Path(authority).read_text(),
            timeouts=here.timeouts,
        )

    def version(self, engine: Engine) -> str | None:
        """None: the server's counters of a table's changes can be reset."""
        return None


def _key_bytes(fields: Sequence[Field], key: Sequence[str]) -> int:
    """The maximum size of each text in a key, in bytes."""
    in_key = [field.type for field in fields if field.name in key]
    texts = [kind for kind in in_key if kind.name == "STRING"]
    fixed = (_FIXED_BYTES.get(kind.name, _DECIMAL_BYTES) for kind in in_key if kind not in texts)
    return (_KEY_BYTES - sum(fixed)) // max(len(texts), 1)


def _sql_type(kind: ColumnType) -> Any:
    if kind.is_decimal:
        return Numeric(kind.precision, kind.scale)
    simple: dict[str, Any] = {
        "INT": Integer(),
        "BIGINT": BigInteger(),
        "STRING": Text(),
        "DATE": Date(),
        "TIMESTAMP": DateTime(timezone=True),
        "BOOLEAN": Boolean(),
        "DOUBLE": Double(),
    }
    return simple[kind.name]
