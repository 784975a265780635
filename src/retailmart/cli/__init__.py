"""The command line: one short function a command; errors become exit codes here only.

What the codes mean is in `cli/common.py`. Results go to stdout, talk goes to stderr.
"""

from __future__ import annotations

import os
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from retailmart.cli import alerts, lease, plan, quarantine, schema, secrets
from retailmart.cli import marts as marts_commands
from retailmart.cli.ask import show, sql
from retailmart.cli.backfill import backfill, rebuild
from retailmart.cli.common import (
    LogOption,
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    Talk,
    exits,
    moment_of,
    names_in,
    open_at,
    print_error,
    say,
    talk,
)
from retailmart.cli.dagster import tell_dagster
from retailmart.cli.doctor import doctor
from retailmart.cli.explain import explain
from retailmart.cli.maintain import maintain
from retailmart.cli.report import report
from retailmart.cli.runs import opened_to_run, tell_run
from retailmart.cli.settings import settings_command
from retailmart.cli.status import status
from retailmart.cli.verify import verify
from retailmart.cli.watch import watch
from retailmart.errors import Interrupted, RetailmartError
from retailmart.shortages import shortage_of
from retailmart.stopping import stop_on_signals

# What the library of the command line ends with, without an error of ours.
_USAGE, _INTERRUPTED = 2, 130

app = typer.Typer(
    help="Turn till exports into data marts that balance to the cent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(plan.app, name="plan")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(schema.app, name="schema")
app.add_typer(marts_commands.app, name="marts")
app.command(epilog=exits(instead={1: "there is a problem, or failed"}))(doctor)
app.add_typer(secrets.app, name="secrets")
app.add_typer(lease.app, name="lease")
app.add_typer(alerts.app, name="alerts")


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
    from retailmart.api import create_project

    create_project(folder, sample=sample, parts=None if parts is None else names_in(parts))
    then = "run" if sample else "status    # it lists what to put where"
    say(f"Wrote {folder}. Next: cd {folder} && retailmart {then}", unless=quiet)


@app.command(epilog=exits(3, 4, 5, 130, 143))
def run(
    project: ProjectOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Compute for this moment (UTC), default now."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Do just what the file of a plan says, or nothing.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
    log: LogOption = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Bring everything that has landed into the marts, each file exactly once."""
    moment = moment_of(as_of)
    with stop_on_signals():
        with opened_to_run(project, settings, "run", log, quiet) as one:
            report = one.opened.run(moment, one.progress, one.observers, plan=plan_file)
        tell_dagster(report)
        tell_run(report, output, quiet)


app.command(epilog=exits(3, 4, 5, 130, 143))(watch)


@app.command(epilog=exits(3, 4, 5, 130, 143))
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
    log: LogOption = None,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Take a run back out of raw, marts, database and archive, or say why that can't be."""
    moment = moment_of(as_of)
    with stop_on_signals():
        with opened_to_run(project, settings, "undo", log, quiet) as one:
            report = one.opened.undo(run_id, moment, one.progress, one.observers)
        tell_run(report, output, quiet)


app.command(epilog=exits(3, 4, 5, 130, 143))(backfill)
app.command(epilog=exits(3, 4, 5, 130, 143))(rebuild)


@app.command(epilog=exits(4, 130, 143))
def abandon(
    project: ProjectOption = Path(), settings: SetOption = None, quiet: QuietOption = False
) -> None:
    """Let an open batch go that is not prepared yet; its files stay in landing."""
    with stop_on_signals():
        message = open_at(project, settings).abandon()
    say(message, unless=quiet)


@app.command(epilog=exits())
def check(
    project: ProjectOption = Path(), settings: SetOption = None, quiet: QuietOption = False
) -> None:
    """Read all files of the project and show every mistake. Only functions.py is executed."""
    from retailmart.report import number_of

    report = open_at(project, settings).check()
    for message in report.retired:
        say(f"settings: {message}")
    for table in report.left_tables:
        say(f"{table.message}\n  {table.fix}")
    for what, why in report.unasked.items():
        say(f"{what} was not asked: {why}")
    feeds, marts = number_of(report.feeds, "feed"), number_of(report.marts, "mart")
    where = " in what could be asked" if report.unasked else ""
    say(f"{feeds} and {marts}, no mistake found{where}", unless=quiet)


app.command(epilog=exits(4, instead={3: "something differs"}))(verify)


app.command(epilog=exits(3, 4, 130, 143))(maintain)
app.command(epilog=exits())(status)
app.command(epilog=exits(4))(show)
app.command(epilog=exits(4))(sql)
app.command(
    epilog=exits(4),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(explain)
app.command(epilog=exits(4))(report)
app.command("settings", epilog=exits())(settings_command)


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    vars(talk).update(vars(Talk()))
    try:
        app()
    except RetailmartError as error:
        told = "\n  ".join([f"retailmart: {error}", *_notes(error)])
        say(told, unless=talk.is_told, level="error")
        print_error(error.message, error.hint, type(error).__name__, error.exit_code)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if isinstance(end.code, int) and end.code:
            message = "interrupted" if end.code == _INTERRUPTED else "see what stderr says"
            print_error(message, None, "Usage" if end.code == _USAGE else "Exit", end.code)
        raise
    except (Exception, KeyboardInterrupt) as error:
        lacking = shortage_of(error)
        if lacking is None and not isinstance(error, OSError | KeyboardInterrupt):
            raise
        again = "Run again to go on: retailmart run"
        known = lacking or RetailmartError(str(error) or "interrupted", again)
        told = "\n  ".join([f"retailmart: {known}", *_notes(error)])
        say(told, unless=talk.is_told, level="error")
        code = Interrupted.exit_code if isinstance(error, KeyboardInterrupt) else 1
        print_error(known.message, known.hint, type(error).__name__, code)
        sys.exit(code)


def program() -> None:
    """The installed command: `main`, and an end even if a thread still waits for an answer."""
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
    names = {
        module.THREADS
        for name in ("retailmart.operations.doctor", "retailmart.monitoring.targets")
        if (module := sys.modules.get(name)) is not None
    }
    return any(thread.name in names for thread in threading.enumerate())


def _notes(error: BaseException) -> list[str]:
    """What was noted at an error on its way up: the step of the run in which it arose."""
    return list(getattr(error, "__notes__", ()))
