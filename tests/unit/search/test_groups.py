"""Groups, different texts, least scores and diversity against plain Python over the ranking of the whole corpus."""

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.client.answers import SearchResult
from shoal.errors import InvalidArgument, Unavailable
from shoal.records import AnswerShape, GroupBy
from shoal.search.distinct import document_of
from shoal.search.diversity import most_different
from shoal.shard.row_keys import RowKeys
from shoal.testing.fakes import served_version, virtual_time
from tests.support.filtering import documents, matches
from tests.support.search_system import SIZES, System, request
from tests.support.shaping import COUNT, column_value, corpus, opened

CORPUS = {passage.id: passage for passage in corpus()}
FIELDS = ["at", "lang", "ok", "price", "year", "$document"]
QUERIES = ["the black otter n8", "green snail", "white frog n59", "the"]


@pytest.fixture(scope="module", params=["built", "written"])
def index(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[shoal.Index]:
    with opened(tmp_path_factory.mktemp("groups"), request.param == "written", window=5, reranker="overlap") as index:
        yield index


@pytest.fixture(scope="module", params=["built", "written"])
def wide(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[shoal.Index]:
    """An index whose hybrid ranking is that of the whole corpus."""
    with opened(tmp_path_factory.mktemp("wide"), request.param == "written", window=COUNT) as index:
        yield index


def group_of(field: str, id_: str) -> Hashable:
    """The group of a passage; a passage without the field is one of its own."""
    if field == "$document":
        return id_.partition("#")[0]
    metadata = CORPUS[id_].metadata
    return column_value(field, metadata[field]) if field in metadata else ("alone", id_)


def shown(field: str, result: SearchResult) -> Hashable:
    if result.group is None:
        return ("alone", result.id)
    return column_value(field, result.group)


def grouped(ids: Sequence[str], field: str, size: int, groups: int) -> list[str]:
    """The best of each of the first groups of a whole ranking."""
    members: dict[Hashable, list[str]] = {}
    for id_ in ids:
        members.setdefault(group_of(field, id_), []).append(id_)
    return [id_ for ids_of_group in list(members.values())[:groups] for id_ in ids_of_group[:size]]


def ranking(index: shoal.Index, query: str, mode: Any, condition: dict[str, Any]) -> list[SearchResult]:
    return index.search(query, top_k=COUNT, top_n=COUNT, rerank=False, mode=mode, filter=condition).results


@given(id_=st.sampled_from(sorted(CORPUS)), field=st.sampled_from(FIELDS), groups=st.integers(1, 60))
def test_groups_of_passages_like_one_are_those_of_the_whole_ranking_without_it(
    index: shoal.Index, id_: str, field: str, groups: int
) -> None:
    whole = [result.id for result in index.search(id=id_, top_k=COUNT, top_n=COUNT).results]
    assert len(whole) == COUNT - 1
    assert id_ not in whole
    answer = index.search(id=id_, top_n=groups, top_k=groups, group_by={"field": field, "size": 1})
    assert [result.id for result in answer.results] == grouped(whole, field, 1, groups)


@given(
    query=st.sampled_from(QUERIES),
    mode=st.sampled_from(["dense", "lexical"]),
    condition=documents(),
    field=st.sampled_from(FIELDS),
    groups=st.integers(1, 30),
)
def test_groups_are_those_of_the_whole_ranking(
    index: shoal.Index, query: str, mode: Any, condition: dict[str, Any], field: str, groups: int
) -> None:
    options: Any = {"rerank": False, "mode": mode, "filter": condition}
    answer = index.search(query, top_n=groups, top_k=groups, group_by={"field": field, "size": 1}, **options)
    whole = [result.id for result in ranking(index, query, mode, condition)]
    assert [result.id for result in answer.results] == grouped(whole, field, 1, groups)
    assert [shown(field, result) for result in answer.results] == [group_of(field, r.id) for r in answer.results]
    assert [result.retrieval_rank for result in answer.results] == [1 + whole.index(r.id) for r in answer.results]
    assert answer.degraded is None


@given(
    query=st.sampled_from(QUERIES),
    condition=documents(),
    field=st.sampled_from(FIELDS),
    groups=st.integers(1, 30),
    size=st.integers(1, 5),
)
def test_groups_of_a_hybrid_ranking_hold_their_best(
    wide: shoal.Index, query: str, condition: dict[str, Any], field: str, groups: int, size: int
) -> None:
    options: Any = {"rerank": False, "mode": "hybrid", "filter": condition, "top_n": groups, "top_k": COUNT}
    answer = wide.search(query, group_by={"field": field, "size": size}, **options)
    whole = [result.id for result in ranking(wide, query, "hybrid", condition)]
    assert [result.id for result in answer.results] == grouped(whole, field, size, groups)


@given(
    query=st.sampled_from(QUERIES),
    mode_and_rerank=st.tuples(st.sampled_from(["dense", "lexical", "hybrid"]), st.booleans()),
    condition=documents(),
    field=st.sampled_from(FIELDS),
    groups=st.integers(1, 12),
    size=st.integers(1, 3),
)
def test_there_are_never_fewer_groups_than_there_are(
    index: shoal.Index, query: str, mode_and_rerank: tuple[Any, bool], condition: dict[str, Any], field: str,
    groups: int, size: int,
) -> None:  # fmt: skip
    mode, rerank = mode_and_rerank
    options: Any = {"rerank": rerank, "mode": mode, "filter": condition, "top_n": groups, "top_k": groups}
    answer = index.search(query, group_by={"field": field, "size": size}, **options)
    found = {group_of(field, result.id) for result in ranking(index, query, "lexical", condition)}
    if mode != "lexical":
        found = {group_of(field, id_) for id_, p in CORPUS.items() if matches(condition, dict(p.metadata))}
    order = list(dict.fromkeys(shown(field, result) for result in answer.results))
    assert len(order) == min(groups, len(found))
    members = [[result for result in answer.results if shown(field, result) == group] for group in order]
    assert [result.id for results in members for result in results] == [result.id for result in answer.results]
    assert all(len(results) <= size for results in members)
    assert all(results == sorted(results, key=lambda result: -result.score) for results in members)
    heads = [results[0].score for results in members]
    assert heads == sorted(heads, reverse=True)
    assert answer.reranked is (rerank and bool(answer.results))


@given(query=st.sampled_from(QUERIES), mode=st.sampled_from(["dense", "lexical"]), condition=documents())
def test_of_equal_texts_the_best_is_returned_and_others_take_their_place(
    index: shoal.Index, query: str, mode: Any, condition: dict[str, Any]
) -> None:
    answer = index.search(query, top_n=20, top_k=20, collapse=True, rerank=False, mode=mode, filter=condition)
    first: dict[str, str] = {}
    for result in ranking(index, query, mode, condition):
        first.setdefault(result.text or "", result.id)
    assert [result.id for result in answer.results] == list(first.values())[:20]


def test_groups_and_different_texts_go_together(index: shoal.Index) -> None:
    options: Any = {"rerank": False, "mode": "dense", "top_n": 10}
    answer = index.search("green snail", collapse=True, group_by={"field": "$document", "size": 3}, **options)
    first: dict[str, str] = {}
    for result in ranking(index, "green snail", "dense", {}):
        first.setdefault(result.text or "", result.id)
    heads = grouped(list(first.values()), "$document", 1, 10)
    assert list(dict.fromkeys(group_of("$document", result.id) for result in answer.results)) == [
        group_of("$document", id_) for id_ in heads
    ]
    assert len({result.text for result in answer.results}) == len(answer.results)


def test_groups_are_reranked_wherever_their_best_stands(index: shoal.Index) -> None:
    whole = ranking(index, "green snail", "dense", {})
    answer = index.search(
        "green snail", top_k=12, top_n=12, mode="dense", group_by={"field": "$document"}, explain=True
    )
    assert answer.explain is not None
    heads = set(grouped([result.id for result in whole], "$document", 1, 12))
    assert heads <= {candidate["id"] for candidate in answer.explain["candidates"]}
    assert answer.reranked
    assert len(answer.results) == 12


def test_a_window_that_may_not_grow_further_is_told(tmp_path: Path) -> None:
    with opened(tmp_path, max_group_window=20) as index:
        few = index.search("fish", group_by={"field": "lang"}, filter={"lang": "en"}, mode="dense")
        assert len(few.results) == 1
        assert few.warnings == [
            "the first 20 passages were looked at and hold fewer groups than were asked for; there may be more "
            "(--max-group-window)"
        ]
        narrow = index.search("fish", group_by={"field": "lang"}, filter={"lang": "en", "year": 1999}, mode="dense")
        assert (len(narrow.results), narrow.warnings) == (1, [])


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("rerank", [True, False])
def test_results_score_at_least_what_is_asked(index: shoal.Index, mode: Any, rerank: bool) -> None:
    options: Any = {"mode": mode, "rerank": rerank, "top_k": 30, "top_n": 30}
    results = index.search("the black otter n8", **options).results
    least = results[7].score
    kept = index.search("the black otter n8", min_score=least, **options).results
    assert kept == [result for result in results if result.score >= least]
    assert 8 <= len(kept) < 30
    assert index.search("the black otter n8", min_score=1e9, **options).results == []


@given(count=st.integers(1, 30), chosen=st.integers(1, 35), diversity=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_what_is_chosen_has_the_greatest_marginal_relevance(
    count: int, chosen: int, diversity: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sort(draw.random(count, np.float32))[::-1]
    spread = float(scores[0]) - float(scores[-1])
    relevance = [(float(score) - float(scores[-1])) / spread if spread else 0.0 for score in scores]
    order = most_different(scores, vectors, chosen, diversity)
    assert len(order) == len(set(order)) == min(chosen, count)
    assert order[0] == 0
    for place in range(1, len(order)):
        gains = {
            candidate: (1 - diversity) * relevance[candidate]
            - diversity * max(float(vectors[candidate] @ vectors[other]) for other in order[:place])
            for candidate in set(range(count)) - set(order[:place])
        }
        assert gains[order[place]] == pytest.approx(max(gains.values()), abs=1e-5)


def test_diverse_results_are_candidates_that_differ(index: shoal.Index) -> None:
    options: Any = {"mode": "dense", "rerank": False, "top_k": 40}
    plain = index.search("green snail", top_n=40, **options, include=["vector", "text"]).results
    vectors = np.array([result.vector for result in plain], np.float32)
    expected = most_different(np.array([result.score for result in plain], np.float32), vectors, 10, 0.5)
    answer = index.search("green snail", top_n=10, diversity=0.5, **options)
    assert [result.id for result in answer.results] == [plain[position].id for position in expected]
    assert expected != list(range(10))
    assert (
        index.search("green snail", top_n=10, diversity=0.0, **options).results
        == index.search("green snail", top_n=10, **options).results
    )
    reranked = index.search("green snail", top_n=10, top_k=40, diversity=1, mode="hybrid")
    assert (len(reranked.results), reranked.reranked) == (10, True)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"group_by": {"field": "tags"}}, "group_by.field"),
        ({"group_by": {"field": "unknown"}}, "group_by.field"),
        ({"group_by": {"field": "lang", "size": 0}}, "group_by.size"),
        ({"group_by": {"field": "lang", "size": 101}}, "group_by.size"),
        ({"group_by": {"size": 1}}, "group_by.field"),
        ({"group_by": "lang"}, "group_by"),
        ({"group_by": {"field": "lang"}, "diversity": 0.5}, "diversity"),
        ({"diversity": 1.5}, "diversity"),
        ({"min_score": "high"}, "min_score"),
        ({"collapse": "yes"}, "collapse"),
        ({"group_by": {"field": "lang", "size": 100}, "top_n": 200, "top_k": 200}, "top_n"),
    ],
)
def test_what_cannot_be_shaped_is_refused(index: shoal.Index, options: Any, param: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        index.search("fish", **options)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("passage_id", "document"),
    [("a#1", "a"), ("a#b#2", "a#b"), ("a", "a"), ("C#", "C#"), ("#1", "#1"), ("a#0f3c", "a")],
)
def test_the_document_of_a_piece_is_what_stands_before_its_number(passage_id: str, document: str) -> None:
    assert document_of(passage_id) == document


@virtual_time
async def test_passages_of_a_shard_that_names_no_groups_are_left_out() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, fields={"lang": "string"}))
    for shard in system.shards:
        shard.answer = lambda question: RowKeys([f"{row}" for row in question.rows], None)
    system.shards[2].lookup_behaviour.errors = [Unavailable("gone")] * 20
    answer = await system.pipeline.search(request(top_n=3, shape=AnswerShape(group_by=GroupBy("lang", 1))))
    assert "shards" in answer.degradations
    assert [missing.shard for missing in answer.coverage.missing] == [2]
    assert len({result.group for result in answer.results}) == 3
    assert {result.id for result in answer.results} <= {passage.id for s in system.shards[:2] for passage in s.passages}


@virtual_time
async def test_what_was_found_is_answered_where_the_window_cannot_grow() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, fields={"lang": "string"}))
    for shard in system.shards:
        shard.answer = lambda question: RowKeys(["one"] * len(question.rows), None)

    async def fail_later() -> None:
        if len(system.shards[0].calls) > 1:
            raise Unavailable("gone")

    for shard in system.shards:
        shard.behaviour.hook = fail_later
    answer = await system.pipeline.search(request(shape=AnswerShape(group_by=GroupBy("lang", 1))))
    assert len(answer.results) == 1
    assert answer.degraded is not None
    assert "there may be more groups" in answer.degraded
