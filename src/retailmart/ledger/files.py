"""The ledger's record of delivered files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from sqlalchemy import func, select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.outcomes import undone_with
from retailmart.ledger.rows import READABLE, chunks, files_where, hash_of, sum_months
from retailmart.ledger.values import CountedBy, FileState, LedgerFile, Totals, name_hash


class Files(Access):
    """Delivered files, each with its state, its counts and its rows and money by month."""

    def of_batch(self, batch_id: int) -> list[LedgerFile]:
        """All files of a batch, in the order they were staged."""
        return self._select(t.files.c.batch_id == batch_id)

    def of_run(self, run_id: int) -> list[LedgerFile]:
        """The files of the batches that a run staged."""
        of_run = select(t.batches.c.batch_id).where(t.batches.c.run_id == run_id)
        return self._select(t.files.c.batch_id.in_(of_run))

    def to_undo(self, run_id: int) -> list[LedgerFile]:
        """The files of the batches to undo for a run."""
        batches = select(t.batches.c.batch_id).where(undone_with(run_id))
        return self._select(t.files.c.batch_id.in_(batches))

    def get(self, file_id: int) -> LedgerFile:
        """The file with this key."""
        return self._select(t.files.c.file_id == file_id)[0]

    def among(self, file_ids: Iterable[int]) -> list[LedgerFile]:
        """The files with these keys; keys without a file are left out."""
        some = chunks(file_ids)
        return [file for ids in some for file in self._select(t.files.c.file_id.in_(ids))]

    def in_state(self, *states: FileState, limit: int | None = None) -> list[LedgerFile]:
        """Files in these states, newest last."""
        found = self._select(t.files.c.state.in_([state.value for state in states]))
        return found[-limit:] if limit else found

    def count(self) -> dict[str, int]:
        """How many files are in each state."""
        query = select(t.files.c.state, func.count().label("n")).group_by(t.files.c.state)
        with self.reading() as connection:
            return {row.state: row.n for row in connection.execute(query)}

    def counted_of(
        self, feed: str, first: date | None = None, last: date | None = None
    ) -> list[LedgerFile]:
        """The counted files of a feed that came on days (UTC) from `first` to `last`."""
        stamp = t.batches.c.stamp
        batches = select(t.batches.c.batch_id)
        # Two stamps have the same digits and signs in the same places, so any collation compares
        # them as bytes do.
        if first is not None:
            batches = batches.where(stamp >= f"{_digits(first)}_000000")
        if last is not None:
            batches = batches.where(stamp <= f"{_digits(last)}_235959")
        counted = (t.files.c.feed == feed) & (t.files.c.state == FileState.LOADED.value)
        return self._select(counted & t.files.c.batch_id.in_(batches))

    def nothing_loaded(self) -> list[LedgerFile]:
        """The counted files of which every row was refused, oldest first."""
        columns = t.files.c
        loaded = columns.state == FileState.LOADED.value
        return self._select(loaded & (columns.loaded == 0) & (columns.records > 0))

    def feeds_delivered(self) -> set[str]:
        """The feeds for which a file was ever loaded."""
        states = (FileState.LOADED, FileState.SUPERSEDED, FileState.UNDONE)
        query = (
            select(t.files.c.feed).where(t.files.c.state.in_(s.value for s in states)).distinct()
        )
        with self.reading() as connection:
            return {str(feed) for feed in connection.scalars(query)}

    def feeds_in_progress(self) -> set[str]:
        """The feeds of the open batch's files."""
        return {str(file.feed) for file in self.in_state(FileState.ACTIVE)}

    def find(self, path: str) -> LedgerFile | None:
        """The newest delivery under this path, found by its whole path or its name alone."""
        found = self._select(t.files.c.path_hash == hash_of(path)) or self._select(
            t.files.c.path.endswith(f"/{path}", autoescape=True)
        )
        return found[-1] if found else None

    def with_content(self, sha256: str) -> list[LedgerFile]:
        """Every file that was ever delivered with this content."""
        return self._select(t.files.c.sha256 == sha256)

    def current(self, path: str) -> LedgerFile | None:
        """The newest readable delivery under this path: the current version of the name."""
        known = t.files.c.state.in_(READABLE)
        found = self._select((t.files.c.path_hash == hash_of(path)) & known)
        return found[-1] if found else None

    def names_of(self, sha256: str) -> set[str]:
        """The paths whose current version has this content."""
        known = t.files.c.state.in_(READABLE)
        paths = {file.path for file in self._select((t.files.c.sha256 == sha256) & known)}
        newest = {path: self.current(path) for path in paths}
        return {path for path, file in newest.items() if file and file.sha256 == sha256}

    def counted_by_content(self, sha256: str) -> LedgerFile | None:
        """The file with this content whose rows are now counted."""
        counted = t.files.c.state == FileState.LOADED.value
        found = self._select((t.files.c.sha256 == sha256) & counted)
        return found[-1] if found else None

    def readable_at(self, paths: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery under these paths, oldest first."""
        return self._readable(t.files.c.path_hash, map(hash_of, paths))

    def readable_of(self, contents: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery with these contents (SHA-256), oldest first."""
        return self._readable(t.files.c.sha256, contents)

    def readable_alike(self, paths: Iterable[str]) -> list[LedgerFile]:
        """Every readable delivery under these paths or similar names, oldest first."""
        return self._readable(t.files.c.name_hash, set(map(name_hash, paths)))

    def _readable(self, column: Any, values: Iterable[str]) -> list[LedgerFile]:
        known = t.files.c.state.in_(READABLE)
        found = [file for some in chunks(values) for file in self._select(column.in_(some) & known)]
        return sorted(found, key=lambda file: (file.batch_id, file.file_id))

    def months_of(self, file_ids: Iterable[int]) -> dict[str, Totals]:
        """The total rows and money of these files, by month."""
        columns = t.file_months.c
        query = select(columns.month, columns.row_count, columns.amount)
        with self.reading() as connection:
            return sum_months(
                row
                for ids in chunks(file_ids)
                for row in connection.execute(query.where(columns.file_id.in_(ids)))
            )

    def counted_by(self) -> dict[str, CountedBy]:
        """By which columns each table is counted; unknown for ledgers from before that."""
        with self.reading() as connection:
            rows = connection.execute(select(t.counted)).all()
        return {row.table_name: CountedBy(row.table_name, row.month, row.balance) for row in rows}

    def row_counts(self) -> dict[str, int]:
        """How many rows the counted files of each feed have, where that is known of all."""
        columns = t.files.c
        query = (
            select(columns.feed, func.sum(columns.loaded), func.count(), func.count(columns.loaded))
            .where(columns.state == FileState.LOADED.value)
            .group_by(columns.feed)
        )
        with self.reading() as connection:
            rows = connection.execute(query).all()
        return {str(feed): int(count) for feed, count, files, known in rows if files == known}

    def rows_of(self, feed: str) -> dict[int, int]:
        """How many rows each counted file of a feed has."""
        columns = t.files.c
        query = select(columns.file_id, columns.loaded).where(
            columns.feed == feed, columns.state == FileState.LOADED.value
        )
        with self.reading() as connection:
            return {file_id: rows or 0 for file_id, rows in connection.execute(query)}

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
        with self.reading() as connection:
            return sum_months(connection.execute(query))

    def _select(self, condition: Any) -> list[LedgerFile]:
        with self.reading() as connection:
            return files_where(connection, condition)


def _digits(day: date) -> str:
    return day.isoformat().replace("-", "")
