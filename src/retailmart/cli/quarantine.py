"""`retailmart quarantine`: look at refused rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    SetOption,
    open_at,
    print_json,
)
from retailmart.errors import RetailmartError

if TYPE_CHECKING:
    from retailmart.door import OpenProject

app = typer.Typer(help="Look at refused rows.", no_args_is_help=True)


@app.command("list")
def quarantine_list(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, settings: SetOption = None
) -> None:
    """Files with refused rows, and refused files."""
    from retailmart.console import visible
    from retailmart.ledger.values import FileState

    opened = open_at(project, settings)
    lines = [
        {"file": file, "rule": rule, "rows": rows}
        for feed in opened.project.feeds
        for file, rule, rows in _refused_counts(opened, feed)
    ]
    with opened.ledger() as ledger:
        refused = ledger.files_in_state(FileState.REFUSED)
    if output is Output.JSON:
        files = [{"file": file.path, "message": file.message} for file in refused]
        print_json({"rows": lines, "files": files})
        return
    for line in lines:
        print(visible(f"{line['rows']:>8,} rows  {line['rule']}  {line['file']}"))
    for file in refused:
        print(visible(f"    file refused  {file.path} {file.message}"))
    if not lines and not refused:
        print("no refused rows or files")


@app.command("show")
def quarantine_show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Its path below landing, or name.")],
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """The refused rows of a file, with line, reason and raw text; or why the file was refused."""
    from retailmart.console import visible

    opened = open_at(project, settings)
    with opened.ledger() as ledger:
        found = ledger.find_file(file)
    if found is None:
        raise RetailmartError(
            f"no file {file!r} was ever delivered", "List them with: retailmart quarantine list"
        )
    rows = _refused_rows(opened, found.feed, found.file_id)
    if output is Output.JSON:
        print_json({"file": found.path, "message": found.message, "rows": rows})
        return
    if found.message:
        print(visible(f"{found.path} {found.message}"))
    for row in rows:
        print(visible(f"line {row['line']}: {row['message']}\n    {row['raw']}"))
    if not rows and not found.message:
        print(visible(f"{found.path} has no refused rows"))


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
