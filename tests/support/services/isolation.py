"""Processes as on another machine: they share nothing but the network with those beside them.

Run as a program (`python -m tests.support.services.isolation VIEW COMMAND...`) this module makes
the view of the file system, then becomes the command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.services.debian import install

_ROOT = Path(__file__).parents[3]
# Debian keeps `ip` in a folder that is not on everybody's path.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_PACKAGES = {"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "ip": "iproute2"}
# Any process can write to these, so they would be folders that machines share.
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run/shm")
# The kernel's interfaces, which a read-only mount would break.
_KERNEL = ("/proc", "/sys", "/dev")


def need_namespaces() -> None:
    """Install the programs for namespaces; skip the test where this process may not use them."""
    import pytest  # here: the view of a worker is made without the tests' packages

    for name, package in _PACKAGES.items():
        if failure := install(package, partial(_is_there, name)):
            pytest.fail(failure, pytrace=False)
    allowed = os.geteuid() == 0 and all(map(_is_there, _PACKAGES))
    if allowed:
        tried = [program("unshare"), "--mount", "--pid", "--net", "--fork", "true"]
        allowed = subprocess.run(tried, capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("this process may not make namespaces: run the tests as root")


def program(name: str) -> str:
    """The path of a program that `need_namespaces` has made sure of."""
    path = shutil.which(name, path=_PATH)
    assert path is not None, f"{name} is not installed"
    return path


def _is_there(name: str) -> bool:
    return shutil.which(name, path=_PATH) is not None


@dataclass(frozen=True)
class Namespace:
    """Processes that share a namespace of the kernel; `kind` is a name in `/proc/PID/ns`."""

    kind: str
    name: str

    @classmethod
    def of(cls, process: int, kind: str) -> Namespace:
        """The namespace of a process, or of its children (`pid_for_children`)."""
        return cls(kind.partition("_")[0], str(Path(f"/proc/{process}/ns/{kind}").readlink()))

    def processes(self) -> set[int]:
        """Everything that runs in it now; a process that has ended and is not reaped is not."""
        members = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                ended = (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not ended and str((folder / "ns" / self.kind).readlink()) == self.name:
                    members.add(int(folder.name))
        return members

    def kill(self, seconds: float = 30) -> None:
        """SIGKILL for everything in it; nothing of it runs when this returns."""
        assert self != Namespace.of(os.getpid(), self.kind), "that would be the whole machine"
        end = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < end, f"{self.name} still has the processes {left}"
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)


def isolated(
    command: Sequence[str],
    *,
    hidden: Iterable[Path],
    private: Iterable[Path],
    kept: Iterable[Path],
    localhost: str = "127.0.0.1",
) -> list[str]:
    """A command line that runs a command as on another machine.

    Every `hidden` folder, and every folder for temporary files, is an empty one in memory there.
    `private` folders are made in these; the command starts in the first. `kept` folders stay
    visible below a hidden one, as do the interpreter and the sources of product and tests. What
    is not hidden is read-only. Other processes are not visible, and all processes of the command
    end when its first one does. A hidden folder that is missing ends it with an error. The name
    `localhost` stands for an address of its own, so that it can have its own way to a server.
    """
    temporary = [Path(tempfile.gettempdir()), *map(Path, _TEMPORARY)]
    own = [_ROOT / "src", _ROOT / "tests", Path(sys.prefix), Path(sys.base_prefix)]
    view = {
        "hidden": _texts([*hidden, *(folder for folder in temporary if folder.is_dir())]),
        "private": list(map(str, private)),
        "kept": _texts([*own, *kept]),
        "localhost": [localhost],
    }
    # fmt: off
    return [
        program("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", __name__, json.dumps(view), *command,
    ]
    # fmt: on


def _texts(folders: Iterable[Path]) -> list[str]:
    return sorted({str(folder.resolve()) for folder in folders})


def _become(view: dict[str, list[str]], command: list[str]) -> None:
    """Make the view in this process's mount namespace, then run the command in its place."""
    hidden = [Path(folder) for folder in view["hidden"]]  # an outer one comes before an inner one
    kept = {folder: os.open(folder, os.O_PATH) for folder in view["kept"]}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mounted = line.split()[1].encode().decode("unicode_escape")
        if mounted in _TEMPORARY or not any(
            f"{mounted}/".startswith(f"{folder}/") for folder in _KERNEL
        ):
            _mount("-o", "remount,bind,ro", mounted)
    for at, folder in enumerate(hidden):
        if not any(folder.is_relative_to(outer) for outer in hidden[:at]):
            _mount("-t", "tmpfs", "-o", "mode=1777", "private", str(folder))
    for name, handle in kept.items():
        if not Path(name).exists():
            Path(name).mkdir(parents=True)
            # Not canonicalized: by its name the source would be the empty folder just made.
            _mount("--no-canonicalize", "--bind", f"/proc/self/fd/{handle}", name, handle=handle)
        os.close(handle)
    for folder in map(Path, view["private"]):
        folder.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w") as hosts:  # in memory of its own, and gone at the end
        hosts.write(f"{view['localhost'][0]} localhost\n")
        hosts.flush()
        _mount("--bind", hosts.name, "/etc/hosts")
    os.chdir(view["private"][0])  # the folder this process was in is the one outside
    os.execvp(command[0], command)


def _mount(*words: str, handle: int | None = None) -> None:
    command = [program("mount"), "--no-mtab", *words]
    subprocess.run(command, check=True, pass_fds=[] if handle is None else [handle])


if __name__ == "__main__":
    _become(json.loads(sys.argv[1]), sys.argv[2:])
