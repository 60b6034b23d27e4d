from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import Candidate, RowRef
from shoal.search.fusion import blend, fuse, scaled
from shoal.testing.fakes import serve_settings

ids = st.text("abcdef", min_size=1, max_size=3)
# Few distinct scores, so that ties are the rule.
scores = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(-1, 1, width=32)


def both(dense: float, lexical: float) -> dict[str, float]:
    return {"dense": dense, "lexical": lexical}


@st.composite
def searches(draw: Any) -> tuple[list[Candidate], list[Candidate], dict[str, tuple[float, float]]]:
    """What both ways of searching found in one corpus, each cut at the same window; and the corpus with both scores."""
    corpus = draw(st.dictionaries(ids, st.tuples(scores, scores.map(abs)), max_size=15))
    window = draw(st.integers(1, 10))

    def ranked(place: int) -> list[str]:
        order = sorted(corpus, key=lambda id_: (-corpus[id_][place], id_))
        return [id_ for id_ in order if place == 0 or corpus[id_][1] > 0][:window]

    refs = {id_: RowRef(row % 3, row) for row, id_ in enumerate(corpus)}

    def candidates(name: str, place: int) -> list[Candidate]:
        return [
            Candidate(id_, corpus[id_][place], rank, refs[id_], None, both(*corpus[id_]), {name: rank})
            for rank, id_ in enumerate(ranked(place), 1)
        ]

    return candidates("dense", 0), candidates("lexical", 1), corpus


@given(searches(), st.integers(1, 100))
def test_reciprocal_ranks_add_up(found: tuple[list[Candidate], list[Candidate], Any], k: int) -> None:
    dense, lexical, _ = found
    expected: dict[str, float] = {}
    for ranking in (dense, lexical):
        for rank, candidate in enumerate(ranking, 1):
            expected[candidate.id] = expected.get(candidate.id, 0.0) + 1 / (k + rank)
    fused = fuse({"dense": dense, "lexical": lexical}, serve_settings(fusion="rrf", rrf_k=k))
    assert {one.id: one.score for one in fused} == pytest.approx(expected)
    assert [(one.id, one.score) for one in fused] == sorted(
        ((one.id, one.score) for one in fused), key=lambda entry: (-entry[1], entry[0])
    )


@given(searches(), st.sampled_from(["rrf", "weighted"]), st.floats(0, 1))
def test_every_passage_is_there_once_with_both_scores_and_its_ranks(
    found: tuple[list[Candidate], list[Candidate], dict[str, tuple[float, float]]], fusion: str, weight: float
) -> None:
    dense, lexical, corpus = found
    fused = fuse({"dense": dense, "lexical": lexical}, serve_settings(fusion=fusion, lexical_weight=weight))
    assert sorted(one.id for one in fused) == sorted({one.id for one in [*dense, *lexical]})
    assert [one.rank for one in fused] == list(range(1, len(fused) + 1))
    ranks = [{one.id: rank for rank, one in enumerate(ranking, 1)} for ranking in (dense, lexical)]
    for one in fused:
        assert one.scores == both(*corpus[one.id])
        assert (one.ranks.get("dense"), one.ranks.get("lexical")) == (ranks[0].get(one.id), ranks[1].get(one.id))
    assert (
        fuse({"dense": dense[::-1], "lexical": lexical[::-1]}, serve_settings(fusion=fusion, lexical_weight=weight))
        == fused
    )


@given(searches(), st.sampled_from(["rrf", "weighted"]), st.integers(1, 12))
def test_what_is_cut_is_the_beginning_of_the_whole(
    found: tuple[list[Candidate], list[Candidate], Any], fusion: str, depth: int
) -> None:
    dense, lexical, _ = found
    rankings, fusion_settings = {"dense": dense, "lexical": lexical}, serve_settings(fusion=fusion)
    assert fuse(rankings, fusion_settings, depth) == fuse(rankings, fusion_settings)[:depth]


@given(searches())
def test_the_first_of_both_is_the_first_and_a_better_rank_never_hurts(
    found: tuple[list[Candidate], list[Candidate], Any],
) -> None:
    dense, lexical, _ = found
    fused = fuse({"dense": dense, "lexical": lexical}, serve_settings(fusion="rrf"))
    if dense and lexical and dense[0].id == lexical[0].id:
        assert fused[0].id == dense[0].id
    for one in fused:
        for other in fused:
            better = [(one.ranks.get(name, np.inf), other.ranks.get(name, np.inf)) for name in ("dense", "lexical")]
            if all(a < b for a, b in better):
                assert one.rank < other.rank


@given(searches(), st.sampled_from([0.0, 1.0]))
def test_a_weight_of_all_or_nothing_is_the_order_of_one(
    found: tuple[list[Candidate], list[Candidate], dict[str, tuple[float, float]]], weight: float
) -> None:
    dense, lexical, corpus = found
    fused = fuse({"dense": dense, "lexical": lexical}, serve_settings(fusion="weighted", lexical_weight=weight))
    own = [corpus[one.id][int(weight)] for one in fused]
    assert all(0 <= one.score <= 1 for one in fused)
    # Scaling may round two scores that are all but equal to one; it never turns them round.
    assert own == sorted(own, reverse=True) or np.allclose(own, sorted(own, reverse=True), atol=1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
def test_learned_terms_have_their_share_and_the_others_share_the_rest(lexical: float, sparse: float) -> None:
    values = {"dense": [0.5, 0.25, 0.0], "lexical": [4.0, 8.0, 0.0], "sparse": [0.0, 1.0, 3.0]}
    rankings = {
        name: [
            Candidate(
                f"p{row}", 0.0, 1, RowRef(0, row), None, {own: values[own][row] for own in values}, {name: 1 + row}
            )
            for row in range(3)
        ]
        for name in values
    }
    fused = fuse(rankings, serve_settings(lexical_weight=lexical, sparse_weight=sparse))
    minmax = {name: (np.array(of) - min(of)) / (max(of) - min(of)) for name, of in values.items()}
    others = (1 - lexical) * minmax["dense"] + lexical * minmax["lexical"]
    expected = (1 - sparse) * others + sparse * minmax["sparse"]
    found = {candidate.id: candidate.score for candidate in fused}
    assert found == pytest.approx({f"p{row}": expected[row] for row in range(3)}, abs=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.floats(0.001, 1000), st.floats(-1000, 1000))
def test_scaling_does_not_depend_on_the_scale(values: list[float], factor: float, shift: float) -> None:
    array = np.array(values)
    found = scaled(array)
    if len(set(values)) < 2:
        assert not found.any()
        return
    assert (found.min(), found.max()) == (0, 1)
    if np.ptp(array) > 1:
        np.testing.assert_allclose(scaled(array * factor + shift), found, atol=1e-6)


CANDIDATES = [
    Candidate("a", 0.9, 1, RowRef(0, 0), None, both(0.5, 4.0), both(1, 2)),
    Candidate("b", 0.8, 2, RowRef(0, 1), None, both(0.25, 8.0), both(2, 1)),
]


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("late_interaction", {}, [0.1 + 0.25 * 0.5 + 0.2 * 0.5, 0.3 + 0.25 * 0.25 + 0.2]),
        ("late", {}, [0.1 + 0.25 * 0.5 + 0.2 * 0.5, 0.3 + 0.25 * 0.25 + 0.2]),
        ("late_interaction", {"rerank_dense_weight": 2, "rerank_lexical_weight": 0}, [1.1, 0.8]),
        ("cross_encoder", {}, [0.1, 0.3]),
        ("overlap", {"rerank_lexical_weight": 1}, [0.6, 1.3]),
    ],
)
def test_the_second_stage_may_add_what_the_first_knows(
    kind: str, changes: dict[str, Any], expected: list[float]
) -> None:
    blended = blend(np.array([0.1, 0.3], np.float32), CANDIDATES, serve_settings(**changes), 8.0, kind)
    np.testing.assert_allclose(blended, expected, rtol=1e-6)


def test_without_a_word_found_the_words_add_nothing() -> None:
    candidates = [replace(one, scores={**one.scores, "lexical": 0.0}) for one in CANDIDATES]
    blended = blend(np.array([0.1, 0.3], np.float32), candidates, serve_settings(), 0.0, "late_interaction")
    np.testing.assert_allclose(blended, [0.225, 0.3625], rtol=1e-6)
