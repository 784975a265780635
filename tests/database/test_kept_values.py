"""Generated values in SQLite columns: read as they are stored, or refused by their row."""

from __future__ import annotations

import math
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pytest

from retailmart.database import open_database
from retailmart.database.source import read_table
from retailmart.errors import RetailmartError
from tests.support.amount import SEED

_COUNT = 100
_ALL_DIGITS = Context(prec=500)
_TEXTS = ("", "abc", "1,5", "1_0", " ", "nan", "yes", "2024-13-01", "1.5.2024", "0000-00-00")


def numbers(dice: random.Random) -> Iterator[object]:
    """Numbers of all sizes, with few and many decimals, and what sums leave."""
    while True:
        size = 10 ** dice.randrange(1, 18)
        cents = dice.randrange(-size, size)
        yield dice.choice(
            (
                cents / 100,
                cents / 100,
                cents / 10 ** dice.randrange(12),
                cents,
                cents / 100 + 0.1 + 0.2,
                math.nextafter(cents / 100, math.inf),
                dice.uniform(-10, 10),
                dice.choice((0.0, -0.0, 1e300, 5e-324, 2.0**63, -(2.0**63), 2.0**53)),
                dice.choice(_TEXTS),
                b"1.5",
            )
        )


def moments(dice: random.Random) -> Iterator[object]:
    """Days and moments as programs write them, with zones and with digits to lose."""
    while True:
        moment = datetime(1990, 1, 1) + timedelta(microseconds=dice.randrange(2 * 10**15))
        day = f"{moment:%Y-%m-%d}"
        time = dice.choice(("00:00", "00:00:00", f"{moment:%H:%M}", f"{moment:%H:%M:%S}"))
        if time.count(":") == 2:
            time += dice.choice(("", ".0", ".5", f".{moment:%f}", ".12345678", ".1234560"))
        zone = dice.choice(("", "", "Z", "+00:00", "+02:00", "-05:30"))
        yield dice.choice(
            (day, f"{day} {time}{zone}", f"{day}T{time}{zone}", f"{day}{zone}", dice.choice(_TEXTS))
        )


def decimal_of(scale: int, precision: int) -> Callable[[Any, Any], bool]:
    """How a decimal is judged; `read` is `_REFUSED` for a value that was refused."""
    unit = Decimal(1).scaleb(-scale)

    def holds(stored: Any, read: Any) -> bool:
        if not isinstance(stored, int | float):
            return read is _REFUSED
        said = Decimal(repr(stored))
        fits = _ALL_DIGITS.remainder(said, unit) == 0 and abs(said) < Decimal(10) ** (
            precision - scale
        )
        if isinstance(stored, int):
            return bool(read == said) if fits else read is _REFUSED
        digits = len(re.sub(r"^-?[0.]*|\.|e.*$", "", repr(stored)).rstrip("0"))
        if fits and digits <= 15:
            return bool(read == said)
        if fits:  # 16 digits or 17: they are this decimal if no other one has this float
            other = float(said + unit) == stored or float(said - unit) == stored
            return read is _REFUSED or (read == said and not other)
        return read is _REFUSED or (
            abs(Decimal(stored) - read) <= 4 * Decimal(math.ulp(stored))
            and read == Decimal(f"{stored:.15g}")
        )

    return holds


def is_whole(stored: Any, read: Any) -> bool:
    """An INTEGER column holds whole numbers of 64 bits."""
    whole = isinstance(stored, int) or (isinstance(stored, float) and abs(stored) < 2**53)
    return bool(read == stored) if whole and stored % 1 == 0 else read is _REFUSED


def is_float(stored: Any, read: Any) -> bool:
    """A REAL column holds floats."""
    return bool(read == stored) if isinstance(stored, float) else read is _REFUSED


_WRITTEN = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)


def parsed(stored: Any) -> tuple[datetime, str] | None:
    """A moment and its zone, or None for another text and for one with digits to lose."""
    found = _WRITTEN.fullmatch(stored)
    if not found:
        return None
    year, month, day, hour, minute, second, part, zone = found.groups()
    part = (part or "").ljust(6, "0")
    if part[6:].strip("0"):
        return None
    time = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{part[:6]}"
    try:
        moment = datetime.strptime(f"{year}-{month}-{day} {time}", "%Y-%m-%d %H:%M:%S.%f")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC), zone or "Z"


def is_timestamp(stored: Any, read: Any) -> bool:
    """A TIMESTAMP is the same moment in UTC."""
    if (found := parsed(stored)) is None:
        return read is _REFUSED
    moment, zone = found
    if zone != "Z":
        ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
        moment += ahead if zone[0] == "-" else -ahead
    return bool(read == moment)


def is_date(stored: Any, read: Any) -> bool:
    """A DATE is a day, or a midnight without another zone."""
    found = parsed(stored)
    if found and found[1] in ("Z", "+00:00") and found[0].strftime("%H%M%S%f").strip("0") == "":
        return bool(read == date(*found[0].timetuple()[:3]))
    return read is _REFUSED


_REFUSED = object()


def refused(error: RetailmartError) -> int:
    """The row that an error names; with the table, the column and a fix."""
    named = re.match(r"source table 't', column 'v', row id = (\d+): .* is no ", error.message)
    assert named, error.message
    assert error.hint
    return int(named[1])


@pytest.mark.parametrize(
    ("kind", "made", "holds"),
    [
        ("DECIMAL(12,2)", numbers, decimal_of(2, 12)),
        ("DECIMAL(18,4)", numbers, decimal_of(4, 18)),
        ("DECIMAL(10)", numbers, decimal_of(0, 10)),
        ("NUMERIC", numbers, decimal_of(10, 38)),
        ("BIGINT", numbers, is_whole),
        ("DOUBLE", numbers, is_float),
        ("DATE", moments, is_date),
        ("TIMESTAMP", moments, is_timestamp),
    ],
)
def test_a_value_is_read_as_it_is_stored_or_refused(
    tmp_path: Path,
    kind: str,
    made: Callable[[random.Random], Iterator[object]],
    holds: Callable[[Any, Any], bool],
) -> None:
    """The judge reads with sqlite3 alone; what is refused is taken out until the rest is read."""
    dice = random.Random(f"{SEED} {kind}")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})")
        generated = made(dice)
        rows = [(number, next(generated)) for number in range(_COUNT)]
        shop.executemany("INSERT INTO t VALUES (?, ?)", rows)
        shop.commit()
        stored = dict(shop.execute("SELECT id, v FROM t"))
        engine = open_database("sqlite:///shop.db", tmp_path, must_exist=True)
        read: dict[int, Any] = {}
        while len(read) < _COUNT:
            try:
                found = read_table(engine, "t").rows.to_pylist()
            except RetailmartError as error:
                number = refused(error)
                read[number] = _REFUSED
                shop.execute("DELETE FROM t WHERE id = ?", (number,))
                shop.commit()
            else:
                read |= {row["id"]: row["v"] for row in found}
        engine.dispose()
    bent = [(stored[n], value) for n, value in read.items() if not holds(stored[n], value)]
    assert not bent
    assert 0 < sum(value is _REFUSED for value in read.values()) < _COUNT, (
        "both kinds were generated"
    )
