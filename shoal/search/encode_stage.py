"""The first step of a search: the query encoder makes vectors of the queries that wait together."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from shoal.encoders import TextVectors
from shoal.errors import DeadlineExceeded, Overloaded, ShoalError, Unavailable
from shoal.records import FloatArray, TermWeights
from shoal.search.batching import Batcher
from shoal.search.hedging import Attempts, Budget
from shoal.search.services import EncodeService, Observer, RememberingEncoder
from shoal.settings import ServeSettings
from shoal.system import spans, tracing

CHARACTERS_PER_CALL = 2048
"""Most characters of queries in one call that returns the vectors of their tokens, whose number they bound: with 1,024
dimensions some 8 MiB. A longer query has a call of its own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query that was encoded.

    vector: float32 (dim,), L2-normalised; None if it was not encoded.
    tokens: the vectors of its tokens, if they were asked for.
    terms: those that the sparse model gives it, if they were asked for.
    started, finished: when the call began and ended, by the clock, in seconds.
    batch: queries of the call.
    length: tokens of the whole query; None if they were not counted.
    problem: why it has no token vectors that the second stage wants; None if it has them, or nobody wants them.
    """

    vector: FloatArray | None
    tokens: TextVectors | None
    started: float
    finished: float
    batch: int
    length: int | None = None
    problem: str | None = None
    terms: TermWeights | None = None

    @classmethod
    def not_encoded(cls, moment: float, vector: FloatArray | None = None, problem: str | None = None) -> "EncodedQuery":
        """A query that needs no vector, or brings its own, float32 (dim,), L2-normalised."""
        return cls(vector, None, moment, moment, 0, problem=problem)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a query.

    vector: whether its vector is. tokens: whether those of its tokens are, too. terms: whether those of the sparse
    model are. count: whether its tokens are counted, which takes a call of its own.
    """

    vector: bool = True
    tokens: bool = False
    terms: bool = False
    count: bool = False


VECTOR = Wanted()
"""What is wanted of most queries: their vectors alone."""


@dataclass(frozen=True, slots=True)
class _WaitingText:
    query: str
    deadline: float
    requests: tuple[str, ...]
    wanted: Wanted
    instruction: str | None
    spans: tuple[Any, ...]


class EncodeStage:
    """Encodes queries with a service, those that wait together in one call. clock: that of deadlines, in seconds."""

    def __init__(
        self, encoder: EncodeService, settings: ServeSettings, clock: Callable[[], float], observer: Observer
    ) -> None:
        self._encoder = encoder
        self._remembering = encoder if isinstance(encoder, RememberingEncoder) else None
        self._observer = observer
        self._clock = clock
        self._attempts = Attempts(
            settings.encoder_replicas, settings.hedge_percentile, Budget(settings.hedge_budget), clock
        )
        self._queue: Batcher[_WaitingText, EncodedQuery] = Batcher(
            self._encode_batch,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            concurrency=max(1, settings.encoder_replicas),
            fits=_fits,
            name="queue of the encoder",
            clock=clock,
            observe=partial(observer.batch, "encode"),
        )

    @property
    def waiting(self) -> int:
        """Queries that wait to be encoded."""
        return self._queue.waiting

    async def encode(self, query: str, deadline: float, wanted: Wanted, instruction: str | None = None) -> EncodedQuery:
        """Encode a query until an absolute deadline.

        Args:
            wanted: What is wanted of it.
            instruction: See `EncodeService.encode`; queries of one call have the same.

        Raises:
            Overloaded: At once when too many wait, Unavailable, DeadlineExceeded.
            ShoalError: A failure.
        """
        if self._remembering is not None and wanted == VECTOR and deadline > self._clock():
            started, vector = self._clock(), self._remembering.recall(query, instruction)
            if vector is not None and np.isfinite(vector).all():
                self._observer.batch("encode", 1)
                return EncodedQuery(vector, None, started, self._clock(), 1)
        text = _WaitingText(query, deadline, tracing.requests(), wanted, instruction, spans.current())
        return await self._queue.submit(text, deadline)

    async def _encode_batch(self, texts: list[_WaitingText]) -> list[EncodedQuery]:
        tracing.work_for(*(text.requests for text in texts))
        spans.work_under(*(text.spans for text in texts))
        started = self._clock()
        long_queries = list(dict.fromkeys(text.query for text in texts if text.wanted.count))
        counting: asyncio.Future[dict[str, int]] | None = None
        if long_queries:  # counted while the vectors are made
            counting = asyncio.ensure_future(self._lengths(long_queries, max(text.deadline for text in texts)))
        try:
            vectors = await self._vectors(texts)
            terms = await self._terms(texts)
            lengths = await counting if counting else {}
        except (Overloaded, Unavailable, DeadlineExceeded):
            raise
        except Exception as error:
            logger.exception("the query encoder failed", extra=tracing.fields())
            raise ShoalError("the query encoder failed; the server's log says why") from error
        finally:
            if counting:
                counting.cancel()
        finished = self._clock()
        return [
            EncodedQuery(
                vector,
                tokens,
                started,
                finished,
                len(texts),
                lengths.get(text.query),
                terms=terms.get(text.query) if text.wanted.terms else None,
            )
            for text, (vector, tokens) in zip(texts, vectors, strict=True)
        ]

    async def _lengths(self, queries: list[str], deadline: float) -> dict[str, int]:
        """Count the tokens of queries; no failure costs an answer."""
        try:
            counts = await self._encoder.count_tokens(queries, deadline)
            return dict(zip(queries, counts, strict=True))
        except Exception:
            logger.warning("the tokens of a query could not be counted", exc_info=True, extra=tracing.fields())
            return {}

    async def _terms(self, texts: list[_WaitingText]) -> dict[str, TermWeights]:
        """The learned terms of the queries that need them."""
        queries = list(dict.fromkeys(text.query for text in texts if text.wanted.terms))
        if not queries:
            return {}
        deadline = max(text.deadline for text in texts)
        terms = await self._attempts.run(lambda: self._encoder.encode_terms(queries, deadline), deadline)
        return dict(zip(queries, terms, strict=True))

    async def _vectors(self, texts: list[_WaitingText]) -> list[tuple[FloatArray | None, TextVectors | None]]:
        if not any(text.wanted.vector or text.wanted.tokens for text in texts):
            return [(None, None)] * len(texts)
        queries = [text.query for text in texts]
        deadline = max(text.deadline for text in texts)
        # Left out where there is none: a service that reads none need not know of it.
        options: dict[str, Any] = {} if (one := texts[0].instruction) is None else {"instruction": one}
        if not any(text.wanted.tokens for text in texts):
            vectors = await self._attempts.run(lambda: self._encoder.encode(queries, deadline, **options), deadline)
            if not np.isfinite(vectors).all():
                raise ValueError("a query vector is not finite; check the encoder and its dtype")
            return [(vector, None) for vector in vectors]
        # One call for all, and then also for those that need no more than their vector.
        both = await self._attempts.run(lambda: self._encoder.encode_tokens(queries, deadline, **options), deadline)
        if not all(np.isfinite(vectors_of_text.vector).all() for vectors_of_text in both):
            raise ValueError("a query vector is not finite; check the encoder and its dtype")
        return [
            (vectors_of_text.vector, vectors_of_text if text.wanted.tokens else None)
            for vectors_of_text, text in zip(both, texts, strict=True)
        ]


def _fits(texts: list[_WaitingText], text: _WaitingText) -> bool:
    if text.instruction != texts[0].instruction:
        return False
    if not text.wanted.tokens and not any(other.wanted.tokens for other in texts):
        return True
    return len(text.query) + sum(len(other.query) for other in texts) <= CHARACTERS_PER_CALL
