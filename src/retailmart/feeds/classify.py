"""Decide what each delivered file is: to be loaded, a duplicate, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from shlex import quote

from retailmart.feeds.replay import origins_named
from retailmart.feeds.standings import Content, Standings, content_of
from retailmart.files.checked import CheckedFile, ErrorFolder, Refusal
from retailmart.files.discover import StagedCopy
from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, LedgerFile, NewFile, name_hash
from retailmart.project.feed import Feed
from retailmart.report import number_of


@dataclass(frozen=True, slots=True)
class Classified:
    """What a staged file is, as the ledger will know it, and how it is read if it is loaded."""

    file: NewFile
    checked: CheckedFile | None = None


def classify(
    ledger: Ledger,
    feeds: Mapping[str, Feed],
    found: Iterable[tuple[StagedCopy, CheckedFile | Refusal]],
) -> list[Classified]:
    """Classify all files of a batch together, in the order given.

    A name's current version is the newest readable content that was delivered under it. A content
    counts once in a feed, however many names have it as their current version, and leaves when
    none has it any more.
    """
    checks = list(found)
    standings = _standings(ledger, feeds, _arrived(checks))
    while True:
        arrived = _arrived(checks)
        leaving = standings.leaving(arrived)
        refused = dict(_not_to_be_replaced(ledger, checks, leaving))
        if not refused:
            break  # each turn refuses at least one more file, for which others may stay
        checks = [(copy, refused.get(copy.entry.path, found)) for copy, found in checks]
    decisions = standings.decide(arrived)
    alike = _names_alike(ledger, arrived)
    classified = []
    for copy, checked in checks:
        if isinstance(checked, Refusal):
            classified.append(Classified(_refused(copy, checked)))
            continue
        decision = decisions[copy.entry.path]
        supersedes = decision.supersedes.file_id if decision.supersedes else None
        if decision.twin is not None:
            counted = standings.counted.get(arrived[copy.entry.path])
            message = _same_content(ledger, decision.twin, counted)
            file = _duplicate(copy, checked.feed, message, supersedes)
            classified.append(Classified(file))
            continue
        named = alike.get(copy.entry.path)
        classified.append(Classified(_accepted(copy, checked.feed, named, supersedes), checked))
    return classified


def _names_alike(ledger: Ledger, arrived: Iterable[str]) -> dict[str, str]:
    """A message for each path that differs from another one only in what senders vary."""
    others: dict[str, set[str]] = {}
    for path in (*arrived, *(file.path for file in ledger.files.readable_alike(arrived))):
        others.setdefault(name_hash(path), set()).add(path)
    message = "is named as {} but for letter case, Unicode form or .gz; each counts by itself"
    return {
        path: message.format(", ".join(sorted(names)))
        for path in arrived
        if (names := others[name_hash(path)] - {path})
    }


def _arrived(checks: Iterable[tuple[StagedCopy, CheckedFile | Refusal]]) -> dict[str, Content]:
    """The current version of each path of a batch from now on."""
    return {
        copy.entry.path: Content(
            found.feed.name, copy.sha256, found.feed.from_path(copy.entry.path)
        )
        for copy, found in checks
        if isinstance(found, CheckedFile)
    }


def _standings(
    ledger: Ledger, feeds: Mapping[str, Feed], arriving: Mapping[str, Content]
) -> Standings:
    """Everything in the ledger that can matter, read at once.

    That is: the arriving names, their contents, and those contents' other names.
    """
    standing = {file.path: file for file in ledger.files.readable_at(arriving)}
    contents = {content.sha256 for content in arriving.values()}
    known = ledger.files.readable_of(contents | {file.sha256 for file in standing.values()})
    others = {file.path for file in known} - standing.keys()
    standing |= {file.path: file for file in ledger.files.readable_at(others)}
    return Standings(
        {path: content_of(feeds, file) for path, file in standing.items()},
        {content_of(feeds, file): file for file in known if file.state is FileState.LOADED},
    )


def _not_to_be_replaced(
    ledger: Ledger,
    checks: Iterable[tuple[StagedCopy, CheckedFile | Refusal]],
    leaving: Mapping[str, LedgerFile],
) -> Iterator[tuple[str, Refusal]]:
    """The files for which rows would leave that must not, by path.

    If a file's refused rows came back repaired, its correction would count them again. And a
    repaired sheet is not a new version of the file whose rows it brings back.
    """
    gone = {file.file_id for file in leaving.values()}
    for copy, found in checks:
        path = copy.entry.path
        if path not in leaving or isinstance(found, Refusal):
            continue
        old = leaving[path]
        holders = [
            file for file in ledger.replays.of_origins([old.file_id]) if file.file_id not in gone
        ]
        if holders:
            told = ", ".join(_with_undo(ledger, file) for file in holders)
            message = f"replaces a file whose refused rows are counted through {told}"
            yield path, Refusal(ErrorFolder.BAD_SCHEMA, f"{message}; then deliver it again")
        elif found.layout.is_replay and _is_ordinary(ledger, old, found):
            message = "brings refused rows back under the name of a delivery, which would leave"
            yield path, Refusal(ErrorFolder.BAD_SCHEMA, f"{message}; deliver it under another name")


def _with_undo(ledger: Ledger, file: LedgerFile) -> str:
    run = ledger.batches.get(file.batch_id).run_id
    return f"{file.path} (take that back first: retailmart undo {run})"


def _is_ordinary(ledger: Ledger, old: LedgerFile, replay: CheckedFile) -> bool:
    """Whether a counted file is anything but an older version of this replayed file."""
    if any(file_id == old.file_id for file_id, _ in origins_named(replay)):
        return True
    return bool(old.loaded) and not ledger.replays.is_replay(old.file_id)


def _refused(copy: StagedCopy, refusal: Refusal) -> NewFile:
    return _new(copy, FileState.REFUSED, folder=refusal.folder.value, message=refusal.message)


def _same_content(ledger: Ledger, twin: str, counted: LedgerFile | None) -> str:
    """Why a file is a duplicate; where rows of its content are still refused, what to do."""
    message = f"has the same content as {twin}, which is counted already"
    if counted is None or not counted.quarantined:
        return message
    refused = counted.quarantined - len(ledger.replays.brought_back([counted.file_id]))
    if not refused:
        return message
    are = "is" if refused == 1 else "are"
    return (
        f"{message}, but {refused:,} of its {number_of(counted.records or 0, 'row')} {are} in"
        " quarantine. If the feed was wrong, not the file, bring them back:"
        f" retailmart quarantine export {quote(twin)} --to refused.csv, then retailmart quarantine"
        " replay refused.csv"
    )


def _duplicate(copy: StagedCopy, feed: Feed, message: str, supersedes: int | None) -> NewFile:
    return _new(copy, FileState.DUPLICATE, feed=feed.name, message=message, supersedes=supersedes)


def _accepted(copy: StagedCopy, feed: Feed, message: str | None, supersedes: int | None) -> NewFile:
    return _new(copy, FileState.ACTIVE, feed=feed.name, message=message, supersedes=supersedes)


def _new(
    copy: StagedCopy,
    state: FileState,
    *,
    feed: str | None = None,
    folder: str | None = None,
    message: str | None = None,
    supersedes: int | None = None,
) -> NewFile:
    entry = copy.entry
    return NewFile(
        path=entry.path,
        sha256=copy.sha256,
        size=entry.size,
        version=entry.version,
        state=state,
        feed=feed,
        folder=folder,
        message=message,
        supersedes=supersedes,
    )
