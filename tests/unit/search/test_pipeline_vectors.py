"""Searches by a vector, and for passages like one: what is asked of whom."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import InvalidArgument, NotFound, Unavailable
from shoal.testing.fakes import (
    FakeEncoder,
    corpus,
    exact,
    fingerprint,
    served_version,
    vector_of,
    virtual_time,
)
from tests.support.search_system import PASSAGES, SIZES, System, request

VECTOR = vector_of("fish")


def broken(system: System) -> FakeEncoder:
    """An encoder that never answers."""
    system.encoder.behaviour.delay = 1e6
    return system.encoder


@virtual_time
async def test_a_vector_is_searched_by_without_the_encoder() -> None:
    system = System()
    encoder = broken(system)
    answer = await system.pipeline.search(request("", vector=VECTOR))
    assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, "fish", 5)]
    assert (encoder.calls, answer.mode, answer.degraded, answer.timings.encode) == ([], "dense", None, 0)


@virtual_time
async def test_what_reads_texts_gets_the_query_and_stage_one_the_vector() -> None:
    system = System(passages=corpus(60))
    system.pipeline.switch(served_version("v1", SIZES, lexical=True))
    broken(system)
    asked = request("passage 7", vector=VECTOR, rerank=True, explain=True)
    answer = await system.pipeline.search(asked)
    assert (answer.mode, answer.reranked) == ("hybrid", True)
    assert system.reranker.calls[0][0] == "passage 7"
    assert answer.explain is not None
    dense = {c["id"]: c["dense_score"] for c in answer.explain["candidates"]}
    expected = dict(exact(PASSAGES, "fish", 60))
    assert dense == pytest.approx({id_: expected[id_] for id_ in dense}, abs=1e-6)


@virtual_time
async def test_late_interaction_encodes_the_tokens_of_the_query_and_keeps_the_vector() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, late=True))
    answer = await system.pipeline.search(request("another text", vector=VECTOR, rerank="late", explain=True))
    assert system.encoder.calls == [["another text"]]
    assert (answer.reranker, answer.degraded) == ("late", None)
    assert answer.explain is not None
    best = max(answer.explain["candidates"], key=lambda candidate: candidate["dense_score"])
    assert (best["id"], best["dense_score"]) == (exact(PASSAGES, "fish", 1)[0][0], pytest.approx(best["score"]))


@virtual_time
async def test_a_passage_like_itself_is_left_out_and_nothing_is_lacking() -> None:
    system = System()
    broken(system)
    nearest = [id_ for id_, _ in exact(PASSAGES, PASSAGES[17].text, 60)]
    assert nearest[0] == PASSAGES[17].id
    for top_n in (1, 12):
        answer = await system.pipeline.search(request("", passage_id=PASSAGES[17].id, top_n=top_n))
        assert [result.id for result in answer.results] == nearest[1 : top_n + 1]
        assert [result.retrieval_rank for result in answer.results] == list(range(1, top_n + 1))


@virtual_time
async def test_a_passage_that_is_not_there_is_not_found_and_one_that_may_be_is_not_denied() -> None:
    system = System()
    with pytest.raises(NotFound, match="version v1 has no passage 'nothing'") as missing:
        await system.pipeline.search(request("", passage_id="nothing"))
    assert missing.value.param == "id"
    for shard in system.shards[1:]:
        shard.lookup_behaviour.errors = [Unavailable("gone")] * 2
    with pytest.raises(Unavailable, match="the shard that may hold the passage"):
        await system.pipeline.search(request("", passage_id="nothing"))
    for shard in system.shards:
        shard.lookup_behaviour.errors = [Unavailable("gone")] * 2
    with pytest.raises(Unavailable, match="no shard answered"):
        await system.pipeline.search(request("", passage_id=PASSAGES[0].id))


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"mode": "lexical"}, "mode", "mode lexical needs words, and there is no query"),
        ({"mode": "hybrid"}, "mode", "mode hybrid needs words, and there is no query"),
        ({"mode": "lexical", "query": "fish"}, "mode", "mode lexical reads no vector"),
        ({"rerank": True}, "rerank", "rerank needs a text"),
        ({"rerank": "late"}, "rerank", "rerank needs a text"),
        ({"vector": np.ones(7, np.float32)}, "vector", "vector should have 8 numbers, .* not 7"),
    ],
)
@virtual_time
async def test_what_does_not_go_together_costs_nothing(changes: dict[str, Any], param: str, message: str) -> None:
    system = System()
    version = served_version("v1", SIZES, lexical=True, late=True)
    object.__setattr__(version, "encoder", fingerprint(512))
    system.pipeline.switch(version)
    with pytest.raises(InvalidArgument, match=message) as refused:
        await system.pipeline.search(request(**{"query": "", "vector": VECTOR, **changes}))
    assert refused.value.param == param
    assert not any(shard.calls for shard in system.shards)


@virtual_time
async def test_a_server_that_searches_by_words_reads_vectors_that_are_sent() -> None:
    system = System(mode="lexical")
    system.pipeline.switch(served_version("v1", SIZES, lexical=True))
    assert (await system.pipeline.search(request("", vector=VECTOR))).mode == "dense"
    assert (await system.pipeline.search(request("fish", vector=VECTOR))).mode == "hybrid"
    assert (await system.pipeline.search(request("fish"))).mode == "lexical"
