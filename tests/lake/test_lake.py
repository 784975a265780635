"""The lake: each batch enters a table once, whatever is repeated or comes in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.lake.places import LocalPlace, RemotePlace
from retailmart.project.types import ColumnType
from retailmart.storage import Entry
from retailmart.storage.s3 import S3Access, S3Folder
from retailmart.tables import DataFile, Field, TableChange, TableState
from tests.support.services.proxy import S3Faults
from tests.support.services.s3 import S3Server

_TABLE = "raw/sales"
_FIELDS = (Field("n", ColumnType("BIGINT")), Field("_month", ColumnType("STRING")))


@pytest.fixture(params=["local", "remote"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake, on disk and in a bucket."""
    if request.param == "local":
        return Lake(LocalPlace(tmp_path / "lake"), fence=1)
    server = request.getfixturevalue("s3")
    store = S3Folder(server.bucket(), "lake", S3Access(server.environment, server.endpoint))
    return Lake(RemotePlace(store, tmp_path / "workspace"), fence=1)


def written(lake: Lake, batch_id: int, month: str, *numbers: int, column: str = "n") -> DataFile:
    """A data file with these numbers, written but not committed."""
    path = f"_month={month}/{lake.prefix(batch_id)}{month}.parquet"
    target = lake.folder(_TABLE) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(numbers, pa.int64())}), target)
    return DataFile(path, target.stat().st_size, len(numbers), {"_month": month})


def change(*adds: DataFile, removes: tuple[str, ...] = ()) -> TableChange:
    """Files in, files out."""
    return TableChange(_TABLE, _FIELDS, ("_month",), adds, removes)


def state(lake: Lake) -> TableState:
    """The table as it is."""
    found = lake.state(_TABLE)
    assert found is not None
    return found


def numbers(lake: Lake) -> list[int]:
    """What a reader of the table's files sees."""
    table = state(lake)
    lake.place.here(table)
    files = [str(lake.folder(_TABLE) / file.path) for file in table.files]
    if not files:
        return []
    read = "SELECT n FROM read_parquet(?, hive_partitioning = true, union_by_name = true) ORDER BY"
    with duckdb.connect() as connection:
        return [n for (n,) in connection.execute(f"{read} n", [files]).fetchall()]


def entries(lake: Lake) -> int:
    """How many commits the table's log holds."""
    return len(opened(lake).history())


def opened(lake: Lake) -> DeltaTable:
    """The table as any other reader opens it."""
    place = lake.place
    return DeltaTable(place.address(_TABLE), storage_options=dict(place.options()))


def log_entries(lake: Lake) -> list[Entry]:
    """The entries of a remote table's log, oldest first."""
    assert isinstance(lake.place, RemotePlace)
    found = lake.place.store.entries()
    return [entry for entry in found if "_delta_log" in entry.key and entry.key.endswith(".json")]


def test_a_repeated_commit_does_nothing(lake: Lake) -> None:
    """The same batch enters once, however often it is committed, by whatever handle."""
    first = change(written(lake, 1, "2024-01", 1, 2))
    version = lake.commit(first, 1)
    before = entries(lake)
    assert lake.commit(first, 1) == version
    assert Lake(lake.place, fence=2).commit(first, 1) == version
    assert entries(lake) == before
    assert numbers(lake) == [1, 2]


def test_a_late_repeat_of_an_older_batch_does_nothing(lake: Lake) -> None:
    """A batch that is in stays in once, after later ones too."""
    first = change(written(lake, 1, "2024-01", 1))
    lake.commit(first, 1)
    lake.commit(change(written(lake, 2, "2024-02", 2)), 2)
    lake.commit(first, 1)
    assert numbers(lake) == [1, 2]


def test_files_come_and_go_in_one_commit(lake: Lake) -> None:
    """A replaced month is never seen twice or missing: there is no version in between."""
    old = written(lake, 1, "2024-01", 1, 2)
    kept = written(lake, 1, "2024-02", 3)
    version = lake.commit(change(old, kept), 1)
    new = change(written(lake, 2, "2024-01", 4), removes=(old.path,))
    expected = new.applied_to(str(lake.folder(_TABLE)), state(lake))
    assert lake.commit(new, 2) == version + 1
    assert {file.path for file in state(lake).files} == {file.path for file in expected.files}
    assert numbers(lake) == [3, 4]
    assert state(lake).months == {"2024-01", "2024-02"}
    older = lake.state(_TABLE, version)
    assert older is not None
    assert older.months == {"2024-01", "2024-02"}
    assert sum(file.rows for file in older.files) == 3


def test_a_foreign_commit_in_between_is_an_error(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and commit somebody else commits the same batch: it is refused, not doubled."""
    lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    late = change(written(lake, 2, "2024-02", 2))
    commit = DeltaTable.create_write_transaction

    def interrupted(handle: DeltaTable, *arguments: object, **named: object) -> None:
        monkeypatch.undo()
        rows = pa.table({"n": pa.array([9], pa.int64()), "_month": ["2024-03"]})
        write_deltalake(opened(lake), rows, mode="append")
        commit(handle, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(DeltaTable, "create_write_transaction", interrupted)
    with pytest.raises((CommitFailedError, RetailmartError)):
        lake.commit(late, 2)
    assert numbers(lake) == [1, 9]
    lake.commit(late, 2)
    assert numbers(lake) == [1, 2, 9]


def test_another_run_s_commit_of_the_same_batch_in_between_counts_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked, both commit: the rows are there once and nobody needs an error."""
    lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    late = change(written(lake, 2, "2024-02", 2))
    commit = DeltaTable.create_write_transaction

    def overtaken(handle: DeltaTable, *arguments: object, **named: object) -> None:
        monkeypatch.undo()
        Lake(lake.place, fence=2).commit(late, 2)
        commit(handle, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(DeltaTable, "create_write_transaction", overtaken)
    before = entries(lake)
    lake.commit(late, 2)
    assert numbers(lake) == [1, 2]
    assert entries(lake) == before + 1


def test_a_lost_answer_of_a_commit_that_was_made_is_no_error(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error means unknown: the log tells, and it holds the batch."""
    lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    commit = DeltaTable.create_write_transaction

    def unheard(handle: DeltaTable, *arguments: object, **named: object) -> None:
        commit(handle, *arguments, **named)  # type: ignore[arg-type]
        raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", unheard)
    lake.commit(change(written(lake, 2, "2024-02", 2)), 2)
    assert numbers(lake) == [1, 2]


def test_a_new_schema_never_drops_files_that_should_stay(lake: Lake) -> None:
    """Other columns beside kept files are refused: the commit that takes them removes all files."""
    gone, kept = written(lake, 1, "2024-01", 1), written(lake, 1, "2024-02", 2)
    lake.commit(change(gone, kept), 1)
    new = replace(
        change(written(lake, 2, "2024-03", 3), removes=(gone.path,)),
        fields=(_FIELDS[0], Field("till", ColumnType("INT")), _FIELDS[1]),
    )
    with pytest.raises(RetailmartError, match="other columns and keep old files"):
        lake.commit(new, 2)
    assert numbers(lake) == [1, 2]


def test_a_new_schema_of_a_table_written_anew(lake: Lake) -> None:
    """All old files go, the new ones come, in one commit and once."""
    old = written(lake, 1, "2024-01", 1)
    lake.commit(change(old), 1)
    fields = (Field("n", ColumnType("BIGINT")), Field("m", ColumnType("DATE")), _FIELDS[1])
    new = replace(change(written(lake, 2, "2024-01", 5), removes=(old.path,)), fields=fields)
    version = lake.commit(new, 2)
    assert lake.commit(new, 2) == version
    assert state(lake).fields == fields
    assert numbers(lake) == [5]


def test_a_change_without_files_makes_the_table(lake: Lake) -> None:
    """A table that has no rows yet can be read."""
    lake.commit(change(), 1)
    assert state(lake).files == ()
    assert state(lake).fields == _FIELDS
    assert state(lake).partition_by == ("_month",)


def test_orphans_are_what_no_commit_holds(lake: Lake) -> None:
    """Only the batch's own files that the table does not show are told."""
    lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    lake.commit(change(written(lake, 2, "2024-01", 2)), 2)
    stray = written(lake, 2, "2024-02", 3)
    lake.persist(change(stray))
    assert lake.orphaned_files(_TABLE, 2) == [stray.path]
    assert lake.orphaned_files(_TABLE, 1) == []


def test_strays_are_of_attempts_that_decided_nothing(lake: Lake) -> None:
    """A batch's files of another fence than the deciding one are told, an open batch's are not."""
    late = replace(lake, fence=9)
    files = {batch: written(late, batch, "2024-01", batch) for batch in (1, 2, 3)}
    held = written(lake, 1, "2024-01", 1)
    lake.persist(change(held, *files.values()))
    lake.commit(change(held), 1)
    decided = {1: 1, 2: None}
    assert sorted(lake.orphaned_by_others(_TABLE, decided)) == [files[1].path, files[2].path]


def test_two_fences_never_write_the_same_name(lake: Lake) -> None:
    """A run that wakes late can't write over its follower's files."""
    assert lake.prefix(1) != replace(lake, fence=2).prefix(1)


def test_files_that_are_not_here_are_fetched(lake: Lake, tmp_path: Path) -> None:
    """Another machine's workspace begins empty and reads the same rows."""
    made = change(written(lake, 1, "2024-01", 1, 2))
    lake.persist(made)
    lake.commit(made, 1)
    if isinstance(lake.place, RemotePlace):
        lake = Lake(RemotePlace(lake.place.store, tmp_path / "elsewhere"))
    lake.place.here(state(lake))
    assert numbers(lake) == [1, 2]


def test_a_change_survives_its_way_through_the_ledger(lake: Lake) -> None:
    """What a later run finishes is what the first one decided."""
    fields = (*_FIELDS, Field("amount", ColumnType("DECIMAL", 14, 2)))
    file = DataFile("a b/é.parquet", 9, 2, {"_month": None}, {"n": 1}, {"n": 2}, {"n": 0})
    made = TableChange(_TABLE, fields, ("_month",), (file,), ("x",))
    assert TableChange.from_json(made.to_json()) == made


def test_another_reader_of_delta_tables_sees_the_same(lake: Lake) -> None:
    """Statistics and partition values are right for readers that trust them."""
    adds = (written(lake, 1, "2024-01", 1, 2), written(lake, 1, "2024-02", 3))
    lake.commit(change(*adds), 1)
    if isinstance(lake.place, RemotePlace):
        log = lake.place.store.open(log_entries(lake)[-1]).read().decode()
    else:
        log = sorted((lake.folder(_TABLE) / "_delta_log").glob("*.json"))[-1].read_text()
    actions = [json.loads(line) for line in log.splitlines()]
    added = [action["add"] for action in actions if "add" in action]
    assert sorted(json.loads(add["stats"])["numRecords"] for add in added) == [1, 2]
    assert {add["partitionValues"]["_month"] for add in added} == {"2024-01", "2024-02"}
    assert {action["txn"]["version"] for action in actions if "txn" in action} == {1}


def torn(path: Path) -> None:
    """What a power cut leaves of a file: its name, and part of its content."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_torn_log_entry_is_mended(tmp_path: Path) -> None:
    """The commit that nobody relies on yet is made once more; the earlier ones stay."""
    lake = Lake(LocalPlace(tmp_path), fence=1)
    lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    second = change(written(lake, 2, "2024-02", 2))
    version = lake.commit(second, 2)
    torn(lake.folder(_TABLE) / "_delta_log" / f"{version:020d}.json")
    later = Lake(LocalPlace(tmp_path), fence=2)
    later.repair(_TABLE)
    assert numbers(later) == [1]
    later.commit(second, 2)
    assert numbers(later) == [1, 2]


@pytest.mark.parametrize("name", ["*.checkpoint.parquet", "_last_checkpoint"])
def test_a_torn_checkpoint_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The log's entries say all that the checkpoint said."""
    monkeypatch.setattr("retailmart.lake._CHECKPOINT_EVERY", 2)
    lake = Lake(LocalPlace(tmp_path), fence=1)
    for batch in (1, 2):
        lake.commit(change(written(lake, batch, "2024-01", batch)), batch)
    (found,) = (lake.folder(_TABLE) / "_delta_log").glob(name)
    torn(found)
    later = Lake(LocalPlace(tmp_path), fence=2)
    later.repair(_TABLE)
    assert numbers(later) == [1, 2]


def test_the_way_to_a_table_does_not_grow_with_its_history(
    s3: S3Server, s3_faults: S3Faults, tmp_path: Path
) -> None:
    """A table of many commits is opened with few requests, and looked at again with fewer."""
    store = S3Folder(s3.bucket(), "lake", S3Access(s3.environment, s3_faults.endpoint))
    lake = Lake(RemotePlace(store, tmp_path), fence=1)
    for batch in range(1, 50):
        lake.commit(change(), batch)
    later = Lake(RemotePlace(store, tmp_path), fence=2)
    before = sum(s3_faults.counts.values())
    later.state(_TABLE)
    opened_with = sum(s3_faults.counts.values()) - before
    for _ in range(5):
        later.state(_TABLE)
    looked_with = (sum(s3_faults.counts.values()) - before - opened_with) / 5
    assert 0 < opened_with <= 30
    assert 0 < looked_with <= 3


def test_the_newest_log_entry_is_known_without_opening_the_table(lake: Lake) -> None:
    """Of the newest version it tells what no other entry has; of all others it tells nothing."""
    assert lake.place.newest_entry(_TABLE, 0) is None
    first = lake.commit(change(written(lake, 1, "2024-01", 1)), 1)
    known = lake.place.newest_entry(_TABLE, first)
    assert known is not None
    second = lake.commit(change(written(lake, 2, "2024-01", 2)), 2)
    assert lake.place.newest_entry(_TABLE, first) is None
    assert lake.place.newest_entry(_TABLE, second) not in (None, known)
    assert lake.place.newest_entry(_TABLE, second + 1) is None
