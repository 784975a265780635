"""Decide what each delivered file is: to be loaded, a duplicate, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, LedgerFile, NewFile
from retailmart.project.feed import Feed
from retailmart.steps.check import CheckedFile, Refusal, check
from retailmart.steps.discover import Snapshot


@dataclass(frozen=True)
class Verdict:
    """What a snapshot is, as the ledger will know it, and how it is read if it is loaded."""

    file: NewFile
    checked: CheckedFile | None = None


def judge(ledger: Ledger, snapshots: Sequence[Snapshot], feeds: Iterable[Feed]) -> list[Verdict]:
    """Judge all files of a batch together, in the order given.

    The same content is counted once: a file is a duplicate of one whose rows stay counted, or of
    an earlier one of this batch. New content under a counted path supersedes what it held.
    """
    known_feeds = tuple(feeds)
    checks = [(shot, check(shot, known_feeds)) for shot in snapshots]
    counted = {
        shot.entry.path: ledger.counted_by_path(shot.entry.path)
        for shot, checked in checks
        if isinstance(checked, CheckedFile)
    }
    leaving = _leaving(checks, counted)
    taken: dict[str, str] = {}
    verdicts = []
    for shot, checked in checks:
        if isinstance(checked, Refusal):
            verdicts.append(Verdict(_refused(shot, checked)))
            continue
        same = (f for f in ledger.counted_by_content(shot.sha256) if f.file_id not in leaving)
        twin = next((file.path for file in same), taken.get(shot.sha256))
        if twin is not None:
            verdicts.append(Verdict(_duplicate(shot, checked.feed, twin)))
            continue
        taken[shot.sha256] = shot.entry.path
        before = counted[shot.entry.path]
        supersedes = before.file_id if before else None
        verdicts.append(Verdict(_accepted(shot, checked.feed, supersedes), checked))
    return verdicts


def _leaving(
    checks: Iterable[tuple[Snapshot, CheckedFile | Refusal]],
    counted: dict[str, LedgerFile | None],
) -> set[int]:
    """Files whose rows leave with this batch: their content does not make a twin any more."""
    leaving = set()
    for shot, _ in checks:
        before = counted.get(shot.entry.path)
        if before and before.sha256 != shot.sha256:
            leaving.add(before.file_id)
    return leaving


def _refused(shot: Snapshot, refusal: Refusal) -> NewFile:
    return _new(shot, FileState.REFUSED, folder=refusal.folder.value, message=refusal.message)


def _duplicate(shot: Snapshot, feed: Feed, twin: str) -> NewFile:
    message = f"has the same content as {twin}, which is counted already"
    return _new(shot, FileState.DUPLICATE, feed=feed.name, message=message)


def _accepted(shot: Snapshot, feed: Feed, supersedes: int | None) -> NewFile:
    return _new(shot, FileState.ACTIVE, feed=feed.name, supersedes=supersedes)


def _new(
    shot: Snapshot,
    state: FileState,
    *,
    feed: str | None = None,
    folder: str | None = None,
    message: str | None = None,
    supersedes: int | None = None,
) -> NewFile:
    entry = shot.entry
    return NewFile(
        path=entry.path,
        sha256=shot.sha256,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        state=state,
        feed=feed,
        folder=folder,
        message=message,
        supersedes=supersedes,
    )
