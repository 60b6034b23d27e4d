"""Retrievers and rerankers of frameworks, over a Shoal server or an index in this process; each behind its extra.

`langchain`, `llama_index` and `haystack` import the framework of their name, and nothing else imports them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from shoal.client.answers import RerankResponse, SearchResponse, SearchResult
from shoal.client.options import Document
from shoal.errors import InvalidArgument


class SearchClient(Protocol):
    """What retrievers and rerankers ask: a `shoal.Client`, or a `shoal.Index` in this process."""

    def search(self, query: str, **options: Any) -> SearchResponse:
        """Search for one query."""

    def rerank(self, query: str, documents: Sequence[Document], **options: Any) -> RerankResponse:
        """Score documents for a query."""


class AsyncSearchClient(Protocol):
    """The same for asyncio: a `shoal.AsyncClient` or a `shoal.AsyncIndex`."""

    async def search(self, query: str, **options: Any) -> SearchResponse:
        """Search for one query."""

    async def rerank(self, query: str, documents: Sequence[Document], **options: Any) -> RerankResponse:
        """Score documents for a query."""


def metadata_of(result: SearchResult) -> dict[str, Any]:
    """Return the metadata of a passage, with its title as `title` where it has one."""
    return {**(result.metadata or {}), **({} if result.title is None else {"title": result.title})}


@contextmanager
def extra_named(extra: str) -> Iterator[None]:
    """Raise InvalidArgument, with what to install, where a framework that an extra brings cannot be imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidArgument(f"there is no module {error.name}: pip install 'shoal[{extra}]'") from error
