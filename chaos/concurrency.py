"""Four runs at once on one inbox, stopped, woken and killed at any moment.

First four processes on one project folder, where a lock on a file keeps them apart; then four
copies of the project, as on four machines, that share a bucket and a MySQL ledger, where only the
lease does. Its life is made short, so that a holder who is stopped loses it and wakes late.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.services.mariadb import Database, DatabaseServer, MariaDB
from tests.support.services.s3 import S3Bucket, S3Server

from chaos.deployments import FEW_MARTS
from chaos.result import Result, Tell
from chaos.stores import (
    CRASHED,
    Child,
    Deliveries,
    ForkServer,
    Patches,
    Query,
    Tally,
    TookTooLong,
    drop_local,
    files_below,
    new_project,
    s3_settings,
    sqlite_query,
    unnamed_files,
    wrong_in_archive,
    wrong_in_bucket,
    wrong_in_ledger,
    wrong_when_published,
)

_RUNS_AT_ONCE = 4
_FILES_A_DROP, _WAITING = 6, 18
_BUSY = 4
_BOUND = 120.0
_LASTS, _BEAT = 1.5, 0.3
_SHORT_LEASE: Patches = {
    "retailmart.ledger.lease._LASTS": {"seconds": _LASTS},
    "retailmart.ledger.lease._BEAT_SECONDS": _BEAT,
    "retailmart.operations.run._PAUSES": (0.1, 0.5, 1.0),
}
_NAME = re.compile(r"b(\d{8})-f(\d{4,})-")
# Where a holder is stopped until another has taken over: (effect, its number).
_STOPS = (
    ("after prepare", 1),
    ("after write", 2),
    ("before log entry", 2),
    ("after upload", 2),
    ("before move", 1),
    ("after stage", 1),
    ("before persist", 1),
    ("after persist", 2),
    ("before prepare", 1),
    ("before lake commit", 1),
    ("after log entry", 1),
    ("before mark_committed", 1),
    ("after mark_committed", 1),
    ("before publish", 1),
    ("after move", 2),
    ("before remove", 1),
    ("after remove", 1),
    ("before mark_done", 1),
)


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """Both, each on an inbox of `size` files, and holders that wake late, one by one."""
    work.mkdir(parents=True, exist_ok=True)
    late = min(2 * len(_STOPS), size // 10)
    s3, mysql = S3Server(work), MariaDB(work / "mysql", tls=False)
    try:
        s3.start()
        mysql.start()
        servers = Servers(s3, mysql)
        with ForkServer(work / "forks") as fork_server:
            return [
                one_folder(seed, size, work / "folder", fork_server, tell),
                four_machines(seed, size, work / "machines", fork_server, tell, servers),
                late_wakers(seed, late, work / "late", fork_server, tell, servers),
            ]
    finally:
        s3.close()
        mysql.close()


@dataclass(frozen=True)
class Servers:
    """What four machines share."""

    s3: S3Server
    mysql: DatabaseServer


def one_folder(seed: int, size: int, work: Path, fork_server: ForkServer, tell: Tell) -> Result:
    """Four processes on one project folder: files here and SQLite."""
    began = time.monotonic()
    work.mkdir(parents=True)
    folder = work / "shop"
    new_project(folder, {}, {}, FEW_MARTS)
    runs = _ConcurrentRuns(seed, size, work, fork_server, tell, [folder] * _RUNS_AT_ONCE)
    runs.drop = lambda files: drop_local(folder, files)
    runs.waiting = lambda: len(files_below(folder / "landing"))
    runs.work_off()
    query = sqlite_query(folder / "retail.db")
    runs.finish(query, lambda: _sweep_here(folder))
    lake = folder / "lake"
    archived = files_below(folder / "archive")
    runs.found(*wrong_in_archive(list(files_below(folder / "landing")), archived, runs.sent))
    keys = files_below(lake)
    runs.found(*_orphans(unnamed_files(keys, lambda key: (lake / key).read_bytes())))
    runs.found(*_wrong_fences(query, _named(keys, keys.__getitem__)))
    return runs.tally.result("four runs at once, one folder", str(seed), began)


def four_machines(
    seed: int, size: int, work: Path, fork_server: ForkServer, tell: Tell, servers: Servers
) -> Result:
    """Four copies of a project on one bucket and one MySQL ledger; stopped holders wake late."""
    began = time.monotonic()
    with _machines(seed, size, work, fork_server, tell, servers) as runs:
        runs.work_off()
    return runs.tally.result("four runs at once, four machines", str(seed), began)


def late_wakers(
    seed: int, times: int, work: Path, fork_server: ForkServer, tell: Tell, servers: Servers
) -> Result:
    """The same machines: each time a holder is stopped at a known place and wakes late."""
    began = time.monotonic()
    # A log grows with each batch, and with it what a run asks for: shops stay young.
    parts = [range(first, min(first + 9, times)) for first in range(0, times, 9)]
    total = Tally()
    for part in parts:
        folder = work / f"from{part.start}"
        with _machines(seed + part.start, 0, folder, fork_server, tell, servers) as runs:
            runs.tally = total
            runs.wake_late(part)
        tell(f"late wakers: {dict(total.tries)}, {dict(total.faults)}")
    return total.result("holders that wake late", f"{seed}..{seed + max(times - 1, 0)}", began)


@contextmanager
def _machines(
    seed: int, size: int, work: Path, fork_server: ForkServer, tell: Tell, servers: Servers
) -> Iterator[_ConcurrentRuns]:
    """Four copies of a project; in the end all of it is looked at."""
    work.mkdir(parents=True)
    s3 = servers.s3
    database, bucket = servers.mysql.database(), s3.look(s3.bucket())
    folders = [work / f"machine{n}" / "shop" for n in range(_RUNS_AT_ONCE)]
    settings = s3_settings(bucket.name, s3.endpoint) | {"database": _mysql_setting(database)}
    new_project(folders[0], settings, {**s3.environment, "RETAIL": database.password}, FEW_MARTS)
    for folder in folders[1:]:
        shutil.copytree(folders[0], folder)
    runs = _ConcurrentRuns(seed, size, work, fork_server, tell, folders, patches=_SHORT_LEASE)
    runs.drop = lambda files: _put(bucket, files)
    runs.waiting = lambda: len(bucket.keys("to_process/"))
    runs.fence = lambda: _fence(database)
    yield runs
    runs.finish(database.query, lambda: _sweep_there(database))
    runs.found(*wrong_in_bucket(bucket, runs.sent))
    keys = [key.removeprefix("lake/") for key in bucket.keys("lake/")]
    named = _named(keys, lambda key: bucket.get(f"lake/{key}"))
    runs.found(*_wrong_fences(database.query, named))
    bucket.drop()
    database.drop()


def _mysql_setting(database: Database, variable: str = "RETAIL") -> str:
    """A database as retailmart.yml names it; the password stands in `.env`."""
    place = f"{database.host}:{database.port}/{database.name}"
    return f"mysql://{database.user}:${{{variable}}}@{place}"


@dataclass
class _ConcurrentRuns:
    """Runs beside each other until an inbox is empty, and what becomes of them."""

    seed: int
    size: int
    work: Path
    fork_server: ForkServer
    tell: Tell
    folders: Sequence[Path]
    patches: Patches = field(default_factory=dict)
    drop: Callable[[Iterable[tuple[str, bytes]]], None] = lambda _: None
    waiting: Callable[[], int] = lambda: 0
    fence: Callable[[], int] | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.deliveries = Deliveries(self.work, self.seed)
        self.fences = self.work / "fences"
        self._chance = random.Random(self.seed)
        self._turn = threading.Lock()
        self._stops = 0
        self._reported = 0

    @property
    def sent(self) -> list[tuple[str, bytes]]:
        """All that was delivered."""
        return self.deliveries.sent

    def found(self, *problems: str) -> None:
        """Something is not as it must be."""
        self.tally.found(self.seed, *problems)

    def work_off(self) -> None:
        """A few files come at a time, while four lanes start one run after the other."""
        with ThreadPoolExecutor(_RUNS_AT_ONCE) as pool:
            list(pool.map(self._lane, range(_RUNS_AT_ONCE)))

    def wake_late(self, numbers: Iterable[int]) -> None:
        """One by one: a holder is stopped at a known place, and wakes when another is at work.

        Every second time the other stands still too, right in the middle of its own work.
        """
        for number in numbers:
            stop, other = _STOPS[number % len(_STOPS)], _STOPS[(number * 7 + 3) % len(_STOPS)]
            what = f"stopped {' '.join(map(str, stop))}"
            self.drop(self.deliveries.next(4, corrections=False))
            time.sleep(_LASTS + 0.2)  # a lease that somebody left behind runs out
            more: dict[str, Any] = {"patches": self.patches, "fences": str(self.fences)}
            first = self.fork_server.start("run", self.folders[0], stop=stop, **more)
            try:
                if not first.stopped(_BOUND):
                    self.found(f"unreadable: {what}: not reached: {first.said()[-500:]}")
                    continue
                time.sleep(_LASTS + 0.2)
                if number % 2:
                    what += f", the other {' '.join(map(str, other))}"
                    more["stop"] = other
                second = self.fork_server.start("run", self.folders[1], **more)
                if number % 2:
                    second.stopped(_BOUND)
                else:
                    second.wait(_BOUND)
                first.signal(signal.SIGCONT)
                code, said = first.wait(_BOUND), first.said()
                second.signal(signal.SIGCONT)
                ended = second.wait(_BOUND)
            except TookTooLong as error:
                self.found(f"late: {what}: {error}")
                continue
            self.tally.tried("holders woken late, one by one")
            if code != _BUSY or "has taken the project over" not in said:
                self.found(f"late: {what}: ended with {code}: {said[:300]} … {said[-700:]}")
            if ended and not (number % 2 and ended == _BUSY):
                self.found(f"unreadable: {what}: its follower: {ended}: {second.said()[-700:]}")

    def finish(self, query: Query, make_sweep_due: Callable[[], None]) -> None:
        """One clean run, and what must hold then."""
        self.found(*self._told_twice())
        make_sweep_due()
        if self.fence:
            time.sleep(_LASTS + 0.5)  # the lease of a holder who was killed last runs out
        child = self.fork_server.start("run", self.folders[0], patches=self.patches)
        if child.wait(_BOUND):
            self.found(f"unreadable: the clean run failed: {child.said()[-1_500:]}")
        standing = self.deliveries.standing()
        self.found(*wrong_in_ledger(query, self.sent))
        self.found(*wrong_when_published(query, standing, self.folders[0] / "shop.db"))
        self.found(*self.fork_server.judge(self.folders[0], standing))
        self.tally.tried("files", len(self.sent))

    def _lane(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        kinds = ["alone", "stopped", "killed", *(("late", "late") if self.fence else ())]
        turns = cycle([*kinds[number:], *kinds[:number]])  # at once, each lane another kind
        try:
            while self._more():
                self._one(self.folders[number], next(turns), chance)
                time.sleep(chance.random() * 0.4)
        except TookTooLong as error:
            self.found(f"late: {error}")
        except BaseException:
            self.found(f"unreadable: {traceback.format_exc()}")

    def _more(self) -> bool:
        """Whether there is work; a few more files come whenever most of them are in."""
        with self._turn:
            waiting, left = self.waiting(), self.size - len(self.sent)
            if waiting < _WAITING and left > 0:
                few = min(left, self._chance.randint(1, _FILES_A_DROP))
                self.drop(self.deliveries.next(few, corrections=False))
                if len(self.sent) // 25 != self._reported:
                    self._reported = len(self.sent) // 25
                    tries, faults = dict(self.tally.tries), dict(self.tally.faults)
                    self.tell(f"concurrent runs: {len(self.sent)} files, {tries}, {faults}")
            return bool(left or waiting)

    def _one(self, folder: Path, kind: str, chance: random.Random) -> None:
        """A run that is left alone, stopped now and then, killed, or stopped until it is late."""
        more: dict[str, Any] = {"patches": self.patches, "fences": str(self.fences)}
        if kind == "late":
            more["stop"] = self._next_stop()
        child = self.fork_server.start("run", folder, **more)
        late = kind == "late" and self._wake_late(child)
        if kind in ("stopped", "killed"):
            self._disturb(child, chance, kill=kind == "killed")
        self._judge_end(child, late)

    def _next_stop(self) -> tuple[str, int]:
        with self._turn:
            self._stops += 1
            return _STOPS[self._stops % len(_STOPS)]

    def _disturb(self, child: Child, chance: random.Random, *, kill: bool) -> None:
        for _ in range(chance.randint(1, 3)):
            time.sleep(chance.random() * 0.8)
            child.signal(signal.SIGSTOP)
            self.tally.tried("stops")
            time.sleep(chance.random() * (2.5 if self.fence else 0.6))
            if kill:
                child.signal(signal.SIGKILL)
                self.tally.tried("kills")
                return
            child.signal(signal.SIGCONT)

    def _wake_late(self, child: Child) -> bool:
        """Wait until it stands still where it was told to, and until another has taken over."""
        assert self.fence
        if not child.stopped(_BOUND):
            return False
        self.tally.tried("holders stopped")
        held = self.fence()
        until = time.monotonic() + 20
        while self.fence() == held and time.monotonic() < until:
            time.sleep(0.05)
        taken = self.fence() > held
        if taken:
            self.tally.tried("holders that woke late")
            time.sleep(random.Random(child.pid).random() * 1.5)
        child.signal(signal.SIGCONT)
        return taken

    def _judge_end(self, child: Child, late: bool) -> None:
        code, said = child.wait(_BOUND), child.said()
        self.tally.tried("runs")
        self.tally.tried({0: "runs done", _BUSY: "runs told to wait"}.get(code, f"exit {code}"))
        if code == CRASHED or "Traceback" in said:
            self.found(f"unreadable: a run ended in a traceback: {said[-2_500:]}")
        elif late:
            if code != _BUSY or "has taken the project over" not in said:
                self.found(f"late: a late waker ended with {code}: {said[-800:]}")
        elif code not in (0, _BUSY, -signal.SIGKILL):
            self.found(f"unreadable: exit {code}: {said[-1_500:]}")

    def _told_twice(self) -> Iterator[str]:
        """Where a fence wrote to the ledger although a higher one had before it began."""
        writes = [_Write(*line.split()) for line in self.fences.read_text().splitlines()]
        self.tally.tried("ledger writes", len(writes))
        owners: dict[int, set[str]] = {}
        for write in writes:
            owners.setdefault(int(write.fence), set()).add(write.pid)
            for other in writes:
                later = float(write.began) > float(other.ended)
                if later and int(write.fence) < int(other.fence):
                    yield f"late: fence {write.fence} wrote after fence {other.fence} had"
        self.tally.tried("holders", len(owners))
        for fence, pids in owners.items():
            if len(pids) > 1:
                yield f"doubled: fence {fence} was held by {len(pids)} processes"


class _Write(NamedTuple):
    """A transaction of the ledger: whose it was, and when."""

    fence: str
    began: str
    ended: str
    pid: str


def _put(bucket: S3Bucket, files: Iterable[tuple[str, bytes]]) -> None:
    for name, content in files:
        bucket.put(f"to_process/{name}", content)


def _fence(database: Database) -> int:
    try:
        found = database.query("SELECT fence FROM retailmart_lease WHERE name = 'run'")
    except Exception:
        return 0
    return int(found[0][0]) if found else 0


def _sweep_there(database: Database) -> None:
    database.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")


def _sweep_here(folder: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "retail.db")) as connection, connection:
        connection.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")


def _orphans(found: Sequence[str]) -> Iterator[str]:
    if found:
        yield f"orphans: {len(found)} data files that no commit names: {found[:3]}"


def _named(keys: Iterable[str], read: Callable[[str], bytes]) -> set[str]:
    from chaos.stores import named_files

    return named_files(read(key) for key in keys if "_delta_log/" in key and key.endswith(".json"))


def _wrong_fences(query: Query, named: Iterable[str]) -> Iterator[str]:
    """Whether each file in a table was written by the holder who decided its batch."""
    decided = {
        int(batch): fence
        for batch, fence in query("SELECT batch_id, fence FROM retailmart_batches")
    }
    wrong: Counter[tuple[int, int]] = Counter()
    for path in named:
        if match := _NAME.match(path.rpartition("/")[2]):
            batch, fence = int(match[1]), int(match[2])
            wrong[batch, fence] += decided.get(batch) != fence
    for (batch, fence), files in wrong.items():
        if files:
            yield f"doubled: {files} files of fence {fence} are in tables of batch {batch}"
