"""Four runs at once on one inbox, stopped, woken late and killed: each file counts once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.amount import SEED, tries
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import S3Server

from chaos.concurrency import Servers, four_machines, late_wakers, one_folder
from chaos.stores import ForkServer

_FILES = tries(12, 60)
_LATE = tries(2, 9)


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[ForkServer]:
    """A process that forks runs."""
    with ForkServer(tmp_path / "fork_server") as fork_server:
        yield fork_server


@pytest.fixture
def servers(s3: S3Server, mariadb: DatabaseServer) -> Servers:
    """A store and a database that four machines share."""
    return Servers(s3, mariadb)


def test_four_runs_in_one_folder_count_each_file_once(
    tmp_path: Path, fork_server: ForkServer
) -> None:
    """The lock on a file keeps them apart, whoever is stopped or killed."""
    result = one_folder(SEED, _FILES, tmp_path / "work", fork_server, lambda _: None)
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["files"] == _FILES
    assert result.tries["stops"]
    assert result.tries["runs told to wait"]


@pytest.mark.long
def test_four_machines_count_each_file_once(
    tmp_path: Path, fork_server: ForkServer, servers: Servers
) -> None:
    """They share a bucket and a ledger; only the lease keeps them apart."""
    result = four_machines(SEED, _FILES, tmp_path / "work", fork_server, print, servers)
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["files"] == _FILES
    assert result.tries["stops"]
    assert result.tries["runs told to wait"]
    assert result.tries["ledger writes"]


@pytest.mark.long
def test_a_holder_that_wakes_late_writes_nothing_more(
    tmp_path: Path, fork_server: ForkServer, servers: Servers
) -> None:
    """Stopped while it writes, or once all is decided, it ends with exit code 4."""
    result = late_wakers(SEED, _LATE, tmp_path / "work", fork_server, print, servers)
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["holders woken late, one by one"] == _LATE
