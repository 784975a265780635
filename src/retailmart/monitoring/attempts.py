"""What a run leaves beside the ledger: how it ended, and alerts that the ledger could not take.

A run that fails before it has a number, as for a database that is away, is in no ledger. This file
in the project's private folder has it until a run goes well. Losing it loses no data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from retailmart.monitoring.events import RunEnded
from retailmart.report import Alert

_FILE = "monitoring.json"


@dataclass(frozen=True)
class LastAttempt:
    """How the last run ended. Times are ISO texts in UTC; `error` is the error's name."""

    command: str
    run_id: int | None
    state: str
    exit_code: int
    began: str
    ended: str
    error: str | None = None
    steps: Mapping[str, float] = field(default_factory=dict)
    not_told: tuple[str, ...] = ()

    @classmethod
    def of(cls, end: RunEnded, not_told: Sequence[str] = ()) -> LastAttempt:
        """The same of a run's end; `not_told` are the targets that could not be told."""
        return cls(
            end.command,
            end.run_id,
            end.state,
            end.exit_code,
            end.began.isoformat(),
            end.at.isoformat(),
            end.failure.kind if end.failure else None,
            dict(end.steps),
            tuple(not_told),
        )


@dataclass(frozen=True)
class Attempts:
    """The file's content.

    `failures` counts runs that failed without a number, by error. `alerts` are open alerts of
    failures, whether the ledger has them yet or not, each with the targets that were told of it.
    """

    last: LastAttempt | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    alerts: tuple[tuple[Alert, tuple[str, ...]], ...] = ()

    def after(self, last: LastAttempt) -> Attempts:
        """The same after one more run."""
        if last.error is None or last.run_id is not None:
            return replace(self, last=last)
        count = self.failures.get(last.error, 0) + 1
        return replace(self, last=last, failures={**self.failures, last.error: count})


def read_attempts(private: Path) -> Attempts:
    """What the file says; nothing if it is not there or torn."""
    try:
        plain = json.loads((private / _FILE).read_text(encoding="utf-8"))
        last = plain["last"]
        return Attempts(
            LastAttempt(**{**last, "not_told": tuple(last["not_told"])}) if last else None,
            plain["failures"],
            tuple((Alert(**alert), tuple(told)) for alert, told in plain["alerts"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Attempts()


def write_attempts(private: Path, attempts: Attempts) -> None:
    """Write the file whole or not at all."""
    text = json.dumps(
        {
            "last": asdict(attempts.last) if attempts.last else None,
            "failures": dict(attempts.failures),
            "alerts": [[asdict(alert), told] for alert, told in attempts.alerts],
        }
    )
    replace_file(private / _FILE, text)


def replace_file(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
