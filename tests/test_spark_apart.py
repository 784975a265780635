"""Spark's workers share nothing but a bucket and a database: no folder, and no row by the driver.

Each worker sees neither the project's folder nor another worker's disk. What a project must look
like is told by DuckDB, which ran the same story in a bucket and a database of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from retailmart.template import write_project
from tests.services.test_spark_services import until
from tests.support.amount import ALL, tries
from tests.support.backends import RemoteBackend, shop_tables
from tests.support.project_state import compare, state_of
from tests.support.services.driver import CountedDriver, counted_driver
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.proxy import Fault, S3Faults
from tests.support.services.s3 import S3Server
from tests.support.services.spark import SparkCluster, environment
from tests.support.shop import HEADER, Called, Shop, keep_only, sale

pytestmark = [pytest.mark.spark, pytest.mark.long]

KEPT = ("customer_mart", "customer_monthly_purchase", "sales_mart", "sales_team_incentive")
TABLES = ("customer", "store", "sales_team", "product")
AS_OF = ("--as-of", "2024-07-01")
# A driver that does one command after the other: Spark's start is the dearest part of each.
DRIVER = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from retailmart.cli import main
from retailmart.engines.spark.session import open_session
from retailmart.project import load_project

answers = os.fdopen(int(sys.argv[1]), "w")
with open_session(load_project(Path.cwd()).settings.spark):
    for line in sys.stdin:
        said, code = io.StringIO(), 0
        sys.argv = ["retailmart", *json.loads(line)]
        with redirect_stdout(said), redirect_stderr(said):
            try:
                main()
            except SystemExit as done:
                code = done.code or 0
        print(json.dumps([code, said.getvalue()[-4_000:]]), file=answers, flush=True)
"""
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "20ms",
    "spark.speculation.quantile": "0.1",
    "spark.speculation.multiplier": "1.01",
    "spark.speculation.minTaskRuntime": "10ms",
}


@pytest.fixture
def shops(tmp_path: Path, s3: S3Server, mariadb: DatabaseServer) -> tuple[Shop, Shop]:
    """Two projects of the same kind, each with a bucket and databases of its own."""

    def made(name: str) -> Shop:
        bucket, own, source = s3.look(s3.bucket()), mariadb.database(), mariadb.database()
        return _shop(tmp_path / name, RemoteBackend(bucket, own, source))

    return made("right"), made("apart")


def _shop(folder: Path, backend: RemoteBackend) -> Shop:
    write_project(folder, sample=False)
    keep_only(folder, marts=KEPT, feeds=["sales"], tables=TABLES)
    backend.settle(folder)
    backend.execute_in_shop(*shop_tables())
    return Shop(folder, backend)


def on(cluster: SparkCluster, shop: Shop, **more: str) -> None:
    """Let a project's runs be those of the cluster, which is left all of the work."""
    cluster.ensure()
    conf = {**cluster.settings, **more}
    settings = {"master": conf.pop("spark.master"), "conf": conf, "driver_reads": "0MB"}
    path = shop.folder / "retailmart.yml"
    text = path.read_text().replace("engine: duckdb", "engine: spark")
    path.write_text(text + yaml.safe_dump({"spark": settings}))


def call(shop: Shop, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "retailmart", *words],
        cwd=shop.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


Command = Callable[..., None]


@contextmanager
def driver(shop: Shop) -> Iterator[Command]:
    """Commands of one Spark application, each of which must end well."""
    ours, theirs = os.pipe()
    log = shop.folder.with_suffix(".log")
    with (
        log.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(theirs)],
            cwd=shop.folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=told,
            text=True,
            pass_fds=[theirs],
        ) as process,
        os.fdopen(ours) as answers,
    ):
        os.close(theirs)
        assert process.stdin is not None
        commands = process.stdin

        def command(*words: str) -> None:
            with suppress(BrokenPipeError):  # its log tells why it ended
                print(json.dumps(words), file=commands, flush=True)
            answer = answers.readline()
            assert answer, log.read_text()[-3_000:]
            code, said = json.loads(answer)
            assert code == 0, said

        try:
            yield command
            commands.close()
            assert process.wait(120) == 0, log.read_text()[-3_000:]
        finally:
            process.kill()


def plain(called: Called, shop: Shop, *words: str) -> None:
    """A command without Spark, in this process."""
    done = called(shop.folder, *words)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]


def drop(shops: tuple[Shop, Shop], name: str, content: bytes) -> None:
    """The same file for both."""
    for shop in shops:
        shop.drop(name, content)


def assert_same(shops: tuple[Shop, Shop], *, swept: bool = True) -> None:
    """Both projects hold the same; nothing lies about where all has been swept."""
    right, apart = (state_of(shop.folder) for shop in shops)
    others = {"snapshots", "left lying", *(() if swept else ("orphans",))}
    parts = [part for part in right if part not in others]
    differs = compare(right, apart, only=parts)
    assert differs is None, differs.words


def lines(count: int, first: int = 0) -> list[str]:
    """Sales of half a year; one in a hundred is no good."""
    return [
        sale(
            customer=n % 9 + 1,
            store=n % 2 + 1,
            day=f"2024-{n % 6 + 1:02d}-{n % 28 + 1:02d}",
            person=n % 4 + 1,
            price=f"{n % 90 + 1}.50",
            total="much" if n % 100 == 7 else None,
        )
        for n in range(first, first + count)
    ]


def csv(rows: list[str]) -> bytes:
    """A sales file of these lines."""
    return ("\n".join([HEADER, *rows]) + "\n").encode()


def test_a_shops_life_is_the_same(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, called: Called
) -> None:
    """A full load with an odd file, a day with a correction, its undo, repaired rows, row for row.

    Spark tries slow tasks twice at the same time; only one of both counts. What the other one
    writes after a run's end goes with a later sweep.
    """
    on(isolated_cluster, shops[1], **SPECULATION)
    with driver(shops[1]) as command:

        def both(*words: str) -> None:
            plain(called, shops[0], *words)
            command(*words)

        drop(shops, "sales_1.csv", csv(lines(900)))
        drop(shops, "sales_2.csv", csv(lines(300, 5_000)))
        odd = csv([*lines(5), '1,1,"tea\nwith milk",2024-01-02,1,1.00,1,1.00'])
        drop(shops, "sales_odd.csv", odd)
        both("run", *AS_OF)
        assert_same(shops, swept=False)
        drop(shops, "sales_3.csv", csv(lines(40, 9_000)))
        drop(shops, "sales_2.csv", csv(lines(200, 5_000)))
        both("run", *AS_OF)
        assert_same(shops, swept=False)
        both("undo", "2")
        assert_same(shops, swept=False)
        both("quarantine", "export", "--to", "repaired.csv")
        for shop in shops:
            sheet = shop.folder / "repaired.csv"
            sheet.write_text(sheet.read_text().replace("much", "1.50"))
        both("quarantine", "replay", "repaired.csv")
        both("run", *AS_OF)
    sweep(shops[1], called, isolated_cluster)
    assert_same(shops)
    assert shops[1].backend.query("SELECT count(*) FROM retailmart_replays") != [(0,)]


def test_the_driver_sees_no_rows(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, tmp_path: Path
) -> None:
    """Through it pass listings, descriptions and results: a small part of what has landed."""
    shop = shops[1]
    files = tries(4, 10)
    big = csv(lines(tries(150_000, 1_400_000)))
    passed: list[int] = []
    landed = 0
    with counted_driver(tmp_path) as driver:
        on(isolated_cluster, shop, **driver.settings)
        for count, content in ((1, csv(lines(100))), (files, big)):
            landed = count * len(content)
            for number in range(count):
                one = content + sale(price=f"{number + 1}.00").encode() + b"\n"
                shop.drop(f"sales_{len(passed)}_{number}.csv", one)
            driver.reset()
            done = _run_counted(driver, shop)
            assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
            passed.append(driver.received + driver.sent)
    # A small run tells what does not grow: Spark's own talk, its start, the ledger's.
    grown = passed[1] - passed[0]
    print(f"{landed:,} bytes landed, {passed[1]:,} passed through the driver, {grown:,} for them")
    # Of 2 GB all of it is less than 1 %; of the short form's few MB only the part that grows.
    assert (passed[1] < landed / 100) if ALL else (grown < landed / 50)


def _run_counted(driver: CountedDriver, shop: Shop) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retailmart", "run", "--project", str(shop.folder), *AS_OF]
    return driver.run(command, seconds=1_500)


def test_a_failing_store_is_tried_again(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, s3_faults: S3Faults, called: Called
) -> None:
    """A bucket that answers driver and workers with 503 now and then: nothing is lost."""
    shop = shops[1]
    on(isolated_cluster, shop)
    path = shop.folder / "retailmart.yml"
    path.write_text(re.sub(r"http://127.0.0.1:\d+", s3_faults.endpoint, path.read_text()))
    drop(shops, "sales_1.csv", csv(lines(400)))
    plain(called, shops[0], "run", *AS_OF)
    s3_faults.on(0.1, seed=7, kinds=[Fault.SLOW_DOWN])
    done = call(shop, "run", *AS_OF)
    s3_faults.off()
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert s3_faults.faults
    assert_same(shops)


def test_a_store_that_fails_for_one_worker(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, s3: S3Server, called: Called
) -> None:
    """Every third answer to one worker is 503, none to the driver and to the other worker."""
    shop = shops[1]
    on(isolated_cluster, shop)
    path = shop.folder / "retailmart.yml"
    path.write_text(
        path.read_text().replace(f"http://127.0.0.1:{s3.port}", f"http://localhost:{s3.port}")
    )
    drop(shops, "sales_1.csv", csv(lines(4_000)))
    drop(shops, "sales_2.csv", csv(lines(4_000, 5_000)))
    plain(called, shops[0], "run", *AS_OF)
    unlucky, *others = isolated_cluster.alive
    with ExitStack() as ways:
        for worker in others:
            ways.enter_context(S3Faults(s3.port, listen=(worker.localhost, s3.port)))
        faults = ways.enter_context(S3Faults(s3.port, listen=(unlucky.localhost, s3.port)))
        faults.on(0.3, seed=7, kinds=[Fault.SLOW_DOWN])
        done = call(shop, "run", *AS_OF)
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
        assert faults.faults
        assert_same(shops)


@pytest.mark.parametrize("part", ["raw", "marts"])
def test_a_worker_may_die(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, called: Called, part: str
) -> None:
    """While others' files of that part come to the bucket: what is lost is done again, once."""
    on(isolated_cluster, shops[1])
    drop(shops, "sales_1.csv", csv(lines(4_000)))
    drop(shops, "sales_2.csv", csv(lines(4_000, 5_000)))
    plain(called, shops[0], "run", *AS_OF)
    run = started(shops[1], part)
    isolated_cluster.alive[0].kill()
    _, words = run.communicate(timeout=280)
    assert run.returncode == 0, words[-2_000:]
    assert_same(shops)


def test_another_engine_finishes_what_a_killed_driver_began(
    shops: tuple[Shop, Shop], isolated_cluster: SparkCluster, called: Called
) -> None:
    """The next run, on either engine: nothing is lost, doubled or left."""
    on(isolated_cluster, shops[1])
    drop(shops, "sales_1.csv", csv(lines(4_000)))
    plain(called, shops[0], "run", *AS_OF)
    run = started(shops[1], "raw")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    plain(called, shops[1], "run", *AS_OF, "--set", "engine=duckdb")
    sweep(shops[1], called, isolated_cluster)
    assert_same(shops)


def started(shop: Shop, part: str) -> subprocess.Popen[str]:
    """A run that has begun to write a part of the lake."""
    run = subprocess.Popen(
        [sys.executable, "-m", "retailmart", "run", *AS_OF],
        cwd=shop.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert isinstance(shop.backend, RemoteBackend)
    bucket = shop.backend.bucket
    until(lambda: run.poll() is not None or any(bucket.keys(f"lake/{part}/")), 240)
    assert run.poll() is None, run.communicate()[1][-2_000:]
    return run


def sweep(shop: Shop, called: Called, cluster: SparkCluster) -> None:
    """Sweep when the executors have ended: until then they may write what counts nowhere."""
    until(lambda: all(len(worker.processes()) == 1 for worker in cluster.alive))
    shop.backend.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")
    plain(called, shop, "run", *AS_OF, "--set", "engine=duckdb")
