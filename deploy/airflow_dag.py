"""An Airflow 3 DAG: one task that calls `retailmart run`, at most one at a time.

Copy it into Airflow's dags folder and set the first lines. retailmart lives in an environment of
its own, as Airflow pins versions of what both use.

The run's report is the task's XCom. Where Airflow has a connection `retailmart_notes` to its own
API (host, port and, as the password, a token that may edit task instances), its summary is the
task's note, too: tasks have no other way to write one.
"""

from __future__ import annotations

import json
import os
import shlex
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import quote

import httpx
from airflow.providers.standard.hooks.subprocess import SubprocessHook, SubprocessResult
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Connection
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

RETAILMART = os.environ.get("RETAILMART", "/opt/retailmart/bin/retailmart")
PROJECT = os.environ.get("RETAILMART_PROJECT", "/data/shop")
SCHEDULE = "15 * * * *"
# `retailmart run` ends with 1 where trying again can help; the next run takes up where it stood.
HELPLESS = {
    2: "the project's files have mistakes",
    3: "a quality gate or a total failed; nothing was published",
    5: "done, but a mart is held back; the log names it and its cure",
}
NOTES = "retailmart_notes"
BUSY = 4  # another run holds the project and does the work


class ExitCodes(SubprocessHook):
    """Runs a command, and says by its exit code whether trying again can help."""

    def run_command(self, *args: Any, **kwargs: Any) -> SubprocessResult:
        """As SubprocessHook; AirflowFailException, which is not retried, for HELPLESS codes."""
        done = super().run_command(*args, **kwargs)
        if done.exit_code in HELPLESS:
            raise AirflowFailException(HELPLESS[done.exit_code])
        return done


class RetailmartOperator(BashOperator):
    """BashOperator that does not retry what stays as it is."""

    @cached_property
    def subprocess_hook(self) -> SubprocessHook:
        """The hook that runs the command."""
        return ExitCodes()

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the command; its report, of which a summary becomes the task's note."""
        report: dict[str, Any] = super().execute(context)
        try:
            write_note(context["ti"], summary(report))
        except Exception as error:  # a run that is done does not fail for its note
            self.log.warning("The note could not be written: %s", error)
        return report


def summary(report: dict[str, Any]) -> str:
    """What a run did, in a line."""
    if report["nothing_to_do"]:
        return f"Run {report['run_id']}: nothing to do"
    files = ", ".join(f"{count} {state}" for state, count in report["files"].items() if count)
    rows = f"{report['rows']['loaded']:,} rows loaded, {report['rows']['quarantined']:,} refused"
    held = f"; {len(report['held'])} marts held back" if report["held"] else ""
    return f"Run {report['run_id']}: files {files or 'none'}; {rows}{held}"


def write_note(task: Any, text: str) -> None:
    """Write a task instance's note by Airflow's API, if there is a connection to it."""
    try:
        api = Connection.get(NOTES)
    except AirflowNotFoundException:
        return
    place = f"dags/{task.dag_id}/dagRuns/{quote(task.run_id, safe='')}/taskInstances/{task.task_id}"
    httpx.patch(
        f"{api.schema or 'http'}://{api.host}:{api.port or 8080}/api/v2/{place}",
        json={"note": text},
        headers={"Authorization": f"Bearer {api.password}"},
        timeout=10,
    ).raise_for_status()


with DAG(
    dag_id="retailmart",
    schedule=SCHEDULE,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,  # a run takes all that has landed: there is nothing to catch up with
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
) as dag:
    RetailmartOperator(
        task_id="run",
        bash_command=f"{shlex.quote(RETAILMART)} run --project {shlex.quote(PROJECT)} -o json",
        output_processor=json.loads,
        skip_on_exit_code=BUSY,
        execution_timeout=timedelta(hours=6),
    )
