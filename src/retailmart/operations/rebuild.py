"""Build marts again from all rows, in a batch without files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from retailmart.errors import SettingsError
from retailmart.feeds.lost import expect_raw_tables
from retailmart.ledger.values import Again, Batch
from retailmart.monitoring.events import Observer
from retailmart.operations.monitor import monitored
from retailmart.operations.run import TakeIn, run_with
from retailmart.operations.work import Run
from retailmart.project import Project
from retailmart.project.documents import did_you_mean
from retailmart.report import Progress, RunReport


def rebuild(
    project: Project,
    marts: Sequence[str] | None = None,
    as_of: datetime | None = None,
    progress: Progress | None = None,
    observers: Sequence[Observer] = (),
) -> RunReport:
    """Build marts, and those that read them, again from all raw rows, and publish them.

    `marts` are names; without them it is every mart. Raises SettingsError for an unknown one,
    before anything is done.
    """
    intake = building_again(project, marts)
    with monitored(project.monitoring(), "rebuild", observers, progress, project) as monitor:
        run_with(project, as_of, monitor, intake)
    return monitor.report_of_run()


def building_again(project: Project, marts: Sequence[str] | None = None) -> TakeIn:
    """What stages such a batch. SettingsError, which names every mart that does not exist."""
    names = tuple(project.marts) if marts is None else tuple(dict.fromkeys(marts))
    if unknown := [name for name in names if name not in project.marts]:
        raise SettingsError(
            [f"there is no mart {name!r}{did_you_mean(name, project.marts)}" for name in unknown],
            "List them with: retailmart marts",
        )
    if not names:
        raise SettingsError(["no mart is named"], "Name marts, or take all of them: --all")
    return lambda run: _stage(run, names)


def _stage(run: Run, names: tuple[str, ...]) -> Batch:
    session = run.session
    with session.step("discover"):
        expect_raw_tables(run.ledger, session.lake, run.project.feeds)
    with session.step("stage"):
        return run.ledger.batches.stage(run.run_id, run.as_of, (), again=Again(marts=names))
