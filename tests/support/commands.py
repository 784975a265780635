"""Commands in processes of their own, without the second that one takes to import the program.

One warm process forks a child for each command. Folder, environment, output and exit code are those
of a process that a shell starts; only what is decided while Python starts is not, as its encoding.
"""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.forking import ForkingProcess, end_as_main_does, serve


class Commands(ForkingProcess):
    """Forks the children that run commands; close it at the end."""

    def __init__(self) -> None:
        super().__init__("tests.support.commands")

    def run(
        self,
        words: Sequence[str],
        at: Path,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[str]:
        """Run `retailmart WORDS` in the folder `at`, with more environment variables."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "0").write_bytes(stdin)
            around = {**os.environ, **(environment or {})}
            code = self.ask([list(words), str(at), around, name])
            out, talk = ((folder / number).read_text(encoding="utf-8") for number in ("1", "2"))
        return subprocess.CompletedProcess(["retailmart", *words], code, out, talk)


@cache
def warm() -> Commands:
    """The warm process of this session."""
    commands = Commands()
    atexit.register(commands.close)
    return commands


def _answer(order: tuple[Sequence[str], str, dict[str, str], str]) -> int:
    child = os.fork()
    if child == 0:
        _work(*order)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _work(words: Sequence[str], at: str, environment: dict[str, str], folder: str) -> None:
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        os.dup2(os.open(f"{folder}/{number}", flags | os.O_CREAT), number)
    os.chdir(at)
    os.environ.clear()
    os.environ.update(environment)
    end_as_main_does(words)


if __name__ == "__main__":
    serve(_answer)
