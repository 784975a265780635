"""OpenLineage events of runs: to a file, one a line, or to a server.

The events are those of the client library of OpenLineage, which also posts them. A server is told
in a thread of its own, so that a run never waits for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4, uuid5

from retailmart.errors import MissingExtra
from retailmart.monitoring.events import Event, RunBegan, RunEnded
from retailmart.monitoring.log import expect_no_pipe
from retailmart.monitoring.targets import THREADS, NotDelivered

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

PRODUCER = "urn:retailmart"
_RUNS = UUID("0b7c7b3c-6a1e-5f0e-9d0a-9a3f6f1f2d11")


@dataclass(frozen=True)
class DatasetName:
    """A data set as OpenLineage names it: a place, and a name in it."""

    namespace: str
    name: str


@dataclass(frozen=True)
class ColumnInput:
    """A column that another is made of, and how: `kind` is DIRECT or INDIRECT."""

    dataset: DatasetName
    column: str
    kind: str
    how: str


@dataclass(frozen=True)
class Dataset:
    """What a run read or wrote. `fields` are (name, type); None where a figure is not known.

    `assertions` are (rule, column, whether all rows met it).
    """

    name: DatasetName
    fields: tuple[tuple[str, str], ...] = ()
    rows: int | None = None
    files: int | None = None
    size: int | None = None
    columns: Mapping[str, tuple[ColumnInput, ...]] = field(default_factory=dict)
    decided_by: tuple[ColumnInput, ...] = ()
    assertions: tuple[tuple[str, str | None, bool], ...] = ()


@dataclass(frozen=True)
class Datasets:
    """What a run read and wrote."""

    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()


class Transport(Protocol):
    """Takes events."""

    name: str

    def send(self, event: RunEvent) -> None:
        """Take an event, now or later."""

    def finish(self, seconds: float | None) -> None:
        """Return when all events are sent. NotDelivered if one can't be."""


class Lineage:
    """Makes events of what happens in a run, and hands them to a transport."""

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        job: str,
        known_as: str,
        datasets: Callable[[RunEnded], Datasets],
        parent: tuple[str, str, str] | None = None,
    ) -> None:
        self.name = transport.name
        self._transport = transport
        self._namespace = namespace
        self._job = job
        self._known_as = known_as
        self._datasets = datasets
        self._parent = parent
        self._run: UUID | None = None
        self._as_of: datetime | None = None

    def see(self, event: Event) -> None:
        """Send what OpenLineage has an event for."""
        if isinstance(event, RunBegan):
            for run_id in event.cut_off:
                self._send("ABORT", event.at, self._key(run_id), event.command)
            self._run, self._as_of = self._key(event.run_id), event.as_of
            self._send("START", event.at, self._run, event.command)
        elif isinstance(event, RunEnded) and event.state != "busy":
            self._end(event)

    def finish(self) -> None:
        """Return when all events are sent."""
        self._transport.finish(None)

    def close(self) -> None:
        """Nothing is left to do: what is not sent by now is given up."""

    def _key(self, run_id: int) -> UUID:
        """The same for the same run of the same project, in every process."""
        return uuid5(_RUNS, f"{self._known_as} {run_id}")

    def _end(self, event: RunEnded) -> None:
        if self._run is None:  # it failed before it had a number
            self._run = uuid4()
            self._send("START", event.began, self._run, event.command)
        if event.failure is None:
            found = self._datasets(event)
            self._send("COMPLETE", event.at, self._run, event.command, event, found)
        elif event.state == "stopped":
            self._send("ABORT", event.at, self._run, event.command, event)
        else:
            self._send("FAIL", event.at, self._run, event.command, event)

    def _send(
        self,
        state: str,
        at: datetime,
        key: UUID,
        command: str,
        end: RunEnded | None = None,
        found: Datasets | None = None,
    ) -> None:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import job_type_job

        facets: dict[str, Any] = {
            "jobType": job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration="RETAILMART", jobType="RUN"
            )
        }
        found = found or Datasets()
        self._transport.send(
            RunEvent(
                eventType=RunState[state],
                eventTime=at.isoformat(),
                run=Run(str(key), dict(self._of_run(end))),
                job=Job(self._namespace, f"{self._job}.{command}", facets),
                producer=PRODUCER,
                inputs=[_input(one) for one in found.inputs],
                outputs=[_output(one) for one in found.outputs],
            )
        )

    def _of_run(self, end: RunEnded | None) -> Iterator[tuple[str, Any]]:
        from openlineage.client.facet_v2 import (
            error_message_run,
            nominal_time_run,
            parent_run,
            processing_engine_run,
        )

        yield (
            "processing_engine",
            processing_engine_run.ProcessingEngineRunFacet(
                version=version("retailmart"), name="retailmart"
            ),
        )
        if self._as_of is not None:
            moment = self._as_of.isoformat()
            yield "nominalTime", nominal_time_run.NominalTimeRunFacet(moment)
        if self._parent is not None:
            namespace, job, key = self._parent
            yield (
                "parent",
                parent_run.ParentRunFacet(parent_run.Run(key), parent_run.Job(namespace, job)),
            )
        if end is not None and end.failure is not None:
            hint = f"\n{end.failure.hint}" if end.failure.hint else ""
            yield (
                "errorMessage",
                error_message_run.ErrorMessageRunFacet(f"{end.failure.message}{hint}", "PYTHON"),
            )


def _facets(one: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage
    from openlineage.client.facet_v2 import schema_dataset

    facets: dict[str, Any] = {}
    if one.fields:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in one.fields]
        )
    if one.columns:
        facets["columnLineage"] = lineage.ColumnLineageDatasetFacet(
            fields={
                name: lineage.Fields([_field(lineage, used) for used in origins])
                for name, origins in one.columns.items()
            },
            dataset=[_field(lineage, used) for used in one.decided_by],
        )
    return facets


def _field(lineage: Any, used: ColumnInput) -> Any:
    step = lineage.Transformation(used.kind, used.how)
    return lineage.InputField(used.dataset.namespace, used.dataset.name, used.column, [step])


def _input(one: Dataset) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import (
        data_quality_assertions_dataset as assertions,
    )
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as quality
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    facets: dict[str, Any] = {}
    if one.rows is not None:
        facets["inputStatistics"] = statistics.InputStatisticsInputDatasetFacet(
            rowCount=one.rows, size=one.size, fileCount=one.files
        )
        facets["dataQualityMetrics"] = quality.DataQualityMetricsInputDatasetFacet(
            columnMetrics={}, rowCount=one.rows, fileCount=one.files
        )
    if one.assertions:
        facets["dataQualityAssertions"] = assertions.DataQualityAssertionsDatasetFacet(
            [assertions.Assertion(rule, good, column) for rule, column, good in one.assertions]
        )
    return InputDataset(one.name.namespace, one.name.name, facets=_facets(one), inputFacets=facets)


def _output(one: Dataset) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    facets: dict[str, Any] = {}
    if one.rows is not None:
        facets["outputStatistics"] = statistics.OutputStatisticsOutputDatasetFacet(
            rowCount=one.rows, size=one.size, fileCount=one.files
        )
    return OutputDataset(
        one.name.namespace, one.name.name, facets=_facets(one), outputFacets=facets
    )


def expect_client() -> None:
    """Raise MissingExtra if the client library is not installed."""
    try:
        import openlineage.client.event_v2  # noqa: F401
    except ImportError:
        message = "OpenLineage needs packages that are not installed"
        raise MissingExtra("lineage", message) from None


def text_of(event: RunEvent) -> str:
    """An event as one line of JSON."""
    from openlineage.client.serde import Serde

    return Serde.to_json(event)


class ToFile:
    """Appends events to a file, one a line."""

    name = "the lineage file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, event: RunEvent) -> None:
        """Append it; one write, so that no other run's event gets in between."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        expect_no_pipe(self._path)
        with self._path.open("ab", buffering=0) as file:
            file.write(f"{text_of(event)}\n".encode())

    def finish(self, seconds: float | None) -> None:
        """All is written already."""


class ToServer:
    """Posts events from a thread of its own, in order; nobody waits but at the run's end."""

    def __init__(
        self, name: str, address: Callable[[], tuple[str, str | None]], seconds: float
    ) -> None:
        self.name = name
        self._address = address
        self._seconds = seconds
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        self._sent = threading.Condition()
        self._left = 0
        self._failed: Exception | None = None
        self._thread: threading.Thread | None = None

    def send(self, event: RunEvent) -> None:
        """Post it soon."""
        with self._sent:
            self._left += 1
        self._events.put(event)
        if self._thread is None:
            self._thread = threading.Thread(target=self._post_all, name=THREADS, daemon=True)
            self._thread.start()

    def finish(self, seconds: float | None) -> None:
        """Return when all are posted."""
        with self._sent:
            self._sent.wait_for(lambda: self._left == 0, seconds)
        if self._failed is not None:
            raise self._failed

    def _post_all(self) -> None:
        client: Any = None
        while True:
            event = self._events.get()
            try:
                client = client or self._client()
                client.emit(event)
            except Exception as error:
                self._failed = _as_ours(error)
            finally:
                with self._sent:
                    self._left -= 1
                    self._sent.notify_all()

    def _client(self) -> Any:
        from openlineage.client.transport.http import (
            ApiKeyTokenProvider,
            HttpConfig,
            HttpTransport,
        )

        url, key = self._address()
        # It is tried once: a run's end waits for it. What is lost is told.
        config = HttpConfig(url, timeout=self._seconds, retry={"total": 0})
        if key is not None:
            config.auth = ApiKeyTokenProvider({"apiKey": key})
        return HttpTransport(config)


def _as_ours(error: Exception) -> Exception:
    """An error of the HTTP library without the address, which its message has."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code is not None:
        return NotDelivered(f"it answered {code}")
    name = type(error).__name__
    if "Timeout" in name:
        return NotDelivered("no answer in time")
    if "Connection" in name:
        return NotDelivered("no connection")
    return error


def parents(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The run that started this one, as Airflow and others write it into OPENLINEAGE_PARENT_ID."""
    text = environment.get("OPENLINEAGE_PARENT_ID", "")
    namespace, _, rest = text.partition("/")
    job, _, key = rest.rpartition("/")
    try:
        UUID(key)
    except ValueError:
        return None
    return (namespace, job, key) if namespace and job else None


def inputs_as(used: Sequence[tuple[DatasetName, str, str]]) -> tuple[ColumnInput, ...]:
    """Columns that others are made of, by what is done with them."""
    direct = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
    return tuple(
        ColumnInput(name, column, "DIRECT" if how in direct else "INDIRECT", how)
        for name, column, how in used
    )
