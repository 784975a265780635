"""The lake: Delta tables in a folder or bucket. Engines write files; only this room commits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
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

__all__ = ["Lake", "place_of"]

# One lane a table, in every commit: the app transaction that tells which batch it holds.
_LANE = "retailmart"
# A table is opened from its last checkpoint and the entries since: in a bucket, a request each.
_CHECKPOINT_EVERY = 10
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
_UNREACHABLE = ("Generic S3 error", "error sending request", "HTTP error")
_OUR_NAMES = {delta: name for name, delta in _DELTA_NAMES.items()}


@dataclass(frozen=True)
class Lake:
    """Tables in one place, each named by its path: `raw/sales`, `marts/sales_mart`.

    `fence` is the writer's: a run that was stopped and wakes late can't write over the files of
    the one that took its work over, because no two fences share a file name.
    """

    place: Place
    fence: int = 0
    # A table that was opened once is read on from where it was: a bucket is asked for new log
    # entries only.
    _opened: dict[str, DeltaTable] = field(default_factory=dict, compare=False, repr=False)

    def folder(self, table: str) -> Path:
        """Where engines write a table's files, and read them."""
        return self.place.workspace / table

    def state(self, table: str, version: int | None = None) -> TableState | None:
        """A table as it is, or was at `version`; None where it is not (any more)."""
        handle = self._open(table, version)
        if handle is None:
            return None
        with self._told():
            return _state(handle, self.folder(table))

    def version(self, table: str) -> int | None:
        """The number of the table's last commit."""
        handle = self._open(table)
        return handle.version() if handle else None

    def fetch(self, table: TableState) -> None:
        """Make a table's files readable here."""
        name = Path(table.root).relative_to(self.place.workspace).as_posix()
        self.place.fetch(name, table.files)

    def keep(self, change: TableChange) -> None:
        """Make what an engine wrote for a change survive whatever happens to this machine."""
        self.place.keep(change.table, [file.path for file in change.adds])

    def commit(self, change: TableChange, batch_id: int) -> int:
        """Apply a change exactly once for this batch; return the table's version.

        A repeated call sees the batch in the table's lane and does nothing. The same handle that
        looked also commits, so another commit in between is a conflict and not a double count.
        """
        handle = self._open(change.table) or self._create(change)
        if not self._holds(handle, batch_id):
            self._apply(handle, change, batch_id)
        done = self._open(change.table)
        if done is None or not self._holds(done, batch_id):
            raise RetailmartError(f"the commit of batch {batch_id} to {change.table} is not there")
        self.place.keep_log(change.table, done.version())
        return int(done.version())

    def mend(self, table: str) -> None:
        """Make a table readable whose last commit a power cut has torn, before it is looked at.

        Nothing relies on such a commit yet: the batch is still to be finished.
        """
        self._opened.pop(table, None)
        self.place.mend_log(table)

    def prefix(self, batch_id: int) -> str:
        """How the names of a batch's data files begin, as this writer writes them."""
        return f"{_batch_prefix(batch_id)}f{self.fence:04d}-"

    def orphans(self, table: str, batch_id: int) -> list[str]:
        """Files that attempts at this batch wrote and no commit of the table holds."""
        state = self.state(table)
        held = {file.path for file in state.files} if state else set()
        return [
            path
            for path in self.place.data_files(table)
            if path not in held and _name(path).startswith(_batch_prefix(batch_id))
        ]

    def strays(self, table: str, decided: Mapping[int, int | None]) -> list[str]:
        """Files of other attempts than the one that decided their batch (batch → fence).

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
            with self._told():
                known.update_incremental()
            self._opened[table] = known  # not where that failed
            return known
        if not self.place.has(table):
            return None
        handle = self._open_anew(table, version)
        if handle is not None and version is None:
            self._opened[table] = handle
        return handle

    def _open_anew(self, table: str, version: int | None) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        with self._told():
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
                    return None  # that far back the log is gone
                raise

    def _holds(self, handle: DeltaTable, batch_id: int) -> bool:
        """Whether a table's lane tells that this batch is in it."""
        with self._told():
            return (handle.transaction_version(_LANE) or 0) >= batch_id

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A store that can't be reached, in our words."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (OSError, DeltaError) as error:
            if not _is_unreachable(error):
                raise
            words = (str(error).splitlines() or ["no answer"])[0]
            raise Unavailable(f"{self.place}: {words}", "Run again: retailmart run") from error

    def _create(self, change: TableChange) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.transaction import create_table_with_add_actions

        self.folder(change.table).mkdir(parents=True, exist_ok=True)
        address, options = self.place.address(change.table), dict(self.place.options())
        with self._told():
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
        self.place.keep_log(change.table, 0)
        return handle

    def _apply(self, handle: DeltaTable, change: TableChange, batch_id: int) -> None:
        from deltalake import PostCommitHookProperties
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import CommitProperties, RemoveAction, Transaction

        schema = _schema(change.fields)
        now = int(time.time() * 1000)
        adds: list[Any] = [_add_action(file, now) for file in change.adds]
        with self._told():
            known = _state(handle, self.folder(change.table))
        gone = set(change.removes)
        going = [file for file in known.files if file.path in gone]
        mode = "append"
        if handle.schema() == schema:
            adds += [RemoveAction(f.path, True, now, f.size, dict(f.partition)) for f in going]
        elif len(going) == len(known.files):
            mode = "overwrite"  # the one mode that takes a new schema; it removes all by itself
        else:
            raise RetailmartError(f"{change.table} would get other columns and keep old files")
        properties = CommitProperties(
            custom_metadata={"retailmart_batch": str(batch_id)},
            max_commit_retries=0,
            app_transactions=[Transaction(_LANE, batch_id)],
        )
        try:
            with self._told():
                handle.create_write_transaction(
                    adds,
                    mode,
                    schema,
                    list(change.partition_by),
                    commit_properties=properties,
                    # Old entries stay: where a power cut tears a checkpoint, they are needed.
                    post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
                )
        except (CommitFailedError, Unavailable):
            # Unknown, not failed: the log may hold the commit although the answer was lost.
            self._opened.pop(change.table, None)
            again = self._open(change.table)
            if again is None or not self._holds(again, batch_id):
                raise


def _batch_prefix(batch_id: int) -> str:
    return f"b{batch_id:08d}-"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_unreachable(error: Exception) -> bool:
    """The Delta library has no error of its own for a store that fails."""
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

    actions = pa.table(handle.get_add_actions(flatten=False)).select(
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


def _add_action(file: DataFile, now: int) -> Any:
    from deltalake.transaction import AddAction

    statistics = {
        "numRecords": file.rows,
        "minValues": dict(file.minimum),
        "maxValues": dict(file.maximum),
        "nullCount": dict(file.nulls),
    }
    return AddAction(file.path, file.size, dict(file.partition), now, True, json.dumps(statistics))
