"""The ledger records every file, its state and totals. Each change is one fenced transaction."""

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

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
)
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
    PublishedTable,
    RunRecord,
    Schema,
    SchemaRecord,
    SourceRecord,
    Totals,
    name_hash,
    read_schema,
)

__all__ = ["Lease", "Ledger", "claim"]

# The connection option for reads without a lock; `database` begins transactions accordingly.
READS = "retailmart_reads"
# A row next to the lease says when the next search for orphaned files is due.
_SWEEP = "sweep"
# Seconds between attempts while another first run creates the tables.
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
    """The ledger's tables in one database; writes verify the lease in their own transaction."""

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
                # Several first runs at once: where creating a table ends a transaction, each run
                # meets tables that the others have half created. Each step can be repeated.
                if pause is None:
                    raise
                time.sleep(pause)

    def is_there(self) -> bool:
        """Whether the database has a ledger, from this release or an older one."""
        with self._reading() as connection:
            return inspect(connection).has_table(t.marts.name)

    def _reading(self) -> Connection:
        """A connection that only reads, and so does not wait for writers."""
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
        """Record that a run began; a run that was killed before is closed as killed.

        In that case the search for its orphaned files is due at once.
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
        """Whether it is time to search for orphaned files."""
        query = select(t.lease.c.expires_at).where(t.lease.c.name == _SWEEP)
        with self._reading() as connection:
            due = connection.scalar(query)
        return due is None or due <= _now()

    def mark_swept(self) -> None:
        """Record a search for orphaned files; the next one is due in a day."""
        due = (datetime.now(UTC) + _SWEPT_EVERY).isoformat()
        with self.transaction() as connection:
            _put(connection, t.lease, {"name": _SWEEP}, {"fence": 0, "expires_at": due})

    def record_steps(
        self,
        run_id: int,
        batch_id: int | None,
        seconds: Sequence[tuple[str, float]],
        failed: str | None = None,
    ) -> None:
        """Record how long each step of a run took, and in which of them the run failed."""
        rows = [
            {
                "run_id": run_id,
                "batch_id": batch_id,
                "step": step,
                "finished_at": _now(),
                "milliseconds": round(took * 1000),
                "state": "failed" if step == failed else "done",
            }
            for step, took in seconds
        ]
        if rows:
            with self.transaction() as connection:
                connection.execute(insert(t.steps), rows)

    def last_runs(self, count: int) -> list[RunRecord]:
        """The newest runs, newest first."""
        columns = t.runs.c
        failed = (
            select(func.max(t.steps.c.step))
            .where(t.steps.c.run_id == columns.run_id, t.steps.c.state == "failed")
            .scalar_subquery()
        )
        query = (
            select(
                columns.run_id,
                columns.started_at,
                columns.finished_at,
                columns.as_of,
                columns.state,
                columns.message,
                failed,
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
        """Create the batch: record its files and their states in one transaction.

        `undoes` is the run whose files leave with it, if it undoes one.
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
        """Whether this run exists."""
        with self._reading() as connection:
            return bool(connection.scalar(select(t.runs.c.run_id).where(t.runs.c.run_id == run_id)))

    def batch(self, batch_id: int) -> Batch:
        """The batch with this key."""
        with self._reading() as connection:
            return _batch(
                connection.execute(select(t.batches).where(t.batches.c.batch_id == batch_id)).one()
            )

    def batches_of_run(self, run_id: int) -> list[Batch]:
        """The batches that a run staged, without those that it only finished."""
        query = select(t.batches).where(t.batches.c.run_id == run_id).order_by(t.batches.c.batch_id)
        with self._reading() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def files_of_run(self, run_id: int) -> list[LedgerFile]:
        """The files of the batches that a run staged."""
        of_run = select(t.batches.c.batch_id).where(t.batches.c.run_id == run_id)
        return self._files(t.files.c.batch_id.in_(of_run))

    def batches_to_undo(self, run_id: int) -> list[Batch]:
        """The batches to undo for a run: those it began, and those it finished."""
        query = select(t.batches).where(_undone_with(run_id)).order_by(t.batches.c.batch_id)
        with self._reading() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def stood_after_undos(self) -> dict[int, int]:
        """For each undo's batch, the newest batch that remained after it; 0 if none did."""
        query = (
            select(t.batches)
            .where(t.batches.c.state != BatchState.ABANDONED.value)
            .order_by(t.batches.c.batch_id)
        )
        with self._reading() as connection:
            batches = [_batch(row) for row in connection.execute(query)]
        standing: list[int] = []
        found: dict[int, int] = {}
        for batch in batches:
            if batch.undoes is None:
                standing.append(batch.batch_id)
                continue
            gone = {one.batch_id for one in self.batches_to_undo(batch.undoes)}
            standing = [key for key in standing if key not in gone]
            found[batch.batch_id] = max(standing, default=0)
        return found

    def files_to_undo(self, run_id: int) -> list[LedgerFile]:
        """The files of the batches to undo for a run."""
        batches = select(t.batches.c.batch_id).where(_undone_with(run_id))
        return self._files(t.files.c.batch_id.in_(batches))

    def moment_without(self, run_id: int) -> datetime | None:
        """The `as_of` of the newest batch that stays when a run is undone."""
        query = (
            select(t.batches)
            .where(t.batches.c.state != BatchState.ABANDONED.value)
            .order_by(t.batches.c.batch_id.desc())
        )
        with self._reading() as connection:
            batches = [_batch(row) for row in connection.execute(query)]
        runs = {run_id} | {batch.undoes for batch in batches if batch.undoes is not None}
        gone = {batch.batch_id for run in runs for batch in self.batches_to_undo(run)}
        staying = (one for one in batches if one.undoes is None and one.batch_id not in gone)
        newest = next(staying, None)
        return newest.as_of if newest else None

    def deliveries(self, sha256: str) -> list[LedgerFile]:
        """Every file that was ever delivered with this content."""
        return self._files(t.files.c.sha256 == sha256)

    def replayers(
        self, file_ids: Iterable[int], states: Iterable[FileState] = (FileState.LOADED,)
    ) -> list[LedgerFile]:
        """The files in these states that replayed refused rows of other files."""
        of_origin = select(t.replays.c.file_id).where(
            t.replays.c.origin_file_id.in_(list(file_ids))
        )
        known = t.files.c.state.in_([state.value for state in states])
        return self._files(t.files.c.file_id.in_(of_origin) & known)

    def decided_fences(self) -> dict[int, int | None]:
        """For each batch, the fencing token of its deciding attempt; None if it was abandoned."""
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
        """The feeds for which a file was ever loaded."""
        states = (FileState.LOADED, FileState.SUPERSEDED, FileState.UNDONE)
        query = (
            select(t.files.c.feed).where(t.files.c.state.in_(s.value for s in states)).distinct()
        )
        with self._reading() as connection:
            return {str(feed) for feed in connection.scalars(query)}

    def find_file(self, path: str) -> LedgerFile | None:
        """The newest delivery under this path, found by its whole path or its name alone."""
        found = self._files(t.files.c.path_hash == _hash(path)) or self._files(
            t.files.c.path.endswith(f"/{path}", autoescape=True)
        )
        return found[-1] if found else None

    def file(self, file_id: int) -> LedgerFile:
        """The file with this key."""
        return self._files(t.files.c.file_id == file_id)[0]

    def standing(self, path: str) -> LedgerFile | None:
        """The newest readable delivery under this path: the current version of the name."""
        known = t.files.c.state.in_(_READABLE)
        found = self._files((t.files.c.path_hash == _hash(path)) & known)
        return found[-1] if found else None

    def readable_at(self, paths: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery under these paths, oldest first."""
        return self._readable(t.files.c.path_hash, map(_hash, paths))

    def readable_of(self, contents: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery with these contents (SHA-256), oldest first."""
        return self._readable(t.files.c.sha256, contents)

    def readable_alike(self, paths: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery under these paths or similar names, oldest first."""
        return self._readable(t.files.c.name_hash, set(map(name_hash, paths)))

    def _readable(self, column: Any, values: Iterable[str]) -> list[LedgerFile]:
        known = t.files.c.state.in_(_READABLE)
        found = [file for some in _chunks(values) for file in self._files(column.in_(some) & known)]
        return sorted(found, key=lambda file: file.file_id)

    def names_of(self, sha256: str) -> set[str]:
        """The paths whose current version has this content."""
        known = t.files.c.state.in_(_READABLE)
        paths = {file.path for file in self._files((t.files.c.sha256 == sha256) & known)}
        newest = {path: self.standing(path) for path in paths}
        return {path for path, file in newest.items() if file and file.sha256 == sha256}

    def counted_by_content(self, sha256: str) -> LedgerFile | None:
        """The file with this content whose rows are now counted."""
        counted = t.files.c.state == FileState.LOADED.value
        found = self._files((t.files.c.sha256 == sha256) & counted)
        return found[-1] if found else None

    def months_of_files(self, file_ids: Iterable[int]) -> dict[str, Totals]:
        """The total rows and money of these files, by month."""
        query = select(
            t.file_months.c.month, t.file_months.c.row_count, t.file_months.c.amount
        ).where(t.file_months.c.file_id.in_(list(file_ids)))
        with self._reading() as connection:
            return _sum_months(connection.execute(query))

    def counted_months(self, feed: str, months: Iterable[str]) -> dict[str, Totals]:
        """Rows and money by month of all files of a feed that are now counted."""
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
        """Rows and money by month that a table last held."""
        columns = t.table_months.c
        query = select(columns.month, columns.row_count, columns.amount).where(
            columns.table_name == table
        )
        with self._reading() as connection:
            return _sum_months(connection.execute(query))

    # the states of a batch

    def prepare(self, batch: Batch, changes: Mapping[str, str], outcome: Outcome) -> None:
        """Decide the batch: after this it can only be finished. `changes` is table → JSON."""
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
        """The values that `prepare` recorded."""
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
        """Record that the lake holds the batch."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.COMMITTED)

    def mark_published(
        self,
        connection: Connection,
        batch: Batch,
        outcome: Outcome,
        published: Iterable[MartRecord],
    ) -> None:
        """Record a batch as published, in the transaction that publishes its marts."""
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
            _mark_undone(connection, batch.undoes)
        if outcome.returned:
            connection.execute(
                update(t.files)
                .where(t.files.c.file_id.in_(outcome.returned))
                .values(state=FileState.LOADED.value)
            )
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
        for name, record in records.items():
            if shown_as := record.published_as:
                shows = {"mart": name, "version": record.published_version}
                _put(connection, t.published, {"name": shown_as}, shows)
                others = (t.marts.c.published_as == shown_as) & (t.marts.c.name != name)
                connection.execute(_shows_nothing().where(others))

    def mark_done(self, batch: Batch, run_id: int | None = None) -> None:
        """Record that a run archived the files; the decided commits are no longer needed."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.DONE, finished_by=run_id)
            connection.execute(delete(t.commits).where(t.commits.c.batch_id == batch.batch_id))

    def abandon(self, batch: Batch) -> None:
        """Abandon a batch that a check refused; its files count as never seen."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.ABANDONED)
            connection.execute(
                update(t.files)
                .where(t.files.c.batch_id == batch.batch_id)
                .values(state=FileState.RELEASED.value)
            )

    # marts and sources

    def marts(self) -> dict[str, MartRecord]:
        """The ledger's record of each mart."""
        with self._reading() as connection:
            return {row.name: MartRecord(*row) for row in connection.execute(select(t.marts))}

    def published(self) -> list[PublishedTable]:
        """The tables that belong to this project: all names under which marts were ever published.

        A ledger of an earlier release, which only a run migrates, returns what it knows.
        """
        with self._reading() as connection:
            look, name = inspect(connection), t.published.name
            has = look.get_columns(name) if look.has_table(name) else []
            if "mart" in {column["name"] for column in has}:
                rows = connection.execute(select(t.published).order_by(t.published.c.name))
                return [PublishedTable(*row) for row in rows]
            names = list(connection.scalars(select(t.published.c.name))) if has else []
        known = {one: PublishedTable(one) for one in names}
        for record in self.marts().values():
            if shown_as := record.published_as:
                known[shown_as] = PublishedTable(shown_as, record.name, record.published_version)
        return list(known.values())

    def forget_published(self, connection: Connection, name: str) -> None:
        """Stop managing a published table, in the transaction that drops it.

        Its mart counts as never built. If the mart is published again, a run has work to do, even
        if nothing has landed.
        """
        connection.execute(delete(t.published).where(t.published.c.name == name))
        shown = t.marts.c.published_as == name
        connection.execute(_shows_nothing().values(fingerprint=None).where(shown))

    def sources(self) -> dict[str, SourceRecord]:
        """The ledger's record of each source table."""
        with self._reading() as connection:
            return {row.name: SourceRecord(*row) for row in connection.execute(select(t.sources))}

    def saw_sources(self, sources: Iterable[SourceRecord]) -> None:
        """Record sources that were probed and have not changed."""
        with self.transaction() as connection:
            for source in sources:
                _put_source(connection, source)

    # the columns of raw tables

    def schema(self, table: str) -> Schema | None:
        """A raw table's current columns; None if no batch has recorded them."""
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
        """The history of the columns of all raw tables, oldest first."""
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

    # replayed rows

    def files_among(self, file_ids: Iterable[int]) -> list[LedgerFile]:
        """The files with these keys; keys without a file are left out."""
        chunks = _chunks(file_ids)
        return [file for ids in chunks for file in self._files(t.files.c.file_id.in_(ids))]

    def brought_back(self, file_ids: Iterable[int]) -> dict[tuple[int, int], LedgerFile]:
        """The refused rows of these files that are now counted: (file, line) → replaying file."""
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
        """Whether the file replayed refused rows of other files."""
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


def _shows_nothing() -> Any:
    """Marts that no table shows (any more)."""
    return update(t.marts).values(
        published_as=None, published_version=None, published_fingerprint=None
    )


def _undone_with(run_id: int) -> Any:
    """Whether undoing a run undoes a batch. The batch of an undo itself never is."""
    columns = t.batches.c
    ours = (columns.run_id == run_id) | (columns.finished_by == run_id)
    return ours & columns.undoes.is_(None) & (columns.state != BatchState.ABANDONED.value)


def _mark_undone(connection: Connection, run_id: int) -> None:
    batches = select(t.batches.c.batch_id).where(_undone_with(run_id))
    connection.execute(
        update(t.files)
        .where(t.files.c.batch_id.in_(batches), t.files.c.state.in_(_READABLE))
        .values(state=FileState.UNDONE.value)
    )


def _write_files(connection: Connection, outcome: Outcome) -> None:
    counts = [
        {
            "key": file.file_id,
            "records": file.records,
            "loaded": file.loaded,
            "quarantined": file.quarantined,
            "amount": None if file.amount is None else str(file.amount),
        }
        for file in outcome.files
    ]
    if counts:
        columns = ("records", "loaded", "quarantined", "amount")
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
    # A file that counts again was loaded before.
    for ids in _chunks(outcome.returned):
        connection.execute(delete(t.file_months).where(t.file_months.c.file_id.in_(ids)))
    if months:
        connection.execute(insert(t.file_months), months)


def _chunks(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    """Lists no longer than every database accepts."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _IDS_AT_ONCE):
        yield ordered[start : start + _IDS_AT_ONCE]


def _write_replays(connection: Connection, outcome: Outcome) -> None:
    rows = [
        {"file_id": file.file_id, "origin_file_id": origin, "origin_line": line}
        for file in outcome.files
        for origin, line in file.origins
    ]
    for ids in _chunks(outcome.returned):
        connection.execute(delete(t.replays).where(t.replays.c.file_id.in_(ids)))
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
    """Add a row for each table whose columns, or knowledge of them, have changed."""
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
        "collation": source.collation,
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
        "name_hash": name_hash(file.path),
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
