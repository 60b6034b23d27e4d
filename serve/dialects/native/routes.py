"""The routes of Shoal's own dialect."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from serve.dialects.base import Engine
from serve.dialects.native.index_routes import add_indexes
from serve.dialects.native.model_routes import add_models
from serve.dialects.native.models import (
    FetchResponse,
    IndexInfo,
    ListResponse,
    NamespacesResponse,
    SearchResponse,
    SearchResponses,
    VersionsResponse,
)
from serve.dialects.native.render import render, render_fetched, render_search
from serve.dialects.native.write_routes import add_writes
from serve.web.access import with_problem
from serve.web.errors import responses
from serve.web.indexes import Indexes
from serve.web.json_body import JsonRoute
from serve.web.scopes import ADMIN
from shoal.engine.answer_fields import list_fields, namespaces_fields
from shoal.engine.request_models import (
    ActivateBody,
    FetchFields,
    ListFields,
    NamespacesFields,
    RollbackBody,
    SearchFields,
    VersionsFields,
    fetch_body,
    list_query,
    namespaces_query,
    search_body,
    versions_query,
)
from shoal.settings import ServeSettings

FEW_RESULTS = 50
"""Results that take less time to serialise than to hand over to a thread; with vectors a few milliseconds."""


def router(engine: Indexes, settings: ServeSettings) -> APIRouter:
    """Build the routes of this dialect. All limits come from the settings."""
    routes = APIRouter(prefix="/v1", tags=["native"], route_class=JsonRoute)
    _add_search(routes, engine, settings)
    _add_passages(routes, engine, settings)
    _add_namespaces(routes, engine, settings)
    add_writes(routes, engine, settings)
    add_models(routes, engine, settings)
    _add_index(routes, engine)
    _add_versions(routes, engine, settings)
    add_indexes(routes, engine)
    return routes


def _add_search(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    SearchBody = search_body(settings)

    @routes.post(
        "/search",
        response_model=SearchResponse | SearchResponses,
        responses=responses(400, 404, 408, 413, 415, 429, 500, 503, 504),
    )
    async def search(body: SearchBody, request: Request) -> Response:  # type: ignore[valid-type]
        """Search with both stages.

        A shard or a reranker that is late is left out: the status is 200, and `coverage` and `degraded` say what is
        missing.
        """
        return await _search(engine(), settings, body, request.state.request_id)


async def _search(engine: Engine, settings: ServeSettings, body: SearchFields, request_id: str) -> Response:
    requests, size = body.requests(settings, time.monotonic())
    answers = await engine.search(requests)
    response = partial(render_search, answers, request_id, body.include, several=body.is_several)
    return await run_in_threadpool(response) if size > FEW_RESULTS else response()


def _add_passages(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    FetchBody, ListQuery = fetch_body(settings), list_query(settings)

    @routes.post(
        "/passages/fetch",
        response_model=FetchResponse,
        responses=responses(400, 408, 413, 415, 429, 500, 503, 504),
    )
    async def fetch(body: FetchBody) -> Response:  # type: ignore[valid-type]
        """Fetch passages by their ids.

        Where a shard did not answer, the status is 200 and `degraded` says so.
        """
        fields: FetchFields = body
        fetched = await engine().fetch(
            fields.ids, _deadline(settings), "vector" in fields.include, fields.namespace, fields.min_position
        )
        response = partial(render_fetched, fetched, fields.include)
        return await run_in_threadpool(response) if len(fields.ids) > FEW_RESULTS else response()

    @routes.get("/passages", response_model=ListResponse, responses=responses(400, 429, 500, 503, 504))
    async def list_ids(query: Annotated[ListQuery, Query()]) -> Response:  # type: ignore[valid-type]
        """List the ids of passages, a page at a time; a page is whole or refused."""
        fields: ListFields = query
        listed = await engine().list_ids(
            fields.prefix, fields.limit, fields.cursor, _deadline(settings), fields.namespace, fields.min_position
        )
        return render(list_fields(listed))


def _add_namespaces(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    NamespacesQuery = namespaces_query(settings)

    @routes.get("/namespaces", response_model=NamespacesResponse, responses=responses(400, 429, 500, 503, 504))
    async def namespaces(query: Annotated[NamespacesQuery, Query()]) -> Response:  # type: ignore[valid-type]
        """List the namespaces that have passages, and how many each has, a page at a time."""
        fields: NamespacesFields = query
        listed = await engine().list_namespaces(fields.prefix, fields.limit, fields.cursor, _deadline(settings))
        return render(namespaces_fields(listed))


def _deadline(settings: ServeSettings) -> float:
    """When a request must be answered that cannot name its time."""
    return time.monotonic() + min(settings.timeout_ms, settings.max_timeout_ms) / 1000


def _add_index(routes: APIRouter, engine: Callable[[], Engine]) -> None:
    @routes.get("/index", response_model=IndexInfo, responses=responses(503))
    async def index() -> Response:
        """Describe the index and the models that are served."""
        return render(with_problem(await engine().describe()))


def _add_versions(routes: APIRouter, engine: Callable[[], Engine], settings: ServeSettings) -> None:
    VersionsQuery = versions_query(settings)

    @routes.get(
        "/index/versions",
        response_model=VersionsResponse,
        dependencies=[ADMIN],
        responses=responses(400, 403, 503),
    )
    async def versions(query: Annotated[VersionsQuery, Query()]) -> Response:  # type: ignore[valid-type]
        """List the published versions, newest first, for whoever may serve another one."""
        fields: VersionsFields = query
        return render({"versions": [asdict(each) for each in await engine().list_versions(fields.limit)]})

    @routes.post(
        "/index/activate",
        response_model=IndexInfo,
        dependencies=[ADMIN],
        responses=responses(400, 403, 404, 408, 409, 413, 415, 503, 504),
    )
    async def activate(body: ActivateBody) -> Response:
        """Serve another published version. Searches go on meanwhile, and none mixes two versions."""
        await engine().activate(body.version)
        return render(with_problem(await engine().describe()))

    @routes.post(
        "/index/rollback",
        response_model=IndexInfo,
        dependencies=[ADMIN],
        responses=responses(400, 403, 408, 409, 413, 415, 503, 504),
    )
    async def rollback(body: RollbackBody) -> Response:
        """Serve the previous version again; it is still loaded."""
        await engine().rollback()
        return render(with_problem(await engine().describe()))
