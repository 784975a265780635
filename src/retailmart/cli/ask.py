"""`retailmart show` and `retailmart sql`: look at marts, and ask the lake."""

from __future__ import annotations

import sys
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    Output,
    ProjectOption,
    SetOption,
    names_in,
    open_at,
    print_json,
    say,
)
from retailmart.errors import SettingsError
from retailmart.report import number_of

if TYPE_CHECKING:
    from retailmart.operations.ask import Answer

# So many rows are shown to people, unless they ask for another number.
_SHOWN, _OF_A_QUERY = 20, 100


class RowsOutput(StrEnum):
    """How rows are shown."""

    TEXT = "text"
    JSON = Output.JSON.value
    CSV = "csv"
    PARQUET = "parquet"


RowsOption = Annotated[
    RowsOutput,
    typer.Option(
        "--output",
        "-o",
        metavar="text|csv|json|parquet",
        help="A table for people; or on stdout all rows as CSV, one JSON object, or Parquet.",
    ),
]


def show(
    mart: Annotated[str, typer.Argument(metavar="MART", help="The mart.")],
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="A condition, as in: store_id = 122"),
    ] = None,
    month: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="Rows of this month only.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="NAMES", help="Columns, with commas in between."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=0, help="At most so many rows; default 20 as text, else all."),
    ] = None,
    project: ProjectOption = Path(),
    output: RowsOption = RowsOutput.TEXT,
    settings: SetOption = None,
) -> None:
    """See a mart's rows, in the order of its key."""
    most = _SHOWN if limit is None and output is RowsOutput.TEXT else limit
    # One more than is shown tells whether there are more.
    asked = most + 1 if most is not None and output is RowsOutput.TEXT else most
    opened, names = open_at(project, settings), names_in(columns or "")
    with opened.show(mart, where=where, month=month, columns=names, limit=asked) as answer:
        _print(answer, output, most)


def sql(
    query: Annotated[
        str, typer.Argument(metavar="SELECT", help="The query, or - to read it from stdin.")
    ],
    project: ProjectOption = Path(),
    output: RowsOption = RowsOutput.TEXT,
    settings: SetOption = None,
) -> None:
    """Ask with one SELECT over marts, feeds, tables and quarantine.FEED; nothing can be changed."""
    text = sys.stdin.read() if query == "-" else query
    with open_at(project, settings).sql(text) as answer:
        _print(answer, output, _OF_A_QUERY)


def _print(answer: Answer, output: RowsOutput, most: int | None) -> None:
    """The rows on stdout; as text only so many."""
    if output is RowsOutput.JSON:
        print_json(answer.to_dict())
    elif output is RowsOutput.TEXT:
        from retailmart.console import print_rows

        shown = list(islice(answer.rows(), most + 1 if most is not None else None))
        print_rows([column.name for column in answer.columns], shown[:most])
        if most is not None and len(shown) > most:
            say(f"the first {number_of(most, 'row')}; --output csv gives all of them")
    elif output is RowsOutput.PARQUET and sys.stdout.isatty():
        raise SettingsError(
            ["Parquet is nothing for a terminal"],
            "Write it to a file, as in: retailmart show MART -o parquet > rows.parquet",
        )
    else:
        sys.stdout.flush()
        answer.write(sys.stdout.buffer, output.value)
