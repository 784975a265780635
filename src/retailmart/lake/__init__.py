"""The lake: Delta tables in a folder. Engines write the files; only this room commits them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from retailmart.errors import RetailmartError
from retailmart.project.types import ColumnType
from retailmart.storage import sync_file, sync_folder
from retailmart.tables import DataFile, Field, TableChange, TableState

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema

# One lane a table, in every commit: the app transaction that tells which batch it holds.
_LANE = "retailmart"
_DELTA_NAMES = {
    "INT": "integer",
    "BIGINT": "long",
    "STRING": "string",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "BOOLEAN": "boolean",
    "DOUBLE": "double",
}
_OUR_NAMES = {delta: name for name, delta in _DELTA_NAMES.items()}


@dataclass(frozen=True)
class Lake:
    """A folder of tables, each named by its path: `raw/sales`, `marts/sales_mart`."""

    root: Path

    def folder(self, table: str) -> Path:
        """Where a table's files lie."""
        return self.root / table

    def state(self, table: str, version: int | None = None) -> TableState | None:
        """A table as it is, or was at `version`; None where it is not (any more)."""
        handle = self._open(table, version)
        return _state(handle, self.folder(table)) if handle else None

    def version(self, table: str) -> int | None:
        """The number of the table's last commit."""
        handle = self._open(table)
        return handle.version() if handle else None

    def commit(self, change: TableChange, batch_id: int) -> int:
        """Apply a change exactly once for this batch; return the table's version.

        A repeated call sees the batch in the table's lane and does nothing. The same handle that
        looked also commits, so another commit in between is a conflict and not a double count.
        """
        self._sync(change)
        handle = self._open(change.table) or self._create(change)
        if (handle.transaction_version(_LANE) or 0) < batch_id:
            self._apply(handle, change, batch_id)
        done = self._open(change.table)
        if done is None or (done.transaction_version(_LANE) or 0) < batch_id:
            raise RetailmartError(f"the commit of batch {batch_id} to {change.table} is not there")
        _sync_log(self.folder(change.table))
        return int(done.version())

    def orphans(self, table: str, batch_id: int) -> list[Path]:
        """Files that attempts at this batch wrote and no commit of the table holds."""
        folder = self.folder(table)
        state = self.state(table)
        held = {file.path for file in state.files} if state else set()
        return [
            path
            for path in folder.rglob(f"{file_prefix(batch_id)}*.parquet")
            if path.relative_to(folder).as_posix() not in held
        ]

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        if not (self.folder(table) / "_delta_log").is_dir():
            return None
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(str(self.folder(table)), version=version)
        except TableNotFoundError:
            return None
        except DeltaError:
            if version is not None:
                return None  # that far back the log is gone
            raise

    def _create(self, change: TableChange) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.transaction import create_table_with_add_actions

        folder = self.folder(change.table)
        folder.mkdir(parents=True, exist_ok=True)
        create_table_with_add_actions(
            str(folder),
            _schema(change.fields),
            [],
            mode="ignore",
            partition_by=list(change.partition_by),
            name=change.table,
        )
        return DeltaTable(str(folder))

    def _apply(self, handle: DeltaTable, change: TableChange, batch_id: int) -> None:
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import CommitProperties, RemoveAction, Transaction

        schema = _schema(change.fields)
        now = int(time.time() * 1000)
        adds: list[Any] = [_add_action(file, now) for file in change.adds]
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
            handle.create_write_transaction(
                adds, mode, schema, list(change.partition_by), commit_properties=properties
            )
        except CommitFailedError:
            # Unknown, not failed: the log may hold the commit although the answer was lost.
            again = self._open(change.table)
            if again is None or (again.transaction_version(_LANE) or 0) < batch_id:
                raise

    def _sync(self, change: TableChange) -> None:
        folder = self.folder(change.table)
        paths = [folder / file.path for file in change.adds if (folder / file.path).exists()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sync_file, paths))
        for parent in {path.parent for path in paths}:
            sync_folder(parent)


def file_prefix(batch_id: int) -> str:
    """How the names of a batch's data files begin."""
    return f"b{batch_id:08d}-"


def _sync_log(folder: Path) -> None:
    log = folder / "_delta_log"
    newest = max(
        (entry for entry in os.scandir(log) if entry.name.endswith(".json")),
        key=lambda entry: entry.name,
    )
    sync_file(Path(newest.path))
    sync_folder(log)


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
