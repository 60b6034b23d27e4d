"""What every request of an index passes on its way to what answers it: limits, the rate of its key, a slot, the log.

One implementation for `shoal serve --local`, for the indexes of a catalog and for those with replicas of their own.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext

from serve.dialects.base import AnsweringEngine
from serve.telemetry import NullMeter, Telemetry
from serve.web.access import Admission, charge
from shoal.engine.limits import RequestLimits
from shoal.namespaces import DEFAULT
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
from shoal.settings import ServeSettings
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written


class IngressLimits:
    """What all indexes of one process have in common: what a request may ask, what is logged, how many are answered.

    Args:
        settings: Of the server.
        telemetry: Hears of the queries; None for what only writes the log.
        admission: Lets requests in; None for one of their own.
    """

    def __init__(
        self, settings: ServeSettings, telemetry: Telemetry | None = None, admission: Admission | None = None
    ) -> None:
        self.requests = RequestLimits(settings)
        self.telemetry = telemetry or Telemetry(NullMeter(), settings.slow_query_ms, settings.log_queries)
        self.admission = admission or Admission(settings)
        self.waiting = Admission(settings)
        """Counts the requests that wait for an index to be loaded: they take none of the slots of those that search."""


class AdmittedEngine(ABC):
    """The part of a `serve.dialects.base.Engine` that answers requests, for those that are let in.

    Args:
        shared: What the index has in common with the others of this process.
    """

    def __init__(self, shared: IngressLimits) -> None:
        self._limits = shared.requests
        self._telemetry = shared.telemetry
        self._admission = shared.admission
        self._waiting = shared.waiting

    @abstractmethod
    def _answering(self, deadline: float) -> AbstractAsyncContextManager[AnsweringEngine]:
        """Offer what answers, once it can, until the end of the block. Raises what keeps it from answering in time."""

    @abstractmethod
    def _answers_at_once(self) -> bool:
        """Whether what answers need not be waited for."""

    @asynccontextmanager
    async def _admitted(self, deadline: float) -> AsyncIterator[AnsweringEngine]:
        """Offer what answers, with one of the slots of those that are answered. Raises Overloaded if there is none."""
        async with AsyncExitStack() as stack:
            with nullcontext() if self._answers_at_once() else self._waiting.one_more():
                engine = await stack.enter_async_context(self._answering(deadline))
            with self._admission.one_more():
                yield engine

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order.

        Raises InvalidArgument for what is beyond the limits of the settings, and Overloaded beyond `max_requests`.
        """
        started = time.monotonic()
        try:
            self._limits.check_search(requests)
            charge(len(requests))
            deadline = min((request.deadline for request in requests), default=started)
            async with self._admitted(deadline) as engine:
                answers = await engine.search(requests)
        except BaseException as error:
            self._telemetry.ended(requests, error, 1000 * (time.monotonic() - started))
            raise
        self._telemetry.answered(requests, answers)
        return answers

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares, in input order. Raises as `search`."""
        with self._telemetry.embedding(len(texts)):
            self._limits.check_embed(texts, deadline, are_queries=input_type == "query")
            charge(len(texts))
            async with self._admitted(deadline) as engine:
                return await engine.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises as `search`."""
        with self._telemetry.reranking(len(documents)):
            self._limits.check_rerank(query, documents, deadline)
            charge(1)
            async with self._admitted(deadline) as engine:
                return await engine.rerank(query, documents, deadline)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of. Raises as `search`."""
        self._limits.check_fetch(ids, deadline, with_vectors=with_vectors)
        charge(1)
        async with self._admitted(deadline) as engine:
            return await engine.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in order. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        async with self._admitted(deadline) as engine:
            return await engine.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces and how many passages each has. Raises as `search`."""
        self._limits.check_list(prefix, limit, deadline)
        charge(1)
        async with self._admitted(deadline) as engine:
            return await engine.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has. Raises as `search`."""
        charge(1)
        async with self._admitted(deadline) as engine:
            return await engine.count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; all of them durably, or none. See `serve.dialects.base.Engine.write`."""
        async with self._writing_to(request) as engine:
            return await engine.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records. Raises as `write`."""
        async with self._writing_to(request) as engine:
            return await engine.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change metadata or vectors of records. Raises as `write`."""
        async with self._writing_to(request) as engine:
            return await engine.update(request)

    def _writing_to(
        self, request: WriteRequest | DeleteRequest | UpdateRequest
    ) -> AbstractAsyncContextManager[AnsweringEngine]:
        """Offer what writes, which has a limit of its own for how many do (`max_writes`)."""
        self._limits.check_write(request)
        charge(1)
        return self._answering(request.deadline)
