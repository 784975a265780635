"""A feed that names another `month` or `balance` counts all its files by it, old ones as well."""

from __future__ import annotations

import csv
import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from deltalake import DeltaTable

import retailmart
from retailmart.errors import GateFailed
from tests.support.amount import SEED, tries
from tests.support.shop import bare_project

_FEED = """files: ["sales*.csv"]
columns:
  id: {type: INT, mandatory: true}
  price: {type: "DECIMAL(12,2)", mandatory: true}
  total: {type: "DECIMAL(12,2)", mandatory: true}
  day: {type: DATE, mandatory: true}
  due: {type: DATE, mandatory: true}
"""
_COLUMNS = ("id", "price", "total", "day", "due")
_HISTORIES = tries(2, 15)
_STEPS = 6

Rows = list[dict[str, str]]


@dataclass
class Shop:
    """A project whose files and settings change; what is counted is in `files`, by name."""

    folder: Path
    draw: random.Random
    files: dict[str, Rows] = field(default_factory=dict)
    month: str | None = None
    balance: str | None = None

    def define(self, month: str | None, balance: str | None) -> None:
        """Write the feed, and marts that prove its money where it has any."""
        self.month, self.balance = month, balance
        lines = "".join(
            f"{key}: {name}\n" for key, name in (("month", month), ("balance", balance)) if name
        )
        (self.folder / "feeds" / "sales.yml").write_text(lines + _FEED)
        proof = f"-- balance: {{sales: {balance}}}\n" if balance else ""
        for refresh in ("months", "append"):
            how = f"-- refresh: {refresh}\n-- partitions: [_month]\n"
            columns = "_month, id, price, total" if month else "id, price, total"
            how = how if month else "-- refresh: full\n"
            text = f"{how}{proof}SELECT {columns} FROM sales\n"
            (self.folder / "marts" / f"by_{refresh}.sql").write_text(text)

    def deliver(self, name: str) -> None:
        """A file of a few sales, in place of one of that name if there is one."""
        self.files[name] = [
            {
                "id": str(self.draw.randrange(1_000_000)),
                "price": f"{self.draw.randrange(10_000)}.{self.draw.randrange(10, 100)}",
                "total": f"{self.draw.randrange(90_000)}.{self.draw.randrange(10, 100)}",
                "day": f"2024-0{self.draw.randrange(1, 4)}-15",
                "due": f"2024-0{self.draw.randrange(3, 7)}-28",
            }
            for _ in range(self.draw.randrange(1, 5))
        ]
        with (self.folder / "landing" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.files[name])

    def expect_right(self) -> None:
        """Each mart has just the rows of the files; so has the ledger their rows and money."""
        rows = [row for each in self.files.values() for row in each]
        wanted = Counter(
            (row[self.month][:7] if self.month else None, Decimal(row["total"])) for row in rows
        )
        for name in ("by_months", "by_append"):
            path = self.folder / "lake" / "marts" / name
            columns = DeltaTable(path).to_pyarrow_table().to_pylist()
            assert Counter((row.get("_month"), row["total"]) for row in columns) == wanted
        with closing(sqlite3.connect(self.folder / "retail.db")) as ledger:
            known = ledger.execute(
                "SELECT m.month, m.row_count, m.amount FROM retailmart_file_months m"
                " JOIN retailmart_files f USING (file_id) WHERE f.state = 'loaded'"
            ).fetchall()
            amounts = ledger.execute("SELECT amount FROM retailmart_files WHERE state = 'loaded'")
            money = [amount for (amount,) in amounts]
            # Until something is to be done, files stay counted as they were.
            ((by, balance),) = ledger.execute(
                "SELECT month, balance FROM retailmart_counted WHERE table_name = 'raw/sales'"
            )
        by_month: dict[str, tuple[int, Decimal]] = {}
        for month, count, amount in known:
            before = by_month.get(month, (0, Decimal(0)))
            by_month[month] = (before[0] + count, before[1] + Decimal(amount))
        sums: dict[str, tuple[int, Decimal]] = {}
        for row in rows if by else ():
            before = sums.get(row[by][:7], (0, Decimal(0)))
            own = Decimal(row[balance]) if balance else Decimal(0)
            sums[row[by][:7]] = (before[0] + 1, before[1] + own)
        assert by_month == sums
        if balance:
            assert sum(map(Decimal, money)) == sum(Decimal(row[balance]) for row in rows)
        else:
            assert set(money) <= {None}


@pytest.mark.parametrize("history", range(_HISTORIES))
def test_files_are_counted_by_the_columns_of_today(tmp_path: Path, history: int) -> None:
    """However often these change, with files that come, are corrected and are undone between."""
    draw = random.Random(f"{SEED} recount {history}")
    bare_project(tmp_path)
    shop = Shop(tmp_path, draw)
    choices = [(None, None), ("day", None), ("day", "price"), ("day", "total"), ("due", "price")]
    shop.define(*draw.choice(choices))
    shop.deliver("sales_0.csv")
    retailmart.open_project(tmp_path).run()
    shop.expect_right()
    for step in range(1, _STEPS):
        before = dict(shop.files)
        if changes := draw.random() < 0.8:
            shop.define(*draw.choice([c for c in choices if c != (shop.month, shop.balance)]))
        came = draw.choice(["new", "corrected", "none"] if changes else ["new", "corrected"])
        if came != "none":
            shop.deliver(f"sales_{step}.csv" if came == "new" else draw.choice([*shop.files]))
        report = retailmart.open_project(tmp_path).run()
        assert not report.held
        shop.expect_right()
        if came != "none" and draw.random() < 0.4:
            if draw.random() < 0.5:
                shop.define(*draw.choice(choices))
            retailmart.open_project(tmp_path).undo(report.run_id)
            shop.files = before
            shop.expect_right()
    assert not retailmart.open_project(tmp_path).verify(["duckdb"]).different


def test_rows_that_raw_has_lost_stop_the_count(tmp_path: Path) -> None:
    """The ledger still knows how many rows each file brought."""
    bare_project(tmp_path)
    shop = Shop(tmp_path, random.Random(1))
    shop.define("day", "price")
    for name in ("sales_1.csv", "sales_2.csv"):
        shop.deliver(name)
    retailmart.open_project(tmp_path).run()
    raw = DeltaTable(tmp_path / "lake" / "raw" / "sales")
    # There are as many rows as there should be, but not of each file.
    first = shop.files["sales_1.csv"][0]["total"]
    raw.update(updates={"_file_id": "2"}, predicate=f"total = {first}")
    shop.define("day", "total")
    shop.deliver("sales_3.csv")
    with pytest.raises(GateFailed, match=r"raw_sales|of sales_1\.csv, of which"):
        retailmart.open_project(tmp_path).run()
