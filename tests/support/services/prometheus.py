"""A Prometheus server of one's own, and its promtool: Debian's package `prometheus`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.services.debian import install
from tests.support.services.listener import closed_port


@cache
def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; the test fails where it can't be had."""
    failed = install("prometheus", lambda: shutil.which("promtool") is not None)
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is needed: apt-get install prometheus. {failed or ''}", pytrace=False)
    return found


@dataclass(frozen=True)
class Prometheus:
    """A server that is running."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> list[tuple[Mapping[str, str], float]]:
        """The samples that a query gives now."""
        found = self.ask("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]


@contextmanager
def prometheus(folder: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """A server that asks `target` (HOST:PORT) for metrics each second and knows `rules`."""
    port = closed_port()
    settings = folder / "prometheus.yml"
    settings.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(rules)],
                "scrape_configs": [
                    {"job_name": "retailmart", "static_configs": [{"targets": [target]}]}
                ],
            }
        )
    )
    log = (folder / "prometheus.log").open("wb")
    server = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={settings}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
        cwd=folder,
    )
    found = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait_for(server, found, folder / "prometheus.log")
        yield found
    finally:
        server.terminate()
        server.wait()
        log.close()


def _wait_for(server: subprocess.Popen[bytes], found: Prometheus, log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            if found.value("retailmart_info"):
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"Prometheus has read nothing:\n{log.read_text()[-2_000:]}", pytrace=False)
