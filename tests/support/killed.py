"""Commands that are killed: children of one warm process, each ended at a moment of its own work.

What commands import is paid for once: a process forks a child for each order. The child's clock is
the processor time that it has used, so that a busy machine does not move the moment. When it is up,
the system ends the child at once (a timer's signal that nothing handles), as SIGKILL would: no
`finally` runs, no file is closed, the database sees a connection that is gone.

The fault campaign kills at each single outside effect (chaos/kills.py). Here kills are one of the
many things that happen to a shop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from tests.support.forking import ForkingProcess

# What a run imports when it gets there. None of them starts a thread: a fork would lose it.
IMPORTED = (
    "deltalake.transaction",
    "dotenv.main",
    "duckdb",
    "pyarrow.parquet",
    "pymysql",
    "retailmart.api",
    "retailmart.cli",
    "retailmart.database.mysql.dialect",
    "retailmart.database.mysql.opening",
    "retailmart.database.source",
    "retailmart.database.sqlite.dialect",
    "retailmart.engines.duckdb",
    "retailmart.operations.maintain",
    "retailmart.operations.run",
    "retailmart.operations.undo",
    "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.sqlite",
)


class Killer(ForkingProcess):
    """Forks the children that are killed; close it at the end."""

    def __init__(self) -> None:
        super().__init__("tests.support.killed")

    def runs(self, words: Sequence[str], seconds: float) -> bool:
        """Run `retailmart WORDS` for so many seconds of processor time; whether that killed it."""
        return bool(self.ask([words, seconds]))


def _serve() -> None:
    for name in IMPORTED:
        import_module(name)
    for line in sys.stdin:
        words, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(words, seconds)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps(os.WIFSIGNALED(status)) + "\n")
        sys.stdout.flush()


def _work(words: Sequence[str], seconds: float) -> None:
    from retailmart.cli import main

    silent = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(silent, output)
    sys.argv = ["retailmart", *words]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    with suppress(BaseException):
        main()
    os._exit(0)


if __name__ == "__main__":
    _serve()
