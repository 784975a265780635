"""Checks the machine that runs work on: Python, memory, scratch."""

from __future__ import annotations

import fcntl
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from retailmart.check_results import CheckResult, ok, problem, warning

_GB = 10**9
_LITTLE = _GB
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# A container's memory limit, in the newer and in the older control groups.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def examine_machine(memory_limit: str | None) -> Iterator[CheckResult]:
    """Check Python and memory; `memory_limit` as in the settings."""
    found = f"{platform.python_version()}, retailmart {version('retailmart')}"
    yield ok("machine: Python", found)
    free = free_memory()
    if free is not None:
        yield _memory(free, memory_limit)


def examine_scratch(private: Path) -> Iterator[CheckResult]:
    """Check the folder for files in use; its lock separates the runs of one machine."""
    from retailmart.storage.health import examine_folder, nearest

    written = examine_folder(private, "scratch: write")
    yield written
    if written.fix:
        return
    root = nearest(private)
    probe = root / f".retailmart-doctor-{uuid.uuid4().hex}"
    try:
        with probe.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        fix = "Put the project's folder on a disk that has file locks"
        yield problem("scratch: lock", f"{root} takes no lock: {error.strerror}", fix)
    else:
        yield ok("scratch: lock", "takes locks: of two runs at once the second is told")
    finally:
        with suppress(OSError):
            probe.unlink()


def free_memory() -> int | None:
    """The memory that this process may still take, in bytes; None if the system does not say."""
    free = []
    with suppress(OSError, StopIteration, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        free.append(int(line.split()[1]) * 1024)
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):
            most = int(Path(limit).read_text(encoding="ascii"))
            free.append(max(0, most - int(Path(used).read_text(encoding="ascii"))))
    return min(free, default=None)


def _memory(free: int, memory_limit: str | None) -> CheckResult:
    check, found = "machine: memory", f"{free / _GB:.1f} GB free"
    if memory_limit is None:
        if free < _LITTLE:
            fix = "Free some, or set what the engine may take, as in `memory_limit: 512MB`"
            return warning(check, found, fix)
        return ok(check, found)
    found = f"{found}, memory_limit is {memory_limit}"
    if _bytes(memory_limit) > free:
        fits = max(1, int(free * 0.8 / 10**6))
        fix = f"Set `memory_limit: {fits}MB` in retailmart.yml, or free some"
        return warning(check, found, fix)
    return ok(check, found)


def _bytes(amount: str) -> float:
    """An amount in bytes; the settings have already validated it."""
    number, unit = re.findall(r"[\d.]+|[A-Z]+", amount.upper())
    return float(number) * _UNITS[unit]
