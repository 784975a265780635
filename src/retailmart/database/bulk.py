"""Rows on their way to a server: as lines of text for a bulk load, and as values that are bound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from retailmart.database.dialect import Limit, Read
from retailmart.database.values import rows_of
from retailmart.tables import Field, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

_YEARS = {
    "DATE": ("DATE '0001-01-01'", "DATE '9999-12-31'"),
    "TIMESTAMP": (
        "TIMESTAMPTZ '0001-01-01 00:00:00+00'",
        "TIMESTAMPTZ '9999-12-31 23:59:59.999999+00'",
    ),
}


def line_of(fields: Sequence[Field]) -> str:
    """A row as a line of CSV; the engine writes it, Python never handles a row.

    Texts are quoted, so none of them reads as NULL. Times are in UTC, booleans are 1 and 0.
    """
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


def bound(field: Field) -> str:
    """The engine's expression of a column as a server's driver takes it: exact, never a float."""
    name = quoted(field.name)
    if field.type.name == "TIMESTAMP":
        return f"CAST({name} AT TIME ZONE 'UTC' AS VARCHAR) AS {name}"
    if field.type.name in ("DECIMAL", "DATE"):
        return f"CAST({name} AS VARCHAR) AS {name}"
    return name


def insert_rows(
    connection: Connection, table: Table, fields: Sequence[Field], read: Read, clash: str = ""
) -> int:
    """Add rows as values that are bound; return how many.

    `clash` is the clause that says what happens to a row whose key is there.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    columns = ", ".join(quote(field.name) for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    statement = f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({marks}){clash}"
    count = 0
    with closing(read(", ".join(map(bound, fields)))) as batches:
        for batch in batches:
            connection.exec_driver_sql(statement, rows_of(batch))
            count += batch.num_rows
    return count


def limit_of_years(field: Field, which: str) -> Limit | None:
    """The limit of a date or time to the years 1 to 9999; `which` says why these."""
    if field.type.name not in _YEARS:
        return None
    first, last = _YEARS[field.type.name]
    return Limit(
        field.name,
        f"{quoted(field.name)} NOT BETWEEN {first} AND {last}",
        f"lies outside of the years 1 to 9999, which {which}",
        "Correct it where it comes from, or let the SELECT give NULL for it",
    )
