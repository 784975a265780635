"""Move a batch's files out of landing: processed ones by stamp, refused ones to error_files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from retailmart.files.checked import LandedCopy
from retailmart.files.discover import copy_path, is_whole
from retailmart.ledger import Ledger
from retailmart.ledger.values import Batch, FileState, LedgerFile
from retailmart.project.settings import Days
from retailmart.report import number_of
from retailmart.stopping import check_stop
from retailmart.storage import Entry, EntryKind, Store

_LONGEST_NAME = 255  # bytes, on every file system in use
_REASON = ".reason.txt"
_CHUNK = 1 << 20
# Files that go within one transaction.
_AT_ONCE = 200


def archive(
    landing: Store,
    archived: Store,
    scratch: Path,
    batch: Batch,
    files: Sequence[LedgerFile],
    listed: Mapping[str, Entry],
) -> None:
    """Archive each file once, however often this is called.

    Only exactly the content that was read is moved. If landing holds newer content under the
    name, or nothing, the staged copy is archived in its place. `listed` is landing by path as it
    was when the files were staged; if any of them is missing there, landing is listed again.
    """
    if not all(file.path in listed for file in files):
        listed = {entry.path: entry for entry in landing.entries()}
    for file in files:
        check_stop()
        entry = listed.get(file.path)
        if entry is not None and not landing.appears_whole:
            entry = landing.entry(entry.key)  # a bucket moves only the version that was listed
        _archive_one(landing, archived, scratch, batch, file, entry)


def archive_path(batch: Batch, file: LedgerFile) -> str:
    """Where a file of a batch goes, below the archive."""
    if file.state is not FileState.REFUSED:
        return f"processed/{batch.stamp}/{file.path}"
    return f"error_files/{file.folder}/{file.path}"


def archived_copies(ledger: Ledger, archived: Store, sha256: str) -> Iterator[LandedCopy]:
    """Where the archive should have this content, according to the ledger."""
    for entry in _archived_entries(ledger, archived, sha256):
        yield LandedCopy(archived, entry, sha256)


def _archived_entries(ledger: Ledger, archived: Store, sha256: str) -> Iterator[Entry]:
    """Where the archive has processed files of this content."""
    for file in ledger.files.with_content(sha256):
        entry = archived.entry(archive_path(ledger.batches.get(file.batch_id), file))
        if entry is not None and file.state is not FileState.REFUSED:
            yield entry


@dataclass(frozen=True)
class ExpiredArchive:
    """What left the archive because it is old, or would: files with their reasons, and bytes.

    `needed` counts those that an undo of a later run would bring back; such an undo is refused now.
    """

    files: int = 0
    bytes: int = 0
    needed: int = 0


def expire_archive(
    ledger: Ledger,
    archived: Store,
    days: int,
    now: datetime,
    *,
    dry_run: bool = False,
    seconds: float | None = None,
) -> ExpiredArchive:
    """Remove files that were archived more than some `days` ago, for at most some `seconds`.

    Only what the ledger knows is removed. The lease is needed, but for a `dry_run`.
    """
    before = f"{now - timedelta(days=days):%Y%m%d_%H%M%S}"
    old = {batch.stamp: batch for batch in ledger.batches.done_before(before)}
    if not old:
        return ExpiredArchive()
    known = dict(_archived_by(ledger, old.values()))
    end = None if seconds is None else time.monotonic() + seconds
    gone: list[Entry] = []
    for entry in archived.entries():
        if end is not None and time.monotonic() > end:
            break
        if entry.path in known:
            gone.append(entry)
    if not dry_run:
        for start in range(0, len(gone), _AT_ONCE):
            with ledger.transaction():  # which verifies the lease
                for entry in gone[start : start + _AT_ONCE]:
                    archived.remove(entry)
        archived.remove_empty_folders(entry.path for entry in gone)
    needed = [known[entry.path] for entry in gone]
    return ExpiredArchive(len(gone), sum(entry.size for entry in gone), sum(needed))


def _archived_by(ledger: Ledger, batches: Iterable[Batch]) -> Iterator[tuple[str, bool]]:
    """Where files of batches may be in the archive, and whether an undo may need them."""
    needed = (FileState.SUPERSEDED, FileState.DUPLICATE)
    for batch in batches:
        for file in ledger.files.of_batch(batch.batch_id):
            path = archive_path(batch, file)
            for one in (path, _beside(path, batch)):
                yield one, file.state in needed
                yield one.replace("processed/", "undone/", 1), False
                yield _reason(one), False


def kept_for(keep: Days) -> str:
    """What explains that the archive lacks a file, to be said after its name."""
    return "" if keep == "for ever" else f", which keeps files for {number_of(keep, 'day')}"


def take_out(archived: Store, ledger: Ledger, run_id: int) -> None:
    """Move the files of an undone run from the archive's processed/ to its undone/."""
    for file in ledger.files.to_undo(run_id):
        path = archive_path(ledger.batches.get(file.batch_id), file)
        entry = archived.entry(path)
        if file.state is FileState.UNDONE and entry is not None:
            archived.move_in(archived, entry, path.replace("processed/", "undone/", 1))


def _archive_one(
    landing: Store,
    archived: Store,
    scratch: Path,
    batch: Batch,
    file: LedgerFile,
    entry: Entry | None,
) -> None:
    path = archive_path(batch, file)
    other = _beside(path, batch)
    moved = False
    if entry is not None and entry.version == file.version:
        with suppress(FileNotFoundError):  # written again, or moved by a run that got the lease
            path = _free_path(landing, archived, entry, path, other)
            _move(landing, archived, entry, path)
            moved = True
    elif archived.exists(other):
        path = other
    copy = copy_path(scratch, file.sha256)
    if not moved and not archived.exists(path) and is_whole(copy, file.sha256):
        archived.copy_in(copy, path)  # a duplicate may need the same copy
    if file.state is FileState.REFUSED and file.message:
        message = f"{file.path} {file.message}\n"
        archived.put(_reason(path), message.encode("utf-8", "backslashreplace"))


def _free_path(landing: Store, archived: Store, entry: Entry, path: str, other: str) -> str:
    """Where a landed file goes; if a refused file of its name is there, both are kept.

    A move that was interrupted after its copy has left exactly this content there.
    """
    # Each place is checked once: between two checks another run may have moved this very file.
    if archived.exists(other) and _same(landing, entry, archived, other):
        return other
    if not archived.exists(path) or _same(landing, entry, archived, path):
        return path
    return other


def _move(landing: Store, archived: Store, entry: Entry, path: str) -> None:
    """Move the file. Raises FileNotFoundError if it is written again at this moment."""
    if archived.exists(path):
        landing.remove(entry)
    else:
        archived.move_in(landing, entry, path)


def _same(landing: Store, entry: Entry, archived: Store, path: str) -> bool:
    there = archived.entry(path)
    kinds = {entry.kind, there.kind if there else None}
    if there is None or kinds != {EntryKind.FILE} or there.size != entry.size:
        return False
    with landing.open(entry) as one, archived.open(there) as two:
        return _digest(one) == _digest(two)


def _digest(content: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _beside(path: str, batch: Batch) -> str:
    name = PurePosixPath(path)
    return str(name.with_name(_fitting(f"{name.stem}.{batch.stamp}{name.suffix}")))


def _reason(path: str) -> str:
    name = PurePosixPath(path)
    return str(name.with_name(f"{_fitting(name.name, _REASON)}{_REASON}"))


def _fitting(name: str, ending: str = "") -> str:
    """A name short enough to take an ending. Its front is cut off; the stamp stays."""
    raw = name.encode("utf-8", "surrogateescape")
    return raw[-(_LONGEST_NAME - len(ending)) :].decode("utf-8", "ignore")
