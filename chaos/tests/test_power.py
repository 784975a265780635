"""What a run said is done is there after the power went."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.amount import SEED, tries

from chaos import power
from chaos.deployments import FEW_MARTS

_CUTS = tries(4, 15)


@pytest.mark.long
def test_what_is_done_survives_power_cuts(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, and one more run ends well; without syncs, losses are seen."""
    if reason := power.why_not(tmp_path):
        pytest.skip(reason)
    result = power.run(SEED, _CUTS, tmp_path / "power", print, marts=FEW_MARTS)
    if any(result.faults.values()):
        pytest.fail("\n".join([str(result.faults), *result.notes]), pytrace=False)
    assert result.tries["cuts"] == _CUTS
    assert result.tries["cuts without syncs"] >= 2
