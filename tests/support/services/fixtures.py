"""Fixtures of the services: one server of a kind per worker, started when a test first asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.services.listener import Listener, listening
from tests.support.services.mariadb import Database, DatabaseServer, open_server
from tests.support.services.postgres import Postgres, PostgresDatabase
from tests.support.services.proxy import MySQLProxy, S3Faults
from tests.support.services.s3 import S3Bucket, S3Server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """The database server of this worker."""
    server = open_server(tmp_path_factory.mktemp("mariadb"))
    yield server
    server.close()


@pytest.fixture
def database(mariadb: DatabaseServer) -> Iterator[Database]:
    """A new empty database with an account of its own."""
    database = mariadb.database()
    yield database
    mariadb.ensure()
    database.drop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of this worker."""
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[PostgresDatabase]:
    """A new empty database in PostgreSQL with an account of its own."""
    database = postgres.database()
    yield database
    postgres.ensure()
    database.drop()


@pytest.fixture
def database_proxy(mariadb: DatabaseServer) -> Iterator[MySQLProxy]:
    """A way to the database server that can break: `database.through(database_proxy)`."""
    with MySQLProxy(mariadb.port, mariadb.host) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server of this worker."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[S3Bucket]:
    """A new empty bucket."""
    bucket = s3.look(s3.bucket())
    yield bucket
    bucket.drop()


@pytest.fixture
def s3_faults(s3: S3Server) -> Iterator[S3Faults]:
    """A way to the S3 server that can break, and does not until it is told to."""
    with S3Faults(s3.port) as faults:
        yield faults


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server that gets what is sent by HTTP: alerts, pings, lineage."""
    with listening() as one:
        yield one
