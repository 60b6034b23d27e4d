"""Clients of a Shoal server, for blocking code and for asyncio.

with shoal.Client("http://127.0.0.1:8000") as client:
    for result in client.search("how do fish sleep", top_n=3).results:
        print(result.score, result.text)

Long because the calls of both clients stand together.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

import httpx

from shoal.client.answer_body import AnswerBody
from shoal.client.answers import (
    EmbedResponse,
    FetchResponse,
    IndexDescription,
    ListResponse,
    RerankResponse,
    SearchResponse,
)
from shoal.client.indexes import AsyncClientIndexes, ClientIndexes
from shoal.client.many import CONCURRENCY, Progress, search_many, search_many_async
from shoal.client.namespaces import AsyncClientNamespaces, ClientNamespaces
from shoal.client.options import Document, EmbedOptions, InputType, RerankOptions
from shoal.client.protocol import DIRECT, ClientProtocol, Steps, Wait, split_url
from shoal.client.writing import AsyncClientWrites, ClientWrites
from shoal.errors import InvalidArgument
from shoal.modes import Mode
from shoal.system.version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
"""Server that is asked unless a URL or SHOAL_URL names another one."""
T = TypeVar("T")
Part = Literal["text", "metadata", "vector"]
"""What an answer may hold of a passage."""


class SearchOptions(TypedDict, total=False):
    """Options of a search; one that is left out has the server's default."""

    top_k: int
    """Candidates taken from stage one."""
    top_n: int
    """Results returned after reranking."""
    rerank: bool | Literal["late", "read"]
    """Whether the server's reranker orders the candidates; "late": the token vectors that the shards hold; "read": the
    reranker reads the texts, whatever the shards hold."""
    mode: Mode
    """How stage one searches: by vectors, by words or by both."""
    include: Sequence[Part]
    timeout_ms: int
    """Deadline at the server: what is not finished by then is left out and named in `degraded`."""
    explain: bool
    instruction: str
    """What the query looks for, in words, for encoders that read an instruction; by default that of the index."""
    correct_spelling: bool
    """Whether words that no passage holds are taken for others one slip away; `warnings` names them."""
    recall: float
    """Share of the ten nearest passages that stage one shall find, such as 0.99; by default as tuned."""
    vector: Any
    """What stage one searches by, instead of a query or of the query's own vector: a list of numbers, an array, base64
    of float32 numbers, or a list of these, which gives a list of responses."""
    id: str
    """Passages like the one with this id: stage one searches by its vector, and itself it is no result."""
    filter: Mapping[str, Any]
    """Conditions on metadata, such as {"year": {"$gte": 2020}}, that every result fulfils."""
    namespace: str
    """Whose passages are searched; by default those of the default namespace, never those of all."""
    group_by: Mapping[str, Any]
    """{"field": NAME or "$document", "size": 2}: results in groups, which `top_n` then counts."""
    collapse: bool
    """Return only the best of passages with equal texts."""
    min_score: float
    """What the score of a result is at least."""
    highlight: bool
    """Point out the best sentence of each result."""
    order_by: Mapping[str, Any]
    """{"field": "year", "descending": True}: all that fulfil the filter in the order of a field, whatever the query."""
    after: str
    """`next` of the page before."""
    diversity: float
    """From 0, where scores alone choose among the candidates, to 1, where difference does."""
    min_position: int
    """Position that a write was answered with: the answer has seen it and all writes before it."""
    consistency: Literal["strong"]
    """The answer has seen all writes that were acknowledged before; by default it may be a second behind."""
    facets: Sequence[str | Mapping[str, Any]]
    """Fields whose values are counted over all that fulfil the filter: names, or {"field": "year", "limit": 5}."""


_USER_INFORMATION = re.compile(r"//[^/@]*@")
"""A name and password within a URL, which no message repeats."""


class _Base:
    """What both clients are made from."""

    def __init__(
        self, url: str | None, api_key: str | None, timeout_s: float, attempts: int, index: str | None
    ) -> None:
        url = (url or os.environ.get("SHOAL_URL") or DEFAULT_URL).rstrip("/")
        url, index = split_url(url, index)
        self._url = url
        shown = _USER_INFORMATION.sub("//", url)
        try:
            valid = httpx.URL(url).scheme in ("http", "https") and httpx.URL(url).host
        except httpx.InvalidURL:
            valid = False
        if not valid:
            raise InvalidArgument(f"{shown!r} is not the URL of a server, such as {DEFAULT_URL}", param="url")
        if attempts < 1:
            raise InvalidArgument(f"attempts must be at least 1, not {attempts}", param="attempts")
        api_key = (api_key or os.environ.get("SHOAL_API_KEY", "")).strip()
        self._headers = {"user-agent": f"shoal/{__version__}", "accept-encoding": "gzip"}
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            # What httpx says of it would hold the key.
            raise InvalidArgument(
                "the API key holds characters that no key has; correct SHOAL_API_KEY", param="api_key"
            )
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._protocol = ClientProtocol(shown, timeout_s, attempts, index)


class Client(ClientWrites, ClientNamespaces, ClientIndexes, _Base):
    """A client for blocking code; safe for several threads. Close it, or use it in a `with` statement.

    Every call raises the classes of `shoal.errors`, with the server's message; InvalidArgument also for what cannot be
    sent as JSON, such as NaN.

    Args:
        url, api_key: Of the server; by default SHOAL_URL or http://127.0.0.1:8000, and SHOAL_API_KEY or no key. A URL
            that ends in /v1/indexes/NAME is that of one of several indexes.
        timeout_s: Seconds that a call waits at most, with all its attempts together, for a connection or for the next
            byte of an answer. An answer that keeps arriving is read to its end, or until it is too large
            (`shoal.client.answer_body`).
        attempts: How often a call is sent at most when the server is overloaded, unavailable (429, 503) or out of
            reach.
        index: Name of the index that is asked, where the server has several; by default its default one.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
        index: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, attempts, index)
        self._http = httpx.Client(base_url=self._url, headers=self._headers, transport=transport, mounts=DIRECT)

    @overload
    def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResponse: ...
    @overload
    def search(self, query: list[str], **options: Unpack[SearchOptions]) -> list[SearchResponse]: ...
    @overload
    def search(self, query: None = None, **options: Unpack[SearchOptions]) -> Any: ...
    def search(
        self, query: str | list[str] | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResponse | list[SearchResponse]:
        """Search for one query, or for several at once; one response for each query, in their order.

        Without a query `vector` or `id` says what to look for, and nothing is searched by words or reranked.
        """
        return self._run(self._protocol.search(query, options))

    def search_many(
        self,
        queries: Iterable[str],
        *,
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResponse]:
        """Search for any number of queries, `concurrency` of them at once; one response for each, in their order.

        Args:
            progress: Called after each answer with the numbers of those that are there and of all.
        """
        return search_many(lambda query: self.search(query, **options), queries, concurrency, progress)

    def fetch(
        self, ids: Sequence[str], *, include: Sequence[Part] | None = None, namespace: str = "", min_position: int = 0
    ) -> FetchResponse:
        """Fetch passages by their ids, in the order asked; ids that there are none of are in `missing`.

        Args:
            include: Parts of each passage, of text, metadata and vector; by default the first two.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return self._run(self._protocol.fetch(ids, include, namespace, min_position))

    def embed(self, inputs: Sequence[str], input_type: InputType, **options: Unpack[EmbedOptions]) -> EmbedResponse:
        """Make vectors of texts with the encoder of the index: of queries or of passages, in their order."""
        return self._run(self._protocol.embed(inputs, input_type, options))

    def rerank(self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]) -> RerankResponse:
        """Score documents, texts or objects with text, id and title, for a query; the best first."""
        return self._run(self._protocol.rerank(query, documents, options))

    def describe(self) -> IndexDescription:
        """Describe what the server serves."""
        return self._run(self._protocol.index())

    def activate(self, version: str) -> IndexDescription:
        """Make a published version the active one; returns when it answers queries."""
        return self._run(self._protocol.activate(version))

    def rollback(self) -> IndexDescription:
        """Return to the version that was active before."""
        return self._run(self._protocol.rollback())

    def ready(self) -> bool:
        """Whether the server can answer queries now; False also if it cannot be reached. Never tried again."""
        return self._run(self._protocol.ready())

    def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
        namespace: str = "",
        min_position: int = 0,
    ) -> ListResponse:
        """List ids that begin with a prefix, in the order of their UTF-8 bytes, a page at a time.

        Args:
            limit: Ids of the page; by default the server's.
            cursor: `next` of the page before.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return self._run(self._protocol.list(prefix, limit, cursor, namespace, min_position))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    with self._http.stream(
                        step.method, step.path, content=step.content, headers=step.headers, timeout=step.timeout_s
                    ) as response:
                        body = AnswerBody(response)
                        for part in response.iter_bytes():
                            body.add(part)
                except httpx.RequestError as failure:
                    step = steps.throw(failure)
                else:
                    step = steps.send(body.whole())
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncClient(AsyncClientWrites, AsyncClientNamespaces, AsyncClientIndexes, _Base):
    """A client for asyncio: the same as `Client`, with `await`. Close it, or use it in an `async with` statement."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
        index: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout_s, attempts, index)
        self._http = httpx.AsyncClient(base_url=self._url, headers=self._headers, transport=transport, mounts=DIRECT)

    @overload
    async def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResponse: ...
    @overload
    async def search(self, query: list[str], **options: Unpack[SearchOptions]) -> list[SearchResponse]: ...
    @overload
    async def search(self, query: None = None, **options: Unpack[SearchOptions]) -> Any: ...
    async def search(
        self, query: str | list[str] | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResponse | list[SearchResponse]:
        """Search for one query, or for several at once; one response for each query, in their order.

        Without a query `vector` or `id` says what to look for, and nothing is searched by words or reranked.
        """
        return await self._run(self._protocol.search(query, options))

    async def search_many(
        self,
        queries: Iterable[str],
        *,
        concurrency: int = CONCURRENCY,
        progress: Progress | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResponse]:
        """Search for any number of queries, `concurrency` of them at once; one response for each, in their order.

        Args:
            progress: Called after each answer with the numbers of those that are there and of all.
        """
        return await search_many_async(lambda query: self.search(query, **options), queries, concurrency, progress)

    async def fetch(
        self, ids: Sequence[str], *, include: Sequence[Part] | None = None, namespace: str = "", min_position: int = 0
    ) -> FetchResponse:
        """Fetch passages by their ids, in the order asked; ids that there are none of are in `missing`.

        Args:
            include: Parts of each passage, of text, metadata and vector; by default the first two.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return await self._run(self._protocol.fetch(ids, include, namespace, min_position))

    async def embed(
        self, inputs: Sequence[str], input_type: InputType, **options: Unpack[EmbedOptions]
    ) -> EmbedResponse:
        """Make vectors of texts with the encoder of the index: of queries or of passages, in their order."""
        return await self._run(self._protocol.embed(inputs, input_type, options))

    async def rerank(
        self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]
    ) -> RerankResponse:
        """Score documents, texts or objects with text, id and title, for a query; the best first."""
        return await self._run(self._protocol.rerank(query, documents, options))

    async def describe(self) -> IndexDescription:
        """Describe what the server serves."""
        return await self._run(self._protocol.index())

    async def activate(self, version: str) -> IndexDescription:
        """Make a published version the active one; returns when it answers queries."""
        return await self._run(self._protocol.activate(version))

    async def rollback(self) -> IndexDescription:
        """Return to the version that was active before."""
        return await self._run(self._protocol.rollback())

    async def ready(self) -> bool:
        """Whether the server can answer queries now; False also if it cannot be reached. Never tried again."""
        return await self._run(self._protocol.ready())

    async def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
        namespace: str = "",
        min_position: int = 0,
    ) -> ListResponse:
        """List ids that begin with a prefix, in the order of their UTF-8 bytes, a page at a time.

        Args:
            limit: Ids of the page; by default the server's.
            cursor: `next` of the page before.
            min_position: Position that a write was answered with: the answer has seen it and all writes before it.
        """
        return await self._run(self._protocol.list(prefix, limit, cursor, namespace, min_position))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    async with self._http.stream(
                        step.method, step.path, content=step.content, headers=step.headers, timeout=step.timeout_s
                    ) as response:
                        body = AnswerBody(response)
                        async for part in response.aiter_bytes():
                            body.add(part)
                except httpx.RequestError as failure:
                    step = steps.throw(failure)
                else:
                    step = steps.send(body.whole())
        except StopIteration as end:
            result: T = end.value
            return result
