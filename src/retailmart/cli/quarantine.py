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
    dismissed: Annotated[
        bool, typer.Option("--dismissed", help="What nobody will repair, by whom, when and why.")
    ] = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Files with refused rows that are open, and refused files not delivered well since."""
    from retailmart.console import one_line

    opened = open_at(project, settings)
    found = opened.quarantine_list(include_closed=show_all, dismissed=dismissed)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    if found.dismissals is not None:
        for one in found.dismissals:
            at = "" if one.line is None else f" line {one.line}"
            said = f"{one.reason} ({one.by}, {one.at[:16].replace('T', ' ')} UTC)"
            print(one_line(f"{one.file}{at}: {one.why}"))
            print(one_line(f"    dismissed: {said}"))
        if not found.dismissals and not quiet:
            print("nothing is dismissed")
        return
    for line in found.rows:
        rows = "row " if line.rows == 1 else "rows"
        fate = _fate(line.state, line.by)
        print(one_line(f"{line.rows:>8,} {rows}  {line.rule}  {line.file}{fate}"))
    for file in found.files:
        print(one_line(f"    file refused  {file.file} {file.message}"))
    if not found.rows and not found.files and not quiet:
        print(f"no refused rows or files{' are open' if found.closed or found.dismissed else ''}")
    if not quiet:
        _say_closed(found.closed, found.dismissed, show_all)


@app.command("show", epilog=exits())
def quarantine_show(
    file: FileArgument,
    project: ProjectOption = Path(),
    show_all: AllOption = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
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
        again = f"  (refused again in {item.again}, line {item.row.line})" if item.again else ""
        print(visible(f"line {item.line}: {item.row.message}{again}{fate}\n    {item.row.raw}"))
    if not found.rows and not found.message and not quiet:
        some = found.closed or found.dismissed
        print(visible(f"{found.file} has no refused rows{' that are open' if some else ''}"))
    if not quiet:
        _say_closed(found.closed, found.dismissed, show_all)


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


@app.command("warned", epilog=exits())
def quarantine_warned(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="One file's rows; default all.")
    ] = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Loaded rows that break a rule which only warns, with file, line and raw text."""
    from retailmart.console import one_line, visible

    found = open_at(project, settings).quarantine_warned(file)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    for row in found.rows:
        print(visible(f"{one_line(row.file)} line {row.line}: {row.message}\n    {row.raw}"))
    for path, why in found.skipped.items():
        print(one_line(f"{path} can't be read again: {why}"))
    if not found.rows and not found.skipped and not quiet:
        print("no loaded row breaks a rule that warns")


@app.command("dismiss", epilog=exits())
def quarantine_dismiss(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Its path below landing, or name.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="Only rows that break this rule.")
    ] = None,
    line: Annotated[
        list[int] | None,
        typer.Option("--line", metavar="LINE", help="Only this row of the file; may be repeated."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why nobody will repair it.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take it back: what was dismissed is open again.")
    ] = False,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Say that nobody will repair refused rows, or a refused file: they are not open any more."""
    done = open_at(project, settings).quarantine_dismiss(
        file, rule=rule, lines=line or [], reason=reason, undo=undo
    )
    if output is Output.JSON:
        print_json(done.to_dict())
    told = [number_of(done.rows, "row")] if done.rows else []
    told += [number_of(done.files, "file")] if done.files else []
    are = "is" if done.rows + done.files == 1 else "are"
    fate = "open again" if done.taken_back else "dismissed; with --undo it is taken back"
    say(f"{' and '.join(told)} {are} {fate}", unless=quiet)


def _fate(state: str | None, by: str | None) -> str:
    """What became of a row, where that is asked for."""
    return {
        "closed": f"  (closed: counted from {by})",
        "replaced": f"  (replaced: refused again in {by})",
        "left": "  (left with its file)",
        "dismissed": "  (dismissed)",
    }.get(state or "", "")


def _say_closed(closed: int, dismissed: int, show_all: bool) -> None:
    if closed and not show_all:
        print(f"{closed:>8,} {'row' if closed == 1 else 'rows'} closed; see them with --all")
    if dismissed:
        print(f"{dismissed:>8,} dismissed; see them with: retailmart quarantine list --dismissed")
