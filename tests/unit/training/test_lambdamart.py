"""LambdaMART: gradients against a loop over all pairs, trees against scikit-learn's, and that it learns to rank."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from shoal.search.blend_features import FEATURES
from shoal.search.blend_model import Forest
from shoal.training.blend import ideal_dcg
from shoal.training.lambdamart import TRUNCATION, RankingData, as_tree, fit_trees, lambdas, monotone_constraints


def data_of(counts: list[int], seed: int = 0) -> RankingData:
    """Queries whose relevant candidates have a high first feature in most cases."""
    draw = np.random.default_rng(seed)
    total = sum(counts)
    features = draw.normal(size=(total, len(FEATURES))).astype(np.float32)
    grades = np.clip(np.round(features[:, 0] + draw.normal(size=total) / 2), 0, 2)
    ends = np.cumsum(counts)
    for end, count in zip(ends, counts, strict=True):
        grades[end - count] = max(grades[end - count], 1)
    ideal = np.array([ideal_dcg(part.astype(int).tolist()) for part in np.split(grades, ends[:-1])])
    return RankingData(features, grades, np.array(counts), ideal)


def by_loops(scores: np.ndarray, data: RankingData) -> tuple[np.ndarray, np.ndarray]:
    gradient, hessian = np.zeros(len(scores)), np.zeros(len(scores))
    first = 0
    for count, ideal in zip(data.counts, data.ideal, strict=True):
        own = range(first, first + count)
        rank = {row: place for place, row in enumerate(sorted(own, key=lambda row: -scores[row]))}
        for better in own:
            for worse in own:
                if data.grades[better] <= data.grades[worse] or min(rank[better], rank[worse]) >= TRUNCATION:
                    continue
                discount = abs(1 / np.log2(rank[better] + 2) - 1 / np.log2(rank[worse] + 2))
                change = (data.grades[better] - data.grades[worse]) * discount / ideal
                wrong = 1 / (1 + np.exp(scores[better] - scores[worse]))
                gradient[better] += change * wrong
                gradient[worse] -= change * wrong
                hessian[[better, worse]] += change * wrong * (1 - wrong)
        first += count
    return gradient, hessian


@pytest.mark.parametrize("counts", [[5], [1, 20, 3], [7] * 140])
def test_gradients_are_those_of_all_pairs(counts: list[int]) -> None:
    data = data_of(counts)
    scores = np.random.default_rng(1).normal(size=sum(counts))
    gradient, hessian = lambdas(scores, data)
    expected = by_loops(scores, data)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-12)
    np.testing.assert_allclose(hessian, expected[1], atol=1e-12)


def test_a_tree_is_that_of_scikit_learn() -> None:
    data = data_of([30] * 10)
    fitted = DecisionTreeRegressor(max_leaf_nodes=8, random_state=0).fit(data.features, data.grades)
    forest = Forest([as_tree(fitted, 0.1)], FEATURES)
    np.testing.assert_allclose(forest.predict(data.features), 0.1 * fitted.predict(data.features), atol=1e-6)


def test_trees_rank_what_they_have_not_seen_and_the_same_seed_gives_the_same_trees() -> None:
    constraints = monotone_constraints(FEATURES, {FEATURES[0]: 1})
    fitted = fit_trees(data_of([20] * 100), 20, 8, constraints, seed=0)
    assert fitted == fit_trees(data_of([20] * 100), 20, 8, constraints, seed=0)
    assert fitted != fit_trees(data_of([20] * 100), 20, 8, constraints, seed=1)
    assert all(len(tree.feature) <= 15 for tree in fitted)
    unseen = data_of([20] * 50, seed=9)
    scores = Forest(fitted, FEATURES).predict(unseen.features)
    relevant, others = scores[unseen.grades > 0], scores[unseen.grades == 0]
    assert (relevant[:, None] > others[None]).mean() > 0.75  # the area under the ROC curve; by chance 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_rise_and_fall_with_a_feature_only_as_they_may(sign: int) -> None:
    name = FEATURES[0]
    fitted = fit_trees(data_of([20] * 60), 15, 8, monotone_constraints(FEATURES, {name: sign}), seed=0)
    rows = np.repeat(data_of([40], seed=3).features[:1], 200, axis=0)
    rows[:, 0] = np.linspace(-3, 3, 200)
    steps = np.diff(Forest(fitted, FEATURES).predict(rows))
    assert (sign * steps >= 0).all()
