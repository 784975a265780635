"""Measure loading JSON against a bare DuckDB `read_json` → Parquet of the same files.

Prints one JSON object: seconds of each try in turns, of users as JSON lines and as one array.
`ours` are the run's steps check and load, `run` all of its steps, `theirs` the bare script's query
and `same_table` a query that gives the same columns as ours, of the same types.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import duckdb

FEED: Final = """files: ["users*.json", "users*.jsonl"]
format: json
columns:
  market: {type: STRING, mandatory: true, folder: 1}
  customer_id: {type: BIGINT, mandatory: true, aliases: [Customer ID]}
  last_used_platform: {type: STRING, aliases: [Last Used Platform]}
  is_blocked: {type: BOOLEAN, aliases: [Is Blocked]}
  created_at: {type: TIMESTAMP, aliases: [Created At]}
  language: {type: STRING, aliases: [Language]}
  outstanding_amount: {type: "DECIMAL(12,2)", aliases: [Outstanding Amount]}
  loyalty_points: {type: INT, aliases: [Loyalty Points]}
  employees: {type: INT, aliases: [Number of employees]}
nulls: ["-"]
extra_columns: additional_column
"""
SAME_TABLE: Final = """SELECT 'market1' AS market, TRY_CAST("Customer ID" AS BIGINT) AS customer_id,
    "Last Used Platform" AS last_used_platform, TRY_CAST("Is Blocked" AS BOOLEAN) AS is_blocked,
    TRY_CAST("Created At" AS TIMESTAMPTZ) AS created_at, "Language" AS language,
    TRY_CAST("Outstanding Amount" AS DECIMAL(12,2)) AS outstanding_amount,
    TRY_CAST("Loyalty Points" AS INTEGER) AS loyalty_points,
    TRY_CAST("Number of employees" AS INTEGER) AS employees
FROM read_json({path}, columns = {{"Customer ID": 'VARCHAR', "Last Used Platform": 'VARCHAR',
    "Is Blocked": 'VARCHAR', "Created At": 'VARCHAR', "Language": 'VARCHAR',
    "Outstanding Amount": 'VARCHAR', "Loyalty Points": 'VARCHAR',
    "Number of employees": 'VARCHAR'}})"""
TRIES: Final = 3


def generate(folder: Path, rows: int) -> dict[str, Path]:
    """Users of one market, eight keys each, as JSON lines and as one array."""
    paths = {"lines": folder / "users.jsonl", "array": folder / "users.json"}
    with paths["lines"].open("w") as lines, paths["array"].open("w") as array:
        for number in range(rows):
            user = {
                "Customer ID": 1_000_000 + number,
                "Last Used Platform": ("ANDROID", "IOS", "WEB")[number % 3],
                "Is Blocked": ("Yes", "No")[number % 2],
                "Created At": f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}T10:00:00.000Z",
                "Language": "en",
                "Outstanding Amount": "-" if number % 10 == 0 else number * 7919 % 100000 / 100,
                "Loyalty Points": number * 31 % 1000,
                "Number of employees": str(number % 50),
            }
            text = json.dumps(user)
            lines.write(f"{text}\n")
            array.write(f"{', ' if number else '['}{text}")
        array.write("]\n")
    return paths


def ours(project: Path, path: Path, rows: int) -> tuple[float, float]:
    """Seconds of the steps that read JSON, and of the whole run, in a new project."""
    from retailmart import open_project
    from retailmart.template import write_project

    write_project(project, sample=False)
    for room, kind in (("marts", "*.sql"), ("feeds", "*.yml"), ("tables", "*.yml")):
        for path_of_shop in (project / room).glob(kind):
            path_of_shop.unlink()
    (project / "feeds" / "users.yml").write_text(FEED)
    landed = project / "landing" / "market1" / path.name
    landed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, landed)
    start = time.perf_counter()
    report = open_project(project, {}).run()
    whole = time.perf_counter() - start
    (line,) = report.batches[0].files
    if line.loaded != rows:
        raise SystemExit(f"{line.path}: {line.loaded} of {rows} records loaded")
    shutil.rmtree(project)
    return report.seconds["check"] + report.seconds["load"], whole


def theirs(query: str, target: Path) -> float:
    """Seconds of a query's way into a Parquet file, in a new database."""
    with duckdb.connect() as connection:
        start = time.perf_counter()
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)")
        return time.perf_counter() - start


def measure(folder: Path, rows: int) -> dict[str, dict[str, list[float]]]:
    """All tries of both files."""
    figures: dict[str, dict[str, list[float]]] = {}
    for form, path in generate(folder, rows).items():
        tries: dict[str, list[float]] = {"ours": [], "theirs": [], "same_table": [], "run": []}
        for _ in range(TRIES):
            read, whole = ours(folder / "project", path, rows)
            tries["ours"].append(read)
            tries["run"].append(whole)
            bare = f"SELECT * FROM read_json('{path}')"
            tries["theirs"].append(theirs(bare, folder / "bare.parquet"))
            same = SAME_TABLE.format(path=f"'{path}'")
            tries["same_table"].append(theirs(same, folder / "same.parquet"))
        figures[form] = tries
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-json-", dir=options.work) as work:
        print(json.dumps(measure(Path(work), options.rows)))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
