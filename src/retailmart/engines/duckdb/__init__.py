"""DuckDB in this process: the default engine, and the one that computes in every cluster task."""

from retailmart.engines.duckdb.engine import DuckDBEngine

__all__ = ["DuckDBEngine"]
