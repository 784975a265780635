"""The way to a database: URLs, passwords, TLS, and errors in words that help."""

from __future__ import annotations

import ssl
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from retailmart.database import open_database, shown_url, translate_errors
from retailmart.database.mysql.opening import address_of
from retailmart.errors import RetailmartError, SettingsError, Unavailable
from tests.support.services.mariadb import Database, DatabaseServer, MariaDB, make_certificates
from tests.support.services.process import free_port
from tests.support.services.proxy import TcpProxy

_CANARY = "cAnary-pw-7731"


@pytest.fixture
def engine(database: Database, tmp_path: Path) -> Iterator[Engine]:
    """A new database."""
    engine = open_database(database.url, tmp_path)
    yield engine
    engine.dispose()


def ask(url: str, folder: Path, statement: str = "SELECT 1") -> Any:
    """One value from a database, with its errors told."""
    engine = open_database(url, folder)
    try:
        with translate_errors(), engine.connect() as connection:
            return connection.exec_driver_sql(statement).scalar()
    finally:
        engine.dispose()


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"])
def test_every_way_to_write_the_url_is_known(
    database: Database, tmp_path: Path, scheme: str
) -> None:
    """One driver serves all of them."""
    assert ask(database.url.replace("mysql", scheme, 1), tmp_path) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "mysql+pymysql://m%40rt:p%40ss@db:3306/re%20tail?ssl_ca=x",
            "mysql://m@rt@db:3306/re tail",
        ),
        ("postgresql+psycopg://mart@[::1]/retail", "postgresql://mart@[::1]/retail"),
        ("sqlite:////data/r%C3%A9tail.db", "sqlite:////data/rétail.db"),
        ("sqlite:///file:%2Fdata%2Fshop.db?mode=ro&uri=true", "sqlite:////data/shop.db"),
    ],
)
def test_a_url_is_shown_as_people_write_it(url: str, shown: str) -> None:
    """No driver, no password, no parameters, no percent signs."""
    assert shown_url(make_url(url)) == shown


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("@@character_set_client", "utf8mb4"),
        ("@@time_zone", "+00:00"),
        ("@@innodb_lock_wait_timeout", 20),
        ("@@autocommit", 0),
        ("@@sql_mode LIKE '%STRICT_ALL_TABLES%'", 1),
        ("@@sql_mode LIKE '%ANSI_QUOTES%'", 0),
    ],
)
def test_sessions_are_alike_on_every_server(
    mariadb: DatabaseServer, database: Database, tmp_path: Path, setting: str, value: object
) -> None:
    """Whatever the server's own settings."""
    query = f"SELECT {setting}".replace("%", "%%")
    if not mariadb.is_ours:
        assert ask(database.url, tmp_path, query) == value
        return
    with mariadb.setting(sql_mode="ANSI_QUOTES", time_zone="+05:00", autocommit=1):
        assert ask(database.url, tmp_path, query) == value


def test_a_commit_to_sqlite_is_on_the_disk(tmp_path: Path) -> None:
    """NORMAL, usual with this journal, syncs later: a power cut would take the last commits."""
    url = "sqlite:///retail.db"
    assert ask(url, tmp_path, "PRAGMA journal_mode") == "wal"
    assert ask(url, tmp_path, "PRAGMA synchronous") == 2  # FULL


def test_transactions_see_what_others_committed(engine: Engine, database: Database) -> None:
    """READ COMMITTED: the ledger's questions are answered with the newest state."""
    database.execute("CREATE TABLE t (id INT)")
    with engine.connect() as connection:
        count = "SELECT COUNT(*) FROM t"
        assert connection.exec_driver_sql(count).scalar() == 0
        database.execute("INSERT INTO t VALUES (1)")
        assert connection.exec_driver_sql(count).scalar() == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"mysql:/{_CANARY}@host", "no database URL"),
        (f"mysql://u:{_CANARY}@host:port/db", "no database URL"),
        (f"mysql://u:{_CANARY}@host", "names no database"),
        (f"mysql://u:{_CANARY}@host/db?sslca=x", "'sslca' is not known"),
        (f"mysql://u:{_CANARY}@host/db?charset=latin1", "utf8mb4"),
        (f"mysql://u:{_CANARY}@host/db?read_timeout=soon", "number of seconds"),
        (f"mysql://u:{_CANARY}@host/db?ssl_ca=none.pem", "cannot read the certificates"),
        (f"oracle://u:{_CANARY}@host/db?x={_CANARY}", "only these are supported: SQLite files"),
        (f"mysql+mysqldb://u:{_CANARY}@host/db", "only these are supported: SQLite files"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(
    tmp_path: Path, url: str, words: str
) -> None:
    """Neither the message nor its causes show it."""
    with pytest.raises(SettingsError, match=words) as caught:
        open_database(url, tmp_path)
    assert _CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_password_is_in_nothing_that_is_shown(tmp_path: Path) -> None:
    """Not in the engine, its URL, its pool or its address."""
    engine = open_database(f"mysql://u:{_CANARY}@127.0.0.1/db", tmp_path)
    shown = [engine, engine.url, engine.pool, engine.pool.__dict__, address_of(engine)]
    texts = [f"{thing!r} {thing}" for thing in shown] + [engine.url.render_as_string(False)]
    assert _CANARY not in " ".join(texts)


def test_without_the_driver_the_cure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain installation knows no MySQL; the error says how it learns it."""
    for name in [name for name in sys.modules if name.startswith(("pymysql", "retailmart"))]:
        if name.startswith("pymysql") or name.endswith("infile"):
            monkeypatch.delitem(sys.modules, name)
    import retailmart.database.mysql

    monkeypatch.delattr(retailmart.database.mysql, "infile", raising=False)
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(SettingsError, match="not installed") as caught:
        open_database("mysql://u@127.0.0.1/db", tmp_path)
    assert "pip install '.[mysql]'" in str(caught.value)


# TLS


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        ("mysql://u@127.0.0.1/db", False),
        ("mysql://u@127.8.9.1/db", False),
        ("mysql://u@[::1]/db", False),
        ("mysql://u@localhost/db", False),
        ("mysql://u@/db?unix_socket=/tmp/s", False),
        ("mysql://u@db.example.com/db", True),
        ("mysql://u@10.0.0.1/db", True),
        ("mysql://u@localhost.example.com/db", True),
        ("mysql://u@db.example.com/db?ssl_disabled=true", False),
        ("mysql://u@db.example.com/db?ssl_disabled=false", True),
    ],
)
def test_tls_with_a_verified_name_is_the_default_elsewhere(
    tmp_path: Path, url: str, verified: bool
) -> None:
    """Only this machine itself is spoken to without it, or where the URL says so."""
    context = address_of(open_database(url, tmp_path)).verified
    assert (context is not None) == verified
    if context is not None:
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED


def ours(server: DatabaseServer) -> MariaDB:
    """The server, where it has a certificate of our making."""
    server.require_ours("needs a certificate of its own making")
    assert isinstance(server, MariaDB)
    return server


def test_a_verified_server_is_spoken_to_in_secret(
    mariadb: DatabaseServer, database: Database, tmp_path: Path
) -> None:
    """The authority of the URL signed it, for this host name."""
    url = f"{database.at(host='localhost').url}?ssl_ca={ours(mariadb).ca}"
    status = "SELECT variable_value FROM information_schema.session_status"
    assert ask(url, tmp_path, f"{status} WHERE variable_name = 'Ssl_cipher'")


def test_a_certificate_for_another_name_is_refused(
    mariadb: DatabaseServer, database: Database, tmp_path: Path
) -> None:
    """Even if the right authority signed it; the error names the fix."""
    url = f"{database.url}?ssl_ca={ours(mariadb).ca}"
    with pytest.raises(RetailmartError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        ask(url, tmp_path)
    assert not isinstance(caught.value, Unavailable)
    assert "ssl_ca" in str(caught.value)


def test_a_certificate_of_another_authority_is_refused(
    mariadb: DatabaseServer, database: Database, tmp_path: Path
) -> None:
    """Anybody can sign one for this name."""
    ours(mariadb)
    stranger = make_certificates(tmp_path / "stranger").ca
    with pytest.raises(RetailmartError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(f"{database.at(host='localhost').url}?ssl_ca={stranger}", tmp_path)


def test_a_server_without_tls_is_refused_where_tls_is_due(
    tmp_path: Path, mariadb: DatabaseServer
) -> None:
    """Nobody in between can take it away."""
    ca = ours(mariadb).ca
    with closing(MariaDB(tmp_path / "plain", tls=False)) as plain:
        plain.start()
        database = plain.database()
        assert ask(database.url, tmp_path) == 1
        with pytest.raises(RetailmartError, match="SSL is required"):
            ask(f"{database.url}?ssl_ca={ca}", tmp_path)


# errors


def test_a_refused_password_is_told_without_it(database: Database, tmp_path: Path) -> None:
    """With where it came from and what to look at, and without the account's name."""
    url = database.url.replace(database.password, _CANARY)
    with pytest.raises(RetailmartError, match="Access denied for this account") as caught:
        ask(url, tmp_path)
    assert "Check user and password" in str(caught.value)
    assert _CANARY not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_database_is_told(database: Database, tmp_path: Path) -> None:
    """An account sees its own; another's name is refused or unknown."""
    with pytest.raises(RetailmartError, match=r"(?i)denied|unknown database") as caught:
        ask(f"{database.url}_not", tmp_path)
    assert caught.value.hint


def test_a_server_that_is_not_there_may_be_there_later(tmp_path: Path) -> None:
    """Unavailable: the run is worth another try."""
    with pytest.raises(Unavailable, match="Can't connect"):
        ask(f"mysql://u:{_CANARY}@127.0.0.1:{free_port()}/db", tmp_path)


def test_a_server_that_breaks_off_may_be_back_later(
    engine: Engine, database: Database, database_proxy: TcpProxy, tmp_path: Path
) -> None:
    """In the middle of a transaction, and the next connection works."""
    through = open_database(database.at(database_proxy.port).url, tmp_path)
    with pytest.raises(Unavailable), translate_errors(), through.begin() as connection:  # noqa: PT012
        connection.exec_driver_sql("SELECT 1")
        database_proxy.cut()
        connection.exec_driver_sql("SELECT 1")
    with translate_errors(), through.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    through.dispose()


def test_a_server_that_says_nothing_is_given_up(
    database: Database, database_proxy: TcpProxy, tmp_path: Path
) -> None:
    """After the time the URL allows."""
    database_proxy.hang()
    url = f"{database.at(database_proxy.port).url}?connect_timeout=1&read_timeout=1"
    with pytest.raises(Unavailable):
        ask(url, tmp_path)
    database_proxy.resume()


def test_a_deadlock_is_worth_another_try(engine: Engine, database: Database) -> None:
    """So is a lock that was waited for in vain."""
    database.execute("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with database.connect() as other, other.cursor() as cursor:
        cursor.execute("UPDATE t SET id = 2")
        with (  # noqa: PT012
            pytest.raises(Unavailable, match="1205"),
            translate_errors(),
            engine.begin() as connection,
        ):
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
            connection.exec_driver_sql("UPDATE t SET id = 3")


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (1213, Unavailable, "Run again"),
        (2013, Unavailable, "Run again"),
        (1040, Unavailable, "Run again"),
        (1053, Unavailable, "Run again"),
        (1114, RetailmartError, "Make room"),
        (1021, RetailmartError, "Make room"),
        (28, RetailmartError, "Make room"),
        (1290, RetailmartError, "takes no writes"),
        (1044, RetailmartError, "Grant"),
        (1142, RetailmartError, "Grant"),
    ],
)
def test_each_error_has_its_fix(code: int, kind: type[RetailmartError], hint: str) -> None:
    """What passes by itself is Unavailable; what does not says what to do."""
    said = pymysql.err.OperationalError(code, "the words")
    with pytest.raises(RetailmartError) as caught, translate_errors("the shop's database"):
        raise OperationalError("UPDATE t", {"secret": _CANARY}, said)
    assert isinstance(caught.value, Unavailable) == (kind is Unavailable)
    assert caught.value.message == f"the shop's database: the words ({code})"
    assert hint in str(caught.value)


def test_other_errors_pass_as_they_are() -> None:
    """Only a database's errors are told in its words."""
    with pytest.raises(KeyError), translate_errors():
        raise KeyError("x")
    with pytest.raises(SettingsError), translate_errors():
        raise SettingsError(["x"])


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """SQLite's words, and where to look."""
    (tmp_path / "retail.db").write_text("no database\n" * 1000)
    with pytest.raises(RetailmartError, match="not a database") as caught:
        ask("sqlite:///retail.db", tmp_path)
    assert "retailmart.yml" in str(caught.value)


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """As where a folder has its name; with the fix."""
    (tmp_path / "retail.db").mkdir()
    with pytest.raises(RetailmartError, match="unable to open") as caught:
        ask("sqlite:///retail.db", tmp_path)
    assert caught.value.hint
