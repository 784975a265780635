"""The command line: one short function a command; errors become exit codes here only.

What the codes mean is in `cli/common.py`. Results go to stdout, talk goes to stderr.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli import marts as marts_commands
from retailmart.cli import quarantine, schema, secrets
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
from retailmart.cli.doctor import doctor
from retailmart.errors import GateFailed, NotAllDone, RetailmartError, SettingsError

if TYPE_CHECKING:
    from retailmart.api import OpenProject
    from retailmart.report import RunReport

app = typer.Typer(
    help="Turn till exports into data marts that balance to the cent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(schema.app, name="schema")
app.add_typer(marts_commands.app, name="marts")
app.command(epilog=exits(instead={1: "there is a problem, or failed"}))(doctor)
app.add_typer(secrets.app, name="secrets")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"retailmart {version('retailmart')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """The options of `retailmart` itself."""


@app.command(epilog=exits())
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder.")],
    sample: Annotated[bool, typer.Option("--sample", help="Add a small sample shop.")] = False,
    parts: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="PARTS",
            help="What the shop has: tills, webshop, markets, with commas in between; default all.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a new project: settings, the retail feeds and marts, all yours to edit."""
    from retailmart.template import STORIES, write_project

    named = [name.strip() for name in parts.split(",")] if parts is not None else list(STORIES)
    write_project(folder, sample=sample, stories=[name for name in named if name])
    then = "run" if sample else "status    # it lists what to put where"
    say(f"Wrote {folder}. Next: cd {folder} && retailmart {then}", unless=quiet)


@app.command(epilog=exits(3, 4, 5))
def run(
    project: ProjectOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Compute for this moment (UTC), default now."),
    ] = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Bring everything that has landed into the marts, each file exactly once."""
    from retailmart import console

    moment = _moment(as_of)
    opened = open_at(project, settings)
    with console.watch(quiet) as watch:
        report = opened.run(moment, watch)
    _tell(report, output, quiet)


@app.command(epilog=exits(3, 4, 5))
def undo(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="Its number, as status lists it.")],
    project: ProjectOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            help="Compute for this moment (UTC), default that of the newest run that stays.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Take a run back out of raw, marts, database and archive, or say why that can't be."""
    from retailmart import console

    moment = _moment(as_of)
    opened = open_at(project, settings)
    with console.watch(quiet) as watch:
        report = opened.undo(run_id, moment, watch)
    _tell(report, output, quiet)


@app.command(epilog=exits(4))
def abandon(
    project: ProjectOption = Path(), settings: SetOption = None, quiet: QuietOption = False
) -> None:
    """Let an open batch go that is not prepared yet; its files stay in landing."""
    say(open_at(project, settings).abandon(), unless=quiet)


@app.command(epilog=exits())
def check(
    project: ProjectOption = Path(), settings: SetOption = None, quiet: QuietOption = False
) -> None:
    """Read all files of the project and tell every mistake. Only functions.py is executed."""
    from retailmart.report import number_of
    from retailmart.session import check_definitions, check_published_names, expect_one_feed

    opened = open_at(project, settings).project
    opened.check_secrets()
    expect_one_feed(opened)
    columns = check_definitions(opened)
    for words in opened.settings.spark.retired:
        say(f"settings: {words}")
    for table in check_published_names(opened, columns):
        say(f"{table.words}\n  {table.cure}")
    feeds, marts = number_of(len(opened.feeds), "feed"), number_of(len(opened.marts), "mart")
    say(f"{feeds} and {marts}, no mistake found", unless=quiet)


@app.command(epilog=exits(4, instead={3: "something differs"}))
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
    from retailmart import console
    from retailmart.cli.verify import engine_names, runs_wanted, verified
    from retailmart.session import Session

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
    names, runs = engine_names(engines or "duckdb,spark"), runs_wanted(files)
    moment = _moment(as_of)
    opened = open_at(project, settings).project
    with console.watch(quiet) as watch, Session.open(opened, watch) as session:
        report = verified(session, names, moment, runs)
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

    with console.watch(quiet) as watch:
        report = opened.verify_database(marts, watch)
    if output is Output.JSON:
        print_json(report.to_dict())
    else:
        console.database_verification(report)
    if names := [one.table or one.mart for one in report.different]:
        tables = "1 table does" if len(names) == 1 else f"{len(names)} tables do"
        raise GateFailed(
            f"{tables} not show what the mart holds: {', '.join(names)}",
        )


@app.command(epilog=exits())
def status(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, settings: SetOption = None
) -> None:
    """The last runs, the open batch, and files by state."""
    from retailmart.console import visible
    from retailmart.marts.definitions import held_marts
    from retailmart.session import expected_inputs

    opened = open_at(project, settings)
    with opened.ledger() as ledger:
        runs, batch, files = ledger.runs.last(10), ledger.batches.unfinished(), ledger.files.count()
        held, expected = held_marts(ledger.marts.all()), expected_inputs(opened.project, ledger)
    if output is Output.JSON:
        print_json(
            {
                "runs": [vars(line) for line in runs],
                "open_batch": vars(batch) if batch else None,
                "files": files,
                "held": held,
                "expected": expected,
            }
        )
        return
    for line in runs:
        step = f" in {line.failed_step}" if line.failed_step else ""
        words = visible(f"  {line.message.splitlines()[0]}") if line.message else ""
        print(f"run {line.run_id}  {line.started_at[:19]}  {line.state}{step}{words}")
    if batch:
        print(f"open batch {batch.batch_id} ({batch.state.value}): the next run finishes it")
    for name in held:
        print(f"held back  {name}: the last run tells why; the next one tries again")
    for state, count in sorted(files.items()):
        print(f"{count:>8,} {'file' if count == 1 else 'files'} {state}")
    if not runs:
        print("no run yet")
    for words in expected:
        print(visible(f"expected   {words}"))


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RetailmartError as error:
        say("\n  ".join([f"retailmart: {error}", *_notes(error)]))
        sys.exit(error.exit_code)
    except (OSError, KeyboardInterrupt) as error:
        words = f"retailmart: {str(error) or 'interrupted'}\n  Run again to go on: retailmart run"
        say("\n  ".join([words, *_notes(error)]))
        sys.exit(1)


def program() -> None:
    """The installed command: `main`, and an end even if the doctor still waits for an answer."""
    try:
        main()
    except SystemExit as end:
        if not _is_waiting():
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        # Else Python would take libraries apart that the waiting threads use, and they complain.
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _is_waiting() -> bool:
    doctor = sys.modules.get("retailmart.operations.doctor")
    return doctor is not None and any(
        thread.name == doctor.THREADS for thread in threading.enumerate()
    )


def _notes(error: BaseException) -> list[str]:
    """What was noted at an error on its way up: the step of the run in which it arose."""
    return list(getattr(error, "__notes__", ()))


def _tell(report: RunReport, output: Output, quiet: bool) -> None:
    """Print what a run did; NotAllDone where it is done but for something."""
    from retailmart import console

    console.summary(report, quiet)
    if output is Output.JSON:
        print_json(report.to_dict())
    if problems := [*_held(report), *_all_refused(report)]:
        words = "the run is done, but:\n  " + "\n  ".join(problems)
        raise NotAllDone(words, "Nothing is lost: the next run tries again what is held back")


def _held(report: RunReport) -> Iterator[str]:
    if count := len(report.held):
        marts = f"{count} marts are" if count > 1 else "1 mart is"
        yield f"{marts} held back at the last good state"
    for one in sorted(report.held, key=lambda one: one.cause is not None):
        yield f"{one.mart}: {one.message}"
        if one.hint:
            yield f"  {one.hint}"
    for table, why in report.unreadable.items():
        yield f"table {table}: {why}"


def _all_refused(report: RunReport) -> Iterator[str]:
    for path in report.all_refused:
        yield f"{path}: all of its rows are refused"
        yield f"  See: retailmart quarantine show {path}; then deliver it again, corrected"


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
