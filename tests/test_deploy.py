"""The entry files of `deploy/`: spark-submit, AWS Glue, Airflow; and the page about them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retailmart.errors import GateFailed, NotAllDone, ProjectBusy, SettingsError
from retailmart.template import write_project
from tests.support.backends import RemoteBackend, shop_tables
from tests.support.pages import blocks, commands
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import S3Server
from tests.support.services.spark import SETTINGS, conf_options, environment, spark_home
from tests.support.shop import Called, Shop, all_marts, sale

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RETIRED = ("exchange", "file_size", "jdbc_jar", "jdbc_from")
PAGE = "docs/spark.md"

DEPLOY = Path(__file__).parents[1] / "deploy"
# Glue's own package is only there: this stands in for the one function that the job calls, and is
# as strict as that: each option asked for must be given.
AWSGLUE = """
import argparse

def getResolvedOptions(args, options):
    parser = argparse.ArgumentParser()
    for option in options:
        parser.add_argument("--" + option, required=True)
    return vars(parser.parse_known_args(args[1:])[0])
"""


def spark_submit(*words: str, conf: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What `spark-submit … spark_submit.py …` ends with; it hands talk on as stdout, too."""
    settings = conf_options(SETTINGS | conf)
    program = str(spark_home() / "bin" / "spark-submit")
    return subprocess.run(
        [program, "--master", "local[2]", *settings, str(DEPLOY / "spark_submit.py"), *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def keep_mart(folder: Path, name: str) -> None:
    """Take the other marts away: one is enough to see Spark work."""
    for path in (folder / "marts").iterdir():
        if path.stem != name:
            path.unlink()


@all_marts
@pytest.mark.long
@pytest.mark.spark
def test_spark_submit_runs_a_project_in_its_own_session(shop: Shop, tmp_path: Path) -> None:
    """What spark-submit was told goes before retailmart.yml; the report is its last line."""
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("spark: {remote: 'sc://127.0.0.1:1', driver_reads: 0MB}\n")
    keep_mart(shop.folder, "sales_team_incentive")
    shop.sales("sales_1.csv", [sale(), sale(customer=2, store=2, person=3, price="30.00")])
    log = tmp_path / "log"
    log.mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": log.as_uri(),
    }
    words = ("--as-of", "2024-04-01", "--output", "json")
    done = spark_submit(str(shop.folder), *words, conf=conf)
    assert done.returncode == 0, done.stderr[-3_000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["as_of"].startswith("2024-04-01")
    assert shop.published("sales_team_incentive", "sales_person_id, incentive") == [
        (1, 0.1),
        (3, 0.3),
    ]
    (application,) = events(log)
    assert application["App Name"] == "retailmart"


def events(log: Path) -> list[dict[str, Any]]:
    """The applications that ran jobs, as Spark's own logs tell them."""
    started = []
    for path in log.rglob("*"):
        if not path.is_file() or path.suffix == ".crc":
            continue
        lines = [json.loads(line) for line in path.read_text().splitlines() if line[:1] == "{"]
        if any(line["Event"].endswith("SparkListenerJobStart") for line in lines):
            started += [line for line in lines if line["Event"] == "SparkListenerApplicationStart"]
    return started


@pytest.mark.long
@pytest.mark.spark
def test_spark_submit_ends_as_the_command_line_does(shop: Shop) -> None:
    """Mistakes in the project's files are told without a traceback, by the exit code of `run`."""
    (shop.folder / "feeds" / "sales.yml").write_text("files: 7\n")
    done = spark_submit(str(shop.folder), conf={})
    assert done.returncode == SettingsError.exit_code
    assert "feeds/sales.yml" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def glue(
    folder: Path, s3: S3Server, *words: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the job as Glue does: one more parameter of its own, and its package at hand."""
    package = folder / "glue" / "awsglue"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(AWSGLUE)
    around = environment() | s3.environment | (variables or {})
    path = os.pathsep.join([str(package.parent), around["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, str(DEPLOY / "glue_job.py"), "--JOB_NAME", "retail", *words],
        cwd=folder,
        env=around | {"PYTHONPATH": path, "AWS_ENDPOINT_URL": s3.endpoint},
        capture_output=True,
        text=True,
        check=False,
    )


def upload(folder: Path, s3: S3Server, bucket: str) -> str:
    """A project's files into a bucket, but for `.env`; the place they are at."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".env":
            key = f"projects/shop/{path.relative_to(folder).as_posix()}"
            s3.look(bucket).put(key, path.read_bytes())
    s3.look(bucket).put("projects/shop/marts/", b"")  # as consoles make folders
    return f"s3://{bucket}/projects/shop"


@pytest.mark.long
@pytest.mark.spark
def test_a_glue_job_runs_a_project_of_s3(
    tmp_path: Path, s3: S3Server, mariadb: DatabaseServer
) -> None:
    """Files come from S3, passwords from Secrets Manager; nothing stays on the job's machine."""
    import botocore.session

    bucket = s3.bucket()
    backend = RemoteBackend(s3.look(bucket), mariadb.database(), mariadb.database())
    shop = Shop(tmp_path / "shop", backend)
    write_project(shop.folder, sample=False)
    keep_mart(shop.folder, "customer_monthly_purchase")
    backend.settle(shop.folder)
    backend.execute_in_shop(*shop_tables())
    passwords = {
        "RETAIL_PASSWORD": backend.database.password,
        "SHOP_PASSWORD": backend.shop.password,
    }
    secrets = botocore.session.Session().create_client(
        "secretsmanager",
        region_name="eu-central-1",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    secrets.create_secret(Name=bucket, SecretString=json.dumps(passwords))
    secrets.close()
    place = upload(shop.folder, s3, bucket)
    shop.sales("sales_1.csv", [sale(), sale(customer=2, price="30.00")])
    job = ("--project", place, "--secret", bucket, "--as_of", "2024-04-01")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = glue(tmp_path, s3, *job, variables={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stderr[-3_000:]
    assert json.loads(done.stdout.splitlines()[-1])["as_of"].startswith("2024-04-01")
    rows = backend.database.query(
        "SELECT customer_id, monthly_total FROM customer_monthly_purchase"
    )
    assert sorted(rows) == [(1, Decimal("10.00")), (2, Decimal("30.00"))]
    assert backend.landed() == []
    assert [path.name for path in temporary.glob("retailmart-*")] == []


def test_a_glue_job_keeps_nothing_on_its_own_machine(tmp_path: Path, s3: S3Server) -> None:
    """A project that would write there is refused before anything is begun."""
    write_project(tmp_path / "shop", sample=False)
    place = upload(tmp_path / "shop", s3, s3.bucket())
    done = glue(tmp_path, s3, "--project", place)
    assert done.returncode == 1
    assert "lake: lake would be gone with the job" in done.stderr
    assert "database: sqlite:///retail.db would be gone with the job" in done.stderr
    assert "pyspark" not in done.stderr


def constants(path: Path) -> dict[str, Any]:
    """The plain values that a file gives names to, without running it."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_the_dag_knows_the_exit_codes() -> None:
    """What repeating cannot help is not repeated; a busy project is no failure."""
    known = constants(DEPLOY / "airflow_dag.py")
    helpless = (SettingsError, GateFailed, NotAllDone)
    assert set(known["HELPLESS"]) == {error.exit_code for error in helpless}
    assert known["BUSY"] == ProjectBusy.exit_code


def test_the_dag_calls_a_command_that_is_there(shop: Shop, called: Called) -> None:
    """The words after the program's name are taken by the command line as they are."""
    (command,) = [
        ast.unparse(keyword.value)
        for node in ast.walk(ast.parse((DEPLOY / "airflow_dag.py").read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "bash_command"
    ]
    words = eval(
        command,
        {"RETAILMART": "retailmart", "PROJECT": str(shop.folder), "shlex": __import__("shlex")},
    ).split()
    assert words[0] == "retailmart"
    done = called(shop.folder.parent, *words[1:])
    assert done.returncode == 0, done.stderr


def test_the_settings_of_the_page_are_settings(shop: Shop) -> None:
    """Each block of YAML is taken by retailmart.yml; the table names all keys there are."""
    text = (shop.folder / "retailmart.yml").read_text().replace("engine: duckdb\n", "")
    for block in blocks(PAGE, "yaml"):
        (shop.folder / "retailmart.yml").write_text(text + block)
        settings = shop.open().project.settings
        assert settings.engine == "spark"
    page = (DEPLOY.parent / PAGE).read_text()
    keys = (name for name in type(settings.spark).model_fields if name not in RETIRED)
    assert [name for name in keys if f"| `{name}` |" not in page] == []


def test_the_files_of_the_page_are_there() -> None:
    """What is copied and submitted is in the folder that the page names."""
    words = [word for block in blocks(PAGE, "sh") for word in block.split()]
    named = {word for word in words if word.startswith("deploy/")}
    assert named == {f"deploy/{path.name}" for path in DEPLOY.glob("*.py")}


@all_marts
@pytest.mark.long
@pytest.mark.spark
def test_the_commands_of_the_page_work(shop: Shop, spark_environment: None) -> None:
    """Looked at by the doctor, run on Spark, verified against DuckDB."""
    keep_mart(shop.folder, "sales_team_incentive")
    shop.sales("sales_1.csv", [sale(), sale(customer=2, store=2, person=3, price="30.00")])
    lines = [line for line in commands(PAGE) if line.startswith("retailmart ")]
    assert [line.split()[1] for line in lines] == ["doctor", "run", "verify"]
    lines[0] += " --timeout 120"  # a busy machine takes long to start Spark, as the page says
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", *line.split()],
            cwd=shop.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


@all_marts
@pytest.mark.spark
def test_the_python_of_the_page_works(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, spark_session: SparkSession
) -> None:
    """It takes the session that is there, and leaves it as it was."""
    keep_mart(shop.folder, "sales_team_incentive")
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("spark: {driver_reads: 0MB}\n")
    shop.folder.rename(shop.folder.parent / "myshop")
    monkeypatch.chdir(shop.folder.parent)
    moved = Shop(shop.folder.parent / "myshop")
    moved.sales("sales_1.csv", [sale()])
    before = spark_session.sparkContext.statusTracker().getJobIdsForGroup(None)
    (code,) = blocks(PAGE, "python")
    exec(compile(code, PAGE, "exec"), {})
    after = spark_session.sparkContext.statusTracker().getJobIdsForGroup(None)
    assert set(after) - set(before)
    assert moved.published("sales_team_incentive", "sales_person_id, total_sales") == [(1, 10)]
    assert spark_session.range(3).count() == 3
