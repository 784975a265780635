"""Kill sweep: a run killed at any of its outside effects, then run once more, ends as if never
killed: nothing lost, nothing doubled, nothing unreadable, every number as in an undisturbed run.

The effects are found by watching a run; it is then killed before or after one of them, or some
milliseconds into it, some twice in a row. A seed makes the files, the days and the kills.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.project_state import FAULTS as DIFFERENCES
from tests.support.project_state import ProjectState, compare

from chaos.deliveries import DailyDeliveries, Files, counting
from chaos.deployments import Deployment, LocalDeployment, RemoteDeployment
from chaos.effects import kind_of
from chaos.forks import RUN, ChildFailed, ForkServer, Step, undo
from chaos.result import Result, Tell

FAULTS = (*DIFFERENCES, "blind")
KILLS_A_DAY = 20
_DAYS = 5
_FORK_SERVERS = 2
_REMOTE_SHARE = 10  # a run on S3 and MySQL takes that much longer
_NOTES = 20
_MORE = (0, 2, 1, 3, 0)
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
# What is compared where the disturbed shop had other batches than the undisturbed one.
_TABLES = ("raw", "marts", "published", "orphans", "snapshots", "left lying", "landing")


@dataclass(frozen=True)
class Kill:
    """Where to kill: at which effect, and how many seconds into it."""

    effect: int
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
    """What was tried and what went wrong."""

    tries: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    found: set[str] = field(default_factory=set)
    hit: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def wrong(self, faults: Counter[str], words: str) -> None:
        """Count what went wrong."""
        self.faults += faults
        self.notes.append(words)


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """`size` kills on files and SQLite, a tenth of that on S3 and MySQL."""
    return [
        sweep_local(seed, size, work / "local", tell),
        sweep_remote(seed, max(1, size // _REMOTE_SHARE), work / "remote", tell),
    ]


def sweep_local(seed: int, size: int, work: Path, tell: Tell) -> Result:
    """The sweep over projects in folders of this machine."""

    def new(number: int, folder: Path) -> Deployment:
        return LocalDeployment.new(folder)

    kinds = (*_EVERYWHERE, *_HERE)
    return _sweep("kill sweep, files and SQLite", seed, size, work, tell, new, kinds, _FORK_SERVERS)


def sweep_remote(
    seed: int,
    size: int,
    work: Path,
    tell: Tell,
    *,
    servers: int = _FORK_SERVERS,
    only: str | None = None,
) -> Result:
    """The sweep over projects in S3 and MySQL, with servers of its own; `only` one day of each."""
    from tests.support.services.mariadb import open_server
    from tests.support.services.s3 import S3Server

    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        server = open_server(work / "mariadb")
        stack.callback(server.close)
        stores = []
        for number in range(servers):
            folder = work / f"s3_{number}"
            folder.mkdir()
            stores.append(S3Server(folder))
            stores[-1].start()
            stack.callback(stores[-1].close)

        def new(number: int, folder: Path) -> Deployment:
            return RemoteDeployment.new(folder, server, stores[number])

        kinds = (*_EVERYWHERE, *_FAR_AWAY)
        return _sweep("kill sweep, S3 and MySQL", seed, size, work, tell, new, kinds, servers, only)


def _sweep(
    name: str,
    seed: int,
    size: int,
    work: Path,
    tell: Tell,
    new: Callable[[int, Path], Deployment],
    kinds: Sequence[str],
    count: int,
    only: str | None = None,
) -> Result:
    """Fork servers work side by side, each through days of its own, until `size` kills."""
    started = time.monotonic()
    tally = Tally()
    with _fork_servers(work, count) as servers, ThreadPoolExecutor(count) as pool:
        shop_db = LocalDeployment.new(work / "judge").folder / "shop.db"
        workers = []
        for number, fork_server in enumerate(servers):
            share = size // count + (number < size % count)
            worker = Worker(
                number, fork_server, work / f"fork_server{number}", new, shop_db, tally, tell, only
            )
            workers.append(
                pool.submit(worker.work, range(seed + number, seed + 10**6, count), share)
            )
        last = max(worker.result() for worker in workers)
    tries = {**tally.tries, "kinds of effects": len(tally.found), "kinds killed at": len(tally.hit)}
    for kind in kinds:
        if not any(seen.startswith(kind) for seen in tally.found):
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
        for fork_server in servers:
            fork_server.close()


@dataclass(frozen=True)
class Worker:
    """One fork_server and the shops it disturbs."""

    number: int
    fork_server: ForkServer
    folder: Path
    new: Callable[[int, Path], Deployment]
    shop_db: Path
    tally: Tally
    tell: Tell
    only: str | None = None

    def work(self, seeds: Iterable[int], kills: int) -> int:
        """Kill as often as asked, through the days of one seed after the other; the last seed."""
        killed, seed = 0, 0
        for seed in seeds:
            for day in self.days(seed):
                self.tally.tries["days"] += 1
                for words in day.wrong:
                    self.tally.wrong(Counter({words.split()[0]: 1}), f"{day}, undisturbed: {words}")
                a_day = min(KILLS_A_DAY, -(-kills // _DAYS)) if self.only is None else KILLS_A_DAY
                wanted = min(a_day, kills - killed)
                for number, plan in enumerate(plans(day, wanted, self.tally.hit)):
                    if wanted > 0:
                        died = self.disturb(day, f"kill{number}", plan)
                        wanted, killed = wanted - died, killed + died
                self.tell(f"fork_server {self.number}: {day}: {killed} of {kills} kills")
                if killed >= kills:
                    return seed
        return seed

    def days(self, seed: int) -> Iterator[Day]:
        """The days of one seed's shop, each told how it ends undisturbed."""
        root = self.folder / str(seed)
        root.mkdir(parents=True)
        deliveries = DailyDeliveries(seed)
        deployment = self.new(self.number, root / "shop")
        deployment.drop(deliveries.first_day())
        yield from self._ended(Day("first load", seed, deployment), deliveries)

        meant = sorted(deliveries.standing)[0]
        later = DailyDeliveries(seed, dict(deliveries.standing))
        again = Day("delivered again after the kill", seed, deployment, only=_TABLES)
        yield from self._ended(replace(again, meanwhile=later.correction(meant)), later)

        first = deployment.copy("loaded")
        self.fork_server.order(first.folder, RUN)
        replayed = DailyDeliveries(seed, dict(deliveries.standing))
        back = first.copy("repaired")
        sheet = root / "sheet.csv"
        self.fork_server.order(back.folder, ("export", str(sheet)))
        back.drop(replayed.repaired(sheet.read_bytes()))
        yield from self._ended(Day("replayed rows", seed, back), replayed)

        before = DailyDeliveries(seed, dict(deliveries.standing))
        second = first.copy("later")
        second.drop(deliveries.later_day())
        yield from self._ended(Day("later day", seed, second), deliveries)

        both = second.copy("both")
        self.fork_server.order(both.folder, RUN)
        taken = undo(2)
        ways = ((taken,), (RUN, taken))
        yield from self._ended(Day("undo", seed, both, (taken,), ways), before)
        for used in (deployment, first, back, second, both):
            used.remove()

    def _ended(self, day: Day, deliveries: DailyDeliveries) -> Iterator[Day]:
        """The day, with its effects, its undisturbed end, and what the judge says of that."""
        if self.only not in (None, day.name):
            return
        try:
            yield self._told_end(day, deliveries)
        except ChildFailed as error:
            words = f"{day}, undisturbed: {str(error).strip()[-400:]}"
            self.tally.wrong(Counter(unreadable=1), words)

    def _told_end(self, day: Day, deliveries: DailyDeliveries) -> Day:
        counted = day.deployment.copy("counted")
        effects = self.fork_server.order(counted.folder, *day.steps, watched=True).effects
        counted.remove()
        undisturbed = day.deployment.copy("undisturbed")
        self.fork_server.order(undisturbed.folder, *day.steps)
        if day.meanwhile:
            undisturbed.drop(day.meanwhile)
            self.fork_server.order(undisturbed.folder, RUN)
        files = counting(deliveries.standing, self.folder / f"judged_{day.seed}_{day.name}")
        judged = ("judge", str(files), str(self.shop_db))
        ended = self.fork_server.order(undisturbed.folder, judged, state=True)
        undisturbed.remove()
        self.tally.found |= {kind_of(effect) for effect in effects}
        self.tally.tries["effects found"] += len(effects)
        assert ended.state is not None
        wrong = [*ended.told[0]]
        wrong += [
            f"differs {k}: {ended.state[k]}" for k in ("orphans", "left lying") if ended.state[k]
        ]
        return replace(day, effects=effects, end=ended.state, wrong=tuple(wrong))

    def disturb(self, day: Day, name: str, plan: Sequence[Kill]) -> int:
        """Kill and kill again, go on, and compare with the undisturbed end; how often it died."""
        deployment = day.deployment.copy(name)
        died = []
        way = day.recoveries[plan[0].effect % len(day.recoveries)]
        try:
            for steps, kill in zip((day.steps, *[way] * len(plan)), plan, strict=False):
                ended = self.fork_server.order(
                    deployment.folder, *steps, kill_at=kill.effect, delay=kill.delay
                )
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


def plans(day: Day, count: int, hit: Iterable[str]) -> Iterator[list[Kill]]:
    """Kills at kinds of effects never hit before, then spread over all effects.

    A third strikes some milliseconds into the effect; some are followed by one or two more in the
    runs that recover.
    """
    chance = random.Random(f"{day.seed} {day.name}")
    last = len(day.effects) - 1
    kinds: dict[str, list[int]] = {}
    for number, effect in enumerate(day.effects):
        kinds.setdefault(kind_of(effect), []).append(number)
    fresh = [kind for kind in kinds if kind not in set(hit)]
    chance.shuffle(fresh)
    points = [chance.choice(kinds[kind]) for kind in fresh[: count * 2 // 3]]
    rest = count - len(points)
    evenly = [int((n + chance.random()) * last / rest) for n in range(rest)]
    # Every other one by kind: half of all effects are syncs of folders.
    for number, point in enumerate(evenly):
        points.append(point if number % 2 else chance.choice(kinds[chance.choice([*kinds])]))
    for number, point in enumerate(points):
        delay = chance.choice([0, 0, 0.001 + chance.random() / 100]) if number >= len(fresh) else 0
        # A run that recovers has less to do: early kills hit more often.
        more = (Kill(int(last * chance.random() ** 2)) for _ in range(_MORE[number % len(_MORE)]))
        yield [Kill(point, delay), *more]
