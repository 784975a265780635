"""A driver connection that sends LOAD DATA LOCAL from memory.

A server may ask a client for any file. This connection opens no file, whatever name the server asks
for: it sends the bytes that were given to it, or nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.connections import Connection as Driver
from pymysql.connections import MySQLResult
from pymysql.constants import CLIENT

if TYPE_CHECKING:
    from retailmart.database.mysql.opening import Address

# Larger packets are no faster, and every server takes this size.
_PACKET = 256 * 1024


def connect(address: Address) -> Feeding:
    """A new connection to a server."""
    return Feeding(
        host=address.host,
        port=address.port,
        user=address.user,
        # As bytes: the driver would encode text as Latin-1.
        password=address.password.encode(),
        database=address.database,
        unix_socket=address.unix_socket,
        charset="utf8mb4",
        client_flag=CLIENT.FOUND_ROWS,
        local_infile=True,
        ssl=address.verified,
        program_name="retailmart",
        **address.timeouts,
    )


class Feeding(Driver):  # type: ignore[misc]
    """A connection that answers the server's request for a local file with `feeding`'s bytes."""

    statement_bytes = 500_000
    warning_count = 0
    _feed: Iterator[memoryview] | None = None

    def cursor(self, cursor: Any = None) -> Any:
        made = super().cursor(cursor)
        made.max_stmt_length = self.statement_bytes
        return made

    @contextmanager
    def feeding(self, chunks: Iterable[memoryview]) -> Generator[None]:
        """Inside this context, LOAD DATA LOCAL reads these bytes, once."""
        self._feed = iter(chunks)
        try:
            yield
        finally:
            self._feed = None

    def _read_query_result(self, unbuffered: bool = False) -> int:
        self._result = None
        result = _Result(self)
        if unbuffered:
            result.init_unbuffered_query()
        else:
            result.read()
        self._result = result
        self.warning_count = result.warning_count
        if result.server_status is not None:
            self.server_status = result.server_status
        return int(result.affected_rows or 0)

    def send_feed(self) -> None:
        """Send the available bytes packet by packet, and the empty packet that ends them."""
        feed, self._feed = self._feed, None
        try:
            for chunk in feed or ():
                for start in range(0, len(chunk), _PACKET):
                    self.write_packet(chunk[start : start + _PACKET])
        except BaseException:
            # The server takes half a file for a whole one; the caller who gets this error rolls
            # back.
            with suppress(err.Error):
                self.write_packet(b"")
                self._read_packet()
            raise
        self.write_packet(b"")


class _Result(MySQLResult):  # type: ignore[misc]
    def _read_load_local_packet(self, first_packet: Any) -> None:
        connection: Feeding = self.connection
        asked_for = connection._feed is not None
        connection.send_feed()
        answer = connection._read_packet()
        if not asked_for:
            raise err.OperationalError(0, "the server asked for a file that nobody offered")
        if not answer.is_ok_packet():
            raise err.OperationalError(2014, "the server's answer to a file is out of turn")
        self._read_ok_packet(answer)
