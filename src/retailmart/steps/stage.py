"""Decide what each delivered file is: to be loaded, a duplicate, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def judge(
    ledger: Ledger,
    snapshots: Sequence[Snapshot],
    feeds: Iterable[Feed],
    misfit: Callable[[CheckedFile], Refusal | None] = lambda _: None,
) -> list[Verdict]:
    """Judge all files of a batch together, in the order given.

    `misfit` is asked of each good file whether its values refuse it.

    A name stands for the newest content that was delivered under it and could be read. A content is
    counted once, however many names stand for it, and leaves when no name does any more. Where
    folders tell a column, each folder has contents of its own.
    """
    known_feeds = tuple(feeds)
    checks = [(shot, _checked(shot, known_feeds, misfit)) for shot in snapshots]
    known = _Known.of(ledger, [shot for shot, found in checks if isinstance(found, CheckedFile)])
    while True:
        arrived = {
            shot.entry.path: _Arrival(shot.sha256, found.feed)
            for shot, found in checks
            if isinstance(found, CheckedFile)
        }
        leaving = _leaving(known, arrived)
        refused = dict(_not_to_be_replaced(ledger, checks, leaving))
        if not refused:
            break  # each turn refuses one file more at least, for which others may stay
        checks = [(shot, refused.get(shot.entry.path, found)) for shot, found in checks]
    taken: dict[object, str] = {}
    verdicts = []
    for shot, checked in checks:
        if isinstance(checked, Refusal):
            verdicts.append(Verdict(_refused(shot, checked)))
            continue
        path, supersedes = shot.entry.path, leaving.get(shot.entry.path)
        counted = known.counted(shot.sha256, checked.feed, path)
        identity = (shot.sha256, checked.feed.from_path(path))
        twin = counted.path if counted else taken.get(identity)
        if twin is not None:
            verdicts.append(Verdict(_duplicate(shot, checked.feed, twin, supersedes)))
            continue
        taken[identity] = path
        verdicts.append(Verdict(_accepted(shot, checked.feed, supersedes), checked))
    return verdicts


def _checked(
    shot: Snapshot, feeds: Iterable[Feed], misfit: Callable[[CheckedFile], Refusal | None]
) -> CheckedFile | Refusal:
    found = check(shot, feeds)
    return found if isinstance(found, Refusal) else misfit(found) or found


@dataclass(frozen=True)
class _Arrival:
    """What a path of this batch stands for from now on."""

    sha256: str
    feed: Feed


@dataclass(frozen=True)
class _Known:
    """What the ledger knows of the names and contents of a batch, asked for in one go.

    `standing` is the newest readable file of each path, `of_content` all readable files.
    """

    standing: Mapping[str, LedgerFile]
    of_content: Mapping[str, Sequence[LedgerFile]]

    @classmethod
    def of(cls, ledger: Ledger, shots: Sequence[Snapshot]) -> _Known:
        """Ask for all that can matter: the names, their contents, and those contents' names."""
        standing = {f.path: f for f in ledger.readable_at(shot.entry.path for shot in shots)}
        contents = {shot.sha256 for shot in shots} | {f.sha256 for f in standing.values()}
        of_content: dict[str, list[LedgerFile]] = {}
        for file in ledger.readable_of(contents):
            of_content.setdefault(file.sha256, []).append(file)
        others = {f.path for files in of_content.values() for f in files} - standing.keys()
        return cls(standing | {f.path: f for f in ledger.readable_at(others)}, of_content)

    def counted(self, sha256: str, feed: Feed, path: str) -> LedgerFile | None:
        """The file with this content whose rows are counted now, as those of `path` would be."""
        found = (
            file
            for file in self.of_content.get(sha256, ())
            if file.state is FileState.LOADED and feed.from_path(file.path) == feed.from_path(path)
        )
        return max(found, key=lambda file: file.file_id, default=None)

    def names(self, sha256: str, feed: Feed, path: str) -> set[str]:
        """The paths that stand for this content now, as `path` does."""
        paths = {file.path for file in self.of_content.get(sha256, ())}
        return {
            other
            for other in paths
            if self.standing[other].sha256 == sha256
            and feed.from_path(other) == feed.from_path(path)
        }


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


def _leaving(known: _Known, arrived: Mapping[str, _Arrival]) -> dict[str, int]:
    """The counted files that no name stands for once `arrived` is here.

    Maps the path whose new content makes the last name change → the file whose rows leave.
    """
    leaving: dict[str, int] = {}
    gone: set[int] = set()
    coming = {(new.sha256, new.feed.from_path(path)) for path, new in arrived.items()}
    for path, new in arrived.items():
        before = known.standing.get(path)
        if before is None or before.sha256 == new.sha256:
            continue
        others = known.names(before.sha256, new.feed, path) - arrived.keys()
        counted = known.counted(before.sha256, new.feed, path)
        stays = others or (before.sha256, new.feed.from_path(path)) in coming
        if counted and not stays and counted.file_id not in gone:
            leaving[path] = counted.file_id
            gone.add(counted.file_id)
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
