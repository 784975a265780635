"""Prove rows and cents: what is in the files = in raw = in every mart that says it balances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from retailmart.engines import Engine
from retailmart.errors import GateFailed
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile, Totals
from retailmart.project.feed import Feed
from retailmart.project.mart import Refresh
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
    feeds: Iterable[Feed],
    loaded: Iterable[LoadedFeed],
    leaving: Mapping[str, Iterable[LedgerFile]],
    built: Sequence[BuiltMart],
) -> Reconciled:
    """Compare all sums, read from the written files. GateFailed names every number that is off.

    Months that the batch touched are proven; of a mart that is built anew, all months.
    """
    lines: list[Balance] = []
    months: dict[str, Mapping[str, Totals]] = {}
    problems: list[str] = []
    parts = {part.feed.name: part for part in loaded}
    for feed in feeds:
        marts = [part for part in built if feed.name in part.mart.balance]
        if feed.balance is None or (feed.name not in parts and not marts):
            continue
        proof = _Proof(engine, ledger, feed, parts.get(feed.name))
        proof.against_files(leaving.get(feed.name, ()))
        for part in marts:
            proof.against_mart(part, part.mart.balance[feed.name])
        lines += proof.lines()
        months |= proof.months
        problems += proof.problems
    if problems:
        raise GateFailed(
            "the totals do not balance; nothing was published:\n  " + "\n  ".join(problems)
        )
    return Reconciled(tuple(lines), months)


class _Proof:
    """The balance of one feed in one batch; `loaded` is None where it brought no file of it."""

    def __init__(
        self, engine: Engine, ledger: Ledger, feed: Feed, loaded: LoadedFeed | None
    ) -> None:
        self.engine = engine
        self.ledger = ledger
        self.feed = feed
        self.outcomes = loaded.outcomes if loaded else ()
        self.touched = loaded.touched if loaded else frozenset[str]()
        self.replaced = loaded.replaced if loaded else frozenset[str]()
        self.problems: list[str] = []
        name = raw_table(feed.name)
        self.raw = self._grown(name, loaded.months if loaded else {}, self.replaced)
        self.months: dict[str, Mapping[str, Totals]] = {
            name: {month: self.raw.get(month, Totals()) for month in self.touched}
        }
        self.tables: dict[str, list[str]] = {month: [name] for month in self.touched}

    def against_files(self, leaving: Iterable[LedgerFile]) -> None:
        """Raw must hold what the counted files brought, file by file in the ledger."""
        expected = self.ledger.counted_months(self.feed.name, self.touched)
        left = self.ledger.months_of_files(file.file_id for file in leaving)
        for outcome in self.outcomes:
            for month, totals in outcome.months.items():
                expected[month] = expected.get(month, Totals()) + totals
        for month, totals in left.items():
            expected[month] = expected.get(month, Totals()) - totals
        for month in sorted(self.touched):
            self._compare("the files", month, expected.get(month, Totals()), with_rows=True)

    def against_mart(self, part: BuiltMart, amount: str) -> None:
        """A mart's money in each month that changed; its rows too where it holds one a sale."""
        if part.mart.month is None:
            return
        name = mart_table(part.mart.name)
        row_level = part.mart.refresh is Refresh.APPEND
        sums = self._sums(part.after.only(part.change.adds), part.mart.month, amount)
        months = self.touched | (part.months or frozenset())
        if part.anew:
            months = frozenset(self.raw) | frozenset(sums)
        elif row_level:
            sums = self._grown(name, sums, part.rewritten)
        self.months[name] = {month: sums.get(month, Totals()) for month in months}
        for month in sorted(months):
            self.tables.setdefault(month, [raw_table(self.feed.name)]).append(name)
            self._compare(name, month, sums.get(month, Totals()), with_rows=row_level)

    def lines(self) -> list[Balance]:
        """What was proven, a line a month."""
        return [
            Balance(self.feed.name, month, self.raw.get(month, Totals()), tuple(tables))
            for month, tables in sorted(self.tables.items())
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

    def _grown(
        self, table: str, came: Mapping[str, Totals], replaced: frozenset[str]
    ) -> dict[str, Totals]:
        """A table's totals after a batch: what it had, nothing where replaced, plus what came."""
        months = {
            month: totals
            for month, totals in self.ledger.months_of_table(table).items()
            if month not in replaced
        }
        for month, totals in came.items():
            months[month] = months.get(month, Totals()) + totals
        return months

    def _sums(self, table: TableState, month: str, amount: str) -> dict[str, Totals]:
        self.engine.define("_sums", table)
        rows = self.engine.rows(
            f"SELECT {quoted(month)}, count(*), sum({quoted(amount)}) FROM _sums GROUP BY 1"
        )
        return {key: Totals(count, Decimal(total or 0)) for key, count, total in rows}
