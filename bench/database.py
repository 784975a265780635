"""Measure the database room against what it stands on: raw LOAD DATA LOCAL, and ConnectorX alone.

Prints one JSON object: seconds of each try, ours and theirs in turns, on a MariaDB of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import duckdb

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MART: Final = """-- refresh: full
-- key: [row_id]
-- publish: true
SELECT CAST(row_number() OVER (ORDER BY customer_id, product_name, day, price, total_cost)
    AS INTEGER) AS row_id, customer_id, product_name, day, price, total_cost
FROM (SELECT *, CAST(sales_date AS VARCHAR) AS day FROM sales)
"""
TABLE: Final = "every_sale"
TRIES: Final = 3


def timed(work: Callable[[], object]) -> float:
    """Seconds by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_project(folder: Path, rows: int, url: str) -> Any:
    """A project whose one mart is every sale, its sales loaded and its mart not yet published."""
    from generate import generate
    from retailmart import open_project
    from retailmart.template import write_project

    write_project(folder, sample=False)
    generate(folder, rows, files=4)
    for mart in (folder / "marts").glob("*.sql"):
        mart.unlink()
    (folder / "marts" / f"{TABLE}.sql").write_text(MART)
    return open_project(folder, {"database": url})


def publishing(folder: Path, rows: int, server: Any) -> dict[str, list[float]]:
    """Publish the mart into an empty database, and load the very rows from a ready CSV."""
    ours, theirs = [], []
    for number in range(TRIES):
        database = server.database()
        project = make_project(folder / str(number), rows, database.url)
        report = project.run()
        ours.append(report.seconds["publish"])
        ready = folder / f"{number}.csv"
        rows_of_mart = project.mart(TABLE).order("row_id").to_arrow_table()
        # Where marts are read, no file may be written.
        duckdb.connect().from_arrow(rows_of_mart).write_csv(str(ready), header=False)
        theirs.append(raw_load(database, ready, rows))
        server.drop(database)
    return {"ours": ours, "theirs": theirs}


def raw_load(database: Any, ready: Path, rows: int) -> float:
    """LOAD DATA LOCAL of a ready file into a table like ours."""
    with closing(database.connect(local_infile=True)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE raw_rows LIKE {TABLE}")

        def load() -> None:
            cursor.execute(
                f"LOAD DATA LOCAL INFILE '{ready}' INTO TABLE raw_rows CHARACTER SET utf8mb4"
                " FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY ''"
            )
            connection.commit()

        took = timed(load)
        cursor.execute("SELECT count(*) FROM raw_rows")
        (count,) = cursor.fetchone()
        cursor.execute(f"CHECKSUM TABLE raw_rows, {TABLE}")
        sums = {row[1] for row in cursor.fetchall()}
    if count != rows or len(sums) != 1:
        raise SystemExit(f"the raw load has {count} of {rows} rows, checksums {sums}")
    return took


def reading(folder: Path, rows: int, server: Any) -> dict[str, list[float]]:
    """Read a table of the shop with our room, and with ConnectorX alone in two partitions."""
    import connectorx

    from retailmart.database import open_database
    from retailmart.database.source import read_table

    database = server.database()
    fill(database, folder, rows)
    engine = open_database(database.url, folder, must_exist=True)
    ours, theirs = [], []
    for number in range(TRIES + 1):
        ours.append(timed(lambda: read_table(engine, "line")))
        theirs.append(
            timed(
                lambda: connectorx.read_sql(
                    database.url,
                    "SELECT * FROM line",
                    partition_on="line_id",
                    partition_num=2,
                    return_type="arrow",
                )
            )
        )
        if number == 0:  # the server's memory is filled by whoever comes first
            ours.clear()
            theirs.clear()
    engine.dispose()
    return {"ours": ours, "theirs": theirs}


def load_csv(database: Any, ready: Path, columns: str) -> None:
    """Make the table `line` of a ready file."""
    with closing(database.connect(local_infile=True)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE line ({columns})")
        cursor.execute(f"LOAD DATA LOCAL INFILE '{ready}' INTO TABLE line FIELDS TERMINATED BY ','")
        connection.commit()


def fill(database: Any, folder: Path, rows: int) -> None:
    """A table of a shop's kinds of columns."""
    ready = folder / "line.csv"
    duckdb.connect().sql(
        f"SELECT i AS line_id, i % 200000 AS customer_id, 'product ' || (i % 500) AS product,"
        " DATE '2023-01-01' + (i % 365)::INTEGER AS day, (i % 10000) / 100.0 AS price,"
        f" (i % 1000000) / 100.0 AS total FROM range({rows}) t(i)"
    ).write_csv(str(ready), header=False)
    load_csv(
        database,
        ready,
        "line_id INT PRIMARY KEY, customer_id INT, product VARCHAR(50), day DATE,"
        " price DECIMAL(12,2), total DECIMAL(14,2)",
    )


def main() -> None:
    """Command line."""
    from tests.support.services.mariadb import MariaDB

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-db-", dir=options.work) as work:
        folder = Path(work)
        server = MariaDB(
            folder / "server",
            options=["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"],
        )
        server.start()
        try:
            figures = {
                "publish": publishing(folder / "publish", options.rows, server),
                "read": reading(folder, options.rows, server),
            }
        finally:
            server.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
