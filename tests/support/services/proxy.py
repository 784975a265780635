"""Proxies that break on demand: one for any TCP protocol, one that knows S3's HTTP.

Each runs an asyncio loop in a thread of its own; tests steer it with plain calls, and what they
ask for holds when the call returns.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.services.process import HOST

_CHUNK = 1 << 16
_HEAD_LIMIT = 1 << 18
_T = TypeVar("_T")
_BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


class _Proxy:
    """A listener that hands each connection to `_serve`; by default on a free loopback port."""

    def __init__(
        self, upstream_port: int, upstream_host: str = HOST, listen: tuple[str, int] = (HOST, 0)
    ) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._at = listen
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener = self._do(self._listen())
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self.connections = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Reset what is open, stop listening."""
        if self._loop.is_closed():
            return
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every open connection, on both sides."""
        self._do(self._cut())

    async def _serve(self, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_LIMIT)
        self._writers.add(writer)
        return reader, writer

    def _drop(self, *writers: asyncio.StreamWriter) -> None:
        """Reset: what was not sent is lost, and the other side sees an error."""
        for writer in writers:
            self._writers.discard(writer)
            connection = writer.get_extra_info("socket")
            with suppress(OSError):  # closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _close(self, *writers: asyncio.StreamWriter) -> None:
        """An orderly end: what was written is sent first."""
        for writer in writers:
            self._writers.discard(writer)
            writer.close()

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, *self._at, limit=_HEAD_LIMIT, backlog=512)

    async def _accept(self, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(client, writer)
        except BaseException as error:
            self._drop(writer)
            # Cancelled only when the proxy closes; asyncio would complain of it.
            if not isinstance(error, (*_BROKEN, asyncio.CancelledError)):
                raise
        else:
            self._close(writer)
        finally:
            self._tasks.discard(task)

    async def _cut(self) -> None:
        self._drop(*tuple(self._writers))

    async def _shut(self) -> None:
        self._listener.close()
        await self._cut()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cut()  # what a task had just opened
        await asyncio.sleep(0)  # sockets are closed one round after the abort
        await asyncio.sleep(0)


@dataclass
class Trap:
    """A request that will not go well. `sprung` is set once it has happened."""

    pattern: re.Pattern[bytes]
    effect: bool
    skip: int = 0
    sprung: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 30) -> bool:
        """Whether it happened, within this time."""
        return self.sprung.wait(seconds)


@dataclass
class _Link:
    """A client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tail: bytes = b""
    losing: Trap | None = None


class TcpProxy(_Proxy):
    """A way to a server that loses requests or replies, resets or hangs, when told to.

    Patterns are regular expressions over the client's bytes, so they see nothing inside TLS.
    """

    # What a pattern may span over two reads.
    OVERLAP = 128

    def __init__(self, upstream_port: int, upstream_host: str = HOST) -> None:
        self._traps: list[Trap] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        super().__init__(upstream_port, upstream_host)

    def drop_after_request(self, pattern: bytes, skip: int = 0) -> Trap:
        """The next matching request (after `skip` others) reaches the server, which answers;
        the answer is lost, and the connection is reset.
        """
        return self._do(self._lay(Trap(re.compile(pattern), effect=True, skip=skip)))

    def drop_request(self, pattern: bytes, skip: int = 0) -> Trap:
        """The next matching request (after `skip` others) never arrives; reset instead."""
        return self._do(self._lay(Trap(re.compile(pattern), effect=False, skip=skip)))

    def hang(self) -> None:
        """Accept, and forward nothing, in open connections too."""
        self._do(self._set(flowing=False))

    def refuse(self) -> None:
        """Reset every open connection, and each new one at once."""
        self._do(self._set(refusing=True))
        self.cut()

    def resume(self) -> None:
        """Forward again; what was held back first."""
        self._do(self._set(flowing=True, refusing=False))

    async def _lay(self, trap: Trap) -> Trap:
        self._traps.append(trap)
        return trap

    async def _set(self, *, flowing: bool = True, refusing: bool = False) -> None:
        self._refusing = refusing
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _serve(self, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self._refusing:
            self._drop(writer)
            return
        server, to_server = await self._open()
        link = _Link(client=writer, server=to_server)
        try:
            await asyncio.gather(self._requests(client, link), self._replies(server, link))
            self._close(to_server)
        except BaseException:
            self._drop(to_server, writer)
            raise

    async def _requests(self, client: asyncio.StreamReader, link: _Link) -> None:
        while data := await client.read(_CHUNK):
            await self._flowing.wait()
            trap = self._match(data, link)
            if trap and not trap.effect:
                self._drop(link.client, link.server)
                trap.sprung.set()
                return
            link.losing = link.losing or trap
            link.server.write(data)
            await link.server.drain()
        if not link.server.is_closing():
            link.server.write_eof()

    async def _replies(self, server: asyncio.StreamReader, link: _Link) -> None:
        first = True
        while data := await server.read(_CHUNK):
            data = self._greeting(data) if first else data
            first = False
            await self._flowing.wait()
            if link.losing:
                self._drop(link.client, link.server)
                link.losing.sprung.set()
                return
            link.client.write(data)
            await link.client.drain()
        if not link.client.is_closing():
            link.client.write_eof()

    def _greeting(self, data: bytes) -> bytes:
        """What the client is told of the server's first words."""
        return data

    def _match(self, data: bytes, link: _Link) -> Trap | None:
        text = link.tail + data
        for trap in self._traps:
            for found in trap.pattern.finditer(text):
                if found.end() <= len(link.tail):
                    continue  # seen with the read before
                if trap.skip == 0:
                    self._traps.remove(trap)
                    return trap
                trap.skip -= 1
        link.tail = text[-self.OVERLAP :]
        return None


class MySQLProxy(TcpProxy):
    """A way to a MySQL server on which patterns see the statements: no TLS is offered.

    Clients take TLS where they can, so the proxy says that the server can't. A client that
    insists on TLS refuses, as it must when somebody on the way does the same.
    """

    _TLS = 0x0800

    def _greeting(self, data: bytes) -> bytes:
        # A head of 4 bytes, the protocol (10), the version up to a zero, thread (4 bytes), half
        # of the salt (8), a zero; then what the server can do, least byte first.
        if data[4:5] != b"\x0a":
            return data  # an error, such as too many connections
        at = data.index(b"\0", 5) + 1 + 4 + 8 + 1
        can = int.from_bytes(data[at : at + 2], "little") & ~self._TLS
        return data[:at] + can.to_bytes(2, "little") + data[at + 2 :]


class Fault(StrEnum):
    """What can happen to a request on its way."""

    ERROR_500 = "error_500"  # refused, without effect
    SLOW_DOWN = "slow_down"  # 503, without effect
    DROP_BEFORE = "drop_before"  # reset, without effect
    DROP_AFTER = "drop_after"  # the effect happened, the answer is lost
    HANG = "hang"  # silence, then closed, without effect
    HANG_AFTER = "hang_after"  # the effect happened; silence, then closed
    SHORT_BODY = "short_body"  # a GET's answer promises its full length and ends halfway
    BROKEN_MULTIPART = "broken_multipart"  # a part cut halfway; a completion "200 OK" that failed

    def fits(self, method: str, target: str) -> bool:
        """Whether this can happen to such a request."""
        if self is Fault.SHORT_BODY:
            return method == "GET"
        if self is Fault.BROKEN_MULTIPART:
            return method in ("PUT", "POST") and "uploadId=" in target
        return True


@dataclass
class Planned:
    """One exact fault. `done` is set once it has taken place (a hang: once it has begun)."""

    fault: Fault
    method: str | None
    pattern: re.Pattern[str]
    nth: int
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 30) -> bool:
        """Whether it took place, within this time."""
        return self.done.wait(seconds)


@dataclass(frozen=True)
class _Due:
    """What is to happen to a request, and whom to tell."""

    fault: Fault | None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Seen:
    """A request that came by, and what became of it."""

    method: str
    target: str
    fault: Fault | None


@dataclass(frozen=True)
class _Message:
    """The head of a request or a response: its first line's three words, and its headers."""

    first: tuple[str, str, str]
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def encode(self, *, without: Sequence[str] = (), extra: str = "") -> bytes:
        lines = [f"{k}: {v}\r\n" for k, v in self.headers if k.lower() not in without]
        return f"{' '.join(self.first)}\r\n{''.join(lines)}{extra}\r\n".encode("latin-1")


class S3Faults(_Proxy):
    """A way to an S3 server on which a seeded share of the requests fails, in every known way."""

    def __init__(
        self,
        upstream_port: int,
        upstream_host: str = HOST,
        *,
        hang_seconds: float = 1.0,
        listen: tuple[str, int] = (HOST, 0),
    ) -> None:
        self._steering = threading.Lock()
        self._chance = random.Random(0)
        self._rate = 0.0
        self._kinds: tuple[Fault, ...] = tuple(Fault)
        self._planned: list[Planned] = []
        self._counts: Counter[str] = Counter()
        self._seen: deque[Seen] = deque(maxlen=100_000)
        self.hang_seconds = hang_seconds
        super().__init__(upstream_port, upstream_host, listen)

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{HOST}:{self.port}"

    @property
    def counts(self) -> Counter[str]:
        """How many `requests` came by, and how many met each fault, by its name."""
        with self._steering:
            return Counter(self._counts)

    @property
    def faults(self) -> int:
        """How many requests met a fault."""
        return sum(number for name, number in self.counts.items() if name != "requests")

    @property
    def seen(self) -> list[Seen]:
        """The last 100,000 requests, in the order they came."""
        with self._steering:
            return list(self._seen)

    def on(self, rate: float = 0.10, *, seed: int = 0, kinds: Sequence[Fault] = ()) -> None:
        """From now on this share of the requests fails; the seed decides which, and how."""
        with self._steering:
            self._chance = random.Random(seed)
            self._rate = rate
            self._kinds = tuple(kinds) or tuple(Fault)

    def off(self) -> None:
        """From now on nothing fails, planned faults apart."""
        with self._steering:
            self._rate = 0.0

    def inject(
        self, fault: Fault, method: str | None = None, pattern: str = "", nth: int = 1
    ) -> Planned:
        """Make the nth matching request from now on fail in just this way.

        The pattern is searched in path and query as they are on the wire.
        """
        planned = Planned(fault, method, re.compile(pattern), nth)
        with self._steering:
            self._planned.append(planned)
        return planned

    async def _serve(self, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = await _read_head(client)
            except asyncio.IncompleteReadError:
                return  # the client is done
            due = self._decide(*request.first[:2])
            try:
                again = await self._answer(request, due, client, writer)
            finally:
                due.done.set()
            if not again or request.get("connection").lower() == "close":
                return

    async def _answer(
        self,
        request: _Message,
        due: _Due,
        client: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; whether the connection is still good for another."""
        method = request.first[0]
        fault = due.fault
        if request.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault is Fault.BROKEN_MULTIPART and method == "PUT":
            await client.readexactly(int(request.get("content-length") or 0) // 2)
            self._drop(writer)
            return False
        body = await _read_body(client, request)
        if fault in (Fault.DROP_BEFORE, Fault.HANG):
            return await self._silence(due, client, writer)
        refusal = _REFUSALS.get(fault) if fault else None
        if refusal:
            writer.write(_refuse(refusal, method))
            await writer.drain()
            return True
        response, content = await self._forward(request, body)
        short = fault is Fault.SHORT_BODY
        if fault in (Fault.DROP_AFTER, Fault.HANG_AFTER) or (short and len(content) < 2):
            return await self._silence(due, client, writer)
        length = "" if _framed(response, method) else f"Content-Length: {len(content)}\r\n"
        writer.write(response.encode(without=("connection", "keep-alive"), extra=length))
        writer.write(content[: len(content) // 2] if short else content)
        await writer.drain()
        return not short

    async def _silence(
        self, due: _Due, client: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        due.done.set()
        if due.fault in (Fault.HANG, Fault.HANG_AFTER):
            with suppress(TimeoutError):  # shorter if the client gives up
                await asyncio.wait_for(client.read(1), self.hang_seconds)
        self._drop(writer)
        return False

    async def _forward(self, request: _Message, body: bytes) -> tuple[_Message, bytes]:
        """The server's answer to a request, its Host header unchanged: the signature covers it."""
        reader, writer = await self._open()
        try:
            writer.write(
                request.encode(without=("expect", "connection"), extra="Connection: close\r\n")
            )
            writer.write(body)
            await writer.drain()
            response = await _read_head(reader)
            method = request.first[0]
            if _framed(response, method):
                content = await _read_body(reader, response, empty=_bodiless(response, method))
            else:
                content = await reader.read()
        finally:
            self._close(writer)
        return _Message(("HTTP/1.1", *response.first[1:]), response.headers), content

    def _decide(self, method: str, target: str) -> _Due:
        with self._steering:
            due = self._planned_for(method, target)
            if due.fault is None and self._chance.random() < self._rate:
                fitting = [kind for kind in self._kinds if kind.fits(method, target)]
                due = _Due(self._chance.choice(fitting) if fitting else None)
            self._counts["requests"] += 1
            if due.fault:
                self._counts[due.fault.value] += 1
            self._seen.append(Seen(method, target, due.fault))
            return due

    def _planned_for(self, method: str, target: str) -> _Due:
        for planned in tuple(self._planned):
            if planned.method not in (None, method) or not planned.pattern.search(target):
                continue
            if not planned.fault.fits(method, target):
                continue
            planned.nth -= 1
            if planned.nth == 0:
                self._planned.remove(planned)
                return _Due(planned.fault, planned.done)
        return _Due(None)


@dataclass(frozen=True)
class _Refusal:
    status: str
    code: str


_REFUSALS = {
    Fault.ERROR_500: _Refusal("500 Internal Server Error", "InternalError"),
    Fault.SLOW_DOWN: _Refusal("503 Slow Down", "SlowDown"),
    # S3 starts its answer before it knows whether the completion works out.
    Fault.BROKEN_MULTIPART: _Refusal("200 OK", "InternalError"),
}


def _refuse(refusal: _Refusal, method: str) -> bytes:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{refusal.code}</Code><Message>Please try again.</Message>"
        "<RequestId>0</RequestId></Error>"
    )
    head = f"HTTP/1.1 {refusal.status}\r\nContent-Type: application/xml\r\n"
    if method == "HEAD":
        return f"{head}\r\n".encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def _read_head(reader: asyncio.StreamReader) -> _Message:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    one, two, three = (*first.split(" ", 2), "")[:3]
    headers = (line.partition(":") for line in lines)
    return _Message((one, two, three), tuple((name, value.strip()) for name, _, value in headers))


async def _read_body(reader: asyncio.StreamReader, head: _Message, empty: bool = False) -> bytes:
    """The body as it is on the wire: chunks stay chunks, as the head that goes before says."""
    if empty:
        return b""
    if head.get("transfer-encoding").lower() != "chunked":
        return await reader.readexactly(int(head.get("content-length") or 0))
    parts: list[bytes] = []
    size = -1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2) if size else b""]
    while parts[-1] != b"\r\n":  # trailers, and the empty line after them
        parts.append(await reader.readuntil(b"\r\n"))
    return b"".join(parts)


def _bodiless(response: _Message, method: str) -> bool:
    return method == "HEAD" or response.first[1] in ("204", "304")


def _framed(response: _Message, method: str) -> bool:
    """Whether the head tells where the body ends; else the server's close does."""
    return (
        _bodiless(response, method)
        or bool(response.get("content-length"))
        or bool(response.get("transfer-encoding"))
    )
