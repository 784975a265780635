"""The user's functions over Arrow, for Spark's SQL."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from retailmart.project.functions import Function, Vectorised, guarded
from retailmart.project.types import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession


def register(session: SparkSession, function: Function, code: Vectorised) -> None:
    """Let a session's queries call a function, on whichever worker they run."""
    from pyspark.sql import functions as sf

    call = guarded(function, code, arrow_type(function.returns))
    travel_by_value(str(getattr(code, "__module__", "")))
    kind = str(function.returns)
    if hasattr(sf, "arrow_udf"):
        session.udf.register(function.name, sf.arrow_udf(call, kind))
        return
    takes = [arrow_type(parameter) for parameter in function.parameters]

    def with_pandas(*columns: Any) -> Any:
        import pyarrow as pa

        arrays = [
            pa.Array.from_pandas(column, type=kind)
            for column, kind in zip(columns, takes, strict=True)
        ]
        return call(*arrays).to_pandas()

    session.udf.register(function.name, sf.pandas_udf(with_pandas, kind))  # type: ignore[attr-defined]


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
