"""Apache Spark as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.engines import Engine, Fetch

if TYPE_CHECKING:
    from retailmart.project.settings import SparkSettings


def open_spark(
    settings: SparkSettings, readable: Sequence[Path], scratch: Path, fetch: Fetch | None
) -> Engine:
    """An engine in the session that is there, or in one of its own.

    SettingsError tells which package or Java is missing, and what installs it.
    """
    from retailmart.engines.spark.java import ensure_spark

    ensure_spark(settings)
    from retailmart.engines.spark.engine import SparkEngine

    return SparkEngine(settings, readable, scratch, fetch)
