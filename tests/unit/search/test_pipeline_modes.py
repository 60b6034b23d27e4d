"""Searches by vectors, by words and by both through the pipeline, over fakes."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.modes import RETRIEVERS_OF, Mode
from shoal.records import Passage, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.shard.messages import ShardQuery
from shoal.testing.fakes import (
    FAKE_RETRIEVERS,
    FakeEncoder,
    FakeReranker,
    FakeRetriever,
    FakeShard,
    corpus,
    exact,
    now,
    serve_settings,
    served_version,
    virtual_time,
)
from shoal.testing.fakes import words_shared as shared

PASSAGES = corpus(60)
SIZES = [10, 20, 30]
QUERY = "passage 7 17 27"


class System:
    """A pipeline over fakes: 60 passages in three shards, which can be searched by words as well."""

    def __init__(self, *, lexical: bool = True, **settings: Any) -> None:
        bounds = np.cumsum([0, *SIZES])
        self.shards = [FakeShard(PASSAGES[a:b]) for a, b in pairwise(bounds)]
        self.encoder = FakeEncoder()
        self.reranker = FakeReranker()
        self.settings = serve_settings(**{"fusion": "rrf", **settings})
        self.pipeline = SearchPipeline(self.encoder, self.shards, self.reranker, self.settings, clock=now)
        self.pipeline.switch(served_version("v1", SIZES, None, lexical))


def request(mode: Mode | None = None, **changes: Any) -> SearchRequest:
    base = SearchRequest(query=QUERY, top_k=12, top_n=5, rerank=False, deadline=now() + 10, mode=mode)
    return replace(base, **changes)


def by_words(query: str, top_k: int) -> list[tuple[str, float]]:
    scored = [(passage.id, shared(query, passage)) for passage in PASSAGES]
    return sorted((one for one in scored if one[1]), key=lambda one: (-one[1], one[0]))[:top_k]


def fused(window: int, k: int = 60) -> list[str]:
    found: dict[str, float] = {}
    for ranking in (exact(PASSAGES, QUERY, window), by_words(QUERY, window)):
        for rank, (id_, _) in enumerate(ranking, 1):
            found[id_] = found.get(id_, 0) + 1 / (k + rank)
    return sorted(found, key=lambda id_: (-found[id_], id_))


@virtual_time
async def test_lexical_needs_no_vector() -> None:
    system = System()
    answer = await system.pipeline.search(request("lexical"))
    assert [(one.id, one.score) for one in answer.results] == by_words(QUERY, 5)
    assert (answer.mode, answer.timings.encode, answer.timings.queue) == ("lexical", 0, 0)
    assert system.encoder.calls == []
    none = await system.pipeline.search(request("lexical", query="nothing alike", rerank=True))
    assert (none.results, none.reranked, none.degraded, none.coverage.fraction) == ([], False, None, 1.0)


@pytest.mark.parametrize("window", [12, 30, 100])
@virtual_time
async def test_hybrid_fuses_the_windows_of_the_whole_index(window: int) -> None:
    system = System(window=window)
    answer = await system.pipeline.search(request("hybrid", top_n=12))
    assert [one.id for one in answer.results] == fused(window)[:12]
    assert answer.mode == "hybrid"
    assert [one.passage for one in answer.results] == [PASSAGES[int(one.id[1:])] for one in answer.results]
    assert {call.top_k for shard in system.shards for call in shard.calls} == {window}


@virtual_time
async def test_hybrid_adds_up_scaled_scores_by_default() -> None:
    assert serve_settings().fusion == "weighted"
    answer = await System(fusion="weighted", lexical_weight=0.3).pipeline.search(request("hybrid", top_n=12))
    dense = dict(exact(PASSAGES, QUERY, 60))
    words = {passage.id: shared(QUERY, passage) for passage in PASSAGES}

    def scaled(scores: dict[str, float], id_: str) -> float:
        least, greatest = min(scores.values()), max(scores.values())
        return (scores[id_] - least) / (greatest - least)

    expected = {id_: 0.7 * scaled(dense, id_) + 0.3 * scaled(words, id_) for id_ in dense}
    best = sorted(expected, key=lambda id_: (-expected[id_], id_))[:12]
    assert [one.id for one in answer.results] == best
    assert [one.score for one in answer.results] == pytest.approx([expected[id_] for id_ in best], abs=1e-5)


@virtual_time
async def test_a_longer_page_continues_a_shorter_one() -> None:
    system = System(window=40)
    pages = [await system.pipeline.search(request("hybrid", top_k=n, top_n=n)) for n in (3, 11, 40)]
    ids = [[one.id for one in page.results] for page in pages]
    assert ids[0] == ids[1][:3]
    assert ids[1] == ids[2][:11]


@virtual_time
async def test_explain_shows_the_scores_and_ranks_of_both() -> None:
    answer = await System().pipeline.search(request("hybrid", rerank=True, explain=True))
    assert answer.explain is not None
    dense, words = dict(exact(PASSAGES, QUERY, 60)), dict(by_words(QUERY, 60))
    dense_ranks = {id_: rank for rank, id_ in enumerate(dense, 1)}
    word_ranks = {id_: rank for rank, id_ in enumerate(words, 1)}
    assert [one["id"] for one in answer.explain["candidates"]] == fused(100)[:12]
    for one in answer.explain["candidates"]:
        id_ = one["id"]
        assert one["dense_score"] == pytest.approx(dense[id_], abs=1e-6)
        assert one["lexical_score"] == words[id_]
        assert (one["dense_rank"], one["lexical_rank"]) == (dense_ranks[id_], word_ranks[id_])
        assert one["rerank_score"] == int(id_[1:])
    assert answer.explain["plan"]["mode"] == "hybrid"


@virtual_time
async def test_the_second_stage_of_a_hybrid_answer_knows_the_first() -> None:
    plain = await System(reranker="overlap").pipeline.search(request("hybrid", rerank=True))
    assert [one.score for one in plain.results] == [one.rerank_score for one in plain.results]
    system = System(reranker="overlap", rerank_lexical_weight=1000)
    answer = await system.pipeline.search(request("hybrid", rerank=True))
    greatest = by_words(QUERY, 1)[0][1]
    expected = sorted(
        fused(100)[:12], key=lambda id_: -(int(id_[1:]) + 1000 * shared(QUERY, PASSAGES[int(id_[1:])]) / greatest)
    )
    assert [one.id for one in answer.results] == expected[:5]
    assert [one.rerank_score for one in answer.results] == [int(id_[1:]) for id_ in expected[:5]]
    dense = await system.pipeline.search(request("dense", rerank=True))
    assert [one.score for one in dense.results] == [one.rerank_score for one in dense.results]


@virtual_time
async def test_what_a_hybrid_answer_adds_goes_by_the_kind_of_the_reranker_and_not_by_its_name() -> None:
    answers = []
    for name, kind in (("late_interaction", None), ("/trained", "late_interaction")):
        system = System(reranker=name)
        system.pipeline = SearchPipeline(
            system.encoder, system.shards, system.reranker, system.settings, clock=now, reranker_kind=kind
        )
        system.pipeline.switch(served_version("v1", SIZES, None, True))
        answers.append(await system.pipeline.search(request("hybrid", rerank=True)))
    assert answers[0].results == answers[1].results
    assert all(one.score != one.rerank_score for one in answers[1].results)
    assert [answer.reranker for answer in answers] == ["late_interaction", "/trained"]


@pytest.mark.parametrize(
    ("lexical", "setting", "asked", "used"),
    [
        (True, "auto", None, "hybrid"),
        (False, "auto", None, "dense"),
        (True, "dense", None, "dense"),
        (True, "lexical", None, "lexical"),
        (True, "lexical", "hybrid", "hybrid"),
        (True, "hybrid", "dense", "dense"),
    ],
)
@virtual_time
async def test_the_mode_is_the_requests_else_the_servers(lexical: bool, setting: str, asked: Mode, used: Mode) -> None:
    system = System(lexical=lexical, mode=setting)
    assert (await system.pipeline.search(request(asked))).mode == used
    assert {mode for shard in system.shards for call in shard.calls for mode in call.modes} == {used}


@virtual_time
async def test_a_version_without_words_says_so() -> None:
    system = System(lexical=False)
    modes: tuple[Mode, Mode] = ("lexical", "hybrid")
    for mode in modes:
        with pytest.raises(InvalidArgument, match=f"mode {mode} needs a lexical index, which version v1 has not"):
            await system.pipeline.search(request(mode))
    assert not any(shard.calls for shard in system.shards)
    system.pipeline.switch(served_version("v2", SIZES, None, True))
    assert (await system.pipeline.search(request("hybrid"))).index_version == "v2"


@virtual_time
async def test_more_candidates_than_the_window_widen_it() -> None:
    system = System(window=20)
    answer = await system.pipeline.search(request("hybrid", top_k=21, top_n=21))
    assert [one.id for one in answer.results] == fused(21)[:21]
    assert {call.top_k for shard in system.shards for call in shard.calls} == {21}


@virtual_time
async def test_queries_of_all_modes_share_one_call_per_shard() -> None:
    system = System()
    for shard in system.shards:
        shard.behaviour.delay = 1
    first = asyncio.ensure_future(system.pipeline.search(request("lexical")))
    await asyncio.sleep(0.5)
    modes: list[Mode] = ["dense", "lexical", "hybrid"]
    together = [asyncio.ensure_future(system.pipeline.search(request(mode))) for mode in modes]
    answers = [await one for one in together]
    await first
    for shard in system.shards:
        assert [len(call.modes) for call in shard.calls] == [1, 3]
    assert [one.mode for one in answers] == modes
    assert [one.id for one in answers[0].results] == [id_ for id_, _ in exact(PASSAGES, QUERY, 5)]
    assert [one.id for one in answers[1].results] == [id_ for id_, _ in by_words(QUERY, 5)]
    assert [one.id for one in answers[2].results] == fused(100)[:5]


@virtual_time
async def test_a_missing_shard_takes_both_of_its_parts_with_it() -> None:
    system = System()
    system.shards[2].behaviour.delay = 100
    answer = await system.pipeline.search(request("hybrid"))
    assert answer.coverage.fraction == 0.5
    assert all(int(one.id[1:]) < 30 for one in answer.results)


@virtual_time
async def test_any_retriever_takes_part_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy one that prefers early passages, and finds only even ones."""

    def score(query: ShardQuery, passage: Passage) -> float:
        return -float(passage.text.split()[-1])

    toy = FakeRetriever(score, lambda score: score % 2 == 0)
    names = ("dense", "lexical", "toy")
    monkeypatch.setitem(RETRIEVERS_OF, "hybrid", names)
    shards = [FakeShard(PASSAGES[a:b], {**FAKE_RETRIEVERS, "toy": toy}) for a, b in ((0, 25), (25, 60))]
    settings = serve_settings(fusion="rrf", rrf_k=1, window=4)
    pipeline = SearchPipeline(FakeEncoder(), shards, None, settings, clock=now)
    pipeline.switch(served_version("v1", [25, 35], retrievers=names))
    answer = await pipeline.search(
        SearchRequest(query="7 17 27", top_k=4, top_n=4, rerank=False, deadline=now() + 10, mode="hybrid")
    )
    by_vector = [id_ for id_, _ in exact(PASSAGES, "7 17 27", 4)]
    rankings = (by_vector, ["p0007", "p0017", "p0027"], ["p0000", "p0002", "p0004", "p0006"])
    fused: dict[str, float] = {}
    for ranking in rankings:
        for rank, id_ in enumerate(ranking, 1):
            fused[id_] = fused.get(id_, 0) + 1 / (1 + rank)
    expected = sorted(fused, key=lambda id_: (-fused[id_], id_))[:4]
    assert [result.id for result in answer.results] == expected
