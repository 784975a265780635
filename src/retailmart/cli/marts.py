"""`retailmart marts`: what is left in the database of marts that are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retailmart.cli.common import ProjectOption, QuietOption, SetOption, exits, open_at, say
from retailmart.stopping import stop_on_signals

app = typer.Typer(help="Tables of marts that are gone.", no_args_is_help=True)


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
