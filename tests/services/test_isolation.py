"""Isolated workers and counted drivers: what is apart is apart, and every byte is counted."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import retailmart
from tests.support.services.driver import CountedDriver, counted_driver
from tests.support.services.isolation import Namespace, isolated, need_namespaces
from tests.support.services.jobs import MARK
from tests.support.services.mariadb import Database
from tests.support.services.s3 import REGION, S3Bucket
from tests.support.services.spark import ISOLATED_WORKERS, Daemon, SparkCluster, environment

pytestmark = [pytest.mark.spark, pytest.mark.long]

ROOT = Path(__file__).parents[2]
MB = 1 << 20
SIZE = 6 * MB
# Heartbeats, metrics and messages about tasks, all of one small job.
SMALL = MB // 2


def command(job: str, *words: Any) -> list[str]:
    """How to start an application."""
    return [sys.executable, "-m", "tests.support.services.jobs", job, *map(json.dumps, words)]


def start(job: str, *words: Any) -> subprocess.Popen[str]:
    """Start an application beside this process."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(job, *words), env=environment(), stdout=pipe, stderr=pipe, text=True
    )


def result(application: subprocess.Popen[str]) -> Any:
    """What it printed, once it ended well."""
    output, errors = application.communicate(timeout=300)
    assert application.returncode == 0, errors[-3_000:]
    return json.loads(output)


def until(holds: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for a fact about other processes."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)


def begun(worker: Daemon, folder: str) -> set[str]:
    """Names of what tasks on a worker have begun."""
    return {path.name for path in worker.path(folder).glob("begun-*")}


def test_an_isolated_command_sees_what_is_kept(tmp_path: Path) -> None:
    """Of hidden folders only what is kept below them, read-only, and what the command needs."""
    need_namespaces()
    kept, private = tmp_path / "hidden" / "kept", tmp_path / "own" / "work"
    kept.mkdir(parents=True)
    (kept / "file").write_text("kept")
    (tmp_path / "hidden" / "other").touch()
    program = (
        "import json, pathlib, sys\n"
        "import retailmart, tests\n"
        "pathlib.Path('mine').touch()\n"
        "def names(folder): return sorted(path.name for path in pathlib.Path(folder).iterdir())\n"
        "def read_only():\n"
        "    try: pathlib.Path(sys.argv[2], 'new').touch()\n"
        "    except OSError as error: return error.strerror\n"
        "print(json.dumps([names(sys.argv[1]), names(sys.argv[2]), read_only(), names('.')]))"
    )
    done = subprocess.run(
        isolated(
            [sys.executable, "-c", program, str(tmp_path / "hidden"), str(kept)],
            hidden=[ROOT, tmp_path, tmp_path / "hidden"],
            private=[private],
            kept=[kept],
        ),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["kept"], ["file"], "Read-only file system", ["mine"]]
    assert not private.exists()


def test_workers_see_no_files_but_their_own(isolated_cluster: SparkCluster, tmp_path: Path) -> None:
    """Neither the tests' folders nor what a task elsewhere writes; the product and DuckDB work."""
    isolated_cluster.ensure()
    (tmp_path / f"{MARK}-outside").touch()
    base = isolated_cluster.folder.parent
    assert base in tmp_path.parents
    words = [[str(base)], str(ROOT / "tests"), ISOLATED_WORKERS]
    found = result(start("look", isolated_cluster.settings, *words))
    assert {each["worker"] for each in found} == {
        f"work-{worker.port}" for worker in isolated_cluster.alive
    }
    for each in found:
        assert each["seen"] == each["marks"]
        assert each["listed"] == [str(isolated_cluster.folder)]
        assert each["read_only"]
        assert each["duckdb"] == 42
        assert each["retailmart"] == retailmart.__file__


def test_nothing_is_left_of_a_killed_worker(isolated_cluster: SparkCluster) -> None:
    """Its executor and their Python end with it, its files too; others do its task again."""
    isolated_cluster.ensure()
    folder = f"/tmp/wait-{secrets.token_hex(4)}"
    application = start("wait", isolated_cluster.settings, folder, ISOLATED_WORKERS)
    try:
        victim, *others = isolated_cluster.alive
        until(lambda: all(begun(worker, folder) for worker in [victim, *others]))
        lost = begun(victim, folder)
        machine = victim.processes()
        local = isolated_cluster.folder / f"local-{victim.port}"
        assert len(machine) >= 4  # the worker, its executor, and two of Python
        assert any(victim.path(local).iterdir())
        victim.kill()
        assert victim.processes() == set()
        assert not any(Path(f"/proc/{process}/exe").exists() for process in machine)
        assert not local.exists()  # nor was it ever a folder of this machine
        assert isolated_cluster.alive == others
        for other in others:
            other.path(f"{folder}/open").touch()
        assert result(application) == list(range(ISOLATED_WORKERS))
        assert lost <= set().union(*(begun(other, folder) for other in others))
    finally:
        application.kill()
        application.communicate()
        isolated_cluster.ensure()
    assert len(isolated_cluster.alive) == ISOLATED_WORKERS


def test_nothing_is_left_of_isolated_workers_when_the_tests_are_killed(tmp_path: Path) -> None:
    """A worker in namespaces dies with the test process, like every service."""
    program = (
        "import pathlib, sys\n"
        "from tests.support.services.spark import SparkCluster\n"
        "cluster = SparkCluster(pathlib.Path(sys.argv[1]), 1, [])\n"
        "cluster.start()\n"
        "print(cluster.workers[0].namespace.name, flush=True)\n"
        "sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    around = environment()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=around, stdin=pipe, stdout=pipe
    ) as tests:
        assert tests.stdout
        worker = Namespace("pid", tests.stdout.readline().decode().strip())
        assert worker.processes()
        tests.kill()
    until(lambda: not worker.processes(), 10)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[CountedDriver]:
    """A driver whose traffic is counted."""
    with counted_driver(tmp_path) as driver:
        yield driver


def test_all_bytes_of_a_driver_are_counted(
    isolated_cluster: SparkCluster, driver: CountedDriver, bucket: S3Bucket, database: Database
) -> None:
    """Rows both ways, S3 and the database count; what tasks read and a small result do not."""
    isolated_cluster.ensure()
    bucket.put("object", os.urandom(SIZE))
    server = bucket.server
    client = {
        "region_name": REGION,
        "endpoint_url": server.endpoint,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
    }
    account = {
        "host": database.host,
        "port": database.port,
        "user": database.user,
        "password": database.password,
        "database": database.name,
    }
    settings = isolated_cluster.settings | driver.settings
    words = [SIZE, {"Bucket": bucket.name, "Key": "object"}, client, account]
    application = driver.start(command("move", settings, *words))
    assert application.stdin
    assert application.stdout
    assert application.stdout.readline() == "ready\n"

    def counted(move: str) -> tuple[int, int]:
        assert application.stdin
        assert application.stdout
        driver.reset()
        print(move, file=application.stdin, flush=True)
        answer = application.stdout.readline().strip()
        counts = driver.received, driver.sent
        assert answer == str(10 if move == "ten_rows" else SIZE)
        return counts

    much = range(SIZE, SIZE * 5 // 4)
    small = range(1, SMALL)
    expected = {
        "ten_rows": (small, small),
        "rows_to_driver": (much, small),
        "rows_from_driver": (small, much),
        "s3_in_driver": (much, small),
        "s3_in_task": (small, small),
        "database_in_driver": (much, small),
    }
    try:
        for move, (received, sent) in expected.items():
            counts = counted(move)
            assert counts[0] in received, (move, counts)
            assert counts[1] in sent, (move, counts)
        _, errors = application.communicate(timeout=60)
        assert application.returncode == 0, errors[-3_000:]
    finally:
        application.kill()
        application.communicate()


def test_a_driver_runs_commands_until_it_is_closed(tmp_path: Path) -> None:
    """A command's own loopback is not counted, the counts stay, and what still runs is killed."""
    talk = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "connection, _ = server.accept()\n"
        "client.sendall(bytes(100_000))\n"
        "client.close()\n"
        "print(len(connection.makefile('rb').read()))"
    )
    with counted_driver(tmp_path) as driver, counted_driver(tmp_path) as other:
        done = driver.run([sys.executable, "-c", talk])
        assert (done.returncode, done.stdout, done.stderr) == (0, "100000\n", "")
        assert driver.host != other.host
        assert (driver.received, driver.sent) < (10_000, 10_000)
        left = driver.start(["sleep", "infinity"])
        until(lambda: len(driver.processes()) == 1)
        counts = driver.received, driver.sent
        driver.close()
        assert left.wait(10) == -signal.SIGKILL
        left.communicate()
    assert driver.processes() == set()
    assert (driver.received, driver.sent) == counts
