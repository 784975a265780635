"""What a prepared batch will have made true, and what people are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from retailmart.engines import Engine
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, LedgerFile, Outcome, Schema, Totals
from retailmart.project import Feed
from retailmart.report import (
    Agreement,
    BalanceLine,
    BatchReport,
    ColumnLine,
    Difference,
    FileLine,
    Healed,
    MartLine,
    TableLine,
    Unmatched,
)
from retailmart.steps.build import BuiltMart, Inputs
from retailmart.steps.load import LoadedFeed
from retailmart.steps.reconcile import Reconciled
from retailmart.steps.sources import LoadedTable
from retailmart.tables import TableChange, TableState, quoted


@dataclass(frozen=True)
class Prepared:
    """Everything a batch has written and proven, before any of it is committed."""

    loaded: Sequence[LoadedFeed] = ()
    tables: Sequence[LoadedTable] = ()
    built: Sequence[BuiltMart] = ()
    proven: Reconciled | None = None
    unmatched: Sequence[Unmatched] = ()
    healed: Sequence[Healed] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    agreed: Sequence[Agreement] = ()
    differences: Sequence[Difference] = ()

    def changes(self) -> Iterator[TableChange]:
        """What happens to each table of the lake."""
        for feed in self.loaded:
            if feed.has_table:
                yield feed.raw
            if feed.quarantine:
                yield feed.quarantine
        yield from (part.change for part in self.tables if part.change)
        yield from (mart.change for mart in self.built)

    def outcome(self, fingerprints: Mapping[str, str]) -> Outcome:
        """What the ledger keeps of it; `fingerprints` are those of the marts' definitions."""
        return Outcome(
            files=tuple(outcome for feed in self.loaded for outcome in feed.outcomes),
            balances=self.proven.months if self.proven else {},
            marts={
                name: fingerprints[name]
                for name in (*(part.mart.name for part in self.built), *self.unavailable)
            },
            sources={part.table.name: part.record for part in self.tables},
            notes=self._notes(),
            schemas=tuple(self._schemas()),
        )

    def _schemas(self) -> Iterator[Schema]:
        yield from (feed.schema for feed in self.loaded if feed.schema and feed.has_table)
        yield from (part.schema for part in self.tables if part.schema)

    def _table_lines(self) -> Iterator[TableLine]:
        for part in self.tables:
            if part.change:
                rows = sum(file.rows for file in part.after.files)
                yield TableLine(part.table.name, rows, sum(file.rows for file in part.change.adds))

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
            "tables": [asdict(line) for line in self._table_lines()],
            "healed": [asdict(line) for line in self.healed],
            "agreed": [asdict(line) for line in self.agreed],
            "unavailable": dict(self.unavailable),
        }


def count_unmatched(
    engine: Engine, loaded: Iterable[LoadedFeed], tables: Mapping[str, LoadedTable]
) -> list[Unmatched]:
    """Count the batch's rows whose key is not in the table that its column references."""
    lines = []
    for part in loaded:
        engine.define("_added", part.added)
        for column in part.feed.columns:
            if column.references is None or column.references[0] not in tables:
                continue
            table, key = column.references
            tables[table].define(engine)
            versions = tables[table].table.names[-1]
            name, found = quoted(column.name), f"d.{quoted(key)}"
            keys, rows = engine.rows(
                f"SELECT count(*), sum(n) FROM (SELECT {name} AS k, count(*) AS n FROM _added"
                f" WHERE {name} IS NOT NULL GROUP BY 1) a"
                f" WHERE NOT EXISTS (SELECT 1 FROM {quoted(versions)} d WHERE {found} = a.k)"
            )[0]
            if keys:
                lines.append(Unmatched(column.name, table, int(keys), int(rows)))
    return lines


def heal(engine: Engine, inputs: Inputs) -> list[Healed]:
    """Rows of earlier batches whose key is in the table it references only now."""
    lines = []
    for name, (feed, before) in _raw_before(inputs).items():
        engine.define("_known", before)
        for column in feed.columns:
            table = inputs.tables.get(column.references[0]) if column.references else None
            if table is None or column.references is None or table.change is None:
                continue
            old = table.define_before(engine)
            if old is None:
                continue
            table.define(engine)
            own, key = quoted(column.name), quoted(column.references[1])
            money = f"sum(k.{quoted(feed.balance)})" if feed.balance else "0"
            keys, rows, amount = engine.rows(
                f"SELECT count(DISTINCT k.{own}), count(*), {money} FROM _known k WHERE k.{own} IN"
                f" (SELECT {key} FROM {quoted(table.table.names[-1])} EXCEPT"
                f" SELECT {key} FROM {quoted(old)})"
            )[0]
            if rows:
                told = Decimal(amount or 0)
                lines.append(Healed(name, column.name, table.table.name, keys, rows, told))
    return lines


def _raw_before(inputs: Inputs) -> dict[str, tuple[Feed, TableState]]:
    found = dict(inputs.unchanged)
    for name, part in inputs.feeds.items():
        if part.before is not None:
            kept = set(part.raw.removes)
            found[name] = (
                part.feed,
                part.before.only(f for f in part.before.files if f.path not in kept),
            )
    return found


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
    files = list(files)
    paths = {file.path for file in files}
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
        columns=tuple(
            ColumnLine(schema.table, change.column, change.before, change.after, change.cause)
            for schema in outcome.schemas
            for change in schema.changes
            if not schema.is_new or change.cause in paths
        ),
        tables=tuple(TableLine(**line) for line in notes.get("tables", ())),
        healed=tuple(
            Healed(**{**line, "amount": Decimal(line["amount"])})
            for line in notes.get("healed", ())
        ),
        agreed=tuple(
            Agreement(**{**line, "columns": tuple(line["columns"])})
            for line in notes.get("agreed", ())
        ),
        unavailable=notes.get("unavailable", {}),
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
