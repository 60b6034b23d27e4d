"""What holds for every call: keys before the message, bounds, deadlines, statuses, and nothing of the inside told."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from serve.dialects.pinecone_api.control import ServedIndex
from serve.grpc_server import exchange
from serve.grpc_server.conversion import write_message
from serve.grpc_server.data_calls import CALLS
from serve.grpc_server.exchange import DataPlane
from serve.grpc_server.messages import MESSAGES
from serve.grpc_server.statuses import STATUS, message_of, status_of, waiting_of
from serve.web.access import KeyRing
from serve.web.errors import STATUS as HTTP_STATUS
from serve.web.exchanges import Exchanges
from shoal.errors import (
    Conflict,
    CorruptIndex,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    RateLimited,
    ShoalError,
    Unavailable,
)
from shoal.serving import keys
from shoal.testing.fakes import serve_settings
from tests.support.api_server import FakeEngine

READER, WRITER, SLOW = keys.make(), keys.make(), keys.make()
LINES = "\n".join(
    [keys.line(READER, "reader"), keys.line(WRITER, "writer", "write"), keys.line(SLOW, "slow", rate="1/s")]
)
VECTOR = [1.0] + [0.0] * 7


class Ended(Exception):
    """How grpcio ends a call."""


class Context:
    """What grpcio gives a handler."""

    def __init__(self, left_s: float | None = None, **metadata: str) -> None:
        self.left_s = left_s
        self.metadata = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        self.sent: dict[str, str] = {}
        self.code, self.details, self.trailing = grpc.StatusCode.OK, "", dict[str, str]()

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.metadata

    def time_remaining(self) -> float | None:
        return self.left_s

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.sent = dict(metadata)

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        self.code, self.details, self.trailing = code, details, dict(metadata)
        raise Ended


class Plane:
    """The data plane over a fake engine."""

    def __init__(self, keyed: bool = False, keyless_writes: bool = True, **settings: Any) -> None:
        self.settings = serve_settings(**settings)
        self.engine = FakeEngine(self.settings)
        self.exchanges = Exchanges()
        ring = KeyRing(None, LINES) if keyed else None
        index = ServedIndex(lambda: self.engine, self.settings)
        self.plane = DataPlane(index, ring, keyless_writes, self.exchanges)
        self.read = 0

    async def ask(self, name: str, context: Context, **fields: Any) -> Any:
        """Returns the answer; None for a call that was ended."""
        return await self.ask_raw(name, context, write_message(f"{name}Request", fields))

    async def ask_raw(self, name: str, context: Context, *messages: bytes) -> Any:
        async def sent() -> AsyncIterator[bytes]:
            for message in messages:
                self.read += 1
                yield message

        call = next(call for call in CALLS if call.name == name)
        try:
            return MESSAGES[f"{name}Response"].FromString(await self.plane._answer(call, sent(), context))
        except Ended:
            return None


async def test_an_answer_has_an_id_and_a_deadline_of_its_own() -> None:
    plane, context = Plane(timeout_ms=4000), Context(x_request_id="mine")
    started = time.monotonic()
    answer = await plane.ask("Query", context, vector=VECTOR, topK=3)
    assert len(answer.matches) == 3
    assert context.sent["x-request-id"] == "mine"
    assert 0 <= plane.engine.requests[0].deadline - started - 4 < 1
    assert plane.exchanges.count == 0


@pytest.mark.parametrize(("left_s", "expected_s"), [(2.0, 1.95), (500.0, 60.0)])
async def test_a_client_says_until_when_it_waits(left_s: float, expected_s: float) -> None:
    plane, started = Plane(timeout_ms=4000, max_timeout_ms=60_000), time.monotonic()
    await plane.ask("Query", Context(left_s), vector=VECTOR, topK=3)
    assert 0 <= plane.engine.requests[0].deadline - started - expected_s < 1


@pytest.mark.parametrize("name", [call.name for call in CALLS])
@pytest.mark.parametrize("shown", [{}, {"api_key": "wrong"}, {"authorization": "Basic eDp5"}])
async def test_nothing_of_a_message_is_taken_without_a_key(name: str, shown: dict[str, str]) -> None:
    plane, context = Plane(keyed=True), Context(**shown)
    assert await plane.ask_raw(name, context, b"\xff") is None
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert ("is no API key" if shown.get("api_key") else "an API key is needed") in context.details
    assert (plane.read, context.sent) == (0, {})


@pytest.mark.parametrize("name", ["Upsert", "Update", "Delete", "DeleteNamespace"])
async def test_who_may_read_may_not_write(name: str) -> None:
    plane, context = Plane(keyed=True), Context(api_key=READER)
    assert await plane.ask_raw(name, context, b"\xff") is None
    assert context.code is grpc.StatusCode.PERMISSION_DENIED
    assert context.details == "the API key reader may read only; use one with the scope write"
    assert plane.read == 0
    beyond = Plane(keyless_writes=False)
    assert await beyond.ask_raw(name, context, b"\xff") is None
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert beyond.read == 0


@pytest.mark.parametrize("shape", [{"api_key": READER}, {"authorization": f"Bearer {READER}"}, {"x_api_key": READER}])
async def test_a_key_is_shown_as_over_http(shape: dict[str, str]) -> None:
    context = Context(**shape)
    assert await Plane(keyed=True).ask("Query", context, vector=VECTOR, topK=1)
    assert READER not in str(context.sent)


async def test_the_rate_of_a_key_holds() -> None:
    plane, context = Plane(keyed=True), Context(api_key=SLOW)
    assert await plane.ask("Query", context, vector=VECTOR, topK=1)
    assert await plane.ask("Query", context, vector=VECTOR, topK=1) is None
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert context.trailing["retry-after"] == "1"
    assert 0 < int(context.trailing["grpc-retry-pushback-ms"]) <= 1000


async def test_what_fails_inside_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    plane, context = Plane(), Context(x_request_id="mine")
    plane.engine.error = RuntimeError("a secret of the inside")
    with caplog.at_level(logging.ERROR):
        assert await plane.ask("Query", context, vector=VECTOR, topK=1) is None
    assert context.code is grpc.StatusCode.INTERNAL
    assert context.details == "the server failed; its log has the reason under request mine"
    assert "a secret of the inside" in caplog.text


async def test_a_message_has_bounds_of_size_and_time() -> None:
    plane, context = Plane(max_body_bytes=1000, max_write_body_bytes=2000, body_timeout_s=0.01), Context()
    for name, most in (("Query", 1000), ("Upsert", 2000)):
        assert await plane.ask_raw(name, context, bytes(most + 1)) is None
        assert context.code is grpc.StatusCode.INVALID_ARGUMENT
        assert context.details == f"the message is larger than {most} bytes; send less at once"
    assert await plane.ask_raw("Query", context) is None
    assert context.details == "a message is needed, and none was sent"

    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    query = next(call for call in CALLS if call.name == "Query")
    with pytest.raises(Ended):
        await plane.plane._answer(query, never(), context)
    assert (context.code, context.details) == (
        grpc.StatusCode.UNAVAILABLE, "the message did not arrive within 0.01 s; send it at once"
    )  # fmt: skip


async def test_a_server_that_stops_takes_no_calls() -> None:
    plane, context = Plane(), Context()
    plane.exchanges.closed = True
    assert await plane.ask("Query", context, vector=VECTOR, topK=1) is None
    assert context.code is grpc.StatusCode.UNAVAILABLE
    assert "is stopping" in context.details
    assert plane.read == 0


async def test_a_partial_answer_says_so_beside_it() -> None:
    plane, context = Plane(), Context()
    plane.engine.shards[1].behaviour.errors = [Unavailable("gone")] * 3
    answer = await plane.ask("Query", context, vector=VECTOR, topK=3)
    assert len(answer.matches) == 3
    assert context.sent["shoal-degraded"]


def test_errors_have_statuses_that_clients_read_as_those_of_http() -> None:
    assert set(STATUS) == set(HTTP_STATUS)
    expected = {
        InvalidArgument: "INVALID_ARGUMENT", CorruptIndex: "FAILED_PRECONDITION", Conflict: "FAILED_PRECONDITION",
        RateLimited: "RESOURCE_EXHAUSTED", Overloaded: "RESOURCE_EXHAUSTED", DeadlineExceeded: "DEADLINE_EXCEEDED",
        ShoalError: "INTERNAL",
    }  # fmt: skip
    assert {kind: status_of(kind("x")).name for kind in expected} == expected
    # Clients that may try again know when, and others do not: the same as those that get Retry-After.
    assert {kind for kind in STATUS if waiting_of(kind("x"))} == {
        kind for kind, status in HTTP_STATUS.items() if status in (429, 503)
    }
    assert len(message_of(InvalidArgument("x" * 9000))) == 2003


async def test_the_way_back_is_part_of_what_a_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "REPLY_S", 5.0)
    plane, context = Plane(), Context(left_s=2.0)
    assert await plane.ask("Query", context, vector=VECTOR, topK=1) is None
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
