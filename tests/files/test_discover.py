"""What lies in landing, and the snapshot of each file that all later steps read."""

from __future__ import annotations

import errno
import gzip
import os
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from retailmart.files import discover as module
from retailmart.files.discover import StagedCopy, discover, scan_again, sort_out, stage_copies
from retailmart.storage import Entry, EntryKind, LocalFolder

TEXT = b"a,b\n1,2\n"


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """An empty landing."""
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


def put(landing: Path, name: str, content: bytes = TEXT, *, old: bool = True) -> Path:
    """A file that landed a while ago, so that nothing waits for it to grow."""
    path = landing / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if old:
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def snapshots(landing: Path, scratch: Path) -> dict[str, StagedCopy]:
    store = LocalFolder(landing)
    return {shot.entry.path: shot for shot in stage_copies(store, discover(store).ready, scratch)}


def test_half_uploads_wait(landing: Path) -> None:
    """Names that senders give unfinished files wait, in any letter case; others are ready."""
    half = ["a.csv.part", "b.csv.TMP", "c.partial", "d.crdownload", "e.csv.filepart", "f.swp", "g~"]
    for name in [*half, "ready.csv", "part.csv", "deep/tmp/x.csv"]:
        put(landing, name)
    landed = discover(LocalFolder(landing))
    assert landed.waiting == tuple(half)
    assert [e.path for e in landed.ready] == ["deep/tmp/x.csv", "part.csv", "ready.csv"]


def test_very_many_half_uploads_cost_little_each(tmp_path: Path) -> None:
    """A million of them took minutes each time: every one was looked up in a new set of all."""
    one = Entry("", "", EntryKind.FILE, 1, 0, "1")
    many = [
        replace(one, path=f"sales_{n}.csv.part", key=f"sales_{n}.csv.part") for n in range(30_000)
    ]
    began = time.process_time()
    landed = sort_out(LocalFolder(tmp_path), many)
    assert time.process_time() - began < 2
    assert (landed.ready, len(landed.waiting)) == ((), 30_000)


def test_hidden_files_are_not_ours(landing: Path) -> None:
    """What begins with a dot is the system's or an uploader's, also below a hidden folder."""
    for name in (".DS_Store", ".sales.csv.xY1", ".git/sales.csv"):
        put(landing, name)
    landed = discover(LocalFolder(landing))
    assert (landed.ready, landed.waiting) == ((), ())


def test_no_landing_is_nothing_landed(landing: Path) -> None:
    """A folder that is not there holds nothing."""
    landing.rmdir()
    assert discover(LocalFolder(landing)).ready == ()


def test_a_fresh_file_that_stays_is_ready(landing: Path) -> None:
    """A second look finds it unchanged."""
    put(landing, "fresh.csv", old=False)
    assert [e.path for e in discover(LocalFolder(landing)).ready] == ["fresh.csv"]


def test_a_snapshot_is_the_unpacked_content(landing: Path, tmp_path: Path) -> None:
    """Plain and packed twins have one identity, their content's, and one copy."""
    put(landing, "a.csv")
    put(landing, "b.csv.gz", gzip.compress(TEXT))
    shots = snapshots(landing, tmp_path / "scratch")
    assert {shot.sha256 for shot in shots.values()} == {sha256(TEXT).hexdigest()}
    for shot in shots.values():
        assert shot.content is not None
        assert shot.content.read_bytes() == TEXT
        assert shot.scan.lines == 2
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_a_snapshot_does_not_follow_its_file(landing: Path, tmp_path: Path) -> None:
    """A sender that goes on writing changes nothing of what was read."""
    path = put(landing, "a.csv")
    shot = snapshots(landing, tmp_path / "scratch")["a.csv"]
    with path.open("ab") as file:
        file.write(b"3,4\n")
    assert shot.content is not None
    assert shot.content.read_bytes() == TEXT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(TEXT)[:-1], "cut off or damaged"),
        (gzip.compress(TEXT)[:5], "cut off or damaged"),
        (gzip.compress(TEXT) + b"x", "cut off or damaged"),
        (TEXT, "cut off or damaged"),
    ],
    ids=["no length", "no body", "more", "plain"],
)
def test_a_damaged_archive_is_not_read(
    landing: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    """No part of it is taken for the whole, and nothing of it stays in scratch."""
    put(landing, "a.csv.gz", content)
    shot = snapshots(landing, tmp_path / "scratch")["a.csv.gz"]
    assert shot.content is None
    assert words in str(shot.refusal)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_exploding_archive_is_stopped(
    landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the ratio nothing more is unpacked; below the size where it counts, all is."""
    put(landing, "a.csv.gz", gzip.compress(TEXT * 1_000_000))
    scratch = tmp_path / "scratch"
    assert snapshots(landing, scratch)["a.csv.gz"].content is not None
    monkeypatch.setattr(module, "_RATIO_COUNTS_FROM", 1 << 20)
    shot = snapshots(landing, scratch)["a.csv.gz"]
    assert shot.content is None
    assert "200 times" in str(shot.refusal)
    assert len(list(scratch.iterdir())) == 1


def test_a_link_put_in_a_files_place_is_not_followed(landing: Path, tmp_path: Path) -> None:
    """Between the listing and the reading a file may be replaced; the link leads nowhere."""
    path = put(landing, "a.csv")
    store = LocalFolder(landing)
    ready = discover(store).ready
    path.unlink()
    path.symlink_to("/etc/passwd")
    [shot] = stage_copies(store, ready, tmp_path / "scratch")
    assert shot.content is None
    assert "cannot be read" in str(shot.refusal)


def test_a_file_taken_back_is_no_refusal(landing: Path, tmp_path: Path) -> None:
    """A sender may withdraw a file after the listing; the others are read."""
    put(landing, "a.csv").unlink()
    path = put(landing, "b.csv")
    put(landing, "c.csv", TEXT * 2)
    store = LocalFolder(landing)
    ready = discover(store).ready
    path.unlink()
    assert [shot.entry.path for shot in stage_copies(store, ready, tmp_path / "scratch")] == [
        "c.csv"
    ]


def test_a_full_disk_is_not_the_files_fault(
    landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the copy can't be written the run fails; a good file must not be refused for it."""
    put(landing, "a.csv")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    name = UUID(int=0)
    monkeypatch.setattr("retailmart.files.discover.uuid.uuid4", lambda: name)
    (scratch / f"{name.hex}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        snapshots(landing, scratch)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_machine_lacks_is_not_the_files_fault(
    landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A good file that can't be opened now is taken in by the next run: it must not be refused."""
    put(landing, "a.csv")

    def lacking(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(LocalFolder, "open", lacking)
    with pytest.raises(OSError, match=os.strerror(number)):
        snapshots(landing, tmp_path / "scratch")


def test_a_scan_can_be_done_again(landing: Path, tmp_path: Path) -> None:
    """A batch that an earlier run staged is judged by the same bytes."""
    put(landing, "a.csv", b'\xef\xbb\xbfa,b\r\n"1 ",2\r\n\xff')
    shot = snapshots(landing, tmp_path / "scratch")["a.csv"]
    assert shot.content is not None
    again = scan_again(shot.content)
    assert (again.lines, again.quotes, again.pairs) == (3, 2, 2)
    assert (again.is_regular, again.head) == (shot.scan.is_regular, shot.scan.head)
    assert not again.is_regular
