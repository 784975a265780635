"""The ledger's record of runs and their steps, and when orphaned files are next searched for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import is_due, key_of, now, put_due
from retailmart.ledger.values import RunRecord

# A row next to the lease says when the next search for orphaned files is due.
_SWEEP = "sweep"
_SWEPT_EVERY = timedelta(days=1)


class Runs(Access):
    """Runs, each with its moment, its end and the time of its steps."""

    def begin(self, as_of: datetime) -> int:
        """Record that a run began; a run that was killed before is closed as killed.

        In that case the search for its orphaned files is due at once.
        """
        with self.transaction() as connection:
            killed = connection.execute(
                update(t.runs).where(t.runs.c.state == "running").values(state="killed")
            )
            if killed.rowcount:
                connection.execute(delete(t.lease).where(t.lease.c.name == _SWEEP))
            result = connection.execute(
                insert(t.runs).values(started_at=now(), as_of=as_of.isoformat(), state="running")
            )
            return key_of(result)

    def running(self) -> tuple[int, ...]:
        """The runs that have not recorded their end: under the lease, those that were killed."""
        query = select(t.runs.c.run_id).where(t.runs.c.state == "running")
        with self.reading() as connection:
            return tuple(connection.scalars(query.order_by(t.runs.c.run_id)))

    def close(
        self,
        run_id: int,
        state: str,
        message: str | None,
        exit_code: int | None = None,
        error: str | None = None,
    ) -> None:
        """Record how a run ended: done, failed or stopped; `error` is the name of its error.

        A run that was stopped may have left files that nothing names, as a killed one.
        """
        with self.transaction() as connection:
            if state == "stopped":
                connection.execute(delete(t.lease).where(t.lease.c.name == _SWEEP))
            connection.execute(
                update(t.runs)
                .where(t.runs.c.run_id == run_id)
                .values(
                    finished_at=now(),
                    state=state,
                    message=message,
                    exit_code=exit_code,
                    error=error,
                )
            )

    def exists(self, run_id: int) -> bool:
        """Whether this run exists."""
        with self.reading() as connection:
            return bool(connection.scalar(select(t.runs.c.run_id).where(t.runs.c.run_id == run_id)))

    def began(self, run_id: int) -> str:
        """When a run began: an ISO time in UTC."""
        with self.reading() as connection:
            query = select(t.runs.c.started_at).where(t.runs.c.run_id == run_id)
            return str(connection.scalar(query))

    def last(self, count: int) -> list[RunRecord]:
        """The newest runs, newest first."""
        return self._records(_records().order_by(t.runs.c.run_id.desc()).limit(count))

    def get(self, run_id: int) -> RunRecord | None:
        """One run; None if there is none of this number."""
        found = self._records(_records().where(t.runs.c.run_id == run_id))
        return found[0] if found else None

    def _records(self, query: Any) -> list[RunRecord]:
        with self.reading() as connection:
            return [RunRecord(*row) for row in connection.execute(query)]

    def record_steps(
        self,
        run_id: int,
        batch_id: int | None,
        seconds: Sequence[tuple[str, float]],
        failed: str | None = None,
    ) -> None:
        """Record how long each step of a run took, and in which of them the run failed."""
        rows = [
            {
                "run_id": run_id,
                "batch_id": batch_id,
                "step": step,
                "milliseconds": round(took * 1000),
                "state": "failed" if step == failed else None,
            }
            for step, took in seconds
        ]
        if rows:
            with self.transaction() as connection:
                connection.execute(insert(t.steps), rows)

    def sweep_is_due(self) -> bool:
        """Whether it is time to search for orphaned files."""
        with self.reading() as connection:
            return is_due(connection, _SWEEP)

    def mark_swept(self) -> None:
        """Record a search for orphaned files; the next one is due in a day."""
        with self.transaction() as connection:
            put_due(connection, _SWEEP, _SWEPT_EVERY)


def _records() -> Any:
    """Runs in the columns of RunRecord."""
    columns = t.runs.c
    failed = (
        select(func.max(t.steps.c.step))
        .where(t.steps.c.run_id == columns.run_id, t.steps.c.state == "failed")
        .scalar_subquery()
    )
    return select(
        columns.run_id,
        columns.started_at,
        columns.finished_at,
        columns.as_of,
        columns.state,
        columns.message,
        columns.exit_code,
        failed,
    )
