"""One index of a catalog as an engine, which loads it when it is asked."""

import time
from collections.abc import Sequence

from shoal.catalog.catalog import Catalog
from shoal.engine.description import IndexDescription
from shoal.index_root.version_list import ListedVersion
from shoal.namespaces import DEFAULT
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written


class CatalogIndex:
    """The calls of `shoal.engine.engine.LocalEngine`, for an index that may not be loaded yet, and may not exist.

    All raise NotFound where there is no such index, and what `Catalog.use` raises.
    """

    def __init__(self, catalog: Catalog, name: str) -> None:
        self._catalog = catalog
        self._name = name

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order."""
        async with self._catalog.use(self._name, min(request.deadline for request in requests)) as engine:
            return await engine.search(requests)

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares, in input order."""
        async with self._catalog.use(self._name, deadline) as engine:
            return await engine.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order."""
        async with self._catalog.use(self._name, deadline) as engine:
            return await engine.rerank(query, documents, deadline)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids."""
        async with self._catalog.use(self._name, deadline) as engine:
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
        """Return a page of ids."""
        async with self._catalog.use(self._name, deadline) as engine:
            return await engine.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces."""
        async with self._catalog.use(self._name, deadline) as engine:
            return await engine.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has."""
        async with self._catalog.use(self._name, deadline) as engine:
            return await engine.count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records."""
        async with self._catalog.use(self._name, request.deadline) as engine:
            return await engine.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records."""
        async with self._catalog.use(self._name, request.deadline) as engine:
            return await engine.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records."""
        async with self._catalog.use(self._name, request.deadline) as engine:
            return await engine.update(request)

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            return await engine.describe()

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, and the current and the previous one with them."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            return await engine.list_versions(limit)

    async def activate(self, version: str) -> None:
        """Serve a published version and make it CURRENT."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            await engine.activate(version)

    async def rollback(self) -> None:
        """Serve the previous version again and make it CURRENT."""
        async with self._catalog.use(self._name, self._deadline()) as engine:
            await engine.rollback()

    async def ready(self) -> list[str]:
        """Name what is missing until the index can be searched: nothing, for one that is loaded when it is asked."""
        return self._catalog.missing()

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie; None if that is not known."""
        return self._catalog.scale_of(self._name)

    def text_field(self) -> str:
        """The field that holds the text of records, as far as the index was loaded."""
        return self._catalog.text_field_of(self._name)

    def _deadline(self) -> float:
        settings = self._catalog.settings
        return time.monotonic() + min(settings.timeout_ms, settings.max_timeout_ms) / 1000
