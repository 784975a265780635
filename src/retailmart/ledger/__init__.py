"""The ledger records every file, its state and totals. Each change is one fenced transaction."""

from __future__ import annotations

import time

from sqlalchemy import inspect
from sqlalchemy.exc import DatabaseError

from retailmart.ledger import tables as t
from retailmart.ledger.access import READS, Access
from retailmart.ledger.alerts import Alerts
from retailmart.ledger.batches import Batches
from retailmart.ledger.figures import Figures
from retailmart.ledger.files import Files
from retailmart.ledger.held import HeldBack
from retailmart.ledger.history import History
from retailmart.ledger.lease import Lease, acquire_lease, give_back
from retailmart.ledger.leases import Leases
from retailmart.ledger.maintenance import Maintenance
from retailmart.ledger.marts import Marts
from retailmart.ledger.migrations import is_current, migrate
from retailmart.ledger.refusals import Refusals
from retailmart.ledger.replays import Replays
from retailmart.ledger.runs import Runs
from retailmart.ledger.schemas import Schemas
from retailmart.ledger.settings import SettingsLog
from retailmart.ledger.sources import Sources

__all__ = ["READS", "Lease", "Ledger", "acquire_lease", "give_back"]

# Seconds between attempts while another first run creates the tables.
_PAUSES = (0.1, 0.3, 1.0, 3.0)


class Ledger(Access):
    """The whole ledger, by subject."""

    def give_back_lease(self) -> None:
        """Let the next run begin at once, where this one's process is about to end."""
        if self.lease is not None:
            give_back(self.engine, self.lease)

    def migrate(self) -> None:
        """Create or update the ledger's tables."""
        for pause in (*_PAUSES, None):
            try:
                with self.reading() as connection:
                    if is_current(connection):
                        return
                with self.engine.begin() as connection:
                    migrate(connection)
                return
            except DatabaseError:
                # Several first runs at once: where creating a table ends a transaction, each run
                # meets tables that the others have half created. Each step can be repeated.
                if pause is None:
                    raise
                time.sleep(pause)

    def expect_known(self) -> None:
        """Raise NewerLedger if a newer program has changed the ledger."""
        with self.reading() as connection:
            is_current(connection)

    def is_there(self) -> bool:
        """Whether the database has a ledger, from this release or an older one."""
        with self.reading() as connection:
            return inspect(connection).has_table(t.marts.name)

    @property
    def leases(self) -> Leases:
        """Who holds the lease, and leases that were broken."""
        return Leases(self.engine, self.lease)

    @property
    def refusals(self) -> Refusals:
        """Refused rows and files: what is open, and what is dismissed."""
        return Refusals(self.engine, self.lease)

    @property
    def history(self) -> History:
        """Past runs with their figures."""
        return History(self.engine, self.lease)

    @property
    def settings(self) -> SettingsLog:
        """What runs were given: settings and definitions, where they changed."""
        return SettingsLog(self.engine, self.lease)

    @property
    def runs(self) -> Runs:
        """Runs and their steps."""
        return Runs(self.engine, self.lease)

    @property
    def batches(self) -> Batches:
        """Batches and their states."""
        return Batches(self.engine, self.lease)

    @property
    def files(self) -> Files:
        """Delivered files."""
        return Files(self.engine, self.lease)

    @property
    def replays(self) -> Replays:
        """Refused rows that came back."""
        return Replays(self.engine, self.lease)

    @property
    def marts(self) -> Marts:
        """Marts and the tables that show them."""
        return Marts(self.engine, self.lease)

    @property
    def maintenance(self) -> Maintenance:
        """What maintenance did, and the rows it folds."""
        return Maintenance(self.engine, self.lease)

    @property
    def held(self) -> HeldBack:
        """What is held back, and why."""
        return HeldBack(self.engine, self.lease)

    @property
    def sources(self) -> Sources:
        """Source tables as they were last seen."""
        return Sources(self.engine, self.lease)

    @property
    def schemas(self) -> Schemas:
        """The columns of raw tables."""
        return Schemas(self.engine, self.lease)

    @property
    def alerts(self) -> Alerts:
        """What is or was worth an alert, and who was told."""
        return Alerts(self.engine, self.lease)

    @property
    def figures(self) -> Figures:
        """Sums over the ledger, for metrics and alerts."""
        return Figures(self.engine, self.lease)
