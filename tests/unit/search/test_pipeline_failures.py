"""What fails or is late: a shard, the encoder, the reranker, and too many queries."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoal.errors import (
    CorruptIndex,
    DeadlineExceeded,
    EncoderMismatch,
    Overloaded,
    ShoalError,
    Unavailable,
)
from shoal.records import FloatArray, MissingShard, SearchAnswer, SearchRequest
from shoal.testing.fakes import (
    FakeReranker,
    FakeShard,
    exact,
    now,
    served_version,
    virtual_time,
)
from tests.support.search_system import PASSAGES, SIZES, System, number_of, request


@virtual_time
async def test_calls_carry_the_version_and_the_shards_share_of_the_deadline() -> None:
    system = System(retrieve_share=0.5)
    system.encoder.behaviour.delay = 2
    await system.pipeline.search(request(deadline=10))
    assert system.encoder.deadlines == [10]
    assert [(call.version, call.deadline) for shard in system.shards for call in shard.calls] == [("v1", 6)] * 3


@pytest.mark.parametrize("rerank", [True, False])
@virtual_time
async def test_a_shard_that_misses_its_share_is_left_out_and_cancelled(rerank: bool) -> None:
    system = System(retrieve_share=0.7)
    system.shards[2].behaviour.delay = 1000
    answer = await system.pipeline.search(request(rerank=rerank))
    assert now() == pytest.approx(7)
    assert answer.coverage.missing == (MissingShard(2, "deadline"),)
    assert (answer.coverage.answered, answer.coverage.fraction) == (2, pytest.approx(0.5))
    assert answer.degraded == "1 of 3 shards is missing (shard 2: deadline)"
    assert answer.reranked is rerank
    assert {number_of(result.id) for result in answer.results} <= set(range(30))
    await asyncio.sleep(0.01)
    assert system.shards[2].cancelled == 1


@virtual_time
async def test_a_query_waits_only_for_its_own_share() -> None:
    system = System(retrieve_share=0.5)
    system.shards[0].behaviour.delay = 3
    hasty, patient = request("a", deadline=2), request("b", deadline=20)
    moments: dict[str, float] = {}

    async def timed(one: SearchRequest) -> Any:
        answer = await system.pipeline.search(one)
        moments[one.query] = now()
        return answer

    first, second = await asyncio.gather(timed(hasty), timed(patient))
    assert moments == {"a": pytest.approx(1), "b": pytest.approx(3)}
    assert first.coverage.missing == (MissingShard(0, "deadline"),)
    assert second.coverage.missing == ()
    assert [call.queries for call in system.shards[0].calls] == [2]


@virtual_time
async def test_a_shard_that_hangs_delays_no_other() -> None:
    system = System()
    system.shards[0].behaviour.delay = 1000
    hanging = asyncio.ensure_future(system.pipeline.search(request()))
    await asyncio.sleep(1)
    await system.pipeline.search(request(deadline=now() + 0.1))
    assert now() == pytest.approx(1.07)
    assert len(system.shards[1].calls) == 2
    hanging.cancel()


@virtual_time
async def test_a_lost_connection_is_tried_once_more() -> None:
    system = System()
    system.shards[1].behaviour.errors = [Unavailable("replica died")]
    system.encoder.behaviour.errors = [Unavailable("replica died")]
    system.reranker.behaviour.errors = [Unavailable("replica died")]
    answer = await system.pipeline.search(request(rerank=True))
    assert (answer.coverage.fraction, answer.reranked, answer.degraded) == (1.0, True, None)
    assert [len(shard.calls) for shard in system.shards] == [1, 2, 1]


@virtual_time
async def test_a_shard_that_stays_unreachable_is_missing() -> None:
    system = System()
    system.shards[1].behaviour.errors = [Unavailable("replica died"), Unavailable("no replica")]
    answer = await system.pipeline.search(request())
    assert answer.coverage.missing == (MissingShard(1, "unreachable"),)


@pytest.mark.parametrize(
    "error",
    [CorruptIndex("/secret/path"), EncoderMismatch("/secret/path"), OSError("/secret/path"), Overloaded("busy")],
)
@virtual_time
async def test_what_a_shard_raises_is_logged_and_does_not_leak(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    system = System()
    system.shards[2].behaviour.errors = [error]
    with caplog.at_level(logging.WARNING):
        answer = await system.pipeline.search(request(explain=True))
    assert answer.coverage.missing == (MissingShard(2, "overloaded" if error.args == ("busy",) else "error"),)
    assert "secret" not in repr(answer)
    assert str(error) in caplog.text
    assert "shard 2 of version v1" in caplog.text


@virtual_time
async def test_a_shard_that_loses_queries_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(FakeShard):
        async def search(self, *args: Any) -> Any:
            hits = await super().search(*args)
            dense = hits.by_retriever["dense"]
            return replace(hits, by_retriever={"dense": replace(dense, ids=dense.ids[1:])})

    system = System()
    system.shards[0] = Forgetful(PASSAGES[:10])
    system.pipeline.switch(served_version("v1", SIZES))
    assert (await system.pipeline.search(request())).coverage.missing == (MissingShard(0, "error"),)
    assert "found hits for 0 of 1 queries" in caplog.text


@virtual_time
async def test_no_shard_at_all_is_an_error_that_says_why() -> None:
    system = System()
    system.shards[0].behaviour.delay = 1000
    system.shards[1].behaviour.errors = [Unavailable("gone"), Unavailable("gone")]
    system.shards[2].behaviour.errors = [ValueError("bug")]
    with pytest.raises(Unavailable, match="shard 0: deadline, shard 1: unreachable, shard 2: error") as failure:
        await system.pipeline.search(request())
    assert failure.value.retry_after_s


@virtual_time
async def test_a_shard_that_does_not_send_its_passages_is_missing() -> None:
    system = System(fetch_with_hits=False)
    system.shards[2].fetch_behaviour.delay = 1000
    system.shards[1].fetch_behaviour.errors = [ValueError("bug")]
    answer = await system.pipeline.search(request(rerank=True, top_k=60, top_n=60))
    assert now() == pytest.approx(7)
    assert answer.coverage.missing == (MissingShard(1, "error"), MissingShard(2, "deadline"))
    assert {number_of(result.id) for result in answer.results} == set(range(10))
    assert sorted(result.retrieval_rank for result in answer.results) == list(range(1, 11))
    assert answer.reranked
    for shard in system.shards:
        shard.fetch_behaviour.errors = [ValueError("bug")]
        shard.fetch_behaviour.delay = 0
    with pytest.raises(Unavailable, match="no shard sent its passages"):
        await system.pipeline.search(request(top_k=60, top_n=60))


@pytest.mark.parametrize(
    ("errors", "delay", "reason"),
    [
        ([], 1000, "missed the deadline"),
        ([DeadlineExceeded("late")], 0, "missed the deadline"),
        ([Overloaded("busy")], 0, "is overloaded"),
        ([Unavailable("gone"), Unavailable("gone")], 0, "is not reachable"),
        ([RuntimeError("/secret/path")], 0, "failed"),
    ],
)
@virtual_time
async def test_without_a_reranker_in_time_the_answer_is_in_stage_one_order(
    errors: list[Exception], delay: float, reason: str
) -> None:
    system = System()
    system.reranker.behaviour.errors = errors
    system.reranker.behaviour.delay = delay
    answer = await system.pipeline.search(request(rerank=True))
    assert now() < 10
    assert answer.degraded == f"not reranked: the reranker {reason}"
    assert (answer.reranked, answer.pairs) == (False, 0)
    assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, "fish", 5)]
    assert all(result.rerank_score is None and result.score == result.retrieval_score for result in answer.results)


@pytest.mark.parametrize("scores", [[1.0], [float("nan")] * 12, [[1.0] * 12]])
@virtual_time
async def test_scores_that_make_no_sense_are_not_used(scores: Any) -> None:
    class Broken(FakeReranker):
        async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
            return np.array(scores, np.float32)

    system = System(reranker=Broken())
    answer = await system.pipeline.search(request(rerank=True))
    assert answer.degraded == "not reranked: the reranker failed"


@virtual_time
async def test_a_server_without_a_reranker_says_so() -> None:
    answer = await System(reranks=False).pipeline.search(request(rerank=True))
    assert answer.degraded == "not reranked: this server has no reranker"
    assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, "fish", 5)]


@virtual_time
async def test_a_missing_shard_and_a_missing_reranker_are_both_named() -> None:
    system = System()
    system.shards[0].behaviour.delay = system.reranker.behaviour.delay = 1000
    answer = await system.pipeline.search(request(rerank=True))
    assert answer.degraded == (
        "1 of 3 shards is missing (shard 0: deadline); not reranked: the reranker missed the deadline"
    )
    assert 7 < now() < 10


@pytest.mark.parametrize("error", [Overloaded("busy"), DeadlineExceeded("late")])
@virtual_time
async def test_the_encoders_own_refusals_reach_the_caller(error: ShoalError) -> None:
    system = System()
    system.encoder.behaviour.errors = [error]
    with pytest.raises(type(error)):
        await system.pipeline.search(request())


@virtual_time
async def test_an_encoder_that_fails_is_an_internal_error_without_details(caplog: pytest.LogCaptureFixture) -> None:
    system = System()
    system.encoder.behaviour.errors = [RuntimeError("/secret/path")]
    with pytest.raises(ShoalError, match="the query encoder failed") as failure:
        await system.pipeline.search(request())
    assert failure.value.code == "INTERNAL"
    assert "secret" not in str(failure.value)
    assert "secret" in caplog.text


@virtual_time
async def test_an_encoder_that_hangs_costs_no_more_than_the_deadline() -> None:
    system = System()
    system.encoder.behaviour.delay = 1000
    with pytest.raises(DeadlineExceeded):
        await system.pipeline.search(request())
    assert now() == pytest.approx(10)


@virtual_time
async def test_too_many_waiting_queries_are_refused_at_once() -> None:
    system = System(max_waiting=2, max_batch=1)
    system.encoder.behaviour.delay = 1
    searches = [asyncio.ensure_future(system.pipeline.search(request(f"q{n}"))) for n in range(2)]
    await asyncio.sleep(0.1)
    searches.append(asyncio.ensure_future(system.pipeline.search(request("q3"))))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await system.pipeline.search(request("q4"))
    assert now() == 0.1
    assert len(await asyncio.gather(*searches)) == 3


@virtual_time
async def test_a_shard_with_too_many_waiting_queries_refuses_and_leaves_no_place_taken() -> None:
    system = System(max_waiting=1, max_batch=1)
    system.shards[2].behaviour.delay = 3
    searches = []
    for n in range(2):
        searches.append(asyncio.ensure_future(system.pipeline.search(request(f"q{n}"))))
        await asyncio.sleep(0.1)
    with pytest.raises(Overloaded, match="queue of shard 2"):
        await system.pipeline.search(request("q2"))
    assert now() == pytest.approx(0.2)
    await asyncio.sleep(0)
    assert [len(shard.calls) for shard in system.shards] == [2, 2, 1]
    assert [answer.coverage.fraction for answer in await asyncio.gather(*searches)] == [1, 1]


@virtual_time
async def test_too_many_queries_waiting_for_texts_are_refused_as_those_waiting_for_hits_are() -> None:
    system = System(max_waiting=1, max_batch=1, fetch_with_hits=False)

    async def filled(slow: Sequence[FakeShard]) -> list[asyncio.Future[SearchAnswer]]:
        """Searches that fill the queues of these shards."""
        for shard in system.shards:
            shard.fetch_behaviour.delay = 3 if shard in slow else 0
        searches: list[asyncio.Future[SearchAnswer]] = []
        for n in range(2):
            searches.append(asyncio.ensure_future(system.pipeline.search(request(f"q{n}", top_n=12))))
            await asyncio.sleep(0.1)
        return searches

    searches = await filled(system.shards)
    with pytest.raises(Overloaded, match="wait for the texts"):
        await system.pipeline.search(request("q2", top_n=12))
    await asyncio.gather(*searches)
    searches = await filled(system.shards[2:])
    answer = await system.pipeline.search(request("q2", top_n=12))
    assert answer.coverage.missing == (MissingShard(2, "overloaded"),)
    assert [one.coverage.fraction for one in await asyncio.gather(*searches)] == [1, 1]


@virtual_time
async def test_an_answer_is_not_thrown_away_because_too_many_wait_for_vectors() -> None:
    system = System(max_waiting=1, max_batch=1)
    for shard in system.shards:
        shard.fetch_behaviour.delay = 3
    searches = []
    for n in range(2):
        searches.append(asyncio.ensure_future(system.pipeline.search(request(f"q{n}", top_n=12, include_vector=True))))
        await asyncio.sleep(0.1)
    answer = await system.pipeline.search(request("q2", top_n=12, include_vector=True))
    assert answer.degraded is not None
    assert "some vectors are missing (shard 0: overloaded, shard 1: overloaded" in answer.degraded
    assert len(answer.results) == 12
    await asyncio.gather(*searches)


@virtual_time
async def test_a_client_that_leaves_takes_its_work_along() -> None:
    system = System()
    system.reranker.behaviour.delay = 5
    search = asyncio.ensure_future(system.pipeline.search(request(rerank=True)))
    await asyncio.sleep(1)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert now() == 1


@virtual_time
async def test_the_first_error_of_several_queries_gives_up_the_others() -> None:
    system = System()
    system.encoder.behaviour.delay = 1
    good, late = request("good"), request("late", deadline=now() - 1)
    with pytest.raises(DeadlineExceeded):
        await system.pipeline.search_all([good, late])
    await asyncio.sleep(5)
    assert [len(shard.calls) for shard in system.shards] == [0, 0, 0]
    assert len(asyncio.all_tasks()) == 1
