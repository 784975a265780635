"""The lake: Delta tables in a folder or bucket. Engines write files; only this package commits."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from retailmart.errors import RetailmartError, Unavailable
from retailmart.lake.places import Place, place_of
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Field, TableChange, TableState

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema

__all__ = ["Lake", "is_ours", "place_of"]

# Each table has one application transaction id, in every commit; it records the latest batch.
_TRANSACTION_ID = "retailmart"
# The key for the batch in a commit's own metadata.
_BATCH = "retailmart_batch"
# The key in a commit that changed no row: its files hold the rows of those which they replace.
_MAINTENANCE = "retailmart_maintenance"
# A table is opened from its last checkpoint and later entries: in a bucket, a request each.
_CHECKPOINT_EVERY = 10
# How long a table's log remembers which files left it; without it, a week.
_REMEMBERED = "delta.deletedFileRetentionDuration"
_A_WEEK = "interval 7 days"
_DELTA_NAMES = {
    "INT": "integer",
    "BIGINT": "long",
    "STRING": "string",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "BOOLEAN": "boolean",
    "DOUBLE": "double",
}
_NAME = re.compile(r"b(\d{8})-f(\d{4,})-")
_OF_MAINTENANCE = re.compile(r"m(\d{8,})-")
_UNREACHABLE = ("Generic S3 error", "error sending request", "HTTP error")
_OUR_NAMES = {delta: name for name, delta in _DELTA_NAMES.items()}


@dataclass(frozen=True)
class Lake:
    """Tables in one location, each named by its path: `raw/sales`, `marts/sales_mart`.

    `fence` is the writer's fencing token. A run that was stopped and resumes late cannot overwrite
    the files of the run that replaced it, because no two fencing tokens share a file name.
    """

    place: Place
    fence: int = 0
    # A table that was opened once is only updated later: a bucket is asked for new log entries
    # only.
    _opened: dict[str, DeltaTable] = field(default_factory=dict, compare=False, repr=False)
    # A version never changes, and a run asks for the same ones in several steps.
    _states: dict[tuple[str, int], TableState] = field(
        default_factory=dict, compare=False, repr=False
    )
    _changed: set[str] = field(default_factory=set, compare=False, repr=False)

    def folder(self, table: str) -> Path:
        """The folder where engines read and write a table's files."""
        return self.place.workspace / table

    def state(self, table: str, version: int | None = None) -> TableState | None:
        """A table now, or at `version`; None if it does not exist (any more)."""
        if version is not None and (known := self._states.get((table, version))) is not None:
            return known
        handle = self._opened_at(table, version) or self._open(table, version)
        if handle is None:
            return None
        asked = (table, int(handle.version()))
        if asked not in self._states:
            with self._translate_errors():
                self._states[asked] = _state(handle, self.folder(table))
        return self._states[asked]

    def version(self, table: str) -> int | None:
        """The number of the table's last commit."""
        handle = self._open(table)
        return handle.version() if handle else None

    def batches(self, table: str) -> list[tuple[int, int | None]]:
        """The versions of a table, oldest first, with the batch of each.

        None marks a commit that belongs to no batch: maintenance merged files, or someone else
        compacted the table.
        """
        handle = self._open(table)
        if handle is None:
            return []
        with self._translate_errors():
            entries = handle.history()
        marked = [(int(one["version"]), one.get(_BATCH)) for one in reversed(entries)]
        return [(version, None if mark is None else int(mark)) for version, mark in marked]

    def has_files(self, table: str, state: TableState) -> bool:
        """Whether all files of a version still exist: a vacuum removes those of old versions."""
        folder = self.folder(table)
        if all((folder / file.path).exists() for file in state.files):
            return True  # in a bucket: also files that were fetched earlier
        there = set(self.place.data_files(table))
        return all(file.path in there for file in state.files)

    def persist(self, change: TableChange) -> None:
        """Persist an engine's files for a change, so that they survive this machine."""
        self.place.persist(change.table, change.adds)

    def commit(self, change: TableChange, batch_id: int) -> int:
        """Apply a change exactly once for this batch; return the table's version.

        A repeated call finds the batch in the table's application transaction id and does nothing.
        The same handle checks and commits, so another commit in between is a conflict and not a
        double count.
        """
        handle = self._open(change.table) or self._create(change)
        self._changed.add(change.table)
        if not self._holds(handle, batch_id):
            self._apply(handle, change, _of_batch(batch_id), lambda h: self._holds(h, batch_id))
        done = self._open(change.table)
        if done is None or not self._holds(done, batch_id):
            raise RetailmartError(f"the commit of batch {batch_id} to {change.table} is not there")
        self.place.persist_log(change.table, done.version())
        return int(done.version())

    def merge(self, change: TableChange, version: int) -> int:
        """Let files take the place of others that hold the same rows; return the table's version.

        `version` is the one that the rows were read from: if another commit came in between, this
        raises RetailmartError and changes nothing. The commit names no batch: those that the table
        holds stay as they are.
        """
        handle = self._open(change.table)
        if handle is None or handle.version() != version:
            raise RetailmartError(
                f"{change.table} was changed by another program meanwhile; it stays as it is",
                "Try again: retailmart maintain",
            )

        def is_done(found: DeltaTable) -> bool:
            with self._translate_errors():
                there = {file.path for file in _state(found, self.folder(change.table)).files}
            return all(file.path in there for file in change.adds)

        self._apply(handle, change, {_MAINTENANCE: str(self.fence)}, is_done)
        done = self._open(change.table)
        if done is None or not is_done(done):
            raise RetailmartError(f"the merged files of {change.table} are not in its log")
        self.place.persist_log(change.table, done.version())
        return int(done.version())

    def is_only_maintained(self, table: str, since: int, version: int) -> bool:
        """Whether all commits after the version `since`, up to `version`, changed no row."""
        handle = self._open(table)
        if handle is None or not since < version:
            return since == version
        with self._translate_errors():
            entries = handle.history(int(handle.version()) - since)
        marked = {int(one["version"]) for one in entries if one.get(_MAINTENANCE) is not None}
        return marked >= set(range(since + 1, version + 1))

    @property
    def changed(self) -> frozenset[str]:
        """The tables that batches were committed to through this object."""
        return frozenset(self._changed)

    def checkpoint(self, table: str) -> int | None:
        """Write a checkpoint of the table as it is, and persist it. Returns its version."""
        handle = self._open(table)
        if handle is None:
            return None
        with self._translate_errors():
            handle.create_checkpoint()
        self.place.persist_log(table, handle.version())
        return int(handle.version())

    def can_open(self, table: str, version: int) -> bool:
        """Whether the log still gives this version; what is known of it already is not asked."""
        return self._open_new(table, version) is not None

    def dead_files(self, table: str, hours: float, *, logged: bool = False) -> list[str]:
        """Data files that left the table so many hours ago, and older ones that never were in it.

        With `logged` only those of which the log still says that they left it.
        """
        handle = self._open(table)
        if handle is None:
            return []
        with self._translate_errors():
            return handle.vacuum(
                retention_hours=math.ceil(hours),
                dry_run=True,
                enforce_retention_duration=False,
                full=not logged,
            )

    def remember_removed(self, table: str, days: int) -> bool:
        """Let the log remember for so many days which files left the table; whether that is new.

        All that it remembers is read whenever the table is opened.
        """
        from deltalake.transaction import CommitProperties

        handle = self._open(table)
        if handle is None:
            return False
        value = f"interval {days} days"
        with self._translate_errors():
            if handle.metadata().configuration.get(_REMEMBERED, _A_WEEK) == value:
                return False
            handle.alter.set_table_properties(
                {_REMEMBERED: value},
                commit_properties=CommitProperties(
                    custom_metadata={_MAINTENANCE: str(self.fence)}, max_commit_retries=0
                ),
            )
        self._opened.pop(table, None)
        if (version := self.version(table)) is not None:
            self.place.persist_log(table, version)
        return True

    def repair(self, table: str) -> None:
        """Make a table readable after a power cut has torn its last commit; call it before reading.

        Nothing depends on such a commit yet, because the batch is still to be finished.
        """
        self._opened.pop(table, None)
        for asked in [asked for asked in self._states if asked[0] == table]:
            del self._states[asked]  # the torn version's number is given again
        self.place.repair_log(table)

    def prefix(self, batch_id: int) -> str:
        """The prefix of a batch's data file names, as this writer writes them."""
        return f"{_batch_prefix(batch_id)}f{self.fence:04d}-"

    def maintenance_prefix(self, number: int) -> str:
        """The prefix of the names of data files that maintenance writes, as this writer does."""
        return f"m{self.fence:08d}-{number:04d}-"

    def orphaned_merges(self, table: str) -> list[str]:
        """Files that maintenance of earlier writers wrote and that no commit ever named."""
        found = [
            path
            for path in self.place.data_files(table)
            if (match := _OF_MAINTENANCE.match(_name(path))) and int(match[1]) < self.fence
        ]
        if not found:
            return []
        state = self.state(table)
        held = {file.path for file in state.files} if state else set()
        held.update(map(unquote, self.dead_files(table, 0, logged=True)))
        return [path for path in found if path not in held]

    def orphaned_files(self, table: str, batch_id: int) -> list[str]:
        """Files that attempts at this batch wrote and that no commit of the table holds."""
        state = self.state(table)
        held = {file.path for file in state.files} if state else set()
        return [
            path
            for path in self.place.data_files(table)
            if path not in held and _name(path).startswith(_batch_prefix(batch_id))
        ]

    def orphaned_by_others(self, table: str, decided: Mapping[int, int | None]) -> list[str]:
        """Orphaned files: those of attempts other than the deciding one (batch → fencing token).

        Files of batches that `decided` does not name are left alone.
        """
        found = []
        for path in self.place.data_files(table):
            if (match := _NAME.match(_name(path))) is None:
                continue
            batch_id, fence = int(match[1]), int(match[2])
            if batch_id in decided and decided[batch_id] != fence:
                found.append(path)
        return found

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        if version is None and (known := self._opened.pop(table, None)) is not None:
            with self._translate_errors():
                known.update_incremental()
            self._opened[table] = known  # only after success
            return known
        if not self.place.has(table):
            return None
        handle = self._open_new(table, version)
        if handle is not None and version is None:
            self._opened[table] = handle
        return handle

    def _opened_at(self, table: str, version: int | None) -> DeltaTable | None:
        """The handle that is open, if it is at this version."""
        known = self._opened.get(table)
        return known if known is not None and known.version() == version else None

    def _open_new(self, table: str, version: int | None) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        with self._translate_errors():
            try:
                return DeltaTable(
                    self.place.address(table),
                    version=version,
                    storage_options=dict(self.place.options()),
                )
            except TableNotFoundError:
                return None
            except DeltaError as error:
                if version is not None and not _is_unreachable(error):
                    return None  # the log no longer goes back that far
                raise

    def _holds(self, handle: DeltaTable, batch_id: int) -> bool:
        """Whether the table's application transaction id says that this batch is in it."""
        with self._translate_errors():
            return (handle.transaction_version(_TRANSACTION_ID) or 0) >= batch_id

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate the errors of an unreachable store."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (OSError, DeltaError) as error:
            if not _is_unreachable(error):
                raise
            message = (str(error).splitlines() or ["no answer"])[0]
            raise Unavailable(f"{self.place}: {message}", "Run again: retailmart run") from error

    def _create(self, change: TableChange) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.transaction import create_table_with_add_actions

        self.folder(change.table).mkdir(parents=True, exist_ok=True)
        address, options = self.place.address(change.table), dict(self.place.options())
        with self._translate_errors():
            create_table_with_add_actions(
                address,
                _schema(change.fields),
                [],
                mode="ignore",
                partition_by=list(change.partition_by),
                name=change.table,
                storage_options=options,
                configuration={"delta.checkpointInterval": str(_CHECKPOINT_EVERY)},
            )
            handle = DeltaTable(address, storage_options=options)
        self.place.persist_log(change.table, 0)
        return handle

    def _apply(
        self,
        handle: DeltaTable,
        change: TableChange,
        mark: Mapping[str, str],
        is_done: Callable[[DeltaTable], bool],
    ) -> None:
        """Commit a change. `mark` is the commit's metadata, `is_done` says if a table holds it."""
        from deltalake import PostCommitHookProperties
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import CommitProperties, RemoveAction, Transaction

        schema = _schema(change.fields)
        now = int(time.time() * 1000)
        batch = mark.get(_BATCH)
        changes = batch is not None  # else the rows stay the same, and readers of changes skip it
        adds: list[Any] = [_add_action(file, now, changes) for file in change.adds]
        with self._translate_errors():
            known = _state(handle, self.folder(change.table))
        gone = set(change.removes)
        going = [file for file in known.files if file.path in gone]
        mode = "append"
        same_layout = known.partition_by == change.partition_by
        if handle.schema() == schema and same_layout:
            adds += [RemoveAction(f.path, changes, now, f.size, dict(f.partition)) for f in going]
        elif len(going) == len(known.files):
            mode = "overwrite"  # the only mode that accepts a new schema; it removes files
        else:
            raise RetailmartError(f"{change.table} would get other columns and keep old files")
        properties = CommitProperties(
            custom_metadata=dict(mark),
            max_commit_retries=0,
            app_transactions=[] if batch is None else [Transaction(_TRANSACTION_ID, int(batch))],
        )
        try:
            with self._translate_errors():
                if not same_layout:
                    self._replace(change, adds, properties)
                    return
                handle.create_write_transaction(
                    adds,
                    mode,
                    schema,
                    list(change.partition_by),
                    commit_properties=properties,
                    # Old entries stay: if a power cut tears a checkpoint, they are needed.
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )
        except (CommitFailedError, Unavailable):
            # Unknown, not failed: the log may hold the commit although the answer was lost.
            self._opened.pop(change.table, None)
            again = self._open(change.table)
            if again is None or not is_done(again):
                raise

    def _replace(self, change: TableChange, adds: list[Any], properties: Any) -> None:
        """Replace a table to give it other partition columns; no write can do that."""
        from deltalake.transaction import create_table_with_add_actions

        create_table_with_add_actions(
            self.place.address(change.table),
            _schema(change.fields),
            adds,
            mode="overwrite",
            partition_by=list(change.partition_by),
            name=change.table,
            storage_options=dict(self.place.options()),
            configuration={"delta.checkpointInterval": str(_CHECKPOINT_EVERY)},
            commit_properties=properties,
        )
        self._opened.pop(change.table, None)


def _of_batch(batch_id: int) -> Mapping[str, str]:
    return {_BATCH: str(batch_id)}


def is_ours(path: str) -> bool:
    """Whether a data file has a name that batches or maintenance give."""
    return bool(_NAME.match(_name(path)) or _OF_MAINTENANCE.match(_name(path)))


def _batch_prefix(batch_id: int) -> str:
    return f"b{batch_id:08d}-"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_unreachable(error: Exception) -> bool:
    """Whether a store failed; the Delta library has no error class for that."""
    return any(word in str(error) for word in _UNREACHABLE)


def _schema(fields: tuple[Field, ...]) -> Schema:
    from deltalake import Field as DeltaField
    from deltalake import Schema
    from deltalake.schema import PrimitiveType

    def primitive(kind: ColumnType) -> PrimitiveType:
        name = f"decimal({kind.precision},{kind.scale})" if kind.is_decimal else None
        return PrimitiveType(name or _DELTA_NAMES[kind.name])

    return Schema([DeltaField(field.name, primitive(field.type)) for field in fields])


def _field(delta: Any) -> Field:
    kind = delta.type.type
    if kind.startswith("decimal"):
        precision, scale = kind[len("decimal(") : -1].split(",")
        return Field(delta.name, ColumnType("DECIMAL", int(precision), int(scale)))
    return Field(delta.name, ColumnType(_OUR_NAMES[kind]))


def _state(handle: DeltaTable, folder: Path) -> TableState:
    import pyarrow as pa

    # pa.table(…) would import pandas where it is installed, which takes half a second.
    actions = pa.RecordBatchReader.from_stream(handle.get_add_actions(flatten=False)).read_all()
    actions = actions.select(
        ["path", "size_bytes", "num_records", "partition"]
        if handle.metadata().partition_columns
        else ["path", "size_bytes", "num_records"]
    )
    files = [
        DataFile(
            path=unquote(row["path"]),
            size=row["size_bytes"],
            rows=row["num_records"] or 0,
            partition=_texts(row.get("partition") or {}),
        )
        for row in actions.to_pylist()
    ]
    return TableState(
        root=str(folder),
        fields=tuple(_field(field) for field in handle.schema().fields),
        partition_by=tuple(handle.metadata().partition_columns),
        files=tuple(sorted(files, key=lambda file: file.path)),
    )


def _texts(partition: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in partition.items()}


def _add_action(file: DataFile, now: int, changes: bool) -> Any:
    from deltalake.transaction import AddAction

    statistics = {
        "numRecords": file.rows,
        "minValues": dict(file.minimum),
        "maxValues": dict(file.maximum),
        "nullCount": dict(file.nulls),
    }
    return AddAction(
        file.path, file.size, dict(file.partition), now, changes, json.dumps(statistics)
    )
