"""Bounds of connections, without sockets and in virtual time."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serve.web.connections import LINGER_S, MAX_HEAD_BYTES, UNREAD_S, bounded_connection
from shoal.testing.fakes import virtual_time

HEAD_S = 10.0
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written, and knows whether it is closed; `unread` is what its client has not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed: str | None = None
        self.unread = 0
        self.high: int | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed is not None

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole body, then answer with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    text = b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


def connect() -> tuple[Any, Transport]:
    config = uvicorn.Config(answer, http=bounded_connection(HEAD_S), ws="none", lifespan="off", log_config=None)
    config.load()
    connection: Any = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})  # type: ignore[call-arg]
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport


@virtual_time
async def test_who_says_nothing_is_closed() -> None:
    _, transport = connect()
    await asyncio.sleep(HEAD_S - 1)
    assert transport.closed is None
    await asyncio.sleep(2)
    assert transport.closed == "closed"


@virtual_time
async def test_a_head_that_does_not_end_in_time_is_closed() -> None:
    connection, transport = connect()
    for byte in GET[:9]:
        connection.data_received(bytes([byte]))
        await asyncio.sleep(1)
    assert transport.closed is None
    connection.data_received(GET[9:10])
    await asyncio.sleep(2)
    assert transport.closed == "closed"


@virtual_time
async def test_a_second_head_has_the_same_time() -> None:
    """The first byte ends uvicorn's own wait for a request on a connection that is kept."""
    connection, transport = connect()
    connection.data_received(GET)
    await asyncio.sleep(1)
    assert transport.written.endswith(b"\r\n\r\n0")
    connection.data_received(GET[:5])
    await asyncio.sleep(HEAD_S - 2)
    assert transport.closed is None
    await asyncio.sleep(3)
    assert transport.closed == "closed"


@virtual_time
async def test_a_head_without_end_is_refused() -> None:
    for line in (b"x-name: %s\r\n" % (b"a" * 1000), b"a" * 1000):  # many fields, and a single one
        connection, transport = connect()
        connection.data_received(GET[:-2] + b"x:")
        for _ in range(MAX_HEAD_BYTES // len(line) - 1):
            connection.data_received(line)
        assert transport.closed is None
        for _ in range(2):
            connection.data_received(line)
        assert transport.closed == "closed"
        assert transport.written.startswith(b"HTTP/1.1 400 ")


@virtual_time
async def test_a_body_is_no_head_and_has_more_time() -> None:
    connection, transport = connect()
    for _ in range(2):  # the second time with the next head in the same piece
        connection.data_received(POST)
        for _ in range(19):
            connection.data_received(bytes(10_000))
            await asyncio.sleep(1)
        connection.data_received(bytes(10_000) + GET)
        await asyncio.sleep(0.1)
        assert transport.closed is None
    connection.data_received(POST)
    connection.data_received(bytes(200_000))
    await asyncio.sleep(0.1)
    assert transport.closed is None
    assert transport.written.count(b"\r\n\r\n200000") == 3
    assert transport.written.count(b"\r\n\r\n0") == 2


@virtual_time
@pytest.mark.parametrize("part", [b"x-name: %s\r\n" % (b"a" * 1000), b"a" * 1000, b"1;%s\r\na\r\n" % (b"e" * 1000)])
async def test_what_is_sent_beside_a_body_is_bounded(part: bytes) -> None:
    """Fields after a body in chunks are kept like those of a head; extensions of a chunk are nobody's."""
    connection, transport = connect()
    connection.data_received(CHUNKED + (b"" if part.startswith(b"1") else b"0\r\nx:"))
    for _ in range(2 * MAX_HEAD_BYTES // len(part)):
        connection.data_received(part)
    assert transport.closed == "closed"


@virtual_time
async def test_a_body_in_small_chunks_is_read() -> None:
    connection, transport = connect()
    connection.data_received(CHUNKED)
    for _ in range(100):
        connection.data_received(1000 * b"1\r\na\r\n")
    connection.data_received(b"0\r\nx-checksum: 1\r\n\r\n")
    await asyncio.sleep(0.1)
    assert transport.closed is None
    assert transport.written.endswith(b"\r\n\r\n100000")


@virtual_time
async def test_requests_in_one_piece_are_answered() -> None:
    connection, transport = connect()
    connection.data_received(5000 * GET)
    await asyncio.sleep(1)
    assert transport.written.count(b"\r\n\r\n0") == 5000
    assert transport.closed is None


@virtual_time
async def test_who_does_not_take_an_answer_is_given_up_and_who_takes_it_slowly_is_not() -> None:
    connection, transport = connect()
    assert transport.high == 0
    connection.data_received(GET)
    await asyncio.sleep(0.1)
    transport.unread = 5000
    connection.pause_writing()
    for transport.unread in (4000, 3000, 2000):  # that the connection closes in good order meanwhile ends no wait
        await asyncio.sleep(UNREAD_S)
        assert transport.closed != "aborted"
    await asyncio.sleep(UNREAD_S + 1)
    assert transport.closed == "aborted"


@virtual_time
async def test_who_has_taken_an_answer_is_not_given_up() -> None:
    connection, transport = connect()
    transport.unread = 5000
    connection.pause_writing()
    connection.resume_writing()
    await asyncio.sleep(2 * UNREAD_S)
    assert transport.closed == "closed"
    connection.connection_lost(None)


class HalfClosing(Transport):
    """A transport that can end what it writes."""

    ended = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Refuse before the body is read, as whoever has no key is."""
    headers = [(b"content-length", b"2"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


def connect_refusing() -> tuple[Any, HalfClosing]:
    connection, _ = connect()
    connection.app = refuse
    transport = HalfClosing()
    connection.connection_made(transport)
    return connection, transport


@virtual_time
async def test_what_remains_of_a_refused_request_is_forgotten_before_the_connection_is_closed() -> None:
    connection, transport = connect_refusing()
    connection.data_received(POST)
    await asyncio.sleep(0.1)
    assert transport.written.endswith(b"\r\n\r\nno")
    assert (transport.ended, transport.closed) == (True, None)
    connection.data_received(bytes(1000))
    await asyncio.sleep(LINGER_S / 2)
    assert transport.closed is None
    await asyncio.sleep(LINGER_S)
    assert transport.closed == "closed"
    assert transport.written.count(b"HTTP/1.1") == 1


@virtual_time
async def test_no_more_of_it_is_read_than_of_a_head() -> None:
    connection, transport = connect_refusing()
    connection.data_received(POST)
    await asyncio.sleep(0.1)
    for _ in range(MAX_HEAD_BYTES // 1000):
        connection.data_received(bytes(1000))
    assert transport.closed is None
    connection.data_received(bytes(1000))
    assert transport.closed == "closed"


@virtual_time
async def test_a_request_that_has_come_whole_is_refused_at_once() -> None:
    connection, transport = connect_refusing()
    connection.data_received(GET)
    await asyncio.sleep(0.1)
    assert transport.written.endswith(b"no")
    assert (transport.ended, transport.closed) == (False, "closed")
