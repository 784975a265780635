"""Who holds the project, and how a lease is broken that a dead holder has left."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retailmart.database import translate_errors
from retailmart.errors import ProjectBusy, RetailmartError
from retailmart.ledger import Ledger
from retailmart.ledger.lease import is_locked
from retailmart.ledger.leases import Holding, LeaseBreak
from retailmart.operations.status import LeaseLine, lease_line
from retailmart.project import Project
from retailmart.session import LOCK, PRIVATE, open_ledger, view_ledger, who


@dataclass(frozen=True)
class LeaseStatus:
    """Who holds the project's lease, None while nobody does, and the leases that were broken."""

    lease: LeaseLine | None
    broken: tuple[LeaseBreak, ...]

    def to_dict(self) -> dict[str, Any]:
        """The lease as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class BrokenLease:
    """The lease that was broken; None if nobody held it. `by` is who did it."""

    lease: LeaseLine | None
    by: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def lease_status(project: Project) -> LeaseStatus:
    """Who holds the project's lease. Nothing is written."""
    return view_ledger(project, lambda view: _status(view.ledger))


def _status(ledger: Ledger) -> LeaseStatus:
    return LeaseStatus(lease_line(ledger.leases.now()), tuple(ledger.leases.broken()))


def break_lease(
    project: Project,
    *,
    force: bool = False,
    confirm: Callable[[LeaseLine], bool] = lambda _: True,
) -> BrokenLease:
    """Take the lease from a holder that is known to be dead; the ledger records who did it.

    A holder that is alive after all can write nothing more. `confirm` is asked first; if it says
    no, nothing is done. Raises ProjectBusy while the holder has been heard of within a minute, or
    its process is there, unless `force` is set.
    """
    lock = project.folder / PRIVATE / LOCK
    by = who()
    with open_ledger(project) as ledger, translate_errors():
        seen = ledger.leases.now()
        found = lease_line(seen)
        if found is None:
            return BrokenLease(None, by)
        if not force:
            _expect_dead(seen, lock)
        if not confirm(found):
            raise RetailmartError("the lease is left as it is", "Nothing was changed")
        ledger.leases.break_from(seen, by, lock)
    return BrokenLease(found, by)


def _expect_dead(seen: Holding, lock: Path) -> None:
    if seen.is_fresh:
        raise ProjectBusy(
            f"{seen.shown} has been heard of at {str(seen.heard_of)[:19].replace('T', ' ')} UTC, so"
            " it is alive",
            "A holder that is dead is not heard of for a minute: wait and try again. If it is known"
            " to be dead: retailmart lease break --force",
        )
    if is_locked(lock):
        there = f"process {seen.pid}" if seen.pid and _is_there(seen.pid) else "a process"
        raise ProjectBusy(
            f"{seen.shown} is not heard of any more, but {there} on this machine still has the"
            " project open, such as one that is stopped",
            f"End it first{f', as with: kill -9 {seen.pid}' if seen.pid else ''}; then the next run"
            " takes over by itself. If it can't be ended: retailmart lease break --force",
        )


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
