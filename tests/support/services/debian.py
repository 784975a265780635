"""Programs of Debian's packages that tests need: installed if they are missing and we may."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


def install(package: str, is_there: Callable[[], bool]) -> str | None:
    """Install a package unless it is there, where we are root on a Debian; why it failed, if so."""
    if is_there() or os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    with (Path(tempfile.gettempdir()) / "retailmart-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_there():  # another worker was first
            return None
        quiet = {
            **os.environ,
            "DEBIAN_FRONTEND": "noninteractive",
            "RUNLEVEL": "1",  # a server that the package would start is not wanted
        }
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", package],
        ):
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2_000:]}"
    return None
