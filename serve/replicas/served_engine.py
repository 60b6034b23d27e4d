"""What answers in an ingress replica from the versions of one set of services: the pipeline, its models, the writer."""

from collections.abc import Sequence

from serve.versions.discovery import ServiceSet
from shoal.engine.writing import IndexWriting
from shoal.errors import InvalidArgument
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
from shoal.search.embed_stage import EmbedStage
from shoal.search.pipeline import SearchPipeline
from shoal.search.rerank_documents import rerank_documents
from shoal.search.services import Observer
from shoal.settings import ServeSettings
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written


class ServedEngine:
    """A `serve.dialects.base.AnsweringEngine` over services.

    Args:
        pipeline: Searches the version that is served.
        services: Those that it asks.
        settings: By which they are described.
        observer: Hears of what is embedded.
        writing: Writes to the index.
    """

    def __init__(
        self,
        pipeline: SearchPipeline,
        services: ServiceSet,
        settings: ServeSettings,
        observer: Observer,
        writing: IndexWriting,
    ) -> None:
        self._pipeline = pipeline
        self._reranker = services.reranker
        self._settings = settings
        self._embed_stage = EmbedStage(services.encoder, settings, observer=observer)
        self._writing = writing

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order; see `SearchPipeline.search_all`."""
        return await self._pipeline.search_all(requests)

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors that the index compares; see `EmbedStage.embed`."""
        return await self._embed_stage.embed(texts, input_type, deadline, with_tokens)

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return the scores of documents, in input order. Raises InvalidArgument without a reranker."""
        if self._reranker is None:
            raise InvalidArgument("this server has no reranker; start it with one (--reranker)")
        return await rerank_documents(self._reranker, query, documents, deadline, self._settings)

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids; see `shoal.search.lookup.fetch_passages`."""
        return await self._pipeline.fetch(ids, deadline, with_vectors, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of ids; see `shoal.search.lookup.list_ids`."""
        return await self._pipeline.list_ids(prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of namespaces; see `shoal.search.namespaces.list_namespaces`."""
        return await self._pipeline.list_namespaces(prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has."""
        return await self._pipeline.count_namespace(namespace, deadline)

    async def write(self, request: WriteRequest) -> Written:
        """Write records; see `shoal.writing.writer.Writer.write`."""
        return await self._writing.write(request)

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records; see `shoal.writing.writer.Writer.delete`."""
        return await self._writing.delete(request)

    async def update(self, request: UpdateRequest) -> Updated:
        """Change the metadata of records; see `shoal.writing.writer.Writer.update`."""
        return await self._writing.update(request)
