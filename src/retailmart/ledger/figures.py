"""Sums over the whole ledger: what metrics show, and what alerts compare with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy import func, select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import READABLE
from retailmart.ledger.values import FileState


@dataclass(frozen=True)
class FeedFigures:
    """The files of a feed in one state, and their rows. Files without a feed have `feed` None."""

    feed: str | None
    state: str
    files: int
    records: int
    loaded: int
    quarantined: int


@dataclass(frozen=True)
class LastRun:
    """A run as metrics show it; times are ISO texts in UTC."""

    run_id: int
    started_at: str
    finished_at: str | None
    state: str
    exit_code: int | None
    error: str | None


class Figures(Access):
    """Figures that no step of a run needs."""

    def files(self) -> list[FeedFigures]:
        """How many files and rows there are, by feed and state."""
        c = t.files.c
        sums = (
            func.coalesce(func.sum(column), 0) for column in (c.records, c.loaded, c.quarantined)
        )
        query = select(c.feed, c.state, func.count(), *sums).group_by(c.feed, c.state)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(c.feed, c.state)).all()
        return [FeedFigures(row[0], row[1], *map(int, row[2:])) for row in rows]

    def newest_loads(self) -> dict[str, str]:
        """When the newest files of each feed were taken in: an ISO time in UTC, by feed."""
        query = (
            select(t.files.c.feed, func.max(t.runs.c.started_at))
            .select_from(
                t.files.join(t.batches, t.files.c.batch_id == t.batches.c.batch_id).join(
                    t.runs, t.batches.c.run_id == t.runs.c.run_id
                )
            )
            .where(t.files.c.state.in_((*READABLE, FileState.UNDONE.value)))
            .group_by(t.files.c.feed)
        )
        with self.reading() as connection:
            return {str(feed): str(at) for feed, at in connection.execute(query) if feed}

    def newest_months(self) -> dict[str, str]:
        """The newest month that each feed's counted files have rows of, as in 2024-03."""
        query = (
            select(t.files.c.feed, func.max(t.file_months.c.month))
            .select_from(t.file_months.join(t.files, t.file_months.c.file_id == t.files.c.file_id))
            .where(t.files.c.state == FileState.LOADED.value)
            .group_by(t.files.c.feed)
        )
        with self.reading() as connection:
            return {str(feed): str(month) for feed, month in connection.execute(query) if month}

    def loaded_by_day(self, since: date) -> dict[str, dict[date, int]]:
        """The rows that each feed's files had, by the day (`as_of`) of the runs that took them."""
        day = func.substr(t.batches.c.as_of, 1, 10)
        query = (
            select(t.files.c.feed, day, func.sum(t.files.c.loaded))
            .select_from(t.files.join(t.batches, t.files.c.batch_id == t.batches.c.batch_id))
            .where(
                t.files.c.state.in_((FileState.LOADED.value, FileState.SUPERSEDED.value)),
                t.batches.c.as_of >= since.isoformat(),
                t.files.c.supersedes.is_(None),  # a corrected file is not more of a day
            )
            .group_by(t.files.c.feed, day)
        )
        found: dict[str, dict[date, int]] = {}
        with self.reading() as connection:
            for feed, text, rows in connection.execute(query):
                found.setdefault(str(feed), {})[date.fromisoformat(text)] = int(rows or 0)
        return found

    def runs_by_end(self) -> dict[tuple[str, str], int]:
        """How many runs there are, by state and the name of the error that ended them."""
        c = t.runs.c
        query = select(c.state, c.error, c.exit_code, func.count()).group_by(
            c.state, c.error, c.exit_code
        )
        found: dict[tuple[str, str], int] = {}
        with self.reading() as connection:
            for state, error, code, count in connection.execute(query):
                key = ("incomplete" if state == "done" and code else state, error or "")
                found[key] = found.get(key, 0) + count
        return found

    def last_run(self) -> LastRun | None:
        """The newest run."""
        return self._run(None)

    def last_success(self) -> LastRun | None:
        """The newest run that took in all that was there.

        Runs of earlier releases have not recorded their exit code; done counts as success.
        """
        return self._run((t.runs.c.state == "done") & (func.coalesce(t.runs.c.exit_code, 0) == 0))

    def steps(self, run_id: int) -> dict[str, float]:
        """The seconds of a run by step."""
        c = t.steps.c
        query = select(c.step, func.sum(c.milliseconds)).where(c.run_id == run_id)
        with self.reading() as connection:
            rows = connection.execute(query.group_by(c.step)).all()
        return {str(step): int(took) / 1000 for step, took in rows}

    def _run(self, condition: object) -> LastRun | None:
        c = t.runs.c
        query = select(c.run_id, c.started_at, c.finished_at, c.state, c.exit_code, c.error)
        if condition is not None:
            query = query.where(condition)  # type: ignore[arg-type]
        with self.reading() as connection:
            row = connection.execute(query.order_by(c.run_id.desc()).limit(1)).first()
        return LastRun(*row) if row else None
