"""How the columns of raw tables came to be, and where definition, raw and landing differ now."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retailmart.errors import RetailmartError
from retailmart.feeds.evolve import Divergence, compare, unknown
from retailmart.files.check import as_written, format_of
from retailmart.files.checked import Layout, Refusal
from retailmart.files.header import read_header
from retailmart.files.records import records
from retailmart.lake.layout import raw_name, raw_table
from retailmart.ledger.values import ColumnChange, SchemaRecord
from retailmart.project import Feed, Project
from retailmart.project.documents import did_you_mean
from retailmart.session import open_lake, open_ledger, store_at
from retailmart.storage import Entry, EntryKind, Store

# No header is longer; a file whose first line does not fit is left to the run.
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class SchemaStep:
    """The columns of a feed's raw table that a batch changed. `changed_at` is an ISO time in UTC.

    With `is_new`, the batch created the table.
    """

    feed: str
    run: int
    batch: int
    changed_at: str
    is_new: bool
    changes: tuple[ColumnChange, ...]


@dataclass(frozen=True)
class SchemaHistory:
    """What changed in raw tables, oldest first."""

    history: tuple[SchemaStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """The history as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class WaitingFile:
    """A file in landing, by its header: what it brings and lacks, or why it would be refused."""

    path: str
    new: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class FeedDiff:
    """A feed with all columns of its raw table, where its file and raw differ, and what waits.

    `has_table` is False before the first file.
    """

    feed: Feed
    has_table: bool
    columns: tuple[Divergence, ...]
    files: tuple[WaitingFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The differences as plain values."""
        return {
            "feed": self.feed.name,
            "has_table": self.has_table,
            "columns": [asdict(column) for column in self.columns],
            "files": [asdict(file) for file in self.files],
        }


@dataclass(frozen=True)
class SchemaDiff:
    """Each feed as its file, raw and landing have it."""

    feeds: tuple[FeedDiff, ...]

    def to_dict(self) -> dict[str, Any]:
        """The differences as plain values."""
        return {"feeds": [feed.to_dict() for feed in self.feeds]}


def schema_history(project: Project, feed: str | None = None) -> SchemaHistory:
    """What changed when, in which run, and which file caused it; of one feed or of all.

    A feed that the project no longer has is known, too. Raises RetailmartError for an unknown one.
    """
    with open_ledger(project) as ledger:
        steps = [_step(record) for record in ledger.schemas.all()]
    chosen = _chosen(feed, {*project.feeds, *(step.feed for step in steps)})
    return SchemaHistory(tuple(step for step in steps if step.feed in chosen and step.changes))


def schema_diff(project: Project, feed: str | None = None) -> SchemaDiff:
    """Where definition and raw differ now, and what files in landing would change.

    Of one feed or of all. Raises RetailmartError for an unknown feed.
    """
    chosen = _chosen(feed, project.feeds)
    return SchemaDiff(tuple(one for one in _differences(project) if one.feed.name in chosen))


def _step(record: SchemaRecord) -> SchemaStep:
    return SchemaStep(
        raw_name(record.schema.table),
        record.run_id,
        record.batch_id,
        record.changed_at,
        record.schema.is_new,
        record.schema.changes,
    )


def _chosen(name: str | None, known: Iterable[str]) -> list[str]:
    names = list(known)
    if name is None:
        return names
    if name not in names:
        raise RetailmartError(f"there is no feed {name!r}{did_you_mean(name, names)}")
    return [name]


def _differences(project: Project) -> Iterator[FeedDiff]:
    feeds, lake = project.feeds, open_lake(project)
    landing = store_at(project, project.settings.landing)
    waiting: dict[str, list[Entry]] = {}
    for entry in landing.entries() if landing.is_there() else ():
        claimed = next((feed.name for feed in feeds.values() if feed.matches(entry.path)), "")
        waiting.setdefault(claimed, []).append(entry)
    with open_ledger(project) as ledger:
        for name, feed in feeds.items():
            state, known = lake.state(raw_table(name)), ledger.schemas.current(raw_table(name))
            whole, columns = feed, list[Divergence]()
            if state is not None:
                whole, columns = compare(feed, state.fields, known.columns if known else ())
            files = (_by_header(landing, entry, whole) for entry in waiting.get(name, ()))
            found = tuple(file for file in files if file is not None)
            yield FeedDiff(whole, state is not None, tuple(columns), found)


def _by_header(landing: Store, entry: Entry, feed: Feed) -> WaitingFile | None:
    """None for a file whose header can't be read, or that brings just what the feed names."""
    layout = _header(landing, entry, feed)
    if layout is None:
        return None
    if isinstance(layout, Refusal):
        return WaitingFile(entry.path, refused=layout.message)
    wanted = (column.name for column in feed.columns if column.folder is None)
    missing = tuple(column for column in wanted if column not in layout.columns)
    new = tuple(name for _, name in unknown(feed, layout))
    return WaitingFile(entry.path, new, missing) if new or missing else None


def _header(landing: Store, entry: Entry, feed: Feed) -> Layout | Refusal | None:
    packed = entry.path.lower().endswith(".gz")
    if entry.kind is not EntryKind.FILE:
        return None
    if format_of(entry.path) != "csv":
        return None  # only all of its records say which columns it has
    with TemporaryDirectory() as folder, landing.open(entry) as stream:
        head = Path(folder) / "head"
        try:
            source = gzip.GzipFile(fileobj=stream) if packed else stream
            head.write_bytes(source.read(_LONGEST_HEADER))
            feed = as_written(head, feed)
            first = next(records(head, feed), None)
        except (OSError, EOFError, zlib.error, UnicodeError):
            return None  # the run says what is wrong with it
    return read_header(first, feed) if first and feed.header else None
