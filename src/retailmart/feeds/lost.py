"""What others did to the lake: rows of raw tables that the ledger counts and the lake lacks."""

from __future__ import annotations

from collections.abc import Iterable

from retailmart.errors import GateFailed
from retailmart.lake import Lake
from retailmart.lake.layout import raw_table
from retailmart.ledger import Ledger
from retailmart.report import number_of

LOST = (
    "Somebody changed or replaced the lake. Bring it back as it was (from a backup, or an earlier"
    " version of that table), or name the right one as `lake` in retailmart.yml, and run again"
)


def lost_rows(ledger: Ledger, lake: Lake, feeds: Iterable[str]) -> list[str]:
    """Raw tables that do not hold as many rows as the files that count have brought."""
    counted = ledger.files.row_counts()
    found = []
    for feed in feeds:
        table, expected = raw_table(feed), counted.get(feed)
        if expected is None:
            continue
        state = lake.state(table)
        rows = sum(file.rows for file in state.files) if state else 0
        if rows != expected:
            had = number_of(rows, "row") if state else "is not there"
            found.append(
                f"{table} {'has ' if state else ''}{had}, the files that count brought {expected:,}"
            )
    return found


def expect_raw(ledger: Ledger, lake: Lake, feeds: Iterable[str]) -> None:
    """Raise GateFailed if raw has other rows than those that the ledger counts."""
    if lost := lost_rows(ledger, lake, feeds):
        raise GateFailed(f"{'; '.join(lost)}; nothing was changed", LOST)


def expect_raw_tables(ledger: Ledger, lake: Lake, feeds: Iterable[str]) -> None:
    """The same as far as it costs nothing to see: raw tables that are not there at all."""
    counted = ledger.files.row_counts()
    gone = [feed for feed in feeds if counted.get(feed) and not lake.place.has(raw_table(feed))]
    if gone:
        expect_raw(ledger, lake, gone)
