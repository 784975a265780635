"""What a run said is done is there after the power went."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.amount import tries

from chaos import power

_CUTS = tries(4, 60)
_SEED = 20240401


def test_what_is_done_survives_power_cuts(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, and one more run ends well; without syncs, losses are seen."""
    if reason := power.why_not(tmp_path):
        pytest.skip(reason)
    result = power.run(_SEED, _CUTS, tmp_path / "power", print)
    if any(result.faults.values()):
        pytest.fail("\n".join([str(result.faults), *result.notes]), pytrace=False)
    assert result.tries["cuts"] == _CUTS
    assert result.tries["cuts without syncs"] >= 2
