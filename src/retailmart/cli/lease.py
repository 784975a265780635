"""`retailmart lease`: who holds the project, and how a lease of a dead holder is broken."""

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
    exits,
    open_at,
    print_json,
    say,
    utc_text,
)
from retailmart.cli.status import process_of

if TYPE_CHECKING:
    from retailmart.operations.status import LeaseLine

app = typer.Typer(
    help="See who holds the project, and break the lease of a holder that is dead.",
    no_args_is_help=True,
)


@app.command("show", epilog=exits())
def lease_show(
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Who holds the project, since when, and whether it is alive; and leases that were broken."""
    from retailmart.console import one_line

    found = open_at(project, settings).lease_show()
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    if found.lease:
        print(one_line(_holder(found.lease)))
    elif not quiet:
        print("nobody holds the project")
    for one in found.broken:
        process = f", process {one.pid}" if one.pid else ""
        print(
            one_line(f"broken {utc_text(one.broken_at)} by {one.broken_by}: {one.holder}{process}")
        )


@app.command("break", epilog=exits(4))
def lease_break(
    project: ProjectOption = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although the holder seems to be alive.")
    ] = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Take the project from a holder that is known to be dead; it can write nothing more."""
    from retailmart.console import one_line

    def confirm(lease: LeaseLine) -> bool:
        say(one_line(_holder(lease)))
        return typer.confirm("Break its lease? It can write nothing more", err=True)

    opened = open_at(project, settings)
    found = (
        opened.lease_break(force=force) if yes else opened.lease_break(force=force, confirm=confirm)
    )
    if output is Output.JSON:
        print_json(found.to_dict())
    if found.lease is None:
        say("Nobody holds the project: there is no lease to break.", unless=quiet)
    else:
        say(
            f"The lease of the run on {found.lease.host} is broken, by {found.by}. Next:"
            " retailmart run",
            unless=quiet,
        )


def _holder(lease: LeaseLine) -> str:
    alive = "alive" if lease.fresh else f"not heard of in time, until {utc_text(lease.until)}"
    return f"a run on {lease.host} in {lease.folder}{process_of(lease)}: {alive}"
