"""A run that Dagster has started by its Pipes tells it what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    encode_param,
)

from tests.support.pages import blocks
from tests.support.shop import Called, Shop, sale


@pytest.fixture
def marts() -> tuple[str, ...]:
    """One mart is enough."""
    return ("sales_mart",)


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Dagster reads what the run tells; its subprocess client hands both files on so."""
    context = {
        "asset_keys": ["marts"],
        "code_version_by_asset_key": {"marts": None},
        "provenance_by_asset_key": {"marts": None},
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "1",
        "job_name": None,
        "retry_number": 0,
        "extras": {},
    }
    given, told = tmp_path / "context.json", tmp_path / "messages.json"
    given.write_text(json.dumps(context))
    told.touch()
    for name, path in (
        (DAGSTER_PIPES_CONTEXT_ENV_VAR, given),
        (DAGSTER_PIPES_MESSAGES_ENV_VAR, told),
    ):
        monkeypatch.setenv(name, encode_param({"path": str(path)}))
    return told


def test_a_run_is_the_asset_s_materialization(shop: Shop, called: Called, messages: Path) -> None:
    """Its numbers are metadata, which Dagster draws over time."""
    shop.sales("sales_1.csv", [sale(), sale(2), sale(3, day="2024-02-31")])
    done = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = [json.loads(line) for line in messages.read_text().splitlines()]
    assert [one["method"] for one in told] == ["opened", "report_asset_materialization", "closed"]
    metadata = {name: one["raw_value"] for name, one in told[1]["params"]["metadata"].items()}
    assert told[1]["params"]["asset_key"] == "marts"
    assert metadata.pop("seconds") > 0
    assert metadata == {
        "run": 1,
        "as_of": "2024-04-01T00:00:00+00:00",
        "nothing_to_do": False,
        "files_loaded": 1,
        "files_refused": 0,
        "rows_loaded": 2,
        "rows_refused": 1,
        "held_back": [],
    }


def test_the_definitions_of_the_page_are_python() -> None:
    """They call a command that exists."""
    _, code = blocks("docs/production.md", "python")
    compile(code, "docs/production.md", "exec")
    assert '"/opt/retailmart/bin/retailmart", "run", "--project"' in code
