"""Where a project of the campaign stands, and how it is copied: a day is tried many times."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.backends import LocalBackend, RemoteBackend, shop_tables
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import S3Server

from chaos.deliveries import Files
from retailmart.template import write_project

_LONG_AGO = 1_700_000_000


class Site(Protocol):
    """A project folder and all it stands on."""

    @property
    def folder(self) -> Path: ...
    def drop(self, files: Files) -> None: ...
    def copy(self, name: str) -> Site: ...
    def remove(self) -> None: ...


@dataclass(frozen=True)
class LocalSite:
    """Folders and SQLite files."""

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> LocalSite:
        """A new project of the small shop."""
        write_project(folder, sample=False)
        LocalBackend(folder).execute_in_shop(*shop_tables())
        return cls(folder)

    def drop(self, files: Files) -> None:
        """Put files into landing, old ones: a run looks twice at files of the last seconds."""
        for name, content in files.items():
            path = self.folder / "landing" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (_LONG_AGO, _LONG_AGO))

    def copy(self, name: str) -> LocalSite:
        """The same once more, beside it."""
        return LocalSite(Path(shutil.copytree(self.folder, self.folder.with_name(name))))

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self.folder)


@dataclass(frozen=True)
class RemoteSite:
    """A bucket and two databases; the shop's own is shared by all copies."""

    folder: Path
    backend: RemoteBackend

    @classmethod
    def new(cls, folder: Path, server: DatabaseServer, s3: S3Server) -> RemoteSite:
        """A new project of the small shop."""
        write_project(folder, sample=False)
        bucket = s3.look(s3.bucket())
        backend = RemoteBackend(bucket, server.database(), server.database())
        backend.settle(folder)
        backend.execute_in_shop(*shop_tables())
        return cls(folder, backend)

    def drop(self, files: Files) -> None:
        """Put files into landing."""
        for name, content in files.items():
            self.backend.drop(name, content)

    def copy(self, name: str) -> RemoteSite:
        """The same once more: every object, every row."""
        old = self.backend
        bucket = old.bucket.server.look(old.bucket.server.bucket())
        for key in old.bucket.keys(""):
            place = {"Bucket": old.bucket.name, "Key": key}
            bucket.server.client.copy_object(Bucket=bucket.name, Key=key, CopySource=place)
        database = old.database.server.database()
        old.database.copy_to(database)
        folder = Path(shutil.copytree(self.folder, self.folder.with_name(name)))
        told = {
            old.bucket.name: bucket.name,
            old.database.name: database.name,
            old.database.password: database.password,
        }
        for file in (folder / "retailmart.yml", folder / ".env"):
            text = file.read_text()
            for before, now in told.items():
                text = text.replace(before, now)
            file.write_text(text)
        return RemoteSite(folder, RemoteBackend(bucket, database, old.shop))

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        self.backend.bucket.drop()
        self.backend.database.drop()
        shutil.rmtree(self.folder)
