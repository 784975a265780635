"""Hostile files: each in its place with words people understand, every record accounted for.

A strict reader of the tests' own and `decimal` judge what a file holds; nothing of the package
helps.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.feeds.load import FileToLoad, load
from retailmart.feeds.quarantine import quarantine_table
from retailmart.files.check import CheckedFile, Refusal, check_content
from retailmart.files.scan import Scan
from retailmart.lake import Lake
from retailmart.lake.places import LocalPlace
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.project import Feed, load_project
from retailmart.report import FileLine, RunReport
from retailmart.storage import printable
from retailmart.template import write_project
from tests.amount import tries
from tests.backends import LocalBackend, shop_tables
from tests.conftest import AS_OF, HEADER, Shop, sale
from tests.strict_csv import strict_records

MEGABYTE = 1 << 20
COLUMNS = HEADER.split(",")
GOOD = "\n".join([HEADER, sale(price="100.00"), sale(customer=2, price="0.01")]) + "\n"

# The judge.


@dataclass
class Judgement:
    """What a delivered CSV holds: typed good rows, and where the bad records begin."""

    good: Counter[tuple[object, ...]] = field(default_factory=Counter)
    bad: Counter[tuple[int, str]] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        return self.good.total() + self.bad.total()

    @property
    def money(self) -> Decimal:
        amounts = (Decimal(str(row[7])) * count for row, count in self.good.items())
        return sum(amounts, Decimal(0))


def judge(content: bytes) -> Judgement:
    """Read a file strictly and type its cells by the rules of the sales feed."""
    judged = Judgement()
    header: list[str] | None = None
    for record in strict_records(content.decode("utf-8-sig", "surrogateescape")):
        if header is None:
            header = [known(name, place) for place, name in enumerate(record.cells or (), 1)]
            continue
        row = typed_row(header, record.cells or (), record.raw)
        if row is None:
            shown = record.raw.encode("utf-8", "surrogateescape")
            judged.bad[record.line, shown.decode("utf-8", "backslashreplace")] += 1
        else:
            judged.good[row] += 1
    return judged


def known(name: str, place: int) -> str:
    plain = name.strip().lower()
    return plain if plain in COLUMNS else name.strip() or f"unnamed_{place}"


def typed_row(header: Sequence[str], cells: Sequence[str], raw: str) -> tuple[object, ...] | None:
    size = len(raw.rstrip("\r\n").encode("utf-8", "surrogateescape"))
    undecoded = any("\udc80" <= character <= "\udcff" for character in raw)
    if len(cells) != len(header) or "\0" in raw or undecoded or size > MEGABYTE:
        return None
    row = dict(zip(header, cells, strict=True))
    extra = {name: text for name, text in row.items() if name not in COLUMNS}
    more = json.dumps(extra, sort_keys=True) if extra else None
    values = [JUDGES[name](row[name]) for name in COLUMNS]
    return None if None in values else (*values, more)


# Blanks around a number or a date, and those that hold words together.
_PAD = r"[ \t\r\n\f\u00a0\u202f]*"


def whole(text: str) -> int | None:
    if re.fullmatch(rf"{_PAD}[+-]?[0-9]+{_PAD}", text) is None:
        return None
    return number if -(2**31) <= (number := int(text)) < 2**31 else None


def day(text: str) -> date | None:
    if re.fullmatch(rf"{_PAD}[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{_PAD}", text) is None:
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None


def money(digits: int) -> Callable[[str], Decimal | None]:
    def read(text: str) -> Decimal | None:
        plain = rf"{_PAD}[+-]?([0-9]+\.?[0-9]*|\.[0-9]+){_PAD}"
        if re.fullmatch(plain, text) is None:
            return None
        amount = Decimal(text.strip())
        cents = amount.quantize(Decimal("0.01"))
        return cents if cents == amount and abs(cents) < 10**digits else None

    return read


def words(text: str) -> str | None:
    blank = all(unicodedata.category(character) == "Zs" for character in text)
    return None if blank else text


JUDGES: dict[str, Callable[[str], object]] = {
    "customer_id": whole,
    "store_id": whole,
    "product_name": words,
    "sales_date": day,
    "sales_person_id": whole,
    "price": money(10),
    "quantity": whole,
    "total_cost": money(12),
}

# The table of hostile files.


@dataclass(frozen=True)
class Refused:
    """A file that must land in an error folder, told in these words."""

    name: str
    content: bytes
    folder: str
    words: str


@dataclass(frozen=True)
class Taken:
    """A file that is loaded but for its bad records: (line, column, rule), told in these words."""

    name: str
    content: bytes
    bad: tuple[tuple[int, str | None, str], ...] = ()
    words: str = ""


def text(*lines: str, header: str = HEADER, end: str = "\n") -> bytes:
    return (end.join([header, *lines]) + end).encode()


def row(name: str = "tea", total: str = "10.00", **cells: str) -> str:
    values = dict(zip(COLUMNS, sale().split(","), strict=True))
    values |= {"product_name": name, "total_cost": total, **cells}
    return ",".join(values.values())


def exploding() -> bytes:
    """300 MB of one row, in some 300 kB: many small members make a valid archive fast."""
    member = gzip.compress((sale() + "\n").encode() * (3 * MEGABYTE // 32), 9)
    one = len(sale() + "\n") * (3 * MEGABYTE // 32)
    return gzip.compress(text()) + member * (300 * MEGABYTE // one)


BAD_SCHEMA, WRONG_TYPE, UNKNOWN = "bad_schema", "wrong_file_types", "unknown"
LACKING = text(sale().rsplit(",", 1)[0], header=HEADER.rsplit(",", 1)[0])
REFUSED = {
    "no mandatory column": Refused(
        "s_lacks.csv", LACKING, BAD_SCHEMA, "lacks the column total_cost"
    ),
    "duplicate header": Refused(
        "s_twice.csv",
        text(sale() + ",1", header=HEADER + ", PRICE "),
        BAD_SCHEMA,
        "header names price more than once",
    ),
    "duplicate extra column": Refused(
        "s_twice_more.csv",
        text(sale() + ",a,b", header=HEADER + ",note,note"),
        BAD_SCHEMA,
        "header names note more than once",
    ),
    "no header": Refused(
        "s_headless.csv", text(sale(), header=sale()), BAD_SCHEMA, "lacks the col"
    ),
    "empty": Refused("s_empty.csv", b"", BAD_SCHEMA, "is empty"),
    "empty archive": Refused("s_hollow.csv.gz", gzip.compress(b""), BAD_SCHEMA, "is empty"),
    "blank lines only": Refused("s_blank.csv", b"\n\r\n\n", BAD_SCHEMA, "nothing but blank lines"),
    "BOM only": Refused("s_bom.csv", b"\xef\xbb\xbf", BAD_SCHEMA, "nothing but blank lines"),
    "header only": Refused("s_head.csv", text(), BAD_SCHEMA, "a header but not a single row"),
    "header without line end": Refused(
        "s_headnl.csv", HEADER.encode(), BAD_SCHEMA, "a header but not a single row"
    ),
    "header and blank lines": Refused(
        "s_headblank.csv", text("", "", ""), BAD_SCHEMA, "a header but not a single row"
    ),
    "header and blank lines, CRLF": Refused(
        "s_headcr.csv", text("", "", end="\r\n"), BAD_SCHEMA, "a header but not a single row"
    ),
    "xlsx named csv": Refused("s_x.csv", b"PK\x03\x04" + bytes(40), WRONG_TYPE, "Excel"),
    "old Excel named csv": Refused("s_o.csv", b"\xd0\xcf\x11\xe0" + bytes(40), WRONG_TYPE, "Excel"),
    "pdf named csv": Refused("s_p.csv", b"%PDF-1.7\n", WRONG_TYPE, "PDF"),
    "gzip named csv": Refused("s_g.csv", gzip.compress(text(sale())), WRONG_TYPE, "gzip"),
    "Parquet named csv": Refused("s_q.csv", b"PAR1" + bytes(40), WRONG_TYPE, "Parquet"),
    "other ending": Refused("s_other.txt", text(sale()), WRONG_TYPE, "neither a CSV nor a JSON"),
    "no feed": Refused("notes.csv", b"a,b\n1,2\n", UNKNOWN, "fits no feed"),
    "UTF-16 with mark": Refused("s_u16.csv", GOOD.encode("utf-16"), BAD_SCHEMA, "UTF-16"),
    "UTF-16, big end first": Refused(
        "s_u16be.csv", b"\xfe\xff" + GOOD.encode("utf-16-be"), BAD_SCHEMA, "UTF-16"
    ),
    "UTF-16 without mark": Refused("s_u16le.csv", GOOD.encode("utf-16-le"), BAD_SCHEMA, "UTF-16"),
    "latin-1 header": Refused(
        "s_l1.csv",
        text(sale() + ",x", header=HEADER + ",münze").decode().encode("latin-1"),
        BAD_SCHEMA,
        "not UTF-8",
    ),
    "NUL in the header": Refused(
        "s_nul.csv", text(sale(), header=HEADER.replace("price", "pri\0ce")), BAD_SCHEMA, "NUL"
    ),
    "only zeros": Refused("s_zeros.csv", bytes(4096), BAD_SCHEMA, "NUL"),
    "unclosed quote in the header": Refused(
        "s_qhead.csv", text(sale(), header='"' + HEADER), BAD_SCHEMA, "quote in its header"
    ),
    "semicolons": Refused(
        "s_semi.csv", text(sale(), header=HEADER).replace(b",", b";"), BAD_SCHEMA, "separated by ;"
    ),
    "header of 3 MB": Refused(
        "s_long.csv", text(sale(), header=HEADER + "," + "x" * 3 * MEGABYTE), BAD_SCHEMA, "longer"
    ),
    "truncated archive": Refused(
        "s_cut.csv.gz", gzip.compress(GOOD.encode())[:-12], BAD_SCHEMA, "cut off or damaged"
    ),
    "damaged archive": Refused(
        "s_crc.csv.gz", gzip.compress(GOOD.encode())[:-8] + bytes(8), BAD_SCHEMA, "damaged"
    ),
    "no archive": Refused("s_no.csv.gz", GOOD.encode(), BAD_SCHEMA, "damaged"),
    "rubbish after the archive": Refused(
        "s_tail.csv.gz", gzip.compress(GOOD.encode()) + b"rubbish", BAD_SCHEMA, "damaged"
    ),
    "exploding archive": Refused("s_bomb.csv.gz", exploding(), WRONG_TYPE, "200 times its size"),
}

LINES = (row("a"), row("b"), row("c"))
TAKEN = {
    "BOM": Taken("s_t_bom.csv", b"\xef\xbb\xbf" + text(row("bom"))),
    "BOM and quotes": Taken("s_t_bomq.csv", b'\xef\xbb\xbf"customer_id"' + text(row("b"))[11:]),
    "CRLF": Taken("s_t_crlf.csv", text(*LINES, end="\r\n")),
    "CR": Taken("s_t_cr.csv", text(*LINES, end="\r")),
    "mixed line ends": Taken(
        "s_t_mixed.csv", text(row("lf")) + (row("crlf") + "\r\n" + row("cr") + "\r").encode()
    ),
    "no last line end": Taken("s_t_nonl.csv", text(*LINES)[:-1]),
    "CRLF, no last line end": Taken("s_t_crnonl.csv", text(*LINES, end="\r\n")[:-2]),
    "blank lines between": Taken("s_t_gaps.csv", text("", row("g1"), "", "", row("g2"), "")),
    "blank lines first": Taken("s_t_lead.csv", b"\n\r\n" + text(row("lead"))),
    "a line of blanks": Taken("s_t_white.csv", text(row("w"), "   "), ((3, None, "columns"),)),
    "quoted newlines": Taken("s_t_qn.csv", text(row('"two\nlines"'), row('"and\r\nthree\rmore"'))),
    "doubled quotes": Taken("s_t_dq.csv", text(row('"11"" pan"'), row('""""'), row('"a "" b"'))),
    "stray quotes": Taken("s_t_sq.csv", text(row('5" pipe'), row('6" x 7"'), row('tea"'))),
    "text after a quote": Taken(
        "s_t_after.csv",
        text(row('"tea"s'), row("fine"), row('"a"b"c"')),
        ((2, None, "quote"), (4, None, "quote")),
        "text follows a closing quote",
    ),
    "backslashes before quotes": Taken(
        "s_t_back.csv",
        text(row('"24\\""'), row("fine"), row('"TV 32\\" HD"'), row("good")),
        ((2, None, "quote"), (4, None, "quote")),
        "set `escape:",
    ),
    "two open quotes far apart": Taken(
        "s_t_far.csv",
        text(row('"oops'), *(row(f"n{n}") for n in range(2000)), row('oops"'), row("end")),
        ((2, None, "quote"),),
        "never closed within 1,000 lines",
    ),
    "blanks before a quote": Taken(
        "s_t_before.csv", text(row(' "tea"'), row(' "tea, green"')), ((3, None, "columns"),)
    ),
    "blanks after a quote": Taken("s_t_behind.csv", text(row('"tea" '), row(total='"1.00"  '))),
    "unclosed quote": Taken(
        "s_t_open.csv",
        text(row("fine"), row('"oops'), row("lost")),
        ((3, None, "quote"),),
        "never closed",
    ),
    "unclosed quote in the last column": Taken(
        "s_t_open2.csv",
        text(row() + ",x", row() + ',"oops', row() + ",y", header=HEADER + ",note"),
        ((3, None, "quote"),),
        "its line is kept out alone",
    ),
    "a quote closed much later": Taken(
        "s_t_late.csv",
        text(row('"oops'), row('lost",1'), row("fine")),
        ((2, None, "columns"),),
        "a quote is opened",
    ),
    "ragged rows": Taken(
        "s_t_ragged.csv",
        text(row("fine"), row() + ",9", "1,2", row() + ",", row("end")),
        ((3, None, "columns"), (4, None, "columns"), (5, None, "columns")),
        "the row has 2 values, the header 8",
    ),
    "NUL bytes": Taken(
        "s_t_nul.csv", text(row("fine"), row("t\0a"), row("x")), ((3, None, "nul_byte"),), "NUL"
    ),
    "latin-1": Taken(
        "s_t_l1.csv",
        text(row("café"), row("tea")).decode().encode("latin-1"),
        ((2, None, "encoding"),),
        "is not UTF-8",
    ),
    "truncated UTF-8": Taken(
        "s_t_u8.csv", text(row("tea"), row("é"))[:-1] + "é".encode()[:1], ((3, None, "encoding"),)
    ),
    "truncated last record": Taken(
        "s_t_cut.csv", text(row("fine"), row("cut")).rstrip()[:-9], ((3, None, "columns"),)
    ),
    "record cut in its date": Taken(
        "s_t_cut2.csv",
        (HEADER + "\n" + row("fine") + "\n1,1,tea,2024-0").encode(),
        ((3, None, "columns"),),
    ),
    "a line of 3 MB": Taken(
        "s_t_3mb.csv",
        text(row("a"), row("x" * 3 * MEGABYTE), row("b")),
        ((3, None, "too_long"),),
        "longer than",
    ),
    "a line of 3 MB with a quote inside": Taken(
        "s_t_3mbq.csv",
        text(row("a"), row('"two\n' + "x" * 3 * MEGABYTE + '"'), row("b")),
        ((3, None, "too_long"),),
    ),
    "a line of 1.5 MB across chunks": Taken(
        "s_t_1mb.csv",
        text(*[row(f"n{n}") for n in range(15000)], row("x" * (3 * MEGABYTE // 2)), row(total="x")),
        ((15002, None, "too_long"), (15003, "total_cost", "type")),
    ),
    "a row of a million wide characters": Taken(
        "s_t_wide.csv", text(row("🫖" * 1_000_000), row("b")), ((2, None, "too_long"),)
    ),
    "amounts that are none": Taken(
        "s_t_amount.csv",
        text(
            row("ok", "7"),
            row("e", "1e400"),
            row("n", "NaN"),
            row("i", "inf"),
            row("de", '"1.234,50"'),
            row("m", "1.005"),
            row("s", "1e3"),
            row("u", "1_000"),
            row("empty", ""),
            row("b", "  "),
            row("big", "1000000000000"),
            row("fine", "12.500"),
        ),
        (
            *((line, "total_cost", "type") for line in range(3, 10)),
            (10, "total_cost", "mandatory"),
            (11, "total_cost", "mandatory"),
            (12, "total_cost", "type"),
        ),
        "total_cost should be an amount such as 1234.50",
    ),
    "days that are none": Taken(
        "s_t_day.csv",
        text(
            *(
                row(str(n), sales_date=text)
                for n, text in enumerate(
                    (
                        "2024-02-29",
                        " 2024-03-01",
                        "2024-02-31",
                        "2023-02-29",
                        "2024-01-05 10:00:00",
                        "05.01.2024",
                        "2024-1-5",
                        "infinity",
                        "-infinity",
                        "epoch",
                        "12024-01-05",
                        "0044-03-15 (BC)",
                        "0000-01-01",
                        "today",
                    )
                )
            )
        ),
        tuple((line, "sales_date", "type") for line in range(4, 16)),
        "sales_date should be a date such as 2024-01-31",
    ),
    "numbers that are none": Taken(
        "s_t_int.csv",
        text(
            *(
                row(str(n), quantity=text)
                for n, text in enumerate(
                    (
                        " 7 ",
                        "007",
                        "+5",
                        "-3",
                        "1.5",
                        "1.0",
                        "1e3",
                        "1_000",
                        "0x1F",
                        "2147483648",
                        "x",
                    )
                )
            )
        ),
        tuple((line, "quantity", "type") for line in range(6, 13)),
        "quantity should be a whole number such as 42",
    ),
    "all rows bad": Taken(
        "s_t_all.csv",
        text(row("", "")),
        ((2, "product_name", "mandatory"),),
        "product_name is empty",
    ),
    "odd extra names": Taken(
        "s_t_extra.csv",
        text(row() + ",1,2,3,4", header=HEADER + ',"a ""b""",it\'s,"line\nbreak",'),
    ),
    "header over two lines": Taken(
        "s_t_head2.csv",
        text(row() + ",x", row("", "") + ",y", header=HEADER + ',"pay\nmode"'),
        ((4, "product_name", "mandatory"),),
    ),
    "gzip": Taken("s_t_gz.csv.gz", gzip.compress(text(row("packed")))),
    "gzip of two members": Taken(
        "s_t_gz2.csv.gz", gzip.compress(text(row("first"))) + gzip.compress(row("2").encode())
    ),
    "upper-case name": Taken("S_T_UPPER.CSV", text(row("upper"))),
}

NAMES = {
    "quotes": 's_it\'s "5".csv',
    "brackets": "s_[0-9].csv",
    "star": "s_*.csv",
    "question mark": "s_?{a,b}.csv",
    "newline": "s_two\nlines.csv",
    "dots": "s_..csv",
    "backslashes": "s_..\\..\\up.csv",
    "percent": "s_%2e%2e%2fup%00.csv",
    "SQL": "s_'); DROP TABLE files; --.csv",
    "folder": "till 1/[x]/s_deep.csv",
    "folder of dots": "till.../s_dots.csv",
    "accents": "s_größe_✓.csv",
    "option": "-s_rf.csv",
    "shell": "s_$(touch x)`id`.csv",
    "partition": "sales_month=2024-01/s_hive.csv",
    "braces": "s_{0}%s.csv",
    "control characters": "s_\x1b[31m\t.csv",
}


@dataclass(frozen=True)
class Aftermath:
    """A shop after one run over a good file and many hostile ones."""

    shop: Shop
    report: RunReport

    @cached_property
    def refused(self) -> list[tuple[str, int, str | None, str, str, str]]:
        """All quarantined rows."""
        return self.shop.refused()

    @cached_property
    def totals(self) -> dict[str, Decimal]:
        """What customer_mart holds of each file."""
        with self.shop.open().ledger() as ledger:
            paths = {f.file_id: f.path for f in ledger.files.in_state(FileState.LOADED)}
        mart = self.shop.open().mart("customer_mart")
        sums = mart.aggregate("_file_id, sum(total_cost)").fetchall()
        return {paths[file_id]: total for file_id, total in sums}

    def line(self, name: str) -> FileLine:
        [line] = [line for line in self.report.files if line.path == name]
        return line

    def assert_good_is_counted(self) -> None:
        good = self.line("sales_good.csv")
        assert (good.state, good.records, good.loaded) == ("loaded", 2, 2)
        assert self.totals["sales_good.csv"] == Decimal("100.01")

    def assert_conserved(self, name: str, content: bytes) -> Judgement:
        judged, line = judge(content), self.line(name)
        assert line.records == judged.records
        assert (line.loaded, line.quarantined) == (judged.good.total(), judged.bad.total())
        assert self.totals.get(name, Decimal(0)) == judged.money
        refused = [r for r in self.refused if r[0] == name]
        assert sorted(r[1] for r in refused) == sorted(line for line, _ in judged.bad.elements())
        return judged


def new_shop(folder: Path) -> Shop:
    """A shop for several tests, whose sales files need not be named so."""
    write_project(folder, sample=False)
    LocalBackend(folder).execute_in_shop(*shop_tables())
    feed = folder / "feeds" / "sales.yml"
    patterns = '["sales*.csv", "*s_*.csv", "*s_*.csv.gz"]'
    feed.write_text(re.sub(r"files: .*", f"files: {patterns}", feed.read_text()))
    return Shop(folder)


def unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def named(content: str) -> bytes:
    """Every name has content of its own: equal content would be a duplicate."""
    return text(row(content.encode().hex()), row("bad", "x"))


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over all files that must be refused."""
    shop = new_shop(tmp_path_factory.mktemp("refused"))
    shop.drop("sales_good.csv", GOOD)
    for case in REFUSED.values():
        shop.drop(case.name, case.content)
    return Aftermath(shop, shop.run())


@pytest.fixture(scope="module")
def takings(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over all files that are loaded but for their bad records."""
    shop = new_shop(tmp_path_factory.mktemp("taken"))
    shop.drop("sales_good.csv", GOOD)
    for case in TAKEN.values():
        shop.drop(case.name, case.content)
    return Aftermath(shop, shop.run())


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over good files with hostile names, a refused twin beside each."""
    shop = new_shop(tmp_path_factory.mktemp("names"))
    shop.drop("sales_good.csv", GOOD)
    for name in NAMES.values():
        shop.drop(name, named(name))
        shop.drop(name + ".txt", b"refused")
    return Aftermath(shop, shop.run())


@pytest.mark.parametrize("case", [pytest.param(c, id=i) for i, c in REFUSED.items()])
def test_a_file_is_refused_with_a_reason(refusals: Aftermath, case: Refused) -> None:
    """The file lies unchanged in its error folder, the reason beside it and in the report."""
    line = refusals.line(case.name)
    assert (line.state, line.records, line.loaded) == ("refused", None, None)
    assert case.words in str(line.message)
    assert len(str(line.message)) < 300
    place = refusals.shop.folder / "archive" / "error_files" / case.folder / case.name
    assert place.read_bytes() == case.content
    reason = place.with_name(place.name + ".reason.txt").read_text()
    assert reason == f"{case.name} {line.message}\n"
    assert not (refusals.shop.folder / "landing" / case.name).exists()


def test_refused_files_leave_nothing_in_the_marts(refusals: Aftermath) -> None:
    """Beside all the refused files the good one is counted, alone, and nothing is quarantined."""
    refusals.assert_good_is_counted()
    assert refusals.shop.refused() == []
    rows = refusals.shop.mart("customer_mart", "total_cost")
    assert rows == [(Decimal("0.01"),), (Decimal("100.00"),)]


@pytest.mark.parametrize("case", [pytest.param(c, id=i) for i, c in TAKEN.items()])
def test_bad_records_are_quarantined(takings: Aftermath, case: Taken) -> None:
    """Each bad record lies in quarantine with its place and raw text; all others are counted."""
    assert takings.line(case.name).state == "loaded"
    content = unpacked(case.content)
    judged = takings.assert_conserved(case.name, content)
    refused = sorted(r[1:] for r in takings.refused if r[0] == case.name)
    assert [(line, column, rule) for line, column, rule, *_ in refused] == sorted(case.bad)
    assert case.words in "; ".join(message for *_, message, _ in refused)
    for (line, raw), (told_line, *_, told_raw) in zip(sorted(judged.bad), refused, strict=True):
        assert line == told_line
        assert told_raw[: 2 * MEGABYTE] == raw[: 2 * MEGABYTE]


def test_taken_files_add_up(takings: Aftermath) -> None:
    """The mart's total is the sum of all that Python judges good, and no file is missing."""
    takings.assert_good_is_counted()
    files = [GOOD.encode(), *(unpacked(case.content) for case in TAKEN.values())]
    [total] = takings.shop.open().mart("customer_mart").sum("total_cost").fetchall()
    assert total[0] == sum(judge(content).money for content in files)
    assert takings.report.count("loaded") == len(files)


@pytest.mark.parametrize("name", [pytest.param(n, id=i) for i, n in NAMES.items()])
def test_a_files_name_is_only_a_name(names: Aftermath, name: str) -> None:
    """Whatever is in a name, the file is loaded, its bad row told, and it is archived under it."""
    names.assert_conserved(name, named(name))
    [batch] = names.report.batches
    archive = names.shop.folder / "archive"
    assert (archive / batch.archived_to / name).read_bytes() == named(name)
    refused = archive / "error_files" / "wrong_file_types" / f"{name}.txt"
    assert refused.read_bytes() == b"refused"
    assert refused.with_name(refused.name + ".reason.txt").read_text().startswith(f"{name}.txt is")


def test_names_lead_nowhere_else(names: Aftermath) -> None:
    """Nothing is written above or beside the project's own folders; landing is empty."""
    names.assert_good_is_counted()
    folder = names.shop.folder
    own = {"feeds", "tables", "marts", "landing", "archive", "lake", ".retailmart", ".schema"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= own
    assert not list(folder.parent.rglob("*up.csv.csv")) + list(folder.parent.glob("*.csv*"))
    assert [p for p in (folder / "landing").rglob("*") if not p.is_dir()] == []
    processed = [path for path in names.shop.archived() if path.startswith("processed/")]
    assert len(processed) == len(NAMES) + 1


def test_links_pipes_and_nameless_bytes_are_refused(shop: Shop, tmp_path: Path) -> None:
    """Links are moved, never followed; a FIFO is never read; a name of odd bytes is told."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "sales_secret.csv"
    secret.write_text(GOOD)
    landing = shop.folder / "landing"
    shop.drop("sales_good.csv", GOOD)
    (landing / "sales_link.csv").symlink_to(secret)
    (landing / "sales_dangling.csv").symlink_to(tmp_path / "nowhere")
    (landing / "folder").symlink_to(outside)
    (landing / "sales_loop.csv").symlink_to("sales_loop.csv")
    os.mkfifo(landing / "sales_pipe.csv")
    odd = os.fsencode(landing) + b"/sales_\xff.csv"
    Path(os.fsdecode(odd)).write_bytes(text(row("odd")))
    report = shop.run()
    after = Aftermath(shop, report)
    after.assert_good_is_counted()
    for name in ("sales_link.csv", "sales_dangling.csv", "folder", "sales_loop.csv"):
        assert "is a link" in str(after.line(name).message)
        moved = shop.folder / "archive" / "error_files" / "wrong_file_types" / name
        assert moved.is_symlink()
    assert "pipe or device" in str(after.line("sales_pipe.csv").message)
    assert "not UTF-8; rename it" in str(
        after.line(printable(os.fsdecode(b"sales_\xff.csv"))).message
    )
    assert secret.read_text() == GOOD
    assert report.count("refused") == 6
    assert list(landing.iterdir()) == []


def test_half_uploads_wait(shop: Shop) -> None:
    """Files under an upload's name, and one that still grows, stay until a later run."""
    shop.drop("sales_good.csv", GOOD)
    half = ["sales_1.csv.part", "sales_2.csv.tmp", "sales_3.csv.crdownload", "sales_4.filepart"]
    for name in half:
        shop.drop(name, text(row(name)))
    growing = shop.drop("sales_growing.csv", HEADER + "\n")
    full = threading.Event()

    def upload() -> None:
        with growing.open("a") as file:
            while not full.wait(0.01):
                file.write(sale(price="1.00") + "\n")
                file.flush()

    sender = threading.Thread(target=upload)
    sender.start()
    try:
        report = shop.run()
    finally:
        full.set()
        sender.join()
    assert report.waiting == (*half, "sales_growing.csv")
    Aftermath(shop, report).assert_good_is_counted()
    (shop.folder / "landing" / half[0]).rename(shop.folder / "landing" / "sales_1.csv")
    later = Aftermath(shop, shop.run())
    assert later.report.waiting == tuple(half[1:])
    later.assert_conserved("sales_1.csv", text(row(half[0])))
    later.assert_conserved("sales_growing.csv", growing_archived(shop).read_bytes())


def growing_archived(shop: Shop) -> Path:
    [path] = (shop.folder / "archive").rglob("sales_growing.csv")
    return path


def test_a_name_of_the_longest_length_is_refused(shop: Shop) -> None:
    """A refused file whose name leaves no room for .reason.txt does not stop the run."""
    shop.drop("sales_good.csv", GOOD)
    shop.drop("sales_" + "x" * 240 + ".csv", LACKING)
    report = shop.run()
    Aftermath(shop, report).assert_good_is_counted()
    assert report.count("refused") == 1


def test_each_refused_file_keeps_its_own_reason(shop: Shop) -> None:
    """Two refused files of one name lie side by side, each with the words for it."""
    for content in (LACKING, text()):
        shop.drop("sales_bad.csv", content)
        shop.run()
    folder = shop.folder / "archive" / "error_files" / "bad_schema"
    told = sorted(path.read_text() for path in folder.glob("*.reason.txt"))
    assert len(told) == 2
    assert "has a header but not a single row" in told[0]
    assert "lacks the column total_cost" in told[1]


def test_files_of_a_feeds_own_dialect(tmp_path: Path) -> None:
    """Texts of several tills: each row counts once, and each bad one is told with its line."""
    shop = new_shop(tmp_path / "shop")
    feed = shop.folder / "feeds" / "sales.yml"
    dialect = 'delimiter: [",", ";", "\\t"]\nskip_lines: 1\ncomment: "#"\n'
    feed.write_text(
        re.sub("files: .*", 'files: ["*s_*.txt", "*s_*.tsv.gz"]', feed.read_text()) + dialect
    )
    lines = [HEADER, row("fine"), row('"two\nlines"'), row("bad", "x"), "# end", row("last")]
    for name, delimiter in (("s_1.txt", ";"), ("s_2.txt", ",")):
        body = "\n".join(line.replace(",", delimiter) for line in lines)
        shop.drop(name, f"sep={delimiter}\nReport\n{body}")
        shop.drop(f"{name[:3]}b.txt", f"Report {name}\n{body}")
    body = "\n".join(line.replace(",", "\t") for line in lines)
    shop.drop("s_3.tsv.gz", gzip.compress(f"Report\n{body}\n".encode()))
    after = Aftermath(shop, shop.run())
    for line in after.report.files:
        assert (line.state, line.records, line.loaded) == ("loaded", 4, 3), line
    told = sorted((name, line, rule) for name, line, _, rule, *_ in after.refused)
    assert told == [
        ("s_1.txt", 7, "type"),
        ("s_1b.txt", 6, "type"),
        ("s_2.txt", 7, "type"),
        ("s_2b.txt", 6, "type"),
        ("s_3.tsv.gz", 6, "type"),
    ]


def test_a_projects_folder_may_have_any_name(tmp_path: Path) -> None:
    """Quotes and glob characters in the folder's own name change nothing."""
    shop = new_shop(tmp_path / "it's [my] *shop?")
    shop.drop("sales_good.csv", GOOD)
    Aftermath(shop, shop.run()).assert_good_is_counted()


# Generated files: what a strict reading finds is what is loaded, cell by cell.


@dataclass(frozen=True, repr=False)
class ScratchLake:
    """What loads files without a whole run: an engine, a lake and the sales feed."""

    engine: DuckDBEngine
    lake: Lake
    feed: Feed
    scratch: Path
    batches: Iterator[int]

    def load(self, contents: Sequence[bytes]) -> None:
        """Load files as one batch; each must come out as the judge says."""
        checked = {n: self.check(content) for n, content in enumerate(contents, 1)}
        files = {n: c for n, c in checked.items() if isinstance(c, CheckedFile)}
        for n in checked.keys() - files.keys():
            assert is_unloadable(contents[n - 1]), contents[n - 1]
        if not files:
            return
        batch = next(self.batches)
        items = [FileToLoad(ledger_file(n, batch), file) for n, file in files.items()]
        loaded = load(self.engine, self.lake, self.feed, items, {}, batch, self.scratch)
        accepted: dict[int, Counter[tuple[object, ...]]] = {n: Counter() for n in files}
        added = self.engine.define(loaded.added)
        columns = ", ".join((*COLUMNS, "additional_column", "_file_id"))
        for *cells, extra, n in self.engine.rows(f"SELECT {columns} FROM {added}"):
            more = json.dumps(json.loads(extra), sort_keys=True) if extra else None
            accepted[n][*cells, more] += 1
        refused: dict[int, Counter[tuple[int, str]]] = {n: Counter() for n in files}
        if loaded.quarantine:
            root = str(self.lake.folder(quarantine_table("sales")))
            held = self.engine.define(loaded.quarantine.applied_to(root, None))
            for n, line, raw in self.engine.rows(f"SELECT file_id, line, raw FROM {held}"):
                refused[n][line, raw] += 1
        for outcome in loaded.outcomes:
            content = contents[outcome.file_id - 1]
            judged = judge(content)
            assert accepted[outcome.file_id] == judged.good, content
            assert refused[outcome.file_id] == judged.bad, content
            assert outcome.records == judged.records, content
            assert outcome.loaded == judged.good.total(), content
            assert outcome.quarantined == judged.bad.total(), content

    def check(self, content: bytes) -> CheckedFile | Refusal:
        path = self.scratch / f"{sha256(content).hexdigest()}.csv"
        path.write_bytes(content)
        scan = Scan()
        # Small chunks put their seams everywhere.
        for start in range(0, len(content), 97):
            scan.feed(content[start : start + 97])
        return check_content(path, scan, self.feed, path.name)


def ledger_file(n: int, batch: int) -> LedgerFile:
    state = FileState.ACTIVE
    return LedgerFile(n, batch, f"{n}.csv", "", 0, "", state, "sales", None, None, None)


def is_unloadable(content: bytes) -> bool:
    """Whether the header, read strictly, is not what the feed needs, or no row follows it."""
    reader = strict_records(content.decode("utf-8-sig", "surrogateescape"))
    first = next(reader, None)
    header, raw = (first.cells or (), first.raw) if first else ((), "")
    names = [known(name, place) for place, name in enumerate(header, 1)]
    odd = "\0" in raw or any("\udc80" <= character <= "\udcff" for character in raw)
    whole_header = set(COLUMNS) <= set(names) and len(set(names)) == len(names)
    return odd or not whole_header or not any(reader) or content[:3] in (b"\xff\xfe", b"\xfe\xff")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchLake]:
    """A bench in a project of its own."""
    folder = tmp_path_factory.mktemp("bench")
    write_project(folder, sample=False)
    scratch = folder / "scratch"
    scratch.mkdir()
    lake = Lake(LocalPlace(folder / "lake"))
    lake.place.workspace.mkdir()
    engine = DuckDBEngine([lake.place], scratch, threads=1)
    engine.set_variables({"as_of": AS_OF})
    feed = load_project(folder).feeds["sales"]
    yield ScratchLake(engine, lake, feed, scratch, iter(range(1, 1_000_000)))
    engine.close()


ODD = st.text(alphabet="ab1 \",;\n\r\té\u00a0\\'#\u2028|", max_size=5)
BAD_CELLS = ("", " ", "x", "1.5", "NaN", "1e3", "2024-02-31", "0x1", '"', "-", "\t")
GOOD_CELLS: dict[str, tuple[str, ...]] = {
    "customer_id": ("1", "2", " 7 ", "007", "+5"),
    "store_id": ("1", "2"),
    "product_name": ("tea", "coffee"),
    "sales_date": ("2024-01-15", "2024-01-31", " 2024-02-29"),
    "sales_person_id": ("1", "3"),
    "price": ("10", "10.00", "12.500", ".5"),
    "quantity": ("1", "-1"),
    "total_cost": ("10", "10.00", "-0.01", "1.10 "),
}
DELIVERY = ("{0}", '"{1}"', '"{1}"', ' "{1}"', '"{1}" ', '"{1}"{0}', '{0}"', '"{0}')


@st.composite
def delivered_rows(draw: st.DrawFn, header: Sequence[str]) -> str:
    """A row as text: mostly sound, with odd cells, odd quoting and odd lengths."""
    cells = [draw(st.sampled_from(GOOD_CELLS.get(name, ("x",)))) for name in header]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(cells) - 1))
        content = draw(st.one_of(ODD, ODD, st.sampled_from(BAD_CELLS), st.just(cells[at])))
        cells[at] = draw(st.sampled_from(DELIVERY)).format(content, content.replace('"', '""'))
    if draw(st.integers(0, 15)) == 0:
        cells = cells[: draw(st.integers(1, len(cells)))] + ["z"] * draw(st.integers(0, 2))
    return ",".join(cells)


@st.composite
def headers(draw: st.DrawFn) -> list[str]:
    """A header that names all columns, in two orders, with odd extra names."""
    extra = [[], [], ["note"], ['"pay, ""mode"""', "b"], ['"two\nlines"'], ['"cut\rhere"']]
    header = [*COLUMNS, *draw(st.sampled_from(extra))]
    return header if draw(st.booleans()) else [*reversed(header[1:]), header[0].upper() + " "]


@st.composite
def delivered_files(draw: st.DrawFn, header: Sequence[str]) -> bytes:
    """A sales file with flaws of every sort, at times a byte out of place."""
    plain = [name.strip().lower() for name in header]
    line = st.one_of(*[delivered_rows(plain)] * 6, st.sampled_from(["", " ", "\t", ",", '""']))
    rows = draw(st.lists(line, min_size=1, max_size=5))
    lead = draw(st.sampled_from(["", "", "", "\ufeff", "\n", "\r\n\n"]))
    ends = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r\n", "\r", "mixed"]))
    text = lead + ",".join(header)
    for row in rows:
        text += draw(st.sampled_from(["\n", "\r\n", "\r"])) if ends == "mixed" else ends
        text += row
    text += draw(st.sampled_from(["", "\n", "\n", "\r\n"]))
    content = text.encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(content)))
        byte = draw(st.sampled_from([b'"', b'"', b",", b"\n", b"\r", b"\0", b"\xff", b" ", b'" ']))
        content = content[:at] + byte + content[at + draw(st.integers(0, 1)) :]
    return content


@settings(
    max_examples=tries(25, 1_000),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_generated_files_load_as_read_strictly(bench: ScratchLake, data: st.DataObject) -> None:
    """No cell differs from a strict reading, no record is lost, each bad one has line and text."""
    files = delivered_files(data.draw(headers()))
    bench.load(data.draw(st.lists(files, min_size=8, max_size=10, unique=True)))
