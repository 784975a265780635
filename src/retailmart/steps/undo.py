"""Take a run back: find out what leaves with it, what comes back, or why it can't be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from retailmart.errors import RetailmartError
from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, LedgerFile, NewFile
from retailmart.report import Difference
from retailmart.steps.archive import snapshot_archived
from retailmart.storage import Store

_COUNTED = (FileState.LOADED, FileState.DUPLICATE)


@dataclass(frozen=True)
class Undoing:
    """The files of a run that leave, and the older versions that they had replaced."""

    leaving: tuple[LedgerFile, ...]
    returning: tuple[LedgerFile, ...]


def plan_undo(ledger: Ledger, run_id: int) -> Undoing | None:
    """What taking a run back means; None where that is done already.

    RetailmartError says why it can't be taken back.
    """
    if not ledger.run_exists(run_id):
        raise RetailmartError(f"there is no run {run_id}", "List the runs with: retailmart status")
    if any(batch.undoes is not None for batch in ledger.batches_of_run(run_id)):
        raise RetailmartError(
            f"run {run_id} took another run back; that can't be taken back itself",
            "Put its files into landing again: they lie in the archive's undone/",
        )
    files = ledger.files_of_run(run_id)
    leaving = [file for file in files if file.state in _COUNTED]
    reasons = [*_replaced_since(ledger, files), *_needed_since(ledger, files, leaving)]
    if reasons:
        raise RetailmartError(f"run {run_id} can't be taken back:\n  " + "\n  ".join(reasons))
    if not leaving and any(file.state is FileState.UNDONE for file in files):
        return None
    if not leaving:
        raise RetailmartError(f"run {run_id} brought no file that counts now")
    replaced = [ledger.file(file.supersedes) for file in leaving if file.supersedes is not None]
    return Undoing(tuple(leaving), tuple(replaced))


def taken_back(ledger: Ledger, files: Iterable[LedgerFile]) -> list[Difference]:
    """What each file of an undone run takes with it."""
    lines = []
    for file in files:
        months = ledger.months_of_files([file.file_id])
        amount = sum((totals.amount for totals in months.values()), Decimal(0))
        lines.append(Difference(file.path, -(file.loaded or 0), -amount))
    return lines


def bring_back(
    ledger: Ledger, archived: Store, files: Sequence[LedgerFile], scratch: Path
) -> list[NewFile]:
    """Snapshot older versions from the archive, to be staged again under their names.

    Raises RetailmartError where the archive no longer has one as it was.
    """
    staged = []
    for file in files:
        if not snapshot_archived(ledger, archived, file.sha256, scratch):
            raise RetailmartError(
                f"the version of {file.path} that comes back is no longer in {archived}",
                f"Put it back there under processed/{ledger.batch(file.batch_id).stamp}/",
            )
        staged.append(NewFile(file.path, file.sha256, file.size, "", FileState.ACTIVE, file.feed))
    return staged


def _replaced_since(ledger: Ledger, files: Iterable[LedgerFile]) -> list[str]:
    old = [file for file in files if file.state is FileState.SUPERSEDED]
    newer = {file.supersedes: file for file in ledger.superseders([file.file_id for file in old])}
    reasons = []
    for file in old:
        if (by := newer.get(file.file_id)) is not None:
            run = ledger.batch(by.batch_id).run_id
            reasons.append(f"{file.path} was replaced by run {run}; undo that first")
    return reasons


def _needed_since(
    ledger: Ledger, files: Iterable[LedgerFile], leaving: Iterable[LedgerFile]
) -> list[str]:
    reasons = []
    own = {file.file_id for file in files}
    for file in leaving:
        if file.state is FileState.LOADED:
            for name in sorted(ledger.names_of(file.sha256)):
                standing = ledger.standing(name)
                through = standing is not None and standing.state is FileState.DUPLICATE
                if standing is not None and through and standing.file_id not in own:
                    run = ledger.batch(standing.batch_id).run_id
                    reasons.append(
                        f"{name} of run {run} is counted through {file.path}; undo that first"
                    )
    for file in ledger.replayers(own):
        if file.file_id not in own:
            run = ledger.batch(file.batch_id).run_id
            reasons.append(f"{file.path} of run {run} replayed its rows; undo that first")
    return reasons
