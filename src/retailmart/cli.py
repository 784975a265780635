"""The command line: one short function a command; errors become exit codes here only.

0 done, nothing to do included; 1 failed; 2 usage or settings; 3 a quality gate or a total failed;
4 another run holds the project. Results go to stdout, talk goes to stderr.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import Enum, StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retailmart.errors import RetailmartError, SettingsError

if TYPE_CHECKING:
    from retailmart.door import OpenProject

app = typer.Typer(
    help="Turn till exports into data marts that balance to the cent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
quarantine = typer.Typer(help="Look at refused rows.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")


class Output(StrEnum):
    """How results are told."""

    TEXT = "text"
    JSON = "json"


ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", help="The project's folder.", envvar="RETAILMART_PROJECT")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or json on stdout.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in lake=/data/lake."),
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder.")],
    sample: Annotated[bool, typer.Option("--sample", help="Add a small sample shop.")] = False,
) -> None:
    """Write a new project: settings, the retail feeds and marts, all yours to edit."""
    from retailmart.template import write_project

    write_project(folder, sample=sample)
    _say(f"Wrote {folder}. Next: cd {folder} && retailmart run")


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
    opened = _open(project, settings)
    with console.watch() as watch:
        report = opened.run(moment, watch)
    console.summary(report)
    if output is Output.JSON:
        _print_json(report.to_dict())


@app.command()
def check(project: ProjectOption = Path(), settings: SetOption = None) -> None:
    """Read all files of the project and tell every mistake, without running anything."""
    opened = _open(project, settings).project
    _say(f"{len(opened.feeds)} feeds and {len(opened.marts)} marts, no mistake found")


@app.command()
def status(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, settings: SetOption = None
) -> None:
    """The last runs, the open batch, and files by state."""
    with _open(project, settings).ledger() as ledger:
        runs, batch, files = ledger.last_runs(10), ledger.open_batch(), ledger.count_files()
    if output is Output.JSON:
        _print_json(
            {
                "runs": [vars(line) for line in runs],
                "open_batch": vars(batch) if batch else None,
                "files": files,
            }
        )
        return
    for line in runs:
        words = f"  {line.message}" if line.message else ""
        print(f"run {line.run_id}  {line.started_at[:19]}  {line.state}{words}")
    if batch:
        print(f"open batch {batch.batch_id} ({batch.state.value}): the next run finishes it")
    for state, count in sorted(files.items()):
        print(f"{count:>8,} files {state}")
    if not runs:
        print("no run yet")


@quarantine.command("list")
def quarantine_list(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, settings: SetOption = None
) -> None:
    """Files with refused rows, and refused files."""
    from retailmart.console import visible
    from retailmart.ledger.values import FileState

    opened = _open(project, settings)
    lines = [
        {"file": file, "rule": rule, "rows": rows}
        for feed in opened.project.feeds
        for file, rule, rows in _refused_counts(opened, feed)
    ]
    with opened.ledger() as ledger:
        refused = ledger.files_in_state(FileState.REFUSED)
    if output is Output.JSON:
        files = [{"file": file.path, "message": file.message} for file in refused]
        _print_json({"rows": lines, "files": files})
        return
    for line in lines:
        print(visible(f"{line['rows']:>8,} rows  {line['rule']}  {line['file']}"))
    for file in refused:
        print(visible(f"    file refused  {file.path} {file.message}"))
    if not lines and not refused:
        print("no refused rows or files")


@quarantine.command("show")
def quarantine_show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Its path below landing, or name.")],
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """The refused rows of a file, with line, reason and raw text; or why the file was refused."""
    from retailmart.console import visible

    opened = _open(project, settings)
    with opened.ledger() as ledger:
        found = ledger.find_file(file)
    if found is None:
        raise RetailmartError(
            f"no file {file!r} was ever delivered", "List them with: retailmart quarantine list"
        )
    rows = _refused_rows(opened, found.feed, found.file_id)
    if output is Output.JSON:
        _print_json({"file": found.path, "message": found.message, "rows": rows})
        return
    if found.message:
        print(visible(f"{found.path} {found.message}"))
    for row in rows:
        print(visible(f"line {row['line']}: {row['message']}\n    {row['raw']}"))
    if not rows and not found.message:
        print(visible(f"{found.path} has no refused rows"))


def main() -> None:
    """Run the command line; the one place where errors become exit codes."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RetailmartError as error:
        _say(f"retailmart: {error}")
        sys.exit(error.exit_code)
    except (OSError, KeyboardInterrupt) as error:
        _say(f"retailmart: {str(error) or 'interrupted'}\n  Run again to go on: retailmart run")
        sys.exit(1)


def _open(project: Path, settings: list[str] | None) -> OpenProject:
    from retailmart.door import open_project
    from retailmart.project.settings import read_pairs

    return open_project(project, read_pairs(settings or []))


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


def _refused_counts(opened: OpenProject, feed: str) -> list[tuple[Any, ...]]:
    refused = opened.quarantine(feed)
    if refused is None:
        return []
    return (
        refused.aggregate("file, rule, count(*) AS n", "file, rule").order("file, rule").fetchall()
    )


def _refused_rows(opened: OpenProject, feed: str | None, file_id: int) -> list[dict[str, Any]]:
    refused = opened.quarantine(feed) if feed else None
    if refused is None:
        return []
    columns = ("line", "column", "rule", "message", "raw")
    rows = (
        refused.filter(f"file_id = {file_id:d}")
        .order("line")
        .project(", ".join(f'"{name}"' for name in columns))
    )
    return [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]


def _print_json(value: Any) -> None:
    unicode = sys.stdout.encoding.lower().startswith("utf")
    print(json.dumps(value, default=_plain, ensure_ascii=not unicode))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else str(value)


def _say(words: str) -> None:
    print(words, file=sys.stderr)
