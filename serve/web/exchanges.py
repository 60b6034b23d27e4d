"""The HTTP exchanges of a replica that are under way, so that a server that stops finishes them first."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.web.errors import response_of
from shoal.errors import Unavailable

HEALTH = frozenset({"/healthz"})
"""Paths that are answered to the last, and that nobody waits for."""


class Exchanges:
    """Counts the exchanges that are under way, and lets no more in once it was told so."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = False
        self._none_left = asyncio.Event()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count an exchange for as long as the block lasts."""
        self.count += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self.count -= 1
            if self.count == 0:
                self._none_left.set()

    async def finish(self, deadline: float) -> int:
        """Wait until no exchange is under way, or until a deadline of `time.monotonic`; returns how many still are."""
        if self.count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), max(0.0, deadline - time.monotonic()))
        return self.count


def stopping_error() -> Unavailable:
    """What a request is told that comes when no more are let in."""
    return Unavailable("this server is stopping; ask another, or again when it is back", retry_after_s=1)


class ExchangeCounter:
    """ASGI layer that counts exchanges, and refuses them with 503 once they are closed.

    Args:
        app: What answers.
        exchanges: Gives the count of this replica.
    """

    def __init__(self, app: ASGIApp, exchanges: Callable[[], Exchanges]) -> None:
        self._app = app
        self._exchanges = exchanges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in HEALTH:
            await self._app(scope, receive, send)
            return
        exchanges = self._exchanges()
        if exchanges.closed:
            await response_of(stopping_error(), {"Connection": "close"}, scope)(scope, receive, send)
            return
        with exchanges.one_more():
            await self._app(scope, receive, send)
