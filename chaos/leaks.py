"""Secrets: a canary appears nowhere.

Passwords that occur nowhere else are given in every way there is: in the environment, in files, in
the encrypted store, in URLs. Commands go well, fail in every known way and are killed; then all
they said and left is searched, as it is, unpacked and decoded: output, ledger, lake, bucket,
archive, temporary files, the command lines of all processes, and what Python shows of our values.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.support.backends import shop_tables
from tests.support.hostile_files import row, text
from tests.support.services.mariadb import MariaDB

from chaos.files import Findings
from chaos.result import Result, Tell
from retailmart.template import write_project

if TYPE_CHECKING:
    from tests.support.services.mariadb import Database
    from tests.support.services.s3 import S3Bucket

KINDS = ("output", "files", "database", "bucket", "process list", "repr", "tracebacks", "crashes")
_SECONDS = 90
# Of what stands for it in base64, so many characters do not hang on what surrounds the secret.
_EDGE = 4


# Searching


@dataclass(frozen=True)
class Canary:
    """A secret: `core` is the part of it that no encoding of URLs, JSON or Python changes."""

    role: str
    core: str

    @property
    def value(self) -> str:
        """The secret itself, with all that is taken amiss in URLs, YAML, shells and SQL."""
        return f"p@:/%41#?&='\"$ {self.core}"

    @property
    def plain(self) -> str:
        """One for where only letters and digits can stand."""
        return self.core

    def forms(self) -> Iterator[bytes]:
        """What would betray it."""
        for word in (self.core, self.core.lower(), self.core.upper(), self.core[::-1]):
            yield word.encode()
            yield word.encode("utf-16-le")
        yield self.core.encode().hex().encode()
        for shift in range(3):  # base64 of what holds it, wherever it begins
            coded = b64encode(b"\0" * shift + self.core.encode()).rstrip(b"=")
            yield coded[_EDGE * (shift > 0) : -_EDGE]


class Finder:
    """Looks for canaries, in bytes, what they pack, and what they hold as Parquet."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._roles = {form: canary.role for canary in canaries for form in canary.forms()}
        self._pattern = re.compile(b"|".join(map(re.escape, self._roles)))
        self.searched: Counter[str] = Counter()

    def find(self, content: bytes, kind: str) -> set[str]:
        """The roles of the canaries in it."""
        self.searched[kind] += 1
        found = {self._roles[form] for form in self._pattern.findall(content)}
        for unpacked in _unpacked(content):
            found |= self.find(unpacked, kind)
        return found

    def in_folder(self, folder: Path, found: Findings, label: str) -> None:
        """Search every file below a folder, and its names."""
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            name = path.relative_to(folder).as_posix()
            for role in self.find(content, "files") | self.find(name.encode(), "files"):
                found.add("files", f"{label}: {name} holds {role}")

    def in_values(self, values: Iterable[object], kind: str) -> set[str]:
        """Search the cells of a table."""
        found: set[str] = set()
        for value in values:
            content = value if isinstance(value, bytes) else str(value).encode()
            found |= self.find(content, kind)
        return found


def _unpacked(content: bytes) -> Iterator[bytes]:
    if content.startswith(b"\x1f\x8b"):
        with suppress(OSError, EOFError, zlib.error):
            yield gzip.decompress(content)
    elif content[:1] == b"\x78":
        with suppress(zlib.error):
            yield zlib.decompress(content)
    elif content.startswith(b"PAR1"):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(io.BytesIO(content)) as file:
            table = file.read()
            yield repr((file.metadata.metadata, table.schema)).encode()
            yield "\n".join(map(str, table.to_pylist())).encode()


class ProcessWatch:
    """Looks at the command lines of all processes, again and again, while it is open."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._known: dict[Path, bytes] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.looks = 0

    @property
    def seen(self) -> set[str]:
        """The roles of canaries that a command line held since this was asked last."""
        with self._lock:
            seen, self._seen = self._seen, set()
        return seen

    def look(self) -> None:
        """Look once."""
        with self._lock:
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # the process has ended
                    content = path.read_bytes()
                    if self._known.get(path) != content:  # a new process, or another program in it
                        self._known[path] = content
                        self._seen |= self._finder.find(content, "command lines")

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.look()


# What is tried


@dataclass(frozen=True)
class Step:
    """A command in a situation.

    `fails` is None where both ends are right; `typed` tells that its caller gives the secret away.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    fails: bool | None = True
    typed: bool = False
    signal: int = 0
    after: float = 0.0
    program: str = ""


@dataclass
class World:
    """A shop on MySQL and S3 all of whose passwords are canaries."""

    folder: Path
    canaries: Mapping[str, Canary]
    database: Database
    shop: Database
    bucket: S3Bucket
    home: Path
    denied: str
    closed: int
    other_ca: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def environment(self) -> dict[str, str]:
        """What the commands see; nothing of this process's own secrets or proxies."""
        inherited = {
            key: os.environ[key] for key in ("PATH", "LANG", "PYTHONPATH") if key in os.environ
        }
        return {
            **inherited,
            **self.bucket.server.environment,
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONFAULTHANDLER": "1",
            "RUST_BACKTRACE": "full",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "SHOP_PASSWORD": self.shop.password,
            "RETAILMART_KEY": self.canaries["key"].value,
        }

    def settings(self) -> dict[str, str]:
        bucket = self.bucket.name
        return {
            "landing": f"s3://{bucket}/in",
            "lake": f"s3://{bucket}/lake",
            "archive": f"s3://{bucket}/archive",
            "database": self.url(self.database, "${secret:db}"),
            "sources": "{shop: '" + self.url(self.shop, "${SHOP_PASSWORD}") + "'}",
            "s3": "{endpoint: '" + self.bucket.server.endpoint + "'}",
        }

    @staticmethod
    def url(
        database: Database, password: str, port: int = 0, name: str = "", query: str = ""
    ) -> str:
        place = f"{database.host}:{port or database.port}/{name or database.name}{query}"
        return f"mysql://{database.user}:{password}@{place}"

    def write_settings(self, changed: Mapping[str, str]) -> None:
        lines = (f"{key}: {value}\n" for key, value in {**self.settings(), **changed}.items())
        (self.project / "retailmart.yml").write_text("".join(lines))


def steps(world: World, chance: random.Random) -> list[Step]:
    """All that is tried, in order: first what must go well, then what fails."""
    good = _good_steps(world)
    return [*good, *_bad_steps(world, chance), *_last_steps()]


def _good_steps(world: World) -> list[Step]:
    def ok(name: str, *arguments: str, **more: Any) -> Step:
        return Step(name, arguments, fails=False, **more)

    stored = world.canaries["database"].value
    return [
        ok("a secret is stored", "secrets", "set", "db", stdin=stored),
        ok("another is stored", "secrets", "set", "unused", stdin=world.canaries["stored"].value),
        ok("secrets are listed", "secrets", "list"),
        ok("secrets are listed as JSON", "secrets", "list", "--output", "json"),
        ok("check", "check"),
        ok("run", "run", "--as-of", "2024-04-01"),
        # What has landed for it may be refused as a whole.
        Step("run again, as JSON", ("run", "--output", "json"), fails=None),
        ok("status", "status"),
        ok("status as JSON", "status", "--output", "json"),
        ok("doctor", "doctor"),
        ok("quarantine list", "quarantine", "list", "--output", "json"),
        ok("quarantine show", "quarantine", "show", "sales_1.csv"),
        ok("export", "quarantine", "export", "--to", str(world.folder / "sheet.csv")),
        ok("undo", "undo", "1", "--output", "json"),
    ]


def _bad_steps(world: World, chance: random.Random) -> Iterator[Step]:
    wrong, key = world.canaries["wrong"], world.canaries["key"]
    database, shop = world.database, world.shop
    yield Step("wrong password of a source", ("run",), {"SHOP_PASSWORD": wrong.value})
    at = f"{database.host}:{database.port}"

    def stored(**more: Any) -> str:
        return world.url(database, "${secret:db}", **more)

    for name, url in {
        "wrong password": world.url(database, "${WRONG}"),
        "unreachable": stored(port=world.closed),
        "unknown host": stored().replace(f"@{database.host}", "@no.such.host.invalid"),
        "unknown database": stored(name="no_such_database"),
        "refused TLS": stored(query=f"?ssl_ca={world.other_ca}"),
        "no certificate": stored(query="?ssl_ca=no.pem"),
        "unknown parameter": stored(query="?no_such=1"),
        "a password in a parameter": stored(query="?passwd=${WRONG}"),
        "a secret for a user": f"mysql://${{secret:db}}@{at}/{database.name}",
        "a secret for a host": "mysql://root@${secret:db}/x",
        "a secret for a database": f"mysql://{database.user}@{at}/${{secret:db}}",
        "a secret for all of it": "${secret:db}",
        "no such secret": world.url(database, "${secret:nothing}"),
    }.items():
        for command in ("run", "doctor", "status", "check"):
            if command == "run" or name in ("wrong password", "unreachable", "a secret for a host"):
                yield Step(f"{name}, {command}", (command,), {"WRONG": wrong.value},
                           {"database": url},
                           fails=None if command == "check" else True)  # fmt: skip
    for number, url in enumerate(_odd_urls(wrong)):
        yield Step(f"odd URL {number}", ("run",), {"RETAILMART__DATABASE": url})
        yield Step(f"odd URL {number} of a source", ("check",),
                   {"RETAILMART__SOURCES__SHOP": url}, fails=None)  # fmt: skip
        yield Step(f"odd URL {number} in the file", ("run",),
                   settings={"database": json.dumps(url)})  # fmt: skip
        yield Step(f"odd URL {number} as a flag", ("run", "--set", f"database={url}"), typed=True)
    for place in ("landing", "lake", "archive"):
        yield Step(f"a secret in {place}", ("run",), {"WRONG_PASSWORD": wrong.value},
                   {place: "s3://${WRONG_PASSWORD}/x"})  # fmt: skip
        yield Step(
            f"keys in {place}", ("run",), settings={place: f"s3://me:{wrong.plain}@bucket/x"}
        )
    yield Step("S3 denies", ("run",), settings={"s3": f"{{endpoint: '{world.denied}'}}"})
    yield Step("S3 denies, doctor", ("doctor",), settings={"s3": f"{{endpoint: '{world.denied}'}}"})
    yield Step("a user in the endpoint", ("run",),
               settings={"s3": f"{{endpoint: 'http://u:{wrong.plain}@127.0.0.1:1'}}"})  # fmt: skip
    yield Step("no bucket", ("run",), settings={"landing": "s3://no-such-bucket/x"})
    odd = {"AWS_SECRET_ACCESS_KEY": f"\n{wrong.value}\t"}
    yield Step("an S3 secret of two lines", ("run",), odd, fails=None)
    yield Step("wrong key of the store", ("run",), {"RETAILMART_KEY": wrong.value})
    yield Step(
        "wrong key, set",
        ("secrets", "set", "db"),
        {"RETAILMART_KEY": wrong.value},
        stdin=wrong.value,
    )
    yield Step("key too short", ("run",), {"RETAILMART_KEY": wrong.plain[:9]})
    yield Step("no key", ("run",), {"RETAILMART_KEY": ""})
    for variable in ("RETAILMART_KEY", "MYSQL_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        yield Step(f"{variable}_FILE holds the secret itself", ("run",),
                   {variable: "", f"{variable}_FILE": key.value},
                   {"database": "mysql://"} if variable == "MYSQL_PASSWORD" else {})  # fmt: skip
    yield Step("a value on the command line", ("secrets", "set", "db", wrong.value), typed=True)
    yield Step("a value for a name", ("secrets", "set", f"db={wrong.value}"), typed=True)
    yield Step("an unknown name", ("secrets", "rm", wrong.value), typed=True)
    yield Step(
        "a value with a NUL", ("secrets", "set", "db2"), stdin=f"{wrong.value}\0", fails=False
    )
    yield Step("a setting that is none", ("run",), {"RETAILMART__DATABSE": wrong.value})
    yield Step("a value of a wrong type", ("run",), {"RETAILMART__DATABASE": f"[{wrong.plain}]"})
    yield Step(
        "a list for a URL", ("run",), settings={"database": f"['mysql://u:{wrong.plain}@h/d']"}
    )
    yield Step("broken YAML", ("run",), settings={"database": f"'mysql://u:{wrong.plain}@h/d"})
    yield Step("a bug of ours", ("run",), program=_BUG)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGSEGV):
        for _ in range(3):
            after = chance.uniform(0.3, 1.8)
            name = f"{signal.Signals(number).name} after {after:.1f} s"
            yield Step(name, ("run",), signal=number, after=after, fails=None)
    yield Step("a connection that breaks off", ("run",), {"SHOP_PASSWORD": shop.password},
               program=_KILLED_CONNECTION)  # fmt: skip


def _last_steps() -> list[Step]:
    return [
        Step("run again", ("run", "--as-of", "2024-04-02", "--output", "json"), fails=False),
        Step("a secret is removed", ("secrets", "rm", "unused"), fails=False),
    ]


# What no test of ours foresees: an error that is none of the product's, deep in a run.
_BUG = (
    "import retailmart.operations.run as p\n"
    "def broken(*_): raise ValueError('a bug')\n"
    "p.classify = broken\n"
)
_KILLED_CONNECTION = (
    "import pymysql.connections as c\n"
    "real = c.Connection.query\n"
    "def query(self, sql, *more):\n"
    "    if 'retailmart_batches' in str(sql): raise c.err.OperationalError(2013, '')\n"
    "    return real(self, sql, *more)\n"
    "c.Connection.query = query\n"
    "import retailmart.operations.run as p\n"
    "p._PAUSES = ()\n"
)


def _odd_urls(canary: Canary) -> list[str]:
    word = canary.plain
    value, encoded = canary.value, quote(canary.value, safe="")
    return [
        f"mysql://u:{word}@@127.0.0.1:1/db", f"mysql://u:{word}@127.0.0.1:99999/db",
        f"mysql://u:{word}@127.0.0.1:port/db", f"mysql:/u:{word}@h/db", f"mysql//u:{word}@h/db",
        f"u:{word}@h/db", f"postgresql://u:{word}@h/db", f"mysql+nosuch://u:{word}@h/db",
        f"mysql://u:{word}", f"mysql://u:{word}@", f"mysql://u:{word}@[::1/db",
        f"mysql://u:{value}@h/db",
        f"mysql://u:{encoded}@127.0.0.1:1/db", f"mysql://u@h/db?password={word}",
        f"mysql://u@127.0.0.1:1/db?passwd={word}&x=1", f"mysql://u:{word}@h/db?unknown=1",
        f"mysql://{word}@127.0.0.1:1/db", f"mysql://:{word}@127.0.0.1:1/db",
        f"sqlite:////dev/null/x.db?key={word}",
        f"mysql://u:{word} @h/db", f"mysql://u:{word}\t@127.0.0.1:1/db",
        f"mysql://u:${{secret:{word} x}}@h/db", f"mysql://u:{word}@127.0.0.1:1/",
        f"//u:{word}@h/db",
        f"mysql://u:{word}@h@127.0.0.1:1/db", f"jdbc:mysql://u:{word}@h/db", f"mysql://u;{word}@h/db",
        f"MYSQL://u:{word}@127.0.0.1:1/db", f"mysql://u:a:{word}@127.0.0.1:1/db",
    ]  # fmt: skip


# The scenario

# Others need what these leave: the stored secrets, and tables with rows.
_NEEDED = ("a secret is stored", "another is stored", "run")


def run(
    seed: int,
    size: int,
    work: Path,
    tell: Tell,
    server: MariaDB | None = None,
    good: int | None = None,
) -> Result:
    """Try `size` of the failures and `good` of what must go well, None: all; search everything."""
    start, found, chance = time.monotonic(), Findings(), random.Random(seed)
    tries: Counter[str] = Counter()
    with ExitStack() as stack:
        if server is None:
            server = MariaDB(work / "mariadb")
            stack.callback(server.close)
            server.start()
        world = stack.enter_context(_world(work, chance, server))
        finder = Finder(world.canaries.values())
        every = steps(world, chance)
        tries["known"] = len({step.name for step in every})
        failures = [step for step in every if step.fails is not False]
        free = [step for step in every if step.fails is False and step.name not in _NEEDED]
        chosen = {id(step) for step in every if step.name in _NEEDED}
        for steps_of, count in ((failures, size), (free, len(free) if good is None else good)):
            chosen |= set(map(id, chance.sample(steps_of, min(count, len(steps_of)))))
        with ProcessWatch(finder) as watch:
            for step in every:
                if id(step) in chosen:
                    _try(world, step, finder, watch, found)
                    tries["commands"] += 1
                    if tries["commands"] % 20 == 0:
                        tell(f"{tries['commands']} commands, {found.faults.total()} faults")
        _search_all(world, finder, found)
        _search_values(world, finder, found)
    tries |= {f"{kind} searched": number for kind, number in finder.searched.items()}
    seconds = time.monotonic() - start
    faults = {kind: found.faults[kind] for kind in KINDS}
    return Result("secrets", dict(tries), faults, str(seed), seconds, tuple(found.notes))


def _try(world: World, step: Step, finder: Finder, watch: ProcessWatch, found: Findings) -> None:
    world.write_settings(step.settings)
    world.bucket.put(f"in/sales_{step.name}.csv", text(row(step.name), row(step.name, "x")))
    environment = {**world.environment(), **step.environment}
    program = f"{step.program}from retailmart.cli import main\nmain()\n"
    command = [sys.executable, "-c", program, *step.arguments, "--project", str(world.project)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in environment.items() if value},
        cwd=world.home,
    )
    killer = threading.Timer(step.after, process.send_signal, (step.signal,))
    if step.signal:
        killer.start()
    try:
        out, err = process.communicate(step.stdin.encode(), timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        found.add("crashes", f"{step.name}: no end after {_SECONDS} s")
    killer.cancel()
    for role in finder.find(out, "output") | finder.find(err, "output"):
        told = next((x for x in (out + err).splitlines() if finder.find(x, "output")), b"")
        found.add("output", f"{step.name}: tells {role}: {told.decode(errors='replace')[:300]}")
    seen = watch.seen
    for role in seen if not step.typed else ():
        found.add("process list", f"{step.name}: shows {role}")
    is_bug = bool(step.program) or bool(step.signal)
    if b"Traceback" in err and not is_bug:
        words = err.decode(errors="replace").splitlines()[-1]
        found.add("tracebacks", f"{step.name}: {words[:300]}")
    if not step.signal and step.fails not in (None, process.returncode != 0):
        words = err.decode(errors="replace")[-300:]
        found.add("crashes", f"{step.name}: exit code {process.returncode}: {words}")


def _search_all(world: World, finder: Finder, found: Findings) -> None:
    """Everything the commands have left."""
    # The last settings hold no secret: those of a step that writes one are its user's own doing.
    world.write_settings({})
    finder.in_folder(world.project, found, "the project")
    finder.in_folder(world.home, found, "home and temporary files")
    for name, cells in _dump(world.database):
        for role in finder.in_values(cells, "cells of the ledger's database"):
            found.add("database", f"{name} holds {role}")
    for key in world.bucket.keys():  # noqa: SIM118, a bucket is no mapping
        content = world.bucket.get(key)
        for role in finder.find(content, "objects") | finder.find(key.encode(), "objects"):
            found.add("bucket", f"{key} holds {role}")


def _dump(database: Database) -> Iterator[tuple[str, list[object]]]:
    names = [str(name) for (name,) in database.query("SHOW TABLES")]
    for name in names:
        quoted = "`" + name.replace("`", "``") + "`"
        yield name, [cell for line in database.query(f"SELECT * FROM {quoted}") for cell in line]
        yield (
            name,
            [cell for line in database.query(f"SHOW CREATE TABLE {quoted}") for cell in line],
        )


def _search_values(world: World, finder: Finder, found: Findings) -> None:
    """What Python shows of our values, in a process that has connected with them."""
    done = subprocess.run(
        [sys.executable, "-c", _SHOW, str(world.project)],
        env=world.environment(),
        capture_output=True,
        check=False,
    )
    for role in finder.find(done.stdout, "repr"):
        told = next(x for x in done.stdout.splitlines() if finder.find(x, "repr"))
        found.add("repr", f"shows {role}: {told.decode(errors='replace')[:300]}")
    if done.returncode or done.stdout.count(b"\n") < _VALUES:
        found.add("crashes", f"values cannot be shown: {done.stderr.decode()[-300:]}")


_VALUES = 15
_SHOW = """
import copy, json, sys, traceback
import retailmart
from retailmart.session import Session
from retailmart.report import Silent
from pathlib import Path
opened = retailmart.open_project(Path(sys.argv[1]))
project = opened.project
with Session.open(project, Silent()) as session, opened.ledger() as ledger:
    ledger.runs.last(1)
    values = [opened, project, project.settings, project.environment, project.secrets(), session,
              session.ledger, ledger.engine, ledger.engine.url, ledger.engine.pool, session.lake,
              session.lake.place, session.landing, session.archive, project.source]
    for value in values:
        for shown in (repr(value), str(value), f"{value}"):
            print(shown.replace(chr(10), " "))
    print(json.dumps(project.settings.model_dump(), default=str))
    print(json.dumps(type(project.settings).model_json_schema()))
    try:
        ledger.engine.connect().exec_driver_sql("SELECT * FROM no_such_table")
    except Exception:
        print(traceback.format_exc().replace(chr(10), " "))
"""


@contextmanager
def _world(work: Path, chance: random.Random, mariadb: MariaDB) -> Iterator[World]:
    from tests.support.services.mariadb import make_certificates
    from tests.support.services.s3 import S3Server

    canaries = {role: _canary(role, chance) for role in _ROLES}
    for name in ("s3", "home/tmp"):
        (work / name).mkdir(parents=True)
    s3 = S3Server(work / "s3")
    s3.secret_key = canaries["S3"].value
    denying = ThreadingHTTPServer(("127.0.0.1", 0), _Denying)
    threading.Thread(target=denying.serve_forever, daemon=True).start()
    try:
        s3.start()
        database = mariadb.database(password=canaries["database"].value)
        shop = mariadb.database(password=canaries["shop"].value)
        shop.execute(*shop_tables())
        world = World(
            work, canaries, database, shop, s3.look(s3.bucket()), work / "home",
            f"http://127.0.0.1:{denying.server_port}", _closed_port(),
            make_certificates(work / "other").ca,
        )  # fmt: skip
        write_project(world.project, sample=False)
        world.write_settings({})
        world.bucket.put("in/sales_1.csv", text(row("first"), row("refused", "x")))
        yield world
        database.drop()
        shop.drop()
    finally:
        denying.shutdown()
        denying.server_close()
        s3.close()


_ROLES = ("database", "shop", "S3", "stored", "key", "wrong")


def _canary(role: str, chance: random.Random) -> Canary:
    letters = "bcdfghjkmnpqrstvwxzBCDFGHJKMNPQRSTVWXZ"
    return Canary(role, "".join(chance.choice(letters) for _ in range(20)))


class _Denying(BaseHTTPRequestHandler):
    """An S3 that denies everything, and repeats what it was told."""

    def do_GET(self) -> None:
        told = self.headers.get("Authorization", "")
        body = f"<Error><Code>AccessDenied</Code><Message>{told}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815, the server asks for these names

    def log_message(self, *_: object) -> None:
        """Nobody listens."""


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
