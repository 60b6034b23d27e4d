"""Deadlines that nobody meets, vectors that are no numbers, and lists longer than the reranker's queue."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from shoal.errors import (
    DeadlineExceeded,
    Overloaded,
    ShoalError,
)
from shoal.records import FloatArray
from shoal.search.pipeline import SearchPipeline
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    now,
    serve_settings,
    served_version,
    virtual_time,
)
from tests.support.search_system import SIZES, System, request


@virtual_time
async def test_shards_that_have_no_time_are_a_missed_deadline_and_no_outage() -> None:
    """Who is told to try again does, with as little time."""
    system = System(fetch_with_hits=False)
    for shard in system.shards:
        shard.behaviour.delay = 1
    with pytest.raises(DeadlineExceeded, match="no shard answered within the deadline"):
        await system.pipeline.search(request(deadline=now() + 0.001))
    for shard in system.shards:
        shard.behaviour.delay = 0
        shard.fetch_behaviour.delay = 1000
    with pytest.raises(DeadlineExceeded, match="no shard sent its passages within the deadline"):
        await system.pipeline.search(request())


@virtual_time
async def test_a_query_vector_that_is_not_finite_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeEncoder):
        async def encode(self, queries: Sequence[str], deadline: float) -> FloatArray:
            return np.full((len(queries), 8), np.nan, np.float32)

    system = System()
    pipeline = SearchPipeline(Broken(), system.shards, None, serve_settings(), clock=now)
    pipeline.switch(served_version("v1", SIZES))
    with pytest.raises(ShoalError, match="the query encoder failed"):
        await pipeline.search(request())
    assert "a query vector is not finite" in caplog.text


@virtual_time
async def test_the_queries_of_a_long_list_wait_for_each_other_at_the_reranker() -> None:
    class Counting(FakeReranker):
        """Refuses what a queue of 40 has no room for, as the reranker of a server does."""

        now = most = 0

        async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
            if self.now >= 40:
                raise Overloaded("reranker: too many wait")
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await asyncio.sleep(0.01)
                return await super().score(query, passages, deadline)
            finally:
                self.now -= 1

    reranker = Counting()
    system = System(reranker=reranker)
    answers = await system.pipeline.search_all([request(f"query {number}", rerank=True) for number in range(64)])
    assert [answer.degraded for answer in answers] == [None] * 64
    assert 8 <= reranker.most < 40
