"""LambdaMART (Burges 2010, "From RankNet to LambdaRank to LambdaMART: An Overview", MSR-TR-2010-82): trees that rank.

Every tree takes a Newton step: it is fitted to gradient / hessian of the pairs of candidates that stand in the wrong
order, each weighted by what nDCG would gain by exchanging the two (equations 1 to 6 there). The trees themselves are
scikit-learn's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.records import FloatArray
from shoal.search.blend_model import LEAF, Tree

Numbers = NDArray[np.float64]
LEARNING_RATE = 0.05
"""Share of its Newton step that a tree takes."""
TRUNCATION = 15
"""Ranks below which two candidates may stand in any order: nDCG@10 looks at ten, and a few more may come up."""
ROWS_SHARE = 0.7
"""Share of the candidates that a tree is fitted to, drawn anew for each."""
FEATURES_SHARE = 0.5
"""Share of the features that a decision chooses from, drawn anew for each."""
_LEAST_HESSIAN = 1e-6
"""What a candidate weighs at least."""
_BLOCK = 128
"""Queries whose pairs are looked at together."""


@dataclass(frozen=True, slots=True)
class RankingData:
    """Judged candidates of q queries, in all r rows, those of a query behind each other.

    features: float32 (r, f). grades: float64 (r,), 0 for not relevant. counts: int64 (q,), candidates of each query.
    ideal: float64 (q,), the DCG@10 of the best possible ranking of all judged passages, found or not; above 0.
    """

    features: FloatArray
    grades: Numbers
    counts: NDArray[np.int64]
    ideal: Numbers


def fit_trees(data: RankingData, trees: int, leaves: int, monotone: NDArray[np.int8], seed: int) -> list[Tree]:
    """Fit trees one after the other; the score of a row is the sum of what they give it.

    Args:
        data: Of the queries to learn from.
        trees: How many.
        leaves: Of a tree, at most.
        monotone: int8 (f,): 1 and -1 for features with which scores may only rise and only fall, else 0.
        seed: Of what is drawn.
    """
    from sklearn.tree import DecisionTreeRegressor

    draw = np.random.default_rng(seed)
    scores = np.zeros(len(data.grades))
    fitted: list[Tree] = []
    # Fewer rows than this in a leaf are chance, more leave a small collection without decisions.
    in_leaf = int(np.clip(len(data.counts) // 5, 50, 200))
    for _ in range(trees):
        gradient, hessian = lambdas(scores, data)
        weights = np.maximum(hessian, _LEAST_HESSIAN)
        rows = (draw.random(len(scores)) < ROWS_SHARE) & (hessian > 0)
        if not rows.any():
            rows[:] = True
        regressor = DecisionTreeRegressor(
            max_leaf_nodes=leaves,
            min_samples_leaf=min(in_leaf, int(rows.sum())),
            max_features=FEATURES_SHARE,
            monotonic_cst=monotone,
            random_state=int(draw.integers(2**31)),
        )
        regressor.fit(data.features[rows], (gradient / weights)[rows], sample_weight=weights[rows])
        scores = scores + LEARNING_RATE * regressor.predict(data.features)
        fitted.append(as_tree(regressor, LEARNING_RATE))
    return fitted


def as_tree(regressor: Any, factor: float = 1.0) -> Tree:
    """A fitted `sklearn.tree.DecisionTreeRegressor` as a tree of a blend, whose values are multiplied by a factor."""
    nodes = regressor.tree_
    leaves = nodes.children_left == LEAF
    return Tree(
        feature=np.where(leaves, LEAF, nodes.feature).tolist(),
        threshold=np.where(leaves, 0.0, nodes.threshold).tolist(),
        left=nodes.children_left.tolist(),
        right=nodes.children_right.tolist(),
        value=(factor * nodes.value[:, 0, 0]).tolist(),
    )


def lambdas(scores: Numbers, data: RankingData) -> tuple[Numbers, Numbers]:
    """Return gradient and hessian of the pairs, float64 (r,) each, at scores, float64 (r,): where these should go."""
    gradient, hessian = np.zeros(len(scores)), np.zeros(len(scores))
    ends = np.cumsum(data.counts)
    for start in range(0, len(data.counts), _BLOCK):
        counts = data.counts[start : start + _BLOCK]
        first, last = ends[start] - counts[0], ends[start + len(counts) - 1]
        present = np.arange(counts.max()) < counts[:, None]
        block_scores, block_grades = np.full(present.shape, -np.inf), np.zeros(present.shape)
        block_scores[present], block_grades[present] = scores[first:last], data.grades[first:last]
        pushes, surety = _pair_sums(block_scores, block_grades, present, data.ideal[start : start + _BLOCK])
        gradient[first:last], hessian[first:last] = pushes[present], surety[present]
    return gradient, hessian


def _pair_sums(scores: Numbers, grades: Numbers, present: NDArray[np.bool_], ideal: Numbers) -> tuple[Numbers, Numbers]:
    """What the pairs of each of q queries add up to for its n places, float64 (q, n) each; absent places score -inf."""
    ranks = np.empty(scores.shape, np.int64)
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None].repeat(len(scores), axis=0), axis=1)
    discounts = 1 / np.log2(ranks + 2)
    # [q, i, j]: i is more relevant than j.
    gain = grades[:, :, None] - grades[:, None, :]
    wanted = (gain > 0) & present[:, :, None] & present[:, None, :]
    wanted &= np.minimum(ranks[:, :, None], ranks[:, None, :]) < TRUNCATION
    known = np.where(present, scores, 0.0)
    ahead = known[:, :, None] - known[:, None, :]
    wrong = 1 / (1 + np.exp(np.clip(ahead, -50, 50)))
    change = np.where(wanted, gain * np.abs(discounts[:, :, None] - discounts[:, None, :]), 0.0) / ideal[:, None, None]
    push = change * wrong
    surety = push * (1 - wrong)
    return push.sum(axis=2) - push.sum(axis=1), surety.sum(axis=2) + surety.sum(axis=1)


def monotone_constraints(features: tuple[str, ...], signs: Mapping[str, int]) -> NDArray[np.int8]:
    """The constraints of features in their order, int8 (f,), from the signs of some of them."""
    return np.array([signs.get(name, 0) for name in features], np.int8)
