"""Carry a plan out: do just what it says, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from retailmart.errors import SettingsError
from retailmart.monitoring.events import Observer
from retailmart.operations.monitor import monitored
from retailmart.operations.plan.intended import as_kept
from retailmart.operations.plan.promise import Promise
from retailmart.operations.run import run_with
from retailmart.project import Project
from retailmart.report import Progress, RunReport


def carry_out(
    project: Project,
    file: Path,
    as_of: datetime | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> RunReport:
    """Do what the plan in `file` says, for its moment.

    Raises GateFailed if that is no longer what it would come to, and says what has moved; nothing
    has changed then. SettingsError for a file that is no plan, or another `as_of` than the plan's.
    """
    promise = Promise.read(file)
    if as_of is not None and as_of.astimezone(UTC) != promise.as_of:
        raise SettingsError(
            [f"{file} is a plan for {promise.as_of:%Y-%m-%d %H:%M} UTC, not for another moment"],
            "Leave --as-of out, or plan again with it",
        )
    meant = as_kept(project, promise.command, promise.arguments)
    with monitored(project.monitoring(), meant.command, observers, progress, project) as monitor:
        run_with(project, promise.as_of, monitor, meant.intake, promise=promise)
    return monitor.report_of_run()
