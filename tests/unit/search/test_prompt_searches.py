"""Short searches of shards in this process, which wait in no queue."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.search.fanout import FanOut
from shoal.search.shard_client import PendingQuery
from shoal.shard.messages import ShardHits, ShardQuery, ShardSearch
from shoal.testing.fakes import FakeShard, exact, now, serve_settings, served_version, vector_of, virtual_time
from tests.support.search_system import PASSAGES, SIZES, System, request


class PromptFakeShard(FakeShard):
    """Searches for `size` queries at once; 0 makes it wait for a thread as others do."""

    size = 100
    failure: Exception | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.at_once: list[int] = []

    def prompt_size(self, version: str, kind: object) -> int:
        return self.size

    def search_at_once(self, batch: ShardSearch) -> ShardHits:
        self.at_once.append(len(batch.queries))
        if self.failure is not None:
            raise self.failure
        with pytest.raises(StopIteration) as done:
            self.search(batch, now() + 60).send(None)
        hits: ShardHits = done.value.value
        return hits


def prompt_system(**settings: object) -> tuple[System, list[PromptFakeShard]]:
    system = System(shard=PromptFakeShard, **settings)  # type: ignore[arg-type]
    shards = [shard for shard in system.shards if isinstance(shard, PromptFakeShard)]
    return system, shards


def found(query: str, count: int) -> list[str]:
    return [id_ for id_, _ in exact(PASSAGES, query, count)]


@virtual_time
async def test_queries_of_one_round_are_searched_for_together() -> None:
    system, shards = prompt_system()
    answers = await asyncio.gather(*(system.pipeline.search(request(f"query {n}", top_k=8 + n)) for n in range(4)))
    assert [[result.id for result in answer.results] for answer in answers] == [
        found(f"query {n}", 5) for n in range(4)
    ]
    assert [shard.at_once for shard in shards] == [[4]] * 3
    assert [len(shard.calls) for shard in shards] == [1] * 3, "nothing was asked otherwise"


@given(size=st.integers(0, 5), queries=st.integers(1, 12), max_batch=st.integers(1, 6))
def test_answers_are_the_same_however_many_are_searched_for_at_once(size: int, queries: int, max_batch: int) -> None:
    @virtual_time
    async def search() -> None:
        system, shards = prompt_system(max_batch=max_batch)
        for shard in shards:
            shard.size = size
        answers = await asyncio.gather(*(system.pipeline.search(request(f"query {n}")) for n in range(queries)))
        for number, answer in enumerate(answers):
            assert [result.id for result in answer.results] == found(f"query {number}", 5)
            assert answer.coverage.fraction == 1
        most = min(size, max_batch)
        assert all(sum(shard.at_once) == (queries if size else 0) for shard in shards)
        assert all(count <= most for shard in shards for count in shard.at_once)

    search()


@virtual_time
async def test_a_shard_that_has_to_be_waited_for_is_asked_beside_those_that_have_not() -> None:
    system, shards = prompt_system()
    shards[1].size = 0
    answer = await system.pipeline.search(request("fish"))
    assert [result.id for result in answer.results] == found("fish", 5)
    assert [shard.at_once for shard in shards] == [[1], [], [1]]
    assert [len(shard.calls) for shard in shards] == [1] * 3


@virtual_time
async def test_what_one_shard_raises_leaves_it_out_of_all_answers(caplog: pytest.LogCaptureFixture) -> None:
    system, shards = prompt_system()
    shards[0].failure = RuntimeError("a broken shard")
    answers = await asyncio.gather(*(system.pipeline.search(request(f"query {n}")) for n in range(2)))
    for answer in answers:
        assert [(missing.shard, missing.reason) for missing in answer.coverage.missing] == [(0, "error")]
        assert len(answer.results) == 5
    assert "a broken shard" in caplog.text


@virtual_time
async def test_a_suspended_shard_is_not_waited_for() -> None:
    system, shards = prompt_system()
    system.pipeline.switch(served_version("v2", SIZES), absent=[2])
    answer = await system.pipeline.search(request())
    assert [(missing.shard, missing.reason) for missing in answer.coverage.missing] == [(2, "suspended")]
    assert [shard.at_once for shard in shards] == [[1], [1], []]


@virtual_time
async def test_a_query_that_is_given_up_costs_the_others_nothing() -> None:
    _, shards = prompt_system()
    fan_out = FanOut(served_version("v1", SIZES), shards, serve_settings(), now)
    pending = [PendingQuery(ShardQuery("", vector_of(f"query {n}"), "dense"), 5, now() + 10) for n in range(3)]
    searches = [asyncio.ensure_future(fan_out.search(each)) for each in pending]
    await asyncio.sleep(0)  # all have gathered by now
    searches[0].cancel()
    given_up, *others = await asyncio.gather(*searches, return_exceptions=True)
    assert isinstance(given_up, asyncio.CancelledError)
    assert [shard.at_once for shard in shards] == [[2]] * 3
    for number, other in enumerate(others, 1):
        assert not isinstance(other, BaseException)
        hits = [id_ for result in other[0].values() for id_ in result.hits.by_retriever["dense"].ids[result.position]]
        assert set(found(f"query {number}", 5)) <= set(hits)


@virtual_time
async def test_filters_and_words_wait_for_their_turn() -> None:
    system, shards = prompt_system()
    system.pipeline.switch(served_version("v2", SIZES, {"number": "integer"}))
    await system.pipeline.search(request(filter={"number": 3}))
    system.pipeline.switch(served_version("v3", SIZES, retrievers=("dense", "lexical")))
    await system.pipeline.search(request(mode="lexical"))
    assert [shard.at_once for shard in shards] == [[]] * 3
