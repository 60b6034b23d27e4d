"""What holds for every HTTP exchange, whatever the dialect: a request id, bounds on the body, no stack trace."""

import asyncio
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.web.body_limits import BodyLimits
from serve.web.errors import ErrorBodyChooser, ErrorBodyMaker, choose_error_body, error_response
from shoal.system import tracing

REQUEST_ID = "x-request-id"
"""The header of a request's id."""
SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Ids of clients that are taken over; any other is replaced."""
logger = logging.getLogger(__name__)


class RequestGuard:
    """Outermost ASGI layer: what holds for every HTTP exchange.

    The client's x-request-id is kept if it is sane, else one is made; it is `request.state.request_id`, what log lines
    name, and a header of the response. What nobody handled is logged with the request id and answered with 500.

    Args:
        app: The layer inside.
        limits: Of bodies. One beyond its limit is refused with 413, as soon as that much has been read.
        body_timeout_s: Seconds for a body to arrive, after which it is refused with 408.
        labels: False if the server around adds x-request-id to responses.
        error_bodies: What makes the bodies of errors below a path, for dialects that have bodies of their own.
        error_body_choosers: The same for dialects that share their paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: BodyLimits,
        body_timeout_s: float,
        labels: bool,
        error_bodies: Mapping[str, ErrorBodyMaker] = MappingProxyType({}),
        error_body_choosers: Sequence[ErrorBodyChooser] = (),
    ) -> None:
        self._app = app
        self._error_body_choosers = error_body_choosers
        self._error_bodies = error_bodies
        self._limits = limits
        self._body_timeout_s = body_timeout_s
        self._labels = labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        choose_error_body(scope, self._error_bodies, self._error_body_choosers)
        tracing.work_for((request_id,))
        started = False

        async def labelled_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._labels:
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            declared = headers.get("content-length", "0")
            exceeded = self._limits.exceeded(int(declared), scope) if declared.isdecimal() else None
            if exceeded is not None:
                refusal = error_response(
                    413, "PAYLOAD_TOO_LARGE", _too_large(exceeded), headers={"Connection": "close"}, scope=scope
                )
                await refusal(scope, receive, labelled_send)
            else:
                await self._app(scope, self._bounded(receive, scope), labelled_send)
        except Exception:
            logger.exception(
                "request %s: %s %s failed", request_id, scope["method"], scope["path"], extra=tracing.fields()
            )
            if started:
                raise
            failure = error_response(
                500, "INTERNAL", f"the server failed; its log has the reason under request {request_id}", scope=scope
            )
            await failure(scope, receive, labelled_send)

    def _bounded(self, receive: Receive, scope: Scope) -> Receive:
        """Receive a body within its limits of size and time, and after it what ends the exchange."""
        complete = False
        received = 0
        latest = asyncio.get_running_loop().time() + self._body_timeout_s

        async def bounded_receive() -> Message:
            nonlocal received, complete
            if complete:  # what is waited for now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(latest):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, too_slow(self._body_timeout_s), {"Connection": "close"}) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if (exceeded := self._limits.exceeded(received, scope)) is not None:
                raise HTTPException(413, _too_large(exceeded), {"Connection": "close"})
            return message

        return bounded_receive


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes; send fewer or shorter queries or passages"


def request_id_of(headers: Headers) -> str:
    """The id of a request: its client's, if that is sane, or a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if SANE_ID.fullmatch(given) else uuid.uuid4().hex


def too_slow(body_timeout_s: float) -> str:
    """What a client is told whose body did not arrive in time."""
    return f"the body did not arrive within {body_timeout_s:g} s; send it at once"
