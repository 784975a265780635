"""What `engine: spark` stands on, for the doctor."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.engines import open_engine
from retailmart.engines.spark.java import ensure_java, ensure_packages, needs_java
from retailmart.errors import RetailmartError
from retailmart.findings import Finding, Level, ok, problem

if TYPE_CHECKING:
    from retailmart.project.settings import Settings

_ROWS = 100


def examine_spark(settings: Settings, private: Path, *, asked: bool) -> Iterator[Finding]:
    """Packages and Java, and whether rows go to Spark's workers and come back.

    Nothing where the project works without Spark, unless that is asked for.
    """
    uses = settings.engine == "spark"
    if not (uses or asked):
        return
    remote = bool(settings.spark.remote)
    found = _told("spark: pyspark", lambda: ensure_packages(remote=remote))
    yield found
    if found.level is not Level.OK:
        return
    if needs_java(settings.spark):
        found = _told("spark: Java", ensure_java)
        yield found
    if (jar := settings.spark.jdbc_jar) is not None and found.level is Level.OK:
        found = _told("spark: JDBC", lambda: f"{_driver(settings)} in {jar}")
        yield found
    if uses and found.level is Level.OK:
        yield _rows(settings, private)


def _driver(settings: Settings) -> str | None:
    from retailmart.engines.spark.jdbc import driver_in

    return driver_in(settings.spark)


def _rows(settings: Settings, private: Path) -> Finding:
    """The way of all rows: written here and read by workers, written there and read here."""
    import pyarrow as pa

    check = "spark: rows"
    with _folder_below(private) as scratch, closing(open_engine(settings, [], scratch)) as engine:
        engine.define_rows("probe", pa.table({"n": range(_ROWS)}))
        written = engine.write("SELECT n FROM probe", scratch / "written", "probe", ())
        found = (file for file in written.files if (scratch / "written" / file.path).is_file())
        came = sum(file.rows for file in found)
    place = settings.spark.remote or settings.spark.master or "Spark"
    if came != _ROWS:
        return problem(
            check,
            f"what workers of {place} write is not found here: {came} of {_ROWS} rows",
            "Let `spark: exchange` in retailmart.yml name a folder that all of them see",
        )
    return ok(check, f"go to the workers of {place} and come back")


@contextmanager
def _folder_below(private: Path) -> Iterator[Path]:
    """A folder of the doctor's own; nothing of it is left, nor of a folder that was not there."""
    was_there = private.is_dir()
    folder = private / f"doctor-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not was_there:
            with suppress(OSError):  # a run has begun meanwhile
                private.rmdir()


def _told(check: str, ensure: Callable[[], str]) -> Finding:
    try:
        return ok(check, ensure())
    except RetailmartError as error:
        return problem(check, error.message, error.hint or "")
