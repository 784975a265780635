"""systemd, Kubernetes, containers: what `deploy/` has is valid, and does what the docs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from retailmart.cli.common import EXIT_CODES
from retailmart.errors import (
    GateFailed,
    Interrupted,
    NotAllDone,
    ProjectBusy,
    SettingsError,
    Stopped,
)
from retailmart.project import load_project
from retailmart.stopping import SECONDS
from retailmart.template import write_project
from tests.support.pages import blocks, commands
from tests.support.services.debian import install
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import S3Server
from tests.support.shop import HEADER, Typed, bare_project, keep_only, sale

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yml"))
COMPOSE = DEPLOY / "compose" / "compose.yml"
PAGE = "docs/production.md"
PATIENCE = 90.0


def tool(name: str) -> str:
    """A program of the tests' own environment, or of the machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    assert found, f"{name} is not installed; `make test` installs it"
    return found


def output(*words: str, **named: Any) -> subprocess.CompletedProcess[str]:
    """What a program ends with, stderr in stdout."""
    return subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **named,
    )


def documents(*paths: Path) -> list[dict[str, Any]]:
    """The YAML documents of files."""
    return [one for path in paths for one in yaml.safe_load_all(path.read_text())]


def only(kind: str) -> dict[str, Any]:
    """The one Kubernetes object of a kind."""
    (found,) = [one for one in documents(*KUBERNETES) if one["kind"] == kind]
    return found


# checked as far as a machine without an engine can


def test_the_dockerfile_has_no_findings() -> None:
    """hadolint knows what makes images large, old or unsafe."""
    done = output(tool("hadolint"), str(DEPLOY / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there() -> None:
    """Its context has nothing else: no project, no secret, no environment of development."""
    root = DEPLOY.parent
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line[0] == "!"} == names
    assert lines[0] == "*"
    assert [name for name in names if not (root / name).exists()] == []


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(path: Path) -> None:
    """Checked against the schemas of the API; a key that is not known is a mistake, too."""
    done = output(tool("kubernetes-validate"), "--strict", str(path))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" passed ") == len(documents(path))


def test_a_mistake_in_a_manifest_would_be_found(tmp_path: Path) -> None:
    """The check above sees a misspelled key."""
    path = tmp_path / "deployment.yml"
    text = (DEPLOY / "kubernetes" / "deployment.yml").read_text()
    path.write_text(text.replace("replicas:", "replicaz:"))
    assert "replicaz" in output(tool("kubernetes-validate"), "--strict", str(path)).stdout


@pytest.mark.parametrize("unit", ["retailmart-watch@.service", "retailmart-run@.timer"])
def test_systemd_takes_the_units(tmp_path: Path, unit: str) -> None:
    """systemd reads them as it would; only the program is elsewhere."""
    reason = install("systemd", lambda: shutil.which("systemd-analyze") is not None)
    assert reason is None, reason
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/retailmart/bin/retailmart", sys.executable)
        (tmp_path / path.name).write_text(text)
        (tmp_path / path.name.replace("@", "@shop")).write_text(text)
    name = str(tmp_path / unit.replace("@", "@shop"))
    done = output("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", name)
    told = [line for line in done.stdout.splitlines() if str(tmp_path) in line]
    assert (done.returncode, told) == (0, [])


@pytest.mark.long
def test_compose_takes_its_file() -> None:
    """Every variable and service that it names is there."""
    reason = install("docker-compose", lambda: shutil.which("docker-compose") is not None)
    assert reason is None, reason
    env = str(COMPOSE.with_name("env.example"))
    done = output("docker-compose", "-f", str(COMPOSE), "--env-file", env, "config", "--quiet")
    assert done.returncode == 0, done.stdout


def test_the_files_that_compose_mounts_are_in_the_checkout() -> None:
    """But for the project, which its first line makes, and what other parts of deploy/ bring."""
    mounts = [
        one.split(":")[0]
        for service in yaml.safe_load(COMPOSE.read_text())["services"].values()
        for one in service.get("volumes", ())
        if one.startswith(".")
    ]
    assert "./project" in mounts
    known = {"./project", "../prometheus", "../grafana"}
    assert [one for one in mounts if one not in known and not (COMPOSE.parent / one).exists()] == []


# what they say of retailmart is right


def test_exit_codes_are_treated_as_documented() -> None:
    """Nobody tries again what stays as it is; a run that was stopped is no failure."""
    policy = only("CronJob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in policy if "onExitCodes" in rule]
    helpless = (SettingsError, GateFailed, NotAllDone)
    assert codes == [error.exit_code for error in helpless]
    stopped = f"{Interrupted.exit_code} {Stopped.exit_code}"
    watch = (DEPLOY / "systemd" / "retailmart-watch@.service").read_text()
    run = (DEPLOY / "systemd" / "retailmart-run@.service").read_text()
    assert f"\nSuccessExitStatus={stopped}\n" in watch
    assert f"\nRestartPreventExitStatus={SettingsError.exit_code}\n" in watch
    assert f"\nSuccessExitStatus={ProjectBusy.exit_code} {stopped}\n" in run


def test_the_page_lists_all_exit_codes() -> None:
    """As the command line has them."""
    text = (DEPLOY.parent / PAGE).read_text()
    table = text[text.index("## Exit codes") : text.index("## cron")]
    listed = {
        int(n) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for n in cell.split(",")
    }
    assert listed == set(EXIT_CODES)
    assert f"**within {SECONDS:.0f} seconds**" in text


def test_all_wait_longer_than_a_run_takes_to_stop() -> None:
    """Nobody kills what is about to end well."""
    deployment = only("Deployment")["spec"]["template"]["spec"]
    cron = only("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    graces = [spec["terminationGracePeriodSeconds"] for spec in (deployment, cron)]
    for path in (DEPLOY / "systemd").glob("*.service"):
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", path.read_text(), re.M)
        graces.append(int(seconds))
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    graces.append(int(services["retailmart"]["stop_grace_period"].removesuffix("s")))
    assert min(graces) > 2 * SECONDS


def test_probes_ask_pages_that_are_served() -> None:
    """At the port that the settings of the container name."""
    (container,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
    (listen,) = [one["value"] for one in container["env"] if one["name"].endswith("__LISTEN")]
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == {
        "health": int(listen.rpartition(":")[2])
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_the_settings_in_the_manifests_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable with the prefix of settings is taken as one."""
    bare_project(tmp_path)
    compose = yaml.safe_load(COMPOSE.read_text())["services"]["retailmart"]["environment"]
    (container,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
    listed = {one["name"]: one["value"] for one in container["env"]}
    for variables in (compose, only("ConfigMap")["data"], listed):
        with monkeypatch.context() as here:
            for name, value in variables.items():
                here.setenv(name, str(value))
            load_project(tmp_path)


def test_the_settings_of_the_page_are_the_defaults(tmp_path: Path) -> None:
    """The block can be copied; but for the address, it changes nothing."""
    settings, _ = blocks(PAGE, "yaml")
    bare_project(tmp_path)
    before = load_project(tmp_path).settings.watch
    with (tmp_path / "retailmart.yml").open("a") as file:
        file.write(settings)
    now = load_project(tmp_path).settings.watch
    assert now.model_dump() | {"listen": None} == before.model_dump()
    assert now.address == ("127.0.0.1", 9464)


def test_the_commands_of_the_page_work(tmp_path: Path, typed: Typed) -> None:
    """Those that call retailmart in a project; `watch` ends after a run here."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    lines = [line for line in commands(PAGE) if line.startswith("retailmart ")]
    assert [line.split()[1] for line in lines] == ["watch", "run", "init"]
    for line in lines[:2]:
        more = " --runs 1" if line.endswith("watch") else ""
        done = typed(line + more, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert typed(lines[2].replace("deploy/compose/project", "other"), tmp_path).returncode == 0
    (cron,) = [block for block in blocks(PAGE, "text") if "MAILTO" in block]
    assert cron.rstrip().endswith(f"bin/{lines[1]}")


def test_the_files_that_the_page_names_are_there() -> None:
    """All of them."""
    text = (DEPLOY.parent / PAGE).read_text()
    named = set(re.findall(r"deploy/[\w./@-]+\w", text)) - {
        "deploy/compose/project",
        "deploy/compose/.env",
    }
    assert len(named) > 8
    assert [name for name in named if not (DEPLOY.parent / name).exists()] == []


# the same services, run natively


@contextmanager
def watching(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`retailmart watch` as a process, ended if a test does not end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "retailmart", "watch", "--project", str(folder)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(wanted: Callable[[], Any]) -> Any:
    """What is wanted, once it is there."""
    end = time.monotonic() + PATIENCE
    while not (found := wanted()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def health(port: str) -> dict[str, Any] | None:
    """The health page; None while nobody serves it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as page:
            found: dict[str, Any] = json.load(page)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    except OSError:
        return None
    return found


def test_the_services_of_compose_run_natively(
    tmp_path: Path, mariadb: DatabaseServer, s3: S3Server
) -> None:
    """compose.yml's own settings, with this machine's MariaDB and S3 server in their places.

    A day's files arrive in the bucket; the marts are right; the pages say so; SIGTERM ends it.
    """
    folder, bucket, database = tmp_path / "project", s3.look(s3.bucket()), mariadb.database()
    write_project(folder, sample=True, stories=["tills"])
    for path in (folder / "landing").iterdir():
        path.unlink()
    keep_only(folder, marts=("customer_monthly_purchase",))
    service = yaml.safe_load(COMPOSE.read_text())["services"]["retailmart"]
    given = {name: str(value) for name, value in service["environment"].items()}
    url = f"mysql://{database.user}@{mariadb.host}:{mariadb.port}/{database.name}"
    here = {
        "RETAILMART__S3__ENDPOINT": s3.endpoint,
        "RETAILMART__DATABASE": url + "?ssl_disabled=true",
        "MYSQL_PASSWORD": database.password,
        "RETAILMART__WATCH__LISTEN": "127.0.0.1:0",
        "S3_BUCKET": bucket.name,
        **s3.environment,
    }
    assert here.keys() - s3.environment.keys() <= given.keys()
    quick = {"RETAILMART__WATCH__POLL": "200ms", "RETAILMART__WATCH__SETTLE": "200ms"}
    with watching(folder, {**given, **here, **quick}) as process:
        assert process.stderr
        told = process.stderr.readline()
        port = re.findall(r"127\.0\.0\.1:(\d+)", told)[0]
        until(lambda: (found := health(port)) and found["ready"])
        for number in (1, 2):
            bucket.put(f"landing/sales_{number}.csv", f"{HEADER}\n{sale(number)}\n".encode())
        until(lambda: not bucket.keys("landing/"))
        until(lambda: (found := health(port)) and found["doing"] == "waiting")
        rows = database.query("SELECT customer_id, monthly_total FROM customer_monthly_purchase")
        assert sorted((int(one), float(two)) for one, two in rows) == [(1, 10.0), (2, 10.0)]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            assert "retailmart_watch_ready 1" in page.read().decode()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert "Traceback" not in process.stderr.read()
    assert len(bucket.keys("archive/processed/")) == 2
