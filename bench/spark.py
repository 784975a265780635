"""Measure a full load of the four sales marts on Spark against a PySpark script of tutorials.

Both read the same files and the same tables of a MariaDB, write two marts as Parquet and two into
MariaDB, and what they wrote is compared before anything is reported. Each try is a process with
a session of its own, set up alike, that is warm: the same work on a small shop goes before the
clock. retailmart's own DuckDB, which does the very same on the same cores, stands beside both.

Prints one JSON object: by rows, seconds of each try of `ours`, `theirs` and `duckdb`, in turns.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import duckdb

from compare import MARTS, MONEY
from database import timed

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
sys.path.insert(0, str(ROOT))
DRIVER: Final = Path("/usr/share/java/mariadb-java-client.jar")
AS_OF: Final = datetime(2024, 1, 1, tzinfo=UTC)
FILES: Final = 20
TRIES: Final = 3
PUBLISHED: Final = ("customer_monthly_purchase", "sales_team_incentive")
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


@dataclass(frozen=True)
class Job:
    """One full load: the files, the shop's database, where marts go; `out` is a new folder."""

    landing: str
    shop: str
    out: str
    marts: str


@dataclass(frozen=True)
class Order:
    """What a process is to do, on how many cores: the small job before the clock, then the job."""

    side: str
    cores: int
    scratch: str
    warm_up: Job
    job: Job


def ours(job: Job, session: Any) -> None:
    """retailmart's run, in the session that is there; DuckDB where there is none."""
    from retailmart import open_project

    engine = "spark" if session else "duckdb"
    settings = {"engine": engine, "database": job.marts, "sources": {"shop": job.shop}}
    report = open_project(job.out, settings).run(AS_OF)
    if report.nothing_to_do or report.rows("quarantined"):
        raise SystemExit(f"{engine}: {report.to_dict()}")


def theirs(job: Job, session: Any) -> None:
    """The tutorial's script."""
    from tutorial import build

    build(session, Path(job.landing), Path(job.out), _jdbc(job.shop), _jdbc(job.marts))


SIDES: Final[Mapping[str, Callable[[Job, Any], None]]] = {
    "ours": ours,
    "theirs": theirs,
    "duckdb": ours,
}


def obey(order: Order) -> float:
    """Seconds that the order's job takes in this process, once it is warm."""
    work = SIDES[order.side]
    session = None if order.side == "duckdb" else start_session(order)
    for job in (order.warm_up, order.job):
        if work is ours:
            make_project(job)
    work(order.warm_up, session)
    os.sync()
    return timed(lambda: work(order.job, session))


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
    from generate import generate

    shop, small = folder / "shop", folder / "small"
    stores = min(200, rows // 5_000)  # a shop of a million sales a year has all 200
    generate(shop, rows, FILES, min(200_000, rows // 5), stores, 10 * stores)
    generate(small, 10_000, files=2, customers=1_000, stores=5, salespeople=20, months=3)
    sources = {place: fill(server.database(), place / "shop.db") for place in (shop, small)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(tries):
        done = {}
        for side in sides if number % 2 == 0 else sides[::-1]:
            work = folder / f"{side}-{number}"
            jobs = [
                Job(str(at / "landing"), url, str(work / at.name), server.database().url)
                for at, url in sources.items()
            ]
            order = Order(side, os.cpu_count() or 1, str(work / "scratch"), jobs[1], jobs[0])
            seconds[side].append(process(order))
            done[side] = jobs[0]
            print(f"{rows:,} rows, {side}: {seconds[side][-1]:.1f} s", file=sys.stderr)
        if number == 0:
            compare(done)
        for side in sides:
            shutil.rmtree(folder / f"{side}-{number}")
    return seconds


def process(order: Order) -> float:
    """A side's seconds, from a process of its own."""
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
    return float(done.stdout.splitlines()[-1])


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
            if months != found[mart]:
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
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--obey", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.obey:
        told = json.load(sys.stdin)
        jobs = {name: Job(**told.pop(name)) for name in ("warm_up", "job")}
        print(obey(Order(**told, **jobs)))
        return
    if not DRIVER.exists():
        sys.exit(f"no JDBC driver at {DRIVER}: apt-get install libmariadb-java")
    from tests.services.mariadb import MariaDB

    with tempfile.TemporaryDirectory(prefix="bench-spark-", dir=options.work) as work:
        server = MariaDB(
            Path(work) / "server",
            options=["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"],
        )
        server.start()
        try:
            figures = {
                rows: measure(Path(work) / str(rows), rows, options.tries, options.sides, server)
                for rows in options.rows
            }
        finally:
            server.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
