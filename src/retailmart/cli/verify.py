"""`retailmart verify`: do engines and the database make the same of the lake's data?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    moment_of,
    names_in,
    open_at,
    print_json,
)
from retailmart.errors import GateFailed, SettingsError

if TYPE_CHECKING:
    from retailmart.api import OpenProject


def verify(
    marts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MART]...", help="With --database: these marts, default all."),
    ] = None,
    project: ProjectOption = Path(),
    database: Annotated[
        bool, typer.Option("--database", help="Compare the published tables with their marts.")
    ] = False,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            metavar="NAMES",
            help="One or more, with commas in between; default duckdb,spark.",
        ),
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(
            "--files", metavar="RUNS", help="Parse the files of so many last runs too, or of all."
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="Compute for this moment (UTC), default the lake's."
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Prove that engines make the same marts of the lake's data as lie there; exit 3 if not.

    With --database: that published tables show the rows of their marts.
    """
    if database:
        given = {"--engines": engines, "--files": files, "--as-of": as_of}
        if others := [name for name, value in given.items() if value is not None]:
            raise SettingsError(
                [f"--database compares tables with the lake: {', '.join(others)} can't be used"]
            )
        _verify_database(open_at(project, settings), marts or [], output, quiet)
        return
    if marts:
        raise SettingsError(["name marts with --database only: without it all are verified"])
    from retailmart import console
    from retailmart.project.settings import engines_named

    text = engines or "duckdb,spark"
    # Asked here, too, so that the option is named: the project's files could name engines as well.
    names, runs = engines_named(names_in(text), f"--engines {text}"), _runs_of(files)
    moment = moment_of(as_of)
    opened = open_at(project, settings)
    with console.progress(quiet) as progress:
        report = opened.verify(names, runs, moment, progress)
    if output is Output.JSON:
        print_json(report.to_dict())
    else:
        console.verification(report)
    if tables := dict.fromkeys(one.table for one in report.different):
        are = "table is" if len(tables) == 1 else "tables are"
        raise GateFailed(f"{len(tables)} {are} not the same: {', '.join(tables)}")


def _verify_database(
    opened: OpenProject, marts: Sequence[str], output: Output, quiet: bool
) -> None:
    from retailmart import console

    with console.progress(quiet) as progress:
        report = opened.verify_database(marts, progress)
    if output is Output.JSON:
        print_json(report.to_dict())
    else:
        console.database_verification(report)
    if names := [one.table or one.mart for one in report.different]:
        tables = "1 table does" if len(names) == 1 else f"{len(names)} tables do"
        raise GateFailed(
            f"{tables} not show what the mart holds: {', '.join(names)}",
        )


def _runs_of(text: str | None) -> int | None:
    """How many runs' files `--files 5` or `--files all` means, None for all."""
    if text is None:
        return 0
    if text == "all":
        return None
    if text.isdecimal() and int(text):
        return int(text)
    raise SettingsError([f"--files {text}: write a number of runs, or all"])
