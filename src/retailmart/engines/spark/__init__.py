"""Apache Spark as an engine: it schedules, retries and places tasks; DuckDB computes in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.engines import Engine, Files

if TYPE_CHECKING:
    from retailmart.project.settings import SparkSettings


def open_spark(settings: SparkSettings, places: Sequence[Files], scratch: Path) -> Engine:
    """An engine in the existing Spark session, or in a new one.

    Raises SettingsError that names the missing package or Java, and how to install it.
    """
    from retailmart.engines.spark.java import ensure_spark

    ensure_spark(settings)
    from retailmart.engines.spark.engine import SparkEngine

    return SparkEngine(settings, places, scratch)
