"""What a plain `pip install .` lacks is named with the command that installs it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from retailmart.template import write_project
from tests.support.alone import call_alone
from tests.support.shop import HEADER, sale

# What needs each extra: settings of a project, and commands that cannot do without it.
NEEDS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "s3": (
        {
            "landing": "s3://retail/landing",
            "lake": "s3://retail/lake",
            "archive": "s3://retail/old",
        },
        ("check", "doctor", "run", "undo 1", "schema diff", "verify"),
    ),
    "mysql": (
        {"database": "mysql://mart@127.0.0.1:1/retail"},
        ("check", "doctor", "run", "undo 1", "status"),
    ),
    "postgres": (
        {"database": "postgresql://mart@127.0.0.1:1/retail"},
        ("check", "doctor", "run", "undo 1", "status"),
    ),
    "postgres of a source": (
        {"sources": "{shop: 'postgresql://mart@127.0.0.1:1/shop'}"},
        ("check", "doctor", "run"),
    ),
    "secrets": (
        {"database": "mysql://mart:${secret:DB}@127.0.0.1:1/retail"},
        ("secrets set DB",),
    ),
    "alerts": ({"alerts": "{targets: ['mailtos://host.example?to=a@b.example']}"}, ("doctor",)),
    "lineage": ({"lineage": "{file: lineage.ndjson}"}, ("doctor",)),
    "report": ({}, ("report",)),
    "xlsx": ({}, ("quarantine replay rows.xlsx",)),
    "spark": ({"engine": "spark"}, ("doctor", "run")),
}
# What works without its extra, and says what the extra would add.
MORE = {"watch": "watch --runs 1", "dagster": "run"}
# The package itself may be there without retailmart's extra, as on a cluster.
SPARK = "pip install 'pyspark[connect]>=3.5'"
CODE = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout

os.environ["RETAILMART_KEY"] = "k" * 32
from retailmart.cli import main

for command in {commands}:
    sys.argv = ["retailmart", *command.split()]
    out, err, sys.stdin = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(b"value"))
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([command, code, out.getvalue() + err.getvalue()]), flush=True)
os._exit(0)  # threads of the doctor may still wait
"""


def extras() -> set[str]:
    """The extras that commands use: not those of our own tools, of notebooks, or the sum of all."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    named = set(tomllib.loads(text)["project"]["optional-dependencies"])
    return named - {"airflow", "all", "build", "dev", "docs", "notebook"}


def test_every_extra_is_tried() -> None:
    """A new extra gets a line in the table above, or in the test below."""
    assert {name.partition(" ")[0] for name in NEEDS} | MORE.keys() == extras()


@pytest.mark.parametrize("case", sorted(NEEDS))
def test_a_command_without_its_extra_says_how_to_install_it(tmp_path: Path, case: str) -> None:
    """No command ends in a traceback, or names an error instead of the missing package."""
    settings, commands = NEEDS[case]
    extra = case.partition(" ")[0]
    write_project(tmp_path, sample=False, stories=["tills"])
    file = tmp_path / "retailmart.yml"
    lines = file.read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in settings]
    kept += [f"{key}: {value}" for key, value in settings.items()]
    file.write_text("\n".join([*kept, ""]))
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    (tmp_path / "landing" / "sales_1.csv").write_text(f"{HEADER}\n{sale()}\n")
    done = call_alone(CODE.format(commands=commands), tmp_path)
    assert done.stderr == ""
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [command for command, *_ in ended] == list(commands)
    install = SPARK if extra == "spark" else f"pip install '.[{extra}]'"
    for command, code, said in ended:
        assert install in said, (command, said)
        assert code == (1 if command == "doctor" else 2), command
        assert "Error" not in said, (command, said)


@pytest.mark.parametrize("extra", sorted(MORE))
def test_a_command_that_works_without_its_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """It does its work, and says what the extra would add to it."""
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "of Dagster")
    write_project(tmp_path, sample=False, stories=["tills"])
    done = call_alone(CODE.format(commands=(MORE[extra],)), tmp_path)
    assert done.stderr == ""
    ((_, code, said),) = [json.loads(line) for line in done.stdout.splitlines()]
    assert code == 0, said
    assert f"pip install '.[{extra}]'" in said
