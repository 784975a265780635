"""What the machine lacks or forbids: room on a disk, memory, open files, the right to write.

Whatever was asked would have failed, so no file and no SELECT is to blame. Libraries report it in
ways of their own; each of them becomes one sentence with a cure.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retailmart.errors import RetailmartError, Shortage

_AGAIN = "then run again: retailmart run. Nothing is lost"
_SENTENCES = {
    "disk": ("the disk is full{at}", f"Make room there (df -h{{folder}} shows it), {_AGAIN}"),
    "quota": (
        "the account's quota on the disk is used up{at}",
        f"Make room or raise the quota (quota -s shows it), {_AGAIN}",
    ),
    "inodes": (
        "the disk takes no more files{at}",
        f"Remove files there (df -i{{folder}} shows how many it has), {_AGAIN}",
    ),
    "memory": (
        "the memory is not enough",
        "Give the process more memory (ulimit -v, the container's limit), or let the engine use"
        f" less: memory_limit and threads in retailmart.yml, {_AGAIN}",
    ),
    "files": (
        "too many files are open{at}",
        f"Raise the limit, as with: ulimit -n 4096, {_AGAIN}",
    ),
    "read-only": (
        "the disk takes no writes, as it is mounted read-only{at}",
        f"Mount it for writing, or let retailmart.yml name another place, {_AGAIN}",
    ),
    "denied": (
        "this account may not read or write{at}",
        f"Give it the right to (ls -l{{folder}} shows who has it), {_AGAIN}",
    ),
    "large": (
        "a file got larger than this process may write{at}",
        f"Raise the limit, as with: ulimit -f unlimited, {_AGAIN}",
    ),
}
_KINDS = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "quota",
    errno.ENOMEM: "memory",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EFBIG: "large",
}
# What libraries pass on as texts: DuckDB, Arrow, delta-rs, the JVM, the loader of libraries.
_TEXTS = (
    (re.compile(r"No space left on device|os error 28\b|max_temp_directory_size"), "disk"),
    (re.compile(r"Disk quota exceeded|os error 122\b"), "quota"),
    (re.compile(r"Too many open files|os error 24\b"), "files"),
    (re.compile(r"Read-only file system|os error 30\b"), "read-only"),
    (re.compile(r"Permission denied|os error 13\b"), "denied"),
    (re.compile(r"File too large|os error 27\b"), "large"),
    (
        re.compile(
            r"Out of Memory Error|Cannot allocate memory|failed to map segment|bad_alloc"
            r"|[Oo]ut of memory|OutOfMemoryError|can't start new thread|os error 12\b"
            r"|cannot create thread|Resource temporarily unavailable"
        ),
        "memory",
    ),
)
# Where a text of a library names the file. DuckDB writes quotes within JSON with a backslash.
_FILE = re.compile(r"""(?:file|path|directory)[: ]+\\?["'](/[^"'\\]+)|: (/[^\s"':]+)""")
# An error of one of these is the library's own, and its text may say that something is lacking.
_LIBRARIES = (
    *("duckdb", "_duckdb", "deltalake", "_internal", "pyarrow", "builtins", "_rust"),
    "pyo3_runtime",
)
# What libraries in Rust raise where they give up; Python does not count it as an Exception.
_PANIC = "PanicException"


def shortage_of(error: BaseException) -> Shortage | None:
    """What the machine lacked, if that is why something failed; None for all other errors."""
    if isinstance(error, Shortage):
        return error
    if isinstance(error, RetailmartError):
        return None  # it says what it is
    if isinstance(error, MemoryError):
        return _shortage("memory", None)
    if isinstance(error, OSError) and error.errno in _KINDS:
        place = error.filename2 or error.filename
        return _shortage(_KINDS[error.errno], os.fsdecode(place) if _is_path(place) else None)
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        return shortage_in(str(error))
    return None


def shortage_in(text: str) -> Shortage | None:
    """The same for an error's text, where a library passes on nothing else."""
    for pattern, kind in _TEXTS:
        if pattern.search(text):
            found = _FILE.search(text)
            return _shortage(kind, (found[1] or found[2]) if found else None)
    return None


@contextmanager
def shortages_told() -> Iterator[None]:
    """Raise what the machine lacks as Shortage."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        lacking = shortage_of(error)
        if lacking is None or lacking is error:
            raise
        raise lacking from error


def _is_path(place: object) -> bool:
    return isinstance(place, str | bytes)


def _shortage(kind: str, place: str | None) -> Shortage:
    folder = _folder(place) if place else None
    if kind == "disk" and folder and _has_room(folder):
        kind = "inodes"
    message, fix = _SENTENCES[kind]
    at = f": {place}" if place else ""
    return Shortage(
        kind,
        message.format(at=at),
        fix.format(folder=f" {folder}" if folder else ""),
    )


def _folder(place: str) -> str:
    """The innermost folder of a path that exists."""
    folders = Path(place).absolute().parents
    return str(next((folder for folder in folders if folder.is_dir()), "/"))


def _has_room(folder: str) -> bool:
    """Whether bytes are free, so that a disk which takes nothing more lacks entries for files."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    return bool(status.f_files) and not status.f_favail and bool(status.f_bavail)
