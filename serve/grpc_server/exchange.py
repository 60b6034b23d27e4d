"""What holds for every call over gRPC, as `serve.web` has it for HTTP: ids, keys, bounds, no stack trace."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from starlette.datastructures import Headers

from serve.dialects.common.calls import deadline_of
from serve.dialects.pinecone_api.control import ServedIndex
from serve.dialects.pinecone_api.writes import write_deadline
from serve.grpc_server.data_calls import CALLS, SERVICE, DataCall
from serve.grpc_server.statuses import message_of, status_of, waiting_of
from serve.web.access import KeyRing, admit, granted
from serve.web.exchanges import Exchanges, stopping_error
from serve.web.middleware import REQUEST_ID, request_id_of
from shoal.errors import InvalidArgument, ShoalError, Unavailable
from shoal.system import tracing

REPLY_S = 0.05
"""Seconds of a client's deadline that are for the way back of its answer."""

logger = logging.getLogger("ray.serve")


class DataPlane:
    """The calls of Pinecone's data plane over gRPC.

    A key is looked at before anything of a message is taken from the connection.

    Args:
        index: What is served.
        keys: Who may ask; None lets everybody read.
        keyless_writes: Whether, without keys, everybody may write too.
        exchanges: Counts the calls that are under way, with those over HTTP.
    """

    def __init__(
        self, index: ServedIndex, keys: KeyRing | None, keyless_writes: bool, exchanges: Exchanges | None = None
    ) -> None:
        self._index = index
        self._keys = keys
        self._asks_keys = keys is not None or not keyless_writes
        self._exchanges = exchanges if exchanges is not None else Exchanges()

    def handler(self) -> Any:
        """What a server of grpcio is given."""
        # As if clients could send several messages, which only then are taken when they are asked for. Messages come
        # and go as bytes, since what is sent must not be read before the key is.
        methods = {call.name: grpc.stream_unary_rpc_method_handler(partial(self._answer, call)) for call in CALLS}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _answer(self, call: DataCall, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """Answer one call, or end it with the status of what was wrong."""
        headers = Headers(raw=[_header(key, value) for key, value in context.invocation_metadata() or ()])
        request_id = request_id_of(headers)
        tracing.work_for((request_id,))
        try:
            if self._exchanges.closed:
                raise stopping_error()
            with self._exchanges.one_more():
                answer, beside = await self._admitted(call, headers, messages, context)
            await context.send_initial_metadata(_metadata(beside | {REQUEST_ID: request_id}))
            return answer
        except ShoalError as error:
            refusal, waiting = error, waiting_of(error)
        except Exception:
            logger.exception("request %s: %s failed", request_id, call.name, extra=tracing.fields())
            refusal = ShoalError(f"the server failed; its log has the reason under request {request_id}")
            waiting = {}
        # Nothing was sent before: a client tries again only where there was nothing but the end of a call.
        await context.abort(status_of(refusal), message_of(refusal), _metadata(waiting | {REQUEST_ID: request_id}))
        raise AssertionError("abort raises")

    async def _admitted(
        self, call: DataCall, headers: Headers, messages: AsyncIterator[bytes], context: Any
    ) -> tuple[bytes, dict[str, str]]:
        grant = admit(self._keys, headers, call.scope) if self._asks_keys else None
        with granted(grant, self._keys):
            data = await self._message(call, messages)
            return await call.run(self._index, data, self._deadline(call, context))

    async def _message(self, call: DataCall, messages: AsyncIterator[bytes]) -> bytes:
        settings = self._index.settings
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                data = await anext(aiter(messages))
        except TimeoutError:
            raise Unavailable(
                f"the message did not arrive within {settings.body_timeout_s:g} s; send it at once"
            ) from None
        except StopAsyncIteration:
            raise InvalidArgument("a message is needed, and none was sent") from None
        most = settings.max_write_body_bytes if call.scope == "write" else settings.max_body_bytes
        if len(data) > most:
            raise InvalidArgument(f"the message is larger than {most} bytes; send less at once")
        return data

    def _deadline(self, call: DataCall, context: Any) -> float:
        """When a call must be answered: as its client says, but not later than a request over HTTP may have it."""
        settings = self._index.settings
        left_s: float | None = context.time_remaining()
        if left_s is None:
            return write_deadline(settings) if call.scope == "write" else deadline_of(settings)
        most_ms = settings.write_timeout_ms if call.scope == "write" else settings.max_timeout_ms
        return time.monotonic() + min(left_s - REPLY_S, most_ms / 1000)


def _header(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    return key.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace")


def _metadata(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value.encode("ascii", "replace").decode()) for name, value in headers.items())
