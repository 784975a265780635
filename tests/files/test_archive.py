"""Archive: each delivered content is kept once, and landing's newer files are left alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from retailmart import console
from retailmart.errors import RetailmartError
from retailmart.files.archive import ExpiredArchive, archive, archive_path, expire_archive
from retailmart.ledger.values import Batch, BatchState, FileState, LedgerFile
from retailmart.report import Silent
from retailmart.session import Session
from retailmart.storage import LocalFolder
from tests.support.shop import Shop, sale

_STAMP = "20240401_101112"
_BATCH = Batch(3, 1, datetime(2024, 4, 1, tzinfo=UTC), _STAMP, BatchState.PUBLISHED)


@dataclass(frozen=True)
class Place:
    """Landing, archive and scratch of one batch."""

    folder: Path

    def land(self, path: str, content: bytes, state: FileState = FileState.LOADED) -> LedgerFile:
        """Put a file into landing and its snapshot into scratch, as a run does."""
        target = self.folder / "landing" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / "scratch").mkdir(exist_ok=True)
        (self.folder / "scratch" / f"{sha256}.csv").write_bytes(content)
        seen = target.stat()
        refused = state is FileState.REFUSED
        return LedgerFile(
            1,
            _BATCH.batch_id,
            path,
            sha256,
            seen.st_size,
            f"{seen.st_size}-{seen.st_mtime_ns}",
            state,
            None if refused else "sales",
            "bad_schema" if refused else None,
            "is empty" if refused else None,
            None,
        )

    def archive(self, *files: LedgerFile) -> None:
        """The step."""
        landing, archived = (LocalFolder(self.folder / name) for name in ("landing", "archive"))
        archive(landing, archived, self.folder / "scratch", _BATCH, files, {})

    def found(self, where: str) -> dict[str, bytes]:
        """Files and contents below a folder."""
        root = self.folder / where
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty place."""
    return Place(tmp_path)


def test_files_are_moved_once_however_often_the_step_runs(place: Place) -> None:
    """Processed by stamp with the path below landing, refused with a reason beside."""
    good = place.land("north/sales.csv", b"good")
    twin = place.land("copy.csv", b"good", FileState.DUPLICATE)
    bad = place.land("bad.csv", b"", FileState.REFUSED)
    for _ in range(2):
        place.archive(good, twin, bad)
        assert place.found("landing") == {}
        assert place.found("archive") == {
            f"processed/{_STAMP}/north/sales.csv": b"good",
            f"processed/{_STAMP}/copy.csv": b"good",
            "error_files/bad_schema/bad.csv": b"",
            "error_files/bad_schema/bad.csv.reason.txt": b"bad.csv is empty\n",
        }


def test_a_newer_file_of_the_name_stays_and_what_was_read_is_archived(place: Place) -> None:
    """The sender overwrote the file during the run: the snapshot goes to the archive."""
    file = place.land("sales.csv", b"old")
    (place.folder / "landing" / "sales.csv").write_bytes(b"newer")
    for _ in range(2):
        place.archive(file)
    assert place.found("landing") == {"sales.csv": b"newer"}
    assert place.found("archive") == {f"processed/{_STAMP}/sales.csv": b"old"}


def test_a_file_taken_back_by_the_sender_is_archived_all_the_same(place: Place) -> None:
    """Its rows are counted, so its content must be kept."""
    file = place.land("sales.csv", b"read")
    (place.folder / "landing" / "sales.csv").unlink()
    place.archive(file)
    assert place.found("archive") == {f"processed/{_STAMP}/sales.csv": b"read"}


def test_two_files_of_one_content_that_were_overwritten_are_both_kept(place: Place) -> None:
    """File and duplicate share one snapshot; each has its place in the archive."""
    files = [place.land("a.csv", b"same"), place.land("b.csv", b"same", FileState.DUPLICATE)]
    for name in ("a.csv", "b.csv"):
        (place.folder / "landing" / name).write_bytes(b"newer")
    place.archive(*files)
    assert place.found("archive") == {
        f"processed/{_STAMP}/a.csv": b"same",
        f"processed/{_STAMP}/b.csv": b"same",
    }


def test_a_refused_name_that_comes_again_replaces_nothing(place: Place) -> None:
    """Both broken deliveries are kept, each with its reason."""
    place.archive(place.land("bad.csv", b"one", FileState.REFUSED))
    place.archive(place.land("bad.csv", b"two", FileState.REFUSED))
    kept = {
        name: content
        for name, content in place.found("archive").items()
        if not name.endswith(".reason.txt")
    }
    assert sorted(kept.values()) == [b"one", b"two"]
    reasons = {name.removesuffix(".reason.txt") for name in place.found("archive")} - kept.keys()
    assert not reasons
    assert all(f"{name}.reason.txt" in place.found("archive") for name in kept)


def test_where_a_file_goes(place: Place) -> None:
    """Only a refused file goes to error_files, into the folder its check named."""
    bad = place.land("x/bad.csv", b"", FileState.REFUSED)
    assert archive_path(_BATCH, bad) == "error_files/bad_schema/x/bad.csv"
    good = place.land("x/a.csv", b"1")
    assert archive_path(_BATCH, good) == f"processed/{_STAMP}/x/a.csv"


class Forgetful:
    """A shop whose archive keeps files for some days only."""

    def __init__(self, shop: Shop, days: int) -> None:
        self.shop = shop
        with (shop.folder / "retailmart.yml").open("a", encoding="utf-8") as file:
            file.write(f"keep: {{archive: {days}}}\n")

    def expire(self, *, later: int, dry_run: bool = False) -> ExpiredArchive:
        """What is let go some days from now."""
        with Session.open(self.shop.open().project, Silent()) as session:
            session.acquire_lease()
            now = datetime.now(UTC) + timedelta(days=later)
            return expire_archive(session.ledger, session.archive, 10, now, dry_run=dry_run)


@pytest.mark.every_backend
def test_the_archive_lets_old_files_go(shop: Shop) -> None:
    """Processed, refused with their reason, and undone ones; others' files there stay."""
    forgetful = Forgetful(shop, 10)
    shop.sales("north/sales_a.csv", [sale()])
    shop.drop("sales_bad.csv", "no header of ours\n1\n")
    shop.run()
    shop.sales("sales_b.csv", [sale(2)])
    run = shop.run()
    shop.open().undo(run.run_id)
    before = shop.archived()
    assert len(before) == 4
    assert forgetful.expire(later=9) == ExpiredArchive()
    told = forgetful.expire(later=11, dry_run=True)
    assert (told.files, told.needed) == (4, 0)
    assert told.bytes > 0
    assert shop.archived() == before
    assert forgetful.expire(later=11) == told
    assert shop.archived() == []
    assert forgetful.expire(later=12) == ExpiredArchive()


def test_an_undo_that_needs_an_old_file_says_why_it_cannot_be(shop: Shop) -> None:
    """The older version of a corrected file counts among those that are needed."""
    forgetful = Forgetful(shop, 10)
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.sales("sales_a.csv", [sale(price="7.00")])
    corrected = shop.run()
    assert forgetful.expire(later=11).needed == 1
    with pytest.raises(RetailmartError, match="which keeps files for 10 days") as raised:
        shop.open().undo(corrected.run_id)
    assert "Put it back there as processed/" in str(raised.value.hint)
    report = shop.open().verify(["duckdb"], runs=None)
    assert set(report.skipped.values()) == {
        "is no longer in the archive, which keeps files for 10 days"
    }


def test_a_run_lets_old_files_go_once_a_day_and_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the sweep of the day."""
    Forgetful(shop, 1)
    shop.sales("sales_a.csv", [sale()])
    shop.run()

    class Later(datetime):
        """Three days from now."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=3)

    monkeypatch.setattr("retailmart.operations.run.datetime", Later)
    monkeypatch.setattr("retailmart.ledger.runs.Runs.sweep_is_due", lambda _: True)
    shop.sales("sales_b.csv", [sale(2)])
    report = shop.run()
    assert report.archive is not None
    assert (report.archive.removed, report.archive.needed) == (2, 0)
    console.summary(report)
    told = " ".join(capsys.readouterr().err.split())
    assert "from the archive (keep: archive)" in told
