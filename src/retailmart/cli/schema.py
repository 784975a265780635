"""`retailmart schema`: how the columns of raw tables came to be, and where they differ now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
)

if TYPE_CHECKING:
    from retailmart.operations.schema import FeedDiff, SchemaStep
    from retailmart.project.feed import Feed

app = typer.Typer(
    help="See how the columns of raw tables change, and by what.", no_args_is_help=True
)
NameArgument = Annotated[str | None, typer.Argument(metavar="NAME", help="One feed; default all.")]


@app.command("history", epilog=exits())
def schema_history(
    name: NameArgument = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """What changed when, in which run, and which file made it so."""
    found = open_at(project, settings).schema_history(name)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    for step in found.history:
        for message in _changes(step):
            _say(f"run {step.run}  {step.changed_at[:19]}  {step.feed}  {message}")
    if not found.history and not quiet:
        print("no column has changed yet")


@app.command("diff", epilog=exits())
def schema_diff(
    name: NameArgument = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Where the definition and raw differ now, and what files in landing would change."""
    found = open_at(project, settings).schema_diff(name)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    told = False
    for one in found.feeds:
        for message in _differences(one):
            told = True
            _say(f"{one.feed.name}  {message}")
    if not told and not quiet:
        print("definition and raw agree, and no file in landing would change that")


def _changes(step: SchemaStep) -> Iterator[str]:
    from retailmart.report import number_of

    made = f"feeds/{step.feed}.yml"
    first = [change for change in step.changes if step.is_new and change.cause == made]
    if first:
        yield f"made with {number_of(len(first), 'column')}  {made}"
    for change in step.changes:
        if change in first:
            continue
        if change.before is None:
            yield f"+ {change.column} {change.after}  {change.cause}"
        else:
            yield f"{change.column} {change.before} → {change.after}  {change.cause}"


def _differences(found: FeedDiff) -> Iterator[str]:
    place = f"feeds/{found.feed.name}.yml"
    if not found.has_table:
        yield "raw has no table yet"
    for one in found.columns:
        if one.refused:
            yield f"refused: {one.refused}"
        elif one.held is None:
            yield f"{one.column} {one.defined}: new in {place}; raw gets it with the next file"
        elif one.defined is None:
            names = ", ".join(map(repr, one.since))
            yield f"{one.column} {one.held}: brought by files as {names}; {place} lacks it"
        else:
            yield f"{one.column}: {one.defined} in {place}, {one.held} in raw"
    for file in found.files:
        if file.refused:
            yield f"landing: {file.path} {file.refused}"
        if file.new:
            yield f"landing: {file.path} brings {', '.join(file.new)}: {_fate(found.feed)}"
        if file.missing:
            yield f"landing: {file.path} lacks {', '.join(file.missing)}: empty in its rows"


def _fate(feed: Feed) -> str:
    """What becomes of columns that the feed does not name."""
    policy = feed.schema.columns
    if policy is None:
        return f"goes to {feed.extra_columns}" if feed.extra_columns else "is dropped"
    return {
        "evolve": "becomes a column of raw",
        "discard_row": "rows with a value there are quarantined",
    }.get(policy.value, "is dropped")


def _say(message: str) -> None:
    from retailmart.console import one_line

    print(one_line(message))
