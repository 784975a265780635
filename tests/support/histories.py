"""Random lives of a shop, and what a judge that knows nothing of the product makes of them.

A life is deliveries, corrections, copies, changed tables and runs that are undone. The model keeps
what each run that still stands brought, and the shop's own database as it was by then.

Histories of one shop begin alike: the shop is copied at a moment, and goes on from there in
several ways. So a history of six events costs the time of two.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from retailmart import OpenProject, RetailmartError, open_project
from tests.support.backends import MariaDBBackend
from tests.support.digests import Seen, digests, lake_tables
from tests.support.judge import COLUMNS, PUBLISHED, expected_marts, in_cents
from tests.support.judge_shop import market_marts, webshop_marts
from tests.support.killed import Killer
from tests.support.services.mariadb import Database
from tests.support.shop import AS_OF, HEADER, Shop, sale
from tests.template.looking import differences_in
from tests.template.test_webshop_marts import random_webshop

Files = tuple[tuple[str, str], ...]
# Few take more seconds of processor time.
_LONGEST_RUN = 2.5
_ORDERS = (
    "Order ID,Order Status,Category Name,SKU,Quantity,Unit Price,Total Price,Order Total,Sub Total,"
    "Payment Method,Currency Symbol,Customer ID,Merchant ID,Distance (in km),Order Time,Pickup Time"
    ",Delivery Time"
)
_NAMES = (
    *("sales_a.csv", "sales_b.csv", "north/sales_a.csv", "sales_c.csv"),
    *("market1/orders_a.csv", "market1/orders_b.csv", "market2/orders_a.csv"),
    *("market1/users.json", "market1/users_b.json", "market1/deliveries_a.csv"),
    "market1/deliveries_b.csv",
)


@dataclass(frozen=True)
class Lived:
    """A run that stands: what it brought, and what it saw. `before` are the digests before it."""

    run_id: int
    files: Files
    database: Path
    as_of: datetime
    before: dict[str, str] | None


class OneProject(Shop):
    """A shop whose project is read once: nobody changes its files."""

    def open(self) -> OpenProject:
        return _opened(self.folder)


@lru_cache(maxsize=1)
def _opened(folder: Path) -> OpenProject:
    return open_project(folder)


@dataclass(frozen=True)
class Model:
    """What is known of a shop at some moment. `story` is what has happened, for messages.

    `tables` are those of its lake as they were read last.
    """

    standing: tuple[Lived, ...] = ()
    as_of: datetime = AS_OF
    contents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    story: tuple[str, ...] = ()
    tables: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A shop as it was: the model, and copies of the folder and of the tables on a server."""

    model: Model
    folder: Path
    database: Database | None


@dataclass
class Life:
    """One shop and its model. With a `killer`, commands are killed and come again."""

    shop: Shop
    chance: random.Random
    folder: Path
    killer: Killer | None = None
    model: Model = field(default_factory=Model)
    _copies: Iterator[int] = field(default_factory=count)

    def begin(self, seed: int) -> None:
        """Tables for every mart of the template."""
        random_webshop(seed).write(self.shop)
        (self.shop.folder / "landing" / "sales_1.csv").unlink()

    def goes_on(self, ways: Sequence[int]) -> int:
        """Let something happen, in the first number of ways, and so on; how many histories end."""
        if not ways:
            return 1
        ended = 0
        saved = self._save() if ways[0] > 1 else None
        for way in range(ways[0]):
            if way and saved:
                self._restore(saved)
            self._something_happens()
            ended += self.goes_on(ways[1:])
        if saved:
            self._forget_saved(saved)
        return ended

    def _save(self) -> Saved:
        database = None
        backend = self.shop.backend
        if isinstance(backend, MariaDBBackend):
            database = backend.database.server.database()
            backend.database.copy_to(database)
        number = len(list(self.folder.glob("saved_*")))
        folder = shutil.copytree(self.shop.folder, self.folder / f"saved_{number}")
        return Saved(self.model, folder, database)

    def _restore(self, saved: Saved) -> None:
        """The project stays where it is, so that it need not be read again."""
        shutil.rmtree(self.shop.folder)
        shutil.copytree(saved.folder, self.shop.folder)
        if saved.database and isinstance(self.shop.backend, MariaDBBackend):
            saved.database.copy_to(self.shop.backend.database)
        self.model = saved.model

    def _forget_saved(self, saved: Saved) -> None:
        shutil.rmtree(saved.folder)
        if saved.database:
            saved.database.drop()

    def _something_happens(self) -> None:
        """Afterwards everything is as the judge says."""
        act, standing = self.chance.random(), self.model.standing
        undone = None
        if standing and act < 0.3:
            undone = standing[-1]
        elif standing and act < 0.45:
            undone = self.chance.choice(standing)
        before = None
        if undone:
            before = self._undo(undone)
        else:
            self._run()
        self._now(tables=lake_tables(self.shop, self.model.tables))
        if before is not None:
            after = digests(self.shop, self.model.tables)
            names = {*after, *before}
            unlike = sorted(name for name in names if after.get(name) != before.get(name))
            assert not unlike, f"{self.model.story}: not as before the run: {unlike}"
        self._assert_as_judged()

    def _run(self) -> None:
        """Files and changed tables, and the run that takes them in."""
        before = digests(self.shop, self.model.tables) if self.model.standing else None
        files = dict(self._delivery() for _ in range(self.chance.randint(1, 3)))
        for path, text in files.items():
            self.shop.drop(path, text)
        if self.chance.random() < 0.4:
            self._change_a_table()
        as_of = self.model.as_of + timedelta(days=self.chance.choice((0, 0, 1, 9)))
        self._is_killed("run", "--as-of", as_of.isoformat())
        report = self.shop.run(as_of)
        # Where there was nothing left to do, the run that was killed had done all of it.
        run_id = report.run_id if report.batches else report.run_id - 1
        self._tell(f"run {run_id} as of {as_of:%Y-%m-%d}: {files}")
        database = self.folder / f"shop_{next(self._copies)}.db"
        shutil.copy(self.shop.folder / "shop.db", database)
        lived = Lived(run_id, tuple(files.items()), database, as_of, before)
        self._now(standing=(*self.model.standing, lived), as_of=as_of)

    def _undo(self, lived: Lived) -> dict[str, str] | None:
        """Take a run back; where others must go first, those. What must now be as it was."""
        newest = lived is self.model.standing[-1]
        self._tell(f"undo {lived.run_id}")
        self._is_killed("undo", str(lived.run_id))
        if first := self._refused(lived.run_id):
            for run_id in (*first, lived.run_id):
                self._tell(f"undo {run_id}")
                try:
                    self.shop.open().undo(run_id)
                except RetailmartError as error:
                    raise AssertionError(f"{self.model.story}: {error}") from error
                self._forget(run_id)
            return None
        self._forget(lived.run_id)
        return lived.before if newest else None

    def _refused(self, run_id: int) -> list[int]:
        """The runs that must be undone first; none where it was undone."""
        try:
            self.shop.open().undo(run_id)
        except RetailmartError as error:
            first = [int(run) for run in re.findall(r"retailmart undo (\d+)", error.hint or "")]
            if not first or run_id == self.model.standing[-1].run_id:
                raise AssertionError(f"{self.model.story}: {error}") from error
            return first
        return []

    def _is_killed(self, *words: str) -> None:
        """The same command in a process of its own, killed at some moment; then it comes again."""
        if self.killer is None or self.chance.random() < 0.5:
            return
        seconds = self.chance.uniform(0.05, _LONGEST_RUN)
        killed = self.killer.runs([*words, "--project", str(self.shop.folder)], seconds)
        self._tell(f"{words[0]} {'killed after' if killed else 'done within'} {seconds:.2f} s")

    def _forget(self, run_id: int) -> None:
        """What was before a later run is no longer what is there without it."""
        # A run that was killed is named for what a later one finished.
        run_id = min(one.run_id for one in self.model.standing if one.run_id >= run_id)
        standing = (
            one if one.run_id < run_id else replace(one, before=None)
            for one in self.model.standing
            if one.run_id != run_id
        )
        self._now(standing=tuple(standing))

    def _now(self, **known: Any) -> None:
        self.model = replace(self.model, **known)

    def _tell(self, words: str) -> None:
        self._now(story=(*self.model.story, words))

    def _assert_as_judged(self) -> None:
        """Every mart of the template, and the published ones in the database."""
        if not self.model.standing:
            return
        last = self.model.standing[-1]
        counted = self._written(_counted(self.model.standing))
        sales = [path for path in counted if path.name.startswith("sales")]
        expected = expected_marts(sales, last.database, last.as_of)
        for mart, columns in COLUMNS.items():
            seen = self.model.tables.get(f"marts/{mart}")
            found = Counter(seen.of(columns) if seen else ())
            assert found == expected[mart], f"{self.model.story}: {mart}"
            if mart in PUBLISHED and found:
                # `change` is a word of MySQL's.
                mark = "`" if self.shop.backend.speaks == "mysql" else '"'
                named = ", ".join(f"{mark}{column}{mark}" for column in columns)
                shown = in_cents(mart, self.shop.published(mart, named))
                assert shown == in_cents(mart, expected[mart].elements()), (
                    f"{self.model.story}: published {mart}"
                )
        root = self.folder / "counted"
        others = [path.relative_to(root).as_posix() for path in counted if path not in sales]
        judged = webshop_marts(last.database, last.as_of) | market_marts(root, others)
        for mart, rows in judged.items():
            seen = self.model.tables.get(f"marts/{mart}")
            told = differences_in(mart, seen.named() if seen else [], rows)
            assert not told, f"{self.model.story}: {told[:3]}"

    def _written(self, counted: Sequence[tuple[str, str]]) -> list[Path]:
        """Files for the judge, in the order in which they count."""
        root = self.folder / "counted"
        shutil.rmtree(root, ignore_errors=True)
        paths = []
        for number, (path, text) in enumerate(counted):
            market, _, name = path.rpartition("/")
            kind, _, ending = name.partition(".")
            target = root / market / f"{kind}_{number}.{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            paths.append(target)
        return paths

    # what comes

    def _delivery(self) -> tuple[str, str]:
        """A name, and a content that is new or came before: under it or another one."""
        path = self.chance.choice(_NAMES)
        kind = path.rpartition("/")[2].partition("_")[0].partition(".")[0]
        known = self.model.contents.get(kind, ())
        if not known or self.chance.random() < 0.7:
            known = (*known, "\n".join(getattr(self, f"_{kind}")()) + "\n")
            self._now(contents={**self.model.contents, kind: known})
        return path, self.chance.choice(known[-3:])

    def _sales(self) -> Iterator[str]:
        yield HEADER
        for _ in range(self.chance.randint(1, 5)):
            yield sale(
                self.chance.choice((1, 2, 3, 10, 11)),
                self.chance.choice((1, 2, 7)),
                self.chance.choice(("2024-01-31", "2024-02-29", "2024-03-31", "2023-12-31")),
                self.chance.choice((1, 2, 3, 55)),
                self.chance.choice(("10.50", "0.01", "33.35", "10.50")),
            )
        if self.chance.random() < 0.3:
            yield ",1,tea,2024-01-15,1,10.00,1,10.00"

    def _orders(self) -> Iterator[str]:
        yield _ORDERS
        for number in self.chance.sample(range(1, 6), self.chance.randint(1, 3)):
            total = self.chance.choice(("10.00", "20.50", "0.05"))
            status = self.chance.choice(("COMPLETED", "COMPLETED", "ORDERED", "CANCELLED"))
            for line in range(self.chance.randint(1, 2)):
                yield (
                    f"{number},{status},Food,S{line},1,{line + 1}.00,{line + 1}.00,{total},{total},"
                    f"{self.chance.choice(('Card', 'Cash'))},KSh,{self.chance.randint(1, 3)},5,1.5,"
                    f"2024-01-0{number}T10:00:00Z,-,2024-01-0{number}T1{line + 1}:30:00Z"
                )

    def _users(self) -> Iterator[str]:
        numbers = self.chance.sample(range(1, 5), self.chance.randint(1, 3))
        points = self.chance.randint(1, 9)
        yield json.dumps([{"Customer ID": n, "Loyalty Points": points + n} for n in numbers])

    def _deliveries(self) -> Iterator[str]:
        yield "Task_ID,Order_ID,Task_Type,Rating"
        for number in self.chance.sample(range(1, 5), self.chance.randint(1, 3)):
            order = self.chance.randint(1, 6)
            yield f"t{number},YR-{order}\\,0,PICKUP,{self.chance.randint(1, 5)}".replace("\\,0", "")

    def _change_a_table(self) -> None:
        """A customer whose key comes late, goods that move, an order that is cancelled."""
        with closing(sqlite3.connect(self.shop.folder / "shop.db")) as shop, shop:
            [(last,)] = shop.execute("SELECT max(customer_id) FROM customer")
            statement = self.chance.choice(
                (
                    f"INSERT INTO customer VALUES ({last + 1}, 'Late{last}', 'L', 'r', '6', '9',"
                    " '2020-01-01')",
                    f"UPDATE product_inventory SET quantity = {self.chance.randint(0, 90)}"
                    f" WHERE inventory_id = {self.chance.randint(1, 30)}",
                    "UPDATE orders SET status = 'cancelled'"
                    f" WHERE order_id = {self.chance.randint(1, 120)}",
                )
            )
            shop.execute(statement)
        self._tell(statement)


def _counted(runs: Sequence[Lived]) -> list[tuple[str, str]]:
    """The contents that count after some runs, oldest first, each under the name it counts by.

    A name stands for its newest content; a content counts once, from its first delivery on, as long
    as any name stands for it. Folders tell the markets' files apart, and feeds theirs.
    """
    names: dict[str, tuple[str, str]] = {}
    order: dict[tuple[str, str], str] = {}
    for run in runs:
        arrived = sorted(run.files)
        names |= {path: (_kind(path), text) for path, text in arrived}
        order = {content: path for content, path in order.items() if content in names.values()}
        for path, text in arrived:
            order.setdefault((_kind(path), text), path)
    return [(path, text) for (_, text), path in order.items()]


def _kind(path: str) -> str:
    """The feed, and the market where a folder tells it."""
    folder, _, name = path.rpartition("/")
    market = folder if folder.startswith("market") else ""
    return f"{market}/{name.partition('_')[0].partition('.')[0]}"
