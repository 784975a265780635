"""Tables of the shop's own databases, read into Arrow with their types kept."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import Engine, inspect

from retailmart.database.dialect import dialect_of
from retailmart.database.told import told

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SourceTable:
    """A whole table; `digest` changes with any value in it. Rows are in key order."""

    name: str
    rows: pa.Table
    digest: str


def table_names(engine: Engine) -> frozenset[str]:
    """The tables and views a source offers."""
    with told(f"{_shown(engine)} cannot be read"):
        inspector = inspect(engine)
        return frozenset(inspector.get_table_names()) | frozenset(inspector.get_view_names())


def read_table(engine: Engine, name: str) -> SourceTable:
    """Read a whole table. Raises RetailmartError where a value is not of its column's type."""
    with told(f"source table {name!r} cannot be read"):
        rows = dialect_of(engine).read_table(engine, name)
    return SourceTable(name, rows, digest_of(rows))


def digest_of(rows: pa.Table) -> str:
    """A digest of schema and values, whatever pieces the values came in."""
    whole = hashlib.sha256(repr(rows.schema).encode())
    with ThreadPoolExecutor(2) as pool:
        for digest in pool.map(_column_digest, rows.columns):
            whole.update(digest)
    return whole.hexdigest()


def _column_digest(column: pa.ChunkedArray) -> bytes:
    """Values, lengths and places of NULLs apart: the same whatever pieces a column came in.

    What lies under a NULL differs from reader to reader, so it is set to nothing first.
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
    """The bytes of an array of fixed width, without what lies around it."""
    width = values.type.bit_width // 8
    data = memoryview(values.buffers()[1] or b"").cast("B")
    return data[values.offset * width : (values.offset + len(values)) * width]


def _shown(engine: Engine) -> str:
    return f"the source database {engine.url.render_as_string(hide_password=True)}"
