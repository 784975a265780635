"""An Airflow 3 DAG: one task that calls `retailmart run`, at most one at a time.

Copy it into Airflow's dags folder and set the first lines. retailmart lives in an environment of
its own, as Airflow pins versions of what both use.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook, SubprocessResult
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

RETAILMART = os.environ.get("RETAILMART", "/opt/retailmart/bin/retailmart")
PROJECT = os.environ.get("RETAILMART_PROJECT", "/data/shop")
SCHEDULE = "15 * * * *"
# `retailmart run` ends with 1 where trying again can help; the next run takes up where it stood.
HELPLESS = {
    2: "the project's files have mistakes",
    3: "a quality gate or a total failed; nothing was published",
    5: "done, but a mart is held back; the log names it and its cure",
}
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
        bash_command=f"{shlex.quote(RETAILMART)} run --project {shlex.quote(PROJECT)}",
        skip_on_exit_code=BUSY,
        execution_timeout=timedelta(hours=6),
    )
