"""`retailmart settings`: each value and where it comes from, and what changed since when."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from retailmart.report import number_of

if TYPE_CHECKING:
    from retailmart.operations.settings import GivenSettings, SettingsHistory


def settings_command(
    project: ProjectOption = Path(),
    history: Annotated[
        bool, typer.Option("--history", help="What changed, and with which run.")
    ] = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Each setting with its value and where it comes from; secrets are not shown."""
    opened = open_at(project, settings)
    if history:
        changes = opened.settings_history()
        if output is Output.JSON:
            print_json(changes.to_dict())
        else:
            _print_history(changes, quiet=quiet)
        return
    found = opened.settings()
    if output is Output.JSON:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: GivenSettings) -> None:
    from retailmart.console import one_line

    width = max(len(one.name) for one in found.settings)
    for one in found.settings:
        place = f" {one.place}" if one.place else ""
        source = "" if one.source == "file" else one.source
        value = "-" if one.value is None else one.value
        secrets = f", secret {', '.join(one.secrets)}" if one.secrets else ""
        told = f"{source}{place}".strip() + secrets
        print(one_line(f"{one.name:<{width}}  {value}  ({told})"))


def _print_history(found: SettingsHistory, *, quiet: bool) -> None:
    from retailmart.console import one_line

    for run, changes in groupby(found.changes, lambda change: (change.run_id, change.at)):
        of_run = list(changes)
        head = f"run {run[0]}  {run[1][:19]}"
        if of_run[0].run_id == found.changes[0].run_id:
            print(f"{head}  {number_of(len(of_run), 'value')} recorded for the first time")
            continue
        for change in of_run:
            print(one_line(f"{head}  {change.name}  {_change(change.before, change.after)}"))
    for change in sorted(found.since_last_run, key=lambda change: change.name):
        print(one_line(f"now, not run yet  {change.name}  {_change(change.before, change.after)}"))
    if not found.changes and not quiet:
        print("no run has recorded its settings yet")


def _change(before: str | None, after: str | None) -> str:
    return f"{_short(before)} → {_short(after)}"


def _short(value: str | None) -> str:
    if value is None:
        return "-"
    is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return value[:12] if is_digest else value
