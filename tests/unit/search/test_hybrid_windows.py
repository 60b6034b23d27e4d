"""Hybrid answers against fusing the rankings of the whole corpus in plain Python, for windows that do not hold it.

In three shards, filtered, built and written: results, pages, groups and facets of windows of 1 to 240 passages.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.client.answers import SearchResponse
from tests.support.filtering import documents, matches
from tests.support.shaping import COUNT, PATIENT, column_value, corpus, opened

CORPUS = {passage.id: passage for passage in corpus()}
QUERIES = ["the black otter n8", "green snail", "white frog n59", "the"]
WEIGHT = 0.3
"""Of words, as it is unless set otherwise."""
RRF_K = 60
Scores = dict[str, float]


@pytest.fixture(scope="module", params=["built", "written"])
def indexes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[tuple[str, int], shoal.Index]]:
    """One index, opened by way of fusing and by window."""
    folder = tmp_path_factory.mktemp("hybrid")
    with opened(folder, request.param == "written", window=7) as first:
        made = {("weighted", 7): first}
        try:
            for fusion, window in (("weighted", 1), ("weighted", 40), ("rrf", 7), ("rrf", 40)):
                made[fusion, window] = shoal.open(
                    folder / "index", reranker="none", window=window, fusion=fusion, **PATIENT
                )
            yield made
        finally:
            for index in list(made.values())[1:]:
                index.close()


def whole(index: shoal.Index, query: str, mode: Any, condition: dict[str, Any]) -> Scores:
    """The scores of all that one retriever finds, best first, equal ones by id: what other tests hold to be exact."""
    answer = index.search(query, mode=mode, filter=condition, top_k=COUNT, top_n=COUNT, rerank=False)
    return {result.id: result.score for result in answer.results}


def scaled(scores: Scores) -> Scores:
    least, greatest = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {id_: (score - least) / (greatest - least) if greatest > least else 0.0 for id_, score in scores.items()}


def fused(dense: Scores, lexical: Scores, window: int, fusion: str) -> list[str]:
    """The best of both rankings, fused by the definition."""
    ranks = [{id_: rank for rank, id_ in enumerate(list(scores)[:window], 1)} for scores in (dense, lexical)]
    union = {id_ for known in ranks for id_ in known}
    if fusion == "rrf":
        total = {id_: sum(1 / (RRF_K + known[id_]) for known in ranks if id_ in known) for id_ in union}
    else:
        by_vectors = scaled({id_: dense[id_] for id_ in union})
        by_words = scaled({id_: lexical.get(id_, 0.0) for id_ in union})
        total = {id_: (1 - WEIGHT) * by_vectors[id_] + WEIGHT * by_words[id_] for id_ in union}
    return sorted(union, key=lambda id_: (-round(total[id_], 6), id_))


def ids(answer: SearchResponse) -> list[str]:
    """Those of an answer; equal scores, but for the last bits, by id."""
    return [result.id for result in sorted(answer.results, key=lambda result: (-round(result.score, 6), result.id))]


def group_of(field: str, id_: str) -> Hashable:
    if field == "$document":
        return id_.partition("#")[0]
    metadata = CORPUS[id_].metadata
    return column_value(field, metadata[field]) if field in metadata else ("alone", id_)


SHAPES = st.sampled_from([("weighted", 7), ("weighted", 1), ("weighted", 40), ("rrf", 7), ("rrf", 40)])


@settings(max_examples=40)  # each asks for whole rankings
@given(
    key=SHAPES, query=st.sampled_from(QUERIES), condition=documents(), depth=st.integers(1, COUNT), facet=st.booleans()
)
def test_an_answer_fuses_the_best_of_the_whole_corpus(
    indexes: dict[tuple[str, int], shoal.Index],
    key: tuple[str, int], query: str, condition: dict[str, Any], depth: int, facet: bool,
) -> None:  # fmt: skip
    (fusion, window), index = key, indexes[key]
    dense, lexical = (whole(index, query, mode, condition) for mode in ("dense", "lexical"))
    options: Any = {"mode": "hybrid", "rerank": False, "filter": condition, "facets": ["lang"] if facet else []}
    answer = index.search(query, top_k=depth, top_n=depth, **options)
    expected = fused(dense, lexical, max(depth, window), fusion)
    assert len(answer.results) == min(depth, len(expected))
    assert ids(answer)[:-1] == expected[: len(answer.results)][:-1]  # the last ones may be equal
    if facet:
        counts = Counter(
            passage.metadata["lang"]
            for passage in CORPUS.values()
            if "lang" in passage.metadata and matches(condition, dict(passage.metadata))
        )
        assert answer.facets is not None
        assert {entry.value: entry.count for entry in answer.facets["lang"]} == counts


@settings(max_examples=40)  # each asks for whole rankings
@given(
    key=SHAPES, query=st.sampled_from(QUERIES), condition=documents(), sizes=st.lists(st.integers(1, 30), min_size=2)
)
def test_pages_go_through_the_window_without_gaps(
    indexes: dict[tuple[str, int], shoal.Index],
    key: tuple[str, int], query: str, condition: dict[str, Any], sizes: list[int],
) -> None:  # fmt: skip
    (fusion, window), index = key, indexes[key]
    dense, lexical = (whole(index, query, mode, condition) for mode in ("dense", "lexical"))
    expected = fused(dense, lexical, window, fusion)[:window]
    found: list[Any] = []
    after: dict[str, Any] = {}
    for turn in range(COUNT):
        size = min(sizes[turn % len(sizes)], window)
        answer = index.search(query, mode="hybrid", rerank=False, filter=condition, top_n=size, top_k=size, **after)
        found += answer.results
        if answer.next is None:
            break
        after = {"after": answer.next}
    found.sort(key=lambda result: (-round(result.score, 6), result.id))
    assert len(found) == len(expected)
    assert [result.id for result in found][:-1] == expected[:-1]


@settings(max_examples=40)  # each asks for whole rankings
@given(
    key=SHAPES,
    query=st.sampled_from(QUERIES),
    condition=documents(),
    field=st.sampled_from(["lang", "year", "ok", "$document"]),
    groups=st.integers(1, 30),
)
def test_groups_are_those_of_the_first_window_that_holds_enough(
    indexes: dict[tuple[str, int], shoal.Index],
    key: tuple[str, int], query: str, condition: dict[str, Any], field: str, groups: int,
) -> None:  # fmt: skip
    (fusion, window), index = key, indexes[key]
    dense, lexical = (whole(index, query, mode, condition) for mode in ("dense", "lexical"))
    window = max(window, groups)
    while True:
        ranking = fused(dense, lexical, window, fusion)
        heads: dict[Hashable, str] = {}
        for id_ in ranking:
            heads.setdefault(group_of(field, id_), id_)
        if len(heads) >= groups or len(ranking) < window:
            break
        window *= 4
    options: Any = {"mode": "hybrid", "rerank": False, "filter": condition, "top_n": groups, "top_k": groups}
    answer = index.search(query, group_by={"field": field, "size": 1}, **options)
    assert len(answer.results) == min(groups, len(heads))
    assert [group_of(field, id_) for id_ in ids(answer)][:-1] == list(heads)[: len(answer.results)][:-1]
    assert answer.warnings in ([], ["no passage fulfils the filter"])
