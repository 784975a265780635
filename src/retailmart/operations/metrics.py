"""The figures of a project for Prometheus, from the ledger and the lake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from pathlib import Path

from retailmart.database import open_database, translate_errors
from retailmart.errors import RetailmartError
from retailmart.feeds.quarantine import Item, Quarantine
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table, quarantine_table, raw_table
from retailmart.ledger import Ledger
from retailmart.ledger.figures import LastRun
from retailmart.ledger.leases import Holding
from retailmart.ledger.values import STATE_WORDS, FileState
from retailmart.marts.definitions import held_marts
from retailmart.monitoring.attempts import Attempts, read_attempts
from retailmart.monitoring.metrics import (
    SMALL_FILE,
    Snapshot,
    TableSize,
    render,
    render_without_ledger,
    with_attempt,
)
from retailmart.operations.read import refused_rows
from retailmart.project import Feed, Project
from retailmart.session import PRIVATE, open_lake

# What has been read of a file in one of these states counts, or has counted.
_READ = {FileState.LOADED.value, FileState.SUPERSEDED.value, FileState.UNDONE.value}


def render_metrics(project: Project, ledger: Ledger | None = None, *, old: str = "") -> str:
    """A project's figures as Prometheus reads them; nothing is written.

    `ledger` is one that is open already. If the ledger cannot be asked, `old` figures are shown
    again, but for those of the last run, and `retailmart_ledger_up` is 0.
    """
    attempts = read_attempts(project.folder / PRIVATE)
    try:
        with nullcontext(ledger) if ledger else _ledger(project) as known, translate_errors():
            return render(snapshot(project, known, attempts))
    except RetailmartError:
        return render_without_ledger(old, attempts, version("retailmart"))


@contextmanager
def _ledger(project: Project) -> Iterator[Ledger]:
    """The ledger as it is: who only looks migrates nothing, and waits for nobody."""
    database = open_database(project.database_url(), project.folder)
    try:
        yield Ledger(database)
    finally:
        database.dispose()


def render_unread(private: Path, old: str) -> str:
    """The figures of a project whose files have mistakes, so that its ledger is not known."""
    return render_without_ledger(old, read_attempts(private), version("retailmart"))


def snapshot(project: Project, ledger: Ledger, attempts: Attempts) -> Snapshot:
    """What a project's ledger and lake say now."""
    figures = ledger.figures
    run, success, lease = figures.last_run(), figures.last_success(), ledger.leases.now()
    files = figures.files()
    rows: Counter[tuple[str, str]] = Counter()
    for one in files:
        if one.state == FileState.LOADED.value:
            rows[one.feed or "", "read"] += one.records
            rows[one.feed or "", "loaded"] += one.loaded
            rows[one.feed or "", "quarantined"] += one.quarantined
    counted = {(one.feed or "", STATE_WORDS.get(one.state, one.state)): one.files for one in files}
    refusing = {str(one.feed) for one in files if one.quarantined and one.state in _READ}
    open_batch = ledger.batches.unfinished()
    lake = open_lake(project)
    found = Snapshot(
        version("retailmart"),
        attempts,
        last_success=_moment(success.finished_at) if success else None,
        runs=figures.runs_by_end(),
        files=counted,
        rows=rows,
        refused={
            name: open_in_quarantine(project, ledger, project.feeds[name])
            for name in sorted(refusing & project.feeds.keys())
        },
        refused_files=len(ledger.refusals.open_paths()),
        newest_loads=_moments(figures.newest_loads().items()),
        newest_months=_moments((f, f"{month}-01") for f, month in figures.newest_months().items()),
        held=sorted({*held_marts(ledger.marts.all())} & project.marts.keys()),
        unreadable=sorted(ledger.held.tables()),
        open_batch=open_batch.state.value if open_batch else None,
        lease_holder=lease.holder if lease.is_fresh else None,
        lease_expires=_moment(lease.until),
        tables=tuple(_sizes(lake, [*_tables(project, ledger)])),
        alerts=Counter(alert.kind for alert in ledger.alerts.open()),
    )
    return _with_last(found, run, figures.steps(run.run_id) if run else {}, lease)


def open_in_quarantine(
    project: Project, ledger: Ledger, feed: Feed, paths: Iterable[str] | None = None
) -> tuple[int, Decimal | None]:
    """The open refused rows of a feed, and their money as far as it can be read.

    `paths` are the only files that count, if given. The money is None for a feed without `balance`.
    """
    wanted = None if paths is None else set(paths)
    column = feed.balance
    rows, money = 0, Decimal(0)
    for item in Quarantine(refused_rows(project, feed.name), ledger).items(texts=bool(column)):
        if item.needs_work and (wanted is None or item.file in wanted):
            rows += 1
            money += _money(feed, item)
    return rows, money if column else None


def _money(feed: Feed, item: Item) -> Decimal:
    """What the balance column of a refused row says; 0 if it can't be read as a number."""
    column = next((one for one in feed.columns if one.name == feed.balance), None)
    if column is None or not item.row.cells:
        return Decimal(0)
    names = (column.name, *column.aliases, *column.delivered)
    text = next((item.row.cells[name] for name in names if name in item.row.cells), "")
    marks = column.marks
    for sign in (*marks.currency, marks.thousands or "", " ", "\u00a0", "\u202f"):
        text = text.replace(sign, "") if sign else text
    if marks.parentheses and text.startswith("(") and text.endswith(")"):
        text = f"-{text[1:-1]}"
    try:
        value = Decimal(text.replace(marks.point, ".") if marks.point != "." else text)
    except InvalidOperation:
        return Decimal(0)
    return value if value.is_finite() else Decimal(0)


def _tables(project: Project, ledger: Ledger) -> Iterator[str]:
    """The tables of the lake that the project has written, by their paths."""
    delivered = ledger.files.feeds_delivered()
    for feed in project.feeds:
        if feed in delivered:
            yield raw_table(feed)
            yield quarantine_table(feed)
    yield from (raw_table(name) for name in ledger.sources.all())
    yield from (mart_table(name) for name in ledger.marts.all())


def _sizes(lake: Lake, tables: Iterable[str]) -> Iterator[TableSize]:
    for table in dict.fromkeys(tables):
        state = lake.state(table)
        if state is None:
            continue
        sizes = [file.size for file in state.files]
        small = sum(size < SMALL_FILE for size in sizes)
        yield TableSize(table, len(sizes), sum(sizes), small, sum(f.rows for f in state.files))


def _with_last(
    found: Snapshot, run: LastRun | None, steps: dict[str, float], lease: Holding
) -> Snapshot:
    """Add the last run, as the ledger or, if it is newer, the file beside it has it."""
    last = found.attempts.last
    if last is not None and (run is None or last.ended >= run.started_at):
        return with_attempt(found, last)
    if run is None:
        return found
    state = run.state
    if state == "running" and not lease.is_fresh:
        state = "killed"  # the next run will record it
    if state == "done":
        state = "incomplete" if run.exit_code else "success"
    return replace(
        found,
        last_run_id=run.run_id,
        last_began=_moment(run.started_at),
        last_ended=_moment(run.finished_at),
        last_state=state,
        last_exit_code=run.exit_code,
        steps=steps,
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moments(texts: Iterable[tuple[str, str]]) -> dict[str, datetime]:
    return {name: moment for name, text in texts if (moment := _moment(text)) is not None}
