"""Shards that fall silent, and replicas that hang."""

import asyncio

import pytest

from shoal.errors import (
    DeadlineExceeded,
    Unavailable,
)
from shoal.records import MissingShard
from shoal.testing.fakes import (
    now,
    served_version,
    virtual_time,
)
from tests.support.search_system import SIZES, System, request


async def answered(system: System, times: int = 20) -> None:
    """Ask so often that the pipeline knows how long its services take."""
    behaviours = [system.encoder.behaviour, system.reranker.behaviour]
    behaviours += [one for shard in system.shards for one in (shard.behaviour, shard.fetch_behaviour)]
    for number in range(times):
        for behaviour in behaviours:
            behaviour.delay = 0.01 - number * 1e-4
        await system.pipeline.search(request(f"query {number}", rerank=True))


@virtual_time
async def test_a_shard_that_falls_silent_is_waited_for_once_and_not_by_every_query() -> None:
    system = System()
    await answered(system)
    system.shards[2].behaviour.delay = 1e6
    started = now()
    waiting = [system.pipeline.search(request(f"silent {n}")) for n in range(40)]  # more than one batch
    for answer in await asyncio.gather(*waiting):
        assert answer.coverage.missing == (MissingShard(2, "suspended"),)
    assert now() - started == pytest.approx(1.0, abs=0.1)  # shard_patience_ms, not 0.7 of ten seconds
    started = now()
    for number in range(20):
        answer = await system.pipeline.search(request(f"later {number}"))
        assert answer.coverage.missing == (MissingShard(2, "suspended"),)
        assert answer.degraded == "1 of 3 shards is missing (shard 2: suspended)"
    assert now() - started < 20 * 0.03
    assert len(system.shards[2].calls) == 20 + 1 + 1  # one that everybody waited for, and one to try it again
    await asyncio.sleep(10)
    assert system.shards[2].cancelled == 2


@virtual_time
async def test_the_texts_of_a_shard_that_falls_silent_are_waited_for_no_longer() -> None:
    system = System(fetch_with_hits=False)
    await answered(system, 60)  # not every query finds something in every shard
    system.shards[2].fetch_behaviour.delay = 1e6  # it has found its passages, and hangs
    started = now()
    answer = await system.pipeline.search(request())
    assert answer.coverage.missing == (MissingShard(2, "suspended"),)
    assert now() - started == pytest.approx(1.0, abs=0.1)


@virtual_time
async def test_a_shard_that_answers_again_is_asked_again() -> None:
    system = System()
    await answered(system)
    system.shards[2].behaviour.delay = 1e6
    await system.pipeline.search(request())
    system.shards[2].behaviour.delay = 0.01
    missing = (await system.pipeline.search(request())).coverage.missing
    assert missing == (MissingShard(2, "suspended"),)  # it was tried beside this query
    assert (await system.pipeline.search(request())).coverage.fraction == 1
    assert (await system.pipeline.search(request())).coverage.fraction == 1


@virtual_time
async def test_a_shard_that_misses_deadlines_before_anything_is_known_of_it_is_suspended_too() -> None:
    system = System()
    system.shards[0].behaviour.delay = 1e6
    answer = await system.pipeline.search(request())
    assert (now(), answer.coverage.missing) == (pytest.approx(7), (MissingShard(0, "deadline"),))
    answer = await system.pipeline.search(request())
    assert (now(), answer.coverage.missing) == (pytest.approx(7), (MissingShard(0, "suspended"),))


@virtual_time
async def test_a_shard_that_is_absent_from_the_beginning_is_not_waited_for_until_it_answers() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES), absent=[0])
    system.shards[0].behaviour.delay = 1e6
    answer = await system.pipeline.search(request())
    assert (now(), answer.coverage.missing) == (pytest.approx(0), (MissingShard(0, "suspended"),))
    system.shards[0].behaviour.delay = 0
    await asyncio.sleep(10)
    await system.pipeline.search(request())
    assert (await system.pipeline.search(request())).coverage.fraction == 1


@virtual_time
async def test_clients_in_a_hurry_suspend_nothing() -> None:
    system = System()
    for shard in system.shards:
        shard.behaviour.delay = 0.5
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await system.pipeline.search(request(deadline=now() + 0.1))
    assert (await system.pipeline.search(request())).coverage.fraction == 1


@virtual_time
async def test_if_all_shards_are_silent_queries_wait_for_them() -> None:
    system = System()
    await answered(system)
    for shard in system.shards:
        shard.behaviour.delay = 1e6
    for _ in range(2):
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await system.pipeline.search(request())
    for shard in system.shards:
        shard.behaviour.delay = 3
    assert (await system.pipeline.search(request())).coverage.fraction > 0.9


@pytest.mark.parametrize("service", ["encoder", "shard", "texts of a shard", "reranker"])
@virtual_time
async def test_of_two_replicas_one_may_hang(service: str) -> None:
    system = System(
        encoder_replicas=2,
        retriever_replicas=2,
        reranker_min_replicas=2,
        reranker_max_replicas=2,
        hedge_budget=0.05,
        fetch_with_hits=service != "texts of a shard",
    )
    await answered(system, 40)
    behaviour = {
        "encoder": system.encoder.behaviour,
        "shard": system.shards[1].behaviour,
        "texts of a shard": system.shards[1].fetch_behaviour,
        "reranker": system.reranker.behaviour,
    }[service]
    hung = [True]

    async def hangs_once() -> None:
        if hung.pop() if hung else False:
            await asyncio.sleep(1e6)

    behaviour.hook = hangs_once
    started = now()
    answer = await system.pipeline.search(request(rerank=True))
    assert (answer.degraded, answer.coverage.fraction, answer.reranked) == (None, 1, True)
    assert now() - started < 0.1
    assert not hung
