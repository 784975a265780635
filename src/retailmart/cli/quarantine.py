"""`retailmart quarantine`: look at refused rows, take them out to be repaired, bring them back."""

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
from retailmart.report import number_of

app = typer.Typer(
    help="Look at refused rows; export them to be repaired, and replay them.", no_args_is_help=True
)
AllOption = Annotated[bool, typer.Option("--all", help="Closed rows too, with what closed them.")]
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Its path below landing, or name.")
]


@app.command("list", epilog=exits())
def quarantine_list(
    project: ProjectOption = Path(),
    show_all: AllOption = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Files with refused rows that are open, and refused files not delivered well since."""
    from retailmart.console import one_line

    found = open_at(project, settings).quarantine_list(include_closed=show_all)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    for line in found.rows:
        rows = "row " if line.rows == 1 else "rows"
        fate = _fate(line.state, line.by)
        print(one_line(f"{line.rows:>8,} {rows}  {line.rule}  {line.file}{fate}"))
    for file in found.files:
        print(one_line(f"    file refused  {file.file} {file.message}"))
    if not found.rows and not found.files:
        print(f"no refused rows or files{' are open' if found.closed else ''}")
    _say_closed(found.closed, show_all)


@app.command("show", epilog=exits())
def quarantine_show(
    file: FileArgument,
    project: ProjectOption = Path(),
    show_all: AllOption = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """The open refused rows of a file, with line, reason and raw text; or why it was refused."""
    from retailmart.console import visible

    found = open_at(project, settings).quarantine_show(file, include_closed=show_all)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    if found.message:
        print(visible(f"{found.file} {found.message}"))
    for item in found.rows:
        fate = _fate(item.state.value, item.by) if show_all else ""
        row = item.row
        print(visible(f"line {row.line}: {row.message}{fate}\n    {row.raw}"))
    if not found.rows and not found.message:
        print(
            visible(f"{found.file} has no refused rows{' that are open' if found.closed else ''}")
        )
    _say_closed(found.closed, show_all)


@app.command("export", epilog=exits())
def quarantine_export(
    to: Annotated[Path, typer.Option("--to", metavar="SHEET", help="A new .xlsx or .csv file.")],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="One file's rows; default all.")
    ] = None,
    feed: Annotated[
        str | None, typer.Option("--feed", metavar="NAME", help="Where there are several feeds.")
    ] = None,
    project: ProjectOption = Path(),
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write open refused rows as a sheet to repair, with the reason of each."""
    count = open_at(project, settings).quarantine_export(to, file, feed)
    if count:
        say(
            f"Wrote {number_of(count, 'row')} to {to}. Repair them there, keep the column _origin,"
            f" and then: retailmart quarantine replay {to}",
            unless=quiet,
        )
    else:
        say("No refused row is open, so nothing was written.", unless=quiet)


@app.command("replay", epilog=exits())
def quarantine_replay(
    sheet: Annotated[Path, typer.Argument(metavar="SHEET", help="What was exported, repaired.")],
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Put repaired rows into landing; the next run counts each of them once."""
    dropped = open_at(project, settings).quarantine_replay(sheet)
    if output is Output.JSON:
        print_json(dropped.to_dict())
    open_rows = number_of(dropped.left_out, "row")
    left = f" {open_rows} not filled in: still open." if dropped.left_out else ""
    rows = number_of(dropped.rows, "row")
    said = f"Put {rows} into landing as {dropped.path}.{left} Next: retailmart run"
    say(said, unless=quiet)


def _fate(state: str | None, by: str | None) -> str:
    """What became of a row, where that is asked for."""
    return {
        "closed": f"  (closed: counted from {by})",
        "replaced": f"  (replaced: refused again in {by})",
        "left": "  (left with its file)",
    }.get(state or "", "")


def _say_closed(closed: int, show_all: bool) -> None:
    if closed and not show_all:
        print(f"{closed:>8,} {'row' if closed == 1 else 'rows'} closed; see them with --all")
