"""OpenLineage events of runs, as the specification wants them, to a file and to a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import attr
import pytest
from openlineage.client import event_v2
from openlineage.client.generated import base

from tests.support.services.listener import Listener
from tests.support.shop import Called, Shop, sale


@pytest.fixture
def marts() -> Collection[str]:
    """One that is published and reads another feed's month, and one that is not."""
    return ("sales_mart", "sales_team_incentive")


def settle(shop: Shop, text: str) -> Path:
    """Add sections to the settings; gives the file with events."""
    with (shop.folder / "retailmart.yml").open("a") as file:
        file.write(text)
    return shop.folder / "lineage.ndjson"


def events_in(path: Path) -> list[dict[str, Any]]:
    """The events of a file, each rebuilt by the client's own classes."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        rebuilt(event)
    return events


def rebuilt(event: dict[str, Any]) -> event_v2.RunEvent:
    """The event as the client's value: each facet by the class of its schema, nothing left over."""
    run = event_v2.Run(event["run"]["runId"], facets_of(event["run"]["facets"]))
    job = event_v2.Job(
        event["job"]["namespace"], event["job"]["name"], facets_of(event["job"]["facets"])
    )
    inputs = [
        event_v2.InputDataset(
            one["namespace"],
            one["name"],
            facets=facets_of(one.get("facets", {})),
            inputFacets=facets_of(one.get("inputFacets", {})),
        )
        for one in event.get("inputs", [])
    ]
    outputs = [
        event_v2.OutputDataset(
            one["namespace"],
            one["name"],
            facets=facets_of(one.get("facets", {})),
            outputFacets=facets_of(one.get("outputFacets", {})),
        )
        for one in event.get("outputs", [])
    ]
    made = event_v2.RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=run,
        job=job,
        eventType=event_v2.RunState(event["eventType"]),
        inputs=inputs,
        outputs=outputs,
    )
    assert made.schemaURL == event["schemaURL"]
    return made


def facets_of(facets: dict[str, Any]) -> dict[str, Any]:
    """The facets, each as the class that its `_schemaURL` names."""
    classes: dict[str, Any] = {
        vars(cls)["_get_schema"].__func__(): cls
        for name in FACETS
        for cls in vars(import_module(f"openlineage.client.generated.{name}")).values()
        if isinstance(cls, type) and issubclass(cls, base.BaseFacet) and "_get_schema" in vars(cls)
    }
    found = {}
    for key, facet in facets.items():
        cls = classes[facet["_schemaURL"]]
        allowed = {field.name.lstrip("_") for field in attr.fields(cls)}
        given = {name for name in facet if not name.startswith("_")}
        assert given <= allowed, f"{key}: {given - allowed}"
        required = {field.name for field in attr.fields(cls) if field.default is attr.NOTHING}
        assert required <= given, f"{key}: {required - given}"
        found[key] = facet
    return found


FACETS = (
    "column_lineage_dataset",
    "data_quality_assertions_dataset",
    "data_quality_metrics_input_dataset",
    "error_message_run",
    "input_statistics_input_dataset",
    "job_type_job",
    "nominal_time_run",
    "output_statistics_output_dataset",
    "parent_run",
    "processing_engine_run",
    "schema_dataset",
)


def test_a_run_from_file_to_table(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it read, what it wrote, and column by column how one became the other."""
    key = "0190a0a0-0000-7000-8000-000000000001"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"airflow/nightly.shop/{key}")
    path = settle(shop, "lineage: {file: lineage.ndjson, namespace: shops, job: north}\n")
    shop.sales("sales_1.csv", [sale(), sale(day="2024-02-31")])
    shop.run()
    start, complete = events_in(path)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    UUID(start["run"]["runId"])
    assert start["job"] == complete["job"]
    assert (start["job"]["namespace"], start["job"]["name"]) == ("shops", "north.run")
    assert start["run"]["facets"]["parent"]["run"]["runId"] == key
    assert start["run"]["facets"]["parent"]["job"]["name"] == "nightly.shop"
    assert start["run"]["facets"]["nominalTime"]["nominalStartTime"].startswith("2024-04-01")

    landing = f"{shop.folder}/landing/sales*.csv"
    inputs = {one["name"]: one for one in complete["inputs"]}
    read = inputs[landing]["inputFacets"]
    assert read["inputStatistics"]["rowCount"] == 2
    assert read["inputStatistics"]["fileCount"] == 1
    judged = read["dataQualityAssertions"]["assertions"]
    assert [(one["assertion"], one["success"]) for one in judged] == [("rows_accepted", False)]
    assert {"store", "sales_team"} <= set(inputs)

    outputs = {one["name"]: one for one in complete["outputs"]}
    raw = f"{shop.folder}/lake/raw/sales"
    mart = f"{shop.folder}/lake/marts/sales_team_incentive"
    assert set(outputs) >= {raw, mart, "sales_team_incentive"}
    assert outputs[raw]["outputFacets"]["outputStatistics"]["rowCount"] == 1
    assert {one["name"] for one in outputs[raw]["facets"]["schema"]["fields"]} >= {"total_cost"}

    assert origins(outputs[raw], "total_cost") == {(landing, "total_cost", "DIRECT", "IDENTITY")}
    assert (raw, "total_cost", "DIRECT", "AGGREGATION") in origins(outputs[mart], "incentive")
    assert origins(outputs[mart], "month") == {(raw, "sales_date", "DIRECT", "TRANSFORMATION")}
    whole = outputs[mart]["facets"]["columnLineage"]["dataset"]
    assert {one["transformations"][0]["type"] for one in whole} == {"INDIRECT"}
    shown = outputs["sales_team_incentive"]
    assert origins(shown, "incentive") == {(mart, "incentive", "DIRECT", "IDENTITY")}


def origins(dataset: dict[str, Any], column: str) -> set[tuple[str, str, str, str]]:
    """Of what a column is made."""
    return {
        (used["name"], used["field"], step["type"], step["subtype"])
        for used in dataset["facets"]["columnLineage"]["fields"][column]["inputFields"]
        for step in used["transformations"]
    }


def test_a_failure_has_its_message(shop: Shop, called: Called) -> None:
    """START and FAIL, also for a run that could not begin; the reason is that of the command."""
    path = settle(shop, "lineage: {file: lineage.ndjson}\n")
    (shop.folder / "landing").rename(shop.folder / "gone")
    failed = called(shop.folder, "run")
    start, fail = events_in(path)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert start["run"]["runId"] == fail["run"]["runId"]
    message = fail["run"]["facets"]["errorMessage"]["message"]
    assert message.splitlines()[0] in failed.stderr


def test_a_server_gets_the_same(
    shop: Shop, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posted in order to the usual path, with the key as a bearer's; the file has the same."""
    monkeypatch.setenv("LINEAGE_KEY", "a key")
    path = settle(
        shop,
        f"lineage: {{file: lineage.ndjson, url: '{listener.url}', api_key: '${{LINEAGE_KEY}}'}}\n",
    )
    shop.sales("sales_1.csv", [sale()])
    assert shop.run().not_told == ()
    heard = listener.at("/api/v1/lineage")
    assert [one.plain for one in heard] == events_in(path)
    assert {one.headers["Authorization"] for one in heard} == {"Bearer a key"}


def test_without_the_extra_a_run_is_done_and_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is an extra: without it, runs are as they are, and name it."""
    settle(shop, "lineage: {file: lineage.ndjson}\n")
    monkeypatch.setitem(sys.modules, "openlineage.client.event_v2", None)
    shop.sales("sales_1.csv", [sale()])
    report = shop.run()
    assert report.rows("loaded") == 1
    (message,) = report.not_told
    assert "pip install '.[lineage]'" in message
