import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal import filters
from shoal.errors import (
    Conflict,
    CorruptIndex,
    DeadlineExceeded,
    EncoderMismatch,
    InvalidArgument,
    Overloaded,
    ShoalError,
    Unavailable,
)
from shoal.filters import Compare, Filter, Not
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.records import FloatArray, MissingShard, Passage, SearchAnswer, SearchRequest
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

PASSAGES = corpus(60)
SIZES = [10, 20, 30]


class System:
    """A pipeline over fakes: 60 passages in three shards of 10, 20 and 30."""

    def __init__(
        self,
        *,
        reranks: bool = True,
        reranker: FakeReranker | None = None,
        passages: Sequence[Passage] = PASSAGES,
        **settings: Any,
    ) -> None:
        bounds = np.cumsum([0, *SIZES])
        self.shards = [FakeShard(passages[a:b]) for a, b in pairwise(bounds)]
        self.encoder = FakeEncoder()
        self.reranker = reranker or FakeReranker()
        self.pipeline = SearchPipeline(
            self.encoder,
            self.shards,
            self.reranker if reranks else None,
            serve_settings(**settings),
            clock=now,
        )
        self.pipeline.switch(served_version("v1", SIZES))


def request(query: str = "fish", **changes: Any) -> SearchRequest:
    base = SearchRequest(query=query, top_k=12, top_n=5, rerank=False, deadline=now() + 10)
    return replace(base, **changes)


def number_of(id_: str) -> int:
    return int(id_[1:])


def number_in(text: str) -> float:
    return float(text.split()[-1])


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


@virtual_time
async def test_one_encode_call_and_one_call_per_shard_serve_all_queries_that_gathered() -> None:
    system = System()
    system.encoder.behaviour.delay = 1
    first = asyncio.ensure_future(system.pipeline.search(request("first")))
    await asyncio.sleep(0.1)
    requests = [request(f"query {n}", top_k=n + 1, top_n=n + 1, deadline=now() + 5 + n) for n in range(4)]
    answers = await system.pipeline.search_all(requests)
    await first

    assert system.encoder.calls == [["first"], [f"query {n}" for n in range(4)]]
    assert system.encoder.deadlines[1] == 0.1 + 5 + 3
    for shard in system.shards:
        assert [(call.queries, call.top_k) for call in shard.calls] == [(1, 5), (4, 4)]
    for n, answer in enumerate(answers):
        assert [result.id for result in answer.results] == [id_ for id_, _ in exact(PASSAGES, f"query {n}", n + 1)]


@virtual_time
async def test_queries_that_gather_keep_their_filters() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    asked = [None, {"number": {"$lt": 3}}, {}, {"number": {"$not": {"$gte": 3}}}]
    await system.pipeline.search_all([request(f"query {n}", filter=document) for n, document in enumerate(asked)])
    few = Compare("number", "lte", 2)
    for shard in system.shards:
        assert [call.filters for call in shard.calls] == [[None, few, None, Not(Compare("number", "gte", 3))]]
    await system.pipeline.search(request())
    assert [shard.calls[1].filters for shard in system.shards] == [None] * 3


@virtual_time
async def test_a_filter_is_parsed_once_for_all_queries_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []

    def parse(document: object, *args: Any) -> Filter | None:
        parsed.append(document)
        return filters.parse(document, *args)

    monkeypatch.setattr("shoal.search.request_plan.filters", SimpleNamespace(parse=parse))
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    document = {"number": {"$lt": 3}}
    requests = [request(f"query {n}", filter=document) for n in range(20)]
    await system.pipeline.search_all(requests)
    assert parsed == [document]
    for shard in system.shards:
        ((first, *others),) = [call.filters or [] for call in shard.calls]
        assert len(others) == 19
        assert all(tree is first for tree in others), "they would be pickled one by one"
    system.pipeline.switch(served_version("v1", SIZES, {"other": "string"}))
    with pytest.raises(InvalidArgument):
        await system.pipeline.search_all(requests)
    assert len(parsed) == 2


@virtual_time
async def test_a_filter_that_does_not_fit_the_version_is_refused_before_anything_is_computed() -> None:
    system = System(max_filter_width=2)
    system.pipeline.switch(served_version("v1", SIZES, {"number": "integer"}))
    for wrong in ({"nmber": 1}, {"number": "x"}, {"number": {"$in": [1, 2, 3]}}):
        with pytest.raises(InvalidArgument, match=r"^filter\.n"):
            await system.pipeline.search(request(filter=wrong))
    assert system.encoder.calls == []
    system.encoder.behaviour.delay = 1
    late = asyncio.ensure_future(system.pipeline.search(request(filter={"number": 1})))
    await asyncio.sleep(0.5)
    system.pipeline.switch(served_version("v2", SIZES, {"other": "string"}))
    with pytest.raises(InvalidArgument, match=r"its fields are other \(string\)"):
        await late


@virtual_time
async def test_a_query_with_a_large_top_k_does_not_make_its_whole_batch_large() -> None:
    system = System()
    requests = [request(f"query {n}", top_k=1000 if n == 20 else 25, rerank=True) for n in range(30)]
    await system.pipeline.search_all(requests)
    assert [(call.queries, call.top_k) for call in system.shards[0].calls] == [(20, 25), (8, 1000), (2, 25)]


@virtual_time
async def test_a_busy_shard_gathers_queries_by_itself() -> None:
    system = System()
    system.shards[1].behaviour.delay = 1

    async def later(number: int) -> None:
        await asyncio.sleep(number * 0.1)
        await system.pipeline.search(request(f"query {number}"))

    await asyncio.gather(*(later(number) for number in range(5)))
    assert [call.queries for call in system.shards[0].calls] == [1] * 5
    assert [call.queries for call in system.shards[1].calls] == [1, 4]


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
