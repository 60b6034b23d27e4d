"""A search through both stages: candidates, passages, scores, versions, recall."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from shoal.errors import (
    Conflict,
    InvalidArgument,
    Unavailable,
)
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.records import FloatArray, Passage
from shoal.search.pipeline import SearchPipeline
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    corpus,
    exact,
    now,
    serve_settings,
    served_version,
    vector_of,
    virtual_time,
)
from tests.support.search_system import PASSAGES, SIZES, System, number_in, number_of, request


@virtual_time
async def test_both_stages() -> None:
    system = System()
    answer = await system.pipeline.search(request(rerank=True))

    stage_one = exact(PASSAGES, "fish", 12)
    reranked = sorted((id_ for id_, _ in stage_one), key=number_of, reverse=True)[:5]
    assert [result.id for result in answer.results] == reranked
    for result in answer.results:
        rank = next(rank for rank, (id_, _) in enumerate(stage_one, 1) if id_ == result.id)
        assert (result.retrieval_rank, result.rerank_score, result.score) == (
            rank,
            number_of(result.id),
            result.rerank_score,
        )
        assert result.retrieval_score == pytest.approx(stage_one[rank - 1][1], abs=1e-6)
        assert result.passage == PASSAGES[number_of(result.id)]
    assert (answer.index_version, answer.reranked, answer.degraded, answer.pairs) == ("v1", True, None, 12)
    assert (answer.coverage.shards, answer.coverage.answered, answer.coverage.fraction) == (3, 3, 1.0)
    assert answer.explain is None


@pytest.mark.parametrize("fetch_with_hits", [True, False])
@virtual_time
async def test_stage_one_alone_is_exact_and_takes_no_more_than_it_returns(fetch_with_hits: bool) -> None:
    system = System(fetch_with_hits=fetch_with_hits)
    answer = await system.pipeline.search(request())
    assert [(r.id, pytest.approx(r.score, abs=1e-6)) for r in answer.results] == exact(PASSAGES, "fish", 5)
    assert [r.passage for r in answer.results] == [PASSAGES[number_of(r.id)] for r in answer.results]
    assert not answer.reranked
    assert answer.degraded is None
    assert [(call.top_k, call.with_passages) for shard in system.shards for call in shard.calls] == [
        (5, fetch_with_hits)
    ] * 3


@virtual_time
async def test_passages_are_fetched_only_from_shards_with_winners_and_only_for_candidates() -> None:
    system = System(fetch_with_hits=False)
    answer = await system.pipeline.search(request(top_k=2, top_n=1, rerank=True))
    winners = [number_of(id_) for id_, _ in exact(PASSAGES, "fish", 2)]
    fetched = {shard: [row for rows in s.fetches for row in rows] for shard, s in enumerate(system.shards)}
    starts = [0, 10, 30]
    assert sorted(starts[shard] + row for shard, rows in fetched.items() for row in rows) == sorted(winners)
    assert [len(s.fetches) for s in system.shards] == [int(bool(rows)) for rows in fetched.values()]
    assert answer.results[0].id == f"p{max(winners):04d}"


@virtual_time
async def test_passages_of_queries_that_wait_together_come_in_one_call_for_each_shard() -> None:
    requests = [request(text, top_n=12) for text in ("fish", "otter", "heron", "snail")]
    system = System(fetch_with_hits=False)
    answers = await system.pipeline.search_all(requests)
    assert [len(shard.fetches) for shard in system.shards] == [1, 1, 1]
    assert sum(len(rows) for shard in system.shards for rows in shard.fetches) == 4 * 12
    for one, answer in zip(requests, answers, strict=True):
        alone = await System(fetch_with_hits=False).pipeline.search(one)
        assert [(r.id, r.passage) for r in answer.results] == [(r.id, r.passage) for r in alone.results]


@virtual_time
async def test_vectors_are_fetched_only_for_the_queries_that_want_them() -> None:
    system = System(fetch_with_hits=False)
    plain, with_vectors = await system.pipeline.search_all([request("fish"), request("otter", include_vector=True)])
    assert all(result.vector is None for result in plain.results)
    for result in with_vectors.results:
        np.testing.assert_array_equal(result.vector, vector_of(result.passage.text))


@pytest.mark.parametrize("include_vector", [False, True])
@virtual_time
async def test_passages_that_do_not_fit_into_one_message_come_in_several(include_vector: bool) -> None:
    system = System()
    system.shards[0].message_rows, system.shards[2].message_rows = 1, 2  # the second shard sends them with its hits
    answer = await system.pipeline.search(request(top_k=12, top_n=12, include_vector=include_vector))
    assert [(r.id, pytest.approx(r.score, abs=1e-6)) for r in answer.results] == exact(PASSAGES, "fish", 12)
    assert [r.passage for r in answer.results] == [PASSAGES[number_of(r.id)] for r in answer.results]
    assert answer.degraded is None
    if include_vector:
        for result in answer.results:
            np.testing.assert_array_equal(result.vector, vector_of(result.passage.text))
    else:
        fetches = [len(shard.fetches) for shard in system.shards]
        assert fetches[1] == 0
        assert fetches[0] + fetches[2] > 2


@virtual_time
async def test_the_reranker_gets_no_more_text_than_one_message_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(passages=[Passage(f"p{n:04d}", f"é {n}" + "é".rjust(n)[:-1]) for n in range(60)])
    for limit, cut in ((12 * 21, 21), (10_000, None)):
        monkeypatch.setattr("shoal.search.rerank_stage.MESSAGE_BYTES", limit)
        answer = await system.pipeline.search(request(rerank=True, top_k=12))
        _, texts, _ = system.reranker.calls.pop()
        longest = max(len(text.encode()) for text in texts)
        assert answer.reranked
        assert [result.rerank_score for result in answer.results] == sorted(map(number_in, texts), reverse=True)[:5]
        if cut is None:
            assert longest > 21
            assert answer.degraded is None
        else:
            assert longest == cut
            assert answer.degraded == "the reranker read the first 21 bytes of the longest passages"


@virtual_time
async def test_the_reranker_reads_titles() -> None:
    system = System(passages=corpus(60, title=True))
    await system.pipeline.search(request(rerank=True, top_k=1, top_n=1))
    ((_, (text,), _),) = system.reranker.calls
    assert text.startswith("title ")


@virtual_time
async def test_candidates_that_the_reranker_scores_alike_stay_in_stage_one_order() -> None:
    class Indifferent(FakeReranker):
        async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
            return np.array([float(place % 2) for place in range(len(passages))], np.float32)

    system = System(reranker=Indifferent())
    answer = await system.pipeline.search(request(rerank=True, top_k=60, top_n=60))
    assert [result.retrieval_rank for result in answer.results] == [*range(2, 61, 2), *range(1, 61, 2)]


@virtual_time
async def test_fewer_passages_than_asked_for() -> None:
    system = System()
    answer = await system.pipeline.search(request(top_k=100, top_n=100, rerank=True))
    assert len(answer.results) == 60
    empty = SearchPipeline(FakeEncoder(), [FakeShard([])], FakeReranker(), serve_settings(), clock=now)
    empty.switch(served_version("v1", [0]))
    answer = await empty.search(request(rerank=True))
    assert (answer.results, answer.reranked, answer.degraded, answer.coverage.fraction) == ([], False, None, 1.0)


@pytest.mark.parametrize("fetch_with_hits", [True, False])
@virtual_time
async def test_vectors_come_with_the_results_that_are_returned(fetch_with_hits: bool) -> None:
    system = System(fetch_with_hits=fetch_with_hits)
    answer = await system.pipeline.search(request(rerank=True, include_vector=True))
    for result in answer.results:
        assert result.vector is not None
        np.testing.assert_allclose(result.vector, vector_of(result.passage.text))
    for shard in system.shards:
        shard.fetch_behaviour.errors = [] if not fetch_with_hits else [ValueError("bug")]
    if fetch_with_hits:
        answer = await system.pipeline.search(request(include_vector=True))
        assert answer.degraded is not None
        assert answer.degraded.startswith("some vectors are missing (shard ")
        assert all(result.vector is None for result in answer.results)


@virtual_time
async def test_an_index_kind_without_vectors_to_give_refuses_the_request() -> None:
    system = System()
    for shard in system.shards:
        shard.fetch_behaviour.errors = [InvalidArgument("this index kind cannot give vectors back", param="include")]
    with pytest.raises(InvalidArgument, match="cannot give vectors back"):
        await system.pipeline.search(request(include_vector=True))


@virtual_time
async def test_switching_moves_new_searches_and_never_mixes_versions() -> None:
    system = System()
    system.shards[0].behaviour.delay = 1
    under_way = asyncio.ensure_future(system.pipeline.search(request("old")))
    await asyncio.sleep(0.5)
    system.pipeline.switch(served_version("v2", [1, 1, 2]))
    assert system.pipeline.version == "v2"
    system.shards[2].behaviour.errors = [ValueError("bug")]
    new = await system.pipeline.search(request("new"))
    old = await under_way
    assert (old.index_version, new.index_version) == ("v1", "v2")
    assert new.coverage.fraction == pytest.approx(0.5)
    for shard in system.shards:
        assert [call.version for call in shard.calls] == ["v1", "v2"]


@virtual_time
async def test_before_any_version_is_served_there_is_a_clear_error() -> None:
    pipeline = SearchPipeline(FakeEncoder(), [FakeShard(PASSAGES)], None, serve_settings(), clock=now)
    assert pipeline.version is None
    with pytest.raises(Unavailable, match="no index version is served yet"):
        await pipeline.search(request())
    with pytest.raises(Conflict, match="version v9 has 2 shards, but this server was started with 1"):
        pipeline.switch(served_version("v9", [1, 2]))


@virtual_time
async def test_timings_and_explanation() -> None:
    system = System()
    system.encoder.behaviour.delay = 0.1
    system.shards[1].behaviour.delay = 0.2
    system.reranker.behaviour.delay = 0.4
    first = asyncio.ensure_future(system.pipeline.search(request("first")))
    await asyncio.sleep(0.05)
    answer = await system.pipeline.search(request(rerank=True, explain=True))
    timings = answer.timings
    assert timings.queue == pytest.approx(50)
    assert timings.encode == pytest.approx(100)
    assert timings.retrieve == pytest.approx(300)  # it waited for the first query's call to the slow shard
    assert timings.rerank == pytest.approx(400)
    assert timings.total == pytest.approx(850)
    assert answer.explain is not None
    candidates = answer.explain.pop("candidates")
    assert [(one["id"], one["dense_rank"], one["lexical_rank"]) for one in candidates] == [
        (id_, rank, None) for rank, (id_, _) in enumerate(exact(PASSAGES, "fish", 12), 1)
    ]
    assert answer.explain == {
        "plan": {
            "mode": "dense",
            "candidates_per_shard": 12,
            "top_k": 12,
            "top_n": 5,
            "rerank": True,
            "encoded_together": 1,
        },
        "shards": [
            {"shard": 0, "ms": 0, "batch": 1, "hits": 10},
            {"shard": 1, "ms": pytest.approx(200), "batch": 1, "hits": 12},
            {"shard": 2, "ms": 0, "batch": 1, "hits": 12},
        ],
    }
    await first


def ivf(*points: tuple[int, float]) -> VectorIndexInfo:
    curve = [CurvePoint(search=f"nprobe={lists}", recall=recall, latency_ms=1.0) for lists, recall in points]
    return VectorIndexInfo(kind="ivf", search="nprobe=2", recall_at_10=0.9, latency_ms=1.0, curve=curve)


@virtual_time
async def test_a_recall_becomes_the_search_parameters_that_the_version_measured_for_it() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, index=ivf((1, 0.7), (2, 0.9), (8, 0.99))))
    answer = await system.pipeline.search(request(recall=0.95, explain=True))
    assert answer.explain is not None
    assert answer.explain["plan"]["search"] == "nprobe=8"
    await system.pipeline.search(request())
    assert [call.search_params for call in system.shards[0].calls] == [["nprobe=8"], None]


@virtual_time
async def test_queries_of_one_batch_keep_their_own_recall() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, index=ivf((1, 0.7), (2, 0.9), (8, 0.99))))
    await system.pipeline.search_all(
        [request(str(number), recall=recall) for number, recall in enumerate([0.99, None, 0.5])]
    )
    assert [params for call in system.shards[0].calls for params in call.search_params or [""]] == [
        "nprobe=8",
        "",
        "nprobe=1",
    ]


@virtual_time
async def test_a_recall_that_the_version_does_not_reach_costs_nobody_anything() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, index=ivf((1, 0.7))))
    with pytest.raises(InvalidArgument, match=r"at most 0\.7") as caught:
        await system.pipeline.search(request(recall=0.9))
    assert caught.value.param == "recall"
    assert system.encoder.calls == []
