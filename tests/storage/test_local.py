"""Files in folders: moved whole, links never followed, any name taken."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retailmart.storage import Entry, EntryKind, LocalFolder, printable
from tests.support.synced import watch_syncs


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system, where a rename cannot reach."""
    here = tmp_path.stat().st_dev
    # The tests' own folder is in memory or on the disk: one of these is the other.
    others = [Path("/dev/shm"), Path("/var/tmp"), Path.cwd()]
    found = next((one for one in others if one.is_dir() and one.stat().st_dev != here), None)
    if found is None:
        pytest.skip("needs two file systems")
    with tempfile.TemporaryDirectory(dir=found) as folder:
        yield Path(folder)


def entry_of(folder: LocalFolder, key: str) -> Entry:
    """The entry under a name that is there."""
    entry = folder.entry(key)
    assert entry is not None
    return entry


def landing(tmp_path: Path, name: str = "a.csv", content: bytes = b"x") -> LocalFolder:
    """A folder with one file."""
    path = tmp_path / "landing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return LocalFolder(tmp_path / "landing")


def test_entries_are_everything_but_folders(tmp_path: Path) -> None:
    """Files, links and special files are told apart, however deep, sorted by path."""
    folder = landing(tmp_path, "m/b.csv", b"12345")
    (folder.root / "empty").mkdir()
    (folder.root / "a_link").symlink_to("/etc/passwd")
    (folder.root / "folder_link").symlink_to("/etc")
    (folder.root / "dangling").symlink_to("nowhere")
    os.mkfifo(folder.root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.root / "s"))
        found = {entry.path: entry.kind for entry in folder.entries()}
    assert found == {
        "a_link": EntryKind.LINK,
        "dangling": EntryKind.LINK,
        "folder_link": EntryKind.LINK,
        "m/b.csv": EntryKind.FILE,
        "pipe": EntryKind.SPECIAL,
        "s": EntryKind.SPECIAL,
    }
    assert list(found) == sorted(found)
    assert [e.size for e in folder.entries() if e.path == "m/b.csv"] == [5]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """A missing landing is one with nothing in it."""
    folder = LocalFolder(tmp_path / "none")
    assert folder.entries() == []
    assert folder.entry("a.csv") is None
    assert not folder.exists("a.csv")


def test_links_are_never_opened(tmp_path: Path) -> None:
    """A file that is swapped for a link after it was listed is not read through it."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = landing(tmp_path)
    (entry,) = folder.entries()
    (folder.root / "a.csv").unlink()
    (folder.root / "a.csv").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        folder.open(entry)


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    """A file that is swapped for a pipe is an error at once, not a wait for a writer."""
    folder = landing(tmp_path)
    (entry,) = folder.entries()
    (folder.root / "a.csv").unlink()
    os.mkfifo(folder.root / "a.csv")
    with pytest.raises(OSError, match="not a regular file"):
        folder.open(entry)


def test_the_version_follows_the_content(tmp_path: Path) -> None:
    """Another size, or another time of writing, is another version."""
    folder = landing(tmp_path)
    before = folder.entry("a.csv")
    (folder.root / "a.csv").write_bytes(b"xy")
    longer = folder.entry("a.csv")
    os.utime(folder.root / "a.csv", ns=(1, 1))
    later = folder.entry("a.csv")
    assert before is not None
    assert longer is not None
    assert later is not None
    assert len({before.version, longer.version, later.version}) == 3


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.csv", b"\xff\xfe", "café ₦.csv".encode(), b"a\nb.csv", b"a'[*]?\"b.csv", b" x "],
)
def test_any_name_is_listed_opened_and_moved(tmp_path: Path, name: bytes) -> None:
    """Names that are no UTF-8 are shown with \\xNN and are still the very file."""
    folder = landing(tmp_path)
    (folder.root / "a.csv").unlink()
    with open(os.fsencode(folder.root) + b"/" + name, "wb") as file:  # noqa: PTH123 bytes
        file.write(b"42")
    (entry,) = folder.entries()
    assert entry.path.startswith(name.decode("utf-8", "backslashreplace"))
    with folder.open(entry) as content:
        assert content.read() == b"42"
    archive = LocalFolder(tmp_path / "archive")
    archive.move_in(folder, entry, f"day/{entry.path}")
    assert folder.entries() == []
    assert [found.path for found in archive.entries()] == [f"day/{entry.path}"]


def test_printable_keeps_what_it_can() -> None:
    """Only bytes that are no UTF-8 are replaced."""
    assert printable("é\udcff\\x.csv").startswith("é\\xff\\x.csv~")
    assert printable("é\\xff\\x.csv") == "é\\xff\\x.csv"


def test_a_move_on_one_disk_replaces_the_name(tmp_path: Path) -> None:
    """The file itself moves: same inode, folders made, nothing left behind."""
    folder = landing(tmp_path, "m/a.csv", b"content")
    inode = (folder.root / "m" / "a.csv").stat().st_ino
    archive = LocalFolder(tmp_path / "archive")
    archive.move_in(folder, entry_of(folder, "m/a.csv"), "x/y/a.csv")
    assert (archive.root / "x/y/a.csv").stat().st_ino == inode
    assert not folder.exists("m/a.csv")


def test_a_move_between_disks_copies_whole(tmp_path: Path, elsewhere: Path) -> None:
    """Across file systems content and time arrive, and no half copy stays."""
    folder = landing(tmp_path, "a.csv", b"content" * 100_000)
    os.utime(folder.root / "a.csv", ns=(5_000_000_000, 5_000_000_000))
    archive = LocalFolder(elsewhere)
    archive.move_in(folder, entry_of(folder, "a.csv"), "day/a.csv")
    assert [entry.path for entry in archive.entries()] == ["day/a.csv"]
    assert (elsewhere / "day/a.csv").read_bytes() == b"content" * 100_000
    assert (elsewhere / "day/a.csv").stat().st_mtime_ns == 5_000_000_000
    assert folder.entries() == []


def test_a_link_between_disks_stays_a_link(tmp_path: Path, elsewhere: Path) -> None:
    """What a link points at is never copied, nor touched."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = landing(tmp_path)
    (folder.root / "link.csv").symlink_to(secret)
    archive = LocalFolder(elsewhere)
    archive.move_in(folder, entry_of(folder, "link.csv"), "link.csv")
    assert (elsewhere / "link.csv").is_symlink()
    assert secret.read_text() == "secret"
    assert not folder.exists("link.csv")


def test_a_pipe_moves_between_disks(tmp_path: Path, elsewhere: Path) -> None:
    """A refused pipe must not stop every later run because the archive is on another disk."""
    folder = landing(tmp_path)
    os.mkfifo(folder.root / "pipe.csv")
    LocalFolder(elsewhere).move_in(folder, entry_of(folder, "pipe.csv"), "pipe.csv")
    assert not folder.exists("pipe.csv")


def test_put_writes_whole(tmp_path: Path) -> None:
    """A small file is there with its content, replaces an older one and leaves no part."""
    folder = LocalFolder(tmp_path / "archive")
    folder.put("deep/er/a.txt", b"1")
    folder.put("deep/er/a.txt", b"22")
    assert (folder.root / "deep/er/a.txt").read_bytes() == b"22"
    assert [entry.path for entry in folder.entries()] == ["deep/er/a.txt"]


def test_what_is_written_or_moved_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before it gets its name, and then the name: a power cut leaves all or nothing."""
    synced = watch_syncs(monkeypatch)
    folder = LocalFolder(tmp_path / "archive")
    folder.put("a.txt", b"1")
    assert [path.name for path in synced] == [".retailmart.part", "archive"]
    synced.clear()
    folder.move_in(landing(tmp_path), entry_of(landing(tmp_path), "a.csv"), "day/a.csv")
    assert synced == [folder.root / "day"]


@pytest.mark.parametrize(
    "length",
    [250, 255],
)
def test_the_longest_names_can_be_moved_and_put(
    tmp_path: Path, elsewhere: Path, length: int
) -> None:
    """A name as long as the system allows leaves no room for an ending, and needs none."""
    name = "n" * length
    folder = landing(tmp_path, name)
    LocalFolder(elsewhere).move_in(folder, entry_of(folder, name), name)
    LocalFolder(tmp_path / "other").put(name, b"1")
    assert (elsewhere / name).read_bytes() == b"x"
    assert (tmp_path / "other" / name).read_bytes() == b"1"


def test_existence_needs_no_target(tmp_path: Path) -> None:
    """A dangling link lies there, though it leads nowhere."""
    folder = landing(tmp_path)
    (folder.root / "dangling").symlink_to("nowhere")
    assert folder.exists("dangling")
    assert folder.exists("a.csv")
    assert not folder.exists("b.csv")
