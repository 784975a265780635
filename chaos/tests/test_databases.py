"""What can happen to a database in the middle of a run, and what its readers see of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.amount import ALL, SEED
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres

from chaos.databases import cases_of, fail, few_cases, full_disk
from chaos.result import Result
from chaos.stores import ForkServer
from chaos.systems import MARIADB, POSTGRES

_ON_MARIADB, _ON_POSTGRES = (cases_of(MARIADB), cases_of(POSTGRES)) if ALL else few_cases(SEED)


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[ForkServer]:
    """A process that forks runs."""
    with ForkServer(tmp_path / "forks") as server:
        yield server


@pytest.mark.long
def test_mariadb_that_fails_loses_and_doubles_nothing(
    tmp_path: Path, fork_server: ForkServer, mariadb: DatabaseServer
) -> None:
    """Killed, cut off or locked: a clean run later all is as judged; no reader saw half."""
    mariadb.require_ours("kills the server")
    cases = _ON_MARIADB
    _holds(
        fail(MARIADB, SEED, cases, tmp_path / "shops", fork_server, print, [mariadb]), len(cases)
    )


@pytest.mark.long
def test_postgres_that_fails_loses_and_doubles_nothing(
    tmp_path: Path, fork_server: ForkServer, postgres: Postgres
) -> None:
    """The same faults, as far as the driver shows where it stands."""
    cases = _ON_POSTGRES
    _holds(
        fail(POSTGRES, SEED, cases, tmp_path / "shops", fork_server, print, [postgres]), len(cases)
    )


@pytest.mark.long
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, fork_server: ForkServer) -> None:
    """The run says what to do; with room again, the next one loads everything."""
    result = full_disk(SEED, tmp_path / "full", fork_server)
    assert not result.notes
    assert result.tries["runs on a full disk"] == 1


def test_few_cases_stand_for_every_fault() -> None:
    """A lost COMMIT reply and a broken connection on both systems, each other fault on one."""
    chosen = few_cases(SEED)
    for system, few in zip((MARIADB, POSTGRES), chosen, strict=True):
        assert {"_cut", "_lose_reply"} <= {case.fault.__name__ for case in few}, system.name
        assert any(case.name.startswith("lost COMMIT reply") for case in few), system.name
    faults = {case.fault for case in (*cases_of(MARIADB), *cases_of(POSTGRES))}
    assert {case.fault for few in chosen for case in few} == faults


def _holds(result: Result, cases: int) -> None:
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["faults injected"] == cases
    assert result.tries["looks of a reader"] > 10 * cases
