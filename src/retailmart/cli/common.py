"""What all commands share: their options, and how results and talk are told."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from retailmart.door import OpenProject


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


def open_at(project: Path, settings: list[str] | None) -> OpenProject:
    """The project in a folder, `--set` flags laid over its settings."""
    from retailmart.door import open_project
    from retailmart.project.settings import read_pairs

    return open_project(project, read_pairs(settings or []))


def print_json(value: Any) -> None:
    """One JSON text on stdout."""
    unicode = sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(value, default=_plain, ensure_ascii=not unicode)
    # JSON leaves these as they are, and a terminal obeys some of them.
    print(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def say(words: str) -> None:
    """Talk, on stderr."""
    from retailmart.console import visible

    print(visible(words), file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else str(value)
