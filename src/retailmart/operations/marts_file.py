"""Keep `marts.duckdb` as the lake is, if the project wants one. See marts.marts_file."""

from __future__ import annotations

from retailmart.database import translate_errors
from retailmart.errors import LeaseLost, Stopped
from retailmart.marts.marts_file import MartsFile
from retailmart.report import MartsFileReport
from retailmart.session import Session

# In the private folder: what the file showed when it was written last.
_RECORD = "marts-file.json"


def keep_marts_file(session: Session) -> MartsFileReport | None:
    """Write the file of views again if a mart's table has changed; None if there was nothing to do.

    No batch may be unfinished. It fails nothing: whatever goes wrong is in the report, and the next
    run tries again. A file that the settings do not name any more is removed.
    """
    name, record = session.project.settings.marts_file, session.private / _RECORD
    if name is None:
        if record.exists():
            MartsFile(record, record).remove()
        return None
    path = session.project.folder / name
    file = MartsFile(path, record)
    try:
        with translate_errors():
            known, marts = session.ledger.marts.all(), session.project.marts
            if file.is_current(session.lake, marts.keys(), known):
                return None
            with session.step("views"):
                shown = file.write(session.ledger, session.lake, marts.keys(), known)
            return MartsFileReport(str(path), shown) if shown else None
    except (LeaseLost, Stopped):
        raise
    except Exception as error:  # whatever it is: what it shows is committed and right
        session.failed_step = None
        return MartsFileReport(str(path), problem=str(error) or type(error).__name__)
