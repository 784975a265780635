"""What a run tells: one frozen value that people's summary and `--output json` both come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol


@dataclass(frozen=True)
class FileLine:
    """One file of the run and what became of it."""

    path: str
    state: str
    message: str | None = None
    records: int | None = None
    loaded: int | None = None
    quarantined: int | None = None
    warned: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """What a corrected file changed against the version it supersedes."""

    path: str
    rows: int
    amount: Decimal


@dataclass(frozen=True)
class Unmatched:
    """Rows whose key is not in the table it references; they are kept, without its columns."""

    column: str
    table: str
    keys: int
    rows: int


@dataclass(frozen=True)
class Healed:
    """Rows of earlier runs whose key has come late: their months show its columns from now on.

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
    """A column of a raw table that is new (`before` is None) or of another type, and by what."""

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
    """A mart as the run left it. `months` counts those written; None is all of the mart."""

    name: str
    rows: int
    months: int | None
    published_as: str | None = None
    published_rows: int | None = None
    changed: int | None = None


@dataclass(frozen=True)
class BatchReport:
    """What one batch did. `undoes` is the run that it took back, if it did.

    `unavailable` are the marts that could not be built for want of something, and what.
    """

    batch_id: int
    recovered: bool
    archived_to: str
    undoes: int | None = None
    files: tuple[FileLine, ...] = ()
    differences: tuple[Difference, ...] = ()
    columns: tuple[ColumnLine, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()
    balance: tuple[BalanceLine, ...] = ()
    marts: tuple[MartLine, ...] = ()
    tables: tuple[TableLine, ...] = ()
    healed: tuple[Healed, ...] = ()
    agreed: tuple[Agreement, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """What one run did. `seconds` is by step, in the order they ran."""

    run_id: int
    as_of: datetime
    batches: tuple[BatchReport, ...]
    waiting: tuple[str, ...]
    unreachable: tuple[str, ...]
    seconds: Mapping[str, float]
    lake: str
    database: str

    @property
    def nothing_to_do(self) -> bool:
        """Whether landing held nothing new and no mart had changed."""
        return not self.batches

    @property
    def files(self) -> tuple[FileLine, ...]:
        """The files of all batches."""
        return tuple(line for batch in self.batches for line in batch.files)

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
        plain["files"] = {
            state: self.count(state) for state in ("loaded", "duplicate", "refused", "superseded")
        }
        plain["files"]["superseded"] = sum(
            len(batch.differences) for batch in self.batches if batch.undoes is None
        )
        plain["rows"] = {
            "read": self.rows("records"),
            "loaded": self.rows("loaded"),
            "quarantined": self.rows("quarantined"),
        }
        plain["balanced"] = True  # a run that does not balance raises and has no report
        return plain


@dataclass(frozen=True)
class Contrast:
    """Where two groups of sides part, each of sides that are alike.

    `columns` are those that differ anywhere. `row` is the first row that does, told by its key or
    by what is alike; `values` are both groups' texts in it, by column, None for NULL. Where only
    one group has the row, `only_in` is that one; where columns are not of one type, `types` has
    both groups' by column, None for one that lacks it, and no row is looked for.
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

    `as_of` is what a mart was computed for. `left_out` tells why the lake's own was not compared.
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
    """What engines make of the lake's data, against each other and against what lies there.

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


class Watch(Protocol):
    """Somebody who watches a run go by."""

    def began(self, step: str) -> None: ...
    def note(self, step: str, words: str) -> None: ...
    def ended(self, step: str, seconds: float) -> None: ...


class Silent:
    """Nobody watches."""

    def began(self, step: str) -> None: ...
    def note(self, step: str, words: str) -> None: ...
    def ended(self, step: str, seconds: float) -> None: ...
