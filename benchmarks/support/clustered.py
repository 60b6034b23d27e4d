"""Clustered vectors with queries near them, and how good and fast a search among them is."""

import time
from collections.abc import Callable

import numpy as np

from shoal.capacity.synthetic import CLUSTERS, Centres
from shoal.records import FloatArray, RowArray

TOP_K = 10
BLOCK = 4096
Found = tuple[FloatArray, RowArray]


def clustered(count: int, queries: int) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Return unit vectors (count, dim), queries (queries, dim) around the same centres, and the vectors' topics.

    A topic is a number from 0 to 1, the same for all vectors of a cluster.
    """
    chance = np.random.default_rng(1)
    centres = Centres(chance)
    clusters = chance.integers(CLUSTERS, size=count)
    vectors = centres.around(clusters, chance)
    return vectors, centres.around(chance.integers(CLUSTERS, size=queries), chance), clusters / CLUSTERS


def recall(found: list[Found], scores: FloatArray) -> float:
    """Share of the exact nearest rows that were found; `scores` is -inf where a row is not selected."""
    hits = total = 0
    for (_, rows), exact in zip(found, scores, strict=True):
        best = np.argpartition(-exact, TOP_K)[:TOP_K]
        best = best[np.isfinite(exact[best])]
        hits += len(set(best.tolist()) & set(rows[0].tolist()))
        total += len(best)
    return hits / total


def one_by_one(queries: FloatArray, ask: Callable[[FloatArray], object]) -> float:
    """Median milliseconds of one query."""
    return median_ms(lambda number: ask(queries[number : number + 1]), len(queries))


def median_ms(work: Callable[[int], object], times: int) -> float:
    work(0)
    seconds = []
    for number in range(times):
        began = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))
