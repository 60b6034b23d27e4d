"""Fitting a learned blend: what it gains is measured on queries that took no part in fitting it."""

import math

import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Dataset
from shoal.search.blend_features import FEATURES
from shoal.training.blend import LEAST_QUERIES, TREES, WEIGHTS, JudgedCandidates, fit_blend, ideal_dcg

CLOSENESS = FEATURES.index("closeness_z")


def judged(count: int, told_by: int | None) -> tuple[list[JudgedCandidates], Dataset]:
    """Queries with one relevant candidate of twelve, which a feature tells apart if one is named."""
    draw = np.random.default_rng(7)
    candidates = []
    for number in range(count):
        features = draw.normal(size=(12, len(FEATURES))).astype(np.float32)
        relevant = int(draw.integers(12))
        if told_by is not None:
            features[relevant, told_by] += 4
        grades = (np.arange(12) == relevant).astype(float)
        blended = (0.3 * grades + draw.normal(size=12)).astype(np.float32)
        ids = [f"q{number}p{place}" for place in range(12)]
        candidates.append(JudgedCandidates(f"q{number}", ids, features, blended, grades, 1.0))
    queries = {each.query: each.query for each in candidates}
    judgements = {each.query: {each.ids[int(each.grades.argmax())]: 1} for each in candidates}
    return candidates, Dataset("made", queries, judgements)


def test_a_feature_that_tells_relevant_passages_is_learned() -> None:
    candidates, dataset = judged(100, CLOSENESS)
    fitted = fit_blend(candidates, dataset, leaves=4, seed=0)
    assert fitted is not None
    assert (len(fitted.trees) in TREES, fitted.weight in WEIGHTS, fitted.queries) == (True, True, 100)
    assert fitted.gain > 0.2
    assert fitted.p_value < 0.001
    used = {feature for tree in fitted.trees for feature in tree.feature}
    assert CLOSENESS in used
    ranks = [1 + int((each.blended > each.blended[each.grades.argmax()]).sum()) for each in candidates]
    before = np.mean([1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks])
    assert fitted.before == pytest.approx(before)


def test_where_there_is_nothing_to_learn_nothing_is_sure() -> None:
    fitted = fit_blend(*judged(100, None), leaves=4, seed=0)
    assert fitted is None or fitted.p_value > 0.05


def test_too_few_judged_queries_are_refused() -> None:
    candidates, dataset = judged(LEAST_QUERIES - 1, None)
    with pytest.raises(InvalidArgument, match=r"50 judged queries .* there are 49 of 49"):
        fit_blend(candidates, dataset, leaves=4, seed=0)


def test_the_best_ranking_has_the_highest_grades_first() -> None:
    assert ideal_dcg([0, 2, -1, 1]) == pytest.approx(2 / math.log2(2) + 1 / math.log2(3))
    assert ideal_dcg([1] * 20) == pytest.approx(sum(1 / math.log2(rank + 1) for rank in range(1, 11)))
