"""Tests by use whether a folder or bucket can do what runs need.

Probes have hidden names, which runs ignore, and are removed again.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retailmart.check_results import CheckResult, clock, ok, problem, warning
from retailmart.report import number_of
from retailmart.storage.entries import Store
from retailmart.storage.local import LocalFolder, sync_file, sync_folder

if TYPE_CHECKING:
    from obstore.store import S3Store

    from retailmart.storage.s3 import S3Access, S3Folder

_PROBE = ".retailmart-doctor-"
_CONTENT = b"retailmart doctor: safe to delete\n"
_GB, _MB = 10**9, 10**6
_LITTLE, _TOO_LITTLE, _LITTLE_SHARE, _FEW_FILES = 5 * _GB, 500 * _MB, 0.10, 10_000
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre")
_SECONDS = 5
# Amazon refuses requests signed a quarter of an hour before or after its own time.
_S3_CLOCK_SECONDS = 600
_SET_CLOCK = "Synchronise this machine's clock: timedatectl set-ntp true"
_CODE = re.compile(r"(?:<Code>|\(code: )(\w+)")
_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_WRONG_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")


class Use(StrEnum):
    """What runs do in a location."""

    LANDING = "landing"
    LAKE = "lake"
    ARCHIVE = "archive"


def examine_store(store: Store, use: Use) -> Iterator[CheckResult]:
    """Check a location that the project's settings name."""
    if isinstance(store, LocalFolder):
        yield from _local(store.root, use)
        return
    from retailmart.storage.s3 import S3Folder

    if isinstance(store, S3Folder):
        yield from _s3(store, use)


def examine_move(landing: Store, archive: Store) -> CheckResult:
    """Check how files get from landing to the archive."""
    check = "archive: way"
    if isinstance(landing, LocalFolder) and isinstance(archive, LocalFolder):
        one, other = nearest(landing.root), nearest(archive.root)
        if one.stat().st_dev == other.stat().st_dev:
            return ok(check, "on one disk with landing: files are renamed")
        return ok(check, "on another disk than landing: files are copied, then removed")
    if isinstance(landing, LocalFolder) or isinstance(archive, LocalFolder):
        return ok(check, "landing and archive are of two kinds: files pass through this machine")
    return ok(check, "from bucket to bucket: the store copies, nothing passes through here")


def nearest(path: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return next(each for each in (path, *path.parents) if each.is_dir())


# this machine's disks


def examine_folder(folder: Path, check: str) -> CheckResult:
    """Write, sync, rename, read and remove a file in the folder, or where it would be created."""
    root = nearest(folder)
    found = f"{folder} is writable, syncs and renames"
    if root != folder:
        found = f"{folder} is not there yet, the first run makes it"
    try:
        with _probe(root) as probe:
            renamed = probe.with_name(f"{probe.name}-2")
            try:
                probe.rename(renamed)
                sync_folder(root)
                if renamed.read_bytes() != _CONTENT:
                    return problem(check, f"{root} gives back other bytes", "Check the disk: fsck")
            finally:
                renamed.unlink(missing_ok=True)
    except OSError as error:
        return problem(check, f"{root}: {error.strerror or error}", _fix(root, error))
    return ok(check, found)


def examine_disks(folders: Mapping[str, Path]) -> Iterator[CheckResult]:
    """Check free space and file names on each disk that holds the named folders."""
    disks: dict[int, list[str]] = {}
    places: dict[int, Path] = {}
    for name, folder in folders.items():
        place = nearest(folder)
        device = place.stat().st_dev
        disks.setdefault(device, []).append(name)
        places.setdefault(device, place)
    for device, names in disks.items():
        yield _disk(places[device], names)


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that a path is on, or None."""
    kind = _file_system(nearest(path).resolve())
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def _disk(place: Path, names: list[str]) -> CheckResult:
    usage, status = shutil.disk_usage(place), os.statvfs(place)
    share = usage.free / usage.total if usage.total else 0.0
    check, disk, users = f"disk: {names[0]}", _mount(place.resolve())[0], ", ".join(names)
    found = f"{usage.free / _GB:,.1f} GB free of {usage.total / _GB:,.1f} ({share:.0%}) for {users}"
    fix = f"Make room on {disk}, or put one of these on another disk in retailmart.yml"
    if usage.free < _TOO_LITTLE:
        return problem(check, found, fix)
    if usage.free < _LITTLE or share < _LITTLE_SHARE:
        return warning(check, found, fix)
    if status.f_files and status.f_favail < _FEW_FILES:
        return warning(check, f"{disk} has room for {status.f_favail:,} more files only", fix)
    return ok(check, found)


def _local(root: Path, use: Use) -> Iterator[CheckResult]:
    if use is Use.LANDING and not root.is_dir():
        yield problem(f"{use}: folder", f"{root} is not there", f"Type: mkdir -p {_shell(root)}")
        return
    if use is Use.LANDING:
        try:
            count = sum(not entry.name.startswith(".") for entry in os.scandir(root))
        except OSError as error:
            yield problem(f"{use}: list", f"{root}: {error.strerror}", _fix(root, error))
            return
        yield ok(f"{use}: list", f"{root} can be listed, {number_of(count, 'name')} in it")
    written = examine_folder(root, f"{use}: write")
    yield written
    if use is Use.LAKE and written.fix is None:
        yield _exclusive(nearest(root))


def _exclusive(root: Path) -> CheckResult:
    """Check the link with which a commit takes its number: the second of two must be refused."""
    check = "lake: commit"
    fix = "Put the lake on a disk with hard links (ext4, xfs, apfs): `lake` in retailmart.yml"
    try:
        with _probe(root) as probe:
            linked = probe.with_name(f"{probe.name}-2")
            try:
                os.link(probe, linked)
                with suppress(FileExistsError):
                    os.link(probe, linked)
                    return problem(check, f"{root} lets two commits have one number", fix)
            finally:
                linked.unlink(missing_ok=True)
    except OSError as error:
        return problem(check, f"{root}: {error.strerror or error}", fix)
    return ok(check, "of two commits with one number the disk refuses the second")


@contextmanager
def _probe(root: Path) -> Iterator[Path]:
    probe = root / _name()
    try:
        with probe.open("xb") as file:
            file.write(_CONTENT)
        sync_file(probe)
        yield probe
    finally:
        with suppress(OSError):
            probe.unlink()


def _fix(root: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Make room on the disk of {root}"
    if error.errno == errno.EROFS:
        return f"Mount it writable: mount -o remount,rw {_shell(_mount(root.resolve())[0])}"
    shown = _shell(root)
    return f"Let this account write there: chown {os.geteuid()} {shown} && chmod u+rwx {shown}"


def _shell(path: Path | str) -> str:
    return shlex.quote(str(path))


def _file_system(path: Path) -> str:
    return _mount(path)[1]


def _mount(path: Path) -> tuple[str, str]:
    """The mount point of a path's disk, and its kind; ("/", "") if unknown."""
    found = ("/", "")
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            before, _, behind = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            if path.is_relative_to(point) and len(point) >= len(found[0]):
                found = (point, behind.split()[0])
    return found


# buckets


def examine_s3_clock(access: S3Access) -> CheckResult:
    """Compare clocks by the date in the store's answer, even in a refusal."""
    where = access.where()
    url = where.get("endpoint") or f"https://s3.{where['region']}.amazonaws.com"
    before = datetime.now(UTC)
    try:
        # The endpoint is the user's own setting, and no secret is sent.
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        with error:
            date = error.headers["Date"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return problem("S3: clock", f"{url} cannot be reached: {reason}", _reach(where))
    here = before + (datetime.now(UTC) - before) / 2
    if not date:
        return ok("S3: clock", f"{url} does not tell its time")
    # A date has whole seconds: the middle of its second is the best estimate.
    there = parsedate_to_datetime(date) + timedelta(seconds=0.5)
    return clock(
        "S3: clock",
        (there - here).total_seconds(),
        problem_from=_S3_CLOCK_SECONDS,
        why="the store will refuse signed requests",
        fix=_SET_CLOCK,
    )


def _s3(folder: S3Folder, use: Use) -> Iterator[CheckResult]:
    """Test each right by use; a missing bucket or server ends the tests."""
    import obstore

    where = folder.access.where()
    source = _credentials(folder.access)
    place = where.get("endpoint", "Amazon")
    store = _impatient(folder)
    failed = _try(folder, use, "list", lambda: _list(store, folder))
    if failed:
        yield failed
        return
    yield ok(f"{use}: list", f"{folder} at {place}, region {where['region']}, keys from {source}")
    key = folder._key(_name())
    unwritten = _try(folder, use, "write", lambda: obstore.put(store, key, _CONTENT))
    unread = _try(folder, use, "read", lambda: _read(store, key, written=unwritten is None))
    # Also after a failed write: an error does not prove that nothing was written.
    undeleted = _try(folder, use, "delete", lambda: _delete(store, key))
    # Landing need not be writable: reading and removing an absent object shows as much.
    if use is not Use.LANDING:
        yield unwritten or ok(f"{use}: write", "objects can be written")
    yield unread or ok(f"{use}: read", "objects can be read")
    yield undeleted or ok(f"{use}: delete", "objects can be removed")
    if use is Use.LAKE and unwritten is None:
        yield _conditional(store, folder)


def _conditional(store: S3Store, folder: S3Folder) -> CheckResult:
    """Check the conditional put that numbers a commit: an existing object makes it fail."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    check = "lake: conditional put"
    fix = (
        "Use a store that honours If-None-Match (Amazon S3 does), or a lake on this machine's disk:"
        " `lake: lake` in retailmart.yml"
    )
    key = folder._key(_name())
    try:
        try:
            obstore.put(store, key, _CONTENT, mode="create")
            obstore.put(store, key, _CONTENT, mode="create")
        finally:
            with suppress(BaseError, FileNotFoundError):
                obstore.delete(store, key)
    except AlreadyExistsError:
        return ok(check, "of two commits with one number the store refuses the second")
    except (BaseError, OSError) as error:
        return problem(check, f"{folder} refuses it: {_said(error)}", fix)
    return problem(check, f"{folder} lets two commits have one number: a batch could be lost", fix)


def _impatient(folder: S3Folder) -> S3Store:
    """The folder's client with short timeouts, because people wait for the answer."""
    from obstore.store import S3Store

    theirs = folder._store
    limits = {"connect_timeout": f"{_SECONDS}s", "timeout": f"{_SECONDS}s"}
    options: Any = {**(theirs.client_options or {}), **limits}
    config: Any = {name: value for name, value in theirs.config.items() if "bucket" not in name}
    return S3Store(
        folder.bucket,
        config=config,
        client_options=options,
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=_SECONDS)},
        credential_provider=folder._credential,  # type: ignore[arg-type]
    )


def _list(store: S3Store, folder: S3Folder) -> None:
    import obstore

    next(iter(obstore.list(store, prefix=folder.prefix or None, chunk_size=1)), None)


def _read(store: S3Store, key: str, *, written: bool) -> None:
    import obstore

    try:
        content = bytes(obstore.get(store, key).bytes())
    except FileNotFoundError:
        if written:
            raise
        return
    if content != _CONTENT:
        raise OSError(errno.EIO, "other bytes came back than were written")


def _delete(store: S3Store, key: str) -> None:
    import obstore

    with suppress(FileNotFoundError):
        obstore.delete(store, key)


def _try(folder: S3Folder, use: Use, what: str, work: Callable[[], object]) -> CheckResult | None:
    """Do the work; if it fails, return a check result with the fix."""
    from obstore.exceptions import BaseError

    check = f"{use}: {what}"
    try:
        work()
    except (BaseError, OSError) as error:
        # Not every refusal has an exception class: the text quotes the store's answer.
        code = _CODE.search(str(error))
        fix = _remedy(folder, use, code[1] if code else "", str(error))
        return problem(check, f"{folder}: {code[1] if code else _said(error)}", fix)
    return None


def _remedy(folder: S3Folder, use: Use, code: str, said: str) -> str:
    where, source = folder.access.where(), _credentials(folder.access)
    if code == "NoSuchBucket":
        endpoint = f" --endpoint-url {where['endpoint']}" if "endpoint" in where else ""
        return f"Type: aws s3 mb s3://{folder.bucket} --region {where['region']}{endpoint}"
    if code in _WRONG_KEYS:
        return f"Correct or renew the keys (now from {source})"
    if code in _WRONG_REGION:
        return f"Name the bucket's own region: AWS_REGION (now {where['region']})"
    if code == "RequestTimeTooSkewed":
        return _SET_CLOCK
    if code == "AccessDenied" or "403 Forbidden" in said or "401 Unauthorized" in said:
        return _policy(folder, use)
    return _reach(where)


def _policy(folder: S3Folder, use: Use) -> str:
    rights = ["s3:GetObject", "s3:DeleteObject"]
    if use is not Use.LANDING:
        rights.append("s3:PutObject")
    objects = "/".join(filter(None, (folder.bucket, folder.prefix, "*")))
    return (
        f"Allow s3:ListBucket on arn:aws:s3:::{folder.bucket} and {', '.join(rights)} on"
        f" arn:aws:s3:::{objects} in the account's policy, or check its keys"
        f" (from {_credentials(folder.access)})"
    )


def _reach(where: Mapping[str, str]) -> str:
    if "endpoint" in where:
        return f"Start the store, or correct `s3: endpoint` (now {where['endpoint']})"
    return f"Check the network, and that AWS_REGION (now {where['region']}) is the bucket's"


def _credentials(access: S3Access) -> str:
    """The source of the key, never the key."""
    if access.keys():
        return "`s3` in retailmart.yml"
    key, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    if access.environment.get(key) and access.environment.get(secret):
        return f"{key} in the environment or .env"
    method = getattr(access._chain, "method", None)
    return f"the AWS chain ({method})" if method else "nowhere"


def _said(error: BaseException) -> str:
    """The error's first line, without the store's answer, which may hold keys and signatures."""
    return (str(error).partition("<")[0].strip().splitlines() or [type(error).__name__])[0]


def _name() -> str:
    return f"{_PROBE}{uuid.uuid4().hex}"
