"""The engine as the holder of a key sees it that is bound to a namespace: there is nothing but what lies in that."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from serve.dialects.base import Engine
from shoal.engine.description import IndexDescription
from shoal.errors import PermissionDenied
from shoal.index_root.version_list import ListedVersion
from shoal.namespaces import DEFAULT, check_namespace
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    NamespaceSize,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written

R = TypeVar("R", SearchRequest, WriteRequest, DeleteRequest, UpdateRequest)

DESCRIBE_S = 5.0
"""Seconds that counting the passages of a namespace may take for a description."""


class BoundEngine:
    """A `serve.dialects.base.Engine` of one namespace, which a request need not name; another one is refused.

    Args:
        engine: Of the whole index.
        namespace: The only one that is seen.
        clock: That of deadlines, in seconds.
    """

    def __init__(self, engine: Engine, namespace: str, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._namespace = namespace
        self._clock = clock

    def _own(self, given: str) -> str:
        """The namespace of a request. Raises PermissionDenied for another one, and InvalidArgument for none."""
        if given != DEFAULT and check_namespace(given) != self._namespace:
            raise PermissionDenied("this API key is bound to another namespace; leave namespace out")
        return self._namespace

    def _bound(self, request: R) -> R:
        return replace(request, namespace=self._own(request.namespace))

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer queries within the namespace."""
        return await self._engine.search([self._bound(request) for request in requests])

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Embed texts, which have nothing to do with namespaces."""
        return await self._engine.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Rerank documents of whoever asks."""
        return await self._engine.rerank(query, documents, deadline)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Fetch passages of the namespace."""
        return await self._engine.fetch(ids, deadline, with_vectors, self._own(namespace), min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """List ids of the namespace."""
        return await self._engine.list_ids(prefix, limit, cursor, deadline, self._own(namespace), min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """List the namespace alone."""
        version = (await self._engine.describe()).version
        count = await self._engine.count_namespace(self._namespace, deadline)
        shown = count and self._namespace.startswith(prefix) and cursor is None
        return ListedNamespaces(version, [NamespaceSize(self._namespace, count)] if shown else [], None)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Count the passages of the namespace."""
        return await self._engine.count_namespace(self._own(namespace), deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records of the namespace."""
        return await self._engine.write(self._bound(request))

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records of the namespace."""
        return await self._engine.delete(self._bound(request))

    async def update(self, request: UpdateRequest) -> Updated:
        """Change records of the namespace."""
        return await self._engine.update(self._bound(request))

    async def describe(self) -> IndexDescription:
        """Describe the index as if it held the namespace alone; what others have written is not told."""
        description = await self._engine.describe()
        count = await self._engine.count_namespace(self._namespace, self._clock() + DESCRIBE_S)
        return replace(description, passages=count, live=None)

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie."""
        return self._engine.reranker_scale()

    async def text_field(self) -> str:
        """The field that holds the text of records."""
        return await self._engine.text_field()

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """Refuse: versions tell how much all namespaces hold."""
        raise _shared()

    async def activate(self, version: str) -> None:
        """Refuse: all namespaces share the version."""
        raise _shared()

    async def rollback(self) -> None:
        """Refuse: all namespaces share the version."""
        raise _shared()

    async def ready(self) -> list[str]:
        """Name what is missing until all can be searched."""
        return await self._engine.ready()


def _shared() -> PermissionDenied:
    return PermissionDenied("this API key is bound to a namespace, and all namespaces share what is served")
