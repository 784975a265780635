"""A run killed at any of its outside effects, then run once more, ends as if never killed.

Outside effects are found by watching, not listed by hand: an audit hook sees every file opened for
writing, rename, removal and folder made; wrappers see what Python's audit does not: DuckDB's COPY,
Arrow's Parquet writer, Delta commits and database commits. A fork of a process that has imported
everything and opened nothing counts them, or kills itself at one of them.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.conftest import HEADER, Shop, sale

_KILLS = int(os.environ.get("RETAILMART_TEST_KILLS", "64"))
_SEED = 20240401
_ROOT = Path(__file__).parents[1]
_LONG_AGO = 1_700_000_000
_STAMP = re.compile(r"\d{8}_\d{6}")
_REFUSED = 'file, line, "column", rule, message, raw'
_PUBLISHED = ("customer_monthly_purchase", "sales_team_incentive", "declining_customers")

_KINDS = (
    "after execute",
    "after write_table",
    "after create_write_transaction",
    "after do_commit",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "open ",
)

Picture = dict[str, Any]


# what runs in the children


class _Effects:
    """Counts outside effects, and kills this very process at one of them."""

    def __init__(self, folder: str, kill_at: int | None, delay: float) -> None:
        self.folder = folder
        self.kill_at = kill_at
        self.delay = delay
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def happens(self, what: str) -> None:
        with self.lock:
            self.seen.append(what)
            if len(self.seen) - 1 != self.kill_at:
                return
        if self.delay:
            threading.Timer(self.delay, _die).start()
        else:
            _die()

    def watch(self) -> None:
        import deltalake
        import deltalake.transaction
        import duckdb
        import pyarrow.parquet
        from sqlalchemy.engine.default import DefaultDialect

        sys.addaudithook(self._audited)
        self._wrap(duckdb.DuckDBPyConnection, "execute", lambda a: str(a[1]).startswith("COPY"))
        self._wrap(pyarrow.parquet, "write_table")
        self._wrap(deltalake.DeltaTable, "create_write_transaction")
        self._wrap(deltalake.transaction, "create_table_with_add_actions")
        self._wrap(DefaultDialect, "do_commit")

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if not writes or not self._is_ours(path):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            return
        self.happens(f"{event} {arguments[0]}")

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | bytes) and os.fsdecode(path).startswith(self.folder)

    def _wrap(
        self, owner: Any, name: str, counts: Callable[[tuple[Any, ...]], bool] | None = None
    ) -> None:
        inner = getattr(owner, name)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            if counts and not counts(arguments):
                return inner(*arguments, **named)
            self.happens(f"before {name}")
            result = inner(*arguments, **named)
            self.happens(f"after {name}")
            return result

        setattr(owner, name, wrapper)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _work(order: dict[str, Any]) -> Any:
    """What one child does: a watched run, or a plain run and then a picture of the project."""
    shop = Shop(Path(order["folder"]))
    if order["do"] == "watched":
        effects = _Effects(order["folder"], order["kill_at"], order["delay"])
        effects.watch()
        shop.run()
        return effects.seen
    shop.run()
    return _picture(shop)


def _picture(shop: Shop) -> Picture:
    """Everything that must be the same whether or not a run was killed."""
    from retailmart.engines.duckdb import DuckDBEngine

    project = shop.open()
    lake = project.lake
    private = shop.folder / ".retailmart"
    engine = DuckDBEngine([lake.root], private, threads=2)

    def rows(table: str, columns: str = "*") -> list[str]:
        state = lake.state(table)
        if state is None:
            return ["no such table"]
        engine.define("shown", state)
        return sorted(map(repr, engine.rows(f"SELECT {columns} FROM shown")))

    with project.ledger() as ledger, ledger.engine.connect() as connection:

        def told(query: str) -> list[list[Any]]:
            return sorted(([*row] for row in connection.exec_driver_sql(query)), key=repr)

        words = "path, sha256, state, feed, folder, message, supersedes, records, loaded"
        ledger_says = {
            "files": told(f"SELECT {words}, quarantined, batch_id FROM retailmart_files"),
            "file_months": told("SELECT * FROM retailmart_file_months"),
            "table_months": told("SELECT * FROM retailmart_table_months"),
            "batches": told("SELECT batch_id, as_of, state FROM retailmart_batches"),
            "marts": told("SELECT * FROM retailmart_marts"),
            "sources": told("SELECT * FROM retailmart_sources"),
            "commits left": told("SELECT batch_id, table_name FROM retailmart_commits"),
            "lease held by": told("SELECT holder FROM retailmart_lease"),
        }
    return {
        "raw": rows("raw/sales"),
        "marts": {name: rows(f"marts/{name}") for name in sorted(project.project.marts)},
        "published": {name: list(map(repr, shop.published(name))) for name in _PUBLISHED},
        "quarantine": rows("quarantine/sales", _REFUSED),
        "ledger": ledger_says,
        "landing": _names(shop.folder / "landing"),
        "archive": sorted(_STAMP.sub("STAMP", name) for name in shop.archived()),
        "orphans": sorted(o for t in lake.root.glob("*/*") for o in _orphans(t)),
        "left lying": [name for name in _names(private) if name != "lock"],
    }


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _orphans(table: Path) -> Iterator[str]:
    """Data files that no entry of the table's log has ever named."""
    named = set()
    for entry in (table / "_delta_log").glob("*.json"):
        for line in entry.read_text().splitlines():
            if add := json.loads(line).get("add"):
                named.add(unquote(add["path"]))
    for file in table.rglob("*.parquet"):
        path = file.relative_to(table).as_posix()
        if not path.startswith("_delta_log") and path not in named and unquote(path) not in named:
            yield f"{table.name}/{path}"


# What a run imports when it gets there; imported before the forks, it is paid for once.
_IMPORTED = (
    "pandas",
    "pyarrow.parquet",
    "deltalake.transaction",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.mysql",
    "retailmart.door",
    "retailmart.database.source",
    "retailmart.engines.duckdb",
    "retailmart.engines.partitions",
)


def _serve() -> None:
    """Fork a child for each order that comes in, and tell how it ended, a JSON line each."""
    for name in _IMPORTED:
        with suppress(ModuleNotFoundError):
            import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        answer = Path(order["answer"])
        child = os.fork()
        if child == 0:
            try:
                answer.write_text(json.dumps({"result": _work(order)}, default=str))
            except BaseException:
                answer.write_text(json.dumps({"error": traceback.format_exc()}))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"killed": os.WIFSIGNALED(status)}) + "\n")
        sys.stdout.flush()


# what runs in the test's own process


class _Forge:
    """A process of its own that forks the children."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.test_recovery"],
            cwd=_ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, folder: Path, do: str, kill_at: int | None = None, delay: float = 0) -> Any:
        """The child's result, or None where it was killed."""
        answer = folder.with_suffix(".json")
        answer.unlink(missing_ok=True)
        asked = {"folder": str(folder), "do": do, "kill_at": kill_at, "delay": delay}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({**asked, "answer": str(answer)}) + "\n")
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        if ended["killed"]:
            return None
        told = json.loads(answer.read_text())
        assert "error" not in told, told["error"]
        return told["result"]

    def close(self) -> None:
        self.process.communicate()


@dataclass(frozen=True)
class _Scenario:
    """A project right before the run that is to be killed, and how it ends when it is not."""

    folder: Path
    effects: tuple[str, ...]
    end: Picture

    def copy(self, name: str) -> Path:
        folder = self.folder.with_name(name)
        shutil.copytree(self.folder, folder)
        return folder


@pytest.fixture(scope="module")
def forges() -> Iterator[list[_Forge]]:
    """Two processes that fork children, for two cores."""
    two = [_Forge(), _Forge()]
    yield two
    for forge in two:
        forge.close()


def _first_load(shop: Shop) -> None:
    shop.sales("sales_jan.csv", [sale(1, day="2024-01-05"), sale(2, 2, person=3), sale(2, 2)])
    shop.sales("north/sales_feb.csv", [sale(1, day="2024-02-05", price="4.50"), sale(77, 9)])
    extra = f"{HEADER},payment_mode"
    shop.sales("sales_upi.csv", [sale(3, day="2024-02-09") + ",UPI"], extra)
    shop.sales("sales_bad.csv", [sale(1), "x,1,tea,2024-01-15,1,10.00,1,10.00", "1,1,tea"])
    shop.drop("notes.txt", "buy milk")


def _later_day(shop: Shop) -> None:
    shop.sales("sales_mar.csv", [sale(4, day="2024-03-05"), sale(2, 2, "2024-01-31", 4, "99.00")])
    shop.sales("sales_jan.csv", [sale(1, day="2024-01-05", price="7.00"), sale(5, 2, person=3)])
    again = (shop.folder / "archive").rglob("sales_feb.csv")
    shop.drop("sales_copy.csv", next(again).read_bytes())
    shop.sales("sales_bad.csv", [sale(1), ",1,tea,2024-01-15,1,10.00,1,10.00"])
    shop.drop("sales_broken.csv", "customer_id,store_id\n1,1\n")
    shop.drop("sales_empty.csv", "")


def _aged(folder: Path) -> None:
    """Discover looks twice at files of the last seconds; these are old, to save the time."""
    for path in (folder / "landing").rglob("*"):
        os.utime(path, (_LONG_AGO, _LONG_AGO))


def _scenario(folder: Path, forge: _Forge) -> _Scenario:
    _aged(folder)
    plain = _Scenario(folder, (), {})
    effects = forge.order(plain.copy(f"{folder.name}_counted"), "watched")
    end = forge.order(plain.copy(f"{folder.name}_undisturbed"), "plain")
    return _Scenario(folder, tuple(effects), end)


@pytest.fixture
def first_load(shop: Shop, forges: list[_Forge]) -> _Scenario:
    """A new project with its first files."""
    _first_load(shop)
    return _scenario(shop.folder, forges[0])


@pytest.fixture
def later_day(shop: Shop, forges: list[_Forge]) -> _Scenario:
    """A loaded project; a new, two superseding, a duplicate and two refused files have landed."""
    _first_load(shop)
    _aged(shop.folder)
    forges[0].order(shop.folder, "plain")
    _later_day(shop)
    return _scenario(shop.folder, forges[0])


@dataclass(frozen=True)
class _Kill:
    """Where to kill: at which effect, and how many seconds into it."""

    effect: int
    delay: float = 0


def _different(end: Picture, found: Picture) -> dict[str, tuple[Any, Any]]:
    return {key: (end[key], found[key]) for key in end if end[key] != found[key]}


def _survives(scenario: _Scenario, forge: _Forge, name: str, kills: list[_Kill]) -> str | None:
    """Kill and kill again, run once more, and tell what differs from the undisturbed end."""
    folder = scenario.copy(name)
    what = " then ".join(f"{scenario.effects[k.effect]} +{k.delay * 1000:.0f} ms" for k in kills)
    try:
        for kill in kills:
            forge.order(folder, "watched", kill.effect, kill.delay)
        found = forge.order(folder, "plain")
    except AssertionError as error:
        return f"killed at {what}: {error}"
    finally:
        shutil.rmtree(folder)
    wrong = _different(scenario.end, found)
    return f"killed at {what}: (undisturbed, found) {wrong}" if wrong else None


def _sweep(scenario: _Scenario, forges: list[_Forge], plans: list[list[_Kill]]) -> list[str]:
    def share(number: int) -> list[str | None]:
        mine = range(number, len(plans), len(forges))
        return [_survives(scenario, forges[number], f"kill{n}", plans[n]) for n in mine]

    with ThreadPoolExecutor(len(forges)) as pool:
        told = list(pool.map(share, range(len(forges))))
    return [problem for part in told for problem in part if problem]


def _plans(scenario: _Scenario, count: int, seed: int) -> list[list[_Kill]]:
    """Kills spread over all effects; a third of them strike some milliseconds into the effect."""
    chance = random.Random(seed)
    every = len(scenario.effects) / count
    points = [int((n + chance.random()) * every) for n in range(count)]
    return [[_Kill(p, chance.choice([0, 0, 0.001 + chance.random() / 100]))] for p in points]


def _twice(scenario: _Scenario, count: int, seed: int) -> list[list[_Kill]]:
    """A kill in the run, and one in the run that recovers it."""
    chance = random.Random(seed)
    last = len(scenario.effects) - 1
    ends = ((chance.randint(last // 4, last), chance.randint(0, last)) for _ in range(count))
    return [[_Kill(first), _Kill(second)] for first, second in ends]


@pytest.mark.parametrize("name", ["first_load", "later_day"])
def test_a_killed_run_then_one_more_ends_as_if_never_killed(
    name: str, forges: list[_Forge], request: pytest.FixtureRequest
) -> None:
    """Killed at points spread over all outside effects, some twice in a row, no trace is left."""
    scenario: _Scenario = request.getfixturevalue(name)
    assert not scenario.end["orphans"]
    assert not scenario.end["left lying"]
    seen = " ".join(scenario.effects)
    assert not [kind for kind in _KINDS if kind not in seen], "the watch is blind"
    count = _KILLS // 2
    plans = [*_plans(scenario, count, _SEED), *_twice(scenario, max(3, count // 8), _SEED)]
    assert _sweep(scenario, forges, plans) == []


if __name__ == "__main__":
    _serve()
