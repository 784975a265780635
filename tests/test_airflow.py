"""The DAG of `deploy/`, run by Airflow itself in an environment of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from retailmart.ledger import acquire_lease
from tests.support.services.process import free_port
from tests.support.shop import Shop, sale

ROOT = Path(__file__).parents[1]
PATIENCE = 180.0

pytestmark = pytest.mark.long


@pytest.fixture
def marts() -> tuple[str, ...]:
    """One mart is enough."""
    return ("sales_mart",)


def run(*words: str, at: Path, environment: dict[str, str]) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(
        words, cwd=at, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program() -> Path:
    """Airflow's program; its environment is made if it is not there."""
    given = os.environ.get("RETAILMART_TEST_AIRFLOW")
    if given is None:
        made = subprocess.run(
            ["make", ".venv-airflow/.installed"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
    return Path(given or ROOT / ".venv-airflow" / "bin" / "airflow")


@dataclass(frozen=True)
class Airflow:
    """An Airflow with its own database, the DAG, and its API on a loopback port."""

    program: Path
    environment: dict[str, str]
    api: str
    token: str

    def test(self) -> tuple[str, str | None, str]:
        """Run the DAG once: the task's state, its note, and what was logged."""
        done = subprocess.run(
            [str(self.program), "dags", "test", "retailmart"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        headers = {"Authorization": f"Bearer {self.token}"}
        place = "dags/retailmart/dagRuns/~/taskInstances?order_by=-start_date"
        asked = urllib.request.Request(f"{self.api}/api/v2/{place}", headers=headers)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            newest = json.load(answer)["task_instances"][0]
        return newest["state"], newest["note"], done.stdout


@pytest.fixture
def airflow(shop: Shop, program: Path, tmp_path: Path) -> Iterator[Airflow]:
    """Airflow for the shop's project."""
    home, port = tmp_path / "airflow", free_port()
    (home / "dags").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "airflow_dag.py", home / "dags" / "retailmart.py")
    command = tmp_path / "retailmart"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT / "src"} exec {sys.executable} -m retailmart "$@"\n'
    )
    command.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "RETAILMART": str(command),
        "RETAILMART_PROJECT": str(shop.folder),
    }
    log = tmp_path / "airflow.log"
    made = subprocess.run(
        [str(program), "db", "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    with _serving(program, port, environment, log):
        api = f"http://127.0.0.1:{port}"
        token = _token(api, log)
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": port, "password": token}
        environment["AIRFLOW_CONN_RETAILMART_NOTES"] = json.dumps(connection)
        yield Airflow(program, environment, api, token)


@contextmanager
def _serving(program: Path, port: int, environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as told:
        server = subprocess.Popen(
            [str(program), "api-server", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
        try:
            yield
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _token(api: str, log: Path) -> str:
    """A token for the API, once it answers."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{api}/auth/token", timeout=10) as answer:
                return str(json.load(answer)["access_token"])
        except OSError:
            assert time.monotonic() < end, log.read_text()[-3_000:]
            time.sleep(0.5)


def test_airflow_runs_the_project(shop: Shop, airflow: Airflow) -> None:
    """The task's note is the run's summary; a busy project is skipped, a mistake fails at once."""
    shop.sales("sales_1.csv", [sale(), sale(2), sale(3, day="2024-02-31")])
    state, note, said = airflow.test()
    assert (state, note) == (
        "success",
        "Run 1: files 1 loaded; 2 rows loaded, 1 refused",
    ), said
    with (
        shop.open().ledger() as ledger,
        acquire_lease(ledger.engine, shop.folder / ".retailmart" / "lock"),
    ):
        assert airflow.test()[0] == "skipped"
    (shop.folder / "feeds" / "sales.yml").write_text("files: 7\n")
    state, _, said = airflow.test()
    assert state == "failed"
    assert "the project's files have mistakes" in said
