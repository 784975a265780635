"""Who holds the project's lease, for people; and how one that a dead holder left is broken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.lease import LASTS, RUN, busy, is_locked


@dataclass(frozen=True)
class Holding:
    """The project's lease as the ledger shows it. Times are ISO texts in UTC.

    `holder` is its machine and lock file, None while nobody holds it; a run of an earlier release
    has recorded neither `pid` nor `since`. The holder extends it every ten seconds: once `until` is
    past, any other run may take it.
    """

    holder: str | None
    pid: int | None
    since: str | None
    until: str | None
    fence: int

    @property
    def host(self) -> str | None:
        """The holder's machine."""
        return self.holder.partition(":")[0] if self.holder else None

    @property
    def folder(self) -> str | None:
        """The folder in which the holder works."""
        return self.holder.partition(":")[2].removesuffix("/lock") if self.holder else None

    @property
    def is_held(self) -> bool:
        """Whether it names a holder, who may be dead."""
        return self.host is not None

    @property
    def is_fresh(self) -> bool:
        """Whether its holder has been heard of within the lease's time."""
        return self.until is not None and self.until > datetime.now(UTC).isoformat()

    @property
    def heard_of(self) -> str | None:
        """When the holder extended it last: an ISO time in UTC."""
        if self.until is None:
            return None
        return (datetime.fromisoformat(self.until) - LASTS).isoformat()

    @property
    def shown(self) -> str:
        """The holder for people, as `a run on shopbox (process 47), since 2024-04-01 06:00`."""
        process = f" (process {self.pid})" if self.pid else ""
        since = f", since {self.since[:19].replace('T', ' ')} UTC" if self.since else ""
        return f"a run on {self.host}{process}{since}"


@dataclass(frozen=True)
class LeaseBreak:
    """A lease that somebody broke: whose it was, when, and who did it."""

    holder: str
    pid: int | None
    fence: int
    broken_at: str
    broken_by: str


class Leases(Access):
    """The lease as the ledger shows it, and those that were broken."""

    def now(self) -> Holding:
        """The lease as it is. One that nobody has ever taken has the fence 0."""
        with self.reading() as connection:
            row = connection.execute(select(t.lease).where(t.lease.c.name == RUN)).first()
        return _holding(row)

    def broken(self) -> list[LeaseBreak]:
        """The leases that were broken, newest first."""
        columns = t.lease_breaks.c
        query = select(
            columns.holder, columns.pid, columns.fence, columns.broken_at, columns.broken_by
        ).order_by(columns.break_id.desc())
        with self.reading() as connection:
            return [LeaseBreak(*row) for row in connection.execute(query)]

    def break_from(self, seen: Holding, by: str, lock_file: Path) -> None:
        """Take the lease from its holder, who can write nothing more: the fence is a higher one.

        `seen` is the lease as it was looked at; ProjectBusy if it has changed hands since. If a
        process on this machine still has the project's lock file, such as one that is stopped, the
        file goes, so that the next run creates its own.
        """
        now = datetime.now(UTC).isoformat()
        with self.engine.begin() as connection:
            taken = connection.execute(
                update(t.lease)
                .where(t.lease.c.name == RUN, t.lease.c.fence == seen.fence)
                .values(holder=None, pid=None, since=None, fence=seen.fence + 1, expires_at=now)
            )
            if taken.rowcount != 1:
                raise busy("a run that has just taken the lease")
            connection.execute(
                insert(t.lease_breaks).values(
                    holder=f"{seen.host}:{seen.folder}",
                    pid=seen.pid,
                    fence=seen.fence,
                    broken_at=now,
                    broken_by=by,
                )
            )
        if is_locked(lock_file):
            lock_file.unlink(missing_ok=True)


def _holding(row: Any) -> Holding:
    if row is None or row.holder is None:
        return Holding(None, None, None, None, row.fence if row else 0)
    return Holding(row.holder, row.pid, row.since, row.expires_at, row.fence)
