"""The commands that can be planned, and what each of them stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from retailmart.errors import SettingsError
from retailmart.ledger import Ledger
from retailmart.operations.backfill import reading_again
from retailmart.operations.rebuild import building_again
from retailmart.operations.run import TakeIn, take_in
from retailmart.operations.undo import take_back
from retailmart.project import Project


@dataclass(frozen=True)
class Intended:
    """A command to plan. `arguments` are plain values, for the file of a plan.

    `usual` gives the moment that it takes if none is given; None is now.
    """

    command: str
    intake: TakeIn
    arguments: Mapping[str, Any] = field(default_factory=dict)
    usual: Callable[[Ledger], datetime | None] = lambda _: None


def a_run() -> Intended:
    """`retailmart run`."""
    return Intended("run", take_in)


def an_undo(run_id: int) -> Intended:
    """`retailmart undo`."""
    return Intended(
        "undo",
        lambda run: take_back(run, run_id),
        {"run": run_id},
        lambda ledger: ledger.batches.moment_without(run_id),
    )


def a_backfill(
    project: Project,
    feed: str,
    start: date | None = None,
    end: date | None = None,
    *,
    skip_missing: bool = False,
) -> Intended:
    """`retailmart backfill`."""
    return Intended(
        "backfill",
        reading_again(project, feed, start, end, skip_missing=skip_missing),
        {
            "feed": feed,
            "start": start.isoformat() if start else None,
            "end": end.isoformat() if end else None,
            "skip_missing": skip_missing,
        },
    )


def a_rebuild(project: Project, marts: Sequence[str] | None = None) -> Intended:
    """`retailmart rebuild`."""
    return Intended("rebuild", building_again(project, marts), {"marts": marts})


def as_kept(project: Project, command: str, arguments: Mapping[str, Any]) -> Intended:
    """A command as the file of a plan has it. Raises SettingsError for another one."""
    try:
        if command == "run":
            return a_run()
        if command == "undo":
            return an_undo(int(arguments["run"]))
        if command == "backfill":
            days = (arguments["start"], arguments["end"])
            start, end = (None if day is None else date.fromisoformat(day) for day in days)
            skip = bool(arguments["skip_missing"])
            return a_backfill(project, str(arguments["feed"]), start, end, skip_missing=skip)
        if command == "rebuild":
            return a_rebuild(project, arguments["marts"])
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError([f"the plan of {command} is not whole"], _AGAIN) from error
    raise SettingsError([f"{command!r} can't be planned"], _AGAIN)


_AGAIN = "Plan it again: retailmart plan"
