"""Hostile files: no crash, no silent change, bounded memory.

Files made by hand, and files made from good ones by seeded damage, are run through the command
line in a process whose memory is measured. A strict reader of the tests' own and `decimal` judge
each of them: its records = loaded + quarantined, the loaded rows are exactly the good ones, the raw
text of the others is kept, and the bytes of every file lie in the archive.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.backends import LocalBackend, shop_tables
from tests.support.hostile_files import (
    COLUMNS,
    MEGABYTE,
    NAMES,
    REFUSED,
    TAKEN,
    Judgement,
    row,
    text,
    typed_row,
)
from tests.support.shop import HEADER, keep_only
from tests.support.strict_csv import strict_records

from chaos.result import Result, Tell
from retailmart.template import write_project

if TYPE_CHECKING:
    from tests.support.services.s3 import S3Server

AT_ONCE = 1_000
ORIGIN = "_origin"
# Resident memory of a run's process over that of a run of one small file.
BOUND = 512 * MEGABYTE
# What the engine may take of it: without a limit it takes most of the machine's.
_ENGINE = "256MB"
_SHOWN = 5
_LONGEST_NOTE = 1_500
# Of a record's raw text so much is kept as it was; only the outline of what follows it is.
_KEPT = 2 * MEGABYTE
# Excel's own line before the header.
_SEP = re.compile('"?sep=(.)"?(?=[\r\n]|$)', re.IGNORECASE)
MAGIC = (
    b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0", b"%PDF", b"\x1f\x8b", b"PAR1",
    b"SQLite format 3",
)  # fmt: skip


# What a file must become


@dataclass(frozen=True)
class Expected:
    """What must come of a file: `refused`, or its good and bad records."""

    refused: bool
    records: Judgement = field(default_factory=Judgement)


def judge(name: str, delivered: bytes) -> Expected:
    """Read a delivered file with Python's own means, as the sales feed asks."""
    content = delivered
    if name.lower().endswith(".gz"):
        try:
            content = gzip.decompress(delivered)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return Expected(refused=True)
    utf16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if not content or content.startswith((*MAGIC, *utf16)):
        return Expected(refused=True)
    text_of_it = content.decode("utf-8-sig", "surrogateescape")
    delimiter = ","
    if told := _SEP.match(text_of_it):
        # The line stays, as a blank one, for the numbers of those behind it.
        delimiter, text_of_it = told[1], text_of_it[len(told[0]) :]
    judged = Judgement()
    header: list[str] | None = None
    for record in strict_records(text_of_it, delimiter):
        cells, raw = record.cells, record.raw
        if header is None:
            header = _names(cells or ())
            undecoded = any("\udc80" <= character <= "\udcff" for character in raw)
            size = len(raw.encode("utf-8", "surrogateescape"))
            whole = set(COLUMNS) <= set(header) and len(set(header)) == len(header)
            if not whole or undecoded or "\0" in raw or cells is None or size > MEGABYTE:
                return Expected(refused=True)
            continue
        # Whatever says that it brings a refused row back, and does not tell which, counts nothing.
        unknown = cells is None or ORIGIN in (name.casefold() for name in header)
        with localcontext(prec=2 * MEGABYTE):
            typed = None if unknown else typed_row(header, cells or (), raw)
        if typed is None:
            shown = raw.encode("utf-8", "surrogateescape")
            judged.bad[record.line, shown.decode("utf-8", "backslashreplace")[:_KEPT]] += 1
        else:
            judged.good[typed] += 1
    return Expected(refused=not judged.records, records=judged)


def _names(cells: Sequence[str]) -> list[str]:
    """A header as the feed reads it: letter case and padding of its columns do not matter."""
    named = {name: name for name in COLUMNS}
    return [
        named.get(" ".join(cell.strip().casefold().split()))
        or cell.strip()
        or f"unnamed_{position}"
        for position, cell in enumerate(cells, 1)
    ]


# A run over files, and what is found behind it


@dataclass
class Findings:
    """Faults by kind, with words for the first ones."""

    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, words: str) -> None:
        self.faults[kind] += 1
        if self.faults[kind] <= _SHOWN:
            self.notes.append(f"{kind}: {words[:_LONGEST_NOTE]}")


KINDS = ("crashes", "silent changes", "wrong refusals", "lost records", "lost files", "over memory")
# 5: all of what landed was refused, and nothing else is wrong.
_ENDS_WELL = (0, 5)


@dataclass(frozen=True)
class Ended:
    """A run's process: its exit code, what it said, and the most memory it held, in bytes."""

    code: int
    out: str
    err: str
    memory: int
    seconds: float


# The most memory that a child held is, until it is another program, that of its parent: this one
# holds the files. So a small process stands between.
_LAUNCHER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as told:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_maxrss], told)
"""


def run_cli(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """A command in a process of its own."""
    out, err, told = (folder.with_name(f"{folder.name}.{kind}") for kind in ("out", "err", "told"))
    launch = [sys.executable, "-S", "-c", _LAUNCHER, str(told)]
    command = [sys.executable, "-m", "retailmart", *arguments, "--project", str(folder)]
    start = time.monotonic()
    with out.open("wb") as to_out, err.open("wb") as to_err:
        subprocess.run(
            [*launch, *command], stdout=to_out, stderr=to_err, env=environment, check=True
        )
    code, peak = json.loads(told.read_text())
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(
        code,
        out.read_text(errors="replace"),
        err.read_text(errors="replace"),
        peak * unit,
        time.monotonic() - start,
    )


def new_shop(folder: Path, patterns: str = '["*"]') -> Path:
    """A small shop whose sales files may have any name. Its folder."""
    write_project(folder, sample=False)
    keep_only(folder, feeds=["sales"])  # a file is of one feed
    for mart in (folder / "marts").glob("market_*.sql"):
        mart.unlink()
    LocalBackend(folder).execute_in_shop(*shop_tables())
    feed = folder / "feeds" / "sales.yml"
    lines = feed.read_text().splitlines(keepends=True)
    feed.write_text("".join(f"files: {patterns}\n" if x.startswith("files:") else x for x in lines))
    return folder


def run_files(folder: Path, files: Mapping[str, bytes], found: Findings, label: str) -> Ended:
    """Run a new shop over these files and judge what came of each. The folder is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shop = new_shop(folder)
    long_ago = time.time() - 60  # nothing of them is still being uploaded
    for name, content in files.items():
        path = shop / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (long_ago, long_ago))
    ended = run_cli(shop, "run", "--as-of", "2024-04-01", "--output", "json")
    if ended.code not in _ENDS_WELL or "Traceback" in ended.err:
        words = " ".join(ended.err.splitlines()[-3:])
        found.add("crashes", f"{label}: exit code {ended.code}: {words[-600:]}")
    else:
        judge_run(shop, files, json.loads(ended.out), found, label)
    shutil.rmtree(folder, ignore_errors=True)
    return ended


def judge_run(
    shop: Path, files: Mapping[str, bytes], told: Mapping[str, Any], found: Findings, label: str
) -> None:
    """Compare what a run told and left with what each file is."""
    lines = {line["path"]: line for batch in told["batches"] for line in batch["files"]}
    if len(lines) > len(files):
        found.add("silent changes", f"{label}: the run tells of files that were not delivered")
    ids = _file_ids(shop)
    rows, refused, money = _raw_rows(shop), _quarantined(shop), _mart_money(shop)
    counted: dict[str, str] = {}
    for name in sorted(files):
        content, where = files[name], f"{label}, {name!r}"
        expected, line = judge(name, content), lines.get(name)
        if line is None:
            found.add("lost files", f"{where}: the run does not tell of it")
            continue
        digest = "" if expected.refused else _digest(name, content)
        if expected.refused or digest in counted:
            state = "refused" if expected.refused else "duplicate"
            if line["state"] != state:
                kind = "silent changes" if line["state"] == "loaded" else "wrong refusals"
                found.add(kind, f"{where} is {line['state']}, not {state}: {_shown(content)}")
            continue
        counted[digest] = name
        if line["state"] != "loaded":
            words = f"{line['state']}: {line['message']}: {_shown(content)}"
            found.add("wrong refusals", f"{where} is {words}")
            continue
        judged, key = expected.records, ids[name]
        figures = (line["records"], line["loaded"], line["quarantined"])
        if figures != (judged.records, judged.good.total(), judged.bad.total()):
            words = f"{figures} read, loaded, quarantined, not {judged.records},"
            words += f" {judged.good.total()}, {judged.bad.total()}: {_shown(content)}"
            found.add("lost records", f"{where}: {words}")
        if (there := rows.get(key, Counter())) != judged.good:
            odd = [*(there - judged.good)][:1], [*(judged.good - there)][:1]
            found.add("silent changes", f"{where}: {odd[0]} instead of {odd[1]}")
        if money.get(key, Decimal(0)) != judged.money:
            found.add("silent changes", f"{where}: {money.get(key)} in the mart, {judged.money}")
        if (kept := refused.get(key, Counter())) != judged.bad:
            odd_bad = [*(kept - judged.bad)][:1], [*(judged.bad - kept)][:1]
            found.add("lost records", f"{where}: quarantined {odd_bad[0]}, not {odd_bad[1]}")
    _judge_places(shop, files, found, label)


def _judge_places(shop: Path, files: Mapping[str, bytes], found: Findings, label: str) -> None:
    """Every byte that was delivered lies in the archive, and landing is empty."""
    archive = [path for path in (shop / "archive").rglob("*") if path.is_file()]
    # A reason lies beside each refused file; one that was delivered is among the contents.
    kept = Counter(sha256(path.read_bytes()).digest() for path in archive)
    lost = Counter(sha256(content).digest() for content in files.values()) - kept
    for name, content in files.items():
        if sha256(content).digest() in lost:
            found.add("lost files", f"{label}, {name!r} is not in the archive")
    for path in (shop / "landing").rglob("*"):
        if not path.is_dir():
            found.add("lost files", f"{label}: {path.name!r} still lies in landing")


def _digest(name: str, content: bytes) -> str:
    packed = name.lower().endswith(".gz")
    return sha256(gzip.decompress(content) if packed else content).hexdigest()


def _shown(content: bytes) -> str:
    return repr(content if len(content) < 700 else content[:600] + b" ... " + content[-50:])


def _file_ids(shop: Path) -> dict[str, int]:
    with closing(sqlite3.connect(shop / "retail.db")) as ledger:
        return dict(ledger.execute("SELECT path, file_id FROM retailmart_files").fetchall())


def _rows_of(shop: Path, table: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a lake table, read without the product."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError
    from pyarrow.parquet import ParquetFile

    try:
        uris = DeltaTable(str(shop / "lake" / table)).file_uris()
    except TableNotFoundError:
        return
    for uri in uris:
        with ParquetFile(uri) as file:
            yield from file.read(columns=list(columns)).to_pylist()


def _raw_rows(shop: Path) -> dict[int, Counter[tuple[object, ...]]]:
    found: dict[int, Counter[tuple[object, ...]]] = {}
    for line in _rows_of(shop, "raw/sales", [*COLUMNS, "additional_column", "_file_id"]):
        extra = line["additional_column"]
        more = json.dumps(json.loads(extra), sort_keys=True) if extra else None
        cells = (*(line[name] for name in COLUMNS), more)
        found.setdefault(line["_file_id"], Counter())[cells] += 1
    return found


def _quarantined(shop: Path) -> dict[int, Counter[tuple[int, str]]]:
    found: dict[int, Counter[tuple[int, str]]] = {}
    for line in _rows_of(shop, "quarantine/sales", ["file_id", "line", "raw"]):
        found.setdefault(line["file_id"], Counter())[line["line"], line["raw"][:_KEPT]] += 1
    return found


def _mart_money(shop: Path) -> dict[int, Decimal]:
    found: dict[int, Decimal] = {}
    for line in _rows_of(shop, "marts/customer_mart", ["_file_id", "total_cost"]):
        key = line["_file_id"]
        found[key] = found.get(key, Decimal(0)) + line["total_cost"]
    return found


# Files made by hand, besides those of tests/files/test_hostile_files.py


def _head(header: str, *lines: str) -> bytes:
    return text(*lines, header=header)


def _extra(*names: str) -> bytes:
    """Further columns of these names, which must come back under them."""
    header = ",".join([HEADER, *('"' + name.replace('"', '""') + '"' for name in names)])
    return text(",".join([row(), *(f"v{n}" for n in range(len(names)))]), header=header)


def _cells(*names: str) -> bytes:
    """A row each with this product, a bad twin behind it so that quarantine holds it, too."""
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    return text(*(row(name) for name in quoted), *(row(name, "x") for name in quoted))


def _column(name: str, *values: str) -> bytes:
    return text(*(row(f"n{n}", **{name: value}) for n, value in enumerate(values)))


def _amounts(*values: str) -> bytes:
    return text(*(row(f"n{n}", total=value) for n, value in enumerate(values)))


def _packed(content: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        content = gzip.compress(content, mtime=0)
    return content


_BASE = text(row("a"), row("b"), row("c", total="0.05"))
_WORDS = _BASE.decode()
BY_HAND: dict[str, bytes] = {
    # encodings and marks
    "two BOMs": b"\xef\xbb\xbf\xef\xbb\xbf" + _BASE,
    "BOM between rows": _BASE + b"\xef\xbb\xbf" + row("late").encode(),
    "BOM, CRLF, all quoted": b"\xef\xbb\xbf" + _WORDS.replace("\n", "\r\n").encode(),
    "UTF-32": _WORDS.encode("utf-32"),
    "UTF-32 without mark": _WORDS.encode("utf-32-le"),
    "UTF-7": _WORDS.replace("a", "+AGEA-").encode(),
    "EBCDIC": _WORDS.encode("cp037"),
    "cp1252 quotes": _BASE + b"1,1,\x93tea\x94,2024-01-15,1,10.00,1,10.00\n",
    "overlong UTF-8": _BASE + b"1,1,\xc0\x80\xc1\xbf,2024-01-15,1,10.00,1,10.00\n",
    "surrogates in UTF-8": _BASE + b"1,1,\xed\xa0\x80\xed\xb0\x80,2024-01-15,1,1.00,1,1.00\n",
    "past Unicode's end": _BASE + b"1,1,\xf4\x90\x80\x80,2024-01-15,1,10.00,1,10.00\n",
    "one odd byte in each row": _BASE.replace(b"\n1,", b"\n\xff1,"),
    "one odd byte as a row": _BASE + b"\xff\n",
    "latin-1 in a further column": _BASE.replace(b"total_cost\n", b"total_cost,n\n").replace(
        b"0.00\n", b"0.00,\xe9\n"
    ),
    # line ends
    "LF CR": _WORDS.replace("\n", "\n\r").encode(),
    "CR CR LF": _WORDS.replace("\n", "\r\r\n").encode(),
    "CR in a cell": _BASE + row("te\ra").encode() + b"\n",
    "CR in quotes": _cells("te\ra", "te\r\na", "te\n\ra", "\r", "\n"),
    "Ctrl-Z at the end": _BASE + b"\x1a",
    "no end, then blanks": _BASE[:-1] + b"   ",
    "vertical tabs and form feeds": _cells("a\x0bb", "a\x0cb", "\x1c\x1d\x1e\x1f"),
    "other line ends of Unicode": _cells("a\x85b", "a\u2028b", "a\u2029b"),
    "only line ends behind the header": text() + b"\n\r\n\r\r\n" * 500,
    "a hundred thousand blank lines": text() + b"\n" * 100_000 + row("end").encode(),
    # quotes
    "all quoted": _WORDS.replace(",", '","').replace("\n", '"\n"').rstrip('"').encode()[:-1],
    "an empty cell in quotes": text(row('""'), row("a", '""')),
    "lone quotes": text(row('"'), row("b"), '"', row("c")),
    "quotes only": text('"' * 7, '"' * 8, row('""""""')),
    "a backslash does not escape": text(row('"a\\"'), row('"a\\"b"'), row("a\\,b")),
    "curly and single quotes": _cells("“tea”", "'tea'", "`tea`", "„tea‟"),
    "quote at the file's end": _BASE + b'"',
    "quoted line end at the file's end": _BASE + b'1,1,"tea\n',
    "a quote behind a BOM": b'\xef\xbb\xbf"' + _BASE,
    "blanks and quotes": text(row(' " tea " '), row('"tea"  '), row('  "te,a"')),
    # NUL bytes
    "NUL first": b"\0" + _BASE,
    "NUL last": _BASE + b"\0",
    "the tail lost in a power cut": _BASE + bytes(4096),
    "the middle lost in a power cut": _BASE + bytes(4096) + b"\n" + row("end").encode(),
    "a row of NUL": _BASE + b"\0\n" + row("end").encode(),
    "quoted NUL": text(row('"te\0a"'), row("b")),
    # length
    "a cell of 100 kB": _cells("x" * 100_000),
    "a row of just under a megabyte": text(row("x" * (MEGABYTE - 60)), row("b")),
    "a row of just over a megabyte": text(row("x" * (MEGABYTE + 60)), row("b")),
    "a quoted cell of 2 MB of lines": text(row('"' + "line\n" * 400_000 + '"'), row("b")),
    "a thousand further columns": _extra(*(f"more {n}" for n in range(1_000))),
    "ten thousand commas": text(row() + "," * 10_000, row("b")),
    "twenty thousand bad rows": text(*(row(f"n{n}", "x") for n in range(20_000))),
    "a name of 10 kB": _extra("n" * 10_000),
    # numbers
    "signs": _amounts("+1.00", "-1.00", "+-1.00", "--1.00", "1.00-", "(1.00)", "-", "+", "."),
    "points": _amounts(".5", "5.", "-.5", "-5.", "1..0", "1.0.0", "1,00", "1'000.00"),
    "signs of money": _amounts("$1.00", "1.00 €", "₹1", "1%", "¢5"),
    "powers": _amounts("1e2", "1E2", "1e-2", "0x1F", "0b1", "0o7", "1d", "1f", "1/2"),
    "blanks in numbers": _amounts(" 1.00", "1.00 ", "1 000.00", "\t1.00", "\u00a01.00", "1\u200b"),
    "many digits": _amounts("0" * 40 + "1.00", "1." + "0" * 40, "9" * 40, "0." + "0" * 40 + "1"),
    "the edges of DECIMAL(14,2)": _amounts("999999999999.99", "-999999999999.99", "1000000000000"),
    "half cents": _amounts("0.005", "0.004", "1.0050", "0.0149", "0.01", "-0.005"),
    "no numbers": _amounts("NULL", "null", "None", "\\N", "N/A", "nan", "inf", "-Infinity", "true"),
    "digits of others": _column("quantity", "１２", "٣", "१", "−1", "1\u200b", "²", "Ⅻ", "一"),
    "the edges of INT": _column("quantity", "2147483647", "-2147483648", "-2147483649", "-0", "+0"),
    "keys past INT": _column("customer_id", "4294967296", "9223372036854775808", "1" * 100),
    # dates
    "edges of the calendar": _column(
        "sales_date", "0001-01-01", "9999-12-31", "10000-01-01", "2000-02-29", "1900-02-29"
    ),
    "times for dates": _column(
        "sales_date", "2024-01-05T00:00:00Z", "2024-01-05 00:00", "2024-01-05Z", "20240105"
    ),
    "dates of others": _column(
        "sales_date", "01/05/2024", "5.1.2024", "2024-W01-1", "2024-005", "1704412800", "45296"
    ),
    "no dates": _column(
        "sales_date", "today", "now", "epoch", "NULL", "2024-13-01", "2024-00-10", "-2024-01-01"
    ),
    "dates with blanks": _column("sales_date", " 2024-01-05", "2024-01-05 ", "2024 -01-05"),
    # delimiters
    "tabs": _WORDS.replace(",", "\t").encode(),
    "bars": _WORDS.replace(",", "|").encode(),
    "sep= first": b"sep=,\n" + _BASE,
    "semicolons in the rows only": text(row().replace(",", ";"), row("b")),
    "a comma behind each row": _WORDS.replace("\n", ",\n").encode(),
    "a comma before each row": _WORDS.replace("\n", "\n,").encode(),
    "a comma behind the header": _head(f"{HEADER},", row(), f"{row()},x"),
    "three commas behind the header": _head(f"{HEADER},,,", f"{row()},a,b,c", f"{row()},,,"),
    # headers
    "padded header": _head(HEADER.replace(",", " ,\t ").upper(), row()),
    "header with hard blanks": _head(HEADER.replace("price", "\u00a0price\u3000"), row()),
    "header in odd letters": _head(HEADER.replace("store_id", "ſtore_id"), row()),
    "header twice": text(HEADER, row("b")),
    "two exports in one file": _BASE + _BASE.replace(b"tea", b"two"),
    "a comment first": b"# exported by till 7\n" + _BASE,
    "columns in reverse": _head(",".join(reversed(COLUMNS)), ",".join(reversed(row().split(",")))),
    "one column twice in other letters": _head(f"{HEADER},Price", f"{row()},1"),
    "a column twice by padding": _head(f"{HEADER}, note,note ", f"{row()},a,b"),
    "a column missing, another double": _head(HEADER.replace("price", "quantity"), row()),
    "named like our own columns": _extra("_file_id", "_month", "_row", "file_index", "raw"),
    "named like the engine's columns": _extra(
        "c0", "c7", "column0", "filename", "rowid", "_further"
    ),
    "named like the feed's own column": _extra("additional_column"),
    "named like the sheet's columns": _extra("_file", "_line", "_rule", "_message", "_raw"),
    "an _origin column of a stranger": _extra("_origin"),
    "names with meaning in JSON": _extra('a"b', "a\\b", "$.a", "a.b", "", "{}", "a\u0000"[:1], "é"),
    "names with meaning in SQL": _extra("a' OR '1'='1", 'x"; DROP TABLE sales; --', "/* */", "?"),
    "names that only differ in letters": _extra("Note", "NOTE", "note"),
    "names of blanks": _extra(" x", "y ", "\tz"),
    "no names for further columns": _head(f"{HEADER},,", f"{row()},a,b"),
    "unnamed_10 beside an unnamed one": _head(f"{HEADER},unnamed_10,", f"{row()},a,b"),
    # cells
    "formulas": _cells("=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "＝1"),
    "SQL": _cells("'; DROP TABLE retailmart_files; --", '" OR 1=1', "$1", "?", ":x", "%(x)s", "%s"),
    "templates": _cells("{{7*7}}", "${HOME}", "$(id)", "`id`", "%n%n", "{0}", "${secret:x}"),
    "markup": _cells("<script>alert(1)</script>", "[red]x[/red]", "[/]", "**x**", "&amp;"),
    "words for nothing": _cells("NULL", "null", "None", "\\N", "N/A", "-", "nan", "#N/A", "NA"),
    "the engine's word for nothing": _cells(
        "\x01no value is null\x01", "a\x01no value is null\x01"
    ),
    "control characters": _cells(
        "\x1b[31mred", "\x07", "\x08\x08", "\x7f", "\x9b31m", "\x1b]0;x\x07"
    ),
    "letters that turn text round": _cells("\u202etea", "\u2066tea\u2069", "\ufefftea", "t\u0301"),
    "blank products": _cells(" ", "\u00a0", "\u3000", "\u2003\u2003", "\t", "\u200b"),
    "paths": _cells("../../etc/passwd", "/etc/passwd", "C:\\x", "file:///etc/passwd", "s3://x/y"),
    "JSON in cells": _head(
        f"{HEADER},n", f'{row()},"{{""a"": 1}}"', f"{row('b')},[1", f"{row()},\\"
    ),
    "emoji": _cells("🫖", "👩‍👩‍👧‍👦", "🇩🇪", "a" + "\u0301" * 100),
    # disguised
    "HTML": b"<!DOCTYPE html><html><body>503 Service Unavailable</body></html>\n",
    "JSON": b'[{"customer_id": 1, "store_id": 1}]',
    "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(64),
    "SQLite": b"SQLite format 3\0" + bytes(100),
    "bzip2": b"BZh91AY&SY" + bytes(range(64)),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(64),
    "tar": b"sales.csv" + bytes(503),
    "one byte": b"c",
    "one line end": b"\n",
    "one quote": b'"',
    "one comma": b",",
    "noise": random.Random(7).randbytes(5_000),
    "noise behind a good header": text() + random.Random(8).randbytes(5_000),
}
PACKED: dict[str, bytes] = {
    "packed twice": _packed(_BASE, 2),
    "packed and hostile": _packed(BY_HAND["formulas"] + BY_HAND["SQL"]),
    "packed UTF-16": _packed(_WORDS.encode("utf-16")),
    "packed zip": _packed(b"PK\x03\x04" + bytes(40)),
    "one byte of an archive": b"\x1f",
    "the head of an archive": _packed(_BASE)[:10],
    "an archive without its sum": _packed(_BASE)[:-8],
    "an archive with another sum": _packed(_BASE)[:-8] + bytes(8),
    "zeros behind an archive": _packed(_BASE) + bytes(512),
    "half an archive behind a whole one": _packed(_BASE) + _packed(_BASE)[:20],
    "an archive with a damaged middle": _packed(_BASE * 50)[:60]
    + b"\xff"
    + _packed(_BASE * 50)[61:],
    "zlib, not gzip": zlib.compress(_BASE),
}
ODD_NAMES = (
    "sales trailing blank .csv", "sales..csv", "SALES.CSV", "~sales.csv", "#sales#.csv", "-.csv",
    "--help.csv", "sales\u202efdp.csv", "sales\u0301.csv", "sale\u015b.csv", "sales\r\n.csv",
    "a/b/c/d/e/f/g/h/i/j/sales.csv", "sales.csv/sales.csv", "processed/20240401_000000/sales.csv",
    "error_files/bad_schema/sales.csv", "lake/_delta_log/00000000000000000000.csv", "s3:/x/y.csv",
    "file:/x.csv", "con.csv", "sales.csv.csv", "sales.csv.reason.txt.csv", "_file_id=3/x.csv",
    "%00.csv", "sales\x7f.csv", "😀.csv", "x" * 251 + ".csv", "'.csv", '".csv', "`.csv", ";.csv",
    "&&.csv", "|.csv", "*.csv", "[!a].csv", "{a,b}.csv", "$HOME.csv", "~/x.csv",
)  # fmt: skip


def by_hand() -> dict[str, bytes]:
    """All files made by hand by the name that they are delivered under."""
    files = {case.name: case.content for case in REFUSED.values()}
    files |= {case.name: case.content for case in TAKEN.values()}
    # That format and feed are told by the name is tested where these cases come from.
    del files["s_other.txt"], files["notes.csv"], files["s_bomb.csv.gz"]
    files |= {f"hand/{n:03}.csv": content for n, content in enumerate(BY_HAND.values())}
    files |= {f"hand/{n:03}.csv.gz": content for n, content in enumerate(PACKED.values())}
    for n, name in enumerate((*NAMES.values(), *ODD_NAMES)):
        files[f"names/{name}"] = text(row(f"name {n}"), row(f"name {n}", "x"))
    return files


# Files that would fill the memory of who reads them as a whole


def large(size: int) -> dict[str, Callable[[], bytes]]:
    """Makers of files of `size` bytes: one line, one cell, one header, line ends only, a bomb, …"""
    good = (row("x") + "\n").encode()
    member = _packed(good * (MEGABYTE // len(good)))
    head = text()
    return {
        "line.csv": lambda: head + b"x" * size + b"\n" + good,
        "quote.csv": lambda: head + b'1,1,"' + b"x\n" * (size // 2),
        "commas.csv": lambda: head + b"," * size + b"\n" + good,
        "quotes.csv": lambda: head + b'"' * size + b"\n" + good,
        "header.csv": lambda: HEADER.encode() + b",x" * (size // 2) + b"\n" + good,
        "ends.csv": lambda: head + b"\n" * size + good,
        "zeros.csv": lambda: head + bytes(size) + b"\n" + good,
        "rows.csv": lambda: head + good * (size // len(good)),
        "short.csv": lambda: head + b"x,y\n" * (size // 4),
        "bad.csv": lambda: head + (row("x", "x") + "\n").encode() * (size // len(good)),
        "bomb.csv.gz": lambda: _packed(head) + member * (size // MEGABYTE),
    }


# Damage by chance

_TOKENS = (
    "", " ", "x", "-", "0", "-1", "1.5", "1e3", "NaN", "NULL", "\\N", '"', '""', "'", ",", ";",
    "\t",
    "\r", "\n", "\r\n", "\0", "\ufeff", "\x1a", "=1+1", "2024-02-30", "2024-01-05 10:00", "１",
    "\u00a0", "\u2028", "99999999999999", "0.005", "é", "😀", "\x01no value is null\x01", "\\", "#",
)  # fmt: skip
_BYTES = (
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xc3",
    b" ",
    b"\xef\xbb\xbf",
    b"\t",
    b";",
    b"-",
)


class Mutator:
    """Makes files of a seed. The nth file of a seed is the same whatever was made before it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.damaged = 0

    def file(self, n: int) -> tuple[str, bytes]:
        """The nth file's name and content."""
        chance = random.Random(f"{self.seed}/{n}")
        content = self._good(chance, n)
        operations = chance.choice((0, 1, 1, 1, 2, 2, 3, 5))
        self.damaged += operations > 0
        for _ in range(operations):
            operation = chance.choice(self._operations)
            # Files of one form are read together; one whose header is damaged costs a hundred.
            header, end, rows = (
                content.partition(b"\n") if chance.random() < 0.9 else (b"", b"", content)
            )
            content = header + end + operation(self, chance, rows)
        name = f"{n % 50:02}/{n:06}.csv"
        if chance.random() < 0.04:
            name, content = f"{name}.gz", _packed(content)
            if chance.random() < 0.5:
                content = self._byte(chance, content)
        return name, content

    def _good(self, chance: random.Random, n: int) -> bytes:
        names = chance.choice(self._headers(n // AT_ONCE))
        lines = [",".join(names)]
        for number in range(chance.choice((1, 1, 2, 3, 5, 8))):
            cents = chance.randrange(1, 10_000_000)
            cells = {
                "customer_id": str(chance.randrange(1, 12)),
                "store_id": str(chance.randrange(1, 4)),
                "product_name": f"{n}-{number}",
                "sales_date": f"2024-{chance.randrange(1, 4):02}-{chance.randrange(1, 29):02}",
                "sales_person_id": str(chance.randrange(1, 6)),
                "price": f"{cents // 100}.{cents % 100:02}",
                "quantity": str(chance.randrange(-3, 9)),
                "total_cost": f"{cents // 100}.{cents % 100:02}",
            }
            lines.append(",".join(cells.get(name, f"extra {number}") for name in names))
        end = chance.choice(("\n", "\n", "\n", "\r\n"))
        return (end.join(lines) + end * (chance.random() < 0.9)).encode()

    @cache  # noqa: B019 - a mutator lives as long as its files are made
    def _headers(self, batch: int) -> list[list[str]]:
        """The orders of columns, and columns of no feed, that a batch's senders have."""
        chance, headers = random.Random(f"{self.seed}/senders/{batch}"), [list(COLUMNS)] * 3
        for _ in range(5):
            names = list(COLUMNS)
            if chance.random() < 0.6:
                chance.shuffle(names)
            if chance.random() < 0.6:
                odd = chance.choice(("payment_mode", "Note", "_row", "c1"))
                names.insert(chance.randrange(9), odd)
            headers.append(names)
        return headers

    # operations: on bytes, lines and fields

    def _byte(self, chance: random.Random, content: bytes) -> bytes:
        """A byte changed, put in, or taken out."""
        at = chance.randrange(len(content) + 1)
        new = chance.choice((chance.choice(_BYTES), bytes([chance.randrange(256)]), b""))
        return content[:at] + new + content[at + chance.randrange(2) :]

    def _bit(self, chance: random.Random, content: bytes) -> bytes:
        if not content:
            return content
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    def _cut(self, chance: random.Random, content: bytes) -> bytes:
        """Its end or its beginning lost, or a piece of its middle."""
        first, last = sorted(chance.randrange(len(content) + 1) for _ in range(2))
        if chance.random() < 0.2:
            return content[first:]
        return content[:last] if chance.random() < 0.5 else content[:first] + content[last:]

    def _twice(self, chance: random.Random, content: bytes) -> bytes:
        """A piece of it sent twice."""
        first, last = sorted(chance.randrange(len(content) + 1) for _ in range(2))
        return content[:last] + content[first:]

    def _lines(self, chance: random.Random, content: bytes) -> bytes:
        """Lines swapped, lost, doubled, joined, or a blank one between."""
        lines = content.split(b"\n")
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        what = chance.randrange(5)
        if what == 0:
            lines[at], lines[other] = lines[other], lines[at]
        elif what == 1:
            del lines[at]
        elif what == 2:
            lines.insert(at, lines[other])
        elif what == 3 and at + 1 < len(lines):
            lines[at] += lines.pop(at + 1)
        else:
            lines.insert(at, chance.choice((b"", b" ", b"\r", b",", b'""', b"\t", b",,,,,,,")))
        return b"\n".join(lines)

    def _field(self, chance: random.Random, content: bytes) -> bytes:
        """A field replaced, quoted, added to, swapped, lost or added."""
        lines = content.split(b"\n")
        at = chance.randrange(len(lines))
        cells = lines[at].split(b",")
        n, other = chance.randrange(len(cells)), chance.randrange(len(cells))
        token = chance.choice(_TOKENS).encode()
        what = chance.randrange(7)
        if what == 0:
            cells[n] = token
        elif what == 1:
            cells[n] = b'"' + cells[n].replace(b'"', b'""') + token.replace(b'"', b'""') + b'"'
        elif what == 2:
            cells[n] += token
        elif what == 3:
            cells[n] = token + cells[n]
        elif what == 4:
            cells[n], cells[other] = cells[other], cells[n]
        elif what == 5:
            del cells[n]
        else:
            cells.insert(n, token)
        lines[at] = b",".join(cells)
        return b"\n".join(lines)

    def _column(self, chance: random.Random, content: bytes) -> bytes:
        """The header's name changed as senders do."""
        header, end, rest = content.partition(b"\n")
        names = header.split(b",")
        n = chance.randrange(len(names))
        odd = (names[n].upper(), b" " + names[n] + b"\t", b'"' + names[n] + b'"', names[n] + b"_2",
               b"", names[chance.randrange(len(names))])  # fmt: skip
        names[n] = chance.choice(odd)
        return b",".join(names) + end + rest

    def _ends(self, chance: random.Random, content: bytes) -> bytes:
        """Other line ends, everywhere or at one place."""
        old, new = chance.sample((b"\n", b"\r\n", b"\r", b"\n\r"), 2)
        return content.replace(old, new, chance.choice((-1, 1)))

    def _encoded(self, chance: random.Random, content: bytes) -> bytes:
        """In another encoding, with a mark, or with other letters."""
        words = content.decode("utf-8", "replace")
        what = chance.randrange(6)
        if what == 0:
            return codecs.BOM_UTF8 + content
        if what == 1:
            return words.encode(chance.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32")))
        if what == 2:
            return words.replace("extra", "éxtra").encode("cp1252", "replace")
        if what == 3:
            return words.replace("-", chance.choice("‐−–é😀\u00a0\u0085\u2028")).encode()
        if what == 4:
            return words.replace(",", chance.choice((";", "\t", "|"))).encode()
        return chance.choice(MAGIC) + content

    def _grown(self, chance: random.Random, content: bytes) -> bytes:
        """A run of one character put in."""
        at = chance.randrange(len(content) + 1)
        run = chance.choice(_BYTES) * chance.choice((2, 3, 17, 200, 3_000))
        return content[:at] + run + content[at:]

    _operations = (
        _byte, _byte, _byte, _bit, _cut, _twice, _lines, _lines, _field, _field, _field, _field,
        _column, _ends, _encoded, _grown,
    )  # fmt: skip


# The scenario


def run(seed: int, size: int, work: Path, tell: Tell) -> list[Result]:
    """Files made by hand, `size` damaged ones, large ones, and hostile keys of a bucket."""
    return [
        run_by_hand(work, tell),
        run_damaged(seed, size, work, tell),
        run_large(32 if size > 10_000 else 8, work, tell),
        run_keys(work, tell),
    ]


def run_by_hand(work: Path, tell: Tell) -> Result:
    """Every file made by hand, all in one run."""
    start, found, files = time.monotonic(), Findings(), by_hand()
    tell(f"{len(files)} files made by hand")
    run_despite(work, files, found, "by hand")
    return _result("hostile files, made by hand", {"files": len(files)}, found, "none", start)


def run_despite(work: Path, files: Mapping[str, bytes], found: Findings, label: str) -> Ended:
    """Run these files; those that break the run off are told one by one and left out."""
    left = dict(files)
    for _ in range(_SHOWN):
        crashes = found.faults["crashes"]
        ended = run_files(work / "files", left, found, label)
        if found.faults["crashes"] == crashes:
            break
        name = _culprit(work, left)
        if name is None:
            found.notes.append(f"{label}: none of the files breaks it off alone")
            break
        found.notes.append(f"{label}: {name!r} breaks it off alone: {_shown(left.pop(name))}")
    return ended


def run_damaged(seed: int, size: int, work: Path, tell: Tell) -> Result:
    """`size` files of the seed, a thousand a run, as many runs at a time as there are cores."""
    start, found, mutator = time.monotonic(), Findings(), Mutator(seed)
    base = run_files(work / "one", {"a.csv": _BASE}, Findings(), "one file").memory

    def batch(first: int) -> int:
        numbers = range(first, min(first + AT_ONCE, size))
        label = f"seed {seed}, files {numbers.start} to {numbers.stop - 1}"
        files = dict(mutator.file(n) for n in numbers)
        ended = run_despite(work / str(first), files, found, label)
        if ended.memory - base > BOUND:
            found.add("over memory", f"{label}: {_megabytes(ended.memory - base)}")
        tell(f"files to {numbers.stop:,} in {ended.seconds:.0f} s, {found.faults.total()} faults")
        return ended.memory - base

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        most = list(pool.map(batch, range(0, size, AT_ONCE)))
    tries = {"files": size, "damaged": mutator.damaged, "runs": len(most),
             "MB more than a small run at most": max(most) // MEGABYTE}  # fmt: skip
    return _result("hostile files, damaged by chance", tries, found, str(seed), start)


def _culprit(work: Path, files: Mapping[str, bytes]) -> str | None:
    """The file with which a run breaks off even alone, looked for by halves."""
    while len(files) > 1:
        names = list(files)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            found, fewer = Findings(), {name: files[name] for name in half}
            run_files(work / "half", fewer, found, "half")
            if found.faults["crashes"]:
                files = fewer
                break
        else:
            return None
    return next(iter(files))


def run_large(megabytes: int, work: Path, tell: Tell, only: Collection[str] = ()) -> Result:
    """Large files, each in a run of its own, so that each one's memory is known."""
    start, found = time.monotonic(), Findings()
    base = run_files(work / "one", {"a.csv": _BASE}, Findings(), "one file").memory
    most: dict[str, int] = {}
    for name, make in large(megabytes * MEGABYTE).items():
        if only and name not in only:
            continue
        ended = run_unjudged(work / "large", {name: make()}, found, name)
        most[name] = ended.memory - base
        if most[name] > BOUND:
            found.add("over memory", f"{name}: {_megabytes(most[name])}")
        tell(f"{name}: {_megabytes(most[name])} more than a small run, {ended.seconds:.0f} s")
    tries = {"files": len(most), "MB each": megabytes,
             "MB more than a small run at most": max(most.values()) // MEGABYTE}  # fmt: skip
    return _result("hostile files, large ones", tries, found, "none", start)


def run_unjudged(folder: Path, files: Mapping[str, bytes], found: Findings, label: str) -> Ended:
    """Run a shop over files too large to be judged row by row: ended well, and nothing is lost."""
    shop = new_shop(folder)
    for name, content in files.items():
        (shop / "landing" / name).write_bytes(content)
        os.utime(shop / "landing" / name, (1.7e9, 1.7e9))
    environment = {**os.environ, "RETAILMART__MEMORY_LIMIT": _ENGINE}
    ended = run_cli(
        shop, "run", "--as-of", "2024-04-01", "--output", "json", environment=environment
    )
    if ended.code not in _ENDS_WELL or "Traceback" in ended.err:
        words = " ".join(ended.err.splitlines()[-3:])
        found.add("crashes", f"{label}: exit code {ended.code}: {words[-600:]}")
    else:
        _judge_places(shop, files, found, label)
    shutil.rmtree(folder, ignore_errors=True)
    return ended


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB"


def _result(
    scenario: str, tries: Mapping[str, int], found: Findings, seeds: str, start: float
) -> Result:
    faults = {kind: found.faults[kind] for kind in KINDS}
    seconds = time.monotonic() - start
    return Result(scenario, dict(tries), faults, seeds, seconds, tuple(found.notes))


# Hostile keys of a bucket

KEYS = (
    "double//slash.csv", "/leading.csv", "//two.csv", "trailing.csv/", "marker/", "marker/deep/",
    "./dot.csv", "a/./dot.csv", "a/../up.csv", "../out.csv", "..", ".", "a/..", "a/.", "...",
    "a", "a/below.csv", "folder.csv", "folder.csv/below.csv", "%2e%2e/up.csv", "%2e.csv",
    "100%.csv", "a%2Fb.csv", "a%00b.csv", "plus+sign.csv", "blank .csv", " first.csv", "two  .csv",
    "é.csv", "e\u0301.csv", "😀.csv", "\u202e.csv", "\ufeff.csv", "tab\there.csv", "line\nend.csv",
    "cr\rhere.csv", "esc\x1b[31m.csv", "del\x7f.csv", "c1\x9b.csv", "back\\slash.csv", "..\\up.csv",
    "quote'.csv", 'quote".csv', "tick`.csv", "semi;colon.csv", "amp&and=1?x#y.csv", "star*.csv",
    "[abc].csv", "{a,b}.csv", "<tag>.csv", "pipe|.csv", "tilde~.csv", "caret^.csv", "at@.csv",
    "colon:.csv", "s3://x/y.csv", "x" * 900 + ".csv", "d/" * 300 + "x.csv", ".hidden.csv",
    "up.csv.part", "month=2024-01/x.csv", "é/" * 100 + "x.csv", "UPPER.csv", "upper.csv",
)  # fmt: skip


def run_keys(work: Path, tell: Tell, *, together: bool = False) -> Result:
    """Objects with hostile keys, the oddest each alone beside a good one, or all of them together.

    Alone tells which of them it was, and takes a run for each.
    """
    from tests.support.services.s3 import S3Server

    start, found = time.monotonic(), Findings()
    folder = work / "s3"
    folder.mkdir(parents=True)
    server = S3Server(folder)
    server.start()
    tries: Counter[str] = Counter()
    try:
        for n, keys in enumerate([KEYS] if together else _key_sets()):
            _run_keys(folder / str(n), server, keys, found, tries)
            tell(f"{tries['keys']} keys in {tries['runs']} runs")
    finally:
        server.close()
    return _result("hostile keys in a bucket", tries, found, "none", start)


def _key_sets() -> Iterator[tuple[str, ...]]:
    """What a client may be unable to name, each alone; then all the rest together."""
    odd = [key for key in KEYS if _is_odd(key)]
    yield tuple(key for key in KEYS if key not in odd)
    yield from ((key,) for key in odd)


def _is_odd(key: str) -> bool:
    parts = f"/{key}".split("/")[1:]
    return bool({"", ".", ".."} & set(parts)) or any(c < " " or c == "\x7f" for c in key)


def _run_keys(
    folder: Path, server: S3Server, keys: Sequence[str], found: Findings, tries: Counter[str]
) -> None:
    from botocore.exceptions import ClientError

    bucket = server.look(server.bucket())
    shop = new_shop(folder / "shop")
    settings = shop / "retailmart.yml"
    kept = [
        x for x in settings.read_text().splitlines() if not x.startswith(("landing:", "archive:"))
    ]
    places = [f"landing: s3://{bucket.name}/in", f"archive: s3://{bucket.name}/archive"]
    endpoint = f"s3: {{endpoint: '{server.endpoint}'}}"
    settings.write_text("\n".join([*places, endpoint, *kept]) + "\n")
    contents = {"good.csv": _BASE}
    for n, key in enumerate(keys):
        contents[key] = b"" if key.endswith("/") and n % 2 else text(row(f"key {n}"))
    tried: list[str] = []
    for key, content in contents.items():
        try:
            bucket.put(f"in/{key}", content)
        except ClientError:
            tries["keys that the server refuses"] += 1
        else:
            tried.append(key)
    contents = {key: contents[key] for key in tried}
    if set(bucket.keys("in/")) != {f"in/{key}" for key in tried}:
        found.add("crashes", f"the server holds other keys than were put: {keys!r}")
    tries["keys"] += len(keys)
    tries["runs"] += 1
    label = f"key {keys[0]!r}" if len(keys) == 1 else f"{len(keys)} keys"
    environment = {**os.environ, **server.environment}
    ended = run_cli(
        shop, "run", "--as-of", "2024-04-01", "--output", "json", environment=environment
    )
    left = {key.removeprefix("in/") for key in bucket.keys("in/")}
    archive = Counter(bucket.get(key) for key in bucket.keys("archive/"))
    if ended.code not in _ENDS_WELL or "Traceback" in ended.err:
        words = " ".join(ended.err.splitlines()[-3:])
        found.add("crashes", f"{label}: exit code {ended.code}: {words[-400:]}")
        return
    told = json.loads(ended.out)
    lines = {line["path"]: line for batch in told["batches"] for line in batch["files"]}
    said = ended.err + ended.out
    for key, content in contents.items():
        if key not in left and not archive[content]:
            found.add("lost files", f"{label}: the object {key!r} is gone and not archived")
        is_marker = key.endswith("/") and not content
        if key in left and not is_marker and key not in told["waiting"] and not _named(key, said):
            found.add("lost files", f"{label}: {key!r} is left in landing, and nobody told")
        if key not in left and key not in lines:
            found.add("silent changes", f"{label}: {key!r} is told under another name")
    if lines.get("good.csv", {}).get("loaded") != 3:
        found.add("lost files", f"{label}: the good file beside it is not counted")


def _named(key: str, said: str) -> bool:
    shown = {key, repr(key)[1:-1], json.dumps(key)[1:-1]}
    hidden = any(part.startswith(".") and part not in (".", "..") for part in key.split("/"))
    return hidden or any(text in said for text in shown)
