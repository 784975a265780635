"""`retailmart doctor`: does everything around the project allow what runs do?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    open_at,
    print_json,
    say,
)

if TYPE_CHECKING:
    from retailmart.check_results import CheckResult


def doctor(
    project: ProjectOption = Path(),
    spark: Annotated[bool, typer.Option("--spark", help="Check Java and Spark too.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for answers.")
    ] = 25.0,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check the project, database, sources, stores and this machine; each result with its fix."""
    from retailmart.report import number_of

    each = _print if output is Output.TEXT else None
    report = open_at(project, settings).doctor(spark=spark, seconds=timeout, each=each)
    if output is Output.JSON:
        print_json(report.to_dict())
    checks, problems = (
        number_of(len(report.results), "check"),
        number_of(report.problems, "problem"),
    )
    say(f"{checks}: {problems}, {number_of(report.warnings, 'warning')}", unless=quiet)
    if report.problems:
        raise typer.Exit(1)


def _print(result: CheckResult) -> None:
    from retailmart.console import visible

    print(visible(f"{result.level.value:<8} {result.check:<28} {result.found}"), flush=True)
    if result.fix:
        print(visible(f"{'':<8} {'':<28} → {result.fix}"), flush=True)
