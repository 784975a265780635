"""Runs as children of one warm process: what they import is paid for once, what they open is not.

A fork server is a process that forks a child for each order it gets, a JSON line each. The child
may be told to kill itself at an effect; the server tells how it ended.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.project_state import ProjectState, state_of

from chaos.effects import Effects

# Which syncs a run makes: a harness that finds nothing where they are missing proves nothing.
ALL, DATABASE_ONLY, NONE = "all", "database only", "none"
AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
Step = Sequence[Any]
RUN: Step = ("run",)
MAINTAIN: Step = ("maintain",)
BACKFILL: Step = ("backfill",)

_ROOT = Path(__file__).parents[1]
# What a run imports when it gets there; imported before the forks, it is paid for once.
_IMPORTED = (
    "pandas",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "dotenv.main",
    "pytz",
    "deltalake.transaction",
    "obstore.store",
    "botocore.session",
    "psycopg",
    "pymysql",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.postgresql",
    "retailmart.api",
    "retailmart.operations.backfill",
    "retailmart.operations.maintain",
    "retailmart.operations.quarantine",
    "retailmart.operations.undo",
    "retailmart.database.source",
    "retailmart.database.sqlite.dialect",
    "retailmart.database.mysql.dialect",
    "retailmart.database.mysql.opening",
    "retailmart.database.mysql.reading",
    "retailmart.database.postgres.dialect",
    "retailmart.database.postgres.opening",
    "retailmart.database.postgres.reading",
    "retailmart.engines.duckdb",
    "retailmart.engines.partitions",
    "retailmart.storage.s3",
    "retailmart.feeds.replay",
    "tests.support.judge",
)


class ChildFailed(Exception):
    """A child that was not killed ended with an error: its traceback."""


def undo(run_id: int) -> Step:
    """The step that takes a run back."""
    return ("undo", run_id)


@dataclass(frozen=True)
class Ended:
    """How a child ended: killed at an effect, or with what it found."""

    killed: bool
    last_effect: str = ""
    effects: tuple[str, ...] = ()
    state: ProjectState | None = None
    told: Any = None


# what runs in the children


def _work(order: dict[str, Any]) -> dict[str, Any]:
    folder = Path(order["folder"])
    if order["syncs"] != ALL:
        _forget_to_sync(order["syncs"])
    killed = (order["kill_at"], order["delay"], order["witness"], order["call"])
    effects = Effects(str(folder), *killed)
    if order["watched"]:
        effects.watch()
    told = [_step(folder, *step) for step in order["steps"]]
    seen = list(effects.seen)
    return {"effects": seen, "state": state_of(folder) if order["state"] else None, "told": told}


def _step(folder: Path, name: str, *arguments: Any) -> Any:
    import retailmart

    if name == "run":
        return retailmart.open_project(folder).run(AS_OF).run_id
    if name == "undo":
        return retailmart.open_project(folder).undo(int(arguments[0]), AS_OF).run_id
    if name == "backfill":
        return retailmart.open_project(folder).backfill("sales", as_of=AS_OF).run_id
    if name == "maintain":
        opened = retailmart.open_project(folder, {"maintenance": {"retention_days": 0}})
        return opened.maintain().merged
    if name == "export":
        return retailmart.open_project(folder).quarantine_export(arguments[0])
    if name == "replay":
        return retailmart.open_project(folder).quarantine_replay(arguments[0]).path
    assert name == "judge", f"no such step: {name}"
    return _judged(folder, Path(arguments[0]), Path(arguments[1]))


def _judged(folder: Path, deliveries: Path, shop_db: Path) -> list[str]:
    """What an independent count of these files says against the marts; nothing if all is well."""
    from tests.support import judge

    import retailmart

    opened = retailmart.open_project(folder)
    files = sorted(path for path in deliveries.rglob("*") if path.is_file())
    wrong = []
    for name, expected in judge.expected_marts(files, shop_db, AS_OF).items():
        if name not in opened.project.marts:
            continue
        columns = ", ".join(judge.COLUMNS[name])
        found = Counter(opened.mart(name).project(columns).fetchall())
        wrong += _beside(f"mart {name}", expected, found)
        if name in judge.PUBLISHED:
            with opened.ledger() as ledger, ledger.engine.connect() as connection:
                quote = connection.dialect.identifier_preparer.quote_identifier
                named = ", ".join(map(quote, judge.COLUMNS[name]))
                read = connection.exec_driver_sql(f"SELECT {named} FROM {quote(name)}")
                rows = [tuple(row) for row in read]
            cents = judge.in_cents(name, expected.elements())
            wrong += _beside(f"published {name}", cents, judge.in_cents(name, rows))
    return wrong


def _beside(what: str, expected: Counter[Any], found: Counter[Any]) -> list[str]:
    lost, doubled = expected - found, found - expected
    wrong = [f"lost {what}: {sum(lost.values())} rows, {list(lost)[:2]}"] if lost else []
    return wrong + (
        [f"doubled {what}: {sum(doubled.values())} rows, {list(doubled)[:2]}"] if doubled else []
    )


def _forget_to_sync(syncs: str) -> None:
    """Leave it to the system when a run's files, or its database too, reach the disk."""
    for name in ("fsync", "fdatasync"):
        setattr(os, name, lambda _descriptor: None)
    if syncs == DATABASE_ONLY:
        return

    class Forgetful(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            asks = statement.startswith("PRAGMA synchronous")
            return super().execute("PRAGMA synchronous = OFF" if asks else statement, *arguments)

    connect = partial(sqlite3.connect, factory=Forgetful)
    vars(sqlite3)["connect"] = vars(sqlite3.dbapi2)["connect"] = connect


def _serve() -> None:
    for name in _IMPORTED:
        with suppress(ModuleNotFoundError):
            import_module(name)
    if "sabotage" in sys.argv:
        from retailmart.operations import batch, run

        for module, name in ((batch, "sweep"), (run, "_sweep_when_due")):
            setattr(module, name, lambda *_: None)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            answer = Path(order["answer"])
            silent = os.open(os.devnull, os.O_WRONLY)
            for output in (1, 2):
                os.dup2(silent, output)
            try:
                answer.write_text(json.dumps(_work(order), default=str))
            except BaseException:
                answer.write_text(json.dumps({"error": traceback.format_exc()}))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"killed": os.WIFSIGNALED(status)}) + "\n")
        sys.stdout.flush()


# what runs in the process of the campaign


class ForkServer:
    """A process of its own that forks the children. `answers` is a folder of its own.

    With `sabotage` its runs don't clean up: to see that it would be noticed.
    """

    def __init__(self, answers: Path, *, sabotage: bool = False) -> None:
        answers.mkdir(parents=True, exist_ok=True)
        self._answer = answers / "answer.json"
        self._witness = answers / "witness"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "chaos.forks", *(["sabotage"] * sabotage)],
            cwd=_ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(
        self,
        folder: Path,
        *steps: Step,
        watched: bool = False,
        kill_at: int | None = None,
        delay: float = 0,
        call: str | None = None,
        state: bool = False,
        syncs: str = ALL,
    ) -> Ended:
        """Let a child do the steps in the project's folder. Raises ChildFailed.

        `kill_at` counts from 0: all effects, or with `call` those of that call. `delay` is how many
        seconds into the effect the child dies. `syncs` are those that are made: ALL,
        DATABASE_ONLY or NONE.
        """
        for old in (self._answer, self._witness):
            old.unlink(missing_ok=True)
        asked = {
            "folder": str(folder),
            "steps": steps,
            "watched": watched or kill_at is not None,
            "kill_at": kill_at,
            "delay": delay,
            "call": call,
            "state": state,
            "syncs": syncs,
            "witness": str(self._witness),
            "answer": str(self._answer),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        if json.loads(self._process.stdout.readline())["killed"]:
            last = self._witness.read_text() if self._witness.exists() else ""
            return Ended(True, last)
        told = json.loads(self._answer.read_text())
        if "error" in told:
            raise ChildFailed(told["error"])
        return Ended(False, "", tuple(told["effects"]), told["state"], told["told"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


if __name__ == "__main__":
    _serve()
