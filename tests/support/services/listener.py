"""A server on this machine that is told things, and answers as it is said: well, badly or never."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answer(Enum):
    """What the server does with a request."""

    WELL = 200
    FAILS = 500
    REDIRECTS = 302
    HANGS = "hangs"
    RESETS = "resets"


@dataclass(frozen=True)
class Heard:
    """A request."""

    path: str
    body: str
    headers: dict[str, str]

    @property
    def plain(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Listener:
    """What the server was told, oldest first. `answer` may be changed at any time."""

    url: str
    answer: Answer = Answer.WELL
    heard: list[Heard] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str) -> list[Heard]:
        """What was told at a path or below it."""
        return [one for one in self.heard if one.path.startswith(path)]

    def alerts(self) -> list[tuple[str, str]]:
        """The alerts that were told of: opened or closed, and the kind of each."""
        return [
            (about, alert["kind"])
            for one in self.at("/alert")
            for about in ("opened", "closed")
            for alert in one.plain[about]
        ]


@contextmanager
def listening() -> Iterator[Listener]:
    """A server, as long as the block lasts."""
    listener = Listener("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length).decode()
            answer = listener.answer
            if answer is Answer.HANGS:
                listener._ended.wait(60)
                return
            if answer is Answer.RESETS:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            if answer is Answer.WELL:
                listener.heard.append(Heard(self.path, body, dict(self.headers.items())))
            self.send_response(answer.value)
            self.send_header("Content-Length", "0")
            if answer is Answer.REDIRECTS:
                listener.answer = Answer.WELL  # who follows is answered well
                self.send_header("Location", "/login")
            self.end_headers()

        do_GET = do_HEAD = do_POST  # noqa: N815, the server asks for these names

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # the client has given up, or the connection is reset
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener._ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
