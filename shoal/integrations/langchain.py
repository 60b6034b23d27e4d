"""LangChain: a retriever that searches in both stages, and a compressor that reranks documents from elsewhere.

retriever = ShoalRetriever(client=shoal.Client("http://127.0.0.1:8000"), k=3)
documents = retriever.invoke("how do fish sleep")
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, SkipValidation

from shoal.client.answers import RerankResponse, SearchResponse
from shoal.integrations import AsyncSearchClient, SearchClient, extra_named, metadata_of

with extra_named("langchain"):
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever


class ShoalRetriever(BaseRetriever):
    """Passages for a query, each with its id; `score` and `title` are in the metadata.

    Calls raise the classes of `shoal.errors`.
    """

    client: SkipValidation[SearchClient]
    """A `shoal.Client`, or a `shoal.Index` in this process."""
    async_client: SkipValidation[AsyncSearchClient] | None = None
    """A `shoal.AsyncClient` or `shoal.AsyncIndex`; without one, asynchronous calls ask `client` in a thread."""
    k: int = 4
    """Documents returned."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of each search, such as {"mode": "hybrid", "filter": {"year": {"$gte": 2020}}}."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[Document]:
        return _documents(self.client.search(query, **self._options(k, options)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[Document]:
        given = self._options(k, options)
        if self.async_client is None:
            return _documents(await asyncio.to_thread(self.client.search, query, **given))
        return _documents(await self.async_client.search(query, **given))

    def _options(self, k: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.options, "top_n": self.k if k is None else k, **options}


class ShoalRerank(BaseDocumentCompressor):
    """The best documents for a query by the server's reranker; `relevance_score`, from 0 to 1, is in the metadata.

    For documents that come from elsewhere: what ShoalRetriever returns has been reranked already.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: SkipValidation[SearchClient]
    """A `shoal.Client`, or a `shoal.Index` in this process."""
    async_client: SkipValidation[AsyncSearchClient] | None = None
    """A `shoal.AsyncClient` or `shoal.AsyncIndex`; without one, asynchronous calls ask `client` in a thread."""
    top_n: int | None = 3
    """Documents returned; None for all."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents, best first."""
        if not documents:
            return []
        return _reranked(documents, self.client.rerank(query, _texts(documents), **self._options()))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents, best first."""
        if not documents or self.async_client is None:
            return await asyncio.to_thread(self.compress_documents, documents, query)
        return _reranked(documents, await self.async_client.rerank(query, _texts(documents), **self._options()))

    def _options(self) -> dict[str, Any]:
        return {} if self.top_n is None else {"top_n": self.top_n}


def _documents(response: SearchResponse) -> list[Document]:
    return [
        Document(id=result.id, page_content=result.text or "", metadata={**metadata_of(result), "score": result.score})
        for result in response.results
    ]


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _reranked(documents: Sequence[Document], response: RerankResponse) -> list[Document]:
    return [
        documents[result.index].model_copy(
            update={"metadata": {**documents[result.index].metadata, "relevance_score": result.relevance_score}}
        )
        for result in response.results
    ]
