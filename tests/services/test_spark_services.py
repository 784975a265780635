"""Apache Spark's services themselves: they compute, a part of them dies, and nothing is left."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.services.spark import WORKERS, SparkCluster, SparkConnect, environment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.long]

# An application: connects, counts rows by group in Python workers, prints what came out as JSON.
# Each task tells the executor it runs in by a file; a group past the gate waits until it is open.
APPLICATION = """
import json, os, sys, time
from pathlib import Path
from pyspark.sql import SparkSession
from pyspark.sql.functions import udf

settings, folder, gate = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
builder = SparkSession.builder
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()

@udf("long")
def grouped(number):
    import retailmart, tests
    group = number // 100
    worker = Path.cwd().parts[-3]
    (folder / f"{worker}.{group}").touch()
    while group >= gate and not (folder / "open").exists():
        time.sleep(0.01)
    return group

rows = spark.range(0, 2_000, 1, 20).select(grouped("id").alias("g"), "id")
sums = rows.groupBy("g").sum("id").orderBy("g").collect()
print(json.dumps([list(row) for row in sums]))
"""
GROUPS = 20
RIGHT = [[group, sum(range(group * 100, group * 100 + 100))] for group in range(GROUPS)]


def start(cluster: SparkCluster, folder: Path, gate: int = GROUPS) -> subprocess.Popen[str]:
    """Start the application as a process of its own, as every user of a cluster does."""
    folder.mkdir()
    words = [json.dumps(cluster.settings), str(folder), str(gate)]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-c", APPLICATION, *words],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def result(application: subprocess.Popen[str], folder: Path) -> list[list[int]]:
    """What it printed, once it ended well."""
    said, _ = application.communicate(timeout=180)
    assert application.returncode == 0, (folder / "log").read_text()[-3_000:]
    sums: list[list[int]] = json.loads(said)
    return sums


def seen(folder: Path) -> dict[str, set[int]]:
    """The groups that each worker has begun, by the name of the worker's folder."""
    found: dict[str, set[int]] = {}
    for path in folder.glob("work-*"):
        worker, _, group = path.name.partition(".")
        found.setdefault(worker, set()).add(int(group))
    return found


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a fact about other processes."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def members(sessions: set[int]) -> dict[int, int]:
    """Everything that runs in some of the kernel's sessions: process → a handle on it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            handle = os.pidfd_open(int(path.parent.name))
            session = int(path.read_text().rpartition(")")[2].split()[3])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session in sessions:
            found[int(path.parent.name)] = handle
        else:
            os.close(handle)
    return found


def until_gone(handles: dict[int, int], seconds: float = 30) -> None:
    """Wait for the end of processes; those that live on are named, and ended."""
    end = time.monotonic() + seconds
    left = []
    for process, handle in handles.items():
        if not select.select([handle], [], [], max(0.0, end - time.monotonic()))[0]:
            left.append(Path(f"/proc/{process}/cmdline").read_text().replace("\0", " "))
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    assert left == []


def test_a_query_runs_on_both_workers(spark_cluster: SparkCluster, tmp_path: Path) -> None:
    """An executor on each does a share; Python there imports the product and the tests."""
    spark_cluster.ensure()
    folder = tmp_path / "app"
    assert result(start(spark_cluster, folder), folder) == RIGHT
    assert set(seen(folder)) == {f"work-{worker.port}" for worker in spark_cluster.alive}
    assert len(seen(folder)) == WORKERS


def test_a_query_survives_the_death_of_a_worker(
    spark_cluster: SparkCluster, tmp_path: Path
) -> None:
    """What a dead worker had done and was doing is done again elsewhere; the result is right."""
    spark_cluster.ensure()
    folder, gate = tmp_path / "app", 8
    application = start(spark_cluster, folder, gate)
    try:
        # Both hold a task that waits, and have groups behind them that only they have.
        until(lambda: sum(max(groups) >= gate for groups in seen(folder).values()) == WORKERS)
        victim, survivor = spark_cluster.alive
        before = seen(folder)
        lost = before[f"work-{victim.port}"]
        assert min(lost) < gate
        machine = members({victim.process.pid})
        victim.kill()
        until_gone(machine)
        (folder / "open").touch()
        assert result(application, folder) == RIGHT
        assert seen(folder)[f"work-{survivor.port}"] == set(range(GROUPS))
        assert not lost & before[f"work-{survivor.port}"]
        assert len(machine) >= 4  # the worker, its executor, and Python of that
    finally:
        application.kill()
        application.communicate()
        spark_cluster.ensure()


def test_a_connect_server_answers(
    spark_connect: SparkConnect, spark_session: SparkSession, tmp_path: Path
) -> None:
    """Several clients at once, and beside a classic session; each has settings of its own."""
    from pyspark.sql.connect.session import SparkSession as RemoteSession

    clients = [RemoteSession.builder.remote(spark_connect.remote).create() for _ in range(2)]
    try:
        clients[0].sql("SET spark.sql.session.timeZone=Asia/Tokyo")
        zones = [client.sql("SELECT current_timezone()").first() for client in clients]
        assert [zone and zone[0] for zone in zones] == ["Asia/Tokyo", "UTC"]
        clients[1].sql("SELECT id FROM range(10)").write.parquet(str(tmp_path / "ten"))
    finally:
        for client in clients:
            client.stop()
    assert spark_session.read.parquet(str(tmp_path / "ten")).count() == 10


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    """Master, workers, executors, drivers and their Python workers die with the test process."""
    program = (
        "import sys, pathlib\n"
        "from tests.support.services.spark import SparkCluster, SparkConnect, environment\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "cluster = SparkCluster(folder)\n"
        "cluster.start()\n"
        "print(*(daemon.process.pid for daemon in cluster.daemons), flush=True)\n"
        f"sys.argv[1:] = [__import__('json').dumps(cluster.settings), sys.argv[2], '0']\n"
        f"exec({APPLICATION!r})"
    )
    folder = tmp_path / "app"
    folder.mkdir()
    with (folder / "log").open("w") as log:
        tests = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(folder)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        assert tests.stdout
        daemons = {int(pid) for pid in tests.stdout.readline().split()}
        assert len(daemons) == 1 + WORKERS, (folder / "log").read_text()[-3_000:]
        until(lambda: len(seen(folder)) == WORKERS)  # Python works on each worker
        all_of_it = members({tests.pid, *daemons})
    finally:
        tests.kill()
        tests.communicate()
    until_gone(all_of_it)
    assert len(all_of_it) >= 1 + 1 + 1 + WORKERS * 4
