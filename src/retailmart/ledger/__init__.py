"""The ledger knows every file, its state and its totals. Every change is one fenced transaction."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from retailmart.errors import RetailmartError
from retailmart.ledger import tables as t
from retailmart.ledger.lease import Lease, claim
from retailmart.ledger.migrations import is_current, migrate
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileState,
    LedgerFile,
    MartRecord,
    NewFile,
    Outcome,
    RunRecord,
    Schema,
    SchemaRecord,
    SourceRecord,
    Totals,
    read_schema,
)

__all__ = ["Lease", "Ledger", "claim"]

# The option of a connection that takes no lock; `database` begins its transactions accordingly.
READS = "retailmart_reads"
# A row beside the lease says when the next look for stray files is due.
_SWEEP = "sweep"
# Seconds between looks at tables that another first run is making.
_PAUSES = (0.1, 0.3, 1.0, 3.0)
_SWEPT_EVERY = timedelta(days=1)
_IDS_AT_ONCE = 1000
_READABLE = tuple(
    state.value for state in (FileState.LOADED, FileState.DUPLICATE, FileState.SUPERSEDED)
)
_Value = TypeVar("_Value", int, str)
_OPEN = (BatchState.ACTIVE, BatchState.PREPARED, BatchState.COMMITTED, BatchState.PUBLISHED)


@dataclass(frozen=True)
class Ledger:
    """The ledger's tables in one database; writes prove the lease in their own transaction."""

    engine: Engine
    lease: Lease | None = None

    def migrate(self) -> None:
        """Create or update the ledger's tables."""
        for pause in (*_PAUSES, None):
            try:
                with self._reading() as connection:
                    if is_current(connection):
                        return
                with self.engine.begin() as connection:
                    migrate(connection)
                return
            except DatabaseError:
                # First runs at once: where creating a table ends a transaction, each meets what
                # the others have half made, and each step may be taken again.
                if pause is None:
                    raise
                time.sleep(pause)

    def _reading(self) -> Connection:
        """A connection that only reads, and so waits for nobody who writes."""
        return self.engine.execution_options(**{READS: True}).connect()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction that only the holder of the lease can commit."""
        if self.lease is None:
            raise RetailmartError("the ledger was opened for reading")
        with self.engine.begin() as connection:
            self.lease.prove(connection)
            yield connection

    # runs

    def open_run(self, as_of: datetime) -> int:
        """Record that a run began; a run that was killed before is closed as such.

        What it left lying is looked for at once then, not only when the next look is due.
        """
        with self.transaction() as connection:
            killed = connection.execute(
                update(t.runs).where(t.runs.c.state == "running").values(state="killed")
            )
            if killed.rowcount:
                connection.execute(delete(t.lease).where(t.lease.c.name == _SWEEP))
            result = connection.execute(
                insert(t.runs).values(started_at=_now(), as_of=as_of.isoformat(), state="running")
            )
            return _key(result)

    def close_run(self, run_id: int, state: str, message: str | None, report: str | None) -> None:
        """Record how a run ended."""
        with self.transaction() as connection:
            connection.execute(
                update(t.runs)
                .where(t.runs.c.run_id == run_id)
                .values(
                    finished_at=_now(),
                    state=state,
                    message=message,
                    report=_pack(report) if report else None,
                )
            )

    def sweep_is_due(self) -> bool:
        """Whether it is time to look for files that no batch holds."""
        query = select(t.lease.c.expires_at).where(t.lease.c.name == _SWEEP)
        with self._reading() as connection:
            due = connection.scalar(query)
        return due is None or due <= _now()

    def mark_swept(self) -> None:
        """They were looked for; the next look is due in a day."""
        due = (datetime.now(UTC) + _SWEPT_EVERY).isoformat()
        with self.transaction() as connection:
            _put(connection, t.lease, {"name": _SWEEP}, {"fence": 0, "expires_at": due})

    def record_steps(
        self, run_id: int, batch_id: int | None, seconds: Sequence[tuple[str, float]]
    ) -> None:
        """Record how long each step of a run took."""
        rows = [
            {
                "run_id": run_id,
                "batch_id": batch_id,
                "step": step,
                "finished_at": _now(),
                "milliseconds": round(took * 1000),
            }
            for step, took in seconds
        ]
        if rows:
            with self.transaction() as connection:
                connection.execute(insert(t.steps), rows)

    def last_runs(self, count: int) -> list[RunRecord]:
        """The newest runs, newest first."""
        columns = t.runs.c
        query = (
            select(
                columns.run_id,
                columns.started_at,
                columns.finished_at,
                columns.as_of,
                columns.state,
                columns.message,
            )
            .order_by(columns.run_id.desc())
            .limit(count)
        )
        with self._reading() as connection:
            return [RunRecord(*row) for row in connection.execute(query)]

    # batches and files

    def open_batch(self) -> Batch | None:
        """The batch that is not done yet, if any."""
        states = [state.value for state in _OPEN]
        with self._reading() as connection:
            row = connection.execute(select(t.batches).where(t.batches.c.state.in_(states))).first()
        return _batch(row) if row else None

    def stage(
        self,
        run_id: int,
        as_of: datetime,
        new_files: Iterable[NewFile],
        undoes: int | None = None,
    ) -> Batch:
        """Make the batch: its files and their states become known in one transaction.

        `undoes` is the run whose files leave with it, if it takes one back.
        """
        with self.transaction() as connection:
            stamp = _free_stamp(connection)
            result = connection.execute(
                insert(t.batches).values(
                    run_id=run_id,
                    as_of=as_of.isoformat(),
                    stamp=stamp,
                    state=BatchState.ACTIVE.value,
                    undoes=undoes,
                )
            )
            batch = Batch(_key(result), run_id, as_of, stamp, BatchState.ACTIVE, undoes)
            rows = [_file_row(batch.batch_id, file) for file in new_files]
            if rows:
                connection.execute(insert(t.files), rows)
        return batch

    def files_of(self, batch_id: int) -> list[LedgerFile]:
        """All files of a batch, in the order they were staged."""
        return self._files(t.files.c.batch_id == batch_id)

    def run_exists(self, run_id: int) -> bool:
        """Whether there was such a run."""
        with self._reading() as connection:
            return bool(connection.scalar(select(t.runs.c.run_id).where(t.runs.c.run_id == run_id)))

    def batch(self, batch_id: int) -> Batch:
        """The batch with this key."""
        with self._reading() as connection:
            return _batch(
                connection.execute(select(t.batches).where(t.batches.c.batch_id == batch_id)).one()
            )

    def batches_of_run(self, run_id: int) -> list[Batch]:
        """What a run staged; a batch that it only finished is of the run that staged it."""
        query = select(t.batches).where(t.batches.c.run_id == run_id).order_by(t.batches.c.batch_id)
        with self._reading() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def files_of_run(self, run_id: int) -> list[LedgerFile]:
        """The files of the batches that a run staged."""
        of_run = select(t.batches.c.batch_id).where(t.batches.c.run_id == run_id)
        return self._files(t.files.c.batch_id.in_(of_run))

    def deliveries(self, sha256: str) -> list[LedgerFile]:
        """Every file that was ever delivered with this content."""
        return self._files(t.files.c.sha256 == sha256)

    def superseders(self, file_ids: Iterable[int]) -> list[LedgerFile]:
        """The files that replaced these."""
        return self._files(t.files.c.supersedes.in_(list(file_ids)))

    def replayers(self, file_ids: Iterable[int]) -> list[LedgerFile]:
        """The counted files that brought refused rows of these files back."""
        of_origin = select(t.replays.c.file_id).where(
            t.replays.c.origin_file_id.in_(list(file_ids))
        )
        counted = t.files.c.state == FileState.LOADED.value
        return self._files(t.files.c.file_id.in_(of_origin) & counted)

    def decided_fences(self) -> dict[int, int | None]:
        """Of each batch, the fence of the attempt that decided it; None where it was let go."""
        columns = t.batches.c
        query = select(columns.batch_id, columns.fence).where(
            columns.fence.is_not(None) | (columns.state == BatchState.ABANDONED.value)
        )
        with self._reading() as connection:
            return {row.batch_id: row.fence for row in connection.execute(query)}

    def files_in_state(self, *states: FileState, limit: int | None = None) -> list[LedgerFile]:
        """Files in these states, newest last."""
        found = self._files(t.files.c.state.in_([state.value for state in states]))
        return found[-limit:] if limit else found

    def count_files(self) -> dict[str, int]:
        """How many files are in each state."""
        query = select(t.files.c.state, func.count().label("n")).group_by(t.files.c.state)
        with self._reading() as connection:
            return {row.state: row.n for row in connection.execute(query)}

    def feeds_delivered(self) -> set[str]:
        """The feeds of which a file was ever loaded."""
        states = (FileState.LOADED, FileState.SUPERSEDED, FileState.UNDONE)
        query = (
            select(t.files.c.feed).where(t.files.c.state.in_(s.value for s in states)).distinct()
        )
        with self._reading() as connection:
            return {str(feed) for feed in connection.scalars(query)}

    def find_file(self, path: str) -> LedgerFile | None:
        """The newest delivery under this path, by its whole path or its name alone."""
        found = self._files(t.files.c.path_hash == _hash(path)) or self._files(
            t.files.c.path.endswith(f"/{path}", autoescape=True)
        )
        return found[-1] if found else None

    def file(self, file_id: int) -> LedgerFile:
        """The file with this key."""
        return self._files(t.files.c.file_id == file_id)[0]

    def standing(self, path: str) -> LedgerFile | None:
        """The newest delivery under this path that could be read: what the name stands for."""
        known = t.files.c.state.in_(_READABLE)
        found = self._files((t.files.c.path_hash == _hash(path)) & known)
        return found[-1] if found else None

    def readable_at(self, paths: Iterable[str]) -> list[LedgerFile]:
        """Every delivery under these paths that could be read, oldest first."""
        return self._readable(t.files.c.path_hash, map(_hash, paths))

    def readable_of(self, contents: Iterable[str]) -> list[LedgerFile]:
        """Every delivery with these contents (SHA-256) that could be read, oldest first."""
        return self._readable(t.files.c.sha256, contents)

    def _readable(self, column: Any, values: Iterable[str]) -> list[LedgerFile]:
        known = t.files.c.state.in_(_READABLE)
        found = [file for some in _chunks(values) for file in self._files(column.in_(some) & known)]
        return sorted(found, key=lambda file: file.file_id)

    def names_of(self, sha256: str) -> set[str]:
        """The paths that stand for this content now."""
        known = t.files.c.state.in_(_READABLE)
        paths = {file.path for file in self._files((t.files.c.sha256 == sha256) & known)}
        newest = {path: self.standing(path) for path in paths}
        return {path for path, file in newest.items() if file and file.sha256 == sha256}

    def counted_by_content(self, sha256: str) -> LedgerFile | None:
        """The file with this content whose rows are counted now."""
        counted = t.files.c.state == FileState.LOADED.value
        found = self._files((t.files.c.sha256 == sha256) & counted)
        return found[-1] if found else None

    def months_of_files(self, file_ids: Iterable[int]) -> dict[str, Totals]:
        """Rows and money by month of these files together."""
        query = select(
            t.file_months.c.month, t.file_months.c.row_count, t.file_months.c.amount
        ).where(t.file_months.c.file_id.in_(list(file_ids)))
        with self._reading() as connection:
            return _sum_months(connection.execute(query))

    def counted_months(self, feed: str, months: Iterable[str]) -> dict[str, Totals]:
        """Rows and money by month of all files of a feed that are counted now."""
        query = (
            select(t.file_months.c.month, t.file_months.c.row_count, t.file_months.c.amount)
            .join(t.files, t.files.c.file_id == t.file_months.c.file_id)
            .where(
                t.files.c.feed == feed,
                t.files.c.state == FileState.LOADED.value,
                t.file_months.c.month.in_(list(months)),
            )
        )
        with self._reading() as connection:
            return _sum_months(connection.execute(query))

    def months_of_table(self, table: str) -> dict[str, Totals]:
        """Rows and money by month that a table was last seen to hold."""
        columns = t.table_months.c
        query = select(columns.month, columns.row_count, columns.amount).where(
            columns.table_name == table
        )
        with self._reading() as connection:
            return _sum_months(connection.execute(query))

    # the states of a batch

    def prepare(self, batch: Batch, changes: Mapping[str, str], outcome: Outcome) -> None:
        """Decide the batch: from here on it can only be finished. `changes` is table → JSON."""
        with self.transaction() as connection:
            packed = _pack(outcome.to_json())
            fence = self.lease.fence if self.lease else None
            self._move(connection, batch, BatchState.PREPARED, outcome=packed, fence=fence)
            rows = [
                {"batch_id": batch.batch_id, "table_name": table, "change": _pack(change)}
                for table, change in changes.items()
            ]
            if rows:
                connection.execute(insert(t.commits), rows)

    def prepared(self, batch: Batch) -> tuple[Outcome, dict[str, str]]:
        """What `prepare` recorded."""
        with self._reading() as connection:
            packed = connection.scalar(
                select(t.batches.c.outcome).where(t.batches.c.batch_id == batch.batch_id)
            )
            rows = connection.execute(
                select(t.commits.c.table_name, t.commits.c.change).where(
                    t.commits.c.batch_id == batch.batch_id
                )
            )
            changes = {table: _unpack(change) for table, change in rows}
        return Outcome.from_json(_unpack(packed or b"")), changes

    def mark_committed(self, batch: Batch) -> None:
        """The lake holds the batch."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.COMMITTED)

    def mark_published(
        self,
        connection: Connection,
        batch: Batch,
        outcome: Outcome,
        published: Iterable[MartRecord],
    ) -> None:
        """The ledger's word for a batch, in the transaction that publishes its marts."""
        self._move(connection, batch, BatchState.PUBLISHED)
        active = t.files.c.state == FileState.ACTIVE.value
        connection.execute(
            update(t.files)
            .where(t.files.c.batch_id == batch.batch_id, active)
            .values(state=FileState.LOADED.value)
        )
        superseded = select(t.files.c.supersedes).where(
            t.files.c.batch_id == batch.batch_id, t.files.c.supersedes.is_not(None)
        )
        ids = list(connection.scalars(superseded))
        if ids:
            connection.execute(
                update(t.files)
                .where(t.files.c.file_id.in_(ids))
                .values(state=FileState.SUPERSEDED.value)
            )
        if batch.undoes is not None:
            _mark_undone(connection, batch)
        _write_files(connection, outcome)
        _write_replays(connection, outcome)
        _write_balances(connection, outcome)
        _write_schemas(connection, batch, outcome)
        for source in outcome.sources.values():
            _put_source(connection, source)
        records = {record.name: record for record in published}
        for name in {*outcome.marts, *records}:
            values: dict[str, Any] = {}
            if name in outcome.marts:
                values["fingerprint"] = outcome.marts[name]
            if record := records.get(name):
                values["published_as"] = record.published_as
                values["published_version"] = record.published_version
                values["published_fingerprint"] = record.published_fingerprint
            _put(connection, t.marts, {"name": name}, values)

    def mark_done(self, batch: Batch) -> None:
        """The files are archived; the decided commits are not needed any more."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.DONE)
            connection.execute(delete(t.commits).where(t.commits.c.batch_id == batch.batch_id))

    def abandon(self, batch: Batch) -> None:
        """Let a batch go that a gate refused; its files count as never seen."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.ABANDONED)
            connection.execute(
                update(t.files)
                .where(t.files.c.batch_id == batch.batch_id)
                .values(state=FileState.RELEASED.value)
            )

    # marts and sources

    def marts(self) -> dict[str, MartRecord]:
        """What is known of each mart."""
        with self._reading() as connection:
            return {row.name: MartRecord(*row) for row in connection.execute(select(t.marts))}

    def sources(self) -> dict[str, SourceRecord]:
        """What is known of each source table."""
        with self._reading() as connection:
            return {row.name: SourceRecord(*row) for row in connection.execute(select(t.sources))}

    def saw_sources(self, sources: Iterable[SourceRecord]) -> None:
        """Remember what was looked at and has not moved."""
        with self.transaction() as connection:
            for source in sources:
                _put_source(connection, source)

    # the columns of raw tables

    def schema(self, table: str) -> Schema | None:
        """A raw table's columns as they are; None where no batch has told them."""
        query = (
            select(t.schemas)
            .where(t.schemas.c.table_name == table)
            .order_by(t.schemas.c.batch_id.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).first()
        return _schema(row) if row else None

    def schemas(self) -> list[SchemaRecord]:
        """How the columns of all raw tables came to be, oldest first."""
        joined = t.schemas.join(t.batches, t.schemas.c.batch_id == t.batches.c.batch_id)
        query = (
            select(t.schemas, t.batches.c.run_id)
            .select_from(joined)
            .order_by(t.schemas.c.batch_id, t.schemas.c.table_name)
        )
        with self._reading() as connection:
            return [
                SchemaRecord(_schema(row), row.batch_id, row.run_id, row.changed_at)
                for row in connection.execute(query)
            ]

    # refused rows that came back

    def files_among(self, file_ids: Iterable[int]) -> list[LedgerFile]:
        """The files with these keys; those that are no file's are left out."""
        chunks = _chunks(file_ids)
        return [file for ids in chunks for file in self._files(t.files.c.file_id.in_(ids))]

    def brought_back(self, file_ids: Iterable[int]) -> dict[tuple[int, int], LedgerFile]:
        """The refused rows of these files that are counted now (file, line) → by which file."""
        counted = t.files.c.state == FileState.LOADED.value
        joined = t.replays.join(t.files, t.replays.c.file_id == t.files.c.file_id)
        found: dict[tuple[int, int], LedgerFile] = {}
        files: dict[int, LedgerFile] = {}
        with self._reading() as connection:
            for ids in _chunks(file_ids):
                query = (
                    select(t.replays.c.origin_file_id, t.replays.c.origin_line, t.files)
                    .select_from(joined)
                    .where(t.replays.c.origin_file_id.in_(ids), counted)
                )
                for row in connection.execute(query):
                    file = files.setdefault(row.file_id, _file(row))
                    found[row.origin_file_id, row.origin_line] = file
        return found

    def brings_back(self, file_id: int) -> bool:
        """Whether the file brought refused rows of other files."""
        query = select(t.replays.c.file_id).where(t.replays.c.file_id == file_id).limit(1)
        with self._reading() as connection:
            return connection.scalar(query) is not None

    def _files(self, condition: Any) -> list[LedgerFile]:
        query = select(t.files).where(condition).order_by(t.files.c.file_id)
        with self._reading() as connection:
            return [_file(row) for row in connection.execute(query)]

    def _move(self, connection: Connection, batch: Batch, to: BatchState, **values: Any) -> None:
        """Compare-and-set of a batch's state."""
        order = list(BatchState)
        before = BatchState.ACTIVE if to is BatchState.ABANDONED else order[order.index(to) - 1]
        moved = connection.execute(
            update(t.batches)
            .where(t.batches.c.batch_id == batch.batch_id, t.batches.c.state == before.value)
            .values(state=to.value, **values)
        )
        if moved.rowcount != 1:
            raise RetailmartError(
                f"batch {batch.batch_id} is no longer {before.value}; another run moved it on",
                "Run again: retailmart run",
            )


def _mark_undone(connection: Connection, batch: Batch) -> None:
    of_run = select(t.batches.c.batch_id).where(t.batches.c.run_id == batch.undoes)
    counted = (FileState.LOADED.value, FileState.DUPLICATE.value)
    connection.execute(
        update(t.files)
        .where(t.files.c.batch_id.in_(of_run), t.files.c.state.in_(counted))
        .values(state=FileState.UNDONE.value)
    )


def _write_files(connection: Connection, outcome: Outcome) -> None:
    counts = [
        {
            "key": file.file_id,
            "records": file.records,
            "loaded": file.loaded,
            "quarantined": file.quarantined,
        }
        for file in outcome.files
    ]
    if counts:
        columns = ("records", "loaded", "quarantined")
        each = update(t.files).where(t.files.c.file_id == bindparam("key"))
        connection.execute(each.values({name: bindparam(name) for name in columns}), counts)
    months = [
        {
            "file_id": file.file_id,
            "month": month,
            "row_count": totals.rows,
            "amount": str(totals.amount),
        }
        for file in outcome.files
        for month, totals in file.months.items()
    ]
    if months:
        connection.execute(insert(t.file_months), months)


def _chunks(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    """As many at once as every database takes in a list."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _IDS_AT_ONCE):
        yield ordered[start : start + _IDS_AT_ONCE]


def _write_replays(connection: Connection, outcome: Outcome) -> None:
    rows = [
        {"file_id": file.file_id, "origin_file_id": origin, "origin_line": line}
        for file in outcome.files
        for origin, line in file.origins
    ]
    if rows:
        connection.execute(insert(t.replays), rows)


def _write_balances(connection: Connection, outcome: Outcome) -> None:
    columns = t.table_months.c
    for table, months in outcome.balances.items():
        connection.execute(
            delete(t.table_months).where(columns.table_name == table, columns.month.in_(months))
        )
        rows = [
            {
                "table_name": table,
                "month": month,
                "row_count": totals.rows,
                "amount": str(totals.amount),
            }
            for month, totals in months.items()
        ]
        if rows:
            connection.execute(insert(t.table_months), rows)


def _write_schemas(connection: Connection, batch: Batch, outcome: Outcome) -> None:
    """A row for each table whose columns, or what is known of them, are not what they were."""
    columns = t.schemas.c
    for one in outcome.schemas:
        fields = json.dumps([asdict(column) for column in one.columns])
        known = connection.scalar(
            select(columns.fields)
            .where(columns.table_name == one.table)
            .order_by(columns.batch_id.desc())
            .limit(1)
        )
        if known != fields:
            connection.execute(
                insert(t.schemas).values(
                    table_name=one.table,
                    batch_id=batch.batch_id,
                    changed_at=_now(),
                    fields=fields,
                    causes=json.dumps([asdict(change) for change in one.changes]),
                )
            )


def _schema(row: Any) -> Schema:
    return read_schema(row.table_name, json.loads(row.fields), json.loads(row.causes))


def _put(
    connection: Connection, table: Any, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    matches = [table.c[name] == value for name, value in key.items()]
    if connection.execute(select(table).where(*matches)).first() is None:
        connection.execute(insert(table).values(**key, **values))
    elif values:
        connection.execute(update(table).where(*matches).values(**values))


def _put_source(connection: Connection, source: SourceRecord) -> None:
    values = {
        "digest": source.digest,
        "definition": source.definition,
        "version": source.version,
        "cursor_at": source.position,
    }
    _put(connection, t.sources, {"name": source.name}, values)


def _free_stamp(connection: Connection) -> str:
    """The time as YYYYMMDD_HHMMSS, later than every stamp before: one archive folder a batch."""
    now = datetime.now(UTC)
    last = connection.scalar(select(func.max(t.batches.c.stamp)))
    if last and last >= f"{now:%Y%m%d_%H%M%S}":
        now = datetime.strptime(last, "%Y%m%d_%H%M%S").replace(tzinfo=UTC) + timedelta(seconds=1)
    return f"{now:%Y%m%d_%H%M%S}"


def _file_row(batch_id: int, file: NewFile) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "path": file.path,
        "path_hash": _hash(file.path),
        "sha256": file.sha256,
        "size": file.size,
        "version": file.version,
        "state": file.state.value,
        "feed": file.feed,
        "folder": file.folder,
        "message": file.message,
        "supersedes": file.supersedes,
    }


def _file(row: Any) -> LedgerFile:
    return LedgerFile(
        row.file_id,
        row.batch_id,
        row.path,
        row.sha256,
        row.size,
        row.version,
        FileState(row.state),
        row.feed,
        row.folder,
        row.message,
        row.supersedes,
        row.records,
        row.loaded,
        row.quarantined,
    )


def _batch(row: Any) -> Batch:
    return Batch(
        row.batch_id,
        row.run_id,
        datetime.fromisoformat(row.as_of),
        row.stamp,
        BatchState(row.state),
        row.undoes,
    )


def _sum_months(rows: Iterable[Any]) -> dict[str, Totals]:
    months: dict[str, Totals] = {}
    for month, row_count, amount in rows:
        months[month] = months.get(month, Totals()) + Totals(row_count, Decimal(amount))
    return months


def _key(result: Any) -> int:
    return int(result.inserted_primary_key[0])


def _hash(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def _pack(text: str) -> bytes:
    return zlib.compress(text.encode(), 1)


def _unpack(packed: bytes) -> str:
    return zlib.decompress(packed).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
