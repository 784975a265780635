"""Opens the engine that a project's settings name; it is imported only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retailmart.engines import Engine, Files
    from retailmart.project.settings import Settings


def open_engine(settings: Settings, places: Sequence[Files], scratch: Path) -> Engine:
    """The engine that the settings name. It reads and writes below `places` and `scratch`.

    For Spark it uses the existing session, or a new one. Raises SettingsError that names the
    missing package or Java, and how to install it.
    """
    if settings.engine == "spark":
        from retailmart.engines.spark.java import ensure_spark

        ensure_spark(settings.spark)
        from retailmart.engines.spark.engine import SparkEngine

        return SparkEngine(settings.spark, places, scratch)
    from retailmart.engines.duckdb import DuckDBEngine

    return DuckDBEngine(places, scratch, settings.memory_limit, settings.threads)


def has_workers(settings: Settings) -> bool:
    """Whether other machines also do the engine's work."""
    return settings.engine == "spark"


def parallel_from(settings: Settings) -> int | None:
    """The row count from which tasks read source tables; None if the engine has no tasks."""
    return settings.spark.rows_in_parallel if has_workers(settings) else None
