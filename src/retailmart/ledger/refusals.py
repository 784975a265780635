"""What is refused and still open, and what somebody has dismissed: nobody will repair it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, tuple_

from retailmart.ledger import tables as t
from retailmart.ledger.access import Access
from retailmart.ledger.rows import READABLE, chunks, files_where, now
from retailmart.ledger.values import FileState, LedgerFile

# The line of a dismissed file that was refused as a whole.
WHOLE_FILE = 0
_AT_ONCE = 300


@dataclass(frozen=True)
class Dismissal:
    """A refused row, or a file that was refused as a whole, that nobody will repair.

    A row is named by its origin: the file and line in which it was first refused. `at` is an ISO
    time in UTC.
    """

    file_id: int
    line: int
    reason: str
    at: str
    by: str


@dataclass(frozen=True)
class OpenRefusals:
    """How many refused rows are open, and of how many files; and the refused files.

    A ledger that an earlier release has written does not know which rows of a repaired sheet were
    refused again, so such a row may count twice.
    """

    rows: int
    files_with_rows: int
    files: tuple[LedgerFile, ...]


class Refusals(Access):
    """Refused rows and files: how many are open, and which are dismissed."""

    def open(self) -> OpenRefusals:
        """What needs somebody, as far as the ledger knows it; the lake is not asked."""
        with self.reading() as connection:
            refused: dict[int, int] = {
                row.file_id: row.n for row in connection.execute(_refused_rows())
            }
            for query in (_brought_back(), _dismissed_rows()):
                for row in connection.execute(query):
                    refused[row.file_id] = refused.get(row.file_id, 0) - row.n
            files = files_where(connection, _is_open_file())
        of_files = [count for count in refused.values() if count > 0]
        return OpenRefusals(max(sum(refused.values()), 0), len(of_files), tuple(files))

    def files(self, *, dismissed: bool = False) -> list[LedgerFile]:
        """Refused files under whose name nothing that could be read has come since."""
        with self.reading() as connection:
            return files_where(connection, _is_open_file(dismissed=dismissed))

    def open_paths(self) -> frozenset[str]:
        """The paths of the refused files that are open."""
        return frozenset(file.path for file in self.files())

    def dismissed(self) -> dict[tuple[int, int], Dismissal]:
        """All that is dismissed, by file and line; whole files have the line WHOLE_FILE."""
        columns = t.dismissed.c
        query = select(
            columns.file_id,
            columns.line,
            columns.reason,
            columns.dismissed_at,
            columns.dismissed_by,
        )
        with self.reading() as connection:
            found = [Dismissal(*row) for row in connection.execute(query)]
        return {(one.file_id, one.line): one for one in found}

    def dismissed_of(self, file_ids: Iterable[int]) -> dict[int, int]:
        """How many rows of each of these files are dismissed."""
        columns = t.dismissed.c
        found: dict[int, int] = {}
        with self.reading() as connection:
            for ids in chunks(file_ids):
                query = (
                    select(columns.file_id, func.count().label("n"))
                    .where(columns.file_id.in_(ids), columns.line != WHOLE_FILE)
                    .group_by(columns.file_id)
                )
                found |= {row.file_id: row.n for row in connection.execute(query)}
        return found

    def dismiss(self, keys: Iterable[tuple[int, int]], reason: str, by: str) -> None:
        """Record rows and files as dismissed. A run may be at work: it does not care."""
        at = now()
        rows = [
            {
                "file_id": file_id,
                "line": line,
                "reason": reason,
                "dismissed_at": at,
                "dismissed_by": by,
            }
            for file_id, line in keys
        ]
        if rows:
            with self.engine.begin() as connection:
                connection.execute(insert(t.dismissed), rows)

    def take_back(self, keys: Iterable[tuple[int, int]]) -> None:
        """Let dismissed rows and files be open again."""
        ordered = sorted(keys)
        columns = t.dismissed.c
        with self.engine.begin() as connection:
            for start in range(0, len(ordered), _AT_ONCE):
                some = ordered[start : start + _AT_ONCE]
                named = tuple_(columns.file_id, columns.line).in_(some)
                connection.execute(delete(t.dismissed).where(named))


def _refused_rows() -> Any:
    """The rows of each counted file that were refused there for the first time."""
    files = t.files.c
    first = files.quarantined - func.coalesce(files.refused_again, 0)
    return select(files.file_id, first.label("n")).where(
        files.state == FileState.LOADED.value, first > 0
    )


def _brought_back() -> Any:
    """The rows of each counted file that counted files have brought back."""
    origin, came = t.files.alias("origin"), t.files.alias("came")
    replays = t.replays.c
    loaded = FileState.LOADED.value
    return (
        select(replays.origin_file_id.label("file_id"), func.count().label("n"))
        .select_from(
            t.replays.join(origin, replays.origin_file_id == origin.c.file_id).join(
                came, replays.file_id == came.c.file_id
            )
        )
        .where(origin.c.state == loaded, came.c.state == loaded)
        .group_by(replays.origin_file_id)
    )


def _dismissed_rows() -> Any:
    """The rows of each counted file that are dismissed, and that nothing has brought back."""
    columns, replays = t.dismissed.c, t.replays.c
    came = t.files.alias("came")
    loaded = FileState.LOADED.value
    back = (
        select(replays.file_id)
        .select_from(t.replays.join(came, replays.file_id == came.c.file_id))
        .where(
            replays.origin_file_id == columns.file_id,
            replays.origin_line == columns.line,
            came.c.state == loaded,
        )
        .exists()
    )
    return (
        select(columns.file_id, func.count().label("n"))
        .select_from(t.dismissed.join(t.files, columns.file_id == t.files.c.file_id))
        .where(t.files.c.state == loaded, columns.line != WHOLE_FILE, ~back)
        .group_by(columns.file_id)
    )


def _is_open_file(*, dismissed: bool = False) -> Any:
    files, newer = t.files.c, t.files.alias("newer")
    better = (
        select(newer.c.file_id)
        .where(
            newer.c.path_hash == files.path_hash,
            newer.c.state.in_(READABLE),
            newer.c.file_id > files.file_id,
        )
        .exists()
    )
    said = (
        select(t.dismissed.c.line)
        .where(t.dismissed.c.file_id == files.file_id, t.dismissed.c.line == WHOLE_FILE)
        .exists()
    )
    return (files.state == FileState.REFUSED.value) & ~better & (said if dismissed else ~said)
