"""One run whole, as the ledger has it. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from retailmart.errors import RetailmartError
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, BatchState, FileState, LedgerFile, Outcome
from retailmart.operations.status import RunLine, StepTime, in_words, run_line
from retailmart.project import Project
from retailmart.report import ColumnLine, Difference, Held, MartLine
from retailmart.session import view_ledger


@dataclass(frozen=True)
class RunFile:
    """A file that a run took in, and what has become of it.

    `reason` says why it was refused or is a duplicate. `amount` is the money of its loaded rows,
    None for a feed without `balance`; `replaces` is the run's file that it replaced. `archived` is
    its folder in the archive, None as long as landing has the file.
    """

    path: str
    feed: str | None
    state: str
    reason: str | None
    records: int | None
    loaded: int | None
    quarantined: int | None
    warned: Mapping[str, int]
    amount: Decimal | None
    replaces: bool
    archived: str | None


@dataclass(frozen=True)
class RunBatch:
    """A batch that a run began or finished. `outcome` figures are what it decided.

    `run_id` began it, `finished_by` finished it; None if no run has.
    """

    batch_id: int
    state: str
    run_id: int
    finished_by: int | None
    undoes: int | None
    marts: tuple[MartLine, ...]
    held: tuple[Held, ...]
    unavailable: Mapping[str, str]
    differences: tuple[Difference, ...]
    columns: tuple[ColumnLine, ...]


@dataclass(frozen=True)
class RunStatus:
    """One run: its figures, its steps in their order, its batches and its files."""

    run: RunLine
    steps: tuple[StepTime, ...]
    batches: tuple[RunBatch, ...]
    files: tuple[RunFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The run as plain values; money as text."""
        return asdict(self)


def run_status(project: Project, run_id: int) -> RunStatus:
    """All that the ledger has of a run. Raises RetailmartError if there is no such run."""
    return view_ledger(project, lambda view: _whole(view.ledger, run_id))


def _whole(ledger: Ledger, run_id: int) -> RunStatus:
    record = ledger.runs.get(run_id)
    if record is None:
        raise RetailmartError(f"there is no run {run_id}", "List them with: retailmart status")
    (figures,) = ledger.history.figures([record])
    batches = ledger.history.batches(run_id)
    stamps = {batch.batch_id: batch for batch, _, _ in batches}
    warned: dict[int, Mapping[str, int]] = {}
    for _, _, outcome in batches:
        warned |= {one.file_id: one.warned for one in outcome.files} if outcome else {}
    return RunStatus(
        run_line(figures),
        tuple(StepTime(one.step, one.seconds, one.state) for one in figures.steps),
        tuple(_batch(*found) for found in batches),
        tuple(
            _file(file, amount, warned.get(file.file_id, {}), stamps.get(file.batch_id))
            for file, amount in ledger.history.files(run_id)
        ),
    )


def _batch(batch: Batch, finished_by: int | None, outcome: Outcome | None) -> RunBatch:
    notes: Mapping[str, Sequence[Mapping[str, Any]]] = outcome.notes if outcome else {}
    return RunBatch(
        batch.batch_id,
        batch.state.value,
        batch.run_id,
        finished_by,
        batch.undoes,
        tuple(MartLine(**line) for line in notes.get("marts", ())),
        tuple(Held(**line) for line in notes.get("held", ())),
        dict(outcome.notes.get("unavailable", {})) if outcome else {},
        tuple(
            Difference(line["path"], line["rows"], Decimal(line["amount"]))
            for line in notes.get("differences", ())
        ),
        tuple(
            ColumnLine(schema.table, change.column, change.before, change.after, change.cause)
            for schema in (outcome.schemas if outcome else ())
            for change in schema.changes
            if not schema.is_new
        ),
    )


def _file(
    file: LedgerFile, amount: Decimal | None, warned: Mapping[str, int], batch: Batch | None
) -> RunFile:
    return RunFile(
        file.path,
        file.feed,
        in_words(file.state.value),
        file.message,
        file.records,
        file.loaded,
        file.quarantined,
        warned,
        amount,
        file.supersedes is not None,
        _archived(file, batch),
    )


def _archived(file: LedgerFile, batch: Batch | None) -> str | None:
    """The file's folder in the archive, in the same words as the ledger's views."""
    if batch is None or batch.state is not BatchState.DONE or file.state is FileState.RELEASED:
        return None
    if file.state is FileState.REFUSED:
        return f"error_files/{file.folder}"
    return f"{'undone' if file.state is FileState.UNDONE else 'processed'}/{batch.stamp}"
