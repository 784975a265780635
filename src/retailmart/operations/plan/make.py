"""Plan a run: let it work in a shadow of the project, and say what it would change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from retailmart.database import translate_errors
from retailmart.errors import ProjectBusy, RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import raw_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, BatchState
from retailmart.marts.ownership import expect_known_spelling, expect_own_tables
from retailmart.operations.batch import prepare, report_of_batch
from retailmart.operations.plan.changes import MartChange, changes_of
from retailmart.operations.plan.intended import Intended
from retailmart.operations.plan.promise import (
    Basis,
    PlannedBatch,
    Promise,
    basis_of,
    planned_batch,
)
from retailmart.operations.plan.shadow import open_shadow
from retailmart.operations.run import batches_of, expect_landing, report_of
from retailmart.operations.work import Run, begin, expect_moment
from retailmart.project import Project
from retailmart.report import BatchReport, Progress, RunReport, Silent
from retailmart.session import open_lake, view_ledger
from retailmart.tables import TableChange

# Steps that a plan does not take; how long they last is known from so many runs before.
_LATER = ("commit", "publish", "export", "archive")
_RUNS = 10


@dataclass(frozen=True)
class Estimate:
    """How long a run that does this will take, in seconds.

    `planned` is what its steps took in the plan, `later` the median of the steps that a plan leaves
    out, in the last runs; None if no run has taken them yet.
    """

    planned: float
    later: float | None

    @property
    def seconds(self) -> float:
        """The whole run, as far as it is known."""
        return self.planned + (self.later or 0.0)


@dataclass(frozen=True)
class RunPlan:
    """What a command would do now.

    `report` is what it would report, without what it publishes and exports. `marts` are those that
    it writes. `promise` is what a run that carries the plan out is held to.
    """

    report: RunReport
    marts: tuple[MartChange, ...]
    estimate: Estimate
    promise: Promise

    @property
    def exit_code(self) -> int:
        """What the command would exit with."""
        return self.report.exit_code

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.report.batches

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "command": self.promise.command,
            "arguments": dict(self.promise.arguments),
            "as_of": self.promise.as_of.isoformat(),
            "seconds": round(self.estimate.seconds, 1),
            "report": self.report.to_dict(),
            "marts": [asdict(one) for one in self.marts],
            "promise": self.promise.to_dict(),
        }

    def write(self, file: Path) -> None:
        """Write the plan as JSON, for `retailmart run --plan`. RetailmartError if that fails."""
        text = json.dumps(self.to_dict(), default=str, ensure_ascii=False, indent=1)
        try:
            file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise RetailmartError(
                f"{file} can't be written: {error.strerror}", "Name another file: --out FILE"
            ) from error


def plan(
    project: Project,
    intended: Intended,
    as_of: datetime | None = None,
    progress: Progress | None = None,
) -> RunPlan:
    """What `intended` would do now. Nothing of the project changes.

    `as_of` (UTC) is by default the moment that the command itself would take. Raises what the
    command would raise before it commits anything, and ProjectBusy while a run is at work.
    """
    expect_moment(as_of)
    with open_shadow(project, progress or Silent()) as (session, lake), translate_errors():
        expect_landing(session)
        expect_known_spelling(project, session.ledger)
        left = expect_own_tables(project, session.ledger)
        basis = basis_of(session.ledger, Lake(lake.place), project)
        estimated = _later(session.ledger)
        moment = (as_of or intended.usual(session.ledger) or datetime.now(UTC)).astimezone(UTC)
        run = begin(session, moment)
        run.left_tables = left
        foreseen = _Foreseen()
        batches = list(batches_of(run, intended.intake, foreseen.finish))
        report = report_of(run, batches)
        marts: tuple[MartChange, ...] = ()
        if batches:
            engine = session.engine(moment)
            marts = tuple(changes_of(engine, lake, project.marts.values()))
        _expect_unmoved(project, basis)
    promise = Promise(
        intended.command,
        intended.arguments,
        moment,
        basis,
        foreseen.unfinished,
        foreseen.staged,
    )
    planned = sum(report.seconds.values())
    return RunPlan(report, marts, Estimate(planned, estimated if batches else 0.0), promise)


class _Foreseen:
    """Finishes batches in a shadow, and keeps what a run that does the same is held to."""

    def __init__(self) -> None:
        self.unfinished: PlannedBatch | None = None
        self.staged: PlannedBatch | None = None

    def finish(self, run: Run, batch: Batch, *, recovered: bool) -> BatchReport:
        """What `operations.batch.finish` does, without anything outside of the shadow."""
        ledger = run.ledger
        staged = ledger.files.of_batch(batch.batch_id)
        if batch.state is BatchState.ACTIVE:
            prepare(run, batch)
        outcome, changes = ledger.batches.prepared(batch)
        if batch.state is BatchState.ACTIVE:
            planned = planned_batch(outcome, staged)
            if recovered:
                self.unfinished = planned
            else:
                self.staged = planned
        if batch.state in (BatchState.ACTIVE, BatchState.PREPARED):
            for change in changes.values():
                run.session.lake.commit(TableChange.from_json(change), batch.batch_id)
            ledger.batches.mark_committed(batch)
        if batch.state is not BatchState.PUBLISHED:
            with ledger.transaction() as connection:
                ledger.batches.mark_published(connection, batch, outcome, ())
        files = ledger.files.of_batch(batch.batch_id)
        run.taken |= {(file.path, file.version) for file in files}
        run.end_batch()
        committed = [name for name in outcome.sources if raw_table(name) in changes]
        ledger.batches.mark_done(batch, outcome.of_done(committed), run.run_id)
        files += ledger.files.among(outcome.returned)
        return report_of_batch(run, batch, files, outcome, recovered=recovered)


def _later(ledger: Ledger) -> float | None:
    """How long the steps that a plan leaves out take, by the last runs that took them."""
    found = [
        sum(step.seconds for step in one.steps if step.step in _LATER)
        for one in ledger.history.figures(ledger.runs.last(_RUNS))
        if any(step.step == "commit" for step in one.steps)
    ]
    return median(found) if found else None


def _expect_unmoved(project: Project, basis: Basis) -> None:
    """Raise ProjectBusy if a run has begun while the plan was made: it may be of two states."""
    lake = open_lake(project)
    if view_ledger(project, lambda view: basis_of(view.ledger, lake, project)) != basis:
        raise ProjectBusy("a run has changed the project meanwhile", "Plan again")
