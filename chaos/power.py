"""Power cuts: what the ledger said is done is there after the power went.

The whole project lies in a disk image of its own, mounted so that nothing is written back unless
somebody asks for it. A run is stopped dead, at an effect or right when it is done, and the image is
copied as it is at that moment: what was synced is in it and nothing else is. Sometimes the system
has written more by then: all names but no contents, or some of the files. The copy is mounted, its
journal replayed; then the ledger, the files and one more run are judged.

The same with syncs left out must lose something, or the harness would prove nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.project_state import ProjectState, compare

from chaos.deliveries import DailyDeliveries, Files, counting
from chaos.deployments import LocalDeployment, Marts
from chaos.forks import ALL, DATABASE_ONLY, NONE, RUN, ChildFailed, ForkServer
from chaos.result import Result, Tell

CUTS_A_SHOP = 10
_MEMORY = Path("/dev/shm")
_SIZE = 96 << 20
# Written back by nobody but the one who asks: commits of the journal every ten minutes, no
# heuristics that save careless programs. Contents wait for the system's thirty seconds.
_OPTIONS = "loop,noatime,commit=600,noauto_da_alloc"
_ORDER = ("active", "prepared", "committed", "published", "done")
_NOTES = 20
_TRIES = 10
FAULTS = ("lost", "unreadable", "differs", "blind")


@dataclass(frozen=True)
class Cut:
    """When the power goes: in the run of which day (from 0), at which effect; None when done.

    `reached` tells what the system had written back by itself: nothing, names or some files.
    `again` is the effect at which it goes once more, in the run that recovers.
    """

    day: int
    effect: int | None
    delay: float
    reached: str
    again: int | None = None

    def __str__(self) -> str:
        moment = "when it was done" if self.effect is None else f"at effect {self.effect}"
        again = "" if self.again is None else f", and at effect {self.again} of the next run"
        return f"day {self.day + 1}, {moment}{again}, {self.reached} written back"


@dataclass(frozen=True)
class Shop:
    """A disk image with a new project and the days' deliveries, and how each day ends."""

    seed: int
    image: Path
    days: tuple[Files, ...]
    effects: tuple[int, ...]
    ends: tuple[ProjectState, ...]


@dataclass
class Damage:
    """What was wrong after a cut."""

    faults: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)

    def add(self, fault: str, words: str) -> None:
        self.faults[fault] += 1
        self.words.append(f"{fault}: {words}")


def why_not(work: Path) -> str | None:
    """Why no power can be cut here, None where it can."""
    if os.geteuid() != 0:
        return "mounting a disk image needs root"
    if not all(map(shutil.which, ("mkfs.ext4", "mount", "umount"))):
        return "mkfs.ext4 and mount are not installed"
    try:
        image = _new_image(work / "tried.img")
        with _mounted(image, work / "tried"):
            pass
        image.unlink()
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"no disk image can be mounted here: {str(said).strip()}"
    return None


def run(seed: int, size: int, work: Path, tell: Tell, *, marts: Marts = None) -> Result:
    """`size` cuts of runs that sync, and a fifth of that of runs that don't."""
    started = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    name = "power cuts"
    if reason := why_not(work):
        tell(f"{name}: {reason}")
        return Result(name, {"cuts": 0}, dict.fromkeys(FAULTS, 0), "", 0, (reason,))
    tries, faults = Counter[str](), Counter[str]()
    notes: list[str] = []
    careless = max(2, size // 5)
    # Disks in memory: what counts is what the file system sends to its disk, not where that is.
    room = TemporaryDirectory(prefix="power", dir=_MEMORY if _MEMORY.is_dir() else work)
    disks = Path(room.name)
    fork_server = ForkServer(work / "answers")
    last = seed
    try:
        for last in range(seed, seed + 10**6):
            shop = new_shop(last, disks / str(last), fork_server, marts)
            for cut in cuts(shop, CUTS_A_SHOP):
                if tries["cuts"] < size:
                    found = lose_power(shop, cut, fork_server, ALL)
                    tries["cuts"] += 1
                    faults += found.faults
                    notes += [f"seed {last}, {cut}: {words}" for words in found.words]
                if cut.effect is None and tries["cuts without syncs"] < careless:
                    syncs = DATABASE_ONLY if tries["cuts without syncs"] % 2 else NONE
                    found = lose_power(shop, cut, fork_server, syncs)
                    tries["cuts without syncs"] += 1
                    tries[f"of those seen, syncs: {syncs}"] += bool(found.faults)
            shutil.rmtree(disks / str(last))
            tell(f"seed {last}: {dict(tries)}, faults {dict(faults)}")
            if tries["cuts"] >= size and tries["cuts without syncs"] >= careless:
                break
    finally:
        fork_server.close()
        room.cleanup()
    for syncs in (NONE, DATABASE_ONLY):
        faults["blind"] += not tries[f"of those seen, syncs: {syncs}"]
    return Result(
        name,
        tries,
        {fault: faults[fault] for fault in FAULTS},
        f"{seed}..{last}",
        time.monotonic() - started,
        tuple(notes[:_NOTES]),
    )


def new_shop(seed: int, work: Path, fork_server: ForkServer, marts: Marts = None) -> Shop:
    """Make the image of one seed, and see how its days end when the power stays."""
    work.mkdir(parents=True)
    deliveries = DailyDeliveries(seed)
    days = [deliveries.first_day(), deliveries.later_day()]
    corrected = sorted(set(deliveries.standing) - {"sales_refused.csv"})[0]
    days.append(deliveries.correction(corrected))

    deployment = LocalDeployment.new(work / "undisturbed", marts)
    effects, ends = [], []
    for files in days:
        deployment.drop(files)
        effects.append(len(fork_server.order(deployment.folder, RUN, watched=True).effects))
        end = fork_server.order(deployment.folder, state=True).state
        assert end is not None
        ends.append(end)
    files_that_count = counting(deliveries.standing, work / "judged")
    judged = ("judge", str(files_that_count), str(deployment.folder / "shop.db"))
    wrong = fork_server.order(deployment.folder, judged).told[0]
    assert not wrong, f"seed {seed}, undisturbed: {wrong}"
    deployment.remove()

    image = _new_image(work / "new.img")
    with _mounted(image, work / "disk") as disk:
        LocalDeployment.new(disk / "shop", marts)
        (disk / "shop" / "landing").mkdir(exist_ok=True)
        for number, files in enumerate(days):
            outbox = LocalDeployment(disk / "outbox" / str(number))
            outbox.drop(files)
    return Shop(seed, image, tuple(days), tuple(effects), tuple(ends))


def cuts(shop: Shop, count: int) -> Iterator[Cut]:
    """Cuts of every day: each third when a run is done, the others anywhere in it."""
    chance = random.Random(shop.seed)
    for number in range(count):
        day = chance.randrange(len(shop.days))
        effect = None if number % 3 == 0 else chance.randrange(shop.effects[day])
        delay = chance.choice([0, 0, chance.random() / 100])
        again = chance.randrange(shop.effects[day]) if number % 4 == 3 else None
        yield Cut(day, effect, delay, chance.choice(["nothing", "names", "some"]), again)


def lose_power(shop: Shop, cut: Cut, fork_server: ForkServer, syncs: str) -> Damage:
    """Let a shop live up to the cut, then see what is left and what one more run makes of it."""
    found = Damage()
    said: dict[int, str] = {}
    work = shop.image.parent
    live, left = work / "live.img", work / "left.img"
    _copy(shop.image, live)
    try:
        with _mounted(live, work / "disk") as disk:
            for day in range(cut.day):
                _deliver(disk, day)
                fork_server.order(disk / "shop", RUN, syncs=syncs)
            _run_until(cut, cut.effect, disk, fork_server, syncs, said)
            _copy_at_once(live, left)
        if cut.again is not None:
            left.rename(live)
            with _mounted(live, work / "disk") as disk:
                _look(shop, cut, disk, said, found)
                _run_until(cut, cut.again, disk, fork_server, syncs, said)
                _copy_at_once(live, left)
        with _mounted(left, work / "disk") as disk:
            _look(shop, cut, disk, said, found)
            _go_on(shop, cut, disk, fork_server, found)
    except ChildFailed as error:
        found.add("unreadable", f"a run fails: {str(error).strip()[-500:]}")
    except sqlite3.Error as error:
        found.add("unreadable", f"the ledger: {error}")
    except subprocess.CalledProcessError as error:
        found.add("unreadable", f"the disk: {error.stderr}")
    for image in (live, left):
        image.unlink(missing_ok=True)
    return found


def _run_until(
    cut: Cut,
    effect: int | None,
    disk: Path,
    fork_server: ForkServer,
    syncs: str,
    said: dict[int, str],
) -> None:
    """Deliver the day, run up to the effect, and keep what the ledger said last of each batch."""
    folder = disk / "shop"
    _deliver(disk, *range(cut.day + 1))
    fork_server.order(folder, RUN, kill_at=effect, delay=cut.delay, syncs=syncs)
    said |= _ledger(folder, disk.with_name("said"))
    _write_back(folder, cut)


def _look(shop: Shop, cut: Cut, disk: Path, said: dict[int, str], found: Damage) -> None:
    """Before anything is repaired: what the ledger said must be there, and all that came too."""
    kept = _ledger(disk / "shop", disk.with_name("kept"))
    for batch, state in said.items():
        now = kept.get(batch)
        if now is None or _ORDER.index(now) < _ORDER.index(state):
            found.add("lost", f"batch {batch} was {state} and is {now or 'not known'}")
    _deliver(disk, *range(cut.day + 1))  # a sender sees that his file is not there, and sends it
    _look_for_contents(shop, cut, disk, found)


def _go_on(shop: Shop, cut: Cut, disk: Path, fork_server: ForkServer, found: Damage) -> None:
    after = fork_server.order(disk / "shop", RUN, state=True).state
    assert after is not None
    if differs := compare(shop.ends[cut.day], after):
        for fault, count in differs.faults.items():
            found.faults["differs" if fault == "doubled" else fault] += count
        found.words.append(differs.words)


def _look_for_contents(shop: Shop, cut: Cut, disk: Path, found: Damage) -> None:
    """What was delivered lies in landing or in the archive, whole."""
    there = {
        sha256(path.read_bytes()).digest()
        for place in ("landing", "archive")
        for path in (disk / "shop" / place).rglob("*")
        if path.is_file()
    }
    for files in shop.days[: cut.day + 1]:
        for name, content in files.items():
            if sha256(content).digest() not in there:
                found.add("lost", f"{name} is neither in landing nor in the archive")


def _deliver(disk: Path, *days: int) -> None:
    """Files come whole, by a rename: writing and syncing them would sync the runs' work too."""
    for day in days:
        outbox = disk / "outbox" / str(day) / "landing"
        for path in sorted(outbox.rglob("*")):
            if path.is_file():
                target = disk / "shop" / "landing" / path.relative_to(outbox)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)


def _write_back(folder: Path, cut: Cut) -> None:
    """What the system may have written by itself before the power went."""
    if cut.reached == "nothing":
        return
    chance = random.Random(str(cut))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    some = chance.sample(files, len(files) // 2)
    others = [folder.parent / "other"] if cut.reached == "names" else some
    for path in others:
        # Another program's sync brings the journal down, and with it all names and sizes.
        with path.open("ab") as file:
            os.fsync(file.fileno())


def _ledger(folder: Path, beside: Path) -> dict[int, str]:
    """The state of each batch, read from a copy: SQLite would write to the ledger it reads."""
    beside.mkdir(exist_ok=True)
    copy = beside / "retail.db"
    for ending in ("", "-wal"):
        source, target = folder / f"retail.db{ending}", Path(f"{copy}{ending}")
        target.unlink(missing_ok=True)
        Path(f"{copy}-shm").unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, target)
    with closing(sqlite3.connect(copy)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if ("retailmart_batches",) not in names.fetchall():
            return {}
        rows = connection.execute("SELECT batch_id, state FROM retailmart_batches")
        return {batch: state for batch, state in rows if state in _ORDER}


# disks


def _new_image(image: Path) -> Path:
    with image.open("wb") as file:
        file.truncate(_SIZE)
    _do("mkfs.ext4", "-q", "-F", "-J", "size=8", "-E", "lazy_itable_init=0", str(image))
    return image


def _copy(image: Path, target: Path) -> None:
    _do("cp", "--sparse=always", str(image), str(target))


def _copy_at_once(image: Path, target: Path) -> None:
    """Copy a disk in use as it is at one moment: again, where something was written meanwhile."""
    for _ in range(_TRIES):
        _copy(image, target)
        if subprocess.run(["cmp", "-s", image, target], check=False).returncode == 0:
            return
    raise subprocess.CalledProcessError(1, "cp", stderr="the disk does not come to rest")


@contextmanager
def _mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    _do("mount", "-o", _OPTIONS, str(image), str(at))
    try:
        yield at
    finally:
        _do("umount", str(at))


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
