"""Measure what reading behind a cursor saves: 1 % of a large table changed, against all of it.

Prints one JSON object: seconds of each try, `ours` by cursor and `theirs` whole, in turns, on a
MariaDB of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import duckdb

from database import load_csv

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TRIES: Final = 3
READINGS: Final = {
    "ours": "key: [line_id]\nrefresh: incremental\ncursor: changed_at\n",
    "theirs": "key: [line_id]\nrefresh: full\n",
}


def make_project(folder: Path, url: str, table: str) -> Any:
    """A project that brings one table into the lake, and nothing else."""
    from retailmart import open_project
    from retailmart.template import write_project

    write_project(folder, sample=False)
    for path in [*folder.glob("marts/*"), *folder.glob("feeds/*"), *folder.glob("tables/*")]:
        path.unlink()
    (folder / "tables" / "line.yml").write_text(table)
    return open_project(folder, {"sources": {"shop": url}})


def fill(database: Any, folder: Path, rows: int) -> None:
    """Lines of orders, each with the second it was changed last."""
    ready = folder / "line.csv"
    duckdb.connect().sql(
        f"SELECT i AS line_id, i // 4 AS order_id, 'product ' || (i % 500) AS product,"
        " DATE '2023-01-01' + (i % 365)::INTEGER AS day, (i % 10000) / 100.0 AS price,"
        f" TIMESTAMP '2024-01-01' + to_seconds(i) AS changed_at FROM range({rows}) t(i)"
    ).write_csv(str(ready), header=False)
    load_csv(
        database,
        ready,
        "line_id INT PRIMARY KEY, order_id INT, product VARCHAR(50), day DATE,"
        " price DECIMAL(12,2), changed_at DATETIME, INDEX (changed_at)",
    )


def refresh(folder: Path, rows: int, database: Any) -> dict[str, list[float]]:
    """Change one row in a hundred, then run both; what they hold in the end must be the same."""
    fill(database, folder, rows)
    projects = {
        side: make_project(folder / side, database.url, table) for side, table in READINGS.items()
    }
    for project in projects.values():
        project.run()
    seconds: dict[str, list[float]] = {side: [] for side in projects}
    for number in range(TRIES):
        database.execute(
            "UPDATE line SET price = price + 1, changed_at ="
            f" '2025-01-01' + INTERVAL ({number * rows} + line_id) SECOND"
            f" WHERE line_id % 100 = {number}"
        )
        for side, project in projects.items():
            start = time.perf_counter()
            report = project.run()
            seconds[side].append(time.perf_counter() - start)
            if report.nothing_to_do:
                raise SystemExit(f"{side}: the change was not seen")
    sums = {side: total(folder / side) for side in projects}
    if len(set(sums.values())) != 1:
        raise SystemExit(f"the two ways differ: {sums}")
    return seconds


def total(folder: Path) -> tuple[Any, ...]:
    """Rows and money of the newest version of each line in the lake."""
    files = str(folder / "lake" / "raw" / "line" / "**" / "*.parquet")
    newest = "QUALIFY row_number() OVER (PARTITION BY line_id ORDER BY changed_at DESC) = 1"
    found = (
        duckdb.connect()
        .sql(
            f"SELECT count(*), sum(price) FROM (SELECT * FROM read_parquet('{files}',"
            f" union_by_name = true, hive_partitioning = false) {newest})"
        )
        .fetchall()
    )
    return tuple(found[0])


def main() -> None:
    """Command line."""
    from tests.support.services.mariadb import MariaDB

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-tables-", dir=options.work) as work:
        folder = Path(work)
        server = MariaDB(folder / "server", options=["--innodb-buffer-pool-size=1G"])
        server.start()
        try:
            figures = {"refresh": refresh(folder, options.rows, server.database())}
        finally:
            server.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
