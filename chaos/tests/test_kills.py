"""A run killed at any of its outside effects, then run once more, ends as if never killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.support.amount import tries

from chaos.deployments import Deployment, LocalDeployment
from chaos.effects import kind_of
from chaos.forks import ForkServer
from chaos.kills import Kill, Tally, Worker, sweep_local, sweep_remote
from chaos.result import Result

_KILLS = tries(70, 1_000)
_REMOTE = max(12, _KILLS // 10)
_SEED = 20240401


def test_files_and_sqlite_survive_kills(tmp_path: Path) -> None:
    """A first load, a corrected day, replayed rows, an undo: killed anywhere, no trace is left."""
    _holds(sweep_local(_SEED, _KILLS, tmp_path, print), _KILLS)


def test_s3_and_mysql_survive_kills(tmp_path: Path) -> None:
    """The same where landing, lake and archive are a bucket and the ledger is on a server."""
    _holds(sweep_remote(_SEED, _REMOTE, tmp_path, print, servers=1, only="later day"), _REMOTE)


def test_the_sweep_sees_what_a_run_leaves_lying(tmp_path: Path) -> None:
    """With a run that does not clean up behind a killed one, the harness finds what is left."""
    fork_server = ForkServer(tmp_path / "answers", sabotage=True)
    shop_db = LocalDeployment.new(tmp_path / "judge").folder / "shop.db"
    tally = Tally()
    worker = Worker(0, fork_server, tmp_path / "work", _local, shop_db, tally, print, "first load")
    try:
        day = next(worker.days(_SEED))
        written = [kind_of(effect) for effect in day.effects].index("after COPY")
        assert worker.disturb(day, "killed", [Kill(written)]) == 1
    finally:
        fork_server.close()
    assert tally.faults == Counter(differs=1), tally.notes
    assert "orphans" in tally.notes[0]


def _local(_number: int, folder: Path) -> Deployment:
    return LocalDeployment.new(folder)


def _holds(result: Result, kills: int) -> None:
    if any(result.faults.values()):
        pytest.fail("\n".join([str(result.faults), *result.notes]), pytrace=False)
    assert result.tries["kills"] >= kills
    assert result.tries["kinds killed at"] >= min(kills // 3, result.tries["kinds of effects"] // 2)
