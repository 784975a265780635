"""Undo a run: find what leaves with it, what counts again, or why it can't be undone.

The rules that decided about the deliveries (`standings`) decide about them again, without the
run. So its undo leaves what would be there if it had never been. If the undo would change what has
been decided since, it is refused, with the runs that must be undone first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from retailmart.engines import Engine
from retailmart.errors import RetailmartError
from retailmart.feeds.standings import Decision, live_through
from retailmart.files.archive import archive_path, archived_copies, kept_for
from retailmart.files.staged import is_as_it_was
from retailmart.ledger import Ledger
from retailmart.ledger.values import FileOutcome, FileState, LedgerFile, Totals
from retailmart.project.feed import Feed
from retailmart.project.settings import Days
from retailmart.report import Difference
from retailmart.storage import Store

_READABLE = (FileState.LOADED, FileState.DUPLICATE, FileState.SUPERSEDED)
# So many reasons are listed one by one.
_LISTED = 20


@dataclass(frozen=True)
class Undoing:
    """What undoing a run does to files.

    `leaving` are those whose rows leave, `returning` those that count again, in their old place:
    also a duplicate, if the undone run delivered the same content under the same name before it.
    A file that is among both is read again, by the feed as it is now.
    """

    leaving: tuple[LedgerFile, ...] = ()
    returning: tuple[LedgerFile, ...] = ()

    @property
    def reread(self) -> tuple[LedgerFile, ...]:
        """The files whose rows leave and come again."""
        returning = set(self.returning)
        return tuple(file for file in self.leaving if file in returning)

    @property
    def only_leaving(self) -> tuple[LedgerFile, ...]:
        """The files that do not come again."""
        returning = set(self.returning)
        return tuple(file for file in self.leaving if file not in returning)

    @property
    def only_returning(self) -> tuple[LedgerFile, ...]:
        """The files that were not counted."""
        leaving = set(self.leaving)
        return tuple(file for file in self.returning if file not in leaving)


def plan_undo(ledger: Ledger, feeds: Mapping[str, Feed], run_id: int) -> Undoing | None:
    """What undoing a run means; None if it is undone already.

    Raises RetailmartError, which says why it can't be undone, and which runs must be undone first.
    """
    if not ledger.runs.exists(run_id):
        raise RetailmartError(f"there is no run {run_id}", "List the runs with: retailmart status")
    files = ledger.files.to_undo(run_id)
    batches = ledger.batches.of_run(run_id)
    if not files and any(batch.undoes is not None for batch in batches):
        raise RetailmartError(
            f"run {run_id} took another run back; that can't be taken back itself",
            "Put its files into landing again: they lie in the archive's undone/",
        )
    going = [file for file in files if file.state in _READABLE]
    again = _read_again(ledger, run_id)
    if not going and again:
        is_undone = ledger.batches.undone_by(run_id, open_too=False) is not None
        return None if is_undone else Undoing(again, again)
    if not going and any(file.state is FileState.UNDONE for file in files):
        return None
    if not going:
        raise RetailmartError(f"run {run_id} brought no file that counts now")
    history = _History(ledger, feeds, going)
    _expect_nothing_stands_on(history, run_id, {file.batch_id for file in going})
    _, counted = history.without({file.batch_id for file in going})
    _, before = history.without(())
    returning = counted - before
    leaving = [file for file in going if file.state is FileState.LOADED]
    # A run that finished another one's batch may have read files of that batch again, too.
    gone = {file.file_id for file in leaving}
    again = tuple(file for file in again if file.file_id not in gone)
    return Undoing(
        (*leaving, *again),
        (*(file for file in history.files if file.file_id in returning), *again),
    )


def _read_again(ledger: Ledger, run_id: int) -> tuple[LedgerFile, ...]:
    """The files that a run read again, and that still count."""
    batches = (batch.batch_id for batch in ledger.batches.to_undo(run_id))
    known = ledger.files.among(ledger.batches.again(*batches).files)
    return tuple(file for file in known if file.state is FileState.LOADED)


class _History:
    """All deliveries whose names or contents concern some files, in the order they came."""

    def __init__(
        self, ledger: Ledger, feeds: Mapping[str, Feed], files: Iterable[LedgerFile]
    ) -> None:
        self.ledger = ledger
        self.feeds = feeds
        self.files: list[LedgerFile] = []
        self._runs: dict[int, int] = {}
        self._include(files)

    def _include(self, files: Iterable[LedgerFile]) -> None:
        found = {file.file_id: file for file in (*self.files, *files)}
        paths: set[str] = set()
        contents: set[str] = set()
        while True:
            new_paths = {file.path for file in found.values()} - paths
            new_contents = {file.sha256 for file in found.values()} - contents
            if not new_paths and not new_contents:
                break
            paths |= new_paths
            contents |= new_contents
            known = self.ledger.files
            more = (*known.readable_at(new_paths), *known.readable_of(new_contents))
            found |= {file.file_id: file for file in more}
        self.files = sorted(found.values(), key=lambda file: (file.batch_id, file.file_id))

    def undone_with(self, batch_id: int) -> set[int]:
        """The batches that an undo of a batch's run takes back. Their files concern us now."""
        run_id = self._run_of(batch_id)
        self._include(f for f in self.ledger.files.to_undo(run_id) if f.state in _READABLE)
        return {batch.batch_id for batch in self.ledger.batches.to_undo(run_id)}

    def without(self, batches: Collection[int]) -> tuple[dict[int, Decision], frozenset[int]]:
        """What would have been decided without some batches, and which files would be counted."""
        left = (file for file in self.files if file.batch_id not in batches)
        return live_through(self.feeds, left)

    def standing_on(
        self, batches: Collection[int], gone: Collection[int]
    ) -> Iterator[tuple[LedgerFile, str]]:
        """The files that depend on some batches once others are gone, and how each does."""
        before, _ = self.without(gone)
        after, _ = self.without({*gone, *batches})
        for file in self.files:
            if file.file_id not in after:
                continue
            was, would_be = before[file.file_id], after[file.file_id]
            if was.supersedes != would_be.supersedes:
                old = was.supersedes or file
                yield file, f"{old.shown} was replaced by run {self._run_of(file.batch_id)}"
            elif was.twin == file.path and would_be.twin is None:
                continue  # the same file, delivered again: this delivery counts instead
            elif (was.twin is None) != (would_be.twin is None):
                through = f"counted through {was.twin}" if was.twin else "counted for itself"
                yield file, f"{file.shown} of run {self._run_of(file.batch_id)} is {through}"
        leaving = {*batches, *gone}
        own = {file.file_id for file in self.files if file.batch_id in batches}
        for file in self.ledger.replays.of_origins(own, _READABLE):
            if file.batch_id not in leaving:
                yield file, f"{file.shown} of run {self._run_of(file.batch_id)} replayed its rows"

    def _run_of(self, batch_id: int) -> int:
        if batch_id not in self._runs:  # very many files may be of one batch
            self._runs[batch_id] = self.ledger.batches.get(batch_id).run_id
        return self._runs[batch_id]


def _expect_nothing_stands_on(history: _History, run_id: int, batches: set[int]) -> None:
    """Raise RetailmartError, which names what depends on a run, and the runs to undo first."""
    reasons = dict.fromkeys(message for _, message in history.standing_on(batches, ()))
    if not reasons:
        return
    listed = "\n  ".join(f"{message}; undo that first" for message in islice(reasons, _LISTED))
    if len(reasons) > _LISTED:
        listed += f"\n  and {len(reasons) - _LISTED:,} more"
    commands = ", then ".join(f"retailmart undo {run}" for run in _first(history, batches))
    raise RetailmartError(f"run {run_id} can't be taken back:\n  {listed}", f"Run: {commands}")


def _first(history: _History, batches: set[int]) -> list[int]:
    """The runs to undo before some batches, in an order in which each can be undone.

    What depends on one of them is one of them, too, and the newest goes first.
    """
    steps = {min(batches): batches}
    while True:
        gone: set[int] = set()
        for key in sorted(steps, reverse=True):
            missing = {file.batch_id for file, _ in history.standing_on(steps[key], gone)}
            if missing:
                for batch_id in sorted(missing):
                    more = history.undone_with(batch_id)
                    steps[min(more)] = more
                break
            gone |= steps[key]
        else:
            order = [key for key in sorted(steps, reverse=True) if steps[key] != batches]
            return list(dict.fromkeys(history.ledger.batches.get(key).run_id for key in order))


def taken_back(ledger: Ledger, files: Iterable[LedgerFile]) -> list[Difference]:
    """What each file takes with it when its run is undone."""
    lines = []
    for file in files:
        there = sum(ledger.files.months_of([file.file_id]).values(), Totals())
        lines.append(Difference(file.path, -(file.loaded or 0), (Totals() - there).amount))
    return lines


def came_back(files: Iterable[LedgerFile], outcomes: Mapping[int, FileOutcome]) -> list[Difference]:
    """What each file that counts again brings, as it was loaded now."""
    lines = []
    for file in files:
        outcome = outcomes[file.file_id]
        there = sum(outcome.months.values(), Totals())
        lines.append(Difference(file.path, outcome.loaded, there.amount))
    return lines


def changed_by_reading(
    ledger: Ledger, files: Iterable[LedgerFile], outcomes: Mapping[int, FileOutcome]
) -> list[Difference]:
    """What each file that was read again changes; those that bring the same are left out."""
    lines = []
    for file in files:
        outcome = outcomes[file.file_id]
        there = sum(ledger.files.months_of([file.file_id]).values(), Totals())
        money = (sum(outcome.months.values(), Totals()) - there).amount
        rows = outcome.loaded - (file.loaded or 0)
        if rows or money:
            lines.append(Difference(file.path, rows, money))
    return lines


def expect_archived(
    engine: Engine,
    ledger: Ledger,
    archived: Store,
    files: Sequence[LedgerFile],
    scratch: Path,
    keep: Days,
) -> None:
    """Raise RetailmartError if the archive lacks a file, as it was, that is to count again.

    `keep` is how long the project keeps archived files.
    """
    for file in files:
        copies = list(archived_copies(ledger, archived, file.sha256))
        if any(is_as_it_was(engine, copy, scratch) for copy in copies):
            continue
        place = archive_path(ledger.batches.get(file.batch_id), file)
        if copies:
            raise RetailmartError(
                f"the version of {file.shown} that comes back was changed by hand: {place} in"
                f" {archived} is not what was delivered",
                "Put it back there as it was delivered, from a backup or from its sender",
            )
        raise RetailmartError(
            f"the version of {file.shown} that comes back is no longer in {archived}"
            f"{kept_for(keep)}",
            f"Put it back there as {place}",
        )
