"""Output for people: a bar per step on a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from retailmart.report import (
    ArchiveReport,
    BatchReport,
    Comparison,
    Contrast,
    DatabaseReport,
    Difference,
    ExportReport,
    FileLine,
    MaintenanceReport,
    MartsFileReport,
    RunReport,
    TableComparison,
    TableMaintenance,
    VerifyReport,
    number_of,
    size_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.table import Table

    from retailmart.operations.marts import MartList
    from retailmart.operations.plan.changes import MartChange, MonthChange
    from retailmart.operations.plan.make import RunPlan

_MONTHS_SHOWN = 6
# Files that a summary names one by one; the others are counted.
_FILES_SHOWN = 50
# Of each mart in a plan: its newest months, its first columns of money, and rows that change.
_MONTHS_OF_A_PLAN, _MONEY_SHOWN, _ROWS_OF_A_PLAN = 12, 3, 5
_LONGEST_VALUE = 60
_WIDEST = 100_000
# A folder of a table also holds files of earlier versions.
_READING = 'docs/read-the-lake.md, or project.mart("NAME")'
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class PlainProgress:
    """A line per step on stderr: for logs, cron and pipes."""

    def began(self, step: str) -> None: ...

    def message(self, step: str, message: str) -> None:
        print(f"{step}: {one_line(message)}", file=sys.stderr, flush=True)

    def ended(self, step: str, seconds: float) -> None:
        print(f"{step}: {seconds:.2f} s", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...


class QuietProgress(PlainProgress):
    """Only what somebody should change in the settings: no other progress needs a person."""

    def message(self, step: str, message: str) -> None:
        if step == "settings":
            super().message(step, message)

    def ended(self, step: str, seconds: float) -> None: ...


class BarProgress:
    """A bar per step on a terminal; it moves while the step works."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._progress: Bars = Bars(
            TextColumn("{task.fields[step]:<10}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.description}", markup=True),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def began(self, step: str) -> None:
        self._tasks[step] = self._progress.add_task("", total=None, step=step)

    def message(self, step: str, message: str) -> None:
        from rich.markup import escape

        self._progress.update(self._tasks[step], description=escape(message))

    def ended(self, step: str, seconds: float) -> None:
        self._progress.update(self._tasks[step], total=1, completed=1, description="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def progress(quiet: bool = False) -> PlainProgress | BarProgress:
    """The progress display that suits stderr's destination."""
    if quiet:
        return QuietProgress()
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


def run_line(report: RunReport) -> str:
    """What a run did, in one line."""
    files = [
        f"{count:,} {state}"
        for state in ("loaded", "duplicate", "refused")
        if (count := report.count(state))
    ]
    refused = report.rows("quarantined")
    parts = [
        f"files {', '.join(files)}" if files else "",
        f"{number_of(report.rows('loaded'), 'row')} loaded" if files else "",
        f"{number_of(refused, 'row')} refused" if refused else "",
        f"{number_of(len(report.held), 'mart')} held back" if report.held else "",
    ]
    did = "; ".join(filter(None, parts)) or ("nothing to do" if report.nothing_to_do else "done")
    return f"run {report.run_id}: {did}; {sum(report.seconds.values()):.1f} s"


def summary(report: RunReport, quiet: bool = False) -> None:
    """Print what a run did to stderr; with `quiet` only what a person should look at."""
    console = _console()
    if quiet:
        if problems := _problems(report, quiet=True):
            console.print(problems)
    elif report.undone_already:
        console.print(one_line(f"Nothing to do: {report.undone_already.message}."))
    elif report.nothing_to_do and report.idle:
        console.print(one_line(f"Nothing to do: {report.idle}."), soft_wrap=True)
    elif report.nothing_to_do:
        console.print("Nothing to do: landing holds nothing new.")
        for message in report.expected:
            console.print(one_line(f"expected   {message}"), soft_wrap=True)
        if report.expected:
            console.print("           If they are there, see why not: retailmart doctor")
    else:
        for table in _tables(report):
            console.print(table)
        marts = f"Delta tables in {report.lake}/marts (how to read them: {_READING})"
        console.print(one_line(f"marts      {marts}"), soft_wrap=True)
        console.print(one_line(f"published  {report.database}"), soft_wrap=True)
        if (views := report.marts_file) and not views.problem:
            console.print(one_line(f"views      {views.path}, for DuckDB"), soft_wrap=True)
        if exports := _exported(report):
            console.print(one_line(f"exported   {exports}"), soft_wrap=True)
    for message in _remarks(report, quiet):
        console.print(one_line(message), soft_wrap=True)


def maintenance(report: MaintenanceReport) -> None:
    """Print what maintenance did, or would do, to stdout: a line a table."""
    would = "would be " if report.dry_run else ""
    needed = [one for one in report.tables if one.is_needed]
    width = max([len(one.table) for one in needed], default=0)
    for one in needed:
        print(one_line(f"{one.table:<{width}}  {'; '.join(_maintained(one, would))}"))
    if report.runs:
        print(f"ledger: {number_of(report.runs, 'run')} without work {would}removed")
    if report.exports:
        exports, size = number_of(len(report.exports), "export"), size_of(report.exports_freed)
        print(f"exports: {exports} {would}removed, the oldest is {report.exports[0]} ({size})")
    if report.archive:
        files, size = number_of(report.archive.removed, "file"), size_of(report.archive.freed)
        print(f"archive: {files} {would}removed ({size})")
    for message in _stale_views(report.marts_file):
        print(one_line(message))
    if not (needed or report.runs or report.exports or report.archive):
        print("Nothing to do: no small files, and nothing that is not needed any more.")
    elif report.dry_run:
        print(f"Nothing was changed; {size_of(report.freed)} would be freed")
        if report.problem:
            print(one_line(f"{report.problem}: finish it first, with: retailmart run"))
    else:
        print(f"{size_of(report.freed)} freed in {report.seconds:.1f} s")


def _maintained(one: TableMaintenance, would: str) -> Iterator[str]:
    """What became of a table's files."""
    if one.merged:
        files = f"{number_of(one.merged, 'file')} ({size_of(one.merged_bytes)})"
        yield f"{files} {would}merged into {one.into:,}"
    if one.left:
        yield f"{number_of(one.left, 'small file')} left for the next time"
    if one.removed or one.log_entries:
        entries = f"{one.log_entries:,} of the log"
        linked = one.removed_bytes - one.freed
        shared = f", {size_of(linked)} of them still in exports" if linked else ""
        size = f"{size_of(one.removed_bytes)}{shared}"
        yield f"{number_of(one.removed, 'file')} and {entries} {would}removed ({size})"
    if one.kept and one.removed:
        yield f"kept {one.kept}"


def _remarks(report: RunReport, quiet: bool) -> Iterator[str]:
    """What is said below the figures, a line each."""
    for name, why in report.unreadable.items():
        yield f"held back  the marts that read {name}: {why}"
    for batch in report.batches:
        yield from (f"restored   {table.message}" for table in batch.restored)
        if batch.exports:
            yield from _expired(batch.exports)
    if (maintained := report.maintenance) and maintained.problem:
        yield f"maintenance failed, the run is done and right: {maintained.problem}"
    yield from _stale_views(report.marts_file)
    yield from _stale_views(maintained.marts_file if maintained else None)
    for left in report.left_tables:
        yield f"left over  {left.message}. {left.fix}"
    if report.archive:
        yield _let_go(report.archive)
    yield from _left_out(report)
    waiting = () if quiet else report.waiting
    for path in waiting[:_FILES_SHOWN]:
        yield f"waiting    {path} is still being uploaded"
    if more := len(waiting[_FILES_SHOWN:]):
        yield f"waiting    {number_of(more, 'more file')} are still being uploaded"
    for path in report.unreachable[:_FILES_SHOWN]:
        yield f"left       {path} has a name that can't be asked for; rename it"
    if more := len(report.unreachable[_FILES_SHOWN:]):
        yield f"left       {number_of(more, 'more file')} have such names"
    for message in report.not_told:
        yield f"not told   {message}"


def _left_out(report: RunReport) -> Iterator[str]:
    """The files that were skipped; the others end a command as a problem."""
    skipped = [one for one in report.left_out if one.hint is None]
    for one in skipped[:_FILES_SHOWN]:
        yield f"left out   {one.path}: {one.message}"
    if more := len(skipped[_FILES_SHOWN:]):
        yield f"left out   {number_of(more, 'more file')}: see --output json"


def _stale_views(views: MartsFileReport | None) -> Iterator[str]:
    """Why the file of views shows what it showed before."""
    if views and views.problem:
        yield f"views      {views.path} is not current; all else is right: {views.problem}"


def _let_go(archive: ArchiveReport) -> str:
    """What the archive has let go."""
    files, free = number_of(archive.removed, "old file"), f"{archive.freed:,} bytes are free"
    message = f"removed    {files} from the archive (keep: archive), {free}"
    if archive.needed:
        older = number_of(archive.needed, "older version")
        message += f"; {older} or duplicates among them can't come back by an undo any more"
    return message


def _exported(report: RunReport) -> str | None:
    """Where the exports of the last batch that made some are."""
    found = [batch.exports for batch in report.batches if batch.exports and batch.exports.marts]
    return f"{found[-1].folder}; the newest of each mart: {found[-1].latest}" if found else None


def _expired(exports: ExportReport) -> Iterator[str]:
    """What retention removed, or will remove for the first time."""
    if exports.removed:
        count = number_of(len(exports.removed), "old export")
        yield f"removed    {count} ({exports.removed[0]} …), {exports.freed:,} bytes are free"
    if exports.announced:
        count = number_of(len(exports.announced), "export")
        yield (
            f"keep       {count} ({exports.announced[0]} …) are older than exports are kept by"
            " default; runs of later dates remove them. To choose yourself, write keep: {exports:"
            " for ever}, or a number of days, in retailmart.yml"
        )


def verification(report: VerifyReport) -> None:
    """Print a verification to stdout: a line a table, and more if one differs."""
    told = [(one.table, one) for one in report.marts]
    told += [(f"run {run}: {one.table}", one) for run, one in report.deliveries]
    width = max([len(name) for name, _ in told], default=0)
    for name, one in told:
        first, *more = _verdict(one)
        rows = number_of(next(iter(one.rows.values())), "row")
        print(one_line(f"{name:<{width}}  {rows:>16}  {first}"))
        for message in more:
            print(one_line(f"{'':<{width}}  {'':>16}  {message}"))
    for name, why in report.unavailable.items():
        print(one_line(f"{name:<{width}}  not available: {why}"))
    for path, why in report.skipped.items():
        print(one_line(f"{path} was not parsed again: {why}"))


def database_verification(report: DatabaseReport) -> None:
    """Print how published tables compare to stdout: a line a mart, and more if one differs."""
    width = max([len(_published(one)) for one in report.tables], default=0)
    for one in report.tables:
        rows = "" if one.rows is None else number_of(one.rows, "row")
        first, *more = _table_verdict(one)
        print(one_line(f"{_published(one):<{width}}  {rows:>16}  {first}"))
        for message in more:
            print(one_line(f"{'':<{width}}  {'':>16}  {message}"))


def _published(one: TableComparison) -> str:
    return one.mart if one.table in (None, one.mart) else f"{one.mart} (table {one.table})"


def _table_verdict(one: TableComparison) -> Iterator[str]:
    held = ", held back: compared with the version that is published" if one.held else ""
    if one.left_out:
        yield f"compared with nothing: {one.left_out}"
        return
    if one.problem:
        yield f"DIFFERENT: {one.problem}"
        return
    if one.equal:
        yield f"equal{held}"
        return
    found = [
        f"{number_of(count, 'row')} only in the {side}"
        for count, side in ((one.table_only, "table"), (one.mart_only, "mart"))
        if count
    ]
    yield f"DIFFERENT: {', '.join(found)}{held}"
    mart_rows = {_key(one, row): row for row in one.mart_first}
    for row in one.table_first:
        told = f"{_row(one, row)}: "
        if (other := mart_rows.pop(_key(one, row), None)) is None:
            yield f"{told}only in the table"
            continue
        values = [
            f"{column} {_value(value)} in the table, {_value(other[column])} in the mart"
            for column, value in row.items()
            if value != other[column]
        ]
        yield told + "; ".join(values)
    for row in mart_rows.values():
        yield f"{_row(one, row)}: only in the mart"


def _key(one: TableComparison, row: Mapping[str, str | None]) -> tuple[str | None, ...]:
    return tuple(row[column] for column in one.key)


def _row(one: TableComparison, row: Mapping[str, str | None]) -> str:
    return ", ".join(f"{column} {_value(row[column])}" for column in one.key)


def _verdict(one: Comparison) -> Iterator[str]:
    columns = number_of(len(one.digests), "column")
    left_out = f", not compared with the lake: {one.left_out}" if one.left_out else ""
    if len(one.rows) == 1:
        yield f"compared with nothing: {one.left_out}"
        return
    if one.equal:
        yield f"{columns} equal{left_out}"
        return
    unlike = {column for contrast in one.contrasts for column in contrast.columns}
    listed = f": {', '.join(name for name in one.digests if name in unlike)}" if unlike else ""
    yield f"DIFFERENT in {len(unlike)} of {columns}{listed}{left_out}"
    if len(set(one.rows.values())) > 1:
        yield "rows: " + ", ".join(f"{count:,} in {side}" for side, count in one.rows.items())
    for contrast in one.contrasts:
        yield from _contrast(contrast)


def _contrast(one: Contrast) -> Iterator[str]:
    sides, others = " and ".join(one.sides), " and ".join(one.others)
    for column, (left, right) in one.types.items():
        yield f"{column} is {left or 'missing'} in {sides}, {right or 'missing'} in {others}"
    if one.types:
        return
    row = ", ".join(f"{column} {_value(text)}" for column, text in one.row.items())
    if one.only_in:
        yield f"first row that only {' and '.join(one.only_in)} has: {row}"
        return
    yield f"first row that differs: {row}"
    for column, (left, right) in one.values.items():
        yield f"  {column}: {_value(left)} in {sides}, {_value(right)} in {others}"


def _value(text: str | None) -> str:
    """A value as a result shows it; NULL and an empty text differ."""
    if text is None:
        return "NULL"
    return text[:_LONGEST_VALUE] + "…" if len(text) > _LONGEST_VALUE else text or "''"


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stderr.isatty() else 110
    # Names of files and folders are printed: a bracket or colon in them is not markup.
    return Console(stderr=True, width=width, markup=False, emoji=False, highlight=False)


def print_plan(plan: RunPlan) -> None:
    """Print a plan to stdout: files and rows, what is to be looked at, and the marts by month."""
    of, promise = "", plan.promise
    if promise.command != "run":
        of = " for " + " ".join([promise.command, *_words(promise.arguments)])
    moment = f"{promise.as_of:%Y-%m-%d %H:%M} UTC"
    if plan.report.undone_already:
        print(one_line(f"Nothing to do: {plan.report.undone_already.message}."))
    elif plan.is_empty:
        print(one_line(f"Nothing to do{of}, as of {moment}."))
        for message in plan.report.expected:
            print(one_line(f"expected   {message}"))
    else:
        print(one_line(f"Plan{of}, as of {moment}: nothing is changed yet"))
        _print_result(_counts(plan.report, None))
        if files := _files_taken_in(plan.report):
            _print_result(files)
        if problems := _problems(plan.report):
            _print_result(problems)
        if plan.marts:
            _print_result(_months(plan.marts))
        if rows := _changed_rows(plan.marts):
            _print_result(rows)
    for message in _remarks(plan.report, quiet=False):
        print(one_line(message))
    if not plan.is_empty:
        print(f"It takes about {plan.estimate.seconds:,.0f} s.")


def _words(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What a command was given, as people read it."""
    for name, value in arguments.items():
        if isinstance(value, list | tuple):
            yield ", ".join(map(str, value))
        elif value is True:
            yield f"--{name.replace('_', '-')}"
        elif value not in (None, False):
            yield (
                f"from {value}"
                if name == "start"
                else f"to {value}"
                if name == "end"
                else f"{value}"
            )


def _files_taken_in(report: RunReport) -> Table | None:
    """The files of a plan that count, with their rows; others are among what is to be looked at."""
    table = _result()
    for name in ("file", "fate", "rows", "loaded", "refused"):
        table.add_column(name, justify="left" if name in ("file", "fate") else "right")
    lines = [(batch, line) for batch in report.batches for line in batch.files]
    lines = [(batch, line) for batch, line in lines if line.state == "loaded"]
    for batch, line in lines[:_FILES_SHOWN]:
        corrected = any(one.path == line.path for one in batch.differences)
        fate = "correction" if corrected and batch.undoes is None else "load"
        rows = (line.records or 0, line.loaded or 0, line.quarantined or 0)
        table.add_row(one_line(line.path), fate, *(f"{count:,}" for count in rows))
    if more := len(lines[_FILES_SHOWN:]):
        table.add_row(f"… {number_of(more, 'more file')}", "load", "", "", "")
    return table if table.row_count else None


def _months(marts: Iterable[MartChange]) -> Table:
    """Rows and money of marts by month, before and after; months that stay as they are in one."""
    table = _result()
    for name in ("mart", "month", "rows before", "after", "money", "before", "after"):
        table.add_column(name, justify="left" if name in ("mart", "month", "money") else "right")
    for mart in marts:
        changing = [month for month in mart.months if month.changes]
        for month in changing[-_MONTHS_OF_A_PLAN:]:
            money = _shown_money(mart.money, month)
            for number, name in enumerate(money[:_MONEY_SHOWN]):
                first = (mart.mart, month.month or "all", f"{month.rows_before:,}")
                row = (*first, f"{month.rows_after:,}") if number == 0 else ("", "", "", "")
                sums = (month.money_before.get(name), month.money_after.get(name))
                table.add_row(*row, name, *("" if one is None else f"{one:,f}" for one in sums))
        if earlier := changing[:-_MONTHS_OF_A_PLAN]:
            table.add_row("", f"and {number_of(len(earlier), 'earlier month')}", "", "", "", "", "")
        if not changing:
            same = "other values" if mart.changes else "as it is"
            table.add_row(mart.mart, "", same, "", "", "", "")
    return table


def _shown_money(money: Iterable[str], month: MonthChange) -> list[str]:
    """The columns of money that differ; if none does, the first one."""
    there = [name for name in money if name in month.money_after]
    differing = [n for n in there if month.money_before.get(n) != month.money_after.get(n)]
    return differing or there[:1] or [""]


def _changed_rows(marts: Iterable[MartChange]) -> Table | None:
    """The rows that change in marts which exist already, those of the most money first."""
    table = _result()
    for name in ("mart", "row", "before", "after"):
        table.add_column(name)
    for mart in marts:
        if mart.is_first or not mart.rows:
            continue
        for row in mart.rows[:_ROWS_OF_A_PLAN]:
            key = ", ".join(f"{name} {value}" for name, value in row.key.items())
            sides = (_side(mart, row.before), _side(mart, row.after))
            table.add_row(mart.mart, one_line(key), *sides)
        count = (mart.added or 0) + (mart.removed or 0) + (mart.changed or 0)
        if (more := count - len(mart.rows[:_ROWS_OF_A_PLAN])) > 0:
            table.add_row("", f"… {number_of(more, 'more row')}", "", "")
    return table if table.row_count else None


def _side(mart: MartChange, values: Mapping[str, str | None] | None) -> str:
    """One side of a row that changes; of a whole row only the money."""
    if values is None:
        return "(no row)"
    names = [name for name in values if name in mart.money] or list(values)[:_MONEY_SHOWN]
    shown = (f"{name} {'NULL' if values[name] is None else values[name]}" for name in names)
    return one_line(", ".join(shown))


def _tables(report: RunReport) -> Iterable[Table]:
    yield _counts(report, f"Run {report.run_id}, as of {report.as_of:%Y-%m-%d %H:%M} UTC")
    if problems := _problems(report):
        yield problems
    yield _marts(report)


def _counts(report: RunReport, title: str | None) -> Table:
    table = _table(title, "", "")
    told = [
        ("files loaded", f"{report.count('loaded'):,}{_without_rows(report)}"),
        ("files duplicate", f"{report.count('duplicate'):,}"),
        ("files refused", f"{report.count('refused'):,}"),
        ("rows read", f"{report.rows('records'):,}"),
        ("rows loaded", f"{report.rows('loaded'):,}"),
        ("rows quarantined", f"{report.rows('quarantined'):,}"),
    ]
    for name, value in told:
        table.add_row(name, value)
    for batch in report.batches:
        for name, value in _of_earlier_runs(batch):
            table.add_row(name, one_line(value))
        if batch.recovered:
            table.add_row("recovered", f"batch {batch.batch_id} of a run that was cut off")
        for gap in batch.unmatched:
            keys, rows = number_of(gap.keys, "key"), number_of(gap.rows, "row")
            message = f"{keys} in {rows} of these files, kept without {gap.table}'s columns"
            table.add_row(f"unknown {gap.column}", message)
        for late in batch.healed:
            keys, rows = number_of(late.keys, "key"), number_of(late.rows, "row")
            message = f"{keys} came late: {late.amount:,} in {rows} left unknown"
            table.add_row(f"known {late.column}", message)
        for change in batch.columns:
            kind = f"{change.before} → {change.after}" if change.before else f"new, {change.after}"
            message = f"{change.table}: {kind}, by {change.cause}"
            table.add_row(f"column {change.column}", one_line(message))
        for line in batch.differences:
            message = f"{line.rows:+,} {'row' if abs(line.rows) == 1 else 'rows'}, {line.amount:+,}"
            table.add_row(one_line(f"{_what_changed(batch, line)} {line.path}"), message)
        shown = batch.balance[-_MONTHS_SHOWN:]
        if len(shown) < len(batch.balance):
            earlier = number_of(len(batch.balance) - len(shown), "earlier month")
            table.add_row("balance", f"{earlier}, all equal")
        for month in shown:
            tables = number_of(len(month.tables), "table")
            message = f"{number_of(month.rows, 'row')}, {month.amount:,}, equal in {tables}"
            table.add_row(f"balance {month.month}", message)
        for other, marts in _agreed(batch).items():
            table.add_row("totals agree", f"{other} with {', '.join(marts)}")
    table.add_row("seconds", f"{sum(report.seconds.values()):.2f}")
    return table


def _of_earlier_runs(batch: BatchReport) -> Iterator[tuple[str, str]]:
    """What the batch did to what earlier runs had done."""
    if batch.undoes is not None:
        yield "undone", f"run {batch.undoes}"
    if batch.read_again:
        yield "read again", number_of(batch.read_again, "file")
    if batch.rebuilt:
        yield "rebuilt", ", ".join(batch.rebuilt)


def _what_changed(batch: BatchReport, line: Difference) -> str:
    """What the batch did to a file whose rows differ now."""
    if batch.undoes is not None:
        return "comes back" if (line.rows, line.amount) > (0, 0) else "taken back"
    return "read again" if batch.read_again else "corrected"


def _without_rows(report: RunReport) -> str:
    """How many of the loaded files have no row that was loaded."""
    count = sum(line.is_without_good_row for line in report.files)
    return f", {count:,} of them without a good row" if count else ""


def _problems(report: RunReport, *, quiet: bool = False) -> Table | None:
    """What deserves a look; with `quiet` without what is settled or known already."""
    table = _table("To look at", "file", "what", "why")
    more = Counter[str]()
    shown = 0
    for line in report.files:
        if not (told := list(_told(line, quiet=quiet))):
            continue
        shown += 1
        for what, kind, why in told:
            if shown <= _FILES_SHOWN:
                table.add_row(one_line(line.path), what, one_line(why))
            else:
                more[kind] += 1
    for kind, count in more.items():
        why = "see all with: retailmart run --output json, or in the ledger: docs/ledger.md"
        table.add_row(f"… {number_of(count, 'more file')}", kind, why)
    for one in report.held:
        table.add_row(one_line(one.mart), "held back", one_line(one.message))
    for why, names in () if quiet else _unavailable(report).items():
        table.add_row(one_line(", ".join(names)), "not available", one_line(why))
    return table if table.row_count else None


def _told(line: FileLine, *, quiet: bool) -> Iterator[tuple[str, str, str]]:
    """What deserves a look in a file: what, its kind, and why."""
    if quiet and line.state == "duplicate":
        return
    if line.state in ("duplicate", "refused"):
        yield line.state, line.state, line.message or ""
    elif line.message:
        yield "a name like another's", "a name like another's", line.message
    if line.quarantined:
        what = f"{number_of(line.quarantined, 'row')} quarantined"
        if line.is_without_good_row:
            what = f"0 of {number_of(line.quarantined, 'row')} loaded"
        yield what, "with rows quarantined", f"see: retailmart quarantine show {line.path}"
    for rule, count in line.warned.items():
        yield f"{number_of(count, 'row')} warned", "with rows warned", rule


def _agreed(batch: BatchReport) -> dict[str, list[str]]:
    """The marts whose totals agreed with a mart, by that mart."""
    found: dict[str, list[str]] = {}
    for pair in batch.agreed:
        found.setdefault(pair.other, []).append(pair.mart)
    return found


def _unavailable(report: RunReport) -> dict[str, list[str]]:
    """The marts that lack some input, by what they lack."""
    found: dict[str, list[str]] = {}
    for batch in report.batches[-1:]:
        for name, why in batch.unavailable.items():
            found.setdefault(why, []).append(name)
    return found


def _marts(report: RunReport) -> Table:
    table = _table("Marts", "mart", "rows", "months written", "in the database")
    for batch in report.batches:
        held = {one.mart for one in batch.held}
        for mart in batch.marts:
            months = "all" if mart.months is None else str(mart.months)
            where = mart.published_as or "lake only"
            if mart.name in held:
                where = f"{where}, held back"
            elif mart.published_as and mart.changed is not None:
                where = f"{where}, {number_of(mart.changed, 'row')} changed"
            table.add_row(mart.name, f"{mart.rows:,}", months, where)
    return table


def _table(title: str | None, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if number != 1 else "right")
    if not any(columns):
        table.columns[1].justify = "left"
    return table


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows as a table on stdout: numbers to the right, NULL as that word."""
    table = _result()
    for number, column in enumerate(columns):
        known = [row[number] for row in rows if row[number] is not None]
        is_number = bool(known) and all(_is_number(value) for value in known)
        table.add_column(one_line(column), justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _print_result(table)


def print_marts(found: MartList) -> None:
    """A project's marts as a table on stdout."""
    table = _result()
    names = ("mart", "rows", "months", "as of (UTC)", "in the database", "what a row is")
    for name in names:
        table.add_column(name, justify="right" if name == "rows" else "left", no_wrap=True)
    for mart in found.marts:
        span = f"{mart.first_month} to {mart.last_month}" if mart.months else "all in one"
        rows = f"{mart.rows:,}" if mart.rows is not None else "not built"
        as_of = (mart.built_as_of or "")[:16].replace("T", " ")
        where = mart.published_as or "lake only"
        about = one_line(mart.about or "")
        what = f"HELD BACK: {one_line(mart.held)}. {about}" if mart.held else about
        table.add_row(mart.name, rows, span if mart.is_built else "", as_of, where, what)
    _print_result(table)


def _result() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def _print_result(table: Table) -> None:
    """Lines are as long as they are: a terminal wraps them, a pipe takes them whole."""
    from rich.console import Console

    Console(width=_WIDEST, markup=False, emoji=False, highlight=False).print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return one_line(f"{value:f}" if isinstance(value, Decimal) else str(value))


def visible(text: str) -> str:
    """Others' text, such as a file name or refused row, without terminal control characters."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """`visible` text in which a line end does not look like the end of the message."""
    return visible(text.replace("\n", "\\n"))
