"""`retailmart maintain`: keep lake and ledger small and quick."""

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
    open_at,
    print_json,
)
from retailmart.stopping import stop_on_signals


def maintain(
    project: ProjectOption = Path(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="TABLE",
            help="Only the table of this name, as in sales.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Merge small files; remove what no version needs any more, and runs that had no work.

    No row changes: each table is proven before and after. What left a table stays for
    `maintenance.retention_days`.
    """
    from retailmart import console

    opened = open_at(project, settings)
    with stop_on_signals(), console.progress(quiet or dry_run) as progress:
        report = opened.maintain(dry_run=dry_run, tables=table or (), progress=progress)
    if output is Output.JSON:
        print_json(report.to_dict())
    elif not quiet:
        console.maintenance(report)
