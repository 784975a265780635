"""A watch runs when there is something to do, and only then; it outlives what goes wrong."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from retailmart.errors import RetailmartError, SettingsError
from retailmart.operations.watch import WatchReport
from retailmart.operations.watch.arrivals import Arrivals
from retailmart.operations.watch.health import Health, HealthServer
from retailmart.project.settings import seconds_of
from retailmart.report import RunReport
from retailmart.stopping import Stop
from retailmart.storage.entries import Entry
from retailmart.storage.local import LocalFolder
from retailmart.storage.s3 import S3Access, S3Folder
from tests.support.amount import tries
from tests.support.services.listener import Listener
from tests.support.services.s3 import S3Bucket
from tests.support.shop import Called, Shop, sale

PATIENCE = 60.0
QUICK = "watch: {every: 1h, poll: 100ms, settle: 300ms}\n"


@pytest.fixture
def marts() -> tuple[str, ...]:
    """One mart is enough to see a run work."""
    return ("sales_mart",)


@dataclass
class Seen:
    """An observer that remembers."""

    messages: list[str] = field(default_factory=list)
    reports: list[RunReport] = field(default_factory=list)
    errors: list[tuple[RetailmartError, float]] = field(default_factory=list)
    mistakes: list[SettingsError] = field(default_factory=list)

    def message(self, message: str) -> None:
        self.messages.append(message)

    def ran(self, report: RunReport) -> None:
        self.reports.append(report)

    def failed(self, error: RetailmartError, pause: float) -> None:
        self.errors.append((error, pause))

    def kept(self, error: SettingsError) -> None:
        self.mistakes.append(error)


@dataclass
class Watching:
    """A watch in a thread."""

    seen: Seen
    reload: threading.Event
    result: list[WatchReport | BaseException] = field(default_factory=list)

    def until(self, wanted: Callable[[Seen], bool]) -> Seen:
        """Wait until the observer has seen what is wanted."""
        end = time.monotonic() + PATIENCE
        while not wanted(self.seen):
            assert time.monotonic() < end, self.seen
            assert not self.result, self.result
            time.sleep(0.02)
        return self.seen


@contextmanager
def watching(shop: Shop, settings: str = QUICK) -> Iterator[Watching]:
    """A watch of this shop in another thread, stopped at the end."""
    with (shop.folder / "retailmart.yml").open("a") as file:
        file.write(settings)
    one, stop = Watching(Seen(), threading.Event()), Stop()

    def work() -> None:
        try:
            with stop:
                one.result.append(shop.open().watch(one.seen, reload=one.reload))
        except BaseException as error:
            one.result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield one
    finally:
        stop.request()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.every_store
def test_what_lands_is_taken_in_and_nothing_is_done_without_a_reason(shop: Shop) -> None:
    """One run at the start, one for what landed together, none for what it archived."""
    with watching(shop) as one:
        one.until(lambda seen: len(seen.reports) == 1)
        shop.sales("sales_1.csv", [sale()])
        shop.sales("sales_2.csv", [sale(2)])
        seen = one.until(lambda seen: len(seen.reports) == 2)
        assert seen.reports[1].count("loaded") == 2
        time.sleep(1.5)
        assert len(seen.reports) == 2
        shop.sales("sales_3.csv", [sale(3)])
        one.until(lambda seen: len(seen.reports) == 3)
        assert seen.errors == []
    assert one.result == [WatchReport(3, 0)]
    assert shop.backend.landed() == []


def test_a_half_upload_waits_and_is_taken_in_when_it_is_whole(shop: Shop) -> None:
    """Neither a name that says so nor a file that grows is taken for whole."""
    with watching(shop) as one:
        one.until(lambda seen: len(seen.reports) == 1)
        whole = shop.folder / "landing" / "sales_1.csv"
        half = shop.folder / "landing" / "sales_1.csv.part"
        shop.sales("sales_1.csv.part", [sale()])
        growing = shop.folder / "landing" / "sales_2.csv"
        shop.sales("sales_2.csv", [sale(2)])
        for _ in range(10):
            with growing.open("a") as file:
                file.write(sale(3) + "\n")
            time.sleep(0.15)
        seen = one.until(lambda seen: len(seen.reports) == 2)
        assert seen.reports[1].rows("loaded") == 11
        half.rename(whole)
        one.until(lambda seen: len(seen.reports) == 3)
        assert seen.reports[2].rows("loaded") == 1


def test_time_alone_brings_a_run(shop: Shop) -> None:
    """Tables of the shop change without a file: they are looked at every so often."""
    with watching(shop, "watch: {every: 1s, poll: 100ms, settle: 100ms}\n") as one:
        began = time.monotonic()
        one.until(lambda seen: len(seen.reports) == 3)
        assert time.monotonic() - began >= 2
        assert all(report.nothing_to_do for report in one.seen.reports[1:])


def test_the_project_s_files_are_read_again_and_mistakes_change_nothing(
    shop: Shop, listener: Listener
) -> None:
    """A good mart is built at once; with a bad one the last good files stay in use, told once.

    An alert tells it, too, and is over when the mistake is, not when a run goes well.
    """
    shop.sales("sales_1.csv", [sale()])
    with watching(shop, f"{QUICK}alerts: {{targets: ['{listener.url}/alert']}}\n") as one:
        one.until(lambda seen: len(seen.reports) == 1)
        mart = shop.folder / "marts" / "per_store.sql"
        good = "-- refresh: full\nSELECT store_id, count(*) AS n FROM sales GROUP BY store_id\n"
        mart.write_text(good)
        one.until(lambda seen: len(seen.reports) == 2)
        assert shop.mart("per_store") == [(1, 1)]
        mart.write_text("-- refresh: sometimes\nSELECT 1\n")
        seen = one.until(lambda seen: bool(seen.mistakes))
        assert "marts/per_store.sql" in str(seen.mistakes[0])
        shop.sales("sales_2.csv", [sale(2)])
        one.until(lambda seen: len(seen.reports) == 3)  # by the last good files
        time.sleep(1)
        assert len(seen.mistakes) == 1
        assert listener.alerts() == [("opened", "failure")]
        mart.write_text(good)
        one.until(lambda seen: len(seen.reports) == 4)
        assert listener.alerts() == [("opened", "failure"), ("closed", "failure")]
        assert shop.mart("per_store") == [(1, 2)]
        assert "the project's files were read again" in seen.messages
        one.reload.set()
        one.until(lambda seen: len(seen.reports) == 5)


def test_a_mistake_that_only_a_run_finds_is_taken_back(shop: Shop, listener: Listener) -> None:
    """A column that is not there: files land meanwhile, and are taken in by the last good files."""
    shop.sales("sales_1.csv", [sale()])
    with watching(shop, f"{QUICK}alerts: {{targets: ['{listener.url}/alert']}}\n") as one:
        one.until(lambda seen: len(seen.reports) == 1)
        mart = shop.folder / "marts" / "per_store.sql"
        mart.write_text("-- refresh: full\nSELECT nope FROM sales\n")
        shop.sales("sales_2.csv", [sale(2)])
        seen = one.until(lambda seen: sum(r.rows("loaded") for r in seen.reports) == 2)
        assert "nope" in str(seen.mistakes[0])
        assert listener.alerts() == [("opened", "failure")]
        mart.write_text("-- refresh: full\nSELECT count(*) AS n FROM sales\n")
        one.until(lambda _: ("closed", "failure") in listener.alerts())
        assert shop.mart("per_store") == [(2,)]
        assert len(seen.mistakes) == 1


def test_a_run_that_is_not_all_done_is_not_ready(shop: Shop, called: Called) -> None:
    """Neither for a probe nor in its figures, until a run that brings something is; code 5."""
    shop.sales("sales_1.csv", [sale()])
    with watching(shop, QUICK.replace("}", ", listen: '127.0.0.1:0'}")) as one:
        one.until(lambda seen: len(seen.reports) == 1)
        port = int(one.seen.messages[0].rpartition(":")[2].partition("/")[0])
        well = json.loads(get(port, "/readyz")[1])["last_success"]
        shop.drop("notes.csv", "of no feed\n")
        one.until(lambda seen: len(seen.reports) == 2)
        one.reload.set()  # a run that finds nothing brings nothing in order
        one.until(lambda seen: len(seen.reports) == 3)
        code, text = get(port, "/readyz")
        assert code == 503
        assert "notes.csv" in json.loads(text)["problems"][0]
        shop.sales("sales_2.csv", [sale(2)])
        one.until(lambda seen: len(seen.reports) == 4)
        code, text = get(port, "/readyz")
        assert code == 200
        assert json.loads(text)["last_success"] > well
    shop.drop("others.csv", "of no feed\n")
    assert called(shop.folder, "watch", "--runs", "1").returncode == 5


def test_a_failure_is_tried_again_later_and_later(shop: Shop, tmp_path: Path) -> None:
    """It is told with its pause; nothing is tried in a loop, and what arrives does not wait."""
    landing = shop.folder / "landing"
    away = landing.rename(tmp_path / "away")
    with watching(shop) as one:
        seen = one.until(lambda seen: bool(seen.errors))
        assert "landing" in str(seen.errors[0][0])
        time.sleep(1)
        assert len(seen.errors) == 1
        away.rename(landing)
        one.until(lambda seen: bool(seen.reports))
        assert [pause for _, pause in seen.errors] == [5.0]
    assert one.result == [WatchReport(2, 1)]


def test_another_run_is_waited_for(shop: Shop) -> None:
    """A person's own run is no failure of the watch."""
    from retailmart.report import Silent
    from retailmart.session import Session

    with Session.open(shop.open().project, Silent()) as session:
        session.ledger.migrate()
        session.acquire_lease()
        with watching(shop) as one:
            seen = one.until(lambda seen: bool(seen.errors))
            assert seen.errors[0][0].exit_code == 4
    assert one.result == [WatchReport(1, 0, seen.errors[0][0], 4)]


def get(port: int, path: str) -> tuple[int, str]:
    """The code and text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_are_served(shop: Shop) -> None:
    """Alive whatever a run says; ready while the last run and the project's files are good."""
    shop.sales("sales_1.csv", [sale()])
    with watching(shop, QUICK.replace("}", ", listen: '127.0.0.1:0'}")) as one:
        one.until(lambda seen: len(seen.reports) == 1)
        port = int(one.seen.messages[0].rpartition(":")[2].partition("/")[0])
        code, text = get(port, "/readyz")
        assert (code, json.loads(text)["problems"]) == (200, [])
        (shop.folder / "feeds" / "sales.yml").write_text("files: 7\n")
        one.until(lambda seen: bool(seen.mistakes))
        code, text = get(port, "/readyz")
        assert code == 503
        assert "feeds/sales.yml" in json.loads(text)["problems"][0]
        assert get(port, "/healthz")[0] == 200
        code, text = get(port, "/metrics")
        assert code == 200
        assert "\nretailmart_watch_ready 0\n" in text
        assert get(port, "/else")[0] == 404


def test_slow_clients_do_not_keep_others_from_the_health_page() -> None:
    """More connections than are served at once are turned away; a place is soon free again."""
    server = HealthServer(("127.0.0.1", 0), Health(10), lambda: "")
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"GET /heal")
            assert get(server.port, "/healthz")[0] == 200
    finally:
        server.close()


def test_a_watch_that_shows_no_sign_is_not_alive() -> None:
    """A run may take long, if it goes on; one that does nothing for `stuck_after` does not live."""
    health = Health(0.05, busy=True)
    assert health.is_alive
    time.sleep(0.1)
    assert not health.is_alive
    health.show_sign()
    assert health.is_alive


def test_an_address_in_use_is_told_with_its_fix(shop: Shop, called: Called) -> None:
    """The watch does not begin without what its settings ask for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"watch.listen=127.0.0.1:{taken.getsockname()[1]}"
        done = called(shop.folder, "watch", "--set", listen, "--runs", "1")
    assert done.returncode == 1
    assert "can't listen on 127.0.0.1" in done.stderr
    assert "Choose another address as `watch: listen` in retailmart.yml" in done.stderr


def test_systemd_is_told(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY once it watches, WATCHDOG while it lives, what it does, and its end."""
    place = f"/tmp/retailmart-notify-{os.getpid()}"  # such a name has a short limit
    told: list[str] = []

    def listen() -> None:  # a few texts may wait, no more
        while "STOPPING=1" not in told:
            told.append(wire.recv(4096).decode())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.settimeout(PATIENCE)
        wire.bind(place)
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            monkeypatch.setenv("NOTIFY_SOCKET", place)
            monkeypatch.setenv("WATCHDOG_USEC", "300000")
            monkeypatch.delenv("WATCHDOG_PID", raising=False)
            assert called(shop.folder, "watch", "--runs", "1").returncode == 0
            listener.join(PATIENCE)
        finally:
            Path(place).unlink()
    assert told[0] == "READY=1\nSTATUS=watching"
    assert "WATCHDOG=1" in told
    assert "STATUS=running: it is time" in told
    assert "STOPPING=1" in told


def test_a_folder_that_never_gets_still_is_taken_in_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file a second for ever would else keep all others waiting."""
    monkeypatch.setattr("retailmart.operations.watch.arrivals._LONGEST_SETTLING", 1.0)
    arrivals = Arrivals(LocalFolder(tmp_path), 0.05, 0.5, 60, lambda: None)
    try:
        end = time.monotonic() + PATIENCE
        count = 0
        while not arrivals.landed():
            (tmp_path / f"{count}.csv").write_text("x")
            count += 1
            arrivals.is_told()
            time.sleep(0.1)
            assert time.monotonic() < end
    finally:
        arrivals.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5min", 300), ("1.5h", 5400), ("250 ms", 0.25), ("1d", 86400)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    """As people write them."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "min", "5 minutes", "-1s", "1m"])
def test_what_is_no_time_is_told(text: str, shop: Shop, called: Called) -> None:
    """With its place, and how to write it."""
    with (shop.folder / "retailmart.yml").open("a") as file:
        file.write(f"watch: {{every: {json.dumps(text)}}}\n")
    done = called(shop.folder, "watch", "--runs", "1")
    assert done.returncode == 2
    assert "watch.every" in done.stderr
    assert "is no time; write it as in 30s, 5min, 2h or 1d" in done.stderr


def test_a_large_bucket_is_listed_behind_the_last_key(
    bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there costs nothing each time; now and then all of it is listed."""
    monkeypatch.setattr("retailmart.operations.watch.arrivals._ONE_PAGE", 2)
    server = bucket.server
    landing = S3Folder(bucket.name, "in", S3Access(server.environment, server.endpoint))
    asked: list[str] = []
    listed = S3Folder.entries_after

    def recorded(folder: S3Folder, key: str) -> list[Entry]:
        asked.append(key)
        return listed(folder, key)

    monkeypatch.setattr(S3Folder, "entries_after", recorded)
    for day in "123":
        bucket.put(f"in/2024-04-0{day}.csv", b"x")
    arrivals = Arrivals(landing, 0, 0, 3600, lambda: None)
    arrivals.landed()
    arrivals.after_run(arrivals.before_run())
    assert arrivals.landed() == 0
    asked.clear()
    bucket.put("in/2024-04-04.csv", b"x")
    assert arrivals.landed() == 1
    assert asked == ["2024-04-03.csv"]
    bucket.put("in/2024-04-00.csv", b"x")  # before the last key: the next whole listing finds it
    arrivals.after_run(arrivals.before_run())
    assert asked[1:] == [""]


def memory() -> int:
    """The resident bytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.long
def test_a_hundred_runs_do_not_grow(shop: Shop) -> None:
    """What a run needs is given back: a watch of months fits where its first day did."""
    opened = shop.open()
    sizes = []
    for number in range(tries(60, 130)):
        shop.sales(f"sales_{number}.csv", [sale(price=f"{number + 1}.00")])
        opened.watch(runs=1)
        sizes.append(memory())
    settled = sizes[len(sizes) // 3]  # allocators and caches have what they need by then
    assert sizes[-1] - settled < 20 << 20, [size >> 20 for size in sizes]
