"""Where a project of the campaign stands, and how it is copied: a day is tried many times."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tests.support.backends import LocalBackend, PostgresBackend, RemoteBackend, shop_tables
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres
from tests.support.services.s3 import S3Server

from chaos.deliveries import Files
from retailmart.template import write_project

_LONG_AGO = 1_700_000_000
Marts = Collection[str] | None
# One for each way to refresh, one in partitions of its own, two of them published: runs treat the
# other marts in the same ways.
FEW_MARTS = ("sales_mart", "customer_monthly_purchase", "declining_customers")


class Deployment(Protocol):
    """A project folder and all it stands on."""

    @property
    def folder(self) -> Path: ...
    def drop(self, files: Files) -> None: ...
    def copy(self, name: str) -> Deployment: ...
    def remove(self) -> None: ...


@dataclass(frozen=True)
class LocalDeployment:
    """Folders and SQLite files."""

    folder: Path

    @classmethod
    def new(cls, folder: Path, marts: Marts = None) -> LocalDeployment:
        """A new project of the small shop, with these marts; None: with all."""
        _write_project(folder, marts)
        LocalBackend(folder).execute_in_shop(*shop_tables())
        return cls(folder)

    def drop(self, files: Files) -> None:
        """Put files into landing."""
        _drop(self.folder, files)

    def copy(self, name: str) -> LocalDeployment:
        """The same once more, beside it."""
        return LocalDeployment(Path(shutil.copytree(self.folder, self.folder.with_name(name))))

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self.folder)


@dataclass(frozen=True)
class RemoteDeployment:
    """A bucket and two databases; the shop's own is shared by all copies."""

    folder: Path
    backend: RemoteBackend

    @classmethod
    def new(
        cls, folder: Path, server: DatabaseServer, s3: S3Server, marts: Marts = None
    ) -> RemoteDeployment:
        """A new project of the small shop, with these marts; None: with all."""
        _write_project(folder, marts)
        bucket = s3.look(s3.bucket())
        backend = RemoteBackend(bucket, server.database(), server.database())
        backend.settle(folder)
        backend.execute_in_shop(*shop_tables())
        return cls(folder, backend)

    def drop(self, files: Files) -> None:
        """Put files into landing."""
        for name, content in files.items():
            self.backend.drop(name, content)

    def copy(self, name: str) -> RemoteDeployment:
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
        _replace_settings(folder, told)
        return RemoteDeployment(folder, RemoteBackend(bucket, database, old.shop))

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        self.backend.bucket.drop()
        self.backend.database.drop()
        shutil.rmtree(self.folder)


@dataclass(frozen=True)
class PostgresDeployment:
    """Folders here and two PostgreSQL databases; the shop's own is shared by all copies."""

    folder: Path
    backend: PostgresBackend

    @classmethod
    def new(cls, folder: Path, server: Postgres, marts: Marts = None) -> PostgresDeployment:
        """A new project of the small shop, with these marts; None: with all."""
        _write_project(folder, marts)
        backend = PostgresBackend(folder, server.database(), server.database())
        backend.settle(folder)
        backend.execute_in_shop(*shop_tables())
        return cls(folder, backend)

    def drop(self, files: Files) -> None:
        """Put files into landing."""
        _drop(self.folder, files)

    def copy(self, name: str) -> PostgresDeployment:
        """The same once more; the account is that of the first, which owns all tables."""
        old = self.backend.database
        database = replace(old, name=f"{old.user}_{secrets.token_hex(4)}")
        with old.server.admin() as connection:
            # A killed run's connection may not have ended yet.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [old.name],
            )
            made = f'CREATE DATABASE "{database.name}" TEMPLATE "{old.name}" OWNER "{old.user}"'
            connection.execute(made.encode())
        folder = Path(shutil.copytree(self.folder, self.folder.with_name(name)))
        _replace_settings(folder, {f"/{old.name}\n": f"/{database.name}\n"})
        return PostgresDeployment(folder, PostgresBackend(folder, database, self.backend.shop))

    def remove(self) -> None:
        """Drop the database; the account stays, for the copies are its."""
        database = self.backend.database
        with database.server.admin() as connection:
            connection.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)'.encode())
        shutil.rmtree(self.folder)


def _write_project(folder: Path, marts: Marts) -> None:
    write_project(folder, sample=False)
    # A run that is killed may leave it to the next one; maintenance has a day of its own.
    with (folder / "retailmart.yml").open("a") as settings:
        settings.write("\nmaintenance:\n  after_run: false\n")
    for path in (folder / "marts").glob("*.sql"):
        if marts is not None and path.stem not in marts:
            path.unlink()


def _drop(folder: Path, files: Files) -> None:
    """Put files into landing, old ones: a run looks twice at files of the last seconds."""
    for name, content in files.items():
        path = folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (_LONG_AGO, _LONG_AGO))


def _replace_settings(folder: Path, now: Mapping[str, str]) -> None:
    for file in (folder / "retailmart.yml", folder / ".env"):
        text = file.read_text()
        for before, after in now.items():
            text = text.replace(before, after)
        file.write_text(text)
