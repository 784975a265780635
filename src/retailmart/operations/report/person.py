"""What is known beyond the status: late keys, restated months, the money of refused rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from retailmart.errors import MartNotBuilt
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, Totals
from retailmart.operations.ask import asking_engine
from retailmart.operations.quarantine import list_refused
from retailmart.operations.status import Reason
from retailmart.project import Project
from retailmart.report import number_of
from retailmart.session import view_ledger
from retailmart.tables import quoted, text_literal


def notes_of(project: Project, run_id: int) -> tuple[Reason, ...]:
    """What the batches of a run noted of keys and of months that had been published before."""
    return view_ledger(project, lambda view: tuple(_notes(view.ledger, run_id)))


def _notes(ledger: Ledger, run_id: int) -> Iterator[Reason]:
    for batch, _, outcome in ledger.history.batches(run_id):
        notes = outcome.notes if outcome else {}
        for one in notes.get("healed", ()):
            yield Reason(
                f"late keys: {number_of(one['keys'], 'key')} of {one['table']} came after"
                f" {number_of(one['rows'], 'row')} of {one['feed']}, {one['amount']}",
                "Their months show it from now on: reports that were sent before differ",
            )
        for one in notes.get("unmatched", ()):
            yield Reason(
                f"unknown keys: {number_of(one['keys'], 'key')} of {one['column']} in"
                f" {number_of(one['rows'], 'row')}",
                f"Add them to the table {one['table']}",
            )
        if restated := list(_restated(ledger, run_id, batch, notes)):
            yield Reason(
                f"restated months: {', '.join(restated)}",
                "Rows came to months that had been published: tell those who have their figures",
            )


def _restated(ledger: Ledger, run_id: int, batch: Batch, notes: Mapping[str, Any]) -> Iterator[str]:
    """The months that had rows before a batch and have others since."""
    new: dict[str, list[int]] = defaultdict(list)
    old: dict[str, list[int]] = defaultdict(list)
    for file, _ in ledger.history.files(run_id):
        if file.batch_id == batch.batch_id and file.feed:
            new[file.feed].append(file.file_id)
            if file.supersedes is not None:
                old[file.feed].append(file.supersedes)
    came, left = (
        {feed: ledger.files.months_of(ids) for feed, ids in files.items()} for files in (new, old)
    )
    for line in notes.get("balance", ()):
        feed, month = line["feed"], line["month"]
        added, removed = (side.get(feed, {}).get(month, Totals()) for side in (came, left))
        before = line["rows"] - added.rows + removed.rows
        if before > 0 and added != removed:
            yield f"{month} of {feed}"


def refused_money(project: Project) -> tuple[Reason, ...]:
    """The money of open refused rows by feed, as far as their cells can be read as amounts."""
    listed = list_refused(project)
    open_rows: dict[tuple[str, str], int] = defaultdict(int)
    for line in listed.rows:
        open_rows[line.file, line.rule] += line.rows
    feeds = [feed for feed in project.feeds.values() if feed.balance]
    if not open_rows or not feeds:
        return ()
    try:
        engine, _ = asking_engine(project, " ".join(feed.name for feed in feeds))
    except MartNotBuilt:
        return ()
    found = []
    try:
        schema = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'quarantine'"
        known = {name for (name,) in engine.answered(schema)}
        for feed in feeds:
            if feed.name not in known:
                continue
            path = text_literal(f'$."{feed.balance}"')
            money = f"TRY_CAST(json_extract_string(cells, {path}) AS DECIMAL(18, 2))"
            query = (
                f"SELECT file, rule, count(*), count({money}), sum({money})"
                f" FROM quarantine.{quoted(feed.name)} GROUP BY 1, 2"
            )
            rows = unread = 0
            total = Decimal(0)
            for file, rule, count, read, amount in engine.answered(query):
                if open_rows.get((file, rule)) == count:  # else some of them are closed
                    rows, unread = rows + count, unread + count - read
                    total += amount or 0
            if rows:
                lacking = (
                    f"; {number_of(unread, 'row')} without a readable amount" if unread else ""
                )
                found.append(
                    Reason(
                        f"{number_of(rows, 'refused row')} of {feed.name} hold {total:,f}{lacking}",
                        "Repair or dismiss: retailmart quarantine list",
                    )
                )
    finally:
        engine.close()
    return tuple(found)
