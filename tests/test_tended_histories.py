"""Random histories between whose runs files are merged, sorted and removed, by us and by outsiders.

The judge knows nothing of that: no row may change, whatever is done to the files.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from retailmart import open_project
from retailmart.template import STORIES
from tests.support.amount import SEED, tries
from tests.support.histories import Life, OneProject
from tests.support.killed import Killer
from tests.support.shop import Shop, all_marts

_EVENTS = tries(5, 14)
_SHOPS = tries(1, 10)


class Tended(Life):
    """A shop whose lake is tended before each event, and touched by other programs."""

    def _something_happens(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            self._tend() if self.chance.random() < 0.5 else self._outsider()
        super()._something_happens()

    def _tables(self) -> list[str]:
        """What a delivery can be replayed into: an undo needs old versions of source tables."""
        lake = self.shop.open().lake
        known = self.shop.open().project.feeds
        return [
            table
            for table in lake.place.tables()
            if not table.startswith("raw/") or table.partition("/")[2] in known
        ]

    def _tend(self) -> None:
        """Maintenance: of all and with the usual retention, or of some and with none."""
        tables = self._tables()
        words = ["maintain"]
        if tables and self.chance.random() < 0.7:
            named = self.chance.sample(tables, self.chance.randint(1, len(tables)))
            words += ["--set", "maintenance.retention_days=0"]
            words += [word for table in named for word in ("--table", table)]
        self._is_killed(*words)
        self._tell(" ".join(words))
        settings = {"maintenance": {"retention_days": 0}} if len(words) > 1 else {}
        opened = open_project(self.shop.folder, settings)
        # A run that was killed has left a batch: then the next run comes first.
        with opened.ledger() as ledger:
            if ledger.batches.unfinished() is not None:
                return
        opened.maintain(tables=words[4::2])

    def _outsider(self) -> None:
        """Another program does what it may do to any Delta table."""
        lake = self.shop.open().lake
        tables = self._tables()
        for table in self.chance.sample(tables, min(len(tables), self.chance.randint(1, 6))):
            handle = DeltaTable(lake.place.address(table))
            act = self.chance.choice(("compact", "z_order", "vacuum", "vacuum", "checkpoint"))
            self._tell(f"outsider: {act} of {table}")
            if act == "compact":
                handle.optimize.compact()
            elif act == "z_order":
                known = handle.metadata().partition_columns
                handle.optimize.z_order(
                    [
                        next(
                            field.name
                            for field in handle.schema().fields
                            if field.name not in known
                        )
                    ]
                )
            elif act == "vacuum":
                handle.vacuum(
                    retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
                )
            else:
                handle.create_checkpoint()
                handle.cleanup_metadata()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """A process whose children are killed."""
    killer = Killer()
    yield killer
    killer.close()


@pytest.fixture
def stories() -> Collection[str]:
    """All that a project can begin with."""
    return tuple(STORIES)


@all_marts
@pytest.mark.parametrize(("number", "kills"), [(n, n % 2 == 0) for n in range(_SHOPS)])
def test_any_history_of_a_tended_lake_ends_as_judged(
    shop: Shop, tmp_path: Path, killer: Killer, number: int, kills: bool
) -> None:
    """After each event all marts are the judge's; after undoing the newest run all is as before."""
    folder = tmp_path / "model"
    folder.mkdir()
    chance = random.Random(SEED * 20240402 + number)
    life = Tended(
        OneProject(shop.folder, shop.stands_on), chance, folder, killer if kills else None
    )
    life.begin(SEED + number)
    assert life.goes_on((1,) * _EVENTS) == 1
