"""Prove rows and cents: what is in the files = in raw = in every mart that says it balances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from retailmart.engines import Engine
from retailmart.errors import GateFailed
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile, Totals
from retailmart.project.feed import Feed
from retailmart.steps.build import BuiltMart, mart_table
from retailmart.steps.load import LoadedFeed, raw_table
from retailmart.tables import TableState, quoted


@dataclass(frozen=True)
class Balance:
    """One proven line: a feed's rows and money in a month, and the tables that show just that."""

    feed: str
    month: str
    totals: Totals
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Reconciled:
    """All lines proven, and each table's totals by month as the ledger will remember them."""

    lines: tuple[Balance, ...]
    months: Mapping[str, Mapping[str, Totals]]


def reconcile(
    engine: Engine,
    ledger: Ledger,
    loaded: Iterable[LoadedFeed],
    superseded: Mapping[str, Iterable[LedgerFile]],
    built: Iterable[BuiltMart],
) -> Reconciled:
    """Compare all sums, read from the written files. GateFailed names every number that is off."""
    marts = list(built)
    lines: list[Balance] = []
    months: dict[str, Mapping[str, Totals]] = {}
    problems: list[str] = []
    for feed in loaded:
        if feed.feed.balance is None:
            continue
        told = _Proof(engine, ledger, feed)
        told.against_files(superseded.get(feed.feed.name, ()))
        for part in marts:
            if feed.feed.name in part.mart.balance:
                told.against_mart(part, part.mart.balance[feed.feed.name])
        lines += told.lines()
        months |= told.months
        problems += told.problems
    if problems:
        raise GateFailed(
            "the totals do not balance; nothing was published:\n  " + "\n  ".join(problems)
        )
    return Reconciled(tuple(lines), months)


class _Proof:
    """The balance of one feed in one batch, over the months it touched."""

    def __init__(self, engine: Engine, ledger: Ledger, loaded: LoadedFeed) -> None:
        self.engine = engine
        self.ledger = ledger
        self.loaded = loaded
        self.feed: Feed = loaded.feed
        self.problems: list[str] = []
        self.tables: list[str] = []
        name = raw_table(self.feed.name)
        self.raw = self._grown(name, loaded.months)
        self.months: dict[str, Mapping[str, Totals]] = {name: self.raw}
        self.tables.append(name)

    def against_files(self, superseded: Iterable[LedgerFile]) -> None:
        """Raw must hold what the counted files brought, file by file in the ledger."""
        months = self.loaded.touched
        expected = self.ledger.counted_months(self.feed.name, months)
        left = self.ledger.months_of_files(file.file_id for file in superseded)
        for outcome in self.loaded.outcomes:
            for month, totals in outcome.months.items():
                expected[month] = expected.get(month, Totals()) + totals
        for month, totals in left.items():
            expected[month] = expected.get(month, Totals()) - totals
        for month in sorted(months):
            self._compare("the files", month, expected.get(month, Totals()), with_rows=True)

    def against_mart(self, part: BuiltMart, amount: str) -> None:
        """A mart's money in each touched month; its rows too where it holds one a sale."""
        name = mart_table(part.mart.name)
        month = part.mart.month
        if month is None or part.change is None:
            return
        sums = self._sums(part.after.only(part.change.adds), month, amount)
        if part.appended:
            sums = self._grown(name, sums)
        self.months[name] = {m: sums.get(m, Totals()) for m in self.loaded.touched | sums.keys()}
        self.tables.append(name)
        row_level = part.mart.refresh.value == "append"
        for key in sorted(self.loaded.touched):
            self._compare(name, key, sums.get(key, Totals()), with_rows=row_level)

    def lines(self) -> list[Balance]:
        """What was proven, a line a month."""
        tables = tuple(self.tables)
        return [
            Balance(self.feed.name, month, self.raw.get(month, Totals()), tables)
            for month in sorted(self.loaded.touched)
        ]

    def _compare(self, table: str, month: str, found: Totals, *, with_rows: bool) -> None:
        raw = self.raw.get(month, Totals())
        if found.amount != raw.amount:
            off = found.amount - raw.amount
            self.problems.append(
                f"{self.feed.name} {month}: raw has {raw.amount}, {table} {found.amount},"
                f" off by {off}"
            )
        if with_rows and found.rows != raw.rows:
            self.problems.append(
                f"{self.feed.name} {month}: raw has {raw.rows} rows, {table} {found.rows},"
                f" off by {found.rows - raw.rows}"
            )

    def _grown(self, table: str, came: Mapping[str, Totals]) -> dict[str, Totals]:
        """A table's totals after a batch: what it had, nothing where replaced, plus what came."""
        had = self.ledger.months_of_table(table)
        kept = {m: totals for m, totals in had.items() if m not in self.loaded.replaced}
        return {
            month: came.get(month, Totals()) + kept.get(month, Totals())
            for month in self.loaded.touched
        }

    def _sums(self, table: TableState, month: str, amount: str) -> dict[str, Totals]:
        self.engine.define("_sums", table)
        rows = self.engine.rows(
            f"SELECT {quoted(month)}, count(*), sum({quoted(amount)}) FROM _sums GROUP BY 1"
        )
        return {key: Totals(count, Decimal(total or 0)) for key, count, total in rows}
