"""Figures of a project in the text format of Prometheus, from values that others have gathered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

from retailmart.monitoring.attempts import Attempts, LastAttempt

# Data files smaller than this are worth merging.
SMALL_FILE = 1 << 20
STATES = ("success", "incomplete", "failed", "stopped", "killed", "running", "busy")
_PREFIX = "retailmart_"
_FAMILY = re.compile(r"# (?:HELP|TYPE) (\w+) ")
Labels = Mapping[str, str]


@dataclass(frozen=True)
class TableSize:
    """What the current version of a table in the lake consists of."""

    table: str
    files: int
    bytes: int
    small: int
    rows: int


@dataclass(frozen=True)
class Snapshot:
    """All that is shown. Times are moments in UTC, None where there is none.

    `files` and `rows` are counts by (feed, state) and (feed, fate); `refused` the rows and the
    money that are open in quarantine, by feed; `runs` are counts by (state, error).
    """

    version: str
    attempts: Attempts = field(default_factory=Attempts)
    last_success: datetime | None = None
    last_run_id: int | None = None
    last_began: datetime | None = None
    last_ended: datetime | None = None
    last_state: str | None = None
    last_exit_code: int | None = None
    steps: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    files: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: Mapping[str, tuple[int, Decimal | None]] = field(default_factory=dict)
    refused_files: int = 0
    newest_loads: Mapping[str, datetime] = field(default_factory=dict)
    newest_months: Mapping[str, datetime] = field(default_factory=dict)
    held: Sequence[str] = ()
    unreadable: Sequence[str] = ()
    open_batch: str | None = None
    lease_holder: str | None = None
    lease_expires: datetime | None = None
    tables: Sequence[TableSize] = ()
    alerts: Mapping[str, int] = field(default_factory=dict)
    not_told: Sequence[str] = ()


def render(snapshot: Snapshot) -> str:
    """The figures as Prometheus reads them."""
    return "".join(_text(*family) for family in _families(snapshot))


def render_without_ledger(old: str, attempts: Attempts, version: str) -> str:
    """The figures if the ledger cannot be asked: the old ones, but for the last run's."""
    last = Snapshot(version)
    if attempts.last is not None:
        last = with_attempt(last, attempts.last)
    new = {family[0]: _text(*family) for family in (*_ledger_up(0), *_of_last(last))}
    kept = {name: text for name, text in families_in(old).items() if name not in new}
    return "".join((*new.values(), *kept.values()))


def families_in(text: str) -> dict[str, str]:
    """The families of a text in this format, as written here, by their names."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if match := _FAMILY.match(line):
            name = match[1]
        found[name] = found.get(name, "") + line
    return found


_Sample = tuple[Labels, float | Decimal | int | None]
_Family = tuple[str, str, str, Iterable[_Sample]]


def _families(one: Snapshot) -> Iterator[_Family]:
    yield from _ledger_up(1)
    yield from _of_last(one)
    yield _gauge(
        "last_success_timestamp_seconds",
        "When the last run ended that took in all that was there.",
        [({}, _seconds(one.last_success))],
    )
    yield _family(
        "runs_total",
        "counter",
        "Runs in the ledger, by how they ended.",
        _summed((({"state": state}, count) for (state, _), count in one.runs.items()), STATES),
    )
    failures = dict(one.attempts.failures)
    for (state, error), count in one.runs.items():
        if state in ("failed", "killed"):
            kind = error or state
            failures[kind] = failures.get(kind, 0) + count
    yield _family(
        "failures_total",
        "counter",
        "Runs that failed or were killed, by the name of the error.",
        [({"kind": kind}, count) for kind, count in sorted(failures.items())],
    )
    yield _gauge(
        "files",
        "Delivered files by feed and state; a file that no feed takes has no feed.",
        [({"feed": f, "state": s}, n) for (f, s), n in sorted(one.files.items())],
    )
    yield _gauge(
        "rows",
        "Rows of delivered files by feed and fate: read = loaded + quarantined.",
        [({"feed": f, "fate": s}, n) for (f, s), n in sorted(one.rows.items())],
    )
    yield _gauge(
        "quarantine_open_rows",
        "Refused rows that nobody has repaired or replaced, by feed.",
        [({"feed": feed}, rows) for feed, (rows, _) in sorted(one.refused.items())],
    )
    yield _gauge(
        "quarantine_money",
        "The sum of the balance column of these rows, as far as it can be read, by feed.",
        [
            ({"feed": f}, money)
            for f, (_, money) in sorted(one.refused.items())
            if money is not None
        ],
    )
    yield _gauge(
        "refused_files",
        "Files that were refused as a whole, and under whose name nothing better has come.",
        [({}, one.refused_files)],
    )
    yield _gauge(
        "feed_last_load_timestamp_seconds",
        "When the newest files of a feed were taken in.",
        [({"feed": feed}, _seconds(at)) for feed, at in sorted(one.newest_loads.items())],
    )
    yield _gauge(
        "feed_newest_month_timestamp_seconds",
        "The beginning of the newest month that a feed's rows are of.",
        [({"feed": feed}, _seconds(at)) for feed, at in sorted(one.newest_months.items())],
    )
    yield _gauge("held_marts", "How many marts are held back.", [({}, len(one.held))])
    yield _gauge(
        "mart_held_back",
        "1 for each mart that is held back at its last good state.",
        [({"mart": name}, 1) for name in one.held],
    )
    yield _gauge(
        "table_unreadable",
        "1 for each source table that cannot be read correctly.",
        [({"table": name}, 1) for name in one.unreadable],
    )
    yield _gauge(
        "open_batch",
        "1 for the state of a batch that the next run has to finish.",
        [({"state": one.open_batch}, 1)] if one.open_batch else [],
    )
    yield _gauge("lease_held", "1 if a run holds the project.", [({}, int(bool(one.lease_holder)))])
    held = {"holder": one.lease_holder or ""}
    yield _gauge(
        "lease_expires_timestamp_seconds",
        "When the lease of the run that holds the project expires, if it does not extend it.",
        [(held, _seconds(one.lease_expires))] if one.lease_holder else [],
    )
    for name, said in (
        ("files", "Data files of the current version of a table in the lake."),
        ("bytes", "Bytes of these files."),
        ("rows", "Rows of these files."),
        ("small", f"Files of these that are smaller than {SMALL_FILE >> 20} MiB."),
    ):
        samples = [({"table": table.table}, getattr(table, name)) for table in one.tables]
        yield _gauge(f"lake_{'small_files' if name == 'small' else name}", said, samples)
    yield _gauge(
        "alerts_open",
        "Alerts that are not over, by kind.",
        [({"kind": kind}, count) for kind, count in sorted(one.alerts.items())],
    )


def _ledger_up(value: int) -> Iterator[_Family]:
    yield _gauge(
        "ledger_up", "1 if the ledger answered when these figures were written.", [({}, value)]
    )


def _of_last(one: Snapshot) -> Iterator[_Family]:
    """The figures that are known of a run even if it had no ledger."""
    yield _gauge("info", "The version of retailmart.", [({"version": one.version}, 1)])
    yield _gauge(
        "last_run_id", "The number of the last run; none if it failed before it had one.",
        [({}, one.last_run_id)],
    )  # fmt: skip
    yield _gauge(
        "last_run_start_timestamp_seconds", "When the last run began.",
        [({}, _seconds(one.last_began))],
    )  # fmt: skip
    yield _gauge(
        "last_run_end_timestamp_seconds", "When the last run ended; none while it runs.",
        [({}, _seconds(one.last_ended))],
    )  # fmt: skip
    yield _gauge("last_run_exit_code", "The exit code of the last run.", [({}, one.last_exit_code)])
    states = [({"state": name}, int(name == one.last_state)) for name in STATES]
    yield _gauge(
        "last_run_state", "1 for the state of the last run.", states if one.last_state else []
    )
    yield _gauge(
        "step_seconds",
        "The seconds of the last run by step.",
        [({"step": step}, took) for step, took in one.steps.items()],
    )
    yield _gauge(
        "target_not_told",
        "1 for each target of alerts, lineage or the ping that the last run could not tell.",
        [({"target": name}, 1) for name in one.not_told],
    )


def with_attempt(snapshot: Snapshot, last: LastAttempt) -> Snapshot:
    """A snapshot whose last run is one that the file beside the ledger has."""
    return replace(
        snapshot,
        last_run_id=last.run_id,
        last_began=datetime.fromisoformat(last.began),
        last_ended=datetime.fromisoformat(last.ended),
        last_state=last.state,
        last_exit_code=last.exit_code,
        steps=last.steps,
        not_told=last.not_told,
    )


def _gauge(name: str, said: str, samples: Iterable[_Sample]) -> _Family:
    return _family(name, "gauge", said, samples)


def _family(name: str, kind: str, said: str, samples: Iterable[_Sample]) -> _Family:
    return _PREFIX + name, kind, said, samples


def _text(name: str, kind: str, said: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
    lines += [
        f"{name}{_labels(labels)} {_number(value)}"
        for labels, value in samples
        if value is not None
    ]
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float | Decimal | int) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value)
    return str(value)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _summed(samples: Iterable[tuple[Labels, int]], states: Iterable[str]) -> list[_Sample]:
    """Counts by state; a state without any is 0, so that its first one is an increase."""
    counts = dict.fromkeys((name for name in states if name != "busy"), 0)
    for labels, count in samples:
        name = "success" if labels["state"] == "done" else labels["state"]
        counts[name] = counts.get(name, 0) + count
    return [({"state": name}, count) for name, count in counts.items()]
