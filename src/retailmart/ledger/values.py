"""The ledger's records, as frozen values."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from decimal import Context, Decimal
from enum import Enum
from typing import Any, Final


class FileState(Enum):
    """The state of a delivered file."""

    ACTIVE = "active"
    LOADED = "loaded"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    UNDONE = "undone"
    RELEASED = "released"


# States of files and runs that people know by another word than the ledger's tables have.
STATE_WORDS = {"released": "abandoned", "killed": "cut off"}


class BatchState(Enum):
    """The progress of a batch: each state is reached in one transaction, and never reverted.

    active: staged, nothing committed. prepared: all files written, the commits are decided.
    committed: the lake holds it. published: the database holds it. done: archived. abandoned: a
    check refused it before anything was committed.
    """

    ACTIVE = "active"
    PREPARED = "prepared"
    COMMITTED = "committed"
    PUBLISHED = "published"
    DONE = "done"
    ABANDONED = "abandoned"


# The usual context rounds at 28 digits, and raises for a mart's infinite float.
_EXACT = Context(prec=100, traps=[])


@dataclass(frozen=True, slots=True)
class Totals:
    """A number of rows, and their sum of money."""

    rows: int = 0
    amount: Decimal = Decimal(0)

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.rows + other.rows, _EXACT.add(self.amount, other.amount))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(self.rows - other.rows, _EXACT.subtract(self.amount, other.amount))


MonthTotals = Mapping[str, Totals]


def name_hash(path: str) -> str:
    """A hash that is equal for names that differ only in letter case, Unicode form or `.gz`."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
    return hashlib.sha256(plain.removesuffix(".gz").encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file as it is staged. `sha256` is of its unpacked content, `size` of the file in bytes.

    `version` is the store's identifier for this exact content under this name.
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


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A file as the ledger records it."""

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
        """The path for a message: a line end in it must not look like the end of the message."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.path)


@dataclass(frozen=True)
class Batch:
    """A set of files that enters all tables together. `stamp` names its archive folder.

    `undoes` is the run whose files leave with this batch, if it undoes one.
    """

    batch_id: int
    run_id: int
    as_of: datetime
    stamp: str
    state: BatchState
    undoes: int | None = None


@dataclass(frozen=True)
class Again:
    """What a batch does again: the keys of counted files that it reads, marts that it rebuilds."""

    files: tuple[int, ...] = ()
    marts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.marts)


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """The outcome of one loaded file; records = loaded + quarantined.

    `origins` are the refused rows that it replayed: the file and line that each came from. `amount`
    is the money of its loaded rows, None for a feed without `balance`. `again` counts the
    quarantined rows that had been refused before, in other files.
    """

    file_id: int
    records: int
    loaded: int
    quarantined: int
    warned: Mapping[str, int] = field(default_factory=dict)
    months: MonthTotals = field(default_factory=dict)
    origins: tuple[tuple[int, int], ...] = ()
    amount: Decimal | None = None
    again: int = 0


@dataclass(frozen=True)
class CountedBy:
    """The columns by which a table is counted: each row's month, and its money.

    `files` are the months of a raw table's files that were loaded before and are counted again by
    these columns.
    """

    table: str
    month: str | None
    balance: str | None
    files: Mapping[int, MonthTotals] = field(default_factory=dict)

    def is_as(self, other: CountedBy | None) -> bool:
        """Whether both count by the same columns; None is unknown."""
        return other is not None and (self.month, self.balance) == (other.month, other.balance)


@dataclass(frozen=True)
class SourceRecord:
    """The ledger's record of a source table as it is in the lake.

    `definition` is how it was read, `version` its database's version at that time, `position` the
    position of its cursor. `collation` is a single text key and how its database compares it, as in
    `sku NOCASE`.
    """

    name: str
    digest: str
    definition: str | None = None
    version: str | None = None
    position: str | None = None
    collation: str | None = None

    @property
    def key_collation(self) -> tuple[str, str] | None:
        """The column and its collation; None if bytes are compared."""
        if self.collation is None:
            return None
        column, _, collation = self.collation.rpartition(" ")
        return column, collation

    @property
    def source(self) -> str | None:
        """The source it was read from, if its version says so."""
        return self.version.partition("=")[0] if self.version else None


@dataclass(frozen=True)
class SchemaColumn:
    """A column of a raw table; types as text.

    `defined` is the type in the feed's file, None for a column that only delivered files have;
    `aliases` are its names in those files.
    """

    name: str
    type: str
    defined: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnChange:
    """A new column (`before` is None) or a changed type, and the file that caused it."""

    column: str
    before: str | None
    after: str
    cause: str


@dataclass(frozen=True)
class Schema:
    """A raw table's columns after a batch, and how they differ from before."""

    table: str
    columns: tuple[SchemaColumn, ...]
    changes: tuple[ColumnChange, ...] = ()

    @property
    def is_new(self) -> bool:
        """Whether the table had no columns before."""
        return {change.column for change in self.changes if change.before is None} >= {
            column.name for column in self.columns
        }


@dataclass(frozen=True)
class SchemaRecord:
    """A raw table's columns from a run on. `changed_at` is an ISO time in UTC."""

    schema: Schema
    batch_id: int
    run_id: int
    changed_at: str


# Prefix of the fingerprint of a mart that could not be built: it had nothing to be built from.
UNAVAILABLE: Final = "-"
# Prefix of the fingerprint of a mart that is held back: it is not what this definition makes of
# today's rows, so each batch builds it again, from all of them.
HELD: Final = "!"


def definition_of(fingerprint: str | None) -> str | None:
    """A fingerprint without its day: what decides how a published table is laid out.

    None if it is of a mart that could not be built, or is held back.
    """
    if not fingerprint or fingerprint.startswith((UNAVAILABLE, HELD)):
        return None
    return fingerprint.partition("@")[0]


# The notes that `status --run` and the report show.
_SHOWN = ("marts", "held", "unavailable", "differences", "healed", "unmatched", "balance")


@dataclass(frozen=True)
class Outcome:
    """The effects of a prepared batch once it is committed and published.

    `balances` maps table → month → totals and replaces the ledger's values for these months.
    `marts` maps mart → fingerprint of the definition it was built with, `sources` maps source table
    → what was read of it. `notes` are figures for people. `returned` are files that count again,
    because their replacements are undone. `counted` says how tables are counted.
    """

    files: tuple[FileOutcome, ...] = ()
    balances: Mapping[str, MonthTotals] = field(default_factory=dict)
    marts: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    schemas: tuple[Schema, ...] = ()
    returned: tuple[int, ...] = ()
    counted: tuple[CountedBy, ...] = ()

    def of_done(self, committed: Collection[str]) -> Outcome:
        """What is kept of a batch that is done; tables of their own have all else.

        `status --run` shows the most of it; an undo asks for how the source tables were that the
        batch has `committed`.
        """
        warned = (
            replace(file, months={}, origins=(), amount=None) for file in self.files if file.warned
        )
        return Outcome(
            files=tuple(warned),
            sources={name: one for name, one in self.sources.items() if name in committed},
            notes={name: self.notes[name] for name in _SHOWN if self.notes.get(name)},
            schemas=tuple(one for one in self.schemas if one.changes and not one.is_new),
        )

    def to_json(self) -> str:
        """A text that `from_json` reads back; money as text."""
        rest = json.dumps(asdict(replace(self, files=())), default=str, separators=(",", ":"))
        # One by one: as plain values, very many files would take much more memory.
        files = (json.dumps(asdict(f), default=str, separators=(",", ":")) for f in self.files)
        return rest.replace('{"files":[]', f'{{"files":[{",".join(files)}]', 1)

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
                        "amount": Decimal(said) if (said := file.get("amount")) else None,
                    }
                )
                for file in plain["files"]
            ),
            balances={table: _months(months) for table, months in plain["balances"].items()},
            marts=plain["marts"],
            sources={name: _source(name, said) for name, said in plain["sources"].items()},
            notes=plain["notes"],
            schemas=tuple(read_schema(**one) for one in plain.get("schemas", ())),
            returned=tuple(plain.get("returned", ())),
            counted=tuple(
                CountedBy(**{**one, "files": {int(k): _months(m) for k, m in one["files"].items()}})
                for one in plain.get("counted", ())
            ),
        )


def _source(name: str, said: Any) -> SourceRecord:
    """A source from JSON. A batch that an earlier release prepared has only the digest."""
    return SourceRecord(name, said) if isinstance(said, str) else SourceRecord(**said)


def read_schema(
    table: str, columns: Iterable[Mapping[str, Any]], changes: Iterable[Mapping[str, Any]]
) -> Schema:
    """A schema that was stored as JSON."""
    return Schema(
        table,
        tuple(SchemaColumn(**{**one, "aliases": tuple(one["aliases"])}) for one in columns),
        tuple(ColumnChange(**one) for one in changes),
    )


def _months(plain: Mapping[str, Any]) -> dict[str, Totals]:
    return {m: Totals(t["rows"], Decimal(t["amount"])) for m, t in plain.items()}


@dataclass(frozen=True)
class MartRecord:
    """The ledger's record of a mart: how it was last built, and what the database shows.

    It was last built for the moment `built_as_of` by the definition `built_by`; `fingerprint` also
    says whether a later batch should have built it, but could not. `published_version` is the
    lake's version whose rows the database holds, under `published_as`, built by the definition
    `published_fingerprint`.
    """

    name: str
    fingerprint: str | None = None
    published_as: str | None = None
    published_version: int | None = None
    published_fingerprint: str | None = None
    built_as_of: datetime | None = None
    built_by: str | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the last batch should have built it, but could not."""
        return bool(self.fingerprint) and definition_of(self.fingerprint) is None


@dataclass(frozen=True)
class PublishedTable:
    """A table that this project has published: its mart, and the lake's version.

    Ledgers of earlier releases do not know both for every table.
    """

    name: str
    mart: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """One past run, for `status`. `failed_step` is the step in which it failed, if in any.

    `exit_code` is None while it works, if it was cut off, and for runs of earlier releases.
    """

    run_id: int
    started_at: str
    finished_at: str | None
    as_of: str
    state: str
    message: str | None
    exit_code: int | None = None
    failed_step: str | None = None
