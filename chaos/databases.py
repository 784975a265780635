"""Everything that can happen to a database in the middle of a run, and what its readers see of it.

A run is stopped at one exact packet to the server; then the server is killed, the way to it is cut,
somebody else locks what the run needs next; and the run goes on. One clean run later all must be
as judged. All the while a reader looks at the published tables.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tests.support.judge import COLUMNS, PUBLISHED, expected_marts, in_cents
from tests.support.services.mariadb import Database, MariaDB
from tests.support.services.proxy import TcpProxy

from chaos.result import Result, Tell
from chaos.stores import (
    AS_OF,
    HEADER,
    Child,
    Deliveries,
    ForkServer,
    Tally,
    TookTooLong,
    dishonest,
    drop_local,
    files_below,
    new_project,
    unnamed_files,
    wrong_in_archive,
    wrong_in_ledger,
    wrong_when_published,
)
from chaos.systems import MARIADB, POSTGRES, System

_MARTS = ("customer_mart", *PUBLISHED)
_CASES_A_SHOP = 8
_SERVERS = 2
_BOUND = 90.0
_READ_ONLY_FIX = "takes no writes"
_FULL_FIX = "Make room"


@dataclass
class _Shop:
    """A project on a server of its own, reached through a proxy."""

    seed: int
    folder: Path
    system: System
    server: Any
    proxy: TcpProxy
    database: Any
    source: Any
    fork_server: ForkServer
    tally: Tally
    chance: random.Random
    deliveries: Deliveries
    packets: int = 60

    @property
    def expected(self) -> dict[str, Counter[tuple[Any, ...]]]:
        """What the published tables must show of all that was sent."""
        marts = expected_marts(self.deliveries.standing(), self.folder / "shop.db", AS_OF)
        return {name: in_cents(name, marts[name].elements()) for name in PUBLISHED}

    def start(self, **more: Any) -> Child:
        """A run."""
        return self.fork_server.start("run", self.folder, patches=self.system.patches, **more)

    def restart(self) -> None:
        """Bring the server back, however it went."""
        self.server.ensure()


# what happens while the run stands still


def _kill(shop: _Shop, child: Child) -> None:
    shop.server.kill()
    shop.restart()
    child.signal(signal.SIGCONT)


def _kill_and_stay_away(shop: _Shop, child: Child) -> None:
    shop.server.kill()
    child.signal(signal.SIGCONT)
    time.sleep(0.5)
    shop.restart()


def _restart(shop: _Shop, child: Child) -> None:
    shop.server.restart()
    child.signal(signal.SIGCONT)


def _cut(shop: _Shop, child: Child) -> None:
    shop.proxy.cut()
    child.signal(signal.SIGCONT)


def _lose_reply(shop: _Shop, child: Child) -> None:
    trap = shop.proxy.drop_after_request(rb"(?s).")
    child.signal(signal.SIGCONT)
    if not trap.wait(10):
        raise TookTooLong("no request came whose reply could be lost")


def _hang(shop: _Shop, child: Child) -> None:
    shop.proxy.hang()
    child.signal(signal.SIGCONT)
    time.sleep(4)
    shop.proxy.resume()


def _lock_for_long(shop: _Shop, child: Child) -> None:
    """Somebody holds what the run needs next for longer than it waits."""
    with shop.system.locked(shop.database):
        child.signal(signal.SIGCONT)
        time.sleep(2.4)


def _deadlock(shop: _Shop, child: Child) -> None:
    """Somebody with more to lose holds what the run needs next, and wants what the run holds."""
    with shop.system.locked(shop.database, strong=True) as cursor:
        wanted = threading.Thread(
            target=cursor.execute,
            args=("SELECT * FROM retailmart_lease WHERE name = 'run' FOR UPDATE",),
        )
        wanted.start()
        _until_waiting(shop)
        child.signal(signal.SIGCONT)
        wanted.join()


def _until_waiting(shop: _Shop) -> None:
    until = time.monotonic() + 5
    with shop.server.admin() as connection, connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute(shop.system.waiting())
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise TookTooLong("nobody waits for a lock")


def _read_only(shop: _Shop, child: Child) -> None:
    with shop.system.read_only(shop.server):
        child.signal(signal.SIGCONT)
        code = child.wait(_BOUND)
    if code and _READ_ONLY_FIX not in child.said():
        said = child.said()[-600:]
        shop.tally.found(shop.seed, f"unreadable: no fix for a read-only server: {said}")


@dataclass(frozen=True)
class _Case:
    """What happens, and where the run stands still then: at the n-th packet or effect so named."""

    name: str
    fault: Callable[[_Shop, Child], None]
    stop: str = "send "
    most: int | None = None  # how many such places a run has; None: as many as packets
    rebuilt: bool = False  # a table is rewritten whole, as a new definition does


def cases_of(system: System) -> list[_Case]:
    """All that can happen to a system's server, in an order that mixes the faults."""
    bulk_write, rename = system.bulk_write, system.rename
    cases = [
        _Case("server killed", _kill),
        _Case("server killed before a commit", _kill, "send COMMIT", 12),
        _Case("server killed after a commit was sent", _kill, "sent COMMIT", 12),
        _Case("lost COMMIT reply", _lose_reply, "send COMMIT", 12),
        _Case(f"{bulk_write} cut off", _cut, f"send more of {bulk_write}", 4, rebuilt=True),
        _Case("deadlock", _deadlock, "before mark_published", 1),
        _Case("lock wait timeout", _lock_for_long, "before mark_published", 1),
        _Case("connection reset", _cut),
        _Case("read-only server", _read_only),
        _Case("reply lost", _lose_reply),
        _Case("server restarted", _restart),
        _Case("server killed after the rename", _kill, f"sent {rename}", 1, rebuilt=True),
        _Case("server killed between rename and commit", _kill, "after mark_published", 1,
              rebuilt=True),
        _Case("server away for a while", _kill_and_stay_away),
        _Case("connection reset before the rename", _cut, f"send {rename}", 1, rebuilt=True),
        _Case(f"server killed in {bulk_write}", _kill, f"send more of {bulk_write}", 4,
              rebuilt=True),
        _Case("server hangs", _hang),
        _Case("connection reset in publish", _cut, "before publish", 1),
        _Case("connection reset in commit", _cut, "before lake commit", 3),
        _Case("connection reset in archive", _cut, "before move", 1),
        _Case("lost COMMIT reply, full rebuild", _lose_reply, "send COMMIT", 12, rebuilt=True),
    ]  # fmt: skip
    # What libpq has sent can only be told after its reply: the commit is done, or is not.
    return [case for case in cases if system is MARIADB or case.stop != "sent COMMIT"]


def few_cases(seed: int) -> tuple[list[_Case], list[_Case]]:
    """For MariaDB and PostgreSQL: a lost COMMIT reply and a broken connection on both, and each
    other fault on one of the two.
    """
    chance = random.Random(seed)
    chosen: tuple[list[_Case], list[_Case]] = ([], [])
    faults = {case.fault for system in (MARIADB, POSTGRES) for case in cases_of(system)}
    for fault in sorted(faults, key=lambda fault: fault.__name__):
        both = fault in (_cut, _lose_reply)
        for number in (0, 1) if both else (chance.randrange(2),):
            system = (MARIADB, POSTGRES)[number]
            cases = [case for case in cases_of(system) if case.fault is fault]
            if fault is _lose_reply:
                cases = [case for case in cases if "COMMIT" in case.stop]
            chosen[number].append(chance.choice(cases))
    return chosen


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """`size` faults on each system, on shops of eight, and a full disk."""
    results = []
    work.mkdir(parents=True, exist_ok=True)
    with ForkServer(work / "forks") as fork_server:
        for system in (MARIADB, POSTGRES):
            cases = list(islice(cycle(cases_of(system)), size))
            folder = work / system.name
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(system.server(folder / f"server{number}"))
                    for number in range(min(_SERVERS, -(-size // _CASES_A_SHOP)))
                ]
                results.append(fail(system, seed, cases, folder, fork_server, tell, servers))
        results.append(full_disk(seed, work / "full", fork_server))
    return results


def fail(
    system: System,
    seed: int,
    cases: Sequence[_Case],
    work: Path,
    fork_server: ForkServer,
    tell: Tell,
    servers: Sequence[Any],
) -> Result:
    """These faults, one after the other on each of the running servers."""
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tally = Tally()
    numbered = list(enumerate(cases))
    parts = [numbered[n : n + _CASES_A_SHOP] for n in range(0, len(cases), _CASES_A_SHOP)]

    def on_one(number: int) -> None:
        for part in parts[number :: len(servers)]:
            first = part[0][0]
            folder = work / f"shop{first}"
            _one_shop(system, seed + first, part, folder, servers[number], fork_server, tally)
            done = tally.tries["faults injected"]
            tell(f"{system.name}: {done} of {len(cases)} faults, {dict(tally.faults)}")

    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(on_one, range(len(servers))))
    return tally.result(f"a database that fails, {system.name}", f"{seed}", began)


@contextmanager
def _shop(
    system: System, seed: int, folder: Path, server: Any, fork_server: ForkServer, tally: Tally
) -> Iterator[_Shop]:
    with TcpProxy(server.port) as proxy:
        database, source = server.database(), server.database()
        system.fill_source(source)
        ours, theirs = database.at(proxy.port), source.at(proxy.port)
        settings = {
            "database": system.setting(ours, "RETAIL"),
            "sources": f"{{shop: '{system.setting(theirs, 'SHOP')}'}}",
        }
        secrets = {"RETAIL": database.password, "SHOP": source.password}
        new_project(folder, settings, secrets, _MARTS)
        deliveries = Deliveries(folder.with_name(f"{folder.name}_sent"), seed)
        yield _Shop(
            seed,
            folder,
            system,
            server,
            proxy,
            database,
            source,
            fork_server,
            tally,
            random.Random(seed),
            deliveries,
        )
        server.ensure()
        database.drop()
        source.drop()


def _one_shop(
    system: System,
    seed: int,
    cases: Sequence[tuple[int, _Case]],
    folder: Path,
    server: Any,
    fork_server: ForkServer,
    tally: Tally,
) -> None:
    try:
        with (
            _shop(system, seed, folder, server, fork_server, tally) as shop,
            _Reader(shop) as reader,
        ):
            for number, case in cases:
                nth = shop.chance.randint(1, case.most or shop.packets)
                # A run may have fewer such places, but it has one.
                if not _one_case(shop, reader, case, number, nth):
                    _one_case(shop, reader, case, number, 1)
            _check_all(shop)
        shutil.rmtree(folder)
    except BaseException:
        tally.found(seed, f"unreadable: {traceback.format_exc()}")


def _one_case(shop: _Shop, reader: _Reader, case: _Case, number: int, nth: int) -> bool:
    """Deliver, run into the fault, run once more, and compare; whether there was a fault."""
    injected = False
    drop_local(shop.folder, shop.deliveries.next(shop.chance.choice([2, 3, 4])))
    if case.rebuilt:
        path = shop.folder / "marts" / "customer_monthly_purchase.sql"
        path.write_text(path.read_text().rstrip() + f"\n-- seen {number} {nth}\n")
    reader.expects(shop.expected)
    child = shop.start(stop=(case.stop, nth))
    try:
        if child.stopped(_BOUND):
            case.fault(shop, child)
            injected = True
            shop.tally.tried("faults injected")
            shop.tally.tried(case.name)
        code = child.wait(_BOUND)
    except TookTooLong as error:
        shop.tally.found(shop.seed, f"late: {case.name} at {case.stop}{nth}: {error}")
        code = 0
    finally:
        shop.proxy.resume()
        shop.restart()
    shop.tally.tried("runs ended by the fault" if code else "runs that went on by themselves")
    what = f"{case.name} at {case.stop!r} {nth}"
    if code and (problem := dishonest(child.said(), code, "database", "source")):
        shop.tally.found(shop.seed, f"{problem} ({what})")
    again = shop.start()
    if again.wait(_BOUND):
        shop.tally.found(
            shop.seed, f"unreadable: the clean run after {what} failed: {again.said()[-1_500:]}"
        )
    found = [
        *wrong_in_ledger(shop.database.query, shop.deliveries.sent),
        *wrong_when_published(
            shop.database.query,
            shop.deliveries.standing(),
            shop.folder / "shop.db",
            shop.system.quote,
        ),
        *shop.fork_server.judge(shop.folder, shop.deliveries.standing()),
        *_left_over(shop),
    ]
    shop.tally.found(shop.seed, *(f"{problem} ({what})" for problem in found))
    return injected


def _left_over(shop: _Shop) -> Iterator[str]:
    tables = [str(row[0]) for row in shop.database.query(shop.system.tables())]
    if left := [n for n in tables if n.startswith(("retailmart_new_", "retailmart_old_"))]:
        yield f"orphans: tables are left over: {left}"


def _check_all(shop: _Shop) -> None:
    """Archive and lake, when all cases of a shop are through and a sweep has been made."""
    shop.database.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")
    shop.start().wait(_BOUND)
    landed, archive = files_below(shop.folder / "landing"), files_below(shop.folder / "archive")
    shop.tally.found(shop.seed, *wrong_in_archive(list(landed), archive, shop.deliveries.sent))
    lake = files_below(shop.folder / "lake")
    if orphaned_files := unnamed_files(lake, lake.__getitem__):
        shop.tally.found(
            shop.seed, f"orphans: no commit names {len(orphaned_files)}: {orphaned_files[:3]}"
        )


class _Reader:
    """Looks at the published tables all the time: each shows a whole version, and no older one."""

    def __init__(self, shop: _Shop) -> None:
        self._shop = shop
        self._versions: dict[str, list[Counter[tuple[Any, ...]]]] = {name: [] for name in PUBLISHED}
        self._seen = dict.fromkeys(PUBLISHED, -1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, name="reader")
        self._lock = threading.Lock()

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def expects(self, marts: Mapping[str, Counter[tuple[Any, ...]]]) -> None:
        """From now on this version may be shown too."""
        with self._lock:
            for name, rows in marts.items():
                self._versions[name].append(rows)

    def _look(self) -> None:
        while not self._ends.is_set():
            try:
                with self._shop.system.connect(self._shop.database) as connection:
                    while not self._ends.wait(0.003):
                        for name in PUBLISHED:
                            self._see(connection, name)
            except self._shop.system.errors:
                self._ends.wait(0.05)  # the server is away

    def _see(self, connection: Any, name: str) -> None:
        quote = self._shop.system.quote
        columns = ", ".join(f"{quote}{column}{quote}" for column in COLUMNS[name])
        with connection.cursor() as cursor:
            try:
                cursor.execute(f"SELECT {columns} FROM {name}")
            except self._shop.system.errors as error:
                if not self._shop.system.is_unknown_table(error):
                    raise  # the server is away
                if self._seen[name] < 0:
                    return  # it was never published
                self._shop.tally.found(self._shop.seed, f"differs: a reader of {name}: {error}")
                return
            rows = in_cents(name, cursor.fetchall())
        self._shop.tally.tried("looks of a reader")
        with self._lock:
            versions, seen = self._versions[name], self._seen[name]
            for number in range(max(seen, 0), len(versions)):
                if versions[number] == rows:
                    self._seen[name] = number
                    return
            older = rows in versions
        known = "an older version" if older else "no whole version"
        self._shop.tally.found(
            self._shop.seed, f"differs: a reader saw {known} of {name}: {rows.total()} rows"
        )


@contextmanager
def _small_server(folder: Path, options: Sequence[str]) -> Iterator[MariaDB]:
    server = MariaDB(folder, tls=False, options=options)
    try:
        server.start()
        yield server
    finally:
        server.close()


def full_disk(seed: int, work: Path, fork_server: ForkServer) -> Result:
    """The server's files may not grow on; the run says so, and once they may, all goes in."""
    began = time.monotonic()
    tally = Tally()
    small = ("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:16M")
    large = ("--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:200M")
    with (
        _small_server(work, small) as server,
        _shop(MARIADB, seed, work / "shop", server, fork_server, tally) as shop,
    ):
        drop_local(shop.folder, shop.deliveries.next(3))
        if shop.start().wait(_BOUND):
            tally.found(seed, "unreadable: the first run failed")
        _fill(shop.database)
        drop_local(shop.folder, [*shop.deliveries.next(2), _many(shop)])
        child = shop.start()
        code, said = child.wait(_BOUND), child.said()
        tally.tried("runs on a full disk")
        if code == 0:
            tally.found(seed, "unreadable: the disk was not full")
        elif _FULL_FIX not in said:
            tally.found(seed, f"unreadable: no fix for a full disk: {said[-800:]}")
        if problem := dishonest(said, code, "database"):
            tally.found(seed, problem)
        server._options = large
        server.restart()
        child = shop.start()
        if child.wait(_BOUND):
            tally.found(seed, f"unreadable: no run with room again: {child.said()[-1_500:]}")
        standing = shop.deliveries.standing()
        query = shop.database.query
        tally.found(seed, *wrong_in_ledger(query, shop.deliveries.sent))
        tally.found(seed, *wrong_when_published(query, standing, shop.folder / "shop.db"))
        tally.found(seed, *fork_server.judge(shop.folder, standing))
    return tally.result("a database whose disk is full", str(seed), began)


def _fill(database: Database) -> None:
    """Write until nothing more fits, then leave."""
    import pymysql

    database.execute("CREATE TABLE junk (n INT PRIMARY KEY, t CHAR(250)) ENGINE=InnoDB")
    for start in range(0, 1_000_000, 100):
        rows = f"SELECT seq, repeat('x', 250) FROM seq_{start}_to_{start + 99}"
        try:
            database.execute(f"INSERT INTO junk {rows}")
        except pymysql.err.OperationalError:
            return
    raise AssertionError("the server took 250 MB where 16 MB were allowed")


def _many(shop: _Shop) -> tuple[str, bytes]:
    """A file of so many customers that what is published of it does not fit."""
    rows = [f"{n},1,tea,2024-02-03,1,10.00,1,10.00" for n in range(100, 20_100)]
    return shop.deliveries.add("sales_many.csv", ("\n".join([HEADER, *rows]) + "\n").encode())
