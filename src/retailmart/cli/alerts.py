"""`retailmart alerts`: what is not well, and whether those who are to be told can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    exits,
    open_at,
    print_json,
    say,
)
from retailmart.errors import RetailmartError

if TYPE_CHECKING:
    from retailmart.report import Alert

app = typer.Typer(help="See what is worth an alert, and try who is told.", no_args_is_help=True)


@app.command("list", epilog=exits())
def alerts_list(
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """The alerts that are open, and those that have been over for less than 30 days."""
    found = open_at(project, settings).alerts_list()
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    for alert in found.open:
        _print("open", alert.opened_at, alert)
    for alert in found.over:
        _print("over", alert.closed_at or "", alert)
    if not (found.open or found.over):
        say("no alert", unless=quiet)
    if not found.targets:
        say("Nobody is told: retailmart.yml names no target under `alerts`", unless=quiet)


@app.command("test", epilog=exits(instead={1: "a target was not reached, or failed"}))
def alerts_test(
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Send a test message to every target of alerts, and say which of them did not take it."""
    found = open_at(project, settings).alerts_test()
    if output is Output.JSON:
        print_json(found.to_dict())
    else:
        from retailmart.console import one_line

        for one in found.targets:
            print(one_line(f"{one.target}: {one.problem or 'delivered'}"))
    if found.failed:
        count = f"{len(found.failed)} of {len(found.targets)}"
        raise RetailmartError(
            f"a test message did not reach {count} targets",
            "Correct `alerts.targets` in retailmart.yml or the secrets it names, and try again",
        )


def _print(state: str, at: str, alert: Alert) -> None:
    from retailmart.console import one_line

    print(one_line(f"{state}  {at[:16].replace('T', ' ')}  {alert.kind:<10}  {alert.message}"))
