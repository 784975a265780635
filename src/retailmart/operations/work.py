"""A run at work: what it keeps from step to step, and whether there is anything to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from retailmart.errors import RetailmartError, SettingsError
from retailmart.feeds.deliveries import Deliveries, feeds_as_held
from retailmart.lake.layout import raw_table
from retailmart.ledger import Ledger
from retailmart.marts.definitions import stale_marts
from retailmart.marts.plan import reads_of
from retailmart.monitoring.events import Event
from retailmart.operations.plan.promise import Promise
from retailmart.operations.settings import recorded
from retailmart.project import Feed, Project
from retailmart.report import LeftOut, LeftTable, UndoneAlready
from retailmart.session import Session
from retailmart.sources.shop_tables import ShopTables, Work


@dataclass
class Run:
    """A run at work: its session, the files that have landed, and the shop's tables.

    `waiting` and `unreachable` are names in landing that were left there, `left_tables` published
    tables whose marts are gone. `undone_already` is set if there is nothing left to undo, `idle` if
    there is nothing to read again. `left_out` are files that a backfill does not read. `promise` is
    the plan that the run carries out, if any. `taken` are files that a plan leaves in landing, by
    path and version, although a batch has taken them in. `tell` tells the run's observers of an
    event.
    """

    session: Session
    run_id: int
    as_of: datetime
    deliveries: Deliveries
    tables: ShopTables
    left_tables: tuple[LeftTable, ...] = ()
    waiting: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    undone_already: UndoneAlready | None = None
    idle: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    promise: Promise | None = None
    taken: frozenset[tuple[str, str]] = frozenset()
    tell: Callable[[Event], None] = lambda _: None
    _feeds: dict[str, Feed] | None = None

    @property
    def project(self) -> Project:
        """The project that runs."""
        return self.session.project

    @property
    def ledger(self) -> Ledger:
        """What is known, with this run's lease."""
        return self.session.ledger

    def feeds(self) -> dict[str, Feed]:
        """The feeds with all columns that their raw tables hold, found once a batch.

        Raises SettingsError if a definition would remove any of them.
        """
        if self._feeds is None:
            feeds = self.project.feeds.values()
            self._feeds = feeds_as_held(feeds, self.session.lake, self.ledger)
        return self._feeds

    def stale_marts(self, as_of: datetime, available: Iterable[str] = ()) -> frozenset[str]:
        """Marts that are new, or were built by another definition or for another day."""
        return stale_marts(self.project, self.ledger.marts.all(), as_of, available)

    def end_batch(self) -> None:
        """Forget what belongs to a batch that has ended."""
        self._feeds = None
        self.session.clear_scratch()


def expect_moment(as_of: object) -> None:
    """Raise SettingsError if what Python code gave as `as_of` is no moment."""
    if as_of is not None and not isinstance(as_of, datetime):
        raise SettingsError(
            [f"as_of is {as_of!r}, and no datetime"],
            "Write it as in datetime(2024, 4, 1, tzinfo=UTC)",
        )


def begin(session: Session, moment: datetime) -> Run:
    """Begin a run under the session's lease. `moment` (UTC) is what it computes marts for."""
    ledger, lake = session.ledger, session.lake
    run_id = ledger.runs.begin(moment)
    ledger.settings.record(run_id, recorded(session.project))
    return Run(
        session,
        run_id,
        moment,
        Deliveries(session.landing, session.archive, session.scratch, ledger),
        ShopTables(
            session.project,
            session.sources,
            ledger,
            lake,
            lambda: reads_of(session.project),
            lambda message: session.progress.message("load", message),
        ),
    )


def work_for(run: Run, as_of: datetime, *, files: bool) -> Work:
    """What there is to do: `files` to load or to take out, stale marts, other months, or changed
    tables.

    Tables are probed last: that may mean to read them.
    """
    if files or _has_stale_marts(run, as_of) or _has_other_months(run):
        return Work(True)
    return run.tables.work()


def _has_other_months(run: Run) -> bool:
    """Whether a feed's rows are of other months than they were counted by."""
    known = run.ledger.files.counted_by()
    by_table = {raw_table(feed.name): feed for feed in run.project.feeds.values()}
    return any(
        known[table].month != feed.month for table, feed in by_table.items() if table in known
    )


def _has_stale_marts(run: Run, as_of: datetime) -> bool:
    """Whether marts must be built although nothing has landed: they are stale, and have input."""
    stale = run.stale_marts(as_of)
    if not stale:
        return False
    if run.ledger.files.count().get("loaded") or run.ledger.sources.all():
        return True
    words = frozenset().union(*(run.project.marts[name].words for name in stale))
    for source in run.project.settings.sources:
        with suppress(RetailmartError):  # a new project may name sources that do not exist yet
            if any(table.lower() in words for table in run.session.sources.offered(source)):
                return True
    return False
