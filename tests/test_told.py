"""No false success: exit code, ledger, log, metrics, lineage, alerts and ping say the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection

import pytest
from sqlalchemy import update

from retailmart.ledger import tables
from tests.support.monitors import Monitors
from tests.support.services.listener import Listener
from tests.support.shop import Called, Shop, sale

RUN = ("run", "--as-of", "2024-04-01")


@pytest.fixture
def marts() -> Collection[str]:
    """Two marts show all that is of interest here."""
    return ("sales_mart", "sales_team_incentive")


@pytest.fixture
def monitors(shop: Shop, listener: Listener) -> Monitors:
    """All that tells of the shop's runs."""
    return Monitors.of(shop.folder, listener)


def run(shop: Shop, called: Called, monitors: Monitors, *words: str, code: int = 0) -> None:
    """Run a command; all agree about it."""
    monitors.mark()
    result = called(shop.folder, *(words or RUN))
    assert result.returncode == code, result.stderr
    assert monitors.disagreements(code) == []


def test_a_success_and_nothing_to_do(shop: Shop, called: Called, monitors: Monitors) -> None:
    """A run that takes all in, and one that finds nothing new, are successes everywhere."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    run(shop, called, monitors)


def test_a_refused_file(shop: Shop, called: Called, monitors: Monitors, listener: Listener) -> None:
    """A run that could take in no file at all is not a success; one beside a good file is told."""
    shop.drop("notes.csv", "nothing of a feed\n")
    run(shop, called, monitors, code=5)
    assert listener.alerts() == [("opened", "refused")]
    shop.drop("other.csv", "nothing of a feed\n")
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "refused")] * 2
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "refused")] * 2  # once each


def test_a_refused_file_that_is_dismissed(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """It is as closed for figures and alerts as it is for status."""
    shop.drop("notes.csv", "nothing of a feed\n")
    run(shop, called, monitors, code=5)
    opened = shop.open()
    assert [*opened.status().refused.files] == ["notes.csv"]
    assert "retailmart_refused_files 1\n" in opened.metrics()
    opened.quarantine_dismiss("notes.csv", reason="not ours")
    assert not opened.status().refused.files
    assert "retailmart_refused_files 0\n" in opened.metrics()
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "refused"), ("closed", "refused")]


@pytest.mark.every_database
def test_a_gate_that_fails_until_it_is_right(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """A failed gate is a failure everywhere, told once; the next good run tells that it is over."""
    feed = shop.folder / "feeds" / "sales.yml"
    good = feed.read_text()
    feed.write_text(good.replace("action: warn", "action: fail"))
    shop.sales("sales_1.csv", [sale(price="10.00", quantity=2, total="19.00")])
    run(shop, called, monitors, code=3)
    run(shop, called, monitors, code=3)
    assert listener.alerts() == [("opened", "failure")]
    feed.write_text(good)
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "failure"), ("closed", "failure")]


def test_a_mistake_in_the_settings(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """A run that can't begin, because a file has a mistake, is told by all that can be told."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    feed = shop.folder / "feeds" / "sales.yml"
    good = feed.read_text()
    feed.write_text(f"{good}\nno_such_key: 1\n")
    run(shop, called, monitors, code=2)
    run(shop, called, monitors, code=2)
    assert listener.alerts() == [("opened", "failure")]
    feed.write_text(good)
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "failure"), ("closed", "failure")]


@pytest.mark.long
def test_a_database_that_is_away(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """Without a ledger, the file beside it keeps what was told, and the last success stays."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    ledger = shop.folder / "retail.db"
    ledger.rename(ledger.with_suffix(".away"))
    ledger.mkdir()
    run(shop, called, monitors, code=1)
    run(shop, called, monitors, code=1)
    assert listener.alerts() == [("opened", "failure")]
    ledger.rmdir()
    ledger.with_suffix(".away").rename(ledger)
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "failure"), ("closed", "failure")]


def test_a_mart_that_is_held_back(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """A run that holds a mart back has exit code 5 everywhere, and no success."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    mart = shop.folder / "marts" / "broken.sql"
    mart.write_text("-- refresh: full\nSELECT CAST(product_name AS INTEGER) AS n FROM sales\n")
    run(shop, called, monitors, code=5)
    assert listener.alerts() == [("opened", "held")]
    mart.unlink()
    run(shop, called, monitors)
    assert listener.alerts() == [("opened", "held"), ("closed", "held")]


def test_an_undo(shop: Shop, called: Called, monitors: Monitors) -> None:
    """An undo is told as a run is; one that can't be done is a failure."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    run(shop, called, monitors, "undo", "1")
    run(shop, called, monitors, "undo", "1")
    run(shop, called, monitors, "undo", "77", code=1)


def test_a_failure_that_the_ledger_has_is_told_once(
    shop: Shop, called: Called, monitors: Monitors, listener: Listener
) -> None:
    """A run whose project has mistakes can't ask the ledger who knows of them already."""
    path = shop.folder / "marts" / "sales_mart.sql"
    sound = path.read_text()
    broken = sound.replace("SELECT", "SELEKT", 1)
    for text, words, code in (
        (broken, RUN, 2),
        (sound, ("undo", "77"), 1),  # the ledger takes the failure over
        (broken, RUN, 2),
        (sound, RUN, 0),
    ):
        path.write_text(text)
        run(shop, called, monitors, *words, code=code)
    told = [
        (about, alert["subject"])
        for one in listener.at("/alert")
        for about in ("opened", "closed")
        for alert in one.plain[about]
    ]
    assert told.count(("opened", "SettingsError")) == 1
    assert told.count(("closed", "SettingsError")) == 1


def test_a_killed_and_recovered_run(
    shop: Shop, monitors: Monitors, called: Called, listener: Listener
) -> None:
    """A killed run tells no end; the next one says that it was cut off, and finishes its work."""
    shop.sales("sales_1.csv", [sale()])
    monitors.mark()
    killed = subprocess.Popen(
        [sys.executable, "-c", _HANGING, *RUN],
        cwd=shop.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "here\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert monitors.disagreements(None) == []
    run(shop, called, monitors)
    log = (shop.folder / "told" / "run.log").read_text()
    assert '"cut_off": [1]' in log
    assert '"recovered": true' in log
    assert '"eventType": "ABORT"' in (shop.folder / "told" / "lineage.ndjson").read_text()


_HANGING = """
import sys, time
from retailmart.marts import publish
import retailmart.operations.batch as batch
def hang(*_):
    print("here", flush=True)
    time.sleep(60)
batch.publish_all = hang
from retailmart.cli import main
sys.argv[0] = "retailmart"
main()
"""


def test_another_run_has_the_project(shop: Shop, called: Called, monitors: Monitors) -> None:
    """A run that finds another one at work is logged, and tells nothing in its name."""
    from retailmart.report import Silent
    from retailmart.session import Session

    with Session.open(shop.open().project, Silent()) as session:
        session.ledger.migrate()
        session.acquire_lease()
        run(shop, called, monitors, code=4)


def test_the_judge_sees_lies(shop: Shop, called: Called, monitors: Monitors) -> None:
    """What compares the six would see each of them lie."""
    shop.sales("sales_1.csv", [sale()])
    run(shop, called, monitors)
    assert {line.partition(":")[0] for line in monitors.disagreements(1)} >= {
        *("ledger", "log", "metrics", "lineage", "alerts", "ping"),
    }
    with shop.open().ledger() as ledger, ledger.engine.begin() as connection:
        connection.execute(update(tables.runs).values(state="running"))
    assert {line.partition(":")[0] for line in monitors.disagreements(None)} >= {
        *("log", "metrics", "lineage", "ping"),
    }
