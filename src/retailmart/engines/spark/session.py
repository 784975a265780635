"""The Spark session an engine works in: the one that is there, or one of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException

from retailmart.errors import RetailmartError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from retailmart.project.settings import SparkSettings

_LONGEST = 500
_TRACEBACK = "Traceback (most recent call last):"
_LOGS_OF_ERRORS = ("SQLQueryContextLogger", "DataFrameQueryContextLogger")
_LOGGING = Path(__file__).with_name("log4j2.properties")
# What the same SQL means must not hang on a cluster's defaults.
MEANING = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    # Days that go from driver to workers as java.sql.Date are others where their zones differ.
    "spark.sql.datetime.java8API.enabled": "true",
    "spark.sql.caseSensitive": "false",
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.writeLegacyFormat": "false",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.adaptive.enabled": "true",
    # A table cut by month and store has many small files; a task reads some dozens of them.
    "spark.sql.files.openCostInBytes": "262144",
    # Tables are read by lists of files: a job of its own to look at each of them costs more.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
}
# For a session of our own on one machine: 200 parts of everything are made for a cluster.
_ON_ONE_MACHINE = {
    "spark.sql.shuffle.partitions": "8",
    "spark.driver.host": "127.0.0.1",
}
_OWN = {
    "spark.app.name": "retailmart",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}",
}


@contextmanager
def open_session(settings: SparkSettings) -> Iterator[SparkSession]:
    """The session that is there (as under spark-submit, on Glue, in a notebook), or a new one.

    Other users of the same Spark see nothing of it: views and settings are apart. A session that
    was made here is stopped in the end.
    """
    there = _active()
    if there is not None and not settings.remote:
        with _settings_of(there) as session:
            yield session
        return
    session = _new(settings)
    try:
        _set(session, MEANING)
        yield session
    finally:
        session.stop()


def _active() -> SparkSession | None:
    from pyspark.sql import SparkSession

    try:
        return SparkSession.getActiveSession()
    except PySparkException:  # a Connect client that has none says so by an error
        return None


@contextmanager
def _settings_of(session: SparkSession) -> Iterator[SparkSession]:
    """A session beside the given one; where that can't be had, the same with our settings."""
    try:
        beside = session.newSession()
    except (AttributeError, PySparkException):
        beside = session
    before = {key: beside.conf.get(key, None) for key in MEANING}
    _set(beside, MEANING)
    try:
        yield beside
    finally:
        for key, value in before.items():
            if value is None:
                beside.conf.unset(key)
            else:
                beside.conf.set(key, value)


def _new(settings: SparkSettings) -> SparkSession:
    from pyspark.sql import SparkSession

    _quieten()
    builder = SparkSession.builder
    given = {key: _text(value) for key, value in settings.conf.items()}
    try:
        if settings.remote:
            return _set(builder.remote(settings.remote).create(), given)
        defaults: dict[str, str] = {}
        # Under spark-submit all is said there; its launcher tells by this variable.
        if settings.master or "PYSPARK_GATEWAY_PORT" not in os.environ:
            master = settings.master or "local[*]"
            builder = builder.master(master)
            defaults = dict(_OWN)
            if master.startswith("local"):
                defaults |= _ON_ONE_MACHINE
                os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if python := given.get("spark.pyspark.python"):  # what only spark-submit looks at
            os.environ["PYSPARK_PYTHON"] = python
        for key, value in {**defaults, **given}.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()
    except Exception as error:
        place = settings.remote or settings.master or "the master that Spark is set up for"
        raise RetailmartError(
            f"Spark can't be reached at {place}: {first_words(error)}",
            "Start it, or correct `spark` in retailmart.yml; look closer with: retailmart doctor",
        ) from error


def _quieten() -> None:
    """Spark 4 also writes each error that it raises to stderr, with all its stacks, as JSON."""
    with suppress(ImportError):
        from pyspark.logger import PySparkLogger

        for name in _LOGS_OF_ERRORS:
            PySparkLogger.getLogger(name).disabled = True


def _set(session: SparkSession, settings: dict[str, str]) -> SparkSession:
    for key, value in settings.items():
        try:
            session.conf.set(key, value)
        except PySparkException as error:
            raise SettingsError(
                [f"spark: {key} can't be set to {value!r}: {first_words(error)}"],
                "Settings of a running Spark are given where it is started",
            ) from error
    return session


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def first_words(error: BaseException) -> str:
    """What an error of Spark's says, without the stacks it came through."""
    text = str(error)
    if _TRACEBACK in text:  # of a worker's Python: the last line that is not indented says why
        lines = text.rsplit(_TRACEBACK, maxsplit=1)[-1].splitlines()[1:]
        said = next((line for line in lines if line.strip() and not line.startswith(" ")), "")
        return said[:_LONGEST]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    said = causes[-1] if causes else next((line for line in lines if "[" in line), "")
    return (said or (lines[0] if lines else type(error).__name__))[:_LONGEST]
