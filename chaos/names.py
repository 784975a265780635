"""Injection through names and through users' SQL: 0 get through.

A hostile text is put wherever names and values come from: files, headers, cells, source tables,
marts, feeds, rules, variables, partitions. It must either work as the text it is or be refused in
clear words; nothing of it is executed, nothing is written or read outside, and no terminal obeys.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from tests.support.hostile_files import row, text

import retailmart
from chaos import files
from chaos.files import Findings
from chaos.result import Result, Tell
from chaos.stores import ForkServer
from retailmart.errors import RetailmartError, SettingsError
from retailmart.project import load_project

# What a project's folder holds, secrets and databases' own files included.
_OWN = {
    "feeds", "tables", "marts", "landing", "archive", "lake", ".retailmart", ".schema", ".env",
    ".gitignore", "retail.db", "retail.db-wal", "retail.db-shm", "shop.db", "retailmart.yml",
}  # fmt: skip
_SECONDS = 120.0
AS_OF = datetime(2024, 4, 1, tzinfo=UTC)
KINDS = (
    "executed", "read outside", "written outside", "changed", "told to the terminal",
    "unclear", "crashes",
)  # fmt: skip

# By what they attack. None of them holds a NUL, which neither file names nor YAML can hold.
HOSTILE_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "quotes": ("'", '"', "`", "\\", "\\'", "#"),
    "SQL": (
        "';--", '"; DROP TABLE retailmart_files; --', "'); DROP TABLE customer; --",
        "`; DROP TABLE customer; --", "x' OR '1'='1", 'x" OR "1"="1', "/* x */", "-- x", "a;b",
    ),
    "words of SQL": ("select", "NULL", ":name", "?", "*", "a.b"),
    "lines": ("a\nb", "a\r\nb", "a\tb"),
    "terminals": ("\x1b[31mPWNED", "\x1b]0;PWNED\x07", "\x9b31mPWNED"),
    "markup": ("[red]PWNED[/red]", "[/]"),
    "paths": ("../../up", "..\\..\\up", "/abs", "%2e%2e%2fup"),
    "formats": ("a%41", "${HOME}", "{0}%s%n", "%(x)s", "a=b"),
    "shells": ("$(touch pwned)", "`touch pwned`", "--output", "=1+1", "&& id", "| id"),
    "texts": ("\u202eabc", "é", "a b", "x" * 300),
}  # fmt: skip
HOSTILE = tuple(text for texts in HOSTILE_BY_KIND.values() for text in texts)


@dataclass
class Trial(Findings):
    """What is found, and the process whose forks are the commands: to start one takes a second."""

    fork_server: ForkServer | None = None


def one_of_each_kind(seed: int) -> list[str]:
    """A hostile text of each kind."""
    chance = random.Random(seed)
    return [chance.choice(texts) for texts in HOSTILE_BY_KIND.values()]


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """Every place and every hostile text; `seed` and `size` change nothing."""
    del seed, size
    return [run_names(work / "names", HOSTILE, tell), run_sql(work / "sql", tell)]


def run_names(work: Path, hostile: Sequence[str], tell: Tell) -> Result:
    """Hostile texts as names and values."""
    start, tries = time.monotonic(), Counter[str]()
    work.mkdir(parents=True)
    with ForkServer(work.with_name(f"{work.name}_commands")) as fork_server:
        found = Trial(fork_server=fork_server)
        for place in PLACES:
            folder = work / place.__name__
            folder.mkdir(parents=True)
            (folder / "up").write_text("untouched")
            before = _outside(folder)
            try:
                tries[place.__name__.replace("_", " ")] += place(folder, hostile, found)
            except Exception as error:
                found.add("crashes", f"{place.__name__}: {type(error).__name__}: {error}")
            for path in _outside(folder) ^ before:
                found.add("written outside", f"{place.__name__}: {path}")
            if list(folder.rglob("pwned")) or Path("pwned").exists():
                found.add("executed", f"{place.__name__}: a file named pwned was made")
            tell(f"{place.__name__}: {tries.total()} tries, {found.faults.total()} faults")
    return _result("injection through names", tries, found, start)


def _outside(folder: Path) -> set[str]:
    """What lies beside the shop, logs of its commands apart."""
    names = {path.name for path in (*folder.iterdir(), *folder.parent.iterdir())}
    return {name for name in names if not name.startswith("shop")}


def _result(scenario: str, tries: Mapping[str, int], found: Findings, start: float) -> Result:
    faults = {kind: found.faults[kind] for kind in KINDS}
    seconds = time.monotonic() - start
    return Result(scenario, dict(tries), faults, "none", seconds, tuple(found.notes))


def new_shop(folder: Path, patterns: str = '["*"]') -> Path:
    """A small shop with one mart: names of files and columns reach the others in the same way."""
    files.new_shop(folder, patterns)
    for mart in (folder / "marts").glob("*.sql"):
        if mart.stem != "sales_mart":
            mart.unlink()
    return folder


# What is asked of every command


def _talk(shop: Path, found: Trial, *command: str, terminal: bool = False) -> str:
    """What a command says, into a file or to a terminal, too. Nothing may steer a terminal."""
    assert found.fork_server is not None
    child = found.fork_server.start("command", shop, arguments=command)
    child.wait(_SECONDS)
    said = child.said()
    label = " ".join(command)[:100]
    if "Traceback" in said:
        found.add("crashes", f"{label!r}: {said[-300:]}")
    _judge_talk(said, label, found)
    if terminal:
        _judge_talk(_on_terminal(shop, *command), f"{label} on a terminal", found)
    return said


# What Rich itself sends: colours, and a cursor that goes up, is hidden and shown again.
_RICH = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[lh]|\x1b\[1G")


def _judge_talk(said: str, label: str, found: Findings) -> None:
    if "\x1b[31mPWNED" in said or re.search(
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", _RICH.sub("", said)
    ):
        odd = re.search(
            r".{0,30}(\x1b\[31mPWNED|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]).{0,30}", said
        )
        found.add("told to the terminal", f"{label!r} sends {odd[0] if odd else said[:99]!r}")
    if "FORGED" in said and any(line.lstrip().startswith("FORGED") for line in said.splitlines()):
        found.add(
            "told to the terminal", f"{label!r}: a name's second line looks like a line of ours"
        )


def _on_terminal(shop: Path, *command: str) -> str:
    """What a command sends to a terminal, its progress included."""
    main, other = pty.openpty()
    full = [sys.executable, "-m", "retailmart", *command, "--project", str(shop)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(
        full, stdin=subprocess.DEVNULL, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    said = b""
    with suppress(OSError):  # the other side is closed: all was read
        while select.select([main], [], [], 120)[0] and (chunk := os.read(main, 1 << 16)):
            said += chunk
    os.close(main)
    process.wait()
    return said.decode(errors="replace").replace("\r\n", "\n")


def _run_or_refusal(shop: Path, found: Findings, label: str) -> RetailmartError | None:
    """A run in this process: None if it went well, else its error, which must be one of ours.

    A mart that is held back has an error of its own; the run goes on without it.
    """
    try:
        report = retailmart.open_project(shop).run(AS_OF)
    except RetailmartError as error:
        return error
    except Exception as error:
        found.add("crashes", f"{label}: {type(error).__name__}: {error}")
        return RetailmartError("crashed")
    held = [mart for batch in report.batches for mart in batch.held]
    return RetailmartError(held[0].message, held[0].hint) if held else None


def _settle_file(shop: Path, name: str, content: bytes) -> None:
    path = shop / "landing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1.7e9, 1.7e9))


def _alone(
    folder: Path,
    hostile: Sequence[str],
    found: Findings,
    label: str,
    tried: Callable[[Path, Sequence[str]], RetailmartError | None],
) -> None:
    """Try all texts in one shop; where that is refused, each in a shop of its own.

    A refusal must be told for the text alone, so that the others are known to have worked.
    """
    together = tried(new_shop(folder / "shop"), hostile)
    _judge_ledger(folder / "shop", found, label)
    if together is None:
        return
    for n, words in enumerate(hostile):
        shop = new_shop(folder / f"shop{n}")
        error = tried(shop, [words])
        if error is not None and not str(error).strip():
            found.add("unclear", f"{label} {words!r}: refused without a word")
        _judge_ledger(shop, found, f"{label} {words!r}")
        shutil.rmtree(shop)


def _judge_ledger(shop: Path, found: Findings, label: str) -> None:
    """The tables that a hostile text would drop are there, and nothing lies where it should not."""
    for path in shop.iterdir():
        if path.name not in _OWN:
            found.add("written outside", f"{label}: {path.name} in the project's folder")
    for database, table in (("retail.db", "retailmart_files"), ("shop.db", "customer")):
        with closing(sqlite3.connect(shop / database)) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        if table not in names:
            found.add("executed", f"{label}: {table} is gone")


# The places


def files_in_landing(folder: Path, hostile: Sequence[str], found: Trial) -> int:
    """Names of files, each with a refused row, and of files that are refused."""
    shop = new_shop(folder / "shop", '["*.csv"]')
    named = {}
    for n, words in enumerate((*hostile, "x\nFORGED line", "y\r\nFORGED line")):
        name = "n" + words.replace("/", "_")[:200] + ".csv"  # a first dot would hide it
        named[name] = text(row(f"name {n}"), row(f"name {n}", "x"))
        named[f"{name}.txt"] = f"refused {n}".encode()
    for name, content in named.items():
        _settle_file(shop, name, content)
    # A terminal's run is the first one here: what it tells of files scrolls by there.
    _judge_talk(_on_terminal(shop, "run", "--as-of", "2024-04-01"), "run on a terminal", found)
    for name, content in named.items():
        kept = [p for p in (shop / "archive").rglob("*") if p.name == name]
        if len(kept) != 1 or kept[0].read_bytes() != content:
            found.add("changed", f"the file {name!r} is not in the archive as it was")
    _judge_ledger(shop, found, "files")
    _talk(shop, found, "quarantine", "list", terminal=True)
    _talk(shop, found, "quarantine", "list", "--output", "json")
    for words in ("\x1b[31mPWNED", "o such\x1b[31mPWNED"):
        _talk(shop, found, "quarantine", "show", f"n{words}.csv")
    _talk(shop, found, "quarantine", "export", "--to", str(folder / "shop.sheet.csv"))
    _talk(shop, found, "status")
    with closing(sqlite3.connect(shop / "retail.db")) as ledger:
        statement = "SELECT count(*) FROM retailmart_files WHERE state = 'loaded' AND loaded = 1"
        [(loaded,)] = ledger.execute(statement).fetchall()
    if loaded * 2 != len(named):
        found.add("changed", f"{loaded} of {len(named) // 2} files are counted")
    return len(named)


def files_of_a_failed_run(folder: Path, hostile: Sequence[str], found: Trial) -> int:
    """Names of files in the errors of runs that fail: a `fail` rule tells the file."""
    shop = new_shop(folder / "shop", '["*.csv"]')
    feed = shop / "feeds" / "sales.yml"
    rule = "  - {name: none, check: price < 0, action: fail, message: too dear}\n"
    feed.write_text(feed.read_text().rstrip("\n") + f"\n{rule}")
    odd = [words for words in hostile if "\x1b" in words or "\x9b" in words]
    for n, words in enumerate((*odd, "x\nFORGED line")):
        name = words.replace("/", "_") + ".csv"
        _settle_file(shop, name, text(row(f"name {n}")))
        _talk(shop, found, "run", "--as-of", "2024-04-01", terminal=True)
        _talk(shop, found, "status")
        (shop / "landing" / name).unlink(missing_ok=True)
    return len(odd) + 1


def columns_in_headers(folder: Path, hostile: Sequence[str], found: Findings) -> int:
    """Names of further columns: they come back as keys of one JSON object."""
    shop = new_shop(folder / "shop")
    for n, words in enumerate(hostile):
        quoted = '"' + words.replace('"', '""') + '"'
        header = f"{text().decode().strip()},{quoted}"
        _settle_file(shop, f"{n:03}.csv", text(f"{row()},value {n}", header=header))
    error = _run_or_refusal(shop, found, "columns in headers")
    if error is not None:
        found.add("crashes", f"columns in headers: {error}")
        return len(hostile)
    mart = retailmart.open_project(shop).mart("sales_mart")
    cells = mart.project("additional_column").fetchall()
    got = Counter(tuple(json.loads(cell).items()) for (cell,) in cells)
    for n, words in enumerate(hostile):
        if got[(words.strip(), f"value {n}"),] != 1:
            found.add("changed", f"the further column {words!r} did not come back")
    _judge_ledger(shop, found, "columns in headers")
    return len(hostile)


def cells_in_files(folder: Path, hostile: Sequence[str], found: Trial) -> int:
    """Values, counted ones and refused ones, and what commands show of them."""
    shop = new_shop(folder / "shop")
    lines = ['"' + words.replace('"', '""') + '"' for words in hostile]
    content = text(*(row(x) for x in lines), *(row(x, "x") for x in lines))
    _settle_file(shop, "cells.csv", content)
    _talk(shop, found, "run", "--as-of", "2024-04-01")
    _talk(shop, found, "quarantine", "show", "cells.csv")
    _talk(shop, found, "quarantine", "show", "cells.csv", "--output", "json")
    refused = retailmart.open_project(shop).quarantine("sales")
    kept = [] if refused is None else [raw for (raw,) in refused.project("raw").fetchall()]
    for line in lines:
        if row(line, "x") not in kept:
            found.add("changed", f"the refused row of {line!r} is not kept as it was")
    return 2 * len(hostile)


def values_of_partitions(folder: Path, hostile: Sequence[str], found: Findings) -> int:
    """Values that name folders of a mart's table."""

    def tried(shop: Path, words: Sequence[str]) -> RetailmartError | None:
        _mart(shop, "by_product", "SELECT product_name, total_cost, _month FROM sales",
              "refresh: append", "partitions: [_month, product_name]")  # fmt: skip
        feed = shop / "feeds" / "sales.yml"
        feed.write_text(feed.read_text())
        lines = [row('"' + x.replace('"', '""') + '"') for x in words]
        _settle_file(shop, "p.csv", text(*lines))
        error = _run_or_refusal(shop, found, f"partitions {words[0]!r}")
        if error is None:
            mart = retailmart.open_project(shop).mart("by_product")
            got = Counter(x for (x,) in mart.project("product_name").fetchall())
            if got != Counter(words):
                odd = [*(got - Counter(words))][:2], [*(Counter(words) - got)][:2]
                found.add("changed", f"partition values {odd[0]} instead of {odd[1]}")
        return error

    _alone(folder, hostile, found, "a partition's value", tried)
    return len(hostile)


def columns_of_published_marts(folder: Path, hostile: Sequence[str], found: Findings) -> int:
    """Names of a mart's columns, its key among them, that become those of a database's table."""

    def tried(shop: Path, words: Sequence[str]) -> RetailmartError | None:
        listed = ", ".join(f"'{n}' AS {_quoted(x)}" for n, x in enumerate(words))
        key = json.dumps([words[0]])
        _mart(shop, "odd", f"SELECT {listed} FROM (SELECT count(*) FROM sales)",
              "refresh: full", f"key: {key}", "publish: true")  # fmt: skip
        _settle_file(shop, "p.csv", text(row("a")))
        error = _run_or_refusal(shop, found, f"columns {words[0]!r}")
        if error is None:
            with closing(sqlite3.connect(shop / "retail.db")) as database:
                cursor = database.execute("SELECT * FROM odd")
                names = [name for name, *_ in cursor.description]
                rows = cursor.fetchall()
            if names != list(words) or rows != [tuple(str(n) for n in range(len(words)))]:
                found.add("changed", f"published columns {names} instead of {list(words)}")
        return error

    _alone(folder, list(dict.fromkeys(hostile)), found, "a published column", tried)
    _mart(folder / "shop", "twice", "SELECT 1 AS a, 2 AS A FROM (SELECT count(*) FROM sales)",
          "refresh: full")  # fmt: skip
    _run_or_refusal(folder / "shop", found, "a column's name twice")
    return len(hostile) + 1


def columns_of_source_tables(folder: Path, hostile: Sequence[str], found: Findings) -> int:
    """Names of columns of the shop's own tables, and values in them."""

    def tried(shop: Path, words: Sequence[str]) -> RetailmartError | None:
        with closing(sqlite3.connect(shop / "shop.db")) as database, database:
            listed = ", ".join(f"{_quoted(x)} TEXT" for x in words)
            database.execute(f"CREATE TABLE odd (id INTEGER PRIMARY KEY, {listed})")
            marks = ", ".join("?" * len(words))
            database.execute(f"INSERT INTO odd VALUES (1, {marks})", tuple(words))
        _mart(shop, "mirror", "SELECT o.* FROM odd o", "refresh: full")
        _settle_file(shop, "p.csv", text(row("a")))
        error = _run_or_refusal(shop, found, f"source columns {words[0]!r}")
        if error is None:
            mart = retailmart.open_project(shop).mart("mirror")
            cells = mart.fetchall()
            if mart.columns != ["id", *words] or cells != [(1, *words)]:
                found.add("changed", f"source columns {mart.columns} hold {cells}")
        return error

    _alone(folder, hostile, found, "a source's column", tried)
    return len(hostile)


def names_of_source_tables(folder: Path, hostile: Sequence[str], found: Findings) -> int:
    """Names of the shop's own tables that a mart reads."""

    def tried(shop: Path, words: Sequence[str]) -> RetailmartError | None:
        with closing(sqlite3.connect(shop / "shop.db")) as database, database:
            for n, name in enumerate(words):
                database.execute(f"CREATE TABLE {_quoted(name)} (id INTEGER PRIMARY KEY)")
                database.execute(f"INSERT INTO {_quoted(name)} VALUES ({n})")
        union = " UNION ALL ".join(f"SELECT id FROM {_quoted(name)}" for name in words)
        _mart(shop, "ids", union, "refresh: full")
        _settle_file(shop, "p.csv", text(row("a")))
        error = _run_or_refusal(shop, found, f"source tables {words[0]!r}")
        if error is None:
            sales = retailmart.open_project(shop).mart("sales_mart").fetchall()
            if len(sales) != 1:
                found.add("changed", f"with source tables {list(words)} sales_mart holds {sales}")
            ids = sorted(n for (n,) in retailmart.open_project(shop).mart("ids").fetchall())
            if ids != list(range(len(words))):
                found.add("changed", f"source tables {list(words)} hold {ids}")
        return error

    others = ("../marts/sales_mart", "../raw/sales", "../../../up", f"{folder}/abs")
    _alone(folder, [*hostile, *others], found, "a source's table", tried)
    return len(hostile) + len(others)


def texts_of_rules_and_variables(folder: Path, hostile: Sequence[str], found: Trial) -> int:
    """Free texts of a feed and of settings: other names of columns, rules, values of variables."""
    shop = new_shop(folder / "shop")
    feed = shop / "feeds" / "sales.yml"
    document = yaml.safe_load(feed.read_text())
    odd = [words for words in hostile if words.strip()]
    document["columns"]["note"] = {"type": "STRING", "aliases": ["the note", *odd[:8]]}
    document["rules"] += [
        {"name": f"{n} {words}", "column": "note", "allowed": list(odd), "action": "warn",
         "message": words}
        for n, words in enumerate(odd)
    ]  # fmt: skip
    feed.write_text(yaml.safe_dump(document, allow_unicode=True))
    settings = yaml.safe_load((shop / "retailmart.yml").read_text())
    settings["variables"] = {f"v{n}": words for n, words in enumerate(odd)}
    (shop / "retailmart.yml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    defaults = "variables: {" + ", ".join(f"v{n}: ''" for n in range(len(odd))) + "}"
    listed = ", ".join(f"getvariable('v{n}') AS v{n}" for n in range(len(odd)))
    _mart(shop, "told", f"SELECT {listed} FROM (SELECT count(*) FROM sales)",
          "refresh: full", defaults)  # fmt: skip
    for n, words in enumerate(odd):
        quoted = '"' + words.replace('"', '""') + '"'
        header = text().decode().strip()
        _settle_file(
            shop, f"{n}.csv", text(f"{row(f'a{n}')},{quoted}", header=f"{header},the note")
        )
    wrong = text(f"{row('w')},none of these", header=f"{text().decode().strip()},The Note")
    _settle_file(shop, "wrong.csv", wrong)
    said = _talk(shop, found, "run", "--as-of", "2024-04-01")
    try:
        told = retailmart.open_project(shop).mart("told").fetchall()
    except RetailmartError:
        found.add("crashes", f"texts of rules and variables: {said[-500:]}")
        return 0
    if told != [tuple(odd)]:
        found.add("changed", f"variables are {told}")
    return 3 * len(odd)


def names_in_definitions(folder: Path, hostile: Sequence[str], found: Trial) -> int:
    """Names that the project's files give: a text that is no plain name is refused in words."""
    shop = new_shop(folder / "shop")
    tries = 0
    for words in hostile:
        for place, write in _DEFINITIONS.items():
            with _kept(shop):
                if not write(shop, words):
                    continue
                tries += 1
                try:
                    load_project(shop)
                except SettingsError as error:
                    if not error.problems or not all(error.problems):
                        found.add("unclear", f"{place} {words!r}: refused without a word")
                    if not words.isprintable():
                        _talk(shop, found, "check")
                except Exception as error:
                    found.add("crashes", f"{place} {words!r}: {type(error).__name__}: {error}")
                else:
                    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", words):
                        found.add("changed", f"{place} {words!r} is taken for a good name")
    return tries


class _kept:  # noqa: N801 (reads as what it is used for: `with _kept(shop)`)
    """A shop whose definitions are put back as they were."""

    def __init__(self, shop: Path) -> None:
        self.shop = shop
        self.before = {path: path.read_bytes() for path in self._files()}

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, *_: object) -> None:
        for path in self._files():
            if path not in self.before:
                path.unlink()
        for path, content in self.before.items():
            path.write_bytes(content)

    def _files(self) -> Iterator[Path]:
        yield self.shop / "retailmart.yml"
        for name in ("feeds", "tables", "marts"):
            yield from (path for path in (self.shop / name).rglob("*") if path.is_file())


def _in_feed(change: Callable[[dict[str, object], str], None]) -> Callable[[Path, str], bool]:
    def write(shop: Path, words: str) -> bool:
        path = shop / "feeds" / "sales.yml"
        document = yaml.safe_load(path.read_text())
        change(document, words)
        path.write_text(yaml.safe_dump(document, allow_unicode=True))
        return True

    return write


def _in_header(key: str, value: Callable[[str], object]) -> Callable[[Path, str], bool]:
    def write(shop: Path, words: str) -> bool:
        header = {"refresh": "full", "key": ["n"], "publish": False, key: value(words)}
        lines = yaml.safe_dump(header, allow_unicode=True, width=10_000).splitlines()
        content = "".join(f"-- {line}\n" for line in lines) + "SELECT 1 AS n\n"
        (shop / "marts" / "other.sql").write_text(content)
        return True

    return write


def _as_file(folder: str, ending: str) -> Callable[[Path, str], bool]:
    def write(shop: Path, words: str) -> bool:
        if "/" in words or len(words) > 200:
            return False
        model = next((shop / folder).glob(f"*{ending}"))
        (shop / folder / f"{words}{ending}").write_text(model.read_text())
        return True

    return write


def _column(document: dict[str, object], words: str) -> None:
    columns = document["columns"]
    assert isinstance(columns, dict)
    columns[words] = "STRING"


_DEFINITIONS: dict[str, Callable[[Path, str], bool]] = {
    "a feed's column": _in_feed(_column),
    "a feed's extra_columns": _in_feed(
        lambda document, words: document.update(extra_columns=words)
    ),
    "a feed's month": _in_feed(lambda document, words: document.update(month=words)),
    "a feed's balance": _in_feed(lambda document, words: document.update(balance=words)),
    "a published table": _in_header("publish", lambda words: words),
    "a mart's balance": _in_header("balance", lambda words: {words: "n"}),
    "a feed's file": _as_file("feeds", ".yml"),
    "a mart's file": _as_file("marts", ".sql"),
}
PLACES = (
    files_in_landing,
    files_of_a_failed_run,
    columns_in_headers,
    cells_in_files,
    values_of_partitions,
    columns_of_published_marts,
    columns_of_source_tables,
    names_of_source_tables,
    texts_of_rules_and_variables,
    names_in_definitions,
)


def _mart(shop: Path, name: str, query: str, *header: str) -> None:
    lines = "".join(f"-- {line}\n" for line in header)
    (shop / "marts" / f"{name}.sql").write_text(f"{lines}{query}\n")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# Users' SQL

TOKEN = "token-of-the-machine-4711"
_SELECTS = (
    "SELECT * FROM read_text('{secret}')", "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')", "SELECT * FROM read_csv_auto('{secret}')",
    "SELECT * FROM read_csv('{secret}', columns = {{'a': 'VARCHAR'}})",
    "SELECT * FROM read_json('{json}')", "SELECT * FROM read_json_auto('{json}')",
    "SELECT * FROM read_ndjson('{json}')", "SELECT * FROM read_json_objects('{json}')",
    "SELECT * FROM read_parquet('{parquet}')", "SELECT * FROM parquet_scan('{parquet}')",
    "SELECT * FROM parquet_metadata('{parquet}')", "SELECT * FROM parquet_schema('{parquet}')",
    "SELECT * FROM parquet_kv_metadata('{parquet}')", "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')", "SELECT * FROM glob('/etc/pass*')",
    "FROM '{secret}'", "FROM '{parquet}'", 'SELECT * FROM "{secret}"', 'SELECT * FROM "{parquet}"',
    "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM read_csv('/etc/passwd', sep = ':')",
    "SELECT * FROM read_text('/proc/self/environ')", "SELECT * FROM read_blob('/dev/stdin')",
    "SELECT * FROM read_text('file://{secret}')", "SELECT * FROM read_text('~/.ssh/id_rsa')",
    "SELECT * FROM read_text('{shop}/.env')", "SELECT * FROM read_text('.env')",
    "SELECT * FROM read_text('{shop}/retailmart.yml')", "SELECT * FROM read_text('{shop}/shop.db')",
    "SELECT * FROM read_blob('{shop}/retail.db')",
    "SELECT * FROM read_text('{shop}/.retailmart/../.env')",
    "SELECT * FROM read_text('{shop}/lake/../.env')",
    "SELECT * FROM read_text('{shop}/lake//../.env')",
    "SELECT * FROM read_text('{shop}/lake/./.././.env')",
    "SELECT * FROM read_text('{shop}/.retailmart/link.txt')",
    "SELECT * FROM read_text('{shop}/.retailmart/linked/secret.csv')",
    "SELECT * FROM read_text('{shop}/.retailmart/*/../../.env')",
    "SELECT * FROM read_text(['{shop}/.env'])", "SELECT * FROM read_text('{shop}/landing/*')",
    "SELECT * FROM read_csv('https://127.0.0.1:1/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM sqlite_scan('{shop}/shop.db', 'customer')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')", "SELECT * FROM query_table('{secret}')",
    "SELECT * FROM query_table(['{parquet}'])", "SELECT getenv('CHAOS_TOKEN') AS t",
    "SELECT * FROM duckdb_secrets()", "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{out}'}})",
    "SELECT * FROM pragma_import_database('{folder}')", "SELECT * FROM load_extension('httpfs')",
    "SELECT write_log('x', level := 'error') AS t", "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM environ", "SELECT * FROM environment", "SELECT * FROM self",
    "SELECT * FROM rows",
    "SELECT * FROM python_map_function()", "SELECT * FROM pandas_scan(1)",
)  # fmt: skip
_STATEMENTS = (
    "COPY (SELECT 1) TO '{out}'", "COPY sales TO '{out}'", "COPY sales FROM '{secret}'",
    "EXPORT DATABASE '{out}'", "IMPORT DATABASE '{folder}'", "ATTACH '{out}' AS x",
    "ATTACH '{shop}/retail.db' (TYPE sqlite)", "INSTALL httpfs", "LOAD httpfs", "LOAD '{out}'",
    "SET enable_external_access = true", "SET GLOBAL lock_configuration = false",
    "RESET enable_external_access", "PRAGMA enable_logging", "PRAGMA database_list",
    "PRAGMA import_database('{folder}')", "CALL enable_logging()", "CREATE TABLE x AS SELECT 1",
    "CREATE SECRET (TYPE s3)", "CREATE MACRO sum(x) AS 0", "DROP VIEW sales", "DELETE FROM sales",
    "UPDATE sales SET price = 0", "INSERT INTO sales SELECT * FROM sales", "VACUUM", "CHECKPOINT",
    "USE x", "BEGIN", "EXPLAIN ANALYZE SELECT 1", "DESCRIBE sales", "SHOW TABLES",
    "SUMMARIZE sales",
    "PREPARE x AS SELECT 1", "EXECUTE x",
)  # fmt: skip
_CHECKS = (
    "(SELECT count(*) FROM read_text('{secret}')) = 1",
    "EXISTS (FROM '{parquet}')",
    "EXISTS (SELECT * FROM read_csv('{secret}', columns = {{'a': 'VARCHAR'}}))",
    "true); COPY (SELECT 1) TO '{out}'; SELECT (true",
    "true)) FROM _added; COPY (SELECT 1) TO '{out}'; --",
    "true; COPY (SELECT 1) TO '{out}'",
    "true) OR (SELECT true FROM read_text('{secret}')) OR (true",
    "length(getenv('CHAOS_TOKEN')) = 25",
    "price IN (SELECT length(content) FROM read_text('{shop}/.env'))",
    "true) FROM query('COPY (SELECT 1) TO ''{out}''') --",
)


def run_sql(
    work: Path, tell: Tell, *, every: int = 1, first: int = 0, outside: str = "outside"
) -> Result:
    """Marts and rules that try to read and write what is not theirs; every nth of them.

    `outside` is where that lies, below `work`; where SQL may go, all that is tried is found.
    """
    start, found = time.monotonic(), Findings()
    tries: Counter[str] = Counter()
    work.mkdir(parents=True)
    shop = new_shop(work / "shop")
    places = _secrets(work, outside)
    os.environ["CHAOS_TOKEN"] = TOKEN
    try:
        _hide_in(shop, places)
        _settle_file(shop, "a.csv", text(row("a")))
        if (error := _run_or_refusal(shop, found, "the shop itself")) is not None:
            found.add("crashes", f"the shop itself does not run: {error}")
        _mart(shop, "evil", "SELECT 1 AS n", "refresh: full")
        if (error := _run_or_refusal(shop, found, "a harmless mart")) is not None:
            found.add("crashes", f"a harmless mart does not run: {error}")
        queries = [q.format(**places) for q in _SELECTS]
        queries += [q.format(**places) for q in _STATEMENTS]
        queries += [f"SELECT 1 AS n; {q.format(**places)}" for q in _STATEMENTS[:6]]
        queries += [f"WITH x AS ({q.format(**places)}) SELECT * FROM x" for q in _STATEMENTS[:6]]
        for n, query in enumerate(queries[first::every]):
            _mart(shop, "evil", query, "refresh: full", f"about: number {n}")
            tries["marts"] += 1
            _judge_sql(shop, places, found, query)
        (shop / "marts" / "evil.sql").unlink()
        tell(f"{tries.total()} marts, {found.faults.total()} faults")
        for query in queries[first::every]:
            tries["queries of the engine"] += 1
            _judge_engine(shop, places, found, query)
        tell(f"{tries.total()} marts and queries, {found.faults.total()} faults")
        feed = shop / "feeds" / "sales.yml"
        good = yaml.safe_load(feed.read_text())
        feed.write_text(yaml.safe_dump({**good, "rules": [_rule("price > 0", "fail")]}))
        _settle_file(shop, "control.csv", text(row("control", "7.00")))
        if (error := _run_or_refusal(shop, found, "a harmless rule")) is not None:
            found.add("crashes", f"a harmless rule does not run: {error}")
        for n, check in enumerate(_CHECKS[first::every]):
            for action in ("fail", "quarantine"):
                rule = _rule(check.format(**places), action)
                feed.write_text(yaml.safe_dump({**good, "rules": [rule]}))
                _settle_file(shop, f"{n}{action}.csv", text(row(f"{action}{n}", "7.00")))
                tries["rules"] += 1
                _judge_rule(shop, places, found, rule["check"])
        tell(f"{tries.total()} marts and rules, {found.faults.total()} faults")
    finally:
        del os.environ["CHAOS_TOKEN"]
    return _result("injection through SQL", tries, found, start)


def _secrets(work: Path, outside: str) -> dict[str, str]:
    """What must not be read, and where nothing must be written."""
    from pyarrow import parquet, table

    folder = work / outside
    folder.mkdir(parents=True)
    places = {"secret": f"{folder}/secret.csv", "json": f"{folder}/secret.json",
              "parquet": f"{folder}/secret.parquet", "out": f"{folder}/out.csv",
              "folder": str(folder), "shop": f"{work}/shop"}  # fmt: skip
    Path(places["secret"]).write_text(f"a\n{TOKEN}\n")
    Path(places["json"]).write_text(json.dumps({"a": TOKEN}))
    parquet.write_table(table({"a": [TOKEN]}), places["parquet"])
    return places


def _rule(check: str, action: str) -> dict[str, str]:
    return {"name": "evil", "check": check, "action": action}


def _hide_in(shop: Path, places: Mapping[str, str]) -> None:
    """The same secret within the project: `.env`, and links out of the folders SQL may read."""
    (shop / ".env").write_text(f"SOME_TOKEN={TOKEN}\n")
    private = shop / ".retailmart"
    private.mkdir(exist_ok=True)
    (private / "link.txt").symlink_to(places["secret"])
    (private / "linked").symlink_to(places["folder"])


def _judge_sql(shop: Path, places: Mapping[str, str], found: Findings, query: str) -> None:
    error = _run_or_refusal(shop, found, query)
    said = str(error)
    if error is None:
        with suppress(RetailmartError):
            said = str(retailmart.open_project(shop).mart("evil").fetchall())
    if TOKEN in said or "root:x:0:0" in said:
        found.add("read outside", f"{query}: {said[:200]}")
    elif error is None and _touches(query):
        found.add("executed", f"{query}: went through and gave {said[:200]}")
    if error is not None and not said.strip():
        found.add("unclear", f"{query}: refused without a word")
    _judge_outside(places, found, query)


def _judge_engine(shop: Path, places: Mapping[str, str], found: Findings, query: str) -> None:
    """The engine's own fence, where what reads marts lets something by."""
    from retailmart.engines.duckdb import DuckDBEngine
    from retailmart.lake.places import LocalPlace

    engine = DuckDBEngine([LocalPlace(shop / ".retailmart" / "lake")], shop / ".retailmart")
    try:
        said = str(engine.rows(query))
    except RetailmartError as error:
        said = str(error)
    except Exception as error:
        # SQL can break a connection, as a transaction of its own does: nothing outside is harmed.
        said = f"{type(error).__name__}: {error}"
    finally:
        engine.close()
    if TOKEN in said or "root:x:0:0" in said:
        found.add("read outside", f"the engine, {query}: {said[:200]}")
    _judge_outside(places, found, f"the engine, {query}")


def _judge_rule(shop: Path, places: Mapping[str, str], found: Findings, check: str) -> None:
    error = _run_or_refusal(shop, found, check)
    if error is None:
        found.add("executed", f"the rule {check} went through")
    elif TOKEN in str(error):
        found.add("read outside", f"the rule {check}: {error}")
    _judge_outside(places, found, check)


def _touches(query: str) -> bool:
    """Whether a query that went well has done what it must not; reading settings is no harm."""
    return not any(
        harmless in query for harmless in ("duckdb_secrets", "which_secret", "write_log")
    )


def _judge_outside(places: Mapping[str, str], found: Findings, words: str) -> None:
    out = Path(places["out"])
    if len(list(out.parent.iterdir())) != 3:
        found.add("written outside", words)
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
    if Path(places["secret"]).read_text() != f"a\n{TOKEN}\n":
        found.add("written outside", f"{words}: {places['secret']} was changed")
