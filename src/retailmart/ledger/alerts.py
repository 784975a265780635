"""The ledger's record of what is worth an alert, and of who was told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import key_of, now, put
from retailmart.report import Alert

OPENED, CLOSED = "opened", "closed"
# (alert, about) → when the target was told; None if it was tried in vain.
Notices = Mapping[tuple[int, str], str | None]


class Alerts(Access):
    """Alerts, each open until a run finds that it is over."""

    def open(self) -> list[Alert]:
        """The alerts that are not over, oldest first."""
        return self._select(t.alerts.c.closed_at.is_(None))

    def closed_since(self, moment: datetime) -> list[Alert]:
        """The alerts that have been over since a moment, oldest first."""
        return self._select(t.alerts.c.closed_at >= moment.isoformat())

    def add(self, alert: Alert, run_id: int | None) -> int:
        """Record a new alert; returns its key."""
        with self.transaction() as connection:
            result = connection.execute(
                insert(t.alerts).values(
                    kind=alert.kind,
                    subject=alert.subject,
                    message=alert.message,
                    hint=alert.hint,
                    opened_at=alert.opened_at,
                    opened_by=run_id,
                    closed_at=alert.closed_at,
                    closed_by=run_id if alert.closed_at else None,
                )
            )
            return key_of(result)

    def close(self, alerts: Iterable[int], run_id: int | None, at: str) -> None:
        """Record that alerts are over."""
        with self.transaction() as connection:
            for alert_id in alerts:
                changed = update(t.alerts).where(t.alerts.c.alert_id == alert_id)
                connection.execute(changed.values(closed_at=at, closed_by=run_id))

    def notices(self, target: str, alerts: Iterable[int]) -> Notices:
        """What a target was told of these alerts, and when."""
        wanted = set(alerts)
        query = select(t.notices).where(t.notices.c.target == target)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        return {(row.alert_id, row.about): row.sent_at for row in rows if row.alert_id in wanted}

    def record_notices(
        self, target: str, told: Iterable[tuple[int, str]], *, delivered: bool
    ) -> None:
        """Record what a target was told, or that it could not be."""
        with self.transaction() as connection:
            for alert_id, about in told:
                key = {"alert_id": alert_id, "target": target, "about": about}
                put(connection, t.notices, key, {"sent_at": now() if delivered else None})

    def forget_before(self, moment: datetime) -> None:
        """Remove alerts that have long been over, and who was told of them."""
        old = select(t.alerts.c.alert_id).where(t.alerts.c.closed_at < moment.isoformat())
        with self.reading() as connection:
            keys = list(connection.scalars(old))
        if not keys:
            return
        with self.transaction() as connection:
            for key in keys:
                connection.execute(delete(t.notices).where(t.notices.c.alert_id == key))
                connection.execute(delete(t.alerts).where(t.alerts.c.alert_id == key))

    def _select(self, condition: object) -> list[Alert]:
        columns = t.alerts.c
        query = select(t.alerts).where(condition).order_by(columns.alert_id)  # type: ignore[arg-type]
        with self.reading() as connection:
            return [
                Alert(
                    row.kind,
                    row.subject,
                    row.message,
                    row.hint,
                    row.opened_at,
                    row.closed_at,
                    row.alert_id,
                )
                for row in connection.execute(query)
            ]
