"""The query encoder of a replica."""

import time
from collections.abc import Callable, Sequence

from serve.replicas.clocks import SystemClock
from serve.replicas.traced import traced
from serve.telemetry import COMPUTE, ENCODED, REMEMBERED, Calls, Meter, NullMeter
from serve.versions.discovery import ServiceAnnouncement
from shoal.encoders import (
    TermEncoder,
    TextVectors,
    TokenCounter,
    TokenEncoder,
    TokenLocator,
    load_encoder,
)
from shoal.encoders._absent import is_absent
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.records import EmbeddedTexts, FloatArray, InputType, RowArray, TermWeights
from shoal.search.embed_stage import embed_texts
from shoal.search.query_cache import QueryCache
from shoal.serving.plan import check_encoder
from shoal.settings import EncoderSettings
from shoal.system import spans
from shoal.system.threads import WARM_UP, Threads


class QueryEncoder(SystemClock):
    """Encodes queries, and passages on request.

    Refuses to start with another encoder than the index was built with (EncoderMismatch).

    Args:
        settings: Of the encoder.
        expected: The fingerprint of the encoder that the index was built with.
        remembered: Queries whose vectors are kept.
        meter: Makes what measures.
        announcement: The services that an endpoint beside them enters by this encoder, if it is one of such.
    """

    service = "encoder"

    def __init__(
        self,
        settings: EncoderSettings,
        expected: Fingerprint,
        remembered: int,
        meter: Callable[[], Meter] = NullMeter,
        announcement: ServiceAnnouncement | None = None,
    ) -> None:
        spans.start()
        self._announcement = announcement
        self._calls = Calls(meter())
        encoder = load_encoder(settings)
        check_encoder(encoder.fingerprint(), expected)
        self._thread = Threads(1, "encoder")  # one: encoders are not re-entrant
        if not is_absent(settings.encoder):
            self._thread.wait(encoder.encode_queries, [WARM_UP])
        self._encoder = encoder
        self._cache = QueryCache(encoder, remembered)

    @traced
    async def encode(self, queries: Sequence[str], deadline: float, instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order."""
        try:
            with self._calls.call("encode", len(queries)):
                return await self._thread.run(deadline, self._cache.encode_queries, queries, instruction)
        finally:
            self._count()

    def recall(self, query: str, instruction: str | None = None) -> FloatArray | None:
        """Return the vector of a query where it is remembered, float32 (dim,); for a pipeline in this process."""
        started = time.perf_counter()
        vector = self._cache.recall(query, instruction)
        if vector is not None:
            self._calls.meter.observe(COMPUTE, time.perf_counter() - started, call="encode")
            self._count()
        return vector

    @traced
    async def encode_tokens(
        self, queries: Sequence[str], deadline: float, instruction: str | None = None
    ) -> list[TextVectors]:
        """Return the vectors and those of the tokens, in input order."""
        if not isinstance(self._encoder, TokenEncoder):
            raise InvalidArgument(
                "the encoder of this index has no token vectors; leave rerank late out", param="rerank"
            )
        try:
            with self._calls.call("encode", len(queries)):
                return await self._thread.run(deadline, self._cache.encode_query_tokens, queries, instruction)
        finally:
            self._count()

    @traced
    async def encode_terms(self, queries: Sequence[str], deadline: float) -> list[TermWeights]:
        """Return what the sparse model beside the encoder makes of queries, in input order."""
        if not isinstance(self._encoder, TermEncoder):
            raise InvalidArgument("the encoder of this index has no sparse model beside it", param="mode")
        with self._calls.call("encode", len(queries)):
            return await self._thread.run(deadline, self._encoder.encode_query_terms, queries)

    @traced
    async def count_tokens(self, queries: Sequence[str], deadline: float) -> list[int]:
        """Return how many tokens whole queries have, in input order; 0 where the encoder cannot tell."""
        if not isinstance(self._encoder, TokenCounter):
            return [0] * len(queries)
        return await self._thread.run(deadline, self._encoder.count_query_tokens, queries)

    @traced
    async def locate_tokens(self, passages: Sequence[str], deadline: float) -> list[RowArray] | None:
        """Return where the tokens of each passage lie in it, int64 (t, 2), in characters; None if that is not known."""
        if not isinstance(self._encoder, TokenLocator):
            return None
        return await self._thread.run(deadline, self._encoder.locate_passage_tokens, passages)

    @traced
    async def encode_passages(self, texts: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order: the vectors that a build gives these texts."""
        with self._calls.call("encode", len(texts)):
            return await self._thread.run(deadline, self._encoder.encode_passages, texts)

    @traced
    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors of texts, and those of their tokens if asked for, in input order."""
        try:
            with self._calls.call("embed", len(texts)):
                return await self._thread.run(
                    deadline, embed_texts, self._encoder, self._cache, texts, input_type, with_tokens
                )
        finally:
            self._count()

    @traced
    async def look_up(self, deadline: float) -> ServiceAnnouncement | None:
        """Tell an endpoint what else belongs to the services of this encoder; None if nothing is announced."""
        return self._announcement

    def _count(self) -> None:
        self._calls.total(ENCODED, self._cache.asked)
        self._calls.total(REMEMBERED, self._cache.hits)
