"""Spark applications for the tests of isolated workers and counted drivers.

`python -m tests.support.services.jobs JOB WORDS`, with the words as JSON: settings of the
session, then what the job takes. It prints its result as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

# Each task leaves one of these wherever it can, and looks for those of the others.
MARK = "mark"


def in_tasks(
    spark: SparkSession, work: Callable[[int], Any], count: int, *, at_once: bool = False
) -> list[Any]:
    """What `work` returns for 0, 1, 2, …, each computed in a task; `at_once`: on a core each."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            results = [json.dumps(work(number)) for number in batch.column(0).to_pylist()]
            yield pa.RecordBatch.from_pydict({"result": results})

    rows = spark.range(0, count, 1, count).mapInArrow(task, "result string", at_once).collect()
    return [json.loads(row.result) for row in rows]


def look(spark: SparkSession, folders: list[str], source: str, count: int) -> list[dict[str, Any]]:
    """What tasks on `count` workers see of each other's files, and whether they can compute."""

    def work(number: int) -> dict[str, Any]:
        import duckdb
        from pyspark import BarrierTaskContext

        import retailmart

        own = [Path.cwd(), Path(os.environ["SPARK_LOCAL_DIRS"].split(",")[0])]
        marks = [each / f"{MARK}-{number}" for each in [*own, Path("/tmp"), Path("/dev/shm")]]
        for mark in marks:
            mark.touch()
        read_only = False
        try:
            Path(source, f"{MARK}-{number}").touch()
        except OSError:
            read_only = True
        BarrierTaskContext.get().barrier()
        views = [Path("/"), *Path("/proc").glob("[0-9]*/root")]  # also by way of other processes
        seen = {
            str(path.relative_to(view))
            for view in views
            for folder in [*folders, "/tmp", "/dev/shm"]
            for path in (view / folder.lstrip("/")).rglob(f"{MARK}*")
        }
        BarrierTaskContext.get().barrier()
        computed = duckdb.connect().sql("SELECT 6 * 7")
        assert computed is not None
        return {
            "worker": Path.cwd().parts[-3],
            "marks": sorted(str(mark.relative_to("/")) for mark in marks),
            "seen": sorted(seen),
            "listed": sorted(str(path) for folder in folders for path in Path(folder).iterdir()),
            "read_only": read_only,
            "duckdb": computed.fetchall()[0][0],
            "retailmart": retailmart.__file__,
        }

    return in_tasks(spark, work, count, at_once=True)


def wait(spark: SparkSession, folder: str, count: int) -> list[int]:
    """Numbers whose tasks touch `begun-NUMBER` in a folder, and end when it contains `open`."""

    def work(number: int) -> int:
        Path(folder).mkdir(exist_ok=True)
        Path(folder, f"begun-{number}").touch()
        while not Path(folder, "open").exists():
            time.sleep(0.02)
        return number

    return in_tasks(spark, work, count)


class Move:
    """Ways of some bytes, each named by a line of the input; a line of the output ends it."""

    def __init__(
        self,
        spark: SparkSession,
        size: int,
        object_: dict[str, str],
        client: dict[str, Any],
        database: dict[str, Any],
    ) -> None:
        self._spark = spark
        self._size = size
        self._object = object_
        self._client = client
        self._database = database

    def ten_rows(self) -> int:
        """A job with a small result."""
        return len(in_tasks(self._spark, str, 10))

    def rows_to_driver(self) -> int:
        """Three tasks' results, too large to come with the message that a task is done."""
        size = self._size // 3

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow as pa

            for batch in batches:
                for _ in range(batch.num_rows):
                    yield pa.RecordBatch.from_pydict({"bytes": [os.urandom(size)]})

        rows = self._spark.range(0, 3, 1, 3).mapInArrow(task, "bytes binary").collect()
        return sum(len(row.bytes) for row in rows)

    def rows_from_driver(self) -> int:
        """A value that a task takes from the driver."""
        value = self._spark.sparkContext.broadcast(os.urandom(self._size))
        (length,) = in_tasks(self._spark, lambda _: len(value.value), 1)
        return int(length)

    def s3_in_driver(self) -> int:
        """An object read here."""
        return _read(self._client, self._object)

    def s3_in_task(self) -> int:
        """An object read by a task."""
        client, object_ = self._client, self._object
        (length,) = in_tasks(self._spark, lambda _: _read(client, object_), 1)
        return int(length)

    def database_in_driver(self) -> int:
        """A value that the database sends here."""
        import pymysql

        with pymysql.connect(**self._database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT REPEAT('x', %s)", (self._size,))
            row = cursor.fetchone()
        assert row is not None
        return len(row[0])


def move(spark: SparkSession, *words: Any) -> None:
    """Answer each line of the input, the name of a method of `Move`, with what this returns."""
    moves = Move(spark, *words)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(getattr(moves, line.strip())()), flush=True)


def _read(client: dict[str, Any], object_: dict[str, str]) -> int:
    import botocore.session

    s3 = botocore.session.Session().create_client("s3", **client)
    try:
        return len(s3.get_object(**object_)["Body"].read())
    finally:
        s3.close()


def _main() -> None:
    from pyspark.sql import SparkSession

    job, settings, *words = sys.argv[1], *map(json.loads, sys.argv[2:])
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    jobs: dict[str, Callable[..., Any]] = {"look": look, "wait": wait, "move": move}
    print(json.dumps(jobs[job](builder.getOrCreate(), *words)))


if __name__ == "__main__":
    _main()
