"""Apache Spark for tests: a session in this process, clusters, a Connect server.

A process has room for one classic session, and that is `spark_session`: what shall run on the
cluster runs in another process, with `environment()` and the cluster's `settings`. The workers of
`spark_cluster` share this machine's folders, as on a network drive; those of `isolated_cluster`
share nothing but the network.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retailmart.engines.spark.java import ensure_java
from retailmart.errors import SettingsError
from tests.support.services.debian import install
from tests.support.services.isolation import Namespace, isolated, need_namespaces
from tests.support.services.process import HOST, NotStarted, free_port, spawn, wait_until_ready

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[3]
WORKERS = 2
ISOLATED_WORKERS = 2
# For what does little: one thread to collect garbage, no time spent on compiling.
_SMALL_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# Enough for tests, and little enough to stand beside other services.
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "1g",
    "spark.driver.host": HOST,
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
}
_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"
_CONNECT = "org.apache.spark.sql.connect.service.SparkConnectServer"
_DAEMON = (
    "-Dspark.port.maxRetries=0"  # on another port than the one asked for nobody would find it
    " -Dspark.master.rest.enabled=false"  # it would want a port that all clusters share
)
_OF_JAVA = ("spark.driver.defaultJavaOptions", "spark.executor.defaultJavaOptions")
_FOREIGN = ("SPARK_", "PYSPARK_")
_TRIES = 5


def spark_home() -> Path:
    """Where the installed pyspark keeps its programs and jars."""
    spec = find_spec("pyspark")
    assert spec is not None, "pyspark is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def need_java() -> None:
    """Install a Java if this machine has none; fail with the fix where that can't be done."""
    failure = install("openjdk-17-jre-headless", lambda: shutil.which("java") is not None)
    if failure:
        pytest.fail(failure, pytrace=False)
    try:
        ensure_java()
    except SettingsError as error:
        pytest.fail(f"{error}", pytrace=False)


def _java_home() -> Path:
    java = shutil.which("java")
    assert java is not None
    return Path(java).resolve().parents[1]


def java_options() -> str:
    """What every Java of Spark's is started with: it does little, and its start is most of that."""
    return f"{_SMALL_JVM} -Xlog:disable -XX:SharedArchiveFile={_class_archive()}"


def conf_options(settings: Mapping[str, str]) -> list[str]:
    """Settings as options of spark-submit, with those for Java."""
    of_java = dict.fromkeys(_OF_JAVA, java_options())
    return [f"--conf={key}={value}" for key, value in {**of_java, **settings}.items()]


@cache
def _class_archive() -> Path:
    """The classes of Spark as Java keeps them in memory: they halve the time of a start.

    They are archived once a machine, which takes a start. A Java before 13 can't, and does without.
    """
    java = Path(shutil.which("java") or "java").resolve()
    known = f"{spark_home()} {version('pyspark')} {java} {_SMALL_JVM}"
    key = hashlib.sha256(known.encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"retailmart-tests-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    archive = folder / "spark.jsa"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of the tests want it, too
        if not archive.exists():
            unfinished = folder / "unfinished.jsa"
            unfinished.unlink(missing_ok=True)
            options = f"{_SMALL_JVM} -Xlog:disable -XX:ArchiveClassesAtExit={unfinished}"
            command = [sys.executable, "-W", "ignore", "-m", __name__, options]
            around = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
            subprocess.run(command, env=around | _own(), check=True, capture_output=True)
            if unfinished.exists():
                unfinished.rename(archive)
            else:
                archive.touch()
    return archive


def _archive_classes(options: str) -> None:
    """A session that runs a task and ends; by these options Java archives what it has loaded."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]")
    for key, value in {**SETTINGS, "spark.driver.defaultJavaOptions": options}.items():
        builder = builder.config(key, value)
    builder.getOrCreate().sparkContext.parallelize([1]).map(abs).collect()
    _end_java(seconds=600)  # it writes the archive when it ends


def environment() -> dict[str, str]:
    """The environment of a process that starts Spark, or runs a part of it.

    What a machine's own Spark is told does not reach the tests; Python workers are this very
    interpreter, and can import what tests define.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)} | _with_java()


def _with_java() -> dict[str, str]:
    if shutil.which("java") is None:  # as where tests of Spark are left out
        return _own()
    options = shlex.join([*conf_options({}), "pyspark-shell"])
    return {**_own(), "PYSPARK_SUBMIT_ARGS": options, "SPARK_LAUNCHER_OPTS": _SMALL_JVM}


def _own() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": os.devnull,
        "SPARK_LOCAL_IP": HOST,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


@dataclass(frozen=True)
class Daemon:
    """A part of Spark: its process, and whatever that has started.

    `namespace` has all processes of an isolated worker: executors, and their Python workers too.
    """

    process: subprocess.Popen[bytes]
    port: int
    namespace: Namespace | None = None

    @property
    def localhost(self) -> str:
        """The address of the name `localhost` on an isolated worker; no other one has it."""
        return _localhost(self.port)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, a worker's executors with it: as when their machine is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.namespace:
            self.namespace.kill()

    def processes(self) -> set[int]:
        """What runs on an isolated worker; empty once it is killed."""
        assert self.namespace is not None, "the worker is not isolated"
        return self.namespace.processes()

    def path(self, inside: str | Path) -> Path:
        """Where this process finds a file that an isolated worker sees at an absolute path."""
        assert self.namespace is not None, "the worker is not isolated"
        assert self.running, "the worker is gone, and its files are too"
        # The process of ours is outside; its one child is the first process of the namespace.
        outside = self.process.pid
        first = Path(f"/proc/{outside}/task/{outside}/children").read_text().strip()
        return Path(f"/proc/{first}/root") / str(inside).lstrip("/")


class SparkCluster:
    """A standalone cluster on loopback: a master, and workers with one core and 1 GB each.

    With `hidden`, each worker is like another machine (see `isolated`): it sees neither these
    folders and those for temporary files, nor what other workers write; it sees the interpreter,
    Java and the sources of product and tests, and can write to folders in memory only.
    """

    def __init__(
        self, folder: Path, size: int = WORKERS, hidden: Iterable[Path] | None = None
    ) -> None:
        self.folder = folder
        self.size = size
        self.hidden = None if hidden is None else (*hidden, folder)
        self.workers: list[Daemon] = []
        self._ui = 0
        self._master: Daemon | None = None

    @property
    def url(self) -> str:
        """`spark://127.0.0.1:port`, for `spark.master`."""
        assert self._master is not None, "the cluster is not running"
        return f"spark://{HOST}:{self._master.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What an application of the cluster sets; it then has an executor on each worker."""
        return SETTINGS | {
            "spark.master": self.url,
            "spark.executor.memory": "512m",
            # Work begins when all executors are there, so that it is shared however small it is.
            "spark.cores.max": str(len(self.alive)),
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        }

    @property
    def alive(self) -> list[Daemon]:
        """The workers that are running."""
        return [worker for worker in self.workers if worker.running]

    @property
    def daemons(self) -> list[Daemon]:
        """The master, and the workers that are running."""
        return [*filter(None, [self._master]), *self.alive]

    def start(self) -> None:
        """Start the master, then as many workers as there should be."""
        need_java()
        if self.hidden is not None:
            need_namespaces()
        self._master = _start(self._start_master)
        self.ensure()

    def add_worker(self) -> Daemon:
        """Start one more worker; the master knows it when this returns."""
        worker = _start(self._start_worker)
        self.workers.append(worker)
        return worker

    def ensure(self) -> None:
        """Bring the workers back that a test has killed."""
        missing = self.size - len(self.alive)
        with ThreadPoolExecutor(max(missing, 1)) as pool:
            for started in [pool.submit(self.add_worker) for _ in range(missing)]:
                started.result()

    def close(self) -> None:
        """Kill everything."""
        for daemon in self.daemons:
            daemon.kill()

    def _start_master(self, port: int) -> Daemon:
        self._ui = free_port()
        # fmt: off
        options = ["--host", HOST, "--port", str(port), "--webui-port", str(self._ui)]
        # fmt: on
        return self._daemon(_MASTER, port, options, lambda: self._state() is not None)

    def _start_worker(self, port: int) -> Daemon:
        work = self.folder / f"work-{port}"
        # fmt: off
        options = [
            "--host", HOST, "--port", str(port), "--webui-port", "0", "--cores", "1",
            "--memory", "1g", "--work-dir", str(work), self.url,
        ]
        # fmt: on
        ready = partial(self._knows, port)
        if self.hidden is None:
            return self._daemon(_WORKER, port, options, ready)
        worker = self._daemon(_WORKER, port, options, ready, (work, self._local(port)))
        return replace(worker, namespace=Namespace.of(worker.process.pid, "pid_for_children"))

    def _daemon(
        self,
        name: str,
        port: int,
        options: list[str],
        ready: Callable[[], bool],
        private: Iterable[Path] = (),
    ) -> Daemon:
        kind = name.rpartition(".")[2].lower()
        around = environment() | {
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": f"{java_options()} {_DAEMON}",
            "SPARK_LOCAL_DIRS": str(self._local(port)),
        }
        command = [str(spark_home() / "bin" / "spark-class"), name, *options]
        if private:
            assert self.hidden is not None
            kept = (spark_home(), _java_home(), _class_archive().parent)
            command = isolated(
                command, hidden=self.hidden, private=private, kept=kept, localhost=_localhost(port)
            )
        log = self.folder / f"{kind}-{port}.log"
        return _daemon(command, around, port, log, ready)

    def _local(self, port: int) -> Path:
        return self.folder / f"local-{port}"

    def _knows(self, port: int) -> bool:
        """Whether the master counts on the worker at a port."""
        state = self._state() or {"workers": []}
        return any(each["port"] == port and each["state"] == "ALIVE" for each in state["workers"])

    def _state(self) -> dict[str, Any] | None:
        """What the master tells of itself, if it answers."""
        connection = HTTPConnection(HOST, self._ui, timeout=10)
        try:
            connection.request("GET", "/json/")
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == 200 else None
        except (OSError, HTTPException, ValueError):  # while it starts it answers with any page
            return None
        finally:
            connection.close()


class SparkConnect:
    """A Connect server: a Spark of its own, here or on a cluster, that clients reach by gRPC."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self._settings = SETTINGS | {"spark.master": "local[2]"} | (settings or {})
        self._server: Daemon | None = None

    @property
    def remote(self) -> str:
        """`sc://127.0.0.1:port`, for `spark.remote`."""
        assert self._server is not None, "the server is not running"
        return f"sc://{HOST}:{self._server.port}"

    def start(self) -> None:
        """Start the server; it answers when this returns."""
        if not list((spark_home() / "jars").glob("spark-connect_*.jar")):
            pytest.skip("no Connect server: pyspark brings its jar since 4.0 only")
        need_java()
        self._server = _start(self._start_server)

    def close(self) -> None:
        """Kill it, and its executors with it."""
        if self._server is not None:
            self._server.kill()

    def _start_server(self, port: int) -> Daemon:
        settings = self._settings | {
            "spark.connect.grpc.binding.address": HOST,
            "spark.connect.grpc.binding.port": str(port),
            "spark.connect.grpc.port.maxRetries": "0",
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.local.dir": str(self.folder / "local"),
        }
        command = [str(spark_home() / "bin" / "spark-submit"), "--class", _CONNECT]
        command += conf_options(settings)
        log = self.folder / f"connect-{port}.log"
        return _daemon(command, environment(), port, log, lambda: _listens(port))


def fake_java(home: Path, version: str, *, cut_down: bool = False) -> Path:
    """A program that says it is a Java of some version; the folder is for JAVA_HOME."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    refuse = 'case "$*" in *--add-modules*) exit 1;; esac' if cut_down else ""
    program.write_text(f"#!/bin/sh\n{refuse}\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return home


def _daemon(
    command: list[str], around: dict[str, str], port: int, log: Path, ready: Callable[[], bool]
) -> Daemon:
    daemon = Daemon(spawn(command, log, folder=log.parent, environment=around), port)
    try:
        wait_until_ready(daemon.process, ready, log, seconds=120)
    except BaseException:
        daemon.kill()
        raise
    return daemon


def _localhost(port: int) -> str:
    return f"127.1.{port >> 8}.{port & 255}"


def _start(start: Callable[[int], Daemon]) -> Daemon:
    """Start something on a free port, on another one where somebody was faster."""
    for left in reversed(range(_TRIES)):
        try:
            return start(free_port())
        except NotStarted as error:
            if not (left and "BindException" in str(error)):
                raise
    raise AssertionError


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture(scope="session")
def spark_environment() -> Iterator[None]:
    """This process as `environment()` says, so that a session in it has the same workers."""
    need_java()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
            patch.delenv(name)
        for name, value in _with_java().items():
            patch.setenv(name, value)
        yield
        _end_java()


def _end_java(seconds: float = 60) -> None:
    """End what sessions of this process have started; pyspark leaves it to the process's end."""
    from pyspark import SparkContext

    if SparkContext._active_spark_context:
        SparkContext._active_spark_context.stop()
    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway:
        gateway.shutdown()
        gateway.proc.stdin.close()  # by this it knows that it is not needed any more
        gateway.proc.wait(seconds)


@pytest.fixture(scope="session")
def spark_session(spark_environment: None) -> SparkSession:
    """A classic session in this process, as the engine sets it."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("retailmart-tests")
    daemon = {"spark.python.daemon.module": "retailmart.engines.spark.daemon"}
    for key, value in {**SETTINGS, **daemon}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    """A cluster with two workers. Who kills one calls `ensure` in the end."""
    cluster = SparkCluster(tmp_path_factory.mktemp("spark"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def isolated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    """A cluster with two workers that see none of the tests' files. Who kills one calls `ensure`.

    Tests that run on it need root.
    """
    base = tmp_path_factory.getbasetemp()
    # Of pytest-xdist, each process has a folder in one for all.
    hidden = [base.parent] if "PYTEST_XDIST_WORKER" in os.environ else [base]
    cluster = SparkCluster(tmp_path_factory.mktemp("isolated"), ISOLATED_WORKERS, hidden)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def spark_connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkConnect]:
    """A Connect server with two cores of this machine."""
    server = SparkConnect(tmp_path_factory.mktemp("connect"))
    try:
        server.start()
        yield server
    finally:
        server.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spark 3.5 leaves it to Python to close the socket of each `collect`."""
    careless = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    marked = [item for item in items if item.get_closest_marker("spark")]
    if marked and version("pyspark").startswith("3."):
        for item in marked:
            item.add_marker(careless)


if __name__ == "__main__":
    _archive_classes(sys.argv[1])
