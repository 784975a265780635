"""Decide what each delivered file is: to be loaded, a duplicate, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, LedgerFile, NewFile
from retailmart.project.feed import Feed
from retailmart.steps.check import CheckedFile, ErrorFolder, Refusal, check
from retailmart.steps.discover import Snapshot
from retailmart.steps.replay import origins_named


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
    while True:
        arrived = {shot.entry.path: shot.sha256 for shot, found in checks if _is_good(found)}
        leaving = _leaving(ledger, arrived)
        refused = dict(_not_to_be_replaced(ledger, checks, leaving))
        if not refused:
            break  # each turn refuses one file more at least, for which others may stay
        checks = [(shot, refused.get(shot.entry.path, found)) for shot, found in checks]
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


def _is_good(found: CheckedFile | Refusal) -> bool:
    return isinstance(found, CheckedFile)


def _not_to_be_replaced(
    ledger: Ledger,
    checks: Iterable[tuple[Snapshot, CheckedFile | Refusal]],
    leaving: Mapping[str, int],
) -> Iterator[tuple[str, Refusal]]:
    """The files for which rows would leave that must not, by path.

    Where a file's refused rows came back repaired, its correction would count them once more. And
    a repaired sheet is no new version of the file whose rows it brings back.
    """
    gone = set(leaving.values())
    for shot, found in checks:
        path = shot.entry.path
        if path not in leaving or isinstance(found, Refusal):
            continue
        old = ledger.file(leaving[path])
        holders = [file for file in ledger.replayers([old.file_id]) if file.file_id not in gone]
        if holders:
            told = ", ".join(_with_undo(ledger, file) for file in holders)
            words = f"replaces a file whose refused rows are counted through {told}"
            yield path, Refusal(ErrorFolder.BAD_SCHEMA, f"{words}; then deliver it again")
        elif found.layout.is_replay and _is_ordinary(ledger, old, found):
            words = "brings refused rows back under the name of a delivery, which would leave"
            yield path, Refusal(ErrorFolder.BAD_SCHEMA, f"{words}; deliver it under another name")


def _with_undo(ledger: Ledger, file: LedgerFile) -> str:
    run = ledger.batch(file.batch_id).run_id
    return f"{file.path} (take that back first: retailmart undo {run})"


def _is_ordinary(ledger: Ledger, old: LedgerFile, replay: CheckedFile) -> bool:
    """Whether a counted file is no older version of this file that brings refused rows back."""
    if any(file_id == old.file_id for file_id, _ in origins_named(replay)):
        return True
    return bool(old.loaded) and not ledger.brings_back(old.file_id)


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
        version=entry.version,
        state=state,
        feed=feed,
        folder=folder,
        message=message,
        supersedes=supersedes,
    )
