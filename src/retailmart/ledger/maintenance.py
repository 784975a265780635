"""The ledger's record of maintenance, and what it keeps of runs that ended long ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import chunks, due_at, key_of, now, put_due

# A row next to the lease says when old files and rows are next looked for.
_DUE = "maintain"
_EVERY = timedelta(days=1)


@dataclass(frozen=True)
class Maintained:
    """One maintenance as the ledger knows it. Times are ISO texts in UTC."""

    maintenance_id: int
    run_id: int | None
    started_at: str
    finished_at: str | None
    state: str
    message: str | None


class Maintenance(Access):
    """What maintenance did; a row that is still running was cut off."""

    def begin(self, run_id: int | None) -> tuple[int, bool]:
        """Record that maintenance begins; returns its key, and whether another was cut off."""
        with self.transaction() as connection:
            killed = connection.execute(_cut_off())
            result = connection.execute(
                insert(t.maintenance).values(run_id=run_id, started_at=now(), state="running")
            )
            return key_of(result), bool(killed.rowcount)

    def was_cut_off(self) -> bool:
        """Whether maintenance was killed, and none has begun since."""
        query = select(func.count()).where(t.maintenance.c.state == "running")
        with self.reading() as connection:
            return bool(connection.scalar(query))

    def mark_cut_off(self) -> None:
        """Record that what was cut off is known: its orphaned files are gone."""
        with self.transaction() as connection:
            connection.execute(_cut_off())

    def end(self, key: int, state: str, message: str | None) -> None:
        """Record how it ended: `done` or `failed`."""
        with self.transaction() as connection:
            connection.execute(
                update(t.maintenance)
                .where(t.maintenance.c.maintenance_id == key)
                .values(finished_at=now(), state=state, message=message)
            )

    def last(self, count: int) -> list[Maintained]:
        """The newest ones, newest first."""
        columns = t.maintenance.c
        query = (
            select(
                columns.maintenance_id,
                columns.run_id,
                columns.started_at,
                columns.finished_at,
                columns.state,
                columns.message,
            )
            .order_by(columns.maintenance_id.desc())
            .limit(count)
        )
        with self.reading() as connection:
            return [Maintained(*row) for row in connection.execute(query)]

    def is_due(self) -> bool:
        """Whether it is time to look for old files and rows; first when the ledger is a day old."""
        with self.reading() as connection:
            if (due := due_at(connection, _DUE)) is None:
                built = connection.scalar(select(func.min(t.migrations.c.applied_at)))
                due = (datetime.fromisoformat(built) + _EVERY).isoformat() if built else now()
            return due <= now()

    def mark_done(self) -> None:
        """Record that old files and rows were looked for; they are due again in a day."""
        with self.transaction() as connection:
            put_due(connection, _DUE, _EVERY)

    def idle_runs(self, before: datetime) -> int:
        """How many runs `remove_idle_runs` would remove."""
        with self.reading() as connection:
            return len(list(connection.scalars(_idle_runs(before))))

    def remove_idle_runs(self, before: datetime) -> int:
        """Remove runs that had nothing to do, the steps of runs that are done, and maintenances.

        All only if they began before a moment. Returns how many runs left.
        """
        with self.reading() as connection:
            idle = list(connection.scalars(_idle_runs(before)))
        for ids in chunks(idle):
            with self.transaction() as connection:
                connection.execute(delete(t.steps).where(t.steps.c.run_id.in_(ids)))
                connection.execute(delete(t.runs).where(t.runs.c.run_id.in_(ids)))
        gone = t.maintenance.c.started_at < before.isoformat()
        long_done = select(t.runs.c.run_id).where(*_long_done(before))
        with self.transaction() as connection:
            connection.execute(delete(t.maintenance).where(gone))
            connection.execute(delete(t.steps).where(t.steps.c.run_id.in_(long_done)))
        return len(idle)


def _cut_off() -> Any:
    """Those that still run when the lease is another's are cut off."""
    return update(t.maintenance).where(t.maintenance.c.state == "running").values(state="killed")


def _idle_runs(before: datetime) -> Any:
    """Runs that ended well, with nothing to do, long ago; the newest run always stays."""
    run, batch = t.runs.c, t.batches.c
    worked = select(batch.batch_id).where(
        or_(batch.run_id == run.run_id, batch.finished_by == run.run_id)
    )
    return select(run.run_id).where(*_long_done(before), ~worked.exists()).order_by(run.run_id)


def _long_done(before: datetime) -> tuple[ColumnElement[bool], ...]:
    run = t.runs.c
    newest = select(func.max(run.run_id)).scalar_subquery()
    return run.state == "done", run.started_at < before.isoformat(), run.run_id < newest
