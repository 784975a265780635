"""What a run tells Dagster, if Dagster has started it by its Pipes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from retailmart.cli.common import say

if TYPE_CHECKING:
    from retailmart.report import RunReport

# Dagster Pipes hands its context on in this variable.
_CONTEXT = "DAGSTER_PIPES_CONTEXT"


def tell_dagster(report: RunReport) -> None:
    """Report what a run did as metadata of the asset; nothing outside of Dagster."""
    if _CONTEXT not in os.environ:
        return
    try:
        from dagster_pipes import open_dagster_pipes
    except ImportError:
        say(
            "Dagster has started this run, but it can't be told what it did: install the extra in"
            " the checkout of retailmart: pip install '.[dagster]'"
        )
        return
    with open_dagster_pipes() as pipes:
        pipes.report_asset_materialization(metadata=metadata_of(report))


def metadata_of(report: RunReport) -> dict[str, Any]:
    """A run in numbers, as Dagster draws them over time."""
    return {
        "run": report.run_id,
        "as_of": report.as_of.isoformat(),
        "nothing_to_do": report.nothing_to_do,
        "files_loaded": report.count("loaded"),
        "files_refused": report.count("refused"),
        "rows_loaded": report.rows("loaded"),
        "rows_refused": report.rows("quarantined"),
        "held_back": [one.mart for one in report.held],
        "seconds": round(sum(report.seconds.values()), 3),
    }
