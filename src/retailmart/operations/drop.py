"""Drop a published table whose mart is gone."""

from __future__ import annotations

from retailmart.database import translate_errors
from retailmart.marts.ownership import drop_table
from retailmart.project import Project
from retailmart.report import Progress, Silent
from retailmart.session import Session


def drop(project: Project, name: str, progress: Progress | None = None) -> bool:
    """Drop a published table of a mart that is gone. Returns whether it still existed.

    Raises RetailmartError, which says why it is not dropped, or ProjectBusy while a run is at work.
    """
    with Session.open(project, progress or Silent()) as session, translate_errors():
        session.ledger.migrate()
        session.acquire_lease()
        return drop_table(project, session.ledger, session.lake, name)
