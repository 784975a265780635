"""Measure retailmart against the bare baseline, as whole processes, and report in Markdown.

Figures are ratios of processes run in turns on one machine in one sitting: seconds differ from
machine to machine and from hour to hour, ratios far less. The outputs of both sides are compared
before anything is reported. A target that is missed is a result, exit code 0; a run that fails or
outputs that differ are not, exit code 1.

A measure is added in two places: what is run, in `take_figures`, and how it is judged, in
`MEASURES`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

HERE: Final = Path(__file__).resolve().parent
RETAILMART: Final = Path(sys.executable).parent / "retailmart"
UNSAFE: Final = (sys.executable, HERE / "undurable.py")
RUN: Final = ("run", "--as-of", "2024-01-01T00:00:00Z", "--output", "json")
MEMORY_LIMIT: Final = {"RETAILMART__MEMORY_LIMIT": "2GB"}
DAY_ROWS: Final = 50_000
FULL_ROWS: Final = 20_000_000
SMALL_ROWS: Final = 1_000_000


class BenchFailed(Exception):
    """A process failed or two outputs differ: there is nothing to report."""


@dataclass(frozen=True)
class Plan:
    """What is measured, how often, and where the files lie meanwhile."""

    work: Path
    rows: int
    pairs: int
    repeats: int
    spark: Path

    @property
    def database_rows(self) -> int:
        """Rows published to and read from MySQL: 2 M beside 20 M."""
        return min(2_000_000, self.rows // 5)

    @property
    def refreshed_rows(self) -> int:
        """Rows of the table that changes a little: 5 M beside 20 M."""
        return min(5_000_000, self.rows // 4)

    @property
    def spark_rows(self) -> int:
        """Rows of the full load on Spark that the others do, too: 5 M beside 20 M."""
        return self.rows // 4

    @property
    def base_rows(self) -> int:
        """Rows below the day in the small case: 1 M under 20 M."""
        return min(1_000_000, self.rows // 10)


@dataclass(frozen=True)
class Usage:
    """What one process took: seconds by the clock, CPU seconds (user + system), peak MB."""

    name: str
    wall: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True)
class OnSpark:
    """What bench/spark.py measured: by side, the figures of each try, of few rows and of many."""

    few: Mapping[str, Sequence[Mapping[str, float]]]
    many: Mapping[str, Sequence[Mapping[str, float]]]

    def median_of(self, side: str, figure: str, *, many: bool = False) -> float:
        """A side's median."""
        tries = self.many if many else self.few
        return median(one[figure] for one in tries[side])


@dataclass(frozen=True)
class Figures:
    """All processes measured; a pair is (retailmart, baseline)."""

    pairs: tuple[tuple[Usage, Usage], ...]
    day_on_full: tuple[Usage, ...]
    day_on_base: tuple[Usage, ...]
    nothing: tuple[Usage, ...]
    help: tuple[Usage, ...]
    limited: Usage
    unsafe: tuple[Usage, ...]
    database: Mapping[str, Mapping[str, Sequence[float]]]
    refresh: Mapping[str, Sequence[float]]
    json: Mapping[str, Mapping[str, Sequence[float]]]
    small_files: Sequence[float]
    spark: OnSpark | None

    def all(self) -> Iterable[Usage]:
        """Every process, in the order of the report."""
        for pair in self.pairs:
            yield from pair
        yield from self.unsafe
        yield from (*self.day_on_full, *self.day_on_base, *self.nothing, *self.help, self.limited)


@dataclass(frozen=True)
class Row:
    """One line of the report; `ok` is None where a figure has no target."""

    measure: str
    figure: str
    target: str
    ok: bool | None
    note: str


def full_load(figures: Figures) -> Row:
    """Full load ÷ baseline, the median of the ratios within each pair."""
    ratios = [ours.wall / theirs.wall for ours, theirs in figures.pairs]
    seconds = ", ".join(
        f"{ours.wall:.1f} s ÷ {theirs.wall:.1f} s" for ours, theirs in figures.pairs
    )
    return _ratio("full load ÷ bare DuckDB script", median(ratios), 1.0, seconds)


def full_load_cpu(figures: Figures) -> Row:
    """The same in CPU seconds, which busy neighbours disturb less."""
    ratios = [ours.cpu / theirs.cpu for ours, theirs in figures.pairs]
    seconds = ", ".join(f"{ours.cpu:.1f} s ÷ {theirs.cpu:.1f} s" for ours, theirs in figures.pairs)
    return Row("the same in CPU time", f"{median(ratios):.2f}", "", None, seconds)


def day_by_history(figures: Figures) -> Row:
    """A day on the full load ÷ the same day on the small one: cost follows the change."""
    full, base = _wall(figures.day_on_full), _wall(figures.day_on_base)
    return _ratio(
        "a day on the full load ÷ on the small one",
        full / base,
        1.3,
        f"{full:.2f} s ÷ {base:.2f} s",
    )


def day_by_full_load(figures: Figures) -> Row:
    """A day ÷ the full load it came on top of."""
    day, full = _wall(figures.day_on_full), _wall([ours for ours, _ in figures.pairs])
    return _ratio("a day ÷ the full load", day / full, 0.10, f"{day:.2f} s ÷ {full:.1f} s")


def nothing_to_do(figures: Figures) -> Row:
    """A run that finds landing empty."""
    return _seconds("nothing to do, whole process", figures.nothing, 0.7)


def help_text(figures: Figures) -> Row:
    """`retailmart --help`."""
    return _seconds("--help", figures.help, 0.25)


def peak_memory(figures: Figures) -> Row:
    """Peak memory of a full load with DuckDB held to 2 GB."""
    peak = figures.limited.peak_mb / 1000
    note = f"finished in {figures.limited.wall:.1f} s"
    return Row("peak memory, memory_limit 2GB", f"{peak:.2f} GB", "≤ 2.5 GB", peak <= 2.5, note)


def durability(figures: Figures) -> Row:
    """What syncs, hashing and a safe ledger add to the full load, each side's best of its tries."""
    ours = min(usage.wall for usage, _ in figures.pairs)
    unsafe = min(usage.wall for usage in figures.unsafe)
    price = ours / unsafe - 1
    note = f"{ours:.1f} s with, {unsafe:.1f} s without; best of {len(figures.unsafe)}"
    return Row("price of durability", f"{price:.1%}", "≤ 5 %", price <= 0.05, note)


def publish_rows(figures: Figures) -> Row:
    """Publishing 2 M rows into MySQL ÷ LOAD DATA LOCAL of the same rows from a ready file."""
    return _tries("publish 2 M rows ÷ LOAD DATA LOCAL", figures.database["publish"], 1.3)


def read_rows(figures: Figures) -> Row:
    """Reading a table of 2 M rows from MySQL ÷ ConnectorX alone, two partitions."""
    return _tries("read 2 M rows ÷ ConnectorX alone", figures.database["read"], 1.2)


def refresh_rows(figures: Figures) -> Row:
    """A run with 1 % of 5 M rows changed: read behind the cursor ÷ read whole, MySQL."""
    return _tries("1 % of 5 M rows changed, by cursor ÷ whole", figures.refresh, 0.15)


def json_lines(figures: Figures) -> Row:
    """Checking and loading JSON lines ÷ a bare read_json into Parquet."""
    return _tries("JSON lines ÷ bare read_json", figures.json["lines"], 1.3)


def json_array(figures: Figures) -> Row:
    """The same of one array."""
    return _tries("a JSON array ÷ bare read_json", figures.json["array"], 1.3)


def many_files(figures: Figures) -> Row:
    """2,000 files of ten sales in one batch, from landing to raw."""
    speed = median(figures.small_files)
    note = f"median of {len(figures.small_files)}"
    return Row("2,000 small files", f"{speed:,.0f} a second", "≥ 1,000", speed >= 1000, note)


def load_on_spark(figures: Figures) -> Row:
    """Four sales marts on Spark ÷ a PySpark script of tutorials, both in warm sessions."""
    measure, target = "four marts on Spark ÷ PySpark script of tutorials", 0.20
    if figures.spark is None or "theirs" not in figures.spark.few:
        lacks = "pip install '.[spark]'; apt install libmariadb-java"
        return Row(measure, "not measured", f"≤ {target:.2f}", None, lacks)
    ours, theirs, duckdb = (
        figures.spark.median_of(side, "seconds") for side in ("ours", "theirs", "duckdb")
    )
    note = f"{ours:.1f} s ÷ {theirs:.1f} s (DuckDB {duckdb:.1f} s)"
    return _ratio(measure, ours / theirs, target, note)


def cpu_on_spark(figures: Figures) -> Row:
    """The same ÷ retailmart on DuckDB, in processor time of all processes above the start."""
    return _on_spark(figures, "the same ÷ DuckDB engine, processor time", "cpu", 1.3)


def kinds_on_spark(figures: Figures) -> Row:
    """Marts of `avg`, `median`, ASOF and PIVOT ÷ the same on DuckDB, in processor time."""
    return _on_spark(figures, "avg, median, ASOF, PIVOT ÷ DuckDB, processor time", "kinds_cpu", 1.5)


def kinds_of_many_on_spark(figures: Figures) -> Row:
    """The same marts of four times the sales: a task's start costs the same, its work more."""
    measure = "the same of 20 M sales"
    return _on_spark(figures, measure, "kinds_cpu", 1.5, many=True)


def growth_on_spark(figures: Figures) -> Row:
    """Four times the sales ÷ once, by the clock."""
    measure, target = "20 M sales on Spark ÷ 5 M", 4.2
    if figures.spark is None:
        return Row(measure, "not measured", f"≤ {target:.2f}", None, "")
    many = figures.spark.median_of("ours", "seconds", many=True)
    few = figures.spark.median_of("ours", "seconds")
    return _ratio(measure, many / few, target, f"{many:.1f} s ÷ {few:.1f} s")


def _on_spark(
    figures: Figures, measure: str, figure: str, target: float, *, many: bool = False
) -> Row:
    if figures.spark is None:
        return Row(measure, "not measured", f"≤ {target:.2f}", None, "")
    ours, duckdb = (figures.spark.median_of(side, figure, many=many) for side in ("ours", "duckdb"))
    return _ratio(measure, ours / duckdb, target, f"{ours:.1f} s ÷ {duckdb:.1f} s")


MEASURES: Final[tuple[Callable[[Figures], Row], ...]] = (
    full_load,
    full_load_cpu,
    day_by_history,
    day_by_full_load,
    nothing_to_do,
    help_text,
    peak_memory,
    durability,
    publish_rows,
    read_rows,
    refresh_rows,
    json_lines,
    json_array,
    many_files,
    load_on_spark,
    cpu_on_spark,
    growth_on_spark,
    kinds_on_spark,
    kinds_of_many_on_spark,
)


def take_figures(plan: Plan) -> Figures:
    """Make the shops and run every process; the order keeps what later measures stand on."""
    full, base = plan.work / "full", plan.work / "base"
    _make_shop(full, plan.rows)
    _make_shop(base, plan.base_rows)
    database = _translate_errors(plan, "database", plan.database_rows)
    refresh = _translate_errors(plan, "tables", plan.refreshed_rows)
    json_load = _translate_errors(plan, "json_load", plan.base_rows)
    small_files = _translate_errors(plan, "files")
    spark = _spark(plan)
    limited = _load(full, "full load, memory_limit 2GB", MEMORY_LIMIT)
    unsafe, pairs = [], []
    for number in range(plan.pairs):
        unsafe.append(_load(full, "full load, not durable", program=UNSAFE))
        pairs.append(_pair(full, number))
    _load(base, "small load")
    for shop in (full, base):
        _keep(shop)
    days = [(_day(full), _day(base)) for _ in range(plan.repeats)]
    return Figures(
        pairs=tuple(pairs),
        unsafe=tuple(unsafe),
        database=database,
        refresh=refresh["refresh"],
        json=json_load,
        small_files=small_files["files"],
        spark=spark,
        day_on_full=tuple(on_full for on_full, _ in days),
        day_on_base=tuple(on_base for _, on_base in days),
        nothing=tuple(_run(full, "nothing to do") for _ in range(5)),
        help=tuple(_process("--help", [RETAILMART, "--help"], full) for _ in range(5)),
        limited=limited,
    )


def _make_shop(shop: Path, rows: int) -> None:
    """Generate a shop, in a process of its own.

    What a parent holds when it forks counts as its children's peak memory: this one stays small.
    """
    script = [sys.executable, HERE / "generate.py", shop, "--rows", rows, "--day-rows", DAY_ROWS]
    shop.mkdir(parents=True)
    _process(f"generate {rows:,} rows", script, shop)


def _pair(shop: Path, number: int) -> tuple[Usage, Usage]:
    """Load with both, taking turns in who goes first; the first pair's outputs are compared."""
    if number % 2:
        theirs, ours = _baseline(shop), _load(shop, "full load")
    else:
        ours, theirs = _load(shop, "full load"), _baseline(shop)
    if number == 0:
        _compare(shop)
    shutil.rmtree(shop / "baseline")
    return ours, theirs


def _translate_errors(
    plan: Plan, name: str, rows: int = 0, *options: object, python: Path | str = sys.executable
) -> Any:
    """What a script of this folder measured, in a process of its own."""
    script = [python, HERE / f"{name}.py", "--work", plan.work]
    if rows:
        script += ["--rows", rows]
    with tempfile.TemporaryFile() as told:
        _process(name, [*script, *options], plan.work, stdout=told)
        told.seek(0)
        return json.load(told)


def _spark(plan: Plan) -> OnSpark | None:
    """The figures on Spark; None where it is not installed."""
    asked = [plan.spark, "-c", "import pyspark"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        return None
    few = plan.spark_rows
    many = ("--more", plan.rows)
    told = _translate_errors(plan, "spark", few, *many, python=plan.spark)
    return OnSpark(told[str(few)], told[str(plan.rows)])


def _load(
    shop: Path,
    name: str,
    environment: dict[str, str] | None = None,
    program: Sequence[object] = (RETAILMART,),
) -> Usage:
    """Load all landing files into a new project."""
    project = shop / "project"
    shutil.rmtree(project, ignore_errors=True)
    _process("init", [RETAILMART, "init", project], shop)
    shutil.copyfile(shop / "shop.db", project / "shop.db")
    (project / "landing").mkdir(exist_ok=True)
    for path in sorted((shop / "landing").iterdir()):
        os.link(path, project / "landing" / path.name)
    return _run(shop, name, environment, program)


def _keep(shop: Path) -> None:
    """Set the loaded project aside, to start each day from."""
    (shop / "project").rename(shop / "loaded")


def _day(shop: Path) -> Usage:
    """Run the day's file on a fresh copy of the loaded project, at the path it was loaded at."""
    project = shop / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(shop / "loaded", project, symlinks=True, copy_function=_copy_or_link)
    os.link(shop / "sales_day.csv", project / "landing" / "sales_day.csv")
    return _run(shop, f"a day, {shop.name}")


def _copy_or_link(source: str, target: str) -> None:
    """Link what is never written twice, copy databases, logs and settings."""
    if source.endswith((".parquet", ".csv")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _run(
    shop: Path,
    name: str,
    environment: dict[str, str] | None = None,
    program: Sequence[object] = (RETAILMART,),
) -> Usage:
    """`retailmart run`; a file left in landing means that the work was not done."""
    project = shop / "project"
    usage = _process(name, [*program, *RUN], project, environment)
    left = [path.name for path in (project / "landing").rglob("*.csv")]
    if left:
        raise BenchFailed(f"{name}: still in landing after the run: {', '.join(left)}")
    return usage


def _baseline(shop: Path) -> Usage:
    return _process(
        "baseline", [sys.executable, HERE / "baseline.py", shop, shop / "baseline"], shop
    )


def _compare(shop: Path) -> None:
    project = shop / "project"
    outputs = [project / "lake", project / "retail.db", shop / "baseline"]
    _process("compare", [sys.executable, HERE / "compare.py", *outputs], shop)


def _process(
    name: str,
    command: Sequence[object],
    folder: Path,
    environment: dict[str, str] | None = None,
    stdout: IO[bytes] | None = None,
) -> Usage:
    """Run a process in `folder` to its end; where it fails, BenchFailed tells what it said last."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        # Without bytecode, which pip installs, each process would compile the program first.
        if not key.startswith("RETAILMART__") and key != "PYTHONDONTWRITEBYTECODE"
    }
    os.sync()  # What earlier processes left unwritten is not to be paid for by this one.
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=inherited | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=stdout or output,
            stderr=output,
        )
        _, status, resources = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-4000:]
            raise BenchFailed(f"{name}: exit code {process.returncode}\n{said}")
    usage = Usage(
        name=name,
        wall=wall,
        cpu=resources.ru_utime + resources.ru_stime,
        # Linux counts in KiB, macOS in bytes.
        peak_mb=resources.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024),
    )
    print(f"{name}: {wall:.2f} s, {usage.cpu:.2f} s CPU, {usage.peak_mb:.0f} MB", file=sys.stderr)
    return usage


def _wall(usages: Iterable[Usage]) -> float:
    return median(usage.wall for usage in usages)


def _ratio(measure: str, ratio: float, target: float, note: str) -> Row:
    return Row(measure, f"{ratio:.2f}", f"≤ {target:.2f}", ratio <= target, note)


def _tries(measure: str, tries: Mapping[str, Sequence[float]], target: float) -> Row:
    ours, theirs = median(tries["ours"]), median(tries["theirs"])
    note = f"{ours:.2f} s ÷ {theirs:.2f} s, median of {len(tries['ours'])}"
    return _ratio(measure, ours / theirs, target, note)


def _seconds(measure: str, usages: Sequence[Usage], target: float) -> Row:
    seconds = _wall(usages)
    note = f"median of {len(usages)}"
    return Row(measure, f"{seconds:.2f} s", f"≤ {target:.2f} s", seconds <= target, note)


def report(plan: Plan, figures: Figures) -> str:
    """The whole report in Markdown."""
    rows = [measure(figures) for measure in MEASURES]
    verdicts = {True: "ok", False: "short", None: ""}
    judged = [(r.measure, r.figure, r.target, verdicts[r.ok], r.note) for r in rows]
    processes = [
        (u.name, f"{u.wall:.2f}", f"{u.cpu:.2f}", f"{u.peak_mb:.0f}") for u in figures.all()
    ]
    return "\n".join(
        [
            "# Measured",
            "",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {os.cpu_count()} CPUs · "
            f"{platform.system()} · Python {platform.python_version()} · "
            f"DuckDB {version('duckdb')} · retailmart {version('retailmart')}",
            "",
            f"{plan.rows:,} rows, small load {plan.base_rows:,} rows, a day {DAY_ROWS:,} rows; "
            f"pairs in turns: {plan.pairs}, days on each load: {plan.repeats} (medians). "
            "Outputs compared: equal.",
            "",
            *_table(("measure", "figure", "target", "", "note"), judged),
            "",
            "## Every process",
            "",
            *_table(("process", "seconds", "CPU seconds", "peak MB"), processes),
            "",
        ]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure retailmart against bare DuckDB.")
    parser.add_argument("--rows", type=int, default=FULL_ROWS)
    parser.add_argument(
        "--small", action="store_true", help=f"{SMALL_ROWS:,} rows, once, in a few minutes"
    )
    parser.add_argument("--pairs", type=int, help="full loads of each side (3; 1 with --small)")
    parser.add_argument("--repeats", type=int, help="days on each load (5; 3 with --small)")
    parser.add_argument(
        "--spark", type=Path, default=Path(sys.executable), help="the Python that has pyspark"
    )
    parser.add_argument("--work", type=Path, help="existing folder to work in (a temporary one)")
    parser.add_argument(
        "--out", type=Path, help="report (results.md beside this file; none with --small)"
    )
    options = parser.parse_args()
    out: Path | None = options.out or (None if options.small else HERE / "results.md")
    with ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.work))
        plan = Plan(
            work=Path(work).resolve(),
            rows=SMALL_ROWS if options.small else options.rows,
            pairs=options.pairs or (1 if options.small else 3),
            repeats=options.repeats or (3 if options.small else 5),
            spark=options.spark.absolute(),
        )
        try:
            text = report(plan, take_figures(plan))
        except BenchFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
