"""A process that has loaded the program and forks a child for each command: it starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

# What a run imports when it gets there. None of them starts a thread: a fork would lose it.
_IMPORTED = (
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
_ROOT = Path(__file__).parents[2]
# No command ends so: it raised what nothing handles.
_CRASHED = 99


class ForkingProcess:
    """Runs a module that reads an order a line and answers with a line, both JSON; close it."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, order: Any) -> Any:
        """Give an order, and wait for its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


# In the process that is asked


def serve(answer: Callable[[Any], Any]) -> None:
    """Import what commands import, and answer the orders of a ForkingProcess until it closes."""
    for name in _IMPORTED:
        import_module(name)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def end_as_main_does(words: Sequence[str]) -> NoReturn:
    """Run `retailmart WORDS` in a child that was forked, and end the child with its exit code."""
    from retailmart.cli import main

    sys.argv = ["retailmart", *words]
    code: object = 0
    try:
        main()
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        traceback.print_exc()
        code = _CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else _CRASHED)
