"""The history of runs as the ledger has it: their steps, files, rows and money."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import batch_of, chunks, file_of, unpack
from retailmart.ledger.values import (
    Batch,
    FileState,
    LedgerFile,
    Outcome,
    RunRecord,
    Totals,
)


@dataclass(frozen=True)
class StepRecord:
    """A step of a run, and how long it took."""

    step: str
    seconds: float
    state: str


@dataclass(frozen=True)
class RunFigures:
    """What a run did, in figures. `files` counts them by state, `money` is by feed.

    Files are those of the batches that the run staged. `undoes` is the run that it undid.
    """

    run: RunRecord
    steps: tuple[StepRecord, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    records: int = 0
    loaded: int = 0
    quarantined: int = 0
    money: Mapping[str, Decimal] = field(default_factory=dict)
    undoes: int | None = None


_NO_ROWS = (0, 0, 0)


class History(Access):
    """Past runs, with their figures."""

    def figures(self, runs: Iterable[RunRecord]) -> list[RunFigures]:
        """The figures of these runs, in their order."""
        runs = list(runs)
        ids = [run.run_id for run in runs]
        steps: dict[int, list[StepRecord]] = {}
        counts: dict[int, dict[str, int]] = {}
        rows: dict[int, tuple[int, int, int]] = {}
        money: dict[int, dict[str, Totals]] = {}
        with self.reading() as connection:
            query = select(t.steps).where(t.steps.c.run_id.in_(ids)).order_by(t.steps.c.step_id)
            for row in connection.execute(query):
                taken = StepRecord(row.step, row.milliseconds / 1000, row.state or "done")
                steps.setdefault(row.run_id, []).append(taken)
            for row in connection.execute(_counts(ids)):
                of_run = counts.setdefault(row.run_id, {})
                of_run[row.state] = of_run.get(row.state, 0) + row.n
                if row.state != FileState.RELEASED.value:
                    records, loaded, quarantined = rows.get(row.run_id, _NO_ROWS)
                    rows[row.run_id] = (
                        records + int(row.records or 0),
                        loaded + int(row.loaded or 0),
                        quarantined + int(row.quarantined or 0),
                    )
            for row in connection.execute(_amounts(ids)):
                by_feed = money.setdefault(row.run_id, {})
                before = by_feed.get(row.feed, Totals())
                by_feed[row.feed] = before + Totals(0, Decimal(row.amount))
            batches = t.batches.c
            undone = select(batches.run_id, batches.undoes).where(
                batches.run_id.in_(ids), batches.undoes.is_not(None)
            )
            undoes: dict[int, int] = {row.run_id: row.undoes for row in connection.execute(undone)}
        return [
            RunFigures(
                run,
                tuple(steps.get(run.run_id, ())),
                counts.get(run.run_id, {}),
                *rows.get(run.run_id, _NO_ROWS),
                {feed: total.amount for feed, total in sorted(money.get(run.run_id, {}).items())},
                undoes.get(run.run_id),
            )
            for run in runs
        ]

    def files(self, run_id: int) -> list[tuple[LedgerFile, Decimal | None]]:
        """The files of the batches that a run staged, and the money of each."""
        of_run = select(t.batches.c.batch_id).where(t.batches.c.run_id == run_id)
        query = select(t.files).where(t.files.c.batch_id.in_(of_run)).order_by(t.files.c.file_id)
        with self.reading() as connection:
            return [
                (file_of(row), Decimal(row.amount) if row.amount else None)
                for row in connection.execute(query)
            ]

    def batches(self, run_id: int) -> list[tuple[Batch, int | None, Outcome | None]]:
        """The batches that a run staged or finished: who finished each, and what it decided.

        The outcome is None for a batch that was never prepared.
        """
        columns = t.batches.c
        query = (
            select(t.batches)
            .where((columns.run_id == run_id) | (columns.finished_by == run_id))
            .order_by(columns.batch_id)
        )
        with self.reading() as connection:
            return [
                (
                    batch_of(row),
                    row.finished_by,
                    Outcome.from_json(unpack(row.outcome)) if row.outcome else None,
                )
                for row in connection.execute(query)
            ]

    def warned_files(self) -> list[int]:
        """The keys of files of which rows broke a rule that warns."""
        query = select(t.batches.c.outcome).where(t.batches.c.outcome.is_not(None))
        with self.reading() as connection:
            outcomes = (Outcome.from_json(unpack(packed)) for packed in connection.scalars(query))
            return [one.file_id for outcome in outcomes for one in outcome.files if one.warned]

    def paths_of(self, file_ids: Iterable[int]) -> dict[int, str]:
        """The paths of files, by their keys."""
        found: dict[int, str] = {}
        with self.reading() as connection:
            for ids in chunks(file_ids):
                query = select(t.files.c.file_id, t.files.c.path).where(t.files.c.file_id.in_(ids))
                found |= {row.file_id: row.path for row in connection.execute(query)}
        return found


def _counts(run_ids: list[int]) -> Any:
    files = t.files.c
    return (
        select(
            t.batches.c.run_id,
            files.state,
            func.count().label("n"),
            func.sum(files.records).label("records"),
            func.sum(files.loaded).label("loaded"),
            func.sum(files.quarantined).label("quarantined"),
        )
        .select_from(t.files.join(t.batches, files.batch_id == t.batches.c.batch_id))
        .where(t.batches.c.run_id.in_(run_ids))
        .group_by(t.batches.c.run_id, files.state)
    )


def _amounts(run_ids: list[int]) -> Any:
    """Each file's money: text, as no database sums decimals of any length exactly."""
    files = t.files.c
    return (
        select(t.batches.c.run_id, files.feed, files.amount)
        .select_from(t.files.join(t.batches, files.batch_id == t.batches.c.batch_id))
        .where(
            t.batches.c.run_id.in_(run_ids),
            files.amount.is_not(None),
            files.state != FileState.RELEASED.value,
        )
    )
