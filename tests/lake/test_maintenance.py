"""Which files are merged, which entries of a log go: decided by sizes and versions alone."""

from __future__ import annotations

import random

import pytest

from retailmart.lake.maintenance import (
    Merge,
    by_month,
    merges,
    missing_files,
    old_log,
    only_some,
    wants_checkpoint,
)
from retailmart.lake.places import Stored
from retailmart.tables import DataFile, TableState
from tests.support.amount import SEED, tries

_KB = 1 << 10
_MB = 1 << 20


def state(*files: DataFile, by: tuple[str, ...] = ("_month",)) -> TableState:
    """A table with these files."""
    return TableState("/lake/raw/sales", (), by, files)


def file(name: str, size: int, month: str | None = "2024-01", **more: str) -> DataFile:
    """A file of a partition."""
    return DataFile(name, size, 1, {"_month": month, **more})


def chosen(table: TableState) -> list[list[str]]:
    """The names of the files to merge, by partition."""
    return [sorted(one.path for one in merge.files) for merge in merges(table)]


def test_files_of_days_become_one_once_there_are_several() -> None:
    """A few small files are not worth a rewrite while their month grows, and larger ones never."""
    days = [file(f"d{n}", 40 * _KB + n) for n in range(8)]
    assert chosen(state(*days[:7])) == []
    assert chosen(state(*days)) == [[f"d{n}" for n in range(8)]]
    assert chosen(state(*(file(f"x{n}", 400 * _KB) for n in range(30)))) == []


def test_a_month_that_has_ended_becomes_one_file() -> None:
    """What is left of it is merged once a later month is there; late files wait for their like."""
    ended = [file("a", 400 * _KB), file("b", 100 * _KB)]
    later = file("c", 40 * _KB, "2024-02")
    assert chosen(state(*ended)) == []
    assert chosen(state(*ended, later)) == [["a", "b"]]
    late = [file("whole", 900 * _KB), file("late", 40 * _KB), later]
    assert chosen(state(*late)) == []


def test_partitions_never_share_a_file() -> None:
    """Files of a store and month are merged with each other, each store's apart."""
    files = [
        file(f"s{store}-{day}", 4 * _KB, store_id=str(store))
        for store in (1, 2)
        for day in range(8)
    ]
    found = merges(state(*files, by=("_month", "store_id")))
    assert [merge.partition for merge in found] == [("2024-01", "1"), ("2024-01", "2")]
    assert len(by_month(found)["2024-01"]) == 16


def test_large_files_and_other_partitions_are_left_alone() -> None:
    """A large file is read at full speed; base and delta files are no months."""
    assert chosen(state(*(file(f"l{n}", 80 * _MB) for n in range(9)))) == []
    layers = [DataFile(f"x{n}", _KB, 1, {"_layer": "delta"}) for n in range(9)]
    assert merges(state(*layers, by=("_layer",))) == []
    assert chosen(state(*(file(f"n{n}", _KB, None) for n in range(9)))) == []
    plain = [DataFile(f"p{n}", _KB, 1) for n in range(9)]
    assert chosen(state(*plain, by=())) == [[f"p{n}" for n in range(9)]]


@pytest.mark.parametrize("number", range(tries(5, 100)))
def test_rows_are_written_again_a_few_times_only(number: int) -> None:
    """Whatever comes each day: few files stay, and a row is rewritten about log2(days) times."""
    rng = random.Random(SEED * 1009 + number)
    usual = rng.choice((3 * _KB, 30 * _KB, 200 * _KB, 5 * _MB))
    files: list[DataFile] = []
    came = written = made = 0
    for month in range(1, 7):
        for day in range(30):
            of = f"2024-{month:02d}" if rng.random() < 0.95 else f"2024-{rng.randint(1, month):02d}"
            size = int(usual * rng.uniform(0.4, 2.5))
            files.append(file(f"d{month}-{day}", size, of))
            came += size
            for merge in merges(state(*files)):
                files = [one for one in files if one not in merge.files]
                made += 1
                files.append(file(f"m{made}", merge.size, merge.partition[0]))
                written += merge.size
            newest = max(str(one.partition["_month"]) for one in files)
            for each in {str(one.partition["_month"]) for one in files}:
                tiny = sum(
                    one.partition["_month"] == each
                    and one.size < (256 * _KB if each == newest else 64 * _MB)
                    for one in files
                )
                assert tiny <= 14
    assert sum(one.size for one in files) == came
    assert written <= 4 * came
    print(written / came)


def test_a_budget_takes_what_gains_most() -> None:
    """Many tiny files come before a few larger ones, and nothing beyond the budget."""
    tiny = Merge(("2024-01",), tuple(file(f"t{n}", _KB) for n in range(9)))
    large = Merge(("2024-02",), tuple(file(f"l{n}", _MB) for n in range(12)))
    assert only_some([large, tiny], 13 * _MB) == [tiny, large]
    assert only_some([large, tiny], 2 * _MB) == [tiny]
    assert only_some([large, tiny], 0) == []
    assert only_some([large], 9.5 * _MB) == [Merge(("2024-02",), large.files[:9])]


def log(*versions: int, checkpoints: tuple[int, ...] = (), at: float = 0.0) -> list[Stored]:
    """The entries of a log, each as old as its number says."""
    entries = [Stored(f"_delta_log/{v:020d}.json", 100, at + v) for v in versions]
    points = [Stored(f"_delta_log/{v:020d}.checkpoint.parquet", 900, at + v) for v in checkpoints]
    return [*entries, *points, Stored("_delta_log/_last_checkpoint", 9, at)]


@pytest.mark.parametrize(
    ("before", "needed", "first"),
    [(99.0, 25, 20), (12.0, 25, 10), (99.0, 14, 10), (5.0, 25, -1), (99.0, 3, -1)],
)
def test_a_log_begins_at_a_checkpoint_that_all_versions_follow(
    before: float, needed: int, first: int
) -> None:
    """Neither a version within the retention goes nor one that something relies on."""
    found, gone = old_log(25, log(*range(26), checkpoints=(10, 20)), before, needed)
    assert found == first
    entries = [one.path for one in gone if one.path.endswith(".json")]
    assert entries == [f"_delta_log/{v:020d}.json" for v in range(max(first, 0))]
    assert not any("_last_checkpoint" in one.path for one in gone)


def test_a_checkpoint_that_is_about_to_be_written_counts() -> None:
    """So that a dry run names the entries that go once it is there."""
    stored = log(*range(26), checkpoints=(10,))
    planned = old_log(25, stored, 10_000.0, 25, [25])
    assert planned == old_log(25, log(*range(26), checkpoints=(10, 25)), 10_000.0, 25)
    assert planned[0] == 25


def test_of_a_long_log_the_last_hundreds_stay() -> None:
    """A table that is committed to each minute is opened as quickly as others."""
    long = log(*range(1001), checkpoints=tuple(range(10, 1001, 10)), at=1e9)
    first, gone = old_log(1000, long, 0.0, 1000)
    assert first == 800
    assert sum(one.path.endswith(".json") for one in gone) == 800
    assert old_log(1000, long, 0.0, 15)[0] == 10


def test_a_checkpoint_is_wanted_where_the_last_one_is_long_ago() -> None:
    """The log gives one every ten commits; another program's commits need not."""
    assert not wants_checkpoint(20, log(*range(21), checkpoints=(10,)))
    assert wants_checkpoint(21, log(*range(22), checkpoints=(10,)))
    assert wants_checkpoint(12, log(*range(13)))
    assert not wants_checkpoint(3, log(*range(4)))


def test_missing_files_are_found_by_name_and_size() -> None:
    """A file that is cut short is as bad as one that is gone."""
    table = state(file("a", 10), file("b", 20), file("c", 30))
    there = [Stored("a", 10, 0), Stored("b", 19, 0)]
    assert [one.path for one in missing_files(table, there)] == ["b", "c"]
