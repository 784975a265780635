"""The ledger's record of batches, and the states that each moves through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from retailmart.errors import RetailmartError
from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.outcomes import record, undone_with
from retailmart.ledger.returned import give_back
from retailmart.ledger.rows import batch_of, execute_many, hash_of, key_of, pack, unpack
from retailmart.ledger.values import (
    Again,
    Batch,
    BatchState,
    FileState,
    MartRecord,
    NewFile,
    Outcome,
    name_hash,
)

_FILE, _MART = "file", "mart"
_NOTHING_AGAIN = Again()
_OPEN = (BatchState.ACTIVE, BatchState.PREPARED, BatchState.COMMITTED, BatchState.PUBLISHED)


class Batches(Access):
    """Batches: staged, prepared, committed, published and done, or abandoned."""

    def unfinished(self) -> Batch | None:
        """The batch that is not done yet, if any."""
        states = [state.value for state in _OPEN]
        with self.reading() as connection:
            row = connection.execute(select(t.batches).where(t.batches.c.state.in_(states))).first()
        return batch_of(row) if row else None

    def stage(
        self,
        run_id: int,
        as_of: datetime,
        new_files: Iterable[NewFile],
        undoes: int | None = None,
        again: Again = _NOTHING_AGAIN,
    ) -> Batch:
        """Create the batch: record its files and their states in one transaction.

        `undoes` is the run whose files leave with it, if it undoes one; `again` is what it does
        again.
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
            batch = Batch(key_of(result), run_id, as_of, stamp, BatchState.ACTIVE, undoes)
            rows = (_file_row(batch.batch_id, file) for file in new_files)
            execute_many(connection, insert(t.files), rows)
            named = [(_FILE, str(key)) for key in again.files]
            named += [(_MART, name) for name in again.marts]
            redone = ({"batch_id": batch.batch_id, "kind": k, "name": name} for k, name in named)
            execute_many(connection, insert(t.again), redone)
        return batch

    def again(self, *batch_ids: int) -> Again:
        """What these batches do again."""
        query = select(t.again.c.kind, t.again.c.name).where(t.again.c.batch_id.in_(batch_ids))
        with self.reading() as connection:
            found = [(row.kind, row.name) for row in connection.execute(query)]
        return Again(
            tuple(sorted({int(name) for kind, name in found if kind == _FILE})),
            tuple(sorted({name for kind, name in found if kind == _MART})),
        )

    def get(self, batch_id: int) -> Batch:
        """The batch with this key."""
        with self.reading() as connection:
            return batch_of(
                connection.execute(select(t.batches).where(t.batches.c.batch_id == batch_id)).one()
            )

    def done_before(self, stamp: str) -> list[Batch]:
        """The batches whose files were archived under an earlier stamp, oldest first."""
        columns = t.batches.c
        done = (columns.state == BatchState.DONE.value) & (columns.stamp < stamp)
        query = select(t.batches).where(done).order_by(columns.batch_id)
        with self.reading() as connection:
            return [batch_of(row) for row in connection.execute(query)]

    def newest(self) -> Batch | None:
        """The batch that was staged last and was not abandoned, if any."""
        columns = t.batches.c
        kept = select(t.batches).where(columns.state != BatchState.ABANDONED.value)
        query = kept.order_by(columns.batch_id.desc()).limit(1)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return batch_of(row) if row else None

    def last_built(self) -> Batch | None:
        """The newest batch whose marts are published."""
        columns = t.batches.c
        built = columns.state.in_((BatchState.PUBLISHED.value, BatchState.DONE.value))
        query = select(t.batches).where(built).order_by(columns.batch_id.desc()).limit(1)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return batch_of(row) if row else None

    def of_run(self, run_id: int) -> list[Batch]:
        """The batches that a run staged, without those that it only finished."""
        query = select(t.batches).where(t.batches.c.run_id == run_id).order_by(t.batches.c.batch_id)
        with self.reading() as connection:
            return [batch_of(row) for row in connection.execute(query)]

    def to_undo(self, run_id: int) -> list[Batch]:
        """The batches to undo for a run: those it began, and those it finished."""
        query = select(t.batches).where(undone_with(run_id)).order_by(t.batches.c.batch_id)
        with self.reading() as connection:
            return [batch_of(row) for row in connection.execute(query)]

    def stood_after_undos(self) -> dict[int, int]:
        """For each undo's batch, the newest batch that remained after it; 0 if none did."""
        query = (
            select(t.batches)
            .where(t.batches.c.state != BatchState.ABANDONED.value)
            .order_by(t.batches.c.batch_id)
        )
        with self.reading() as connection:
            batches = [batch_of(row) for row in connection.execute(query)]
        standing: list[int] = []
        found: dict[int, int] = {}
        for batch in batches:
            if batch.undoes is None:
                standing.append(batch.batch_id)
                continue
            gone = {one.batch_id for one in self.to_undo(batch.undoes)}
            standing = [key for key in standing if key not in gone]
            found[batch.batch_id] = max(standing, default=0)
        return found

    def undone_by(self, run_id: int, *, open_too: bool = True) -> int | None:
        """The run that undid a run, by whichever of its numbers; None if none did.

        `open_too` also counts an undo that has begun, and is not published yet.
        """
        ended = (BatchState.PUBLISHED.value, BatchState.DONE.value)
        state = t.batches.c.state
        known = state != BatchState.ABANDONED.value if open_too else state.in_(ended)
        undos = select(t.batches).where(t.batches.c.undoes.is_not(None), known)
        with self.reading() as connection:
            found = [batch_of(row) for row in connection.execute(undos)]
        gone = {batch.batch_id for batch in self.to_undo(run_id)}
        return next(
            (
                undo.run_id
                for undo in reversed(found)
                if undo.undoes is not None
                and gone & {batch.batch_id for batch in self.to_undo(undo.undoes)}
            ),
            None,
        )

    def moment_without(self, run_id: int) -> datetime | None:
        """The `as_of` of the newest batch that stays when a run is undone."""
        query = (
            select(t.batches)
            .where(t.batches.c.state != BatchState.ABANDONED.value)
            .order_by(t.batches.c.batch_id.desc())
        )
        with self.reading() as connection:
            batches = [batch_of(row) for row in connection.execute(query)]
        runs = {run_id} | {batch.undoes for batch in batches if batch.undoes is not None}
        gone = {batch.batch_id for run in runs for batch in self.to_undo(run)}
        staying = (one for one in batches if one.undoes is None and one.batch_id not in gone)
        newest = next(staying, None)
        return newest.as_of if newest else None

    def decided_fences(self) -> dict[int, int | None]:
        """For each batch, the fencing token of its deciding attempt; None if it was abandoned."""
        columns = t.batches.c
        query = select(columns.batch_id, columns.fence).where(
            columns.fence.is_not(None) | (columns.state == BatchState.ABANDONED.value)
        )
        with self.reading() as connection:
            return {row.batch_id: row.fence for row in connection.execute(query)}

    def prepare(self, batch: Batch, changes: Mapping[str, str], outcome: Outcome) -> None:
        """Decide the batch: after this it can only be finished. `changes` is table → JSON."""
        with self.transaction() as connection:
            packed = pack(outcome.to_json())
            fence = self.lease.fence if self.lease else None
            self._move(connection, batch, BatchState.PREPARED, outcome=packed, fence=fence)
            rows = [
                {"batch_id": batch.batch_id, "table_name": table, "change": pack(change)}
                for table, change in changes.items()
            ]
            if rows:
                connection.execute(insert(t.commits), rows)

    def prepared(self, batch: Batch) -> tuple[Outcome, dict[str, str]]:
        """The values that `prepare` recorded."""
        with self.reading() as connection:
            packed = connection.scalar(
                select(t.batches.c.outcome).where(t.batches.c.batch_id == batch.batch_id)
            )
            rows = connection.execute(
                select(t.commits.c.table_name, t.commits.c.change).where(
                    t.commits.c.batch_id == batch.batch_id
                )
            )
            changes = {table: unpack(change) for table, change in rows}
        return Outcome.from_json(unpack(packed or b"")), changes

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
        record(connection, batch, outcome, published)

    def mark_done(self, batch: Batch, kept: Outcome, run_id: int | None = None) -> None:
        """Record that a run archived the files. Of what was decided, only `kept` stays."""
        with self.transaction() as connection:
            packed = pack(kept.to_json())
            self._move(connection, batch, BatchState.DONE, finished_by=run_id, outcome=packed)
            connection.execute(delete(t.commits).where(t.commits.c.batch_id == batch.batch_id))
            if batch.undoes is not None:  # an earlier release may have begun it
                give_back(connection, batch.batch_id)

    def abandon(self, batch: Batch) -> None:
        """Abandon a batch that a check refused; its files count as never seen."""
        with self.transaction() as connection:
            self._move(connection, batch, BatchState.ABANDONED)
            connection.execute(
                update(t.files)
                .where(t.files.c.batch_id == batch.batch_id)
                .values(state=FileState.RELEASED.value)
            )

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
        "path_hash": hash_of(file.path),
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
