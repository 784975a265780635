"""How a watch is: for itself, for systemd, and over HTTP for probes and Prometheus."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retailmart.errors import RetailmartError
from retailmart.report import Progress

# A client that reads or writes slowly is left after this many seconds.
_PATIENCE = 5.0
_AT_ONCE = 8
# Waiting, the watch looks up at least this often; else it hangs.
_IDLE_SECONDS = 60.0


@dataclass
class Health:
    """What is known of a watch; all times are of the monotonic clock, but for those in UTC.

    It is alive while it works or waits: with `stuck_after` seconds without a sign of a run, it is
    not. It is ready while the last run went well and the project's files have no mistake.
    """

    stuck_after: float
    doing: str = "starting"
    last_success: datetime | None = None
    runs: int = 0
    failures: int = 0
    busy: bool = False
    problem: str | None = None
    mistakes: str | None = None
    _sign: float = field(default_factory=time.monotonic)

    def show_sign(self) -> None:
        """Something went on."""
        self._sign = time.monotonic()

    @property
    def silent(self) -> float:
        """The seconds without a sign."""
        return time.monotonic() - self._sign

    @property
    def is_alive(self) -> bool:
        """Whether waiting for it makes sense."""
        return self.silent < (self.stuck_after if self.busy else _IDLE_SECONDS)

    @property
    def problems(self) -> list[str]:
        """Why it is not ready: what a person should look at."""
        told = [self.problem, self.mistakes]
        if self.last_success is None and self.problem is None:
            told.append("no run has ended yet")
        return [one for one in told if one]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "alive": self.is_alive,
            "ready": not self.problems,
            "doing": self.doing,
            "last_success": self.last_success.isoformat() if self.last_success else None,
            "runs": self.runs,
            "failures": self.failures,
            "problems": self.problems,
        }

    def metrics(self) -> str:
        """What the watch itself counts, for Prometheus."""
        moment = self.last_success.timestamp() if self.last_success else 0
        values = {
            "alive": ("gauge", "1 while the watch works or waits.", int(self.is_alive)),
            "ready": ("gauge", "1 while the last run went well.", int(not self.problems)),
            "runs_total": ("counter", "Runs that the watch has started.", self.runs),
            "failures_total": ("counter", "Those of them that failed.", self.failures),
            "last_success_timestamp_seconds": ("gauge", "When a run last ended well.", moment),
        }
        return "".join(
            f"# HELP retailmart_watch_{name} {words}\n# TYPE retailmart_watch_{name} {kind}\n"
            f"retailmart_watch_{name} {value}\n"
            for name, (kind, words, value) in values.items()
        )


@dataclass(frozen=True)
class Signs:
    """A run's progress, each piece of it a sign that the run goes on."""

    shown: Progress
    health: Health

    def began(self, step: str) -> None:
        self.health.show_sign()
        self.health.doing = f"running: {step}"
        self.shown.began(step)

    def message(self, step: str, message: str) -> None:
        self.health.show_sign()
        self.shown.message(step, message)

    def ended(self, step: str, seconds: float) -> None:
        self.health.show_sign()
        self.shown.ended(step, seconds)


class HealthServer:
    """Serves `/healthz` (alive), `/readyz` (all is well) and `/metrics` from a thread."""

    def __init__(
        self, address: tuple[str, int], health: Health, metrics: Callable[[], str]
    ) -> None:
        try:
            self._server = _Server(address, _handler(health, metrics))
        except OSError as error:
            host, port = address
            raise RetailmartError(
                f"watch: can't listen on {host}:{port}: {error.strerror or error}",
                "Choose another address as `watch: listen` in retailmart.yml",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on; another one than asked for, if that was 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Answers a few at a time, and drops slow clients."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        import socket

        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _handler(health: Health, metrics: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE
        server_version = "retailmart"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._json(200 if health.is_alive else 503)
            elif path == "/readyz":
                self._json(200 if health.is_alive and not health.problems else 503)
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
            else:
                self._answer(404, "text/plain", "There are /healthz, /readyz and /metrics\n")

        def _json(self, code: int) -> None:
            self._answer(code, "application/json", json.dumps(health.to_dict()) + "\n")

        def _answer(self, code: int, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """A probe every few seconds is no news."""

    return Handler


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)
