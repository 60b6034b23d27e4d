"""LlamaIndex: a retriever that searches in both stages, and a postprocessor that reranks nodes from elsewhere.

retriever = ShoalRetriever(shoal.Client("http://127.0.0.1:8000"), top_n=3)
nodes = retriever.retrieve("how do fish sleep")
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SkipValidation

from shoal.client.answers import RerankResponse, SearchResponse
from shoal.integrations import AsyncSearchClient, SearchClient, extra_named, metadata_of

with extra_named("llama-index"):
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode


class ShoalRetriever(BaseRetriever):
    """Passages for a query as nodes with their ids, metadata and scores; `title` is in the metadata.

    Calls raise the classes of `shoal.errors`.

    Args:
        client: A `shoal.Client`, or a `shoal.Index` in this process.
        async_client: A `shoal.AsyncClient` or `shoal.AsyncIndex`; without one, asynchronous calls ask `client` in a
            thread.
        top_n: Nodes returned.
        options: Options of each search, such as {"mode": "hybrid", "filter": {"year": {"$gte": 2020}}}.
    """

    def __init__(
        self,
        client: SearchClient,
        *,
        async_client: AsyncSearchClient | None = None,
        top_n: int = 5,
        options: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self._client = client
        self._async_client = async_client
        self._options = {**(options or {}), "top_n": top_n}
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._client.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_client is None:
            return await asyncio.to_thread(self._retrieve, query_bundle)
        return _nodes(await self._async_client.search(query_bundle.query_str, **self._options))


class ShoalRerank(BaseNodePostprocessor):
    """The best nodes for a query by the server's reranker; their scores are relevance, from 0 to 1.

    For nodes that come from elsewhere: what ShoalRetriever returns has been reranked already.
    """

    client: SkipValidation[SearchClient]
    """A `shoal.Client`, or a `shoal.Index` in this process."""
    async_client: SkipValidation[AsyncSearchClient] | None = None
    """A `shoal.AsyncClient` or `shoal.AsyncIndex`; without one, asynchronous calls ask `client` in a thread."""
    top_n: int | None = 3
    """Nodes returned; None for all."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores it."""
        return "ShoalRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        return _reranked(nodes, self.client.rerank(_query(query_bundle), _texts(nodes), **self._options()))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes or self.async_client is None:
            return await asyncio.to_thread(self._postprocess_nodes, nodes, query_bundle)
        answer = await self.async_client.rerank(_query(query_bundle), _texts(nodes), **self._options())
        return _reranked(nodes, answer)

    def _options(self) -> dict[str, Any]:
        return {} if self.top_n is None else {"top_n": self.top_n}


def _nodes(response: SearchResponse) -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(id_=result.id, text=result.text or "", metadata=metadata_of(result)), score=result.score
        )
        for result in response.results
    ]


def _query(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise ValueError("nodes are reranked for a query: give query_bundle or query_str")
    query: str = query_bundle.query_str
    return query


def _texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [node.node.get_content(MetadataMode.NONE) for node in nodes]


def _reranked(nodes: Sequence[NodeWithScore], response: RerankResponse) -> list[NodeWithScore]:
    return [NodeWithScore(node=nodes[result.index].node, score=result.relevance_score) for result in response.results]
