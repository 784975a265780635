"""`retailmart report`: the shop on one page."""

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
    say,
)


def report(
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="The file; default reports/report.html."),
    ] = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML file: what needs a person, what the last run did, and what marts hold."""
    written = open_at(project, settings).report(to)
    if output is Output.JSON:
        print_json(written.to_dict())
    else:
        say(f"Wrote the report, {written.size / 1000:,.0f} kB. Open it in a browser:", unless=quiet)
        print(written.path)
