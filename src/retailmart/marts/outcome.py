"""What a prepared batch will change, and what its report says."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

from retailmart.engines import Engine
from retailmart.engines.together import Answer, Asking, answers_of
from retailmart.errors import RetailmartError
from retailmart.feeds.load import LoadedFeed
from retailmart.feeds.sums import exact, exact_sum
from retailmart.ledger import Ledger
from retailmart.ledger.values import (
    Batch,
    CountedBy,
    LedgerFile,
    Outcome,
    Schema,
    SourceRecord,
    Totals,
)
from retailmart.marts.build import BuiltMart, Inputs
from retailmart.marts.reconcile import Reconciled, counted_by
from retailmart.project import Feed
from retailmart.project.mart import Refresh
from retailmart.project.types import ColumnType
from retailmart.report import (
    Agreement,
    BalanceLine,
    BatchReport,
    ColumnLine,
    Difference,
    FileLine,
    Held,
    LateKeys,
    MartLine,
    TableLine,
    UnknownKeys,
)
from retailmart.sources.loaded import LoadedTable
from retailmart.tables import Field, TableChange, TableState, quoted


@dataclass(frozen=True)
class Prepared:
    """Everything a batch has written and proven, before any of it is committed."""

    loaded: Sequence[LoadedFeed] = ()
    tables: Sequence[LoadedTable] = ()
    built: Sequence[BuiltMart] = ()
    proven: Reconciled | None = None
    unmatched: Sequence[UnknownKeys] = ()
    healed: Sequence[LateKeys] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    agreed: Sequence[Agreement] = ()
    differences: Sequence[Difference] = ()
    returned: tuple[int, ...] = ()
    unread: Sequence[SourceRecord] = ()
    held: Mapping[str, Held] = field(default_factory=dict)
    firsts: Sequence[TableChange] = ()

    def changes(self) -> Iterator[TableChange]:
        """The changes to each table of the lake."""
        for feed in self.loaded:
            if feed.has_table:
                yield feed.raw
            if feed.quarantine:
                yield feed.quarantine
        yield from (part.change for part in self.tables if part.change)
        yield from (mart.change for mart in self.built)
        yield from self.firsts

    def outcome(self, fingerprints: Mapping[str, str], away: Mapping[str, str]) -> Outcome:
        """What the ledger keeps of it; `fingerprints` are those of the marts' definitions.

        `away` are the entries of marts that have no file in the project.
        """
        return Outcome(
            files=tuple(outcome for feed in self.loaded for outcome in feed.outcomes),
            balances=self.proven.months if self.proven else {},
            marts={
                name: fingerprints[name]
                for name in (
                    *(part.mart.name for part in self.built),
                    *self.unavailable,
                    *self.held,
                )
            }
            | dict(away),
            sources={
                **{record.name: record for record in self.unread},
                **{part.table.name: part.record for part in self.tables},
            },
            notes=self._notes(),
            schemas=tuple(self._schemas()),
            returned=self.returned,
            counted=tuple(self._counted()),
        )

    def _counted(self) -> Iterator[CountedBy]:
        yield from (feed.counted for feed in self.loaded if feed.counted)
        months = self.proven.months if self.proven else {}
        for part in self.built:
            if part.mart.refresh is Refresh.APPEND:
                counted = counted_by(part.mart)
                # Rows that nobody proved are not in its sums: they will be added up another day.
                yield counted if counted.table in months else replace(counted, balance=None)

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
            "all_refused": list(self._all_refused()),
            "held": [asdict(line) for line in self.held.values()],
        }

    def _all_refused(self) -> Iterator[int]:
        """The files whose rows were all refused, if their feeds want a report of that."""
        for feed in self.loaded:
            for outcome in feed.outcomes if feed.feed.fails_all_refused else ():
                if outcome.records and not outcome.loaded:
                    yield outcome.file_id


def count_unknown_keys(
    engine: Engine, loaded: Iterable[LoadedFeed], tables: Mapping[str, LoadedTable]
) -> Asking[list[UnknownKeys]]:
    """Count rows whose key is unknown: not in the table that its column references.

    They are the rows of the batch's own files, be they new or corrections: what other files brought
    of the same months was counted when it came.
    """
    asked: list[tuple[str, str]] = []
    queries: list[str] = []
    as_texts: list[str] = []
    for part in loaded:
        if not part.brought.files:
            continue
        added = engine.define(part.brought)
        for column in part.feed.columns:
            if column.references is None or column.references[0] not in tables:
                continue
            table, key = column.references
            versions = tables[table].relations(engine)[tables[table].table.names[-1]]
            kind = _kind_of(versions.fields, key)
            if kind is None:
                continue  # all keys are unknown, and `check` says so
            name, found = quoted(column.name), f"d.{quoted(key)}"
            count = (
                f"SELECT count(*), sum(n) FROM (SELECT {name} AS k, count(*) AS n FROM {added}"
                f" WHERE {name} IS NOT NULL GROUP BY 1) a WHERE NOT EXISTS"
                f" (SELECT 1 FROM {versions} d WHERE "
            )
            own = _kind_of(added.fields, column.name) or column.type
            both = _compared(own, kind)
            asked.append((column.name, table))
            queries.append(f"{count}{_cast(found, kind, both)} = {_cast('a.k', own, both)})")
            as_texts.append(f"{count}{_cast(found, kind, _TEXT)} = {_cast('a.k', own, _TEXT)})")
    answers = yield from _asked(engine, queries, as_texts)
    return [
        UnknownKeys(name, table, int(keys), int(rows))
        for (name, table), ((keys, rows),) in zip(asked, answers, strict=True)
        if keys
    ]


def late_keys(engine: Engine, inputs: Inputs) -> Asking[list[LateKeys]]:
    """Late-arriving keys: rows of earlier batches whose key is in its table only now."""
    asked: list[tuple[tuple[str, str, str], ColumnType]] = []
    queries: list[str] = []
    as_texts: list[str] = []
    for name, (feed, before) in _raw_before(inputs).items():
        known = engine.define(before)
        for column in feed.columns:
            table = inputs.tables.get(column.references[0]) if column.references else None
            if table is None or column.references is None or table.change is None:
                continue
            old = table.relation_before(engine)
            if old is None:
                continue
            versions, name_of_key = (
                table.relations(engine)[table.table.names[-1]],
                column.references[1],
            )
            now, then = (_kind_of(one.fields, name_of_key) for one in (versions, old))
            if now is None or then is None:
                continue  # without the column there are no keys to compare
            own, key = quoted(column.name), quoted(name_of_key)
            of_column = _kind_of(known.fields, column.name) or column.type
            kinds = (field.type for field in before.fields if field.name == feed.balance)
            kind = next(kinds, ColumnType("INT"))
            money = exact_sum(f"k.{quoted(feed.balance)}", kind) if feed.balance else "0"
            asked.append(((name, column.name, table.table.name), kind))
            for both, found in ((_compared(of_column, now), queries), (_TEXT, as_texts)):
                found.append(
                    f"SELECT count(DISTINCT k.{own}), count(*), {money} FROM {known} k"
                    f" WHERE {_cast(f'k.{own}', of_column, both)} IN"
                    f" (SELECT {_cast(key, now, both)} FROM {versions}"
                    f" EXCEPT SELECT {_cast(key, then, both or now)} FROM {old})"
                )
    answers = yield from _asked(engine, queries, as_texts)
    return [
        LateKeys(*names, keys, rows, exact(amount, kind))
        for (names, kind), ((keys, rows, amount),) in zip(asked, answers, strict=True)
        if rows
    ]


_TEXT = ColumnType("STRING")


def _kind_of(fields: Iterable[Field], name: str) -> ColumnType | None:
    return next((field.type for field in fields if field.name.lower() == name.lower()), None)


def _compared(one: ColumnType, other: ColumnType) -> ColumnType | None:
    """The type in which a text and another value are compared; None if both are as they are.

    SQL would cast the text, too, but fail if a single one is no such value.
    """
    if (one == _TEXT) == (other == _TEXT):
        return None
    return other if one == _TEXT else one


def _cast(expression: str, kind: ColumnType, wanted: ColumnType | None) -> str:
    return expression if wanted in (None, kind) else f"TRY_CAST({expression} AS {wanted})"


def _asked(
    engine: Engine, queries: Sequence[str], as_texts: Sequence[str]
) -> Generator[Sequence[str], Sequence[Answer], Sequence[Answer]]:
    """The answers to queries; one that can't be computed compares texts instead."""
    try:
        return (yield queries)
    except RetailmartError:
        pairs = zip(answers_of(engine, queries), as_texts, strict=True)
        return [
            engine.rows(text) if isinstance(answer, RetailmartError) else answer
            for answer, text in pairs
        ]


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
    """What each corrected file changes compared with the version that it replaces."""
    outcomes = {outcome.file_id: outcome for feed in loaded for outcome in feed.outcomes}
    lines = []
    for file in staged:
        if file.supersedes is None:
            continue
        new, old = outcomes.get(file.file_id), ledger.files.get(file.supersedes)
        rows = (new.loaded if new else 0) - (old.loaded or 0)
        came = _total(new.months) if new else Totals()
        money = (came - _total(ledger.files.months_of([file.supersedes]))).amount
        lines.append(Difference(file.path, rows, money))
    return lines


def batch_report(
    batch: Batch,
    files: Iterable[LedgerFile],
    outcome: Outcome,
    published: Iterable[MartLine],
    held: Iterable[Held] = (),
    names: Mapping[str, str] | None = None,
    *,
    recovered: bool,
) -> BatchReport:
    """The report of a batch that is done. `held` are marts held back while publishing.

    `names` are those of the published tables, by mart.
    """
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
        unmatched=tuple(UnknownKeys(**line) for line in notes.get("unmatched", ())),
        columns=tuple(
            ColumnLine(schema.table, change.column, change.before, change.after, change.cause)
            for schema in outcome.schemas
            for change in schema.changes
            if not schema.is_new or change.cause in paths
        ),
        tables=tuple(TableLine(**line) for line in notes.get("tables", ())),
        healed=tuple(
            LateKeys(**{**line, "amount": Decimal(line["amount"])})
            for line in notes.get("healed", ())
        ),
        agreed=tuple(
            Agreement(**{**line, "columns": tuple(line["columns"])})
            for line in notes.get("agreed", ())
        ),
        unavailable=notes.get("unavailable", {}),
        all_refused=tuple(
            file.path for file in files if file.file_id in notes.get("all_refused", ())
        ),
        held=(*(Held(**line) for line in notes.get("held", ())), *held),
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
        marts=tuple(
            _with_published(line, shown.get(line.name), (names or {}).get(line.name))
            for line in marts
        ),
    )


def _with_published(line: MartLine, published: MartLine | None, name: str | None) -> MartLine:
    if published is None:
        return replace(line, published_as=name)
    return MartLine(
        line.name,
        line.rows,
        line.months,
        published.published_as,
        published.published_rows,
        published.changed,
    )


def _total(months: Mapping[str, Totals]) -> Totals:
    return sum(months.values(), Totals())
