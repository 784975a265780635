"""The command line as people and cron meet it: real processes, exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import retailmart
from retailmart.cli import app
from retailmart.report import Silent
from retailmart.session import Session
from retailmart.template import write_project
from tests.support.commands import warm
from tests.support.shop import Called, Shop, all_marts, sale

HEAVY = {"duckdb", "deltalake", "pyarrow", "sqlalchemy", "pandas", "numpy"}


def command(
    *words: str | Path, at: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `retailmart WORDS` as a process; no command may end in a traceback."""
    around = {"COLUMNS": "200", "TERM": "dumb", **environment}
    result = warm().run([*map(str, words)], at or Path.cwd(), around)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def only_json(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object that is all of stdout."""
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample shop, run once. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("sample") / "shop"
    assert command("init", folder, "--sample", "--with", "tills").returncode == 0
    result = command("run", "--as-of", "2024-04-01", "--output", "json", at=folder)
    report = only_json(result)
    assert report["rows"]["loaded"] > 0
    assert "rows loaded" in result.stderr
    assert "load: " in result.stderr
    return folder


@pytest.fixture(scope="module")
def refused(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop whose only run met a good file, one with a bad row and a file without columns."""
    shop = Shop(tmp_path_factory.mktemp("refused") / "shop")
    write_project(shop.folder, sample=False, stories=["tills"])
    shutil.copy(sample / "shop.db", shop.folder)
    shop.sales("north/sales_1.csv", [sale(), sale(day="2024-02-31"), sale(day="2024-01-16")])
    shop.drop("south/sales_2.csv", "a,b\n1,2\n")
    shop.run()
    return shop


def test_the_report_is_one_json_object(sample: Path, tmp_path: Path) -> None:
    """With --output json the whole report is on stdout, and people's words are on stderr."""
    folder = tmp_path / "copy"
    shutil.copytree(sample, folder)
    (folder / "landing" / "sales_more.csv").write_text(
        "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost\n"
        "1,1,tea,2024-03-01,1,10.00,1,10.00\n"
    )
    report = only_json(command("run", "--as-of", "2024-04-01T06:00+02:00", "-o", "json", at=folder))
    assert report["as_of"] == "2024-04-01T04:00:00+00:00"
    assert report["rows"] == {"read": 1, "loaded": 1, "quarantined": 0}
    assert report["files"]["loaded"] == 1
    assert report["balanced"] is True
    assert report["nothing_to_do"] is False
    (batch,) = report["batches"]
    assert {mart["name"] for mart in batch["marts"]} >= {"sales_mart", "sales_team_incentive"}


def test_a_second_run_loads_nothing(sample: Path) -> None:
    """Nothing new has landed: exit 0, an empty report and one line for people."""
    result = command("run", "--as-of", "2024-04-01", "--output", "json", at=sample)
    report = only_json(result)
    assert report["nothing_to_do"] is True
    assert report["batches"] == []
    assert report["rows"] == {"read": 0, "loaded": 0, "quarantined": 0}
    assert "Nothing to do: landing holds nothing new." in result.stderr


def test_the_project_can_be_named(sample: Path, tmp_path: Path) -> None:
    """A project is found by option or environment, wherever the command is called."""
    assert command("status", "--project", sample, at=tmp_path).returncode == 0
    assert command("status", at=tmp_path, RETAILMART_PROJECT=str(sample)).returncode == 0
    assert command("status", at=tmp_path).returncode == 2


def test_version(called: Called, tmp_path: Path) -> None:
    """It is told on stdout, without a project."""
    result = called(tmp_path, "--version")
    assert (result.returncode, result.stdout) == (0, f"retailmart {retailmart.__version__}\n")
    assert result.stderr == ""


def test_a_quiet_run_tells_what_needs_a_person(called: Called, shop: Shop) -> None:
    """Refused rows and files are told; a good run, a duplicate and progress are not."""
    shop.sales("sales_1.csv", [sale()])
    good = called(shop.folder, "run", "--quiet", "--output", "json")
    assert (only_json(good)["rows"]["loaded"], good.stderr) == (1, "")
    shop.sales("again/sales_1.csv", [sale()])
    shop.sales("sales_2.csv", [sale(), sale(day="2024-02-31")])
    shop.drop("sales_3.csv", "a,b\n1,2\n")
    bad = called(shop.folder, "run", "-q")
    assert (bad.returncode, bad.stdout) == (0, "")
    assert "sales_2.csv" in bad.stderr
    assert "lacks the columns" in bad.stderr
    for told in ("again", "duplicate", "load:", "customer_mart", "published"):
        assert told not in bad.stderr
    idle = called(shop.folder, "run", "--quiet")
    assert (idle.returncode, idle.stdout, idle.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["init", "new"], "Wrote new"),
        (["check"], "no mistake found"),
        (["abandon"], "open"),
        (["quarantine", "export", "--to", "sheet.csv"], "No refused row is open"),
    ],
)
def test_quiet_commands_tell_no_success(
    called: Called, shop: Shop, words: list[str], told: str
) -> None:
    """What a command says on stderr when all went well is left out, and nothing else."""
    quiet = called(shop.folder, *words, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    if words[0] == "init":
        shutil.rmtree(shop.folder / "new")
    loud = called(shop.folder, *words)
    assert told in loud.stderr
    assert (loud.returncode, loud.stdout) == (0, quiet.stdout)


def test_quiet_commands_tell_errors(called: Called, shop: Shop) -> None:
    """A mistake is told whether or not somebody wants quiet."""
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("lanes: 3\n")
    result = called(shop.folder, "check", "--quiet")
    assert result.returncode == 2
    assert "unknown key 'lanes'" in result.stderr


def test_status_tells_runs_and_files(called: Called, sample: Path) -> None:
    """The last runs and the files by state, as text and as JSON."""
    text = called(sample, "status")
    assert text.returncode == 0
    assert "run 1  20" in text.stdout
    assert "files loaded" in text.stdout
    told = only_json(called(sample, "status", "--output", "json"))
    assert told["runs"][-1]["state"] == "done"
    assert told["open_batch"] is None
    assert told["files"]["loaded"] > 1


def test_status_before_the_first_run(called: Called, shop: Shop) -> None:
    """A new project has no run, and says so, and what it can start with."""
    result = called(shop.folder, "status")
    assert (result.returncode, result.stdout.partition("\n")[0]) == (0, "no run yet")
    assert "expected   files in landing: " in result.stdout
    assert called(shop.folder, "status", "--quiet").stdout == ""


def test_quarantine_lists_rows_and_files(called: Called, refused: Shop) -> None:
    """Refused rows by file and rule, and refused files with their reason."""
    text = called(refused.folder, "quarantine", "list")
    assert text.returncode == 0
    rows, files = text.stdout.splitlines()
    assert rows.split() == ["1", "row", "type", "north/sales_1.csv"]
    assert files.split()[:3] == ["file", "refused", "south/sales_2.csv"]
    told = only_json(called(refused.folder, "quarantine", "list", "--output", "json"))
    assert told["rows"] == [{"file": "north/sales_1.csv", "rule": "type", "rows": 1}]
    assert [file["file"] for file in told["files"]] == ["south/sales_2.csv"]
    assert "lacks the columns" in told["files"][0]["message"]


def test_quarantine_list_without_any(called: Called, shop: Shop) -> None:
    """A shop without refusals is told so."""
    result = called(shop.folder, "quarantine", "list")
    assert (result.returncode, result.stdout) == (0, "no refused rows or files\n")
    assert only_json(called(shop.folder, "quarantine", "list", "-o", "json")) == {
        "rows": [],
        "files": [],
        "closed": 0,
        "dismissed": 0,
    }


@pytest.mark.parametrize("name", ["north/sales_1.csv", "sales_1.csv"])
def test_quarantine_shows_rows(called: Called, refused: Shop, name: str) -> None:
    """A file is found by its path or bare name; each refused row has line, reason and raw text."""
    text = called(refused.folder, "quarantine", "show", name)
    assert text.returncode == 0
    assert text.stdout.startswith("line 3: ")
    assert "2024-02-31" in text.stdout
    told = only_json(called(refused.folder, "quarantine", "show", name, "--output", "json"))
    assert told["file"] == "north/sales_1.csv"
    (row,) = told["rows"]
    assert (row["line"], row["column"], row["rule"]) == (3, "sales_date", "type")
    assert row["raw"] == sale(day="2024-02-31")


def test_quarantine_shows_why_a_file_was_refused(called: Called, refused: Shop) -> None:
    """A refused file has a reason instead of rows."""
    text = called(refused.folder, "quarantine", "show", "sales_2.csv")
    assert text.returncode == 0
    assert text.stdout.startswith("south/sales_2.csv lacks the columns")
    told = only_json(called(refused.folder, "quarantine", "show", "sales_2.csv", "-o", "json"))
    assert told["rows"] == []


def test_quarantine_show_of_an_unknown_file(called: Called, refused: Shop) -> None:
    """A name that never came is an error with the way to find the right one."""
    result = called(refused.folder, "quarantine", "show", "sales_9.csv")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no file 'sales_9.csv' was ever delivered" in result.stderr


@pytest.mark.parametrize("name", ["ales_1.csv", "sales%.csv", "sales_1_csv"])
def test_a_bare_name_is_a_whole_name(called: Called, refused: Shop, name: str) -> None:
    """The end of a name, or a pattern, must not show another file's rows."""
    assert called(refused.folder, "quarantine", "show", name).returncode == 1


@all_marts
def test_check_tells_every_mistake(called: Called, shop: Shop) -> None:
    """check reads all files and runs nothing."""
    good = called(shop.folder, "check")
    assert good.returncode == 0
    assert "1 feed and 5 marts, no mistake found" in good.stderr
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("lanes: 3\n")
    (shop.folder / "marts" / "zz.sql").write_text("-- refresh: ful\nSELECT 1 AS a\n")
    bad = called(shop.folder, "check")
    assert bad.returncode == 2
    assert "retailmart.yml:9: unknown key 'lanes'" in bad.stderr
    assert "marts/zz.sql:1: refresh: 'ful' is unknown; did you mean 'full'?" in bad.stderr
    assert not (shop.folder / "retail.db").exists()


@all_marts
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nope"], "No such option"),
        (["run", "--nope"], "No such option"),
        (["rnu"], "No such command"),
        (["run", "--output", "xml"], "Invalid value"),
        (["run", "--as-of", "yesterday"], "write it as 2024-01-31"),
        (["run", "--as-of", "0001-01-01T00:00+14:00"], "write it as 2024-01-31"),
        (["run", "--set", "lake"], "write it as KEY=VALUE"),
        (["run", "--set", "lake=["], "is no YAML value"),
        (["run", "--set", "lnding=x"], "did you mean 'landing'?"),
        (["run", "--set", "a=1", "--set", "a.b=1"], "'a' is a value, no section"),
        (["run", "--set", "variables.incentive_rte=1"], "did you mean 'incentive_rate'?"),
        (["run", "--set", "database=somewhere"], "is no database URL"),
        (["run", "--set", "database=mysql://u:hunter2@h/d"], "holds a password"),
        (["quarantine", "show"], "Missing argument"),
        (["init"], "Missing argument"),
    ],
)
def test_usage_and_settings_exit_2(called: Called, shop: Shop, words: list[str], told: str) -> None:
    """What the user wrote wrong is exit 2, one clear sentence and nothing on stdout."""
    result = called(shop.folder, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert told in result.stderr
    assert "hunter2" not in result.stderr


def test_a_value_of_the_environment_that_is_no_yaml_exits_2(shop: Shop) -> None:
    """The variable is named, whatever it holds."""
    result = command("status", at=shop.folder, RETAILMART__LAKE="[x")
    assert result.returncode == 2
    assert "RETAILMART__LAKE: '[x' is no YAML value" in result.stderr


def test_a_missing_source_exits_1(shop: Shop) -> None:
    """A source database that is not there fails the run; put back, the run goes on."""
    (shop.folder / "shop.db").rename(shop.folder / "away.db")
    shop.sales("sales.csv", [sale()])
    result = command("run", "--output", "json", at=shop.folder)
    assert (result.returncode, json.loads(result.stdout)["exit_code"]) == (1, 1)
    assert "shop.db is not there" in result.stderr
    (shop.folder / "away.db").rename(shop.folder / "shop.db")
    assert only_json(command("run", "-o", "json", at=shop.folder))["rows"]["loaded"] == 1


def test_a_source_that_is_no_database_exits_1(shop: Shop) -> None:
    """Another file under the source's name fails the run with the place to look."""
    shop.sales("sales.csv", [sale()])
    (shop.folder / "shop.db").write_text("customer_id\n" * 1000)
    result = command("run", at=shop.folder)
    assert result.returncode == 1
    assert "cannot be read: file is not a database" in result.stderr


def test_a_database_that_is_none_is_no_traceback(shop: Shop) -> None:
    """Another file under the database's name is an error in words."""
    (shop.folder / "retail.db").write_text("customer_id\n" * 1000)
    assert command("status", at=shop.folder).returncode in (1, 2)


def test_a_failed_gate_exits_3(shop: Shop) -> None:
    """A rule that says `fail` stops the run before anything is published."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("action: warn", "action: fail", 1))
    shop.sales("sales.csv", [sale(price="10.00", total="11.00")])
    result = command("run", "--output", "json", at=shop.folder)
    assert (result.returncode, json.loads(result.stdout)["exit_code"]) == (3, 3)
    assert "total_is_price_times_quantity" in result.stderr
    assert "\n  Run 1 failed in step load, " in result.stderr
    assert "  failed in load  sales.csv: 1 row breaks " in command("status", at=shop.folder).stdout
    assert (shop.folder / "landing" / "sales.csv").exists()


def test_a_held_project_exits_4(shop: Shop) -> None:
    """While another run holds the project, a second one leaves at once."""
    with Session.open(shop.open().project, Silent()) as session:
        session.ledger.migrate()
        session.acquire_lease()
        result = command("run", "--output", "json", at=shop.folder)
    assert (result.returncode, json.loads(result.stdout)["exit_code"]) == (4, 4)
    assert result.stderr.startswith("retailmart: ")
    assert command("run", at=shop.folder).returncode == 0


def test_a_mart_that_is_no_sql_names_its_line(shop: Shop) -> None:
    """The parser's words come with the mart's file and the line where its SELECT begins."""
    (shop.folder / "marts" / "zz.sql").write_text("-- refresh: full\n\nSELECT FROM WHERE\n")
    shop.sales("sales.csv", [sale()])
    result = command("run", at=shop.folder)
    assert result.returncode in (1, 2)
    assert "marts/zz.sql:3: " in result.stderr


def test_any_terminal_can_show_any_name(shop: Shop) -> None:
    """A terminal without Unicode gets escapes, and JSON that is still JSON."""
    shop.sales("sales_café_₦.csv", [sale(), sale(day="soon")])
    ran, shown = (
        subprocess.run(
            [sys.executable, "-m", "retailmart", *words],
            cwd=shop.folder,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=False,
        )
        for words in (["run", "-o", "json"], ["quarantine", "list"])
    )
    assert only_json(ran)["batches"][0]["files"][0]["path"] == "sales_café_₦.csv"
    assert shown.returncode == 0
    assert "sales_caf\\xe9_" in shown.stdout


def test_refused_text_has_no_power_over_the_terminal(called: Called, shop: Shop) -> None:
    """Escape sequences in a delivered row are shown, not obeyed."""
    shop.sales("sales.csv", [sale(), sale(day="\x1b[2J")])
    shop.run()
    shown = called(shop.folder, "quarantine", "show", "sales.csv")
    assert "\x1b" not in shown.stdout
    assert "\\x1b[2J" in shown.stdout


def test_any_folder_can_hold_a_project(tmp_path: Path) -> None:
    """Glob characters, quotes and blanks in the project's path work from init to the marts."""
    folder = tmp_path / 'it\'s "mine" é #1, my [shop] *?'
    assert command("init", folder, "--sample", "--with", "tills").returncode == 0
    first = only_json(command("run", "--as-of", "2024-04-01", "-o", "json", at=folder))
    assert first["rows"]["loaded"] > 0
    rows = retailmart.open_project(folder).mart("customer_mart").aggregate("count(*)").fetchall()
    assert rows == [(8114,)]
    with sqlite3.connect(folder / "retail.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM sales_team_incentive").fetchone()
    assert count > 0


@pytest.mark.parametrize("name", ["100%41", "back\\slash"])
def test_a_folder_the_lake_cannot_lie_in_is_told(tmp_path: Path, name: str) -> None:
    """Where the lake's library would look in another folder, the project says so and stops."""
    folder = tmp_path / name
    command("init", folder)
    result = command("run", at=folder)
    assert result.returncode == 2
    assert "rename the folder" in result.stderr


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group of the command line, by its words."""
    waiting = [("retailmart", typer.main.get_command(app))]
    while waiting:
        name, found = waiting.pop()
        yield name, found
        waiting += [(f"{name} {key}", sub) for key, sub in getattr(found, "commands", {}).items()]


def test_everything_has_help() -> None:
    """Every command, option and argument says what it is for."""
    found = dict(commands())
    assert {"retailmart run", "retailmart init", "retailmart quarantine show"} <= set(found)
    silent = [name for name, command in found.items() if not command.help]
    silent += [
        f"{name} {parameter.name}"
        for name, command in found.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


def loaded_by(code: str, at: Path | None = None) -> set[str]:
    """The heavy libraries that a fresh Python has loaded after running `code`."""
    tell = f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", tell], cwd=at, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stderr.split()} & HEAVY


HELP = """
import sys
from retailmart.cli import main
sys.argv = ["retailmart", {words}]
try:
    main()
except SystemExit as done:
    assert not done.code
"""


def test_help_and_import_load_nothing_heavy() -> None:
    """Start-up shows every library that is imported: help and `import retailmart` need none."""
    assert loaded_by("import retailmart") == set()
    assert loaded_by(HELP.format(words="'--help'")) == set()
    assert loaded_by(HELP.format(words="'run', '--help'")) == set()


def test_a_run_with_nothing_to_do_loads_no_engine(sample: Path) -> None:
    """Looking for news needs the ledger's library only."""
    assert loaded_by(HELP.format(words="'run', '--as-of', '2024-04-01'"), sample) == {"sqlalchemy"}
    assert loaded_by(HELP.format(words="'status'"), sample) == {"sqlalchemy"}


def test_check_tells_mistakes_of_all_groups(shop: Shop, called: Called) -> None:
    """A secret that is missing and a mart with a wrong column: one look shows both."""
    (shop.folder / ".env").write_text("RETAILMART__SOURCES__OTHER=mysql://a:${secret:DB}@h/d\n")
    mart = shop.folder / "marts" / "customer_mart.sql"
    mart.write_text(mart.read_text().replace("SELECT", "SELECT no_such_column,", 1))
    done = called(shop.folder, "check")
    assert done.returncode == 2
    assert "DB" in done.stderr
    assert "no_such_column" in done.stderr
