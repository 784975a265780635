"""What a run reports: one frozen value for both the summary and `--output json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Protocol

from retailmart.errors import NotAllDone


def size_of(count: int) -> str:
    """A number of bytes in words, as in `812 bytes`, `4.2 MB` and `1.3 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return number_of(count, "byte")


def number_of(count: int, noun: str) -> str:
    """A number of things in words, as in `1 row` and `1,234 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def plain(value: Any) -> Any:
    """A value as JSON can have it, exactly."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return str(value)


@dataclass(frozen=True, slots=True)
class FileLine:
    """One file of the run and what became of it."""

    path: str
    state: str
    message: str | None = None
    records: int | None = None
    loaded: int | None = None
    quarantined: int | None = None
    warned: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_without_good_row(self) -> bool:
        """Whether it was read, and every one of its rows was refused."""
        return self.state == "loaded" and bool(self.records) and not self.loaded

    @property
    def problem(self) -> str | None:
        """Why nothing of it was taken in; None if something was, or if there was nothing in it."""
        if self.state == "refused":
            return self.message or "refused"
        return "all of its rows are refused" if self.is_without_good_row else None


@dataclass(frozen=True)
class Difference:
    """What a corrected file changed against the version it supersedes."""

    path: str
    rows: int
    amount: Decimal


@dataclass(frozen=True)
class UnknownKeys:
    """Rows of a batch's files with an unknown key: it is not in the table it references.

    They lack its columns.
    """

    column: str
    table: str
    keys: int
    rows: int


@dataclass(frozen=True)
class LateKeys:
    """Rows of earlier runs with a late-arriving key: from now on their months show its columns.

    `amount` is the money that left "unknown".
    """

    feed: str
    column: str
    table: str
    keys: int
    rows: int
    amount: Decimal


@dataclass(frozen=True)
class TableLine:
    """A source table that has changed: its rows in the lake, and how many of them were written."""

    name: str
    rows: int
    written: int


@dataclass(frozen=True)
class Agreement:
    """Two marts whose totals were compared, and found the same, in each of `groups` groups."""

    mart: str
    other: str
    columns: tuple[str, ...]
    groups: int


@dataclass(frozen=True)
class ColumnLine:
    """A column of a raw table that is new (`before` is None) or of another type, and the cause."""

    table: str
    column: str
    before: str | None
    after: str
    cause: str


@dataclass(frozen=True)
class BalanceLine:
    """A month's proven rows and money, the same in all `tables`."""

    feed: str
    month: str
    rows: int
    amount: Decimal
    tables: tuple[str, ...]


@dataclass(frozen=True)
class MartLine:
    """A mart as the run left it. `months` counts those written; None is all of the mart.

    `changed` counts the rows that were written to the published table, or those that were removed
    from it if that is more: a row with another value is removed and written, and counts once. It is
    None if the run has not written the table: the mart is held back, or an earlier run wrote it.
    """

    name: str
    rows: int
    months: int | None
    published_as: str | None = None
    published_rows: int | None = None
    changed: int | None = None


@dataclass(frozen=True)
class Restored:
    """Columns that a published table had lost; all its rows have their values again."""

    table: str
    columns: tuple[str, ...]

    @property
    def message(self) -> str:
        """A message that says what was done."""
        lost = "the columns" if len(self.columns) > 1 else "the column"
        return (
            f"table {self.table} had lost {lost} {', '.join(self.columns)}, which somebody renamed"
            " or dropped: added again, with the values of all rows"
        )


@dataclass(frozen=True)
class Held:
    """A mart that stays at its last good state: why, and what to do about it.

    `cause` is the mart that it is held back with; None if it has its own reason.
    """

    mart: str
    message: str
    hint: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class ExportReport:
    """What became of exports. `marts` were exported into `folder`; `latest` shows the newest.

    `removed` are folders of dates and marts that retention has removed, which freed `freed` bytes.
    Those in `announced` stay for now: runs of later dates remove them.
    """

    folder: str
    latest: str
    marts: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    freed: int = 0
    announced: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchReport:
    """What one batch did. `undoes` is the run that it undid, if any; `read_again` counts the files
    that it read again, `rebuilt` are the marts that it was asked to build again.

    `unavailable` are the marts that could not be built because something is missing, and what;
    `held` are those that can't be built or published as they are; `all_refused` are the files whose
    rows were all refused, if their feeds want a report of that. `exports` is None if no mart is
    exported.
    """

    batch_id: int
    recovered: bool
    archived_to: str
    undoes: int | None = None
    files: tuple[FileLine, ...] = ()
    differences: tuple[Difference, ...] = ()
    columns: tuple[ColumnLine, ...] = ()
    unmatched: tuple[UnknownKeys, ...] = ()
    balance: tuple[BalanceLine, ...] = ()
    marts: tuple[MartLine, ...] = ()
    tables: tuple[TableLine, ...] = ()
    healed: tuple[LateKeys, ...] = ()
    agreed: tuple[Agreement, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    all_refused: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    restored: tuple[Restored, ...] = ()
    exports: ExportReport | None = None
    read_again: int = 0
    rebuilt: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftTable:
    """A table that was published for a mart which is not published by this name any more.

    `mart` is None where the ledger does not know which mart it was.
    """

    name: str
    mart: str | None = None

    @property
    def message(self) -> str:
        """A message that says what it is."""
        mart = f"mart {self.mart}" if self.mart else "a mart"
        return f"table {self.name} belongs to {mart}, which is no longer published under this name"

    @property
    def fix(self) -> str:
        """What to do about it."""
        return f"Drop it when you no longer need it: retailmart marts drop {self.name}"


@dataclass(frozen=True)
class UndoneAlready:
    """A run that is undone already: by which run, and when that began, as an ISO time in UTC."""

    run: int
    by: int | None
    at: str | None

    @property
    def message(self) -> str:
        """A message that says so."""
        by = f" by run {self.by}" if self.by is not None else ""
        at = f", {self.at[:16].replace('T', ' ')} UTC" if self.at else ""
        return f"run {self.run} is undone already{by}{at}"


@dataclass(frozen=True)
class LeftOut:
    """A file that a backfill did not read again: why, and what to do; None if it was skipped."""

    path: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class TableMaintenance:
    """What maintenance did to a table, or would do; sizes in bytes.

    `merged` files became `into` files with the same rows. `removed` are files that no version needs
    any more, with entries of the log; of their bytes `freed` are free on the disk now, as the rest
    has another name in an export. `kept` says why older files than usual stay, `left` how many
    files are still to be merged.
    """

    table: str
    files: int
    merged: int = 0
    into: int = 0
    merged_bytes: int = 0
    written_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    freed: int = 0
    log_entries: int = 0
    kept: str | None = None
    left: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.merged or self.removed or self.log_entries or self.left)


@dataclass(frozen=True)
class MartsFileReport:
    """The DuckDB file at `path` was written, with a view for each of so many `marts`.

    `problem` is why it was not; then it shows what it showed before.
    """

    path: str
    marts: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class MaintenanceReport:
    """What maintenance did, or with `dry_run` would do; sizes in bytes.

    `runs` are those that did nothing and left the ledger. `problem` is what maintenance after a run
    failed with; the run itself is right. Of a dry run it is what has to be finished before
    maintenance can be done. `skipped` says why nothing was done. `exports` are folders of dates and
    marts that are too old, `archive` is what the archive let go. `marts_file` is the file of views,
    if it was written again.
    """

    dry_run: bool
    tables: tuple[TableMaintenance, ...] = ()
    runs: int = 0
    seconds: float = 0.0
    problem: str | None = None
    skipped: str | None = None
    exports: tuple[str, ...] = ()
    exports_freed: int = 0
    archive: ArchiveReport | None = None
    marts_file: MartsFileReport | None = None

    @property
    def merged(self) -> int:
        """How many files were merged."""
        return sum(one.merged for one in self.tables)

    @property
    def removed(self) -> int:
        """How many files were removed."""
        return sum(one.removed for one in self.tables)

    @property
    def freed(self) -> int:
        """How many bytes are free now that were not before, without what was written for it."""
        archived = self.archive.freed if self.archive else 0
        return sum(one.freed for one in self.tables) + self.exports_freed + archived

    @property
    def left(self) -> int:
        """How many files are still to be merged."""
        return sum(one.left for one in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        plain = asdict(self)
        for name in ("merged", "removed", "freed", "left"):
            plain[name] = getattr(self, name)
        return plain


@dataclass(frozen=True)
class ArchiveReport:
    """What left the archive because it is older than the setting `keep: archive`: files and bytes.

    `needed` are older versions and duplicates: an undo that would bring them back is refused now.
    """

    removed: int
    freed: int
    needed: int


@dataclass(frozen=True)
class RunReport:
    """What one run did. `seconds` is by step, in the order they ran.

    `unreadable` are source tables that cannot be read correctly, and why: the marts that read them
    stay as they are until that is fixed. `left_tables` are published tables of marts that are gone.
    `expected` says what has not come yet, if the run had nothing to do; `undone_already` is why an
    undo had nothing to do, `idle` why a backfill had. `left_out` are files that a backfill did not
    read again. `maintenance` is what was tidied up after it; a run that brought nothing has none.
    `archive` is what the archive has let go, if anything. `marts_file` is the file of views over
    the marts, if it was to be written. `not_told` are targets of
    alerts, metrics, lineage or the ping that were not told of the run, and why.
    """

    run_id: int
    as_of: datetime
    batches: tuple[BatchReport, ...]
    waiting: tuple[str, ...]
    unreachable: tuple[str, ...]
    seconds: Mapping[str, float]
    lake: str
    database: str
    unreadable: Mapping[str, str] = field(default_factory=dict)
    left_tables: tuple[LeftTable, ...] = ()
    expected: tuple[str, ...] = ()
    undone_already: UndoneAlready | None = None
    idle: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    maintenance: MaintenanceReport | None = None
    archive: ArchiveReport | None = None
    not_told: tuple[str, ...] = ()
    marts_file: MartsFileReport | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the run is not all that it should be: what it holds back or could not take in."""
        held = sorted(self.held, key=lambda one: one.cause is not None)
        refused = self.not_taken if self.took_none else ()
        return (
            *(f"mart {one.mart} is held back: {one.message}" for one in held),
            *(f"table {name} is not read: {why}" for name, why in self.unreadable.items()),
            *(f"{path}: all of its rows are refused" for path in self.all_refused),
            *(f"{one.path}: {one.problem}" for one in refused if one.path not in self.all_refused),
            *(f"{one.path}: {one.message}" for one in self.left_out if one.hint),
        )

    @property
    def took_none(self) -> bool:
        """Whether files had landed, and nothing of any of them was taken in."""
        usual = (batch for batch in self.batches if batch.undoes is None and not batch.read_again)
        landed = [line for batch in usual for line in batch.files]
        return bool(landed) and all(line.problem for line in landed)

    @property
    def not_taken(self) -> tuple[FileLine, ...]:
        """The files of which nothing was taken in: refused as a whole, or in every row."""
        return tuple(line for line in self.files if line.problem)

    @property
    def exit_code(self) -> int:
        """0, or that of NotAllDone: nothing of what was there is passed over as a success."""
        return NotAllDone.exit_code if self.problems else 0

    @property
    def files_by_state(self) -> dict[str, int]:
        """How many files the run brought in, by state; superseded are those that they replace."""
        counts = {state: self.count(state) for state in ("loaded", "duplicate", "refused")}
        usual = (batch for batch in self.batches if batch.undoes is None and not batch.read_again)
        corrected = (len(batch.differences) for batch in usual)
        return {**counts, "superseded": sum(corrected)}

    @property
    def rows_by_fate(self) -> dict[str, int]:
        """How many rows the run's files have: read = loaded + quarantined."""
        fates = {"read": "records", "loaded": "loaded", "quarantined": "quarantined"}
        return {fate: self.rows(column) for fate, column in fates.items()}

    @property
    def nothing_to_do(self) -> bool:
        """Whether landing held nothing new and no mart had changed."""
        return not self.batches

    @property
    def held(self) -> tuple[Held, ...]:
        """The marts that the run leaves held back: each batch tries them again."""
        return self.batches[-1].held if self.batches else ()

    @property
    def files(self) -> tuple[FileLine, ...]:
        """The files of all batches."""
        return tuple(line for batch in self.batches for line in batch.files)

    @property
    def all_refused(self) -> tuple[str, ...]:
        """The files whose rows were all refused, where their feeds say `all_refused: fail`."""
        return tuple(path for batch in self.batches for path in batch.all_refused)

    def count(self, state: str) -> int:
        """How many of the run's files are in a state."""
        return sum(line.state == state for line in self.files)

    def rows(self, what: str) -> int:
        """The run's `records`, `loaded` or `quarantined` rows."""
        return sum(getattr(line, what) or 0 for line in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values; money and times as text."""
        plain = asdict(self)
        plain["nothing_to_do"] = self.nothing_to_do
        plain["files"] = self.files_by_state
        plain["rows"] = self.rows_by_fate
        plain["held"] = [asdict(one) for one in self.held]
        plain["problems"] = list(self.problems)
        plain["exit_code"] = self.exit_code
        plain["balanced"] = True  # a run that does not balance raises and has no report
        return plain


@dataclass(frozen=True)
class Alert:
    """Something that is not well: `kind` and `subject` name it, as refused and a file's path.

    Times are ISO texts in UTC; `closed_at` is None while it lasts.
    """

    kind: str
    subject: str
    message: str
    hint: str | None = None
    opened_at: str = ""
    closed_at: str | None = None
    alert_id: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same alert in a later run."""
        return self.kind, self.subject


@dataclass(frozen=True)
class Contrast:
    """Where two groups of sides differ; the sides within a group are equal.

    `columns` are those that differ anywhere. `row` is the first row that differs, identified by its
    key or by its equal columns; `values` are both groups' texts in it, by column, None for NULL. If
    only one group has the row, `only_in` is that group. If columns are not of one type, `types` has
    both groups' by column, None for a group that lacks it, and no row is searched.
    """

    sides: tuple[str, ...]
    others: tuple[str, ...]
    columns: tuple[str, ...]
    row: Mapping[str, str | None] = field(default_factory=dict)
    values: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    only_in: tuple[str, ...] = ()
    types: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A table as each side has it: rows by side, digests by column and side.

    `as_of` is what a mart was computed for. `left_out` says why the lake's own was not compared.
    """

    table: str
    rows: Mapping[str, int]
    digests: Mapping[str, Mapping[str, str]]
    contrasts: tuple[Contrast, ...] = ()
    as_of: datetime | None = None
    left_out: str | None = None

    @property
    def equal(self) -> bool:
        """Whether all sides have the same rows."""
        return not self.contrasts


@dataclass(frozen=True)
class VerifyReport:
    """What engines make of the lake's data, compared with each other and with the lake's tables.

    `deliveries` are by run and table, `skipped` maps files that were not parsed again → why,
    `unavailable` marts → what they lack. `seconds` is by step.
    """

    engines: tuple[str, ...]
    marts: tuple[Comparison, ...]
    deliveries: tuple[tuple[int, Comparison], ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def different(self) -> tuple[Comparison, ...]:
        """The tables of which not all sides have the same rows."""
        deliveries = (comparison for _, comparison in self.deliveries)
        return tuple(one for one in (*self.marts, *deliveries) if not one.equal)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "equal": not self.different,
            "engines": self.engines,
            "marts": [asdict(one) | {"equal": one.equal} for one in self.marts],
            "deliveries": [
                {"run": run} | asdict(one) | {"equal": one.equal} for run, one in self.deliveries
            ],
            "skipped": dict(self.skipped),
            "unavailable": dict(self.unavailable),
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True)
class TableComparison:
    """A published table compared with the version of its mart that it shows.

    `table_only` and `mart_only` count the rows that only one side has; the first few of each, by
    the mart's key, are in `table_first` and `mart_first`, all values as texts. `problem` says why
    rows could not be compared although they should be, for example because the table does not
    exist; `left_out` says why there is nothing to compare with. With `held`, the mart is held back
    at this version.
    """

    mart: str
    table: str | None
    key: tuple[str, ...] = ()
    rows: int | None = None
    mart_rows: int | None = None
    table_only: int = 0
    mart_only: int = 0
    table_first: tuple[Mapping[str, str | None], ...] = ()
    mart_first: tuple[Mapping[str, str | None], ...] = ()
    problem: str | None = None
    left_out: str | None = None
    held: bool = False

    @property
    def equal(self) -> bool:
        """Whether the table shows the mart's rows, as far as there is something to compare."""
        return not (self.problem or self.table_only or self.mart_only)


@dataclass(frozen=True)
class DatabaseReport:
    """The published tables compared with the marts in the lake. `seconds` is by step."""

    tables: tuple[TableComparison, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def different(self) -> tuple[TableComparison, ...]:
        """The tables that do not show the rows of their marts."""
        return tuple(one for one in self.tables if not one.equal)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "equal": not self.different,
            "tables": [asdict(one) | {"equal": one.equal} for one in self.tables],
            "seconds": dict(self.seconds),
        }


class Progress(Protocol):
    """Receives the progress of a run."""

    def began(self, step: str) -> None: ...
    def message(self, step: str, message: str) -> None: ...
    def ended(self, step: str, seconds: float) -> None: ...


class Silent:
    """Ignores all progress."""

    def began(self, step: str) -> None: ...
    def message(self, step: str, message: str) -> None: ...
    def ended(self, step: str, seconds: float) -> None: ...
