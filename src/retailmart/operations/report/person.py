"""What is known beyond the status: late keys, restated months, the money of refused rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from retailmart.engines.duckdb.tracing import TracingEngine
from retailmart.errors import MartNotBuilt, SettingsError
from retailmart.feeds.quarantine import Item
from retailmart.feeds.rows import raw_fields
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, Totals
from retailmart.operations.as_repaired import MOST, as_repaired, held, open_items
from retailmart.operations.status import Reason
from retailmart.operations.verify.pin import Pinned, pin
from retailmart.project import Project
from retailmart.project.feed import Feed
from retailmart.report import number_of
from retailmart.session import PRIVATE, open_lake, view_ledger


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
    feeds = [feed for feed in project.feeds.values() if feed.balance]
    if not feeds:
        return ()
    try:
        lake = open_lake(project)
        pinned = view_ledger(project, lambda view: pin(lake, view.ledger, project, 0))
    except MartNotBuilt:
        return ()
    settings = project.settings
    scratch = project.folder / PRIVATE
    engine = TracingEngine([lake.place], scratch, settings.memory_limit, settings.threads)
    try:
        names = [feed.name for feed in feeds]
        items = view_ledger(project, lambda view: open_items(engine, view.ledger, pinned, names))
        return tuple(
            _money_of(engine, project.feeds[name], pinned, found) for name, found in items.items()
        )
    finally:
        engine.close()


def _money_of(engine: TracingEngine, feed: Feed, pinned: Pinned, items: tuple[Item, ...]) -> Reason:
    try:
        whole = held(feed, pinned)
    except SettingsError as error:
        return Reason(f"the money of {feed.name}'s refused rows is not known: {error.message}", "")
    found = as_repaired(engine, whole, raw_fields(whole), items, None)
    amounts = [amount for amount in found.amounts.values() if amount is not None]
    holds = "holds" if len(items) == 1 else "hold"
    said = f"{number_of(len(items), 'refused row')} of {feed.name} {holds} {sum(amounts):,f}"
    if unread := len(items) - len(amounts):
        said += f"; {number_of(unread, 'row')} without a readable amount"
    if len(items) == MOST:
        said = f"the first {said}"
    return Reason(said, "Repair or dismiss: retailmart quarantine list")
