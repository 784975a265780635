"""Deliveries of a small shop's days, made from a seed, and which of their contents count."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Files = Mapping[str, bytes]

_COLUMNS = [
    "customer_id",
    "store_id",
    "product_name",
    "sales_date",
    "sales_person_id",
    "price",
    "quantity",
    "total_cost",
]
_PRODUCTS = ("tea", "rice, brown", 'a "good" oil', "käse", "soap\nbar", "salt")
_FLAWS = ("x", "", "2024-02-31")


@dataclass
class DailyDeliveries:
    """Files that one seed makes, day after day, and what each day leaves standing.

    A name stands for the newest content under it that could be read; `standing` is the judge's.
    """

    seed: int
    standing: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def first_day(self) -> Files:
        """New files, plain and odd ones, rows and files to be refused among them."""
        names = [self._name(n) for n in range(self.chance.randint(2, 4))]
        files = {name: _as_named(name, self._sales(n)) for n, name in enumerate(names)}
        files["sales_refused.csv"] = self._sales(90, malformed=self.chance.randint(1, 4))
        files["sales_upi.csv"] = self._sales(91, further=("payment_mode",))
        return self._landed(files, {"notes.txt": b"buy milk\n", "sales_broken.csv": b"a,b\n1,2\n"})

    def later_day(self) -> Files:
        """A new file, corrected ones, the same content again, files and rows to be refused."""
        known = sorted(set(self.standing) - {"sales_refused.csv"})
        corrected = self.chance.sample(known, min(2, len(known) - 1))
        again = next(name for name in known if name not in corrected)
        files = {name: self._like(name, 20 + n) for n, name in enumerate(corrected)}
        files[f"again/sales_{self.seed}.csv"] = _unpacked(self.standing[again])
        files["sales_later.csv"] = self._sales(30, malformed=self.chance.randint(0, 2))
        if self.chance.random() < 0.5:
            files["sales_refused.csv"] = self._sales(92, malformed=self.chance.randint(1, 3))
        return self._landed(files, {"sales_empty.csv": b"", "sales_broken.csv": b"a,b\n3,4\n"})

    def correction(self, name: str) -> Files:
        """The same name once more, with other content."""
        return self._landed({name: self._like(name, 40)}, {})

    def repaired(self, sheet: bytes) -> Files:
        """An exported sheet of refused rows, all or some of them set right."""
        rows = list(csv.reader(io.StringIO(sheet.decode("utf-8-sig"))))
        header, items = rows[0], rows[1:]
        places = [header.index(name) for name in _COLUMNS]
        kept = [items[0], *(row for row in items[1:] if self.chance.random() < 0.8)]
        for row in kept:
            for place, text in zip(places, self._row(0, 1), strict=True):
                row[place] = text
        plain = [[row[place] for place in places] for row in kept]
        name = f"sales_back_{self.seed}.csv"
        self.standing[name] = _csv(_COLUMNS, plain)  # what the judge is to count of it
        return {name: _csv(header, kept)}

    def _landed(self, files: dict[str, bytes], refused: dict[str, bytes]) -> Files:
        self.standing |= files
        return files | refused

    def _name(self, number: int) -> str:
        folder = self.chance.choice(["", "", "north/", "deep/er/"])
        return f"{folder}sales_{number}{self.chance.choice(['.csv', '.csv', '.csv.gz'])}"

    def _like(self, name: str, number: int) -> bytes:
        further = ("payment_mode",) if name == "sales_upi.csv" else ()
        return _as_named(name, self._sales(number, further=further))

    def _sales(self, number: int, malformed: int = 0, further: Iterable[str] = ()) -> bytes:
        columns = [*_COLUMNS, *further]
        rows = [self._row(number, n) for n in range(self.chance.randint(2, 40))]
        rows = [[*row, *(self.chance.choice(["UPI", "cash", ""]) for _ in further)] for row in rows]
        for _ in range(malformed):
            row = self._row(number, 0)
            row[self.chance.choice([0, 1, 3, 7])] = self.chance.choice(_FLAWS)
            rows.insert(self.chance.randint(0, len(rows)), row)
        return _csv(columns, rows)

    def _row(self, number: int, n: int) -> list[str]:
        cents = self.chance.randint(1, 99_999)
        day = f"2024-{self.chance.randint(2, 3):02}-{self.chance.randint(1, 28):02}"
        return [
            str(self.chance.choice([1, 2, 3, 4, 5, 77])),
            str(self.chance.choice([1, 1, 2, 9])),
            f"{self.chance.choice(_PRODUCTS)} {number}.{n}",
            day,
            str(self.chance.choice([1, 2, 3, 4, 50])),
            f"{cents // 100}.{cents % 100:02}",
            "1",
            f"{cents // 100}.{cents % 100:02}",
        ]


def counting(standing: Files, folder: Path) -> Path:
    """Write the contents that count into a folder, for the judge."""
    for name, content in standing.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _as_named(name: str, content: bytes) -> bytes:
    return gzip.compress(content, mtime=0) if name.endswith(".gz") else content


def _unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _csv(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
