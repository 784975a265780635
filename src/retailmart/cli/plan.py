"""`retailmart plan`: what a command would do, in files, rows and money, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.backfill import (
    EveryOption,
    FeedArgument,
    FromOption,
    MartsArgument,
    SkipOption,
    ToOption,
    day_of,
    named_marts,
)
from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    exits,
    moment_of,
    open_at,
    print_json,
    say,
)
from retailmart.stopping import stop_on_signals

if TYPE_CHECKING:
    from retailmart.operations.plan.make import RunPlan

app = typer.Typer(help="See what a command would do, in files, rows and money.")

_MomentOption = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="Plan for this moment (UTC), default as the run."),
]
_FileOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Keep the plan here, for `retailmart run --plan FILE`."
    ),
]


@app.callback(invoke_without_command=True, epilog=exits(3, 4, 5, 130, 143))
def plan(
    context: typer.Context,
    project: ProjectOption = Path(),
    as_of: _MomentOption = None,
    out: _FileOption = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """See what `retailmart run` would do now: files, rows and money by month. Nothing changes.

    The exit code is the one that the run would have.
    """
    if context.invoked_subcommand is None:
        moment = moment_of(as_of)
        with stop_on_signals():
            _tell(open_at(project, settings).plan(moment), out, output, quiet)


@app.command("undo", epilog=exits(3, 4, 5, 130, 143))
def plan_undo(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Its number, as status lists it.")],
    project: ProjectOption = Path(),
    as_of: _MomentOption = None,
    out: _FileOption = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """See what the undo of a run would do now."""
    moment = moment_of(as_of)
    with stop_on_signals():
        _tell(open_at(project, settings).plan_undo(run_id, moment), out, output, quiet)


@app.command("backfill", epilog=exits(3, 4, 5, 130, 143))
def plan_backfill(
    feed: FeedArgument,
    project: ProjectOption = Path(),
    start: FromOption = None,
    end: ToOption = None,
    skip_missing: SkipOption = False,
    as_of: _MomentOption = None,
    out: _FileOption = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """See what reading archived files of a feed again would change."""
    moment, first, last = moment_of(as_of), day_of(start, "--from"), day_of(end, "--to")
    with stop_on_signals():
        opened = open_at(project, settings)
        found = opened.plan_backfill(feed, first, last, moment, skip_missing=skip_missing)
        _tell(found, out, output, quiet)


@app.command("rebuild", epilog=exits(3, 4, 5, 130, 143))
def plan_rebuild(
    marts: MartsArgument = None,
    project: ProjectOption = Path(),
    every: EveryOption = False,
    as_of: _MomentOption = None,
    out: _FileOption = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """See what building marts again would change: what others did to them."""
    names = named_marts(marts, every)
    moment = moment_of(as_of)
    with stop_on_signals():
        _tell(open_at(project, settings).plan_rebuild(names, moment), out, output, quiet)


def _tell(found: RunPlan, out: Path | None, output: Output, quiet: bool) -> None:
    if output is Output.JSON:
        print_json(found.to_dict())
    else:
        from retailmart import console

        console.print_plan(found)
    if out is not None:
        found.write(out)
        say(f"Kept in {out}. Do just this: retailmart run --plan {out}", unless=quiet)
    if found.exit_code:
        raise typer.Exit(found.exit_code)
