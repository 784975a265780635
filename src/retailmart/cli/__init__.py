"""The command line: one short function a command; errors become exit codes here only.

0 done, nothing to do included; 1 failed; 2 usage or settings; 3 a quality gate or a total failed;
4 another run holds the project. Results go to stdout, talk goes to stderr.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from retailmart.cli import quarantine, schema, secrets
from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    SetOption,
    open_at,
    print_json,
    say,
)
from retailmart.cli.doctor import doctor
from retailmart.errors import GateFailed, RetailmartError, SettingsError

app = typer.Typer(
    help="Turn till exports into data marts that balance to the cent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(schema.app, name="schema")
app.command()(doctor)
app.add_typer(secrets.app, name="secrets")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder.")],
    sample: Annotated[bool, typer.Option("--sample", help="Add a small sample shop.")] = False,
) -> None:
    """Write a new project: settings, the retail feeds and marts, all yours to edit."""
    from retailmart.template import write_project

    write_project(folder, sample=sample)
    say(f"Wrote {folder}. Next: cd {folder} && retailmart run")


@app.command()
def run(
    project: ProjectOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Compute for this moment (UTC), default now."),
    ] = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Bring everything that has landed into the marts, each file exactly once."""
    from retailmart import console

    moment = _moment(as_of)
    opened = open_at(project, settings)
    with console.watch() as watch:
        report = opened.run(moment, watch)
    console.summary(report)
    if output is Output.JSON:
        print_json(report.to_dict())


@app.command()
def undo(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Its number, as status lists it.")],
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Take a run back out of raw, marts, database and archive, or say why that can't be."""
    from retailmart import console

    opened = open_at(project, settings)
    with console.watch() as watch:
        report = opened.undo(run_id, None, watch)
    console.summary(report)
    if output is Output.JSON:
        print_json(report.to_dict())


@app.command()
def check(project: ProjectOption = Path(), settings: SetOption = None) -> None:
    """Read all files of the project and tell every mistake. Only functions.py is executed."""
    from retailmart.house import check_functions

    opened = open_at(project, settings).project
    opened.check_secrets()
    check_functions(opened)
    say(f"{len(opened.feeds)} feeds and {len(opened.marts)} marts, no mistake found")


@app.command()
def verify(
    project: ProjectOption = Path(),
    engines: Annotated[
        str,
        typer.Option("--engines", metavar="NAMES", help="One or more, with commas in between."),
    ] = "duckdb,spark",
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
) -> None:
    """Prove that engines make the same marts of the lake's data as lie there; exit 3 if not."""
    from retailmart import console
    from retailmart.cli.verify import engine_names, runs_wanted, verified
    from retailmart.house import House

    names, runs, moment = engine_names(engines), runs_wanted(files), _moment(as_of)
    opened = open_at(project, settings).project
    with console.watch() as watch, House.open(opened, watch) as house:
        report = verified(house, names, moment, runs)
    if output is Output.JSON:
        print_json(report.to_dict())
    else:
        console.verification(report)
    if tables := dict.fromkeys(one.table for one in report.different):
        are = "table is" if len(tables) == 1 else "tables are"
        raise GateFailed(f"{len(tables)} {are} not the same: {', '.join(tables)}")


@app.command()
def status(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, settings: SetOption = None
) -> None:
    """The last runs, the open batch, and files by state."""
    from retailmart.console import visible

    with open_at(project, settings).ledger() as ledger:
        runs, batch, files = ledger.last_runs(10), ledger.open_batch(), ledger.count_files()
    if output is Output.JSON:
        print_json(
            {
                "runs": [vars(line) for line in runs],
                "open_batch": vars(batch) if batch else None,
                "files": files,
            }
        )
        return
    for line in runs:
        words = visible(f"  {line.message.splitlines()[0]}") if line.message else ""
        print(f"run {line.run_id}  {line.started_at[:19]}  {line.state}{words}")
    if batch:
        print(f"open batch {batch.batch_id} ({batch.state.value}): the next run finishes it")
    for state, count in sorted(files.items()):
        print(f"{count:>8,} files {state}")
    if not runs:
        print("no run yet")


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RetailmartError as error:
        say(f"retailmart: {error}")
        sys.exit(error.exit_code)
    except (OSError, KeyboardInterrupt) as error:
        say(f"retailmart: {str(error) or 'interrupted'}\n  Run again to go on: retailmart run")
        sys.exit(1)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            [f"--as-of {text}: write it as 2024-01-31 or 2024-01-31T18:30:00Z"]
        ) from error
