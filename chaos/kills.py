"""Kill sweep: a run killed at any of its outside effects, then run once more, ends as if never
killed: nothing lost, nothing doubled, nothing unreadable, every number as in an undisturbed run.

The effects are found by watching a run; it is then killed before or after one of them, or some
milliseconds into it, some several times in a row. Each call that has effects is killed at first,
then each kind of effect, then any. A seed makes the files, the days and the kills.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.project_state import FAULTS as DIFFERENCES
from tests.support.project_state import TABLES, ProjectState, compare

from chaos.deliveries import DailyDeliveries, Files, counting
from chaos.deployments import (
    Deployment,
    LocalDeployment,
    Marts,
    PostgresDeployment,
    RemoteDeployment,
)
from chaos.effects import call_of, kind_of
from chaos.forks import BACKFILL, MAINTAIN, RUN, ChildFailed, ForkServer, Step, undo
from chaos.result import Result, Tell

if TYPE_CHECKING:
    from tests.support.services.mariadb import DatabaseServer
    from tests.support.services.postgres import Postgres
    from tests.support.services.s3 import S3Server

FAULTS = (*DIFFERENCES, "blind")
KILLS_A_SHOP = 100
_FORK_SERVERS = 2
_SERVER_SHARE = 10  # a run on a server takes that much longer
_NOTES = 20
# Kills in the runs that recover from a first one.
_MORE = (0, 2, 1, 3, 0)
_MOST_TRIES = 3  # for each kill: in the run that recovers, there may be nothing to kill at
# Where a kind of effect that every run has is not seen, the watch is blind.
_EVERYWHERE = (
    *(
        f"{when} {what}"
        for when in ("before", "after")
        for what in (
            "COPY",
            "parquet.write_table",
            "delta.create_write_transaction",
            "sql INSERT INTO",
            "sql UPDATE retailmart_batches",
            "sql.do_commit",
            "os.rename",
            "os.unlink",
            "os.mkdir",
        )
    ),
    "open .retailmart",
)
_HERE = ("before os.fsync lake", "after os.fsync lake.json", "after os.rename landing")
_FAR_AWAY = (
    "before store.put",
    "after store.put",
    "after store.copy",
    "after store.delete",
    "before sql LOAD DATA",
    "after sql LOAD DATA",
)
_ON_POSTGRES = ("before psycopg.write", "after psycopg.finish")
# What is compared where the disturbed shop had other batches than the undisturbed one.
_TABLES = ("raw", "marts", "published", "orphans", "snapshots", "left lying", "landing")


# After maintenance that was killed, files may be merged in another order: the rows are the same.
_SAME_ROWS = (*TABLES, "orphans", "landing", "archive", "left lying")
_DAYS_OF_WEAR = 4
# What a feed's user has to correct: it refuses good rows of each file.
_WRONG_RULE = "rules:\n  - {name: wrong, check: store_id <> 1, action: quarantine}"
_READ_AGAIN = (*_TABLES, "quarantine", "archive")


@dataclass(frozen=True)
class Kill:
    """Where to kill: at the nth effect of a call, from 0, and how many seconds into it."""

    call: str
    nth: int
    delay: float = 0


@dataclass(frozen=True)
class Day:
    """A shop right before the run that is to be killed, and how it ends when it is not.

    `recoveries` are ways to go on after a kill; `meanwhile` lands between the kill and the next
    run. `wrong` is what the judge says against the end.
    """

    name: str
    seed: int
    deployment: Deployment
    steps: tuple[Step, ...] = (RUN,)
    recoveries: tuple[tuple[Step, ...], ...] = ((RUN,),)
    meanwhile: Files = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    effects: tuple[str, ...] = ()
    end: ProjectState = field(default_factory=dict)
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.name}"


@dataclass
class Tally:
    """What was tried and what went wrong.

    Kinds of effects: `seen` in undisturbed runs, `found` among them as chosen, `hit` by a kill.
    """

    tries: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    hit: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def wrong(self, faults: Counter[str], words: str) -> None:
        """Count what went wrong."""
        self.faults += faults
        self.notes.append(words)


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """`size` kills on files and SQLite, a tenth of that on S3 and MySQL and on PostgreSQL."""
    from tests.support.services.mariadb import open_server
    from tests.support.services.postgres import Postgres
    from tests.support.services.s3 import S3Server

    few = max(1, size // _SERVER_SHARE)
    results = [sweep_local(seed, size, work / "local", tell)]
    with ExitStack() as stack:
        mariadb = open_server(work / "mariadb")
        stack.callback(mariadb.close)
        stores = []
        for number in range(_FORK_SERVERS):
            folder = work / f"s3_{number}"
            folder.mkdir()
            stores.append(S3Server(folder))
            stores[-1].start()
            stack.callback(stores[-1].close)
        results.append(sweep_remote(seed, few, work / "remote", tell, mariadb, stores))
    postgres = Postgres()
    try:
        postgres.start()
        results.append(sweep_postgres(seed, few, work / "postgres", tell, postgres))
    finally:
        postgres.close()
    return results


@dataclass(frozen=True)
class Choice:
    """What is tried: all that a shop has, or the part that stands for it in a short run.

    `marts` are the shop's, None: all. `days` are names of days, `calls` are the beginnings of the
    calls killed at; empty: all.
    """

    fork_servers: int = _FORK_SERVERS
    marts: Marts = None
    days: Collection[str] = ()
    calls: tuple[str, ...] = ()


_ALL = Choice()


def sweep_local(seed: int, size: int, work: Path, tell: Tell, *, choice: Choice = _ALL) -> Result:
    """The sweep over projects in folders of this machine."""

    def new(number: int, folder: Path) -> Deployment:
        return LocalDeployment.new(folder, choice.marts)

    kinds = (*_EVERYWHERE, *_HERE)
    return _sweep("kill sweep, files and SQLite", seed, size, work, tell, new, kinds, choice)


def sweep_remote(
    seed: int,
    size: int,
    work: Path,
    tell: Tell,
    server: DatabaseServer,
    stores: Sequence[S3Server],
    *,
    choice: Choice = _ALL,
) -> Result:
    """The sweep over projects in S3 and MySQL; a store for each fork server."""

    def new(number: int, folder: Path) -> Deployment:
        return RemoteDeployment.new(folder, server, stores[number], choice.marts)

    kinds = (*_EVERYWHERE, *_FAR_AWAY)
    return _sweep("kill sweep, S3 and MySQL", seed, size, work, tell, new, kinds, choice)


def sweep_postgres(
    seed: int, size: int, work: Path, tell: Tell, server: Postgres, *, choice: Choice = _ALL
) -> Result:
    """The sweep over projects in folders here; the tables and the ledger are in PostgreSQL."""

    def new(number: int, folder: Path) -> Deployment:
        return PostgresDeployment.new(folder, server, choice.marts)

    kinds = (*_EVERYWHERE, *_HERE, *_ON_POSTGRES)
    return _sweep("kill sweep, files and PostgreSQL", seed, size, work, tell, new, kinds, choice)


def _sweep(
    name: str,
    seed: int,
    size: int,
    work: Path,
    tell: Tell,
    new: Callable[[int, Path], Deployment],
    kinds: Sequence[str],
    choice: Choice,
) -> Result:
    """Fork servers work side by side, each through days of its own, until `size` kills."""
    started = time.monotonic()
    tally = Tally()
    count = choice.fork_servers
    with _fork_servers(work, count) as servers, ThreadPoolExecutor(count) as pool:
        shop_db = LocalDeployment.new(work / "judge").folder / "shop.db"
        workers = []
        for number, server in enumerate(servers):
            share = size // count + (number < size % count)
            folder = work / f"worker{number}"
            worker = Worker(number, server, folder, new, shop_db, tally, tell, choice)
            workers.append(
                pool.submit(worker.work, range(seed + number, seed + 10**6, count), share)
            )
        last = max(worker.result() for worker in workers)
    calls, hit = ({*map(call_of, kinds)} for kinds in (tally.found, tally.hit))
    tries = {
        **tally.tries,
        "kinds of effects": len(tally.seen),
        "kinds killed at": len(tally.hit),
        "calls with effects": len(calls),
        "calls killed at": len(hit & calls),
    }
    for kind in kinds:
        if not any(seen.startswith(kind) for seen in tally.seen):
            tally.wrong(Counter(blind=1), f"no effect like {kind!r} was seen")
    missed = sorted(tally.found - tally.hit)
    tell(f"{name}: not killed at {len(missed)} kinds: {missed[:10]}")
    return Result(
        name,
        tries,
        {fault: tally.faults[fault] for fault in FAULTS},
        f"{seed}..{last}",
        time.monotonic() - started,
        tuple(tally.notes[:_NOTES]),
    )


@contextmanager
def _fork_servers(work: Path, count: int) -> Iterator[list[ForkServer]]:
    servers = [ForkServer(work / f"answers{number}") for number in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


@dataclass(frozen=True)
class Worker:
    """A fork server and the shops it disturbs."""

    number: int
    fork_server: ForkServer
    folder: Path
    new: Callable[[int, Path], Deployment]
    shop_db: Path
    tally: Tally
    tell: Tell
    choice: Choice = _ALL

    def work(self, seeds: Iterable[int], kills: int) -> int:
        """Kill as often as asked, through the days of one seed after the other; the last seed."""
        killed, seed = 0, 0
        for seed in seeds:
            with self.days(seed) as days:
                for day in days:
                    self.tally.tries["days"] += 1
                    for words in day.wrong:
                        found = Counter({words.split()[0]: 1})
                        self.tally.wrong(found, f"{day}, undisturbed: {words}")
                killed += self._kill(seed, days, min(KILLS_A_SHOP, kills - killed))
            self.tell(f"worker {self.number}: seed {seed}: {killed} of {kills} kills")
            if killed >= kills:
                break
        return seed

    def _kill(self, seed: int, days: Sequence[Day], wanted: int) -> int:
        """Kill so often, and at each call that has effects; how often that was."""
        killed = 0
        points = Points(seed, days, self.choice.calls, self.tally.hit)
        for number in range(_MOST_TRIES * wanted):
            if killed >= wanted and not points.new_calls():
                break
            day, plan = points.next(number)
            killed += self.disturb(day, f"kill{number}", plan)
        return killed

    @contextmanager
    def days(self, seed: int) -> Iterator[list[Day]]:
        """The days of one seed's shop, each with its undisturbed end."""
        root = self.folder / str(seed)
        root.mkdir(parents=True)
        days: list[Day] = []
        with ExitStack() as used:

            def keep(deployment: Deployment) -> Deployment:
                used.callback(deployment.remove)
                return deployment

            def end(day: Day, deliveries: DailyDeliveries) -> Deployment:
                ended, after = self._ended(day, deliveries)
                days.extend([ended] if self._is_chosen(day.name) else [])
                return keep(after)

            deliveries = DailyDeliveries(seed)
            deployment = keep(self.new(self.number, root / "shop"))
            deployment.drop(deliveries.first_day())
            first = end(Day("first load", seed, deployment), deliveries)

            if self._is_chosen(name := "delivered again after the kill"):
                meant = sorted(deliveries.standing)[0]
                later = DailyDeliveries(seed, dict(deliveries.standing))
                again = Day(name, seed, deployment, only=_TABLES)
                end(replace(again, meanwhile=later.correction(meant)), later)

            if self._is_chosen(name := "replayed rows"):
                replayed = DailyDeliveries(seed, dict(deliveries.standing))
                back = keep(first.copy("repaired"))
                sheet = root / "sheet.csv"
                self.fork_server.order(back.folder, ("export", str(sheet)))
                back.drop(replayed.repaired(sheet.read_bytes()))
                end(Day(name, seed, back), replayed)

            if self._is_chosen(name := "backfill"):
                reread = DailyDeliveries(seed)
                misread = keep(self._misread(root / "misread", reread))
                ways = ((BACKFILL,), (RUN, BACKFILL))
                end(Day(name, seed, misread, (BACKFILL,), ways, only=_READ_AGAIN), reread)

            if self._is_chosen(name := "maintenance"):
                worn, kept = (
                    keep(first.copy("worn")),
                    DailyDeliveries(seed, dict(deliveries.standing)),
                )
                for _ in range(_DAYS_OF_WEAR):
                    worn.drop(kept.later_day())
                    self.fork_server.order(worn.folder, RUN)
                ways = ((MAINTAIN,), (RUN, MAINTAIN))
                end(Day(name, seed, worn, (MAINTAIN,), ways, only=_SAME_ROWS), kept)

            if self._is_chosen("later day") or self._is_chosen("undo"):
                before = DailyDeliveries(seed, dict(deliveries.standing))
                second = keep(first.copy("later"))
                second.drop(deliveries.later_day())
                both = end(Day("later day", seed, second), deliveries)

            if self._is_chosen("undo"):
                taken = undo(2)
                ways = ((taken,), (RUN, taken))
                end(Day("undo", seed, both, (taken,), ways), before)
            yield days

    def _misread(self, folder: Path, deliveries: DailyDeliveries) -> Deployment:
        """A shop whose feed was wrong when the files came, and is right now."""
        misread = self.new(self.number, folder)
        misread.drop(deliveries.first_day())
        feed = misread.folder / "feeds" / "sales.yml"
        right = feed.read_text()
        feed.write_text(right.replace("rules:", _WRONG_RULE))
        self.fork_server.order(misread.folder, RUN)
        feed.write_text(right)
        return misread

    def _is_chosen(self, day: str) -> bool:
        return not self.choice.days or day in self.choice.days

    def _ended(self, day: Day, deliveries: DailyDeliveries) -> tuple[Day, Deployment]:
        """The day with its effects, its undisturbed end and what the judge says of that."""
        after = day.deployment.copy(f"after {day.name}".replace(" ", "_"))
        try:
            effects = self.fork_server.order(after.folder, *day.steps, watched=True).effects
            if day.meanwhile:
                after.drop(day.meanwhile)
                self.fork_server.order(after.folder, RUN)
            files = counting(deliveries.standing, self.folder / f"judged_{day.seed}_{day.name}")
            judged = ("judge", str(files), str(self.shop_db))
            ended = self.fork_server.order(after.folder, judged, state=True)
        except ChildFailed as error:
            raise ChildFailed(f"{day}, undisturbed: {error}") from error
        assert ended.state is not None
        if self._is_chosen(day.name):
            self.tally.found |= {
                kind
                for kind in map(kind_of, effects)
                if call_of(kind).startswith(self.choice.calls or ("",))
            }
            self.tally.seen |= set(map(kind_of, effects))
            self.tally.tries["effects found"] += len(effects)
        wrong = [*ended.told[0]]
        wrong += [
            f"differs {k}: {ended.state[k]}" for k in ("orphans", "left lying") if ended.state[k]
        ]
        return replace(day, effects=effects, end=ended.state, wrong=tuple(wrong)), after

    def disturb(self, day: Day, name: str, plan: Sequence[Kill]) -> int:
        """Kill and kill again, go on, and compare with the undisturbed end; how often it died."""
        deployment = day.deployment.copy(name)
        died = []
        way = day.recoveries[plan[0].nth % len(day.recoveries)]
        try:
            for steps, kill in zip((day.steps, *[way] * len(plan)), plan, strict=False):
                order = partial(self.fork_server.order, deployment.folder, *steps)
                ended = order(kill_at=kill.nth, call=kill.call, delay=kill.delay)
                if ended.killed:
                    died.append(f"{ended.last_effect} +{kill.delay * 1000:.0f} ms")
                    self.tally.hit.add(kind_of(ended.last_effect))
            deployment.drop(day.meanwhile)
            found = self.fork_server.order(deployment.folder, *way, state=True).state
            assert found is not None
            differs = compare(day.end, found, only=day.only)
            if differs:
                told = f"{day}, killed at {' then '.join(died)}: {differs.words}"
                self.tally.wrong(differs.faults, told)
        except ChildFailed as error:
            last = str(error).strip()[-400:]
            self.tally.wrong(
                Counter(unreadable=1), f"{day}, killed at {' then '.join(died)}: {last}"
            )
        finally:
            deployment.remove()
        self.tally.tries["kills"] += len(died)
        return len(died)


class Points:
    """Where to kill next: at calls never hit before, at kinds never hit, then spread over all.

    A third of the kills strikes some milliseconds into the effect; some are followed by further
    ones in the runs that recover. `hit` is read each time: it grows with the kills.
    """

    def __init__(
        self, seed: int, days: Sequence[Day], calls: tuple[str, ...], hit: Collection[str]
    ) -> None:
        self._chance = random.Random(seed)
        self._hit = hit
        self._by_call: dict[str, list[tuple[Day, Kill]]] = {}
        self._by_kind: dict[str, list[tuple[Day, Kill]]] = {}
        for day in days:
            count = Counter[str]()
            for effect in day.effects:
                call = call_of(effect)
                if call.startswith(calls or ("",)):
                    point = (day, Kill(call, count[call]))
                    self._by_call.setdefault(call, []).append(point)
                    self._by_kind.setdefault(kind_of(effect), []).append(point)
                count[call] += 1

    def new_calls(self) -> list[str]:
        """The calls that were never killed at."""
        return sorted(set(self._by_call) - {call_of(kind) for kind in self._hit})

    def next(self, number: int) -> tuple[Day, list[Kill]]:
        """The kills of the next try: in the day's own run, then in those that recover."""
        chance = self._chance
        kinds = sorted(set(self._by_kind) - set(self._hit))
        calls = self.new_calls()
        chance.shuffle(calls)
        if calls:
            day, kill = chance.choice(self._by_call[calls.pop()])
        elif kinds and number % 3:
            day, kill = chance.choice(self._by_kind[chance.choice(kinds)])
        else:
            # Every other one by kind: half of all effects are syncs of folders.
            groups = self._by_kind if number % 2 else self._by_call
            day, kill = chance.choice(groups[chance.choice(sorted(groups))])
            delay = chance.choice([0, 0, 0.001 + chance.random() / 100])
            kill = replace(kill, delay=delay)
        more = []
        for _ in range(_MORE[number % len(_MORE)]):
            # A run that recovers has less to do: early kills hit more often.
            call = calls.pop() if calls else chance.choice(sorted(self._by_call))
            last = sum(call_of(effect) == call for effect in day.effects)
            more.append(Kill(call, int(last * chance.random() ** 2)))
        return day, [kill, *more]
