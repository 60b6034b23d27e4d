"""What a learned blend knows of candidates, against plain loops over the same texts and scores."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, zscore

from shoal.search.blend_features import FEATURES, MONOTONE, SCORES, WINDOW, CandidateScores, compute_features, z_scores

WORDS = st.lists(st.sampled_from("abcdefg"), max_size=40)
PASSAGES = st.lists(WORDS, min_size=1, max_size=6)


def scores_of(count: int, seed: int = 0) -> CandidateScores:
    return CandidateScores(*np.random.default_rng(seed).standard_normal((len(SCORES), count)))


def column(features: np.ndarray, name: str) -> list[float]:
    return features[:, FEATURES.index(name)].tolist()


def weights(query: Sequence[str], passages: Sequence[Sequence[str]]) -> dict[str, float]:
    n = len(passages)
    held = {term: sum(term in passage for passage in passages) for term in query}
    return {term: math.log(1 + (n - f + 0.5) / (f + 0.5)) if f else 0.0 for term, f in held.items()}


def best_window(passage: Sequence[str], weight: dict[str, float]) -> float:
    stretches = [set(passage[start : start + WINDOW]) for start in range(len(passage))]
    return max((sum(weight.get(term, 0.0) for term in stretch) for stretch in stretches), default=0.0)


def closeness(passage: Sequence[str], query: Sequence[str]) -> float:
    found = set(passage) & set(query)
    if len(found) < 2:
        return 0.0
    ends = combinations(range(len(passage) + 1), 2)
    shortest = min(end - start for start, end in ends if found <= set(passage[start:end]))
    return len(found) / shortest


@given(query=WORDS, passages=PASSAGES)
def test_texts_are_described_as_by_plain_loops(query: list[str], passages: list[list[str]]) -> None:
    features = compute_features(scores_of(len(passages)), query, passages)
    weight = weights(query, passages)
    total, rarest = sum(weight.values()), max(dict.fromkeys(query), key=lambda term: weight[term], default=None)
    expected = {
        "idf_share": [sum(weight[t] for t in {*query} & {*p}) / total if total else 0.0 for p in passages],
        "term_share": [len({*query} & {*p}) / len({*query}) if query else 0.0 for p in passages],
        "window_share": [best_window(p, weight) / total if total else 0.0 for p in passages],
        "closeness": [closeness(p, query) for p in passages],
        "pairs": [
            math.log1p(
                sum(p[i : i + 2] in [query[j : j + 2] for j in range(len(query) - 1)] for i in range(len(p) - 1))
            )
            for p in passages
        ],
        "length": [math.log1p(len(p)) for p in passages],
        "first_match": [next((i / len(p) for i, term in enumerate(p) if term in query), 1.0) for p in passages],
        "rarest_term": [float(rarest in p) for p in passages],
        "density": [sum(term in query for term in p) / len(p) if p else 0.0 for p in passages],
        "query_terms": [float(len(query))] * len(passages),
    }
    for name, values in expected.items():
        assert column(features, name) == pytest.approx(values, abs=1e-6), name


@given(query=WORDS, passages=PASSAGES, seed=st.integers(0, 1000))
def test_every_feature_is_a_number_and_goes_with_its_candidate(
    query: list[str], passages: list[list[str]], seed: int
) -> None:
    scores = scores_of(len(passages), seed)
    features = compute_features(scores, query, passages)
    assert features.shape == (len(passages), len(FEATURES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    order = np.random.default_rng(seed).permutation(len(passages))
    moved = CandidateScores(*(getattr(scores, name)[order] for name in SCORES))
    again = compute_features(moved, query, [passages[place] for place in order])
    np.testing.assert_allclose(again, features[order], atol=1e-5)


def test_scores_are_given_as_they_are_and_compared_with_those_of_the_other_candidates() -> None:
    scores = scores_of(9)
    features = compute_features(scores, ["a"], [["a"]] * 9)
    for name in SCORES:
        values = getattr(scores, name)
        ranks = rankdata(-values)
        assert column(features, name) == pytest.approx(values)
        assert column(features, f"{name}_z") == pytest.approx(zscore(values), abs=1e-5)
        assert column(features, f"{name}_gap") == pytest.approx(values - values.max(), abs=1e-6)
        assert column(features, f"{name}_log_rank") == pytest.approx(np.log(ranks), abs=1e-6)
    best = [min(column(features, f"{name}_log_rank")[i] for name in ("dense", "lexical", "rerank")) for i in range(9)]
    assert column(features, "best_log_rank") == best
    assert column(features, "rerank_best") == pytest.approx([scores.rerank.max()] * 9)
    assert column(features, "lexical_spread") == pytest.approx([scores.lexical.std()] * 9)


def test_what_is_equal_for_all_candidates_tells_none_from_another() -> None:
    assert z_scores(np.full(4, 0.1)).tolist() == [0.0] * 4
    assert z_scores(np.empty(0)).tolist() == []
    assert compute_features(scores_of(0), ["a"], []).shape == (0, len(FEATURES))


def test_constraints_name_features() -> None:
    assert set(MONOTONE) < set(FEATURES)
    assert len(set(FEATURES)) == len(FEATURES)
