"""Simulated years of a small shop: a run each day, with corrections, changed customers and undos.

What each day cost and what is below the project afterwards are measured. To measure two years
again: `python -m pytest tests/test_years.py -m long`, with
RETAILMART_YEARS_OUT=FILE for the figures as CSV.
"""

from __future__ import annotations

import csv
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from retailmart.ledger import tables
from tests.support.shop import Shop, sale

FIRST = date(2023, 1, 1)
_MAINTAINED_EVERY = 7


@dataclass(frozen=True)
class Day:
    """What a day cost, and what was below the project after it, archive and landing apart.

    `seconds` are of processor time, `live` the bytes of the files that tables hold now.
    """

    day: int
    seconds: float
    files: int
    bytes: int
    live: int


def simulate(
    shop: Shop, days: int, seed: int, look_every: int = 5, start: int = 0
) -> Iterator[Day]:
    """Live through some days, from the day `start` on; every few days, look at what is there.

    Maintenance counts days by the machine's clock, which stands still meanwhile: it is called every
    seventh day and removes at once what it would remove seven days later. In the ledger the days
    are as long ago as they will be on the last one.
    """
    dice = random.Random(seed)
    settings = shop.folder / "retailmart.yml"
    if "retention_days" not in settings.read_text():
        settings.write_text(f"{settings.read_text()}\nmaintenance: {{retention_days: 0}}\n")
    for number in range(start, start + days):
        today = FIRST + timedelta(days=number)
        _drop(shop, dice, today)
        if number and dice.random() < 0.05:  # a sale of two days ago is corrected
            _drop(shop, dice, today - timedelta(days=min(number, 2)))
        if dice.random() < 0.03:
            name = f"Ada{number}"
            shop.backend.execute_in_shop(
                f"UPDATE customer SET first_name = '{name}' WHERE customer_id = 1"
            )
        moment = datetime(today.year, today.month, today.day, 23, tzinfo=UTC)
        began = time.process_time()
        report = shop.run(moment)
        if number % _MAINTAINED_EVERY == 0:
            shop.open().maintain()
        seconds = time.process_time() - began
        _was_long_ago(shop, report.run_id, days=start + days - 1 - number)
        if number and dice.random() < 0.02:  # the day was wrong: it is taken back and comes again
            shop.open().undo(report.run_id)
            _drop(shop, dice, today)
            shop.run(moment)
        if number % look_every == 0 or number == start + days - 1:
            files, size = _below(shop.folder)
            yield Day(number, round(seconds, 4), files, size, _live(shop))


def _was_long_ago(shop: Shop, run_id: int, days: int) -> None:
    moment = datetime.now(UTC) - timedelta(days=days)
    with shop.open().ledger() as ledger, ledger.engine.begin() as connection:
        known = update(tables.runs).where(tables.runs.c.run_id == run_id)
        connection.execute(known.values(started_at=moment.isoformat()))


def _drop(shop: Shop, dice: random.Random, day: date) -> None:
    rows = [
        sale(dice.randint(1, 9), store, day.isoformat(), person, f"{dice.randint(1, 99)}.25")
        for store, person in ((1, 1), (1, 2), (2, 3))
        for _ in range(100)
    ]
    shop.sales(f"sales_{day.isoformat()}.csv", rows)


def _below(folder: Path) -> tuple[int, int]:
    """Files and bytes; a file with several names takes room once."""
    count, seen = 0, dict[int, int]()
    for above, folders, names in os.walk(folder):
        if Path(above) == folder:
            folders[:] = [name for name in folders if name not in ("archive", "landing")]
        for name in names:
            status = (Path(above) / name).lstat()
            count += 1
            seen[status.st_ino] = status.st_size
    return count, sum(seen.values())


def _live(shop: Shop) -> int:
    lake = shop.open().lake
    states = (lake.state(table) for table in lake.place.tables())
    return sum(file.size for state in states if state for file in state.files)


def write(days: list[Day], path: Path) -> None:
    """Write what was measured, for the picture in docs."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Day)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(day) for day in days)
