"""The HTTP application: every dialect, health, documentation. Free of Ray; the engine behind it is injected."""

import html
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from serve.dialects import Dialect, dialects
from serve.dialects.base import Engine
from serve.web import access, errors
from serve.web.body_limits import BodyLimits
from serve.web.compression import AnswerEncoder, BodyDecoder
from serve.web.exchanges import ExchangeCounter, Exchanges
from serve.web.head import HeadAsGet
from serve.web.index_paths import IndexPaths, describe_paths
from serve.web.indexes import Indexes, indexes_of
from serve.web.mcp_endpoint import add_mcp
from serve.web.middleware import REQUEST_ID, RequestGuard
from serve.web.origins import OriginGuard
from serve.web.request_spans import RequestSpans
from serve.web.scopes import RouteScopes
from serve.web.static_page import add_page
from shoal import __version__
from shoal.settings import ServeSettings
from shoal.system import spans

DESCRIPTION = """Two-stage semantic retrieval: nearest passages from every shard of an index, then a reranker.

Every response carries `x-request-id` (yours, if you send one). Every error has the same body."""
"""What the documentation of the API begins with."""
KEYED = """

An API key is needed: `Authorization: Bearer KEY`, or the header `api-key` or `x-api-key`."""
"""Added to it where keys are needed."""
UNTOLD = "something cannot be searched yet; the server's log says what, and GET /v1/index may, which needs an API key"
"""What strangers are told of a server that is not ready."""

logger = logging.getLogger("ray.serve")


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Every shard of the active version can be searched."""

    ready: Literal[True] = True


class NotReady(errors.ErrorBody):
    """Something cannot be searched yet."""

    missing: list[str]


class DescribedApi(FastAPI):
    """An application whose OpenAPI document is made when it is asked for: that takes longer than all the rest of it.

    Args:
        describers: Add to the document.
        options: Of `FastAPI`.
    """

    def __init__(self, describers: Sequence[Callable[[dict[str, Any]], None]], **options: Any) -> None:
        super().__init__(**options)
        self._describers = describers
        self._described: dict[str, Any] | None = None

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document: dict[str, Any] = super().openapi()
        if document is not self._described:  # FastAPI makes it again after routes were added
            for describe in self._describers:
                describe(document)
            self._described = document
        return document


def create_api(
    engine: Engine | Callable[[], Engine] | Indexes,
    settings: ServeSettings,
    *,
    keys: access.KeyRing | None = None,
    keyless_writes: bool = True,
    hosts: Sequence[str] | None = None,
    exchanges: Callable[[], Exchanges] | None = None,
    adds_request_id: bool = True,
) -> FastAPI:
    """Build the application over several indexes, over one engine, or over a function that gives it when it is needed.

    Args:
        engine: What answers.
        settings: Of the server; where there are several indexes, of all.
        keys: Who may ask; None lets everybody.
        keyless_writes: Whether, without keys, everybody may change passages and what is served too.
        hosts: Names by which the server may be asked; None for any.
        exchanges: Gives what counts the exchanges that are under way; None counts none.
        adds_request_id: Whether responses get the header x-request-id; Ray Serve adds it to them anyway.
    """
    app = DescribedApi(
        [describe_paths, *([access.describe_keys] if keys is not None else [])],
        title="Shoal",
        version=__version__,
        description=DESCRIPTION + (KEYED if keys else ""),
        docs_url=None,
        redoc_url=None,
        # A redirect would need a URL made from whatever the client has sent as one.
        redirect_slashes=False,
    )
    indexes = indexes_of(engine, settings)
    served = list(dialects(indexes, settings))
    _add_layers(app, settings, served, keys, keyless_writes)
    _add_guards(app, hosts, settings.cors_origin or [])
    if exchanges is not None:
        app.add_middleware(ExchangeCounter, exchanges=exchanges)
    _add_request_guard(app, settings, served, adds_request_id)
    # Added last, it is the outermost layer: all others see the paths of the routes.
    app.add_middleware(IndexPaths)
    errors.install(app)
    for dialect in served:
        app.include_router(dialect.router)
    _add_health(app, indexes, keyed=keys is not None)
    _add_pages(app, settings)
    if settings.mcp:
        add_mcp(app, indexes, settings)
    return app


def _add_layers(
    app: FastAPI,
    settings: ServeSettings,
    served: Sequence[Dialect],
    keys: access.KeyRing | None,
    keyless_writes: bool,
) -> None:
    """Add the layers next to the routes: what packs bodies, and who may ask."""
    scopes = _scopes(served)
    # Added first, it is the innermost layer.
    app.add_middleware(BodyDecoder, limits=_body_limits(settings, scopes))
    app.add_middleware(AnswerEncoder, least_bytes=settings.compress_bytes)
    app.add_middleware(HeadAsGet)  # around what packs answers: a packed one has other headers
    if keys is not None or not keyless_writes:
        app.add_middleware(access.Access, keys=keys, scopes=scopes)


def _add_request_guard(app: FastAPI, settings: ServeSettings, served: Sequence[Dialect], adds_request_id: bool) -> None:
    """Add the layer of what holds for every exchange."""
    app.add_middleware(
        RequestGuard,
        limits=_body_limits(settings, _scopes(served)),
        body_timeout_s=settings.body_timeout_s,
        labels=adds_request_id,
        error_bodies={d.router.prefix: d.error_body for d in served if d.error_body and d.router.prefix},
        error_body_choosers=[dialect.choose_error_body for dialect in served if dialect.choose_error_body],
    )
    if spans.start():  # around all that takes time
        app.add_middleware(RequestSpans)


def _scopes(served: Sequence[Dialect]) -> RouteScopes:
    return RouteScopes(route for dialect in served for route in dialect.router.routes)


def _body_limits(settings: ServeSettings, scopes: RouteScopes) -> BodyLimits:
    def of_writes(scope: Scope) -> int:
        return settings.max_write_body_bytes if scopes.wanted(scope) == "write" else 0

    return BodyLimits(settings.max_body_bytes, of_writes)


def _add_guards(app: FastAPI, hosts: Sequence[str] | None, origins: Sequence[str]) -> None:
    """Add the layers that decide by which name, and from which pages, may be asked."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=[
                "authorization",
                "api-key",
                "x-api-key",
                "content-type",
                "content-encoding",
                "idempotency-key",
                REQUEST_ID,
            ],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
    app.add_middleware(OriginGuard, hosts=hosts, origins=origins)


def _add_pages(app: FastAPI, settings: ServeSettings) -> None:
    """Add what people open in a browser."""
    if settings.page:
        add_page(app)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _docs(app)


def _add_health(app: FastAPI, indexes: Indexes, keyed: bool) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Alive:
        """Say that the process lives."""
        return Alive()

    lacking: list[str] = []
    not_ready = errors.responses(503)
    not_ready[503]["model"] = NotReady

    @app.get("/readyz", tags=["health"], response_model=Ready, responses=not_ready)
    async def readyz() -> Ready | Response:
        """Say whether every shard has a replica with the active version."""
        nonlocal lacking
        before, lacking = lacking, await indexes.ready()
        if not lacking:
            return Ready()
        message, missing = f"not ready: {', '.join(lacking)}", lacking
        if keyed:
            # It names versions and places, and whoever asks here has shown no key.
            if lacking != before:
                logger.warning("%s", message)
            message, missing = f"not ready: {UNTOLD}", [UNTOLD]
        return errors.error_response(503, "UNAVAILABLE", message, missing=missing)


def _docs(app: FastAPI) -> HTMLResponse:
    """Swagger UI, which comes from a CDN, over a plain list of routes that is there without it."""
    page = get_swagger_ui_html(openapi_url="openapi.json", title="Shoal", swagger_favicon_url="data:,")
    routes = "".join(
        f"<li><code>{method.upper()} {html.escape(path)}</code> {html.escape(operation.get('description', ''))}</li>"
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    )
    plain = f'<h1>Shoal</h1><p>The full description is <a href="openapi.json">openapi.json</a>.</p><ul>{routes}</ul>'
    opening = '<div id="swagger-ui">'
    return HTMLResponse(bytes(page.body).decode().replace(opening, opening + plain, 1))
