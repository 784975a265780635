"""Places: what a power cut must not take is synced, its name included."""

from __future__ import annotations

from pathlib import Path

import pytest

from retailmart.lake import Lake
from retailmart.lake.places import LocalPlace
from retailmart.project.types import ColumnType
from retailmart.tables import DataFile, Field, TableChange
from tests.support.synced import watch_syncs

_TABLE = "raw/numbers"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in that order."""
    return watch_syncs(monkeypatch)


def test_what_is_persisted_is_synced(tmp_path: Path, synced: list[Path]) -> None:
    """Each data file, and then each folder that leads to it, up to the lake."""
    folder = tmp_path / _TABLE
    files = []
    for month in ("2024-01", "2024-02"):
        path = f"_month={month}/b.parquet"
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(b"x")
        files.append(DataFile(path, 1, 1))
    LocalPlace(tmp_path).persist(_TABLE, files)
    written = {folder / file.path for file in files}
    assert set(synced[:2]) == written
    named = {path.parent for path in written} | {folder, folder.parent, tmp_path}
    assert set(synced[2:]) == named


def test_a_commit_is_synced(tmp_path: Path, synced: list[Path]) -> None:
    """The log's entry, and then its folder: a commit that was reported is not lost."""
    change = TableChange(_TABLE, (Field("n", ColumnType("BIGINT")),), ())
    version = Lake(LocalPlace(tmp_path), fence=1).commit(change, 1)
    log = tmp_path / _TABLE / "_delta_log"
    for number in range(version + 1):
        entry = log / f"{number:020d}.json"
        assert entry in synced
        assert log in synced[synced.index(entry) :]


def test_a_checkpoint_is_synced(
    tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers begin with it: torn, it would hide all commits before it."""
    monkeypatch.setattr("retailmart.lake._CHECKPOINT_EVERY", 2)
    lake = Lake(LocalPlace(tmp_path), fence=1)
    for batch in (1, 2):
        lake.commit(TableChange(_TABLE, (Field("n", ColumnType("BIGINT")),), ()), batch)
    log = tmp_path / _TABLE / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    assert {checkpoint, log / "_last_checkpoint"} <= set(synced)
