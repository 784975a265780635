"""What a prepared batch will have made true, and what people are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from retailmart.engines import Engine
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, LedgerFile, Outcome, Totals
from retailmart.report import (
    BalanceLine,
    BatchReport,
    Difference,
    FileLine,
    MartLine,
    Unmatched,
)
from retailmart.steps.build import BuiltMart
from retailmart.steps.load import LoadedFeed
from retailmart.steps.reconcile import Reconciled
from retailmart.steps.sources import LoadedSource
from retailmart.tables import TableChange, TableState, quoted


@dataclass(frozen=True)
class Prepared:
    """Everything a batch has written and proven, before any of it is committed."""

    loaded: Sequence[LoadedFeed] = ()
    sources: Sequence[LoadedSource] = ()
    built: Sequence[BuiltMart] = ()
    proven: Reconciled | None = None
    unmatched: Sequence[Unmatched] = ()
    differences: Sequence[Difference] = ()

    def changes(self) -> Iterator[TableChange]:
        """What happens to each table of the lake."""
        for feed in self.loaded:
            yield feed.raw
            if feed.quarantine:
                yield feed.quarantine
        yield from (source.change for source in self.sources if source.change)
        yield from (mart.change for mart in self.built)

    def outcome(self, fingerprints: Mapping[str, str]) -> Outcome:
        """What the ledger keeps of it; `fingerprints` are those of the marts' definitions."""
        return Outcome(
            files=tuple(outcome for feed in self.loaded for outcome in feed.outcomes),
            balances=self.proven.months if self.proven else {},
            marts={part.mart.name: fingerprints[part.mart.name] for part in self.built},
            sources={part.name: part.digest for part in self.sources if part.change},
            notes=self._notes(),
        )

    def _notes(self) -> dict[str, Any]:
        lines = self.proven.lines if self.proven else ()
        balance = [
            BalanceLine(b.feed, b.month, b.totals.rows, b.totals.amount, b.tables) for b in lines
        ]
        marts = [
            MartLine(
                part.mart.name,
                sum(file.rows for file in part.after.files),
                None if part.months is None else len(part.months),
            )
            for part in self.built
        ]
        return {
            "differences": [asdict(line) for line in self.differences],
            "unmatched": [asdict(line) for line in self.unmatched],
            "balance": [asdict(line) for line in balance],
            "marts": [asdict(line) for line in marts],
        }


def count_unmatched(
    engine: Engine, loaded: Iterable[LoadedFeed], dimensions: Mapping[str, TableState]
) -> list[Unmatched]:
    """Count the batch's rows whose key is not in the table that its column references."""
    lines = []
    for part in loaded:
        engine.define("_added", part.added)
        for column in part.feed.columns:
            if column.references is None or column.references[0] not in dimensions:
                continue
            table, key = column.references
            engine.define(table, dimensions[table])
            name = quoted(column.name)
            keys, rows = engine.rows(
                f"SELECT count(*), sum(n) FROM (SELECT {name} AS k, count(*) AS n FROM _added"
                f" WHERE {name} IS NOT NULL GROUP BY 1) a"
                f" WHERE NOT EXISTS (SELECT 1 FROM {quoted(table)} d WHERE d.{quoted(key)} = a.k)"
            )[0]
            if keys:
                lines.append(Unmatched(column.name, table, int(keys), int(rows)))
    return lines


def differences(
    ledger: Ledger, loaded: Iterable[LoadedFeed], staged: Iterable[LedgerFile]
) -> list[Difference]:
    """What each corrected file changes against the version that leaves for it."""
    outcomes = {outcome.file_id: outcome for feed in loaded for outcome in feed.outcomes}
    lines = []
    for file in staged:
        if file.supersedes is None:
            continue
        new, old = outcomes.get(file.file_id), ledger.file(file.supersedes)
        rows = (new.loaded if new else 0) - (old.loaded or 0)
        came = _amount(new.months) if new else Decimal(0)
        money = came - _amount(ledger.months_of_files([file.supersedes]))
        lines.append(Difference(file.path, rows, money))
    return lines


def batch_report(
    batch: Batch,
    files: Iterable[LedgerFile],
    outcome: Outcome,
    published: Iterable[MartLine],
    *,
    recovered: bool,
) -> BatchReport:
    """What people are told of a batch that is done."""
    warned = {file.file_id: file.warned for file in outcome.files}
    notes = outcome.notes
    shown = {line.name: line for line in published}
    marts = [MartLine(**line) for line in notes.get("marts", ())]
    return BatchReport(
        batch_id=batch.batch_id,
        recovered=recovered,
        archived_to=f"processed/{batch.stamp}",
        undoes=batch.undoes,
        files=tuple(
            FileLine(
                path=file.path,
                state=file.state.value,
                message=file.message,
                records=file.records,
                loaded=file.loaded,
                quarantined=file.quarantined,
                warned=warned.get(file.file_id, {}),
            )
            for file in files
        ),
        differences=tuple(
            Difference(line["path"], line["rows"], Decimal(line["amount"]))
            for line in notes.get("differences", ())
        ),
        unmatched=tuple(Unmatched(**line) for line in notes.get("unmatched", ())),
        balance=tuple(
            BalanceLine(
                line["feed"],
                line["month"],
                line["rows"],
                Decimal(line["amount"]),
                tuple(line["tables"]),
            )
            for line in notes.get("balance", ())
        ),
        marts=tuple(_with_published(line, shown.get(line.name)) for line in marts),
    )


def _with_published(line: MartLine, published: MartLine | None) -> MartLine:
    if published is None:
        return line
    return MartLine(
        line.name,
        line.rows,
        line.months,
        published.published_as,
        published.published_rows,
        published.changed,
    )


def _amount(months: Mapping[str, Totals]) -> Decimal:
    return sum((totals.amount for totals in months.values()), Decimal(0))
