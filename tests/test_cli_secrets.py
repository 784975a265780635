"""`retailmart secrets` as people meet it, and a canary password that must appear nowhere."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from retailmart.errors import SettingsError
from retailmart.project import load_project, open_secrets
from retailmart.template import write_project
from tests.support.commands import warm
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import REGION, S3Server

CANARY = "canary-5f0c-hunter2"
KEY = "a key of more than sixteen characters"
DOCS = Path(__file__).parent.parent / "docs" / "secrets.md"
RETAILMART = (sys.executable, "-m", "retailmart")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is known, and the machine's own databases, buckets and keyring decide nothing."""
    for name in list(os.environ):
        if name.startswith(("MYSQL_", "AWS_", "S3_", "RETAILMART_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setenv("RETAILMART_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project without a sample."""
    write_project(tmp_path / "shop", sample=False)
    return tmp_path / "shop"


def retailmart(
    project: Path, *words: str, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command; whatever it answers, the canary and the key are not in it."""
    done = warm().run(words, project, stdin=stdin)
    assert done.returncode == code, done.stderr
    for leak in (CANARY, KEY, "Traceback"):
        assert leak not in done.stdout + done.stderr
    return done


def add(project: Path, text: str, file: str = "retailmart.yml") -> None:
    """Append lines to a file of the project."""
    path = project / file
    path.write_text(path.read_text() + text)


def test_secrets_come_and_go_by_name(project: Path) -> None:
    """Set from stdin, listed by name, replaced and removed; one line end is not the value's."""
    assert retailmart(project, "secrets", "list").stderr == "no secret is stored\n"
    done = retailmart(project, "secrets", "set", "B", stdin=f"{CANARY}\n".encode())
    assert done.stderr == "Stored B. Settings refer to it as ${secret:B}\n"
    retailmart(project, "secrets", "set", "A", stdin=f"{CANARY}\r\n\n".encode())
    store = open_secrets(project)
    assert (store.get("B"), store.get("A")) == (CANARY, f"{CANARY}\r\n")
    assert retailmart(project, "secrets", "list").stdout == "A\nB\n"
    listed = retailmart(project, "secrets", "list", "--output", "json")
    assert json.loads(listed.stdout) == {"secrets": ["A", "B"]}
    assert retailmart(project, "secrets", "rm", "A").stderr == "Removed A\n"
    assert "no secret 'A' is stored" in retailmart(project, "secrets", "rm", "A", code=2).stderr
    assert retailmart(project, "secrets", "list").stdout == "B\n"


def test_a_typed_value_is_not_shown(project: Path) -> None:
    """At a terminal the value is asked for twice, and what is typed does not appear."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*RETAILMART, "secrets", "set", "TYPED"],
        cwd=project,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        for question in (b"Value of TYPED", b"Once more"):
            while question + b": " not in shown:
                shown += os.read(ours, 1024)
            os.write(ours, f"{CANARY}\n".encode())
        while b"Stored" not in shown:
            shown += os.read(ours, 1024)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert CANARY.encode() not in shown
    assert open_secrets(project).get("TYPED") == CANARY


@pytest.mark.parametrize(
    "words",
    [("DB", CANARY), (f"DB={CANARY}",), ("DB", f"--{CANARY}"), ("DB", "--value", CANARY)],
)
def test_a_value_on_the_command_line_is_refused(project: Path, words: tuple[str, ...]) -> None:
    """A value as a word of the command is not taken, not stored and not repeated."""
    done = retailmart(project, "secrets", "set", *words, code=2)
    assert "give the value when asked" in done.stderr
    assert not (project / ".retailmart" / "secrets.json").exists()


@pytest.mark.parametrize("value", [b"", b"\n", CANARY.encode() + b"\xff"])
def test_what_is_no_value_is_refused(project: Path, value: bytes) -> None:
    """An empty pipe is a mistake somewhere before; bytes that are no text are one, too."""
    done = retailmart(project, "secrets", "set", "A", stdin=value, code=2)
    assert "the value of A is " in done.stderr
    assert retailmart(project, "secrets", "list").stdout == ""


def test_a_broken_project_can_be_given_its_secrets(project: Path, tmp_path: Path) -> None:
    """The store needs no good settings, but a project; .env may hold its key."""
    add(project, "lanes: 3\n")
    retailmart(project, "secrets", "set", "A", stdin=CANARY.encode())
    assert retailmart(project, "secrets", "list").stdout == "A\n"
    assert "holds no retailmart.yml" in retailmart(tmp_path, "secrets", "list", code=2).stderr


def test_without_a_key_the_way_to_one_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a key nor a keyring: nothing is stored; a key in .env will do."""
    monkeypatch.delenv("RETAILMART_KEY")
    done = retailmart(project, "secrets", "set", "A", stdin=CANARY.encode(), code=2)
    assert "secrets.token_urlsafe(32)" in done.stderr
    assert not (project / ".retailmart" / "secrets.json").exists()
    add(project, f"RETAILMART_KEY='{KEY}'\n", ".env")
    retailmart(project, "secrets", "set", "A", stdin=CANARY.encode())
    assert open_secrets(project).get("A") == CANARY


def test_the_list_of_processes_does_not_show_it(project: Path) -> None:
    """While a value is on its way in, the command's line in the list of processes is without it."""
    process = subprocess.Popen(
        [*RETAILMART, "secrets", "set", "A"],
        cwd=project,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=4096,
    )
    assert process.stdin is not None
    # More than the pipe takes: when this returns, the command is there and reads.
    process.stdin.write(CANARY.encode() * 1000)
    process.stdin.flush()
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.communicate()
    assert process.returncode == 0
    assert b"secrets" in shown
    assert CANARY.encode() not in shown


WRONG_URLS = {
    "file": f"mysql://u:{CANARY}@db/x",
    "reference": "mysql://u:${secret:A}@db/${NOT_SET}",
    "line": f"[mysql://u:{CANARY}@db/x",
}


@pytest.mark.parametrize("url", WRONG_URLS.values(), ids=WRONG_URLS)
def test_check_tells_mistakes_and_no_password(project: Path, url: str) -> None:
    """Whatever is wrong with a database's URL, `check` says where, and not what."""
    retailmart(project, "secrets", "set", "A", stdin=CANARY.encode())
    path = project / "retailmart.yml"
    path.write_text(path.read_text().replace("sqlite:///retail.db", url))
    assert "retailmart.yml:" in retailmart(project, "check", code=2).stderr


def test_no_flag_takes_a_password(project: Path) -> None:
    """`--set` with a password is refused: by the time we see it, everybody could."""
    pair = f"database=mysql://u:{CANARY}@db/x"
    done = retailmart(project, "check", "--set", pair, code=2)
    assert "--set database=…: holds a password" in done.stderr


def test_the_canary_is_in_no_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run with secrets around, no file of the project has one in plain text."""
    retailmart(project, "secrets", "set", "A", stdin=CANARY.encode())
    monkeypatch.setenv("MYSQL_PASSWORD", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    retailmart(project, "run", "--output", "json")
    retailmart(project, "status", "--output", "json")
    leaks = [
        path
        for path in project.rglob("*")
        if path.is_file()
        for leak in (CANARY, KEY)
        if leak.encode() in path.read_bytes()
    ]
    assert leaks == []


def test_an_uncaught_error_shows_no_password(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback in a log shows source lines and messages: no value is among them."""
    monkeypatch.setenv("RETAILMART__DATABASE", f"mysql://u:{CANARY}@db/${{NOT_SET}}")
    code = f"import retailmart; retailmart.open_project({str(project)!r})"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=False
    )
    assert "the variable 'NOT_SET' is set neither" in done.stderr
    assert CANARY not in done.stderr


def test_help_loads_no_cipher(project: Path) -> None:
    """Whoever asks for help, or lists names, does not wait for the libraries of the store."""
    retailmart(project, "secrets", "set", "A", stdin=CANARY.encode())
    for words in (["--help"], ["secrets", "--help"], ["secrets", "list"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "retailmart", *words],
            cwd=project,
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "typer" in loaded
        assert {"cryptography", "keyring"} & loaded == set()


# docs/secrets.md


def blocks(language: str) -> list[str]:
    """The page's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_the_commands_of_the_docs_work(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every shell block of the page, in its order, as a shell runs it."""
    script = tmp_path / "bin" / "retailmart"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m retailmart "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FROM_YOUR_VAULT", CANARY)
    typed = {0: CANARY}
    shells = blocks("sh")
    assert len(shells) == 4
    for number, block in enumerate(shells):
        if "RETAILMART_KEY_FILE" in block:
            monkeypatch.delenv("RETAILMART_KEY")
            (project / ".retailmart" / "secrets.json").unlink()
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", block],
            cwd=project,
            input=typed.get(number, ""),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert CANARY not in done.stdout + done.stderr
    key = tmp_path / ".config" / "retailmart" / "key"
    assert key.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("RETAILMART_KEY_FILE", str(key))
    assert open_secrets(project).get("SHOP_PASSWORD") == CANARY


def test_the_settings_of_the_docs_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's YAML means what the page says."""
    store, one, all_five, postgres, s3, keys = blocks("yaml")
    settings = project / "retailmart.yml"

    open_secrets(project).set("SHOP_PASSWORD", CANARY)
    settings.write_text(store)
    shop = load_project(project)
    shop.check_secrets()
    assert shop.source_url("shop") == f"mysql://reader:{CANARY}@db.example.com/shop"
    assert make_url(shop.database_url()).password == CANARY

    for name in ("HOST", "DATABASE", "USER", "PASSWORD"):
        monkeypatch.setenv(f"MYSQL_{name}", name.lower())
    monkeypatch.setenv("MYSQL_PORT", "3307")
    settings.write_text(all_five)
    assert load_project(project).database_url() == "mysql://user:password@host:3307/database"
    settings.write_text(one)
    assert "password@" not in load_project(project).database_url()
    for name in ("HOST", "PORT", "DATABASE", "USER"):
        monkeypatch.delenv(f"MYSQL_{name}")
    assert load_project(project).database_url() == (
        "mysql://retailmart:password@db.example.com/retail"
    )

    monkeypatch.setenv("PGPASSWORD", CANARY)
    settings.write_text(postgres)
    assert load_project(project).database_url() == (
        f"postgresql://retailmart:{CANARY}@db.example.com/retail"
    )

    settings.write_text(s3)
    with pytest.raises(SettingsError, match="S3_BUCKET"):
        load_project(project)
    monkeypatch.setenv("S3_BUCKET", "other")
    assert load_project(project).settings.archive == "s3://other/processed"

    settings.write_text(keys)
    for name in ("S3_KEY", "S3_SECRET"):
        assert f"retailmart secrets set {name}" in retailmart(project, "check", code=2).stderr
        open_secrets(project).set(name, f"{CANARY} {name}")
    retailmart(project, "check")
    assert load_project(project).s3_keys() == {
        "access_key_id": f"{CANARY} S3_KEY",
        "secret_access_key": f"{CANARY} S3_SECRET",
    }


def test_the_variables_of_the_docs_work(project: Path) -> None:
    """The page's lines for .env are read from the store, and check names what is not there."""
    (variables,) = blocks("ini")
    (project / ".env").write_text(variables)
    names = re.findall(r"secret:(\w+)", variables)
    told = retailmart(project, "check", code=2).stderr
    for name in names:
        assert f"no secret {name!r} is stored" in told
        assert f"retailmart secrets set {name}" in told
        open_secrets(project).set(name, f"{CANARY} {name}")
    retailmart(project, "check")
    environment = load_project(project).environment
    assert [environment[name] for name in environment.referring()] == [
        f"{CANARY} {name}" for name in ("S3_KEY", "S3_SECRET", "SHOP_PASSWORD")
    ]


# secrets of .env and of s3 at work


SECRETS = {
    "DB": f"{CANARY} of the database",
    "KEY": f"AKIA{CANARY.upper()}",
    "PRIVATE": f"{CANARY}/secret+key",
}
S3_KEYS = {
    ".env": "AWS_ACCESS_KEY_ID=${secret:KEY}\nAWS_SECRET_ACCESS_KEY=${secret:PRIVATE}\n",
    "retailmart.yml": "  access_key_id: ${secret:KEY}\n  secret_access_key: ${secret:PRIVATE}\n",
}

JSON_RUN = ["run", "--output", "json"]
# Commands and their exit codes: before the secrets are stored, and afterwards.
FAILING = [(["check"], 2), (["doctor"], 1), (JSON_RUN, 2)]
WORKING = [
    *((["check"], 0), (JSON_RUN, 0), (["status", "--output", "json"], 0)),
    *((["verify", "--database", "--output", "json"], 0), (["doctor", "--output", "json"], 0)),
    (["doctor", "--set", "s3.endpoint=http://127.0.0.1:9"], 1),
    (["check", "--set", f"s3.secret_access_key={CANARY}/secret+key"], 2),
]


@pytest.mark.long
@pytest.mark.parametrize("place", [".env", "retailmart.yml"])
def test_secrets_at_work_are_seen_nowhere(
    tmp_path: Path,
    place: str,
    mariadb: DatabaseServer,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files in S3 and marts in MariaDB: all commands work, and none writes or says a secret."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    project = tmp_path / "tills"
    write_project(project, sample=True, stories=["tills"])
    database, bucket = mariadb.database(password=SECRETS["DB"]), s3.bucket()
    where = f"mysql://{database.user}@{database.host}:{database.port}/{database.name}"
    (project / "retailmart.yml").write_text(
        f"landing: s3://{bucket}/in\nlake: s3://{bucket}/lake\narchive: s3://{bucket}/archive\n"
        f"database: {where}\nsources: {{shop: 'sqlite:///shop.db'}}\n"
        f"s3:\n  endpoint: {s3.endpoint}\n  region: {REGION}\n"
    )
    add(project, "MYSQL_PASSWORD=${secret:DB}\n", ".env")
    add(project, S3_KEYS[place], place)
    landed = (project / "landing" / "sales_2024-01-08.csv").read_bytes()
    s3.look(bucket).put("in/sales_1.csv", landed)

    said = [retailmart(project, *words, code=code) for words, code in FAILING]
    for done in said[:2]:  # check and doctor: a run stops at the first
        for name in SECRETS:
            assert f"no secret {name!r} is stored" in done.stdout + done.stderr
            assert f"retailmart secrets set {name}" in done.stdout + done.stderr
    for name, value in SECRETS.items():
        said.append(retailmart(project, "secrets", "set", name, stdin=value.encode()))
    said += [retailmart(project, *words, code=code) for words, code in WORKING]

    report = json.loads(next(d.stdout for d in said[3:] if d.args[-3:] == JSON_RUN))
    assert report["rows"]["loaded"] > 0
    output = "".join(done.stdout + done.stderr for done in said)
    kept = [path.read_bytes() for path in project.rglob("*") if path.is_file()]
    stored = s3.look(bucket)
    kept += list(map(stored.get, stored.keys()))
    tables = [name for (name,) in database.query("SHOW TABLES")]
    kept += [repr(database.query(f"SELECT * FROM `{name}`")).encode() for name in tables]
    assert any(name.startswith("retailmart") for name in tables)
    for value in SECRETS.values():
        assert value not in output
        assert [content for content in kept if value.encode() in content] == []
