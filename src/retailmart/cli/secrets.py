"""`retailmart secrets`: passwords, encrypted and out of all files that people read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    exits,
    print_json,
    say,
)
from retailmart.errors import SettingsError

if TYPE_CHECKING:
    from retailmart.project.secrets import SecretStore

app = typer.Typer(
    help="Keep passwords encrypted; settings refer to them as ${secret:NAME}.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, _ . and -")]


# Whatever else is typed is taken in, so that it can be refused without being repeated.
@app.command(
    "set",
    epilog=exits(),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def secrets_set(
    context: typer.Context, name: Name, project: ProjectOption = Path(), quiet: QuietOption = False
) -> None:
    """Store a secret. Its value is asked for without being shown, or read from stdin."""
    if context.args:
        raise SettingsError(
            ["a secret's value is never given on the command line: the list of processes shows it"],
            "Write: retailmart secrets set NAME, and give the value when asked. If that was a"
            " password, change it",
        )
    store = _store(project)
    store.check(name)
    store.set(name, _value(name))
    say(f"Stored {name}. Settings refer to it as ${{secret:{name}}}", unless=quiet)


@app.command("list", epilog=exits())
def secrets_list(
    project: ProjectOption = Path(), output: OutputOption = Output.TEXT, quiet: QuietOption = False
) -> None:
    """The names of all secrets. Values are never shown."""
    names = _store(project).names()
    if output is Output.JSON:
        print_json({"secrets": names})
        return
    for name in names:
        print(name)
    if not names:
        say("no secret is stored", unless=quiet)


@app.command("rm", epilog=exits())
def secrets_rm(name: Name, project: ProjectOption = Path(), quiet: QuietOption = False) -> None:
    """Forget a secret."""
    _store(project).remove(name)
    say(f"Removed {name}", unless=quiet)


def _store(project: Path) -> SecretStore:
    from retailmart.api import open_secrets

    return open_secrets(project)


def _value(name: str) -> str:
    if sys.stdin.isatty():
        answer: str = typer.prompt(
            f"Value of {name}", hide_input=True, confirmation_prompt="Once more", err=True
        )
        return answer
    from retailmart.project.environment import without_line_end

    try:
        return without_line_end(sys.stdin.buffer.read().decode())
    except UnicodeDecodeError:
        raise SettingsError([f"the value of {name} is no text in UTF-8"]) from None
