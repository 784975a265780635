"""Whatever a command can do, Python can: each command has a twin in the API, and prints its value.

The twin of `retailmart quarantine list` is `OpenProject.quarantine_list`; a small table names those
that are called otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from io import BytesIO, TextIOWrapper
from typing import Any

import pytest
import typer.main

import retailmart
from retailmart import api
from retailmart.api import OpenProject
from retailmart.cli import app
from retailmart.project.secrets import SecretStore
from tests.support.services.listener import listening
from tests.support.shop import Called, Shop, sale

# What has another name in Python, or is no project's.
OTHERS: dict[str, tuple[object, str]] = {
    "init": (api, "create_project"),
    "marts drop": (OpenProject, "drop_table"),
    "plan": (OpenProject, "plan"),
    "secrets set": (SecretStore, "set"),
    "secrets list": (SecretStore, "names"),
    "secrets rm": (SecretStore, "remove"),
    "settings --history": (OpenProject, "settings_history"),
    "status --run": (OpenProject, "run_status"),
    "verify --database": (OpenProject, "verify_database"),
}
# What the shop's user types, in an order in which each command has something to do.
TYPED = (
    ("init", "new", "--with", "tills"),
    ("check",),
    ("run", "--as-of", "2024-04-01", "--output", "json"),
    ("status", "--output", "json"),
    ("status --run", "1", "--output", "json"),
    ("settings", "--output", "json"),
    ("settings --history", "--output", "json"),
    ("lease show", "--output", "json"),
    ("lease break", "--yes", "--output", "json"),
    ("doctor", "--output", "json"),
    ("verify", "--engines", "duckdb", "--files", "all", "--output", "json"),
    ("verify --database", "extra", "--output", "json"),
    ("quarantine list", "--output", "json"),
    ("quarantine list", "--all", "--output", "json"),
    ("quarantine show", "sales_1.csv", "--output", "json"),
    ("quarantine warned", "--output", "json"),
    ("quarantine dismiss", "sales_1.csv", "--reason", "a test", "--output", "json"),
    ("quarantine list", "--dismissed", "--output", "json"),
    ("quarantine dismiss", "sales_1.csv", "--undo", "--output", "json"),
    ("quarantine export", "--to", "refused.csv"),
    ("quarantine replay", "refused.csv", "--output", "json"),
    ("marts list", "--output", "json"),
    ("show", "extra", "--output", "json"),
    ("sql", "SELECT count(*) AS n, max(total_cost) FROM sales", "--output", "json"),
    ("explain", "extra", "--store_id", "1", "--output", "json"),
    ("report", "--output", "json"),
    ("schema history", "--output", "json"),
    ("schema diff", "sales", "--output", "json"),
    ("maintain", "--dry-run", "--output", "json"),
    ("plan", "--output", "json"),
    ("plan undo", "1", "--output", "json"),
    ("plan backfill", "sales", "--to", "2001-01-01", "--output", "json"),
    ("plan rebuild", "extra", "--output", "json"),
    ("rebuild", "extra", "--output", "json"),
    ("backfill", "sales", "--to", "2001-01-01", "--output", "json"),
    ("undo", "1", "--output", "json"),
    ("watch", "--runs", "1"),
    ("abandon",),
    ("alerts list", "--output", "json"),
    ("alerts test", "--output", "json"),
    ("marts drop", "extra", "--yes"),
    ("secrets set", "WORD"),
    ("secrets list", "--output", "json"),
    ("secrets rm", "WORD"),
)


def commands() -> Iterator[tuple[str, Any]]:
    """All commands of the program, by the words that call them."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        words, found = waiting.pop()
        below = getattr(found, "commands", {})
        if not below or words.strip() in OTHERS:  # some groups do something without a word more
            yield words.strip(), found
        waiting += [(f"{words} {word}", one) for word, one in below.items()]


COMMANDS = dict(commands())


def twin_of(words: str) -> tuple[object, str]:
    """Where a command's twin is: its owner, and its name there."""
    return OTHERS.get(words, (OpenProject, words.replace(" ", "_")))


def has_json(command: Any) -> bool:
    """Whether a command can print JSON."""
    return any("--output" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("words", [*COMMANDS, *sorted(OTHERS.keys() - COMMANDS.keys())])
def test_each_command_has_a_twin(words: str) -> None:
    """A command is a method of the API or a function that the package offers."""
    owner, name = twin_of(words)
    assert callable(getattr(owner, name, None)), f"{words}: no {name} in {owner}"
    if owner is api:
        assert name in retailmart.__all__


def test_each_command_is_compared() -> None:
    """The test below leaves no command out, and lets each that can print JSON do so."""
    assert {words for words, *_ in TYPED} == COMMANDS.keys() | OTHERS.keys()
    silent = [
        words
        for words, *rest in TYPED
        if has_json(COMMANDS[words.partition(" --")[0]]) and "--output" not in rest
    ]
    assert silent == []


def plain(value: Any) -> Any:
    """A value as JSON has it."""

    def default(one: Any) -> Any:
        if isinstance(one, datetime):
            return one.isoformat()
        return one.value if isinstance(one, Enum) else str(one)

    return json.loads(json.dumps(value, default=default))


def test_commands_print_what_their_twins_return(
    shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command calls its twin once and no other; what `--output json` prints is its value."""
    monkeypatch.setenv("RETAILMART_KEY", "a key of more than sixteen characters")
    extra = shop.folder / "marts" / "extra.sql"
    extra.write_text(
        "-- refresh: full\n-- publish: true\n-- key: [store_id]\n"
        "SELECT store_id, count(*) AS n FROM sales GROUP BY store_id\n"
    )
    with listening() as listener, (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write(f"alerts: {{targets: ['{listener.url}']}}\n")
        settings.flush()
        compare_all(shop, called, monkeypatch)


def compare_all(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all commands, and compare what each prints with what its twin returns."""
    extra = shop.folder / "marts" / "extra.sql"
    shop.sales("sales_1.csv", [sale(), sale(2, day="2024-02-31")])
    returned: list[tuple[str, Any]] = []

    def recorded(words: str, twin: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            value = twin(*arguments, **named)
            returned.append((words, value))
            return value

        return call

    for words in dict.fromkeys(words for words, *_ in TYPED):
        monkeypatch.setattr(*twin_of(words), recorded(words, getattr(*twin_of(words))))
    for words, *rest in TYPED:
        if words == "quarantine replay":
            repair(shop)
        if words == "marts drop":
            extra.unlink()
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"a word")))
        returned.clear()
        result = called(shop.folder, *words.split(), *rest)
        # This machine may have problems, and the row that the watch finds is refused again.
        allowed = {"doctor": (0, 1), "watch": (5,)}.get(words, (0,))
        assert result.returncode in allowed, f"{words}: {result.stderr}"
        ((twin, value),) = returned
        assert twin == words
        if "json" in rest:
            value = {"secrets": value} if words == "secrets list" else value.to_dict()
            assert json.loads(result.stdout) == plain(value), words


def repair(shop: Shop) -> None:
    """Correct the day in the exported sheet."""
    sheet = shop.folder / "refused.csv"
    text = sheet.read_text(encoding="utf-8-sig")
    assert "2024-02-31" in text
    sheet.write_text(text.replace("2024-02-31", "2024-02-29"), encoding="utf-8-sig")
