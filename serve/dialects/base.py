"""The contract between a dialect and the server behind it."""

from collections.abc import Sequence
from typing import Literal, Protocol

from shoal.engine.description import IndexDescription
from shoal.records import FetchedPassages, FloatArray, ListedIds, SearchAnswer, SearchRequest

InputType = Literal["query", "passage"]
"""What a text is to the encoder, which reads queries in another way than passages."""


class Engine(Protocol):
    """What a dialect can ask of the server behind it.

    Every method may raise Unavailable and DeadlineExceeded; those that compute raise Overloaded too, and
    InvalidArgument for what is beyond the limits of the settings, so that a dialect need not check them. Deadlines are
    by `time.monotonic`.
    """

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order."""
        ...

    async def embed(self, texts: Sequence[str], input_type: InputType, deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order: the vectors that the index compares."""
        ...

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n,), the reranker's scores in input order, higher is better.

        Raises InvalidArgument where there is no reranker.
        """
        ...

    async def fetch(self, ids: Sequence[str], deadline: float, with_vectors: bool = False) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of."""
        ...

    async def list_ids(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in the order of their UTF-8 bytes.

        Args:
            cursor: `next` of the page before; None for the first page.
        """
        ...

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        ...

    async def activate(self, version: str) -> None:
        """Serve another published version; returns when it is served.

        Raises NotFound for an unknown version, Conflict (EncoderMismatch, CorruptIndex) for one that cannot be served.
        """
        ...

    async def rollback(self) -> None:
        """Serve the previous version again; returns when it is served. Raises Conflict when there is none."""
        ...

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of the active version can be searched; empty means ready."""
        ...
