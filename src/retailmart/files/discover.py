"""List landing and make a staged copy of each file: what is checked and loaded can't change."""

from __future__ import annotations

import errno
import gzip
import hashlib
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from retailmart.files.scan import Scan
from retailmart.project.feed import ENDINGS
from retailmart.stopping import check_stop
from retailmart.storage import Entry, EntryKind, Store

_HALF_UPLOADED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".swp", "~")
_GROWING_SECONDS = 2.0
_SECOND_LOOK_SECONDS = 0.25
_CHUNK = 1 << 20
_COPIES_AHEAD = 16
# What this machine lacks; the landed file is not to blame.
_OURS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
# Till exports pack about tenfold; a thousandfold is a bomb. Small files may pack as they like.
_LARGEST_RATIO = 200
_RATIO_COUNTS_FROM = 256 << 20


@dataclass(frozen=True, slots=True)
class StagedCopy:
    """A staged copy of a landed file: its entry as it was read, its unpacked content in scratch.

    `content` is None, and `refusal` says why, if the file could not or must not be read.
    `sha256` is of the unpacked content.
    """

    entry: Entry
    sha256: str
    content: Path | None
    scan: Scan
    refusal: str | None = None


@dataclass(frozen=True)
class Landed:
    """What is in landing: files that can be read now, and paths left for a later run.

    `unreachable` are objects whose names can't be requested.
    """

    ready: tuple[Entry, ...]
    waiting: tuple[str, ...]
    unreachable: tuple[str, ...] = ()


def discover(landing: Store) -> Landed:
    """List landing. Half uploads and objects that can't be requested stay, and are reported.

    A file written in the last two seconds is checked again, and waits if it has grown.
    """
    return sort_out(landing, landing.entries())


def sort_out(landing: Store, everything: Sequence[Entry]) -> Landed:
    """What of the listed entries can be read now; `discover` says how that is found."""
    odd = {entry.path for entry in everything if entry.kind is EntryKind.UNREACHABLE}
    entries = [entry for entry in everything if not _is_hidden(entry.path)]
    half = {entry.path for entry in entries if entry.path.lower().endswith(_HALF_UPLOADED)} - odd
    newest = time.time_ns() - int(_GROWING_SECONDS * 1e9)
    young = [
        entry
        for entry in entries
        if entry.mtime_ns > newest
        and entry.kind is EntryKind.FILE
        and entry.path not in half
        and not landing.appears_whole
    ]
    if young:
        time.sleep(_SECOND_LOOK_SECONDS)
    for entry in young:
        now = landing.entry(entry.key)
        if now is None or now.version != entry.version:
            half.add(entry.path)
    left = half | odd
    ready = tuple(entry for entry in entries if entry.path not in left)
    return Landed(ready, tuple(sorted(half)), tuple(sorted(odd)))


def stage_copies(landing: Store, entries: tuple[Entry, ...], scratch: Path) -> Iterator[StagedCopy]:
    """Copy each file into `scratch` under its content's SHA-256, unpacked, in the given order.

    A hard link would be cheaper, but a sender that continues to write would change it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        # A few at a time: what waits to be copied takes memory, too.
        ahead: deque[Future[StagedCopy | None]] = deque()
        try:
            for entry in entries:
                check_stop()
                ahead.append(pool.submit(_stage_copy, landing, entry, scratch))
                if len(ahead) > _COPIES_AHEAD and (copy := ahead.popleft().result()):
                    yield copy
            while ahead:
                check_stop()
                if copy := ahead.popleft().result():
                    yield copy
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stage_copy(landing: Store, entry: Entry, scratch: Path) -> StagedCopy | None:
    """Copy one file; None if it was removed after landing was listed."""
    if entry.kind is EntryKind.LINK:
        return _unread(entry, "is a link to another place; copy the file itself here")
    if entry.kind is EntryKind.SPECIAL:
        return _unread(entry, "is no file but a pipe or device")
    if "\\x" in entry.path and entry.path != entry.key:
        return _unread(entry, "has a name that is not UTF-8; rename it")
    partial = scratch / f"{uuid.uuid4().hex}.part"  # a task elsewhere may copy the same file
    delimited = not entry.path.lower().removesuffix(".gz").endswith(ENDINGS["json"])
    digest, scan = hashlib.sha256(), Scan(delimited=delimited)
    try:
        with landing.open(entry) as source, partial.open("wb", buffering=0) as target:
            for chunk in _unpacked(source, entry):
                digest.update(chunk)
                target.write(chunk)
                scan.feed(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        partial.unlink(missing_ok=True)
        return _unread(entry, "is a .gz archive that is cut off or damaged; send it again")
    except _Bomb:
        partial.unlink(missing_ok=True)
        return _unread(entry, f"unpacks to more than {_LARGEST_RATIO} times its size")
    except FileNotFoundError:
        return None
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in _OURS:
            error.filename = error.filename or str(partial)  # a write names no file
            raise
        return _unread(entry, f"cannot be read: {error.strerror or error}")
    content = copy_path(scratch, digest.hexdigest())
    partial.rename(content)
    return StagedCopy(entry, digest.hexdigest(), content, scan)


def copy_path(scratch: Path, sha256: str) -> Path:
    """Where a file's staged copy is, whatever its name and format."""
    return scratch / f"{sha256}.csv"


class _Bomb(Exception):
    """More data comes out of a packed file than any sender intends."""


def _unpacked(source: BinaryIO, entry: Entry) -> Iterator[bytes]:
    packed = entry.path.lower().endswith(".gz")
    reader = gzip.GzipFile(fileobj=source) if packed else source
    limit = max(_RATIO_COUNTS_FROM, entry.size * _LARGEST_RATIO)
    total = 0
    # A reader sets memory aside for all that it is asked for, and very many files are small.
    size = _CHUNK if packed else min(_CHUNK, entry.size + 1)
    while chunk := reader.read(size):
        total += len(chunk)
        if packed and total > limit:
            raise _Bomb
        yield chunk


def _unread(entry: Entry, refusal: str) -> StagedCopy:
    """A file that is not read: its identity is the entry's own, not that of its content."""
    said = f"{entry.kind.value}:{entry.path}:{entry.version}"
    return StagedCopy(entry, hashlib.sha256(said.encode()).hexdigest(), None, Scan(), refusal)


def scan_again(content: Path) -> Scan:
    """Scan the bytes of a staged copy again, for a batch that an earlier run has staged."""
    scan = Scan()
    with content.open("rb", buffering=0) as source:
        while chunk := source.read(_CHUNK):
            scan.feed(chunk)
    return scan


def is_whole(content: Path, sha256: str) -> bool:
    """Whether a staged copy of an earlier run is there, unchanged."""
    if not content.exists():
        return False
    with content.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == sha256


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
