"""Documents that somebody wants the scores of."""

import asyncio

import numpy as np
import pytest

from shoal.errors import DeadlineExceeded, Overloaded, ShoalError, Unavailable
from shoal.records import FloatArray
from shoal.search.rerank_documents import SLICE_DOCUMENTS, rerank_documents
from shoal.testing.fakes import FakeReranker, now, serve_settings, virtual_time

SETTINGS = serve_settings(reranker="overlap")
DOCUMENTS = [f"document {number}" for number in range(2 * SLICE_DOCUMENTS + 6)]


@virtual_time
async def test_documents_are_scored_a_slice_at_a_time_in_their_order() -> None:
    reranker = FakeReranker()
    reranked = await rerank_documents(reranker, "a query", DOCUMENTS, now() + 10, SETTINGS)
    assert [len(documents) for _, documents, _ in reranker.calls] == [SLICE_DOCUMENTS, SLICE_DOCUMENTS, 6]
    np.testing.assert_array_equal(reranked.scores, np.arange(len(DOCUMENTS), dtype=np.float32))
    assert (reranked.model, reranked.pairs) == ("overlap", len(DOCUMENTS))
    assert reranked.tokens_used == 4 * len(DOCUMENTS)
    none = await rerank_documents(reranker, "a query", [], now() + 10, SETTINGS)
    assert (none.scores.shape, none.tokens_used) == ((0,), 0)


@virtual_time
async def test_a_pool_of_rerankers_works_side_by_side() -> None:
    reranker = FakeReranker()
    reranker.behaviour.delay = 1
    started = now()
    pool = serve_settings(reranker="overlap", reranker_min_replicas=3, reranker_max_replicas=3)
    await rerank_documents(reranker, "a query", DOCUMENTS, now() + 10, pool)
    assert now() - started == pytest.approx(1)
    await rerank_documents(reranker, "a query", DOCUMENTS, now() + 10, SETTINGS)
    assert now() - started == pytest.approx(4)


@virtual_time
async def test_what_fails_is_told_and_ends_the_request() -> None:
    reranker = FakeReranker()
    reranker.behaviour.errors = [Unavailable("gone")]
    assert (await rerank_documents(reranker, "a query", ["a 1"], now() + 10, SETTINGS)).pairs == 1
    for error, expected in (
        (RuntimeError("secret"), "the reranker failed; the server's log says why"),
        (Overloaded("busy"), "busy"),
        (DeadlineExceeded("late"), "late"),
    ):
        reranker.calls.clear()
        reranker.behaviour.errors = [error]
        with pytest.raises(ShoalError, match=expected):
            await rerank_documents(reranker, "a query", DOCUMENTS, now() + 10, SETTINGS)
        await asyncio.sleep(1)
        assert len(reranker.calls) == 1


@virtual_time
async def test_scores_that_are_missing_or_not_finite_are_no_answer() -> None:
    class Broken(FakeReranker):
        scores = np.zeros(0, np.float32)

        async def score(self, query: str, passages: object, deadline: float) -> FloatArray:
            return self.scores

    for scores in (np.zeros(1, np.float32), np.array([1, np.nan], np.float32)):
        broken = Broken()
        broken.scores = scores
        with pytest.raises(ShoalError, match="the reranker failed"):
            await rerank_documents(broken, "a query", ["a 1", "a 2"], now() + 10, SETTINGS)
