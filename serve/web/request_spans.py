"""The span of each HTTP request, in the trace that its client names or in one of its own."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.system import spans

UNTRACED = frozenset({"/healthz", "/readyz"})
"""Paths that are asked every second, by machines."""
TRACE_RESPONSE = "traceresponse"
"""The header of an answer that names the trace of its request, as a draft of the W3C has it."""


class RequestSpans:
    """ASGI layer that makes a span of each exchange, which the work for it is done under.

    The headers `traceparent` and `tracestate` are taken as W3C Trace Context has them; what is none begins a trace.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in UNTRACED:
            await self._app(scope, receive, send)
            return
        headers, method = Headers(scope=scope), scope["method"]
        place = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with spans.received(method, [place], {"http.request.method": method}) as work:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note(work, scope, message["status"])
                    if (response := work.carrier()) and "traceparent" in response:
                        MutableHeaders(scope=message)[TRACE_RESPONSE] = response["traceparent"]
                await send(message)

            await self._app(scope, receive, answer)


def _note(work: spans.Work, scope: Scope, status: int) -> None:
    """Let a span say which route answered, how, and under which id of the request."""
    # Of the path nothing but its pattern: it may hold ids.
    pattern = getattr(scope.get("route"), "path", None)
    if pattern is not None:
        work.rename(f"{scope['method']} {pattern}")
    said: dict[str, str | int] = {
        "http.response.status_code": status,
        "shoal.request_id": str(scope.get("state", {}).get("request_id", "")),
        **({} if pattern is None else {"http.route": pattern}),
    }
    work.describe(lambda: said)
    if status >= 500:
        work.fail(str(status))
