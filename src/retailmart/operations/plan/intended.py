"""The commands that can be planned, and what each of them stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retailmart.errors import SettingsError
from retailmart.ledger import Ledger
from retailmart.operations.run import TakeIn, take_in
from retailmart.operations.undo import take_back


@dataclass(frozen=True)
class Intended:
    """A command to plan. `usual` gives the moment that it takes if none is given; None is now."""

    command: str
    arguments: Mapping[str, Any]
    intake: TakeIn
    usual: Callable[[Ledger], datetime | None] = lambda _: None


def intended(command: str, arguments: Mapping[str, Any]) -> Intended:
    """A command by its name, as the file of a plan has it. Raises SettingsError for another one."""
    if command == "run":
        return Intended(command, {}, take_in)
    if command == "undo":
        number = int(arguments["run"])
        return Intended(
            command,
            {"run": number},
            lambda run: take_back(run, number),
            lambda ledger: ledger.batches.moment_without(number),
        )
    raise SettingsError([f"{command!r} can't be planned"], "Plan it again: retailmart plan")
