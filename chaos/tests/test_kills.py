"""A run killed at any of its outside effects, then run once more, ends as if never killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.support.amount import ALL, SEED, tries
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres
from tests.support.services.s3 import S3Server

from chaos.deployments import FEW_MARTS, Deployment, LocalDeployment
from chaos.forks import ForkServer
from chaos.kills import (
    Choice,
    Kill,
    Tally,
    Worker,
    sweep_local,
    sweep_postgres,
    sweep_remote,
)
from chaos.result import Result

# These are least numbers: a sweep goes on until each call with effects was killed at.
_KILLS = tries(12, 150)
_REMOTE = tries(6, 30)
_MAINTENANCE = tries(6, 80)
_BACKFILLS = tries(4, 40)
_MARTS = None if ALL else FEW_MARTS
# In the short run what differs most: a day on what is there already, and its way back. The long one
# has all marts once, on files: what they are has nothing to do with where they are.
_ALL_CALLS = Choice(1, _MARTS, () if ALL else ("later day", "undo"))


def _on_server(*calls: str) -> Choice:
    """In the short run only the calls that differ from those on files and SQLite."""
    return Choice(1, FEW_MARTS, () if ALL else ("later day",), () if ALL else calls)


def test_files_and_sqlite_survive_kills(tmp_path: Path) -> None:
    """A first load, a corrected day, replayed rows, an undo: killed anywhere, no trace is left."""
    _holds(sweep_local(SEED, _KILLS, tmp_path, print, choice=_ALL_CALLS), _KILLS)


@pytest.mark.long
def test_s3_and_mysql_survive_kills(tmp_path: Path, mariadb: DatabaseServer, s3: S3Server) -> None:
    """The same where landing, lake and archive are a bucket and the ledger is on a server."""
    choice = _on_server("store.", "sql", "delta.")
    _holds(sweep_remote(SEED, _REMOTE, tmp_path, print, mariadb, [s3], choice=choice), _REMOTE)


@pytest.mark.long
def test_files_and_postgres_survive_kills(tmp_path: Path, postgres: Postgres) -> None:
    """The same where the ledger and the published tables are in PostgreSQL."""
    choice = _on_server("sql", "psycopg.")
    _holds(sweep_postgres(SEED, _REMOTE, tmp_path, print, postgres, choice=choice), _REMOTE)


def test_a_backfill_survives_kills(tmp_path: Path) -> None:
    """Files that are read again count once: killed anywhere, a run or the next backfill ends it."""
    choice = Choice(
        1, FEW_MARTS, ("backfill",), () if ALL else ("delta.", "sql UPDATE", "sql INSERT")
    )
    found = sweep_local(SEED, _BACKFILLS, tmp_path, print, choice=choice)
    wrong = {name: count for name, count in found.faults.items() if name != "blind"}
    assert not any(wrong.values()), found.notes
    assert found.tries["kills"] >= _BACKFILLS


def test_maintenance_survives_kills(tmp_path: Path) -> None:
    """Merging, removing and cleaning up logs: killed anywhere, the next one or a run ends it."""
    choice = Choice(1, FEW_MARTS, ("maintenance",))
    found = sweep_local(SEED, _MAINTENANCE, tmp_path, print, choice=choice)
    wrong = {name: count for name, count in found.faults.items() if name != "blind"}
    assert not any(wrong.values()), found.notes
    assert found.tries["kills"] >= _MAINTENANCE


def test_the_sweep_sees_what_a_run_leaves_behind(tmp_path: Path) -> None:
    """With a run that does not clean up after a killed one, the harness finds what is left."""
    fork_server = ForkServer(tmp_path / "answers", sabotage=True)
    shop_db = LocalDeployment.new(tmp_path / "judge").folder / "shop.db"
    tally = Tally()
    choice = Choice(1, FEW_MARTS, ("first load",))
    worker = Worker(0, fork_server, tmp_path / "work", _local, shop_db, tally, print, choice)
    after_the_first_copy = Kill("COPY", 1)
    try:
        with worker.days(SEED) as [day]:
            assert worker.disturb(day, "killed", [after_the_first_copy]) == 1
    finally:
        fork_server.close()
    assert tally.faults == Counter(differs=1), tally.notes
    assert "orphans" in tally.notes[0]


def _local(_number: int, folder: Path) -> Deployment:
    return LocalDeployment.new(folder, FEW_MARTS)


def _holds(result: Result, kills: int) -> None:
    if any(result.faults.values()):
        pytest.fail("\n".join([str(result.faults), *result.notes]), pytrace=False)
    assert result.tries["kills"] >= kills
    assert result.tries["calls killed at"] == result.tries["calls with effects"]
