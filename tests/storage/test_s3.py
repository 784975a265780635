"""A folder of a bucket behaves like a folder: nothing is lost, nothing half written is seen."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from retailmart.errors import RetailmartError, SettingsError, Unavailable
from retailmart.storage import Entry, LocalFolder, Store, open_store
from retailmart.storage.s3 import S3Access, S3Folder
from tests.support.services.s3 import REGION, S3Bucket, S3Server


@pytest.fixture
def bucket(s3: S3Server) -> S3Bucket:
    """A new bucket, seen from outside."""
    return s3.look(s3.bucket())


@pytest.fixture
def folder(s3: S3Server, bucket: S3Bucket) -> S3Folder:
    """The folder `in` of the bucket."""
    return S3Folder(bucket.name, "in", S3Access(s3.environment, s3.endpoint))


def entry_of(store: Store, key: str) -> Entry:
    """The entry under a key that is there."""
    entry = store.entry(key)
    assert entry is not None
    return entry


def read(store: Store, key: str) -> bytes:
    """The content under a key."""
    with store.open(entry_of(store, key)) as content:
        return content.read()


def test_thousands_of_objects_are_listed(folder: S3Folder, bucket: S3Bucket) -> None:
    """A listing goes on where a page ends; neighbours of the folder are not in it."""
    for number in range(1_203):
        bucket.put(f"in/{number % 7}/sales_{number}.csv", "x")
    bucket.put("inside.csv", "x")
    bucket.put("other/in/a.csv", "x")
    assert len(folder.entries()) == 1_203
    assert folder.entries()[0].path == "0/sales_0.csv"


def test_markers_of_folders_are_no_files(folder: S3Folder, bucket: S3Bucket) -> None:
    """What a console makes for an empty folder is neither listed nor taken away."""
    bucket.put("in/", "")
    bucket.put("in/sub/", "")
    bucket.put("in/sub/a.csv", "x")
    bucket.put("in/none/", "")
    bucket.put("in/empty.csv", "")
    assert [entry.path for entry in folder.entries()] == ["empty.csv", "sub/a.csv"]


@pytest.mark.parametrize(
    "key", ["day/a b.csv", "ü€.csv", "a%41.csv", "a+b&c=d.csv", "a'\"[*]?.csv"]
)
def test_any_usual_key_is_listed_read_moved_and_removed(
    folder: S3Folder, bucket: S3Bucket, key: str
) -> None:
    """Keys come and go as they are written, whatever URLs make of their characters."""
    bucket.put(f"in/{key}", b"content")
    (entry,) = folder.entries()
    assert (entry.key, entry.size) == (key, 7)
    assert read(folder, key) == b"content"
    archive = replace(folder, prefix="archive")
    archive.move_in(folder, entry, f"processed/{key}")
    assert bucket.keys() == [f"archive/processed/{key}"]
    assert bucket.get(f"archive/processed/{key}") == b"content"


def test_a_large_object_arrives_whole(folder: S3Folder, tmp_path: Path) -> None:
    """What goes up in parts comes down as it was."""
    content = bytes(range(256)) * 90_000
    source = tmp_path / "large"
    source.write_bytes(content)
    folder.copy_in(source, "large.csv")
    assert read(folder, "large.csv") == content
    folder.fetch("large.csv", tmp_path / "down" / "large")
    assert (tmp_path / "down" / "large").read_bytes() == content


def test_an_object_written_again_is_another_delivery(folder: S3Folder, bucket: S3Bucket) -> None:
    """Between listing and archiving a new version comes: it stays, and is not read as the old."""
    bucket.put("in/a.csv", b"old")
    listed = entry_of(folder, "a.csv")
    bucket.put("in/a.csv", b"new")
    with pytest.raises(FileNotFoundError):
        folder.open(listed)
    with pytest.raises(FileNotFoundError):
        replace(folder, prefix="archive").move_in(folder, listed, "a.csv")
    folder.remove(listed)
    assert bucket.get("in/a.csv") == b"new"
    assert entry_of(folder, "a.csv").version != listed.version


def test_files_move_between_here_and_a_bucket(
    folder: S3Folder, bucket: S3Bucket, s3: S3Server, tmp_path: Path
) -> None:
    """Landing and archive may be of different kinds, or in different buckets."""
    here = LocalFolder(tmp_path / "landing")
    here.put("day/a.csv", b"content")
    folder.move_in(here, entry_of(here, "day/a.csv"), "day/a.csv")
    assert here.entries() == []
    elsewhere = S3Folder(s3.bucket(), "", folder.access)
    elsewhere.move_in(folder, entry_of(folder, "day/a.csv"), "b.csv")
    assert folder.entries() == []
    back = LocalFolder(tmp_path / "back")
    back.move_in(elsewhere, entry_of(elsewhere, "b.csv"), "x/b.csv")
    assert elsewhere.entries() == []
    assert (tmp_path / "back/x/b.csv").read_bytes() == b"content"


def test_what_is_missing(folder: S3Folder) -> None:
    """No object is no error to ask for; a bucket that is missing is told from an empty one."""
    assert folder.entry("a.csv") is None
    assert not folder.exists("a.csv")
    assert folder.is_there()
    assert not folder.any_below("day")
    with pytest.raises(SettingsError, match="there is no bucket 'no-such-bucket'"):
        replace(folder, bucket="no-such-bucket").is_there()


def test_a_store_that_does_not_answer_is_named(
    folder: S3Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the store and says that it may pass; no key is in it."""
    monkeypatch.setattr("retailmart.storage.s3._RETRIES", 0)
    access = S3Access(folder.access.environment, "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=f"s3://{folder.bucket}/in") as caught:
        replace(folder, access=access).entries()
    assert folder.access.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_keys_come_from_a_profile(
    folder: S3Folder, bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys in the environment, the usual chain finds them."""
    given = folder.access.environment
    (tmp_path / "credentials").write_text(
        f"[till]\naws_access_key_id = {given['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {given['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (tmp_path / "config").write_text("[profile till]\nregion = eu-west-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    access = S3Access({"AWS_PROFILE": "till"}, folder.access.endpoint)
    bucket.put("in/a.csv", b"x")
    assert [e.path for e in replace(folder, access=access).entries()] == ["a.csv"]
    assert access.where()["region"] == "eu-west-1"
    assert access.credentials()["access_key_id"] == given["AWS_ACCESS_KEY_ID"]


def test_no_keys_at_all_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where keys can come from."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingsError, match="no credentials for S3"):
        S3Access({}, "http://127.0.0.1:9").credentials()


def test_an_address_opens_the_store_it_means(tmp_path: Path) -> None:
    """A path is a folder, an s3:// address a bucket; S3_BUCKET stands in for a missing one."""
    access = S3Access({"S3_BUCKET": "tills"})
    assert str(open_store("landing", tmp_path, access)) == str(tmp_path / "landing")
    assert str(open_store("s3://b-1/to_process/", tmp_path, access)) == "s3://b-1/to_process"
    assert str(open_store("s3:///to_process", tmp_path, access)) == "s3://tills/to_process"
    with pytest.raises(RetailmartError, match="names no bucket"):
        open_store("s3:///to_process", tmp_path, S3Access())


def test_keys_that_settings_name_go_first(s3: S3Server, bucket: S3Bucket) -> None:
    """They are asked for when connecting, and no key of the environment is mixed with them."""
    asked = []

    def keys() -> dict[str, str]:
        asked.append(True)
        return {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}

    others = {"AWS_ACCESS_KEY_ID": "others", "AWS_SESSION_TOKEN": "others", "AWS_REGION": REGION}
    folder = S3Folder(bucket.name, "in", S3Access(others, s3.endpoint, keys=keys))
    assert not asked
    assert s3.secret_key not in repr(folder)
    bucket.put("in/a.csv", "x")
    assert read(folder, "a.csv") == b"x"
    assert folder.access.credentials() == keys()
    assert "aws_session_token" not in folder.delta_options()
    assert folder.delta_options()["aws_secret_access_key"] == s3.secret_key


def test_a_worker_gets_keys_and_not_the_way_to_them(s3: S3Server, bucket: S3Bucket) -> None:
    """What Spark sends has today's keys: no worker has the project's store of secrets."""

    def keys() -> dict[str, str]:
        return {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key, "token": "t"}

    folder = S3Folder(bucket.name, "in", S3Access({"OTHER": "x"}, s3.endpoint, REGION, keys))
    # A local function can't be pickled: what arrives can't have come from it.
    there = pickle.loads(pickle.dumps(folder))
    assert there.access.credentials() == keys()
    assert there.access.environment.get("OTHER") is None
    bucket.put("in/a.csv", "x")
    assert read(there, "a.csv") == b"x"
