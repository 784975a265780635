"""The Spark session that tasks run in: the existing one, or a new one."""

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
_ON_ONE_MACHINE = {"spark.driver.host": "127.0.0.1"}
_OWN = {
    "spark.app.name": "retailmart",
    "spark.python.daemon.module": "retailmart.engines.spark.daemon",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}",
}


@contextmanager
def open_session(settings: SparkSettings) -> Iterator[SparkSession]:
    """The existing session (as under spark-submit, on Glue, in a notebook), or a new one.

    An existing session is used unchanged. A session that was created here is stopped at the end.
    """
    there = _active()
    if there is not None and not settings.remote:
        yield there
        return
    session = _new(settings)
    try:
        yield session
    finally:
        session.stop()


def _active() -> SparkSession | None:
    from pyspark.sql import SparkSession

    try:
        return SparkSession.getActiveSession()
    except PySparkException:  # a Connect client without a session raises this
        return None


def _new(settings: SparkSettings) -> SparkSession:
    from pyspark.sql import SparkSession

    _quieten()
    builder = SparkSession.builder
    given = {key: _text(value) for key, value in settings.conf.items()}
    try:
        if settings.remote:
            return _set(builder.remote(settings.remote).create(), given)
        defaults: dict[str, str] = {}
        # Under spark-submit the launcher sets everything, and this variable shows its presence.
        if settings.master or "PYSPARK_GATEWAY_PORT" not in os.environ:
            master = settings.master or "local[*]"
            builder = builder.master(master)
            defaults = dict(_OWN)
            if master.startswith("local"):
                defaults |= _ON_ONE_MACHINE
                os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if python := given.get("spark.pyspark.python"):  # only spark-submit reads this setting
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
    """Stop Spark 4 from also writing each error with its stacks to stderr, as JSON."""
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
    """The message of a Spark error, without its stack traces."""
    text = str(error)
    if _TRACEBACK in text:  # from a worker's Python: the last line without indent gives the reason
        lines = text.rsplit(_TRACEBACK, maxsplit=1)[-1].splitlines()[1:]
        said = next((line for line in lines if line.strip() and not line.startswith(" ")), "")
        return said[:_LONGEST]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    said = causes[-1] if causes else next((line for line in lines if "[" in line), "")
    return (said or (lines[0] if lines else type(error).__name__))[:_LONGEST]
