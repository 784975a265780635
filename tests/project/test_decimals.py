"""Decimals are what was written, or an error: never another number."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal, localcontext

import pyarrow as pa
import pytest

from retailmart.project.decimals import as_decimals
from retailmart.project.types import ColumnType
from tests.support.amount import SEED, tries


def _number(chance: random.Random) -> str:
    digits = "".join(chance.choice("0123456789") for _ in range(chance.randint(1, 70)))
    after = chance.randint(0, len(digits))
    whole, part = digits[: len(digits) - after] or "0", digits[len(digits) - after :]
    return chance.choice(("", "-")) + whole + (f".{part}" if part else "")


def _from_text(text: str) -> pa.Array:
    return pa.array([text])


def _from_decimal(text: str) -> pa.Array:
    value = Decimal(text)
    after = max(0, -int(value.as_tuple().exponent))
    return pa.array([value], pa.decimal128(38, after))


@pytest.mark.parametrize("given", [_from_text, _from_decimal])
def test_a_decimal_is_exact_or_refused(given: Callable[[str], pa.Array]) -> None:
    """Of any digits, before and after the point, to any type; as Python's own decimals say."""
    chance, exact = random.Random(SEED), 0
    for _ in range(tries(20_000, 100_000)):
        text, precision = _number(chance), chance.randint(1, 38)
        kind = ColumnType("DECIMAL", precision, chance.randint(0, precision))
        if given is _from_decimal and len(text.strip("-").replace(".", "")) > 38:
            continue
        unit = Decimal(1).scaleb(-kind.scale)
        with localcontext(prec=200):
            fits = abs(Decimal(text)) < Decimal(10) ** (kind.precision - kind.scale)
            whole = Decimal(text) % unit == 0
        try:
            found = as_decimals(given(text), kind)[0].as_py()
        except (ArithmeticError, pa.ArrowException):
            assert not (fits and whole), (text, kind)
            continue
        assert found == Decimal(text), (text, kind)
        exact += 1
    assert exact > 1_000


def test_chunks_and_nulls_stay() -> None:
    """NULL stays NULL among short texts and long ones."""
    kind = ColumnType("DECIMAL", 38, 2)
    texts = pa.chunked_array([["1.50", None], ["1" + "0" * 35 + ".25"]])
    assert as_decimals(texts, kind).to_pylist() == [
        Decimal("1.50"),
        None,
        Decimal("1" + "0" * 35 + ".25"),
    ]
