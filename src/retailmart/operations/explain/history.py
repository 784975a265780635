"""What the ledger says of the files that a number is made of, and of those that are no longer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from retailmart.ledger import Ledger
from retailmart.ledger.values import STATE_WORDS, FileState, LedgerFile
from retailmart.operations.explain.values import Correction, Delivery

# So many files that count no more are looked at, newest first.
_MOST = 2_000


@dataclass(frozen=True)
class History:
    """Reads the ledger for one explanation."""

    ledger: Ledger

    def run_of(self, file: LedgerFile) -> int:
        """The run that took a file in."""
        return self.ledger.batches.get(file.batch_id).run_id

    def delivery(self, file: LedgerFile) -> Delivery:
        """A file as a delivery."""
        run = self.run_of(file)
        state = STATE_WORDS.get(file.state.value, file.state.value)
        return Delivery(
            file.file_id, file.path, str(file.feed), run, self.ledger.runs.began(run), state
        )

    def corrections(
        self, used: Collection[LedgerFile], feeds: Collection[str], months: Collection[str] | None
    ) -> Iterator[Correction]:
        """Files of these feeds that once had rows of these months, and what became of them.

        Also those that `used` files replaced or repaired; `months` None are all.
        """
        told: set[int] = set()
        paths = {file.path for file in used}
        replaced = {file.supersedes: file for file in used if file.supersedes is not None}
        for old in self.ledger.files.among(replaced):
            told.add(old.file_id)
            yield self._replaced(old, replaced[old.file_id])
        for file in used:
            if self.ledger.replays.is_replay(file.file_id):
                message = f"{file.shown} brought refused rows back, repaired"
                yield self._as(file, file.shown, message)
        gone = self.ledger.files.in_state(FileState.SUPERSEDED, FileState.UNDONE, limit=_MOST)
        for old in gone:
            if old.feed not in feeds or old.file_id in told:
                continue
            of_file = self.ledger.files.months_of([old.file_id])
            if months is not None and of_file and not of_file.keys() & set(months):
                continue
            # Of a feed without months, an old version matters to whom the newest one matters.
            if not of_file and old.state is FileState.SUPERSEDED and old.path not in paths:
                continue
            if old.state is FileState.SUPERSEDED:
                yield self._replaced(old, self.ledger.files.current(old.path))
                continue
            run = self.run_of(old)
            undo = self.ledger.batches.undone_by(run)
            by = None if undo is None else f"run {undo}"
            yield self._as(old, by, f"{old.shown} of run {run} was undone" + _by(by))

    def _replaced(self, old: LedgerFile, new: LedgerFile | None) -> Correction:
        run = self.run_of(old)
        message = f"{old.shown} of run {run} was replaced"
        if new is None or new.file_id == old.file_id:
            return self._as(old, None, message)
        by = f"{new.shown} of run {self.run_of(new)}"
        return self._as(old, by, message + _by(by))

    def _as(self, file: LedgerFile, by: str | None, message: str) -> Correction:
        state = STATE_WORDS.get(file.state.value, file.state.value)
        return Correction(file.path, str(file.feed), self.run_of(file), state, by, message)


def _by(by: str | None) -> str:
    return "" if by is None else f" by {by}"
