"""`/mcp`: the tools for assistants, answered by the engine of this server behind the keys and names of all routes.

The SDK takes a second to import, so it is loaded with the first request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serve.dialects.base import Engine
from shoal.client.answers import FetchResponse, IndexDescription, SearchResponse
from shoal.engine.calls import EngineCalls
from shoal.errors import InvalidArgument, NotFound
from shoal.mcp_tools.server import make_server, require_sdk
from shoal.settings import ServeSettings

PATH = "/mcp"
"""Where assistants ask, by streamable HTTP."""


class EngineAsker:
    """Answers the tools by the engine behind the routes; calls are checked, counted and charged as those of clients."""

    def __init__(self, engine: Callable[[], Engine], settings: ServeSettings) -> None:
        self._calls = EngineCalls(_EngineOfServer(engine, settings))  # type: ignore[arg-type]  # the calls that are used

    async def search(self, query: str | None, /, **options: Any) -> SearchResponse:
        """Search for one query, or for passages like one."""
        response = await self._calls.search(query, options)
        assert isinstance(response, SearchResponse)  # of one query
        return response

    async def fetch(self, ids: Sequence[str], /) -> FetchResponse:
        """Fetch passages by their ids."""
        return await self._calls.fetch(ids, None)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        return await self._calls.describe()


class _EngineOfServer:
    """The engine of a server, which is there only when a request is, with its settings."""

    def __init__(self, engine: Callable[[], Engine], settings: ServeSettings) -> None:
        self._engine = engine
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine(), name)


class McpEndpoint:
    """An ASGI application that answers MCP without sessions, each request by itself.

    Args:
        asker: Answers the tools.
        max_body_bytes: Of a request.
    """

    def __init__(self, asker: EngineAsker, max_body_bytes: int) -> None:
        self._asker = asker
        self._max_body_bytes = max_body_bytes
        self._starting = asyncio.Lock()
        self._manager: Any = None
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises NotFound where the SDK is not installed."""
        await (await self._started()).handle_request(scope, receive, send)

    async def _started(self) -> Any:
        async with self._starting:
            if self._manager is None:
                manager = await asyncio.to_thread(self._make)
                ready = asyncio.get_running_loop().create_future()
                # A task of its own: what is started in a request would end with it.
                self._running = asyncio.create_task(self._run(manager, ready))
                await ready
                self._manager = manager
        return self._manager

    def _make(self) -> Any:
        try:
            require_sdk()
        except InvalidArgument as error:
            raise NotFound(f"this server does not answer MCP: {error.message}") from None
        from mcp.server.transport_security import TransportSecuritySettings

        server = make_server(self._asker)
        server.streamable_http_app(
            json_response=True,
            stateless_http=True,
            max_request_body_size=self._max_body_bytes,
            # The server has checked names and origins for all of its routes.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        return server.session_manager

    async def _run(self, manager: Any, ready: "asyncio.Future[None]") -> None:
        async with manager.run():
            ready.set_result(None)
            await self._stop.wait()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """End what answers with the application."""
        yield
        self._stop.set()
        if self._running is not None:
            await self._running


def add_mcp(app: FastAPI, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    """Answer assistants at PATH, until the application ends.

    With POST alone: GET would open a stream on which nothing ever comes, and which a server that stops waits for.
    """
    endpoint = McpEndpoint(EngineAsker(engine, settings), settings.max_body_bytes)
    app.router.routes.append(Route(PATH, endpoint=endpoint, methods=["POST"]))
    app.router.lifespan_context = endpoint.lifespan
