"""Fitting a learned blend to judgements: `jobs.train_blend`.

How many trees, and how much they weigh, is chosen by cross-validation (Stone 1974): each part of the queries is ranked
by trees that were fitted to the others. What is told as the gain is chosen in the same way, a part by the choice that
is best on the others, so that the choice itself is not judged by what it was made with.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Dataset
from shoal.evaluation.measures import main_by_query, paired_p_value
from shoal.records import FloatArray
from shoal.search.blend_features import FEATURES, MONOTONE
from shoal.search.blend_model import Forest, Tree
from shoal.search.learned_blend import add_trees
from shoal.training.lambdamart import Numbers, RankingData, fit_trees, monotone_constraints

TREES = (15, 30, 60, 120)
"""Numbers of trees that are tried."""
WEIGHTS = (0.25, 0.5, 1.0, 2.0)
"""Weights that are tried, in standard deviations of the score without a blend."""
FOLDS = 5
"""Parts of the queries in cross-validation."""
LEAST_QUERIES = 50
"""Judged queries with a relevant passage among their candidates that training takes at least."""
_TOP = 10
"""Ranks that nDCG@10 looks at."""


@dataclass(frozen=True, slots=True)
class JudgedCandidates:
    """The candidates of one judged query, in stage-one order.

    ids: N. features: float32 (n, f). blended: float32 (n,), what orders them without a learned blend.
    grades: float64 (n,), 0 for not relevant or not judged. ideal: DCG@10 of the best ranking of all judged passages.
    """

    query: str
    ids: list[str]
    features: FloatArray
    blended: FloatArray
    grades: Numbers
    ideal: float


@dataclass(frozen=True, slots=True)
class FittedBlend:
    """Trees that were fitted to judgements.

    trees, weight: what `shoal.search.blend_model.BlendModel` holds.
    queries: how many were learned from. before: their nDCG@10 without a blend.
    gain, p_value: what blends fitted to other queries add to it, and whether that may be chance.
    """

    trees: list[Tree]
    weight: float
    queries: int
    before: float
    gain: float
    p_value: float


def ideal_dcg(grades: Iterable[int]) -> float:
    """The DCG@10 of the best ranking of passages with these grades, those below 0 counted as 0."""
    best = np.array(sorted((max(0, grade) for grade in grades), reverse=True)[:_TOP], np.float64)
    return float((best / np.log2(np.arange(2, len(best) + 2))).sum())


def fit_blend(
    judged: Sequence[JudgedCandidates],
    dataset: Dataset,
    leaves: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda parts: parts,
) -> FittedBlend | None:
    """Fit a blend to judged candidates; None if none ranks better than what orders them without one.

    Args:
        judged: Of the queries of the dataset.
        dataset: With the judgements.
        leaves: Of a tree, at most.
        seed: Of the parts of the queries, and of what trees draw.
        progress: Shows how far it is: hands the parts of the queries through.

    Raises:
        InvalidArgument: There are too few judged queries.
    """
    usable = [each for each in judged if each.grades.any()]
    if len(usable) < LEAST_QUERIES:
        raise InvalidArgument(
            f"a blend is fitted to {LEAST_QUERIES} judged queries at least whose candidates hold a relevant passage, "
            f"and there are {len(usable)} of {len(judged)}; judge more, or raise top_k",
            param="dataset",
        )
    table = _Table(judged, dataset)
    parts = np.random.default_rng(seed).permutation(len(judged)) % FOLDS
    sums = [np.zeros((len(TREES), len(each.ids))) for each in judged]
    for part in progress(range(FOLDS)):
        learned = [judged[place] for place in np.flatnonzero(parts != part).tolist()]
        forest = Forest(_fit(learned, max(TREES), leaves, seed), FEATURES)
        for place in np.flatnonzero(parts == part).tolist():
            sums[place] = forest.values(judged[place].features).cumsum(axis=0)[np.array(TREES) - 1]
    choices = list(product(TREES, WEIGHTS))
    before = table.measure([each.blended for each in judged])
    values = np.stack(
        [
            table.measure([_ordered(each, own[row], weight) for each, own in zip(judged, sums, strict=True)])
            for row, weight in product(range(len(TREES)), WEIGHTS)
        ]
    )
    best = int(values.mean(axis=1).argmax())
    if values[best].mean() <= before.mean():
        return None
    held_out = np.empty(len(judged))
    for part in range(FOLDS):
        held_out[parts == part] = values[values[:, parts != part].mean(axis=1).argmax(), parts == part]
    count, weight = choices[best]
    return FittedBlend(
        trees=_fit(judged, count, leaves, seed),
        weight=weight,
        queries=len(judged),
        before=float(before.mean()),
        gain=float((held_out - before).mean()),
        p_value=paired_p_value(table.by_query(held_out), table.by_query(before)),
    )


class _Table:
    """Measures rankings of judged candidates: nDCG@10 by ir-measures, float64 (q,) in the order of the queries."""

    def __init__(self, judged: Sequence[JudgedCandidates], dataset: Dataset) -> None:
        self._judged = judged
        self._judgements = {each.query: dataset.judgements[each.query] for each in judged}

    def measure(self, scores: Sequence[FloatArray]) -> Numbers:
        rankings = {
            each.query: [each.ids[place] for place in np.argsort(-own, kind="stable")[:_TOP]]
            for each, own in zip(self._judged, scores, strict=True)
        }
        values = main_by_query(rankings, self._judgements)
        return np.array([values[each.query] for each in self._judged])

    def by_query(self, values: Numbers) -> dict[str, float]:
        return {each.query: float(value) for each, value in zip(self._judged, values, strict=True)}


def _ordered(judged: JudgedCandidates, trees: Numbers, weight: float) -> FloatArray:
    return add_trees(judged.blended.astype(np.float64), trees, weight)


def _fit(judged: Sequence[JudgedCandidates], trees: int, leaves: int, seed: int) -> list[Tree]:
    found = [each for each in judged if each.grades.any()]
    data = RankingData(
        features=np.concatenate([each.features for each in found]),
        grades=np.concatenate([each.grades for each in found]),
        counts=np.array([len(each.ids) for each in found], np.int64),
        ideal=np.array([each.ideal for each in found]),
    )
    return fit_trees(data, trees, leaves, monotone_constraints(FEATURES, MONOTONE), seed)
