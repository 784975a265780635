"""Prove rows and cents: what is in files = in raw = in every mart that says it balances."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from retailmart.engines import Engine
from retailmart.engines.dividing import relations_of_files
from retailmart.engines.together import Answer, Asking, answers_of
from retailmart.errors import GateFailed, RetailmartError
from retailmart.feeds.load import LoadedFeed
from retailmart.feeds.sums import exact, exact_sum
from retailmart.lake.layout import mart_table, raw_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import CountedBy, LedgerFile, Totals
from retailmart.marts.build import BuiltMart
from retailmart.marts.held import HeldBack
from retailmart.project.feed import Feed
from retailmart.project.mart import Mart, Refresh
from retailmart.report import number_of
from retailmart.tables import quoted

# At most this many months with differences are named of a mart.
_TOLD = 3
_FIX = (
    "Correct the SELECT (a join that finds no row, or two, changes the sum), or `balance` in the"
    " header; the next run builds the mart from all rows"
)


@dataclass(frozen=True)
class Balance:
    """One proven line: a feed's rows and money in a month, and the tables that show just that."""

    feed: str
    month: str
    totals: Totals
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Reconciled:
    """All proven lines, and each table's totals by month as the ledger will remember them."""

    lines: tuple[Balance, ...]
    months: Mapping[str, Mapping[str, Totals]]

    def without(self, marts: Iterable[str]) -> Reconciled:
        """The same without marts that stay as they were."""
        gone = {mart_table(name) for name in marts}
        lines = (
            replace(line, tables=tuple(name for name in line.tables if name not in gone))
            for line in self.lines
        )
        months = {name: totals for name, totals in self.months.items() if name not in gone}
        return Reconciled(tuple(lines), months)


def reconcile(
    engine: Engine,
    ledger: Ledger,
    feeds: Iterable[Feed],
    loaded: Iterable[LoadedFeed],
    leaving: Mapping[str, Iterable[LedgerFile]],
    built: Sequence[BuiltMart],
    held: HeldBack,
) -> Asking[Reconciled]:
    """Compare all sums, read from the written files.

    Raises GateFailed, which names every number of raw that differs from the files. A mart without
    raw's numbers is `held` back. Months that the batch changed are proven; of a mart that is
    rebuilt, all months.
    """
    lines: list[Balance] = []
    months: dict[str, Mapping[str, Totals]] = {}
    problems: list[str] = []
    parts = {part.feed.name: part for part in loaded}
    proofs: list[_Proof] = []
    sums: list[_MartSums] = []
    counted = ledger.files.counted_by()
    for feed in feeds:
        marts = [part for part in built if feed.name in part.mart.balance]
        if feed.balance is None or (feed.name not in parts and not marts):
            continue
        proofs.append(_Proof(ledger, feed, parts.get(feed.name)))
        sums += [
            _MartSums(engine, part, feed.name, counted.get(mart_table(part.mart.name)))
            for part in marts
            if part.mart.month
        ]
    queries = [query for one in sums for query in one.queries]
    try:
        told: Sequence[Answer | RetailmartError] = yield queries
    except RetailmartError:  # some column can't be added up: find the mart
        told = answers_of(engine, queries)
    found = list(_by_month(sums, told, held))
    for proof in proofs:
        proof.against_files(leaving.get(proof.feed.name, ()))
        for one, by_month in found:
            if one.feed == proof.feed.name and (off := proof.against_mart(one, by_month)):
                name = one.part.mart.name
                message = f"marts/{name}.sql does not balance: {_first(off)}"
                held.add(name, RetailmartError(message, _FIX))
        lines += proof.lines()
        months |= proof.months
        problems += proof.problems
    if problems:
        raise GateFailed(
            "the totals do not balance; nothing was published:\n  " + "\n  ".join(problems)
        )
    return Reconciled(tuple(lines), months)


def _by_month(
    sums: Iterable[_MartSums], answers: Iterable[Answer | RetailmartError], held: HeldBack
) -> Iterator[tuple[_MartSums, dict[str, Totals]]]:
    """The sums of each mart by month; one whose money can't be added up is held back."""
    told = iter(answers)
    for one in sums:
        own = [next(told) for _ in one.queries]
        if failed := [answer for answer in own if isinstance(answer, RetailmartError)]:
            name = one.part.mart.name
            message = f"marts/{name}.sql does not balance: {failed[0].message}"
            held.add(name, RetailmartError(message, _FIX))
        else:
            yield one, one.by_month([rows for rows in own if not isinstance(rows, RetailmartError)])


def _first(problems: Sequence[str]) -> str:
    further = len(problems) - _TOLD
    return "; ".join(problems[:_TOLD]) + (f"; and {further} more" if further > 0 else "")


def counted_by(mart: Mart) -> CountedBy:
    """The columns that say the month of a mart's rows and their money, by feed."""
    money = ", ".join(f"{feed}: {column}" for feed, column in sorted(mart.balance.items()))
    return CountedBy(mart_table(mart.name), mart.month, money)


class _MartSums:
    """What a mart wrote of a feed's money, by the column that holds each row's month.

    If its rows that stay were counted by other columns until now (`known`), it is what the mart
    has: then it `is_whole`.
    """

    def __init__(self, engine: Engine, part: BuiltMart, feed: str, known: CountedBy | None) -> None:
        self.part = part
        self.feed = feed
        self.is_whole = part.rebuilt or (
            part.mart.refresh is Refresh.APPEND and not counted_by(part.mart).is_as(known)
        )
        written = part.after if self.is_whole else part.after.only(part.change.adds)
        month, amount = quoted(str(part.mart.month)), part.mart.balance[feed]
        self.kind = next(one.type for one in written.fields if one.name == amount)
        total = exact_sum(quoted(amount), self.kind)
        self.queries = [
            f"SELECT {month}, count(*), {total} FROM {rows} GROUP BY 1"
            for rows in relations_of_files(engine, written)
        ]

    def by_month(self, answers: Iterable[Answer]) -> dict[str, Totals]:
        """Each month's rows and money."""
        months: dict[str, Totals] = {}
        for month, count, total in (row for rows in answers for row in rows):
            came = Totals(count, exact(total, self.kind))
            months[month] = months.get(month, Totals()) + came
        return months


class _Proof:
    """The balance of one feed in one batch; `loaded` is None if it brought no file of it."""

    def __init__(self, ledger: Ledger, feed: Feed, loaded: LoadedFeed | None) -> None:
        self.ledger = ledger
        self.feed = feed
        self.outcomes = loaded.outcomes if loaded else ()
        self.recounted = loaded.counted if loaded and loaded.is_recounted else None
        self.affected = loaded.affected if loaded else frozenset[str]()
        self.replaced = loaded.replaced if loaded else frozenset[str]()
        self.problems: list[str] = []
        name = raw_table(feed.name)
        came = loaded.months if loaded else {}
        self.proven = self.affected
        if self.recounted:
            # Also months that only the ledger knows, by the columns that counted until now.
            self.proven |= came.keys() | ledger.marts.months_of(name).keys()
        self.raw = self._grown(name, came, self.proven if self.recounted else self.replaced)
        self.months: dict[str, Mapping[str, Totals]] = {
            name: {month: self.raw.get(month, Totals()) for month in self.proven}
        }
        self.tables: dict[str, list[str]] = {month: [name] for month in self.affected}

    def against_files(self, leaving: Iterable[LedgerFile]) -> None:
        """Check that raw holds what the counted files brought, file by file in the ledger."""
        if self.recounted:
            expected = self._recounted(self.recounted, {file.file_id for file in leaving})
        else:
            expected = self.ledger.files.counted_months(self.feed.name, self.affected)
            left = self.ledger.files.months_of(file.file_id for file in leaving)
            for month, totals in left.items():
                expected[month] = expected.get(month, Totals()) - totals
        for outcome in self.outcomes:
            for month, totals in outcome.months.items():
                expected[month] = expected.get(month, Totals()) + totals
        for month in sorted(self.proven):
            found = expected.get(month, Totals())
            self.problems += self._differences("the files", month, found, with_rows=True)

    def _recounted(self, counted: CountedBy, leaving: Collection[int]) -> dict[str, Totals]:
        """What raw has of the files that stay, each of which must have as many rows as it brought.

        The ledger knows neither their months nor their money by the feed's columns of today.
        """
        found: dict[str, Totals] = {}
        rows = self.ledger.files.rows_of(self.feed.name)
        expected = {file_id: count for file_id, count in rows.items() if file_id not in leaving}
        for file_id in sorted({*expected, *counted.files}):
            months = counted.files.get(file_id, {})
            count = sum(months.values(), Totals()).rows
            if count != expected.get(file_id, 0):
                path = self.ledger.files.get(file_id).shown
                self.problems.append(
                    f"{self.feed.name}: raw has {number_of(count, 'row')} of {path}, of which"
                    f" {expected.get(file_id, 0):,} count"
                )
            for month, totals in months.items():
                found[month] = found.get(month, Totals()) + totals
        return found

    def against_mart(self, written: _MartSums, sums: Mapping[str, Totals]) -> list[str]:
        """What differs in a mart's money of each month that changed; in its rows, too, if it holds
        one a sale.
        """
        part = written.part
        name = mart_table(part.mart.name)
        row_level = part.mart.refresh is Refresh.APPEND
        months = self.affected | (part.months or frozenset())
        if written.is_whole:
            # Also months that only the ledger knows: no row of them is left.
            known = self.ledger.marts.months_of(name).keys()
            months = frozenset(self.raw) | frozenset(sums) | known
        elif row_level:
            sums = self._grown(name, sums, part.rewritten)
        self.months[name] = {month: sums.get(month, Totals()) for month in months}
        problems: list[str] = []
        for month in sorted(months):
            self.tables.setdefault(month, [raw_table(self.feed.name)]).append(name)
            found = sums.get(month, Totals())
            problems += self._differences(name, month, found, with_rows=row_level)
        return problems

    def lines(self) -> list[Balance]:
        """The proven lines, one a month."""
        return [
            Balance(self.feed.name, month, self.raw.get(month, Totals()), tuple(tables))
            for month, tables in sorted(self.tables.items())
        ]

    def _differences(
        self, table: str, month: str, found: Totals, *, with_rows: bool
    ) -> Iterator[str]:
        raw = self.raw.get(month, Totals())
        off = found - raw
        if off.amount:
            yield (
                f"{self.feed.name} {month}: raw has {raw.amount}, {table} {found.amount},"
                f" off by {off.amount}"
            )
        if with_rows and off.rows:
            yield (
                f"{self.feed.name} {month}: raw has {number_of(raw.rows, 'row')},"
                f" {table} {found.rows:,}, off by {off.rows:,}"
            )

    def _grown(
        self, table: str, came: Mapping[str, Totals], replaced: frozenset[str]
    ) -> dict[str, Totals]:
        """A table's totals after a batch: the old ones, nothing where replaced, plus new ones."""
        months = {
            month: totals
            for month, totals in self.ledger.marts.months_of(table).items()
            if month not in replaced
        }
        for month, totals in came.items():
            months[month] = months.get(month, Totals()) + totals
        return months
