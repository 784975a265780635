"""Runs on a real Spark cluster and by Connect: workers, tasks and drivers die, nothing differs.

Each run is a process of its own. What a project must look like is told by DuckDB, which ran the
same project undisturbed. Driver and workers have one folder in common.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from retailmart.template import write_project
from tests.services.test_spark_services import members, until, until_gone
from tests.support.amount import SEED
from tests.support.backends import LocalBackend, on_mariadb, shop_tables
from tests.support.project_state import ProjectState, compare, state_of
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.spark import Daemon, SparkCluster, SparkConnect, environment
from tests.support.shop import HEADER, keep_only

pytestmark = pytest.mark.spark

MARTS = ("customer_mart", "customer_monthly_purchase", "sales_mart", "sales_team_incentive")
ROWS, FILES = 4_000, 3
AS_OF = "2024-07-01"
# In one of its tasks the last partition of several.
LAST = "lake/marts/sales_mart/sales_month=2024-06/store_id=2"

# Runs in every Python of a cluster, and of a driver that is to die. It takes up what a test asks
# for by a file, once, and then stops there or breaks, at a file whose path holds certain words.
HOOK = """
import os, sys, threading, time

PLACE = {place!r}
_inside = threading.local()

def _taken(name, path):
    try:
        with open(os.path.join(PLACE, name)) as asked:
            if asked.read() not in path:
                return None
        held = os.path.join(PLACE, f"{{name}}-{{os.getpid()}}")
        os.rename(os.path.join(PLACE, name), held)
        return held
    except FileNotFoundError:
        return None

def _seen(event, arguments):
    if event not in ("os.mkdir", "open") or getattr(_inside, "busy", False):
        return
    if not isinstance(arguments[0], (str, os.PathLike)):
        return
    path = os.fspath(arguments[0])
    if isinstance(path, bytes) or "/lake/" not in path:
        return
    _inside.busy = True
    try:
        if held := _taken("stop", path):
            while os.path.exists(held):
                time.sleep(0.01)
        if _taken("fail", path):
            raise OSError("the disk of this worker is broken")
    finally:
        _inside.busy = False

sys.addaudithook(_seen)
"""

# In the driver: published tables are filled in parts, however small they are.
IN_PARTS = """
import retailmart.marts.publish

retailmart.marts.publish._PARALLEL_ROWS = 1
"""
# In workers, beside the hook: it also stops where a part's rows are in a table that is published,
# and their transaction is open.
FILLED = "filled"
WHERE_FILLED = f"""
from retailmart.database.target import Target

_insert = Target.insert

def _stopping(self, connection, read):
    count = _insert(self, connection, read)
    if held := _taken("stop", {FILLED!r}):
        while os.path.exists(held):
            time.sleep(0.01)
    return count

Target.insert = _stopping
"""

# The project's own functions; one stops where a test asks for it, once.
FUNCTIONS = """
import os
import time

import pyarrow.compute as pc


def points(total: "DECIMAL(14,2)") -> "INT":
    _disturbed()
    return pc.cast(pc.floor(pc.cast(total, "float64")), "int32")


def hour_of(moment: "TIMESTAMP") -> "INT":
    return pc.cast(pc.hour(moment), "int32")


def _disturbed():
    held = os.path.join(_PLACE, f"wait-{{os.getpid()}}")
    try:
        os.rename(os.path.join(_PLACE, "wait"), held)
    except FileNotFoundError:
        return
    while os.path.exists(held):
        time.sleep(0.01)


_PLACE = {place!r}
"""
LOYALTY = """-- about: the points of every sale
-- refresh: append
-- partitions: [_month]
-- balance: {sales: total_cost}
-- publish: false
SELECT customer_id, sales_date, total_cost, points(total_cost) AS points, _file_id, _month
FROM sales
"""
VISITS_FEED = """files: ["visits*.csv"]
columns:
  door: {type: INT, mandatory: true}
  seen_at: {type: TIMESTAMP, mandatory: true}
  day: {type: DATE, mandatory: true}
month: day
"""
VISITS = """-- about: when the doors are used
-- refresh: months
-- partitions: [_month]
-- key: [door]
-- publish: true
SELECT
    door,
    seen_at,
    day,
    hour_of(seen_at) AS hour,
    CAST(seen_at AS DATE) AS on_day,
    CAST(day AS TIMESTAMP) AS day_begins,
    strftime(seen_at, '%Y-%m-%d %H:%M:%S') AS told,
    date_diff('day', day, CAST(getvariable('as_of') AS DATE)) AS days_ago,
    seen_at < getvariable('as_of') AS is_past,
    _month
FROM visits
"""


@dataclass(frozen=True)
class Ground:
    """What all tests of this module share: a project to copy, and how its tables must become."""

    folder: Path
    place: Path
    hook: Path
    right: ProjectState


@dataclass(frozen=True)
class Project:
    """A copy of the project, to be run by processes."""

    folder: Path
    ground: Ground

    def start(self, **more: str) -> subprocess.Popen[str]:
        """A run, in a session of the kernel's own. Its words go to a file beside the project."""
        with self.folder.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "retailmart", "run", "--as-of", AS_OF],
                cwd=self.folder,
                env=environment() | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self, **more: str) -> None:
        """A run that ends well."""
        code = self.ended(self.start(**more))
        assert code == 0, self.told

    def ended(self, run: subprocess.Popen[str]) -> int:
        """The exit code of a run, which is killed if it does not end."""
        try:
            return run.wait(240)
        finally:
            kill_all({run.pid})

    @property
    def told(self) -> str:
        """The last words of its runs."""
        return self.folder.with_suffix(".log").read_text()[-4_000:]

    def is_right(self) -> None:
        """Its tables, its ledger and its folders are as where nothing was disturbed."""
        found = state_of(self.folder)
        # The files of snapshots have other names: what is in them is in the marts.
        parts = [part for part in found if part != "snapshots"]
        differs = compare(self.ground.right, found, only=parts)
        assert differs is None, differs.words

    def until_held(self, run: subprocess.Popen[str], name: str) -> int:
        """Wait until a process does what was asked for by a file of this name; which one."""

        def held() -> list[Path]:
            assert run.poll() is None, self.told
            return list(self.ground.place.glob(f"{name}-*"))

        until(lambda: bool(held()), 240)
        (one,) = held()
        return int(one.name.partition("-")[2])


def ask(ground: Ground, name: str, words: str = "") -> None:
    """Ask the next process that comes by to stop, to wait, or to break."""
    draft = ground.place / "draft"
    draft.write_text(words)
    draft.rename(ground.place / name)


@contextmanager
def asked(ground: Ground, name: str, words: str = "") -> Iterator[None]:
    """`ask`; nobody is held up any more in the end."""
    ask(ground, name, words)
    try:
        yield
    finally:
        let_go(ground)


def let_go(ground: Ground) -> None:
    """Let everybody go on."""
    for held in ground.place.iterdir():
        held.unlink()


def kill_all(sessions: set[int]) -> None:
    """SIGKILL all processes of some sessions of the kernel's, and wait until they are gone."""
    found = members(sessions)
    for handle in found.values():
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    until_gone(found)


def at_start(folder: Path, code: str) -> Path:
    """A folder for PYTHONPATH: what it holds is run where a Python starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return folder


def with_path(folder: Path) -> str:
    """PYTHONPATH with a folder in front."""
    return os.pathsep.join([str(folder), environment()["PYTHONPATH"]])


def python_of_workers(folder: Path, packages: tuple[str, ...]) -> Path:
    """A Python that has these packages and no others."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages_folder,) = folder.glob("lib/python*/site-packages")
    for name in packages:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        module = Path(spec.origin)
        package = module.parent if module.name == "__init__.py" else module
        for path in package.parent.glob(f"{name}*"):
            (packages_folder / path.name).symlink_to(path)
    return folder


def make_project(folder: Path, place: Path) -> None:
    """The till marts of a small shop, two marts that call functions, half a year of sales."""
    write_project(folder, sample=False)
    LocalBackend(folder).execute_in_shop(*shop_tables())
    tables = ("customer", "store", "sales_team", "product")
    keep_only(folder, marts=MARTS, feeds=["sales"], tables=tables)
    (folder / "functions.py").write_text(FUNCTIONS.format(place=str(place)))
    (folder / "marts" / "loyalty.sql").write_text(LOYALTY)
    (folder / "marts" / "doors.sql").write_text(VISITS)
    (folder / "feeds" / "visits.yml").write_text(VISITS_FEED)
    chance = random.Random(SEED)
    landing = folder / "landing"
    for number in range(FILES):
        rows = "".join(sale(chance) for _ in range(ROWS))
        (landing / f"sales_{number}.csv").write_text(f"{HEADER}\n{rows}")
    visits = "".join(f"{n},{moment},{moment[:10]}\n" for n, moment in enumerate(moments()))
    (landing / "visits.csv").write_text(f"door,seen_at,day\n{visits}")


def sale(chance: random.Random) -> str:
    """A line of a sales file; some are no good."""
    cents, quantity = chance.randint(100, 99_999), chance.randint(1, 5)
    day = f"2024-{chance.randint(1, 6):02d}-{chance.randint(1, 28):02d}"
    total = f"{cents * quantity / 100:.2f}" if chance.random() > 0.005 else "much"
    who = f"{chance.randint(1, 9)},{chance.randint(1, 2)}"
    return f"{who},tea,{day},{chance.randint(1, 4)},{cents / 100:.2f},{quantity},{total}\n"


def moments() -> Iterator[str]:
    """Times that zones make of what they like: near midnight, and where clocks are put back."""
    yield from ("1969-12-31 23:59:59", "1900-01-01 00:00:00", "2024-06-30 23:59:59.999999")
    for day in ("2024-03-09", "2024-03-10", "2024-03-31", "2024-02-29", "2024-06-30"):
        yield from (f"{day} {hour:02d}:30:00" for hour in range(24))
        yield from (f"{day}T00:15:00+05:30", f"{day}T23:45:00-05:00")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The project, run by DuckDB."""
    root = tmp_path_factory.mktemp("ground")
    place, folder = root / "place", root / "shop"
    place.mkdir()
    make_project(folder, place)
    hook = at_start(root / "hook", HOOK.format(place=str(place)))
    ground = Ground(folder, place, hook, {})
    undisturbed = Project(shutil.copytree(folder, root / "undisturbed"), ground)
    undisturbed.run()
    right = state_of(undisturbed.folder)
    assert len(right["marts"]["sales_mart"]) + len(right["quarantine"]["sales"]) == ROWS * FILES
    assert len(right["quarantine"]["sales"]) > 10
    assert not right["orphans"]
    assert not right["left lying"]
    return replace(ground, right=right)


def project(ground: Ground, at: Path, settings: Mapping[str, object]) -> Project:
    """A copy of the project that is run by Spark."""
    folder = shutil.copytree(ground.folder, at / "shop")
    path = folder / "retailmart.yml"
    words = path.read_text().replace("engine: duckdb", "engine: spark")
    path.write_text(words + yaml.safe_dump({"spark": {**settings, "driver_reads": "0MB"}}))
    return Project(folder, ground)


def on_cluster(
    ground: Ground, at: Path, cluster: SparkCluster, more: Mapping[str, str] | None = None
) -> Project:
    """A copy of the project that is run by a cluster."""
    cluster.ensure()
    conf = {
        **cluster.settings,
        "spark.executorEnv.PYTHONPATH": with_path(ground.hook),
        **(more or {}),
    }
    return project(ground, at, {"master": conf.pop("spark.master"), "conf": conf})


def worker_of(process: int, cluster: SparkCluster) -> Daemon:
    """The worker whose executor has started a process."""
    at = Path(f"/proc/{process}/cwd").readlink().parts
    (found,) = (worker for worker in cluster.alive if f"work-{worker.port}" in at)
    return found


def alive(cluster: SparkCluster) -> set[int]:
    """The processes of a cluster's workers: they themselves, executors, and Python of those."""
    found = members({worker.process.pid for worker in cluster.alive})
    for handle in found.values():
        os.close(handle)
    return set(found)


@pytest.mark.long
def test_a_cluster_gives_what_duckdb_gives(
    ground: Ground, spark_cluster: SparkCluster, tmp_path: Path
) -> None:
    """All tables, row for row, whatever zones its machines are in."""
    zones = {
        "spark.driver.extraJavaOptions": "-Duser.timezone=Asia/Tokyo",
        "spark.executor.extraJavaOptions": "-Duser.timezone=America/Sao_Paulo",
        "spark.executorEnv.TZ": "America/New_York",
    }
    shop = on_cluster(ground, tmp_path, spark_cluster, zones)
    shop.run(TZ="Asia/Kolkata")
    shop.is_right()


@pytest.mark.long
def test_a_task_that_is_tried_again_counts_once(
    ground: Ground, spark_cluster: SparkCluster, tmp_path: Path
) -> None:
    """A worker's disk fails once when it has written files."""
    shop = on_cluster(ground, tmp_path, spark_cluster)
    with asked(ground, "fail", LAST):
        shop.run()
        assert [path.name.partition("-")[0] for path in ground.place.iterdir()] == ["fail"]
    shop.is_right()


@pytest.mark.long
def test_workers_may_die(ground: Ground, spark_cluster: SparkCluster, tmp_path: Path) -> None:
    """A worker dies while it writes raw rows, another while it writes a mart; others come."""
    shop = on_cluster(ground, tmp_path, spark_cluster)
    ask(ground, "stop", "lake/raw/sales/_month=2024-05")
    run = shop.start()
    try:
        for following in (LAST, None):
            process = shop.until_held(run, "stop")
            victim = worker_of(process, spark_cluster)
            if following:  # while the run stands still: the other worker may be there soon
                ask(ground, "stop", following)
            victim.kill()
            (ground.place / f"stop-{process}").unlink()
            spark_cluster.ensure()
    finally:
        let_go(ground)
        code = shop.ended(run)
        spark_cluster.ensure()
    assert code == 0, shop.told
    shop.is_right()


@pytest.mark.long
def test_a_worker_may_die_while_it_fills_a_table(
    ground: Ground, spark_cluster: SparkCluster, mariadb: DatabaseServer, tmp_path: Path
) -> None:
    """Its rows go with its transaction; the table is published whole, each row in it once."""
    undisturbed = Project(shutil.copytree(ground.folder, tmp_path / "undisturbed"), ground)
    on_mariadb(undisturbed.folder, mariadb.database())
    undisturbed.run()
    code = HOOK.format(place=str(ground.place)) + WHERE_FILLED
    of_workers = at_start(tmp_path / "of_workers", code)
    of_driver = at_start(tmp_path / "of_driver", IN_PARTS)
    right = state_of(undisturbed.folder)
    shop = on_cluster(replace(ground, hook=of_workers, right=right), tmp_path, spark_cluster)
    on_mariadb(shop.folder, mariadb.database())
    with asked(ground, "stop", FILLED):
        run = shop.start(PYTHONPATH=with_path(of_driver))
        try:
            worker_of(shop.until_held(run, "stop"), spark_cluster).kill()
            spark_cluster.ensure()
        finally:
            code_of_run = shop.ended(run)
            spark_cluster.ensure()
    assert code_of_run == 0, shop.told
    shop.is_right()


@pytest.mark.long
def test_a_driver_may_die_again_and_again(
    ground: Ground, spark_cluster: SparkCluster, tmp_path: Path
) -> None:
    """While workers write raw rows, while they write a mart, between two commits."""
    shop = on_cluster(ground, tmp_path, spark_cluster)
    before = alive(spark_cluster)
    hook = {"PYTHONPATH": with_path(ground.hook)}
    points = ("lake/raw/sales/_month=2024-05", LAST, "lake/marts/sales_mart/_delta_log")
    for words in points:
        with asked(ground, "stop", words):
            run = shop.start(**hook)
            stopped = shop.until_held(run, "stop")
            assert (stopped == run.pid) == ("_delta_log" in words)
            if words == LAST:
                kill_all({run.pid})  # its Java, too, which else winds up when it is alone
            else:
                run.kill()
        shop.ended(run)
        # Its executors end by themselves, and whatever they were at.
        until(lambda: alive(spark_cluster) <= before)
    assert len({path.name[:15] for path in shop.folder.glob("lake/*/*/**/b*.parquet")}) == len(
        points
    )
    shop.run()
    shop.is_right()


@pytest.mark.long
def test_connect_gives_what_duckdb_gives(
    ground: Ground, spark_connect: SparkConnect, tmp_path: Path
) -> None:
    """All tables, row for row."""
    shop = project(ground, tmp_path, {"remote": spark_connect.remote})
    shop.run()
    shop.is_right()


@pytest.mark.long
def test_what_a_server_does_for_a_dead_client_is_swept(
    ground: Ground, spark_connect: SparkConnect, tmp_path: Path
) -> None:
    """A server goes on for a client that was killed: whatever it still writes is in no table."""
    shop = project(ground, tmp_path, {"remote": spark_connect.remote})
    with asked(ground, "wait"):
        run = shop.start()
        shop.until_held(run, "wait")
        kill_all({run.pid})
        run.wait()
        shop.run(RETAILMART__ENGINE="duckdb")
        shop.is_right()
    time.sleep(5)  # of what it had begun the sweep took the files away, or it writes them now
    with closing(sqlite3.connect(shop.folder / "retail.db")) as connection, connection:
        connection.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")
    shop.run(RETAILMART__ENGINE="duckdb")
    shop.is_right()


@pytest.mark.long
def test_workers_without_this_package_are_told_of(
    ground: Ground, spark_cluster: SparkCluster, tmp_path: Path
) -> None:
    """In one sentence with its fix, and nothing is written."""
    bare = python_of_workers(tmp_path / "python", ("pyarrow", "numpy"))
    settings = {
        "spark.pyspark.python": str(bare / "bin" / "python"),
        "spark.executorEnv.PYTHONPATH": str(ground.hook),
    }
    shop = on_cluster(ground, tmp_path, spark_cluster, settings)
    assert shop.ended(shop.start()) == 1
    _, said = shop.told.split("\nretailmart: ")
    *lines, step = said.splitlines()
    assert step.startswith("  Run 1 failed in step copy, ")
    assert lines == [
        "the Python of Spark's workers has no retailmart",
        "  Install retailmart there as here, or let PYSPARK_PYTHON name a Python that has it;"
        " docs/spark.md says how",
    ]
