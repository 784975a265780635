"""All who tell of a run tell the same, however it ends: a short part of the campaign."""

from __future__ import annotations

from pathlib import Path

from tests.support.amount import SEED, tries

from chaos.monitors import run

_RUNS = tries(15, 200)


def test_whoever_tells_of_a_run_tells_the_same(tmp_path: Path) -> None:
    """Exit code, ledger, log, metrics, lineage, alerts and ping; no success leaves work undone."""
    result = run(SEED, _RUNS, tmp_path, lambda _: None)
    assert not result.notes
    assert not any(result.faults.values())
    assert result.tries["runs"] == _RUNS
