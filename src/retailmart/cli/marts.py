"""`retailmart marts`: those there are, and tables left of those that are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from retailmart.stopping import stop_on_signals

app = typer.Typer(help="See the marts, and drop tables of those that are gone.")


@app.callback(invoke_without_command=True, epilog=exits())
def marts(
    context: typer.Context,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """See the marts: what each is, rows, months, when it was built, its table in the database."""
    if context.invoked_subcommand is None:
        marts_list(project, output, settings)


@app.command("list", epilog=exits())
def marts_list(
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """The same as `retailmart marts`."""
    found = open_at(project, settings).marts_list()
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    from retailmart.console import print_marts

    print_marts(found)


@app.command("drop", epilog=exits(4, 130, 143))
def marts_drop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The table, as check names it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    project: ProjectOption = Path(),
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Drop a published table whose mart is gone from the database; the lake keeps its rows."""
    opened = open_at(project, settings)
    if not yes:
        typer.confirm(f"Drop the table {name} from the database?", abort=True, err=True)
    with stop_on_signals():
        dropped = opened.drop_table(name)
    if dropped:
        say(f"Table {name} is dropped; the lake keeps what it showed", unless=quiet)
    else:
        say(f"There was no table {name} any more; the ledger has forgotten it", unless=quiet)
