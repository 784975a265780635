"""A cell's text becomes a typed value only where it says exactly that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.feeds.casts import attempt, expected, likely_causes, plain, plain_or_as_it_is, typed
from retailmart.project.feed import Column
from retailmart.project.types import parse_type
from retailmart.project.writing import Marks
from tests.support.amount import SEED

MONEY = "DECIMAL(12,2)"
EXACT: dict[str, dict[str, object]] = {
    "INT": {
        "7": 7,
        " 7 ": 7,
        "007": 7,
        "+5": 5,
        "-3": -3,
        "-0": 0,
        "\t7": 7,
        "2147483647": 2**31 - 1,
    },
    "BIGINT": {"9223372036854775807": 2**63 - 1, "00012": 12},
    MONEY: {
        "12.50": Decimal("12.50"),
        "12.5": Decimal("12.50"),
        "12.500": Decimal("12.50"),
        "12": Decimal("12.00"),
        "12.": Decimal("12.00"),
        ".5": Decimal("0.50"),
        "-.05": Decimal("-0.05"),
        "+1.10 ": Decimal("1.10"),
        "-0.00": Decimal("0.00"),
        "9999999999.99": Decimal("9999999999.99"),
    },
    "DECIMAL(5,0)": {"12.0": Decimal(12), "12.": Decimal(12), ".0": Decimal(0), "12": Decimal(12)},
    "DATE": {
        "2024-02-29": date(2024, 2, 29),
        " 2024-01-05 ": date(2024, 1, 5),
        "0001-01-01": date(1, 1, 1),
        "9999-12-31": date(9999, 12, 31),
    },
    "TIMESTAMP": {
        "2024-01-05T10:00:00Z": datetime(2024, 1, 5, 10),
        "2024-01-05 10:00": datetime(2024, 1, 5, 10),
        "2024-01-05T10:00:00.25+05:30": datetime(2024, 1, 5, 4, 30, 0, 250000),
        "2024-03-11T02:10:12-05:00": datetime(2024, 3, 11, 7, 10, 12),
        "2024-03-11 02:10:12+00": datetime(2024, 3, 11, 2, 10, 12),
        "2024-03-11 02:10:12.5-05": datetime(2024, 3, 11, 7, 10, 12, 500000),
        "2024-03-11 02:10:12 UTC": datetime(2024, 3, 11, 2, 10, 12),
        " 2024-03-11T02:10:12UTC ": datetime(2024, 3, 11, 2, 10, 12),
        "2024-03-11 02:10:12 -0500": datetime(2024, 3, 11, 7, 10, 12),
        "2024-03-11 02:10:12 -05:00": datetime(2024, 3, 11, 7, 10, 12),
        "2024-03-11 02:10:12 Z": datetime(2024, 3, 11, 2, 10, 12),
        "2024-03-11T02:10:12.1230000-05:00": datetime(2024, 3, 11, 7, 10, 12, 123000),
        "2024-03-11T02:10:12.123456000Z": datetime(2024, 3, 11, 2, 10, 12, 123456),
        "9999-12-31T18:59:59-05:00": datetime(9999, 12, 31, 23, 59, 59),
    },
    "BOOLEAN": {
        "true": True,
        "YES": True,
        " n ": False,
        "0": False,
        "t": True,
        "f": False,
        " T ": True,
        "F\t": False,
    },
    "DOUBLE": {"1.5": 1.5, "-1.5E-3": -0.0015},
    "STRING": {"tea": "tea", " a ": " a ", "NULL": "NULL", '"': '"'},
}
NO_NUMBERS = ("", " ", "x", "NaN", "inf", "1_000", "0x1F", "0b1", "--3", "- 3", "1 000", "١", "1,5")
NONE: dict[str, tuple[str, ...]] = {
    "INT": (*NO_NUMBERS, "1.5", "1.0", "1e3", "2147483648", "-2147483649", "true"),
    "BIGINT": (*NO_NUMBERS, "1.5", "1e3", "9223372036854775808"),
    MONEY: (*NO_NUMBERS, ".", "1.005", "1e3", "1e400", "1.234,50", "1,234.50", "$5", "10000000000"),
    "DECIMAL(5,0)": ("0.5", ".5", ".9", "1.5", "99999.9", "100000"),
    "DATE": (
        *("", "2024-02-31", "2023-02-29", "2024-01-05 10:00:00", "2024-01-05T00:00:00Z"),
        *("2024-1-5", "20240105", "05.01.2024", "2024/01/05", "2024-13-01", "2024-01", "today"),
        *("infinity", "-infinity", " infinity ", "epoch", "12024-01-05", "0044-03-15 (BC)"),
        *("0000-01-01", " 0000-01-01"),
    ),
    "TIMESTAMP": (
        *("", "2024-01-05", "2024-02-31T10:00:00Z", "2024-01-05T25:00:00Z", "infinity", "epoch"),
        *("2024-01-05T10:00:00  UTC", "2024-01-05 10:00:00 EST", "2024-01-05T10:00:00 +5"),
        *("9999-12-31T19:00:00-05:00", "0001-01-01T00:00:00+05:00", "2024-01-05T10:00:00.Z"),
        *("2024-01-05T10:00:00.1234567Z", "0000-01-05T10:00:00Z", "2024-01-05T10:00:00+99:00"),
    ),
    "BOOLEAN": ("", "2", "tru", "tf", "ja"),
    "DOUBLE": ("", "NaN", "inf", "1e400", "9" * 400, "0x1p3", "1_0"),
    "STRING": ("", "  "),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    """The default engine, without files."""
    engine = DuckDBEngine([], tmp_path_factory.mktemp("scratch"))
    yield engine
    engine.close()


def cast(
    engine: DuckDBEngine, texts: list[str], kind: str, *, doubts: bool = False, form: str = "t"
) -> list[object]:
    """What each text becomes, times in UTC; None where it is refused.

    `form` is SQL that makes the plain form of a text `t`.
    """
    column = parse_type(kind)
    numbered = {"n": pa.array(range(len(texts))), "t": pa.array(texts, pa.string())}
    cells = engine.values(pa.table(numbered))
    value = typed("p", attempt("p", column), column, doubts=doubts)
    if kind == "TIMESTAMP":
        value = f"({value}) AT TIME ZONE 'UTC'"
    plain_cells = f"(SELECT n, {form} AS p FROM {cells})"
    return [row[0] for row in engine.rows(f"SELECT {value} FROM {plain_cells} ORDER BY n")]


def declared(
    engine: DuckDBEngine,
    texts: list[str],
    kind: str,
    *formats: str,
    **marks: Any,
) -> list[object]:
    """What each text becomes where the feed declares how a column is written."""
    column = Column(
        *("c", parse_type(kind), False, (), None), formats=formats, marks=Marks(**marks)
    )
    return cast(engine, texts, kind, form=plain("t", column))


@pytest.mark.parametrize("kind", EXACT)
def test_exact_texts_are_taken(engine: DuckDBEngine, kind: str) -> None:
    """Padding, signs, leading and trailing zeros are no reason to refuse."""
    given = EXACT[kind]
    assert dict(zip(given, cast(engine, list(given), kind), strict=True)) == given


@pytest.mark.parametrize("kind", NONE)
def test_all_else_is_refused(engine: DuckDBEngine, kind: str) -> None:
    """What engines would round, cut, guess or overflow becomes no value."""
    taken = zip(NONE[kind], cast(engine, list(NONE[kind]), kind), strict=True)
    assert [(text, value) for text, value in taken if value is not None] == []


@settings(max_examples=25)
@given(amounts=st.lists(st.text("0123456789.+-e_ ,", min_size=1, max_size=14), min_size=50))
def test_money_is_what_decimal_says(engine: DuckDBEngine, amounts: list[str]) -> None:
    """A text that becomes an amount is that very amount to Python's Decimal."""
    for text, value in zip(amounts, cast(engine, amounts, MONEY), strict=True):
        assert value is None or value == Decimal(text.strip()), text


@settings(max_examples=15)
@given(
    amounts=st.lists(
        st.decimals(-(10**10) + 1, 10**10 - 1, places=2, allow_nan=False), min_size=50
    ),
    days=st.lists(st.dates(), min_size=50),
)
def test_plain_values_come_through(
    engine: DuckDBEngine, amounts: list[Decimal], days: list[date]
) -> None:
    """Every amount of the type's width and every day of the calendar reads back."""
    assert cast(engine, [f"{amount:f}" for amount in amounts], MONEY) == amounts
    assert cast(engine, [day.isoformat() for day in days], "DATE") == days


@pytest.mark.parametrize("kind", EXACT)
def test_people_are_told_what_is_expected(kind: str) -> None:
    """Each type has its words, with an example where it needs one."""
    words = expected(parse_type(kind))
    assert words.startswith(("a", "true"))
    assert "DECIMAL" not in words


# blanks that hold words together


@pytest.mark.parametrize("kind", [kind for kind in EXACT if kind != "STRING"])
@pytest.mark.parametrize("blank", ["\u00a0", "\u202f", " \u00a0\t"])
def test_no_break_spaces_are_blanks(engine: DuckDBEngine, kind: str, blank: str) -> None:
    """What is exact stays so with no-break spaces around it; within, they are no blanks."""
    given = list(EXACT[kind])
    assert cast(engine, [f"{blank}{text}{blank}" for text in given], kind) == cast(
        engine, given, kind
    )
    assert cast(engine, [f"1{blank}2", blank], kind) == [None, None]


# three digits behind a point


def test_three_decimals_may_be_thousands(engine: DuckDBEngine) -> None:
    """With doubts, what could be groups of three is no amount; all else is as ever."""
    doubtful = {
        MONEY: ["3.000", "-3.000", "+12.500", " 999.990 "],
        "DECIMAL(12,1)": ["3.000", "12.500"],
        "DECIMAL(5,0)": ["3.000"],
    }
    for kind, texts in doubtful.items():
        assert cast(engine, texts, kind, doubts=True) == [None] * len(texts)
        assert None not in cast(engine, texts, kind)
    for kind in (MONEY, "DECIMAL(5,0)", "DECIMAL(9,1)", "DECIMAL(9,3)", "INT", "DATE"):
        texts = [t for t in EXACT.get(kind, EXACT[MONEY]) if not re.search(r"[1-9]\.\d{3}\b", t)]
        texts += ["0.500", "1234.500", "3.0000", "12.5000", ".000", "3.0", "3.00", "0.000"]
        texts = [text for text in texts if text != "12.500"]
        assert cast(engine, texts, kind, doubts=True) == cast(engine, texts, kind)
    assert cast(engine, ["3.000"], "DECIMAL(9,3)", doubts=True) == [Decimal("3.000")]


# numbers in other marks

SHOPS: dict[str, tuple[dict[str, Any], dict[str, str | None]]] = {
    "german": (
        {"decimal": ",", "thousands": "."},
        {
            **{"1.234,56": "1234.56", "-3.000": "-3000", "12,5": "12.50", "1234,56": "1234.56"},
            **{"1.234.567,8": "1234567.80", "0,05": "0.05", ",5": "0.50", "7,": "7", "0": "0"},
            **{"3.0": None, "1.23,4": None, "12.34": None, "0.123": None, "1.2345": None},
            **{"1234.567": None, "1,234.56": None, "1,2,3": None, "1.234,567": None, ".5": None},
            **{"": None, " ": None, "-": None, "1..234": None, "1.234.": None, "1 234": None},
        },
    ),
    "decimal comma": (
        {"decimal": ","},
        {"3,000": "3.00", "12,5": "12.5", "-3.000": None, "1.234,50": None, "1,005": None},
    ),
    "french": (
        {"decimal": ",", "thousands": " ", "currency": ("€",)},
        {
            **{"1\u202f234,56 €": "1234.56", "1\u00a0234,5\u00a0€": "1234.50", "1 234": "1234"},
            **{"€5": "5", "12 34": None, "1  234": None, "5 $": None, "€ 5 €": None},
        },
    ),
    "american": (
        {"thousands": ",", "currency": ("$", "US$"), "parentheses": True},
        {
            **{"$1,240.00": "1240", "($5.00)": "-5", "(1.50)": "-1.50", "$(2)": "-2", "-$3": "-3"},
            **{"$-3": "-3", "US$ 1,000": "1000", "(1,234.50)": "-1234.50", "( 7 )": "-7"},
            **{"(5": None, "5)": None, "-(5)": None, "((5))": None, "()": None, "$": None},
            **{"-$-3": None, "1,24.00": None, "$5$": None, "+5": "5", "(-5)": None, "$$5": None},
        },
    ),
    "swiss": (
        {"thousands": "'", "currency": ("Fr.", "CHF")},
        {"Fr. 1'234.50": "1234.50", "CHF 5": "5", "5 Fr.": "5", "5Fr.0": None, "1'23": None},
    ),
    "plain with signs": ({"currency": ("€",)}, {"€ 5.00": "5", "5.00": "5", "1,5": None}),
}


@pytest.mark.parametrize("shop", SHOPS)
def test_numbers_are_read_by_their_marks(engine: DuckDBEngine, shop: str) -> None:
    """Groups are of three, signs stand once, and what breaks that is no amount."""
    marks, texts = SHOPS[shop]
    said = [None if value is None else Decimal(value) for value in texts.values()]
    taken = declared(engine, list(texts), MONEY, **marks)
    assert dict(zip(texts, taken, strict=True)) == dict(zip(texts, said, strict=True))


def test_marks_hold_for_all_numbers(engine: DuckDBEngine) -> None:
    """Whole numbers have groups, and floating ones exponents; bounds are as ever."""
    marks = {"decimal": ",", "thousands": "."}
    assert declared(engine, ["1.234", "2.147.483.648", "1,0"], "INT", **marks) == [1234, None, None]
    assert declared(engine, ["2.147.483.648"], "BIGINT", **marks) == [2**31]
    assert declared(engine, ["1.234,5", "1,5E-3", "1,5e+3"], "DOUBLE", **marks) == [
        *(1234.5, 0.0015, 1500.0)
    ]


def written(amount: Decimal, marks: Marks, random: Random) -> str:
    """An amount as a till with these marks writes it, with or without what may be left out."""
    grouped = random.random() < 0.7 and marks.thousands
    text = f"{abs(amount):{',' if grouped else ''}f}"
    text = text.replace(",", "T").replace(".", marks.point).replace("T", marks.thousands or "")
    if marks.thousands == " ":
        text = text.replace(" ", random.choice(" \u00a0\u202f"))
    if marks.currency and random.random() < 0.7:
        sign, blank = random.choice(marks.currency), random.choice(["", " ", "\u00a0"])
        text = random.choice([f"{sign}{blank}{text}", f"{text}{blank}{sign}"])
    if amount < 0:
        text = f"({text})" if marks.parentheses and random.random() < 0.5 else f"-{text}"
    return random.choice(["", " ", "\u202f"]) + text


def judged(text: str, marks: Marks) -> Decimal | None:
    """What a text says in these marks, taken apart by hand; None where nobody should guess."""
    blanks = " \t\n\r\f\v\u00a0\u202f"
    text, negative = text.strip(blanks.replace("\v", "")), False

    def without_sign(said: str) -> str:
        for sign in sorted(marks.currency, key=len, reverse=True):
            if said.startswith(sign):
                return said.removeprefix(sign).lstrip(blanks)
            if said.endswith(sign):
                return said.removesuffix(sign).rstrip(blanks)
        return said

    if marks.parentheses and "(" in text:
        inner = without_sign(text)
        if not (inner.startswith("(") and inner.endswith(")")):
            return None
        once = inner != text
        text, negative = inner[1:-1].strip(blanks), True
        text = text if once else without_sign(text)
        if text[:1] in ("+", "-"):
            return None
    else:
        minus = text[:1] in ("+", "-")
        negative, text = text[:1] == "-", text[1:] if minus else text
        bare = without_sign(text)
        if bare[:1] in ("+", "-") and not minus and text[:1] != bare[:1] and bare != text:
            negative, bare = bare[0] == "-", bare[1:]
        text = bare
    whole, _, rest = text.partition(marks.point)
    groups = re.split(
        "[ \u00a0\u202f]" if marks.thousands == " " else re.escape(marks.thousands or "\0"), whole
    )
    if len(groups) > 1:
        if any(len(group) != 3 for group in groups[1:]) or not 1 <= len(groups[0]) <= 3:
            return None
        if groups[0].startswith("0"):
            return None
    digits = "".join(groups)
    if not re.fullmatch("[0-9]*", digits + rest) or not digits + rest:
        return None
    value = Decimal(f"{digits or 0}.{rest or 0}")
    value = -value if negative else value
    return value if value == value.quantize(Decimal("0.01")) else None


@pytest.mark.parametrize("shop", SHOPS)
def test_generated_numbers_are_what_decimal_says(engine: DuckDBEngine, shop: str) -> None:
    """What a till writes comes through, and a text that was changed is what it says or nothing."""
    random, marks = Random(f"{SEED} {shop}"), Marks(**SHOPS[shop][0])
    amounts = [
        Decimal(random.randint(-(10 ** random.randint(1, 9)), 10**8)) / 100 for _ in range(400)
    ]
    texts = [written(amount, marks, random) for amount in amounts]
    assert declared(engine, texts, MONEY, **SHOPS[shop][0]) == amounts
    signs = "".join(marks.currency) + "0123456789.,' ()+-\u00a0"
    broken = []
    for text in texts * 5:
        place = random.randint(0, len(text))
        broken.append(text[:place] + random.choice(signs) + text[place + random.randint(0, 1) :])
    taken = declared(engine, broken, MONEY, **SHOPS[shop][0])
    for text, value in zip(broken, taken, strict=True):
        assert value == judged(text, marks), text


# dates and times in other orders

FORMATS = (
    *("%m/%d/%Y", "%d.%m.%Y", "%Y%m%d", "%d%m%y", "%m/%d/%y", "%d-%b-%Y", "%d %B %Y", "%Y/%m/%d"),
    *("%B %d, %Y", "%-m/%-d/%Y", "%d.%m.%Y 0:00"),
)
CLOCKS = ("%H:%M", "%H:%M:%S", "%I:%M %p", "%H:%M:%S.%f", "%H:%M:%S %z", "%I:%M:%S%p")


@pytest.mark.parametrize("form", FORMATS)
def test_days_are_read_by_their_format(engine: DuckDBEngine, form: str) -> None:
    """Every day that Python writes so comes through, and what it cannot read is refused."""
    random = Random(f"{SEED} {form}")
    first, last = (date(1969, 1, 1), date(2068, 12, 31)) if "%y" in form else (date.min, date.max)
    days = [
        date.fromordinal(random.randint(first.toordinal(), last.toordinal())) for _ in range(300)
    ]
    python = form.replace("%-", "%")
    texts = [day.strftime(python.replace("%Y", f"{day.year:04d}")) for day in days]
    assert declared(engine, texts, "DATE", form) == days
    broken = []
    for text in texts * 3:
        place = random.randint(0, len(text))
        change = random.choice("0123456789/.-, xJ")
        broken.append(text[:place] + change + text[place + random.randint(0, 1) :])
    for text, value in zip(broken, declared(engine, broken, "DATE", form), strict=True):
        if value is not None:
            assert value == datetime.strptime(text.strip(), python).date(), text
    assert declared(engine, ["", "2019-1-1x", "13/13/2019", "\u00a0"], "DATE", form) == [None] * 4


@pytest.mark.parametrize("clock", CLOCKS)
def test_moments_are_read_by_their_format(engine: DuckDBEngine, clock: str) -> None:
    """Times are in UTC, whatever their offset; one without is UTC."""
    random, form = Random(f"{SEED} {clock}"), f"%m/%d/%Y {clock}"
    zone = timezone(timedelta(hours=-5, minutes=-30)) if "%z" in clock else UTC
    moments = []
    for _ in range(300):
        seconds = random.randint(0, 10**10) / (1 if "%S" in clock else 60)
        moment = datetime(1800, 1, 1, tzinfo=zone) + timedelta(seconds=int(seconds))
        moments.append(
            moment.replace(
                second=moment.second if "%S" in clock else 0,
                microsecond=random.randint(0, 10**6 - 1) if "%f" in clock else 0,
            )
        )
    texts = [moment.strftime(form) for moment in moments]
    said = [moment.astimezone(UTC).replace(tzinfo=None) for moment in moments]
    assert declared(engine, texts, "TIMESTAMP", form) == said


def test_a_zone_may_be_z(engine: DuckDBEngine) -> None:
    """An offset of a format is also Z, with a colon or of hours alone; none at all is refused."""
    texts = ["1/5/2019 3:00 Z", "1/5/2019 3:00 +00", "1/5/2019 3:00 -01:00", "1/5/2019 3:00"]
    taken = declared(engine, texts, "TIMESTAMP", "%m/%d/%Y %H:%M %z")
    assert taken == [datetime(2019, 1, 5, 3)] * 2 + [datetime(2019, 1, 5, 4), None]


def test_what_formats_read_differently_is_refused(engine: DuckDBEngine) -> None:
    """Of several formats one is enough, unless others say another day."""
    texts = ["12/31/2019", "31/12/2019", "1/5/2019", "5/5/2019", "2019-12-31"]
    taken = declared(engine, texts, "DATE", "%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d")
    last = date(2019, 12, 31)
    assert taken == [last, last, None, date(2019, 5, 5), last]


def test_cells_of_unknown_writers_are_not_guessed(engine: DuckDBEngine) -> None:
    """Where the declared form and the plain one say different numbers, there is none."""
    marks = Marks(decimal=",", thousands=".")
    column = Column("c", parse_type(MONEY), False, (), None, marks=marks)
    texts = ["12.5", "12,5", "3.000", "+5", " 7 ", "x", "1.234,50"]
    taken = cast(engine, texts, MONEY, form=plain_or_as_it_is("t", column))
    said = ["12.5", "12.5", None, "5", "7", None, "1234.50"]
    assert taken == [None if one is None else Decimal(one) for one in said]


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("DATE", "12/31/2019", "its month seems to stand first"),
        ("TIMESTAMP", "31.12.2019 10:00", "its day seems to stand first"),
        ("DATE", "1/5/2019", "its day or its month stands first"),
        ("DATE", "2019/01/05", "it has other marks"),
        ("DATE", "20190105", "it has no marks"),
        (MONEY, "-3.000", "its point may stand before decimals or between thousands"),
        (MONEY, "1.234,56", "it seems to have a comma before its decimals"),
        (MONEY, "12,5", "it seems to have a comma before its decimals"),
        ("INT", "1,234", "it seems to have commas between thousands"),
        (MONEY, "$4.50", "it seems to have the sign of a currency"),
        (MONEY, "-$ 4.50", "it seems to have the sign of a currency"),
        (MONEY, "EUR 3.00", "it seems to have the sign of a currency"),
        (MONEY, "4.50 zł", "it seems to have the sign of a currency"),
        ("INT", "Rs. 5", "it seems to have the sign of a currency"),
        (MONEY, "(4.50)", "it may be a negative number in parentheses"),
        (MONEY, "4.5.0", None),
        (MONEY, "free", None),
    ],
)
def test_likely_causes_are_told(
    engine: DuckDBEngine, kind: str, text: str, words: str | None
) -> None:
    """Date order and marks are told to those who have not declared them."""
    column = Column("c", parse_type(kind), False, (), None)
    assert causes(engine, column, text) == ([words] if words else [])


def test_marks_are_told_beside_a_currency(engine: DuckDBEngine) -> None:
    """All that must be declared for a value is told at once, and what is declared no more."""
    column = Column("c", parse_type(MONEY), False, (), None)
    currency, comma = "it seems to have the sign of a currency", "it seems to have a comma before"
    both = causes(engine, column, "1.234,50 €")
    assert [said[: len(wanted)] for said, wanted in zip(both, (currency, comma), strict=True)] == [
        currency,
        comma,
    ]
    euros = replace(column, marks=Marks(currency=("€",)))
    assert causes(engine, euros, "1.234,50 €") == ["it seems to have a comma before its decimals"]


def causes(engine: DuckDBEngine, column: Column, text: str) -> list[str]:
    """The beginnings of the messages that fit a text."""
    known = likely_causes(column, "t")
    fits = ", ".join(condition for _, condition in known)
    found = engine.rows(f"SELECT {fits} FROM (SELECT '{text}' AS t)")[0]
    told = [said for (said, _), is_so in zip(known, found, strict=True) if is_so]
    return [said.partition(":")[0] for said in told]
