"""A batch: what is decided or committed is on the disk before the ledger says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from retailmart.errors import LeaseLost
from retailmart.ledger.batches import Batches
from retailmart.ledger.values import Batch, BatchState
from retailmart.tables import TableChange
from tests.support.shop import Shop, sale
from tests.support.synced import watch_syncs


def test_the_ledger_records_only_what_a_power_cut_leaves(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is prepared with all its files synced, and committed with all its log entries."""
    synced = watch_syncs(monkeypatch)
    lake = shop.folder / "lake"
    prepare, mark_committed = Batches.prepare, Batches.mark_committed
    tables: list[str] = []

    def preparing(self: Batches, batch: Batch, changes: Mapping[str, str], outcome: Any) -> None:
        for table, change in changes.items():
            written = {lake / table / file.path for file in TableChange.from_json(change).adds}
            assert written <= set(synced), table
            tables.append(table)
        prepare(self, batch, changes, outcome)

    def committing(self: Batches, batch: Batch) -> None:
        for table in tables:
            entries = set((lake / table / "_delta_log").glob("*.json"))
            assert entries, table
            assert entries <= set(synced), table
        mark_committed(self, batch)

    monkeypatch.setattr(Batches, "prepare", preparing)
    monkeypatch.setattr(Batches, "mark_committed", committing)
    shop.sales("sales_a.csv", [sale(), sale(2, day="x")])
    shop.run()
    assert {"raw/sales", "quarantine/sales", "marts/customer_mart"} <= set(tables)


def test_landing_is_left_alone_until_the_batch_is_published(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then its files are archived: before, landing may still be needed."""
    shop.sales("sales_a.csv", [sale()])
    mark_published = Batches.mark_published
    landed: list[list[str]] = []

    def publishing(*given: Any) -> None:
        landed.append(shop.backend.landed())
        mark_published(*given)

    monkeypatch.setattr(Batches, "mark_published", publishing)
    shop.run()
    assert landed == [["sales_a.csv"]]
    assert shop.backend.landed() == []


def test_a_commit_that_a_power_cut_has_torn_is_made_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run repairs the log before it reads it, and its rows count once."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.sales("sales_b.csv", [sale(2)])

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "mark_committed", cut_off)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    for table in ("raw/sales", "marts/customer_mart"):
        log = shop.folder / "lake" / table / "_delta_log"
        last = max(log.glob("*.json"))
        last.write_bytes(last.read_bytes()[:-20])
    shop.run()
    assert shop.mart("customer_mart", "customer_id") == [(1,), (2,)]
    assert len(shop.rows_of("raw/sales")) == 2


def orphaned(shop: Shop) -> list[str]:
    """The data files that no commit names."""
    lake = shop.open().lake
    found = []
    for table in lake.place.tables():
        state = lake.state(table)
        held = {file.path for file in state.files} if state else set()
        found += [f"{table}/{path}" for path in lake.place.data_files(table) if path not in held]
    return found


def test_what_a_run_wrote_before_it_was_killed_is_thrown_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was decided: the next run writes its own files, and removes those."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    shop.sales("sales_a.csv", [sale()])
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "prepare", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
    assert orphaned(shop)
    shop.run()
    assert orphaned(shop) == []
    assert shop.mart("customer_mart", "customer_id") == [(1,)]


def test_a_run_that_lost_its_lease_decides_nothing_and_leaves_no_file(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else knows its files by their names, so it removes them itself."""
    prepare = Batches.prepare

    def late(self: Batches, *given: Any) -> None:
        shop.backend.execute("UPDATE retailmart_lease SET fence = fence + 1 WHERE name = 'run'")
        prepare(self, *given)

    shop.sales("sales_a.csv", [sale()])
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "prepare", late)
        with pytest.raises(LeaseLost):
            shop.run()
    assert orphaned(shop) == []
    with shop.open().ledger() as ledger:
        left = ledger.batches.unfinished()
    assert left is not None
    assert left.state is BatchState.ACTIVE
    assert shop.run().count("loaded") == 1
