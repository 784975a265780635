"""Measure a full load of the four sales marts on Spark, against two others that do the same.

One is a PySpark script as tutorials write it, the other is retailmart on its own DuckDB. All read
the same files and the same tables of a MariaDB, write two marts as Parquet and two into MariaDB,
and what they wrote is compared before anything is reported. Each try is a process with a session
of its own, set up alike, that is warm: the same work on a small shop goes before the clock. After
the load, retailmart builds four more marts of kinds that are hard to spread: those in `marts/`.

Seconds are by the clock. Processor seconds are those of all processes (Python, its JVM, the JVM's
Python workers), less those of the same job with 2,000 sales in the same process.

Prints one JSON object: by rows and by side (`ours`, `theirs`, `duckdb`), the figures of each try.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import duckdb

from compare import MARTS, MONEY

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
sys.path.insert(0, str(ROOT))
DRIVER: Final = Path("/usr/share/java/mariadb-java-client.jar")
AS_OF: Final = datetime(2024, 1, 1, tzinfo=UTC)
FILES: Final = 20
TRIES: Final = 1  # the tutorial's script takes minutes
FEW: Final = 2_000  # sales of the job that is the start
PUBLISHED: Final = ("customer_monthly_purchase", "sales_team_incentive")
KINDS: Final = tuple(sorted((HERE / "marts").glob("*.sql")))
KEPT: Final = {
    "marts": {"customer_mart", "sales_mart", *PUBLISHED},
    "feeds": {"sales"},
    "tables": {"customer", "store", "sales_team"},
}
SCHEMA: Final = {
    "customer": "customer_id INT PRIMARY KEY, first_name VARCHAR(50), last_name VARCHAR(50),"
    " address VARCHAR(100), pincode VARCHAR(10), phone_number VARCHAR(20),"
    " customer_joining_date DATE",
    "store": "id INT PRIMARY KEY, address VARCHAR(100), store_pincode VARCHAR(10),"
    " store_manager_name VARCHAR(100), store_opening_date DATE, reviews VARCHAR(100)",
    "sales_team": "id INT PRIMARY KEY, first_name VARCHAR(50), last_name VARCHAR(50),"
    " manager_id INT, is_manager CHAR(1), address VARCHAR(100), pincode VARCHAR(10),"
    " joining_date DATE",
}


# Clock ticks of each process, by its number and start.
SPENT: Final[dict[tuple[int, str], int]] = {}


@dataclass(frozen=True)
class Job:
    """One full load: the files, the shop's database, where marts go; `out` is a new folder.

    With `in_tasks` Spark's tasks do it all, however little it is.
    """

    landing: str
    shop: str
    out: str
    marts: str
    in_tasks: bool = False


@dataclass(frozen=True)
class Order:
    """What a process is to do, on how many cores: the jobs one after the other.

    The first warms the session up, the second is the start, the third is what is measured.
    """

    side: str
    cores: int
    scratch: str
    jobs: tuple[Job, Job, Job]


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and processor seconds of all processes."""

    seconds: float
    cpu: float


def ours(job: Job, session: Any) -> None:
    """retailmart's run, in the session that is there; DuckDB where there is none."""
    from retailmart import open_project

    engine = "spark" if session else "duckdb"
    settings: dict[str, object] = {"database": job.marts, "sources": {"shop": job.shop}}
    settings |= {"engine": engine}
    if job.in_tasks:
        settings |= {"spark": {"driver_reads": "0MB"}}
    report = open_project(job.out, settings).run(AS_OF)
    if report.nothing_to_do or report.rows("quarantined"):
        raise SystemExit(f"{engine}: {report.to_dict()}")


def kinds(job: Job, session: Any) -> None:
    """A run that builds the marts of `marts/` from what the job has loaded."""
    for mart in KINDS:
        shutil.copy(mart, Path(job.out, "marts"))
    ours(job, session)


def theirs(job: Job, session: Any) -> None:
    """The tutorial's script."""
    from tutorial import build

    build(session, Path(job.landing), Path(job.out), _jdbc(job.shop), _jdbc(job.marts))


SIDES: Final[Mapping[str, Callable[[Job, Any], None]]] = {
    "ours": ours,
    "theirs": theirs,
    "duckdb": ours,
}


def obey(order: Order) -> dict[str, float]:
    """The figures of the order's last job: seconds by the clock, processor seconds of two kinds."""
    threading.Thread(target=watch_processes, daemon=True).start()
    work = SIDES[order.side]
    session = None if order.side == "duckdb" else start_session(order)
    loads, builds = [], []
    for job in order.jobs:
        if work is ours:
            make_project(job)
        loads.append(measured(lambda job=job: work(job, session)))
        if work is ours:
            builds.append(measured(lambda job=job: kinds(job, session)))
    _, start, load = loads
    figures = {"seconds": load.seconds, "cpu": load.cpu - start.cpu, "start_cpu": start.cpu}
    if builds:
        _, start, build = builds
        figures |= {"kinds_seconds": build.seconds, "kinds_cpu": build.cpu - start.cpu}
    return figures


def measured(work: Callable[[], object]) -> Took:
    """What a work takes here, once all that was written before is on disk."""
    os.sync()
    start, cpu = time.perf_counter(), processor_seconds()
    work()
    return Took(time.perf_counter() - start, processor_seconds() - cpu)


def watch_processes() -> None:
    """Look at all processes now and then, for those that end."""
    while True:
        processor_seconds()
        time.sleep(0.5)


def processor_seconds() -> float:
    """Of this process and all below it (Spark's JVM, its Python workers).

    Spark's own daemon forgets what ended workers took, so each look at them is kept.
    """
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # Behind the name, which may hold blanks: state, parent, …, user, system, …, start.
            fields = path.read_text().rpartition(")")[2].split()
            process = (int(path.parent.name), fields[19])
            found[process] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    family, known = {os.getpid()}, 0
    while len(family) > known:
        known = len(family)
        family |= {pid for pid, start in found if found[pid, start][0] in family}
    for process, (_, ticks) in found.items():
        if process[0] in family or process in SPENT:
            SPENT[process] = ticks
    return sum(SPENT.values()) / os.sysconf("SC_CLK_TCK")


def start_session(order: Order) -> Any:
    """The same for both sides, and Spark's own defaults in all that is not about this machine."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.master": f"local[{order.cores}]",
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraClassPath": str(DRIVER),
        "spark.local.dir": order.scratch,
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.config(map=settings).getOrCreate()


def make_project(job: Job) -> None:
    """A project of the sales feed and the four marts, the files in its landing."""
    from retailmart.template import write_project

    folder = Path(job.out)
    write_project(folder, sample=False)
    for kind, kept in KEPT.items():
        for path in (folder / kind).iterdir():
            if path.stem not in kept:
                path.unlink()
    for path in Path(job.landing).iterdir():
        os.link(path, folder / "landing" / path.name)


def measure(folder: Path, rows: int, tries: int, sides: Sequence[str], server: Any) -> Any:
    """Run all sides in turns; what they wrote at first is held against each other."""
    shops = [folder / "small", folder / "few", folder / "shop"]
    for shop, sales in zip(shops, (10_000, FEW, rows), strict=True):
        make_shop(shop, sales)
    sources = [fill(server.database(), shop / "shop.db") for shop in shops]
    figures: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(tries):
        done = {}
        for side in sides if number % 2 == 0 else sides[::-1]:
            work = folder / f"{side}-{number}"
            warm_up, start, job = (
                Job(str(at / "landing"), url, str(work / at.name), server.database().url)
                for at, url in zip(shops, sources, strict=True)
            )
            jobs = (replace(warm_up, in_tasks=True), start, job)
            took = process(Order(side, os.cpu_count() or 1, str(work / "scratch"), jobs))
            figures[side].append(took)
            done[side] = job
            told = ", ".join(f"{name} {value:.1f}" for name, value in took.items())
            print(f"{rows:,} rows, {side}: {told}", file=sys.stderr)
        if number == 0:
            compare(done)
        for side in sides:
            shutil.rmtree(folder / f"{side}-{number}")
    return figures


def make_shop(folder: Path, sales: int) -> None:
    """A shop as large as its sales: one of a million a year has all 200 stores."""
    from generate import generate

    stores = max(2, min(200, sales // 5_000))
    generate(folder, sales, FILES, max(100, min(200_000, sales // 5)), stores, 10 * stores)


def process(order: Order) -> dict[str, float]:
    """A side's figures, from a process of its own."""
    Path(order.scratch).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, __file__, "--obey"],
        input=json.dumps(asdict(order)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{order.side}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def fill(database: Any, path: Path) -> str:
    """The shop's tables in MariaDB; the URL of the database they are in."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        for table, columns in SCHEMA.items():
            cursor.execute(f"CREATE TABLE {table} ({columns})")
            with closing(sqlite3.connect(path)) as source:
                rows = source.execute(f"SELECT * FROM {table}").fetchall()
            marks = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        connection.commit()
    return str(database.url)


def compare(done: Mapping[str, Job]) -> None:
    """End where a month of a mart has other rows or other money on one side than on another."""
    digests = {side: digest(job, SIDES[side] is ours) for side, job in done.items()}
    (first, expected), *others = digests.items()
    for side, found in others:
        for mart, months in expected.items():
            if mart in found and months != found[mart]:
                apart = sorted(set(months) ^ set(found[mart]))[:4]
                sys.exit(f"{mart} differs between {first} and {side}: {apart}")


def digest(job: Job, is_ours: bool) -> dict[str, list[tuple[Any, ...]]]:
    """By mart and month: rows, money, and a sum over hashes of the rows, whatever their order."""
    found = {}
    with closing(duckdb.connect()) as con:
        for mart in KEPT["marts"]:
            columns = MARTS[mart]
            if mart in PUBLISHED:
                con.register("mart", published(job.marts, mart, columns))
                month = "printf('%04d-%02d', year, month)"
            else:
                files = ", ".join(f"'{path}'" for path in parquet_files(job, mart, is_ours))
                con.execute(f"""
                    CREATE OR REPLACE TEMP VIEW mart AS FROM read_parquet([{files}],
                        hive_partitioning = true, hive_types_autocast = false)
                """)
                month = "strftime(sales_date, '%Y-%m')"
            typed = {name: f"{name}::{kind}" for name, kind in columns.items()}
            money = [f"sum({typed[name]})" for name in columns if columns[name] == MONEY]
            found[mart] = con.execute(f"""
                SELECT {month} AS period, count(*), {", ".join(money)},
                    sum(hash({", ".join(typed.values())})::HUGEINT)
                FROM mart GROUP BY period ORDER BY period
            """).fetchall()
            if mart in PUBLISHED:
                con.unregister("mart")
            else:
                con.execute("DROP VIEW mart")
        for kind in KINDS if is_ours else ():
            files = ", ".join(f"'{path}'" for path in parquet_files(job, kind.stem, is_ours))
            found[kind.stem] = con.execute(f"""
                SELECT _month, count(*), sum(hash(mart)::HUGEINT) FROM
                    read_parquet([{files}], hive_partitioning = true, hive_types_autocast = false)
                    AS mart
                GROUP BY _month ORDER BY _month
            """).fetchall()
    return found


def parquet_files(job: Job, mart: str, is_ours: bool) -> Iterable[str]:
    """The files of a mart: those of the lake's newest version, or all that the tutorial wrote."""
    if is_ours:
        from deltalake import DeltaTable

        return DeltaTable(f"{job.out}/lake/marts/{mart}").file_uris()
    return map(str, Path(job.out, mart).rglob("*.parquet"))


def published(url: str, mart: str, columns: Iterable[str]) -> Any:
    """A mart's rows as the database holds them."""
    import connectorx

    query = f"SELECT {', '.join(columns)} FROM {mart}"
    return connectorx.read_sql(url, query, return_type="arrow")


def _jdbc(url: str) -> Any:
    from tutorial import Jdbc

    parts = urlsplit(url)
    address = f"jdbc:mysql://{parts.hostname}:{parts.port}{parts.path}"
    return Jdbc(address, unquote(parts.username or ""), unquote(parts.password or ""))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--more", type=int, help="so many rows without theirs, once")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="all that can be measured here")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--obey", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.obey:
        told = json.load(sys.stdin)
        jobs = (Job(**job) for job in told.pop("jobs"))
        print(json.dumps(obey(Order(**told, jobs=tuple(jobs)))))
        return
    if not DRIVER.exists():
        print(f"no tutorial: no {DRIVER}; apt-get install libmariadb-java", file=sys.stderr)
    there = options.sides or [side for side in SIDES if side != "theirs" or DRIVER.exists()]
    from tests.support.services.mariadb import MariaDB

    with tempfile.TemporaryDirectory(prefix="bench-spark-", dir=options.work) as work:
        server = MariaDB(
            Path(work) / "server",
            options=["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"],
        )
        server.start()
        try:
            figures = {
                options.rows: measure(
                    Path(work) / "rows", options.rows, options.tries, there, server
                )
            }
            if options.more:
                sides = [side for side in there if side != "theirs"]
                figures[options.more] = measure(Path(work) / "more", options.more, 1, sides, server)
        finally:
            server.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
