"""`retailmart backfill` and `retailmart rebuild`: what was loaded or built is so again."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from retailmart.cli.common import (
    LogOption,
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    moment_of,
)
from retailmart.cli.runs import opened_to_run, tell_run
from retailmart.errors import SettingsError
from retailmart.stopping import stop_on_signals

AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="Compute for this moment (UTC), default now."),
]
FeedArgument = Annotated[
    str, typer.Argument(metavar="FEED", help="The feed, as in feeds/FEED.yml.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="DAY",
        help="Only files that came on this day (UTC) or later, as in 2024-03-01.",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="DAY", help="Only files that came on this day or earlier."),
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-missing", help="Leave files as they are that the archive no longer has."),
]
MartsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="MART...", help="The marts to build again.")
]
EveryOption = Annotated[bool, typer.Option("--all", help="Build every mart again.")]


def backfill(
    feed: FeedArgument,
    project: ProjectOption = Path(),
    start: FromOption = None,
    end: ToOption = None,
    skip_missing: SkipOption = False,
    as_of: AsOfOption = None,
    output: OutputOption = Output.TEXT,
    log: LogOption = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Read archived files of a feed again, as its definition is now: one batch, all or nothing.

    The day on which a file came is that of its folder in the archive.
    """
    moment, first, last = moment_of(as_of), day_of(start, "--from"), day_of(end, "--to")
    with stop_on_signals():
        with opened_to_run(project, settings, "backfill", log, quiet) as one:
            report = one.opened.backfill(
                feed, first, last, moment, one.progress, one.observers, skip_missing=skip_missing
            )
        tell_run(report, output, quiet)


def rebuild(
    marts: MartsArgument = None,
    project: ProjectOption = Path(),
    every: EveryOption = False,
    as_of: AsOfOption = None,
    output: OutputOption = Output.TEXT,
    log: LogOption = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Build marts, and those that read them, again from all rows of raw, and publish them."""
    names, moment = named_marts(marts, every), moment_of(as_of)
    with stop_on_signals():
        with opened_to_run(project, settings, "rebuild", log, quiet) as one:
            report = one.opened.rebuild(names, moment, one.progress, one.observers)
        tell_run(report, output, quiet)


def named_marts(marts: list[str] | None, every: bool) -> list[str] | None:
    """The marts that a command names; None is all of them."""
    if bool(marts) == every:
        raise SettingsError(["name marts, or give --all"], "List them with: retailmart marts")
    return marts or None


def day_of(text: str | None, option: str) -> date | None:
    """The day that an option names; SettingsError for anything else."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError([f"{option} {text}: write the day as 2024-01-31"]) from error
