"""Keep lake and ledger small and quick, without changing a row.

    merge     small files of a month become one; its rows are proven before and after the commit
    log       a checkpoint where a table lacks a recent one; log entries that nobody needs go
    remove    files that left their tables go after a while, but for those that something needs
    fold      the ledger keeps less of what ended long ago
    expire    exports and archived files go that are older than the project keeps them

Each step can be repeated: after a crash anywhere, the next run or maintenance gives the same
tables. Files go, and commits are made, within a transaction that holds the lease: no run that was
stopped and wakes late takes a file away from the one that replaced it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

from retailmart.database import translate_errors
from retailmart.database.dialect import dialect_of
from retailmart.engines import Engine, Write
from retailmart.errors import GateFailed, RetailmartError
from retailmart.files.archive import ExpiredArchive, expire_archive
from retailmart.lake import is_ours
from retailmart.lake.layout import is_known, is_mart, mart_name, raw_table
from retailmart.lake.maintenance import (
    Merge,
    are_worth_a_commit,
    by_month,
    dead_files,
    merges,
    old_log,
    only_some,
    wants_checkpoint,
)
from retailmart.lake.orphans import discard, sweep_merges
from retailmart.marts.exports import ExpiredExports, expire_exports
from retailmart.operations.marts_file import keep_marts_file
from retailmart.project import Project
from retailmart.project.documents import did_you_mean
from retailmart.report import ArchiveReport, MaintenanceReport, Progress, Silent, TableMaintenance
from retailmart.session import Session
from retailmart.sources.restore import standing_versions
from retailmart.tables import DataFile, TableChange, TableState, quoted

if TYPE_CHECKING:
    from retailmart.lake.places import Stored
    from retailmart.project.settings import MaintenanceSettings

# Files that go within one transaction: others wait for it, if only for a moment.
_AT_ONCE = 200
# A file that no log names may be somebody's who is about to commit it.
_OTHERS = timedelta(days=1)
# Measured on two cores, with all rows proven: about so many bytes of small files a second.
_MERGED_A_SECOND = 5e6


def maintain(
    project: Project,
    *,
    dry_run: bool = False,
    tables: Sequence[str] = (),
    progress: Progress | None = None,
) -> MaintenanceReport:
    """Merge small files, remove what no version needs any more, fold the ledger's old rows.

    `tables` are those of the lake to look after, as `raw/sales` or `sales`; default all, and the
    ledger. With `dry_run` nothing is changed, and runs continue meanwhile. Raises RetailmartError
    while a batch is unfinished, ProjectBusy while a run is at work, GateFailed if merged files do
    not hold the same rows; then the table is as it was.
    """
    with Session.open(project, progress or Silent()) as session, translate_errors():
        session.ledger.migrate()
        if not dry_run:
            session.acquire_lease()
            _expect_no_batch(session)
        wanted = _named(session, tables)
        keeper = _Keeper(session, dry_run=dry_run, cleans=not tables)
        if dry_run:
            start = time.perf_counter()
            with session.step("maintain"):
                report = keeper.report(keeper.look_after(wanted, wanted), start)
            return replace(report, problem=_waits_for(session))
        return _recorded(keeper, None, wanted, wanted)


def maintain_after(session: Session, run_id: int) -> MaintenanceReport | None:
    """A little maintenance after a run that brought something; None if there is nothing to do.

    It begins no new work once its budget is spent, and fails no run: what went wrong is in the
    report, and in the ledger.
    """
    settings = session.project.settings.maintenance
    changed = sorted(table for table in session.lake.changed if is_known(table))
    if not (settings.after_run and changed) or session.stop.requested:
        return None
    start = time.perf_counter()
    try:
        with translate_errors():
            due = session.ledger.maintenance.is_due()
            to_clean = _tables(session) if due else []
            to_merge = to_clean or [one for one in changed if _is_worth_merging(session, one)]
            if not to_merge:
                return None
            keeper = _Keeper(session, until=time.monotonic() + settings.budget, cleans=due)
            return _recorded(keeper, run_id, to_merge, to_clean)
    except Exception as error:  # whatever it is: the run is done and right
        message = str(error) or type(error).__name__
        return MaintenanceReport(
            False, seconds=round(time.perf_counter() - start, 3), problem=message
        )


def _recorded(
    keeper: _Keeper, run_id: int | None, to_merge: Sequence[str], to_clean: Sequence[str]
) -> MaintenanceReport:
    """Look after tables, with a record of it in the ledger, however it ends."""
    session, start = keeper.session, time.perf_counter()
    key, was_cut_off = session.ledger.maintenance.begin(run_id)
    try:
        with session.step("maintain"):
            if was_cut_off:
                sweep_merges(session.lake)
            report = keeper.report(keeper.look_after(to_merge, to_clean), start)
    except Exception as error:
        message = str(error) or type(error).__name__
        session.ledger.maintenance.end(key, "failed", message)
        raise
    session.ledger.maintenance.end(key, "done", None)
    return replace(report, marts_file=keep_marts_file(session))


def _expect_no_batch(session: Session) -> None:
    """Raise RetailmartError while a batch is unfinished: its files are in no table yet."""
    if (unfinished := _waits_for(session)) is not None:
        raise RetailmartError(
            f"{unfinished}; nothing was changed",
            "Finish it first: retailmart run; then: retailmart maintain",
        )


def _waits_for(session: Session) -> str | None:
    """The batch that has to be finished first, in words."""
    batch = session.ledger.batches.unfinished()
    if batch is None:
        return None
    return f"batch {batch.batch_id} is unfinished ({batch.state.value})"


def _tables(session: Session) -> list[str]:
    return [table for table in session.lake.place.tables() if is_known(table)]


def _named(session: Session, names: Sequence[str]) -> list[str]:
    """The tables of these names, all if none is named. RetailmartError for unknown ones."""
    known = _tables(session)
    found: list[str] = []
    for name in names:
        own = [table for table in known if name in (table, table.partition("/")[2])]
        if not own:
            raise RetailmartError(
                f"the lake has no table {name!r}{did_you_mean(name, known)}",
                f"It has: {', '.join(known) or 'none yet'}",
            )
        found += own
    return list(dict.fromkeys(found)) or known


def _is_worth_merging(session: Session, table: str) -> bool:
    state = session.lake.state(table)
    return state is not None and are_worth_a_commit(merges(state))


@dataclass(frozen=True)
class _Needed:
    """What must stay of a table: versions that something shows or may go back to, and why."""

    states: tuple[TableState, ...] = ()
    oldest: int | None = None
    why: str | None = None


@dataclass(frozen=True)
class _Keeper:
    """Looks after tables, and with `folds` the ledger. `until` is when it begins nothing new."""

    session: Session
    dry_run: bool = False
    until: float | None = None
    cleans: bool = True
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), compare=False, repr=False)
    _idle: list[int] = field(default_factory=list, compare=False, repr=False)
    _expired: list[tuple[ExpiredExports, ExpiredArchive]] = field(
        default_factory=list, compare=False, repr=False
    )

    def look_after(
        self, to_merge: Collection[str], to_clean: Collection[str]
    ) -> Iterator[TableMaintenance]:
        """Merge files of some tables, and clean up some; what the ledger keeps comes last."""
        for table in dict.fromkeys((*to_merge, *to_clean)):
            if (one := self._table(table, table in to_merge, table in to_clean)) is not None:
                yield one
        if self.cleans and not self._is_late:
            before = datetime.now(UTC) - timedelta(days=self._settings.ledger_days)
            known = self.session.ledger.maintenance
            left = known.idle_runs(before) if self.dry_run else known.remove_idle_runs(before)
            self._idle.append(left)
            self._expired.append(self._expire())
            if not self.dry_run:
                engine = self.session.ledger.engine
                dialect_of(engine).compact(engine)
                known.mark_done()

    def _expire(self) -> tuple[ExpiredExports, ExpiredArchive]:
        """Remove exports and archived files that are older than the project keeps them."""
        session, keep = self.session, self.session.project.settings.keep
        left = None if self.until is None else max(0.0, self.until - time.monotonic())
        exports = expire_exports(
            session.ledger, session.lake, keep, dry_run=self.dry_run, seconds=left
        )
        if keep.archive == "for ever" or self._is_late:
            return exports, ExpiredArchive()
        now = datetime.now(UTC)
        return exports, expire_archive(
            session.ledger, session.archive, keep.archive, now, dry_run=self.dry_run, seconds=left
        )

    def report(self, found: Iterable[TableMaintenance], start: float) -> MaintenanceReport:
        """What was done, in the order of tables."""
        tables = tuple(sorted(found, key=lambda one: one.table))
        seconds = round(time.perf_counter() - start, 3)
        exports, archive = self._expired[0] if self._expired else (None, None)
        return MaintenanceReport(
            self.dry_run,
            tables,
            sum(self._idle),
            seconds,
            # What is only announced stays.
            exports=exports.folders if exports and not exports.announced else (),
            exports_freed=exports.size.bytes if exports and not exports.announced else 0,
            archive=ArchiveReport(archive.files, archive.bytes, archive.needed)
            if archive and archive.files
            else None,
        )

    @property
    def _settings(self) -> MaintenanceSettings:
        return self.session.project.settings.maintenance

    @property
    def _is_late(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until

    def _table(self, table: str, merge: bool, clean: bool) -> TableMaintenance | None:
        lake = self.session.lake
        state = lake.state(table)
        if state is None or self._is_late:
            return None
        one = TableMaintenance(table, len(state.files))
        self.session.progress.message("maintain", table)
        if clean and not self.dry_run:
            if lake.remember_removed(table, self._settings.retention_days):
                lake.checkpoint(table)  # what it need not remember any more is in none from here on
            self._settle(table)
        if merge:
            one = self._merge(one, state)
        return self._clean(one) if clean else one

    # merge

    def _merge(self, one: TableMaintenance, state: TableState) -> TableMaintenance:
        found = merges(state)
        most = math.inf
        if self.until is not None:
            most = max(0.0, self.until - time.monotonic()) * _MERGED_A_SECOND
        chosen = only_some(found, most)
        left = sum(len(merge.files) for merge in found) - sum(len(m.files) for m in chosen)
        one = replace(one, left=left)
        if not chosen:
            return one
        old = tuple(file for merge in chosen for file in merge.files)
        new = () if self.dry_run else self._merged(one.table, chosen, old)
        return replace(
            one,
            merged=len(old),
            into=len(new) or len(chosen),
            merged_bytes=sum(file.size for file in old),
            written_bytes=sum(file.size for file in new),
        )

    def _merged(
        self, table: str, chosen: Sequence[Merge], old: tuple[DataFile, ...]
    ) -> tuple[DataFile, ...]:
        """Rewrite the files as fewer ones, and let them take the place of the old ones."""
        session, lake = self.session, self.session.lake
        version = lake.version(table)
        state = lake.state(table, version)
        if version is None or state is None:
            return ()
        engine = session.engine()
        # What it costs to be sure: the rows are read once more before and twice after.
        before = _digest(engine, state, old)
        new = self._written(engine, table, state, chosen)
        change = TableChange(
            table, state.fields, state.partition_by, new, tuple(file.path for file in old)
        )
        decided = False
        try:
            if _digest(engine, state, new) != before:
                raise GateFailed(
                    f"{table}: merged files would not hold the rows that they replace; the table"
                    " stays as it is",
                    "See whether the disk and the memory of this machine are sound; then verify"
                    " with: retailmart verify",
                )
            lake.persist(change)
            with session.ledger.transaction() as connection:
                decided = True  # from here on the files may be in the table, whatever is raised
                after = lake.merge(change, version)
                if is_mart(table):
                    session.ledger.marts.move_on(connection, mart_name(table), version, after)
        except BaseException:
            if not decided:
                discard(lake, [change])
            raise
        self._expect(engine, table, change, old, before, after)
        return new

    def _written(
        self, engine: Engine, table: str, state: TableState, chosen: Sequence[Merge]
    ) -> tuple[DataFile, ...]:
        lake, months = self.session.lake, by_month(chosen)
        prefix = lake.maintenance_prefix(next(self._numbers))
        root, by = lake.folder(table), state.partition_by
        if by:
            parts = {
                str(month): {"merged": state.only(files)} for month, files in sorted(months.items())
            }
            write = Write("SELECT * FROM merged", root, prefix, by, {}, parts, columns=state.fields)
        else:
            rows = engine.define(state.only(months[None]))
            write = Write(f"SELECT * FROM {rows}", root, prefix, by, {}, columns=state.fields)
        (found,) = engine.write_each([write])
        if isinstance(found, RetailmartError):
            raise found
        return found

    def _expect(
        self,
        engine: Engine,
        table: str,
        change: TableChange,
        old: tuple[DataFile, ...],
        before: _Digest,
        version: int,
    ) -> None:
        """Prove the committed version by its log; if it is not as it should be, go back."""
        session, lake = self.session, self.session.lake
        state = lake.state(table, version)
        wanted = {file.path for file in change.adds}
        there = [file for file in state.files if file.path in wanted] if state else []
        gone = set(change.removes)
        right = (
            state is not None
            and len(there) == len(wanted)
            and not any(file.path in gone for file in state.files)
            and _digest(engine, state, there) == before
        )
        if right:
            return
        back = replace(change, adds=old, removes=tuple(file.path for file in there))
        with session.ledger.transaction() as connection:
            after = lake.merge(back, version)
            if is_mart(table):
                session.ledger.marts.move_on(connection, mart_name(table), version, after)
        raise GateFailed(
            f"{table}: its version {version} does not hold the rows that it should; the files"
            f" before it are back as version {after}",
            "See whether the disk and the memory of this machine are sound; then verify with:"
            " retailmart verify",
        )

    # clean

    def _settle(self, table: str) -> None:
        """Let the ledger know that a mart's table shows the newest version, if only files changed.

        Maintenance that was killed after its commit has not told.
        """
        ledger, lake = self.session.ledger, self.session.lake
        if not is_mart(table) or (version := lake.version(table)) is None:
            return
        shown = self.session.ledger.marts.all().get(mart_name(table))
        since = shown.published_version if shown else None
        if since is not None and since < version and lake.is_only_maintained(table, since, version):
            with ledger.transaction() as connection:
                ledger.marts.move_on(connection, mart_name(table), since, version)

    def _clean(self, one: TableMaintenance) -> TableMaintenance:
        """Remove files and log entries that nothing needs."""
        table, lake, days = one.table, self.session.lake, self._settings.retention_days
        version = lake.version(table)
        if version is None:
            return one
        stored = lake.place.stored(table)
        planned: list[int] = []
        if wants_checkpoint(version, stored):
            if self.dry_run:
                planned.append(version)
            else:
                lake.checkpoint(table)
                stored = lake.place.stored(table)
        needed = self._needed(table, version)
        now = time.time()
        dead = self._dead(table, needed, stored)
        before, oldest = now - days * 86400, version if needed.oldest is None else needed.oldest
        first, entries = old_log(version, stored, before, oldest, planned)
        if not self.dry_run:
            self._discard(table, [file.path for file in dead])
            if entries and not self._can_begin_at(table, first):
                entries = []
            self._discard(table, [entry.path for entry in entries])
        gone = (*dead, *entries)
        return replace(
            one,
            removed=len(dead),
            log_entries=len(entries),
            removed_bytes=sum(file.size for file in gone),
            freed=sum(file.size for file in gone if not file.linked),
            kept=needed.why,
        )

    def _dead(self, table: str, needed: _Needed, stored: Sequence[Stored]) -> list[Stored]:
        lake, hours = self.session.lake, self._settings.retention_days * 24
        dead = dead_files(lake, table, hours, needed.states, stored)
        if not dead:
            return []
        # All of these left the table; a file that never was in it may be somebody's new one.
        left = {file.path for file in dead_files(lake, table, hours, (), stored, logged=True)}
        aged = time.time() - _OTHERS.total_seconds()
        # Nothing of ours is about to be committed: no batch is unfinished.
        return [
            file for file in dead if file.path in left or file.modified < aged or is_ours(file.path)
        ]

    def _can_begin_at(self, table: str, first: int) -> bool:
        """Whether the log is whole from a checkpoint on; what is before it goes only then."""
        lake = self.session.lake
        lake.place.persist_log(table, first)
        return lake.can_open(table, first)

    def _discard(self, table: str, paths: Sequence[str]) -> None:
        session = self.session
        for start in range(0, len(paths), _AT_ONCE):
            with session.ledger.transaction():
                session.lake.place.discard_all(table, paths[start : start + _AT_ONCE])

    def _needed(self, table: str, version: int) -> _Needed:
        """The versions of which all files stay, whatever their age."""
        ledger, lake = self.session.ledger, self.session.lake
        found: dict[int, str] = {}
        if is_mart(table):
            for shown in ledger.marts.published():
                if shown.mart == mart_name(table) and shown.version is not None:
                    found[shown.version] = f"{shown.name} in the database shows it"
        elif any(raw_table(name) == table for name in ledger.sources.all()):
            versions = standing_versions(lake.batches(table), ledger.batches.stood_after_undos())
            # The newest run can be undone at any time: its tables go back to what was before.
            for before, _ in versions[-2:-1]:
                found[before] = "an undo of the newest run goes back to it"
        older = {at: why for at, why in found.items() if at < version}
        states = (lake.state(table, at) for at in older)
        oldest = min(older, default=None)
        return _Needed(
            tuple(state for state in states if state is not None),
            oldest,
            None if oldest is None else f"version {oldest}: {older[oldest]}",
        )


# By partition: how many rows there are, and the sum and the parity of their hashes.
_Digest = dict[tuple[str | None, ...], tuple[int, int, int]]


def _digest(engine: Engine, state: TableState, files: Iterable[DataFile]) -> _Digest:
    """A digest of the rows of some files that depends on each value, not on the rows' order.

    It is computed three times for each merge, so it is a lighter one than that of `verify`.
    """
    columns = ", ".join(quoted(field.name) for field in state.fields)
    by = [f"CAST({quoted(name)} AS VARCHAR)" for name in state.partition_by]
    figures = "count(*), sum(_h), bit_xor(_h)"
    query = f"SELECT {', '.join([*by, f'hash({columns}) AS _h'])} FROM"
    named = ", ".join([*(f"p{n}" for n, _ in enumerate(by)), figures])
    parts = "".join(f"p{n}, " for n, _ in enumerate(by)) + "_h"
    rows = engine.rows(
        f"SELECT {named} FROM ({query} {engine.define(state.only(files))}) AS _s({parts})"
        + (f" GROUP BY {', '.join(f'p{n}' for n, _ in enumerate(by))}" if by else "")
    )
    at = len(by)
    return {row[:at]: (int(row[at]), int(row[at + 1] or 0), int(row[at + 2] or 0)) for row in rows}
