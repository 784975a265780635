"""What a worker does: one item of a `spread`, with a DuckDB on the worker's machine.

Workers import this module; they need the driver's version of retailmart.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retailmart.engines import Files, VariableValue
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import EngineFailed, RetailmartError, Shortage, Unavailable
from retailmart.project.functions import Functions

if TYPE_CHECKING:
    import pyarrow as pa

RESULT = "number LONG, result BINARY"
MEMORY_HINT = (
    "Raise `spark: task_memory` in retailmart.yml, or give each worker fewer cores or more memory"
)
# The kind of a shortage for which another worker is no better: all have the same settings.
_MEMORY = "memory"
# Spark retries a failure that may pass on another worker; after that it is reported.
_TRIES = 2
_CACHE_BYTES = 8 << 30
# Memory that a task needs in addition to DuckDB's: Python, Arrow's buffers, clients.
_BESIDE_MB, _SHARE = 512, 0.6


@dataclass(frozen=True)
class Context:
    """What all tasks of an engine receive. It holds secrets, so it is never printed.

    `readable` are the driver's own folders. A worker that sees them may find copies there.
    """

    places: tuple[Files, ...]
    variables: Mapping[str, VariableValue]
    functions: Functions
    readable: tuple[Path, ...]
    memory: str | None

    def __repr__(self) -> str:
        return "Context(…)"


@dataclass(frozen=True, repr=False)
class Outcome:
    """The outcome of an item: a value, or an error of ours that a retry would not change.

    `attempt` counts the tries before this one.
    """

    value: Any
    error: RetailmartError | None
    attempt: int


@dataclass(frozen=True, repr=False)
class Tasks:
    """Called by Spark's workers with item numbers; everything is sent pickled and compressed.

    `versions` are the driver's. A worker with other versions does not even unpack an item.
    """

    work: bytes
    items: tuple[bytes, ...]
    context: bytes
    versions: Mapping[str, str]

    def __call__(self, number: int) -> tuple[int, bytes]:
        """An item's number, and its pickled `Outcome`."""
        return number, packed(self._outcome(number))

    def batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same for numbers in record batches: one row for each item."""
        import pyarrow as pa

        for batch in batches:
            for item in batch.column(0).to_pylist():
                number, result = self(item)
                arrays = [pa.array([number], pa.int64()), pa.array([result], pa.binary())]
                yield pa.RecordBatch.from_arrays(arrays, ["number", "result"])

    def _outcome(self, number: int) -> Outcome:
        from pyspark import TaskContext

        task = TaskContext.get()
        assert task is not None  # noqa: S101 - only workers call this
        attempt = int(task.attemptNumber())
        try:
            self._check_versions()
            name = f"t{number:05d}x{task.taskAttemptId():d}-"
            return Outcome(self._work(number, name, int(task.cpus())), None, attempt)
        except RetailmartError as error:
            if _may_pass(error) and attempt + 1 < _TRIES:
                raise
            return Outcome(None, _with_hint(error), attempt)

    def _check_versions(self) -> None:
        for package, wanted in self.versions.items():
            if (here := version_of(package)) != wanted:
                raise EngineFailed(
                    f"a worker of Spark's has {package} {here}, the driver {wanted}",
                    "Install the same versions on all workers, as docs/spark.md says",
                )

    def _work(self, number: int, name: str, cores: int) -> Any:
        context: Context = unpacked(self.context)
        work, item = unpacked(self.work), unpacked(self.items[number])
        folder = worker_folder(context.places)
        engine = DuckDBEngine(
            [place.on(folder / "lake") for place in context.places],
            folder,
            context.memory or memory_limit(cores),
            cores,
            attempt=name,
            readable=context.readable,
        )
        with closing(engine):
            engine.add_functions(context.functions)
            engine.set_variables(context.variables)
            try:
                value = work(engine, item)
                engine.writer.send()
            except BaseException:
                engine.writer.discard_all()
                raise
        keep_within(folder, _CACHE_BYTES)
        return value


def packed(value: object) -> bytes:
    """Pickle and compress a value to send between machines."""
    return zlib.compress(pickle.dumps(value), 1)


def unpacked(text: bytes) -> Any:
    """Restore a value from `packed`. Driver and workers trust each other, as Spark's own do."""
    return pickle.loads(zlib.decompress(text))  # noqa: S301


@cache
def version_of(package: str) -> str:
    """A package's version, or a text that says why there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not at all"


def worker_folder(places: Sequence[Files]) -> Path:
    """This machine's folder for a project's tasks; it caches fetched files."""
    base = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or tempfile.gettempdir()
    key = hashlib.sha256(repr([str(place) for place in places]).encode()).hexdigest()[:12]
    folder = Path(base) / f"retailmart-{os.getuid()}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def memory_limit(cores: int) -> str:
    """The memory for a task's DuckDB: part of Spark's grant for Python, or of the machine."""
    granted = int(os.environ.get("PYSPARK_EXECUTOR_MEMORY_MB", "0"))
    if granted > 0:
        return f"{max(granted - _BESIDE_MB, granted // 2)}MiB"
    share = cores / max(os.cpu_count() or 1, cores)
    return f"{int(_machine_mb() * share * _SHARE)}MiB"


def _machine_mb() -> int:
    """The machine's memory in MB, or its container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            limits.append(int(Path(path).read_text()))
    return min(limits) >> 20


def keep_within(folder: Path, limit: int) -> None:
    """Remove the least recently used files of a folder that has grown beyond its limit."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda item: item[0]):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def _may_pass(error: RetailmartError) -> bool:
    """Whether a retry on another machine may succeed."""
    if isinstance(error, Shortage):
        return error.kind != _MEMORY
    return isinstance(error, Unavailable) or "IO Error" in error.message


def _with_hint(error: RetailmartError) -> RetailmartError:
    if isinstance(error, Shortage) and error.kind == _MEMORY:
        return Shortage(_MEMORY, error.message, MEMORY_HINT)
    return error
