"""`retailmart explain`: why a number of a mart is what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retailmart.cli.common import Output, ProjectOption, SetOption, open_at, print_json
from retailmart.errors import SettingsError


class ExplainOutput(StrEnum):
    """How an explanation is shown."""

    TEXT = "text"
    JSON = Output.JSON.value
    HTML = "html"


def explain(
    context: typer.Context,
    mart: Annotated[str, typer.Argument(metavar="MART", help="The mart.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="NAME=VALUE",
            help="A column of the row and its value; --NAME VALUE says the same.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="The number; default the mart's balanced column, or its first sum or count.",
        ),
    ] = None,
    project: ProjectOption = Path(),
    output: Annotated[
        ExplainOutput,
        typer.Option(
            "--output",
            "-o",
            metavar="text|json|html",
            help="A first screen for people; or on stdout all of it as JSON, or a page to print.",
        ),
    ] = ExplainOutput.TEXT,
    settings: SetOption = None,
) -> None:
    """Explain a number: its rule, the delivered rows it is made of, and the check.

    Name the row by its key, as in: retailmart explain customer_monthly_purchase --month 2024-03
    --customer_id 1017
    """
    chosen = dict([*_pairs(key or ()), *_options(context.args)])
    found = open_at(project, settings).explain(mart, chosen, column=column)
    if output is ExplainOutput.JSON:
        print_json(found.to_dict())
    elif output is ExplainOutput.HTML:
        from retailmart.cli.explain_page import page_of

        print(page_of(found))
    else:
        from retailmart.cli.explain_text import text_of

        print(text_of(found))


def _pairs(said: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The columns and values of `--key NAME=VALUE`."""
    for pair in said:
        name, sign, value = pair.partition("=")
        if not name or not sign:
            raise SettingsError([f"--key {pair}: write it as NAME=VALUE"])
        yield name, value


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The columns and values of `--NAME VALUE` and `--NAME=VALUE`."""
    left = list(words)
    while left:
        word = left.pop(0)
        name, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise SettingsError([f"{word!r} is no column's name"], "Write it as --NAME VALUE")
        if not sign:
            if not left:
                raise SettingsError([f"{word} has no value"], "Write it as --NAME VALUE")
            value = left.pop(0)
        yield name, value
