"""Prometheus reads what we write, and our rules and dashboard ask for what there is."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from retailmart.monitoring.attempts import Attempts
from retailmart.monitoring.metrics import Snapshot, families_in, render, render_without_ledger
from tests.support.services.prometheus import program, prometheus
from tests.support.shop import Shop, sale

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "retailmart-rules.yml"
DASHBOARD = DEPLOY / "grafana" / "retailmart.json"
_NAMES = re.compile(r"\bretailmart_\w+")


@pytest.fixture
def marts() -> Collection[str]:
    """One mart is enough."""
    return ("sales_mart",)


def names_written() -> set[str]:
    """The names of all metrics."""
    return set(families_in(render(Snapshot("1"))))


def test_the_text_is_what_prometheus_reads() -> None:
    """Whatever a label holds, the parser of Prometheus's own client gives it back."""
    odd = 'a "b" \\ c\nd=,{}é'
    text = render(Snapshot("1", files={(odd, "loaded"): 3}, steps={"load": 1.5}))
    found = {one.name: one for one in text_string_to_metric_families(text)}
    (sample,) = found["retailmart_files"].samples
    assert sample.labels == {"feed": odd, "state": "loaded"}
    assert sample.value == 3
    assert found["retailmart_runs"].type == "counter"
    assert found["retailmart_step_seconds"].samples[0].value == 1.5


def test_figures_without_a_ledger_keep_the_others() -> None:
    """What only the ledger knows stays as it was; a second time too."""
    old = render(Snapshot("1", files={("sales", "loaded"): 3}))
    once = render_without_ledger(old, Attempts(), "2")
    assert render_without_ledger(once, Attempts(), "2") == once
    assert set(families_in(once)) == set(families_in(old))
    assert 'retailmart_files{feed="sales",state="loaded"} 3\n' in once
    assert "retailmart_ledger_up 0\n" in once
    assert render_without_ledger("", Attempts(), "2").startswith("# HELP retailmart_ledger_up")


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    """No rule and no panel names a metric that nothing writes."""
    for path in (RULES, DASHBOARD):
        used = set(_NAMES.findall(path.read_text()))
        assert used
        assert used <= names_written(), path


def test_each_metric_is_shown_or_watched() -> None:
    """What is in neither the rules nor the dashboard is told here, so that none is forgotten."""
    used = set(_NAMES.findall(RULES.read_text() + DASHBOARD.read_text()))
    assert names_written() - used == {
        "retailmart_feed_newest_month_timestamp_seconds",
        "retailmart_lake_rows",
        "retailmart_last_run_end_timestamp_seconds",
        "retailmart_last_run_exit_code",
        "retailmart_last_run_id",
        "retailmart_last_run_start_timestamp_seconds",
        "retailmart_open_batch",
    }


def test_the_dashboard_is_whole() -> None:
    """Each panel has its own number and place, a query, and no machine's own data source."""
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert target["expr"]
            assert target["datasource"]["uid"] == "${source}"


def test_promtool_accepts_rules_and_metrics(shop: Shop, tmp_path: Path) -> None:
    """The tool of Prometheus finds nothing wrong with the rules, and reads a run's file."""
    checked = subprocess.run(
        [program("promtool"), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    read = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=shop.open().metrics(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode in (0, 3), read.stderr  # 3: it would name something in another way
    assert read.stderr.strip() == ""


def test_a_real_prometheus_fires_our_alerts(shop: Shop, tmp_path: Path) -> None:
    """Prometheus loads the rules, asks for the metrics, and alerts when a run has failed."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    with _serving(shop) as target, prometheus(tmp_path, target, RULES) as server:
        groups = server.ask("rules")["groups"]
        rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
        assert len(rules) == RULES.read_text().count("- alert:")
        assert _firing(server) == set()
        ((_, rows),) = server.value('retailmart_rows{feed="sales",fate="loaded"}')
        assert rows == 1
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for asked in panel["targets"]:
                server.value(asked["expr"].replace("$instance", ".*"))  # it is understood
        feed = shop.folder / "feeds" / "sales.yml"
        feed.write_text(feed.read_text().replace("action: warn", "action: fail"))
        shop.sales("sales_2.csv", [sale(price="10.00", quantity=2, total="19.00")])
        with pytest.raises(Exception, match="total_is_price_times_quantity"):
            shop.run()
        until = time.monotonic() + 30
        while "RetailmartRunFailed" not in _firing(server) and time.monotonic() < until:
            time.sleep(0.2)
        assert "RetailmartRunFailed" in _firing(server)


def _firing(server: object) -> set[str]:
    found = server.ask("alerts")["alerts"]  # type: ignore[attr-defined]
    return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}


@contextmanager
def _serving(shop: Shop) -> Iterator[str]:
    """Serve the shop's metrics, as `watch` does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = shop.open().metrics().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
