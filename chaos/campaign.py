"""The fault campaign: every scenario, one after the other, and a table of what came of it.

    python -m chaos.campaign                       all, at full size (an hour or two)
    python -m chaos.campaign --small               all, a few minutes
    python -m chaos.campaign --only files --seed 7 one scenario again, by its seed

Exit code 0: every scenario was tried and nothing went wrong. 1: something did.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from chaos.result import Result, Tell

SEED = 20240401
BEGIN, END = "<!-- last run: begin -->", "<!-- last run: end -->"
_NOTES_SHOWN = 20


@dataclass(frozen=True)
class Scenario:
    """A module of this folder with a `run(seed, size, work, tell)`.

    `size` is what the module counts: kills, cuts, batches, files, …
    """

    name: str
    size: int
    small: int
    run: Callable[[int, int, Path, Tell], Result | list[Result]] | None = field(
        default=None, compare=False
    )

    def results(self, seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
        """Run it. A scenario that breaks is a fault of its own, and the others still run."""
        start = time.monotonic()
        try:
            run = self.run or import_module(f"chaos.{self.name}").run
            found = run(seed, size, work, tell)
        except (Exception, _Skipped) as error:
            words = "".join(traceback.format_exception(error)).strip()
            told = f"seed {seed}: the scenario itself broke off: {words}"
            seconds = time.monotonic() - start
            return [Result(self.name, {}, {"broken off": 1}, str(seed), seconds, (told,))]
        return found if isinstance(found, list) else [found]


def _skipped() -> type[BaseException]:
    """What a service raises that this machine cannot have: nothing was proven then."""
    try:
        from _pytest.outcomes import OutcomeException
    except ModuleNotFoundError:
        return Exception
    return OutcomeException


_Skipped = _skipped()

SCENARIOS = (
    Scenario("kills", 2_000, 150),
    Scenario("power", 200, 12),
    Scenario("stores", 1_000, 40),
    Scenario("databases", 100, 10),
    Scenario("concurrency", 500, 100),
    Scenario("files", 100_000, 2_000),
    Scenario("leaks", 1_000, 20),
    Scenario("names", 1, 1),
    Scenario("monitors", 2_000, 50),
)


def campaign(
    scenarios: Iterable[Scenario],
    seed: int,
    work: Path,
    tell: Tell,
    *,
    small: bool = False,
    size: int | None = None,
) -> list[Result]:
    """Run scenarios one after the other, each in a folder of its own below `work`.

    The folder of a scenario in which something went wrong is kept.
    """
    results: list[Result] = []
    for scenario in scenarios:
        folder = work / scenario.name
        folder.mkdir(parents=True)
        wanted = size or (scenario.small if small else scenario.size)
        tell(f"{scenario.name}: size {wanted:,}, seed {seed}")
        found = scenario.results(seed, wanted, folder, _named(scenario.name, tell))
        for result in found:
            tell(f"{result.scenario}: {verdict(result)} in {result.seconds:.0f} s")
        if all(result.passed for result in found):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            tell(f"{scenario.name}: what it left lies in {folder}")
        results += found
    return results


def _named(name: str, tell: Tell) -> Tell:
    return lambda words: tell(f"{name}: {words}")


def verdict(result: Result) -> str:
    """A result in a word or two."""
    if result.passed:
        return "no fault"
    found = sum(result.faults.values())
    return f"{found:,} faults" if found else "nothing was tried"


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    lines = ["| scenario | tries | faults found | seeds | seconds |", "|---|---|---|---|---:|"]
    lines += [
        f"| {_cell(r.scenario)} | {_counts(r.tries)} | {_counts(r.faults)} | {_cell(r.seeds)}"
        f" | {r.seconds:,.0f} |"
        for r in results
    ]
    notes = [f"- {r.scenario}: {_one_line(n)}" for r in results for n in r.notes[:_NOTES_SHOWN]]
    return "\n".join([*lines, *(["", "What was noted:", "", *notes] if notes else [])])


def report(results: Sequence[Result], seed: int, *, small: bool) -> str:
    """The part of docs/reliability.md that a run writes."""
    faults = sum(sum(result.faults.values()) for result in results)
    kind = "the small campaign" if small else "the campaign"
    cores = os.cpu_count()
    machine = f"{cores} cores, {platform.system()}, Python {platform.python_version()}"
    seconds = sum(result.seconds for result in results)
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {kind}, seed {seed}, {machine}:"
        f" {faults:,} faults in {seconds / 60:.0f} minutes.\n\n{table(results)}"
    )


def write_between(path: Path, text: str) -> None:
    """Put a run's table between the two marks of a page, in the place of the one before."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _counts(counts: Mapping[str, int]) -> str:
    return _cell(", ".join(f"{value:,} {name}" for name, value in counts.items()) or "none")


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= 500 else f"{shown[:500]}…"


def _tell(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, help="instead of the scenario's own")
    parser.add_argument("--small", action="store_true", help="a few minutes in all")
    parser.add_argument("--out", type=Path, help="the page whose table is written anew")
    parser.add_argument("--work", type=Path, help="where the scenarios work; kept if it is named")
    chosen = parser.parse_args(arguments)
    scenarios = [s for s in SCENARIOS if chosen.only is None or s.name in chosen.only]
    work = Path(tempfile.mkdtemp(prefix="retailmart-chaos-", dir=chosen.work))
    results = campaign(scenarios, chosen.seed, work, _tell, small=chosen.small, size=chosen.size)
    print(table(results))
    if chosen.out:
        write_between(chosen.out, report(results, chosen.seed, small=chosen.small))
    if passed := all(result.passed for result in results):
        shutil.rmtree(work, ignore_errors=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
