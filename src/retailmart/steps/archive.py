"""Move a batch's files out of landing: processed ones by stamp, refused ones to error_files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from retailmart.ledger.values import Batch, FileState, LedgerFile
from retailmart.storage import Entry, LocalFolder

_LONGEST_NAME = 255  # bytes, on every file system in use
_REASON = ".reason.txt"


def archive(
    landing: LocalFolder,
    archived: LocalFolder,
    scratch: Path,
    batch: Batch,
    files: Iterable[LedgerFile],
) -> None:
    """Archive each file once, however often this is called.

    Only the very content that was read is moved. Where landing meanwhile holds something newer
    under the name, or nothing, the snapshot is archived in its place.
    """
    entries = {entry.path: entry for entry in landing.entries()}
    for file in files:
        _archive_one(landing, archived, scratch, batch, file, entries.get(file.path))


def archive_path(batch: Batch, file: LedgerFile) -> str:
    """Where a file of a batch goes, below the archive."""
    if file.state is not FileState.REFUSED:
        return f"processed/{batch.stamp}/{file.path}"
    return f"error_files/{file.folder}/{file.path}"


def _archive_one(
    landing: LocalFolder,
    archived: LocalFolder,
    scratch: Path,
    batch: Batch,
    file: LedgerFile,
    entry: Entry | None,
) -> None:
    path = archive_path(batch, file)
    other = _beside(path, batch)
    snapshot = scratch / f"{file.sha256}.csv"
    unchanged = entry is not None and entry.version == (file.size, file.mtime_ns)
    if unchanged and entry is not None:
        # A refused file of the same name may lie there already; both are kept.
        path = other if archived.exists(path) else path
        archived.move_in(landing, entry.key, path)
    elif archived.exists(other):
        path = other
    elif snapshot.exists() and not archived.exists(path):
        archived.copy_in(snapshot, path)  # a duplicate may need the same snapshot
    if file.state is FileState.REFUSED and file.message:
        words = f"{file.path} {file.message}\n"
        archived.put(_reason(path), words.encode("utf-8", "backslashreplace"))


def _beside(path: str, batch: Batch) -> str:
    name = PurePosixPath(path)
    return str(name.with_name(_fitting(f"{name.stem}.{batch.stamp}{name.suffix}")))


def _reason(path: str) -> str:
    name = PurePosixPath(path)
    return str(name.with_name(f"{_fitting(name.name, _REASON)}{_REASON}"))


def _fitting(name: str, ending: str = "") -> str:
    """A name short enough to take an ending; what is cut off is the front, the stamp stays."""
    raw = name.encode("utf-8", "surrogateescape")
    return raw[-(_LONGEST_NAME - len(ending)) :].decode("utf-8", "ignore")
