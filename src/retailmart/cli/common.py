"""What all commands share: their options, and how results and messages are shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retailmart.errors import SettingsError

if TYPE_CHECKING:
    from retailmart.api import OpenProject


class Output(StrEnum):
    """How results are shown."""

    TEXT = "text"
    JSON = "json"


class LogFormat(StrEnum):
    """How a run's log is written."""

    TEXT = "text"
    JSON = "json"


ProjectOption = Annotated[
    Path,
    typer.Option(
        "--project",
        "-p",
        metavar="DIR",
        help="The project's folder.",
        envvar="RETAILMART_PROJECT",
    ),
]
OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", metavar="text|json", help="text, or one JSON object on stdout."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in lake=/data/lake."),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Write to stderr only what needs a person.")
]

LogOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        metavar="text|json",
        help="What stderr gets: text, or JSON, an object a line; overrides `log.format`.",
    ),
]

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage or settings",
    3: "a quality gate or a total failed",
    4: "another run holds the project",
    5: "done, but something is held back",
    130: "stopped by SIGINT",
    143: "stopped by SIGTERM",
}


def exits(*more: int, instead: Mapping[int, str] | None = None) -> str:
    """The end of a command's help: the codes of all commands, `more`, and meanings `instead`."""
    told = {code: EXIT_CODES[code] for code in (0, 1, 2, *more)} | dict(instead or {})
    message = "; ".join(f"{code} {told[code]}" for code in sorted(told))
    return f"Exit codes: {message}."


def open_at(project: Path, settings: list[str] | None) -> OpenProject:
    """The project in a folder, `--set` flags laid over its settings."""
    from retailmart.api import open_project
    from retailmart.project.settings import read_pairs

    return open_project(project, read_pairs(settings or []))


def moment_of(text: str | None) -> datetime | None:
    """The moment of `--as-of`, in UTC unless it names its zone; SettingsError for anything else."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            [f"--as-of {text}: write it as 2024-01-31 or 2024-01-31T18:30:00Z"]
        ) from error


def utc_text(text: str) -> str:
    """An ISO time in UTC for people."""
    return f"{text[:19].replace('T', ' ')} UTC"


def names_in(text: str) -> list[str]:
    """The names of an option that takes several, with commas in between."""
    return [name for word in text.split(",") if (name := word.strip())]


@dataclass
class Talk:
    """How this call of the program talks, for the one place where errors become exit codes.

    `as_json` says that stderr gets JSON, a line a message; `is_told` that the log has told of the
    error already; `has_printed` that stdout has its one JSON object.
    """

    as_json: bool = False
    is_told: bool = False
    has_printed: bool = False


talk = Talk()


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON on stdout; it may have mistakes elsewhere."""
    pairs = zip(words, (*words[1:], ""), strict=True)
    return any(
        word in ("--output=json", "-ojson", "-o=json")
        or (word in ("--output", "-o") and after == Output.JSON)
        for word, after in pairs
    )


def print_error(message: str, hint: str | None, kind: str, exit_code: int) -> None:
    """What a command that fails prints with `--output json`, unless it has printed its result."""
    if not talk.has_printed and wants_json(sys.argv[1:]):
        print_json({"error": message, "hint": hint, "kind": kind, "exit_code": exit_code})


def print_json(value: Any) -> None:
    """One JSON text on stdout."""
    talk.has_printed = True
    unicode = sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(value, default=_plain, ensure_ascii=not unicode)
    # JSON leaves these as they are, and a terminal obeys some of them.
    print(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def say(message: str, *, unless: bool = False, level: str = "info") -> None:
    """Talk, on stderr; `unless` the user asked for quiet, for what needs nobody."""
    if unless:
        return
    if talk.as_json:
        from retailmart.api import log_line

        print(log_line(message, level), file=sys.stderr)
        return
    from retailmart.console import visible

    print(visible(message), file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else str(value)
