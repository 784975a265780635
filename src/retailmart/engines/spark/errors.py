"""Spark's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException

import retailmart.errors
from retailmart.engines.spark.session import first_words
from retailmart.engines.spark.tasks import MEMORY_HINT
from retailmart.errors import EngineFailed, RetailmartError
from retailmart.shortages import shortage_in

_OUR_ERROR = re.compile(r"retailmart\.errors\.(\w+): ([^\n]*)(?:\n  ([^\n]*))?")

# What the machine lacks, as the JVM says it.
_OF_MACHINE = re.compile(r"java\.(?:io\.\w+Exception|lang\.OutOfMemoryError)[^\n]*")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate Spark's errors to ours."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise translated(str(error), error) from error


def translated(message: str, error: BaseException) -> RetailmartError:
    """Our error in the text of a Spark error, or a new one with that text."""
    if lacking := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", message):
        package = lacking[1].partition(".")[0]
        return EngineFailed(
            f"the Python of Spark's workers has no {package}",
            "Install retailmart there as here, or let PYSPARK_PYTHON name a Python that has it;"
            " docs/spark.md says how",
        )
    if own := _OUR_ERROR.search(message):
        kind = getattr(retailmart.errors, own[1], RetailmartError)
        if kind is not retailmart.errors.SettingsError and issubclass(kind, RetailmartError):
            found: RetailmartError = kind(own[2].strip(), own[3] and own[3].strip())
            return found
    if (words := _OF_MACHINE.search(message)) and (short := shortage_in(words[0])):
        return short
    if "Python worker exited unexpectedly" in message or "MemoryError" in message:
        return RetailmartError("a worker's Python was ended, as by too little memory", MEMORY_HINT)
    return EngineFailed(first_words(error))  # queries run in tasks, whose errors are ours
