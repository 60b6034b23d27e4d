"""The query encoder in this process."""

from collections.abc import Sequence

from shoal.encoders import (
    Encoder,
    TermEncoder,
    TextVectors,
    TokenCounter,
    TokenEncoder,
    TokenLocator,
)
from shoal.errors import InvalidArgument
from shoal.records import EmbeddedTexts, FloatArray, InputType, RowArray, TermWeights
from shoal.search.embed_stage import embed_texts
from shoal.search.query_cache import QueryCache
from shoal.system.threads import Threads


class LocalEncoder:
    """An encoder in a thread: an `EncodeService`, which remembers so many queries (`RememberingEncoder`)."""

    def __init__(self, encoder: Encoder, thread: Threads, remembered: int) -> None:
        self._encoder = encoder
        self._thread = thread
        self._cache = QueryCache(encoder, remembered)

    async def encode(self, queries: Sequence[str], deadline: float, instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order."""
        return await self._thread.run(deadline, self._cache.encode_queries, queries, instruction)

    def recall(self, query: str, instruction: str | None = None) -> FloatArray | None:
        """Return the vector of a query where it is remembered, float32 (dim,), L2-normalised; callers only read it."""
        return self._cache.recall(query, instruction)

    async def encode_tokens(
        self, queries: Sequence[str], deadline: float, instruction: str | None = None
    ) -> list[TextVectors]:
        """Return the vectors and those of the tokens, in input order."""
        if not isinstance(self._encoder, TokenEncoder):
            raise InvalidArgument(
                "the encoder of this index has no token vectors; leave rerank late out", param="rerank"
            )
        return await self._thread.run(deadline, self._cache.encode_query_tokens, queries, instruction)

    async def encode_terms(self, queries: Sequence[str], deadline: float) -> list[TermWeights]:
        """Return what the sparse model beside the encoder makes of queries, in input order."""
        if not isinstance(self._encoder, TermEncoder):
            raise InvalidArgument("the encoder of this index has no sparse model beside it", param="mode")
        return await self._thread.run(deadline, self._encoder.encode_query_terms, queries)

    async def count_tokens(self, queries: Sequence[str], deadline: float) -> list[int]:
        """Return how many tokens whole queries have, in input order; 0 where the encoder cannot tell."""
        if not isinstance(self._encoder, TokenCounter):
            return [0] * len(queries)
        return await self._thread.run(deadline, self._encoder.count_query_tokens, queries)

    async def locate_tokens(self, passages: Sequence[str], deadline: float) -> list[RowArray] | None:
        """Return where the tokens of each passage lie in it, int64 (t, 2), in characters; None if that is not known."""
        if not isinstance(self._encoder, TokenLocator):
            return None
        return await self._thread.run(deadline, self._encoder.locate_passage_tokens, passages)

    async def encode_passages(self, texts: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order: the vectors that a build gives these texts."""
        return await self._thread.run(deadline, self._encoder.encode_passages, texts)

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors of texts, and those of their tokens if asked for, in input order."""
        return await self._thread.run(deadline, embed_texts, self._encoder, self._cache, texts, input_type, with_tokens)
