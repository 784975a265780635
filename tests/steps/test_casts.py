"""A cell's text becomes a typed value only where it says exactly that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.project.types import parse_type
from retailmart.steps.casts import attempt, expected, typed

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
    },
    "BOOLEAN": {"true": True, "YES": True, " n ": False, "0": False},
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
        *("2024-01-05T10:00:00.1234567Z", "0000-01-05T10:00:00Z", "2024-01-05T10:00:00+99:00"),
    ),
    "BOOLEAN": ("", "2", "tru", "t"),
    "DOUBLE": ("", "NaN", "inf", "1e400", "9" * 400, "0x1p3", "1_0"),
    "STRING": ("", "  "),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    """The default engine, without files."""
    engine = DuckDBEngine([], tmp_path_factory.mktemp("scratch"))
    yield engine
    engine.close()


def cast(engine: DuckDBEngine, texts: list[str], kind: str) -> list[object]:
    """What each text becomes, times in UTC; None where it is refused."""
    column = parse_type(kind)
    numbered = {"n": pa.array(range(len(texts))), "t": pa.array(texts, pa.string())}
    engine.define_rows("cells", pa.table(numbered))
    value = typed("t", attempt("t", column), column)
    if kind == "TIMESTAMP":
        value = f"({value}) AT TIME ZONE 'UTC'"
    return [row[0] for row in engine.rows(f"SELECT {value} FROM cells ORDER BY n")]


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


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(amounts=st.lists(st.text("0123456789.+-e_ ,", min_size=1, max_size=14), min_size=50))
def test_money_is_what_decimal_says(engine: DuckDBEngine, amounts: list[str]) -> None:
    """A text that becomes an amount is that very amount to Python's Decimal."""
    for text, value in zip(amounts, cast(engine, amounts, MONEY), strict=True):
        assert value is None or value == Decimal(text.strip()), text


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
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
