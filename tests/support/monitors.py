"""Whether all who tell of a run tell the same: exit code, ledger, log, metrics, lineage, alerts.

`Monitors` lets a project tell everything there is, and compares it after a run of any kind. The
fault campaign uses it, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import retailmart
from retailmart.errors import RetailmartError
from retailmart.ledger.figures import LastRun
from retailmart.monitoring.attempts import read_attempts
from retailmart.session import PRIVATE, open_ledger
from tests.support.services.listener import Listener

_SECTIONS = """
log: {{format: json, file: told/run.log}}
metrics: {{file: told/run.prom}}
lineage: {{file: told/lineage.ndjson}}
alerts: {{targets: ["{url}/alert"]}}
ping: {{url: "{url}/ping"}}
"""
_SAMPLE = re.compile(r"^retailmart_(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class _Before:
    """How much was told before a run."""

    run: int = 0
    log: int = 0
    lineage: int = 0
    heard: int = 0
    metrics: str = ""
    success: float | None = None


@dataclass
class Monitors:
    """All that tells of the runs of the project in `folder`."""

    folder: Path
    listener: Listener
    before: _Before = field(default_factory=_Before)

    @classmethod
    def of(cls, folder: Path, listener: Listener) -> Monitors:
        """Let a project tell everything there is."""
        with (folder / "retailmart.yml").open("a") as file:
            file.write(_SECTIONS.format(url=listener.url))
        found = cls(folder, listener)
        found.mark()
        return found

    def mark(self) -> None:
        """Look at what was told so far: a run comes now."""
        run = self._last_run()
        self.before = _Before(
            run.run_id if run else 0,
            len(self._lines("run.log")),
            len(self._lines("lineage.ndjson")),
            len(self.listener.heard),
            self._text("run.prom"),
            self._metric("last_success_timestamp_seconds"),
        )

    def disagreements(self, exit_code: int | None) -> list[str]:
        """What contradicts what, after a run that ended with this code; None: it was killed."""
        return list(self._found(exit_code))

    def _found(self, code: int | None) -> Iterator[str]:
        run = self._new_run()
        if code is None and run is not None and run.state != "running":
            return  # it died while it told of its end: whom it reached is chance
        state = _state_of(code, run)
        yield from self._of_ledger(code, state, run)
        yield from self._of_log(code, state, run)
        yield from self._of_metrics(code, state, run)
        yield from self._of_lineage(state, run)
        yield from self._of_alerts(state)
        yield from self._of_ping(state)

    def _of_ledger(self, code: int | None, state: str, run: LastRun | None) -> Iterator[str]:
        if run is None:
            if state in ("success", "incomplete"):
                yield f"ledger: exit code {code}, and no run"
            return
        shown = {"success": "done", "incomplete": "done", "killed": "running"}.get(state, state)
        if run.state != shown:
            yield f"ledger: run {run.run_id} is {run.state}, not {shown}"
        if state != "killed" and run.exit_code != code:
            yield f"ledger: exit code {run.exit_code}, not {code}"
        if (run.error is not None) != (state in ("failed", "stopped")):
            yield f"ledger: the error is {run.error}, the state {state}"

    def _of_log(self, code: int | None, state: str, run: LastRun | None) -> Iterator[str]:
        lines = [json.loads(line) for line in self._lines("run.log")[self.before.log :]]
        ends = [line for line in lines if line["event"] == "run_ended"]
        if state == "killed":
            if ends:
                yield "log: the end of a run that was killed"
            return
        if len(ends) != 1:
            yield f"log: {len(ends)} ends of a run"
            return
        said = ends[0]["fields"]
        told = (said["state"], said["exit_code"], ends[0]["run"])
        true = (state, code, run.run_id if run else None)
        if told != true:
            yield f"log: {told}, not {true}"
        if (ends[0]["level"] == "info") != (state == "success"):
            yield f"log: the level is {ends[0]['level']}, the state {state}"

    def _of_metrics(self, code: int | None, state: str, run: LastRun | None) -> Iterator[str]:
        if state in ("killed", "busy"):
            if self._text("run.prom") != self.before.metrics:
                yield f"metrics: written by a run that was {state}"
            return
        if self._metric("last_run_state", f'state="{state}"') != 1:
            yield f"metrics: the last run's state is not {state}"
        if self._metric("last_run_exit_code") != code:
            yield f"metrics: the exit code is {self._metric('last_run_exit_code')}, not {code}"
        if self._metric("last_run_id") != (run.run_id if run else None):
            yield f"metrics: the last run is {self._metric('last_run_id')}, not {run}"
        success = self._metric("last_success_timestamp_seconds")
        if (success != self.before.success) != (state == "success"):
            yield f"metrics: the last success is {success}, before {self.before.success}: {state}"

    def _of_lineage(self, state: str, run: LastRun | None) -> Iterator[str]:
        events = [json.loads(line) for line in self._lines("lineage.ndjson")]
        new = events[self.before.lineage :]
        kinds = [event["eventType"] for event in new if event["eventType"] != "ABORT"]
        end = {"success": "COMPLETE", "incomplete": "COMPLETE", "failed": "FAIL"}.get(state)
        begun = run is not None and state in ("killed", "stopped")
        wanted = ["START", end] if end else ["START"] if begun else []
        if kinds != wanted:
            yield f"lineage: {kinds}, not {wanted}"
        if len({event["run"]["runId"] for event in new if event["eventType"] != "ABORT"}) > 1:
            yield "lineage: events of one run have several names"
        told = [event for event in new if "errorMessage" in event["run"]["facets"]]
        if bool(told) != (state in ("failed", "stopped")):
            yield f"lineage: {len(told)} error messages of a run that is {state}"

    def _of_alerts(self, state: str) -> Iterator[str]:
        opened, is_all = self._open_alerts()
        if state == "failed" and "failure" not in opened:
            yield "alerts: no alert for a failure"
        if state in ("success", "incomplete") and "failure" in opened:
            yield f"alerts: a failure is open after a run that is {state}"
        if state == "success" and "held" in opened:
            yield "alerts: something is held back after a success"
        if state == "incomplete" and not opened:
            yield "alerts: nothing is open after a run that left something"
        told: dict[str, int] = {}
        for about, kind in self.listener.alerts():
            told[kind] = told.get(kind, 0) + (1 if about == "opened" else -1)
        for kind, count in opened.items():
            if told.get(kind, 0) < count:
                yield f"alerts: {count} of kind {kind} are open, {told.get(kind, 0)} were told"
        for kind, count in told.items():
            if (is_all or kind == "failure") and kind != "drift" and count > opened.get(kind, 0):
                yield f"alerts: {count} of kind {kind} were told, and their end was not"

    def _of_ping(self, state: str) -> Iterator[str]:
        new = self.listener.heard[self.before.heard :]
        paths = [one.path for one in new if one.path.startswith("/ping")]
        wanted = {"success": ["/ping"], "incomplete": ["/ping/fail"], "failed": ["/ping/fail"]}
        if paths != wanted.get(state, []):
            yield f"ping: {paths} after a run that is {state}"

    # What each of them says.

    def _new_run(self) -> LastRun | None:
        run = self._last_run()
        return run if run and run.run_id > self.before.run else None

    def _last_run(self) -> LastRun | None:
        try:
            with open_ledger(retailmart.open_project(self.folder).project) as ledger:
                return ledger.figures.last_run()
        except RetailmartError:
            return None

    def _open_alerts(self) -> tuple[dict[str, int], bool]:
        """How many of each kind are open; False if a broken project shows its failures only."""
        kinds: dict[str, int] = {}
        is_all = True
        try:
            found = list(retailmart.open_project(self.folder).alerts_list().open)
        except RetailmartError:
            found = [alert for alert, _ in read_attempts(self.folder / PRIVATE).alerts]
            is_all = False
        for alert in found:
            kinds[alert.kind] = kinds.get(alert.kind, 0) + 1
        return kinds, is_all

    def _text(self, name: str) -> str:
        path = self.folder / "told" / name
        return path.read_text() if path.exists() else ""

    def _lines(self, name: str) -> list[str]:
        return self._text(name).splitlines()

    def _metric(self, name: str, labels: str = "") -> float | None:
        return samples(self._text("run.prom")).get((name, labels))


def samples(text: str) -> Mapping[tuple[str, str], float]:
    """The samples of a text with metrics, by name (without its prefix) and labels."""
    return {(found[1], found[2] or ""): float(found[3]) for found in _SAMPLE.finditer(text)}


def _state_of(code: int | None, run: LastRun | None) -> str:
    """What a run was, by its exit code: 4 without a run means that another one has the project."""
    if code is None:
        return "killed"
    named: dict[int, str] = {0: "success", 5: "incomplete", 130: "stopped", 143: "stopped"}
    if code == 4 and run is None:
        return "busy"
    return named.get(code, "failed")
