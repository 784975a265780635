"""Objects in a folder of a bucket: S3, or any store that speaks its protocol."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from io import RawIOBase
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast
from urllib.parse import urlsplit

from retailmart.errors import MissingExtra, RetailmartError, SettingsError, Unavailable
from retailmart.storage.entries import Entry, EntryKind, Store, printable

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Store

# The limit of one CopyObject; larger objects are copied through this machine.
_LARGEST_COPY = 5 << 30
_CHUNK = 8 << 20
_CONNECT_SECONDS, _SECONDS = 5.0, 60.0
_RETRIES = 6
_RETRY_SECONDS = 120
_KEYS_LAST = timedelta(minutes=10)
# The code in a store's answer, however the client wraps it.
_CODE = re.compile(r"<Code>(\w+)</Code>|code: (\w+)|\b(40[13]) (?:Forbidden|Unauthorized)")
_DENIED = frozenset(
    ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403")
)
# Keys that cannot be requested: the client would take them for others.
_ODD = re.compile(r"(^|/)(\.{0,2}(/|$))|[\x00-\x1f\x7f]")
_AGAIN = "Run again to go on"
_PACKAGES = ("botocore", "obstore")


def ensure_packages() -> None:
    """Raise MissingExtra if a package that S3 needs is not installed; none is imported."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        packages = "the package" if len(missing) == 1 else "packages"
        raise MissingExtra("s3", f"S3 needs {packages} {' and '.join(missing)}, not installed here")


@dataclass(frozen=True)
class S3Access:
    """Access to buckets. Credentials come from `keys`, from `environment`, or the usual chain.

    `environment` is the process's, with `.env` as fallback; `endpoint` is of an S3-compatible
    store. `keys` returns those that settings name, if they name any; it is called when connecting.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    endpoint: str | None = None
    region: str | None = None
    keys: Callable[[], Mapping[str, str]] = field(default=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What another machine needs: today's keys, and nothing else from this environment."""
        names = {
            "access_key_id": "AWS_ACCESS_KEY_ID",
            "secret_access_key": "AWS_SECRET_ACCESS_KEY",
            "token": "AWS_SESSION_TOKEN",
        }
        where, keys = self.where(), self.credentials()
        return {
            "environment": {names[key]: value for key, value in keys.items()},
            "endpoint": where.get("endpoint"),
            "region": where["region"],
            "keys": dict,
        }

    @cached_property
    def _session(self) -> Any:
        import botocore.session

        session = botocore.session.Session()
        if profile := self.environment.get("AWS_PROFILE"):
            session.set_config_variable("profile", profile)
        return session

    def _given(self, *names: str) -> str | None:
        return next((self.environment[name] for name in names if self.environment.get(name)), None)

    @cached_property
    def client(self) -> Any:
        """A client that lists every existing key; the other client stops at an odd one."""
        import botocore.config

        where, keys = self.where(), self.credentials()
        return self._session.create_client(
            "s3",
            region_name=where["region"],
            endpoint_url=where.get("endpoint"),
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
            aws_session_token=keys.get("token"),
            config=botocore.config.Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_SECONDS,
                retries={"total_max_attempts": _RETRIES + 1, "mode": "standard"},
                s3={"addressing_style": "path" if "endpoint" in where else "auto"},
            ),
        )

    def where(self) -> dict[str, str]:
        """Region and endpoint, under the names that both of our S3 clients use."""
        region = self.region or self._given("AWS_REGION", "AWS_DEFAULT_REGION")
        endpoint = self.endpoint or self._given("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        found = {"region": region or self._session.get_config_variable("region") or "us-east-1"}
        if endpoint:
            found["endpoint"] = endpoint.rstrip("/")
            found["virtual_hosted_style_request"] = "false"
        return found

    def credentials(self) -> dict[str, str]:
        """An access key, renewed if it expires. RetailmartError if there is none."""
        if named := dict(self.keys()):
            return named
        key, secret = self._given("AWS_ACCESS_KEY_ID"), self._given("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            found = {"access_key_id": key, "secret_access_key": secret}
            if token := self._given("AWS_SESSION_TOKEN"):
                found["token"] = token
            return found
        chain = self._chain
        if chain is None:
            raise SettingsError(
                ["no credentials for S3: neither the environment, a profile nor a role has any"],
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        frozen = chain.get_frozen_credentials()
        found = {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key}
        return found | ({"token": frozen.token} if frozen.token else {})

    @cached_property
    def _chain(self) -> Any:
        return self._session.get_credentials()


@dataclass(frozen=True)
class S3Folder:
    """The objects below a prefix of a bucket. Keys are relative to it."""

    bucket: str
    prefix: str
    access: S3Access
    appears_whole: ClassVar[bool] = True

    @classmethod
    def at(cls, place: str, access: S3Access) -> S3Folder:
        """The folder at an address like `s3://bucket/folder`.

        Raises SettingsError for an address without a bucket, or if a package for S3 is missing.
        """
        ensure_packages()
        parts = urlsplit(place)
        bucket = parts.netloc or access.environment.get("S3_BUCKET", "")
        if not bucket:
            raise SettingsError([f"{place} names no bucket"], "Write s3://bucket/folder")
        return cls(bucket, parts.path.strip("/"), access)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the clients: another machine opens its own."""
        return {"bucket": self.bucket, "prefix": self.prefix, "access": self.access}

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def below(self, folder: str) -> S3Folder:
        """A folder of this one."""
        return S3Folder(self.bucket, f"{self.prefix}/{folder}".strip("/"), self.access)

    def is_there(self) -> bool:
        """True, or SettingsError for a missing bucket; a folder is made by its first object."""
        with self._translate_errors():
            self.access.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        return True

    def entries(self) -> list[Entry]:
        """Every object below the prefix, sorted by path, without the empty markers of folders."""
        return self.entries_after("")

    def entries_after(self, key: str) -> list[Entry]:
        """The same, but only of the objects whose keys come after this one."""
        pages = self.access.client.get_paginator("list_objects_v2")
        below = f"{self.prefix}/" if self.prefix else ""
        after = {"StartAfter": f"{below}{key}"} if key else {}
        found = []
        with self._translate_errors():
            for page in pages.paginate(Bucket=self.bucket, Prefix=below, **after):
                for listed in page.get("Contents", ()):
                    key = listed["Key"].removeprefix(below)
                    if listed["Size"] or (key and not key.endswith("/")):
                        moment = int(listed["LastModified"].timestamp() * 1e9)
                        kind = EntryKind.UNREACHABLE if _ODD.search(key) else EntryKind.FILE
                        found.append(
                            Entry(printable(key), key, kind, listed["Size"], moment, listed["ETag"])
                        )
        return sorted(found, key=lambda entry: entry.path)

    def names(self, below: str) -> list[str]:
        """The keys of every object below a folder of this one."""
        with self._translate_errors():
            metas = list(self._listed(self._key(below)))
        return [self._entry(meta).key for meta in metas]

    def sizes(self, below: str) -> dict[str, int]:
        """The bytes of every object below a folder of this one, by key."""
        with self._translate_errors():
            entries = [self._entry(meta) for meta in self._listed(self._key(below))]
        return {entry.key: entry.size for entry in entries}

    def folders(self, below: str) -> list[str]:
        """The folders directly below a folder of this one, as paths."""
        import obstore

        with self._translate_errors():
            found = obstore.list_with_delimiter(self._store, self._key(below) or None)
        above = f"{self.prefix}/" if self.prefix else ""
        return [str(name).removeprefix(above).strip("/") for name in found["common_prefixes"]]

    def any_below(self, path: str) -> bool:
        """Whether a folder of this one holds anything."""
        import obstore

        with self._translate_errors():
            stream = obstore.list(self._store, prefix=self._key(path) or None, chunk_size=1)
            return any(len(chunk) for chunk in stream)

    def entry(self, key: str) -> Entry | None:
        """The object as it is now, or None."""
        import obstore

        with self._translate_errors():
            try:
                return self._entry(obstore.head(self._store, self._key(key)))
            except FileNotFoundError:
                return None

    def open(self, entry: Entry, start: int = 0, end: int | None = None) -> BinaryIO:
        """Read the exact version that was listed, its bytes from `start` to `end`.

        Raises FileNotFoundError if it was replaced.
        """
        import obstore
        from obstore.exceptions import PreconditionError

        options: GetOptions = {"if_match": entry.version}
        if start or end is not None:
            options["range"] = (start, entry.size if end is None else end)
        with self._translate_errors():
            try:
                found = obstore.get(self._store, self._key(entry.key), options=options)
            except PreconditionError as error:
                raise FileNotFoundError(f"{entry.path} was written again") from error
        return cast(BinaryIO, _Reading(iter(found.stream(_CHUNK)), self._translate_errors))

    def exists(self, path: str) -> bool:
        """Whether an object has this key."""
        return self.entry(path) is not None

    def move_in(self, source: Store, entry: Entry, path: str) -> None:
        """Move an entry of `source` to `path` here: copied whole, then removed there.

        Raises FileNotFoundError if it was written again since it was listed: that is another
        delivery.
        """
        if isinstance(source, S3Folder) and self._reaches(source) and entry.size < _LARGEST_COPY:
            self._copy(source, entry, path)
        else:
            # Whole on this machine first: an interrupted transfer must not look complete.
            with TemporaryFile() as whole:
                with source.open(entry) as content:
                    shutil.copyfileobj(content, whole, _CHUNK)
                whole.seek(0)
                self._upload(path, whole)
        source.remove(entry)

    def copy_in(self, source: Path, path: str) -> None:
        """Copy a local file to `path` here, as a whole or not at all."""
        with source.open("rb") as content:
            self._upload(path, content)

    def put(self, path: str, content: bytes) -> None:
        """Write a small object."""
        import obstore

        with self._translate_errors():
            obstore.put(self._store, self._key(path), content)

    def remove(self, entry: Entry) -> None:
        """Remove an object, unless it was written again since it was listed."""
        import obstore

        now = self.entry(entry.key)
        if now is not None and now.version == entry.version:
            with self._translate_errors():
                obstore.delete(self._store, self._key(entry.key))

    def remove_empty_folders(self, paths: Iterable[str]) -> None:
        """Nothing to do: a bucket has no folders."""

    def discard(self, path: str) -> None:
        """Remove an object of our own, whatever its content."""
        import obstore

        with self._translate_errors():
            obstore.delete(self._store, self._key(path))

    def repeat(self, path: str, target: str, size: int) -> None:
        """Copy an object of ours that never changes to `target` here; `size` is in bytes."""
        import obstore

        with self._translate_errors():
            if size < _LARGEST_COPY:
                obstore.copy(self._store, self._key(path), self._key(target))
                return
            with TemporaryFile() as whole:
                for chunk in obstore.get(self._store, self._key(path)).stream(_CHUNK):
                    whole.write(chunk)
                whole.seek(0)
                self._upload(target, whole)

    def fetch(self, path: str, target: Path) -> None:
        """Copy an object to a local file, as a whole or not at all."""
        import obstore

        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # others fetch it, too
        with self._translate_errors(), partial.open("wb") as written:
            for chunk in obstore.get(self._store, self._key(path)).stream(_CHUNK):
                written.write(chunk)
        partial.rename(target)

    def delta_options(self) -> dict[str, str]:
        """The Delta library's options to reach this folder."""
        where, keys = self.access.where(), self.access.credentials()
        options = {f"aws_{name}": value for name, value in (where | keys).items()}
        if "token" in keys:
            options["aws_session_token"] = options.pop("aws_token")
        return options | {
            **_limits(),
            "allow_http": str(_is_plain(where)).lower(),
            "max_retries": str(_RETRIES),
            "retry_timeout": f"{_RETRY_SECONDS}s",
        }

    @cached_property
    def _store(self) -> S3Store:
        from obstore.store import S3Store

        where = self.access.where()
        self.access.credentials()  # reports a missing key in our words
        return S3Store(
            self.bucket,
            config=where,  # type: ignore[arg-type]
            client_options={"allow_http": _is_plain(where), **_limits()},  # type: ignore[arg-type]
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
            credential_provider=self._credential,  # type: ignore[arg-type]
        )

    def _credential(self) -> dict[str, Any]:
        # Requested again in time, because keys of a role or a profile expire.
        return {**self.access.credentials(), "expires_at": datetime.now(UTC) + _KEYS_LAST}

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}".strip("/")

    def _listed(self, prefix: str) -> Iterator[Any]:
        import obstore

        for chunk in obstore.list(self._store, prefix=prefix or None):
            yield from chunk

    def _entry(self, meta: Any) -> Entry:
        key = meta["path"].removeprefix(f"{self.prefix}/" if self.prefix else "")
        moment = int(meta["last_modified"].timestamp() * 1e9)
        return Entry(printable(key), key, EntryKind.FILE, meta["size"], moment, str(meta["e_tag"]))

    def _reaches(self, other: S3Folder) -> bool:
        return (self.bucket, self.access) == (other.bucket, other.access)

    def _copy(self, source: S3Folder, entry: Entry, path: str) -> None:
        import obstore

        with self._translate_errors():
            obstore.copy(self._store, source._key(entry.key), self._key(path))
        now = source.entry(entry.key)
        if now is None or now.version != entry.version:
            raise FileNotFoundError(f"{entry.path} was written again")

    def _upload(self, path: str, content: BinaryIO) -> None:
        import obstore

        with self._translate_errors():
            obstore.put(self._store, self._key(path), content, chunk_size=_CHUNK)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate the client's errors to ours; a missing object stays FileNotFoundError."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError  # an answer that was cut short
        from obstore.exceptions import BaseError

        try:
            yield
        except ClientError as error:
            raise self._refused(str(error.response["Error"].get("Code")), str(error)) from error
        except (BotoCoreError, ResponseParserError) as error:
            raise Unavailable(f"{self}: {_first_line(str(error))}", _AGAIN) from error
        except (BaseError, FileNotFoundError) as error:
            message = str(error)
            if isinstance(error, FileNotFoundError) and not _OTHER_MISSING.search(message):
                raise
            found = _CODE.search(message)
            raise self._refused(found[found.lastindex or 0] if found else "", message) from error

    def _refused(self, code: str, message: str) -> RetailmartError:
        if code == "NoSuchBucket":
            return SettingsError(
                [f"{self}: there is no bucket {self.bucket!r}"],
                "Create it, or correct its name in retailmart.yml",
            )
        if code in _DENIED:
            return RetailmartError(
                f"{self}: access denied",
                "Check the credentials and the bucket's policy; see: retailmart doctor",
            )
        return Unavailable(f"{self}: {_first_line(message)}", _AGAIN)


class _Reading(RawIOBase):
    """A stream of chunks as a file that can be read once."""

    def __init__(self, chunks: Iterator[Any], told: Callable[[], Any]) -> None:
        self._chunks = chunks
        self._translate_errors = told
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not len(self._left):
            with self._translate_errors():
                chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(bytes(chunk))
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


# Not a missing object: the bucket is missing, or the parts of an upload. The latter happens when
# the answer to an upload's completion was lost and the request is repeated.
_OTHER_MISSING = re.compile("NoSuchBucket|NoSuchUpload")


def _is_plain(where: Mapping[str, str]) -> bool:
    return where.get("endpoint", "").startswith("http://")


def _limits() -> dict[str, str]:
    """Time limits of requests, under the names that both clients use."""
    return {
        "connect_timeout": f"{round(_CONNECT_SECONDS * 1000)}ms",
        "timeout": f"{round(_SECONDS * 1000)}ms",
    }


def _first_line(message: str) -> str:
    """The first line, without the store's answer, which holds the access key's id."""
    return (message.strip().splitlines() or ["no answer"])[0].partition("<")[0].strip(" :")
