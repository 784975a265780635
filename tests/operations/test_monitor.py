"""Who is told of a run neither delays nor fails it."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from retailmart.errors import SettingsError
from retailmart.monitoring.events import Event, RunEnded
from tests.support.monitors import samples
from tests.support.services.listener import Answer, Listener, closed_port
from tests.support.shop import AS_OF, Called, Shop, sale

BOUND = 3.0


@pytest.fixture
def marts() -> Collection[str]:
    """One mart is enough."""
    return ("sales_mart",)


def settle(shop: Shop, text: str) -> None:
    """Add sections to the settings."""
    with (shop.folder / "retailmart.yml").open("a") as file:
        file.write(text)


def tell_all_by_http(shop: Shop, url: str) -> None:
    """Let the shop tell everything that can be told by HTTP, within the bound."""
    settle(
        shop,
        f"notify_within: {BOUND}\nalerts: {{targets: ['{url}/alert']}}\n"
        f"ping: {{url: '{url}/ping'}}\n"
        f"lineage: {{url: '{url}', file: lineage.ndjson}}\nmetrics: {{file: run.prom}}\n"
        "log: {format: json, file: run.log}\n",
    )


def test_a_hanging_target_delays_a_run_by_no_more_than_its_bound(
    shop: Shop, listener: Listener
) -> None:
    """Compared with the same run whose targets answer, as nothing else is different."""
    tell_all_by_http(shop, listener.url)
    shop.sales("sales_1.csv", [sale()])
    shop.run()  # what is imported once is no target's doing
    took = {}
    for number, answer in enumerate((Answer.WELL, Answer.HANGS), 2):
        listener.answer = answer
        shop.sales(f"sales_{number}.csv", [sale(customer=number)])
        shop.drop(f"notes_{number}.csv", "no feed's\n")
        started = time.monotonic()
        report = shop.run()
        took[answer] = time.monotonic() - started
        assert (len(report.not_told) >= 3) == (answer is Answer.HANGS)
    assert took[Answer.HANGS] < took[Answer.WELL] + BOUND + 1


@pytest.mark.parametrize("answer", [Answer.HANGS, Answer.FAILS, Answer.RESETS, None])
def test_a_target_that_does_not_answer_neither_fails_nor_delays_a_run(
    shop: Shop, listener: Listener, answer: Answer | None, called: Called
) -> None:
    """Hanging, failing, resetting, nobody there: the run is done, and says who was not told."""
    if answer is not None:
        listener.answer = answer
    url = listener.url if answer else f"http://127.0.0.1:{closed_port()}"
    tell_all_by_http(shop, url)
    shop.drop("notes.csv", "no feed's\n")  # so that there is something to tell
    shop.sales("sales_1.csv", [sale()])
    report = shop.run()
    assert report.exit_code == 0
    assert report.rows("loaded") == 1
    assert len(report.not_told) == 3, report.not_told
    for target in ("the ping", "the alert target", "the lineage server"):
        assert any(target in message for message in report.not_told), report.not_told
    log = [json.loads(line) for line in (shop.folder / "run.log").read_text().splitlines()]
    untold = {line["fields"]["target"] for line in log if line["event"] == "not_told"}
    assert len(untold) == 3
    assert 'retailmart_target_not_told{target="the ping' in (shop.folder / "run.prom").read_text()
    events = (shop.folder / "lineage.ndjson").read_text().splitlines()
    assert [json.loads(line)["eventType"] for line in events] == ["START", "COMPLETE"]
    # As soon as it answers, it hears of what is still open.
    if answer:
        listener.answer = Answer.WELL
        assert shop.run().not_told == ()
        assert listener.alerts() == [("opened", "refused")]
        assert shop.run().not_told == ()
        assert len(listener.alerts()) == 1
    listener.answer = Answer.HANGS
    talk = called(shop.folder, "run", "--log-format", "text").stderr
    assert ("not told   could not tell the ping" in talk) == (answer is not Answer.WELL)


def test_a_failing_run_names_who_was_not_told(
    shop: Shop, listener: Listener, called: Called
) -> None:
    """A run that fails and can't tell it says both, with the error's own exit code."""
    listener.answer = Answer.FAILS
    settle(shop, f"alerts: {{targets: ['{listener.url}/alert']}}\n")
    (shop.folder / "retail.db").mkdir()
    failed = called(shop.folder, "run")
    assert failed.returncode == 1
    assert "could not tell the alert target http://127.0.0.1" in failed.stderr
    assert "it answered 500" in failed.stderr


def test_files_that_cannot_be_written_do_not_fail_a_run(shop: Shop) -> None:
    """A log, metrics or lineage file that can't be written is told; the run is done."""
    (shop.folder / "taken").write_text("a file, no folder")
    settle(
        shop,
        "log: {file: taken/run.log}\nmetrics: {file: taken/run.prom}\n"
        "lineage: {file: taken/lineage.ndjson}\n",
    )
    shop.sales("sales_1.csv", [sale()])
    report = shop.run()
    assert report.rows("loaded") == 1
    told = " ".join(report.not_told)
    for target in ("the log file", "the metrics file", "the lineage file"):
        assert f"could not tell {target} of this run: " in told


def test_the_last_success_survives_failures(shop: Shop, called: Called) -> None:
    """Metrics of failed runs still say when the last good one was, and whether the ledger is up."""
    settle(shop, "metrics: {file: run.prom}\n")
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    file = shop.folder / "run.prom"
    good = samples(file.read_text())
    assert good["ledger_up", ""] == 1
    assert good["last_run_state", 'state="success"'] == 1
    assert good["rows", 'feed="sales",fate="loaded"'] == 1
    assert good["lease_held", ""] == 0
    ledger = shop.folder / "retail.db"
    ledger.rename(shop.folder / "away.db")
    ledger.mkdir()
    assert called(shop.folder, "run").returncode == 1
    away = samples(file.read_text())
    assert away["ledger_up", ""] == 0
    assert away["last_run_state", 'state="failed"'] == 1
    assert away["last_run_exit_code", ""] == 1
    assert ("last_run_id", "") not in away
    for name, labels in (
        ("last_success_timestamp_seconds", ""),
        ("rows", 'feed="sales",fate="loaded"'),
    ):
        assert away[name, labels] == good[name, labels]
    ledger.rmdir()
    (shop.folder / "away.db").rename(ledger)
    shop.run()
    again = samples(file.read_text())
    assert again["last_run_state", 'state="success"'] == 1
    assert sum(n for (name, _), n in again.items() if name == "failures_total") == 1


def test_observers_are_told_in_order(shop: Shop) -> None:
    """An observer of one's own sees what happens, and its errors do not reach the run."""
    seen: list[Event] = []

    class Mine:
        def see(self, event: Event) -> None:
            seen.append(event)
            if len(seen) == 2:
                raise ValueError("mine")

        def close(self) -> None:
            raise ValueError("mine, too")

    shop.sales("sales_1.csv", [sale()])
    report = shop.open().run(AS_OF, observers=[Mine()])
    names = [type(event).__name__ for event in seen]
    assert [name for name in names if not name.startswith("Step")] == [
        *("NotTold", "RunBegan", "BatchBegan", "RunEnded"),
    ]
    (end,) = (event for event in seen if isinstance(event, RunEnded))
    assert end.state == "success"
    assert end.report is not None
    assert report.not_told == ("could not tell Mine of this run: ValueError",)


def test_alerts_can_be_tried(shop: Shop, listener: Listener, called: Called) -> None:
    """`alerts test` reaches every target, or says why not; without a target it says what to do."""
    with pytest.raises(SettingsError, match="names no target"):
        shop.open().alerts_test()
    dead = f"http://127.0.0.1:{closed_port()}/secret-part"
    settle(shop, f"alerts: {{targets: ['{listener.url}/alert', '{dead}']}}\n")
    result = called(shop.folder, "alerts", "test", "--output", "json")
    assert result.returncode == 1
    good, bad = json.loads(result.stdout)["targets"]
    assert good["problem"] is None
    assert bad["problem"] == "Connection refused"
    assert "secret-part" not in result.stdout + result.stderr
    (heard,) = listener.at("/alert")
    assert heard.plain["text"].startswith("retailmart shop: test\nThis is a test")


def test_alerts_are_listed(shop: Shop, called: Called) -> None:
    """`alerts list` shows what is open and what is over, and that nobody is told."""
    settle(shop, "alerts: {targets: ['http://127.0.0.1:9/x']}\nnotify_within: 0.2\n")
    shop.drop("notes.csv", "no feed's\n")
    shop.run()
    listed = called(shop.folder, "alerts", "list").stdout
    assert listed.startswith("open  ")
    assert "refused     notes.csv is refused: fits no feed" in listed
    found = json.loads(called(shop.folder, "alerts", "list", "-o", "json").stdout)
    assert [alert["subject"] for alert in found["open"]] == ["notes.csv"]
    assert found["targets"] == ["http://127.0.0.1:9"]


def test_json_on_stdout_also_when_a_command_fails(
    shop: Shop, called: Called, tmp_path: Path
) -> None:
    """With `--output json`, stdout has exactly one object, whatever becomes of the command."""
    (shop.folder / "landing").rename(shop.folder / "gone")
    failed = called(shop.folder, "run", "--output", "json")
    assert failed.returncode == 2
    said = json.loads(failed.stdout)
    assert said["exit_code"] == 2
    assert said["kind"] == "SettingsError"
    assert "is not there" in said["error"]
    assert said["hint"] == "Create it, or correct `landing` in retailmart.yml"
    usage = called(shop.folder, "status", "--no-such-option", "--output=json")
    assert json.loads(usage.stdout)["exit_code"] == usage.returncode == 2
    for words in (
        ("status",),
        ("verify",),
        ("quarantine", "list"),
        ("doctor",),
        ("alerts", "list"),
    ):
        result = called(tmp_path, *words, "-o", "json")
        assert json.loads(result.stdout)["kind"] == "NotAProject", words


def test_stderr_is_json_alone(shop: Shop, called: Called) -> None:
    """With `--log-format json`, each line of stderr is an object, also if the run can't begin."""
    shop.sales("sales_1.csv", [sale()])
    done = called(shop.folder, "run", "--log-format", "json", "--output", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {tuple(line) for line in lines} == {
        ("time", "level", "run", "batch", "step", "event", "message", "fields"),
    }
    assert lines[-1]["event"] == "run_ended"
    assert lines[-1]["fields"]["rows"] == json.loads(done.stdout)["rows"]
    for words in (("--set", "no_such=1"), ("--as-of", "nonsense")):
        failed = called(shop.folder, "run", "--log-format", "json", *words)
        assert failed.returncode == 2
        if words[0] == "--set":
            (line,) = failed.stderr.splitlines()
            assert json.loads(line)["level"] == "error"


def test_no_secret_is_told(shop: Shop, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that hold secrets are in no log, report, metrics or ledger."""
    monkeypatch.setenv("HOOK", f"{listener.url}/canary-42")
    listener.answer = Answer.FAILS
    settle(
        shop,
        "alerts: {targets: ['${HOOK}/alert']}\nping: {url: '${HOOK}/ping'}\n"
        "lineage: {url: '${HOOK}', file: lineage.ndjson}\nmetrics: {file: run.prom}\n"
        "log: {format: json, file: run.log}\n",
    )
    shop.drop("notes.csv", "no feed's\n")
    report = shop.run()
    assert len(report.not_told) == 3
    assert "canary" not in repr(report) + repr(shop.open().project)
    for path in shop.folder.rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path
