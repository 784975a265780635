"""What is known of a project: how it is, its last runs, the open batch, what needs somebody.

Nothing is written, and only the ledger is asked, so it also works on a full disk, with an account
that may only read, and while a source or bucket does not answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from retailmart.ledger import Ledger
from retailmart.ledger.history import RunFigures
from retailmart.ledger.leases import Holding
from retailmart.ledger.values import STATE_WORDS, Batch
from retailmart.marts.definitions import held_marts
from retailmart.project import Project
from retailmart.project.uses import is_mentioned, tables_by_source
from retailmart.report import Held, number_of
from retailmart.session import LedgerAge, LedgerView, store_at, view_ledger

_RUNS = 10


class HealthState(Enum):
    """How a project is."""

    NEW = "no run yet"
    OK = "ok"
    NEEDS_A_PERSON = "needs a person"
    FAILING = "failing"


@dataclass(frozen=True)
class Reason:
    """Why a project is not well, and the command or step that helps."""

    message: str
    fix: str


@dataclass(frozen=True)
class Health:
    """How a project is, and why it is not well."""

    state: HealthState
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class StepTime:
    """A step of a run, and how long it took. `state` is `done` or `failed`."""

    step: str
    seconds: float
    state: str = "done"


@dataclass(frozen=True)
class RunLine:
    """One run in figures. Times are ISO texts in UTC; `seconds` is None while it works.

    `files` counts those that it took in by what has become of them, `money` is by feed, `undoes` is
    the run that it took back. A run that was cut off has no end and no exit code; a run that is
    done has exit code 5 if not all of it could be done.
    """

    run_id: int
    started_at: str
    finished_at: str | None
    as_of: str
    state: str
    message: str | None
    exit_code: int | None
    failed_step: str | None
    seconds: float | None
    slowest: StepTime | None
    files: Mapping[str, int]
    records: int
    loaded: int
    quarantined: int
    money: Mapping[str, Decimal]
    undoes: int | None


@dataclass(frozen=True)
class LeaseLine:
    """Who holds the project's lease. Times are ISO texts in UTC.

    Its holder extends it every ten seconds. If it is not `fresh`, the holder has not done so in
    time, and the next run takes it.
    """

    host: str
    folder: str
    pid: int | None
    since: str | None
    until: str
    fresh: bool


@dataclass(frozen=True)
class OpenRefused:
    """How many refused rows are open, of how many files, and the refused files with the reason."""

    rows: int
    files_with_rows: int
    files: Mapping[str, str | None]


@dataclass(frozen=True)
class Status:
    """How the project is, the last runs, newest first, and what the ledger says now.

    `files` counts them by state; `nothing_loaded` are those of them whose rows are all still in
    quarantine, with their number. `held` are the marts that are held back, `unreadable` the source
    tables that cannot be read correctly, with the reason and what to do: the marts that read them
    are held back, too. `expected` says what has not come yet, a line each. `landing` has the paths
    of the files in landing, None unless they are asked for. `ledger` is `current`, `older` than
    this release, or `none` before the first run.
    """

    health: Health
    lease: LeaseLine | None
    runs: tuple[RunLine, ...]
    open_batch: Batch | None
    files: Mapping[str, int]
    nothing_loaded: Mapping[str, int]
    refused: OpenRefused
    held: tuple[Held, ...]
    unreadable: Mapping[str, str]
    expected: tuple[str, ...]
    ledger: LedgerAge
    landing: tuple[str, ...] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """The status as plain values; money as text."""
        plain = asdict(self)
        plain["health"]["state"] = self.health.state.value
        plain["ledger"] = self.ledger.value
        return plain


def status(project: Project, *, landing: bool = False) -> Status:
    """Read the ledger; sources and stores are not asked, except for the files in `landing`."""
    landed = _landed(project) if landing else None
    return view_ledger(project, lambda view: _status(project, view, landed))


def _status(project: Project, view: LedgerView, landed: tuple[str, ...] | None) -> Status:
    ledger = view.ledger
    lease = lease_line(ledger.leases.now())
    runs = tuple(run_line(one) for one in ledger.history.figures(ledger.runs.last(_RUNS)))
    open_batch = ledger.batches.unfinished()
    refused = ledger.refusals.open()
    held = tuple(held_back(ledger))
    unreadable = {
        name: why
        for name, why in ledger.held.tables().items()
        if name in project.tables or is_mentioned(project, name)
    }
    nothing_loaded = _nothing_loaded(ledger)
    found = OpenRefused(
        refused.rows,
        refused.files_with_rows,
        {file.path: file.message for file in refused.files},
    )
    return Status(
        _health(runs, lease, open_batch, held, unreadable, found),
        lease,
        runs,
        open_batch,
        {in_words(state): n for state, n in ledger.files.count().items()},
        nothing_loaded,
        found,
        held,
        unreadable,
        expected_inputs(project, ledger),
        view.age,
        landed,
    )


def in_words(state: str) -> str:
    """The word by which people know a state of the ledger."""
    return STATE_WORDS.get(state, state)


def run_line(found: RunFigures) -> RunLine:
    """A run for people."""
    run = found.run
    taken: dict[str, float] = {}
    for step in found.steps:
        taken[step.step] = taken.get(step.step, 0.0) + step.seconds
    slowest = max(taken, key=lambda name: taken[name], default=None)
    seconds = None
    if run.finished_at:
        began = datetime.fromisoformat(run.started_at)
        took = datetime.fromisoformat(run.finished_at) - began
        seconds = round(took.total_seconds(), 3)
    return RunLine(
        run.run_id,
        run.started_at,
        run.finished_at,
        run.as_of,
        in_words(run.state),
        run.message,
        run.exit_code,
        run.failed_step,
        seconds,
        StepTime(slowest, round(taken[slowest], 3)) if slowest else None,
        {in_words(state): count for state, count in sorted(found.files.items())},
        found.records,
        found.loaded,
        found.quarantined,
        found.money,
        found.undoes,
    )


def lease_line(found: Holding) -> LeaseLine | None:
    """The lease for people; None while nobody holds it."""
    if found.host is None:
        return None
    return LeaseLine(
        found.host,
        str(found.folder),
        found.pid,
        found.since,
        str(found.until),
        found.is_fresh,
    )


def _health(
    runs: tuple[RunLine, ...],
    lease: LeaseLine | None,
    batch: Batch | None,
    held: tuple[Held, ...],
    unreadable: Mapping[str, str],
    refused: OpenRefused,
) -> Health:
    failing = list(_failing(runs, lease, batch))
    reasons = (*failing, *_for_a_person(held, unreadable, refused))
    if failing:
        return Health(HealthState.FAILING, reasons)
    if reasons:
        return Health(HealthState.NEEDS_A_PERSON, reasons)
    return Health(HealthState.OK if runs else HealthState.NEW)


def _failing(
    runs: tuple[RunLine, ...], lease: LeaseLine | None, batch: Batch | None
) -> Iterator[Reason]:
    """The newest run that has ended, if it did not end well."""
    for run in runs:
        if run.state == "running" and lease and lease.fresh:
            continue  # it is at work
        when = f"{run.started_at[:16].replace('T', ' ')} UTC"
        if run.state in ("running", "cut off"):
            yield Reason(
                f"run {run.run_id} of {when} was cut off", "It is finished by: retailmart run"
            )
        elif run.state == "failed":
            step = f" in {run.failed_step}" if run.failed_step else ""
            why = (run.message or "").partition("\n")[0]
            yield Reason(
                f"run {run.run_id} of {when} failed{step}: {why}",
                f"See all of it: retailmart status --run {run.run_id}; then: retailmart run",
            )
        elif batch is not None and not (lease and lease.fresh):
            yield Reason(
                f"batch {batch.batch_id} of run {batch.run_id} is {batch.state.value} and not"
                " finished",
                "It is finished by: retailmart run",
            )
        return


def _for_a_person(
    held: tuple[Held, ...], unreadable: Mapping[str, str], refused: OpenRefused
) -> Iterator[Reason]:
    if held:
        names = ", ".join(one.mart for one in held)
        are = "marts are" if len(held) > 1 else "mart is"
        yield Reason(f"{len(held)} {are} held back: {names}", "Do what is said below")
    if unreadable:
        tables = "tables" if len(unreadable) > 1 else "table"
        yield Reason(
            f"{len(unreadable)} source {tables} can't be read correctly: {', '.join(unreadable)}",
            "Do what is said below",
        )
    if refused.rows:
        of = number_of(refused.files_with_rows, "file")
        are = "are" if refused.rows > 1 else "is"
        yield Reason(
            f"{number_of(refused.rows, 'refused row')} of {of} {are} open",
            "Repair or dismiss: retailmart quarantine list",
        )
    if refused.files:
        are = "are" if len(refused.files) > 1 else "is"
        yield Reason(
            f"{number_of(len(refused.files), 'refused file')} {are} open",
            "Have them delivered again, or dismiss them: retailmart quarantine list",
        )


def _landed(project: Project) -> tuple[str, ...]:
    entries = store_at(project, project.settings.landing).entries()
    return tuple(sorted(entry.path for entry in entries))


def _nothing_loaded(ledger: Ledger) -> dict[str, int]:
    """The rows of files that are all in quarantine, and that nobody has repaired or dismissed."""
    files = ledger.files.nothing_loaded()
    ids = [file.file_id for file in files]
    closed = Counter(key for key, _ in ledger.replays.brought_back(ids))
    closed.update(ledger.refusals.dismissed_of(ids))
    rows = {file.path: (file.records or 0, closed[file.file_id]) for file in files}
    return {path: records for path, (records, done) in rows.items() if done < records}


def held_back(ledger: Ledger) -> Iterator[Held]:
    """The marts that are held back, those with a reason of their own first."""
    reasons = ledger.held.marts()
    unknown = "the run that held it back has not recorded why; the next one tries again"
    found = [reasons.get(name, Held(name, unknown)) for name in held_marts(ledger.marts.all())]
    yield from sorted(found, key=lambda one: one.cause is not None)


def expected_inputs(project: Project, ledger: Ledger) -> tuple[str, ...]:
    """What has not come yet of what the project is to read, a line for each place.

    Only the definitions are asked: a source that does not answer must not make people wait.
    """
    lines = []
    came = ledger.files.feeds_delivered() | ledger.files.feeds_in_progress()
    patterns = [feed.files[0] for feed in project.feeds.values() if feed.name not in came]
    if patterns:
        lines.append(f"files in {project.settings.landing}: {', '.join(patterns)}")
    read = {*ledger.sources.all(), *ledger.held.tables()}
    sources = project.settings.sources
    for source, tables in tables_by_source(project).items():
        where = f"{source} ({sources[source]})" if source else "a database that `sources` names"
        if missing := [table.table for table in tables if table.name not in read]:
            lines.append(f"tables in {where}: {', '.join(missing)}")
    return tuple(lines)
