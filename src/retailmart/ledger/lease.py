"""One run a project: a lease in the ledger with heartbeat, expiry and a fencing token.

The lease decides between machines. A lock on a file shows at once, on one machine, that the holder
has died, so that nobody waits for a lease to expire after a crash.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from retailmart.database.registry import kind_of
from retailmart.errors import LeaseLost, ProjectBusy
from retailmart.ledger.tables import lease as lease_table

RUN = "run"
LASTS = timedelta(seconds=60)
_BEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Lease:
    """The right to run, until another run with a higher `fence` takes it."""

    holder: str
    fence: int
    _stopped: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def verify(self, connection: Connection) -> None:
        """Extend the lease inside `connection`'s transaction, or raise LeaseLost.

        It writes, so that two transactions of two holders can never both succeed.
        """
        proved = connection.execute(
            update(lease_table)
            .where(lease_table.c.name == RUN, lease_table.c.fence == self.fence)
            .values(expires_at=_expiry())
        )
        if proved.rowcount != 1:
            raise LeaseLost(
                "another run has taken the project over; this one stops without writing more",
                "See what runs with: retailmart status",
            )


def is_locked(lock_file: Path) -> bool:
    """Whether a process on this machine holds the project's lock file."""
    try:
        descriptor = os.open(lock_file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def acquire_lease(engine: Engine, lock_file: Path) -> Iterator[Lease]:
    """Acquire and hold the project's lease; ProjectBusy while a living run has it."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(lock_file)
    try:
        holder = f"{socket.gethostname()}:{lock_file.resolve()}"
        lease = _taken(engine, holder)
        beat = threading.Thread(target=_beat, args=(engine, lease), daemon=True)
        beat.start()
        try:
            yield lease
        finally:
            lease._stopped.set()
            beat.join(_BEAT_SECONDS)  # it may wait for a server that does not answer
            with suppress(SQLAlchemyError):  # a lease that cannot be released expires
                give_back(engine, lease)
    finally:
        os.close(descriptor)


def _locked(lock_file: Path) -> int:
    """Lock the project's file, and return its descriptor; ProjectBusy if another process has it."""
    while True:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lease that is broken just now takes the file away.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock_file.stat()):
                    return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise busy("a run on this machine") from error
        os.close(descriptor)


def _taken(engine: Engine, holder: str) -> Lease:
    try:
        return _take(engine, holder)
    except IntegrityError as error:  # both saw no lease yet, and the other's was first
        raise busy("a run that was a moment faster") from error
    except DBAPIError as error:
        if error.orig and kind_of(engine.dialect.name).errors.is_contention(error.orig):
            raise busy("a run that is writing just now") from error
        raise


def _take(engine: Engine, holder: str) -> Lease:
    now = datetime.now(UTC).isoformat()
    with engine.begin() as connection:
        row = connection.execute(select(lease_table).where(lease_table.c.name == RUN)).first()
        if row is None:
            connection.execute(insert(lease_table).values(name=RUN, fence=1, **_held_by(holder)))
            return Lease(holder, 1)
        # Having the file lock proves that the last holder of this same folder is gone.
        if row.holder and row.holder != holder and row.expires_at > now:
            raise busy(f"a run on {row.holder.partition(':')[0]}")
        taken = connection.execute(
            update(lease_table)
            .where(lease_table.c.name == RUN, lease_table.c.fence == row.fence)
            .values(fence=row.fence + 1, **_held_by(holder))
        )
        if taken.rowcount != 1:
            raise busy("a run that was a moment faster")
        return Lease(holder, row.fence + 1)


def _held_by(holder: str) -> dict[str, object]:
    since = datetime.now(UTC).isoformat()
    return {"holder": holder, "pid": os.getpid(), "since": since, "expires_at": _expiry()}


def give_back(engine: Engine, lease: Lease) -> None:
    """Let others have the lease; without effect if another one has got it already."""
    with engine.begin() as connection:
        connection.execute(
            update(lease_table)
            .where(lease_table.c.name == RUN, lease_table.c.fence == lease.fence)
            .values(holder=None, pid=None, since=None)
        )


def _beat(engine: Engine, lease: Lease) -> None:
    while not lease._stopped.wait(_BEAT_SECONDS):
        try:
            with engine.begin() as connection:
                lease.verify(connection)
        except LeaseLost:
            return  # the next ledger write raises the error
        except SQLAlchemyError:
            # The run's own long transaction holds the lease's row and verifies it. Or the database
            # is briefly unreachable, and the run will notice that itself.
            continue


def _expiry() -> str:
    return (datetime.now(UTC) + LASTS).isoformat()


def busy(who: str) -> ProjectBusy:
    return ProjectBusy(
        f"{who} holds this project", "Wait until it has ended, or look with: retailmart status"
    )
