"""The services themselves: they start, they die, and the faults asked for really happen."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.services.mariadb import GIVEN, Database, DatabaseServer, MariaDB, open_server
from tests.support.services.process import HOST
from tests.support.services.proxy import Fault, MySQLProxy, S3Faults
from tests.support.services.s3 import REGION, OneAtATime, S3Bucket, S3Server

LOST = (pymysql.err.OperationalError, pymysql.err.InterfaceError)
FAILED = (BotoCoreError, ClientError)


# The database server


def test_each_database_is_empty_and_alone(mariadb: DatabaseServer) -> None:
    """An account sees its own database and no other; what one test writes, no other finds."""
    mariadb.require_ours("looks at the rights of an account of its own")
    one, two = mariadb.database(), mariadb.database()
    one.execute("CREATE TABLE t (a INT)")
    assert two.query("SHOW TABLES") == []
    assert {name for (name,) in two.query("SHOW DATABASES")} == {"information_schema", two.name}
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        two.query(f"SELECT * FROM {one.name}.t")
    one.drop()
    two.drop()
    assert mariadb.ask(f"SHOW DATABASES LIKE '{one.name}'") == []


def test_grants_are_those_asked_for(mariadb: DatabaseServer) -> None:
    """An account may be made with too few rights, and with any password."""
    database = mariadb.database(grants="SELECT", password="p@ss:w/ör%d'#")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        database.execute("CREATE TABLE t (a INT)")
    assert database.query("SELECT 1") == [(1,)]
    assert "p%40ss%3Aw%2F" in database.url
    database.drop()


def test_a_commit_survives_a_kill(mariadb: DatabaseServer, database: Database) -> None:
    """What was committed is there after SIGKILL and a start on the same port; the rest is not."""
    mariadb.require_ours("kills the server")
    port = mariadb.port
    database.execute("CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)")
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (2)")
        mariadb.kill()
        with pytest.raises(LOST):
            connection.commit()
    mariadb.start()
    assert mariadb.port == port
    assert database.query("SELECT a FROM t") == [(1,)]
    assert mariadb.ask("SELECT @@innodb_flush_log_at_trx_commit") == [(1,)]


def test_a_server_may_be_started_from_any_thread(
    mariadb: DatabaseServer, database: Database
) -> None:
    """The thread that restarted the server may end; the server stays."""
    mariadb.require_ours("restarts the server")
    thread = threading.Thread(target=mariadb.restart)
    thread.start()
    thread.join()
    assert database.query("SELECT SLEEP(0.2)") == [(0,)]  # the kernel's signal is not instant


def test_the_name_in_the_certificate_counts(mariadb: DatabaseServer, database: Database) -> None:
    """By the name localhost the server verifies, by its number or another authority it doesn't."""
    mariadb.require_ours("knows the server's authority")
    assert isinstance(mariadb, MariaDB)
    assert mariadb.certificates
    context = mariadb.certificates.context()
    with database.at(host="localhost").connect(ssl=context) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1]
    with pytest.raises(pymysql.err.OperationalError, match="IP address mismatch"):
        database.at(host=HOST).connect(ssl=context)
    with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        database.at(host="localhost").connect(ssl=ssl.create_default_context())


def test_settings_come_back(mariadb: DatabaseServer, database: Database, tmp_path: Path) -> None:
    """LOAD DATA LOCAL works, can be switched off, and is back after that."""
    mariadb.require_ours("changes the server's settings")
    file = tmp_path / "rows.csv"
    file.write_text("1\n2\n")
    database.execute("CREATE TABLE t (a INT)")

    def load() -> int:
        with database.connect(local_infile=True, autocommit=True) as connection:
            rows: int = connection.cursor().execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE t")
            return rows

    assert load() == 2
    with mariadb.setting(local_infile=0), pytest.raises(pymysql.err.MySQLError):
        load()
    assert load() == 2


def test_a_given_server_is_used_and_left_alone(
    mariadb: DatabaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named server gets databases with names of their own, and is never stopped."""
    mariadb.require_ours("plays a given server")
    account = mariadb.database()
    with mariadb.admin() as connection:
        connection.cursor().execute(f"GRANT ALL PRIVILEGES ON *.* TO `{account.user}`@`%`")
    monkeypatch.setenv(GIVEN, account.url)
    given = open_server(tmp_path)
    database = given.database()
    assert (database.user, database.port) == (account.user, mariadb.port)
    database.execute("CREATE TABLE t (a INT)")
    with pytest.raises(pytest.skip.Exception, match="stops the server"):
        given.stop()
    database.drop()
    given.close()
    assert account.query(f"SHOW DATABASES LIKE '{database.name}'") == []
    assert account.query("SELECT 1") == [(1,)]
    account.drop()


def test_a_missing_server_is_a_failure_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without mariadbd, and without the right to install it, tests fail and say what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.support.services.mariadb.SBIN", ())
    with pytest.raises(pytest.fail.Exception, match="apt-get install mariadb-server"):
        MariaDB(tmp_path / "db")


def test_servers_die_with_the_tests(tmp_path: Path) -> None:
    """A killed test process leaves no server behind."""
    program = (
        "import sys, pathlib; from tests.support.services.mariadb import MariaDB\n"
        "from tests.support.services.s3 import S3Server\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "database, s3 = MariaDB(folder / 'db', tls=False), S3Server(folder)\n"
        "database.start(); s3.start()\n"
        "print(database.pid, s3.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as tests:
        assert tests.stdout
        servers = [os.pidfd_open(int(pid)) for pid in tests.stdout.readline().split()]
        os.kill(tests.pid, signal.SIGKILL)
    alive = [not select.select([server], [], [], 20)[0] for server in servers]
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(server, signal.SIGKILL)
        os.close(server)
    assert alive == [False, False]


# The way to the database


@pytest.fixture
def table(database: Database) -> Database:
    """A database with an empty table t(a)."""
    database.execute("CREATE TABLE t (a INT)")
    return database


def test_a_reply_is_lost_and_the_commit_stands(table: Database, database_proxy: MySQLProxy) -> None:
    """The client sees a broken connection, the server has committed."""
    with table.through(database_proxy).connect() as connection:
        connection.cursor().execute("INSERT INTO t VALUES (1)")
        trap = database_proxy.drop_after_request(b"COMMIT")
        with pytest.raises(LOST):
            connection.commit()
    assert trap.wait()
    assert table.query("SELECT a FROM t") == [(1,)]


def test_a_request_is_lost_and_nothing_is_committed(
    table: Database, database_proxy: MySQLProxy
) -> None:
    """To the client it looks the same; the server has rolled back. Earlier commits passed."""
    with table.through(database_proxy).connect() as connection:
        trap = database_proxy.drop_request(b"COMMIT", skip=1)
        for value in (1, 2):
            connection.cursor().execute(f"INSERT INTO t VALUES ({value})")
            if value == 1:
                connection.commit()
        with pytest.raises(LOST):
            connection.commit()
    assert trap.wait()
    assert table.query("SELECT a FROM t") == [(1,)]


def test_connections_are_cut_and_new_ones_work(table: Database, database_proxy: MySQLProxy) -> None:
    """A reset hits what is open, and only that."""
    through = table.through(database_proxy)
    with through.connect() as connection:
        database_proxy.cut()
        with pytest.raises(LOST):
            connection.cursor().execute("SELECT 1")
    assert through.query("SELECT 1") == [(1,)]
    database_proxy.refuse()
    with pytest.raises(LOST):
        through.connect()
    database_proxy.resume()
    assert through.query("SELECT 1") == [(1,)]


def test_a_hanging_way_answers_nobody(table: Database, database_proxy: MySQLProxy) -> None:
    """Connections are taken and stay silent; after that, all goes on."""
    through = table.through(database_proxy)
    database_proxy.hang()
    with pytest.raises(LOST, match="timed out"):
        through.connect(connect_timeout=1, read_timeout=1)
    database_proxy.resume()
    with through.connect() as connection:
        cursor = connection.cursor()
        database_proxy.hang()
        threading.Timer(0.2, database_proxy.resume).start()
        cursor.execute("SELECT REPEAT('x', 5000000)")
        assert len(cursor.fetchone()[0]) == 5_000_000


def test_tls_can_be_taken_away_on_the_way(table: Database, database_proxy: MySQLProxy) -> None:
    """A client that would rather have TLS goes on without; one that insists refuses."""
    through = table.through(database_proxy)
    assert through.query("SHOW STATUS LIKE 'Ssl_cipher'") == [("Ssl_cipher", "")]
    with pytest.raises(pymysql.err.OperationalError, match="SSL"):
        through.connect(ssl=ssl.create_default_context())


# The S3 server


def test_objects_come_back(s3: S3Server, bucket: S3Bucket) -> None:
    """Content, listing in pages, absence and removal."""
    content = os.urandom(3_000_000)
    bucket.put("a/big", content)
    assert bucket.get("a/big") == content
    for number in range(5):
        bucket.put(f"many/{number}", b"")
    page = s3.client.list_objects_v2(Bucket=bucket.name, Prefix="many/", MaxKeys=3)
    assert (len(page["Contents"]), page["IsTruncated"]) == (3, True)
    assert bucket.keys("many/") == [f"many/{number}" for number in range(5)]
    assert bucket.keys("a/") == ["a/big"]
    bucket.remove("a/big")
    with pytest.raises(KeyError):
        bucket.get("a/big")


def test_one_conditional_put_wins(s3: S3Server, bucket: S3Bucket) -> None:
    """Of eight writers that want to be the first, exactly one is, and its content stays."""
    together = threading.Barrier(8)

    def write(key: str, number: int) -> str:
        together.wait()
        try:
            s3.client.put_object(Bucket=bucket.name, Key=key, Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(10):
            key = f"log/{round_}"
            said = list(threads.map(write, [key] * 8, range(8)))
            assert sorted(said) == ["PreconditionFailed"] * 7 + ["won"]
            assert bucket.get(key) == b"%d" % said.index("won")


def test_requests_take_turns() -> None:
    """No request looks or writes while another does; a client that sends slowly keeps nobody."""
    inside = threading.Event()
    alone: list[bool] = []

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        alone.append(not inside.is_set())
        inside.set()
        threading.Event().wait(0.05)  # long enough for another to come in, were it let in
        inside.clear()
        return [environ["wsgi.input"].read()]

    turns = OneAtATime(app)
    slow, sender = socket.socketpair()
    with slow, sender, slow.makefile("rb") as body, ThreadPoolExecutor(3) as threads:
        waiting = threads.submit(turns, {"wsgi.input": body, "CONTENT_LENGTH": "1"}, print)
        quick = [
            threads.submit(turns, {"wsgi.input": io.BytesIO(b"ab"), "CONTENT_LENGTH": "2"}, print)
            for _ in range(4)
        ]
        assert [answer.result(10) for answer in quick] == [[b"ab"]] * 4
        sender.sendall(b"c")
        assert waiting.result(10) == [b"c"]
    assert alone == [True] * 5


def test_a_put_that_breaks_off_leaves_nothing(s3: S3Server, bucket: S3Bucket) -> None:
    """A client that dies while it sends has written no object."""
    head = f"PUT /{bucket.name}/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((HOST, s3.port), 10) as connection:
        connection.sendall(head.encode() + b"x" * 50)
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
    assert bucket.keys() == []


def test_the_products_store_works_with_it(s3: S3Server, bucket: S3Bucket) -> None:
    """Through obstore: multipart, and creation that refuses to overwrite."""
    obstore = pytest.importorskip("obstore")
    store = store_at(s3, bucket, s3.endpoint)
    content = os.urandom(11_000_000)
    obstore.put(store, "big", content, use_multipart=True, chunk_size=5 * 1024 * 1024)
    assert bucket.get("big") == content
    assert bucket.uploads() == []
    obstore.put(store, "once", b"1", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "once", b"2", mode="create")
    assert bucket.get("once") == b"1"


def store_at(s3: S3Server, bucket: S3Bucket, endpoint: str) -> Any:
    """An obstore S3Store of the bucket."""
    from obstore.store import S3Store

    return S3Store(
        bucket.name,
        endpoint=endpoint,
        region=REGION,
        access_key_id=s3.access_key,
        secret_access_key=s3.secret_key,
        client_options={"allow_http": True, "timeout": "5s"},
    )


# The way to S3


@pytest.fixture
def once(s3: S3Server, s3_faults: S3Faults) -> Iterator[Any]:
    """A client through the faults that never tries twice."""
    client = s3.client_at(s3_faults.endpoint, retries=1)
    yield client
    client.close()


def test_without_faults_nothing_changes(once: Any, s3_faults: S3Faults, bucket: S3Bucket) -> None:
    """Large bodies, absent keys and kept connections pass as they are."""
    content = os.urandom(8_000_000)
    for number in range(3):
        once.put_object(Bucket=bucket.name, Key=f"k {number}+é", Body=content)
    assert once.get_object(Bucket=bucket.name, Key="k 2+é")["Body"].read() == content
    assert once.head_object(Bucket=bucket.name, Key="k 2+é")["ContentLength"] == len(content)
    with pytest.raises(ClientError, match="NoSuchKey"):
        once.get_object(Bucket=bucket.name, Key="none")
    assert len(bucket.keys()) == 3
    assert s3_faults.counts == {"requests": 6}
    assert s3_faults.connections == 1


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        (Fault.ERROR_500, False),
        (Fault.SLOW_DOWN, False),
        (Fault.DROP_BEFORE, False),
        (Fault.DROP_AFTER, True),
        (Fault.HANG, False),
        (Fault.HANG_AFTER, True),
    ],
)
def test_a_put_fails_in_the_way_asked_for(
    fault: Fault, effect: bool, once: Any, s3_faults: S3Faults, bucket: S3Bucket
) -> None:
    """The client sees a failure each time; whether the object is there, the fault says."""
    s3_faults.hang_seconds = 0.3
    planned = s3_faults.inject(fault, "PUT", r"/b\?|/b$", nth=2)
    once.put_object(Bucket=bucket.name, Key="a", Body=b"1")
    once.put_object(Bucket=bucket.name, Key="b", Body=b"1")
    begun = time.monotonic()
    with pytest.raises(FAILED):
        once.put_object(Bucket=bucket.name, Key="b", Body=b"2" * 3_000_000)
    assert (time.monotonic() - begun >= 0.3) == (fault in (Fault.HANG, Fault.HANG_AFTER))
    assert planned.wait()
    assert bucket.get("b") == (b"2" * 3_000_000 if effect else b"1")
    assert s3_faults.counts == {"requests": 3, fault.value: 1}
    once.put_object(Bucket=bucket.name, Key="b", Body=b"3")
    assert bucket.get("b") == b"3"


def test_a_body_ends_too_soon(once: Any, s3_faults: S3Faults, bucket: S3Bucket) -> None:
    """The head promises all, half of it comes."""
    bucket.put("a", b"x" * 1_000_000)
    s3_faults.inject(Fault.SHORT_BODY, pattern="/a")
    answer = once.get_object(Bucket=bucket.name, Key="a")
    assert answer["ContentLength"] == 1_000_000
    with pytest.raises(BotoCoreError):
        answer["Body"].read()
    assert s3_faults.faults == 1


def test_a_multipart_upload_breaks(once: Any, s3_faults: S3Faults, bucket: S3Bucket) -> None:
    """A part is cut off; a completion says 200 and failed. The object is not there till the end."""
    where = {"Bucket": bucket.name, "Key": "m"}
    upload = {**where, "UploadId": once.create_multipart_upload(**where)["UploadId"]}
    part = b"x" * 5_300_000
    s3_faults.inject(Fault.BROKEN_MULTIPART, "PUT")
    with pytest.raises(BotoCoreError):
        once.upload_part(**upload, PartNumber=1, Body=part)
    parts = {
        "Parts": [
            {"PartNumber": 1, "ETag": once.upload_part(**upload, PartNumber=1, Body=part)["ETag"]}
        ]
    }
    s3_faults.inject(Fault.BROKEN_MULTIPART, "POST")
    with pytest.raises(ClientError, match="InternalError"):
        once.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert bucket.keys() == []
    assert bucket.uploads() == ["m"]
    once.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert bucket.get("m") == part
    assert s3_faults.counts["broken_multipart"] == 2


def test_a_share_fails_and_retries_get_through(
    s3: S3Server, s3_faults: S3Faults, bucket: S3Bucket
) -> None:
    """With 30 % of requests failing in all ways, a store that retries reads and writes all."""
    obstore = pytest.importorskip("obstore")
    s3_faults.hang_seconds = 0.05
    store = store_at(s3, bucket, s3_faults.endpoint)
    s3_faults.on(0.3, seed=3)
    for number in range(60):
        obstore.put(store, f"k{number}", b"%d" % number, use_multipart=False)
    s3_faults.off()
    met = s3_faults.counts
    assert [bucket.get(f"k{number}") for number in range(60)] == [b"%d" % n for n in range(60)]
    assert met["requests"] > 70
    assert {Fault.ERROR_500, Fault.SLOW_DOWN, Fault.DROP_BEFORE, Fault.DROP_AFTER} <= set(met)
    obstore.get(store, "k1").bytes()
    assert s3_faults.counts["requests"] == met["requests"] + 1


def test_one_seed_is_one_story(s3: S3Server, bucket: S3Bucket) -> None:
    """The same requests meet the same faults under the same seed, and others under another."""

    def story(seed: int) -> list[Fault | None]:
        with S3Faults(s3.port, hang_seconds=0.01) as faults:
            faults.on(0.5, seed=seed, kinds=[Fault.ERROR_500, Fault.SLOW_DOWN])
            client = s3.client_at(faults.endpoint, retries=1)
            for _ in range(30):
                with contextlib.suppress(ClientError):
                    client.head_bucket(Bucket=bucket.name)
            client.close()
            return [seen.fault for seen in faults.seen]

    first = story(1)
    assert first == story(1)
    assert first != story(2)
    assert 5 < Counter(first)[None] < 25


def test_a_killed_s3_server_is_back_for_the_next_test(tmp_path: Path) -> None:
    """A server that died comes back on its port, empty, and a client through faults sees it."""
    server = S3Server(tmp_path)
    server.start()
    bucket = server.look(server.bucket())
    with S3Faults(server.port) as faults:
        client = server.client_at(faults.endpoint, retries=1)
        client.head_bucket(Bucket=bucket.name)
        server.kill()
        with pytest.raises(BotoCoreError):
            client.head_bucket(Bucket=bucket.name)
        again = server.bucket(bucket.name)
        client.head_bucket(Bucket=again)
        client.close()
    assert bucket.keys() == []
    server.close()
