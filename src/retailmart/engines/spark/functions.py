"""The user's functions over Arrow, for Spark's SQL."""

from __future__ import annotations

import sys
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from retailmart.project.functions import Function, Vectorised, guarded
from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession


def register(session: SparkSession, function: Function, code: Vectorised) -> None:
    """Let a session's queries call a function, on whichever worker they run."""
    from pyspark.sql import functions as sf

    guard = guarded(function, code, arrow_type(function.returns))
    takes = [arrow_type(parameter) for parameter in function.parameters]
    travel_by_value(str(getattr(code, "__module__", "")))

    def call(*arguments: pa.Array) -> pa.Array:
        import pyarrow as pa

        # As DuckDB hands it to a function: of the declared types, and in chunks.
        given = zip(arguments, takes, strict=True)
        result = guard(*(pa.chunked_array([one.cast(kind)]) for one, kind in given))
        return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result

    def with_pandas(*columns: Any) -> Any:
        import pyarrow as pa

        typed = zip(columns, takes, strict=True)
        return call(
            *(pa.Array.from_pandas(column, type=kind) for column, kind in typed)
        ).to_pandas()

    made: Any
    if hasattr(sf, "arrow_udf"):
        made = sf.arrow_udf(_shaped(call, function), str(function.returns))
    else:  # before 4.1, functions are handed pandas only
        made = sf.pandas_udf(_shaped(with_pandas, function), str(function.returns))  # type: ignore[attr-defined]
    session.udf.register(function.name, made)


def _shaped(call: Vectorised, function: Function) -> Vectorised:
    """The same, showing its parameters: Spark counts them, and takes annotations for its own."""
    shown = [Parameter(f"p{n}", Parameter.POSITIONAL_ONLY) for n in range(len(function.parameters))]
    call.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def travel_by_value(name: str) -> None:
    """Let a module's code go to the workers: they have neither the project's folder nor, it may be,
    this package.
    """
    from pyspark import cloudpickle

    if (module := sys.modules.get(name)) is not None:
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]


def arrow_type(kind: ColumnType) -> pa.DataType:
    """Arrow's type of a column, as engines hand it to functions."""
    import pyarrow as pa

    if kind.is_decimal:
        return pa.decimal128(kind.precision, kind.scale)
    return {
        "INT": pa.int32(),
        "BIGINT": pa.int64(),
        "STRING": pa.string(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
        "BOOLEAN": pa.bool_(),
        "DOUBLE": pa.float64(),
    }[kind.name]
