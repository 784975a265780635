"""What can happen to a database in the middle of a run, and what its readers see of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.amount import tries

from chaos.databases import run

_CASES = tries(5, 60)


def test_a_database_that_fails_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed, cut off, locked or full: a clean run later all is as judged; no reader saw half."""
    failing, full = run(1, _CASES, tmp_path / "work", lambda _: None)
    assert not failing.notes
    assert not any(failing.faults.values())
    assert failing.tries["faults injected"] >= _CASES - 2
    assert failing.tries["looks of a reader"] > 100
    assert not full.notes
    assert full.tries["runs on a full disk"] == 1
