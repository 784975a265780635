"""Servers as child processes: a free port, a start that waits, a death with the test process."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOST = "127.0.0.1"
# Below the ephemeral range: no outgoing connection takes the port while its server is down.
_PORTS = range(20_000, 32_000)
_TRIES = 5
# A child asks to die with the *thread* that made it, so one thread which lives as long as the
# process makes them all; a test may then restart a server from a thread of its own.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


class NotStarted(Exception):
    """A server ended, or said nothing, before it was ready."""


def free_port() -> int:
    """A port nobody listens on right now."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that the kernel kills when this process is gone, however it went."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment,
                start_new_session=True,  # Ctrl-C stops the tests, which then stop the server
            )

    return _SPAWNER.submit(start).result()


def wait_until_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, seconds: float = 60
) -> None:
    """Return as soon as the server answers; raise NotStarted with its last words if it never does.

    A port that answers while our process is dead belongs to somebody else.
    """
    end = time.monotonic() + seconds
    while True:
        answered = ready()
        if process.poll() is not None:
            raise NotStarted(f"ended with {process.returncode}:\n{last_words(log)}")
        if answered:
            return
        if time.monotonic() > end:
            raise NotStarted(f"no answer within {seconds} seconds:\n{last_words(log)}")
        time.sleep(0.01)


def end(process: subprocess.Popen[bytes], *, clean: bool, seconds: float = 30) -> None:
    """Stop a server: asked politely, or killed."""
    if clean and process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    else:
        process.kill()
    process.wait()


def last_words(log: Path, size: int = 2_000) -> str:
    """The end of a log, to tell why a server did not start."""
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no log)"


class Served:
    """A server as a child process on a free port, which it keeps when it starts again."""

    log: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, on the same port and the same data where it ran before."""
        self._launch()

    def stop(self) -> None:
        """Shut down cleanly."""
        self._end(clean=True)

    def kill(self) -> None:
        """SIGKILL: what was not on disk is lost."""
        self._end(clean=False)

    def restart(self) -> None:
        """Stop if running, then start on the same port."""
        self.stop()
        self.start()

    def ensure(self) -> None:
        """Bring the server back if a test left it down."""
        if not self.running:
            self.start()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _launch(self, folder: Path | None = None) -> None:
        """Start, and wait until it answers; another port where somebody was faster to take it."""
        assert not self.running, "the server is already running"
        first = self.port == 0
        for left in reversed(range(_TRIES)):
            self.port = free_port() if first else self.port
            self._process = spawn(self._command(), self.log, folder=folder)
            try:
                wait_until_ready(self._process, self._answers, self.log)
            except NotStarted as error:
                end(self._process, clean=False)
                taken = first and "already in use" in str(error)
                if not (taken and left):
                    raise
            else:
                return

    def _end(self, *, clean: bool) -> None:
        if self._process is not None:
            end(self._process, clean=clean)
            self._process = None
