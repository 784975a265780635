"""The ledger's record of refused rows that repaired files brought back."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import chunks, file_of, files_where
from retailmart.ledger.values import FileState, LedgerFile


class Replays(Access):
    """Refused rows of files, and the files that brought them back."""

    def of_origins(
        self, file_ids: Iterable[int], states: Iterable[FileState] = (FileState.LOADED,)
    ) -> list[LedgerFile]:
        """The files in these states that replayed refused rows of other files."""
        of_origin = select(t.replays.c.file_id).where(
            t.replays.c.origin_file_id.in_(list(file_ids))
        )
        known = t.files.c.state.in_([state.value for state in states])
        with self.reading() as connection:
            return files_where(connection, t.files.c.file_id.in_(of_origin) & known)

    def brought_back(self, file_ids: Iterable[int]) -> dict[tuple[int, int], LedgerFile]:
        """The refused rows of these files that are now counted: (file, line) → replaying file."""
        counted = t.files.c.state == FileState.LOADED.value
        joined = t.replays.join(t.files, t.replays.c.file_id == t.files.c.file_id)
        found: dict[tuple[int, int], LedgerFile] = {}
        files: dict[int, LedgerFile] = {}
        with self.reading() as connection:
            for ids in chunks(file_ids):
                query = (
                    select(t.replays.c.origin_file_id, t.replays.c.origin_line, t.files)
                    .select_from(joined)
                    .where(t.replays.c.origin_file_id.in_(ids), counted)
                )
                for row in connection.execute(query):
                    file = files.setdefault(row.file_id, file_of(row))
                    found[row.origin_file_id, row.origin_line] = file
        return found

    def origins(self, feed: str) -> dict[int, LedgerFile]:
        """The files of a feed of which refused rows are counted: file → a file that has them."""
        counted = (t.files.c.state == FileState.LOADED.value) & (t.files.c.feed == feed)
        query = (
            select(t.replays.c.origin_file_id, t.files)
            .select_from(t.replays.join(t.files, t.replays.c.file_id == t.files.c.file_id))
            .where(counted)
            .distinct()
        )
        with self.reading() as connection:
            return {row.origin_file_id: file_of(row) for row in connection.execute(query)}

    def is_replay(self, file_id: int) -> bool:
        """Whether the file replayed refused rows of other files."""
        query = select(t.replays.c.file_id).where(t.replays.c.file_id == file_id).limit(1)
        with self.reading() as connection:
            return connection.scalar(query) is not None
