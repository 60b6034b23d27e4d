"""The reranker of a replica."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve.replicas.clocks import SystemClock
from serve.replicas.traced import traced
from serve.telemetry import (
    BATCHES,
    WAITING,
    Calls,
    Meter,
    NullMeter,
)
from shoal.errors import DeadlineExceeded
from shoal.records import FloatArray, Span
from shoal.rerankers import DeadlineReranker, PairTokenCounter, SentenceScorer, load_reranker
from shoal.search.batching import Batcher
from shoal.settings import RerankerSettings
from shoal.system import spans
from shoal.system.threads import WARM_UP, Threads

RERANK_QUERIES = 8
"""Queries scored together: enough pairs to fill a GPU, few enough that on a CPU the first does not wait for long."""
MAX_WAITING = 4 * RERANK_QUERIES
"""Queries that wait for a reranker at most."""


class Reranker(SystemClock):
    """Scores passages, those of several waiting queries together."""

    service = "reranker"

    def __init__(self, settings: RerankerSettings, max_waiting: int, meter: Callable[[], Meter] = NullMeter) -> None:
        spans.start()
        self._calls = Calls(meter())
        self._reranker = load_reranker(settings)
        self._thread = Threads(1, "reranker")  # one: rerankers are not re-entrant
        if not isinstance(self._reranker, DeadlineReranker):  # an endpoint may come up later
            self._thread.wait(self._reranker.score_pairs, [(WARM_UP, WARM_UP)] * RERANK_QUERIES)
        self._batcher: Batcher[_Pairs, FloatArray] = Batcher(
            self._score,
            max_batch=RERANK_QUERIES,
            max_waiting=max_waiting,
            cost=lambda item: len(item.pairs),
            name="reranker",
            observe=self._batch,
        )

    @traced
    async def score(self, query: str, passages: list[str], deadline: float) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        if isinstance(self._reranker, DeadlineReranker):
            with self._calls.call("score", 1):
                return await self._reranker.score_until(query, passages, deadline)
        pairs = _Pairs([(query, passage) for passage in passages], deadline)
        with self._calls.call("score", 1):
            return await self._batcher.submit(pairs, deadline)

    @traced
    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """Return how well each sentence of some passages matches a query; see `shoal.rerankers.SentenceScorer`."""
        if not isinstance(self._reranker, SentenceScorer):
            return [None] * len(passages)
        return await self._thread.run(deadline, self._reranker.score_sentences, query, passages, sentences)

    @traced
    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """Count the tokens that scoring these passages reads; 0 where that is not known."""
        if not isinstance(self._reranker, PairTokenCounter):
            return 0
        pairs = [(query, passage) for passage in passages]
        return await self._thread.run(deadline, self._reranker.count_tokens, pairs)

    def _batch(self, size: int) -> None:
        self._calls.meter.observe(BATCHES, size, stage="rerank")
        self._calls.meter.set(WAITING, self._batcher.waiting, stage="rerank")

    async def _score(self, batch: list["_Pairs"]) -> list[FloatArray]:
        pairs = [pair for item in batch for pair in item.pairs]
        latest = max(item.deadline for item in batch)
        scores = await self._thread.run(latest, self._reranker.score_pairs, pairs)
        answers, start = [], 0
        for item in batch:
            answers.append(scores[start : start + len(item.pairs)])
            start += len(item.pairs)
        return answers


class SpareReranker(SystemClock):
    """A reranker that is seldom asked, because shards hold what it would compute: loaded when it is first asked.

    Args:
        load: Makes the reranker, in a thread.
    """

    service = "reranker"

    def __init__(self, load: Callable[[], Reranker]) -> None:
        self._load = load
        self._loading: asyncio.Task[Reranker] | None = None

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        """As that of `Reranker`."""
        return await (await self._loaded(deadline)).score(query, list(passages), deadline)

    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """As that of `Reranker`."""
        return await (await self._loaded(deadline)).score_sentences(query, passages, sentences, deadline)

    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """As that of `Reranker`."""
        return await (await self._loaded(deadline)).count_tokens(query, passages, deadline)

    async def _loaded(self, deadline: float) -> Reranker:
        """The reranker. Raises what loading raises, and DeadlineExceeded; loading goes on, for those who ask next."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.shield(self._loading)
        except TimeoutError:
            raise DeadlineExceeded("the reranker is being loaded; ask again") from None


@dataclass(frozen=True, slots=True)
class _Pairs:
    pairs: list[tuple[str, str]]
    deadline: float
