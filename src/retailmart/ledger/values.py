"""What the ledger remembers, as frozen values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any


class FileState(Enum):
    """Where a delivered file stands."""

    ACTIVE = "active"
    LOADED = "loaded"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    UNDONE = "undone"
    RELEASED = "released"


class BatchState(Enum):
    """How far a batch has come. Each state is reached in one transaction and never left backwards.

    active: staged, nothing committed. prepared: all files written, the commits are decided.
    committed: the lake holds it. published: the database holds it. done: archived.
    abandoned: a gate refused it before anything was committed.
    """

    ACTIVE = "active"
    PREPARED = "prepared"
    COMMITTED = "committed"
    PUBLISHED = "published"
    DONE = "done"
    ABANDONED = "abandoned"


@dataclass(frozen=True)
class Totals:
    """Rows and money of something."""

    rows: int = 0
    amount: Decimal = Decimal(0)

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.rows + other.rows, self.amount + other.amount)

    def __sub__(self, other: Totals) -> Totals:
        return Totals(self.rows - other.rows, self.amount - other.amount)


MonthTotals = Mapping[str, Totals]


@dataclass(frozen=True)
class NewFile:
    """A file as it is staged. `sha256` is of its unpacked content, `size` of the file in bytes.

    `version` is the store's word for this very content under this name.
    """

    path: str
    sha256: str
    size: int
    version: str
    state: FileState
    feed: str | None = None
    folder: str | None = None
    message: str | None = None
    supersedes: int | None = None


@dataclass(frozen=True)
class LedgerFile:
    """A file as the ledger knows it."""

    file_id: int
    batch_id: int
    path: str
    sha256: str
    size: int
    version: str
    state: FileState
    feed: str | None
    folder: str | None
    message: str | None
    supersedes: int | None
    records: int | None = None
    loaded: int | None = None
    quarantined: int | None = None

    @property
    def shown(self) -> str:
        """The path in a message: a line end in it must not look like the end of the message."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.path)


@dataclass(frozen=True)
class Batch:
    """A set of files that enters all tables together. `stamp` names its archive folder.

    `undoes` is the run whose files leave with this batch, if it takes one back.
    """

    batch_id: int
    run_id: int
    as_of: datetime
    stamp: str
    state: BatchState
    undoes: int | None = None


@dataclass(frozen=True)
class FileOutcome:
    """What came of one loaded file; records = loaded + quarantined.

    `origins` are the refused rows that it brought back: the file and line each came from.
    """

    file_id: int
    records: int
    loaded: int
    quarantined: int
    warned: Mapping[str, int] = field(default_factory=dict)
    months: MonthTotals = field(default_factory=dict)
    origins: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class SourceRecord:
    """What the ledger knows of a source table as it lies in the lake.

    `definition` is how it was read, `version` what its source's database was then, `position`
    where its cursor stands.
    """

    name: str
    digest: str
    definition: str | None = None
    version: str | None = None
    position: str | None = None

    @property
    def source(self) -> str | None:
        """Which source it was read from, where its version tells."""
        return self.version.partition("=")[0] if self.version else None


@dataclass(frozen=True)
class SchemaColumn:
    """A column of a raw table; types as text.

    `defined` is the type that the feed's file says, None for a column that only files brought;
    `aliases` are the names under which they did.
    """

    name: str
    type: str
    defined: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnChange:
    """A column that is new (`before` is None) or of another type, and the file that made it so."""

    column: str
    before: str | None
    after: str
    cause: str


@dataclass(frozen=True)
class Schema:
    """A raw table's columns as a batch leaves them, and how they differ from what they were."""

    table: str
    columns: tuple[SchemaColumn, ...]
    changes: tuple[ColumnChange, ...] = ()

    @property
    def is_new(self) -> bool:
        """Whether the table had no column before."""
        return {change.column for change in self.changes if change.before is None} >= {
            column.name for column in self.columns
        }


@dataclass(frozen=True)
class SchemaRecord:
    """A raw table's columns as they are from a run on. `changed_at` is an ISO time in UTC."""

    schema: Schema
    batch_id: int
    run_id: int
    changed_at: str


@dataclass(frozen=True)
class Outcome:
    """What a prepared batch will make true once it is committed and published.

    `balances` maps table → month → totals and replaces what the ledger held for these months.
    `marts` maps mart → fingerprint of the definition it was built with, `sources` maps source
    table → what was read of it. `notes` are figures for people.
    """

    files: tuple[FileOutcome, ...] = ()
    balances: Mapping[str, MonthTotals] = field(default_factory=dict)
    marts: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    schemas: tuple[Schema, ...] = ()

    def to_json(self) -> str:
        """A text that `from_json` reads back; money as text."""
        return json.dumps(asdict(self), default=str, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that `to_json` wrote."""
        plain = json.loads(text)
        return cls(
            files=tuple(
                FileOutcome(
                    **{
                        **file,
                        "months": _months(file["months"]),
                        "origins": tuple((at[0], at[1]) for at in file.get("origins", ())),
                    }
                )
                for file in plain["files"]
            ),
            balances={table: _months(months) for table, months in plain["balances"].items()},
            marts=plain["marts"],
            sources={name: _source(name, said) for name, said in plain["sources"].items()},
            notes=plain["notes"],
            schemas=tuple(read_schema(**one) for one in plain.get("schemas", ())),
        )


def _source(name: str, said: Any) -> SourceRecord:
    """A batch that an earlier release has prepared tells the digest alone."""
    return SourceRecord(name, said) if isinstance(said, str) else SourceRecord(**said)


def read_schema(
    table: str, columns: Iterable[Mapping[str, Any]], changes: Iterable[Mapping[str, Any]]
) -> Schema:
    """A schema that was kept as JSON."""
    return Schema(
        table,
        tuple(SchemaColumn(**{**one, "aliases": tuple(one["aliases"])}) for one in columns),
        tuple(ColumnChange(**one) for one in changes),
    )


def _months(plain: Mapping[str, Any]) -> dict[str, Totals]:
    return {m: Totals(t["rows"], Decimal(t["amount"])) for m, t in plain.items()}


@dataclass(frozen=True)
class MartRecord:
    """What the ledger knows of a mart: how it was built last, and what the database shows.

    `published_version` is the lake's version whose rows the database holds, under
    `published_as`, built by the definition `published_fingerprint`.
    """

    name: str
    fingerprint: str | None = None
    published_as: str | None = None
    published_version: int | None = None
    published_fingerprint: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """One past run, for `status`."""

    run_id: int
    started_at: str
    finished_at: str | None
    as_of: str
    state: str
    message: str | None
