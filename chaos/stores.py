"""Many small batches while one in ten requests to the store fails; also the shops of all campaigns.

A shop is a project folder with what it was sent. A fork server is a process that has imported
everything and opened nothing; each run is a fork of it that goes through the command line, as a
person's does.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.support.backends import shop_tables
from tests.support.judge import COLUMNS, PUBLISHED, expected_marts, in_cents, is_refused
from tests.support.project_state import is_snapshot

from chaos.result import Result, Tell

if TYPE_CHECKING:
    from tests.support.services.s3 import S3Bucket, S3Server

_ROOT = Path(__file__).parents[1]
AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"
_LONG_AGO = 1_700_000_000
CRASHED = 70  # the exit code of a child that ended in a traceback
KINDS = ("lost", "doubled", "unreadable", "differs", "orphans", "late")  # of what goes wrong
Query = Callable[[str], list[tuple[Any, ...]]]
Patches = Mapping[str, Any]


# what shops are sent


class Deliveries:
    """What a shop is sent, made from a seed: new, corrected, copied and refused files."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder / "sent"
        self.chance = random.Random(seed)
        self.sent: list[tuple[str, bytes]] = []
        self._standing: dict[str, Path] = {}

    def next(self, count: int, *, corrections: bool = True) -> list[tuple[str, bytes]]:
        """Some files that arrive together, each under a name of its own."""
        made: dict[str, bytes] = {}
        while len(made) < count:
            name, content = self._one(corrections)
            made.setdefault(name, content)
        return [self.add(name, content) for name, content in made.items()]

    def add(self, name: str, content: bytes) -> tuple[str, bytes]:
        """A file made elsewhere arrives too."""
        path = self.folder / f"{len(self.sent):05d}" / Path(name).name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self.sent.append((name, content))
        if not is_refused(path):
            self._standing[name] = path
        return name, content

    def standing(self) -> list[Path]:
        """A name stands for its last loadable content; the judge counts a content once."""
        return list(self._standing.values())

    def _one(self, corrections: bool) -> tuple[str, bytes]:
        number, kind = len(self.sent), self.chance.random()
        name = f"{self.chance.choice(['', '', 'north/'])}sales_{number}_{self._word()}.csv"
        if kind < 0.06:
            return f"notes_{number}_{self._word()}.txt", self._word().encode()
        if kind < 0.12:
            return name, f"{HEADER.removesuffix(',total_cost')}\n1,1,{self._word()}\n".encode()
        if kind < 0.22 and self._standing:
            return name, self.chance.choice(self.standing()).read_bytes()
        if kind < 0.37 and self._standing and corrections:
            name = self.chance.choice(list(self._standing))
        rows = [self._row() for _ in range(self.chance.randint(1, 12))]
        return name, ("\n".join([HEADER, *rows]) + "\n").encode()

    def _row(self) -> str:
        chance = self.chance
        if chance.random() < 0.06:
            return chance.choice(
                [",1,tea,2024-01-15,1,10.00,1,10.00", "1,1,tea", "1,1,a,x,1,1,1,1"]
            )
        day = f"2024-{chance.randint(1, 3):02d}-{chance.randint(1, 28):02d}"
        price = f"{chance.randint(1, 9_999) / 100:.2f}"
        customer, store = chance.choice([1, 2, 3, 4, 77]), chance.choice([1, 1, 2, 7])
        person = chance.choice([1, 2, 3, 55])
        return f"{customer},{store},{self._word()},{day},{person},{price},1,{price}"

    def _word(self) -> str:
        return f"{self.chance.randrange(16**8):08x}"


def new_project(
    folder: Path,
    settings: Mapping[str, str],
    secrets: Mapping[str, str],
    marts: Collection[str] = tuple(COLUMNS),
) -> None:
    """A project as `init` writes it, with these lines in its settings, secrets and marts."""
    from retailmart.template import write_project

    write_project(folder, sample=False)
    for path in (folder / "marts").glob("*.sql"):
        if path.stem not in marts:
            path.unlink()
    path = folder / "retailmart.yml"
    kept = [
        line for line in path.read_text().splitlines() if line.partition(":")[0] not in settings
    ]
    path.write_text("\n".join([*kept, *(f"{k}: {v}" for k, v in settings.items())]) + "\n")
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in secrets.items()))
    with closing(sqlite3.connect(folder / "shop.db")) as connection, connection:
        for statement in shop_tables():
            connection.execute(statement)


def drop_local(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Put files into a landing folder, each whole, and old enough not to be looked at twice."""
    for name, content in files:
        path = folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        partial.write_bytes(content)
        os.utime(partial, (_LONG_AGO, _LONG_AGO))
        partial.rename(path)


def sqlite_query(path: Path) -> Query:
    """Ask a SQLite file."""

    def query(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            return connection.execute(statement).fetchall()

    return query


# what must hold in the end


def wrong_in_ledger(query: Query, sent: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Whether each delivery is known and counts once, and nothing is left open."""
    open_batches = query(
        "SELECT batch_id, state FROM retailmart_batches WHERE state NOT IN ('done', 'abandoned')"
    )
    if open_batches:
        yield f"unreadable: batches are left open: {open_batches}"
    rows = query("SELECT path, sha256, state FROM retailmart_files")
    known = {(path, digest) for path, digest, state in rows if state != "released"}
    for name, content in sent:
        if (name, hashlib.sha256(content).hexdigest()) not in known:
            yield f"lost: the ledger does not know {name}"
    loaded = Counter(digest for _, digest, state in rows if state == "loaded")
    for digest, times in loaded.items():
        if times > 1:
            yield f"doubled: a content counts {times} times: {digest[:12]}"
    if active := [path for path, _, state in rows if state == "active"]:
        yield f"lost: still active: {active[:3]}"
    if held := query("SELECT holder FROM retailmart_lease WHERE name = 'run'")[0][0]:
        yield f"differs: the lease is still held by {held}"


def wrong_in_archive(
    landed: Sequence[str], archived: Mapping[str, bytes], sent: Iterable[tuple[str, bytes]]
) -> Iterator[str]:
    """Whether each delivery left landing and lies in the archive, once."""
    if landed:
        yield f"lost: still in landing: {list(landed)[:3]}"
    expected = Counter(hashlib.sha256(content).hexdigest() for _, content in sent)
    found = Counter(
        hashlib.sha256(content).hexdigest()
        for path, content in archived.items()
        if not path.endswith(".reason.txt")
    )
    if lacking := expected - found:
        yield f"lost: {lacking.total()} deliveries are not in the archive"
    if more := found - expected:
        places = [p for p, c in archived.items() if hashlib.sha256(c).hexdigest() in more]
        yield f"doubled: {more.total()} files more in the archive than were sent: {places[:6]}"


def wrong_when_published(
    query: Query, standing: Sequence[Path], shop_db: Path, quote: str = "`"
) -> Iterator[str]:
    """Whether the database shows what the judge says; `quote` surrounds a column's name there."""
    expected = expected_marts(standing, shop_db, AS_OF)
    marts = shop_db.parent / "marts"
    for mart in (name for name in PUBLISHED if (marts / f"{name}.sql").exists()):
        columns = ", ".join(f"{quote}{column}{quote}" for column in COLUMNS[mart])
        shown = query(f"SELECT {columns} FROM {mart}")
        if in_cents(mart, shown) != in_cents(mart, expected[mart].elements()):
            yield f"differs: published {mart} is not as judged"


def named_files(logs: Iterable[bytes]) -> set[str]:
    """Every data file that any of a table's log entries has added."""
    named = set()
    for entry in logs:
        for line in entry.decode().splitlines():
            if add := json.loads(line).get("add"):
                named |= {add["path"], unquote(add["path"])}
    return named


def unnamed_files(keys: Iterable[str], read: Callable[[str], bytes]) -> list[str]:
    """Data files of a lake that no log entry has ever named. `keys` are below the lake."""
    tables: dict[str, list[str]] = {}
    for key in keys:
        if not is_snapshot(key):
            tables.setdefault("/".join(key.split("/")[:2]), []).append(key)
    found = []
    for table, of_table in tables.items():
        logs = [k for k in of_table if "/_delta_log/" in k and k.endswith(".json")]
        named = named_files(map(read, logs))
        for key in of_table:
            path = key.removeprefix(f"{table}/")
            if path.endswith(".parquet") and not path.startswith("_delta_log/"):
                found += [key] if path not in named and unquote(path) not in named else []
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# what runs in the children


class _Stop:
    """Stops this very process at the n-th effect of a kind, until somebody lets it go on."""

    def __init__(self, label: str, nth: int) -> None:
        self.label = label
        self.left = nth
        self._lock = threading.Lock()

    def happens(self, label: str) -> None:
        with self._lock:
            if self.label not in label:
                return
            self.left -= 1
            if self.left != 0:
                return
        os.kill(os.getpid(), signal.SIGSTOP)


def _around(owner: Any, name: str, label: str, happens: Callable[[str], None]) -> None:
    inner = getattr(owner, name)

    def wrapper(*arguments: Any, **named: Any) -> Any:
        happens(f"before {label}")
        result = inner(*arguments, **named)
        happens(f"after {label}")
        return result

    setattr(owner, name, wrapper)


def _watch_run(happens: Callable[[str], None]) -> None:
    """The places at which a holder can be stopped."""
    import deltalake
    import pymysql.connections

    import retailmart.operations.batch
    from retailmart.engines.duckdb import DuckDBEngine
    from retailmart.lake import Lake
    from retailmart.ledger.batches import Batches
    from retailmart.storage.local import LocalFolder
    from retailmart.storage.s3 import S3Folder

    _around(DuckDBEngine, "write", "write", happens)
    _around(Lake, "persist", "persist", happens)
    for state in ("stage", "prepare", "mark_committed", "mark_published", "mark_done"):
        _around(Batches, state, state, happens)
    _around(Lake, "commit", "lake commit", happens)
    _around(deltalake.DeltaTable, "create_write_transaction", "log entry", happens)
    _around(retailmart.operations.batch, "publish_all", "publish", happens)
    for folder in (LocalFolder, S3Folder):
        _around(folder, "move_in", "move", happens)
        _around(folder, "remove", "remove", happens)
    _around(S3Folder, "_upload", "upload", happens)
    _watch_wire(pymysql.connections.Connection, happens)
    _watch_psycopg(happens)


def _watch_wire(connection: Any, happens: Callable[[str], None]) -> None:
    """Every packet to the database: `sent SQL` tells that the reply was not read yet."""
    write, command = connection._write_bytes, connection._execute_command
    busy = threading.local()

    def execute_command(self: Any, kind: int, sql: Any) -> Any:
        text = sql.decode("utf-8", "replace") if isinstance(sql, bytes | bytearray) else str(sql)
        busy.label = text[:60]
        return command(self, kind, sql)

    def write_bytes(self: Any, data: bytes) -> Any:
        label = getattr(busy, "label", "handshake")
        happens(f"send {label}")
        result = write(self, data)
        happens(f"sent {label}")
        busy.label = f"more of {label.removeprefix('more of ')}"
        return result

    connection._execute_command, connection._write_bytes = execute_command, write_bytes


def _watch_psycopg(happens: Callable[[str], None]) -> None:
    """Every statement to PostgreSQL. What `sent SQL` tells has its reply: libpq does not return
    in between.
    """
    import psycopg

    execute = psycopg.Cursor.execute

    def execute_and_tell(self: Any, query: Any, *arguments: Any, **named: Any) -> Any:
        text = query.decode("utf-8", "replace") if isinstance(query, bytes) else str(query)
        happens(f"send {text[:60]}")
        result = execute(self, query, *arguments, **named)
        happens(f"sent {text[:60]}")
        return result

    def around(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            happens(f"send {label}")
            result = inner(*arguments, **named)
            happens(f"sent {label}")
            return result

        setattr(owner, name, wrapper)

    psycopg.Cursor.execute = execute_and_tell  # type: ignore[method-assign]
    around(psycopg.Connection, "commit", "COMMIT")
    around(psycopg.Copy, "write", "more of COPY")


def _watch_fences(told: Path) -> None:
    """Write down when each fence wrote to the ledger."""
    from retailmart.ledger.access import Access

    inner = Access.transaction

    @contextmanager
    def transaction(self: Access) -> Iterator[Any]:
        began = time.monotonic()
        with inner(self) as connection:
            yield connection
        fence = self.lease.fence if self.lease else 0
        with told.open("a") as lines:
            lines.write(f"{fence} {began} {time.monotonic()} {os.getpid()}\n")

    Access.transaction = transaction  # type: ignore[method-assign]


def _patch(patches: Patches) -> None:
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        getattr(import_module(module), attribute)  # a patch of nothing would change nothing
        span = isinstance(value, dict) and list(value) == ["seconds"]
        setattr(import_module(module), attribute, timedelta(**value) if span else value)


def _run(order: dict[str, Any]) -> None:
    """One run as a person starts it."""
    from retailmart.cli import main

    if stop := order.get("stop"):
        _watch_run(_Stop(*stop).happens)
    if effects := order.get("effects"):
        lines = Path(effects).open("a", buffering=1)  # noqa: SIM115 - open as long as the process
        _watch_run(lambda label: print(label.replace("\n", " "), file=lines) and None)
    if fences := order.get("fences"):
        _watch_fences(Path(fences))
    folder = order["folder"]
    sys.argv = ["retailmart", "run", "--project", folder, "--as-of", AS_OF.isoformat()]
    main()


def _judge(order: dict[str, Any]) -> None:
    """Tell what the marts in the lake have other than the judge."""
    import retailmart

    project = retailmart.open_project(order["folder"])
    standing = [Path(path) for path in order["standing"]]
    expected = expected_marts(standing, Path(order["folder"]) / "shop.db", AS_OF)
    judged = {mart: COLUMNS[mart] for mart in project.project.marts if mart in COLUMNS}
    for mart, columns in judged.items():
        found = Counter(project.mart(mart).project(", ".join(columns)).fetchall())
        if found != expected[mart]:
            more, lacking = found - expected[mart], expected[mart] - found
            print(
                f"differs: {mart} has {more.total()} rows too many and {lacking.total()} too few,"
                f" as in {[*more, *lacking][:2]}"
            )


def _command(order: dict[str, Any]) -> None:
    """Any command as a person types it."""
    from retailmart.cli import main

    sys.argv = ["retailmart", *order["arguments"], "--project", order["folder"]]
    main()


_WORK = {"run": _run, "judge": _judge, "command": _command}

# What a run imports when it gets there; imported before the forks, it is paid for once.
_IMPORTED = (
    "botocore.session",
    "connectorx",
    "deltalake.transaction",
    "obstore.store",
    "psycopg",
    "pyarrow.parquet",
    "pymysql.cursors",
    "retailmart.cli",
    "retailmart.console",
    "retailmart.database.mysql.opening",
    "retailmart.database.mysql.dialect",
    "retailmart.database.postgres.dialect",
    "retailmart.database.postgres.opening",
    "retailmart.database.source",
    "retailmart.database.sqlite.dialect",
    "retailmart.api",
    "retailmart.operations.run",
    "retailmart.engines.duckdb",
    "retailmart.engines.partitions",
    "retailmart.storage.s3",
    "rich.table",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlglot",
)


def _child(order: dict[str, Any]) -> int:
    descriptor = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 0
    try:
        _patch(order.get("patches", {}))
        _WORK[order["do"]](order)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _serve() -> None:
    """Fork a child for each order that comes in; tell its number, its stops and how it ended."""
    for name in _IMPORTED:
        with suppress(ModuleNotFoundError):
            import_module(name)
    gc.freeze()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    unread = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(children)
        if 0 in ready:
            received = os.read(0, 1 << 20)
            if not received:
                break
            *lines, unread = (unread + received).split(b"\n")
            for line in lines:
                _fork(json.loads(line), children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _fork(order: dict[str, Any], children: dict[int, int]) -> None:
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os._exit(_child(order))
    children[pid] = order["id"]
    _tell({"id": order["id"], "pid": pid})


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            _tell({"id": children[pid], "stopped": True})
            continue
        _tell({"id": children.pop(pid), "ended": os.waitstatus_to_exitcode(status)})


def _tell(words: dict[str, Any]) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


# what runs in the campaign's own process


class TookTooLong(Exception):
    """A child did not end, or stop, within its bound."""


class Child:
    """A process that the server has forked."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.pid = 0
        self.ended: int | None = None
        self.stops = 0
        self.began = time.monotonic()
        self._change = threading.Condition()

    def said(self) -> str:
        """What it wrote to stdout and stderr."""
        with suppress(FileNotFoundError):  # killed before it said a word
            return self.log.read_text(errors="replace")
        return ""

    def heard(self, news: dict[str, Any]) -> None:
        """The server tells something of it."""
        with self._change:
            self.pid = news.get("pid", self.pid)
            self.ended = news.get("ended", self.ended)
            self.stops += "stopped" in news
            self._change.notify_all()

    def wait(self, seconds: float) -> int:
        """Its exit code, or minus the signal that ended it."""
        if not self._until(lambda: self.ended is not None, seconds):
            self.signal(signal.SIGKILL)
            raise TookTooLong(f"not ended after {seconds:.0f} s; it said: {self.said()[-600:]}")
        assert self.ended is not None
        return self.ended

    def stopped(self, seconds: float) -> bool:
        """Wait until it stands still; False where it ended before."""
        if not self._until(lambda: self.ended is not None or self.stops > 0, seconds):
            self.signal(signal.SIGKILL)
            raise TookTooLong(f"did not stop within {seconds:.0f} s; it said: {self.said()[-600:]}")
        return self.ended is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        with self._change:  # its number cannot be another's as long as its end was not told
            if self.ended is None and self.pid:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)

    def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(holds, seconds)


class ForkServer:
    """A process of its own that forks children."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._logs = work
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            cwd=_ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._children: dict[int, Child] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="fork server", daemon=True)
        self._reader.start()

    def start(self, do: str, folder: Path, **more: Any) -> Child:
        """Begin some work on a project folder."""
        with self._lock:
            self._count += 1
            child = Child(self._logs / f"child{self._count:06d}.log")
            self._children[self._count] = child
            order = {"id": self._count, "do": do, "folder": str(folder), "log": str(child.log)}
            assert self._process.stdin
            self._process.stdin.write(json.dumps(order | more).encode() + b"\n")
            self._process.stdin.flush()
        if not child._until(lambda: child.pid != 0, 120):
            raise TookTooLong("the fork server gave no child")
        return child

    def judge(self, folder: Path, standing: Iterable[Path]) -> list[str]:
        """What the marts in the lake have other than the judge."""
        child = self.start("judge", folder, standing=[str(path) for path in standing])
        if child.wait(120) != 0:
            return [f"unreadable: {child.said()[-1_500:]}"]
        return child.said().splitlines()

    def close(self) -> None:
        """End it and its children."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            news = json.loads(line)
            self._children[news["id"]].heard(news)


def dishonest(said: str, code: int, *names: str) -> str | None:
    """What is wrong with the words of a failed run: it must name the place, and no traceback."""
    if code == CRASHED or "Traceback" in said:
        return f"unreadable: a run ended in a traceback: {said[-1_500:]}"
    if not any(name in said for name in names):
        return f"unreadable: exit {code} names none of {names}: {said[-600:]}"
    return None


@dataclass
class Tally:
    """What was tried and what was found, from many threads."""

    faults: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)),
    )
    tries: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tried(self, what: str, times: int = 1) -> None:
        """Count a try."""
        with self.lock:
            self.tries[what] += times

    def found(self, seed: int, *problems: str) -> None:
        """Count what is wrong; each problem begins with its kind."""
        with self.lock:
            for problem in problems:
                kind = problem.partition(":")[0]
                self.faults[kind if kind in KINDS else "differs"] += 1
                self.notes.append(f"seed {seed}: {problem}")

    def result(self, scenario: str, seeds: str, began: float) -> Result:
        """What came of it."""
        return Result(
            scenario,
            dict(self.tries),
            dict(self.faults),
            seeds,
            round(time.monotonic() - began, 1),
            tuple(self.notes[:20]),
        )


# the scenario
# Hanging is cut short by the client's own limits; the campaign makes them, and its pauses, short.
# Uploads go in parts from 1 KB on, which the server is told to take.
_IMPATIENT: Patches = {
    "retailmart.storage.s3._CONNECT_SECONDS": 1.0,
    "retailmart.storage.s3._SECONDS": 1.5,
    "retailmart.storage.s3._RETRY_SECONDS": 10,
    "retailmart.storage.s3._CHUNK": 1024,
    "retailmart.operations.run._PAUSES": (0.05, 0.2, 0.5),
}
_HANG_SECONDS = 2.5
_RATE = 0.10
# A log grows with each batch, and with it what a run asks for: shops stay young.
_BATCHES_A_SHOP = 5
_RUNS_A_BATCH = 8
# A run asks some 400 times, of which 40 fail, and 4 of these hang until the client gives up.
_RUN_BOUND, _BATCH_BOUND = 90.0, 180.0
_LANES = 8
# The client tries again by itself; where it gives up sooner, the run's own recovery has to do it.
_RETRIES = (1, 2, 4)
# Most shops have one mart, for speed: one is appended to, two are written by month and published.
_FEW = ("customer_mart", "customer_monthly_purchase", "sales_team_incentive")
_ALL_EVERY = 16


def run(seed: int, size: int, work: Path, tell: Tell) -> Result:
    """`size` batches over several shops at once, every tenth request to the store failing."""
    from tests.support.services.s3 import S3Server

    began = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    shops = -(-size // _BATCHES_A_SHOP)
    sizes = [size // shops + (n < size % shops) for n in range(shops)]
    server = S3Server(work)
    with _small_parts():
        server.start()
    with ForkServer(work / "fork_server") as fork_server, ThreadPoolExecutor(_LANES) as pool:

        def one(number: int) -> None:
            try:
                _one_shop(
                    seed + number, sizes[number], work / f"shop{number}", fork_server, server, tally
                )
            except TookTooLong as error:
                tally.found(seed + number, f"late: {error}")
            except BaseException:
                tally.found(seed + number, f"unreadable: {traceback.format_exc()}")
            tell(f"store faults: {tally.tries['batches']} of {size} batches, {dict(tally.faults)}")

        list(pool.map(one, range(shops)))
    server.close()
    return tally.result("a store that fails", f"{seed}..{seed + shops - 1}", began)


def _one_shop(
    seed: int, batches: int, folder: Path, fork_server: ForkServer, server: S3Server, tally: Tally
) -> None:
    from tests.support.services.proxy import Fault, S3Faults

    bucket = server.look(server.bucket())
    deliveries = Deliveries(folder.with_name(f"{folder.name}_sent"), seed)
    with S3Faults(server.port, hang_seconds=_HANG_SECONDS) as faults:
        settings = s3_settings(bucket.name, faults.endpoint)
        marts = [_FEW[seed % len(_FEW)]] if seed % _ALL_EVERY else COLUMNS
        new_project(folder, settings, server.environment, marts)
        faults.on(_RATE, seed=seed, kinds=_kinds())
        for kind in Fault:  # each once, however few requests there are
            method = "PUT" if kind is Fault.BROKEN_MULTIPART else "GET"
            faults.inject(kind, method, nth=1 + deliveries.chance.randrange(5))
        for _ in range(batches):
            sent = deliveries.next(deliveries.chance.choice([1, 1, 2, 3]))
            while not deliveries.standing():  # without any sale, no mart is ever built
                sent += deliveries.next(1)
            for name, content in sent:
                bucket.put(f"to_process/{name}", content)
            _one_batch(seed, folder, fork_server, faults, bucket.name, tally)
        faults.off()
        tally.tried("requests", faults.counts["requests"])
        tally.tried("requests that failed", faults.faults)
        for name, times in faults.counts.items():
            tally.tried(name, times if name != "requests" else 0)
        with closing(sqlite3.connect(folder / "retail.db")) as connection, connection:
            connection.execute("DELETE FROM retailmart_lease WHERE name = 'sweep'")
        child = fork_server.start("run", folder, patches=_patches(seed))
        if child.wait(_RUN_BOUND):
            tally.found(seed, f"unreadable: the clean run failed: {child.said()[-1_500:]}")
    query = sqlite_query(folder / "retail.db")
    tally.found(seed, *wrong_in_ledger(query, deliveries.sent))
    tally.found(seed, *wrong_when_published(query, deliveries.standing(), folder / "shop.db"))
    tally.found(seed, *wrong_in_bucket(bucket, deliveries.sent))
    point_at(folder, server.endpoint)
    tally.found(seed, *fork_server.judge(folder, deliveries.standing()))
    bucket.drop()
    shutil.rmtree(folder)


def _one_batch(
    seed: int, folder: Path, fork_server: ForkServer, faults: Any, bucket: str, tally: Tally
) -> None:
    """Run until what landed is in; under faults at first, at last without."""
    began = time.monotonic()
    for attempt in range(_RUNS_A_BATCH + 1):
        if calm := attempt == _RUNS_A_BATCH:
            faults.off()
            tally.tried("batches that needed a calm store")
        child = fork_server.start("run", folder, patches=_patches(seed))
        code = child.wait(_RUN_BOUND)
        tally.tried("runs")
        if code == 0:
            break
        tally.tried("runs that failed")
        if problem := dishonest(child.said(), code, f"s3://{bucket}"):
            tally.found(seed, problem)
        if calm:
            tally.found(seed, f"unreadable: a calm store did not help: {child.said()[-800:]}")
    if calm:
        faults.on(_RATE, seed=seed + 1, kinds=_kinds())
    took = time.monotonic() - began
    if took > _BATCH_BOUND:
        tally.found(seed, f"late: a batch took {took:.0f} s")
    tally.tried("batches")
    with tally.lock:
        tally.tries["slowest batch, ms"] = max(tally.tries["slowest batch, ms"], int(took * 1000))


def _patches(seed: int) -> Patches:
    return {**_IMPATIENT, "retailmart.storage.s3._RETRIES": _RETRIES[seed % len(_RETRIES)]}


def _kinds() -> list[Any]:
    """All faults; those that hang are fewer, since each costs seconds of waiting."""
    from tests.support.services.proxy import Fault

    slow = [Fault.HANG, Fault.HANG_AFTER]
    return [*(kind for kind in Fault if kind not in slow), *slow] + 3 * [
        kind for kind in Fault if kind not in slow
    ]


@contextmanager
def _small_parts() -> Iterator[None]:
    """A server started meanwhile takes uploads in small parts."""
    sizes = {"S3_UPLOAD_PART_MIN_SIZE": "256", "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "1000000"}
    before = dict(os.environ)
    os.environ.update(sizes)
    try:
        yield
    finally:
        for name in sizes:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def s3_settings(bucket: str, endpoint: str) -> dict[str, str]:
    """Landing, lake and archive in one bucket."""
    return {
        "landing": f"s3://{bucket}/to_process",
        "lake": f"s3://{bucket}/lake",
        "archive": f"s3://{bucket}/archive",
        "s3": f"{{endpoint: '{endpoint}'}}",
    }


def point_at(folder: Path, endpoint: str) -> None:
    """Reach the same bucket another way."""
    path = folder / "retailmart.yml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("s3:")]
    path.write_text("\n".join([*kept, f"s3: {{endpoint: '{endpoint}'}}"]) + "\n")


def wrong_in_bucket(bucket: S3Bucket, sent: Sequence[tuple[str, bytes]]) -> Iterator[str]:
    """Whether each delivery was archived once, and no data file is there that no commit names."""
    archived = {key: bucket.get(key) for key in bucket.keys("archive/")}
    yield from wrong_in_archive(bucket.keys("to_process/"), archived, sent)
    keys = [key.removeprefix("lake/") for key in bucket.keys("lake/")]
    if orphaned_files := unnamed_files(keys, lambda key: bucket.get(f"lake/{key}")):
        some = orphaned_files[:3]
        yield f"orphans: {len(orphaned_files)} data files that no commit names: {some}"


if __name__ == "__main__":
    _serve()
