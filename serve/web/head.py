"""HEAD wherever GET is: the same headers without the body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ASKED = "asked_method"
"""Name in `request.state` of the method that the client used."""


class HeadAsGet:
    """ASGI layer that answers HEAD as the routes of GET do, and leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        state = {**scope.get("state", {}), ASKED: "HEAD"}
        await self._app({**scope, "method": "GET", "state": state}, receive, send_head)
