"""Hostile files with what must become of each, and a strict judge of what a file holds."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from tests.support.shop import HEADER, sale
from tests.support.strict_csv import strict_records

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
    "other ending": Refused("s_other.txt", text(sale()), WRONG_TYPE, "is no CSV file"),
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
