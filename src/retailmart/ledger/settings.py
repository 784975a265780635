"""The ledger's record of settings and definitions: what changed, and in which run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import now


@dataclass(frozen=True)
class SettingChange:
    """A setting or definition that a run met for the first time, or with another value.

    `name` is a setting's, as `spark.master`, or a file's, as `marts/sales.sql`, whose value is a
    digest. `before` and `after` are None where there was, or is, no value. `at` is when it was
    recorded: an ISO time in UTC.
    """

    run_id: int
    at: str
    name: str
    before: str | None
    after: str | None


class SettingsLog(Access):
    """What runs were given: only changes are kept."""

    def record(self, run_id: int, values: Mapping[str, str | None]) -> None:
        """Record what differs from the run before, and the digest of all values."""
        text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = self._now()
        changed = {
            name: value
            for name, value in values.items()
            if name not in known or known[name] != value
        }
        gone = {name: None for name, value in known.items() if name not in values and value}
        at = now()
        rows = [
            {"run_id": run_id, "name": name, "recorded_at": at, "value": value}
            for name, value in {**changed, **gone}.items()
        ]
        with self.transaction() as connection:
            connection.execute(
                update(t.runs).where(t.runs.c.run_id == run_id).values(settings=digest)
            )
            if rows:
                connection.execute(insert(t.settings), rows)

    def changes(self) -> list[SettingChange]:
        """All changes, oldest first."""
        columns = t.settings.c
        query = select(columns.run_id, columns.recorded_at, columns.name, columns.value).order_by(
            columns.run_id, columns.name
        )
        known: dict[str, str | None] = {}
        found = []
        with self.reading() as connection:
            for run_id, at, name, value in connection.execute(query):
                found.append(SettingChange(run_id, at, name, known.get(name), value))
                known[name] = value
        return found

    def _now(self) -> dict[str, str | None]:
        return {change.name: change.after for change in self.changes()}
