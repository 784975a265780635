"""Runs work in Spark's tasks. The driver sees only descriptions and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from retailmart.engines import Files, VariableValue
from retailmart.engines.spark.errors import translate_errors
from retailmart.engines.spark.session import open_session
from retailmart.engines.spark.tasks import (
    RESULT,
    Context,
    Outcome,
    Tasks,
    packed,
    unpacked,
    version_of,
)
from retailmart.errors import RetailmartError
from retailmart.project.functions import Functions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from retailmart.project.settings import SparkSettings

# The packages whose versions must match for pickled work to mean the same.
_SAME = ("retailmart", "duckdb", "pyarrow")


class Jobs:
    """One run's tasks; a session is opened when the first one is needed.

    `retried` says whether any was tried more than once, as far as results tell.
    """

    def __init__(self, settings: SparkSettings, places: Sequence[Files], scratch: Path) -> None:
        self.retried = False
        self.functions = Functions()
        self.variables: dict[str, VariableValue] = {}
        self._settings = settings
        self._places = tuple(places)
        self._scratch = scratch
        self._stack = ExitStack()
        self._opening = Lock()

    @property
    def _session(self) -> SparkSession:
        with self._opening:
            return self._opened

    @cached_property
    def _opened(self) -> SparkSession:
        return self._stack.enter_context(open_session(self._settings))

    @cached_property
    def cores(self) -> int:
        """How many tasks run at once; a remote server shows it by how it splits a range."""
        session = self._session
        if not _is_remote(session):
            return max(int(session.sparkContext.defaultParallelism), 1)
        from pyspark.sql import functions as sf

        with translate_errors():
            parts = session.range(0, 1 << 20).select(sf.spark_partition_id().alias("part"))
            return max(parts.distinct().count(), 1)

    def run(self, work: Any, items: Sequence[Any]) -> list[Outcome]:
        """Run each item in its own task; returns what became of each, in their order."""
        session, count = self._session, len(items)
        tasks = Tasks(packed(work), tuple(map(packed, items)), packed(self._context()), _versions())
        rows: Iterable[Any]
        with translate_errors():
            if _is_remote(session):
                rows = session.range(0, count, 1, count).mapInArrow(tasks.batches, RESULT).collect()
            else:
                rows = session.sparkContext.parallelize(range(count), count).map(tasks).collect()
        outcomes: dict[int, Outcome] = {row[0]: unpacked(bytes(row[1])) for row in rows}
        if len(outcomes) != count:
            raise RetailmartError(f"Spark gave {len(outcomes)} results for {count} tasks")
        tried = any(outcome.attempt for outcome in outcomes.values())
        self.retried = self.retried or tried or self._speculates
        return [outcomes[number] for number in range(count)]

    def _context(self) -> Context:
        return Context(
            self._places,
            dict(self.variables),
            self.functions,
            (self._scratch,),
            self._settings.task_memory,
        )

    @cached_property
    def _speculates(self) -> bool:
        return str(self._session.conf.get("spark.speculation", "false")).lower() == "true"

    def interrupt(self) -> None:
        """Make the jobs that run now fail; another thread's call."""
        session = self.__dict__.get("_opened")
        if session is None:
            return
        if _is_remote(session):
            session.interruptAll()
        else:
            session.sparkContext.cancelAllJobs()

    def close(self) -> None:
        """Stop the session, if it was started here."""
        self._stack.close()


def _versions() -> Mapping[str, str]:
    return {package: version_of(package) for package in _SAME}


def _is_remote(session: SparkSession) -> bool:
    """Whether this is a Connect client, which can send only SQL plans."""
    return type(session).__module__.startswith("pyspark.sql.connect")
