"""The HTTP application over the real pipeline and fake services, and what holds for its answers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import httpx
from pydantic import TypeAdapter

from serve.dialects.native import models as native
from serve.web.api import create_api
from shoal.engine.description import IndexDescription, ModelNames
from shoal.engine.limits import RequestLimits
from shoal.errors import (
    Conflict,
)
from shoal.index_root.version_list import ListedVersion
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    RerankedDocuments,
    SearchAnswer,
    SearchRequest,
)
from shoal.search.embed_stage import EmbedStage
from shoal.search.pipeline import SearchPipeline
from shoal.search.rerank_documents import rerank_documents
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    corpus,
    serve_settings,
    served_version,
)
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written
from tests.support.writing import Writing

PASSAGES = corpus(40, title=True)


class FakeEngine:
    """The real pipeline over two fake shards; remembers its requests and raises `error` if it is set."""

    def __init__(self, settings: Any) -> None:
        self.shards = [FakeShard(PASSAGES[:10]), FakeShard(PASSAGES[10:])]
        self.settings, self.limits = settings, RequestLimits(settings)
        self.encoder, self.reranker = FakeEncoder(), FakeReranker()
        self.pipeline = SearchPipeline(self.encoder, self.shards, self.reranker, settings)
        self.embed_stage = EmbedStage(self.encoder, settings)
        self.pipeline.switch(served_version("v1", [10, 30]))
        self.requests: list[SearchRequest] = []
        self.missing: list[str] = []
        self.error: Exception | None = None
        self.previous: str | None = None

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        self.requests += requests
        if self.error:
            raise self.error
        return await self.pipeline.search_all(requests)

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        if self.error:
            raise self.error
        self.limits.check_embed(texts, deadline, are_queries=input_type == "query")
        return await self.embed_stage.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        if self.error:
            raise self.error
        self.limits.check_rerank(query, documents, deadline)
        return await rerank_documents(self.reranker, query, documents, deadline, self.settings)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = "",
        min_position: int = 0,
    ) -> FetchedPassages:
        return await self.pipeline.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        return await self.pipeline.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        return await self.pipeline.count_namespace(namespace, deadline)

    async def list_ids(
        self, prefix: str, limit: int, cursor: str | None, deadline: float, namespace: str = "", min_position: int = 0
    ) -> ListedIds:
        return await self.pipeline.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    def reranker_scale(self) -> None:
        """It is not known."""

    async def text_field(self) -> str:
        return "text"

    @cached_property
    def writing(self) -> Writing:
        """A writer, for what is written; searches see nothing of it."""
        return Writing(PASSAGES)

    async def write(self, request: WriteRequest) -> Written:
        if self.error:
            raise self.error
        return await self.writing.writer.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        tree = next(iter(request.filter.items())) if request.filter else None
        return await self.writing.writer.delete(request, tree)  # type: ignore[arg-type]

    async def update(self, request: UpdateRequest) -> Updated:
        return await self.writing.writer.update(request)

    async def describe(self) -> IndexDescription:
        assert self.pipeline.version is not None
        return IndexDescription(
            version=self.pipeline.version,
            previous=self.previous,
            created_at="2026-11-22T23:34:11+00:00",
            passages=40,
            shards=2,
            dim=8,
            metric="cosine",
            kind="flat",
            search="",
            recall_at_10=None,
            curve=[],
            modes=["dense"],
            late_interaction="none",
            fields={},
            models=ModelNames("fake", "fake"),
        )

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        assert self.pipeline.version is not None
        listed = [ListedVersion(self.pipeline.version, "current", "2026-11-22T23:34:11+00:00", 40, None)]
        if self.previous is not None:
            listed.append(ListedVersion(self.previous, "previous", None, None, "its manifest cannot be read"))
        return listed

    async def activate(self, version: str) -> None:
        if self.error:
            raise self.error
        self.previous = self.pipeline.version
        self.pipeline.switch(served_version(version, [10, 30]))

    async def rollback(self) -> None:
        if self.previous is None:
            raise Conflict("there is no previous version")
        await self.activate(self.previous)

    async def ready(self) -> list[str]:
        return self.missing


class Server:
    """A client of an application that runs in the same event loop."""

    def __init__(self, **settings: Any) -> None:
        self.settings = serve_settings(**settings)
        self.engine = FakeEngine(self.settings)
        self.app = create_api(lambda: self.engine, self.settings)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://shoal")

    async def post(self, body: Any, **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/search", json=body, **changes)

    async def post_raw(self, content: Any, **headers: str) -> httpx.Response:
        headers = {"content-type": "application/json", **headers}
        return await self.client.post("/v1/search", content=content, headers=headers)


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check everything that holds for every error, and return the message."""
    body = response.json()
    assert response.status_code == body["status"] == status, body
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status in (429, 503))
    error = body["error"]
    assert (error["code"], error["param"]) == (code, param), body
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    assert error["message"] == body["message"] == body["detail"]
    assert "Traceback" not in response.text
    message: str = error["message"]
    return message


def answer_of(response: httpx.Response) -> native.SearchResponse:
    """Check a response against the model that OpenAPI declares."""
    assert response.status_code == 200, response.text
    return TypeAdapter(native.SearchResponse).validate_json(response.content, strict=True)
