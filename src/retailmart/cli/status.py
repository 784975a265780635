"""`retailmart status`: what one looks at in the morning, and one run whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    QuietOption,
    SetOption,
    open_at,
    print_json,
    utc_text,
)
from retailmart.report import number_of

if TYPE_CHECKING:
    from decimal import Decimal

    from retailmart.operations.run_status import RunBatch, RunFile, RunStatus
    from retailmart.operations.status import LeaseLine, RunLine, Status
    from retailmart.report import Held

# So many files without a loaded row, refused files and files in landing are listed.
_LISTED = 10
# So many files of one run are listed.
_FILES_LISTED = 200


def status(
    project: ProjectOption = Path(),
    run: Annotated[
        int | None, typer.Option("--run", metavar="RUN", help="One run whole: steps, files, marts.")
    ] = None,
    landing: Annotated[
        bool, typer.Option("--landing", help="List landing too, which may be a bucket.")
    ] = False,
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """How the project is, the last runs, and what is open, refused, held back or expected.

    Only the ledger is read, and nothing is written: not even a full disk stops it.
    """
    from retailmart.console import one_line

    opened = open_at(project, settings)
    if run is not None:
        one = opened.run_status(run)
        if output is Output.JSON:
            print_json(one.to_dict())
            return
        for told in _run_lines(one):
            print(one_line(told))
        return
    found = opened.status(landing=landing)
    if output is Output.JSON:
        print_json(found.to_dict())
        return
    for told in _lines(found, quiet=quiet):
        print(one_line(told))


def _lines(found: Status, *, quiet: bool) -> Iterator[str]:
    yield from _health(found, quiet=quiet)
    if found.ledger.value == "older":
        yield "ledger     of an earlier release: retailmart run will update it"
    if found.lease:
        yield f"lease      {_lease(found.lease)}"
    for run in found.runs:
        yield _run(run)
    if batch := found.open_batch:
        yield (
            f"open batch {batch.batch_id} ({batch.state.value}): the next run finishes it:"
            " retailmart run"
        )
    yield from _held(found.held, found.unreadable)
    for state, count in sorted(found.files.items()):
        yield f"{count:>8,} {'file' if count == 1 else 'files'} {state}"
    yield from _refused(found)
    if found.landing is not None:
        yield f"landing    {number_of(len(found.landing), 'file')}"
        yield from _capped(f"           {path}" for path in found.landing)
    for message in () if quiet else found.expected:
        yield f"expected   {message}"


def _health(found: Status, *, quiet: bool) -> Iterator[str]:
    """How the project is, in one line; below it what to do about a run that went wrong."""
    health = found.health
    if health.reasons:
        yield f"{health.state.value}: {'; '.join(one.message for one in health.reasons)}"
        if health.state.value == "failing":
            yield f"           {health.reasons[0].fix}"
    elif not quiet:
        # What the runs say is right below.
        yield health.state.value


def _lease(lease: LeaseLine) -> str:
    since = process_of(lease)
    if lease.fresh:
        return f"a run is at work on {lease.host}{since}; it is alive as of its heartbeat"
    return (
        f"of a run on {lease.host}{since}, not extended in time (until"
        f" {utc_text(lease.until)}): it is dead or cut off, and the next run takes over: retailmart"
        " run; if that says that it is busy: retailmart lease break"
    )


def process_of(lease: LeaseLine) -> str:
    """Which process holds the project and since when, as far as the ledger knows."""
    process = f", process {lease.pid}" if lease.pid else ""
    return process + (f", since {utc_text(lease.since)}" if lease.since else "")


def _run(line: RunLine) -> str:
    """A run in one line: what became of it, how long it took, its files, rows and money."""
    step = f" in {line.failed_step}" if line.failed_step else ""
    if line.state == "done" and line.exit_code:
        step = f" with exit code {line.exit_code}"
    told = [f"run {line.run_id}", line.started_at[:19], f"{line.state}{step}"]
    if line.message:
        told.append(line.message.splitlines()[0])
    if line.seconds is not None:
        slowest = f" ({line.slowest.step} {line.slowest.seconds:.2f})" if line.slowest else ""
        told.append(f"{line.seconds:.2f} s{slowest}")
    if line.undoes is not None:
        told.append(f"undid run {line.undoes}")
    if line.files:
        of = ", ".join(f"{count:,} {state}" for state, count in line.files.items())
        told.append(f"files: {of}")
    if line.records:
        refused = f", {line.quarantined:,} quarantined" if line.quarantined else ""
        told.append(f"rows: {line.loaded:,} loaded{refused}")
    if line.money:
        told.append(f"money: {_money(line.money)}")
    return "  ".join(told)


def _money(money: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{feed} {amount:,}" for feed, amount in money.items())


def _held(held: Iterable[Held], unreadable: Mapping[str, str]) -> Iterator[str]:
    """What is held back, with the reason and what to do."""
    for one in held:
        yield f"held back  {one.mart}: {one.message}"
        if one.hint:
            yield f"           {one.hint}"
    for table, why in unreadable.items():
        yield f"held back  the marts that read {table}: {why}"


def _refused(found: Status) -> Iterator[str]:
    refused = found.refused
    if refused.rows:
        of = number_of(refused.files_with_rows, "file")
        are = "are" if refused.rows > 1 else "is"
        yield (
            f"refused    {number_of(refused.rows, 'row')} of {of} {are} open: retailmart quarantine"
            " list; what nobody will repair: retailmart quarantine dismiss"
        )
    # The newest are the ones that somebody can still send again.
    newest = list(found.nothing_loaded.items())[-_LISTED:]
    for path, count in newest:
        see = f"see: retailmart quarantine show {path}"
        yield f"{path}: 0 of {number_of(count, 'row')} loaded; {see}"
    if more := len(found.nothing_loaded) - len(newest):
        yield f"{number_of(more, 'earlier file')} without a loaded row: retailmart quarantine list"
    files = list(found.refused.files.items())
    for path, message in files[-_LISTED:]:
        yield f"refused    {path} {message}"
    if len(files) > _LISTED:
        yield f"           and {len(files) - _LISTED:,} more: retailmart quarantine list"


def _capped(lines: Iterable[str]) -> Iterator[str]:
    told = list(lines)
    yield from told[:_LISTED]
    if len(told) > _LISTED:
        yield f"           and {len(told) - _LISTED:,} more"


# one run


def _run_lines(found: RunStatus) -> Iterator[str]:
    run = found.run
    yield _run(run)
    ended = f", ended {utc_text(run.finished_at)}" if run.finished_at else ""
    yield f"as of      {utc_text(run.as_of)}; began {utc_text(run.started_at)}{ended}"
    if run.message:
        for number, line in enumerate(run.message.splitlines()):
            yield f"{'error' if not number else '':<11}{line.strip()}"
    for step in found.steps:
        failed = "  failed" if step.state == "failed" else ""
        yield f"step       {step.step:<10} {step.seconds:>9.2f} s{failed}"
    for file in found.files[:_FILES_LISTED]:
        yield from _file(file)
    if (more := len(found.files) - _FILES_LISTED) > 0:
        yield f"           and {number_of(more, 'file')} more; all are in --output json"
    for batch in found.batches:
        yield from _batch(batch, run.run_id)


def _file(file: RunFile) -> Iterator[str]:
    told = [f"file       {file.path}", file.state + (f": {file.reason}" if file.reason else "")]
    if file.records is not None:
        told.append(f"{file.loaded:,} of {number_of(file.records, 'row')} loaded")
    if file.quarantined:
        told.append(f"{file.quarantined:,} quarantined: retailmart quarantine show {file.path}")
    if file.amount is not None:
        told.append(f"money {file.amount:,}")
    if file.replaces:
        told.append("replaced an earlier delivery")
    if file.archived:
        told.append(f"archived to {file.archived}")
    yield "  ".join(told)
    for rule, count in file.warned.items():
        yield f"           {number_of(count, 'row')} warned by {rule}"


def _batch(batch: RunBatch, run_id: int) -> Iterator[str]:
    by = f", begun by run {batch.run_id}" if batch.run_id != run_id else ""
    if batch.finished_by not in (None, run_id):
        by += f", finished by run {batch.finished_by}"
    undoes = f", undoes run {batch.undoes}" if batch.undoes is not None else ""
    yield f"batch      {batch.batch_id} is {batch.state}{by}{undoes}"
    for mart in batch.marts:
        months = "all months" if mart.months is None else number_of(mart.months, "month")
        yield f"mart       {mart.name}  {number_of(mart.rows, 'row')}, {months} written"
    yield from _held(batch.held, {})
    for name, why in batch.unavailable.items():
        yield f"mart       {name} is not available: {why}"
    for line in batch.differences:
        rows = "row" if abs(line.rows) == 1 else "rows"
        what = "corrected" if batch.undoes is None else "taken back"
        yield f"{what:<10} {line.path}  {line.rows:+,} {rows}, {line.amount:+,}"
    for change in batch.columns:
        kind = f"{change.before} → {change.after}" if change.before else f"new, {change.after}"
        yield f"column     {change.table}.{change.column}: {kind}, by {change.cause}"
