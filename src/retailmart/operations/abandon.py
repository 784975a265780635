"""Abandon an open batch."""

from __future__ import annotations

from retailmart.database import translate_errors
from retailmart.errors import RetailmartError
from retailmart.ledger.values import BatchState
from retailmart.operations.batch import abandon_batch
from retailmart.project import Project
from retailmart.report import Progress, Silent, number_of
from retailmart.session import Session


def abandon(project: Project, progress: Progress | None = None) -> str:
    """Abandon an open batch that is not prepared yet, and say so: its files count as never seen.

    Raises RetailmartError if it is prepared: then it can only be finished.
    """
    with Session.open(project, progress or Silent()) as session, translate_errors():
        session.ledger.migrate()
        session.acquire_lease()
        batch = session.ledger.batches.unfinished()
        if batch is None:
            return "There is no open batch: nothing to abandon"
        if batch.state is not BatchState.ACTIVE:
            raise RetailmartError(
                f"batch {batch.batch_id} is {batch.state.value}: its figures are decided, and it"
                " can only be finished",
                f"Finish it with: retailmart run; then: retailmart undo {batch.run_id}",
            )
        count = len(session.ledger.files.of_batch(batch.batch_id))
        abandon_batch(session, batch)
        session.clear_scratch()
        stay = "stays where it landed" if count == 1 else "stay where they landed"
        return f"Batch {batch.batch_id} is abandoned; its {number_of(count, 'file')} {stay}"
