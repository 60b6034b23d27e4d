"""What holds for every HTTP exchange, whatever the dialect: a request id, a bound on the body, no stack trace."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import error_response

REQUEST_ID = "x-request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
logger = logging.getLogger(__name__)


class Exchange:
    """Outermost ASGI layer.

    The client's x-request-id is kept if it is sane, else one is made; it is `request.state.request_id` and a header of
    the response unless the server around adds it (`labels` false). A body beyond `max_body_bytes` is refused with 413
    while it is read. What nobody handled is logged with the request id and answered with 500.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, labels: bool) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._labels = labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        async def labelled_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._labels:
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            declared = headers.get("content-length", "0")
            if declared.isdecimal() and int(declared) > self._max_body_bytes:
                refusal = error_response(413, "PAYLOAD_TOO_LARGE", self._too_large, headers={"Connection": "close"})
                await refusal(scope, receive, labelled_send)
            else:
                await self._app(scope, bounded_receive, labelled_send)
        except Exception:
            logger.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            failure = error_response(
                500, "INTERNAL", f"the server failed; its log has the reason under request {request_id}"
            )
            await failure(scope, receive, labelled_send)

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes; send fewer or shorter queries"
