"""Haystack: a retriever that searches in both stages, and a ranker of documents from elsewhere.

pipeline.add_component("retriever", ShoalRetriever("http://127.0.0.1:8000", top_k=3))
pipeline.run({"retriever": {"query": "how do fish sleep"}})
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shoal.client.clients import DEFAULT_URL, Client
from shoal.client.options import RerankOptions
from shoal.errors import InvalidArgument
from shoal.integrations import extra_named, metadata_of

with extra_named("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret

COMPARISONS = {
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
    "in": "$in",
    "not in": "$nin",
}
"""Operators of Haystack's comparisons, and what filters of Shoal call them."""
KEY = Secret.from_env_var("SHOAL_API_KEY", strict=False)
"""Where the API key comes from unless a component is given one."""


@component
class ShoalRetriever:
    """Passages for a query as documents with their ids, metadata and scores; `title` is in the metadata.

    Runs raise the classes of `shoal.errors`.

    Args:
        url, api_key: Of the server; pipelines are saved with the place of the key, never with the key.
        top_k: Documents returned.
        filters: In Haystack's form, or in Shoal's.
        options: Options of each search, such as {"mode": "hybrid"}.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: Secret | None = KEY,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.url = url
        self.api_key = api_key
        self.top_k = top_k
        self.filters = filters
        self.options = options or {}
        self._client = _client(url, api_key)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Search; `filters` and `top_k` replace those of the component."""
        options = {**self.options, "top_n": top_k or self.top_k}
        if chosen := filters or self.filters:
            options["filter"] = shoal_filter(chosen)
        response = self._client.search(query, **options)
        documents = [
            Document(id=result.id, content=result.text, meta=metadata_of(result), score=result.score)
            for result in response.results
        ]
        return {"documents": documents}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Search, in a thread."""
        return await asyncio.to_thread(self.run, query, filters, top_k)


@component
class ShoalRanker:
    """The best documents for a query by the server's reranker; their scores are relevance, from 0 to 1.

    For documents that come from elsewhere: what ShoalRetriever returns has been reranked already.

    Args:
        url, api_key: Of the server; pipelines are saved with the place of the key, never with the key.
        top_k: Documents returned; None for all.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: Secret | None = KEY, top_k: int | None = 10) -> None:
        self.url = url
        self.api_key = api_key
        self.top_k = top_k
        self._client = _client(url, api_key)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rank documents; `top_k` replaces that of the component."""
        if not documents:
            return {"documents": []}
        most = top_k or self.top_k
        texts = [document.content or "" for document in documents]
        options: RerankOptions = {} if most is None else {"top_n": most}
        response = self._client.rerank(query, texts, **options)
        ranked = [replace(documents[result.index], score=result.relevance_score) for result in response.results]
        return {"documents": ranked}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Rank documents, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)


def shoal_filter(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a filter of Haystack's into one of Shoal's; one of Shoal's, which has no `operator`, stays as it is.

    Raises InvalidArgument for an operator that Haystack has not.
    """
    operator = filters.get("operator")
    if operator is None:
        return dict(filters)
    if "conditions" in filters:
        conditions = [shoal_filter(condition) for condition in filters["conditions"]]
        if operator in ("AND", "OR"):
            return {f"${operator.lower()}": conditions}
        if operator == "NOT":
            return {"$not": {"$and": conditions}}
    if operator not in COMPARISONS:
        raise InvalidArgument(f"filters: {operator!r} is no operator of Haystack's filters", param="filters")
    field = str(filters["field"]).removeprefix("meta.")
    if filters["value"] is None and operator in ("==", "!="):
        return {field: {"$exists": operator == "!="}}
    return {field: {COMPARISONS[operator]: filters["value"]}}


def _client(url: str, api_key: Secret | None) -> Client:
    return Client(url, api_key=api_key.resolve_value() if api_key else None)
