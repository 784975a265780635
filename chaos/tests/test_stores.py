"""A store that fails every tenth request: each delivery counts once, and no file is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.amount import SEED, tries
from tests.support.services.proxy import Fault

from chaos.stores import (
    Deliveries,
    ForkServer,
    dishonest,
    drop_local,
    new_project,
    run,
    unnamed_files,
    wrong_in_archive,
)

_BATCHES = tries(1, 5)


@pytest.mark.long
def test_batches_count_once_while_the_store_fails(tmp_path: Path) -> None:
    """Errors, lost requests, lost answers, silence and cut bodies leave marts as judged."""
    result = run(SEED, _BATCHES, tmp_path / "work", print)
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["batches"] == _BATCHES
    assert result.tries["requests that failed"] > result.tries["requests"] / 20
    for kind in Fault:
        assert result.tries[kind.value], f"no {kind.value} was injected"


def test_what_is_lost_or_twice_in_the_archive_is_found() -> None:
    """A delivery that stayed in landing, is in no archive or in two places there is told."""
    sent = [("a.csv", b"1"), ("b.csv", b"2")]
    whole = {"x/a.csv": b"1", "x/b.csv": b"2", "x/b.csv.reason.txt": b"why"}

    def kinds(landed: list[str], archived: dict[str, bytes]) -> list[str]:
        return [told.partition(":")[0] for told in wrong_in_archive(landed, archived, sent)]

    assert kinds([], whole) == []
    assert kinds(["a.csv"], whole) == ["lost"]
    assert kinds([], {"x/a.csv": b"1"}) == ["lost"]
    assert kinds([], whole | {"y/a.csv": b"1"}) == ["doubled"]


def test_a_data_file_that_no_commit_names_is_found() -> None:
    """Of two files in a table's folder, that which no log entry has added is told."""
    lake = {
        "raw/sales/_delta_log/0.json": b'{"add": {"path": "m%3D1/one.parquet"}}\n{"protocol": 1}',
        "raw/sales/m=1/one.parquet": b"",
        "raw/sales/m=1/two.parquet": b"",
    }
    assert unnamed_files(lake, lake.__getitem__) == ["raw/sales/m=1/two.parquet"]


def test_words_of_a_failed_run_are_judged() -> None:
    """They name the store, and are no traceback."""
    assert dishonest("retailmart: s3://shop/lake: no answer", 1, "s3://shop") is None
    assert dishonest("retailmart: no answer", 1, "s3://shop")
    assert dishonest("s3://shop\nTraceback (most recent call last):", 1, "s3://shop")


def test_marts_other_than_judged_are_found(tmp_path: Path) -> None:
    """A sale too few in what is judged by is a row too many in the marts."""
    deliveries = Deliveries(tmp_path, 1)
    new_project(tmp_path / "shop", {}, {}, ["customer_mart"])
    drop_local(tmp_path / "shop", deliveries.next(4))
    with ForkServer(tmp_path / "fork_server") as fork_server:
        assert fork_server.start("run", tmp_path / "shop").wait(60) == 0
        assert fork_server.judge(tmp_path / "shop", deliveries.standing()) == []
        told = fork_server.judge(tmp_path / "shop", deliveries.standing()[1:])
    assert told
    assert told[0].startswith("differs: customer_mart")
