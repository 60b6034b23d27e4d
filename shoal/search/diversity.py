"""Answers whose passages differ: maximal marginal relevance (Carbonell & Goldstein 1998, "The Use of MMR").

    next = the passage with the highest (1 - d) * relevance - d * greatest cosine with those that are chosen already

Relevance is the score, scaled to 0..1 by the least and the greatest of the candidates.
"""

import numpy as np

from shoal.records import FloatArray
from shoal.search.fusion import scaled


def most_different(scores: FloatArray, vectors: FloatArray, count: int, diversity: float) -> list[int]:
    """Choose passages that are relevant and differ from each other.

    Args:
        scores: float32 (n,), descending.
        vectors: float32 (n, dim), L2-normalised; zeros for one that is not known, which then resembles no other.
        count: How many are chosen at most.
        diversity: From 0, where scores alone count, to 1, where only the first one is chosen by its score.

    Returns:
        Positions of the chosen ones in the order of their choice; of equal ones the first.
    """
    relevance = (1 - diversity) * scaled(scores.astype(np.float64))
    alike = np.full(len(scores), -np.inf)
    left = np.ones(len(scores), np.bool_)
    chosen: list[int] = []
    for _ in range(min(count, len(scores))):
        gain = relevance - diversity * alike if chosen else relevance
        position = int(np.argmax(np.where(left, gain, -np.inf))) if chosen else 0
        chosen.append(position)
        left[position] = False
        alike = np.maximum(alike, vectors @ vectors[position])
    return chosen
