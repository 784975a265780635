"""Reads tables of the shop's own databases into Arrow and keeps their types."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, inspect

from retailmart.database.dialect import Since, dialect_of
from retailmart.database.errors import translate_errors
from retailmart.database.registry import kind_of, shown_url
from retailmart.errors import RetailmartError
from retailmart.project.table import ReadRules
from retailmart.tables import Extract, Field

if TYPE_CHECKING:
    import pyarrow as pa

_NO_RULES = ReadRules()


@dataclass(frozen=True)
class SourceTable:
    """A whole table; `digest` changes with any value in it. Rows are in key order."""

    name: str
    rows: pa.Table
    digest: str


def table_names(engine: Engine) -> frozenset[str]:
    """The tables and views a source offers."""
    with translate_errors(f"{_shown(engine)} cannot be read"):
        inspector = inspect(engine)
        names = {*inspector.get_table_names(), *inspector.get_view_names()}
        with suppress(NotImplementedError):  # few databases have these
            names.update(inspector.get_materialized_view_names())
        return frozenset(names)


def fields_of(engine: Engine, name: str, rules: ReadRules = _NO_RULES) -> tuple[Field, ...]:
    """The columns of a table, found without reading any row."""
    with translate_errors(f"source table {name!r} cannot be read"):
        return dialect_of(engine).fields(engine, name, rules)


def read_table(engine: Engine, name: str, rules: ReadRules = _NO_RULES) -> SourceTable:
    """Read a whole table. Raises RetailmartError if a value is not of its column's type."""
    with translate_errors(f"source table {name!r} cannot be read"):
        rows = dialect_of(engine).read_table(engine, name, rules)
    return SourceTable(name, rows, digest_of(rows))


def read_since(
    engine: Engine, name: str, cursor: str, position: str, rules: ReadRules = _NO_RULES
) -> pa.Table:
    """The rows of a table whose cursor is at or after a position, or has no value."""
    since = Since(cursor, _from_json(position))
    with translate_errors(f"source table {name!r} cannot be read"):
        return dialect_of(engine).read_table(engine, name, rules, since)


def extract_of(
    engine: Engine, name: str, least: int, rules: ReadRules = _NO_RULES
) -> Extract | None:
    """How others can read a table of about `least` rows or more; None for any other table."""
    with translate_errors(f"source table {name!r} cannot be read"):
        return dialect_of(engine).extract(engine, name, rules, least)


def read_part(extract: Extract, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of one of an extract's queries, on any machine that has the extract."""
    with translate_errors(f"source table {extract.name!r} cannot be read"):
        yield from kind_of(extract.address.kind).read_part(extract, query)


def fingerprint_of(engine: Engine, name: str) -> str | None:
    """The server's fingerprint of a table's columns and values; None if it has none."""
    with translate_errors(f"source table {name!r} cannot be read"):
        return dialect_of(engine).fingerprint(engine, name)


def key_collation_of(
    engine: Engine, name: str, rules: ReadRules = _NO_RULES
) -> tuple[str, str] | None:
    """A table's single text key, and the collation by which its database compares it."""
    with translate_errors(f"source table {name!r} cannot be read"):
        return dialect_of(engine).key_collation(engine, name, rules)


def position_of(engine: Engine, name: str, cursor: str) -> str | None:
    """The current position of a table's cursor for `read_since`; None if no row has a value.

    Read it before the rows, so that a row that arrives meanwhile is read again, not missed.
    """
    with translate_errors(f"source table {name!r} cannot be read"):
        newest = dialect_of(engine).newest(engine, name, cursor)
    return None if newest is None else _to_json(name, cursor, newest)


def version_of(engine: Engine) -> str | None:
    """A text that changes with anything in the source, if it is cheap to find."""
    return dialect_of(engine).version(engine)


def _to_json(name: str, cursor: str, value: Any) -> str:
    if isinstance(value, Decimal):
        return json.dumps({"decimal": str(value)})
    if not isinstance(value, int | float | str):
        raise RetailmartError(
            f"source table {name!r}: {cursor!r} can't be a cursor, its values are {value!r}",
            "Choose a number, a time or a text that grows with every change",
        )
    return json.dumps(value)


def _from_json(text: str) -> Any:
    value = json.loads(text)
    return Decimal(value["decimal"]) if isinstance(value, dict) else value


def digest_of(rows: pa.Table) -> str:
    """A digest of schema and values, however the values were divided into chunks."""
    whole = hashlib.sha256(repr(rows.schema).encode())
    with ThreadPoolExecutor(2) as pool:
        for digest in pool.map(_column_digest, rows.columns):
            whole.update(digest)
    return whole.hexdigest()


def _column_digest(column: pa.ChunkedArray) -> bytes:
    """A digest of values, lengths and positions of NULLs, however a column was divided.

    The bytes under a NULL differ from reader to reader, so they are set to zero first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values, lengths, nulls = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    seen = 0
    for chunk in column.chunks:
        part = chunk.cast(pa.int8()) if pa.types.is_boolean(chunk.type) else chunk
        if part.null_count:
            places = pc.indices_nonzero(pc.is_null(part)).cast(pa.int64())
            nulls.update(_fixed(pc.add(places, seen)))
            part = pc.fill_null(part, "" if pa.types.is_string(part.type) else _zero(part.type))
        seen += len(part)
        if not pa.types.is_string(part.type):
            values.update(_fixed(part))
        elif len(part):
            lengths.update(_fixed(pc.binary_length(part)))
            offsets = memoryview(part.buffers()[1]).cast("B").cast("i")
            data = part.buffers()[2] or b""
            values.update(memoryview(data)[offsets[part.offset] : offsets[part.offset + len(part)]])
    return values.digest() + lengths.digest() + nulls.digest()


def _zero(kind: pa.DataType) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(Decimal(0) if pa.types.is_decimal(kind) else 0, kind)


def _fixed(values: pa.Array) -> memoryview:
    """The bytes of an array of fixed width, without those around it."""
    width = values.type.bit_width // 8
    data = memoryview(values.buffers()[1] or b"").cast("B")
    return data[values.offset * width : (values.offset + len(values)) * width]


def _shown(engine: Engine) -> str:
    # Without the account: who mixes the places up has written a password there.
    return f"the source database {shown_url(engine.url, account=False)}"
