"""Checks for the doctor what `engine: spark` needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from retailmart.check_results import CheckResult, Level, ok, problem
from retailmart.engines.spark.java import ensure_java, ensure_packages, needs_java
from retailmart.errors import RetailmartError

if TYPE_CHECKING:
    from retailmart.project.settings import SparkSettings


def examine_spark(settings: SparkSettings) -> Iterator[CheckResult]:
    """Check packages and Java on this machine."""
    packages = _checked("spark: pyspark", lambda: _packages(remote=bool(settings.remote)))
    yield packages
    # Without pyspark, nothing knows whether a Java is needed.
    if packages.level is Level.OK and needs_java(settings):
        yield _checked("spark: Java", ensure_java)


def _packages(*, remote: bool) -> str:
    found = f"pyspark {ensure_packages(remote=remote)}"
    others = (f"{name} {version(name)}" for name in ("duckdb", "pyarrow", "pandas"))
    return ", ".join([found, *others])


def _checked(check: str, ensure: Callable[[], str]) -> CheckResult:
    try:
        return ok(check, ensure())
    except RetailmartError as error:
        return problem(check, error.message, error.hint or "")
