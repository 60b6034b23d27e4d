"""Second stages in the shards, through the pipeline, over fakes whose token vectors prefer later passages."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from shoal.records import SearchRequest
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
    virtual_time,
)

PASSAGES = corpus(60)
SIZES = [10, 20, 30]


class System:
    """A pipeline over fakes: 60 passages in three shards that hold token vectors."""

    def __init__(self, *, late: bool = True, reranks: bool = True, **settings: Any) -> None:
        bounds = np.cumsum([0, *SIZES])
        self.shards = [FakeShard(PASSAGES[a:b]) for a, b in pairwise(bounds)]
        self.encoder = FakeEncoder()
        self.reranker = FakeReranker()
        self.pipeline = SearchPipeline(
            self.encoder, self.shards, self.reranker if reranks else None, serve_settings(**settings), clock=now
        )
        self.pipeline.switch(served_version("v1", SIZES, None, True, late=late))


def request(**changes: Any) -> SearchRequest:
    base = SearchRequest(query="fish", top_k=12, top_n=5, rerank="late", deadline=now() + 10, mode="dense")
    return replace(base, **changes)


def best(top_k: int) -> list[str]:
    """The nearest passages, later ones first."""
    return sorted((id_ for id_, _ in exact(PASSAGES, "fish", top_k)), reverse=True)


@pytest.mark.parametrize("settings", [{}, {"fetch_with_hits": False}])
@pytest.mark.parametrize("reranks", [True, False])
@virtual_time
async def test_the_merged_candidates_are_reordered_by_their_shards(settings: dict[str, Any], reranks: bool) -> None:
    system = System(reranks=reranks, **settings)
    answer = await system.pipeline.search(request(explain=True))
    assert [result.id for result in answer.results] == best(12)[:5]
    assert [result.rerank_score for result in answer.results] == [float(id_[1:]) for id_ in best(12)[:5]]
    assert (answer.reranked, answer.reranker, answer.degraded, answer.pairs) == (True, "late", None, 12)
    assert sum(len(rows) for shard in system.shards for rows in shard.scores) == 12
    assert (len(system.encoder.calls), system.reranker.calls) == (1, [])
    assert answer.explain is not None
    assert answer.explain["plan"]["rerank"] == "late"
    assert {one["id"]: one["rerank_score"] for one in answer.explain["candidates"]} == {
        id_: float(id_[1:]) for id_ in best(12)
    }


@virtual_time
async def test_only_the_texts_of_the_answer_are_read() -> None:
    system = System()
    for mode in ("dense", "lexical", "hybrid"):
        await system.pipeline.search(request(query="passage 7", mode=mode, top_n=3))
    fetched = [sum(map(len, shard.fetches)) for shard in system.shards]
    assert sum(fetched) == 3  # of the hybrid query; those of the others came with the hits
    assert [call.with_passages for call in system.shards[0].calls] == [True, True, False]


@virtual_time
async def test_a_query_by_words_is_answered_without_the_second_stage_where_the_encoder_is_away() -> None:
    system = System()
    plain = await system.pipeline.search(request(query="passage 7 17 27", mode="lexical", rerank=False))
    for error in (Unavailable("the encoder is away"), Overloaded("the encoder is busy")):
        system.encoder.behaviour.errors = [error] * 9  # tried more than once
        answer = await system.pipeline.search(request(query="passage 7 17 27", mode="lexical"))
        assert (answer.reranked, answer.degraded) == (False, f"not reranked: {error.message}")
        assert [one.id for one in answer.results] == [one.id for one in plain.results][: len(answer.results)]
        system.encoder.behaviour.errors = [error] * 9
        with pytest.raises(type(error)):
            await system.pipeline.search(request(query="passage 7 17 27", mode="hybrid"))


@virtual_time
async def test_without_the_encoder_the_reranker_reads_the_first_of_stage_one_instead_of_a_shortlist() -> None:
    system = System(shortlist=6)
    system.encoder.behaviour.errors = [Unavailable("the encoder is away")] * 9
    answer = await system.pipeline.search(request(query="passage 7 17 27", mode="lexical", rerank=True))
    assert answer.reranked
    assert answer.degraded == "the reranker read the first 6 of stage one: the encoder is away"
    assert [len(passages) for _, passages, _ in system.reranker.calls] == [6]


@virtual_time
async def test_queries_by_words_are_encoded_for_the_second_stage_alone() -> None:
    system = System()
    answer = await system.pipeline.search(request(query="passage 7 17 27", mode="lexical"))
    assert answer.reranked
    assert system.shards[0].calls[0].modes == ["lexical"]
    assert [one.id for one in answer.results] == sorted((one.id for one in answer.results), reverse=True)
    assert len(system.encoder.calls) == 1


@virtual_time
async def test_hybrid_answers_add_what_stage_one_knows() -> None:
    plain = {"rerank_dense_weight": 0, "rerank_lexical_weight": 0}
    answer = await System(**plain).pipeline.search(request(mode="hybrid", query="passage 7", explain=True))
    assert all(one.score == one.rerank_score for one in answer.results)
    answer = await System(reranker="overlap").pipeline.search(request(mode="hybrid", query="passage 7", explain=True))
    assert answer.explain is not None
    known = {one["id"]: one for one in answer.explain["candidates"]}
    greatest = max(one["lexical_score"] for one in known.values())
    for one in answer.results:  # as late interaction adds it, whatever the server's reranker is
        added = 0.25 * known[one.id]["dense_score"] + 0.2 * known[one.id]["lexical_score"] / greatest
        assert one.score == pytest.approx(known[one.id]["rerank_score"] + added, abs=1e-5)


@virtual_time
async def test_the_default_reranker_compares_what_the_shards_hold() -> None:
    system = System()
    answer = await system.pipeline.search(request(rerank=True))
    late = await system.pipeline.search(request())
    assert (answer.results, answer.reranker) == (late.results, "late")
    assert system.reranker.calls == []
    assert (await system.pipeline.search(request(rerank="read"))).reranker == "late_interaction"
    assert len(system.reranker.calls) == 1
    for read in (System(stored_tokens=False), System(reranker="overlap"), System(shortlist=12)):
        assert (await read.pipeline.search(request(rerank=True))).reranker != "late"
        assert len(read.reranker.calls) == 1


@virtual_time
async def test_a_query_that_was_encoded_for_a_version_without_tokens_is_reranked_all_the_same() -> None:
    system = System(late=False)
    system.encoder.behaviour.delay = 1.0
    searching = asyncio.ensure_future(system.pipeline.search(request(rerank=True)))
    await asyncio.sleep(0.5)
    system.pipeline.switch(served_version("v2", SIZES, late=True))
    answer = await searching
    assert (answer.index_version, answer.reranker) == ("v2", "late_interaction")
    assert len(system.reranker.calls) == 1


@virtual_time
async def test_a_version_without_token_vectors_is_refused_at_once() -> None:
    system = System(late=False)
    with pytest.raises(InvalidArgument, match="which the shards of version v1 do not hold; build it with") as error:
        await system.pipeline.search(request())
    assert error.value.param == "rerank"
    assert (system.encoder.calls, system.shards[0].calls) == ([], [])
    system.pipeline.switch(served_version("v2", SIZES, late=True))
    assert (await system.pipeline.search(request())).reranked


@virtual_time
async def test_a_shard_that_does_not_score_is_left_out() -> None:
    system = System()
    for error in (RuntimeError("broken"), Unavailable("gone"), DeadlineExceeded("late")):
        system.shards[2].score_behaviour.errors = [error, error]
        answer = await system.pipeline.search(request(top_k=30, top_n=30))
        assert answer.results
        assert all(int(one.id[1:]) < 30 for one in answer.results)
        assert [one.shard for one in answer.coverage.missing] == [2]
        assert answer.degraded is not None
        assert answer.degraded.startswith("1 of 3 shards is missing (shard 2: ")
        assert [one.retrieval_rank for one in sorted(answer.results, key=lambda one: one.retrieval_rank)] == list(
            range(1, len(answer.results) + 1)
        )


@virtual_time
async def test_without_any_score_the_answer_is_in_stage_one_order() -> None:
    system = System()
    for shard in system.shards:
        shard.score_behaviour.delay = 100
    answer = await system.pipeline.search(request())
    assert [one.id for one in answer.results] == [id_ for id_, _ in exact(PASSAGES, "fish", 5)]
    assert (answer.reranked, answer.reranker) == (False, None)
    assert (answer.coverage.fraction, answer.coverage.missing) == (1, ())
    assert answer.degradations == ("not_scored",)
    assert answer.degraded is not None
    assert answer.degraded.startswith("not reranked: no shard scored its passages (")


@virtual_time
async def test_scores_that_make_no_sense_are_a_fault_of_the_shard() -> None:
    class Odd(FakeShard):
        async def score(self, *_: Any) -> Any:
            return np.array([np.nan], np.float32)

    system = System()
    shards = [system.shards[0], Odd(PASSAGES[10:30]), system.shards[2]]
    system.pipeline = SearchPipeline(system.encoder, shards, None, serve_settings(), clock=now)
    system.pipeline.switch(served_version("v1", SIZES, late=True))
    answer = await system.pipeline.search(request(top_k=30))
    assert [(one.shard, one.reason) for one in answer.coverage.missing] == [(1, "error")]


@virtual_time
async def test_queries_of_both_kinds_side_by_side() -> None:
    system = System()
    answers = await asyncio.gather(
        *(system.pipeline.search(request(rerank=rerank)) for rerank in ("late", False, "read", "late"))
    )
    assert [answer.reranker for answer in answers] == ["late", None, "late_interaction", "late"]
    assert [one.id for one in answers[0].results] == [one.id for one in answers[3].results] == best(12)[:5]


@virtual_time
async def test_a_message_of_token_vectors_is_bounded() -> None:
    for length, rerank, calls in (
        (30, "late", [8]),
        (600, "late", [3, 3, 2]),
        (3000, "late", [1] * 8),
        (3000, False, [8]),
    ):
        system = System()
        asked = [request(query=f"{n}" * length, rerank=rerank) for n in range(8)]
        await system.pipeline.search_all(asked)
        assert [len(queries) for queries in system.encoder.calls] == calls


@virtual_time
async def test_an_answer_without_hits_is_empty() -> None:
    answer = await System().pipeline.search(request(query="nothing alike", mode="lexical"))
    assert (answer.results, answer.reranked, answer.degraded) == ([], False, None)


@pytest.mark.parametrize("settings", [{}, {"fetch_with_hits": False}])
@pytest.mark.parametrize("mode", ["dense", "hybrid", "lexical"])
@virtual_time
async def test_the_shards_choose_what_the_reranker_reads(mode: Any, settings: dict[str, Any]) -> None:
    system = System(shortlist=6, rerank_dense_weight=0, rerank_lexical_weight=0, **settings)
    whole = System(rerank_dense_weight=0, rerank_lexical_weight=0)
    asked = request(query="passage 7 17 27 37 47 57", rerank=True, mode=mode, top_n=3, explain=True)
    answer, full = [await one.pipeline.search(asked) for one in (system, whole)]
    assert (answer.pairs, answer.reranked, answer.reranker, answer.degraded) == (6, True, "late_interaction", None)
    assert full.explain is not None
    assert answer.explain is not None
    best_six = sorted(full.explain["candidates"], key=lambda one: int(one["id"][1:]))[-6:]
    assert {one["id"] for one in answer.explain["candidates"]} == {one["id"] for one in best_six}
    ((_, texts, _),) = system.reranker.calls
    assert len(texts) == 6
    # Here both second stages prefer later passages, so that a shorter list loses nothing, and ranks are stage one's.
    assert [replace(one, passage=None) for one in answer.results] == [
        replace(one, passage=None) for one in full.results
    ]


@virtual_time
async def test_the_reranker_reads_as_many_as_are_wanted_at_least() -> None:
    system = System(shortlist=2)
    answer = await system.pipeline.search(request(rerank=True))
    assert (answer.pairs, len(answer.results)) == (5, 5)
    await system.pipeline.search(request(rerank=True, top_n=12))
    assert len(system.reranker.calls[1][1]) == 12
    assert [len(shard.scores) for shard in system.shards] == [1, 1, 1]  # the second list was not to be shortened


@pytest.mark.parametrize("changes", [{"late": False}, {"reranks": False}, {"rerank": False}])
@virtual_time
async def test_a_shortlist_needs_token_vectors_and_a_reranker(changes: dict[str, Any]) -> None:
    rerank = changes.pop("rerank", True)
    system = System(shortlist=6, **changes)
    answer = await system.pipeline.search(request(rerank=rerank))
    assert [shard.scores for shard in system.shards] == [[], [], []]
    assert answer.pairs == (12 if answer.reranked else 0)


@virtual_time
async def test_without_any_score_the_reranker_reads_the_first_of_stage_one() -> None:
    system = System(shortlist=6)
    for shard in system.shards:
        shard.score_behaviour.errors = [Unavailable("gone")] * 2
    answer = await system.pipeline.search(request(rerank=True))
    assert [text for _, texts, _ in system.reranker.calls for text in texts] == [
        passage.text for id_, _ in exact(PASSAGES, "fish", 6) for passage in PASSAGES if passage.id == id_
    ]
    assert answer.reranked
    assert answer.coverage.fraction == 1
    assert answer.degradations == ("not_shortened",)
    assert answer.degraded is not None
    assert answer.degraded.startswith("the reranker read the first 6 of stage one: no shard scored its passages (")


@virtual_time
async def test_what_a_shard_does_not_score_the_reranker_does_not_read() -> None:
    system = System(shortlist=6)
    system.shards[2].score_behaviour.errors = [Unavailable("gone")] * 2
    answer = await system.pipeline.search(request(rerank=True, top_k=30))
    assert [one.shard for one in answer.coverage.missing] == [2]
    assert all(int(one.id[1:]) < 30 for one in answer.results)
    assert answer.reranked
