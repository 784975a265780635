"""Decide what each delivered file is: to be loaded, a duplicate, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, NewFile
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

    A name stands for the newest content that was delivered under it and could be read. A content is
    counted once, however many names stand for it, and leaves when no name does any more.
    """
    known_feeds = tuple(feeds)
    checks = [(shot, check(shot, known_feeds)) for shot in snapshots]
    arrived = {s.entry.path: s.sha256 for s, checked in checks if isinstance(checked, CheckedFile)}
    leaving = _leaving(ledger, arrived)
    taken: dict[str, str] = {}
    verdicts = []
    for shot, checked in checks:
        if isinstance(checked, Refusal):
            verdicts.append(Verdict(_refused(shot, checked)))
            continue
        path, supersedes = shot.entry.path, leaving.get(shot.entry.path)
        counted = ledger.counted_by_content(shot.sha256)
        twin = counted.path if counted else taken.get(shot.sha256)
        if twin is not None:
            verdicts.append(Verdict(_duplicate(shot, checked.feed, twin, supersedes)))
            continue
        taken[shot.sha256] = path
        verdicts.append(Verdict(_accepted(shot, checked.feed, supersedes), checked))
    return verdicts


def _leaving(ledger: Ledger, arrived: Mapping[str, str]) -> dict[str, int]:
    """The counted files that no name stands for once `arrived` (path → content) is here.

    Maps the path whose new content makes the last name change → the file whose rows leave.
    """
    leaving: dict[str, int] = {}
    for path, content in arrived.items():
        before = ledger.standing(path)
        if before is None or before.sha256 == content:
            continue
        others = ledger.names_of(before.sha256) - arrived.keys()
        counted = ledger.counted_by_content(before.sha256)
        stays = others or before.sha256 in arrived.values() or counted is None
        if counted and not stays and counted.file_id not in leaving.values():
            leaving[path] = counted.file_id
    return leaving


def _refused(shot: Snapshot, refusal: Refusal) -> NewFile:
    return _new(shot, FileState.REFUSED, folder=refusal.folder.value, message=refusal.message)


def _duplicate(shot: Snapshot, feed: Feed, twin: str, supersedes: int | None) -> NewFile:
    message = f"has the same content as {twin}, which is counted already"
    return _new(shot, FileState.DUPLICATE, feed=feed.name, message=message, supersedes=supersedes)


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
