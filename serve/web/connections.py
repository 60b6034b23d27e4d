"""Connections of a server without a proxy before it: heads of requests end, in size and in time, and answers are taken.

uvicorn alone reads a head however long it gets, before any key is looked at, and waits for ever for one to begin and
for whoever does not read an answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 65_536
"""Bytes of the head of a request, or beside its body, after which no more is read; HAProxy takes 16 KiB."""
CHUNK_FRAME = 9
"""Bytes that one byte of a body in chunks may take, with its frame; six are enough."""
LINGER_S = 2.0
"""Seconds for which what remains of a request is read and forgotten after an answer that refuses it. A connection that
is closed with bytes unread is reset, and a reset may overtake the answer."""
UNREAD_S = 60.0
"""Seconds in which a client must take something of its answer."""


def bounded_connection(head_timeout_s: float) -> type[HttpToolsProtocol]:
    """Make the class of connections, for `http` of a `uvicorn.Config`.

    Args:
        head_timeout_s: seconds within which the head of a request must be there, after a connection was made or an
            answer given.
    """
    return type("BoundedConnection", (_Connection,), {"head_timeout_s": head_timeout_s})


class _Connection(HttpToolsProtocol):
    head_timeout_s: float
    _beside_bodies = 0
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of all that is not taken
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel(self._head_timer, self._unread_timer, self._linger_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside_bodies += len(data)
        if self._linger_timer is not None:
            if self._beside_bodies > MAX_HEAD_BYTES:
                self.transport.close()
            return
        super().data_received(data)
        if self._beside_bodies > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request, or what is sent beside its body, is too large.")

    def on_headers_complete(self) -> None:
        self._beside_bodies = 0
        self._cancel(self._head_timer)
        super().on_headers_complete()
        self.cycle.transport = _AnswerTransport(self, self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._beside_bodies = max(0, self._beside_bodies - CHUNK_FRAME * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside_bodies = 0
        super().on_message_complete()

    def close_after(self, cycle: RequestResponseCycle) -> None:
        """Close after an answer, once what remains of the request has come, or LINGER_S have passed."""
        if not (cycle.response_complete and cycle.more_body and self.transport.can_write_eof()):
            self.transport.close()
            return
        self._beside_bodies = 0
        self.transport.write_eof()
        self.flow.resume_reading()
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        if self._linger_timer is not None:
            return
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # and no other request waits
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._cancel(self._unread_timer)
        super().resume_writing()

    def _await_head(self) -> None:
        self._cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _await_reader(self, unread: int) -> None:
        self._cancel(self._unread_timer)
        self._unread_timer = self.loop.call_later(UNREAD_S, self._check_reader, unread)

    def _check_reader(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread >= before:
            self.transport.abort()
        else:
            self._await_reader(unread)

    @staticmethod
    def _cancel(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


class _AnswerTransport:
    """What an answer is written to. It is closed as `close_after` has it."""

    def __init__(self, connection: _Connection, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle

    def write(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def close(self) -> None:
        self._connection.close_after(self._cycle)
