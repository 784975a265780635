"""`retailmart doctor` against real services with real ailments; a fix it names must fix."""

from __future__ import annotations

import http.client
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import Engine, create_engine

from retailmart.check_results import CheckResult, Level, clock
from retailmart.database.mysql.health import examine as examine_engine
from retailmart.operations.doctor import examine
from retailmart.project import load_project
from tests.support.backends import shop_tables
from tests.support.disks import mounted
from tests.support.pages import blocks, commands
from tests.support.services.mariadb import Database, DatabaseServer, MariaDB
from tests.support.services.process import free_port
from tests.support.services.proxy import TcpProxy
from tests.support.services.s3 import S3Bucket, S3Server
from tests.support.services.spark import SparkCluster, fake_java
from tests.support.shop import Called, Shop, Typed, sale

RIGHTS = {
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "ALTER",
    "DROP",
    "INDEX",
    "REFERENCES",
}
Findings = dict[str, CheckResult]


def visit(shop: Shop, **settings: object) -> Findings:
    """What the doctor finds, by check; no check is made twice."""
    project = load_project(shop.folder, settings)
    found = list(examine(project, seconds=60))
    named = {finding.check: finding for finding in found}
    assert len(named) == len(found)
    assert all(finding.fix for finding in found if finding.level is not Level.OK)
    return named


def ailing(found: Findings) -> dict[str, str]:
    """Level by check, of all that is not well. How full the disk here is says nothing."""
    return {
        name: finding.level.value
        for name, finding in found.items()
        if finding.level is not Level.OK and not name.startswith(("disk:", "machine:"))
    }


def statement(finding: CheckResult) -> str:
    """The SQL that a fix names."""
    assert finding.fix is not None
    return finding.fix.partition("administrator: ")[2].partition(" (and in ")[0].rstrip(";")


def names_below(folder: Path) -> set[str]:
    """Everything in a folder, hidden names too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def use_database(patch: pytest.MonkeyPatch, url: str) -> None:
    """Name the database where its password may stand."""
    patch.setenv("RETAILMART__DATABASE", url)


# a healthy project


def test_a_new_project_is_well_and_left_as_it_was(shop: Shop) -> None:
    """A healthy project has no problem, and no probe stays behind."""
    before = names_below(shop.folder)
    found = visit(shop)
    assert ailing(found) == {}
    assert {"database: folder", "source shop: tables", "landing: list", "lake: commit"} <= set(
        found
    )
    assert names_below(shop.folder) == before


def test_what_check_finds_is_a_problem(shop: Shop, called: Called) -> None:
    """A column that no input has, and a file that two feeds match: as `check` says it."""
    mart = shop.folder / "marts" / "customer_mart.sql"
    good = mart.read_text()
    mart.write_text(good.replace("FROM sales", ", pric FROM sales", 1))
    found = visit(shop)["project: files"]
    assert found.level is Level.PROBLEM
    assert found.found in called(shop.folder, "check").stderr
    assert "pric" in found.found
    mart.write_text(good)
    (shop.folder / "feeds" / "again.yml").write_text("files: ['*_1.csv']\ncolumns: {n: INT}\n")
    shop.sales("sales_1.csv", ["1,1,tea,2024-01-15,1,10.00,1,10.00"])
    assert "sales_1.csv" in visit(shop)["project: files"].found


def test_what_check_could_not_ask_is_named(shop: Shop, called: Called) -> None:
    """Without its source a project's files are found good only as far as they could be bound."""
    (shop.folder / "shop.db").unlink()
    assert visit(shop)["project: files"].found.endswith("without asking source shop")
    done = called(shop.folder, "check", "--quiet")
    assert done.returncode == 0
    (told,) = done.stderr.splitlines()
    assert told.startswith("source shop was not asked: ")
    assert "shop.db is not there" in told
    assert "no mistake found in what could be asked" in called(shop.folder, "check").stderr
    (shop.folder / "retail.db").write_text("no database")
    assert "database was not asked: " in called(shop.folder, "check").stderr


def test_a_project_that_has_run_is_left_as_it_was(shop: Shop) -> None:
    """The database and the lake of a working project are written to, and stay the same."""
    shop.sales("sales_1.csv", ["1,1,tea,2024-01-15,1,10.00,1,10.00"])
    shop.run()
    before = names_below(shop.folder)
    tables = shop.published("sqlite_master", "name, coalesce(sql, '')")
    found = visit(shop)
    assert ailing(found) == {}
    assert "is writable" in found["database: file"].found
    assert names_below(shop.folder) == before
    assert shop.published("sqlite_master", "name, coalesce(sql, '')") == tables


def test_a_clock_is_judged_by_how_far_it_is_off() -> None:
    """Seconds are tolerated, more is said, and more than the limit is a problem, both ways."""
    levels = [
        clock("x", seconds, problem_from=30, why="", fix="set it").level
        for seconds in (0, 5, -5, 6, -6, 30, 31, -31)
    ]
    assert [level.value for level in levels] == [
        *["ok"] * 3,
        *["warning"] * 3,
        *["problem"] * 2,
    ]


# the database


def test_a_good_server_is_well_and_left_empty(
    shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server as it should be nothing is found, and no table stays behind."""
    use_database(monkeypatch, database.url)
    found = visit(shop)
    assert ailing(found) == {}
    assert {name for name in found if name.startswith("database:")} == {
        "database: server",
        "database: TLS",
        "database: grants",
        "database: engine",
        "database: charset",
        "database: strict mode",
        "database: local_infile",
        "database: max_allowed_packet",
        "database: durability",
        "database: clock",
    }
    assert "MariaDB 1" in found["database: server"].found
    assert database.query("SHOW TABLES") == []


@pytest.mark.parametrize("right", sorted(RIGHTS))
def test_a_missing_grant_is_named_and_its_cure_cures(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch, right: str
) -> None:
    """An account without one right is told which, and the statement gives it."""
    database = mariadb.database(grants=", ".join(sorted(RIGHTS - {right})))
    use_database(monkeypatch, database.url)
    try:
        finding = visit(shop)["database: grants"]
        needed = right != "REFERENCES" or finding.level is Level.PROBLEM
        if needed:  # MariaDB asks for REFERENCES in some versions only
            assert finding.level is Level.PROBLEM
            assert f"lacks {right} on " in finding.found
            mariadb.ask(statement(finding))
        assert ailing(visit(shop)) == ({} if needed else {"database: views": "warning"})
        assert mariadb.ask(f"SHOW TABLES FROM `{database.name}`") == []
    finally:
        database.drop()


def test_an_account_without_any_right_on_the_database_is_told(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not even let it in; the grant still can be typed as it is told."""
    database = mariadb.database(grants="SELECT")
    mariadb.require_ours("revokes rights")
    mariadb.ask(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM `{database.user}`@`%`")
    use_database(monkeypatch, database.url)
    try:
        finding = visit(shop)["database: server"]
        assert "denied" in finding.found
        mariadb.ask(statement(finding))
        assert ailing(visit(shop)) == {}
    finally:
        database.drop()


@pytest.mark.parametrize(
    ("setting", "value", "check", "level"),
    [
        ("local_infile", 0, "local_infile", "warning"),
        ("innodb_flush_log_at_trx_commit", 2, "durability", "warning"),
        ("max_allowed_packet", 8 << 20, "max_allowed_packet", "warning"),
        ("max_allowed_packet", 1 << 20, "max_allowed_packet", "problem"),
    ],
)
def test_a_setting_of_the_server_is_told_and_its_cure_cures(
    shop: Shop,
    mariadb: DatabaseServer,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: int,
    check: str,
    level: str,
) -> None:
    """What makes a server slow, forgetful or short of breath is named with its statement."""
    use_database(monkeypatch, database.url)
    with mariadb.setting(**{setting: value}):
        found = visit(shop)
        assert ailing(found) == {f"database: {check}": level}
        mariadb.ask(statement(found[f"database: {check}"]))
        assert ailing(visit(shop)) == {}


def test_tables_without_transactions_are_told(
    shop: Shop, mariadb: DatabaseServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that cannot roll back would break every promise."""
    use_database(monkeypatch, database.url)
    with mariadb.setting(default_storage_engine="MyISAM"):
        found = visit(shop)
        assert "MyISAM" in found["database: engine"].found
        assert found["database: engine"].level is Level.PROBLEM
        mariadb.ask(statement(found["database: engine"]))
        assert ailing(visit(shop)) == {}


def test_a_narrow_charset_is_told_of_schema_and_older_tables(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fixes together make a Latin-1 database take an emoji."""
    database = mariadb.database(charset="latin1")
    use_database(monkeypatch, database.url)
    try:
        database.execute(
            "CREATE TABLE retailmart_files (path VARCHAR(50))",
            "CREATE TABLE anothers (path VARCHAR(50))",
        )
        found = visit(shop)
        wrong = {"database: charset": "problem", "database: tables": "problem"}
        assert ailing(found) == wrong
        assert "anothers" not in found["database: tables"].found
        for check in wrong:
            mariadb.ask(statement(found[check]))
        assert ailing(visit(shop)) == {}
    finally:
        database.drop()


@contextmanager
def plain_engine(database: Database) -> Iterator[Engine]:
    """A session as the server sets it up, nothing of ours in it."""
    url = database.url.replace("mysql:", "mysql+pymysql:") + "?charset=utf8mb4"
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.mark.parametrize("mode", ["NO_ENGINE_SUBSTITUTION", ""])
def test_a_server_that_cuts_values_off_is_told(
    mariadb: DatabaseServer, database: Database, mode: str
) -> None:
    """Strict mode is proven by a value that must be refused."""
    with mariadb.setting(sql_mode=mode):
        with plain_engine(database) as engine:
            found = {f.check: f for f in examine_engine(engine, "database", writes=True)}
        assert ailing(found) == {"database: strict mode": "problem"}
        mariadb.ask(statement(found["database: strict mode"]))
        with plain_engine(database) as engine:
            found = {f.check: f for f in examine_engine(engine, "database", writes=True)}
        assert ailing(found) == {}


def test_letters_that_are_lost_silently_are_told(mariadb: DatabaseServer) -> None:
    """A lax session takes an emoji and gives back a question mark."""
    database = mariadb.database(charset="latin1")
    try:
        with mariadb.setting(sql_mode=""), plain_engine(database) as engine:
            found = {f.check: f for f in examine_engine(engine, "database", writes=True)}
        assert ailing(found) == {"database: charset": "problem", "database: strict mode": "problem"}
    finally:
        database.drop()


def test_our_sessions_are_strict_whatever_the_server_is(
    shop: Shop, mariadb: DatabaseServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lax server is no ailment: runs set their own sessions up."""
    use_database(monkeypatch, database.url)
    with mariadb.setting(sql_mode=""):
        assert ailing(visit(shop)) == {}


def test_a_server_with_another_time_is_told(
    shop: Shop, mariadb: DatabaseServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are compared between machines: a minute off is a problem, ten seconds a warning."""
    use_database(monkeypatch, database.url)
    for seconds, level in ((10, "warning"), (-90, "problem")):
        with mariadb.setting(init_connect=f"SET timestamp = UNIX_TIMESTAMP() + {seconds}"):
            found = visit(shop)
        assert ailing(found) == {"database: clock": level}
    assert "behind this machine" in found["database: clock"].found


def test_a_server_that_is_down_is_told_at_once(
    shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a server that refuses connections."""
    use_database(monkeypatch, database.at(free_port()).url)
    start = time.monotonic()
    found = visit(shop)
    assert time.monotonic() - start < 10
    assert ailing(found) == {"database: server": "problem"}
    assert "cannot be reached" in found["database: server"].found


@pytest.mark.parametrize("canary", ["Kanari-4711", "per%cent'quote`tick", "mit ß und 🧾"])
def test_a_wrong_password_is_told_but_never_shown(
    shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch, canary: str
) -> None:
    """The account is named, the password is not."""
    wrong = database.url.replace(quote(database.password, safe=""), quote(canary, safe=""))
    use_database(monkeypatch, wrong)
    found = visit(shop)
    assert ailing(found) == {"database: server": "problem"}
    assert "Access denied" in found["database: server"].found
    assert canary not in repr(found)
    assert quote(canary, safe="") not in repr(found)


def test_a_missing_database_is_told_with_the_statement_that_makes_it(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account may use a database that nobody has made yet."""
    mariadb.require_ours("makes a database")
    database = mariadb.database()
    mariadb.ask(f"DROP DATABASE `{database.name}`")
    use_database(monkeypatch, database.url)
    try:
        finding = visit(shop)["database: server"]
        assert "Unknown database" in finding.found
        mariadb.ask(statement(finding))
        assert ailing(visit(shop)) == {}
    finally:
        database.drop()


def test_a_certificate_for_another_host_is_told(
    shop: Shop, mariadb: DatabaseServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is shown where it holds; where the name is another the fix tells what to name."""
    mariadb.require_ours("needs our own certificate")
    assert isinstance(mariadb, MariaDB)
    for host, level in (("localhost", Level.OK), ("127.0.0.1", Level.PROBLEM)):
        use_database(monkeypatch, f"{database.at(host=host).url}?ssl_ca={mariadb.ca}")
        finding = visit(shop)["database: TLS"]
        assert finding.level is level
    assert "certificate" in finding.found
    assert "ssl_ca" in (finding.fix or "")


def test_a_source_needs_no_more_than_select(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source is only read, so nothing else is asked of it."""
    source = mariadb.database(grants="SELECT")
    try:
        mariadb.ask(f"CREATE TABLE `{source.name}`.`odd % name` (i INT)")
        monkeypatch.setenv("RETAILMART__SOURCES__SHOP", source.url)
        found = visit(shop)
        assert ailing(found) == {}
        assert "1 table " in found["source shop: grants"].found
    finally:
        source.drop()


def test_a_source_that_may_not_be_read_is_told(
    shop: Shop, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is seen but not readable is named, and the grant opens it."""
    source = mariadb.database(grants="INSERT")
    try:
        (table,) = (one for one in shop_tables() if one.startswith("CREATE TABLE store"))
        mariadb.ask(table.replace("TABLE store", f"TABLE `{source.name}`.`store`"))
        monkeypatch.setenv("RETAILMART__SOURCES__SHOP", source.url)
        found = visit(shop)
        assert ailing(found) == {"source shop: grants": "problem"}
        assert "may not read store" in found["source shop: grants"].found
        mariadb.ask(statement(found["source shop: grants"]))
        assert ailing(visit(shop)) == {}
    finally:
        source.drop()


def test_a_busy_sqlite_file_is_no_ailment(shop: Shop) -> None:
    """The doctor comes while a run works: it neither waits nor complains."""
    with closing(sqlite3.connect(shop.folder / "retail.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("BEGIN IMMEDIATE")
        found = visit(shop)
    assert ailing(found) == {}
    assert "busy" in found["database: file"].found


def test_files_that_are_no_databases_are_told(shop: Shop) -> None:
    """A text in the place of a database, and a source that is not there."""
    (shop.folder / "retail.db").write_text("no database at all" * 100)
    (shop.folder / "shop.db").unlink()
    assert ailing(visit(shop)) == {
        "database: file": "problem",
        "source shop: check": "problem",
    }


# stores on this machine


def test_a_missing_landing_is_told_and_its_cure_cures(shop: Shop) -> None:
    """The command of the fix makes the folder."""
    finding = visit(shop, landing="to process")["landing: folder"]
    assert finding.level is Level.PROBLEM
    command = (finding.fix or "").removeprefix("Type: ")
    subprocess.run(command, shell=True, check=True)
    assert ailing(visit(shop, landing="to process")) == {}


def test_a_full_disk_is_told(shop: Shop) -> None:
    """A disk that is nearly full is a problem before the first write fails, and after."""
    lake = shop.folder / "lake"
    with mounted(lake, "size=1M"):
        found = visit(shop)
        assert found["disk: lake"].level is Level.PROBLEM
        assert str(lake) in (found["disk: lake"].fix or "")
        assert ailing(found) == {}
        (lake / "filler").write_bytes(b"x" * (1 << 20))
        assert "No space left" in visit(shop)["lake: write"].found
        assert [path.name for path in lake.iterdir()] == ["filler"]


def test_a_disk_that_takes_no_writes_is_told_and_its_cure_cures(shop: Shop) -> None:
    """A disk that was mounted read-only is named with the command that opens it."""
    with mounted(shop.folder / "archive", "size=1M,ro"):
        finding = visit(shop)["archive: write"]
        assert "Read-only" in finding.found
        subprocess.run((finding.fix or "").partition(": ")[2], shell=True, check=True)
        assert ailing(visit(shop)) == {}


def test_a_database_on_a_disk_that_takes_no_writes_is_told(shop: Shop) -> None:
    """A database is more than its file: the journal beside it must be written, too."""
    with mounted(shop.folder / "data", "size=1M,ro"):
        found = visit(shop, database="sqlite:///data/retail.db")
    assert ailing(found) == {"database: folder": "problem"}


def test_two_disks_are_told_apart(shop: Shop) -> None:
    """Files that go to another disk are copied: worth knowing, no ailment."""
    with mounted(shop.folder / "archive", "size=1M"):
        assert "copied" in visit(shop)["archive: way"].found
    assert "renamed" in visit(shop)["archive: way"].found


# buckets


class Spoiler(BaseHTTPRequestHandler):
    """Passes requests on to a store, but worse than it is; see `spoilt`."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    denied: frozenset[str] = frozenset()
    code = "AccessDenied"
    ahead = timedelta(0)
    forgetful = False

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command in self.denied:
            # A refused removal of many objects, which one is too, is no refused request.
            several = "delete" in urlsplit(self.path).query
            key = body.decode().partition("<Key>")[2].partition("</Key>")[0]
            error = f"<Error><Key>{key}</Key><Code>{self.code}</Code><Message>No</Message></Error>"
            refusal = f"<DeleteResult>{error}</DeleteResult>" if several else error
            self._answer(200 if several else 403, {}, refusal.encode())
            return
        headers = dict(self.headers.items())
        if self.forgetful:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        with closing(http.client.HTTPConnection(self.upstream, timeout=30)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("date", "connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.ahead, usegmt=True))
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests need no log."""


@contextmanager
def spoilt(endpoint: str, **ways: Any) -> Iterator[str]:
    """The endpoint of a store that denies methods, forgets conditions or has another time."""
    handler = type("Spoilt", (Spoiler,), {"upstream": urlsplit(endpoint).netloc, **ways})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def in_bucket(
    shop: Shop, s3: S3Server, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Settings that put landing, lake and archive into a bucket."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RETAILMART__S3__ENDPOINT", s3.endpoint)
    return {place: f"s3://{bucket.name}/{place}" for place in ("landing", "lake", "archive")}


def test_a_good_bucket_is_well_and_left_empty(
    shop: Shop, s3: S3Server, bucket: S3Bucket, in_bucket: dict[str, str]
) -> None:
    """Rights and conditional puts are proven, no object stays behind, no key is shown."""
    found = visit(shop, **in_bucket)
    assert ailing(found) == {}
    assert "refuses the second" in found["lake: conditional put"].found
    assert "AWS_ACCESS_KEY_ID in the environment" in found["landing: list"].found
    assert {"S3: clock", "landing: delete", "archive: write"} <= set(found)
    assert bucket.keys() == []
    assert s3.access_key not in repr(found)
    assert s3.secret_key not in repr(found)


def test_a_missing_bucket_is_told(shop: Shop, s3: S3Server, in_bucket: dict[str, str]) -> None:
    """The fix is the command that makes the bucket, at this endpoint."""
    found = visit(shop, **{**in_bucket, "lake": "s3://nowhere-at-all/lake"})
    assert ailing(found) == {"lake: list": "problem"}
    fix = found["lake: list"].fix or ""
    assert "s3 mb s3://nowhere-at-all " in fix
    assert s3.endpoint in fix


def test_a_store_that_forgets_conditions_is_told(
    shop: Shop, s3: S3Server, bucket: S3Bucket, in_bucket: dict[str, str], monkeypatch: Any
) -> None:
    """Where two commits can have one number, a batch can be lost."""
    with spoilt(s3.endpoint, forgetful=True) as endpoint:
        monkeypatch.setenv("RETAILMART__S3__ENDPOINT", endpoint)
        found = visit(shop, **in_bucket)
    assert ailing(found) == {"lake: conditional put": "problem"}
    assert bucket.keys() == []


@pytest.mark.parametrize(
    ("method", "right", "expected"),
    [
        ("PUT", "s3:PutObject", {"lake: write": "problem", "archive: write": "problem"}),
        (
            "POST",
            "s3:DeleteObject",
            {
                "landing: delete": "problem",
                "lake: delete": "problem",
                "archive: delete": "problem",
            },
        ),
    ],
)
def test_a_missing_right_on_a_bucket_is_told(
    shop: Shop,
    s3: S3Server,
    in_bucket: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    right: str,
    expected: dict[str, str],
) -> None:
    """Each place is told what it lacks; landing need not be written to."""
    with spoilt(s3.endpoint, denied=frozenset({method})) as endpoint:
        monkeypatch.setenv("RETAILMART__S3__ENDPOINT", endpoint)
        found = visit(shop, **in_bucket)
    assert ailing(found) == expected
    fix = found[next(reversed(expected))].fix or ""
    assert right in fix
    assert f"{in_bucket['archive'].removeprefix('s3://')}/*" in fix


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("AccessDenied", "s3:ListBucket"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID in the environment"),
        ("SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID in the environment"),
        ("RequestTimeTooSkewed", "timedatectl"),
        ("AuthorizationHeaderMalformed", "AWS_REGION (now eu-central-1)"),
    ],
)
def test_a_refusal_of_the_store_has_its_own_fix(
    shop: Shop,
    s3: S3Server,
    in_bucket: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    fix: str,
) -> None:
    """Keys, rights, region and time are told apart by what the store answers."""
    with spoilt(s3.endpoint, denied=frozenset({"GET", "PUT"}), code=code) as endpoint:
        monkeypatch.setenv("RETAILMART__S3__ENDPOINT", endpoint)
        finding = visit(shop, **in_bucket)["lake: list"]
    assert code in finding.found
    assert fix in (finding.fix or "")


def test_a_store_with_another_time_is_told(
    shop: Shop, s3: S3Server, in_bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amazon refuses what is signed with a wrong time, so it is said before."""
    for ahead, level in ((timedelta(minutes=1), "warning"), (timedelta(hours=-1), "problem")):
        with spoilt(s3.endpoint, ahead=ahead) as endpoint:
            monkeypatch.setenv("RETAILMART__S3__ENDPOINT", endpoint)
            found = visit(shop, **in_bucket)
        assert ailing(found) == {"S3: clock": level}


def test_a_store_that_is_down_is_told_soon(
    shop: Shop, in_bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would try for minutes; the doctor answers in seconds, with the endpoint."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RETAILMART__S3__ENDPOINT", endpoint)
    start = time.monotonic()
    found = visit(shop, **in_bucket)
    assert time.monotonic() - start < 15
    assert set(ailing(found)) == {"landing: list", "lake: list", "archive: list", "S3: clock"}
    assert endpoint in (found["lake: list"].fix or "")


def test_missing_keys_are_told(
    shop: Shop, in_bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any credentials each place says so, and what to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = visit(shop, **in_bucket)
    assert "no credentials" in found["landing: check"].found
    assert "AWS_ACCESS_KEY_ID" in (found["landing: check"].fix or "")


# the machine


def test_more_memory_than_there_is_is_told(shop: Shop) -> None:
    """The fix is a limit that fits."""
    finding = visit(shop, memory_limit="900TB")["machine: memory"]
    assert finding.level is Level.WARNING
    limit = (finding.fix or "").partition("memory_limit: ")[2].partition("`")[0]
    assert visit(shop, memory_limit=limit)["machine: memory"].level is Level.OK


@pytest.mark.long
@pytest.mark.spark
def test_spark_is_looked_at_where_it_is_wanted(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the project or by an option; a Java that is too old is told with what installs another."""
    assert not any(name.startswith("spark") for name in visit(shop))
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", "1.7.0_80")))
    for words in (["--spark"], ["--set", "engine=spark"]):
        done = doctor(shop.folder, "--output", "json", *words)
        found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
        assert done.returncode == 1
        assert found["spark: pyspark"]["level"] == "ok"
        assert found["spark: Java"]["level"] == "problem"
        assert "1.7.0_80" in found["spark: Java"]["found"]
        assert "apt install openjdk" in found["spark: Java"]["cure"]
        assert "spark: rows" not in found


@pytest.mark.long
@pytest.mark.spark
def test_rows_must_reach_sparks_workers_and_come_back(
    shop: Shop, spark_cluster: SparkCluster, spark_environment: None
) -> None:
    """Asked of the project's real Spark; nothing is left of the question."""
    project = ["--set", "engine=spark", "--set", f"spark.master={spark_cluster.url}"]
    before = names_below(shop.folder)
    done = doctor(shop.folder, "--timeout", "100", "--output", "json", *project)
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["spark: rows"]["level"] == "ok"
    assert "2 workers of " + spark_cluster.url in found["spark: rows"]["found"]
    for check in ("versions", "memory", "disk", "reach"):
        assert found[f"spark: {check}"]["level"] == "ok", found
    assert names_below(shop.folder) == before


# the command


def doctor(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Call the command as a process; it never ends in a traceback."""
    command = [sys.executable, "-m", "retailmart", "doctor", *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_command_tells_a_problem_by_its_exit_code(shop: Shop) -> None:
    """0 while all is well or only warned of, 1 with a problem; the fix is below the finding."""
    assert doctor(shop.folder).returncode == 0
    assert doctor(shop.folder, "--set", "memory_limit=900TB").returncode == 0
    done = doctor(shop.folder, "--set", "landing=elsewhere")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith("problem"))
    assert "landing: folder" in lines[place]
    assert f"→ Type: mkdir -p {shop.folder / 'elsewhere'}" in lines[place + 1]
    assert "1 problem" in done.stderr


def test_the_command_speaks_json(shop: Shop) -> None:
    """One object on stdout: every finding, and the counts."""
    done = doctor(shop.folder, "--set", "landing=elsewhere", "--output", "json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told) == {"findings", "problems", "warnings"}
    assert told["problems"] == 1
    assert all(set(each) == {"check", "level", "found", "cure"} for each in told["findings"])
    (wrong,) = (each for each in told["findings"] if each["level"] == "problem")
    assert wrong["check"] == "landing: folder"


def test_a_hanging_server_keeps_neither_the_command_nor_other_checks(
    shop: Shop, database: Database, database_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is a finding too; everything else is told, and the program ends."""
    use_database(monkeypatch, database.at(database_proxy.port).url)
    database_proxy.hang()
    done = doctor(shop.folder, "--timeout", "8", "--output", "json")
    assert done.returncode == 1
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["database: answer"]["found"] == "none within 8 s"
    silent = [check for check, each in found.items() if each["found"] == "none within 8 s"]
    assert silent == ["database: answer", "lake: rows: answer"]
    assert found["lake: commit"]["level"] == "ok"
    assert database.password not in done.stdout + done.stderr


def test_the_page_shows_what_the_command_prints(tmp_path: Path, typed: Typed) -> None:
    """docs/doctor.md's commands work on the sample shop, and its checks are the ones printed."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    lines = commands("docs/doctor.md")
    assert lines[0] == "retailmart doctor"
    printed = [typed(line, tmp_path / "shop") for line in lines]
    assert {done.returncode for done in printed} == {0}
    shown = [line[9:38] for line in blocks("docs/doctor.md", "text")[0].splitlines()]
    assert shown == [line[9:38] for line in printed[0].stdout.splitlines() if line[:8].strip()]


def test_a_value_that_cannot_be_read_is_found(shop: Shop, called: Called) -> None:
    """With its table, column and row, and the fix that a run would name."""
    shop.backend.execute_in_shop("UPDATE customer SET customer_joining_date = '0000-00-00'")
    done = called(shop.folder, "doctor")
    assert done.returncode == 1
    assert "source shop: values" in done.stdout
    assert "column 'customer_joining_date', row customer_id = 1" in done.stdout
    assert "tables/customer.yml: zero_dates: empty" in done.stdout


def test_a_value_that_would_be_rounded_is_found(
    tmp_path: Path, called: Called, typed: Typed
) -> None:
    """Money with a third decimal in SQLite is found before a run holds its marts back."""
    assert typed("retailmart init shop --sample", tmp_path).returncode == 0
    with closing(sqlite3.connect(tmp_path / "shop" / "shop.db")) as source:
        source.execute("UPDATE product SET current_price = 1.005 WHERE id = 1")
        source.commit()
    done = called(tmp_path / "shop", "doctor")
    assert done.returncode == 1
    assert "column 'current_price', row id = 1: 1.005 is no DECIMAL" in done.stdout
    assert "round(" in done.stdout


def test_files_that_a_version_names_and_the_disk_lacks_are_a_problem(shop: Shop) -> None:
    """Each table is named with its first missing file; a mart's fix, tried out, works."""
    shop.sales("sales_1.csv", [sale(), sale(2, day="2024-02-10")])
    shop.run()
    assert visit(shop)["lake: files"].level is Level.OK
    assert "are there" in visit(shop)["lake: files"].found
    before = shop.mart("customer_mart")
    folder = shop.folder / "lake" / "marts" / "customer_mart"
    first, *_ = sorted(folder.glob("_month=*/*.parquet"))
    first.unlink()
    found = visit(shop)["lake: files"]
    assert found.level is Level.PROBLEM
    assert found.found.startswith("1 file of marts/customer_mart not there as written")
    assert first.name in found.found
    assert found.fix is not None
    assert str(folder) in found.fix
    shutil.rmtree(folder)
    shop.sales("sales_2.csv", [sale(3, day="2024-03-10")])
    shop.run()
    assert visit(shop)["lake: files"].level is Level.OK
    assert set(before) < set(shop.mart("customer_mart"))


@pytest.mark.every_store
def test_a_file_that_is_cut_short_is_a_problem(shop: Shop) -> None:
    """It would break the run that reads it; the doctor sees it by its size."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    lake = shop.open().lake
    state = lake.state("raw/sales")
    assert state is not None
    lake.place.discard("raw/sales", state.files[0].path)
    found = visit(shop)["lake: files"]
    assert found.level is Level.PROBLEM
    assert "raw/sales" in found.found
    assert "as from a backup" in str(found.fix)
